%% Promise: that of `keeper_SUITE`, tested by many rounds of short races.
-module(keeper_storm_SUITE).
-behaviour(gen_server).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [spec/4, kill/1]).
-import(messages, [await/1, await/2, taken/1]).
-import(callers, [ask/1, answer/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        a_thousand_transient_children_that_exit_normally_at_once_are_started_once,
        a_child_is_stopped_in_good_order_right_after_it_was_added,
        nothing_is_left_of_starts_during_a_stop,
        nothing_is_left_of_starts_when_the_tracker_is_killed,
        callers_get_the_child_of_a_keeper_that_was_killed_before_it_told_the_tracker,
        find_or_open_is_answered_while_the_zone_is_restarted,
        getattr_leaves_nothing_behind_while_the_zone_is_restarted,
        a_child_that_is_found_and_ended_while_it_is_added_is_not_restarted,
        a_child_that_ends_as_soon_as_it_is_registered_ends_with_its_reason
    ].

%% No child of these is restarted, however soon it exits.
a_thousand_transient_children_that_exit_normally_at_once_are_started_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Starts = counters:new(1, []),
    Start = {gen_server, start_link, [?MODULE, Starts, []]},
    Opened = ask(fun() ->
        [
            {ok, _} = gen_tracker:find_or_open(Zone, {Name, Start, transient})
         || Name <- lists:seq(1, 1000)
        ],
        ok
    end),
    {answer, ok} = answer(Opened),
    wait:until(fun() ->
        gen_tracker:which_children(Zone) =:= [] orelse counters:get(Starts, 1) > 1000
    end, 60),
    ?assertEqual(1000, counters:get(Starts, 1)).

init(Starts) ->
    counters:add(Starts, 1, 1),
    {ok, Starts, {continue, stop}}.

handle_continue(stop, Starts) ->
    {stop, normal, Starts}.

handle_call(_, _, Starts) ->
    {reply, ok, Starts}.

handle_cast(_, Starts) ->
    {noreply, Starts}.

%% The tracker handles both requests in a row. The keeper may not have run before the second one.
a_child_is_stopped_in_good_order_right_after_it_was_added(_) ->
    [added_and_stopped(?FUNCTION_NAME) || _ <- lists:seq(1, 50)].

added_and_stopped(Case) ->
    Zone = zone(Case),
    Child = tracked_child:loose(start_link),
    Monitor = monitor(process, Child),
    Name = {self(), child},
    ok = sys:suspend(Zone),
    Spec = {Name, {reporting_child, start, [none]}, temporary, 10000, worker, []},
    Adding = ask(fun() -> gen_tracker:add_existing_child(Zone, {Child, Spec}) end),
    callers:waiting(),
    Stopping = ask(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    callers:waiting(),
    ok = sys:resume(Zone),
    %% The answer may have been sent before the stop or during it.
    _ = answer(Adding),
    {answer, ok} = answer(Stopping),
    {'DOWN', _, process, Child, shutdown} = await('DOWN', Monitor),
    ?assertEqual({last, Name, [], shutdown}, await(last)),
    {'EXIT', _, shutdown} = await('EXIT').

%% Starts during the end of a zone

nothing_is_left_of_starts_during_a_stop(_) ->
    [
        starts_end_with(?FUNCTION_NAME, fun(Tracker) -> gen_server:stop(Tracker) end)
     || _ <- lists:seq(1, 50)
    ].

nothing_is_left_of_starts_when_the_tracker_is_killed(_) ->
    [
        starts_end_with(?FUNCTION_NAME, fun(Tracker) -> exit(Tracker, kill) end)
     || _ <- lists:seq(1, 50)
    ].

%% The zone ends while the start functions spawn processes that ignore exit signals. All of them
%% must be killed.
starts_end_with(Case, End) ->
    Test = self(),
    {ok, Tracker} = gen_tracker:start_link(Case),
    Monitor = monitor(process, Tracker),
    Callers = [
        ask(fun() ->
            gen_tracker:find_or_open(
                Case,
                spec(
                    Number,
                    temporary,
                    brutal_kill,
                    {start_with, [Test, fun() -> spawn_many(Test) end]}
                )
            )
        end)
     || Number <- lists:seq(1, 3)
    ],
    Keepers = [Keeper || {started, Keeper} <- [await(started) || _ <- Callers]],
    [1 = erlang:trace(Keeper, true, [procs]) || Keeper <- Keepers],
    [Keeper ! go || Keeper <- Keepers],
    [{spawning, _} = await(spawning) || _ <- Keepers],
    End(Tracker),
    _ = await('DOWN', Monitor),
    lists:foreach(fun tracked_child:down/1, Keepers),
    _ = erlang:trace_delivered(all),
    _ = await(trace_delivered),
    Spawned = [Pid || {trace, _, spawn, Pid, _} <- taken(trace)],
    ?assert(length(Spawned) >= 30),
    [{'DOWN', _, process, _, _} = await('DOWN', monitor(process, Pid)) || Pid <- Spawned],
    [_ = answer(Caller) || Caller <- Callers],
    await('EXIT').

spawn_many(Test) ->
    receive
        go -> ok
    end,
    [spawn_deaf() || _ <- lists:seq(1, 10)],
    Test ! {spawning, self()},
    [spawn_deaf() || _ <- lists:seq(1, 1000)],
    receive
        never -> ok
    end.

spawn_deaf() ->
    {ok, _} = proc_lib:start_link(
        erlang,
        apply,
        [
            fun() ->
                process_flag(trap_exit, true),
                proc_lib:init_ack({ok, self()}),
                deaf()
            end,
            []
        ]
    ).

deaf() ->
    receive
        _ -> deaf()
    end.

%% Each child kills its keeper as soon as it is registered. The time slice of the keeper ends at
%% about that point, which differs a little from round to round.
callers_get_the_child_of_a_keeper_that_was_killed_before_it_told_the_tracker(_) ->
    Zone = zone(?FUNCTION_NAME),
    [given_to_its_caller(Zone, Round) || Round <- lists:seq(1, 600)].

given_to_its_caller(Zone, Round) ->
    Start = fun() ->
        Keeper = self(),
        Child = spawn(fun() -> kill_when_found(Zone, Round, Keeper) end),
        erlang:yield(),
        erlang:bump_reductions(4000 - Round rem 60),
        {ok, Child}
    end,
    Asked = ask(fun() ->
        gen_tracker:find_or_open(Zone, {Round, {reporting_child, start, [Start]}, temporary})
    end),
    {answer, {ok, Child}} = answer(Asked),
    {ok, Child} = gen_tracker:find(Zone, Round).

kill_when_found(Zone, Name, Keeper) ->
    case gen_tracker:find(Zone, Name) of
        undefined ->
            kill_when_found(Zone, Name, Keeper);
        {ok, _} ->
            exit(Keeper, kill),
            receive
                never -> ok
            end
    end.

%% The zone may start between two checks of the function. That must not raise `badarg`.
find_or_open_is_answered_while_the_zone_is_restarted(_) ->
    Zone = ?FUNCTION_NAME,
    Find = fun() ->
        try gen_tracker:find_or_open(Zone, {child, {gen_event, start_link, []}, temporary}) of
            {ok, _} -> answered;
            {error, gen_tracker_not_started} -> answered
        catch
            exit:{_, {gen_server, call, _}} -> answered
        end
    end,
    [answered] = lists:usort(lists:append(while_restarting(Zone, 20000, [Find, Find, Find]))).

%% Calls readers while a zone is started and killed again and again.
while_restarting(Zone, Times, Readers) ->
    Restart = fun(_) ->
        {ok, Tracker} = gen_tracker:start_link(Zone),
        kill(Tracker)
    end,
    callers:while_writing(Restart, Times, Readers).

%% It monitors the tracker, and is a waiter of the table.
getattr_leaves_nothing_behind_while_the_zone_is_restarted(_) ->
    Zone = ?FUNCTION_NAME,
    Get = fun() ->
        Answer =
            try
                gen_tracker:getattr(Zone, name, key, 1)
            catch
                error:badarg -> undefined
            end,
        {Answer, process_info(self(), [messages, monitors])}
    end,
    Expected = {undefined, [{messages, []}, {monitors, []}]},
    [Expected] = lists:usort(lists:append(while_restarting(Zone, 20000, [Get, Get, Get]))).

%% A process may find the child and end it before the keeper has monitored it. The keeper must not
%% take the exit for a crash.
a_child_that_is_found_and_ended_while_it_is_added_is_not_restarted(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Enders = [spawn_link(fun() -> end_children(Zone) end) || _ <- [1, 2]],
    Start = {tracked_child, start_with, [Test, fun() -> ignore end]},
    [
        begin
            {Child, Monitor} = spawn_monitor(fun() ->
                receive
                    stop -> ok
                end
            end),
            {ok, Child} = gen_tracker:add_existing_child(
                Zone, {Child, {child, Start, transient, 200, worker, []}}
            ),
            receive
                {'DOWN', Monitor, process, Child, normal} -> ok
            end,
            wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end, 60)
        end
     || _ <- lists:seq(1, 1000)
    ],
    [
        begin
            unlink(Ender),
            exit(Ender, kill)
        end
     || Ender <- Enders
    ],
    ?assertEqual(
        none,
        receive
            {started, Keeper} -> {started, Keeper}
        after 0 -> none
        end
    ).

end_children(Zone) ->
    case gen_tracker:find(Zone, child) of
        {ok, Child} -> Child ! stop;
        undefined -> ok
    end,
    end_children(Zone).

%% The child is not linked to its keeper, which may continue after the child has been registered. If
%% the keeper monitored the child too late, some of 10,000 would end with `noproc`.
a_child_that_ends_as_soon_as_it_is_registered_ends_with_its_reason(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, []} = gen_tracker:subscribe(Zone),
    Start = {?MODULE, start_unlinked, []},
    Reasons = [
        ended_when_registered(Zone, {Name, Start, temporary})
     || Name <- lists:seq(1, 100000)
    ],
    ?assertEqual([killed], lists:usort(Reasons)).

start_unlinked() ->
    {ok, spawn(timer, sleep, [infinity])}.

ended_when_registered(Zone, {Name, _, _} = Spec) ->
    _ = spawn(gen_tracker, find_or_open, [Zone, Spec]),
    receive
        {gen_tracker, Zone, {up, Name, Child}} ->
            exit(Child, kill),
            receive
                {gen_tracker, Zone, {down, Name, Child, Reason}} -> Reason
            end
    end.
