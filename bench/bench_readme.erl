%% Writes the figures that README.md shows. A whole run replaces the lines between two marks, so the
%% README shows the figures of the same run, and the same commit, as bench/results.
-module(bench_readme).

-export([write/2]).

-define(BEGIN, "<!-- `make bench` writes the lines from here ... -->\n").
-define(END, "<!-- ... to here. -->\n").
-define(SIDES, [proctab, ets_design, ets_set, registry, pg]).
-define(WIDTH, 100).

%% Operations and modes, as the sections of the benchmark name them.
-define(ONE, "one process").
-define(TWO, "two processes, one name").
-define(WHOLE, "8000 names").
-define(BINARY, "setattr of a 20-byte binary").
-define(DEATHS, "all die at once, until all is clean").
-define(START, "start of a child, until find_or_open returns").
-define(TRACK, "track a process under a first, second and third name").
-define(WORKERS, "workers die, until all is clean").
-define(FOUR, "a name with 4 attributes: integer, atom, 20-byte binary, 4-element tuple").

%% The rows of the table: the README's label, the operation, and the mode.
-define(LINES, [
    {"`find`, 10,000 names", "find", ?ONE},
    {"`getattr` of a 20-byte binary", "getattr of a 20-byte binary", ?ONE},
    {"`increment`", "increment", ?ONE},
    {"`setattr` of a 20-byte binary", ?BINARY, ?ONE},
    {"`list` of 8,000 names with 4 attributes", "list", ?WHOLE},
    {"8,000 deaths of children at once, until all is clean", ?DEATHS, ?WHOLE}
]).

%% What else is compared. The README names all of these, and of the rows, in which a peer is ahead.
-define(OTHERS, [
    {"`getattr` of a map of 4", "getattr of a map of 4", ?ONE},
    {"`getattr` of a 1 KB binary", "getattr of a 1 KB binary", ?ONE},
    {"`getattr` of a 1 MB binary", "getattr of a 1 MB binary", ?ONE},
    {"`setattr` of a 20-byte binary on one name", ?BINARY, "one process, one name"},
    {"`setattr` of a 20-byte binary by two processes", ?BINARY, "two processes"},
    {"`setattr` of a 20-byte binary on one name by two processes", ?BINARY, ?TWO},
    {"`setattr` of an integer", "setattr of an integer", ?ONE},
    {"`setattr` of an atom", "setattr of an atom", ?ONE},
    {"`setattr` of a 4-element tuple", "setattr of a 4-element tuple", ?ONE},
    {"`setattr` of a map of 4", "setattr of a map of 4", ?ONE},
    {"`setattr` of a 1 KB binary", "setattr of a 1 KB binary", ?ONE},
    {"`setattr` of a 1 MB binary", "setattr of a 1 MB binary", ?ONE},
    {"the start of a child", ?START, ?ONE},
    {"the first `track` of a process", ?TRACK, ?ONE},
    {"the `register` of a worker", "register a worker", ?ONE},
    {"the cleanup after 8,000 workers", ?WORKERS, "8000 processes"},
    {"the memory of a name without attributes", "a name without attributes", "resident"},
    {"the memory of a name with 4 attributes", ?FOUR, "resident"}
]).

write(File, Rows) ->
    {ok, Text} = file:read_file(File),
    [Before, Rest] = binary:split(Text, <<?BEGIN>>),
    [_, After] = binary:split(Rest, <<?END>>),
    file:write_file(File, unicode:characters_to_binary([Before, ?BEGIN, text(Rows), ?END, After])).

text(Rows) ->
    Header = ["" | [bench_sides:label(Side) || Side <- ?SIDES]],
    Lines = [Header, ["---" || _ <- Header] | [line(Line, Rows) || Line <- ?LINES]],
    [
        "\n",
        [bench_report:line(Line) || Line <- Lines],
        "\n",
        wrapped(ahead(Rows)),
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

%% Where a peer is ahead, and by which factor, largest first.
ahead(Rows) ->
    All = [Row || Line <- ?LINES ++ ?OTHERS, Row <- behind(Line, Rows)],
    case lists:reverse(lists:keysort(1, All)) of
        [] ->
            "No peer is ahead in any comparison.";
        Behind ->
            Cases = [io_lib:format("~ts (~.1f)", [Label, Factor]) || {Factor, Label} <- Behind],
            [
                "In these comparisons proctab takes more than the best peer, by this factor: ",
                lists:join(", ", Cases),
                "."
            ]
    end.

behind({Label, Operation, Mode}, Rows) ->
    Found = rows(Operation, Mode, Rows),
    [Own] = [Row || #{side := proctab} = Row <- Found],
    Peers = [Row || #{side := Side} = Row <- Found, lists:member(Side, ?SIDES -- [proctab])],
    Factor = median(Own) / lists:min([median(Peer) || Peer <- Peers]),
    [{Factor, Label} || Factor > 1].

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
