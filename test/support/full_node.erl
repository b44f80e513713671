%% A node that can have few processes, and the processes that take all that are left.
-module(full_node).

-export([run/1, options/0, fill/0, free/1, free/0, while_stopped/2]).

-import(tracked_process, [kill/1, eventually/1]).

%% Runs a fun in such a node. No VM can have fewer. It says in the log, each
%% time, that there are too many.
run(Fun) ->
    tracked_process:on_node(options(), fun() ->
        ok = logger:set_primary_config(level, none),
        process_flag(trap_exit, true),
        Fun()
    end).

%% What makes it one, for `peer'.
options() ->
    #{env => [{"ERL_FLAGS", "+P 1024"}]}.

%% From now on the node has no free process.
fill() ->
    try spawn(fun filler/0) of
        Filler ->
            put(?MODULE, [Filler | fillers()]),
            fill()
    catch
        error:system_limit -> ok
    end.

filler() ->
    receive
        stop -> ok
    end.

%% Ends some of the processes that fill the node, or all, and waits until it has room for others.
free(Count) ->
    {Ended, Left} = lists:split(Count, fillers()),
    kill(Ended),
    put(?MODULE, Left),
    ok.

free() ->
    free(length(fillers())),
    Limit = erlang:system_info(process_limit),
    eventually(fun() -> erlang:system_info(process_count) < Limit div 2 end).

fillers() ->
    case get(?MODULE) of
        undefined -> [];
        Fillers -> Fillers
    end.

%% Does something that ends processes while another process cannot run, and takes the places of
%% those that have ended before that one goes on.
while_stopped(Pid, Do) ->
    true = erlang:suspend_process(Pid),
    Result = Do(),
    fill(),
    true = erlang:resume_process(Pid),
    Result.
