%% Promise: `proctab:load/0` loses and repeats no count when, during a takeover, the original is
%% killed or stopped, a second process calls it, its caller is killed, or callers stay in the
%% original's code. When it fails, it returns an error, and callers can go on tracking.
%%
%% Each case runs in a node of its own, see `originals`.
-module(takeover_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(counter_backend, [value/1]).
-import(originals, [on_node/2, start_metrics/0, start_stats_hero/0, assert_ours/1]).
-import(originals, [findings/0, workers/1]).
-import(monitored_worker, [worker/0]).
-import(tracked_process, [tracked/1, kill/1, settled/1, eventually/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        running_servers_of_the_library_go_on_with_its_code_in_another_folder,
        two_concurrent_loads_take_over_once,
        the_wait_for_callers_in_the_originals_code_is_limited_by_time_not_by_polls,
        no_count_is_lost_when_the_original_is_killed_before_the_library_is_loaded,
        no_count_is_lost_when_the_original_is_killed_after_the_library_is_loaded,
        an_original_that_is_stopped_during_the_takeover_starts_as_the_librarys,
        an_original_whose_starter_is_dead_is_an_error,
        the_library_is_loaded_although_the_caller_of_load_is_killed,
        a_caller_that_waits_for_a_failing_takeover_goes_on_with_the_original,
        an_original_that_cannot_be_restored_is_reported_and_tracking_goes_on,
        an_original_whose_file_is_missing_cannot_be_restored
    ].

init_per_suite(Config) ->
    originals:compile(Config).

end_per_suite(_Config) ->
    ok.

%% As with the next release of this library.
running_servers_of_the_library_go_on_with_its_code_in_another_folder(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        start_stats_hero(),
        ok = proctab:load(),
        Servers = [whereis(Server) || Server <- [metrics_process_tracker, stats_hero_monitor]],
        Old = [tracked([a, b]) || _ <- lists:seq(1, 100)],
        Other = other_folder(Config),
        ok = proctab:load(),
        [
            ?assertEqual(Other, filename:dirname(code:which(Module)))
         || Module <- [metrics_process_tracker, stats_hero_monitor]
        ],
        ?assertEqual(Servers, [
            whereis(Server)
         || Server <- [metrics_process_tracker, stats_hero_monitor]
        ]),
        New = [tracked([a]) || _ <- lists:seq(1, 100)],
        Workers = [worker() || _ <- lists:seq(1, 100)],
        kill(New ++ Old ++ Workers),
        settled([]),
        workers(0),
        ?assertEqual({0, 0}, {value(a), value(b)}),
        ok = proctab:load(),
        ?assertEqual([], [Advice || #{advice := Advice} <- findings(), Advice =/= ""])
    end).

%% Makes a copy of this library, puts it first in the code path, and loads its modules `proctab` and
%% `proctab_swap`.
other_folder(Config) ->
    Other = filename:join([proplists:get_value(priv_dir, Config), "other", "ebin"]),
    ok = filelib:ensure_path(Other),
    Files = filelib:wildcard(filename:join(filename:dirname(code:which(proctab)), "*")),
    [{ok, _} = file:copy(File, filename:join(Other, filename:basename(File))) || File <- Files],
    true = code:add_patha(Other),
    [{module, Module} = code:load_file(Module) || Module <- [proctab, proctab_swap]],
    Other.

%% One caller is in the original's code all the time.
two_concurrent_loads_take_over_once(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Old = [tracked([a]) || _ <- lists:seq(1, 500)],
        {Slow, Caller} = slow_backend:caller(),
        Loads = [spawn_monitor(fun() -> exit(proctab:load()) end) || _ <- [1, 2]],
        ?assertEqual([ok, ok], [
            receive
                {'DOWN', Monitor, process, _, Result} -> Result
            end
         || {_, Monitor} <- Loads
        ]),
        New = [tracked([b]) || _ <- lists:seq(1, 100)],
        Caller ! go,
        Caller ! stop,
        kill(Old ++ New),
        settled([]),
        ?assertEqual([0, 0, 0], [value(Name) || Name <- [a, b, Slow]])
    end).

%% Each poll polls at all processes. With many processes, a thousand polls a millisecond apart would
%% take many times as long as planned.
the_wait_for_callers_in_the_originals_code_is_limited_by_time_not_by_polls(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        {Slow, Caller} = slow_backend:caller(),
        Test = self(),
        Counter = spawn_link(fun() -> count_polls(Test, 0) end),
        1 = erlang:trace_pattern({code, soft_purge, 1}, true, []),
        1 = erlang:trace(whereis(metrics_process_tracker), true, [call, {tracer, Counter}]),
        ok = proctab:load(),
        Delivered = erlang:trace_delivered(all),
        receive
            {trace_delivered, all, Delivered} -> Counter ! stop
        end,
        Polls =
            receive
                {polls, Number} -> Number
            end,
        ?assert(Polls >= 3 andalso Polls < 1000),
        ?assertEqual([{Slow, 1}], metrics_process_tracker:counts()),
        Caller ! go,
        Caller ! stop,
        settled([])
    end).

count_polls(Test, Polls) ->
    receive
        {trace, _, call, _} -> count_polls(Test, Polls + 1);
        stop -> Test ! {polls, Polls}
    end.

no_count_is_lost_when_the_original_is_killed_before_the_library_is_loaded(Config) ->
    %% The original is asked for its state; it is suspended; the library's table is open.
    Asked = fun(Tracker) -> {messages, [_ | _]} = process_info(Tracker, messages) end,
    Suspended = fun(Tracker) ->
        {current_function, {erlang, hibernate, 3}} = process_info(Tracker, current_function)
    end,
    Opened = fun(_Tracker) -> proctab_nif:processes_page(metrics_process_tracker, 0) end,
    [killed_at(Config, Moment) || Moment <- [Asked, Suspended, Opened]].

%% A moment may be too short to be seen. Then the original is killed later.
killed_at(Config, Moment) ->
    on_node(Config, fun() ->
        start_metrics(),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 1000)],
        Tracker = whereis(metrics_process_tracker),
        {Loading, Monitor} = spawn_monitor(fun() -> exit(proctab:load()) end),
        when_it_comes(fun() -> Moment(Tracker) end, Loading),
        exit(Tracker, kill),
        receive
            {'DOWN', Monitor, process, _, Result} -> ?assertEqual(ok, Result)
        end,
        assert_taken_over(Pids)
    end).

when_it_comes(Moment, Loading) ->
    try
        Moment()
    catch
        error:_ ->
            is_process_alive(Loading) andalso begin
                erlang:yield(),
                when_it_comes(Moment, Loading)
            end
    end.

no_count_is_lost_when_the_original_is_killed_after_the_library_is_loaded(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 1000)],
        {Slow, Caller, Load} = load_that_waits(),
        %% No caller counts a pair of the original again before the next tracker has found it.
        Again = [
            spawn_monitor(fun() ->
                [ok = metrics_process_tracker:track(Name, Pid) || Pid <- Pids, Name <- [a, b]]
            end)
         || _ <- [1, 2]
        ],
        Dying = tracked_by_row([a]),
        exit(whereis(metrics_process_tracker), kill),
        kill([Dying]),
        receive
            {'DOWN', Load, process, _, Result} -> ?assertEqual(ok, Result)
        end,
        ?assertEqual([normal, normal], [
            receive
                {'DOWN', Monitor, process, _, Reason} -> Reason
            end
         || {_, Monitor} <- Again
        ]),
        Caller ! go,
        Caller ! stop,
        eventually(fun() -> metrics_process_tracker:count(Slow) =:= 0 end),
        ?assertEqual(0, value(Slow)),
        assert_taken_over(Pids)
    end).

%% Asserts that the library's tracker runs, and has all that the original had.
assert_taken_over(Pids) ->
    assert_ours(metrics_process_tracker),
    Count = length(Pids),
    settled([{a, Count}, {b, Count}]),
    ?assertEqual({Count, Count}, {value(a), value(b)}),
    ok = metrics_process_tracker:track(c, hd(Pids)),
    kill(Pids),
    settled([]),
    ?assertEqual({0, 0}, {value(a), value(b)}),
    ?assertEqual(ok, proctab:load()).

an_original_that_is_stopped_during_the_takeover_starts_as_the_librarys(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        {_Slow, Caller, Load} = load_that_waits(),
        ok = application:stop(metrics),
        receive
            {'DOWN', Load, process, _, Result} -> ?assertEqual(ok, Result)
        end,
        exit(Caller, kill),
        ok = application:start(metrics),
        assert_ours(metrics_process_tracker),
        kill([tracked([d])]),
        settled([])
    end).

%% There is no process that could own the table.
an_original_whose_starter_is_dead_is_an_error(Config) ->
    on_node(Config, fun() ->
        Test = self(),
        {_, Monitor} = spawn_monitor(fun() ->
            {ok, Tracker} = stats_hero_monitor:start_link(),
            unlink(Tracker),
            Test ! {started, Tracker}
        end),
        Tracker =
            receive
                {started, Pid} -> Pid
            end,
        receive
            {'DOWN', Monitor, process, _, normal} -> ok
        end,
        ?assertMatch({error, [{stats_hero_monitor, _}]}, proctab:load()),
        ?assertEqual(0, stats_hero_monitor:registered_count()),
        ?assertEqual(Tracker, whereis(stats_hero_monitor))
    end).

the_library_is_loaded_although_the_caller_of_load_is_killed(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Pid = tracked([a]),
        {_Slow, Caller} = slow_backend:caller(),
        {Loading, _} = spawn_monitor(fun() -> proctab:load() end),
        eventually(fun is_ours_loaded/0),
        kill([Loading]),
        Caller ! go,
        Caller ! stop,
        eventually(fun() ->
            [true, true, true] =:= [
                Ours andalso Advice =:= ""
             || #{ours := Ours, advice := Advice} <- findings()
            ]
        end),
        kill([Pid]),
        settled([]),
        ?assertEqual(0, value(a))
    end).

%% Takeovers that fail

%% The waiting caller is suspended until the original has its table again.
a_caller_that_waits_for_a_failing_takeover_goes_on_with_the_original(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Original = code:which(metrics_process_tracker),
        {_Slow, Caller, Load} = load_that_waits(),
        {Waiting, Monitor} = spawn_monitor(fun() -> exit(metrics_process_tracker:track(a)) end),
        eventually(fun() -> {monitors, []} =/= process_info(Waiting, monitors) end),
        true = erlang:suspend_process(Waiting),
        true = ets:delete(metrics),
        exit(Caller, kill),
        receive
            {'DOWN', Load, process, _, Result} ->
                ?assertMatch({error, [{metrics_process_tracker, _}]}, Result)
        end,
        ?assertEqual({file, Original}, code:is_loaded(metrics_process_tracker)),
        original_table(),
        true = erlang:resume_process(Waiting),
        receive
            {'DOWN', Monitor, process, Waiting, Answer} -> ?assertEqual(ok, Answer)
        end,
        eventually(fun() -> value(a) =:= 0 end)
    end).

%% A second load of the original would kill the caller.
an_original_that_cannot_be_restored_is_reported_and_tracking_goes_on(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        {_Slow, Caller} = slow_backend:caller(),
        true = ets:delete(metrics),
        ?assertMatch(
            {error, [{metrics_process_tracker, {_, {original_not_put_back, old_code_in_use}}}]},
            proctab:load()
        ),
        ?assert(is_process_alive(Caller)),
        assert_tracking_goes_on()
    end).

an_original_whose_file_is_missing_cannot_be_restored(Config) ->
    on_node(Config, fun() ->
        Dir = filename:join(proplists:get_value(priv_dir, Config), "gone"),
        ok = filelib:ensure_path(Dir),
        File = filename:join(Dir, "metrics_process_tracker.beam"),
        {ok, _} = file:copy(code:which(metrics_process_tracker), File),
        {module, _} = code:load_abs(filename:rootname(File)),
        start_metrics(),
        ok = file:delete(File),
        true = ets:delete(metrics),
        ?assertMatch(
            {error, [{metrics_process_tracker, {_, {original_not_put_back, no_file}}}]},
            proctab:load()
        ),
        assert_tracking_goes_on()
    end).

%% Asserts that the library's module is loaded, and counts: the original's server is ended, and the
%% next server, which is the library's, counts down.
assert_tracking_goes_on() ->
    assert_ours(metrics_process_tracker),
    Pid = tracked([a]),
    ?assertEqual({1, 1}, {value(a), metrics_process_tracker:count(a)}),
    kill([Pid]),
    settled([]),
    ?assertEqual(0, value(a)),
    ?assertEqual(ok, proctab:load()).

original_table() ->
    metrics = ets:new(metrics, [named_table, ordered_set, public]).

%% Like `slow_backend:caller/0`. Returns also the monitor of a process that calls `load/0` and exits
%% with its result. The takeover waits for the caller.
load_that_waits() ->
    {Slow, Caller} = slow_backend:caller(),
    {_, Load} = spawn_monitor(fun() -> exit(proctab:load()) end),
    eventually(fun is_ours_loaded/0),
    {Slow, Caller, Load}.

is_ours_loaded() ->
    filename:dirname(code:which(metrics_process_tracker)) =:= filename:dirname(code:which(proctab)).

%% Starts a process, and tracks it as a caller in the original's code would: by a row of the
%% original's table.
tracked_by_row(Names) ->
    Pid = spawn(fun() ->
        receive
            stop -> ok
        end
    end),
    [
        begin
            true = ets:insert(metrics, {{Pid, Name}, Name}),
            ok = metrics:update(Name)
        end
     || Name <- Names
    ],
    Pid.
