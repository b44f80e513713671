%% Promise: `gen_tracker:subscribe(Zone, {name, Name})` tells of the births and deaths of one name
%% alone, as `subscribe/1` does of all.
-module(name_events_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(gen_tracker, [subscribe/1, subscribe/2, unsubscribe/1]).
-import(tracked_child, [kill/1, open/2]).
-import(zone_events, [next/1, rest/1]).
-import(zone_hook, [zone/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        only_the_events_of_the_name_arrive,
        the_name_need_not_have_a_child,
        names_that_look_alike_are_different,
        a_process_subscribes_to_several_names,
        each_event_arrives_once_for_a_subscriber_of_name_and_zone,
        unsubscribe_ends_all_subscriptions,
        a_dead_subscriber_is_forgotten,
        the_last_message_is_unsubscribed,
        the_end_of_the_sender_is_told,
        other_filters_are_badarg
    ].

only_the_events_of_the_name_arrive(Config) ->
    Zone = zone(Config),
    Child = open(Zone, ?NAME),
    Other = open(Zone, other),
    {ok, [{?NAME, Child}]} = subscribe(Zone, {name, ?NAME}),
    _ = kill(Other),
    _ = open(Zone, another),
    _ = kill(Child),
    tracked_child:forgotten(Zone, ?NAME),
    Next = open(Zone, ?NAME),
    ?assertEqual({down, ?NAME, Child, killed}, next(Zone)),
    ?assertEqual({up, ?NAME, Next}, next(Zone)),
    ok = unsubscribe(Zone),
    ?assertEqual([], messages:taken(gen_tracker)).

the_name_need_not_have_a_child(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone, {name, ?NAME}),
    {ok, []} = subscribe(Zone, {name, ?NAME}),
    Child = open(Zone, ?NAME),
    ?assertEqual({up, ?NAME, Child}, next(Zone)),
    {ok, [{?NAME, Child}]} = subscribe(Zone, {name, ?NAME}),
    ok = unsubscribe(Zone),
    ?assertEqual([], messages:taken(gen_tracker)).

names_that_look_alike_are_different(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone, {name, 1}),
    _ = open(Zone, 1.0),
    Child = open(Zone, 1),
    ?assertEqual({up, 1, Child}, next(Zone)),
    {ok, [{1.0, _}]} = subscribe(Zone, {name, 1.0}),
    ok = unsubscribe(Zone),
    ?assertEqual([], messages:taken(gen_tracker)).

a_process_subscribes_to_several_names(Config) ->
    Zone = zone(Config),
    [{ok, []} = subscribe(Zone, {name, Name}) || Name <- [a, b, c]],
    Children = [{up, Name, open(Zone, Name)} || Name <- [a, x, b, y, c]],
    Expected = [Event || {up, Name, _} = Event <- Children, Name =/= x, Name =/= y],
    ?assertEqual(Expected, [next(Zone) || _ <- [a, b, c]]).

each_event_arrives_once_for_a_subscriber_of_name_and_zone(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone, {name, ?NAME}),
    {ok, []} = subscribe(Zone),
    {ok, []} = subscribe(Zone, {name, ?NAME}),
    {ok, []} = subscribe(Zone, {name, other}),
    Events = [{up, Name, open(Zone, Name)} || Name <- [?NAME, other, third]],
    ?assertEqual(Events, [next(Zone) || _ <- Events]),
    ok = unsubscribe(Zone),
    ?assertEqual([], messages:taken(gen_tracker)).

unsubscribe_ends_all_subscriptions(Config) ->
    Zone = zone(Config),
    [{ok, []} = subscribe(Zone, {name, Name}) || Name <- [a, b]],
    ok = unsubscribe(Zone),
    _ = [open(Zone, Name) || Name <- [a, b]],
    ok = gen_tracker:wait(Zone),
    %% Another subscriber of the same name is still told.
    {ok, [{a, _}]} = subscribe(Zone, {name, a}),
    ok = callers:apart(fun() ->
        {ok, [{a, _}]} = subscribe(Zone, {name, a}),
        unsubscribe(Zone)
    end),
    {ok, Child} = gen_tracker:find(Zone, a),
    _ = kill(Child),
    ?assertEqual({down, a, Child, killed}, next(Zone)),
    ok = unsubscribe(Zone),
    ?assertEqual([], messages:taken(gen_tracker)).

a_dead_subscriber_is_forgotten(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone, {name, ?NAME}),
    Sender = zone_events:sender(self()),
    [
        {ok, []} = callers:apart(fun() -> subscribe(Zone, {name, Name}) end)
     || Name <- [?NAME, other, third]
    ],
    wait:until(fun() -> process_info(Sender, monitors) =:= {monitors, [{process, self()}]} end),
    Child = open(Zone, ?NAME),
    ?assertEqual({up, ?NAME, Child}, next(Zone)),
    Ended = monitor(process, Sender),
    ok = unsubscribe(Zone),
    receive
        {'DOWN', Ended, process, Sender, normal} -> ok
    end.

the_last_message_is_unsubscribed(Config) ->
    Zone = zone(Config),
    Child = open(Zone, ?NAME),
    _ = open(Zone, other),
    {ok, [{?NAME, Child}]} = subscribe(Zone, {name, ?NAME}),
    ok = gen_server:call(Zone, shutdown),
    ?assertEqual([{down, ?NAME, Child, shutdown}], rest(Zone)).

the_end_of_the_sender_is_told(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone, {name, ?NAME}),
    exit(zone_events:sender(self()), kill),
    ?assertEqual(unsubscribed, next(Zone)),
    {ok, []} = subscribe(Zone, {name, ?NAME}),
    Child = open(Zone, ?NAME),
    ?assertEqual({up, ?NAME, Child}, next(Zone)).

other_filters_are_badarg(Config) ->
    Zone = zone(Config),
    [?assertError(badarg, subscribe(Zone, Filter)) || Filter <- [?NAME, all, {name}, {key, a}, []]],
    ?assertError(badarg, subscribe(not_running, {name, ?NAME})),
    ?assertError(badarg, subscribe(self(), {name, ?NAME})).
