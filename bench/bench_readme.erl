%% The figures that README.md shows: the lines between two marks in it are written anew by a whole run, so that they never come from another commit than the charts beside them.
-module(bench_readme).

-export([write/2]).

-define(BEGIN, "<!-- The lines up to the next mark are written by `make bench`. -->\n").
-define(END, "<!-- So far. -->\n").
-define(SIDES, [proctab, ets_design, ets_set, registry, pg]).

-define(LINES, [
    {"`find`, 10,000 names", "find", "one process"},
    {"`getattr` of an integer", "getattr of an integer", "one process"},
    {"`getattr` of a 20-byte binary", "getattr of a 20-byte binary", "one process"},
    {"`increment`", "increment", "one process"},
    {"`setattr` of an integer", "setattr of an integer", "one process"},
    {"`setattr` of a 20-byte binary", "setattr of a 20-byte binary", "one process"},
    {"`setattr` of a 1 MB binary", "setattr of a 1 MB binary", "one process"},
    {"`info` of one name among 8,000", "info of one name", "8000 names"},
    {"`list` of 8,000 names with 4 attributes", "list", "8000 names"},
    {"start of a child", "start of a child, until find_or_open returns", "one process"},
    {"8,000 children die at once, until all is clean", "all die at once, until all is clean", "8000 names"},
    {"memory of a name with 4 attributes", "a name with 4 attributes: integer, atom, 20-byte binary, 4-element tuple", "resident"}
]).

write(File, Rows) ->
    {ok, Text} = file:read_file(File),
    [Before, Rest] = binary:split(Text, <<?BEGIN>>),
    [_, After] = binary:split(Rest, <<?END>>),
    file:write_file(File, unicode:characters_to_binary([Before, ?BEGIN, text(Rows), ?END, After])).

text(Rows) ->
    Header = ["" | [bench_sides:label(Side) || Side <- ?SIDES]],
    Lines = [Header, ["---" || _ <- Header] | [line(Line, Rows) || Line <- ?LINES]],
    ["\n", [bench_report:line(Line) || Line <- Lines], "\n", bench_report:machine(), "\n\n"].

line({Label, Operation, Mode}, Rows) ->
    [Label | [cell(Side, [Row || #{operation := O, mode := M} = Row <- Rows, O =:= Operation, M =:= Mode]) || Side <- ?SIDES]].

cell(Side, Rows) ->
    case [bench_report:value(Unit, rounds:median(Figures)) || #{side := S, unit := Unit, figures := Figures} <- Rows, S =:= Side] of
        [Value] -> Value;
        [] -> "-"
    end.
