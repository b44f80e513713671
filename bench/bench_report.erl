%% The results: a CSV file with a row for each figure, Markdown for readers, and the charts.
-module(bench_report).

-export([write/2, markdown/1]).
-export([machine/0, line/1, value/2, best_peer/1]).

-define(ORDER, [
    proctab,
    ets_design,
    ets_set,
    ets_row,
    ets_ordered,
    supervisor,
    dynamic,
    partition,
    registry,
    pg,
    global,
    cluster,
    whereis,
    empty_nif
]).

%% Charts, targets and the README show what was measured in VMs of their own.
write(Folder, Sections) ->
    ok = filelib:ensure_path(Folder),
    Rows = lists:append([Rows || {_, Rows} <- Sections]),
    ok = write_file(Folder, "results.csv", csv(Sections)),
    Text = [head(), targets(Rows), markdown(Sections)],
    ok = write_file(Folder, "results.md", Text),
    bench_charts:draw(Folder, of_vm(own, Rows)),
    ok = bench_readme:write(Folder, of_vm(own, Rows)),
    io:put_chars(targets(Rows)).

of_vm(VM, Rows) ->
    [Row || #{vm := V} = Row <- Rows, V =:= VM].

write_file(Folder, Name, Text) ->
    file:write_file(filename:join(Folder, Name), unicode:characters_to_binary(Text)).

csv(Sections) ->
    [
        "section,vm,operation,mode,side,median,spread,rounds,unit\n",
        [
            io_lib:format("~s,~s,\"~s\",\"~s\",~s,~.1f,~.3f,~b,~s\n", [
                Section,
                VM,
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
                vm := VM,
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
        "Each side is measured in fresh VMs of its own, with the same flags, in turn with the "
        "other sides. A figure is the median of the VMs, ± half of their range; for what only one "
        "VM measures, of its rounds. For single operations, the loop around them, measured in the "
        "same VM, is subtracted. *Processor time* is that of all threads of the VM, in VMs whose "
        "schedulers do not spin while they have no work. *All sides in one VM* alternates between "
        "the sides in seven rounds; what the allocators and caches keep of one side is then there "
        "for the next one. Ratios are medians of the ratios of the rounds. The last column names "
        "the peer that is best, and its time or memory divided by proctab's: below 1 the peer is "
        "ahead. `-`: the side has no such operation, or it would take minutes. "
        "`bench/bench_sides.erl` describes the sides.\n\n"
    ].

machine() ->
    io_lib:format("~ts, ~b schedulers; OTP ~s, erts ~s (~s); Elixir ~s; commit ~s.", [
        processor(),
        erlang:system_info(schedulers_online),
        erlang:system_info(otp_release),
        erlang:system_info(version),
        erlang:system_info(emu_flavor),
        elixir(),
        os:getenv("COMMIT", "unknown")
    ]).

elixir() ->
    case application:get_key(elixir, vsn) of
        {ok, Version} -> Version;
        undefined -> "missing"
    end.

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
amount(comparisons, Count) -> integer_to_list(Count);
amount(bytes, Bytes) -> io_lib:format("~b bytes", [round(Bytes)]);
amount(ns, Time) -> duration(Time).

markdown(Sections) ->
    [
        [io_lib:format("## ~s\n\n~s", [title(Section), notes(Section)]), all_tables(Rows)]
     || {Section, Rows} <- Sections
    ].

all_tables(Rows) ->
    [
        tables(Label, of_vm(VM, Rows))
     || {VM, Label} <- [
            {own, ""},
            {processor, "processor time"},
            {shared, "all sides in one VM"}
        ]
    ].

title("memory") -> "Memory";
title("operations") -> "Single operations";
title("starts") -> "Starts and registrations";
title("indexes") -> "Look-ups by value, and searches";
title("waits") -> "How long small calls wait beside bulk calls";
title("zones") -> "Whole zones";
title("processes") -> "metrics_process_tracker and stats_hero_monitor";
title("growth") -> "From 1,000 to 1,000,000 names";
title("hold") -> "How long a scheduler is held, 1,000,000 names";
title("cluster") -> "Zones on several nodes; a node joins another one that has 1,000,000 names";
title("scale") -> "What doc/internals/scaling.md argues from".

notes("memory") ->
    "100,000 names, filled without processes. Resident: growth of the VM's resident memory. "
    "The figures of ETS tables do not include binaries over 64 bytes.\n\n";
notes("operations") ->
    "10,000 names. Times of several processes are the time until all are done, divided by all "
    "calls. The children of `find` have the specs of the original's example. In Registry, a name "
    "has no value for `find`, and otherwise one map with all attributes. Writes into plain ETS "
    "tables check that the name is there, which may be removed meanwhile.\n\n";
notes("starts") ->
    "4,000 children with the same start function and spec, by so many processes; only proctab, "
    "the ETS design and `supervisor` give them names. 8,000 processes register themselves, and "
    "die, all at once. The first start after a pause includes what has gone to sleep.\n\n";
notes("indexes") ->
    "Registry has duplicate keys, pg groups. The rows of a search have 4 attributes.\n\n";
notes("waits") ->
    "proctab alone, on the clock. Of 7 passes of 500 ms, the longest wait is the smallest of the "
    "maxima, the longest seen is the largest. What is not above the rows beside a process that "
    "only computes is the operating system's.\n\n";
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
    "that only computes say nothing about the library.\n\n";
notes("cluster") ->
    "The functions are called for children of the same node; `cas` includes a `setattr`. The "
    "joining nodes are two of this machine, with one scheduler each. Slices as in the section "
    "before this one; of 3 passes, the longest slice is the smallest of the maxima. The slices of "
    "the cluster process are traced in another pass. The memory in the VM is "
    "`erlang:memory(system)`; its allocators keep some of what they were given.\n\n".

%% Returns a table for each mode, with the sides as columns, or, if there is only one side, one
%% table with the modes as columns.
tables(_, []) ->
    [];
tables(Label, Rows) ->
    case unique([Side || #{side := Side} <- Rows]) of
        [_] -> table(Rows, mode, unique([Mode || #{mode := Mode} <- Rows]), fun(Mode) -> Mode end);
        _ ->
            [
                of_mode(Label, Mode, [Row || #{mode := M} = Row <- Rows, M =:= Mode])
             || Mode <- unique([Mode || #{mode := Mode} <- Rows])
            ]
    end.

of_mode(Label, Mode, Rows) ->
    Sides = [Side || Side <- ?ORDER, lists:member(Side, [S || #{side := S} <- Rows])],
    Title = lists:join(": ", [Part || Part <- [Mode, Label], Part =/= ""]),
    ["### ", Title, "\n\n", table(Rows, side, Sides, fun bench_sides:label/1)].

table(Rows, Across, Columns, Label) ->
    WithPeer = length(Columns) > 1 andalso lists:member(proctab, Columns),
    Header = ["" | [Label(Column) || Column <- Columns]] ++ ["best peer / proctab" || WithPeer],
    Lines = [
        [Name | cells(Of, Across, Columns) ++ [peer(best_peer(Of)) || WithPeer]]
     || Name <- unique([Name || #{operation := Name} <- Rows]),
        Of <- [[Row || #{operation := N} = Row <- Rows, N =:= Name]]
    ],
    [[line(Line) || Line <- [Header, ["---" || _ <- Header] | Lines]], "\n"].

line(Cells) ->
    ["| ", lists:join(" | ", Cells), " |\n"].

cells(Rows, Across, Columns) ->
    [cell([Row || #{Across := C} = Row <- Rows, C =:= Column]) || Column <- Columns].

%% Returns the best side but proctab and the limits, with the ratio of its figures to proctab's, or
%% `none`.
best_peer(Rows) ->
    Peers = [
        {rounds:median(Figures), Side, Figures}
     || #{side := Side, figures := Figures} <- Rows,
        not lists:member(Side, [proctab | bench_sides:limits()])
    ],
    case {lists:sort(Peers), [Figures || #{side := proctab, figures := Figures} <- Rows]} of
        {[{_, Side, Figures} | _], [These]} -> {Side, rounds:ratio(Figures, These)};
        _ -> none
    end.

peer(none) -> "-";
peer({Side, Ratio}) -> [times(Ratio), " (", bench_sides:label(Side), ")"].

cell([]) -> "-";
cell([#{figures := Figures, unit := Unit}]) ->
    [value(Unit, rounds:median(Figures)), spread(Figures)].

value("ns", Time) when Time == 0 -> "none";
value("ns", Time) -> duration(Time);
value("bytes", Bytes) -> io_lib:format("~b bytes", [round(Bytes)]);
value("slices", Count) -> integer_to_list(Count).

spread([_]) -> "";
spread(Figures) -> io_lib:format(" ±~b%", [round(100 * rounds:spread(Figures))]).

times(Ratio) when Ratio >= 10 -> io_lib:format("~b ×", [round(Ratio)]);
times(Ratio) when Ratio < 0.1 -> io_lib:format("~.4f ×", [float(Ratio)]);
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
