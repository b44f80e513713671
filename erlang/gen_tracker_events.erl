%% @private
%% The events process of a zone: sends its subscribers the births and deaths of children.
%%
%% A zone has an events process from its first subscriber to its last. The native table sends it
%% each change, and it sends an event to the subscribers of the zone and to those of that name. One
%% sender for all events of a zone means that every subscriber receives the events of a name in
%% order.
%%
%% The events process keeps a copy of the running children, for new subscribers. It first
%% subscribes to changes and then reads the table, so a change at that moment may arrive twice;
%% the copy shows which ones did. The changes of one name arrive in order. If the zone starts the
%% child, its keeper sends all of them. For any other child, the call that inserts it sends the
%% addition; a registrar, a keeper or the tracker, which learns of the child after that, sends the
%% end.
%%
%% When the tracker has ended, the events process lives on until the last child has died, so that
%% no death is missed. The keepers may be unable to report those deaths, so it monitors the
%% children. While the tracker lives, the events process ignores these monitors: the name is free
%% only once the keeper has reported the death.
-module(gen_tracker_events).
-behaviour(gen_server).

-export([start/3, subscribe/2, unsubscribe/1, lost/2, subscribers/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).
-export([terminate/2, code_change/3]).

%% What a process may subscribe to.
-define(IS_FILTER(What),
    (What =:= all orelse tuple_size(What) =:= 2 andalso element(1, What) =:= name)
).

-record(events, {
    zone :: gen_tracker:zone(),
    tracker :: pid(),
    handle :: proctab_nif:handle(),
    %% The first element of the table's messages, once it sends them.
    secret :: proctab_nif:secret() | undefined,
    children = #{} :: #{gen_tracker:name() => child()},
    %% `{Subscriber, Monitor}'. The tracker inherits the table when this process is killed.
    subscribers :: ets:table(),
    %% The subscribers of the whole zone, and of the others those of each name and the names of
    %% each.
    of_zone = #{} :: #{pid() => subscribed},
    of_names = #{} :: #{gen_tracker:name() => #{pid() => subscribed}},
    names_of = #{} :: #{pid() => #{gen_tracker:name() => subscribed}},
    has_ended = false :: boolean()
}).

%% With the exit reason, if the child's death was seen before its keeper reported it.
-type child() :: {pid(), Monitor :: reference()}
               | {pid(), Monitor :: reference(), Reason :: term()}.

%% @doc Starts the events process, linked to the calling tracker and monitored by it. The `DOWN'
%% message is `{{Tag, events}, Monitor, process, Events, Reason}'. The tracker then inherits the ETS
%% table of subscribers, with the data `{Tag, events}'.
-spec start(gen_tracker:zone(), proctab_nif:handle(), Tag :: reference()) -> pid().
start(Zone, Handle, Tag) ->
    %% Without `start_link': a gen_server ends when its parent does.
    {ok, Events} = gen_server:start(?MODULE, {Zone, self(), Handle, Tag}, []),
    _ = monitor(process, Events, [{tag, {Tag, events}}]),
    Events.

%% @doc Subscribes the caller to all names, or to one. Returns those of the children that run at
%% that moment, or `ended' if the events process is about to end.
-spec subscribe(pid(), all | {name, gen_tracker:name()}) ->
          {ok, [{gen_tracker:name(), pid()}]} | ended.
subscribe(Events, What) ->
    call(Events, {subscribe, What}).

%% @doc Ends the caller's subscription. All events that were sent are in the caller's mailbox when
%% this returns.
-spec unsubscribe(pid()) -> ok | ended.
unsubscribe(Events) ->
    call(Events, unsubscribe).

call(Events, Request) ->
    try
        gen_server:call(Events, Request, infinity)
    catch
        exit:_ -> ended
    end.

%% @doc Tells the subscribers in a table that no more events will come, and deletes the table. For
%% the tracker, when the events process was killed.
-spec lost(gen_tracker:zone(), ets:table()) -> ok.
lost(Zone, Subscribers) ->
    Send = fun({Subscriber, _}, ok) ->
        Subscriber ! {gen_tracker, Zone, unsubscribed},
        ok
    end,
    ok = ets:foldl(Send, ok, Subscribers),
    true = ets:delete(Subscribers),
    ok.

%% @doc Returns the subscribers of all zones, by the tracker of each. Sends no message.
-spec subscribers() -> #{Tracker :: pid() => [Subscriber :: pid()]}.
subscribers() ->
    maps:from_list([
        {ets:info(Table, heir), subscribers(Table)}
     || Table <- ets:all(), ets:info(Table, name) =:= ?MODULE
    ]).

subscribers(Table) ->
    try
        [Subscriber || {Subscriber, _} <- ets:tab2list(Table)]
    catch
        %% The table has gone meanwhile.
        error:badarg -> []
    end.

tell(Event, Name, #events{zone = Zone, of_zone = OfZone, of_names = OfNames}) ->
    Send = fun(Subscriber, subscribed) -> Subscriber ! {gen_tracker, Zone, Event} end,
    maps:foreach(Send, OfZone),
    maps:foreach(Send, maps:get(Name, OfNames, #{})).

-spec init({gen_tracker:zone(), Tracker :: pid(), proctab_nif:handle(), Tag :: reference()}) ->
          {ok, #events{}, {continue, listen}}.
init({Zone, Tracker, Handle, Tag}) ->
    process_flag(trap_exit, true),
    gen_tracker_reports:set_label({?MODULE, Zone}),
    link(Tracker),
    Subscribers = ets:new(?MODULE, [protected, {heir, Tracker, {Tag, events}}]),
    Events = #events{zone = Zone, tracker = Tracker, handle = Handle, subscribers = Subscribers},
    {ok, Events, {continue, listen}}.

-spec handle_continue(listen, #events{}) -> {noreply, #events{}}.
handle_continue(listen, #events{handle = Handle} = Events) ->
    Secret = proctab_nif:listen(Handle),
    {noreply, Events#events{secret = Secret, children = read(Handle, 0, #{})}}.

read(_, done, Children) ->
    Children;
read(Handle, From, Children) ->
    {Page, Next} = proctab_nif:page(Handle, From, pids, []),
    Add = fun({Name, Pid}, Before) -> Before#{Name => monitored(Name, Pid)} end,
    read(Handle, Next, lists:foldl(Add, Children, Page)).

monitored(Name, Pid) ->
    {Pid, monitor(process, Pid, [{tag, {dead, Name}}])}.

-spec handle_call(term(), From :: term(), #events{}) ->
          {reply, term(), #events{}} | {noreply, #events{}} | {stop, normal, ok, #events{}}.
handle_call({subscribe, What}, {Pid, _}, #events{has_ended = false} = Events)
        when is_pid(Pid), ?IS_FILTER(What) ->
    {reply, {ok, running(What, Events)}, subscribed(What, Pid, Events)};
handle_call(unsubscribe, {Pid, _}, #events{subscribers = Subscribers} = Events) when is_pid(Pid) ->
    Left = without_subscriber(Pid, Events),
    case ets:info(Subscribers, size) of
        0 -> {stop, normal, ok, Left};
        _ -> {reply, ok, Left}
    end;
handle_call(_Request, {Pid, _}, Events) when is_pid(Pid) ->
    {reply, ended, Events};
%% A sender that is no process cannot be answered: `gen_server' would crash.
handle_call(_Request, _From, Events) ->
    {noreply, Events}.

-spec handle_cast(term(), #events{}) -> {noreply, #events{}}.
handle_cast(_Request, Events) ->
    {noreply, Events}.

-spec handle_info(term(), #events{}) -> {noreply, #events{}} | {stop, normal | shutdown, #events{}}.
handle_info({Secret, {up, Name, Pid}}, #events{secret = Secret, children = Children} = Events)
        when not is_map_key(Name, Children) ->
    tell({up, Name, Pid}, Name, Events),
    {noreply, Events#events{children = Children#{Name => monitored(Name, Pid)}}};
handle_info({Secret, {down, Name, Pid, Reason}}, #events{secret = Secret} = Events)
        when element(1, map_get(Name, Events#events.children)) =:= Pid ->
    true = demonitor(element(2, map_get(Name, Events#events.children)), [flush]),
    down(Name, Pid, Reason, Events);
handle_info({{dead, Name}, Monitor, process, Pid, Reason}, #events{children = Children} = Events)
        when map_get(Name, Children) =:= {Pid, Monitor} ->
    case Events#events.has_ended of
        true -> down(Name, Pid, Reason, Events);
        false -> {noreply, Events#events{children = Children#{Name := {Pid, Monitor, Reason}}}}
    end;
handle_info({'DOWN', Monitor, process, Pid, _}, #events{subscribers = Subscribers} = Events) ->
    case ets:lookup(Subscribers, Pid) of
        [{Pid, Monitor}] ->
            Left = without_subscriber(Pid, Events),
            stop_unless(ets:info(Subscribers, size) > 0, Left);
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

subscribed(What, Pid, #events{subscribers = Subscribers} = Events) ->
    _ = ets:member(Subscribers, Pid) orelse ets:insert(Subscribers, {Pid, monitor(process, Pid)}),
    case {What, Events} of
        {all, #events{of_zone = OfZone}} ->
            Single = without_names(Pid, Events),
            Single#events{of_zone = OfZone#{Pid => subscribed}};
        {{name, _}, #events{of_zone = #{Pid := subscribed}}} ->
            Events;
        {{name, Name}, #events{of_names = OfNames, names_of = NamesOf}} ->
            Events#events{of_names = add(Name, Pid, OfNames), names_of = add(Pid, Name, NamesOf)}
    end.

without_subscriber(Pid, #events{subscribers = Subscribers, of_zone = OfZone} = Events) ->
    _ = [demonitor(Monitor, [flush]) || {_, Monitor} <- ets:take(Subscribers, Pid)],
    without_names(Pid, Events#events{of_zone = maps:remove(Pid, OfZone)}).

without_names(Pid, #events{of_names = OfNames, names_of = NamesOf} = Events) ->
    Names = maps:keys(maps:get(Pid, NamesOf, #{})),
    Remove = fun(Name, Left) -> remove(Name, Pid, Left) end,
    Events#events{
        of_names = lists:foldl(Remove, OfNames, Names), names_of = maps:remove(Pid, NamesOf)
    }.

%% Adds an element to, or removes it from, one of the sets in a map, which contains no empty one.
add(Key, Element, Sets) ->
    Set = maps:get(Key, Sets, #{}),
    Sets#{Key => Set#{Element => subscribed}}.

remove(Key, Element, Sets) ->
    case maps:remove(Element, map_get(Key, Sets)) of
        Left when map_size(Left) =:= 0 -> maps:remove(Key, Sets);
        Left -> Sets#{Key := Left}
    end.

running(all, #events{children = Children}) ->
    [{Name, element(1, Child)} || {Name, Child} <- maps:to_list(Children)];
running({name, Name}, #events{children = Children}) ->
    case Children of
        #{Name := Child} -> [{Name, element(1, Child)}];
        _ -> []
    end.

tracker_has_ended(#events{children = Children} = Events) ->
    %% The keepers of the children whose death was seen may have been killed.
    Alive = maps:filter(
        fun
            (Name, {Pid, _, Reason}) -> tell({down, Name, Pid, Reason}, Name, Events), false;
            (_, _) -> true
        end,
        Children
    ),
    stop_unless(map_size(Alive) > 0, Events#events{children = Alive, has_ended = true}).

down(Name, Pid, Reason, #events{children = Children} = Events) ->
    tell({down, Name, Pid, Reason}, Name, Events),
    Rest = maps:remove(Name, Children),
    IsNeeded = not Events#events.has_ended orelse map_size(Rest) > 0,
    stop_unless(IsNeeded, Events#events{children = Rest}).

stop_unless(true, Events) -> {noreply, Events};
stop_unless(false, Events) -> {stop, normal, Events}.

-spec terminate(term(), #events{}) -> ok.
terminate(_Reason, #events{zone = Zone, handle = Handle, subscribers = Subscribers}) ->
    ok = proctab_nif:unlisten(Handle),
    %% Events that come after `unsubscribed' are those of another zone.
    lost(Zone, Subscribers).

-spec code_change(term(), #events{}, term()) -> {ok, #events{}}.
code_change(_OldVsn, Events, _Extra) ->
    {ok, Events}.
