%% The sides that are compared. Each side is opened with children and attributes, or filled without
%% processes, and has the operations that it offers itself:
%%
%% - `proctab`: gen_tracker of this library;
%% - `ets_design`: the design of the original gen_tracker, in `ets_tracker`;
%% - `ets_set`: two ETS tables, reached by reference, with read and write concurrency, as a program
%%   without a library may have. A write checks that the name is there, which may be removed
%%   meanwhile;
%% - `ets_ordered`: like `ets_set`, with the attributes in an ordered table, in which those of a
%%   name are neighbours;
%% - `registry`: Elixir's Registry of unique keys, with a partition for each scheduler. A name has
%%   one value, a map of all attributes, which only its own process may change;
%% - `pg`, `global`: the process groups and the global names of OTP, without attributes;
%% - `whereis`, `empty_nif`, `loop`: limits: the look-up of a registered atom, a native call that
%%   does nothing, and the loop that is subtracted from all figures.
-module(bench_sides).

-export([label/1, limits/0, open/4, add/3, close/1, fill/3, fill_one/3, bytes/1, operation/2]).
-export([right/1]).

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
label(ets_ordered) -> "ets, ordered";
label(registry) -> "Registry";
label(pg) -> "pg";
label(global) -> "global";
label(whereis) -> "whereis/1";
label(empty_nif) -> "empty NIF".

limits() ->
    [whereis, empty_nif].

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
    Options = [public, {read_concurrency, true}, {write_concurrency, true}],
    #{
        side => Side,
        names => ets:new(names, [set | Options]),
        attributes => ets:new(attributes, [Type | Options])
    };
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
open(Side, _) ->
    #{side => Side, names => []}.

add(#{side := proctab, zone := Zone, pids := Pids} = Opened, Name, Attributes) ->
    {ok, Pid} = gen_tracker:find_or_open(Zone, bench_data:spec(Name)),
    Attributes =:= [] orelse gen_tracker:setattr(Zone, Name, Attributes),
    Opened#{pids := [Pid | Pids]};
add(#{side := ets_design, zone := Zone, pids := Pids} = Opened, Name, Attributes) ->
    {ok, Pid} = ets_tracker:find_or_open(Zone, bench_data:spec(Name)),
    Attributes =:= [] orelse ets_tracker:setattr(Zone, Name, Attributes),
    Opened#{pids := [Pid | Pids]};
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
        {MFA, Restart, Shutdown, Type, Modules},
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
operation(#{side := registry, registry := Registry}, What) ->
    registry_operation(What, Registry);
operation(#{side := pg, scope := Scope}, find) ->
    fun(Name) ->
        [Pid] = pg:get_members(Scope, Name),
        {ok, Pid}
    end;
operation(#{side := global}, find) ->
    fun(Name) -> {ok, global:whereis_name(Name)} end;
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
right(info) ->
    fun
        (Attributes) when is_list(Attributes) -> length(Attributes) =:= 4;
        (Name) -> is_binary(Name)
    end.
