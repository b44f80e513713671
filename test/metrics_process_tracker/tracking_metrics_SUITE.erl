%% Promise: the application metrics runs with the metrics_process_tracker of this library as with
%% its own, and moves the counters of its backend, `counter_backend`. Each case runs in a node of
%% its own, in which this library comes before metrics in the code path.
-module(tracking_metrics_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(metrics_process_tracker, [track/1, track/2, count/1, names/1, counts/0]).
-import(tracked_process, [table_gone/0]).
-import(tracked_process, [kill_tracker/0, idle/0, tracked/1, kill/1, settled/0, settled/1]).
-import(tracked_process, [eventually/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        the_child_of_metrics_sup_is_ours,
        tracking_moves_a_counter_up_and_deaths_move_it_down,
        a_counter_that_the_backend_does_not_know_is_no_failure,
        a_backend_set_at_run_time_is_called,
        metrics_sup_restarts_a_tracker_that_was_killed,
        a_crash_of_metrics_does_not_touch_the_tracker,
        a_tracker_killed_too_often_ends_the_application_and_its_table,
        a_stopped_application_starts_again_with_nothing_tracked,
        proctab_may_start_before_metrics_and_after_it
    ].

the_child_of_metrics_sup_is_ours(_) ->
    on_node(fun() ->
        start(),
        {metrics_process_tracker, Tracker, worker, [metrics_process_tracker]} = child(),
        ?assertEqual(Tracker, whereis(metrics_process_tracker)),
        ?assertEqual(
            filename:dirname(code:which(proctab)),
            filename:dirname(code:which(metrics_process_tracker))
        ),
        %% It does not use the table of the original.
        ?assertEqual(undefined, ets:whereis(metrics)),
        [
            ?assertNotEqual(
                filename:dirname(code:which(proctab)), filename:dirname(code:which(Module))
            )
         || Module <- [metrics, metrics_sup]
        ]
    end).

tracking_moves_a_counter_up_and_deaths_move_it_down(_) ->
    on_node(fun() ->
        start(),
        %% The counters return to their value before, which is not zero.
        ok = metrics:update(b, {c, 5}),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 1000)],
        Other = idle(),
        ?assertEqual(ok, track(a, Other)),
        ?assertEqual(ok, track(a, Other)),
        ?assertEqual({1001, 1005}, values()),
        {Half, Rest} = lists:split(500, Pids),
        kill(Half),
        settled([{a, 501}, {b, 500}]),
        ?assertEqual({501, 505}, values()),
        kill([Other | Rest]),
        settled(),
        ?assertEqual({0, 5}, values()),
        ok = track(a, Other),
        settled(),
        ?assertEqual({0, 5}, values())
    end).

%% The backend returns an error for it, and does not raise.
a_counter_that_the_backend_does_not_know_is_no_failure(_) ->
    on_node(fun() ->
        start(),
        {error, unknown, nonexistent_metric} = metrics:update(unknown),
        Pid = tracked([a, unknown]),
        ?assertEqual([a, unknown], lists:sort(names(Pid))),
        kill([Pid]),
        settled(),
        ?assertEqual({0, 0}, values())
    end).

a_backend_set_at_run_time_is_called(_) ->
    on_node(fun() ->
        start(),
        [Before, After] = [tracked([a, b]) || _ <- [1, 2]],
        kill([Before]),
        settled([{a, 1}, {b, 1}]),
        ?assertEqual({1, 1}, values()),
        ok = metrics:backend(metrics_noop),
        kill([After, tracked([a])]),
        settled(),
        ?assertEqual({1, 1}, values())
    end).

%% metrics_sup allows four restarts within an hour.
metrics_sup_restarts_a_tracker_that_was_killed(_) ->
    on_node(fun() ->
        start(),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 500)],
        lists:foreach(
            fun(Round) ->
                Tracker = whereis(metrics_process_tracker),
                killed = kill_tracker(),
                kill(lists:sublist(Pids, Round * 100 - 99, 100)),
                Left = 500 - Round * 100,
                settled([{a, Left}, {b, Left}]),
                ?assertEqual({Left, Left}, values()),
                {metrics_process_tracker, Next, worker, _} = child(),
                ?assertEqual(Next, whereis(metrics_process_tracker)),
                ?assertNotEqual(Next, Tracker)
            end,
            [1, 2, 3, 4]
        ),
        kill(Pids),
        settled(),
        ?assertEqual({0, 0}, values())
    end).

a_crash_of_metrics_does_not_touch_the_tracker(_) ->
    on_node(fun() ->
        start(),
        Tracker = whereis(metrics_process_tracker),
        Pid = tracked([a, b]),
        true = exit(whereis(metrics), kill),
        ok = track(a, idle()),
        kill([Pid]),
        settled([{a, 1}]),
        ?assertEqual({1, 0}, values()),
        eventually(fun() -> is_pid(whereis(metrics)) end),
        ?assertEqual(Tracker, whereis(metrics_process_tracker))
    end).

a_tracker_killed_too_often_ends_the_application_and_its_table(_) ->
    on_node(fun() ->
        start(),
        Pid = tracked([a]),
        Supervisor = monitor(process, metrics_sup),
        lists:foreach(
            fun(_) ->
                Tracker = whereis(metrics_process_tracker),
                killed = kill_tracker(),
                eventually(fun() ->
                    not lists:member(whereis(metrics_process_tracker), [undefined, Tracker])
                end)
            end,
            [1, 2, 3, 4]
        ),
        killed = kill_tracker(),
        receive
            {'DOWN', Supervisor, process, _, Reason} -> ?assertEqual(shutdown, Reason)
        end,
        table_gone(),
        ?assertError(badarg, track(a, Pid)),
        eventually(fun() -> not lists:keymember(metrics, 1, application:which_applications()) end),
        ok = application:start(metrics),
        ?assertEqual([], counts()),
        ok = track(b, Pid),
        kill([Pid]),
        settled(),
        ?assertEqual({1, 0}, values())
    end).

a_stopped_application_starts_again_with_nothing_tracked(_) ->
    on_node(fun() ->
        start(),
        lists:foreach(
            fun(_) ->
                Pid = tracked([a, b]),
                ?assertEqual({1, 1}, values()),
                kill([Pid]),
                settled(),
                Left = tracked([b]),
                ok = application:stop(metrics),
                table_gone(),
                ?assertError(badarg, track(a)),
                ?assertEqual(undefined, whereis(metrics_process_tracker)),
                ok = application:start(metrics),
                ?assertEqual([], counts()),
                %% The process is not counted down unless it is tracked again.
                ok = track(a, Left),
                kill([Left]),
                settled(),
                ?assertEqual({0, 1}, values()),
                ok = metrics:update(b, {c, -1})
            end,
            lists:seq(1, 10)
        )
    end).

proctab_may_start_before_metrics_and_after_it(_) ->
    [
        on_node(fun() ->
            prepare(),
            lists:foreach(fun start/1, Order),
            ?assertEqual(
                filename:dirname(code:which(proctab)),
                filename:dirname(code:which(metrics_process_tracker))
            ),
            counters(),
            Pid = tracked([a, b]),
            ?assertEqual({1, 1}, values()),
            %% proctab is a library: it works without being started.
            ok = application:stop(proctab),
            kill([Pid]),
            settled(),
            ?assertEqual({0, 0}, values())
        end)
     || Order <- [[proctab, backend, metrics], [backend, metrics, proctab]]
    ].

%% The node

on_node(Case) ->
    tracked_process:on_node(#{}, Case).

start() ->
    prepare(),
    lists:foreach(fun start/1, [backend, metrics]),
    counters().

start(backend) ->
    ok = counter_backend:start();
start(Application) ->
    {ok, _} = application:ensure_all_started(Application).

prepare() ->
    ok = application:load(metrics),
    ok = application:set_env(metrics, metrics_mod, counter_backend:name()).

counters() ->
    [ok = metrics:new(counter, Name) || Name <- [a, b]],
    ok.

values() ->
    {counter_backend:value(a), counter_backend:value(b)}.

child() ->
    lists:keyfind(metrics_process_tracker, 1, supervisor:which_children(metrics_sup)).
