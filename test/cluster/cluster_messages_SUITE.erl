%% Promise: a message of a member that is malformed, or comes at the wrong time, is logged, and it
%% changes nothing. A message of a stranger changes nothing either. A node with another version of
%% the protocol is refused, and the members do without it. A member that is slow, or whose node
%% stands still, delays no other one, and what waits for it is bounded.
-module(cluster_messages_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(clusters, [with/3, on/4, settle/2, subscriber/1, events/2, with_fake/1, send/2]).
-import(cluster_child, [spec/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        messages_at_the_wrong_time_are_logged_and_change_nothing,
        messages_of_an_ended_session_change_nothing,
        credit_that_is_not_owed_is_logged_and_changes_nothing,
        nodes_of_other_versions_are_refused,
        a_node_of_a_later_version_joins_in_this_version,
        every_shape_of_message_that_the_cluster_process_receives_is_tried,
        messages_of_strangers_change_nothing,
        names_of_other_members_make_no_atoms,
        changes_of_one_attribute_are_sent_once_if_they_wait,
        what_waits_for_a_suspended_receiver_is_bounded,
        pages_are_sent_while_events_wait_for_their_credit,
        a_snapshot_arrives_over_a_connection_that_is_busy_after_each_page,
        a_node_that_stands_still_delays_no_other_member
    ].

messages_at_the_wrong_time_are_logged_and_change_nothing(_) ->
    with_fake(fun({_, Here} = One, Fake, [P, Q | _]) ->
        Log = keep_log(One),
        {Subscriber, []} = subscriber(One),
        Page = {page, [{a, Q, []}, {b, Q, []}]},
        Events = {events, [{down, a, P, x}, {up, c, Q, []}, {free, a}]},
        Before = [{status, {true, true}}, {snapshot, 1}, Page, complete, Events],
        send(Fake, Before),
        ?assertEqual(length(Before), malformed(One, Log)),
        ?assertEqual([Here], on(One, gen_tracker_cluster, members, [z])),
        send(Fake, [{welcome, 1, {true, true}}]),
        Welcomed = [{welcome, 1, {false, false}}, Page, complete, Events, {bye, {version, 7}},
            {snapshot, 0}, {snapshot, -1}, {snapshot, 1.0}],
        send(Fake, Welcomed),
        ?assertEqual(length(Before ++ Welcomed), malformed(One, Log)),
        ?assertEqual([], names(One)),
        send(Fake, [{snapshot, 4}, {page, [{a, P, []}]}, complete]),
        ?assertEqual([{a, P}], names(One)),
        Complete = [{snapshot, 4}, {snapshot, 3}, Page, complete, {welcome, 1, {true, true}}, bye,
            {bye, again}, {raw, {gen_tracker_cluster, hello, 1, z}}, {raw, {gen_tracker_cluster}}],
        send(Fake, Complete),
        ?assertEqual(length(Before ++ Welcomed ++ Complete), malformed(One, Log)),
        ?assertEqual([{a, P}], names(One)),
        ?assertMatch([{members, [_, _]}, {up, a, P}], events(One, Subscriber)),
        %% Otherwise the sender would wait for ever.
        {Other, Pid} = Fake,
        Claims = [M || {What, _} = M <- [{page, [{a, P, []}]} | Before ++ Welcomed ++ Complete],
            lists:member(What, [page, events])],
        wait:until(fun() ->
            length([N || {credit, N} <- on(Other, fake_member, received, [Pid])]) =:= length(Claims)
        end)
    end).

names(Member) ->
    clusters:directory(Member, z).

%% Starts to keep the log of a node.
keep_log(Member) ->
    Keep = fun() ->
        Keeper = spawn(timer, sleep, [infinity]),
        ok = logger:add_handler(kept_log, kept_log, #{config => Keeper}),
        ok = logger:set_primary_config(level, error),
        Keeper
    end,
    on(Member, erlang, apply, [Keep, []]).

%% Returns how many malformed messages have been logged.
malformed(Member, Log) ->
    length(logged(malformed_message, Member, Log)).

logged(What, Member, Log) ->
    {messages, Messages} = on(Member, erlang, process_info, [Log, messages]),
    [Report || {event, #{msg := {report, #{label := {gen_tracker_cluster, Label}, zone := z} =
        Report}}} <- Messages, Label =:= What].

messages_of_an_ended_session_change_nothing(_) ->
    with_fake(fun(One, {Other, Pid} = Fake, [P, Q | _]) ->
        send(Fake, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, [{a, P, []}]}, complete]),
        %% The member opens another session, since this process serves it in none that it knows.
        Session = on(Other, fake_member, session, [Pid]),
        Hello = {gen_tracker_cluster, hello, 1, z, make_ref(), Pid, make_ref()},
        send(Fake, [{raw, Hello}]),
        wait:until(fun() -> on(Other, fake_member, session, [Pid]) =/= Session end),
        ?assertEqual([], names(One)),
        Old = [{snapshot, 2}, {page, [{a, Q, []}]}, complete, {events, [{up, b, Q, []}]}],
        send(Fake, [{raw, {gen_tracker_cluster, Session, Message}} || Message <- Old]),
        ?assertEqual([], names(One)),
        send(Fake, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, [{a, Q, []}]}, complete]),
        ?assertEqual([{a, Q}], names(One))
    end).

credit_that_is_not_owed_is_logged_and_changes_nothing(_) ->
    with_fake(fun(One, {Other, Pid} = Fake, _) ->
        Log = keep_log(One),
        %% The member has sent one empty page.
        wait:until(fun() -> lists:member(complete, on(Other, fake_member, received, [Pid])) end),
        Serving = on(Other, fake_member, serving, [Pid]),
        Credit = fun(Number) -> {raw, {gen_tracker_cluster, Serving, {credit, Number}}} end,
        send(Fake, [Credit(2), Credit(0), Credit(-1), Credit(1 bsl 70)]),
        ?assertEqual(4, malformed(One, Log)),
        send(Fake, [Credit(1)]),
        ?assertEqual(4, malformed(One, Log)),
        send(Fake, [Credit(1)]),
        ?assertEqual(5, malformed(One, Log))
    end).

%% A member that starts waits for the names of those that are in the group already.
nodes_of_other_versions_are_refused(_) ->
    clusters:with(2, z, fun([{_, Here} = One, {_, Node} = Other]) ->
        Log = keep_log(One),
        Fakes = with_versions([0, 2], One, Other),
        {ok, Child} = on(One, gen_tracker_cluster, find_or_open, [z, spec(a)]),
        ?assertEqual(Here, node(Child)),
        [await_bye(Other, Fake) || {_, Fake} <- Fakes],
        Refused = lists:append([
            [
                #{version => Version, its_zone => z, from => Fake},
                #{node => Node, message => {bye, {version, Version}}}
            ]
         || {Version, Fake} <- Fakes
        ]),
        Reports = [maps:without([label, zone], Report) || Report <- logged(refused, One, Log)],
        ?assertEqual(lists:sort(Refused), lists:sort(Reports)),
        ?assertEqual(0, malformed(One, Log)),
        ?assertEqual([Here], on(One, gen_tracker_cluster, members, [z])),
        %% They were sent nothing else, and nothing changes when they end.
        [?assertEqual([{bye, {version, 1}}], on(Other, fake_member, received, [Fake])) ||
            {_, Fake} <- Fakes],
        [ok = on(Other, fake_member, stop, [Fake]) || {_, Fake} <- Fakes],
        {ok, Next} = on(One, gen_tracker_cluster, find_or_open, [z, spec(b)]),
        ?assertEqual([{a, Child}, {b, Next}], names(One))
    end).

%% As the document `doc/internals/cluster.md` demands it of later versions.
a_node_of_a_later_version_joins_in_this_version(_) ->
    clusters:with(2, z, fun([{_, Here} = One, {_, Node} = Other]) ->
        [{2, Pid}] = with_versions([2], One, Other),
        await_bye(Other, Pid),
        [P | _] = on(Other, fake_member, pids, [Pid]),
        Hello = {gen_tracker_cluster, hello, 1, z, make_ref(), Pid, undefined},
        Snapshot = [{snapshot, 1}, {page, [{a, P, []}]}, complete],
        send({Other, Pid}, [{raw, Hello}, {welcome, 1, {true, true}} | Snapshot]),
        ?assertEqual([{a, P}], names(One)),
        ?assertEqual(lists:sort([Here, Node]), on(One, gen_tracker_cluster, members, [z])),
        [{bye, _}, Welcome | _] = on(Other, fake_member, received, [Pid]),
        ?assertMatch({welcome, 1, _}, Welcome)
    end).

%% Starts a zone where nodes of these versions are in the group already.
with_versions(Versions, One, Other) ->
    [ok = on(Member, clusters, stop_zone, [z]) || Member <- [One, Other]],
    Fakes = [{V, on(Other, fake_member, start_version, [z, V])} || V <- Versions],
    Pids = lists:sort([Fake || {_, Fake} <- Fakes]),
    wait:until(fun() ->
        lists:sort(on(One, pg, get_members, [gen_tracker_cluster, z])) =:= Pids
    end),
    ok = on(One, clusters, start_zone, [z, #{cluster => true}]),
    Fakes.

%% Waits until a node of another version was refused. Then its `bye` was handled as well.
await_bye(Other, Fake) ->
    wait:until(fun() ->
        lists:member({bye, {version, 1}}, on(Other, fake_member, received, [Fake]))
    end).

every_shape_of_message_that_the_cluster_process_receives_is_tried(_) ->
    Some = [
        {'_', {watched, '_', '_'}},
        {'_', {joined, '_', '_'}},
        {'_', {sweep, '_', '_'}},
        {'_', {refuse, '_', '_'}},
        {'_', {late_decision, '_'}},
        {'_', {conflict_again, '_'}},
        {'DOWN', '_', process, '_', '_'}
    ],
    ?assertEqual([], Some -- shapes()).

shapes() ->
    prop_strangers:shapes(gen_tracker_cluster_member, [{received, 2}]) ++
        prop_strangers:shapes(gen_tracker_cluster_conflicts, [{handle, 2}]) ++
        prop_strangers:shapes(gen_tracker_cluster_scope).

messages_of_strangers_change_nothing(_) ->
    with(2, z, fun([One, Other] = Members) ->
        [{ok, _} = on(M, gen_tracker, find_or_open, [z, spec(Name)]) ||
            {Name, M} <- [{a, One}, {b, Other}]],
        settle(Members, z),
        {Subscriber, [_, _]} = subscriber(One),
        {Foreign, _, _, _} = on(Other, proctab_nif, cluster_shared, [z]),
        Before = state(Members),
        Seed = rand:uniform(1 bsl 50),
        ok = on(One, ?MODULE, send_as_a_stranger, [Seed, Subscriber, Foreign]),
        ?assertEqual({Seed, Before}, {Seed, state(Members)}),
        ?assertEqual({Seed, []}, {Seed, events(One, Subscriber)}),
        {ok, _} = on(Other, gen_tracker, find_or_open, [z, spec(c)]),
        settle(Members, z),
        ?assertMatch([{up, c, _}], events(One, Subscriber))
    end).

state([{_, Node} = One | _] = Members) ->
    Own = [Pid || {_, Pid} <- names(One), node(Pid) =:= Node],
    {
        on(One, ?MODULE, beside_the_tracker, []),
        [clusters:homes(Member, z) || Member <- Members],
        [names(Member) || Member <- Members],
        [on(One, erlang, is_process_alive, [Pid]) || Pid <- Own]
    }.

%% Returns the tracker, the cluster process, and its watcher.
beside_the_tracker() ->
    Tracker = whereis(z),
    {Process, _, _, _} = proctab_nif:cluster_shared(z),
    {links, Links} = process_info(Process, links),
    {Tracker, Process, [Pid || Pid <- Links, is_pid(Pid), Pid =/= Tracker]}.

%% Requests, and the exit of the parent of the cluster process, are no messages of strangers.
send_as_a_stranger(Seed, Subscriber, Foreign) ->
    {Tracker, Process, [Watcher]} = beside_the_tracker(),
    {ok, Child} = gen_tracker:find(z, a),
    Pids = #{
        cluster => Process,
        watcher => Watcher,
        tracker => Tracker,
        subscriber => Subscriber,
        child => Child,
        foreign => Foreign,
        test => self()
    },
    PidOf = fun(Role) -> map_get(Role, Pids) end,
    Makings = prop_strangers:makings([cluster, watcher], shapes(), maps:keys(Pids)),
    lists:foreach(
        fun(Number) ->
            {To, Letter} = prop_strangers:letter(Number, Makings),
            case prop_strangers:real(Letter, PidOf) of
                {'EXIT', Tracker, _} -> ok;
                {'$gen_call', _, Request} when is_atom(Request) -> ok;
                Message -> PidOf(To) ! Message
            end
        end,
        lists:seq(Seed, Seed + 20000)
    ),
    {error, unknown_call} = gen_server:call(Process, anything),
    wait:until(fun() -> process_info(Watcher, message_queue_len) =:= {message_queue_len, 0} end).

names_of_other_members_make_no_atoms(_) ->
    with_fake(fun(One, Fake, [P | _]) ->
        Claims = fun(From) ->
            [{Name, P, [{<<"key of ", Name/binary>>, Name}]} || I <- lists:seq(From, From + 99),
                Name <- [<<"no_atom_", (integer_to_binary(I))/binary>>]]
        end,
        Attributes = #{cluster => #{copied => [<<"key of no_atom_1">>]}},
        ok = on(One, clusters, stop_zone, [z]),
        ok = on(One, clusters, start_zone, [z, Attributes]),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        {Other, _} = Fake,
        Next = {Other, on(Other, fake_member, start, [z, Process])},
        send(Next, [{welcome, 1, {true, true}}, {snapshot, 1}, {page, Claims(1)}]),
        Atoms = on(One, erlang, system_info, [atom_count]),
        send(Next, [{page, Claims(101)}, complete, {events, [{up, <<"no_atom">>, P, []}]}]),
        send(Next, [{<<"no_atom_at_all">>, 1}, {events, [{<<"no_event">>, P}]}]),
        ?assertEqual(201, length(names(One))),
        ?assertEqual(Atoms, on(One, erlang, system_info, [atom_count]))
    end).

%% A process may change an attribute faster than the cluster process can send it.
changes_of_one_attribute_are_sent_once_if_they_wait(_) ->
    with_fake(fun(One, {Other, Last}, _) ->
        ok = on(One, clusters, stop_zone, [z]),
        ok = on(One, clusters, start_zone, [z, #{cluster => #{copied => [c]}}]),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        ok = on(Other, fake_member, stop, [Last]),
        Fake = {Other, on(Other, fake_member, start, [z, Process])},
        [{ok, _} = on(One, gen_tracker, find_or_open, [z, spec(N)]) || N <- [a, b]],
        Copied = fun() ->
            [Event || {events, Events} <- on(Other, fake_member, received, [element(2, Fake)]),
                {copied, _, _} = Event <- Events]
        end,
        send(Fake, []),
        [] = Copied(),
        ok = on(One, sys, suspend, [Process]),
        [ok = on(One, gen_tracker, setattr, [z, N, c, V]) || V <- lists:seq(1, 100), N <- [a, b]],
        ok = on(One, sys, resume, [Process]),
        wait:until(fun() -> length(Copied()) >= 2 end),
        send(Fake, []),
        ?assertEqual([{copied, a, [{c, 100}]}, {copied, b, [{c, 100}]}], lists:sort(Copied()))
    end).

what_waits_for_a_suspended_receiver_is_bounded(_) ->
    clusters:with(3, z, fun([One, Other, Last] = Members) ->
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        {Sender, _, _, _} = on(Other, proctab_nif, cluster_shared, [z]),
        ok = on(One, sys, suspend, [Process]),
        Pids = [
            begin
                {ok, Pid} = on(Other, gen_tracker, find_or_open, [z, spec(N)]),
                %% One message for each, at least.
                _ = on(Other, sys, get_state, [Sender]),
                Pid
            end
         || N <- lists:seq(1, 200)
        ],
        {messages, Messages} = on(One, erlang, process_info, [Process, messages]),
        ?assertEqual(16, length([events || {gen_tracker_cluster, _, {events, _}} <- Messages])),
        wait:until(fun() -> length(clusters:directory(Last, z)) =:= 200 end),
        clusters:dies(Other, hd(Pids)),
        ok = on(One, sys, resume, [Process]),
        settle(Members, z),
        ?assertEqual(199, length(clusters:directory(One, z)))
    end).

%% Births and deaths may come as fast as their credits.
pages_are_sent_while_events_wait_for_their_credit(_) ->
    with_fake(fun(One, {Other, Pid}, _) ->
        ok = on(One, ?MODULE, open_names, [lists:seq(1, 5000)]),
        Session = make_ref(),
        Hello = {gen_tracker_cluster, hello, 1, z, Session, Pid, undefined},
        Kinds = fun(Kind) ->
            Messages = on(Other, fake_member, received, [Pid]),
            length([Kind || Message <- Messages, element(1, Message) =:= Kind])
        end,
        Earlier = Kinds(page),
        ok = on(Other, fake_member, send, [Pid, [{raw, Hello}]]),
        wait:until(fun() -> Kinds(page) =:= Earlier + 4 end),
        Before = Kinds(events),
        {Sender, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        [begin
            ok = on(One, ?MODULE, open_names, [[Name]]),
            _ = on(One, sys, get_state, [Sender])
         end || Name <- [a, b, c, d, e, f]],
        wait:until(fun() -> Kinds(events) >= Before + 6 end),
        Credit = {gen_tracker_cluster, Session, {credit, 1}},
        ok = on(Other, fake_member, send, [Pid, [{raw, Credit}]]),
        wait:until(fun() -> Kinds(page) =:= Earlier + 5 end)
    end).

open_names(Names) ->
    lists:foreach(fun(Name) -> {ok, _} = gen_tracker:find_or_open(z, spec(Name)) end, Names).

%% A thousand of these names make a message of 30 MB, after which the connection is busy.
a_snapshot_arrives_over_a_connection_that_is_busy_after_each_page(_) ->
    Options = #{cluster => #{copied => [c]}},
    clusters:with(2, z, Options, fun([One, Other] = Members) ->
        ok = on(Other, clusters, stop_zone, [z]),
        ok = on(One, ?MODULE, open_with_values, [lists:seq(1, 2500)]),
        ok = on(Other, clusters, start_zone, [z, Options]),
        settle(Members, z),
        ?assertEqual(2500, length(names(Other)))
    end).

open_with_values(Names) ->
    ok = open_names(Names),
    Value = binary:copy(<<"0123456789">>, 3000),
    lists:foreach(fun(Name) -> ok = gen_tracker:setattr(z, Name, c, Value) end, Names).

%% The connection to it is busy, so that the VM would suspend a process that sends to it.
a_node_that_stands_still_delays_no_other_member(_) ->
    Options = #{cluster => #{copied => [c]}},
    clusters:with(3, z, Options, fun([One, Other, {_, Node} = Last]) ->
        {ok, _} = on(One, gen_tracker, find_or_open, [z, spec(a)]),
        Process = on(Last, os, getpid, []),
        {Sender, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        {Peer, _, _, _} = on(Last, proctab_nif, cluster_shared, [z]),
        signal("STOP", Process),
        Drained =
            try
                wait:until(fun() ->
                    ok = on(One, ?MODULE, set_large_value, [a]),
                    clusters:lagging(One, Sender, Peer) =:= missed
                end),
                %% Tells all peers of its status.
                Asked = callers:ask(fun() -> on(One, gen_tracker_cluster, drain, [z]) end),
                {ok, Pid} = on(One, gen_tracker, find_or_open, [z, spec(b)]),
                wait:until(fun() ->
                    on(Other, gen_tracker_cluster, find, [z, b]) =:= {ok, Pid} andalso
                        not lists:member(element(2, One), clusters:homes(Other, z))
                end),
                Asked
            after
                signal("CONT", Process)
            end,
        wait:until(fun() -> names(Last) =:= names(One) end),
        wait:until(fun() ->
            lists:sort(clusters:homes(Last, z)) =:= lists:sort([element(2, Other), Node])
        end),
        [clusters:dies(One, Child) || {_, Child} <- on(One, clusters, running, [z])],
        ?assertEqual({answer, ok}, callers:answer(Drained)),
        wait:until(fun() -> names(Last) =:= [] end)
    end).

%% Makes the value on the node: the call that carried it would take a second on a busy machine, and
%% seven values or so make the connection busy.
set_large_value(Name) ->
    gen_tracker:setattr(z, Name, c, binary:copy(<<"0123456789">>, 100000)).

signal(Signal, Process) ->
    [] = os:cmd("kill -" ++ Signal ++ " " ++ Process).
