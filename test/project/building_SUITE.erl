%% Promise: `native/build` puts the right library into priv/, or ends with one sentence that says
%% what to do, wherever the checkout is, however cargo is configured, and if cargo is missing or too
%% old. `make` installs nothing, and `make demo` and `make test` no second Erlang.
%%
%% Builds are not optimized, and share a folder of compiled crates.
-module(building_SUITE).

-include_lib("kernel/include/file.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(source_tree, [root/0, version/0]).
-import(documents, [run/3, result/3]).

%% Programs that scripts may need.
-define(TOOLS, [
    "sh", "env", "dirname", "basename", "mktemp", "rm", "mkdir", "cp", "mv", "cmp", "sed", "awk",
    "grep", "touch", "cat"
]).

suite() ->
    [{timetrap, {minutes, 8}}].

all() ->
    [
        a_folder_with_any_name_below_another_workspace,
        the_folder_that_cargo_names_is_used,
        a_second_build_says_and_changes_nothing,
        a_library_is_taken_from_elsewhere_without_cargo,
        a_wrong_library_from_elsewhere_is_refused,
        a_library_of_another_version_is_refused,
        every_version_is_that_of_the_application,
        a_read_only_checkout_is_used_as_it_is,
        a_read_only_checkout_without_a_library_says_what_to_do,
        a_missing_cargo_says_what_to_do,
        an_old_cargo_says_what_to_do,
        a_failed_build_shows_what_cargo_says,
        without_a_network_the_build_says_what_to_do,
        rust_flags_that_musl_cannot_use_are_explained,
        plain_make_installs_nothing,
        an_erlang_that_is_not_of_debian_is_not_doubled
    ].

init_per_suite(Config) ->
    %% All users can reach it, unlike the folders of Common Test.
    Dir = binary_to_list(string:trim(run("/", [], "mktemp -d /tmp/proctab_building.XXXXXX"))),
    _ = run("/", [], ["chmod 755 ", Dir]),
    Checkout = filename:join(Dir, "another workspace/it's a \"proctab\""),
    copy_tree(Checkout),
    %% cargo looks for a workspace in all folders above.
    ok = file:write_file(
        filename:join([Dir, "another workspace", "Cargo.toml"]),
        "[workspace]\nmembers = [\"nothing\"]\n"
    ),
    [{dir, Dir}, {checkout, Checkout} | Config].

end_per_suite(Config) ->
    file:del_dir_r(dir(Config)).

%% Where the library comes from

a_folder_with_any_name_below_another_workspace(Config) ->
    %% Something has to be built, also if the crates are those of an earlier run.
    _ = run(checkout(Config), [], "touch native/nif/src/lib.rs"),
    Output = run(checkout(Config), cargo_env([]), "rebar3 compile"),
    ?assertEqual(1, announcements(Output)),
    assert_works(filename:join(checkout(Config), "_build/default/lib/proctab"), []).

%% An earlier library in priv/ must not stay.
the_folder_that_cargo_names_is_used(Config) ->
    Above = filename:join([filename:dirname(checkout(Config)), ".cargo", "config.toml"]),
    ok = filelib:ensure_dir(Above),
    Host = host(),
    Settings = [
        {"CARGO_TARGET_DIR", ""},
        {"CARGO_BUILD_TARGET_DIR", ""},
        {"CARGO_BUILD_TARGET", ""},
        {config, ["target-dir = \"", target(), "\"\n"]},
        {config, ["target-dir = \"", target(), "\"\ntarget = \"", Host, "\"\n"]}
    ],
    [
        begin
            Env =
                case Setting of
                    {config, Build} ->
                        ok = file:write_file(Above, ["[build]\n", Build]),
                        [{"CARGO_TARGET_DIR", false}];
                    {"CARGO_BUILD_TARGET" = Variable, _} ->
                        [{Variable, Host}];
                    {Variable, _} ->
                        [{"CARGO_TARGET_DIR", false}, {Variable, target()}]
                end,
            ok = write(checkout(Config), "priv/proctab_nif.so", "an earlier library"),
            _ = build(checkout(Config), Env),
            assert_loads(checkout(Config), Config)
        end
     || Setting <- Settings
    ],
    ok = file:delete(Above).

a_second_build_says_and_changes_nothing(Config) ->
    _ = build(checkout(Config), []),
    Before = written(checkout(Config)),
    ?assertEqual(<<>>, build(checkout(Config), [])),
    ?assertEqual(Before, written(checkout(Config))).

%% Returns what identifies the library that was written last. Reading it changes nothing of that.
written(Checkout) ->
    {ok, Info} = file:read_file_info(library(Checkout)),
    Info#file_info{atime = undefined}.

a_library_is_taken_from_elsewhere_without_cargo(Config) ->
    Built = built(Config),
    Other = filename:join(dir(Config), "taken"),
    copy_tree(Other),
    Env = [{"PROCTAB_NIF", Built}, {"PATH", path_without_cargo(Config)}],
    ?assertEqual(<<>>, build(Other, Env)),
    ?assertEqual(file:read_file(Built), file:read_file(library(Other))),
    assert_loads(Other, Config).

a_wrong_library_from_elsewhere_is_refused(Config) ->
    Before = file:read_file(library(checkout(Config))),
    NoLibrary = filename:join(dir(Config), "no_library.so"),
    ok = file:write_file(NoLibrary, "no library"),
    [
        assert_refused(checkout(Config), [{"PROCTAB_NIF", Wrong}], Said)
     || {Wrong, Said} <- [
            {NoLibrary, ["cannot load the native library ", NoLibrary, " ("]},
            {"/nowhere/proctab_nif.so", "there is no file /nowhere/proctab_nif.so"},
            {"priv/proctab_nif.so", "must be an absolute path"}
        ]
    ],
    ?assertEqual(Before, file:read_file(library(checkout(Config)))).

a_library_of_another_version_is_refused(Config) ->
    Old = filename:join(dir(Config), "old"),
    copy_tree(Old),
    Line = "s/^version = .*/version = \"0.1.99\"/",
    _ = run(Old, [], ["sed -i.orig '", Line, "' Cargo.toml"]),
    _ = run(Old, [], ["sed -i.orig '/^name = \"proctab_/{n;", Line, ";}' Cargo.lock"]),
    _ = build(Old, []),
    Library = library(Old),
    %% In a folder of crates that two versions share, each gets its own library.
    _ = build(checkout(Config), []),
    assert_loads(checkout(Config), Config),
    Sentence = ["the native library ", Library, " is not of version ", version(), ", which"],
    assert_refused(checkout(Config), [{"PROCTAB_NIF", Library}], Sentence),
    %% As when priv/ has the library of an earlier version: the application does not start.
    Expression =
        "{error, {proctab, {Text, _}}} = application:ensure_all_started(proctab),"
        " io:put_chars([$<, Text, $>]), halt(0).",
    Output = run(
        source_tree:library(),
        env([{"PROCTAB_NIF", Library}]),
        ["erl -noinput -pa ebin -eval '", Expression, "'"]
    ),
    assert_said(Output, ["<proctab: ", Sentence]),
    assert_said(Output, "and restart the node>").

%% The version of the application is the one to change first.
every_version_is_that_of_the_application(_Config) ->
    Version = version(),
    ?assertEqual(Version, proctab_library:version()),
    {ok, Cargo} = file:read_file(filename:join(root(), "Cargo.toml")),
    ?assertMatch(
        {match, [Version]},
        re:run(Cargo, "(?m)^version = \"(.*)\"", [{capture, [1], list}])
    ),
    Locked = run(root(), [], "cargo metadata --locked --no-deps --format-version 1"),
    assert_said(Locked, ["\"name\":\"proctab_nif\",\"version\":\"", Version, "\""]).

%% A project of another user has the checkout in `_checkouts`.
a_read_only_checkout_is_used_as_it_is(Config) ->
    Checkout = read_only(?FUNCTION_NAME, built(Config), Config),
    Project = project(?FUNCTION_NAME, Checkout, Config),
    _ = run(Project, user_env([], Config), as_user("rebar3 compile")),
    assert_works(filename:join(Project, "_build/default/checkouts/proctab"), []).

a_read_only_checkout_without_a_library_says_what_to_do(Config) ->
    Checkout = read_only(?FUNCTION_NAME, none, Config),
    Project = project(?FUNCTION_NAME, Checkout, Config),
    {Status, Output} = result(Project, user_env([], Config), as_user("rebar3 compile")),
    ?assertNotEqual(0, Status),
    assert_said(Output, "cannot be written to and has no native library; run `rebar3 compile'"),
    Elsewhere = [{"PROCTAB_NIF", built(Config)}],
    Told = run(Project, user_env(Elsewhere, Config), as_user("rebar3 compile")),
    assert_said(Told, "set PROCTAB_NIF also when the node runs"),
    assert_works(filename:join(Project, "_build/default/checkouts/proctab"), Elsewhere).

%% Without a cargo that can build

a_missing_cargo_says_what_to_do(Config) ->
    Env = [{"PATH", path_without_cargo(Config)}],
    assert_refused(checkout(Config), Env, "there is no cargo to build the native library; install").

an_old_cargo_says_what_to_do(Config) ->
    [
        assert_refused(
            checkout(Config),
            [{"PATH", path(Config, ["echo 'cargo ", Version, ".0 (0123456789 2022-04-20)'"])}],
            ["is version ", Version, "; install Rust 1."]
        )
     || Version <- ["1.60", "0.66", "1.9"]
    ],
    %% As rustup does without a toolchain.
    Broken = path(Config, "echo 'no default toolchain' >&2; exit 1"),
    {1, Output} = result(checkout(Config), env([{"PATH", Broken}]), "native/build"),
    assert_said(Output, "no default toolchain\nproctab: cargo does not run; install Rust 1.").

a_failed_build_shows_what_cargo_says(Config) ->
    Fails = path(Config, [
        "case $1 in --version) echo 'cargo 1.999.0' ;;\n",
        "*) echo '   Compiling nothing v1.0.0' >&2; echo 'error: out of luck' >&2; exit 101 ;; esac"
    ]),
    {1, Output} = result(checkout(Config), env([{"PATH", Fails}]), "native/build"),
    assert_said(Output, "two minutes\nerror: out of luck\nproctab: cargo could not build").

without_a_network_the_build_says_what_to_do(Config) ->
    Home = filename:join(dir(Config), "no_crates"),
    %% No proxy listens there.
    Closed = #{"CARGO_HTTP_PROXY" => "http://127.0.0.1:9", "CARGO_NET_RETRY" => "0"},
    [
        begin
            Variables = Setting#{"CARGO_HOME" => Home, "RUSTUP_HOME" => rustup_home()},
            {1, Output} = result(
                checkout(Config), cargo_env(maps:to_list(Variables)), "native/build"
            ),
            assert_said(Output, "\nproctab: cargo needs crates from the network; connect to it, or")
        end
     || Setting <- [Closed, #{"CARGO_NET_OFFLINE" => "true"}]
    ].

rustup_home() ->
    os:getenv("RUSTUP_HOME", filename:join(os:getenv("HOME"), ".rustup")).

%% It is cargo's own error, whether Rust for musl is installed or not.
rust_flags_that_musl_cannot_use_are_explained(Config) ->
    Env = [{"CARGO_BUILD_TARGET", "x86_64-unknown-linux-musl"}, {"RUSTFLAGS", "-Cdebuginfo=0"}],
    {1, Output} = result(checkout(Config), cargo_env(Env), "native/build"),
    assert_said(Output, "\nproctab: for musl, add -C target-feature=-crt-static to your RUSTFLAGS").

%% What make installs

plain_make_installs_nothing(Config) ->
    {Path, Installed} = debian(Config, []),
    {2, Output} = result(checkout(Config), env([{"PATH", Path}]), "make build"),
    Missing = "erlang-base erlang-dev rebar3 cargo\n",
    assert_said(Output, ["proctab: install what is missing: apt-get install ", Missing]),
    ?assertEqual({error, enoent}, file:read_file(Installed)),
    %% The demonstration installs them. The build fails then, since nothing was really installed.
    {2, _} = result(checkout(Config), env([{"PATH", Path}]), "make demo"),
    {ok, Commands} = file:read_file(Installed),
    assert_said(Commands, ["apt-get install -y -qq --no-install-recommends ", Missing]).

an_erlang_that_is_not_of_debian_is_not_doubled(Config) ->
    {Path, Installed} = debian(Config, ["erl", "erlc"]),
    Bootstrap = fun(Mode, Packages) ->
        result(checkout(Config), env([{"PATH", Path}]), ["tools/bootstrap ", Mode, Packages])
    end,
    ?assertEqual({0, <<>>}, Bootstrap("install", " erlang-base erlang-dev erlang-eunit")),
    [
        begin
            {1, Output} = Bootstrap(Mode, " erlang-base erlang-nothing rebar3"),
            assert_said(Output, "not Debian's, what Debian calls erlang-nothing rebar3\n")
        end
     || Mode <- ["check", "install"]
    ],
    ?assertEqual({error, enoent}, file:read_file(Installed)).

%% Returns a PATH with these programs, and with an apt-get that notes what it is called with in a
%% file. No program belongs to a package.
debian(Config, Programs) ->
    Bin = filename:join(dir(Config), lists:append(["debian" | Programs])),
    Installed = Bin ++ ".installed",
    Tools = ["bash", "make", "cut", "sort", "head", "readlink", "id", "cc", "as", "dpkg"],
    link_programs(Programs ++ Tools ++ ?TOOLS, Bin),
    Scripts = [
        {"apt-get", ["echo apt-get \"$@\" >>'", Installed, "'"]},
        {"apt-cache", "echo '  Candidate: 1.85.1'"},
        {"dpkg-query", "exit 1"},
        {"sudo", "exec env \"$@\""}
    ],
    [script(Bin, Program, Script) || {Program, Script} <- Scripts],
    {Bin, Installed}.

%% Checkouts

dir(Config) -> proplists:get_value(dir, Config).

checkout(Config) -> proplists:get_value(checkout, Config).

copy_tree(To) ->
    ok = filelib:ensure_path(To),
    Files = "Cargo.toml Cargo.lock .cargo native erlang rebar.config Makefile tools",
    _ = run(root(), [{"TO", To}], ["tar -c ", Files, " | tar -x -C \"$TO\""]),
    ok.

%% Makes a checkout that only its owner can write to, with a library or without.
read_only(Case, Library, Config) ->
    Checkout = filename:join(dir(Config), atom_to_list(Case) ++ "_checkout"),
    copy_tree(Checkout),
    case Library of
        none ->
            ok;
        File ->
            ok = filelib:ensure_dir(library(Checkout)),
            {ok, _} = file:copy(File, library(Checkout))
    end,
    _ = run(Checkout, [], "chmod -R a-w,a+rX ."),
    Checkout.

%% Makes a project of the other user, which depends on a checkout.
project(Case, Checkout, Config) ->
    Project = filename:join(dir(Config), atom_to_list(Case)),
    ok = filelib:ensure_path(filename:join(Project, "_checkouts")),
    ok = file:make_symlink(Checkout, filename:join(Project, "_checkouts/proctab")),
    write(Project, "rebar.config", "{deps, [proctab]}."),
    write(Project, "src/project.app.src",
        "{application, project, [{vsn, \"1\"}, {applications, [kernel, stdlib, proctab]}]}."),
    _ = run(Project, [], as_owner("chown -R nobody .")),
    Project.

write(Folder, File, Text) ->
    Path = filename:join(Folder, File),
    ok = filelib:ensure_dir(Path),
    ok = file:write_file(Path, Text).

%% Only root can become another user. Nobody else may write to a folder without the permission.
as_user(Command) ->
    case is_root() of
        true -> ["setpriv --reuid=nobody --clear-groups ", Command];
        false -> Command
    end.

as_owner(Command) ->
    case is_root() of
        true -> Command;
        false -> "true"
    end.

is_root() ->
    string:trim(run("/", [], "id -u")) =:= <<"0">>.

user_env(Env, Config) ->
    Home = filename:join(dir(Config), "home"),
    ok = filelib:ensure_path(Home),
    _ = run("/", [], ["chmod 777 ", Home]),
    env([{"HOME", Home} | Env]).

%% Builds

build(Checkout, Env) ->
    run(Checkout, cargo_env(Env), "native/build").

%% Returns a library that was built.
built(Config) ->
    _ = build(checkout(Config), []),
    Built = filename:join(dir(Config), "built.so"),
    {ok, _} = file:copy(library(checkout(Config)), Built),
    Built.

library(Checkout) ->
    filename:join(Checkout, "priv/proctab_nif.so").

cargo_env(Env) ->
    Quick = maps:from_list(source_tree:quick_build("copies")),
    env(maps:to_list(maps:merge(Quick, maps:from_list(Env)))).

%% Nothing that the caller of the tests has set changes where libraries come from.
env(Env) ->
    Unset = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_TARGET", "PROCTAB_NIF"],
    [{Variable, false} || Variable <- Unset, not lists:keymember(Variable, 1, Env)] ++ Env.

target() ->
    proplists:get_value("CARGO_TARGET_DIR", source_tree:quick_build("copies")).

host() ->
    Output = run("/", [], "rustc -vV"),
    {match, [Host]} = re:run(Output, "host: (\\S+)", [{capture, [1], list}]),
    Host.

%% Returns a PATH with the programs that `native/build` needs but cargo.
path_without_cargo(Config) ->
    Bin = filename:join(dir(Config), "bin"),
    link_programs(["erl", "erlc" | ?TOOLS], Bin),
    Bin.

%% Returns a PATH with a cargo that is this script.
path(Config, Script) ->
    Bin = filename:join(dir(Config), "cargo"),
    script(Bin, "cargo", Script),
    Bin ++ ":" ++ path_without_cargo(Config).

link_programs(Programs, Bin) ->
    ok = filelib:ensure_path(Bin),
    [
        case file:make_symlink(os:find_executable(Program), filename:join(Bin, Program)) of
            ok -> ok;
            {error, eexist} -> ok
        end
     || Program <- Programs
    ].

script(Bin, Program, Script) ->
    ok = write(Bin, Program, ["#!/bin/sh\n", Script, "\n"]),
    ok = file:change_mode(filename:join(Bin, Program), 8#755).

%% Checks

assert_refused(Checkout, Env, Said) ->
    {Status, Output} = result(Checkout, env(Env), "native/build"),
    ?assertEqual({1, Output}, {Status, Output}),
    assert_said(Output, Said),
    ?assertMatch([<<"proctab: ", _/binary>>], string:lexemes(Output, "\n")).

assert_said(Output, Text) ->
    ?assertNotEqual(nomatch, string:find(Output, Text), Output).

announcements(Output) ->
    length(binary:matches(Output, <<"proctab: building the native library">>)).

%% A node runs with the library of a checkout, and the compiled modules of this one.
assert_loads(Checkout, Config) ->
    Compiled = filename:join(dir(Config), "loads/proctab"),
    _ = file:del_dir_r(Compiled),
    ok = filelib:ensure_path(filename:join(Compiled, "priv")),
    {ok, _} = file:copy(library(Checkout), library(Compiled)),
    _ = run(Compiled, [], ["cp -R '", source_tree:library(), "/ebin' ."]),
    assert_works(Compiled, []).

%% A node with the compiled library starts a zone.
assert_works(Compiled, Env) ->
    Expression = "{ok, _} = gen_tracker:start_link(zone), 0 = gen_tracker:count(zone), halt(0).",
    Command = ["erl -noinput -pa ebin -eval '", Expression, "'"],
    ?assertEqual({0, <<>>}, result(Compiled, env(Env), Command)).
