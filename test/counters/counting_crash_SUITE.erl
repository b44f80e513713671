%% Promise: deaths that wait for their cleanup are kept when reaper or server are killed, and the
%% next ones make each cleanup once, in metrics_process_tracker and in stats_hero_monitor.
-module(counting_crash_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(counting, [kind/1, server/1, reaper/1, supervisor/2, counted/1, held/1, cleaner/2]).
-import(counting, [let_go/2, settled/2, assert_books/3]).
-import(tracked_process, [kill/1, eventually/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, both}]}].

all() ->
    [{group, Kind} || Kind <- counting:kinds()].

groups() ->
    [{Kind, [], cases()} || Kind <- counting:kinds()].

cases() ->
    [
        the_deaths_of_a_killed_reaper_are_cleaned_up_by_the_next,
        the_deaths_of_a_killed_server_are_cleaned_up_by_the_next,
        deaths_while_nothing_runs_are_cleaned_up_by_the_next,
        deaths_are_cleaned_up_once_however_often_the_reaper_is_killed,
        twenty_thousand_deaths_at_once_are_cleaned_up
    ].

init_per_group(Kind, Config) ->
    counting:of_kind(Kind, Config).

end_per_group(_, _) ->
    ok.

%% A suspended reaper takes nothing from the table.
the_deaths_of_a_killed_reaper_are_cleaned_up_by_the_next(Config) ->
    Kind = kind(Config),
    with_queued(Kind, fun() -> kill([whereis(reaper(Kind))]) end).

%% Its reaper ends first.
the_deaths_of_a_killed_server_are_cleaned_up_by_the_next(Config) ->
    Kind = kind(Config),
    with_queued(Kind, fun() ->
        Reaper = whereis(reaper(Kind)),
        kill([whereis(server(Kind))]),
        true = erlang:resume_process(Reaper)
    end).

with_queued(Kind, Crash) ->
    supervisor(Kind, 5),
    Server = whereis(server(Kind)),
    Living = [counted(Kind) || _ <- lists:seq(1, 10)],
    Dying = [counted(Kind) || _ <- lists:seq(1, 1000)],
    true = erlang:suspend_process(whereis(reaper(Kind))),
    kill(Dying),
    queued(Kind, 1000),
    Crash(),
    restarted(Kind, Server),
    settled(Kind, 10),
    assert_books(Kind, Dying, Living),
    kill(Living),
    settled(Kind, 0),
    assert_books(Kind, Living, []).

%% The owner of the table has a server no longer.
deaths_while_nothing_runs_are_cleaned_up_by_the_next(Config) ->
    Kind = kind(Config),
    {ok, Server} = counting:start(Kind),
    Dying = [counted(Kind) || _ <- lists:seq(1, 1000)],
    unlink(Server),
    Reaper = monitor(process, reaper(Kind)),
    kill([Server]),
    receive
        {'DOWN', Reaper, process, _, _} -> ok
    end,
    kill(Dying),
    queued(Kind, 1000),
    {ok, Next} = counting:start(Kind),
    settled(Kind, 0),
    assert_books(Kind, Dying, []),
    unlink(Next),
    kill([Next]).

%% One cleanup is held, so that the reaper has a cleaner and the others wait. That cleanup may be
%% repeated: it was interrupted.
deaths_are_cleaned_up_once_however_often_the_reaper_is_killed(Config) ->
    Kind = kind(Config),
    supervisor(Kind, 20),
    All = [
        begin
            Held = held(Kind),
            Dying = [counted(Kind) || _ <- lists:seq(1, 100)],
            kill([Held]),
            Cleaner = cleaner(Kind, Held),
            kill(Dying),
            Server = whereis(server(Kind)),
            kill([whereis(reaper(Kind))]),
            eventually(fun() -> not is_process_alive(Cleaner) end),
            let_go(Kind, cleaner(Kind, Held)),
            restarted(Kind, Server),
            Dying
        end
     || _ <- lists:seq(1, 10)
    ],
    settled(Kind, 0),
    assert_books(Kind, lists:append(All), []).

twenty_thousand_deaths_at_once_are_cleaned_up(Config) ->
    Kind = kind(Config),
    supervisor(Kind, 0),
    Dying = [counted(Kind) || _ <- lists:seq(1, 20000)],
    kill(Dying),
    settled(Kind, 0),
    assert_books(Kind, Dying, []).

%% Waits until so many deaths wait in the table.
queued(Kind, Count) ->
    eventually(fun() -> proctab_nif:deaths(server(Kind)) =:= Count end).

%% Waits until another server and its reaper run.
restarted(Kind, Server) ->
    eventually(fun() ->
        Next = whereis(server(Kind)),
        is_pid(Next) andalso Next =/= Server andalso is_pid(whereis(reaper(Kind)))
    end).
