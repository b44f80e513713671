%% Promise: messages of strangers to the processes of a zone change nothing, whatever they look
%% like. No child is lost or stopped, no process exits, and none is started. An unknown call is
%% answered.
%%
%% Each case has a zone with children in every state, and sends forged messages to the tracker, the
%% keepers, the watchdog, and the sender of events. Then it checks that the zone still works.
%%
%% Not tested are messages that `gen_server` itself accepts from anybody, such as the exit of the
%% parent.
-module(strangers_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, keeper/2]).
-import(messages, [await/1, await/2, taken/1]).
-import(tracked_child, [loose/1, gated/2, plain/1, full/1]).
-import(tracked_child_reason, [cleaning/2]).
-import(timed_call, [ended/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        messages_to_the_tracker_change_nothing,
        messages_to_keepers_change_nothing,
        messages_to_the_watchdog_change_nothing,
        messages_to_the_sender_of_events_change_nothing,
        messages_to_all_processes_in_any_order_change_nothing,
        exit_signals_of_strangers_change_nothing,
        ets_tables_given_to_the_processes_change_nothing,
        the_watchdog_still_works_after_forged_messages,
        keepers_still_work_after_forged_messages,
        calls_without_a_caller_change_nothing,
        raw_calls_are_answered_with_an_error,
        unknown_calls_are_answered_with_the_error_unknown_call,
        unknown_calls_to_the_sender_of_events_are_answered
    ].

%% The log is off, because each of these messages is logged.
init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    [{level, Level} | Config].

end_per_testcase(_Case, Config) ->
    ok = logger:set_primary_config(level, proplists:get_value(level, Config)),
    zones:clean_up().

%% The zone

%% Starts a zone with children in every state and a subscriber.
populate(Zone) ->
    _ = zone(Zone),
    [Added, Registered] = [loose(start_link), loose(start_link)],
    {ok, []} = gen_tracker:subscribe(Zone),
    {ok, Started} = gen_tracker:find_or_open(Zone, setelement(3, full(started), permanent)),
    {ok, Added} = gen_tracker:add_existing_child(Zone, {Added, full(added)}),
    yes = gen_tracker:register_name({Zone, registered}, Registered),
    _ = taken(started),
    Cleaner = cleaning(Zone, cleaning),
    {Opening, Starter} = gated(Zone, starting),
    _ = scripted_child:pending(Zone, pending),
    [ok = gen_tracker:setattr(Zone, Name, key, Name) || Name <- [started, added, starting]],
    _ = taken(started),
    _ = events(Zone),
    Keepers = [keeper(Zone, Name) || Name <- names()],
    [Events] = [Pid || Pid <- zones:beside(Zone), sends_events(Pid)],
    [Watchdog] = zones:beside(Zone) -- [Events | Keepers],
    #{
        zone => Zone,
        tracker => whereis(Zone),
        children => [{started, Started}, {added, Added}, {registered, Registered}],
        keepers => Keepers,
        gated => [Cleaner, Starter],
        opening => Opening,
        events => Events,
        watchdog => Watchdog
    }.

sends_events(Pid) ->
    element(1, proc_lib:initial_call(Pid)) =:= gen_tracker_events.

names() ->
    [started, added, registered, cleaning, starting, pending].

events(Zone) ->
    receive
        {gen_tracker, Zone, Event} -> [Event | events(Zone)]
    after 0 -> []
    end.

%% Returns what must not change. The processes are those with the zone among their ancestors.
state(#{zone := Zone, tracker := Tracker}) ->
    #{
        tracker => {Tracker, whereis(Zone)},
        children => lists:sort(gen_tracker:which_children(Zone)),
        attributes => lists:sort(gen_tracker:list(Zone)),
        starting => gen_tracker:info(Zone, starting),
        keepers => lists:sort([{Name, keeper(Zone, Name)} || Name <- gen_tracker:names(Zone)]),
        processes => [Pid || Pid <- processes(), is_of(Zone, Tracker, Pid)],
        beside => lists:sort(zones:beside(Zone)),
        events => events(Zone),
        %% The restart of the pending child is repeated now and then.
        started => [Pid || {started, Pid} <- taken(started), Pid =/= keeper(Zone, pending)],
        answered => taken('DOWN')
    }.

is_of(Zone, Tracker, Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} ->
            Ancestors = proplists:get_value('$ancestors', Dictionary, []),
            is_list(Ancestors) andalso
                (lists:member(Zone, Ancestors) orelse lists:member(Tracker, Ancestors));
        undefined ->
            false
    end.

%% Fails with the parts that have changed.
assert_unchanged(What, Before, Zone) ->
    After = state(Zone),
    Changed = [{Key, map_get(Key, Before), map_get(Key, After)} || Key <- maps:keys(Before)],
    ?assertEqual({What, []}, {What, [Change || {_, Old, New} = Change <- Changed, Old =/= New]}).

%% Sends each message to each of the processes, and checks the zone after each message.
unchanged(Zone, Processes, Messages) ->
    Before = state(Zone),
    [
        begin
            Process ! Message,
            handled(Process, Zone),
            assert_unchanged({Process, Message}, Before, Zone)
        end
     || Process <- Processes, Message <- Messages, is_forged(Message, Process, Zone)
    ],
    still_works(Zone).

%% Exit signals of the process itself and of its parent are genuine.
is_forged({'EXIT', Pid, _}, Pid, _) -> false;
is_forged({'EXIT', Pid, _}, Tracker, #{tracker := Tracker}) -> Pid =/= self();
is_forged(_, _, _) -> true.

%% Keepers in a start function or in `after_terminate` handle the message later.
handled(Process, #{zone := Zone, gated := Gated}) ->
    wait:until(fun() ->
        case process_info(Process, [status, message_queue_len]) of
            [{status, waiting}, {message_queue_len, 0}] -> true;
            [{status, waiting}, _] -> lists:member(Process, Gated);
            [_, _] -> false;
            undefined -> true
        end
    end),
    ok = gen_tracker:wait(Zone).

%% Ends the zone: starts and cleanups end, and all children are stopped.
still_works(#{zone := Zone, opening := Opening, gated := Gated, children := Children}) ->
    [Pid ! go || Pid <- Gated],
    {started, Child} = await(started),
    {'DOWN', Opening, process, _, {answer, {ok, Child}}} = await('DOWN', Opening),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, starting)),
    wait:until(fun() -> not lists:member(cleaning, gen_tracker:names(Zone)) end),
    ?assertMatch({ok, _}, gen_tracker:find_or_open(Zone, plain(cleaning))),
    [?assertEqual({ok, Pid}, gen_tracker:find(Zone, Name)) || {Name, Pid} <- Children],
    [ok = supervisor:terminate_child(Zone, Name) || Name <- names()],
    [] = [Pid || {_, Pid} <- Children, is_process_alive(Pid)],
    [] = gen_tracker:names(Zone),
    zones:stop(Zone, ?LIMIT).

%% Forged messages

%% Each message that names a process is sent with every process of the zone.
messages(#{zone := Zone, tracker := Tracker, children := Children} = Processes) ->
    #{keepers := Keepers, events := Events, watchdog := Watchdog} = Processes,
    Pids = [Pid || {_, Pid} <- Children],
    Somebody = [Tracker, Events, Watchdog, self() | Pids ++ Keepers],
    Stored = {{tracked_child, start_link, [self()]}, permanent, 200, worker, []},
    From = {self(), make_ref()},
    lists:append([
        [{'EXIT', Pid, Reason} || Pid <- Somebody, Reason <- [shutdown, normal, killed, crash]],
        [{'DOWN', make_ref(), process, Pid, Reason} || Pid <- Somebody, Reason <- [killed, normal]],
        [{launched, Pid, Result} || Pid <- Somebody, Result <- [{ok, self()}, {error, x}, garbage]],
        [{{attached, Pid}, make_ref(), process, Child, crash} || Pid <- Keepers, Child <- Pids],
        [{gen_tracker_keeper, died, Child, crash} || Child <- Pids],
        [{gen_tracker_keeper, What} || What <- [stop, retry, attached]],
        [{register_timeout, Pid, From} || Pid <- Keepers],
        [{What, Name, Pid} || What <- [up, add], {Name, Pid} <- [{new, self()} | Children]],
        [{down, Name, Pid, crash} || {Name, Pid} <- [{new, self()} | Children]],
        [{{dead, Name}, make_ref(), process, Pid, crash} || {Name, Pid} <- Children],
        [{1, {What, Name, Pid, crash}} || What <- [up, down], {Name, Pid} <- Children],
        [{launch, Name, Stored, true} || Name <- [new | names()]],
        [{attach, Name, Stored, true, Pid} || Name <- [new | names()], Pid <- [self(), Tracker]],
        [{adopt, Name, true, crash} || Name <- [new | names()]],
        [{'ETS-TRANSFER', garbage, self(), Data} || Data <- [anything, {gen_tracker_events, Zone}]],
        [{'ETS-TRANSFER', make_ref(), self(), {gen_tracker_events, Zone}}],
        [{registered, self(), make_ref()}, {registered, make_ref()}],
        ['$proctab_detached', {'$proctab_detached', self()}, {'$proctab_woken', 1}],
        [shutdown, stop, retry, detached, timeout, {timeout, make_ref(), retry}, <<>>, [], 0, #{}],
        [{'$gen_cast', What} || What <- [stop, shutdown, garbage]],
        [{Tag, stop} || Tag <- [make_ref(), self(), 0, undefined]],
        [{Tag, launched, Pid, {ok, self()}} || Tag <- [make_ref(), undefined], Pid <- Keepers],
        [{Tag, overtime, Pid, cleanup} || Tag <- [make_ref(), undefined], Pid <- Keepers]
    ]).

messages_to_the_tracker_change_nothing(_) ->
    #{tracker := Tracker} = Zone = populate(?FUNCTION_NAME),
    unchanged(Zone, [Tracker], messages(Zone)).

%% There is a zone for each: the caller that waits for a start in it does so for a minute.
messages_to_keepers_change_nothing(_) ->
    [
        callers:apart(fun() ->
            process_flag(trap_exit, true),
            #{keepers := Keepers} = Zone = populate(?FUNCTION_NAME),
            unchanged(Zone, [lists:nth(Number, Keepers)], messages(Zone))
        end)
     || Number <- lists:seq(1, length(names()))
    ].

messages_to_the_watchdog_change_nothing(_) ->
    #{watchdog := Watchdog} = Zone = populate(?FUNCTION_NAME),
    unchanged(Zone, [Watchdog], messages(Zone)).

messages_to_the_sender_of_events_change_nothing(_) ->
    #{events := Events} = Zone = populate(?FUNCTION_NAME),
    unchanged(Zone, [Events], messages(Zone)).

%% All messages are sent without a pause.
messages_to_all_processes_in_any_order_change_nothing(_) ->
    #{keepers := Keepers, events := Events, watchdog := Watchdog, tracker := Tracker} =
        Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    Processes = [Tracker, Watchdog, Events | Keepers],
    Seed = rand:seed_s(exsss),
    ct:pal("seed ~w", [rand:export_seed_s(Seed)]),
    Sent = shuffled(Seed, [
        {Process, Message}
     || Process <- Processes, Message <- messages(Zone), is_forged(Message, Process, Zone)
    ]),
    [Process ! Message || {Process, Message} <- Sent],
    [handled(Process, Zone) || Process <- Processes],
    assert_unchanged(Seed, Before, Zone),
    still_works(Zone).

shuffled(Seed, Items) ->
    Number = fun(Item, Before) ->
        {Random, After} = rand:uniform_s(Before),
        {{Random, Item}, After}
    end,
    {Numbered, _} = lists:mapfoldl(Number, Seed, Items),
    [Item || {_, Item} <- lists:keysort(1, Numbered)].

%% Such a signal looks like the exit of a linked process.
exit_signals_of_strangers_change_nothing(_) ->
    #{keepers := Keepers, watchdog := Watchdog} = Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    [
        begin
            Signal = fun() -> exit(Process, Reason) end,
            _ = callers:apart(Signal),
            handled(Process, Zone),
            Linked = fun() ->
                link(Process),
                unlink(Process)
            end,
            _ = callers:apart(Linked),
            handled(Process, Zone),
            assert_unchanged({Process, Reason}, Before, Zone)
        end
     || Process <- [Watchdog | Keepers], Reason <- [shutdown, crash, {shutdown, x}]
    ],
    still_works(Zone).

%% The tracker inherits the table of subscribers from the sender of events only.
ets_tables_given_to_the_processes_change_nothing(_) ->
    #{keepers := Keepers, events := Events, watchdog := Watchdog, tracker := Tracker} =
        Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    Rows = [[], [{self(), make_ref()}], [{garbage, garbage}], [{garbage}, {1, 2, 3}]],
    [
        begin
            Give = fun() ->
                Table = ets:new(subscribers, [Access]),
                true = ets:insert(Table, Row),
                true = ets:give_away(Table, Process, Data)
            end,
            _ = callers:apart(Give),
            handled(Process, Zone),
            assert_unchanged({Process, Row, Data}, Before, Zone)
        end
     || Process <- [Tracker, Events, Watchdog | Keepers],
        Access <- [public, private],
        Row <- Rows,
        Data <- [{gen_tracker_events, ?FUNCTION_NAME}, anything]
    ],
    still_works(Zone).

%% When the tracker is killed, the watchdog ends a start that hangs.
the_watchdog_still_works_after_forged_messages(_) ->
    #{watchdog := Watchdog, tracker := Tracker, gated := [_, Starter]} =
        Zone = populate(?FUNCTION_NAME),
    [
        Watchdog ! Message
     || Message <- messages(Zone), is_forged(Message, Watchdog, Zone)
    ],
    handled(Watchdog, Zone),
    _ = tracked_child:kill(Tracker),
    ended(Starter, ?LIMIT),
    ended(Watchdog, ?LIMIT).

%% The keeper still notices the end of its child and cleans up.
keepers_still_work_after_forged_messages(_) ->
    #{zone := Name, keepers := Keepers, children := Children} = Zone = populate(?FUNCTION_NAME),
    [Keeper ! Message || Keeper <- Keepers, Message <- messages(Zone)],
    [handled(Keeper, Zone) || Keeper <- Keepers],
    [exit(Pid, crash) || {_, Pid} <- Children],
    {started, Next} = await(started),
    zones:until_found(Name, started, Next),
    wait:until(fun() -> not lists:member(added, gen_tracker:names(Name)) end),
    wait:until(fun() -> not lists:member(registered, gen_tracker:names(Name)) end),
    [
        receive
            {gen_tracker, Name, {down, Child, Pid, crash}} -> ok
        after ?SOON -> ct:fail({not_told, Child})
        end
     || {Child, Pid} <- Children
    ].

%% Calls

%% Such a call cannot be answered.
calls_without_a_caller_change_nothing(_) ->
    #{zone := Name, events := Events, tracker := Tracker} = Zone = populate(?FUNCTION_NAME),
    Tags = [{self()}, {1, 2}, {make_ref(), make_ref()}, {nobody, tag}, {self(), tag, more}],
    Callers = [self(), make_ref(), 1, nobody, {}, [self() | tag] | Tags],
    Known = [subscribe, unsubscribe, wait, events, which_children],
    Calls = [garbage, {terminate_child, started} | Known],
    Messages = [{'$gen_call', From, Call} || From <- Callers, Call <- Calls],
    unchanged(Zone, [Tracker, Events], Messages),
    %% Nor does it while the zone stops.
    Stopping = whereis(zone(Name)),
    ok = sys:suspend(Name),
    Stop = timed_call:calling(fun() -> gen_server:call(Name, shutdown, infinity) end),
    [Stopping ! {'$gen_call', From, wait} || From <- Callers],
    ok = sys:resume(Name),
    {answer, ok} = timed_call:answer(Stop, ?LIMIT).

%% The calls have the shapes of those that the functions of the library send. Their arguments are
%% ones that these functions refuse.
raw_calls_are_answered_with_an_error(_) ->
    #{zone := Name} = Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    Stored = {{tracked_child, start_link, [self()]}, permanent, 200, worker, []},
    Calls = [
        {add, new, Stored, 5},
        {add, new, garbage, self()},
        {add, new, {}, make_ref()},
        {register, new, Stored, 5},
        {register, new, garbage, self()},
        {find_or_open, new, garbage},
        {find_or_open, new, garbage, more},
        {find_or_open, garbage},
        {find_or_open, {new, garbage, garbage}},
        {add_existing_child, garbage},
        {add_existing_child, {new, 5, worker, []}},
        {add_existing_child, {self(), garbage}},
        {start_child, garbage},
        {start_child, new, Stored},
        {forget, new},
        {launched, self(), {ok, self()}}
    ],
    [
        begin
            Answer = timed_call:within(?SOON, fun() -> gen_server:call(Name, Call) end),
            ?assertMatch({_, {error, _}}, {Call, Answer}),
            assert_unchanged(Call, Before, Zone)
        end
     || Call <- Calls
    ],
    still_works(Zone).

unknown_calls_are_answered_with_the_error_unknown_call(_) ->
    #{zone := Name} = Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    [
        ?assertEqual({error, {unknown_call, Call}}, gen_server:call(Name, Call))
     || Call <- [undefined, {}, [], <<"call">>, {strange, call}, {stop, now}, {which_children, all}]
    ],
    assert_unchanged(calls, Before, Zone),
    still_works(Zone).

unknown_calls_to_the_sender_of_events_are_answered(_) ->
    #{events := Events} = Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    [
        timed_call:within(?SOON, fun() -> gen_server:call(Events, Call) end)
     || Call <- [undefined, {}, {strange, call}, subscribe, unsubscribe] ++
            [{subscribe, Odd} || Odd <- [garbage, {name}, {name, a, b}, {key, a}]]
    ],
    assert_unchanged(calls, Before, Zone),
    still_works(Zone).
