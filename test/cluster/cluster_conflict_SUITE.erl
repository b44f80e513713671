%% Promise: of two children of one name, all members let the same one go on. The member of the loser
%% stops it once, never restarts it, and its cleanup sees the winner.
-module(cluster_conflict_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(clusters, [on/4, settle/2, subscriber/1, events/2, with_fake/1, send/2]).
-import(cluster_child, [spec/2]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        two_sides_of_a_partition_agree,
        four_members_agree,
        a_loser_is_told_of_the_winner,
        a_loser_is_told_of_the_best_of_several_claims,
        a_zone_that_is_started_again_has_no_conflict_with_itself,
        a_loser_hands_over,
        a_loser_has_its_shutdown_time_to_hand_over,
        both_are_kept,
        a_callback_that_crashes_stops_the_loser,
        a_callback_that_hangs_stops_the_loser,
        a_loser_gives_way_to_no_child_that_has_ended,
        a_loser_gives_way_to_the_next_child_of_the_winners_member,
        a_killed_keeper_does_not_save_the_loser,
        a_keeper_that_is_killed_while_its_child_hands_over_is_replaced,
        subscribers_are_told_of_conflicts,
        processes_that_were_added_have_conflicts,
        processes_that_were_registered_have_conflicts,
        a_registered_process_hands_over,
        a_killed_registrar_does_not_save_the_loser,
        a_killed_cluster_process_does_not_save_a_registered_loser,
        a_registered_loser_lives_on_if_the_winner_has_ended,
        a_registered_loser_is_told_of_the_next_winner,
        a_process_does_not_give_way_to_itself,
        a_process_with_a_keeper_does_not_give_way_to_itself,
        a_process_gives_way_when_its_best_registration_has_ended
    ].

%% Opens a name on both sides of a partition, and returns winner and loser, with their members.
parted([One, Other] = Members, Name, Restart) ->
    clusters:cut([One], [Other]),
    opened_by_both(Members, spec(Name, Restart)).

opened_by_both(Members, Spec) ->
    Pids = [element(2, on(M, gen_tracker, find_or_open, [z, Spec])) || M <- Members],
    Ranked = lists:sort([{rank(element(1, Spec), Node), Node, M, Pid} ||
        {{_, Node} = M, Pid} <- lists:zip(Members, Pids)]),
    [{_, _, LosersMember, Loser}, {_, _, WinnersMember, Winner}] = Ranked,
    {Winner, WinnersMember, Loser, LosersMember}.

rank(Name, Node) ->
    erlang:phash2({Name, Node}, 1 bsl 32).

ends(Member, Name) ->
    [Reason || {ended, N, Reason} <- on(Member, clusters, books, []), N =:= Name].

starts(Member, Name) ->
    [Pid || {started, N, Pid} <- on(Member, clusters, books, []), N =:= Name].

two_sides_of_a_partition_agree(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Names = lists:seq(1, 20),
        clusters:cut([One], [Other]),
        [{ok, _} = on(M, gen_tracker_cluster, find_or_open, [z, spec(N, permanent)]) ||
            M <- Members, N <- Names],
        clusters:join(Members),
        settle(Members, z),
        lists:foreach(
            fun(Name) ->
                [{_, Loses}, {_, Wins}] =
                    lists:sort([{rank(Name, Node), M} || {_, Node} = M <- Members]),
                [Winner] = starts(Wins, Name),
                ?assertEqual({ok, Winner}, on(Loses, gen_tracker_cluster, find, [z, Name])),
                ?assertEqual(undefined, on(Loses, gen_tracker, find, [z, Name])),
                ?assertEqual([{conflict, Winner}], ends(Loses, Name)),
                ?assertEqual(1, length(starts(Loses, Name))),
                ?assertEqual([], ends(Wins, Name))
            end,
            Names
        )
    end).

four_members_agree(_) ->
    clusters:with(4, z, fun([A, B, C, D] = Members) ->
        Names = lists:seq(1, 10),
        clusters:cut([A], [B, C, D]),
        clusters:cut([B], [C, D]),
        clusters:cut([C], [D]),
        wait:until(fun() ->
            lists:all(fun(M) -> length(on(M, gen_tracker_cluster, members, [z])) =:= 1 end, Members)
        end),
        [{ok, _} = on(M, gen_tracker_cluster, find_or_open, [z, spec(N, transient)]) ||
            M <- Members, N <- Names],
        clusters:join(Members),
        settle(Members, z),
        lists:foreach(
            fun(Name) ->
                [{_, Wins} | Rest] =
                    lists:reverse(lists:sort([{rank(Name, Node), M} || {_, Node} = M <- Members])),
                [Winner] = starts(Wins, Name),
                [?assertMatch([{conflict, _}], ends(M, Name)) || {_, M} <- Rest],
                [?assertEqual(1, length(starts(M, Name))) || {_, M} <- Rest],
                ?assertEqual([], ends(Wins, Name)),
                [
                    ?assertEqual({ok, Winner}, on(M, gen_tracker_cluster, find, [z, Name]))
                 || M <- Members
                ]
            end,
            Names
        )
    end).

a_loser_is_told_of_the_winner(_) ->
    with_callback(stop, fun(Members) ->
        {Winner, _, Loser, Loses} = parted(Members, a, permanent),
        clusters:join(Members),
        settle(Members, z),
        ?assertEqual([{conflict, Winner}], ends(Loses, a)),
        ?assert(lists:member({asked, a, Loser, Winner}, on(Loses, clusters, books, [])))
    end).

%% Two members keep their children, and the third one starts another child of that name.
a_loser_is_told_of_the_best_of_several_claims(_) ->
    with_members(3, keep, fun(Members) ->
        %% The order of the nodes is not that of the ranks.
        [{Name, [Loses, {_, Lower} = Middle, {_, Higher} = Best]} | _] = [
            {N, Ranked}
         || N <- lists:seq(1, 1000), Ranked <- [ranked(N, Members)],
            element(2, lists:nth(2, Ranked)) < element(2, lists:nth(3, Ranked))
        ],
        ?assert(Lower < Higher),
        ok = on(Loses, clusters, stop_zone, [z]),
        Stop = #{cluster => #{conflict => {cluster_child, stop}}},
        ok = on(Loses, clusters, start_zone, [z, Stop]),
        settle(Members, z),
        Spec = spec(Name, permanent),
        {ok, _} = on(Middle, gen_tracker, find_or_open, [z, Spec]),
        {ok, Winner} = on(Best, gen_tracker, find_or_open, [z, Spec]),
        wait:until(fun() -> on(Loses, gen_tracker_cluster, count, [z]) =:= 2 end),
        {ok, Loser} = on(Loses, gen_tracker, find_or_open, [z, Spec]),
        wait:until(fun() -> ends(Loses, Name) =/= [] end),
        ?assertEqual([{conflict, Winner}], ends(Loses, Name)),
        ?assert(lists:member({asked, Name, Loser, Winner}, on(Loses, clusters, books, [])))
    end).

%% Returns members by their ranks for a name, lowest first.
ranked(Name, Members) ->
    [M || {_, M} <- lists:sort([{{rank(Name, Node), Node}, M} || {_, Node} = M <- Members])].

%% The cluster process of the last zone may end after that of the next one has begun.
a_zone_that_is_started_again_has_no_conflict_with_itself(_) ->
    with_fake(fun(One, {Other, _} = Fake, [P, Q | _]) ->
        {Subscriber, []} = subscriber(One),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        Next = {Other, on(Other, fake_member, start, [z, Process])},
        send(Fake, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, [{a, P, []}]}, complete]),
        send(Next, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, [{a, Q, []}]}, complete]),
        ?assertMatch([{members, _}, {up, a, P}, {up, a, Q}], events(One, Subscriber))
    end).

with_callback(Function, Fun) ->
    with_members(2, Function, Fun).

with_members(Number, Function, Fun) ->
    clusters:with(Number, z, #{cluster => #{conflict => {cluster_child, Function}}}, Fun).

a_loser_hands_over(_) ->
    with_callback(hand_over, fun(Members) ->
        {Winner, _, _, Loses} = parted(Members, a, permanent),
        clusters:join(Members),
        settle(Members, z),
        ?assertEqual([{conflict, Winner}], ends(Loses, a)),
        ?assert(lists:member({handed_over, a, Winner, state}, on(Loses, clusters, books, [])))
    end).

%% `a` takes longer than its shutdown time, and `c` does not. `b` has no time at all.
a_loser_has_its_shutdown_time_to_hand_over(_) ->
    with_callback(timed_hand_over, fun([One, Other] = Members) ->
        clusters:cut([One], [Other]),
        [{A, _, _, LosesA}, {B, _, _, LosesB}, {C, _, _, LosesC}] = [
            opened_by_both(Members, cluster_child:handing_over(Name, Shutdown, Duration))
         || {Name, Shutdown, Duration} <- [
                {a, 500, infinity},
                {b, brutal_kill, infinity},
                {c, infinity, 300}
            ]
        ],
        clusters:join(Members),
        settle(Members, z),
        Lost = [{a, A, LosesA}, {b, B, LosesB}, {c, C, LosesC}],
        lists:foreach(
            fun({Name, Winner, Loses}) ->
                wait:until(fun() -> ends(Loses, Name) =/= [] end),
                ?assertEqual([{conflict, Winner}], ends(Loses, Name)),
                ?assertEqual(1, length(starts(Loses, Name)))
            end,
            Lost
        ),
        [{told_to_stop, a, A, shutdown, Elapsed}] = last_acts(LosesA, a),
        ?assert(Elapsed >= 500, Elapsed),
        ?assertEqual([], last_acts(LosesB, b)),
        ?assertEqual([{handed_over, c, C}], last_acts(LosesC, c))
    end).

%% Returns what the children of a name have recorded about their ends.
last_acts(Member, Name) ->
    [Row || Row <- on(Member, clusters, books, []), element(2, Row) =:= Name,
        lists:member(element(1, Row), [handed_over, told_to_stop])].

both_are_kept(_) ->
    with_callback(keep, fun(Members) ->
        {Winner, Wins, Loser, Loses} = parted(Members, a, permanent),
        Third = element(2, on(Wins, gen_tracker, find_or_open, [z, spec(b, temporary)])),
        clusters:join(Members),
        wait:until(fun() -> on(Loses, gen_tracker_cluster, find, [z, b]) =:= {ok, Third} end),
        ?assertEqual({ok, Loser}, on(Loses, gen_tracker_cluster, find, [z, a])),
        ?assertEqual({ok, Winner}, on(Wins, gen_tracker_cluster, find, [z, a])),
        ?assertEqual([], ends(Loses, a))
    end).

a_callback_that_crashes_stops_the_loser(_) ->
    with_callback(crash, fun stopped/1).

a_callback_that_hangs_stops_the_loser(_) ->
    with_callback(slow_stop, fun stopped/1).

stopped(Members) ->
    {Winner, _, _, Loses} = parted(Members, a, permanent),
    clusters:join(Members),
    settle(Members, z),
    ?assertEqual([{conflict, Winner}], ends(Loses, a)).

a_loser_gives_way_to_no_child_that_has_ended(_) ->
    with_callback(asked_stop, fun(Members) ->
        {Winner, Wins, Loser, Loses} = asked(Members, a, temporary),
        clusters:dies(Wins, Winner),
        wait:until(fun() -> on(Loses, proctab_nif, best_claim, [z, a]) =:= undefined end),
        ok = decide(Loses, a, Loser, Winner),
        ?assertEqual({ok, Loser}, on(Wins, gen_tracker_cluster, find, [z, a])),
        %% Whatever its keeper was told, it was told before.
        clusters:dies(Loses, Loser),
        wait:until(fun() -> ends(Loses, a) =/= [] end),
        ?assertEqual([killed], ends(Loses, a))
    end).

a_loser_gives_way_to_the_next_child_of_the_winners_member(_) ->
    with_callback(asked_stop, fun(Members) ->
        {Winner, Wins, Loser, Loses} = asked(Members, a, permanent),
        clusters:dies(Wins, Winner),
        wait:until(fun() ->
            case on(Loses, proctab_nif, best_claim, [z, a]) of
                {_, Pid} -> is_pid(Pid) andalso Pid =/= Winner;
                undefined -> false
            end
        end),
        {_, Next} = on(Loses, proctab_nif, best_claim, [z, a]),
        ok = decide(Loses, a, Loser, Winner),
        ok = on(Loses, cluster_child, await_question, [a, Loser, Next]),
        ?assertEqual([], ends(Loses, a)),
        ok = decide(Loses, a, Loser, Next),
        settle(Members, z),
        ?assertEqual([{conflict, Next}], ends(Loses, a))
    end).

%% Makes a conflict, and returns when the callback has been asked.
asked(Members, Name, Restart) ->
    {Winner, _, Loser, Loses} = Parted = parted(Members, Name, Restart),
    clusters:join(Members),
    ok = on(Loses, cluster_child, await_question, [Name, Loser, Winner]),
    Parted.

%% Lets the callback decide. Returns when the cluster process has its answer.
decide(Member, Name, Loser, Winner) ->
    {Process, _, _, _} = on(Member, proctab_nif, cluster_shared, [z]),
    ok = on(Member, cluster_child, let_decision_go, [Name, Loser, Winner]),
    _ = on(Member, sys, get_state, [Process]),
    ok.

a_killed_keeper_does_not_save_the_loser(_) ->
    with_callback(slow_stop, fun(Members) ->
        %% Before the decision.
        a_keeper_is_killed(Members, fun(_, _) -> ok end)
    end).

a_keeper_that_is_killed_while_its_child_hands_over_is_replaced(_) ->
    with_callback(hand_over, fun(Members) ->
        a_keeper_is_killed(Members, fun(Member, Loser) ->
            wait:until(fun() ->
                {messages, Messages} = on(Member, erlang, process_info, [Loser, messages]),
                Messages =/= []
            end)
        end)
    end).

a_keeper_is_killed([One, Other] = Members, Await) ->
    clusters:cut([One], [Other]),
    %% Unlike a child that its keeper has started, it lives on without the keeper.
    [First, Second] = [
        begin
            Pid = on(M, erlang, spawn, [timer, sleep, [infinity]]),
            {ok, Pid} = on(M, gen_tracker, add_existing_child, [z, {Pid, spec(a, permanent)}]),
            {rank(a, element(2, M)), M, Pid}
        end
     || M <- Members
    ],
    {{_, Loses, Loser}, {_, _, Winner}} = {min(First, Second), max(First, Second)},
    clusters:join(Members),
    wait:until(fun() ->
        on(Loses, proctab_nif, best_claim, [z, a]) =:= {node(Winner), Winner}
    end),
    Await(Loses, Loser),
    {running, Loser, Keeper, _} = on(Loses, proctab_nif, child, [z, a]),
    clusters:dies(Loses, Keeper),
    settle(Members, z),
    ?assertEqual([{conflict, Winner}], ends(Loses, a)),
    ?assertEqual([], starts(Loses, a)).

subscribers_are_told_of_conflicts(_) ->
    clusters:with(2, z, fun(Members) ->
        {Winner, _, Loser, Loses} = parted(Members, a, permanent),
        Subscribers = [{M, element(1, clusters:subscriber(M))} || M <- Members],
        clusters:join(Members),
        settle(Members, z),
        lists:foreach(
            fun({M, Subscriber}) ->
                Events = clusters:events(M, Subscriber),
                ?assertEqual(
                    [{conflict, a, Winner, Loser}], [E || {conflict, _, _, _} = E <- Events]
                ),
                ?assertEqual(
                    [{down, a, Loser, {conflict, Winner}}], [E || {down, _, _, _} = E <- Events]
                )
            end,
            Subscribers
        ),
        ?assertEqual(1, length(starts(Loses, a)))
    end).

processes_that_were_added_have_conflicts(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        clusters:cut([One], [Other]),
        Pids = [on(M, erlang, spawn, [timer, sleep, [infinity]]) || M <- Members],
        [{ok, Pid} = on(M, gen_tracker, add_existing_child, [z, {a, Pid, worker, []}]) ||
            {M, Pid} <- lists:zip(Members, Pids)],
        clusters:join(Members),
        settle(Members, z),
        ?assertEqual(1, length([M || {M, Pid} <- lists:zip(Members, Pids),
            on(M, erlang, is_process_alive, [Pid])]))
    end).

processes_that_were_registered_have_conflicts(_) ->
    clusters:with(2, z, fun(Members) ->
        Names = lists:seq(1, 20),
        Lost = registered_by_both(Members, Names),
        Subscribers = [{M, element(1, subscriber(M))} || M <- Members],
        clusters:join(Members),
        settle(Members, z),
        [
            begin
                {_, Subscriber} = lists:keyfind(Loses, 1, Subscribers),
                Conflict = {conflict, Winner},
                ?assertEqual([Conflict], [R || {down, N, Pid, R} <- events(Loses, Subscriber),
                    N =:= Name, Pid =:= Loser]),
                ?assertNot(on(Loses, erlang, is_process_alive, [Loser])),
                [
                    ?assertEqual({ok, Winner}, on(M, gen_tracker_cluster, find, [z, Name]))
                 || M <- Members
                ]
            end
         || {Name, Winner, Loser, Loses} <- Lost
        ]
    end).

a_registered_process_hands_over(_) ->
    with_callback(hand_over, fun(Members) ->
        [{Name, Winner, _, Loses}] = registered_by_both(Members, [a]),
        clusters:join(Members),
        settle(Members, z),
        ?assert(lists:member({handed_over, Name, Winner, state}, on(Loses, clusters, books, [])))
    end).

%% The registrar is killed before it can give the loser to a keeper.
a_killed_registrar_does_not_save_the_loser(_) ->
    clusters:with(2, z, fun(Members) ->
        [{Name, Winner, Loser, Loses}] = registered_by_both(Members, [a]),
        {running, Loser, Registrar, _} = on(Loses, proctab_nif, child, [z, Name]),
        ok = on(Loses, sys, suspend, [z]),
        ok = on(Loses, ?MODULE, suspend, [Registrar]),
        clusters:join(Members),
        await_message(Loses, on(Loses, erlang, whereis, [z]), needs_keeper),
        ok = on(Loses, sys, resume, [z]),
        await_message(Loses, Registrar, give),
        true = on(Loses, erlang, exit, [Registrar, kill]),
        settle(Members, z),
        ?assertNot(on(Loses, erlang, is_process_alive, [Loser])),
        ?assertEqual({ok, Winner}, on(Loses, gen_tracker_cluster, find, [z, Name]))
    end).

%% The cluster process is killed before the loser has a keeper, and forgets the conflict.
a_killed_cluster_process_does_not_save_a_registered_loser(_) ->
    clusters:with(2, z, fun(Members) ->
        [{Name, Winner, Loser, Loses}] = registered_by_both(Members, [a]),
        {running, Loser, Registrar, _} = on(Loses, proctab_nif, child, [z, Name]),
        _ = suspended_at_conflict(Loses, Members),
        {Cluster, _, _, _} = on(Loses, proctab_nif, cluster_shared, [z]),
        ok = clusters:dies(Loses, Cluster),
        true = on(Loses, erlang, exit, [Registrar, kill]),
        ok = on(Loses, sys, resume, [z]),
        settle(Members, z),
        ?assertNot(on(Loses, erlang, is_process_alive, [Loser])),
        ?assertEqual({ok, Winner}, on(Loses, gen_tracker_cluster, find, [z, Name]))
    end).

%% The winner ends before the loser has a keeper, which would stop it.
a_registered_loser_lives_on_if_the_winner_has_ended(_) ->
    clusters:with(2, z, fun(Members) ->
        [{Name, Winner, Loser, Loses}] = registered_by_both(Members, [a]),
        {Wins, _} = suspended_at_conflict(Loses, Members),
        ok = clusters:dies(Wins, Winner),
        wait:until(fun() -> on(Loses, proctab_nif, best_claim, [z, Name]) =:= undefined end),
        ok = on(Loses, sys, resume, [z]),
        await_keeper(Loses, Name, Loser),
        %% The cluster process has looked again.
        timer:sleep(300),
        ?assert(on(Loses, erlang, is_process_alive, [Loser])),
        settle(Members, z),
        [?assertEqual({ok, Loser}, on(M, gen_tracker_cluster, find, [z, Name])) || M <- Members]
    end).

%% The winner is replaced before the loser has a keeper.
a_registered_loser_is_told_of_the_next_winner(_) ->
    clusters:with(2, z, fun(Members) ->
        [{Name, Winner, Loser, Loses}] = registered_by_both(Members, [a]),
        {Wins, Subscriber} = suspended_at_conflict(Loses, Members),
        {ok, Next} = on(Wins, cluster_child, start_link, [Name]),
        yes = on(Wins, gen_tracker, re_register_name, [{z, Name}, Next]),
        wait:until(fun() ->
            {_, Pid} = on(Loses, proctab_nif, best_claim, [z, Name]),
            Pid =:= Next
        end),
        ok = on(Loses, sys, resume, [z]),
        settle(Members, z),
        ?assertNot(on(Loses, erlang, is_process_alive, [Loser])),
        ?assert(on(Wins, erlang, is_process_alive, [Winner])),
        ?assertEqual([{conflict, Next}], [R || {down, N, Pid, R} <- events(Loses, Subscriber),
            N =:= Name, Pid =:= Loser])
    end).

a_process_does_not_give_way_to_itself(_) ->
    clusters:with(3, z, fun(Members) ->
        [Loses, _, _] = Ranked = ranked(a, Members),
        {Pid, _} = best_on_two_members(Ranked, [Loses]),
        [?assertEqual({ok, Pid}, on(M, gen_tracker_cluster, find, [z, a])) || M <- Members],
        ?assert(on(Loses, erlang, is_process_alive, [Pid]))
    end).

%% Its keeper could be told at once.
a_process_with_a_keeper_does_not_give_way_to_itself(_) ->
    clusters:with(3, z, fun(Members) ->
        [Loses, Middle, {_, Node} = Best] = ranked(a, Members),
        [{ok, Pid}, {ok, Other}] = [
            on(M, cluster_child, start_link, [a]) || M <- [Loses, Middle]
        ],
        [
            {ok, Pid} = on(M, gen_tracker, add_existing_child, [z, {Pid, spec(a, temporary)}])
         || M <- [Loses, Best]
        ],
        wait:until(fun() -> on(Loses, proctab_nif, best_claim, [z, a]) =:= {Node, Pid} end),
        {ok, Other} = on(Middle, gen_tracker, add_existing_child, [z, {a, Other, worker, []}]),
        wait:until(fun() -> not on(Middle, erlang, is_process_alive, [Other]) end),
        %% The other members have handled what the middle one has told them.
        timer:sleep(300),
        [?assertEqual({ok, Pid}, on(M, gen_tracker_cluster, find, [z, a])) || M <- Members],
        ?assert(on(Loses, erlang, is_process_alive, [Pid]))
    end).

%% The best member gives up the process, before the child of the middle one has given way to it.
a_process_gives_way_when_its_best_registration_has_ended(_) ->
    clusters:with(3, z, fun(Members) ->
        [Loses, Middle, Best] = Ranked = ranked(a, Members),
        {Pid, Next} = best_on_two_members(Ranked, [Loses, Middle]),
        ok = on(Best, gen_tracker, unregister_name, [{z, a}]),
        [
            wait:until(fun() -> on(M, proctab_nif, best_claim, [z, a]) =:= {node(P), P} end)
         || {M, P} <- [{Loses, Next}, {Middle, Pid}]
        ],
        ok = on(Middle, sys, resume, [z]),
        settle(Members, z),
        [?assertEqual({ok, Next}, on(M, gen_tracker_cluster, find, [z, a])) || M <- Members],
        ?assertNot(on(Loses, erlang, is_process_alive, [Pid]))
    end).

%% Registers two processes, on the worst and the middle member. While the first waits for a keeper,
%% the best member adds the same process. Returns the processes when the worst member has seen that.
%% Before that, the trackers of the members `Suspended' give no keeper. All but the first stay so.
best_on_two_members([Loses, Middle, Best] = Members, [Loses | Others] = Suspended) ->
    clusters:cut([Middle], [Loses, Best]),
    wait:until(fun() ->
        length(on(Middle, gen_tracker_cluster, members, [z])) =:= 1 andalso
            length(on(Loses, gen_tracker_cluster, members, [z])) =:= 2
    end),
    [Pid, Next] = [registered(M, a) || M <- [Loses, Middle]],
    [ok = on(M, sys, suspend, [z]) || M <- Suspended],
    clusters:join(Members),
    await_message(Loses, on(Loses, erlang, whereis, [z]), needs_keeper),
    {ok, Pid} = on(Best, gen_tracker, add_existing_child, [z, {a, Pid, worker, []}]),
    [await_message(M, on(M, erlang, whereis, [z]), needs_keeper) || M <- Others],
    {_, Node} = Best,
    wait:until(fun() -> on(Loses, proctab_nif, best_claim, [z, a]) =:= {Node, Pid} end),
    ok = on(Loses, sys, resume, [z]),
    await_keeper(Loses, a, Pid),
    %% The cluster process has looked again.
    timer:sleep(300),
    {Pid, Next}.

%% Joins the members while the tracker of the losing one is suspended, and waits until that is asked
%% for a keeper. Returns the other member, and a subscriber of the losing one.
suspended_at_conflict(Loses, Members) ->
    [Wins] = Members -- [Loses],
    {Subscriber, _} = subscriber(Loses),
    ok = on(Loses, sys, suspend, [z]),
    clusters:join(Members),
    await_message(Loses, on(Loses, erlang, whereis, [z]), needs_keeper),
    {Wins, Subscriber}.

await_keeper(Member, Name, Pid) ->
    Registrars = on(Member, proctab_nif, registrars, [z]),
    wait:until(fun() ->
        {running, Pid, Keeper, _} = on(Member, proctab_nif, child, [z, Name]),
        not lists:member(Keeper, Registrars)
    end).

%% Waits until a process has such a message in its mailbox.
await_message(Member, Pid, What) ->
    wait:until(fun() ->
        {messages, Messages} = on(Member, erlang, process_info, [Pid, messages]),
        lists:keymember(What, 2, Messages)
    end).

%% Suspends a process until it is killed.
suspend(Pid) ->
    Caller = self(),
    spawn(fun() ->
        Monitor = monitor(process, Pid),
        true = erlang:suspend_process(Pid),
        Caller ! suspended,
        receive
            {'DOWN', Monitor, process, Pid, _} -> ok
        end
    end),
    receive
        suspended -> ok
    end.

%% Registers processes under these names on both sides of a partition. Returns names, winners and
%% losers, and the members of these. No process has a keeper of its own.
registered_by_both([One, Other] = Members, Names) ->
    clusters:cut([One], [Other]),
    wait:until(fun() ->
        lists:all(fun(M) -> length(on(M, gen_tracker_cluster, members, [z])) =:= 1 end, Members)
    end),
    [
        begin
            [{_, Loses, Loser}, {_, _, Winner}] =
                lists:sort([{rank(Name, element(2, M)), M, registered(M, Name)} || M <- Members]),
            {Name, Winner, Loser, Loses}
        end
     || Name <- Names
    ].

registered(Member, Name) ->
    {ok, Pid} = on(Member, cluster_child, start_link, [Name]),
    Module = lists:nth(1 + erlang:phash2(Name, 2), [gen_tracker, gen_tracker_cluster]),
    yes = on(Member, Module, register_name, [{z, Name}, Pid]),
    {running, Pid, Registrar, _} = on(Member, proctab_nif, child, [z, Name]),
    ?assert(lists:member(Registrar, on(Member, proctab_nif, registrars, [z]))),
    Pid.
