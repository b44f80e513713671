%% Promise: when a process that is registered at stats_hero_monitor dies, its mapping is cleaned up,
%% once for each registration. Failures of cleanups and of the monitor, and what others see
%% meanwhile, are in monitoring_failure_SUITE.
%%
%% The application around the monitor is the stand-in of `test/stats_hero/`.
-module(monitoring_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(stats_hero_monitor, [register/1, registered_count/0]).
-import(monitored_worker, [is_monitored/1]).
-import(monitored_worker, [monitor/0, kill_monitor/0, idle/0, worker/0, settled/0]).
-import(monitored_worker, [count_calls/0, calls/1]).
-import(tracked_process, [kill/1, eventually/1]).
-import(tracked_child, [down/1]).
-import(callers, [together/1, sent_by/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, monitor}]}].

all() ->
    [
        start_link_registers_the_monitor_under_its_name,
        every_function_of_the_original_is_there,
        register_returns_once_the_pid_is_monitored,
        register_sends_no_message,
        a_suspended_monitor_delays_no_registration_and_no_cleanup,
        register_is_badarg_for_a_term_that_is_no_pid,
        every_function_exits_with_noproc_when_the_monitor_does_not_run,
        the_registrations_of_live_processes_are_counted,
        a_pid_that_registers_twice_counts_twice,
        a_worker_that_exits_is_cleaned_up,
        a_pid_that_is_already_dead_is_cleaned_up,
        a_pid_of_another_node_is_cleaned_up,
        the_pids_of_a_node_that_goes_down_are_cleaned_up,
        an_unknown_call_is_answered_unhandled,
        unknown_casts_and_messages_are_ignored,
        a_forged_message_is_not_taken_for_a_death,
        a_forged_message_to_the_reaper_is_not_taken_for_a_death
    ].

%% Starting

start_link_registers_the_monitor_under_its_name(_) ->
    {ok, Monitor} = stats_hero_monitor:start_link(),
    ?assertEqual(Monitor, whereis(stats_hero_monitor)),
    {links, Links} = process_info(self(), links),
    ?assert(lists:member(Monitor, Links)),
    ?assertEqual(0, registered_count()).

every_function_of_the_original_is_there(_) ->
    {module, _} = code:ensure_loaded(stats_hero_monitor),
    Callbacks = [
        {init, 1},
        {handle_call, 3},
        {handle_cast, 2},
        {handle_info, 2},
        {terminate, 2},
        {code_change, 3}
    ],
    Functions = [{start_link, 0}, {register, 1}, {registered_count, 0} | Callbacks],
    ?assertEqual([], Functions -- stats_hero_monitor:module_info(exports)).

%% Registering

register_returns_once_the_pid_is_monitored(_) ->
    monitor(),
    [
        begin
            Pid = idle(),
            ?assertNot(is_monitored(Pid)),
            ?assertEqual(ok, register(Pid)),
            ?assert(is_monitored(Pid))
        end
     || _ <- lists:seq(1, 100)
    ].

register_sends_no_message(_) ->
    monitor(),
    Pid = idle(),
    ?assertEqual({{answer, [ok, ok]}, []}, sent_by(fun() -> [register(Pid), register(self())] end)),
    eventually(fun() -> registered_count() =:= 1 end),
    kill([Pid]),
    settled().

%% Nor does it need the monitor: it is alive, and has no turn.
a_suspended_monitor_delays_no_registration_and_no_cleanup(_) ->
    Monitor = monitor(),
    true = erlang:suspend_process(Monitor),
    Calls = count_calls(),
    Pids = [worker() || _ <- lists:seq(1, 100)],
    kill(Pids),
    eventually(fun() -> stats_hero:mapped() =:= 0 end),
    true = erlang:resume_process(Monitor),
    settled(),
    ?assertEqual(maps:from_keys(Pids, 1), calls(Calls)).

%% The caller fails, and a wrong request does not end the monitor.
register_is_badarg_for_a_term_that_is_no_pid(_) ->
    Monitor = monitor(),
    Port = hd(erlang:ports()),
    NoPids = [
        atom,
        stats_hero_monitor,
        {stats_hero_monitor, node()},
        1,
        "pid",
        <<"pid">>,
        [self()],
        {self()},
        #{},
        make_ref(),
        Port
    ],
    [?assertError(badarg, register(NoPid)) || NoPid <- NoPids],
    [?assertEqual(unhandled, gen_server:call(Monitor, {register, NoPid})) || NoPid <- NoPids],
    ?assertEqual({0, Monitor}, {registered_count(), whereis(stats_hero_monitor)}).

every_function_exits_with_noproc_when_the_monitor_does_not_run(_) ->
    ?assertExit({noproc, {gen_server, call, _}}, register(self())),
    ?assertExit({noproc, {gen_server, call, _}}, registered_count()),
    monitor(),
    kill_monitor(),
    ?assertExit({noproc, {gen_server, call, _}}, register(self())),
    ?assertExit({noproc, {gen_server, call, _}}, registered_count()).

the_registrations_of_live_processes_are_counted(_) ->
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

%% Deaths

%% Runs the application with its own supervisors.
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
            ?assertEqual({{ok, Pid}, {ok, End}}, {
                stats_hero:find_worker(End),
                stats_hero:find_request(Pid)
            }),
            Pid
        end
     || End <- Ends
    ],
    ?assertEqual(length(Ends), registered_count()),
    lists:foreach(
        fun({End, Pid}) ->
            End(Pid),
            down(Pid)
        end,
        lists:zip(Ends, Pids)
    ),
    settled(),
    [
        ?assertEqual({undefined, undefined}, {
            stats_hero:find_worker(End),
            stats_hero:find_request(Pid)
        })
     || {End, Pid} <- lists:zip(Ends, Pids)
    ],
    ?assertEqual(maps:from_keys(Pids, 1), calls(Calls)),
    ok = application:stop(stats_hero).

a_pid_that_is_already_dead_is_cleaned_up(_) ->
    monitor(),
    Calls = count_calls(),
    Pid = idle(),
    kill([Pid]),
    [
        begin
            ok = stats_hero:map(request, Pid),
            ?assertEqual(ok, register(Pid)),
            settled(),
            ?assertEqual({undefined, undefined}, {
                stats_hero:find_worker(request),
                stats_hero:find_request(Pid)
            }),
            ?assertEqual(#{Pid => Times}, calls(Calls))
        end
     || Times <- [1, 2, 3]
    ].

%% Runs a case in a distributed node with stats_hero, and calls it with the peer and the name of
%% another node.
beside_another_node(Case) ->
    StatsHero = filename:dirname(code:which(stats_hero)),
    tracked_process:beside_another_node(fun(Peer, Node) ->
        true = code:add_patha(StatsHero),
        {module, stats_hero} = code:ensure_loaded(stats_hero),
        Case(Peer, Node)
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
        ?assertEqual({undefined, {ok, {request, Other}}}, {
            stats_hero:find_request(Pid),
            stats_hero:find_request(Other)
        }),
        ?assertEqual(#{Pid => 2}, calls(Calls)),
        kill([Other]),
        settled()
    end).

the_pids_of_a_node_that_goes_down_are_cleaned_up(_) ->
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
        %% Their node is down already.
        [?assertEqual(ok, register(Pid)) || Pid <- Late],
        eventually(fun() -> registered_count() =:= 1 end),
        ?assertEqual(1, stats_hero:mapped()),
        ?assertEqual(maps:from_keys(Pids, 1), calls(Calls)),
        kill([Here]),
        settled()
    end).

%% Unknown calls and messages

an_unknown_call_is_answered_unhandled(_) ->
    Monitor = monitor(),
    [?assertEqual(unhandled, gen_server:call(Monitor, Call)) || Call <- unknown()],
    ?assertEqual({0, Monitor}, {registered_count(), whereis(stats_hero_monitor)}).

unknown() ->
    [
        anything,
        register,
        {register},
        {register, self(), self()},
        {registered_count, 1},
        stop,
        shutdown,
        {monitor, self()},
        [],
        "",
        1,
        #{}
    ].

unknown_casts_and_messages_are_ignored(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    Worker = worker(),
    Casts = [
        {register, self()},
        registered_count,
        {dead, Worker},
        {'DOWN', make_ref(), process, Worker, killed}
        | unknown()
    ],
    [ok = gen_server:cast(Monitor, Cast) || Cast <- Casts],
    [
        Monitor ! Message
     || Message <- [timeout, {'EXIT', Worker, killed}, {make_ref(), ok}, {nodedown, node()} | Casts]
    ],
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

%% The reaper has a registered name, too.
a_forged_message_to_the_reaper_is_not_taken_for_a_death(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    Worker = worker(),
    Casts = [
        {dead, Worker},
        {dead, foo},
        {make_ref(), dead, Worker},
        {make_ref(), dead, foo},
        {count, worker, {self(), make_ref()}},
        anything
    ],
    [ok = gen_server:cast(stats_hero_monitor_reaper, Cast) || Cast <- Casts],
    [
        stats_hero_monitor_reaper ! {'DOWN', make_ref(), process, Pid, killed}
     || Pid <- [Worker, Monitor, self()]
    ],
    ?assertEqual(bad_call, gen_server:call(stats_hero_monitor_reaper, anything)),
    ?assertEqual({1, 1, Monitor}, {
        registered_count(),
        stats_hero:mapped(),
        whereis(stats_hero_monitor)
    }),
    kill([Worker]),
    settled(),
    ?assertEqual(#{Worker => 1}, calls(Calls)).
