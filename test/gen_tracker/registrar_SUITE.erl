%% Promise: registered processes need no keeper of their own. A few registrars watch them, and the
%% reason of each death is told. A registrar that was killed at any point is replaced, and nothing
%% is lost by that.
-module(registrar_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [answer/1, ask/1]).
-import(gen_tracker, [register_name/2, unregister_name/1, find/2]).
-import(tracked_child, [loose/1, plain/1]).
-import(zone_hook, [zone/1]).

-define(NAME, <<"registered">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        few_processes_watch_many,
        a_registration_sends_nothing_to_the_tracker,
        an_added_process_without_a_start_function_has_no_keeper,
        a_process_has_many_names,
        a_process_that_is_registered_and_dies_is_told_with_its_reason,
        each_death_of_a_storm_is_told_with_its_reason,
        a_registrar_that_is_killed_is_replaced,
        a_death_before_the_adoption_is_noticed,
        a_registration_while_the_registrar_is_replaced_succeeds,
        a_caller_whose_registrar_dies_is_answered,
        a_registrar_waits_for_a_registration_that_it_has_not_been_told_of,
        a_registered_child_is_ended_by_the_zone,
        a_child_is_ended_whose_registrar_dies_meanwhile,
        a_child_is_ended_whose_next_keeper_dies_meanwhile,
        a_child_that_leaves_meanwhile_is_not_ended,
        a_keeper_that_is_dead_gets_no_row,
        a_registrar_that_is_killed_at_its_start_delays_no_caller,
        a_keeper_is_told_to_take_over_when_two_registrars_are_killed,
        a_registrar_ends_a_child_for_each_who_asks,
        a_start_waits_for_the_end_of_a_registered_process,
        a_keeper_that_takes_over_tells_the_reason,
        a_reason_that_comes_before_the_keeper_monitors_is_told,
        a_keeper_waits_for_no_reason_of_a_registrar_that_does_not_monitor_its_child,
        unregistering_leaves_no_monitor,
        registered_processes_are_told_to_stop_all_at_once,
        registered_processes_stop_when_registrars_and_tracker_are_killed,
        messages_of_strangers_change_nothing,
        the_processes_of_a_zone_cannot_be_registered,
        a_registration_that_comes_with_the_stop_is_ended_or_refused
    ].

%% A keeper waits for the reason if its own monitor came too late. Here it is a process that passes
%% its messages on.
a_keeper_waits_for_no_reason_of_a_registrar_that_does_not_monitor_its_child(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, ?NAME),
    {running, Pid, Registrar, _} = proctab_nif:child(Zone, ?NAME),
    Tag = tracker_state:tag(Zone),
    Test = self(),
    Keeper = spawn(fun() -> pass_on(Test) end),
    ok = gen_tracker_registrar:give(Registrar, Tag, {?NAME, Pid}, Keeper),
    ?assertEqual({Tag, take_over, Registrar}, messages:await(Tag)),
    %% As the next registrar is told if this one was killed before it could tell the keeper.
    ok = gen_tracker_registrar:give(Registrar, Tag, {?NAME, Pid}, Keeper),
    ?assertEqual({Tag, take_over, undefined}, messages:await(Tag)),
    _ = unregister_name({Zone, ?NAME}),
    ?assertEqual({Tag, died, Pid, noproc}, messages:await(Tag)).

pass_on(Test) ->
    receive
        Message -> Test ! Message
    end,
    pass_on(Test).

registrars(Zone) ->
    lists:sort(proctab_nif:registrars(Zone)).

registered(Zone, Name) ->
    Pid = loose(start_link),
    yes = register_name({Zone, Name}, Pid),
    Pid.

next(Zone) ->
    receive
        {gen_tracker, Zone, Event} -> Event
    after 10000 -> error(no_event)
    end.

%% Waits until the registrars are others than these.
replaced(Zone, Before) ->
    wait:until(fun() ->
        Now = registrars(Zone),
        length(Now) =:= length(Before) andalso Now -- Before =:= Now
    end).

few_processes_watch_many(Config) ->
    Zone = zone(Config),
    Pids = [registered(Zone, Name) || Name <- lists:seq(1, 200)],
    Registrars = registrars(Zone),
    ?assert(length(Registrars) =< 8),
    ?assertEqual(Registrars, lists:usort([zones:keeper(Zone, N) || N <- lists:seq(1, 200)])),
    [?assertEqual({ok, Pid}, find(Zone, Name)) || {Name, Pid} <- lists:enumerate(Pids)],
    %% The watchdog is the only other process.
    ?assertEqual(1, length(zones:beside(Zone) -- Registrars)),
    lists:foreach(fun tracked_child:kill/1, Pids),
    wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end).

a_registration_sends_nothing_to_the_tracker(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, first),
    ok = sys:suspend(Zone),
    yes = register_name({Zone, second}, Pid),
    {ok, Pid} = gen_tracker:add_existing_child(Zone, {third, Pid, worker, []}),
    ok = unregister_name({Zone, second}),
    yes = register_name({Zone, second}, Pid),
    ok = sys:resume(Zone).

an_added_process_without_a_start_function_has_no_keeper(Config) ->
    Zone = zone(Config),
    Pid = loose(start_link),
    {ok, Pid} = gen_tracker:add_existing_child(Zone, {?NAME, Pid, worker, [mods]}),
    ?assertEqual(registrars(Zone), [zones:keeper(Zone, ?NAME)]),
    ?assertEqual([{?NAME, Pid, worker, [mods]}], gen_tracker:which_children(Zone)).

a_process_has_many_names(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, 1),
    [yes = register_name({Zone, Name}, Pid) || Name <- lists:seq(2, 100)],
    ok = unregister_name({Zone, 50}),
    {ok, _} = gen_tracker:subscribe(Zone),
    boom = tracked_child:stop(Pid, boom),
    Down = [next(Zone) || _ <- lists:seq(1, 99)],
    Expected = [{down, Name, Pid, boom} || Name <- lists:seq(1, 100), Name =/= 50],
    ?assertEqual(Expected, lists:sort(Down)),
    wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end).

%% It dies as soon as it is registered.
a_process_that_is_registered_and_dies_is_told_with_its_reason(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    [
        begin
            Pid = spawn(fun() ->
                yes = register_name({Zone, ?NAME}, self()),
                exit({shutdown, Number})
            end),
            ?assertEqual({up, ?NAME, Pid}, next(Zone)),
            ?assertEqual({down, ?NAME, Pid, {shutdown, Number}}, next(Zone))
        end
     || Number <- lists:seq(1, 300)
    ].

each_death_of_a_storm_is_told_with_its_reason(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    Pids = [
        spawn(fun() ->
            yes = register_name({Zone, Number}, self()),
            receive
                go -> exit({shutdown, Number})
            end
        end)
     || Number <- lists:seq(1, 2000)
    ],
    [{up, _, _} = next(Zone) || _ <- Pids],
    [Pid ! go || Pid <- Pids],
    Down = [next(Zone) || _ <- Pids],
    Expected = [{down, Number, Pid, {shutdown, Number}} || {Number, Pid} <- lists:enumerate(Pids)],
    ?assertEqual(Expected, lists:sort(Down)).

a_registrar_that_is_killed_is_replaced(Config) ->
    Zone = zone(Config),
    Pids = [registered(Zone, Name) || Name <- lists:seq(1, 100)],
    [
        begin
            Before = registrars(Zone),
            [exit(Registrar, kill) || Registrar <- Before],
            replaced(Zone, Before),
            wait:until(fun() ->
                Keepers = lists:usort([zones:keeper(Zone, Name) || Name <- lists:seq(1, 100)]),
                Keepers =:= registrars(Zone)
            end)
        end
     || _ <- lists:seq(1, 5)
    ],
    %% Each process is monitored once.
    wait:until(fun() ->
        lists:all(
            fun({Name, Pid}) ->
                process_info(Pid, monitored_by) =:= {monitored_by, [zones:keeper(Zone, Name)]}
            end,
            lists:enumerate(Pids)
        )
    end),
    {ok, _} = gen_tracker:subscribe(Zone),
    [boom = tracked_child:stop(Pid, boom) || Pid <- Pids],
    Down = [next(Zone) || _ <- Pids],
    Expected = [{down, Name, Pid, boom} || {Name, Pid} <- lists:enumerate(Pids)],
    ?assertEqual(Expected, lists:sort(Down)),
    ?assertEqual(0, gen_tracker:count(Zone)).

%% The tracker starts the next registrar after the process has died.
a_death_before_the_adoption_is_noticed(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, ?NAME),
    {ok, _} = gen_tracker:subscribe(Zone),
    ok = sys:suspend(Zone),
    _ = tracked_child:kill(zones:keeper(Zone, ?NAME)),
    _ = tracked_child:kill(Pid),
    ok = sys:resume(Zone),
    ?assertMatch({down, ?NAME, Pid, _}, next(Zone)),
    _ = registered(Zone, ?NAME).

a_registration_while_the_registrar_is_replaced_succeeds(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, first),
    [
        begin
            _ = exit(zones:keeper(Zone, first), kill),
            yes = register_name({Zone, {second, Round}}, Pid),
            {ok, Pid} = find(Zone, {second, Round}),
            ok = unregister_name({Zone, {second, Round}}),
            undefined = find(Zone, {second, Round})
        end
     || Round <- lists:seq(1, 100)
    ],
    tracked_child:kill(Pid),
    wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end).

%% The process has its name, and the registrar is killed before it has answered.
a_caller_whose_registrar_dies_is_answered(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, first),
    Registrar = zones:keeper(Zone, first),
    true = erlang:suspend_process(Registrar),
    Asked = ask(fun() -> register_name({Zone, second}, Pid) end),
    wait:until(fun() -> find(Zone, second) =:= {ok, Pid} end),
    exit(Registrar, kill),
    ?assertEqual({answer, yes}, answer(Asked)),
    wait:until(fun() -> zones:keeper(Zone, second) =/= Registrar end),
    tracked_child:kill(Pid),
    wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end).

%% The request of another process overtakes the message of the table.
a_registrar_waits_for_a_registration_that_it_has_not_been_told_of(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, first),
    {ok, _} = gen_tracker:subscribe(Zone),
    Registrar = zones:keeper(Zone, first),
    true = erlang:suspend_process(Registrar),
    %% It is first in the mailbox.
    Asked = ask(fun() -> gen_tracker_registrar:unregister(Registrar, ?NAME, Pid) end),
    callers:waiting(),
    Registering = ask(fun() -> register_name({Zone, ?NAME}, Pid) end),
    ?assertEqual({up, ?NAME, Pid}, next(Zone)),
    true = erlang:resume_process(Registrar),
    ?assertEqual({answer, yes}, answer(Registering)),
    ?assertEqual({answer, ok}, answer(Asked)),
    ?assertEqual({down, ?NAME, Pid, unregistered}, next(Zone)).

a_registered_child_is_ended_by_the_zone(Config) ->
    Zone = zone(Config),
    [
        begin
            Pid = registered(Zone, ?NAME),
            Monitor = monitor(process, Pid),
            ok = supervisor:End(Zone, ?NAME),
            receive
                {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(shutdown, Reason)
            after 0 -> error(lives_on)
            end,
            ?assertEqual(undefined, find(Zone, ?NAME))
        end
     || End <- [terminate_child, delete_child]
    ].

a_child_is_ended_whose_registrar_dies_meanwhile(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, ?NAME),
    Registrar = zones:keeper(Zone, ?NAME),
    true = erlang:suspend_process(Registrar),
    Asked = ask(fun() -> supervisor:terminate_child(Zone, ?NAME) end),
    ok = gen_tracker:wait(Zone),
    exit(Registrar, kill),
    ?assertEqual({answer, ok}, answer(Asked)),
    ?assertEqual(false, is_process_alive(Pid)).

%% The keeper that the tracker has started for a row is killed before it gets the row.
a_child_is_ended_whose_next_keeper_dies_meanwhile(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, ?NAME),
    Registrar = zones:keeper(Zone, ?NAME),
    Before = zones:beside(Zone),
    true = erlang:suspend_process(Registrar),
    Asked = ask(fun() -> supervisor:terminate_child(Zone, ?NAME) end),
    _ = tracked_child:kill(next_keeper(Zone, Before)),
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Registrar),
    ?assertEqual({answer, ok}, answer(Asked)),
    ?assertEqual(false, is_process_alive(Pid)),
    ?assertEqual(undefined, find(Zone, ?NAME)).

%% The child is unregistered, and lives on, before it has its next keeper: another child of that
%% name is to be ended, if there is one.
a_child_that_leaves_meanwhile_is_not_ended(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, ?NAME),
    Registrar = zones:keeper(Zone, ?NAME),
    true = erlang:suspend_process(Registrar),
    Unregistering = ask(fun() -> unregister_name({Zone, ?NAME}) end),
    callers:waiting(),
    Asked = ask(fun() -> supervisor:terminate_child(Zone, ?NAME) end),
    callers:waiting(),
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Registrar),
    ?assertEqual({answer, ok}, answer(Unregistering)),
    ?assertEqual({answer, {error, no_child}}, answer(Asked)),
    ?assert(is_process_alive(Pid)).

%% A start function looks up an attribute of the registered process, and so has the tracker start a
%% keeper for it.
a_keeper_that_is_dead_gets_no_row(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, ?NAME),
    Registrar = zones:keeper(Zone, ?NAME),
    Look = fun() ->
        _ = gen_tracker:getattr(Zone, ?NAME, missing, infinity),
        ignore
    end,
    Before = zones:beside(Zone),
    true = erlang:suspend_process(Registrar),
    Looking = ask(fun() ->
        gen_tracker:find_or_open(Zone, {looking, {erlang, apply, [Look, []]}, temporary})
    end),
    wait:until(fun() -> zones:beside(Zone) -- Before =/= [] end),
    wait:until(fun() -> length(zones:beside(Zone) -- Before) =:= 2 end),
    Keepers = (zones:beside(Zone) -- Before) -- [zones:keeper(Zone, looking)],
    [_] = [tracked_child:kill(Keeper) || Keeper <- Keepers],
    ok = supervisor:terminate_child(Zone, looking),
    {answer, _} = answer(Looking),
    true = erlang:resume_process(Registrar),
    tracked_child:kill(Pid),
    wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end).

%% Returns the keeper that the tracker has started, beside these processes.
next_keeper(Zone, Before) ->
    wait:until(fun() -> zones:beside(Zone) -- Before =/= [] end),
    [Keeper] = zones:beside(Zone) -- Before,
    Keeper.

%% A process that is the tracker of a table kills each registrar before that has answered.
a_registrar_that_is_killed_at_its_start_delays_no_caller(_) ->
    as_tracker(fun(None) -> [start_and_kill(None) || _ <- lists:seq(1, 50)] end).

%% Calls a fun in a process that is the tracker of a table, with its empty set of registrars.
as_tracker(Fun) ->
    callers:apart(fun() ->
        process_flag(trap_exit, true),
        Context = #{tracker => self(), tag => make_ref(), zone => ?MODULE, reports => false},
        Handle = proctab_nif:zone_open(?MODULE, {Context, group_leader(), []}, [], infinity),
        Fun(gen_tracker_registrars:new(Context, Handle))
    end).

start_and_kill(None) ->
    Reply = make_ref(),
    Started = gen_tracker_registrars:start(0, {self(), Reply}, None),
    First = kill_registrar(),
    Replaced = gen_tracker_registrars:replace(First, Started),
    receive
        {Reply, ok} -> ok
    after 5000 -> error(not_answered)
    end,
    Second = kill_registrar(),
    true = gen_tracker_registrars:is_registrar(Second, Replaced).

kill_registrar() ->
    [Registrar] = registrars(?MODULE),
    exit(Registrar, kill),
    receive
        {'EXIT', Registrar, killed} -> Registrar
    end.

%% The second one is killed after it has adopted the rows of the first, and before it has given one.
a_keeper_is_told_to_take_over_when_two_registrars_are_killed(_) ->
    as_tracker(fun(None) -> [give_and_kill(None) || _ <- lists:seq(1, 50)] end).

give_and_kill(None) ->
    Started = gen_tracker_registrars:start(0, {self(), make_ref()}, None),
    First = kill_registrar(),
    {Keeper, Taking} = gen_tracker_registrars:own_keeper({?NAME, self()}, First, Started),
    Replaced = gen_tracker_registrars:replace(First, Taking),
    Second = kill_registrar(),
    Opened = gen_tracker_registrars:opened(Second, [First], Replaced),
    _ = gen_tracker_registrars:replace(Second, Opened),
    receive
        {'EXIT', Keeper, shutdown} -> ok
    after 5000 -> error(not_told)
    end,
    kill_registrar().

%% As if the VM had no free process for a keeper.
a_registrar_ends_a_child_for_each_who_asks(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    Pid = loose(start_stubborn),
    yes = register_name({Zone, ?NAME}, Pid),
    Tag = tracker_state:tag(Zone),
    Tracker = whereis(Zone),
    1 = erlang:trace(Tracker, true, ['receive']),
    Registrar = zones:keeper(Zone, ?NAME),
    [Registrar ! {Tag, end_child, ?NAME, Pid, From} || From <- [one, two]],
    Ended = fun(From) ->
        receive
            {trace, Tracker, 'receive', {Tag, child_ended, From, Result}} -> Result
        after 10000 -> error(not_ended)
        end
    end,
    ?assertEqual([ok, ok], [Ended(From) || From <- [one, two]]),
    ?assertEqual({up, ?NAME, Pid}, next(Zone)),
    ?assertEqual({down, ?NAME, Pid, killed}, next(Zone)),
    Registrar ! {Tag, end_child, ?NAME, Pid, three},
    ?assertEqual(again, Ended(three)).

a_start_waits_for_the_end_of_a_registered_process(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    Pid = registered(Zone, ?NAME),
    Registrar = zones:keeper(Zone, ?NAME),
    true = erlang:suspend_process(Registrar),
    boom = tracked_child:stop(Pid, boom),
    Asked = ask(fun() -> gen_tracker:find_or_open(Zone, plain(?NAME)) end),
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Registrar),
    {answer, {ok, Child}} = answer(Asked),
    ?assertEqual({up, ?NAME, Pid}, next(Zone)),
    ?assertEqual({down, ?NAME, Pid, boom}, next(Zone)),
    ?assertEqual({up, ?NAME, Child}, next(Zone)).

%% The keeper gets the row before the registrar knows of the death, and monitors a dead process.
a_keeper_that_takes_over_tells_the_reason(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    Pid = registered(Zone, ?NAME),
    Registrar = zones:keeper(Zone, ?NAME),
    true = erlang:suspend_process(Registrar),
    Asked = ask(fun() -> supervisor:terminate_child(Zone, ?NAME) end),
    ok = gen_tracker:wait(Zone),
    boom = tracked_child:stop(Pid, boom),
    true = erlang:resume_process(Registrar),
    ?assertEqual({answer, ok}, answer(Asked)),
    ?assertEqual({up, ?NAME, Pid}, next(Zone)),
    ?assertEqual({down, ?NAME, Pid, boom}, next(Zone)).

a_reason_that_comes_before_the_keeper_monitors_is_told(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    Pid = registered(Zone, ?NAME),
    Next = loose(start_link),
    Registrar = zones:keeper(Zone, ?NAME),
    Before = zones:beside(Zone),
    Keepers = fun() -> zones:beside(Zone) -- (Before ++ registrars(Zone)) end,
    true = erlang:suspend_process(Registrar),
    Asked = ask(fun() -> gen_tracker:re_register_name({Zone, ?NAME}, Next) end),
    wait:until(fun() -> length(Keepers()) =:= 1 end),
    [Keeper] = Keepers(),
    true = erlang:suspend_process(Keeper),
    boom = tracked_child:stop(Pid, boom),
    true = erlang:resume_process(Registrar),
    %% It has sent the reason when it answers.
    again = gen_tracker_registrar:unregister(Registrar, ?NAME, Pid),
    true = erlang:resume_process(Keeper),
    ?assertEqual({answer, yes}, answer(Asked)),
    ?assertEqual({up, ?NAME, Pid}, next(Zone)),
    ?assertEqual({down, ?NAME, Pid, boom}, next(Zone)),
    ?assertEqual({up, ?NAME, Next}, next(Zone)).

unregistering_leaves_no_monitor(Config) ->
    Zone = zone(Config),
    Pid = loose(start_link),
    Other = loose(start_link),
    [
        begin
            yes = register_name({Zone, ?NAME}, Pid),
            Round rem 2 =:= 0 andalso (yes = gen_tracker:re_register_name({Zone, ?NAME}, Other)),
            ok = unregister_name({Zone, ?NAME})
        end
     || Round <- lists:seq(1, 100)
    ],
    [
        wait:until(fun() -> process_info(One, monitored_by) =:= {monitored_by, []} end)
     || One <- [Pid, Other]
    ].

%% Half of them ignore the first signal.
registered_processes_are_told_to_stop_all_at_once(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    Test = self(),
    Pids = [
        spawn(fun() ->
            process_flag(trap_exit, Number rem 2 =:= 0),
            yes = register_name({Zone, Number}, self()),
            Test ! {registered, self()},
            receive
                {'EXIT', _, shutdown} -> Test ! {told, Number}
            end,
            receive
                never -> ok
            end
        end)
     || Number <- lists:seq(1, 200)
    ],
    [{up, _, _} = next(Zone) || _ <- Pids],
    [
        receive
            {registered, Pid} -> ok
        end
     || Pid <- Pids
    ],
    ok = gen_server:call(Zone, shutdown),
    ?assertEqual([], [Pid || Pid <- Pids, is_process_alive(Pid)]),
    Down = lists:sort([next(Zone) || _ <- Pids]),
    Reason = fun
        (Number) when Number rem 2 =:= 0 -> killed;
        (_) -> shutdown
    end,
    Expected = [{down, Number, Pid, Reason(Number)} || {Number, Pid} <- lists:enumerate(Pids)],
    ?assertEqual(Expected, Down),
    ?assertEqual(100, length(messages:taken(told))).

registered_processes_stop_when_registrars_and_tracker_are_killed(Config) ->
    Zone = zone(Config),
    Pids = [registered(Zone, Number) || Number <- lists:seq(1, 100)],
    Monitors = [monitor(process, Pid) || Pid <- Pids],
    ok = sys:suspend(Zone),
    [exit(Pid, kill) || Pid <- registrars(Zone) ++ [whereis(Zone)]],
    [
        receive
            {'DOWN', Monitor, process, _, Reason} -> ?assertEqual(shutdown, Reason)
        end
     || Monitor <- Monitors
    ].

messages_of_strangers_change_nothing(Config) ->
    Zone = zone(Config),
    Pid = registered(Zone, ?NAME),
    Registrar = zones:keeper(Zone, ?NAME),
    State = fun() ->
        {
            zones:keeper(Zone, ?NAME),
            gen_tracker:which_children(Zone),
            process_info(Registrar, [monitors, trap_exit]),
            registrars(Zone)
        }
    end,
    Before = State(),
    Forged = make_ref(),
    [
        Registrar ! Message
     || Message <- [
            {Forged, stop_zone, self()},
            {Forged, give, ?NAME, Pid, self()},
            {Forged, forget, ?NAME, Pid},
            {Forged, end_child, ?NAME, Pid, {self(), Forged}},
            {Forged, kill, ?NAME, Pid},
            {1, {registered, ?NAME, Pid, Forged}},
            {none, {registered, other, self(), Forged}},
            {{Forged, registered, ?NAME}, Forged, process, Pid, normal},
            {'DOWN', Forged, process, Pid, normal},
            {'EXIT', whereis(Zone), shutdown},
            {'$gen_call', nobody, {unregister, ?NAME, Pid}},
            {'$gen_call', {self(), [alias | nobody]}, {unregister, other, not_a_pid}},
            '$proctab_detached'
        ]
    ],
    again = gen_tracker_registrar:unregister(Registrar, other, Pid),
    ?assertEqual(Before, State()).

the_processes_of_a_zone_cannot_be_registered(Config) ->
    Zone = zone(Config),
    _ = registered(Zone, ?NAME),
    {ok, _} = gen_tracker:subscribe(Zone),
    _ = tracked_child:open(Zone, child),
    Own = [whereis(Zone) | zones:beside(Zone)],
    ?assertEqual(5, length(Own)),
    [?assertError(badarg, register_name({Zone, other}, Pid)) || Pid <- Own].

a_registration_that_comes_with_the_stop_is_ended_or_refused(Config) ->
    Zone = zone(Config),
    _ = registered(Zone, first),
    Registering = [
        spawn_monitor(fun() ->
            yes = register_name({Zone, Number}, self()),
            receive
                never -> ok
            end
        end)
     || Number <- lists:seq(1, 300)
    ],
    ok = gen_server:call(Zone, shutdown),
    %% Those that were registered are told to stop; the others were answered `no', or find no zone.
    [
        receive
            {'DOWN', Monitor, process, Pid, _} -> ok
        end
     || {Pid, Monitor} <- Registering
    ].
