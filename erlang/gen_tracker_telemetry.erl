%% @private
%% Telemetry: passes events of a zone to the library `telemetry', if that is there.
%%
%% Handlers of `telemetry' are foreign code: they may be slow, never return, or misbehave. So no
%% process that the zone needs calls them:
%%
%%   keeper, registrar,
%%   tracker, cluster process     emitter                        worker
%%      | -- {event, Event} ------> |  queues at most ?LIMIT        |
%%      |                           | -- {events, [Event]} -------> |  telemetry:execute/3
%%      |                           | <- {ready, Worker} ---------- |
%%
%% A zone looks for `telemetry' when it starts. If it is there, the zone has an emitter, whose pid
%% is in the zone's context, and the emitter has a worker from its first event on. To emit an event
%% costs the zone's processes one message; without `telemetry' it costs a match.
%%
%% All events of a zone pass through one worker, so those of one process arrive in order. When
%% handlers fall behind, the emitter drops the events that it has no room for, and logs that once
%% until there is room again. When a handler ends the worker, the events that it was given last are
%% lost, and there is a new worker. When the zone has ended, the emitter lives on until the last
%% keeper has ended and all events have been handled; a handler that does not return then is given
%% ?PATIENCE.
-module(gen_tracker_telemetry).
-behaviour(gen_server).

-export([start/1, opened/2, emit/4, child/4, now/1, since/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([init_worker/2, work/1]).

-export_type([emitter/0]).

-include_lib("kernel/include/logger.hrl").

%% Events that wait for the worker, at most, and those that it is given at once.
-define(LIMIT, 10000).
-define(BATCH, 100).
%% How often the emitter of a zone that has ended looks whether it is still needed, and how long it
%% waits for the worker then, in milliseconds.
-define(TICK, 1000).
-define(PATIENCE, 5000).

%% The name of the event without `gen_tracker', measurements, and metadata.
-type event() :: {[atom()], Measurements :: map(), Metadata :: map()}.
-type emitter() :: pid() | none.

-record(emitter, {
    zone :: gen_tracker:zone(),
    tracker :: Monitor :: reference() | ended,
    handle :: proctab_nif:handle() | undefined,
    worker :: {pid(), Monitor :: reference()} | undefined,
    %% Since when the worker handles events, in milliseconds.
    busy :: integer() | undefined,
    events = queue:new() :: queue:queue(event()),
    count = 0 :: non_neg_integer(),
    is_dropping = false :: boolean()
}).

-record(worker, {
    zone :: gen_tracker:zone(),
    emitter :: pid(),
    monitor :: reference(),
    has_failed = false :: boolean()
}).

%% @doc Starts the emitter of a zone whose tracker is the caller. Returns `none' if there is no
%% `telemetry'.
-spec start(gen_tracker:zone()) -> emitter().
start(Zone) ->
    %% A variable: the library need not be there.
    Library = telemetry,
    _ = code:ensure_loaded(Library),
    case erlang:function_exported(Library, execute, 3) of
        true -> start_emitter(Zone);
        false -> none
    end.

start_emitter(Zone) ->
    %% Without `start_link': a gen_server ends when its parent does.
    case gen_server:start(?MODULE, {Zone, self()}, []) of
        {ok, Emitter} -> Emitter;
        %% It was killed while it started, which must not end the tracker.
        {error, killed} -> start_emitter(Zone)
    end.

%% @doc Tells the emitter that its zone has this table.
-spec opened(emitter(), proctab_nif:handle()) -> ok.
opened(none, _) -> ok;
opened(Emitter, Handle) -> gen_server:cast(Emitter, {opened, Handle}).

%% @doc Emits `[gen_tracker | Event]'. Takes the emitter, or a context of the zone that has it.
%% Never fails, and runs no handler in the caller.
-spec emit(emitter() | #{telemetry => emitter(), _ => _}, Event :: [atom()], Measurements :: map(),
           Metadata :: map()) -> ok.
emit(#{telemetry := Emitter}, Event, Measurements, Metadata) ->
    emit(Emitter, Event, Measurements, Metadata);
emit(Emitter, Event, Measurements, Metadata) when is_pid(Emitter) ->
    Emitter ! {event, {Event, Measurements, Metadata}},
    ok;
emit(_, _, _, _) ->
    ok.

%% @doc Emits `[gen_tracker, child, up]' or `[gen_tracker, child, down]'.
-spec child(Context :: #{zone := gen_tracker:zone(), telemetry => emitter(), _ => _},
            up | {down, Reason :: term()}, gen_tracker:name(), pid()) -> ok.
child(#{zone := Zone, telemetry := Emitter}, Change, Name, Pid) when is_pid(Emitter) ->
    Measurements = #{system_time => erlang:system_time()},
    Metadata = #{zone => Zone, name => Name, pid => Pid},
    case Change of
        up -> emit(Emitter, [child, up], Measurements, Metadata);
        {down, Reason} -> emit(Emitter, [child, down], Measurements, Metadata#{reason => Reason})
    end;
child(_, _, _, _) ->
    ok.

%% @doc Returns the time at which something begins whose duration will be emitted.
-spec now(#{telemetry => emitter(), _ => _}) -> integer() | undefined.
now(#{telemetry := Emitter}) when is_pid(Emitter) -> erlang:monotonic_time();
now(_) -> undefined.

%% @doc Emits an event with the duration since then, in native units of time.
-spec since(Begin :: integer() | undefined, Emit) -> ok when
      Emit :: fun((Measurements :: map()) -> ok).
since(undefined, _) ->
    ok;
since(Begin, Emit) ->
    Now = erlang:monotonic_time(),
    Emit(#{duration => Now - Begin, monotonic_time => Now}).

%%% The emitter

%% @private
-spec init({gen_tracker:zone(), Tracker :: pid()}) -> {ok, #emitter{}}.
init({Zone, Tracker}) ->
    process_flag(trap_exit, true),
    gen_tracker_reports:set_label({?MODULE, Zone}),
    {ok, #emitter{zone = Zone, tracker = monitor(process, Tracker)}}.

%% @private
-spec handle_call(term(), From :: term(), #emitter{}) -> {noreply, #emitter{}}.
handle_call(_Request, _From, Emitter) ->
    {noreply, Emitter}.

%% @private
-spec handle_cast(term(), #emitter{}) -> {noreply, #emitter{}}.
handle_cast({opened, Handle}, Emitter) ->
    {noreply, Emitter#emitter{handle = Handle}};
handle_cast(_Request, Emitter) ->
    {noreply, Emitter}.

%% @private
-spec handle_info(term(), #emitter{}) ->
          {noreply, #emitter{}} | {noreply, #emitter{}, timeout()} | {stop, normal, #emitter{}}.
handle_info({event, Event}, Emitter) ->
    noreply(given_work(added(Event, Emitter)));
handle_info({ready, Worker}, #emitter{worker = {Worker, _}} = Emitter) ->
    noreply(given_work(Emitter#emitter{busy = undefined}));
handle_info({'DOWN', Monitor, process, Worker, _}, #emitter{worker = {Worker, Monitor}} = Emitter)
        when is_pid(Worker) ->
    noreply(given_work(Emitter#emitter{worker = undefined, busy = undefined}));
handle_info({'DOWN', Tracker, process, _, _}, #emitter{tracker = Tracker} = Emitter) ->
    noreply(Emitter#emitter{tracker = ended});
handle_info(timeout, #emitter{tracker = ended} = Emitter) ->
    %% Whatever a keeper has sent before its end is in the mailbox by then.
    case is_needed(Emitter) orelse process_info(self(), message_queue_len) of
        {message_queue_len, 0} -> {stop, normal, Emitter};
        _ -> noreply(Emitter)
    end;
handle_info(_Message, Emitter) ->
    noreply(Emitter).

noreply(#emitter{tracker = ended} = Emitter) ->
    {noreply, Emitter, ?TICK};
noreply(Emitter) ->
    {noreply, Emitter}.

added(Event, #emitter{events = Events, count = Count} = Emitter) when Count < ?LIMIT ->
    Emitter#emitter{events = queue:in(Event, Events), count = Count + 1};
added(_, #emitter{zone = Zone, is_dropping = IsDropping} = Emitter) ->
    _ = IsDropping orelse
        ?LOG_WARNING(#{label => {gen_tracker, telemetry_overload}, zone => Zone,
                       waiting => ?LIMIT}),
    Emitter#emitter{is_dropping = true}.

given_work(#emitter{busy = undefined, count = Count, events = Events} = Emitter) when Count > 0 ->
    case with_worker(Emitter) of
        #emitter{worker = {Worker, _}} = WithWorker ->
            {Batch, Rest} = queue:split(min(Count, ?BATCH), Events),
            Worker ! {events, queue:to_list(Batch)},
            WithWorker#emitter{
                busy = erlang:monotonic_time(millisecond),
                events = Rest,
                count = max(Count - ?BATCH, 0),
                is_dropping = false
            };
        Without ->
            Without
    end;
given_work(Emitter) ->
    Emitter.

with_worker(#emitter{worker = undefined, zone = Zone} = Emitter) ->
    try
        Worker = proc_lib:spawn_opt(?MODULE, init_worker, [self(), Zone], [monitor]),
        Emitter#emitter{worker = Worker}
    catch
        %% The next event tries again.
        error:system_limit -> Emitter
    end;
with_worker(Emitter) ->
    Emitter.

%% Whether events may come, or wait, or are being handled.
is_needed(#emitter{count = 0, busy = undefined, handle = Handle}) ->
    has_keepers(Handle, 0);
is_needed(#emitter{busy = Busy, handle = Handle}) ->
    Now = erlang:monotonic_time(millisecond),
    is_integer(Busy) andalso Now - Busy < ?PATIENCE orelse has_keepers(Handle, 0).

has_keepers(undefined, _) ->
    false;
has_keepers(_, done) ->
    false;
has_keepers(Handle, From) ->
    {Children, Next} = proctab_nif:page(Handle, From, children, []),
    lists:any(fun({_, _, _, Keeper, _}) -> is_process_alive(Keeper) end, Children)
        orelse has_keepers(Handle, Next).

%% @private
-spec terminate(term(), #emitter{}) -> ok.
terminate(_Reason, #emitter{worker = {Worker, _}}) ->
    exit(Worker, kill),
    ok;
terminate(_Reason, _Emitter) ->
    ok.

%% @private
-spec code_change(term(), #emitter{}, term()) -> {ok, #emitter{}}.
code_change(_OldVsn, Emitter, _Extra) ->
    {ok, Emitter}.

%%% The worker

%% @private
-spec init_worker(Emitter :: pid(), gen_tracker:zone()) -> ok.
init_worker(Emitter, Zone) ->
    gen_tracker_reports:set_label({?MODULE, worker, Zone}),
    work(#worker{zone = Zone, emitter = Emitter, monitor = monitor(process, Emitter)}).

%% @private
-spec work(#worker{}) -> ok.
work(#worker{emitter = Emitter, monitor = Monitor} = Worker) ->
    receive
        {events, Events} ->
            Next = lists:foldl(fun handle/2, Worker, Events),
            Emitter ! {ready, self()},
            ?MODULE:work(Next);
        {'DOWN', Monitor, process, Emitter, _} ->
            ok;
        _ ->
            ?MODULE:work(Worker)
    end.

%% `telemetry' itself catches what handlers raise. What it raises is logged once.
handle({Event, Measurements, Metadata}, #worker{zone = Zone, has_failed = HasFailed} = Worker) ->
    Library = telemetry,
    Name = [gen_tracker | Event],
    try Library:execute(Name, Measurements, Metadata) of
        _ -> Worker
    catch
        Class:Reason:Stacktrace ->
            _ = HasFailed orelse
                ?LOG_ERROR(#{label => {gen_tracker, telemetry_error}, zone => Zone, event => Name,
                             class => Class, reason => Reason, stacktrace => Stacktrace}),
            Worker#worker{has_failed = true}
    end.
