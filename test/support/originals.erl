%% Nodes in which the originals come before this library in the code path: the application metrics
%% with `counter_backend`, and stand-ins for gen_tracker and stats_hero. Such nodes are what
%% `proctab:load/0` is called in.
-module(originals).

-export([compile/1, on_node/2, on_node/3, findings/0]).
-export([start_metrics/0, start_stats_hero/0, assert_ours/1, workers/1, workers/2]).

-include_lib("stdlib/include/assert.hrl").

-import(tracked_process, [eventually/1]).

%% Compiles the stand-ins, and returns the configuration of a suite that `on_node/2` takes.
compile(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "originals"),
    ok = filelib:ensure_path(Dir),
    Pattern = filename:join([source_tree:root(), "test", "stats_hero", "src", "*.erl"]),
    Sources = filelib:wildcard(Pattern),
    ?assertNotEqual([], Sources),
    [{ok, _} = compile:file(Source, [{outdir, Dir}, return_errors]) || Source <- Sources],
    compile_gen_tracker(Dir),
    [{originals, Dir} | Config].

compile_gen_tracker(Dir) ->
    File = filename:join(Dir, "gen_tracker.erl"),
    ok = file:write_file(File, [
        "-module(gen_tracker).\n-export([start_link/1, init/1, handle_call/3, handle_cast/2]).\n",
        "start_link(Zone) -> gen_server:start_link({local, Zone}, ?MODULE, [Zone], []).\n",
        "init([Zone]) -> {ok, ets:new(Zone, [public, named_table])}.\n",
        "handle_call(who, _, State) -> {reply, original, State}.\n",
        "handle_cast(_, State) -> {noreply, State}.\n"
    ]),
    {ok, gen_tracker} = compile:file(File, [{outdir, Dir}, return_errors]).

%% Returns what `proctab:check/1` says of the three modules.
findings() ->
    #{modules := Findings} = proctab:check(map),
    Findings.

%% Runs a fun of a suite in a new node, and returns its result.
on_node(Config, Fun) ->
    on_node(Config, #{}, Fun).

%% Like `on_node/2`, with options for `peer:start_link/1`.
on_node(Config, Options, Fun) ->
    {module, Suite} = erlang:fun_info(Fun, module),
    Last = ["-pz" | [filename:dirname(code:which(Module)) || Module <- [proctab, ?MODULE, Suite]]],
    Arguments = ["-pa", proplists:get_value(originals, Config) | Last],
    {ok, Peer, _Node} = peer:start_link(Options#{connection => standard_io, args => Arguments}),
    try
        peer:call(Peer, erlang, apply, [Fun, []], infinity)
    after
        peer:stop(Peer)
    end.

%% Starts the application metrics, which starts its metrics_process_tracker, with the counters `a`
%% and `b`.
start_metrics() ->
    ok = application:load(metrics),
    ok = application:set_env(metrics, metrics_mod, counter_backend:name()),
    ok = counter_backend:start(),
    {ok, _} = application:ensure_all_started(metrics),
    [ok = metrics:new(counter, Name) || Name <- [a, b]],
    ok.

%% Starts the supervisors of stats_hero, which start its stats_hero_monitor.
start_stats_hero() ->
    {ok, _} = stats_hero_sup:start_link(),
    ok.

%% Asserts that a module is loaded from this library.
assert_ours(Module) ->
    Library = filename:dirname(code:which(proctab)),
    ?assertEqual({Module, Library}, {Module, filename:dirname(code:which(Module))}).

%% Waits until so many workers are registered, and asserts that as many have a mapping.
workers(Count) ->
    workers(Count, Count).

%% Like `workers/1`, with another number of mappings.
workers(Count, Mapped) ->
    eventually(fun() -> Count =:= stats_hero_monitor:registered_count() end),
    ?assertEqual(Mapped, stats_hero:mapped()).
