%% @private
%% The keeper: the process beside each child of a zone.
%%
%% A keeper is linked to the tracker and is the parent of its child. It runs the start function,
%% so that a slow start delays no other child, waits for the child's death, runs `after_terminate',
%% and removes the row, or restarts the child if its restart type demands that.
%%
%% Most keepers are spawned by the caller that opens the child. Such a keeper claims the name itself
%% and answers the caller, see `gen_tracker_opening'. It tells the tracker of the end of this first
%% start only if the tracker waits for it: `running/3' and `failed/2' return `awaited' then.
%%
%%   tracker                                keeper
%%      | spawn, link, monitor; insert the row    |  a keeper that the tracker starts
%%      | -- {Tag, launch | attach | adopt} ----> |  attach is sent before the insertion,
%%      | -- {Tag, attached} -------------------> |  and this after it
%%      |                                         |  start function, running/3 in the table
%%      | -- {Tag, died, Child, Reason} --------> |  the exit reason of an attached child
%%      | <- {Tag, launched, Keeper, Result} ---- |
%%      |     a registrar -- {Tag, take_over} --> |  the keeper takes over a running child
%%      | -- {Tag, stop} -----------------------> |  stop the child and remove its row
%%      | -- {Tag, stop_zone} ------------------> |  likewise, because the zone stops
%%      |   cluster process -- {Tag, conflict} -> |  the child has lost a conflict
%%      | <- {Tag, pending, Keeper, Timer} ------ |  waits to retry a failed restart
%%      | -- {Tag, retry, Timer, Spec} ---------> |  retry it now, with this spec
%%      | <- {Tag, settled, Keeper} ------------- |  the child will not be restarted
%%      | <- {Tag, overtime, Keeper, cleanup} --- |  the time limit of after_terminate is over
%%      | <- {Tag, inherit, Keeper, Pids} ------- |  processes that the start function left linked
%%      | -- {Tag, inherited} ------------------> |  the tracker is linked to them
%%      |           the table -- detached ------> |  the child was unregistered and lives on
%%      | <- EXIT, DOWN ------------------------- |  name and attributes have left the table
%%
%% `Tag' is a reference that only the processes of the zone know, so messages of other processes
%% change nothing. A message that may be late is also checked against the table.
%%
%% Start functions and `after_terminate' are foreign code that runs in this process: they may
%% flush its mailbox, unlink it, and change its flags. Therefore
%% <ul>
%% <li>a stop is marked in the table as well as sent to the mailbox: `running/3', `terminating/3'
%%     and `restarting/2' report it;</li>
%% <li>{@link recover/1} restores flags and link after each such call;</li>
%% <li>the tracker monitors the keeper and reads its row whatever the exit reason;</li>
%% <li>the tracker, or `gen_tracker_shutdown' when the zone stops, enforces the time limits of such
%%     calls. Both kill the keeper, and another keeper adopts the row.</li>
%% </ul>
%%
%% A keeper writes the child's state to the table before it tells the tracker, so the tracker never
%% reads a state that is older than the messages it has handled.
%%
%% A keeper hibernates when it has waited for ?IDLE, so it holds no garbage. When it hibernates or
%% has received a message, it leaves the old code of a module that was reloaded. Hibernating at once
%% would cost a start a tenth more.
-module(gen_tracker_keeper).

-export([open/6, start/1, monitor_keeper/2, launch/3, attach/3, attached/2, died/4, adopt/5]).
-export([stop/2, stop_zone/2, retry/4, lose/5]).
-export([take_over/3, inherited/2, discard/1, is_alive/1, started_by/1]).
-export([shared/1, monitor_now/2, is_abnormal/1]).
-export([init/1, opened/6, loop/1, delayed/2]).

-export_type([result/0, context/0, shared/0]).

-include("gen_tracker_answers.hrl").
-include_lib("kernel/include/logger.hrl").

-type result() :: gen_tracker:start_result().
%% What all keepers of a zone share.
-type context() :: #{tracker := pid(),
                     %% Known only to the processes of this zone.
                     tag := reference(),
                     zone := gen_tracker:zone(),
                     restart := boolean(),
                     reports := boolean(),
                     %% Missing in zones that were started by code without it.
                     telemetry => gen_tracker_telemetry:emitter(),
                     %% The process dictionary that `proc_lib' gives a keeper.
                     dictionary => [{term(), term()}]}.

%% What the tracker of a zone shares with keepers that it does not start: the context with a
%% dictionary, and its group leader.
-type shared() :: {context(), pid()}.

%% How long a keeper waits before it hibernates, in milliseconds.
-define(IDLE, 2000).
-define(FIRST_DELAY, 50).
-define(MORE_DELAY, 150).
-define(LONGEST_DELAY, 5000).
%% At most INTENSITY restarts within PERIOD milliseconds are made without a delay.
-define(INTENSITY, 10).
-define(PERIOD, 10000).
%% How long processes that a failed start left behind may live on to write their crash reports, in
%% milliseconds.
-define(GRACE, 1000).
-define(DETACHED, '$proctab_detached').
%% The heap of a new keeper, in words: a start needs no garbage collection. When the keeper
%% hibernates, its heap shrinks to its data.
-define(FIRST_HEAP, 610).

-record(child, {
    context :: context(),
    name :: gen_tracker:name(),
    spec :: gen_tracker_spec:spec(),
    pid :: pid() | undefined,
    monitor :: reference() | undefined,
    %% The registrar that had the row before, and monitors the child as well.
    registrar :: pid() | undefined,
    %% The caller that waits for the first start, if it has spawned this keeper.
    opener :: reference() | undefined,
    %% The reason in its exit signal, if there was a link: the monitor may have come too late.
    exited = unknown :: unknown | {exited, Reason :: term()},
    %% When the child started to run, in milliseconds of monotonic time.
    since = 0 :: integer(),
    %% The times of its restarts within the last ?PERIOD, latest first.
    restarts = [] :: [integer()],
    %% Whether restarts are delayed because there were too many.
    is_slowed = false :: boolean(),
    %% Milliseconds until the next attempt.
    delay = ?FIRST_DELAY :: pos_integer()
}).


%%% For callers

%% @doc Starts a keeper that claims a free name and starts its child. `gen_tracker_opening' waits
%% for its answer. The tag of the `DOWN' message is the alias. `home' is for a start that this
%% member of a zone on several nodes makes as the home of the name.
-spec open(proctab_nif:handle(), Tracker :: pid(), gen_tracker:name(), gen_tracker_spec:spec(),
           launching | home, Alias :: reference()) -> {pid(), Monitor :: reference()}.
open(Handle, Tracker, Name, Spec, Start, Alias) ->
    Options = [{monitor, [{tag, Alias}]}, {min_heap_size, ?FIRST_HEAP}],
    spawn_opt(?MODULE, opened, [Handle, Tracker, Name, Spec, Start, Alias], Options).

%%% For the tracker

%% @doc Returns what the calling tracker shares with keepers that it does not start.
-spec shared(context()) -> shared().
shared(#{zone := Zone} = Context) ->
    Ancestors = [Zone | get('$ancestors')],
    Dictionary = [{'$ancestors', Ancestors}, {'$initial_call', {?MODULE, init, 1}}],
    {Context#{dictionary => Dictionary}, group_leader()}.

%% @doc Starts a keeper that waits for its task, linked to the calling tracker and monitored by it.
%% The `DOWN' message is `{{Tag, keeper}, Monitor, process, Keeper, Reason}'.
-spec start(context()) -> pid().
start(#{tag := Tag} = Context) ->
    Options = [link, {monitor, [{tag, {Tag, keeper}}]}],
    {Keeper, _} = proc_lib:spawn_opt(?MODULE, init, [Context], Options),
    Keeper.

%% @doc Monitors a keeper, with the same `DOWN' message. It may be monitored already.
-spec monitor_keeper(pid(), context()) -> reference().
monitor_keeper(Keeper, #{tag := Tag}) ->
    monitor(process, Keeper, [{tag, {Tag, keeper}}]).

%% @doc Tells a keeper to start the child of its row.
-spec launch(pid(), context(), gen_tracker_spec:spec()) -> ok.
launch(Keeper, Context, Spec) ->
    tell(Keeper, Context, launch, Spec).

%% @doc Gives a keeper a running child that is about to be inserted into the table.
%% {@link attached/2} follows the insertion.
%%
%% The tracker monitors the child as well, until the keeper has sent `launched': the keeper's
%% monitor may come too late to get the exit reason. The tracker's `DOWN' message is `{{Tag,
%% attached, Keeper}, Monitor, process, Child, Reason}', which it forwards with {@link died/4}.
-spec attach(pid(), context(), Child :: pid()) -> Monitor :: reference().
attach(Keeper, #{tag := Tag} = Context, Child) ->
    Monitor = monitor_now(Child, [{tag, {Tag, attached, Keeper}}]),
    ok = tell(Keeper, Context, attach, Child),
    Monitor.

%% @doc Tells a keeper that its attached child is in the table.
-spec attached(pid(), context()) -> ok.
attached(Keeper, Context) ->
    tell(Keeper, Context, attached).

%% @doc Forwards the exit reason of an attached child to its keeper.
-spec died(pid(), context(), Child :: pid(), Reason :: term()) -> ok.
died(Keeper, #{tag := Tag}, Child, Reason) ->
    Keeper ! {Tag, died, Child, Reason},
    ok.

%% @doc Tells a keeper to adopt the row of a keeper that ended with `Reason', in whatever state the
%% row is.
%%
%% `Times' are the times at which keepers of that row ended lately, in milliseconds, latest first;
%% each counts as a restart. `IsSettled' says that the child has ended and is not to be restarted.
-spec adopt(pid(), context(), Reason :: term(), Times :: [integer()], IsSettled :: boolean()) -> ok.
adopt(Keeper, Context, Reason, Times, IsSettled) ->
    tell(Keeper, Context, adopt, {Reason, Times, IsSettled}).

%% @doc Tells a keeper that a registrar has given it a row, or that none has that row. The registrar
%% sends the child's exit reason with {@link died/4}.
-spec take_over(pid(), context(), Registrar :: pid() | undefined) -> ok.
take_over(Keeper, Context, Registrar) ->
    tell(Keeper, Context, take_over, Registrar).

%% @doc Tells a keeper to stop its child and remove its row, which is marked already.
-spec stop(pid(), context()) -> ok.
stop(Keeper, Context) ->
    tell(Keeper, Context, stop).

%% @doc Like {@link stop/2}, when the whole zone stops.
-spec stop_zone(pid(), Tag :: reference()) -> ok.
stop_zone(Keeper, Tag) ->
    Keeper ! {Tag, stop_zone},
    ok.

%% @doc Tells a keeper that its child has lost a conflict, and what to do. Another child of that
%% keeper is not affected.
-spec lose(pid(), Tag :: reference(), Loser :: pid(), Winner :: pid(),
           stop | {hand_over, term()}) -> ok.
lose(Keeper, Tag, Loser, Winner, Decision) ->
    Keeper ! {Tag, conflict, Loser, Winner, Decision},
    ok.

%% @doc Tells a keeper to retry a failed restart now, with another spec, unless the timer of its
%% next attempt is another one by now.
-spec retry(pid(), context(), Timer :: reference(), gen_tracker_spec:spec()) -> ok.
retry(Keeper, #{tag := Tag}, Timer, Spec) ->
    Keeper ! {Tag, retry, Timer, Spec},
    ok.

%% @doc Tells a keeper that the calling tracker is linked to the processes that it hands over.
-spec inherited(pid(), Tag :: reference()) -> ok.
inherited(Keeper, Tag) ->
    Keeper ! {Tag, inherited},
    ok.

tell(Keeper, #{tag := Tag}, What) ->
    Keeper ! {Tag, What},
    ok.

tell(Keeper, #{tag := Tag}, What, Of) ->
    Keeper ! {Tag, What, Of},
    ok.

%% @doc Ends a keeper that has no task yet.
-spec discard(pid()) -> ok.
discard(Keeper) ->
    %% An exit signal that has arrived before is that of a keeper without a child.
    unlink(Keeper),
    exit(Keeper, kill),
    ok.

%% @doc Returns whether a process is alive. Processes of other nodes count as alive. The signals
%% that the caller has sent to a living process have arrived.
%%
%% `is_process_alive/1' alone would wait for the end of a process that is exiting: seconds if it
%% owns large tables of ETS.
-spec is_alive(pid()) -> boolean().
is_alive(Pid) ->
    proctab_nif:may_be_alive(Pid) andalso (node(Pid) =/= node() orelse is_process_alive(Pid)).

%% @doc Returns the processes that a keeper has started and is still linked to.
-spec started_by(Keeper :: pid()) -> [pid()].
started_by(Keeper) ->
    case process_info(Keeper, links) of
        {links, Links} ->
            [Pid || Pid <- Links, is_pid(Pid), node(Pid) =:= node(),
                process_info(Pid, parent) =:= {parent, Keeper}];
        undefined ->
            []
    end.

%%% The keeper

%% @private
-spec init(context()) -> no_return().
init(Context) ->
    process_flag(trap_exit, true),
    await_task(Context#{dictionary => get()}).

%% @private The process that {@link open/6} starts. It is linked to the tracker before it can have
%% the name.
-spec opened(proctab_nif:handle(), Tracker :: pid(), gen_tracker:name(), gen_tracker_spec:spec(),
             launching | home, Alias :: reference()) -> no_return().
opened(Handle, Tracker, Name, Spec, Start, Alias) ->
    process_flag(trap_exit, true),
    true = link(Tracker),
    try proctab_nif:launch(Handle, Name, gen_tracker_spec:stored(Spec), Start) of
        {OwnName, OwnSpec, {Context, Leader}} ->
            true = group_leader(Leader, self()),
            _ = seq_trace:set_token([]),
            restore_dictionary(Context),
            Child = own_child(OwnName, OwnSpec, Context),
            launch_first(Spec, Child#child{opener = Alias});
        Refused when Refused =:= held; Refused =:= not_home ->
            unlink(Tracker),
            Alias ! {Alias, Refused},
            exit(normal);
        full ->
            unlink(Tracker),
            Alias ! {Alias, {result, {error, max_children}}},
            exit(normal);
        stopping ->
            exit(shutdown)
    catch
        error:badarg ->
            Alias ! {Alias, {result, {error, badarg}}},
            exit(normal)
    end.

await_task(#{tag := Tag, tracker := Tracker} = Context) ->
    receive
        {Tag, launch, Spec} ->
            with_own_row(Context, fun(_, _, Child) -> launch_first(Spec, Child) end);
        {Tag, attach, Pid} ->
            attach_to(Pid, monitor_now(Pid, []), Context);
        {Tag, adopt, {Reason, Times, IsSettled}} ->
            with_own_row(Context, fun(State, Pid, Child) ->
                adopted(IsSettled, State, Pid, after_keepers(Times, Child), Reason)
            end);
        {Tag, take_over, Registrar} ->
            with_own_row(Context, fun(State, Pid, Child) ->
                adopted(State, Pid, Child#child{registrar = Registrar}, shutdown)
            end);
        {Tag, stop_zone} ->
            exit(shutdown);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso await_task(Context),
            exit(shutdown)
    end.

attach_to(Pid, Monitor, #{tag := Tag, tracker := Tracker} = Context) ->
    receive
        {Tag, attached} ->
            with_own_row(Context, fun(_, _, Child) ->
                check_attached(Child#child{pid = Pid, monitor = Monitor})
            end);
        {Tag, stop_zone} ->
            exit(shutdown);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso attach_to(Pid, Monitor, Context),
            exit(shutdown)
    end.

%% Takes name and spec from the table, whose copies keep no larger binary alive. There is no row
%% when the child was unregistered or the zone has ended meanwhile.
-spec with_own_row(context(), Run) -> no_return() when
      Run :: fun((proctab_nif:state(), pid() | undefined, #child{}) -> no_return()).
with_own_row(#{zone := Zone} = Context, Run) ->
    case unless_gone(fun proctab_nif:kept/2, [Zone, self()]) of
        {Name, State, Pid, Spec} ->
            Run(State, Pid, own_child(Name, Spec, Context));
        _ ->
            exit(shutdown)
    end.

own_child(Name, Spec, #{zone := Zone} = Context) ->
    gen_tracker_reports:set_label({?MODULE, Zone, Name}),
    #child{context = Context, name = Name, spec = Spec, since = now_ms()}.

launch_first(Spec, Child) ->
    case start_child(Spec, Child) of
        {started, Running} ->
            wait(Running);
        {failed, _, Result} ->
            give_up(Child, Result);
        stopped ->
            end_keeper(Child)
    end.

%% If the child is alive, the monitor, which was sent before, will deliver its exit reason. If it
%% was dead before the monitor arrived, the tracker's earlier monitor has the reason.
check_attached(#child{pid = Pid} = Child) ->
    case is_alive(Pid) of
        true ->
            tell_launched(Child, {ok, Pid}),
            wait(Child);
        false ->
            attached_dead(Child, death(Child))
    end.

death(#child{pid = Pid, monitor = Monitor, context = #{tracker := Tracker}} = Child) ->
    receive
        {'DOWN', Monitor, process, Pid, noproc} -> await_reason(Tracker, Child);
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    end.

%% Returns the exit reason from a process that has monitored the child earlier.
await_reason(Other, #child{pid = Pid, context = #{tag := Tag}}) ->
    OtherEnds = monitor(process, Other),
    receive
        {Tag, died, Pid, Reason} ->
            demonitor(OtherEnds, [flush]),
            Reason;
        {'DOWN', OtherEnds, process, _, _} ->
            noproc
    end.

attached_dead(#child{pid = Pid} = Child, Reason) ->
    tell_launched(Child, {ok, Pid}),
    terminated(Child, exit_reason(Child, Reason)).

after_keepers(Times, Child) ->
    Number = length(Times),
    Delay = min(?FIRST_DELAY + ?MORE_DELAY * (Number - 1), ?LONGEST_DELAY),
    Child#child{restarts = Times, is_slowed = Number > ?INTENSITY, delay = Delay}.

adopted(true, _, _, Child, _) -> finish(Child);
adopted(false, State, Pid, Child, Reason) -> adopted(State, Pid, Child, Reason).

adopted(running, Pid, Child, _) ->
    %% The previous keeper may have been killed before it told the tracker.
    tell_launched(Child, {ok, Pid}),
    wait(watch(Pid, Child));
adopted(launching, _, Child, Reason) ->
    give_up(Child, {error, Reason});
adopted(terminating, _, Child, _) ->
    %% after_terminate may have been called, and must not be called twice. The child is to be
    %% restarted if its type says so: settle/2 had not been called.
    cleaned_up(Child, killed);
adopted(restarting, _, Child, Reason) ->
    not_restarted(Child, error, {error, Reason});
adopted(slowed, _, Child, _) ->
    slow_down(Child#child{is_slowed = true});
adopted(pending, _, Child, _) ->
    restart(Child).

%%% Starting

%% Calls the start function and registers the process that it returns.
start_child({MFA, _, _, _, _} = Spec, Child) ->
    Result = call_start(MFA, Spec, Child),
    recover(Child),
    case outcome(Result, Child) of
        {ok, Pid} -> registered(Pid, Result, Spec, Child);
        Failed -> Failed
    end.

outcome({ok, Pid}, Child) when is_pid(Pid) -> process(Pid, {ok, Pid}, Child);
outcome({ok, Pid, Info}, Child) when is_pid(Pid) -> process(Pid, {ok, Pid, Info}, Child);
outcome({ok, _} = Other, Child) -> improper(Other, Child);
outcome({ok, _, _} = Other, Child) -> improper(Other, Child);
outcome(ignore, _) -> {failed, ignore, ignore};
outcome({error, _} = Error, _) -> {failed, error, Error};
outcome(Other, Child) -> log_start_error(Other, #{}, Child), {failed, improper, Other}.

%% The zone's own processes cannot be its children.
process(Pid, Result, #child{context = #{tracker := Tracker}} = Child)
        when Pid =:= Tracker; Pid =:= self() ->
    improper(Result, Child);
process(Pid, Result, Child) ->
    case node(Pid) =:= node() andalso unless_gone(fun proctab_nif:kept/2, [zone(Child), Pid]) of
        {_, _, _, _} -> improper(Result, Child);
        _ -> {ok, Pid}
    end.

improper(Result, Child) ->
    log_start_error(Result, #{}, Child),
    {failed, improper, {error, {bad_return_value, Result}}}.

call_start({Module, Function, Args}, Spec, Child) ->
    Begin = gen_tracker_telemetry:now(Child#child.context),
    Emit = fun(End, More) ->
        emit_since(Begin, [start, End], fun() -> More#{start => start_of(Spec)} end, Child)
    end,
    try apply(Module, Function, Args) of
        %% No child of this node.
        ?RESERVED(_) = Result ->
            Result;
        Result ->
            Emit(stop, #{result => Result}),
            Result
    catch
        Class:Reason:Stacktrace ->
            Emit(exception, #{kind => Class, reason => Reason, stacktrace => Stacktrace}),
            log_start_error(Reason, #{class => Class, stacktrace => Stacktrace}, Child),
            {error, Reason}
    end.

log_start_error(Reason, Details, #child{context = #{zone := Zone}, name = Name, spec = Spec}) ->
    ?LOG_ERROR(Details#{label => {gen_tracker, start_error}, zone => Zone, name => Name,
                        start => start_of(Spec), reason => Reason}).

%% The arguments may be an improper list.
start_of({{Module, Function, Args}, _, _, _, _}) when length(Args) >= 0 ->
    {Module, Function, length(Args)};
start_of({{Module, Function, _}, _, _, _, _}) ->
    {Module, Function}.

%% Undoes what foreign code may have done to the keeper.
recover(#child{context = #{tracker := Tracker} = Context}) ->
    process_flag(trap_exit, true),
    process_flag(priority, normal),
    restore_dictionary(Context),
    %% If the tracker is dead, this sends the keeper an exit signal.
    true = link(Tracker).

%% The next child takes its ancestors from the dictionary.
restore_dictionary(#{dictionary := Dictionary}) ->
    lists:foreach(fun({Key, Value}) -> put(Key, Value) end, Dictionary).

registered(Pid, Result, Spec, Child) ->
    Running = watch(Pid, Child),
    case change_row(fun proctab_nif:running/3, [Pid], Child) of
        Changed when Changed =:= true; Changed =:= awaited ->
            tell_started(Child, Result, Changed),
            emit_change(up, Running),
            report_start(Spec, Running),
            {started, Running#child{opener = undefined}};
        Stopping when Stopping =:= stopping; Stopping =:= zone_stopping ->
            %% Before the child is ended: it may be waiting for this in `init_ack'. What a zone that
            %% stops answers is for the tracker to say.
            _ = Stopping =:= stopping andalso tell_started(Child, {error, killed}, awaited),
            %% From now on the time limit of starts does not apply.
            _ = change_row(fun proctab_nif:terminating/3, [killed], Child),
            end_unregistered(Running),
            remove(Child),
            stopped;
        false ->
            %% The zone has ended meanwhile.
            end_unregistered(Running),
            exit(shutdown)
    end.

%% No other process would find this child in the table, so it must end even if this keeper is
%% killed.
end_unregistered(#child{pid = Pid, spec = {_, _, Shutdown, _, _}}) ->
    gen_tracker_shutdown:end_apart(Pid, Shutdown).

%% Tells the processes that wait for the first start of a child: the caller that has opened it, and
%% the tracker if that was asked. The tracker has ordered any other start.
tell_started(#child{opener = undefined} = Child, Result, _) ->
    tell_launched(Child, Result);
tell_started(#child{opener = Alias} = Child, Result, Changed) ->
    Alias ! {Alias, {result, Result}},
    _ = Changed =:= awaited andalso tell_launched(Child, Result),
    ok.

tell_launched(#child{context = #{tracker := Tracker, tag := Tag}}, Result) ->
    Tracker ! {Tag, launched, self(), Result},
    ok.

%% @doc Monitors a process. The signal has been sent when this returns.
%%
%% The VM may delay the latest monitor signal of a process while the process runs. The second
%% monitor forces the first one out, and its `demonitor' forces out the second one.
-spec monitor_now(pid(), [erlang:monitor_option()]) -> reference().
monitor_now(Pid, Options) ->
    Monitor = monitor(process, Pid, Options),
    true = demonitor(monitor(process, Pid), [flush]),
    Monitor.

watch(Pid, Child) ->
    Monitor = monitor_now(Pid, []),
    Child#child{pid = Pid, monitor = Monitor, exited = unknown, since = now_ms()}.

give_up(Child, Result) ->
    Removed = change_row(fun proctab_nif:failed/2, [], Child),
    tell_started(Child, Result, Removed),
    linger(Child).

%% Processes that a failed start left behind end with their keeper, but may first write their crash
%% reports.
linger(#child{context = #{tag := Tag, tracker := Tracker}} = Child) ->
    case started_by(self()) of
        [] ->
            end_keeper(Child);
        Left ->
            receive
                {Tag, stop_zone} -> exit(shutdown);
                {'EXIT', Tracker, _} -> linger_unless_dead(Tracker, Child);
                {'EXIT', _, _} -> linger(Child)
            after ?GRACE ->
                lists:any(fun is_writing/1, Left) andalso linger(Child),
                lists:foreach(fun unlink/1, links(Child) -- Left),
                exit(shutdown)
            end
    end.

-spec linger_unless_dead(Tracker :: pid(), #child{}) -> no_return().
linger_unless_dead(Tracker, Child) ->
    is_process_alive(Tracker) andalso linger(Child),
    exit(shutdown).

%% Returns whether a process is writing a log event.
is_writing(Pid) ->
    case process_info(Pid, current_stacktrace) of
        {current_stacktrace, Frames} ->
            lists:any(fun({Module, Function, _, _}) -> writes(Module, Function) end, Frames);
        undefined ->
            false
    end.

writes(proc_lib, crash_report) -> true;
writes(Module, _) -> lists:prefix("logger", atom_to_list(Module)).

%%% While the child runs

%% A remote call: a keeper that has received a message goes on in new code.
wait(Child) ->
    ?MODULE:loop(Child).

%% @private
-spec loop(#child{}) -> no_return().
loop(#child{context = #{tracker := Tracker, tag := Tag}, pid = Pid, monitor = Monitor} = Child) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            terminated(Child, exit_reason(Child, Reason));
        {'EXIT', Pid, Reason} ->
            wait(Child#child{exited = {exited, Reason}});
        {Tag, died, Pid, Reason} ->
            %% The registrar was told before this process, whose monitor may have come too late.
            wait(Child#child{exited = {exited, Reason}});
        {Tag, stop} ->
            forget(Child),
            end_keeper(Child);
        {Tag, stop_zone} ->
            forget(Child),
            exit(shutdown);
        {Tag, conflict, Pid, Winner, Decision} ->
            lost(Child, Winner, Decision);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso wait(Child),
            forget(Child),
            exit(shutdown);
        ?DETACHED ->
            is_detached(Child) andalso end_keeper(Child),
            wait(Child);
        _ ->
            wait(Child)
    after ?IDLE ->
        proc_lib:hibernate(?MODULE, loop, [Child])
    end.

%% Any process may send `?DETACHED', but only the table can detach a child.
is_detached(Child) ->
    unless_gone(fun proctab_nif:kept/2, [zone(Child), self()]) =:= undefined.

exit_reason(#child{exited = {exited, Reason}}, noproc) ->
    Reason;
exit_reason(#child{registrar = Registrar} = Child, noproc) when is_pid(Registrar) ->
    await_reason(Registrar, Child);
exit_reason(#child{pid = Pid}, noproc) ->
    %% As long as there is a link, the exit signal is still to come.
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

forget(Child) ->
    Reason = stop_child(Child),
    after_terminate(Child, Reason),
    remove(Child).

%% The child has lost a conflict with another member's child. The mark in the row prevents that any
%% keeper starts it again.
lost(Child, Winner, Decision) ->
    case change_row(fun proctab_nif:stop/3, [self()], Child) of
        false ->
            wait(Child);
        _ ->
            hand_over_to(Winner, Decision, Child),
            _ = stop_child(Child),
            after_terminate(Child, {conflict, Winner}),
            finish(Child)
    end.

%% Gives the child its shutdown time to hand over, unless the keeper is told to stop meanwhile.
hand_over_to(_, stop, _) ->
    ok;
hand_over_to(Winner, {hand_over, Term}, #child{context = Context, pid = Pid} = Child) ->
    #{tracker := Tracker, tag := Tag} = Context,
    #child{monitor = Monitor, spec = {_, _, Shutdown, _, _}} = Child,
    Pid ! {gen_tracker_cluster, hand_over, Winner, Term},
    receive
        {'DOWN', Monitor, process, Pid, _} = Down -> self() ! Down;
        {Tag, stop} -> ok;
        {Tag, stop_zone} -> ok;
        {'EXIT', Tracker, _} -> ok
    after gen_tracker_spec:start_timeout(Shutdown) -> ok
    end,
    ok.

-spec end_keeper(#child{}) -> no_return().
end_keeper(Child) ->
    hand_over(Child),
    exit(shutdown).

%% Gives the processes that the start function linked to the keeper, beside the child, to the
%% tracker. They are always linked to one of the two. If the tracker has ended, they end with the
%% keeper.
hand_over(#child{context = #{tracker := Tracker, tag := Tag}} = Child) ->
    case links(Child) of
        [] ->
            ok;
        Pids ->
            TrackerEnds = monitor(process, Tracker),
            Tracker ! {Tag, inherit, self(), Pids},
            receive
                {Tag, inherited} ->
                    demonitor(TrackerEnds, [flush]),
                    lists:foreach(fun unlink/1, Pids);
                {'DOWN', TrackerEnds, process, _, _} ->
                    exit(shutdown)
            end
    end.

%% The processes that are linked to this one, except the tracker.
links(#child{context = #{tracker := Tracker}}) ->
    {links, Links} = process_info(self(), links),
    [Pid || Pid <- Links, is_pid(Pid), Pid =/= Tracker].

%%% After a death

terminated(#child{spec = {_, Restart, _, _, _}} = Child, Reason) ->
    _ = (Restart =:= permanent orelse is_abnormal(Reason)) andalso
        report_error(child_terminated, Reason, Child),
    settle(Child, Reason),
    after_terminate(Child, Reason),
    cleaned_up(Child, Reason).

%% Tells the tracker that a transient child has ended normally: a keeper that adopts the row later
%% would not know the reason, and would restart the child.
settle(#child{context = Context, spec = {_, transient, _, _, _}}, Reason) ->
    #{tracker := Tracker, tag := Tag} = Context,
    _ = is_abnormal(Reason) orelse (Tracker ! {Tag, settled, self()}),
    ok;
settle(_, _) ->
    ok.

%% @doc Returns whether a transient child with this exit reason is restarted.
-spec is_abnormal(Reason :: term()) -> boolean().
is_abnormal(normal) -> false;
is_abnormal(shutdown) -> false;
is_abnormal({shutdown, _}) -> false;
is_abnormal(_) -> true.

cleaned_up(Child, Reason) ->
    case is_restarted(Child, Reason) of
        true ->
            %% Until the next start, no process may be linked to the keeper.
            hand_over(Child),
            restart_in_time(Child);
        false ->
            finish(Child)
    end.

is_restarted(#child{context = #{restart := false}}, _) -> false;
is_restarted(#child{spec = {_, permanent, _, _, _}}, _) -> true;
is_restarted(#child{spec = {_, temporary, _, _, _}}, _) -> false;
is_restarted(#child{spec = {_, transient, _, _, _}}, Reason) -> is_abnormal(Reason).

-spec finish(#child{}) -> no_return().
finish(Child) ->
    remove(Child),
    end_keeper(Child).

%% Restarts a child, with a delay if it was restarted too often.
restart_in_time(#child{since = Since, restarts = Restarts, is_slowed = IsSlowed} = Child) ->
    Now = now_ms(),
    Recent = [Time || Time <- Restarts, Now - Time < ?PERIOD],
    if
        Now - Since >= ?PERIOD ->
            Fresh = Child#child{restarts = [Now], is_slowed = false, delay = ?FIRST_DELAY},
            restart(Fresh);
        IsSlowed ->
            slow_down(Child);
        length(Recent) < ?INTENSITY ->
            restart(Child#child{restarts = [Now | Recent]});
        true ->
            ?LOG_ERROR(#{label => {gen_tracker, restarts_slowed}, zone => zone(Child),
                         name => Child#child.name, restarts => ?INTENSITY, period => ?PERIOD}),
            slow_down(Child#child{is_slowed = true})
    end.

slow_down(Child) ->
    case change_row(fun proctab_nif:slowed/2, [], Child) of
        true -> delay(start_timer(Child), Child);
        false -> finish(Child)
    end.

restart(#child{spec = Spec} = Child) ->
    restart(Spec, Child).

%% A child that is marked to stop is not restarted, and no child of a zone that stops.
restart(Spec, Child) ->
    end_left(),
    case change_row(fun proctab_nif:restarting/2, [], Child) of
        true -> start_again(Spec, Child);
        false -> finish(Child)
    end.

%% Ends the processes that a failed restart left behind, except those that are writing their crash
%% reports.
end_left() ->
    [exit(Pid, shutdown) || Pid <- started_by(self()), not is_writing(Pid)],
    ok.

start_again(Spec, Child) ->
    case start_child(Spec, Child) of
        {started, #child{is_slowed = true} = Running} -> wait(Running);
        {started, Running} -> wait(Running#child{delay = ?FIRST_DELAY});
        {failed, Kind, Result} -> not_restarted(Child, Kind, Result);
        stopped -> end_keeper(Child)
    end.

not_restarted(#child{spec = {_, permanent, _, _, _}} = Child, error, {error, Reason}) ->
    report_error(start_error, Reason, Child),
    pend(Child, {error, Reason});
not_restarted(#child{name = Name} = Child, Kind, Result) ->
    _ = Kind =:= ignore orelse report_error(start_error, reason(Result), Child),
    ?LOG_ERROR(#{label => {gen_tracker, not_restarted}, zone => zone(Child), name => Name,
                 result => Result}),
    give_up(Child, Result).

%% Waits for the next attempt after a failed restart. The tracker asks for an earlier one only after
%% it has handled the result: who gets that makes no attempt.
-spec pend(#child{}, result()) -> no_return().
pend(#child{context = #{tracker := Tracker, tag := Tag}} = Child, Result) ->
    drop_obsolete(Child),
    IsPending = change_row(fun proctab_nif:pending/2, [], Child),
    tell_launched(Child, Result),
    case IsPending of
        true ->
            Timer = start_timer(Child),
            Tracker ! {Tag, pending, self(), Timer},
            delay(Timer, Child);
        false ->
            remove(Child),
            linger(Child)
    end.

reason({error, Reason}) -> Reason;
reason(Result) -> Result.

%% Removes messages that the last attempt has made obsolete: retry requests, whose callers get the
%% result of that attempt, and exit signals of linked processes.
drop_obsolete(#child{context = #{tracker := Tracker, tag := Tag}} = Child) ->
    receive
        {Tag, retry, _, _} -> drop_obsolete(Child);
        {'EXIT', Pid, _} when Pid =/= Tracker -> drop_obsolete(Child)
    after 0 -> ok
    end.

start_timer(#child{delay = Delay}) ->
    erlang:start_timer(Delay, self(), retry).

delay(Timer, #child{delay = Delay} = Child) ->
    Later = Child#child{delay = min(Delay + ?MORE_DELAY, ?LONGEST_DELAY)},
    proc_lib:hibernate(?MODULE, delayed, [Later, Timer]).

%% @private Waits for the next attempt to restart the child.
-spec delayed(#child{}, Timer :: reference()) -> no_return().
delayed(#child{context = #{tracker := Tracker, tag := Tag}} = Child, Timer) ->
    receive
        {timeout, Timer, retry} ->
            restart(Child);
        {Tag, retry, Timer, Spec} ->
            _ = erlang:cancel_timer(Timer),
            retry_with(Spec, Child);
        {Tag, stop} ->
            remove(Child),
            linger(Child);
        {Tag, stop_zone} ->
            remove(Child),
            exit(shutdown);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso proc_lib:hibernate(?MODULE, delayed, [Child, Timer]),
            exit(shutdown);
        _ ->
            proc_lib:hibernate(?MODULE, delayed, [Child, Timer])
    end.

%% Restarts the child with the spec of a `find_or_open'. It replaces the child's spec if the start
%% succeeds.
retry_with(Spec, #child{spec = Own} = Child) ->
    end_left(),
    case change_row(fun proctab_nif:restarting/2, [], Child) of
        true ->
            With = Child#child{spec = gen_tracker_spec:stored(Spec)},
            _ = change_row(fun proctab_nif:respec/3, [gen_tracker_spec:stored(Spec)], Child),
            case start_child(Spec, With) of
                {started, Running} ->
                    wait(Running#child{delay = ?FIRST_DELAY});
                {failed, Kind, Result} when With#child.spec =:= Own ->
                    not_restarted(Child, Kind, Result);
                {failed, _, Result} ->
                    _ = change_row(fun proctab_nif:respec/3, [Own], Child),
                    pend(Child, Result);
                stopped ->
                    end_keeper(Child)
            end;
        false ->
            finish(Child)
    end.

%%% Stopping

%% Stops the child as its shutdown demands. Returns its exit reason.
stop_child(#child{spec = {_, Restart, Shutdown, _, _}} = Child) ->
    Reason = end_process(Child, Shutdown),
    _ = is_expected(Reason, Shutdown, Restart) orelse report_error(shutdown_error, Reason, Child),
    Reason.

end_process(#child{pid = Pid} = Child, brutal_kill) ->
    exit(Pid, kill),
    await_end(Child, infinity);
end_process(#child{pid = Pid} = Child, Shutdown) ->
    exit(Pid, shutdown),
    await_end(Child, Shutdown).

await_end(#child{pid = Pid, monitor = Monitor} = Child, Time) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            exit_reason(Child, Reason)
    after Time ->
        exit(Pid, kill),
        await_end(Child, infinity)
    end.

%% Returns whether `supervisor' would accept this exit reason of a child that it stops.
is_expected(killed, brutal_kill, _) -> true;
is_expected(shutdown, Shutdown, _) when Shutdown =/= brutal_kill -> true;
is_expected(_, _, permanent) -> false;
is_expected(Reason, _, _) -> not is_abnormal(Reason).

remove(Child) ->
    _ = change_row(fun proctab_nif:remove/2, [], Child),
    ok.

%% Calls a function that changes the keeper's own row. Returns `false' when the row belongs to
%% another keeper by now, or the zone has ended.
change_row(Function, Args, #child{context = #{zone := Zone}, name = Name}) ->
    unless_gone(Function, [Zone, Name | Args]).

unless_gone(Function, Args) ->
    try
        apply(Function, Args)
    catch
        error:badarg -> false
    end.

after_terminate(#child{spec = {MFA, _, _, _, _}} = Child, Reason) ->
    Own = change_row(fun proctab_nif:terminating/3, [Reason], Child),
    emit_down(Own, Reason, Child),
    case callback(MFA) of
        undefined ->
            ok;
        {Module, Arity} ->
            Timer = start_cleanup_timer(Own, Child),
            %% The zone has ended. Attributes of the same name now belong to another zone.
            Attrs =
                case Own of
                    false -> [];
                    _ -> attributes(Child)
                end,
            Args = lists:sublist([Child#child.name, Attrs, Reason], Arity),
            call_back(Module, Args, Reason, Child),
            recover(Child),
            cancel_cleanup_timer(Timer)
    end.

%% Asks the tracker to end a callback that delays a stop for too long.
start_cleanup_timer(stopping, #child{context = Context, spec = {_, _, Shutdown, _, _}}) ->
    #{tracker := Tracker, tag := Tag} = Context,
    Time = gen_tracker_spec:cleanup_timeout(Shutdown),
    erlang:send_after(Time, Tracker, {Tag, overtime, self(), cleanup});
start_cleanup_timer(_, _) ->
    none.

cancel_cleanup_timer(none) ->
    ok;
cancel_cleanup_timer(Timer) ->
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    ok.

call_back(Module, Args, ExitReason, #child{name = Name} = Child) ->
    Begin = gen_tracker_telemetry:now(Child#child.context),
    Emit = fun(End, More) ->
        Metadata = More#{module => Module, exit_reason => ExitReason},
        emit_since(Begin, [after_terminate, End], fun() -> Metadata end, Child)
    end,
    try apply(Module, after_terminate, Args) of
        _ -> Emit(stop, #{})
    catch
        Class:Error:Stacktrace ->
            Emit(exception, #{kind => Class, reason => Error, stacktrace => Stacktrace}),
            ?LOG_ERROR(#{label => {gen_tracker, after_terminate_error}, zone => zone(Child),
                         name => Name, module => Module, class => Class, reason => Error,
                         stacktrace => Stacktrace}),
            ok
    end.

attributes(#child{name = Name} = Child) ->
    try
        proctab_nif:attrs(zone(Child), Name)
    catch
        error:badarg -> []
    end.

callback(undefined) ->
    undefined;
callback({Module, _, _}) ->
    _ = code:ensure_loaded(Module),
    Arities = [Arity || Arity <- [3, 2], erlang:function_exported(Module, after_terminate, Arity)],
    case Arities of
        [Arity | _] -> {Module, Arity};
        [] -> undefined
    end.

%%% Reports

report_start(_, #child{context = #{reports := false}}) ->
    ok;
report_start(Spec, #child{name = Name, pid = Pid} = Child) ->
    gen_tracker_reports:progress(zone(Child), Pid, Name, Spec).

report_error(_, _, #child{context = #{reports := false}}) ->
    ok;
report_error(Error, Reason, #child{name = Name, pid = Pid, spec = Spec} = Child) ->
    Offender = gen_tracker_reports:child(Pid, Name, Spec),
    gen_tracker_reports:error(Error, Reason, zone(Child), Offender).

%%% Telemetry

%% A row that belongs to this keeper no more belongs to another one, or its zone has ended: then no
%% other process tells of the death.
emit_down(false, Reason, #child{context = #{tracker := Tracker}} = Child) ->
    _ = is_process_alive(Tracker) orelse emit_change({down, Reason}, Child),
    ok;
emit_down(_, Reason, Child) ->
    emit_change({down, Reason}, Child).

emit_change(Change, #child{context = Context, name = Name, pid = Pid}) ->
    gen_tracker_telemetry:child(Context, Change, Name, Pid).

emit_since(Begin, Event, Metadata, #child{context = Context, name = Name} = Child) ->
    gen_tracker_telemetry:since(Begin, fun(Measurements) ->
        Named = (Metadata())#{zone => zone(Child), name => Name},
        gen_tracker_telemetry:emit(Context, Event, Measurements, Named)
    end).

zone(#child{context = #{zone := Zone}}) ->
    Zone.

now_ms() ->
    erlang:monotonic_time(millisecond).
