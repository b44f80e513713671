%% Processes that suites track by metrics_process_tracker, and trackers for them.
-module(tracked_process).
-behaviour(supervisor).

-export([tracker/0, supervisor/1, kill_tracker/0, stop_tracker/0, init/1]).
-export([idle/0, tracked/1, crash/2, kill/1, settled/0, settled/1, empty/0, eventually/1]).
-export([caller_in_backend/2, assert_no_table/1, table_gone/0]).
-export([on_node/2, beside_another_node/1]).

-include_lib("stdlib/include/assert.hrl").

%% Starts a tracker. The calling process owns its table.
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

%% Kills the tracker, and waits until it is dead: its name is free, or taken by the next tracker.
kill_tracker() ->
    Tracker = whereis(metrics_process_tracker),
    Monitor = monitor(process, Tracker),
    exit(Tracker, kill),
    receive
        {'DOWN', Monitor, process, Tracker, Reason} -> Reason
    end.

%% Kills the tracker, if one runs.
stop_tracker() ->
    case whereis(metrics_process_tracker) of
        undefined -> ok;
        Tracker ->
            unlink(Tracker),
            kill_tracker()
    end.

%% Starts a process that waits to be killed, or for `crash/2`.
idle() ->
    tracked([]).

%% Like `idle/0`; the process has tracked itself under some names.
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

%% Makes such a process exit with a reason, and waits until it has.
crash(Pid, Reason) ->
    Monitor = monitor(process, Pid),
    Pid ! {crash, Reason},
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> ok
    end.

%% Kills processes, and waits until all are dead.
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

%% Waits until no process is tracked. The names of a dead process are counted down before it is
%% removed from the table: all cleanups are done then.
settled() ->
    settled([]).

%% Waits until these are the counts.
settled(Counts) ->
    eventually(fun() -> lists:sort(metrics_process_tracker:counts()) =:= lists:sort(Counts) end).

%% Waits until no process is tracked, the table has no process, not even one whose tracking has only
%% begun, and the tracker monitors none.
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

%% Returns a call of `track/2`, whose result `callers:answer/1` returns, and its process. The
%% process waits in `ledger_backend`: the name is `{gated, 1, self(), _}`.
caller_in_backend(Name, Pid) ->
    Call = callers:ask(fun() -> metrics_process_tracker:track(Name, Pid) end),
    receive
        {updating, Name, 1, Caller} -> {Call, Caller}
    end.

%% Asserts that every function fails, as it does without a table.
assert_no_table(Pid) ->
    Calls = [
        fun() -> metrics_process_tracker:track(name) end,
        fun() -> metrics_process_tracker:track(name, Pid) end,
        fun() -> metrics_process_tracker:count(name) end,
        fun() -> metrics_process_tracker:names(Pid) end,
        fun() -> metrics_process_tracker:counts() end
    ],
    [?assertError(badarg, Call()) || Call <- Calls].

%% Waits until there is no table. It is removed shortly after the death of its owner.
table_gone() ->
    eventually(fun() ->
        try metrics_process_tracker:counts() of
            _ -> false
        catch
            error:badarg -> true
        end
    end).

%% Waits until a condition holds. Fails after a minute.
eventually(Condition) ->
    wait:until(Condition, 60).

%% Runs a fun in another node, and returns its result.
on_node(Options, Fun) ->
    other_node:run(Options, infinity, Fun).

%% Runs a fun in a new node. The fun gets the peer process and the name of another new node.
beside_another_node(Fun) ->
    other_node:with_peer(Fun).
