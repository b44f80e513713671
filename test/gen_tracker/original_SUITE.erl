%% Promise: a program that replaces the original gen_tracker by this one needs no change. Each case
%% tests a behaviour of the original that one could expect to be different. The differences are
%% listed in doc/swapping.md, "What behaves differently".
-module(original_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, opening/2]).
-import(tracked_child, [spec/4, loose/1, full/1, plain/1]).
-import(messages, [await/1, await/2, taken/1]).
-import(scripted_child, [run/0, script/1]).
-import(timed_call, [calling/1, answer/2, ended/2]).
-import(other_node, [with_peer/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        find_or_open_returns_what_the_start_function_returned,
        start_child_returns_error_and_what_the_start_function_returned,
        what_a_start_function_returned_is_logged_with_zone_and_name,
        nothing_is_registered_after_another_return_value,
        a_throw_is_an_error_with_the_thrown_term,
        a_throw_is_logged_with_its_stack_trace,
        ok_without_a_pid_is_a_bad_return_value,
        all_callers_of_a_start_get_what_it_returned,
        a_start_that_hangs_is_killed_by_terminate_child_after_its_shutdown_time,
        a_start_that_hangs_is_killed_by_delete_child_after_its_shutdown_time,
        a_start_that_hangs_is_killed_at_once_if_the_spec_says_brutal_kill,
        callers_of_a_start_that_was_killed_get_the_error_killed,
        callers_of_a_start_that_succeeds_while_it_is_terminated_get_the_error_killed,
        a_name_whose_start_was_killed_can_be_opened_again,
        a_restart_that_hangs_is_killed_by_terminate_child,
        wait_takes_the_pid_or_name_and_node_of_the_tracker,
        wait_of_a_tracker_that_does_not_run_is_badarg,
        add_existing_child_takes_the_pid_or_name_and_node_of_the_tracker,
        wait_and_add_existing_child_work_from_another_node,
        the_message_find_or_open_is_understood,
        the_message_find_or_open_with_a_wrong_spec_is_answered,
        the_message_add_existing_child_is_understood,
        the_messages_are_understood_from_another_node,
        find_or_open_of_a_running_child_takes_any_spec,
        find_or_open_of_another_child_says_what_is_wrong_with_the_spec,
        add_existing_child_takes_any_modules,
        info_without_keys_is_empty_whatever_the_zone
    ].

%% What start functions return

doing(Name, Fun) ->
    {Name, {tracked_child, start_with, [self(), Fun]}, permanent, 200, worker, []}.

others() ->
    [
        {error, 404, <<"no">>},
        undefined,
        banana,
        %% Atoms that the library uses in its own messages.
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

find_or_open_returns_what_the_start_function_returned(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertEqual(
            {answer, Other}, answer(opening(Zone, doing(child, fun() -> Other end)), ?SOON)
        )
     || Other <- others()
    ].

%% The error is the reason alone, without OTP's child record.
start_child_returns_error_and_what_the_start_function_returned(_) ->
    Zone = zone(?FUNCTION_NAME),
    Start = fun(Fun) -> supervisor:start_child(Zone, doing(child, Fun)) end,
    [?assertEqual({error, Other}, Start(fun() -> Other end)) || Other <- others()],
    ?assertEqual({error, refused}, Start(fun() -> {error, refused} end)),
    ?assertEqual({ok, undefined}, Start(fun() -> ignore end)).

what_a_start_function_returned_is_logged_with_zone_and_name(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = log_text:listen(),
    banana = gen_tracker:find_or_open(Zone, doing(a_child_to_be_named, fun() -> banana end)),
    log_text:logged([atom_to_list(Zone), "a_child_to_be_named", "banana"], ?SOON).

nothing_is_registered_after_another_return_value(_) ->
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

a_throw_is_an_error_with_the_thrown_term(_) ->
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
    ok = log_text:listen(),
    Spec = {a_child_to_be_named, {?MODULE, start_throwing, []}, temporary},
    {error, foo} = gen_tracker:find_or_open(Zone, Spec),
    log_text:logged([atom_to_list(Zone), "a_child_to_be_named", "deep_in_the_start"], ?SOON).

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
            Supervised = calling(fun() -> supervisor:start_child(Zone, Start) end),
            ?assertEqual({answer, Expected}, answer(Supervised, ?SOON)),
            ?assertEqual(0, gen_tracker:count(Zone))
        end
     || NoPid <- NoPids, Bad <- [{ok, NoPid}, {ok, NoPid, info}]
    ],
    zones:stop(Zone, ?SOON).

all_callers_of_a_start_get_what_it_returned(_) ->
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
            Ending = calling(fun() -> timed_call:elapsed(fun() -> End(Zone, hanging) end) end),
            {answer, {Time, ok}} = answer(Ending, ?LIMIT),
            ?assert(Time >= Shutdown - 1, Time),
            {answer, {error, killed}} = answer(Opening, ?SOON),
            [ended(Pid, ?SOON) || Pid <- [Starter | Started]],
            [] = supervisor:which_children(Zone)
        end
     || Start <- [start_gated, start_halfway], Shutdown <- [0, 200, 1000]
    ].

%% Opens a child whose start hangs. Returns the call, the keeper, and the processes that the start
%% function has started.
hanging(Zone, start_gated, Shutdown) ->
    Opening = opening(Zone, spec(hanging, permanent, Shutdown, {start_gated, [self(), never]})),
    {gated, Starter} = await(gated),
    {Opening, Starter, []};
hanging(Zone, start_halfway, Shutdown) ->
    Opening = opening(Zone, spec(hanging, permanent, Shutdown, {start_halfway, [self()]})),
    {halfway, Halfway} = await(halfway),
    {Opening, tracked_child:keeper(Halfway), [Halfway]}.

a_start_that_hangs_is_killed_at_once_if_the_spec_says_brutal_kill(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter, [Halfway]} = hanging(Zone, start_halfway, brutal_kill),
    Ending = calling(fun() -> supervisor:terminate_child(Zone, hanging) end),
    {answer, ok} = answer(Ending, ?SOON),
    {answer, {error, killed}} = answer(Opening, ?SOON),
    [ended(Pid, ?SOON) || Pid <- [Starter, Halfway]],
    [] = supervisor:which_children(Zone).

callers_of_a_start_that_was_killed_get_the_error_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, _, _} = hanging(Zone, start_gated, 200),
    Others = [opening(Zone, plain(hanging)) || _ <- lists:seq(1, 20)],
    ok = gen_tracker:wait(Zone),
    Ending = calling(fun() -> supervisor:terminate_child(Zone, hanging) end),
    {answer, ok} = answer(Ending, ?LIMIT),
    ?assertEqual(
        [{answer, {error, killed}}],
        lists:usort([answer(Asked, ?SOON) || Asked <- [Opening | Others]])
    ),
    [] = taken(started).

%% The start function returns within its shutdown time.
callers_of_a_start_that_succeeds_while_it_is_terminated_get_the_error_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opening = opening(Zone, spec(child, permanent, 10000, {start_gated, [self(), go]})),
    {gated, Starter} = await(gated),
    Ending = calling(fun() -> supervisor:terminate_child(Zone, child) end),
    ok = gen_tracker:wait(Zone),
    Starter ! go,
    {answer, ok} = answer(Ending, ?LIMIT),
    ?assertEqual({answer, {error, killed}}, answer(Opening, ?SOON)),
    ?assertEqual(0, gen_tracker:count(Zone)),
    [ended(Child, ?SOON) || {started, Child} <- taken(started)].

a_name_whose_start_was_killed_can_be_opened_again(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter, _} = hanging(Zone, start_gated, 200),
    Setting = calling(fun() -> gen_tracker:setattr(Zone, hanging, key, value) end),
    {answer, ok} = answer(Setting, ?SOON),
    Ending = calling(fun() -> supervisor:terminate_child(Zone, hanging) end),
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
    Start = script([run(), Gated]),
    Child = scripted_child:open(Zone, child, permanent, Start),
    exit(Child, kill),
    {gated, Starter} = await(gated),
    Opening = opening(Zone, plain(child)),
    Ending = calling(fun() -> supervisor:terminate_child(Zone, child) end),
    {answer, ok} = answer(Ending, ?LIMIT),
    {answer, {error, killed}} = answer(Opening, ?SOON),
    ended(Starter, ?SOON),
    [] = supervisor:which_children(Zone).

%% Names of trackers

wait_takes_the_pid_or_name_and_node_of_the_tracker(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertEqual({answer, ok}, answer(calling(fun() -> gen_tracker:wait(Named) end), ?SOON))
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

add_existing_child_takes_the_pid_or_name_and_node_of_the_tracker(_) ->
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
    with_peer(fun(_, Node) ->
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
    %% A wrong child gets an error, and changes nothing.
    [
        ?assertMatch({error, _}, Call(Wrong))
     || Wrong <- [wrong, {third, no_pid, worker, []}, {First, no_spec}, {third, First, manager, []}]
    ],
    ?assertEqual(2, gen_tracker:count(Zone)).

the_messages_are_understood_from_another_node(_) ->
    Zone = ?FUNCTION_NAME,
    with_peer(fun(_, Node) ->
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

%% Specs

find_or_open_of_a_running_child_takes_any_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, Child} = gen_tracker:find_or_open(Zone, plain(child)),
    [
        ?assertEqual({Spec, {ok, Child}}, {Spec, gen_tracker:find_or_open(Zone, Spec)})
     || Spec <- wrong(child)
    ].

find_or_open_of_another_child_says_what_is_wrong_with_the_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertEqual(
            {Spec, supervisor:check_childspecs([tracked_child:six_tuple(Spec)])},
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

info_without_keys_is_empty_whatever_the_zone(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(child)),
    ok = gen_tracker:setattr(Zone, child, n, 10),
    [
        ?assertEqual([], gen_tracker:info(Any, Name, []))
     || Any <- [Zone, no_zone_of_this_name, "zone", self()], Name <- [child, nobody]
    ],
    ?assertError(badarg, gen_tracker:info(no_zone_of_this_name, child, [n])).
