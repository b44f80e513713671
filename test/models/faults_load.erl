%% The load of a world that is tormented (`faults`): callers who use all functions of the three modules without a pause, and followers of the events of the zones. What they are answered that no
%% fault explains is told to `demo_books:wrong/2'.
-module(faults_load).

-export([caller/3, follower/1, opener/2, ask/1, stop/1, track_self/0, counts_each/1]).

%% Callbacks ask for so many children, which meet.
-define(ASKED, 20).

-record(caller, {
    test :: pid(),
    zones :: [atom()],
    %% Children of each zone.
    children :: pos_integer()
}).

%% Linked to the test, as a follower is; tells it now and then that it gets on.
caller(Zones, Children, Seed) ->
    Test = self(),
    spawn_link(fun() ->
        rand:seed(exsss, Seed),
        call(#caller{test = Test, zones = Zones, children = Children}, 1)
    end).

stop(Pid) ->
    Pid ! stop.

call(#caller{test = Test, zones = Zones, children = Children} = Caller, Count) ->
    Zone = any(Zones),
    Number = rand:uniform(Children),
    {Function, Call} = operation(Zone, faults_child:name(Zone, Number), Number),
    try
        Call()
    catch
        Class:Reason:Stack ->
            is_explained(Class, Reason, Function, Zone) orelse
                demo_books:wrong('a call fails', {Function, Zone, Class, Reason, Stack})
    end,
    [Test ! turn || Count rem 20 =:= 0],
    receive
        stop -> Test ! {operations, Count}
    after 0 ->
        %% What was left behind by a call, as that of a registered name.
        call(Caller, Count + 1)
    end.

%% In the calm zone nothing ends but children.
is_explained(error, {void_setting, _, _, _}, _, _) -> true;
is_explained(error, badarg, increment, _) -> true;
is_explained(error, badarg, track, _) -> true;
is_explained(exit, {badarg, {_, _}}, send, _) -> true;
is_explained(exit, {_, {gen_server, call, [stats_hero_monitor | _]}}, _, _) -> true;
is_explained(error, badarg, metrics, _) -> true;
is_explained(Class, Reason, _, Zone) -> not faults_books:is_calm(Zone) andalso is_end(Class, Reason).

is_end(error, badarg) -> true;
is_end(exit, {Reason, {gen_server, call, _}}) -> Reason =/= timeout;
is_end(exit, {_, {gen_tracker, subscribe, _}}) -> true;
is_end(_, _) -> false.

operation(Zone, Name, Number) ->
    Operations = operations(Zone, Name, Number),
    lists:nth(rand:uniform(length(Operations)), Operations).

operations(Zone, Name, Number) ->
    Other = any([a, b, {c, 1}]),
    [
        {find, fun() -> found(gen_tracker:find(Zone, Name)) end},
        {find_or_open, fun() -> open(Zone, Number) end},
        {find_or_open, fun() -> open(Zone, Number) end},
        {find_or_open, fun() -> open(Zone, Number) end},
        {which_children, fun() -> [_ | _] = [any | gen_tracker:which_children(Zone)] end},
        {add_existing_child, fun() -> add(Zone, plain) end},
        {add_existing_child, fun() -> add(Zone, full) end},
        {add_existing_child, fun() -> add_far(Zone, faults_books:node()) end},
        {wait, fun() -> true = lists:member(gen_tracker:wait(Zone), [ok, {error, shutdown}]) end},
        {setattr, fun() -> ok = gen_tracker:setattr(Zone, Name, [{x, Number}, {y, Number}]) end},
        {setattr, fun() -> ok = gen_tracker:setattr(Zone, Name, Other, make_ref()) end},
        {getattr, fun() -> gen_tracker:getattr(Zone, Name, Other) end},
        {getattr, fun() -> gen_tracker:getattr(Zone, Name, late, rand:uniform(30) - 1) end},
        {setattr, fun() -> ok = gen_tracker:setattr(Zone, Name, late, Number), ok = gen_tracker:delattr(Zone, Name, late) end},
        {delattr, fun() -> ok = gen_tracker:delattr(Zone, Name, Other) end},
        {increment, fun() -> true = is_integer(gen_tracker:increment(Zone, Name, count, Number)) end},
        {increment, fun() -> true = is_integer(gen_tracker:increment(Zone, {void, Number}, count, 1 bsl 61, 1)) end},
        {cas, fun() -> gen_tracker:cas(Zone, Name, Other, undefined, Number) end},
        {info, fun() -> whole(Name, gen_tracker:info(Zone, Name)) end},
        {info, fun() -> whole(Name, gen_tracker:info(Zone, Name, [x, y])) end},
        {attrs, fun() -> whole(Name, gen_tracker:attrs(Zone, Name)) end},
        {list, fun() -> [whole(Each, Attributes) || {Each, Attributes} <- gen_tracker:list(Zone)] end},
        {list, fun() -> [whole(Each, Attributes) || {Each, Attributes} <- gen_tracker:list(Zone, [x, y])] end},
        {count, fun() -> true = gen_tracker:count(Zone) >= 0 end},
        {names, fun() -> Names = gen_tracker:names(Zone), true = length(Names) =:= map_size(maps:from_keys(Names, once)) end},
        {fold, fun() -> gen_tracker:fold(fun(_, Pid, Count) when is_pid(Pid) -> Count + 1 end, 0, Zone) end},
        {register_name, fun() -> take_name(Zone, Number, keep) end},
        {register_name, fun() -> take_name(Zone, Number, give_back) end},
        {send, fun() -> gen_tracker:send({Zone, Name}, hello) end},
        {subscribe, fun() -> {ok, _} = gen_tracker:subscribe(Zone), ok = gen_tracker:unsubscribe(Zone), no_event(Zone) end},
        {which_children, fun() -> listed(supervisor:which_children(Zone)) end},
        {count_children, fun() -> listed(supervisor:count_children(Zone)) end},
        {get_childspec, fun() -> supervisor:get_childspec(Zone, Name) end},
        {start_child, fun() -> supervisor:start_child(Zone, faults_child:spec(Zone, Number)) end},
        {restart_child, fun() -> {error, _} = supervisor:restart_child(Zone, Name) end},
        {terminate_child, fun() -> ended(supervisor:terminate_child(Zone, Name)) end},
        {delete_child, fun() -> ended(supervisor:delete_child(Zone, Name)) end},
        {call, fun() -> unknown(gen_server:call(Zone, anything, infinity)) end},
        {track, fun() -> short_lived(Number) end},
        {track, fun() -> short_lived(Number) end},
        {metrics, fun() -> true = metrics_process_tracker:count(any_name()) >= 0 end},
        {metrics, fun() -> true = is_list(metrics_process_tracker:counts()) end},
        {metrics, fun() -> true = is_list(metrics_process_tracker:names(self())) end},
        {register, fun() -> worker(Number) end},
        {register, fun() -> worker(Number) end},
        {registered_count, fun() -> true = stats_hero_monitor:registered_count() >= 0 end}
    ].

any(List) ->
    lists:nth(rand:uniform(length(List)), List).

found({ok, Pid}) when is_pid(Pid) -> ok;
found(undefined) -> ok.

%% A zone that stops answers every request.
ended(ok) -> ok;
ended({error, no_child}) -> ok;
ended({error, shutdown}) -> ok.

listed(List) when is_list(List) -> ok;
listed({error, shutdown}) -> ok.

unknown({error, {unknown_call, anything}}) -> ok;
unknown({error, shutdown}) -> ok.

open(Zone, Number) ->
    Answer = gen_tracker:find_or_open(Zone, faults_child:spec(Zone, Number)),
    is_opened(Answer, Zone) orelse
        demo_books:wrong('find_or_open answers something else', {Zone, Number, Answer}).

is_opened({ok, Pid}, _) -> is_pid(Pid);
is_opened(ignore, _) -> true;
is_opened({garbage, _}, _) -> true;
is_opened({error, {bad_return_value, {ok, no_pid}}}, _) -> true;
is_opened({error, gen_tracker_not_started}, Zone) -> not faults_books:is_calm(Zone);
is_opened({error, Reason}, _) ->
    lists:member(Reason, [thrown, raised, refused, died, killed, noproc, shutdown]);
is_opened(_, _) -> false.

%% What a callback asks its zone. It may be refused, for others may wait for it.
ask(Zone) ->
    faults_books:is_peace() orelse ask_something(Zone).

ask_something(Zone) ->
    Number = rand:uniform(?ASKED),
    Name = faults_child:name(Zone, Number),
    Spec = faults_child:spec(Zone, Number),
    {Function, Ask} = any([
        {find_or_open, fun() -> gen_tracker:find_or_open(Zone, Spec) end},
        {find_or_open, fun() -> gen_tracker:find_or_open(Zone, Spec) end},
        {terminate_child, fun() -> supervisor:terminate_child(Zone, Name) end},
        {getattr, fun() -> gen_tracker:getattr(Zone, Name, late, rand:uniform(5)) end},
        {find, fun() -> gen_tracker:find(Zone, Name) end}
    ]),
    try Ask() of
        Answer ->
            is_answer(Function, Answer, Zone) orelse
                demo_books:wrong('a callback is answered something else', {Function, Zone, Answer})
    catch
        Class:Reason:Stack ->
            is_explained(Class, Reason, Function, Zone) orelse
                demo_books:wrong('a call of a callback fails', {Function, Class, Reason, Stack})
    end.

is_answer(_, {error, Refused}, _) when Refused =:= starting; Refused =:= terminating -> true;
is_answer(find_or_open, Answer, Zone) -> is_opened(Answer, Zone);
is_answer(terminate_child, Answer, _) ->
    lists:member(Answer, [ok, {error, no_child}, {error, shutdown}]);
is_answer(_, undefined, _) -> true;
is_answer(_, {ok, _}, _) -> true.

%% Opens a child, and is not heard of again.
opener(Zone, Number) ->
    spawn(fun() -> try open(Zone, Number) catch _:_ -> failed end end).

%% Both are always set together.
whole(Name, Attributes) ->
    lists:keyfind(x, 1, Attributes) =:= false andalso lists:keyfind(y, 1, Attributes) =:= false orelse
        proplists:get_value(x, Attributes) =:= proplists:get_value(y, Attributes) orelse
        demo_books:wrong('a snapshot shows half a step', {Name, Attributes}).

add(Zone, Kind) ->
    Name = {Zone, {added, erlang:unique_integer([positive])}},
    Pid = faults_child:loose(Zone, Name),
    receive {born, Pid} -> ok end,
    try
        case gen_tracker:add_existing_child(Zone, added(Kind, Name, Pid)) of
            {ok, Pid} ->
                Pid ! {added, Kind},
                %% Some live until they are killed.
                rand:uniform(4) =:= 1 orelse begin Pid ! {stop, any([normal, crash])} end;
            {error, shutdown} ->
                exit(Pid, kill)
        end
    catch
        Class:Reason:Stack ->
            exit(Pid, kill),
            erlang:raise(Class, Reason, Stack)
    end.

%% The end of its node may be the end of such a child.
add_far(_, none) ->
    ok;
add_far(Zone, Node) ->
    Name = {Zone, {far, erlang:unique_integer([positive])}},
    Pid = faults_child:far(Node, faults_books:new_id(), Zone, Name),
    unlink(Pid),
    try gen_tracker:add_existing_child(Zone, added(any([plain, full]), Name, Pid)) of
        {ok, Pid} -> rand:uniform(4) =:= 1 orelse begin Pid ! {stop, any([normal, crash])} end;
        {error, shutdown} -> exit(Pid, kill)
    catch
        Class:Reason:Stack ->
            exit(Pid, kill),
            erlang:raise(Class, Reason, Stack)
    end.

added(plain, Name, Pid) -> {Name, Pid, worker, []};
added(full, Name, Pid) -> {Pid, {Name, {faults_child, loose, []}, temporary, 200, worker, []}}.

%% A process registers itself, and is registered no longer when this returns, or is about to end.
take_name(Zone, Number, What) ->
    Via = {Zone, {Zone, {via, Number}}},
    {Pid, Monitor} = spawn_monitor(fun() ->
        faults_books:born(faults_books:new_id(), Zone, element(2, Via)),
        try gen_tracker:register_name(Via, self()) of
            yes ->
                [ok = gen_tracker:unregister_name(Via) || What =:= give_back];
            no ->
                ok
        catch
            Class:Reason:Stack ->
                is_explained(Class, Reason, register_name, Zone) orelse
                    demo_books:wrong('a name cannot be registered', {Via, Class, Reason, Stack})
        end
    end),
    _ = gen_tracker:whereis_name(Via),
    receive {'DOWN', Monitor, process, Pid, _} -> ok end.

no_event(Zone) ->
    receive
        %% A zone that has ended may still be telling of its last children.
        {gen_tracker, Zone, Event} -> faults_books:is_calm(Zone) andalso demo_books:wrong('an event after the end of a subscription', {Zone, Event})
    after 0 -> ok
    end.

%% A name of this epoch.
any_name() ->
    {tracked, faults_books:epoch(), rand:uniform(5)}.

%% The caller is tracked until its death.
track_self() ->
    Name = any_name(),
    try metrics_process_tracker:track(Name) of
        ok -> faults_books:tracked(Name)
    catch
        error:badarg -> no_table
    end.

%% Tracked by itself or by another, under names of any kind.
short_lived(Number) ->
    Track = fun(Name) -> try metrics_process_tracker:track(Name) catch error:badarg -> no_table end end,
    {Pid, Monitor} = spawn_monitor(fun() ->
        track_self(),
        track_self(),
        Track({raises, 1, error, Number}),
        Track({raises, -1, any([error, exit, throw]), Number}),
        receive stop -> ok after 1 -> ok end
    end),
    _ = rand:uniform(3) =:= 1 andalso exit(Pid, kill),
    _ = metrics_process_tracker:track(any_name(), Pid),
    receive {'DOWN', Monitor, process, Pid, _} -> ok end.

%% A worker that lives for a while, registered once or twice.
worker(Number) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        Epoch = faults_books:epoch(),
        Self = self(),
        ok = stats_hero:map(make_ref(), Self, fun(Remove) -> clean(Self, Remove) end),
        Times = 1 + Number rem 2,
        [ok = stats_hero_monitor:register(Self) || _ <- lists:seq(1, Times)],
        faults_books:worker(Epoch, Times),
        receive stop -> ok after Number rem 20 -> ok end
    end),
    _ = rand:uniform(4) =:= 1 andalso exit(Pid, kill),
    _ = rand:uniform(3) =:= 1 andalso (receive {'DOWN', Monitor, process, Pid, _} -> ok end),
    demonitor(Monitor, [flush]).

%% What the cleanup of a worker does: it may leave the mapping, so that a second one is seen; raise; or wait to be let go.
clean(Pid, Remove) ->
    faults_books:cleaned(Pid),
    counts_each(Pid) orelse Remove(),
    case erlang:phash2(Pid, 6) of
        0 -> error(raised);
        1 -> faults_books:hang();
        _ -> ok
    end.

counts_each(Pid) ->
    erlang:phash2({each, Pid}, 2) =:= 0.

%% A follower of the events of a zone, of all its zones one after the other. Sent `{copy, From, Ref}' it answers with who lives: `{Ref, Copy}', or `{Ref, none}' when there is no zone.
follower(Zone) ->
    spawn_link(fun() -> resubscribe(Zone) end).

resubscribe(Zone) ->
    try gen_tracker:subscribe(Zone) of
        {ok, Children} -> follow(Zone, maps:from_list(Children))
    catch
        Class:Reason ->
            is_explained(Class, Reason, subscribe, Zone) orelse demo_books:wrong('nobody can subscribe', {Zone, Class, Reason}),
            receive
                {copy, From, Ref} -> From ! {Ref, none}, resubscribe(Zone);
                stop -> ok
            after 1 -> resubscribe(Zone)
            end
    end.

follow(Zone, Copy) ->
    receive
        {gen_tracker, Zone, {up, Name, Pid}} when not is_map_key(Name, Copy) ->
            follow(Zone, Copy#{Name => Pid});
        {gen_tracker, Zone, {down, Name, Pid, _}} when map_get(Name, Copy) =:= Pid ->
            follow(Zone, maps:remove(Name, Copy));
        {gen_tracker, Zone, unsubscribed} ->
            %% In the calm zone it is the sender of events that was killed.
            [demo_books:wrong('a subscription ends before its children', {Zone, Copy}) || map_size(Copy) > 0, not faults_books:is_calm(Zone)],
            resubscribe(Zone);
        {gen_tracker, Zone, Event} ->
            demo_books:wrong('an event contradicts those before', {Zone, Event, maps:get(element(2, Event), Copy, none)}),
            resubscribe(Zone);
        {copy, From, Ref} ->
            From ! {Ref, Copy},
            follow(Zone, Copy);
        stop ->
            ok
    end.
