%% Promise: what a stranger sends to a process of a zone changes nothing, whatever it looks like: no
%% child is lost or stopped, no process ends, and none is left over. An unknown call is answered.
%%
%% Each case has a zone with children in all states, and sends forged messages to the tracker, to
%% the keepers, to the watchdog, and to the process that sends events. Afterwards all goes on.
%%
%% What `gen_server' itself believes of anybody, the death of the process that has started it, is
%% not among the messages.
-module(strangers_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [zone/1, await/1, await/2, taken/1, loose/1, gated/2]).
-import(zones, [soon/1, ended/2, keeper/2]).
-import(stopping_SUITE, [plain/1, full/1, cleaning/2]).

-define(SOON, 2000).
-define(LIMIT, 12000).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        messages_to_the_tracker_change_nothing,
        messages_to_keepers_change_nothing,
        messages_to_the_watchdog_change_nothing,
        messages_to_the_process_that_sends_events_change_nothing,
        messages_to_all_of_them_in_any_order_change_nothing,
        exit_signals_of_strangers_change_nothing,
        tables_that_are_given_away_change_nothing,
        a_watchdog_that_was_told_lies_still_guards,
        a_keeper_that_was_told_lies_still_keeps,
        calls_of_nobody_change_nothing,
        raw_calls_are_answered_with_an_error,
        unknown_calls_are_answered_with_themselves,
        unknown_calls_of_the_process_that_sends_events_are_answered
    ].

%% All that a stranger sends is logged.
init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    [{level, Level} | Config].

end_per_testcase(_Case, Config) ->
    ok = logger:set_primary_config(level, proplists:get_value(level, Config)),
    zones:clean_up().

%% A zone

%% Children in all states, and a subscriber.
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
    ok = restart_limit_SUITE:failed(Zone, pending),
    [ok = gen_tracker:setattr(Zone, Name, key, Name) || Name <- [started, added, starting]],
    _ = taken(started),
    _ = events(Zone),
    Keepers = [keeper(Zone, Name) || Name <- names()],
    [Events] = [Pid || Pid <- tracked_child:beside(Zone), sends_events(Pid)],
    [Watchdog] = tracked_child:beside(Zone) -- [Events | Keepers],
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

%% What may not change. The processes are all that have the zone among their ancestors.
state(#{zone := Zone, tracker := Tracker}) ->
    #{
        tracker => {Tracker, whereis(Zone)},
        children => lists:sort(gen_tracker:which_children(Zone)),
        attributes => lists:sort(gen_tracker:list(Zone)),
        starting => gen_tracker:info(Zone, starting),
        keepers => lists:sort([{Name, keeper(Zone, Name)} || Name <- gen_tracker:names(Zone)]),
        processes => [Pid || Pid <- processes(), is_of(Zone, Tracker, Pid)],
        beside => lists:sort(tracked_child:beside(Zone)),
        events => events(Zone),
        %% The pending one is tried again now and then.
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

%% What has changed is told, and after what.
as_before(What, Before, Zone) ->
    After = state(Zone),
    Changed = [{Key, map_get(Key, Before), map_get(Key, After)} || Key <- maps:keys(Before)],
    ?assertEqual({What, []}, {What, [Change || {_, Old, New} = Change <- Changed, Old =/= New]}).

%% Sends each message to each of the processes. Between two of them the zone is as it was.
unchanged(Zone, Processes, Messages) ->
    Before = state(Zone),
    [
        begin
            Process ! Message,
            handled(Process, Zone),
            as_before({Process, Message}, Before, Zone)
        end
     || Process <- Processes, Message <- Messages, is_forged(Message, Process, Zone)
    ],
    goes_on(Zone).

%% The process itself and its parent are believed.
is_forged({'EXIT', Pid, _}, Pid, _) -> false;
is_forged({'EXIT', Pid, _}, Tracker, #{tracker := Tracker}) -> Pid =/= self();
is_forged(_, _, _) -> true.

%% Those that are inside a start or a cleanup of the test read it later.
handled(Process, #{zone := Zone, gated := Gated}) ->
    soon(fun() ->
        case process_info(Process, [status, message_queue_len]) of
            [{status, waiting}, {message_queue_len, 0}] -> true;
            [{status, waiting}, _] -> lists:member(Process, Gated);
            [_, _] -> false;
            undefined -> true
        end
    end),
    ok = gen_tracker:wait(Zone).

%% All children come to the end that is theirs.
goes_on(#{zone := Zone, opening := Opening, gated := Gated, children := Children}) ->
    [Pid ! go || Pid <- Gated],
    {started, Child} = await(started),
    {'DOWN', Opening, process, _, {answer, {ok, Child}}} = await('DOWN', Opening),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, starting)),
    soon(fun() -> not lists:member(cleaning, gen_tracker:names(Zone)) end),
    ?assertMatch({ok, _}, gen_tracker:find_or_open(Zone, plain(cleaning))),
    [?assertEqual({ok, Pid}, gen_tracker:find(Zone, Name)) || {Name, Pid} <- Children],
    [ok = supervisor:terminate_child(Zone, Name) || Name <- names()],
    [] = [Pid || {_, Pid} <- Children, is_process_alive(Pid)],
    [] = gen_tracker:names(Zone),
    zones:stop(Zone, ?LIMIT).

%% Forged messages

%% With every process that is known as the one that they are about.
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

messages_to_keepers_change_nothing(_) ->
    #{keepers := Keepers} = Zone = populate(?FUNCTION_NAME),
    unchanged(Zone, Keepers, messages(Zone)).

messages_to_the_watchdog_change_nothing(_) ->
    #{watchdog := Watchdog} = Zone = populate(?FUNCTION_NAME),
    unchanged(Zone, [Watchdog], messages(Zone)).

messages_to_the_process_that_sends_events_change_nothing(_) ->
    #{events := Events} = Zone = populate(?FUNCTION_NAME),
    unchanged(Zone, [Events], messages(Zone)).

%% So fast that they meet each other.
messages_to_all_of_them_in_any_order_change_nothing(_) ->
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
    as_before(Seed, Before, Zone),
    goes_on(Zone).

shuffled(Seed, Items) ->
    Number = fun(Item, Before) ->
        {Random, After} = rand:uniform_s(Before),
        {{Random, Item}, After}
    end,
    {Numbered, _} = lists:mapfoldl(Number, Seed, Items),
    [Item || {_, Item} <- lists:keysort(1, Numbered)].

%% They look like the death of a process that is linked.
exit_signals_of_strangers_change_nothing(_) ->
    #{keepers := Keepers, watchdog := Watchdog} = Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    [
        begin
            Signal = fun() -> exit(Process, Reason) end,
            _ = tracked_child:apart(Signal),
            handled(Process, Zone),
            Linked = fun() ->
                link(Process),
                unlink(Process)
            end,
            _ = tracked_child:apart(Linked),
            handled(Process, Zone),
            as_before({Process, Reason}, Before, Zone)
        end
     || Process <- [Watchdog | Keepers], Reason <- [shutdown, crash, {shutdown, x}]
    ],
    goes_on(Zone).

%% The tracker inherits the table of subscribers from the process that sends events, and no other.
tables_that_are_given_away_change_nothing(_) ->
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
            _ = tracked_child:apart(Give),
            handled(Process, Zone),
            as_before({Process, Row, Data}, Before, Zone)
        end
     || Process <- [Tracker, Events, Watchdog | Keepers],
        Access <- [public, private],
        Row <- Rows,
        Data <- [{gen_tracker_events, ?FUNCTION_NAME}, anything]
    ],
    goes_on(Zone).

%% When the tracker is killed, it ends a start that hangs.
a_watchdog_that_was_told_lies_still_guards(_) ->
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

%% When its child ends, it notices, and does what is to be done.
a_keeper_that_was_told_lies_still_keeps(_) ->
    #{zone := Name, keepers := Keepers, children := Children} = Zone = populate(?FUNCTION_NAME),
    [Keeper ! Message || Keeper <- Keepers, Message <- messages(Zone)],
    [handled(Keeper, Zone) || Keeper <- Keepers],
    [exit(Pid, crash) || {_, Pid} <- Children],
    {started, Next} = await(started),
    soon(fun() -> gen_tracker:find(Name, started) =:= {ok, Next} end),
    soon(fun() -> not lists:member(added, gen_tracker:names(Name)) end),
    soon(fun() -> not lists:member(registered, gen_tracker:names(Name)) end),
    [
        receive
            {gen_tracker, Name, {down, Child, Pid, crash}} -> ok
        after ?SOON -> ct:fail({not_told, Child})
        end
     || {Child, Pid} <- Children
    ].

%% Calls

%% Nobody can be answered.
calls_of_nobody_change_nothing(_) ->
    #{zone := Name, events := Events, tracker := Tracker} = Zone = populate(?FUNCTION_NAME),
    Nobody = [self(), make_ref(), 1, nobody, {}, {self()}, {1, 2}, {make_ref(), make_ref()},
              {nobody, tag}, {self(), tag, more}, [self() | tag]],
    Calls = [subscribe, unsubscribe, wait, events, which_children, garbage, {terminate_child, started}],
    unchanged(Zone, [Tracker, Events], [{'$gen_call', From, Call} || From <- Nobody, Call <- Calls]),
    %% Nor while the zone stops.
    Stopping = whereis(zone(Name)),
    ok = sys:suspend(Name),
    Stop = zones:asked(fun() -> gen_server:call(Name, shutdown, infinity) end),
    [Stopping ! {'$gen_call', From, wait} || From <- Nobody],
    ok = sys:resume(Name),
    {answer, ok} = zones:answer(Stop, ?LIMIT).

%% In the shapes that the library's own functions send, with what these refuse.
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
            Answer = zones:within(?SOON, fun() -> gen_server:call(Name, Call) end),
            ?assertMatch({_, {error, _}}, {Call, Answer}),
            as_before(Call, Before, Zone)
        end
     || Call <- Calls
    ],
    goes_on(Zone).

unknown_calls_are_answered_with_themselves(_) ->
    #{zone := Name} = Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    [
        ?assertEqual({error, {unknown_call, Call}}, gen_server:call(Name, Call))
     || Call <- [undefined, {}, [], <<"call">>, {strange, call}, {stop, now}, {which_children, all}]
    ],
    as_before(calls, Before, Zone),
    goes_on(Zone).

unknown_calls_of_the_process_that_sends_events_are_answered(_) ->
    #{events := Events} = Zone = populate(?FUNCTION_NAME),
    Before = state(Zone),
    [
        zones:within(?SOON, fun() -> gen_server:call(Events, Call) end)
     || Call <- [undefined, {}, {strange, call}, {subscribe, garbage}, unsubscribe]
    ],
    as_before(calls, Before, Zone),
    goes_on(Zone).
