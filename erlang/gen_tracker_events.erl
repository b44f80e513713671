%% @private
%% Births and deaths in a zone, for those who have subscribed to them.
%%
%% A zone has such a process from its first subscriber to its last. The native table tells it of each change, and it tells the subscribers: with one sender for all
%% that happens, nobody is told of two events of a name in the wrong order. It keeps a copy of who lives, for new subscribers, and to tell what it has been told of
%% from what it has read: it begins to listen, and then reads the table, so that a change at that moment may come in both ways.
%%
%% What it is told of a name comes in order, too: of children that were added, and of those that are unregistered, the tracker tells, and in between their keepers, who
%% hear of them from the tracker.
%%
%% It outlives its tracker for as long as children of it live, so that no death is missed. Their keepers may be able to tell no more then; so it monitors
%% the children, but as long as there is a tracker it leaves the telling to the keepers, after whose word the name is free.
-module(gen_tracker_events).
-behaviour(gen_server).

-export([start/3, subscribe/1, unsubscribe/1, lost/2]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).

-record(events, {
    zone :: gen_tracker:zone(),
    tracker :: pid(),
    handle :: proctab_nif:handle(),
    %% What the table's events begin with, once it tells of them.
    secret :: proctab_nif:secret() | undefined,
    children = #{} :: #{gen_tracker:name() => child()},
    %% `{Subscriber, Monitor}'. When this process is killed, the tracker inherits it.
    subscribers :: ets:table(),
    has_ended = false :: boolean()
}).

%% With the reason of its death, when this was seen before the keeper has told.
-type child() :: {pid(), Monitor :: reference()} | {pid(), Monitor :: reference(), Reason :: term()}.

%% Starts the process, linked to the calling tracker, which is told of its end as
%% `{{Tag, events}, Monitor, process, Events, Reason}', and inherits its subscribers then: an ETS
%% table, with the data `{Tag, events}'.
-spec start(gen_tracker:zone(), proctab_nif:handle(), Tag :: reference()) -> pid().
start(Zone, Handle, Tag) ->
    %% Not as its child, whom a gen_server would end together with itself.
    {ok, Events} = gen_server:start(?MODULE, {Zone, self(), Handle, Tag}, []),
    _ = monitor(process, Events, [{tag, {Tag, events}}]),
    Events.

%% Subscribes the caller; the children that live at that moment. `ended' when the process is about to go.
-spec subscribe(pid()) -> {ok, [{gen_tracker:name(), pid()}]} | ended.
subscribe(Events) ->
    call(Events, subscribe).

%% Ends that. What has been sent is in the caller's mailbox when this returns.
-spec unsubscribe(pid()) -> ok | ended.
unsubscribe(Events) ->
    call(Events, unsubscribe).

call(Events, Request) ->
    try
        gen_server:call(Events, Request, infinity)
    catch
        exit:_ -> ended
    end.

%% The process was killed: what it has left to its tracker says whom to tell that no more events will come.
-spec lost(gen_tracker:zone(), ets:table()) -> ok.
lost(Zone, Subscribers) ->
    tell(unsubscribed, Zone, Subscribers),
    true = ets:delete(Subscribers),
    ok.

tell(Event, Zone, Subscribers) ->
    ets:foldl(fun({Subscriber, _}, ok) -> Subscriber ! {gen_tracker, Zone, Event}, ok end, ok, Subscribers).

-spec init({gen_tracker:zone(), Tracker :: pid(), proctab_nif:handle(), Tag :: reference()}) ->
          {ok, #events{}, {continue, listen}}.
init({Zone, Tracker, Handle, Tag}) ->
    process_flag(trap_exit, true),
    link(Tracker),
    Subscribers = ets:new(?MODULE, [private, {heir, Tracker, {Tag, events}}]),
    {ok, #events{zone = Zone, tracker = Tracker, handle = Handle, subscribers = Subscribers}, {continue, listen}}.

-spec handle_continue(listen, #events{}) -> {noreply, #events{}}.
handle_continue(listen, #events{handle = Handle} = Events) ->
    Secret = proctab_nif:listen(Handle),
    {noreply, Events#events{secret = Secret, children = read(proctab_nif:page(Handle, 0, pids, []), Handle, #{})}}.

read({Page, Next}, Handle, Read) ->
    Children = lists:foldl(fun({Name, Pid}, Before) -> Before#{Name => monitored(Name, Pid)} end, Read, Page),
    case Next of
        done -> Children;
        _ -> read(proctab_nif:page(Handle, Next, pids, []), Handle, Children)
    end.

monitored(Name, Pid) ->
    {Pid, monitor(process, Pid, [{tag, {dead, Name}}])}.

-spec handle_call(term(), From :: term(), #events{}) ->
          {reply, term(), #events{}} | {noreply, #events{}} | {stop, normal, ok, #events{}}.
handle_call(subscribe, {Pid, _}, #events{subscribers = Subscribers, children = Children, has_ended = false} = Events)
        when is_pid(Pid) ->
    _ = ets:member(Subscribers, Pid) orelse ets:insert(Subscribers, {Pid, monitor(process, Pid)}),
    {reply, {ok, [{Name, element(1, Child)} || {Name, Child} <- maps:to_list(Children)]}, Events};
handle_call(unsubscribe, {Pid, _}, #events{subscribers = Subscribers} = Events) when is_pid(Pid) ->
    _ = [demonitor(Monitor, [flush]) || {_, Monitor} <- ets:take(Subscribers, Pid)],
    case ets:info(Subscribers, size) of
        0 -> {stop, normal, ok, Events};
        _ -> {reply, ok, Events}
    end;
handle_call(_Request, {Pid, _}, Events) when is_pid(Pid) ->
    {reply, ended, Events};
%% By answering nobody `gen_server' would crash.
handle_call(_Request, _From, Events) ->
    {noreply, Events}.

-spec handle_cast(term(), #events{}) -> {noreply, #events{}}.
handle_cast(_Request, Events) ->
    {noreply, Events}.

-spec handle_info(term(), #events{}) -> {noreply, #events{}} | {stop, normal | shutdown, #events{}}.
handle_info({Secret, {up, Name, Pid}}, #events{secret = Secret, zone = Zone, subscribers = Subscribers, children = Children} = Events)
        when not is_map_key(Name, Children) ->
    tell({up, Name, Pid}, Zone, Subscribers),
    {noreply, Events#events{children = Children#{Name => monitored(Name, Pid)}}};
handle_info({Secret, {down, Name, Pid, Reason}}, #events{secret = Secret, children = Children} = Events)
        when element(1, map_get(Name, Children)) =:= Pid ->
    true = demonitor(element(2, map_get(Name, Children)), [flush]),
    down(Name, Pid, Reason, Events);
handle_info({{dead, Name}, Monitor, process, Pid, Reason}, #events{children = Children, has_ended = HasEnded} = Events)
        when map_get(Name, Children) =:= {Pid, Monitor} ->
    case HasEnded of
        true -> down(Name, Pid, Reason, Events);
        false -> {noreply, Events#events{children = Children#{Name := {Pid, Monitor, Reason}}}}
    end;
handle_info({'DOWN', Monitor, process, Pid, _Reason}, #events{subscribers = Subscribers} = Events) ->
    case ets:lookup(Subscribers, Pid) of
        [{Pid, Monitor}] ->
            true = ets:delete(Subscribers, Pid),
            stop_unless(ets:info(Subscribers, size) > 0, Events);
        _ ->
            {noreply, Events}
    end;
handle_info({'EXIT', Tracker, _Reason}, #events{tracker = Tracker} = Events) ->
    case is_process_alive(Tracker) of
        true -> {noreply, Events};
        false -> tracker_has_ended(Events)
    end;
handle_info(Message, Events) ->
    case gen_tracker_shutdown:is_order(Message) of
        true -> {stop, shutdown, Events};
        false -> {noreply, Events}
    end.

tracker_has_ended(#events{zone = Zone, subscribers = Subscribers, children = Children} = Events) ->
    %% Nobody else may be left to tell of those whose death was seen.
    Alive = maps:filter(
        fun
            (Name, {Pid, _, Reason}) -> tell({down, Name, Pid, Reason}, Zone, Subscribers), false;
            (_, _) -> true
        end,
        Children
    ),
    stop_unless(map_size(Alive) > 0, Events#events{children = Alive, has_ended = true}).

down(Name, Pid, Reason, #events{zone = Zone, subscribers = Subscribers, children = Children, has_ended = HasEnded} = Events) ->
    tell({down, Name, Pid, Reason}, Zone, Subscribers),
    Rest = maps:remove(Name, Children),
    stop_unless(not HasEnded orelse map_size(Rest) > 0, Events#events{children = Rest}).

stop_unless(true, Events) -> {noreply, Events};
stop_unless(false, Events) -> {stop, normal, Events}.

-spec terminate(term(), #events{}) -> ok.
terminate(_Reason, #events{zone = Zone, handle = Handle, subscribers = Subscribers}) ->
    ok = proctab_nif:unlisten(Handle),
    %% Those who are left know that their subscription has ended, and that what comes now is of another zone.
    lost(Zone, Subscribers).

-spec code_change(term(), #events{}, term()) -> {ok, #events{}}.
code_change(_OldVsn, Events, _Extra) ->
    {ok, Events}.
