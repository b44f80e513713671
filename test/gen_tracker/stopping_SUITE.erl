%% Promise: nobody waits for ever in a zone that is stopped. Requests that wait, and those of
%% `after_terminate`, are answered at once. Neither a start function nor `after_terminate` delays
%% the end of a child or a zone by more than the limits of the contract.
%%
%% A case that meets a call that hangs fails by itself within seconds.
-module(stopping_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, stopped/3, opening/2]).
-import(tracked_child, [spec/4, loose/1, gated/2, full/1, plain/1, stubborn/1]).
-import(messages, [await/1, await/2, taken/1]).
-import(tracked_child_reason, [open/3, telling/1, told/1, open/5, cleaning/2]).
-import(timed_call, [within/2, calling/1, answer/2, at_rest/1, ended/2]).
-import(other_node, [with_peer/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        a_request_of_after_terminate_during_the_stop_is_answered_at_once,
        a_request_of_after_terminate_before_the_stop_is_answered_at_once,
        a_request_of_a_caller_before_the_stop_is_answered_at_once,
        a_request_in_the_mailbox_of_the_tracker_is_answered_when_it_stops,
        a_child_that_terminates_another_from_after_terminate_does_not_delay_its_supervisor,
        terminate_child_kills_an_after_terminate_that_never_returns,
        terminate_child_kills_an_after_terminate_that_was_running_before,
        a_longer_shutdown_time_is_given_to_after_terminate,
        an_after_terminate_that_was_killed_is_logged,
        callers_that_wait_for_a_killed_after_terminate_get_the_next_child,
        a_permanent_child_whose_after_terminate_was_killed_is_not_started_again,
        a_zone_with_after_terminates_that_never_return_stops,
        a_start_function_that_hangs_is_given_its_shutdown_time_when_the_zone_stops,
        the_child_of_a_start_function_that_returns_during_the_stop_is_stopped,
        a_start_function_linked_to_another_node_ends_with_the_zone,
        a_start_function_linked_to_another_node_ends_with_a_killed_tracker,
        a_zone_stops_while_a_dead_process_is_added,
        a_start_after_the_end_of_a_child_that_was_added_dead_succeeds,
        a_child_that_is_started_while_it_is_terminated_is_not_left,
        a_zone_refuses_its_own_tracker_as_a_child,
        a_zone_stops_whose_start_function_has_returned_a_process_of_the_library,
        two_zones_that_are_children_of_each_other_stop_by_a_call,
        two_zones_that_are_children_of_each_other_are_stopped_by_their_parent
    ].

%% Requests while a zone stops

a_request_of_after_terminate_during_the_stop_is_answered_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = loose(start_link),
    Requests = [
        {find_or_open, fun() -> gen_tracker:find_or_open(Zone, plain(another)) end},
        {start_child, fun() -> supervisor:start_child(Zone, full(another)) end},
        {add, fun() -> gen_tracker:add_existing_child(Zone, {another, Other, worker, []}) end},
        {terminate_child, fun() -> supervisor:terminate_child(Zone, stubborn) end},
        {delete_child, fun() -> supervisor:delete_child(Zone, stubborn) end}
    ],
    Others = [
        {register_name, fun() -> gen_tracker:register_name({Zone, another}, Other) end, no},
        {count, fun() -> gen_tracker:count(Zone) > 0 end, true},
        {unsubscribe, fun() -> gen_tracker:unsubscribe(Zone) end, ok},
        {which_children, fun() -> returned(supervisor:which_children(Zone)) end, returned},
        {count_children, fun() -> returned(supervisor:count_children(Zone)) end, returned},
        {restart_child, fun() -> returned(supervisor:restart_child(Zone, stubborn)) end, returned},
        {wait, fun() -> gen_tracker:wait(Zone) end, {error, shutdown}},
        {subscribe, fun() -> exit_of(fun() -> gen_tracker:subscribe(Zone) end) end, shutdown}
    ],
    All = [{Name, Ask, {error, shutdown}} || {Name, Ask} <- Requests] ++ Others,
    Stubborn = stubborn(Zone),
    [open(Zone, Name, telling(Ask)) || {Name, Ask, _} <- All],
    Stopping = calling(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    Answers = [{Name, told(Name)} || {Name, _, _} <- All],
    ?assertEqual([{Name, Answer} || {Name, _, Answer} <- All], Answers),
    Stubborn ! {stop, normal},
    {answer, ok} = answer(Stopping, ?LIMIT).

returned(_) ->
    returned.

exit_of(Call) ->
    try
        Call()
    catch
        exit:{Reason, _} -> Reason
    end.

a_request_of_after_terminate_before_the_stop_is_answered_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Dying = fun(Name, Request) ->
        Child = open(Zone, Name, telling(Request)),
        exit(Child, kill),
        {asking, Name, Keeper} = await(asking, Name),
        at_rest(Keeper)
    end,
    answered_when_the_zone_stops(Zone, Dying).

a_request_of_a_caller_before_the_stop_is_answered_at_once(_) ->
    Asking = fun(Name, Request) ->
        Tell = telling(Request),
        calling(fun() -> Tell(Name, [], none) end)
    end,
    answered_when_the_zone_stops(zone(?FUNCTION_NAME), Asking).

%% The requests wait for a child that is being stopped, for one that is starting, and for one that
%% is terminating.
answered_when_the_zone_stops(Zone, Ask) ->
    Stubborn = stubborn(Zone),
    {_, Starter} = gated(Zone, starting),
    Cleaner = cleaning(Zone, cleaning),
    Other = loose(start_link),
    Requests = [
        {terminate, fun() -> supervisor:terminate_child(Zone, stubborn) end},
        {delete, fun() -> supervisor:delete_child(Zone, stubborn) end},
        {open_starting, fun() -> gen_tracker:find_or_open(Zone, plain(starting)) end},
        {start_starting, fun() -> supervisor:start_child(Zone, full(starting)) end},
        {open_cleaning, fun() -> gen_tracker:find_or_open(Zone, plain(cleaning)) end},
        {start_cleaning, fun() -> supervisor:start_child(Zone, full(cleaning)) end},
        {delete_cleaning, fun() -> supervisor:delete_child(Zone, cleaning) end},
        {add, fun() -> gen_tracker:add_existing_child(Zone, {cleaning, Other, worker, []}) end}
    ],
    Registering = {register, fun() -> gen_tracker:register_name({Zone, cleaning}, Other) end},
    [Ask(Name, Request) || {Name, Request} <- [Registering | Requests]],
    {exit_signal, Stubborn, shutdown} = await(exit_signal, Stubborn),
    ok = gen_tracker:wait(Zone),
    [] = taken(told),
    Stopping = calling(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    Expected = [{register, no} | [{Name, {error, shutdown}} || {Name, _} <- Requests]],
    ?assertEqual(Expected, [{Name, told(Name)} || {Name, _} <- Expected]),
    ?assert(is_process_alive(Stubborn)),
    Stubborn ! {stop, normal},
    Cleaner ! go,
    {answer, ok} = answer(Stopping, ?LIMIT),
    ended(Starter, ?SOON).

%% The tracker is suspended while the requests arrive. Then its parent stops it.
a_request_in_the_mailbox_of_the_tracker_is_answered_when_it_stops(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, telling(fun() -> gen_tracker:find_or_open(Zone, plain(another)) end)),
    Stubborn = stubborn(Zone),
    ok = sys:suspend(Zone),
    exit(Child, kill),
    {asking, child, Keeper} = await(asking),
    at_rest(Keeper),
    Callers = [
        calling(fun() -> gen_server:call(Zone, {find_or_open, plain(another)}) end),
        calling(fun() -> supervisor:start_child(Zone, full(another)) end),
        calling(fun() -> supervisor:terminate_child(Zone, stubborn) end)
    ],
    exit(whereis(Zone), shutdown),
    ?assertEqual({error, shutdown}, told(child)),
    [?assertEqual({answer, {error, shutdown}}, answer(Caller, ?SOON)) || Caller <- Callers],
    Stubborn ! {stop, normal},
    {'EXIT', _, shutdown} = await('EXIT'),
    ok.

a_child_that_terminates_another_from_after_terminate_does_not_delay_its_supervisor(_) ->
    Zone = ?FUNCTION_NAME,
    ZoneSpec = #{id => Zone, start => {gen_tracker, start_link, [Zone]}, type => supervisor},
    {ok, Supervisor} = supervisor:start_link(?MODULE, [ZoneSpec]),
    {ok, _} = gen_tracker:find_or_open(
        Zone, spec(dependent, temporary, 500, {start_stubborn, [self()]})
    ),
    {started, _} = await(started),
    Child = open(Zone, child, telling(fun() -> supervisor:terminate_child(Zone, dependent) end)),
    exit(Child, kill),
    {exit_signal, _, shutdown} = await(exit_signal),
    within(?LIMIT, fun() -> ok = supervisor:terminate_child(Supervisor, Zone) end),
    ?assertEqual({error, shutdown}, told(child)),
    undefined = whereis(Zone),
    ok = gen_server:stop(Supervisor).

init(Specs) ->
    {ok, {#{}, Specs}}.

%% Callbacks that never return

terminate_child_kills_an_after_terminate_that_never_returns(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = [{Shutdown, Never} || Shutdown <- [200, brutal_kill], Never <- never_returning()],
    [open(Zone, Name, temporary, Shutdown, Never) || {Shutdown, Never} = Name <- Names],
    given_three_seconds(Zone, Names).

terminate_child_kills_an_after_terminate_that_was_running_before(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = [{Shutdown, Never} || Shutdown <- [200, brutal_kill], Never <- never_returning()],
    Children = [open(Zone, Name, temporary, Shutdown, Never) || {Shutdown, Never} = Name <- Names],
    [exit(Child, kill) || Child <- Children],
    wait:until(fun() -> [] =:= gen_tracker:list(Zone) end),
    given_three_seconds(Zone, Names).

given_three_seconds(Zone, Names) ->
    Stopping = [calling(fun() -> terminated(Zone, Name) end) || Name <- Names],
    [
        begin
            {answer, {Time, ok}} = answer(Asked, ?LIMIT),
            ?assert(Time >= 2900, Time)
        end
     || Asked <- Stopping
    ],
    [
        begin
            {cleaning, Name, Cleaner} = await(cleaning, Name),
            ended(Cleaner, ?SOON),
            undefined = proctab_nif:child(Zone, Name)
        end
     || Name <- Names
    ].

%% `after_terminate` has the shutdown time of the child, or three seconds if that is longer.
a_longer_shutdown_time_is_given_to_after_terminate(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Never | _] = never_returning(),
    Child = open(Zone, child, temporary, 5000, Never),
    exit(Child, kill),
    {cleaning, child, _} = await(cleaning),
    {Time, ok} = terminated(Zone, child),
    ?assert(Time >= 4900, Time).

an_after_terminate_that_was_killed_is_logged(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Never | _] = never_returning(),
    _ = open(Zone, a_child_to_be_named, temporary, 200, Never),
    ok = log_text:listen(),
    {_, ok} = terminated(Zone, a_child_to_be_named),
    Texts = ["after_terminate", atom_to_list(Zone), "a_child_to_be_named"],
    log_text:logged(Texts, ?SOON).

callers_that_wait_for_a_killed_after_terminate_get_the_next_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Never | _] = never_returning(),
    Child = open(Zone, child, temporary, 200, Never),
    exit(Child, kill),
    {cleaning, child, _} = await(cleaning),
    Waiting = [opening(Zone, plain(child)) || _ <- [1, 2, 3]],
    {_, ok} = terminated(Zone, child),
    [{answer, {ok, Next}}] = lists:usort([answer(Asked, ?SOON) || Asked <- Waiting]),
    ?assertEqual({ok, Next}, gen_tracker:find(Zone, child)).

a_permanent_child_whose_after_terminate_was_killed_is_not_started_again(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Never | _] = never_returning(),
    Spec = {child, {tracked_child_reason, start_link, [self()]}, permanent},
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started),
    ok = gen_tracker:setattr(Zone, child, last, Never),
    exit(Child, kill),
    {cleaning, child, _} = await(cleaning),
    {_, ok} = terminated(Zone, child),
    [] = supervisor:which_children(Zone),
    [] = taken(started).

a_zone_with_after_terminates_that_never_return_stops(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = [{Number, Never} || Number <- lists:seq(1, 20), Never <- never_returning()],
    Children = [open(Zone, Name, temporary, 200, Never) || {_, Never} = Name <- Names],
    {Killed, _} = lists:split(30, lists:zip(Names, Children)),
    [exit(Child, kill) || {_, Child} <- Killed],
    [{cleaning, Name, _} = await(cleaning, Name) || {Name, _} <- Killed],
    zones:stop(Zone, ?LIMIT),
    [ended(Cleaner, ?SOON) || {cleaning, _, Cleaner} <- taken(cleaning)].

%% Returns funs that wait, that ignore all messages and exit signals, and that compute.
never_returning() ->
    Test = self(),
    Say = fun(Name) -> Test ! {cleaning, Name, self()} end,
    [
        fun(Name, _, _) ->
            Say(Name),
            receive
                never -> ok
            end
        end,
        fun(Name, _, _) ->
            Say(Name),
            process_flag(trap_exit, true),
            swallow()
        end,
        fun(Name, _, _) ->
            Say(Name),
            process_flag(priority, low),
            spin()
        end
    ].

swallow() ->
    receive
        _ -> swallow()
    end.

spin() ->
    erlang:yield(),
    spin().

%% Start functions while a zone stops

a_start_function_that_hangs_is_given_its_shutdown_time_when_the_zone_stops(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            Starts = [{start_gated, [self(), go]}, {start_halfway, [self()]}],
            Callers = [
                opening(Zone, spec({Start, Shutdown}, permanent, Shutdown, Start))
             || Start <- Starts, Shutdown <- [50, 1000, brutal_kill]
            ],
            Starters = [element(2, await(gated)) || _ <- [1, 2, 3]],
            Halfway = [element(2, await(halfway)) || _ <- [1, 2, 3]],
            {Time, Reason} = timed_call:elapsed(fun() -> stopped(Zone, Stop, ?LIMIT) end),
            ?assert(Time >= 900, Time),
            [?assertEqual({answer, {error, shutdown}}, answer(Caller, ?SOON)) || Caller <- Callers],
            [ended(Pid, ?SOON) || Pid <- Starters ++ Halfway]
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

%% The start function continues once the other child has received its exit signal.
the_child_of_a_start_function_that_returns_during_the_stop_is_stopped(_) ->
    Zone = zone(?FUNCTION_NAME),
    Stubborn = stubborn(Zone),
    Spec = spec(name, permanent, 10000, {start_gated, [self(), go]}),
    Opening = opening(Zone, Spec),
    {gated, Starter} = await(gated),
    Stopping = calling(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    {exit_signal, Stubborn, shutdown} = await(exit_signal),
    ?assertEqual({answer, {error, shutdown}}, answer(Opening, ?SOON)),
    Starter ! go,
    case [Child || {started, Child} <- taken(started)] of
        [] -> ok;
        [Child] -> ended(Child, ?SOON)
    end,
    Stubborn ! {stop, normal},
    {answer, ok} = answer(Stopping, ?LIMIT),
    ended(Starter, ?SOON),
    [ended(Late, ?SOON) || {started, Late} <- taken(started)].

a_start_function_linked_to_another_node_ends_with_the_zone(_) ->
    linked_to_another_node(?FUNCTION_NAME, fun(Zone, _) ->
        ?assertEqual(shutdown, stopped(Zone, fun(Tracker) -> exit(Tracker, shutdown) end, ?LIMIT))
    end).

a_start_function_linked_to_another_node_ends_with_a_killed_tracker(_) ->
    linked_to_another_node(?FUNCTION_NAME, fun(Zone, _) ->
        _ = tracked_child:kill(whereis(Zone))
    end).

linked_to_another_node(Zone, End) ->
    with_peer(fun(_, Node) ->
        Test = self(),
        zone(Zone),
        Hanging = fun() ->
            _ = spawn_link(Node, timer, sleep, [infinity]),
            tracked_child:start_halfway(Test)
        end,
        Spec = spec(name, temporary, 200, {start_with, [Test, Hanging]}),
        _ = opening(Zone, Spec),
        {started, Starter} = await(started),
        {halfway, Halfway} = await(halfway),
        End(Zone, Starter),
        [ended(Pid, ?LIMIT) || Pid <- [Starter, Halfway]]
    end).

%% Children that the stop meets at an awkward moment

%% The keeper needs the child's exit reason from the tracker, which is stopping.
a_zone_stops_while_a_dead_process_is_added(_) ->
    Zone = zone(?FUNCTION_NAME),
    Dead = spawn(fun() -> ok end),
    _ = tracked_child:down(Dead),
    ok = sys:suspend(Zone),
    Adding = calling(fun() -> gen_tracker:add_existing_child(Zone, {dead, Dead, worker, []}) end),
    Stopping = calling(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    ok = sys:resume(Zone),
    {answer, ok} = answer(Stopping, ?LIMIT),
    {answer, Added} = answer(Adding, ?SOON),
    ?assert(lists:member(Added, [{ok, Dead}, {error, shutdown}]), Added).

%% The tracker handles all three requests before it learns that the first child is dead.
a_start_after_the_end_of_a_child_that_was_added_dead_succeeds(_) ->
    Zone = zone(?FUNCTION_NAME),
    Starts = [
        fun() -> gen_server:call(Zone, {find_or_open, plain(child)}) end,
        fun() -> supervisor:start_child(Zone, full(child)) end,
        fun() -> gen_tracker:add_existing_child(Zone, {child, loose(start_link), worker, []}) end
    ],
    [
        begin
            Dead = spawn(fun() -> ok end),
            _ = tracked_child:down(Dead),
            ok = sys:suspend(Zone),
            Adding = calling(fun() ->
                gen_server:call(Zone, {add_existing_child, {child, Dead, worker, []}})
            end),
            Ending = calling(fun() -> supervisor:terminate_child(Zone, child) end),
            Starting = calling(Start),
            ok = sys:resume(Zone),
            ?assertEqual({answer, {ok, Dead}}, answer(Adding, ?SOON)),
            ?assertEqual({answer, ok}, answer(Ending, ?SOON)),
            {answer, {ok, Child}} = answer(Starting, ?SOON),
            ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)),
            ok = supervisor:terminate_child(Zone, child)
        end
     || Start <- Starts
    ].

%% The start function does not link its child.
a_child_that_is_started_while_it_is_terminated_is_not_left(_) ->
    Zone = zone(?FUNCTION_NAME),
    Ways = [
        fun(Name) ->
            gen_tracker:wait(Zone),
            supervisor:terminate_child(Zone, Name)
        end,
        fun(_) -> gen_server:call(Zone, shutdown, infinity) end
    ],
    [
        begin
            Opening = opening(
                Zone, spec(Name, temporary, 300, {start_with, [self(), coming_up()]})
            ),
            {begun, Starter} = await(begun),
            Ending = calling(fun() -> End(Name) end),
            Starter ! go,
            {coming, Child} = await(coming),
            {answer, ok} = answer(Ending, ?LIMIT),
            {answer, {error, _}} = answer(Opening, ?SOON),
            ?assertNot(is_process_alive(Child))
        end
     || {Name, End} <- lists:zip([first, second], Ways)
    ].

%% A start function. Its child traps exits and ignores `shutdown`.
coming_up() ->
    Test = self(),
    fun() ->
        Test ! {begun, self()},
        receive
            go -> ok
        end,
        Child = spawn(fun() ->
            process_flag(trap_exit, true),
            Test ! {coming, self()},
            deaf()
        end),
        {ok, Child}
    end.

deaf() ->
    receive
        _ -> deaf()
    end.

%% Trackers as children

a_zone_refuses_its_own_tracker_as_a_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Tracker = whereis(Zone),
    Full = spec(child, temporary, infinity, {start_link, [self()]}),
    [
        ?assertError(badarg, gen_tracker:add_existing_child(Zone, Child))
     || Child <- [{child, Tracker, worker, []}, {Tracker, Full}]
    ],
    [] = supervisor:which_children(Zone),
    zones:stop(Zone, ?SOON).

%% The start functions return the watchdog and the sender of events. When these are terminated, the
%% tracker replaces the watchdog, and the subscription ends.
a_zone_stops_whose_start_function_has_returned_a_process_of_the_library(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, []} = gen_tracker:subscribe(Zone),
    Own = zones:beside(Zone),
    [_Watchdog, _Events] = Own,
    Return = fun(Pid) ->
        spec(Pid, temporary, infinity, {start_with, [self(), fun() -> {ok, Pid} end]})
    end,
    [{ok, Pid} = gen_tracker:find_or_open(Zone, Return(Pid)) || Pid <- Own],
    [ok = within(?SOON, fun() -> supervisor:terminate_child(Zone, Pid) end) || Pid <- Own],
    receive
        {gen_tracker, Zone, unsubscribed} -> ok
    after ?SOON -> ct:fail(still_subscribed)
    end,
    [NewWatchdog] = zones:beside(Zone),
    {ok, NewWatchdog} = gen_tracker:find_or_open(Zone, Return(NewWatchdog)),
    zones:stop(Zone, ?SOON).

two_zones_that_are_children_of_each_other_stop_by_a_call(_) ->
    crossed(?FUNCTION_NAME, fun(Zone) ->
        timed_call:calling(fun() -> gen_server:call(Zone, shutdown, infinity) end)
    end).

two_zones_that_are_children_of_each_other_are_stopped_by_their_parent(_) ->
    crossed(?FUNCTION_NAME, fun(Zone) -> exit(whereis(Zone), shutdown) end).

%% The second zone may have stopped together with the first one.
crossed(Zone, Stop) ->
    Second = list_to_atom(atom_to_list(Zone) ++ "_second"),
    [
        begin
            Trackers = [whereis(zone(Each)) || Each <- [Zone, Second]],
            [First, Other] = Trackers,
            {ok, Other} = gen_tracker:add_existing_child(Zone, Form(Other)),
            {ok, First} = gen_tracker:add_existing_child(Second, Form(First)),
            Stop(Zone),
            _ = ended(First, ?LIMIT),
            is_process_alive(Other) andalso whereis(Second) =:= Other andalso Stop(Second),
            _ = ended(Other, ?LIMIT)
        end
     || Form <- [
            fun(Pid) -> {child, Pid, worker, []} end,
            fun(Pid) -> {Pid, spec(child, temporary, infinity, {start_link, [self()]})} end
        ]
    ].

%% Terminates a child, and returns the milliseconds that it takes, and the answer.
terminated(Zone, Name) ->
    timed_call:elapsed(fun() ->
        within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end)
    end).
