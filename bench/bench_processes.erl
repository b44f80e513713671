%% metrics_process_tracker and stats_hero_monitor, compared with the ETS designs of the originals.
-module(bench_processes).

-export([groups/0, rows/2, tracked_deaths/3]).

-define(PROCESSES, 8000).
-define(NAMES, [requests, streams, sockets]).

%% The ETS design of the tracker takes seconds for thousands of deaths.
groups() ->
    [
        #{group => tracked_deaths, sides => [proctab, ets_design], vms => 5, once => [ets_design]},
        #{group => tracked, sides => [proctab, ets_design], vms => 7},
        #{group => workers, sides => [proctab, ets_design], vms => 7}
    ].

rows(tracked_deaths, Sides) ->
    tracked_deaths(?PROCESSES, Sides, bench_data:rounds());
rows(tracked, Sides) ->
    Trackers = opened_trackers(Sides),
    lists:append([
        measured(Operation, "one process", Trackers, bench_data:rounds(), Time)
     || {Operation, Time} <- [
            {"track a process under a first, second and third name", fun track_time/1},
            {"track it again", fun track_again_time/1}
        ]
    ]);
rows(workers, Sides) ->
    stats_hero = stats_hero:open(),
    Monitors = started(Sides, fun monitor_of/1),
    Mode = processes(?PROCESSES),
    lists:append([
        measured(Operation, In, Monitors, bench_data:rounds(), Time)
     || {Operation, In, Time} <- [
            {"register a worker", "one process", fun register_time/1},
            {"registered_count", Mode, fun count_time/1},
            {"workers die, until all is clean", Mode, fun worker_death_time/1}
        ]
    ]).

tracked_deaths(Most, Sides, Rounds) ->
    Time = fun(Module) -> tracked_death_time(Module, bench_data:scaled(Most)) end,
    Operation = "processes with 3 metric names die, until all is clean",
    measured(Operation, processes(Most), opened_trackers(Sides), Rounds, Time).

opened_trackers(Sides) ->
    metrics = metrics:open(),
    started(Sides, fun tracker_of/1).

started(Sides, ModuleOf) ->
    [
        {Side, Module}
     || Side <- Sides, Module <- [ModuleOf(Side)], {ok, _} <- [Module:start_link()]
    ].

tracker_of(proctab) -> metrics_process_tracker;
tracker_of(ets_design) -> ets_process_tracker.

monitor_of(proctab) -> stats_hero_monitor;
monitor_of(ets_design) -> ets_worker_monitor.

processes(Count) ->
    lists:concat([Count, " processes"]).

measured(Operation, Mode, Sides, Rounds, Time) ->
    Figures = rounds:alternate(Rounds, [
        {Side, fun() -> Time(Module) end}
     || {Side, Module} <- Sides
    ]),
    [
        bench_data:row(Side, Operation, Mode, "ns", maps:get(Side, Figures))
     || {Side, _} <- Sides
    ].

track_time(Module) ->
    Pids = started(count()),
    {Time, ok} = bench_data:time(fun() -> track(Module, Pids) end),
    kill(Pids, fun() -> is_untracked(Module) end),
    Time / count() / length(?NAMES).

track_again_time(Module) ->
    Pids = started(100),
    track(Module, Pids),
    {Time, _} = bench_data:time(fun() -> [track(Module, Pids) || _ <- lists:seq(1, 500)] end),
    kill(Pids, fun() -> is_untracked(Module) end),
    Time / 500 / 100 / length(?NAMES).

tracked_death_time(Module, Count) ->
    Pids = started(Count),
    track(Module, Pids),
    {Time, ok} = bench_data:time(fun() -> kill(Pids, fun() -> is_untracked(Module) end) end),
    Time.

track(Module, Pids) ->
    lists:foreach(fun(Pid) -> [ok = Module:track(Name, Pid) || Name <- ?NAMES] end, Pids).

is_untracked(Module) ->
    lists:all(fun(Name) -> metrics:value(Name) =:= 0 andalso Module:count(Name) =:= 0 end, ?NAMES).

register_time(Module) ->
    Pids = started(count()),
    {Time, ok} = bench_data:time(fun() -> register_all(Module, Pids) end),
    kill(Pids, fun() -> is_unregistered(Module) end),
    Time / count().

count_time(Module) ->
    Pids = started(count()),
    register_all(Module, Pids),
    Figure = rounds:timed(
        fun(_) -> Module:registered_count() end, fun(Count) -> Count =:= count() end, [[all]]
    ),
    Time = Figure(),
    kill(Pids, fun() -> is_unregistered(Module) end),
    Time.

worker_death_time(Module) ->
    Pids = started(count()),
    register_all(Module, Pids),
    {Time, ok} = bench_data:time(fun() -> kill(Pids, fun() -> is_unregistered(Module) end) end),
    Time.

register_all(Module, Pids) ->
    lists:foreach(
        fun(Pid) ->
            stats_hero:map({request, Pid}, Pid),
            ok = Module:register(Pid)
        end,
        Pids
    ).

is_unregistered(Module) ->
    Module:registered_count() =:= 0 andalso ets:info(stats_hero, size) =:= 0.

count() ->
    bench_data:scaled(?PROCESSES).

started(Count) ->
    [spawn(fun bench_data:idle/0) || _ <- lists:seq(1, Count)].

kill(Pids, IsClean) ->
    lists:foreach(fun(Pid) -> exit(Pid, kill) end, Pids),
    bench_data:until(IsClean).
