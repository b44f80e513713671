%% Promise: no input harms anybody but who passed it in. A wrong term in any place is `badarg` in the caller; the tracker
%% lives on, and the table is what it was. Huge terms are stored and read back exactly, or refused; the VM stands.
%%
%% Each case has a zone of its own name, in which the child ?NAME runs with two attributes, and nobody holds ?VOID.
%% What is huge is made, compared and forgotten in processes of its own, and never gets into a report.
-module(bad_input_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(callers, [apart/1, while_writing/3]).
-import(messages, [await/2]).
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
        a_wrong_term_in_any_place_is_badarg_and_changes_nothing,
        the_table_of_wrong_calls_names_every_function,
        every_function_is_badarg_for_a_zone_that_does_not_run,
        a_zone_with_a_wrong_name_or_wrong_options_does_not_start,
        a_malformed_spec_is_refused_as_check_childspecs_does_and_starts_nothing,
        a_modules_list_without_an_end_does_not_end_the_tracker,
        an_exit_message_of_a_stranger_is_logged_and_ignored,
        the_native_functions_refuse_wrong_terms,
        the_native_functions_refuse_who_is_no_keeper,
        huge_terms_are_stored_and_read_back_as_values_or_refused,
        huge_terms_are_stored_and_read_back_as_keys_or_refused,
        huge_terms_are_stored_and_read_back_as_names_or_refused,
        a_child_with_a_huge_name_lives_and_dies_as_any_other,
        a_term_that_would_unfold_without_end_is_refused_in_every_place,
        a_name_that_is_refused_is_badarg_for_find_or_open,
        a_spec_that_is_refused_when_its_turn_comes_ends_no_zone,
        a_hundred_thousand_pairs_are_set_in_one_step_or_not_at_all,
        readers_go_on_while_huge_values_replace_each_other,
        long_integers_that_would_be_copied_without_end_are_refused,
        a_long_integer_is_not_printed_in_an_error,
        the_rounds_call_every_function,
        random_calls_are_answered_or_refused_and_harm_nobody
    ].

init_per_testcase(Case, Config) ->
    Child = open(zones:zone(Case), ?NAME),
    ok = setattr(Case, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    [{zone, Case}, {child, Child} | Config].

end_per_testcase(Case, _Config) ->
    zones:stop_zone(Case).

zone(Config) ->
    proplists:get_value(zone, Config).

%% All that a bad call must leave as it is.
everything(Zone) ->
    Children = lists:sort(gen_tracker:which_children(Zone)),
    Listed = [{Name, lists:sort(Attributes)} || {Name, Attributes} <- list(Zone)],
    {whereis(Zone), Children, lists:sort(Listed), attrs(Zone, ?VOID), attrs(Zone, void)}.

%% Calls a fun, and answers what it returned, once everything in the zone is shown to be as it was.
unchanged(Zone, Fun) ->
    Before = everything(Zone),
    Answer = Fun(),
    ok = gen_tracker:wait(Zone),
    ?assertEqual(Before, everything(Zone)),
    Answer.

%% The answer of a call, or `badarg`; any other exception goes through.
outcome(Fun) ->
    try
        Fun()
    catch
        error:badarg -> badarg
    end.

%% Wrong terms

a_wrong_term_in_any_place_is_badarg_and_changes_nothing(Config) ->
    Zone = zone(Config),
    Calls = calls(Zone, proplists:get_value(child, Config)),
    [refused(Zone, gen_tracker, Call) || Call <- Calls],
    %% It was the wrong term alone that was refused.
    [apply(gen_tracker, Function, Arguments) || {Function, Arguments, _} <- Calls].

%% Each wrong term takes its place among good arguments.
refused(Zone, Module, {Function, Good, Places}) ->
    [
        begin
            Arguments = with(Place, Good, Wrong),
            Call = fun() -> outcome(fun() -> apply(Module, Function, Arguments) end) end,
            ?assertEqual(
                {Function, Arguments, badarg}, {Function, Arguments, unchanged(Zone, Call)}
            )
        end
     || {Place, AllWrong} <- [{1, no_zones()} | Places], Wrong <- AllWrong
    ].

%% A process of another node.
elsewhere() ->
    binary_to_term(<<131, 88, 119, 9, "else@here", 99:32, 0:32, 1:32>>).

the_table_of_wrong_calls_names_every_function(Config) ->
    Callbacks = lists:usort(
        gen_server:behaviour_info(callbacks) ++ gen_server:behaviour_info(optional_callbacks)
    ),
    Elsewhere = [{start_link, 1}, {start_link, 2}, {find_or_open, 2}, {fold, 3}] ++
        [{register_name, 2}, {unregister_name, 1}, {whereis_name, 1}, {send, 2}],
    %% Takes any term, and belongs to a child.
    Any = [{init_ack, 1}],
    Named = [
        {Function, length(Arguments)}
     || {Function, Arguments, _} <- calls(zone(Config), self())
    ],
    Exported = gen_tracker:module_info(exports) -- [{module_info, 0}, {module_info, 1} | Callbacks],
    ?assertEqual(lists:sort(Exported), lists:usort(Named ++ Elsewhere ++ Any)).

every_function_is_badarg_for_a_zone_that_does_not_run(Config) ->
    Zone = zone(Config),
    Calls = calls(Zone, proplists:get_value(child, Config)),
    ok = gen_server:stop(Zone),
    [
        ?assertError(badarg, apply(gen_tracker, Function, Arguments))
     || {Function, Arguments, _} <- Calls
    ],
    [
        ?assertEqual({error, gen_tracker_not_started}, find_or_open(None, spec(name, temporary)))
     || None <- [Zone, not_running, undefined]
    ],
    [
        ?assertError(badarg, find_or_open(None, spec(name, temporary)))
     || None <- no_zones(), not is_atom(None)
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
        #{restart => "true"}
    ] ++
        [#{other => 1}, #{restart => true, other => 1}, #{"restart" => true}],
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
            Calls = fun() ->
                {find_or_open(Zone, Spec), supervisor:start_child(Zone, in_full(Spec))}
            end,
            ?assertEqual(
                {Spec, {error, Reason}, {error, Reason}},
                erlang:insert_element(1, unchanged(Zone, Calls), Spec)
            )
        end
     || Spec <- malformed()
    ],
    [] = messages:taken(started).

%% The form that check_childspecs knows.
in_full({Name, MFA, Restart}) -> {Name, MFA, Restart, 200, worker, []};
in_full(Spec) -> Spec.

malformed() ->
    Full = spec(name, temporary, 200, {start_link, [self()]}),
    Short = spec(name, temporary),
    Map = #{id => name, start => element(2, Full)},
    Keys = #{2 => start, 3 => restart, 4 => shutdown, 5 => type, 6 => modules},
    [
        atom,
        "name",
        1,
        [],
        {},
        self(),
        #{},
        {name},
        {name, element(2, Full)},
        list_to_tuple([more | tuple_to_list(Full)])
    ] ++
        [
            setelement(Place, Full, Wrong)
         || {Place, AllWrong} <- wrong_spec_fields(), Wrong <- AllWrong
        ] ++
        [
            setelement(Place, Short, Wrong)
         || {Place, AllWrong} <- wrong_spec_fields(), Place =< 3, Wrong <- AllWrong
        ] ++
        [
            Map#{map_get(Place, Keys) => Wrong}
         || {Place, AllWrong} <- wrong_spec_fields(), Wrong <- AllWrong
        ] ++
        [maps:remove(id, Map), maps:remove(start, Map), Map#{significant => 1}].

spec(Name, Restart, Shutdown, Start) ->
    tracked_child:spec(Name, Restart, Shutdown, Start).

%% The reason tells where `supervisor:check_childspecs/1` stumbled over it.
a_modules_list_without_an_end_does_not_end_the_tracker(Config) ->
    Zone = zone(Config),
    Spec = setelement(
        6, spec(name, temporary, 200, {start_link, [self()]}), [tracked_child | improper]
    ),
    {{error, _}, {error, _}} = unchanged(Zone, fun() ->
        {find_or_open(Zone, Spec), supervisor:start_child(Zone, Spec)}
    end),
    [] = messages:taken(started).

%% "An unknown cast or message is logged and ignored."
an_exit_message_of_a_stranger_is_logged_and_ignored(Config) ->
    Zone = zone(Config),
    process_flag(trap_exit, true),
    unchanged(Zone, fun() ->
        [Zone ! {launched, From, ok} || From <- [atom, self()]],
        [Zone ! {register_timeout, From, From} || From <- [atom, self()]],
        [
            Zone ! {{attached, From}, make_ref(), process, From, normal}
         || From <- [atom, make_ref(), elsewhere()]
        ],
        [
            Zone ! {'EXIT', From, Reason}
         || From <- [atom, make_ref(), elsewhere()], Reason <- [normal, crash]
        ]
    end).

%% The native functions

the_native_functions_refuse_wrong_terms(Config) ->
    Zone = zone(Config),
    [refused(Zone, proctab_nif, Call) || Call <- native(Zone, proplists:get_value(child, Config))].

native(Zone, Pid) ->
    NoPids = [atom, undefined, 1, "pid", [], {}, make_ref()],
    NoLocal = [elsewhere() | NoPids],
    [
        {owner, [Zone], []},
        {count, [Zone], []},
        {insert, [Zone, void, self(), spec, Pid], [{3, NoLocal}, {5, NoPids}]},
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
        {wait_for, [Zone, ?NAME], []},
        {waiting, [Zone], []}
    ].

%% A keeper alone may say what has become of its child, and a running zone is nobody else's to open.
the_native_functions_refuse_who_is_no_keeper(Config) ->
    Zone = zone(Config),
    Calls = [
        {running, [self()]},
        {terminating, [normal]},
        {pending, []},
        {slowed, []},
        {restarting, []},
        {respec, [spec]},
        {stop, [self()]},
        {remove, []}
    ],
    unchanged(Zone, fun() ->
        [
            ?assertEqual(
                {Function, false}, {Function, apply(proctab_nif, Function, [Zone, Name | More])}
            )
         || {Function, More} <- Calls, Name <- [?NAME, ?VOID]
        ],
        false = proctab_nif:insert(Zone, ?NAME, self(), spec, self()),
        undefined = proctab_nif:change_keeper(Zone, self(), self()),
        [false = proctab_nif:unregister_name(Zone, Name, self(), normal) || Name <- [?NAME, ?VOID]],
        [?assertError(badarg, proctab_nif:stop_waiting(Wrong)) || Wrong <- [Zone, 1, make_ref()]],
        void = proctab_nif:setattr(Zone, ?VOID, n, 2),
        false = proctab_nif:replace(Zone, ?NAME, n, 7, 2),
        false = proctab_nif:replace(Zone, ?VOID, n, 1, 2),
        false = proctab_nif:set_missing(Zone, ?NAME, n, 2),
        ?assertError(badarg, proctab_nif:zone_open(Zone)),
        [
            ?assertError(badarg, proctab_nif:zone_open(Wrong))
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
        {long_list, fun() -> lists:seq(1, 10000000) end},
        {large_binary, fun() -> binary:copy(<<"0123456789">>, 10000000) end},
        {large_bitstring, fun() -> <<(binary:copy(<<"0123456789">>, 10000000))/binary, 5:3>> end},
        {large_integer, fun() -> -large_integer(8 * 4 * 1000 * 1000) + 1 end},
        {large_map, fun() -> maps:from_list([{{key, N}, [N]} || N <- lists:seq(1, 100000)]) end},
        {fun_with_a_list, fun() -> fun_with(lists:seq(1, 1000000)) end},
        {wide_tuple, fun() -> list_to_tuple(lists:seq(1, 1000000)) end}
    ].

%% OTP 27 has a lower limit than OTP 25.
large_integer(Bits) ->
    try
        1 bsl Bits
    catch
        error:system_limit -> large_integer(Bits div 2)
    end.

nested(Wrap) ->
    lists:foldl(fun(_, Inner) -> Wrap(Inner) end, [], lists:seq(1, 1000000)).

fun_with(List) ->
    fun() -> List end.

huge_terms_are_stored_and_read_back_as_values_or_refused(Config) ->
    Zone = zone(Config),
    Outcomes = stored_or_refused(Zone, fun(Huge) ->
        ok = setattr(Zone, ?NAME, huge, Huge),
        {ok, Read} = getattr(Zone, ?NAME, huge),
        [{huge, Selected}] = info(Zone, ?NAME, [huge]),
        [{?NAME, Listed}] = list(Zone),
        Answer = [Huge =:= Term || Term <- [Read, Selected, proplists:get_value(huge, Listed)]],
        ok = gen_tracker:delattr(Zone, ?NAME, huge),
        Answer
    end),
    %% "binaries of any size"
    {large_binary, [true, true, true]} = lists:keyfind(large_binary, 1, Outcomes).

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

%% Nobody holds the name; its attribute is taken away again.
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

%% Calls Try with each huge term, which answers `badarg`, or only `true` about what it has read. All else stays.
stored_or_refused(Zone, Try) ->
    [
        begin
            Outcome = unchanged(Zone, fun() ->
                apart(fun() -> outcome(fun() -> Try(Make()) end) end)
            end),
            Right = Outcome =:= badarg orelse lists:usort(Outcome) =:= [true],
            ?assertEqual({Name, Outcome, true}, {Name, Outcome, Right}),
            {Name, Outcome}
        end
     || {Name, Make} <- huge()
    ].

a_child_with_a_huge_name_lives_and_dies_as_any_other(Config) ->
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
            %% Returns once nothing is left of it, or finds that so.
            true = lists:member(supervisor:terminate_child(Zone, Huge), [ok, {error, no_child}]),
            undefined = find(Zone, Huge)
        end)
     || {Kind, Make} <- huge(),
        lists:member(Kind, [deep_list, deep_tuple, large_binary, large_integer])
    ],
    {ok, _} = find(Zone, ?NAME).

a_term_that_would_unfold_without_end_is_refused_in_every_place(Config) ->
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
        %% These are sent to the tracker.
        fun(Term) -> find_or_open(Zone, {void, Start(Term), temporary}) end,
        fun(Term) -> gen_tracker:add_existing_child(Zone, {Term, Pid, worker, []}) end,
        fun(Term) ->
            gen_tracker:add_existing_child(
                Zone, {Pid, {void, Start(Term), temporary, 200, worker, []}}
            )
        end,
        fun(Term) -> gen_tracker:register_name({Zone, Term}, Pid) end
    ],
    [
        badarg = unchanged(Zone, fun() ->
            apart(fun() -> outcome(fun() -> Call(without_end()) end) end)
        end)
     || Call <- Calls
    ].

a_name_that_is_refused_is_badarg_for_find_or_open(Config) ->
    Zone = zone(Config),
    Open = fun() ->
        find_or_open(Zone, {without_end(), {tracked_child, start_link, [self()]}, temporary})
    end,
    ?assertEqual(badarg, unchanged(Zone, fun() -> apart(fun() -> outcome(Open) end) end)).

%% Past our own functions, which would not send it. The funs are too many for the table.
a_spec_that_is_refused_when_its_turn_comes_ends_no_zone(Config) ->
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
        map_size(faults_balance:waiting(sys:get_state(Zone))) =:= 1
    end),
    Cleaner ! done,
    ?assertEqual({answer, {error, badarg}}, callers:answer(Started)),
    ?assertEqual(Tracker, whereis(Zone)).

a_hundred_thousand_pairs_are_set_in_one_step_or_not_at_all(Config) ->
    Zone = zone(Config),
    Pairs = [{{key, N}, {value, N}} || N <- lists:seq(1, 100000)],
    badarg = unchanged(Zone, fun() ->
        outcome(fun() -> setattr(Zone, ?NAME, Pairs ++ improper) end)
    end),
    ok = setattr(Zone, ?NAME, lists:reverse(Pairs) ++ [{{key, 1}, {value, 1}}, none]),
    true = lists:sort(Pairs ++ [{n, 1}, {url, <<"rtmp://a">>}]) =:= lists:sort(info(Zone, ?NAME)),
    {ok, {value, 77777}} = getattr(Zone, ?NAME, {key, 77777}).

%% Two huge values take turns, each with a small attribute that tells which it is.
readers_go_on_while_huge_values_replace_each_other(Config) ->
    Zone = zone(Config),
    Deep = nested(fun(Inner) -> [Inner] end),
    Long = lists:seq(1, 1000000),
    Set = fun
        (Turn) when Turn rem 2 =:= 0 -> ok = setattr(Zone, ?NAME, [{huge, Deep}, {which, deep}]);
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
    [?assertEqual([true], lists:usort(Answers)) || Answers <- while_writing(Set, 30, Readers)].

%% Half a megabyte, four thousand times; OTP 27 has no longer ones.
long_integers_that_would_be_copied_without_end_are_refused(Config) ->
    Zone = zone(Config),
    Long = 1 bsl (8 * 500 * 1000),
    Calls = [
        fun(Term) -> setattr(Zone, ?NAME, key, Term) end,
        fun(Term) -> setattr(Zone, ?NAME, Term, value) end,
        fun(Term) -> find(Zone, Term) end
    ],
    [
        badarg = unchanged(Zone, fun() ->
            apart(fun() -> outcome(fun() -> Call(lists:duplicate(4000, Long)) end) end)
        end)
     || Call <- Calls
    ],
    ok = setattr(Zone, ?NAME, key, [Long, Long]),
    ?assert({ok, [Long, Long]} =:= getattr(Zone, ?NAME, key)).

%% To write one takes a time that grows with the square of its length, in which a scheduler does nothing else.
a_long_integer_is_not_printed_in_an_error(Config) ->
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
        Answer -> Answer
    catch
        error:badarg:Stacktrace -> proctab_errors:format_error(badarg, Stacktrace)
    end.

the_rounds_call_every_function(_) ->
    ?assertEqual([], bad_input:exported() -- bad_input:covered()).

random_calls_are_answered_or_refused_and_harm_nobody(_) ->
    [
        case bad_input:round(Seed) of
            {ok, Figures} -> ct:pal("~p: ~p", [Seed, Figures]);
            {failed, History} -> ct:fail(History)
        end
     || Seed <- [erlang:unique_integer([positive]), rand:uniform(1 bsl 32)]
    ].
