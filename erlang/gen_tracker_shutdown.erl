%% @private
%% The end of a zone: all children are stopped at the same time, and so are the starts and the
%% cleanups that are under way. Done by the tracker when it stops, and by its watchdog when the
%% tracker was killed.
%%
%% From the moment when the zone is marked as stopping, no keeper registers a child or starts one
%% again. Each keeper is told to stop its child. A start gets the shutdown time of its child, an
%% `after_terminate' that time or 3 s; then the keeper is killed. A keeper that does not know yet
%% that the zone stops when it calls `after_terminate' is found in that state when the table is
%% read; one that knows asks for the limit itself, with `{Tag, overtime, Keeper, cleanup}'.
%%
%% Keepers are monitored here, whatever links there are, and what a keeper that was killed has
%% left behind is ended in its place.
-module(gen_tracker_shutdown).

-export([start_watchdog/2, stop/3, end_apart/2, inherit/4, start_patience/1, overtime/3, refusal/1, is_order/1]).
-export([init_watchdog/3, watch/3]).

-include_lib("kernel/include/logger.hrl").

%% How long a start has for the shutdown `infinity', in milliseconds.
-define(LONGEST_START, 60000).
%% How long what a start has started takes to end before it is killed, in milliseconds.
-define(GRACE, 200).
%% How often the watchdog looks for children that have ended, in milliseconds.
-define(TICK, 1000).

-record(stop, {
    context :: context(),
    handle :: proctab_nif:handle(),
    keepers = #{} :: #{Keeper :: pid() => keeper()},
    %% Children of keepers that were killed, and processes that end a start.
    others = #{} :: #{Monitor :: reference() => pid()},
    %% What start functions have left linked to their keepers, and which keepers those were.
    inherited :: inherited()
}).

-type context() :: #{tag := reference(), zone := gen_tracker:zone(), _ => _}.
-type inherited() :: #{pid() => Keeper :: pid()}.
-type keeper() :: {Monitor :: reference(), Child :: pid() | undefined, gen_tracker:shutdown(),
                   %% When the watchdog has first seen the child dead, in milliseconds.
                   Ended :: integer() | undefined}.

%%% The watchdog

%% @doc Starts the process that ends a zone whose tracker was killed. It is linked to the calling
%% tracker and monitored by it: its end is told as
%% `{{Tag, watchdog}, Monitor, process, Pid, Reason}'.
-spec start_watchdog(proctab_nif:handle(), context()) -> pid().
start_watchdog(Handle, #{tag := Tag, zone := Zone}) ->
    Options = [link, {monitor, [{tag, {Tag, watchdog}}]}],
    Args = [self(), Handle, #{tag => Tag, zone => Zone}],
    {Watchdog, _} = proc_lib:spawn_opt(?MODULE, init_watchdog, Args, Options),
    Watchdog.

%% @private
-spec init_watchdog(Tracker :: pid(), proctab_nif:handle(), context()) -> no_return().
init_watchdog(Tracker, Handle, Context) ->
    process_flag(trap_exit, true),
    proc_lib:hibernate(?MODULE, watch, [monitor(process, Tracker), Handle, Context]).

%% @private
-spec watch(Monitor :: reference(), proctab_nif:handle(), context()) -> ok.
watch(Monitor, Handle, #{tag := Tag} = Context) ->
    receive
        {'DOWN', Monitor, process, _, _} ->
            %% The keepers cannot ask for a limit: the tracker that they would ask is gone.
            self() ! {Tag, tick},
            stop(Handle, Context, #{});
        Message ->
            is_order(Message) andalso exit(shutdown),
            proc_lib:hibernate(?MODULE, watch, [Monitor, Handle, Context])
    end.

%%% Stopping

%% @doc Stops all children of a zone, and returns when they and their keepers are gone. Requests
%% that come meanwhile are answered `{error, shutdown}'.
-spec stop(proctab_nif:handle(), context(), inherited()) -> ok.
stop(Handle, Context, Inherited) ->
    ok = proctab_nif:zone_stop(Handle),
    Stop = #stop{context = Context, handle = Handle, inherited = Inherited},
    #stop{inherited = Left} = await(lists:foldl(fun stop_child/2, Stop, children(Handle))),
    maps:foreach(fun end_inherited/2, Left),
    proctab_nif:zone_close(Handle).

children(Handle) ->
    children(Handle, 0, []).

children(_, done, Children) ->
    Children;
children(Handle, From, Children) ->
    {More, Next} = proctab_nif:page(Handle, From, children, Children),
    children(Handle, Next, More).

stop_child({_Name, State, Child, Keeper, {_, _, Shutdown, _, _}}, Stop) ->
    #stop{context = #{tag := Tag}, keepers = Keepers} = Stop,
    Monitor = monitor(process, Keeper),
    gen_tracker_child:stop_zone(Keeper, Tag),
    case State of
        terminating ->
            after_time(gen_tracker_child:patience(Shutdown), {overtime, Keeper, cleanup}, Stop);
        _ when State =:= launching; State =:= restarting ->
            after_time(start_patience(Shutdown), {overtime, Keeper, start}, Stop);
        _ -> ok
    end,
    Stop#stop{keepers = Keepers#{Keeper => {Monitor, Child, Shutdown, undefined}}}.

after_time(Time, Message, #stop{context = #{tag := Tag}}) ->
    _ = erlang:send_after(Time, self(), erlang:insert_element(1, Message, Tag)),
    ok.

await(#stop{keepers = Keepers, others = Others} = Stop)
        when map_size(Keepers) =:= 0, map_size(Others) =:= 0 ->
    Stop;
await(#stop{context = #{tag := Tag}} = Stop) ->
    receive
        {Tag, _} = Message -> await(told(Message, Stop));
        {Tag, _, _} = Message -> await(told(Message, Stop));
        {Tag, _, _, _} = Message -> await(told(Message, Stop));
        {{Tag, attached, Keeper}, _, process, Child, Reason} ->
            gen_tracker_child:died(Keeper, Stop#stop.context, Child, Reason),
            await(Stop);
        {'DOWN', Monitor, process, Pid, Reason} -> await(down(Pid, Monitor, Reason, Stop));
        {'$gen_call', {Caller, _} = From, Request} when is_pid(Caller) ->
            gen_server:reply(From, refusal(Request)),
            await(Stop);
        {'EXIT', Pid, _} = Message ->
            case is_order(Message) of
                true -> await(without_trackers(Stop));
                false -> await(exited(Pid, Stop))
            end;
        {'ETS-TRANSFER', Table, _, {Tag, events}} -> lost_events(Table, Stop), await(Stop);
        _ -> await(Stop)
    end.

%% @doc What a request is answered while the zone stops.
-spec refusal(Request :: term()) -> ok | refused | {error, shutdown}.
%% The end of a process may be waiting for these.
refusal({unregister, _}) -> ok;
refusal({await_start, _}) -> ok;
%% A callback would ask again until its time is over.
refusal({look_up, _, _}) -> refused;
refusal(_) -> {error, shutdown}.

told({_, overtime, Keeper, What}, #stop{keepers = Keepers} = Stop)
        when is_map_key(Keeper, Keepers) ->
    end_overtime(Keeper, What, Stop);
told({_, kill, Monitor}, #stop{others = Others} = Stop) when is_map_key(Monitor, Others) ->
    exit(map_get(Monitor, Others), kill),
    Stop;
told({Tag, inherit, Keeper, Pids}, #stop{inherited = Inherited} = Stop) ->
    Stop#stop{inherited = inherit(Keeper, Tag, Pids, Inherited)};
told({_, tick}, #stop{keepers = Keepers} = Stop) ->
    after_time(?TICK, {tick}, Stop),
    Stop#stop{keepers = maps:map(fun(Keeper, Its) -> look(Keeper, Its, Stop) end, Keepers)};
told(_, Stop) ->
    Stop.

down(Pid, Monitor, Reason, #stop{keepers = Keepers, others = Others} = Stop) ->
    case Keepers of
        #{Pid := {Monitor, Child, Shutdown, _}} ->
            Left = Stop#stop{keepers = maps:remove(Pid, Keepers)},
            case Reason of
                shutdown -> Left;
                _ -> end_child(Child, Shutdown, Left)
            end;
        _ ->
            Stop#stop{others = maps:remove(Monitor, Others)}
    end.

%% A keeper that was killed has left its child behind.
end_child(undefined, _, Stop) ->
    Stop;
end_child(Child, Shutdown, #stop{others = Others} = Stop) ->
    Monitor = monitor(process, Child),
    case Shutdown of
        brutal_kill ->
            exit(Child, kill);
        infinity ->
            exit(Child, shutdown);
        _ ->
            exit(Child, shutdown),
            after_time(Shutdown, {kill, Monitor}, Stop)
    end,
    Stop#stop{others = Others#{Monitor => Child}}.

%% For the watchdog: whether a child has ended, and its `after_terminate' has had its time.
look(_, {Monitor, Child, Shutdown, undefined}, _) when is_pid(Child) ->
    case gen_tracker_child:is_alive(Child) of
        true -> {Monitor, Child, Shutdown, undefined};
        false -> {Monitor, Child, Shutdown, erlang:monotonic_time(millisecond)}
    end;
look(Keeper, {_, _, Shutdown, Ended} = Its, Stop) when is_integer(Ended) ->
    IsOver = erlang:monotonic_time(millisecond) - Ended >= gen_tracker_child:patience(Shutdown),
    #stop{handle = Handle, context = Context} = Stop,
    _ = IsOver andalso kill_cleanup(Keeper, proctab_nif:kept(Handle, Keeper), Context),
    Its;
look(_, Its, _) ->
    Its.

exited(Pid, #stop{inherited = Inherited} = Stop) ->
    Stop#stop{inherited = maps:remove(Pid, Inherited)}.

%% @doc Whether a message is the order of a zone to stop, of which the calling process of the library
%% is a child: an exit signal of its keeper there. (A tracker that a keeper has started has that
%% keeper as its parent, which `gen_server' obeys.)
-spec is_order(Message :: term()) -> boolean().
is_order({'EXIT', Pid, shutdown}) when is_pid(Pid), node(Pid) =:= node() ->
    is_process_alive(Pid) andalso
        lists:any(fun(Zone) -> is_kept_by(Pid, Zone) end, zones());
is_order(_) ->
    false.

zones() ->
    [Zone || {zone, Zone, _} <- proctab_nif:tables()].

is_kept_by(Keeper, Zone) ->
    try proctab_nif:kept(Zone, Keeper) of
        {_, _, Child, _} -> Child =:= self();
        undefined -> false
    catch
        error:badarg -> false
    end.

%% Another zone waits for the end of this one. Children that are trackers may be waiting for that
%% zone, in however many steps: they have been told to stop, and are not waited for.
without_trackers(#stop{keepers = Keepers} = Stop) ->
    Trackers = [Owner || {zone, _, Owner} <- proctab_nif:tables()],
    IsOther = fun(_, {_, Child, _, _}) -> not lists:member(Child, Trackers) end,
    Stop#stop{keepers = maps:filter(IsOther, Keepers)}.

lost_events(Table, #stop{context = #{zone := Zone}}) ->
    gen_tracker_events:lost(Zone, Table).

%% @doc Links processes to the caller that a keeper is linked to, which waits for that.
-spec inherit(Keeper :: pid(), Tag :: reference(), [pid()], inherited()) -> inherited().
inherit(Keeper, Tag, Pids, Inherited) ->
    lists:foreach(fun link/1, Pids),
    gen_tracker_child:inherited(Keeper, Tag),
    maps:merge(Inherited, maps:from_keys(Pids, Keeper)).

%% For a server whose parent the keeper was, only the keeper's end is an order to stop.
end_inherited(Pid, Keeper) ->
    Pid ! {'EXIT', Keeper, shutdown},
    exit(Pid, shutdown).

%%% Time limits

%% @doc How long a start may take that is to stop, in milliseconds.
-spec start_patience(gen_tracker:shutdown()) -> non_neg_integer().
start_patience(brutal_kill) -> 0;
start_patience(infinity) -> ?LONGEST_START;
start_patience(Shutdown) -> Shutdown.

%% @doc Ends what a keeper is still doing after the time that it had, if it is: a start, or a call
%% of `after_terminate'. For a tracker that does not stop.
-spec overtime(Keeper :: pid(), start | cleanup, context()) -> ok.
overtime(Keeper, What, #{zone := Zone} = Context) ->
    case {What, proctab_nif:kept(Zone, Keeper)} of
        {start, {_, State, _, Spec}} when State =:= launching; State =:= restarting ->
            _ = spawn(fun() -> end_start(Keeper, shutdown(Spec)) end),
            ok;
        {cleanup, {_, terminating, _, _} = Kept} ->
            kill_cleanup(Keeper, Kept, Context);
        _ ->
            ok
    end.

end_overtime(Keeper, What, #stop{handle = Handle, context = Context, others = Others} = Stop) ->
    case {What, proctab_nif:kept(Handle, Keeper)} of
        {start, {_, State, _, Spec}} when State =:= launching; State =:= restarting ->
            End = fun() -> end_start(Keeper, shutdown(Spec)) end,
            try spawn_monitor(End) of
                {Helper, Monitor} -> Stop#stop{others = Others#{Monitor => Helper}}
            catch
                %% There can be no more processes.
                error:system_limit -> End(), Stop
            end;
        {cleanup, {_, terminating, _, _} = Kept} ->
            kill_cleanup(Keeper, Kept, Context),
            Stop;
        _ ->
            Stop
    end.

shutdown({_, _, Shutdown, _, _}) ->
    Shutdown.

kill_cleanup(_, undefined, _) ->
    ok;
kill_cleanup(Keeper, {Name, _, _, {MFA, _, Shutdown, _, _}}, #{zone := Zone}) ->
    ?LOG_ERROR(#{label => {gen_tracker, after_terminate_killed}, zone => Zone, name => Name,
                 module => module(MFA), after_ms => gen_tracker_child:patience(Shutdown)}),
    exit(Keeper, kill),
    ok.

module({Module, _, _}) -> Module;
module(undefined) -> undefined.

%% Ends a keeper inside a start function, and before it what that has started so far.
end_start(Keeper, Shutdown) ->
    %% So that it starts nothing between the look and its end.
    _ = try erlang:suspend_process(Keeper) catch error:badarg -> ended end,
    Started = [{Pid, monitor(process, Pid)} || Pid <- gen_tracker_child:started_by(Keeper)],
    lists:foreach(fun({Pid, _}) -> exit(Pid, signal(Shutdown)) end, Started),
    Deadline = erlang:monotonic_time(millisecond) + ?GRACE,
    lists:foreach(fun({Pid, Monitor}) -> await_end(Pid, Monitor, Deadline) end, Started),
    exit(Keeper, kill).

%% @doc Ends a process as a shutdown says, and returns when it is gone. It ends also when the caller
%% is killed meanwhile.
-spec end_apart(pid(), gen_tracker:shutdown()) -> ok.
end_apart(Pid, Shutdown) ->
    End = fun() -> end_process(Pid, Shutdown) end,
    try spawn_monitor(End) of
        {Helper, Monitor} ->
            receive
                {'DOWN', Monitor, process, Helper, _} -> ok
            end
    catch
        %% There can be no more processes.
        error:system_limit -> End()
    end.

end_process(Pid, Shutdown) ->
    Monitor = monitor(process, Pid),
    exit(Pid, signal(Shutdown)),
    Time =
        case Shutdown of
            infinity -> infinity;
            _ -> start_patience(Shutdown)
        end,
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    after Time ->
        exit(Pid, kill),
        receive
            {'DOWN', Monitor, process, Pid, _} -> ok
        end
    end.

signal(brutal_kill) -> kill;
signal(_) -> shutdown.

await_end(Pid, Monitor, Deadline) ->
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        exit(Pid, kill),
        receive
            {'DOWN', Monitor, process, Pid, _} -> ok
        end
    end.
