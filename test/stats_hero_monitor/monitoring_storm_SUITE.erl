%% Promise: stats_hero_monitor misses and repeats no cleanup when a hundred thousand workers die at
%% once, the monitor is killed again and again, or its code is replaced. It answers meanwhile.
-module(monitoring_storm_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(monitored_worker, [monitor/0, supervised_monitor/0, kill_monitor/0, idle/0, worker/0]).
-import(monitored_worker, [worker/1, settled/0]).
-import(monitored_worker, [count_calls/0, calls/1]).
-import(tracked_process, [kill/1, eventually/1]).
-import(callers, [ask/1, answer/1, waiting/0]).
-import(messages, [taken/1]).

suite() ->
    [{timetrap, {minutes, 5}}, {ct_hooks, [{counter_hook, monitor}]}].

all() ->
    [
        a_hundred_thousand_workers_that_die_at_once_are_cleaned_up,
        a_hundred_crashes_while_workers_come_and_go_lose_no_cleanup,
        reloads_while_workers_come_and_go_lose_no_cleanup
    ].

%% One of the cleanups waits for the test, and others wait for it.
a_hundred_thousand_workers_that_die_at_once_are_cleaned_up(_) ->
    Monitor = monitor(),
    Calls = count_calls(),
    Test = self(),
    Early = [worker() || _ <- lists:seq(1, 50000)],
    Held = worker(fun(Remove) ->
        Test ! {held, self()},
        receive
            go -> Remove()
        end
    end),
    Workers = Early ++ [Held | [worker() || _ <- lists:seq(1, 49999)]],
    ?assertEqual(100000, stats_hero_monitor:registered_count()),
    kill(Workers),
    Cleaner =
        receive
            {held, Pid} -> Pid
        end,
    ?assertEqual(unhandled, gen_server:call(Monitor, anything)),
    Last = idle(),
    ?assertEqual(ok, stats_hero_monitor:register(Last)),
    Counting = ask(fun stats_hero_monitor:registered_count/0),
    waiting(),
    Cleaner ! go,
    {answer, Count} = answer(Counting),
    %% The monitor answered before the others were cleaned up.
    ?assert(Count > 1),
    falls_to_one(Count),
    ?assertEqual({0, Monitor}, {stats_hero:mapped(), whereis(stats_hero_monitor)}),
    ?assertEqual(maps:from_keys(Workers, 1), calls(Calls)),
    kill([Last]),
    settled().

falls_to_one(1) ->
    ok;
falls_to_one(Count) ->
    Next = stats_hero_monitor:registered_count(),
    ?assert(Next =< Count),
    falls_to_one(Next).

a_hundred_crashes_while_workers_come_and_go_lose_no_cleanup(_) ->
    supervised_monitor(),
    Calls = count_calls(),
    {Registered, Refused} = come_and_go(100, fun() ->
        kill_monitor(),
        eventually(fun() -> is_pid(whereis(stats_hero_monitor)) end)
    end),
    assert_cleaned_up(Registered, [Pid || {Pid, _} <- Refused], calls(Calls)).

reloads_while_workers_come_and_go_lose_no_cleanup(_) ->
    Modules = [stats_hero_monitor, proctab_reaper],
    %% Compiles the modules: meanwhile too many workers would come.
    lists:foreach(fun reloading:load_softly/1, Modules),
    Monitor = supervised_monitor(),
    Calls = count_calls(),
    {Registered, Refused} = come_and_go(10, fun() ->
        lists:foreach(fun reloading:load_softly/1, Modules)
    end),
    %% Only the killed workers had no answer.
    ?assertEqual([], [Reason || {_, Reason} <- Refused, Reason =/= killed]),
    ?assertEqual(Monitor, whereis(stats_hero_monitor)),
    assert_cleaned_up(Registered, [Pid || {Pid, _} <- Refused], calls(Calls)).

%% Asserts one cleanup for each worker that was registered, and at most one for each worker that had
%% no answer.
assert_cleaned_up(Registered, Refused, Calls) ->
    ?assertEqual(0, stats_hero:mapped()),
    ?assertEqual(#{}, maps:without(Registered, maps:without(Refused, Calls))),
    ?assertEqual(maps:from_keys(Registered, 1), maps:with(Registered, Calls)),
    ?assertEqual([], [Times || Times <- maps:values(maps:with(Refused, Calls)), Times =/= 1]).

%% Ten processes start and end workers. `Times` times, after three hundred more workers, a fun is
%% called. Returns, when all workers are dead, those that were registered, and with a reason those
%% that died before they knew.
come_and_go(Times, Happen) ->
    Test = self(),
    Comings = [spawn_link(fun() -> come_and_go(Test, [], [], []) end) || _ <- lists:seq(1, 10)],
    [
        begin
            _ = taken(turn),
            [
                receive
                    {turn, _} -> ok
                end
             || _ <- lists:seq(1, 30)
            ],
            Happen()
        end
     || _ <- lists:seq(1, Times)
    ],
    [Coming ! {stop, Test} || Coming <- Comings],
    Outcomes = [
        receive
            {stopped, Coming, Registered, Refused} -> {Registered, Refused}
        end
     || Coming <- Comings
    ],
    settled(),
    {Registered, Refused} = lists:unzip(Outcomes),
    {lists:append(Registered), lists:append(Refused)}.

come_and_go(Test, Alive, Registered, Refused) when length(Alive) >= 20 ->
    {Dead, Rest} = lists:split(10, Alive),
    kill(Dead),
    Test ! {turn, self()},
    receive
        {stop, Test} ->
            kill(Rest),
            Test ! {stopped, self(), Registered, Refused}
    after 0 ->
        come_and_go(Test, Rest, Registered, Refused)
    end;
come_and_go(Test, Alive, Registered, Refused) ->
    {Pid, Monitor} = newcomer(),
    receive
        {mapped, Pid} ->
            true = demonitor(Monitor, [flush]),
            come_and_go(Test, [Pid | Alive], [Pid | Registered], Refused);
        {'DOWN', Monitor, process, Pid, Reason} ->
            come_and_go(Test, Alive, Registered, [{Pid, Reason} | Refused])
    end.

%% Some workers are killed while they start. The monitor may die before it has answered.
newcomer() ->
    Parent = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        ok = stats_hero_monitor:register(self()),
        ok = stats_hero:map(make_ref(), self()),
        Parent ! {mapped, self()},
        receive
            stop -> ok
        end
    end),
    case rand:uniform(5) of
        1 ->
            lists:foreach(fun(_) -> erlang:yield() end, lists:seq(1, rand:uniform(10))),
            exit(Pid, kill);
        _ -> ok
    end,
    {Pid, Monitor}.
