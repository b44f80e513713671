%% Promise: metrics_process_tracker and stats_hero_monitor lose nothing while the VM has reached its
%% limit of processes. They answer, and do what takes a process as soon as one is free: each death
%% is counted once, and each cleanup is made once.
%%
%% Each case runs in a node of its own with a low limit.
-module(counting_limit_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(counting, [server/1, reaper/1, start/1, supervisor/2, counted/1, add/2, count/1]).
-import(counting, [handled/1, settled/2, assert_books/3]).
-import(full_node, [fill/0, free/0, free/1, while_stopped/2]).
-import(tracked_process, [tracked/1, kill/1, eventually/1]).
-import(tracked_child, [down/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, both_on_nodes}]}].

all() ->
    [{group, Kind} || Kind <- counting:kinds()] ++ [a_takeover_without_a_reaper_loses_nothing].

groups() ->
    [{Kind, [], cases()} || Kind <- counting:kinds()].

cases() ->
    [
        cleanups_are_made_when_a_process_is_free_again,
        one_free_process_is_enough_for_all_cleanups,
        the_lack_of_processes_is_logged_once,
        a_server_that_starts_without_a_reaper_loses_nothing,
        a_server_without_a_reaper_ends_with_the_owner_of_its_table,
        a_supervisor_starts_its_server_again_when_a_process_is_free,
        a_supervisor_that_waits_for_a_process_can_be_stopped,
        the_first_start_fails_with_system_limit,
        nothing_is_lost_while_processes_are_free_from_time_to_time
    ].

init_per_suite(Config) ->
    originals:compile(Config).

end_per_suite(_Config) ->
    ok.

%% Runs a case in such a node with a supervised server and a hundred counted processes, in two
%% halves: one for the case to kill, and the others.
with_counted(Config, Restarts, Case) ->
    on_node(Config, fun(Kind) ->
        Supervisor = supervisor(Kind, Restarts),
        Pids = [counted(Kind) || _ <- lists:seq(1, 100)],
        handled(Kind),
        Case(Kind, Supervisor, lists:split(50, Pids))
    end).

on_node(Config, Case) ->
    Kind = counting:kind(Config),
    StatsHero = filename:dirname(code:which(stats_hero)),
    full_node:run(fun() ->
        ok = counting:open(Kind, StatsHero),
        loaded(),
        Case(Kind)
    end).

%% Loads the module with the native library. OTP's code server starts a process for its `on_load`
%% function, and ends the node if it cannot.
loaded() ->
    {module, proctab_nif} = code:ensure_loaded(proctab_nif),
    ok.

%% Asserts that the first half is cleaned up, and kills the other one.
all_end(Kind, {Dead, Living}) ->
    settled(Kind, length(Living)),
    assert_books(Kind, Dead, Living),
    kill(Living),
    settled(Kind, 0),
    assert_books(Kind, Dead ++ Living, []).

%% The reaper's cleaner

cleanups_are_made_when_a_process_is_free_again(Config) ->
    with_counted(Config, 0, fun(Kind, _Supervisor, {Dying, Living}) ->
        Processes = [whereis(server(Kind)), whereis(reaper(Kind))],
        fill(),
        while_stopped(whereis(reaper(Kind)), fun() -> kill(Dying) end),
        handled(Kind),
        ?assertEqual(100, count(Kind)),
        assert_books(Kind, [], Dying ++ Living),
        ok = add(Kind, self()),
        ?assertEqual(101, count(Kind)),
        free(),
        settled(Kind, 51),
        assert_books(Kind, Dying, [self() | Living]),
        kill(Living),
        settled(Kind, 1),
        assert_books(Kind, Dying ++ Living, [self()]),
        ?assertEqual(Processes, [whereis(server(Kind)), whereis(reaper(Kind))])
    end).

one_free_process_is_enough_for_all_cleanups(Config) ->
    with_counted(Config, 0, fun(Kind, _Supervisor, {Dying, Living}) ->
        fill(),
        while_stopped(whereis(reaper(Kind)), fun() -> kill(Dying) end),
        handled(Kind),
        free(1),
        settled(Kind, 50),
        assert_books(Kind, Dying, Living),
        free(),
        all_end(Kind, {Dying, Living})
    end).

%% The VM itself logs each failure to start a process.
the_lack_of_processes_is_logged_once(Config) ->
    with_counted(Config, 0, fun(Kind, _Supervisor, {Dying, Living}) ->
        ok = logger:set_primary_config(level, error),
        ok = log_text:listen(),
        fill(),
        [while_stopped(whereis(reaper(Kind)), fun() -> kill([Pid]) end) || Pid <- Dying],
        handled(Kind),
        Ours = log_text:logged(atom_to_list(server(Kind))),
        ?assertMatch({match, _}, re:run(Ours, "system_limit")),
        free(1),
        settled(Kind, 50),
        Logged = [Line || {log, Line} <- messages:taken(log)],
        ?assertEqual([], [Line || Line <- Logged, re:run(Line, atom_to_list(Kind)) =/= nomatch]),
        ok = logger:remove_handler(log_text),
        free(),
        all_end(Kind, {Dying, Living})
    end).

%% The server

%% Kills the server. When its reaper is dead, too, so many processes are free for the next ones.
killed_server(Kind, Supervisor, Free) ->
    true = erlang:suspend_process(Supervisor),
    Reaper = whereis(reaper(Kind)),
    kill([whereis(server(Kind))]),
    down(Reaper),
    fill(),
    free(Free),
    true = erlang:resume_process(Supervisor).

a_server_that_starts_without_a_reaper_loses_nothing(Config) ->
    with_counted(Config, 1, fun(Kind, Supervisor, {Dying, Living}) ->
        killed_server(Kind, Supervisor, 1),
        eventually(fun() -> is_pid(whereis(server(Kind))) end),
        Server = whereis(server(Kind)),
        ?assertEqual(100, count(Kind)),
        while_stopped(Server, fun() -> kill(Dying) end),
        ok = add(Kind, self()),
        ?assertEqual(101, count(Kind)),
        ?assertEqual(undefined, whereis(reaper(Kind))),
        %% A process for the reaper, but not for its cleaner.
        free(1),
        eventually(fun() -> is_pid(whereis(reaper(Kind))) end),
        ?assertEqual(101, count(Kind)),
        assert_books(Kind, [], [self() | Dying ++ Living]),
        free(),
        settled(Kind, 51),
        kill(Living),
        settled(Kind, 1),
        assert_books(Kind, Dying ++ Living, [self()]),
        ?assertEqual(Server, whereis(server(Kind)))
    end).

a_server_without_a_reaper_ends_with_the_owner_of_its_table(Config) ->
    on_node(Config, fun(Kind) ->
        Owner = spawn(fun() ->
            receive
                start -> {ok, _} = start(Kind)
            end,
            receive
                stop -> ok
            end
        end),
        fill(),
        free(1),
        Owner ! start,
        eventually(fun() -> is_pid(whereis(server(Kind))) end),
        handles_messages(Kind),
        ?assertEqual(undefined, whereis(reaper(Kind))),
        Server = whereis(server(Kind)),
        while_stopped(Server, fun() ->
            Owner ! stop,
            down(Owner)
        end),
        ?assertEqual(shutdown, down(Server))
    end).

%% Waits until the server handles messages.
handles_messages(Kind) ->
    gen_server:call(server(Kind), anything, infinity).

%% The supervisor would end at the second failure of a start.
a_supervisor_starts_its_server_again_when_a_process_is_free(Config) ->
    with_counted(Config, 1, fun(Kind, Supervisor, {Dying, Living}) ->
        killed_server(Kind, Supervisor, 0),
        waits_for_restart(Supervisor),
        while_stopped(Supervisor, fun() -> kill(Dying) end),
        waits_for_restart(Supervisor),
        ?assertEqual(undefined, whereis(server(Kind))),
        [ok = add(Kind, self()) || Kind =:= tracker],
        free(),
        eventually(fun() -> is_pid(whereis(server(Kind))) end),
        [ok = add(Kind, self()) || Kind =:= monitor],
        settled(Kind, 51),
        assert_books(Kind, Dying, [self() | Living]),
        ?assertMatch([{server, Pid, _, _}] when is_pid(Pid), supervisor:which_children(Supervisor))
    end).

%% Waits until the supervisor has tried to start its server.
waits_for_restart(Supervisor) ->
    eventually(fun() ->
        {status, waiting} =:= process_info(Supervisor, status) andalso
            {message_queue_len, 0} =:= process_info(Supervisor, message_queue_len)
    end),
    ?assert(is_process_alive(Supervisor)).

a_supervisor_that_waits_for_a_process_can_be_stopped(Config) ->
    with_counted(Config, 1, fun(Kind, Supervisor, _Pids) ->
        killed_server(Kind, Supervisor, 0),
        waits_for_restart(Supervisor),
        exit(Supervisor, shutdown),
        ?assertEqual(shutdown, down(Supervisor)),
        free(),
        {ok, _} = start(Kind),
        settled(Kind, 0)
    end).

%% There is nothing to lose yet.
the_first_start_fails_with_system_limit(Config) ->
    on_node(Config, fun(Kind) ->
        fill(),
        ?assertError(system_limit, start(Kind)),
        free(1),
        {ok, _} = start(Kind),
        ok = add(Kind, self()),
        ?assertEqual(1, count(Kind)),
        free(),
        Pid = counted(Kind),
        kill([Pid]),
        settled(Kind, 1),
        assert_books(Kind, [Pid], [self()])
    end).

%% Deaths and ends of the server at random moments, in a node that is full from time to time.
nothing_is_lost_while_processes_are_free_from_time_to_time(Config) ->
    with_counted(Config, 50, fun(Kind, Supervisor, {Dying, Living}) ->
        Tide = spawn_link(fun() -> tide([]) end),
        [
            begin
                kill([Pid]),
                rand:uniform(5) =:= 1 andalso end_server(Kind)
            end
         || Pid <- Dying
        ],
        unlink(Tide),
        kill([Tide]),
        eventually(fun() -> is_pid(whereis(server(Kind))) end),
        all_end(Kind, {Dying, Living}),
        ?assert(is_process_alive(Supervisor))
    end).

end_server(Kind) ->
    [kill([Server]) || Server <- [whereis(server(Kind))], is_pid(Server)].

%% Starts processes, linked to this one, until there can be no more, and kills them, again and
%% again.
tide(Pids) ->
    try spawn_link(timer, sleep, [infinity]) of
        Pid -> tide([Pid | Pids])
    catch
        error:system_limit ->
            receive
            after rand:uniform(3) -> ok
            end,
            [
                begin
                    unlink(Pid),
                    exit(Pid, kill)
                end
             || Pid <- Pids
            ],
            receive
            after rand:uniform(3) -> tide([])
            end
    end.

%% `proctab:load/0`

%% There is one free process, for the takeover.
a_takeover_without_a_reaper_loses_nothing(Config) ->
    originals:on_node(Config, full_node:options(), fun() ->
        originals:start_metrics(),
        originals:start_stats_hero(),
        Pids = [tracked([a, b]) || _ <- lists:seq(1, 50)],
        Workers = [monitored_worker:worker() || _ <- lists:seq(1, 50)],
        loaded(),
        fill(),
        ?assertError(system_limit, proctab:load()),
        free(1),
        ?assertEqual(ok, proctab:load()),
        Servers = [metrics_process_tracker, stats_hero_monitor],
        [originals:assert_ours(Server) || Server <- Servers],
        [gen_server:call(Server, anything, infinity) || Server <- Servers],
        ?assertEqual([{a, 50}, {b, 50}], lists:sort(metrics_process_tracker:counts())),
        ok = metrics_process_tracker:track(a, self()),
        free(),
        originals:workers(50),
        kill(Pids ++ Workers),
        tracked_process:settled([{a, 1}]),
        originals:workers(0),
        ?assertEqual({1, 0}, {counter_backend:value(a), counter_backend:value(b)})
    end).
