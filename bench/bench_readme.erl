%% Writes the figures that README.md shows. A whole run replaces the lines between two marks, so the
%% README shows the figures of the same run, and the same commit, as bench/results.
-module(bench_readme).

-export([write/2]).

-define(BEGIN, "<!-- `make bench` writes the lines from here ... -->\n").
-define(END, "<!-- ... to here. -->\n").
-define(SIDES, [proctab, ets_design, ets_set, ets_row, registry, pg]).
-define(WIDTH, 100).
%% From this factor on a peer is far ahead.
-define(FAR, 1.5).

%% Operations and modes, as the sections of the benchmark name them.
-define(ONE, "one process").
-define(WHOLE, "8000 names").
-define(DEATHS, "processes die at once, until all is clean").

%% The rows of the table: the README's label, the operation, and the mode.
-define(LINES, [
    {"`find`, 10,000 names", "find", ?ONE},
    {"`getattr` of a 20-byte binary", "getattr of a 20-byte binary", ?ONE},
    {"`increment`", "increment", ?ONE},
    {"`setattr` of a 20-byte binary", "setattr of a 20-byte binary", ?ONE},
    {"`list` of 8,000 names with 4 attributes", "list", ?WHOLE},
    {"8,000 deaths of children at once, until all is clean", ?DEATHS, ?WHOLE}
]).

write(Folder, Rows) ->
    %% A quick run has no README beside its folder, and changes none.
    File = filename:join(Folder, "../../README.md"),
    case file:read_file(File) of
        {ok, Text} ->
            [Before, Rest] = binary:split(Text, <<?BEGIN>>),
            [_, After] = binary:split(Rest, <<?END>>),
            New = [Before, ?BEGIN, text(Rows), ?END, After],
            file:write_file(File, unicode:characters_to_binary(New));
        {error, enoent} ->
            file:write_file(
                filename:join(Folder, "README.md"), unicode:characters_to_binary(text(Rows))
            )
    end.

text(Rows) ->
    Header = ["" | [bench_sides:label(Side) || Side <- ?SIDES]],
    Lines = [Header, ["---" || _ <- Header] | [line(Line, Rows) || Line <- ?LINES]],
    [
        "\n",
        [bench_report:line(Line) || Line <- Lines],
        "\n",
        wrapped(
            "Each side ran in virtual machines of its own. *ets, one row*: one ETS table with a "
            "map of the attributes in each row."
        ),
        "\n",
        ahead(Rows),
        "\n",
        bench_report:machine(),
        "\n\n"
    ].

line({Label, Operation, Mode}, Rows) ->
    Found = rows(Operation, Mode, Rows),
    [Label | [cell(Side, Found) || Side <- ?SIDES]].

rows(Operation, Mode, Rows) ->
    [Row || #{operation := O, mode := M} = Row <- Rows, O =:= Operation, M =:= Mode].

cell(Side, Rows) ->
    Values = [bench_report:value(Unit, median(Row))
              || #{side := S, unit := Unit} = Row <- Rows, S =:= Side],
    case Values of
        [Value] -> Value;
        [] -> "-"
    end.

median(#{figures := Figures}) ->
    rounds:median(Figures).

%% The operations in which a peer is far ahead, with the largest factor of their modes and sizes,
%% and that peer; the largest factor first.
ahead(Rows) ->
    Behind = lists:reverse(lists:keysort(1, bench_targets:behind(Rows))),
    {Far, Near} = lists:partition(fun({Factor, _, _}) -> Factor >= ?FAR end, Behind),
    Header = [["a peer is ahead", "times", "peer"], ["---", "---", "---"]],
    Lines = [
        [Operation, io_lib:format("~.1f", [float(Factor)]), bench_sides:label(Side)]
     || {Factor, Side, Operation} <- Far
    ],
    [
        wrapped("These need more time or memory than the best peer does, by this factor at most:"),
        "\n",
        [bench_report:line(Line) || Line <- Header ++ Lines],
        "\n",
        wrapped(io_lib:format(
            "Other comparisons in which a peer is ahead, by less than ~.1f times: ~b.",
            [?FAR, length(Near)]
        ))
    ].

%% Lines of at most ?WIDTH characters.
wrapped(Text) ->
    Words = string:lexemes(unicode:characters_to_list(Text), " "),
    {Lines, Last} = lists:foldl(fun wrap/2, {[], ""}, Words),
    [[Line, "\n"] || Line <- lists:reverse([Last | Lines])].

wrap(Word, {Lines, ""}) ->
    {Lines, Word};
wrap(Word, {Lines, Line}) ->
    case string:length([Line, " ", Word]) > ?WIDTH of
        true -> {[Line | Lines], Word};
        false -> {Lines, [Line, " ", Word]}
    end.
