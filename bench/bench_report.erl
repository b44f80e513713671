%% The results: a CSV file with a row for each figure, Markdown for readers, and the charts.
-module(bench_report).

-export([write/2, markdown/1]).
-export([machine/0, line/1, value/2]).

-define(ORDER, [
    proctab,
    ets_design,
    ets_set,
    ets_ordered,
    registry,
    pg,
    global,
    whereis,
    empty_nif
]).

write(Folder, Sections) ->
    ok = filelib:ensure_path(Folder),
    Rows = lists:append([Rows || {_, Rows} <- Sections]),
    ok = write_file(Folder, "results.csv", csv(Sections)),
    Text = [head(), targets(Rows), markdown(Sections)],
    ok = write_file(Folder, "results.md", Text),
    bench_charts:draw(Folder, Rows),
    ok = bench_readme:write(filename:join(Folder, "../../README.md"), Rows),
    io:put_chars(targets(Rows)).

write_file(Folder, Name, Text) ->
    file:write_file(filename:join(Folder, Name), unicode:characters_to_binary(Text)).

csv(Sections) ->
    [
        "section,operation,mode,side,median,spread,rounds,unit\n",
        [
            io_lib:format("~s,\"~s\",\"~s\",~s,~.1f,~.3f,~b,~s\n", [
                Section,
                Operation,
                Mode,
                Side,
                float(rounds:median(Figures)),
                float(rounds:spread(Figures)),
                length(Figures),
                Unit
            ])
         || {Section, Rows} <- Sections,
            #{
                side := Side,
                operation := Operation,
                mode := Mode,
                unit := Unit,
                figures := Figures
            } <- Rows
        ]
    ].

head() ->
    [
        "# Results of `make bench`\n\n", machine(), "\n\n",
        "Medians of rounds that alternate between the sides in one VM, ± half of their range. "
        "There are seven rounds, unless the cell says otherwise. For single operations, the loop "
        "around them, measured in the same rounds, is subtracted. Ratios are medians of the "
        "ratios of the rounds, because the clock rate drifts, and affects both sides of a round. "
        "`-`: the side has no such operation, or it would take minutes. "
        "`bench/bench_sides.erl` describes the sides.\n\n"
    ].

machine() ->
    io_lib:format("~ts, ~b schedulers; OTP ~s, erts ~s (~s); Elixir ~s; commit ~s.", [
        processor(),
        erlang:system_info(schedulers_online),
        erlang:system_info(otp_release),
        erlang:system_info(version),
        erlang:system_info(emu_flavor), 'Elixir.System':version(), os:getenv("COMMIT", "unknown")
    ]).

processor() ->
    {ok, Text} = file:read_file("/proc/cpuinfo"),
    case re:run(Text, "model name\\s*: (.*)", [{capture, [1], binary}]) of
        {match, [Name]} -> Name;
        nomatch -> "unknown processor"
    end.

targets(Rows) ->
    [
        "## Numbers to reach\n\n| what | target | measured | |\n| --- | --- | --- | --- |\n",
        [
            io_lib:format("| ~ts | ~ts ~ts | ~ts | ~ts |\n", [
                What,
                case Kind of
                    least -> "at least";
                    most -> "at most"
                end,
                amount(Unit, Target),
                amount(Unit, Value),
                case bench_targets:reached(Number) of
                    true -> "met";
                    false -> "**not met**"
                end
            ])
         || {What, Kind, Target, Unit, Value} = Number <- bench_targets:all(Rows)
        ],
        "\n"
    ].

amount(times, Ratio) -> times(Ratio);
amount(bytes, Bytes) -> io_lib:format("~b bytes", [round(Bytes)]);
amount(ns, Time) -> duration(Time).

markdown(Sections) ->
    [
        [io_lib:format("## ~s\n\n~s", [title(Section), notes(Section)]), tables(Rows)]
     || {Section, Rows} <- Sections
    ].

title("memory") -> "Memory";
title("operations") -> "Single operations";
title("zones") -> "Whole zones";
title("processes") -> "metrics_process_tracker and stats_hero_monitor";
title("growth") -> "From 1,000 to 1,000,000 names";
title("hold") -> "How long a scheduler is held, 1,000,000 names";
title("scale") -> "What doc/internals/scaling.md argues from".

notes("memory") ->
    "100,000 names, filled without processes. Resident: growth of the VM's resident memory. "
    "The figures of ETS tables do not include binaries over 64 bytes.\n\n";
notes("operations") ->
    "10,000 names. Times of several processes are the time until all are done, divided by all "
    "calls. The children of `find` have the specs of the original's example. In Registry, a name "
    "has no value for `find`, and otherwise one map with all attributes. Writes into plain ETS "
    "tables check that the name is there, which may be removed meanwhile.\n\n";
notes("zones") ->
    "Each name has 4 attributes. `list` and the deaths of 8,000 children take the ETS design so "
    "long that they are measured once. The processes of Registry have registered themselves, "
    "with a map of the same attributes, those of pg have no attributes. Neither has a process "
    "beside each child.\n\n";
notes("processes") ->
    "Both sides have the same backends, see `bench/metrics.erl` and `bench/stats_hero.erl`. "
    "The ETS designs keep nothing when their server is killed.\n\n";
notes("growth") ->
    "4 attributes for each name. The ETS design's `list` of 10,000 names would take half a "
    "minute, that of a million days: it is measured with 1,000. Its deaths are 1,000 children, "
    "100 among 100,000 names, and 10 among a million.\n\n";
notes("scale") ->
    "proctab alone, once. Writes are to one of four attributes, of 10,000 names.\n\n";
notes("hold") ->
    "proctab alone. Calls: processor time. Of 5 passes, the longest call is the smallest of the "
    "maxima, the longest seen is the largest. Slices: those of at least 1 ms that the VM "
    "reports (`long_schedule`), in whole milliseconds, including the time that the operating "
    "system takes away; 0 if there is none. Slices that are no longer than those of a process "
    "that only computes say nothing about the library.\n\n".

%% Returns a table for each mode, with the sides as columns, or, if there is only one side, one
%% table with the modes as columns.
tables(Rows) ->
    case unique([Side || #{side := Side} <- Rows]) of
        [_] -> table(Rows, mode, unique([Mode || #{mode := Mode} <- Rows]), fun(Mode) -> Mode end);
        _ ->
            [
                of_mode(Mode, [Row || #{mode := M} = Row <- Rows, M =:= Mode])
             || Mode <- unique([Mode || #{mode := Mode} <- Rows])
            ]
    end.

of_mode(Mode, Rows) ->
    Sides = [Side || Side <- ?ORDER, lists:member(Side, [S || #{side := S} <- Rows])],
    ["### ", Mode, "\n\n", table(Rows, side, Sides, fun bench_sides:label/1)].

table(Rows, Across, Columns, Label) ->
    WithRatio = lists:member(proctab, Columns) andalso lists:member(ets_design, Columns),
    Header = ["" | [Label(Column) || Column <- Columns]] ++ ["ETS design / proctab" || WithRatio],
    Lines = [
        [
            Name
            | cells(
                [Row || #{operation := N} = Row <- Rows, N =:= Name], Across, Columns, WithRatio
            )
        ]
     || Name <- unique([Name || #{operation := Name} <- Rows])
    ],
    [[line(Line) || Line <- [Header, ["---" || _ <- Header] | Lines]], "\n"].

line(Cells) ->
    ["| ", lists:join(" | ", Cells), " |\n"].

cells(Rows, Across, Columns, WithRatio) ->
    Of = fun(Column) -> [Row || #{Across := C} = Row <- Rows, C =:= Column] end,
    [cell(Of(Column)) || Column <- Columns] ++ [ratio(Of(ets_design), Of(proctab)) || WithRatio].

cell([]) -> "-";
cell([#{figures := Figures, unit := Unit}]) ->
    [value(Unit, rounds:median(Figures)), spread(Figures)].

value("ns", 0) -> "none";
value("ns", Time) -> duration(Time);
value("bytes", Bytes) -> io_lib:format("~b bytes", [round(Bytes)]);
value("slices", Count) -> integer_to_list(Count).

spread([_]) -> "";
spread(Figures) when length(Figures) =:= 7 ->
    io_lib:format(" ±~b%", [round(100 * rounds:spread(Figures))]);
spread(Figures) ->
    [io_lib:format(" ±~b% (~b rounds)", [round(100 * rounds:spread(Figures)), length(Figures)])].

ratio([#{figures := Others}], [#{figures := These}]) -> times(rounds:ratio(Others, These));
ratio(_, _) -> "-".

times(Ratio) when Ratio >= 10 -> io_lib:format("~b ×", [round(Ratio)]);
times(Ratio) -> io_lib:format("~.2f ×", [float(Ratio)]).

duration(Time) when Time < 100 -> io_lib:format("~.1f ns", [float(Time)]);
duration(Time) when Time < 1.0e4 -> io_lib:format("~b ns", [round(Time)]);
duration(Time) when Time < 1.0e6 -> io_lib:format("~.1f µs", [Time / 1.0e3]);
duration(Time) when Time < 1.0e9 -> io_lib:format("~.1f ms", [Time / 1.0e6]);
duration(Time) -> io_lib:format("~.1f s", [Time / 1.0e9]).

%% Returns the items in the order of their first appearance.
unique(List) ->
    lists:reverse(
        lists:foldl(
            fun(Item, Items) ->
                case lists:member(Item, Items) of
                    true -> Items;
                    false -> [Item | Items]
                end
            end,
            [],
            List
        )
    ).
