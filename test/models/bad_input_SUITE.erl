%% Promise: wrong input harms nobody but its caller. A wrong term in any position raises `badarg` in
%% the caller, the tracker keeps running, and the table does not change. Huge terms are stored and
%% read back exactly, or refused; the VM keeps running.
%%
%% Each case has a zone with the name of the case. In this zone, the child ?NAME has two attributes,
%% and there is no child ?VOID. Huge terms are made and compared in processes that exit afterwards,
%% so that no report contains them.
-module(bad_input_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [apart/1, while_writing/3]).
-import(tracked_child, [kill/1, open/2, spec/2]).
-import(wrong_calls, [calls/2, with/3, no_zones/0, no_lists/1, no_integers/0, wrong_spec_fields/0]).
-import(wrong_calls, [without_end/0]).
-import(gen_tracker, [attrs/2, find/2, find_or_open/2, getattr/3, increment/5, info/2, info/3]).
-import(gen_tracker, [list/1, setattr/3, setattr/4]).

-define(NAME, <<"tv1">>).
-define(VOID, <<"nobody">>).

suite() ->
    [{timetrap, {minutes, 10}}].

all() ->
    [
        a_wrong_term_in_any_position_is_badarg_and_changes_nothing,
        wrong_calls_cover_every_function,
        lookups_refuse_wrong_terms,
        functions_for_all_members_refuse_wrong_terms,
        every_function_is_badarg_for_a_zone_that_does_not_run,
        a_zone_with_a_wrong_name_or_wrong_options_does_not_start,
        a_malformed_spec_is_refused_as_check_childspecs_does_and_starts_nothing,
        an_improper_modules_list_does_not_end_the_tracker,
        messages_that_look_like_internal_ones_change_nothing,
        native_functions_refuse_wrong_terms,
        native_functions_without_a_zone_refuse_wrong_terms,
        native_functions_refuse_callers_other_than_the_keeper,
        huge_terms_are_stored_and_read_back_as_values_or_refused,
        huge_terms_are_stored_and_read_back_as_keys_or_refused,
        huge_terms_are_stored_and_read_back_as_names_or_refused,
        a_child_with_a_huge_name_starts_and_ends_like_any_other,
        a_term_too_large_to_copy_is_refused_in_every_position,
        find_or_open_of_a_name_too_large_to_copy_is_badarg,
        a_spec_that_is_refused_after_waiting_does_not_end_the_zone,
        setattr_sets_all_of_100000_pairs_or_none,
        readers_see_whole_values_while_huge_values_are_replaced,
        a_list_of_many_long_integers_is_refused,
        error_messages_do_not_contain_long_integers,
        random_rounds_cover_every_function,
        random_calls_are_answered_or_refused_and_change_nothing_else
    ].

init_per_testcase(Case, Config) ->
    Child = open(zones:zone(Case), ?NAME),
    ok = setattr(Case, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    [{zone, Case}, {child, Child} | Config].

end_per_testcase(Case, _Config) ->
    zones:stop_zone(Case).

zone(Config) ->
    proplists:get_value(zone, Config).

%% Returns everything in a zone that a refused call must not change.
snapshot(Zone) ->
    Children = lists:sort(gen_tracker:which_children(Zone)),
    Listed = [{Name, lists:sort(Attributes)} || {Name, Attributes} <- list(Zone)],
    {whereis(Zone), Children, lists:sort(Listed), attrs(Zone, ?VOID), attrs(Zone, void)}.

%% Returns what a fun returns, and asserts that the fun did not change the zone.
unchanged(Zone, Fun) ->
    Before = snapshot(Zone),
    Result = Fun(),
    ok = gen_tracker:wait(Zone),
    ?assertEqual(Before, snapshot(Zone)),
    Result.

%% Returns what a fun returns, or `badarg` if it fails with this error.
or_badarg(Fun) ->
    try
        Fun()
    catch
        error:badarg -> badarg
    end.

%% Returns what a fun returns in a process of its own, or `badarg`, and asserts that the fun did not
%% change the zone.
unchanged_apart(Zone, Fun) ->
    unchanged(Zone, fun() -> apart(fun() -> or_badarg(Fun) end) end).

%% Wrong terms

a_wrong_term_in_any_position_is_badarg_and_changes_nothing(Config) ->
    Zone = zone(Config),
    Calls = calls(Zone, proplists:get_value(child, Config)),
    [assert_refused(Zone, gen_tracker, Call) || Call <- Calls],
    %% With right terms only, these calls do not fail.
    [apply(gen_tracker, Function, Arguments) || {Function, Arguments, _} <- Calls].

%% Asserts that a call is refused with each wrong term in its place among right arguments.
assert_refused(Zone, Module, {Function, Right, Places}) ->
    [
        begin
            Arguments = with(Place, Right, Wrong),
            Call = fun() -> or_badarg(fun() -> apply(Module, Function, Arguments) end) end,
            ?assertEqual(
                {Function, Arguments, badarg}, {Function, Arguments, unchanged(Zone, Call)}
            )
        end
     || {Place, AllWrong} <- [{1, no_zones()} | Places], Wrong <- AllWrong
    ].

%% Returns the pid of a process on another node.
remote_pid() ->
    prop_terms:remote_pid(<<"else@here">>, 99, 0, 1).

wrong_calls_cover_every_function(Config) ->
    Callbacks = lists:usort(
        gen_server:behaviour_info(callbacks) ++ gen_server:behaviour_info(optional_callbacks)
    ),
    OtherCases = [{start_link, 1}, {start_link, 2}, {find_or_open, 2}, {fold, 3}] ++
        [{register_name, 2}, {unregister_name, 1}, {whereis_name, 1}, {send, 2}] ++
        [{lookup, 3}, {count, 3}, {values, 2}, {publish, 4}] ++
        [{re_register_name, 2}, {child_spec, 1}, {select, 1}],
    %% The argument may be any term.
    NeverRefused = [{init_ack, 1}],
    Covered = [
        {Function, length(Arguments)}
     || {Function, Arguments, _} <- calls(zone(Config), self())
    ],
    Exported = gen_tracker:module_info(exports) -- [{module_info, 0}, {module_info, 1} | Callbacks],
    ?assertEqual(lists:sort(Exported), lists:usort(Covered ++ OtherCases ++ NeverRefused)).

lookups_refuse_wrong_terms(_) ->
    Zone = indexed,
    {ok, _} = gen_tracker:start_link(Zone, #{index => [n, {each, tags}]}),
    Keys = [url, {each, n}, {each, tags}, <<"n">>, "tags", [], {}],
    Places = [-1, 1 bsl 80 | no_integers()],
    [
        assert_refused(Zone, gen_tracker, {Function, [Zone, n | Rest], [{2, Keys}]})
     || {Function, Rest} <- [
            {lookup, [1]}, {count, [1]}, {values, []}, {publish, [1, message]}
        ]
    ],
    [
        assert_refused(Zone, proctab_nif, Call)
     || Call <- [
            {
                lookup,
                [Zone, n, 1, 0, pids, []],
                [{2, Keys}, {4, [1 bsl 32 | Places]}, {5, [names, [], <<"pids">>]}]
            },
            {count, [Zone, n, 1], [{2, Keys}]},
            {values_page, [Zone, n, 0, []], [{2, Keys}, {3, Places}]},
            {index_page, [Zone, n, 0], [{2, Keys}, {3, Places}]}
        ]
    ],
    ok = gen_server:stop(Zone).

functions_for_all_members_refuse_wrong_terms(Config) ->
    Zone = clustered,
    {ok, _} = gen_tracker:start_link(Zone, #{cluster => true, index => [n]}),
    wait:until(fun() -> gen_tracker_cluster:home(Zone, ?NAME) =:= node() end),
    Spec = spec(?NAME, temporary),
    {ok, Child} = gen_tracker_cluster:find_or_open(Zone, Spec),
    ok = gen_tracker_cluster:setattr(Zone, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    Exports = gen_tracker_cluster:module_info(exports),
    Common = [
        Call
     || {Function, Arguments, _} = Call <- calls(Zone, Child),
        lists:member({Function, length(Arguments)}, Exports)
    ],
    Own = [
        {home, [Zone, ?NAME], []},
        {members, [Zone], []},
        {drain, [Zone], []},
        {lookup, [Zone, n, 1], [{2, [url, {each, n}, <<"n">>, [], {}]}]},
        {publish, [Zone, n, 1, message], [{2, [url, {each, n}, <<"n">>, [], {}]}]}
    ],
    %% The zone of this case runs on this node alone.
    [
        assert_refused(
            Zone, gen_tracker_cluster, {Function, Right, [{1, [zone(Config)]} | Places]}
        )
     || {Function, Right, Places} <- Common ++ Own
    ],
    Wrong = [zone(Config) | [NoZone || NoZone <- no_zones(), not is_atom(NoZone)]],
    [
        ?assertError(badarg, gen_tracker_cluster:find_or_open(NoZone, Any))
     || NoZone <- Wrong, Any <- [Spec, malformed]
    ],
    Malformed = gen_tracker:find_or_open(Zone, malformed),
    [
        begin
            Opened = [gen_tracker_cluster:find_or_open(NoZone, Any) || Any <- [Spec, malformed]],
            ?assertEqual([{error, gen_tracker_not_started}, Malformed], Opened)
        end
     || NoZone <- [not_running, undefined]
    ],
    Fold = {fold, [fun(_, _, Acc) -> Acc end, [], Zone],
        [{1, [fun() -> a end, fun lists:map/2, atom, []]}, {3, [zone(Config) | no_zones()]}]},
    assert_refused(Zone, gen_tracker_cluster, Fold),
    Names = [atom, [], {}, {Zone}, {Zone, name, more}, {"zone", name}, {self(), name}],
    assert_refused(
        Zone,
        gen_tracker_cluster,
        {register_name, [{Zone, free}, Child],
            [
                {1, [{zone(Config), free}, {not_running, free} | Names]},
                {2, [whereis(Zone), remote_pid(), atom, "pid", make_ref()]}
            ]}
    ),
    [
        assert_refused(Zone, gen_tracker_cluster, {Function, [{Zone, ?NAME} | Rest], [{1, Names}]})
     || {Function, Rest} <- [{unregister_name, []}, {whereis_name, []}, {send, [message]}]
    ],
    ?assertMatch({error, _}, gen_tracker_cluster:find_or_open(Zone, malformed)),
    ?assertEqual([node()], gen_tracker_cluster:members(Zone)),
    ok = gen_server:stop(Zone).

every_function_is_badarg_for_a_zone_that_does_not_run(Config) ->
    Zone = zone(Config),
    Calls = calls(Zone, proplists:get_value(child, Config)),
    ok = gen_server:stop(Zone),
    [
        ?assertError(badarg, apply(gen_tracker, Function, Arguments))
     || {Function, Arguments, _} <- Calls
    ],
    [
        ?assertEqual({error, gen_tracker_not_started}, find_or_open(NoZone, spec(name, temporary)))
     || NoZone <- [Zone, not_running, undefined]
    ],
    [
        ?assertError(badarg, find_or_open(NoZone, spec(name, temporary)))
     || NoZone <- no_zones(), not is_atom(NoZone)
    ].

a_zone_with_a_wrong_name_or_wrong_options_does_not_start(Config) ->
    Names = ["zone", <<"zone">>, 1, 1.0, [], {}, {local, zone}, #{}, self(), make_ref(), undefined],
    Options = [
        atom,
        1,
        [],
        [{restart, false}],
        {},
        #{restart => no},
        #{restart => 0},
        #{restart => "true"},
        #{other => 1},
        #{restart => true, other => 1},
        #{"restart" => true}
    ],
    unchanged(zone(Config), fun() ->
        [?assertError(badarg, gen_tracker:start_link(Name)) || Name <- Names],
        [?assertError(badarg, gen_tracker:start_link(Name, #{})) || Name <- Names],
        [?assertError(badarg, gen_tracker:start_link(not_running, Wrong)) || Wrong <- Options],
        undefined = whereis(not_running)
    end).

%% Specs

a_malformed_spec_is_refused_as_check_childspecs_does_and_starts_nothing(Config) ->
    Zone = zone(Config),
    [
        begin
            {error, Reason} = supervisor:check_childspecs([in_full(Spec)]),
            {Opened, Started} = unchanged(Zone, fun() ->
                {find_or_open(Zone, Spec), supervisor:start_child(Zone, in_full(Spec))}
            end),
            ?assertEqual({Spec, {error, Reason}}, {Spec, Opened}),
            ?assertEqual({Spec, {error, Reason}}, {Spec, Started})
        end
     || Spec <- malformed()
    ],
    [] = messages:taken(started).

%% Returns a spec in a form that `supervisor:check_childspecs/1` accepts.
in_full({Name, MFA, Restart}) -> {Name, MFA, Restart, 200, worker, []};
in_full(Spec) -> Spec.

malformed() ->
    Full = spec(name, temporary, 200, {start_link, [self()]}),
    Short = spec(name, temporary),
    Map = #{id => name, start => element(2, Full)},
    Keys = #{2 => start, 3 => restart, 4 => shutdown, 5 => type, 6 => modules},
    WrongFields = [
        {Place, Wrong}
     || {Place, AllWrong} <- wrong_spec_fields(), Wrong <- AllWrong
    ],
    [atom, "name", 1, [], {}, self(), #{}, {name}, {name, element(2, Full)}] ++
        [list_to_tuple([more | tuple_to_list(Full)])] ++
        [setelement(Place, Full, Wrong) || {Place, Wrong} <- WrongFields] ++
        [setelement(Place, Short, Wrong) || {Place, Wrong} <- WrongFields, Place =< 3] ++
        [Map#{map_get(Place, Keys) => Wrong} || {Place, Wrong} <- WrongFields] ++
        [maps:remove(id, Map), maps:remove(start, Map), Map#{significant => 1}].

spec(Name, Restart, Shutdown, Start) ->
    tracked_child:spec(Name, Restart, Shutdown, Start).

%% `supervisor:check_childspecs/1` crashes on such a list, so the error contains a stacktrace.
an_improper_modules_list_does_not_end_the_tracker(Config) ->
    Zone = zone(Config),
    Spec = setelement(
        6, spec(name, temporary, 200, {start_link, [self()]}), [tracked_child | improper]
    ),
    {{error, _}, {error, _}} = unchanged(Zone, fun() ->
        {find_or_open(Zone, Spec), supervisor:start_child(Zone, Spec)}
    end),
    [] = messages:taken(started).

messages_that_look_like_internal_ones_change_nothing(Config) ->
    Zone = zone(Config),
    process_flag(trap_exit, true),
    unchanged(Zone, fun() ->
        [Zone ! {launched, From, ok} || From <- [atom, self()]],
        [Zone ! {register_timeout, From, From} || From <- [atom, self()]],
        Others = [atom, make_ref(), remote_pid()],
        [Zone ! {{attached, From}, make_ref(), process, From, normal} || From <- Others],
        [Zone ! {'EXIT', From, Reason} || From <- Others, Reason <- [normal, crash]]
    end).

%% The native functions

native_functions_refuse_wrong_terms(Config) ->
    Zone = zone(Config),
    Calls = native(Zone, proplists:get_value(child, Config)),
    [assert_refused(Zone, proctab_nif, Call) || Call <- Calls].

native_functions_without_a_zone_refuse_wrong_terms(_) ->
    NoAtoms = [1, "zone", self(), [], make_ref()],
    NoPids = [atom, 1, "pid", [], make_ref()],
    NoLocal = [remote_pid() | NoPids],
    Refused = [
        {may_be_alive, [self()], [{1, NoPids}]},
        {open_subscriptions, [z, z, self()], [{1, NoAtoms}, {2, NoAtoms}, {3, NoLocal}]},
        {add_subscriber, [self()], [{1, [self() | NoLocal]}]},
        {subscriptions, [none], [{1, [{none, self()}, {self()}, {self(), remote_pid()} | NoPids]}]},
        {remove_subscriber, [self()], [{1, NoLocal}]},
        {cancel_subscriptions, [z, z], [{1, NoAtoms}, {2, NoAtoms}]}
    ],
    [
        ?assertError(badarg, apply(proctab_nif, Function, with(Place, Arguments, Wrong)))
     || {Function, Arguments, Places} <- Refused, {Place, Terms} <- Places, Wrong <- Terms
    ].

native(Zone, Pid) ->
    NoPids = [atom, undefined, 1, "pid", [], {}, make_ref()],
    NoLocal = [remote_pid() | NoPids],
    [
        {owner, [Zone], []},
        {count, [Zone], []},
        {insert, [Zone, void, self(), spec, Pid], [{3, NoLocal}, {5, NoPids}]},
        {opening, [Zone, void, spec, self()], []},
        {launch, [Zone, void, spec, launching], [{4, [atom, undefined, 1, "launching", []]}]},
        {await_start, [Zone, ?NAME], []},
        {failed, [Zone, ?NAME], []},
        {was_stopped, [Zone], []},
        {child, [Zone, ?NAME], []},
        {kept, [Zone, self()], [{2, NoLocal}]},
        {running, [Zone, ?NAME, Pid], [{3, NoPids}]},
        {terminating, [Zone, ?NAME, normal], []},
        {pending, [Zone, ?NAME], []},
        {slowed, [Zone, ?NAME], []},
        {respec, [Zone, ?NAME, spec], []},
        {restarting, [Zone, ?NAME], []},
        {stop, [Zone, ?NAME, self()], [{3, NoLocal}]},
        {remove, [Zone, ?NAME], []},
        {unregister_name, [Zone, ?NAME, self(), normal], [{3, NoLocal}]},
        {change_keeper, [Zone, self(), self()], [{2, NoLocal}, {3, NoLocal}]},
        {change_keeper, [Zone, ?NAME, self(), self()], [{3, NoLocal}, {4, NoLocal}]},
        {registrars, [Zone], []},
        {close_registrar, [Zone, 7], [{2, [-1, 8, 1 bsl 80 | no_integers()]}]},
        {is_own, [Zone, Pid], [{2, NoPids}]},
        {register_name, [Zone, ?NAME, spec, Pid, alias], [{4, [{home, none}, {Pid} | NoPids]}]},
        {reserve_name, [Zone, ?NAME, self()], [{3, NoLocal}]},
        {cancel_name, [Zone, self()], [{2, NoLocal}]},
        {find, [Zone, ?NAME], []},
        {find_alive, [Zone, ?NAME], []},
        {getattr, [Zone, ?NAME, n], []},
        {setattr, [Zone, ?NAME, [{n, 2}]], [{3, no_lists([{n, 2}])}]},
        {setattr, [Zone, void, [{n, 2}]], [{3, no_lists([{n, 2}])}]},
        {setattr, [Zone, ?NAME, n, 2], []},
        {set_missing, [Zone, ?NAME, none, 2], []},
        {replace, [Zone, ?NAME, n, 1, 2], []},
        {cas, [Zone, ?NAME, n, 1, 2], []},
        {delattr, [Zone, ?NAME, n], []},
        {increment, [Zone, ?NAME, n, 1], [{4, no_integers()}]},
        {increment, [Zone, void, n, 1, 1], [{4, no_integers()}, {5, no_integers()}]},
        {attrs, [Zone, ?NAME], []},
        {attrs, [Zone, ?NAME, [n]], [{3, no_lists([n])}]},
        {
            page,
            [Zone, 0, children, []],
            [{2, [-1, 1 bsl 32, 1 bsl 80 | no_integers()]}, {3, no_lists([n])}]
        },
        {listen, [Zone], []},
        {unlisten, [Zone], []},
        {wait_for, [Zone, ?NAME, n], []},
        {waiting, [Zone], []}
    ].

%% Only the keeper of a child may change its row, and only the owner of a zone may open or close it.
native_functions_refuse_callers_other_than_the_keeper(Config) ->
    Zone = zone(Config),
    Calls = [
        {running, [self()]},
        {terminating, [normal]},
        {pending, []},
        {slowed, []},
        {restarting, []},
        {respec, [spec]},
        {stop, [self()]},
        {failed, []},
        {remove, []}
    ],
    unchanged(Zone, fun() ->
        [
            ?assertEqual(
                {Function, false}, {Function, apply(proctab_nif, Function, [Zone, Name | Rest])}
            )
         || {Function, Rest} <- Calls, Name <- [?NAME, ?VOID]
        ],
        false = proctab_nif:insert(Zone, ?NAME, self(), spec, self()),
        undefined = proctab_nif:change_keeper(Zone, self(), self()),
        [false = proctab_nif:unregister_name(Zone, Name, self(), normal) || Name <- [?NAME, ?VOID]],
        [?assertError(badarg, proctab_nif:stop_waiting(Wrong)) || Wrong <- [Zone, 1, make_ref()]],
        void = proctab_nif:setattr(Zone, ?VOID, n, 2),
        false = proctab_nif:replace(Zone, ?NAME, n, 7, 2),
        false = proctab_nif:replace(Zone, ?VOID, n, 1, 2),
        false = proctab_nif:set_missing(Zone, ?NAME, n, 2),
        ?assertError(badarg, proctab_nif:zone_open(Zone, shared)),
        [
            ?assertError(badarg, proctab_nif:zone_open(Wrong, shared))
         || Wrong <- no_zones(), not is_atom(Wrong)
        ],
        [?assertError(badarg, proctab_nif:zone_close(Wrong)) || Wrong <- no_zones()]
    end).

%% Huge terms

huge() ->
    [
        {deep_list, fun() -> nested(fun(Inner) -> [Inner] end) end},
        {deep_list_in_tails, fun() -> nested(fun(Inner) -> [a, Inner | b] end) end},
        {deep_tuple, fun() -> nested(fun(Inner) -> {a, Inner} end) end},
        {deep_map, fun() -> nested(fun(Inner) -> #{Inner => Inner =:= []} end) end},
        {long_list, fun() -> lists:seq(1, 3000000) end},
        {large_binary, fun() -> binary:copy(<<"0123456789">>, 3000000) end},
        {large_bitstring, fun() -> <<(binary:copy(<<"0123456789">>, 3000000))/binary, 5:3>> end},
        {large_integer, fun() -> -large_integer(8 * 4 * 1000 * 1000) + 1 end},
        {large_map, fun() -> maps:from_list([{{key, N}, [N]} || N <- lists:seq(1, 100000)]) end},
        {fun_with_a_list, fun() -> fun_with(lists:seq(1, 1000000)) end},
        {wide_tuple, fun() -> list_to_tuple(lists:seq(1, 1000000)) end}
    ].

%% Returns an integer of this size, or of the largest size that the VM allows: OTP 27 has a lower
%% limit than OTP 25.
large_integer(Bits) ->
    try
        1 bsl Bits
    catch
        error:system_limit -> large_integer(Bits div 2)
    end.

nested(Wrap) ->
    lists:foldl(fun(_, Inner) -> Wrap(Inner) end, [], lists:seq(1, 300000)).

fun_with(List) ->
    fun() -> List end.

huge_terms_are_stored_and_read_back_as_values_or_refused(Config) ->
    Zone = zone(Config),
    Results = stored_or_refused(Zone, fun(Huge) ->
        ok = setattr(Zone, ?NAME, huge, Huge),
        {ok, Read} = getattr(Zone, ?NAME, huge),
        [{huge, Selected}] = info(Zone, ?NAME, [huge]),
        [{?NAME, Listed}] = list(Zone),
        AreEqual = [Huge =:= Term || Term <- [Read, Selected, proplists:get_value(huge, Listed)]],
        ok = gen_tracker:delattr(Zone, ?NAME, huge),
        AreEqual
    end),
    %% A binary of any size is stored.
    {large_binary, [true, true, true]} = lists:keyfind(large_binary, 1, Results).

huge_terms_are_stored_and_read_back_as_keys_or_refused(Config) ->
    Zone = zone(Config),
    stored_or_refused(Zone, fun(Huge) ->
        undefined = getattr(Zone, ?NAME, Huge),
        ok = setattr(Zone, ?NAME, [{Huge, value}]),
        Before = getattr(Zone, ?NAME, Huge) =:= {ok, value},
        Info = [{Huge, value}] =:= [Pair || {_, value} = Pair <- info(Zone, ?NAME)],
        Selected = [{Huge, value}] =:= info(Zone, ?NAME, [Huge]),
        ok = gen_tracker:delattr(Zone, ?NAME, Huge),
        [Before, Info, Selected, getattr(Zone, ?NAME, Huge) =:= undefined]
    end).

huge_terms_are_stored_and_read_back_as_names_or_refused(Config) ->
    Zone = zone(Config),
    stored_or_refused(Zone, fun(Huge) ->
        undefined = find(Zone, Huge),
        8 = increment(Zone, Huge, n, 1, 7),
        9 = gen_tracker:increment(Zone, Huge, n, 1),
        Read = attrs(Zone, Huge) =:= [{n, 9}],
        ok = gen_tracker:delattr(Zone, Huge, n),
        [Read, attrs(Zone, Huge) =:= []]
    end).

%% Calls a fun with each huge term, and asserts that it does not change the zone, and either fails
%% with `badarg` or returns a list of `true`, one for each term that was read back.
stored_or_refused(Zone, Try) ->
    [
        begin
            Result = unchanged_apart(Zone, fun() -> Try(Make()) end),
            IsRight = Result =:= badarg orelse lists:usort(Result) =:= [true],
            ?assertEqual({Kind, Result, true}, {Kind, Result, IsRight}),
            {Kind, Result}
        end
     || {Kind, Make} <- huge()
    ].

a_child_with_a_huge_name_starts_and_ends_like_any_other(Config) ->
    Zone = zone(Config),
    [
        apart(fun() ->
            Huge = Make(),
            Pid = open(Zone, Huge),
            {ok, Pid} = find(Zone, Huge),
            true = [Huge] =:= [
                Name
             || {Name, Child, worker, []} <- gen_tracker:which_children(Zone), Child =:= Pid
            ],
            ok = setattr(Zone, Huge, n, 1),
            true = [{Huge, [{pid, Pid}, {n, 1}]}] =:= [
                Listed
             || {_, [{pid, Child} | _]} = Listed <- list(Zone), Child =:= Pid
            ],
            _ = kill(Pid),
            %% Waits until the child is removed, if it still exists.
            true = lists:member(supervisor:terminate_child(Zone, Huge), [ok, {error, no_child}]),
            undefined = find(Zone, Huge)
        end)
     || {Kind, Make} <- huge(),
        lists:member(Kind, [deep_list, deep_tuple, large_binary, large_integer])
    ],
    {ok, _} = find(Zone, ?NAME).

a_term_too_large_to_copy_is_refused_in_every_position(Config) ->
    Zone = zone(Config),
    Pid = proplists:get_value(child, Config),
    Start = fun(Term) -> {tracked_child, start_link, [Term]} end,
    Calls = [
        fun(Term) -> setattr(Zone, ?NAME, key, Term) end,
        fun(Term) -> setattr(Zone, ?NAME, Term, value) end,
        fun(Term) -> setattr(Zone, ?NAME, [{first, 1}, {key, Term}]) end,
        fun(Term) -> setattr(Zone, Term, key, value) end,
        fun(Term) -> getattr(Zone, Term, key) end,
        fun(Term) -> getattr(Zone, ?NAME, Term) end,
        fun(Term) -> info(Zone, Term) end,
        fun(Term) -> info(Zone, ?NAME, [Term]) end,
        fun(Term) -> increment(Zone, Term, n, 1, 0) end,
        fun(Term) -> find(Zone, Term) end,
        %% The following calls send a message to the tracker.
        fun(Term) -> find_or_open(Zone, {void, Start(Term), temporary}) end,
        fun(Term) -> gen_tracker:add_existing_child(Zone, {Term, Pid, worker, []}) end,
        fun(Term) ->
            gen_tracker:add_existing_child(
                Zone, {Pid, {void, Start(Term), temporary, 200, worker, []}}
            )
        end,
        fun(Term) -> gen_tracker:register_name({Zone, Term}, Pid) end
    ],
    [badarg = unchanged_apart(Zone, fun() -> Call(without_end()) end) || Call <- Calls].

find_or_open_of_a_name_too_large_to_copy_is_badarg(Config) ->
    Zone = zone(Config),
    Start = {tracked_child, start_link, [self()]},
    Open = fun() -> find_or_open(Zone, {without_end(), Start, temporary}) end,
    ?assertEqual(badarg, unchanged_apart(Zone, Open)).

%% The spec has more funs than the table accepts. It waits for the end of the child with this name.
%% It is sent by `supervisor:start_child/2`, because `find_or_open/2` refuses such a spec at once.
a_spec_that_is_refused_after_waiting_does_not_end_the_zone(Config) ->
    Zone = zone(Config),
    Tracker = whereis(Zone),
    {_, Cleaner} = tracked_child:terminating(Zone, cleaned),
    Funs = [fun() -> N end || N <- lists:seq(1, 20000)],
    Started = callers:ask(fun() ->
        supervisor:start_child(
            Zone, {cleaned, {tracked_child, start_with, Funs}, temporary, 200, worker, []}
        )
    end),
    tracked_process:eventually(fun() ->
        map_size(tracker_state:waiting(Zone)) =:= 1
    end),
    Cleaner ! done,
    ?assertEqual({answer, {error, badarg}}, callers:answer(Started)),
    ?assertEqual(Tracker, whereis(Zone)).

setattr_sets_all_of_100000_pairs_or_none(Config) ->
    Zone = zone(Config),
    Pairs = [{{key, N}, {value, N}} || N <- lists:seq(1, 100000)],
    badarg = unchanged(Zone, fun() ->
        or_badarg(fun() -> setattr(Zone, ?NAME, Pairs ++ improper) end)
    end),
    ok = setattr(Zone, ?NAME, lists:reverse(Pairs) ++ [{{key, 1}, {value, 1}}, none]),
    true = lists:sort(Pairs ++ [{n, 1}, {url, <<"rtmp://a">>}]) =:= lists:sort(info(Zone, ?NAME)),
    {ok, {value, 77777}} = getattr(Zone, ?NAME, {key, 77777}).

%% Two huge values are set in turn, each together with an attribute that says which one it is.
readers_see_whole_values_while_huge_values_are_replaced(Config) ->
    Zone = zone(Config),
    Deep = nested(fun(Inner) -> [Inner] end),
    Long = lists:seq(1, 1000000),
    Set = fun
        (N) when N rem 2 =:= 0 -> ok = setattr(Zone, ?NAME, [{huge, Deep}, {which, deep}]);
        (_) -> ok = setattr(Zone, ?NAME, [{which, long}, {huge, Long}])
    end,
    Set(0),
    Readers = [
        fun() ->
            case maps:from_list(info(Zone, ?NAME)) of
                #{which := deep, huge := Huge} -> Huge =:= Deep;
                #{which := long, huge := Huge} -> Huge =:= Long
            end
        end,
        fun() ->
            {ok, Huge} = getattr(Zone, ?NAME, huge),
            Huge =:= Deep orelse Huge =:= Long
        end,
        fun() -> getattr(Zone, ?NAME, n) =:= {ok, 1} end
    ],
    [?assertEqual([true], lists:usort(Results)) || Results <- while_writing(Set, 30, Readers)].

%% The integer is half a megabyte, the largest size that OTP 27 allows. The list would be 2 GB.
a_list_of_many_long_integers_is_refused(Config) ->
    Zone = zone(Config),
    Long = 1 bsl (8 * 500 * 1000),
    Calls = [
        fun(Term) -> setattr(Zone, ?NAME, key, Term) end,
        fun(Term) -> setattr(Zone, ?NAME, Term, value) end,
        fun(Term) -> find(Zone, Term) end
    ],
    Copies = fun() -> lists:duplicate(4000, Long) end,
    [badarg = unchanged_apart(Zone, fun() -> Call(Copies()) end) || Call <- Calls],
    ok = setattr(Zone, ?NAME, key, [Long, Long]),
    ?assert({ok, [Long, Long]} =:= getattr(Zone, ?NAME, key)).

%% Printing an integer takes time quadratic in its length, and blocks the scheduler meanwhile.
error_messages_do_not_contain_long_integers(Config) ->
    Long = 1 bsl 100000,
    Start = {tracked_child, start_link, []},
    Calls = [
        {start_link, [not_running, #{Long => 1}]},
        {start_link, [not_running, #{#{[{Long}] => 1} => 1}]},
        {
            add_existing_child,
            [
                zone(Config),
                {proplists:get_value(child, Config), {void, Start, temporary, -Long, worker, []}}
            ]
        }
    ],
    [
        ?assert(string:length(maps:get(2, explained(Function, Arguments))) < 100)
     || {Function, Arguments} <- Calls
    ].

explained(Function, Arguments) ->
    try apply(gen_tracker, Function, Arguments) of
        Result -> Result
    catch
        error:badarg:Stacktrace -> proctab_errors:format_error(badarg, Stacktrace)
    end.

random_rounds_cover_every_function(_) ->
    ?assertEqual([], bad_input:exported() -- bad_input:covered()).

random_calls_are_answered_or_refused_and_change_nothing_else(_) ->
    Seed = rand:uniform(1 bsl 32),
    case bad_input:round(Seed) of
        {ok, Figures} -> ct:pal("~p: ~p", [Seed, Figures]);
        {failed, History} -> ct:fail(History)
    end.
