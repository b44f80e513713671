%% The load of a system under faults (`faults`): callers, which call all functions of the three
%% modules without a pause, and subscribers, which check the events of a zone.
%%
%% `demo_books:wrong/2` enters results that no fault explains.
-module(faults_load).

-export([caller/3, subscriber/1, stop/1, open_in_background/2]).
%% For children
-export([call_from_callback/1, track_self/0]).
%% For the final checks
-export([keeps_mapping/1]).

%% Calls from callbacks are for these first children only, so that they interfere.
-define(CALLBACK_CHILDREN, 20).

-record(caller, {
    test :: pid(),
    zones :: [atom()],
    %% The number of children of each zone.
    children :: pos_integer()
}).

%% Callers

%% Starts a caller, linked to the calling process. That process receives `progress` after every 20
%% calls, and `{operations, Count}` when the caller is stopped.
caller(Zones, Children, Seed) ->
    Test = self(),
    spawn_link(fun() ->
        rand:seed(exsss, Seed),
        call(#caller{test = Test, zones = Zones, children = Children}, 1)
    end).

%% Stops a caller or a subscriber.
stop(Pid) ->
    Pid ! stop.

call(#caller{test = Test, zones = Zones, children = Children} = Caller, Count) ->
    Zone = random(Zones),
    Number = rand:uniform(Children),
    {Function, Call} = random(operations(Zone, faults_child:name(Zone, Number), Number)),
    try
        Call()
    catch
        Class:Reason:Stack ->
            is_expected(Class, Reason, Function, Zone) orelse
                demo_books:wrong('a call fails', {Function, Zone, Class, Reason, Stack})
    end,
    [Test ! progress || Count rem 20 =:= 0],
    receive
        stop -> Test ! {operations, Count}
    after 0 -> call(Caller, Count + 1)
    end.

%% Whether a fault explains that this function fails.
is_expected(error, {void_setting, _, _, _}, _, _) -> true;
is_expected(error, badarg, increment, _) -> true;
is_expected(error, badarg, track, _) -> true;
is_expected(exit, {badarg, {_, _}}, send, _) -> true;
is_expected(exit, {_, {gen_server, call, [stats_hero_monitor | _]}}, _, _) -> true;
is_expected(error, badarg, metrics, _) -> true;
is_expected(Class, Reason, _, Zone) -> may_end(Zone) andalso is_end_of_zone(Class, Reason).

may_end(Zone) -> not faults_books:is_stable(Zone).

is_end_of_zone(error, badarg) -> true;
is_end_of_zone(exit, {Reason, {gen_server, call, _}}) -> Reason =/= timeout;
is_end_of_zone(exit, {_, {gen_tracker, subscribe, _}}) -> true;
is_end_of_zone(_, _) -> false.

random(List) ->
    lists:nth(rand:uniform(length(List)), List).

%% Operations

%% Returns the calls that a caller may make next, `{Function, Call}`.
operations(Zone, Name, Number) ->
    child_operations(Zone, Name, Number) ++ attribute_operations(Zone, Name, Number) ++
        list_operations(Zone) ++ event_operations(Zone) ++
        supervisor_operations(Zone, Name, Number) ++ process_operations(Number).

child_operations(Zone, Name, Number) ->
    [
        {find, fun() -> found(gen_tracker:find(Zone, Name)) end},
        {find_or_open, fun() -> open(Zone, Number) end},
        {find_or_open, fun() -> open(Zone, Number) end},
        {find_or_open, fun() -> open(Zone, Number) end},
        {add_existing_child, fun() -> add(Zone, plain) end},
        {add_existing_child, fun() -> add(Zone, full) end},
        {add_existing_child, fun() -> add_remote(Zone, faults_books:node()) end},
        {register_name, fun() -> register_name(Zone, Number, keep) end},
        {register_name, fun() -> register_name(Zone, Number, unregister) end},
        {register_name, fun() -> register_name(Zone, Number, hand_over) end},
        {send, fun() -> gen_tracker:send({Zone, Name}, hello) end},
        {wait, fun() -> true = lists:member(gen_tracker:wait(Zone), [ok, {error, shutdown}]) end}
    ].

attribute_operations(Zone, Name, Number) ->
    Key = random([a, b, {c, 1}]),
    [
        {setattr, fun() -> ok = gen_tracker:setattr(Zone, Name, [{x, Number}, {y, Number}]) end},
        {setattr, fun() -> ok = gen_tracker:setattr(Zone, Name, Key, make_ref()) end},
        {setattr, fun() -> set_and_delete(Zone, Name, Number) end},
        {setattr, fun() ->
            ok = gen_tracker:setattr(Zone, Name, tags, lists:seq(1, rand:uniform(9)))
        end},
        {getattr, fun() -> gen_tracker:getattr(Zone, Name, Key) end},
        {getattr, fun() -> gen_tracker:getattr(Zone, Name, late, rand:uniform(30) - 1) end},
        {delattr, fun() -> ok = gen_tracker:delattr(Zone, Name, Key) end},
        {increment, fun() -> integer(gen_tracker:increment(Zone, Name, count, Number)) end},
        {increment, fun() -> increment_without_child(Zone, Number) end},
        {cas, fun() -> gen_tracker:cas(Zone, Name, Key, undefined, Number) end},
        {info, fun() -> check_snapshot(Name, gen_tracker:info(Zone, Name)) end},
        {info, fun() -> check_snapshot(Name, gen_tracker:info(Zone, Name, [x, y])) end},
        {attrs, fun() -> check_snapshot(Name, gen_tracker:attrs(Zone, Name)) end}
    ].

list_operations(Zone) ->
    [
        {which_children, fun() -> [_ | _] = [any | gen_tracker:which_children(Zone)] end},
        {list, fun() -> check_snapshots(gen_tracker:list(Zone)) end},
        {list, fun() -> check_snapshots(gen_tracker:list(Zone, [x, y])) end},
        {count, fun() -> true = gen_tracker:count(Zone) >= 0 end},
        {names, fun() -> distinct(gen_tracker:names(Zone)) end},
        {fold, fun() -> gen_tracker:fold(fun count/3, 0, Zone) end}
        | [{lookup, Look} || Zone =/= faults_no_restart, Look <- lookups(Zone)]
    ].

%% The zones of these have indexes.
lookups(Zone) ->
    [
        fun() -> distinct(gen_tracker:lookup(Zone, tags, rand:uniform(9))) end,
        fun() -> gen_tracker:lookup(Zone, count, rand:uniform(9)) end,
        fun() -> true = gen_tracker:count(Zone, tags, 1) >= 0 end,
        fun() -> distinct([Value || {Value, _} <- gen_tracker:values(Zone, tags)]) end,
        fun() -> gen_tracker:publish(Zone, tags, rand:uniform(9), hello) end
    ].

event_operations(Zone) ->
    [{subscribe, fun() -> subscribe_and_unsubscribe(Zone) end}].

supervisor_operations(Zone, Name, Number) ->
    [
        {which_children, fun() -> listed(supervisor:which_children(Zone)) end},
        {count_children, fun() -> listed(supervisor:count_children(Zone)) end},
        {get_childspec, fun() -> supervisor:get_childspec(Zone, Name) end},
        {start_child, fun() -> supervisor:start_child(Zone, faults_child:spec(Zone, Number)) end},
        {restart_child, fun() -> {error, _} = supervisor:restart_child(Zone, Name) end},
        {terminate_child, fun() -> ended(supervisor:terminate_child(Zone, Name)) end},
        {delete_child, fun() -> ended(supervisor:delete_child(Zone, Name)) end},
        {call, fun() -> unknown(gen_server:call(Zone, anything, infinity)) end}
    ].

%% Operations of metrics_process_tracker and stats_hero_monitor
process_operations(Number) ->
    [
        {track, fun() -> tracked_process(Number) end},
        {track, fun() -> tracked_process(Number) end},
        {metrics, fun() -> true = metrics_process_tracker:count(any_name()) >= 0 end},
        {metrics, fun() -> true = is_list(metrics_process_tracker:counts()) end},
        {metrics, fun() -> true = is_list(metrics_process_tracker:names(self())) end},
        {register, fun() -> worker(Number) end},
        {register, fun() -> worker(Number) end},
        {registered_count, fun() -> true = stats_hero_monitor:registered_count() >= 0 end}
    ].

found({ok, Pid}) when is_pid(Pid) -> ok;
found(undefined) -> ok.

%% A stopping zone answers every request with `{error, shutdown}`.
ended(ok) -> ok;
ended({error, no_child}) -> ok;
ended({error, shutdown}) -> ok.

listed(List) when is_list(List) -> ok;
listed({error, shutdown}) -> ok.

unknown({error, {unknown_call, anything}}) -> ok;
unknown({error, shutdown}) -> ok.

integer(Value) when is_integer(Value) -> ok.

count(_Name, Pid, Count) when is_pid(Pid) -> Count + 1.

distinct(Names) ->
    true = length(Names) =:= map_size(maps:from_keys(Names, once)).

%% Wakes the waiters for this attribute.
set_and_delete(Zone, Name, Number) ->
    ok = gen_tracker:setattr(Zone, Name, late, Number),
    ok = gen_tracker:delattr(Zone, Name, late).

increment_without_child(Zone, Number) ->
    integer(gen_tracker:increment(Zone, {void, Number}, count, 1 bsl 61, 1)).

check_snapshots(Children) ->
    [check_snapshot(Name, Attributes) || {Name, Attributes} <- Children].

%% The attributes `x` and `y` are always set together, to the same value.
check_snapshot(Name, Attributes) ->
    proplists:get_value(x, Attributes) =:= proplists:get_value(y, Attributes) orelse
        demo_books:wrong('a snapshot shows half of a setattr', {Name, Attributes}).

open(Zone, Number) ->
    Answer = gen_tracker:find_or_open(Zone, faults_child:spec(Zone, Number)),
    is_opened(Answer, Zone) orelse
        demo_books:wrong('find_or_open returns something else', {Zone, Number, Answer}).

is_opened({ok, Pid}, _) -> is_pid(Pid);
is_opened(ignore, _) -> true;
is_opened({garbage, _}, _) -> true;
is_opened({error, {bad_return_value, {ok, no_pid}}}, _) -> true;
is_opened({error, gen_tracker_not_started}, Zone) -> may_end(Zone);
is_opened({error, Reason}, _) -> is_start_error(Reason);
is_opened(_, _) -> false.

is_start_error(Reason) ->
    lists:member(Reason, [thrown, raised, refused, died, killed, noproc, shutdown]).

%% Opens a child without waiting for the result.
open_in_background(Zone, Number) ->
    spawn(fun() ->
        try
            open(Zone, Number)
        catch
            _:_ -> failed
        end
    end).

%% Adds a process to a zone. One of four lives until it is killed.
add(Zone, Form) ->
    Name = {Zone, {added, erlang:unique_integer([positive])}},
    Pid = faults_child:existing(Zone, Name),
    receive
        {started, Pid} -> ok
    end,
    add(Zone, existing_spec(Form, Name, Pid), Pid, {added, Form}).

%% Like `add/2`, with a process on another node. It may die with that node.
add_remote(_, none) ->
    ok;
add_remote(Zone, Node) ->
    Name = {Zone, {remote, erlang:unique_integer([positive])}},
    Pid = faults_child:remote(Node, faults_books:new_id(), Zone, Name),
    unlink(Pid),
    add(Zone, existing_spec(random([plain, full]), Name, Pid), Pid, added).

%% The process receives `Message` once it is a child.
add(Zone, Spec, Pid, Message) ->
    try gen_tracker:add_existing_child(Zone, Spec) of
        {ok, Pid} ->
            Pid ! Message,
            rand:uniform(4) =:= 1 orelse (Pid ! {stop, random([normal, crash])});
        {error, shutdown} ->
            exit(Pid, kill)
    catch
        Class:Reason:Stack ->
            exit(Pid, kill),
            erlang:raise(Class, Reason, Stack)
    end.

existing_spec(plain, Name, Pid) ->
    {Name, Pid, worker, []};
existing_spec(full, Name, Pid) ->
    {Pid, {Name, {faults_child, existing, []}, temporary, 200, worker, []}}.

%% Starts a process that registers itself, and waits until it has exited. `Then` says whether it
%% exits registered, calls `unregister_name/1` first, or waits until another process has taken the
%% name.
register_name(Zone, Number, Then) ->
    Via = {Zone, {Zone, {via, Number}}},
    Pid = spawn(fun() -> register_self(register_name, Via, Then) end),
    _ = gen_tracker:whereis_name(Via),
    tracked_child:down(Pid).

register_self(Register, {Zone, Name} = Via, Then) ->
    faults_books:child_started(faults_books:new_id(), Zone, Name),
    try
        registered(gen_tracker:Register(Via, self()), Via, Then)
    catch
        Class:Reason:Stack ->
            is_expected(Class, Reason, Register, Zone) orelse
                demo_books:wrong('a name cannot be registered', {Via, Class, Reason, Stack})
    end.

registered(no, _, _) ->
    ok;
registered(yes, _, keep) ->
    ok;
registered(yes, Via, unregister) ->
    ok = gen_tracker:unregister_name(Via);
registered(yes, {Zone, Name} = Via, hand_over) ->
    ok = gen_tracker:setattr(Zone, Name, tags, [1, 2]),
    tracked_child:down(spawn(fun() -> register_self(re_register_name, Via, keep) end)).

subscribe_and_unsubscribe(Zone) ->
    {ok, _} = gen_tracker:subscribe(Zone),
    ok = gen_tracker:unsubscribe(Zone),
    receive
        {gen_tracker, Zone, Event} ->
            %% A zone that has ended may still send events about its last children.
            may_end(Zone) orelse
                demo_books:wrong('an event after the end of a subscription', {Zone, Event})
    after 0 -> ok
    end.

%% Calls from callbacks

%% Calls a function of the zone from a callback of one of its children, while faults are injected.
call_from_callback(Zone) ->
    faults_books:faults_ended() orelse call_zone(Zone).

call_zone(Zone) ->
    Number = rand:uniform(?CALLBACK_CHILDREN),
    Name = faults_child:name(Zone, Number),
    Spec = faults_child:spec(Zone, Number),
    {Function, Call} = random([
        {find_or_open, fun() -> gen_tracker:find_or_open(Zone, Spec) end},
        {find_or_open, fun() -> gen_tracker:find_or_open(Zone, Spec) end},
        {terminate_child, fun() -> supervisor:terminate_child(Zone, Name) end},
        {getattr, fun() -> gen_tracker:getattr(Zone, Name, late, rand:uniform(5)) end},
        {find, fun() -> gen_tracker:find(Zone, Name) end}
    ]),
    try Call() of
        Answer ->
            is_answer(Function, Answer, Zone) orelse
                demo_books:wrong('a callback gets another answer', {Function, Zone, Answer})
    catch
        Class:Reason:Stack ->
            is_expected(Class, Reason, Function, Zone) orelse
                demo_books:wrong('a call of a callback fails', {Function, Class, Reason, Stack})
    end.

%% The zone refuses a call whose callback others wait for.
is_answer(_, {error, starting}, _) -> true;
is_answer(_, {error, terminating}, _) -> true;
is_answer(find_or_open, Answer, Zone) -> is_opened(Answer, Zone);
is_answer(terminate_child, ok, _) -> true;
is_answer(terminate_child, {error, no_child}, _) -> true;
is_answer(terminate_child, {error, shutdown}, _) -> true;
is_answer(terminate_child, _, _) -> false;
is_answer(_, undefined, _) -> true;
is_answer(_, {ok, _}, _) -> true.

%% Tracked processes and workers

%% Returns a name of this epoch.
any_name() ->
    {tracked, faults_books:epoch(), rand:uniform(5)}.

%% Tracks the calling process until its death.
track_self() ->
    Name = any_name(),
    try metrics_process_tracker:track(Name) of
        ok -> faults_books:add_tracked(Name)
    catch
        error:badarg -> no_table
    end.

%% Starts a process that tracks itself and is tracked by this one, and waits until it has exited.
%% The metrics backend raises for some of its names.
tracked_process(Number) ->
    Track = fun(Name) ->
        try
            metrics_process_tracker:track(Name)
        catch
            error:badarg -> no_table
        end
    end,
    Pid = spawn(fun() ->
        track_self(),
        track_self(),
        Track({raises, 1, error, Number}),
        Track({raises, -1, random([error, exit, throw]), Number}),
        receive
            stop -> ok
        after 1 -> ok
        end
    end),
    _ = rand:uniform(3) =:= 1 andalso exit(Pid, kill),
    _ = metrics_process_tracker:track(any_name(), Pid),
    tracked_child:down(Pid).

%% Starts a worker that registers itself once or twice, and lives for 20 ms at most.
worker(Number) ->
    Pid = spawn(fun() ->
        Epoch = faults_books:epoch(),
        Self = self(),
        ok = stats_hero:map(make_ref(), Self, fun(Remove) -> clean_up(Self, Remove) end),
        Times = 1 + Number rem 2,
        [ok = stats_hero_monitor:register(Self) || _ <- lists:seq(1, Times)],
        faults_books:add_worker(Epoch, Times),
        receive
            stop -> ok
        after Number rem 20 -> ok
        end
    end),
    _ = rand:uniform(4) =:= 1 andalso exit(Pid, kill),
    _ = rand:uniform(3) =:= 1 andalso tracked_child:down(Pid).

%% The cleanup of a worker. Some keep the mapping, so that the next cleanup is counted, too. Some
%% raise, or block.
clean_up(Pid, Remove) ->
    faults_books:add_cleanup(Pid),
    keeps_mapping(Pid) orelse Remove(),
    case erlang:phash2(Pid, 6) of
        0 -> error(raised);
        1 -> faults_books:block();
        _ -> ok
    end.

keeps_mapping(Pid) ->
    erlang:phash2({each, Pid}, 2) =:= 0.

%% Subscribers

%% Starts a subscriber to a zone, linked to the calling process. It subscribes again when the zone
%% was restarted. It answers `{copy, From, Ref}` with `{Ref, Copy}`: a map of the children that
%% are alive according to the events, or `none` without a zone.
subscriber(Zone) ->
    spawn_link(fun() -> subscribe(Zone) end).

subscribe(Zone) ->
    try gen_tracker:subscribe(Zone) of
        {ok, Children} -> receive_events(Zone, maps:from_list(Children))
    catch
        Class:Reason ->
            is_expected(Class, Reason, subscribe, Zone) orelse
                demo_books:wrong('subscribe fails', {Zone, Class, Reason}),
            receive
                {copy, From, Ref} ->
                    From ! {Ref, none},
                    subscribe(Zone);
                stop ->
                    ok
            after 1 -> subscribe(Zone)
            end
    end.

receive_events(Zone, Copy) ->
    receive
        {gen_tracker, Zone, {up, Name, Pid}} when not is_map_key(Name, Copy) ->
            receive_events(Zone, Copy#{Name => Pid});
        {gen_tracker, Zone, {down, Name, Pid, _}} when map_get(Name, Copy) =:= Pid ->
            receive_events(Zone, maps:remove(Name, Copy));
        {gen_tracker, Zone, unsubscribed} ->
            %% In the stable zone the event process was killed.
            [
                demo_books:wrong('a subscription ends before its children', {Zone, Copy})
             || map_size(Copy) > 0, may_end(Zone)
            ],
            subscribe(Zone);
        {gen_tracker, Zone, Event} ->
            Known = maps:get(element(2, Event), Copy, none),
            demo_books:wrong('an event contradicts those before', {Zone, Event, Known}),
            subscribe(Zone);
        {copy, From, Ref} ->
            From ! {Ref, Copy},
            receive_events(Zone, Copy);
        stop ->
            ok
    end.
