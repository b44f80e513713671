%% Zones on several nodes: what the functions of a zone cost with and without the option `cluster`,
%% and how a node joins.
%%
%% A node joins another one that has a million names, and finds them; then that node ends. Both are
%% nodes of this machine with one scheduler each, because the operating system then takes less of
%% their time away. Names are inserted without processes.
%%
%% The node joins in several passes. The VM reports slices of 1 ms and more, as in `bench_hold`, so
%% the longest slice is the smallest of the maxima of the passes. Two nodes that only compute for as
%% long are the control. In one more pass the joining node traces its cluster process: how long most
%% of the slices are says more than the longest one, in which the operating system has a share.
-module(bench_cluster).

-export([groups/0, rows/2]).
%% Called on the nodes.
-export([start_zone/0, stop_zone/0, fill/1, found/1, resident/0, record/0, recorded/0]).
-export([trace/0, traced/0]).

-define(ZONE, bench_cluster_zone).
-define(NAMES, bench_data:scaled(1000000)).
-define(LOCAL, 1000).
-define(PASSES, 3).
-define(TIMEOUT, 600000).
-define(LATER, 10000).

groups() ->
    [
        #{group => options, sides => [proctab], vms => 5, shared => false},
        #{group => cluster, sides => [proctab], vms => 1, processor => false, shared => false}
    ].

rows(options, [proctab]) ->
    options();
rows(cluster, [proctab]) ->
    Nodes = [{Old, _}, {New, _}] = [start_node() || _ <- [1, 2]],
    ok = call(Old, start_zone, []),
    ok = call(Old, fill, [?NAMES]),
    true = peer:call(New, net_kernel, connect_node, [element(2, hd(Nodes))]),
    First = #{time := Time, bytes := Bytes, before := Empty} = join(Old, New),
    Again = [begin ok = call(New, stop_zone, []), join(Old, New) end || _ <- tl(passes())],
    Of = fun(What) -> [map_get(What, Pass) || Pass <- [First | Again]] end,
    Traced = trace_join(New),
    Control = [compute(Old, New, Time) || _ <- passes()],
    Ended = ended(Old, New, Empty),
    peer:stop(New),
    lists:flatten([
        row("a node joins, until all names are found", "time", "ns", Of(time)),
        row("a name of another node", "resident", "bytes", [Bytes]),
        slices("a node joins: on that node", Of(on_new)),
        slices("a node joins: on the node with the names", Of(on_old)),
        row("a node joins: slices of its cluster process", "median", "ns", [part(Traced, 0.5)]),
        row("a node joins: slices of its cluster process", "99 of 100", "ns", [part(Traced, 0.99)]),
        slices("only computing on both nodes", lists:append(Control)),
        Ended
    ]).

%% All functions of the same names, on children of this node.
options() ->
    {ok, _} = application:ensure_all_started(proctab),
    Zones = [
        {"a zone of one node", gen_tracker, #{}},
        {"a cluster zone, gen_tracker", gen_tracker, #{cluster => true}},
        {"a cluster zone, gen_tracker_cluster", gen_tracker_cluster, #{cluster => true}}
    ],
    Opened = [{Mode, Module, open(Number, Options)} || {Number, {Mode, Module, Options}} <-
        lists:enumerate(Zones)],
    Works = lists:append([works(Mode, Module, Zone) || {Mode, Module, Zone} <- Opened]),
    Figures = rounds:alternate(bench_data:rounds(), Works),
    [ok = gen_server:stop(Zone) || {_, _, Zone} <- Opened],
    [
        bench_data:row(proctab, Label, Mode, "ns", map_get({Mode, Label}, Figures))
     || {{Mode, Label}, _} <- Works
    ].

open(Number, Options) ->
    Zone = list_to_atom("bench_options_" ++ integer_to_list(Number)),
    {ok, _} = gen_tracker:start_link(Zone, Options),
    case Options of
        #{cluster := _} -> until(fun() -> is_home(Zone) end);
        #{} -> ok
    end,
    Specs = [bench_data:spec(bench_data:name(N)) || N <- lists:seq(1, ?LOCAL)],
    lists:foreach(fun(Spec) -> {ok, _} = gen_tracker:find_or_open(Zone, Spec) end, Specs),
    [ok = gen_tracker:setattr(Zone, element(1, Spec), integer, 1) || Spec <- Specs],
    Zone.

is_home(Zone) ->
    gen_tracker_cluster:home(Zone, name) =:= node().

works(Mode, Module, Zone) ->
    Names = [bench_data:name(N) || N <- lists:seq(1, ?LOCAL)],
    Timed = fun(Fun) -> rounds:timed(Fun, fun(_) -> true end, [Names]) end,
    Key = integer,
    [
        {{Mode, Label}, Timed(Fun)}
     || {Label, Fun} <- [
            {"find", fun(Name) -> {ok, _} = Module:find(Zone, Name) end},
            {"getattr of an integer", fun(Name) -> {ok, _} = Module:getattr(Zone, Name, Key) end},
            {"setattr of an integer", fun(Name) -> ok = Module:setattr(Zone, Name, Key, 1) end},
            {"increment", fun(Name) -> Module:increment(Zone, Name, Key, 1) end},
            {"cas of an integer", fun(Name) -> ok = cas(Module, Zone, Name) end},
            {"delattr of no attribute", fun(Name) -> ok = Module:delattr(Zone, Name, none) end},
            {"start of a child, and its end", fun(_) -> start_and_stop(Module, Zone) end},
            {"register_name, and unregister_name", fun(_) -> register_once(Module, Zone) end}
        ]
    ].

%% The other operations have changed the value.
cas(Module, Zone, Name) ->
    ok = gen_tracker:setattr(Zone, Name, cas, 1),
    Module:cas(Zone, Name, cas, 1, 2).

start_and_stop(Module, Zone) ->
    {ok, _} = Module:find_or_open(Zone, bench_data:spec(started)),
    ok = supervisor:terminate_child(Zone, started).

register_once(Module, Zone) ->
    yes = Module:register_name({Zone, registered}, self()),
    Module:unregister_name({Zone, registered}).

passes() ->
    lists:seq(1, ?PASSES).

start_node() ->
    Paths = string:lexemes(os:getenv("BENCH_PATHS"), ":"),
    {ok, Peer, Node} = peer:start_link(#{
        name => peer:random_name(),
        connection => standard_io,
        wait_boot => 60000,
        args => ["+S", "1", "+P", "1000000", "-pa" | Paths]
    }),
    {Peer, Node}.

%% Returns the time, the memory of each name in bytes, and the slices on both nodes.
join(Old, New) ->
    Before = call(New, resident, []),
    [ok = call(Peer, record, []) || Peer <- [Old, New]],
    {Time, ok} = bench_data:time(fun() ->
        ok = call(New, start_zone, []),
        until_found(New, ?NAMES)
    end),
    [OnOld, OnNew] = [call(Peer, recorded, []) || Peer <- [Old, New]],
    Bytes = (call(New, resident, []) - Before) / ?NAMES,
    #{time => Time, bytes => Bytes, before => Before, on_old => OnOld, on_new => OnNew}.

%% Returns the slices of the cluster process of a node that joins.
trace_join(New) ->
    ok = call(New, stop_zone, []),
    ok = call(New, trace, []),
    ok = call(New, start_zone, []),
    until_found(New, ?NAMES),
    call(New, traced, []).

%% Returns the least slice that so large a part of all slices does not exceed.
part(Slices, Part) ->
    lists:nth(ceil(Part * length(Slices)), lists:sort(Slices)).

until_found(Peer, Count) ->
    call(Peer, found, [Count]).

%% Returns the slices of each node.
compute(Old, New, Time) ->
    End = round(Time / 1000000),
    Monitors = [
        spawn_monitor(fun() ->
            ok = call(Peer, record, []),
            ok = peer:call(Peer, bench_data, compute, [End], ?TIMEOUT),
            exit({slices, call(Peer, recorded, [])})
        end)
     || Peer <- [Old, New]
    ],
    [
        receive
            {'DOWN', Monitor, process, _, {slices, Slices}} -> Slices
        end
     || {_, Monitor} <- Monitors
    ].

%% The node with the names ends. `Empty` is the memory of the other one without them.
ended(Old, New, Empty) ->
    Filled = peer:call(New, erlang, memory, [system]),
    ok = call(New, record, []),
    peer:stop(Old),
    {Time, ok} = bench_data:time(fun() -> until_found(New, 0) end),
    Slices = call(New, recorded, []),
    timer:sleep(?LATER),
    Left = call(New, resident, []) - Empty,
    Freed = Filled - peer:call(New, erlang, memory, [system]),
    Label = "the node with the names ends",
    [
        row(Label ++ ", until none is found", "time", "ns", [Time]),
        row("what is freed of a name 10 s later", "in the VM", "bytes", [Freed / ?NAMES]),
        row("what is left of a name 10 s later", "resident", "bytes", [Left / ?NAMES]),
        slices(Label ++ ": on the other node", [Slices])
    ].

slices(Label, Passes) ->
    Longest = [lists:max([0 | Slices]) || Slices <- Passes],
    [
        row(Label, "longest slice", "ns", [lists:min(Longest)]),
        row(Label, "longest seen", "ns", [lists:max(Longest)])
    ].

row(Label, Mode, Unit, Figures) ->
    bench_data:row(proctab, Label, Mode, Unit, Figures).

call(Peer, Function, Arguments) ->
    peer:call(Peer, ?MODULE, Function, Arguments, ?TIMEOUT).

%%% On the nodes

%% Starts the zone. Its tracker lives until `stop_zone/0`.
start_zone() ->
    {ok, _} = application:ensure_all_started(proctab),
    Caller = self(),
    Owner = spawn(fun() ->
        true = register(?MODULE, self()),
        {ok, Tracker} = gen_tracker:start_link(?ZONE, #{cluster => true}),
        Caller ! {started, self()},
        receive
            stop -> ok = gen_server:stop(Tracker)
        end
    end),
    receive
        {started, Owner} -> ok
    end.

stop_zone() ->
    Monitor = monitor(process, ?MODULE),
    ?MODULE ! stop,
    receive
        {'DOWN', Monitor, process, _, normal} -> ok
    end.

%% Inserts names, and waits until the cluster process has claimed them.
fill(Count) ->
    Spec = {{bench_data, start_child, []}, temporary, 200, worker, []},
    lists:foreach(
        fun(N) ->
            Name = bench_data:name(N),
            true = proctab_nif:insert(
                ?ZONE, Name, bench_data:keeper_pid(N), Spec, bench_data:child_pid(N)
            )
        end,
        lists:seq(1, Count)
    ),
    {Cluster, _, _, _} = proctab_nif:cluster_shared(?ZONE),
    until(fun() -> process_info(Cluster, message_queue_len) =:= {message_queue_len, 0} end).

%% Waits until so many names are found in the cluster.
found(Count) ->
    until(fun() -> gen_tracker_cluster:count(?ZONE) =:= Count end).

until(Condition) ->
    case Condition() of
        true ->
            ok;
        false ->
            timer:sleep(20),
            until(Condition)
    end.

%% Returns the resident memory without garbage of processes.
resident() ->
    lists:foreach(fun erlang:garbage_collect/1, processes()),
    bench_data:resident().

%% Records the slices of at least 1 ms that the VM reports, until `recorded/0`.
record() ->
    Recorder = spawn(fun() -> recorder([]) end),
    true = register(bench_cluster_recorder, Recorder),
    _ = erlang:system_monitor(Recorder, [{long_schedule, 1}]),
    ok.

%% Returns nanoseconds.
recorded() ->
    _ = erlang:system_monitor(undefined),
    Monitor = monitor(process, bench_cluster_recorder),
    bench_cluster_recorder ! stop,
    receive
        {'DOWN', Monitor, process, _, {slices, Slices}} -> Slices
    end.

recorder(Slices) ->
    receive
        {monitor, _, long_schedule, Info} ->
            recorder([1000000 * proplists:get_value(timeout, Info) | Slices]);
        stop ->
            exit({slices, Slices})
    end.

%% Traces the processes that are started from now on, until `traced/0`.
trace() ->
    Tracer = spawn(fun tracer/0),
    true = register(bench_cluster_tracer, Tracer),
    Flags = [running, monotonic_timestamp, {tracer, Tracer}],
    _ = erlang:trace(new_processes, true, Flags),
    ok.

%% Returns the slices of the cluster process, in nanoseconds.
traced() ->
    {Cluster, _, _, _} = proctab_nif:cluster_shared(?ZONE),
    _ = erlang:trace(all, false, [running]),
    Delivered = erlang:trace_delivered(all),
    receive
        {trace_delivered, all, Delivered} -> ok
    end,
    Monitor = monitor(process, bench_cluster_tracer),
    bench_cluster_tracer ! {stop, Cluster},
    receive
        {'DOWN', Monitor, process, _, {slices, Slices}} -> Slices
    end.

tracer() ->
    receive
        {stop, Pid} -> exit({slices, slices_of(Pid)})
    end.

slices_of(Pid) ->
    receive
        {trace_ts, Pid, in, _, In} ->
            receive
                {trace_ts, Pid, out, _, Out} -> [Out - In | slices_of(Pid)]
            after 0 -> []
            end
    after 0 -> []
    end.
