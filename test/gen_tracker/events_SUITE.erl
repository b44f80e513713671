%% Promise: `subscribe/1` returns the running children. From then on the subscriber receives each
%% birth and death once, for each name in order, so that it can keep an exact copy. No event
%% arrives after `unsubscribe/1` has returned. A slow or dead subscriber delays nobody.
-module(events_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [down/1, kill/1, open/2, spec/2, spec/4, stop/2]).
-import(zone_events, [next/1]).
-import(zone_hook, [zone/1]).
-import(gen_tracker, [find_or_open/2, subscribe/1, unsubscribe/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 5}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        a_subscriber_is_told_of_births_and_deaths_with_their_reasons,
        subscribe_returns_the_running_children,
        a_restart_is_a_death_and_a_birth,
        added_and_registered_processes_have_births_and_deaths,
        unregistering_a_process_is_a_death,
        a_death_is_sent_before_after_terminate_is_called,
        a_failed_start_is_no_event,
        subscribing_twice_changes_nothing,
        nothing_arrives_after_unsubscribing,
        a_process_may_subscribe_after_the_last_subscriber_has_gone,
        the_sender_exits_when_the_last_subscriber_has_gone,
        a_suspended_subscriber_delays_nobody_and_misses_nothing,
        the_deaths_at_the_end_of_a_zone_are_sent,
        the_deaths_are_sent_when_the_tracker_is_killed,
        no_event_is_lost_with_a_killed_keeper,
        a_subscription_ends_with_its_zone,
        subscribers_are_told_when_the_sender_of_events_is_killed,
        a_sender_of_events_that_is_killed_while_it_starts_is_replaced,
        subscribers_are_told_when_the_tracker_is_killed_and_then_the_sender,
        a_thousand_subscribers_of_a_killed_sender_are_told_once,
        a_page_of_subscriptions_is_bounded_and_all_pages_have_each_once,
        nothing_arrives_after_unsubscribing_from_a_killed_sender,
        every_subscriber_keeps_an_exact_copy_while_all_changes,
        no_birth_is_missed_or_doubled_while_the_first_subscribes,
        a_change_that_the_new_sender_reads_and_receives_is_one_event,
        only_the_library_can_send_events
    ].

a_subscriber_is_told_of_births_and_deaths_with_their_reasons(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Reasons = [normal, shutdown, {shutdown, "why"}, crash, {a, [term]}],
    Pids = [open(Zone, {name, Reason}) || Reason <- Reasons],
    [
        ?assertEqual({up, {name, Reason}, Pid}, next(Zone))
     || {Pid, Reason} <- lists:zip(Pids, Reasons)
    ],
    [
        begin
            Reason = stop(Pid, Reason),
            ?assertEqual({down, {name, Reason}, Pid, Reason}, next(Zone))
        end
     || {Pid, Reason} <- lists:zip(Pids, Reasons)
    ],
    Last = open(Zone, last),
    {up, last, Last} = next(Zone),
    exit(Last, kill),
    {down, last, Last, killed} = next(Zone),
    Stopped = open(Zone, stopped),
    ok = supervisor:terminate_child(Zone, stopped),
    [{up, stopped, Stopped}, {down, stopped, Stopped, shutdown}] = [next(Zone), next(Zone)].

subscribe_returns_the_running_children(Config) ->
    Zone = zone(Config),
    Names = [<<"a">>, 1, 1.0, {b, "c"}, []],
    Running = [{Name, open(Zone, Name)} || Name <- Names],
    {_, Starter} = tracked_child:gated(Zone, starting),
    {_, Cleaner} = tracked_child:terminating(Zone, ending),
    {ok, Children} = subscribe(Zone),
    ?assertEqual(lists:sort(Running), lists:sort(Children)),
    Starter ! go,
    {up, starting, _} = next(Zone),
    Cleaner ! done.

a_restart_is_a_death_and_a_birth(Config) ->
    Zone = zone(Config),
    {ok, First} = find_or_open(Zone, spec(?NAME, permanent)),
    {ok, [{?NAME, First}]} = subscribe(Zone),
    crash = stop(First, crash),
    {down, ?NAME, First, crash} = next(Zone),
    {up, ?NAME, Second} = next(Zone),
    {ok, Second} = gen_tracker:find(Zone, ?NAME),
    ok = gen_tracker:wait(Zone),
    [] = messages:taken(gen_tracker).

added_and_registered_processes_have_births_and_deaths(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    [Added, Registered] = [tracked_child:loose(start_link) || _ <- [1, 2]],
    {ok, Added} = gen_tracker:add_existing_child(Zone, {added, Added, worker, []}),
    yes = gen_tracker:register_name({Zone, registered}, Registered),
    [{up, added, Added}, {up, registered, Registered}] = [next(Zone), next(Zone)],
    one = stop(Added, one),
    {down, added, Added, one} = next(Zone),
    two = stop(Registered, two),
    {down, registered, Registered, two} = next(Zone).

unregistering_a_process_is_a_death(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Pid = tracked_child:loose(start_link),
    yes = gen_tracker:register_name({Zone, ?NAME}, Pid),
    ok = gen_tracker:unregister_name({Zone, ?NAME}),
    [{up, ?NAME, Pid}, {down, ?NAME, Pid, unregistered}] = [next(Zone), next(Zone)],
    _ = kill(Pid),
    ok = gen_tracker:wait(Zone),
    [] = messages:taken(gen_tracker).

a_death_is_sent_before_after_terminate_is_called(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    %% `after_terminate` runs until its process receives `done`.
    {Pid, Cleaner} = tracked_child:terminating(Zone, ?NAME),
    [{up, ?NAME, Pid}, {down, ?NAME, Pid, normal}] = [next(Zone), next(Zone)],
    Cleaner ! done.

a_failed_start_is_no_event(Config) ->
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
    {up, last, Pid} = next(Zone).

subscribing_twice_changes_nothing(Config) ->
    Zone = zone(Config),
    Pid = open(Zone, ?NAME),
    [{ok, [{?NAME, Pid}]} = subscribe(Zone) || _ <- [1, 2, 3]],
    normal = stop(Pid, normal),
    {down, ?NAME, Pid, normal} = next(Zone),
    ok = unsubscribe(Zone),
    _ = open(Zone, ?NAME),
    ok = gen_tracker:wait(Zone),
    {ok, [_]} = subscribe(Zone),
    [] = messages:taken(gen_tracker).

%% Children start and exit all the while. The case ends with a check for late events.
nothing_arrives_after_unsubscribing(Config) ->
    Zone = zone(Config),
    {ok, _} = another_subscriber(Zone),
    [Answers] = callers:while_writing(
        fun(Number) -> _ = kill(open(Zone, Number)) end,
        300,
        [fun() ->
            {ok, _} = subscribe(Zone),
            ok = unsubscribe(Zone),
            messages:taken(gen_tracker)
        end]
    ),
    ?assertEqual([[]], lists:usort(Answers)),
    ok = unsubscribe(Zone).

%% Starts another subscriber, so that there are always events.
another_subscriber(Zone) ->
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

a_process_may_subscribe_after_the_last_subscriber_has_gone(Config) ->
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

the_sender_exits_when_the_last_subscriber_has_gone(Config) ->
    Zone = zone(Config),
    Before = zones:beside(Zone),
    {ok, Other} = another_subscriber(Zone),
    {ok, []} = subscribe(Zone),
    Sender = zone_events:sender(Other),
    ok = unsubscribe(Zone),
    true = is_process_alive(Sender),
    unlink(Other),
    _ = kill(Other),
    _ = down(Sender),
    wait:until(fun() -> zones:beside(Zone) =:= Before end, 60),
    ok = unsubscribe(Zone).

a_suspended_subscriber_delays_nobody_and_misses_nothing(Config) ->
    Zone = zone(Config),
    {ok, Sleeper} = another_subscriber(Zone),
    true = erlang:suspend_process(Sleeper),
    {ok, []} = subscribe(Zone),
    Told = [
        begin
            Pid = open(Zone, N),
            _ = kill(Pid),
            [next(Zone), next(Zone)]
        end
     || N <- lists:seq(1, 500)
    ],
    wait:until(
        fun() -> process_info(Sleeper, message_queue_len) =:= {message_queue_len, 1000} end, 60
    ),
    {messages, Messages} = process_info(Sleeper, messages),
    ?assertEqual(lists:append(Told), [Event || {gen_tracker, _, Event} <- Messages]).

the_deaths_at_the_end_of_a_zone_are_sent(Config) ->
    Zone = zone(Config),
    Children = lists:sort([{Name, open(Zone, Name)} || Name <- lists:seq(1, 100)]),
    {ok, _} = subscribe(Zone),
    ok = gen_server:stop(Zone),
    ?assertEqual(
        [{down, Name, Pid, shutdown} || {Name, Pid} <- Children],
        lists:sort([next(Zone) || _ <- Children])
    ).

the_deaths_are_sent_when_the_tracker_is_killed(Config) ->
    Zone = zone(Config),
    Children = lists:sort([{Name, open(Zone, Name)} || Name <- lists:seq(1, 100)]),
    {ok, _} = subscribe(Zone),
    Sender = zone_events:sender(self()),
    _ = kill(whereis(Zone)),
    Told = [{Name, Pid} || {down, Name, Pid, _} <- [next(Zone) || _ <- Children]],
    ?assertEqual(Children, lists:sort(Told)),
    _ = down(Sender),
    [{gen_tracker, Zone, unsubscribed}] = messages:taken(gen_tracker).

no_event_is_lost_with_a_killed_keeper(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    [
        begin
            Child = tracked_child:loose(start_link),
            {ok, Child} = gen_tracker:add_existing_child(Zone, {Round, Child, worker, []}),
            {running, Child, Keeper, _} = proctab_nif:child(Zone, Round),
            %% Either of them may exit first.
            exit(Child, stopped),
            exit(Keeper, kill),
            [{up, Round, Child}, {down, Round, Child, _}] = [next(Zone), next(Zone)]
        end
     || Round <- lists:seq(1, 200)
    ].

a_subscription_ends_with_its_zone(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Sender = zone_events:sender(self()),
    ok = gen_server:stop(Zone),
    _ = down(Sender),
    unsubscribed = next(Zone),
    ?assertError(badarg, subscribe(Zone)),
    Zone = zones:zone(Zone),
    _ = open(Zone, ?NAME),
    {ok, [{?NAME, _}]} = subscribe(Zone),
    [] = messages:taken(gen_tracker).

%% Otherwise a subscriber would wait for events that never arrive.
subscribers_are_told_when_the_sender_of_events_is_killed(Config) ->
    Zone = zone(Config),
    Pid = open(Zone, ?NAME),
    {ok, [{?NAME, Pid}]} = subscribe(Zone),
    exit(zone_events:sender(self()), kill),
    unsubscribed = next(Zone),
    {ok, [{?NAME, Pid}]} = subscribe(Zone),
    normal = stop(Pid, normal),
    {down, ?NAME, Pid, normal} = next(Zone).

%% Then there is no process of the zone that could tell them.
%% With one scheduler, this process kills the sender before it runs, because its priority is higher.
a_sender_of_events_that_is_killed_while_it_starts_is_replaced(Config) ->
    Zone = zone(Config),
    Tracker = whereis(Zone),
    Schedulers = erlang:system_flag(schedulers_online, 1),
    Priority = process_flag(priority, high),
    1 = erlang:trace(Tracker, true, [procs]),
    Subscribed = callers:ask(fun() -> subscribe(Zone) end),
    receive
        {trace, Tracker, spawn, Sender, _} -> exit(Sender, kill)
    end,
    _ = erlang:trace(Tracker, false, [procs]),
    _ = process_flag(priority, Priority),
    _ = erlang:system_flag(schedulers_online, Schedulers),
    ?assertEqual({answer, {ok, []}}, callers:answer(Subscribed)),
    ?assertEqual(Tracker, whereis(Zone)).

subscribers_are_told_when_the_tracker_is_killed_and_then_the_sender(Config) ->
    Zone = zone(Config),
    _ = open(Zone, ?NAME),
    {ok, [_]} = subscribe(Zone),
    Sender = zone_events:sender(self()),
    true = erlang:suspend_process(Sender),
    _ = kill(whereis(Zone)),
    _ = kill(Sender),
    unsubscribed = next(Zone),
    [] = messages:taken(gen_tracker).

a_thousand_subscribers_of_a_killed_sender_are_told_once(Config) ->
    Zone = zone(Config),
    ?assertEqual(
        lists:duplicate(1000, [unsubscribed]),
        after_the_death_of_the_sender(1000, Zone, fun() -> [next(Zone)] end)
    ).

nothing_arrives_after_unsubscribing_from_a_killed_sender(Config) ->
    Zone = zone(Config),
    ?assertEqual(
        lists:duplicate(1000, []),
        after_the_death_of_the_sender(1000, Zone, fun() -> ok = unsubscribe(Zone), [] end)
    ).

%% With zones that have more subscribers than a page, fewer and none.
a_page_of_subscriptions_is_bounded_and_all_pages_have_each_once(Config) ->
    Zone = zone(Config),
    Others = [list_to_atom(lists:concat([Zone, '_', Number])) || Number <- [1, 2, 3]],
    [{ok, _} = gen_tracker:start_link(Other) || Other <- Others],
    Subscribe = fun(Count, Of) ->
        lists:sort([{whereis(Of), subscriber(Of)} || _ <- lists:seq(1, Count)])
    end,
    Expected = lists:append(lists:zipwith(Subscribe, [300, 1, 0, 600], [Zone | Others])),
    Pages = zone_events:pages(),
    ?assert(lists:all(fun(Page) -> length(Page) =< 256 end, Pages)),
    ?assertEqual(lists:sort(Expected), lists:sort(lists:append(Pages))),
    ?assertEqual(
        [300, 1, 0, 600],
        [maps:get(subscribers, proctab:info(Each)) || Each <- [Zone | Others]]
    ).

%% Starts a process that has subscribed, linked to the test.
subscriber(Zone) ->
    Test = self(),
    Pid = spawn_link(fun() ->
        {ok, []} = subscribe(Zone),
        Test ! {subscribed, self()},
        timer:sleep(infinity)
    end),
    receive
        {subscribed, Pid} -> Pid
    end.

%% Each of so many subscribers calls a fun when the sender of events has been killed. Returns what
%% it returns to each, followed by what has arrived since then.
after_the_death_of_the_sender(Count, Zone, Fun) ->
    {ok, []} = subscribe(Zone),
    Sender = zone_events:sender(self()),
    Test = self(),
    Subscriber = fun() ->
        {ok, []} = subscribe(Zone),
        Monitor = monitor(process, Sender),
        Test ! {subscribed, self()},
        Returned =
            receive
                {'DOWN', Monitor, process, Sender, killed} -> Fun()
            end,
        receive
            stop -> exit({got, Returned ++ messages:taken(gen_tracker)})
        end
    end,
    Subscribers = [spawn_monitor(Subscriber) || _ <- lists:seq(1, Count)],
    [
        receive
            {subscribed, Pid} -> ok
        end
     || {Pid, _} <- Subscribers
    ],
    _ = kill(Sender),
    unsubscribed = next(Zone),
    await_end_of_subscriptions(Zone),
    [
        begin
            Pid ! stop,
            receive
                {'DOWN', Monitor, process, Pid, {got, Got}} -> Got
            end
        end
     || {Pid, Monitor} <- Subscribers
    ].

%% A process that was killed has told its subscribers a moment after its monitors.
await_end_of_subscriptions(Zone) ->
    Tracker = whereis(Zone),
    wait:until(fun() -> not zone_events:has_subscribers(Tracker) end).

%% Subscribers come and go while children do. In the end the copy of each remaining subscriber is
%% what the zone has. No event contradicts a copy.
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
    [changed, changed, changed, gone, Following] = callers:together([
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

%% Starts and ends children of ten names, and leaves them running.
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

%% Each event must fit the copy. The copy is sent to the test once `last` is born.
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

%% Children start one after the other while the only subscriber comes and goes. It sees no gap, and
%% no birth twice.
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
    [Answers] = callers:while_writing(Birth, 150, [Round]),
    ?assertEqual([], [Count || {Count, false} <- Answers]).

born_until(Zone, Last) ->
    case next(Zone) of
        {up, Last, _} -> [];
        {up, {born, Number}, _} -> [Number | born_until(Zone, Last)];
        {up, _, _} -> born_until(Zone, Last)
    end.

%% A change during the start of the sender may reach it as an event and in the children that it
%% reads.
a_change_that_the_new_sender_reads_and_receives_is_one_event(Config) ->
    Zone = zone(Config),
    [Pid, Other] = [open(Zone, Name) || Name <- [?NAME, other]],
    {ok, _} = subscribe(Zone),
    Sender = zone_events:sender(self()),
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
    {down, other, Other, normal} = next(Zone),
    {ok, [{?NAME, Pid}]} = subscribe(Zone).

%% Returns the number that the table puts before its events.
secret(Sender) ->
    [Secret] = [Secret || Secret <- tuple_to_list(sys:get_state(Sender)), is_integer(Secret)],
    Secret.

only_the_library_can_send_events(Config) ->
    Zone = zone(Config),
    Pid = open(Zone, ?NAME),
    {ok, [{?NAME, Pid}]} = subscribe(Zone),
    Sender = zone_events:sender(self()),
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
    {up, other, Other} = next(Zone),
    normal = stop(Pid, normal),
    {down, ?NAME, Pid, normal} = next(Zone),
    {ok, [{other, Other}]} = subscribe(Zone),
    [] = messages:taken(gen_tracker).
