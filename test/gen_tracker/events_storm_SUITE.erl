%% Promise: births and deaths are sent in order, none missing and none twice, also when many
%% processes register one name in turn, and when a zone ends during changes. A subscription ends
%% with `unsubscribed`, after the last death.
-module(events_storm_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [down/1, kill/1, open/2, spec/2]).
-import(zone_hook, [zone/1]).
-import(gen_tracker, [find_or_open/2, register_name/2, subscribe/1, unregister_name/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 5}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        a_name_that_processes_register_in_turn_has_as_many_deaths_as_births,
        each_birth_has_its_death_if_other_processes_unregister,
        each_birth_has_its_death_when_the_tracker_is_killed_while_children_start,
        the_reasons_are_sent_when_the_tracker_is_killed,
        events_after_the_end_of_a_subscription_belong_to_another_zone,
        subscribers_are_told_when_the_sender_of_events_crashes,
        a_child_that_unregisters_at_its_end_does_not_delay_the_end_of_its_zone,
        no_process_subscribes_to_a_zone_that_is_about_to_end
    ].

%% Starts a subscriber that follows a zone until its subscription ends. Its answer is the number of
%% births, the number of deaths, the events that contradict earlier ones, and the children that are
%% left.
follower(Zone) ->
    Test = self(),
    Asked = callers:ask(fun() ->
        {ok, Children} = subscribe(Zone),
        Test ! {subscribed, Zone},
        follow(Zone, maps:from_list(Children), {0, 0, []})
    end),
    {subscribed, Zone} = messages:await(subscribed),
    Asked.

follow(Zone, Copy, {Births, Deaths, Faults}) ->
    receive
        {gen_tracker, Zone, {up, Name, Pid}} when not is_map_key(Name, Copy) ->
            follow(Zone, Copy#{Name => Pid}, {Births + 1, Deaths, Faults});
        {gen_tracker, Zone, {down, Name, Pid, _}} when map_get(Name, Copy) =:= Pid ->
            follow(Zone, maps:remove(Name, Copy), {Births, Deaths + 1, Faults});
        {gen_tracker, Zone, unsubscribed} ->
            {Births, Deaths, Faults, Copy};
        {gen_tracker, Zone, Event} ->
            follow(Zone, Copy, {Births, Deaths, [Event | Faults]})
    end.

a_name_that_processes_register_in_turn_has_as_many_deaths_as_births(Config) ->
    Zone = zone(Config),
    Following = follower(Zone),
    Worker = fun() ->
        length([yes || _ <- lists:seq(1, 10000), registered_and_unregistered({Zone, ?NAME})])
    end,
    Taken = lists:sum(callers:together([Worker || _ <- lists:seq(1, 4)])),
    ok = gen_server:stop(Zone),
    ?assertEqual({answer, {Taken, Taken, [], #{}}}, callers:answer(Following)).

registered_and_unregistered(Via) ->
    Answer = register_name(Via, self()),
    ok = unregister_name(Via),
    Answer =:= yes.

each_birth_has_its_death_if_other_processes_unregister(Config) ->
    Zone = zone(Config),
    Following = follower(Zone),
    Current = atomics:new(1, []),
    Others = [spawn_link(fun() -> take_away(Zone, Current) end) || _ <- lists:seq(1, 4)],
    Count = 5000,
    lists:foreach(
        fun(Name) ->
            atomics:put(Current, 1, Name),
            yes = register_name({Zone, Name}, self()),
            gone(Zone, Name)
        end,
        lists:seq(1, Count)
    ),
    _ = [
        begin
            unlink(Other),
            kill(Other)
        end
     || Other <- Others
    ],
    {ok, []} = subscribe(Zone),
    ok = gen_server:stop(Zone),
    ?assertEqual({answer, {Count, Count, [], #{}}}, callers:answer(Following)).

take_away(Zone, Current) ->
    ok = unregister_name({Zone, atomics:get(Current, 1)}),
    take_away(Zone, Current).

gone(Zone, Name) ->
    case gen_tracker:find(Zone, Name) of
        undefined ->
            ok;
        {ok, _} ->
            erlang:yield(),
            gone(Zone, Name)
    end.

each_birth_has_its_death_when_the_tracker_is_killed_while_children_start(Config) ->
    Zone = zone(Config),
    [
        begin
            Following = follower(Zone),
            [open(Zone, Name) || Name <- lists:seq(1, 300)],
            Starts = [
                callers:ask(fun() ->
                    find_or_open(Zone, spec({starting, Name}, temporary))
                end)
             || Name <- lists:seq(1, 300)
            ],
            _ = callers:answer(hd(Starts)),
            _ = kill(whereis(Zone)),
            {answer, {_, _, Faults, Left}} = callers:answer(Following),
            ?assertEqual({[], #{}}, {Faults, Left}),
            Zone = zones:zone(Zone)
        end
     || _ <- lists:seq(1, 10)
    ].

the_reasons_are_sent_when_the_tracker_is_killed(Config) ->
    Zone = zone(Config),
    Children = [{Name, open(Zone, Name)} || Name <- lists:seq(1, 1000)],
    {ok, _} = subscribe(Zone),
    _ = kill(whereis(Zone)),
    ?assertEqual(
        [{down, Name, Pid, shutdown} || {Name, Pid} <- Children], lists:sort(zone_events:rest(Zone))
    ).

events_after_the_end_of_a_subscription_belong_to_another_zone(Config) ->
    Zone = zone(Config),
    Old = tracked_child:loose(start_stubborn),
    Spec = {?NAME, {tracked_child, start_link, [self()]}, temporary, infinity, worker, []},
    {ok, Old} = gen_tracker:add_existing_child(Zone, {Old, Spec}),
    {ok, [{?NAME, Old}]} = subscribe(Zone),
    _ = kill(whereis(Zone)),
    {exit_signal, Old, shutdown} = messages:await(exit_signal),
    Zone = zones:zone(Zone),
    New = open(Zone, ?NAME),
    Old ! {stop, at_last},
    ?assertEqual([{down, ?NAME, Old, at_last}], zone_events:rest(Zone)),
    {ok, [{?NAME, New}]} = subscribe(Zone),
    normal = tracked_child:stop(New, normal),
    ok = gen_server:stop(Zone),
    ?assertEqual([{down, ?NAME, New, normal}], zone_events:rest(Zone)).

subscribers_are_told_when_the_sender_of_events_crashes(Config) ->
    Zone = zone(Config),
    {ok, []} = subscribe(Zone),
    Sender = zone_events:sender(self()),
    ok = gen_server:stop(Sender, crash, infinity),
    ?assertEqual([], zone_events:rest(Zone)),
    {ok, []} = subscribe(Zone),
    Pid = open(Zone, ?NAME),
    ok = gen_server:stop(Zone),
    ?assertEqual([{up, ?NAME, Pid}, {down, ?NAME, Pid, shutdown}], zone_events:rest(Zone)).

a_child_that_unregisters_at_its_end_does_not_delay_the_end_of_its_zone(Config) ->
    Zone = zone(Config),
    Other = tracked_child:loose(start_link),
    yes = register_name({Zone, other}, Other),
    Start = fun() ->
        process_flag(trap_exit, true),
        receive
            {'EXIT', _, shutdown} -> ok = unregister_name({Zone, other})
        end
    end,
    Spec = #{
        id => ?NAME,
        start => {tracked_child, start_with, [self(), fun() -> {ok, spawn_link(Start)} end]},
        shutdown => infinity
    },
    {ok, Pid} = find_or_open(Zone, Spec),
    wait:until(fun() -> process_info(Pid, trap_exit) =:= {trap_exit, true} end),
    Tracker = whereis(Zone),
    ok = gen_server:stop(Zone),
    ?assertEqual({noproc, noproc, noproc}, {down(Tracker), down(Pid), down(Other)}).

%% `after_terminate` subscribes at the end of the zone, which cannot answer any more.
no_process_subscribes_to_a_zone_that_is_about_to_end(Config) ->
    Zone = zone(Config),
    Test = self(),
    Subscribe = fun() ->
        Test ! {
            outcome,
            try
                subscribe(Zone)
            catch
                exit:Reason -> Reason
            end
        }
    end,
    {ok, _} = find_or_open(Zone, {?NAME, {?MODULE, start_child, [Subscribe]}, temporary}),
    ok = gen_server:stop(Zone),
    {outcome, Outcome} = messages:await(outcome),
    ?assertEqual({shutdown, {gen_tracker, subscribe, [Zone]}}, Outcome).

start_child(Subscribe) ->
    Pid = spawn_link(fun() ->
        receive
        after infinity -> ok
        end
    end),
    put(at_the_end, Subscribe),
    {ok, Pid}.

after_terminate(_Name, _Attributes) ->
    (get(at_the_end))().
