%% Workers that suites register at stats_hero_monitor, and the application around it: the stand-in
%% for stats_hero in `test/stats_hero/`, without its own monitor.
-module(monitored_worker).
-behaviour(supervisor).

-export([load_stats_hero/1, unload_stats_hero/0, monitor/0, supervised_monitor/0, kill_monitor/0]).
-export([close/0, init/1]).
-export([is_monitored/1]).
-export([idle/0, worker/0, worker/1, settled/0, count_calls/0, calls/1]).

-define(MODULES, [stats_hero, stats_hero_sup, stats_hero_app]).

%% Compiles the application, and adds it to the code path. Returns the configuration.
load_stats_hero(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "stats_hero"),
    ok = filelib:ensure_path(Dir),
    [
        {ok, _} = compile:file(filename:join(source(), Module), [{outdir, Dir}, return_errors])
     || Module <- ?MODULES
    ],
    {ok, _} = file:copy(
        filename:join(source(), "stats_hero.app.src"), filename:join(Dir, "stats_hero.app")
    ),
    true = code:add_patha(Dir),
    [{module, Module} = code:ensure_loaded(Module) || Module <- ?MODULES],
    Config.

%% Removes the application from the code path, and unloads its modules.
unload_stats_hero() ->
    true = code:del_path(filename:dirname(code:which(stats_hero))),
    [code:purge(Module) andalso error(in_use) || Module <- ?MODULES, code:delete(Module)],
    ok.

source() ->
    filename:join([source_tree:root(), "test", "stats_hero", "src"]).

%% Starts a monitor and the table of the application. The calling process owns this table, and that
%% of the registrations.
monitor() ->
    ok = stats_hero:new_table(),
    {ok, Monitor} = stats_hero_monitor:start_link(),
    Monitor.

%% Like `monitor/0`, under a supervisor that starts it and owns its table, as in the application.
%% The supervisor allows any number of restarts.
supervised_monitor() ->
    {ok, _} = supervisor:start_link({local, ?MODULE}, ?MODULE, []),
    whereis(stats_hero_monitor).

init([]) ->
    {ok, {_, Children}} = stats_hero_sup:init(application),
    {ok, {#{intensity => 1000000, period => 1}, Children}}.

%% Kills the monitor, and waits until it is dead: its name is free, or taken by the next monitor.
kill_monitor() ->
    tracked_process:kill([whereis(stats_hero_monitor)]).

%% Stops the supervisor and the monitor, if they run.
close() ->
    [
        begin
            unlink(Pid),
            ok = gen_server:stop(Pid)
        end
     || Name <- [?MODULE, stats_hero_monitor], Pid <- [whereis(Name)], is_pid(Pid)
    ],
    ok.

%% Whether a table of processes monitors a process of this node: the VM shows its monitors as
%% references.
is_monitored(Pid) ->
    {monitored_by, By} = process_info(Pid, monitored_by),
    lists:any(fun is_reference/1, By).

%% Starts a process that waits to be killed.
idle() ->
    spawn(fun() ->
        receive
            stop -> ok
        end
    end).

%% Like `idle/0`; the process is registered, and has a mapping.
worker() ->
    worker(fun(Remove) -> Remove() end).

%% Like `worker/0`; the cleanup calls `Cleaning` with a fun that removes the mapping.
worker(Cleaning) ->
    Test = self(),
    Pid = spawn(fun() ->
        ok = stats_hero_monitor:register(self()),
        ok = stats_hero:map(make_ref(), self(), Cleaning),
        Test ! {mapped, self()},
        receive
            stop -> ok
        end
    end),
    receive
        {mapped, Pid} -> Pid
    end.

%% Waits until no registration is left: all cleanups are done then.
settled() ->
    tracked_process:eventually(fun() -> stats_hero_monitor:registered_count() =:= 0 end).

%% Counts calls of `stats_hero:clean_worker_data/1` from now on. `calls/1` returns the counts.
count_calls() ->
    Counter = spawn_link(fun() -> count_calls(#{}) end),
    1 = erlang:trace_pattern({stats_hero, clean_worker_data, 1}, true, []),
    _ = erlang:trace(processes, true, [call, {tracer, Counter}]),
    Counter.

count_calls(Calls) ->
    receive
        {trace, _, call, {stats_hero, clean_worker_data, [Pid]}} ->
            count_calls(maps:update_with(Pid, fun(Times) -> Times + 1 end, 1, Calls));
        {calls, Test} ->
            Test ! {calls, self(), Calls},
            count_calls(Calls)
    end.

%% Returns the number of these calls for each process that it was called for.
calls(Counter) ->
    Delivered = erlang:trace_delivered(all),
    receive
        {trace_delivered, all, Delivered} -> Counter ! {calls, self()}
    end,
    receive
        {calls, Counter, Calls} -> Calls
    end.
