%% Promise: `gen_tracker:find/3` waits for the running child of a name, sleeps meanwhile, and leaves
%% nothing behind. A callback that would wait for its own end gets `undefined` at once.
-module(awaiting_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [answer/1, ask/1]).
-import(gen_tracker, [find/3, find_or_open/2]).
-import(messages, [await/1]).
-import(tracked_child, [loose/1, plain/1]).
-import(zone_hook, [zone/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        a_running_child_is_returned_without_a_message,
        a_child_that_starts_is_returned_to_all_who_wait,
        a_process_that_is_registered_is_returned,
        a_restarted_child_is_returned,
        a_start_that_fails_is_not_the_end_of_the_wait,
        attributes_wake_nobody_who_waits_for_a_child,
        a_timeout_returns_undefined,
        a_wait_leaves_no_message_and_takes_none,
        a_killed_caller_is_no_waiter_any_more,
        the_end_of_the_zone_is_badarg,
        wrong_arguments_are_badarg,
        a_start_function_does_not_wait_for_its_own_child,
        after_terminate_does_not_wait_for_its_own_name,
        two_starts_that_wait_for_each_other_both_end,
        a_later_start_does_not_wait_for_one_that_waits_for_it,
        a_start_function_waits_for_another_child,
        a_callback_is_refused_when_the_zone_stops,
        a_callback_that_waits_for_a_free_name_is_refused_when_the_zone_stops,
        a_callback_that_has_stopped_waiting_closes_no_cycle,
        waiters_find_every_child_of_a_storm
    ].

a_running_child_is_returned_without_a_message(Config) ->
    Zone = zone(Config),
    Child = tracked_child:open(Zone, ?NAME),
    {ok, Child} = find(Zone, ?NAME, 0),
    [
        ?assertEqual({{answer, {ok, Child}}, []}, callers:sent_by(fun() ->
            find(Zone, ?NAME, Timeout)
        end))
     || Timeout <- [0, 1, infinity, 1 bsl 70]
    ].

waiters(Zone, Count) ->
    Waiters = [ask(fun() -> find(Zone, ?NAME, infinity) end) || _ <- lists:seq(1, Count)],
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= Count end),
    Waiters.

a_child_that_starts_is_returned_to_all_who_wait(Config) ->
    Zone = zone(Config),
    Waiters = waiters(Zone, 10),
    {Asked, Starter} = tracked_child:gated(Zone, ?NAME),
    ok = gen_tracker:wait(Zone),
    10 = proctab_nif:waiting(Zone),
    Starter ! go,
    {answer, {ok, Child}} = answer(Asked),
    [?assertEqual({answer, {ok, Child}}, answer(Waiter)) || Waiter <- Waiters],
    ?assertEqual(0, proctab_nif:waiting(Zone)).

a_process_that_is_registered_is_returned(Config) ->
    Zone = zone(Config),
    [
        begin
            [Waiter] = waiters(Zone, 1),
            Pid = loose(start_link),
            Add(Pid),
            ?assertEqual({answer, {ok, Pid}}, answer(Waiter)),
            ok = gen_tracker:unregister_name({Zone, ?NAME})
        end
     || Add <- [
            fun(Pid) -> yes = gen_tracker:register_name({Zone, ?NAME}, Pid) end,
            fun(Pid) -> yes = gen_tracker:re_register_name({Zone, ?NAME}, Pid) end,
            fun(Pid) ->
                {ok, Pid} = gen_tracker:add_existing_child(Zone, {?NAME, Pid, worker, []})
            end
        ]
    ].

a_restarted_child_is_returned(Config) ->
    Zone = zone(Config),
    {Keeper, Spec} = scripted_child:pending(Zone, ?NAME),
    [Waiter] = waiters(Zone, 1),
    {_, {Module, Function, [Test, _]}, Restart} = Spec,
    Run = {?NAME, {Module, Function, [Test, scripted_child:run()]}, Restart},
    {ok, Child} = find_or_open(Zone, Run),
    ?assertEqual({answer, {ok, Child}}, answer(Waiter)),
    ?assertEqual(Keeper, zones:keeper(Zone, ?NAME)).

a_start_that_fails_is_not_the_end_of_the_wait(Config) ->
    Zone = zone(Config),
    [Waiter] = waiters(Zone, 1),
    ignore = find_or_open(Zone, tracked_child:ignoring(?NAME)),
    1 = proctab_nif:waiting(Zone),
    Child = tracked_child:open(Zone, ?NAME),
    ?assertEqual({answer, {ok, Child}}, answer(Waiter)).

attributes_wake_nobody_who_waits_for_a_child(Config) ->
    Zone = zone(Config),
    [Waiter] = waiters(Zone, 1),
    Reader = ask(fun() -> gen_tracker:getattr(Zone, ?NAME, n, infinity) end),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 2 end),
    1 = gen_tracker:increment(Zone, ?NAME, n, 1, 0),
    {answer, {ok, 1}} = answer(Reader),
    1 = proctab_nif:waiting(Zone),
    Child = tracked_child:open(Zone, ?NAME),
    {answer, {ok, Child}} = answer(Waiter).

a_timeout_returns_undefined(Config) ->
    Zone = zone(Config),
    Begin = erlang:monotonic_time(millisecond),
    undefined = find(Zone, ?NAME, 50),
    ?assert(erlang:monotonic_time(millisecond) - Begin >= 50),
    undefined = find(Zone, ?NAME, 0),
    {Asked, Starter} = tracked_child:gated(Zone, ?NAME),
    undefined = find(Zone, ?NAME, 10),
    Starter ! go,
    {answer, {ok, _}} = answer(Asked).

a_wait_leaves_no_message_and_takes_none(Config) ->
    Zone = zone(Config),
    Forged = [{'$proctab_woken', 0}, {'DOWN', make_ref(), process, self(), x}, other],
    ?assertEqual({answer, {Forged, []}}, answer(ask(fun() ->
        [self() ! Message || Message <- Forged],
        undefined = find(Zone, ?NAME, 10),
        Opener = ask(fun() -> tracked_child:open(Zone, ?NAME) end),
        {ok, Child} = find(Zone, ?NAME, infinity),
        {answer, Child} = answer(Opener),
        {messages, Messages} = process_info(self(), messages),
        {monitors, Monitors} = process_info(self(), monitors),
        {Messages, Monitors}
    end))),
    ?assertEqual(0, proctab_nif:waiting(Zone)).

a_killed_caller_is_no_waiter_any_more(Config) ->
    Zone = zone(Config),
    Caller = spawn(fun() -> find(Zone, ?NAME, infinity) end),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end),
    tracked_child:kill(Caller),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 0 end).

the_end_of_the_zone_is_badarg(Config) ->
    Zone = zone(Config),
    Waiters = [ask(fun() -> raised(Zone) end) || _ <- [1, 2]],
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 2 end),
    ok = gen_server:stop(Zone),
    [?assertEqual({answer, badarg}, answer(Waiter)) || Waiter <- Waiters].

raised(Zone) ->
    try
        find(Zone, ?NAME, infinity)
    catch
        error:badarg -> badarg
    end.

wrong_arguments_are_badarg(Config) ->
    Zone = zone(Config),
    [?assertError(badarg, find(Zone, ?NAME, Timeout)) || Timeout <- [-1, 1.0, soon, []]],
    ?assertError(badarg, find(not_running, ?NAME, 0)),
    ?assertError(badarg, find(self(), ?NAME, 0)).

%% Callbacks

a_start_function_does_not_wait_for_its_own_child(Config) ->
    Zone = zone(Config),
    Start = fun() -> {error, {found, [find(Zone, ?NAME, Time) || Time <- [infinity, 0]]}} end,
    Spec = scripted_child:spec(?NAME, temporary, Start),
    ?assertEqual({error, {found, [undefined, undefined]}}, find_or_open(Zone, Spec)).

after_terminate_does_not_wait_for_its_own_name(Config) ->
    Zone = zone(Config),
    Test = self(),
    {ok, Pid} =
        find_or_open(Zone, {?NAME, {tracked_child_reason, start_link, [Test]}, temporary}),
    ok = gen_tracker:setattr(Zone, ?NAME, last, fun(_, _, _) ->
        Test ! {last, find(Zone, ?NAME, infinity)}
    end),
    normal = tracked_child:stop(Pid, normal),
    ?assertEqual({last, undefined}, await(last)).

two_starts_that_wait_for_each_other_both_end(Config) ->
    Zone = zone(Config),
    Test = self(),
    Start = fun(Other) ->
        fun() ->
            Test ! {starting, self()},
            receive
                go -> {error, {found, find(Zone, Other, infinity)}}
            end
        end
    end,
    Asked = [
        ask(fun() ->
            find_or_open(Zone, {Name, {tracked_child, start_with, [Test, Start(Other)]}, temporary})
        end)
     || {Name, Other} <- [{a, b}, {b, a}]
    ],
    Starters = [
        begin
            {starting, Starter} = await(starting),
            Starter
        end
     || _ <- Asked
    ],
    [Starter ! go || Starter <- Starters],
    %% One is refused and fails. The other one then waits for a name that is free.
    wait:until(fun() -> gen_tracker:count(Zone) =:= 1 end),
    [Left] = gen_tracker:names(Zone),
    [Free] = [a, b] -- [Left],
    {ok, Child} = find_or_open(Zone, plain(Free)),
    Answers = lists:sort([answer(Each) || Each <- Asked]),
    ?assertEqual([{answer, {error, {found, Found}}} || Found <- [undefined, {ok, Child}]], Answers).

%% The name is free when the first start begins to wait for it.
a_later_start_does_not_wait_for_one_that_waits_for_it(Config) ->
    Zone = zone(Config),
    Waits = [fun(Name) -> find(Zone, Name, infinity) end,
             fun(Name) -> gen_tracker:getattr(Zone, Name, key, infinity) end],
    Asks = [{fun() -> find(Zone, ?NAME, infinity) end, undefined},
            {fun() -> gen_tracker:getattr(Zone, ?NAME, key, infinity) end, undefined},
            {fun() -> find_or_open(Zone, plain(?NAME)) end, {error, starting}},
            {fun() -> supervisor:terminate_child(Zone, ?NAME) end, {error, starting}},
            {fun() -> gen_tracker:register_name({Zone, ?NAME}, whereis(kernel_sup)) end, no}],
    [
        begin
            First = scripted_child:spec(?NAME, temporary, fun() -> {error, {got, Wait(b)}} end),
            Asked = ask(fun() -> find_or_open(Zone, First) end),
            wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end),
            ok = gen_tracker:wait(Zone),
            [
                begin
                    Later = scripted_child:spec(b, temporary, fun() -> {error, {got, Ask()}} end),
                    ?assertEqual({error, {got, Answer}}, find_or_open(Zone, Later))
                end
             || {Ask, Answer} <- Asks
            ],
            Child = tracked_child:open(Zone, b),
            ok = gen_tracker:setattr(Zone, b, key, Child),
            ?assertEqual({answer, {error, {got, {ok, Child}}}}, answer(Asked)),
            ok = supervisor:terminate_child(Zone, b)
        end
     || Wait <- Waits
    ],
    ?assertEqual(0, proctab_nif:waiting(Zone)).

a_start_function_waits_for_another_child(Config) ->
    Zone = zone(Config),
    Start = fun() -> {error, find(Zone, other, infinity)} end,
    Asked = ask(fun() -> find_or_open(Zone, scripted_child:spec(?NAME, temporary, Start)) end),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end),
    Child = tracked_child:open(Zone, other),
    ?assertEqual({answer, {error, {ok, Child}}}, answer(Asked)).

a_callback_is_refused_when_the_zone_stops(Config) ->
    Zone = zone(Config),
    Test = self(),
    {_, Starter} = tracked_child:gated(Zone, other),
    Start = fun() ->
        Test ! {found, find(Zone, other, infinity)},
        {error, no}
    end,
    Asked = ask(fun() -> find_or_open(Zone, scripted_child:spec(?NAME, temporary, Start)) end),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end),
    ok = gen_tracker:wait(Zone),
    Stopped = ask(fun() -> gen_server:call(Zone, shutdown) end),
    ?assertEqual({found, undefined}, await(found)),
    Starter ! go,
    {answer, ok} = answer(Stopped),
    {answer, {error, _}} = answer(Asked).

a_callback_that_waits_for_a_free_name_is_refused_when_the_zone_stops(Config) ->
    Zone = zone(Config),
    Test = self(),
    Start = fun() ->
        Test ! {found, find(Zone, free, infinity)},
        {error, no}
    end,
    _ = ask(fun() -> find_or_open(Zone, scripted_child:spec(?NAME, temporary, Start)) end),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end),
    ok = gen_tracker:wait(Zone),
    ok = gen_server:call(Zone, shutdown),
    ?assertEqual({found, undefined}, await(found)).

%% Because its time is over, or because it was killed.
a_callback_that_has_stopped_waiting_closes_no_cycle(Config) ->
    Zone = zone(Config),
    Test = self(),
    Start = fun() ->
        undefined = find(Zone, b, 1),
        Helper = proc_lib:spawn(fun() -> find(Zone, b, infinity) end),
        wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end),
        ok = gen_tracker:wait(Zone),
        _ = tracked_child:kill(Helper),
        Test ! {waited, self()},
        receive
            go -> tracked_child:start_link(Test)
        end
    end,
    Asked = ask(fun() -> find_or_open(Zone, scripted_child:spec(a, temporary, Start)) end),
    {waited, Starter} = await(waited),
    Later = scripted_child:spec(b, temporary, fun() -> {error, {got, find(Zone, a, infinity)}} end),
    Waiting = ask(fun() -> find_or_open(Zone, Later) end),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end),
    ok = gen_tracker:wait(Zone),
    Starter ! go,
    {answer, {ok, Child}} = answer(Asked),
    ?assertEqual({answer, {error, {got, {ok, Child}}}}, answer(Waiting)).

%% A waiter that came too late to be woken would never end.
waiters_find_every_child_of_a_storm(Config) ->
    Zone = zone(Config),
    [
        begin
            Wait = fun() -> {ok, _} = find(Zone, {Round, ?NAME}, infinity) end,
            Open = fun() -> {ok, _} = find_or_open(Zone, plain({Round, ?NAME})) end,
            [{ok, _}] = lists:usort(callers:together([Wait, Open, Wait, Wait]))
        end
     || Round <- lists:seq(1, 500)
    ],
    ?assertEqual(0, proctab_nif:waiting(Zone)).
