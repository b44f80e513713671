%% Promise: a crash of metrics_process_tracker is not noticed by the processes that it tracks:
%% none is forgotten, none is counted twice. Only with the process that started the tracker, its
%% supervisor, all is gone.
-module(tracking_crash_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(metrics_process_tracker, [track/1, track/2, count/1, names/1, counts/0]).
-import(ledger_backend, [moves/1, let_go/1]).
-import(tracked_process, [tracker/0, kill_tracker/0, idle/0, tracked/1, kill/1, settled/0]).
-import(tracked_process, [settled/1, eventually/1]).
-import(tracked_child, [answer/1]).
-import(tracking_failure_SUITE, [in_backend/2]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        tracked_processes_survive_a_crash_of_the_tracker,
        those_that_died_while_there_was_no_tracker_are_counted_down,
        what_is_tracked_while_there_is_no_tracker_is_monitored_by_the_next,
        a_crash_of_the_tracker_under_its_supervisor_is_not_noticed,
        a_crash_of_the_tracker_does_not_touch_a_caller_in_the_backend,
        a_crash_in_the_middle_of_a_cleanup_counts_nothing_twice,
        an_orderly_stop_of_the_tracker_keeps_the_processes,
        an_end_of_the_reaper_is_a_crash_of_the_tracker,
        when_the_supervisor_is_killed_the_table_goes,
        when_the_starting_process_ends_normally_the_table_goes,
        with_the_table_the_tracked_processes_are_forgotten,
        with_the_table_a_cleanup_that_is_under_way_ends,
        what_a_caller_tracks_while_the_table_goes_is_badarg,
        a_supervisor_may_start_as_soon_as_the_other_is_gone,
        a_table_is_not_given_on_by_an_owner_whose_death_the_vm_has_still_to_tell,
        a_second_start_changes_nothing
    ].

init_per_testcase(Case, Config) ->
    tracking_SUITE:init_per_testcase(Case, Config).

end_per_testcase(Case, Config) ->
    tracking_SUITE:end_per_testcase(Case, Config).

%% A crash of the tracker. The test takes the supervisor's place where it says when the tracker
%% starts again.

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

those_that_died_while_there_was_no_tracker_are_counted_down(_) ->
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

what_is_tracked_while_there_is_no_tracker_is_monitored_by_the_next(_) ->
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

a_crash_of_the_tracker_under_its_supervisor_is_not_noticed(_) ->
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
    [{Before, Caller1}, {After, Caller2}] = [in_backend(Name, Pid) || Pid <- Pids],
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

%% Whoever cleans up after the crash is let go, too: then it would be counted twice.
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
        [let_go(Next) || {updating, _, -1, Next} <- tracked_child:taken(updating)],
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

%% Without it a death would be of no consequence.
an_end_of_the_reaper_is_a_crash_of_the_tracker(_) ->
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

%% A process that has started the tracker, or a supervisor.
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

%% Waits until a table is gone, and its tracker too.
gone({Owner, Tracker}) ->
    receive
        {'DOWN', _, process, Owner, _} -> ok
    end,
    receive
        {'DOWN', Tracker, process, _, _} -> ok
    end,
    eventually(fun() -> badarg =:= tracking_SUITE:error_of(fun() -> counts() end) end).

when_the_supervisor_is_killed_the_table_goes(_) ->
    {Holder, Tracker} = owner(fun() -> put(supervisor, tracked_process:supervisor(1)) end),
    {links, Links} = process_info(Holder, links),
    [Supervisor] = [Pid || Pid <- Links, is_pid(Pid)],
    Pid = tracked([a]),
    exit(Supervisor, kill),
    gone({Holder, Tracker}),
    [?assertEqual(badarg, tracking_SUITE:error_of(Call)) || Call <- tracking_SUITE:calls(Pid)].

when_the_starting_process_ends_normally_the_table_goes(_) ->
    {Starter, _} = Owner = owner(fun tracked_process:tracker/0),
    Pid = tracked([a]),
    Starter ! stop,
    gone(Owner),
    [?assertEqual(badarg, tracking_SUITE:error_of(Call)) || Call <- tracking_SUITE:calls(Pid)],
    tracker(),
    ?assertEqual([], counts()).

with_the_table_the_tracked_processes_are_forgotten(_) ->
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

%% The next tracker does not wait for it.
with_the_table_a_cleanup_that_is_under_way_ends(_) ->
    {Starter, _} = Owner = owner(fun tracked_process:tracker/0),
    Name = {gated, -1, self(), name},
    kill([tracked([Name])]),
    receive
        {updating, Name, -1, Cleaner} -> ok
    end,
    Monitor = monitor(process, Cleaner),
    exit(Starter, kill),
    gone(Owner),
    receive
        {'DOWN', Monitor, process, _, Reason} -> ?assertEqual(shutdown, Reason)
    end,
    tracker(),
    kill([tracked([a])]),
    settled(),
    ?assertEqual([{1, 0}, {1, 1}], [moves(Which) || Which <- [Name, a]]).

%% Not even when there is another one by then.
what_a_caller_tracks_while_the_table_goes_is_badarg(_) ->
    {Starter, _} = Owner = owner(fun tracked_process:tracker/0),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    [{Before, Caller1}, {After, Caller2}] = [
        in_backend(Name, Pid),
        in_backend({gated, 1, self(), other}, Pid)
    ],
    exit(Starter, kill),
    gone(Owner),
    let_go(Caller1),
    ?assertMatch({badarg, _}, answer(Before)),
    tracker(),
    let_go(Caller2),
    ?assertMatch({badarg, _}, answer(After)),
    ?assertEqual({[], []}, {names(Pid), counts()}).

%% The table of the one that is gone may still be on its way out: it takes nothing of the new one
%% with it.
a_supervisor_may_start_as_soon_as_the_other_is_gone(_) ->
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

%% The test hears of the end first, for it was the first to ask; then thousands of others, and
%% then the table.
a_table_is_not_given_on_by_an_owner_whose_death_the_vm_has_still_to_tell(_) ->
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
    ?assertEqual({error, {already_started, Tracker}}, tracked_child:apart(Second)),
    ?assertEqual({error, {already_started, Tracker}}, Second()),
    ?assertEqual({Tracker, [{a, 1}]}, {whereis(metrics_process_tracker), counts()}),
    kill([Pid]),
    settled(),
    ?assertEqual({1, 1}, moves(a)).
