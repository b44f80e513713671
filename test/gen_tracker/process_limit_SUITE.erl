%% Promise: when the node has reached its limit of processes, callers get an error, no child is
%% lost, and children and zones can still be stopped. Once there is room, what was put off is
%% done.
%%
%% Each case runs in a node of its own with a limit of 1024 processes.
-module(process_limit_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, opening/2]).
-import(tracked_child, [spec/4, loose/1, gated/2, plain/1, full/1, open/2]).
-import(messages, [await/1]).
-import(tracked_child_reason, [cleaning/2]).
-import(timed_call, [answer/2, at_rest/1, ended/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        a_zone_stops,
        a_child_is_terminated_in_every_state,
        a_killed_watchdog_is_replaced_once_there_is_room,
        nothing_is_left_of_a_killed_tracker,
        a_caller_gets_the_error_system_limit,
        a_child_whose_keeper_was_killed_is_adopted_once_there_is_room,
        a_callback_that_waits_for_an_attribute_asks_the_tracker_once,
        a_cluster_process_joins_again_once_there_is_room,
        a_callback_for_conflicts_is_called_once_there_is_room
    ].

a_zone_stops(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        Children = everything(zone(Zone)),
        Filling = full_node:keep_full(),
        exit(whereis(Zone), shutdown),
        {'EXIT', _, shutdown} = await('EXIT'),
        full_node:stop_filling(Filling),
        [_ = ended(Child, ?SOON) || Child <- Children],
        undefined = whereis(Zone)
    end).

%% The requests arrive while the node is full. A start that hangs may be killed only once there is
%% room.
a_child_is_terminated_in_every_state(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        Children = everything(zone(Zone)),
        Names = [running, starting, halfway, cleaning],
        Stopping = [spawned(fun() -> supervisor:terminate_child(Zone, Name) end) || Name <- Names],
        [at_rest(Pid) || {Pid, _} <- Stopping],
        Filling = full_node:keep_full(),
        [Pid ! go || {Pid, _} <- Stopping],
        {answer, ok} = answer(hd(Stopping), ?LIMIT),
        full_node:stop_filling(Filling),
        [{answer, ok} = answer(Asked, ?LIMIT) || Asked <- tl(Stopping)],
        [_ = ended(Child, ?SOON) || Child <- Children],
        [] = supervisor:which_children(Zone)
    end).

spawned(Fun) ->
    spawn_monitor(fun() ->
        receive
            go -> exit({answer, Fun()})
        end
    end).

%% Opens children in every state, and returns the processes that must not be left.
everything(Zone) ->
    Running = loose(start_stubborn),
    {ok, Running} = gen_tracker:add_existing_child(Zone, {running, Running, worker, []}),
    {_, Starter} = gated(Zone, starting),
    Halfway = spec(halfway, temporary, 200, {start_halfway, [self()]}),
    _ = opening(Zone, Halfway),
    {halfway, Half} = await(halfway),
    Cleaner = cleaning(Zone, cleaning),
    [Running, Starter, Half, Cleaner].

%% The watchdog is killed while the tracker is suspended, and another process takes its place.
a_killed_watchdog_is_replaced_once_there_is_room(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        [Watchdog] = zones:beside(zone(Zone)),
        ok = sys:suspend(Zone),
        Filling = full_node:keep_full(),
        exit(Watchdog, kill),
        _ = ended(Watchdog, ?SOON),
        Filled = full_node:take_all(),
        ok = sys:resume(Zone),
        ok = gen_tracker:wait(Zone),
        full_node:stop_filling(Filling),
        tracked_process:kill(Filled),
        wait:until(fun() -> length(zones:beside(Zone)) =:= 1 end),
        {_, Starter} = gated(Zone, starting),
        _ = tracked_child:kill(whereis(Zone)),
        ended(Starter, ?LIMIT)
    end).

nothing_is_left_of_a_killed_tracker(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        Children = everything(zone(Zone)),
        Beside = zones:beside(Zone),
        Filling = full_node:keep_full(),
        _ = tracked_child:kill(whereis(Zone)),
        [Running, _, _, Cleaner] = Children,
        _ = ended(Running, ?LIMIT),
        full_node:stop_filling(Filling),
        Cleaner ! go,
        [_ = ended(Pid, ?LIMIT) || Pid <- Children ++ Beside]
    end).

a_caller_gets_the_error_system_limit(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        Child = open(zone(Zone), child),
        Others = full_node:take_all(),
        {error, system_limit} = gen_tracker:find_or_open(Zone, plain(another)),
        {error, system_limit} = supervisor:start_child(Zone, full(another)),
        {error, system_limit} = gen_tracker:add_existing_child(
            Zone, {another, hd(Others), worker, []}
        ),
        tracked_process:kill(Others),
        {ok, Child} = gen_tracker:find_or_open(Zone, plain(child)),
        open(Zone, another)
    end).

%% The keeper is killed while the tracker is suspended, and another process takes its place.
a_child_whose_keeper_was_killed_is_adopted_once_there_is_room(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        Child = loose(start_stubborn),
        {ok, Child} = gen_tracker:add_existing_child(zone(Zone), {child, Child, worker, []}),
        Keeper = zones:keeper(Zone, child),
        Others = full_node:take_all(),
        ok = sys:suspend(Zone),
        _ = tracked_child:kill(Keeper),
        [_ | _] = Last = full_node:take_all(),
        ok = sys:resume(Zone),
        ok = gen_tracker:wait(Zone),
        {ok, Child} = gen_tracker:find(Zone, child),
        tracked_process:kill(Others ++ Last),
        done = tracked_child:stop(Child, done),
        wait:until(fun() -> supervisor:which_children(Zone) =:= [] end, 60),
        open(Zone, child)
    end).

%% The tracker needs a process to wait for a registered one.
a_callback_that_waits_for_an_attribute_asks_the_tracker_once(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        yes = gen_tracker:register_name({zone(Zone), registered}, loose(start_stubborn)),
        Test = self(),
        Start = fun() ->
            Test ! {waits, self()},
            receive
                go -> {error, gen_tracker:getattr(Zone, registered, key, 200)}
            end
        end,
        Opening = opening(Zone, spec(child, temporary, 200, {start_with, [self(), Start]})),
        {waits, Starter} = await(waits),
        ok = full_node:fill(),
        1 = erlang:trace(whereis(Zone), true, ['receive']),
        Starter ! go,
        {answer, {error, undefined}} = answer(Opening, ?LIMIT),
        1 = erlang:trace(whereis(Zone), false, ['receive']),
        Received = messages:taken(trace),
        ?assert(length(Received) < 10, lists:sublist(Received, 20))
    end).

%% The scope is killed while the cluster process is suspended, and others take the places of both
%% processes that the cluster process has to start again.
a_cluster_process_joins_again_once_there_is_room(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        {ok, Tracker} = gen_tracker:start_link(Zone, #{cluster => true}),
        wait:until(fun() -> length(gen_tracker_cluster_scope:members(Zone)) =:= 1 end),
        [Cluster] = gen_tracker_cluster_scope:members(Zone),
        [Watcher] = linked(Cluster) -- [Tracker],
        full_node:while_stopped(Cluster, fun() ->
            tracked_process:kill([whereis(gen_tracker_cluster)]),
            ended(Watcher, ?SOON)
        end),
        %% Answered after the end of the scope was noticed.
        {error, unknown_call} = gen_server:call(Cluster, wrong),
        undefined = whereis(gen_tracker_cluster),
        [] = linked(Cluster) -- [Tracker, Watcher],
        full_node:free(),
        wait:until(fun() -> length(linked(Cluster) -- [Tracker, Watcher]) =:= 1 end),
        [Cluster] = gen_tracker_cluster_scope:members(Zone)
    end).

linked(Pid) ->
    {links, Links} = process_info(Pid, links),
    Links.

a_callback_for_conflicts_is_called_once_there_is_room(_) ->
    Zone = ?FUNCTION_NAME,
    full_node:run(fun() ->
        Child = open(zone(Zone), child),
        Tag = make_ref(),
        Conflicts = gen_tracker_cluster_conflicts:new(Zone, self(), Tag, {?MODULE, tell_winner}),
        ok = full_node:fill(),
        Full = gen_tracker_cluster_conflicts:lose(child, Child, self(), Conflicts),
        Again = gen_tracker_cluster_conflicts:handle(await(Tag), Full),
        ok = full_node:free(),
        _ = gen_tracker_cluster_conflicts:handle(await(Tag), Again),
        {called, Zone, child, Child} = await(called)
    end).

tell_winner(Zone, Name, Loser, Winner) ->
    Winner ! {called, Zone, Name, Loser},
    keep.
