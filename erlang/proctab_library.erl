%% @private
%% Finds the native library for `proctab_nif', and says why it cannot be used.
%%
%% The native library refuses to be loaded by Erlang code of another version than its own.
-module(proctab_library).

-export([version/0, file/0, loaded/2, check/0]).

%% Must be that of the application and of the native library: building_SUITE compares them.
-define(VERSION, <<"0.2.0">>).

%% The key of the sentence that says why the library could not be loaded.
-define(REFUSAL, {?MODULE, refusal}).

%% @doc Returns the version of this library.
-spec version() -> [byte()].
version() ->
    binary_to_list(?VERSION).

%% @doc Returns the file of the native library without its extension: the one that the environment
%% variable PROCTAB_NIF names, or the one that `native/build' has installed.
-spec file() -> file:filename().
file() ->
    case os:getenv("PROCTAB_NIF", "") of
        "" -> filename:join(priv_dir(), "proctab_nif");
        File -> filename:rootname(File, ".so")
    end.

priv_dir() ->
    case code:priv_dir(proctab) of
        {error, bad_name} ->
            filename:join(filename:dirname(filename:dirname(code:which(?MODULE))), "priv");
        Dir ->
            Dir
    end.

%% @doc Returns the result of the `on_load' function of `proctab_nif', from the result of
%% `erlang:load_nif/2' for a file. Remembers why the library was refused, for {@link check/0}.
-spec loaded(ok | {error, {atom(), string()}}, file:filename()) -> ok | {error, term()}.
loaded(ok, _File) ->
    _ = persistent_term:erase(?REFUSAL),
    ok;
loaded({error, {Reason, Text}}, File) when
    Reason =:= load_failed; Reason =:= bad_lib; Reason =:= load
->
    Refusal = lists:flatten(refusal(Reason, Text, File ++ ".so")),
    ok = persistent_term:put(?REFUSAL, Refusal),
    {error, {Reason, Refusal}};
loaded({error, _Reason} = Error, _File) ->
    Error.

refusal(load_failed, Text, File) ->
    [
        "proctab: cannot load the native library ", File, " (", Text, "); build it with"
        " `rebar3 compile' in the project, or set PROCTAB_NIF to one that was built elsewhere for"
        " this system"
    ];
refusal(_OtherVersion, _Text, File) ->
    [
        "proctab: the native library ", File, " is not of version ", version(), ", which the Erlang"
        " code is; build it again with `rebar3 compile' in the project, or set PROCTAB_NIF to one"
        " of this version, and restart the node"
    ].

%% @doc Loads `proctab_nif' if necessary. Returns the sentence that says what to do if the native
%% library cannot be used.
-spec check() -> ok | {error, string()}.
check() ->
    case code:ensure_loaded(proctab_nif) of
        {module, proctab_nif} ->
            ok;
        {error, Reason} ->
            Unknown = io_lib:format("proctab: cannot load the module proctab_nif (~tp)", [Reason]),
            {error, persistent_term:get(?REFUSAL, lists:flatten(Unknown))}
    end.
