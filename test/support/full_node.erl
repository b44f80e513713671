%% Nodes with the lowest limit of processes, and processes that use up this limit.
-module(full_node).

-export([run/1, options/0, fill/0, free/1, free/0, while_stopped/2]).
-export([take_all/0, keep_full/0, stop_filling/1]).

-import(tracked_process, [kill/1, eventually/1]).

%% Runs a fun, which traps exits, in a new node with a limit of 1024 processes, the lowest there
%% is. The log is off: the VM would report each failure to start a process.
run(Fun) ->
    other_node:run(options(), infinity, fun() ->
        ok = logger:set_primary_config(level, none),
        process_flag(trap_exit, true),
        Fun()
    end).

%% The options of such a node, for `peer:start_link/1`.
options() ->
    #{env => [{"ERL_FLAGS", "+P 1024"}]}.

%% Starts processes until there can be no more. `free/0` and `free/1` end them.
fill() ->
    put(?MODULE, take_all() ++ fillers()),
    ok.

%% Starts processes until there can be no more, and returns them.
take_all() ->
    try spawn(fun filler/0) of
        Filler -> [Filler | take_all()]
    catch
        error:system_limit -> []
    end.

filler() ->
    receive
        stop -> ok
    end.

%% Ends some of the processes that fill the node.
free(Count) ->
    {Ended, Left} = lists:split(Count, fillers()),
    kill(Ended),
    put(?MODULE, Left),
    ok.

%% Ends all processes that fill the node, and waits until half of the limit is free.
free() ->
    free(length(fillers())),
    Limit = erlang:system_info(process_limit),
    eventually(fun() -> erlang:system_info(process_count) < Limit div 2 end).

fillers() ->
    case get(?MODULE) of
        undefined -> [];
        Fillers -> Fillers
    end.

%% Calls `Do`, which ends processes, while `Pid` is suspended, and fills the node again before `Pid`
%% is resumed.
while_stopped(Pid, Do) ->
    true = erlang:suspend_process(Pid),
    Result = Do(),
    fill(),
    true = erlang:resume_process(Pid),
    Result.

%% Starts a process that fills the node, and takes the place of each process that ends, until
%% `stop_filling/1`.
keep_full() ->
    Test = self(),
    Filling = spawn(fun() ->
        process_flag(priority, high),
        Fillers = take_all(),
        Test ! {full, self()},
        keep_full(Fillers)
    end),
    receive
        {full, Filling} -> Filling
    end.

keep_full(Fillers) ->
    receive
        {stop, Test} ->
            _ = [exit(Pid, kill) || Pid <- Fillers],
            Test ! {stopped, self()}
    after 1 ->
        keep_full(take_all() ++ Fillers)
    end.

%% Ends that process and all that it has started.
stop_filling(Filling) ->
    Filling ! {stop, self()},
    receive
        {stopped, Filling} -> ok
    end.
