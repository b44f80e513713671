%% Promise: no child is lost and no caller hangs, whatever messages a keeper or the tracker
%% receives, however early a child dies, and whoever kills a keeper.
%%
%% `keeper_storm_SUITE` tests races of keepers, in many rounds.
-module(keeper_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [open/2, spec/2, spec/4, keeper/1, loose/1, forgotten/2]).
-import(messages, [await/1, await/2, taken/1]).
-import(callers, [ask/1, answer/1, apart/1]).
-import(scripted_child, [script/1, run/0, pending/3, dead/1, pending/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        an_exit_signal_of_a_stranger_is_logged_and_ignored,
        the_tracker_is_idle_after_the_exit_signal_of_a_dead_stranger,
        the_tracker_is_idle_after_the_crash_of_a_process_linked_to_it,
        the_tracker_is_idle_after_a_spec_that_the_table_refuses,
        plain_atoms_sent_to_a_keeper_do_not_end_its_child,
        plain_atoms_sent_to_a_keeper_do_not_end_a_pending_restart,
        after_terminate_gets_the_reason_of_a_child_that_exited_during_its_start,
        a_transient_child_that_exited_normally_during_its_start_is_not_restarted,
        start_child_is_answered_when_a_restarted_child_dies_at_once,
        add_existing_child_is_answered_when_a_restarted_child_dies_at_once,
        processes_linked_by_a_failed_start_function_exit,
        start_child_on_a_pending_restart_is_answered_and_starts_nothing,
        a_thousand_callers_on_a_pending_restart_share_one_start,
        a_permanent_child_that_keeps_failing_leaves_nothing_in_a_mailbox,
        a_restart_that_kills_its_process_is_tried_again_after_a_delay,
        a_permanent_child_that_keeps_failing_does_not_keep_old_code,
        after_terminate_may_call_its_zone_while_that_stops,
        init_ack_returns_when_a_stop_waits_already,
        a_shutdown_longer_than_any_timer_is_kept,
        the_children_of_killed_keepers_end_with_a_tracker_that_is_killed,
        a_child_that_is_unregistered_before_another_keeper_adopts_it_lives_on
    ].

%% Unexpected signals and messages

an_exit_signal_of_a_stranger_is_logged_and_ignored(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child),
    ok = log_text:listen(),
    [] = spawned(Zone, fun(Tracker) ->
        exit(Tracker, stray_signal),
        gen_tracker:wait(Zone)
    end),
    _ = log_text:logged("stray_signal"),
    {ok, Child} = gen_tracker:find(Zone, child),
    _ = open(Zone, another).

the_tracker_is_idle_after_the_exit_signal_of_a_dead_stranger(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = sys:suspend(Zone),
    idle_after(
        Zone, fun(Tracker) -> exit(Tracker, stray_signal) end, fun() -> ok = sys:resume(Zone) end
    ).

the_tracker_is_idle_after_the_crash_of_a_process_linked_to_it(_) ->
    idle_after(zone(?FUNCTION_NAME), fun(Tracker) -> link(Tracker) end, fun() -> ok end).

%% The tracker looks once for the child of a dead keeper.
idle_after(Zone, Stray, Then) ->
    Spawned = spawned(Zone, fun(Tracker) ->
        apart(fun() -> Stray(Tracker) end),
        Then()
    end),
    ?assert(length(Spawned) =< 1, Spawned),
    lists:foreach(fun tracked_child:down/1, Spawned),
    _ = open(Zone, child).

%% Flattened, the argument would take over a gigabyte. Messages do not copy a persistent term, and
%% neither does the tracker.
the_tracker_is_idle_after_a_spec_that_the_table_refuses(_) ->
    Zone = zone(?FUNCTION_NAME),
    persistent_term:put(
        ?FUNCTION_NAME, lists:foldl(fun(_, Part) -> [Part | Part] end, [], lists:seq(1, 26))
    ),
    Child = open(Zone, child),
    Refused = fun(_) ->
        Spec = {refused, {tracked_child, start_link, [persistent_term:get(Zone)]}, temporary},
        {error, badarg} = supervisor:start_child(Zone, Spec),
        %% The caller refuses it before it sends a message.
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

%% Returns the processes that the tracker spawns while `Fun` runs, and during a hundred messages
%% after it.
spawned(Zone, Fun) ->
    Tracker = whereis(Zone),
    1 = erlang:trace(Tracker, true, [procs]),
    _ = apart(fun() -> Fun(Tracker) end),
    [ok = gen_tracker:wait(Zone) || _ <- lists:seq(1, 100)],
    1 = erlang:trace(Tracker, false, [procs]),
    _ = erlang:trace_delivered(Tracker),
    _ = await(trace_delivered),
    [Pid || {trace, _, spawn, Pid, _} <- taken(trace)].

%% A timer of the start function may send such a message. The keeper handles the crash after the
%% atoms.
plain_atoms_sent_to_a_keeper_do_not_end_its_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = scripted_child:open(Zone, child, permanent, run()),
    send_atoms(keeper(Child)),
    Child ! {stop, crash},
    [{started, _}, {started, Again}] = [await(started), await(started)],
    {ok, Again} = gen_tracker:find_or_open(Zone, spec(child, permanent)).

plain_atoms_sent_to_a_keeper_do_not_end_a_pending_restart(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, Spec} = pending(Zone, child),
    send_atoms(Keeper),
    {error, later} = gen_tracker:find_or_open(Zone, Spec),
    [{started, Keeper}] = taken(started).

send_atoms(Keeper) ->
    [Keeper ! Atom || Atom <- [retry, stop, detached]].

%% Children that die early

%% No process could monitor such a child while it was alive.
after_terminate_gets_the_reason_of_a_child_that_exited_during_its_start(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        dies_while_started(Zone, temporary, Reason)
     || Reason <- [normal, shutdown, {shutdown, moved}, crash, {error, #{code => 7}}]
    ].

a_transient_child_that_exited_normally_during_its_start_is_not_restarted(_) ->
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
    {ok, _} = gen_tracker:find_or_open(Zone, {Name, {reporting_child, start, [Start]}, Restart}),
    ?assertEqual({last, Name, [], Reason}, await(last)),
    forgotten(Zone, Name),
    ?assertEqual([{starting, Name}], taken(starting)).

start_child_is_answered_when_a_restarted_child_dies_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = answered_while_dying(Zone, fun() ->
        supervisor:start_child(Zone, spec(child, permanent, 200, {start_link, [self()]}))
    end).

add_existing_child_is_answered_when_a_restarted_child_dies_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = loose(start_link),
    ok = answered_while_dying(Zone, fun() ->
        gen_tracker:add_existing_child(Zone, {child, Other, worker, []})
    end).

%% The tracker notices the death of the child before its keeper does, and lets the request wait.
answered_while_dying(Zone, Request) ->
    Child = scripted_child:open(Zone, child, permanent, script([run(), fun() -> dead(crash) end])),
    Keeper = keeper(Child),
    true = erlang:suspend_process(Keeper),
    crash = tracked_child:stop(Child, crash),
    Asked = ask(Request),
    callers:waiting(),
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Keeper),
    ?assertMatch({answer, {error, {already_started, _}}}, answer(Asked)),
    supervisor:terminate_child(Zone, child).

%% Starts that fail

processes_linked_by_a_failed_start_function_exit(_) ->
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
                Zone, scripted_child:spec(child, temporary, fun() -> Start(Fail) end)
            ),
            ?assertNotMatch({ok, _}, Answer),
            [{started, _}, {started, Linked}] = [await(started), await(started)],
            {'DOWN', _, process, Linked, Reason} = await('DOWN', monitor(process, Linked)),
            ?assert(lists:member(Reason, [shutdown, noproc]), Reason)
        end
     || Fail <- Failures
    ].

%% OTP supervisors answer the same for a child that they could not restart.
start_child_on_a_pending_restart_is_answered_and_starts_nothing(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, _} = pending(Zone, child),
    Asked = ask(fun() ->
        supervisor:start_child(Zone, spec(child, permanent, 200, {start_link, [self()]}))
    end),
    {answer, {error, already_present}} = answer(Asked),
    {messages, []} = process_info(Keeper, messages),
    [] = taken(started).

%% All requests are in the mailbox of the keeper before it continues.
a_thousand_callers_on_a_pending_restart_share_one_start(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, Spec} = pending(Zone, child),
    true = erlang:suspend_process(Keeper),
    Callers = [ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end) || _ <- lists:seq(1, 1000)],
    callers:waiting(),
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Keeper),
    [{answer, {error, later}} = answer(Caller) || Caller <- Callers],
    {messages, []} = process_info(Keeper, messages),
    [{started, Keeper}] = taken(started).

%% Each start leaves the exit signal of a linked process.
a_permanent_child_that_keeps_failing_leaves_nothing_in_a_mailbox(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Keeper, _} = pending(Zone, child, fun() ->
        {ok, _} = dead(crash),
        {error, later}
    end),
    wait:until(fun() -> process_info(Keeper, messages) =:= {messages, []} end, 60),
    wait:until(fun() -> process_info(whereis(Zone), messages) =:= {messages, []} end, 60).

%% A heap limit has the same effect. Another child fails in the ordinary way; its attempts are at
%% least 50, 200, 350 and 500 ms apart.
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
        scripted_child:open(Zone, Name, permanent, script([run(), Step]))
     || {Name, Step} <- [{dies, Die}, {fails, Fail}]
    ],
    [crash = tracked_child:stop(Child, crash) || Child <- Children],
    [_, _, _, _, {failing, Deaths}] = [await(failing) || _ <- lists:seq(1, 5)],
    ?assert(Deaths >= 2, Deaths),
    ?assert(Deaths =< 100, Deaths),
    ok = supervisor:terminate_child(Zone, dies).

%% Loading a module a second time kills the processes that still run the code before the first
%% load.
a_permanent_child_that_keeps_failing_does_not_keep_old_code(_) ->
    Zone = zone(?FUNCTION_NAME),
    {_, Spec} = pending(Zone, child),
    reloading:load_softly(gen_tracker_keeper),
    {error, later} = gen_tracker:find_or_open(Zone, Spec),
    wait:until(fun() -> code:soft_purge(gen_tracker_keeper) end, 60).

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

%% The request to stop is in the mailbox of the keeper before the child acknowledges its start.
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
    callers:waiting(),
    ok = gen_tracker:wait(Zone),
    Monitor = monitor(process, Child),
    Child ! go,
    {acknowledged, Child} = await(acknowledged),
    {'DOWN', _, process, Child, shutdown} = await('DOWN', Monitor),
    {answer, {error, killed}} = answer(Opening),
    {answer, ok} = answer(Stopping).

%% The time is over 16#ffffffff milliseconds.
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
    %% The timer has not crashed the keeper.
    {'DOWN', _, process, _, shutdown} = await('DOWN', Keeper),
    [] = taken(exit_signal).

%% The tracker is killed before it has noticed that the keepers were.
the_children_of_killed_keepers_end_with_a_tracker_that_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Plain = loose(start_link),
    {ok, Plain} = gen_tracker:add_existing_child(Zone, {plain, Plain, worker, []}),
    {ok, Stubborn} = gen_tracker:find_or_open(
        Zone, spec(stubborn, temporary, 50, {start_stubborn, [self()]})
    ),
    Keepers = [zones:keeper(Zone, plain), keeper(Stubborn)],
    ok = sys:suspend(Zone),
    lists:foreach(fun tracked_child:kill/1, Keepers ++ [whereis(Zone)]),
    [
        {'DOWN', _, process, _, _} = await('DOWN', monitor(process, Child))
     || Child <- [Plain, Stubborn]
    ].

%% The next keeper finds no entry, which must not crash it.
a_child_that_is_unregistered_before_another_keeper_adopts_it_lives_on(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = loose(start_link),
    {ok, Child} = gen_tracker:add_existing_child(Zone, {child, Child, worker, []}),
    {running, Child, Keeper, _} = proctab_nif:child(Zone, child),
    ok = log_text:listen(),
    ok = sys:suspend(Zone),
    _ = tracked_child:kill(Keeper),
    Asked = ask(fun() -> gen_tracker:unregister_name({Zone, child}) end),
    callers:waiting(),
    ok = sys:resume(Zone),
    {answer, ok} = answer(Asked),
    %% Only the watchdog and registrars are left.
    IsAlone = fun() -> length(zones:beside(Zone) -- proctab_nif:registrars(Zone)) =:= 1 end,
    wait:until(IsAlone, 60),
    ?assertEqual([], [Line || {log, Line} <- taken(log), string:find(Line, "crash") =/= nomatch]),
    ?assertEqual({true, undefined}, {is_process_alive(Child), gen_tracker:find(Zone, child)}),
    exit(Child, kill).
