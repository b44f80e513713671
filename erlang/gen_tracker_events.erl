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

-export([start/3, subscribe/2, unsubscribe/1, end_subscriptions/0, forget/2, forget_end/2]).
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
    %% The table knows them as well, and tells them when this process is killed.
    subscribers = #{} :: #{pid() => Monitor :: reference()},
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
%% message is `{{Tag, events}, Monitor, process, Events, Reason}'.
-spec start(gen_tracker:zone(), proctab_nif:handle(), Tag :: reference()) -> pid().
start(Zone, Handle, Tag) ->
    %% Without `start_link': a gen_server ends when its parent does.
    case gen_server:start(?MODULE, {Zone, self(), Handle}, []) of
        {ok, Events} ->
            _ = monitor(process, Events, [{tag, {Tag, events}}]),
            Events;
        %% It was killed while it started, which must not end the tracker.
        {error, killed} ->
            start(Zone, Handle, Tag)
    end.

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

%% @doc Tells the subscribers of the calling process that no more events will come. If the process
%% is killed, the table tells those who are left.
-spec end_subscriptions() -> ok.
end_subscriptions() ->
    case proctab_nif:end_subscriptions() of
        true -> end_subscriptions();
        false -> ok
    end.

%% @doc Removes all events of a zone from the caller's mailbox. From processes that have ended no
%% further one arrives.
-spec forget(Library :: module(), gen_tracker:zone()) -> ok.
forget(Library, Zone) ->
    ok = proctab_nif:cancel_subscriptions(Library, Zone),
    flush(Library, Zone).

flush(Library, Zone) ->
    receive
        {Library, Zone, _} -> flush(Library, Zone)
    after 0 -> ok
    end.

%% @doc Removes the end of a subscription to a process that has ended, which may have ended before
%% it could answer.
-spec forget_end(Library :: module(), gen_tracker:zone()) -> ok.
forget_end(Library, Zone) ->
    ok = proctab_nif:cancel_subscriptions(Library, Zone),
    receive
        {Library, Zone, unsubscribed} -> ok
    after 0 -> ok
    end.

tell(Event, Name, #events{zone = Zone, of_zone = OfZone, of_names = OfNames}) ->
    Send = fun(Subscriber, subscribed) -> Subscriber ! {gen_tracker, Zone, Event} end,
    maps:foreach(Send, OfZone),
    maps:foreach(Send, maps:get(Name, OfNames, #{})).

-spec init({gen_tracker:zone(), Tracker :: pid(), proctab_nif:handle()}) ->
          {ok, #events{}, {continue, listen}}.
init({Zone, Tracker, Handle}) ->
    process_flag(trap_exit, true),
    gen_tracker_reports:set_label({?MODULE, Zone}),
    link(Tracker),
    ok = proctab_nif:open_subscriptions(gen_tracker, Zone, Tracker),
    {ok, #events{zone = Zone, tracker = Tracker, handle = Handle}, {continue, listen}}.

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
        when is_pid(Pid), node(Pid) =:= node(), ?IS_FILTER(What) ->
    {reply, {ok, running(What, Events)}, subscribed(What, Pid, Events)};
handle_call(unsubscribe, {Pid, _}, Events) when is_pid(Pid) ->
    case without_subscriber(Pid, Events) of
        #events{subscribers = None} = Left when map_size(None) =:= 0 -> {stop, normal, ok, Left};
        Left -> {reply, ok, Left}
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
handle_info({'DOWN', Monitor, process, Pid, _}, #events{subscribers = Subscribers} = Events)
        when map_get(Pid, Subscribers) =:= Monitor ->
    Left = without_subscriber(Pid, Events),
    stop_unless(map_size(Left#events.subscribers) > 0, Left);
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

subscribed(What, Pid, Events) ->
    case {What, with_subscriber(Pid, Events)} of
        {all, #events{of_zone = OfZone} = With} ->
            Single = without_names(Pid, With),
            Single#events{of_zone = OfZone#{Pid => subscribed}};
        {{name, _}, #events{of_zone = #{Pid := subscribed}} = With} ->
            With;
        {{name, Name}, #events{of_names = OfNames, names_of = NamesOf} = With} ->
            With#events{of_names = add(Name, Pid, OfNames), names_of = add(Pid, Name, NamesOf)}
    end.

with_subscriber(Pid, #events{subscribers = Subscribers} = Events)
        when is_map_key(Pid, Subscribers) ->
    Events;
with_subscriber(Pid, #events{subscribers = Subscribers} = Events) ->
    ok = proctab_nif:add_subscriber(Pid),
    Events#events{subscribers = Subscribers#{Pid => monitor(process, Pid)}}.

without_subscriber(Pid, #events{subscribers = Subscribers, of_zone = OfZone} = Events) ->
    Left =
        case maps:take(Pid, Subscribers) of
            {Monitor, Others} ->
                ok = proctab_nif:remove_subscriber(Pid),
                true = demonitor(Monitor, [flush]),
                Others;
            error ->
                Subscribers
        end,
    without_names(Pid, Events#events{subscribers = Left, of_zone = maps:remove(Pid, OfZone)}).

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
terminate(_Reason, #events{handle = Handle}) ->
    ok = proctab_nif:unlisten(Handle),
    %% Events that come after `unsubscribed' are those of another zone.
    end_subscriptions().

-spec code_change(term(), #events{}, term()) -> {ok, #events{}}.
code_change(_OldVsn, Events, _Extra) ->
    {ok, Events}.
