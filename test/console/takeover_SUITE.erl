%% Promise: `proctab:load/0' loses and repeats no count, whatever happens while it takes over a
%% running original: the original is killed or stopped, somebody else calls it, too, its caller is
%% killed, callers stay in the original's code. Where it fails it says so, and who tracks can go
%% on.
%%
%% Each case runs in a node of its own, as in swapping_SUITE, which shows that load/0 works.
-module(takeover_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(swapping_SUITE, [on_node/2, start_metrics/0, start_stats_hero/0, assert_ours/1, folsom/1]).
-import(swapping_SUITE, [settled/1, workers/1, eventually/1]).
-import(swapping_SUITE, [tracked/1, worker/0, kill/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        our_own_servers_go_on_with_the_code_of_another_folder,
        two_loads_at_once_take_over_once,
        a_caller_that_stays_in_the_originals_code_is_not_waited_for_by_the_number_of_looks,
        an_original_that_is_killed_before_our_code_is_loaded_loses_nothing,
        an_original_that_is_killed_when_our_code_is_loaded_loses_nothing,
        an_original_that_is_stopped_meanwhile_starts_as_ours,
        an_original_without_its_starter_is_an_error,
        when_the_caller_of_load_is_killed_ours_is_loaded_all_the_same,
        who_waits_for_a_takeover_that_fails_goes_on_with_the_original,
        an_original_that_cannot_be_put_back_is_named_and_tracking_goes_on,
        an_original_whose_file_is_gone_cannot_be_put_back
    ].

init_per_suite(Config) ->
    swapping_SUITE:init_per_suite(Config).

end_per_suite(Config) ->
    swapping_SUITE:end_per_suite(Config).

%% The next release of this library, say.
our_own_servers_go_on_with_the_code_of_another_folder(Config) ->
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
        ?assertEqual({0, 0}, {folsom(a), folsom(b)}),
        ok = proctab:load(),
        ?assertEqual([], [Advice || #{advice := Advice} <- proctab:check(), Advice =/= ""])
    end).

%% A copy of this library that comes first in the code path, and is asked to load its modules.
other_folder(Config) ->
    Other = filename:join([proplists:get_value(priv_dir, Config), "other", "ebin"]),
    ok = filelib:ensure_path(Other),
    Files = filelib:wildcard(filename:join(filename:dirname(code:which(proctab)), "*")),
    [{ok, _} = file:copy(File, filename:join(Other, filename:basename(File))) || File <- Files],
    true = code:add_patha(Other),
    [{module, Module} = code:load_file(Module) || Module <- [proctab, proctab_swap]],
    Other.

%% One of the callers is in the original's code all the time.
two_loads_at_once_take_over_once(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Old = [tracked([a]) || _ <- lists:seq(1, 500)],
        {Slow, Caller} = caller_in_original(),
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
        ?assertEqual([0, 0, 0], [folsom(Name) || Name <- [a, b, Slow]])
    end).

%% Each look is at all processes; with many of them a thousand looks, a millisecond apart, have
%% taken twenty times as long as they should.
a_caller_that_stays_in_the_originals_code_is_not_waited_for_by_the_number_of_looks(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        {Slow, Caller} = caller_in_original(),
        Test = self(),
        Counter = spawn_link(fun() -> count_looks(Test, 0) end),
        1 = erlang:trace_pattern({code, soft_purge, 1}, true, []),
        1 = erlang:trace(whereis(metrics_process_tracker), true, [call, {tracer, Counter}]),
        ok = proctab:load(),
        Delivered = erlang:trace_delivered(all),
        receive
            {trace_delivered, all, Delivered} -> Counter ! stop
        end,
        Looks =
            receive
                {looks, Number} -> Number
            end,
        ?assert(Looks >= 3 andalso Looks < 1000),
        ?assertEqual([{Slow, 1}], metrics_process_tracker:counts()),
        Caller ! go,
        Caller ! stop,
        settled([])
    end).

count_looks(Test, Looks) ->
    receive
        {trace, _, call, _} -> count_looks(Test, Looks + 1);
        stop -> Test ! {looks, Looks}
    end.

an_original_that_is_killed_before_our_code_is_loaded_loses_nothing(Config) ->
    %% It is asked for its state; it is suspended; our table is there.
    Asked = fun(Tracker) -> {messages, [_ | _]} = process_info(Tracker, messages) end,
    Suspended = fun(Tracker) ->
        {current_function, {erlang, hibernate, 3}} = process_info(Tracker, current_function)
    end,
    Opened = fun(_Tracker) -> proctab_nif:processes_page(metrics_process_tracker, 0) end,
    [is_killed(Config, Moment) || Moment <- [Asked, Suspended, Opened]].

%% A moment may be too short to be seen; then the next one is taken.
is_killed(Config, Moment) ->
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

an_original_that_is_killed_when_our_code_is_loaded_loses_nothing(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 1000)],
        {Slow, Caller, Load} = load_that_waits(),
        %% Nobody counts a pair of the original once more as long as the next tracker has not
        %% found it.
        Again = [
            spawn_link(fun() ->
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
        [
            receive
                {'DOWN', Monitor, process, _, normal} -> ok
            end
         || Monitor <- [monitor(process, Pid) || Pid <- Again, is_process_alive(Pid)]
        ],
        Caller ! go,
        Caller ! stop,
        eventually(fun() -> metrics_process_tracker:count(Slow) =:= 0 end),
        ?assertEqual(0, folsom(Slow)),
        assert_taken_over(Pids)
    end).

%% Ours runs and has all of it.
assert_taken_over(Pids) ->
    assert_ours(metrics_process_tracker),
    Count = length(Pids),
    settled([{a, Count}, {b, Count}]),
    ?assertEqual({Count, Count}, {folsom(a), folsom(b)}),
    ok = metrics_process_tracker:track(c, hd(Pids)),
    kill(Pids),
    settled([]),
    ?assertEqual({0, 0}, {folsom(a), folsom(b)}),
    ?assertEqual(ok, proctab:load()).

an_original_that_is_stopped_meanwhile_starts_as_ours(Config) ->
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

%% It has nobody that its table could belong to.
an_original_without_its_starter_is_an_error(Config) ->
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

when_the_caller_of_load_is_killed_ours_is_loaded_all_the_same(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        Pid = tracked([a]),
        {_Slow, Caller} = caller_in_original(),
        {Loading, _} = spawn_monitor(fun() -> proctab:load() end),
        eventually(fun is_ours_loaded/0),
        kill([Loading]),
        Caller ! go,
        Caller ! stop,
        eventually(fun() ->
            [true, true, true] =:= [
                Ours andalso Advice =:= ""
             || #{ours := Ours, advice := Advice} <- proctab:check()
            ]
        end),
        kill([Pid]),
        settled([]),
        ?assertEqual(0, folsom(a))
    end).

%% When the takeover fails

%% The one who waits is stopped until the original has what it needs again.
who_waits_for_a_takeover_that_fails_goes_on_with_the_original(Config) ->
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
        eventually(fun() -> folsom(a) =:= 0 end)
    end).

%% The caller would be killed by it.
an_original_that_cannot_be_put_back_is_named_and_tracking_goes_on(Config) ->
    on_node(Config, fun() ->
        start_metrics(),
        {_Slow, Caller} = caller_in_original(),
        true = ets:delete(metrics),
        ?assertMatch(
            {error, [{metrics_process_tracker, {_, {original_not_put_back, old_code_in_use}}}]},
            proctab:load()
        ),
        ?assert(is_process_alive(Caller)),
        goes_on()
    end).

an_original_whose_file_is_gone_cannot_be_put_back(Config) ->
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
        goes_on()
    end).

%% Ours is loaded. Its first process crashes the original's server, and is counted down by the
%% next one, which is ours.
goes_on() ->
    assert_ours(metrics_process_tracker),
    Pid = tracked([a]),
    ?assertEqual({1, 1}, {folsom(a), metrics_process_tracker:count(a)}),
    kill([Pid]),
    settled([]),
    ?assertEqual(0, folsom(a)),
    ?assertEqual(ok, proctab:load()).

original_table() ->
    metrics = ets:new(metrics, [named_table, ordered_set, public]).

%% A caller that waits in its backend, behind it the original's code, and the name that it tracks
%% itself under.
caller_in_original() ->
    ok = metrics:backend(swapping_SUITE),
    Slow = {slow, self()},
    metrics:new(counter, Slow),
    Caller = spawn(fun() ->
        ok = metrics_process_tracker:track(Slow),
        receive
            stop -> ok
        end
    end),
    receive
        {updating, Caller} -> {Slow, Caller}
    end.

%% The same, and the monitor of a process that has called load/0 and exits with the answer. The
%% original's server waits for the caller.
load_that_waits() ->
    {Slow, Caller} = caller_in_original(),
    {_, Load} = spawn_monitor(fun() -> exit(proctab:load()) end),
    eventually(fun is_ours_loaded/0),
    {Slow, Caller, Load}.

is_ours_loaded() ->
    filename:dirname(code:which(metrics_process_tracker)) =:= filename:dirname(code:which(proctab)).

%% A process that a caller in the original's code has tracked, as its table shows.
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
