%% The program that `bench/counts` measures: a number of calls of one operation of one side, in a VM
%% that has done all else before. Reads and writes go to a zone with a number of names. Operations
%% that start, register or end something have a new name or process for each call.
-module(bench_counts).

-export([main/0]).

-define(VALUES, [integer, atom, binary, tuple, map, {bytes, 100}, {bytes, 4096}, {bytes, 10240}]).
-define(METRICS, [requests, streams, sockets]).

main() ->
    [Operation, Side, Calls, Count] = init:get_plain_arguments(),
    Names = bench_data:names(list_to_integer(Count)),
    Call = call(Operation, list_to_atom(Side), Names),
    calls(Call, Names, Names, list_to_integer(Calls)),
    Operation =:= "worker_dies" andalso await_cleanups(length(Names) - list_to_integer(Calls)),
    halt(0, [{flush, false}]).

calls(_, _, _, 0) ->
    ok;
calls(Fun, All, [], Calls) ->
    calls(Fun, All, All, Calls);
calls(Fun, All, [Name | Names], Calls) ->
    Fun(Name),
    calls(Fun, All, Names, Calls - 1).

%% Returns the function that makes a call with a name.
call("start", loop, _) ->
    fun(_) -> ok end;
call("start", two_processes, _) ->
    Tracker = spawn(fun bench_data:idle/0),
    fun(_) -> start_with_keeper(Tracker) end;
call("start", Side, _) ->
    Opened = bench_sides:open(Side, counts, [], []),
    fun(Name) -> bench_sides:start(Opened, Name) end;
call("register_name", Side, _) ->
    Opened = bench_sides:open(Side, counts, [], []),
    Parent = self(),
    fun(Name) ->
        Pid = spawn(fun() ->
            Side =:= loop orelse bench_sides:register(Opened, Name),
            Parent ! {registered, self()},
            bench_data:idle()
        end),
        receive
            {registered, Pid} -> ok
        end
    end;
call("track", Side, Names) ->
    metrics = metrics:open(),
    Track =
        case Side of
            loop -> fun(Metric, _) -> metrics:update(Metric) end;
            proctab -> started(metrics_process_tracker, fun metrics_process_tracker:track/2);
            ets_design -> started(ets_process_tracker, fun ets_process_tracker:track/2)
        end,
    Pids = processes(Names),
    fun(Name) ->
        Pid = map_get(Name, Pids),
        lists:foreach(fun(Metric) -> Track(Metric, Pid) end, ?METRICS)
    end;
call("register", Side, Names) ->
    Register = register_worker(Side),
    Pids = processes(Names),
    fun(Name) -> Register(map_get(Name, Pids)) end;
call("worker_dies", Side, Names) ->
    Register = register_worker(Side),
    Pids = processes(Names),
    _ = [Register(Pid) || Pid <- maps:values(Pids)],
    fun(Name) ->
        Pid = map_get(Name, Pids),
        exit(Pid, kill),
        Side =/= loop orelse stats_hero:clean_worker_data(Pid)
    end;
call(Operation, Side, Names) ->
    Attributes = [{Key, bench_data:value(Key)} || Key <- ?VALUES],
    bench_sides:operation(filled(Side, Names, Attributes), what(Operation)).

%% Registries have no values.
filled(Side, Names, Attributes) when Side =:= proctab; Side =:= ets_set; Side =:= ets_design ->
    Opened = bench_sides:open(Side, counts, [], []),
    bench_sides:fill(Opened, length(Names), Attributes),
    Opened;
filled(Side, Names, _) ->
    bench_sides:open(Side, counts, Names, []).

%% Starts a child as a keeper does, without a table: the least that a start costs whose child has a
%% process of its own beside it.
start_with_keeper(Tracker) ->
    Alias = alias([reply]),
    Keeper = fun() ->
        process_flag(trap_exit, true),
        link(Tracker),
        {ok, Child} = bench_data:start_child(name, []),
        _ = monitor(process, Child),
        Alias ! {Alias, Child},
        bench_data:idle()
    end,
    {_, Monitor} = spawn_opt(Keeper, [{monitor, [{tag, Alias}]}]),
    receive
        {Alias, _} -> demonitor(Monitor, [flush])
    end.

register_worker(Side) ->
    stats_hero = stats_hero:open(),
    Register =
        case Side of
            loop -> fun(_) -> ok end;
            proctab -> started(stats_hero_monitor, fun stats_hero_monitor:register/1);
            ets_design -> started(ets_worker_monitor, fun ets_worker_monitor:register/1)
        end,
    fun(Pid) ->
        stats_hero:map({request, Pid}, Pid),
        Register(Pid)
    end.

started(Module, Fun) ->
    {ok, _} = Module:start_link(),
    Fun.

await_cleanups(Left) ->
    bench_data:until(fun() -> ets:info(stats_hero, size) =:= 2 * Left end).

processes(Names) ->
    maps:from_list([{Name, spawn(fun bench_data:idle/0)} || Name <- Names]).

what("find") -> find;
what("increment") -> increment;
what("getattr:" ++ Key) -> {getattr, key(Key)};
what("setattr:" ++ Key) -> {setattr, key(Key)}.

key("bytes" ++ Size) -> {bytes, list_to_integer(Size)};
key(Key) -> list_to_existing_atom(Key).
