%% The decisive comparisons in under a minute. Only ratios are checked, not times. The floor of each
%% is a part of the same ratio in the results of `make bench`, which leaves room for other load on
%% the machine.
-module(bench_check).

-export([main/1]).

-define(ROUNDS, 7).
-define(SIDES, [proctab, ets_design]).

%% Returns the exit code: 0 if all ratios reach their floors.
main(Results) ->
    Floors = results(filename:join(Results, "results.csv")),
    Checks = checks(rows(), Floors),
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
        bench_memory:names(50000, ?SIDES),
        bench_operations:some(?SIDES, One, ["one process"]),
        bench_operations:some(
            ?SIDES,
            ["find", "getattr of an integer", "increment"],
            ["two processes", "two processes, one name"]
        ),
        bench_zones:whole(2000, ?SIDES, ?ROUNDS),
        bench_starts:rows(starts, ?SIDES),
        bench_zones:many_keys(10000, ?SIDES, 3),
        bench_zones:deaths(2000, ets_design, 1),
        bench_zones:deaths(2000, proctab, ?ROUNDS),
        bench_processes:tracked_deaths(2000, ?SIDES, 3)
    ]).

%% Returns what is compared, its floor, and its ratio: ETS design / proctab.
checks(Rows, Results) ->
    [
        {
            lists:flatten([Operation, ", ", Mode]),
            Part * map_get({Operation, In, ets_design}, Results) /
                map_get({Operation, In, proctab}, Results),
            bench_targets:ratio(Rows, Operation, Mode, ets_design, proctab)
        }
     || {Operation, Mode, In, Part} <- parts()
    ].

%% Returns the medians of the results. Where a figure was measured both in VMs of their own and in
%% one VM, as here, that of the one VM.
results(File) ->
    {ok, Text} = file:read_file(File),
    Line = "^[a-z]+,(own|shared),\"([^\"]*)\",\"([^\"]*)\",(proctab|ets_design),([0-9.]+),",
    case re:run(Text, Line, [global, multiline, {capture, all_but_first, list}]) of
        {match, Lines} ->
            maps:from_list([
                {{Operation, Mode, list_to_existing_atom(Side)}, list_to_float(Median)}
             || VM <- ["own", "shared"], [V, Operation, Mode, Side, Median] <- Lines, V =:= VM
            ]);
        nomatch ->
            io:format(standard_error, "bench-check: no figures in ~ts; run 'make bench'~n", [File]),
            halt(2)
    end.

-define(FOUR, "a name with 4 attributes: integer, atom, 20-byte binary, 4-element tuple").

%% The ETS design's times for 2,000 names are less than a quarter of those for 8,000.
parts() ->
    [
        {Operation, Mode, Mode, 0.4}
     || {Operation, Mode} <- [
            {?FOUR, "resident"},
            {"find", "one process"},
            {"getattr of an integer", "one process"},
            {"getattr of a 4-element tuple", "one process"},
            {"increment", "one process"},
            {"setattr of an integer", "one process"},
            {"setattr of a 20-byte binary", "one process"},
            {"find", "two processes"},
            {"getattr of an integer", "two processes"},
            {"increment", "two processes"},
            {"find", "two processes, one name"},
            {"getattr of an integer", "two processes, one name"},
            {"increment", "two processes, one name"},
            {"start of a child", "one process"},
            {"setattr of 10,000 keys, one after the other", "one name"}
        ]
    ] ++
        [
            {Operation, "2000 " ++ What, "8000 " ++ What, 0.08}
         || {Operation, What} <- [
                {"info of one name", "names"},
                {"list", "names"},
                {"processes die at once, until all is clean", "names"},
                {"processes with 3 metric names die, until all is clean", "processes"}
            ]
        ].
