%% Promise: a zone makes the same log reports as an OTP supervisor with the same children, at the
%% same time and in the same shape. All other reports name the zone and the child. No crash report
%% of a failed start is lost.
-module(reports_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(messages, [await/1, await/2, taken/1]).
-import(tracked_child, [loose/1]).
-import(scripted_child, [run/0, script/1]).
-import(timed_call, [calling/1, answer/2, ended/2]).
-import(kept_log, [labelled/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill, log]}]}].

all() ->
    [
        a_start_makes_a_progress_report,
        a_failed_start_is_reported_as_by_a_supervisor,
        the_death_of_a_permanent_child_is_reported,
        the_death_of_a_transient_child_is_reported,
        the_death_of_a_temporary_child_is_reported,
        a_failed_restart_is_reported,
        a_child_that_is_killed_when_it_is_terminated_is_reported,
        a_child_that_exits_with_another_reason_when_it_is_terminated_is_reported,
        children_that_ignore_shutdown_when_the_zone_stops_are_reported,
        the_death_of_a_child_that_was_added_is_reported,
        the_death_of_a_child_whose_keeper_was_killed_is_reported,
        a_report_can_be_printed,
        a_zone_without_reports_makes_none,
        reports_are_the_default,
        a_wrong_option_is_badarg,
        all_crash_reports_of_failed_starts_are_written,
        all_crash_reports_of_starts_that_fail_at_the_same_time_are_written,
        the_crash_report_of_a_failed_restart_is_written,
        a_crash_of_a_start_function_is_reported_with_its_stack_trace,
        a_wrong_return_value_of_a_start_function_is_reported,
        a_child_that_is_given_up_is_reported,
        a_crash_of_after_terminate_is_reported,
        an_after_terminate_that_was_killed_is_reported,
        unknown_calls_casts_and_messages_are_reported
    ].

end_per_testcase(_Case, _Config) ->
    ok = kept_log:forget(),
    case whereis(beside_the_zone) of
        undefined -> ok;
        Supervisor -> tracked_child:kill(Supervisor)
    end,
    zones:clean_up().

%% Comparison with a supervisor

%% Does the same to a child of an OTP supervisor and to a child of a zone. Both must make the same
%% reports, with these labels.
same(Zone, Labels, Spec, Do) ->
    {ok, Supervisor} = supervisor:start_link({local, beside_the_zone}, ?MODULE, []),
    {ok, _} = gen_tracker:start_link(Zone),
    Do(beside_the_zone, Spec()),
    _ = sys:get_state(Supervisor),
    Theirs = kept_log:taken(fun kept_log:supervisor/1),
    ?assertEqual(Labels, [Label || #{msg := {report, #{label := {_, Label}}}} <- Theirs]),
    _ = taken(started),
    Do(Zone, Spec()),
    Ours = kept_log:await(length(Theirs), fun kept_log:supervisor/1),
    [
        ?assertEqual(said(beside_the_zone, One), said(Zone, Other))
     || {One, Other} <- lists:zip(Theirs, Ours)
    ],
    zones:stop(Zone, ?LIMIT),
    ?assertEqual([], kept_log:taken(fun kept_log:supervisor/1)),
    _ = tracked_child:kill(Supervisor),
    ok.

init([]) ->
    {ok, {#{intensity => 1000, period => 1}, []}};
init({fail, stop}) ->
    {stop, refused};
init({fail, raise}) ->
    error(refused);
init({fail, exit}) ->
    exit(refused);
init({fail, throw}) ->
    throw({stop, refused}).

%% Returns the parts of a report that must be equal. Pids, the name of the supervisor and the stack
%% trace of a start may differ. The level of a progress report is `debug` for a child that is
%% started later than its supervisor since OTP 27, and always `info` for a zone.
said(Name, #{level := Level, msg := {report, Report}, meta := Meta}) ->
    #{label := Label, report := [{supervisor, {local, Name}} | Said]} = Report,
    #{
        label => Label,
        keys => lists:sort(maps:keys(Report)),
        level => level(Label, Level),
        meta => maps:with([domain, report_cb, logger_formatter, error_logger], Meta),
        said => [{Key, plain(Value)} || {Key, Value} <- Said]
    }.

level({supervisor, progress}, debug) -> info;
level(_, Level) -> Level.

plain(Pid) when is_pid(Pid) -> pid;
plain(Fun) when is_function(Fun) -> function;
plain({restarting, _}) -> restarting;
plain({'EXIT', {Reason, [_ | _]}}) -> plain(Reason);
plain(List) when is_list(List) -> [plain(Element) || Element <- List];
plain(Tuple) when is_tuple(Tuple) -> list_to_tuple(plain(tuple_to_list(Tuple)));
plain(Term) -> Term.

%% Starts a child of a supervisor or a zone.
started(Server, Spec) ->
    {ok, Child} = supervisor:start_child(Server, Spec),
    {started, Child} = await(started, Child),
    Child.

restarted(Server, Spec, Reason) ->
    Child = started(Server, Spec),
    exit(Child, Reason),
    {started, _} = await(started).

spec(Restart) ->
    spec(Restart, {tracked_child, start_link, [self()]}).

spec(Restart, MFA) ->
    fun() -> {{child, 1}, MFA, Restart, 300, worker, [?MODULE]} end.

a_start_makes_a_progress_report(_) ->
    [
        same(?FUNCTION_NAME, [progress], spec(Restart), fun started/2)
     || Restart <- [permanent, transient, temporary]
    ],
    Map = fun() -> #{id => <<"child">>, start => {tracked_child, start_link, [self()]}} end,
    same(?FUNCTION_NAME, [progress], Map, fun started/2),
    %% `find_or_open/2` makes the same report.
    {ok, _} = gen_tracker:start_link(?FUNCTION_NAME),
    {ok, Child} = gen_tracker:find_or_open(?FUNCTION_NAME, (spec(permanent))()),
    [Event] = kept_log:await(1, fun kept_log:supervisor/1),
    #{msg := {report, #{report := Report}}, level := info} = Event,
    ?assertMatch([{supervisor, {local, ?FUNCTION_NAME}}, {started, [{pid, Child} | _]}], Report).

%% A supervisor makes no report: the caller gets the error.
a_failed_start_is_reported_as_by_a_supervisor(_) ->
    [
        begin
            Start = {tracked_child, start_with, [self(), Fail]},
            same(?FUNCTION_NAME, [], spec(permanent, Start), fun(Server, Spec) ->
                {error, _} = supervisor:start_child(Server, Spec)
            end)
        end
     || Fail <- [
            fun() -> {error, refused} end,
            fun() -> banana end,
            fun() -> error(crash) end,
            fun() -> throw(thrown) end
        ]
    ].

the_death_of_a_permanent_child_is_reported(_) ->
    [
        same(
            ?FUNCTION_NAME,
            [progress, child_terminated, progress],
            spec(permanent, {tracked_child, start_link, [self(), [trap_exit]]}),
            fun(Server, Spec) -> restarted(Server, Spec, Reason) end
        )
     || Reason <- [kill, normal, shutdown, {shutdown, moved}, {crash, [1]}]
    ].

the_death_of_a_transient_child_is_reported(_) ->
    [
        same(
            ?FUNCTION_NAME,
            [progress, child_terminated, progress],
            spec(transient, {tracked_child, start_link, [self(), [trap_exit]]}),
            fun(Server, Spec) -> restarted(Server, Spec, Reason) end
        )
     || Reason <- [kill, {crash, [1]}]
    ],
    not_restarted_after(?FUNCTION_NAME, transient, [], [normal, shutdown, {shutdown, moved}]).

the_death_of_a_temporary_child_is_reported(_) ->
    not_restarted_after(?FUNCTION_NAME, temporary, [], [normal, shutdown, {shutdown, moved}]),
    not_restarted_after(?FUNCTION_NAME, temporary, [child_terminated], [kill, crash]).

not_restarted_after(Zone, Restart, Reported, Reasons) ->
    Spec = spec(Restart, {tracked_child, start_link, [self(), [trap_exit]]}),
    [
        same(Zone, [progress | Reported], Spec, fun(Server, Each) ->
            Child = started(Server, Each),
            end_child(Child, Reason),
            _ = ended(Child, ?LIMIT)
        end)
     || Reason <- Reasons
    ].

end_child(Child, kill) -> exit(Child, kill);
end_child(Child, Reason) -> Child ! {stop, Reason}.

%% The restart is repeated.
a_failed_restart_is_reported(_) ->
    [
        begin
            Script = [run(), Fail, run()],
            Spec = fun() ->
                Args = [self(), script(Script)],
                {child, {tracked_child, start_with, Args}, permanent, 300, worker, []}
            end,
            Labels = [progress, child_terminated, start_error, progress],
            same(?FUNCTION_NAME, Labels, Spec, fun(Server, Each) ->
                {ok, Child} = supervisor:start_child(Server, Each),
                [{started, _}, {started, Child}] = [await(started), await(started)],
                exit(Child, kill),
                [{started, _}, {started, _}, {started, _}] = [await(started) || _ <- [1, 2, 3]]
            end)
        end
     || Fail <- [fun() -> {error, refused} end, fun() -> error(crash) end]
    ].

a_child_that_is_killed_when_it_is_terminated_is_reported(_) ->
    [
        same(
            ?FUNCTION_NAME,
            [progress, shutdown_error],
            spec(Restart, {tracked_child, start_stubborn, [self()]}),
            fun terminated/2
        )
     || Restart <- [permanent, transient, temporary]
    ],
    %% A kill that the spec asks for is no error.
    Brutal = fun() ->
        {child, {tracked_child, start_stubborn, [self()]}, permanent, brutal_kill, worker, []}
    end,
    same(?FUNCTION_NAME, [progress], Brutal, fun terminated/2).

terminated(Server, Spec) ->
    _ = started(Server, Spec),
    Name =
        case Spec of
            #{id := Id} -> Id;
            _ -> element(1, Spec)
        end,
    ok = supervisor:terminate_child(Server, Name).

%% The child exits with this reason when it receives `shutdown`.
a_child_that_exits_with_another_reason_when_it_is_terminated_is_reported(_) ->
    [
        same(
            ?FUNCTION_NAME,
            [progress | Reported],
            spec(Restart, {?MODULE, start_ending, [self(), Reason]}),
            fun terminated/2
        )
     || {Restart, Reason, Reported} <- [
            {permanent, shutdown, []},
            {permanent, normal, [shutdown_error]},
            {permanent, crash, [shutdown_error]},
            {temporary, normal, []},
            {transient, normal, []},
            {temporary, crash, [shutdown_error]},
            {transient, {shutdown, moved}, []},
            {permanent, {shutdown, moved}, [shutdown_error]}
        ]
    ].

start_ending(Test, Reason) ->
    {ok, spawn_link(fun() ->
        process_flag(trap_exit, true),
        Test ! {started, self()},
        receive
            {'EXIT', _, shutdown} -> exit(Reason)
        end
    end)}.

%% A supervisor that stops makes the reports of its children last.
children_that_ignore_shutdown_when_the_zone_stops_are_reported(_) ->
    Zone = ?FUNCTION_NAME,
    Specs = [
        {stubborn, {tracked_child, start_stubborn, [self()]}, permanent, 100, worker, []},
        {obedient, {tracked_child, start_link, [self()]}, permanent, 1000, worker, []},
        {crashing, {?MODULE, start_ending, [self(), crash]}, permanent, 1000, worker, []}
    ],
    {ok, _} = gen_tracker:start_link(Zone),
    {ok, Supervisor} = supervisor:start_link({local, beside_the_zone}, ?MODULE, []),
    [started(Server, Spec) || Server <- [beside_the_zone, Zone], Spec <- Specs],
    _ = kept_log:await(6, fun kept_log:supervisor/1),
    ok = gen_server:stop(Supervisor, shutdown, infinity),
    Theirs = [said(beside_the_zone, Event) || Event <- kept_log:taken(fun kept_log:supervisor/1)],
    zones:stop(Zone, ?LIMIT),
    Ours = [said(Zone, Event) || Event <- kept_log:taken(fun kept_log:supervisor/1)],
    ?assertMatch([#{label := {supervisor, shutdown_error}}, _], Theirs),
    ?assertEqual(lists:sort(Theirs), lists:sort(Ours)).

%% Reports of the same shape on children that a supervisor cannot have

the_death_of_a_child_that_was_added_is_reported(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    Child = loose(start_link),
    Spec = {child, {tracked_child, start_link, [self()]}, permanent, 300, worker, []},
    {ok, Child} = gen_tracker:add_existing_child(Zone, {Child, Spec}),
    _ = kept_log:taken(fun kept_log:supervisor/1),
    exit(Child, kill),
    {started, Next} = await(started),
    death_and_next_start(Zone, child, Child, Next).

the_death_of_a_child_whose_keeper_was_killed_is_reported(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    Spec = {child, {tracked_child, start_link, [self(), [trap_exit]]}, permanent, 300, worker, []},
    Child = loose(start_link),
    {ok, Child} = gen_tracker:add_existing_child(Zone, {Child, Spec}),
    _ = tracked_child:kill(zones:keeper(Zone, child)),
    ok = gen_tracker:wait(Zone),
    _ = kept_log:taken(fun kept_log:supervisor/1),
    exit(Child, kill),
    {started, Next} = await(started),
    death_and_next_start(Zone, child, Child, Next).

death_and_next_start(Zone, Name, Child, Next) ->
    Events = kept_log:await(2, fun kept_log:supervisor/1),
    [Death, Start] = [Report || #{msg := {report, Report}} <- Events],
    #{label := {supervisor, child_terminated}, report := Terminated} = Death,
    ?assertEqual({local, Zone}, proplists:get_value(supervisor, Terminated)),
    ?assertEqual(child_terminated, proplists:get_value(errorContext, Terminated)),
    ?assertEqual(killed, proplists:get_value(reason, Terminated)),
    Offender = proplists:get_value(offender, Terminated),
    ?assertEqual([Child, Name], [proplists:get_value(Key, Offender) || Key <- [pid, id]]),
    #{label := {supervisor, progress}, report := [_, {started, Started}]} = Start,
    ?assertEqual([Next, Name], [proplists:get_value(Key, Started) || Key <- [pid, id]]).

a_report_can_be_printed(_) ->
    Zone = ?FUNCTION_NAME,
    Name = {a_name, <<"tv1">>},
    {ok, _} = gen_tracker:start_link(Zone),
    Stubborn = {Name, {tracked_child, start_stubborn, [self()]}, permanent, 100, worker, []},
    {ok, Child} = gen_tracker:find_or_open(Zone, Stubborn),
    {started, Child} = await(started),
    exit(Child, kill),
    {started, _} = await(started),
    wait:until(fun() -> gen_tracker:find(Zone, Name) =/= undefined end),
    ok = supervisor:terminate_child(Zone, Name),
    Events = kept_log:await(4, fun kept_log:supervisor/1),
    [
        begin
            Text = unicode:characters_to_list(logger_formatter:format(Event, Config)),
            ?assertNotEqual({nomatch, Text}, {string:find(Text, "a_name"), Text}),
            ?assertNotEqual({nomatch, Text}, {string:find(Text, atom_to_list(Zone)), Text})
        end
     || Event <- Events, Config <- [#{}, #{single_line => true}, #{depth => 20}]
    ],
    %% Handlers from before OTP 21 call a report callback with one argument.
    [
        {Format, Arguments} = (maps:get(report_cb, maps:get(error_logger, Meta)))(Report)
     || #{msg := {report, Report}, meta := Meta} <- Events,
        {Format, Arguments} <- [supervisor:format_log(Report)]
    ].

%% The option

a_zone_without_reports_makes_none(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone, #{reports => false}),
    Spec = {child, {tracked_child, start_stubborn, [self()]}, permanent, 50, worker, []},
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started),
    exit(Child, kill),
    {started, Next} = await(started),
    zones:until_found(Zone, child, Next),
    {ok, _} = gen_tracker:find_or_open(Zone, setelement(1, Spec, another)),
    ok = supervisor:terminate_child(Zone, child),
    zones:stop(Zone, ?LIMIT),
    ?assertEqual([], kept_log:taken(fun kept_log:supervisor/1)).

reports_are_the_default(_) ->
    Zone = ?FUNCTION_NAME,
    [
        begin
            {ok, _} = gen_tracker:start_link(Zone, Options),
            {ok, _} = gen_tracker:find_or_open(Zone, (spec(temporary))()),
            [_] = kept_log:await(1, fun kept_log:supervisor/1),
            zones:stop(Zone, ?LIMIT)
        end
     || Options <- [#{}, #{reports => true}, #{reports => true, restart => false}]
    ].

a_wrong_option_is_badarg(_) ->
    [
        ?assertError(badarg, gen_tracker:start_link(?FUNCTION_NAME, #{reports => Wrong}))
     || Wrong <- [no, 0, [], undefined]
    ],
    undefined = whereis(?FUNCTION_NAME).

%% Crash reports of children. They must be written before the library ends the processes of a
%% failed start.

%% A start function that fails.
start_failing(Fail) ->
    gen_statem:start_link(?MODULE, {fail, Fail}, []).

callback_mode() ->
    handle_event_function.

failures() ->
    [stop, raise, exit, throw].

failing(Number, Fail) ->
    {{Number, Fail}, {?MODULE, start_failing, [Fail]}, permanent, 300, worker, []}.

%% Returns the pid of a crashed server of this suite.
crashed(Event) ->
    case kept_log:crash(Event) of
        false ->
            false;
        Info ->
            proplists:get_value(initial_call, Info) =:= {?MODULE, init, ['Argument__1']} andalso
                proplists:get_value(pid, Info)
    end.

all_crash_reports_of_failed_starts_are_written(_) ->
    {ok, _} = supervisor:start_link({local, beside_the_zone}, ?MODULE, []),
    {ok, _} = gen_tracker:start_link(?FUNCTION_NAME),
    Specs = [failing(Number, Fail) || Number <- lists:seq(1, 50), Fail <- failures()],
    [{error, _} = supervisor:start_child(beside_the_zone, Spec) || Spec <- Specs],
    Theirs = kept_log:await(length(Specs), fun crashed/1),
    [{error, _} = gen_tracker:find_or_open(?FUNCTION_NAME, Spec) || Spec <- Specs],
    Ours = kept_log:await(length(Specs), fun crashed/1),
    ?assertEqual(length(Theirs), length(lists:usort(Ours))),
    zones:stop(?FUNCTION_NAME, ?LIMIT),
    [] = kept_log:taken(fun crashed/1).

all_crash_reports_of_starts_that_fail_at_the_same_time_are_written(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    Specs = [failing(Number, Fail) || Number <- lists:seq(1, 50), Fail <- failures()],
    Start = fun(Spec) -> fun() -> supervisor:start_child(Zone, Spec) end end,
    [{error, _} = Answer || Answer <- callers:together([Start(Spec) || Spec <- Specs])],
    Crashed = kept_log:await(length(Specs), fun crashed/1),
    ?assertEqual(length(Specs), length(lists:usort(Crashed))).

the_crash_report_of_a_failed_restart_is_written(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    Fails = [fun() -> start_failing(Fail) end || Fail <- failures()],
    Script = script([run() | Fails] ++ [run()]),
    Child = scripted_child:open(Zone, child, permanent, Script),
    exit(Child, kill),
    Crashed = kept_log:await(length(Fails), fun crashed/1),
    ?assertEqual(length(Fails), length(lists:usort(Crashed))),
    %% The report is written before the start has ended, whose error the next call would get.
    wait:until(fun() -> element(1, proctab_nif:child(Zone, child)) =/= restarting end, 10),
    {ok, _} = gen_tracker:find_or_open(Zone, scripted_child:spec(child, permanent, Script)),
    _ = taken(started),
    %% A transient child that is given up.
    Last = [fun() -> start_failing(raise) end],
    Other = scripted_child:open(
        Zone, other, transient, script([run() | Last])
    ),
    exit(Other, kill),
    [_] = kept_log:await(1, fun crashed/1).

%% All other reports

%% Waits for a report with this label, which must name the zone and the child.
named(Zone, Name, What) ->
    [Report] = kept_log:await(1, fun(Event) -> labelled(What, Event) end),
    ?assertMatch(#{zone := Zone, name := Name}, Report),
    Report.

a_crash_of_a_start_function_is_reported_with_its_stack_trace(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    [
        begin
            Spec = {{child, Class}, {?MODULE, start_raising, [Class]}, temporary},
            {error, _} = gen_tracker:find_or_open(Zone, Spec),
            Report = named(Zone, {child, Class}, start_error),
            #{class := Class, reason := raised, stacktrace := Stack} = Report,
            ?assertMatch([_ | _], [Call || {?MODULE, deep_in_the_start, _, _} = Call <- Stack])
        end
     || Class <- [error, exit, throw]
    ].

start_raising(Class) ->
    {ok, deep_in_the_start(Class)}.

deep_in_the_start(Class) ->
    erlang:Class(raised).

a_wrong_return_value_of_a_start_function_is_reported(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    [
        begin
            Start = {tracked_child, start_with, [self(), fun() -> Returned end]},
            _ = gen_tracker:find_or_open(Zone, {Name, Start, temporary}),
            Report = named(Zone, Name, any),
            ?assert(lists:member(Returned, maps:values(Report)), Report)
        end
     || {Name, Returned} <- [{a, banana}, {b, {error, 404, <<"no">>}}, {c, {ok, make_ref()}}]
    ],
    %% A proper error is returned to the caller, and not logged.
    Proper = {tracked_child, start_with, [self(), fun() -> {error, refused} end]},
    {error, refused} = gen_tracker:find_or_open(Zone, {d, Proper, temporary}),
    zones:stop(Zone, ?LIMIT),
    [] = kept_log:taken(fun(Event) -> labelled(any, Event) end).

%% A transient child is given up when its restart fails, a permanent one when its start function
%% returns `ignore` or no valid value.
a_child_that_is_given_up_is_reported(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    [
        begin
            Script = script([run(), Fail]),
            Child = scripted_child:open(Zone, Name, Restart, Script),
            exit(Child, kill),
            _ = named(Zone, Name, not_restarted),
            _ = taken(started),
            wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end)
        end
     || {Name, Restart, Fail} <- [
            {a, transient, fun() -> {error, refused} end},
            {b, transient, fun() -> ignore end},
            {c, permanent, fun() -> ignore end},
            {d, permanent, fun() -> banana end},
            {e, permanent, fun() -> {ok, make_ref()} end}
        ]
    ].

a_crash_of_after_terminate_is_reported(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    [
        begin
            Last = fun(_, _, _) -> erlang:Class(raised) end,
            Child = tracked_child_reason:open(Zone, {child, Class}, temporary, Last),
            exit(Child, kill),
            Report = named(Zone, {child, Class}, after_terminate_error),
            ?assertMatch(#{class := Class, reason := raised, stacktrace := [_ | _]}, Report)
        end
     || Class <- [error, exit, throw]
    ].

an_after_terminate_that_was_killed_is_reported(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    Last = fun(_, _, _) ->
        receive
            never -> ok
        end
    end,
    _ = tracked_child_reason:open(Zone, child, temporary, Last),
    Ending = calling(fun() -> supervisor:terminate_child(Zone, child) end),
    {answer, ok} = answer(Ending, ?LIMIT),
    _ = named(Zone, child, any).

unknown_calls_casts_and_messages_are_reported(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone),
    _ = gen_server:call(Zone, {strange, call}),
    gen_server:cast(Zone, {strange, cast}),
    Zone ! {strange, message},
    [
        begin
            [Report] = kept_log:await(1, fun(Event) -> labelled(What, Event) end),
            ?assertMatch(#{zone := Zone}, Report)
        end
     || What <- [unknown_call, unknown_cast, unknown_message]
    ].
