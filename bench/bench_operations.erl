%% Single operations by one process, by two, and by more than there are cores, with different names,
%% and with one name for all. The loop around an operation is measured in the same rounds, and
%% subtracted.
-module(bench_operations).

-export([rows/0, some/4]).

-define(ROUNDS, 7).
-define(NAMES, 10000).
-define(PROCESSES, [{"one process", 1}, {"two processes", 2}, {"eight processes", 8}]).

-define(OPERATIONS, [
    {"find", find},
    {"getattr of an integer", {getattr, integer}},
    {"getattr of an atom", {getattr, atom}},
    {"getattr of a pid", {getattr, pid}},
    {"getattr of a 20-byte binary", {getattr, binary}},
    {"getattr of a 4-element tuple", {getattr, tuple}},
    {"getattr of a map of 4", {getattr, map}},
    {"getattr of a 1 KB binary", {getattr, kilobyte}},
    {"getattr of a 1 MB binary", {getattr, megabyte}},
    {"increment", increment},
    {"setattr of an integer", {setattr, integer}},
    {"setattr of an atom", {setattr, atom}},
    {"setattr of a pid", {setattr, pid}},
    {"setattr of a 20-byte binary", {setattr, binary}},
    {"setattr of a 4-element tuple", {setattr, tuple}},
    {"setattr of a map of 4", {setattr, map}},
    {"setattr of a 1 KB binary", {setattr, kilobyte}},
    {"setattr of a 1 MB binary", {setattr, megabyte}},
    {"95 % getattr, 5 % setattr of an integer", mix}
]).

%% Attributes of the names in two measurements. They are few, since names with many attributes
%% behave differently.
-define(SMALL, [integer, atom, pid, binary, tuple]).
-define(LARGE, [kilobyte, megabyte, map]).

-define(SIDES, [proctab, ets_design, ets_set, ets_ordered, registry]).

%% Returns all rows. `find` has more sides, and registries without values.
rows() ->
    Names = bench_data:names(?NAMES),
    Alone = [{"one process", [Names]}],
    Rows = lists:append([
        with_sides(finders(), registered, Names, [], fun(Sides) ->
            measured(Sides, ["find"], modes(Names), ?ROUNDS)
        end),
        with_sides(?SIDES, small, Names, ?SMALL, fun(Sides) ->
            Shared = [
                "getattr of an integer",
                "increment",
                "setattr of an integer",
                "setattr of a 20-byte binary",
                "95 % getattr, 5 % setattr of an integer"
            ],
            Others = [
                Label
             || {Label, {_, Key}} <- ?OPERATIONS,
                lists:member(Key, ?SMALL),
                not lists:member(Label, Shared)
            ],
            measured(Sides, Others, Alone, ?ROUNDS) ++
                measured(Sides, Shared, modes(Names), ?ROUNDS)
        end),
        with_sides(?SIDES, large, Names, ?LARGE, fun(Sides) ->
            measured(
                Sides,
                [Label || {Label, {_, Key}} <- ?OPERATIONS, lists:member(Key, ?LARGE)],
                Alone,
                ?ROUNDS
            )
        end)
    ]),
    [
        Row
     || {Label, _} <- ?OPERATIONS, #{operation := Operation} = Row <- Rows, Operation =:= Label
    ].

finders() ->
    ?SIDES ++ [pg, global] ++ bench_sides:limits().

%% Returns the rows of some operations, for `bench_check`.
some(Sides, Labels, Modes, Rounds) ->
    Names = bench_data:names(?NAMES),
    Chosen = [Mode || {Label, _} = Mode <- modes(Names), lists:member(Label, Modes)],
    with_sides(Sides, some, Names, ?SMALL, fun(Opened) ->
        measured(Opened, Labels, Chosen, Rounds)
    end).

with_sides(Sides, Purpose, Names, Keys, Fun) ->
    Attributes = [{Key, bench_data:value(Key)} || Key <- Keys],
    Opened = [bench_sides:open(Side, Purpose, Names, Attributes) || Side <- [loop | Sides]],
    Rows = Fun(Opened),
    lists:foreach(fun bench_sides:close/1, Opened),
    Rows.

%% Each process has its share of the names, or all have the same list of one name.
modes(Names) ->
    Same = lists:duplicate(?NAMES div 8, hd(Names)),
    lists:append([
        [
            {Label, shares(Names, ?NAMES div Count)},
            {Label ++ ", one name", lists:duplicate(Count, Same)}
        ]
     || {Label, Count} <- ?PROCESSES
    ]).

shares([], _) ->
    [];
shares(Names, Length) ->
    {Share, Rest} = lists:split(Length, Names),
    [Share | shares(Rest, Length)].

measured(Sides, Labels, Modes, Rounds) ->
    lists:append([
        measured_one(Sides, Label, proplists:get_value(Label, ?OPERATIONS), Modes, Rounds)
     || Label <- Labels
    ]).

measured_one(Sides, Label, What, Modes, Rounds) ->
    Works = [
        {
            {Side, Mode},
            rounds:timed(Fun, bench_sides:right(What), [items(What, List) || List <- Lists])
        }
     || #{side := Side} = Opened <- Sides,
        Fun <- [bench_sides:operation(Opened, What)],
        Fun =/= none,
        {Mode, Lists} <- Modes
    ],
    Figures = rounds:alternate(Rounds, Works),
    [
        bench_data:row(
            Side,
            Label,
            Mode,
            "ns",
            rounds:minus(maps:get(Key, Figures), maps:get({loop, Mode}, Figures))
        )
     || {{Side, Mode} = Key, _} <- Works, Side =/= loop
    ].

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
