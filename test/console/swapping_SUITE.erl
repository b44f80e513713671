%% Promise: `proctab:check/0` says which modules run, and `proctab:load/0` loads those of this
%% library into a running node. A running metrics_process_tracker or stats_hero_monitor of the
%% original goes on with them: no counter jumps, and no death is missed. A running zone of the
%% original gen_tracker is left alone. Failures during a takeover are in takeover_SUITE.
%%
%% Each case runs in a node of its own, in which the originals come first in the code path, see
%% `originals`.
-module(swapping_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(counter_backend, [value/1]).
-import(originals, [on_node/2, start_metrics/0, start_stats_hero/0, assert_ours/1]).
-import(originals, [findings/0, workers/1, workers/2]).
-import(monitored_worker, [worker/0]).
-import(tracked_process, [tracked/1, kill/1, settled/1, eventually/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        check_returns_what_is_loaded_and_what_to_do,
        check_prints_a_line_for_each_module_and_the_library,
        the_start_of_the_application_warns_of_originals,
        load_loads_the_library_where_nothing_runs,
        a_running_tracker_goes_on_with_the_library,
        deaths_that_the_tracker_has_not_handled_are_counted_down,
        no_count_is_lost_while_processes_come_and_go,
        a_caller_in_the_code_of_the_original_is_counted_once,
        a_pair_of_the_original_is_not_counted_again,
        a_takeover_that_fails_leaves_the_original_running,
        a_running_monitor_goes_on_with_the_library,
        deaths_that_the_monitor_has_not_handled_are_cleaned_up,
        a_worker_that_registers_during_the_takeover_is_monitored,
        a_running_zone_of_the_original_is_left_alone,
        a_second_load_changes_nothing
    ].

init_per_suite(Config) ->
    originals:compile(Config).

end_per_suite(_Config) ->
    ok.

%% `proctab:check/0`

check_returns_what_is_loaded_and_what_to_do(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        %% A module that is not loaded yet is judged by the file that would be loaded.
        [
            #{
                module := gen_tracker,
                loaded := not_loaded,
                found := Zone,
                ours := false,
                advice := Advice1
            },
            #{
                module := metrics_process_tracker,
                loaded := Tracker,
                ours := false,
                advice := Advice2
            },
            #{
                module := stats_hero_monitor,
                loaded := not_loaded,
                ours := false,
                advice := Advice3
            }
        ] = findings(),
        ?assertEqual(
            filename:join(proplists:get_value(originals, Config), "gen_tracker.beam"), Zone
        ),
        ?assertEqual(code:which(metrics_process_tracker), Tracker),
        [
            ?assertMatch({match, _}, re:run(Advice, "proctab:load\\(\\)"))
         || Advice <- [Advice1, Advice2, Advice3]
        ],
        ok = proctab:load(),
        Library = filename:dirname(code:which(proctab)),
        [
            begin
                ?assertEqual(Library, filename:dirname(Loaded)),
                ?assertEqual({Module, true, ""}, {Module, Ours, Advice})
            end
         || #{module := Module, loaded := Loaded, ours := Ours, advice := Advice} <- findings()
        ],
        %% The library's module is loaded, but the next start of the node would load the original.
        true = code:add_patha(proplists:get_value(originals, Config)),
        [#{module := gen_tracker, ours := true, advice := Again} | _] = findings(),
        ?assertNotEqual("", Again)
    end).

check_prints_a_line_for_each_module_and_the_library(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        [Zone, Advice, "metrics_process_tracker: NOT of proctab, /" ++ _, _, _, _, Native] =
            lines(),
        assert_matches(Zone, "\\Agen_tracker: NOT of proctab, not loaded yet, /.*\\.beam\\z"),
        assert_matches(Advice, "\\A    proctab:load\\(\\) loads"),
        assert_matches(Native, "\\Aproctab: version [0-9.]+, native library /.*_nif\\.so\\z"),
        ok = proctab:load(),
        [Loaded, "metrics_process_tracker: of proctab, " ++ _, _, Native] = lines(),
        assert_matches(Loaded, "\\Agen_tracker: of proctab, /.*/gen_tracker\\.beam\\z"),
        ?assertError(badarg, proctab:check(list)),
        #{native := File, usable := true} = proctab:check(map),
        ?assert(filelib:is_regular(File))
    end).

%% Returns the lines that `proctab:check/0` prints.
lines() ->
    {ok, Lines} = printout:printed(fun proctab:check/0),
    "" = lists:last(Lines),
    lists:droplast(Lines).

assert_matches(Line, Pattern) ->
    ?assertMatch({match, _}, re:run(Line, Pattern), Line).

the_start_of_the_application_warns_of_originals(Config) ->
    on_node(Config, fun() ->
        Warnings = fun() ->
            ok = logger:add_handler(?MODULE, ?MODULE, #{test => self()}),
            {ok, [proctab]} = application:ensure_all_started(proctab),
            ok = logger:remove_handler(?MODULE),
            ok = application:stop(proctab),
            warnings()
        end,
        [Zone, Tracker, Monitor] = Warnings(),
        ?assertMatch("proctab: the module gen_tracker is not that of proctab, but /" ++ _, Zone),
        assert_matches(Tracker, "/metrics_process_tracker\\.beam; proctab:load\\(\\) loads"),
        assert_matches(Monitor, "stats_hero_monitor"),
        ok = proctab:load(),
        ?assertEqual([], Warnings())
    end).

log(#{level := warning, msg := {Format, Arguments}}, #{test := Test}) ->
    Test ! {warning, lists:flatten(io_lib:format(Format, Arguments))};
log(_Event, _Handler) ->
    ok.

warnings() ->
    receive
        {warning, Text} -> [Text | warnings()]
    after 0 -> []
    end.

load_loads_the_library_where_nothing_runs(Config) ->
    on_node(Config, fun() ->
        {module, gen_tracker} = code:ensure_loaded(gen_tracker),
        ok = proctab:load(),
        ok = start_metrics(),
        assert_ours(metrics_process_tracker),
        {ok, _} = gen_tracker:start_link(streams),
        ?assertEqual([], gen_tracker:list(streams)),
        ok = counter_backend:start(),
        ?assertEqual([], metrics_process_tracker:counts())
    end).

%% metrics_process_tracker

a_running_tracker_goes_on_with_the_library(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Tracker = whereis(metrics_process_tracker),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 1000)],
        Other = tracked([a, {some, "term"}]),
        ?assertEqual({1001, 1000}, {value(a), value(b)}),

        ok = proctab:load(),
        assert_ours(metrics_process_tracker),
        ?assertEqual({Tracker, {1001, 1000}}, {
            whereis(metrics_process_tracker),
            {value(a), value(b)}
        }),
        ?assertEqual(
            [{a, 1001}, {b, 1000}, {{some, "term"}, 1}],
            lists:sort(metrics_process_tracker:counts())
        ),
        ?assertEqual([a, {some, "term"}], lists:sort(metrics_process_tracker:names(Other))),
        ?assertEqual(undefined, ets:info(metrics)),
        ok = metrics_process_tracker:track(b, Other),
        ?assertEqual(1001, value(b)),

        {Half, Rest} = lists:split(500, Pids),
        kill(Half),
        settled([{a, 501}, {b, 501}, {{some, "term"}, 1}]),
        ?assertEqual({501, 501}, {value(a), value(b)}),

        %% metrics_sup restarts it with the library's code.
        Monitor = monitor(process, Tracker),
        exit(Tracker, kill),
        receive
            {'DOWN', Monitor, process, _, killed} -> ok
        end,
        kill([Other | Rest]),
        settled([]),
        ?assertEqual({0, 0}, {value(a), value(b)})
    end).

deaths_that_the_tracker_has_not_handled_are_counted_down(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 100)],
        {Before, After} = lists:split(50, Pids),
        %% The reports of these deaths are in the tracker's mailbox during the takeover.
        ok = sys:suspend(metrics_process_tracker),
        kill(Before),
        {Late, Monitor} = spawn_monitor(fun() -> ok = metrics_process_tracker:track(a) end),
        receive
            {'DOWN', Monitor, process, Late, Reason} -> ?assertEqual(normal, Reason)
        end,
        ok = proctab:load(),
        settled([{a, 50}, {b, 50}]),
        ?assertEqual({50, 50}, {value(a), value(b)}),
        kill(After),
        settled([]),
        ?assertEqual({0, 0}, {value(a), value(b)})
    end).

no_count_is_lost_while_processes_come_and_go(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Test = self(),
        Loops = [spawn_link(fun() -> come_and_go(Test, 0) end) || _ <- lists:seq(1, 10)],
        [
            receive
                {hundred, Loop} -> ok
            end
         || Loop <- Loops
        ],
        ok = proctab:load(),
        [
            receive
                {hundred, Loop} -> ok
            end
         || Loop <- Loops
        ],
        [Loop ! {stop, Test} || Loop <- Loops],
        [
            receive
                {stopped, Loop} -> ok
            end
         || Loop <- Loops
        ],
        settled([]),
        ?assertEqual({0, 0}, {value(a), value(b)})
    end).

a_caller_in_the_code_of_the_original_is_counted_once(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        {Slow, Caller} = slow_backend:caller(),
        Monitor = monitor(process, Caller),
        ok = proctab:load(),
        ?assertEqual(1, metrics_process_tracker:count(Slow)),
        ?assertEqual(0, ets:info(metrics, size)),
        Caller ! go,
        %% The call returns through the original's code, with success.
        Caller ! stop,
        receive
            {'DOWN', Monitor, process, _, Reason} -> ?assertEqual(normal, Reason)
        end,
        settled([]),
        ?assertEqual(0, value(Slow))
    end).

%% A caller that tracks a pair again during the takeover finds it tracked.
a_pair_of_the_original_is_not_counted_again(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 1000)],
        Test = self(),
        Again = spawn_link(fun() -> track_again(Pids, Test) end),
        receive
            {round, Again} -> ok
        end,
        ok = proctab:load(),
        receive
            {round, Again} -> ok
        end,
        receive
            {round, Again} -> ok
        end,
        ?assertEqual({1000, 1000}, {value(a), value(b)}),
        unlink(Again),
        kill([Again | Pids]),
        settled([]),
        ?assertEqual({0, 0}, {value(a), value(b)})
    end).

a_takeover_that_fails_leaves_the_original_running(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Original = code:which(metrics_process_tracker),
        Tracker = whereis(metrics_process_tracker),
        %% Without its table, the original cannot be taken over.
        Rows = ets:tab2list(metrics),
        true = ets:delete(metrics),
        ?assertMatch({error, [{metrics_process_tracker, _}]}, proctab:load()),
        ?assertEqual({Original, Tracker}, {
            code:which(metrics_process_tracker),
            whereis(metrics_process_tracker)
        }),
        {file, Original} = code:is_loaded(metrics_process_tracker),
        metrics = ets:new(metrics, [named_table, ordered_set, public]),
        true = ets:insert(metrics, Rows),
        Pid = tracked([a]),
        ?assertEqual(1, value(a)),
        kill([Pid]),
        eventually(fun() -> value(a) =:= 0 end)
    end).

%% stats_hero_monitor

a_running_monitor_goes_on_with_the_library(Config) ->
    on_node(Config, fun() ->
        start_stats_hero(),
        Monitor = whereis(stats_hero_monitor),
        Workers = [worker() || _ <- lists:seq(1, 1000)],
        Twice = worker(),
        ok = stats_hero_monitor:register(Twice),
        ?assertEqual(1002, stats_hero_monitor:registered_count()),

        ok = proctab:load(),
        assert_ours(stats_hero_monitor),
        ?assertEqual({Monitor, 1002}, {
            whereis(stats_hero_monitor),
            stats_hero_monitor:registered_count()
        }),
        {Half, Rest} = lists:split(500, Workers),
        kill(Half),
        workers(502, 501),
        kill([Twice]),
        workers(500),

        Down = monitor(process, Monitor),
        exit(Monitor, kill),
        receive
            {'DOWN', Down, process, _, killed} -> ok
        end,
        kill(Rest),
        eventually(fun() -> is_pid(whereis(stats_hero_monitor)) end),
        workers(0)
    end).

deaths_that_the_monitor_has_not_handled_are_cleaned_up(Config) ->
    on_node(Config, fun() ->
        start_stats_hero(),
        Workers = [worker() || _ <- lists:seq(1, 100)],
        {Before, After} = lists:split(50, Workers),
        ok = sys:suspend(stats_hero_monitor),
        kill(Before),
        ok = proctab:load(),
        workers(50),
        kill(After),
        workers(0)
    end).

a_worker_that_registers_during_the_takeover_is_monitored(Config) ->
    on_node(Config, fun() ->
        start_stats_hero(),
        ok = sys:suspend(stats_hero_monitor),
        {Pid, Monitor} = spawn_monitor(fun() ->
            ok = stats_hero_monitor:register(self()),
            exit(registered)
        end),
        %% The request is in the mailbox of the original.
        eventually(fun() ->
            {message_queue_len, 1} =:= process_info(whereis(stats_hero_monitor), message_queue_len)
        end),
        ok = proctab:load(),
        receive
            {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(registered, Reason)
        end,
        workers(0)
    end).

%% gen_tracker

a_running_zone_of_the_original_is_left_alone(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        {ok, Zone} = gen_tracker:start_link(streams),
        Original = code:which(gen_tracker),
        ?assertEqual({error, [{gen_tracker, {running_zones, [streams]}}]}, proctab:load()),
        ?assertEqual(original, gen_server:call(Zone, who)),
        ?assertEqual({file, Original}, code:is_loaded(gen_tracker)),
        %% The other modules are loaded all the same.
        assert_ours(metrics_process_tracker),
        assert_ours(stats_hero_monitor),
        ok = gen_server:stop(Zone),
        ?assertEqual(ok, proctab:load()),
        assert_ours(gen_tracker)
    end).

a_second_load_changes_nothing(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        start_stats_hero(),
        ok = proctab:load(),
        Pid = tracked([a]),
        Worker = worker(),
        {ok, _} = gen_tracker:start_link(streams),
        Before = [
            sys:get_state(Server)
         || Server <- [metrics_process_tracker, stats_hero_monitor, streams]
        ],
        ok = proctab:load(),
        ?assertEqual(Before, [
            sys:get_state(Server)
         || Server <- [metrics_process_tracker, stats_hero_monitor, streams]
        ]),
        ?assertEqual([{a, 1}], metrics_process_tracker:counts()),
        workers(1),
        kill([Pid, Worker]),
        settled([]),
        workers(0)
    end).

%% Processes

come_and_go(Test, Count) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        [ok = metrics_process_tracker:track(Name) || Name <- [a, b]]
    end),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> normal = Reason
    end,
    %% The original is slow. The call keeps this loop from running far ahead of it.
    bad_call = gen_server:call(metrics_process_tracker, here, infinity),
    Count rem 100 =:= 99 andalso (Test ! {hundred, self()}),
    receive
        {stop, Test} -> Test ! {stopped, self()}
    after 0 ->
        come_and_go(Test, Count + 1)
    end.

track_again(Pids, Test) ->
    [ok = metrics_process_tracker:track(Name, Pid) || Pid <- Pids, Name <- [a, b]],
    Test ! {round, self()},
    track_again(Pids, Test).
