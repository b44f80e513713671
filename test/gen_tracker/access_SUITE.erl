%% Promise: `count/1` and `names/1` include children in any state; `fold/3` sees each child that
%% runs throughout exactly once, whatever changes meanwhile; `cas/5` is one atomic step;
%% `getattr/4` waits for an attribute, and a write wakes it.
-module(access_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [answer/1, ask/1, together/1, while_writing/3]).
-import(tracked_child, [kill/1, open/2]).
-import(zone_hook, [zone/1]).
-import(gen_tracker, [cas/5, count/1, delattr/3, fold/3, getattr/3, getattr/4, increment/5]).
-import(gen_tracker, [names/1, setattr/3, setattr/4]).

-define(NAME, <<"tv1">>).
-define(VOID, <<"nobody">>).

suite() ->
    [{timetrap, {minutes, 5}}, {ct_hooks, [{zone_hook, [{open, ?NAME}]}]}].

all() ->
    [
        children_are_counted_and_named_in_any_state,
        a_name_that_has_only_attributes_is_no_child,
        fold_goes_over_the_children_that_have_a_pid,
        fold_sees_a_child_that_lives_throughout_exactly_once,
        fold_ends_with_the_error_of_its_fun,
        cas_sets_the_value_if_the_current_one_is_the_old_one,
        cas_compares_values_of_every_kind_exactly,
        cas_returns_the_current_value_or_undefined,
        cas_of_a_name_without_a_child_is_void_setting,
        cas_works_for_a_starting_child_and_not_for_a_terminating_one,
        cas_of_many_at_once_lets_one_win,
        a_counter_made_with_cas_loses_no_step,
        cas_and_increment_do_not_lose_each_others_steps,
        a_waiting_getattr_sleeps_until_the_write_wakes_it,
        every_kind_of_write_wakes_a_waiter,
        all_waiters_of_a_name_are_woken,
        a_write_of_another_attribute_does_not_end_a_wait,
        nothing_is_left_of_waiters,
        a_killed_waiter_is_forgotten,
        waiters_get_badarg_when_the_zone_ends,
        a_waiter_is_woken_by_the_next_zone_of_that_name,
        a_timeout_longer_than_that_of_any_receive_is_waited_for
    ].

%% count, names and fold

children_are_counted_and_named_in_any_state(Config) ->
    Zone = zone(Config),
    {1, [?NAME]} = {count(Zone), names(Zone)},
    {Asked, Starter} = tracked_child:gated(Zone, starting),
    {_, Cleaner} = tracked_child:terminating(Zone, {ending, []}),
    ?assertEqual(
        {3, lists:sort([?NAME, starting, {ending, []}])}, {count(Zone), lists:sort(names(Zone))}
    ),
    Starter ! go,
    {answer, {ok, _}} = answer(Asked),
    Cleaner ! done,
    tracked_child:forgotten(Zone, {ending, []}),
    ?assertEqual({2, lists:sort([?NAME, starting])}, {count(Zone), lists:sort(names(Zone))}),
    [supervisor:terminate_child(Zone, Name) || Name <- names(Zone)],
    {0, []} = {count(Zone), names(Zone)}.

a_name_that_has_only_attributes_is_no_child(Config) ->
    Zone = zone(Config),
    1 = increment(Zone, ?VOID, n, 1, 0),
    {1, [?NAME], [?NAME]} = {
        count(Zone),
        names(Zone),
        fold(fun(Name, _, Names) -> [Name | Names] end, [], Zone)
    }.

fold_goes_over_the_children_that_have_a_pid(Config) ->
    Zone = zone(Config),
    Running = [
        {?NAME, zone_hook:child(Config)}
        | [{N, open(Zone, N)} || N <- lists:seq(1, 1000)]
    ],
    {_, Starter} = tracked_child:gated(Zone, starting),
    {_, Cleaner} = tracked_child:terminating(Zone, ending),
    ?assertEqual(
        lists:sort(Running),
        lists:sort(fold(fun(Name, Pid, Pairs) -> [{Name, Pid} | Pairs] end, [], Zone))
    ),
    500500 = fold(
        fun
            (N, _, Sum) when is_integer(N) -> N + Sum;
            (_, _, Sum) -> Sum
        end,
        0,
        Zone
    ),
    Starter ! go,
    Cleaner ! done.

%% Other children come and go, more and more of them.
fold_sees_a_child_that_lives_throughout_exactly_once(Config) ->
    Zone = zone(Config),
    Stay = lists:sort([{stay, N} || N <- lists:seq(1, 2000)]),
    [open(Zone, Name) || Name <- Stay],
    Change = fun(Number) ->
        Pids = [open(Zone, {go, Number, N}) || N <- lists:seq(1, 20)],
        Number rem 2 =:= 0 andalso [kill(Pid) || Pid <- Pids]
    end,
    Seen = fun() ->
        lists:sort(
            fold(
                fun
                    ({stay, _} = Name, _, Names) -> [Name | Names];
                    (_, _, Names) -> Names
                end,
                [],
                Zone
            )
        )
    end,
    [Answers] = while_writing(Change, 100, [Seen]),
    ?assertEqual([Stay], lists:usort(Answers)).

fold_ends_with_the_error_of_its_fun(Config) ->
    ?assertError(mine, fold(fun(_, _, _) -> error(mine) end, [], zone(Config))),
    ?assertExit(mine, fold(fun(_, _, _) -> exit(mine) end, [], zone(Config))),
    ?assertThrow(mine, fold(fun(_, _, _) -> throw(mine) end, [], zone(Config))).

%% cas

cas_sets_the_value_if_the_current_one_is_the_old_one(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, 2}]),
    ok = cas(Zone, ?NAME, a, 1, two),
    ok = cas(Zone, ?NAME, a, two, [3]),
    ok = cas(Zone, ?NAME, a, [3], 1 bsl 70),
    ok = cas(Zone, ?NAME, a, 1 bsl 70, 4),
    [{a, 4}, {b, 2}] = lists:sort(gen_tracker:info(Zone, ?NAME)).

%% Values are compared by `=:=`.
cas_compares_values_of_every_kind_exactly(Config) ->
    Zone = zone(Config),
    Counter = counters:new(1, []),
    Large = maps:from_list([{{key, N}, [N]} || N <- lists:seq(1, 1000)]),
    Numbers = [0, 1, 1.0, -1, 1 bsl 62, -(1 bsl 62), 1 bsl 64, 0.0, -0.0],
    Binaries = [<<>>, <<"a">>, <<"a", 0:1>>, binary:copy(<<"b">>, 1000)],
    Tuples = [{}, {a}, {0.0}, {-0.0}, {1}, {1.0}],
    Maps = [#{}, #{a => 1}, #{a => 1.0}, Large, Large#{extra => 1}],
    Others = [a, 'A', [], [a], "a", [a | b], self(), make_ref(), Counter, fun lists:map/2],
    Values = lists:append([Numbers, Binaries, Tuples, Maps, Others]),
    [
        begin
            ok = setattr(Zone, ?NAME, v, Stored),
            ?assertEqual(
                {
                    Stored,
                    Old,
                    case Stored =:= Old of
                        true -> ok;
                        false -> {error, {current, Stored}}
                    end
                },
                {Stored, Old, cas(Zone, ?NAME, v, Old, new)}
            )
        end
     || Stored <- Values, Old <- Values
    ].

cas_returns_the_current_value_or_undefined(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, a, {some, "value"}),
    {error, {current, {some, "value"}}} = cas(Zone, ?NAME, a, other, new),
    {error, undefined} = cas(Zone, ?NAME, b, undefined, new),
    [{a, {some, "value"}}] = gen_tracker:info(Zone, ?NAME).

cas_of_a_name_without_a_child_is_void_setting(Config) ->
    Zone = zone(Config),
    ?assertError({void_setting, Zone, ?VOID, a}, cas(Zone, ?VOID, a, 1, 2)),
    %% Also if the attribute exists.
    1 = increment(Zone, ?VOID, a, 1, 0),
    ?assertError({void_setting, Zone, ?VOID, a}, cas(Zone, ?VOID, a, 1, 2)),
    {ok, 1} = getattr(Zone, ?VOID, a).

cas_works_for_a_starting_child_and_not_for_a_terminating_one(Config) ->
    Zone = zone(Config),
    {Asked, Starter} = tracked_child:gated(Zone, starting),
    ok = setattr(Zone, starting, a, 1),
    ok = cas(Zone, starting, a, 1, 2),
    Starter ! go,
    {answer, {ok, _}} = answer(Asked),
    {ok, 2} = getattr(Zone, starting, a),
    {_, Cleaner} = tracked_child:terminating(Zone, ending),
    {ok, Last} = getattr(Zone, ending, last),
    ?assertError({void_setting, Zone, ending, last}, cas(Zone, ending, last, Last, 2)),
    Cleaner ! done.

cas_of_many_at_once_lets_one_win(Config) ->
    Zone = zone(Config),
    [
        begin
            ok = setattr(Zone, ?NAME, holder, none),
            Answers = together([
                fun() -> cas(Zone, ?NAME, holder, none, {me, N}) end
             || N <- lists:seq(1, 8)
            ]),
            {ok, Winner} = getattr(Zone, ?NAME, holder),
            ?assertEqual([ok | lists:duplicate(7, {error, {current, Winner}})], lists:sort(Answers))
        end
     || _ <- lists:seq(1, 200)
    ].

a_counter_made_with_cas_loses_no_step(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, {0}),
    Step = fun Step() ->
        {ok, {N}} = getattr(Zone, ?NAME, n),
        cas(Zone, ?NAME, n, {N}, {N + 1}) =:= ok orelse Step()
    end,
    _ = together([fun() -> [Step() || _ <- lists:seq(1, 2000)] end || _ <- lists:seq(1, 4)]),
    {ok, {8000}} = getattr(Zone, ?NAME, n).

cas_and_increment_do_not_lose_each_others_steps(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, 0),
    Step = fun Step() ->
        {ok, N} = getattr(Zone, ?NAME, n),
        cas(Zone, ?NAME, n, N, N + 1) =:= ok orelse Step()
    end,
    Add = fun() -> gen_tracker:increment(Zone, ?NAME, n, 1) end,
    _ = together([fun() -> [Do() || _ <- lists:seq(1, 5000)] end || Do <- [Step, Add, Step, Add]]),
    {ok, 20000} = getattr(Zone, ?NAME, n).

%% getattr/4

%% A waiter is scheduled a few times at most, however long it waits. Here it waits while a thousand
%% other attributes are set.
a_waiting_getattr_sleeps_until_the_write_wakes_it(Config) ->
    Zone = zone(Config),
    {Waiter, Monitor} = spawn_monitor(fun() ->
        exit({answer, getattr(Zone, ?NAME, late, infinity)})
    end),
    asleep(Zone, [Waiter]),
    1 = erlang:trace(Waiter, true, [running]),
    _ = open(Zone, other),
    [ok = setattr(Zone, other, N, N) || N <- lists:seq(1, 1000)],
    {status, waiting} = process_info(Waiter, status),
    ok = setattr(Zone, ?NAME, late, 1),
    receive
        {'DOWN', Monitor, process, Waiter, Reason} -> {answer, {ok, 1}} = Reason
    end,
    Delivered = erlang:trace_delivered(all),
    receive
        {trace_delivered, all, Delivered} -> ok
    end,
    ?assert(length([in || {trace, _, in, _} <- messages:taken(trace)]) =< 3).

%% Waits until these processes, and no others, wait for attributes.
asleep(Zone, Pids) ->
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= length(Pids) end, 60),
    lists:foreach(fun timed_call:at_rest/1, Pids).

waiter(Zone, Name, Key) ->
    Asked = ask(fun() -> getattr(Zone, Name, Key, infinity) end),
    callers:waiting(),
    Asked.

every_kind_of_write_wakes_a_waiter(Config) ->
    Zone = zone(Config),
    Writes = [
        {?NAME, fun(K) -> setattr(Zone, ?NAME, K, 1) end},
        {?NAME, fun(K) -> setattr(Zone, ?NAME, [{other, K}, {K, 1}]) end},
        {?NAME, fun(K) -> increment(Zone, ?NAME, K, 1, 0) end},
        {?VOID, fun(K) -> increment(Zone, ?VOID, K, 1, 0) end},
        {?NAME, fun(K) -> increment(Zone, ?NAME, K, 1 - (1 bsl 70), 1 bsl 70) end}
    ],
    [
        begin
            Asked = waiter(Zone, Name, {key, N}),
            _ = Write({key, N}),
            ?assertEqual({N, {answer, {ok, 1}}}, {N, answer(Asked)})
        end
     || {N, {Name, Write}} <- lists:enumerate(Writes)
    ],
    %% The name is free when the wait begins. Then a child of that name starts and sets the
    %% attribute.
    Asked = waiter(Zone, new, a),
    {_, Starter} = tracked_child:gated(Zone, new),
    ok = setattr(Zone, new, a, 1),
    {answer, {ok, 1}} = answer(Asked),
    Starter ! go.

all_waiters_of_a_name_are_woken(Config) ->
    Zone = zone(Config),
    Asked = [ask(fun() -> getattr(Zone, ?NAME, N rem 10, infinity) end) || N <- lists:seq(1, 2000)],
    callers:waiting(),
    [ok = setattr(Zone, ?NAME, Key, {value, Key}) || Key <- lists:seq(0, 9)],
    [
        ?assertEqual({answer, {ok, {value, N rem 10}}}, answer(One))
     || {N, One} <- lists:enumerate(Asked)
    ].

a_write_of_another_attribute_does_not_end_a_wait(Config) ->
    Zone = zone(Config),
    Asked = waiter(Zone, ?NAME, late),
    [ok = setattr(Zone, ?NAME, N, N) || N <- lists:seq(1, 100)],
    ok = setattr(Zone, ?NAME, late, {1, 2}),
    {answer, {ok, {1, 2}}} = answer(Asked).

%% Writes and timeouts coincide again and again. No message, no monitor and no waiter is left.
nothing_is_left_of_waiters(Config) ->
    Zone = zone(Config),
    Write = fun(N) ->
        ok = setattr(Zone, ?NAME, a, N),
        ok = delattr(Zone, ?NAME, a)
    end,
    Look = fun() ->
        _ = getattr(Zone, ?NAME, a, 1),
        process_info(self(), [messages, monitors])
    end,
    [
        ?assertEqual([[{messages, []}, {monitors, []}]], lists:usort(Answers))
     || Answers <- while_writing(Write, 300, [Look, Look])
    ],
    0 = proctab_nif:waiting(Zone).

%% A write would wake the waiter of a dead process, which costs time.
a_killed_waiter_is_forgotten(Config) ->
    Zone = zone(Config),
    Waiters = [
        spawn(fun() -> getattr(Zone, ?NAME, never, infinity) end)
     || _ <- lists:seq(1, 1000)
    ],
    asleep(Zone, Waiters),
    lists:foreach(fun tracked_child:kill/1, Waiters),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 0 end, 60).

waiters_get_badarg_when_the_zone_ends(Config) ->
    Zone = zone(Config),
    Waiters = [ask(fun() -> getattr(Zone, Name, never, infinity) end) || Name <- [?NAME, ?VOID]],
    callers:waiting(),
    ok = gen_server:stop(Zone),
    [?assertMatch({badarg, _}, answer(Asked)) || Asked <- Waiters].

%% The process is suspended when it waits in the table of the first zone and has not noticed the
%% end of that zone. So large a name is read on a dirty scheduler.
a_waiter_is_woken_by_the_next_zone_of_that_name(Config) ->
    Zone = zone(Config),
    Name = lists:seq(1, 20000),
    {Waiter, Asked} = suspended_waiter(Zone, Name),
    _ = tracked_child:kill(whereis(Zone)),
    Zone = zones:zone(Zone),
    true = erlang:resume_process(Waiter),
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 1 end, 60),
    1 = gen_tracker:increment(Zone, Name, late, 1, 0),
    ?assertMatch(
        {'DOWN', Asked, process, Waiter, {answer, {ok, 1}}}, messages:await('DOWN', Asked)
    ).

suspended_waiter(Zone, Name) ->
    {Waiter, Asked} = spawn_monitor(fun() ->
        exit({answer, getattr(Zone, Name, late, infinity)})
    end),
    until_registered(Zone),
    true = erlang:suspend_process(Waiter),
    case process_info(Waiter, monitors) of
        {monitors, []} ->
            {Waiter, Asked};
        {monitors, _} ->
            _ = tracked_child:kill(Waiter),
            none_waits(Zone),
            suspended_waiter(Zone, Name)
    end.

until_registered(Zone) ->
    case proctab_nif:waiting(Zone) of
        0 -> until_registered(Zone);
        1 -> ok
    end.

none_waits(Zone) ->
    wait:until(fun() -> proctab_nif:waiting(Zone) =:= 0 end, 60).

a_timeout_longer_than_that_of_any_receive_is_waited_for(Config) ->
    Zone = zone(Config),
    Asked = ask(fun() -> getattr(Zone, ?NAME, late, 1 bsl 40) end),
    callers:waiting(),
    ok = setattr(Zone, ?NAME, late, 1),
    {answer, {ok, 1}} = answer(Asked).
