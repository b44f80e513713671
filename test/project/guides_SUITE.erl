%% Promise: every block of code in README.md and in the guides runs as printed. The suite follows a
%% document as a reader would, from its first block to its last, in an empty folder:
%%
%% - It runs commands of the shell in the folder that the commands before have led to. It asks
%%   `make` whether a target exists.
%% - Once a command has made a project, modules and terms of a configuration become files of the
%%   project. Before, a module is compiled, and terms must be some of doc/swapping.md, which
%%   dependencies_SUITE tests. A Dockerfile is not run.
%% - It types sessions into an Erlang shell, that of the project if one was started, and compares
%%   the output with the guide.
-module(guides_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(source_tree, [root/0]).

%% The documents with blocks of Elixir, and the suites that cover these. elixir_SUITE covers all of
%% doc/elixir.md.
-define(ELIXIR, #{
    "README.md" => "elixir_SUITE",
    "doc/elixir.md" => "elixir_SUITE",
    "doc/swapping.md" => "dependencies_SUITE"
}).

%% Includes a build of the native library from scratch.
suite() ->
    [{timetrap, {minutes, 8}}].

all() ->
    [
        every_block_is_covered,
        every_link_between_documents_has_a_target,
        every_suite_and_target_that_documents_name_exists,
        the_figures_of_the_readme_are_those_of_the_results,
        every_document_runs_as_printed
    ].

every_block_is_covered(_Config) ->
    Uncovered = [
        {Document, Line}
     || Document <- documents:names(),
        {Line, _, _} = Block <- documents:blocks(Document),
        not is_covered(documents:kind(Block), Document)
    ],
    ?assertEqual([], Uncovered),
    %% Each fence begins or ends a block.
    [
        ?assertEqual(
            {Document, documents:fences(Document)},
            {Document, 2 * length(documents:blocks(Document))}
        )
     || Document <- documents:names()
    ].

every_link_between_documents_has_a_target(_Config) ->
    Links = [{Document, Link} || Document <- documents:pages(), Link <- documents:links(Document)],
    ?assertNotEqual([], Links),
    ?assertEqual([], [Link || Link <- Links, not has_target(Link)]).

has_target({Document, {"", Section}}) ->
    lists:member(Section, documents:anchors(Document));
has_target({Document, {Link, Section}}) ->
    File = filename:join(filename:dirname(Document), Link),
    filelib:is_file(filename:join(root(), File)) andalso
        (Section =:= "" orelse lists:member(Section, documents:anchors(File))).

every_suite_and_target_that_documents_name_exists(_Config) ->
    Named = fun(Expression) ->
        [
            {Document, Name}
         || Document <- documents:pages(), Name <- documents:mentioned(Expression, Document)
        ]
    end,
    Suites = Named("\\b([a-z_]+_SUITE)\\b"),
    Exists = fun(Suite) -> filelib:wildcard("test/**/" ++ Suite ++ ".erl", root()) =/= [] end,
    ?assertEqual([], [Missing || {_, Suite} = Missing <- Suites, not Exists(Suite)]),
    Targets = lists:usort([Target || {_, Target} <- Named("(?m)(?:`|^)make ([a-z][a-z+-]*)")]),
    ?assert(length(Suites) > 0 andalso length(Targets) > 0),
    _ = documents:run(root(), [], ["make -n ", lists:join(" ", Targets), " >/dev/null"]).

%% So they are figures of the same commit.
the_figures_of_the_readme_are_those_of_the_results(_Config) ->
    Results = documents:text("bench/results/results.md"),
    Rows = documents:mentioned("(?m)^(\\|.*\\d [nµm]?s \\|.*)$", "README.md"),
    Figures = [string:trim(Cell) || Row <- Rows, Cell <- tl(tl(string:split(Row, "|", all)))],
    Commits = documents:mentioned("(?m)^(.*; commit [0-9a-f]+\\.)$", "README.md"),
    ?assertMatch([_], Commits),
    ?assertEqual(6, length(Rows)),
    Missing = [Text || Text <- Commits ++ Figures, Text =/= "-",
        string:find(Results, unicode:characters_to_binary(Text)) =:= nomatch],
    ?assertEqual([], Missing).

is_covered(unknown, Document) -> Document =:= "doc/elixir.md";
is_covered(elixir, Document) ->
    is_map_key(Document, ?ELIXIR) andalso
        filelib:is_regular(
            filename:join([root(), "test/project", map_get(Document, ?ELIXIR) ++ ".erl"])
        );
is_covered(_, _) -> true.

every_document_runs_as_printed(Config) ->
    Env = env(Config),
    lists:foreach(
        fun(Document) ->
            Dir = filename:join(folder(Config), filename:basename(Document, ".md")),
            ok = filelib:ensure_path(Dir),
            ok = add_library(Document, Dir),
            Reader = #{dir => Dir, env => Env, project => false, shell => none},
            close(
                lists:foldl(
                    fun(Block, Before) -> read(Document, Block, Before) end,
                    Reader,
                    documents:blocks(Document)
                )
            )
        end,
        documents:names() -- ["doc/elixir.md"]
    ).

%% The guide to operating uses a library that this one does not depend on.
add_library("doc/operating.md", Dir) ->
    Source = filename:join(root(), "test/telemetry/src/telemetry"),
    {ok, telemetry} = compile:file(Source, [{outdir, Dir}]),
    ok;
add_library(_, _) ->
    ok.

%%% Following a document

read(Document, {Line, _, _} = Block, Reader) ->
    try
        read_block(documents:kind(Block), Block, Reader)
    catch
        error:Reason:Stack -> erlang:raise(error, {Document, Line, Reason}, Stack)
    end.

read_block(make, {_, _, Commands}, Reader) ->
    %% Some commands have a comment at the end.
    [
        _ = documents:run(root(), [], ["make -n ", Target, " >/dev/null"])
     || Command <- string:lexemes(Commands, "\n"),
        ["make", Target | _] <- [string:lexemes(Command, " ")]
    ],
    Reader;
read_block(commands, {_, _, Commands}, Reader) ->
    run_commands(string:lexemes(Commands, "\n"), Reader);
read_block(module, {_, _, Text}, #{dir := Dir, project := Project} = Reader) ->
    {match, [Name]} = re:run(Text, "-module\\((\\w+)\\)", [{capture, [1], list}]),
    case Project of
        true ->
            write(
                filename:join([Dir, source_folder(lists:suffix("_tests", Name)), Name ++ ".erl"]),
                Text
            );
        false ->
            write(filename:join(Dir, Name ++ ".erl"), Text),
            {ok, _} = compile:file(filename:join(Dir, Name), [
                {outdir, Dir},
                report,
                warnings_as_errors
            ])
    end,
    Reader;
read_block(terms, {_, _, Text} = Block, #{dir := Dir, project := Project} = Reader) ->
    Terms = documents:terms(Block),
    case {Project, Terms} of
        {true, [{application, Name, _}]} ->
            write(filename:join([Dir, "src", atom_to_list(Name) ++ ".app.src"]), Text);
        {true, _} -> write(filename:join(Dir, "rebar.config"), Text);
        {false, _} -> ?assertEqual([], Terms -- documents:fragments("doc/swapping.md"))
    end,
    Reader;
read_block(session, Block, Reader) ->
    #{shell := Shell} = Typing = with_shell(documents:steps(Block), Reader),
    lists:foreach(fun(Step) -> documents:type(Shell, Step) end, documents:steps(Block)),
    Typing;
read_block(elixir, _, Reader) ->
    Reader;
read_block(dockerfile, _, Reader) ->
    Reader.

source_folder(true) -> "test";
source_folder(false) -> "src".

run_commands(["rebar3 shell"], #{dir := Dir} = Reader) ->
    open_shell(["rebar3", "shell"], ["Booted " ++ filename:basename(Dir)], Reader);
run_commands([], Reader) ->
    Reader;
run_commands([Command | Commands], #{dir := Dir, env := Env} = Reader) ->
    Output = documents:run(Dir, Env, [Command, "\npwd"]),
    Now = lists:last(string:lexemes(unicode:characters_to_list(Output), "\n")),
    run_commands(
        Commands,
        Reader#{dir := Now, project := filelib:is_regular(filename:join(Now, "rebar.config"))}
    ).

%% A session that begins with the first prompt gets a new shell, unless the project's shell is at
%% this prompt.
with_shell([{1, _, _} | _], #{shell := {new, Shell}} = Reader) ->
    Reader#{shell := Shell};
with_shell([{1, _, _} | _] = Steps, #{dir := Dir} = Reader) ->
    Program = [
        "erl",
        "-kernel",
        "logger_level",
        "emergency",
        "-pa",
        filename:dirname(code:which(gen_tracker)),
        Dir
    ],
    with_shell(Steps, open_shell(Program, [], close(Reader)));
with_shell(_, Reader) ->
    Reader.

open_shell(Program, Patterns, #{dir := Dir, env := Env} = Reader) ->
    Reader#{shell := {new, documents:open_shell(Dir, Env, Program, Patterns)}}.

close(#{shell := none} = Reader) -> Reader;
close(#{shell := Shell} = Reader) ->
    documents:close_shell(Shell),
    Reader#{shell := none}.

%% Returns an environment in which the documents' address leads to a repository of this tree. A
%% later run can use what cargo compiles for it.
env(Config) ->
    Repository = documents:repository(filename:join(folder(Config), "proctab")),
    source_tree:quick_build("copies") ++ Repository.

write(File, Text) ->
    ok = filelib:ensure_dir(File),
    ok = file:write_file(File, Text).

%% All suites of a run share the folder of the configuration.
folder(Config) ->
    Folder = filename:join(proplists:get_value(priv_dir, Config), "guides"),
    ok = filelib:ensure_path(Folder),
    Folder.
