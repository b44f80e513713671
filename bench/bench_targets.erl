%% The numbers that the library has to reach, and the figures that they come from. A number has to
%% be at least, or at most, its target. Numbers without a unit are ratios.
-module(bench_targets).

-export([all/1, reached/1, behind/1, ratio/5, figures/4]).

-define(MODES, [
    "one process", "one process, one name", "two processes", "two processes, one name"
]).
-define(SHORT, ["an atom", "a pid", "a 20-byte binary", "a 4-element tuple"]).
-define(MEDIUM, ["a 100-byte binary", "a 1 KB binary", "a 4 KB binary"]).
-define(LONG, ["a 10 KB binary", "a 1 MB binary"]).
-define(WHOLE, "8000 names").
-define(INDEXED, "100,000 names").

%% Returns all numbers, with their values in these rows. Rows of sides that are missing on this
%% machine leave theirs out.
all(All) ->
    Rows = [Row || #{vm := own} = Row <- All],
    Shared = [Row || #{vm := shared} = Row <- All],
    [
        Number
     || {What, Kind, Target, Unit, Value} <- numbers(Rows, Shared),
        Number <-
            try
                [{What, Kind, Target, Unit, Value()}]
            catch
                throw:missing -> []
            end
    ].

numbers(Rows, Shared) ->
    [
        {"comparisons in which a peer is ahead", most, 0, comparisons, fun() ->
            length([Row || Row <- compared(Rows), is_behind(Row)])
        end},
        {"`find`: proctab / `erlang:whereis/1`", most, 1.5, times, fun() ->
            ratio(Rows, "find", "one process", proctab, whereis)
        end},
        {"`gen_tracker_cluster:find` of a name of another node / `find`", most, 1.5, times, fun() ->
            ratio(Rows, "find", "one process", cluster, proctab)
        end},
        least("`find`: ets, set / proctab", 1.0, Rows, ets_set, ["find"], ["one process"]),
        start("one process", supervisor, 1.5, Rows),
        start("two processes", supervisor, 0.9, Rows),
        least(
            "start of a child: ETS design / proctab",
            1.4,
            Rows,
            ets_design,
            ["start of a child"],
            ["one process"]
        ),
        speed_up("start of a child", "", 1.7, Rows),
        {"a process registers itself: proctab / Registry", most, 1.5, times, fun() ->
            ratio(Rows, "a process registers itself", "all processes", proctab, registry)
        end},
        setattr("an atom, pid, 20-byte binary or tuple", ?SHORT, 1.2, Rows),
        setattr("100 bytes to 4 KB", ?MEDIUM, 1.0, Rows),
        setattr("10 KB and 1 MB", ?LONG, 0.6, Rows),
        getattr("binaries of 100 bytes to 1 MB", ?MEDIUM ++ ?LONG, "", Rows),
        getattr("binaries of 100 bytes to 1 MB", ?MEDIUM ++ ?LONG, ", all in one VM", Shared),
        getattr("a map of 4", ["a map of 4"], "", Rows),
        least(
            "first `track` of a process: ETS design / proctab",
            2,
            Rows,
            ets_design,
            ["track a process under a first, second and third name"],
            ["one process"]
        ),
        least(
            "`register` of a worker: ETS design / proctab",
            2,
            Rows,
            ets_design,
            ["register a worker"],
            ["one process"]
        ),
        least(
            "8,000 workers die: ETS design / proctab",
            1.2,
            Rows,
            ets_design,
            ["workers die, until all is clean"],
            ["8000 processes"]
        ),
        figure(
            "memory of a name with 4 attributes, resident",
            450,
            bytes,
            Rows,
            "a name with 4 attributes: integer, atom, 20-byte binary, 4-element tuple",
            "resident"
        ),
        figure("memory of an empty zone", 16384, bytes, Rows, "an empty zone", "resident"),
        {"longest wait beside bulk calls on the same name, above the control", most, 1.0e6, ns,
            fun() -> wait(Rows) end},
        {"look-up of one child by a value / `find`, 100,000 children", most, 2, times, fun() ->
            rounds:ratio(
                figures(Rows, "look-up of the one process with a value", ?INDEXED, proctab),
                figures(Rows, "find", ?INDEXED, proctab)
            )
        end},
        {"a child takes a value: among 150,000 / among 1,500 that have it", most, 1.5, times,
            fun() ->
                rounds:ratio(joining(150000, Rows), joining(1500, Rows))
            end},
        least(
            "`select` of 100,000 children: ets, one row / proctab",
            1.0,
            Rows,
            ets_row,
            [
                "select of names with a guard on an attribute, of 100 rows",
                "select of names with a guard on an attribute, of half of the rows"
            ],
            [?INDEXED]
        ),
        speed_up("find", "", 1.8, Rows),
        speed_up("find", ", one name", 1.8, Rows),
        speed_up("getattr of an integer", "", 1.8, Rows),
        speed_up("getattr of an integer", ", one name", 1.8, Rows),
        speed_up("increment", "", 1.8, Rows),
        least(
            "`info` of one name, and `list`, of 8,000 names: ETS design / proctab",
            1000,
            Rows,
            ets_design,
            ["info of one name", "list"],
            [?WHOLE]
        ),
        least(
            "8,000 children die at once: ETS design / proctab",
            50,
            Rows,
            ets_design,
            ["processes die at once, until all is clean"],
            [?WHOLE]
        ),
        least(
            "8,000 processes with 3 metric names die at once: ETS design / proctab",
            50,
            Rows,
            ets_design,
            ["processes with 3 metric names die, until all is clean"],
            ["8000 processes"]
        ),
        {"the longest native call on a table of 1,000,000 names", most, 1.0e6, ns, fun() ->
            longest_call(Rows)
        end},
        figure(
            "a node joins another one that has 1,000,000 names, until all are found",
            10.0e9,
            ns,
            Rows,
            "a node joins, until all names are found",
            "time"
        ),
        figure(
            "memory of a name of another node, resident",
            250,
            bytes,
            Rows,
            "a name of another node",
            "resident"
        )
    ].

%% A ratio of a peer to proctab: the least of all operations and modes.
least(What, Target, Rows, Peer, Operations, Modes) ->
    {What, least, Target, times, fun() ->
        lists:min([
            ratio(Rows, Operation, Mode, Peer, proctab)
         || Operation <- Operations, Mode <- Modes
        ])
    end}.

setattr(What, Values, Target, Rows) ->
    least(
        "`setattr` of " ++ What ++ ", the least: ets, set / proctab",
        Target,
        Rows,
        ets_set,
        ["setattr of " ++ Value || Value <- Values],
        ?MODES
    ).

getattr(What, Values, Where, Rows) ->
    least(
        "`getattr` of " ++ What ++ Where ++ ", the least: ets, set / proctab",
        1.2,
        Rows,
        ets_set,
        ["getattr of " ++ Value || Value <- Values],
        ?MODES
    ).

start(Mode, Peer, Target, Rows) ->
    What = lists:concat(["start of a child by ", Mode, ": proctab / ", Peer]),
    {What, most, Target, times, fun() -> ratio(Rows, "start of a child", Mode, proctab, Peer) end}.

speed_up(Operation, Name, Target, Rows) ->
    What = lists:concat([Operation, ", two processes", Name, ": speed-up"]),
    {What, least, Target, times, fun() ->
        rounds:ratio(
            figures(Rows, Operation, "one process" ++ Name, proctab),
            figures(Rows, Operation, "two processes" ++ Name, proctab)
        )
    end}.

figure(What, Target, Unit, Rows, Operation, Mode) ->
    {What, most, Target, Unit, fun() -> rounds:median(figures(Rows, Operation, Mode, proctab)) end}.

joining(Count, Rows) ->
    Mode = lists:concat([Count, " processes with one value"]),
    figures(Rows, "a process takes the value", Mode, proctab).

%% The longest wait less that of the same call beside a process that only computes.
wait(Rows) ->
    Waits = [
        {string:split(Operation, ", beside "), Figure}
     || #{operation := Operation, mode := "longest wait", figures := [Figure]} <- Rows
    ],
    Controls = [
        {Call, Figure}
     || {[Call, "a process that only computes"], Figure} <- Waits
    ],
    Waits =/= [] orelse throw(missing),
    lists:max([Figure - proplists:get_value(Call, Controls) || {[Call, _], Figure} <- Waits]).

%% Returns the operations in which a peer is ahead, each with the largest factor of its modes.
behind(Rows) ->
    Behind = [Row || Row <- compared(Rows), is_behind(Row)],
    [
        lists:max([Row || {_, _, O} = Row <- Behind, O =:= Operation])
     || Operation <- lists:usort([Operation || {_, _, Operation} <- Behind])
    ].

is_behind({Factor, _, _}) -> Factor > 1.

%% Returns each comparison: proctab's time or memory divided by that of the best peer.
compared(Rows) ->
    Keys = lists:usort([{Operation, Mode} || #{operation := Operation, mode := Mode} <- Rows]),
    [
        {1 / Ratio, Peer, Operation}
     || {Operation, Mode} <- Keys,
        {Peer, Ratio} <- [
            bench_report:best_peer([
                Row
             || #{operation := O, mode := M} = Row <- Rows, O =:= Operation, M =:= Mode
            ])
        ]
    ].

reached({_, least, Target, _, Value}) -> Value >= Target;
reached({_, most, Target, _, Value}) -> Value =< Target.

%% Returns the ratio of the figures of one side to those of another.
ratio(Rows, Operation, Mode, Other, This) ->
    rounds:ratio(figures(Rows, Operation, Mode, Other), figures(Rows, Operation, Mode, This)).

figures(Rows, Operation, Mode, Side) ->
    Found = [
        Figures
     || #{operation := O, mode := M, side := S, figures := Figures} <- Rows,
        O =:= Operation,
        M =:= Mode,
        S =:= Side
    ],
    case Found of
        [Figures] -> Figures;
        [] -> throw(missing)
    end.

longest_call(Rows) ->
    lists:max([
        Figure
     || #{operation := Operation, mode := "longest call", figures := [Figure]} <- Rows,
        Operation =/= "a native call that does nothing"
    ]).
