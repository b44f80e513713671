%% Processes that metrics_process_tracker tracks, and trackers for them.
-module(tracked_process).
-behaviour(supervisor).

-export([tracker/0, supervisor/1, kill_tracker/0, stop_tracker/0, init/1]).
-export([idle/0, tracked/1, crash/2, kill/1, settled/0, settled/1, empty/0, eventually/1]).
-export([on_node/2]).

%% Starts a tracker. Its table belongs to the calling process.
tracker() ->
    {ok, Tracker} = metrics_process_tracker:start_link(),
    Tracker.

%% Starts a supervisor of a tracker, linked to the calling process, that allows so many restarts.
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

%% Kills the tracker, and waits until its registered name is free or registered again.
kill_tracker() ->
    Tracker = whereis(metrics_process_tracker),
    Monitor = monitor(process, Tracker),
    exit(Tracker, kill),
    receive
        {'DOWN', Monitor, process, Tracker, Reason} -> Reason
    end.

%% Kills the tracker that a case has left running, if any.
stop_tracker() ->
    case whereis(metrics_process_tracker) of
        undefined ->
            ok;
        Tracker ->
            unlink(Tracker),
            kill_tracker()
    end.

%% Starts a process that waits to be killed, or to crash.
idle() ->
    tracked([]).

%% Like `idle/0`. The process has tracked itself under these names.
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

%% Kills processes at the same time, and waits until they have exited.
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

%% Waits until no process is tracked. A name is counted down before its process is seen to be gone,
%% so all cleanups are done then.
settled() ->
    settled([]).

%% Waits until the counts are these.
settled(Counts) ->
    eventually(fun() -> lists:sort(metrics_process_tracker:counts()) =:= lists:sort(Counts) end).

%% Waits until no process is tracked, in the table or monitored, not even one whose tracking had
%% only begun.
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

%% Waits until a condition holds. Fails after a minute.
eventually(Condition) ->
    wait:until(Condition, 60).

%% Runs a fun in another node, and returns its result.
on_node(Options, Fun) ->
    other_node:run(Options, infinity, Fun).
