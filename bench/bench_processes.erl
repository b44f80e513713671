%% metrics_process_tracker and stats_hero_monitor, compared with the ETS designs of the originals.
-module(bench_processes).

-export([rows/0, tracked_deaths/2]).

-define(ROUNDS, 7).
-define(PROCESSES, 8000).
-define(NAMES, [requests, streams, sockets]).
-define(TRACKERS, [{proctab, metrics_process_tracker}, {ets_design, ets_process_tracker}]).
-define(MONITORS, [{proctab, stats_hero_monitor}, {ets_design, ets_worker_monitor}]).

%% The ETS design of the tracker takes seconds for thousands of deaths.
rows() ->
    tracked_deaths(?PROCESSES, 3) ++ tracked() ++ monitored().

tracked_deaths(Count, Rounds) ->
    stats_hero = stats_hero:open(),
    metrics = metrics:open(),
    [{ok, _} = Module:start_link() || {_, Module} <- ?TRACKERS ++ ?MONITORS],
    Operation = "processes with 3 metric names die, until all is clean",
    Mode = io_lib:format("~b processes", [Count]),
    Time = fun(Module) -> tracked_death_time(Module, Count) end,
    measured(Operation, Mode, ?TRACKERS, Rounds, Time).

tracked() ->
    measured(
        "track a process under a first, second and third name",
        "one process",
        ?TRACKERS,
        ?ROUNDS,
        fun track_time/1
    ) ++
        measured("track it again", "one process", ?TRACKERS, ?ROUNDS, fun track_again_time/1).

monitored() ->
    Mode = io_lib:format("~b processes", [?PROCESSES]),
    measured("register a worker", "one process", ?MONITORS, ?ROUNDS, fun register_time/1) ++
        measured("registered_count", Mode, ?MONITORS, ?ROUNDS, fun count_time/1) ++
        measured(
            "workers die, until all is clean", Mode, ?MONITORS, ?ROUNDS, fun worker_death_time/1
        ).

measured(Operation, Mode, Sides, Rounds, Time) ->
    Figures = rounds:alternate(Rounds, [
        {Side, fun() -> Time(Module) end}
     || {Side, Module} <- Sides
    ]),
    [
        bench_data:row(Side, Operation, lists:flatten(Mode), "ns", maps:get(Side, Figures))
     || {Side, _} <- Sides
    ].

track_time(Module) ->
    Pids = started(?PROCESSES),
    {Time, ok} = bench_data:time(fun() -> track(Module, Pids) end),
    kill(Pids, fun() -> is_untracked(Module) end),
    Time / ?PROCESSES / length(?NAMES).

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
    Pids = started(?PROCESSES),
    {Time, ok} = bench_data:time(fun() -> register_all(Module, Pids) end),
    kill(Pids, fun() -> is_unregistered(Module) end),
    Time / ?PROCESSES.

count_time(Module) ->
    Pids = started(?PROCESSES),
    register_all(Module, Pids),
    Figure = rounds:timed(
        fun(_) -> Module:registered_count() end, fun(Count) -> Count =:= ?PROCESSES end, [[all]]
    ),
    Time = Figure(),
    kill(Pids, fun() -> is_unregistered(Module) end),
    Time.

worker_death_time(Module) ->
    Pids = started(?PROCESSES),
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

started(Count) ->
    [
        spawn(fun() ->
            receive
            after infinity -> ok
            end
        end)
     || _ <- lists:seq(1, Count)
    ].

kill(Pids, IsClean) ->
    lists:foreach(fun(Pid) -> exit(Pid, kill) end, Pids),
    bench_data:until(IsClean).
