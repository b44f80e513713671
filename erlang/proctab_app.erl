%% @private
%% The application. Its supervisor has no children: zones and tables belong to the processes that
%% start them. The start fails if the native library cannot be used, and warns of a module that is
%% that of an original.
-module(proctab_app).

-behaviour(application).
-behaviour(supervisor).

-include_lib("kernel/include/logger.hrl").

-export([start/2, stop/1]).
-export([init/1]).

%% @private
-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Arguments) ->
    case proctab_library:check() of
        ok ->
            lists:foreach(fun warn/1, proctab_swap:check()),
            supervisor:start_link({local, ?MODULE}, ?MODULE, []);
        Error ->
            Error
    end.

warn(#{ours := true}) ->
    ok;
warn(#{module := Module, loaded := Loaded, found := Found, advice := Advice}) ->
    File =
        case Loaded of
            not_loaded -> Found;
            _ -> Loaded
        end,
    ?LOG_WARNING("proctab: the module ~s is not that of proctab, but ~ts; ~ts", [
        Module, File, Advice
    ]).

%% @private
-spec stop(term()) -> ok.
stop(_State) ->
    ok.

%% @private
-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    {ok, {#{}, []}}.
