%% Promise: the caller of `find_or_open` starts a child without the tracker, in a keeper that is
%% like one that the tracker starts. No start is lost or hangs when the caller, its keeper or both
%% are killed meanwhile.
-module(opening_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zone_hook, [zone/1]).
-import(callers, [answer/1, ask/1, waiting/0]).
-import(messages, [await/1, taken/1]).
-import(tracked_child, [full/1, gated/2, kill/1, plain/1, spec/4]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        a_child_is_opened_while_the_tracker_is_suspended,
        a_caller_passes_over_the_messages_that_it_has,
        a_start_that_fails_is_answered_while_the_tracker_is_suspended,
        many_callers_open_one_name_once,
        a_keeper_is_like_one_that_the_tracker_starts,
        the_caller_passes_nothing_of_itself_on,
        no_start_begins_once_the_zone_stops,
        a_start_goes_on_when_its_caller_is_killed,
        a_keeper_that_is_killed_while_it_starts_fails_the_start,
        an_unlinked_keeper_that_is_killed_is_replaced,
        a_keeper_that_gets_no_processor_is_waited_for,
        a_waiting_caller_is_answered_when_the_child_is_terminated,
        a_caller_that_comes_after_a_death_does_not_get_the_dead_child,
        a_child_that_takes_long_to_exit_does_not_hold_up_the_tracker,
        keepers_that_lost_the_name_leave_nothing
    ].

a_child_is_opened_while_the_tracker_is_suspended(Config) ->
    Zone = zone(Config),
    ok = sys:suspend(Zone),
    {ok, Pid} = gen_tracker:find_or_open(Zone, plain(name)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
    ok = gen_tracker:setattr(Zone, name, key, value),
    ok = sys:resume(Zone),
    ?assertEqual([{name, Pid, worker, []}], supervisor:which_children(Zone)).

%% The VM does so in functions that are compiled with a marker.
a_caller_passes_over_the_messages_that_it_has(_) ->
    [
        begin
            File = code:where_is_file(atom_to_list(Module) ++ ".beam"),
            {beam_file, Module, _, _, _, Functions} = beam_disasm:file(File),
            [Await] = [Code || {function, await, _, _, Code} <- Functions],
            ?assertMatch([_ | _], [Marker || {recv_marker_use, _} = Marker <- Await], Module)
        end
     || Module <- [gen_tracker_opening, gen_tracker_registrar]
    ].

a_start_that_fails_is_answered_while_the_tracker_is_suspended(Config) ->
    Zone = zone(Config),
    ok = sys:suspend(Zone),
    Failing = {name, {erlang, hd, [[{error, no}]]}, temporary},
    ?assertEqual({error, no}, gen_tracker:find_or_open(Zone, Failing)),
    ?assertEqual(ignore, gen_tracker:find_or_open(Zone, tracked_child:ignoring(name))),
    ?assertEqual(0, gen_tracker:count(Zone)),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(name)),
    ok = sys:resume(Zone).

many_callers_open_one_name_once(Config) ->
    Zone = zone(Config),
    [
        begin
            Open = fun() -> gen_tracker:find_or_open(Zone, plain(name)) end,
            Answers = callers:together(lists:duplicate(20, Open)),
            {ok, Pid} = gen_tracker:find(Zone, name),
            ?assertEqual([{ok, Pid}], lists:usort(Answers)),
            ok = supervisor:terminate_child(Zone, name)
        end
     || _ <- lists:seq(1, 100)
    ],
    ?assertEqual([], taken('EXIT')).

a_keeper_is_like_one_that_the_tracker_starts(Config) ->
    Zone = zone(Config),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(opened)),
    {ok, _} = supervisor:start_child(Zone, full(started)),
    [Opened, Started] = [keeper(Zone, Name) || Name <- [opened, started]],
    Items = [group_leader, links, monitors, trap_exit, priority, registered_name],
    [
        ?assertEqual({Item, shape(Item, Started)}, {Item, shape(Item, Opened)})
     || Item <- Items
    ],
    Keys = ['$ancestors', '$initial_call', '$callers'],
    Values = fun(Keeper) -> [in_dictionary(Key, Keeper) || Key <- Keys] end,
    ?assertEqual(Values(Started), Values(Opened)),
    ?assertEqual(
        proc_lib:translate_initial_call(Started), proc_lib:translate_initial_call(Opened)
    ).

keeper(Zone, Name) ->
    {running, _, Keeper, _} = proctab_nif:child(Zone, Name),
    Keeper.

%% Each keeper has links and monitors of the same number, with another child.
shape(Item, Keeper) when Item =:= links; Item =:= monitors ->
    {Item, Pids} = process_info(Keeper, Item),
    length(Pids);
shape(Item, Keeper) ->
    process_info(Keeper, Item).

in_dictionary(Key, Pid) ->
    {dictionary, Dictionary} = process_info(Pid, dictionary),
    proplists:get_value(Key, Dictionary).

the_caller_passes_nothing_of_itself_on(Config) ->
    Zone = zone(Config),
    Test = self(),
    Seen = fun() ->
        Test ! {seen, group_leader(), get(), seq_trace:get_token(), process_info(self(), priority)},
        tracked_child:start_link(Test)
    end,
    Open = fun() ->
        true = group_leader(Test, self()),
        _ = put('$callers', [Test]),
        _ = put(own, value),
        _ = process_flag(priority, low),
        _ = seq_trace:set_token(label, 17),
        gen_tracker:find_or_open(Zone, scripted_child:spec(name, temporary, Seen))
    end,
    {answer, {ok, _}} = answer(ask(Open)),
    {seen, Leader, Dictionary, Token, Priority} = await(seen),
    ?assertEqual(process_info(whereis(Zone), group_leader), {group_leader, Leader}),
    %% On OTP 27 the keeper has a label.
    Keys = lists:sort([Key || {Key, _} <- Dictionary]) -- ['$process_label'],
    ?assertEqual(['$ancestors', '$initial_call'], Keys),
    ?assertEqual({[], {priority, normal}}, {Token, Priority}).

%% A keeper that claims the name after the zone was marked, as if it had been delayed.
no_start_begins_once_the_zone_stops(Config) ->
    Zone = zone(Config),
    {free, Handle, Tracker} = proctab_nif:opening(Zone, name, spec, undefined),
    Stubborn = tracked_child:stubborn(Zone),
    Stopping = ask(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    _ = await(exit_signal),
    ?assertEqual({error, shutdown}, gen_tracker:find_or_open(Zone, plain(name))),
    {name, Spec, _} = plain(name),
    {ok, name, Checked} = gen_tracker_spec:check({name, Spec, temporary}),
    Alias = alias(),
    {Keeper, Monitor} = gen_tracker_keeper:open(Handle, Tracker, name, Checked, launching, Alias),
    {Alias, Monitor, process, Keeper, shutdown} = await(Alias),
    Stubborn ! {stop, normal},
    {answer, ok} = answer(Stopping),
    {Late, LateMonitor} = gen_tracker_keeper:open(Handle, Tracker, name, Checked, launching, Alias),
    {Alias, LateMonitor, process, Late, shutdown} = await(Alias),
    ?assertEqual([Stubborn], [Pid || {started, Pid} <- taken(started)] ++ [Stubborn]).

a_start_goes_on_when_its_caller_is_killed(Config) ->
    Zone = zone(Config),
    Test = self(),
    Gated = spec(name, temporary, 200, {start_gated, [Test, go]}),
    [
        begin
            {Caller, _} = spawn_monitor(fun() -> gen_tracker:find_or_open(Zone, Gated) end),
            {gated, Keeper} = await(gated),
            When =:= later andalso waiting(),
            _ = kill(Caller),
            Waiting = ask(fun() -> gen_tracker:find_or_open(Zone, Gated) end),
            waiting(),
            ok = gen_tracker:wait(Zone),
            Keeper ! go,
            {started, Pid} = await(started),
            ?assertEqual({answer, {ok, Pid}}, answer(Waiting)),
            ok = supervisor:terminate_child(Zone, name)
        end
     || When <- [soon, later]
    ].

a_keeper_that_is_killed_while_it_starts_fails_the_start(Config) ->
    Zone = zone(Config),
    [
        begin
            {Asked, Keeper} = gated(Zone, name),
            When =:= later andalso waiting(),
            _ = kill(Keeper),
            ?assertEqual({answer, {error, killed}}, answer(Asked)),
            ?assertEqual(undefined, proctab_nif:child(Zone, name))
        end
     || When <- [soon, later]
    ].

%% Only the callers know that this keeper is dead; or none, if its caller is dead as well.
an_unlinked_keeper_that_is_killed_is_replaced(Config) ->
    Zone = zone(Config),
    Test = self(),
    Start = fun() ->
        {links, Links} = process_info(self(), links),
        lists:foreach(fun unlink/1, Links),
        Test ! {gated, self()},
        receive
            go -> tracked_child:start_link(Test)
        end
    end,
    Spec = scripted_child:spec(name, temporary, Start),
    {Caller, _} = spawn_monitor(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
    {gated, Keeper} = await(gated),
    _ = kill(Caller),
    _ = kill(Keeper),
    %% The tracker monitors a keeper only when it is asked for it, and so does not learn the reason.
    ?assertEqual({error, noproc}, gen_tracker:find_or_open(Zone, plain(name))),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(name)),
    Asked = ask(fun() -> gen_tracker:find_or_open(Zone, setelement(1, Spec, other)) end),
    {gated, Other} = await(gated),
    _ = kill(Other),
    ?assertMatch({answer, {error, _}}, answer(Asked)),
    ?assertEqual([name], gen_tracker:names(Zone)).

%% Only processes of high priority run until the caller has asked the tracker twice for its keeper,
%% which has not claimed the name yet.
a_keeper_that_gets_no_processor_is_waited_for(Config) ->
    Zone = zone(Config),
    _ = sys:replace_state(Zone, fun(State) -> raised(State) end),
    Online = erlang:system_flag(schedulers_online, 1),
    Busy = spawn_link(fun() ->
        1 = erlang:trace(whereis(Zone), true, ['receive']),
        receive
            busy -> raised(ok)
        end,
        busy_until_joined(2)
    end),
    try
        Asked = ask(fun() ->
            raised(Busy ! busy),
            gen_tracker:find_or_open(Zone, plain(name))
        end),
        {answer, {ok, Pid}} = answer(Asked),
        ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name))
    after
        erlang:system_flag(schedulers_online, Online)
    end,
    ?assertNot(is_process_alive(Busy)).

raised(Result) ->
    _ = process_flag(priority, high),
    Result.

busy_until_joined(0) ->
    ok;
busy_until_joined(Times) ->
    receive
        {trace, _, 'receive', {'$gen_call', _, {join, name, _, _}}} ->
            busy_until_joined(Times - 1)
    after 0 -> busy_until_joined(Times)
    end.

a_waiting_caller_is_answered_when_the_child_is_terminated(Config) ->
    Zone = zone(Config),
    [
        begin
            {Asked, _} = gated(Zone, name),
            When =:= later andalso waiting(),
            ok = supervisor:terminate_child(Zone, name),
            ?assertEqual({answer, {error, killed}}, answer(Asked))
        end
     || When <- [soon, later]
    ].

keepers_that_lost_the_name_leave_nothing(Config) ->
    Zone = zone(Config),
    {free, Handle, Tracker} = proctab_nif:opening(Zone, name, spec, undefined),
    {ok, Pid} = gen_tracker:find_or_open(Zone, plain(name)),
    {name, MFA, temporary} = plain(name),
    {ok, name, Spec} = gen_tracker_spec:check({name, MFA, temporary}),
    Alias = alias([reply]),
    {Keeper, Monitor} = gen_tracker_keeper:open(Handle, Tracker, name, Spec, launching, Alias),
    {Alias, held} = await(Alias),
    {Alias, Monitor, process, Keeper, normal} = await(Alias),
    ok = gen_tracker:wait(Zone),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
    ?assertEqual([{name, Pid}], gen_tracker:fold(fun(N, P, L) -> [{N, P} | L] end, [], Zone)).

%% The tracker reads the caller's request, and finds that the child has ended, before it reads what
%% the keeper told of that child's start. So it is when the caller has ended the child that it had
%% found just before.
a_caller_that_comes_after_a_death_does_not_get_the_dead_child(Config) ->
    Zone = zone(Config),
    Spec = spec(name, permanent, 200, {start_gated, [self(), go]}),
    Opening = ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
    {gated, Keeper} = await(gated),
    Keeper ! go,
    {answer, {ok, First}} = answer(Opening),
    {started, First} = await(started),
    _ = kill(First),
    {gated, Keeper} = await(gated),
    Tracker = whereis(Zone),
    true = erlang:suspend_process(Tracker),
    Late = ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
    queued(Tracker, 1),
    Keeper ! go,
    {started, Second} = await(started),
    queued(Tracker, 2),
    _ = kill(Second),
    {gated, Keeper} = await(gated),
    true = erlang:resume_process(Tracker),
    queued(Tracker, 0),
    Keeper ! go,
    {started, Third} = await(started),
    ?assertEqual({answer, {ok, Third}}, answer(Late)).

%% The VM frees the tables of a process before it sends the signals of its end.
a_child_that_takes_long_to_exit_does_not_hold_up_the_tracker(Config) ->
    Zone = zone(Config),
    {ok, Child} = gen_tracker:find_or_open(Zone, plain(name)),
    Child ! {run, self(), fun() -> table(3000000) end},
    %% On a busy machine, that takes over ten seconds.
    receive
        {ran, Child, true} -> ok
    end,
    exit(Child, kill),
    wait:until(fun() -> not proctab_nif:may_be_alive(Child) end),
    Asked = ask(fun() -> gen_tracker:find_or_open(Zone, plain(name)) end),
    waiting(),
    ok = gen_tracker:wait(Zone),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, name)),
    {answer, {ok, Next}} = answer(Asked),
    ?assertNotEqual(Child, Next).

table(Size) ->
    Table = ets:new(large, []),
    true = lists:all(fun(Key) -> ets:insert(Table, {Key}) end, lists:seq(1, Size)).

%% Waits until so many messages are in the mailbox of a process.
queued(Pid, Count) ->
    wait:until(fun() ->
        process_info(Pid, message_queue_len) =:= {message_queue_len, Count}
    end).
