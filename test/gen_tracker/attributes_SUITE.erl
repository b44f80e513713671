%% Promise: any process may set, read, wait for, count, list and delete attributes, and no such
%% call sends a message.
%%
%% The child ?NAME runs in the zone of each case. No child has the name ?VOID.
-module(attributes_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [answer/1, apart/1, ask/1, waiting/0]).
-import(tracked_child, [open/2]).
-import(zone_hook, [zone/1]).
-import(gen_tracker, [attrs/2, delattr/3, getattr/3, getattr/4, increment/4, increment/5, info/2]).
-import(gen_tracker, [info/3, list/1, list/2, setattr/3, setattr/4]).

-define(NAME, <<"tv1">>).
-define(VOID, <<"nobody">>).

suite() ->
    [{timetrap, {minutes, 5}}, {ct_hooks, [{zone_hook, [{open, ?NAME}]}]}].

all() ->
    [
        an_attribute_that_was_set_is_read_until_it_is_set_again,
        setattr_of_several_pairs_sets_them_all_and_nothing_else,
        setattr_of_a_map_sets_its_pairs,
        the_last_of_equal_keys_in_one_setattr_wins,
        elements_that_are_not_pairs_are_ignored,
        the_attributes_of_different_names_are_independent,
        setattr_of_a_name_without_a_child_is_void_setting,
        a_starting_child_takes_attributes,
        a_terminating_child_takes_no_attributes_and_can_still_be_read,
        nothing_is_left_of_a_child_that_was_terminated,
        getattr_with_a_timeout_reads_at_least_once,
        getattr_with_a_timeout_waits_for_the_attribute,
        getattr_with_a_timeout_waits_for_a_name_without_a_child,
        getattr_with_a_timeout_returns_undefined_and_sleeps_until_then,
        getattr_with_a_timeout_leaves_no_message_and_takes_none,
        delattr_returns_ok_whether_the_attribute_existed_or_not,
        increment_returns_the_new_value,
        increment_of_a_value_that_is_no_integer_is_badarg,
        increment_crosses_60_63_and_64_bits_in_both_directions,
        increment_with_a_default_uses_it_only_if_the_attribute_is_missing,
        increment_with_a_default_works_on_a_name_without_a_child,
        attributes_of_a_name_without_a_child_are_removed_with_the_next_child_of_that_name,
        attributes_of_a_name_without_a_child_are_removed_with_the_zone,
        info_with_keys_returns_only_those,
        list_returns_every_child_that_has_a_pid,
        list_with_keys_returns_only_those,
        one_name_holds_20000_attributes,
        no_function_on_attributes_sends_a_message,
        no_function_on_attributes_waits_for_the_tracker
    ].

%% Setting and reading

an_attribute_that_was_set_is_read_until_it_is_set_again(Config) ->
    Zone = zone(Config),
    undefined = getattr(Zone, ?NAME, url),
    [] = info(Zone, ?NAME),
    [
        begin
            ok = setattr(Zone, ?NAME, url, Value),
            {ok, Value} = getattr(Zone, ?NAME, url),
            [{url, Value}] = info(Zone, ?NAME),
            [{url, Value}] = attrs(Zone, ?NAME)
        end
     || Value <- [<<"rtmp://a">>, 1, 1 bsl 80, {a, b}, 2, undefined, [], #{a => 1}]
    ],
    undefined = getattr(Zone, ?NAME, other),
    undefined = getattr(Zone, ?VOID, url),
    [] = info(Zone, ?VOID),
    [] = attrs(Zone, ?VOID).

setattr_of_several_pairs_sets_them_all_and_nothing_else(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, old}]),
    ok = setattr(Zone, ?NAME, [{b, new}, {<<"c">>, 3.0}, {{d, 4}, [e]}]),
    ok = setattr(Zone, ?NAME, []),
    All = lists:sort([{a, 1}, {b, new}, {<<"c">>, 3.0}, {{d, 4}, [e]}]),
    All = lists:sort(info(Zone, ?NAME)),
    All = lists:sort(attrs(Zone, ?NAME)).

setattr_of_a_map_sets_its_pairs(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, #{a => 1, b => old}),
    ok = setattr(Zone, ?NAME, #{b => new, 1 => one, 1.0 => <<"one">>}),
    ok = setattr(Zone, ?NAME, #{}),
    [{1, one}, {1.0, <<"one">>}, {a, 1}, {b, new}] = lists:sort(info(Zone, ?NAME)),
    Many = maps:from_list([{Key, -Key} || Key <- lists:seq(1, 5000)]),
    ok = setattr(Zone, ?NAME, Many),
    {ok, -5000} = getattr(Zone, ?NAME, 5000),
    ?assertError({void_setting, Zone, ?VOID, [a]}, setattr(Zone, ?VOID, #{a => 1})),
    ?assertError({void_setting, Zone, ?VOID, []}, setattr(Zone, ?VOID, #{})),
    ?assertError(badarg, setattr(not_running, ?NAME, #{a => 1})).

the_last_of_equal_keys_in_one_setattr_wins(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, 1}, {a, two}, {a, 3}]),
    [{a, 3}, {b, 1}] = lists:sort(info(Zone, ?NAME)).

elements_that_are_not_pairs_are_ignored(Config) ->
    Zone = zone(Config),
    ok = setattr(
        Zone, ?NAME, [a, {b}, {c, 1, 2}, [], [d | 1], #{e => 1}, {f, 1}, <<"g">>, {}, {h, 2}]
    ),
    [{f, 1}, {h, 2}] = lists:sort(info(Zone, ?NAME)).

the_attributes_of_different_names_are_independent(Config) ->
    Zone = zone(Config),
    Names = [?NAME, tv1, "tv1", {?NAME, a}],
    _ = [open(Zone, Name) || Name <- tl(Names)],
    [ok = setattr(Zone, Name, [{a, {about, Name}}, {n, 0}]) || Name <- Names],
    [1 = increment(Zone, Name, n, 1) || Name <- Names],
    ok = delattr(Zone, ?NAME, a),
    [{n, 1}] = info(Zone, ?NAME),
    [[{a, {about, Name}}, {n, 1}] = lists:sort(info(Zone, Name)) || Name <- tl(Names)].

setattr_of_a_name_without_a_child_is_void_setting(Config) ->
    Zone = zone(Config),
    ?assertError(
        {void_setting, Zone, ?VOID, [a, {b, c}]}, setattr(Zone, ?VOID, [{a, 1}, {{b, c}, 2}])
    ),
    ?assertError({void_setting, Zone, ?VOID, a}, setattr(Zone, ?VOID, a, 1)),
    [] = info(Zone, ?VOID).

a_starting_child_takes_attributes(Config) ->
    Zone = zone(Config),
    {Asked, Starter} = tracked_child:gated(Zone, starting),
    ok = setattr(Zone, starting, a, 1),
    ok = setattr(Zone, starting, [{b, 2}, {c, 3}]),
    4 = increment(Zone, starting, c, 1),
    [{a, 1}, {b, 2}, {c, 4}] = lists:sort(info(Zone, starting)),
    Starter ! go,
    {answer, {ok, _}} = answer(Asked),
    [{a, 1}, {b, 2}, {c, 4}] = lists:sort(info(Zone, starting)).

a_terminating_child_takes_no_attributes_and_can_still_be_read(Config) ->
    Zone = zone(Config),
    {_, Cleaner} = tracked_child:terminating(Zone, ending),
    ?assertError({void_setting, Zone, ending, [a]}, setattr(Zone, ending, [{a, 1}])),
    ?assertError({void_setting, Zone, ending, a}, setattr(Zone, ending, a, 1)),
    {ok, Last} = getattr(Zone, ending, last),
    [{last, Last}] = info(Zone, ending),
    Cleaner ! done,
    tracked_child:forgotten(Zone, ending).

nothing_is_left_of_a_child_that_was_terminated(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{Key, Key} || Key <- lists:seq(1, 100)]),
    ok = supervisor:terminate_child(Zone, ?NAME),
    undefined = getattr(Zone, ?NAME, 1),
    [] = info(Zone, ?NAME),
    [] = list(Zone),
    ?assertError({void_setting, Zone, ?NAME, a}, setattr(Zone, ?NAME, a, 1)),
    _ = open(Zone, ?NAME),
    [] = info(Zone, ?NAME).

%% getattr/4

getattr_with_a_timeout_reads_at_least_once(Config) ->
    Zone = zone(Config),
    undefined = getattr(Zone, ?NAME, a, 0),
    ok = setattr(Zone, ?NAME, a, 1),
    {ok, 1} = getattr(Zone, ?NAME, a, 0),
    {ok, 1} = getattr(Zone, ?NAME, a, 60000).

getattr_with_a_timeout_waits_for_the_attribute(Config) ->
    Zone = zone(Config),
    Keys = lists:seq(1, 50),
    Asked = [{Key, ask(fun() -> getattr(Zone, ?NAME, Key, 60000) end)} || Key <- Keys ++ Keys],
    waiting(),
    ok = setattr(Zone, ?NAME, other, 1),
    [ok = setattr(Zone, ?NAME, Key, {value, Key}) || Key <- Keys],
    [{answer, {ok, {value, Key}}} = answer(Monitor) || {Key, Monitor} <- Asked].

getattr_with_a_timeout_waits_for_a_name_without_a_child(Config) ->
    Zone = zone(Config),
    Set = ask(fun() -> getattr(Zone, later, a, 60000) end),
    Counted = ask(fun() -> getattr(Zone, ?VOID, a, 60000) end),
    waiting(),
    _ = open(Zone, later),
    ok = setattr(Zone, later, [{b, 2}, {a, 1}]),
    7 = increment(Zone, ?VOID, a, 1, 6),
    {answer, {ok, 1}} = answer(Set),
    {answer, {ok, 7}} = answer(Counted).

%% A loop that does not sleep takes millions of reductions in this time.
getattr_with_a_timeout_returns_undefined_and_sleeps_until_then(Config) ->
    Zone = zone(Config),
    Reductions = apart(fun() ->
        undefined = getattr(Zone, ?NAME, a, 300),
        {reductions, Reductions} = process_info(self(), reductions),
        Reductions
    end),
    ?assert(Reductions < 100000).

getattr_with_a_timeout_leaves_no_message_and_takes_none(Config) ->
    Zone = zone(Config),
    [] = apart(fun() ->
        self() ! mine,
        undefined = getattr(Zone, ?NAME, a, 10),
        ok = setattr(Zone, ?NAME, a, 1),
        {ok, 1} = getattr(Zone, ?NAME, a, 10),
        {messages, Messages} = process_info(self(), messages),
        Messages -- [mine]
    end),
    Waiting = ask(fun() ->
        {ok, 2} = getattr(Zone, ?NAME, b, 60000),
        process_info(self(), messages)
    end),
    waiting(),
    ok = setattr(Zone, ?NAME, b, 2),
    {answer, {messages, []}} = answer(Waiting).

%% delattr and increment

delattr_returns_ok_whether_the_attribute_existed_or_not(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, b}]),
    ok = delattr(Zone, ?NAME, a),
    ok = delattr(Zone, ?NAME, a),
    ok = delattr(Zone, ?VOID, a),
    undefined = getattr(Zone, ?NAME, a),
    [{b, b}] = info(Zone, ?NAME),
    ?assertError(badarg, increment(Zone, ?NAME, a, 1)),
    ok = setattr(Zone, ?NAME, a, 2),
    {ok, 2} = getattr(Zone, ?NAME, a).

increment_returns_the_new_value(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, bytes, 10),
    [13, 13, 3, -97] = [increment(Zone, ?NAME, bytes, Incr) || Incr <- [3, 0, -10, -100]],
    {ok, -97} = getattr(Zone, ?NAME, bytes).

increment_of_a_value_that_is_no_integer_is_badarg(Config) ->
    Zone = zone(Config),
    Attrs = lists:sort([{n, 1}, {float, 1.0}, {binary, <<1>>}, {list, [1]}, {atom, one}]),
    ok = setattr(Zone, ?NAME, Attrs),
    [
        begin
            ?assertError(badarg, increment(Zone, ?NAME, Key, 1)),
            ?assertError(badarg, increment(Zone, ?NAME, Key, 1, 0))
        end
     || Key <- [float, binary, list, atom]
    ],
    ?assertError(badarg, increment(Zone, ?NAME, missing, 1)),
    ?assertError(badarg, increment(Zone, ?VOID, n, 1)),
    ?assertError(badarg, increment(Zone, ?NAME, n, 1.0)),
    Attrs = lists:sort(info(Zone, ?NAME)),
    [] = info(Zone, ?VOID).

increment_crosses_60_63_and_64_bits_in_both_directions(Config) ->
    [
        counts_as_erlang_does(zone(Config), Sign * (1 bsl Bits) + Distance, Incr)
     || Bits <- [31, 32, 58, 59, 60, 62, 63, 64, 65, 127, 128, 2000],
        Sign <- [1, -1],
        Distance <- [-2, -1, 0, 1, 2],
        Incr <- [1, -1, 3, 1 bsl Bits, -(1 bsl Bits), -(1 bsl (Bits + 1)), 1 bsl 70]
    ].

counts_as_erlang_does(Zone, Start, Incr) ->
    ok = setattr(Zone, ?NAME, n, Start),
    Up = [Start + N * Incr || N <- [1, 2, 3]],
    ?assertEqual(Up, [increment(Zone, ?NAME, n, Incr) || _ <- Up]),
    ?assertEqual({ok, lists:last(Up)}, getattr(Zone, ?NAME, n)),
    Down = tl(lists:reverse([Start | Up])),
    ?assertEqual(Down, [increment(Zone, ?NAME, n, -Incr) || _ <- Down]),
    ok = delattr(Zone, ?NAME, n),
    ?assertEqual(hd(Up), increment(Zone, ?NAME, n, Incr, Start)),
    ?assertEqual([{n, hd(Up)}], info(Zone, ?NAME)).

increment_with_a_default_uses_it_only_if_the_attribute_is_missing(Config) ->
    Zone = zone(Config),
    105 = increment(Zone, ?NAME, n, 5, 100),
    110 = increment(Zone, ?NAME, n, 5, 100),
    {ok, 110} = getattr(Zone, ?NAME, n).

increment_with_a_default_works_on_a_name_without_a_child(Config) ->
    Zone = zone(Config),
    6 = increment(Zone, ?VOID, n, 1, 5),
    7 = increment(Zone, ?VOID, n, 1, 5),
    8 = increment(Zone, ?VOID, n, 1),
    {ok, 8} = getattr(Zone, ?VOID, n),
    [{n, 8}] = info(Zone, ?VOID),
    undefined = gen_tracker:find(Zone, ?VOID),
    [{?NAME, _, worker, _}] = gen_tracker:which_children(Zone),
    [{?NAME, _}] = list(Zone),
    ?assertError({void_setting, Zone, ?VOID, n}, setattr(Zone, ?VOID, n, 1)),
    ok = delattr(Zone, ?VOID, n),
    [] = info(Zone, ?VOID).

attributes_of_a_name_without_a_child_are_removed_with_the_next_child_of_that_name(Config) ->
    Zone = zone(Config),
    1 = increment(Zone, ?VOID, n, 1, 0),
    _ = open(Zone, ?VOID),
    {ok, 1} = getattr(Zone, ?VOID, n),
    ok = supervisor:terminate_child(Zone, ?VOID),
    [] = info(Zone, ?VOID).

attributes_of_a_name_without_a_child_are_removed_with_the_zone(Config) ->
    Zone = zone(Config),
    1 = increment(Zone, ?VOID, n, 1, 0),
    zones:stop_zone(Zone),
    ?assertError(badarg, getattr(Zone, ?VOID, n)),
    [] = info(zones:zone(Zone), ?VOID).

%% info and list

info_with_keys_returns_only_those(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, b}, {3, c}]),
    [] = info(Zone, ?NAME, []),
    [{a, 1}] = info(Zone, ?NAME, [a]),
    [{3, c}, {b, b}] = lists:sort(info(Zone, ?NAME, [b, missing, 3, 3.0])),
    [] = info(Zone, ?VOID, [a]).

list_returns_every_child_that_has_a_pid(Config) ->
    Zone = zone(Config),
    {ok, First} = gen_tracker:find(Zone, ?NAME),
    Second = open(Zone, {second, 2}),
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, 2}]),
    {Asked, Starter} = tracked_child:gated(Zone, starting),
    ok = setattr(Zone, starting, a, 1),
    [{{second, 2}, [{pid, Second}]}, {?NAME, [{pid, First} | Attrs]}] = lists:sort(list(Zone)),
    [{a, 1}, {b, 2}] = lists:sort(Attrs),
    Starter ! go,
    {answer, {ok, Third}} = answer(Asked),
    {_, [{pid, Third}, {a, 1}]} = lists:keyfind(starting, 1, list(Zone)).

list_with_keys_returns_only_those(Config) ->
    Zone = zone(Config),
    {ok, First} = gen_tracker:find(Zone, ?NAME),
    Second = open(Zone, {second, 2}),
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, 2}]),
    ok = setattr(Zone, {second, 2}, [{b, 3}, {c, 4}]),
    [{_, [{pid, Second}]}, {_, [{pid, First}]}] = lists:sort(list(Zone, [])),
    [{_, [{pid, Second}]}, {_, [{pid, First}, {a, 1}]}] = lists:sort(list(Zone, [a])),
    [
        {_, [{pid, Second}, {b, 3}]},
        {_, [{pid, First}, {b, 2}]}
    ] = lists:sort(list(Zone, [missing, b])).

one_name_holds_20000_attributes(Config) ->
    Zone = zone(Config),
    Key = fun(N) -> element(N rem 3 + 1, {N, {key, N}, integer_to_binary(N)}) end,
    Pairs = [{Key(N), element(N rem 2 + 1, {N, {value, N}})} || N <- lists:seq(1, 20000)],
    [ok = setattr(Zone, ?NAME, K, V) || {K, V} <- Pairs],
    ?assertEqual(lists:sort(Pairs), lists:sort(info(Zone, ?NAME))),
    [{ok, V} = getattr(Zone, ?NAME, K) || {K, V} <- Pairs],
    {Gone, Kept} = lists:split(10000, Pairs),
    [ok = delattr(Zone, ?NAME, K) || {K, _} <- Gone],
    ?assertEqual(lists:sort(Kept), lists:sort(attrs(Zone, ?NAME))),
    [undefined = getattr(Zone, ?NAME, K) || {K, _} <- Gone],
    Counters = [{K, N} || {{K, _}, N} <- lists:zip(Pairs, lists:seq(1, 20000))],
    ok = setattr(Zone, ?NAME, Counters),
    Counted = [{K, increment(Zone, ?NAME, K, N)} || {K, N} <- Counters],
    ?assertEqual([{K, 2 * N} || {K, N} <- Counters], Counted),
    [{_, [{pid, _} | Listed]}] = list(Zone),
    ?assertEqual(lists:sort(Counted), lists:sort(Listed)).

%% No messages

no_function_on_attributes_sends_a_message(Config) ->
    {{answer, ok}, []} = callers:sent_by(fun() -> call_them_all(zone(Config)) end).

no_function_on_attributes_waits_for_the_tracker(Config) ->
    ok = sys:suspend(zone(Config)),
    ok = call_them_all(zone(Config)),
    ok = sys:resume(zone(Config)).

call_them_all(Zone) ->
    ok = setattr(Zone, ?NAME, [{a, 1}, {b, b}]),
    ok = setattr(Zone, ?NAME, c, c),
    2 = increment(Zone, ?NAME, a, 1),
    3 = increment(Zone, ?NAME, d, 1, 2),
    ok = delattr(Zone, ?NAME, d),
    {ok, b} = getattr(Zone, ?NAME, b),
    {ok, b} = getattr(Zone, ?NAME, b, 1000),
    undefined = getattr(Zone, ?NAME, d, 5),
    [3 = length(Attrs) || Attrs <- [info(Zone, ?NAME), attrs(Zone, ?NAME)]],
    [{a, 2}] = info(Zone, ?NAME, [a]),
    [{?NAME, [{pid, _}, _, _, _]}] = list(Zone),
    [{?NAME, [{pid, _}, {a, 2}]}] = list(Zone, [a]),
    ok.
