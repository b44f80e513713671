%% Promise: `proctab:info` returns figures of zones and tables as maps, `proctab:top` the names with
%% the largest values, and observer shows the children of a zone. These functions, and `proctab:i`,
%% wait for no process, and take no memory for names that are not shown.
-module(info_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [spec/2, spec/4, open/2, gated/2, terminating/2, kill/1]).
-import(callers, [answer/1, sent_by/1]).
-import(messages, [await/1, await/2]).
-import(tracked_process, [eventually/1]).
-import(printout, [added/2, printed/1]).

-define(MANY, 20000).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        info_returns_every_zone_and_every_table_of_processes,
        info_of_a_zone_returns_its_map,
        the_total_is_the_sum_over_the_zones,
        the_sums_are_those_of_list,
        children_are_counted_by_their_states,
        names_without_a_child_are_counted,
        names_without_a_child_are_listed,
        indexes_are_counted_with_their_memory,
        subscribers_and_their_longest_queue_are_counted,
        subscribers_of_a_zone_on_several_nodes_are_counted,
        memory_grows_with_attributes_and_shrinks_without_them,
        waiting_requests_are_counted,
        processes_and_names_of_a_tracker_are_counted,
        registrations_of_a_monitor_are_counted,
        deaths_that_wait_for_their_cleanup_are_counted,
        zones_that_end_meanwhile_are_left_out,
        info_top_and_i_send_nothing_and_wait_for_no_process,
        names_that_are_not_shown_take_no_memory_of_the_caller,
        a_zone_that_does_not_run_and_a_wrong_number_are_badarg,
        the_shell_names_a_bad_argument_of_info_and_top,
        top_returns_the_largest_values_first,
        top_returns_ten_names_or_as_many_as_are_asked_for,
        top_leaves_out_values_that_are_no_integers,
        top_compares_names_and_keys_exactly,
        observer_shows_the_children_of_a_zone_below_it
    ].

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    Config.

end_per_testcase(Case, _Config) ->
    _ = application:stop(Case),
    _ = application:unload(Case),
    tracked_process:stop_tracker(),
    monitored_worker:close(),
    zones:stop_zone(Case).

%% Starts a zone of many children. Each has a long name, and a number of its own in the attribute
%% `n`.
crowded(Zone) ->
    zone(Zone),
    [
        gen_tracker:setattr(Zone, long(N), n, N)
     || N <- lists:seq(1, ?MANY), is_pid(added(Zone, long(N)))
    ],
    Zone.

long(N) ->
    lists:flatten(io_lib:format("~100..0b", [N])).

%% Figures

info_returns_every_zone_and_every_table_of_processes(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = zone('another zone'),
    {ok, _} = stats_hero_monitor:start_link(),
    #{zones := Zones, processes := Tables} = proctab:info(),
    ?assertEqual(
        lists:sort(proctab_nif:tables()),
        lists:sort([{zone, Name, Owner} || #{name := Name, owner := Owner} <- Zones] ++
            [{processes, Name, Owner} || #{name := Name, owner := Owner} <- Tables])
    ),
    ?assert(
        lists:member({Zone, whereis(Zone)}, [
            {Name, Owner}
         || #{name := Name, owner := Owner} <- Zones
        ])
    ),
    ?assert(
        lists:member({stats_hero_monitor, self()}, [
            {Name, Owner}
         || #{name := Name, owner := Owner} <- Tables
        ])
    ),
    zones:stop_zone(Other).

info_of_a_zone_returns_its_map(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = open(Zone, name),
    ok = gen_tracker:setattr(Zone, name, key, value),
    #{zones := Zones} = proctab:info(),
    ?assertEqual([proctab:info(Zone)], [Info || #{name := Name} = Info <- Zones, Name =:= Zone]).

the_total_is_the_sum_over_the_zones(_) ->
    #{total := Before} = proctab:info(),
    Zone = zone(?FUNCTION_NAME),
    Other = zone('another zone'),
    [
        gen_tracker:setattr(Each, Name, key, value)
     || Each <- [Zone, Other], Name <- [1, 2], is_pid(open(Each, Name))
    ],
    gen_tracker:increment(Zone, nobody, n, 1, 0),
    #{zones := Zones, total := Total} = proctab:info(),
    ?assertEqual(length(Zones), maps:get(zones, Total)),
    ?assertMatch(
        #{children := 4, without_child := 1, attributes := 5},
        maps:map(fun(Key, Sum) -> Sum - maps:get(Key, Before) end, Total)
    ),
    [
        ?assertEqual(lists:sum([maps:get(Key, Info) || Info <- Zones]), maps:get(Key, Total))
     || Key <- [children, without_child, attributes, memory]
    ],
    zones:stop_zone(Other).

the_sums_are_those_of_list(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        gen_tracker:setattr(Zone, N, [{Key, N} || Key <- lists:seq(1, N rem 7)])
     || N <- lists:seq(1, 1000), is_pid(added(Zone, N))
    ],
    List = gen_tracker:list(Zone),
    #{children := Children, states := States, attributes := Attributes} = proctab:info(Zone),
    ?assertEqual({1000, length(List)}, {Children, maps:get(running, States)}),
    ?assertEqual(
        lists:sum([length(lists:keydelete(pid, 1, Listed)) || {_, Listed} <- List]), Attributes
    ).

children_are_counted_by_their_states(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    _ = open(Zone, running),
    {Opening, Starter} = gated(Zone, launching),
    {_, Cleaner} = terminating(Zone, terminating),
    %% The first start succeeds. The second one waits, until it fails like each later one.
    First = counters:new(1, []),
    Start = fun() ->
        ok = counters:add(First, 1, 1),
        case counters:get(First, 1) of
            1 -> tracked_child:start_link(Test);
            2 ->
                Test ! {restarting, self()},
                receive
                    fail -> {error, failed}
                end;
            _ -> {error, failed}
        end
    end,
    {ok, Child} = gen_tracker:find_or_open(
        Zone, spec(again, permanent, 200, {start_with, [Test, Start]})
    ),
    kill(Child),
    {restarting, Restarter} = await(restarting),
    Expected = #{running => 1, launching => 1, terminating => 1, restarting => 1, pending => 0},
    ?assertMatch(#{children := 4, states := Expected, without_child := 0}, proctab:info(Zone)),
    Restarter ! fail,
    eventually(fun() ->
        maps:get(states, proctab:info(Zone)) =:= Expected#{restarting := 0, pending := 1}
    end),
    [Process ! Message || {Process, Message} <- [{Starter, go}, {Cleaner, done}]],
    {answer, {ok, _}} = answer(Opening).

names_without_a_child_are_counted(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = open(Zone, name),
    [gen_tracker:increment(Zone, Name, Key, 1, 0) || Name <- [name, a, b], Key <- [x, y]],
    ?assertMatch(#{children := 1, without_child := 2, attributes := 6}, proctab:info(Zone)),
    [gen_tracker:delattr(Zone, a, Key) || Key <- [x, y]],
    ?assertMatch(#{children := 1, without_child := 1, attributes := 4}, proctab:info(Zone)),
    _ = open(Zone, b),
    ?assertMatch(#{children := 2, without_child := 0, attributes := 4}, proctab:info(Zone)).

names_without_a_child_are_listed(_) ->
    Zone = zone(?FUNCTION_NAME),
    ?assertEqual([], proctab:without_child(Zone)),
    _ = open(Zone, name),
    {Opening, Starter} = gated(Zone, launching),
    _ = [gen_tracker:increment(Zone, Name, 1, 1, 0) || Name <- [name, launching, 1, 1.0]],
    _ = gen_tracker:increment(Zone, 1, other, 1, 0),
    [{One, 2, Bytes}, {Other, 1, Fewer}] =
        lists:reverse(lists:keysort(2, proctab:without_child(Zone))),
    ?assert(One =:= 1 andalso Other =:= 1.0 andalso Bytes > Fewer andalso Fewer > 0),
    [ok = gen_tracker:delattr(Zone, 1, Key) || Key <- [1, other]],
    ?assertMatch([{_, 1, Fewer}], proctab:without_child(Zone)),
    ?assertError(badarg, proctab:without_child(not_running)),
    Starter ! go,
    {answer, {ok, _}} = answer(Opening).

indexes_are_counted_with_their_memory(_) ->
    {ok, _} = gen_tracker:start_link(?FUNCTION_NAME, #{index => [room, {each, tags}]}),
    Zone = ?FUNCTION_NAME,
    #{indexes := [Rooms, Tags], memory := Memory} = proctab:info(Zone),
    ?assertMatch(#{index := room, values := 0, places := 0, memory := Empty} when Empty > 0, Rooms),
    ?assertMatch(#{index := {each, tags}, values := 0, places := 0}, Tags),
    ?assertEqual(Memory, maps:get(memory, Rooms) + maps:get(memory, Tags)),
    [
        ok = gen_tracker:setattr(Zone, N, #{room => N rem 10, tags => [N, all, all]})
     || N <- lists:seq(1, 1000), is_pid(added(Zone, N))
    ],
    #{indexes := [MoreRooms, MoreTags], memory := More} = proctab:info(Zone),
    ?assertMatch(#{values := 10, places := 1000}, MoreRooms),
    ?assertMatch(#{values := 1001, places := 2000}, MoreTags),
    ?assert(maps:get(memory, MoreRooms) > maps:get(memory, Rooms) + 16 * 1000),
    ?assert(maps:get(memory, MoreTags) > maps:get(memory, MoreRooms) + 48 * 1000),
    ?assert(More > maps:get(memory, MoreRooms) + maps:get(memory, MoreTags)),
    [ok = supervisor:terminate_child(Zone, N) || N <- lists:seq(1, 1000)],
    ?assertMatch(#{indexes := [Rooms, Tags], memory := Memory}, proctab:info(Zone)).

subscribers_and_their_longest_queue_are_counted(_) ->
    Zone = zone(?FUNCTION_NAME),
    ?assertMatch(#{subscribers := 0, subscriber_queue_len := 0}, proctab:info(Zone)),
    Subscriber = callers:ask(fun() ->
        {ok, []} = gen_tracker:subscribe(Zone),
        receive
            done -> ok
        end
    end),
    {ok, []} = gen_tracker:subscribe(Zone, {name, other}),
    eventually(fun() -> maps:get(subscribers, proctab:info(Zone)) =:= 2 end),
    _ = [open(Zone, Name) || Name <- lists:seq(1, 20)],
    eventually(fun() -> maps:get(subscriber_queue_len, proctab:info(Zone)) =:= 20 end),
    ?assertMatch(#{subscribers := 0}, proctab:info(zone('another zone'))),
    zones:stop_zone('another zone'),
    {monitors, Monitors} = process_info(self(), monitors),
    [Pid ! done || {process, Pid} <- Monitors],
    {answer, ok} = answer(Subscriber),
    eventually(fun() -> maps:get(subscribers, proctab:info(Zone)) =:= 1 end).

%% A process that has subscribed by both modules is one subscriber.
subscribers_of_a_zone_on_several_nodes_are_counted(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone, #{cluster => true}),
    {ok, []} = callers:apart(fun() -> gen_tracker_cluster:subscribe(Zone) end),
    {ok, []} = gen_tracker_cluster:subscribe(Zone),
    eventually(fun() -> maps:get(subscribers, proctab:info(Zone)) =:= 1 end),
    _ = [open(Zone, Name) || Name <- lists:seq(1, 20)],
    eventually(fun() -> maps:get(subscriber_queue_len, proctab:info(Zone)) =:= 20 end),
    {ok, [_ | _]} = gen_tracker:subscribe(Zone),
    ?assertMatch(#{subscribers := 1}, proctab:info(Zone)),
    {ok, Lines} = printed(fun() -> proctab:i(Zone) end),
    ?assertMatch([_, [_, [_, "20"]], _], [
        [printout:texts(Line) || Line <- Table]
     || Table <- printout:tables(Lines)
    ]),
    ok = gen_tracker_cluster:unsubscribe(Zone),
    ok = gen_tracker:unsubscribe(Zone),
    ?assertMatch(#{subscribers := 0, subscriber_queue_len := 0}, proctab:info(Zone)).

memory_grows_with_attributes_and_shrinks_without_them(_) ->
    Zone = zone(?FUNCTION_NAME),
    Memory = fun() -> maps:get(memory, proctab:info(Zone)) end,
    ?assertEqual(0, Memory()),
    _ = open(Zone, name),
    Before = Memory(),
    ?assert(Before > 0),
    ok = gen_tracker:setattr(Zone, name, small, 1),
    Small = Memory(),
    ?assert(Small > Before),
    ok = gen_tracker:setattr(Zone, name, [
        {large, binary:copy(<<"x">>, 100000)},
        {lists:seq(1, 1000), key}
    ]),
    ?assert(Memory() > Small + 100000),
    [ok = gen_tracker:delattr(Zone, name, Key) || Key <- [large, lists:seq(1, 1000)]],
    ?assertEqual(Small, Memory()),
    ok = supervisor:terminate_child(Zone, name),
    ?assertEqual(0, Memory()).

waiting_requests_are_counted(_) ->
    Zone = zone(?FUNCTION_NAME),
    ?assertMatch(#{message_queue_len := 0}, proctab:info(Zone)),
    ok = sys:suspend(Zone),
    Waiting = [callers:ask(fun() -> gen_tracker:wait(Zone) end) || _ <- [1, 2, 3]],
    callers:waiting(),
    ?assertMatch(#{message_queue_len := 3}, proctab:info(Zone)),
    ok = sys:resume(Zone),
    [?assertEqual({answer, ok}, answer(Wait)) || Wait <- Waiting].

processes_and_names_of_a_tracker_are_counted(_) ->
    ok = ledger_backend:open(),
    _ = tracked_process:tracker(),
    Pids = [tracked_process:tracked(Names) || Names <- [[a, b, c], [a, b], [a]]],
    Table = #{
        name => metrics_process_tracker,
        owner => self(),
        processes => 3,
        names => 3,
        registrations => 6,
        deaths => 0
    },
    ?assertMatch(
        #{processes := [Table], total := #{processes := 3, names := 3, registrations := 6}},
        proctab:info()
    ),
    tracked_process:kill(Pids),
    tracked_process:empty(),
    ?assertMatch(
        #{processes := [#{processes := 0, names := 0, registrations := 0}]}, proctab:info()
    ),
    ledger_backend:close().

registrations_of_a_monitor_are_counted(_) ->
    {ok, _} = stats_hero_monitor:start_link(),
    Pid = monitored_worker:idle(),
    [ok = stats_hero_monitor:register(Each) || Each <- [Pid, Pid, self()]],
    ?assertMatch(
        #{processes := [#{name := stats_hero_monitor, processes := 2, registrations := 3}]},
        proctab:info()
    ).

deaths_that_wait_for_their_cleanup_are_counted(_) ->
    {ok, _} = stats_hero_monitor:start_link(),
    Pids = [monitored_worker:idle() || _ <- lists:seq(1, 100)],
    [ok = stats_hero_monitor:register(Pid) || Pid <- Pids],
    true = erlang:suspend_process(whereis(stats_hero_monitor_reaper)),
    tracked_process:kill(Pids),
    tracked_process:eventually(fun() ->
        #{processes := [#{deaths := Deaths}]} = proctab:info(),
        Deaths =:= 100
    end),
    true = erlang:resume_process(whereis(stats_hero_monitor_reaper)),
    monitored_worker:settled(),
    ?assertMatch(#{processes := [#{deaths := 0, processes := 0}]}, proctab:info()).

%% "Zones that end meanwhile are left out". With many pages, most of them end in the middle of a
%% call.
zones_that_end_meanwhile_are_left_out(_) ->
    Witness = zone(?FUNCTION_NAME),
    Zone = 'a zone that ends',
    Begin = fun(_) ->
        {ok, Tracker} = gen_tracker:start_link(Zone),
        unlink(Tracker),
        [gen_tracker:increment(Zone, {N}, n, 1, 0) || N <- lists:seq(1, 3000)],
        exit(Tracker, kill),
        tracked_child:down(Tracker)
    end,
    Both = fun() ->
        [
            Name
         || #{name := Name} <- maps:get(zones, proctab:info()), lists:member(Name, [Zone, Witness])
        ]
    end,
    One = fun(Look) ->
        try
            Look()
        catch
            error:badarg -> badarg
        end
    end,
    [Zones, Infos, Tops, Prints] = callers:while_writing(Begin, 100, [
        Both,
        fun() -> One(fun() -> maps:get(name, proctab:info(Zone)) end) end,
        fun() -> One(fun() -> proctab:top(Zone, n, 1) end) end,
        fun() ->
            One(fun() ->
                {Answer, _} = printed(fun() -> proctab:i(Zone) end),
                Answer
            end)
        end
    ]),
    ?assertEqual([], lists:usort(Zones) -- [[Zone, Witness], [Witness]]),
    ?assertEqual([], lists:usort(Infos) -- [Zone, badarg]),
    ?assertEqual([], [
        Top
     || Top <- lists:usort(Tops), Top =/= badarg, Top =/= [], element(2, hd(Top)) =/= 1
    ]),
    ?assertEqual([], lists:usort(Prints) -- [ok, badarg]).

%% The tracker is suspended, and could not answer.
info_top_and_i_send_nothing_and_wait_for_no_process(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = open(Zone, name),
    {Opening, Starter} = gated(Zone, launching),
    ok = sys:suspend(Zone),
    Look = fun() -> {proctab:info(Zone), maps:size(proctab:info()), proctab:top(Zone, n)} end,
    ?assertMatch({{answer, {#{children := 2}, 3, []}}, []}, sent_by(Look)),
    ?assertMatch({ok, _}, printed(fun() -> proctab:i(Zone) end)),
    ok = sys:resume(Zone),
    Starter ! go,
    {answer, {ok, _}} = answer(Opening).

%% The names alone take 4 million words. The process is killed when its heap is a tenth of that,
%% which is about twice the memory for one page of them.
names_that_are_not_shown_take_no_memory_of_the_caller(_) ->
    Zone = crowded(?FUNCTION_NAME),
    Limit = #{size => ?MANY * 100 * 2 div 10, kill => true, error_logger => false},
    InLittleMemory = fun(Fun) ->
        {_, Monitor} = spawn_opt(
            fun() -> exit({answer, Fun()}) end, [monitor, {max_heap_size, Limit}]
        ),
        answer(Monitor)
    end,
    ?assertMatch(
        {answer, #{children := ?MANY, attributes := ?MANY}},
        InLittleMemory(fun() -> proctab:info(Zone) end)
    ),
    ?assertMatch({answer, #{total := _}}, InLittleMemory(fun proctab:info/0)),
    ?assertEqual(
        {answer, [{long(N), N} || N <- [?MANY, ?MANY - 1, ?MANY - 2]]},
        InLittleMemory(fun() -> proctab:top(Zone, n, 3) end)
    ),
    ?assertMatch(
        {answer, {ok, _}}, InLittleMemory(fun() -> printed(fun() -> proctab:i(Zone) end) end)
    ),
    ?assertEqual(killed, InLittleMemory(fun() -> length(gen_tracker:names(Zone)) end)).

a_zone_that_does_not_run_and_a_wrong_number_are_badarg(_) ->
    [
        ?assertError(badarg, Look(Zone))
     || Zone <- [?FUNCTION_NAME, "zone", <<"zone">>, self(), 1, stats_hero_monitor],
        Look <- [
            fun proctab:info/1,
            fun proctab:i/1,
            fun(None) -> proctab:top(None, n) end,
            fun(None) -> proctab:top(None, n, 0) end
        ]
    ],
    Zone = zone(?FUNCTION_NAME),
    [?assertError(badarg, proctab:top(Zone, n, Wrong)) || Wrong <- [-1, 1.0, infinity, "1"]].

the_shell_names_a_bad_argument_of_info_and_top(_) ->
    Zone = zone(?FUNCTION_NAME),
    Says = fun(Function, Arguments, Text) ->
        Printed =
            try apply(proctab, Function, Arguments) catch
                error:badarg:Stack ->
                    unicode:characters_to_list(erl_error:format_exception(error, badarg, Stack))
            end,
        ?assertNotEqual({nomatch, Printed}, {string:find(Printed, Text), Printed})
    end,
    Says(i, [none], "argument 1: no zone of this name is running"),
    Says(info, [none], "argument 1: no zone of this name is running"),
    Says(info, ["zone"], "argument 1: not a zone name"),
    Says(top, [none, n], "argument 1: no zone of this name is running"),
    Says(top, [Zone, n, -1], "argument 3: not a non-negative integer").

%% The largest values

top_returns_the_largest_values_first(_) ->
    Zone = zone(?FUNCTION_NAME),
    Values = [
        {a, 1},
        {b, -5},
        {c, 1 bsl 80},
        {d, 0},
        {e, -(1 bsl 70)},
        {f, (1 bsl 80) + 1},
        {g, 1 bsl 61}
    ],
    [
        ok = gen_tracker:setattr(Zone, Name, n, Value)
     || {Name, Value} <- Values, is_pid(added(Zone, Name))
    ],
    ?assertEqual(lists:reverse(lists:keysort(2, Values)), proctab:top(Zone, n)),
    ?assertEqual([], proctab:top(Zone, m)).

top_returns_ten_names_or_as_many_as_are_asked_for(_) ->
    Zone = crowded(?FUNCTION_NAME),
    Largest = fun(Count) -> [{long(N), N} || N <- lists:seq(?MANY, ?MANY - Count + 1, -1)] end,
    ?assertEqual(Largest(10), proctab:top(Zone, n)),
    [?assertEqual(Largest(Count), proctab:top(Zone, n, Count)) || Count <- [0, 1, 10, 1000, ?MANY]],
    ?assertEqual(Largest(?MANY), proctab:top(Zone, n, 1 bsl 70)).

top_leaves_out_values_that_are_no_integers(_) ->
    Zone = zone(?FUNCTION_NAME),
    [added(Zone, Name) || Name <- [integer, float, atom, missing]],
    [
        ok = gen_tracker:setattr(Zone, Name, n, Value)
     || {Name, Value} <- [{integer, 1}, {float, 2.0}, {atom, large}]
    ],
    ok = gen_tracker:setattr(Zone, missing, m, 3),
    ?assertEqual([{integer, 1}], proctab:top(Zone, n)).

%% Names and keys that are not identical differ. Names with equal values are all there.
top_compares_names_and_keys_exactly(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = [1, 1.0, <<"tv1">>, "tv1", tv1, {1}, {1.0}],
    [
        ok = gen_tracker:setattr(Zone, Name, [{1, 5}, {1.0, 6}, {pid, 7}])
     || Name <- Names, is_pid(added(Zone, Name))
    ],
    Exact = fun(Rows) -> lists:sort([{term_to_binary(Name), Value} || {Name, Value} <- Rows]) end,
    [
        ?assertEqual(
            {Key, Exact([{Name, Value} || Name <- Names])}, {Key, Exact(proctab:top(Zone, Key))}
        )
     || {Key, Value} <- [{1, 5}, {1.0, 6}, {pid, 7}]
    ],
    _ = gen_tracker:increment(Zone, nobody, 1, 9, 0),
    ?assertEqual([{nobody, 9}], proctab:top(Zone, 1, 1)).

%% observer

%% Callbacks of the application, and of its supervisor with the zone.
start(_Type, Zone) ->
    supervisor:start_link({local, looking_sup}, ?MODULE, Zone).

stop(_State) ->
    ok.

init(Zone) ->
    {ok, {#{}, [#{id => Zone, start => {gen_tracker, start_link, [Zone]}, type => supervisor}]}}.

%% The window "Applications" asks for its tree without options, and gets a tree of links: each child
%% is below its zone, with its keeper in between. In the tree of supervisors, the child itself is
%% below the zone.
observer_shows_the_children_of_a_zone_below_it(_) ->
    Zone = ?FUNCTION_NAME,
    ok = application:load({
        application,
        Zone,
        [{vsn, "1"}, {applications, [kernel, stdlib]}, {mod, {?MODULE, Zone}}]
    }),
    ok = application:start(Zone),
    Children = [open(Zone, Name) || Name <- [<<"tv1">>, <<"tv2">>]],
    ZoneText = atom_to_list(Zone),
    Linked = tree(Zone, []),
    ?assert(lists:member({"looking_sup", ZoneText}, Linked)),
    [
        begin
            Keeper = tracked_child:keeper(Child),
            ?assertEqual([ZoneText], parents(Keeper, Linked)),
            [Parent] = parents(Child, Linked),
            ?assert(lists:suffix(pid_to_list(Keeper), Parent), Parent)
        end
     || Child <- Children
    ],
    Supervised = tree(Zone, [{info_type, sup}]),
    ?assert(lists:member({"looking_sup", ZoneText}, Supervised)),
    [?assertEqual([ZoneText], parents(Child, Supervised)) || Child <- Children].

%% Returns the edges of the tree, from the server that observer asks.
tree(Application, Options) ->
    {ok, Server} = appmon_info:start_link(node(), self(), []),
    appmon_info:app(Server, Application, true, [{timeout, at_most_once} | Options]),
    {delivery, Server, app, Application, {_, _, Edges, _}} = await(delivery),
    ok = gen_server:stop(Server),
    [{lists:flatten(Parent), lists:flatten(Below)} || {Parent, Below} <- Edges].

%% The label of a process stands before its pid.
parents(Child, Edges) ->
    [Parent || {Parent, Below} <- Edges, lists:suffix(pid_to_list(Child), Below)].
