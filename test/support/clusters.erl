%% Cluster zones on nodes of this machine, which tests cut apart and join again.
%%
%% The nodes do not connect by themselves, and do not cut connections to be consistent, so that a
%% test decides who sees whom. A member is `{Peer, Node}`. On each node a supervising process starts
%% the zone again when its tracker has ended. The nodes may run different releases of OTP: see
%% `systems`.
-module(clusters).

-export([with/3, with/4, with_overlap_prevention/3, with_fake/1, send/2, on/4, on/5]).
-export([cut/2, join/1, join/2, settle/2, directory/2, homes/2, dies/2, subscriber/1, events/2]).
-export([start_zone/2, stop_zone/1, until_zone_runs/2, supervise/3, books/0, running/1]).
-export([kill_cluster_process/1, lagging/3]).

%% Starts so many nodes with a zone of this name, connects them, waits until all are members, and
%% calls `Fun` with them.
with(Number, Zone, Fun) ->
    with(Number, Zone, #{cluster => true}, Fun).

with(Number, Zone, Options, Fun) ->
    Kernel = ["-kernel", "dist_auto_connect", "never",
              "-kernel", "prevent_overlapping_partitions", "false"],
    with(Number, Zone, Options, Kernel, Fun).

%% Starts a member, and another one whose messages the test decides. Calls `Fun` with the member,
%% the other one for `send/2`, and three pids of its node.
with_fake(Fun) ->
    with(2, z, fun([One, Other]) ->
        ok = on(Other, ?MODULE, stop_zone, [z]),
        wait:until(fun() -> length(on(One, gen_tracker_cluster, members, [z])) =:= 1 end),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        Fake = on(Other, fake_member, start, [z, Process]),
        Fun(One, {Other, Fake}, on(Other, fake_member, pids, [Fake]))
    end).

%% Sends messages, and returns when the member has handled them.
send({Other, Fake}, Messages) ->
    ok = on(Other, fake_member, send, [Fake, Messages]).

%% Like `with/3`, of nodes as they are by default: they connect by themselves, and cut further
%% connections when one is lost, so that no partitions overlap.
with_overlap_prevention(Number, Zone, Fun) ->
    Kernel = ["-kernel", "prevent_overlapping_partitions", "true"],
    with(Number, Zone, #{cluster => true}, Kernel, Fun).

with(Number, Zone, Options, Kernel, Fun) ->
    Members = start_nodes(Number, Kernel),
    try
        join(Members),
        [ok = on(Member, ?MODULE, start_zone, [Zone, Options]) || Member <- Members],
        settle(Members, Zone),
        Fun(Members)
    after
        [stop(Peer) || {Peer, _} <- Members]
    end.

%% The test may have stopped it already.
stop(Peer) ->
    try
        peer:stop(Peer)
    catch
        exit:_ -> stopped
    end.

%% The cookie in the home folder of another system may be another one.
start_nodes(Number, Kernel) ->
    Cookie = integer_to_list(rand:uniform(1 bsl 64), 36),
    Arguments = Kernel ++ ["-kernel", "logger_level", "critical", "-setcookie", Cookie],
    Systems = systems:all(),
    [
        start_node(lists:nth(1 + N rem length(Systems), Systems), Arguments)
     || N <- lists:seq(0, Number - 1)
    ].

start_node(System, Arguments) ->
    #{args := Paths} = Options = systems:options(System),
    {ok, Peer, Node} = peer:start_link(Options#{
        name => peer:random_name(),
        connection => standard_io,
        args := Arguments ++ Paths
    }),
    {Peer, Node}.

%% Calls a function on a node.
on(Member, Module, Function, Arguments) ->
    on(Member, Module, Function, Arguments, 60000).

on({Peer, _}, Module, Function, Arguments, Timeout) ->
    peer:call(Peer, Module, Function, Arguments, Timeout).

%% Connects all nodes with each other.
join(Members) ->
    [join(One, Other) || One <- Members, Other <- Members, One < Other],
    ok.

join(One, {_, Node}) ->
    wait:until(fun() -> on(One, net_kernel, connect_node, [Node]) end).

%% Cuts the connections between two groups of nodes.
cut(Some, Others) ->
    [true = on(One, erlang, disconnect_node, [Node]) || One <- Some, {_, Node} <- Others],
    ok.

%% Connects nodes that are not connected, and returns whether there were none. A connection can be
%% lost again when both nodes make it at the same time.
are_joined(Members) ->
    Apart = [
        {One, Node}
     || One <- Members,
        Connected <- [on(One, erlang, nodes, [])],
        {_, Node} = Other <- Members,
        Other =/= One,
        not lists:member(Node, Connected)
    ],
    [on(One, net_kernel, connect_node, [Node]) || {One, Node} <- Apart],
    Apart =:= [].

%% Connects all nodes, and waits until all have each other as members that accept starts, and the
%% same directory.
settle(Members, Zone) ->
    Nodes = lists:sort([Node || {_, Node} <- Members]),
    until_in_running_zones(10, fun() ->
        are_joined(Members) andalso lists:all(
            fun(Member) ->
                on(Member, gen_tracker_cluster, members, [Zone]) =:= Nodes andalso
                    length(homes(Member, Zone)) =:= length(Nodes)
            end,
            Members
        )
    end),
    until_in_running_zones(30, fun() ->
        Running = [on(Member, ?MODULE, running, [Zone]) || Member <- Members],
        Live = lists:sort(lists:append(Running)),
        lists:all(fun(Member) -> directory(Member, Zone) =:= Live end, Members)
    end).

%% Waits until the supervisor has started a zone again.
until_zone_runs(Member, Zone) ->
    until_in_running_zones(10, fun() ->
        is_list(on(Member, gen_tracker_cluster, members, [Zone]))
    end).

%% Waits until the zones that the condition reads run, and it holds. Before that, a zone whose
%% tracker was killed may still have its table, and one that starts has its name before its table.
until_in_running_zones(Seconds, Condition) ->
    wait:until(
        fun() ->
            try
                Condition()
            catch
                error:badarg -> false
            end
        end,
        Seconds
    ).

%% Returns the members that accept starts, as far as this one knows.
homes(Member, Zone) ->
    {_, Table, _, _} = on(Member, proctab_nif, cluster_shared, [Zone]),
    on(Member, ets, lookup_element, [Table, homes, 2]).

%% Returns what a member finds: all names with their children.
directory(Member, Zone) ->
    Collect = fun(Name, Pid, Children) -> [{Name, Pid} | Children] end,
    lists:sort(on(Member, gen_tracker_cluster, fold, [Collect, [], Zone])).

%% Kills a process, and waits until its node has noticed.
dies(Member, Pid) ->
    Monitor = fun() ->
        {Killer, Ended} = spawn_monitor(fun() ->
            Its = monitor(process, Pid),
            exit(Pid, kill),
            receive
                {'DOWN', Its, process, Pid, _} -> ok
            end
        end),
        receive
            {'DOWN', Ended, process, Killer, _} -> ok
        end
    end,
    on(Member, erlang, apply, [Monitor, []]).

%% Starts a subscriber of the zone `z` on a member. Returns it, and the children at that moment.
subscriber(Member) ->
    Start = fun() ->
        Caller = self(),
        Pid = spawn(fun() ->
            {ok, Children} = gen_tracker_cluster:subscribe(z),
            Caller ! {self(), Children},
            receive
            after infinity -> ok
            end
        end),
        receive
            {Pid, Children} -> {Pid, Children}
        end
    end,
    on(Member, erlang, apply, [Start, []]).

%% Returns the events that it has been told of.
events(Member, Subscriber) ->
    {messages, Messages} = on(Member, erlang, process_info, [Subscriber, messages]),
    [Event || {gen_tracker_cluster, z, Event} <- Messages].

%%% On the nodes

%% Starts a zone below a process that starts it again.
start_zone(Zone, Options) ->
    Caller = self(),
    {Supervising, Monitor} = spawn_monitor(?MODULE, supervise, [Zone, Options, Caller]),
    receive
        {Supervising, started} ->
            demonitor(Monitor, [flush]),
            ok;
        {'DOWN', Monitor, process, _, Reason} ->
            Reason
    end.

%% Stops a zone, and the process that starts it again. Fails with `badarg` if the zone does not run.
stop_zone(Zone) ->
    case process_info(whereis(Zone), parent) of
        {parent, Supervising} ->
            Monitor = monitor(process, Supervising),
            Supervising ! stop,
            receive
                {'DOWN', Monitor, process, _, _} -> ok
            end;
        undefined ->
            %% Its tracker has just ended.
            error(badarg)
    end.

supervise(Zone, Options, Caller) ->
    process_flag(trap_exit, true),
    _ = ets:whereis(cluster_child) =:= undefined andalso cluster_child:open_books(),
    case gen_tracker:start_link(Zone, Options) of
        {ok, Tracker} ->
            Caller ! {self(), started},
            supervise(Zone, Options, Caller, Tracker);
        {error, killed} ->
            %% A test has killed it before it was started.
            supervise(Zone, Options, Caller)
    end.

supervise(Zone, Options, Caller, Tracker) ->
    receive
        {'EXIT', Tracker, _} -> supervise(Zone, Options, Caller);
        stop -> gen_server:stop(Zone)
    end.

%% Returns what `cluster_child` has recorded on this node.
books() ->
    lists:sort([Row || {_, Row} <- ets:tab2list(cluster_child)]).

%% Returns the running children of this member.
running(Zone) ->
    gen_tracker:fold(fun(Name, Pid, Children) -> [{Name, Pid} | Children] end, [], Zone).

kill_cluster_process(Zone) ->
    {Process, _, _, _} = proctab_nif:cluster_shared(Zone),
    exit(Process, kill),
    wait:until(fun() ->
        {Other, _, _, _} = proctab_nif:cluster_shared(Zone),
        Other =/= Process
    end).

%% Returns why a cluster process sends no claims to a peer, or `no` if it does: the last field of
%% its session.
lagging(Member, Sender, Peer) ->
    State = tuple_to_list(on(Member, sys, get_state, [Sender])),
    [Its] = [Its || #{Peer := Its} <- State],
    Session = record(session, record(sending, Its)),
    element(tuple_size(Session), Session).

%% Returns the record of this name that another record contains.
record(Name, Record) ->
    [Part] = [Part || Part <- tuple_to_list(Record), is_tuple(Part), element(1, Part) =:= Name],
    Part.
