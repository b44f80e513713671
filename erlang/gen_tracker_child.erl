%% @private
%% The process beside each child of a zone: its keeper.
%%
%% A keeper is linked to the tracker and is the parent of its child. It runs the start function,
%% so that a slow start holds up nobody, waits for the child's death, runs `after_terminate',
%% cleans up, and starts the child again where its restart type says so. The tracker decides who
%% gets a name, and answers the callers who wait for one.
%%
%%   tracker                                keeper
%%      | spawn, link, monitor; insert the row    |
%%      | -- {Tag, launch | attach | adopt} ----> |  attach is sent before the insertion,
%%      | -- {Tag, attached} -------------------> |  and this after it
%%      |                                         |  start function, running/3 in the table
%%      | -- {Tag, died, Child, Reason} --------> |  why an attached child ended
%%      | <- {Tag, launched, Keeper, Result} ---- |
%%      | -- {Tag, stop} -----------------------> |  stop the child and forget it
%%      | -- {Tag, stop_zone} ------------------> |  likewise, because the zone stops
%%      | -- {Tag, retry, Spec} ----------------> |  try a failed restart now, with this spec
%%      | <- {Tag, settled, Keeper} ------------- |  the child has ended for good
%%      | <- {Tag, overtime, Keeper, cleanup} --- |  after_terminate has had its time
%%      | <- {Tag, inherit, Keeper, Pids} ------- |  processes that the start function left linked
%%      | -- {Tag, inherited} ------------------> |  the tracker is linked to them
%%      |           the table -- detached ------> |  the child was unregistered and lives on
%%      | <- EXIT, DOWN ------------------------- |  name and attributes have left the table
%%
%% `Tag' is a reference that only the processes of the zone know, so a stranger's message changes
%% nothing. What it says is checked against the table all the same where it may be late.
%%
%% Start functions and `after_terminate' are foreign code that runs in this process: they may
%% flush its mailbox, unlink it, and change its flags. Therefore
%% <ul>
%% <li>whether a child is to stop is marked in the table, not only in the mailbox: `running/3',
%%     `terminating/3' and `restarting/2' answer accordingly;</li>
%% <li>{@link recover/1} restores flag and link after each such call;</li>
%% <li>the tracker monitors the keeper and looks for its row whatever the reason of its end;</li>
%% <li>time limits for such a call are kept by the tracker or, when the zone stops, by
%%     `gen_tracker_shutdown'. Both kill the keeper, and another one adopts the row.</li>
%% </ul>
%%
%% The child's state is written to the table before the tracker is told, so what the tracker reads
%% there is never older than the messages that it has handled.
%%
%% Keepers hibernate while they wait: they keep no garbage, and no old code when this module is
%% reloaded.
-module(gen_tracker_child).

-export([check/1, is_spec/1, stored/1, to_map/2]).
-export([start/1, launch/3, attach/3, attached/2, died/4, adopt/5, stop/2, stop_zone/2, retry/3]).
-export([inherited/2, discard/1, is_alive/1, patience/1, started_by/1, label/1]).
-export([init/1, loop/1, delayed/2]).

-export_type([spec/0, result/0, context/0]).

-include_lib("kernel/include/logger.hrl").

-type spec() :: {MFA :: gen_tracker:mfargs() | undefined, gen_tracker:restart(),
                 gen_tracker:shutdown(), gen_tracker:child_type(), Modules :: term()}.
-type result() :: gen_tracker:start_result().
%% What all keepers of a zone have in common.
-type context() :: #{tracker := pid(),
                     %% Known to the processes of this zone alone.
                     tag := reference(),
                     zone := gen_tracker:zone(),
                     restart := boolean(),
                     reports := boolean(),
                     %% Of the keeper itself, as `proc_lib' has begun it.
                     dictionary => [{term(), term()}]}.

-define(FIRST_DELAY, 50).
-define(MORE_DELAY, 150).
-define(LONGEST_DELAY, 5000).
%% So many restarts within so many milliseconds are made at once.
-define(INTENSITY, 10).
-define(PERIOD, 10000).
%% The longest time that a process can wait for a message, in milliseconds.
-define(LONGEST_WAIT, 16#ffffffff).
%% What `after_terminate' has when the child is to stop, at least, and for the shutdown `infinity'.
-define(LEAST_PATIENCE, 3000).
-define(MOST_PATIENCE, 60000).
%% How long what a failed start has left behind may take to end by itself, in milliseconds.
-define(GRACE, 1000).
-define(DETACHED, '$proctab_detached').

-record(child, {
    context :: context(),
    name :: gen_tracker:name(),
    spec :: spec(),
    pid :: pid() | undefined,
    monitor :: reference() | undefined,
    %% What its exit signal said, if there was a link. Its monitor may have come too late to know.
    exited = unknown :: unknown | {exited, Reason :: term()},
    %% When the child began to run, in milliseconds.
    since = 0 :: integer(),
    %% When it was restarted within the last ?PERIOD, latest first.
    restarts = [] :: [integer()],
    %% Whether restarts wait, because there were too many.
    is_slowed = false :: boolean(),
    %% Milliseconds until the next try.
    delay = ?FIRST_DELAY :: pos_integer()
}).


%%% Child specs

%% @doc The name and the spec that any of the forms of a child spec says; the error is that of
%% `supervisor:check_childspecs/1'.
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

normalize({Name, MFA, Restart, Shutdown, Type, Mods})
        when is_integer(Shutdown), Shutdown > ?LONGEST_WAIT ->
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
    normalize({Name, MFA, maps:get(restart, Spec, permanent), maps:get(shutdown, Spec, Shutdown),
               Type, maps:get(modules, Spec, [Module])}).

%% @doc Whether a term is what {@link check/1} makes of a child spec. The modules may be anything,
%% and a process that was added need not have a start function.
-spec is_spec(term()) -> boolean().
is_spec({MFA, Restart, Shutdown, Type, _Mods}) ->
    is_start(MFA) andalso
        lists:member(Restart, [permanent, transient, temporary]) andalso
        lists:member(Type, [worker, supervisor]) andalso
        (Shutdown =:= brutal_kill orelse Shutdown =:= infinity orelse
            is_integer(Shutdown) andalso Shutdown >= 0 andalso Shutdown =< ?LONGEST_WAIT);
is_spec(_) ->
    false.

is_start(undefined) -> true;
is_start({M, F, Args}) -> is_atom(M) andalso is_atom(F) andalso is_list(Args);
is_start(_) -> false.

%% @doc The spec that the table keeps: without the arguments of a start that is never made again.
-spec stored(spec()) -> spec().
stored({{Module, Function, _}, temporary, Shutdown, Type, Mods}) ->
    {{Module, Function, undefined}, temporary, Shutdown, Type, Mods};
stored(Spec) ->
    Spec.

%% @doc A child spec as `supervisor:get_childspec/2' gives it.
-spec to_map(gen_tracker:name(), spec()) -> map().
to_map(Name, {MFA, Restart, Shutdown, Type, Mods}) ->
    #{id => Name, start => MFA, restart => Restart, significant => false, shutdown => Shutdown,
      type => Type, modules => Mods}.

%%% For the tracker

%% @doc Starts a keeper, linked to the calling tracker and monitored by it: its end is told as
%% `{{Tag, keeper}, Monitor, process, Keeper, Reason}'. It waits to be told what to do.
-spec start(context()) -> pid().
start(#{tag := Tag} = Context) ->
    Options = [link, {monitor, [{tag, {Tag, keeper}}]}],
    {Keeper, _} = proc_lib:spawn_opt(?MODULE, init, [Context], Options),
    Keeper.

%% @doc Has a keeper start the child whose row it has.
-spec launch(pid(), context(), spec()) -> ok.
launch(Keeper, Context, Spec) ->
    tell(Keeper, Context, launch, Spec).

%% @doc Gives a keeper a child that runs and is about to be put into the table; {@link attached/2}
%% says that it is there.
%%
%% The tracker monitors the child as well, until it is told `launched': the keeper's monitor may
%% come too late to know why the child ends. The tracker passes on what it is sent,
%% `{{Tag, attached, Keeper}, Monitor, process, Child, Reason}', by {@link died/4}.
-spec attach(pid(), context(), Child :: pid()) -> Monitor :: reference().
attach(Keeper, #{tag := Tag} = Context, Child) ->
    Monitor = monitor_now(Child, [{tag, {Tag, attached, Keeper}}]),
    ok = tell(Keeper, Context, attach, Child),
    Monitor.

%% @doc The child that a keeper was given is in the table.
-spec attached(pid(), context()) -> ok.
attached(Keeper, Context) ->
    tell(Keeper, Context, attached).

%% @doc Tells a keeper why the child ended that it was given.
-spec died(pid(), context(), Child :: pid(), Reason :: term()) -> ok.
died(Keeper, #{tag := Tag}, Child, Reason) ->
    Keeper ! {Tag, died, Child, Reason},
    ok.

%% @doc Has a keeper go on with the row of one that ended for `Reason', in whatever state it is.
%% `Times' says when keepers of that row have ended lately, in milliseconds, the latest first. Each
%% counts as a restart. `IsSettled' says that the child has ended and is not to be started again.
-spec adopt(pid(), context(), Reason :: term(), Times :: [integer()], IsSettled :: boolean()) -> ok.
adopt(Keeper, Context, Reason, Times, IsSettled) ->
    tell(Keeper, Context, adopt, {Reason, Times, IsSettled}).

%% @doc Has a keeper stop its child and forget it. The row was marked before.
-spec stop(pid(), context()) -> ok.
stop(Keeper, Context) ->
    tell(Keeper, Context, stop).

%% @doc Likewise when the whole zone stops.
-spec stop_zone(pid(), Tag :: reference()) -> ok.
stop_zone(Keeper, Tag) ->
    Keeper ! {Tag, stop_zone},
    ok.

%% @doc Has a keeper make the next try of a failed restart now, with another spec.
-spec retry(pid(), context(), spec()) -> ok.
retry(Keeper, Context, Spec) ->
    tell(Keeper, Context, retry, Spec).

%% @doc Tells a keeper that the caller is linked to what it has handed over.
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

%% @doc Ends a keeper that was told nothing yet.
-spec discard(pid()) -> ok.
discard(Keeper) ->
    unlink(Keeper),
    exit(Keeper, kill),
    receive
        {'EXIT', Keeper, _} -> ok
    after 0 -> ok
    end.

%% @doc Whether a process is alive, as far as this node knows: those of other nodes count as alive.
-spec is_alive(pid()) -> boolean().
is_alive(Pid) ->
    node(Pid) =/= node() orelse is_process_alive(Pid).

%% @doc How long `after_terminate' may hold up a stop, in milliseconds.
-spec patience(gen_tracker:shutdown()) -> pos_integer().
patience(brutal_kill) -> ?LEAST_PATIENCE;
patience(infinity) -> ?MOST_PATIENCE;
patience(Shutdown) -> max(Shutdown, ?LEAST_PATIENCE).

%% @doc The processes that a keeper has started and is still linked to.
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
    keep(Context#{dictionary => get()}).

keep(#{tag := Tag, tracker := Tracker} = Context) ->
    receive
        {Tag, launch, Spec} ->
            with_row(Context, fun(_, _, Child) -> launch_first(Spec, Child) end);
        {Tag, attach, Pid} ->
            attach_to(Pid, monitor_now(Pid, []), Context);
        {Tag, adopt, {Reason, Times, IsSettled}} ->
            with_row(Context, fun(State, Pid, Child) ->
                adopted(IsSettled, State, Pid, after_keepers(Times, Child), Reason)
            end);
        {Tag, stop_zone} ->
            exit(shutdown);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso keep(Context),
            exit(shutdown)
    end.

attach_to(Pid, Monitor, #{tag := Tag, tracker := Tracker} = Context) ->
    receive
        {Tag, attached} ->
            Look = fun(_, _, Child) -> look(Child#child{pid = Pid, monitor = Monitor}) end,
            with_row(Context, Look);
        {Tag, stop_zone} ->
            exit(shutdown);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso attach_to(Pid, Monitor, Context),
            exit(shutdown)
    end.

%% Name and spec come from the table: the table's copies keep no larger binary alive. Without a
%% row the child was unregistered meanwhile, or its zone has gone.
-spec with_row(context(), fun((proctab_nif:state(), pid() | undefined, #child{}) -> no_return())) ->
          no_return().
with_row(#{zone := Zone} = Context, Run) ->
    case own(fun proctab_nif:kept/2, [Zone, self()]) of
        {Name, State, Pid, Spec} ->
            label({?MODULE, Zone, Name}),
            Run(State, Pid, #child{context = Context, name = Name, spec = Spec, since = now_ms()});
        _ ->
            exit(shutdown)
    end.

%% @doc Says what the calling process is, where processes can do so: since OTP 27.
-spec label(term()) -> ok.
label(Label) ->
    Library = proc_lib,
    case erlang:function_exported(Library, set_label, 1) of
        true -> Library:set_label(Label);
        false -> ok
    end.

launch_first(Spec, Child) ->
    case start_child(Spec, Child) of
        {started, Running} ->
            wait(Running);
        {failed, _, Result} ->
            give_up(Child, Result);
        stopped ->
            leave(Child)
    end.

%% If the process is alive, the monitor, which was sent before, will know why it ends. If it was
%% dead before there was a monitor, the tracker knows, who has monitored it for longer.
look(#child{pid = Pid} = Child) ->
    case is_alive(Pid) of
        true ->
            tell_launched(Child, {ok, Pid}),
            wait(Child);
        false ->
            attached_dead(Child, death(Child))
    end.

death(#child{pid = Pid, monitor = Monitor, context = #{tag := Tag, tracker := Tracker}}) ->
    receive
        {'DOWN', Monitor, process, Pid, noproc} ->
            TrackerEnds = monitor(process, Tracker),
            receive
                {Tag, died, Pid, Reason} ->
                    demonitor(TrackerEnds, [flush]),
                    Reason;
                {'DOWN', TrackerEnds, process, _, _} ->
                    noproc
            end;
        {'DOWN', Monitor, process, Pid, Reason} ->
            Reason
    end.

attached_dead(#child{pid = Pid} = Child, Reason) ->
    tell_launched(Child, {ok, Pid}),
    terminated(Child, exit_reason(Child, Reason)).

after_keepers(Times, Child) ->
    Number = length(Times),
    Delay = min(?FIRST_DELAY + ?MORE_DELAY * (Number - 1), ?LONGEST_DELAY),
    Child#child{restarts = Times, is_slowed = Number > ?INTENSITY, delay = Delay}.

adopted(true, _, _, Child, _) -> end_of(Child);
adopted(false, State, Pid, Child, Reason) -> adopted(State, Pid, Child, Reason).

adopted(running, Pid, Child, _) ->
    %% There may have been no time to tell.
    tell_launched(Child, {ok, Pid}),
    wait(watch(Pid, Child));
adopted(launching, _, Child, Reason) ->
    give_up(Child, {error, Reason});
adopted(terminating, _, Child, _) ->
    %% after_terminate may have been called, and is never called twice. The child has not ended for
    %% good; see settle/2.
    cleaned_up(Child, killed);
adopted(restarting, _, Child, Reason) ->
    not_restarted(Child, error, {error, Reason});
adopted(slowed, _, Child, _) ->
    slow_down(Child#child{is_slowed = true});
adopted(pending, _, Child, _) ->
    restart(Child).

%%% Starting

%% Runs the start function, and registers what it started.
start_child({MFA, _, _, _, _} = Spec, Child) ->
    Result = call_start(MFA, Child),
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
    case node(Pid) =:= node() andalso own(fun proctab_nif:kept/2, [zone(Child), Pid]) of
        {_, _, _, _} -> improper(Result, Child);
        _ -> {ok, Pid}
    end.

improper(Result, Child) ->
    log_start_error(Result, #{}, Child),
    {failed, improper, {error, {bad_return_value, Result}}}.

call_start({Module, Function, Args}, Child) ->
    try
        apply(Module, Function, Args)
    catch
        Class:Reason:Stacktrace ->
            log_start_error(Reason, #{class => Class, stacktrace => Stacktrace}, Child),
            {error, Reason}
    end.

log_start_error(Reason, Details, #child{context = #{zone := Zone}, name = Name, spec = Spec}) ->
    ?LOG_ERROR(Details#{label => {gen_tracker, start_error}, zone => Zone, name => Name,
                        start => start_of(Spec), reason => Reason}).

%% The arguments may be anything that is called a list.
start_of({{Module, Function, Args}, _, _, _, _}) when length(Args) >= 0 ->
    {Module, Function, length(Args)};
start_of({{Module, Function, _}, _, _, _, _}) ->
    {Module, Function}.

%% Undoes what foreign code may have done to the keeper.
recover(#child{context = #{tracker := Tracker, dictionary := Dictionary}}) ->
    process_flag(trap_exit, true),
    process_flag(priority, normal),
    %% What `proc_lib' has put there: the ancestors of the next child.
    lists:foreach(fun({Key, Value}) -> put(Key, Value) end, Dictionary),
    %% A tracker that is dead is told by an exit signal.
    true = link(Tracker).

registered(Pid, Result, Spec, Child) ->
    Running = watch(Pid, Child),
    case say(fun proctab_nif:running/3, [Pid], Child) of
        true ->
            tell_launched(Child, Result),
            report(Running#child{spec = Spec}, progress),
            {started, Running};
        stopping ->
            %% First the answer: the child may be waiting for it in `init_ack'.
            tell_launched(Child, {error, killed}),
            %% The start is over, and its time limit is no concern of the child.
            _ = say(fun proctab_nif:terminating/3, [killed], Child),
            end_unregistered(Running),
            remove(Child),
            stopped;
        false ->
            %% The zone has gone meanwhile.
            end_unregistered(Running),
            exit(shutdown)
    end.

%% No table has it, so it ends also when this keeper is killed.
end_unregistered(#child{pid = Pid, spec = {_, _, Shutdown, _, _}}) ->
    gen_tracker_shutdown:end_apart(Pid, Shutdown).

tell_launched(#child{context = #{tracker := Tracker, tag := Tag}}, Result) ->
    Tracker ! {Tag, launched, self(), Result},
    ok.

%% A process may keep its latest monitor to itself for as long as it runs. This one has been sent,
%% for the next one pushed it out, and its own end that one.
monitor_now(Pid, Options) ->
    Monitor = monitor(process, Pid, Options),
    true = demonitor(monitor(process, Pid), [flush]),
    Monitor.

watch(Pid, Child) ->
    Monitor = monitor_now(Pid, []),
    Child#child{pid = Pid, monitor = Monitor, exited = unknown, since = now_ms()}.

give_up(Child, Result) ->
    remove(Child),
    tell_launched(Child, Result),
    linger(Child).

%% What a failed start has left behind ends with its keeper. But first it may write its crash
%% report, if it has one to write.
linger(#child{context = #{tag := Tag, tracker := Tracker}} = Child) ->
    case started_by(self()) of
        [] ->
            leave(Child);
        Left ->
            receive
                {Tag, stop_zone} -> exit(shutdown);
                {'EXIT', Tracker, _} -> linger_without(Tracker, Child);
                {'EXIT', _, _} -> linger(Child)
            after ?GRACE ->
                lists:any(fun is_writing/1, Left) andalso linger(Child),
                lists:foreach(fun unlink/1, links(Child) -- Left),
                exit(shutdown)
            end
    end.

-spec linger_without(Tracker :: pid(), #child{}) -> no_return().
linger_without(Tracker, Child) ->
    is_process_alive(Tracker) andalso linger(Child),
    exit(shutdown).

%% Whether a process is writing to the log.
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

wait(Child) ->
    proc_lib:hibernate(?MODULE, loop, [Child]).

%% @private
-spec loop(#child{}) -> no_return().
loop(#child{context = #{tracker := Tracker, tag := Tag}, pid = Pid, monitor = Monitor} = Child) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            terminated(Child, exit_reason(Child, Reason));
        {'EXIT', Pid, Reason} ->
            wait(Child#child{exited = {exited, Reason}});
        {Tag, stop} ->
            forget(Child),
            leave(Child);
        {Tag, stop_zone} ->
            forget(Child),
            exit(shutdown);
        {'EXIT', Tracker, _} ->
            is_process_alive(Tracker) andalso wait(Child),
            forget(Child),
            exit(shutdown);
        ?DETACHED ->
            own(fun proctab_nif:kept/2, [zone(Child), self()]) =:= undefined andalso leave(Child),
            wait(Child);
        _ ->
            wait(Child)
    end.

exit_reason(#child{exited = {exited, Reason}}, noproc) ->
    Reason;
exit_reason(#child{pid = Pid}, noproc) ->
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

forget(Child) ->
    Reason = stop_child(Child),
    after_terminate(Child, Reason),
    remove(Child).

-spec leave(#child{}) -> no_return().
leave(Child) ->
    hand_over(Child),
    exit(shutdown).

%% What the start function has linked to the keeper beside the child lives on, with the tracker. It
%% is never linked to nobody: should the tracker be gone, it ends with the keeper.
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

%% The processes that are linked to this one, besides the tracker.
links(#child{context = #{tracker := Tracker}}) ->
    {links, Links} = process_info(self(), links),
    [Pid || Pid <- Links, is_pid(Pid), Pid =/= Tracker].

%%% After a death

terminated(#child{spec = {_, Restart, _, _, _}} = Child, Reason) ->
    _ = (Restart =:= permanent orelse is_abnormal(Reason)) andalso
        report(Child, {child_terminated, Reason}),
    settle(Child, Reason),
    after_terminate(Child, Reason),
    cleaned_up(Child, Reason).

%% Another keeper may have to go on from here. It cannot know why the child ended, so the tracker is
%% told when that is the end of a transient child.
settle(#child{context = Context, spec = {_, transient, _, _, _}}, Reason) ->
    #{tracker := Tracker, tag := Tag} = Context,
    _ = is_abnormal(Reason) orelse (Tracker ! {Tag, settled, self()}),
    ok;
settle(_, _) ->
    ok.

is_abnormal(normal) -> false;
is_abnormal(shutdown) -> false;
is_abnormal({shutdown, _}) -> false;
is_abnormal(_) -> true.

cleaned_up(Child, Reason) ->
    case is_restarted(Child, Reason) of
        true ->
            %% From here on, only what the next start has started is linked to the keeper.
            hand_over(Child),
            restart_in_time(Child);
        false ->
            end_of(Child)
    end.

is_restarted(#child{context = #{restart := false}}, _) -> false;
is_restarted(#child{spec = {_, permanent, _, _, _}}, _) -> true;
is_restarted(#child{spec = {_, temporary, _, _, _}}, _) -> false;
is_restarted(#child{spec = {_, transient, _, _, _}}, Reason) -> is_abnormal(Reason).

-spec end_of(#child{}) -> no_return().
end_of(Child) ->
    remove(Child),
    leave(Child).

%% At once, if that was not done too often.
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
    case say(fun proctab_nif:slowed/2, [], Child) of
        true -> delay(Child);
        false -> end_of(Child)
    end.

restart(#child{spec = Spec} = Child) ->
    restart(Spec, Child).

%% A child that was marked to stop is not started again, nor one of a zone that stops.
restart(Spec, Child) ->
    end_left(),
    case say(fun proctab_nif:restarting/2, [], Child) of
        true -> start_again(Spec, Child);
        false -> end_of(Child)
    end.

%% What a failed restart has left behind ends before the next one, unless it is still writing its
%% crash report.
end_left() ->
    [exit(Pid, shutdown) || Pid <- started_by(self()), not is_writing(Pid)],
    ok.

start_again(Spec, Child) ->
    case start_child(Spec, Child) of
        {started, #child{is_slowed = true} = Running} -> wait(Running);
        {started, Running} -> wait(Running#child{delay = ?FIRST_DELAY});
        {failed, Kind, Result} -> not_restarted(Child, Kind, Result);
        stopped -> leave(Child)
    end.

not_restarted(#child{spec = {_, permanent, _, _, _}} = Child, error, {error, Reason}) ->
    report(Child, {start_error, Reason}),
    pend(Child, {error, Reason});
not_restarted(#child{name = Name} = Child, Kind, Result) ->
    _ = Kind =:= ignore orelse report(Child, {start_error, reason(Result)}),
    ?LOG_ERROR(#{label => {gen_tracker, not_restarted}, zone => zone(Child), name => Name,
                 result => Result}),
    give_up(Child, Result).

%% Until the next try.
-spec pend(#child{}, result()) -> no_return().
pend(Child, Result) ->
    drain(Child),
    IsPending = say(fun proctab_nif:pending/2, [], Child),
    tell_launched(Child, Result),
    case IsPending of
        true ->
            delay(Child);
        false ->
            remove(Child),
            linger(Child)
    end.

reason({error, Reason}) -> Reason;
reason(Result) -> Result.

%% Takes what has come since the last try: requests that it has answered, and the ends of
%% processes that were linked to this one.
drain(#child{context = #{tracker := Tracker, tag := Tag}} = Child) ->
    receive
        {Tag, retry, _} -> drain(Child);
        {'EXIT', Pid, _} when Pid =/= Tracker -> drain(Child)
    after 0 -> ok
    end.

delay(#child{delay = Delay} = Child) ->
    Later = Child#child{delay = min(Delay + ?MORE_DELAY, ?LONGEST_DELAY)},
    proc_lib:hibernate(?MODULE, delayed, [Later, erlang:start_timer(Delay, self(), retry)]).

%% @private Until the next try to start the child again.
-spec delayed(#child{}, Timer :: reference()) -> no_return().
delayed(#child{context = #{tracker := Tracker, tag := Tag}} = Child, Timer) ->
    receive
        {timeout, Timer, retry} ->
            restart(Child);
        {Tag, retry, Spec} ->
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

%% The spec of the caller who asked takes the place of the child's own, if the start succeeds.
retry_with(Spec, #child{spec = Own} = Child) ->
    end_left(),
    case say(fun proctab_nif:restarting/2, [], Child) of
        true ->
            With = Child#child{spec = stored(Spec)},
            _ = say(fun proctab_nif:respec/3, [stored(Spec)], Child),
            case start_child(Spec, With) of
                {started, Running} ->
                    wait(Running#child{delay = ?FIRST_DELAY});
                {failed, Kind, Result} when With#child.spec =:= Own ->
                    not_restarted(Child, Kind, Result);
                {failed, _, Result} ->
                    _ = say(fun proctab_nif:respec/3, [Own], Child),
                    pend(Child, Result);
                stopped ->
                    leave(Child)
            end;
        false ->
            end_of(Child)
    end.

%%% Stopping

%% Ends the child as its shutdown says; the reason of its exit.
stop_child(#child{spec = {_, Restart, Shutdown, _, _}} = Child) ->
    Reason = end_process(Child, Shutdown),
    _ = is_expected(Reason, Shutdown, Restart) orelse report(Child, {shutdown_error, Reason}),
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

%% As `supervisor' judges the end of a child that it stops.
is_expected(killed, brutal_kill, _) -> true;
is_expected(shutdown, Shutdown, _) when Shutdown =/= brutal_kill -> true;
is_expected(_, _, permanent) -> false;
is_expected(Reason, _, _) -> not is_abnormal(Reason).

remove(Child) ->
    _ = say(fun proctab_nif:remove/2, [], Child),
    ok.

%% What a keeper says of its child to the table is `false' when the row is no longer its own, or
%% the zone is gone.
say(Function, Args, #child{context = #{zone := Zone}, name = Name}) ->
    own(Function, [Zone, Name | Args]).

own(Function, Args) ->
    try
        apply(Function, Args)
    catch
        error:badarg -> false
    end.

after_terminate(#child{spec = {MFA, _, _, _, _}} = Child, Reason) ->
    Own = say(fun proctab_nif:terminating/3, [Reason], Child),
    case callback(MFA) of
        undefined ->
            ok;
        {Module, Arity} ->
            Timer = limit(Own, Child),
            %% The attributes go with the zone, and another zone's are none of ours.
            Attrs =
                case Own of
                    false -> [];
                    _ -> attributes(Child)
                end,
            call_back(Module, lists:sublist([Child#child.name, Attrs, Reason], Arity), Child),
            recover(Child),
            unlimit(Timer)
    end.

%% A callback that holds up a stop is ended by the tracker when its time is over.
limit(stopping, #child{context = Context, spec = {_, _, Shutdown, _, _}}) ->
    #{tracker := Tracker, tag := Tag} = Context,
    erlang:send_after(patience(Shutdown), Tracker, {Tag, overtime, self(), cleanup});
limit(_, _) ->
    none.

unlimit(none) ->
    ok;
unlimit(Timer) ->
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    ok.

call_back(Module, Args, #child{name = Name} = Child) ->
    try apply(Module, after_terminate, Args) of
        _ -> ok
    catch
        Class:Error:Stacktrace ->
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

report(#child{context = #{reports := false}}, _) ->
    ok;
report(#child{name = Name, pid = Pid, spec = Spec} = Child, What) ->
    Offender = gen_tracker_reports:child(Pid, Name, Spec),
    case What of
        progress -> gen_tracker_reports:progress(zone(Child), Offender);
        {Error, Reason} -> gen_tracker_reports:error(Error, Reason, zone(Child), Offender)
    end.

zone(#child{context = #{zone := Zone}}) ->
    Zone.

now_ms() ->
    erlang:monotonic_time(millisecond).
