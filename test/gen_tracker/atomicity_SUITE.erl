%% Promise: a setattr, an increment, a delattr and a snapshot are each one atomic step, whatever
%% other processes do to the same name at the same time. All processes see the steps in the same
%% order.
%%
%% The child ?NAME runs in the zone of each case. No child has the name ?VOID.
-module(atomicity_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [together/1, while_writing/3]).
-import(zone_hook, [zone/1]).
-import(gen_tracker, [attrs/2, delattr/3, getattr/3, increment/4, increment/5, info/2, info/3]).
-import(gen_tracker, [list/1, list/2, setattr/3, setattr/4]).

-define(NAME, <<"tv1">>).
-define(VOID, <<"nobody">>).

suite() ->
    [{timetrap, {minutes, 5}}, {ct_hooks, [{zone_hook, [{open, ?NAME}]}]}].

all() ->
    [
        every_process_reads_the_new_value_once_setattr_or_delattr_has_returned,
        readers_never_see_a_part_of_a_setattr,
        no_snapshot_shows_the_later_counter_ahead,
        increments_of_many_processes_lose_nothing_while_other_attributes_are_set,
        increments_of_many_processes_lose_nothing_beyond_64_bits,
        increments_of_many_processes_create_a_missing_attribute_once,
        a_setattr_takes_its_place_among_increments,
        a_delattr_takes_its_place_among_increments
    ].

every_process_reads_the_new_value_once_setattr_or_delattr_has_returned(Config) ->
    Zone = zone(Config),
    Readers = [spawn_link(fun() -> reader(Zone) end) || _ <- lists:seq(1, 4)],
    All = fun(Expected) ->
        [Reader ! {read, self()} || Reader <- Readers],
        [Expected = element(3, messages:await(read, Reader)) || Reader <- Readers]
    end,
    [
        begin
            ok = setattr(Zone, ?NAME, a, value(N, N)),
            All({ok, value(N, N)}),
            ok = delattr(Zone, ?NAME, a),
            All(undefined)
        end
     || N <- lists:seq(1, 2000)
    ],
    [unlink(Reader) || Reader <- Readers],
    [exit(Reader, kill) || Reader <- Readers].

reader(Zone) ->
    receive
        {read, Test} -> Test ! {read, self(), getattr(Zone, ?NAME, a)}
    end,
    reader(Zone).

%% The cases differ in the number of pairs and in the types of old and new values.
readers_never_see_a_part_of_a_setattr(Config) ->
    [
        only_whole_setattrs_are_seen(zone(Config), lists:seq(1, Count), Times, Value)
     || {Count, Times} <- [{2, 3000}, {9, 2000}, {300, 200}],
        Value <- [fun(_, N) -> N end, fun(_, N) -> {N} end, fun value/2]
    ].

only_whole_setattrs_are_seen(Zone, Keys, Times, Value) ->
    Step = fun(N) -> ok = setattr(Zone, ?NAME, [{Key, Value(Key, N)} || Key <- Keys]) end,
    Step(0),
    Whole = fun(Read) ->
        fun() ->
            Numbers = [number(V) || {Key, V} <- Read(), is_integer(Key)],
            ?assertEqual([hd(Numbers)], lists:usort(Numbers)),
            ?assertEqual(length(Keys), length(Numbers))
        end
    end,
    InOrder = fun() ->
        {ok, First} = getattr(Zone, ?NAME, hd(Keys)),
        {ok, Second} = getattr(Zone, ?NAME, lists:last(Keys)),
        ?assert(number(First) =< number(Second))
    end,
    while_writing(Step, Times, [InOrder | [Whole(Read) || Read <- snapshots(Zone, Keys)]]),
    [ok = delattr(Zone, ?NAME, Key) || Key <- Keys].

%% Returns values of different types that contain the number `N`.
value(Key, N) ->
    element((Key + N) rem 6 + 1, {N, {N}, [a, N], <<N:64>>, #{n => N}, N bsl 80}).

number(N) when is_integer(N), N < 1 bsl 64 -> N;
number(N) when is_integer(N) -> N bsr 80;
number({N}) -> N;
number([_, N]) -> N;
number(<<N:64>>) -> N;
number(#{n := N}) -> N.

%% Returns all functions that read several attributes of ?NAME, the only child with attributes.
snapshots(Zone, Keys) ->
    [
        fun() -> info(Zone, ?NAME) end,
        fun() -> attrs(Zone, ?NAME) end,
        fun() -> info(Zone, ?NAME, Keys) end,
        fun() -> info(Zone, ?NAME, lists:reverse(Keys)) end,
        fun() ->
            [{_, Attrs}] = list(Zone),
            Attrs
        end,
        fun() ->
            [{_, Attrs}] = list(Zone, Keys),
            Attrs
        end
    ].

%% One writer increments first, then second, so that second is never ahead. The cases differ in the
%% number of other attributes, and cover the limits of 60 and 64 bits.
no_snapshot_shows_the_later_counter_ahead(Config) ->
    [
        never_ahead(zone(Config), Others, Times, Start)
     || {Others, Times} <- [{0, 5000}, {30, 1000}, {1000, 100}],
        Start <- [0, 1 bsl 59 - 300, 1 bsl 63 - 300, -(1 bsl 63) - 300]
    ].

never_ahead(Zone, Others, Times, Start) ->
    ok = setattr(
        Zone,
        ?NAME,
        [{first, Start}, {second, Start} | [{N, {other, N}} || N <- lists:seq(1, Others)]]
    ),
    Step = fun(_) ->
        First = increment(Zone, ?NAME, first, 1),
        First = increment(Zone, ?NAME, second, 1)
    end,
    Ordered = fun(Read) ->
        fun() ->
            Attrs = Read(),
            {first, First} = lists:keyfind(first, 1, Attrs),
            {second, Second} = lists:keyfind(second, 1, Attrs),
            ?assert(First =:= Second orelse First =:= Second + 1)
        end
    end,
    while_writing(Step, Times, [Ordered(Read) || Read <- snapshots(Zone, [first, second])]).

increments_of_many_processes_lose_nothing_while_other_attributes_are_set(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, hits, 0),
    SetOthers = fun(N) ->
        ok = setattr(Zone, ?NAME, N rem 40, value(N, N)),
        ok = setattr(Zone, ?NAME, [{a, N}, {b, {N}}]),
        ok = delattr(Zone, ?NAME, (N + 20) rem 40)
    end,
    Counted = while_writing(
        SetOthers, 5000, lists:duplicate(20, fun() -> increment(Zone, ?NAME, hits, 1) end)
    ),
    ?assertEqual(lists:seq(1, 100000), lists:sort(lists:append(Counted))),
    {ok, 100000} = getattr(Zone, ?NAME, hits).

increments_of_many_processes_lose_nothing_beyond_64_bits(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, n, 0),
    [
        begin
            Count = fun() -> [increment(Zone, ?NAME, n, Incr) || _ <- lists:seq(1, 1000)] end,
            Counted = lists:append(together(lists:duplicate(10, Count))),
            ?assertEqual(Expected, lists:sort(Counted))
        end
     || {Incr, Expected} <- [
            {1 bsl 60, [N bsl 60 || N <- lists:seq(1, 10000)]},
            {-(1 bsl 60), [N bsl 60 || N <- lists:seq(0, 9999)]}
        ]
    ],
    {ok, 0} = getattr(Zone, ?NAME, n).

increments_of_many_processes_create_a_missing_attribute_once(Config) ->
    Zone = zone(Config),
    Keys = lists:seq(1, 200),
    [
        begin
            Count = fun() -> [increment(Zone, Name, Key, 1, 10) || Key <- Keys] end,
            Counted = together(lists:duplicate(20, Count)),
            [
                ?assertEqual(lists:seq(11, 30), lists:sort([lists:nth(Key, All) || All <- Counted]))
             || Key <- Keys
            ]
        end
     || Name <- [?NAME, ?VOID]
    ].

%% The increments before the setattr count from 0, the later ones from the value that it sets.
a_setattr_takes_its_place_among_increments(Config) ->
    Zone = zone(Config),
    [
        begin
            ok = setattr(Zone, ?NAME, n, 0),
            Counted = counted_while(Zone, fun() -> setattr(Zone, ?NAME, n, Base) end),
            {ok, Last} = getattr(Zone, ?NAME, n),
            After = Last - Base,
            ?assertEqual(lists:seq(1, 2000 - After) ++ lists:seq(Base + 1, Base + After), Counted)
        end
     || Base <- lists:append(lists:duplicate(20, [1000000, 1 bsl 70]))
    ].

%% The increments before and after the delattr count from 0.
a_delattr_takes_its_place_among_increments(Config) ->
    Zone = zone(Config),
    [
        begin
            ok = delattr(Zone, ?NAME, n),
            Counted = counted_while(Zone, fun() -> delattr(Zone, ?NAME, n) end),
            After =
                case getattr(Zone, ?NAME, n) of
                    {ok, Last} -> Last;
                    undefined -> 0
                end,
            ?assertEqual(lists:sort(lists:seq(1, 2000 - After) ++ lists:seq(1, After)), Counted)
        end
     || _ <- lists:seq(1, 40)
    ].

%% Calls a fun while four processes increment the attribute `n` 500 times each. Returns the results
%% of all increments, sorted.
counted_while(Zone, Fun) ->
    Count = fun() -> [increment(Zone, ?NAME, n, 1, 0) || _ <- lists:seq(1, 500)] end,
    [ok | Counted] = together([Fun | lists:duplicate(4, Count)]),
    lists:sort(lists:append(Counted)).
