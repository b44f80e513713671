%% The two counters of processes, for suites that test both: `tracker` is metrics_process_tracker
%% with `ledger_backend`, `monitor` is stats_hero_monitor with the stand-in for stats_hero.
%%
%% Each process is counted under a name of its own, so that the ledger shows how often it was
%% counted and how often it was cleaned up.
-module(counting).
-behaviour(supervisor).

-export([kinds/0, open/2, close/1, server/1, reaper/1, start/1, supervisor/2, init/1]).
-export([counted/1, add/2, cleaned_by/2, held/1, cleaner/2, let_go/2]).
-export([count/1, handled/1, settled/2, books/2, assert_books/3]).

-include_lib("stdlib/include/assert.hrl").

-import(tracked_process, [idle/0, eventually/1]).

kinds() ->
    [tracker, monitor].

%% Starts what the library calls for each death. `StatsHero` is the folder of that application.
open(tracker, _StatsHero) ->
    ledger_backend:open();
open(monitor, StatsHero) ->
    true = code:add_patha(StatsHero),
    {module, _} = code:ensure_loaded(stats_hero),
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    stats_hero:new_table().

close(tracker) ->
    ledger_backend:close(),
    ets:delete(ledger_backend);
close(monitor) ->
    ets:delete(stats_hero_workers),
    ets:delete(?MODULE).

server(tracker) -> metrics_process_tracker;
server(monitor) -> stats_hero_monitor.

reaper(tracker) -> metrics_process_tracker_reaper;
reaper(monitor) -> stats_hero_monitor_reaper.

%% Starts a server. Its table belongs to the calling process.
start(Kind) ->
    (server(Kind)):start_link().

%% Starts a supervisor of a server, linked to the calling process, that allows so many restarts.
supervisor(Kind, Restarts) ->
    {ok, Supervisor} = supervisor:start_link({local, ?MODULE}, ?MODULE, {Kind, Restarts}),
    Supervisor.

init({Kind, Restarts}) ->
    Start = {server(Kind), start_link, []},
    {ok, {#{intensity => Restarts, period => 3600}, [#{id => server, start => Start}]}}.

%% Starts a counted process that waits to be killed.
counted(Kind) ->
    Pid = idle(),
    ok = add(Kind, Pid),
    Pid.

add(tracker, Pid) ->
    metrics_process_tracker:track(Pid, Pid);
add(monitor, Pid) ->
    add_worker(Pid, fun() -> ok end).

%% Like `counted/1`. The cleanup also calls `Fun`.
cleaned_by(tracker, Fun) ->
    Pid = idle(),
    ok = metrics_process_tracker:track({does, -1, Fun, Pid}, Pid),
    Pid;
cleaned_by(monitor, Fun) ->
    Pid = idle(),
    ok = add_worker(Pid, Fun),
    Pid.

%% Like `counted/1`. The cleanup sends `{held, Pid, Cleaner}` to the test, and waits for
%% `let_go/2`.
held(tracker) ->
    Pid = idle(),
    ok = metrics_process_tracker:track({gated, -1, self(), Pid}, Pid),
    Pid;
held(monitor) ->
    Pid = idle(),
    Test = self(),
    ok = add_worker(Pid, fun() -> hold(Pid, Test) end),
    Pid.

hold(Pid, Test) ->
    Test ! {held, Pid, self()},
    receive
        {?MODULE, go} -> ok
    end.

add_worker(Pid, Cleaning) ->
    Clean = fun(_Remove) ->
        ets:update_counter(?MODULE, Pid, 1, {Pid, 0}),
        Cleaning()
    end,
    ok = stats_hero:map(make_ref(), Pid, Clean),
    stats_hero_monitor:register(Pid).

%% Waits for the cleanup of a process of `held/1`, and returns the process that runs it.
cleaner(tracker, Pid) ->
    receive
        {updating, {gated, -1, _, Pid}, -1, Cleaner} -> Cleaner
    end;
cleaner(monitor, Pid) ->
    receive
        {held, Pid, Cleaner} -> Cleaner
    end.

let_go(tracker, Cleaner) -> ledger_backend:let_go(Cleaner);
let_go(monitor, Cleaner) -> Cleaner ! {?MODULE, go}.

%% Returns how many processes are counted.
count(tracker) -> length(metrics_process_tracker:counts());
count(monitor) -> stats_hero_monitor:registered_count().

%% Waits until the server and the reaper have handled all messages sent so far.
handled(Kind) ->
    [gen_server:call(Name, anything, infinity) || Name <- [server(Kind), reaper(Kind)]],
    ok.

%% Waits until so many processes are counted.
settled(Kind, Count) ->
    eventually(fun() -> count(Kind) =:= Count end).

%% Returns how often a process was counted, and how often it was cleaned up.
books(tracker, Pid) ->
    Names = [Pid, {gated, -1, '_', Pid}, {does, -1, '_', Pid}],
    Moves = [ets:match(ledger_backend, {Name, '$1', '$2'}) || Name <- Names],
    {Ups, Downs} = lists:unzip([{Up, Down} || [Up, Down] <- lists:append(Moves)]),
    {lists:sum(Ups), lists:sum(Downs)};
books(monitor, Pid) ->
    case ets:lookup(?MODULE, Pid) of
        [{Pid, Times}] -> {1, Times};
        [] -> {1, 0}
    end.

assert_books(Kind, Dead, Living) ->
    [?assertEqual({Pid, {1, 1}}, {Pid, books(Kind, Pid)}) || Pid <- Dead],
    [?assertEqual({Pid, {1, 0}}, {Pid, books(Kind, Pid)}) || Pid <- Living],
    ok.
