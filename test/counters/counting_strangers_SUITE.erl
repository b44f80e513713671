%% Promise: messages of strangers to metrics_process_tracker, stats_hero_monitor, their reapers and
%% cleaners change nothing: no live process is counted down, no cleanup is missing or made twice,
%% and no process ends. Requests, messages of `sys`, and exit signals of the supervisor are no
%% messages of strangers.
-module(counting_strangers_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(counting, [kind/1]).
-import(counting, [server/1, reaper/1, supervisor/2, counted/1, held/1, cleaner/2, let_go/2]).
-import(counting, [count/1, handled/1, settled/2, assert_books/3]).
-import(ledger_backend, [moves/1]).
-import(tracked_process, [idle/0, kill/1, eventually/1, caller_in_backend/2]).
-import(callers, [answer/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, both}]}].

all() ->
    [{group, Kind} || Kind <- counting:kinds()] ++
        [
            a_caller_in_the_backend_is_not_taken_for_dead,
            the_cleanup_of_a_dead_process_waits_for_its_callers,
            deaths_that_a_stranger_reported_to_the_original_are_not_taken_over,
            a_message_of_a_stranger_to_the_caller_of_load_is_not_its_result
        ].

groups() ->
    [{Kind, [], cases()} || Kind <- counting:kinds()].

cases() ->
    [
        a_forged_end_of_a_process_is_ignored,
        a_forged_wait_for_a_caller_is_ignored,
        a_forged_timeout_is_ignored,
        a_forged_message_of_the_server_to_its_reaper_is_ignored,
        a_request_to_monitor_is_checked_against_the_table,
        a_request_without_a_valid_sender_is_ignored,
        every_shape_of_message_that_a_process_receives_is_tried,
        no_message_of_a_stranger_changes_anything
    ].

init_per_suite(Config) ->
    originals:compile(Config).

end_per_suite(_Config) ->
    ok.

%% Sends the messages that `Forge` makes with the pids of all kinds of processes to the server, its
%% reaper and its cleaner, which is making a cleanup. Asserts that all goes on as if nothing had
%% been sent.
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
    %% Not to the server, which has to obey its supervisor.
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

%% The processes that a server monitors, each as often as it is monitored.
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

a_forged_message_of_the_server_to_its_reaper_is_ignored(Config) ->
    forged(Config, fun(Others, _Living) ->
        Tags = [none, undefined | references()],
        ['$proctab_dead' | [{'$gen_cast', {Tag, dead, Pid}} || Tag <- Tags, Pid <- Others]] ++
            [
                {'$gen_cast', {Tag, count, worker, From}}
             || Tag <- Tags, From <- [none, {self(), make_ref()}]
            ]
    end).

a_request_to_monitor_is_checked_against_the_table(Config) ->
    forged(Config, fun(Others, Living) ->
        [{'$gen_cast', {monitor, Pid}} || Pid <- [none, undefined, [], 1 | Others] ++ Living]
    end).

%% Some of these end a gen_server of OTP.
a_request_without_a_valid_sender_is_ignored(Config) ->
    forged(Config, fun(Others, _Living) ->
        Froms = [none, {}, {self()}, [], 1, {none, make_ref()}, {self(), [alias | none]}],
        Requests = [anything, registered_count, {register, none}, stop],
        Registering = [{'$gen_call', none, {register, Pid}} || Pid <- Others],
        Registering ++ [{'$gen_call', From, Request} || From <- Froms, Request <- Requests]
    end).

%% Callers of `track/2`

%% The call succeeds, although strangers reported the death of the caller, and that of the process.
a_caller_in_the_backend_is_not_taken_for_dead(Config) ->
    Kind = kind(Config),
    _ = supervisor(Kind, 0),
    Pid = counted(Kind),
    {Asked, Caller} = caller_in_backend({gated, 1, self(), name}, Pid),
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

%% The reaper waits for such a caller. A forged message does not end this.
the_cleanup_of_a_dead_process_waits_for_its_callers(Config) ->
    Kind = kind(Config),
    _ = supervisor(Kind, 0),
    Pid = counted(Kind),
    Name = {gated, 1, self(), name},
    {Asked, Caller} = caller_in_backend(Name, Pid),
    kill([Pid]),
    eventually(fun() -> process_info(Caller, monitored_by) =/= {monitored_by, [self()]} end),
    [reaper(Kind) ! {{busy, Pid}, Which, process, Caller, killed} || Which <- references()],
    handled(Kind),
    ledger_backend:let_go(Caller),
    ?assertEqual({answer, ok}, answer(Asked)),
    settled(Kind, 0),
    ?assertEqual({{1, 1}, {1, 1}}, {moves(Name), moves(Pid)}).

%% `proctab:load/0`

deaths_that_a_stranger_reported_to_the_original_are_not_taken_over(Config) ->
    originals:on_node(Config, fun() ->
        originals:start_stats_hero(),
        Registered = monitored_worker:worker(),
        Stranger = idle(),
        ok = sys:suspend(stats_hero_monitor),
        [
            stats_hero_monitor ! {'DOWN', make_ref(), process, Pid, killed}
         || Pid <- [Registered, Stranger, self()]
        ],
        ok = proctab:load(),
        originals:assert_ours(stats_hero_monitor),
        originals:workers(1),
        kill([Stranger]),
        originals:workers(1),
        kill([Registered]),
        originals:workers(0)
    end).

a_message_of_a_stranger_to_the_caller_of_load_is_not_its_result(Config) ->
    originals:on_node(Config, fun() ->
        originals:start_metrics(),
        ok = sys:suspend(metrics_process_tracker),
        Before = processes(),
        {Caller, Asked} = spawn_monitor(fun() -> exit({answer, proctab:load()}) end),
        eventually(fun() -> processes() -- [Caller | Before] =/= [] end),
        [Caller ! {Pid, forged} || Pid <- processes()],
        ok = sys:resume(metrics_process_tracker),
        ?assertEqual({answer, ok}, answer(Asked)),
        originals:assert_ours(metrics_process_tracker)
    end).

%% Any messages

%% The shapes are read from the code.
every_shape_of_message_that_a_process_receives_is_tried(Config) ->
    Shapes = shapes(kind(Config)),
    Some = [
        {'DOWN', '_', process, '_', '_'},
        {{busy, '_'}, '_', process, '_', '_'},
        {timeout, '_', cleaner_timeout},
        '$proctab_dead',
        {'$gen_cast', {'_', count, '_', '_'}},
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
    case kept_log:without(fun() -> proper:quickcheck(Property, Options) end) of
        true -> ok;
        [Numbers] -> ct:fail({Numbers, Letters(Numbers)})
    end.

%% The roles of the processes in a small world in which everything goes on that can.
roles(Kind) ->
    OfCallers = [busy, caller, other_caller],
    Roles = [server, reaper, cleaner, supervisor, living, dead, waiting, test, foreign],
    maps:from_keys([Role || Role <- OfCallers, Kind =:= tracker] ++ Roles, role).

%% Returns whether all goes on as if nothing had been sent.
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

%% A server obeys its supervisor, and a request to register a pid.
is_of_a_stranger(server, {'EXIT', Supervisor, _}, #{supervisor := Supervisor}) -> false;
is_of_a_stranger(server, {'$gen_call', {_, _}, {register, Pid}}, _World) -> not is_pid(Pid);
is_of_a_stranger(_Receiver, _Message, _World) -> true.

%% One process lives. One is dead, and its cleanup runs; another one is dead, too, and waits for
%% that. With the tracker, one caller is in the backend for the living process, and another one for
%% a dead process, whose cleanup waits for this caller.
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
    {_, Caller} = caller_in_backend(Name, Living),
    {_, OtherCaller} = caller_in_backend(Other, Busy),
    kill([Busy]),
    eventually(fun() -> length(element(2, process_info(OtherCaller, monitored_by))) =:= 2 end),
    #{busy => Busy, caller => Caller, other_caller => OtherCaller}.

names_of_callers() ->
    [{gated, 1, self(), Name} || Name <- [a, b]].

%% Continues a caller of `track/2`, and returns its result.
has_registered(Role, World) ->
    Caller = map_get(Role, World),
    Monitor = monitor(process, Caller),
    ledger_backend:let_go(Caller),
    receive
        {'DOWN', Monitor, process, Caller, {answer, Answer}} -> Answer
    end.

living_counts(tracker) -> 2;
living_counts(monitor) -> 1.

%% Ends all processes of the world, and opens empty books.
end_world(Kind, #{supervisor := Supervisor} = World, Before) ->
    unlink(Supervisor),
    kill(maps:values(maps:without([server, reaper, test, foreign], World))),
    counting:close(Kind),
    messages:flush(),
    eventually(fun() -> processes() -- Before =:= [] end),
    ok = counting:open(Kind).

