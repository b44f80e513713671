%% The part of the quick benchmark about metrics_process_tracker and stats_hero_monitor, beside the ETS designs of the originals.
-module(quick_processes).

-export([main/0]).

-define(ROUNDS, 7).
-define(DEATHS, 3).
-define(PROCESSES, 8000).
-define(NAMES, [requests, streams, sockets]).

main() ->
    metrics = metrics:open(),
    stats_hero = stats_hero:open(),
    quick:columns("metrics_process_tracker"),
    Trackers = [{ets, ets_process_tracker}, {proctab, metrics_process_tracker}],
    [{ok, _} = Module:start_link() || {_, Module} <- Trackers],
    quick:line("track under a first, second and third name", alternate(?ROUNDS, Trackers, fun track_time/1)),
    quick:line("track again", alternate(?ROUNDS, Trackers, fun track_again_time/1)),
    quick:line("8,000 processes with 3 names die, until clean (3 rounds)", alternate(?DEATHS, Trackers, fun tracked_death_time/1)),
    quick:columns("stats_hero_monitor"),
    Monitors = [{ets, ets_worker_monitor}, {proctab, stats_hero_monitor}],
    [{ok, _} = Module:start_link() || {_, Module} <- Monitors],
    quick:line("register", alternate(?ROUNDS, Monitors, fun register_time/1)),
    quick:line("registered_count among 8,000", alternate(?ROUNDS, Monitors, fun count_time/1)),
    quick:line("8,000 workers die, until clean", alternate(?ROUNDS, Monitors, fun worker_death_time/1)).

alternate(Rounds, Sides, Run) ->
    rounds:alternate(Rounds, [{Side, fun() -> Run(Module) end} || {Side, Module} <- Sides]).

track_time(Module) ->
    Pids = started(?PROCESSES),
    {Time, ok} = quick:time(fun() -> track(Module, Pids) end),
    kill(Pids),
    untracked(Module),
    Time / ?PROCESSES / length(?NAMES).

track_again_time(Module) ->
    Pids = started(100),
    track(Module, Pids),
    {Time, _} = quick:time(fun() -> [track(Module, Pids) || _ <- lists:seq(1, 100)] end),
    kill(Pids),
    untracked(Module),
    Time / 100 / 100 / length(?NAMES).

tracked_death_time(Module) ->
    Pids = started(?PROCESSES),
    track(Module, Pids),
    {Time, ok} = quick:time(fun() -> kill(Pids), untracked(Module) end),
    Time.

track(Module, Pids) ->
    lists:foreach(fun(Pid) -> [ok = Module:track(Name, Pid) || Name <- ?NAMES] end, Pids).

untracked(Module) ->
    quick:until(fun() -> lists:all(fun(Name) -> metrics:value(Name) =:= 0 andalso Module:count(Name) =:= 0 end, ?NAMES) end).

register_time(Module) ->
    Pids = started(?PROCESSES),
    {Time, ok} = quick:time(fun() -> register_all(Module, Pids) end),
    clean(Module, Pids),
    Time / ?PROCESSES.

count_time(Module) ->
    Pids = started(?PROCESSES),
    register_all(Module, Pids),
    {Time, _} = quick:time(fun() -> [?PROCESSES = Module:registered_count() || _ <- lists:seq(1, 100)] end),
    clean(Module, Pids),
    Time / 100.

worker_death_time(Module) ->
    Pids = started(?PROCESSES),
    register_all(Module, Pids),
    {Time, ok} = quick:time(fun() -> clean(Module, Pids) end),
    Time.

register_all(Module, Pids) ->
    lists:foreach(fun(Pid) -> stats_hero:map({request, Pid}, Pid), ok = Module:register(Pid) end, Pids).

clean(Module, Pids) ->
    kill(Pids),
    quick:until(fun() -> Module:registered_count() =:= 0 andalso ets:info(stats_hero, size) =:= 0 end).

started(Count) ->
    [spawn(fun() -> receive after infinity -> ok end end) || _ <- lists:seq(1, Count)].

kill(Pids) ->
    lists:foreach(fun(Pid) -> exit(Pid, kill) end, Pids).
