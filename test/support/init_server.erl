%% Callbacks of gen_server and gen_statem. The server calls the fun that it is started with in its
%% `init/1`.
-module(init_server).

-export([init/1, callback_mode/0]).

init(Fun) ->
    _ = Fun(),
    {ok, state, infinity}.

callback_mode() ->
    handle_event_function.
