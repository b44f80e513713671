%% Promise: whatever a backend of metrics or a cleanup of stats_hero does in the process that calls
%% it, metrics_process_tracker and stats_hero_monitor count each process once, make each cleanup
%% once, and go on.
-module(counting_backend_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(counting, [kind/1]).
-import(counting, [server/1, reaper/1, supervisor/2, counted/1, cleaned_by/2, held/1, cleaner/2]).
-import(counting, [let_go/2, handled/1, settled/2, assert_books/3]).
-import(metrics_process_tracker, [track/1, track/2, count/1]).
-import(ledger_backend, [moves/1]).
-import(tracked_process, [idle/0, kill/1, eventually/1, table_gone/0]).
-import(callers, [ask/1, answer/1]).
-import(tracked_child, [down/1]).

%% Cleanups. One in some hundreds is lost if a cleaner removes a registration before it looks.
-define(MANY, 10000).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, both}]}].

all() ->
    [{group, Kind} || Kind <- counting:kinds()] ++
        [
            an_update_that_changes_its_caller_changes_no_count,
            an_update_that_ends_its_caller_does_not_count,
            an_update_that_ends_the_process_is_counted_down,
            an_update_that_ends_the_tracker_is_counted,
            an_update_that_tracks_is_counted_once,
            an_update_that_raises_after_the_table_is_removed_is_badarg
        ].

groups() ->
    [{Kind, [], cases()} || Kind <- counting:kinds()].

cases() ->
    [
        the_other_cleanups_are_made_however_a_cleanup_ends,
        a_process_linked_to_a_cleanup_ends_no_other_cleanup,
        a_process_that_ends_just_after_its_cleanup_ends_no_other_cleanup,
        no_cleanup_finds_what_another_one_left_in_its_process,
        a_cleanup_that_signals_all_its_links_ends_no_other_cleanup,
        a_cleanup_that_ignores_exit_signals_ends_with_the_table
    ].

%% Kills the processes that `Make` starts while the cleaner waits, so that it makes their cleanups
%% one after the other, in any order. Returns a fun that asserts that all were made, and that server
%% and reaper are the same.
in_a_row(Config, Make) ->
    Kind = kind(Config),
    Supervisor = supervisor(Kind, 0),
    Processes = [whereis(server(Kind)), whereis(reaper(Kind))],
    First = held(Kind),
    kill([First]),
    Cleaner = cleaner(Kind, First),
    Pids = Make(Kind),
    [kill([Pid]) || Pid <- Pids],
    handled(Kind),
    let_go(Kind, Cleaner),
    fun() ->
        settled(Kind, 0),
        assert_books(Kind, [First | Pids], []),
        ?assertEqual(Processes, [whereis(server(Kind)), whereis(reaper(Kind))]),
        {links, Links} = process_info(whereis(reaper(Kind)), links),
        ?assertEqual([whereis(server(Kind))], Links),
        ?assert(is_process_alive(Supervisor))
    end.

the_other_cleanups_are_made_however_a_cleanup_ends(Config) ->
    Ends = [
        fun() -> error(reason) end,
        fun() -> throw(reason) end,
        fun() -> exit(normal) end,
        fun() -> exit(shutdown) end,
        fun() -> exit(kill) end,
        fun() -> exit(self(), kill) end,
        fun() -> exit(self(), normal) end,
        fun() -> hold_until(spawn_link(fun() -> exit(reason) end)) end
    ],
    Settled = in_a_row(Config, fun(Kind) ->
        lists:append([[counted(Kind), cleaned_by(Kind, End), counted(Kind)] || End <- Ends])
    end),
    Settled().

a_process_linked_to_a_cleanup_ends_no_other_cleanup(Config) ->
    Test = self(),
    [
        begin
            Other = idle(),
            Settled = in_a_row(Config, fun(Kind) ->
                Linking = fun() -> is_process_alive(Other) andalso Link(Other) end,
                [cleaned_by(Kind, Do) || Do <- [Linking, fun() -> hold(Test) end, Linking]]
            end),
            Cleaner = holder(),
            Monitor = monitor(process, Cleaner),
            exit(Other, reason),
            down(Other),
            Cleaner ! go,
            receive
                {done, Cleaner} -> ok;
                {'DOWN', Monitor, process, _, Reason} -> error(Reason)
            end,
            Settled(),
            ok = counting:reopen(kind(Config))
        end
     || Link <- [
            fun link/1,
            fun(Other) ->
                link(Other),
                process_flag(trap_exit, true)
            end
        ]
    ].

%% The exit signal of the linked process ends this one first.
hold_until(Linked) ->
    receive
        Linked -> ok
    end.

hold(Test) ->
    Test ! {held, self()},
    receive
        go -> ok
    end,
    Test ! {done, self()}.

holder() ->
    receive
        {held, Cleaner} -> Cleaner
    end.

%% The linked process ends at any moment: also when the cleanup was made, and its registration is
%% just being removed.
a_process_that_ends_just_after_its_cleanup_ends_no_other_cleanup(Config) ->
    Crashes = fun() ->
        _ = spawn_link(fun() -> exit(reason) end),
        lists:foreach(fun(_) -> ok end, lists:seq(1, rand:uniform(4000)))
    end,
    kept_log:without(fun() ->
        Settled = in_a_row(Config, fun(Kind) ->
            [cleaned_by(Kind, Crashes) || _ <- lists:seq(1, ?MANY)]
        end),
        Settled()
    end).

no_cleanup_finds_what_another_one_left_in_its_process(Config) ->
    Test = self(),
    Items = [links, monitors, trap_exit, messages, priority, group_leader],
    Leaves = [
        fun() -> ok end,
        fun() -> link(Test) end,
        fun() -> monitor(process, Test) end,
        fun() -> process_flag(trap_exit, true) end,
        fun() -> process_flag(priority, low) end,
        fun() -> self() ! message end,
        fun() -> group_leader(Test, self()) end,
        fun() -> unlink(whereis(reaper(kind(Config)))) end
    ],
    Look = fun() -> Test ! {found, process_info(self(), Items)} end,
    Settled = in_a_row(Config, fun(Kind) ->
        lists:append([[cleaned_by(Kind, Leave), cleaned_by(Kind, Look)] || Leave <- Leaves])
    end),
    [Fresh | Others] = [found() || _ <- Leaves],
    ?assertEqual(lists:duplicate(length(Others), Fresh), Others),
    Settled().

found() ->
    receive
        {found, Found} -> Found
    end.

a_cleanup_that_signals_all_its_links_ends_no_other_cleanup(Config) ->
    Signal = fun() ->
        {links, Links} = process_info(self(), links),
        [exit(Pid, Reason) || Pid <- Links, Reason <- [normal, shutdown, reason]],
        [unlink(Pid) || Pid <- Links]
    end,
    Settled = in_a_row(Config, fun(Kind) ->
        lists:append([[counted(Kind), cleaned_by(Kind, Signal)] || _ <- lists:seq(1, 10)])
    end),
    Settled().

a_cleanup_that_ignores_exit_signals_ends_with_the_table(Config) ->
    Kind = kind(Config),
    Test = self(),
    [
        begin
            Supervisor = supervisor(Kind, 0),
            Pid = cleaned_by(Kind, fun() ->
                Prepare(),
                hold(Test)
            end),
            kill([Pid]),
            Cleaner = holder(),
            unlink(Supervisor),
            kill([Supervisor]),
            down(Cleaner),
            counting:await_end(Kind)
        end
     || Prepare <- [
            fun() -> process_flag(trap_exit, true) end,
            fun() -> [unlink(Linked) || Linked <- element(2, process_info(self(), links))] end
        ]
    ].

%% On the way up, in the caller of `track/2`

does(Fun) ->
    {does, 1, Fun, make_ref()}.

an_update_that_changes_its_caller_changes_no_count(Config) ->
    _ = supervisor(kind(Config), 0),
    Pid = idle(),
    Names = [
        does(Fun)
     || Fun <- [
            fun() -> process_flag(trap_exit, true) end,
            fun() -> process_flag(priority, low) end,
            fun() -> [unlink(Linked) || Linked <- element(2, process_info(self(), links))] end,
            fun() -> [demonitor(monitor(process, Pid)) || _ <- [1, 2]] end,
            fun() -> erase() end,
            fun() -> spawn_link(fun() -> ok end) end,
            fun() -> self() ! {'DOWN', make_ref(), process, Pid, killed} end
        ]
    ],
    [?assertEqual({answer, ok}, answer(ask(fun() -> track(Name, Pid) end))) || Name <- Names],
    kill([Pid]),
    settled(tracker, 0),
    [?assertEqual({1, 1}, moves(Name)) || Name <- Names].

%% The update of a caller that is killed there is taken not to have counted.
an_update_that_ends_its_caller_does_not_count(Config) ->
    _ = supervisor(kind(Config), 0),
    Pid = idle(),
    Name = does(fun() -> exit(self(), kill) end),
    ?assertEqual(killed, answer(ask(fun() -> track(Name, Pid) end))),
    ?assertEqual([], metrics_process_tracker:names(Pid)),
    %% Each call begins anew.
    [?assertEqual(killed, answer(ask(fun() -> track(Name, Pid) end))) || _ <- [1, 2]],
    ?assertEqual({error, reason}, track(does(fun() -> exit(reason) end), Pid)),
    ?assertEqual({error, {nocatch, reason}}, track(does(fun() -> throw(reason) end), Pid)),
    ?assertEqual({error, normal}, track(does(fun() -> exit(normal) end), Pid)),
    kill([Pid]),
    tracked_process:empty().

an_update_that_ends_the_process_is_counted_down(Config) ->
    _ = supervisor(kind(Config), 0),
    Pid = idle(),
    Name = does(fun() -> kill([Pid]) end),
    ok = track(before, Pid),
    ok = track(Name, Pid),
    settled(tracker, 0),
    ?assertEqual({{1, 1}, {1, 1}}, {moves(Name), moves(before)}).

an_update_that_ends_the_tracker_is_counted(Config) ->
    _ = supervisor(kind(Config), 3),
    Pid = idle(),
    Processes = [server(tracker), reaper(tracker), server(tracker)],
    Names = [does(fun() -> kill([whereis(Process)]) end) || Process <- Processes],
    [
        begin
            Before = pair(),
            ok = track(Name, Pid),
            %% One of them takes the other along.
            eventually(fun() -> [] =:= [One || One <- pair(), is_old(One, Before)] end)
        end
     || Name <- Names
    ],
    ?assertEqual([1, 1, 1], [count(Name) || Name <- Names]),
    kill([Pid]),
    settled(tracker, 0),
    [?assertEqual({1, 1}, moves(Name)) || Name <- Names].

pair() ->
    [whereis(Process) || Process <- [server(tracker), reaper(tracker)]].

is_old(Process, Before) ->
    Process =:= undefined orelse lists:member(Process, Before).

%% The backend tracks the same pair, and another name.
an_update_that_tracks_is_counted_once(Config) ->
    _ = supervisor(kind(Config), 0),
    Test = self(),
    Pid = idle(),
    Again = fun() ->
        Same = get(name),
        Test ! {again, track(Same, Pid), track(other, Pid)}
    end,
    Name = does(Again),
    put(name, Name),
    ?assertEqual(ok, track(Name, Pid)),
    receive
        {again, Same, Other} -> ?assertEqual({ok, ok}, {Same, Other})
    end,
    ?assertEqual({1, 0}, moves(Name)),
    kill([Pid]),
    settled(tracker, 0),
    ?assertEqual([{1, 1}, {1, 1}], [moves(Which) || Which <- [Name, other]]).

an_update_that_raises_after_the_table_is_removed_is_badarg(Config) ->
    Supervisor = supervisor(kind(Config), 0),
    unlink(Supervisor),
    Name = does(fun() ->
        kill([Supervisor]),
        table_gone(),
        error(reason)
    end),
    %% Like every other `badarg`, it says what was bad.
    Info =
        try track(Name) of
            Answer -> Answer
        catch
            error:badarg:Stacktrace -> element(4, hd(Stacktrace))
        end,
    ?assertMatch({error_info, _}, lists:keyfind(error_info, 1, Info)).
