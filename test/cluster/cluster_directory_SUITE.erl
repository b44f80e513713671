%% Promise: every member of a cluster zone finds the names of all members in its own table, from
%% their start to their death, whatever happens to members, their processes, and their connections.
-module(cluster_directory_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(clusters, [on/4, settle/2, subscriber/1, events/2, send/2]).
-import(cluster_child, [spec/1, spec/2]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        a_name_is_found_on_all_members,
        reads_of_all_members_need_no_message,
        a_dead_child_is_found_nowhere,
        a_member_that_joins_finds_all_names,
        names_of_a_node_that_has_gone_are_found_nowhere,
        a_broken_connection_hides_names_until_it_is_made_again,
        a_late_end_of_a_connection_ends_no_later_session,
        a_lost_connection_is_not_made_again,
        a_cluster_process_that_is_killed_is_replaced,
        a_cluster_process_that_is_killed_while_it_starts_is_replaced,
        a_scope_that_is_killed_is_replaced,
        a_tracker_that_is_killed_takes_its_names,
        claims_of_an_ended_zone_do_not_reach_the_next_one,
        a_zone_that_is_stopped_takes_its_names,
        nodes_that_prevent_overlapping_partitions_come_to_agree,
        functions_for_all_members_see_all_names,
        copied_attributes_are_read_from_the_local_copy,
        copies_of_a_zone_that_is_started_again_outlive_the_last_one,
        different_options_are_logged,
        children_are_found_by_indexed_attributes_of_all_members,
        subscribers_see_births_and_deaths_of_all_members,
        malformed_messages_change_nothing,
        a_zone_of_one_node_alone_is_no_cluster_zone,
        wrong_options_are_refused
    ].

open(Member, Zone, Spec) ->
    {ok, Pid} = on(Member, gen_tracker, find_or_open, [Zone, Spec]),
    Pid.

found(Member, Zone, Name) ->
    on(Member, gen_tracker_cluster, find, [Zone, Name]).

until_found(Members, Zone, Name, Found) ->
    wait:until(fun() ->
        lists:all(fun(Member) -> found(Member, Zone, Name) =:= Found end, Members)
    end).

a_name_is_found_on_all_members(_) ->
    clusters:with(3, z, fun([One | _] = Members) ->
        Names = [a, <<"b">>, {c, 1}, 1.0, #{d => []}, "e", 1 bsl 70],
        Children = [{Name, open(One, z, spec(Name))} || Name <- Names],
        settle(Members, z),
        [until_found(Members, z, Name, {ok, Pid}) || {Name, Pid} <- Children],
        [?assertEqual(undefined, found(Member, z, 1)) || Member <- Members],
        [
            ?assertEqual(Pid, on(Member, gen_tracker_cluster, whereis_name, [{z, Name}]))
         || Member <- Members, {Name, Pid} <- Children
        ]
    end).

%% A call to another node may send no message, but receives the answer.
reads_of_all_members_need_no_message(_) ->
    Options = #{cluster => #{copied => [c]}, index => [i]},
    clusters:with(2, z, Options, fun([One, Other] = Members) ->
        Pids = [P, Q] = [open(M, z, spec(Name)) || {M, Name} <- [{One, a}, {Other, b}]],
        [ok = on(M, gen_tracker, setattr, [z, Name, #{c => 1, i => x, own => y}]) ||
            {M, Name} <- [{One, a}, {Other, b}]],
        settle(Members, z),
        wait:until(fun() -> length(on(Other, gen_tracker_cluster, lookup, [z, i, x])) =:= 2 end),
        Both = [{a, P}, {b, Q}],
        Nodes = lists:sort([Node || {_, Node} <- Members]),
        Collect = fun(Name, Pid, Children) -> [{Name, Pid} | Children] end,
        Reads = [
            {find, [z, a], {ok, P}},
            {find, [z, nobody], undefined},
            {whereis_name, [{z, a}], P},
            {find_or_open, [z, spec(a)], {ok, P}},
            {count, [z], 2},
            {names, [z], [a, b]},
            {fold, [Collect, [], z], Both},
            {lookup, [z, i, x], Both},
            {lookup, [z, i, y], []},
            {getattr, [z, a, c], {ok, 1}},
            {getattr, [z, a, i], {ok, x}},
            {getattr, [z, a, c, infinity], {ok, 1}},
            {getattr, [z, b, own], {ok, y}},
            {getattr, [z, nobody, c], undefined},
            {info, [z, b], [{c, 1}, {i, x}, {own, y}]},
            {info, [z, nobody], []},
            {members, [z], Nodes},
            {home, [z, a], on(One, gen_tracker_cluster, home, [z, a])},
            {home, [z, nobody], on(One, gen_tracker_cluster, home, [z, nobody])}
        ],
        lists:foreach(
            fun({Function, Arguments, Result}) ->
                Traffic = traffic(Other, Function, Arguments),
                ?assertEqual({Function, {Result, [], []}}, {Function, Traffic})
            end,
            Reads
        ),
        ?assertEqual({P, [{hello, P}], []}, traffic(Other, send, [{z, a}, hello])),
        ?assertEqual(
            {2, lists:sort([{hello, Pid} || Pid <- Pids]), []},
            traffic(Other, publish, [z, i, x, hello])
        ),
        %% All attributes are read at the child's node.
        ?assertMatch({[_, _, _], _, [_ | _]}, traffic(Other, info, [z, a]))
    end).

%% Calls a function on a member, and returns the result, and what the caller has sent and received.
traffic(Member, Function, Arguments) ->
    {Result, Sent, Received} = on(Member, ?MODULE, traced_call, [Function, Arguments]),
    {sorted(Result), lists:sort(Sent), Received}.

sorted(Result) when is_list(Result) -> lists:sort(Result);
sorted(Result) -> Result.

%% Loads the modules of the library first: the code server would be asked for them.
traced_call(Function, Arguments) ->
    _ = application:load(proctab),
    {ok, Modules} = application:get_key(proctab, modules),
    ok = code:ensure_modules_loaded(Modules),
    trace(fun() -> apply(gen_tracker_cluster, Function, Arguments) end).

%% Calls a function in a process of its own, and returns its result and the messages that it sends
%% and receives.
trace(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        receive
            go -> exit({result, Fun()})
        end
    end),
    1 = erlang:trace(Pid, true, [send, 'receive']),
    Pid ! go,
    receive
        {'DOWN', Monitor, process, Pid, {result, Result}} ->
            Delivered = erlang:trace_delivered(Pid),
            receive
                {trace_delivered, Pid, Delivered} ->
                    [go | Received] = received(Pid),
                    {Result, sent_by(Pid), Received}
            end
    end.

sent_by(Pid) ->
    receive
        {trace, Pid, send, Message, To} -> [{Message, To} | sent_by(Pid)]
    after 0 -> []
    end.

received(Pid) ->
    receive
        {trace, Pid, 'receive', Message} -> [Message | received(Pid)]
    after 0 -> []
    end.

a_dead_child_is_found_nowhere(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Pid = open(One, z, spec(a)),
        until_found(Members, z, a, {ok, Pid}),
        clusters:dies(One, Pid),
        until_found(Members, z, a, undefined),
        Permanent = open(One, z, spec(b, permanent)),
        until_found(Members, z, b, {ok, Permanent}),
        clusters:dies(One, Permanent),
        wait:until(fun() ->
            case found(Other, z, b) of
                {ok, Next} -> Next =/= Permanent;
                undefined -> false
            end
        end),
        settle(Members, z)
    end).

a_member_that_joins_finds_all_names(_) ->
    clusters:with(3, z, fun([One, Other, Last] = Members) ->
        ok = on(Last, clusters, stop_zone, [z]),
        [open(Member, z, spec({Node, I})) || {_, Node} = Member <- [One, Other],
            I <- lists:seq(1, 1500)],
        ok = on(Last, clusters, start_zone, [z, #{cluster => true}]),
        settle(Members, z),
        ?assertEqual(3000, on(Last, gen_tracker_cluster, count, [z]))
    end).

names_of_a_node_that_has_gone_are_found_nowhere(_) ->
    clusters:with(3, z, fun([One, Other, {Peer, Node} = Last]) ->
        _ = open(Last, z, spec(a)),
        Kept = open(One, z, spec(b)),
        settle([One, Other, Last], z),
        ok = peer:stop(Peer),
        until_found([One, Other], z, a, undefined),
        until_found([One, Other], z, b, {ok, Kept}),
        wait:until(fun() ->
            not lists:member(Node, on(One, gen_tracker_cluster, members, [z]))
        end)
    end).

a_broken_connection_hides_names_until_it_is_made_again(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Pid = open(One, z, spec(a)),
        until_found(Members, z, a, {ok, Pid}),
        clusters:cut([One], [Other]),
        until_found([Other], z, a, undefined),
        Second = open(One, z, spec(b)),
        clusters:join(Members),
        settle(Members, z),
        until_found(Members, z, a, {ok, Pid}),
        until_found(Members, z, b, {ok, Second})
    end).

%% The VM may notice the end of a connection after the next one was made.
a_late_end_of_a_connection_ends_no_later_session(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Before = [{M, open(M, z, spec({before, M}))} || M <- Members],
        settle(Members, z),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        Watcher = watcher(One, Process),
        [{Peer, Monitor}] = peers(One, Process),
        Joined = {tag(One), {joined, Watcher, [Peer]}},
        Late = [Joined, {'DOWN', Monitor, process, Peer, noconnection}],
        [Message = on(One, erlang, send, [Process, Message]) ||
            Message <- Late],
        Later = [{M, open(M, z, spec({later, M}))} || M <- Members],
        [until_found(Members, z, {later, M}, {ok, Pid}) || {M, Pid} <- Later],
        [until_found(Members, z, {before, M}, {ok, Pid}) || {M, Pid} <- Before],
        settle(Members, z),
        Last = open(One, z, spec(last)),
        until_found([Other], z, last, {ok, Last})
    end).

tag(Member) ->
    on(Member, tracker_state, tag, [z]).

watcher(Member, Process) ->
    Tracker = on(Member, erlang, whereis, [z]),
    State = tuple_to_list(on(Member, sys, get_state, [Process])),
    [Watcher] = [Pid || Pid <- State, is_pid(Pid), Pid =/= Tracker],
    Watcher.

%% Returns the peers of a cluster process, with its monitors.
peers(Member, Process) ->
    [
        {Pid, element(3, Record)}
     || #{} = Map <- tuple_to_list(on(Member, sys, get_state, [Process])),
        {Pid, Record} <- maps:to_list(Map), is_tuple(Record), element(1, Record) =:= peer
    ].

%% On nodes that connect by themselves. The watcher reports a peer more than once if its `hello` was
%% faster than the scope, and after each restart of a watcher.
a_lost_connection_is_not_made_again(_) ->
    clusters:with_overlap_prevention(2, z, fun([{_, Here} = One, Other]) ->
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        [{Peer, _}] = peers(One, Process),
        Joined = {tag(One), {joined, watcher(One, Process), [Peer]}},
        Joined = on(One, erlang, send, [Process, Joined]),
        _ = on(One, sys, get_state, [Process]),
        clusters:cut([One], [Other]),
        wait:until(fun() -> on(One, gen_tracker_cluster, members, [z]) =:= [Here] end),
        ?assertEqual([], peers(One, Process)),
        ?assertEqual([], on(One, erlang, nodes, []))
    end).

a_cluster_process_that_is_killed_is_replaced(_) ->
    clusters:with(3, z, fun([One, Other, _] = Members) ->
        [open(Member, z, spec({Node, I})) || {_, Node} = Member <- Members, I <- lists:seq(1, 100)],
        settle(Members, z),
        ok = on(One, clusters, kill_cluster_process, [z]),
        _ = open(One, z, spec(later)),
        settle(Members, z),
        ?assertEqual(301, on(One, gen_tracker_cluster, count, [z])),
        ?assertEqual(301, on(Other, gen_tracker_cluster, count, [z]))
    end).

a_cluster_process_that_is_killed_while_it_starts_is_replaced(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Pid = open(One, z, spec(a)),
        ok = on(One, ?MODULE, kill_two_cluster_processes, []),
        settle(Members, z),
        ?assertEqual({ok, Pid}, found(Other, z, a))
    end).

%% Kills the cluster process of this node, and the next one before it runs: with one scheduler, this
%% process comes first, because its priority is higher.
kill_two_cluster_processes() ->
    _ = erlang:system_flag(schedulers_online, 1),
    normal = process_flag(priority, high),
    Tracker = whereis(z),
    {Process, _, _, _} = proctab_nif:cluster_shared(z),
    1 = erlang:trace(Tracker, true, [procs]),
    exit(Process, kill),
    receive
        {trace, Tracker, spawn, Next, _} ->
            Monitor = monitor(process, Next),
            exit(Next, kill),
            receive
                {'DOWN', Monitor, process, Next, Reason} -> killed = Reason
            end
    end,
    {Process, _, _, _} = proctab_nif:cluster_shared(z),
    ok.

a_scope_that_is_killed_is_replaced(_) ->
    clusters:with(3, z, fun([One, _, Last] = Members) ->
        Pid = open(One, z, spec(a)),
        settle(Members, z),
        Scope = on(One, erlang, whereis, [gen_tracker_cluster]),
        clusters:dies(One, Scope),
        until_found(Members, z, a, {ok, Pid}),
        %% It is found by a member that joins later.
        ok = on(Last, clusters, stop_zone, [z]),
        ok = on(Last, clusters, start_zone, [z, #{cluster => true}]),
        settle(Members, z),
        until_found(Members, z, a, {ok, Pid})
    end).

a_tracker_that_is_killed_takes_its_names(_) ->
    clusters:with(2, z, fun([One | _] = Members) ->
        _ = open(One, z, spec(a)),
        settle(Members, z),
        clusters:dies(One, on(One, erlang, whereis, [z])),
        until_found(tl(Members), z, a, undefined),
        clusters:until_zone_runs(One, z),
        settle(Members, z),
        Pid = open(One, z, spec(a)),
        until_found(Members, z, a, {ok, Pid})
    end).

%% The cluster process of a zone whose tracker was killed may go on for a moment.
claims_of_an_ended_zone_do_not_reach_the_next_one(_) ->
    Open = fun() ->
        Handle = proctab_nif:zone_open(?FUNCTION_NAME, shared),
        _ = proctab_nif:cluster_open(Handle, shared, []),
        {Handle, proctab_nif:add_member(Handle, node(), <<"name">>, self())}
    end,
    {Ended, Own} = Open(),
    ok = proctab_nif:zone_close(Ended),
    {Next, Own} = Open(),
    {[_], []} = proctab_nif:change_claims(Ended, Own, [{a, 1, {up, self()}}]),
    ?assertEqual({[], done}, proctab_nif:claims_page(Next, Own, 0, [])),
    ?assertEqual({[{a, self()}], done}, proctab_nif:claims_page(Ended, Own, 0, [])),
    ok = proctab_nif:zone_close(Next).

a_zone_that_is_stopped_takes_its_names(_) ->
    clusters:with(2, z, fun([One, {_, Node} = Other]) ->
        _ = open(One, z, spec(a)),
        settle([One, Other], z),
        ok = on(One, clusters, stop_zone, [z]),
        until_found([Other], z, a, undefined),
        wait:until(fun() -> on(Other, gen_tracker_cluster, members, [z]) =:= [Node] end)
    end).

nodes_that_prevent_overlapping_partitions_come_to_agree(_) ->
    clusters:with_overlap_prevention(3, z, fun([One, Other, _] = Members) ->
        [{ok, _} = on(M, gen_tracker_cluster, find_or_open, [z, spec({Node, I})]) ||
            {_, Node} = M <- Members, I <- lists:seq(1, 20)],
        settle(Members, z),
        clusters:cut([One], [Other]),
        [on(M, gen_tracker_cluster, find_or_open, [z, spec({Node, I})]) ||
            M <- Members, {_, Node} <- Members, I <- lists:seq(1, 20)],
        clusters:join(Members),
        settle(Members, z),
        ?assertEqual(60, on(One, gen_tracker_cluster, count, [z]))
    end).

functions_for_all_members_see_all_names(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Children = lists:sort([{N, open(M, z, spec(N))} || {M, N} <- [{One, a}, {Other, b}]]),
        settle(Members, z),
        lists:foreach(
            fun(Member) ->
                ?assertEqual(2, on(Member, gen_tracker_cluster, count, [z])),
                ?assertEqual([a, b], lists:sort(on(Member, gen_tracker_cluster, names, [z]))),
                ?assertEqual(Children, clusters:directory(Member, z)),
                ok = on(Member, gen_tracker_cluster, setattr, [z, a, key, 1]),
                ok = on(Member, gen_tracker_cluster, setattr, [z, b, [{key, 5}, {other, 6}]]),
                ?assertEqual({ok, 1}, on(Member, gen_tracker_cluster, getattr, [z, a, key])),
                ?assertEqual(6, on(Member, gen_tracker_cluster, increment, [z, b, key, 1])),
                ?assertEqual(9, on(Member, gen_tracker_cluster, increment, [z, b, key, 3, 0])),
                ?assertEqual(ok, on(Member, gen_tracker_cluster, cas, [z, b, key, 9, 10])),
                ?assertEqual(
                    [{key, 10}, {other, 6}],
                    lists:sort(on(Member, gen_tracker_cluster, info, [z, b]))
                ),
                ok = on(Member, gen_tracker_cluster, delattr, [z, b, key]),
                ?assertEqual(undefined, on(Member, gen_tracker_cluster, getattr, [z, b, key])),
                ?assertEqual(undefined, on(Member, gen_tracker_cluster, getattr, [z, b, key, 5])),
                ?assertError(
                    {void_setting, z, c, key},
                    on(Member, gen_tracker_cluster, setattr, [z, c, key, 1])
                ),
                Echo = fun() ->
                    Pid = gen_tracker_cluster:send({z, b}, {echo, self()}),
                    receive
                        {echo, Pid} -> Pid
                    end
                end,
                {b, Echoing} = lists:keyfind(b, 1, Children),
                ?assertEqual(Echoing, on(Member, erlang, apply, [Echo, []])),
                ?assertExit(
                    {badarg, {{z, c}, hello}},
                    on(Member, gen_tracker_cluster, send, [{z, c}, hello])
                )
            end,
            Members
        )
    end).

copied_attributes_are_read_from_the_local_copy(_) ->
    clusters:with(3, z, #{cluster => #{copied => [c, {d, 1}, 1.0]}}, fun(Members) ->
        [One, Other, Last] = Members,
        Pid = open(One, z, spec(a)),
        ok = on(One, gen_tracker, setattr, [z, a, [{c, 1}, {{d, 1}, x}, {1, no}, {other, 2}]]),
        ok = on(Last, clusters, stop_zone, [z]),
        ok = on(Last, clusters, start_zone, [z, #{cluster => #{copied => [c, {d, 1}, 1.0]}}]),
        settle(Members, z),
        Reads = fun(Key, Value) ->
            wait:until(fun() ->
                lists:all(
                    fun(M) -> on(M, gen_tracker_cluster, getattr, [z, a, Key]) =:= Value end,
                    Members
                )
            end)
        end,
        Reads(c, {ok, 1}),
        Reads({d, 1}, {ok, x}),
        Reads(1, {ok, no}),
        Reads(1.0, undefined),
        Reads(other, {ok, 2}),
        %% Whatever changes it, and on whatever member.
        ok = on(Other, gen_tracker_cluster, setattr, [z, a, c, 2]),
        Reads(c, {ok, 2}),
        5 = on(Last, gen_tracker_cluster, increment, [z, a, c, 3]),
        Reads(c, {ok, 5}),
        ok = on(One, gen_tracker, cas, [z, a, c, 5, #{}]),
        Reads(c, {ok, #{}}),
        {ok, 6} = on(One, gen_tracker, update, [z, a, c, fun(#{}) -> 6 end]),
        Reads(c, {ok, 6}),
        ok = on(One, gen_tracker, delattr, [z, a, c]),
        Reads(c, undefined),
        7 = on(One, gen_tracker, increment, [z, a, c, 1, 6]),
        Reads(c, {ok, 7}),
        %% Without the owner's tracker, which would answer nothing.
        true = on(One, erlang, suspend_process, [Pid]),
        clusters:dies(One, Pid),
        until_found(Members, z, a, undefined),
        Reads(c, undefined),
        _ = open(One, z, spec(a)),
        settle(Members, z),
        Reads(c, undefined)
    end).

%% The cluster process of the last zone may end after that of the next one has begun.
copies_of_a_zone_that_is_started_again_outlive_the_last_one(_) ->
    clusters:with_fake(fun(One, {Other, Last}, [P, Q | _]) ->
        ok = on(One, clusters, stop_zone, [z]),
        ok = on(One, clusters, start_zone, [z, #{cluster => #{copied => [c]}, index => [i]}]),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        ok = on(Other, fake_member, stop, [Last]),
        [First, Next] = [{Other, on(Other, fake_member, start, [z, Process])} || _ <- [1, 2]],
        Begin = [{welcome, 1, {true, true}}, {snapshot, 1}],
        send(First, Begin ++ [{page, [{a, P, [{c, 1}]}, {b, P, [{c, 1}, {i, 1}]}]}, complete]),
        send(Next, Begin ++ [{page, [{a, Q, [{c, 2}, {i, 2}]}]}, complete]),
        ok = on(Other, fake_member, stop, [element(2, First)]),
        until_found([One], z, b, undefined),
        %% It has handled the end of that session.
        _ = on(One, sys, get_state, [Process]),
        ?assertEqual({ok, 2}, on(One, gen_tracker_cluster, getattr, [z, a, c])),
        ?assertEqual([{a, Q}], on(One, gen_tracker_cluster, lookup, [z, i, 2])),
        {_, _, _, {Values, Index, _, _}} = on(One, proctab_nif, cluster_shared, [z]),
        ?assertEqual([2, 1], [on(One, ets, info, [Table, size]) || Table <- [Values, Index]])
    end).

different_options_are_logged(_) ->
    Options = #{index => [i, {each, j}], cluster => #{copied => [c, d]}},
    clusters:with(2, z, Options, fun([{_, Here} = One, {_, There} = Other] = Members) ->
        [keep_log(Member) || Member <- Members],
        Restart = fun(Changed) ->
            ok = on(Other, clusters, stop_zone, [z]),
            ok = on(Other, clusters, start_zone, [z, Changed]),
            settle(Members, z)
        end,
        Restart(Options#{index := [{each, j}, i], cluster := #{copied => [d, c]}}),
        Own = #{unique => home, copied => [c, d, i, j], index => [i, {each, j}]},
        lists:foreach(
            fun({Changed, Difference}) ->
                Restart(maps:merge(Options, Changed)),
                Its = maps:merge(Own, Difference),
                [
                    begin
                        wait:until(fun() -> different_options(Member) =/= [] end),
                        ?assertEqual([Report], different_options(Member)),
                        forget_log(Member)
                    end
                 || {Member, Report} <- [{One, {There, Own, Its}}, {Other, {Here, Its, Own}}]
                ]
            end,
            [
                {#{cluster => #{copied => [c, d], unique => lock}}, #{unique => lock}},
                {#{cluster => #{copied => [c]}}, #{copied => [c, i, j]}},
                {#{index => [i]}, #{index => [i], copied => [c, d, i]}}
            ]
        )
    end).

%% Starts to keep the log of a node.
keep_log(Member) ->
    Keep = fun() ->
        Keeper = spawn(timer, sleep, [infinity]),
        true = register(kept_log, Keeper),
        ok = logger:add_handler(kept_log, kept_log, #{config => Keeper}),
        ok = logger:set_primary_config(level, warning)
    end,
    ok = on(Member, erlang, apply, [Keep, []]).

%% Begins with an empty log.
forget_log(Member) ->
    ok = on(Member, logger, remove_handler, [kept_log]),
    clusters:dies(Member, on(Member, erlang, whereis, [kept_log])),
    keep_log(Member).

%% Returns the reports of different options.
different_options(Member) ->
    Keeper = on(Member, erlang, whereis, [kept_log]),
    {messages, Messages} = on(Member, erlang, process_info, [Keeper, messages]),
    [
        {Node, Own, Its}
     || {event, #{msg := {report, #{label := {gen_tracker_cluster, different_options},
            zone := z, node := Node, own := Own, other := Its}}}} <- Messages
    ].

children_are_found_by_indexed_attributes_of_all_members(_) ->
    Options = #{cluster => true, index => [i, {each, e}]},
    clusters:with(2, z, Options, fun([One, {Peer, _} = Other] = Members) ->
        [A, B, C] = [open(M, z, spec(N)) || {M, N} <- [{One, a}, {Other, b}, {Other, c}]],
        until_found([One], z, b, {ok, B}),
        [ok = on(One, gen_tracker_cluster, setattr, [z, N, i, 1]) || N <- [a, b]],
        ok = on(Other, gen_tracker, setattr, [z, c, [{i, 1.0}, {e, [x, y, x]}]]),
        Finds = fun(Key, Value, Children) ->
            wait:until(fun() ->
                lists:all(
                    fun(M) ->
                        lists:sort(on(M, gen_tracker_cluster, lookup, [z, Key, Value])) =:= Children
                    end,
                    Members
                )
            end)
        end,
        Finds(i, 1, [{a, A}, {b, B}]),
        Finds(i, 1.0, [{c, C}]),
        Finds(e, x, [{c, C}]),
        Finds(e, z, []),
        ?assertError(badarg, on(One, gen_tracker_cluster, lookup, [z, k, 1])),
        ok = on(Other, gen_tracker, setattr, [z, c, [{i, 1}, {e, [y]}]]),
        Finds(i, 1, [{a, A}, {b, B}, {c, C}]),
        Finds(i, 1.0, []),
        Finds(e, x, []),
        ?assertEqual(3, on(One, gen_tracker_cluster, publish, [z, i, 1, stop])),
        Finds(i, 1, []),
        settle(Members, z),
        D = open(Other, z, spec(d)),
        ok = on(Other, gen_tracker, setattr, [z, d, i, '_']),
        Finds(i, '_', [{d, D}]),
        Finds(i, '$1', []),
        ok = peer:stop(Peer),
        wait:until(fun() -> on(One, gen_tracker_cluster, lookup, [z, i, '_']) =:= [] end)
    end).

subscribers_see_births_and_deaths_of_all_members(_) ->
    clusters:with(2, z, fun([{_, Here} = One, {Peer, Node} = Other] = Members) ->
        First = open(Other, z, spec(first)),
        settle(Members, z),
        {Subscriber, Events} = subscriber(One),
        ?assertEqual([{first, First}], Events),
        Pid = open(Other, z, spec(a)),
        Own = open(One, z, spec(b)),
        wait:until(fun() ->
            lists:sort(events(One, Subscriber)) =:= [{up, a, Pid}, {up, b, Own}]
        end),
        clusters:dies(Other, Pid),
        clusters:dies(One, Own),
        wait:until(fun() -> length(events(One, Subscriber)) =:= 4 end),
        ?assertEqual(
            [{down, a, Pid, killed}, {down, b, Own, killed}],
            lists:sort(lists:nthtail(2, events(One, Subscriber)))
        ),
        ok = peer:stop(Peer),
        wait:until(fun() -> length(events(One, Subscriber)) =:= 6 end),
        ?assertEqual(
            [{down, first, First, {nodedown, Node}}, {members, [Here]}],
            lists:nthtail(4, events(One, Subscriber))
        )
    end).

malformed_messages_change_nothing(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        Pid = open(Other, z, spec(a)),
        settle(Members, z),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        %% In the session in which this member receives.
        {Sessions, Sender} = sessions(One, Process),
        Bodies = [
            hello, {page, a}, {page, [a | b]}, {page, [{a, b, []}]}, {page, [{a, Pid}]},
            {page, [{a, Pid, [1]}]}, {page, [{a, Pid, [{k, 1} | 2]}]}, {events, [{up, a}]},
            {events, [{up, a, b, []}]}, {events, [{down, a, b, c}]}, {events, [{free, a} | b]},
            {events, [{free, a}, wrong]}, {status, a}, {status, {a, b}}, {welcome, 1, a},
            {welcome, 2, {true, true}}, {snapshot, a}, {credit, a}, {credit, -1}, {credit, 1.0}, 1
        ],
        Messages =
            [{gen_tracker_cluster, Session, Body} || Session <- Sessions, Body <- Bodies] ++
                [
                    {gen_tracker_cluster, make_ref(), {events, [{free, a}]}},
                    {gen_tracker_cluster, hello, 1, z, no_reference, Sender, undefined},
                    {gen_tracker_cluster, hello, 1, z, make_ref(), no_pid, undefined},
                    {gen_tracker_cluster, hello, 1, z, make_ref(), Process, undefined},
                    {gen_tracker_cluster, hello, 7, z, make_ref(), Sender, undefined},
                    {gen_tracker_cluster, hello, 1, y, make_ref(), Sender, undefined},
                    {gen_tracker_cluster, hello, 1, z, make_ref(), Sender},
                    {gen_tracker_cluster}, {gen_tracker_cluster, 1}, hello
                ],
        Send = fun() -> [Process ! Message || Message <- Messages] end,
        _ = on(One, erlang, apply, [Send, []]),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        settle(Members, z),
        ?assertEqual({ok, Pid}, found(One, z, a)),
        Second = open(Other, z, spec(b)),
        until_found(Members, z, b, {ok, Second}),
        ?assert(on(One, erlang, is_process_alive, [Process]))
    end).

%% Returns the sessions of the only peer of a cluster process, and the peer.
sessions(Member, Process) ->
    State = on(Member, sys, get_state, [Process]),
    [Sessions] = [Map || Map <- tuple_to_list(State), is_map(Map),
        lists:any(fun is_reference/1, maps:keys(Map))],
    [{_, {_, Peer}} | _] = maps:to_list(Sessions),
    {maps:keys(Sessions), Peer}.

a_zone_of_one_node_alone_is_no_cluster_zone(_) ->
    process_flag(trap_exit, true),
    {ok, _} = gen_tracker:start_link(?FUNCTION_NAME),
    ?assertError(badarg, gen_tracker_cluster:find(?FUNCTION_NAME, a)),
    ?assertError(badarg, gen_tracker_cluster:members(?FUNCTION_NAME)),
    ?assertError(badarg, gen_tracker_cluster:find_or_open(?FUNCTION_NAME, spec(a))),
    ?assertError(badarg, gen_tracker_cluster:find_or_open(?FUNCTION_NAME, malformed)),
    ?assertError(badarg, gen_tracker_cluster:find(no_zone, a)),
    ?assertEqual(undefined, gen_tracker_cluster:whereis_name({?FUNCTION_NAME, a})),
    Alone = "the zone was started without the option cluster",
    Find = fun() -> gen_tracker_cluster:find(?FUNCTION_NAME, a) end,
    ?assertEqual(#{1 => Alone}, explained(Find)),
    ?assertEqual(
        #{1 => "no zone of this name is running"},
        explained(fun() -> gen_tracker_cluster:count(no_zone) end)
    ),
    ?assertEqual(
        #{2 => "the option unique is neither home nor lock"},
        explained(fun() -> gen_tracker:start_link(z, #{cluster => #{unique => 1}}) end)
    ),
    gen_server:stop(?FUNCTION_NAME).

%% Returns what the shell says of a `badarg`.
explained(Fun) ->
    try Fun() of
        Result -> Result
    catch
        error:badarg:Stack ->
            Texts = proctab_errors:format_error(badarg, Stack),
            maps:map(fun(_, Text) -> lists:flatten(Text) end, Texts)
    end.

wrong_options_are_refused(_) ->
    [
        ?assertError(badarg, gen_tracker:start_link(?FUNCTION_NAME, #{cluster => Wrong}))
     || Wrong <- [
            1, [], #{unknown => 1}, #{1 => 2}, #{copied => a}, #{copied => [a, a]},
            #{conflict => stop}, #{conflict => {m, f, a}}, #{conflict => {"m", f}},
            #{unique => global}
        ]
    ].
