%% How native functions are scheduled.
-module(scheduling).

-export([left/1]).

%% Returns the native functions in which a process was scheduled out while it called a fun, as
%% happens when a call moves to a dirty scheduler.
-spec left(fun(() -> term())) -> [{atom(), arity()}].
left(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        receive
            go -> Fun()
        end
    end),
    1 = erlang:trace(Pid, true, [running]),
    Pid ! go,
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> normal = Reason
    end,
    Delivered = erlang:trace_delivered(Pid),
    receive
        {trace_delivered, Pid, Delivered} -> lists:usort(taken_off(Pid))
    end.

taken_off(Pid) ->
    receive
        {trace, Pid, out, {proctab_nif, Function, Arity}} -> [{Function, Arity} | taken_off(Pid)];
        {trace, Pid, _, _} -> taken_off(Pid)
    after 0 -> []
    end.
