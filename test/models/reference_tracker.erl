%% The contract of gen_tracker once more, as simply as it can be said: one server that does
%% everything in turn, a linear search wherever one will do, and all that it knows in one ETS table.
%% The answers of gen_tracker are compared with its answers (see `differential`).
%%
%% Rows: `{{child, Name}, #child{}}`, `{{attribute, Name, Key}, Value}`, `{{subscriber, Pid}}`,
%% `{{starter, Pid}}`. The table is named as the zone is, and exists as long as the zone. Two things
%% have processes of their own, since they may take long: a start, whose process, the starter, lives
%% on until the zone ends, and `after_terminate`, which is called in the cleaner.
-module(reference_tracker).
-behaviour(gen_server).

-export([start_link/1, start_link/2, find/2, find_or_open/2, which_children/1]).
-export([add_existing_child/2, wait/1, init_ack/1]).
-export([setattr/3, setattr/4, getattr/3, getattr/4, delattr/3, increment/4, increment/5, cas/5]).
-export([info/2, info/3, attrs/2, list/1, list/2, count/1, names/1, fold/3]).
-export([register_name/2, unregister_name/1, whereis_name/1, send/2, subscribe/1, unsubscribe/1]).
-export([state/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

%% So many restarts within so many milliseconds are made at once.
-define(INTENSITY, 10).
-define(PERIOD, 10000).

-record(zone, {
    name,
    restarts,
    stopping = false
}).
-record(child, {
    name,
    %% launching, running, terminating, failed or slowed (these two wait for the next start), or
    %% ending: it has been started while it was to be stopped.
    state,
    pid,
    monitor,
    spec,
    %% The process that runs the start function, and the one that calls `after_terminate`.
    starter,
    cleaner,
    %% Why the child ended that ran last; `none` before the first one runs.
    reason = none,
    %% It is to be stopped for good.
    is_doomed = false,
    %% The spec of the child itself, while it is started with that of a caller.
    own,
    since = 0,
    restarts = [],
    is_slowed = false,
    delay = 50,
    waiting = []
}).
-record(request, {
    %% find_or_open, start_child, add, register, forget; or starting: the `start_child` whose child
    %% it is.
    what,
    name,
    spec,
    pid,
    from,
    %% The starter or cleaner that waits for the answer, or has started who does.
    asker = none,
    %% It came when the child was already to be stopped.
    is_late = false
}).

%%% The functions of the contract

start_link(Zone) ->
    start_link(Zone, #{}).

start_link(Zone, Options) when is_atom(Zone), Zone =/= undefined, is_map(Options) ->
    case maps:merge(#{restart => true, reports => true}, Options) of
        #{restart := Restarts, reports := Reports} = All
                when map_size(All) =:= 2, is_boolean(Restarts), is_boolean(Reports) ->
            gen_server:start_link({local, Zone}, ?MODULE, {Zone, Restarts}, []);
        _ ->
            error(badarg)
    end;
start_link(_, _) ->
    error(badarg).

find(Zone, Name) ->
    ask(Zone, {find, Name}).

%% For `differential`: the state of a child; `failed` or `slowed` while it waits for its next start.
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
    ask(Zone, which_children).

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
    receive {registered, Parent} -> ok end.

setattr(Zone, Name, Attributes) ->
    ask(Zone, {setattr, Name, Attributes}).

setattr(Zone, Name, Key, Value) ->
    ask(Zone, {setattr, Name, Key, Value}).

getattr(Zone, Name, Key) ->
    ask(Zone, {getattr, Name, Key}).

getattr(Zone, Name, Key, Timeout) when is_integer(Timeout), Timeout >= 0; Timeout =:= infinity ->
    Waits = Timeout =/= 0,
    case getattr(Zone, Name, Key) of
        undefined when Waits ->
            case ask(Zone, {may_wait, Name, self()}) of
                true -> receive after 1 -> getattr(Zone, Name, Key, less(Timeout)) end;
                false -> undefined
            end;
        Found ->
            Found
    end;
getattr(_, _, _, _) ->
    error(badarg).

less(infinity) -> infinity;
less(Timeout) -> Timeout - 1.

delattr(Zone, Name, Key) ->
    ask(Zone, {delattr, Name, Key}).

increment(Zone, Name, Key, Increment) ->
    ask(Zone, {increment, Name, Key, Increment}).

increment(Zone, Name, Key, Increment, Default) ->
    ask(Zone, {increment, Name, Key, Increment, Default}).

cas(Zone, Name, Key, Old, New) ->
    ask(Zone, {cas, Name, Key, Old, New}).

info(Zone, Name) ->
    ask(Zone, {info, Name}).

info(_, _, []) ->
    [];
info(Zone, Name, Keys) ->
    ask(Zone, {info, Name, Keys}).

attrs(Zone, Name) ->
    ask(Zone, {info, Name}).

list(Zone) ->
    ask(Zone, list).

list(Zone, Keys) ->
    ask(Zone, {list, Keys}).

count(Zone) ->
    length(names(Zone)).

names(Zone) ->
    [Name || {Name, _, _, _} <- which_children(Zone)].

fold(Fun, Acc, Zone) when is_function(Fun, 3) ->
    Seen = fun({Name, [{pid, Pid} | _]}, Before) -> Fun(Name, Pid, Before) end,
    lists:foldl(Seen, Acc, list(Zone, []));
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
    try ask(Zone, {unregister_name, Name}) catch error:badarg -> ok end;
unregister_name(_) ->
    error(badarg).

whereis_name({Zone, Name}) when is_atom(Zone) ->
    try ask(Zone, {find_alive, Name}) of
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

%% A zone may be given as the tracker's pid, or with its node. (By nothing that lets the caller
%% wait, as `ets:all/0` does: whoever watches it would think that it has asked.)
zone_of(Tracker) when is_pid(Tracker) ->
    hd([Zone || Zone <- registered(), whereis(Zone) =:= Tracker] ++ [none]);
zone_of({Zone, Node}) when Node =:= node() ->
    Zone;
zone_of(Zone) ->
    Zone.

%% What the table tells. It can be read as long as it is there.
ask(Zone, Question) ->
    is_zone(Zone) orelse error(badarg),
    try gen_server:call(Zone, {ask, Question}, infinity) of
        {returned, Answer} -> Answer;
        {raised, Reason} -> error(Reason)
    catch
        exit:{Reason, _} when Reason =:= noproc; Reason =:= normal; Reason =:= shutdown ->
            error(badarg)
    end.

%% What is asked of the tracker, which answers `{error, shutdown}` when it stops.
call(Zone, Request) ->
    is_zone(Zone) orelse error(badarg),
    try
        gen_server:call(Zone, Request, infinity)
    catch
        exit:{noproc, _} -> error(badarg);
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown -> {error, shutdown}
    end.

%% A child spec in the form of a map, with nothing left out.
checked({Name, Start, Restart}) ->
    checked({Name, Start, Restart, 200, worker, []});
checked(Spec) ->
    try supervisor:check_childspecs([Spec]) of
        ok -> {ok, name(Spec), in_full(Spec)};
        {error, Reason} -> {error, Reason}
    catch
        %% OTP 29, for a list of modules without an end.
        error:Reason:Stack -> {error, {'EXIT', {Reason, Stack}}}
    end.

name(#{id := Name}) -> Name;
name(Spec) -> element(1, Spec).

in_full({Name, Start, Restart, Shutdown, Type, Modules}) ->
    in_full(#{id => Name, start => Start, restart => Restart, shutdown => Shutdown, type => Type,
              modules => Modules});
in_full(#{start := {Module, _, _}} = Spec) ->
    Shutdown =
        case Spec of
            #{type := supervisor} -> infinity;
            _ -> 5000
        end,
    Defaults = #{restart => permanent, shutdown => Shutdown, type => worker, modules => [Module],
                 significant => false},
    maps:merge(Defaults, Spec).

%% Whatever else is in a spec.
named({Name, _, _}) -> {ok, Name};
named({Name, _, _, _, _, _}) -> {ok, Name};
named(#{id := Name}) -> {ok, Name};
named(_) -> none.

%% What is kept of a spec: no arguments of a start that is never made again.
kept(#{start := {Module, Function, _}, restart := temporary} = Spec) ->
    Spec#{start := {Module, Function, undefined}};
kept(Spec) ->
    Spec.

%%% The server

init({Zone, Restarts}) ->
    process_flag(trap_exit, true),
    Zone = ets:new(Zone, [named_table, {heir, spawn_link(fun bury/0), Zone}]),
    {ok, #zone{name = Zone, restarts = Restarts}}.

%% When the tracker was killed, its children are ended, and subscriptions with them.
bury() ->
    process_flag(trap_exit, true),
    receive {'ETS-TRANSFER', Zone, _, Zone} -> ok end,
    Running = [{monitor(process, Child#child.pid), Child} || Child <- in_state(running, Zone)],
    lists:foreach(fun({_, Child}) -> end_child(Child) end, Running),
    lists:foreach(fun({Monitor, Child}) -> await_end(Monitor, Child, Zone) end, Running),
    [exit(Cleaner, kill) || #child{cleaner = Cleaner} <- children(Zone), is_pid(Cleaner)],
    end_starters(kill, Zone),
    tell(Zone, unsubscribed).

await_end(Monitor, #child{name = Name, pid = Pid} = Child, Zone) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> tell(Zone, {down, Name, Pid, Reason});
        {kill, Other} -> exit(Other, kill), await_end(Monitor, Child, Zone)
    end.

%% What start functions have started beside their children ends with those who started it.
end_starters(Reason, Zone) ->
    [exit(Starter, Reason) || {{starter, Starter}} <- ets:tab2list(Zone)].

handle_call({ask, Question}, _From, #zone{name = Zone} = State) ->
    {reply, asked(Question, Zone), State};
handle_call({start_child, Spec}, From, State) ->
    case checked(Spec) of
        {ok, Name, Checked} ->
            handle(#request{what = start_child, name = Name, spec = Checked, from = From}, State),
            {noreply, State};
        {error, Reason} ->
            {reply, {error, Reason}, State}
    end;
handle_call({Forget, Name}, From, State)
        when Forget =:= terminate_child; Forget =:= delete_child ->
    handle(#request{what = forget, name = Name, from = From}, State),
    {noreply, State};
handle_call({state, Name}, _From, #zone{name = Zone} = State) ->
    {reply, child(Zone, Name), State};
handle_call({find_or_open, Spec}, From, #zone{name = Zone} = State) ->
    Found =
        case named(Spec) of
            {ok, Its} -> answer({find_alive, Its}, Zone);
            none -> undefined
        end,
    case {Found, checked(Spec)} of
        {{ok, Pid}, _} ->
            {reply, {ok, Pid}, State};
        {undefined, {ok, Name, Checked}} ->
            handle(#request{what = find_or_open, name = Name, spec = Checked, from = From}, State),
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
            Request = #request{what = add, name = Name, spec = Spec, pid = Pid, from = From},
            handle(Request, State),
            {noreply, State}
    end;
handle_call({register, Name, Pid}, From, #zone{name = Zone} = State) ->
    case is_being_started(child(Zone, Name), Pid, From) of
        true ->
            {reply, {ok, Pid}, State};
        false ->
            {Name, Spec, Pid} = to_add({Name, Pid, worker, []}),
            Request = #request{what = register, name = Name, spec = Spec, pid = Pid, from = From},
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
    {reply, answer(which_children, Zone), State};
handle_call(count_children, _From, #zone{name = Zone} = State) ->
    Children = answer(which_children, Zone),
    Count = fun(Test) -> length(lists:filter(Test, Children)) end,
    Counts = [{specs, length(Children)},
              {active, Count(fun(Child) -> is_pid(element(2, Child)) end)},
              {supervisors, Count(fun(Child) -> element(3, Child) =:= supervisor end)},
              {workers, Count(fun(Child) -> element(3, Child) =:= worker end)}],
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
        #child{state = Waits, delay = Delay} = Child when Waits =:= failed; Waits =:= slowed ->
            start(Child, Child#child.spec, Zone);
        _ ->
            ok
    end,
    {noreply, State};
handle_info(_, State) ->
    {noreply, State}.

%% The end of a child, a cleaner or a starter.
ended(Monitor, Pid, Reason, State) ->
    Of = fun(Field, Value) -> child_of(Field, Value, State) end,
    case {Of(#child.monitor, Monitor), Of(#child.cleaner, Pid), Of(#child.starter, Pid)} of
        {#child{state = running} = Child, _, _} -> died(Child, Reason, State);
        {#child{state = ending} = Child, _, _} -> freed(Child, State);
        {_, #child{} = Child, _} -> cleaned_up(Child, State);
        {_, _, #child{state = launching} = Child} -> launched(Child, {error, Reason}, State);
        _ -> ok
    end.

terminate(_Reason, #zone{name = Zone} = State) ->
    lists:foreach(fun(Child) -> refuse_all(Child, Zone) end, children(Zone)),
    Stopping = State#zone{stopping = true},
    lists:foreach(fun(Child) -> doom(Child, Stopping) end, children(Zone)),
    await_ends(Stopping),
    unregister(Zone),
    refuse_others().

refuse_all(#child{waiting = Waiting} = Child, Zone) ->
    [reply(Request, {error, shutdown}) || Request <- Waiting],
    write(Child#child{waiting = []}, Zone).

await_ends(#zone{name = Zone} = State) ->
    case children(Zone) of
        [] ->
            tell(Zone, unsubscribed),
            end_starters(shutdown, Zone),
            Heir = ets:info(Zone, heir),
            ets:delete(Zone),
            exit(Heir, kill);
        _ ->
            receive
                {'$gen_call', From, {ask, Question}} ->
                    gen_server:reply(From, asked(Question, Zone));
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
        {'$gen_call', From, {ask, _}} -> gen_server:reply(From, {raised, badarg}), refuse_others();
        {'$gen_call', From, _} -> gen_server:reply(From, {error, shutdown}), refuse_others()
    after 0 -> ok
    end.

%%% The table

children(Zone) ->
    [Child || {{child, _}, Child} <- ets:tab2list(Zone)].

in_state(State, Zone) ->
    [Child || #child{state = Its} = Child <- children(Zone), Its =:= State].

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

tell(Zone, Event) ->
    [Pid ! {gen_tracker, Zone, Event} || {{subscriber, Pid}} <- ets:tab2list(Zone)].

%%% Questions

asked(Question, Zone) ->
    try
        {returned, answer(Question, Zone)}
    catch
        error:Reason -> {raised, Reason}
    end.

answer({find, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid} -> {ok, Pid};
        _ -> undefined
    end;
answer({find_alive, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid} -> if_alive(is_alive(Pid), Pid);
        _ -> undefined
    end;
answer(which_children, Zone) ->
    [
        {Name, visible(Child), Type, Modules}
     || #child{name = Name, spec = #{type := Type, modules := Modules}} = Child <- children(Zone)
    ];
answer({setattr, Name, Attributes}, Zone) when is_map(Attributes) ->
    answer({setattr, Name, maps:to_list(Attributes)}, Zone);
answer({setattr, Name, Attributes}, Zone) ->
    true = is_integer(length(Attributes)),
    Pairs = [Pair || {_, _} = Pair <- Attributes],
    is_settable(Name, Zone) orelse error({void_setting, Zone, Name, [Key || {Key, _} <- Pairs]}),
    [ets:insert(Zone, {{attribute, Name, Key}, Value}) || {Key, Value} <- Pairs],
    ok;
answer({setattr, Name, Key, Value}, Zone) ->
    is_settable(Name, Zone) orelse error({void_setting, Zone, Name, Key}),
    ets:insert(Zone, {{attribute, Name, Key}, Value}),
    ok;
answer({getattr, Name, Key}, Zone) ->
    case ets:lookup(Zone, {attribute, Name, Key}) of
        [{_, Value}] -> {ok, Value};
        [] -> undefined
    end;
answer({delattr, Name, Key}, Zone) ->
    ets:delete(Zone, {attribute, Name, Key}),
    ok;
answer({increment, Name, Key, Increment}, Zone) ->
    incremented(answer({getattr, Name, Key}, Zone), Name, Key, Increment, Zone);
answer({increment, Name, Key, Increment, Default}, Zone) ->
    case answer({getattr, Name, Key}, Zone) of
        undefined -> incremented({ok, Default}, Name, Key, Increment, Zone);
        Found -> incremented(Found, Name, Key, Increment, Zone)
    end;
answer({cas, Name, Key, Old, New}, Zone) ->
    is_settable(Name, Zone) orelse error({void_setting, Zone, Name, Key}),
    case answer({getattr, Name, Key}, Zone) of
        {ok, Value} when Value =:= Old -> answer({setattr, Name, Key, New}, Zone);
        {ok, Value} -> {error, {current, Value}};
        undefined -> {error, undefined}
    end;
answer({info, Name}, Zone) ->
    attributes(Name, Zone);
answer({info, Name, Keys}, Zone) when length(Keys) >= 0 ->
    attributes(Name, Keys, Zone);
answer(list, Zone) ->
    [
        {Name, [{pid, Pid} | attributes(Name, Zone)]}
     || #child{name = Name, pid = Pid} <- in_state(running, Zone)
    ];
answer({list, Keys}, Zone) when length(Keys) >= 0 ->
    [
        {Name, [{pid, Pid} | attributes(Name, Keys, Zone)]}
     || #child{name = Name, pid = Pid} <- in_state(running, Zone)
    ];
answer({unregister_name, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid, spec = #{start := undefined}} = Child ->
            demonitor(Child#child.monitor, [flush]),
            tell(Zone, {down, Name, Pid, unregistered}),
            delete(Child, Zone);
        _ ->
            ok
    end,
    ok;
answer({may_wait, Name, Pid}, Zone) ->
    case child(Zone, Name) of
        #child{state = terminating} = Child ->
            not closes_cycle(asker(askers(Pid), Zone), Child, Zone);
        _ ->
            true
    end;
answer(_, _) ->
    error(badarg).

%% As `ets:update_counter/3` takes them.
incremented({ok, Value}, Name, Key, Increment, Zone) when is_integer(Value) ->
    Sum =
        case Increment of
            {2, Added} when is_integer(Added) -> Value + Added;
            {2, Added, Threshold, Set}
                    when is_integer(Added), is_integer(Threshold), is_integer(Set) ->
                set_beyond(Value + Added, Added, Threshold, Set);
            Added when is_integer(Added) -> Value + Added;
            _ -> error(badarg)
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

%% Whether a child of that name is running or starting.
is_settable(Name, Zone) ->
    case child(Zone, Name) of
        none -> false;
        #child{state = State} -> lists:member(State, [launching, running, ending])
    end.

%%% What is wanted of a name

handle(#request{what = What, name = Name} = Request, #zone{name = Zone} = State) ->
    case child(Zone, Name) of
        none when What =:= forget -> reply(Request, {error, no_child});
        none -> take(Request, State);
        Child when What =:= forget ->
            wait_and(fun(With) -> doom(With, State) end, Request, Child, Zone);
        #child{state = running, pid = Pid} = Child ->
            case is_alive(Pid) of
                true -> reply(Request, running(Request, {ok, Pid}));
                false -> wait(Request, Child, Zone)
            end;
        #child{state = terminating} = Child -> wait(Request, Child, Zone);
        _ when What =:= add -> reply(Request, {error, already_present});
        #child{state = failed} = Child when What =:= find_or_open ->
            Start = fun(With) -> start(With, Request#request.spec, Zone) end,
            wait_and(Start, Request, Child, Zone);
        #child{state = failed} -> reply(Request, {error, already_present});
        Child -> wait(Request, Child, Zone)
    end.

reply(#request{from = From}, Answer) ->
    gen_server:reply(From, Answer).

running(#request{what = find_or_open}, Result) -> Result;
running(_, Result) -> {error, {already_started, element(2, Result)}}.

wait(Request, Child, Zone) ->
    wait_and(fun(_) -> ok end, Request, Child, Zone).

%% Lets a request wait for what comes of a child, and does something with the child then; or
%% refuses it.
wait_and(Do, #request{from = {Pid, _}} = Request, #child{waiting = Waiting} = Child, Zone) ->
    Asker = asker(askers(Pid), Zone),
    case closes_cycle(Asker, Child, Zone) of
        true ->
            reply(Request, {error, doing(Asker, Zone)});
        false ->
            Late = Request#request{asker = Asker, is_late = Child#child.is_doomed},
            With = Child#child{waiting = Waiting ++ [Late]},
            write(With, Zone),
            Do(With)
    end.

%%% Cycles of waits

%% Who asks: a process, and the one at the head of its `$ancestors`.
askers(Pid) when node(Pid) =:= node() ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} ->
            [Pid | lists:sublist(proplists:get_value('$ancestors', Dictionary, []), 1)];
        undefined ->
            [Pid]
    end;
askers(_) ->
    [].

%% Whether a process registers itself under the name under which it is just being started.
is_being_started(#child{state = launching, starter = Starter}, Pid, {Pid, _}) ->
    lists:member(Starter, askers(Pid));
is_being_started(_, _, _) ->
    false.

%% The one of them that is at work for a child.
asker(Pids, Zone) ->
    Workers = [worker(Child) || Child <- children(Zone)],
    hd([Pid || Pid <- Pids, lists:member(Pid, Workers)] ++ [none]).

worker(#child{state = launching, starter = Starter}) -> Starter;
worker(#child{state = terminating, cleaner = Cleaner}) -> Cleaner;
worker(_) -> nobody.

doing(Asker, Zone) ->
    [Doing] = [State || #child{state = State} = Child <- children(Zone), worker(Child) =:= Asker],
    case Doing of
        launching -> starting;
        terminating -> terminating
    end.

%% Whether a child waits for this process.
closes_cycle(none, _, _) ->
    false;
closes_cycle(Asker, Child, Zone) ->
    Worker = worker(Child),
    Others = [
        Other
     || #child{waiting = Waiting} = Other <- children(Zone),
        lists:keymember(Worker, #request.asker, Waiting)
    ],
    Worker =:= Asker orelse
        lists:any(fun(Other) -> closes_cycle(Asker, Other, Zone) end, Others).

%%% Starting

take(#request{name = Name, spec = Spec, pid = undefined} = Request, #zone{name = Zone}) ->
    start(#child{name = Name, spec = kept(Spec), waiting = [first(Request, Zone)]}, Spec, Zone);
take(#request{name = Name, spec = Spec, pid = Pid} = Request, #zone{name = Zone}) ->
    run(#child{name = Name, spec = kept(Spec)}, Pid, Zone),
    reply(Request, {ok, Pid}).

%% The one start_child whose child it is.
first(#request{what = start_child} = Request, Zone) ->
    first(Request#request{what = starting}, Zone);
first(#request{from = {Pid, _}} = Request, Zone) ->
    Request#request{asker = asker(askers(Pid), Zone), is_late = false}.

%% Starts a child with a spec, which may be that of a caller.
start(#child{spec = Own} = Child, #{start := {Module, Function, Arguments}} = Spec, Zone) ->
    Tracker = self(),
    {Starter, _} = proc_lib:spawn_opt(
        fun() -> starter(Tracker, Module, Function, Arguments) end,
        [link, monitor]
    ),
    ets:insert(Zone, {{starter, Starter}}),
    Launching = Child#child{state = launching, pid = undefined, starter = Starter},
    write(Launching#child{cleaner = undefined, spec = kept(Spec), own = Own}, Zone).

starter(Tracker, Module, Function, Arguments) ->
    process_flag(trap_exit, true),
    Result = try apply(Module, Function, Arguments) catch _:Reason -> {error, Reason} end,
    process_flag(trap_exit, true),
    link(Tracker),
    ok = gen_server:call(Tracker, {launched, self(), Result}, infinity),
    be_parent(Tracker).

be_parent(Tracker) ->
    receive
        {is_registered, Pid} -> Pid ! {registered, self()}, be_parent(Tracker);
        {'EXIT', Tracker, shutdown} -> exit(shutdown);
        _ -> be_parent(Tracker)
    end.

%% What a start function returns is what a caller gets, but for an `ok` without a process.
result({ok, Pid}) when is_pid(Pid) -> {ok, Pid};
result({ok, Pid, Info}) when is_pid(Pid) -> {ok, Pid, Info};
result({ok, _} = Other) -> {error, {bad_return_value, Other}};
result({ok, _, _} = Other) -> {error, {bad_return_value, Other}};
result(Other) -> Other.

run(#child{name = Name} = Child, Pid, Zone) ->
    Monitor = monitor_now(Pid),
    write(Child#child{state = running, pid = Pid, monitor = Monitor, since = now_ms()}, Zone),
    tell(Zone, {up, Name, Pid}).

%% A process may keep its latest monitor to itself for as long as it runs. This one is sent, so that
%% it tells why a child ends that is killed as soon as it is seen.
monitor_now(Pid) ->
    Monitor = monitor(process, Pid),
    true = demonitor(monitor(process, Pid), [flush]),
    Monitor.

%% A starter has returned. What it was called for is told to those who wait: `killed`, whatever it
%% is, when somebody has asked for the end of the child meanwhile.
launched(none, _, _) ->
    ok;
launched(#child{is_doomed = IsDoomed} = Child, Returned, State) ->
    Result = result(Returned),
    Outcome =
        case IsDoomed of
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

started(#child{is_doomed = true} = Child, Result, Outcome, #zone{name = Zone} = State) ->
    Pid = element(2, Result),
    Ending = Child#child{state = ending, pid = Pid, monitor = monitor(process, Pid)},
    serve(Ending, Outcome, fun(Served) -> write(Served, Zone) end, State),
    end_child(Ending);
started(#child{is_slowed = IsSlowed, delay = Delay} = Child, Result, Outcome, State) ->
    Next =
        case IsSlowed of
            true -> Delay;
            false -> 50
        end,
    Run = fun(Served) -> run(Served#child{delay = Next}, element(2, Result), State#zone.name) end,
    serve(Child, Outcome, Run, State).

failed(Child, Result, IsProper, Outcome, #zone{name = Zone} = State) ->
    #child{own = #{restart := Restart}, reason = Reason, is_doomed = IsDoomed} = Child,
    %% A caller's own spec that fails does not end the tries of the child's.
    IsOwn = Child#child.spec =:= Child#child.own,
    IsError =
        case Result of
            {error, _} -> IsProper;
            _ -> false
        end,
    Again = Reason =/= none andalso Restart =:= permanent andalso not IsDoomed andalso
        (IsError orelse not IsOwn),
    case Again of
        true ->
            delete_attributes(Child#child.name, Zone),
            Own = Child#child{spec = Child#child.own},
            serve(Own, Outcome, fun(Served) -> wait_to_start(failed, Served, Zone) end, State);
        false ->
            Free = fun(#child{waiting = Waiting} = Left) ->
                delete(Left, Zone),
                lists:foreach(fun(Request) -> freed_for(Request, State) end, Waiting)
            end,
            serve(Child, Outcome, Free, State)
    end.

%% The child is started again later.
wait_to_start(Waits, #child{name = Name, delay = Delay} = Child, Zone) ->
    Next = min(Delay + 150, 5000),
    erlang:send_after(Delay, self(), {start_again, Name, Next}),
    write(Child#child{state = Waits, delay = Next, cleaner = undefined}, Zone).

%% Answers those who wait for a start, as far as they have an answer now, and handles those again
%% who want the name, as it is after `Do` has been called.
serve(#child{waiting = Waiting} = Child, Outcome, Do, State) ->
    Answers = [{answer_to(Request, Outcome), Request} || Request <- Waiting],
    [reply(Request, Reply) || {{reply, Reply}, Request} <- Answers],
    Do(Child#child{waiting = [Request || {wait, Request} <- Answers]}),
    [handle(Request, State) || {again, Request} <- Answers].

answer_to(#request{what = forget}, _) -> wait;
answer_to(#request{is_late = true}, _) -> wait;
answer_to(#request{what = What}, killed)
        when What =:= find_or_open; What =:= start_child; What =:= starting ->
    {reply, {error, killed}};
answer_to(#request{what = What}, killed) when What =/= add -> wait;
answer_to(_, killed) -> again;
answer_to(#request{what = find_or_open}, Result) -> {reply, Result};
answer_to(#request{what = starting}, Result) -> {reply, to_supervisor(Result)};
answer_to(Request, Result) ->
    case is_started(Result) of
        true -> {reply, running(Request, Result)};
        false -> again
    end.

to_supervisor(ignore) -> {ok, undefined};
to_supervisor({error, Reason}) -> {error, Reason};
to_supervisor(Result) ->
    case is_started(Result) of
        true -> Result;
        false -> {error, Result}
    end.

%%% The end of a child

%% Stops a child for good, in whatever state it is.
doom(#child{name = Name, spec = #{shutdown := Shutdown}} = Child, #zone{name = Zone} = State) ->
    write(Child#child{is_doomed = true}, Zone),
    Limit = fun(Time, Worker) -> erlang:send_after(Time, self(), {overtime, Name, Worker}) end,
    case Child of
        #child{state = running} -> end_child(Child);
        #child{state = launching} -> Limit(start_time(Shutdown), worker(Child));
        #child{state = terminating} -> Limit(cleanup_time(Shutdown), worker(Child));
        #child{state = ending} -> ok;
        _ -> freed(Child, State)
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
    tell(Zone, {down, Name, Pid, Reason}),
    Terminating = Child#child{state = terminating, reason = Reason},
    case callback(Child, attributes(Name, Zone), Reason) of
        none ->
            cleaned_up(Terminating, State);
        Call ->
            {Cleaner, _} = proc_lib:spawn_opt(Call, [link, monitor]),
            write(Terminating#child{cleaner = Cleaner}, Zone),
            #child{is_doomed = IsDoomed, spec = #{shutdown := Shutdown}} = Child,
            Time = cleanup_time(Shutdown),
            IsDoomed andalso erlang:send_after(Time, self(), {overtime, Name, Cleaner})
    end.

callback(#child{spec = #{start := undefined}}, _, _) ->
    none;
callback(#child{name = Name, spec = #{start := {Module, _, _}}}, Attributes, Reason) ->
    _ = code:ensure_loaded(Module),
    Has = fun(Arity) -> erlang:function_exported(Module, after_terminate, Arity) end,
    case {Has(3), Has(2)} of
        {true, _} -> fun() -> Module:after_terminate(Name, Attributes, Reason) end;
        {false, true} -> fun() -> Module:after_terminate(Name, Attributes) end;
        {false, false} -> none
    end.

cleaned_up(#child{name = Name} = Child, #zone{name = Zone} = State) ->
    delete_attributes(Name, Zone),
    case is_restarted(Child, State) of
        true -> restart(Child, Zone);
        false -> freed(Child, State)
    end.

is_restarted(#child{is_doomed = true}, _) -> false;
is_restarted(_, #zone{stopping = true}) -> false;
is_restarted(_, #zone{restarts = false}) -> false;
is_restarted(#child{spec = #{restart := permanent}}, _) -> true;
is_restarted(#child{spec = #{restart := temporary}}, _) -> false;
is_restarted(#child{reason = normal}, _) -> false;
is_restarted(#child{reason = shutdown}, _) -> false;
is_restarted(#child{reason = {shutdown, _}}, _) -> false;
is_restarted(_, _) -> true.

%% At once, unless that was done too often.
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

%% The name is free.
freed(#child{waiting = Waiting} = Child, #zone{name = Zone} = State) ->
    delete(Child, Zone),
    lists:foreach(fun(Request) -> freed_for(Request, State) end, Waiting).

freed_for(#request{what = forget} = Request, _) -> reply(Request, ok);
freed_for(Request, State) -> handle(Request, State).

now_ms() ->
    erlang:monotonic_time(millisecond).
