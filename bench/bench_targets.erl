%% The numbers that the library has to reach, and the figures that they come from. A number has to
%% be at least, or at most, its target. Numbers without a unit are ratios.
-module(bench_targets).

-export([all/1, reached/1, ratio/5, figures/4]).

%% Returns all numbers, with their values in these rows.
all(Rows) ->
    Better = fun(Operation, Mode) -> ratio(Rows, Operation, Mode, ets_design, proctab) end,
    Least = fun(Operations) ->
        lists:min([Better(Operation, "one process") || Operation <- Operations])
    end,
    SpeedUp = fun(Operation, Name) ->
        rounds:ratio(
            figures(Rows, Operation, "one process" ++ Name, proctab),
            figures(Rows, Operation, "two processes" ++ Name, proctab)
        )
    end,
    Figure = fun(Operation, Mode) -> rounds:median(figures(Rows, Operation, Mode, proctab)) end,
    Whole = "8000 names",
    [
        {
            "`find`, 10,000 names: ETS design / proctab",
            least,
            5,
            times,
            Better("find", "one process")
        },
        {
            "`find`: proctab / `erlang:whereis/1`",
            most,
            1.5,
            times,
            ratio(Rows, "find", "one process", proctab, whereis)
        },
        {
            "`getattr` of an integer, atom, pid or 20-byte binary, the least: ETS design / proctab",
            least,
            6,
            times,
            Least([
                "getattr of an integer",
                "getattr of an atom",
                "getattr of a pid",
                "getattr of a 20-byte binary"
            ])
        },
        {
            "`getattr` of a 4-element tuple: ETS design / proctab",
            least,
            2.5,
            times,
            Better("getattr of a 4-element tuple", "one process")
        },
        {"`increment`: ETS design / proctab", least, 4, times, Better("increment", "one process")},
        {
            "`setattr` of an integer: ETS design / proctab",
            least,
            20,
            times,
            Better("setattr of an integer", "one process")
        },
        {
            "`setattr` of an atom, pid, 20-byte binary or tuple, the least: ETS design / proctab",
            least,
            5,
            times,
            Least([
                "setattr of an atom",
                "setattr of a pid",
                "setattr of a 20-byte binary",
                "setattr of a 4-element tuple"
            ])
        },
        {
            "`find` by two processes, different names: speed-up",
            least,
            1.8,
            times,
            SpeedUp("find", "")
        },
        {
            "`find` by two processes, one name: speed-up",
            least,
            1.8,
            times,
            SpeedUp("find", ", one name")
        },
        {
            "`getattr` by two processes, different names: speed-up",
            least,
            1.8,
            times,
            SpeedUp("getattr of an integer", "")
        },
        {
            "`getattr` by two processes, one name: speed-up",
            least,
            1.8,
            times,
            SpeedUp("getattr of an integer", ", one name")
        },
        {
            "`increment` by two processes, different names: speed-up",
            least,
            1.8,
            times,
            SpeedUp("increment", "")
        },
        {
            "`increment` by two processes, one counter: ETS design / proctab",
            least,
            1,
            times,
            Better("increment", "two processes, one name")
        },
        {
            "`setattr` of 10,000 keys, one after the other, on one name: ETS design / proctab",
            least,
            1,
            times,
            Better("setattr of 10,000 keys, one after the other", "one name")
        },
        {
            "`info` of one name among 8,000: ETS design / proctab",
            least,
            1000,
            times,
            Better("info of one name", Whole)
        },
        {"`list` of 8,000 names: ETS design / proctab", least, 1000, times, Better("list", Whole)},
        {"`list` of 8,000 names", most, 25.0e6, ns, Figure("list", Whole)},
        {
            "8,000 children die at once, until all is clean: ETS design / proctab",
            least,
            50,
            times,
            Better("all die at once, until all is clean", Whole)
        },
        {
            "8,000 processes with 3 metric names die at once: ETS design / proctab",
            least,
            50,
            times,
            Better("processes with 3 metric names die, until all is clean", "8000 processes")
        },
        {
            "starting a child, until `find_or_open` returns: ETS design / proctab",
            least,
            1,
            times,
            Better("start of a child, until find_or_open returns", "one process")
        },
        {
            "memory of a name with 4 attributes, resident",
            most,
            500,
            bytes,
            Figure(
                "a name with 4 attributes: integer, atom, 20-byte binary, 4-element tuple",
                "resident"
            )
        },
        {
            "the longest native call on a table of 1,000,000 names",
            most,
            1.0e6,
            ns,
            longest_call(Rows)
        }
    ].

reached({_, least, Target, _, Value}) -> Value >= Target;
reached({_, most, Target, _, Value}) -> Value =< Target.

%% Returns the ratio of the figures of one side to those of another.
ratio(Rows, Operation, Mode, Other, This) ->
    rounds:ratio(figures(Rows, Operation, Mode, Other), figures(Rows, Operation, Mode, This)).

figures(Rows, Operation, Mode, Side) ->
    [Figures] = [
        Figures
     || #{operation := O, mode := M, side := S, figures := Figures} <- Rows,
        O =:= Operation,
        M =:= Mode,
        S =:= Side
    ],
    Figures.

longest_call(Rows) ->
    lists:max([
        Figure
     || #{operation := Operation, mode := "longest call", figures := [Figure]} <- Rows,
        Operation =/= "a native call that does nothing"
    ]).
