%% The contract of gen_tracker as a program: one server that executes every operation in turn, with
%% linear searches, and all data in one ETS table. `differential` compares gen_tracker with it.
%%
%% The table has the name of the zone, and exists as long as the zone. Its rows:
%%
%%     {{child, Name}, #child{}}
%%     {{attribute, Name, Key}, Value}
%%     {{subscriber, Pid}}
%%     {{starter, Pid}}
%%
%% Two things run in processes of their own, as they may take long. A *starter* calls a start
%% function, and lives until the zone ends. A *cleaner* calls `after_terminate`. A *worker* is a
%% starter or a cleaner whose call has not returned.
-module(reference_tracker).
-behaviour(gen_server).

-export([start_link/1, start_link/2, find/2, find_or_open/2, which_children/1]).
-export([add_existing_child/2, wait/1, init_ack/1]).
-export([setattr/3, setattr/4, getattr/3, getattr/4, delattr/3, increment/4, increment/5, cas/5]).
-export([info/2, info/3, attrs/2, list/1, list/2, count/1, names/1, fold/3]).
-export([lookup/3, count/3, values/2, publish/4]).
-export([register_name/2, unregister_name/1, whereis_name/1, send/2, subscribe/1, unsubscribe/1]).
-export([state/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

%% A child is restarted without a delay at most so many times within so many milliseconds.
-define(INTENSITY, 10).
-define(PERIOD, 10000).

-record(zone, {
    name,
    %% The option `restart`.
    restart,
    stopping = false
}).
-record(child, {
    name,
    %% launching, running or terminating; failed or slowed: waits for its next start, because the
    %% last one failed or because of the restart limit; ending: its start returned after a stop was
    %% requested.
    state,
    pid,
    monitor,
    spec,
    starter,
    cleaner,
    %% The last exit reason of the child, or `none` before it ran.
    reason = none,
    %% Whether the child is to stop for good.
    stop_requested = false,
    %% The spec of the child itself, while it starts. `spec` may be that of a caller then.
    own,
    %% When the child began to run, in milliseconds.
    since = 0,
    %% Times of the last restarts without a delay.
    restarts = [],
    %% Whether the restart limit was reached.
    is_slowed = false,
    %% The delay before the next start, in milliseconds.
    delay = 50,
    %% The requests that wait for the child.
    waiting = []
}).
-record(request, {
    %% find_or_open, start_child, add, register, terminate; or starts_child: the `start_child` that
    %% started the child.
    kind,
    name,
    spec,
    pid,
    from,
    %% The worker that waits for the answer, itself or by a process that it started; or `none`.
    caller = none,
    %% Whether the request came after a stop of the child was requested.
    is_late = false
}).

%%% The functions of the contract

start_link(Zone) ->
    start_link(Zone, #{}).

start_link(Zone, Options) when is_atom(Zone), Zone =/= undefined, is_map(Options) ->
    case maps:merge(#{restart => true, reports => true, index => []}, Options) of
        #{restart := Restart, reports := Reports, index := Index} = All when
            map_size(All) =:= 3, is_boolean(Restart), is_boolean(Reports), length(Index) =< 64
        ->
            Indexes = [indexed(Key) || Key <- Index],
            Keys = maps:from_list(Indexes),
            map_size(Keys) =:= length(Indexes) orelse error(badarg),
            gen_server:start_link({local, Zone}, ?MODULE, {Zone, Restart, Keys}, []);
        _ ->
            error(badarg)
    end;
start_link(_, _) ->
    error(badarg).

indexed({each, Key}) -> {Key, each};
indexed(Key) -> {Key, whole}.

find(Zone, Name) ->
    access(Zone, {find, Name}).

%% Returns the state of a child for `differential`: `failed` or `slowed` while it waits for its next
%% start.
state(Zone, Name) ->
    case gen_server:call(Zone, {state, Name}) of
        #child{state = State} -> State;
        none -> none
    end.

find_or_open(Zone, Spec) when is_atom(Zone) ->
    try
        is_zone(Zone) orelse exit({noproc, Zone}),
        gen_server:call(Zone, {find_or_open, Spec}, 60000)
    catch
        exit:{noproc, _} ->
            case checked(Spec) of
                {ok, _, _} -> {error, gen_tracker_not_started};
                {error, Reason} -> {error, Reason}
            end;
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown ->
            {error, shutdown}
    end;
find_or_open(_, _) ->
    error(badarg).

which_children(Zone) ->
    access(Zone, which_children).

add_existing_child(Zone, Child) ->
    Local = zone_of(Zone),
    {_, _, Pid} = to_add(Child),
    Pid =/= tracker(Local) orelse error(badarg),
    call(Local, {add_existing_child, Child}).

to_add({Name, Pid, worker, Modules}) when is_pid(Pid) ->
    {ok, Name, Spec} = checked({Name, {m, f, []}, temporary, 200, worker, []}),
    {Name, Spec#{start := undefined, modules := Modules}, Pid};
to_add({Pid, {Name, _, _, _, worker, _} = Spec}) when is_pid(Pid) ->
    case checked(Spec) of
        {ok, Name, Checked} -> {Name, Checked, Pid};
        {error, _} -> error(badarg)
    end;
to_add(_) ->
    error(badarg).

wait(Zone) ->
    call(zone_of(Zone), wait).

init_ack(Ret) ->
    proc_lib:init_ack(Ret),
    [Parent | _] = get('$ancestors'),
    Parent ! {is_registered, self()},
    receive
        {registered, Parent} -> ok
    end.

setattr(Zone, Name, Attributes) ->
    access(Zone, {setattr, Name, Attributes}).

setattr(Zone, Name, Key, Value) ->
    access(Zone, {setattr, Name, Key, Value}).

getattr(Zone, Name, Key) ->
    access(Zone, {getattr, Name, Key}).

getattr(Zone, Name, Key, Timeout) when is_integer(Timeout), Timeout >= 0; Timeout =:= infinity ->
    Waits = Timeout =/= 0,
    case getattr(Zone, Name, Key) of
        undefined when Waits ->
            case access(Zone, {may_wait, Name, self()}) of
                true ->
                    timer:sleep(1),
                    getattr(Zone, Name, Key, remaining(Timeout));
                false ->
                    undefined
            end;
        Found ->
            Found
    end;
getattr(_, _, _, _) ->
    error(badarg).

remaining(infinity) -> infinity;
remaining(Timeout) -> Timeout - 1.

delattr(Zone, Name, Key) ->
    access(Zone, {delattr, Name, Key}).

increment(Zone, Name, Key, Increment) ->
    access(Zone, {increment, Name, Key, Increment}).

increment(Zone, Name, Key, Increment, Default) ->
    access(Zone, {increment, Name, Key, Increment, Default}).

cas(Zone, Name, Key, Old, New) ->
    access(Zone, {cas, Name, Key, Old, New}).

info(Zone, Name) ->
    access(Zone, {info, Name}).

info(_, _, []) ->
    [];
info(Zone, Name, Keys) ->
    access(Zone, {info, Name, Keys}).

attrs(Zone, Name) ->
    access(Zone, {info, Name}).

list(Zone) ->
    access(Zone, list).

list(Zone, Keys) ->
    access(Zone, {list, Keys}).

lookup(Zone, Key, Value) ->
    access(Zone, {lookup, Key, Value}).

count(Zone, Key, Value) ->
    length(lookup(Zone, Key, Value)).

values(Zone, Key) ->
    access(Zone, {values, Key}).

publish(Zone, Key, Value, Message) ->
    length([Pid ! Message || {_, Pid} <- lookup(Zone, Key, Value)]).

count(Zone) ->
    length(names(Zone)).

names(Zone) ->
    [Name || {Name, _, _, _} <- which_children(Zone)].

fold(Fun, Acc, Zone) when is_function(Fun, 3) ->
    WithPid = fun({Name, [{pid, Pid} | _]}, Before) -> Fun(Name, Pid, Before) end,
    lists:foldl(WithPid, Acc, list(Zone, []));
fold(_, _, _) ->
    error(badarg).

register_name({Zone, Name}, Pid) when is_pid(Pid) ->
    Pid =/= tracker(Zone) orelse error(badarg),
    case call(Zone, {register, Name, Pid}) of
        {ok, Pid} -> yes;
        {error, _} -> no
    end;
register_name(_, _) ->
    error(badarg).

unregister_name({Zone, Name}) when is_atom(Zone) ->
    try
        access(Zone, {unregister_name, Name})
    catch
        error:badarg -> ok
    end;
unregister_name(_) ->
    error(badarg).

whereis_name({Zone, Name}) when is_atom(Zone) ->
    try access(Zone, {find_alive, Name}) of
        {ok, Pid} -> Pid;
        undefined -> undefined
    catch
        error:badarg -> undefined
    end;
whereis_name(_) ->
    error(badarg).

send(ViaName, Message) ->
    case whereis_name(ViaName) of
        undefined ->
            exit({badarg, {ViaName, Message}});
        Pid ->
            Pid ! Message,
            Pid
    end.

subscribe(Zone) ->
    case call(Zone, {subscribe, self()}) of
        {error, Reason} -> exit({Reason, {?MODULE, subscribe, [Zone]}});
        Subscribed -> Subscribed
    end.

unsubscribe(Zone) ->
    _ = call(Zone, {unsubscribe, self()}),
    forget_events(Zone).

forget_events(Zone) ->
    receive
        {gen_tracker, Zone, _} -> forget_events(Zone)
    after 0 -> ok
    end.

is_zone(Zone) ->
    is_atom(Zone) andalso ets:whereis(Zone) =/= undefined.

tracker(Zone) ->
    is_zone(Zone) orelse error(badarg),
    ets:info(Zone, owner).

%% Returns the name of a zone that is given by the pid of its tracker, or with its node. Must not
%% block, as `ets:all/0` does: `callers:waiting/0` would return before the caller sent its request.
zone_of(Tracker) when is_pid(Tracker) ->
    hd([Zone || Zone <- registered(), whereis(Zone) =:= Tracker] ++ [none]);
zone_of({Zone, Node}) when Node =:= node() ->
    Zone;
zone_of(Zone) ->
    Zone.

%% Executes an operation on the table. The tracker executes these until the table is deleted, also
%% while it stops.
access(Zone, Operation) ->
    is_zone(Zone) orelse error(badarg),
    try gen_server:call(Zone, {access, Operation}, infinity) of
        {returned, Answer} -> Answer;
        {raised, Reason} -> error(Reason)
    catch
        exit:{Reason, _} when Reason =:= noproc; Reason =:= normal; Reason =:= shutdown ->
            error(badarg)
    end.

%% Calls the tracker. Returns `{error, shutdown}` if the tracker stops before it answers.
call(Zone, Request) ->
    is_zone(Zone) orelse error(badarg),
    try
        gen_server:call(Zone, Request, infinity)
    catch
        exit:{noproc, _} -> error(badarg);
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown -> {error, shutdown}
    end.

%% Checks a child spec. Returns its name, and the spec as a map with all keys.
checked({Name, Start, Restart}) ->
    checked({Name, Start, Restart, 200, worker, []});
checked(Spec) ->
    try supervisor:check_childspecs([Spec]) of
        ok -> {ok, name(Spec), with_defaults(Spec)};
        {error, Reason} -> {error, Reason}
    catch
        %% OTP 29 raises this for an improper list of modules.
        error:Reason:Stack -> {error, {'EXIT', {Reason, Stack}}}
    end.

name(#{id := Name}) -> Name;
name(Spec) -> element(1, Spec).

with_defaults({Name, Start, Restart, Shutdown, Type, Modules}) ->
    with_defaults(#{
        id => Name,
        start => Start,
        restart => Restart,
        shutdown => Shutdown,
        type => Type,
        modules => Modules
    });
with_defaults(#{start := {Module, _, _}} = Spec) ->
    Shutdown =
        case Spec of
            #{type := supervisor} -> infinity;
            _ -> 5000
        end,
    Defaults = #{
        restart => permanent,
        shutdown => Shutdown,
        type => worker,
        modules => [Module],
        significant => false
    },
    maps:merge(Defaults, Spec).

%% Returns the name in a spec that was not checked.
unchecked_name({Name, _, _}) -> {ok, Name};
unchecked_name({Name, _, _, _, _, _}) -> {ok, Name};
unchecked_name(#{id := Name}) -> {ok, Name};
unchecked_name(_) -> none.

%% Returns the spec to store. A temporary child is never started again, so its start arguments are
%% not stored.
to_store(#{start := {Module, Function, _}, restart := temporary} = Spec) ->
    Spec#{start := {Module, Function, undefined}};
to_store(Spec) ->
    Spec.

%%% The server

init({Zone, Restart, Keys}) ->
    process_flag(trap_exit, true),
    Zone = ets:new(Zone, [named_table, {heir, spawn_link(fun heir/0), Zone}]),
    true = ets:insert(Zone, {indexed, Keys}),
    {ok, #zone{name = Zone, restart = Restart}}.

%% Ends the children and the subscriptions when the tracker was killed.
heir() ->
    process_flag(trap_exit, true),
    Zone =
        receive
            {'ETS-TRANSFER', Table, _, Table} -> Table
        end,
    Running = [{monitor(process, Child#child.pid), Child} || Child <- in_state(running, Zone)],
    lists:foreach(fun({_, Child}) -> end_child(Child) end, Running),
    lists:foreach(fun({Monitor, Child}) -> await_end(Monitor, Child, Zone) end, Running),
    [exit(Cleaner, kill) || #child{cleaner = Cleaner} <- children(Zone), is_pid(Cleaner)],
    end_starters(kill, Zone),
    notify(Zone, unsubscribed).

await_end(Monitor, #child{name = Name, pid = Pid} = Child, Zone) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            notify(Zone, {down, Name, Pid, Reason});
        {kill, Other} ->
            exit(Other, kill),
            await_end(Monitor, Child, Zone)
    end.

%% Ends the starters, and so the processes that start functions linked to them.
end_starters(Reason, Zone) ->
    [exit(Starter, Reason) || {{starter, Starter}} <- ets:tab2list(Zone)].

handle_call({access, Operation}, _From, #zone{name = Zone} = State) ->
    {reply, try_execute(Operation, Zone), State};
handle_call({start_child, Spec}, From, State) ->
    case checked(Spec) of
        {ok, Name, Checked} ->
            handle(#request{kind = start_child, name = Name, spec = Checked, from = From}, State),
            {noreply, State};
        {error, Reason} ->
            {reply, {error, Reason}, State}
    end;
handle_call({Function, Name}, From, State) when
    Function =:= terminate_child; Function =:= delete_child
->
    handle(#request{kind = terminate, name = Name, from = From}, State),
    {noreply, State};
handle_call({state, Name}, _From, #zone{name = Zone} = State) ->
    {reply, child(Zone, Name), State};
handle_call({find_or_open, Spec}, From, #zone{name = Zone} = State) ->
    Found =
        case unchecked_name(Spec) of
            {ok, Unchecked} -> execute({find_alive, Unchecked}, Zone);
            none -> undefined
        end,
    case {Found, checked(Spec)} of
        {{ok, Pid}, _} ->
            {reply, {ok, Pid}, State};
        {undefined, {ok, Name, Checked}} ->
            handle(#request{kind = find_or_open, name = Name, spec = Checked, from = From}, State),
            {noreply, State};
        {undefined, {error, Reason}} ->
            {reply, {error, Reason}, State}
    end;
handle_call({add_existing_child, Child}, From, State) ->
    {Name, Spec, Pid} = to_add(Child),
    case Pid =:= self() of
        true ->
            {reply, {error, badarg}, State};
        false ->
            Request = #request{kind = add, name = Name, spec = Spec, pid = Pid, from = From},
            handle(Request, State),
            {noreply, State}
    end;
handle_call({register, Name, Pid}, From, #zone{name = Zone} = State) ->
    case is_being_started(child(Zone, Name), Pid, From) of
        true ->
            {reply, {ok, Pid}, State};
        false ->
            {Name, Spec, Pid} = to_add({Name, Pid, worker, []}),
            Request = #request{kind = register, name = Name, spec = Spec, pid = Pid, from = From},
            handle(Request, State),
            {noreply, State}
    end;
handle_call({restart_child, Name}, _From, #zone{name = Zone} = State) ->
    case child(Zone, Name) of
        none -> {reply, {error, not_found}, State};
        #child{state = running} -> {reply, {error, running}, State};
        _ -> {reply, {error, restarting}, State}
    end;
handle_call({get_childspec, Name}, _From, #zone{name = Zone} = State) ->
    case child(Zone, Name) of
        none -> {reply, {error, not_found}, State};
        #child{spec = Spec} -> {reply, {ok, Spec}, State}
    end;
handle_call(which_children, _From, #zone{name = Zone} = State) ->
    {reply, execute(which_children, Zone), State};
handle_call(count_children, _From, #zone{name = Zone} = State) ->
    Children = execute(which_children, Zone),
    Count = fun(Test) -> length(lists:filter(Test, Children)) end,
    Counts = [
        {specs, length(Children)},
        {active, Count(fun(Child) -> is_pid(element(2, Child)) end)},
        {supervisors, Count(fun(Child) -> element(3, Child) =:= supervisor end)},
        {workers, Count(fun(Child) -> element(3, Child) =:= worker end)}
    ],
    {reply, Counts, State};
handle_call({launched, Starter, Result}, From, State) ->
    launched(child_of(#child.starter, Starter, State), Result, State),
    gen_server:reply(From, ok),
    {noreply, State};
handle_call({subscribe, Pid}, _From, #zone{name = Zone} = State) ->
    ets:insert(Zone, {{subscriber, Pid}}),
    Children = [{Name, Child} || #child{name = Name, pid = Child} <- in_state(running, Zone)],
    {reply, {ok, Children}, State};
handle_call({unsubscribe, Pid}, _From, #zone{name = Zone} = State) ->
    {reply, ets:delete(Zone, {subscriber, Pid}), State};
handle_call(wait, _From, State) ->
    {reply, ok, State};
handle_call(shutdown, _From, State) ->
    {stop, shutdown, ok, State};
handle_call(stop, _From, State) ->
    {stop, normal, ok, State};
handle_call(Call, _From, State) ->
    {reply, {error, {unknown_call, Call}}, State}.

handle_cast(_, State) ->
    {noreply, State}.

handle_info({'DOWN', Monitor, process, Pid, Reason}, State) ->
    ended(Monitor, Pid, Reason, State),
    {noreply, State};
handle_info({kill, Pid}, State) ->
    exit(Pid, kill),
    {noreply, State};
handle_info({overtime, Name, Worker}, #zone{name = Zone} = State) ->
    _ = [exit(Worker, kill) || child(Zone, Name) =/= none, worker(child(Zone, Name)) =:= Worker],
    {noreply, State};
handle_info({start_again, Name, Delay}, #zone{name = Zone} = State) ->
    case child(Zone, Name) of
        #child{state = Kind, delay = Delay} = Child when Kind =:= failed; Kind =:= slowed ->
            start(Child, Child#child.spec, Zone);
        _ ->
            ok
    end,
    {noreply, State};
handle_info(_, State) ->
    {noreply, State}.

%% Handles the exit of a child, a cleaner or a starter.
ended(Monitor, Pid, Reason, State) ->
    Find = fun(Field, Value) -> child_of(Field, Value, State) end,
    case {Find(#child.monitor, Monitor), Find(#child.cleaner, Pid), Find(#child.starter, Pid)} of
        {#child{state = running} = Child, _, _} -> died(Child, Reason, State);
        {#child{state = ending} = Child, _, _} -> free_name(Child, State);
        {_, #child{} = Child, _} -> cleaned_up(Child, State);
        {_, _, #child{state = launching} = Child} -> launched(Child, {error, Reason}, State);
        _ -> ok
    end.

terminate(_Reason, #zone{name = Zone} = State) ->
    lists:foreach(fun(Child) -> refuse_all(Child, Zone) end, children(Zone)),
    Stopping = State#zone{stopping = true},
    lists:foreach(fun(Child) -> stop_for_good(Child, Stopping) end, children(Zone)),
    await_ends(Stopping),
    unregister(Zone),
    refuse_others().

refuse_all(#child{waiting = Waiting} = Child, Zone) ->
    [reply(Request, {error, shutdown}) || Request <- Waiting],
    write(Child#child{waiting = []}, Zone).

await_ends(#zone{name = Zone} = State) ->
    case children(Zone) of
        [] ->
            notify(Zone, unsubscribed),
            end_starters(shutdown, Zone),
            Heir = ets:info(Zone, heir),
            ets:delete(Zone),
            exit(Heir, kill);
        _ ->
            receive
                {'$gen_call', From, {access, Operation}} ->
                    gen_server:reply(From, try_execute(Operation, Zone));
                {'$gen_call', From, {launched, _, _} = Launched} ->
                    handle_call(Launched, From, State);
                {'$gen_call', From, _} ->
                    gen_server:reply(From, {error, shutdown});
                Message ->
                    handle_info(Message, State)
            end,
            await_ends(State)
    end.

refuse_others() ->
    receive
        {'$gen_call', From, {access, _}} ->
            gen_server:reply(From, {raised, badarg}),
            refuse_others();
        {'$gen_call', From, _} ->
            gen_server:reply(From, {error, shutdown}),
            refuse_others()
    after 0 -> ok
    end.

%%% The table

children(Zone) ->
    [Child || {{child, _}, Child} <- ets:tab2list(Zone)].

in_state(State, Zone) ->
    [Child || Child <- children(Zone), Child#child.state =:= State].

child(Zone, Name) ->
    case ets:lookup(Zone, {child, Name}) of
        [{_, Child}] -> Child;
        [] -> none
    end.

child_of(Field, Value, #zone{name = Zone}) ->
    case [Child || Child <- children(Zone), element(Field, Child) =:= Value] of
        [Child] -> Child;
        [] -> none
    end.

write(#child{name = Name} = Child, Zone) ->
    ets:insert(Zone, {{child, Name}, Child}).

delete(#child{name = Name}, Zone) ->
    ets:delete(Zone, {child, Name}),
    delete_attributes(Name, Zone).

attributes(Name, Zone) ->
    [{Key, Value} || {{attribute, Holder, Key}, Value} <- ets:tab2list(Zone), Holder =:= Name].

attributes(Name, Keys, Zone) ->
    IsWanted = fun(Key) -> lists:any(fun(Wanted) -> Wanted =:= Key end, Keys) end,
    [Pair || {Key, _} = Pair <- attributes(Name, Zone), IsWanted(Key)].

delete_attributes(Name, Zone) ->
    [ets:delete(Zone, {attribute, Name, Key}) || {Key, _} <- attributes(Name, Zone)].

notify(Zone, Event) ->
    [Pid ! {gen_tracker, Zone, Event} || {{subscriber, Pid}} <- ets:tab2list(Zone)].

%%% Operations on the table

try_execute(Operation, Zone) ->
    try
        {returned, execute(Operation, Zone)}
    catch
        error:Reason -> {raised, Reason}
    end.

execute({find, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid} -> {ok, Pid};
        _ -> undefined
    end;
execute({find_alive, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid} -> if_alive(is_alive(Pid), Pid);
        _ -> undefined
    end;
execute(which_children, Zone) ->
    [
        {Name, visible(Child), Type, Modules}
     || #child{name = Name, spec = #{type := Type, modules := Modules}} = Child <- children(Zone)
    ];
execute({setattr, Name, Attributes}, Zone) when is_map(Attributes) ->
    execute({setattr, Name, maps:to_list(Attributes)}, Zone);
execute({setattr, Name, Attributes}, Zone) ->
    true = is_integer(length(Attributes)),
    Pairs = [Pair || {_, _} = Pair <- Attributes],
    is_settable(Name, Zone) orelse error({void_setting, Zone, Name, [Key || {Key, _} <- Pairs]}),
    [ets:insert(Zone, {{attribute, Name, Key}, Value}) || {Key, Value} <- Pairs],
    ok;
execute({setattr, Name, Key, Value}, Zone) ->
    is_settable(Name, Zone) orelse error({void_setting, Zone, Name, Key}),
    ets:insert(Zone, {{attribute, Name, Key}, Value}),
    ok;
execute({getattr, Name, Key}, Zone) ->
    case ets:lookup(Zone, {attribute, Name, Key}) of
        [{_, Value}] -> {ok, Value};
        [] -> undefined
    end;
execute({delattr, Name, Key}, Zone) ->
    ets:delete(Zone, {attribute, Name, Key}),
    ok;
execute({increment, Name, Key, Increment}, Zone) ->
    incremented(execute({getattr, Name, Key}, Zone), Name, Key, Increment, Zone);
execute({increment, Name, Key, Increment, Default}, Zone) ->
    case execute({getattr, Name, Key}, Zone) of
        undefined -> incremented({ok, Default}, Name, Key, Increment, Zone);
        Found -> incremented(Found, Name, Key, Increment, Zone)
    end;
execute({cas, Name, Key, Old, New}, Zone) ->
    is_settable(Name, Zone) orelse error({void_setting, Zone, Name, Key}),
    case execute({getattr, Name, Key}, Zone) of
        {ok, Value} when Value =:= Old -> execute({setattr, Name, Key, New}, Zone);
        {ok, Value} -> {error, {current, Value}};
        undefined -> {error, undefined}
    end;
execute({info, Name}, Zone) ->
    attributes(Name, Zone);
execute({info, Name, Keys}, Zone) when length(Keys) >= 0 ->
    attributes(Name, Keys, Zone);
execute(list, Zone) ->
    [
        {Name, [{pid, Pid} | attributes(Name, Zone)]}
     || #child{name = Name, pid = Pid} <- in_state(running, Zone)
    ];
execute({list, Keys}, Zone) when length(Keys) >= 0 ->
    [
        {Name, [{pid, Pid} | attributes(Name, Keys, Zone)]}
     || #child{name = Name, pid = Pid} <- in_state(running, Zone)
    ];
execute({lookup, Key, Value}, Zone) ->
    [
        {Name, Pid}
     || {Name, Pid, Values} <- under(Key, Zone),
        lists:any(fun(Other) -> Other =:= Value end, Values)
    ];
execute({values, Key}, Zone) ->
    All = [Value || {_, _, Values} <- under(Key, Zone), Value <- Values],
    Same = maps:groups_from_list(fun(Value) -> Value end, All),
    [{Value, length(Equal)} || {Value, Equal} <- maps:to_list(Same)];
execute({unregister_name, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid, spec = #{start := undefined}} = Child ->
            demonitor(Child#child.monitor, [flush]),
            notify(Zone, {down, Name, Pid, unregistered}),
            delete(Child, Zone);
        _ ->
            ok
    end,
    ok;
execute({may_wait, Name, Pid}, Zone) ->
    case child(Zone, Name) of
        #child{state = terminating} = Child ->
            not closes_cycle(worker_among(with_parent(Pid), Zone), Child, Zone);
        _ ->
            true
    end;
execute(_, _) ->
    error(badarg).

%% Returns the running children, each with its values in the index of a key.
under(Key, Zone) ->
    [{_, Keys}] = ets:lookup(Zone, indexed),
    Kind = maps:get(Key, Keys, none),
    Kind =/= none orelse error(badarg),
    [
        {Name, Pid, values_of(Kind, attributes(Name, [Key], Zone))}
     || #child{name = Name, pid = Pid} <- in_state(running, Zone)
    ].

values_of(_, []) ->
    [];
values_of(whole, [{_, Value}]) ->
    [Value];
values_of(each, [{_, List}]) ->
    try
        maps:keys(maps:from_list([{Element, true} || Element <- List]))
    catch
        error:_ -> []
    end.

%% Adds to an attribute, and returns its new value. An increment is a number or a tuple, as in
%% `ets:update_counter/3`.
incremented({ok, Value}, Name, Key, Increment, Zone) when is_integer(Value) ->
    Sum =
        case Increment of
            {2, Added} when is_integer(Added) ->
                Value + Added;
            {2, Added, Threshold, Set} when
                is_integer(Added), is_integer(Threshold), is_integer(Set)
            ->
                set_beyond(Value + Added, Added, Threshold, Set);
            Added when is_integer(Added) ->
                Value + Added;
            _ ->
                error(badarg)
        end,
    ets:insert(Zone, {{attribute, Name, Key}, Sum}),
    Sum;
incremented(_, _, _, _, _) ->
    error(badarg).

set_beyond(Sum, Added, Threshold, Set) when Added >= 0, Sum > Threshold -> Set;
set_beyond(Sum, Added, Threshold, Set) when Added < 0, Sum < Threshold -> Set;
set_beyond(Sum, _, _, _) -> Sum.

if_alive(true, Pid) -> {ok, Pid};
if_alive(false, _) -> undefined.

is_alive(Pid) ->
    node(Pid) =/= node() orelse is_process_alive(Pid).

visible(#child{state = running, pid = Pid}) -> Pid;
visible(#child{state = terminating}) -> terminating;
visible(_) -> launching.

%% Whether the child of this name is starting or running.
is_settable(Name, Zone) ->
    case child(Zone, Name) of
        none -> false;
        #child{state = State} -> lists:member(State, [launching, running, ending])
    end.

%%% Requests for a name

%% Answers a request, starts a child for it, or lets it wait for the child that has the name.
handle(#request{kind = Kind, name = Name} = Request, #zone{name = Zone} = State) ->
    case child(Zone, Name) of
        none when Kind =:= terminate ->
            reply(Request, {error, no_child});
        none ->
            take_name(Request, State);
        Child when Kind =:= terminate ->
            wait_and(fun(Waited) -> stop_for_good(Waited, State) end, Request, Child, Zone);
        #child{state = running, pid = Pid} = Child ->
            case is_alive(Pid) of
                true -> reply(Request, running(Request, {ok, Pid}));
                false -> wait(Request, Child, Zone)
            end;
        #child{state = terminating} = Child ->
            wait(Request, Child, Zone);
        _ when Kind =:= add ->
            reply(Request, {error, already_present});
        #child{state = failed} = Child when Kind =:= find_or_open ->
            Start = fun(Waited) -> start(Waited, Request#request.spec, Zone) end,
            wait_and(Start, Request, Child, Zone);
        #child{state = failed} ->
            reply(Request, {error, already_present});
        Child ->
            wait(Request, Child, Zone)
    end.

reply(#request{from = From}, Answer) ->
    gen_server:reply(From, Answer).

running(#request{kind = find_or_open}, Result) -> Result;
running(_, Result) -> {error, {already_started, element(2, Result)}}.

wait(Request, Child, Zone) ->
    wait_and(fun(_) -> ok end, Request, Child, Zone).

%% Lets a request wait for a child, and calls `Do` with the child. Refuses the request if it would
%% close a cycle of waits.
wait_and(Do, #request{from = {Pid, _}} = Request, #child{waiting = Waiting} = Child, Zone) ->
    Caller = worker_among(with_parent(Pid), Zone),
    case closes_cycle(Caller, Child, Zone) of
        true ->
            reply(Request, {error, activity(Caller, Zone)});
        false ->
            Last = Request#request{caller = Caller, is_late = Child#child.stop_requested},
            Waited = Child#child{waiting = Waiting ++ [Last]},
            write(Waited, Zone),
            Do(Waited)
    end.

%%% Cycles of waits

%% Returns a process and its parent: the head of its `$ancestors`.
with_parent(Pid) when node(Pid) =:= node() ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} ->
            [Pid | lists:sublist(proplists:get_value('$ancestors', Dictionary, []), 1)];
        undefined ->
            [Pid]
    end;
with_parent(_) ->
    [].

%% Whether a process registers itself under the name of the child that is starting it.
is_being_started(#child{state = launching, starter = Starter}, Pid, {Pid, _}) ->
    lists:member(Starter, with_parent(Pid));
is_being_started(_, _, _) ->
    false.

%% Returns the first of these processes that is a worker of a child, or `none`.
worker_among(Pids, Zone) ->
    Workers = [worker(Child) || Child <- children(Zone)],
    hd([Pid || Pid <- Pids, lists:member(Pid, Workers)] ++ [none]).

%% Returns the worker of a child, or `nobody`.
worker(#child{state = launching, starter = Starter}) -> Starter;
worker(#child{state = terminating, cleaner = Cleaner}) -> Cleaner;
worker(_) -> nobody.

%% Returns the reason of a refusal: what the worker is doing.
activity(Caller, Zone) ->
    [Child] = [Child || Child <- children(Zone), worker(Child) =:= Caller],
    case Child#child.state of
        launching -> starting;
        terminating -> terminating
    end.

%% Whether the worker of a child is the caller, or waits for the caller through other children.
closes_cycle(none, _, _) ->
    false;
closes_cycle(Caller, Child, Zone) ->
    Worker = worker(Child),
    Others = [
        Other
     || #child{waiting = Waiting} = Other <- children(Zone),
        lists:keymember(Worker, #request.caller, Waiting)
    ],
    Worker =:= Caller orelse
        lists:any(fun(Other) -> closes_cycle(Caller, Other, Zone) end, Others).

%%% Starting

%% Starts the child of a request, or adds its process, under a name that no child has.
take_name(#request{name = Name, spec = Spec, pid = undefined} = Request, #zone{name = Zone}) ->
    Waiting = [first_request(Request, Zone)],
    start(#child{name = Name, spec = to_store(Spec), waiting = Waiting}, Spec, Zone);
take_name(#request{name = Name, spec = Spec, pid = Pid} = Request, #zone{name = Zone}) ->
    run(#child{name = Name, spec = to_store(Spec)}, Pid, messages:monitor_now(Pid), Zone),
    reply(Request, {ok, Pid}).

%% Returns the request that starts a child, as the first that waits for it.
first_request(#request{kind = start_child} = Request, Zone) ->
    first_request(Request#request{kind = starts_child}, Zone);
first_request(#request{from = {Pid, _}} = Request, Zone) ->
    Request#request{caller = worker_among(with_parent(Pid), Zone), is_late = false}.

%% Starts a child with its own spec or with the spec of a caller.
start(#child{spec = Own} = Child, #{start := {Module, Function, Arguments}} = Spec, Zone) ->
    Tracker = self(),
    {Starter, _} = proc_lib:spawn_opt(
        fun() -> starter(Tracker, Module, Function, Arguments) end,
        [link, monitor]
    ),
    ets:insert(Zone, {{starter, Starter}}),
    Launching = Child#child{state = launching, pid = undefined, starter = Starter},
    write(Launching#child{cleaner = undefined, spec = to_store(Spec), own = Own}, Zone).

starter(Tracker, Module, Function, Arguments) ->
    process_flag(trap_exit, true),
    Result =
        try
            apply(Module, Function, Arguments)
        catch
            _:Reason -> {error, Reason}
        end,
    process_flag(trap_exit, true),
    link(Tracker),
    ok = gen_server:call(Tracker, {launched, self(), Result}, infinity),
    be_parent(Tracker).

be_parent(Tracker) ->
    receive
        {is_registered, Pid} ->
            Pid ! {registered, self()},
            be_parent(Tracker);
        {'EXIT', Tracker, shutdown} ->
            exit(shutdown);
        _ ->
            be_parent(Tracker)
    end.

%% Returns the result of a start: what the start function returned, or an error if that is an `ok`
%% without a pid.
result({ok, Pid}) when is_pid(Pid) -> {ok, Pid};
result({ok, Pid, Info}) when is_pid(Pid) -> {ok, Pid, Info};
result({ok, _} = Other) -> {error, {bad_return_value, Other}};
result({ok, _, _} = Other) -> {error, {bad_return_value, Other}};
result(Other) -> Other.

run(#child{name = Name} = Child, Pid, Monitor, Zone) ->
    write(Child#child{state = running, pid = Pid, monitor = Monitor, since = now_ms()}, Zone),
    notify(Zone, {up, Name, Pid}).

%% Handles what a start function returned. The requests that wait for the start get the result, or
%% `killed` if a stop of the child was requested meanwhile.
launched(none, _, _) ->
    ok;
launched(#child{stop_requested = StopRequested} = Child, Returned, State) ->
    Result = result(Returned),
    Outcome =
        case StopRequested of
            true -> killed;
            false -> Result
        end,
    case is_started(Result) of
        true -> started(Child, Result, Outcome, State);
        false -> failed(Child, Result, result(Returned) =:= Returned, Outcome, State)
    end.

is_started({ok, _}) -> true;
is_started({ok, _, _}) -> true;
is_started(_) -> false.

started(#child{stop_requested = true} = Child, Result, Outcome, #zone{name = Zone} = State) ->
    Pid = element(2, Result),
    Ending = Child#child{state = ending, pid = Pid, monitor = monitor(process, Pid)},
    answer_waiting(Ending, Outcome, fun(Answered) -> write(Answered, Zone) end, State),
    end_child(Ending);
started(#child{is_slowed = IsSlowed, delay = Delay} = Child, Result, Outcome, State) ->
    Next =
        case IsSlowed of
            true -> Delay;
            false -> 50
        end,
    #zone{name = Zone} = State,
    Pid = element(2, Result),
    %% Before the callers are answered, who may kill it.
    Monitor = messages:monitor_now(Pid),
    Run = fun(Answered) -> run(Answered#child{delay = Next}, Pid, Monitor, Zone) end,
    answer_waiting(Child, Outcome, Run, State).

failed(Child, Result, IsProper, Outcome, #zone{name = Zone} = State) ->
    #child{own = #{restart := Restart}, reason = Reason, stop_requested = StopRequested} = Child,
    %% If the spec of a caller failed, the child is still started again with its own spec.
    IsOwn = Child#child.spec =:= Child#child.own,
    IsError =
        case Result of
            {error, _} -> IsProper;
            _ -> false
        end,
    Again =
        Reason =/= none andalso Restart =:= permanent andalso not StopRequested andalso
            (IsError orelse not IsOwn),
    case Again of
        true ->
            delete_attributes(Child#child.name, Zone),
            Own = Child#child{spec = Child#child.own},
            Wait = fun(Answered) -> wait_to_start(failed, Answered, Zone) end,
            answer_waiting(Own, Outcome, Wait, State);
        false ->
            Free = fun(#child{waiting = Waiting} = Left) ->
                delete(Left, Zone),
                lists:foreach(fun(Request) -> handle_again(Request, State) end, Waiting)
            end,
            answer_waiting(Child, Outcome, Free, State)
    end.

%% Starts a child again after its delay. The next delay is longer.
wait_to_start(Kind, #child{name = Name, delay = Delay} = Child, Zone) ->
    Next = min(Delay + 150, 5000),
    erlang:send_after(Delay, self(), {start_again, Name, Next}),
    write(Child#child{state = Kind, delay = Next, cleaner = undefined}, Zone).

%% Answers the requests that wait for a start if its outcome is their answer. Calls `Do` with the
%% child and the requests that continue to wait, and then handles the others again.
answer_waiting(#child{waiting = Waiting} = Child, Outcome, Do, State) ->
    Answers = [{answer_to(Request, Outcome), Request} || Request <- Waiting],
    [reply(Request, Reply) || {{reply, Reply}, Request} <- Answers],
    Do(Child#child{waiting = [Request || {wait, Request} <- Answers]}),
    [handle(Request, State) || {again, Request} <- Answers].

answer_to(#request{kind = terminate}, _) ->
    wait;
answer_to(#request{is_late = true}, _) ->
    wait;
answer_to(#request{kind = Kind}, killed) when
    Kind =:= find_or_open; Kind =:= start_child; Kind =:= starts_child
->
    {reply, {error, killed}};
answer_to(#request{kind = Kind}, killed) when Kind =/= add ->
    wait;
answer_to(_, killed) ->
    again;
answer_to(#request{kind = find_or_open}, Result) ->
    {reply, Result};
answer_to(#request{kind = starts_child}, Result) ->
    {reply, to_supervisor(Result)};
answer_to(Request, Result) ->
    case is_started(Result) of
        true -> {reply, running(Request, Result)};
        false -> again
    end.

%% Returns the answer of `supervisor:start_child/2`.
to_supervisor(ignore) -> {ok, undefined};
to_supervisor({error, Reason}) -> {error, Reason};
to_supervisor(Result) ->
    case is_started(Result) of
        true -> Result;
        false -> {error, Result}
    end.

%%% The end of a child

%% Stops a child for good, in any state.
stop_for_good(#child{name = Name, spec = Spec} = Child, #zone{name = Zone} = State) ->
    #{shutdown := Shutdown} = Spec,
    write(Child#child{stop_requested = true}, Zone),
    Limit = fun(Time, Worker) -> erlang:send_after(Time, self(), {overtime, Name, Worker}) end,
    case Child of
        #child{state = running} -> end_child(Child);
        #child{state = launching} -> Limit(start_time(Shutdown), worker(Child));
        #child{state = terminating} -> Limit(cleanup_time(Shutdown), worker(Child));
        #child{state = ending} -> ok;
        _ -> free_name(Child, State)
    end.

start_time(brutal_kill) -> 0;
start_time(infinity) -> 60000;
start_time(Shutdown) -> Shutdown.

cleanup_time(brutal_kill) -> 3000;
cleanup_time(infinity) -> 60000;
cleanup_time(Shutdown) -> max(3000, Shutdown).

end_child(#child{pid = Pid, spec = #{shutdown := brutal_kill}}) ->
    exit(Pid, kill);
end_child(#child{pid = Pid, spec = #{shutdown := Shutdown}}) ->
    exit(Pid, shutdown),
    is_integer(Shutdown) andalso erlang:send_after(Shutdown, self(), {kill, Pid}).

died(#child{name = Name, pid = Pid} = Child, Reason, #zone{name = Zone} = State) ->
    notify(Zone, {down, Name, Pid, Reason}),
    Terminating = Child#child{state = terminating, reason = Reason},
    case callback(Child, attributes(Name, Zone), Reason) of
        none ->
            cleaned_up(Terminating, State);
        Call ->
            {Cleaner, _} = proc_lib:spawn_opt(Call, [link, monitor]),
            write(Terminating#child{cleaner = Cleaner}, Zone),
            #child{stop_requested = StopRequested, spec = #{shutdown := Shutdown}} = Child,
            Time = cleanup_time(Shutdown),
            StopRequested andalso erlang:send_after(Time, self(), {overtime, Name, Cleaner})
    end.

callback(#child{spec = #{start := undefined}}, _, _) ->
    none;
callback(#child{name = Name, spec = #{start := {Module, _, _}}}, Attributes, Reason) ->
    _ = code:ensure_loaded(Module),
    IsExported = fun(Arity) -> erlang:function_exported(Module, after_terminate, Arity) end,
    case {IsExported(3), IsExported(2)} of
        {true, _} -> fun() -> Module:after_terminate(Name, Attributes, Reason) end;
        {false, true} -> fun() -> Module:after_terminate(Name, Attributes) end;
        {false, false} -> none
    end.

cleaned_up(#child{name = Name} = Child, #zone{name = Zone} = State) ->
    delete_attributes(Name, Zone),
    case is_restarted(Child, State) of
        true -> restart(Child, Zone);
        false -> free_name(Child, State)
    end.

is_restarted(#child{stop_requested = true}, _) -> false;
is_restarted(_, #zone{stopping = true}) -> false;
is_restarted(_, #zone{restart = false}) -> false;
is_restarted(#child{spec = #{restart := permanent}}, _) -> true;
is_restarted(#child{spec = #{restart := temporary}}, _) -> false;
is_restarted(#child{reason = normal}, _) -> false;
is_restarted(#child{reason = shutdown}, _) -> false;
is_restarted(#child{reason = {shutdown, _}}, _) -> false;
is_restarted(_, _) -> true.

%% Restarts a child at once, or after a delay if the restart limit was reached.
restart(#child{since = Since, restarts = Restarts, is_slowed = IsSlowed} = Child, Zone) ->
    Now = now_ms(),
    Recent = [Time || Time <- Restarts, Now - Time < ?PERIOD],
    #child{spec = Spec} = Child,
    if
        Now - Since >= ?PERIOD ->
            start(Child#child{restarts = [Now], is_slowed = false, delay = 50}, Spec, Zone);
        not IsSlowed, length(Recent) < ?INTENSITY ->
            start(Child#child{restarts = [Now | Recent]}, Spec, Zone);
        true ->
            wait_to_start(slowed, Child#child{is_slowed = true}, Zone)
    end.

%% Deletes a child, and handles the requests that wait for its name.
free_name(#child{waiting = Waiting} = Child, #zone{name = Zone} = State) ->
    delete(Child, Zone),
    lists:foreach(fun(Request) -> handle_again(Request, State) end, Waiting).

handle_again(#request{kind = terminate} = Request, _) -> reply(Request, ok);
handle_again(Request, State) -> handle(Request, State).

now_ms() ->
    erlang:monotonic_time(millisecond).
