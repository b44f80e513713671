%% Workers that stats_hero_monitor monitors, and the application around it: a stand-in for
%% stats_hero in `test/stats_hero/`, without its own monitor.
-module(monitored_worker).
-behaviour(supervisor).

-export([load_stats_hero/1, unload_stats_hero/0, monitor/0, supervised_monitor/0, kill_monitor/0]).
-export([close/0, init/1]).
-export([idle/0, worker/0, worker/1, settled/0, count_calls/0, calls/1]).

-define(MODULES, [stats_hero, stats_hero_sup, stats_hero_app]).

%% Compiles the application, and adds it to the code path.
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

%% Unloads the application. Then there is no module of that name.
unload_stats_hero() ->
    true = code:del_path(filename:dirname(code:which(stats_hero))),
    [code:purge(Module) andalso error(in_use) || Module <- ?MODULES, code:delete(Module)],
    ok.

source() ->
    filename:join([source_tree:root(), "test", "stats_hero", "src"]).

%% Starts the table of the application and a monitor. Both belong to the calling process, and so do
%% the registrations.
monitor() ->
    ok = stats_hero:new_table(),
    {ok, Monitor} = stats_hero_monitor:start_link(),
    Monitor.

%% Starts the table and a monitor under a supervisor, as in the application, that allows any number
%% of restarts.
supervised_monitor() ->
    {ok, _} = supervisor:start_link({local, ?MODULE}, ?MODULE, []),
    whereis(stats_hero_monitor).

init([]) ->
    {ok, {_, Children}} = stats_hero_sup:init(application),
    {ok, {#{intensity => 1000000, period => 1}, Children}}.

%% Kills the monitor, and waits until its registered name is free or registered again.
kill_monitor() ->
    tracked_process:kill([whereis(stats_hero_monitor)]).

%% Stops what a case has left running.
close() ->
    [
        begin
            unlink(Pid),
            ok = gen_server:stop(Pid)
        end
     || Name <- [?MODULE, stats_hero_monitor], Pid <- [whereis(Name)], is_pid(Pid)
    ],
    ok.

%% Starts a process that waits to be killed.
idle() ->
    spawn(fun() ->
        receive
            stop -> ok
        end
    end).

%% Starts a registered and mapped process that waits to be killed.
worker() ->
    worker(fun(Remove) -> Remove() end).

%% Like `worker/0`, with a fun that is called when the process is cleaned up.
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

%% Waits until no registration is left. Then all dead processes have been cleaned up.
settled() ->
    tracked_process:eventually(fun() -> stats_hero_monitor:registered_count() =:= 0 end).

%% Counts the calls of `stats_hero:clean_worker_data/1` from now on. Returns the counting process.
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

%% Returns how often the function has been called for each process.
calls(Counter) ->
    Delivered = erlang:trace_delivered(all),
    receive
        {trace_delivered, all, Delivered} -> Counter ! {calls, self()}
    end,
    receive
        {calls, Counter, Calls} -> Calls
    end.
