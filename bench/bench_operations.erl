%% Single operations by one process, by two, and by more than there are cores, with different names,
%% and with one name for all. The loop around an operation is measured in the same VM, and
%% subtracted.
-module(bench_operations).

-export([groups/0, rows/2, some/3]).

-define(NAMES, 10000).
-define(PROCESSES, [{"one process", 1}, {"two processes", 2}, {"eight processes", 8}]).

%% Attributes of the names in two measurements. They are few, since names with many attributes
%% behave differently.
-define(SMALL, [
    {integer, "an integer"},
    {atom, "an atom"},
    {pid, "a pid"},
    {binary, "a 20-byte binary"},
    {tuple, "a 4-element tuple"}
]).
-define(LARGE, [
    {map, "a map of 4"},
    {{bytes, 100}, "a 100-byte binary"},
    {{bytes, 1024}, "a 1 KB binary"},
    {{bytes, 4096}, "a 4 KB binary"},
    {{bytes, 10240}, "a 10 KB binary"},
    {{bytes, 1048576}, "a 1 MB binary"}
]).

-define(SIDES, [proctab, ets_design, ets_set, ets_row, registry]).

%% `find` has more sides, and registries without values.
groups() ->
    [
        #{group => find, sides => ?SIDES ++ [pg, global] ++ bench_sides:limits(), vms => 5},
        #{group => small, sides => ?SIDES, vms => 5},
        #{group => large, sides => ?SIDES, vms => 5}
    ].

rows(find, Sides) ->
    measured(Sides, [], [{"find", find}], fun(_) -> true end);
rows(small, Sides) ->
    Others = [{"increment", increment}, {"95 % getattr, 5 % setattr of an integer", mix}],
    measured(Sides, ?SMALL, of_values(?SMALL) ++ Others, fun is_measured/1);
rows(large, Sides) ->
    measured(Sides, ?LARGE, of_values(?LARGE), fun is_measured/1).

of_values(Values) ->
    [{"getattr of " ++ Label, {getattr, Key}} || {Key, Label} <- Values] ++
        [{"setattr of " ++ Label, {setattr, Key}} || {Key, Label} <- Values].

%% Eight processes do a few operations only.
is_measured({{_, {_, Key}}, {_, [_, _, _ | _]}}) -> Key =:= integer orelse Key =:= binary;
is_measured(_) -> true.

%% Returns the rows of some operations and modes, for `bench_check`.
some(Sides, Labels, Modes) ->
    All = [{"find", find}, {"increment", increment} | of_values(?SMALL)],
    measured(
        Sides,
        ?SMALL,
        [Operation || {Label, _} = Operation <- All, lists:member(Label, Labels)],
        fun({_, {Mode, _}}) -> lists:member(Mode, Modes) end
    ).

measured(Sides, Values, Operations, IsMeasured) ->
    Names = bench_data:names(bench_data:scaled(?NAMES)),
    Attributes = [{Key, bench_data:value(Key)} || {Key, _} <- Values],
    Opened = [bench_sides:open(Side, names, Names, Attributes) || Side <- Sides],
    Modes = modes(Names),
    Loops = maps:from_list([
        {{What, Mode}, maps:get(loop, figures([#{side => loop}], What, Lists))}
     || What <- [mix, other], {Mode, Lists} <- Modes
    ]),
    Rows = [
        operation(Opened, Loops, Operation, Mode)
     || Operation <- Operations, Mode <- Modes, IsMeasured({Operation, Mode})
    ],
    lists:foreach(fun bench_sides:close/1, Opened),
    lists:append(Rows).

%% Each process has its share of the names, or all have the same list of one name.
modes(Names) ->
    Length = length(Names),
    Same = lists:duplicate(Length div 8, hd(Names)),
    lists:append([
        [
            {Label, shares(Names, Length div Count)},
            {Label ++ ", one name", lists:duplicate(Count, Same)}
        ]
     || {Label, Count} <- ?PROCESSES
    ]).

shares([], _) ->
    [];
shares(Names, Length) ->
    {Share, Rest} = lists:split(Length, Names),
    [Share | shares(Rest, Length)].

operation(Opened, Loops, {Label, What}, {Mode, Lists}) ->
    Loop =
        case Loops of
            #{{What, Mode} := Of} -> Of;
            #{{other, Mode} := Of} -> Of
        end,
    [
        bench_data:row(Side, Label, Mode, "ns", rounds:minus(Figures, Loop))
     || {Side, Figures} <- maps:to_list(figures(Opened, What, Lists))
    ].

figures(Opened, What, Lists) ->
    rounds:alternate(bench_data:rounds(), [
        {Side, rounds:timed(Fun, bench_sides:right(What), [items(What, List) || List <- Lists])}
     || #{side := Side} = One <- Opened,
        Fun <- [bench_sides:operation(One, What)],
        Fun =/= none
    ]).

%% One of twenty calls writes, but not the last one, whose result is checked.
items(mix, Names) ->
    lists:zipwith(
        fun(N, Name) ->
            {
                case N rem 20 of
                    1 -> write;
                    _ -> read
                end,
                Name
            }
        end,
        lists:seq(1, length(Names)),
        Names
    );
items(_, Names) ->
    Names.
