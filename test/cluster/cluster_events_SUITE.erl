%% Promise: subscribers of a cluster zone are told what changes in its directory: of each name of
%% each member births and deaths in turn, none missing, none twice, whatever messages are repeated
%% or left out.
-module(cluster_events_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(clusters, [on/4, settle/2, subscriber/1, events/2, with_fake/1, send/2]).
-import(cluster_child, [spec/1, spec/2]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        messages_that_change_nothing_are_not_told,
        events_are_told_in_order_after_a_receiver_has_lagged,
        names_with_two_children_are_told_of_each,
        a_late_event_of_the_table_reaches_no_member,
        nothing_arrives_after_the_end_of_a_subscription,
        the_end_of_a_subscription_is_told_when_the_cluster_process_is_killed,
        the_end_of_a_subscription_is_told_when_tracker_and_cluster_process_are_killed,
        children_that_nobody_finds_any_more_are_not_told,
        members_and_conflicts_are_emitted_for_telemetry
    ].

messages_that_change_nothing_are_not_told(_) ->
    with_fake(fun(One, {Other, _} = Fake, [P, Q, R]) ->
        {Subscriber, []} = subscriber(One),
        {_, Node} = Other,
        Members = lists:sort([element(2, One), Node]),
        Steps = [
            {[{welcome, 1, {true, true}}], [{members, Members}]},
            {[{snapshot, 1}, {page, [{a, P, []}, {b, held}, {c, Q, []}]}, complete],
                [{up, a, P}, {up, c, Q}]},
            {[{events, [{up, a, P, []}, {held, b}, {free, d}, {down, b, P, x}]}], []},
            {[{events, [{down, a, Q, x}]}], []},
            {[{events, [{up, a, Q, []}]}], [{down, a, P, lost}, {up, a, Q}]},
            {[{events, [{held, a}]}], [{down, a, Q, lost}]},
            {[{events, [{up, a, P, []}, {down, a, P, x}, {free, a}]}],
                [{up, a, P}, {down, a, P, x}]},
            {[{events, [{free, c}, {copied, c, []}]}], [{down, c, Q, lost}]},
            {[{events, [{copied, c, []}, {up, c, Q, []}]}], [{up, c, Q}]},
            {[{snapshot, 2}, {page, [{c, Q, []}, {d, R, []}]}, {events, [{up, e, P, []}]},
                complete],
                [{up, d, R}, {up, e, P}]},
            {[{snapshot, 3}, {page, [{c, R, []}]}], [{down, c, Q, lost}, {up, c, R}]},
            {[{events, [{down, c, R, y}]}, complete],
                [{down, c, R, y}, {down, d, R, lost}, {down, e, P, lost}]},
            {[{events, [{up, f, P, []}]}], [{up, f, P}]}
        ],
        Told = lists:foldl(
            fun({Messages, Expected}, Before) ->
                send(Fake, Messages),
                Events = events(One, Subscriber),
                ?assertEqual(Expected, in_order(lists:nthtail(length(Before), Events))),
                ?assertEqual(clusters:directory(One, z), found([], Events)),
                Events
            end,
            [],
            Steps
        ),
        ok = on(Other, fake_member, stop, [element(2, Fake)]),
        wait:until(fun() -> length(events(One, Subscriber)) =:= length(Told) + 2 end),
        ?assertEqual(
            [{down, f, P, {nodedown, Node}}, {members, [element(2, One)]}],
            lists:nthtail(length(Told), events(One, Subscriber))
        )
    end).

%% The end of a snapshot ends several names in any order.
in_order([{down, c, _, y} = First | Rest]) -> [First | lists:sort(Rest)];
in_order(Events) -> Events.

%% Returns what a subscriber has to believe is found. Fails if an event does not fit.
found(First, Events) ->
    lists:sort(lists:foldl(
        fun
            ({up, Name, Pid}, Found) ->
                ?assertNot(lists:member({Name, Pid}, Found)),
                [{Name, Pid} | Found];
            ({down, Name, Pid, _}, Found) ->
                ?assert(lists:member({Name, Pid}, Found)),
                lists:delete({Name, Pid}, Found);
            (_, Found) ->
                Found
        end,
        First,
        Events
    )).

events_are_told_in_order_after_a_receiver_has_lagged(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        open(Other, lists:seq(1, 20)),
        settle(Members, z),
        {Subscriber, First} = subscriber(One),
        ?assertEqual(20, length(First)),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        ok = on(One, sys, suspend, [Process]),
        %% Some names end, some have another child, some are new.
        [clusters:dies(Other, Pid) || {Name, Pid} <- First, Name rem 2 =:= 0],
        wait:until(fun() -> on(Other, gen_tracker, count, [z]) =:= 10 end),
        %% More events than a member keeps for another one.
        open(Other, lists:seq(1, 1600, 4)),
        open(Other, lists:seq(2, 1600, 4)),
        {Sender, _, _, _} = on(Other, proctab_nif, cluster_shared, [z]),
        wait:until(fun() -> clusters:lagging(Other, Sender, Process) =:= full end),
        ok = on(One, sys, resume, [Process]),
        settle(Members, z),
        ?assertEqual(clusters:directory(One, z), found(First, events(One, Subscriber)))
    end).

open(Member, Names) ->
    [{ok, _} = on(Member, gen_tracker, find_or_open, [z, spec(Name)]) || Name <- Names].

names_with_two_children_are_told_of_each(_) ->
    with_fake(fun(One, {Other, _} = Fake, [P | _]) ->
        Names = lists:seq(1, 20),
        Own = [{N, element(2, on(One, gen_tracker, find_or_open, [z, spec(N, permanent)]))} ||
            N <- Names],
        {Subscriber, First} = subscriber(One),
        ?assertEqual(Own, lists:sort(First)),
        send(Fake, [{welcome, 1, {true, true}}, {snapshot, 1}, complete]),
        send(Fake, [{events, [{up, N, P, []} || N <- Names]}]),
        Wins = fun(Name) -> rank(Name, element(2, Other)) > rank(Name, element(2, One)) end,
        wait:until(fun() -> on(One, gen_tracker, count, [z]) =:= length(Names) - wins(Wins) end),
        send(Fake, []),
        Events = events(One, Subscriber),
        Left = found(First, Events),
        ?assertEqual(
            lists:sort([{N, P} || N <- Names] ++ [Row || {N, _} = Row <- Own, not Wins(N)]), Left
        ),
        [
            case Wins(N) of
                true ->
                    ?assertEqual(
                        [{up, N, P}, {conflict, N, P, Pid}, {down, N, Pid, {conflict, P}}],
                        of_name(N, Events)
                    );
                false ->
                    ?assertEqual([{up, N, P}, {conflict, N, Pid, P}], of_name(N, Events))
            end
         || {N, Pid} <- Own
        ]
    end).

wins(Wins) ->
    length([N || N <- lists:seq(1, 20), Wins(N)]).

rank(Name, Node) ->
    {gen_tracker_cluster_conflicts:rank(Name, Node), Node}.

of_name(Name, Events) ->
    [Event || Event <- Events, element(1, Event) =/= members, element(2, Event) =:= Name].

%% The table says `free` after the row has gone, and the name may have a new child by then.
a_late_event_of_the_table_reaches_no_member(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        {ok, Pid} = on(One, gen_tracker, find_or_open, [z, spec(a)]),
        settle(Members, z),
        Subscribers = [{M, element(1, subscriber(M))} || M <- Members],
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        Secret = hd([Part || Part <- tuple_to_list(on(One, sys, get_state, [Process])),
            is_integer(Part)]),
        _ = on(One, erlang, send, [Process, {Secret, {free, a}}]),
        {ok, _} = on(One, gen_tracker, find_or_open, [z, spec(b)]),
        settle(Members, z),
        ?assertEqual({ok, Pid}, on(Other, gen_tracker_cluster, find, [z, a])),
        [?assertMatch([{up, b, _}], events(M, Subscriber)) || {M, Subscriber} <- Subscribers]
    end).

nothing_arrives_after_the_end_of_a_subscription(_) ->
    with_fake(fun(One, Fake, [P | _]) ->
        send(Fake, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, []}, complete]),
        Subscriber = on(One, erlang, spawn, [fun subscribe_and_unsubscribe/0]),
        until_doing(subscribed, One, Subscriber),
        %% This event is in the mailbox.
        send(Fake, [{events, [{up, a, P, []}]}]),
        ?assertEqual([{up, a, P}], events(One, Subscriber)),
        unsubscribe = on(One, erlang, send, [Subscriber, unsubscribe]),
        until_doing(unsubscribed, One, Subscriber),
        send(Fake, [{events, [{down, a, P, x}, {free, a}]}]),
        ?assertEqual([], events(One, Subscriber))
    end).

subscribe_and_unsubscribe() ->
    {ok, []} = gen_tracker_cluster:subscribe(z),
    put(doing, subscribed),
    receive
        unsubscribe -> ok = gen_tracker_cluster:unsubscribe(z)
    end,
    put(doing, unsubscribed),
    timer:sleep(infinity).

until_doing(What, Member, Pid) ->
    wait:until(fun() ->
        {dictionary, Dictionary} = on(Member, erlang, process_info, [Pid, dictionary]),
        lists:member({doing, What}, Dictionary)
    end).

the_end_of_a_subscription_is_told_when_the_cluster_process_is_killed(_) ->
    clusters:with(1, z, fun([One]) ->
        {Subscriber, []} = subscriber(One),
        {Other, []} = subscriber(One),
        clusters:dies(One, Other),
        ok = on(One, clusters, kill_cluster_process, [z]),
        wait:until(fun() -> events(One, Subscriber) =:= [unsubscribed] end),
        _ = on(One, gen_tracker, wait, [z]),
        ?assertEqual([unsubscribed], events(One, Subscriber))
    end).

%% Then there is no process of the zone that could tell it.
the_end_of_a_subscription_is_told_when_tracker_and_cluster_process_are_killed(_) ->
    clusters:with(1, z, fun([One]) ->
        {Subscriber, []} = subscriber(One),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        Tracker = on(One, erlang, whereis, [z]),
        %% A process that has ended before resumes the other one.
        true = on(One, erlang, apply, [fun suspend_and_kill/2, [Process, Tracker]]),
        wait:until(fun() -> events(One, Subscriber) =:= [unsubscribed] end)
    end).

suspend_and_kill(Process, Tracker) ->
    true = erlang:suspend_process(Process),
    exit(Tracker, kill),
    exit(Process, kill).

%% Their claims are removed in portions. A subscriber that comes meanwhile does not know them.
children_that_nobody_finds_any_more_are_not_told(_) ->
    with_fake(fun(One, {Other, _} = Fake, [P | _]) ->
        {_, Node} = Other,
        Claims = [{N, P, []} || N <- lists:seq(1, 1000)],
        send(Fake, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, Claims}, complete]),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        %% All of this is in its mailbox before it handles any of it.
        ok = on(One, sys, suspend, [Process]),
        Last = [{snapshot, 2}, {page, [{1, P, []}]}, complete],
        ok = on(Other, fake_member, send_only, [element(2, Fake), Last]),
        until_received(One, Process, fun(M) -> element(tuple_size(M), M) =:= complete end),
        Subscriber = on(One, erlang, apply, [fun late_subscriber/0, []]),
        until_received(One, Process, fun(M) -> element(1, M) =:= '$gen_call' end),
        ok = on(Other, fake_member, stop, [element(2, Fake)]),
        until_received(One, Process, fun(M) -> element(1, M) =:= 'DOWN' end),
        ok = on(One, sys, resume, [Process]),
        wait:until(fun() -> lists:keymember(members, 1, events(One, Subscriber)) end),
        ?assertEqual(
            [{first, [{1, P}]}, {members, [element(2, One)]}, {down, 1, P, {nodedown, Node}}],
            lists:sort(events(One, Subscriber))
        )
    end).

late_subscriber() ->
    spawn(fun() ->
        {ok, Children} = gen_tracker_cluster:subscribe(z),
        self() ! {gen_tracker_cluster, z, {first, Children}},
        receive
        after infinity -> ok
        end
    end).

until_received(Member, Process, Is) ->
    wait:until(fun() ->
        {messages, Messages} = on(Member, erlang, process_info, [Process, messages]),
        lists:any(Is, Messages)
    end).

members_and_conflicts_are_emitted_for_telemetry(_) ->
    clusters:with(2, z, fun([{_, Here} = One, {Peer, There} = Other] = Members) ->
        ok = on(One, telemetry_stand_in, load, []),
        ok = on(One, clusters, stop_zone, [z]),
        Collector = on(One, telemetry_stand_in, collect, []),
        ok = on(One, clusters, start_zone, [z, #{cluster => true}]),
        settle(Members, z),
        Emitted = fun() -> on(One, telemetry_stand_in, collected, [Collector]) end,
        Await = fun(Number) ->
            wait:until(fun() -> length(cluster_events(Emitted())) =:= Number end),
            lists:last(cluster_events(Emitted()))
        end,
        {_, Up, UpMetadata} = Await(1),
        ?assertEqual({#{zone => z, node => There}, [system_time]}, {UpMetadata, maps:keys(Up)}),
        clusters:cut([One], [Other]),
        ?assertMatch({[cluster, nodedown], #{system_time := _}, UpMetadata}, Await(2)),
        Pids = [element(2, on(M, gen_tracker, find_or_open, [z, spec(a)])) || M <- Members],
        clusters:join(Members),
        settle(Members, z),
        [{a, Kept}] = clusters:directory(One, z),
        [Lost] = Pids -- [Kept],
        {_, Conflict, Metadata} = Await(4),
        ?assertEqual([system_time], maps:keys(Conflict)),
        ?assertEqual(#{zone => z, name => a, kept => Kept, lost => Lost}, Metadata),
        %% What a registration does on the home of the name is no start.
        Names = [N || N <- lists:seq(1, 100), on(One, gen_tracker_cluster, home, [z, N]) =:= Here],
        Pid = on(Other, erlang, spawn, [timer, sleep, [infinity]]),
        yes = on(Other, gen_tracker_cluster, register_name, [{z, hd(Names)}, Pid]),
        ok = peer:stop(Peer),
        ?assertMatch({[cluster, nodedown], _, _}, Await(5)),
        ?assertEqual([], [N || {[start, _], _, #{name := N}} <- Emitted(), N =:= hd(Names)])
    end).

cluster_events(Emitted) ->
    [Event || {[cluster, _], _, _} = Event <- Emitted].
