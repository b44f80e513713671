%% The charts, drawn by gnuplot: times of single operations, and the growth of three of them.
-module(bench_charts).

-export([draw/2]).

-define(SIDES, [
    {proctab, "#c8501e"},
    {ets_design, "#4a6fa5"},
    {ets_set, "#8fb0d9"},
    {ets_row, "#3f9c8f"},
    {registry, "#8e6bb0"}
]).
-define(GROWING, [
    {proctab, "#c8501e"},
    {ets_design, "#4a6fa5"},
    {ets_ordered, "#3f9c8f"},
    {registry, "#8e6bb0"}
]).
-define(BARS, [
    {"find", "find"},
    {"getattr of an integer", "getattr\\ninteger"},
    {"getattr of a 20-byte binary", "getattr\\nbinary"},
    {"getattr of a 4-element tuple", "getattr\\ntuple"},
    {"increment", "increment"},
    {"setattr of an integer", "setattr\\ninteger"},
    {"setattr of a 20-byte binary", "setattr\\nbinary"},
    {"setattr of a 4-element tuple", "setattr\\ntuple"}
]).
-define(PANELS, [
    {"find", "find, for each call"},
    {"list, for each name", "list, for each name"},
    {"clean up after a child, of many that die at once", "mass death, for each child"}
]).
-define(SIZES, [1000, 10000, 100000, 1000000]).

draw(Folder, Rows) ->
    gnuplot([
        operations(filename:join(Folder, "operations.svg"), Rows),
        growth(filename:join(Folder, "growth.svg"), Rows)
    ]).

gnuplot(Commands) ->
    Script = filename:join(filename:dirname(code:which(?MODULE)), "charts.gnuplot"),
    ok = file:write_file(Script, unicode:characters_to_binary(Commands)),
    case os:cmd("gnuplot '" ++ Script ++ "' 2>&1") of
        "" -> ok;
        Complaint -> error({gnuplot, Complaint})
    end.

operations(File, Rows) ->
    [
        terminal(File, 960, 440),
        "set title 'One operation, one process, 10,000 names "
        "(nanoseconds, logarithmic: shorter is better)' offset 0,-0.3\n"
        "set style data histograms\nset style histogram clustered gap 1.2\n"
        "set style fill solid 1.0 noborder\nset boxwidth 0.92\n"
        "set logscale y\nset yrange [40:20000]\n"
        "set ytics (50, 100, 200, 500, '1,000' 1000, '2,000' 2000, '5,000' 5000, "
        "'10,000' 10000, '20,000' 20000)\n"
        "set grid noxtics ytics\nset xtics scale 0\nset xrange [-0.6:7.6]\nset bmargin 4\n",
        "$operations << END\n",
        [
            [
                $",
                Label,
                $",
                [[$\s, figure(Rows, Operation, "one process", Side)] || {Side, _} <- ?SIDES],
                $\n
            ]
         || {Operation, Label} <- ?BARS
        ],
        "END\nplot ",
        lists:join(", ", [
            io_lib:format("$operations using ~b:xtic(1) title '~s' linecolor rgb '~s'", [
                Column,
                bench_sides:label(Side),
                Colour
            ])
         || {Column, {Side, Colour}} <- lists:enumerate(2, ?SIDES)
        ]),
        "\nreset\n"
    ].

growth(File, Rows) ->
    [
        terminal(File, 1080, 380),
        "set multiplot layout 1,3 margins 0.065,0.965,0.17,0.88 spacing 0.08,0\n"
        "set logscale xy\nset xrange [700:1400000]\n"
        "set xtics ('1,000' 1000, '10,000' 10000, '100,000' 100000, '1,000,000' 1000000)"
        " font ',11'\n"
        "set xlabel 'names' offset 0,0.4\nset grid\nset ytics nomirror\n",
        [panel(Rows, Panel, Number) || {Number, Panel} <- lists:enumerate(?PANELS)],
        "unset multiplot\nreset\n"
    ].

%% The first panel has the legend.
panel(Rows, {Operation, Title}, Number) ->
    Lines = [
        {Side, Colour, Points}
     || {Side, Colour} <- ?GROWING, Points <- [points(Rows, Operation, Side)], Points =/= []
    ],
    [
        io_lib:format("set title '~s'\n", [Title]),
        "set yrange [*:*]\n"
        "set ytics ('10 ns' 10, '100 ns' 100, '1 µs' 1e3, '10 µs' 1e4, '100 µs' 1e5, "
        "'1 ms' 1e6, '10 ms' 1e7, '100 ms' 1e8, '1 s' 1e9)\n",
        case Number of
            1 -> "set key top left vertical Left reverse samplen 1.5\nset yrange [50:20000]\n";
            _ -> "unset key\n"
        end,
        [
            [io_lib:format("$panel_~b_~s << END\n", [Number, Side]), Points, "END\n"]
         || {Side, _, Points} <- Lines
        ],
        "plot ",
        lists:join(", ", [
            io_lib:format(
                "$panel_~b_~s using 1:2 with linespoints linewidth 2.5 pointtype 7 "
                "pointsize 0.7 linecolor rgb '~s' title '~s'",
                [Number, Side, Colour, bench_sides:label(Side)]
            )
         || {Side, Colour, _} <- Lines
        ]),
        "\n"
    ].

points(Rows, Operation, Side) ->
    Points = [
        {Size, Figures}
     || Size <- ?SIZES, Figures <- figures(Rows, Operation, lists:concat([Size, " names"]), Side)
    ],
    [
        io_lib:format("~b ~.2f\n", [Size, float(rounds:median(Figures))])
     || {Size, Figures} <- lists:sort(Points ++ more_points(Rows, Operation, Side))
    ].

%% `bench_zones` measures the ETS design's `list` of many names, once.
more_points(Rows, "list, for each name", ets_design) ->
    [
        {8000, [Figure / 8000 || Figure <- Figures]}
     || Figures <- figures(Rows, "list", "8000 names", ets_design)
    ];
more_points(_, _, _) ->
    [].

terminal(File, Width, Height) ->
    io_lib:format(
        "set terminal svg size ~b,~b font 'DejaVu Sans,Verdana,Helvetica,sans-serif,13' "
        "background '#ffffff' noenhanced\nset output '~ts'\n"
        "set datafile missing '?'\nset border 3 linecolor rgb '#555555'\nset tics nomirror\n"
        "set grid linecolor rgb '#dddddd' linetype 1 linewidth 0.8\n"
        "set key top left horizontal Left reverse samplen 1.5\n",
        [Width, Height, File]
    ).

figure(Rows, Operation, Mode, Side) ->
    case figures(Rows, Operation, Mode, Side) of
        [Figures] -> io_lib:format("~.2f", [float(rounds:median(Figures))]);
        [] -> "?"
    end.

figures(Rows, Operation, Mode, Side) ->
    [
        Figures
     || #{operation := O, mode := M, side := S, figures := Figures} <- Rows,
        O =:= Operation,
        M =:= Mode,
        S =:= Side
    ].
