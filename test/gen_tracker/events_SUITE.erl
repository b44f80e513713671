%% Promise: `subscribe(Zone)` answers "the children at that moment; from then on the caller
%% receives `{gen_tracker, Zone, {up, Name, Pid}}` and `{gen_tracker, Zone, {down, Name, Pid,
%% Reason}}`, for each name in order, none missing, none twice"; `unsubscribe(Zone)`: "no event
%% arrives after it has returned". So a subscriber can keep an exact copy, and "a slow or dead
%% subscriber slows nobody".
-module(events_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [await/1, down/1, kill/1, open/2, spec/2, spec/4, stop/2]).
-import(tracked_process, [eventually/1]).
-import(gen_tracker, [find_or_open/2, subscribe/1, unsubscribe/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        a_subscriber_is_told_of_births_and_deaths_with_their_reasons,
        subscribing_gives_the_children_that_run_at_that_moment,
        a_restart_is_a_death_and_a_birth,
        added_and_registered_processes_are_born_and_die_as_others,
        an_unregistered_process_is_down,
        a_death_is_told_before_after_terminate_is_called,
        what_never_ran_is_no_event,
        subscribing_twice_changes_nothing,
        nothing_arrives_after_unsubscribing,
        one_may_subscribe_again_after_the_last_has_gone,
        nobody_is_left_when_the_last_subscriber_has_gone,
        a_subscriber_that_sleeps_holds_up_nobody_and_misses_nothing,
        the_deaths_at_the_end_of_a_zone_are_told,
        the_deaths_are_told_when_the_tracker_is_killed,
        a_killed_keeper_swallows_no_event,
        a_subscription_ends_with_its_zone,
        subscribers_are_told_when_the_sender_of_events_is_killed,
        every_subscriber_keeps_an_exact_copy_while_all_changes,
        no_birth_is_missed_or_doubled_while_the_first_subscribes,
        what_was_read_and_is_told_as_well_is_no_second_event,
        nobody_else_can_send_events
    ].

init_per_testcase(Case, Config) ->
    process_flag(trap_exit, true),
    [{zone, tracked_child:zone(Case)} | Config].

end_per_testcase(Case, _Config) ->
    tracked_child:stop_zone(Case).

zone(Config) ->
    proplists:get_value(zone, Config).

%% The next event of a zone.
event(Zone) ->
    receive
        {gen_tracker, Zone, Event} -> Event
    after 10000 -> ct:fail(no_event)
    end.

%% The process that sends the events of a zone: a subscriber is monitored by it and nobody else.
sender(Subscriber) ->
    {monitored_by, [Sender]} = process_info(Subscriber, monitored_by),
    Sender.

a_subscriber_is_told_of_births_and_deaths_with_their_reasons(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Reasons = [normal, shutdown, {shutdown, "why"}, crash, {a, [term]}],
    Pids = [open(Zone, {name, Reason}) || Reason <- Reasons],
    [
        ?assertEqual({up, {name, Reason}, Pid}, event(Zone))
     || {Pid, Reason} <- lists:zip(Pids, Reasons)
    ],
    [
        begin
            Reason = stop(Pid, Reason),
            ?assertEqual({down, {name, Reason}, Pid, Reason}, event(Zone))
        end
     || {Pid, Reason} <- lists:zip(Pids, Reasons)
    ],
    Last = open(Zone, last),
    {up, last, Last} = event(Zone),
    exit(Last, kill),
    {down, last, Last, killed} = event(Zone),
    Stopped = open(Zone, stopped),
    ok = supervisor:terminate_child(Zone, stopped),
    [{up, stopped, Stopped}, {down, stopped, Stopped, shutdown}] = [event(Zone), event(Zone)].

subscribing_gives_the_children_that_run_at_that_moment(Config) ->
    Zone = zone(Config),
    Names = [<<"a">>, 1, 1.0, {b, "c"}, []],
    Running = [{Name, open(Zone, Name)} || Name <- Names],
    {_, Starter} = tracked_child:gated(Zone, starting),
    {_, Cleaner} = tracked_child:terminating(Zone, ending),
    {ok, Children} = subscribe(Zone),
    ?assertEqual(lists:sort(Running), lists:sort(Children)),
    Starter ! go,
    {up, starting, _} = event(Zone),
    Cleaner ! done.

a_restart_is_a_death_and_a_birth(Config) ->
    Zone = zone(Config),
    {ok, First} = find_or_open(Zone, spec(?NAME, permanent)),
    {ok, [{?NAME, First}]} = subscribe(Zone),
    crash = stop(First, crash),
    {down, ?NAME, First, crash} = event(Zone),
    {up, ?NAME, Second} = event(Zone),
    {ok, Second} = gen_tracker:find(Zone, ?NAME),
    ok = gen_tracker:wait(Zone),
    [] = tracked_child:taken(gen_tracker).

added_and_registered_processes_are_born_and_die_as_others(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    [Added, Registered] = [tracked_child:loose(start_link) || _ <- [1, 2]],
    {ok, Added} = gen_tracker:add_existing_child(Zone, {added, Added, worker, []}),
    yes = gen_tracker:register_name({Zone, registered}, Registered),
    [{up, added, Added}, {up, registered, Registered}] = [event(Zone), event(Zone)],
    one = stop(Added, one),
    {down, added, Added, one} = event(Zone),
    two = stop(Registered, two),
    {down, registered, Registered, two} = event(Zone).

an_unregistered_process_is_down(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Pid = tracked_child:loose(start_link),
    yes = gen_tracker:register_name({Zone, ?NAME}, Pid),
    ok = gen_tracker:unregister_name({Zone, ?NAME}),
    [{up, ?NAME, Pid}, {down, ?NAME, Pid, unregistered}] = [event(Zone), event(Zone)],
    _ = kill(Pid),
    ok = gen_tracker:wait(Zone),
    [] = tracked_child:taken(gen_tracker).

a_death_is_told_before_after_terminate_is_called(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    %% Its after_terminate lasts until it is sent `done`.
    {Pid, Cleaner} = tracked_child:terminating(Zone, ?NAME),
    [{up, ?NAME, Pid}, {down, ?NAME, Pid, normal}] = [event(Zone), event(Zone)],
    Cleaner ! done.

what_never_ran_is_no_event(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Starts = [
        fun() -> ignore end,
        fun() -> {error, no} end,
        fun() -> error(no) end,
        fun() -> nonsense end
    ],
    _ = [
        find_or_open(Zone, spec(?NAME, permanent, 200, {start_with, [self(), Start]}))
     || Start <- Starts
    ],
    Pid = open(Zone, last),
    {up, last, Pid} = event(Zone).

subscribing_twice_changes_nothing(Config) ->
    Zone = zone(Config),
    Pid = open(Zone, ?NAME),
    [{ok, [{?NAME, Pid}]} = subscribe(Zone) || _ <- [1, 2, 3]],
    normal = stop(Pid, normal),
    {down, ?NAME, Pid, normal} = event(Zone),
    ok = unsubscribe(Zone),
    _ = open(Zone, ?NAME),
    ok = gen_tracker:wait(Zone),
    {ok, [_]} = subscribe(Zone),
    [] = tracked_child:taken(gen_tracker).

%% Births and deaths go on all the while; an event that came later would be found at the end.
nothing_arrives_after_unsubscribing(Config) ->
    Zone = zone(Config),
    {ok, _} = apart_subscribed(Zone),
    [Answers] = tracked_child:while_writing(
        fun(Number) -> _ = kill(open(Zone, Number)) end,
        300,
        [fun() ->
            {ok, _} = subscribe(Zone),
            ok = unsubscribe(Zone),
            tracked_child:taken(gen_tracker)
        end]
    ),
    ?assertEqual([[]], lists:usort(Answers)),
    ok = unsubscribe(Zone).

%% Somebody who stays subscribed, so that the events go on.
apart_subscribed(Zone) ->
    Test = self(),
    Other = spawn_link(fun() ->
        Test ! {subscribed, self(), subscribe(Zone)},
        receive
            stop -> ok
        end
    end),
    receive
        {subscribed, Other, {ok, _}} -> {ok, Other}
    end.

one_may_subscribe_again_after_the_last_has_gone(Config) ->
    Zone = zone(Config),
    [
        begin
            Pid = open(Zone, Round),
            {ok, Children} = subscribe(Zone),
            ?assertEqual(Round, length(Children)),
            true = lists:member({Round, Pid}, Children),
            ok = unsubscribe(Zone)
        end
     || Round <- lists:seq(1, 200)
    ].

nobody_is_left_when_the_last_subscriber_has_gone(Config) ->
    Zone = zone(Config),
    Before = tracked_child:beside(Zone),
    {ok, Other} = apart_subscribed(Zone),
    {ok, []} = subscribe(Zone),
    Sender = sender(Other),
    ok = unsubscribe(Zone),
    true = is_process_alive(Sender),
    unlink(Other),
    _ = kill(Other),
    _ = down(Sender),
    eventually(fun() -> tracked_child:beside(Zone) =:= Before end),
    ok = unsubscribe(Zone).

a_subscriber_that_sleeps_holds_up_nobody_and_misses_nothing(Config) ->
    Zone = zone(Config),
    {ok, Sleeper} = apart_subscribed(Zone),
    true = erlang:suspend_process(Sleeper),
    {ok, []} = subscribe(Zone),
    Told = [
        begin
            Pid = open(Zone, N),
            _ = kill(Pid),
            [event(Zone), event(Zone)]
        end
     || N <- lists:seq(1, 500)
    ],
    eventually(fun() -> process_info(Sleeper, message_queue_len) =:= {message_queue_len, 1000} end),
    {messages, Messages} = process_info(Sleeper, messages),
    ?assertEqual(lists:append(Told), [Event || {gen_tracker, _, Event} <- Messages]).

the_deaths_at_the_end_of_a_zone_are_told(Config) ->
    Zone = zone(Config),
    Children = lists:sort([{Name, open(Zone, Name)} || Name <- lists:seq(1, 100)]),
    {ok, _} = subscribe(Zone),
    ok = gen_server:stop(Zone),
    ?assertEqual(
        [{down, Name, Pid, shutdown} || {Name, Pid} <- Children],
        lists:sort([event(Zone) || _ <- Children])
    ).

the_deaths_are_told_when_the_tracker_is_killed(Config) ->
    Zone = zone(Config),
    Children = lists:sort([{Name, open(Zone, Name)} || Name <- lists:seq(1, 100)]),
    {ok, _} = subscribe(Zone),
    Sender = sender(self()),
    _ = kill(whereis(Zone)),
    Told = [{Name, Pid} || {down, Name, Pid, _} <- [event(Zone) || _ <- Children]],
    ?assertEqual(Children, lists:sort(Told)),
    _ = down(Sender),
    [{gen_tracker, Zone, unsubscribed}] = tracked_child:taken(gen_tracker).

a_killed_keeper_swallows_no_event(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    [
        begin
            Child = tracked_child:loose(start_link),
            {ok, Child} = gen_tracker:add_existing_child(Zone, {Round, Child, worker, []}),
            {running, Child, Keeper, _} = proctab_nif:child(Zone, Round),
            %% One of them dies first.
            exit(Child, stopped),
            exit(Keeper, kill),
            [{up, Round, Child}, {down, Round, Child, _}] = [event(Zone), event(Zone)]
        end
     || Round <- lists:seq(1, 200)
    ].

a_subscription_ends_with_its_zone(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Sender = sender(self()),
    ok = gen_server:stop(Zone),
    _ = down(Sender),
    unsubscribed = event(Zone),
    ?assertError(badarg, subscribe(Zone)),
    Zone = tracked_child:zone(Zone),
    _ = open(Zone, ?NAME),
    {ok, [{?NAME, _}]} = subscribe(Zone),
    [] = tracked_child:taken(gen_tracker).

%% Better than to believe for ever that nothing happens.
subscribers_are_told_when_the_sender_of_events_is_killed(Config) ->
    Zone = zone(Config),
    Pid = open(Zone, ?NAME),
    {ok, [{?NAME, Pid}]} = subscribe(Zone),
    exit(sender(self()), kill),
    unsubscribed = event(Zone),
    {ok, [{?NAME, Pid}]} = subscribe(Zone),
    normal = stop(Pid, normal),
    {down, ?NAME, Pid, normal} = event(Zone).

%% Subscribers come and go while children do; at the end the copy of each who stayed is what the
%% zone has, and no event contradicted it.
every_subscriber_keeps_an_exact_copy_while_all_changes(Config) ->
    Zone = zone(Config),
    Test = self(),
    Changer = fun(Number) ->
        fun() ->
            change(Zone, Number, 400),
            changed
        end
    end,
    Follower = fun() ->
        spawn(fun() ->
            {ok, Children} = subscribe(Zone),
            follow(Zone, maps:from_list(Children), Test)
        end)
    end,
    Followers = fun() ->
        [
            begin
                erlang:yield(),
                Follower()
            end
         || _ <- lists:seq(1, 50)
        ]
    end,
    Comers = fun() ->
        [
            begin
                {ok, _} = subscribe(Zone),
                ok = unsubscribe(Zone)
            end
         || _ <- lists:seq(1, 200)
        ],
        gone
    end,
    [changed, changed, changed, gone, Following] = tracked_child:together([
        Changer(1),
        Changer(2),
        Changer(3),
        Comers,
        Followers
    ]),
    _ = open(Zone, last),
    ok = gen_tracker:wait(Zone),
    Actual = maps:from_list(
        gen_tracker:fold(fun(Name, Pid, Pairs) -> [{Name, Pid} | Pairs] end, [], Zone)
    ),
    [
        begin
            Reason = down(Pid),
            receive
                {copy, Pid, Copy} -> ?assertEqual(Actual, Copy)
            after 0 -> ct:fail(Reason)
            end
        end
     || Pid <- Following
    ].

%% Ten names that live and die, and live in the end.
change(Zone, Number, Rounds) ->
    lists:foreach(
        fun(Round) ->
            {ok, Pid} = find_or_open(Zone, spec({Number, Round rem 10}, temporary)),
            kill_somehow(Round, Pid)
        end,
        lists:seq(1, Rounds)
    ),
    lists:foreach(
        fun(Last) ->
            _ = supervisor:terminate_child(Zone, {Number, Last}),
            {ok, _} = find_or_open(Zone, spec({Number, Last}, temporary))
        end,
        lists:seq(0, 9)
    ).

kill_somehow(Round, Pid) when Round rem 2 =:= 0 -> exit(Pid, kill);
kill_somehow(_, Pid) -> Pid ! {stop, normal}.

%% Each event has to fit what is known; the copy is told once `last` is born.
follow(Zone, Copy, Test) when is_map_key(last, Copy) ->
    receive
        {gen_tracker, Zone, Event} -> follow(Zone, followed(Event, Copy), Test)
    after 0 -> Test ! {copy, self(), Copy}
    end;
follow(Zone, Copy, Test) ->
    receive
        {gen_tracker, Zone, Event} -> follow(Zone, followed(Event, Copy), Test)
    end.

followed({up, Name, Pid}, Copy) when not is_map_key(Name, Copy) -> Copy#{Name => Pid};
followed({down, Name, Pid, _}, Copy) when map_get(Name, Copy) =:= Pid -> maps:remove(Name, Copy).

%% One name after the other is born, and the only subscriber comes and goes: what it sees has no
%% gap, and nothing twice.
no_birth_is_missed_or_doubled_while_the_first_subscribes(Config) ->
    Zone = zone(Config),
    Birth = fun(Number) -> {ok, _} = find_or_open(Zone, spec({born, Number}, temporary)) end,
    Round = fun() ->
        {ok, Children} = subscribe(Zone),
        Last = make_ref(),
        {ok, _} = find_or_open(Zone, spec(Last, temporary)),
        Seen = lists:sort([Number || {{born, Number}, _} <- Children] ++ born_until(Zone, Last)),
        ok = unsubscribe(Zone),
        {length(Seen), Seen =:= lists:seq(1, length(Seen))}
    end,
    [Answers] = tracked_child:while_writing(Birth, 300, [Round]),
    ?assertEqual([], [Count || {Count, false} <- Answers]).

born_until(Zone, Last) ->
    case event(Zone) of
        {up, Last, _} -> [];
        {up, {born, Number}, _} -> [Number | born_until(Zone, Last)];
        {up, _, _} -> born_until(Zone, Last)
    end.

%% A change at the moment when the sender begins may come to it both ways.
what_was_read_and_is_told_as_well_is_no_second_event(Config) ->
    Zone = zone(Config),
    [Pid, Other] = [open(Zone, Name) || Name <- [?NAME, other]],
    {ok, _} = subscribe(Zone),
    Sender = sender(self()),
    Secret = secret(Sender),
    [
        Sender ! {Secret, Told}
     || Told <- [
            {up, ?NAME, Pid},
            {down, ?NAME, Other, earlier},
            {up, ?NAME, Other},
            {down, nobody, Pid, earlier}
        ]
    ],
    normal = stop(Other, normal),
    {down, other, Other, normal} = event(Zone),
    {ok, [{?NAME, Pid}]} = subscribe(Zone).

%% What the events begin with that the table sends.
secret(Sender) ->
    [Secret] = [Secret || Secret <- tuple_to_list(sys:get_state(Sender)), is_integer(Secret)],
    Secret.

nobody_else_can_send_events(Config) ->
    Zone = zone(Config),
    Pid = open(Zone, ?NAME),
    {ok, [{?NAME, Pid}]} = subscribe(Zone),
    Sender = sender(self()),
    Events = [{up, other, Pid}, {down, ?NAME, Pid, forged}],
    [
        Sender ! Message
     || Event <- Events,
        Message <- [Event, {0, Event}, {undefined, Event}, {secret(Sender) + 1, Event}]
    ],
    [Sender ! {{dead, ?NAME}, Ref, process, Pid, forged} || Ref <- [make_ref(), undefined]],
    [Sender ! {'DOWN', make_ref(), process, Who, forged} || Who <- [self(), Pid]],
    Sender ! {'EXIT', whereis(Zone), killed},
    Other = open(Zone, other),
    {up, other, Other} = event(Zone),
    normal = stop(Pid, normal),
    {down, ?NAME, Pid, normal} = event(Zone),
    {ok, [{other, Other}]} = subscribe(Zone),
    [] = tracked_child:taken(gen_tracker).
