%% Promise: `gen_tracker:update/4` replaces a value by what a function makes of it, and no change of
%% another process is lost.
-module(update_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(gen_tracker, [getattr/3, setattr/4, update/4]).
-import(zone_hook, [zone/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [{open, ?NAME}]}]}].

all() ->
    [
        the_value_is_replaced,
        the_function_runs_in_the_caller_and_again_after_another_change,
        nothing_changes_when_the_function_raises,
        a_missing_attribute_or_child_is_undefined,
        a_zone_that_ends_or_is_replaced_while_the_function_runs,
        a_term_that_is_too_large_changes_nothing,
        zeros_of_both_signs_are_replaced,
        no_update_is_lost,
        wrong_arguments_are_badarg
    ].

the_value_is_replaced(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, list, [1]),
    {ok, [2, 1]} = update(Zone, ?NAME, list, fun(List) -> [2 | List] end),
    {ok, [2, 1]} = getattr(Zone, ?NAME, list),
    Values = [1, 1 bsl 62, 1.5, binary:copy(<<1>>, 10000), #{a => 1}, fun() -> ok end, self()],
    [
        begin
            {ok, Value} = update(Zone, ?NAME, list, fun(_) -> Value end),
            {ok, Value} = getattr(Zone, ?NAME, list)
        end
     || Value <- Values ++ lists:reverse(Values)
    ].

the_function_runs_in_the_caller_and_again_after_another_change(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, 1),
    Test = self(),
    {ok, {seen, 3}} = update(Zone, ?NAME, n, fun(Value) ->
        Test = self(),
        self() ! {saw, Value},
        _ = Value < 3 andalso setattr(Zone, ?NAME, n, Value + 1),
        {seen, Value}
    end),
    ?assertEqual([{saw, 1}, {saw, 2}, {saw, 3}], messages:taken(saw)).

nothing_changes_when_the_function_raises(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, 1),
    ?assertError(badarg, update(Zone, ?NAME, n, fun(_) -> error(badarg) end)),
    ?assertError(mine, update(Zone, ?NAME, n, fun(_) -> error(mine) end)),
    ?assertExit(mine, update(Zone, ?NAME, n, fun(_) -> exit(mine) end)),
    ?assertThrow(mine, update(Zone, ?NAME, n, fun(_) -> throw(mine) end)),
    {ok, 1} = getattr(Zone, ?NAME, n).

a_missing_attribute_or_child_is_undefined(Config) ->
    Zone = zone(Config),
    Never = fun(_) -> error(called) end,
    undefined = update(Zone, ?NAME, missing, Never),
    undefined = update(Zone, nobody, n, Never),
    1 = gen_tracker:increment(Zone, vacant, n, 1, 0),
    undefined = update(Zone, vacant, n, fun(Value) -> Value + 1 end),
    {ok, 1} = getattr(Zone, vacant, n),
    {_, Cleaner} = tracked_child:terminating(Zone, terminating),
    undefined = update(Zone, terminating, last, fun(_) -> none end),
    Cleaner ! done,
    %% The child dies while the function runs.
    ok = setattr(Zone, ?NAME, n, 1),
    undefined = update(Zone, ?NAME, n, fun(_) -> supervisor:terminate_child(Zone, ?NAME) end).

%% The function takes as long as it likes: no lock is held. What counts is what is there then.
a_zone_that_ends_or_is_replaced_while_the_function_runs(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, 1),
    End = fun() -> gen_server:stop(Zone) end,
    Replace = fun() ->
        ok = End(),
        {ok, _} = gen_tracker:start_link(Zone),
        _ = tracked_child:open(Zone, ?NAME),
        ok
    end,
    undefined = update(Zone, ?NAME, n, fun(N) -> ok = Replace(), N + 1 end),
    undefined = getattr(Zone, ?NAME, n),
    ok = setattr(Zone, ?NAME, n, 1),
    ?assertError(badarg, update(Zone, ?NAME, n, fun(N) -> ok = End(), N + 1 end)).

a_term_that_is_too_large_changes_nothing(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, 1),
    Endless = wrong_calls:without_end(),
    ?assertError(badarg, update(Zone, ?NAME, n, fun(_) -> Endless end)),
    {ok, 1} = getattr(Zone, ?NAME, n).

zeros_of_both_signs_are_replaced(Config) ->
    Zone = zone(Config),
    [
        begin
            ok = setattr(Zone, ?NAME, zero, Zero),
            {ok, {1, _}} = update(Zone, ?NAME, zero, fun(Value) -> {1, Value} end)
        end
     || Zero <- [0, 0.0, -0.0, {0.0, -0.0}, {-0.0, 0.0}, #{0.0 => -0.0}]
    ].

no_update_is_lost(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, both, {0, []}),
    Add = fun({Count, List}) -> {Count + 1, lists:sublist([Count | List], 5)} end,
    Update = fun() -> [{ok, _} = update(Zone, ?NAME, both, Add) || _ <- lists:seq(1, 500)] end,
    _ = callers:together([Update, Update, Update]),
    ?assertEqual({ok, {1500, [1499, 1498, 1497, 1496, 1495]}}, getattr(Zone, ?NAME, both)).

wrong_arguments_are_badarg(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, 1),
    [
        ?assertError(badarg, update(Zone, ?NAME, n, Fun))
     || Fun <- [fun() -> 2 end, fun(_, _) -> 2 end, 2, erlang]
    ],
    ?assertError(badarg, update(not_running, ?NAME, n, fun(_) -> 2 end)),
    ?assertError(badarg, update(self(), ?NAME, n, fun(_) -> 2 end)),
    {ok, 1} = getattr(Zone, ?NAME, n).
