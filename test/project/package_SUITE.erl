%% Promise: `make dist` writes packages that build and run, as a dependency of rebar3 and of mix,
%% after they were unpacked into an empty folder; the one with all crates without a network. No
%% package contains a built library, and Hex accepts its package.
%%
%% Builds are not optimized, and share folders of compiled crates.
-module(package_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(source_tree, [root/0, version/0]).
-import(documents, [run/3]).

suite() ->
    [{timetrap, {minutes, 8}}].

all() ->
    [
        the_checksums_are_those_of_the_files,
        the_packages_contain_sources_and_no_built_library,
        hex_accepts_its_package,
        equal_sources_give_equal_packages,
        the_library_is_usable,
        a_rebar3_project_uses_the_package,
        a_mix_project_uses_the_package,
        a_rebar3_project_uses_the_vendored_package_without_a_network,
        a_mix_project_uses_the_vendored_package_without_a_network
    ].

init_per_suite(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "package"),
    Repository = filename:join(Dir, "repository"),
    _ = documents:repository(Repository),
    _ = dist(Repository, "dist"),
    [{dir, Dir}, {repository, Repository} | Config].

end_per_suite(Config) ->
    _ = file:del_dir_r(project()),
    file:del_dir_r(dir(Config)).

%% What is written

the_checksums_are_those_of_the_files(Config) ->
    _ = run(dist(Config), [], "sha256sum --check --strict SHA256SUMS"),
    Sums = filelib:wildcard("*", dist(Config)) -- ["SHA256SUMS"],
    ?assertMatch([_, _, _, "proctab_nif-" ++ _], Sums),
    {ok, Listed} = file:read_file(filename:join(dist(Config), "SHA256SUMS")),
    ?assertEqual(
        Sums, [lists:last(string:lexemes(Line, " ")) || Line <- lines(binary_to_list(Listed))]
    ).

the_packages_contain_sources_and_no_built_library(Config) ->
    Plain = files(unpacked("", Config)),
    Expected = tracked(Config),
    ?assertEqual([], Expected -- Plain),
    %% All else is the documentation that shells print.
    ?assertEqual(
        ["doc/chunks/" ++ filename:basename(File, ".erl") ++ ".chunk"
         || "erlang/" ++ _ = File <- Plain, filename:extension(File) =:= ".erl"],
        Plain -- Expected
    ),
    Vendored = files(unpacked("-vendored", Config)),
    ?assert(lists:member("native/vendor/rustler/Cargo.toml", Vendored)),
    OnlyForTests = [
        File
     || File <- Vendored, Crate <- ["loom", "proptest", "divan"],
        lists:prefix("native/vendor/" ++ Crate ++ "/", File)
    ],
    ?assertEqual([], OnlyForTests),
    Built = [".so", ".beam", ".a", ".o", ".rlib", ".dylib", ".dll", ".lib"],
    ?assertEqual(
        [], [File || File <- Plain ++ Vendored, lists:member(filename:extension(File), Built)]
    ).

%% Returns the files of the repository that the application names.
tracked(Config) ->
    {ok, [{application, proctab, Keys}]} =
        file:consult(filename:join(root(), "erlang/proctab.app.src")),
    Names = [[" ", Name] || Name <- proplists:get_value(files, Keys)],
    lines(run(repository(Config), [], ["git ls-files --error-unmatch", Names])).

%% The package is read by the client of Hex that rebar3 contains.
hex_accepts_its_package(Config) ->
    {ok, Sections} = escript:extract(os:find_executable("rebar3"), []),
    {ok, Client} = zip:unzip(proplists:get_value(archive, Sections), [memory]),
    [
        {module, _} = code:load_binary(list_to_atom(filename:basename(File, ".beam")), File, Code)
     || {File, Code} <- Client, lists:prefix("r3_", filename:basename(File)),
        filename:extension(File) =:= ".beam"
    ],
    {ok, Package} = file:read_file(archive(".tar", Config)),
    {ok, #{metadata := Metadata, contents := Contents}} = r3_hex_tarball:unpack(Package, memory),
    ?assertMatch(
        #{
            <<"name">> := <<"proctab">>,
            <<"app">> := <<"proctab">>,
            <<"licenses">> := [<<"Apache-2.0">>],
            <<"links">> := #{<<"Source">> := _},
            <<"build_tools">> := [<<"rebar3">>, <<"mix">>],
            <<"requirements">> := _
        },
        Metadata
    ),
    ?assertEqual(list_to_binary(version()), maps:get(<<"version">>, Metadata)),
    ?assertEqual(files(unpacked("", Config)), lists:sort([Name || {Name, _} <- Contents])).

equal_sources_give_equal_packages(Config) ->
    Packages = ["-vendored.tar.gz", ".tar", ".tar.gz"],
    Before = [file:read_file(archive(Package, Config)) || Package <- Packages],
    _ = dist(repository(Config), "dist"),
    ?assert(Before =:= [file:read_file(archive(Package, Config)) || Package <- Packages]).

the_library_is_usable(Config) ->
    [Library] = filelib:wildcard(filename:join(dist(Config), "proctab_nif-*.so")),
    Host = string:trim(run("/", [], "rustc -vV | sed -n 's/^host: //p'")),
    ?assertEqual(
        lists:flatten(["proctab_nif-", version(), "-", binary_to_list(Host), ".so"]),
        filename:basename(Library)
    ),
    assert_works(source_tree:library(), [{"PROCTAB_NIF", Library}]).

%% How it is used

a_rebar3_project_uses_the_package(Config) ->
    assert_rebar3_works(project(), "", crates(), Config).

a_mix_project_uses_the_package(Config) ->
    assert_mix_works(project(), "", crates(), Config).

a_rebar3_project_uses_the_vendored_package_without_a_network(Config) ->
    assert_rebar3_works(project(), "-vendored", no_crates(Config), Config).

a_mix_project_uses_the_vendored_package_without_a_network(Config) ->
    assert_mix_works(project(), "-vendored", no_crates(Config), Config).

assert_rebar3_works(Project, Kind, Env, Config) ->
    unpack(Kind, filename:join(Project, "_checkouts"), Config),
    write(Project, "rebar.config", "{deps, [proctab]}."),
    write(Project, "src/project.app.src",
        "{application, project, [{vsn, \"1\"}, {applications, [kernel, stdlib, proctab]}]}."),
    _ = run(Project, env(Kind, Env), "rebar3 compile"),
    assert_works(filename:join(Project, "_build/default/checkouts/proctab"), []).

assert_mix_works(Project, Kind, Env, Config) ->
    unpack(Kind, filename:join(Project, "_checkouts"), Config),
    write(Project, "mix.exs", [
        "defmodule Project.MixProject do\n"
        "  use Mix.Project\n"
        "  def project, do: [app: :project, version: \"1.0.0\", deps: deps()]\n"
        "  defp deps, do: [proctab: [path: \"_checkouts/proctab\"]]\n"
        "end\n"
    ]),
    Mix = [
        {"HOME", Project},
        {"MIX_HOME", filename:join(Project, ".mix")},
        {"MIX_ENV", false},
        {"MIX_REBAR3", os:find_executable("rebar3")}
    ],
    _ = run(Project, Mix ++ env(Kind, Env), "mix compile"),
    assert_works(filename:join(Project, "_build/dev/lib/proctab"), []).

%% Returns an empty folder, whose path is longer than an atom. It is the same for each run: cargo
%% compiles a vendored crate again if the crate is in another folder.
project() ->
    Folder = filename:join(root(), "target/package"),
    _ = file:del_dir_r(Folder),
    Project = filename:join(Folder, lists:duplicate(230, $x)),
    ok = filelib:ensure_path(Project),
    Project.

%% The node has no module of this tree. Releases upgrade it by the instructions beside the modules.
assert_works(Compiled, Env) ->
    Expression =
        "{ok, _} = application:ensure_all_started(proctab),"
        " {ok, _} = gen_tracker:start_link(zone), 0 = gen_tracker:count(zone),"
        " {ok, {docs_v1, _, erlang, _, _, _, _}} = code:get_doc(gen_tracker), halt(0).",
    Command = ["erl -noinput -pa ebin -eval '", Expression, "'"],
    ?assert(filelib:is_regular(filename:join(Compiled, "ebin/proctab.appup"))),
    ?assertEqual({0, <<>>}, documents:result(Compiled, [{"PROCTAB_NIF", false} | Env], Command)).

%% Packages

dir(Config) -> proplists:get_value(dir, Config).

repository(Config) -> proplists:get_value(repository, Config).

dist(Config) -> filename:join(repository(Config), "dist").

dist(Repository, Folder) ->
    run(Repository, quick("copies") ++ crates(), ["tools/dist ", Folder]).

archive(Suffix, Config) ->
    filename:join(dist(Config), "proctab-" ++ version() ++ Suffix).

%% Unpacks a package as the folder `proctab` of a folder.
unpack(Kind, Folder, Config) ->
    ok = filelib:ensure_path(Folder),
    Unpack = ["tar -xf '", archive(Kind ++ ".tar.gz", Config), "'"],
    _ = run(Folder, [], [Unpack, " && mv proctab-", version(), Kind, " proctab"]),
    ok.

%% Returns a folder with the files of a package.
unpacked(Kind, Config) ->
    Folder = filename:join(dir(Config), "unpacked" ++ Kind),
    _ = file:del_dir_r(Folder),
    unpack(Kind, Folder, Config),
    filename:join(Folder, "proctab").

files(Folder) ->
    lists:sort(lines(run(Folder, [], "find . -type f | sed 's,^\\./,,'"))).

lines(Text) ->
    string:lexemes(unicode:characters_to_list(Text), "\n").

%% Crates of another source have to be compiled again, and so get a folder of their own.
env("-vendored", Env) -> quick("vendored") ++ Env;
env("", Env) -> quick("copies") ++ Env.

quick(Sources) ->
    Unset = ["CARGO_BUILD_TARGET", "PROCTAB_NIF", "SOURCE_DATE_EPOCH"],
    [{Variable, false} || Variable <- Unset] ++ source_tree:quick_build(Sources).

%% The crates that the user has downloaded, also if HOME is another folder.
crates() ->
    [{"CARGO_HOME", home("CARGO_HOME", ".cargo")}, {"RUSTUP_HOME", rustup_home()}].

%% No crate was ever downloaded, and no proxy listens there.
no_crates(Config) ->
    Home = filename:join(dir(Config), "no_crates"),
    _ = file:del_dir_r(Home),
    [
        {"CARGO_HOME", Home},
        {"RUSTUP_HOME", rustup_home()},
        {"CARGO_NET_OFFLINE", "true"},
        {"CARGO_HTTP_PROXY", "http://127.0.0.1:9"}
    ].

rustup_home() -> home("RUSTUP_HOME", ".rustup").

home(Variable, Default) ->
    os:getenv(Variable, filename:join(os:getenv("HOME"), Default)).

write(Folder, File, Text) ->
    Path = filename:join(Folder, File),
    ok = filelib:ensure_dir(Path),
    ok = file:write_file(Path, Text).
