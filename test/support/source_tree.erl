%% The folders of the project and of the compiled library.
-module(source_tree).

-export([root/0, version/0, library/0, code_paths/0, quick_build/1]).

%% Returns the folder of the project: the compiled library has a link to its folder `erlang`.
root() ->
    Library = library(),
    {ok, Erlang} = file:read_link_all(filename:join(Library, "erlang")),
    filename:dirname(filename:absname(Erlang, Library)).

%% Returns the version of the application in the project.
version() ->
    {ok, [{application, proctab, Keys}]} =
        file:consult(filename:join(root(), "erlang/proctab.app.src")),
    proplists:get_value(vsn, Keys).

%% Returns the folder of the compiled library. `code:lib_dir(proctab)` returns the first folder of
%% the code path with the name `proctab`, which may be another one.
library() ->
    filename:dirname(filename:dirname(code:which(proctab))).

%% Returns the folders of the code path that belong to the library and its tests.
code_paths() ->
    Library = library(),
    [Path || Path <- code:get_path(), lists:prefix(Library, filename:absname(Path))].

%% Returns the variables with which cargo compiles a copy of this tree in seconds. Copies with the
%% same sources of crates share what it has compiled.
quick_build(Sources) ->
    [
        {"CARGO_TARGET_DIR", filename:join([root(), "target", Sources])},
        {"CARGO_PROFILE_RELEASE_LTO", "off"},
        {"CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"},
        {"CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"}
    ].
