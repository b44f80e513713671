%% The growth of operations from a thousand names to a million, with 4 attributes each. The tables
%% are filled without processes. Only the children that die are processes.
-module(bench_growth).

-export([rows/0]).

-define(SIZES, [1000, 10000, 100000, 1000000]).
-define(SIDES, [proctab, ets_design, ets_ordered, registry]).
-define(ROUNDS, 7).
-define(DEATHS, 1000).

rows() ->
    lists:append([of_size(Size) || Size <- ?SIZES]).

of_size(Size) ->
    Sides = [
        bench_sides:open(Side, list_to_atom("grown_" ++ integer_to_list(Size)), [], [])
     || Side <- ?SIDES
    ],
    lists:foreach(
        fun(Opened) -> bench_sides:fill(Opened, Size, bench_data:attributes()) end, Sides
    ),
    Names = [bench_data:name(rand:uniform(Size)) || _ <- lists:seq(1, 10000)],
    Rows = lists:append([
        [operation(Size, Sides, Label, What, Names) || {Label, What} <- operations()],
        [list(Size, Opened) || Opened <- Sides],
        [deaths(Size, Opened) || Opened <- Sides],
        [memory(Size, Opened) || #{side := Side} = Opened <- Sides, Side =/= registry]
    ]),
    lists:foreach(fun bench_sides:close/1, Sides),
    lists:append(Rows).

operations() ->
    [
        {"find", find},
        {"getattr of an integer", {getattr, integer}},
        {"increment", increment},
        {"setattr of an integer", {setattr, integer}},
        {"setattr of a 20-byte binary", {setattr, binary}},
        {"info of one name", info}
    ].

operation(Size, Sides, Label, What, Names) ->
    Loop = bench_sides:open(loop, loop, [], []),
    Works = [
        {Side, rounds:timed(Fun, bench_sides:right(What), [enough(Side, What, Size, Names)])}
     || #{side := Side} = Opened <- [Loop | Sides],
        has(Side, What),
        Fun <- [bench_sides:operation(Opened, What)],
        Fun =/= none
    ],
    Figures = rounds:alternate(rounds(What, Size), Works),
    Loops = maps:get(loop, Figures),
    [
        row(Side, Label, Size, rounds:minus(maps:get(Side, Figures), Loops))
     || {Side, _} <- Works, Side =/= loop
    ].

%% Here, Registry has names without values.
has(registry, What) -> What =:= find;
has(_, _) -> true.

%% The ETS design reads the whole table.
rounds(info, Size) when Size > 100000 -> 3;
rounds(_, _) -> ?ROUNDS.

enough(ets_design, info, Size, Names) -> lists:sublist(Names, max(1, 10000 div Size));
enough(_, _, _, Names) -> Names.

%% Returns nanoseconds for each name.
list(Size, #{side := Side} = Opened) ->
    case list_rounds(Side, Size) of
        0 ->
            [];
        Rounds ->
            Work = rounds:once(bench_sides:operation(Opened, list), fun(List) ->
                length(List) =:= Size
            end),
            #{Side := Figures} = rounds:alternate(Rounds, [{Side, Work}]),
            [row(Side, "list, for each name", Size, [Figure / Size || Figure <- Figures])]
    end.

list_rounds(registry, _) -> 0;
list_rounds(ets_design, Size) when Size > 1000 -> 0;
list_rounds(_, Size) when Size > 100000 -> 3;
list_rounds(_, _) -> ?ROUNDS.

%% Returns nanoseconds for each of the children that die at once.
deaths(Size, #{side := Side} = Opened) ->
    case dying(Side, Size) of
        {0, _} ->
            [];
        {Count, Rounds} ->
            Names = [{child, N} || N <- lists:seq(1, Count)],
            Work = fun() -> death_time(Opened, Names) / Count end,
            #{Side := Figures} = rounds:alternate(Rounds, [{Side, Work}]),
            [row(Side, "clean up after a child, of many that die at once", Size, Figures)]
    end.

dying(proctab, _) -> {?DEATHS, ?ROUNDS};
dying(ets_design, 1000) -> {?DEATHS, 3};
dying(ets_design, 10000) -> {?DEATHS, 1};
dying(ets_design, 100000) -> {100, 1};
dying(ets_design, _) -> {10, 1};
dying(_, _) -> {0, 0}.

death_time(Opened, Names) ->
    #{pids := Pids} = lists:foldl(
        fun(Name, Into) -> bench_sides:add(Into, Name, bench_data:attributes()) end, Opened, Names
    ),
    bench_zones:death_time(Opened, lists:zip(Names, lists:reverse(Pids))).

memory(Size, #{side := Side} = Opened) ->
    [
        bench_data:row(Side, "memory for each name, as the table says", mode(Size), "bytes", [
            bench_sides:bytes(Opened) / Size
        ])
    ].

row(Side, Operation, Size, Figures) ->
    bench_data:row(Side, Operation, mode(Size), "ns", Figures).

mode(Size) ->
    lists:concat([Size, " names"]).
