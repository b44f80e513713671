%% Promise: the mapping of a dead process that is registered at stats_hero_monitor is cleaned up,
%% once for each registration, when other cleanups fail or hang, the monitor crashes, or its code
%% is replaced. A process that has seen the mapping removed reads the new count, and the other way
%% round.
%%
%% The application around the monitor is the stand-in of `test/stats_hero/`.
-module(monitoring_failure_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(stats_hero_monitor, [register/1, registered_count/0]).
-import(monitored_worker, [monitor/0, supervised_monitor/0, kill_monitor/0, idle/0, worker/0]).
-import(monitored_worker, [worker/1, settled/0]).
-import(monitored_worker, [count_calls/0, calls/1]).
-import(monitored_worker, [is_monitored/1]).
-import(tracked_process, [kill/1, eventually/1]).
-import(callers, [ask/1, answer/1, waiting/0]).
-import(tracked_child, [down/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, monitor}]}].

all() ->
    [
        a_cleanup_that_crashes_is_logged_and_affects_no_other,
        the_count_goes_down_without_stats_hero,
        a_slow_cleanup_delays_no_registration,
        a_cleanup_that_never_returns_is_given_up_and_the_others_are_made,
        reloads_during_a_cleanup_repeat_no_cleanup,
        registrations_survive_a_crash,
        when_the_reaper_ends_the_monitor_crashes,
        processes_that_died_while_no_monitor_ran_are_cleaned_up,
        a_cleanup_that_runs_during_a_crash_is_made_once,
        registrations_are_removed_with_the_process_that_called_start_link,
        code_change_keeps_the_registrations,
        a_process_that_has_seen_the_mapping_removed_reads_the_new_count,
        a_process_that_has_read_the_new_count_finds_the_mapping_removed,
        no_process_sees_one_change_without_the_other,
        no_process_sees_one_change_without_the_other_when_the_monitor_crashes
    ].

%% Failing cleanups

a_cleanup_that_crashes_is_logged_and_affects_no_other(_) ->
    Monitor = monitor(),
    ok = log_text:listen(),
    [
        begin
            Crash = fun(_Remove) -> erlang:raise(Class, {cannot_clean, Class}, []) end,
            [Before, Crashing, After] = [worker(), worker(Crash), worker()],
            %% One after the other, then several at once.
            kill([Before]),
            kill([Crashing]),
            log_text:logged("cannot_clean," ++ atom_to_list(Class)),
            kill([After, worker(), worker(Crash), worker()]),
            log_text:logged("cannot_clean," ++ atom_to_list(Class)),
            settled(),
            ?assertEqual([undefined, undefined], [
                stats_hero:find_request(Pid)
             || Pid <- [Before, After]
            ])
        end
     || Class <- [error, exit, throw]
    ],
    %% Only the mappings whose cleanups crashed are left.
    ?assertEqual(6, stats_hero:mapped()),
    ?assertEqual(Monitor, whereis(stats_hero_monitor)).

the_count_goes_down_without_stats_hero(Config) ->
    ok = monitored_worker:unload_stats_hero(),
    non_existing = code:which(stats_hero),
    try
        ok = log_text:listen(),
        {ok, Monitor} = stats_hero_monitor:start_link(),
        Pids = [idle() || _ <- [1, 2, 3]],
        [ok = register(Pid) || Pid <- Pids],
        kill(Pids),
        log_text:logged("undef"),
        settled(),
        ?assertEqual(Monitor, whereis(stats_hero_monitor))
    after
        monitored_worker:load_stats_hero(Config)
    end.

a_slow_cleanup_delays_no_registration(_) ->
    Monitor = monitor(),
    Slow = worker(held_before_removing()),
    kill([Slow]),
    Cleaner = held(),
    Pid = idle(),
    ?assertEqual(ok, register(Pid)),
    ?assert(is_monitored(Pid)),
    ?assertEqual(unhandled, gen_server:call(Monitor, anything)),
    {ok, _} = stats_hero:find_request(Slow),
    Cleaner ! go,
    eventually(fun() -> registered_count() =:= 1 end).

%% The cleanup is given up, even if the monitor is started again meanwhile.
a_cleanup_that_never_returns_is_given_up_and_the_others_are_made(_) ->
    supervised_monitor(),
    ok = log_text:listen(),
    kill([worker(held_before_removing())]),
    Cleaner = held(),
    kill([worker()]),
    kill_monitor(),
    down(Cleaner),
    log_text:logged("the cleanup after a dead process failed"),
    eventually(fun() -> is_pid(whereis(stats_hero_monitor)) end),
    settled(),
    ?assertEqual(1, stats_hero:mapped()).

%% Processes that still run code which is replaced twice are killed.
reloads_during_a_cleanup_repeat_no_cleanup(_) ->
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

%% Returns a cleanup that tells the test, and waits until it is sent `go`.
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
            [?assert(is_monitored(Worker)) || Worker <- Workers]
        end
     || End <- Ends
    ],
    ?assertEqual({#{}, 10}, {calls(Calls), stats_hero:mapped()}),
    kill(Workers),
    settled(),
    ?assertEqual((maps:from_keys(Workers, 1))#{Twice => 2}, calls(Calls)),
    ?assertEqual(0, stats_hero:mapped()).

%% Without the reaper, no death would be cleaned up.
when_the_reaper_ends_the_monitor_crashes(_) ->
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

processes_that_died_while_no_monitor_ran_are_cleaned_up(_) ->
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

a_cleanup_that_runs_during_a_crash_is_made_once(_) ->
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

%% However this process ends. The next process may start a monitor at once.
registrations_are_removed_with_the_process_that_called_start_link(_) ->
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
            {ok, _} = stats_hero_monitor:start_link(),
            ?assertEqual(0, registered_count()),
            eventually(fun() -> not is_monitored(Left) end),
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

%% The order of mapping and count

a_process_that_has_seen_the_mapping_removed_reads_the_new_count(_) ->
    monitor(),
    [_, Dead] = [worker(), worker(held_after_removing())],
    kill([Dead]),
    Cleaner = held(),
    undefined = stats_hero:find_request(Dead),
    Counting = ask(fun() -> registered_count() end),
    waiting_for_cleanup(),
    Cleaner ! go,
    ?assertEqual({answer, 1}, answer(Counting)).

a_process_that_has_read_the_new_count_finds_the_mapping_removed(_) ->
    monitor(),
    [_, Dead] = [worker(), worker(held_before_removing())],
    kill([Dead]),
    Cleaner = held(),
    Reading = ask(fun() ->
        Count = registered_count(),
        {Count, stats_hero:find_request(Dead)}
    end),
    waiting_for_cleanup(),
    Cleaner ! go,
    case answer(Reading) of
        {answer, {1, Found}} -> ?assertEqual(undefined, Found);
        {answer, Other} -> ?assertMatch({2, _}, Other)
    end.

%% Waits until the process made by `ask/1` has ended, or waits although the monitor has handled its
%% request.
waiting_for_cleanup() ->
    waiting(),
    unhandled = gen_server:call(stats_hero_monitor, anything),
    waiting().

no_process_sees_one_change_without_the_other(_) ->
    monitor(),
    {Singly, AtOnce} = lists:split(200, [worker(fun slowly/1) || _ <- lists:seq(1, 400)]),
    Observers = observers(),
    [kill([Worker]) || Worker <- Singly],
    kill(AtOnce),
    [?assertMatch({answer, {seen, _}}, answer(Observer)) || Observer <- Observers].

no_process_sees_one_change_without_the_other_when_the_monitor_crashes(_) ->
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

%% Gives the observers many turns while the mapping is there, and after its removal.
slowly(Remove) ->
    Yield = fun(_) -> erlang:yield() end,
    lists:foreach(Yield, lists:seq(1, 200)),
    Remove(),
    lists:foreach(Yield, lists:seq(1, 200)).

%% Two processes that read both until nothing is left, one the mappings first, the other the count.
%% No process registers meanwhile, so a later read never returns more than an earlier one.
observers() ->
    [
        ask(fun() -> observe(First, Second, 0) end)
     || {First, Second} <- [
            {fun stats_hero:mapped/0, fun count/0},
            {fun count/0, fun stats_hero:mapped/0}
        ]
    ].

observe(First, Second, Reads) ->
    Before = First(),
    After = Second(),
    if
        After > Before -> {Before, 'and then', After};
        Before =:= 0 -> {seen, Reads};
        true -> observe(First, Second, Reads + 1)
    end.

%% Between a crash and the next monitor there is no count.
count() ->
    try
        registered_count()
    catch
        exit:_ -> count()
    end.
