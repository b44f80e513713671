%% Promise: metrics_process_tracker counts the live processes of a name: up when a process is
%% tracked, down once when it dies. Nothing is left of a dead process. Failures are in
%% tracking_failure_SUITE and tracking_crash_SUITE.
-module(tracking_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(metrics_process_tracker, [track/1, track/2, count/1, names/1, counts/0]).
-import(ledger_backend, [moves/1, let_go/1]).
-import(tracked_process, [tracker/0, idle/0, tracked/1, crash/2, kill/1, settled/0, settled/1]).
-import(tracked_process, [eventually/1, on_node/2]).
-import(tracked_process, [assert_no_table/1, table_gone/0]).
-import(callers, [apart/1, together/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, tracker}]}].

all() ->
    [
        start_link_registers_the_tracker_under_its_name,
        every_function_of_the_original_is_there,
        every_function_is_badarg_before_there_is_a_table,
        a_term_that_is_no_pid_is_badarg,
        the_first_track_of_a_pair_counts_up,
        another_track_of_a_pair_does_not_count,
        many_callers_that_track_a_pair_at_once_count_it_once,
        the_backend_is_called_in_the_caller,
        the_result_of_the_backend_is_ignored,
        a_slow_backend_delays_no_other_call,
        a_name_is_any_term,
        counts_and_names_are_those_of_live_processes,
        a_process_is_monitored_once_however_many_names_it_has,
        track_sends_no_message,
        a_suspended_tracker_delays_neither_track_nor_the_count_down,
        each_name_of_a_dead_process_is_counted_down_once,
        nothing_is_left_of_a_dead_process,
        a_process_is_counted_down_whatever_its_exit_reason,
        a_dead_process_is_counted_up_and_then_down,
        a_process_that_dies_while_it_is_being_tracked_is_counted_up_and_then_down,
        a_process_is_removed_after_it_is_counted_down,
        a_slow_backend_on_the_way_down_delays_no_call,
        an_unknown_call_is_answered,
        unknown_casts_and_messages_are_ignored,
        a_forged_death_is_ignored,
        a_process_of_another_node_is_counted_down_when_it_dies,
        a_process_of_another_node_is_counted_down_when_that_node_goes_down,
        a_process_of_an_unknown_node_is_counted_up_and_then_down,
        tracking_works_without_the_application_metrics
    ].

start_link_registers_the_tracker_under_its_name(_) ->
    {ok, Tracker} = metrics_process_tracker:start_link(),
    ?assertEqual(Tracker, whereis(metrics_process_tracker)),
    {links, Links} = process_info(self(), links),
    ?assert(lists:member(Tracker, Links)).

every_function_of_the_original_is_there(_) ->
    Callbacks = [
        {init, 1},
        {handle_call, 3},
        {handle_cast, 2},
        {handle_info, 2},
        {terminate, 2},
        {code_change, 3}
    ],
    Original = [{start_link, 0}, {track, 1}, {track, 2} | Callbacks],
    ?assertEqual([], Original -- metrics_process_tracker:module_info(exports)).

%% The table of the case before may still be there for a moment.
every_function_is_badarg_before_there_is_a_table(_) ->
    table_gone(),
    assert_no_table(self()),
    ?assertEqual({0, 0}, moves(name)).

a_term_that_is_no_pid_is_badarg(_) ->
    tracker(),
    [Port | _] = erlang:ports(),
    [
        begin
            ?assertError(badarg, track(name, None)),
            ?assertError(badarg, names(None))
        end
     || None <- [
            metrics_process_tracker,
            undefined,
            1,
            1.5,
            "pid",
            <<"pid">>,
            [self()],
            {self()},
            #{},
            make_ref(),
            Port
        ]
    ],
    ?assertEqual({0, 0}, moves(name)),
    ?assertEqual([], counts()),
    ?assertEqual(ok, track(name)).

%% Up

the_first_track_of_a_pair_counts_up(_) ->
    tracker(),
    ?assertEqual(ok, track(mine)),
    ?assertEqual({1, 0}, moves(mine)),
    Other = idle(),
    ?assertEqual(ok, track(its, Other)),
    ?assertEqual({1, 0}, moves(its)),
    ?assertEqual(ok, track(mine, Other)),
    ?assertEqual({2, 0}, moves(mine)).

another_track_of_a_pair_does_not_count(_) ->
    tracker(),
    Other = idle(),
    ok = track(name),
    ok = track(name, Other),
    [?assertEqual(ok, track(name, Pid)) || Pid <- [self(), Other, self()]],
    ?assertEqual(ok, track(name)),
    ?assertEqual(ok, apart(fun() -> track(name, Other) end)),
    ?assertEqual({2, 0}, moves(name)),
    ?assertEqual(2, count(name)).

many_callers_that_track_a_pair_at_once_count_it_once(_) ->
    tracker(),
    [
        begin
            Pid = idle(),
            Answers = together(lists:duplicate(100, fun() -> track({name, Round}, Pid) end)),
            ?assertEqual([ok], lists:usort(Answers)),
            ?assertEqual({1, 0}, moves({name, Round})),
            ?assertEqual(1, count({name, Round})),
            kill([Pid]),
            settled(),
            ?assertEqual({1, 1}, moves({name, Round}))
        end
     || Round <- lists:seq(1, 20)
    ].

the_backend_is_called_in_the_caller(_) ->
    tracker(),
    Name = {told, self(), name},
    Pid = idle(),
    ok = track(Name, Pid),
    ?assertEqual(
        {updated, Name, 1, self()},
        receive
            {updated, _, _, _} = Mine -> Mine
        end
    ),
    Other = apart(fun() ->
        ok = track(Name),
        self()
    end),
    ?assertEqual(
        {updated, Name, 1, Other},
        receive
            {updated, _, _, _} = Its -> Its
        end
    ).

the_result_of_the_backend_is_ignored(_) ->
    tracker(),
    Names = [
        {answers, Answer}
     || Answer <- [
            {error, name, nonexistent_metric},
            {error, reason},
            error,
            false,
            {'EXIT', reason}
        ]
    ],
    Pid = idle(),
    [?assertEqual(ok, track(Name, Pid)) || Name <- Names],
    ?assertEqual(lists:sort(Names), lists:sort(names(Pid))),
    kill([Pid]),
    settled(),
    [?assertEqual({1, 1}, moves(Name)) || Name <- Names].

a_slow_backend_delays_no_other_call(_) ->
    Tracker = tracker(),
    Pid = tracked([before]),
    Name = {gated, 1, self(), name},
    Caller = spawn_link(fun() -> ok = track(Name, Pid) end),
    receive
        {updating, Name, 1, Caller} -> ok
    end,
    ?assertEqual(ok, track(other, Pid)),
    ?assertEqual(bad_call, gen_server:call(Tracker, anything)),
    ?assertEqual([before, other], lists:sort(names(Pid)) -- [Name]),
    let_go(Caller),
    receive
        {'EXIT', Caller, Reason} -> ?assertEqual(normal, Reason)
    end,
    ?assertEqual(lists:sort([Name, before, other]), lists:sort(names(Pid))),
    kill([tracked([elsewhere]), Pid]),
    settled().

a_name_is_any_term(_) ->
    tracker(),
    Pid = idle(),
    Terms =
        [
            atom,
            "http.requests",
            [http, "requests", 1],
            <<"name">>,
            <<1:3>>,
            binary:copy(<<"name">>, 100000),
            1,
            1 bsl 100,
            1.5,
            [],
            {}
        ] ++
        [
            #{a => [b]},
            {name, Pid},
            make_ref(),
            fun erlang:self/0,
            fun() -> Pid end,
            [improper | list],
            lists:seq(1, 10000)
        ],
    [?assertEqual(ok, track(Name, Pid)) || Name <- Terms],
    ?assertEqual(lists:sort(Terms), lists:sort(names(Pid))),
    ?assertEqual(lists:sort([{Name, 1} || Name <- Terms]), lists:sort(counts())),
    [?assertEqual({Name, 1}, {Name, count(Name)}) || Name <- Terms],
    kill([Pid]),
    settled(),
    [?assertEqual({Name, {1, 1}}, {Name, moves(Name)}) || Name <- Terms].

counts_and_names_are_those_of_live_processes(_) ->
    tracker(),
    ?assertEqual({0, [], []}, {count(a), names(self()), counts()}),
    [One, Two, Three] = [tracked(Names) || Names <- [[a, b, c], [a, b], [a]]],
    ?assertEqual([a, b, c], lists:sort(names(One))),
    ?assertEqual([a, b], lists:sort(names(Two))),
    ?assertEqual([a], names(Three)),
    ?assertEqual([3, 2, 1, 0], [count(Name) || Name <- [a, b, c, d]]),
    ?assertEqual([{a, 3}, {b, 2}, {c, 1}], lists:sort(counts())),
    kill([One]),
    settled([{a, 2}, {b, 1}]),
    ?assertEqual([2, 1, 0], [count(Name) || Name <- [a, b, c]]),
    ?assertEqual([], names(One)).

a_process_is_monitored_once_however_many_names_it_has(_) ->
    tracker(),
    Pid = idle(),
    [ok = track({name, Number}, Pid) || Number <- lists:seq(1, 100)],
    ?assertMatch({monitored_by, [_]}, process_info(Pid, monitored_by)).

track_sends_no_message(_) ->
    tracker(),
    Pid = idle(),
    Track = fun() -> [track(a), track(b), track(a, Pid), track(a, Pid)] end,
    ?assertEqual({{answer, [ok, ok, ok, ok]}, []}, callers:sent_by(Track)),
    kill([Pid]),
    settled().

%% Nor does it need the tracker: it is alive, and has no turn.
a_suspended_tracker_delays_neither_track_nor_the_count_down(_) ->
    Tracker = tracker(),
    true = erlang:suspend_process(Tracker),
    kill([tracked([a, b]) || _ <- lists:seq(1, 100)]),
    settled(),
    true = erlang:resume_process(Tracker),
    ?assertEqual([{100, 100}, {100, 100}], [moves(Name) || Name <- [a, b]]).

%% Down

each_name_of_a_dead_process_is_counted_down_once(_) ->
    tracker(),
    Dead = tracked([a, b, c]),
    Alive = tracked([a, b]),
    ok = track(a, Dead),
    kill([Dead]),
    settled([{a, 1}, {b, 1}]),
    ?assertEqual([{2, 1}, {2, 1}, {1, 1}], [moves(Name) || Name <- [a, b, c]]),
    kill([Alive]),
    settled(),
    ?assertEqual([{2, 2}, {2, 2}, {1, 1}], [moves(Name) || Name <- [a, b, c]]).

%% It is not even known that it was tracked: it is counted up again.
nothing_is_left_of_a_dead_process(_) ->
    tracker(),
    Pid = tracked([a, b]),
    kill([Pid]),
    tracked_process:empty(),
    ?assertEqual({0, 0, []}, {count(a), count(b), names(Pid)}),
    ok = track(a, Pid),
    settled(),
    ?assertEqual({2, 2}, moves(a)),
    ?assertEqual({1, 1}, moves(b)).

a_process_is_counted_down_whatever_its_exit_reason(_) ->
    tracker(),
    [
        begin
            crash(tracked([name]), Reason),
            settled()
        end
     || Reason <- [normal, shutdown, {shutdown, reason}, kill, killed, noproc, noconnection, reason]
    ],
    ?assertEqual({8, 8}, moves(name)).

a_dead_process_is_counted_up_and_then_down(_) ->
    tracker(),
    Dead = idle(),
    kill([Dead]),
    ?assertEqual(ok, track({told, self(), a}, Dead)),
    ?assertEqual(ok, track(b, Dead)),
    settled(),
    receive
        {updated, {told, _, a}, First, _} -> ?assertEqual(1, First)
    end,
    receive
        {updated, {told, _, a}, Second, _} -> ?assertEqual(-1, Second)
    end,
    ?assertEqual({1, 1}, moves(b)),
    ?assertEqual([], names(Dead)).

a_process_that_dies_while_it_is_being_tracked_is_counted_up_and_then_down(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = tracked([before]),
    Caller = spawn_link(fun() -> ok = track(Name, Pid) end),
    receive
        {updating, Name, 1, Caller} -> ok
    end,
    kill([Pid]),
    eventually(fun() -> count(before) =:= 0 end),
    let_go(Caller),
    receive
        {'EXIT', Caller, Reason} -> ?assertEqual(normal, Reason)
    end,
    settled(),
    ?assertEqual({1, 1}, moves(Name)),
    ?assertEqual({1, 1}, moves(before)).

a_process_is_removed_after_it_is_counted_down(_) ->
    tracker(),
    Name = {gated, -1, self(), name},
    Pid = tracked([Name]),
    kill([Pid]),
    Cleaner =
        receive
            {updating, Name, -1, Process} -> Process
        end,
    ?assertEqual({1, [Name], [{Name, 1}]}, {count(Name), names(Pid), counts()}),
    let_go(Cleaner),
    settled(),
    ?assertEqual({1, 1}, moves(Name)).

a_slow_backend_on_the_way_down_delays_no_call(_) ->
    Tracker = tracker(),
    Slow = {gated, -1, self(), name},
    kill([tracked([Slow])]),
    Cleaner =
        receive
            {updating, Slow, -1, Process} -> Process
        end,
    ?assertEqual(bad_call, gen_server:call(Tracker, anything)),
    Pid = tracked([a]),
    ?assertEqual([a], names(Pid)),
    ?assertEqual([{a, 1}, {Slow, 1}], lists:sort(counts())),
    let_go(Cleaner),
    settled([{a, 1}]).

%% The server

an_unknown_call_is_answered(_) ->
    Tracker = tracker(),
    Pid = tracked([name]),
    [
        ?assertEqual(bad_call, gen_server:call(Tracker, Call))
     || Call <- [anything, stop, {track, name, Pid}, {monitor, Pid}]
    ],
    ?assertEqual({Tracker, 1, {1, 0}}, {
        whereis(metrics_process_tracker),
        count(name),
        moves(name)
    }).

%% Some of them resemble the tracker's own messages.
unknown_casts_and_messages_are_ignored(_) ->
    Tracker = tracker(),
    Pid = tracked([name]),
    Monitors = [
        {monitor, Which}
     || Which <- [none, undefined, 1, [Pid], self(), idle(), Pid, Tracker]
    ],
    [
        ok = gen_server:cast(Tracker, Cast)
     || Cast <- [anything, stop, monitor, {monitor}, {demonitor, Pid} | Monitors]
    ],
    [
        Tracker ! Message
     || Message <- [
            anything,
            timeout,
            {'EXIT', Pid, killed},
            {'DOWN', Pid},
            {'DOWN', 1, 2, 3, 4},
            {nodedown, node()}
        ]
    ],
    ?assertEqual(bad_call, gen_server:call(Tracker, anything)),
    ?assertEqual({Tracker, [{name, 1}], {1, 0}}, {
        whereis(metrics_process_tracker),
        counts(),
        moves(name)
    }),
    kill([Pid]),
    settled(),
    ?assertEqual({1, 1}, moves(name)).

%% The cleanup of a later death shows that the forged messages led to none.
a_forged_death_is_ignored(_) ->
    Tracker = tracker(),
    Living = tracked([a, b]),
    Dead = tracked([a]),
    [
        Tracker ! {'DOWN', Which, process, Pid, killed}
     || Which <- [make_ref(), none], Pid <- [Living, Tracker, self(), none]
    ],
    kill([Dead]),
    settled([{a, 1}, {b, 1}]),
    ?assertEqual([{2, 1}, {1, 0}], [moves(Name) || Name <- [a, b]]),
    kill([Living]),
    settled(),
    ?assertEqual([{2, 2}, {1, 1}], [moves(Name) || Name <- [a, b]]).

%% Other nodes

%% Runs a case in a distributed node with empty books, and calls it with the name of another node.
beside_another_node(Case) ->
    tracked_process:beside_another_node(fun(_Peer, Node) ->
        process_flag(trap_exit, true),
        ok = ledger_backend:open(),
        Case(Node)
    end).

a_process_of_another_node_is_counted_down_when_it_dies(_) ->
    beside_another_node(fun(Node) ->
        tracker(),
        [Pid, Other] = [erlang:spawn(Node, timer, sleep, [infinity]) || _ <- [1, 2]],
        [?assertEqual(ok, track(Name, Pid)) || Name <- [a, b, a]],
        ok = track(a, Other),
        ?assertEqual([{a, 2}, {b, 1}], lists:sort(counts())),
        ?assertEqual([a, b], lists:sort(names(Pid))),
        kill([Pid]),
        settled([{a, 1}]),
        ?assertEqual([{2, 1}, {1, 1}], [moves(Name) || Name <- [a, b]])
    end).

a_process_of_another_node_is_counted_down_when_that_node_goes_down(_) ->
    beside_another_node(fun(Node) ->
        tracker(),
        Pids = [erlang:spawn(Node, timer, sleep, [infinity]) || _ <- lists:seq(1, 1000)],
        [ok = track(Name, Pid) || Pid <- [self() | Pids], Name <- [a, b, Pid]],
        ?assertEqual({1001, 1001}, {count(a), count(b)}),
        ok = erpc:cast(Node, erlang, halt, []),
        settled([{a, 1}, {b, 1}, {self(), 1}]),
        ?assertEqual([{1001, 1000}, {1001, 1000}], [moves(Name) || Name <- [a, b]]),
        [?assertEqual({1, 1}, moves(Pid)) || Pid <- Pids],
        ok = track(a, hd(Pids)),
        settled([{a, 1}, {b, 1}, {self(), 1}])
    end).

a_process_of_an_unknown_node_is_counted_up_and_then_down(_) ->
    tracker(),
    Pid = binary_to_term(<<131, 88, 119, 9, "else@here", 1:32, 0:32, 1:32>>),
    ?assertEqual(ok, track(name, Pid)),
    settled(),
    ?assertEqual({1, 1}, moves(name)).

tracking_works_without_the_application_metrics(_) ->
    on_node(#{}, fun() ->
        _ = code:del_path(metrics),
        non_existing = code:which(metrics),
        tracker(),
        Pids = [tracked([a, Number]) || Number <- [1, 2, 3]],
        ?assertEqual(ok, track(a, hd(Pids))),
        ?assertEqual([{1, 1}, {2, 1}, {3, 1}, {a, 3}], lists:sort(counts())),
        ?assertEqual([1, a], lists:sort(names(hd(Pids)))),
        kill(tl(Pids)),
        settled([{a, 1}, {1, 1}]),
        ?assertEqual({1, 0}, {count(a), count(2)}),
        kill([hd(Pids)]),
        settled()
    end).
