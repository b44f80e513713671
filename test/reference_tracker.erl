%% The contract of gen_tracker once more, as simply as it can be said: one server that does everything in turn, a linear search wherever one will do, and
%% all that it knows in one ETS table. The answers of gen_tracker are compared with its answers (see `differential`).
%%
%% Rows: `{{child, Name}, #child{}}`, `{{attribute, Name, Key}, Value}`, `{{subscriber, Pid}}`. The table is named as the zone is, and exists as long as the zone.
%% Two things have processes of their own, since they may take long: a start, whose process stays as the parent of its child, and `after_terminate`.
-module(reference_tracker).
-behaviour(gen_server).

-export([start_link/1, start_link/2, find/2, find_or_open/2, which_children/1, add_existing_child/2, wait/1, init_ack/1]).
-export([setattr/3, setattr/4, getattr/3, getattr/4, delattr/3, increment/4, increment/5, cas/5]).
-export([info/2, info/3, attrs/2, list/1, list/2, count/1, names/1, fold/3]).
-export([register_name/2, unregister_name/1, whereis_name/1, send/2, subscribe/1, unsubscribe/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-record(zone, {name, restarts, stopping = false}).
-record(child, {name, state, pid, monitor, spec, starter, cleaner, reason, is_forgotten = false, delay = 50, waiting = []}).
%% What is wanted of a name: find_or_open, start_child, add, register or forget.
-record(request, {what, name, spec, pid, from}).

%%% The functions of the contract

start_link(Zone) -> start_link(Zone, #{}).

start_link(Zone, Options) when is_atom(Zone), Zone =/= undefined, is_map(Options) ->
    case maps:to_list(Options) of
        [] -> gen_server:start_link({local, Zone}, ?MODULE, {Zone, true}, []);
        [{restart, Restarts}] when is_boolean(Restarts) -> gen_server:start_link({local, Zone}, ?MODULE, {Zone, Restarts}, []);
        _ -> error(badarg)
    end;
start_link(_, _) -> error(badarg).

find(Zone, Name) -> ask(Zone, {find, Name}).

find_or_open(Zone, Spec) when is_atom(Zone) ->
    case {checked(Spec), is_zone(Zone)} of
        {{error, Reason}, _} -> {error, Reason};
        {_, false} -> {error, gen_tracker_not_started};
        {{ok, Name, Checked}, true} -> gen_server:call(Zone, #request{what = find_or_open, name = Name, spec = Checked}, 60000)
    end;
find_or_open(_, _) -> error(badarg).

which_children(Zone) -> ask(Zone, which_children).

add_existing_child(Zone, Child) -> add(add, Zone, Child).

add(What, Zone, {Name, Pid, worker, Modules}) when is_pid(Pid), node(Pid) =:= node() ->
    case checked({Name, {m, f, []}, temporary, 200, worker, Modules}) of
        {ok, Name, Spec} -> added(What, Zone, Name, Spec#{start := undefined}, Pid);
        {error, _} -> error(badarg)
    end;
add(What, Zone, {Pid, {Name, _, _, _, worker, _} = Spec}) when is_pid(Pid), node(Pid) =:= node() ->
    case checked(Spec) of
        {ok, Name, Checked} -> added(What, Zone, Name, Checked, Pid);
        {error, _} -> error(badarg)
    end;
add(_, _, _) -> error(badarg).

added(What, Zone, Name, Spec, Pid) ->
    is_zone(Zone) orelse error(badarg),
    gen_server:call(Zone, #request{what = What, name = Name, spec = Spec, pid = Pid}, infinity).

wait(Zone) -> ask(Zone, wait).

init_ack(Ret) ->
    proc_lib:init_ack(Ret),
    [Parent | _] = get('$ancestors'),
    Parent ! {is_registered, self()},
    receive {registered, Parent} -> ok end.

setattr(Zone, Name, Attributes) -> ask(Zone, {setattr, Name, Attributes}).

setattr(Zone, Name, Key, Value) -> ask(Zone, {setattr, Name, Key, Value}).

getattr(Zone, Name, Key) -> ask(Zone, {getattr, Name, Key}).

getattr(Zone, Name, Key, Timeout) when is_integer(Timeout), Timeout >= 0; Timeout =:= infinity ->
    case {getattr(Zone, Name, Key), Timeout} of
        {undefined, 0} -> undefined;
        {undefined, infinity} -> getattr(Zone, Name, Key, infinity);
        {undefined, _} -> receive after 1 -> getattr(Zone, Name, Key, Timeout - 1) end;
        {Found, _} -> Found
    end;
getattr(_, _, _, _) -> error(badarg).

delattr(Zone, Name, Key) -> ask(Zone, {delattr, Name, Key}).

increment(Zone, Name, Key, Increment) -> ask(Zone, {increment, Name, Key, Increment}).

increment(Zone, Name, Key, Increment, Default) -> ask(Zone, {increment, Name, Key, Increment, Default}).

cas(Zone, Name, Key, Old, New) -> ask(Zone, {cas, Name, Key, Old, New}).

info(Zone, Name) -> ask(Zone, {info, Name}).

info(_, _, []) -> [];
info(Zone, Name, Keys) -> ask(Zone, {info, Name, Keys}).

attrs(Zone, Name) -> ask(Zone, {info, Name}).

list(Zone) -> ask(Zone, list).

list(Zone, Keys) -> ask(Zone, {list, Keys}).

count(Zone) -> length(names(Zone)).

names(Zone) -> [Name || {Name, _, _, _} <- which_children(Zone)].

fold(Fun, Acc, Zone) when is_function(Fun, 3) ->
    lists:foldl(fun({Name, [{pid, Pid} | _]}, Before) -> Fun(Name, Pid, Before) end, Acc, list(Zone, []));
fold(_, _, _) -> error(badarg).

register_name({Zone, Name}, Pid) ->
    case add(register, Zone, {Name, Pid, worker, []}) of
        {ok, Pid} -> yes;
        {error, _} -> no
    end;
register_name(_, _) -> error(badarg).

unregister_name({Zone, Name}) when is_atom(Zone) -> is_zone(Zone) andalso ask(Zone, {unregister_name, Name}), ok;
unregister_name(_) -> error(badarg).

whereis_name({Zone, Name}) when is_atom(Zone) ->
    case is_zone(Zone) andalso find(Zone, Name) of
        {ok, Pid} -> Pid;
        _ -> undefined
    end;
whereis_name(_) -> error(badarg).

send(ViaName, Message) ->
    case whereis_name(ViaName) of
        undefined -> exit({badarg, {ViaName, Message}});
        Pid -> Pid ! Message, Pid
    end.

subscribe(Zone) -> ask(Zone, {subscribe, self()}).

unsubscribe(Zone) -> ask(Zone, {unsubscribe, self()}), forget_events(Zone).

forget_events(Zone) ->
    receive {gen_tracker, Zone, _} -> forget_events(Zone)
    after 0 -> ok
    end.

is_zone(Zone) -> is_atom(Zone) andalso ets:whereis(Zone) =/= undefined.

ask(Zone, Question) ->
    is_zone(Zone) orelse error(badarg),
    case gen_server:call(Zone, {ask, Question}, infinity) of
        {returned, Answer} -> Answer;
        {raised, Reason} -> error(Reason)
    end.

%% A child spec in the form of a map, with nothing left out.
checked({Name, Start, Restart}) -> checked({Name, Start, Restart, 200, worker, []});
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
    in_full(#{id => Name, start => Start, restart => Restart, shutdown => Shutdown, type => Type, modules => Modules});
in_full(#{start := {Module, _, _}} = Spec) ->
    Shutdown = case Spec of #{type := supervisor} -> infinity; _ -> 5000 end,
    maps:merge(#{restart => permanent, shutdown => Shutdown, type => worker, modules => [Module], significant => false}, Spec).

%%% The server

init({Zone, Restarts}) ->
    process_flag(trap_exit, true),
    Zone = ets:new(Zone, [named_table, {heir, spawn_link(fun bury/0), Zone}]),
    {ok, #zone{name = Zone, restarts = Restarts}}.

%% When the tracker is gone, its children are gone, and subscriptions have ended.
bury() ->
    process_flag(trap_exit, true),
    receive {'ETS-TRANSFER', Zone, _, Zone} -> ok end,
    Running = [{monitor(process, Pid), Child} || #child{state = running, pid = Pid} = Child <- children(Zone)],
    lists:foreach(fun({_, Child}) -> end_child(Child) end, Running),
    lists:foreach(fun({Monitor, Child}) -> await_end(Monitor, Child, Zone) end, Running),
    _ = [exit(Pid, kill) || Child <- children(Zone), Pid <- [Child#child.starter, Child#child.cleaner], is_pid(Pid)],
    tell(Zone, unsubscribed).

await_end(Monitor, #child{name = Name, pid = Pid} = Child, Zone) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> tell(Zone, {down, Name, Pid, Reason});
        {kill, Other} -> exit(Other, kill), await_end(Monitor, Child, Zone)
    end.

handle_call({ask, Question}, _From, #zone{name = Zone} = State) ->
    try {reply, {returned, answer(Question, Zone)}, State}
    catch error:Reason -> {reply, {raised, Reason}, State}
    end;
handle_call(#request{} = Request, From, State) -> handle(Request#request{from = From}, State), {noreply, State};
handle_call({start_child, Spec}, From, State) ->
    case checked(Spec) of
        {ok, Name, Checked} -> handle(#request{what = start_child, name = Name, spec = Checked, from = From}, State), {noreply, State};
        {error, Reason} -> {reply, {error, Reason}, State}
    end;
handle_call({Forget, Name}, From, State) when Forget =:= terminate_child; Forget =:= delete_child ->
    handle(#request{what = forget, name = Name, from = From}, State),
    {noreply, State};
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
handle_call(which_children, _From, #zone{name = Zone} = State) -> {reply, answer(which_children, Zone), State};
handle_call(count_children, _From, #zone{name = Zone} = State) ->
    Children = answer(which_children, Zone),
    Count = fun(Test) -> length(lists:filter(Test, Children)) end,
    Counts = [{specs, length(Children)}, {active, Count(fun(Child) -> is_pid(element(2, Child)) end)},
              {supervisors, Count(fun(Child) -> element(3, Child) =:= supervisor end)},
              {workers, Count(fun(Child) -> element(3, Child) =:= worker end)}],
    {reply, Counts, State};
handle_call({launched, Starter, Result}, From, State) ->
    launched(child_of(#child.starter, Starter, State), Result, State),
    gen_server:reply(From, ok),
    {noreply, State};
handle_call(shutdown, _From, State) -> {stop, shutdown, ok, State};
handle_call(stop, _From, State) -> {stop, normal, ok, State};
handle_call(Call, _From, State) -> {reply, {error, {unknown_call, Call}}, State}.

handle_cast(_, State) -> {noreply, State}.

handle_info({'DOWN', Monitor, process, _, Reason}, State) ->
    case {child_of(#child.monitor, Monitor, State), child_of(#child.cleaner, Monitor, State)} of
        {#child{} = Child, _} -> died(Child, Reason, State);
        {_, #child{} = Child} -> clean_up(Child, State);
        {none, none} -> ok
    end,
    {noreply, State};
handle_info({kill, Pid}, State) -> exit(Pid, kill), {noreply, State};
handle_info({start_again, Name}, #zone{name = Zone} = State) ->
    case child(Zone, Name) of
        #child{state = pending} = Child -> start(Child, Zone);
        _ -> ok
    end,
    {noreply, State};
handle_info(_, State) -> {noreply, State}.

terminate(_Reason, #zone{name = Zone} = State) ->
    lists:foreach(
        fun
            (#child{state = running} = Child) -> forget(Child, Zone);
            (#child{state = terminating}) -> ok;
            (#child{starter = Starter} = Child) -> _ = [exit(Starter, kill) || is_pid(Starter)], delete(Child, Zone)
        end,
        children(Zone)
    ),
    await_ends(State#zone{stopping = true}).

await_ends(#zone{name = Zone} = State) ->
    case children(Zone) of
        [] ->
            tell(Zone, unsubscribed),
            Heir = ets:info(Zone, heir),
            ets:delete(Zone),
            exit(Heir, kill);
        _ ->
            receive
                {'DOWN', _, _, _, _} = Message -> handle_info(Message, State);
                {kill, _} = Message -> handle_info(Message, State)
            end,
            await_ends(State)
    end.

%%% The table

children(Zone) -> [Child || {{child, _}, Child} <- ets:tab2list(Zone)].

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

write(#child{name = Name} = Child, Zone) -> ets:insert(Zone, {{child, Name}, Child}).

delete(#child{name = Name}, Zone) -> ets:delete(Zone, {child, Name}), delete_attributes(Name, Zone).

attributes(Name, Zone) -> [{Key, Value} || {{attribute, Holder, Key}, Value} <- ets:tab2list(Zone), Holder =:= Name].

attributes(Name, Keys, Zone) -> [Pair || {Key, _} = Pair <- attributes(Name, Zone), [true || Wanted <- Keys, Wanted =:= Key] =/= []].

delete_attributes(Name, Zone) -> [ets:delete(Zone, {attribute, Name, Key}) || {Key, _} <- attributes(Name, Zone)].

tell(Zone, Event) -> [Pid ! {gen_tracker, Zone, Event} || {{subscriber, Pid}} <- ets:tab2list(Zone)].

%%% Questions

answer(wait, _) -> ok;
answer({find, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid} -> {ok, Pid};
        _ -> undefined
    end;
answer(which_children, Zone) ->
    [{Name, visible(Child), Type, Modules} || #child{name = Name, spec = #{type := Type, modules := Modules}} = Child <- children(Zone)];
answer({setattr, Name, Attributes}, Zone) ->
    true = is_integer(length(Attributes)),
    Pairs = [Pair || {_, _} = Pair <- Attributes],
    is_writable(Name, Zone) orelse error({void_setting, Zone, Name, [Key || {Key, _} <- Pairs]}),
    [ets:insert(Zone, {{attribute, Name, Key}, Value}) || {Key, Value} <- Pairs],
    ok;
answer({setattr, Name, Key, Value}, Zone) ->
    is_writable(Name, Zone) orelse error({void_setting, Zone, Name, Key}),
    ets:insert(Zone, {{attribute, Name, Key}, Value}),
    ok;
answer({getattr, Name, Key}, Zone) ->
    case ets:lookup(Zone, {attribute, Name, Key}) of
        [{_, Value}] -> {ok, Value};
        [] -> undefined
    end;
answer({delattr, Name, Key}, Zone) -> ets:delete(Zone, {attribute, Name, Key}), ok;
answer({increment, Name, Key, Operation}, Zone) when not is_list(Operation) ->
    ets:update_counter(Zone, {attribute, Name, Key}, Operation);
answer({increment, Name, Key, Operation, Default}, Zone) when not is_list(Operation) ->
    Row = {attribute, Name, Key},
    ets:update_counter(Zone, Row, Operation, {Row, Default});
answer({cas, Name, Key, Old, New}, Zone) ->
    is_writable(Name, Zone) orelse error({void_setting, Zone, Name, Key}),
    case answer({getattr, Name, Key}, Zone) of
        {ok, Value} when Value =:= Old -> answer({setattr, Name, Key, New}, Zone);
        {ok, Value} -> {error, {current, Value}};
        undefined -> {error, undefined}
    end;
answer({info, Name}, Zone) -> attributes(Name, Zone);
answer({info, Name, Keys}, Zone) when length(Keys) >= 0 -> attributes(Name, Keys, Zone);
answer(list, Zone) -> [{Name, [{pid, Pid} | attributes(Name, Zone)]} || #child{state = running, name = Name, pid = Pid} <- children(Zone)];
answer({list, Keys}, Zone) when length(Keys) >= 0 ->
    [{Name, [{pid, Pid} | attributes(Name, Keys, Zone)]} || #child{state = running, name = Name, pid = Pid} <- children(Zone)];
answer({unregister_name, Name}, Zone) ->
    case child(Zone, Name) of
        #child{state = running, pid = Pid, monitor = Monitor, spec = #{start := undefined}} = Child ->
            demonitor(Monitor, [flush]),
            tell(Zone, {down, Name, Pid, unregistered}),
            delete(Child, Zone);
        _ -> ok
    end;
answer({subscribe, Pid}, Zone) ->
    ets:insert(Zone, {{subscriber, Pid}}),
    {ok, [{Name, Child} || #child{state = running, name = Name, pid = Child} <- children(Zone)]};
answer({unsubscribe, Pid}, Zone) -> ets:delete(Zone, {subscriber, Pid});
answer(_, _) -> error(badarg).

visible(#child{state = running, pid = Pid}) -> Pid;
visible(#child{state = terminating}) -> terminating;
visible(_) -> launching.

%% Whether a child of that name is running or starting.
is_writable(Name, Zone) ->
    case child(Zone, Name) of
        none -> false;
        #child{state = State} -> State =/= terminating
    end.

%%% What is wanted of a name

handle(#request{what = What, name = Name} = Request, #zone{name = Zone} = State) ->
    case child(Zone, Name) of
        none when What =:= forget -> reply(Request, {error, no_child});
        none -> take(Request, State);
        #child{state = running} = Child when What =:= forget -> forget(await(Request, Child), Zone);
        #child{state = running, pid = Pid} = Child ->
            case is_process_alive(Pid) of
                true -> reply(Request, running(Request, {ok, Pid}));
                false -> write(await(Request, Child), Zone)
            end;
        #child{state = launching} when What =:= add -> reply(Request, {error, already_present});
        #child{state = pending} = Child when What =:= find_or_open -> start(await(Request, Child), Zone);
        #child{state = pending} = Child when What =:= forget -> delete(Child, Zone), reply(Request, ok);
        #child{state = pending} -> reply(Request, {error, already_present});
        Child -> write(await(Request, Child), Zone)
    end.

reply(#request{from = From}, Answer) -> gen_server:reply(From, Answer).

await(Request, #child{waiting = Waiting} = Child) -> Child#child{waiting = Waiting ++ [Request]}.

running(#request{what = find_or_open}, Result) -> Result;
running(_, Result) -> {error, {already_started, element(2, Result)}}.

take(#request{name = Name, spec = Spec, pid = undefined} = Request, #zone{name = Zone}) ->
    start(#child{name = Name, spec = Spec, waiting = [Request#request{what = first(Request)}]}, Zone);
take(#request{name = Name, spec = Spec, pid = Pid} = Request, #zone{name = Zone}) ->
    run(#child{name = Name, spec = Spec}, Pid, Zone),
    reply(Request, {ok, Pid}).

%% The one start_child whose child it is.
first(#request{what = start_child}) -> starting;
first(#request{what = What}) -> What.

start(#child{spec = #{start := {Module, Function, Arguments}}} = Child, Zone) ->
    Starter = proc_lib:spawn_link(fun() ->
        process_flag(trap_exit, true),
        Result = try result(apply(Module, Function, Arguments)) catch throw:Value -> {error, {nocatch, Value}}; _:Reason -> {error, Reason} end,
        ok = gen_server:call(Zone, {launched, self(), Result}, infinity),
        is_tuple(Result) andalso element(1, Result) =:= ok andalso be_parent()
    end),
    write(Child#child{state = launching, pid = undefined, starter = Starter}, Zone).

be_parent() ->
    receive
        {is_registered, Pid} -> Pid ! {registered, self()}, be_parent();
        _ -> be_parent()
    end.

result({ok, Pid}) when is_pid(Pid) -> {ok, Pid};
result({ok, Pid, Info}) when is_pid(Pid) -> {ok, Pid, Info};
result(ignore) -> ignore;
result({error, Reason}) -> {error, Reason};
result(Other) -> {error, {bad_return_value, Other}}.

run(#child{name = Name} = Child, Pid, Zone) ->
    Running = Child#child{state = running, pid = Pid, monitor = monitor(process, Pid), delay = 50, waiting = []},
    write(Running, Zone),
    tell(Zone, {up, Name, Pid}),
    Running.

launched(#child{waiting = Waiting} = Child, Result, #zone{name = Zone} = State) when element(1, Result) =:= ok ->
    Running = run(Child, element(2, Result), Zone),
    Forgets = [Request || #request{what = forget} = Request <- Waiting],
    lists:foreach(
        fun
            (#request{what = starting} = Request) -> reply(Request, Result);
            (Request) -> reply(Request, running(Request, Result))
        end,
        Waiting -- Forgets
    ),
    [handle(Request, State) || Request <- Forgets],
    Running;
launched(#child{spec = #{restart := permanent}, monitor = Monitor} = Child, {error, _} = Result, #zone{name = Zone} = State) when Monitor =/= undefined ->
    %% It has run before.
    #child{name = Name, delay = Delay, waiting = Waiting} = Child,
    delete_attributes(Name, Zone),
    write(Child#child{state = pending, delay = min(Delay + 150, 5000), waiting = []}, Zone),
    erlang:send_after(Delay, self(), {start_again, Name}),
    lists:foreach(
        fun
            (#request{what = find_or_open} = Request) -> reply(Request, Result);
            (Request) -> handle(Request, State)
        end,
        Waiting
    );
launched(#child{waiting = Waiting} = Child, Result, #zone{name = Zone} = State) ->
    delete(Child, Zone),
    lists:foreach(
        fun
            (#request{what = starting} = Request) when Result =:= ignore -> reply(Request, {ok, undefined});
            (#request{what = What} = Request) when What =:= find_or_open; What =:= starting -> reply(Request, Result);
            (#request{what = forget} = Request) -> reply(Request, ok);
            (Request) -> handle(Request, State)
        end,
        Waiting
    ).

%%% The end of a child

%% Stops a child, so that it is not started again.
forget(Child, Zone) ->
    end_child(Child),
    write(Child#child{is_forgotten = true}, Zone).

end_child(#child{pid = Pid, spec = #{shutdown := brutal_kill}}) ->
    exit(Pid, kill);
end_child(#child{pid = Pid, spec = #{shutdown := Shutdown}}) ->
    exit(Pid, shutdown),
    is_integer(Shutdown) andalso erlang:send_after(Shutdown, self(), {kill, Pid}).

died(#child{name = Name, pid = Pid, starter = Starter, spec = #{start := Start}} = Child, Reason, #zone{name = Zone} = State) ->
    _ = [exit(Starter, kill) || is_pid(Starter)],
    tell(Zone, {down, Name, Pid, Reason}),
    Attributes = attributes(Name, Zone),
    Terminating = Child#child{state = terminating, starter = undefined, reason = Reason},
    case Start of
        undefined ->
            clean_up(Terminating, State);
        {Module, _, _} ->
            _ = code:ensure_loaded(Module),
            After = [fun() -> Module:after_terminate(Name, Attributes, Reason) end || erlang:function_exported(Module, after_terminate, 3)] ++
                [fun() -> Module:after_terminate(Name, Attributes) end || erlang:function_exported(Module, after_terminate, 2)] ++ [fun() -> ok end],
            {_, Cleaner} = proc_lib:spawn_opt(hd(After), [monitor]),
            write(Terminating#child{cleaner = Cleaner}, Zone)
    end.

clean_up(#child{waiting = Waiting} = Child, #zone{name = Zone} = State) ->
    delete(Child, Zone),
    case restarts(Child, State) of
        true -> start(Child#child{cleaner = undefined}, Zone);
        false ->
            lists:foreach(
                fun
                    (#request{what = forget} = Request) -> reply(Request, ok);
                    (Request) -> State#zone.stopping orelse handle(Request, State)
                end,
                Waiting
            )
    end.

restarts(#child{waiting = Waiting, spec = #{restart := Restart}, reason = Reason} = Child, State) ->
    IsForgotten = Child#child.is_forgotten orelse lists:keymember(forget, #request.what, Waiting),
    case {Restart, Reason} of
        _ when IsForgotten; State#zone.stopping; not State#zone.restarts -> false;
        {permanent, _} -> true;
        {temporary, _} -> false;
        {transient, normal} -> false;
        {transient, shutdown} -> false;
        {transient, {shutdown, _}} -> false;
        {transient, _} -> true
    end.
