%% Promise: a call that has changed something is not rescheduled. A native call whose terms cost too
%% much begins anew on a dirty scheduler. Whatever its arguments, it makes its change exactly once,
%% and returns the result of this change.
%%
%% The suite has tables of all native functions that change something. Each is called with terms
%% over the budget of a normal scheduler.
-module(changes_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(proctab_nif, [await_start/2, failed/2, launch/4, opening/4]).
-import(proctab_nif, [
    insert/5,
    child/2,
    kept/2,
    running/3,
    terminating/3,
    pending/2,
    slowed/2,
    restarting/2,
    respec/3,
    stop/3,
    remove/2,
    unregister_name/4,
    hand_over/5,
    change_keeper/3,
    change_keeper/4,
    register_name/5,
    reserve_name/3,
    find/2,
    getattr/3,
    setattr/3,
    setattr/4,
    set_missing/4,
    replace/5,
    cas/5,
    delattr/3, increment/4, increment/5, attrs/2, listen/1, wait_for/3, stop_waiting/1, waiting/1,
    wait_for_child/2,
    registered_names/2,
    registered_count/2,
    begin_registering/3,
    end_registering/4,
    fail_registering/3,
    abandon/3
]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        each_native_function_is_in_a_table_or_takes_no_terms_or_changes_nothing,
        a_change_of_a_long_name_is_made_once,
        a_change_of_a_long_key_or_value_is_made_once,
        a_change_of_an_indexed_attribute_is_made_once,
        a_child_with_long_indexed_values_begins_to_run_once,
        a_change_with_an_event_is_made_once_and_sends_one_event,
        a_reason_that_is_too_large_is_an_atom_in_the_event,
        a_change_among_many_waiters_is_made_once,
        a_new_attribute_wakes_only_the_waiters_for_it,
        a_registration_of_a_long_name_is_made_once,
        a_call_that_changes_nothing_may_still_be_rescheduled
    ].

%% The tables

each_native_function_is_in_a_table_or_takes_no_terms_or_changes_nothing(_) ->
    Known =
        [
            Function
         || {Function, _} <- of_names() ++ of_keys() ++ of_values() ++ of_registrations()
        ] ++
            without_terms() ++
            reading(),
    Stubs = proctab_nif:module_info(exports) -- [{module_info, 0}, {module_info, 1}],
    ?assertEqual(lists:sort(Stubs), lists:usort(Known)).

%% Functions that change something, without arguments that could be long.
without_terms() ->
    [{zone_stop, 1}, {zone_close, 1}, {listen, 1}, {unlisten, 1}, {stop_waiting, 1}] ++
        [{watchdog, 2}, {appoint, 3}, {open_registrar, 2}, {close_registrar, 2}] ++
        [{cancel_name, 2}] ++
        [{open_subscriptions, 3}, {add_subscriber, 1}, {remove_subscriber, 1}] ++
        [{cancel_subscriptions, 2}, {end_subscriptions, 0}] ++
        [{drain, 1}, {add_member, 4}, {begin_snapshot, 2}, {end_snapshot, 2}, {end_member, 2}] ++
        [{sweep_claims, 2}] ++
        [{processes_open, 2}, {processes_close, 1}, {hold, 1}, {release, 1}, {claim, 2}] ++
        [{died, 2}, {open_cleanups, 1}, {reap, 1}, {cleaned, 1}].

reading() ->
    [
        {tables, 0},
        {was_stopped, 1},
        {registrars, 1},
        {is_own, 2},
        {opening, 4},
        {owner, 1},
        {count, 1},
        {child, 2},
        {kept, 2},
        {find, 2},
        {find_alive, 2},
        {may_be_alive, 1},
        {getattr, 3},
        {attrs, 2},
        {attrs, 3}
    ] ++
        [
            {page, 4},
            {waiting, 1},
            {subscriptions, 1},
            {registered_names, 2},
            {registered_count, 2},
            {processes_page, 2},
            {counts_page, 2},
            {check_keys, 1},
            {lookup, 6},
            {count, 3},
            {values_page, 4},
            {indexes, 1},
            {index_page, 3},
            {remote_page, 2},
            {deaths, 1},
            {cluster_shared, 1},
            {find_claim, 2},
            {find_claim_alive, 2},
            {best_claim, 2},
            {claim_owner, 2},
            {cluster_getattr, 3},
            {claims_page, 4},
            {claims_count, 1}
        ].

%% Each fun gets a zone in which no child has the name. The calling process is the keeper.
of_names() ->
    [
        {{insert, 5}, fun(Zone, Name) ->
            true = insert(Zone, Name, self(), spec, launching),
            {launching, undefined, _, spec} = child(Zone, Name),
            {Name, launching, undefined, spec} = kept(Zone, self()),
            false = insert(Zone, Name, self(), spec, launching),
            1 = proctab_nif:count(Zone)
        end},
        {{launch, 4}, fun(Zone, Name) ->
            {free, Handle, _} = opening(Zone, Name, spec, undefined),
            {Name, spec, _} = launch(Handle, Name, spec, launching),
            {launching, undefined, _, spec} = child(Zone, Name),
            held = launch(Handle, Name, spec, launching),
            held = opening(Zone, Name, spec, undefined),
            1 = proctab_nif:count(Zone)
        end},
        {{launch, 4}, fun(Zone, Name) ->
            _ = proctab_nif:cluster_open(Zone, shared, []),
            {free, Handle, _} = opening(Zone, Name, spec, undefined),
            true = proctab_nif:drain(Zone),
            not_home = launch(Handle, Name, spec, home),
            not_home = insert(Zone, Name, self(), spec, home),
            not_home = insert(Zone, Name, self(), spec, {home, self()}),
            gone(Zone, Name),
            {Name, spec, _} = launch(Handle, Name, spec, launching)
        end},
        {{register_name, 5}, fun(Zone, Name) ->
            _ = proctab_nif:cluster_open(Zone, shared, []),
            Registrar = self(),
            [ok = proctab_nif:appoint(Zone, Position, Registrar) || Position <- lists:seq(0, 7)],
            [proctab_nif:open_registrar(Zone, Position) || Position <- lists:seq(0, 7)],
            Pid = spawn(timer, sleep, [infinity]),
            true = proctab_nif:drain(Zone),
            not_home = register_name(Zone, Name, spec, {home, Pid}, alias),
            gone(Zone, Name),
            Registrar = register_name(Zone, Name, spec, Pid, alias),
            {running, Pid, Registrar, spec} = child(Zone, Name),
            true = exit(Pid, kill)
        end},
        {{insert, 5}, fun(Zone, Name) ->
            true = insert(Zone, Name, self(), spec, {home, self()}),
            {running, Self, Self, spec} = child(Zone, Name),
            false = insert(Zone, Name, self(), spec, {home, self()}),
            1 = proctab_nif:count(Zone)
        end},
        {{await_start, 2}, launched(fun(Zone, Name) ->
            {launching, undefined, _, spec} = await_start(Zone, Name),
            awaited = running(Zone, Name, self())
        end)},
        {{failed, 2}, launched(fun(Zone, Name) ->
            {launching, undefined, _, spec} = await_start(Zone, Name),
            awaited = failed(Zone, Name),
            gone(Zone, Name)
        end)},
        {{running, 3}, launched(fun(Zone, Name) ->
            true = running(Zone, Name, self()),
            {running, Self, Self, spec} = child(Zone, Name)
        end)},
        {{terminating, 3}, opened(fun(Zone, Name) ->
            true = terminating(Zone, Name, Name),
            {terminating, undefined, _, spec} = child(Zone, Name)
        end)},
        {{pending, 2}, cleared(pending)},
        {{slowed, 2}, cleared(slowed)},
        {{restarting, 2}, cleared(restarting)},
        {{respec, 3}, opened(fun(Zone, Name) ->
            true = respec(Zone, Name, {spec, Name}),
            {running, Self, Self, {spec, Name}} = child(Zone, Name)
        end)},
        {{stop, 3}, launched(fun(Zone, Name) ->
            launching = stop(Zone, Name, self()),
            stopping = running(Zone, Name, self())
        end)},
        {{remove, 2}, opened(fun(Zone, Name) ->
            true = remove(Zone, Name),
            gone(Zone, Name)
        end)},
        {{unregister_name, 4}, opened(fun(Zone, Name) ->
            true = unregister_name(Zone, Name, self(), Name),
            gone(Zone, Name),
            receive
                '$proctab_detached' -> ok
            end
        end)},
        {{hand_over, 5}, opened(fun(Zone, Name) ->
            ok = setattr(Zone, Name, key, value),
            Other = proc_lib:spawn_link(timer, sleep, [infinity]),
            true = hand_over(Zone, Name, self(), Other, Other),
            {Name, running, Other, spec} = kept(Zone, Other),
            undefined = kept(Zone, self()),
            false = hand_over(Zone, Name, self(), Other, Other),
            [{key, value}] = attrs(Zone, Name),
            receive
                '$proctab_detached' -> ok
            end,
            unlink(Other),
            exit(Other, kill)
        end)},
        {{cluster_open, 3}, fun(Zone, Name) ->
            _ = proctab_nif:cluster_open(Zone, {shared, Name}, [Name]),
            {shared, Name} = proctab_nif:cluster_shared(Zone)
        end},
        {{change_claims, 3}, fun(Zone, Name) ->
            _ = proctab_nif:cluster_open(Zone, shared, []),
            Other = spawn(fun() -> ok end),
            Member = proctab_nif:add_member(Zone, node(), <<"other">>, Other),
            Self = self(),
            {[undefined], []} =
                proctab_nif:change_claims(Zone, Member, [{Name, 1, {up, Self}}]),
            {ok, Self} = proctab_nif:find_claim(Zone, Name),
            1 = proctab_nif:claims_count(Zone),
            {[Self], []} = proctab_nif:change_claims(Zone, Member, [{Name, 1, free}]),
            undefined = proctab_nif:find_claim(Zone, Name)
        end},
        {{change_keeper, 3}, opened(fun(Zone, Name) ->
            {Other, _} = spawn_monitor(fun() ->
                receive
                    stop -> ok
                end
            end),
            {ok, Name} = change_keeper(Zone, self(), Other),
            {Name, running, _, spec} = kept(Zone, Other),
            undefined = change_keeper(Zone, self(), Other),
            {ok, Name} = change_keeper(Zone, Other, self()),
            {Name, running, _, spec} = kept(Zone, self()),
            Other ! stop
        end)},
        {{change_keeper, 4}, opened(fun(Zone, Name) ->
            Other = spawn(fun() ->
                receive
                    stop -> ok
                end
            end),
            true = change_keeper(Zone, Name, self(), Other),
            {Name, running, _, spec} = kept(Zone, Other),
            false = change_keeper(Zone, Name, self(), Other),
            undefined = kept(Zone, self()),
            Other ! stop
        end)},
        {{reserve_name, 3}, fun(Zone, Name) ->
            Keeper = self(),
            Reserve = fun() -> reserve_name(Zone, Name, Keeper) end,
            true = insert(Zone, Name, Keeper, spec, launching),
            true = Reserve(),
            false = callers:apart(Reserve),
            ok = proctab_nif:cancel_name(Zone, Keeper),
            true = callers:apart(Reserve),
            %% That process is dead.
            true = Reserve(),
            true = running(Zone, Name, self()),
            undefined = Reserve()
        end},
        {{register_name, 5}, fun(Zone, Name) ->
            Registrar = self(),
            [ok = proctab_nif:appoint(Zone, Position, Registrar) || Position <- lists:seq(0, 7)],
            Secrets = [proctab_nif:open_registrar(Zone, Position) || Position <- lists:seq(0, 7)],
            [Secret] = lists:usort(Secrets),
            Pid = spawn(fun() ->
                receive
                    stop -> ok
                end
            end),
            Registrar = register_name(Zone, Name, spec, Pid, alias),
            {running, Pid, Registrar, spec} = child(Zone, Name),
            {Secret, {registered, Name, Pid, alias}} =
                receive
                    Message -> Message
                end,
            {messages, []} = process_info(self(), messages),
            undefined = kept(Zone, Registrar),
            Pid ! stop
        end},
        {{setattr, 3}, opened(fun(Zone, Name) ->
            ok = setattr(Zone, Name, [{key, value}]),
            [{key, value}] = attrs(Zone, Name)
        end)},
        {{setattr, 4}, opened(fun(Zone, Name) ->
            ok = setattr(Zone, Name, key, value),
            [{key, value}] = attrs(Zone, Name)
        end)},
        {{cluster_setattr, 3}, clustered(fun(Zone, Name) ->
            ok = proctab_nif:cluster_setattr(Zone, Name, [{key, value}]),
            [{key, value}] = attrs(Zone, Name)
        end)},
        {{cluster_setattr, 4}, clustered(fun(Zone, Name) ->
            ok = proctab_nif:cluster_setattr(Zone, Name, key, value),
            [{key, value}] = attrs(Zone, Name)
        end)},
        {{cluster_cas, 5}, clustered(fun(Zone, Name) ->
            ok = setattr(Zone, Name, key, 1),
            ok = proctab_nif:cluster_cas(Zone, Name, key, 1, 2),
            [{key, 2}] = attrs(Zone, Name)
        end)},
        {{cluster_increment, 4}, clustered(fun(Zone, Name) ->
            ok = setattr(Zone, Name, key, 1),
            2 = proctab_nif:cluster_increment(Zone, Name, key, 1)
        end)},
        {{cluster_increment, 5}, clustered(fun(Zone, Name) ->
            1 = proctab_nif:cluster_increment(Zone, Name, key, 1, 1),
            2 = proctab_nif:cluster_increment(Zone, Name, key, 1, 1)
        end)},
        {{cluster_delattr, 3}, clustered(fun(Zone, Name) ->
            ok = setattr(Zone, Name, [{key, 1}, {other, 1}]),
            ok = proctab_nif:cluster_delattr(Zone, Name, key),
            [{other, 1}] = attrs(Zone, Name)
        end)},
        {{set_missing, 4}, fun(Zone, Name) ->
            true = set_missing(Zone, Name, key, value),
            [{key, value}] = attrs(Zone, Name)
        end},
        {{replace, 5}, numbered(fun(Zone, Name) -> true = replace(Zone, Name, key, 1, 2) end)},
        {{cas, 5}, numbered(fun(Zone, Name) -> ok = cas(Zone, Name, key, 1, 2) end)},
        {{increment, 4}, numbered(fun(Zone, Name) -> 2 = increment(Zone, Name, key, 1) end)},
        {{increment, 5}, fun(Zone, Name) ->
            1 = increment(Zone, Name, key, 1, 1),
            2 = increment(Zone, Name, key, 1, 1),
            {ok, 2} = getattr(Zone, Name, key)
        end},
        {{delattr, 3}, opened(fun(Zone, Name) ->
            ok = setattr(Zone, Name, [{key, 1}, {other, 1}]),
            ok = delattr(Zone, Name, key),
            [{other, 1}] = attrs(Zone, Name)
        end)},
        {{wait_for, 3}, fun(Zone, Name) ->
            {Waits, Id, _} = wait_for(Zone, Name, key),
            1 = waiting(Zone),
            1 = increment(Zone, Name, key, 1, 1),
            {messages, [{'$proctab_woken', Id}]} = process_info(self(), messages),
            0 = waiting(Zone),
            false = stop_waiting(Waits)
        end},
        {{wait_for_child, 2}, fun(Zone, Name) ->
            {Waits, Id, _} = wait_for_child(Zone, Name),
            1 = waiting(Zone),
            1 = increment(Zone, Name, key, 1, 1),
            1 = waiting(Zone),
            true = insert(Zone, Name, self(), spec, self()),
            {messages, [{'$proctab_woken', Id}]} = process_info(self(), messages),
            0 = waiting(Zone),
            false = stop_waiting(Waits)
        end}
    ].

launched(Then) ->
    fun(Zone, Name) ->
        true = insert(Zone, Name, self(), spec, launching),
        Then(Zone, Name)
    end.

opened(Then) ->
    fun(Zone, Name) ->
        true = insert(Zone, Name, self(), spec, self()),
        Then(Zone, Name)
    end.

clustered(Then) ->
    Opened = opened(Then),
    fun(Zone, Name) ->
        _ = proctab_nif:cluster_open(Zone, shared, []),
        Opened(Zone, Name)
    end.

cleared(State) ->
    opened(fun(Zone, Name) ->
        ok = setattr(Zone, Name, key, value),
        true = proctab_nif:State(Zone, Name),
        {State, undefined, _, spec} = child(Zone, Name),
        [] = attrs(Zone, Name)
    end).

numbered(Then) ->
    opened(fun(Zone, Name) ->
        ok = setattr(Zone, Name, key, 1),
        Then(Zone, Name),
        {ok, 2} = getattr(Zone, Name, key)
    end).

gone(Zone, Name) ->
    undefined = child(Zone, Name),
    undefined = kept(Zone, self()),
    0 = proctab_nif:count(Zone).

%% Each fun gets a zone with the running child `name`.
of_keys() ->
    [
        {{setattr, 3}, fun(Zone, Key) ->
            ok = setattr(Zone, name, [{Key, 1}]),
            [{Key, 1}] = attrs(Zone, name)
        end},
        {{setattr, 4}, fun(Zone, Key) ->
            ok = setattr(Zone, name, Key, 1),
            [{Key, 1}] = attrs(Zone, name)
        end},
        {{set_missing, 4}, fun(Zone, Key) ->
            true = set_missing(Zone, name, Key, 1),
            false = set_missing(Zone, name, Key, 2),
            [{Key, 1}] = attrs(Zone, name)
        end},
        {{replace, 5}, with_key(fun(Zone, Key) -> true = replace(Zone, name, Key, 1, 2) end)},
        {{cas, 5}, with_key(fun(Zone, Key) -> ok = cas(Zone, name, Key, 1, 2) end)},
        {{increment, 4}, with_key(fun(Zone, Key) -> 2 = increment(Zone, name, Key, 1) end)},
        {{increment, 5}, fun(Zone, Key) ->
            1 = increment(Zone, name, Key, 1, 1),
            2 = increment(Zone, name, Key, 1, 1),
            [{Key, 2}] = attrs(Zone, name)
        end},
        {{delattr, 3}, with_key(fun(Zone, Key) ->
            ok = delattr(Zone, name, Key),
            undefined = getattr(Zone, name, Key),
            ok = setattr(Zone, name, Key, 2)
        end)}
    ].

with_key(Then) ->
    fun(Zone, Key) ->
        ok = setattr(Zone, name, Key, 1),
        Then(Zone, Key),
        [{Key, 2}] = attrs(Zone, name)
    end.

%% Each fun gets a zone with the running child `name`.
%% The test is a keeper of the zone.
opened_by_another(Zone, Name, Spec) ->
    {answer, Opening} = callers:answer(
        callers:ask(fun() -> opening(Zone, Name, Spec, undefined) end)
    ),
    Opening.

of_values() ->
    [
        {{insert, 5}, fun(Zone, Spec) ->
            true = insert(Zone, other, self(), Spec, self()),
            {running, _, _, Spec} = child(Zone, other)
        end},
        {{launch, 4}, fun(Zone, Spec) ->
            {free, Handle, _} = opened_by_another(Zone, other, Spec),
            {other, Spec, _} = launch(Handle, other, Spec, launching),
            {launching, _, _, Spec} = child(Zone, other)
        end},
        {{zone_open, 4}, fun(_, Key) ->
            Handle = proctab_nif:zone_open(?FUNCTION_NAME, shared, [Key, {each, each}], infinity),
            {[], done} = proctab_nif:lookup(?FUNCTION_NAME, Key, 1, 0, pids, []),
            ok = proctab_nif:zone_close(Handle)
        end},
        {{zone_open, 2}, fun(_, Context) ->
            Handle = proctab_nif:zone_open(?FUNCTION_NAME, Context),
            {name, spec, Context} = launch(Handle, name, spec, launching),
            ok = proctab_nif:zone_close(Handle)
        end},
        {{zone_open, 4}, fun(_, Context) ->
            Handle = proctab_nif:zone_open(?FUNCTION_NAME, Context, [], 1),
            {name, spec, Context} = launch(Handle, name, spec, launching),
            full = launch(Handle, other, spec, launching),
            full = insert(?FUNCTION_NAME, other, self(), spec, self()),
            held = launch(Handle, name, spec, launching),
            ok = proctab_nif:zone_close(Handle)
        end},
        {{setattr, 3}, fun(Zone, Value) ->
            ok = setattr(Zone, name, [{key, Value}]),
            [{key, Value}] = attrs(Zone, name)
        end},
        {{setattr, 4}, fun(Zone, Value) ->
            ok = setattr(Zone, name, key, Value),
            [{key, Value}] = attrs(Zone, name)
        end},
        {{set_missing, 4}, fun(Zone, Value) ->
            true = set_missing(Zone, name, key, Value),
            false = set_missing(Zone, name, key, [Value]),
            [{key, Value}] = attrs(Zone, name)
        end},
        {{replace, 5}, fun(Zone, Value) ->
            ok = setattr(Zone, name, key, Value),
            false = replace(Zone, name, key, [Value], 0),
            true = replace(Zone, name, key, Value, [Value]),
            [{key, [Value]}] = attrs(Zone, name)
        end},
        {{cas, 5}, fun(Zone, Value) ->
            ok = setattr(Zone, name, key, Value),
            ok = cas(Zone, name, key, Value, [Value]),
            {current, [Value]} = cas(Zone, name, key, Value, 0),
            [{key, [Value]}] = attrs(Zone, name)
        end}
    ].

%% Each fun gets a table of processes whose server is the calling process, another process, and a
%% name for it.
of_registrations() ->
    [
        {{register, 3}, registered(fun(_, _, _) -> ok end)},
        {{unregister, 3}, registered(fun(Table, Pid, Name) ->
            ok = proctab_nif:register(Table, Pid, Name),
            ok = proctab_nif:unregister(Table, Pid, Name)
        end)},
        {{try_register, 3}, registered(fun(Table, Pid, Name) ->
            ok = proctab_nif:unregister(Table, Pid, Name),
            true = proctab_nif:try_register(Table, Pid, Name)
        end)},
        {{begin_registering, 3}, fun(Table, Pid, Name) ->
            begun = begin_registering(Table, Pid, Name),
            registered = begin_registering(Table, Pid, Name),
            waits(Table, Pid)
        end},
        {{end_registering, 4}, registered(fun(Table, Pid, Name) ->
            ok = proctab_nif:unregister(Table, Pid, Name),
            begun = begin_registering(Table, Pid, Name),
            ok = end_registering(Table, Pid, Name, true),
            {messages, []} = process_info(self(), messages)
        end)},
        {{fail_registering, 3}, fun(Table, Pid, Name) ->
            begun = begin_registering(Table, Pid, Name),
            waits(Table, Pid),
            ok = fail_registering(Table, Pid, Name),
            woken(),
            {0, [{Pid, []}], false} = proctab_nif:reap(Table)
        end},
        {{abandon, 3}, fun(Table, Pid, _) ->
            [begun = begin_registering(Table, Pid, N) || N <- lists:seq(1, 10000)],
            ok = abandon(Table, Pid, self()),
            ok = proctab_nif:died(Table, Pid),
            {0, [], false} = proctab_nif:reap(Table)
        end},
        {{take_cleanups, 2}, registered(fun(Table, Pid, Name) ->
            due(Table, Pid, 1),
            [{Pid, Name, true}] = proctab_nif:take_cleanups(Table, self())
        end)},
        {{give_up, 2}, registered(fun(Table, Pid, Name) ->
            ok = proctab_nif:register(Table, Pid, Name),
            due(Table, Pid, 2),
            [_, _] = proctab_nif:take_cleanups(Table, self()),
            {Pid, Name} = proctab_nif:give_up(Table, self())
        end)}
    ].

registered(Then) ->
    fun(Table, Pid, Name) ->
        ok = proctab_nif:register(Table, Pid, Name),
        Then(Table, Pid, Name),
        1 = registered_count(Table, Name),
        [Name] = registered_names(Table, Pid),
        due(Table, Pid, 1),
        [{Pid, Name, true}] = proctab_nif:take_cleanups(Table, self()),
        _ = proctab_nif:cleaned(Table),
        0 = registered_count(Table, Name)
    end.

%% Asserts that there are so many cleanups if this process is dead.
due(Table, Pid, Count) ->
    ok = proctab_nif:open_cleanups(Table),
    ok = proctab_nif:died(Table, Pid),
    {Count, [], _} = proctab_nif:reap(Table).

%% Asserts that the cleanup after this process waits for the calling one.
waits(Table, Pid) ->
    Self = self(),
    ok = proctab_nif:open_cleanups(Table),
    ok = proctab_nif:died(Table, Pid),
    {0, [{Pid, [Self]}], false} = proctab_nif:reap(Table).

woken() ->
    receive
        '$proctab_dead' -> ok
    after 0 -> error(not_woken)
    end,
    {messages, []} = process_info(self(), messages).

%% The cases

a_change_of_a_long_name_is_made_once(_) ->
    [
        in_zone(Function, Change, Name, fun(_) -> ok end)
     || {Name, {Function, Change}} <- with_names(of_names())
    ].

%% Functions that only return the name do not hash it.
with_names(Changes) ->
    [{Name, Change} || Name <- long(), Change <- Changes] ++
        [
            {Name, Change}
         || Name <- long_as_key(),
            {Function, _} = Change <- Changes,
            not lists:member(Function, [{change_keeper, 3}, {take_cleanups, 2}, {give_up, 2}])
        ].

a_change_of_a_long_key_or_value_is_made_once(_) ->
    Prepare = fun(Zone) -> true = insert(Zone, name, self(), spec, self()) end,
    [
        in_zone(Function, Change, Key, Prepare)
     || Key <- long() ++ long_as_key(), {Function, Change} <- of_keys()
    ],
    [
        in_zone(Function, Change, Value, Prepare)
     || Value <- long(), {Function, Change} <- of_values()
    ].

in_zone(Function, Change, Term, Prepare) ->
    ?assertEqual([Function], [
        Left
     || Left <- left_in_zone(Change, Term, Prepare), Left =:= Function
    ]).

%% The index has what the attribute has.
a_change_of_an_indexed_attribute_is_made_once(_) ->
    Prepare = fun(Zone) -> true = insert(Zone, name, self(), spec, self()) end,
    Check = fun(Change, Key) ->
        fun(Zone, Term) ->
            Change(Zone, Term),
            [{_, Value}] = attrs(Zone, name),
            {[{name, _}], done} = proctab_nif:lookup(Zone, Key, Value, 0, children, []),
            [{Value, 1}] = gen_tracker:values(Zone, Key)
        end
    end,
    [
        ?assert(lists:member(Function, left_in_zone([Key], Check(Change, Key), Key, Prepare)))
     || Key <- long() ++ long_as_key(), {Function, Change} <- of_keys()
    ],
    [
        ?assert(lists:member(Function, left_in_zone([key], Check(Change, key), Value, Prepare)))
     || Value <- long() ++ long_as_key(),
        {Function, Change} <- of_values(),
        not lists:member(Function, [{insert, 5}, {launch, 4}, {zone_open, 2}, {zone_open, 4}])
    ].

%% The index hashes the values of a child when it begins to run.
a_child_with_long_indexed_values_begins_to_run_once(_) ->
    Prepare = fun(Value) ->
        Launched = launched(fun(Zone, Name) -> ok = setattr(Zone, Name, [{key, Value}]) end),
        fun(Zone) -> Launched(Zone, name) end
    end,
    Change = fun(Zone, _) -> true = running(Zone, name, self()) end,
    [
        ?assert(lists:member({running, 3}, left_in_zone([key], Change, Value, Prepare(Value))))
     || Value <- [hd(long()), hd(long_as_key())]
    ].

left_in_zone(Change, Term, Prepare) ->
    left_in_zone([], Change, Term, Prepare).

left_in_zone(Keys, Change, Term, Prepare) ->
    Zone = ?MODULE,
    scheduling:left(fun() ->
        _ = proctab_nif:zone_open(Zone, shared, Keys, infinity),
        Prepare(Zone),
        Change(Zone, Term),
        ok = proctab_nif:zone_close(Zone)
    end).

%% The copies of name and reason for the subscriber cost, too.
a_change_with_an_event_is_made_once_and_sends_one_event(_) ->
    Changes = [
        {{insert, 5}, fun(Zone, Name) ->
            Secret = listen(Zone),
            true = insert(Zone, Name, self(), spec, self()),
            [{up, Name, _}] = events(Secret)
        end},
        {{running, 3}, launched(fun(Zone, Name) ->
            Secret = listen(Zone),
            true = running(Zone, Name, self()),
            [{up, Name, _}] = events(Secret)
        end)},
        {{terminating, 3}, opened(fun(Zone, Name) ->
            Secret = listen(Zone),
            true = terminating(Zone, Name, Name),
            [{down, Name, _, Name}] = events(Secret)
        end)},
        {{unregister_name, 4}, opened(fun(Zone, Name) ->
            Secret = listen(Zone),
            true = unregister_name(Zone, Name, self(), Name),
            [{down, Name, _, Name}] = events(Secret)
        end)},
        {{hand_over, 5}, opened(fun(Zone, Name) ->
            Secret = listen(Zone),
            {Self, Other} = {self(), list_to_pid("<0.1.0>")},
            true = hand_over(Zone, Name, Self, Self, Other),
            [{down, Name, Self, re_registered}, {up, Name, Other}] = events(Secret)
        end)}
    ],
    [
        in_zone(Function, Change, Name, fun(_) -> ok end)
     || Name <- long(), {Function, Change} <- Changes
    ],
    %% The same with a long reason alone.
    Prepare = fun(Zone) -> true = insert(Zone, name, self(), spec, self()) end,
    Ends = [
        {{terminating, 3}, fun(Zone, Reason) -> true = terminating(Zone, name, Reason) end},
        {
            {unregister_name, 4},
            fun(Zone, Reason) -> true = unregister_name(Zone, name, self(), Reason) end
        }
    ],
    Told = fun(End) ->
        fun(Zone, Reason) ->
            Secret = listen(Zone),
            End(Zone, Reason),
            [{down, name, _, Reason}] = events(Secret)
        end
    end,
    [in_zone(Function, Told(End), Reason, Prepare) || Reason <- long(), {Function, End} <- Ends],
    %% Without a subscriber, the reason is not converted.
    [stays(Function, End, Reason, Prepare) || Reason <- long(), {Function, End} <- Ends].

stays(Function, Change, Term, Prepare) ->
    ?assertEqual([], [Left || Left <- left_in_zone(Change, Term, Prepare), Left =:= Function]).

a_reason_that_is_too_large_is_an_atom_in_the_event(_) ->
    Zone = ?FUNCTION_NAME,
    _ = proctab_nif:zone_open(Zone, shared),
    Secret = listen(Zone),
    Huge = lists:foldl(fun(_, Part) -> [Part | Part] end, [], lists:seq(1, 28)),
    true = insert(Zone, name, self(), spec, self()),
    true = terminating(Zone, name, {shutdown, Huge}),
    true = proctab_nif:restarting(Zone, name),
    true = running(Zone, name, self()),
    true = unregister_name(Zone, name, self(), Huge),
    [{up, name, _}, {down, name, _, large}, {up, name, _}, {down, name, _, large}] = events(Secret).

events(Secret) ->
    receive
        {Secret, Event} -> [Event | events(Secret)];
        '$proctab_detached' -> events(Secret)
    after 0 -> []
    end.

%% A new attribute wakes all waiters, exactly once.
a_change_among_many_waiters_is_made_once(_) ->
    Changes = [
        {{setattr, 3}, fun(Zone) -> ok = setattr(Zone, name, [{key, 1}]) end},
        {{setattr, 4}, fun(Zone) -> ok = setattr(Zone, name, key, 1) end},
        {{set_missing, 4}, fun(Zone) -> true = set_missing(Zone, name, key, 1) end},
        {{increment, 5}, fun(Zone) -> 1 = increment(Zone, name, key, 1, 1) end}
    ],
    Births = [
        {{insert, 5}, fun(Zone) -> true = insert(Zone, name, self(), spec, self()) end},
        {{running, 3}, fun(Zone) ->
            true = insert(Zone, name, self(), spec, launching),
            true = running(Zone, name, self())
        end}
    ],
    [
        in_zone(Function, fun woken_once/2, Change, fun(_) -> ok end)
     || {Function, Change} <- Changes
    ],
    [
        in_zone(Function, fun told_once/2, Birth, fun(_) -> ok end)
     || {Function, Birth} <- Births
    ].

a_new_attribute_wakes_only_the_waiters_for_it(_) ->
    Zone = ?FUNCTION_NAME,
    Handle = proctab_nif:zone_open(Zone, shared, [], infinity),
    true = insert(Zone, name, self(), spec, self()),
    Waits = [wait_for(Zone, Name, Key) || Name <- [name, other], Key <- [key, another, 1, 1.0]],
    [{_, First, _}, _, {_, Integer, _} | _] = Waits,
    Woken = fun() ->
        {messages, Messages} = process_info(self(), messages),
        ok = messages:flush(),
        [Id || {'$proctab_woken', Id} <- Messages]
    end,
    ok = setattr(Zone, name, key, 1),
    ?assertEqual([First], Woken()),
    ok = setattr(Zone, name, [{key, 2}, {1, 1}, {third, 1}]),
    ?assertEqual([Integer], Woken()),
    6 = waiting(Zone),
    [_, Other | _] = [Waiter || {Waiter, _, _} <- Waits],
    true = stop_waiting(Other),
    false = stop_waiting(Other),
    5 = waiting(Zone),
    ok = proctab_nif:zone_close(Handle).

%% A running child wakes all who wait for it.
told_once(Zone, Birth) ->
    Waits = [wait_for_child(Zone, name) || _ <- lists:seq(1, 2000)],
    Birth(Zone),
    {messages, Messages} = process_info(self(), messages),
    ?assertEqual([Id || {_, Id, _} <- Waits], [Id || {'$proctab_woken', Id} <- Messages]),
    0 = waiting(Zone).

woken_once(Zone, Change) ->
    true = insert(Zone, name, self(), spec, self()),
    Waits = [wait_for(Zone, name, key) || _ <- lists:seq(1, 2000)],
    Change(Zone),
    {messages, Messages} = process_info(self(), messages),
    ?assertEqual([Id || {_, Id, _} <- Waits], [Id || {'$proctab_woken', Id} <- Messages]),
    0 = waiting(Zone),
    [{key, 1}] = attrs(Zone, name).

a_registration_of_a_long_name_is_made_once(_) ->
    Table = ?FUNCTION_NAME,
    [
        leaves(Function, fun() ->
            ok = proctab_nif:processes_open(Table, self()),
            {Pid, _} = spawn_monitor(fun() ->
                receive
                    stop -> ok
                end
            end),
            Change(Table, Pid, Name),
            Pid ! stop,
            ok = proctab_nif:processes_close(Table)
        end)
     || {Name, {Function, Change}} <- with_names(of_registrations())
    ].

%% The result is long.
a_call_that_changes_nothing_may_still_be_rescheduled(_) ->
    Current = lists:seq(1, 20000),
    leaves({cas, 5}, fun() ->
        _ = proctab_nif:zone_open(?FUNCTION_NAME, shared),
        true = insert(?FUNCTION_NAME, name, self(), spec, self()),
        ok = setattr(?FUNCTION_NAME, name, key, Current),
        {current, Current} = cas(?FUNCTION_NAME, name, key, 1, 2)
    end).

leaves(Function, Fun) ->
    ?assertEqual([Function], [Left || Left <- scheduling:left(Fun), Left =:= Function]).

%% Terms over the budget of a normal scheduler.
long() ->
    List = lists:seq(1, 5000),
    [
        List,
        lists:foldl(fun(N, Deep) -> {N, Deep} end, [], List),
        lists:foldl(fun(N, Deep) -> [Deep, N] end, {}, List),
        maps:from_list([{N, {N}} || N <- List]),
        [make_ref() || _ <- List]
    ].

%% Terms over this budget only when they are hashed.
long_as_key() ->
    [binary:copy(<<"name">>, 50000), <<1:3>>].
