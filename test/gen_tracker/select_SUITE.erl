%% Promise: `select/1,2,3` and `select_count/2` answer as the functions of `ets` do for a table with
%% a row for each running child, page by page; `sum/2` adds up an attribute of all of them.
-module(select_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(gen_tracker, [select/1, select/2, select/3, select_count/2, setattr/3, setattr/4, sum/2]).
-import(tracked_child, [loose/1, open/2]).
-import(zone_hook, [zone/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        the_rows_are_those_of_running_children,
        the_answers_are_those_of_ets,
        comparisons_are_those_of_ets_for_every_kind_of_value,
        random_match_specifications_are_answered_as_by_ets,
        several_attributes_are_selected_as_of_one_moment,
        a_row_that_always_matches_one_of_two_clauses_is_always_selected,
        keys_that_look_alike_are_different,
        a_row_has_all_attributes_where_the_match_specification_uses_it,
        a_limit_returns_portions_until_the_end_of_the_table,
        a_portion_reads_no_further_than_it_has_to,
        a_large_zone_is_read_in_the_memory_of_a_small_one,
        a_continuation_that_was_stored_goes_on,
        a_child_that_lives_throughout_is_selected_exactly_once,
        a_large_row_is_selected_on_a_dirty_scheduler,
        malformed_match_specifications_and_limits_are_badarg,
        a_sum_passes_over_what_is_no_integer,
        a_sum_has_no_limit,
        a_sum_counts_running_children_only,
        no_selection_sends_a_message
    ].

-define(ALL, [{'_', [], ['$_']}]).

the_rows_are_those_of_running_children(Config) ->
    Zone = zone(Config),
    ?assertEqual([], select(Zone, ?ALL)),
    Child = open(Zone, <<"tv1">>),
    ok = setattr(Zone, <<"tv1">>, #{url => "a", n => 1, {1, 2} => -0.0}),
    Bare = open(Zone, bare),
    {_, Cleaner} = tracked_child:terminating(Zone, terminating),
    {Asked, Starter} = tracked_child:gated(Zone, launching),
    1 = gen_tracker:increment(Zone, vacant, n, 1, 0),
    ?assertEqual(
        lists:sort([{<<"tv1">>, Child, #{url => "a", n => 1, {1, 2} => -0.0}}, {bare, Bare, #{}}]),
        lists:sort(select(Zone, ?ALL))
    ),
    ?assertEqual(2, select_count(Zone, [{'_', [], [true]}])),
    ?assertEqual(0, select_count(Zone, [{'_', [], [yes]}])),
    Cleaner ! done,
    Starter ! go,
    {answer, {ok, _}} = callers:answer(Asked),
    tracked_child:forgotten(Zone, terminating),
    ?assertEqual(3, select_count(Zone, [{'_', [], [true]}])).

%% A table of `ets` with the same rows.
beside(Zone) ->
    Table = ets:new(rows, [public]),
    true = ets:insert(Table, select(Zone, ?ALL)),
    Table.

populated(Zone, Count) ->
    [
        begin
            Name = element(Number rem 3 + 1, {Number, {user, Number}, integer_to_binary(Number)}),
            Pid = loose(start_link),
            yes = gen_tracker:register_name({Zone, Name}, Pid),
            ok = setattr(Zone, Name, attributes(Number)),
            Name
        end
     || Number <- lists:seq(1, Count)
    ].

attributes(Number) ->
    #{
        n => Number,
        state => element(Number rem 4 + 1, {idle, busy, "idle", {busy, Number}}),
        {room, Number rem 2} => [Number, #{owner => self()}],
        Number => float(Number)
    }.

the_answers_are_those_of_ets(Config) ->
    Zone = zone(Config),
    _ = populated(Zone, 300),
    Table = beside(Zone),
    [
        begin
            Expected = lists:sort(ets:select(Table, MatchSpec)),
            ?assertEqual(Expected, lists:sort(select(Zone, MatchSpec)), MatchSpec),
            ?assertEqual(Expected, lists:sort(in_portions(Zone, MatchSpec, 7)), MatchSpec),
            ?assertEqual(ets:select_count(Table, MatchSpec), select_count(Zone, MatchSpec))
        end
     || MatchSpec <- match_specifications()
    ].

match_specifications() ->
    [
        [],
        [{'_', [], [true]}],
        [{'$1', [], ['$1']}],
        [{{'$1', '$2', '$3'}, [], ['$$']}],
        [{{'$1', '_', '_'}, [], ['$1']}],
        [{{'$1', '_', '_'}, [], ['$_']}],
        [{{'$1', '_', '_'}, [{is_integer, '$1'}], [{{'$1', {const, '$_'}}}]}],
        [{{'_', '$1', #{state => idle}}, [], ['$1']}],
        [{{'_', '_', #{state => idle}}, [], [{{true, '$_'}}]}],
        [{{'$1', '_', #{n => '$2', state => '$3'}}, [{'>', '$2', 100}], [['$1', '$2', '$3']]}],
        [{{'$1', '_', #{n => '$2'}}, [{'>', '$2', 100}], [#{'$1' => '$2'}]}],
        [{{'$1', '_', #{{room, 1} => ['$2' | '_']}}, [], ['$2']}],
        [{{'_', '_', #{1 => '$1'}}, [], ['$1']}, {{'_', '_', #{2 => '$1'}}, [], ['$1']}],
        [{{1, '_', '_'}, [], [true]}],
        [{{1.0, '_', '_'}, [], [true]}],
        [{{{user, '$1'}, '_', '$2'}, [{'=:=', {map_get, n, '$2'}, '$1'}], ['$1']}],
        [{{'_', '_', '$1'}, [{is_map_key, {const, 5}, '$1'}], ['$1']}],
        [{{'_', '_'}, [], [true]}],
        [{{'_', '_', []}, [], [true]}],
        [{{'_', '_', #{}}, [], [true]}],
        [{{'$1', '_', #{n => '$2'}}, [{'=:=', {'rem', '$2', 10}, 0}], [{{'$1', '$2'}}]}],
        [{{'_', '_', '$1'}, [{'=:=', {map_size, '$1'}, 4}], [true]}],
        [{{'$1', '_', '$2'}, [{'>', {map_get, n, '$2'}, 100}], [{{'$1', {map_get, state, '$2'}}}]}],
        [{{'$1', '_', '$2'}, [{'>', {map_get, n, '$2'}, 100}], ['$$']}],
        [{{'$1', '_', '$2'}, [{is_map_key, 5, '$2'}], ['$1']}],
        [{{'$1', '_', '$2'}, [{'>', {map_get, '$1', '$2'}, 1}], ['$1']}],
        [{{'$2', '_', '$2'}, [], ['$2']}],
        [{{'$1', '$2', #{n => '$1'}}, [{'<', '$1', 100}], ['$1', '$2']}],
        [{{'_', '$2', #{state => {busy, '$1'}, n => '$1'}}, [], ['$$']}],
        [{{'$1', '_', #{n => '$2', state => busy}}, [{'>', 200, '$2'}], ['$1']}],
        [{{'$1', '_', #{state => "idle"}}, [{is_tuple, '$1'}], ['$1']}],
        [{{'$1', '_', #{n => 7, state => '_'}}, [], ['$_']}]
    ].

in_portions(Zone, MatchSpec, Limit) ->
    portions(select(Zone, MatchSpec, Limit), Limit).

portions('$end_of_table', _) ->
    [];
portions({Matches, Continuation}, Limit) ->
    Count = length(Matches),
    ?assert(Count =:= Limit orelse Continuation =:= '$end_of_table' andalso Count < Limit),
    Matches ++ portions(select(Continuation), Limit).

comparisons_are_those_of_ets_for_every_kind_of_value(Config) ->
    Zone = zone(Config),
    Values = [0, 1, -1, 5, 1.0, 5.0, 0.5, 1 bsl 61, 1 bsl 62, 1 bsl 64, -(1 bsl 64), a, b, true, [],
              "a", <<>>, <<"a">>, <<"b">>, <<0:7>>, binary:copy(<<"x">>, 100),
              binary:copy(<<"x">>, 5000), {1}, #{n => 1}, self(), whereis(Zone), make_ref(),
              fun erlang:self/0, [1 | 2]],
    [
        begin
            _ = open(Zone, Name),
            ok = setattr(Zone, Name, #{n => Value, other => other})
        end
     || {Name, Value} <- lists:enumerate(Values)
    ],
    _ = open(Zone, bare),
    Table = beside(Zone),
    Operators = ['<', '=<', '>', '>=', '==', '/=', '=:=', '=/='],
    Constants = [Value || Value <- Values, not is_function(Value)],
    Guards = lists:append([
        [{Operator, value, {const, Constant}}, {Operator, {const, Constant}, value}]
     || Operator <- Operators, Constant <- Constants
    ]) ++ [
        {'andalso', {'>', value, 0}, {'<', value, 5}},
        {'andalso', {is_atom, value}, {'=/=', value, a}, {'=/=', b, value}},
        {'orelse', {'>', value, 0}, {'=:=', value, a}},
        {'and', {'>', value, 0}, {'<', value, 5}},
        {'not', {'=:=', value, a}},
        {'=:=', value, value},
        {'=:=', value, '$1'},
        {'=:=', '$1', 1},
        {'>', {'+', value, 1}, 1},
        {'>', {map_get, n, #{n => 3}}, 2}
    ],
    [
        begin
            Expected = lists:sort(ets:select(Table, MatchSpec)),
            ?assertEqual(Expected, lists:sort(select(Zone, MatchSpec)), MatchSpec)
        end
     || Guard <- Guards,
        MatchSpec <- [
            [{{'$1', '_', #{n => '$2'}}, [with('$2', Guard)], ['$1']}],
            [{{'$1', '_', '$3'}, [with({map_get, n, '$3'}, Guard)], ['$1']}],
            [{{'$1', '_', #{n => '$2'}}, [with('$2', Guard)], ['$_']}]
        ]
    ],
    [
        begin
            MatchSpec = [{{'$1', '_', #{n => Value, other => '_'}}, [], ['$1']}],
            Expected = lists:sort(ets:select(Table, MatchSpec)),
            ?assertEqual(Expected, lists:sort(select(Zone, MatchSpec)), MatchSpec)
        end
     || Value <- Values, not is_function(Value)
    ].

%% Results are compared by their external form: `1' and `1.0', or `0.0' and `-0.0', are different.
random_match_specifications_are_answered_as_by_ets(Config) ->
    Zone = zone(Config),
    Seed = rand:export_seed_s(rand:seed(exsss)),
    ct:log("seed: ~p", [Seed]),
    Pids = [loose(start_link) || _ <- lists:seq(1, 4)],
    [
        begin
            Table = ets:new(rows, []),
            Rows = [match_specs:row(N, Pid) || N <- lists:seq(1, 40), Pid <- [random(Pids)]],
            true = ets:insert(Table, Rows),
            lists:foreach(fun(Row) -> add_row(Zone, Row) end, Rows),
            [same_as_ets(Table, Zone, match_specs:match_spec(Pids)) || _ <- lists:seq(1, 150)],
            [ok = gen_tracker:unregister_name({Zone, Name}) || {Name, _, _} <- Rows],
            ets:delete(Table)
        end
     || _ <- lists:seq(1, 20)
    ].

random(List) ->
    lists:nth(rand:uniform(length(List)), List).

add_row(Zone, {Name, Pid, Attributes}) ->
    yes = gen_tracker:register_name({Zone, Name}, Pid),
    ok = setattr(Zone, Name, Attributes).

same_as_ets(Table, Zone, MatchSpec) ->
    Sorted = fun(Matches) -> lists:sort([term_to_binary(Match) || Match <- Matches]) end,
    Expected = outcome(fun() -> Sorted(ets:select(Table, MatchSpec)) end),
    ?assertEqual(Expected, outcome(fun() -> Sorted(select(Zone, MatchSpec)) end), MatchSpec),
    ?assertEqual(
        outcome(fun() -> ets:select_count(Table, MatchSpec) end),
        outcome(fun() -> select_count(Zone, MatchSpec) end),
        MatchSpec
    ).

%% A guard with the value of the attribute.
with(Value, value) -> Value;
with(_, {const, _} = Constant) -> Constant;
with(Value, Guard) when is_tuple(Guard) -> list_to_tuple(with(Value, tuple_to_list(Guard)));
with(Value, [Head | Tail]) -> [with(Value, Head) | with(Value, Tail)];
with(_, Other) -> Other.

%% The first attribute is never smaller than the last one. The one between them takes long to copy.
several_attributes_are_selected_as_of_one_moment(Config) ->
    Zone = zone(Config),
    _ = open(Zone, child),
    ok = setattr(Zone, child, #{a => 0, b => lists:seq(1, 500), c => 0}),
    Write = fun(_) ->
        [_ = gen_tracker:increment(Zone, child, Key, 1) || Key <- [a, c]]
    end,
    MatchSpecs = [
        [{{'_', '_', #{a => '$1', b => '_', c => '$2'}}, [], [{{'$1', '$2'}}]}],
        [{{'_', '_', #{a => '$1', c => '$2'}}, [{'>=', '$1', 0}], [{{'$1', '$2'}}]}],
        [{{'_', '_', '$1'}, [], [{{{map_get, a, '$1'}, {map_get, c, '$1'}}}]}]
    ],
    Read = fun() ->
        [
            true = First >= Last
         || MatchSpec <- MatchSpecs, {First, Last} <- select(Zone, MatchSpec)
        ]
    end,
    [_] = callers:while_writing(Write, 1000, [Read]).

a_row_that_always_matches_one_of_two_clauses_is_always_selected(Config) ->
    Zone = zone(Config),
    _ = open(Zone, child),
    ok = setattr(Zone, child, side, 0),
    Write = fun(Number) -> ok = setattr(Zone, child, side, Number rem 2) end,
    MatchSpec = [{{'$1', '_', #{side => Side}}, [], ['$1']} || Side <- [0, 1]],
    Read = fun() -> [child] = select(Zone, MatchSpec) end,
    [_] = callers:while_writing(Write, 1000, [Read]).

keys_that_look_alike_are_different(Config) ->
    Zone = zone(Config),
    _ = open(Zone, child),
    ok = setattr(Zone, child, [{1, integer}, {1.0, float}, {'$2x', variable}, {{a, '_'}, part}]),
    Value = fun(Key) -> select(Zone, [{{'_', '_', #{Key => '$1'}}, [], ['$1']}]) end,
    ?assertEqual([integer], Value(1)),
    ?assertEqual([float], Value(1.0)),
    Both = [{{'_', '_', #{1 => '$1', 1.0 => '$2'}}, [], [{{'$1', '$2'}}]}],
    ?assertEqual([{integer, float}], select(Zone, Both)),
    Table = beside(Zone),
    [
        begin
            MatchSpec = [{{'_', '_', #{Key => '$1'}}, [], ['$1']}],
            ?assertEqual(outcome(fun() -> ets:select(Table, MatchSpec) end),
                         outcome(fun() -> select(Zone, MatchSpec) end), Key)
        end
     || Key <- ['$2x', '$2', '_', {a, '_'}, {a, '$3'}, none]
    ].

outcome(Fun) ->
    try
        Fun()
    catch
        error:badarg -> badarg
    end.

a_row_has_all_attributes_where_the_match_specification_uses_it(Config) ->
    Zone = zone(Config),
    _ = open(Zone, child),
    All = #{a => 1, b => 2, c => 3},
    ok = setattr(Zone, child, All),
    [
        ?assertEqual([All], select(Zone, [{{'_', '_', Pattern}, Guards, Body}]))
     || {Pattern, Guards, Body} <- [
            {'$1', [], ['$1']},
            {#{a => 1}, [], [{element, 3, '$_'}]},
            {#{a => '$1'}, [{'=:=', {map_get, b, {element, 3, '$_'}}, 2}], [{element, 3, '$_'}]},
            {'$1', [{'=:=', {map_get, c, '$1'}, 3}], ['$1']}
        ]
    ].

a_limit_returns_portions_until_the_end_of_the_table(Config) ->
    Zone = zone(Config),
    ?assertEqual('$end_of_table', select(Zone, ?ALL, 1)),
    _ = populated(Zone, 100),
    ?assertEqual('$end_of_table', select(Zone, [{{nobody, '_', '_'}, [], [true]}], 10)),
    [
        begin
            Selected = in_portions(Zone, [{{'$1', '_', '_'}, [], ['$1']}], Limit),
            ?assertEqual(100, length(Selected)),
            ?assertEqual(lists:sort(gen_tracker:names(Zone)), lists:sort(Selected))
        end
     || Limit <- [1, 3, 31, 32, 33, 64, 99, 100, 101, 1 bsl 70]
    ],
    ?assertEqual('$end_of_table', select('$end_of_table')).

%% The rest of the zone is read after the first portion was returned.
a_portion_reads_no_further_than_it_has_to(Config) ->
    Zone = zone(Config),
    Names = populated(Zone, 500),
    {First, Continuation} = select(Zone, [{{'$1', '_', '_'}, [], ['$1']}], 1),
    [ok = gen_tracker:unregister_name({Zone, Name}) || Name <- Names -- First],
    Rest = portions(select(Continuation), 1),
    ?assert(length(Rest) < 64, Rest).

%% Words. Reading takes less than half of that, and all rows of the small zone take more.
-define(HEAP, 500_000).

a_large_zone_is_read_in_the_memory_of_a_small_one(Config) ->
    Zone = zone(Config),
    Pid = loose(start_link),
    Value = lists:seq(1, 100),
    ?assert(3000 * erts_debug:flat_size(Value) > ?HEAP),
    Add = fun(Name) ->
        yes = gen_tracker:register_name({Zone, Name}, Pid),
        ok = setattr(Zone, Name, v, Value)
    end,
    Reads = [
        {all, fun() -> counted(select(Zone, ?ALL, 10), 0) end},
        {all, fun() -> counted(select(Zone, [{{'_', '_', #{v => '$1'}}, [], ['$1']}], 10), 0) end},
        {none, fun() -> counted(select(Zone, [{{x, '_', '_'}, [], ['$_']}], 10), 0) end},
        {all, fun() -> select_count(Zone, [{'_', [], [true]}]) end}
    ],
    lists:foreach(
        fun({From, To}) ->
            lists:foreach(Add, lists:seq(From, To)),
            Expected = [
                case Answer of
                    all -> {answer, To};
                    none -> {answer, 0}
                end
             || {Answer, _} <- Reads
            ],
            ?assertEqual(Expected, [in_small_heap(Read) || {_, Read} <- Reads])
        end,
        [{1, 3000}, {3001, 10000}]
    ),
    ?assertEqual(killed, in_small_heap(fun() -> length(select(Zone, ?ALL)) end)).

counted('$end_of_table', Count) -> Count;
counted({Matches, Next}, Count) -> counted(select(Next), Count + length(Matches)).

%% Returns the answer of a fun, or `killed' if it needs more memory.
in_small_heap(Fun) ->
    Limit = #{size => ?HEAP, kill => true, error_logger => false},
    {_, Monitor} = spawn_opt(
        fun() -> exit({answer, Fun()}) end,
        [monitor, {max_heap_size, Limit}]
    ),
    callers:answer(Monitor).

a_continuation_that_was_stored_goes_on(Config) ->
    Zone = zone(Config),
    _ = populated(Zone, 100),
    {First, Continuation} = select(Zone, [{{'$1', '_', '_'}, [], ['$1']}], 40),
    Stored = binary_to_term(term_to_binary(Continuation)),
    Rest = portions(select(Stored), 40),
    ?assertEqual(lists:sort(gen_tracker:names(Zone)), lists:sort(First ++ Rest)),
    %% It may be used again.
    ?assertEqual(lists:sort(Rest), lists:sort(portions(select(Continuation), 40))).

a_child_that_lives_throughout_is_selected_exactly_once(Config) ->
    Zone = zone(Config),
    Stay = lists:sort(populated(Zone, 200)),
    Pid = loose(start_link),
    Churn = fun(Number) ->
        yes = gen_tracker:register_name({Zone, {churn, Number rem 50}}, Pid),
        _ = Number > 10 andalso gen_tracker:unregister_name({Zone, {churn, (Number - 10) rem 50}})
    end,
    MatchSpec = [{{'$1', '_', #{n => '_'}}, [], ['$1']}],
    Read = fun() ->
        Stay = lists:sort(select(Zone, MatchSpec)),
        Stay = lists:sort(in_portions(Zone, MatchSpec, 17)),
        200 = select_count(Zone, [{{'_', '_', #{n => '_'}}, [], [true]}])
    end,
    [_] = callers:while_writing(Churn, 30, [Read]).

a_large_row_is_selected_on_a_dirty_scheduler(Config) ->
    Zone = zone(Config),
    _ = [open(Zone, Name) || Name <- lists:seq(1, 40)],
    Many = maps:from_list([{Key, Key} || Key <- lists:seq(1, 20000)]),
    ok = setattr(Zone, 20, Many),
    ?assertEqual([{20, Many}], select(Zone, [{{20, '_', '$1'}, [], [{{20, '$1'}}]}])),
    ?assertEqual([7], select(Zone, [{{'_', '_', #{7 => '$1'}}, [], ['$1']}])),
    ?assertEqual(40, length(select(Zone, ?ALL))).

malformed_match_specifications_and_limits_are_badarg(Config) ->
    Zone = zone(Config),
    Bad = [all, [all], [{}], [{'_', [], []}, x], [{'_', [{no_guard, 1}], [true]}], [{'_', [], 1}],
           [{'_', [], [{no_action}]} | '_'], [{'$1', [], [{message, true}]}], #{}, 1, <<>>,
           [{{'_', '_', #{n => '$1'}}, no_list, [true]}], [{{'_', '_', #{}}, [], true}],
           [{{'_', '_', #{n => '$1'}}, [{'>', '$1', 1} | x], [true]}],
           [{{'_', '_', #{n => '$1'}}, [{'>', '$2', 1}], [true]}]],
    Table = ets:new(rows, []),
    true = ets:insert(Table, {name, self(), #{}}),
    [
        begin
            ?assertError(badarg, ets:select(Table, MatchSpec)),
            ?assertError(badarg, select(Zone, MatchSpec)),
            ?assertError(badarg, select(Zone, MatchSpec, 1)),
            ?assertError(badarg, select_count(Zone, MatchSpec))
        end
     || MatchSpec <- Bad
    ],
    Deep = lists:foldl(fun(_, Nested) -> [Nested] end, [], lists:seq(1, 100_000)),
    [
        ?assertError(badarg, select(Zone, MatchSpec))
     || MatchSpec <- [[{'_', [], [Deep]}], [{'_', [Deep], [true]}]]
    ],
    [?assertError(badarg, select(Zone, ?ALL, Limit)) || Limit <- [0, -1, 1.0, infinity, all]],
    [?assertError(badarg, select(Odd)) || Odd <- [next, {a, b, c}, {{selection}, 0, []}, 0]],
    ?assertError(badarg, select(not_running, ?ALL)),
    ?assertError(badarg, select(not_running, ?ALL, 1)),
    ?assertError(badarg, select_count(not_running, ?ALL)),
    ?assertError(badarg, select(whereis(Zone), ?ALL)),
    _ = populated(Zone, 40),
    {_, Continuation} = select(Zone, ?ALL, 1),
    ok = gen_server:stop(Zone),
    ?assertError(badarg, drained(Continuation)).

%% Matches that were read already are returned all the same.
drained(Continuation) ->
    portions(select(Continuation), 1).

a_sum_passes_over_what_is_no_integer(Config) ->
    Zone = zone(Config),
    0 = sum(Zone, n),
    Values = [1, 20, -5, 3.5, "300", <<"4000">>, #{n => 5}, self(), undefined, {1}, 1 bsl 62],
    [
        begin
            _ = open(Zone, Name),
            ok = setattr(Zone, Name, #{n => Value, other => 1})
        end
     || {Name, Value} <- lists:enumerate(Values)
    ],
    ?assertEqual((1 bsl 62) + 16, sum(Zone, n)),
    ?assertEqual(length(Values), sum(Zone, other)),
    ?assertEqual(0, sum(Zone, missing)),
    ?assertError(badarg, sum(not_running, n)),
    ?assertError(badarg, sum(self(), n)).

a_sum_has_no_limit(Config) ->
    Zone = zone(Config),
    Values = [1 bsl 63, -(1 bsl 200), (1 bsl 62) - 1, 1 bsl 62, (1 bsl 63) - 1, 7],
    [
        begin
            _ = open(Zone, Name),
            ok = setattr(Zone, Name, {key, 1.0}, Value)
        end
     || {Name, Value} <- lists:enumerate(Values)
    ],
    ?assertEqual(lists:sum(Values), sum(Zone, {key, 1.0})),
    ?assertEqual(0, sum(Zone, {key, 1})).

a_sum_counts_running_children_only(Config) ->
    Zone = zone(Config),
    {_, Cleaner} = tracked_child:terminating(Zone, terminating),
    5 = gen_tracker:increment(Zone, terminating, n, 5, 0),
    7 = gen_tracker:increment(Zone, vacant, n, 7, 0),
    _ = open(Zone, running),
    ok = setattr(Zone, running, n, 1),
    ?assertEqual(1, sum(Zone, n)),
    Cleaner ! done.

no_selection_sends_a_message(Config) ->
    Zone = zone(Config),
    _ = populated(Zone, 100),
    {{answer, _}, Sent} = callers:sent_by(fun() ->
        {_, Continuation} = select(Zone, ?ALL, 10),
        {select(Zone, ?ALL), select(Continuation), select_count(Zone, ?ALL), sum(Zone, n)}
    end),
    ?assertEqual([], Sent).
