%% Promise: a project that has used the originals runs proctab's modules after the changes of
%% doc/swapping.md to its configuration, in development and in a release. It keeps its code and its
%% `applications`.
%%
%% The native library is that of this tree, so that no case builds one.
-module(dependencies_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(documents, [run/3]).
-import(source_tree, [root/0]).

-define(GUIDE, "doc/swapping.md").

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        the_stub_has_no_modules_and_the_dependency_of_the_documents,
        a_library_that_depends_on_gen_tracker_runs_that_of_proctab,
        metrics_and_stats_hero_run_with_the_modules_of_proctab,
        an_overridden_dependency_is_compiled_without_its_module,
        a_mix_project_runs_the_modules_of_proctab
    ].

init_per_suite(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "dependencies"),
    Env = documents:repository(filename:join(Dir, "proctab")),
    repository("gen_tracker", [], original(gen_tracker), Dir),
    Original = {gen_tracker, git("gen_tracker", Dir)},
    repository("third", [Original], third(), Dir),
    repository("metrics", [], original(metrics_process_tracker), Dir),
    _ = run(root(), [], ["cp -R test/stats_hero '", Dir, "'"]),
    commit("stats_hero", Dir),
    Library = filename:join(source_tree:library(), "priv/proctab_nif.so"),
    [{dir, Dir}, {env, [{"PROCTAB_NIF", Library} | Env]} | Config].

end_per_suite(Config) ->
    file:del_dir_r(dir(Config)).

%% So a project with both of them in `deps` fetches one proctab.
the_stub_has_no_modules_and_the_dependency_of_the_documents(_Config) ->
    Stub = filename:join(root(), "swap/gen_tracker"),
    ?assertEqual([], filelib:wildcard("**/*.erl", Stub)),
    {ok, Terms} = file:consult(filename:join(Stub, "rebar.config")),
    ?assertEqual([{deps, [dependency(proctab)]}], Terms),
    {git_subdir, Address, Version, "swap/gen_tracker"} = element(2, dependency(gen_tracker)),
    ?assertEqual({proctab, {git, Address, Version}}, dependency(proctab)).

a_library_that_depends_on_gen_tracker_runs_that_of_proctab(Config) ->
    Third = {third, git("third", dir(Config))},
    Project = project("with_third", [kernel, stdlib, third], Config),
    configure(Project, [{deps, [Third]}]),
    rebar3("compile", Project, Config),
    ?assertMatch([_], beams("_build/default/lib/gen_tracker", "gen_tracker", Project)),
    Release = {release, {with_third, "1"}, [with_third]},
    configure(Project, [
        {deps, [dependency(gen_tracker), Third]},
        relx(Project, [Release, {dev_mode, false}])
    ]),
    rebar3("upgrade gen_tracker", Project, Config),
    Shell = shell(Project, [], Config),
    documents:type(Shell, {1, "third:runs_proctab().", "true\n"}),
    documents:close_shell(Shell),
    rebar3("release", Project, Config),
    ?assertMatch([_], beams("_build/default/rel", "gen_tracker", Project)),
    assert_printed(["<<true>>"], "third:runs_proctab()", Project).

metrics_and_stats_hero_run_with_the_modules_of_proctab(Config) ->
    StatsHero = {stats_hero, git("stats_hero", dir(Config))},
    Project = filename:join(dir(Config), "example"),
    _ = run(root(), [], ["cp -R examples/erlang '", Project, "'"]),
    {ok, [{application, example, Keys}]} = file:consult(file("src/example.app.src", Project)),
    Applications = proplists:get_value(applications, Keys) -- [proctab],
    Changed = {application, example, [{applications, Applications} | Keys]},
    write(file("src/example.app.src", Project), io_lib:format("~p.~n", [Changed])),
    configure(Project, [{deps, [StatsHero]}]),
    rebar3("compile", Project, Config),
    Dependency = "_build/default/lib/stats_hero",
    ?assertMatch([_], beams(Dependency, "stats_hero_monitor", Project)),
    {relx, Relx} = fragment(relx),
    %% Otherwise relx would change the installed application metrics.
    ?assert(lists:member({dev_mode, false}, Relx)),
    configure(Project, [
        {deps, [dependency(proctab), StatsHero]},
        fragment(overrides),
        relx(Project, [{sys_config, "config/sys.config"} | Relx])
    ]),
    rebar3("clean -a", Project, Config),
    Shell = shell(Project, ["--apps", "example", "--config", "config/sys.config"], Config),
    [[Check | _] | _] = [
        documents:steps(Block)
     || Block <- documents:blocks(?GUIDE), documents:kind(Block) =:= session
    ],
    documents:type(Shell, Check),
    documents:close_shell(Shell),
    ?assertEqual([], beams(Dependency, "stats_hero_monitor", Project)),
    rebar3("release", Project, Config),
    [
        ?assertMatch([{proctab, _}], [
            {list_to_atom(hd(string:lexemes(filename:basename(lib(File)), "-"))), File}
         || File <- beams("_build/default/rel", Module, Project)
        ])
     || Module <- ["gen_tracker", "metrics_process_tracker", "stats_hero_monitor"]
    ],
    assert_printed(
        ["ours => \\[true,\\s*true,\\s*true\\]", "running => {true,\\s*1,\\s*true}"],
        "example:run()",
        Project
    ).

%% A file of the project itself is not deleted.
an_overridden_dependency_is_compiled_without_its_module(Config) ->
    Project = project("overriding", [kernel, stdlib, metrics, stats_hero], Config),
    Own = file("src/metrics_process_tracker.erl", Project),
    write(Own, "-module(metrics_process_tracker).\n"),
    Before = [{Name, git(atom_to_list(Name), dir(Config))} || Name <- [metrics, stats_hero]],
    configure(Project, [{deps, Before}, fragment(overrides)]),
    rebar3("compile", Project, Config),
    Compiled = filelib:wildcard("_build/default/lib/{metrics,stats_hero}/ebin/*.beam", Project),
    ?assertEqual(
        ["stats_hero", "stats_hero_app", "stats_hero_sup"],
        lists:sort([filename:basename(File, ".beam") || File <- Compiled])
    ),
    ?assert(filelib:is_regular(Own)).

a_mix_project_runs_the_modules_of_proctab(Config) ->
    [Stub, Aliases] = [string:trim(Text) || {_, "elixir", Text} <- documents:blocks(?GUIDE)],
    [Proctab] = [
        Line
     || {_, "elixir", Text} <- documents:blocks("doc/elixir.md"),
        Line <- string:lexemes(Text, "\n"),
        string:find(Line, "{:proctab, ") =/= nomatch
    ],
    Before = [
        io_lib:format("{:~s, git: \"file://~s/~s\", branch: \"main\", manager: :rebar3}", [
            Name, dir(Config), Name
        ])
     || Name <- ["third", "metrics", "stats_hero"]
    ],
    Project = filename:join(dir(Config), "mixed"),
    mix_configure(Project, Before, []),
    mix(["local.rebar rebar3 \"$(command -v rebar3)\"", "deps.get", "compile"], Project, Config),
    ?assertMatch([_], beams("_build/dev/lib/gen_tracker", "gen_tracker", Project)),
    mix_configure(Project, [Stub, Proctab | Before], [", ", Aliases]),
    mix(["deps.get", "deps.clean --build metrics stats_hero"], Project, Config),
    Printed = mix(["run -e 'IO.inspect(:third.runs_proctab())'"], Project, Config),
    ?assertMatch({match, _}, re:run(Printed, "^true$", [multiline]), Printed),
    mix(["release"], Project, Config),
    [
        ?assertMatch({Folder, Module, [_]}, {Folder, Module, beams(Folder, Module, Project)})
     || Folder <- ["_build/dev/lib", "_build/dev/rel"],
        Module <- ["gen_tracker", "metrics_process_tracker", "stats_hero_monitor"]
    ],
    Released = run(Project, env(Config), [
        "_build/dev/rel/mixed/bin/mixed eval 'IO.inspect(:third.runs_proctab())'"
    ]),
    ?assertMatch({match, _}, re:run(Released, "^true$", [multiline]), Released).

%%% The guide

fragment(Key) ->
    [Fragment] = [Term || Term <- documents:fragments(?GUIDE), element(1, Term) =:= Key],
    Fragment.

%% Returns the dependency of a name.
dependency(Name) ->
    Dependencies = lists:append([Deps || {deps, Deps} <- documents:fragments(?GUIDE)]),
    lists:keyfind(Name, 1, Dependencies).

%%% Repositories

%% Makes a repository of an application with one module.
repository(Name, Deps, {Module, Text}, Dir) ->
    Folder = filename:join(Dir, Name),
    Applications = [kernel, stdlib | [element(1, Dep) || Dep <- Deps]],
    application(Name, Applications, Folder),
    configure(Folder, [{deps, Deps}]),
    write(file("src/" ++ atom_to_list(Module) ++ ".erl", Folder), Text),
    commit(Name, Dir).

commit(Name, Dir) ->
    Author = "-c user.name=test -c user.email=test@localhost",
    _ = run(filename:join(Dir, Name), [], [
        "git init -q -b main && git add . && git ", Author, " commit -q -m test"
    ]).

git(Name, Dir) ->
    {git, "file://" ++ filename:join(Dir, Name), {branch, "main"}}.

original(Module) ->
    {Module, io_lib:format("-module(~s).~n", [Module])}.

third() ->
    {third, [
        "-module(third).\n-export([runs_proctab/0]).\n\n",
        "runs_proctab() ->\n",
        "    {ok, Zone} = gen_tracker:start_link(third),\n",
        "    unlink(Zone),\n",
        "    undefined = gen_tracker:find(third, name),\n",
        "    Folder = filename:dirname(code:which(gen_tracker)),\n",
        "    Folder =:= filename:dirname(code:which(proctab)).\n"
    ]}.

%%% Projects

project(Name, Applications, Config) ->
    Project = filename:join(dir(Config), Name),
    application(Name, Applications, Project),
    Project.

application(Name, Applications, Folder) ->
    Keys = [{description, Name}, {vsn, "1"}, {applications, Applications}],
    write(
        file("src/" ++ Name ++ ".app.src", Folder),
        io_lib:format("~p.~n", [{application, list_to_atom(Name), Keys}])
    ).

configure(Project, Terms) ->
    write(file("rebar.config", Project), [io_lib:format("~p.~n", [Term]) || Term <- Terms]).

%% Adds to options of relx what the test needs. Each run of the tests has a node name of its own.
relx(Project, Options) ->
    write(file("config/vm.args", Project), ["-sname swap_", os:getpid(), "\n"]),
    {relx, [
        {include_erts, true},
        {extended_start_script, true},
        {vm_args, "config/vm.args"}
        | Options
    ]}.

rebar3(Command, Project, Config) ->
    run(Project, env(Config), ["rebar3 ", Command]).

shell(Project, Args, Config) ->
    Booted = "Booted " ++ filename:basename(Project),
    documents:open_shell(Project, env(Config), ["rebar3", "shell" | Args], [Booted]).

%% Starts the project's release, which prints the value of an expression and stops. Texts for all
%% patterns must be in it.
assert_printed(Patterns, Expression, Project) ->
    Print = ["io:format(\"<<~p>>~n\", [", Expression, "]), halt()."],
    Output = run(filename:join(Project, "_build/default/rel"), [], [
        filename:join([".", filename:basename(Project), "bin", filename:basename(Project)]),
        " foreground -eval '",
        Print,
        "'"
    ]),
    [?assertMatch({match, _}, re:run(Output, Pattern), Output) || Pattern <- Patterns].

mix_configure(Project, Deps, Aliases) ->
    write(file("mix.exs", Project), [
        "defmodule Mixed.MixProject do\n  use Mix.Project\n\n  def project do\n",
        ["    [app: :mixed, version: \"1.0.0\", deps: deps()", Aliases, "]\n  end\n\n"],
        ["  defp deps do\n    [\n", lists:join(",\n", Deps), "\n    ]\n  end\nend\n"]
    ]).

mix(Commands, Project, Config) ->
    run(Project, env(Config), lists:join(" && ", [["mix ", Command] || Command <- Commands])).

beams(Folder, Module, Project) ->
    [
        filename:join(Folder, File)
     || File <- filelib:wildcard("**/" ++ Module ++ ".beam", file(Folder, Project))
    ].

%% Returns the folder of the application that a file in `ebin` belongs to.
lib(File) ->
    filename:dirname(filename:dirname(File)).

file(Name, Project) ->
    filename:join(Project, Name).

write(File, Text) ->
    ok = filelib:ensure_dir(File),
    ok = file:write_file(File, Text).

dir(Config) ->
    proplists:get_value(dir, Config).

%% Mix writes to no folder of the user.
env(Config) ->
    [
        {"MIX_HOME", filename:join(dir(Config), "mix")},
        {"MIX_ENV", false},
        {"MIX_REBAR3", false}
        | proplists:get_value(env, Config)
    ].
