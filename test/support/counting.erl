%% The two counters of processes, for suites that promise the same of both: `tracker` is
%% metrics_process_tracker with `ledger_backend` as its backend, `monitor` is stats_hero_monitor
%% with the stand-in for stats_hero.
%%
%% Each process is counted under a name of its own. The books say how often it was counted, and how
%% often a cleanup was made for it.
-module(counting).
-behaviour(supervisor).

-export([kinds/0, of_kind/2, kind/1, await_end/1, open/1, open/2, close/1, reopen/1]).
-export([server/1, reaper/1, start/1, supervisor/2, init/1]).
-export([counted/1, add/2, cleaned_by/2, held/1, cleaner/2, let_go/2]).
-export([count/1, handled/1, settled/2, assert_books/3]).

-include_lib("stdlib/include/assert.hrl").

-import(tracked_process, [idle/0, kill/1, eventually/1]).

kinds() ->
    [tracker, monitor].

%% Returns the configuration of a group of cases about one counter.
of_kind(Kind, Config) ->
    [{kind, Kind} | Config].

%% Returns the counter that a case is about. Outside of groups this is `tracker`.
kind(Config) ->
    proplists:get_value(kind, Config, tracker).

%% Waits until no server and no reaper of a counter runs. They end a moment after their owner. Until
%% then, a supervisor finds the server already started, and a stop of the reaper would fail.
await_end(Kind) ->
    await_free(server(Kind)),
    await_free(reaper(Kind)).

await_free(Name) ->
    Monitor = monitor(process, Name),
    receive
        {'DOWN', Monitor, process, _, noproc} -> ok;
        {'DOWN', Monitor, process, _, _} -> await_free(Name)
    end.

%% Opens empty books, which the cleanups of a counter write into.
open(Kind) ->
    open(Kind, filename:dirname(code:which(stats_hero))).

%% Like `open/1`, for a node without stats_hero: `StatsHero` is the folder of its code.
open(tracker, _StatsHero) ->
    ledger_backend:open();
open(monitor, StatsHero) ->
    true = code:add_patha(StatsHero),
    {module, _} = code:ensure_loaded(stats_hero),
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    stats_hero:new_table().

%% Kills the supervisor of the counter, and closes the books.
close(Kind) ->
    [
        begin
            unlink(Pid),
            kill([Pid])
        end
     || Pid <- [whereis(?MODULE)], is_pid(Pid)
    ],
    close_books(Kind).

close_books(tracker) ->
    ledger_backend:close(),
    ets:delete(ledger_backend);
close_books(monitor) ->
    ets:delete(stats_hero_workers),
    ets:delete(?MODULE).

%% Ends all that runs, and opens empty books.
reopen(Kind) ->
    close(Kind),
    open(Kind).

server(tracker) -> metrics_process_tracker;
server(monitor) -> stats_hero_monitor.

reaper(tracker) -> metrics_process_tracker_reaper;
reaper(monitor) -> stats_hero_monitor_reaper.

%% Starts a server. The calling process owns its table.
start(Kind) ->
    (server(Kind)):start_link().

%% Starts a supervisor of a server, linked to the calling process, that allows so many restarts.
supervisor(Kind, Restarts) ->
    {ok, Supervisor} = supervisor:start_link({local, ?MODULE}, ?MODULE, {Kind, Restarts}),
    Supervisor.

init({Kind, Restarts}) ->
    Start = {server(Kind), start_link, []},
    {ok, {#{intensity => Restarts, period => 3600}, [#{id => server, start => Start}]}}.

%% Starts a process that waits to be killed, and is counted.
counted(Kind) ->
    Pid = idle(),
    ok = add(Kind, Pid),
    Pid.

add(tracker, Pid) ->
    metrics_process_tracker:track(Pid, Pid);
add(monitor, Pid) ->
    add_worker(Pid, fun() -> ok end).

%% Starts a counted process whose cleanup also calls a fun.
cleaned_by(tracker, Fun) ->
    Pid = idle(),
    ok = metrics_process_tracker:track({does, -1, Fun, Pid}, Pid),
    Pid;
cleaned_by(monitor, Fun) ->
    Pid = idle(),
    ok = add_worker(Pid, Fun),
    Pid.

%% Starts a counted process whose cleanup waits until `let_go/2`. `cleaner/2` waits for this.
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

%% Waits for the cleanup of such a process, and returns the process that makes it.
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

%% Returns how many processes are counted now.
count(tracker) -> length(metrics_process_tracker:counts());
count(monitor) -> stats_hero_monitor:registered_count().

%% Waits until server and reaper have handled their earlier messages.
handled(Kind) ->
    [gen_server:call(Name, anything, infinity) || Name <- [server(Kind), reaper(Kind)]],
    ok.

%% Waits until so many processes are counted.
settled(Kind, Count) ->
    eventually(fun() -> count(Kind) =:= Count end).

%% Returns how often a process was counted, and how often a cleanup was made for it.
entry(tracker, Pid, Entries) -> maps:get(Pid, Entries, {0, 0});
entry(monitor, Pid, Entries) -> {1, maps:get(Pid, Entries, 0)}.

%% Returns the entries of all processes.
entries(tracker) ->
    Add = fun({Name, Up, Down}, Entries) ->
        Sum = fun({Ups, Downs}) -> {Ups + Up, Downs + Down} end,
        maps:update_with(counted_by(Name), Sum, {Up, Down}, Entries)
    end,
    ets:foldl(Add, #{}, ledger_backend);
entries(monitor) ->
    maps:from_list(ets:tab2list(?MODULE)).

%% Returns the process that has this name of a metric.
counted_by({gated, -1, _, Pid}) -> Pid;
counted_by({does, -1, _, Pid}) -> Pid;
counted_by(Name) -> Name.

%% Asserts that each process was counted once, and that one cleanup was made for each of the dead.
assert_books(Kind, Dead, Living) ->
    Entries = entries(Kind),
    [?assertEqual({Pid, {1, 1}}, {Pid, entry(Kind, Pid, Entries)}) || Pid <- Dead],
    [?assertEqual({Pid, {1, 0}}, {Pid, entry(Kind, Pid, Entries)}) || Pid <- Living],
    ok.
