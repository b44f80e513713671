%% Promise: a name is started once among all members, on its home, however many processes ask on
%% however many nodes; a member that is drained starts nothing.
-module(cluster_opening_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(clusters, [on/4, settle/2]).
-import(cluster_child, [spec/1, slow/2]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        a_name_is_started_on_its_home,
        many_callers_on_all_members_get_one_child,
        many_callers_get_one_child_with_the_lock,
        a_name_that_is_held_is_asked_of_its_holder,
        a_child_of_another_member_is_known_to_its_caller,
        a_child_of_another_member_that_starts_slowly_is_found_by_its_caller,
        errors_of_a_start_reach_the_caller_on_another_member,
        the_end_of_the_home_is_an_error,
        a_zone_that_stops_during_a_start_is_an_error,
        a_zone_that_stops_slowly_is_nobodys_home,
        a_member_that_joins_moves_nothing,
        permanent_children_of_a_lost_node_are_started_by_the_next_request,
        members_that_never_agree_have_no_home,
        a_home_that_does_not_agree_is_no_home,
        a_drained_member_is_nobodys_home,
        a_drained_member_stays_drained_without_its_cluster_process,
        drain_returns_when_the_children_have_gone,
        a_start_that_was_decided_before_a_drain_is_refused_after_it,
        no_start_function_is_called_after_a_drain,
        a_name_is_started_on_its_home_after_a_cleanup_elsewhere,
        a_drained_member_starts_nothing_after_a_cleanup,
        a_drained_member_starts_nothing_after_the_wait_for_the_lock,
        a_child_that_runs_ends_the_wait_for_the_lock,
        the_wait_for_the_lock_has_a_limit,
        a_dead_child_of_this_node_that_another_member_holds_is_not_returned,
        a_process_is_registered_after_a_cleanup,
        a_registration_gives_its_home_no_result,
        a_start_may_return_what_a_registration_does_not,
        a_start_may_return_what_a_zone_that_ends_answers,
        a_process_is_registered_although_its_home_ends,
        a_process_that_loses_its_name_at_once_does_not_hold_up_the_home,
        a_process_is_registered_elsewhere_when_its_home_has_ended,
        a_name_is_registered_once,
        a_name_is_registered_once_with_the_lock,
        a_home_waits_for_the_lock_to_register_a_process,
        a_home_registers_no_process_after_one_of_another_member,
        a_start_that_was_decided_before_a_registration_is_refused_after_it,
        a_name_that_was_held_is_registered_by_its_home,
        a_registered_name_is_not_started,
        terms_that_are_too_large_are_refused_on_any_member,
        via_names_work_with_gen_server,
        one_of_the_servers_that_a_start_function_starts_gets_the_name,
        a_name_is_unregistered_from_any_member
    ].

find_or_open(Member, Zone, Spec) ->
    on(Member, gen_tracker_cluster, find_or_open, [Zone, Spec]).

home(Member, Zone, Name) ->
    on(Member, gen_tracker_cluster, home, [Zone, Name]).

%% Returns a name whose home is this member.
name_of({_, Node} = Member, Zone) ->
    hd([Name || Name <- lists:seq(1, 1000), home(Member, Zone, Name) =:= Node]).

starts(Members) ->
    lists:append([on(Member, clusters, books, []) || Member <- Members]).

a_name_is_started_on_its_home(_) ->
    clusters:with(3, z, fun([One | _] = Members) ->
        Homes = [
            begin
                {ok, Pid} = find_or_open(One, z, spec(Name)),
                [Home] = lists:usort([home(Member, z, Name) || Member <- Members]),
                ?assertEqual(Home, node(Pid)),
                ?assertEqual({ok, Pid}, find_or_open(One, z, spec(Name))),
                Home
            end
         || Name <- lists:seq(1, 50)
        ],
        ?assertEqual(3, length(lists:usort(Homes))),
        settle(Members, z)
    end).

many_callers_on_all_members_get_one_child(_) ->
    clusters:with(3, z, fun many_callers/1).

many_callers_get_one_child_with_the_lock(_) ->
    clusters:with(3, z, #{cluster => #{unique => lock}}, fun many_callers/1).

many_callers(Members) ->
    [
        begin
            Calls = [
                erpc_call(Member, gen_tracker_cluster, find_or_open, [z, slow({n, N}, 20)])
             || Member <- Members, _ <- lists:seq(1, 5)
            ],
            [{ok, Pid}] = lists:usort([answer(Call) || Call <- Calls]),
            ?assertEqual([{started, {n, N}, Pid}], [Row || {_, {n, M}, _} = Row <- starts(Members),
                M =:= N])
        end
     || N <- lists:seq(1, 10)
    ],
    settle(Members, z).

%% Calls a function on a node, in a process of its own.
erpc_call(Member, Module, Function, Arguments) ->
    Test = self(),
    spawn_link(fun() -> Test ! {self(), on(Member, Module, Function, Arguments)} end).

answer(Call) ->
    receive
        {Call, Answer} -> Answer
    after 30000 -> ct:fail(no_answer)
    end.

a_name_that_is_held_is_asked_of_its_holder(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = name_of(Other, z),
        %% It is started where it is not at home.
        Call = erpc_call(One, gen_tracker, find_or_open, [z, slow(Name, 500)]),
        wait:until(fun() ->
            on(Other, proctab_nif, best_claim, [z, Name]) =:= {element(2, One), held}
        end),
        {ok, Pid} = find_or_open(Other, z, spec(Name)),
        ?assertEqual({ok, Pid}, answer(Call)),
        ?assertEqual([{started, Name, Pid}], starts(Members))
    end).

%% The member of the caller handles the claim later than the caller has the answer of the home.
a_child_of_another_member_is_known_to_its_caller(_) ->
    clusters:with(2, z, fun([{_, Node} = One, Other]) ->
        Name = name_of(Other, z),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        ok = on(One, sys, suspend, [Process]),
        Writing = callers:ask(fun() -> on(One, ?MODULE, open_and_write, [Name]) end),
        wait:until(fun() -> is_watched_from(Node, Name, Other) end),
        ok = on(One, sys, resume, [Process]),
        ?assertEqual({answer, ok}, callers:answer(Writing))
    end).

%% Whether a process of a node monitors the child of a member.
is_watched_from(Node, Name, Member) ->
    case on(Member, gen_tracker, find, [z, Name]) of
        {ok, Pid} ->
            {_, Watching} = on(Member, erlang, process_info, [Pid, monitored_by]),
            lists:member(Node, [node(Watcher) || Watcher <- Watching]);
        undefined ->
            false
    end.

%% The caller's member knows that the name is held before it knows the child.
a_child_of_another_member_that_starts_slowly_is_found_by_its_caller(_) ->
    clusters:with(2, z, fun([{_, Node} = One, {_, Home} = Other]) ->
        Name = name_of(Other, z),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        Finding = callers:ask(fun() -> on(One, ?MODULE, open_and_find, [Name]) end),
        wait:until(fun() -> on(One, proctab_nif, claim_owner, [z, Name]) =:= Home end),
        ok = on(One, sys, suspend, [Process]),
        wait:until(fun() -> is_watched_from(Node, Name, Other) end),
        ok = on(One, sys, resume, [Process]),
        {answer, {Opened, Found}} = callers:answer(Finding),
        ?assertEqual(Opened, Found)
    end).

open_and_find(Name) ->
    Opened = gen_tracker_cluster:find_or_open(z, cluster_child:slow(Name, 1000)),
    {Opened, gen_tracker_cluster:find(z, Name)}.

open_and_write(Name) ->
    {ok, _} = gen_tracker_cluster:find_or_open(z, spec(Name)),
    gen_tracker_cluster:setattr(z, Name, key, value).

errors_of_a_start_reach_the_caller_on_another_member(_) ->
    clusters:with(2, z, fun([One, Other]) ->
        Name = name_of(Other, z),
        Spec = fun(F, Args) -> {Name, {erlang, F, Args}, temporary} end,
        ?assertEqual({error, oops}, find_or_open(One, z, Spec(error, [oops]))),
        ?assertEqual({error, no}, find_or_open(One, z, Spec(hd, [[{error, no}]]))),
        ?assertEqual(ignore, find_or_open(One, z, Spec(hd, [[ignore]]))),
        ?assertEqual({error, 404, no}, find_or_open(One, z, Spec(hd, [[{error, 404, no}]]))),
        ?assertEqual({error, {invalid_mfa, wrong}}, find_or_open(One, z, {Name, wrong, temporary})),
        ?assertMatch({error, _}, find_or_open(One, z, wrong)),
        ?assertEqual(undefined, on(One, gen_tracker_cluster, find, [z, Name]))
    end).

the_end_of_the_home_is_an_error(_) ->
    clusters:with(2, z, fun([One, {Peer, Node} = Other]) ->
        Name = name_of(Other, z),
        Call = erpc_call(One, gen_tracker_cluster, find_or_open, [z, slow(Name, 20000)]),
        wait:until(fun() -> on(One, proctab_nif, best_claim, [z, Name]) =:= {Node, held} end),
        ok = peer:stop(Peer),
        ?assertEqual({error, {nodedown, Node}}, answer(Call)),
        {ok, Pid} = find_or_open(One, z, spec(Name)),
        ?assertEqual(element(2, One), node(Pid))
    end).

a_zone_that_stops_during_a_start_is_an_error(_) ->
    clusters:with(2, z, fun([One, {_, Node} = Other]) ->
        Name = name_of(Other, z),
        Call = erpc_call(One, gen_tracker_cluster, find_or_open, [z, slow(Name, 20000)]),
        wait:until(fun() -> on(One, proctab_nif, best_claim, [z, Name]) =:= {Node, held} end),
        ok = on(Other, clusters, stop_zone, [z]),
        ?assertEqual({error, {nodedown, Node}}, answer(Call)),
        {ok, Pid} = find_or_open(One, z, spec(Name)),
        ?assertEqual(element(2, One), node(Pid))
    end).

a_zone_that_stops_slowly_is_nobodys_home(_) ->
    clusters:with(2, z, fun([One, {_, Node} = Other]) ->
        {Slow, Name} = {held_name_of(One, z), name_of(One, z)},
        {ok, _} = find_or_open(One, z, setelement(4, spec(Slow), infinity)),
        Stop = erpc_call(One, clusters, stop_zone, [z]),
        ok = on(One, cluster_child, await_cleanup, [Slow]),
        wait:until(fun() -> home(Other, z, Name) =:= Node end),
        {ok, Pid} = find_or_open(Other, z, spec(Name)),
        ?assertEqual(Node, node(Pid)),
        ok = on(One, cluster_child, let_cleanup_go, [Slow]),
        ?assertEqual(ok, answer(Stop))
    end).

a_member_that_joins_moves_nothing(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        ok = on(Other, clusters, stop_zone, [z]),
        wait:until(fun() -> length(on(One, gen_tracker_cluster, members, [z])) =:= 1 end),
        Pids = [{N, find_or_open(One, z, spec(N))} || N <- lists:seq(1, 20)],
        ok = on(Other, clusters, start_zone, [z, #{cluster => true}]),
        settle(Members, z),
        [?assertEqual(Pid, find_or_open(Other, z, spec(N))) || {N, Pid} <- Pids],
        ?assertEqual([], on(Other, clusters, books, []))
    end).

members_that_never_agree_have_no_home(_) ->
    clusters:with(2, z, fun([One, Other]) ->
        %% Neither accepts starts any more.
        ok = on(One, gen_tracker_cluster, drain, [z]),
        ok = on(Other, gen_tracker_cluster, drain, [z]),
        wait:until(fun() -> home(One, z, a) =:= undefined end),
        ?assertEqual({error, no_home}, find_or_open(One, z, spec(a)))
    end).

%% The other member is a home by its own messages, and its node does not run the zone.
a_home_that_does_not_agree_is_no_home(_) ->
    clusters:with_fake(fun(One, {{_, Node}, _} = Fake, _) ->
        clusters:send(Fake, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, []}, complete]),
        Names = lists:seq(1, 1000),
        Name = hd([N || N <- Names, home(One, z, N) =:= Node]),
        ?assertEqual({error, no_home}, find_or_open(One, z, spec(Name))),
        Own = hd([N || N <- Names, home(One, z, N) =/= Node]),
        {ok, _} = find_or_open(One, z, spec(Own))
    end).

permanent_children_of_a_lost_node_are_started_by_the_next_request(_) ->
    clusters:with(3, z, fun([One, Other, {Peer, _} = Last]) ->
        Names = [{name, N} || N <- lists:seq(1, 10)],
        Permanent = fun(Name) -> cluster_child:spec(Name, permanent) end,
        [{ok, _} = on(Last, gen_tracker, find_or_open, [z, Permanent(Name)]) || Name <- Names],
        settle([One, Other, Last], z),
        ok = peer:stop(Peer),
        settle([One, Other], z),
        ?assertEqual([], clusters:directory(One, z)),
        ?assertEqual([], starts([One, Other])),
        Pids = [element(2, find_or_open(One, z, Permanent(Name))) || Name <- Names],
        Started = [Pid || {started, _, Pid} <- starts([One, Other])],
        ?assertEqual(lists:sort(Pids), lists:sort(Started))
    end).

a_drained_member_is_nobodys_home(_) ->
    clusters:with(2, z, fun([One, {_, Node} = Other] = Members) ->
        Name = name_of(Other, z),
        ok = on(Other, gen_tracker_cluster, drain, [z]),
        {ok, Pid} = find_or_open(Other, z, spec(Name)),
        ?assertEqual(element(2, One), node(Pid)),
        wait:until(fun() -> home(One, z, Name) =:= element(2, One) end),
        ?assert(lists:member(Node, on(One, gen_tracker_cluster, members, [z]))),
        wait:until(fun() ->
            lists:all(fun(M) -> clusters:directory(M, z) =:= [{Name, Pid}] end, Members)
        end)
    end).

a_drained_member_stays_drained_without_its_cluster_process(_) ->
    clusters:with(2, z, fun([One, {_, Node} = Other]) ->
        ok = on(Other, gen_tracker_cluster, drain, [z]),
        ok = on(Other, clusters, kill_cluster_process, [z]),
        wait:until(fun() -> lists:member(Node, on(One, gen_tracker_cluster, members, [z])) end),
        wait:until(fun() -> home(Other, z, any) =/= undefined end),
        ?assertEqual([], [Name || Name <- lists:seq(1, 50), M <- [One, Other],
            home(M, z, Name) =:= Node])
    end).

drain_returns_when_the_children_have_gone(_) ->
    clusters:with(2, z, fun([One, Other]) ->
        Name = name_of(One, z),
        {ok, Pid} = find_or_open(One, z, spec(Name)),
        Call = erpc_call(One, gen_tracker_cluster, drain, [z]),
        wait:until(fun() -> home(Other, z, Name) =:= element(2, Other) end),
        receive
            {Call, _} -> ct:fail(too_early)
        after 100 -> ok
        end,
        Pid2 = find_or_open(Other, z, spec(Name)),
        ?assertEqual({ok, Pid}, Pid2),
        clusters:dies(One, Pid),
        ?assertEqual(ok, answer(Call))
    end).

a_start_that_was_decided_before_a_drain_is_refused_after_it(_) ->
    clusters:with(2, z, fun([One | _] = Members) ->
        Name = name_of(One, z),
        ok = on(One, gen_tracker_cluster, drain, [z]),
        opening_is_refused(Name, One),
        ok = on(One, clusters, kill_cluster_process, [z]),
        opening_is_refused(Name, One),
        ok = on(One, gen_tracker_cluster, drain, [z]),
        %% The zone itself goes on.
        {ok, Pid} = on(One, gen_tracker, find_or_open, [z, spec(Name)]),
        ?assertEqual([{started, Name, Pid}], starts(Members))
    end).

%% A member that has decided that it is the home of a name is not, when it starts it.
opening_is_refused(Name, Member) ->
    ?assertEqual(undecided, on(Member, erlang, apply, [fun open_home/1, [Name]])),
    %% As a callback of the zone does it.
    {ok, Name, Spec} = gen_tracker_spec:check(spec(Name)),
    Request = {open_home, Name, Spec, undefined},
    ?assertEqual('$gen_tracker_undecided', on(Member, gen_server, call, [z, Request])),
    ?assertEqual(0, on(Member, gen_tracker, count, [z])).

open_home(Name) ->
    {ok, Name, Spec} = gen_tracker_spec:check(spec(Name)),
    gen_tracker_opening:open_home(z, Name, Spec, infinity).

no_start_function_is_called_after_a_drain(_) ->
    clusters:with(2, z, fun([One | _]) ->
        Names = [Name || Name <- lists:seq(1, 40), home(One, z, Name) =:= element(2, One)],
        Open = fun() ->
            [
                ignore = gen_tracker_cluster:find_or_open(
                    z, {Name, {cluster_child, return, [Name, ignore]}, temporary}
                )
             || _ <- lists:seq(1, 20), Name <- Names
            ]
        end,
        Calls = [erpc_call(One, erlang, apply, [Open, []]) || _ <- lists:seq(1, 4)],
        wait:until(fun() -> length(on(One, clusters, books, [])) > 20 end),
        ok = on(One, gen_tracker_cluster, drain, [z]),
        Called = on(One, clusters, books, []),
        [_ = answer(Call) || Call <- Calls],
        ?assertEqual(Called, on(One, clusters, books, []))
    end).

%% Both the caller on the member that holds the name and the one on the home wait for that member.
a_name_is_started_on_its_home_after_a_cleanup_elsewhere(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = held_name_of(Other, z),
        cleaning_up(One, Name, Members),
        Calls = [erpc_call(M, gen_tracker_cluster, find_or_open, [z, spec(Name)]) || M <- Members],
        await_requests(2, One),
        ok = on(One, cluster_child, let_cleanup_go, [Name]),
        [{ok, Pid}] = lists:usort([answer(Call) || Call <- Calls]),
        ?assertEqual(element(2, Other), node(Pid)),
        ?assertEqual([Pid], [P || {started, _, P} <- on(Other, clusters, books, [])]),
        settle(Members, z)
    end).

%% Returns a name whose home is this member, and whose cleanup waits for the test.
held_name_of({_, Node} = Member, Zone) ->
    hd([Name || N <- lists:seq(1, 1000), Name <- [{held, N}], home(Member, Zone, Name) =:= Node]).

%% Starts a child on a member, and kills it. All members know that its cleanup has begun.
cleaning_up(Member, Name, Members) ->
    {ok, Pid} = on(Member, gen_tracker, find_or_open, [z, spec(Name)]),
    clusters:dies(Member, Pid),
    ok = on(Member, cluster_child, await_cleanup, [Name]),
    Claim = {element(2, Member), held},
    wait:until(fun() ->
        lists:all(
            fun(M) -> on(M, proctab_nif, best_claim, [z, Name]) =:= Claim end, Members -- [Member]
        )
    end).

%% Waits until the tracker of a member has queued so many requests.
await_requests(Number, Member) ->
    wait:until(fun() ->
        Waiting = maps:values(on(Member, tracker_state, waiting, [z])),
        length(lists:append(Waiting)) =:= Number
    end).

a_drained_member_starts_nothing_after_a_cleanup(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = held_name_of(One, z),
        cleaning_up(One, Name, Members),
        Call = erpc_call(One, gen_tracker_cluster, find_or_open, [z, spec(Name)]),
        await_requests(1, One),
        Drain = erpc_call(One, gen_tracker_cluster, drain, [z]),
        wait:until(fun() -> home(One, z, Name) =:= element(2, Other) end),
        ok = on(One, cluster_child, let_cleanup_go, [Name]),
        {ok, Pid} = answer(Call),
        ?assertEqual(element(2, Other), node(Pid)),
        ?assertEqual(ok, answer(Drain))
    end).

a_drained_member_starts_nothing_after_the_wait_for_the_lock(_) ->
    clusters:with(2, z, #{cluster => #{unique => lock}}, fun([One, Other]) ->
        Name = name_of(One, z),
        Holder = on(Other, erlang, apply, [fun() -> lock(Name) end, []]),
        Call = erpc_call(One, gen_tracker_cluster, find_or_open, [z, spec(Name)]),
        wait:until(fun() -> on(One, erlang, apply, [fun is_any_waiting_for_a_lock/0, []]) end),
        ok = on(One, gen_tracker_cluster, drain, [z]),
        wait:until(fun() -> home(Other, z, Name) =:= element(2, Other) end),
        clusters:dies(Other, Holder),
        {ok, Pid} = answer(Call),
        ?assertEqual(element(2, Other), node(Pid))
    end).

%% Starts a process that holds the lock of a name while it lives.
lock(Name) ->
    Caller = self(),
    Holder = spawn(fun() ->
        true = global:set_lock({{gen_tracker_cluster, z, Name}, self()}),
        Caller ! {self(), locked},
        receive
        after infinity -> ok
        end
    end),
    receive
        {Holder, locked} -> Holder
    end.

is_any_waiting_for_a_lock() ->
    lists:any(
        fun(Pid) ->
            case process_info(Pid, current_stacktrace) of
                {_, Frames} -> lists:any(fun awaits_lock/1, Frames);
                undefined -> false
            end
        end,
        processes()
    ).

awaits_lock({Module, Function, _, _}) ->
    {Module, Function} =:= {gen_tracker_cluster_opening, await_lock}.

a_child_that_runs_ends_the_wait_for_the_lock(_) ->
    clusters:with(2, z, #{cluster => #{unique => lock}}, fun([One, Other] = Members) ->
        Name = name_of(One, z),
        _ = on(Other, erlang, apply, [fun() -> lock(Name) end, []]),
        Calls = [erpc_call(M, gen_tracker_cluster, find_or_open, [z, spec(Name)]) || M <- Members],
        wait:until(fun() -> on(One, erlang, apply, [fun is_any_waiting_for_a_lock/0, []]) end),
        {ok, Pid} = on(One, gen_tracker, find_or_open, [z, spec(Name)]),
        [?assertEqual({ok, Pid}, answer(Call)) || Call <- Calls]
    end).

the_wait_for_the_lock_has_a_limit(_) ->
    clusters:with(2, z, #{cluster => #{unique => lock}}, fun([One, Other] = Members) ->
        Name = name_of(One, z),
        Holder = on(Other, erlang, apply, [fun() -> lock(Name) end, []]),
        Serve = fun() ->
            try
                gen_tracker_cluster_opening:serve(z, spec(Name), 0, 100)
            catch
                exit:{Reason, _} -> Reason
            end
        end,
        ?assertEqual(timeout, on(One, erlang, apply, [Serve, []])),
        clusters:dies(Other, Holder),
        {ok, _} = find_or_open(Other, z, spec(Name)),
        ?assertEqual(1, length(starts(Members)))
    end).

%% Another member may hold a process of the caller's node, and notice its death later.
a_dead_child_of_this_node_that_another_member_holds_is_not_returned(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Names = [started, registered],
        Held = [{Name, hold_process_of(Other, One, Name)} || Name <- Names],
        settle(Members, z),
        Stopped = [stop_keeper(One, Name) || Name <- Names],
        [clusters:dies(Other, Pid) || {_, Pid} <- Held],
        [
            begin
                ?assertEqual(undefined, on(Other, gen_tracker_cluster, find, [z, Name])),
                ?assertEqual(undefined, on(Other, gen_tracker_cluster, whereis_name, [{z, Name}]))
            end
         || Name <- Names
        ],
        Pid = process(Other),
        Calls = [
            erpc_call(Other, gen_tracker_cluster, find_or_open, [z, spec(started)]),
            erpc_call(Other, gen_tracker_cluster, register_name, [{z, registered}, Pid])
        ],
        [clusters:dies(One, Suspending) || Suspending <- Stopped],
        [{ok, Next}, yes] = [answer(Call) || Call <- Calls],
        settle(Members, z),
        ?assertEqual(
            [{registered, Pid}, {started, Next}], clusters:directory(Other, z)
        )
    end).

%% Starts a process on one member and adds it on another one.
hold_process_of(Member, Holder, Name) ->
    Pid = process(Member),
    {ok, Pid} = on(Holder, gen_tracker, add_existing_child, [z, {Name, Pid, worker, []}]),
    Pid.

%% Suspends the keeper of a child. Returns the process that does this, while it lives.
stop_keeper(Member, Name) ->
    {running, _, Keeper, _} = on(Member, proctab_nif, child, [z, Name]),
    Suspend = fun() ->
        true = erlang:suspend_process(Keeper),
        timer:sleep(infinity)
    end,
    Suspending = on(Member, erlang, spawn, [Suspend]),
    wait:until(fun() ->
        on(Member, erlang, process_info, [Keeper, status]) =:= {status, suspended}
    end),
    Suspending.

a_process_is_registered_after_a_cleanup(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = held_name_of(Other, z),
        cleaning_up(One, Name, Members),
        Pid = process(One),
        Call = erpc_call(One, gen_tracker_cluster, register_name, [{z, Name}, Pid]),
        await_requests(1, One),
        ok = on(One, cluster_child, let_cleanup_go, [Name]),
        ?assertEqual(yes, answer(Call)),
        settle(Members, z),
        [?assertEqual(Pid, on(M, gen_tracker_cluster, whereis_name, [{z, Name}])) || M <- Members]
    end).

%% A local start on the home waits for the registration, and then starts its child there, as if it
%% had come later.
a_registration_gives_its_home_no_result(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = held_name_of(Other, z),
        %% The registration waits on its own member, and holds the name on the home meanwhile.
        {ok, Old} = on(One, gen_tracker, find_or_open, [z, spec(Name)]),
        clusters:dies(One, Old),
        ok = on(One, cluster_child, await_cleanup, [Name]),
        Pid = process(One),
        Register = {gen_tracker_cluster_opening, register_from, [element(2, One), z, Name, Pid]},
        Held = erpc_call(Other, gen_tracker, find_or_open, [z, {Name, Register, temporary}]),
        await_requests(1, One),
        Local = erpc_call(Other, gen_tracker, find_or_open, [z, spec(Name)]),
        %% Both callers on the home wait there.
        await_requests(2, Other),
        ok = on(One, cluster_child, let_cleanup_go, [Name]),
        {error, {'$gen_tracker_reserved', undecided}} = answer(Held),
        {ok, Started} = answer(Local),
        ?assertEqual(element(2, Other), node(Started)),
        settle(Members, z)
    end).

a_start_may_return_what_a_registration_does_not(_) ->
    clusters:with(2, z, fun(Members) ->
        [
            ?assertEqual(
                Result, find_or_open(M, z, {name_of(Home, z), {erlang, hd, [[Result]]}, temporary})
            )
         || M <- Members, Home <- Members,
            Result <- [again, undecided, refused, {error, badarg}, {result, a},
                {error, {registering, self(), yes}}]
        ]
    end).

%% It is called once, too.
a_start_may_return_what_a_zone_that_ends_answers(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        lists:foreach(
            fun(Result) ->
                Name = name_of(Other, z),
                Spec = {Name, {cluster_child, return, [Name, Result]}, temporary},
                Before = starts(Members),
                ?assertEqual(Result, find_or_open(One, z, Spec)),
                ?assertEqual([{called, Name}], starts(Members) -- Before)
            end,
            [{error, shutdown}, {error, gen_tracker_not_started}]
        )
    end).

%% Starts a process on a member.
process(Member) ->
    on(Member, erlang, spawn, [timer, sleep, [infinity]]).

%% The home ends after it has had the process registered, and before it has said so.
a_process_is_registered_although_its_home_ends(_) ->
    clusters:with(2, z, fun([One, {Peer, _} = Other]) ->
        Name = name_of(Other, z),
        {Process, _, _, _} = on(Other, proctab_nif, cluster_shared, [z]),
        %% So the home waits for the claim.
        ok = on(Other, sys, suspend, [Process]),
        Pid = process(One),
        Call = erpc_call(One, gen_tracker_cluster, register_name, [{z, Name}, Pid]),
        wait:until(fun() -> on(One, gen_tracker, find, [z, Name]) =:= {ok, Pid} end),
        ok = peer:stop(Peer),
        ?assertEqual(yes, answer(Call)),
        ?assertEqual(no, on(One, gen_tracker_cluster, register_name, [{z, Name}, Pid])),
        ?assertEqual(Pid, on(One, gen_tracker_cluster, whereis_name, [{z, Name}]))
    end).

%% The home does not wait for a claim of which it may hear together with its end.
a_process_that_loses_its_name_at_once_does_not_hold_up_the_home(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = name_of(Other, z),
        {Process, _, _, _} = on(Other, proctab_nif, cluster_shared, [z]),
        ok = on(Other, sys, suspend, [Process]),
        Pid = process(One),
        Call = erpc_call(One, gen_tracker_cluster, register_name, [{z, Name}, Pid]),
        wait:until(fun() -> on(One, gen_tracker, find, [z, Name]) =:= {ok, Pid} end),
        ok = on(One, gen_tracker, unregister_name, [{z, Name}]),
        ?assertEqual(yes, answer(Call)),
        ok = on(Other, sys, resume, [Process]),
        {ok, Child} = find_or_open(One, z, spec(Name)),
        ?assertEqual(element(2, Other), node(Child)),
        settle(Members, z)
    end).

%% The home ends before it has asked for the registration.
a_process_is_registered_elsewhere_when_its_home_has_ended(_) ->
    clusters:with(2, z, fun([One, {Peer, Node} = Other]) ->
        Name = name_of(Other, z),
        %% A start that the registration waits for.
        _ = on(Other, erlang, spawn, [gen_tracker, find_or_open, [z, slow(Name, 30000)]]),
        wait:until(fun() -> on(One, proctab_nif, best_claim, [z, Name]) =:= {Node, held} end),
        Pid = process(One),
        Call = erpc_call(One, gen_tracker_cluster, register_name, [{z, Name}, Pid]),
        %% That of the start, which takes longer than its caller's patience, and the registration.
        await_requests(2, Other),
        ok = peer:stop(Peer),
        ?assertEqual(yes, answer(Call)),
        ?assertEqual(Pid, on(One, gen_tracker_cluster, whereis_name, [{z, Name}]))
    end).

a_name_is_registered_once(_) ->
    clusters:with(3, z, fun registered_once/1).

a_name_is_registered_once_with_the_lock(_) ->
    clusters:with(3, z, #{cluster => #{unique => lock}}, fun registered_once/1).

registered_once(Members) ->
    [
        begin
            Calls = [
                {Pid, erpc_call(M, gen_tracker_cluster, register_name, [{z, {n, N}}, Pid])}
             || M <- Members, Pid <- [process(M), process(M)]
            ],
            [Winner] = [Pid || {Pid, Call} <- Calls, answer(Call) =:= yes],
            wait:until(fun() ->
                lists:all(
                    fun(M) ->
                        on(M, gen_tracker_cluster, whereis_name, [{z, {n, N}}]) =:= Winner
                    end,
                    Members
                )
            end)
        end
     || N <- lists:seq(1, 10)
    ],
    settle(Members, z).

a_home_waits_for_the_lock_to_register_a_process(_) ->
    clusters:with(2, z, #{cluster => #{unique => lock}}, fun([One, Other] = Members) ->
        Name = name_of(One, z),
        Holder = on(Other, erlang, apply, [fun() -> lock(Name) end, []]),
        Pid = process(One),
        Call = erpc_call(One, gen_tracker_cluster, register_name, [{z, Name}, Pid]),
        wait:until(fun() -> on(One, erlang, apply, [fun is_any_waiting_for_a_lock/0, []]) end),
        ?assertEqual(undefined, on(One, gen_tracker_cluster, whereis_name, [{z, Name}])),
        clusters:dies(Other, Holder),
        ?assertEqual(yes, answer(Call)),
        settle(Members, z)
    end).

%% The home decides to register a process. Before its tracker does that, a process of another member
%% gets the name, by way of the home.
a_home_registers_no_process_after_one_of_another_member(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = name_of(One, z),
        Late = process(One),
        ok = on(One, sys, suspend, [z]),
        Call = erpc_call(One, gen_tracker_cluster, register_name, [{z, Name}, Late]),
        await_calls(1, One),
        Winner = process(Other),
        Winning = erpc_call(Other, gen_tracker_cluster, register_name, [{z, Name}, Winner]),
        %% The home has held the name meanwhile.
        wait:until(fun() ->
            on(One, proctab_nif, claim_owner, [z, Name]) =:= element(2, Other)
        end),
        ok = on(One, sys, resume, [z]),
        ?assertEqual({yes, no}, {answer(Winning), answer(Call)}),
        ?assertEqual(undefined, on(One, gen_tracker, find, [z, Name])),
        [
            ?assertEqual(Winner, on(M, gen_tracker_cluster, whereis_name, [{z, Name}]))
         || M <- Members
        ],
        settle(Members, z)
    end).

a_start_that_was_decided_before_a_registration_is_refused_after_it(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = name_of(One, z),
        Process = process(Other),
        yes = on(Other, gen_tracker_cluster, register_name, [{z, Name}, Process]),
        opening_is_refused(Name, One),
        ?assertEqual([], starts(Members)),
        %% Once the process is dead, the home may start the name.
        clusters:dies(Other, Process),
        wait:until(fun() -> on(One, proctab_nif, claim_owner, [z, Name]) =:= undefined end),
        {opened, {ok, _}} = on(One, erlang, apply, [fun open_home/1, [Name]])
    end).

%% A member waits for the holder of a name, which is free when its tracker looks.
a_name_that_was_held_is_registered_by_its_home(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Name = held_name_of(Other, z),
        cleaning_up(One, Name, Members),
        ok = on(One, sys, suspend, [z]),
        Call = erpc_call(One, gen_tracker_cluster, register_name, [{z, Name}, process(One)]),
        await_calls(1, One),
        ok = on(One, cluster_child, let_cleanup_go, [Name]),
        wait:until(fun() -> on(Other, proctab_nif, claim_owner, [z, Name]) =:= undefined end),
        Winner = process(Other),
        ?assertEqual(yes, on(Other, gen_tracker_cluster, register_name, [{z, Name}, Winner])),
        ok = on(One, sys, resume, [z]),
        ?assertEqual(no, answer(Call)),
        ?assertEqual({ok, Winner}, on(Other, gen_tracker, find, [z, Name])),
        settle(Members, z)
    end).

%% Waits until the suspended tracker of a member has so many calls.
await_calls(Number, Member) ->
    wait:until(fun() ->
        on(Member, erlang, apply, [fun calls_of_tracker/0, []]) =:= Number
    end).

calls_of_tracker() ->
    {messages, Messages} = process_info(whereis(z), messages),
    length([Call || {'$gen_call', _, _} = Call <- Messages]).

a_registered_name_is_not_started(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        lists:foreach(
            fun(N) ->
                Pid = process(One),
                Register = erpc_call(One, gen_tracker_cluster, register_name, [{z, N}, Pid]),
                Open = erpc_call(Other, gen_tracker_cluster, find_or_open, [z, spec(N)]),
                case {answer(Register), answer(Open)} of
                    {yes, Opened} -> ?assertEqual({ok, Pid}, Opened);
                    {no, {ok, Started}} -> ?assertNotEqual(Pid, Started)
                end
            end,
            lists:seq(1, 20)
        ),
        settle(Members, z)
    end).

terms_that_are_too_large_are_refused_on_any_member(_) ->
    clusters:with(2, z, #{cluster => true, index => [key]}, fun(Members) ->
        %% A term of a few words; a copy without sharing has 2^60 parts.
        Large = fun() -> lists:foldl(fun(_, Part) -> {Part, Part} end, [], lists:seq(1, 60)) end,
        [
            ?assertEqual(badarg, on(M, erlang, apply, [fun() -> refused(Call, Large()) end, []]))
         || M <- Members,
            Call <- [
                fun(Value) -> gen_tracker_cluster:lookup(z, key, Value) end,
                fun(Value) -> gen_tracker_cluster:publish(z, key, Value, message) end
            ]
        ],
        [
            begin
                Name = name_of(Home, z),
                %% The stacktrace, which has the arguments, stays there.
                Open = fun() ->
                    Spec = {Name, {erlang, hd, [Large()]}, temporary},
                    try
                        gen_tracker_cluster:find_or_open(z, Spec)
                    catch
                        error:badarg -> badarg
                    end
                end,
                ?assertEqual(badarg, on(M, erlang, apply, [Open, []])),
                Tracker = on(M, erlang, whereis, [z]),
                {Cluster, _, _, _} = on(M, proctab_nif, cluster_shared, [z]),
                [
                    ?assertError(
                        badarg, on(M, gen_tracker_cluster, register_name, [{z, Name}, Own])
                    )
                 || Own <- [Tracker, Cluster]
                ]
            end
         || M <- Members, Home <- Members
        ]
    end).

refused(Call, Term) ->
    try
        Call(Term)
    catch
        error:badarg -> badarg
    end.

via_names_work_with_gen_server(_) ->
    clusters:with(2, z, fun([One, Other]) ->
        Via = {via, gen_tracker_cluster, {z, server}},
        Start = fun() -> gen_server:start(Via, init_server, fun() -> {ok, state} end, []) end,
        case on(One, erlang, apply, [Start, []]) of
            {ok, Pid} ->
                wait:until(fun() ->
                    on(Other, gen_tracker_cluster, whereis_name, [{z, server}]) =:= Pid
                end),
                ?assertEqual(
                    {error, {already_started, Pid}}, on(Other, erlang, apply, [Start, []])
                ),
                ?assertMatch({status, Pid, _, _}, on(Other, sys, get_status, [Via]))
        end
    end).

one_of_the_servers_that_a_start_function_starts_gets_the_name(_) ->
    clusters:with(2, z, fun([One, Other]) ->
        Via = {via, gen_tracker_cluster, {z, server}},
        Server = fun() ->
            gen_server:start_link(Via, init_server, fun() -> {ok, state} end, [])
        end,
        Start = fun() ->
            {ok, Pid} = Server(),
            {error, {already_started, undefined}} = Server(),
            {ok, Pid}
        end,
        Spec = {server, {erlang, apply, [Start, []]}, temporary},
        [
            begin
                {ok, Pid} = find_or_open(Member, z, Spec),
                wait:until(fun() ->
                    on(Other, gen_tracker_cluster, whereis_name, [{z, server}]) =:= Pid
                end)
            end
         || Member <- [One, Other]
        ]
    end).

a_name_is_unregistered_from_any_member(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Pid = process(One),
        yes = on(One, gen_tracker_cluster, register_name, [{z, a}, Pid]),
        settle(Members, z),
        ok = on(Other, gen_tracker_cluster, unregister_name, [{z, a}]),
        settle(Members, z),
        ?assertEqual(undefined, on(Other, gen_tracker_cluster, whereis_name, [{z, a}])),
        ?assert(on(One, erlang, is_process_alive, [Pid]))
    end).
