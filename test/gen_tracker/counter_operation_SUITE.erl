%% Promise: `increment/4` and `increment/5` take the operations of `ets:update_counter/4` on the
%% second element, and return what it returns. Each case does the same to a counter in ETS.
-module(counter_operation_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [plain/1]).
-import(zones, [zone/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        increment_takes_an_operation_of_ets_update_counter,
        increment_takes_an_operation_with_a_threshold,
        increment_takes_operations_past_64_bits,
        increment_takes_an_operation_where_there_is_a_default,
        other_operations_of_ets_update_counter_are_badarg,
        a_default_that_is_no_integer_matters_only_where_the_attribute_is_missing
    ].

counting(Zone, Value) ->
    {ok, _} = gen_tracker:find_or_open(Zone, plain(child)),
    ok = gen_tracker:setattr(Zone, child, n, Value),
    Table = ets:new(counters, []),
    true = ets:insert(Table, {n, Value}),
    fun(Operation) ->
        Expected = ets:update_counter(Table, n, Operation),
        Sum = gen_tracker:increment(Zone, child, n, Operation),
        ?assertEqual({Operation, Expected}, {Operation, Sum}),
        ?assertEqual({ok, Expected}, gen_tracker:getattr(Zone, child, n)),
        Expected
    end.

increment_takes_an_operation_of_ets_update_counter(_) ->
    Count = counting(zone(?FUNCTION_NAME), 10),
    [13, 13, 3, -97, -96] = [Count(Op) || Op <- [{2, 3}, {2, 0}, {2, -10}, {2, -100}, 1]].

increment_takes_an_operation_with_a_threshold(_) ->
    Count = counting(zone(?FUNCTION_NAME), 10),
    Operations = [
        {2, 5, 20, 0},
        {2, 5, 20, 0},
        {2, 1, 20, 0},
        {2, -1, 0, 7},
        {2, -1, 6, 100},
        {2, 0, 99, -1},
        {2, 0, 0, 3},
        {2, -4, 0, 1000},
        {2, 1, 1000, 1 bsl 80}
    ],
    Large = 1 bsl 80,
    [15, 20, 0, 7, 6, 6, 3, 1000, Large] = [Count(Operation) || Operation <- Operations].

increment_takes_operations_past_64_bits(_) ->
    Zone = zone(?FUNCTION_NAME),
    Large = [1 bsl 58, 1 bsl 59, 1 bsl 62, 1 bsl 63, 1 bsl 64, 1 bsl 200],
    Integers = [Sign * N + Distance || N <- [0 | Large], Sign <- [1, -1], Distance <- [-1, 0, 1]],
    [
        begin
            Count = counting(Zone, Start),
            [Count({2, Incr}) || Incr <- [1, -1, Start, -Start]],
            [
                Count({2, Incr, Threshold, Start})
             || Threshold <- Integers, Incr <- [1, -1, Threshold, -Threshold]
            ]
        end
     || Start <- Integers
    ].

increment_takes_an_operation_where_there_is_a_default(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(child)),
    Table = ets:new(counters, []),
    [
        begin
            Key = {Operation, Default, Name},
            Expected = [ets:update_counter(Table, Key, Operation, {Key, Default}) || _ <- [1, 2]],
            Increment = fun() -> gen_tracker:increment(Zone, Name, Key, Operation, Default) end,
            ?assertEqual({Key, Expected}, {Key, [Increment() || _ <- [1, 2]]})
        end
     || Operation <- [5, {2, 5}, {2, 5, 107, 1}, {2, -5, 3, 1 bsl 70}, {2, 1 bsl 64}],
        Default <- [0, 100, -(1 bsl 63), 1 bsl 70],
        Name <- [child, nobody]
    ].

other_operations_of_ets_update_counter_are_badarg(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = counting(Zone, 10),
    Wrong = [
        {1, 1},
        {3, 1},
        {0, 1},
        {2},
        {2, 1.0},
        {2, a},
        {2, 1, 2},
        {2, 1, 2, a},
        {2, 1, 2.0, 3},
        {2, a, 2, 3},
        {3, 1, 2, 3},
        {2, 1, 2, 3, 4},
        {2.0, 1},
        [],
        [{2, 1}],
        [1],
        {},
        a,
        1.0
    ],
    [
        begin
            ?assertError(badarg, gen_tracker:increment(Zone, child, n, Operation)),
            ?assertError(badarg, gen_tracker:increment(Zone, child, n, Operation, 0)),
            ?assertError(badarg, gen_tracker:increment(Zone, child, missing, Operation, 0))
        end
     || Operation <- Wrong
    ],
    ok = gen_tracker:setattr(Zone, child, text, <<"10">>),
    [
        begin
            ?assertError(badarg, gen_tracker:increment(Zone, child, Key, Operation)),
            ?assertError(badarg, gen_tracker:increment(Zone, child, text, Operation, 0))
        end
     || Key <- [text, missing], Operation <- [{2, 1}, {2, 1, 2, 3}]
    ],
    ?assertEqual([{n, 10}, {text, <<"10">>}], lists:sort(gen_tracker:info(Zone, child))).

a_default_that_is_no_integer_matters_only_where_the_attribute_is_missing(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = counting(Zone, 0),
    Increment = fun(Key, Operation, Default) ->
        gen_tracker:increment(Zone, child, Key, Operation, Default)
    end,
    Defaults = [undefined, 1.0, [], <<"0">>, {0}, #{}],
    Operations = [1, {2, 1}, {2, 1, 1 bsl 70, 0}],
    Sums = [Increment(n, Operation, Default) || Default <- Defaults, Operation <- Operations],
    ?assertEqual(lists:seq(1, length(Sums)), Sums),
    [
        ?assertError(badarg, Increment(missing, Operation, Default))
     || Default <- Defaults, Operation <- Operations
    ],
    ok = gen_tracker:setattr(Zone, child, n, 1 bsl 80),
    ?assertEqual((1 bsl 80) + 1, Increment(n, 1, undefined)),
    ?assertEqual([{n, (1 bsl 80) + 1}], gen_tracker:info(Zone, child)).
