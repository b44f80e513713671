%% Promise: what a keeper, the process beside a child, meets outside of the ordinary is its own
%% affair. Whatever is sent to it or to the tracker, however early its child dies, whoever kills
%% it, "a server process never dies from what a caller passed in", no child is lost, and no caller
%% hangs.
%%
%% Each case has a zone of its own name. What is a matter of rounds is in `keeper_storm_SUITE`.
-module(keeper_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [zone/1, open/2, spec/2, spec/4, await/1, await/2, taken/1, ask/1]).
-import(tracked_child, [answer/1, apart/1, keeper/1, loose/1, forgotten/2, down/1]).
-import(tracked_process, [eventually/1]).
-import(restart_SUITE, [open_with/4, with_spec/3, scripted/1, run/0]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        an_exit_signal_of_a_stranger_is_logged_and_ignored,
        the_tracker_rests_after_the_exit_signal_of_a_dead_stranger,
        the_tracker_rests_after_the_crash_of_a_process_that_is_linked_to_it,
        the_tracker_rests_after_a_spec_that_the_table_refuses,
        plain_atoms_sent_to_the_process_of_a_start_function_do_not_end_the_child,
        plain_atoms_sent_to_the_process_of_a_start_function_do_not_end_a_pending_restart,
        after_terminate_gets_the_reason_of_a_child_that_died_while_it_was_started,
        a_transient_child_that_ended_normally_while_it_was_started_is_not_started_again,
        start_child_of_a_child_that_dies_as_soon_as_it_is_started_is_answered,
        add_existing_child_beside_a_child_that_dies_as_soon_as_it_is_started_is_answered,
        what_a_failed_start_function_has_linked_ends_with_it,
        start_child_on_a_pending_restart_is_answered_and_starts_nothing,
        a_thousand_callers_on_a_pending_restart_share_one_start,
        a_permanent_child_that_keeps_failing_leaves_nothing_in_a_mailbox,
        a_restart_that_kills_its_process_is_tried_again_after_a_delay,
        a_permanent_child_that_keeps_failing_does_not_keep_old_code,
        after_terminate_may_call_its_zone_while_that_stops,
        init_ack_returns_when_a_stop_waits_already,
        a_shutdown_longer_than_any_timer_is_kept,
        the_children_of_killed_keepers_end_with_a_tracker_that_is_killed,
        a_child_that_is_unregistered_before_its_next_keeper_has_it_is_let_go,
        at_the_limit_of_processes_a_caller_gets_an_error,
        at_the_limit_of_processes_the_tracker_takes_a_child_over_later
    ].

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    Config.

%% Killed: a zone with a stuck keeper would not stop.
end_per_testcase(Case, _Config) ->
    _ = logger:remove_handler(tracked_child),
    case whereis(Case) of
        undefined -> ok;
        Tracker -> tracked_child:kill(Tracker)
    end.

%% Strays. "An unknown cast or message is logged and ignored."

an_exit_signal_of_a_stranger_is_logged_and_ignored(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child),
    ok = tracked_child:listen(),
    [] = spawned(Zone, fun(Tracker) ->
        exit(Tracker, stray_signal),
        gen_tracker:wait(Zone)
    end),
    _ = tracked_child:logged("stray_signal"),
    {ok, Child} = gen_tracker:find(Zone, child),
    _ = open(Zone, another).

the_tracker_rests_after_the_exit_signal_of_a_dead_stranger(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = sys:suspend(Zone),
    rests_after(
        Zone, fun(Tracker) -> exit(Tracker, stray_signal) end, fun() -> ok = sys:resume(Zone) end
    ).

the_tracker_rests_after_the_crash_of_a_process_that_is_linked_to_it(_) ->
    rests_after(zone(?FUNCTION_NAME), fun(Tracker) -> link(Tracker) end, fun() -> ok end).

%% A process that has gone is looked for once.
rests_after(Zone, Stray, Then) ->
    Spawned = spawned(Zone, fun(Tracker) ->
        apart(fun() -> Stray(Tracker) end),
        Then()
    end),
    ?assert(length(Spawned) =< 1, Spawned),
    lists:foreach(fun tracked_child:down/1, Spawned),
    _ = open(Zone, child).

%% The argument would unfold to over a gigabyte. Messages do not copy a persistent term, and nor
%% does the tracker.
the_tracker_rests_after_a_spec_that_the_table_refuses(_) ->
    Zone = zone(?FUNCTION_NAME),
    persistent_term:put(
        ?FUNCTION_NAME, lists:foldl(fun(_, Part) -> [Part | Part] end, [], lists:seq(1, 26))
    ),
    Child = open(Zone, child),
    Refused = fun(_) ->
        Spec = {refused, {tracked_child, start_link, [persistent_term:get(Zone)]}, temporary},
        {error, badarg} = supervisor:start_child(Zone, Spec),
        %% Refused before it is sent.
        badarg =
            try
                gen_tracker:find_or_open(Zone, Spec)
            catch
                error:badarg -> badarg
            end
    end,
    ?assertMatch([_], spawned(Zone, Refused)),
    {ok, Child} = gen_tracker:find(Zone, child),
    [{child, Child, worker, _}] = supervisor:which_children(Zone).

%% The processes that the tracker starts while it handles what a fun does to it, and a hundred
%% messages more.
spawned(Zone, Fun) ->
    Tracker = whereis(Zone),
    1 = erlang:trace(Tracker, true, [procs]),
    _ = apart(fun() -> Fun(Tracker) end),
    [ok = gen_tracker:wait(Zone) || _ <- lists:seq(1, 100)],
    1 = erlang:trace(Tracker, false, [procs]),
    _ = erlang:trace_delivered(Tracker),
    _ = await(trace_delivered),
    [Pid || {trace, _, spawn, Pid, _} <- taken(trace)].

%% A start function may have left a timer behind. The crash is noticed after the atoms.
plain_atoms_sent_to_the_process_of_a_start_function_do_not_end_the_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open_with(Zone, child, permanent, run()),
    send_atoms(keeper(Child)),
    Child ! {stop, crash},
    [{started, _}, {started, Again}] = [await(started), await(started)],
    {ok, Again} = gen_tracker:find_or_open(Zone, spec(child, permanent)).

plain_atoms_sent_to_the_process_of_a_start_function_do_not_end_a_pending_restart(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, Spec} = pending(Zone, fun() -> {error, later} end),
    send_atoms(Keeper),
    {error, later} = gen_tracker:find_or_open(Zone, Spec),
    [{started, Keeper}] = taken(started).

send_atoms(Keeper) ->
    [Keeper ! Atom || Atom <- [retry, stop, detached]].

%% Children that die early

%% "`after_terminate(Name, Attrs, Reason)` is called": also for a child that nobody could monitor
%% in its life.
after_terminate_gets_the_reason_of_a_child_that_died_while_it_was_started(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        dies_while_started(Zone, temporary, Reason)
     || Reason <- [normal, shutdown, {shutdown, moved}, crash, {error, #{code => 7}}]
    ].

a_transient_child_that_ended_normally_while_it_was_started_is_not_started_again(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        dies_while_started(Zone, transient, Reason)
     || Reason <- [normal, shutdown, {shutdown, moved}]
    ].

dies_while_started(Zone, Restart, Reason) ->
    Test = self(),
    Name = {Test, Reason},
    Start = fun() ->
        Test ! {starting, Name},
        dead(Reason)
    end,
    {ok, _} = gen_tracker:find_or_open(Zone, {Name, {?MODULE, start, [Start]}, Restart}),
    ?assertEqual({last, Name, [], Reason}, await(last)),
    forgotten(Zone, Name),
    ?assertEqual([{starting, Name}], taken(starting)).

start(Fun) ->
    Fun().

%% A child of this module may be named for the process that wants to know.
after_terminate({Test, _} = Name, Attrs, Reason) ->
    Test ! {last, Name, Attrs, Reason};
after_terminate(_, _, _) ->
    ok.

%% What a start function returns whose child is linked to it and has died.
dead(Reason) ->
    {Pid, Monitor} = spawn_opt(fun() -> exit(Reason) end, [link, monitor]),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> {ok, Pid}
    end.

start_child_of_a_child_that_dies_as_soon_as_it_is_started_is_answered(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = answered_while_dying(Zone, fun() ->
        supervisor:start_child(Zone, spec(child, permanent, 200, {start_link, [self()]}))
    end).

add_existing_child_beside_a_child_that_dies_as_soon_as_it_is_started_is_answered(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = loose(start_link),
    ok = answered_while_dying(Zone, fun() ->
        gen_tracker:add_existing_child(Zone, {child, Other, worker, []})
    end).

%% The tracker sees that the child is dead before its keeper does, and so lets the request wait.
answered_while_dying(Zone, Request) ->
    Child = open_with(Zone, child, permanent, scripted([run(), fun() -> dead(crash) end])),
    Keeper = keeper(Child),
    true = erlang:suspend_process(Keeper),
    crash = tracked_child:stop(Child, crash),
    Asked = ask(Request),
    tracked_child:waiting(),
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Keeper),
    ?assertMatch({answer, {error, {already_started, _}}}, answer(Asked)),
    supervisor:terminate_child(Zone, child).

%% Starts that fail

%% "After a failed start nothing of that name is left."
what_a_failed_start_function_has_linked_ends_with_it(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Failures = [
        fun() -> ignore end,
        fun() -> {error, failed} end,
        fun() -> failed end,
        fun() -> error(failed) end
    ],
    Start = fun(Fail) ->
        {ok, _} = tracked_child:start_link(Test),
        Fail()
    end,
    [
        begin
            Answer = gen_tracker:find_or_open(
                Zone, with_spec(child, temporary, fun() -> Start(Fail) end)
            ),
            ?assertNotMatch({ok, _}, Answer),
            [{started, _}, {started, Linked}] = [await(started), await(started)],
            {'DOWN', _, process, Linked, Reason} = await('DOWN', monitor(process, Linked)),
            ?assert(lists:member(Reason, [shutdown, noproc]), Reason)
        end
     || Fail <- Failures
    ].

%% As a supervisor answers of a child that it has not managed to restart.
start_child_on_a_pending_restart_is_answered_and_starts_nothing(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, _} = pending(Zone, fun() -> {error, later} end),
    Asked = ask(fun() ->
        supervisor:start_child(Zone, spec(child, permanent, 200, {start_link, [self()]}))
    end),
    {answer, {error, already_present}} = answer(Asked),
    {messages, []} = process_info(Keeper, messages),
    [] = taken(started).

%% Their requests reach the keeper together, before it can do anything.
a_thousand_callers_on_a_pending_restart_share_one_start(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, Spec} = pending(Zone, fun() -> {error, later} end),
    true = erlang:suspend_process(Keeper),
    Callers = [ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end) || _ <- lists:seq(1, 1000)],
    tracked_child:waiting(),
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Keeper),
    [{answer, {error, later}} = answer(Caller) || Caller <- Callers],
    {messages, []} = process_info(Keeper, messages),
    [{started, Keeper}] = taken(started).

%% Each start leaves the exit signal of a process that was linked.
a_permanent_child_that_keeps_failing_leaves_nothing_in_a_mailbox(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, _} = pending(Zone, fun() ->
        {ok, _} = dead(crash),
        {error, later}
    end),
    eventually(fun() -> process_info(Keeper, messages) =:= {messages, []} end),
    eventually(fun() -> process_info(whereis(Zone), messages) =:= {messages, []} end).

%% As a limit to the size of its heap does. Beside it another one fails in the ordinary way, which
%% takes at least 50, 200, 350 and 500 ms.
a_restart_that_kills_its_process_is_tried_again_after_a_delay(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Starts = counters:new(1, []),
    Die = fun() ->
        counters:add(Starts, 1, 1),
        exit(self(), kill),
        receive
            never -> ok
        end
    end,
    Fail = fun() ->
        Test ! {failing, counters:get(Starts, 1)},
        {error, later}
    end,
    Children = [
        open_with(Zone, Name, permanent, scripted([run(), Step]))
     || {Name, Step} <- [{dies, Die}, {fails, Fail}]
    ],
    [crash = tracked_child:stop(Child, crash) || Child <- Children],
    [_, _, _, _, {failing, Deaths}] = [await(failing) || _ <- lists:seq(1, 5)],
    ?assert(Deaths >= 2, Deaths),
    ?assert(Deaths =< 100, Deaths),
    ok = supervisor:terminate_child(Zone, dies).

%% A child whose next start is seconds away, after so many that failed as the fun says: the
%% process that starts it, and its spec.
pending(Zone, Fail) ->
    Start = scripted([run(), Fail]),
    Child = open_with(Zone, child, permanent, Start),
    crash = tracked_child:stop(Child, crash),
    {started, Keeper} = await(started),
    Spec = with_spec(child, permanent, Start),
    [{error, later} = gen_tracker:find_or_open(Zone, Spec) || _ <- lists:seq(1, 50)],
    _ = taken(started),
    {Keeper, Spec}.

%% A second load of a module kills the processes that still run the code before the first one.
a_permanent_child_that_keeps_failing_does_not_keep_old_code(_) ->
    Zone = zone(?FUNCTION_NAME),
    {_, Spec} = pending(Zone, fun() -> {error, later} end),
    reloading:load_softly(gen_tracker_keeper),
    {error, later} = gen_tracker:find_or_open(Zone, Spec),
    eventually(fun() -> code:soft_purge(gen_tracker_keeper) end).

%% Stopping

after_terminate_may_call_its_zone_while_that_stops(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Calls = [
        {wait, fun() -> gen_tracker:wait(Zone) end},
        {which_children, fun() -> supervisor:which_children(Zone) end},
        {
            find_or_open,
            fun() ->
                gen_tracker:find_or_open(Zone, spec(another, temporary, 200, {start_link, [Test]}))
            end
        }
    ],
    [
        tracked_child_reason:open(Zone, Name, temporary, fun(_, _, _) ->
            Test ! {calling, Name},
            _ =
                try
                    Call()
                catch
                    exit:_ -> ended
                end,
            Test ! {called, Name}
        end)
     || {Name, Call} <- Calls
    ],
    {answer, ok} = answer(ask(fun() -> gen_server:stop(Zone) end)),
    [
        ?assertEqual([{calling, Name}, {called, Name}], [await(calling, Name), await(called, Name)])
     || {Name, _} <- Calls
    ],
    [] = taken(started).

%% The keeper has the stop in its mailbox before the child has acknowledged its start.
init_ack_returns_when_a_stop_waits_already(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Run = fun() ->
        process_flag(trap_exit, true),
        Test ! {starting, self()},
        receive
            go -> ok
        end,
        ok = gen_tracker:init_ack({ok, self()}),
        Test ! {acknowledged, self()},
        receive
            {'EXIT', _, Reason} -> exit(Reason)
        end
    end,
    Spec = {
        child,
        {proc_lib, start_link, [erlang, apply, [Run, []]]},
        temporary,
        infinity,
        worker,
        []
    },
    Opening = ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
    {starting, Child} = await(starting),
    Stopping = ask(fun() -> supervisor:terminate_child(Zone, child) end),
    tracked_child:waiting(),
    ok = gen_tracker:wait(Zone),
    Monitor = monitor(process, Child),
    Child ! go,
    {acknowledged, Child} = await(acknowledged),
    {'DOWN', _, process, Child, shutdown} = await('DOWN', Monitor),
    {answer, {error, killed}} = answer(Opening),
    {answer, ok} = answer(Stopping).

%% Over 16#ffffffff milliseconds.
a_shutdown_longer_than_any_timer_is_kept(_) ->
    Zone = zone(?FUNCTION_NAME),
    Start = {tracked_child, start_stubborn, [self()]},
    Specs = [
        {tuple, {tuple, Start, temporary, 5000000000, worker, []}},
        {map, #{id => map, start => Start, restart => temporary, shutdown => 5000000000}}
    ],
    [outlasts(Zone, Name, Spec) || {Name, Spec} <- Specs].

outlasts(Zone, Name, Spec) ->
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started),
    Keeper = monitor(process, keeper(Child)),
    Stopping = ask(fun() -> supervisor:terminate_child(Zone, Name) end),
    {exit_signal, Child, shutdown} = await(exit_signal),
    done = tracked_child:stop(Child, done),
    {answer, ok} = answer(Stopping),
    %% It has not died of its timer.
    {'DOWN', _, process, _, shutdown} = await('DOWN', Keeper),
    [] = taken(exit_signal).

%% "When the tracker is gone, its children are gone." The tracker is killed before it has noticed
%% that their keepers were.
the_children_of_killed_keepers_end_with_a_tracker_that_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Plain = loose(start_link),
    {ok, Plain} = gen_tracker:add_existing_child(Zone, {plain, Plain, worker, []}),
    {ok, Stubborn} = gen_tracker:find_or_open(
        Zone, spec(stubborn, temporary, 50, {start_stubborn, [self()]})
    ),
    Keepers = [keeper_of(Zone, plain), keeper(Stubborn)],
    ok = sys:suspend(Zone),
    lists:foreach(fun tracked_child:kill/1, Keepers ++ [whereis(Zone)]),
    [
        {'DOWN', _, process, _, _} = await('DOWN', monitor(process, Child))
     || Child <- [Plain, Stubborn]
    ].

%% The process beside a child that may not be its parent.
keeper_of(Zone, Name) ->
    {running, _, Keeper, _} = proctab_nif:child(Zone, Name),
    Keeper.

%% The next keeper finds nothing in the table. That is no crash.
a_child_that_is_unregistered_before_its_next_keeper_has_it_is_let_go(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = loose(start_link),
    {ok, Child} = gen_tracker:add_existing_child(Zone, {child, Child, worker, []}),
    {running, Child, Keeper, _} = proctab_nif:child(Zone, child),
    ok = tracked_child:listen(),
    ok = sys:suspend(Zone),
    _ = tracked_child:kill(Keeper),
    Asked = ask(fun() -> gen_tracker:unregister_name({Zone, child}) end),
    tracked_child:waiting(),
    ok = sys:resume(Zone),
    {answer, ok} = answer(Asked),
    %% The guard is left.
    eventually(fun() -> length(tracked_child:beside(Zone)) =:= 1 end),
    ?assertEqual([], [Line || {log, Line} <- taken(log), string:find(Line, "crash") =/= nomatch]),
    ?assertEqual({true, undefined}, {is_process_alive(Child), gen_tracker:find(Zone, child)}),
    exit(Child, kill).

%% The limit of processes

at_the_limit_of_processes_a_caller_gets_an_error(_) ->
    Zone = ?FUNCTION_NAME,
    tracked_process:on_node(#{env => [{"ERL_FLAGS", "+P 1024"}]}, fun() ->
        process_flag(trap_exit, true),
        Child = open(zone(Zone), child),
        Others = fill(),
        {error, system_limit} = gen_tracker:find_or_open(Zone, spec(another, temporary)),
        {error, system_limit} = supervisor:start_child(
            Zone, spec(another, temporary, 200, {start_link, [self()]})
        ),
        {error, system_limit} = gen_tracker:add_existing_child(
            Zone, {another, hd(Others), worker, []}
        ),
        tracked_process:kill(Others),
        {ok, Child} = gen_tracker:find_or_open(Zone, spec(child, temporary)),
        open(Zone, another)
    end).

%% Its keeper is killed, and another process takes that one's place.
at_the_limit_of_processes_the_tracker_takes_a_child_over_later(_) ->
    Zone = ?FUNCTION_NAME,
    tracked_process:on_node(#{env => [{"ERL_FLAGS", "+P 1024"}]}, fun() ->
        process_flag(trap_exit, true),
        Child = loose(start_stubborn),
        {ok, Child} = gen_tracker:add_existing_child(zone(Zone), {child, Child, worker, []}),
        Keeper = keeper_of(Zone, child),
        Others = fill(),
        ok = sys:suspend(Zone),
        _ = tracked_child:kill(Keeper),
        [_ | _] = Last = fill(),
        ok = sys:resume(Zone),
        ok = gen_tracker:wait(Zone),
        {ok, Child} = gen_tracker:find(Zone, child),
        tracked_process:kill(Others ++ Last),
        done = tracked_child:stop(Child, done),
        eventually(fun() -> supervisor:which_children(Zone) =:= [] end),
        open(Zone, child)
    end).

%% Starts processes until there can be no more.
fill() ->
    try spawn(fun() ->
        receive
            never -> ok
        end
    end) of
        Pid -> [Pid | fill()]
    catch
        error:system_limit -> []
    end.
