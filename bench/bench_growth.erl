%% The growth of operations from a thousand names to a million, with 4 attributes each. The tables
%% are filled without processes. Only the children that die are processes.
-module(bench_growth).

-export([groups/0, rows/2]).

-define(SIZES, [1000, 10000, 100000, 1000000]).
-define(DEATHS, 1000).

groups() ->
    [
        #{
            group => growth,
            sides => [proctab, ets_design, ets_ordered, registry],
            vms => 1,
            processor => false,
            shared => false
        }
    ].

rows(growth, Sides) ->
    lists:append([of_size(Size, Side) || Size <- ?SIZES, Side <- Sides]).

of_size(Most, Side) ->
    Size = bench_data:scaled(Most),
    Opened = bench_sides:open(Side, list_to_atom(lists:concat([grown_, Size])), [], []),
    bench_sides:fill(Opened, Size, bench_data:attributes()),
    Names = [bench_data:name(rand:uniform(Size)) || _ <- lists:seq(1, 10000)],
    Rows = lists:append([
        [operation(Size, Opened, Label, What, Names) || {Label, What} <- operations()],
        [list(Size, Opened), deaths(Size, Opened)],
        [memory(Size, Opened) || Side =/= registry]
    ]),
    bench_sides:close(Opened),
    [Row#{mode => lists:concat([Most, " names"])} || Row <- lists:append(Rows)].

operations() ->
    [
        {"find", find},
        {"getattr of an integer", {getattr, integer}},
        {"increment", increment},
        {"setattr of an integer", {setattr, integer}},
        {"setattr of a 20-byte binary", {setattr, binary}},
        {"info of one name", info}
    ].

operation(Size, #{side := Side} = Opened, Label, What, Names) ->
    Loop = bench_sides:open(loop, loop, [], []),
    Works = [
        {One, rounds:timed(Fun, bench_sides:right(What), [enough(Side, What, Size, Names)])}
     || #{side := One} = Sides <- [Loop, Opened],
        has(Side, What),
        Fun <- [bench_sides:operation(Sides, What)],
        Fun =/= none
    ],
    Figures = rounds:alternate(rounds(What, Size), Works),
    [
        row(Side, Label, rounds:minus(maps:get(Side, Figures), maps:get(loop, Figures)))
     || is_map_key(Side, Figures)
    ].

%% Here, Registry has names without values.
has(registry, What) -> What =:= find;
has(_, _) -> true.

%% The ETS design reads the whole table.
rounds(info, Size) when Size > 100000 -> 1;
rounds(_, _) -> bench_data:rounds().

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
            [row(Side, "list, for each name", [Figure / Size || Figure <- Figures])]
    end.

list_rounds(registry, _) -> 0;
list_rounds(ets_design, Size) when Size > 1000 -> 0;
list_rounds(_, _) -> bench_data:rounds().

%% Returns nanoseconds for each of the children that die at once.
deaths(Size, #{side := Side} = Opened) ->
    case dying(Side, Size) of
        {0, _} ->
            [];
        {Count, Rounds} ->
            Names = [{child, N} || N <- lists:seq(1, Count)],
            Work = fun() -> death_time(Opened, Names) / Count end,
            #{Side := Figures} = rounds:alternate(Rounds, [{Side, Work}]),
            [row(Side, "clean up after a child, of many that die at once", Figures)]
    end.

dying(proctab, _) -> {?DEATHS, bench_data:rounds()};
dying(ets_design, Size) when Size =< 10000 -> {?DEATHS, 1};
dying(ets_design, Size) when Size =< 100000 -> {100, 1};
dying(ets_design, _) -> {10, 1};
dying(_, _) -> {0, 0}.

death_time(Opened, Names) ->
    #{pids := Pids} = lists:foldl(
        fun(Name, Into) -> bench_sides:add(Into, Name, bench_data:attributes()) end, Opened, Names
    ),
    bench_zones:death_time(Opened, lists:zip(Names, lists:reverse(Pids))).

memory(Size, #{side := Side} = Opened) ->
    Figure = bench_sides:bytes(Opened) / Size,
    [bench_data:row(Side, "memory for each name, as the table says", "", "bytes", [Figure])].

row(Side, Operation, Figures) ->
    bench_data:row(Side, Operation, "", "ns", Figures).
