%% Promise: a program that swaps the original gen_tracker for this one does not notice. Each case is
%% a sentence about what stays as it was, where it could be thought to be otherwise. What does not
%% stay is in doc/swapping.md, "What behaves differently".
-module(original_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [zone/1, spec/2, spec/4, await/1, await/2, taken/1, loose/1]).
-import(zones, [asked/1, answer/2, ended/2, with_node/1]).
-import(stopping_SUITE, [opening/2, full/1, plain/1]).

-define(SOON, 2000).
-define(LIMIT, 12000).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        what_a_start_function_returns_comes_back_as_it_is,
        start_child_says_error_and_what_a_start_function_returned,
        what_a_start_function_returned_is_logged_with_zone_and_name,
        nothing_is_registered_after_any_other_return,
        a_throw_is_an_error_with_what_was_thrown,
        a_throw_is_logged_with_its_stack_trace,
        ok_without_a_pid_is_a_bad_return_value,
        all_callers_of_one_start_get_what_it_returned,
        a_start_that_hangs_is_killed_by_terminate_child_after_its_shutdown_time,
        a_start_that_hangs_is_killed_by_delete_child_after_its_shutdown_time,
        a_start_that_hangs_is_killed_at_once_where_the_spec_says_brutal_kill,
        those_who_opened_a_start_that_was_killed_get_the_error_killed,
        those_who_opened_a_start_that_succeeds_while_it_is_ended_get_the_error_killed,
        a_name_whose_start_was_killed_can_be_opened_again,
        a_restart_that_hangs_is_killed_by_terminate_child,
        wait_takes_the_pid_of_the_tracker_and_its_name_and_node,
        wait_of_a_tracker_that_does_not_run_is_badarg,
        add_existing_child_takes_the_pid_of_the_tracker_and_its_name_and_node,
        wait_and_add_existing_child_work_from_another_node,
        the_message_find_or_open_is_understood,
        the_message_find_or_open_with_a_wrong_spec_is_answered,
        the_message_add_existing_child_is_understood,
        the_messages_are_understood_from_another_node,
        a_helper_of_a_start_function_lives_on_when_the_child_is_killed,
        a_helper_of_a_start_function_lives_on_when_the_child_is_terminated,
        a_helper_of_a_start_function_lives_on_when_the_child_ends_while_it_is_started,
        a_helper_of_a_start_function_lives_on_when_the_child_is_restarted,
        a_helper_of_a_start_function_ends_with_shutdown_when_the_zone_stops,
        a_helper_that_has_outlived_its_child_ends_with_shutdown_when_the_zone_stops,
        find_or_open_of_a_running_child_takes_any_spec,
        find_or_open_of_any_other_child_says_what_is_wrong_with_the_spec,
        add_existing_child_takes_any_modules,
        increment_takes_an_operation_of_ets_update_counter,
        increment_takes_an_operation_with_a_threshold,
        increment_takes_operations_past_64_bits,
        increment_takes_an_operation_where_there_is_a_default,
        other_operations_of_ets_update_counter_are_badarg,
        a_default_that_is_no_integer_matters_only_where_the_attribute_is_missing,
        info_without_keys_is_empty_whatever_the_zone
    ].

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    Config.

end_per_testcase(_Case, _Config) ->
    _ = logger:remove_handler(tracked_child),
    zones:clean_up(),
    [exit(Helper, kill) || Helper <- [get_helper(Name) || Name <- helpers()], is_pid(Helper)].

%% What start functions return

doing(Name, Fun) ->
    {Name, {tracked_child, start_with, [self(), Fun]}, permanent, 200, worker, []}.

others() ->
    [
        {error, 404, <<"no">>},
        undefined,
        banana,
        %% Words of the tracker's own, each as it is.
        ended,
        killed,
        launched,
        {killed, self()},
        {launched, self()},
        ok,
        [],
        "text",
        #{},
        42,
        {ok},
        {error},
        {ok, self(), info, more},
        self(),
        make_ref(),
        {shutdown, {error, refused}}
    ].

what_a_start_function_returns_comes_back_as_it_is(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertEqual(
            {answer, Other}, answer(opening(Zone, doing(child, fun() -> Other end)), ?SOON)
        )
     || Other <- others()
    ].

%% "The reason alone, without OTP's child record."
start_child_says_error_and_what_a_start_function_returned(_) ->
    Zone = zone(?FUNCTION_NAME),
    Start = fun(Fun) -> supervisor:start_child(Zone, doing(child, Fun)) end,
    [?assertEqual({error, Other}, Start(fun() -> Other end)) || Other <- others()],
    ?assertEqual({error, refused}, Start(fun() -> {error, refused} end)),
    ?assertEqual({ok, undefined}, Start(fun() -> ignore end)).

what_a_start_function_returned_is_logged_with_zone_and_name(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = tracked_child:listen(),
    banana = gen_tracker:find_or_open(Zone, doing(a_child_to_be_named, fun() -> banana end)),
    zones:logged([atom_to_list(Zone), "a_child_to_be_named", "banana"], ?SOON).

nothing_is_registered_after_any_other_return(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    [
        begin
            Fun = fun() ->
                ok = gen_tracker:setattr(Zone, child, key, value),
                Other
            end,
            Other = gen_tracker:find_or_open(Zone, doing(child, Fun)),
            ?assertEqual(undefined, gen_tracker:find(Zone, child)),
            ?assertEqual([], gen_tracker:info(Zone, child)),
            ?assertEqual(0, gen_tracker:count(Zone))
        end
     || Other <- others()
    ],
    Proper = fun() -> tracked_child:start_link(Test) end,
    {ok, _} = gen_tracker:find_or_open(Zone, doing(child, Proper)).

a_throw_is_an_error_with_what_was_thrown(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Throw = doing(child, fun() -> throw(Thrown) end),
            ?assertEqual({error, Thrown}, gen_tracker:find_or_open(Zone, Throw)),
            ?assertEqual({error, Thrown}, supervisor:start_child(Zone, Throw))
        end
     || Thrown <- [foo, {error, foo}, {ok, self()}, ignore, {nocatch, foo}]
    ],
    [] = supervisor:which_children(Zone).

a_throw_is_logged_with_its_stack_trace(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = tracked_child:listen(),
    Spec = {a_child_to_be_named, {?MODULE, start_throwing, []}, temporary},
    {error, foo} = gen_tracker:find_or_open(Zone, Spec),
    zones:logged([atom_to_list(Zone), "a_child_to_be_named", "deep_in_the_start"], ?SOON).

start_throwing() ->
    {ok, deep_in_the_start(foo)}.

deep_in_the_start(Reason) ->
    throw(Reason).

ok_without_a_pid_is_a_bad_return_value(_) ->
    Zone = zone(?FUNCTION_NAME),
    [Port | _] = erlang:ports(),
    NoPids = [undefined, name, make_ref(), Port, [self()], {self(), node()}, <<"pid">>, 1],
    [
        begin
            Start = doing(child, fun() -> Bad end),
            Expected = {error, {bad_return_value, Bad}},
            ?assertEqual({answer, Expected}, answer(opening(Zone, Start), ?SOON)),
            Supervised = asked(fun() -> supervisor:start_child(Zone, Start) end),
            ?assertEqual({answer, Expected}, answer(Supervised, ?SOON)),
            ?assertEqual(0, gen_tracker:count(Zone))
        end
     || NoPid <- NoPids, Bad <- [{ok, NoPid}, {ok, NoPid, info}]
    ],
    zones:stop(Zone, ?SOON).

all_callers_of_one_start_get_what_it_returned(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Slow = doing(child, fun() ->
                receive
                    go -> Do()
                end
            end),
            Callers = [opening(Zone, Slow) || _ <- lists:seq(1, 20)],
            {started, Starter} = await(started),
            ok = gen_tracker:wait(Zone),
            Starter ! go,
            ?assertEqual(
                [{answer, Answer}], lists:usort([answer(Caller, ?SOON) || Caller <- Callers])
            ),
            [] = taken(started)
        end
     || {Do, Answer} <- [
            {fun() -> {error, 404, <<"no">>} end, {error, 404, <<"no">>}},
            {fun() -> throw(foo) end, {error, foo}},
            {fun() -> {ok, name} end, {error, {bad_return_value, {ok, name}}}}
        ]
    ].

%% Starts that hang

a_start_that_hangs_is_killed_by_terminate_child_after_its_shutdown_time(_) ->
    killed_in_its_time(zone(?FUNCTION_NAME), fun supervisor:terminate_child/2).

a_start_that_hangs_is_killed_by_delete_child_after_its_shutdown_time(_) ->
    killed_in_its_time(zone(?FUNCTION_NAME), fun supervisor:delete_child/2).

killed_in_its_time(Zone, End) ->
    [
        begin
            {Opening, Starter, Started} = hanging(Zone, Start, Shutdown),
            Ending = asked(fun() -> zones:elapsed(fun() -> End(Zone, hanging) end) end),
            {answer, {Time, ok}} = answer(Ending, ?LIMIT),
            ?assert(Time >= Shutdown - 1, Time),
            {answer, {error, killed}} = answer(Opening, ?SOON),
            [ended(Pid, ?SOON) || Pid <- [Starter | Started]],
            [] = supervisor:which_children(Zone)
        end
     || Start <- [start_gated, start_halfway], Shutdown <- [0, 200, 1000]
    ].

%% A start that waits for ever; the process in which it runs, and what it has started.
hanging(Zone, start_gated, Shutdown) ->
    Opening = opening(Zone, spec(hanging, permanent, Shutdown, {start_gated, [self(), never]})),
    {gated, Starter} = await(gated),
    {Opening, Starter, []};
hanging(Zone, start_halfway, Shutdown) ->
    Opening = opening(Zone, spec(hanging, permanent, Shutdown, {start_halfway, [self()]})),
    {halfway, Halfway} = await(halfway),
    {Opening, tracked_child:keeper(Halfway), [Halfway]}.

a_start_that_hangs_is_killed_at_once_where_the_spec_says_brutal_kill(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter, [Halfway]} = hanging(Zone, start_halfway, brutal_kill),
    Ending = asked(fun() -> supervisor:terminate_child(Zone, hanging) end),
    {answer, ok} = answer(Ending, ?SOON),
    {answer, {error, killed}} = answer(Opening, ?SOON),
    [ended(Pid, ?SOON) || Pid <- [Starter, Halfway]],
    [] = supervisor:which_children(Zone).

those_who_opened_a_start_that_was_killed_get_the_error_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, _, _} = hanging(Zone, start_gated, 200),
    Others = [opening(Zone, plain(hanging)) || _ <- lists:seq(1, 20)],
    ok = gen_tracker:wait(Zone),
    Ending = asked(fun() -> supervisor:terminate_child(Zone, hanging) end),
    {answer, ok} = answer(Ending, ?LIMIT),
    ?assertEqual(
        [{answer, {error, killed}}],
        lists:usort([answer(Asked, ?SOON) || Asked <- [Opening | Others]])
    ),
    [] = taken(started).

%% It has its shutdown time, and uses it.
those_who_opened_a_start_that_succeeds_while_it_is_ended_get_the_error_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opening = opening(Zone, spec(child, permanent, 10000, {start_gated, [self(), go]})),
    {gated, Starter} = await(gated),
    Ending = asked(fun() -> supervisor:terminate_child(Zone, child) end),
    ok = gen_tracker:wait(Zone),
    Starter ! go,
    {answer, ok} = answer(Ending, ?LIMIT),
    ?assertEqual({answer, {error, killed}}, answer(Opening, ?SOON)),
    ?assertEqual(0, gen_tracker:count(Zone)),
    [ended(Child, ?SOON) || {started, Child} <- taken(started)].

a_name_whose_start_was_killed_can_be_opened_again(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter, _} = hanging(Zone, start_gated, 200),
    Setting = asked(fun() -> gen_tracker:setattr(Zone, hanging, key, value) end),
    {answer, ok} = answer(Setting, ?SOON),
    Ending = asked(fun() -> supervisor:terminate_child(Zone, hanging) end),
    {answer, ok} = answer(Ending, ?LIMIT),
    {answer, {error, killed}} = answer(Opening, ?SOON),
    ended(Starter, ?SOON),
    ?assertEqual([], gen_tracker:info(Zone, hanging)),
    {ok, Child} = gen_tracker:find_or_open(Zone, plain(hanging)),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, hanging)).

a_restart_that_hangs_is_killed_by_terminate_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Gated = fun() -> tracked_child:start_gated(Test, never) end,
    Start = restart_SUITE:scripted([restart_SUITE:run(), Gated]),
    Child = restart_SUITE:open_with(Zone, child, permanent, Start),
    exit(Child, kill),
    {gated, Starter} = await(gated),
    Opening = opening(Zone, plain(child)),
    Ending = asked(fun() -> supervisor:terminate_child(Zone, child) end),
    {answer, ok} = answer(Ending, ?LIMIT),
    {answer, {error, killed}} = answer(Opening, ?SOON),
    ended(Starter, ?SOON),
    [] = supervisor:which_children(Zone).

%% How a tracker is named

wait_takes_the_pid_of_the_tracker_and_its_name_and_node(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertEqual({answer, ok}, answer(asked(fun() -> gen_tracker:wait(Named) end), ?SOON))
     || Named <- [Zone, whereis(Zone), {Zone, node()}]
    ].

wait_of_a_tracker_that_does_not_run_is_badarg(_) ->
    Zone = zone(?FUNCTION_NAME),
    Tracker = whereis(Zone),
    ok = gen_server:stop(Zone),
    [
        ?assertError(badarg, gen_tracker:wait(Named))
     || Named <- [Zone, Tracker, {Zone, node()}, "zone", {Zone}, {"zone", node()}, 1]
    ].

add_existing_child_takes_the_pid_of_the_tracker_and_its_name_and_node(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            [First, Second] = [loose(start_link), loose(start_link)],
            Add = fun(Child) -> gen_tracker:add_existing_child(Named, Child) end,
            ?assertEqual({ok, First}, Add({{Named, 1}, First, worker, []})),
            ?assertEqual({ok, Second}, Add({Second, full({Named, 2})})),
            ?assertEqual({error, {already_started, First}}, Add({{Named, 1}, Second, worker, []})),
            ?assertEqual({ok, First}, gen_tracker:find(Zone, {Named, 1}))
        end
     || Named <- [Zone, whereis(Zone), {Zone, node()}]
    ].

wait_and_add_existing_child_work_from_another_node(_) ->
    Zone = ?FUNCTION_NAME,
    with_node(fun(_, Node) ->
        Tracker = whereis(zone(Zone)),
        [
            begin
                ?assertEqual(ok, erpc:call(Node, gen_tracker, wait, [Named])),
                Child = loose(start_link),
                Args = [Named, {{Named, 1}, Child, worker, []}],
                ?assertEqual({ok, Child}, erpc:call(Node, gen_tracker, add_existing_child, Args)),
                ?assertEqual({ok, Child}, gen_tracker:find(Zone, {Named, 1}))
            end
         || Named <- [Tracker, {Zone, node()}]
        ]
    end).

%% Messages of the original

the_message_find_or_open_is_understood(_) ->
    Zone = zone(?FUNCTION_NAME),
    Specs = [
        full(six),
        plain(three),
        #{id => map, start => {tracked_child, start_link, [self()]}}
    ],
    [
        begin
            {ok, Child} = gen_server:call(Zone, {find_or_open, Spec}),
            ?assertEqual({ok, Child}, gen_server:call(Zone, {find_or_open, Spec})),
            ?assertEqual({ok, Child}, gen_tracker:find(Zone, Name))
        end
     || {Name, Spec} <- lists:zip([six, three, map], Specs)
    ],
    Failing = doing(failing, fun() -> {error, 404, <<"no">>} end),
    ?assertEqual({error, 404, <<"no">>}, gen_server:call(Zone, {find_or_open, Failing})).

the_message_find_or_open_with_a_wrong_spec_is_answered(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertMatch({error, _}, gen_server:call(Zone, {find_or_open, Wrong}))
     || Wrong <- [wrong, {name, mfa, temporary}, setelement(3, full(name), often), #{id => name}]
    ],
    ok = gen_tracker:wait(Zone),
    [] = supervisor:which_children(Zone).

the_message_add_existing_child_is_understood(_) ->
    Zone = zone(?FUNCTION_NAME),
    [First, Second] = [loose(start_link), loose(start_link)],
    Call = fun(Child) -> gen_server:call(Zone, {add_existing_child, Child}) end,
    ?assertEqual({ok, First}, Call({first, First, worker, [module]})),
    ?assertEqual({ok, Second}, Call({Second, full(second)})),
    ?assertEqual({error, {already_started, First}}, Call({first, Second, worker, []})),
    ?assertEqual({ok, First}, gen_tracker:find(Zone, first)),
    ?assertEqual({ok, Second}, gen_tracker:find(Zone, second)),
    %% What is no child is answered, and changes nothing.
    [
        ?assertMatch({error, _}, Call(Wrong))
     || Wrong <- [wrong, {third, no_pid, worker, []}, {First, no_spec}, {third, First, manager, []}]
    ],
    ?assertEqual(2, gen_tracker:count(Zone)).

the_messages_are_understood_from_another_node(_) ->
    Zone = ?FUNCTION_NAME,
    with_node(fun(_, Node) ->
        Tracker = whereis(zone(Zone)),
        Call = fun(Server, Message) -> erpc:call(Node, gen_server, call, [Server, Message]) end,
        [
            begin
                {ok, Child} = Call(Server, {find_or_open, full({Server, 1})}),
                {started, Child} = await(started, Child),
                ?assertEqual({ok, Child}, gen_tracker:find(Zone, {Server, 1})),
                Added = loose(start_link),
                Message = {add_existing_child, {{Server, 2}, Added, worker, []}},
                ?assertEqual({ok, Added}, Call(Server, Message)),
                ?assertEqual({ok, Added}, gen_tracker:find(Zone, {Server, 2}))
            end
         || Server <- [Tracker, {Zone, node()}]
        ]
    end).

%% Helpers of start functions: linked processes that are started with the first child, for all

helpers() ->
    [linked, registered, trapping].

start_with_helper(Test, Helper, Then) ->
    case get_helper(Helper) of
        undefined -> Test ! {helper, Helper, start_helper(Helper), self()};
        _ -> ok
    end,
    Then().

get_helper(Helper) ->
    whereis(list_to_atom("helper_" ++ atom_to_list(Helper))).

start_helper(linked) ->
    Helper = spawn_link(fun() ->
        receive
            never -> ok
        end
    end),
    true = register(helper_linked, Helper),
    Helper;
start_helper(Kind) ->
    Name = {local, list_to_atom("helper_" ++ atom_to_list(Kind))},
    {ok, Helper} = gen_server:start_link(Name, ?MODULE, Kind, []),
    Helper.

init(Kind) ->
    process_flag(trap_exit, Kind =:= trapping),
    {ok, Kind}.

%% An exit signal ends both kinds of server.
handle_info({'EXIT', _, Reason}, Kind) ->
    {stop, Reason, Kind}.

handle_call(Call, _, Kind) ->
    {reply, Call, Kind}.

handle_cast(_, Kind) ->
    {noreply, Kind}.

%% Opens a child for each helper, whose start function also starts the helper.
with_helpers(Zone, Restart, Then) ->
    Test = self(),
    [
        begin
            Start = {?MODULE, start_with_helper, [Test, Helper, Then]},
            {ok, Child} = gen_tracker:find_or_open(Zone, {Helper, Start, Restart}),
            {helper, Helper, Pid, Keeper} = await(helper, Helper),
            {Helper, Child, Pid, Keeper}
        end
     || Helper <- helpers()
    ].

run() ->
    Test = self(),
    fun() -> tracked_child:start_link(Test) end.

%% Waits for the end of the keepers.
without_children(Zone, Opened) ->
    [ended(Keeper, ?LIMIT) || {_, _, _, Keeper} <- Opened],
    [] = gen_tracker:names(Zone).

alive(Opened) ->
    [?assertEqual({Name, Pid}, {Name, get_helper(Name)}) || {Name, _, Pid, _} <- Opened],
    [
        ?assertEqual(hello, gen_server:call(Pid, hello))
     || {Name, _, Pid, _} <- Opened, Name =/= linked
    ].

kill_helpers(Opened) ->
    lists:foreach(fun({_, _, Pid, _}) -> tracked_child:kill(Pid) end, Opened).

a_helper_of_a_start_function_lives_on_when_the_child_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Opened = with_helpers(Zone, temporary, run()),
            [exit(Child, Reason) || {_, Child, _, _} <- Opened],
            without_children(Zone, Opened),
            alive(Opened),
            kill_helpers(Opened)
        end
     || Reason <- [kill, shutdown, crash]
    ].

a_helper_of_a_start_function_lives_on_when_the_child_is_terminated(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opened = with_helpers(Zone, permanent, run()),
    [ok = supervisor:terminate_child(Zone, Name) || {Name, _, _, _} <- Opened],
    without_children(Zone, Opened),
    alive(Opened).

a_helper_of_a_start_function_lives_on_when_the_child_ends_while_it_is_started(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opened = with_helpers(Zone, temporary, fun() -> keeper_SUITE:dead(crash) end),
    without_children(Zone, Opened),
    alive(Opened).

a_helper_of_a_start_function_lives_on_when_the_child_is_restarted(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opened = with_helpers(Zone, permanent, run()),
    _ = taken(started),
    [
        begin
            exit(Child, kill),
            {started, Next} = await(started),
            zones:soon(fun() -> gen_tracker:find(Zone, Name) =:= {ok, Next} end)
        end
     || {Name, Child, _, _} <- Opened
    ],
    [] = taken(helper),
    alive(Opened).

a_helper_of_a_start_function_ends_with_shutdown_when_the_zone_stops(_) ->
    helpers_end_with_the_zone(fun(Zone) -> with_helpers(Zone, permanent, run()) end).

a_helper_that_has_outlived_its_child_ends_with_shutdown_when_the_zone_stops(_) ->
    helpers_end_with_the_zone(fun(Zone) ->
        Opened = with_helpers(Zone, temporary, run()),
        [exit(Child, kill) || {_, Child, _, _} <- Opened],
        without_children(Zone, Opened),
        alive(Opened),
        Opened
    end).

helpers_end_with_the_zone(Open) ->
    [
        begin
            Zone = zone(a_zone_with_helpers),
            Opened = Open(Zone),
            Monitors = [{Name, monitor(process, Pid)} || {Name, _, Pid, _} <- Opened],
            ?assertEqual(Reason, zones:stopped(Zone, Stop, ?LIMIT)),
            [
                begin
                    {'DOWN', Monitor, process, _, End} = await('DOWN', Monitor),
                    ?assertEqual({Name, shutdown}, {Name, End})
                end
             || {Name, Monitor} <- Monitors
            ]
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

%% Specs

find_or_open_of_a_running_child_takes_any_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, Child} = gen_tracker:find_or_open(Zone, plain(child)),
    [
        ?assertEqual({Spec, {ok, Child}}, {Spec, gen_tracker:find_or_open(Zone, Spec)})
     || Spec <- wrong(child)
    ].

find_or_open_of_any_other_child_says_what_is_wrong_with_the_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertEqual(
            {Spec, supervisor:check_childspecs([launching_SUITE:in_full(Spec)])},
            {Spec, gen_tracker:find_or_open(Zone, Spec)}
        )
     || Spec <- wrong(child) ++ [wrong, {}, {child}, #{}]
    ],
    [] = supervisor:which_children(Zone).

wrong(Name) ->
    Full = full(Name),
    Map = #{id => Name, start => {tracked_child, start_link, [self()]}},
    [
        {Name, mfa, temporary},
        {Name, undefined, undefined},
        setelement(3, plain(Name), sometimes),
        setelement(2, Full, {no_function}),
        setelement(3, Full, sometimes),
        setelement(4, Full, soon),
        setelement(5, Full, manager),
        setelement(6, Full, "modules" ++ [1.0]),
        maps:remove(start, Map),
        Map#{restart => sometimes},
        Map#{shutdown => -1}
    ].

add_existing_child_takes_any_modules(_) ->
    Zone = zone(?FUNCTION_NAME),
    All = [[], dynamic, [?MODULE], module, "text", undefined, {a, b}, 1.0, <<"m">>, [a | b], #{}],
    [
        begin
            Pid = loose(start_link),
            Child = {Mods, Pid, worker, Mods},
            ?assertEqual({ok, Pid}, gen_tracker:add_existing_child(Zone, Child))
        end
     || Mods <- All
    ],
    Children = supervisor:which_children(Zone),
    ?assertEqual(
        lists:sort([{Mods, worker, Mods} || Mods <- All]),
        lists:sort([{Name, Type, Mods} || {Name, _, Type, Mods} <- Children])
    ),
    ?assertEqual(lists:sort(Children), lists:sort(gen_tracker:which_children(Zone))),
    zones:stop(Zone, ?SOON).

%% Counters. The same is done to a counter in ETS.

counting(Zone, Value) ->
    {ok, _} = gen_tracker:find_or_open(Zone, plain(child)),
    ok = gen_tracker:setattr(Zone, child, n, Value),
    Table = ets:new(counters, []),
    true = ets:insert(Table, {n, Value}),
    fun(Operation) ->
        Expected = ets:update_counter(Table, n, Operation),
        Sum = gen_tracker:increment(Zone, child, n, Operation),
        ?assertEqual({Operation, Expected}, {Operation, Sum}),
        ?assertEqual({ok, Expected}, gen_tracker:getattr(Zone, child, n)),
        Expected
    end.

increment_takes_an_operation_of_ets_update_counter(_) ->
    Count = counting(zone(?FUNCTION_NAME), 10),
    [13, 13, 3, -97, -96] = [Count(Op) || Op <- [{2, 3}, {2, 0}, {2, -10}, {2, -100}, 1]].

increment_takes_an_operation_with_a_threshold(_) ->
    Count = counting(zone(?FUNCTION_NAME), 10),
    Operations = [
        {2, 5, 20, 0},
        {2, 5, 20, 0},
        {2, 1, 20, 0},
        {2, -1, 0, 7},
        {2, -1, 6, 100},
        {2, 0, 99, -1},
        {2, 0, 0, 3},
        {2, -4, 0, 1000},
        {2, 1, 1000, 1 bsl 80}
    ],
    Large = 1 bsl 80,
    [15, 20, 0, 7, 6, 6, 3, 1000, Large] = [Count(Operation) || Operation <- Operations].

increment_takes_operations_past_64_bits(_) ->
    Zone = zone(?FUNCTION_NAME),
    Large = [1 bsl 58, 1 bsl 59, 1 bsl 62, 1 bsl 63, 1 bsl 64, 1 bsl 200],
    Integers = [Sign * N + Distance || N <- [0 | Large], Sign <- [1, -1], Distance <- [-1, 0, 1]],
    [
        begin
            Count = counting(Zone, Start),
            [Count({2, Incr}) || Incr <- [1, -1, Start, -Start]],
            [
                Count({2, Incr, Threshold, Start})
             || Threshold <- Integers, Incr <- [1, -1, Threshold, -Threshold]
            ]
        end
     || Start <- Integers
    ].

increment_takes_an_operation_where_there_is_a_default(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(child)),
    Table = ets:new(counters, []),
    [
        begin
            Key = {Operation, Default, Name},
            Expected = [ets:update_counter(Table, Key, Operation, {Key, Default}) || _ <- [1, 2]],
            Increment = fun() -> gen_tracker:increment(Zone, Name, Key, Operation, Default) end,
            ?assertEqual({Key, Expected}, {Key, [Increment() || _ <- [1, 2]]})
        end
     || Operation <- [5, {2, 5}, {2, 5, 107, 1}, {2, -5, 3, 1 bsl 70}, {2, 1 bsl 64}],
        Default <- [0, 100, -(1 bsl 63), 1 bsl 70],
        Name <- [child, nobody]
    ].

other_operations_of_ets_update_counter_are_badarg(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = counting(Zone, 10),
    Wrong = [
        {1, 1},
        {3, 1},
        {0, 1},
        {2},
        {2, 1.0},
        {2, a},
        {2, 1, 2},
        {2, 1, 2, a},
        {2, 1, 2.0, 3},
        {2, a, 2, 3},
        {3, 1, 2, 3},
        {2, 1, 2, 3, 4},
        {2.0, 1},
        [],
        [{2, 1}],
        [1],
        {},
        a,
        1.0
    ],
    [
        begin
            ?assertError(badarg, gen_tracker:increment(Zone, child, n, Operation)),
            ?assertError(badarg, gen_tracker:increment(Zone, child, n, Operation, 0)),
            ?assertError(badarg, gen_tracker:increment(Zone, child, missing, Operation, 0))
        end
     || Operation <- Wrong
    ],
    ok = gen_tracker:setattr(Zone, child, text, <<"10">>),
    [
        begin
            ?assertError(badarg, gen_tracker:increment(Zone, child, Key, Operation)),
            ?assertError(badarg, gen_tracker:increment(Zone, child, text, Operation, 0))
        end
     || Key <- [text, missing], Operation <- [{2, 1}, {2, 1, 2, 3}]
    ],
    ?assertEqual([{n, 10}, {text, <<"10">>}], lists:sort(gen_tracker:info(Zone, child))).

a_default_that_is_no_integer_matters_only_where_the_attribute_is_missing(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = counting(Zone, 0),
    Increment = fun(Key, Operation, Default) ->
        gen_tracker:increment(Zone, child, Key, Operation, Default)
    end,
    Defaults = [undefined, 1.0, [], <<"0">>, {0}, #{}],
    Operations = [1, {2, 1}, {2, 1, 1 bsl 70, 0}],
    Sums = [Increment(n, Operation, Default) || Default <- Defaults, Operation <- Operations],
    ?assertEqual(lists:seq(1, length(Sums)), Sums),
    [
        ?assertError(badarg, Increment(missing, Operation, Default))
     || Default <- Defaults, Operation <- Operations
    ],
    ok = gen_tracker:setattr(Zone, child, n, 1 bsl 80),
    ?assertEqual((1 bsl 80) + 1, Increment(n, 1, undefined)),
    ?assertEqual([{n, (1 bsl 80) + 1}], gen_tracker:info(Zone, child)).

info_without_keys_is_empty_whatever_the_zone(_) ->
    Zone = zone(?FUNCTION_NAME),
    _ = counting(Zone, 10),
    [
        ?assertEqual([], gen_tracker:info(Any, Name, []))
     || Any <- [Zone, no_zone_of_this_name, "zone", self()], Name <- [child, nobody]
    ],
    ?assertError(badarg, gen_tracker:info(no_zone_of_this_name, child, [n])).
