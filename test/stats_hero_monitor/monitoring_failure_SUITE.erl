%% Promise: whatever happens to the monitor and to other cleanups, the mapping of a dead worker
%% that is registered at stats_hero_monitor is cleaned up, once for each registration. Whoever has
%% seen the mapping gone reads the new count, and the other way round.
%%
%% The application around the monitor is the stand-in of `test/stats_hero/`.
-module(monitoring_failure_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(stats_hero_monitor, [register/1, registered_count/0]).
-import(monitored_worker, [monitor/0, supervised_monitor/0, kill_monitor/0, idle/0, worker/0]).
-import(monitored_worker, [worker/1, settled/0]).
-import(monitored_worker, [count_calls/0, calls/1]).
-import(monitoring_SUITE, [monitors/2]).
-import(tracked_process, [kill/1, eventually/1]).
-import(tracked_child, [ask/1, answer/1, waiting/0, down/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        a_cleanup_that_crashes_is_logged_and_costs_nobody_else_theirs,
        without_stats_hero_the_count_goes_down_all_the_same,
        a_slow_cleanup_holds_up_no_registration,
        a_cleanup_that_never_returns_costs_the_others_theirs_for_a_while_only,
        reloads_during_a_cleanup_repeat_nothing,
        registrations_survive_a_crash,
        an_end_of_the_reaper_is_a_crash_of_the_monitor,
        those_that_died_while_no_monitor_ran_are_cleaned_up,
        a_cleanup_that_is_under_way_at_a_crash_is_done_once,
        registrations_go_with_the_process_that_called_start_link,
        code_change_keeps_the_registrations,
        whoever_has_seen_the_mapping_gone_reads_the_new_count,
        whoever_has_read_the_new_count_finds_the_mapping_gone,
        nobody_ever_sees_one_without_the_other,
        nor_does_anybody_when_the_monitor_crashes
    ].

init_per_suite(Config) ->
    monitored_worker:load_stats_hero(Config).

end_per_suite(_Config) ->
    monitored_worker:unload_stats_hero().

init_per_testcase(Case, Config) ->
    monitoring_SUITE:init_per_testcase(Case, Config).

end_per_testcase(Case, Config) ->
    monitoring_SUITE:end_per_testcase(Case, Config).

%% Cleanups that go wrong

a_cleanup_that_crashes_is_logged_and_costs_nobody_else_theirs(_) ->
    Monitor = monitor(),
    ok = tracked_child:listen(),
    [
        begin
            Crash = fun(_Remove) -> erlang:raise(Class, {cannot_clean, Class}, []) end,
            [Before, Crashing, After] = [worker(), worker(Crash), worker()],
            %% Each in its turn, then all at once.
            kill([Before]),
            kill([Crashing]),
            tracked_child:logged("cannot_clean," ++ atom_to_list(Class)),
            kill([After, worker(), worker(Crash), worker()]),
            tracked_child:logged("cannot_clean," ++ atom_to_list(Class)),
            settled(),
            ?assertEqual([undefined, undefined], [
                stats_hero:find_request(Pid)
             || Pid <- [Before, After]
            ])
        end
     || Class <- [error, exit, throw]
    ],
    %% What is left are the mappings of those that crashed, no others.
    ?assertEqual(6, stats_hero:mapped()),
    ?assertEqual(Monitor, whereis(stats_hero_monitor)).

without_stats_hero_the_count_goes_down_all_the_same(Config) ->
    ok = monitored_worker:unload_stats_hero(),
    non_existing = code:which(stats_hero),
    try
        ok = tracked_child:listen(),
        {ok, Monitor} = stats_hero_monitor:start_link(),
        Pids = [idle() || _ <- [1, 2, 3]],
        [ok = register(Pid) || Pid <- Pids],
        kill(Pids),
        tracked_child:logged("undef"),
        settled(),
        ?assertEqual(Monitor, whereis(stats_hero_monitor))
    after
        monitored_worker:load_stats_hero(Config)
    end.

a_slow_cleanup_holds_up_no_registration(_) ->
    Monitor = monitor(),
    Slow = worker(held_before_removing()),
    kill([Slow]),
    Cleaner = held(),
    Pid = idle(),
    ?assertEqual(ok, register(Pid)),
    ?assert(monitors(Monitor, Pid)),
    ?assertEqual(unhandled, gen_server:call(Monitor, anything)),
    {ok, _} = stats_hero:find_request(Slow),
    Cleaner ! go,
    eventually(fun() -> registered_count() =:= 1 end).

%% Nobody is asked for it, not even when the monitor is started again meanwhile.
a_cleanup_that_never_returns_costs_the_others_theirs_for_a_while_only(_) ->
    supervised_monitor(),
    ok = tracked_child:listen(),
    kill([worker(held_before_removing())]),
    Cleaner = held(),
    kill([worker()]),
    kill_monitor(),
    down(Cleaner),
    tracked_child:logged("the cleanup after a dead process failed"),
    eventually(fun() -> is_pid(whereis(stats_hero_monitor)) end),
    settled(),
    ?assertEqual(1, stats_hero:mapped()).

%% Whatever is still in the code that is replaced for the second time is killed.
reloads_during_a_cleanup_repeat_nothing(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    Worker = worker(held_before_removing()),
    kill([Worker]),
    Cleaner = held(),
    [reloading:load(Module) || Module <- [stats_hero_monitor, proctab_reaper], _ <- [1, 2]],
    Cleaner ! go,
    settled(),
    ?assertEqual({#{Worker => 1}, 0}, {calls(Calls), stats_hero:mapped()}),
    ?assertEqual(Monitor, whereis(stats_hero_monitor)).

%% Cleanups that tell the test, and wait until they are sent `go'.
held_before_removing() ->
    Test = self(),
    fun(Remove) ->
        hold(Test),
        Remove()
    end.

held_after_removing() ->
    Test = self(),
    fun(Remove) ->
        Remove(),
        hold(Test)
    end.

hold(Test) ->
    Test ! {held, self()},
    receive
        go -> ok
    end.

held() ->
    receive
        {held, Cleaner} -> Cleaner
    end.

%% Crashes

registrations_survive_a_crash(_) ->
    supervised_monitor(),
    Calls = count_calls(),
    [Twice | _] = Workers = [worker() || _ <- lists:seq(1, 10)],
    ok = register(Twice),
    Ends = [
        fun(Monitor) -> exit(Monitor, kill) end,
        fun(Monitor) -> exit(Monitor, crash) end,
        fun(Monitor) -> ok = gen_server:stop(Monitor) end,
        fun(Monitor) ->
            ok = supervisor:terminate_child(monitored_worker, stats_hero_monitor),
            Monitor
        end
    ],
    [
        begin
            Monitor = whereis(stats_hero_monitor),
            End(Monitor),
            down(Monitor),
            _ = supervisor:restart_child(monitored_worker, stats_hero_monitor),
            Next = whereis(stats_hero_monitor),
            ?assertNotEqual(Monitor, Next),
            ?assertEqual(11, registered_count()),
            [?assert(monitors(Next, Worker)) || Worker <- Workers]
        end
     || End <- Ends
    ],
    ?assertEqual({#{}, 10}, {calls(Calls), stats_hero:mapped()}),
    kill(Workers),
    settled(),
    ?assertEqual((maps:from_keys(Workers, 1))#{Twice => 2}, calls(Calls)),
    ?assertEqual(0, stats_hero:mapped()).

%% Without it a death would be of no consequence.
an_end_of_the_reaper_is_a_crash_of_the_monitor(_) ->
    supervised_monitor(),
    Calls = count_calls(),
    Ends = [
        fun gen_server:stop/1,
        fun(Reaper) -> gen_server:stop(Reaper, shutdown, infinity) end,
        fun(Reaper) -> exit(Reaper, kill) end
    ],
    Workers = [
        begin
            Worker = worker(),
            Monitor = whereis(stats_hero_monitor),
            End(whereis(stats_hero_monitor_reaper)),
            down(Monitor),
            kill([Worker]),
            eventually(fun() -> is_pid(whereis(stats_hero_monitor)) end),
            settled(),
            Worker
        end
     || End <- Ends
    ],
    ?assertEqual(maps:from_keys(Workers, 1), calls(Calls)).

those_that_died_while_no_monitor_ran_are_cleaned_up(_) ->
    monitor(),
    Calls = count_calls(),
    [Twice | _] = Workers = [worker() || _ <- lists:seq(1, 1000)],
    ok = register(Twice),
    {Dead, Alive} = lists:split(500, Workers),
    kill_monitor(),
    kill(Dead),
    {ok, _} = stats_hero_monitor:start_link(),
    eventually(fun() -> registered_count() =:= 500 end),
    ?assertEqual((maps:from_keys(Dead, 1))#{Twice => 2}, calls(Calls)),
    ?assertEqual(500, stats_hero:mapped()),
    kill(Alive),
    settled(),
    ?assertEqual((maps:from_keys(Workers, 1))#{Twice => 2}, calls(Calls)),
    ?assertEqual(0, stats_hero:mapped()).

a_cleanup_that_is_under_way_at_a_crash_is_done_once(_) ->
    monitor(),
    Calls = count_calls(),
    [
        begin
            [Slow, Other] = [worker(Cleaning), worker()],
            kill([Slow]),
            Cleaner = held(),
            kill_monitor(),
            kill([Other]),
            {ok, _} = stats_hero_monitor:start_link(),
            Counting = ask(fun() -> registered_count() end),
            waiting(),
            Cleaner ! go,
            {answer, Count} = answer(Counting),
            ?assert(Count =< 2),
            settled(),
            ?assertEqual(0, stats_hero:mapped()),
            ?assertMatch(#{Slow := 1, Other := 1}, calls(Calls))
        end
     || Cleaning <- [held_before_removing(), held_after_removing()]
    ].

%% However it ends; the next process to start a monitor may do so at once.
registrations_go_with_the_process_that_called_start_link(_) ->
    ok = stats_hero:new_table(),
    Calls = count_calls(),
    [
        begin
            Test = self(),
            Owner = spawn(fun() ->
                {ok, Monitor} = stats_hero_monitor:start_link(),
                Test ! Monitor,
                receive
                    {stop, Reason} -> exit(Reason)
                end
            end),
            Monitor =
                receive
                    Pid when is_pid(Pid) -> Pid
                end,
            Left = worker(),
            ?assertEqual(1, registered_count()),
            End(Owner),
            down(Monitor),
            {ok, Next} = stats_hero_monitor:start_link(),
            ?assertEqual({0, false}, {registered_count(), monitors(Next, Left)}),
            kill([Left]),
            Own = worker(),
            ?assertEqual(1, registered_count()),
            kill([Own]),
            settled(),
            ?assertEqual({error, 1}, {maps:find(Left, calls(Calls)), maps:get(Own, calls(Calls))}),
            kill_monitor()
        end
     || End <- [
            fun(Owner) -> exit(Owner, kill) end,
            fun(Owner) -> Owner ! {stop, crash} end,
            fun(Owner) -> Owner ! {stop, normal} end
        ],
        _ <- lists:seq(1, 20)
    ].

code_change_keeps_the_registrations(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    Workers = [worker() || _ <- lists:seq(1, 10)],
    {Dead, Alive} = lists:split(5, Workers),
    ok = sys:suspend(Monitor),
    kill(Dead),
    ok = sys:change_code(Monitor, stats_hero_monitor, undefined, []),
    ok = sys:resume(Monitor),
    eventually(fun() -> registered_count() =:= 5 end),
    kill(Alive),
    settled(),
    ?assertEqual(maps:from_keys(Workers, 1), calls(Calls)).

%% Mapping and count

whoever_has_seen_the_mapping_gone_reads_the_new_count(_) ->
    monitor(),
    [_, Dead] = [worker(), worker(held_after_removing())],
    kill([Dead]),
    Cleaner = held(),
    undefined = stats_hero:find_request(Dead),
    Counting = ask(fun() -> registered_count() end),
    asked(),
    Cleaner ! go,
    ?assertEqual({answer, 1}, answer(Counting)).

whoever_has_read_the_new_count_finds_the_mapping_gone(_) ->
    monitor(),
    [_, Dead] = [worker(), worker(held_before_removing())],
    kill([Dead]),
    Cleaner = held(),
    Looking = ask(fun() ->
        Count = registered_count(),
        {Count, stats_hero:find_request(Dead)}
    end),
    asked(),
    Cleaner ! go,
    case answer(Looking) of
        {answer, {1, Found}} -> ?assertEqual(undefined, Found);
        {answer, Other} -> ?assertMatch({2, _}, Other)
    end.

%% Waits until the process made by `ask/1` is at an end or cannot go on, although the monitor has
%% handled its request.
asked() ->
    waiting(),
    unhandled = gen_server:call(stats_hero_monitor, anything),
    waiting().

nobody_ever_sees_one_without_the_other(_) ->
    monitor(),
    {Singly, AtOnce} = lists:split(200, [worker(fun slowly/1) || _ <- lists:seq(1, 400)]),
    Observers = observers(),
    [kill([Worker]) || Worker <- Singly],
    kill(AtOnce),
    [?assertMatch({answer, {seen, _}}, answer(Observer)) || Observer <- Observers].

nor_does_anybody_when_the_monitor_crashes(_) ->
    supervised_monitor(),
    Calls = count_calls(),
    Workers = [worker(fun slowly/1) || _ <- lists:seq(1, 400)],
    Observers = observers(),
    kill(Workers),
    [
        begin
            eventually(fun() -> stats_hero:mapped() =< Left end),
            kill_monitor(),
            eventually(fun() -> is_pid(whereis(stats_hero_monitor)) end)
        end
     || Left <- lists:seq(380, 0, -20)
    ],
    [?assertMatch({answer, {seen, _}}, answer(Observer)) || Observer <- Observers],
    ?assertEqual(maps:from_keys(Workers, 1), calls(Calls)).

%% Lets the observers look while the mapping is there, and while it is gone: many times, if
%% nothing made them wait.
slowly(Remove) ->
    Yield = fun(_) -> erlang:yield() end,
    lists:foreach(Yield, lists:seq(1, 200)),
    Remove(),
    lists:foreach(Yield, lists:seq(1, 200)).

%% Two processes that look at both until there is nothing left, one at the mappings first, the
%% other at the count. Nobody registers meanwhile: whatever is read later is not more than what
%% was read before it.
observers() ->
    [
        ask(fun() -> observe(First, Second, 0) end)
     || {First, Second} <- [
            {fun stats_hero:mapped/0, fun count/0},
            {fun count/0, fun stats_hero:mapped/0}
        ]
    ].

observe(First, Second, Looks) ->
    Before = First(),
    After = Second(),
    if
        After > Before -> {Before, 'and then', After};
        Before =:= 0 -> {seen, Looks};
        true -> observe(First, Second, Looks + 1)
    end.

%% Between a crash and the next monitor there is nothing to be read.
count() ->
    try
        registered_count()
    catch
        exit:_ -> count()
    end.
