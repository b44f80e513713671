%% Promise: `proctab:i` prints readable tables of all zones, and of one zone, whatever the names
%% are: columns are as wide as they need to be, and long names are cut.
-module(printing_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [gated/2, terminating/2]).
-import(callers, [answer/1]).
-import(printout, [printed/1, tables/1, cells/1, texts/1, assert_aligned/1, numbers/1, added/2]).
-import(printout, [added/3]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        i_prints_every_zone_and_table_of_processes,
        i_prints_no_zone_and_fifty_zones,
        i_of_a_zone_prints_its_figures,
        i_of_a_zone_prints_the_ten_busiest_children,
        i_of_a_zone_prints_its_indexes_and_their_most_common_values,
        i_of_a_zone_prints_the_subscribers_with_the_longest_queues,
        names_of_any_kind_are_printed_on_one_line,
        unicode_names_are_printed_as_the_shell_prints_them
    ].

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    Config.

end_per_testcase(Case, _Config) ->
    monitored_worker:close(),
    zones:stop_zone(Case).

i_prints_every_zone_and_table_of_processes(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ok = gen_tracker:setattr(Zone, N, [{a, 1}, {b, 2}])
     || N <- lists:seq(1, 123), is_pid(added(Zone, N))
    ],
    _ = gen_tracker:increment(Zone, nobody, a, 1, 0),
    {_, Cleaner} = terminating(Zone, ending),
    {ok, _} = stats_hero_monitor:start_link(),
    [ok = stats_hero_monitor:register(Pid) || Pid <- [self(), self(), monitored_worker:idle()]],
    {ok, Lines} = printed(fun proctab:i/0),
    #{memory := Memory, attributes := Attributes} = proctab:info(Zone),
    #{zones := All, total := Total} = proctab:info(),
    Cleaner ! done,
    [Zones, Tables] = tables(Lines),
    ?assertEqual(
        ["zone", "owner", "children", "running", "without child", "attributes", "bytes", "queue"],
        texts(hd(Zones))
    ),
    Expected = [
        atom_to_list(Zone),
        pid_to_list(whereis(Zone))
        | numbers([124, 123, 1, Attributes, Memory, 0])
    ],
    ?assert(lists:member(Expected, [texts(Line) || Line <- Zones])),
    ?assertEqual(length(All) + 2, length(Zones)),
    [TotalText, Children, _, WithoutChild, OfAll, Bytes, _] = texts(lists:last(Zones)),
    Totals = [maps:get(Key, Total) || Key <- [children, without_child, attributes, memory]],
    ?assertEqual(["total" | numbers(Totals)], [TotalText, Children, WithoutChild, OfAll, Bytes]),
    ?assertEqual(
        [
            ["table of processes", "owner", "processes", "names", "registrations"],
            ["stats_hero_monitor", pid_to_list(self()) | numbers([2, 1, 3])],
            ["total" | numbers([2, 1, 3])]
        ],
        [texts(Line) || Line <- Tables]
    ),
    lists:foreach(fun printout:assert_aligned/1, [Zones, Tables]).

%% Runs in a node of its own, without other zones.
i_prints_no_zone_and_fifty_zones(_) ->
    Owner = fun(Zone) -> pid_to_list(whereis(Zone)) end,
    {{ok, None}, {ok, Fifty}, Owners} = tracked_process:on_node(#{}, fun() ->
        Printed = printed(fun proctab:i/0),
        %% In the order in which they are printed.
        Zones = [list_to_atom(lists:duplicate(N, $z)) || N <- lists:seq(1, 50)],
        [{ok, _} = gen_tracker:start_link(Zone) || Zone <- Zones],
        {Printed, printed(fun proctab:i/0), [{atom_to_list(Zone), Owner(Zone)} || Zone <- Zones]}
    end),
    [NoZones, NoTables] = tables(None),
    ?assertMatch([["zone" | _], ["total" | _]], [texts(Line) || Line <- NoZones]),
    ?assertMatch([["table of processes" | _], ["total" | _]], [texts(Line) || Line <- NoTables]),
    [Zones, NoTables] = tables(Fifty),
    ?assertEqual(52, length(Zones)),
    ?assertEqual(Owners, [
        {Name, Pid}
     || Line <- Zones, [Name, Pid | _] <- [texts(Line)], hd(Name) =:= $z, hd(Pid) =:= $<
    ]),
    lists:foreach(fun printout:assert_aligned/1, [NoZones, NoTables, Zones]).

i_of_a_zone_prints_its_figures(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, [_, _ | Nobody]} = printed(fun() -> proctab:i(Zone) end),
    ?assertMatch([_, [["busiest names" | _]]], [
        [texts(Line) || Line <- Table]
     || Table <- tables(Nobody)
    ]),
    [ok = gen_tracker:setattr(Zone, Name, key, value) || Name <- [a, b], is_pid(added(Zone, Name))],
    _ = gen_tracker:increment(Zone, nobody, a, 1, 0),
    {Opening, Starter} = gated(Zone, launching),
    #{memory := Memory} = proctab:info(Zone),
    {ok, Lines} = printed(fun() -> proctab:i(Zone) end),
    [Figures, _] = tables(Lines),
    Counts = [
        {"children", 3},
        {"launching", 1},
        {"pending", 0},
        {"restarting", 0},
        {"running", 2},
        {"terminating", 0},
        {"names without child", 1},
        {"attributes", 3},
        {"bytes", Memory},
        {"queue", 0},
        {"subscribers", 0}
    ],
    ?assertEqual(
        [["zone", atom_to_list(Zone)], ["owner", pid_to_list(whereis(Zone))]] ++
            [[Label | numbers([Number])] || {Label, Number} <- Counts],
        [texts(Line) || Line <- Figures]
    ),
    ?assertMatch([_], lists:usort([Begin || Line <- Figures, {_, Begin, _} <- tl(cells(Line))])),
    Starter ! go,
    {answer, {ok, _}} = answer(Opening).

i_of_a_zone_prints_its_indexes_and_their_most_common_values(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone, #{index => [room, {each, tags}]}),
    [
        ok = gen_tracker:setattr(Zone, N, #{room => {room, round(math:sqrt(N))}, tags => [all, N]})
     || N <- lists:seq(1, 49), is_pid(added(Zone, N))
    ],
    {ok, Lines} = printed(fun() -> proctab:i(Zone) end),
    #{indexes := [#{memory := OfRooms}, #{memory := OfTags}]} = proctab:info(Zone),
    [_, Indexes, Values, [Busiest | _]] = tables(Lines),
    ?assertMatch(["busiest names" | _], texts(Busiest)),
    ?assertEqual(
        [
            ["index", "values", "places", "bytes"],
            ["room" | numbers([7, 49, OfRooms])],
            ["{each,tags}" | numbers([50, 98, OfTags])]
        ],
        [texts(Line) || Line <- Indexes]
    ),
    ?assertMatch(
        [
            ["index", "most common values", "children"],
            ["room", "{room,6}", "12"],
            ["room", "{room,5}", "10"],
            ["room", "{room,4}", "8"],
            ["room", "{room,7}", "7"],
            ["room", "{room,3}", "6"],
            ["{each,tags}", "all", "49"]
            | _
        ],
        [texts(Line) || Line <- Values]
    ),
    ?assertEqual(1 + 5 + 5, length(Values)).

i_of_a_zone_prints_the_subscribers_with_the_longest_queues(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Subscribers = [
        spawn_link(fun() ->
            {ok, []} = gen_tracker:subscribe(Zone, {name, Number}),
            [self() ! event || _ <- lists:seq(1, Number)],
            Test ! {subscribed, self()},
            timer:sleep(infinity)
        end)
     || Number <- lists:seq(1, 12)
    ],
    [{subscribed, Pid} = messages:await(subscribed, Pid) || Pid <- Subscribers],
    {ok, Lines} = printed(fun() -> proctab:i(Zone) end),
    [_, [Head | Printed], _] = tables(Lines),
    ?assertEqual(["subscriber", "queue"], texts(Head)),
    Longest = lists:reverse(lists:nthtail(2, lists:enumerate(Subscribers))),
    ?assertEqual(
        [[pid_to_list(Pid), integer_to_list(Number)] || {Number, Pid} <- Longest],
        [texts(Line) || Line <- Printed]
    ).

%% The larger its number, the more reductions a child has, and the fewer messages in its queue.
i_of_a_zone_prints_the_ten_busiest_children(_) ->
    Zone = zone(?FUNCTION_NAME),
    Work = fun(N) -> fun() -> count_down(N * 20000) end end,
    Children = [
        {N, added(Zone, {N}, Work(N))}
     || N <- [8, 2, 15, 1, 9, 3, 12, 14, 7, 4, 11, 5, 13, 6, 10]
    ],
    [[Child ! hello || _ <- lists:seq(N, 15)] || {N, Child} <- Children],
    [
        ok = gen_tracker:setattr(Zone, {N}, [{Key, N} || Key <- lists:seq(1, N)])
     || {N, _} <- Children
    ],
    _ = gen_tracker:increment(Zone, nobody, a, 1, 0),
    {ok, Lines} = printed(fun() -> proctab:i(Zone) end),
    [_, [Head | Busiest] = Table] = tables(Lines),
    ?assertEqual(
        ["busiest names", "pid", "reductions", "queue", "process bytes", "attributes", "bytes"],
        texts(Head)
    ),
    Printed = [
        {Name, Pid, [list_to_integer(Number) || Number <- Numbers]}
     || Line <- Busiest, [Name, Pid | Numbers] <- [texts(Line)]
    ],
    Expected = [{N, proplists:get_value(N, Children)} || N <- lists:seq(15, 6, -1)],
    ?assertEqual(
        [
            {lists:flatten(io_lib:format("{~w}", [N])), pid_to_list(Child), 16 - N, N}
         || {N, Child} <- Expected
        ],
        [{Name, Pid, Queue, Attributes} || {Name, Pid, [_, Queue, _, Attributes, _]} <- Printed]
    ),
    Reductions = [Number || {_, _, [Number | _]} <- Printed],
    ?assertEqual(lists:reverse(lists:sort(Reductions)), Reductions),
    [?assert(Memory > 0) || {_, _, [_, _, Memory, _, _]} <- Printed],
    #{memory := Bytes} = proctab:info(Zone),
    Some = lists:sum([Number || {_, _, [_, _, _, _, Number]} <- Printed]),
    ?assert(0 < Some andalso Some < Bytes),
    assert_aligned(Table).

count_down(0) -> ok;
count_down(N) -> count_down(N - 1).

names_of_any_kind_are_printed_on_one_line(_) ->
    Zone = zone(?FUNCTION_NAME),
    Short = [
        {<<"tv1">>, "<<\"tv1\">>"},
        {{stream, <<"tv1">>}, "{stream,<<\"tv1\">>}"},
        {"two\nlines", "\"two\\nlines\""},
        {'an atom', "'an atom'"}
    ],
    Deep = lists:foldl(fun(_, Inner) -> {Inner} end, deep, lists:seq(1, 10000)),
    Long = [
        binary:copy(<<"tv1">>, 500000),
        list_to_atom(lists:duplicate(255, $a)),
        1 bsl 2000,
        lists:seq(1, 10000),
        lists:duplicate(10000, $a),
        Deep
    ],
    [added(Zone, Name) || Name <- [Name || {Name, _} <- Short] ++ Long],
    {ok, Lines} = printed(fun() -> proctab:i(Zone) end),
    [_, [_ | Busiest] = Table] = tables(Lines),
    Names = [Name || Line <- Busiest, [Name | _] <- [texts(Line)]],
    ?assertEqual(10, length(Names)),
    ?assertEqual([], [Text || {_, Text} <- Short] -- Names),
    ?assertEqual([], [Name || Name <- Names, length(Name) > 50]),
    [
        ?assertNotEqual({nomatch, Name}, {string:find(Name, "..."), Name})
     || Name <- Names -- [Text || {_, Text} <- Short], hd(Name) =/= $[
    ],
    ?assertMatch([_], [
        Name
     || Name <- Names, lists:prefix("<<\"tv1tv1", Name), lists:suffix("\"...>>", Name)
    ]),
    assert_aligned(Table).

%% A node shows strings beyond Latin-1 if it is started with `+pc unicode`, and atoms always.
unicode_names_are_printed_as_the_shell_prints_them(_) ->
    Paths = source_tree:code_paths(),
    Names = ["телевидение", <<"телевидение"/utf8>>, {'зона', 1}, <<"日本"/utf8>>, "e\x{301}"],
    Options = #{args => ["+pc", "unicode", "-pa" | Paths]},
    {Texts, {ok, All}, {ok, One}} = tracked_process:on_node(Options, fun() ->
        Zone = zone('зона'),
        [added(Zone, Name) || Name <- Names],
        {
            [lists:flatten(io_lib:format("~tp", [Name])) || Name <- Names],
            printed(fun proctab:i/0),
            printed(fun() -> proctab:i(Zone) end)
        }
    end),
    [Zones, _] = tables(All),
    ?assertMatch([_, ["'зона'" | _], ["total" | _]], [texts(Line) || Line <- Zones]),
    [_, Busiest] = tables(One),
    ?assertEqual(lists:sort(Texts), lists:sort([hd(texts(Line)) || Line <- tl(Busiest)])),
    ?assert(lists:member("\"телевидение\"", Texts)),
    lists:foreach(fun printout:assert_aligned/1, [Zones, Busiest]).
