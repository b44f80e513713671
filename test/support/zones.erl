%% Zones, and the ends of zones that may hang: a case that meets such a zone fails by itself within
%% seconds, and leaves no zone behind.
-module(zones).

-include_lib("stdlib/include/assert.hrl").

-export([zone/1, stop_zone/1, beside/1]).
-export([ways_to_stop/0, stop/2, stopped/3, clean_up/0]).
-export([opening/2, until_found/3, keeper/2]).

%% Running zones

%% Starts a zone, linked to the caller, and returns its name.
zone(Zone) ->
    {ok, _} = gen_tracker:start_link(Zone),
    Zone.

%% Stops a zone in good order, if it runs.
stop_zone(Zone) ->
    try
        gen_server:stop(Zone)
    catch
        exit:_ ->
            undefined = whereis(Zone),
            ok
    end.

%% Returns all processes that the library runs for a zone beside its tracker: the keepers, the
%% watchdog, and the sender of events. They are linked to the tracker.
beside(Zone) ->
    {links, Links} = process_info(whereis(Zone), links),
    {parent, Parent} = process_info(whereis(Zone), parent),
    [Pid || Pid <- Links, is_pid(Pid), Pid =/= Parent].

%% Stopping

%% The ways to stop a zone in good order, each with the exit reason of its tracker. Only the parent
%% of the tracker may use the last one.
ways_to_stop() ->
    [
        {fun(Tracker) -> call(Tracker, shutdown) end, shutdown},
        {fun(Tracker) -> call(Tracker, stop) end, normal},
        {fun(Tracker) -> exit(Tracker, shutdown) end, shutdown}
    ].

call(Tracker, Request) ->
    timed_call:calling(fun() -> gen_server:call(Tracker, Request, infinity) end).

%% Stops a zone in good order. Fails if that takes longer than so many milliseconds.
stop(Zone, Milliseconds) ->
    [{Stop, shutdown} | _] = ways_to_stop(),
    ?assertEqual(shutdown, stopped(Zone, Stop, Milliseconds)).

%% Stops a zone, and waits until its tracker and the processes beside it have exited. Returns the
%% exit reason of the tracker.
stopped(Zone, Stop, Milliseconds) ->
    Tracker = whereis(Zone),
    Deadline = erlang:monotonic_time(millisecond) + Milliseconds,
    Monitors = [{Pid, monitor(process, Pid)} || Pid <- beside(Zone)],
    Monitor = monitor(process, Tracker),
    %% The VM may delay the signal of the last `monitor/2`. A further signal sends it.
    true = demonitor(monitor(process, Tracker), [flush]),
    _ = Stop(Tracker),
    Reason = down(Tracker, Monitor, Deadline),
    [down(Pid, Beside, Deadline) || {Pid, Beside} <- Monitors],
    ?assertEqual(undefined, whereis(Zone)),
    Reason.

down(Pid, Monitor, Deadline) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        ct:fail({still_alive, Pid, process_info(Pid, [current_stacktrace, messages])})
    end.

%% Kills the trackers of all zones, and after a second the processes beside them.
clean_up() ->
    lists:foreach(fun kill/1, [Owner || {zone, _, Owner} <- proctab_nif:tables()]).

kill(Tracker) ->
    Beside = links(Tracker),
    _ = tracked_child:kill(Tracker),
    Monitors = [monitor(process, Pid) || Pid <- Beside],
    Timer = erlang:start_timer(1000, self(), kill),
    wait_or_kill(Monitors, Timer, Beside).

wait_or_kill([], Timer, _) ->
    _ = erlang:cancel_timer(Timer),
    ok;
wait_or_kill([Monitor | Monitors], Timer, Beside) ->
    receive
        {'DOWN', Monitor, process, _, _} ->
            wait_or_kill(Monitors, Timer, Beside);
        {timeout, Timer, kill} ->
            [exit(Pid, kill) || Pid <- Beside],
            wait_or_kill([Monitor | Monitors], Timer, Beside)
    end.

links(Tracker) ->
    case process_info(Tracker, [links, parent]) of
        [{links, Links}, {parent, Parent}] ->
            Others = [Pid || Pid <- Links, is_pid(Pid), node(Pid) =:= node()],
            Others -- [Parent, self()];
        undefined ->
            []
    end.

%% Children

%% Calls `find_or_open/2` in a process of its own, which has ended or waits when this function
%% returns. `timed_call:answer/2` takes what this function returns.
opening(Zone, Spec) ->
    timed_call:calling(fun() -> gen_tracker:find_or_open(Zone, Spec) end).

%% Waits until `find/2` returns this pid.
until_found(Zone, Name, Pid) ->
    wait:until(fun() -> gen_tracker:find(Zone, Name) =:= {ok, Pid} end).

%% Returns the keeper of a child in any state.
keeper(Zone, Name) ->
    element(3, proctab_nif:child(Zone, Name)).
