%% Other nodes on this machine. The code of the library and of its tests is in their code path.
-module(other_node).

-export([run/2, run/3, with_peer/1]).

%% Runs `Fun` in a new node, and returns its result. Fails after half a minute. `Options` are those
%% of `peer:start_link/1`.
run(Options, Fun) ->
    run(Options, 30000, Fun).

%% Like `run/2`, with another limit in milliseconds, or `infinity`.
run(Options, Milliseconds, Fun) ->
    Defaults = #{connection => standard_io, args => code_path()},
    {ok, Peer, _} = peer:start_link(maps:merge(Defaults, Options)),
    try
        peer:call(Peer, erlang, apply, [Fun, []], Milliseconds)
    after
        peer:stop(Peer)
    end.

%% Runs `Fun` in a new node that has a name and traps exits. `Fun` gets the peer process and the
%% name of another new node, which is connected to the first one.
with_peer(Fun) ->
    run(#{name => peer:random_name()}, fun() ->
        process_flag(trap_exit, true),
        {ok, Peer, Node} = peer:start(#{name => peer:random_name(), args => code_path()}),
        try
            Fun(Peer, Node)
        after
            stop(Peer)
        end
    end).

%% `Fun` may have stopped it already.
stop(Peer) ->
    try
        peer:stop(Peer)
    catch
        exit:_ -> stopped
    end.

code_path() ->
    ["-pa" | source_tree:code_paths()].
