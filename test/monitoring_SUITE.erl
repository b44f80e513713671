%% Promise: when a process that is registered at stats_hero_monitor dies, its mapping is cleaned up, once for each registration, whatever happens to
%% the monitor and to other cleanups. Whoever has seen the mapping gone reads the new count, and the other way round.
%%
%% The application around the monitor is the stand-in of `test/stats_hero/`.
-module(monitoring_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(stats_hero_monitor, [register/1, registered_count/0]).
-import(monitored_worker, [monitor/0, supervised_monitor/0, kill_monitor/0, idle/0, worker/0, worker/1, settled/0]).
-import(monitored_worker, [count_calls/0, calls/1]).
-import(tracked_process, [kill/1, eventually/1, on_node/2]).
-import(tracked_child, [ask/1, answer/1, waiting/0, down/1, together/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        start_link_registers_the_monitor_under_its_name,
        every_function_of_the_original_is_there,
        register_answers_once_the_pid_is_monitored,
        register_is_badarg_for_what_is_no_pid,
        everything_exits_as_usual_when_the_monitor_does_not_run,
        the_registrations_that_are_alive_are_counted,
        a_pid_that_registers_twice_counts_twice,
        a_worker_that_exits_is_cleaned_up,
        a_pid_that_is_dead_already_is_cleaned_up,
        a_pid_of_another_node_is_cleaned_up,
        a_node_that_goes_down_has_its_pids_cleaned_up,
        an_unknown_call_is_answered_unhandled,
        unknown_casts_and_messages_are_ignored,
        a_forged_message_is_not_taken_for_a_death,
        a_cleanup_that_crashes_is_logged_and_costs_nobody_else_theirs,
        without_stats_hero_the_count_goes_down_all_the_same,
        a_slow_cleanup_holds_up_no_registration,
        registrations_survive_a_crash,
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

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    Config.

end_per_testcase(_Case, _Config) ->
    _ = logger:remove_handler(tracked_child),
    monitored_worker:close().

%% Starting

start_link_registers_the_monitor_under_its_name(_) ->
    {ok, Monitor} = stats_hero_monitor:start_link(),
    ?assertEqual(Monitor, whereis(stats_hero_monitor)),
    {links, Links} = process_info(self(), links),
    ?assert(lists:member(Monitor, Links)),
    ?assertEqual(0, registered_count()).

every_function_of_the_original_is_there(_) ->
    {module, _} = code:ensure_loaded(stats_hero_monitor),
    Callbacks = [{init, 1}, {handle_call, 3}, {handle_cast, 2}, {handle_info, 2}, {terminate, 2}, {code_change, 3}],
    Functions = [{start_link, 0}, {register, 1}, {registered_count, 0} | Callbacks],
    ?assertEqual([], Functions -- stats_hero_monitor:module_info(exports)).

%% Registering

register_answers_once_the_pid_is_monitored(_) ->
    Monitor = monitor(),
    [
        begin
            Pid = idle(),
            ?assertEqual(ok, register(Pid)),
            ?assert(monitors(Monitor, Pid))
        end
     || _ <- lists:seq(1, 100)
    ].

monitors(Monitor, Pid) ->
    {monitored_by, Monitoring} = process_info(Pid, monitored_by),
    lists:member(Monitor, Monitoring).

%% In the caller: neither a wrong argument nor a wrong request reaches the monitor's life.
register_is_badarg_for_what_is_no_pid(_) ->
    Monitor = monitor(),
    Port = hd(erlang:ports()),
    NoPids = [atom, stats_hero_monitor, {stats_hero_monitor, node()}, 1, "pid", <<"pid">>, [self()], {self()}, #{}, make_ref(), Port],
    [?assertError(badarg, register(NoPid)) || NoPid <- NoPids],
    [?assertEqual(unhandled, gen_server:call(Monitor, {register, NoPid})) || NoPid <- NoPids],
    ?assertEqual({0, Monitor}, {registered_count(), whereis(stats_hero_monitor)}).

everything_exits_as_usual_when_the_monitor_does_not_run(_) ->
    ?assertExit({noproc, {gen_server, call, _}}, register(self())),
    ?assertExit({noproc, {gen_server, call, _}}, registered_count()),
    monitor(),
    kill_monitor(),
    ?assertExit({noproc, {gen_server, call, _}}, register(self())),
    ?assertExit({noproc, {gen_server, call, _}}, registered_count()).

the_registrations_that_are_alive_are_counted(_) ->
    monitor(),
    Workers = [worker() || _ <- lists:seq(1, 10)],
    ?assertEqual(10, registered_count()),
    {Dead, Alive} = lists:split(3, Workers),
    kill(Dead),
    eventually(fun() -> registered_count() =:= 7 end),
    Added = worker(),
    ?assertEqual(8, registered_count()),
    kill([Added | Alive]),
    settled().

a_pid_that_registers_twice_counts_twice(_) ->
    monitor(),
    Calls = count_calls(),
    [Twice, Once, Often] = [worker() || _ <- [1, 2, 3]],
    ?assertEqual(ok, register(Twice)),
    ?assertEqual(4, registered_count()),
    together([fun() -> ok = register(Often) end || _ <- lists:seq(1, 99)]),
    ?assertEqual(103, registered_count()),
    kill([Twice]),
    eventually(fun() -> registered_count() =:= 101 end),
    ?assertEqual(#{Twice => 2}, calls(Calls)),
    kill([Once, Often]),
    settled(),
    ?assertEqual(#{Twice => 2, Once => 1, Often => 100}, calls(Calls)).

%% Dying

%% The application as it is, with its own supervisors.
a_worker_that_exits_is_cleaned_up(_) ->
    ok = application:start(stats_hero),
    Calls = count_calls(),
    Ends = [
        fun stats_hero:stop_worker/1,
        fun(Pid) -> gen_server:cast(Pid, {crash, {shutdown, early}}) end,
        fun(Pid) -> gen_server:cast(Pid, {crash, crash}) end,
        fun(Pid) -> exit(Pid, kill) end
    ],
    Pids = [
        begin
            {ok, Pid} = stats_hero:start_worker(End),
            ?assertEqual({{ok, Pid}, {ok, End}}, {stats_hero:find_worker(End), stats_hero:find_request(Pid)}),
            Pid
        end
     || End <- Ends
    ],
    ?assertEqual(length(Ends), registered_count()),
    lists:foreach(fun({End, Pid}) -> End(Pid), down(Pid) end, lists:zip(Ends, Pids)),
    settled(),
    [?assertEqual({undefined, undefined}, {stats_hero:find_worker(End), stats_hero:find_request(Pid)}) || {End, Pid} <- lists:zip(Ends, Pids)],
    ?assertEqual(maps:from_keys(Pids, 1), calls(Calls)),
    ok = application:stop(stats_hero).

a_pid_that_is_dead_already_is_cleaned_up(_) ->
    monitor(),
    Calls = count_calls(),
    Pid = idle(),
    kill([Pid]),
    [
        begin
            ok = stats_hero:map(request, Pid),
            ?assertEqual(ok, register(Pid)),
            settled(),
            ?assertEqual({undefined, undefined}, {stats_hero:find_worker(request), stats_hero:find_request(Pid)}),
            ?assertEqual(#{Pid => Times}, calls(Calls))
        end
     || Times <- [1, 2, 3]
    ].

%% Runs a case in a node that has a name, with the name of a second one.
beside_another_node(Case) ->
    StatsHero = filename:dirname(code:which(stats_hero)),
    on_node(#{name => peer:random_name()}, fun() ->
        true = code:add_patha(StatsHero),
        {module, stats_hero} = code:ensure_loaded(stats_hero),
        {ok, Peer, Node} = peer:start(#{name => peer:random_name()}),
        %% The case may have ended it already.
        try Case(Peer, Node) after catch peer:stop(Peer) end
    end).

a_pid_of_another_node_is_cleaned_up(_) ->
    beside_another_node(fun(_Peer, Node) ->
        monitor(),
        Calls = count_calls(),
        [Pid, Other] = Pids = [erlang:spawn(Node, timer, sleep, [infinity]) || _ <- [1, 2]],
        [ok = stats_hero:map({request, Each}, Each) || Each <- Pids],
        [?assertEqual(ok, register(Each)) || Each <- [Pid, Other, Pid]],
        ?assertEqual(3, registered_count()),
        kill([Pid]),
        eventually(fun() -> registered_count() =:= 1 end),
        ?assertEqual({undefined, {ok, {request, Other}}}, {stats_hero:find_request(Pid), stats_hero:find_request(Other)}),
        ?assertEqual(#{Pid => 2}, calls(Calls)),
        kill([Other]),
        settled()
    end).

a_node_that_goes_down_has_its_pids_cleaned_up(_) ->
    beside_another_node(fun(Peer, Node) ->
        monitor(),
        Calls = count_calls(),
        Here = worker(),
        Pids = [erlang:spawn(Node, timer, sleep, [infinity]) || _ <- lists:seq(1, 100)],
        {Registered, Late} = lists:split(90, Pids),
        [ok = stats_hero:map({request, Pid}, Pid) || Pid <- Pids],
        [ok = register(Pid) || Pid <- Registered],
        peer:stop(Peer),
        eventually(fun() -> registered_count() =:= 1 end),
        ?assertEqual({ok, Here}, {element(1, stats_hero:find_request(Here)), Here}),
        %% Their node is gone already.
        [?assertEqual(ok, register(Pid)) || Pid <- Late],
        eventually(fun() -> registered_count() =:= 1 end),
        ?assertEqual(1, stats_hero:mapped()),
        ?assertEqual(maps:from_keys(Pids, 1), calls(Calls)),
        kill([Here]),
        settled()
    end).

%% What the monitor does not know

an_unknown_call_is_answered_unhandled(_) ->
    Monitor = monitor(),
    [?assertEqual(unhandled, gen_server:call(Monitor, Call)) || Call <- unknown()],
    ?assertEqual({0, Monitor}, {registered_count(), whereis(stats_hero_monitor)}).

unknown() ->
    [anything, register, {register}, {register, self(), self()}, {registered_count, 1}, stop, shutdown, {monitor, self()}, [], "", 1, #{}].

unknown_casts_and_messages_are_ignored(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    Worker = worker(),
    Casts = [{register, self()}, registered_count, {dead, Worker}, {'DOWN', make_ref(), process, Worker, killed} | unknown()],
    [ok = gen_server:cast(Monitor, Cast) || Cast <- Casts],
    [Monitor ! Message || Message <- [timeout, {'EXIT', Worker, killed}, {make_ref(), ok}, {nodedown, node()} | Casts]],
    ?assertEqual({1, Monitor}, {registered_count(), whereis(stats_hero_monitor)}),
    ?assertEqual(1, stats_hero:mapped()),
    kill([Worker]),
    settled(),
    ?assertEqual(#{Worker => 1}, calls(Calls)).

a_forged_message_is_not_taken_for_a_death(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    [Registered, Stranger] = [worker(), idle()],
    [
        Monitor ! {Tag, make_ref(), process, Object, Reason}
     || Tag <- ['DOWN', make_ref(), down],
        Object <- [Registered, Stranger, self(), {stats_hero_monitor, node()}, none],
        Reason <- [normal, killed, noproc, noconnection]
    ],
    ?assertEqual({1, Monitor}, {registered_count(), whereis(stats_hero_monitor)}),
    ?assertEqual(1, stats_hero:mapped()),
    kill([Registered, Stranger]),
    settled(),
    ?assertEqual(#{Registered => 1}, calls(Calls)).

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
            ?assertEqual([undefined, undefined], [stats_hero:find_request(Pid) || Pid <- [Before, After]])
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

%% Cleanups that tell the test, and wait until they are sent `go'.
held_before_removing() ->
    Test = self(),
    fun(Remove) -> hold(Test), Remove() end.

held_after_removing() ->
    Test = self(),
    fun(Remove) -> Remove(), hold(Test) end.

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
        fun(Monitor) -> ok = supervisor:terminate_child(monitored_worker, stats_hero_monitor), Monitor end
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
            Owner = spawn(fun() -> {ok, Monitor} = stats_hero_monitor:start_link(), Test ! Monitor, receive {stop, Reason} -> exit(Reason) end end),
            Monitor = receive Pid when is_pid(Pid) -> Pid end,
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
     || End <- [fun(Owner) -> exit(Owner, kill) end, fun(Owner) -> Owner ! {stop, crash} end, fun(Owner) -> Owner ! {stop, normal} end],
        _ <- lists:seq(1, 20)
    ].

code_change_keeps_the_registrations(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    {Dead, Alive} = lists:split(5, Workers = [worker() || _ <- lists:seq(1, 10)]),
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
    Looking = ask(fun() -> Count = registered_count(), {Count, stats_hero:find_request(Dead)} end),
    asked(),
    Cleaner ! go,
    case answer(Looking) of
        {answer, {1, Found}} -> ?assertEqual(undefined, Found);
        {answer, Other} -> ?assertMatch({2, _}, Other)
    end.

%% Waits until the process made by `ask/1` is at an end or cannot go on, although the monitor has handled its request.
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

%% Lets the observers look while the mapping is there, and while it is gone: many times, if nothing made them wait.
slowly(Remove) ->
    Yield = fun(_) -> erlang:yield() end,
    lists:foreach(Yield, lists:seq(1, 200)),
    Remove(),
    lists:foreach(Yield, lists:seq(1, 200)).

%% Two processes that look at both until there is nothing left, one at the mappings first, the other at the count. Nobody registers meanwhile: whatever
%% is read later is not more than what was read before it.
observers() ->
    [ask(fun() -> observe(First, Second, 0) end) || {First, Second} <- [{fun stats_hero:mapped/0, fun count/0}, {fun count/0, fun stats_hero:mapped/0}]].

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
