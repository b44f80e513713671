%% The decisive comparisons in under a minute. Only ratios are checked, not times, and each has a
%% floor that leaves room for other load on the machine.
-module(bench_check).

-export([main/0]).

-define(ROUNDS, 7).
-define(SIDES, [proctab, ets_design]).

%% Returns the exit code: 0 if all ratios reach their floors.
main() ->
    Checks = checks(rows()),
    lists:foreach(fun print/1, Checks),
    case [What || {What, Floor, Ratio} <- Checks, Ratio < Floor] of
        [] ->
            0;
        Failed ->
            io:format(standard_error, "bench-check: below the floor:~n~ts", [
                [["  ", What, $\n] || What <- Failed]
            ]),
            1
    end.

print({What, Floor, Ratio}) ->
    io:format("~-95ts ~8.2f, at least ~.2f ~s~n", [
        What,
        float(Ratio),
        float(Floor),
        case Ratio < Floor of
            true -> "FAILED";
            false -> ""
        end
    ]).

rows() ->
    One = [
        "find",
        "getattr of an integer",
        "getattr of a 4-element tuple",
        "increment",
        "setattr of an integer",
        "setattr of a 20-byte binary"
    ],
    lists:append([
        bench_memory:rows(50000, ?SIDES),
        bench_operations:some(?SIDES, One, ["one process"], ?ROUNDS),
        bench_operations:some(
            ?SIDES,
            ["find", "getattr of an integer", "increment"],
            ["two processes", "two processes, one name"],
            ?ROUNDS
        ),
        bench_zones:whole(2000, ?SIDES, ?ROUNDS),
        bench_zones:starts(2000, ?ROUNDS),
        bench_zones:many_keys(10000, 3),
        bench_zones:deaths(2000, ets_design, 1),
        bench_zones:deaths(2000, proctab, ?ROUNDS),
        bench_processes:tracked_deaths(2000, 3)
    ]).

%% Returns what is compared, its floor, and its ratio: ETS design / proctab.
checks(Rows) ->
    [
        {
            lists:flatten([Operation, ", ", Mode]),
            Floor,
            bench_targets:ratio(Rows, Operation, Mode, ets_design, proctab)
        }
     || {Operation, Mode, Floor} <- floors()
    ].

floors() ->
    [
        {"a name with 4 attributes: integer, atom, 20-byte binary, 4-element tuple", "resident", 1},
        {"find", "one process", 2},
        {"getattr of an integer", "one process", 2.2},
        {"getattr of a 4-element tuple", "one process", 1.6},
        {"increment", "one process", 1.9},
        {"setattr of an integer", "one process", 7.5},
        {"setattr of a 20-byte binary", "one process", 1.9},
        {"find", "two processes", 1.7},
        {"getattr of an integer", "two processes", 2.8},
        {"increment", "two processes", 2.5},
        {"find", "two processes, one name", 1.6},
        {"getattr of an integer", "two processes, one name", 2.8},
        {"increment", "two processes, one name", 1},
        {"info of one name", "2000 names", 1000},
        {"list", "2000 names", 1000},
        {"start of a child, until find_or_open returns", "one process", 0.4},
        {"setattr of 10,000 keys, one after the other", "one name", 0.5},
        {"all die at once, until all is clean", "2000 names", 15},
        {"processes with 3 metric names die, until all is clean", "2000 processes", 8}
    ].
