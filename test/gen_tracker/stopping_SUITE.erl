%% Promise: "Who waits never hangs", and a zone that is told to stop does. What an `after_terminate'
%% asks of its zone meanwhile is answered at once, and neither that nor a start function holds up
%% the end of a child or a zone for longer than the contract says, whatever it does.
%%
%% Each case fails by itself when something hangs. Limits of time are generous: they tell the time
%% that the contract gives from for ever.
-module(stopping_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [zone/1, spec/2, spec/4, await/1, await/2, taken/1, loose/1, gated/2]).
-import(zones, [within/2, asked/1, answer/2, at_rest/1, stopped/3, ended/2, keeper/2, with_node/1]).

%% How long something may take that is to come at once.
-define(SOON, 2000).
%% How long something may take that has three seconds by the contract, or less.
-define(LIMIT, 12000).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        a_request_of_after_terminate_after_the_stop_began_is_answered_at_once,
        a_request_of_after_terminate_before_the_stop_began_is_answered_at_once,
        a_request_of_a_caller_before_the_stop_began_is_answered_at_once,
        a_request_that_the_tracker_has_not_taken_is_answered_when_it_stops,
        a_child_that_ends_another_from_after_terminate_does_not_hold_up_its_supervisor,
        terminate_child_kills_an_after_terminate_that_never_returns,
        terminate_child_kills_an_after_terminate_that_was_running_before,
        a_longer_shutdown_time_is_given_to_after_terminate,
        an_after_terminate_that_was_killed_is_logged,
        who_waited_for_an_after_terminate_that_was_killed_gets_the_name,
        a_permanent_child_whose_after_terminate_was_killed_is_not_started_again,
        a_zone_with_after_terminates_that_never_return_stops,
        a_start_function_that_hangs_is_given_its_shutdown_time_when_the_zone_stops,
        a_start_function_that_returns_after_the_stop_began_has_its_child_stopped,
        a_start_function_linked_to_another_node_ends_with_the_zone,
        a_start_function_linked_to_another_node_ends_with_a_killed_tracker,
        the_child_of_a_start_function_that_does_what_it_likes_can_be_terminated,
        the_child_of_a_start_function_that_does_what_it_likes_is_cleaned_up_once,
        the_child_of_a_start_function_that_does_what_it_likes_ends_with_the_zone,
        the_child_of_a_start_function_that_does_what_it_likes_ends_with_a_killed_tracker,
        terminate_child_is_not_lost_in_a_start_function_that_does_what_it_likes,
        a_stop_is_not_lost_in_a_start_function_that_does_what_it_likes,
        a_start_function_that_does_what_it_likes_and_crashes_leaves_nothing,
        init_ack_returns_although_the_start_function_flushes_its_mailbox,
        a_zone_stops_although_a_start_function_flushes_what_init_ack_asks,
        a_child_with_a_long_name_survives_its_keeper,
        a_starting_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed,
        a_terminating_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed,
        a_restarting_child_with_a_long_name_is_started_when_its_keeper_is_killed,
        a_pending_child_with_a_long_name_is_started_when_its_keeper_is_killed,
        a_zone_stops_while_a_dead_process_is_added,
        a_start_after_the_end_of_a_child_that_was_added_dead_is_made,
        a_child_that_comes_up_while_it_is_ended_is_not_left_behind,
        a_transient_child_that_ended_normally_stays_away_when_its_keeper_is_killed,
        a_child_that_takes_its_keeper_along_is_restarted_ever_more_slowly,
        the_own_tracker_is_no_child,
        a_zone_stops_whose_start_function_has_returned_a_process_of_its_own,
        a_zone_stops_whose_child_is_a_tracker_that_has_it_as_a_child,
        a_zone_that_its_parent_stops_may_be_the_child_of_its_child,
        a_zone_stops_when_there_can_be_no_more_processes,
        a_child_ends_when_there_can_be_no_more_processes,
        a_watchdog_that_was_killed_when_there_could_be_no_more_processes_is_replaced,
        nothing_is_left_of_a_killed_tracker_when_there_could_be_no_more_processes
    ].

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    Config.

end_per_testcase(_Case, _Config) ->
    _ = logger:remove_handler(tracked_child),
    zones:clean_up().

%% Requests of a zone that stops

%% "`{error, shutdown}` for every request that waits or comes after the stop began."
a_request_of_after_terminate_after_the_stop_began_is_answered_at_once(_) ->
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
    Stopping = asked(fun() -> gen_server:call(Zone, shutdown, infinity) end),
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

a_request_of_after_terminate_before_the_stop_began_is_answered_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Dying = fun(Name, Request) ->
        Child = open(Zone, Name, telling(Request)),
        exit(Child, kill),
        {asking, Name, Keeper} = await(asking, Name),
        at_rest(Keeper)
    end,
    answered_when_the_zone_stops(Zone, Dying).

a_request_of_a_caller_before_the_stop_began_is_answered_at_once(_) ->
    Asking = fun(Name, Request) ->
        Tell = telling(Request),
        asked(fun() -> Tell(Name, [], none) end)
    end,
    answered_when_the_zone_stops(zone(?FUNCTION_NAME), Asking).

%% Requests that wait for a child that is told to stop, for one that is being started, and for one
%% that is being cleaned up.
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
    Stopping = asked(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    Expected = [{register, no} | [{Name, {error, shutdown}} || {Name, _} <- Requests]],
    ?assertEqual(Expected, [{Name, told(Name)} || {Name, _} <- Expected]),
    ?assert(is_process_alive(Stubborn)),
    Stubborn ! {stop, normal},
    Cleaner ! go,
    {answer, ok} = answer(Stopping, ?LIMIT),
    ended(Starter, ?SOON).

%% The tracker is suspended while the requests come, and is stopped by its parent then.
a_request_that_the_tracker_has_not_taken_is_answered_when_it_stops(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, telling(fun() -> gen_tracker:find_or_open(Zone, plain(another)) end)),
    _ = stubborn(Zone),
    ok = sys:suspend(Zone),
    exit(Child, kill),
    {asking, child, Keeper} = await(asking),
    at_rest(Keeper),
    Callers = [
        opening(Zone, plain(another)),
        asked(fun() -> supervisor:start_child(Zone, full(another)) end),
        asked(fun() -> supervisor:terminate_child(Zone, stubborn) end)
    ],
    Stubborn = tracked(Zone, stubborn),
    exit(whereis(Zone), shutdown),
    ?assertEqual({error, shutdown}, told(child)),
    [?assertEqual({answer, {error, shutdown}}, answer(Caller, ?SOON)) || Caller <- Callers],
    Stubborn ! {stop, normal},
    {'EXIT', _, shutdown} = await('EXIT'),
    ok.

%% A stream ends the child that it depends on just before its application is stopped.
a_child_that_ends_another_from_after_terminate_does_not_hold_up_its_supervisor(_) ->
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

%% Last words that never return

terminate_child_kills_an_after_terminate_that_never_returns(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = [{Shutdown, Never} || Shutdown <- [200, brutal_kill], Never <- never_returning()],
    [open(Zone, Name, Shutdown, Never) || {Shutdown, Never} = Name <- Names],
    given_three_seconds(Zone, Names).

terminate_child_kills_an_after_terminate_that_was_running_before(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = [{Shutdown, Never} || Shutdown <- [200, brutal_kill], Never <- never_returning()],
    Children = [open(Zone, Name, Shutdown, Never) || {Shutdown, Never} = Name <- Names],
    [exit(Child, kill) || Child <- Children],
    zones:soon(fun() -> [] =:= gen_tracker:list(Zone) end),
    given_three_seconds(Zone, Names).

given_three_seconds(Zone, Names) ->
    Stopping = [asked(fun() -> terminated(Zone, Name) end) || Name <- Names],
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

%% "The shutdown time or 3 s, whichever is longer."
a_longer_shutdown_time_is_given_to_after_terminate(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Never | _] = never_returning(),
    Child = open(Zone, child, 5000, Never),
    exit(Child, kill),
    {cleaning, child, _} = await(cleaning),
    {Time, ok} = terminated(Zone, child),
    ?assert(Time >= 4900, Time).

an_after_terminate_that_was_killed_is_logged(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Never | _] = never_returning(),
    _ = open(Zone, a_child_to_be_named, 200, Never),
    ok = tracked_child:listen(),
    {_, ok} = terminated(Zone, a_child_to_be_named),
    Texts = ["after_terminate", atom_to_list(Zone), "a_child_to_be_named"],
    zones:logged(Texts, ?SOON).

who_waited_for_an_after_terminate_that_was_killed_gets_the_name(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Never | _] = never_returning(),
    Child = open(Zone, child, 200, Never),
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
    Children = [open(Zone, Name, 200, Never) || {_, Never} = Name <- Names],
    {Killed, _} = lists:split(30, lists:zip(Names, Children)),
    [exit(Child, kill) || {_, Child} <- Killed],
    [{cleaning, Name, _} = await(cleaning, Name) || {Name, _} <- Killed],
    zones:stop(Zone, ?LIMIT),
    [ended(Cleaner, ?SOON) || {cleaning, _, Cleaner} <- taken(cleaning)].

%% Last words that wait, that take what they are sent and do not obey, and that compute.
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

%% Start functions when the zone stops

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
            {Time, Reason} = zones:elapsed(fun() -> stopped(Zone, Stop, ?LIMIT) end),
            ?assert(Time >= 900, Time),
            [?assertEqual({answer, {error, shutdown}}, answer(Caller, ?SOON)) || Caller <- Callers],
            [ended(Pid, ?SOON) || Pid <- Starters ++ Halfway]
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

%% It is released when the others know that the stop has begun.
a_start_function_that_returns_after_the_stop_began_has_its_child_stopped(_) ->
    Zone = zone(?FUNCTION_NAME),
    Stubborn = stubborn(Zone),
    Spec = spec(name, permanent, 10000, {start_gated, [self(), go]}),
    Opening = opening(Zone, Spec),
    {gated, Starter} = await(gated),
    Stopping = asked(fun() -> gen_server:call(Zone, shutdown, infinity) end),
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
    with_node(fun(_, Node) ->
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

%% Start functions that do what they like

%% "None of that loses a stop, a cleanup, the name, or an `init_ack`." What a start function does
%% before it starts its child, and then, in the process that calls it.
misdeeds() ->
    Nothing = fun() -> ok end,
    Trap = fun() -> process_flag(trap_exit, false) end,
    Every = fun() ->
        unlink_all(),
        Trap(),
        flush(),
        erase()
    end,
    [
        {trap_exit_before, Trap, Nothing},
        {trap_exit_after, Nothing, Trap},
        {unlink_before, fun unlink_all/0, Nothing},
        {unlink_after, Nothing, fun unlink_all/0},
        {flush, fun flush/0, fun flush/0},
        {erase, fun erlang:erase/0, fun erlang:erase/0},
        {
            unlink_and_trap_exit,
            Nothing,
            fun() ->
                unlink_all(),
                Trap()
            end
        },
        {everything, Every, Every}
    ].

unlink_all() ->
    {links, Links} = process_info(self(), links),
    lists:foreach(fun unlink/1, Links).

flush() ->
    receive
        _ -> flush()
    after 0 -> ok
    end.

%% Starts a child, linked or not, as one of the misdeeds has it. It waits in the middle if the test
%% has asked for that.
start_misbehaving(Test, Misdeed, Gate) ->
    {_, Before, After} = lists:keyfind(Misdeed, 1, misdeeds()),
    Before(),
    Child = proc_lib:spawn_link(fun() ->
        receive
            {stop, Reason} -> exit(Reason)
        end
    end),
    Test ! {begun, Misdeed, self(), Child},
    case Gate of
        gate ->
            receive
                go -> ok
            end;
        crash ->
            After(),
            error(misbehaved);
        none -> ok
    end,
    After(),
    {ok, Child}.

misbehaving(Misdeed, Gate) ->
    Start = {?MODULE, start_misbehaving, [self(), Misdeed, Gate]},
    {{self(), Misdeed}, Start, temporary, 200, worker, []}.

%% A child of this suite is named for the process that wants to know.
after_terminate({taking_along, Test}, _, _) ->
    Test ! cleaning,
    exit(self(), kill),
    receive
        never -> ok
    end;
after_terminate({Test, _} = Name, _, Reason) ->
    Test ! {last_words, Name, Reason};
after_terminate(_, _, _) ->
    ok.

%% Opens a child for each of the misdeeds.
misbehaving(Zone) ->
    [
        begin
            {answer, {ok, Child}} = answer(opening(Zone, misbehaving(Misdeed, none)), ?SOON),
            {begun, Misdeed, _, Child} = await(begun),
            {{self(), Misdeed}, Child}
        end
     || {Misdeed, _, _} <- misdeeds()
    ].

the_child_of_a_start_function_that_does_what_it_likes_can_be_terminated(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end),
            ?assertEqual({Name, shutdown}, {Name, shut(Child)}),
            one_cleanup(Zone, Name, shutdown)
        end
     || {Name, Child} <- misbehaving(Zone)
    ].

shut(Child) ->
    case is_process_alive(Child) of
        false -> shutdown;
        true -> still_alive
    end.

the_child_of_a_start_function_that_does_what_it_likes_is_cleaned_up_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            exit(Child, Sent),
            _ = ended(Child, ?SOON),
            ?assertMatch({last_words, Name, Seen}, await(last_words)),
            one_cleanup(Zone, Name)
        end
     || {Sent, Seen} <- [{kill, killed}, {crash, crash}], {Name, Child} <- misbehaving(Zone)
    ].

one_cleanup(Zone, Name, Reason) ->
    ?assertEqual({last_words, Name, Reason}, await(last_words)),
    one_cleanup(Zone, Name).

%% The next child of that name has no attributes, and is there alone.
one_cleanup(Zone, Name) ->
    ignore = within(?SOON, fun() -> gen_tracker:find_or_open(Zone, ignoring(Name)) end),
    [] = taken(last_words),
    undefined = proctab_nif:child(Zone, Name).

ignoring(Name) ->
    {Name, {erlang, hd, [[ignore]]}, temporary}.

the_child_of_a_start_function_that_does_what_it_likes_ends_with_the_zone(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            Children = misbehaving(Zone),
            ?assertEqual(Reason, stopped(Zone, Stop, ?LIMIT)),
            [] = [Name || {Name, Child} <- Children, is_process_alive(Child)],
            Said = [Name || {last_words, Name, _} <- taken(last_words)],
            ?assertEqual(lists:sort([Name || {Name, _} <- Children]), lists:sort(Said))
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

the_child_of_a_start_function_that_does_what_it_likes_ends_with_a_killed_tracker(_) ->
    Zone = zone(?FUNCTION_NAME),
    Children = misbehaving(Zone),
    _ = tracked_child:kill(whereis(Zone)),
    [{Misdeed, _} = {Misdeed, ended(Child, ?LIMIT)} || {{_, Misdeed}, Child} <- Children].

%% The stop comes while the start function runs, which then does the rest. It succeeds.
terminate_child_is_not_lost_in_a_start_function_that_does_what_it_likes(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Name = {self(), Misdeed},
            Opening = opening(Zone, setelement(4, misbehaving(Misdeed, gate), 5000)),
            {begun, Misdeed, Starter, Child} = await(begun),
            Stopping = asked(fun() -> supervisor:terminate_child(Zone, Name) end),
            ok = gen_tracker:wait(Zone),
            Starter ! go,
            ?assertEqual({Misdeed, {answer, ok}}, {Misdeed, answer(Stopping, ?LIMIT)}),
            ?assertEqual({Misdeed, {answer, {error, killed}}}, {Misdeed, answer(Opening, ?SOON)}),
            _ = ended(Child, ?SOON),
            _ = taken(last_words),
            one_cleanup(Zone, Name)
        end
     || {Misdeed, _, _} <- misdeeds()
    ].

a_stop_is_not_lost_in_a_start_function_that_does_what_it_likes(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            Openings = [
                opening(Zone, setelement(4, misbehaving(Misdeed, gate), 2000))
             || {Misdeed, _, _} <- misdeeds()
            ],
            Begun = [await(begun) || _ <- Openings],
            Stubborn = stubborn(Zone),
            Release = fun(Tracker) ->
                _ = Stop(Tracker),
                {exit_signal, Stubborn, shutdown} = await(exit_signal),
                [Starter ! go || {begun, _, Starter, _} <- Begun],
                Stubborn ! {stop, normal}
            end,
            ?assertEqual(Reason, stopped(Zone, Release, ?LIMIT)),
            [_ = ended(Child, ?SOON) || {begun, _, _, Child} <- Begun],
            [{answer, {error, shutdown}} = answer(Opening, ?SOON) || Opening <- Openings]
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

a_start_function_that_does_what_it_likes_and_crashes_leaves_nothing(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            {answer, Answer} = answer(opening(Zone, misbehaving(Misdeed, crash)), ?SOON),
            ?assertEqual({Misdeed, {error, misbehaved}}, {Misdeed, Answer}),
            undefined = proctab_nif:child(Zone, {self(), Misdeed})
        end
     || {Misdeed, _, _} <- misdeeds()
    ],
    stopped(Zone, fun(Tracker) -> exit(Tracker, shutdown) end, ?SOON).

%% What the child asks of its parent is flushed with all else.
init_ack_returns_although_the_start_function_flushes_its_mailbox(_) ->
    Zone = zone(?FUNCTION_NAME),
    {answer, {ok, Child}} = answer(opening(Zone, flushing(self(), none)), ?SOON),
    ?assertEqual({acknowledged, Child}, await(acknowledged)),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, flushing)),
    ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, flushing) end).

a_zone_stops_although_a_start_function_flushes_what_init_ack_asks(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opening = opening(Zone, flushing(self(), gate)),
    {begun, Starter, Child} = await(begun),
    ok = gen_tracker:wait(Zone),
    Stubborn = stubborn(Zone),
    Release = fun(Tracker) ->
        exit(Tracker, shutdown),
        {exit_signal, Stubborn, shutdown} = await(exit_signal),
        Starter ! go,
        Stubborn ! {stop, normal}
    end,
    ?assertEqual(shutdown, stopped(Zone, Release, ?LIMIT)),
    _ = ended(Child, ?SOON),
    {answer, {error, shutdown}} = answer(Opening, ?SOON).

flushing(Test, Gate) ->
    {flushing, {?MODULE, start_flushing, [Test, Gate]}, temporary, 2000, worker, []}.

start_flushing(Test, Gate) ->
    {ok, Child} = proc_lib:start_link(?MODULE, acknowledge, [Test]),
    %% The child waits to be registered by now.
    at_rest(Child),
    Test ! {begun, self(), Child},
    Gate =:= gate andalso receive
        go -> ok
    end,
    flush(),
    {ok, Child}.

acknowledge(Test) ->
    ok = gen_tracker:init_ack({ok, self()}),
    Test ! {acknowledged, self()},
    receive
        {stop, Reason} -> exit(Reason)
    end.

%% Keepers of children with long names

%% Each over 4,000 words, in its own way.
long_names() ->
    [
        lists:seq(1, 5000),
        list_to_tuple(lists:seq(1, 6000)),
        maps:from_list([{N, [N]} || N <- lists:seq(1, 3000)]),
        {<<1:1>>, binary:copy(<<"name">>, 20000), lists:duplicate(5000, a)}
    ].

a_child_with_a_long_name_survives_its_keeper(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Child = added(Zone, Name),
            kill_keeper(Zone, Name),
            ok = gen_tracker:wait(Zone),
            ?assertEqual({ok, Child}, gen_tracker:find(Zone, Name)),
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end),
            ?assertNot(is_process_alive(Child)),
            ok = told(Name)
        end
     || Name <- long_names()
    ],
    [_ = added(Zone, Name) || Name <- long_names()],
    [kill_keeper(Zone, Name) || Name <- long_names()],
    zones:stop(Zone, ?LIMIT),
    [ok = told(Name) || Name <- long_names()].

%% A child that does not end with its keeper, to which it is not linked.
added(Zone, Name) ->
    Child = loose(start_link),
    Spec = {Name, {tracked_child_reason, start_link, []}, temporary, 200, worker, []},
    {ok, Child} = gen_tracker:add_existing_child(Zone, {Child, Spec}),
    ok = gen_tracker:setattr(Zone, Name, last, telling(fun() -> ok end)),
    Child.

a_starting_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            {Opening, Starter} = gated(Zone, Name),
            exit(Starter, kill),
            {'DOWN', Opening, process, _, {answer, {error, killed}}} = await('DOWN', Opening),
            undefined = proctab_nif:child(Zone, Name),
            _ = open(Zone, Name, telling(fun() -> ok end))
        end
     || Name <- long_names()
    ],
    zones:stop(Zone, ?LIMIT).

a_terminating_child_with_a_long_name_is_forgotten_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Cleaner = cleaning(Zone, Name),
            Ask = lists:nth(Way, [
                fun() -> gen_tracker:find_or_open(Zone, ignoring(Name)) end,
                fun() -> supervisor:terminate_child(Zone, Name) end
            ]),
            Waiting = asked(Ask),
            ok = gen_tracker:wait(Zone),
            exit(Cleaner, kill),
            ?assertEqual({answer, lists:nth(Way, [ignore, ok])}, answer(Waiting, ?SOON)),
            undefined = proctab_nif:child(Zone, Name)
        end
     || Name <- long_names(), Way <- [1, 2]
    ],
    zones:stop(Zone, ?LIMIT).

%% "A permanent child whose restart fails is tried again."
a_restarting_child_with_a_long_name_is_started_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Gated = fun() -> tracked_child:start_gated(Test, go) end,
    [
        begin
            Steps = [restart_SUITE:run(), Gated, restart_SUITE:run()],
            Start = restart_SUITE:scripted(Steps),
            Child = restart_SUITE:open_with(Zone, Name, permanent, Start),
            exit(Child, kill),
            {gated, Starter} = await(gated),
            {started, Starter} = await(started),
            exit(Starter, kill),
            [{started, _}, {started, Next}] = [await(started), await(started)],
            zones:soon(fun() -> gen_tracker:find(Zone, Name) =:= {ok, Next} end),
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end),
            ?assertNot(is_process_alive(Next))
        end
     || Name <- long_names()
    ],
    zones:stop(Zone, ?LIMIT).

a_pending_child_with_a_long_name_is_started_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Fail = fun() -> {error, later} end,
    [
        begin
            Steps = [restart_SUITE:run(), Fail, Fail, Fail, restart_SUITE:run()],
            Start = restart_SUITE:scripted(Steps),
            Child = restart_SUITE:open_with(Zone, Name, permanent, Start),
            exit(Child, kill),
            [{started, _}, {started, Starter}] = [await(started), await(started)],
            exit(Starter, kill),
            zones:soon(fun() -> gen_tracker:find(Zone, Name) =/= undefined end),
            _ = taken(started),
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end)
        end
     || Name <- long_names()
    ],
    zones:stop(Zone, ?LIMIT).

kill_keeper(Zone, Name) ->
    Keeper = keeper(Zone, Name),
    exit(Keeper, kill),
    ended(Keeper, ?SOON).

%% Its keeper learns from the tracker why it ended, and the tracker stops.
a_zone_stops_while_a_dead_process_is_added(_) ->
    Zone = zone(?FUNCTION_NAME),
    Dead = spawn(fun() -> ok end),
    _ = tracked_child:down(Dead),
    ok = sys:suspend(Zone),
    Adding = asked(fun() -> gen_tracker:add_existing_child(Zone, {dead, Dead, worker, []}) end),
    Stopping = asked(fun() -> gen_server:call(Zone, shutdown, infinity) end),
    ok = sys:resume(Zone),
    {answer, ok} = answer(Stopping, ?LIMIT),
    {answer, Added} = answer(Adding, ?SOON),
    ?assert(lists:member(Added, [{ok, Dead}, {error, shutdown}]), Added).

%% The tracker has all three before it is told that the first child is dead.
a_start_after_the_end_of_a_child_that_was_added_dead_is_made(_) ->
    Zone = zone(?FUNCTION_NAME),
    Starts = [
        fun() -> gen_tracker:find_or_open(Zone, plain(child)) end,
        fun() -> supervisor:start_child(Zone, full(child)) end,
        fun() -> gen_tracker:add_existing_child(Zone, {child, loose(start_link), worker, []}) end
    ],
    [
        begin
            Dead = spawn(fun() -> ok end),
            _ = tracked_child:down(Dead),
            ok = sys:suspend(Zone),
            Add = fun() -> gen_tracker:add_existing_child(Zone, {child, Dead, worker, []}) end,
            Adding = asked(Add),
            Ending = asked(fun() -> supervisor:terminate_child(Zone, child) end),
            Starting = asked(Start),
            ok = sys:resume(Zone),
            ?assertEqual({answer, {ok, Dead}}, answer(Adding, ?SOON)),
            ?assertEqual({answer, ok}, answer(Ending, ?SOON)),
            {answer, {ok, Child}} = answer(Starting, ?SOON),
            ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)),
            ok = supervisor:terminate_child(Zone, child)
        end
     || Start <- Starts
    ].

%% "When the tracker is gone, its children are gone", also those that no start function has linked.
a_child_that_comes_up_while_it_is_ended_is_not_left_behind(_) ->
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
            Ending = asked(fun() -> End(Name) end),
            Starter ! go,
            {coming, Child} = await(coming),
            {answer, ok} = answer(Ending, ?LIMIT),
            {answer, {error, _}} = answer(Opening, ?SOON),
            ?assertNot(is_process_alive(Child))
        end
     || {Name, End} <- lists:zip([first, second], Ways)
    ].

%% It traps exits, and ignores `shutdown'.
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

%% "`transient` one whose reason was not `normal`": also when another keeper has to go on.
a_transient_child_that_ended_normally_stays_away_when_its_keeper_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Last = fun(_, _, _) ->
        Test ! {cleaning, self()},
        receive
            never -> ok
        end
    end,
    Child = tracked_child_reason:open(Zone, child, transient, Last),
    normal = tracked_child:stop(Child, normal),
    {cleaning, Keeper} = await(cleaning),
    exit(Keeper, kill),
    ignore = within(?LIMIT, fun() -> gen_tracker:find_or_open(Zone, ignoring(child)) end),
    [] = taken(started).

%% Each end of a keeper counts as a restart: ten are made at once, the next ones wait.
a_child_that_takes_its_keeper_along_is_restarted_ever_more_slowly(_) ->
    Zone = zone(?FUNCTION_NAME),
    Name = {taking_along, self()},
    Start = fun() -> {ok, spawn(fun() -> ok end)} end,
    {ok, _} = gen_tracker:find_or_open(Zone, {Name, {?MODULE, start_fun, [Start]}, permanent}),
    Begin = erlang:monotonic_time(millisecond),
    _ = [
        receive
            cleaning -> ok
        end
     || _ <- lists:seq(1, 14)
    ],
    %% Of 14, three have waited: 50, 200 and 350 ms at least.
    ?assert(erlang:monotonic_time(millisecond) - Begin >= 500),
    ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end).

start_fun(Start) ->
    Start().

%% Trackers as children

the_own_tracker_is_no_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Tracker = whereis(Zone),
    Full = spec(child, temporary, infinity, {start_link, [self()]}),
    [
        ?assertError(badarg, gen_tracker:add_existing_child(Zone, Child))
     || Child <- [{child, Tracker, worker, []}, {Tracker, Full}]
    ],
    [] = supervisor:which_children(Zone),
    zones:stop(Zone, ?SOON).

%% Others take their place as soon as they are told to exit.
a_zone_stops_whose_start_function_has_returned_a_process_of_its_own(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, []} = gen_tracker:subscribe(Zone),
    Own = tracked_child:beside(Zone),
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
    [NewWatchdog] = tracked_child:beside(Zone),
    {ok, NewWatchdog} = gen_tracker:find_or_open(Zone, Return(NewWatchdog)),
    zones:stop(Zone, ?SOON).

a_zone_stops_whose_child_is_a_tracker_that_has_it_as_a_child(_) ->
    crossed(?FUNCTION_NAME, fun(Zone) ->
        zones:asked(fun() -> gen_server:call(Zone, shutdown, infinity) end)
    end).

a_zone_that_its_parent_stops_may_be_the_child_of_its_child(_) ->
    crossed(?FUNCTION_NAME, fun(Zone) -> exit(whereis(Zone), shutdown) end).

%% The second zone may have ended with the first, whose child it was.
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

%% No more processes

at_the_limit(Fun) ->
    zones:on_node(#{env => [{"ERL_FLAGS", "+P 1024"}]}, 50000, fun() ->
        process_flag(trap_exit, true),
        Fun()
    end).

a_zone_stops_when_there_can_be_no_more_processes(_) ->
    Zone = ?FUNCTION_NAME,
    at_the_limit(fun() ->
        Children = everything(zone(Zone)),
        Hog = zones:hog(),
        exit(whereis(Zone), shutdown),
        {'EXIT', _, shutdown} = await('EXIT'),
        zones:let_go(Hog),
        [_ = ended(Child, ?SOON) || Child <- Children],
        undefined = whereis(Zone)
    end).

%% A start that hangs is ended when there is room again at the latest.
a_child_ends_when_there_can_be_no_more_processes(_) ->
    Zone = ?FUNCTION_NAME,
    at_the_limit(fun() ->
        Children = everything(zone(Zone)),
        Names = [running, starting, halfway, cleaning],
        Stopping = [spawned(fun() -> supervisor:terminate_child(Zone, Name) end) || Name <- Names],
        [at_rest(Pid) || {Pid, _} <- Stopping],
        Hog = zones:hog(),
        [Pid ! go || {Pid, _} <- Stopping],
        {answer, ok} = answer(hd(Stopping), ?LIMIT),
        zones:let_go(Hog),
        [{answer, ok} = answer(Asked, ?LIMIT) || Asked <- tl(Stopping)],
        [_ = ended(Child, ?SOON) || Child <- Children],
        [] = supervisor:which_children(Zone)
    end).

spawned(Fun) ->
    spawn_monitor(fun() ->
        receive
            go -> exit({answer, Fun()})
        end
    end).

%% Children in all states, and the processes of which nothing may be left.
everything(Zone) ->
    Running = loose(start_stubborn),
    {ok, Running} = gen_tracker:add_existing_child(Zone, {running, Running, worker, []}),
    {_, Starter} = gated(Zone, starting),
    Halfway = spec(halfway, temporary, 200, {start_halfway, [self()]}),
    _ = opening(Zone, Halfway),
    {halfway, Half} = await(halfway),
    Cleaner = cleaning(Zone, cleaning),
    [Running, Starter, Half, Cleaner].

%% It is killed while the tracker sleeps, and another process takes its place.
a_watchdog_that_was_killed_when_there_could_be_no_more_processes_is_replaced(_) ->
    Zone = ?FUNCTION_NAME,
    at_the_limit(fun() ->
        [Watchdog] = tracked_child:beside(zone(Zone)),
        ok = sys:suspend(Zone),
        Hog = zones:hog(),
        exit(Watchdog, kill),
        _ = ended(Watchdog, ?SOON),
        Filled = zones:fill(),
        ok = sys:resume(Zone),
        ok = gen_tracker:wait(Zone),
        zones:let_go(Hog),
        tracked_process:kill(Filled),
        zones:soon(fun() -> length(tracked_child:beside(Zone)) =:= 1 end),
        {_, Starter} = gated(Zone, starting),
        _ = tracked_child:kill(whereis(Zone)),
        ended(Starter, ?LIMIT)
    end).

nothing_is_left_of_a_killed_tracker_when_there_could_be_no_more_processes(_) ->
    Zone = ?FUNCTION_NAME,
    at_the_limit(fun() ->
        Children = everything(zone(Zone)),
        Beside = tracked_child:beside(Zone),
        Hog = zones:hog(),
        _ = tracked_child:kill(whereis(Zone)),
        [Running, _, _, Cleaner] = Children,
        _ = ended(Running, ?LIMIT),
        zones:let_go(Hog),
        Cleaner ! go,
        [_ = ended(Pid, ?LIMIT) || Pid <- Children ++ Beside]
    end).

%% Children

plain(Name) ->
    spec(Name, temporary).

full(Name) ->
    spec(Name, temporary, 200, {start_link, [self()]}).

open(Zone, Name, Last) ->
    open(Zone, Name, 200, Last).

open(Zone, Name, Shutdown, Last) ->
    Start = {tracked_child_reason, start_link, [self()]},
    {ok, Child} = gen_tracker:find_or_open(Zone, {Name, Start, temporary, Shutdown, worker, []}),
    {started, Child} = await(started, Child),
    ok = gen_tracker:setattr(Zone, Name, last, Last),
    Child.

%% A child of the name `stubborn' that ends when it is sent `{stop, normal}', or after ten seconds.
stubborn(Zone) ->
    Spec = spec(stubborn, temporary, 10000, {start_stubborn, [self()]}),
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started, Child),
    Child.

tracked(Zone, Name) ->
    {ok, Child} = gen_tracker:find(Zone, Name),
    Child.

opening(Zone, Spec) ->
    asked(fun() -> gen_tracker:find_or_open(Zone, Spec) end).

%% Last words that ask something and tell the test.
telling(Ask) ->
    Test = self(),
    fun(Name, _, _) ->
        Test ! {asking, Name, self()},
        Test ! {told, Name, Ask()}
    end.

told(Name) ->
    receive
        {told, Name, Answer} -> Answer
    after ?SOON -> {no_answer, ?SOON}
    end.

%% Makes Name a child that is terminating, with last words that wait for `go'. Their process.
cleaning(Zone, Name) ->
    Child = open(Zone, Name, tracked_child_reason:gate()),
    exit(Child, kill),
    {cleaning, Name, Cleaner} = await(cleaning, Name),
    Cleaner.

%% How long terminate_child takes, and what it answers.
terminated(Zone, Name) ->
    zones:elapsed(fun() ->
        within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end)
    end).
