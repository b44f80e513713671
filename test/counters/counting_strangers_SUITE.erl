%% Promise: whatever a process sends to metrics_process_tracker, to stats_hero_monitor, to their
%% reapers and to those that clean up, it changes nothing: no process that lives is counted down, no
%% cleanup is made twice, or is missing, and no process ends. But for what is no message of a
%% stranger: a request, a message of `sys', and what the supervisor sends to its server.
-module(counting_strangers_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(counting, [server/1, reaper/1, supervisor/2, counted/1, held/1, cleaner/2, let_go/2]).
-import(counting, [count/1, handled/1, settled/2, assert_books/3]).
-import(ledger_backend, [moves/1]).
-import(tracked_process, [idle/0, kill/1, eventually/1]).
-import(tracked_child, [answer/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [{group, Kind} || Kind <- counting:kinds()] ++
        [
            a_caller_in_the_backend_is_not_taken_for_dead,
            a_dead_process_waits_for_its_callers_all_the_same,
            deaths_that_a_stranger_told_the_original_are_not_taken_over,
            what_a_stranger_sends_to_the_caller_of_load_is_not_its_result
        ].

groups() ->
    [{Kind, [], cases()} || Kind <- counting:kinds()].

cases() ->
    [
        a_forged_end_of_a_process_is_ignored,
        a_forged_wait_for_a_caller_is_ignored,
        a_forged_timeout_is_ignored,
        what_only_a_server_tells_its_reaper_is_ignored,
        a_request_to_monitor_is_checked_against_the_table,
        a_request_of_nobody_is_ignored,
        every_shape_that_a_process_looks_for_is_known,
        no_message_of_a_stranger_changes_anything
    ].

init_per_suite(Config) ->
    swapping_SUITE:init_per_suite(monitored_worker:load_stats_hero(Config)).

end_per_suite(_Config) ->
    monitored_worker:unload_stats_hero().

init_per_group(Kind, Config) ->
    [{kind, Kind} | Config].

end_per_group(_Kind, _Config) ->
    ok.

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    ok = counting:open(kind(Config), filename:dirname(code:which(stats_hero))),
    Config.

end_per_testcase(_Case, Config) ->
    [
        begin
            unlink(Pid),
            kill([Pid])
        end
     || Pid <- [whereis(counting)], is_pid(Pid)
    ],
    counting:close(kind(Config)).

kind(Config) ->
    proplists:get_value(kind, Config, tracker).

%% Sends what `Forge' makes of each of these processes to the server, its reaper and its cleaner,
%% which is in the middle of a cleanup. Then all goes on as if nothing had been sent.
forged(Config, Forge) ->
    Kind = kind(Config),
    Supervisor = supervisor(Kind, 0),
    Living = [counted(Kind) || _ <- lists:seq(1, 10)],
    Dead = held(Kind),
    kill([Dead]),
    Cleaner = cleaner(Kind, Dead),
    Waiting = counted(Kind),
    kill([Waiting]),
    handled(Kind),
    Server = whereis(server(Kind)),
    Reaper = whereis(reaper(Kind)),
    Monitored = monitored(Server),
    Others = [hd(Living), Dead, Waiting, Server, Reaper, Cleaner, idle(), self(), foreign()],
    Messages = Forge(Others, Living),
    [To ! Message || Message <- Messages, To <- [Server, Reaper, Cleaner]],
    %% What its supervisor sends, a server has to believe; so not to that.
    [To ! {'EXIT', Supervisor, killed} || To <- [Reaper, Cleaner]],
    [bad = answered(gen_server:call(To, anything)) || To <- [Server, Reaper, Server, Reaper]],
    ?assertEqual(Monitored, monitored(Server)),
    ?assert(is_process_alive(Cleaner)),
    let_go(Kind, Cleaner),
    settled(Kind, 10),
    assert_books(Kind, [Dead, Waiting], Living),
    New = counted(Kind),
    kill(Living),
    settled(Kind, 1),
    assert_books(Kind, [Dead, Waiting | Living], [New]),
    kill([New]),
    settled(Kind, 0),
    assert_books(Kind, [Dead, Waiting, New | Living], []),
    eventually(fun() -> monitored(Server) =:= [] end),
    ?assertEqual([Server, Reaper], [whereis(server(Kind)), whereis(reaper(Kind))]).

answered(bad_call) -> bad;
answered(unhandled) -> bad.

%% The processes that a server monitors; each should be there once.
monitored(Server) ->
    {monitors, Monitored} = process_info(Server, monitors),
    lists:sort(Monitored).

foreign() ->
    binary_to_term(<<131, 88, 119, 9, "else@here", 1:32, 0:32, 1:32>>).

reasons() ->
    [normal, shutdown, killed, noproc, noconnection].

references() ->
    [make_ref(), alias(), erlang:start_timer(1000000, self(), none)].

a_forged_end_of_a_process_is_ignored(Config) ->
    forged(Config, fun(Others, _Living) ->
        Names = [Pid || Pid <- Others] ++ [{metrics_process_tracker, node()}, none],
        [{'EXIT', Pid, Reason} || Pid <- Names, Reason <- reasons()] ++
            [
                {Tag, Monitor, process, Pid, Reason}
             || Tag <- ['DOWN', down, make_ref()],
                Monitor <- references(),
                Pid <- Names,
                Reason <- reasons()
            ]
    end).

a_forged_wait_for_a_caller_is_ignored(Config) ->
    forged(Config, fun(Others, _Living) ->
        [
            {Tag, make_ref(), process, Caller, killed}
         || Pid <- Others,
            Tag <- [{busy, Pid}, {busy, make_ref(), Pid}, {make_ref(), Pid}, {busy}, busy],
            Caller <- [none | Others]
        ]
    end).

a_forged_timeout_is_ignored(Config) ->
    forged(Config, fun(_Others, _Living) ->
        What = [cleaner_timeout, retry, start_reaper, none],
        [timeout | [{timeout, Timer, Which} || Timer <- references(), Which <- What]]
    end).

what_only_a_server_tells_its_reaper_is_ignored(Config) ->
    forged(Config, fun(Others, _Living) ->
        Tags = [none, undefined | references()],
        [{'$gen_cast', {Tag, dead, Pid}} || Tag <- Tags, Pid <- [none | Others]] ++
            [{'$gen_cast', {dead, Pid}} || Pid <- Others] ++
            [
                {'$gen_cast', {Tag, count, worker, From}}
             || Tag <- Tags, From <- [none, {self(), make_ref()}]
            ]
    end).

a_request_to_monitor_is_checked_against_the_table(Config) ->
    forged(Config, fun(Others, Living) ->
        [{'$gen_cast', {monitor, Pid}} || Pid <- [none, undefined, [], 1 | Others] ++ Living]
    end).

%% OTP's servers end by some of these.
a_request_of_nobody_is_ignored(Config) ->
    forged(Config, fun(Others, _Living) ->
        Froms = [none, {}, {self()}, [], 1, {none, make_ref()}, {self(), [alias | none]}],
        Requests = [anything, registered_count, {register, none}, stop],
        Registering = [{'$gen_call', none, {register, Pid}} || Pid <- Others],
        Registering ++ [{'$gen_call', From, Request} || From <- Froms, Request <- Requests]
    end).

%% Callers of track/2

%% It ends what it began, although its death was told, and that of the process.
a_caller_in_the_backend_is_not_taken_for_dead(Config) ->
    Kind = kind(Config),
    _ = supervisor(Kind, 0),
    Pid = counted(Kind),
    {Asked, Caller} = tracking_failure_SUITE:in_backend({gated, 1, self(), name}, Pid),
    [
        reaper(Kind) ! {{busy, Which}, make_ref(), process, Who, killed}
     || Which <- [Pid, Caller], Who <- [Pid, Caller]
    ],
    handled(Kind),
    ledger_backend:let_go(Caller),
    ?assertEqual({answer, ok}, answer(Asked)),
    ?assertEqual({1, 0}, moves({gated, 1, self(), name})),
    kill([Pid]),
    settled(Kind, 0),
    ?assertEqual({1, 1}, moves({gated, 1, self(), name})).

%% The reaper waits for such a caller; one that is forged does not end that.
a_dead_process_waits_for_its_callers_all_the_same(Config) ->
    Kind = kind(Config),
    _ = supervisor(Kind, 0),
    Pid = counted(Kind),
    Name = {gated, 1, self(), name},
    {Asked, Caller} = tracking_failure_SUITE:in_backend(Name, Pid),
    kill([Pid]),
    eventually(fun() -> process_info(Caller, monitored_by) =/= {monitored_by, [self()]} end),
    [reaper(Kind) ! {{busy, Pid}, Which, process, Caller, killed} || Which <- references()],
    handled(Kind),
    ledger_backend:let_go(Caller),
    ?assertEqual({answer, ok}, answer(Asked)),
    settled(Kind, 0),
    ?assertEqual({{1, 1}, {1, 1}}, {moves(Name), moves(Pid)}).

%% proctab:load/0

deaths_that_a_stranger_told_the_original_are_not_taken_over(Config) ->
    swapping_SUITE:on_node(Config, fun() ->
        swapping_SUITE:start_stats_hero(),
        Registered = swapping_SUITE:worker(),
        Stranger = idle(),
        ok = sys:suspend(stats_hero_monitor),
        [
            stats_hero_monitor ! {'DOWN', make_ref(), process, Pid, killed}
         || Pid <- [Registered, Stranger, self()]
        ],
        ok = proctab:load(),
        swapping_SUITE:assert_ours(stats_hero_monitor),
        swapping_SUITE:workers(1),
        kill([Stranger]),
        swapping_SUITE:workers(1),
        kill([Registered]),
        swapping_SUITE:workers(0)
    end).

what_a_stranger_sends_to_the_caller_of_load_is_not_its_result(Config) ->
    swapping_SUITE:on_node(Config, fun() ->
        swapping_SUITE:start_metrics(),
        ok = sys:suspend(metrics_process_tracker),
        Before = processes(),
        {Caller, Asked} = spawn_monitor(fun() -> exit({answer, proctab:load()}) end),
        eventually(fun() -> processes() -- [Caller | Before] =/= [] end),
        [Caller ! {Pid, forged} || Pid <- processes()],
        ok = sys:resume(metrics_process_tracker),
        ?assertEqual({answer, ok}, answer(Asked)),
        swapping_SUITE:assert_ours(metrics_process_tracker)
    end).

%% Any messages

%% They are read from the code.
every_shape_that_a_process_looks_for_is_known(Config) ->
    Shapes = shapes(kind(Config)),
    Some = [
        {'DOWN', '_', process, '_', '_'},
        {{busy, '_'}, '_', process, '_', '_'},
        {timeout, '_', cleaner_timeout},
        {'$gen_cast', {'_', dead, '_'}},
        {'_', '_', process, '_', '_'}
    ],
    Own =
        case kind(Config) of
            tracker -> [{'$gen_cast', {monitor, '_'}}];
            monitor -> [{'$gen_call', '_', {register, '_'}}, {'$gen_call', '_', registered_count}]
        end,
    ?assertEqual([], (Some ++ Own) -- Shapes).

shapes(Kind) ->
    prop_strangers:shapes(proctab_reaper, [{handle_message, 2}]) ++
        prop_strangers:shapes(server(Kind)).

no_message_of_a_stranger_changes_anything(Config) ->
    Kind = kind(Config),
    Receivers = [server, reaper, cleaner],
    Makings = prop_strangers:makings(Receivers, shapes(Kind), maps:keys(roles(Kind))),
    Letters = fun(Numbers) -> [prop_strangers:letter(Number, Makings) || Number <- Numbers] end,
    Property = proper:forall(
        prop_strangers:numbers(), fun(Numbers) -> balance(Kind, Letters(Numbers)) end
    ),
    Options = [quiet, long_result, {numtests, 200}, {start_size, 100}, {max_size, 500}],
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    try proper:quickcheck(Property, Options) of
        true -> ok;
        [Numbers] -> ct:fail({Numbers, Letters(Numbers)})
    after
        ok = logger:set_primary_config(level, Level)
    end.

%% The processes of a small world in which everything is under way that can be, by what they are to
%% it.
roles(Kind) ->
    OfCallers = [busy, caller, other_caller],
    Roles = [server, reaper, cleaner, supervisor, living, dead, waiting, test, foreign],
    maps:from_keys([Role || Role <- OfCallers, Kind =:= tracker] ++ Roles, role).

%% Whether all goes on as if nothing had been sent.
balance(Kind, Letters) ->
    Before = processes(),
    World = world(Kind),
    try
        send(Letters, World),
        [bad = answered(gen_server:call(map_get(To, World), anything)) || To <- [server, reaper]],
        goes_on(Kind, World)
    catch
        _:Reason:Stacktrace ->
            ct:pal("~p~n~p~n~p", [Letters, Reason, Stacktrace]),
            false
    after
        end_world(Kind, World, Before)
    end.

send(Letters, World) ->
    Pid = fun(Role) -> map_get(Role, World) end,
    [
        Pid(Receiver) ! Message
     || {Receiver, Letter} <- Letters,
        Message <- [prop_strangers:real(Letter, Pid)],
        is_of_a_stranger(Receiver, Message, World)
    ].

goes_on(Kind, World) ->
    #{server := Server, reaper := Reaper, cleaner := Cleaner, living := Living} = World,
    true = is_process_alive(Cleaner),
    let_go(Kind, Cleaner),
    [ok = has_registered(Role, World) || Role <- [caller, other_caller], is_map_key(Role, World)],
    Dead = [Pid || {Role, Pid} <- maps:to_list(World), lists:member(Role, [dead, waiting, busy])],
    settled(Kind, living_counts(Kind)),
    assert_books(Kind, Dead, [Living]),
    kill([Living]),
    settled(Kind, 0),
    assert_books(Kind, [Living | Dead], []),
    Kind =:= tracker andalso
        [?assertEqual({Name, {1, 1}}, {Name, moves(Name)}) || Name <- names_of_callers()],
    eventually(fun() -> monitored(Server) =:= [] end),
    Ends = [{process, Server}, {process, map_get(supervisor, World)}],
    ?assertEqual([], monitored(Reaper) -- Ends),
    ?assertEqual({links, [Server]}, process_info(Reaper, links)),
    ?assertEqual([Server, Reaper], [whereis(server(Kind)), whereis(reaper(Kind))]),
    true.

%% What its supervisor sends to a server is obeyed; a request to register somebody is one.
is_of_a_stranger(server, {'EXIT', Supervisor, _}, #{supervisor := Supervisor}) -> false;
is_of_a_stranger(server, {'$gen_call', {_, _}, {register, Pid}}, _World) -> not is_pid(Pid);
is_of_a_stranger(_Receiver, _Message, _World) -> true.

%% One process lives. One is dead, and being cleaned up after; one waits for that. With the tracker,
%% a caller is in the backend for the living one, and another one for a dead one, for which the
%% reaper waits.
world(Kind) ->
    Supervisor = supervisor(Kind, 0),
    Living = counted(Kind),
    Callers = callers(Kind, Living),
    Dead = held(Kind),
    kill([Dead]),
    Cleaner = cleaner(Kind, Dead),
    Waiting = counted(Kind),
    kill([Waiting]),
    handled(Kind),
    Callers#{
        server => whereis(server(Kind)),
        reaper => whereis(reaper(Kind)),
        cleaner => Cleaner,
        supervisor => Supervisor,
        living => Living,
        dead => Dead,
        waiting => Waiting,
        test => self(),
        foreign => foreign()
    }.

callers(monitor, _Living) ->
    #{};
callers(tracker, Living) ->
    Busy = counted(tracker),
    [Name, Other] = names_of_callers(),
    {_, Caller} = tracking_failure_SUITE:in_backend(Name, Living),
    {_, OtherCaller} = tracking_failure_SUITE:in_backend(Other, Busy),
    kill([Busy]),
    eventually(fun() -> length(element(2, process_info(OtherCaller, monitored_by))) =:= 2 end),
    #{busy => Busy, caller => Caller, other_caller => OtherCaller}.

names_of_callers() ->
    [{gated, 1, self(), Name} || Name <- [a, b]].

%% The caller of track/2 is answered.
has_registered(Role, World) ->
    Caller = map_get(Role, World),
    Monitor = monitor(process, Caller),
    ledger_backend:let_go(Caller),
    receive
        {'DOWN', Monitor, process, Caller, {answer, Answer}} -> Answer
    end.

living_counts(tracker) -> 2;
living_counts(monitor) -> 1.

%% No process is left.
end_world(Kind, #{supervisor := Supervisor} = World, Before) ->
    unlink(Supervisor),
    kill(maps:values(maps:without([server, reaper, test, foreign], World))),
    counting:close(Kind),
    flush(),
    eventually(fun() -> processes() -- Before =:= [] end),
    ok = counting:open(Kind, filename:dirname(code:which(stats_hero))).

flush() ->
    receive
        _ -> flush()
    after 0 -> ok
    end.
