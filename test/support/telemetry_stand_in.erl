%% Loads a module `telemetry` that stands in for the library, and receives events from it.
-module(telemetry_stand_in).

-export([load/0, unload/0, watch/0, watch/1, collect/0, collected/1, forget/0, events/0, handle/4]).

-define(EVENTS, [
    [gen_tracker, start, stop],
    [gen_tracker, start, exception],
    [gen_tracker, child, up],
    [gen_tracker, child, down],
    [gen_tracker, after_terminate, stop],
    [gen_tracker, after_terminate, exception],
    [gen_tracker, cluster, conflict],
    [gen_tracker, cluster, nodeup],
    [gen_tracker, cluster, nodedown]
]).

load() ->
    File = filename:join(source_tree:root(), "test/telemetry/src/telemetry.erl"),
    {ok, Module, Code} = compile:file(File, [binary]),
    {module, Module} = code:load_binary(Module, File, Code),
    ok.

unload() ->
    forget(),
    true = code:delete(telemetry),
    _ = code:purge(telemetry),
    ok.

%% From now on the caller receives `{Event, Measurements, Metadata}` for each event.
watch() ->
    Test = self(),
    watch(fun(Event) -> Test ! Event end).

%% From now on a fun is called with each event, in the process that handles it.
watch(Fun) ->
    apply(telemetry, attach_many, [?MODULE, ?EVENTS, fun ?MODULE:handle/4, Fun]).

handle([gen_tracker | Event], Measurements, Metadata, Fun) ->
    Fun({Event, Measurements, Metadata}).

%% Watches in a process of its own, which lives on. For nodes that tests start.
collect() ->
    Collector = spawn(timer, sleep, [infinity]),
    watch(fun(Event) -> Collector ! {telemetry, Event} end),
    Collector.

%% Returns what such a process has received.
collected(Collector) ->
    {messages, Messages} = process_info(Collector, messages),
    [Event || {telemetry, Event} <- Messages].

forget() ->
    _ = persistent_term:erase(telemetry),
    ok.

events() ->
    ?EVENTS.
