%% Promise: a request of `after_terminate` that would close a cycle of waits, among the starts and
%% cleanups of one zone, is refused at once. That breaks the cycle: all other requests are answered.
-module(cycles_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, opening/2]).
-import(messages, [await/1, await/2, taken/1]).
-import(tracked_child, [loose/1, plain/1, full/1]).
-import(tracked_child_reason, [open/3, telling/1, told/1, cleaning/2, cleaning/3]).
-import(timed_call, [within/2, answer/2, at_rest/1, ended/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        a_request_of_after_terminate_for_its_own_name_is_refused,
        a_request_of_after_terminate_for_a_permanent_child_of_its_own_name_is_refused,
        a_waiting_getattr_of_after_terminate_for_its_own_name_returns_undefined,
        after_terminate_may_read_its_own_name,
        a_server_that_after_terminate_starts_under_its_own_name_does_not_run,
        a_request_of_a_process_that_after_terminate_starts_is_refused,
        a_request_of_a_server_that_after_terminate_starts_is_refused,
        two_cleanups_that_terminate_each_other_both_end,
        two_cleanups_that_terminate_each_other_at_the_same_time_both_end,
        two_cleanups_that_open_each_other_both_end,
        two_cleanups_that_wait_for_attributes_of_each_other_both_end,
        a_cleanup_that_waits_for_an_attribute_is_part_of_a_cycle,
        a_cleanup_that_waits_for_an_attribute_is_part_of_a_cycle_despite_forged_casts,
        a_killed_cleanup_that_waits_for_an_attribute_is_forgotten,
        a_cycle_of_cleanups_of_any_length_is_broken,
        requests_that_close_no_cycle_are_served,
        a_chain_of_cleanups_is_served,
        many_cleanups_that_wait_for_one_are_served,
        a_wait_that_has_ended_closes_no_cycle,
        a_process_that_outlives_the_after_terminate_that_started_it_is_served,
        a_running_child_is_served,
        a_cycle_through_two_zones_ends_by_the_time_limits
    ].

%% The shortest cycle: its own name

%% Makes all requests, one after the other, in the cleanup of a child of that name.
refused(Zone, Name, Requests) ->
    Answers = name_requests:answers(Requests),
    Child = open(Zone, Name, telling(name_requests:ask(Requests))),
    exit(Child, kill),
    ?assertEqual(Answers, told(Name)),
    forgotten(Zone, Name).

%% Checks that the name is free and can be opened.
forgotten(Zone, Name) ->
    {answer, {ok, Child}} = answer(opening(Zone, plain(Name)), ?SOON),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, Name)),
    within(?SOON, fun() -> ok = supervisor:terminate_child(Zone, Name) end).

a_request_of_after_terminate_for_its_own_name_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    refused(Zone, child, name_requests:all(Zone, child, {error, terminating})),
    %% Also when the child is being stopped.
    Last = telling(fun() -> supervisor:terminate_child(Zone, child) end),
    _ = open(Zone, child, Last),
    within(?SOON, fun() -> ok = supervisor:terminate_child(Zone, child) end),
    ?assertEqual({error, terminating}, told(child)),
    [] = supervisor:which_children(Zone).

a_request_of_after_terminate_for_a_permanent_child_of_its_own_name_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Requests = name_requests:all(Zone, child, {error, terminating}),
    Last = telling(name_requests:ask(Requests)),
    Child = tracked_child_reason:open(Zone, child, permanent, Last),
    exit(Child, kill),
    ?assertEqual(name_requests:answers(Requests), told(child)),
    {started, Next} = await(started),
    ?assertEqual({answer, {ok, Next}}, answer(opening(Zone, plain(child)), ?SOON)).

a_waiting_getattr_of_after_terminate_for_its_own_name_returns_undefined(_) ->
    Zone = zone(?FUNCTION_NAME),
    Look = fun(Timeout) -> gen_tracker:getattr(Zone, child, missing, Timeout) end,
    Requests = [{Time, fun() -> Look(Time) end, undefined} || Time <- [infinity, 3600000, 0]],
    refused(Zone, child, Requests).

after_terminate_may_read_its_own_name(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, telling(fun() ->
        {
            gen_tracker:getattr(Zone, child, key, infinity),
            gen_tracker:getattr(Zone, child, key),
            gen_tracker:find(Zone, child),
            gen_tracker:info(Zone, child, [key]),
            gen_tracker:count(Zone)
        }
    end)),
    ok = gen_tracker:setattr(Zone, child, key, value),
    exit(Child, kill),
    ?assertEqual({{ok, value}, {ok, value}, undefined, [{key, value}], 1}, told(child)).

%% `gen_server:start/4` returns an error, and no server runs that nobody finds.
a_server_that_after_terminate_starts_under_its_own_name_does_not_run(_) ->
    Zone = zone(?FUNCTION_NAME),
    Via = {via, gen_tracker, {Zone, child}},
    Child = open(Zone, child, telling(fun() ->
        [
            gen_server:start(Via, init_server, fun() -> ok end, []),
            gen_statem:start(Via, init_server, fun() -> ok end, []),
            supervisor:start_child(Zone, #{id => child, start => {?MODULE, start_server, [Via]}})
        ]
    end)),
    exit(Child, kill),
    Taken = {error, {already_started, undefined}},
    ?assertMatch([Taken, Taken, {error, _}], told(child)),
    forgotten(Zone, child),
    ?assertEqual(undefined, gen_tracker:whereis_name({Zone, child})),
    ?assertEqual(0, gen_tracker:count(Zone)).

start_server(Name) ->
    gen_server:start_link(Name, init_server, fun() -> ok end, []).

%% Processes that a callback starts

%% The request belongs to a cleanup if the first of the caller's ancestors is the process of that
%% cleanup.
a_request_of_a_process_that_after_terminate_starts_is_refused(_) ->
    refused_through(zone(?FUNCTION_NAME), fun by_process/1).

refused_through(Zone, By) ->
    refused(Zone, child, [
        {Request, fun() -> By(Ask) end, Answer}
     || {Request, Ask, Answer} <- name_requests:all(Zone, child, {error, terminating})
    ]).

by_process(Ask) ->
    Callback = self(),
    Pid = proc_lib:spawn(fun() -> Callback ! {asked, self(), Ask()} end),
    receive
        {asked, Pid, Answer} -> Answer
    end.

a_request_of_a_server_that_after_terminate_starts_is_refused(_) ->
    refused_through(zone(?FUNCTION_NAME), fun by_server/1).

by_server(Ask) ->
    Callback = self(),
    {ok, Pid} = gen_statem:start(init_server, fun() -> Callback ! {asked, self(), Ask()} end, []),
    receive
        {asked, Pid, Answer} -> Answer
    end.

%% Cycles of cleanups

two_cleanups_that_terminate_each_other_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    [A, _B] = ring(Zone, [a, b], fun supervisor:terminate_child/2),
    exit(A, kill),
    ?assertEqual([{a, ok}, {b, {error, terminating}}], [{Name, told(Name)} || Name <- [a, b]]),
    [forgotten(Zone, Name) || Name <- [a, b]].

%% Either of them may close the cycle.
two_cleanups_that_terminate_each_other_at_the_same_time_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Children = ring(Zone, [{a, Round}, {b, Round}], End),
            [exit(Child, kill) || Child <- Children],
            Answers = [told({Name, Round}) || Name <- [a, b]],
            ?assert(lists:member({error, terminating}, Answers), Answers),
            [] = Answers -- [{error, terminating}, ok, {error, no_child}],
            [forgotten(Zone, {Name, Round}) || Name <- [a, b]]
        end
     || End <- [fun supervisor:terminate_child/2, fun supervisor:delete_child/2],
        Round <- lists:seq(1, 50)
    ].

%% The second cleanup closes the cycle. The first one waits again once the cleanup of the second is
%% over.
two_cleanups_that_wait_for_attributes_of_each_other_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = looking_up(Zone, fun() -> gen_tracker:getattr(Zone, a, missing, infinity) end),
    Other ! go,
    ?assertEqual(undefined, told(b)),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(b)),
    ok = gen_tracker:setattr(Zone, b, missing, found),
    ?assertEqual({ok, found}, told(a)),
    forgotten(Zone, a).

a_cleanup_that_waits_for_an_attribute_is_part_of_a_cycle_despite_forged_casts(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = looking_up(Zone, fun() -> gen_tracker:find_or_open(Zone, plain(a)) end),
    [
        gen_server:cast(Zone, {abandon_look_up, From})
     || Keeper <- [zones:keeper(Zone, a)],
        From <- [Keeper, {Keeper, make_ref()}, {Keeper, [alias | make_ref()]}, make_ref()]
    ],
    Other ! go,
    ?assertEqual({error, terminating}, told(b)).

%% The child that it waits for never ends. The process that waits is the keeper, or a process that
%% the callback has started.
a_killed_cleanup_that_waits_for_an_attribute_is_forgotten(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(b)),
    Look = fun() ->
        Test ! {looking, self()},
        gen_tracker:getattr(Zone, b, missing, infinity)
    end,
    Apart = fun() ->
        {_, Monitor} = proc_lib:spawn_opt(Look, [monitor]),
        await('DOWN', Monitor)
    end,
    Monitors = fun() -> length(element(2, process_info(whereis(Zone), monitors))) end,
    Before = Monitors(),
    [
        begin
            Child = open(Zone, a, telling(Cleanup)),
            exit(Child, kill),
            {looking, Process} = await(looking),
            wait:until(fun() -> map_size(tracker_state:waiting(Zone)) =:= 1 end),
            _ = tracked_child:kill(Process),
            wait:until(fun() -> map_size(tracker_state:waiting(Zone)) =:= 0 end),
            wait:until(fun() -> gen_tracker:names(Zone) =:= [b] end),
            wait:until(fun() -> Monitors() =:= Before end)
        end
     || Cleanup <- [Look, Apart]
    ].

a_cleanup_that_waits_for_an_attribute_is_part_of_a_cycle(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = looking_up(Zone, fun() -> gen_tracker:find_or_open(Zone, plain(a)) end),
    Other ! go,
    ?assertEqual({error, terminating}, told(b)),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(b)),
    ok = gen_tracker:setattr(Zone, b, missing, found),
    ?assertEqual({ok, found}, told(a)),
    forgotten(Zone, a).

%% Lets the cleanup of `a` wait for an attribute of `b`. Returns the process of the cleanup of `b`,
%% which calls `Ask` when it receives `go`.
looking_up(Zone, Ask) ->
    Cleaner = cleaning(Zone, b, Ask),
    A = open(Zone, a, telling(fun() -> gen_tracker:getattr(Zone, b, missing, infinity) end)),
    exit(A, kill),
    {asking, a, Looking} = await(asking, a),
    timed_call:at_rest(Looking),
    ok = gen_tracker:wait(Zone),
    Cleaner.

two_cleanups_that_open_each_other_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    [A, B] = [
        cleaning(Zone, Name, fun() -> gen_tracker:find_or_open(Zone, plain(Other)) end)
     || {Name, Other} <- [{a, b}, {b, a}]
    ],
    A ! go,
    at_rest(A),
    B ! go,
    ?assertEqual({error, terminating}, told(b)),
    ?assertMatch({ok, _}, told(a)),
    forgotten(Zone, a).

a_cycle_of_cleanups_of_any_length_is_broken(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Names = [{Length, Number} || Number <- lists:seq(1, Length)],
            [First | _] = ring(Zone, Names, fun supervisor:terminate_child/2),
            exit(First, kill),
            Answers = [told(Name) || Name <- Names],
            Expected = lists:duplicate(Length - 1, ok) ++ [{error, terminating}],
            ?assertEqual(Expected, Answers),
            [forgotten(Zone, Name) || Name <- Names]
        end
     || Length <- [3, 4, 10, 200]
    ].

%% Opens children. The cleanup of each child does something to the next child, the last one to the
%% first.
ring(Zone, Names, Do) ->
    [
        open(Zone, Name, telling(fun() -> Do(Zone, Next) end))
     || {Name, Next} <- lists:zip(Names, tl(Names) ++ [hd(Names)])
    ].

%% No cycles

requests_that_close_no_cycle_are_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Added = loose(start_link),
    Registered = loose(start_link),
    [open(Zone, Name, fun(_, _, _) -> ok end) || Name <- [first, second]],
    Quick = cleaning(Zone, quick),
    Last = fun() ->
        Quick ! go,
        {
            gen_tracker:find_or_open(Zone, plain(opened)),
            supervisor:start_child(Zone, full(started)),
            gen_tracker:add_existing_child(Zone, {added, Added, worker, []}),
            gen_tracker:register_name({Zone, registered}, Registered),
            supervisor:terminate_child(Zone, first),
            supervisor:delete_child(Zone, second),
            gen_tracker:find_or_open(Zone, plain(quick)),
            gen_tracker:wait(Zone),
            length(supervisor:which_children(Zone))
        }
    end,
    Child = open(Zone, child, telling(Last)),
    exit(Child, kill),
    Answers = told(child),
    ?assertMatch({{ok, _}, {ok, _}, {ok, Added}, yes, ok, ok, {ok, _}, ok, 6}, Answers),
    {{ok, Opened}, {ok, Started}, _, _, _, _, {ok, Again}, _, _} = Answers,
    Names = [opened, started, added, registered, quick],
    Running = [Opened, Started, Added, Registered, Again],
    ?assertEqual([{ok, Pid} || Pid <- Running], [gen_tracker:find(Zone, Name) || Name <- Names]).

a_chain_of_cleanups_is_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = lists:seq(1, 50),
    [
        open(Zone, Name, telling(fun() -> supervisor:terminate_child(Zone, Name + 1) end))
     || Name <- lists:droplast(Names)
    ],
    _ = open(Zone, 50, telling(fun() -> last end)),
    {ok, First} = gen_tracker:find(Zone, 1),
    exit(First, kill),
    ?assertEqual(lists:duplicate(49, ok) ++ [last], [told(Name) || Name <- Names]).

many_cleanups_that_wait_for_one_are_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = lists:seq(1, 50),
    Cleaner = cleaning(Zone, cleaning),
    Children = [
        open(Zone, Name, telling(fun() -> gen_tracker:find_or_open(Zone, plain(cleaning)) end))
     || Name <- Names
    ],
    [exit(Child, kill) || Child <- Children],
    [at_rest(element(3, await(asking, Name))) || Name <- Names],
    ok = gen_tracker:wait(Zone),
    Cleaner ! go,
    ?assertMatch([{ok, _}], lists:usort([told(Name) || Name <- Names])).

a_wait_that_has_ended_closes_no_cycle(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Cleaner = cleaning(Zone, a, fun() ->
        Test ! {told, first, supervisor:terminate_child(Zone, b)},
        Test ! {gate, again, self()},
        receive
            go -> done
        end
    end),
    _ = open(Zone, b, fun(_, _, _) -> ok end),
    Cleaner ! go,
    ?assertEqual(ok, told(first)),
    {gate, again, Cleaner} = await(gate),
    Child = open(Zone, b, telling(fun() -> gen_tracker:find_or_open(Zone, plain(a)) end)),
    exit(Child, kill),
    {asking, b, Asking} = await(asking),
    at_rest(Asking),
    ok = gen_tracker:wait(Zone),
    [] = taken(told),
    Cleaner ! go,
    ?assertEqual(done, told(a)),
    ?assertMatch({ok, _}, told(b)).

%% It asks when the next child of that name runs, with the same keeper.
a_process_that_outlives_the_after_terminate_that_started_it_is_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Helper = fun() ->
        receive
            go -> Test ! {told, helper, gen_tracker:find_or_open(Zone, plain(child))}
        end
    end,
    Last = telling(fun() -> proc_lib:spawn(Helper) end),
    Child = tracked_child_reason:open(Zone, child, permanent, Last),
    exit(Child, kill),
    Pid = told(child),
    {started, Next} = await(started),
    zones:until_found(Zone, child, Next),
    Pid ! go,
    ?assertEqual({ok, Next}, told(helper)).

%% Its keeper is the first of its ancestors, too.
a_running_child_is_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    {ok, Child} = gen_tracker:find_or_open(Zone, plain(child)),
    Cleaner = cleaning(Zone, cleaning),
    Run = fun(Ask) ->
        Child ! {run, Test, Ask},
        receive
            {ran, Child, Answer} -> Answer
        after ?SOON -> no_answer
        end
    end,
    ?assertEqual({ok, Child}, Run(fun() -> gen_tracker:find_or_open(Zone, plain(child)) end)),
    ?assertEqual(
        {error, {already_started, Child}},
        Run(fun() -> supervisor:start_child(Zone, full(child)) end)
    ),
    ?assertEqual(undefined, Run(fun() -> gen_tracker:getattr(Zone, child, missing, 1) end)),
    Cleaner ! go,
    ?assertMatch({ok, _}, Run(fun() -> gen_tracker:find_or_open(Zone, plain(cleaning)) end)),
    _ = Run(fun() -> spawn(fun() -> supervisor:terminate_child(Zone, child) end) end),
    ?assertEqual(shutdown, ended(Child, ?SOON)).

%% The library does not see cycles through other processes or zones.
a_cycle_through_two_zones_ends_by_the_time_limits(_) ->
    First = zone(?FUNCTION_NAME),
    Second = zone(a_cycle_through_two_zones_second),
    A = open(First, a, telling(fun() -> supervisor:terminate_child(Second, b) end)),
    _ = open(Second, b, telling(fun() -> supervisor:terminate_child(First, a) end)),
    exit(A, kill),
    {asking, b, _} = await(asking, b),
    {answer, {ok, _}} = answer(opening(First, plain(a)), ?LIMIT),
    {answer, {ok, _}} = answer(opening(Second, plain(b)), ?LIMIT),
    [zones:stop(Zone, ?LIMIT) || Zone <- [First, Second]].
