%% Promise: "`badarg` errors carry `error_info` so that the shell names the bad argument, as OTP's
%% own do".
-module(errors_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zone_hook, [zone/1, child/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{ct_hooks, [{zone_hook, [{open, ?NAME}]}]}].

all() ->
    [
        a_bad_argument_is_named_in_every_place_of_every_function,
        a_zone_that_does_not_run_is_named_by_every_function,
        the_shell_prints_why_an_argument_is_bad,
        the_reason_is_known_after_the_zone_has_ended,
        a_bad_argument_of_a_via_function_is_named,
        a_process_of_the_zone_itself_is_named,
        a_bad_argument_of_start_link_is_named,
        a_key_without_an_index_is_named,
        a_bad_argument_of_fold_is_named_and_an_error_of_its_fun_is_not_changed,
        a_term_that_is_too_large_is_explained,
        a_term_that_is_no_pid_is_named_by_the_other_two_modules,
        a_metrics_process_tracker_that_does_not_run_is_explained
    ].

init_per_testcase(_Case, Config) ->
    ok = gen_tracker:setattr(zone(Config), ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    Config.

end_per_testcase(_Case, _Config) ->
    ok.

%% Returns what the shell would print of an exception.
printed(Function, Arguments) ->
    printed(gen_tracker, Function, Arguments).

printed(Module, Function, Arguments) ->
    try apply(Module, Function, Arguments) of
        Answer -> ct:fail({no_error, Module, Function, Arguments, Answer})
    catch
        error:badarg:Stack ->
            ?assertMatch({Module, Function, Arguments, _}, hd(Stack)),
            unicode:characters_to_list(erl_error:format_exception(error, badarg, Stack))
    end.

%% Returns the numbers of the arguments that are named.
named(Function, Arguments) ->
    Text = printed(Function, Arguments),
    case re:run(Text, "\\*\\*\\* argument (\\d+): \\S", [global, {capture, [1], list}]) of
        {match, Places} -> [list_to_integer(Place) || [Place] <- Places];
        nomatch -> Text
    end.

a_bad_argument_is_named_in_every_place_of_every_function(Config) ->
    Zone = zone(Config),
    Calls = wrong_calls:calls(Zone, child(Config)),
    [
        ?assertEqual({Function, Arguments, [Place]}, {
            Function,
            Arguments,
            named(Function, Arguments)
        })
     || {Function, Good, Places} <- Calls,
        {Place, AllWrong} <- [{1, wrong_calls:no_zones()} | Places],
        Wrong <- AllWrong,
        Arguments <- [wrong_calls:with(Place, Good, Wrong)]
    ].

a_zone_that_does_not_run_is_named_by_every_function(Config) ->
    Zone = zone(Config),
    Calls = wrong_calls:calls(Zone, child(Config)),
    ok = gen_server:stop(Zone),
    [
        ?assertNotEqual(
            nomatch,
            string:find(printed(Function, Good), "argument 1: no zone of this name is running")
        )
     || {Function, Good, _} <- Calls
    ].

the_shell_prints_why_an_argument_is_bad(Config) ->
    Zone = zone(Config),
    Says = fun(Function, Arguments, Text) ->
        Printed = printed(Function, [Zone | Arguments]),
        ?assertNotEqual({nomatch, Printed}, {string:find(Printed, Text), Printed})
    end,
    Says(setattr, [?NAME, [{a, 1} | b]], "not a proper list"),
    Says(setattr, [?NAME, {}], "neither a list nor a map"),
    Says(getattr, [?NAME, n, -1], "neither a non-negative integer nor infinity"),
    Says(increment, [?NAME, n, 1.0], "not an integer"),
    Says(increment, [?NAME, n, {1, 1}], "argument 4: neither {2, Increment} nor"),
    Says(increment, [?NAME, none, {2, 1}], "argument 3: there is no such attribute"),
    Says(increment, [?NAME, none, 1, a], "argument 5: not an integer, and there is no such"),
    Says(increment, [?NAME, none, 1], "there is no such attribute"),
    Says(increment, [<<"tv2">>, n, 1], "argument 2: there is no child of this name"),
    Says(increment, [?NAME, url, 1], "the attribute is not an integer"),
    Says(add_existing_child, [{added, atom, worker, []}], "not a pid"),
    Says(update, [?NAME, n, fun() -> 1 end], "argument 4: not a fun with one argument"),
    Says(select, [[{name, [], []}], 0], "argument 3: not a positive integer"),
    Says(select_count, [[{'_'}]], "argument 2: not a match specification"),
    Says(subscribe, [?NAME], "argument 2: not {name, Name}"),
    Says(
        add_existing_child,
        [{self(), {added, {m, f, []}, never, 200, worker, []}}],
        "invalid_restart_type"
    ).

%% A shell that has started the zone exits with the error before it is printed, and the zone with
%% it.
the_reason_is_known_after_the_zone_has_ended(Config) ->
    Zone = zone(Config),
    Stack =
        try
            gen_tracker:increment(Zone, ?NAME, none, 1)
        catch
            error:badarg:Raised -> Raised
        end,
    ok = gen_server:stop(Zone),
    Printed = unicode:characters_to_list(erl_error:format_exception(error, badarg, Stack)),
    ?assertNotEqual({nomatch, Printed}, {
        string:find(Printed, "argument 3: there is no such attribute"),
        Printed
    }).

a_bad_argument_of_a_via_function_is_named(Config) ->
    Zone = zone(Config),
    Calls = [
        {whereis_name, [name]},
        {unregister_name, [{"zone", name}]},
        {send, [[Zone, name], message]},
        {register_name, [name, self()]},
        {register_name, [{not_running, name}, self()]}
    ],
    [[1] = named(Function, Arguments) || {Function, Arguments} <- Calls],
    [2] = named(register_name, [{Zone, name}, name]),
    [1] = named(re_register_name, [name, self()]),
    [1] = named(re_register_name, [{not_running, name}, self()]),
    [2] = named(re_register_name, [{Zone, name}, name]),
    [2] = named(re_register_name, [{Zone, name}, whereis(Zone)]).

%% It can be no child of the zone.
a_process_of_the_zone_itself_is_named(Config) ->
    process_flag(trap_exit, true),
    Zone = zone(Config),
    Tracker = whereis(Zone),
    {ok, _} = gen_tracker:subscribe(Zone),
    Spec = {name, {tracked_child, start_link, [self()]}, temporary, 200, worker, []},
    [
        begin
            Calls = [
                {register_name, [{Zone, name}, Pid]},
                {re_register_name, [{Zone, name}, Pid]},
                {add_existing_child, [Zone, {name, Pid, worker, []}]},
                {add_existing_child, [Zone, {Pid, Spec}]},
                {add_existing_child, [Tracker, {name, Pid, worker, []}]},
                {add_existing_child, [{Zone, node()}, {name, Pid, worker, []}]}
            ],
            [
                begin
                    Printed = printed(Function, Arguments),
                    ?assertNotEqual(nomatch, string:find(Printed, Text), Printed)
                end
             || {Function, Arguments} <- Calls
            ]
        end
     || {Pid, Text} <- [
            {Tracker, "argument 2: the tracker of the zone itself"}
            | [{Pid, "argument 2: a process of the zone itself"} || Pid <- zones:beside(Zone)]
        ]
    ],
    {ok, _} = gen_tracker:start_link(several, #{cluster => true}),
    {Process, _, _, _} = proctab_nif:cluster_shared(several),
    [2] = named(add_existing_child, [several, {name, Process, worker, []}]),
    ok = gen_server:stop(several).

a_bad_argument_of_start_link_is_named(_) ->
    [1] = named(start_link, ["zone", #{}]),
    [2] = named(start_link, [not_running, []]),
    [2] = named(start_link, [not_running, #{other => 1}]),
    [2] = named(start_link, [not_running, #{restart => 1}]),
    [2] = named(start_link, [not_running, #{max_children => -1}]),
    [1] = named(child_spec, ["zone"]),
    [1] = named(child_spec, [{zone, []}]),
    [1] = named(child_spec, [{zone, #{other => 1}}]),
    [1] = named(child_spec, [{"zone", #{}}]),
    #{2 := _} = explanation(fun() ->
        gen_tracker:start_link(not_running, #{wrong_calls:without_end() => 1})
    end).

a_key_without_an_index_is_named(Config) ->
    {ok, _} = gen_tracker:start_link(indexed, #{index => [n, {each, tags}]}),
    Calls = [{lookup, [1]}, {count, [1]}, {values, []}, {publish, [1, message]}],
    [
        begin
            [2] = named(Function, [zone(Config), n | Rest]),
            [2] = named(Function, [indexed, url | Rest]),
            [1] = named(Function, [not_running, n | Rest]),
            [1] = named(Function, ["indexed", n | Rest])
        end
     || {Function, Rest} <- Calls
    ],
    ok = gen_server:stop(indexed),
    Says = fun(Index, Text) ->
        Printed = printed(start_link, [not_running, #{index => Index}]),
        ?assertNotEqual({nomatch, Printed}, {string:find(Printed, Text), Printed})
    end,
    Says(n, "the option index is not a proper list"),
    Says([n | url], "the option index is not a proper list"),
    Says([n, {each, n}], "the option index has the same key twice"),
    Says(lists:seq(1, 65), "the option index has more than 64 keys"),
    SaysOfCopied = fun(Copied, Text) ->
        Options = #{cluster => #{copied => Copied}},
        Printed = printed(start_link, [not_running, Options]),
        ?assertNotEqual({nomatch, Printed}, {string:find(Printed, Text), Printed})
    end,
    SaysOfCopied(n, "argument 2: the option copied is not a proper list"),
    SaysOfCopied([n | url], "argument 2: the option copied is not a proper list"),
    SaysOfCopied([n, n], "argument 2: the option copied has the same key twice"),
    SaysOfCopied(lists:seq(1, 65), "argument 2: the option copied has more than 64 keys").

a_bad_argument_of_fold_is_named_and_an_error_of_its_fun_is_not_changed(Config) ->
    Zone = zone(Config),
    [1] = named(fold, [fun(_, _) -> ok end, 0, Zone]),
    [3] = named(fold, [fun(_, _, Acc) -> Acc end, 0, not_running]),
    try gen_tracker:fold(fun(Name, _, _) -> atom_to_list(Name) end, 0, Zone) of
        Answer -> ct:fail(Answer)
    catch
        error:badarg:Stack -> ?assertMatch([{erlang, atom_to_list, _, _} | _], Stack)
    end.

a_term_that_is_too_large_is_explained(Config) ->
    Zone = zone(Config),
    Endless = wrong_calls:without_end(),
    ?assertMatch(
        #{general := "a term is too large" ++ _},
        explanation(fun() -> gen_tracker:find(Zone, Endless) end)
    ).

%% Returns the explanation of an error whose arguments would take too long to print.
explanation(Call) ->
    try Call() of
        Answer -> ct:fail({no_error, Answer})
    catch
        error:badarg:Stack -> proctab_errors:format_error(badarg, Stack)
    end.

a_term_that_is_no_pid_is_named_by_the_other_two_modules(_) ->
    process_flag(trap_exit, true),
    _ = tracked_process:tracker(),
    Says = fun(Module, Function, Arguments, Text) ->
        ?assertNotEqual(nomatch, string:find(printed(Module, Function, Arguments), Text))
    end,
    Says(metrics_process_tracker, track, [name, undefined], "argument 2: not a pid"),
    Says(metrics_process_tracker, names, [name], "argument 1: not a pid"),
    Says(stats_hero_monitor, register, [worker], "argument 1: not a pid"),
    Endless = wrong_calls:without_end(),
    ?assertMatch(
        #{general := "a term is too large" ++ _},
        explanation(fun() -> metrics_process_tracker:count(Endless) end)
    ),
    tracked_process:stop_tracker().

a_metrics_process_tracker_that_does_not_run_is_explained(_) ->
    [
        ?assertNotEqual(
            nomatch,
            string:find(
                printed(metrics_process_tracker, Function, Arguments),
                "metrics_process_tracker has no table"
            )
        )
     || {Function, Arguments} <- [
            {track, [name, self()]},
            {count, [name]},
            {names, [self()]},
            {counts, []}
        ]
    ].
