%% Promise: no call holds a normal scheduler for long. A call with much work moves to a dirty
%% scheduler, however this work is divided, and any other call is charged the reductions of its
%% work. A term whose copy would take over a gigabyte is refused.
%%
%% No case measures time. Each has a zone with the name of the case, in which the child ?NAME runs.
-module(limits_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(scheduling, [left/1]).
-import(zone_hook, [zone/1]).
-import(callers, [apart/1]).
-import(tracked_child, [open/2]).
-import(gen_tracker, [cas/5, find/2, getattr/3, info/2, info/3, setattr/3, setattr/4]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [{open, ?NAME}]}]}].

all() ->
    [
        a_term_whose_copy_takes_a_gigabyte_is_refused_anywhere_in_a_map,
        a_call_is_rescheduled_when_its_terms_together_cost_much,
        a_call_that_reads_thousands_of_attributes_is_rescheduled,
        a_call_that_compares_many_long_keys_is_rescheduled,
        a_call_with_a_bitstring_of_unknown_size_is_rescheduled,
        a_call_that_compares_a_large_value_is_rescheduled,
        a_fun_of_ordinary_size_is_read_without_being_rescheduled,
        a_start_with_a_fun_is_rescheduled_only_to_store_it,
        waiting_for_a_long_name_begins_on_a_dirty_scheduler,
        a_call_that_moves_ten_thousand_waiters_is_rescheduled,
        a_call_that_moves_or_reads_ten_thousand_names_is_rescheduled,
        a_cleanup_of_a_long_name_ends_on_a_dirty_scheduler,
        ordinary_calls_are_not_rescheduled,
        what_was_set_on_a_dirty_scheduler_is_all_there,
        a_call_that_converts_much_is_charged_many_reductions,
        a_call_that_converts_little_is_charged_few_reductions,
        a_page_of_a_list_is_charged_for_its_content,
        an_unaligned_binary_is_copied_once_at_a_time,
        of_many_unaligned_binaries_two_are_copied_at_a_time,
        of_many_unaligned_binaries_one_is_copied_before_the_call_is_rescheduled,
        a_call_with_a_long_integer_is_rescheduled
    ].

%% A map with one value of 26 list cells, whose copy would have 67 million. The map has so many keys
%% that the limit is reached within it.
a_term_whose_copy_takes_a_gigabyte_is_refused_anywhere_in_a_map(Config) ->
    Zone = zone(Config),
    Huge = lists:foldl(fun(_, Part) -> [Part | Part] end, [], lists:seq(1, 26)),
    Map = maps:from_list([{N, N + 0.5} || N <- lists:seq(1, 1300)]),
    InOrder = [Key || {Key, _} <- maps:to_list(Map)],
    Set = fun(Term) -> setattr(Zone, ?NAME, key, Term) end,
    Calls = [
        fun(Term) -> setattr(Zone, ?NAME, [{key, {within, Term}}]) end,
        fun(Term) -> setattr(Zone, ?NAME, Term, value) end,
        fun(Term) -> find(Zone, Term) end
    ],
    [
        ?assertEqual({Place, badarg}, {
            Place,
            apart(fun() -> outcome(Call, Map#{lists:nth(Place, InOrder) := Huge}) end)
        })
     || {Place, Call} <- [{1, Set}, {1250, Set}, {1300, Set} | [{1300, Call} || Call <- Calls]]
    ],
    [] = info(Zone, ?NAME).

outcome(Call, Term) ->
    try
        Call(Term)
    catch
        error:badarg -> badarg
    end.

%% Moving to a dirty scheduler

a_call_is_rescheduled_when_its_terms_together_cost_much(Config) ->
    Zone = zone(Config),
    Encoded = [{N, lists:seq(1, 400)} || N <- lists:seq(1, 100)],
    Binaries = [{N, binary:copy(<<N>>, 4000)} || N <- lists:seq(1, 200)],
    Copied = [{N, [make_ref() || _ <- lists:seq(1, 100)]} || N <- lists:seq(1, 20)],
    Several = [{N, lists:seq(1, 1500)} || N <- lists:seq(1, 5)],
    ?assertEqual([{setattr, 3}], left(fun() -> setattr(Zone, ?NAME, Encoded) end)),
    ?assertEqual([{setattr, 3}], left(fun() -> setattr(Zone, ?NAME, Binaries) end)),
    ?assertEqual([{setattr, 3}], left(fun() -> setattr(Zone, ?NAME, Copied) end)),
    ?assertEqual([{setattr, 3}], left(fun() -> setattr(Zone, ?NAME, Several) end)),
    [
        ?assertEqual([{attrs, 3}], left(fun() -> info(Zone, ?NAME, Pairs) end))
     || Pairs <- [Encoded, Binaries, Copied, Several]
    ].

a_call_that_reads_thousands_of_attributes_is_rescheduled(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{N, N} || N <- lists:seq(1, 5000)]),
    ?assertEqual([{attrs, 3}], left(fun() -> info(Zone, ?NAME, [1, 2]) end)),
    ?assertEqual([], left(fun() -> info(Zone, ?NAME, [1]) end)),
    ?assertEqual([{attrs, 2}], left(fun() -> info(Zone, ?NAME) end)),
    ?assertEqual([], left(fun() -> getattr(Zone, ?NAME, 1) end)).

%% Of several keys, each attribute of the name is compared with all.
a_call_that_compares_many_long_keys_is_rescheduled(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{<<N:32000>>, N} || N <- lists:seq(1, 100)] ++ [{a, 1}, {b, 2}]),
    MatchSpec = [{{'_', '_', #{a => 1, b => '$1'}}, [], ['$1']}],
    Select = fun() -> [2] = gen_tracker:select(Zone, MatchSpec) end,
    ?assertEqual([{attrs, 3}], left(fun() -> [_, _] = info(Zone, ?NAME, [a, b]) end)),
    ?assertEqual([], left(fun() -> [_] = info(Zone, ?NAME, [a]) end)),
    ?assertEqual([{page, 4}], left(Select)).

%% A native function cannot ask for the size of a bitstring that is not whole bytes, nor whether it
%% is part of a larger one.
a_call_with_a_bitstring_of_unknown_size_is_rescheduled(Config) ->
    Zone = zone(Config),
    ?assertEqual([{find, 2}], left(fun() -> find(Zone, <<1:3>>) end)),
    ?assertEqual([{setattr, 4}], left(fun() -> setattr(Zone, ?NAME, {key, <<1:3>>}, value) end)),
    ?assertEqual([{setattr, 4}], left(fun() -> setattr(Zone, ?NAME, key, <<1:3>>) end)),
    ?assertEqual([], left(fun() -> getattr(Zone, ?NAME, key) end)).

a_call_that_compares_a_large_value_is_rescheduled(Config) ->
    Zone = zone(Config),
    Ref = make_ref(),
    Large = fun() -> binary:copy(<<"value">>, 1 bsl 18) end,
    [
        begin
            ok = setattr(Zone, ?NAME, key, Value()),
            Expected = Value(),
            ?assertEqual([{cas, 5}], left(fun() -> ok = cas(Zone, ?NAME, key, Expected, new) end))
        end
     || Value <- [Large, fun() -> {Ref, Large()} end]
    ].

%% A native function cannot ask for the size of a fun, either. It is known as soon as it is stored.
a_fun_of_ordinary_size_is_read_without_being_rescheduled(Config) ->
    Zone = zone(Config),
    Small = capturing({small, lists:seq(1, 100)}),
    Large = capturing(lists:seq(1, 1000000)),
    [
        ?assertEqual([{setattr, 4}], left(fun() -> setattr(Zone, ?NAME, Key, Fun) end))
     || {Key, Fun} <- [{small, Small}, {large, Large}]
    ],
    ?assertEqual([], left(fun() -> {ok, Small} = getattr(Zone, ?NAME, small) end)),
    ?assertEqual([{getattr, 3}], left(fun() -> {ok, Large} = getattr(Zone, ?NAME, large) end)).

capturing(Term) ->
    fun() -> Term end.

%% The arguments of a temporary child are not stored.
a_start_with_a_fun_is_rescheduled_only_to_store_it(Config) ->
    Zone = zone(Config),
    Run = scripted_child:run(),
    Open = fun(Restart) ->
        {ok, _} = gen_tracker:find_or_open(Zone, scripted_child:spec(Restart, Restart, Run))
    end,
    ?assertEqual([], left(fun() -> Open(temporary) end)),
    ?assertEqual([], left(fun() -> Open(permanent) end)),
    {_, _, Keeper, _} = proctab_nif:child(Zone, permanent),
    ?assertEqual([], left(fun() -> proctab_nif:kept(Zone, Keeper) end)).

waiting_for_a_long_name_begins_on_a_dirty_scheduler(Config) ->
    Zone = zone(Config),
    Wait = fun(Name) ->
        {Waits, _, _} = proctab_nif:wait_for(Zone, Name, key),
        true = proctab_nif:stop_waiting(Waits)
    end,
    ?assertEqual([{wait_for, 3}], left(fun() -> Wait(lists:seq(1, 10000)) end)),
    ?assertEqual([], left(fun() -> Wait(?NAME) end)).

%% The waiters for an attribute are in a map that moves all of them when it grows. Between 10,000
%% and 20,000 this happens once.
a_call_that_moves_ten_thousand_waiters_is_rescheduled(Config) ->
    Zone = zone(Config),
    Self = self(),
    Wait = fun() -> Self ! {kept, proctab_nif:wait_for(Zone, crowd, key)} end,
    Waiting = [proctab_nif:wait_for(Zone, crowd, key) || _ <- lists:seq(1, 10000)],
    ?assertEqual([[{wait_for, 3}]], [
        Left
     || _ <- lists:seq(1, 10000), Left <- [left(Wait)], Left =/= []
    ]),
    ?assertEqual(
        [{increment, 5}], left(fun() -> proctab_nif:increment(Zone, crowd, key, 1, 1) end)
    ),
    ?assertEqual([], [stays || {Waits, _, _} <- Waiting, proctab_nif:stop_waiting(Waits)]).

%% The names of a process are in such a map, too.
a_call_that_moves_or_reads_ten_thousand_names_is_rescheduled(_) ->
    Pid = self(),
    ok = proctab_nif:processes_open(?FUNCTION_NAME, Pid),
    [ok = proctab_nif:register(?FUNCTION_NAME, Pid, N) || N <- lists:seq(1, 10000)],
    Left = fun(Function, Arguments) ->
        left(fun() -> apply(proctab_nif, Function, [?FUNCTION_NAME, Pid | Arguments]) end)
    end,
    ?assertEqual([[{register, 3}]], [
        Moved
     || N <- lists:seq(10001, 20000), Moved <- [Left(register, [N])], Moved =/= []
    ]),
    ?assertEqual([[{begin_registering, 3}]], [
        Moved
     || N <- lists:seq(20001, 40000), Moved <- [Left(begin_registering, [N])], Moved =/= []
    ]),
    ?assertEqual([{fail_registering, 3}], Left(fail_registering, [20001])),
    ?assertEqual([{abandon, 3}], Left(abandon, [Pid])),
    ?assertEqual([{registered_names, 2}], Left(registered_names, [])),
    ?assertEqual([], Left(unregister, [1])),
    ok = proctab_nif:processes_close(?FUNCTION_NAME).

%% The end of a cleanup looks up its name, which may be of any size.
a_cleanup_of_a_long_name_ends_on_a_dirty_scheduler(_) ->
    Table = ?FUNCTION_NAME,
    {Pid, Monitor} = spawn_monitor(fun() -> ok end),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end,
    ok = proctab_nif:processes_open(Table, self()),
    ok = proctab_nif:open_cleanups(Table),
    Reaper = self(),
    Cleaned = fun(Name) ->
        ok = proctab_nif:register(Table, Pid, Name),
        {1, [], _} = proctab_nif:reap(Table),
        Left = left(fun() ->
            [{Pid, Name, true}] = proctab_nif:take_cleanups(Table, Reaper),
            _ = proctab_nif:cleaned(Table)
        end),
        ?assertEqual([], proctab_nif:registered_names(Table, Pid)),
        Left
    end,
    ?assertEqual([], Cleaned(name)),
    ?assertEqual([{cleaned, 1}, {take_cleanups, 2}], Cleaned(lists:seq(1, 10000))),
    ?assertEqual([{cleaned, 1}], Cleaned(binary:copy(<<"long name">>, 1000000))),
    ok = proctab_nif:processes_close(Table).

ordinary_calls_are_not_rescheduled(Config) ->
    Zone = zone(Config),
    Values = [
        1,
        1.5,
        a,
        <<"rtmp://a">>,
        self(),
        make_ref(),
        {1, 2, 3, 4},
        "some text",
        #{a => 1},
        1 bsl 70,
        counters:new(1, [])
    ],
    Pairs = lists:zip(lists:seq(1, length(Values)), Values),
    Frame = binary:copy(<<"frame">>, 1000000),
    Calls = [
        fun() -> ok = setattr(Zone, ?NAME, Pairs) end,
        fun() -> ok = setattr(Zone, ?NAME, [{N, N} || N <- lists:seq(1, 200)]) end,
        fun() -> ok = setattr(Zone, ?NAME, frame, Frame) end,
        fun() -> ok = setattr(Zone, ?NAME, list, lists:seq(1, 1000)) end,
        fun() -> {ok, Frame} = getattr(Zone, ?NAME, frame) end,
        fun() -> [_ | _] = info(Zone, ?NAME, lists:seq(1, 20)) end,
        fun() -> {ok, _} = find(Zone, ?NAME) end
    ],
    [?assertEqual([], left(Call)) || Call <- Calls].

what_was_set_on_a_dirty_scheduler_is_all_there(Config) ->
    Zone = zone(Config),
    Pairs = [{N, [N | lists:seq(1, 400)]} || N <- lists:seq(1, 499)],
    ok = setattr(Zone, ?NAME, Pairs),
    ?assertEqual(Pairs, lists:sort(info(Zone, ?NAME))),
    ?assertEqual(Pairs, lists:sort(info(Zone, ?NAME, lists:seq(1, 499)))).

%% Reductions, of which a time slice has 4,000

a_call_that_converts_much_is_charged_many_reductions(Config) ->
    Zone = zone(Config),
    List = lists:seq(1, 1500),
    Calls = [
        fun() -> setattr(Zone, ?NAME, key, List) end,
        fun() -> getattr(Zone, ?NAME, key) end,
        fun() -> info(Zone, ?NAME) end,
        fun() -> setattr(Zone, ?NAME, List, value) end,
        fun() -> getattr(Zone, ?NAME, List) end,
        fun() -> find(Zone, List) end
    ],
    [?assert(Reductions > 1000, Reductions) || Call <- Calls, Reductions <- [reductions(Call)]].

a_call_that_converts_little_is_charged_few_reductions(Config) ->
    Zone = zone(Config),
    ok = setattr(Zone, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    Calls = [
        fun() -> find(Zone, ?NAME) end,
        fun() -> getattr(Zone, ?NAME, url) end,
        fun() -> setattr(Zone, ?NAME, url, make_ref()) end,
        fun() -> gen_tracker:increment(Zone, ?NAME, n, 1) end,
        fun() -> info(Zone, ?NAME) end
    ],
    [?assert(Reductions < 100, Reductions) || Call <- Calls, Reductions <- [reductions(Call)]].

a_page_of_a_list_is_charged_for_its_content(Config) ->
    Zone = zone(Config),
    [open(Zone, Name) || Name <- lists:seq(1, 1000)],
    [ok = setattr(Zone, Name, [{a, {1, 2, 3}}, {b, <<"b">>}]) || Name <- lists:seq(1, 1000)],
    ?assert(reductions(fun() -> gen_tracker:list(Zone) end) > 10000).

%% Returns the reductions of a fun, called by a process of its own.
reductions(Fun) ->
    apart(fun() ->
        Count = fun() ->
            {reductions, Reductions} = process_info(self(), reductions),
            Reductions
        end,
        Before = Count(),
        Between = Count(),
        _ = Fun(),
        Count() - Between - (Between - Before)
    end).

%% When a native function reads a binary that does not begin at a byte, the VM copies it, and frees
%% the copies when the function returns or is rescheduled. Measured is the maximum on each
%% scheduler.
an_unaligned_binary_is_copied_once_at_a_time(Config) ->
    Zone = zone(Config),
    Size = 32000000,
    <<_:1, Unaligned:Size/binary, _/bitstring>> = <<0:((Size + 1) * 8)>>,
    [
        begin
            _ = most_temporary(),
            ok = setattr(Zone, ?NAME, key, Value),
            ?assert(most_temporary() < 2 * Size * 3 div 2)
        end
     || Value <- [Unaligned, {within, [Unaligned]}]
    ],
    ?assertEqual({ok, {within, [Unaligned]}}, getattr(Zone, ?NAME, key)).

of_many_unaligned_binaries_two_are_copied_at_a_time(Config) ->
    Zone = zone(Config),
    Size = 4000000,
    <<_:1, One:Size/binary, Other:Size/binary, _/bitstring>> = <<0:((2 * Size + 1) * 8)>>,
    Many = lists:append(lists:duplicate(10, [One, Other])),
    [
        begin
            _ = most_temporary(),
            ok = setattr(Zone, ?NAME, Pairs),
            ?assert(most_temporary() < 2 * Size * 3)
        end
     || Pairs <- [
            [{key, Many}],
            [{key, list_to_tuple(Many)}],
            lists:enumerate(Many),
            [{Number, {Binary}} || {Number, Binary} <- lists:enumerate(Many)]
        ]
    ],
    ?assertEqual({ok, {Other}}, getattr(Zone, ?NAME, 20)).

%% Each copy of a binary takes a segment of its own. On the dirty scheduler, each of the ten is
%% copied when the cost is computed and when the VM hashes it, or twice when it is stored.
of_many_unaligned_binaries_one_is_copied_before_the_call_is_rescheduled(Config) ->
    Zone = zone(Config),
    Size = 4000000,
    Many = [
        begin
            <<_:1, Unaligned:Size/binary, _/bitstring>> = <<Number:((Size + 1) * 8)>>,
            Unaligned
        end
     || Number <- lists:seq(1, 10)
    ],
    Copies = fun(Fun) ->
        Before = segments(),
        _ = Fun(),
        segments() - Before
    end,
    Find = Copies(fun() -> undefined = find(Zone, Many) end),
    Set = Copies(fun() -> ok = setattr(Zone, ?NAME, key, Many) end),
    ?assertMatch({_, _} when Find < 25 andalso Set < 35, {Find, Set}).

%% Returns how many segments of memory were allocated for temporary copies and by native functions.
segments() ->
    lists:sum([
        Giga * 1000000000 + Count
     || Allocator <- [temp_alloc, driver_alloc],
        {instance, _, Info} <- erlang:system_info({allocator, Allocator}),
        {calls, Calls} <- Info,
        {mseg_alloc, Giga, Count} <- Calls
    ]).

%% The size of an integer of more than 997 bits is measured on a dirty scheduler.
a_call_with_a_long_integer_is_rescheduled(Config) ->
    Zone = zone(Config),
    Set = fun(Value) -> left(fun() -> ok = setattr(Zone, ?NAME, key, Value) end) end,
    [
        begin
            ?assertEqual([], Set(Sign * (1 bsl 128 + 1))),
            ?assertEqual([], Set({within, Sign * (1 bsl 990)})),
            ?assertEqual([{setattr, 4}], Set(Sign * (1 bsl 1000))),
            ?assertEqual([{setattr, 4}], Set({within, Sign * (1 bsl 8000)}))
        end
     || Sign <- [1, -1]
    ].

%% Returns the maximum of bytes used for temporary copies and by native functions since the last
%% call.
most_temporary() ->
    lists:sum([
        Most
     || Allocator <- [temp_alloc, driver_alloc],
        {instance, _, Sizes} <- erlang:system_info({allocator_sizes, Allocator}),
        {sbcs, Blocks} <- Sizes,
        {blocks, Kinds} <- Blocks,
        {_, Kind} <- Kinds,
        {size, _, Most, _} <- Kind
    ]).
