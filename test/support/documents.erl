%% The documents: their links, lines and blocks of code, and the shells that run the blocks.
-module(documents).

-export([names/0, pages/0, text/1, links/1, anchors/1, mentioned/2]).
-export([fences/1, blocks/1, kind/1, terms/1, fragments/1, steps/1]).
-export([repository/1, environment/0, run/3, result/3, open_shell/4, type/2, close_shell/1]).

-include_lib("stdlib/include/assert.hrl").

%% The address of the library's repository in the documents.
-define(ADDRESS, "https://example.org/proctab.git").
-define(FIRST_PROMPT, "(?m)^1> ").
%% The exit status of a program that ends so.
-define(SEGMENTATION_FAULT, 139).

%% Returns the documents for users.
names() ->
    [
        "README.md"
        | [
            "doc/" ++ Guide
         || Guide <- lists:sort(filelib:wildcard("*.md", filename:join(source_tree:root(), "doc")))
        ]
    ].

%% Returns the documents for users, and those for contributors.
pages() ->
    Internals = filelib:wildcard("doc/internals/*.md", source_tree:root()),
    names() ++ ["CHANGELOG.md", "CONTRIBUTING.md" | lists:sort(Internals)].

text(Document) ->
    {ok, Text} = file:read_file(filename:join(source_tree:root(), Document)),
    Text.

%% Returns the links of a document to files and sections as `{File, Section}`, of which one may be
%% empty.
links(Document) ->
    [split(Link) || Link <- matches("\\]\\(([^):]+)\\)", Document)].

split(Link) ->
    case string:split(Link, "#") of
        [File, Section] -> {File, Section};
        [File] -> {File, ""}
    end.

%% Returns the anchors of a document's headings.
anchors(Document) ->
    [anchor(Heading) || Heading <- matches("(?m)^#+ (.*)$", Document)].

anchor(Heading) ->
    Words = re:replace(string:lowercase(Heading), "[^a-z0-9_ -]", "", [global, {return, list}]),
    lists:flatten(string:replace(Words, " ", "-", all)).

%% Returns the texts that the expression's group finds in a document, each once.
mentioned(Expression, Document) ->
    lists:usort(matches(Expression, Document)).

matches(Expression, Document) ->
    case re:run(text(Document), Expression, [global, {capture, [1], list}]) of
        {match, Matches} -> lists:append(Matches);
        nomatch -> []
    end.

%% Returns how many lines begin or end a block, whatever their indentation.
fences(Document) ->
    length(matches("(?m)^\\s*(```|~~~)", Document)).

%% Returns the blocks of a document in order: the line, the language, and the text of each.
blocks(Document) ->
    Text = text(Document),
    Options = [global, multiline, dotall, {capture, all, index}],
    Blocks =
        case re:run(Text, "^```(\\w*)\n(.*?)^```$", Options) of
            {match, Matches} -> Matches;
            nomatch -> []
        end,
    [{line(Text, Start), part(Text, Language), part(Text, Body)}
     || [{Start, _}, Language, Body] <- Blocks].

part(Text, Where) -> binary_to_list(binary:part(Text, Where)).
line(Text, Position) -> length(binary:split(binary:part(Text, 0, Position), <<"\n">>, [global])).

%% Returns the kind of a block, which says how it is tested. No block may be `unknown`.
kind({_, "erlang", "-module(" ++ _}) -> module;
kind({_, "erlang", "{" ++ _}) -> terms;
kind({_, "erlang", [Digit | _]}) when Digit >= $0, Digit =< $9 -> session;
kind({_, "elixir", _}) -> elixir;
kind({_, "dockerfile", _}) -> dockerfile;
kind({_, "sh", Commands}) ->
    Programs = [hd(string:lexemes(Command, " ")) || Command <- string:lexemes(Commands, "\n")],
    case lists:usort(Programs) of
        ["make"] -> make;
        Others -> commands(Others -- ["cd", "rebar3"])
    end;
kind(_) -> unknown.

commands([]) -> commands;
commands(_Others) -> unknown.

%% Returns the terms that `file:consult/1` would read.
terms({_, "erlang", Text}) -> terms(erl_scan:tokens([], Text, 1), []).

terms({done, {ok, Tokens, _}, Rest}, Terms) ->
    {ok, Term} = erl_parse:parse_term(Tokens),
    terms(erl_scan:tokens([], Rest, 1), [Term | Terms]);
terms({done, {eof, _}, _}, Terms) ->
    lists:reverse(Terms);
terms({more, Continuation}, Terms) ->
    terms(erl_scan:tokens(Continuation, eof, 1), Terms).

%% Returns the terms of all blocks of a document.
fragments(Document) ->
    lists:append([terms(Block) || Block <- blocks(Document), kind(Block) =:= terms]).

%% Returns the steps of a session: the number of the prompt, the input, and the output.
steps({_, "erlang", Session}) ->
    {match, Steps} = re:run(
        Session,
        "^(\\d+)> (.*?\\.)\n(.*?)(?=^\\d+> |\\z)",
        [global, multiline, dotall, {capture, [1, 2, 3], list}]
    ),
    [{list_to_integer(Number), Typed, Printed} || [Number, Typed, Printed] <- Steps].

%%% Programs

%% Runs a shell command, which must succeed, and returns its output.
run(Dir, Env, Command) ->
    {Status, Output} = result(Dir, Env, Command),
    ?assertEqual(0, Status, {unicode:characters_to_list(Command), Output}),
    Output.

%% Runs a shell command, and returns its exit status and its output.
result(Dir, Env, Command) ->
    Port = open(Dir, Env, "/bin/sh", ["-e", "-c", unicode:characters_to_list(Command)]),
    ended(Port, <<>>).

ended(Port, Output) ->
    receive
        {Port, {data, Data}} -> ended(Port, <<Output/binary, Data/binary>>);
        {Port, {exit_status, Status}} -> {Status, Output}
    end.

%% Makes a git repository of this tree in a folder, with the version as a tag. Returns an
%% environment in which the library's address leads there.
repository(Folder) ->
    ok = filelib:ensure_path(Folder),
    Excluded = [[" --exclude=./", Other] || Other <- [".git", "_build", "target", "priv"]],
    _ = run(source_tree:root(), [], ["tar -c", Excluded, " . | tar -x -C '", Folder, "'"]),
    Author = "-c user.name=test -c user.email=test@localhost",
    _ = run(Folder, [], "git init -q -b main && git add ."),
    _ = run(Folder, [], ["git ", Author, " commit -q -m test"]),
    _ = run(Folder, [], ["git tag ", source_tree:version()]),
    [
        {"GIT_CONFIG_COUNT", "1"},
        {"GIT_CONFIG_KEY_0", "url.file://" ++ Folder ++ ".insteadOf"},
        {"GIT_CONFIG_VALUE_0", ?ADDRESS}
    ].

%% Starts an Erlang shell. Returns when it has printed texts for all patterns, in any order, and
%% waits at its first prompt.
%%
%% `rebar3 shell` closes the port of its standard output to replace its own shell by the one that
%% prompts. If a thread of the VM still writes to that port, OTP 25 may dereference a pointer that
%% is null by then (`fd_async` in erts/emulator/sys/unix/sys_drivers.c). A shell that ends so before
%% its first prompt is started once more.
open_shell(Dir, Env, Program, Patterns) ->
    try
        start_shell(Dir, Env, Program, Patterns)
    catch
        error:{ended, ?SEGMENTATION_FAULT, Output} when Output =/= <<>> ->
            ?assertEqual(nomatch, re:run(Output, ?FIRST_PROMPT)),
            start_shell(Dir, Env, Program, Patterns)
    end.

start_shell(Dir, Env, [Program | Args], Patterns) ->
    Port = open(Dir, Env, os:find_executable(Program), Args),
    shown(Port, [?FIRST_PROMPT | Patterns], <<>>).

shown(Shell, Patterns, Output) ->
    case [Pattern || Pattern <- Patterns, re:run(Output, Pattern) =:= nomatch] of
        [] -> Shell;
        Missing -> shown(Shell, Missing, <<Output/binary, (more(Shell, Output))/binary>>)
    end.

more(Shell, Output) ->
    receive
        {Shell, {data, Data}} -> Data;
        {Shell, {exit_status, Status}} -> error({ended, Status, Output})
    end.

open(Dir, Env, Program, Args) ->
    open_port(
        {spawn_executable, Program},
        [
            {args, Args},
            {cd, Dir},
            {env, environment() ++ Env},
            exit_status,
            stderr_to_stdout,
            binary
        ]
    ).

%% What differs from the environment of the tests for commands that a user runs. The gate runs these
%% suites with a profile of rebar3.
environment() ->
    [{"TERM", "dumb"}, {"REBAR_PROFILE", false}].

%% Types a step of a session, and compares the output. `/path/to/proctab` is replaced by the folder
%% of this library.
type(Shell, {Number, Typed, Printed}) ->
    true = port_command(
        Shell, [string:replace(Typed, "/path/to/proctab", source_tree:library()), $\n]
    ),
    %% A shell that prints something while it waits repeats its prompt.
    Shown = re:replace(
        prompt(Shell, Number + 1, <<>>),
        ["\\A(", prompt(Number), ")+"],
        "",
        [{return, binary}]
    ),
    ?assertMatch({match, _}, re:run(Shown, ["\\A", pattern(Printed), "\\z"]), {Typed, Shown}).

prompt(Shell, Number, Output) ->
    Pattern = ["\\A(|.*\n)", prompt(Number), "\\z"],
    case re:run(Output, Pattern, [dotall, {capture, [1], binary}]) of
        {match, [Before]} ->
            Before;
        nomatch ->
            prompt(Shell, Number, <<Output/binary, (more(Shell, Output))/binary>>)
    end.

%% Returns a pattern for a prompt. That of a node with a name begins with the name.
prompt(Number) ->
    ["(?:\\(\\S+\\))?", integer_to_list(Number), "> "].

%% Returns a pattern for an output of a document. A pid matches any pid, and `...` and a last `_`
%% match anything.
pattern(Printed) ->
    Escaped = re:replace(Printed, "[][{}()|.*+?^$\\\\]", "\\\\&", [global, {return, list}]),
    Pids = re:replace(
        Escaped, "<0\\\\\\.\\d+\\\\\\.0>", "<0\\\\.\\\\d+\\\\.\\\\d+>", [global, {return, list}]
    ),
    Dots = re:replace(Pids, "\\\\\\.\\\\\\.\\\\\\.", "(?s:.*)", [global, {return, list}]),
    re:replace(Dots, ",_\\\\}", ",(?s:.*)", [global, {return, list}]).

close_shell(Shell) ->
    true = port_command(Shell, "halt().\n"),
    {0, _} = ended(Shell, <<>>),
    ok.
