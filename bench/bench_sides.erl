%% The sides that are compared. Each side is opened with children and attributes, or filled without
%% processes, and has the operations that it offers itself:
%%
%% - `proctab`: gen_tracker of this library;
%% - `ets_design`: the design of the original gen_tracker, in `ets_tracker`;
%% - `ets_set`: two ETS tables, reached by reference, with read and write concurrency, as a program
%%   without a library may have. A write checks that the name is there, which may be removed
%%   meanwhile;
%% - `ets_row`: one such table with rows `{Name, Pid, Attributes, Version}`, the attributes being a
%%   map. A read copies the map. A write replaces the row if its version is still the one that was
%%   read, and tries again otherwise, so that no other process's write is lost;
%% - `ets_ordered`: like `ets_set`, with the attributes in an ordered table, in which those of a
%%   name are neighbours;
%% - `registry`: Elixir's Registry of unique keys, with a partition for each scheduler. A name has
%%   one value, a map of all attributes, which only its own process may change;
%% - `supervisor`, `dynamic`, `partition`: OTP's `supervisor` (one_for_one), and Elixir's
%%   `DynamicSupervisor`, alone or as the partitions of a `PartitionSupervisor`, one for each
%%   scheduler. They start the same child with the same spec; the last two keep no name;
%% - `pg`, `global`: the process groups and the global names of OTP, without attributes;
%% - `cluster`: gen_tracker_cluster of this library, with children on another node;
%% - `whereis`, `empty_nif`, `loop`: limits: the look-up of a registered atom, a native call that
%%   does nothing, and the loop that is subtracted from all figures.
-module(bench_sides).

-export([label/1, limits/0, is_available/1, open/4, add/3, start/2, ask/2, close/1]).
-export([register/2, is_empty/1, fill/3, fill_one/3, bytes/1, operation/2, right/1]).
%% Of `supervisor`.
-export([init/1]).

-define(ETS_OPTIONS, [public, {read_concurrency, true}, {write_concurrency, true}]).

-define(TRACKER(Module, Zone, What),
    case What of
        find -> fun(Name) -> Module:find(Zone, Name) end;
        {getattr, Key} -> fun(Name) -> Module:getattr(Zone, Name, Key) end;
        {setattr, Key} ->
            Value = bench_data:other_value(Key),
            fun(Name) -> Module:setattr(Zone, Name, Key, Value) end;
        increment -> fun(Name) -> Module:increment(Zone, Name, integer, 1) end;
        info -> fun(Name) -> Module:info(Zone, Name) end;
        list -> fun(_) -> Module:list(Zone) end;
        mix ->
            fun
                ({read, Name}) -> Module:getattr(Zone, Name, integer);
                ({write, Name}) -> Module:setattr(Zone, Name, integer, 1000)
            end
    end
).

label(proctab) -> "proctab";
label(ets_design) -> "ETS design";
label(ets_set) -> "ets, set";
label(ets_row) -> "ets, one row";
label(ets_ordered) -> "ets, ordered";
label(registry) -> "Registry";
label(supervisor) -> "supervisor";
label(dynamic) -> "DynamicSupervisor";
label(partition) -> "PartitionSupervisor";
label(pg) -> "pg";
label(global) -> "global";
label(cluster) -> "proctab, other node";
label(whereis) -> "whereis/1";
label(empty_nif) -> "empty NIF".

%% Sides that are no peers.
limits() ->
    [cluster, whereis, empty_nif].

%% Elixir may be missing.
is_available(registry) -> code:which('Elixir.Registry') =/= non_existing;
is_available(dynamic) -> code:which('Elixir.DynamicSupervisor') =/= non_existing;
is_available(partition) -> code:which('Elixir.PartitionSupervisor') =/= non_existing;
is_available(_) -> true.

%% Opens a side, under a name of its own, with a child and attributes for each name.
open(Side, Purpose, Names, Attributes) ->
    Opened = open(Side, list_to_atom(lists:concat([Purpose, "_", Side]))),
    lists:foldl(fun(Name, Into) -> add(Into, Name, Attributes) end, Opened, Names).

open(proctab, Zone) ->
    {ok, Tracker} = gen_tracker:start_link(Zone),
    #{side => proctab, zone => Zone, owner => Tracker, pids => []};
open(ets_design, Zone) ->
    {ok, Tracker} = ets_tracker:start_link(Zone),
    #{side => ets_design, zone => Zone, owner => Tracker, pids => []};
open(Side, _) when Side =:= ets_set; Side =:= ets_ordered ->
    Type =
        case Side of
            ets_set -> set;
            ets_ordered -> ordered_set
        end,
    #{
        side => Side,
        names => ets:new(names, [set | ?ETS_OPTIONS]),
        attributes => ets:new(attributes, [Type | ?ETS_OPTIONS])
    };
open(ets_row, _) ->
    #{side => ets_row, rows => ets:new(rows, [set | ?ETS_OPTIONS])};
open(supervisor, _) ->
    {ok, Owner} = supervisor:start_link(?MODULE, []),
    #{side => supervisor, owner => Owner, pids => []};
open(dynamic, _) ->
    {ok, Owner} = 'Elixir.DynamicSupervisor':start_link([{strategy, one_for_one}]),
    #{side => dynamic, owner => Owner, pids => []};
open(partition, Name) ->
    {ok, Owner} = 'Elixir.PartitionSupervisor':start_link([
        {child_spec, 'Elixir.DynamicSupervisor'},
        {name, Name}
    ]),
    #{side => partition, zone => Name, owner => Owner, pids => []};
open(registry, Registry) ->
    Options = [
        {keys, unique},
        {name, Registry},
        {partitions, erlang:system_info(schedulers_online)}
    ],
    {ok, Supervisor} = 'Elixir.Registry':start_link(Options),
    #{side => registry, registry => Registry, owner => Supervisor};
open(pg, Scope) ->
    {ok, Owner} = pg:start_link(Scope),
    #{side => pg, scope => Scope, owner => Owner};
open(cluster, Zone) ->
    %% The directory of this node alone: a look-up asks no other one.
    Handle = proctab_nif:zone_open(Zone, shared),
    _ = proctab_nif:cluster_open(Handle, shared, []),
    Process = bench_data:remote_pid(other@bench, 0),
    Member = proctab_nif:add_member(Handle, other@bench, <<"other@bench">>, Process),
    #{side => cluster, zone => Zone, handle => Handle, member => Member};
open(Side, _) ->
    #{side => Side, names => []}.

init([]) ->
    {ok, {#{strategy => one_for_one}, []}}.

%% Starts a child, and returns its pid.
start(Opened, Name) ->
    {ok, Pid} = open_child(Opened, bench_data:spec(Name)),
    Pid.

%% Asks for a child that may run already, and returns its pid.
ask(Opened, Spec) ->
    case open_child(Opened, Spec) of
        {ok, Pid} -> Pid;
        {error, {already_started, Pid}} -> Pid
    end.

open_child(#{side := proctab, zone := Zone}, Spec) ->
    gen_tracker:find_or_open(Zone, Spec);
open_child(#{side := ets_design, zone := Zone}, Spec) ->
    ets_tracker:find_or_open(Zone, Spec);
open_child(#{side := supervisor, owner := Owner}, Spec) ->
    supervisor:start_child(Owner, Spec);
open_child(#{side := dynamic, owner := Owner}, Spec) ->
    'Elixir.DynamicSupervisor':start_child(Owner, Spec);
open_child(#{side := partition, zone := Partitions}, Spec) ->
    Via = {via, 'Elixir.PartitionSupervisor', {Partitions, element(1, Spec)}},
    'Elixir.DynamicSupervisor':start_child(Via, Spec).

add(#{pids := Pids} = Opened, Name, Attributes) ->
    Pid = start(Opened, Name),
    case {Attributes, Opened} of
        {[_ | _], #{side := proctab, zone := Zone}} ->
            gen_tracker:setattr(Zone, Name, Attributes);
        {[_ | _], #{side := ets_design, zone := Zone}} ->
            ets_tracker:setattr(Zone, Name, Attributes);
        _ ->
            ok
    end,
    Opened#{pids := [Pid | Pids]};
add(#{side := ets_row} = Opened, Name, Attributes) ->
    insert(Opened, Name, self(), Attributes);
add(#{side := Side} = Opened, Name, Attributes) when Side =:= ets_set; Side =:= ets_ordered ->
    insert(Opened, Name, self(), Attributes);
add(#{side := registry, registry := Registry} = Opened, Name, Attributes) ->
    %% Registry has no values where only names are looked up, so that it copies none.
    Value =
        case Attributes of
            [] -> nil;
            _ -> maps:from_list(Attributes)
        end,
    {ok, _} = 'Elixir.Registry':register(Registry, Name, Value),
    Opened;
add(#{side := cluster, handle := Handle, member := Member} = Opened, Name, _) ->
    Pid = bench_data:remote_pid(other@bench, erlang:phash2(Name)),
    Rank = gen_tracker_cluster_conflicts:rank(Name, other@bench),
    {[undefined], []} = proctab_nif:change_claims(Handle, Member, [{Name, Rank, {up, Pid}}]),
    Opened;
add(#{side := pg, scope := Scope} = Opened, Name, _) ->
    ok = pg:join(Scope, Name, self()),
    Opened;
add(#{side := global, names := Names} = Opened, Name, _) ->
    %% A process has one name.
    yes = global:register_name(
        Name,
        spawn_link(fun() ->
            receive
            after infinity -> ok
            end
        end)
    ),
    Opened#{names := [Name | Names]};
add(Opened, _, _) ->
    Opened.

%% Registers the calling process.
register(#{side := proctab, zone := Zone}, Name) ->
    yes = gen_tracker:register_name({Zone, Name}, self());
register(#{side := global}, Name) ->
    yes = global:register_name(Name, self());
register(Opened, Name) ->
    add(Opened, Name, []).

%% Returns whether no name is left.
is_empty(#{side := proctab, zone := Zone}) ->
    gen_tracker:count(Zone) =:= 0;
is_empty(#{side := registry, registry := Registry}) ->
    'Elixir.Registry':count(Registry) =:= 0;
is_empty(#{side := pg, scope := Scope}) ->
    pg:which_groups(Scope) =:= [];
is_empty(#{side := global}) ->
    global:registered_names() =:= [];
is_empty(#{side := Side, owner := Owner}) when Side =:= supervisor; Side =:= dynamic ->
    supervisor:count_children(Owner) =:= [{specs, 0}, {active, 0}, {supervisors, 0}, {workers, 0}].

insert(#{rows := Table} = Opened, Name, Pid, Attributes) ->
    true = ets:insert(Table, {Name, Pid, maps:from_list(Attributes), 0}),
    Opened;
insert(#{names := Names, attributes := Table} = Opened, Name, Pid, Attributes) ->
    true = ets:insert(Names, {Name, Pid}),
    true = ets:insert(Table, [{{Name, Key}, Value} || {Key, Value} <- Attributes]),
    Opened.

%% Adds so many names without processes, by the functions that the starts of children use.
fill(_, 0, _) ->
    ok;
fill(Opened, Count, Attributes) ->
    fill_one(Opened, Count, Attributes),
    fill(Opened, Count - 1, Attributes).

fill_one(#{side := proctab, zone := Zone}, N, Attributes) ->
    {Name, MFA, Restart, Shutdown, Type, Modules} = bench_data:spec(bench_data:name(N)),
    true = proctab_nif:insert(
        Zone,
        Name,
        bench_data:keeper_pid(N),
        gen_tracker_spec:stored({MFA, Restart, Shutdown, Type, Modules}),
        bench_data:child_pid(N)
    ),
    Attributes =:= [] orelse gen_tracker:setattr(Zone, Name, Attributes);
fill_one(#{side := ets_design, zone := Zone}, N, Attributes) ->
    ets_tracker:fill(
        Zone,
        bench_data:spec(bench_data:name(N)),
        bench_data:child_pid(N),
        bench_data:keeper_pid(N),
        Attributes
    );
fill_one(#{side := registry} = Opened, N, _) ->
    add(Opened, bench_data:name(N), []);
fill_one(Opened, N, Attributes) ->
    insert(Opened, bench_data:name(N), bench_data:child_pid(N), Attributes).

%% Returns the memory of a table by its own figure.
bytes(#{side := proctab, zone := Zone}) ->
    maps:get(memory, proctab:info(Zone));
bytes(#{side := ets_design, zone := Zone}) ->
    ets_bytes([Zone, list_to_atom(atom_to_list(Zone) ++ "_attrs")]);
bytes(#{rows := Table}) ->
    ets_bytes([Table]);
bytes(#{names := Names, attributes := Table}) ->
    ets_bytes([Names, Table]).

ets_bytes(Tables) ->
    erlang:system_info(wordsize) * lists:sum([ets:info(Table, memory) || Table <- Tables]).

%% Kills the zone. Its orderly stop is not compared.
close(#{pids := Pids, owner := Tracker}) ->
    unlink(Tracker),
    {links, Linked} = process_info(Tracker, links),
    exit(Tracker, kill),
    bench_data:gone([Tracker | Linked] ++ Pids);
close(#{owner := Owner}) ->
    unlink(Owner),
    Monitor = monitor(process, Owner),
    exit(Owner, shutdown),
    receive
        {'DOWN', Monitor, process, Owner, _} -> ok
    end;
close(#{side := global, names := Names}) ->
    lists:foreach(
        fun(Name) ->
            Pid = global:whereis_name(Name),
            unlink(Pid),
            exit(Pid, kill),
            bench_data:until(fun() -> global:whereis_name(Name) =:= undefined end)
        end,
        Names
    );
close(#{side := cluster, handle := Handle}) ->
    ok = proctab_nif:zone_close(Handle);
close(#{rows := Table}) ->
    true = ets:delete(Table);
close(#{names := Names, attributes := Table}) ->
    true = ets:delete(Names),
    true = ets:delete(Table);
close(_) ->
    ok.

%% Returns the function that does an operation with a name, or `none` if the side has no such
%% operation.
operation(#{side := proctab, zone := Zone}, What) ->
    ?TRACKER(gen_tracker, Zone, What);
operation(#{side := ets_design, zone := Zone}, What) ->
    ?TRACKER(ets_tracker, Zone, What);
operation(#{names := Names, attributes := Table} = Opened, What) ->
    ets_operation(What, Names, Table, Opened);
operation(#{rows := Table}, What) ->
    row_operation(What, Table);
operation(#{side := registry, registry := Registry}, What) ->
    registry_operation(What, Registry);
operation(#{side := pg, scope := Scope}, find) ->
    fun(Name) ->
        [Pid] = pg:get_members(Scope, Name),
        {ok, Pid}
    end;
operation(#{side := global}, find) ->
    fun(Name) -> {ok, global:whereis_name(Name)} end;
operation(#{side := cluster, zone := Zone}, find) ->
    fun(Name) -> gen_tracker_cluster:find(Zone, Name) end;
operation(#{side := whereis}, find) ->
    fun(_) -> {ok, erlang:whereis(init)} end;
operation(#{side := empty_nif}, find) ->
    fun(Name) -> empty_nif:call(zone, Name) end;
operation(#{side := loop}, mix) ->
    fun({_, Name}) -> Name end;
operation(#{side := loop}, _) ->
    fun(Name) -> Name end;
operation(_, _) ->
    none.

ets_operation(find, Names, _, _) ->
    fun(Name) ->
        try
            {ok, ets:lookup_element(Names, Name, 2)}
        catch
            error:badarg -> undefined
        end
    end;
ets_operation({getattr, Key}, _, Table, _) ->
    fun(Name) ->
        try
            {ok, ets:lookup_element(Table, {Name, Key}, 2)}
        catch
            error:badarg -> undefined
        end
    end;
ets_operation({setattr, Key}, Names, Table, _) ->
    Value = bench_data:other_value(Key),
    fun(Name) ->
        true = ets:member(Names, Name),
        true = ets:insert(Table, {{Name, Key}, Value}),
        ok
    end;
ets_operation(increment, _, Table, _) ->
    fun(Name) -> ets:update_counter(Table, {Name, integer}, 1) end;
ets_operation(mix, Names, Table, Opened) ->
    Read = ets_operation({getattr, integer}, Names, Table, Opened),
    Write = ets_operation({setattr, integer}, Names, Table, Opened),
    fun
        ({read, Name}) -> Read(Name);
        ({write, Name}) -> Write(Name)
    end;
ets_operation(info, _, Table, #{side := ets_ordered}) ->
    fun(Name) -> ets_info(Table, Name) end;
ets_operation(list, Names, Table, #{side := ets_ordered}) ->
    fun(_) ->
        ets:foldl(
            fun({Name, Pid}, Rows) -> [{Name, [{pid, Pid} | ets_info(Table, Name)]} | Rows] end,
            [],
            Names
        )
    end;
ets_operation(_, _, _, _) ->
    none.

ets_info(Table, Name) ->
    ets:select(Table, [{{{Name, '$1'}, '$2'}, [], [{{'$1', '$2'}}]}]).

row_operation(find, Table) ->
    ets_operation(find, Table, none, none);
row_operation({getattr, Key}, Table) ->
    fun(Name) ->
        try ets:lookup_element(Table, Name, 3) of
            #{Key := Value} -> {ok, Value};
            #{} -> undefined
        catch
            error:badarg -> undefined
        end
    end;
row_operation({setattr, Key}, Table) ->
    Value = bench_data:other_value(Key),
    fun(Name) -> change_row(Table, Name, Key, fun(_) -> {Value, ok} end) end;
row_operation(increment, Table) ->
    fun(Name) -> change_row(Table, Name, integer, fun(Old) -> {Old + 1, Old + 1} end) end;
row_operation(mix, Table) ->
    Read = row_operation({getattr, integer}, Table),
    Write = row_operation({setattr, integer}, Table),
    fun
        ({read, Name}) -> Read(Name);
        ({write, Name}) -> Write(Name)
    end;
row_operation(info, Table) ->
    fun(Name) -> maps:to_list(ets:lookup_element(Table, Name, 3)) end;
row_operation(list, Table) ->
    fun(_) ->
        Row = fun({Name, Pid, Map, _}, Rows) ->
            [{Name, [{pid, Pid} | maps:to_list(Map)]} | Rows]
        end,
        ets:foldl(Row, [], Table)
    end;
row_operation(_, _) ->
    none.

change_row(Table, Name, Key, Change) ->
    [{_, Pid, #{Key := Old} = Map, Version}] = ets:lookup(Table, Name),
    {New, Result} = Change(Old),
    Row = {Name, Pid, Map#{Key := New}, Version + 1},
    Replace = {{Name, Pid, '_', Version}, [], [{const, Row}]},
    case ets:select_replace(Table, [Replace]) of
        1 -> Result;
        0 -> change_row(Table, Name, Key, Change)
    end.

registry_operation(find, Registry) ->
    fun(Name) ->
        [{Pid, _}] = 'Elixir.Registry':lookup(Registry, Name),
        {ok, Pid}
    end;
registry_operation({getattr, Key}, Registry) ->
    fun(Name) ->
        [{_, #{Key := Value}}] = 'Elixir.Registry':lookup(Registry, Name),
        {ok, Value}
    end;
registry_operation(info, Registry) ->
    fun(Name) ->
        [{_, Value}] = 'Elixir.Registry':lookup(Registry, Name),
        maps:to_list(Value)
    end;
registry_operation(list, Registry) ->
    fun(_) ->
        Rows = 'Elixir.Registry':select(Registry, [
            {{'$1', '$2', '$3'}, [], [{{'$1', '$2', '$3'}}]}
        ]),
        [{Name, [{pid, Pid} | maps:to_list(Value)]} || {Name, Pid, Value} <- Rows]
    end;
registry_operation(_, _) ->
    none.

%% Returns the check of an operation's result.
right(find) ->
    fun
        ({ok, Pid}) -> is_pid(Pid);
        (Name) -> is_binary(Name)
    end;
right({getattr, integer}) ->
    fun
        ({ok, Value}) -> is_integer(Value);
        (Name) -> is_binary(Name)
    end;
right({getattr, Key}) ->
    fun
        ({ok, Value}) -> Value =:= bench_data:value(Key);
        (Name) -> is_binary(Name)
    end;
right({setattr, _}) -> fun(Answer) -> Answer =:= ok orelse is_binary(Answer) end;
right(increment) -> fun(Answer) -> is_integer(Answer) orelse is_binary(Answer) end;
right(mix) -> right({getattr, integer});
right(other) -> right(find);
right(info) ->
    fun
        (Attributes) when is_list(Attributes) -> length(Attributes) =:= 4;
        (Name) -> is_binary(Name)
    end.
