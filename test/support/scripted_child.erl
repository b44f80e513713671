%% Children with start functions that do something else at each start.
%%
%% The start function runs `tracked_child:start_with/2`, so the test receives `{started, Starter}`
%% at the beginning of each start, and `{started, Child}` from a step made by `run/0`.
-module(scripted_child).

-export([script/1, run/0, dead/1, spec/3, open/4, pending/2, pending/3]).

-import(messages, [await/1, taken/1]).

%% Returns a start function. Its first call runs the first step, its second call the second step;
%% the last step is repeated.
script(Steps) ->
    Starts = counters:new(1, []),
    fun() ->
        counters:add(Starts, 1, 1),
        Step = lists:nth(min(counters:get(Starts, 1), length(Steps)), Steps),
        Step()
    end.

%% Returns the step that starts a child of `tracked_child`.
run() ->
    Test = self(),
    fun() -> tracked_child:start_link(Test) end.

%% A step that starts a linked child and returns when the child has exited with `Reason`.
dead(Reason) ->
    {Pid, Monitor} = spawn_opt(fun() -> exit(Reason) end, [link, monitor]),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> {ok, Pid}
    end.

%% Returns the child spec of a start function.
spec(Name, Restart, Start) ->
    {Name, {tracked_child, start_with, [self(), Start]}, Restart}.

%% Opens a child whose first step is that of `run/0`. Returns its pid.
open(Zone, Name, Restart, Start) ->
    {ok, Child} = gen_tracker:find_or_open(Zone, spec(Name, Restart, Start)),
    [{started, _}, {started, Child}] = [await(started), await(started)],
    Child.

%% Makes `Name` a permanent child that waits for its next restart, after all restarts so far have
%% failed with `{error, later}`. The next one is seconds away. Returns the process that will make it
%% and the child's spec.
pending(Zone, Name) ->
    pending(Zone, Name, fun() -> {error, later} end).

%% Like `pending/2`. `Fail` runs at each restart, and returns `{error, later}`.
pending(Zone, Name, Fail) ->
    Start = script([run(), Fail]),
    Child = open(Zone, Name, permanent, Start),
    crash = tracked_child:stop(Child, crash),
    {started, Keeper} = await(started),
    Spec = spec(Name, permanent, Start),
    [{error, later} = gen_tracker:find_or_open(Zone, Spec) || _ <- lists:seq(1, 50)],
    _ = taken(started),
    {Keeper, Spec}.
