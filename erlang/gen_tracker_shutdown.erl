%% @private
%% Stops a zone: all children at the same time, with the starts and cleanups that are in progress.
%% The tracker calls this when it stops; its watchdog does when the tracker was killed.
%%
%% Once the zone is marked as stopping, no keeper registers or restarts a child. Each keeper is
%% told to stop its child. A start may take as long as its child's shutdown, an `after_terminate'
%% that long or 3 s, whichever is longer (`infinity' counts as 60 s for both); then the keeper is
%% killed. The time limit of a keeper that was already in `after_terminate' is started when the
%% table is read; a keeper that comes there later starts it itself, with
%% `{Tag, overtime, Keeper, cleanup}'.
%%
%% Keepers are monitored here, because a start function may unlink them. The child of a keeper
%% that was killed is stopped in its place.
-module(gen_tracker_shutdown).

-export([start_watchdog/2, stop/3, end_apart/2, inherit/4, overtime/3, refusal/1, is_order/1]).
-export([init_watchdog/3, watch/3]).

-include_lib("kernel/include/logger.hrl").

%% How long the processes of a start that is ended may take to exit before they are killed, in
%% milliseconds.
-define(GRACE, 200).
%% How often the watchdog checks for children that have ended, in milliseconds.
-define(TICK, 1000).

-record(stop, {
    context :: context(),
    handle :: proctab_nif:handle(),
    keepers = #{} :: #{Keeper :: pid() => keeper()},
    %% Children of keepers that were killed, and helper processes that end a start.
    others = #{} :: #{Monitor :: reference() => pid()},
    %% Processes that start functions left linked to their keepers, with those keepers.
    inherited :: inherited()
}).

-type context() :: #{tag := reference(), zone := gen_tracker:zone(), _ => _}.
-type inherited() :: #{pid() => Keeper :: pid()}.
-type keeper() :: {Monitor :: reference(), Child :: pid() | registrar | undefined,
                   gen_tracker:shutdown(),
                   %% When the watchdog first saw the child dead, in milliseconds.
                   Ended :: integer() | undefined}.

%%% The watchdog

%% @doc Starts the watchdog, which stops the zone when the tracker was killed. It is linked to the
%% calling tracker and monitored by it. The `DOWN' message is
%% `{{Tag, watchdog}, Monitor, process, Pid, Reason}'.
-spec start_watchdog(proctab_nif:handle(), context()) -> pid().
start_watchdog(Handle, #{tag := Tag, zone := Zone}) ->
    Options = [link, {monitor, [{tag, {Tag, watchdog}}]}],
    Args = [self(), Handle, #{tag => Tag, zone => Zone}],
    {Watchdog, _} = proc_lib:spawn_opt(?MODULE, init_watchdog, Args, Options),
    ok = proctab_nif:watchdog(Handle, Watchdog),
    Watchdog.

%% @private
-spec init_watchdog(Tracker :: pid(), proctab_nif:handle(), context()) -> no_return().
init_watchdog(Tracker, Handle, #{zone := Zone} = Context) ->
    process_flag(trap_exit, true),
    gen_tracker_reports:set_label({?MODULE, Zone}),
    proc_lib:hibernate(?MODULE, watch, [monitor(process, Tracker), Handle, Context]).

%% @private
-spec watch(Monitor :: reference(), proctab_nif:handle(), context()) -> ok.
watch(Monitor, Handle, #{tag := Tag} = Context) ->
    receive
        {'DOWN', Monitor, process, _, _} ->
            %% Keepers send their time limits to the tracker, which is gone. So this checks them.
            self() ! {Tag, tick},
            stop(Handle, Context, #{});
        Message ->
            is_order(Message) andalso exit(shutdown),
            proc_lib:hibernate(?MODULE, watch, [Monitor, Handle, Context])
    end.

%%% Stopping

%% @doc Stops all children of a zone, and returns when they and their keepers have ended. Requests
%% that arrive meanwhile are answered with {@link refusal/1}.
-spec stop(proctab_nif:handle(), context(), inherited()) -> ok.
stop(Handle, Context, Inherited) ->
    ok = proctab_nif:zone_stop(Handle),
    Stop = stop_registrars(#stop{context = Context, handle = Handle, inherited = Inherited}),
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

%% Tells the registrars to stop their children, and waits until none of them gives a row to a keeper
%% any more. Otherwise the keeper could get the row after it was read here.
stop_registrars(#stop{context = #{tag := Tag}, handle = Handle} = Stop) ->
    Registrars = [{Pid, monitor(process, Pid)} || Pid <- proctab_nif:registrars(Handle)],
    lists:foreach(fun({Pid, _}) -> gen_tracker_registrar:stop_zone(Pid, Tag) end, Registrars),
    lists:foldl(fun await_registrar/2, Stop, Registrars).

await_registrar({Pid, Monitor}, #stop{context = #{tag := Tag}, keepers = Keepers} = Stop) ->
    receive
        {Tag, gives_nothing, Pid} ->
            Stop#stop{keepers = Keepers#{Pid => {Monitor, registrar, 0, undefined}}};
        {'DOWN', Monitor, process, Pid, shutdown} ->
            Stop;
        {'DOWN', Monitor, process, Pid, _} ->
            end_registered(Pid, Stop)
    end.

%% Stops the children of a registrar that was killed.
end_registered(Registrar, #stop{handle = Handle} = Stop) ->
    lists:foldl(
        fun
            ({_, running, Child, Keeper, {_, _, Shutdown, _, _}}, Before)
                    when Keeper =:= Registrar ->
                end_child(Child, Shutdown, Before);
            (_, Before) ->
                Before
        end,
        Stop,
        children(Handle)
    ).

stop_child({_, _, _, Keeper, _}, #stop{keepers = Keepers} = Stop)
        when is_map_key(Keeper, Keepers) ->
    %% It is the child of a registrar.
    Stop;
stop_child({_Name, State, Child, Keeper, {_, _, Shutdown, _, _}}, Stop) ->
    #stop{context = #{tag := Tag}, keepers = Keepers} = Stop,
    Monitor = monitor(process, Keeper),
    gen_tracker_keeper:stop_zone(Keeper, Tag),
    case State of
        terminating ->
            Time = gen_tracker_spec:cleanup_timeout(Shutdown),
            after_time(Time, {overtime, Keeper, cleanup}, Stop);
        _ when State =:= launching; State =:= restarting ->
            Time = gen_tracker_spec:start_timeout(Shutdown),
            after_time(Time, {overtime, Keeper, start}, Stop);
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
            gen_tracker_keeper:died(Keeper, Stop#stop.context, Child, Reason),
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
        _ -> await(Stop)
    end.

%% @doc Returns the answer to a request while the zone stops.
-spec refusal(Request :: term()) -> ok | refused | {error, shutdown}.
%% The calling process cannot end before it has this answer.
refusal({unregister, _}) -> ok;
refusal({await_start, _}) -> ok;
%% Any other answer would make the callback ask again until its time is over.
refusal({look_up, _, _}) -> refused;
refusal({await_child, _, _}) -> refused;
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
    Check = fun(Keeper, Its) -> check_cleanup(Keeper, Its, Stop) end,
    Stop#stop{keepers = maps:map(Check, Keepers)};
told(_, Stop) ->
    Stop.

down(Pid, Monitor, Reason, #stop{keepers = Keepers, others = Others} = Stop) ->
    case Keepers of
        #{Pid := {Monitor, Child, Shutdown, _}} ->
            Left = Stop#stop{keepers = maps:remove(Pid, Keepers)},
            case {Reason, Child} of
                {shutdown, _} -> Left;
                {_, undefined} -> Left;
                {_, registrar} -> end_registered(Pid, Left);
                _ -> end_child(Child, Shutdown, Left)
            end;
        _ ->
            Stop#stop{others = maps:remove(Monitor, Others)}
    end.

%% Stops the child of a keeper that was killed.
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

%% For the watchdog: checks whether a child has ended, and kills its keeper when `after_terminate'
%% has exceeded its time limit.
check_cleanup(_, {Monitor, Child, Shutdown, undefined}, _) when is_pid(Child) ->
    case gen_tracker_keeper:is_alive(Child) of
        true -> {Monitor, Child, Shutdown, undefined};
        false -> {Monitor, Child, Shutdown, erlang:monotonic_time(millisecond)}
    end;
check_cleanup(Keeper, {_, _, Shutdown, Ended} = Its, Stop) when is_integer(Ended) ->
    Elapsed = erlang:monotonic_time(millisecond) - Ended,
    IsOver = Elapsed >= gen_tracker_spec:cleanup_timeout(Shutdown),
    #stop{handle = Handle, context = Context} = Stop,
    _ = IsOver andalso kill_cleanup(Keeper, proctab_nif:kept(Handle, Keeper), Context),
    Its;
check_cleanup(_, Its, _) ->
    Its.

exited(Pid, #stop{inherited = Inherited} = Stop) ->
    Stop#stop{inherited = maps:remove(Pid, Inherited)}.

%% @doc Returns whether a message is the order of a zone to stop, because the caller is a child of
%% that zone: an exit signal of its keeper there. (A tracker that a keeper has started has the
%% keeper as its parent, whose exit signals `gen_server' handles.)
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
        undefined -> lists:member(Keeper, proctab_nif:registrars(Zone)) andalso is_watched(Keeper)
    catch
        error:badarg -> false
    end.

%% A registrar monitors its children.
is_watched(Registrar) ->
    {monitored_by, Watching} = process_info(self(), monitored_by),
    lists:member(Registrar, Watching).

%% Another zone waits for the end of this one. Children of this zone that are trackers may,
%% directly or not, wait for that zone. They were told to stop, and this zone does not wait for
%% them.
without_trackers(#stop{keepers = Keepers} = Stop) ->
    Trackers = [Owner || {zone, _, Owner} <- proctab_nif:tables()],
    IsOther = fun(_, {_, Child, _, _}) -> not lists:member(Child, Trackers) end,
    Stop#stop{keepers = maps:filter(IsOther, Keepers)}.

%% @doc Links the calling tracker to processes that are linked to a keeper, which waits for that.
-spec inherit(Keeper :: pid(), Tag :: reference(), [pid()], inherited()) -> inherited().
inherit(Keeper, Tag, Pids, Inherited) ->
    lists:foreach(fun link/1, Pids),
    gen_tracker_keeper:inherited(Keeper, Tag),
    maps:merge(Inherited, maps:from_keys(Pids, Keeper)).

%% A `gen_server' whose parent was the keeper stops only on an exit signal of the keeper.
end_inherited(Pid, Keeper) ->
    Pid ! {'EXIT', Keeper, shutdown},
    exit(Pid, shutdown).

%%% Time limits

%% @doc Ends the start or the `after_terminate' that a keeper runs, if it still does. The time
%% limit of that is over. For a tracker that does not stop.
-spec overtime(Keeper :: pid(), start | cleanup, context()) -> ok.
overtime(Keeper, What, #{zone := Zone} = Context) ->
    end_overtime(Keeper, What, Zone, Context, ok, fun(EndStart) -> _ = spawn(EndStart), ok end).

%% Likewise while the zone stops, which waits until the start has been ended.
end_overtime(Keeper, What, #stop{handle = Handle, context = Context, others = Others} = Stop) ->
    end_overtime(Keeper, What, Handle, Context, Stop, fun(EndStart) ->
        try spawn_monitor(EndStart) of
            {Helper, Monitor} -> Stop#stop{others = Others#{Monitor => Helper}}
        catch
            error:system_limit -> EndStart(), Stop
        end
    end).

%% `Run' runs the fun that ends a start, outside of the calling process. Its result, or else
%% `Result'.
end_overtime(Keeper, What, Table, Context, Result, Run) ->
    case {What, proctab_nif:kept(Table, Keeper)} of
        {start, {_, State, _, {_, _, Shutdown, _, _}}}
                when State =:= launching; State =:= restarting ->
            Run(fun() -> end_start(Keeper, Shutdown) end);
        {cleanup, {_, terminating, _, _} = Kept} ->
            kill_cleanup(Keeper, Kept, Context),
            Result;
        _ ->
            Result
    end.

kill_cleanup(_, undefined, _) ->
    ok;
kill_cleanup(Keeper, {Name, _, _, {MFA, _, Shutdown, _, _}}, #{zone := Zone}) ->
    ?LOG_ERROR(#{label => {gen_tracker, after_terminate_killed}, zone => Zone, name => Name,
                 module => module(MFA), after_ms => gen_tracker_spec:cleanup_timeout(Shutdown)}),
    exit(Keeper, kill),
    ok.

module({Module, _, _}) -> Module;
module(undefined) -> undefined.

%% Ends a keeper that runs a start function, after the processes that the function has started so
%% far.
end_start(Keeper, Shutdown) ->
    %% Suspended, it starts no process after `started_by/1' and before its end.
    _ = try erlang:suspend_process(Keeper) catch error:badarg -> ended end,
    Started = [{Pid, monitor(process, Pid)} || Pid <- gen_tracker_keeper:started_by(Keeper)],
    lists:foreach(fun({Pid, _}) -> exit(Pid, signal(Shutdown)) end, Started),
    Deadline = erlang:monotonic_time(millisecond) + ?GRACE,
    lists:foreach(
        fun({Pid, Monitor}) ->
            await_end(Pid, Monitor, max(0, Deadline - erlang:monotonic_time(millisecond)))
        end,
        Started
    ),
    exit(Keeper, kill).

%% @doc Stops a process as a shutdown demands, and returns when it has ended. The process ends
%% even if the caller is killed meanwhile.
-spec end_apart(pid(), gen_tracker:shutdown()) -> ok.
end_apart(Pid, Shutdown) ->
    End = fun() -> end_process(Pid, Shutdown) end,
    try spawn_monitor(End) of
        {Helper, Monitor} ->
            receive
                {'DOWN', Monitor, process, Helper, _} -> ok
            end
    catch
        error:system_limit -> End()
    end.

end_process(Pid, Shutdown) ->
    Monitor = monitor(process, Pid),
    exit(Pid, signal(Shutdown)),
    Time =
        case Shutdown of
            brutal_kill -> infinity;
            _ -> Shutdown
        end,
    await_end(Pid, Monitor, Time).

signal(brutal_kill) -> kill;
signal(_) -> shutdown.

%% Waits for the end of a process, and kills it after the time.
await_end(Pid, Monitor, Time) ->
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    after Time ->
        exit(Pid, kill),
        await_end(Pid, Monitor, infinity)
    end.
