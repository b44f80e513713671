%% Promise: ten restarts of one child within ten seconds are made at once. From then on each waits
%% as one that has failed, until the child has lived for ten seconds. What is asked of its name
%% meanwhile is answered as the contract says, and the rest of the zone does not notice.
-module(restart_limit_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [zone/1, spec/2, await/1, await/2, taken/1, loose/1]).
-import(zones, [asked/1, answer/2, at_rest/1, elapsed/1]).
-import(stopping_SUITE, [opening/2, plain/1, full/1]).

-define(SOON, 2000).
-define(LIMIT, 12000).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        ten_restarts_are_made_at_once,
        further_restarts_wait_ever_longer,
        a_child_that_ends_as_soon_as_it_is_started_is_slowed_down,
        a_transient_child_that_crashes_again_and_again_is_slowed_down,
        a_subscriber_is_told_of_those_starts_alone,
        that_a_child_is_slowed_down_is_logged_once,
        other_children_are_restarted_at_once,
        find_or_open_waits_for_a_restart_that_is_slowed_down,
        find_or_open_starts_a_child_whose_restart_has_failed_with_its_own_spec,
        the_next_restart_is_that_of_the_new_spec,
        start_child_of_a_child_whose_restart_has_failed_is_already_present,
        start_child_of_a_child_that_is_slowed_down_waits_for_it,
        other_requests_for_a_child_that_waits_are_refused,
        a_child_that_waits_is_launching,
        a_child_that_waits_has_no_attributes,
        a_child_that_waits_can_be_terminated,
        a_zone_with_children_that_wait_stops,
        a_child_that_waits_survives_its_keeper,
        a_restart_that_gives_no_child_is_given_up,
        restarts_are_made_at_once_again_after_ten_seconds
    ].

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    ok = kept_log:keep(),
    Config.

end_per_testcase(_Case, _Config) ->
    ok = kept_log:forget(),
    zones:clean_up().

%% How fast

ten_restarts_are_made_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = killed(Zone, child, 10),
    ?assertMatch([], reported(Zone, child)),
    ?assertMatch({ok, _}, gen_tracker:find(Zone, child)).

%% "After 50 ms, each further try 150 ms later than the one before."
further_restarts_wait_ever_longer(_) ->
    Zone = zone(?FUNCTION_NAME),
    Last = killed(Zone, child, 10),
    {Times, _} = lists:mapfoldl(
        fun(_, Child) -> elapsed(fun() -> next(Zone, child, Child) end) end, Last, lists:seq(1, 5)
    ),
    Expected = [50, 200, 350, 500, 650],
    Early = [Pair || {Time, Least} = Pair <- lists:zip(Times, Expected), Time < Least - 2],
    ?assertEqual([], Early).

%% Without a limit there would be hundreds of thousands of starts.
a_child_that_ends_as_soon_as_it_is_started_is_slowed_down(_) ->
    slowed_down(zone(?FUNCTION_NAME), permanent, normal).

a_transient_child_that_crashes_again_and_again_is_slowed_down(_) ->
    slowed_down(zone(?FUNCTION_NAME), transient, crash).

slowed_down(Zone, Restart, Reason) ->
    Starts = counters:new(1, []),
    Spec = {child, {?MODULE, start_ending, [Starts, Reason]}, Restart},
    {Time, _} = elapsed(fun() ->
        {ok, _} = gen_tracker:find_or_open(Zone, Spec),
        zones:soon(fun() -> counters:get(Starts, 1) >= 15 end)
    end),
    %% The first start, ten restarts, and four that waited.
    ?assert(Time >= 50 + 200 + 350 + 500 - 10, Time),
    ?assert(counters:get(Starts, 1) < 25),
    ?assertMatch([_], reported(Zone, child)),
    ok = supervisor:terminate_child(Zone, child).

start_ending(Starts, Reason) ->
    counters:add(Starts, 1, 1),
    keeper_SUITE:dead(Reason).

a_subscriber_is_told_of_those_starts_alone(_) ->
    Zone = zone(?FUNCTION_NAME),
    Starts = counters:new(1, []),
    {ok, []} = gen_tracker:subscribe(Zone),
    Spec = {child, {?MODULE, start_ending, [Starts, crash]}, permanent},
    {ok, _} = gen_tracker:find_or_open(Zone, Spec),
    zones:soon(fun() -> counters:get(Starts, 1) >= 13 end),
    ok = supervisor:terminate_child(Zone, child),
    zones:stop(Zone, ?LIMIT),
    Number = counters:get(Starts, 1),
    Events = until_unsubscribed(Zone),
    ?assertEqual(lists:duplicate(Number, [up, down]), pairs(Events)).

until_unsubscribed(Zone) ->
    receive
        {gen_tracker, Zone, unsubscribed} -> [];
        {gen_tracker, Zone, Event} -> [element(1, Event) | until_unsubscribed(Zone)]
    after ?SOON -> [nothing]
    end.

pairs([First, Second | Events]) -> [[First, Second] | pairs(Events)];
pairs([]) -> [].

that_a_child_is_slowed_down_is_logged_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Last = killed(Zone, child, 10),
    [] = reported(Zone, child),
    _ = lists:foldl(fun(_, Child) -> next(Zone, child, Child) end, Last, lists:seq(1, 4)),
    ?assertMatch([#{zone := Zone, name := child}], reported(Zone, child)).

other_children_are_restarted_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = waiting(Zone, child),
    _ = killed(Zone, other, 10),
    [] = reported(Zone, other).

%% What is asked meanwhile

find_or_open_waits_for_a_restart_that_is_slowed_down(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    waiting(Zone, child),
    Never = fun() ->
        Test ! never,
        tracked_child:start_link(Test)
    end,
    Openings = [opening(Zone, restart_SUITE:with_spec(child, temporary, Never)) || _ <- [1, 2, 3]],
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

%% The next try of its own would be seconds away.
find_or_open_starts_a_child_whose_restart_has_failed_with_its_own_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    failed(Zone, child),
    {answer, {ok, Child}} = answer(opening(Zone, full(child)), ?SOON),
    [{started, Child}] = [Started || {started, _} = Started <- taken(started)],
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)),
    {ok, Spec} = supervisor:get_childspec(Zone, child),
    ?assertMatch(#{restart := temporary, start := {tracked_child, start_link, _}}, Spec),
    %% It is temporary now.
    exit(Child, kill),
    zones:soon(fun() -> gen_tracker:count(Zone) =:= 0 end),
    [] = taken(started).

the_next_restart_is_that_of_the_new_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    failed(Zone, child),
    {answer, {ok, Child}} = answer(opening(Zone, spec(child, permanent)), ?SOON),
    {started, Child} = await(started),
    exit(Child, kill),
    {started, Next} = await(started),
    zones:soon(fun() -> gen_tracker:find(Zone, child) =:= {ok, Next} end),
    [] = taken(started).

%% As a supervisor says of a child that it has not managed to restart.
start_child_of_a_child_whose_restart_has_failed_is_already_present(_) ->
    Zone = zone(?FUNCTION_NAME),
    failed(Zone, child),
    Starting = asked(fun() -> supervisor:start_child(Zone, full(child)) end),
    ?assertEqual({answer, {error, already_present}}, answer(Starting, ?SOON)),
    [] = taken(started).

start_child_of_a_child_that_is_slowed_down_waits_for_it(_) ->
    Zone = zone(?FUNCTION_NAME),
    waiting(Zone, child),
    Starting = asked(fun() -> supervisor:start_child(Zone, full(child)) end),
    {started, Next} = await(started),
    ?assertEqual({answer, {error, {already_started, Next}}}, answer(Starting, ?SOON)),
    [] = taken(started).

other_requests_for_a_child_that_waits_are_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Pid = loose(start_link),
            Wait(Zone, Name),
            Add = fun() -> gen_tracker:add_existing_child(Zone, {Name, Pid, worker, []}) end,
            ?assertEqual({answer, {error, already_present}}, answer(asked(Add), ?SOON)),
            ?assertMatch({error, _}, supervisor:restart_child(Zone, Name)),
            Register = fun() -> gen_tracker:register_name({Zone, Name}, Pid) end,
            ?assertEqual({answer, no}, answer(asked(Register), ?SOON)),
            ok = supervisor:terminate_child(Zone, Name),
            _ = taken(started)
        end
     || {Name, Wait} <- [{slowed, fun waiting/2}, {failed, fun failed/2}]
    ].

%% "A child that waits for its restart is `launching` in `which_children`."
a_child_that_waits_is_launching(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Wait(Zone, Name),
            [{Name, launching, worker, _}] = gen_tracker:which_children(Zone),
            [{Name, launching, worker, _}] = supervisor:which_children(Zone),
            ?assertEqual(undefined, gen_tracker:find(Zone, Name)),
            ?assertEqual(undefined, gen_tracker:whereis_name({Zone, Name})),
            ?assertEqual([Name], gen_tracker:names(Zone)),
            ok = supervisor:terminate_child(Zone, Name),
            _ = taken(started)
        end
     || {Name, Wait} <- [{slowed, fun waiting/2}, {failed, fun failed/2}]
    ].

a_child_that_waits_has_no_attributes(_) ->
    Zone = zone(?FUNCTION_NAME),
    Last = killed(Zone, child, 13),
    ok = gen_tracker:setattr(Zone, child, key, value),
    exit(Last, kill),
    zones:soon(fun() -> gen_tracker:find(Zone, child) =:= undefined end),
    zones:soon(fun() -> gen_tracker:info(Zone, child) =:= [] end),
    ?assertMatch([{child, launching, _, _}], gen_tracker:which_children(Zone)),
    ?assertError({void_setting, _, _, _}, gen_tracker:setattr(Zone, child, key, value)),
    {started, Next} = await(started),
    zones:soon(fun() -> gen_tracker:find(Zone, child) =:= {ok, Next} end),
    [] = gen_tracker:info(Zone, child).

a_child_that_waits_can_be_terminated(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Wait(Zone, {Name, End}),
            Opening = opening(Zone, plain(other)),
            {answer, ok} = answer(asked(fun() -> supervisor:End(Zone, {Name, End}) end), ?SOON),
            {answer, {ok, _}} = answer(Opening, ?SOON),
            _ = taken(started),
            undefined = proctab_nif:child(Zone, {Name, End})
        end
     || {Name, Wait} <- [{slowed, fun waiting/2}, {failed, fun failed/2}],
        End <- [terminate_child, delete_child]
    ],
    zones:stop(Zone, ?LIMIT),
    [] = taken(started).

a_zone_with_children_that_wait_stops(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            failed(Zone, failed),
            waiting(Zone, slowed),
            Openings = [opening(Zone, plain(slowed)) || _ <- [1, 2]],
            ?assertEqual(Reason, zones:stopped(Zone, Stop, ?LIMIT)),
            Answers = lists:usort([answer(Opening, ?SOON) || Opening <- Openings]),
            %% Unless the restart was made just before.
            Refused = [{answer, {error, shutdown}}],
            Answers =:= Refused orelse ?assertMatch([{answer, {ok, _}}], Answers),
            _ = taken(started)
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

a_child_that_waits_survives_its_keeper(_) ->
    Zone = zone(?FUNCTION_NAME),
    waiting(Zone, child),
    Keeper = zones:keeper(Zone, child),
    exit(Keeper, kill),
    {started, Next} = await(started),
    zones:soon(fun() -> gen_tracker:find(Zone, child) =:= {ok, Next} end).

%% "One whose restart gives `ignore` or no proper answer is given up and logged."
a_restart_that_gives_no_child_is_given_up(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Script = restart_SUITE:scripted([restart_SUITE:run(), Give]),
            Child = restart_SUITE:open_with(Zone, Name, Restart, Script),
            exit(Child, kill),
            zones:soon(fun() -> gen_tracker:count(Zone) =:= 0 end),
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

%% One child has been slowed down, and lives for ten seconds. Another is restarted all the while, at
%% most ten times in any ten seconds.
restarts_are_made_at_once_again_after_ten_seconds(_) ->
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

%% A permanent child that has been killed so often, and runs.
killed(Zone, Name, Times) ->
    {ok, First} = gen_tracker:find_or_open(Zone, spec(Name, permanent)),
    {started, First} = await(started),
    lists:foldl(fun(_, Child) -> next(Zone, Name, Child) end, First, lists:seq(1, Times)).

%% Kills a child, and waits for the next one.
next(Zone, Name, Child) ->
    exit(Child, kill),
    {started, Next} = await(started),
    zones:soon(fun() -> gen_tracker:find(Zone, Name) =:= {ok, Next} end),
    Next.

%% Makes Name a child that is slowed down, and waits for at least half a second from now on.
waiting(Zone, Name) ->
    Last = killed(Zone, Name, 13),
    exit(Last, kill),
    zones:soon(fun() ->
        launching =:= element(2, lists:keyfind(Name, 1, gen_tracker:which_children(Zone)))
    end).

%% Makes Name a child whose restart has failed; the next try is seconds away.
failed(Zone, Name) ->
    Script = restart_SUITE:scripted([restart_SUITE:run(), fun() -> {error, later} end]),
    Child = restart_SUITE:open_with(Zone, Name, permanent, Script),
    exit(Child, kill),
    {started, _} = await(started),
    Spec = restart_SUITE:with_spec(Name, permanent, Script),
    [{error, later} = gen_tracker:find_or_open(Zone, Spec) || _ <- lists:seq(1, 40)],
    _ = taken(started),
    ok.

%% What the log has said of a child, besides what a supervisor says.
reported(Zone, Name) ->
    ok = gen_tracker:wait(Zone),
    kept_log:taken(fun(Event) ->
        case kept_log:labelled(any, Event) of
            #{zone := Zone, name := Name} = Report -> Report;
            _ -> false
        end
    end).
