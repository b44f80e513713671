%% Promise: a rebar3 project with proctab as a dependency, in `_checkouts` or from git, calls all
%% three modules by the names of the originals, next to the applications of two of these: in the
%% shell, and in a release that is moved elsewhere, with the native library in it. And the books of
%% the demonstration of a cluster balance.
-module(example_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(source_tree, [root/0]).

%% Includes a build of the native library from scratch.
suite() ->
    [{timetrap, {minutes, 8}}].

all() ->
    [
        a_project_with_checkouts_runs_in_the_shell,
        a_project_with_checkouts_runs_as_a_release_elsewhere,
        a_project_with_a_git_dependency_runs_as_a_release_elsewhere,
        a_release_with_a_module_twice_is_refused,
        the_books_of_the_cluster_demonstration_balance
    ].

a_project_with_checkouts_runs_in_the_shell(Config) ->
    Project = with_checkouts(project(?FUNCTION_NAME, Config)),
    Shell = start(Project, os:find_executable("rebar3"), [
        "shell",
        "--apps",
        "example",
        "--config",
        "config/sys.config"
    ]),
    _ = await(Shell, "Booted example", <<>>),
    true = port_command(Shell, "example:run().\n"),
    Output = await(Shell, "running =>.*}}", <<>>),
    true = port_command(Shell, "halt().\n"),
    receive
        {Shell, {exit_status, Status}} -> ?assertEqual(0, Status)
    end,
    assert_run(Output, filename:join(Project, "_build/default/checkouts/proctab")).

a_project_with_checkouts_runs_as_a_release_elsewhere(Config) ->
    Project = with_checkouts(project(?FUNCTION_NAME, Config)),
    ?assertMatch({0, _}, run(Project, "rebar3 release")),
    assert_release_runs(Project, Config).

a_project_with_a_git_dependency_runs_as_a_release_elsewhere(Config) ->
    Project = project(?FUNCTION_NAME, Config),
    edit(Project, "rebar.config", "{deps, \\[proctab,", [
        "{deps, [{proctab, {git, \"file://",
        repository(Config),
        "\", {tag, \"", source_tree:version(), "\"}}},"
    ]),
    checkout(Project, "stats_hero"),
    %% The build of this tree stays as it is.
    Build = source_tree:quick_build("copies"),
    Variables = [[Variable, "='", Value, "' "] || {Variable, Value} <- Build],
    ?assertMatch({0, _}, run(Project, [Variables, "rebar3 release"])),
    assert_release_runs(Project, Config).

the_books_of_the_cluster_demonstration_balance(_Config) ->
    {Status, Output} = run(root(), "examples/cluster_demonstration/run 200"),
    ?assertEqual(0, Status, Output),
    ?assertMatch({match, _}, re:run(Output, "\\nthe books balance\\n\\z"), Output).

%% doc/swapping.md says to exclude the module of the original.
a_release_with_a_module_twice_is_refused(Config) ->
    Project = with_checkouts(project(?FUNCTION_NAME, Config)),
    edit(Project, "rebar.config", "{exclude_modules.*\\]\\}", "{exclude_modules, []}"),
    {Status, Output} = run(Project, "rebar3 release"),
    ?assertNotEqual(0, Status),
    ?assertMatch(
        {match, _},
        re:run(
            Output,
            "Duplicated modules:\\s+metrics_process_tracker specified in proctab and metrics"
        ),
        Output
    ).

%% The project

project(Case, Config) ->
    Project = filename:join(proplists:get_value(priv_dir, Config), atom_to_list(Case)),
    copy("examples/erlang", Project),
    %% Each run of the tests has a node name of its own.
    edit(Project, "config/vm.args", "example", ["example_", os:getpid()]),
    Project.

with_checkouts(Project) ->
    checkout(Project, "stats_hero"),
    ok = file:make_symlink(root(), filename:join([Project, "_checkouts", "proctab"])),
    Project.

%% Makes a git repository of this tree.
repository(Config) ->
    Repository = filename:join(proplists:get_value(priv_dir, Config), "proctab"),
    _ = documents:repository(Repository),
    Repository.

checkout(Project, Application) ->
    copy("test/" ++ Application, filename:join([Project, "_checkouts", Application])).

copy(Folder, To) ->
    ok = filelib:ensure_dir(To),
    {0, _} = run(root(), ["cp -R ", Folder, " '", To, "'"]).

edit(Project, File, Pattern, Replacement) ->
    Path = filename:join(Project, File),
    {ok, Text} = file:read_file(Path),
    {match, _} = re:run(Text, Pattern),
    ok = file:write_file(Path, re:replace(Text, Pattern, Replacement)).

%% The release

assert_release_runs(Project, Config) ->
    Elsewhere = filename:join(proplists:get_value(priv_dir, Config), "elsewhere"),
    ok = file:rename(filename:join(Project, "_build/default/rel/example"), Elsewhere),
    ok = file:del_dir_r(Project),
    Script = filename:join(Elsewhere, "bin/example"),
    Node = start(Elsewhere, Script, ["foreground"]),
    try
        pong(Node, Elsewhere),
        {0, Output} = run(Elsewhere, "bin/example eval 'example:run().'"),
        [Proctab] = filelib:wildcard(filename:join(Elsewhere, "lib/proctab-*")),
        ?assert(filelib:is_regular(filename:join(Proctab, "priv/proctab_nif.so"))),
        assert_run(Output, Proctab)
    after
        run(Elsewhere, "bin/example stop"),
        receive
            {Node, {exit_status, _}} -> ok
        end,
        file:del_dir_r(Elsewhere)
    end.

pong(Node, Elsewhere) ->
    case run(Elsewhere, "bin/example ping") of
        {0, _} -> ok;
        _ ->
            receive
                {Node, {exit_status, Status}} -> error({ended, Status})
            after 100 -> pong(Node, Elsewhere)
            end
    end.

assert_run(Output, Proctab) ->
    [
        ?assertMatch({match, _}, re:run(Output, Pattern), Output)
     || Pattern <- [
            "running => {true,\\s*1,\\s*true}",
            "ended => {undefined,\\s*0,\\s*undefined}",
            "ours => \\[true,\\s*true,\\s*true\\]"
        ]
    ],
    [
        ?assertNotEqual(nomatch, string:find(Output, ["\"", Proctab, File, "\""]), Output)
     || File <- [
            "/ebin/gen_tracker.beam",
            "/ebin/metrics_process_tracker.beam",
            "/ebin/stats_hero_monitor.beam",
            "/priv"
        ]
    ].

%% Programs

run(Dir, Command) ->
    Port = start(Dir, "/bin/sh", ["-c", unicode:characters_to_list(Command)]),
    ended(Port, <<>>).

start(Dir, Program, Args) ->
    open_port({spawn_executable, Program}, [
        {args, Args},
        {cd, Dir},
        {env, documents:environment()},
        exit_status,
        stderr_to_stdout,
        binary
    ]).

ended(Port, Output) ->
    receive
        {Port, {data, Data}} -> ended(Port, <<Output/binary, Data/binary>>);
        {Port, {exit_status, Status}} -> {Status, Output}
    end.

await(Port, Pattern, Output) ->
    case re:run(Output, Pattern, [dotall]) of
        {match, _} ->
            Output;
        nomatch ->
            receive
                {Port, {data, Data}} -> await(Port, Pattern, <<Output/binary, Data/binary>>);
                {Port, {exit_status, Status}} -> error({ended, Status, Output})
            end
    end.
