%% @private
%% The registrars of a zone: processes that watch registered ones.
%%
%% A process that was registered, or added without a start function, needs no keeper of its own:
%% there is no callback to run after its death, and nothing to restart. One of up to eight
%% registrars is the keeper of its row, selected by its pid. A registrar monitors the process, and
%% removes the row when it dies.
%%
%%   caller                          table      registrar                       tracker
%%      | register_name/5 ------------> |            |                             |
%%      |                               | registered |                             |
%%      |                               | ---------> | monitor                     |
%%      | <- {Alias, ok} ----------------------------|                             |
%%      | unregister, a call ----------------------> | remove the row              |
%%      |                               |            | <-- {Tag, give, Name, Pid,  |
%%      |                               |            |             Keeper} ------- |
%%      |                               |            | give the row to that keeper |
%%      |                               |            | -- {Tag, take_over} ------> the keeper
%%      |                               |            | -- {Tag, died, Pid, Reason} ->
%%      |                               |            | <-- {Tag, forget, Name, Pid} |
%%      |                               |            | <-- {Tag, end_child, Name, Pid, From}
%%      |                               |            | -- {Tag, child_ended, From, ok} ->
%%      |                               |            | <-- {Tag, stop_zone, From} - |
%%      |                               |            | -- {Tag, gives_nothing, R} > |
%%
%% The table sends `registered' in the call that gives the process its name, so the registrar is
%% told even if the caller is killed. It sends it after the `up' event, and only the registrar
%% removes the row or gives it away. So `down' never comes before `up'. A registrar that is asked
%% for a row of its own that it has not been told of waits for the message.
%%
%% When a request has to wait for the end of such a child or asks for its end, or when the child
%% has lost a conflict with that of another member, the tracker starts a keeper, and the registrar
%% gives it the row (`gen_tracker_registrars'). If the VM has no free process for that, the
%% registrar ends a child itself that a request wants to end. The registrar goes on monitoring the
%% process, and forwards its exit reason: the keeper may be too late for that.
%%
%% A registrar is linked to the tracker, which replaces it if it was killed. The new one closes its
%% position in the table, which then refuses registrations, waits until none is being made, and
%% adopts all rows of its predecessors. Meanwhile processes are registered by the tracker, with a
%% keeper each.
-module(gen_tracker_registrar).

-export([register/4, reserve/3, unregister/3]).
-export([start_link/5, give/4, end_child/4, forget/4, stop_zone/2]).
-export([init/1, loop/1]).

%% After how long a caller checks whether the registrar is alive, in milliseconds.
-define(PATIENCE, 50).
%% How long the start of a registrar may take, in milliseconds.
-define(START_TIMEOUT, 5000).
%% How long a registrar waits before it hibernates, in milliseconds.
-define(IDLE, 2000).
%% How long a registered process may take to exit when the zone stops, in milliseconds.
-define(SHUTDOWN, 200).

-type position() :: 0..7.

-record(registrar, {
    context :: gen_tracker_keeper:context(),
    handle :: proctab_nif:handle(),
    position :: position(),
    %% The first element of the table's messages.
    secret = none :: proctab_nif:secret() | none,
    %% `{{Name, Pid}, Monitor, own | Keeper}': the processes that it monitors, and the keepers that
    %% it has given rows to. `{{ending, Name, Pid}, [From]}': who asked for their end.
    watched :: ets:table(),
    stops = false :: boolean()
}).

%%% For callers

%% @doc Registers a running process under a free name, without the tracker: with `{home, Pid}' as
%% the home of the name. Returns `ask' if the tracker has to be asked. Raises `badarg' if the zone
%% does not run or a term is too large.
-spec register(gen_tracker:zone(), gen_tracker:name(), gen_tracker_spec:spec(),
               pid() | {home, pid()}) ->
          registered | {error, max_children | shutdown} | ask.
register(Zone, Name, Spec, Pid) ->
    case try_register(Zone, Name, Spec, Pid) of
        {closed, Position} ->
            case start(Zone, Position) of
                ok -> register_once_more(Zone, Name, Spec, Pid);
                Other -> Other
            end;
        Registered ->
            Registered
    end.

register_once_more(Zone, Name, Spec, Pid) ->
    try try_register(Zone, Name, Spec, Pid) of
        {closed, _} -> ask;
        Registered -> Registered
    catch
        %% The zone has ended meanwhile.
        error:badarg -> {error, shutdown}
    end.

try_register(Zone, Name, Spec, Pid) ->
    Alias = alias([reply]),
    try proctab_nif:register_name(Zone, Name, Spec, Pid, Alias) of
        Registrar when is_pid(Registrar) ->
            await(Alias, Registrar),
            registered;
        Refused ->
            true = unalias(Alias),
            refused(Refused)
    catch
        error:badarg:Stacktrace ->
            true = unalias(Alias),
            erlang:raise(error, badarg, Stacktrace)
    end.

refused({closed, Position}) -> {closed, Position};
refused(full) -> {error, max_children};
refused(_) -> ask.

%% The process has its name by now. The registrar has to monitor it before this returns: otherwise
%% its exit reason could be lost. If the registrar was killed, another one adopts the row.
await(Alias, Registrar) ->
    receive
        {Alias, ok} -> ok
    after ?PATIENCE ->
        case is_process_alive(Registrar) of
            true ->
                await(Alias, Registrar);
            false ->
                _ = unalias(Alias),
                receive
                    {Alias, ok} -> ok
                after 0 -> ok
                end
        end
    end.

start(Zone, Position) ->
    try gen_server:call(Zone, {registrar, Position}, ?START_TIMEOUT) of
        ok -> ok;
        {error, shutdown} -> {error, shutdown};
        _ -> ask
    catch
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown -> {error, shutdown};
        exit:_ -> ask
    end.

%% @doc Reserves a name for the calling process, if a keeper is starting it under that name. It gets
%% the name when its start function has returned. Returns `false' if another process that the keeper
%% has started has reserved the name, and `undefined' if no keeper is starting the caller so.
-spec reserve(gen_tracker:zone(), gen_tracker:name(), pid()) -> boolean() | undefined.
reserve(Zone, Name, Pid) when Pid =:= self() ->
    case gen_tracker_waits:parent() of
        undefined -> undefined;
        Parent -> proctab_nif:reserve_name(Zone, Name, Parent)
    end;
reserve(_, _, _) ->
    undefined.

%% @doc Unregisters a process. Returns `again' if the row has another keeper, or the registrar is
%% dead.
-spec unregister(Registrar :: pid(), gen_tracker:name(), pid()) -> ok | again.
unregister(Registrar, Name, Pid) ->
    try
        gen_server:call(Registrar, {unregister, Name, Pid}, infinity)
    catch
        exit:_ -> again
    end.

%%% For the tracker

%% @doc Starts the registrar at a position, which adopts the rows of its predecessors, which were
%% killed. Then it answers the callers, and sends the calling tracker `{Tag, opened, Registrar,
%% Before}'.
-spec start_link(gen_tracker_keeper:context(), proctab_nif:handle(), position(), Before :: [pid()],
                 [gen_server:from()]) -> pid().
start_link(#{tag := Tag, zone := Zone} = Context, Handle, Position, Before, Froms) ->
    Args = [{Context, Handle, Position, Before, Froms}],
    Registrar = proc_lib:spawn_link(?MODULE, init, Args),
    ok = proctab_nif:appoint(Handle, Position, Registrar),
    Registrar ! {Tag, appointed, Zone},
    Registrar.

%% @doc Tells a registrar to give a row to a keeper. The keeper is told to take over, whether it has
%% the row or not.
-spec give(Registrar :: pid(), Tag :: reference(), {gen_tracker:name(), pid() | undefined},
           Keeper :: pid()) -> ok.
give(Registrar, Tag, {Name, Pid}, Keeper) ->
    Registrar ! {Tag, give, Name, Pid, Keeper},
    ok.

%% @doc Tells a registrar to end a child as the shutdown of registered processes demands. It sends
%% the calling tracker `{Tag, child_ended, From, ok}' after that, or `again' in place of `ok' if it
%% does not have the row.
-spec end_child(Registrar :: pid(), Tag :: reference(), {gen_tracker:name(), pid() | undefined},
                gen_server:from()) -> ok.
end_child(Registrar, Tag, {Name, Pid}, From) ->
    Registrar ! {Tag, end_child, Name, Pid, From},
    ok.

%% @doc Tells a registrar that a keeper, which it may have given a row to, has lost it.
-spec forget(Registrar :: pid(), Tag :: reference(), gen_tracker:name(), pid()) -> ok.
forget(Registrar, Tag, Name, Pid) ->
    Registrar ! {Tag, forget, Name, Pid},
    ok.

%% @doc Tells a registrar to stop the processes that it watches, and to exit then. It sends the
%% caller `{Tag, gives_nothing, Registrar}' once it gives no row to a keeper any more.
-spec stop_zone(pid(), Tag :: reference()) -> ok.
stop_zone(Registrar, Tag) ->
    Registrar ! {Tag, stop_zone, self()},
    ok.

%%% The registrar

%% @private
-spec init({gen_tracker_keeper:context(), proctab_nif:handle(), position(), Before :: [pid()],
            [gen_server:from()]}) -> no_return().
init({Context, Handle, Position, Before, Froms}) ->
    #{tracker := Tracker, tag := Tag, zone := Zone} = Context,
    process_flag(trap_exit, true),
    gen_tracker_reports:set_label({?MODULE, Zone, Position}),
    Registrar = #registrar{
        context = Context,
        handle = Handle,
        position = Position,
        watched = ets:new(?MODULE, [private])
    },
    receive
        {Tag, appointed, Zone} ->
            adopt(Before, Registrar);
        {'EXIT', Tracker, _} ->
            adopt(Before, Registrar),
            stop(Registrar)
    end,
    Secret = proctab_nif:open_registrar(Handle, Position),
    [gen_server:reply(From, ok) || From <- Froms],
    Tracker ! {Tag, opened, self(), Before},
    wait(Registrar#registrar{secret = Secret}).

%% A remote call: a registrar that has received a message goes on in new code.
wait(Registrar) ->
    ?MODULE:loop(Registrar).

%% @private
-spec loop(#registrar{}) -> no_return().
loop(#registrar{context = #{tracker := Tracker, tag := Tag}, secret = Secret} = Registrar) ->
    receive
        {Secret, {registered, Name, Pid, Alias}} ->
            registered(Name, Pid, Alias, Registrar),
            wait(Registrar);
        {{Tag, registered, Name}, Monitor, process, Pid, Reason} ->
            ended(Name, Pid, Monitor, Reason, Registrar),
            wait(Registrar);
        {'$gen_call', {Caller, _} = From, {unregister, Name, Pid}} when is_pid(Caller) ->
            gen_server:reply(From, unregistered(Name, Pid, Registrar)),
            wait(Registrar);
        {Tag, give, Name, Pid, Keeper} ->
            give_row(Name, Pid, Keeper, Registrar),
            wait(Registrar);
        {Tag, forget, Name, Pid} ->
            forget_given(Name, Pid, Registrar),
            wait(Registrar);
        {Tag, end_child, Name, Pid, From} ->
            end_own(Name, Pid, From, Registrar),
            wait(Registrar);
        {Tag, kill, Name, Pid} ->
            _ = is_own(Name, Pid, Registrar) andalso exit(Pid, kill),
            wait(Registrar);
        {Tag, stop_zone, From} ->
            self() ! {Tag, stop_zone, From},
            stop(Registrar);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso wait(Registrar),
            stop(Registrar);
        _ ->
            wait(Registrar)
    after ?IDLE ->
        proc_lib:hibernate(?MODULE, loop, [Registrar])
    end.

registered(Name, Pid, Alias, #registrar{context = Context} = Registrar) ->
    _ = watch(Name, Pid, Registrar),
    _ = is_reference(Alias) andalso (Alias ! {Alias, ok}),
    gen_tracker_telemetry:child(Context, up, Name, Pid).

watch(Name, Pid, #registrar{context = #{tag := Tag}, watched = Watched} = Registrar) ->
    Monitor = gen_tracker_keeper:monitor_now(Pid, [{tag, {Tag, registered, Name}}]),
    Watch = {{Name, Pid}, Monitor, own},
    ets:insert_new(Watched, Watch) orelse
        begin
            forget_given(Name, Pid, Registrar),
            ets:insert_new(Watched, Watch)
        end.

%% Returns whether this is the keeper of the process under this name. The table has told, or is
%% about to.
is_kept(Name, Pid, #registrar{secret = Secret} = Registrar) ->
    case is_own(Name, Pid, Registrar) of
        true ->
            true;
        false ->
            Self = self(),
            case unless_gone(fun proctab_nif:child/2, [zone(Registrar), Name]) of
                {running, Pid, Self, _} ->
                    receive
                        {Secret, {registered, Name, Pid, Alias}} ->
                            registered(Name, Pid, Alias, Registrar),
                            true
                    end;
                _ ->
                    false
            end
    end.

ended(Name, Pid, Monitor, Reason, #registrar{context = Context, watched = Watched} = Registrar) ->
    case ets:lookup(Watched, {Name, Pid}) of
        [{_, Monitor, own}] ->
            report(Name, Pid, Reason, Registrar),
            true = ets:delete(Watched, {Name, Pid}),
            ok = remove(Name, Pid, Reason, Registrar),
            answer_ending(Name, Pid, ok, Registrar);
        [{_, Monitor, Keeper}] ->
            gen_tracker_keeper:died(Keeper, Context, Pid, Reason),
            true = ets:delete(Watched, {Name, Pid}),
            answer_ending(Name, Pid, again, Registrar);
        _ ->
            ok
    end.

is_own(Name, Pid, #registrar{watched = Watched}) ->
    case ets:lookup(Watched, {Name, Pid}) of
        [{_, _, own}] -> true;
        _ -> false
    end.

end_own(Name, Pid, From, #registrar{context = #{tag := Tag}, watched = Watched} = Registrar) ->
    Key = {ending, Name, Pid},
    case is_kept(Name, Pid, Registrar) of
        true ->
            Before =
                case ets:lookup(Watched, Key) of
                    [{_, Froms}] -> Froms;
                    [] -> []
                end,
            true = ets:insert(Watched, {Key, [From | Before]}),
            exit(Pid, shutdown),
            _ = erlang:send_after(?SHUTDOWN, self(), {Tag, kill, Name, Pid}),
            ok;
        false ->
            tell_ended(From, again, Registrar)
    end.

answer_ending(Name, Pid, Result, #registrar{watched = Watched} = Registrar) ->
    [
        tell_ended(From, Result, Registrar)
     || {_, Froms} <- ets:take(Watched, {ending, Name, Pid}), From <- Froms
    ],
    ok.

tell_ended(From, Result, #registrar{context = #{tracker := Tracker, tag := Tag}}) ->
    Tracker ! {Tag, child_ended, From, Result},
    ok.

remove(Name, Pid, Reason, #registrar{context = Context} = Registrar) ->
    Args = [zone(Registrar), Name, self(), Reason],
    _ = unless_gone(fun proctab_nif:unregister_name/4, Args) andalso
        gen_tracker_telemetry:child(Context, {down, Reason}, Name, Pid),
    ok.

unregistered(Name, Pid, #registrar{watched = Watched} = Registrar) ->
    case is_kept(Name, Pid, Registrar) of
        true ->
            [{Key, Monitor, own}] = ets:lookup(Watched, {Name, Pid}),
            true = demonitor(Monitor, [flush]),
            true = ets:delete(Watched, Key),
            ok = remove(Name, Pid, unregistered, Registrar),
            answer_ending(Name, Pid, again, Registrar);
        false ->
            again
    end.

%% The keeper may have the row already, from a registrar that was killed before it could tell. Then
%% this one does not monitor the child.
give_row(Name, Pid, Keeper, #registrar{context = Context, watched = Watched} = Registrar) ->
    IsGiven =
        is_kept(Name, Pid, Registrar) andalso
            change_keeper(Name, self(), Keeper, Registrar) andalso
            is_accepted(Name, Keeper, Registrar),
    _ = IsGiven andalso ets:update_element(Watched, {Name, Pid}, {3, Keeper}),
    Giver =
        case IsGiven of
            true -> self();
            false -> undefined
        end,
    gen_tracker_keeper:take_over(Keeper, Context, Giver).

%% Takes a row back from a keeper that was dead before it got the row: the tracker may have looked
%% for its row already. The tracker finds the row of a keeper that dies later.
is_accepted(Name, Keeper, Registrar) ->
    is_process_alive(Keeper) orelse not change_keeper(Name, Keeper, self(), Registrar).

change_keeper(Name, Keeper, New, Registrar) ->
    unless_gone(fun proctab_nif:change_keeper/4, [zone(Registrar), Name, Keeper, New]).

%% The keeper may wait for the exit reason already, since its own monitor came too late.
forget_given(Name, Pid, #registrar{context = Context, watched = Watched}) ->
    case ets:lookup(Watched, {Name, Pid}) of
        [{Key, Monitor, Keeper}] when is_pid(Keeper) ->
            true = demonitor(Monitor, [flush]),
            gen_tracker_keeper:died(Keeper, Context, Pid, noproc),
            true = ets:delete(Watched, Key);
        _ ->
            true
    end.

%%% Adoption

%% Adopts the rows of registrars that were killed. If the zone has ended, their processes have to be
%% stopped all the same.
adopt([], _) ->
    ok;
adopt(Before, #registrar{handle = Handle} = Registrar) ->
    close(Registrar),
    adopt_from(0, Before, Handle, Registrar).

adopt_from(done, _, _, _) ->
    ok;
adopt_from(From, Before, Handle, Registrar) ->
    {Children, Next} = proctab_nif:page(Handle, From, children, []),
    [
        adopt_child(Name, Pid, Keeper, Registrar)
     || {Name, running, Pid, Keeper, _} <- Children, lists:member(Keeper, Before)
    ],
    adopt_from(Next, Before, Handle, Registrar).

adopt_child(Name, Pid, Keeper, Registrar) ->
    try proctab_nif:change_keeper(zone(Registrar), Name, Keeper, self()) of
        true -> watch(Name, Pid, Registrar);
        false -> false
    catch
        error:badarg -> watch(Name, Pid, Registrar)
    end.

%% Refuses registrations, and waits until none is being made.
close(#registrar{handle = Handle, position = Position} = Registrar) ->
    case proctab_nif:close_registrar(Handle, Position) of
        true ->
            ok;
        false ->
            erlang:yield(),
            close(Registrar)
    end.

%%% Stopping

%% Stops all processes at the same time. A process that was registered before the registrar was
%% closed is in its mailbox by now.
-spec stop(#registrar{}) -> no_return().
stop(#registrar{context = #{tag := Tag}, watched = Watched} = Registrar) ->
    close(Registrar),
    receive_registered(Registrar),
    [exit(Pid, shutdown) || [Pid] <- ets:match(Watched, {{'_', '$1'}, '_', own})],
    _ = erlang:send_after(?SHUTDOWN, self(), {Tag, kill}),
    await_ends(Registrar#registrar{stops = true}).

receive_registered(#registrar{secret = Secret} = Registrar) ->
    receive
        {Secret, {registered, Name, Pid, Alias}} ->
            registered(Name, Pid, Alias, Registrar),
            receive_registered(Registrar)
    after 0 -> ok
    end.

-spec await_ends(#registrar{}) -> no_return().
await_ends(#registrar{context = #{tag := Tag}, watched = Watched} = Registrar) ->
    case ets:match(Watched, {{'_', '$1'}, '_', own}, 1) of
        '$end_of_table' ->
            answer_stops(Tag),
            exit(shutdown);
        _ ->
            receive
                {{Tag, registered, Name}, Monitor, process, Pid, Reason} ->
                    ended(Name, Pid, Monitor, Reason, Registrar);
                {Tag, stop_zone, From} ->
                    From ! {Tag, gives_nothing, self()};
                {Tag, give, _, _, Keeper} ->
                    gen_tracker_keeper:stop_zone(Keeper, Tag);
                {Tag, kill} ->
                    [exit(Pid, kill) || [Pid] <- ets:match(Watched, {{'_', '$1'}, '_', own})];
                {'$gen_call', {Caller, _} = From, {unregister, Name, Pid}} when is_pid(Caller) ->
                    gen_server:reply(From, unregistered(Name, Pid, Registrar));
                _ ->
                    ok
            end,
            await_ends(Registrar)
    end.

answer_stops(Tag) ->
    receive
        {Tag, stop_zone, From} ->
            From ! {Tag, gives_nothing, self()},
            answer_stops(Tag);
        {Tag, give, _, _, Keeper} ->
            gen_tracker_keeper:stop_zone(Keeper, Tag),
            answer_stops(Tag)
    after 0 -> ok
    end.

%%% Reports

%% As OTP's supervisor reports the end of a temporary child.
report(_, _, _, #registrar{context = #{reports := false}}) ->
    ok;
report(Name, Pid, Reason, #registrar{stops = Stops} = Registrar) ->
    case gen_tracker_keeper:is_abnormal(Reason) of
        true ->
            Error =
                case Stops of
                    true -> shutdown_error;
                    false -> child_terminated
                end,
            Spec = {undefined, temporary, ?SHUTDOWN, worker, []},
            Offender = gen_tracker_reports:child(Pid, Name, Spec),
            gen_tracker_reports:error(Error, Reason, zone(Registrar), Offender);
        false ->
            ok
    end.

%% Returns `false' if the zone has ended.
unless_gone(Function, Args) ->
    try
        apply(Function, Args)
    catch
        error:badarg -> false
    end.

zone(#registrar{context = #{zone := Zone}}) ->
    Zone.
