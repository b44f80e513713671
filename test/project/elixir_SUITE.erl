%% Promise: Elixir uses proctab as doc/elixir.md says. The project of the guide, in examples/elixir,
%% is made, built by mix with a dependency from git, and tested, by the commands of the guide. The
%% tests of the project check the rest, and run the sessions of the guide.
-module(elixir_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(source_tree, [root/0]).

-define(GUIDE, "doc/elixir.md").

%% Includes a build of the native library from scratch.
suite() ->
    [{timetrap, {minutes, 8}}].

all() ->
    [
        every_block_of_elixir_is_in_the_project,
        the_project_passes_its_tests_by_the_commands_of_the_guide
    ].

%% Sessions and commands are run by the other case, and by the project.
every_block_of_elixir_is_in_the_project(_Config) ->
    Texts = [
        unindented(Text)
     || Text <- texts(filename:join(root(), "examples/elixir"), "**/*.{ex,exs}")
    ],
    Blocks = [
        {Document, Block}
     || Document <- ["README.md", ?GUIDE], Block <- documents:blocks(Document)
    ],
    Missing = [
        {Document, Line}
     || {Document, {Line, Language, Block}} <- Blocks,
        not is_covered(Document, Language, unindented(Block), Texts)
    ],
    ?assertEqual([], Missing).

is_covered(?GUIDE, "sh", _, _) -> true;
is_covered(?GUIDE, "elixir", "iex> " ++ _, _) -> true;
is_covered(_, "elixir", Block, Texts) ->
    lists:any(fun(Text) -> string:find(Text, Block) =/= nomatch end, Texts);
is_covered(Document, _, _, _) -> Document =/= ?GUIDE.

the_project_passes_its_tests_by_the_commands_of_the_guide(Config) ->
    %% All suites of a run share the folder of the configuration.
    Dir = filename:join(proplists:get_value(priv_dir, Config), "elixir"),
    ok = filelib:ensure_path(Dir),
    Project = filename:join(Dir, "example"),
    Env = env(Dir),
    [New | Commands] = [Block || {_, "sh", Block} <- documents:blocks(?GUIDE)],
    "mix new example " ++ _ = New,
    _ = documents:run(Dir, Env, New),
    _ = documents:run(root(), [], ["cp -R examples/elixir/. '", Project, "'"]),
    Output = documents:run(Project, Env, Commands),
    Sessions = length([Block || {_, "elixir", "iex> " ++ _ = Block} <- documents:blocks(?GUIDE)]),
    Tests = length(
        lists:append([matches("^ *test \"", Text) || Text <- texts(Project, "test/*_test.exs")])
    ),
    ?assert(Sessions > 0 andalso Tests > 0),
    Result = io_lib:format("~w doctests, ~w tests, 0 failures\n", [Sessions, Tests]),
    ?assertNotEqual(nomatch, string:find(Output, Result), {Result, Output}).

%% The run writes to nothing of the user but cargo's downloads. A later run can use what cargo
%% compiles for the repository.
env(Dir) ->
    [
        {"HOME", Dir},
        {"MIX_HOME", filename:join(Dir, "mix")},
        {"MIX_ENV", false},
        {"MIX_REBAR3", false},
        {"CARGO_HOME", home("CARGO_HOME", ".cargo")},
        {"RUSTUP_HOME", home("RUSTUP_HOME", ".rustup")}
        | source_tree:quick_build("copies") ++ documents:repository(filename:join(Dir, "proctab"))
    ].

home(Variable, Default) ->
    os:getenv(Variable, filename:join(os:getenv("HOME"), Default)).

texts(Dir, Pattern) ->
    [
        begin
            {ok, Text} = file:read_file(filename:join(Dir, File)),
            binary_to_list(Text)
        end
     || File <- filelib:wildcard(Pattern, Dir)
    ].

%% A block may have a deeper indentation in a file than in the guide.
unindented(Text) ->
    re:replace(Text, "^ +", "", [global, multiline, {return, list}]).

matches(Pattern, Text) ->
    case re:run(Text, Pattern, [global, multiline]) of
        {match, Matches} -> Matches;
        nomatch -> []
    end.
