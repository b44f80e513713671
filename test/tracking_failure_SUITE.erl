%% Promise: whatever fails on the way, metrics_process_tracker counts each process up and down as often, and forgets none: a backend that raises, a
%% caller that is killed, a tracker that crashes. Only with the process that started the tracker, its supervisor, all is gone.
-module(tracking_failure_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(metrics_process_tracker, [track/1, track/2, count/1, names/1, counts/0]).
-import(ledger_backend, [moves/1, let_go/1, let_raise/3]).
-import(tracked_process, [tracker/0, kill_tracker/0, idle/0, tracked/1, kill/1, settled/0, settled/1, eventually/1]).
-import(tracked_child, [ask/1, answer/1, waiting/0]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        a_backend_that_raises_on_the_way_up_is_answered,
        nothing_is_counted_down_for_what_was_not_tracked,
        after_a_failure_the_pair_is_tracked_as_for_the_first_time,
        a_missing_backend_is_answered,
        a_backend_that_raises_on_the_way_down_is_logged,
        a_backend_that_raises_on_the_way_down_costs_no_other_name,
        when_the_first_of_two_callers_fails_the_second_is_the_first,
        when_the_first_of_two_callers_succeeds_the_second_is_the_second,
        a_caller_killed_in_the_backend_leaves_nothing,
        a_process_killed_in_the_backend_leaves_nothing,
        nothing_of_dead_processes_is_left_at_a_caller_that_lives_on,
        when_the_first_of_two_callers_is_killed_the_second_is_the_first,
        tracked_processes_survive_a_crash_of_the_tracker,
        those_that_died_while_there_was_no_tracker_are_counted_down,
        what_is_tracked_while_there_is_no_tracker_is_monitored_by_the_next,
        a_crash_of_the_tracker_under_its_supervisor_is_not_noticed,
        a_crash_of_the_tracker_does_not_touch_a_caller_in_the_backend,
        a_crash_in_the_middle_of_a_cleanup_counts_nothing_twice,
        an_orderly_stop_of_the_tracker_keeps_the_processes,
        when_the_supervisor_is_killed_the_table_goes,
        when_the_starting_process_ends_normally_the_table_goes,
        with_the_table_the_tracked_processes_are_forgotten,
        a_supervisor_may_start_as_soon_as_the_other_is_gone,
        a_second_start_changes_nothing
    ].

init_per_testcase(Case, Config) ->
    tracking_SUITE:init_per_testcase(Case, Config).

end_per_testcase(Case, Config) ->
    tracking_SUITE:end_per_testcase(Case, Config).

classes() ->
    [error, exit, throw].

%% A caller that waits in the backend for what the test says.
in_backend(Name, Pid) ->
    Asked = ask(fun() -> track(Name, Pid) end),
    receive {updating, Name, 1, Caller} -> {Asked, Caller} end.

%% A backend that raises on the way up

a_backend_that_raises_on_the_way_up_is_answered(_) ->
    tracker(),
    [
        begin
            Name = {raises, 1, Class, Reason},
            {error, Answer} = track(Name),
            %% How a throw is told from the others is nowhere said.
            ?assert(Class =:= throw orelse Answer =:= Reason),
            ?assertEqual({error, Answer}, track(Name)),
            ?assertEqual(0, count(Name))
        end
     || Class <- classes(), Reason <- [no_connection, {error, badarg}, badarg, normal, kill]
    ],
    ?assertEqual({[], []}, {names(self()), counts()}).

nothing_is_counted_down_for_what_was_not_tracked(_) ->
    tracker(),
    Names = [{raises, 1, Class, reason} || Class <- classes()],
    Pid = tracked([before]),
    Untracked = idle(),
    [{error, _} = track(Name, Which) || Name <- Names, Which <- [Pid, Untracked]],
    ok = track('after', Pid),
    ?assertEqual(['after', before], lists:sort(names(Pid))),
    ?assertEqual([], names(Untracked)),
    kill([Pid, Untracked]),
    settled(),
    [?assertEqual({1, 1}, moves(Name)) || Name <- [before, 'after']],
    [?assertEqual({0, 0}, moves(Name)) || Name <- Names].

after_a_failure_the_pair_is_tracked_as_for_the_first_time(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    [
        begin
            {Asked, Caller} = in_backend(Name, Pid),
            let_raise(Caller, Class, reason),
            {answer, {error, _}} = answer(Asked),
            ?assertEqual({0, [], {0, 0}}, {count(Name), names(Pid), moves(Name)})
        end
     || Class <- classes()
    ],
    {Last, Caller} = in_backend(Name, Pid),
    let_go(Caller),
    ?assertEqual({answer, ok}, answer(Last)),
    ?assertEqual({1, [Name], {1, 0}}, {count(Name), names(Pid), moves(Name)}),
    kill([Pid]),
    settled(),
    ?assertEqual({1, 1}, moves(Name)).

%% The module that metrics makes of its backend when it starts.
a_missing_backend_is_answered(_) ->
    tracker(),
    _ = code:purge(metrics_mod),
    true = code:delete(metrics_mod),
    ?assertEqual({error, undef}, track(name)),
    ?assertEqual([], counts()).

%% On the way down

a_backend_that_raises_on_the_way_down_is_logged(_) ->
    tracker(),
    tracked_child:listen(),
    try
        [
            begin
                Reason = list_to_atom(atom_to_list(Class) ++ "_on_the_way_down"),
                kill([tracked([{raises, -1, Class, Reason}])]),
                settled(),
                tracked_child:logged("reason: " ++ atom_to_list(Reason))
            end
         || Class <- classes()
        ]
    after
        logger:remove_handler(tracked_child)
    end.

a_backend_that_raises_on_the_way_down_costs_no_other_name(_) ->
    Tracker = tracker(),
    Raising = [{raises, -1, Class, Number} || Class <- classes(), Number <- lists:seq(1, 10)],
    Good = lists:seq(1, 30),
    Pids = [tracked(lists:append([[Bad, Name] || {Bad, Name} <- lists:zip(Raising, Good)])) || _ <- lists:seq(1, 10)],
    kill(Pids),
    settled(),
    [?assertEqual({10, 10}, moves(Name)) || Name <- Good],
    [?assertEqual({10, 0}, moves(Name)) || Name <- Raising],
    [?assertEqual([], names(Pid)) || Pid <- Pids],
    ?assertEqual(Tracker, whereis(metrics_process_tracker)).

%% Two callers, one pair

%% Nobody can tell the second of its success before the first one's is known.
second_in_backend(Name, Pid) ->
    Second = ask(fun() -> track(Name, Pid) end),
    waiting(),
    ?assertEqual([], tracked_child:taken('DOWN')),
    Second.

when_the_first_of_two_callers_fails_the_second_is_the_first(_) ->
    tracker(),
    [
        begin
            Name = {gated, 1, self(), Class},
            Pid = idle(),
            {First, Caller} = in_backend(Name, Pid),
            Second = second_in_backend(Name, Pid),
            let_raise(Caller, Class, reason),
            ?assertMatch({answer, {error, _}}, answer(First)),
            let_go(receive {updating, Name, 1, Next} -> Next end),
            ?assertEqual({answer, ok}, answer(Second)),
            ?assertEqual({1, {1, 0}}, {count(Name), moves(Name)}),
            kill([Pid]),
            settled(),
            ?assertEqual({1, 1}, moves(Name))
        end
     || Class <- classes()
    ].

when_the_first_of_two_callers_succeeds_the_second_is_the_second(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    {First, Caller} = in_backend(Name, Pid),
    Second = second_in_backend(Name, Pid),
    let_go(Caller),
    ?assertEqual([{answer, ok}, {answer, ok}], [answer(First), answer(Second)]),
    ?assertEqual({1, {1, 0}, []}, {count(Name), moves(Name), tracked_child:taken(updating)}).

%% Whether the backend had counted before its caller was killed nobody can know; here it had not.
a_caller_killed_in_the_backend_leaves_nothing(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = tracked([before]),
    {Asked, Caller} = in_backend(Name, Pid),
    exit(Caller, kill),
    killed = answer(Asked),
    %% It may be tracked again, as for the first time.
    {Again, Next} = in_backend(Name, Pid),
    let_go(Next),
    ?assertEqual({answer, ok}, answer(Again)),
    ?assertEqual({1, 0}, moves(Name)),
    {_, Last} = in_backend(Name, idle()),
    exit(Last, kill),
    kill([Pid]),
    settled(),
    ?assertEqual([{1, 1}, {1, 1}], [moves(Which) || Which <- [before, Name]]).

a_process_killed_in_the_backend_leaves_nothing(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    {Pid, Monitor} = spawn_monitor(fun() -> [ok = track(Which) || Which <- [a, b, Name]] end),
    receive {updating, Name, 1, Pid} -> exit(Pid, kill) end,
    receive {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(killed, Reason) end,
    tracked_process:empty(),
    ?assertEqual([{1, 1}, {1, 1}, {0, 0}], [moves(Which) || Which <- [a, b, Name]]),
    %% Nor is it in the way of the one who tracks the dead process again.
    {Asked, Caller} = in_backend(Name, Pid),
    let_go(Caller),
    {answer, ok} = answer(Asked),
    settled(),
    ?assertEqual({1, 1}, moves(Name)).

%% Whoever waits to learn whether such a caller is killed must not wait for ever.
nothing_of_dead_processes_is_left_at_a_caller_that_lives_on(_) ->
    tracker(),
    Test = self(),
    Name = {gated, 1, Test, name},
    Pids = [tracked([before]) || _ <- lists:seq(1, 100)],
    Caller = spawn_link(fun() -> [ok = track(Name, Pid) || Pid <- Pids], Test ! done, receive stop -> ok end end),
    lists:foreach(
        fun(Pid) ->
            receive {updating, Name, 1, Caller} -> kill([Pid]) end,
            eventually(fun() -> not lists:member(before, names(Pid)) end),
            let_go(Caller)
        end,
        Pids
    ),
    receive done -> tracked_process:empty() end,
    ?assertEqual([{100, 100}, {100, 100}], [moves(Which) || Which <- [before, Name]]),
    eventually(fun() -> process_info(Caller, monitored_by) =:= {monitored_by, []} end).

when_the_first_of_two_callers_is_killed_the_second_is_the_first(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    {First, Caller} = in_backend(Name, Pid),
    Second = second_in_backend(Name, Pid),
    exit(Caller, kill),
    killed = answer(First),
    let_go(receive {updating, Name, 1, Next} -> Next end),
    ?assertEqual({answer, ok}, answer(Second)),
    ?assertEqual({1, {1, 0}}, {count(Name), moves(Name)}).

%% A crash of the tracker. The test takes the supervisor's place where it says when the tracker starts again.

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
    {Dying, Living} = lists:split(500, [tracked([a, b, {name, Number}]) || Number <- lists:seq(1, 1000)]),
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
    receive {updating, _, -1, Cleaner} -> ok end,
    killed = kill_tracker(),
    tracker(),
    let_go(Cleaner),
    eventually(fun() -> [let_go(Next) || {updating, _, -1, Next} <- tracked_child:taken(updating)], counts() =:= [] end),
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

%% The end of the supervisor

%% A process that has started the tracker, or a supervisor.
owner(Start) ->
    Test = self(),
    {Owner, _} = spawn_monitor(fun() -> Start(), Test ! {started, self(), whereis(metrics_process_tracker)}, receive stop -> ok end end),
    receive {started, Owner, Tracker} -> {Owner, monitor(process, Tracker)} end.

%% Waits until a table is gone, and its tracker too.
gone({Owner, Tracker}) ->
    receive {'DOWN', _, process, Owner, _} -> ok end,
    receive {'DOWN', Tracker, process, _, _} -> ok end,
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

%% The table of the one that is gone may still be on its way out: it takes nothing of the new one with it.
a_supervisor_may_start_as_soon_as_the_other_is_gone(_) ->
    [
        begin
            {Starter, Tracker} = owner(fun tracked_process:tracker/0),
            Pid = tracked([a]),
            exit(Starter, kill),
            receive {'DOWN', Tracker, process, _, _} -> ok end,
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
