%% Promise: a zone is a supervisor. The functions of `supervisor` work on it; it may be a child of
%% other supervisors and the top of an application; sys, release_handler and observer treat it as a
%% supervisor; unknown requests do it no harm.
-module(supervisor_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [spec/2, spec/4, gated/2, terminating/2, down/1, full/1]).
-import(callers, [ask/1, answer/1, waiting/0]).
-import(messages, [await/1, taken/1]).
-import(log_text, [logged/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        which_children_returns_the_same_as_gen_tracker_which_children,
        count_children_counts_specs_and_running_children,
        get_childspec_returns_the_spec_as_a_map,
        start_child_returns_the_same_as_in_otp,
        start_child_of_a_malformed_spec_returns_the_same_as_in_otp,
        restart_child_leaves_a_running_child_alone,
        terminate_child_stops_and_removes_the_child,
        delete_child_stops_and_removes_the_child,
        stopping_a_name_without_a_child_returns_no_child,
        stopping_a_terminating_child_waits_until_it_is_removed,
        the_call_shutdown_stops_all_children_then_the_tracker_with_shutdown,
        the_call_stop_stops_the_tracker_with_normal,
        an_unknown_call_is_answered_and_logged,
        an_unknown_cast_is_logged_and_ignored,
        an_unknown_message_is_logged_and_ignored,
        an_exit_signal_of_an_unrelated_process_is_ignored,
        wrong_arguments_do_not_stop_the_tracker,
        get_status_returns_the_state_of_a_supervisor,
        the_callback_module_of_a_zone_is_gen_tracker,
        release_handler_finds_all_children_through_zones,
        release_handler_accepts_a_zone_as_the_top_supervisor_of_an_application,
        release_handler_suspends_and_upgrades_a_zone,
        observer_shows_the_children_of_a_zone,
        observer_shows_what_each_process_of_a_zone_is,
        a_zone_is_a_child_of_an_ordinary_supervisor,
        child_spec_starts_zones_with_and_without_options,
        an_ordinary_supervisor_restarts_a_killed_zone
    ].

end_per_testcase(Case, _Config) ->
    _ = logger:remove_handler(log_text),
    _ = application:stop(Case),
    _ = application:unload(Case),
    zones:stop_zone(Case).

%% Callbacks of a supervisor, and of an application whose top process is started by its argument

init(Specs) ->
    {ok, {#{intensity => 5, period => 10}, Specs}}.

start(_Type, Start) ->
    Start().

stop(_State) ->
    ok.

%% Returns the child spec that the documentation shows.
zone_spec(Zone) ->
    {Zone, {gen_tracker, start_link, [Zone]}, permanent, infinity, supervisor, []}.

open(Zone, Spec) ->
    {ok, Pid} = gen_tracker:find_or_open(Zone, Spec),
    Pid.

%% The functions of supervisor

which_children_returns_the_same_as_gen_tracker_which_children(_) ->
    Zone = zone(?FUNCTION_NAME),
    ?assertEqual([], supervisor:which_children(Zone)),
    Running = open(Zone, full(a)),
    Inner = open(
        Zone, #{id => d, start => {supervisor, start_link, [?MODULE, []]}, type => supervisor}
    ),
    {Opening, Starter} = gated(Zone, b),
    {_, Cleaner} = terminating(Zone, c),
    Children = lists:sort(supervisor:which_children(Zone)),
    ?assertEqual(
        [
            {a, Running, worker, [tracked_child]},
            {b, launching, worker, [tracked_child]},
            {c, terminating, worker, []},
            {d, Inner, supervisor, [supervisor]}
        ],
        Children
    ),
    ?assertEqual(Children, lists:sort(gen_tracker:which_children(Zone))),
    [Process ! Message || {Process, Message} <- [{Starter, go}, {Cleaner, done}]],
    {answer, {ok, _}} = answer(Opening).

count_children_counts_specs_and_running_children(_) ->
    Zone = zone(?FUNCTION_NAME),
    Counts = fun(Specs, Active, Supervisors, Workers) ->
        [{specs, Specs}, {active, Active}, {supervisors, Supervisors}, {workers, Workers}]
    end,
    ?assertEqual(Counts(0, 0, 0, 0), supervisor:count_children(Zone)),
    [open(Zone, full(Name)) || Name <- [1, 1.0]],
    _ = open(
        Zone, #{id => inner, start => {supervisor, start_link, [?MODULE, []]}, type => supervisor}
    ),
    ?assertEqual(Counts(3, 3, 1, 2), supervisor:count_children(Zone)),
    {Opening, Starter} = gated(Zone, starting),
    ?assertEqual(Counts(4, 3, 1, 3), supervisor:count_children(Zone)),
    Starter ! go,
    {answer, {ok, _}} = answer(Opening),
    ok = supervisor:terminate_child(Zone, 1.0),
    ?assertEqual(Counts(3, 3, 1, 2), supervisor:count_children(Zone)).

get_childspec_returns_the_spec_as_a_map(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = #{id => 1, start => {tracked_child, start_link, [self()]}, restart => transient},
    Full = Spec#{shutdown => 700, type => worker, modules => dynamic},
    Pid = open(Zone, Full),
    {ok, Given} = supervisor:get_childspec(Zone, 1),
    ?assertEqual(Full, maps:with(maps:keys(Full), Given)),
    ?assertEqual(ok, supervisor:check_childspecs([Given])),
    ?assertMatch({error, _}, supervisor:get_childspec(Zone, 1.0)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, 1)).

start_child_returns_the_same_as_in_otp(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Does = fun(Name, Fun) -> spec(Name, temporary, 200, {start_with, [Test, Fun]}) end,
    {ok, Pid} = supervisor:start_child(Zone, full(1)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, 1)),
    ?assertEqual({error, {already_started, Pid}}, supervisor:start_child(Zone, full(1))),
    {ok, Other, info} =
        supervisor:start_child(
            Zone,
            Does(1.0, fun() ->
                {ok, P} = tracked_child:start_link(Test),
                {ok, P, info}
            end)
        ),
    ?assertEqual({ok, Other}, gen_tracker:find(Zone, 1.0)),
    ?assertEqual({ok, undefined}, supervisor:start_child(Zone, Does(ignored, fun() -> ignore end))),
    {error, Refused} = supervisor:start_child(Zone, Does(refused, fun() -> {error, refused} end)),
    ?assert(Refused =:= refused orelse element(1, Refused) =:= refused),
    ?assertEqual(
        lists:sort([{1, Pid, worker, [tracked_child]}, {1.0, Other, worker, [tracked_child]}]),
        lists:sort(supervisor:which_children(Zone))
    ).

start_child_of_a_malformed_spec_returns_the_same_as_in_otp(_) ->
    Zone = zone(?FUNCTION_NAME),
    Full = full(name),
    [
        ?assertEqual(supervisor:check_childspecs([Spec]), supervisor:start_child(Zone, Spec))
     || Spec <- [wrong, #{}, #{id => name}, setelement(2, Full, []), setelement(3, Full, often)]
    ],
    ?assertEqual([], supervisor:which_children(Zone)).

restart_child_leaves_a_running_child_alone(_) ->
    Zone = zone(?FUNCTION_NAME),
    Pid = open(Zone, full(name)),
    ?assertEqual({error, running}, supervisor:restart_child(Zone, name)),
    ?assertMatch({error, _}, supervisor:restart_child(Zone, missing)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
    ?assertEqual([{started, Pid}], taken(started)).

terminate_child_stops_and_removes_the_child(_) ->
    forgets(zone(?FUNCTION_NAME), fun supervisor:terminate_child/2).

delete_child_stops_and_removes_the_child(_) ->
    forgets(zone(?FUNCTION_NAME), fun supervisor:delete_child/2).

%% A permanent child is not restarted either.
forgets(Zone, Stop) ->
    Pid = open(Zone, spec(1, permanent)),
    Other = open(Zone, spec(1.0, permanent)),
    [gen_tracker:setattr(Zone, Name, [{test, self()}, {key, Name}]) || Name <- [1, 1.0]],
    ?assertEqual(ok, Stop(Zone, 1)),
    ?assertNot(is_process_alive(Pid)),
    ?assertMatch([{after_terminate, 1, [{key, 1}, {test, _}], _}], taken(after_terminate)),
    ?assertEqual([{1.0, Other, worker, []}], supervisor:which_children(Zone)),
    ?assertEqual(undefined, gen_tracker:find(Zone, 1)),
    ?assertEqual([], gen_tracker:attrs(Zone, 1)),
    ?assertEqual({error, no_child}, Stop(Zone, 1)),
    ?assertEqual({ok, Other}, gen_tracker:find(Zone, 1.0)),
    ?assertEqual({ok, 1.0}, gen_tracker:getattr(Zone, 1.0, key)),
    ?assertEqual([{started, Pid}, {started, Other}], taken(started)).

stopping_a_name_without_a_child_returns_no_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Pid = open(Zone, full(1)),
    [
        ?assertEqual({error, no_child}, Stop(Zone, Name))
     || Stop <- [fun supervisor:terminate_child/2, fun supervisor:delete_child/2],
        Name <- [1.0, missing, self(), Zone]
    ],
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, 1)).

stopping_a_terminating_child_waits_until_it_is_removed(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            {_, Cleaner} = terminating(Zone, name),
            Stopping = ask(fun() -> {Stop(Zone, name), supervisor:which_children(Zone)} end),
            waiting(),
            ok = gen_tracker:wait(Zone),
            ?assertEqual([], taken('DOWN')),
            Cleaner ! done,
            ?assertEqual({answer, {ok, []}}, answer(Stopping))
        end
     || Stop <- [fun supervisor:terminate_child/2, fun supervisor:delete_child/2]
    ].

%% Stopping

the_call_shutdown_stops_all_children_then_the_tracker_with_shutdown(_) ->
    stops(zone(?FUNCTION_NAME), shutdown, shutdown).

the_call_stop_stops_the_tracker_with_normal(_) ->
    stops(zone(?FUNCTION_NAME), stop, normal).

stops(Zone, Call, Reason) ->
    Tracker = whereis(Zone),
    Children = [open(Zone, full(Name)) || Name <- lists:seq(1, 10)],
    Stopping = ask(fun() -> gen_server:call(Zone, Call) end),
    ?assertEqual({'EXIT', Tracker, Reason}, await('EXIT')),
    ?assertEqual([], [Child || Child <- Children, is_process_alive(Child)]),
    ?assertEqual({answer, ok}, answer(Stopping)),
    ?assertEqual(undefined, whereis(Zone)).

%% Unknown requests

an_unknown_call_is_answered_and_logged(_) ->
    unharmed(zone(?FUNCTION_NAME), fun(Zone) ->
        Call = {a_strange_call, [1.0, self()]},
        ?assertEqual({error, {unknown_call, Call}}, gen_server:call(Zone, Call)),
        logged("a_strange_call"),
        [
            ?assertEqual({error, {unknown_call, Other}}, gen_server:call(Zone, Other))
         || Other <- [undefined, {}, [], <<"call">>, {stop, now}, {which_children, all}]
        ]
    end).

an_unknown_cast_is_logged_and_ignored(_) ->
    unharmed(zone(?FUNCTION_NAME), fun(Zone) ->
        gen_server:cast(Zone, {a_strange_cast, 1}),
        logged("a_strange_cast"),
        [gen_server:cast(Zone, Other) || Other <- [undefined, {}, [], stop, shutdown, {stop, now}]]
    end).

an_unknown_message_is_logged_and_ignored(_) ->
    unharmed(zone(?FUNCTION_NAME), fun(Zone) ->
        Zone ! {a_strange_message, 1},
        logged("a_strange_message"),
        Strange = [
            undefined,
            {},
            [],
            stop,
            {make_ref(), late_answer},
            {'DOWN', make_ref(), process, self(), gone}
        ],
        [Zone ! Other || Other <- [{'EXIT', list_to_pid("<0.0.0>"), gone}, timeout | Strange]]
    end).

an_exit_signal_of_an_unrelated_process_is_ignored(_) ->
    unharmed(zone(?FUNCTION_NAME), fun(Zone) ->
        Tracker = whereis(Zone),
        {answer, _} = answer(
            ask(fun() -> [exit(Tracker, Reason) || Reason <- [normal, shutdown, crash]] end)
        ),
        linked = answer(
            ask(fun() ->
                link(Tracker),
                exit(linked)
            end)
        )
    end).

wrong_arguments_do_not_stop_the_tracker(_) ->
    unharmed(zone(?FUNCTION_NAME), fun(Zone) ->
        Wrong = [
            undefined,
            [],
            {},
            #{},
            {a, b, c},
            {name, no_pid, worker, []},
            {self(), {name, no_spec}}
        ],
        [
            answer(ask(fun() -> gen_tracker:add_existing_child(Zone, Argument) end))
         || Argument <- Wrong
        ],
        [
            answer(ask(fun() -> supervisor:Function(Zone, Argument) end))
         || Argument <- Wrong,
            Function <- [start_child, restart_child, terminate_child, delete_child, get_childspec]
        ]
    end).

%% Checks that neither the tracker nor its child has exited, and that nothing else has changed.
unharmed(Zone, Harm) ->
    Tracker = whereis(Zone),
    Pid = open(Zone, full(name)),
    log_text:listen(),
    Harm(Zone),
    ?assertEqual(ok, gen_tracker:wait(Zone)),
    ?assertEqual(Tracker, whereis(Zone)),
    ?assertEqual([{name, Pid, worker, [tracked_child]}], supervisor:which_children(Zone)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
    ?assert(is_process_alive(Pid)).

%% sys, release_handler, observer

get_status_returns_the_state_of_a_supervisor(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Tracker = whereis(Zone),
    State = fun() ->
        {status, Tracker, {module, _}, [_, SysState, Test, _, _]} = sys:get_status(Zone),
        SysState
    end,
    ?assertEqual(running, State()),
    ok = sys:suspend(Zone),
    ?assertEqual(suspended, State()),
    ok = sys:resume(Zone),
    ?assertEqual(running, State()).

the_callback_module_of_a_zone_is_gen_tracker(_) ->
    Zone = zone(?FUNCTION_NAME),
    ?assertEqual(gen_tracker, supervisor:get_callback_module(whereis(Zone))).

%% The application is a supervisor with a zone. The zone has a worker, a starting child, and a
%% supervisor with a worker.
release_handler_finds_all_children_through_zones(_) ->
    {[Top, Tracker, Worker, Inner, Nested], Launching} = tree(?FUNCTION_NAME),
    Mine = [
        Process
     || {Sup, _, _, _} = Process <- supervised(), lists:member(Sup, [Top, Tracker, Inner])
    ],
    ?assertEqual(
        lists:sort([
            {Top, ?FUNCTION_NAME, Tracker, []},
            {Tracker, <<"worker">>, Worker, [tracked_child]},
            {Tracker, {inner, 1}, Inner, [supervisor]},
            {Inner, nested, Nested, [tracked_child]}
        ]),
        lists:sort(Mine)
    ),
    launched(Launching).

%% Starts the application, and returns the supervisor, the tracker, the worker, the inner supervisor
%% and its worker, and the call and the keeper of the starting child.
tree(Name) ->
    Top = run(Name, fun() -> supervisor:start_link(?MODULE, [zone_spec(Name)]) end),
    Worker = open(Name, full(<<"worker">>)),
    Start = {supervisor, start_link, [?MODULE, [full(nested)]]},
    Inner = open(Name, #{id => {inner, 1}, start => Start, type => supervisor}),
    [{nested, Nested, worker, _}] = supervisor:which_children(Inner),
    {[Top, whereis(Name), Worker, Inner, Nested], gated(Name, launching)}.

launched({Opening, Starter}) ->
    Starter ! go,
    {answer, {ok, _}} = answer(Opening).

%% Runs an application, and returns its top process.
run(Name, Start) ->
    Test = self(),
    Told = fun() ->
        {ok, Top} = Start(),
        Test ! {top, Top},
        {ok, Top}
    end,
    ok = application:load({
        application,
        Name,
        [{vsn, "1"}, {applications, [kernel, stdlib]}, {mod, {?MODULE, Told}}]
    }),
    ok = application:start(Name),
    {top, Top} = await(top),
    Top.

supervised() ->
    release_handler_1:get_supervised_procs().

release_handler_accepts_a_zone_as_the_top_supervisor_of_an_application(_) ->
    Tracker = run(?FUNCTION_NAME, fun() -> gen_tracker:start_link(?FUNCTION_NAME) end),
    Worker = open(?FUNCTION_NAME, full(name)),
    Expected = [
        {undefined, undefined, Tracker, [gen_tracker]},
        {Tracker, name, Worker, [tracked_child]}
    ],
    ?assertEqual([], Expected -- supervised()).

release_handler_suspends_and_upgrades_a_zone(_) ->
    Spec = setelement(6, zone_spec(?FUNCTION_NAME), [gen_tracker]),
    Top = run(?FUNCTION_NAME, fun() -> supervisor:start_link(?MODULE, [Spec]) end),
    Pid = open(?FUNCTION_NAME, full(name)),
    {ok, _} = release_handler_1:eval_script([
        point_of_no_return,
        {suspend, [gen_tracker]},
        {apply, {?MODULE, tell_status, [self(), ?FUNCTION_NAME]}},
        {code_change, up, [{gen_tracker, []}]},
        {resume, [gen_tracker]}
    ]),
    ?assertEqual({status, suspended}, await(status)),
    ?assertEqual([{name, Pid, worker, [tracked_child]}], supervisor:which_children(?FUNCTION_NAME)),
    ?assertMatch([{_, _, supervisor, _}], supervisor:which_children(Top)),
    _ = open(?FUNCTION_NAME, full(another)).

tell_status(Test, Zone) ->
    {status, _, _, [_, State | _]} = sys:get_status(Zone),
    Test ! {status, State}.

%% Observer draws a tree of links, and one of supervisors.
observer_shows_the_children_of_a_zone(_) ->
    {[Top, Tracker, Worker, Inner, Nested], Launching} = tree(?FUNCTION_NAME),
    {Linked, _} = shown(?FUNCTION_NAME, link),
    ?assertEqual([], [Top, Tracker, Worker, Inner, Nested] -- Linked),
    {Supervised, Edges} = shown(?FUNCTION_NAME, sup),
    ?assertEqual([], [Top, Tracker, Worker, Inner, Nested] -- Supervised),
    [TopText, WorkerText, InnerText, NestedText] = [
        pid_to_list(Pid)
     || Pid <- [Top, Worker, Inner, Nested]
    ],
    ZoneText = atom_to_list(?FUNCTION_NAME),
    Expected = [
        {TopText, ZoneText},
        {ZoneText, WorkerText},
        {ZoneText, InnerText},
        {InnerText, NestedText}
    ],
    ?assertEqual([], Expected -- Edges),
    launched(Launching).

%% Returns the processes of an application and the edges between them, as observer gets them.
shown(Application, Mode) ->
    {ok, Server} = appmon_info:start_link(node(), self(), []),
    appmon_info:app(Server, Application, true, [{info_type, Mode}, {timeout, at_most_once}]),
    {delivery, Server, app, Application, {_, Processes, Edges, _}} = await(delivery),
    ok = gen_server:stop(Server),
    {[Process || {Process, _} <- Processes], Edges}.

%% Under an ordinary supervisor

%% By its label, or before OTP 27 by the module whose function it began with.
observer_shows_what_each_process_of_a_zone_is(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = open(Zone, spec(child, permanent)),
    {ok, _} = gen_tracker:subscribe(Zone),
    Expected = [
        {gen_tracker, Zone},
        {gen_tracker_events, Zone},
        {gen_tracker_keeper, Zone, child},
        {gen_tracker_shutdown, Zone}
    ],
    Shown = [shown(Pid) || Pid <- [whereis(Zone) | zones:beside(Zone)]],
    case erlang:function_exported(proc_lib, get_label, 1) of
        true -> ?assertEqual(lists:sort(Expected), lists:sort(Shown));
        false -> ?assertEqual([element(1, Label) || Label <- Expected], lists:sort(Shown))
    end.

shown(Pid) ->
    Library = proc_lib,
    case erlang:function_exported(Library, get_label, 1) of
        true -> Library:get_label(Pid);
        false -> element(1, proc_lib:translate_initial_call(Pid))
    end.

a_zone_is_a_child_of_an_ordinary_supervisor(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, Top} = supervisor:start_link(?MODULE, [zone_spec(Zone)]),
    ?assertEqual([{Zone, whereis(Zone), supervisor, []}], supervisor:which_children(Top)),
    First = open(Zone, full(name)),
    ok = supervisor:terminate_child(Top, Zone),
    ?assertNot(is_process_alive(First)),
    ?assertEqual(undefined, whereis(Zone)),
    {ok, Tracker} = supervisor:restart_child(Top, Zone),
    ?assertEqual(Tracker, whereis(Zone)),
    ?assertEqual([], supervisor:which_children(Zone)),
    Second = open(Zone, full(name)),
    ok = gen_server:stop(Top),
    ?assertEqual({undefined, false}, {whereis(Zone), is_process_alive(Second)}).

child_spec_starts_zones_with_and_without_options(_) ->
    Specs = [gen_tracker:child_spec(Zone) || Zone <- [first, {second, #{max_children => 0}}]],
    ok = supervisor:check_childspecs(Specs),
    {ok, Top} = supervisor:start_link(?MODULE, Specs),
    ?assertEqual(
        [{Zone, whereis(Zone), supervisor, [gen_tracker]} || Zone <- [first, second]],
        lists:sort(supervisor:which_children(Top))
    ),
    {ok, _} = gen_tracker:find_or_open(first, full(name)),
    {error, max_children} = gen_tracker:find_or_open(second, full(name)),
    {ok, #{shutdown := infinity, restart := permanent}} = supervisor:get_childspec(Top, first),
    ok = gen_server:stop(Top),
    Wrong = ["zone", undefined, {zone, []}, {zone, #{other => 1}}, {undefined, #{}}, {"z", #{}}],
    [?assertError(badarg, gen_tracker:child_spec(Zone)) || Zone <- Wrong].

an_ordinary_supervisor_restarts_a_killed_zone(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, Top} = supervisor:start_link(?MODULE, [zone_spec(Zone)]),
    Child = open(Zone, full(name)),
    Killed = whereis(Zone),
    ok = sys:install(Top, {fun tell_of_exits/3, self()}),
    exit(Killed, kill),
    ?assertEqual({noticed, Killed}, await(noticed)),
    [{Zone, Tracker, supervisor, []}] = supervisor:which_children(Top),
    ?assertEqual(Tracker, whereis(Zone)),
    ?assertNotEqual(Killed, Tracker),
    ?assertEqual(undefined, gen_tracker:find(Zone, name)),
    down(Child),
    ok = gen_server:stop(Top).

%% Tells the test that the supervisor has received the exit signal. It answers later requests after
%% it has restarted the child.
tell_of_exits(Test, {in, {'EXIT', Pid, _}}, _) ->
    Test ! {noticed, Pid},
    Test;
tell_of_exits(Test, _, _) ->
    Test.
