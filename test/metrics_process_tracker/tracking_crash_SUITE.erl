%% Promise: no tracked process is missed or counted twice because of a crash of
%% metrics_process_tracker. The table is removed only with the process that started the tracker, its
%% supervisor.
-module(tracking_crash_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(metrics_process_tracker, [track/1, track/2, count/1, names/1, counts/0]).
-import(ledger_backend, [moves/1, let_go/1]).
-import(tracked_process, [tracker/0, kill_tracker/0, idle/0, tracked/1, kill/1, settled/0]).
-import(tracked_process, [settled/1, eventually/1]).
-import(callers, [answer/1]).
-import(tracked_process, [caller_in_backend/2, assert_no_table/1, table_gone/0]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, tracker}]}].

all() ->
    [
        tracked_processes_survive_a_crash_of_the_tracker,
        processes_that_died_while_there_was_no_tracker_are_counted_down,
        a_process_tracked_while_there_is_no_tracker_is_monitored_by_the_next_one,
        a_supervisor_restarts_the_tracker_and_no_count_is_lost,
        a_crash_of_the_tracker_does_not_touch_a_caller_in_the_backend,
        a_crash_in_the_middle_of_a_cleanup_counts_nothing_twice,
        an_orderly_stop_of_the_tracker_keeps_the_processes,
        when_the_reaper_ends_the_tracker_crashes,
        when_the_supervisor_is_killed_the_table_is_removed,
        when_the_starting_process_ends_normally_the_table_is_removed,
        when_the_table_is_removed_its_processes_are_no_longer_tracked,
        when_the_table_is_removed_a_running_cleanup_ends,
        a_call_during_which_the_table_is_removed_is_badarg,
        a_supervisor_may_start_as_soon_as_the_one_before_is_dead,
        a_table_whose_owner_is_dead_is_not_reused_before_the_vm_reports_the_death,
        a_second_start_changes_nothing
    ].

%% A crash of the tracker. The test is the supervisor, where it decides when the tracker starts
%% again.

tracked_processes_survive_a_crash_of_the_tracker(_) ->
    tracker(),
    [One, Two] = Pids = [tracked(Names) || Names <- [[a, b], [a]]],
    killed = kill_tracker(),
    Seen = fun() -> {lists:sort(counts()), [lists:sort(names(Pid)) || Pid <- Pids], count(a)} end,
    ?assertEqual({[{a, 2}, {b, 1}], [[a, b], [a]], 2}, Seen()),
    tracker(),
    ?assertEqual({[{a, 2}, {b, 1}], [[a, b], [a]], 2}, Seen()),
    ok = track(a, One),
    ?assertEqual({2, 0}, moves(a)),
    kill([One]),
    settled([{a, 1}]),
    kill([Two]),
    settled(),
    ?assertEqual([{2, 2}, {1, 1}], [moves(Name) || Name <- [a, b]]).

processes_that_died_while_there_was_no_tracker_are_counted_down(_) ->
    tracker(),
    {Dying, Living} = lists:split(500, [
        tracked([a, b, {name, Number}])
     || Number <- lists:seq(1, 1000)
    ]),
    killed = kill_tracker(),
    kill(Dying),
    ok = track(c, hd(Dying)),
    tracker(),
    settled([{a, 500}, {b, 500} | [{{name, Number}, 1} || Number <- lists:seq(501, 1000)]]),
    ?assertEqual([{1000, 500}, {1000, 500}, {1, 1}], [moves(Name) || Name <- [a, b, c]]),
    [?assertEqual({1, 1}, moves({name, Number})) || Number <- lists:seq(1, 500)],
    kill(Living),
    settled(),
    ?assertEqual([], ledger_backend:open_names()).

a_process_tracked_while_there_is_no_tracker_is_monitored_by_the_next_one(_) ->
    tracker(),
    Known = tracked([a]),
    killed = kill_tracker(),
    ?assertEqual(ok, track(b, Known)),
    ?assertEqual(ok, track(b, Known)),
    Unknown = tracked([a, b]),
    ?assertEqual([{2, 0}, {2, 0}], [moves(Name) || Name <- [a, b]]),
    ?assertEqual([{a, 2}, {b, 2}], lists:sort(counts())),
    tracker(),
    kill([Known, Unknown]),
    settled(),
    ?assertEqual([{2, 2}, {2, 2}], [moves(Name) || Name <- [a, b]]).

a_supervisor_restarts_the_tracker_and_no_count_is_lost(_) ->
    Supervisor = tracked_process:supervisor(1),
    Pids = [tracked([a]), tracked([a])],
    killed = kill_tracker(),
    kill([hd(Pids)]),
    ?assertEqual(ok, track(b, hd(Pids))),
    settled([{a, 1}]),
    ?assertMatch([{tracker, _, worker, _}], supervisor:which_children(Supervisor)),
    kill(Pids),
    settled(),
    ?assertEqual([{2, 2}, {1, 1}], [moves(Name) || Name <- [a, b]]),
    gen_server:stop(Supervisor).

a_crash_of_the_tracker_does_not_touch_a_caller_in_the_backend(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pids = [idle(), idle()],
    [{Before, Caller1}, {After, Caller2}] = [caller_in_backend(Name, Pid) || Pid <- Pids],
    killed = kill_tracker(),
    let_go(Caller1),
    ?assertEqual({answer, ok}, answer(Before)),
    tracker(),
    let_go(Caller2),
    ?assertEqual({answer, ok}, answer(After)),
    ?assertEqual({2, {2, 0}}, {count(Name), moves(Name)}),
    kill(Pids),
    settled(),
    ?assertEqual({2, 2}, moves(Name)).

%% The cleaner of the next tracker is continued, too: it would count the names twice.
a_crash_in_the_middle_of_a_cleanup_counts_nothing_twice(_) ->
    tracker(),
    Names = [{gated, -1, self(), Number} || Number <- [1, 2, 3]],
    kill([tracked([a, b | Names]) || _ <- [1, 2]]),
    receive
        {updating, _, -1, Cleaner} -> ok
    end,
    killed = kill_tracker(),
    tracker(),
    let_go(Cleaner),
    eventually(fun() ->
        [let_go(Next) || {updating, _, -1, Next} <- messages:taken(updating)],
        counts() =:= []
    end),
    [?assertEqual({2, 2}, moves(Name)) || Name <- [a, b | Names]].

an_orderly_stop_of_the_tracker_keeps_the_processes(_) ->
    tracker(),
    Pid = tracked([a]),
    ok = gen_server:stop(metrics_process_tracker),
    ?assertEqual([{a, 1}], counts()),
    kill([Pid]),
    tracker(),
    settled(),
    ?assertEqual({1, 1}, moves(a)).

%% Without the reaper, nothing would be counted down.
when_the_reaper_ends_the_tracker_crashes(_) ->
    Supervisor = tracked_process:supervisor(1),
    Pid = tracked([a]),
    Monitor = monitor(process, whereis(metrics_process_tracker)),
    ok = gen_server:stop(metrics_process_tracker_reaper),
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end,
    kill([Pid]),
    settled(),
    ?assertEqual({1, 1}, moves(a)),
    gen_server:stop(Supervisor).

%% The end of the supervisor

%% Starts a process that calls a fun, which starts a tracker, or a supervisor of one. Returns this
%% process, and a monitor of the tracker.
owner(Start) ->
    Test = self(),
    {Owner, _} = spawn_monitor(fun() ->
        Start(),
        Test ! {started, self(), whereis(metrics_process_tracker)},
        receive
            stop -> ok
        end
    end),
    receive
        {started, Owner, Tracker} -> {Owner, monitor(process, Tracker)}
    end.

%% Waits until the owner of a table, its tracker and the table are gone.
gone({Owner, Tracker}) ->
    receive
        {'DOWN', _, process, Owner, _} -> ok
    end,
    receive
        {'DOWN', Tracker, process, _, _} -> ok
    end,
    table_gone().

when_the_supervisor_is_killed_the_table_is_removed(_) ->
    {Holder, Tracker} = owner(fun() -> put(supervisor, tracked_process:supervisor(1)) end),
    {links, Links} = process_info(Holder, links),
    [Supervisor] = [Pid || Pid <- Links, is_pid(Pid)],
    Pid = tracked([a]),
    exit(Supervisor, kill),
    gone({Holder, Tracker}),
    assert_no_table(Pid).

when_the_starting_process_ends_normally_the_table_is_removed(_) ->
    {Starter, _} = Owner = owner(fun tracked_process:tracker/0),
    Pid = tracked([a]),
    Starter ! stop,
    gone(Owner),
    assert_no_table(Pid),
    tracker(),
    ?assertEqual([], counts()).

when_the_table_is_removed_its_processes_are_no_longer_tracked(_) ->
    {Starter, _} = Owner = owner(fun tracked_process:tracker/0),
    [One, Two] = [tracked([a, b]) || _ <- [1, 2]],
    exit(Starter, kill),
    gone(Owner),
    tracker(),
    ?assertEqual({0, [], []}, {count(a), names(One), counts()}),
    ok = track(a, One),
    kill([One, Two]),
    settled(),
    ?assertEqual([{3, 1}, {2, 0}], [moves(Name) || Name <- [a, b]]).

%% The next tracker does not wait for this cleanup.
when_the_table_is_removed_a_running_cleanup_ends(_) ->
    {Starter, _} = Owner = owner(fun tracked_process:tracker/0),
    Name = {gated, -1, self(), name},
    kill([tracked([Name])]),
    receive
        {updating, Name, -1, Cleaner} -> ok
    end,
    Monitor = messages:monitor_now(Cleaner),
    exit(Starter, kill),
    gone(Owner),
    receive
        {'DOWN', Monitor, process, _, Reason} -> ?assertEqual(shutdown, Reason)
    end,
    tracker(),
    kill([tracked([a])]),
    settled(),
    ?assertEqual([{1, 0}, {1, 1}], [moves(Which) || Which <- [Name, a]]).

%% Even if there is another table by then.
a_call_during_which_the_table_is_removed_is_badarg(_) ->
    {Starter, _} = Owner = owner(fun tracked_process:tracker/0),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    [{Before, Caller1}, {After, Caller2}] = [
        caller_in_backend(Name, Pid),
        caller_in_backend({gated, 1, self(), other}, Pid)
    ],
    exit(Starter, kill),
    gone(Owner),
    let_go(Caller1),
    ?assertMatch({badarg, _}, answer(Before)),
    tracker(),
    let_go(Caller2),
    ?assertMatch({badarg, _}, answer(After)),
    ?assertEqual({[], []}, {names(Pid), counts()}).

%% The table of the dead owner may still be there for a moment. Its removal takes nothing from the
%% new table.
a_supervisor_may_start_as_soon_as_the_one_before_is_dead(_) ->
    [
        begin
            {Starter, Tracker} = owner(fun tracked_process:tracker/0),
            Pid = tracked([a]),
            exit(Starter, kill),
            receive
                {'DOWN', Tracker, process, _, _} -> ok
            end,
            {Next, _} = Owner = owner(fun tracked_process:tracker/0),
            ?assertEqual([], counts()),
            ok = track(b, Pid),
            ?assertEqual([{b, 1}], counts()),
            kill([Pid]),
            settled(),
            exit(Next, kill),
            gone(Owner)
        end
     || _ <- lists:seq(1, 50)
    ],
    ?assertEqual({50, 50}, moves(b)).

%% The VM tells the test of the death first, since it was the first to monitor the owner, then
%% thousands of other monitors, and then the table.
a_table_whose_owner_is_dead_is_not_reused_before_the_vm_reports_the_death(_) ->
    Test = self(),
    {Starter, Tracker} = owner(fun() ->
        Owner = self(),
        Others = spawn(fun() ->
            [monitor(process, Owner) || _ <- lists:seq(1, 50000)],
            Owner ! monitored,
            receive
                {stop, Test} -> ok
            end
        end),
        receive
            monitored -> Test ! {others, Others}
        end,
        tracked_process:tracker()
    end),
    Others =
        receive
            {others, Pid} -> Pid
        end,
    Tracked = tracked([a]),
    exit(whereis(metrics_process_tracker), kill),
    receive
        {'DOWN', Tracker, process, _, _} -> ok
    end,
    receive
        {'DOWN', _, process, Starter, _} -> ok
    end,
    tracker(),
    ?assertEqual({[], []}, {counts(), names(Tracked)}),
    Others ! {stop, Test},
    kill([Tracked]).

a_second_start_changes_nothing(_) ->
    Tracker = tracker(),
    Pid = tracked([a]),
    Second = fun() -> metrics_process_tracker:start_link() end,
    ?assertEqual({error, {already_started, Tracker}}, callers:apart(Second)),
    ?assertEqual({error, {already_started, Tracker}}, Second()),
    ?assertEqual({Tracker, [{a, 1}]}, {whereis(metrics_process_tracker), counts()}),
    kill([Pid]),
    settled(),
    ?assertEqual({1, 1}, moves(a)).
