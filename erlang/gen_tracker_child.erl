%% @private
%% The process beside each child of a zone: its keeper.
%%
%% A keeper is linked to the tracker, and parent of its child: it runs the start function, so that a slow start holds up nobody, waits for
%% the child's death, runs `after_terminate', cleans up, and starts the child again where its restart type says so. It needs the
%% tracker for none of this; the tracker decides who may have a name, and answers those who wait for one.
%%
%%   tracker                                keeper
%%      | spawn_link, insert into the table    |
%%      | -- {launch | attach | adopt, ...} -> |   attach comes before the insertion,
%%      | -- attached -----------------------> |   and this after it
%%      |                                      | start function, running/3 in the table; or a monitor of the attached child
%%      | -- died ---------------------------> |   why the attached child ended, which the keeper's monitor may have come too late to know
%%      | <- {launched, Keeper, Result} ------ |
%%      | -- stop ---------------------------> |   stop the child and forget it
%%      | -- retry --------------------------> |   do not wait any longer before the next start
%%      |           the table -- detached ---> |   somebody has unregistered the child, which belongs to nobody now
%%      | <- EXIT normal --------------------- |   name and attributes have left the table
%%
%% The child's state is always written to the table before the tracker is told, so that what the tracker reads there is never older than
%% the messages that it has handled.
%%
%% A keeper traps exits, as every parent of OTP processes does, and so does not notice its tracker's death while it is inside a start
%% function. Those keepers are ended from outside: by the tracker when it stops, and when it was killed by the zone's guard, a process
%% that does nothing else. All other keepers see the exit signal of the tracker and stop their children themselves.
%%
%% A keeper ends with the reason `shutdown', and what a start function has linked to it and left behind ends, too.
%%
%% Keepers and guards hibernate while they wait: they keep no memory, and no old code when this module is reloaded.
-module(gen_tracker_child).

-export([check/1, to_map/2]).
-export([start/1, launch/4, attach/5, attached/1, died/3, adopt/4, stop/1, retry/1, discard/1, await_registered/1]).
-export([start_guard/1, stop_all/1]).
-export([init/1, loop/1, pending/2, guard/2]).

-export_type([spec/0, result/0]).

-include_lib("kernel/include/logger.hrl").

-type spec() :: {MFA :: gen_tracker:mfargs() | undefined, gen_tracker:restart(), gen_tracker:shutdown(),
                 gen_tracker:child_type(), gen_tracker:modules()}.
-type result() :: gen_tracker:start_result().

-record(child, {
    tracker :: pid(),
    zone :: gen_tracker:zone(),
    name :: gen_tracker:name(),
    spec :: spec(),
    restarts :: boolean(),
    pid :: pid() | undefined,
    monitor :: reference() | undefined,
    %% Milliseconds until the next try, after a start that failed.
    delay = 50 :: pos_integer()
}).

-define(MORE_DELAY, 150).
-define(LONGEST_DELAY, 5000).
%% The longest time that a process can wait for a message, in milliseconds.
-define(LONGEST_WAIT, 16#ffffffff).

%% What a keeper is told. Start functions run in its process, which may be sent anything else.
-define(STOP, {?MODULE, stop}).
-define(RETRY, {?MODULE, retry}).
-define(ATTACHED, {?MODULE, attached}).
-define(DETACHED, '$proctab_detached').

%%% Child specs

%% @doc The name and the spec that any of the forms of a child spec says; the error is that of `supervisor:check_childspecs/1'.
-spec check(term()) -> {ok, gen_tracker:name(), spec()} | {error, term()}.
check({Name, MFA, Restart}) ->
    check({Name, MFA, Restart, 200, worker, []});
check(Spec) ->
    try supervisor:check_childspecs([Spec]) of
        ok -> normalize(Spec);
        {error, Reason} -> {error, Reason}
    catch
        %% A list of modules without an end: OTP 29 raises what others answer.
        error:Reason:Stack -> {error, {'EXIT', {Reason, Stack}}}
    end.

normalize({Name, MFA, Restart, Shutdown, Type, Mods}) when is_integer(Shutdown), Shutdown > ?LONGEST_WAIT ->
    normalize({Name, MFA, Restart, ?LONGEST_WAIT, Type, Mods});
normalize({Name, MFA, Restart, Shutdown, Type, Mods}) ->
    {ok, Name, {MFA, Restart, Shutdown, Type, Mods}};
normalize(#{id := Name, start := {Module, _, _} = MFA} = Spec) ->
    Type = maps:get(type, Spec, worker),
    Shutdown =
        case Type of
            worker -> 5000;
            supervisor -> infinity
        end,
    normalize({Name, MFA, maps:get(restart, Spec, permanent), maps:get(shutdown, Spec, Shutdown), Type,
               maps:get(modules, Spec, [Module])}).

%% @doc A child spec as `supervisor:get_childspec/2' gives it.
-spec to_map(gen_tracker:name(), spec()) -> map().
to_map(Name, {MFA, Restart, Shutdown, Type, Mods}) ->
    #{id => Name, start => MFA, restart => Restart, significant => false, shutdown => Shutdown, type => Type,
      modules => Mods}.

%%% For the tracker

%% @doc A new keeper, linked to the calling tracker. It waits to be told what to do.
-spec start(gen_tracker:zone()) -> pid().
start(Zone) ->
    proc_lib:spawn_link(?MODULE, init, [{self(), Zone}]).

%% @doc Has a keeper start its child.
-spec launch(pid(), gen_tracker:name(), spec(), Restarts :: boolean()) -> ok.
launch(Keeper, Name, Spec, Restarts) ->
    Keeper ! {launch, Name, Spec, Restarts},
    ok.

%% @doc Gives a keeper a child that runs, and that is about to be put into the table; {@link attached/1} says that it is.
%%
%% The tracker has a monitor as well, until it is told `launched': the keeper's may come too late to know why the child ends. What it sends,
%% `{{attached, Keeper}, Monitor, process, Child, Reason}', is to be passed on.
-spec attach(pid(), gen_tracker:name(), spec(), Restarts :: boolean(), Child :: pid()) -> Monitor :: reference().
attach(Keeper, Name, Spec, Restarts, Child) ->
    Monitor = monitor_now(Child, [{tag, {attached, Keeper}}]),
    Keeper ! {attach, Name, Spec, Restarts, Child},
    Monitor.

%% @doc The child that a keeper was given is in the table.
-spec attached(pid()) -> ok.
attached(Keeper) ->
    Keeper ! ?ATTACHED,
    ok.

%% @doc Passes that on.
-spec died(pid(), Child :: pid(), Reason :: term()) -> ok.
died(Keeper, Child, Reason) ->
    Keeper ! {?MODULE, died, Child, Reason},
    ok.

%% @doc Gives a keeper the child of one that died for `Reason', in whatever state it is.
-spec adopt(pid(), gen_tracker:name(), Restarts :: boolean(), Reason :: term()) -> ok.
adopt(Keeper, Name, Restarts, Reason) ->
    Keeper ! {adopt, Name, Restarts, Reason},
    ok.

%% @doc Has a keeper stop its child and forget it.
-spec stop(pid()) -> ok.
stop(Keeper) ->
    Keeper ! ?STOP,
    ok.

%% @doc Has a keeper wait no longer before it starts its child again.
-spec retry(pid()) -> ok.
retry(Keeper) ->
    Keeper ! ?RETRY,
    ok.

%% @doc Ends a keeper that was told nothing yet.
-spec discard(pid()) -> ok.
discard(Keeper) ->
    unlink(Keeper),
    exit(Keeper, kill),
    receive
        {'EXIT', Keeper, _} -> ok
    after 0 -> ok
    end.

%% @doc For a child that has acknowledged its start to its parent: waits until it is registered, if that parent is a keeper.
-spec await_registered(Parent :: pid()) -> ok.
await_registered(Parent) ->
    case proc_lib:initial_call(Parent) of
        {?MODULE, init, _} ->
            Monitor = monitor(process, Parent),
            Parent ! {registered, self(), Monitor},
            receive
                {registered, Monitor} ->
                    demonitor(Monitor, [flush]),
                    ok;
                {'DOWN', Monitor, process, _, _} ->
                    ok
            end;
        _ ->
            ok
    end.

%%% The keeper

%% @private
-spec init({Tracker :: pid(), gen_tracker:zone()}) -> no_return().
init({Tracker, Zone}) ->
    process_flag(trap_exit, true),
    keep(Tracker, Zone),
    exit(shutdown).

keep(Tracker, Zone) ->
    receive
        {launch, Name, Spec, Restarts} ->
            Child = #child{tracker = Tracker, zone = Zone, name = Name, spec = Spec, restarts = Restarts},
            launch_first(Child);
        {attach, Name, Spec, Restarts, Pid} ->
            Child = #child{tracker = Tracker, zone = Zone, name = Name, spec = Spec, restarts = Restarts},
            Watched = Child#child{pid = Pid, monitor = monitor_now(Pid, [])},
            receive
                ?ATTACHED -> look(Watched);
                {'EXIT', Tracker, _} -> ok
            end;
        {adopt, Name, Restarts, Reason} ->
            %% The keeper before us was killed, and what it knew is in the table.
            case own(fun proctab_nif:child/2, [Zone, Name]) of
                {State, Pid, Keeper, Spec} when Keeper =:= self() ->
                    Child = #child{tracker = Tracker, zone = Zone, name = Name, spec = Spec, restarts = Restarts},
                    adopted(State, Pid, Child, Reason);
                _ ->
                    %% Its child was unregistered meanwhile, or its zone has gone.
                    ok
            end;
        {'EXIT', Tracker, _} ->
            ok
    end.

launch_first(Child) ->
    case start_child(Child) of
        {started, Running} ->
            wait(Running);
        {failed, Result} ->
            remove(Child),
            tell_launched(Child, Result)
    end.

%% If the process is alive, the monitor, which was sent before, will know why it ends. If it is not, and was dead before there was a monitor, the tracker knows, who has had
%% one for longer, and has it until it is told.
look(#child{tracker = Tracker, pid = Pid, monitor = Monitor} = Child) ->
    case is_process_alive(Pid) of
        true ->
            tell_launched(Child, {ok, Pid}),
            wait(Child);
        false ->
            receive
                {'DOWN', Monitor, process, Pid, noproc} ->
                    receive
                        {?MODULE, died, Pid, Reason} -> attached_dead(Child, Reason);
                        {'EXIT', Tracker, _} ->
                            after_terminate(Child, exit_reason(Pid, noproc)),
                            remove(Child)
                    end;
                {'DOWN', Monitor, process, Pid, Reason} ->
                    attached_dead(Child, Reason)
            end
    end.

attached_dead(#child{pid = Pid} = Child, Reason) ->
    tell_launched(Child, {ok, Pid}),
    terminated(Child, exit_reason(Pid, Reason)).

adopted(running, Pid, Child, _) ->
    %% There may have been no time to tell.
    tell_launched(Child, {ok, Pid}),
    wait(watch(Pid, Child));
adopted(launching, _, Child, Reason) ->
    remove(Child),
    tell_launched(Child, {error, Reason});
adopted(terminating, _, Child, Reason) ->
    %% after_terminate may have been called, and is never called twice.
    cleaned_up(Child, Reason);
adopted(restarting, _, Child, Reason) ->
    not_restarted(Child, {error, Reason});
adopted(pending, _, Child, _) ->
    restart(Child).

%% Runs the start function, and registers what it started.
start_child(#child{spec = {MFA, _, _, _, _}} = Child) ->
    case call_start(MFA) of
        {ok, Pid} = Result when node(Pid) =:= node() ->
            registered(Pid, Result, Child);
        {ok, Pid, _} = Result when node(Pid) =:= node() ->
            registered(Pid, Result, Child);
        ignore ->
            {failed, ignore};
        {error, Reason} ->
            {failed, {error, Reason}};
        Other ->
            {failed, {error, {bad_return_value, Other}}}
    end.

call_start({Module, Function, Args}) ->
    try
        apply(Module, Function, Args)
    catch
        Class:Reason:Stacktrace ->
            ?LOG_ERROR(#{label => {gen_tracker, start_error}, start => {Module, Function, length(Args)}, class => Class,
                         reason => Reason, stacktrace => Stacktrace}),
            {error, crash_reason(Class, Reason)}
    end.

crash_reason(throw, Value) -> {nocatch, Value};
crash_reason(_, Reason) -> Reason.

registered(Pid, Result, #child{zone = Zone, name = Name} = Child) ->
    Running = watch(Pid, Child#child{delay = 50}),
    case own(fun proctab_nif:running/3, [Zone, Name, Pid]) of
        true ->
            tell_launched(Child, Result),
            {started, Running};
        stopping ->
            forget(Running),
            exit(shutdown);
        false ->
            %% The zone has gone meanwhile.
            _ = stop_child(Running),
            exit(shutdown)
    end.

tell_launched(#child{tracker = Tracker}, Result) ->
    Tracker ! {launched, self(), Result},
    ok.

%% A process may keep its latest monitor to itself for as long as it runs. This one has been sent, for the next one pushed it out, and its own end that one.
monitor_now(Pid, Options) ->
    Monitor = monitor(process, Pid, Options),
    true = demonitor(monitor(process, Pid), [flush]),
    Monitor.

watch(Pid, Child) ->
    Child#child{pid = Pid, monitor = monitor(process, Pid)}.

wait(Child) ->
    proc_lib:hibernate(?MODULE, loop, [Child]).

%% @private While the child runs.
-spec loop(#child{}) -> no_return().
loop(#child{tracker = Tracker, pid = Pid, monitor = Monitor} = Child) ->
    receive
        {registered, Asking, Ref} ->
            Asking ! {registered, Ref},
            wait(Child);
        {'DOWN', Monitor, process, Pid, Reason} ->
            terminated(Child, exit_reason(Pid, Reason));
        {'EXIT', Pid, Reason} ->
            case is_process_alive(Pid) of
                true -> wait(Child);
                false -> terminated(Child, down(Pid, Monitor, Reason))
            end;
        {'EXIT', Tracker, _} ->
            forget(Child);
        ?STOP ->
            forget(Child);
        ?DETACHED ->
            ok;
        _ ->
            wait(Child)
    end,
    exit(shutdown).

%% The monitor of a child that was dead before it was monitored does not know the reason; the exit signal of a child that is linked does.
down(Pid, Monitor, Told) ->
    receive
        {'DOWN', Monitor, process, Pid, noproc} -> Told;
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    end.

exit_reason(Pid, noproc) ->
    %% The exit signal may not have come yet; as long as there is a link, it will.
    {links, Links} = process_info(self(), links),
    Patience =
        case lists:member(Pid, Links) of
            true -> infinity;
            false -> 0
        end,
    receive
        {'EXIT', Pid, Reason} -> Reason
    after Patience -> noproc
    end;
exit_reason(_, Reason) ->
    Reason.

terminated(Child, Reason) ->
    after_terminate(Child, Reason),
    cleaned_up(Child, Reason).

cleaned_up(Child, Reason) ->
    case restarts(Child, Reason) andalso not is_stopping(Child) of
        true -> restart(Child);
        false -> remove(Child)
    end.

restarts(#child{restarts = false}, _) -> false;
restarts(#child{spec = {_, permanent, _, _, _}}, _) -> true;
restarts(#child{spec = {_, temporary, _, _, _}}, _) -> false;
restarts(#child{spec = {_, transient, _, _, _}}, normal) -> false;
restarts(#child{spec = {_, transient, _, _, _}}, shutdown) -> false;
restarts(#child{spec = {_, transient, _, _, _}}, {shutdown, _}) -> false;
restarts(#child{spec = {_, transient, _, _, _}}, _) -> true.

restart(#child{zone = Zone, name = Name} = Child) ->
    %% In this order: a tracker that is going to stop sends its exit signal before it looks for keepers inside a start.
    Own = own(fun proctab_nif:restarting/2, [Zone, Name]),
    case Own andalso not is_stopping(Child) of
        true ->
            case start_child(Child) of
                {started, Running} -> wait(Running);
                {failed, Result} -> not_restarted(Child, Result)
            end;
        false ->
            remove(Child)
    end.

not_restarted(#child{spec = {_, permanent, _, _, _}} = Child, {error, Reason}) ->
    #child{tracker = Tracker, zone = Zone, name = Name, delay = Delay} = Child,
    drain(Tracker),
    _ = own(fun proctab_nif:pending/2, [Zone, Name]),
    tell_launched(Child, {error, Reason}),
    proc_lib:hibernate(?MODULE, pending, [Child, erlang:send_after(Delay, self(), ?RETRY)]);
not_restarted(#child{name = Name} = Child, Result) ->
    ?LOG_ERROR(#{label => {gen_tracker, not_restarted}, name => Name, result => Result}),
    remove(Child),
    tell_launched(Child, Result).

%% Takes what has come since the last try: requests that it has answered, and the ends of processes that were linked to this one.
drain(Tracker) ->
    receive
        ?RETRY -> drain(Tracker);
        {'EXIT', Pid, _} when Pid =/= Tracker -> drain(Tracker)
    after 0 -> ok
    end.

%% @private Until the next try to start the child again.
-spec pending(#child{}, Timer :: reference()) -> no_return().
pending(#child{tracker = Tracker} = Child, Timer) ->
    receive
        ?RETRY ->
            _ = erlang:cancel_timer(Timer),
            restart(later(Child));
        ?STOP ->
            remove(Child);
        {'EXIT', Tracker, _} ->
            remove(Child);
        _ ->
            proc_lib:hibernate(?MODULE, pending, [Child, Timer])
    end,
    exit(shutdown).

later(#child{delay = Delay} = Child) ->
    Child#child{delay = min(Delay + ?MORE_DELAY, ?LONGEST_DELAY)}.

%% Whether somebody wants the child to be gone.
is_stopping(#child{tracker = Tracker}) ->
    receive
        {'EXIT', Tracker, _} -> true;
        ?STOP -> true
    after 0 -> false
    end.

forget(Child) ->
    Reason = stop_child(Child),
    after_terminate(Child, Reason),
    remove(Child).

remove(#child{zone = Zone, name = Name}) ->
    _ = own(fun proctab_nif:remove/2, [Zone, Name]),
    ok.

%% What a keeper says to the table is `false' when its child is no longer there, or the zone: then it belongs to nobody.
own(Function, Args) ->
    try
        apply(Function, Args)
    catch
        error:badarg -> false
    end.

stop_child(#child{pid = Pid, monitor = Monitor, spec = {_, _, Shutdown, _, _}}) ->
    end_process(Pid, Monitor, Shutdown).

%% Ends a monitored process as a shutdown says; the reason of its exit.
end_process(Pid, Monitor, brutal_kill) ->
    exit(Pid, kill),
    down(Pid, Monitor);
end_process(Pid, Monitor, Shutdown) ->
    exit(Pid, shutdown),
    await_end(Pid, Monitor, Shutdown).

await_end(Pid, Monitor, Shutdown) ->
    receive
        {registered, Asking, Ref} ->
            %% The child itself may be waiting for this, once.
            Asking ! {registered, Ref},
            await_end(Pid, Monitor, Shutdown);
        {'DOWN', Monitor, process, Pid, Reason} ->
            exit_reason(Pid, Reason)
    after Shutdown ->
        exit(Pid, kill),
        down(Pid, Monitor)
    end.

down(Pid, Monitor) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> exit_reason(Pid, Reason)
    end.

after_terminate(#child{zone = Zone, name = Name, spec = {MFA, _, _, _, _}}, Reason) ->
    %% The attributes go with the zone, and another zone's are none of ours.
    Own = own(fun proctab_nif:terminating/3, [Zone, Name, Reason]),
    case callback(MFA) of
        undefined ->
            ok;
        {Module, Arity} ->
            Attrs =
                case Own of
                    false -> [];
                    _ -> attributes(Zone, Name)
                end,
            Args = lists:sublist([Name, Attrs, Reason], Arity),
            try apply(Module, after_terminate, Args) of
                _ -> ok
            catch
                Class:Error:Stacktrace ->
                    ?LOG_ERROR(#{label => {gen_tracker, after_terminate_error}, name => Name, module => Module,
                                 class => Class, reason => Error, stacktrace => Stacktrace}),
                    ok
            end
    end.

attributes(Zone, Name) ->
    try
        proctab_nif:attrs(Zone, Name)
    catch
        error:badarg -> []
    end.

callback(undefined) ->
    undefined;
callback({Module, _, _}) ->
    _ = code:ensure_loaded(Module),
    case {erlang:function_exported(Module, after_terminate, 3), erlang:function_exported(Module, after_terminate, 2)} of
        {true, _} -> {Module, 3};
        {_, true} -> {Module, 2};
        _ -> undefined
    end.

%%% The end of a zone

%% @doc The guard of a zone: should the tracker be killed, it ends what is inside a start function. Linked to the calling tracker.
-spec start_guard(proctab_nif:handle()) -> pid().
start_guard(Handle) ->
    Tracker = self(),
    proc_lib:spawn_link(fun() ->
        process_flag(trap_exit, true),
        proc_lib:hibernate(?MODULE, guard, [Tracker, Handle])
    end).

%% @private
-spec guard(Tracker :: pid(), proctab_nif:handle()) -> ok.
guard(Tracker, Handle) ->
    receive
        {'EXIT', Tracker, _} ->
            %% From here on no keeper of this zone starts a child again.
            ok = proctab_nif:zone_close(Handle),
            lists:foreach(fun await/1, end_launching(Handle)),
            end_orphans(maps:from_list([
                {monitor(process, Keeper), {Pid, Shutdown}}
             || {_, running, Pid, Keeper, {_, _, Shutdown, _, _}} <- children(Handle, 0, [])
            ]));
        _ ->
            proc_lib:hibernate(?MODULE, guard, [Tracker, Handle])
    end.

%% Keepers that were killed shortly before the tracker have left their children behind.
end_orphans(Keepers) when map_size(Keepers) =:= 0 ->
    ok;
end_orphans(Keepers) ->
    receive
        {'DOWN', Keeper, process, _, _} when is_map_key(Keeper, Keepers) ->
            {{Pid, Shutdown}, Rest} = maps:take(Keeper, Keepers),
            _ = [spawn(fun() -> end_process(Pid, monitor(process, Pid), Shutdown) end) || is_process_alive(Pid)],
            end_orphans(Rest);
        _ ->
            end_orphans(Keepers)
    end.

%% @doc Stops all children of a zone at the same time, and returns when they and their keepers are gone. For the tracker.
-spec stop_all(proctab_nif:handle()) -> ok.
stop_all(Handle) ->
    %% Before the first child is told to stop: its end may be the end of others, whose keepers hear of that sooner than of ours.
    ok = proctab_nif:zone_stop(Handle),
    Keepers = maps:from_list([{Keeper, Pid} || {_, _, Pid, Keeper, _} <- children(Handle, 0, [])]),
    Tracker = self(),
    %% Not by a signal: a keeper that has not run yet would die of it, and not stop its child.
    ok = maps:foreach(fun(Keeper, _) -> Keeper ! {'EXIT', Tracker, shutdown} end, Keepers),
    %% Those that are inside a start function by now have not seen the signal.
    lists:foreach(fun await/1, end_launching(Handle)),
    await_keepers(Keepers),
    proctab_nif:zone_close(Handle).

await_keepers(Keepers) when map_size(Keepers) =:= 0 ->
    ok;
await_keepers(Keepers) ->
    receive
        {'$gen_call', {Keeper, _} = From, _} when is_map_key(Keeper, Keepers) ->
            %% From after_terminate: its keeper cannot wait for our end, as we wait for its.
            gen_server:reply(From, {error, shutdown}),
            await_keepers(Keepers);
        {'$gen_call', From, {unregister, _}} ->
            %% From whoever ends, for whom somebody may be waiting. The name goes with the zone.
            gen_server:reply(From, ok),
            await_keepers(Keepers);
        {'ETS-TRANSFER', Subscribers, _, {gen_tracker_events, Zone}} ->
            gen_tracker_events:lost(Zone, Subscribers),
            await_keepers(Keepers);
        {'EXIT', Keeper, Reason} when is_map_key(Keeper, Keepers) ->
            {Pid, Rest} = maps:take(Keeper, Keepers),
            %% A keeper that was killed has left its child behind.
            _ = [end_process(Pid, monitor(process, Pid), brutal_kill) || Reason =/= shutdown, is_pid(Pid)],
            await_keepers(Rest);
        _ ->
            %% Requests that nobody will answer: who sent them sees the tracker die.
            await_keepers(Keepers)
    end.

end_launching(Handle) ->
    [spawn_monitor(fun() -> end_start(Keeper, Shutdown) end)
     || {_, State, _, Keeper, {_, _, Shutdown, _, _}} <- children(Handle, 0, []),
        State =:= launching orelse State =:= restarting].

%% Ends a keeper inside a start function, and what that has started so far.
end_start(Keeper, Shutdown) ->
    %% So that it starts nothing between the look and its end.
    _ = try erlang:suspend_process(Keeper) catch error:badarg -> ended end,
    Started = [{Pid, monitor(process, Pid)} || Pid <- linked(Keeper), process_info(Pid, parent) =:= {parent, Keeper}],
    exit(Keeper, kill),
    lists:foreach(fun({Pid, Monitor}) -> end_process(Pid, Monitor, Shutdown) end, Started).

linked(Keeper) ->
    case process_info(Keeper, links) of
        {links, Links} -> lists:filter(fun is_pid/1, Links);
        undefined -> []
    end.

await({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, _} ->
            ok;
        {'$gen_call', From, {unregister, _}} ->
            gen_server:reply(From, ok),
            await({Pid, Monitor})
    end.

children(_, done, Children) ->
    Children;
children(Handle, From, Children) ->
    {More, Next} = proctab_nif:page(Handle, From, children, Children),
    children(Handle, Next, More).
