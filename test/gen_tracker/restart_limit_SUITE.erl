%% Promise: ten restarts of a child within ten seconds are made at once. Each further restart is
%% delayed like a repeated one, until the child has lived for ten seconds. Requests for its name
%% are answered meanwhile, and other children are not affected.
-module(restart_limit_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, opening/2]).
-import(tracked_child, [spec/2, loose/1, plain/1, full/1]).
-import(messages, [await/1, taken/1]).
-import(scripted_child, [run/0, dead/1, script/1]).
-import(timed_call, [calling/1, answer/2, elapsed/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill, log]}]}].

all() ->
    [
        ten_restarts_are_made_at_once,
        further_restarts_are_delayed_ever_longer,
        restarts_of_a_child_that_exits_at_once_are_delayed,
        restarts_of_a_transient_child_that_crashes_at_once_are_delayed,
        a_subscriber_receives_the_events_of_these_starts_only,
        the_delay_of_a_child_is_logged_once,
        other_children_are_restarted_at_once,
        find_or_open_waits_for_a_delayed_restart,
        find_or_open_after_a_failed_restart_starts_the_child_with_its_own_spec,
        the_next_restart_uses_the_new_spec,
        start_child_after_a_failed_restart_returns_already_present,
        start_child_waits_for_a_delayed_restart,
        other_requests_for_a_child_that_waits_for_its_restart_are_refused,
        a_child_that_waits_for_its_restart_is_launching,
        a_child_that_waits_for_its_restart_has_no_attributes,
        a_child_that_waits_for_its_restart_can_be_terminated,
        a_zone_with_children_that_wait_for_their_restart_stops,
        a_child_that_waits_for_its_restart_survives_its_keeper,
        a_restart_that_returns_no_child_is_not_repeated,
        restarts_are_not_delayed_any_more_after_ten_seconds
    ].

%% Delays

ten_restarts_are_made_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = killed(Zone, child, 10),
    ?assertMatch([], reported(Zone, child)),
    ?assertMatch({ok, _}, gen_tracker:find(Zone, child)).

%% The first delay is 50 ms. Each further one is 150 ms longer than the one before.
further_restarts_are_delayed_ever_longer(_) ->
    Zone = zone(?FUNCTION_NAME),
    Last = killed(Zone, child, 10),
    {Times, _} = lists:mapfoldl(
        fun(_, Child) -> elapsed(fun() -> next(Zone, child, Child) end) end, Last, lists:seq(1, 5)
    ),
    Expected = [50, 200, 350, 500, 650],
    Early = [Pair || {Time, Least} = Pair <- lists:zip(Times, Expected), Time < Least - 2],
    ?assertEqual([], Early).

%% Without delays there would be hundreds of thousands of starts.
restarts_of_a_child_that_exits_at_once_are_delayed(_) ->
    delayed_restarts(zone(?FUNCTION_NAME), permanent, normal).

restarts_of_a_transient_child_that_crashes_at_once_are_delayed(_) ->
    delayed_restarts(zone(?FUNCTION_NAME), transient, crash).

delayed_restarts(Zone, Restart, Reason) ->
    Starts = counters:new(1, []),
    Spec = {child, {?MODULE, start_ending, [Starts, Reason]}, Restart},
    {Time, _} = elapsed(fun() ->
        {ok, _} = gen_tracker:find_or_open(Zone, Spec),
        wait:until(fun() -> counters:get(Starts, 1) >= 15 end)
    end),
    %% One start, ten restarts without a delay, and four with a delay.
    ?assert(Time >= 50 + 200 + 350 + 500 - 10, Time),
    ?assert(counters:get(Starts, 1) < 25),
    ?assertMatch([_], reported(Zone, child)),
    ok = supervisor:terminate_child(Zone, child).

start_ending(Starts, Reason) ->
    counters:add(Starts, 1, 1),
    dead(Reason).

a_subscriber_receives_the_events_of_these_starts_only(_) ->
    Zone = zone(?FUNCTION_NAME),
    Starts = counters:new(1, []),
    {ok, []} = gen_tracker:subscribe(Zone),
    Spec = {child, {?MODULE, start_ending, [Starts, crash]}, permanent},
    {ok, _} = gen_tracker:find_or_open(Zone, Spec),
    wait:until(fun() -> counters:get(Starts, 1) >= 13 end),
    ok = supervisor:terminate_child(Zone, child),
    zones:stop(Zone, ?LIMIT),
    Number = counters:get(Starts, 1),
    Events = [element(1, Event) || Event <- zone_events:rest(Zone)],
    ?assertEqual(lists:duplicate(Number, [up, down]), pairs(Events)).

pairs([First, Second | Events]) -> [[First, Second] | pairs(Events)];
pairs([]) -> [].

the_delay_of_a_child_is_logged_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Last = killed(Zone, child, 10),
    [] = reported(Zone, child),
    _ = lists:foldl(fun(_, Child) -> next(Zone, child, Child) end, Last, lists:seq(1, 4)),
    ?assertMatch([#{zone := Zone, name := child}], reported(Zone, child)).

other_children_are_restarted_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = delayed(Zone, child),
    _ = killed(Zone, other, 10),
    [] = reported(Zone, other).

%% Requests during a delay

find_or_open_waits_for_a_delayed_restart(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    delayed(Zone, child),
    Never = fun() ->
        Test ! never,
        tracked_child:start_link(Test)
    end,
    Openings = [opening(Zone, scripted_child:spec(child, temporary, Never)) || _ <- [1, 2, 3]],
    ok = gen_tracker:wait(Zone),
    undefined = gen_tracker:find(Zone, child),
    {started, Next} = await(started),
    [{answer, {ok, Next}} = answer(Opening, ?SOON) || Opening <- Openings],
    ?assertEqual({ok, Next}, gen_tracker:find(Zone, child)),
    {ok, #{restart := permanent}} = supervisor:get_childspec(Zone, child),
    [] = taken(started),
    receive
        never -> ct:fail(other_spec)
    after 0 -> ok
    end.

%% The next attempt of the keeper is seconds away.
find_or_open_after_a_failed_restart_starts_the_child_with_its_own_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = scripted_child:pending(Zone, child),
    {answer, {ok, Child}} = answer(opening(Zone, full(child)), ?SOON),
    [{started, Child}] = [Started || {started, _} = Started <- taken(started)],
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)),
    {ok, Spec} = supervisor:get_childspec(Zone, child),
    ?assertMatch(#{restart := temporary, start := {tracked_child, start_link, _}}, Spec),
    %% The new spec is that of a temporary child.
    exit(Child, kill),
    wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end),
    [] = taken(started).

the_next_restart_uses_the_new_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = scripted_child:pending(Zone, child),
    {answer, {ok, Child}} = answer(opening(Zone, spec(child, permanent)), ?SOON),
    {started, Child} = await(started),
    exit(Child, kill),
    {started, Next} = await(started),
    zones:until_found(Zone, child, Next),
    [] = taken(started).

%% OTP supervisors answer the same for a child that they could not restart.
start_child_after_a_failed_restart_returns_already_present(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = scripted_child:pending(Zone, child),
    Starting = calling(fun() -> supervisor:start_child(Zone, full(child)) end),
    ?assertEqual({answer, {error, already_present}}, answer(Starting, ?SOON)),
    [] = taken(started).

start_child_waits_for_a_delayed_restart(_) ->
    Zone = zone(?FUNCTION_NAME),
    delayed(Zone, child),
    Starting = calling(fun() -> supervisor:start_child(Zone, full(child)) end),
    {started, Next} = await(started),
    ?assertEqual({answer, {error, {already_started, Next}}}, answer(Starting, ?SOON)),
    [] = taken(started).

other_requests_for_a_child_that_waits_for_its_restart_are_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Pid = loose(start_link),
            _ = Wait(Zone, Name),
            Add = fun() -> gen_tracker:add_existing_child(Zone, {Name, Pid, worker, []}) end,
            ?assertEqual({answer, {error, already_present}}, answer(calling(Add), ?SOON)),
            ?assertMatch({error, _}, supervisor:restart_child(Zone, Name)),
            Register = fun() -> gen_tracker:register_name({Zone, Name}, Pid) end,
            ?assertEqual({answer, no}, answer(calling(Register), ?SOON)),
            ok = supervisor:terminate_child(Zone, Name),
            _ = taken(started)
        end
     || {Name, Wait} <- [{slowed, fun delayed/2}, {failed, fun scripted_child:pending/2}]
    ].

a_child_that_waits_for_its_restart_is_launching(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            _ = Wait(Zone, Name),
            [{Name, launching, worker, _}] = gen_tracker:which_children(Zone),
            [{Name, launching, worker, _}] = supervisor:which_children(Zone),
            ?assertEqual(undefined, gen_tracker:find(Zone, Name)),
            ?assertEqual(undefined, gen_tracker:whereis_name({Zone, Name})),
            ?assertEqual([Name], gen_tracker:names(Zone)),
            ok = supervisor:terminate_child(Zone, Name),
            _ = taken(started)
        end
     || {Name, Wait} <- [{slowed, fun delayed/2}, {failed, fun scripted_child:pending/2}]
    ].

a_child_that_waits_for_its_restart_has_no_attributes(_) ->
    Zone = zone(?FUNCTION_NAME),
    Last = killed(Zone, child, 13),
    ok = gen_tracker:setattr(Zone, child, key, value),
    exit(Last, kill),
    wait:until(fun() -> gen_tracker:find(Zone, child) =:= undefined end),
    wait:until(fun() -> gen_tracker:info(Zone, child) =:= [] end),
    ?assertMatch([{child, launching, _, _}], gen_tracker:which_children(Zone)),
    ?assertError({void_setting, _, _, _}, gen_tracker:setattr(Zone, child, key, value)),
    {started, Next} = await(started),
    zones:until_found(Zone, child, Next),
    [] = gen_tracker:info(Zone, child).

a_child_that_waits_for_its_restart_can_be_terminated(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            _ = Wait(Zone, {Name, End}),
            Opening = opening(Zone, plain(other)),
            {answer, ok} = answer(calling(fun() -> supervisor:End(Zone, {Name, End}) end), ?SOON),
            {answer, {ok, _}} = answer(Opening, ?SOON),
            _ = taken(started),
            undefined = proctab_nif:child(Zone, {Name, End})
        end
     || {Name, Wait} <- [{slowed, fun delayed/2}, {failed, fun scripted_child:pending/2}],
        End <- [terminate_child, delete_child]
    ],
    zones:stop(Zone, ?LIMIT),
    [] = taken(started).

a_zone_with_children_that_wait_for_their_restart_stops(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            _ = scripted_child:pending(Zone, failed),
            delayed(Zone, slowed),
            Openings = [opening(Zone, plain(slowed)) || _ <- [1, 2]],
            ?assertEqual(Reason, zones:stopped(Zone, Stop, ?LIMIT)),
            Answers = lists:usort([answer(Opening, ?SOON) || Opening <- Openings]),
            %% The restart may have been made just before the stop.
            Refused = [{answer, {error, shutdown}}],
            Answers =:= Refused orelse ?assertMatch([{answer, {ok, _}}], Answers),
            _ = taken(started)
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

a_child_that_waits_for_its_restart_survives_its_keeper(_) ->
    Zone = zone(?FUNCTION_NAME),
    delayed(Zone, child),
    Keeper = zones:keeper(Zone, child),
    exit(Keeper, kill),
    {started, Next} = await(started),
    zones:until_found(Zone, child, Next).

a_restart_that_returns_no_child_is_not_repeated(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Script = script([run(), Give]),
            Child = scripted_child:open(Zone, Name, Restart, Script),
            exit(Child, kill),
            wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end),
            Reports = reported(Zone, Name),
            ?assertMatch([_], [Report || #{label := {_, not_restarted}} = Report <- Reports]),
            _ = taken(started),
            {ok, _} = gen_tracker:find_or_open(Zone, plain(Name)),
            ok = supervisor:terminate_child(Zone, Name),
            _ = taken(started)
        end
     || {Number, Give} <- lists:enumerate([
            fun() -> ignore end,
            fun() -> banana end,
            fun() -> {error, 404, <<"no">>} end,
            fun() -> {ok, make_ref()} end
        ]),
        Restart <- [permanent, transient],
        Name <- [{Number, Restart}]
    ].

%% One child is delayed, and then lives for ten seconds. Meanwhile another child is restarted at
%% most ten times in any ten seconds.
restarts_are_not_delayed_any_more_after_ten_seconds(_) ->
    Zone = zone(?FUNCTION_NAME),
    Slowed = killed(Zone, slowed, 12),
    [_] = reported(Zone, slowed),
    {ok, First} = gen_tracker:find_or_open(Zone, spec(steady, permanent)),
    {started, First} = await(started),
    Steady = fun(_, Child) ->
        receive
        after 1100 -> next(Zone, steady, Child)
        end
    end,
    _ = lists:foldl(Steady, First, lists:seq(1, 12)),
    [] = reported(Zone, steady),
    ?assertEqual({ok, Slowed}, gen_tracker:find(Zone, slowed)),
    Last = lists:foldl(fun(_, Child) -> next(Zone, slowed, Child) end, Slowed, lists:seq(1, 10)),
    [] = reported(Zone, slowed),
    _ = next(Zone, slowed, Last),
    ?assertMatch([_], reported(Zone, slowed)).

%% Opens a permanent child, kills it so many times, and returns the running child.
killed(Zone, Name, Times) ->
    {ok, First} = gen_tracker:find_or_open(Zone, spec(Name, permanent)),
    {started, First} = await(started),
    lists:foldl(fun(_, Child) -> next(Zone, Name, Child) end, First, lists:seq(1, Times)).

%% Kills a child, waits until it is restarted, and returns the new child.
next(Zone, Name, Child) ->
    exit(Child, kill),
    {started, Next} = await(started),
    zones:until_found(Zone, Name, Next),
    Next.

%% Makes Name a child that waits at least half a second for its next restart.
delayed(Zone, Name) ->
    Last = killed(Zone, Name, 13),
    exit(Last, kill),
    wait:until(fun() ->
        launching =:= element(2, lists:keyfind(Name, 1, gen_tracker:which_children(Zone)))
    end).

%% Returns the reports on a child that have the label of the library.
reported(Zone, Name) ->
    ok = gen_tracker:wait(Zone),
    kept_log:taken(fun(Event) ->
        case kept_log:labelled(any, Event) of
            #{zone := Zone, name := Name} = Report -> Report;
            _ -> false
        end
    end).
