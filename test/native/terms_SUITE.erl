%% Promise: names, keys and values may be any terms. They are compared by `=:=`, and come back
%% exactly. Large binaries are shared. References and funs work after the death of the process that
%% stored them.
%%
%% Terms and properties are in prop_terms. Each case has a zone with the name of the case.
-module(terms_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [apart/1]).
-import(tracked_child, [open/2]).
-import(gen_tracker, [getattr/3, info/2, setattr/3, setattr/4]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 10}}].

all() ->
    [
        any_value_comes_back_exactly,
        any_key_comes_back_exactly,
        any_name_comes_back_exactly,
        any_name_key_and_value_together_come_back_exactly,
        the_attributes_of_a_name_are_a_map_of_any_terms,
        one_term_of_every_kind_comes_back_exactly_as_value_key_and_name,
        binaries_of_every_size_come_back_exactly,
        nearly_equal_terms_are_different_keys,
        nearly_equal_terms_are_different_names,
        equal_maps_made_in_different_ways_are_the_same_name_and_key,
        minus_zero_comes_back_as_minus_zero,
        a_large_binary_is_shared_on_the_way_in_and_on_the_way_out,
        nothing_stored_keeps_a_binary_that_it_is_a_part_of,
        no_index_keeps_a_binary_that_a_value_is_a_part_of,
        nothing_stored_keeps_a_binary_that_grows,
        a_whole_binary_next_to_parts_is_shared,
        a_deep_term_with_a_part_of_a_binary_comes_back,
        an_atomics_reference_works_after_its_creator_died,
        a_counters_reference_works_after_its_creator_died,
        a_table_identifier_works_after_its_writer_died,
        a_fun_works_after_its_creator_died
    ].

init_per_testcase(Case, Config) ->
    [{zone, zones:zone(Case)} | Config].

end_per_testcase(Case, _Config) ->
    zones:stop_zone(Case).

zone(Config) ->
    proplists:get_value(zone, Config).

%% Returns the zone of the case, and starts the child ?NAME in it.
with_child(Config) ->
    Zone = zone(Config),
    _ = open(Zone, ?NAME),
    Zone.

%% Random terms

any_value_comes_back_exactly(Config) ->
    holds(prop_terms:prop_value(zone(Config)), 1000).

any_key_comes_back_exactly(Config) ->
    holds(prop_terms:prop_key(zone(Config)), 1000).

any_name_comes_back_exactly(Config) ->
    holds(prop_terms:prop_name(zone(Config)), 1000).

any_name_key_and_value_together_come_back_exactly(Config) ->
    holds(prop_terms:prop_pair(zone(Config)), 1000).

the_attributes_of_a_name_are_a_map_of_any_terms(Config) ->
    holds(prop_terms:prop_attributes_are_a_map(zone(Config)), 1000).

holds(Property, Times) ->
    case proper:quickcheck(Property, [quiet, long_result, {numtests, Times}, {max_size, 20}]) of
        true -> ok;
        CounterExample -> ct:fail({counterexample, CounterExample})
    end.

%% Chosen terms

one_term_of_every_kind_comes_back_exactly_as_value_key_and_name(Config) ->
    Zone = zone(Config),
    [
        begin
            ?assert(prop_terms:pair_comes_back(Zone, ?NAME, key, Term)),
            ?assert(prop_terms:pair_comes_back(Zone, ?NAME, Term, value)),
            ?assert(prop_terms:name_comes_back(Zone, Term))
        end
     || Term <- prop_terms:kinds() ++ prop_terms:alike()
    ].

binaries_of_every_size_come_back_exactly(Config) ->
    Zone = zone(Config),
    Values = [
        {{Size, Offset}, prop_terms:part(Size, Offset)}
     || Size <- prop_terms:sizes(), Offset <- [0, 3]
    ],
    [?assert(prop_terms:pair_comes_back(Zone, Value, Value, Value)) || {_, Value} <- Values],
    _ = open(Zone, ?NAME),
    ok = setattr(Zone, ?NAME, Values),
    ?assertEqual(lists:sort(Values), lists:sort(info(Zone, ?NAME))).

nearly_equal_terms_are_different_keys(Config) ->
    Zone = with_child(Config),
    Different = maps:from_list([{Key, {number, N}} || {N, Key} <- numbered(prop_terms:alike())]),
    [ok = setattr(Zone, ?NAME, Key, Value) || {Key, Value} <- maps:to_list(Different)],
    ?assertEqual(map_size(Different), length(info(Zone, ?NAME))),
    ?assertEqual(Different, maps:from_list(info(Zone, ?NAME))),
    [
        ?assertEqual({ok, Value}, getattr(Zone, ?NAME, Key))
     || {Key, Value} <- maps:to_list(Different)
    ].

nearly_equal_terms_are_different_names(Config) ->
    Zone = zone(Config),
    Different = maps:from_list([{Name, N} || {N, Name} <- numbered(prop_terms:alike())]),
    Children = maps:map(fun(Name, _) -> open(Zone, Name) end, Different),
    [ok = setattr(Zone, Name, n, {number, N}) || {Name, N} <- maps:to_list(Different)],
    [
        ?assertEqual({ok, Pid}, gen_tracker:find(Zone, Name))
     || {Name, Pid} <- maps:to_list(Children)
    ],
    [?assertEqual([{n, {number, N}}], info(Zone, Name)) || {Name, N} <- maps:to_list(Different)],
    Shown = [{Name, Pid} || {Name, Pid, worker, []} <- gen_tracker:which_children(Zone)],
    ?assertEqual(map_size(Children), length(Shown)),
    ?assertEqual(Children, maps:from_list(Shown)).

numbered(Terms) ->
    lists:zip(lists:seq(1, length(Terms)), Terms).

equal_maps_made_in_different_ways_are_the_same_name_and_key(Config) ->
    Zone = zone(Config),
    [
        begin
            Pairs = [{{key, N}, N} || N <- lists:seq(1, Size)],
            Grown = maps:from_list(Pairs),
            Backwards = lists:foldr(fun({Key, N}, Map) -> Map#{Key => N} end, #{}, Pairs),
            Shrunk = maps:without(
                lists:seq(1, 100), maps:merge(maps:from_keys(lists:seq(1, 100), x), Grown)
            ),
            Pid = open(Zone, Grown),
            ok = setattr(Zone, Backwards, Grown, 1),
            [{ok, Pid} = gen_tracker:find(Zone, Map) || Map <- [Grown, Backwards, Shrunk]],
            [{ok, 1} = getattr(Zone, Map, Map) || Map <- [Grown, Backwards, Shrunk]]
        end
     || Size <- [2, 31, 32, 33, 34, 500]
    ].

%% `-0.0 =:= 0.0` before OTP 27, so the case compares bits.
minus_zero_comes_back_as_minus_zero(Config) ->
    Zone = with_child(Config),
    [
        begin
            ok = setattr(Zone, ?NAME, [{bare, Zero}, {within, {[Zero], #{z => Zero}}}]),
            {ok, Bare} = getattr(Zone, ?NAME, bare),
            {ok, {[Listed], #{z := Mapped}}} = getattr(Zone, ?NAME, within),
            Bits = <<Zero/float>>,
            ?assertEqual([Bits, Bits, Bits], [<<Read/float>> || Read <- [Bare, Listed, Mapped]])
        end
     || Zero <- [-0.0, 0.0, -0.0]
    ].

%% Shared binaries, and terms that outlive their creators

%% The VM shows an address for each large binary: writer and reader refer to the same one.
a_large_binary_is_shared_on_the_way_in_and_on_the_way_out(Config) ->
    Zone = with_child(Config),
    Size = 1000003,
    Binary = binary:copy(<<7>>, Size),
    [Identity] = identities(Size),
    [
        begin
            ok = setattr(Zone, ?NAME, frame, Value),
            Hash = erlang:phash2(Value),
            {[Identity], Hash} = apart(fun() ->
                [{frame, Held}] = Read(),
                {identities(Size), erlang:phash2(Held)}
            end)
        end
     || Value <- [Binary, {stream, [Binary, #{frame => Binary}]}, binary:part(Binary, 0, Size)],
        Read <- prop_terms:readings(Zone, ?NAME, frame)
    ].

%% A stored part of a binary does not keep the larger binary in memory.
nothing_stored_keeps_a_binary_that_it_is_a_part_of(Config) ->
    Zone = with_child(Config),
    [
        begin
            ok = setattr(Zone, ?NAME, [{key, Term}, {Term, key}]),
            _ = open(Zone, Term),
            ?assertEqual(Term, apart(fun() -> ok(getattr(Zone, ?NAME, key)) end)),
            [{Term, key}] = [Pair || {Term2, key} = Pair <- info(Zone, ?NAME), Term2 =:= Term],
            Stored = [
                fun() -> ok(getattr(Zone, ?NAME, key)) end,
                fun() -> info(Zone, ?NAME) end,
                fun() -> gen_tracker:names(Zone) end
            ],
            [
                ?assertEqual({Size, []}, {Size, apart(fun() -> too_large(Read()) end)})
             || Read <- Stored
            ],
            ok = gen_tracker:delattr(Zone, ?NAME, Term),
            ok = supervisor:terminate_child(Zone, Term)
        end
     || Size <- [0, 1, 20, 63, 64, 65, 127, 128, 129, 1000, 4096, 4097, 100000],
        Part <- parts(Size),
        Term <- within(Part)
    ].

%% An index has a copy of its own of each value.
no_index_keeps_a_binary_that_a_value_is_a_part_of(_) ->
    Zone = 'zone with indexes',
    {ok, _} = gen_tracker:start_link(Zone, #{index => [key, {each, list}]}),
    _ = open(Zone, ?NAME),
    [
        begin
            ok = setattr(Zone, ?NAME, #{key => Term, list => [Term, Term]}),
            [
                begin
                    Read = fun() -> gen_tracker:values(Zone, Key) end,
                    ?assertMatch([{Term, 1}], Read()),
                    ?assertEqual({Size, []}, {Size, apart(fun() -> too_large(Read()) end)})
                end
             || Key <- [key, list]
            ]
        end
     || Size <- [0, 1, 64, 65, 1000, 4096, 4097, 100000],
        Part <- parts(Size),
        Term <- within(Part)
    ],
    zones:stop_zone(Zone).

%% Parts of a large binary: in the middle, at the beginning, at the end, and such that do not begin,
%% or end, at a byte.
parts(Size) ->
    Large = binary:copy(<<"large binary">>, 100000),
    <<_:3, Unaligned:Size/binary, _/bits>> = Large,
    <<_:5/binary, Bits:(8 * Size + 3)/bits, _/bits>> = Large,
    [
        binary:part(Large, 5, Size),
        binary:part(Large, 0, Size),
        binary:part(Large, byte_size(Large), -Size),
        Unaligned,
        Bits
    ] ++
        %% All bytes but one.
        [binary:part(Large, Begin, byte_size(Large) - 1) || Size =:= 0, Begin <- [0, 1]].

%% Terms with references are stored as copies, not encoded.
within(Part) ->
    [
        Part,
        [make_ref(), Part],
        [make_ref() | Part],
        {make_ref(), {[], Part, {Part}}},
        #{make_ref() => Part, Part => key},
        maps:from_list([{Part, N} || N <- [1]] ++ [{N, [Part]} || N <- lists:seq(1, 40)]),
        [
            [{N, [Part, []]} || N <- lists:seq(1, 100)],
            <<>>,
            1 bsl 80,
            1.5,
            self(),
            {},
            #{},
            <<"short">>,
            fun erlang:length/1
        ]
    ].

%% Returns the sizes of binaries that the calling process refers to and that are larger than any
%% part of the term.
too_large(Term) ->
    Shown = lists:usort([(bit_size(Binary) + 7) div 8 || Binary <- binaries(Term)]),
    true = erlang:garbage_collect(),
    {binary, Kept} = process_info(self(), binary),
    TooLarge = [Size || {_, Size, _} <- Kept, not lists:member(Size, Shown)],
    %% Keeps the term alive until here.
    true = is_integer(erlang:phash2(Term)),
    TooLarge.

binaries(Binary) when is_bitstring(Binary) -> [Binary];
binaries([Head | Tail]) -> binaries(Head) ++ binaries(Tail);
binaries(Tuple) when is_tuple(Tuple) -> binaries(tuple_to_list(Tuple));
binaries(Map) when is_map(Map) -> binaries(maps:to_list(Map));
binaries(_) -> [].

%% A binary that its process appends to has spare room. A reader of the binary must not keep this
%% room.
nothing_stored_keeps_a_binary_that_grows(Config) ->
    Zone = with_child(Config),
    [
        begin
            Grown = lists:foldl(
                fun(N, Binary) -> <<Binary/binary, N:Size/unit:8>> end, <<>>, lists:seq(1, 10)
            ),
            Older = binary:part(Grown, 0, byte_size(Grown) - Size),
            More = <<Grown/binary, 0>>,
            ok = setattr(Zone, ?NAME, [{older, Older}, {all, {make_ref(), Grown, More}}]),
            _ = open(Zone, {make_ref(), Older, More}),
            Read = fun() -> {info(Zone, ?NAME), gen_tracker:names(Zone)} end,
            ?assertEqual([], apart(fun() -> too_large(Read()) end)),
            ?assertEqual({ok, Older}, getattr(Zone, ?NAME, older)),
            ?assertMatch({ok, {_, Grown, More}}, getattr(Zone, ?NAME, all)),
            %% The process may still append to it.
            ?assertEqual(byte_size(Grown) + 2, byte_size(<<More/binary, 0>>))
        end
     || Size <- [1, 10, 100, 1000, 100000]
    ].

a_whole_binary_next_to_parts_is_shared(Config) ->
    Zone = with_child(Config),
    Size = 1000003,
    Whole = binary:copy(<<7>>, Size),
    [Identity] = identities(Size),
    Part = binary:part(binary:copy(<<8>>, 300000), 1, 5000),
    [
        begin
            ok = setattr(Zone, ?NAME, frame, Value),
            Hash = erlang:phash2(Value),
            ?assertEqual({[Identity], [], Hash}, apart(fun() ->
                {ok, Held} = getattr(Zone, ?NAME, frame),
                {identities(Size), identities(300000), erlang:phash2(Held)}
            end))
        end
     || Value <- [{Whole, Part}, [Part, Whole | Part], #{Whole => Part, key => {Whole, make_ref()}}]
    ].

a_deep_term_with_a_part_of_a_binary_comes_back(Config) ->
    Zone = with_child(Config),
    Part = binary:part(binary:copy(<<8>>, 300000), 1, 5000),
    Deep = lists:foldl(
        fun(N, Inner) -> element(1 + N rem 3, {{N, Inner}, [Inner, N], #{N => Inner}}) end,
        Part,
        lists:seq(1, 100000)
    ),
    Long = [[N, Part] || N <- lists:seq(1, 1000)] ++ lists:seq(1, 300000),
    [
        begin
            ok = setattr(Zone, ?NAME, key, Term),
            ?assert({ok, Term} =:= getattr(Zone, ?NAME, key)),
            ?assertEqual(
                [],
                apart(fun() ->
                    {ok, _} = getattr(Zone, ?NAME, key),
                    identities(300000)
                end)
            )
        end
     || Term <- [Deep, Long]
    ].

identities(Size) ->
    {binary, Binaries} = process_info(self(), binary),
    lists:usort([Identity || {Identity, Held, _} <- Binaries, Held =:= Size]).

ok({ok, Value}) ->
    Value.

an_atomics_reference_works_after_its_creator_died(Config) ->
    Count = fun(Ref) -> atomics:add_get(Ref, 1, 1) end,
    outlives_its_creator(with_child(Config), fun() -> atomics:new(1, []) end, Count).

a_counters_reference_works_after_its_creator_died(Config) ->
    Zone = with_child(Config),
    Count = fun(Ref) ->
        counters:add(Ref, 1, 1),
        counters:get(Ref, 1)
    end,
    [
        outlives_its_creator(Zone, fun() -> counters:new(1, [Kind]) end, Count)
     || Kind <- [atomics, write_concurrency]
    ].

a_table_identifier_works_after_its_writer_died(Config) ->
    Zone = with_child(Config),
    Table = ets:new(rows, [public]),
    apart(fun() -> ok = setattr(Zone, ?NAME, table, Table) end),
    [
        true = apart(fun() -> ets:insert_new(ok(getattr(Zone, ?NAME, table)), {N}) end)
     || N <- [1, 2]
    ],
    [{1}, {2}] = lists:sort(ets:tab2list(Table)).

%% A process stores what `New` returns, alone and within other terms, and exits. What is read still
%% counts, for all readers.
outlives_its_creator(Zone, New, Count) ->
    apart(fun() ->
        Made = New(),
        Closed = fun() -> Count(Made) end,
        ok = setattr(Zone, ?NAME, [
            {bare, Made},
            {within, {[1 | Made], #{key => Made}}},
            {closed, Closed}
        ])
    end),
    true = erlang:garbage_collect(),
    Bare = fun() -> Count(ok(getattr(Zone, ?NAME, bare))) end,
    Within = fun() ->
        {ok, {[1 | Made], #{key := Made}}} = getattr(Zone, ?NAME, within),
        Count(Made)
    end,
    Closed = fun() -> (ok(getattr(Zone, ?NAME, closed)))() end,
    Listed = fun() -> Count(proplists:get_value(bare, info(Zone, ?NAME))) end,
    [1, 2, 3, 4, 5] = [apart(Read) || Read <- [Bare, Within, Closed, Listed, Bare]].

a_fun_works_after_its_creator_died(Config) ->
    Zone = with_child(Config),
    apart(fun() ->
        Large = binary:copy(<<"x">>, 100000),
        Captured = {self(), 1 bsl 70, Large, #{a => -0.0}},
        ok = setattr(Zone, ?NAME, [
            {local, fun(More) -> {More, Captured} end},
            {external, fun erlang:byte_size/1}
        ])
    end),
    true = erlang:garbage_collect(),
    {
        more,
        {Creator, 1180591620717411303424, Large, #{a := Zero}}
    } = (ok(getattr(Zone, ?NAME, local)))(more),
    false = is_process_alive(Creator),
    <<-0.0/float>> = <<Zero/float>>,
    100000 = (ok(getattr(Zone, ?NAME, external)))(Large).
