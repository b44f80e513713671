%% Promise: the death of a keeper loses no child, whatever state the child is in and however long
%% its name is. Another keeper continues: it adopts a running child, forgets a child that was
%% starting, ends a cleanup, and makes a restart.
-module(keeper_death_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, keeper/2]).
-import(messages, [await/1, await/2, taken/1]).
-import(tracked_child, [loose/1, gated/2, ignoring/1]).
-import(scripted_child, [run/0, script/1]).
-import(tracked_child_reason, [telling/1, open/3, told/1, cleaning/2]).
-import(timed_call, [within/2, answer/2, calling/1, ended/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        a_child_with_a_long_name_survives_its_keeper,
        a_starting_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed,
        a_terminating_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed,
        a_restarting_child_with_a_long_name_is_started_when_its_keeper_is_killed,
        a_pending_child_with_a_long_name_is_started_when_its_keeper_is_killed,
        a_transient_child_that_exited_normally_is_not_restarted_when_its_keeper_is_killed,
        a_child_whose_keeper_always_dies_in_the_cleanup_is_restarted_ever_more_slowly
    ].

%% Returns names of different types, each with over 4,000 words.
long_names() ->
    [
        lists:seq(1, 5000),
        list_to_tuple(lists:seq(1, 6000)),
        maps:from_list([{N, [N]} || N <- lists:seq(1, 3000)]),
        {<<1:1>>, binary:copy(<<"name">>, 20000), lists:duplicate(5000, a)}
    ].

a_child_with_a_long_name_survives_its_keeper(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Child = added(Zone, Name),
            kill_keeper(Zone, Name),
            ok = gen_tracker:wait(Zone),
            ?assertEqual({ok, Child}, gen_tracker:find(Zone, Name)),
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end),
            ?assertNot(is_process_alive(Child)),
            ok = told(Name)
        end
     || Name <- long_names()
    ],
    [_ = added(Zone, Name) || Name <- long_names()],
    [kill_keeper(Zone, Name) || Name <- long_names()],
    zones:stop(Zone, ?LIMIT),
    [ok = told(Name) || Name <- long_names()].

%% Adds a child that is not linked to its keeper, and does not die with it.
added(Zone, Name) ->
    Child = loose(start_link),
    Spec = {Name, {tracked_child_reason, start_link, []}, temporary, 200, worker, []},
    {ok, Child} = gen_tracker:add_existing_child(Zone, {Child, Spec}),
    ok = gen_tracker:setattr(Zone, Name, last, telling(fun() -> ok end)),
    Child.

a_starting_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            {Opening, Starter} = gated(Zone, Name),
            exit(Starter, kill),
            {'DOWN', Opening, process, _, {answer, {error, killed}}} = await('DOWN', Opening),
            undefined = proctab_nif:child(Zone, Name),
            _ = open(Zone, Name, telling(fun() -> ok end))
        end
     || Name <- long_names()
    ],
    zones:stop(Zone, ?LIMIT).

a_terminating_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Cleaner = cleaning(Zone, Name),
            Ask = lists:nth(Way, [
                fun() -> gen_tracker:find_or_open(Zone, ignoring(Name)) end,
                fun() -> supervisor:terminate_child(Zone, Name) end
            ]),
            Waiting = calling(Ask),
            ok = gen_tracker:wait(Zone),
            exit(Cleaner, kill),
            ?assertEqual({answer, lists:nth(Way, [ignore, ok])}, answer(Waiting, ?SOON)),
            undefined = proctab_nif:child(Zone, Name)
        end
     || Name <- long_names(), Way <- [1, 2]
    ],
    zones:stop(Zone, ?LIMIT).

a_restarting_child_with_a_long_name_is_started_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Gated = fun() -> tracked_child:start_gated(Test, go) end,
    [
        begin
            Steps = [run(), Gated, run()],
            Start = script(Steps),
            Child = scripted_child:open(Zone, Name, permanent, Start),
            exit(Child, kill),
            {gated, Starter} = await(gated),
            {started, Starter} = await(started),
            exit(Starter, kill),
            [{started, _}, {started, Next}] = [await(started), await(started)],
            zones:until_found(Zone, Name, Next),
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end),
            ?assertNot(is_process_alive(Next))
        end
     || Name <- long_names()
    ],
    zones:stop(Zone, ?LIMIT).

a_pending_child_with_a_long_name_is_started_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Fail = fun() -> {error, later} end,
    [
        begin
            Steps = [run(), Fail, Fail, Fail, run()],
            Start = script(Steps),
            Child = scripted_child:open(Zone, Name, permanent, Start),
            exit(Child, kill),
            [{started, _}, {started, Starter}] = [await(started), await(started)],
            exit(Starter, kill),
            wait:until(fun() -> gen_tracker:find(Zone, Name) =/= undefined end),
            _ = taken(started),
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end)
        end
     || Name <- long_names()
    ],
    zones:stop(Zone, ?LIMIT).

kill_keeper(Zone, Name) ->
    Keeper = keeper(Zone, Name),
    exit(Keeper, kill),
    ended(Keeper, ?SOON).

%% The next keeper knows the child's exit reason.
a_transient_child_that_exited_normally_is_not_restarted_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = tracked_child_reason:open(Zone, child, transient, tracked_child_reason:gate()),
    normal = tracked_child:stop(Child, normal),
    {cleaning, child, Keeper} = await(cleaning),
    exit(Keeper, kill),
    ignore = within(?LIMIT, fun() -> gen_tracker:find_or_open(Zone, ignoring(child)) end),
    [] = taken(started).

%% Each death of a keeper counts as a restart: ten are made at once, the next ones wait.
a_child_whose_keeper_always_dies_in_the_cleanup_is_restarted_ever_more_slowly(_) ->
    Zone = zone(?FUNCTION_NAME),
    Name = {test, self()},
    {ok, _} = gen_tracker:find_or_open(Zone, {Name, {?MODULE, start_dead, []}, permanent}),
    Begin = erlang:monotonic_time(millisecond),
    _ = [
        receive
            cleaning -> ok
        end
     || _ <- lists:seq(1, 14)
    ],
    %% Of the 14 starts, the last three have waited at least 50, 200 and 350 ms.
    ?assert(erlang:monotonic_time(millisecond) - Begin >= 500),
    ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end).

start_dead() ->
    {ok, spawn(fun() -> ok end)}.

after_terminate({test, Test}, _, _) ->
    Test ! cleaning,
    exit(self(), kill),
    receive
        never -> ok
    end.
