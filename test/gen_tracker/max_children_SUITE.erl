%% Promise: a zone with the option `max_children` never has more children than that, in any state,
%% however many processes start some at the same time. Restarts never fail by it.
-module(max_children_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [answer/1]).
-import(gen_tracker, [find_or_open/2]).
-import(messages, [await/1]).
-import(tracked_child, [kill/1, loose/1, plain/1, spec/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        one_child_more_is_refused_by_every_way_to_add_one,
        a_running_child_is_found_in_a_full_zone,
        children_in_every_state_count,
        a_refused_start_leaves_nothing,
        there_is_room_again_after_a_cleanup,
        a_zone_for_no_children_has_none,
        restarts_never_fail_by_the_limit,
        a_full_zone_gives_a_name_to_another_process_and_a_child_to_another_keeper,
        the_limit_holds_while_many_start_at_the_same_time,
        all_who_ask_for_the_last_free_name_get_the_same_child,
        without_the_option_there_is_no_limit
    ].

zone(Zone, Most) ->
    {ok, _} = gen_tracker:start_link(Zone, #{max_children => Most}),
    Zone.

one_child_more_is_refused_by_every_way_to_add_one(_) ->
    Zone = zone(?FUNCTION_NAME, 1),
    Child = tracked_child:open(Zone, child),
    Other = loose(start_link),
    Full = {error, max_children},
    ?assertEqual(Full, find_or_open(Zone, plain(other))),
    ?assertEqual(Full, find_or_open(Zone, #{id => other, start => {?MODULE, never, []}})),
    ?assertEqual(Full, gen_server:call(Zone, {find_or_open, plain(other)})),
    ?assertEqual(Full, supervisor:start_child(Zone, tracked_child:full(other))),
    ?assertEqual(Full, gen_tracker:add_existing_child(Zone, {other, Other, worker, []})),
    ?assertEqual(
        Full, gen_tracker:add_existing_child(Zone, {Other, tracked_child:full(other)})
    ),
    no = gen_tracker:register_name({Zone, other}, Other),
    no = gen_tracker:re_register_name({Zone, other}, Other),
    ?assertMatch(
        {error, {already_started, undefined}},
        gen_server:start({via, gen_tracker, {Zone, other}}, init_server, fun() -> ok end, [])
    ),
    ?assertEqual(1, gen_tracker:count(Zone)),
    kill(Other),
    {ok, Child} = gen_tracker:find(Zone, child).

a_running_child_is_found_in_a_full_zone(_) ->
    Zone = zone(?FUNCTION_NAME, 1),
    Child = tracked_child:open(Zone, child),
    {ok, Child} = find_or_open(Zone, plain(child)),
    {error, {already_started, Child}} =
        gen_tracker:add_existing_child(Zone, {child, self(), worker, []}),
    no = gen_tracker:register_name({Zone, child}, self()).

children_in_every_state_count(_) ->
    Zone = zone(?FUNCTION_NAME, 4),
    {Asked, Starter} = tracked_child:gated(Zone, launching),
    {_, Cleaner} = tracked_child:terminating(Zone, terminating),
    {_, _} = scripted_child:pending(Zone, pending),
    _ = tracked_child:open(Zone, running),
    ?assertEqual({error, max_children}, find_or_open(Zone, plain(other))),
    %% The name of a start that fails is free.
    exit(Starter, kill),
    {answer, {error, killed}} = answer(Asked),
    {ok, _} = find_or_open(Zone, plain(other)),
    ?assertEqual({error, max_children}, find_or_open(Zone, plain(next))),
    Cleaner ! done,
    tracked_child:forgotten(Zone, terminating),
    {ok, _} = find_or_open(Zone, plain(next)),
    ok = supervisor:terminate_child(Zone, pending),
    {ok, _} = find_or_open(Zone, plain(last)),
    ?assertEqual({error, max_children}, find_or_open(Zone, plain(late))).

a_refused_start_leaves_nothing(_) ->
    Zone = zone(?FUNCTION_NAME, 1),
    _ = tracked_child:open(Zone, child),
    Beside = lists:sort(zones:beside(Zone)),
    [{error, max_children} = find_or_open(Zone, plain(Name)) || Name <- lists:seq(1, 1000)],
    {links, _} = process_info(whereis(Zone), links),
    wait:until(fun() -> lists:sort(zones:beside(Zone)) =:= Beside end),
    {Sizes, done} = rows(Zone, 0, []),
    ?assertMatch([{child, _, 0, _}], Sizes),
    %% A row that has attributes stays.
    1 = gen_tracker:increment(Zone, vacant, n, 1, 0),
    {error, max_children} = find_or_open(Zone, plain(vacant)),
    ?assertEqual([{n, 1}], gen_tracker:info(Zone, vacant)).

rows(_, done, Rows) ->
    {Rows, done};
rows(Zone, From, Rows) ->
    {More, Next} = proctab_nif:page(Zone, From, sizes, Rows),
    rows(Zone, Next, More).

there_is_room_again_after_a_cleanup(_) ->
    Zone = zone(?FUNCTION_NAME, 1),
    [
        begin
            Child = tracked_child:open(Zone, Name),
            {error, max_children} = find_or_open(Zone, plain(other)),
            ok = supervisor:terminate_child(Zone, Name),
            false = is_process_alive(Child)
        end
     || Name <- lists:seq(1, 50)
    ].

a_zone_for_no_children_has_none(_) ->
    Zone = zone(?FUNCTION_NAME, 0),
    Loose = loose(start_link),
    [
        ?assertEqual({error, max_children}, Add())
     || Add <- [
            fun() -> find_or_open(Zone, plain(child)) end,
            fun() -> supervisor:start_child(Zone, tracked_child:full(child)) end,
            fun() -> gen_tracker:add_existing_child(Zone, {child, Loose, worker, []}) end,
            fun() -> gen_tracker:add_existing_child(Zone, {Loose, tracked_child:full(child)}) end
        ]
    ],
    no = gen_tracker:register_name({Zone, child}, Loose),
    no = gen_tracker:re_register_name({Zone, child}, Loose),
    %% Attributes need no child.
    1 = gen_tracker:increment(Zone, child, n, 1, 0),
    ?assertEqual({error, max_children}, find_or_open(Zone, plain(child))),
    ?assertEqual({ok, 1}, gen_tracker:getattr(Zone, child, n)),
    ?assertEqual({0, []}, {gen_tracker:count(Zone), gen_tracker:names(Zone)}).

restarts_never_fail_by_the_limit(_) ->
    Zone = zone(?FUNCTION_NAME, 1),
    {ok, First} = find_or_open(Zone, spec(child, permanent)),
    {started, First} = await(started),
    lists:foldl(
        fun(_, Child) ->
            boom = tracked_child:stop(Child, boom),
            {error, max_children} = find_or_open(Zone, plain(other)),
            {started, Next} = await(started),
            Next
        end,
        First,
        lists:seq(1, 9)
    ),
    ?assertEqual(1, gen_tracker:count(Zone)).

a_full_zone_gives_a_name_to_another_process_and_a_child_to_another_keeper(_) ->
    Zone = zone(?FUNCTION_NAME, 1),
    [One, Two] = [loose(start_link) || _ <- [1, 2]],
    yes = gen_tracker:register_name({Zone, child}, One),
    yes = gen_tracker:re_register_name({Zone, child}, Two),
    {ok, Two} = gen_tracker:find(Zone, child),
    no = gen_tracker:register_name({Zone, other}, One),
    Keeper = zones:keeper(Zone, child),
    kill(Keeper),
    wait:until(fun() -> zones:keeper(Zone, child) =/= Keeper end),
    ?assertEqual({ok, Two}, gen_tracker:find(Zone, child)),
    no = gen_tracker:register_name({Zone, other}, One),
    ok = gen_tracker:unregister_name({Zone, child}),
    yes = gen_tracker:register_name({Zone, other}, One),
    ?assertEqual(1, gen_tracker:count(Zone)).

the_limit_holds_while_many_start_at_the_same_time(_) ->
    Zone = zone(?FUNCTION_NAME, 10),
    [
        begin
            Answers = callers:together([
                fun() -> start_by(Way, Zone, Name) end
             || Name <- lists:seq(1, 40), Way <- [Name rem 3]
            ]),
            ?assertEqual(10, length([started || started <- Answers])),
            ?assertEqual(30, length([full || full <- Answers])),
            ?assertEqual(10, gen_tracker:count(Zone)),
            [ok = supervisor:terminate_child(Zone, Name) || Name <- gen_tracker:names(Zone)]
        end
     || _ <- lists:seq(1, 30)
    ].

start_by(0, Zone, Name) ->
    Pid = loose(start_link),
    case gen_tracker:register_name({Zone, Name}, Pid) of
        yes ->
            started;
        no ->
            kill(Pid),
            full
    end;
start_by(1, Zone, Name) ->
    is_started(supervisor:start_child(Zone, tracked_child:full(Name)));
start_by(2, Zone, Name) ->
    is_started(find_or_open(Zone, plain(Name))).

is_started({ok, _}) -> started;
is_started({error, max_children}) -> full.

all_who_ask_for_the_last_free_name_get_the_same_child(_) ->
    Zone = zone(?FUNCTION_NAME, 1),
    [
        begin
            Open = fun() -> find_or_open(Zone, plain(Name)) end,
            [{ok, _}] = lists:usort(callers:together(lists:duplicate(10, Open))),
            ok = supervisor:terminate_child(Zone, Name)
        end
     || Name <- lists:seq(1, 100)
    ].

without_the_option_there_is_no_limit(_) ->
    [
        begin
            {ok, _} = gen_tracker:start_link(?FUNCTION_NAME, Options),
            [{ok, _} = find_or_open(?FUNCTION_NAME, plain(Name)) || Name <- lists:seq(1, 100)],
            ok = gen_server:stop(?FUNCTION_NAME)
        end
     || Options <- [#{}, #{max_children => infinity}, #{max_children => 1 bsl 70}]
    ],
    [
        ?assertError(badarg, gen_tracker:start_link(?FUNCTION_NAME, #{max_children => Most}))
     || Most <- [-1, 1.0, many, []]
    ].
