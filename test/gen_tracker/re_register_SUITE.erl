%% Promise: `gen_tracker:re_register_name/2` gives a registered name to another process, as that of
%% `global` does, with its attributes. There is no moment without the name, and subscribers are told
%% of both processes in order, whenever one of them dies.
-module(re_register_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [answer/1, ask/1]).
-import(gen_tracker, [re_register_name/2, register_name/2, unregister_name/1, whereis_name/1]).
-import(messages, [await/1]).
-import(tracked_child, [kill/1, loose/1]).
-import(zone_events, [next/1]).
-import(zone_hook, [zone/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start]}]}].

all() ->
    [
        the_answers_are_those_of_global,
        the_attributes_stay,
        subscribers_are_told_down_and_up_in_order,
        the_new_process_is_monitored_and_the_old_one_no_more,
        via_names_reach_the_new_process,
        the_old_process_may_register_another_name,
        a_process_may_have_names_in_several_zones,
        the_new_process_is_told_to_exit_when_the_zone_stops,
        the_name_stays_with_a_process_that_has_it,
        a_child_that_the_zone_has_started_keeps_its_name,
        a_dead_process_gets_no_name,
        the_process_of_a_zone_is_badarg,
        a_name_that_is_being_stopped_is_free_afterwards,
        a_cleanup_and_a_start_are_waited_for,
        a_name_of_which_the_process_is_dead_is_registered_anew,
        a_keeper_that_is_killed_is_replaced,
        the_name_is_never_free_while_it_is_handed_over,
        processes_that_die_during_the_hand_over_are_told_once_in_order
    ].

the_answers_are_those_of_global(Config) ->
    Zone = zone(Config),
    [One, Two] = [loose(start_deaf) || _ <- [1, 2]],
    Answers = fun(Module, Name) ->
        [
            Module:re_register_name(Name, One),
            Module:whereis_name(Name),
            Module:re_register_name(Name, Two),
            Module:whereis_name(Name),
            Module:re_register_name(Name, Two),
            Module:register_name(Name, One),
            Module:re_register_name(Name, One),
            Module:whereis_name(Name),
            Module:unregister_name(Name),
            Module:whereis_name(Name)
        ]
    end,
    Expected = Answers(global, {Zone, ?NAME}),
    [yes, One, yes, Two, yes, no, yes, One, ok, undefined] = Expected,
    ?assertEqual(Expected, Answers(gen_tracker, {Zone, ?NAME})),
    [kill(Pid) || Pid <- [One, Two]].

registered(Zone) ->
    Pid = loose(start_link),
    yes = register_name({Zone, ?NAME}, Pid),
    Pid.

the_attributes_stay(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    Two = loose(start_link),
    ok = gen_tracker:setattr(Zone, ?NAME, [{url, <<"rtmp://a">>}, {n, 1}]),
    yes = re_register_name({Zone, ?NAME}, Two),
    [{?NAME, [{pid, Two} | Attributes]}] = gen_tracker:list(Zone),
    ?assertEqual([{n, 1}, {url, <<"rtmp://a">>}], lists:sort(Attributes)),
    2 = gen_tracker:increment(Zone, ?NAME, n, 1),
    [{?NAME, Two, worker, []}] = gen_tracker:which_children(Zone),
    ?assertEqual(1, gen_tracker:count(Zone)),
    ?assert(is_process_alive(One)).

subscribers_are_told_down_and_up_in_order(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    Two = loose(start_link),
    {ok, [{?NAME, One}]} = gen_tracker:subscribe(Zone),
    yes = re_register_name({Zone, ?NAME}, Two),
    normal = tracked_child:stop(Two, normal),
    ?assertEqual({down, ?NAME, One, re_registered}, next(Zone)),
    ?assertEqual({up, ?NAME, Two}, next(Zone)),
    ?assertEqual({down, ?NAME, Two, normal}, next(Zone)).

%% The process of this name has no registrar any more, but a keeper of its own.
with_keeper(Zone) ->
    First = registered(Zone),
    Pid = loose(start_link),
    yes = re_register_name({Zone, ?NAME}, Pid),
    exit(First, kill),
    Pid.

the_new_process_is_monitored_and_the_old_one_no_more(Config) ->
    Zone = zone(Config),
    One = with_keeper(Zone),
    Two = loose(start_link),
    Keeper = zones:keeper(Zone, ?NAME),
    Ended = messages:monitor_now(Keeper),
    yes = re_register_name({Zone, ?NAME}, Two),
    {'DOWN', Ended, process, Keeper, shutdown} = await('DOWN'),
    wait:until(fun() -> process_info(One, monitored_by) =:= {monitored_by, []} end),
    New = zones:keeper(Zone, ?NAME),
    ?assertNotEqual(Keeper, New),
    kill(One),
    {ok, Two} = gen_tracker:find(Zone, ?NAME),
    boom = tracked_child:stop(Two, boom),
    tracked_child:forgotten(Zone, ?NAME).

via_names_reach_the_new_process(Config) ->
    Zone = zone(Config),
    Via = {via, gen_tracker, {Zone, ?NAME}},
    [One, Two] = [
        begin
            {ok, Pid} = gen_server:start(init_server, fun() -> ok end, []),
            Pid
        end
     || _ <- [1, 2]
    ],
    yes = register_name({Zone, ?NAME}, One),
    One = whereis_name({Zone, ?NAME}),
    yes = re_register_name({Zone, ?NAME}, Two),
    Two = whereis_name({Zone, ?NAME}),
    Two = gen_tracker:send({Zone, ?NAME}, hello),
    ok = gen_server:stop(Via),
    undefined = whereis_name({Zone, ?NAME}),
    ?assert(is_process_alive(One)),
    ok = gen_server:stop(One).

the_old_process_may_register_another_name(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    Two = loose(start_link),
    yes = re_register_name({Zone, ?NAME}, Two),
    yes = register_name({Zone, other}, One),
    no = register_name({Zone, ?NAME}, One),
    ok = unregister_name({Zone, ?NAME}),
    yes = register_name({Zone, ?NAME}, One),
    ?assertEqual([One, One], [whereis_name({Zone, Name}) || Name <- [?NAME, other]]).

%% Each zone has its own name for it, and no zone knows of the others.
a_process_may_have_names_in_several_zones(Config) ->
    Zone = zone(Config),
    Other = zones:zone('another zone'),
    One = registered(Zone),
    Two = loose(start_link),
    yes = register_name({Other, ?NAME}, Two),
    [ok = gen_tracker:setattr(Each, ?NAME, zone, Each) || Each <- [Zone, Other]],
    {ok, [{?NAME, Two}]} = gen_tracker:subscribe(Other),
    yes = re_register_name({Other, ?NAME}, One),
    yes = re_register_name({Zone, ?NAME}, Two),
    ?assertEqual({ok, Two}, gen_tracker:find(Zone, ?NAME)),
    ?assertEqual({ok, One}, gen_tracker:find(Other, ?NAME)),
    [?assertEqual([{zone, Each}], gen_tracker:info(Each, ?NAME)) || Each <- [Zone, Other]],
    ?assertEqual({down, ?NAME, Two, re_registered}, next(Other)),
    ?assertEqual({up, ?NAME, One}, next(Other)),
    %% The process of one zone is an ordinary process for another one.
    yes = re_register_name({Zone, other}, whereis(Other)),
    ok = unregister_name({Zone, other}),
    kill(One),
    ?assertEqual({down, ?NAME, One, killed}, next(Other)),
    tracked_child:forgotten(Other, ?NAME),
    ?assertEqual({ok, Two}, gen_tracker:find(Zone, ?NAME)),
    ok = gen_server:stop(Other),
    ?assert(is_process_alive(Two)).

the_new_process_is_told_to_exit_when_the_zone_stops(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    Two = loose(start_link),
    yes = re_register_name({Zone, ?NAME}, Two),
    Ended = monitor(process, Two),
    ok = gen_server:call(Zone, shutdown),
    {'DOWN', Ended, process, Two, shutdown} = await('DOWN'),
    ?assert(is_process_alive(One)).

the_name_stays_with_a_process_that_has_it(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    Keeper = zones:keeper(Zone, ?NAME),
    {ok, _} = gen_tracker:subscribe(Zone),
    yes = re_register_name({Zone, ?NAME}, One),
    ok = gen_tracker:wait(Zone),
    ?assertEqual(Keeper, zones:keeper(Zone, ?NAME)),
    ok = gen_tracker:unsubscribe(Zone),
    [] = messages:taken(gen_tracker).

a_child_that_the_zone_has_started_keeps_its_name(Config) ->
    Zone = zone(Config),
    Child = tracked_child:open(Zone, ?NAME),
    Other = loose(start_link),
    no = re_register_name({Zone, ?NAME}, Other),
    yes = re_register_name({Zone, ?NAME}, Child),
    {ok, Child} = gen_tracker:find(Zone, ?NAME),
    kill(Other).

a_dead_process_gets_no_name(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    Dead = loose(start_link),
    kill(Dead),
    no = re_register_name({Zone, ?NAME}, Dead),
    no = re_register_name({Zone, other}, Dead),
    {ok, One} = gen_tracker:find(Zone, ?NAME),
    ?assertEqual(1, gen_tracker:count(Zone)).

the_process_of_a_zone_is_badarg(Config) ->
    Zone = zone(Config),
    _ = registered(Zone),
    [
        ?assertError(badarg, re_register_name({Zone, ?NAME}, Pid))
     || Pid <- [whereis(Zone), zones:keeper(Zone, ?NAME) | zones:beside(Zone)]
    ],
    ?assertError(badarg, re_register_name(?NAME, self())),
    ?assertError(badarg, re_register_name({not_running, ?NAME}, self())),
    ?assertError(badarg, re_register_name({Zone, ?NAME}, self)).

%% The process is told to exit and takes its time.
a_name_that_is_being_stopped_is_free_afterwards(Config) ->
    Zone = zone(Config),
    {ok, One} = tracked_child:start_stubborn(self()),
    {started, One} = await(started),
    {ok, One} = gen_tracker:add_existing_child(Zone, {?NAME, One, worker, []}),
    ok = gen_tracker:setattr(Zone, ?NAME, n, 1),
    {ok, _} = gen_tracker:subscribe(Zone),
    Two = loose(start_link),
    Forgotten = ask(fun() -> supervisor:terminate_child(Zone, ?NAME) end),
    {exit_signal, One, shutdown} = await(exit_signal),
    Asked = ask(fun() -> re_register_name({Zone, ?NAME}, Two) end),
    callers:waiting(),
    One ! {stop, done},
    ?assertEqual([{answer, ok}, {answer, yes}], [answer(Forgotten), answer(Asked)]),
    ?assertMatch([{down, ?NAME, One, _}, {up, ?NAME, Two}], [next(Zone), next(Zone)]),
    ?assertEqual([], gen_tracker:info(Zone, ?NAME)).

a_cleanup_and_a_start_are_waited_for(Config) ->
    Zone = zone(Config),
    {_, Cleaner} = tracked_child:terminating(Zone, ?NAME),
    Two = loose(start_link),
    Asked = ask(fun() -> re_register_name({Zone, ?NAME}, Two) end),
    callers:waiting(),
    Cleaner ! done,
    ?assertEqual({answer, yes}, answer(Asked)),
    {Opened, Starter} = tracked_child:gated(Zone, other),
    Refused = ask(fun() -> re_register_name({Zone, other}, Two) end),
    callers:waiting(),
    Starter ! go,
    {answer, {ok, Child}} = answer(Opened),
    ?assertEqual({answer, no}, answer(Refused)),
    {ok, Child} = gen_tracker:find(Zone, other).

%% The keeper is suspended, so the table still has the dead process.
a_name_of_which_the_process_is_dead_is_registered_anew(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    ok = gen_tracker:setattr(Zone, ?NAME, n, 1),
    {ok, _} = gen_tracker:subscribe(Zone),
    Keeper = zones:keeper(Zone, ?NAME),
    true = erlang:suspend_process(Keeper),
    kill(One),
    Two = loose(start_link),
    Asked = ask(fun() -> re_register_name({Zone, ?NAME}, Two) end),
    callers:waiting(),
    true = erlang:resume_process(Keeper),
    ?assertEqual({answer, yes}, answer(Asked)),
    ?assertEqual([{down, ?NAME, One, killed}, {up, ?NAME, Two}], [next(Zone), next(Zone)]),
    ?assertEqual([], gen_tracker:info(Zone, ?NAME)).

%% Of both keepers, each at once after the hand-over.
a_keeper_that_is_killed_is_replaced(Config) ->
    Zone = zone(Config),
    One = with_keeper(Zone),
    {ok, _} = gen_tracker:subscribe(Zone),
    Last = lists:foldl(
        fun(Round, Before) ->
            Old = zones:keeper(Zone, ?NAME),
            Next = loose(start_link),
            %% In every other round it is dead, and not replaced yet.
            _ = try erlang:suspend_process(Old) catch error:badarg -> dead end,
            yes = re_register_name({Zone, ?NAME}, Next),
            exit(Old, kill),
            New = zones:keeper(Zone, ?NAME),
            exit(New, kill),
            ?assertEqual({down, ?NAME, Before, re_registered}, next(Zone)),
            ?assertEqual({up, ?NAME, Next}, next(Zone)),
            {ok, Next} = gen_tracker:find(Zone, ?NAME),
            Round rem 2 =:= 0 andalso adopted(Zone, New, Next),
            Next
        end,
        One,
        lists:seq(1, 20)
    ),
    boom = tracked_child:stop(Last, boom),
    ?assertEqual({down, ?NAME, Last, boom}, next(Zone)),
    tracked_child:forgotten(Zone, ?NAME).

%% Waits until another keeper than this one monitors the process.
adopted(Zone, Keeper, Pid) ->
    wait:until(fun() ->
        {monitored_by, Monitoring} = process_info(Pid, monitored_by),
        Now = zones:keeper(Zone, ?NAME),
        Now =/= Keeper andalso lists:member(Now, Monitoring)
    end).

the_name_is_never_free_while_it_is_handed_over(Config) ->
    Zone = zone(Config),
    One = registered(Zone),
    ok = gen_tracker:setattr(Zone, ?NAME, [{n, 1}, {m, 2}]),
    Others = list_to_tuple([One | [loose(start_link) || _ <- [1, 2]]]),
    Next = fun(Number) ->
        yes = re_register_name({Zone, ?NAME}, element(Number rem 3 + 1, Others))
    end,
    Read = fun() ->
        {ok, Pid} = gen_tracker:find(Zone, ?NAME),
        [{?NAME, [{pid, Listed} | Attributes]}] = gen_tracker:list(Zone),
        [{m, 2}, {n, 1}] = lists:sort(Attributes),
        [{?NAME, Row, #{n := 1, m := 2}}] = gen_tracker:select(Zone, [{'_', [], ['$_']}]),
        [true = lists:member(Each, tuple_to_list(Others)) || Each <- [Pid, Listed, Row]]
    end,
    [_, _] = callers:while_writing(Next, 2000, [Read, Read]).

%% Kills the process that has the name, the one that gets it, or both, while another process
%% registers a third one.
processes_that_die_during_the_hand_over_are_told_once_in_order(Config) ->
    Zone = zone(Config),
    {ok, _} = gen_tracker:subscribe(Zone),
    [hand_over(Zone, Round) || Round <- lists:seq(1, 300)],
    tracked_child:forgotten(Zone, ?NAME),
    ok = gen_tracker:unsubscribe(Zone),
    ?assertEqual(0, gen_tracker:count(Zone)).

hand_over(Zone, Round) ->
    [One, Two] = [loose(start_link) || _ <- [1, 2]],
    yes = register_name({Zone, ?NAME}, One),
    Victims = element(Round rem 3 + 1, {[One], [Two], [One, Two]}),
    Spin = fun() -> [erlang:yield() || _ <- lists:seq(1, Round rem 7)] end,
    [Answer, _] = callers:together([
        fun() -> re_register_name({Zone, ?NAME}, Two) end,
        fun() -> Spin(), [exit(Pid, kill) || Pid <- Victims] end
    ]),
    _ = [tracked_child:down(Pid) || Pid <- Victims],
    _ = [kill(Pid) || Pid <- [One, Two]],
    ?assertEqual({up, ?NAME, One}, next(Zone)),
    {down, ?NAME, One, Reason} = next(Zone),
    case {Answer, Reason} of
        {yes, _} ->
            ?assert(lists:member(Reason, [re_registered, killed])),
            ?assertEqual({up, ?NAME, Two}, next(Zone)),
            {down, ?NAME, Two, Ended} = next(Zone),
            ?assertEqual(killed, Ended);
        {no, killed} ->
            ok
    end.
