%% Promise: `{via, gen_tracker, {Zone, Name}}` works like `{global, Name}`, with the return values
%% of `global`. A process that registers itself becomes a child of the zone, until it exits or is
%% unregistered.
-module(via_SUITE).
-behaviour(gen_server).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(messages, [await/1]).
-import(tracked_child, [down/1, kill/1, open/2, spec/4]).
-import(zone_hook, [zone/1]).
-import(gen_tracker, [attrs/2, find/2, find_or_open/2, register_name/2, send/2, setattr/4]).
-import(gen_tracker, [unregister_name/1, whereis_name/1, which_children/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        a_gen_server_is_started_called_and_stopped_by_its_name,
        a_gen_statem_is_reached_by_its_name,
        a_supervisor_is_reached_by_its_name_and_restarts_a_child_with_a_name,
        a_name_is_free_as_soon_as_its_server_has_stopped,
        a_name_that_is_taken_is_refused_with_its_process,
        a_server_whose_init_fails_leaves_no_name,
        a_server_that_the_zone_starts_may_have_the_same_name_by_via,
        a_server_that_the_zone_starts_and_whose_init_fails_leaves_nothing,
        one_of_the_processes_that_a_start_function_starts_gets_the_name,
        a_start_function_may_try_again_to_start_a_server_with_the_name,
        a_restart_gives_the_name_to_one_process,
        a_call_to_a_free_name_exits_with_noproc,
        a_registered_process_is_a_child_with_attributes,
        a_registered_process_is_told_to_exit_when_the_zone_stops,
        register_name_returns_yes_or_no_as_in_global,
        register_name_waits_for_a_cleanup,
        register_name_waits_for_a_start,
        a_start_that_waits_for_a_registration_of_its_own_name_ends,
        register_name_waits_for_a_cleanup_without_a_time_limit,
        register_name_times_out_after_the_end_of_a_keeper,
        register_name_times_out_after_its_keeper_was_replaced,
        register_name_succeeds_if_the_name_is_free_at_its_timeout,
        the_reason_of_a_process_that_exits_right_after_its_registration_is_sent,
        a_dead_process_can_be_registered_and_is_removed,
        an_unregistered_process_lives_on_and_may_be_registered_again,
        a_child_that_the_zone_has_started_cannot_be_unregistered,
        a_process_that_unregisters_while_it_is_stopped_does_not_wait,
        an_unregistered_process_survives_its_zone,
        whereis_name_is_undefined_without_a_running_child,
        send_reaches_the_process_or_exits,
        wrong_names_are_badarg
    ].

via(Zone, Name) ->
    {via, gen_tracker, {Zone, Name}}.

%% Callbacks of servers. They reply with their pid; a fun as the argument of `init/1` is called.

init(Init) when is_function(Init) -> Init();
init(State) -> {ok, State}.

handle_call(who, _From, State) -> {reply, self(), State}.

handle_cast(Message, State) ->
    State ! {cast, Message},
    {noreply, State}.

handle_info(Message, State) ->
    State ! {info, Message},
    {noreply, State}.

server(Zone, Name) ->
    {ok, Pid} = gen_server:start_link(via(Zone, Name), ?MODULE, self(), []),
    Pid.

a_gen_server_is_started_called_and_stopped_by_its_name(Config) ->
    Zone = zone(Config),
    Pid = server(Zone, ?NAME),
    {ok, Pid} = find(Zone, ?NAME),
    Pid = gen_server:call(via(Zone, ?NAME), who),
    ok = gen_server:cast(via(Zone, ?NAME), hello),
    {cast, hello} = await(cast),
    ok = gen_server:stop(via(Zone, ?NAME)),
    undefined = whereis_name({Zone, ?NAME}).

callback_mode() -> handle_event_function.

handle_event({call, From}, who, state, _) -> {keep_state_and_data, {reply, From, self()}}.

a_gen_statem_is_reached_by_its_name(Config) ->
    Via = via(zone(Config), {a, "statem"}),
    {ok, Pid} = gen_statem:start_link(Via, ?MODULE, fun() -> {ok, state, data} end, []),
    Pid = gen_statem:call(Via, who),
    ok = gen_statem:stop(Via).

a_supervisor_is_reached_by_its_name_and_restarts_a_child_with_a_name(Config) ->
    Zone = zone(Config),
    Start = {gen_server, start_link, [via(Zone, ?NAME), ?MODULE, self(), []]},
    Supervisor = via(Zone, supervisor),
    {ok, _} = supervisor:start_link(Supervisor, ?MODULE, fun() ->
        {ok, {#{}, [#{id => server, start => Start}]}}
    end),
    [{server, First, worker, _}] = supervisor:which_children(Supervisor),
    {ok, _} = gen_tracker:subscribe(Zone),
    exit(First, kill),
    {gen_tracker, Zone, {up, ?NAME, Second}} = up(Zone, ?NAME),
    Second = gen_server:call(via(Zone, ?NAME), who),
    ok = gen_server:stop(Supervisor).

up(Zone, Name) ->
    receive
        {gen_tracker, Zone, {up, Name, _}} = Event -> Event
    after 10000 -> ct:fail({no_birth, Name})
    end.

%% Each round could find the name still taken.
a_name_is_free_as_soon_as_its_server_has_stopped(Config) ->
    Zone = zone(Config),
    [
        begin
            Pid = server(Zone, ?NAME),
            case Round rem 2 of
                0 -> ok = gen_server:stop(Pid);
                1 -> kill(Pid)
            end
        end
     || Round <- lists:seq(1, 2000)
    ],
    Last = server(Zone, ?NAME),
    [{?NAME, Last, worker, []}] = which_children(Zone).

a_name_that_is_taken_is_refused_with_its_process(Config) ->
    Zone = zone(Config),
    Pid = server(Zone, ?NAME),
    {error, {already_started, Pid}} = gen_server:start_link(via(Zone, ?NAME), ?MODULE, self(), []),
    Other = open(Zone, other),
    {error, {already_started, Other}} = gen_server:start(via(Zone, other), ?MODULE, self(), []),
    {error, {already_started, Pid}} = supervisor:start_child(
        Zone, spec(?NAME, temporary, 200, {start_link, [self()]})
    ).

a_server_whose_init_fails_leaves_no_name(Config) ->
    Zone = zone(Config),
    Failures = [fun() -> {stop, no} end, fun() -> ignore end, fun() -> error(no) end],
    [
        begin
            _ = gen_server:start(via(Zone, ?NAME), ?MODULE, Init, []),
            undefined = whereis_name({Zone, ?NAME})
        end
     || Init <- Failures
    ],
    _ = server(Zone, ?NAME).

%% The tracker registers the child under the name that the child has already registered itself.
a_server_that_the_zone_starts_may_have_the_same_name_by_via(Config) ->
    Zone = zone(Config),
    Spec = {?NAME, {gen_server, start_link, [via(Zone, ?NAME), ?MODULE, self(), []]}, transient},
    {ok, Pid} = find_or_open(Zone, Spec),
    Pid = gen_server:call(via(Zone, ?NAME), who),
    [{?NAME, Pid, worker, []}] = which_children(Zone),
    {ok, [{?NAME, Pid}]} = gen_tracker:subscribe(Zone),
    exit(Pid, crash),
    {gen_tracker, Zone, {up, ?NAME, Again}} = up(Zone, ?NAME),
    Again = gen_server:call(via(Zone, ?NAME), who).

a_server_that_the_zone_starts_and_whose_init_fails_leaves_nothing(Config) ->
    Zone = zone(Config),
    Init = fun() ->
        ok = setattr(Zone, ?NAME, a, 1),
        {stop, no}
    end,
    Spec = {?NAME, {gen_server, start_link, [via(Zone, ?NAME), ?MODULE, Init, []]}, temporary},
    {error, no} = find_or_open(Zone, Spec),
    {[], []} = {which_children(Zone), attrs(Zone, ?NAME)}.

%% As with `global', one name has one process, although all of them are being started by the zone.
one_of_the_processes_that_a_start_function_starts_gets_the_name(Config) ->
    Zone = zone(Config),
    Test = self(),
    Register = fun() ->
        Answer = register_name({Zone, ?NAME}, self()),
        Test ! {answer, self(), Answer},
        proc_lib:init_ack({ok, self()}),
        await(done)
    end,
    Start = fun() ->
        Started = [proc_lib:spawn_link(Register) || _ <- lists:seq(1, 20)],
        Answers = [
            receive
                {ack, Pid, {ok, Pid}} -> Pid
            end
         || Pid <- Started
        ],
        {ok, hd(Answers)}
    end,
    {ok, Child} = find_or_open(Zone, spec(?NAME, temporary, 200, {start_with, [Test, Start]})),
    Answers = [Answer || {answer, _, Answer} <- messages:taken(answer)],
    ?assertEqual([no || _ <- lists:seq(1, 19)] ++ [yes], lists:sort(Answers)),
    ?assertEqual({ok, Child}, find(Zone, ?NAME)),
    ?assertEqual(no, register_name({Zone, ?NAME}, self())).

%% A server whose `init/1' has failed has unregistered its name, and one that was killed is dead.
a_start_function_may_try_again_to_start_a_server_with_the_name(Config) ->
    Zone = zone(Config),
    Start = fun(Init) -> gen_server:start_link(via(Zone, ?NAME), ?MODULE, Init, []) end,
    Try = fun() ->
        process_flag(trap_exit, true),
        {error, failed} = Start(fun() -> {stop, failed} end),
        {error, killed} = Start(fun() -> exit(self(), kill) end),
        {ok, Pid} = Start(state),
        {error, {already_started, undefined}} = Start(state),
        {ok, Pid}
    end,
    Spec = spec(?NAME, temporary, 200, {start_with, [self(), Try]}),
    {ok, Pid} = find_or_open(Zone, Spec),
    ?assertEqual(Pid, gen_server:call(via(Zone, ?NAME), who)).

a_restart_gives_the_name_to_one_process(Config) ->
    Zone = zone(Config),
    Start = fun() ->
        {ok, Pid} = gen_server:start_link(via(Zone, ?NAME), ?MODULE, self(), []),
        {error, {already_started, undefined}} =
            gen_server:start_link(via(Zone, ?NAME), ?MODULE, self(), []),
        {ok, Pid}
    end,
    {ok, Pid} = find_or_open(Zone, spec(?NAME, permanent, 200, {start_with, [self(), Start]})),
    {ok, [{?NAME, Pid}]} = gen_tracker:subscribe(Zone),
    exit(Pid, crash),
    {gen_tracker, Zone, {up, ?NAME, Again}} = up(Zone, ?NAME),
    ?assertEqual(Again, gen_server:call(via(Zone, ?NAME), who)).

a_call_to_a_free_name_exits_with_noproc(Config) ->
    Zone = zone(Config),
    [
        ?assertExit({noproc, _}, gen_server:call(via(Where, nobody), who))
     || Where <- [Zone, not_running]
    ],
    [?assertExit(noproc, gen_server:stop(via(Where, nobody))) || Where <- [Zone, not_running]],
    ok = gen_server:cast(via(Zone, nobody), lost).

a_registered_process_is_a_child_with_attributes(Config) ->
    Zone = zone(Config),
    Pid = server(Zone, ?NAME),
    ok = setattr(Zone, ?NAME, a, 1),
    [{?NAME, [{pid, Pid}, {a, 1}]}] = gen_tracker:list(Zone),
    [{?NAME, Pid, worker, []}] = supervisor:which_children(Zone),
    _ = kill(Pid),
    nothing_is_left(Zone).

%% Waits until nothing is left of a dead process.
nothing_is_left(Zone) ->
    true = lists:member(supervisor:terminate_child(Zone, ?NAME), [ok, {error, no_child}]),
    {undefined, [], 0} = {whereis_name({Zone, ?NAME}), attrs(Zone, ?NAME), gen_tracker:count(Zone)},
    ok.

a_registered_process_is_told_to_exit_when_the_zone_stops(Config) ->
    Pid = server(zone(Config), ?NAME),
    ok = gen_server:stop(zone(Config)),
    shutdown =
        receive
            {'EXIT', Pid, Reason} -> Reason
        end.

register_name_returns_yes_or_no_as_in_global(Config) ->
    Zone = zone(Config),
    [One, Two] = [tracked_child:loose(start_deaf) || _ <- [1, 2]],
    Answers = fun(Module, Name) ->
        [
            Module:register_name(Name, One),
            Module:register_name(Name, Two),
            Module:register_name(Name, One),
            Module:whereis_name(Name),
            Module:unregister_name(Name),
            Module:whereis_name(Name),
            Module:unregister_name(Name),
            Module:register_name(Name, Two),
            Module:whereis_name(Name)
        ]
    end,
    Expected = Answers(global, {Zone, ?NAME}),
    [yes, no, no, One, ok, undefined, ok, yes, Two] = Expected,
    ?assertEqual(Expected, Answers(gen_tracker, {Zone, ?NAME})),
    [kill(Pid) || Pid <- [One, Two]].

register_name_waits_for_a_cleanup(Config) ->
    Zone = zone(Config),
    {_, Cleaner} = tracked_child:terminating(Zone, ?NAME),
    Child = tracked_child:loose(start_deaf),
    Asked = callers:ask(fun() -> register_name({Zone, ?NAME}, Child) end),
    callers:waiting(),
    undefined = whereis_name({Zone, ?NAME}),
    Cleaner ! done,
    {answer, yes} = callers:answer(Asked),
    Child = whereis_name({Zone, ?NAME}).

%% The error names the process that was started.
register_name_waits_for_a_start(Config) ->
    Zone = zone(Config),
    {Asked, Starter} = tracked_child:gated(Zone, ?NAME),
    Started = callers:ask(fun() ->
        gen_server:start(via(Zone, ?NAME), ?MODULE, self(), [])
    end),
    callers:waiting(),
    Starter ! go,
    {answer, {ok, Pid}} = callers:answer(Asked),
    {answer, {error, {already_started, Pid}}} = callers:answer(Started),
    %% The name is free if the start fails.
    Failing = {
        other,
        {
            tracked_child,
            start_with,
            [
                self(),
                fun() ->
                    receive
                        go -> {error, no}
                    end
                end
            ]
        },
        temporary
    },
    Failed = callers:ask(fun() -> find_or_open(Zone, Failing) end),
    {started, Other} =
        receive
            {started, Keeper} when Keeper =/= Pid -> {started, Keeper}
        end,
    Registered = callers:ask(fun() -> register_name({Zone, other}, Pid) end),
    callers:waiting(),
    Other ! go,
    {answer, {error, no}} = callers:answer(Failed),
    {answer, yes} = callers:answer(Registered).

%% The start function lets another process register the name, and waits for it. The test sends the
%% timeout itself.
a_start_that_waits_for_a_registration_of_its_own_name_ends(Config) ->
    Zone = zone(Config),
    Start = fun() ->
        callers:apart(fun() ->
            {error, gen_tracker:register_name({Zone, ?FUNCTION_NAME}, self())}
        end)
    end,
    Asked = callers:ask(fun() ->
        find_or_open(
            Zone, {?FUNCTION_NAME, {tracked_child, start_with, [self(), Start]}, temporary}
        )
    end),
    _ = time_out(Zone),
    ?assertEqual({answer, {error, no}}, callers:answer(Asked)),
    ?assertEqual(undefined, gen_tracker:find(Zone, ?FUNCTION_NAME)).

time_out(Zone) ->
    Zone ! timeout_message(Zone).

%% Returns the timeout message of the only process that registers.
timeout_message(Zone) ->
    Waiting = tracker_state:waiting(Zone),
    Tag = tracker_state:tag(Zone),
    Timeouts = [
        {Tag, register_timeout, Keeper, From}
     || {Keeper, Requests} <- maps:to_list(Waiting), {register, From} <- Requests
    ],
    case Timeouts of
        [Patience] ->
            Patience;
        [] ->
            erlang:yield(),
            timeout_message(Zone)
    end.

%% A cleanup has no time limit.
register_name_waits_for_a_cleanup_without_a_time_limit(Config) ->
    Zone = zone(Config),
    {_, Cleaner} = tracked_child:terminating(Zone, ?NAME),
    Child = tracked_child:loose(start_deaf),
    Asked = callers:ask(fun() -> register_name({Zone, ?NAME}, Child) end),
    Patience = timeout_message(Zone),
    %% The timer is started again.
    ?assertEqual(Patience, timed_again(Zone, fun() -> time_out(Zone) end)),
    Cleaner ! done,
    ?assertEqual({answer, yes}, callers:answer(Asked)).

%% A caller that then waits for the start of another keeper times out after a minute, too.
register_name_times_out_after_the_end_of_a_keeper(Config) ->
    Zone = zone(Config),
    {_, Starter} = tracked_child:gated(Zone, ?NAME),
    Child = tracked_child:loose(start_deaf),
    Asked = callers:ask(fun() -> register_name({Zone, ?NAME}, Child) end),
    {_, register_timeout, Starter, From} = timeout_message(Zone),
    {_, register_timeout, Keeper, From} = timed_again(Zone, fun() -> exit(Starter, kill) end),
    ?assertNotEqual(Starter, Keeper),
    ?assertEqual({answer, yes}, callers:answer(Asked)).

register_name_times_out_after_its_keeper_was_replaced(Config) ->
    Zone = zone(Config),
    Child = tracked_child_reason:open(Zone, ?NAME, permanent, tracked_child_reason:gate()),
    exit(Child, kill),
    {cleaning, ?NAME, Keeper} = messages:await(cleaning),
    Process = tracked_child:loose(start_deaf),
    Asked = callers:ask(fun() -> register_name({Zone, ?NAME}, Process) end),
    {_, register_timeout, Keeper, From} = timeout_message(Zone),
    {_, register_timeout, New, From} = timed_again(Zone, fun() -> exit(Keeper, kill) end),
    ?assertNotEqual(Keeper, New),
    ?assertEqual({answer, no}, callers:answer(Asked)),
    ?assertEqual(New, zones:keeper(Zone, ?NAME)).

%% Returns the timeout message for which `Fun` lets the tracker start a timer of a minute.
timed_again(Zone, Fun) ->
    Tracker = whereis(Zone),
    1 = erlang:trace_pattern({erlang, send_after, 3}, true, []),
    1 = erlang:trace(Tracker, true, [call]),
    Fun(),
    receive
        {trace, Tracker, call, {erlang, send_after, [60000, Tracker, Patience]}} ->
            1 = erlang:trace_pattern({erlang, send_after, 3}, false, []),
            Patience
    end.

%% The keeper has cleaned up. The tracker will handle the exit of the keeper next.
register_name_succeeds_if_the_name_is_free_at_its_timeout(Config) ->
    Zone = zone(Config),
    {_, Cleaner} = tracked_child:terminating(Zone, ?NAME),
    Child = tracked_child:loose(start_deaf),
    Asked = callers:ask(fun() -> register_name({Zone, ?NAME}, Child) end),
    {_, _, Keeper, _} = Patience = timeout_message(Zone),
    Monitor = monitor(process, Keeper),
    ok = sys:suspend(Zone),
    %% The tracker is suspended, and will handle this message first.
    Zone ! Patience,
    Cleaner ! done,
    receive
        {'DOWN', Monitor, process, Keeper, _} -> ok
    end,
    ok = sys:resume(Zone),
    ?assertEqual({answer, yes}, callers:answer(Asked)).

the_reason_of_a_process_that_exits_right_after_its_registration_is_sent(Config) ->
    Zone = zone(Config),
    {ok, []} = gen_tracker:subscribe(Zone),
    Reasons = [
        begin
            Pid = spawn(fun() ->
                yes = register_name({Zone, N}, self()),
                exit({mine, N})
            end),
            receive
                {gen_tracker, Zone, {down, N, Pid, Reason}} -> {N, Reason}
            end
        end
     || N <- lists:seq(1, 5000)
    ],
    ?assertEqual([], [Wrong || {N, Reason} = Wrong <- Reasons, Reason =/= {mine, N}]).

a_dead_process_can_be_registered_and_is_removed(Config) ->
    Zone = zone(Config),
    Dead = spawn(fun() -> ok end),
    _ = down(Dead),
    yes = register_name({Zone, ?NAME}, Dead),
    nothing_is_left(Zone).

an_unregistered_process_lives_on_and_may_be_registered_again(Config) ->
    Zone = zone(Config),
    Pid = server(Zone, ?NAME),
    ok = setattr(Zone, ?NAME, a, 1),
    [
        begin
            ok = unregister_name({Zone, ?NAME}),
            ok = nothing_is_left(Zone),
            yes = register_name({Zone, ?NAME}, Pid),
            Pid = whereis_name({Zone, ?NAME})
        end
     || _ <- lists:seq(1, 1000)
    ],
    %% No earlier keeper still monitors the child: only a registrar and the watchdog are left.
    ok = gen_tracker:wait(Zone),
    Pid = gen_server:call(Pid, who),
    _ = kill(Pid),
    nothing_is_left(Zone),
    IsAlone = fun() -> length(zones:beside(Zone) -- proctab_nif:registrars(Zone)) =:= 1 end,
    wait:until(IsAlone, 60).

a_child_that_the_zone_has_started_cannot_be_unregistered(Config) ->
    Zone = zone(Config),
    Pid = open(Zone, ?NAME),
    ok = unregister_name({Zone, ?NAME}),
    {ok, Pid} = find(Zone, ?NAME).

%% Meanwhile the keeper waits for the exit of this process.
a_process_that_unregisters_while_it_is_stopped_does_not_wait(Config) ->
    Zone = zone(Config),
    Test = self(),
    Pid = spawn_link(fun() ->
        process_flag(trap_exit, true),
        yes = register_name({Zone, ?NAME}, self()),
        Test ! {registered, self()},
        receive
            {'EXIT', _, shutdown} ->
                ok = unregister_name({Zone, ?NAME}),
                exit(in_order)
        end
    end),
    {registered, Pid} = await(registered),
    ok = supervisor:terminate_child(Zone, ?NAME),
    in_order =
        receive
            {'EXIT', Pid, Reason} -> Reason
        end.

an_unregistered_process_survives_its_zone(Config) ->
    Zone = zone(Config),
    Pid = server(Zone, ?NAME),
    ok = unregister_name({Zone, ?NAME}),
    ok = gen_server:stop(Zone),
    Pid = gen_server:call(Pid, who),
    ok = gen_server:stop(Pid).

whereis_name_is_undefined_without_a_running_child(Config) ->
    Zone = zone(Config),
    {_, Cleaner} = tracked_child:terminating(Zone, ending),
    {_, Starter} = tracked_child:gated(Zone, starting),
    [
        undefined = whereis_name(Name)
     || Name <- [{Zone, ending}, {Zone, starting}, {Zone, nobody}, {not_running, ?NAME}]
    ],
    Starter ! go,
    Cleaner ! done.

send_reaches_the_process_or_exits(Config) ->
    Zone = zone(Config),
    Pid = server(Zone, ?NAME),
    Pid = send({Zone, ?NAME}, hello),
    {info, hello} = await(info),
    [
        ?assertExit({badarg, {{Where, nobody}, {a, message}}}, send({Where, nobody}, {a, message}))
     || Where <- [Zone, not_running]
    ].

wrong_names_are_badarg(Config) ->
    Zone = zone(Config),
    Wrong = [name, {Zone}, {"zone", ?NAME}, {Zone, ?NAME, more}, [Zone, ?NAME], 1],
    [?assertError(badarg, Function(Name)) || Name <- Wrong, Function <- [
        fun gen_tracker:unregister_name/1,
        fun gen_tracker:whereis_name/1,
        fun(To) -> send(To, message) end,
        fun(New) -> register_name(New, self()) end
    ]],
    [
        ?assertError(badarg, register_name({Zone, ?NAME}, NoPid))
     || NoPid <- [atom, "pid", 1, make_ref()]
    ],
    ?assertError(badarg, register_name({not_running, ?NAME}, self())),
    ok = unregister_name({not_running, ?NAME}),
    [] = which_children(Zone).
