%% Promise: an index of a zone finds exactly the running children whose attribute has a value, as
%% soon as the attribute was set, and at a cost that depends only on the answer.
-module(index_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [open/2, plain/1, gated/2, terminating/2, forgotten/2, stop/2]).
-import(callers, [ask/1, answer/1]).
-import(messages, [await/1, await/2, taken/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        a_child_is_found_by_its_value,
        each_write_is_found_once_it_has_returned,
        a_refused_write_changes_nothing,
        of_two_values_of_one_key_the_later_one_counts,
        counters_of_any_size_are_found,
        every_kind_of_term_is_a_value,
        every_kind_of_term_is_compared_with_the_value,
        two_values_are_the_same_when_they_are_identical,
        each_element_of_a_proper_list_is_a_value_once,
        only_proper_lists_have_elements,
        lists_of_thousands_of_elements_are_indexed,
        a_child_is_found_from_its_start_to_its_death,
        an_attribute_set_while_the_child_starts_is_found_when_it_runs,
        an_attribute_without_a_child_is_found_when_there_is_one,
        a_restarted_child_is_found_by_its_own_attributes,
        an_unregistered_process_is_not_found,
        a_name_that_is_handed_over_is_found_with_its_new_process,
        a_name_is_always_found_while_it_is_handed_over,
        a_child_that_a_full_zone_refuses_is_not_found,
        a_child_whose_keeper_was_killed_is_found,
        a_child_of_another_node_is_found,
        a_child_is_not_found_once_its_death_was_noticed,
        a_child_that_changes_its_value_is_found_at_most_once,
        a_value_that_is_set_again_is_always_found,
        an_element_that_stays_is_always_found,
        a_list_that_changes_all_the_time_leaves_nothing_behind,
        a_value_that_all_children_have_is_found_in_pages,
        values_are_those_that_somebody_has,
        publish_sends_to_all_that_have_the_value,
        published_messages_arrive_in_the_order_in_which_the_caller_sends,
        publish_counts_a_child_whose_death_was_not_noticed,
        publish_while_the_zone_ends_returns_how_many_it_has_reached,
        lookups_send_no_message,
        a_key_without_an_index_is_badarg,
        bad_indexes_are_badarg,
        an_index_ends_with_its_zone,
        the_values_of_a_child_that_has_ended_are_freed,
        long_changes_leave_the_scheduler
    ].

%% The values

a_child_is_found_by_its_value(_) ->
    Zone = zone([room]),
    [One, Two] = [open(Zone, Name) || Name <- [one, {two, <<"2">>}]],
    ?assertEqual([], gen_tracker:lookup(Zone, room, red)),
    ok = gen_tracker:setattr(Zone, one, room, red),
    ok = gen_tracker:setattr(Zone, {two, <<"2">>}, room, red),
    ?assertEqual([{one, One}, {{two, <<"2">>}, Two}], lookup(Zone, room, red)),
    ?assertEqual(2, gen_tracker:count(Zone, room, red)),
    ?assertEqual([], gen_tracker:lookup(Zone, room, blue)),
    ?assertEqual(0, gen_tracker:count(Zone, room, blue)),
    %% Other attributes are not indexed.
    ok = gen_tracker:setattr(Zone, one, other, blue),
    ?assertEqual([{red, 2}], gen_tracker:values(Zone, room)).

%% Each fun replaces the value 1 of the attribute, by the one beside it.
each_write_is_found_once_it_has_returned(_) ->
    Zone = zone([key]),
    Child = open(Zone, name),
    Writes = [
        {2, fun() -> gen_tracker:setattr(Zone, name, key, 2) end},
        {a, fun() -> gen_tracker:setattr(Zone, name, key, a) end},
        {1, fun() -> gen_tracker:setattr(Zone, name, key, 1) end},
        {b, fun() -> gen_tracker:setattr(Zone, name, [{other, 0}, {key, b}, pair]) end},
        {b, fun() -> gen_tracker:setattr(Zone, name, [{other, 0}]) end},
        {c, fun() -> gen_tracker:setattr(Zone, name, #{other => 0, key => c}) end},
        {7, fun() -> gen_tracker:cas(Zone, name, key, c, 7) end},
        {8, fun() -> gen_tracker:increment(Zone, name, key, 1) end},
        {6, fun() -> gen_tracker:increment(Zone, name, key, -2, 50) end},
        {0, fun() -> gen_tracker:increment(Zone, name, key, {2, 5, 10, 0}) end},
        {1 bsl 70, fun() -> gen_tracker:increment(Zone, name, key, 1 bsl 70) end},
        {none, fun() -> gen_tracker:delattr(Zone, name, key) end},
        {none, fun() -> gen_tracker:delattr(Zone, name, key) end},
        {51, fun() -> gen_tracker:increment(Zone, name, key, 1, 50) end}
    ],
    lists:foldl(
        fun({Value, Write}, Before) ->
            _ = Write(),
            [?assertEqual([], gen_tracker:lookup(Zone, key, Before)) || Value =/= Before],
            Found = [{name, Child} || Value =/= none],
            ?assertEqual(Found, gen_tracker:lookup(Zone, key, Value)),
            ?assertEqual([{Value, 1} || Value =/= none], gen_tracker:values(Zone, key)),
            Value
        end,
        none,
        Writes
    ).

a_refused_write_changes_nothing(_) ->
    Zone = zone([key]),
    Child = open(Zone, name),
    ok = gen_tracker:setattr(Zone, name, key, old),
    ?assertEqual({error, {current, old}}, gen_tracker:cas(Zone, name, key, other, new)),
    ?assertError(badarg, gen_tracker:increment(Zone, name, key, 1)),
    ?assertError(badarg, gen_tracker:increment(Zone, name, key, 1, 5)),
    ?assertError({void_setting, _, _, _}, gen_tracker:setattr(Zone, nobody, key, new)),
    ?assertError({void_setting, _, _, _}, gen_tracker:cas(Zone, nobody, key, old, new)),
    ?assertError(badarg, gen_tracker:setattr(Zone, name, [{key, new} | improper])),
    ?assertEqual([{old, 1}], gen_tracker:values(Zone, key)),
    ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, key, old)).

of_two_values_of_one_key_the_later_one_counts(_) ->
    Zone = zone([key, {each, tags}]),
    _ = open(Zone, name),
    Pairs = [{key, 1}, {tags, [a, b]}, {key, 2}, {tags, [c]}, {other, 3}],
    ok = gen_tracker:setattr(Zone, name, Pairs),
    ?assertEqual({ok, 2}, gen_tracker:getattr(Zone, name, key)),
    ?assertEqual([{2, 1}], gen_tracker:values(Zone, key)),
    ?assertEqual([{c, 1}], gen_tracker:values(Zone, tags)).

counters_of_any_size_are_found(_) ->
    Zone = zone([key]),
    _ = open(Zone, name),
    [
        begin
            ok = gen_tracker:setattr(Zone, name, key, Before),
            After = gen_tracker:increment(Zone, name, key, Increment),
            ?assertEqual([{After, 1}], gen_tracker:values(Zone, key)),
            ?assertEqual(1, gen_tracker:count(Zone, key, After)),
            ?assertEqual(1, length(gen_tracker:lookup(Zone, key, After)))
        end
     || Size <- [3, 59, 61, 62, 63, 64, 200],
        Before <- [1 bsl Size, -(1 bsl Size), 1 bsl Size - 1],
        Increment <- [0, 1, -1]
    ].

every_kind_of_term_is_a_value(_) ->
    Zone = zone([key, {each, list}]),
    Child = open(Zone, name),
    [
        begin
            ok = gen_tracker:setattr(Zone, name, #{key => Value, list => [Value]}),
            [
                begin
                    ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, Key, Sought)),
                    ?assertEqual(1, gen_tracker:count(Zone, Key, Sought)),
                    [{Given, 1}] = gen_tracker:values(Zone, Key),
                    ?assert(Given =:= Value)
                end
             || Key <- [key, list], Sought <- [Value, copy(Value)]
            ]
        end
     || Value <- terms()
    ].

%% A lookup reads the value itself if the child is of another node. The table alone: the tracker
%% would notice that the node does not exist.
every_kind_of_term_is_compared_with_the_value(_) ->
    Zone = ?FUNCTION_NAME,
    _ = proctab_nif:zone_open(Zone, shared, [key, {each, list}], infinity),
    Pid = external_pid(),
    true = proctab_nif:insert(Zone, name, self(), spec, Pid),
    [
        begin
            ok = gen_tracker:setattr(Zone, name, #{key => Value, list => [first, Value, last]}),
            [
                ?assertEqual([{name, Pid}], gen_tracker:lookup(Zone, Key, copy(Value)), Value)
             || Key <- [key, list]
            ],
            ok = gen_tracker:setattr(Zone, name, #{key => other, list => [first, last]}),
            [?assertEqual([], gen_tracker:lookup(Zone, Key, Value)) || Key <- [key, list]]
        end
     || Value <- terms()
    ],
    ok = proctab_nif:zone_close(Zone).

%% An equal term that shares nothing with this one.
copy(Term) ->
    binary_to_term(term_to_binary(Term)).

terms() ->
    Large = binary:copy(<<"large">>, 20000),
    <<_, Part:300/binary, Middle:1000/binary, Long:5000/binary, _/binary>> = Large,
    <<_:3, Unaligned:700/binary, _/bits>> = Large,
    [
        atom,
        [],
        0,
        -1,
        1 bsl 62,
        1 bsl 64,
        1.5,
        0.0,
        -0.0,
        {0.0, [-0.0]},
        #{zero => 0.0},
        self(),
        make_ref(),
        hd(erlang:ports()),
        fun() -> self() end,
        fun lists:map/2,
        <<>>,
        <<"short">>,
        <<1:3>>,
        Large,
        Part,
        Middle,
        Long,
        Unaligned,
        {Middle, [Long | Unaligned]},
        {-0.0, Large},
        "list",
        [improper | list],
        [[0.0 | -0.0], make_ref() | #{-0.0 => <<1:1>>}],
        atomics:new(1, []),
        {tuple, [1, {2}]},
        #{key => value},
        maps:from_list([{N, N} || N <- lists:seq(1, 100)]),
        maps:from_list([{N, -0.0} || N <- lists:seq(1, 100)]),
        lists:seq(1, 3000),
        external_pid()
    ].

%% A pid of a node that does not exist.
external_pid() ->
    binary_to_term(<<131, 88, 119, 4, "a@bc", 77:32, 0:32, 1:32>>).

two_values_are_the_same_when_they_are_identical(_) ->
    Zone = zone([key]),
    Names = [1, 1.0, "1", <<"1">>, '1', {1}, {1.0}],
    [_ = open(Zone, Name) || Name <- Names],
    [ok = gen_tracker:setattr(Zone, Name, key, Name) || Name <- Names],
    ?assertEqual(length(Names), length(gen_tracker:values(Zone, key))),
    [?assertMatch([{Name, _}], gen_tracker:lookup(Zone, key, Name)) || Name <- Names],
    %% As the running release compares them.
    ok = gen_tracker:setattr(Zone, 1, key, 0.0),
    Same = length([zero || zero() =:= -0.0]),
    ?assertEqual(Same, length(gen_tracker:lookup(Zone, key, -0.0))),
    ?assertEqual(1, length(gen_tracker:lookup(Zone, key, 0.0))).

%% Hidden from the compiler.
zero() ->
    binary_to_term(term_to_binary(0.0)).

%% Lists

each_element_of_a_proper_list_is_a_value_once(_) ->
    Zone = zone([{each, tags}]),
    Child = open(Zone, name),
    ok = gen_tracker:setattr(Zone, name, tags, [a, b, a, 1, 1.0, [a], a]),
    [
        begin
            ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, tags, Tag)),
            ?assertEqual(1, gen_tracker:count(Zone, tags, Tag))
        end
     || Tag <- [a, b, 1, 1.0, [a]]
    ],
    ok = gen_tracker:setattr(Zone, name, tags, [b, c, c]),
    ?assertEqual([{b, 1}, {c, 1}], lists:sort(gen_tracker:values(Zone, tags))),
    ok = gen_tracker:cas(Zone, name, tags, [b, c, c], [d]),
    ?assertEqual([{d, 1}], gen_tracker:values(Zone, tags)),
    ok = gen_tracker:delattr(Zone, name, tags),
    ?assertEqual([], gen_tracker:values(Zone, tags)).

only_proper_lists_have_elements(_) ->
    Zone = zone([{each, tags}]),
    _ = open(Zone, name),
    [
        begin
            ok = gen_tracker:setattr(Zone, name, tags, [before]),
            ok = gen_tracker:setattr(Zone, name, tags, NoList),
            ?assertEqual([], gen_tracker:values(Zone, tags))
        end
     || NoList <- [[], atom, 7, <<"ab">>, {a}, #{a => b}, [a | b], [a, b | c], 1 bsl 80]
    ],
    8 = gen_tracker:increment(Zone, name, number, 1, 7),
    ok = gen_tracker:setattr(Zone, name, tags, 7),
    8 = gen_tracker:increment(Zone, name, tags, 1),
    ?assertEqual([], gen_tracker:values(Zone, tags)).

lists_of_thousands_of_elements_are_indexed(_) ->
    Zone = zone([{each, tags}]),
    Child = open(Zone, name),
    ok = gen_tracker:setattr(Zone, name, tags, lists:seq(1, 5000)),
    ok = gen_tracker:setattr(Zone, name, tags, lists:seq(4000, 9000) ++ [{N} || N <- [1, 2]]),
    Values = [Value || {Value, 1} <- gen_tracker:values(Zone, tags)],
    ?assertEqual(lists:seq(4000, 9000) ++ [{1}, {2}], lists:sort(Values)),
    ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, tags, {2})),
    normal = stop(Child, normal),
    forgotten(Zone, name),
    ?assertEqual([], gen_tracker:values(Zone, tags)).

%% The lives of children

a_child_is_found_from_its_start_to_its_death(_) ->
    Zone = zone([last, key]),
    {Pid, Keeper} = terminating(Zone, name),
    ?assertEqual([], gen_tracker:values(Zone, last)),
    ?assertMatch({ok, _}, gen_tracker:getattr(Zone, name, last)),
    %% Neither is what is added now.
    1 = gen_tracker:increment(Zone, name, key, 1, 0),
    ?assertEqual([], gen_tracker:values(Zone, key)),
    Keeper ! done,
    forgotten(Zone, name),
    Next = open(Zone, name),
    ?assertNotEqual(Pid, Next),
    ?assertEqual([], gen_tracker:values(Zone, key) ++ gen_tracker:values(Zone, last)),
    ok = gen_tracker:setattr(Zone, name, key, 1),
    ?assertEqual([{name, Next}], gen_tracker:lookup(Zone, key, 1)).

an_attribute_set_while_the_child_starts_is_found_when_it_runs(_) ->
    Zone = zone([key, {each, tags}]),
    {Asked, Starter} = gated(Zone, name),
    ok = gen_tracker:setattr(Zone, name, #{key => 1, tags => lists:seq(1, 3000)}),
    ok = gen_tracker:setattr(Zone, name, key, 2),
    ?assertEqual([], gen_tracker:values(Zone, key) ++ gen_tracker:values(Zone, tags)),
    Starter ! go,
    {answer, {ok, Child}} = answer(Asked),
    ?assertEqual([{2, 1}], gen_tracker:values(Zone, key)),
    ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, tags, 3000)),
    ?assertEqual(3000, length(gen_tracker:values(Zone, tags))).

an_attribute_without_a_child_is_found_when_there_is_one(_) ->
    Zone = zone([key]),
    [1 = gen_tracker:increment(Zone, Name, key, 1, 0) || Name <- [added, opened, deleted]],
    ok = gen_tracker:delattr(Zone, deleted, key),
    ?assertEqual([], gen_tracker:values(Zone, key)),
    Added = tracked_child:loose(start_link),
    {ok, Added} = gen_tracker:add_existing_child(Zone, {added, Added, worker, []}),
    ?assertEqual([{added, Added}], lookup(Zone, key, 1)),
    Opened = open(Zone, opened),
    _ = open(Zone, deleted),
    ?assertEqual([{added, Added}, {opened, Opened}], lookup(Zone, key, 1)).

a_restarted_child_is_found_by_its_own_attributes(_) ->
    Zone = zone([key]),
    {ok, First} = gen_tracker:find_or_open(Zone, tracked_child:spec(name, permanent)),
    {started, First} = await(started),
    ok = gen_tracker:setattr(Zone, name, key, 1),
    killed = stop(First, killed),
    {started, Second} = await(started),
    zones:until_found(Zone, name, Second),
    ?assertEqual([], gen_tracker:values(Zone, key)),
    ok = gen_tracker:setattr(Zone, name, key, 1),
    ?assertEqual([{name, Second}], gen_tracker:lookup(Zone, key, 1)).

an_unregistered_process_is_not_found(_) ->
    Zone = zone([key]),
    yes = gen_tracker:register_name({Zone, name}, self()),
    ok = gen_tracker:setattr(Zone, name, key, 1),
    ?assertEqual([{name, self()}], gen_tracker:lookup(Zone, key, 1)),
    ok = gen_tracker:unregister_name({Zone, name}),
    ?assertEqual([], gen_tracker:values(Zone, key)).

a_name_that_is_handed_over_is_found_with_its_new_process(_) ->
    Zone = zone([key, {each, tags}]),
    [One, Two, Three, Other] = [tracked_child:loose(start_link) || _ <- [1, 2, 3, 4]],
    yes = gen_tracker:register_name({Zone, name}, One),
    ok = gen_tracker:setattr(Zone, name, #{key => 1, tags => [a, b]}),
    yes = gen_tracker:register_name({Zone, other}, Other),
    ok = gen_tracker:setattr(Zone, other, key, 1),
    [
        begin
            yes = gen_tracker:re_register_name({Zone, name}, Next),
            ?assertEqual([{name, Next}, {other, Other}], lookup(Zone, key, 1)),
            ?assertEqual([{1, 2}], gen_tracker:values(Zone, key)),
            ?assertEqual([{name, Next}], gen_tracker:lookup(Zone, tags, b))
        end
     || Next <- [Two, Two, Three, One, Two]
    ],
    ?assertEqual(1, gen_tracker:publish(Zone, tags, a, {run, self(), fun() -> published end})),
    {ran, Two, published} = await(ran),
    %% The process that had the name lives on, and its death changes nothing.
    _ = tracked_child:kill(One),
    ?assertEqual([{name, Two}], gen_tracker:lookup(Zone, tags, b)),
    ok = gen_tracker:setattr(Zone, name, tags, [c]),
    ?assertEqual([{name, Two}], gen_tracker:lookup(Zone, tags, c)),
    normal = stop(Two, normal),
    forgotten(Zone, name),
    ?assertEqual([], gen_tracker:values(Zone, tags)),
    ?assertEqual([{other, Other}], gen_tracker:lookup(Zone, key, 1)),
    %% The name is free, so the attributes are gone.
    yes = gen_tracker:re_register_name({Zone, name}, Three),
    ?assertEqual([], gen_tracker:values(Zone, tags)).

%% A writer changes the list all the time, so that lookups read it, which takes a while.
a_name_is_always_found_while_it_is_handed_over(_) ->
    Zone = zone([{each, tags}]),
    Processes = [tracked_child:loose(start_link) || _ <- [1, 2, 3]],
    yes = gen_tracker:register_name({Zone, name}, hd(Processes)),
    Write = fun(Number) ->
        Tags = lists:seq(Number, Number + 1000) ++ [stays],
        ok = gen_tracker:setattr(Zone, name, tags, Tags)
    end,
    Write(0),
    Look = fun() ->
        [{name, Found}] = gen_tracker:lookup(Zone, tags, stays),
        true = lists:member(Found, Processes)
    end,
    HandOver = fun(Number) ->
        Next = lists:nth(Number rem 3 + 1, Processes),
        yes = gen_tracker:re_register_name({Zone, name}, Next),
        [{name, Next}] = gen_tracker:lookup(Zone, tags, stays)
    end,
    while_changing(
        fun(Number) -> Write(Number rem 7) end,
        fun() -> callers:while_writing(HandOver, 30, [Look, Look]) end,
        100
    ).

a_child_that_a_full_zone_refuses_is_not_found(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, _} = gen_tracker:start_link(Zone, #{index => [key], max_children => 1}),
    First = open(Zone, first),
    ok = gen_tracker:setattr(Zone, first, key, 1),
    Loose = tracked_child:loose(start_link),
    Add = fun(Name) ->
        gen_tracker:add_existing_child(Zone, {Name, Loose, worker, []})
    end,
    1 = gen_tracker:increment(Zone, attributed, key, 1, 0),
    [
        begin
            ?assertEqual({error, max_children}, Add(Name)),
            ?assertEqual(
                {error, max_children}, gen_tracker:find_or_open(Zone, plain(Name))
            ),
            ?assertEqual([{first, First}], gen_tracker:lookup(Zone, key, 1)),
            ?assertEqual([{1, 1}], gen_tracker:values(Zone, key))
        end
     || Name <- [other, attributed]
    ],
    normal = stop(First, normal),
    forgotten(Zone, first),
    ?assertEqual([], gen_tracker:values(Zone, key)),
    {ok, Loose} = Add(attributed),
    ?assertEqual([{attributed, Loose}], gen_tracker:lookup(Zone, key, 1)).

a_child_whose_keeper_was_killed_is_found(_) ->
    Zone = zone([key]),
    Child = tracked_child:loose(start_link),
    {ok, Child} = gen_tracker:add_existing_child(Zone, {name, Child, worker, []}),
    ok = gen_tracker:setattr(Zone, name, key, 1),
    Keeper = zones:keeper(Zone, name),
    _ = tracked_child:kill(Keeper),
    wait:until(fun() -> zones:keeper(Zone, name) =/= Keeper end),
    ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, key, 1)),
    normal = stop(Child, normal),
    forgotten(Zone, name),
    ?assertEqual([], gen_tracker:values(Zone, key)).

%% The table alone: the tracker would notice that the node does not exist.
a_child_of_another_node_is_found(_) ->
    Zone = ?FUNCTION_NAME,
    _ = proctab_nif:zone_open(Zone, shared, [key], infinity),
    Pid = external_pid(),
    true = proctab_nif:insert(Zone, name, self(), spec, Pid),
    ok = proctab_nif:setattr(Zone, name, key, 1),
    ?assertEqual([{name, Pid}], gen_tracker:lookup(Zone, key, 1)),
    ok = proctab_nif:setattr(Zone, name, key, 2),
    ?assertEqual([{2, 1}], gen_tracker:values(Zone, key)),
    ?assertEqual([], gen_tracker:lookup(Zone, key, 1)),
    true = proctab_nif:terminating(Zone, name, noconnection),
    ?assertEqual([], gen_tracker:lookup(Zone, key, 2)),
    ok = proctab_nif:zone_close(Zone).

%% Changes all the time

a_child_is_not_found_once_its_death_was_noticed(_) ->
    Zone = zone([key]),
    {ok, []} = gen_tracker:subscribe(Zone),
    [
        begin
            Child = open(Zone, Name),
            ok = gen_tracker:setattr(Zone, Name, key, 1),
            Child ! {stop, normal},
            {_, _, {down, Name, Child, normal}} = down_event(),
            ?assertNot(lists:member({Name, Child}, gen_tracker:lookup(Zone, key, 1)))
        end
     || Name <- lists:seq(1, 300)
    ],
    ?assertEqual([], gen_tracker:values(Zone, key)).

down_event() ->
    receive
        {gen_tracker, _, {down, _, _, _}} = Event -> Event
    after 10000 -> ct:fail(no_event)
    end.

a_child_that_changes_its_value_is_found_at_most_once(_) ->
    Zone = zone([key]),
    Names = lists:seq(1, 200),
    [ok = set(open(Zone, Name), Zone, Name, key, 1) || Name <- Names],
    Half = [Name || Name <- Names, Name rem 2 =:= 0],
    while_changing(
        fun(Round) ->
            [ok = gen_tracker:setattr(Zone, Name, key, Round rem 3) || Name <- Half]
        end,
        fun() ->
            Found = [Name || {Name, _} <- gen_tracker:lookup(Zone, key, 1)],
            ?assertEqual(lists:usort(Found), lists:sort(Found)),
            ?assertEqual([], (Names -- Half) -- Found)
        end
    ),
    [ok = gen_tracker:setattr(Zone, Name, key, 1) || Name <- Half],
    ?assertEqual([{1, length(Names)}], gen_tracker:values(Zone, key)).

%% While it is being set, a lookup reads the value itself. Binaries of different lengths are stored
%% in different ways.
a_value_that_is_set_again_is_always_found(_) ->
    Zone = zone([key]),
    Child = open(Zone, name),
    Binaries = [binary:copy(<<"b">>, Length) || Length <- [10, 400, 600, 4096, 5000, 100000]],
    [
        begin
            ok = gen_tracker:setattr(Zone, name, key, Value),
            while_changing(
                fun(_) -> ok = gen_tracker:setattr(Zone, name, key, Value) end,
                fun() ->
                    ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, key, Value)),
                    ?assertEqual([], gen_tracker:lookup(Zone, key, {Value}))
                end
            )
        end
     || Value <- [1, word, -0.0, {1, 2.0}, fun() -> Zone end | Binaries]
    ].

an_element_that_stays_is_always_found(_) ->
    Zone = zone([{each, tags}]),
    Child = open(Zone, name),
    ok = gen_tracker:setattr(Zone, name, tags, [stays]),
    while_changing(
        fun(Round) ->
            Tags = lists:seq(0, Round rem 11) ++ [stays, Round],
            ok = gen_tracker:setattr(Zone, name, tags, Tags)
        end,
        fun() -> ?assertEqual([{name, Child}], gen_tracker:lookup(Zone, tags, stays)) end
    ).

a_list_that_changes_all_the_time_leaves_nothing_behind(_) ->
    Zone = zone([{each, tags}, key]),
    Child = open(Zone, name),
    Writers = [
        ask(fun() ->
            [
                ok = gen_tracker:setattr(Zone, name, tags, lists:seq(From, From + Length))
             || Length <- [0, 3000, 7, 400], From <- lists:seq(Number, Number + 20)
            ]
        end)
     || Number <- [1, 2, 2000]
    ],
    [{answer, _} = answer(Writer) || Writer <- Writers],
    {ok, Tags} = gen_tracker:getattr(Zone, name, tags),
    Values = [Value || {Value, 1} <- gen_tracker:values(Zone, tags)],
    ?assertEqual(lists:sort(Tags), lists:sort(Values)),
    normal = stop(Child, normal),
    forgotten(Zone, name),
    ?assertEqual([], gen_tracker:values(Zone, tags)).

%% Calls one fun with 1, 2, and so on in another process, as long as the other fun is being called
%% a thousand times, or so many.
while_changing(Change, Look) ->
    while_changing(Change, Look, 1000).

while_changing(Change, Look, Times) ->
    {Changer, Monitor} = spawn_monitor(fun() -> changes(Change, 1) end),
    [Look() || _ <- lists:seq(1, Times)],
    exit(Changer, kill),
    receive
        {'DOWN', Monitor, process, Changer, Reason} -> ?assertEqual(killed, Reason)
    end.

changes(Change, Round) ->
    Change(Round),
    changes(Change, Round + 1).

%% Many

a_value_that_all_children_have_is_found_in_pages(_) ->
    Zone = zone([key]),
    Children = many(Zone, 10000),
    ?assertEqual(lists:sort(Children), lookup(Zone, key, same)),
    ?assertEqual(10000, gen_tracker:count(Zone, key, same)),
    ?assertEqual([{same, 10000}], gen_tracker:values(Zone, key)),
    [ok = gen_tracker:setattr(Zone, Name, key, Name) || {Name, _} <- Children],
    ?assertEqual([], gen_tracker:lookup(Zone, key, same)),
    ?assertEqual(
        [{Name, 1} || Name <- lists:seq(1, 10000)], lists:sort(gen_tracker:values(Zone, key))
    ).

%% Children of the table alone, without processes of their own.
many(Zone, Count) ->
    [
        begin
            true = proctab_nif:insert(Zone, Name, self(), spec, self()),
            ok = gen_tracker:setattr(Zone, Name, key, same),
            {Name, self()}
        end
     || Name <- lists:seq(1, Count)
    ].

values_are_those_that_somebody_has(_) ->
    Zone = zone([key]),
    ?assertEqual([], gen_tracker:values(Zone, key)),
    [ok = set(open(Zone, Name), Zone, Name, key, Name div 4) || Name <- lists:seq(0, 9)],
    ?assertEqual([{0, 4}, {1, 4}, {2, 2}], lists:sort(gen_tracker:values(Zone, key))),
    [ok = gen_tracker:setattr(Zone, Name, key, 2) || Name <- [0, 1, 2, 3]],
    ?assertEqual([{1, 4}, {2, 6}], lists:sort(gen_tracker:values(Zone, key))).

publish_sends_to_all_that_have_the_value(_) ->
    Zone = zone([key, {each, tags}]),
    Test = self(),
    Receivers = [
        spawn_link(fun() ->
            receive
                Message -> Test ! {got, self(), Message}
            end
        end)
     || _ <- lists:seq(1, 1000)
    ],
    [
        begin
            {ok, Pid} = gen_tracker:add_existing_child(Zone, {Pid, Pid, worker, []}),
            ok = gen_tracker:setattr(Zone, Pid, #{key => same, tags => [a, same, a]})
        end
     || Pid <- Receivers
    ],
    ?assertEqual(0, gen_tracker:publish(Zone, key, other, no)),
    ?assertEqual(1000, gen_tracker:publish(Zone, tags, a, {hello, [Test]})),
    [{got, Pid, {hello, [Test]}} = await(got, Pid) || Pid <- Receivers],
    ?assertEqual([], taken(got)).

published_messages_arrive_in_the_order_in_which_the_caller_sends(_) ->
    Zone = zone([key]),
    yes = gen_tracker:register_name({Zone, name}, self()),
    ok = gen_tracker:setattr(Zone, name, key, 1),
    [
        begin
            1 = gen_tracker:publish(Zone, key, 1, {ordered, Number}),
            self() ! {ordered, Number + 1}
        end
     || Number <- [1, 3, 5]
    ],
    ?assertEqual([{ordered, Number} || Number <- lists:seq(1, 6)], taken(ordered)),
    ok = gen_tracker:unregister_name({Zone, name}).

%% As `!' to a dead process, it does not fail.
publish_counts_a_child_whose_death_was_not_noticed(_) ->
    Zone = zone([key]),
    [ok = set(open(Zone, Name), Zone, Name, key, 1) || Name <- [one, two]],
    Keeper = zones:keeper(Zone, one),
    true = erlang:suspend_process(Keeper),
    {ok, One} = gen_tracker:find(Zone, one),
    _ = tracked_child:kill(One),
    ?assertEqual(2, gen_tracker:publish(Zone, key, 1, {run, self(), fun() -> published end})),
    {ok, Two} = gen_tracker:find(Zone, two),
    ?assertEqual({ran, Two, published}, await(ran)),
    true = erlang:resume_process(Keeper),
    forgotten(Zone, one),
    ?assertEqual(1, gen_tracker:publish(Zone, key, 1, hello)).

%% The owner of the table is killed when the first of many pages is being sent.
publish_while_the_zone_ends_returns_how_many_it_has_reached(_) ->
    Zone = ?FUNCTION_NAME,
    Test = self(),
    Owner = spawn(fun() ->
        _ = proctab_nif:zone_open(Zone, shared, [key], infinity),
        Test ! {opened, self()},
        timer:sleep(infinity)
    end),
    {opened, Owner} = await(opened),
    _ = many(Zone, 10000),
    Killer = spawn(fun() ->
        receive
            {trace, Test, send, {published}, _} -> exit(Owner, kill)
        end
    end),
    1 = erlang:trace(Test, true, [send, {tracer, Killer}]),
    Sent = gen_tracker:publish(Zone, key, same, {published}),
    ?assert(Sent < 10000, Sent),
    ?assertEqual(Sent, length(taken(published))),
    ?assertError(badarg, gen_tracker:publish(Zone, key, same, {published})).

lookups_send_no_message(_) ->
    Zone = zone([key]),
    ok = set(open(Zone, name), Zone, name, key, 1),
    Calls = fun() ->
        [{name, _}] = gen_tracker:lookup(Zone, key, 1),
        1 = gen_tracker:count(Zone, key, 1),
        [{1, 1}] = gen_tracker:values(Zone, key)
    end,
    ?assertMatch({{answer, _}, []}, callers:sent_by(Calls)).

%% Errors

a_key_without_an_index_is_badarg(_) ->
    Zone = zone([key, {each, tags}]),
    {ok, _} = gen_tracker:start_link(plain),
    [
        [
            ?assertError(badarg, gen_tracker:lookup(Some, Key, 1)),
            ?assertError(badarg, gen_tracker:count(Some, Key, 1)),
            ?assertError(badarg, gen_tracker:values(Some, Key)),
            ?assertError(badarg, gen_tracker:publish(Some, Key, 1, message))
        ]
     || {Some, Key} <- [
            {Zone, other},
            {Zone, {each, tags}},
            {Zone, {each, key}},
            {plain, key},
            {no_zone, key},
            {<<"zone">>, key},
            {self(), key}
        ]
    ].

bad_indexes_are_badarg(_) ->
    Zone = ?FUNCTION_NAME,
    [
        ?assertError(badarg, gen_tracker:start_link(Zone, #{index => Bad}))
     || Bad <- [
            key,
            {each, key},
            #{},
            [a | b],
            [key, key],
            [key, {each, key}],
            <<"key">>,
            lists:seq(1, 65)
        ]
    ],
    ?assertEqual(undefined, whereis(Zone)),
    %% A key is any term; a tuple with `each` is never a key.
    Keys = ["key", {1, 2}, 1, 1.0, #{}, {each}, {each, each}, {all, key}, {each, {each, key}}] ++
        lists:seq(2, 56),
    {ok, _} = gen_tracker:start_link(Zone, #{index => Keys}),
    ?assertEqual([], gen_tracker:values(Zone, {each, key})),
    ?assertEqual([], gen_tracker:lookup(Zone, each, 1)).

an_index_ends_with_its_zone(_) ->
    Zone = zone([key]),
    ok = set(open(Zone, name), Zone, name, key, 1),
    zones:stop_zone(Zone),
    ?assertError(badarg, gen_tracker:lookup(Zone, key, 1)),
    {ok, _} = gen_tracker:start_link(Zone),
    ?assertError(badarg, gen_tracker:lookup(Zone, key, 1)),
    zones:stop_zone(Zone),
    {ok, _} = gen_tracker:start_link(Zone, #{index => [key]}),
    ?assertEqual([], gen_tracker:lookup(Zone, key, 1)).

%% Large values are freed at once, although the row waits until it is freed with others. The tuple
%% is stored as a copy, whose binary shows when it is freed.
the_values_of_a_child_that_has_ended_are_freed(_) ->
    Zone = zone([key, {each, list}]),
    Size = 20000000,
    Ways = [
        fun(Child) -> normal = stop(Child, normal) end,
        fun tracked_child:kill/1,
        fun(_) -> ok = supervisor:terminate_child(Zone, name) end,
        fun(_) -> ok = gen_tracker:unregister_name({Zone, name}) end
    ],
    Registered = fun() ->
        Child = tracked_child:loose(start_link),
        yes = gen_tracker:register_name({Zone, name}, Child),
        Child
    end,
    [
        begin
            Before = erlang:memory(binary),
            Child = Start(),
            callers:apart(fun() ->
                Value = {make_ref(), <<0:Size/unit:8>>},
                ok = gen_tracker:setattr(Zone, name, #{key => Value, list => [Value]})
            end),
            ?assert(erlang:memory(binary) > Before + Size div 2),
            End(Child),
            wait:until(fun() -> gen_tracker:count(Zone) =:= 0 end),
            wait:until(fun() -> erlang:memory(binary) < Before + Size div 2 end),
            _ = tracked_child:kill(Child)
        end
     || {Start, End} <-
            [{fun() -> open(Zone, name) end, End} || End <- lists:droplast(Ways)] ++
            [{Registered, End} || End <- Ways]
    ].

%% Each change removes or adds thousands of elements, and is made once.
long_changes_leave_the_scheduler(_) ->
    Zone = ?FUNCTION_NAME,
    Long = lists:seq(1, 3000),
    _ = proctab_nif:zone_open(Zone, shared, [{each, tags}], infinity),
    Start = fun() -> true = proctab_nif:insert(Zone, name, self(), spec, launching) end,
    Run = fun() -> true = proctab_nif:running(Zone, name, self()) end,
    Set = fun(Tags) -> ok = proctab_nif:setattr(Zone, name, tags, Tags) end,
    Remove = fun() -> true = proctab_nif:remove(Zone, name) end,
    Prepared = [Start, fun() -> Set(Long) end],
    [
        begin
            Steps = fun() ->
                [Step() || Step <- Before],
                Change(),
                ?assertEqual(Expected, length(gen_tracker:values(Zone, tags))),
                _ = proctab_nif:remove(Zone, name)
            end,
            Left = scheduling:left(Steps),
            ?assert(lists:member(Function, Left), Function),
            ?assertEqual([], gen_tracker:values(Zone, tags))
        end
     || {Function, Before, Change, Expected} <- [
            {{setattr, 4}, [Start, Run], fun() -> Set(Long) end, 3000},
            {{running, 3}, Prepared, Run, 3000},
            {{setattr, 4}, Prepared ++ [Run], fun() -> Set([]) end, 0},
            {{delattr, 3}, Prepared ++ [Run], fun() -> delete(Zone) end, 0},
            {{cas, 5}, Prepared ++ [Run], fun() -> swap(Zone, Long) end, 1},
            {{terminating, 3}, Prepared ++ [Run], fun() -> terminate(Zone) end, 0},
            {{remove, 2}, Prepared ++ [Run], Remove, 0}
        ]
    ],
    ok = proctab_nif:zone_close(Zone).

delete(Zone) ->
    ok = proctab_nif:delattr(Zone, name, tags).

swap(Zone, Long) ->
    ok = proctab_nif:cas(Zone, name, tags, Long, [one]).

terminate(Zone) ->
    true = proctab_nif:terminating(Zone, name, normal).

%% Helpers

%% Starts a zone with these indexes. It has the name of the case.
zone(Index) ->
    {current_stacktrace, Stack} = process_info(self(), current_stacktrace),
    [Zone | _] = [Case || {?MODULE, Case, _, _} <- Stack, lists:member(Case, all())],
    {ok, _} = gen_tracker:start_link(Zone, #{index => Index}),
    Zone.

set(_Child, Zone, Name, Key, Value) ->
    gen_tracker:setattr(Zone, Name, Key, Value).

lookup(Zone, Key, Value) ->
    lists:sort(gen_tracker:lookup(Zone, Key, Value)).
