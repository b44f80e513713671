%% The demonstration of a cluster zone.
%%
%% Four nodes on this machine have a zone of one name. All nodes open all names at the same time,
%% and each name gets one child. Then the cluster is cut in two, and both halves open all names
%% again. The halves are joined, so that of two children of a name one has to go. Last, a node is
%% drained and stopped. After each step the demonstration prints what each node sees.
%%
%% At the end it balances the books (`cluster_demo_node'): what was started, what the library
%% reported, and what runs must agree.
-module(cluster_demo).

-export([main/0]).

-define(NODES, ["one", "two", "three", "four"]).
-define(PATIENCE, 20000).
-define(LABELS, ["node", "members", "names", "children here", "up", "down", "nodedown",
                 "conflict"]).

main() ->
    Code =
        try
            run(number(init:get_plain_arguments()))
        catch
            throw:{never, What, Seen} ->
                io:format("This did not happen in ~b s: ~ts~n~tp~n", [
                    ?PATIENCE div 1000, What, Seen
                ]),
                1;
            Class:Reason:Stack ->
                io:format("the demonstration crashed: ~tp~n", [{Class, Reason, Stack}]),
                1
        end,
    halt(Code).

number([]) -> 1000;
number([Number]) -> list_to_integer(Number).

run(Number) ->
    Names = [<<"stream ", (integer_to_binary(N))/binary>> || N <- lists:seq(1, Number)],
    Cluster = [start_node(Name) || Name <- ?NODES],
    io:format("Four nodes, ~b names. Columns: the members of the zone, the names that the node~n"
              "finds, the children that run on it, and the events that it was told of.~n",
              [Number]),
    form(Cluster, Names),
    open_all(Cluster, Names),
    Halves = cut(Cluster, Names),
    Doubled = open_halves(Halves, Names),
    heal(Cluster, Names, Doubled),
    Left = drain(Cluster, Names),
    Others = lists:droplast(Cluster),
    Last = lists:last(Cluster),
    Books = [on(Node, books, []) || Node <- Cluster],
    stop_node(Last),
    settle("the others notice that the node has gone", Others, Names, Number),
    show("node four has stopped", Others, Names),
    Running = lists:append([here(Node, Names) || Node <- Others]),
    [balance_events(Node, Names) || Node <- Others],
    [stop_node(Node) || Node <- Others],
    report(Names, lists:append(Books), Running, Doubled, Left).

%% The nodes do not connect by themselves.
start_node(Name) ->
    {ok, Peer, Node} = peer:start_link(#{
        name => lists:concat(["proctab_", os:getpid(), "_", Name]),
        host => "127.0.0.1",
        longnames => true,
        connection => standard_io,
        args => [
            "-setcookie", "proctab_" ++ os:getpid(),
            "-kernel", "dist_auto_connect", "never",
            "-kernel", "prevent_overlapping_partitions", "false",
            "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
            "-kernel", "logger_level", "critical",
            "-pa" | [filename:dirname(code:which(Module)) || Module <- [gen_tracker, ?MODULE]]
        ]
    }),
    {Name, Peer, Node}.

stop_node({_, Peer, _}) ->
    peer:stop(Peer).

%%% The steps

form(Cluster, Names) ->
    connect(Cluster),
    [ok = on(Node, start, [#{}]) || Node <- Cluster],
    settle("all nodes are members", Cluster, Names, 0),
    show("the nodes are connected, and each starts the zone", Cluster, Names).

open_all(Cluster, Names) ->
    Answers = open(Cluster, Names),
    settle("all nodes find all names", Cluster, Names, length(Names)),
    show("every node opens every name, eight times at once", Cluster, Names),
    one_child_each("a name is opened twice", Answers, Names).

cut(Cluster, Names) ->
    {Some, Others} = Halves = lists:split(2, Cluster),
    [true = call(A, erlang, disconnect_node, [Node]) || A <- Some, {_, _, Node} <- Others],
    [settle("the halves lose each other", Half, Names, any) || Half <- [Some, Others]],
    show("the cluster is cut in two", Cluster, Names),
    Halves.

open_halves({Some, Others}, Names) ->
    Halves = [Some, Others],
    Answers = pmap(fun(Half) -> open(Half, Names) end, Halves),
    [settle("a half finds all names", Half, Names, length(Names)) || Half <- Halves],
    show("both halves open every name", Some ++ Others, Names),
    [one_child_each("a name is opened twice in a half", Half, Names) || Half <- Answers],
    [NamesHere, NamesThere] = [
        [Name || Node <- Half, {Name, _} <- here(Node, Names)]
     || Half <- Halves
    ],
    [Name || Name <- NamesHere, lists:member(Name, NamesThere)].

heal(Cluster, Names, Doubled) ->
    connect(Cluster),
    settle("one child of each name is left", Cluster, Names, length(Names)),
    show("the halves are joined again: " ++ integer_to_list(length(Doubled)) ++ " conflicts",
         Cluster, Names).

%% Children of a node that is drained go on until they are stopped. Whoever asks for such a name
%% after that has it started elsewhere. Returns the names.
drain(Cluster, Names) ->
    Others = lists:droplast(Cluster),
    Last = lists:last(Cluster),
    Left = [Name || {Name, _} <- here(Last, Names)],
    Caller = self(),
    Draining = spawn_link(fun() -> Caller ! {self(), on(Last, drain, [])} end),
    await("the node is nobody's home", fun() ->
        Homes = lists:append([maps:get(homes, overview(Node, Names)) || Node <- Cluster]),
        {not lists:member(node_name(Last), Homes), lists:usort(Homes)}
    end),
    [ok = on(Last, terminate, [Name]) || Name <- Left],
    await("the others notice the deaths", fun() ->
        Found = [Name || Node <- Others, {Name, Pid} <- maps:get(found, overview(Node, Names)),
                         node(Pid) =:= node_name(Last)],
        {Found =:= [], Found}
    end),
    receive
        {Draining, ok} -> ok
    after ?PATIENCE ->
        throw({never, "drain/1 returns", here(Last, Names)})
    end,
    Answers = open(Others, Names),
    settle("all names run elsewhere", Cluster, Names, length(Names)),
    show("node four is drained, and the others open every name", Cluster, Names),
    one_child_each("a name is opened twice after the drain", Answers, Names),
    agree("children on a drained node", [], here(Last, Names)),
    Left.

open(Nodes, Names) ->
    lists:append(pmap(fun(Node) -> on(Node, open, [Names]) end, Nodes)).

connect(Cluster) ->
    [true = call(A, net_kernel, connect_node, [Node]) || A <- Cluster, {_, _, Node} <- Cluster],
    ok.

%%% What the nodes see

%% Waits until these nodes see each other as members and as homes, and find the same names, so many
%% and each with the child that runs.
settle(What, Nodes, Names, Number) ->
    await(What, fun() ->
        Seen = [overview(Node, Names) || Node <- Nodes],
        Members = lists:sort([node_name(Node) || Node <- Nodes]),
        {is_settled(Seen, Members, Number), [short(Overview) || Overview <- Seen]}
    end).

short(#{homes := Homes} = Overview) ->
    Shorten = fun
        (members, Members) -> Members;
        (homes, _) -> lists:usort(Homes);
        (events, Events) -> Events;
        (_, List) -> length(List)
    end,
    maps:map(Shorten, Overview).

%% What they have told their subscribers counts as well.
is_settled(Seen, Nodes, Number) ->
    Running = lists:sort(lists:append([Here || #{here := Here} <- Seen])),
    Homes = lists:usort([Homes || #{homes := Homes} <- Seen]),
    lists:all(
        fun(#{members := Members, names := Known, found := Found, told := Told}) ->
            {lists:sort(Members), Known, Found, Told} =:= {Nodes, Running, Running, Running}
        end,
        Seen
    ) andalso length(Homes) =:= 1 andalso not lists:member(undefined, hd(Homes)) andalso
        (Number =:= any orelse length(Running) =:= Number).

show(Step, Nodes, Names) ->
    io:format("~n~ts~n", [Step]),
    Rows = [row(Name, overview(Node, Names)) || {Name, _, _} = Node <- Nodes],
    [io:format("  ~-6ts~8ts~8ts~15ts~7ts~7ts~10ts~10ts~n", Row) || Row <- [?LABELS | Rows]].

row(Name, #{members := Members, names := Names, here := Here, events := Events}) ->
    Counts = [maps:get(Kind, Events, 0) || Kind <- [up, down, nodedown, conflict]],
    [Name | [integer_to_list(N) || N <- [length(Members), length(Names), length(Here) | Counts]]].

overview(Node, Names) ->
    on(Node, overview, [Names]).

here(Node, Names) ->
    maps:get(here, overview(Node, Names)).

await(What, Condition) ->
    await(What, Condition, erlang:monotonic_time(millisecond) + ?PATIENCE).

await(What, Condition, Deadline) ->
    {Holds, Seen} = Condition(),
    case Holds orelse erlang:monotonic_time(millisecond) < Deadline of
        _ when Holds ->
            ok;
        true ->
            timer:sleep(20),
            await(What, Condition, Deadline);
        false ->
            throw({never, What, Seen})
    end.

%%% The books

%% Every answer for a name is the same child.
one_child_each(What, Answers, Names) ->
    ByName = lists:foldl(
        fun({Name, Answer}, Map) -> Map#{Name => [Answer | maps:get(Name, Map, [])]} end,
        #{},
        Answers
    ),
    Wrong = [
        {Name, Distinct}
     || Name <- Names,
        Distinct <- [lists:usort(maps:get(Name, ByName, []))],
        not is_one_child(Distinct)
    ],
    agree(What, [], Wrong).

is_one_child([{ok, Pid}]) -> is_pid(Pid);
is_one_child(_) -> false.

%% By births and deaths, a subscriber knows the children that its node finds.
balance_events({Name, _, _} = Node, Names) ->
    #{names := Found, told := Told} = overview(Node, Names),
    agree("children by the events on node " ++ Name, Found, Told).

report(Names, Books, Running, Doubled, Left) ->
    Sum = fun(Kind) -> lists:sum([N || {{K, _}, N} <- Books, K =:= Kind]) end,
    Of = fun(Kind) -> lists:sort([Name || {{K, Name}, N} <- Books, K =:= Kind, _ <- ones(N)]) end,
    [Started, Conflicts, Stopped, Otherwise] =
        [Sum(Kind) || Kind <- [started, conflict, stopped, otherwise]],
    io:format("~nstarted ~b = stopped for a conflict ~b + stopped on node four ~b + running ~b~n",
              [Started, Conflicts, Stopped, length(Running)]),
    agree("starts and ends", Started, Conflicts + Stopped + length(Running)),
    agree("cleanups for another reason", 0, Otherwise),
    agree("names that run, once each", lists:sort(Names), lists:sort([N || {N, _} <- Running])),
    agree("cleanups of losers, once each", lists:sort(Doubled), Of(conflict)),
    agree("cleanups on the drained node, once each", lists:sort(Left), Of(stopped)),
    case get(wrong) of
        undefined ->
            io:format("the books balance~n"),
            0;
        Wrong ->
            [io:format("DISAGREES: ~ts: expected ~0tP, is ~0tP~n", [What, E, 40, A, 40])
             || {What, E, A} <- lists:reverse(Wrong)],
            1
    end.

ones(Number) ->
    lists:seq(1, Number).

agree(_What, Value, Value) ->
    ok;
agree(What, Expected, Actual) ->
    Before = case get(wrong) of undefined -> []; List -> List end,
    _ = put(wrong, [{What, Expected, Actual} | Before]),
    ok.

%%% Calls

on(Node, Function, Arguments) ->
    call(Node, cluster_demo_node, Function, Arguments).

call({_, Peer, _}, Module, Function, Arguments) ->
    peer:call(Peer, Module, Function, Arguments, 60000).

node_name({_, _, Node}) ->
    Node.

pmap(Fun, List) ->
    Caller = self(),
    Pids = [spawn_link(fun() -> Caller ! {self(), Fun(Element)} end) || Element <- List],
    [receive {Pid, Result} -> Result end || Pid <- Pids].
