%% The processes that the suites have tracked by metrics_process_tracker, and the trackers they
%% have them tracked by.
-module(tracked_process).
-behaviour(supervisor).

-export([tracker/0, supervisor/1, kill_tracker/0, stop_tracker/0, init/1]).
-export([idle/0, tracked/1, crash/2, kill/1, settled/0, settled/1, empty/0, eventually/1]).
-export([on_node/2]).

%% A tracker whose table belongs to the calling process.
tracker() ->
    {ok, Tracker} = metrics_process_tracker:start_link(),
    Tracker.

%% A supervisor of a tracker, linked to the calling process, that allows so many restarts.
supervisor(Restarts) ->
    {ok, Supervisor} = supervisor:start_link(?MODULE, Restarts),
    Supervisor.

init(Restarts) ->
    Start = {metrics_process_tracker, start_link, []},
    {
        ok,
        {
            #{intensity => Restarts, period => 1},
            [#{id => tracker, start => Start, shutdown => brutal_kill}]
        }
    }.

%% Kills the tracker, and waits until its registered name is free, or taken by the next one.
kill_tracker() ->
    Tracker = whereis(metrics_process_tracker),
    Monitor = monitor(process, Tracker),
    exit(Tracker, kill),
    receive
        {'DOWN', Monitor, process, Tracker, Reason} -> Reason
    end.

%% For the end of a test case: whatever tracker it has left.
stop_tracker() ->
    case whereis(metrics_process_tracker) of
        undefined -> ok;
        Tracker ->
            unlink(Tracker),
            kill_tracker()
    end.

%% A process that waits to be killed, or to crash.
idle() ->
    tracked([]).

%% The same, when it has tracked itself under some names.
tracked(Names) ->
    Test = self(),
    Pid = spawn(fun() ->
        [ok = metrics_process_tracker:track(Name) || Name <- Names],
        Test ! {tracked, self()},
        receive
            {crash, Reason} -> exit(Reason)
        end
    end),
    receive
        {tracked, Pid} -> Pid
    end.

crash(Pid, Reason) ->
    Monitor = monitor(process, Pid),
    Pid ! {crash, Reason},
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> ok
    end.

%% Kills processes at the same moment, and waits until they are dead.
kill(Pids) ->
    Monitors = [monitor(process, Pid) || Pid <- Pids],
    [exit(Pid, kill) || Pid <- Pids],
    [
        receive
            {'DOWN', Monitor, process, _, _} -> ok
        end
     || Monitor <- Monitors
    ],
    ok.

%% Waits until nobody is tracked. A name is counted down before it is seen here that its process
%% is gone: then all that dead processes leave behind is done.
settled() ->
    settled([]).

%% The same, until these are the counts.
settled(Counts) ->
    eventually(fun() -> lists:sort(metrics_process_tracker:counts()) =:= lists:sort(Counts) end).

%% Waits until nobody is tracked, the table holds no process, not even one that somebody had only
%% begun to track, and none is monitored.
empty() ->
    settled(),
    eventually(fun() -> in_table(0) =:= [] end),
    eventually(fun() ->
        process_info(whereis(metrics_process_tracker), monitors) =:= {monitors, []}
    end).

in_table(From) ->
    case proctab_nif:processes_page(metrics_process_tracker, From) of
        {Pids, done} -> Pids;
        {Pids, Next} -> Pids ++ in_table(Next)
    end.

%% Waits until a condition holds that nobody tells of.
eventually(Condition) ->
    eventually(Condition, erlang:monotonic_time(second) + 60).

eventually(Condition, Until) ->
    case {Condition(), erlang:monotonic_time(second) < Until} of
        {true, _} -> ok;
        {false, true} ->
            receive
            after 1 -> eventually(Condition, Until)
            end;
        {false, false} -> error(never_came_true)
    end.

%% Runs a fun in another node that has this library first in its code path.
on_node(Options, Fun) ->
    {module, Suite} = erlang:fun_info(Fun, module),
    Modules = [metrics_process_tracker, ?MODULE, Suite],
    Arguments = ["-pa" | [filename:dirname(code:which(Module)) || Module <- Modules]],
    Defaults = #{connection => standard_io, args => Arguments},
    {ok, Peer, _} = peer:start_link(maps:merge(Defaults, Options)),
    try
        peer:call(Peer, erlang, apply, [Fun, []], infinity)
    after
        peer:stop(Peer)
    end.
