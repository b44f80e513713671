%% Promise: metrics_process_tracker misses no process and counts none twice, when many processes die
%% at once, the tracker is killed again and again, or its code is reloaded.
-module(tracking_storm_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(metrics_process_tracker, [track/1, track/2, count/1, names/1, counts/0]).
-import(ledger_backend, [moves/1, let_go/1, open_names/0]).
-import(tracked_process, [tracker/0, kill_tracker/0, idle/0, tracked/1, kill/1, settled/0]).
-import(tracked_process, [settled/1, eventually/1]).

-define(LOOPS, 20).

suite() ->
    [{timetrap, {minutes, 5}}, {ct_hooks, [{counter_hook, tracker}]}].

all() ->
    [
        a_hundred_thousand_processes_that_die_at_once_are_counted_down,
        a_process_with_ten_thousand_names_is_counted_down_under_each,
        processes_that_are_tracked_while_they_die_are_counted_up_and_down,
        callers_that_are_killed_while_they_track_leave_no_count,
        callers_that_are_killed_while_a_name_is_copied_leave_no_row,
        a_tracker_that_is_killed_a_hundred_times_loses_nothing,
        reloading_the_modules_under_load_loses_nothing
    ].

a_hundred_thousand_processes_that_die_at_once_are_counted_down(_) ->
    Tracker = tracker(),
    Makers = [
        fun() ->
            [tracked([all, {tenth, Tenth}, {own, Tenth, Number}]) || Number <- lists:seq(1, 10000)]
        end
     || Tenth <- lists:seq(1, 10)
    ],
    %% The cleanup waits at the name of this process, until the test continues it.
    Slow = {gated, -1, self(), name},
    Pids = [tracked([all, Slow]) | lists:append(callers:together(Makers))],
    Living = tracked([all]),
    ?assertEqual(100002, count(all)),
    ?assertEqual([10000], lists:usort([count({tenth, Tenth}) || Tenth <- lists:seq(1, 10)])),
    ?assertEqual(1 + 10 + 1 + 100000, length(counts())),

    kill(Pids),
    receive
        {updating, Slow, -1, Cleaner} -> ok
    end,
    ?assertEqual(bad_call, gen_server:call(Tracker, anything)),
    ?assertEqual(1, count(Slow)),
    ?assertEqual(
        [all, meanwhile],
        lists:sort(
            begin
                ok = track(meanwhile, Living),
                names(Living)
            end
        )
    ),
    let_go(Cleaner),
    eventually(fun() ->
        bad_call = gen_server:call(Tracker, anything),
        count(all) =:= 1
    end),
    settled([{all, 1}, {meanwhile, 1}]),
    ?assertEqual([{all, 100002, 100001}, {meanwhile, 1, 0}], lists:sort(open_names())),
    ?assertEqual([[]], lists:usort([names(Pid) || Pid <- Pids])),
    ?assertMatch({monitored_by, [_]}, process_info(Living, monitored_by)),
    kill([Living]),
    all_is_gone().

a_process_with_ten_thousand_names_is_counted_down_under_each(_) ->
    Tracker = tracker(),
    Names = lists:seq(1, 10000),
    Slow = {gated, -1, self(), name},
    Pid = tracked([Slow | Names]),
    Other = tracked([1, 10000]),
    ?assertEqual(10001, length(names(Pid))),
    kill([Pid]),
    receive
        {updating, Slow, -1, Cleaner} -> ok
    end,
    ?assertEqual(bad_call, gen_server:call(Tracker, anything)),
    let_go(Cleaner),
    settled([{1, 1}, {10000, 1}]),
    ?assertEqual([{1, 2, 1}, {10000, 2, 1}], lists:sort(open_names())),
    ?assertEqual([{1, 1}], lists:usort([moves(Name) || Name <- Names -- [1, 10000]])),
    ?assertEqual([], names(Pid)),
    kill([Other]),
    all_is_gone().

%% Two callers track each pair, from both ends of the list, before, during and after the death.
processes_that_are_tracked_while_they_die_are_counted_up_and_down(_) ->
    tracker(),
    Pids = [idle() || _ <- lists:seq(1, 10000)],
    Track = fun(These) -> [ok = track(Name, Pid) || Pid <- These, Name <- [a, b, Pid]] end,
    callers:together([
        fun() -> Track(Pids) end,
        fun() -> Track(lists:reverse(Pids)) end,
        fun() -> kill(Pids) end
    ]),
    all_is_gone().

%% The callers only track, so that many are killed between a count in the backend and its record.
callers_that_are_killed_while_they_track_leave_no_count(_) ->
    tracker(),
    [
        begin
            Callers = [spawn(fun() -> track_on(1) end) || _ <- lists:seq(1, 20)],
            pass(rand:uniform(200)),
            kill(Callers)
        end
     || _ <- lists:seq(1, 500)
    ],
    all_is_gone().

track_on(Name) ->
    ok = track(Name),
    track_on(Name + 1).

%% A large name is copied into the table on a dirty scheduler, which goes on when its caller is
%% killed.
callers_that_are_killed_while_a_name_is_copied_leave_no_row(_) ->
    tracker(),
    Large = lists:seq(1, 8000),
    [
        begin
            Callers = [
                spawn(fun() ->
                    track([Number | Large]),
                    receive
                        stop -> ok
                    end
                end)
             || Number <- lists:seq(1, 10)
            ],
            pass(rand:uniform(30)),
            kill(Callers)
        end
     || _ <- lists:seq(1, 100)
    ],
    tracked_process:empty().

a_tracker_that_is_killed_a_hundred_times_loses_nothing(_) ->
    Supervisor = tracked_process:supervisor(1000),
    Survivors = [tracked([survivors, a]) || _ <- lists:seq(1, 1000)],
    Loops = start_loops(),
    Kill = fun() ->
        Tracker = whereis(metrics_process_tracker),
        killed = kill_tracker(),
        eventually(fun() ->
            not lists:member(whereis(metrics_process_tracker), [Tracker, undefined])
        end)
    end,
    %% The second of two in a row may be killed while it starts.
    [
        while_they_come_and_go(Loops, fun() -> [Kill() || _ <- lists:seq(1, Times)] end)
     || _ <- lists:seq(1, 40), Times <- [1, 2]
    ],
    stop_loops(Loops),
    settled([{survivors, 1000}, {a, 1000}]),
    ?assertEqual(
        [a, survivors],
        lists:sort([Name || {Name, Ups, Downs} <- open_names(), Ups - Downs =:= 1000])
    ),
    kill(Survivors),
    all_is_gone(),
    gen_server:stop(Supervisor).

%% Many times: from the second load on, a module waits for processes that run its old code. Then in
%% the way of OTP's release handler.
reloading_the_modules_under_load_loses_nothing(_) ->
    Tracker = tracker(),
    Survivors = [tracked([survivors, a]) || _ <- lists:seq(1, 1000)],
    Loops = start_loops(),
    Modules = [metrics_process_tracker, proctab_reaper],
    [
        while_they_come_and_go(Loops, fun() -> reloading:load_softly(Module) end)
     || _ <- lists:seq(1, 20), Module <- Modules
    ],
    while_they_come_and_go(Loops, fun() -> ok = sys:suspend(Tracker) end),
    while_they_come_and_go(Loops, fun() -> reloading:load_softly(metrics_process_tracker) end),
    ok = sys:change_code(Tracker, metrics_process_tracker, undefined, []),
    ok = sys:resume(Tracker),
    stop_loops(Loops),
    settled([{survivors, 1000}, {a, 1000}]),
    ?assertEqual(Tracker, whereis(metrics_process_tracker)),
    [eventually(fun() -> code:soft_purge(Module) end) || Module <- Modules],
    kill(Survivors),
    all_is_gone().

all_is_gone() ->
    tracked_process:empty(),
    ?assertEqual([], open_names()).

%% Loops in which processes come and go

start_loops() ->
    [
        spawn_link(fun() ->
            rand:seed(exsss, Number),
            loop([])
        end)
     || Number <- lists:seq(1, ?LOOPS)
    ].

loop(Gone) ->
    receive
        {run, Test} ->
            Pids = [come_and_go(rand:uniform(4)) || _ <- lists:seq(1, 20)],
            Test ! {ran, self()},
            loop(Pids ++ Gone);
        {stop, Test} ->
            Test ! {gone, self(), Gone}
    end.

%% Calls a fun when some of the loops have run, and the others may still run.
while_they_come_and_go(Loops, Do) ->
    [Loop ! {run, self()} || Loop <- Loops],
    {Before, After} = lists:split(rand:uniform(?LOOPS) - 1, Loops),
    [answer_of(Loop, ran) || Loop <- Before],
    Do(),
    [answer_of(Loop, ran) || Loop <- After].

%% Ends the loops. Nothing is left of any of their processes once all are counted down.
stop_loops(Loops) ->
    [Loop ! {stop, self()} || Loop <- Loops],
    Pids = lists:append([element(3, answer_of(Loop, gone)) || Loop <- Loops]),
    eventually(fun() -> lists:all(fun(Pid) -> names(Pid) =:= [] end, Pids) end).

answer_of(Loop, Tag) ->
    receive
        Message when element(1, Message) =:= Tag, element(2, Message) =:= Loop -> Message;
        {'EXIT', Loop, Reason} -> error(Reason)
    end.

%% The process tracks itself, and ends. A process that is killed in the backend may have been
%% counted or not, so none is killed there.
come_and_go(1) ->
    {Pid, Monitor} = spawn_monitor(fun() -> [ok = track(Name) || Name <- [a, b, self()]] end),
    ended(Pid, Monitor, normal);
%% The process tracks itself, and is killed some time after that.
come_and_go(2) ->
    Pid = tracked([a, b, self()]),
    Monitor = monitor(process, Pid),
    pass(rand:uniform(20)),
    exit(Pid, kill),
    ended(Pid, Monitor, killed);
%% Two callers track the process, which is killed before, during or after that.
come_and_go(3) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        receive
            stop -> ok
        end
    end),
    Passes = rand:uniform(20),
    spawn_link(fun() ->
        pass(Passes),
        exit(Pid, kill)
    end),
    Helper = callers:ask(fun() -> [ok = track(Name, Pid) || Name <- [b, a]] end),
    [ok = track(Name, Pid) || Name <- [a, b, Pid]],
    {answer, [ok, ok]} = callers:answer(Helper),
    ended(Pid, Monitor, killed);
%% The process is dead before it is tracked.
come_and_go(4) ->
    {Pid, Monitor} = spawn_monitor(fun() -> ok end),
    ended(Pid, Monitor, normal),
    [ok = track(Name, Pid) || Name <- [a, b, Pid]],
    Pid.

ended(Pid, Monitor, Expected) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            ?assertEqual(Expected, Reason),
            Pid
    end.

%% Yields so many times.
pass(0) ->
    ok;
pass(Times) ->
    erlang:yield(),
    pass(Times - 1).
