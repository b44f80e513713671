%% Promise: `find_or_open` returns the running child without a message. Otherwise it starts the
%% child in a process of its own, once for all callers, and each caller gets the result. A failed
%% start leaves nothing behind, and no caller hangs.
-module(launching_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [spec/2, gated/2, terminating/2]).
-import(callers, [ask/1, answer/1, waiting/0]).
-import(messages, [await/1, taken/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        each_form_of_a_spec_opens_a_child,
        a_running_child_is_returned_without_a_message,
        a_malformed_spec_is_answered_as_check_childspecs_does,
        a_zone_that_does_not_run_is_an_error,
        a_child_is_started_in_a_process_of_its_own_linked_to_the_tracker,
        a_thousand_slow_starts_run_at_the_same_time_while_the_tracker_answers,
        the_start_function_is_called_once_for_many_callers,
        a_child_that_started_is_registered_and_returned,
        a_start_that_failed_is_answered_with_its_reason,
        a_crash_is_logged_with_the_stack_trace,
        nothing_is_left_after_a_failed_start,
        a_name_that_failed_to_start_can_be_opened_again,
        the_name_of_a_terminating_child_is_opened_after_its_cleanup,
        callers_that_wait_for_a_cleanup_get_the_answer_of_one_start,
        callers_of_find_or_open_get_the_answer_of_the_first_start_after_a_cleanup,
        callers_of_start_child_that_wait_for_a_cleanup_are_served_in_order,
        callers_get_an_error_when_the_tracker_is_stopped,
        callers_get_an_error_when_the_tracker_is_called_with_stop,
        callers_get_an_error_when_the_tracker_is_called_with_shutdown,
        callers_exit_when_the_tracker_is_killed,
        init_ack_returns_once_the_child_is_registered,
        init_ack_acknowledges_as_proc_lib_does,
        callers_time_out_after_a_minute_and_the_start_continues
    ].

%% Returns the spec of a permanent child with this start function.
doing(Name, Start) ->
    scripted_child:spec(Name, permanent, Start).

%% Specs

each_form_of_a_spec_opens_a_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    MFA = {tracked_child, start_link, [self()]},
    Opened = #{
        id => name,
        start => MFA,
        restart => transient,
        shutdown => 200,
        type => worker,
        modules => []
    },
    Defaults = Opened#{restart := permanent, shutdown := 5000, modules := [tracked_child]},
    Boss = Defaults#{type := supervisor, shutdown := infinity},
    Full = Boss#{restart := transient, shutdown := brutal_kill, modules := dynamic},
    opens(Zone, {name, MFA, transient}, Opened),
    opens(Zone, {name, MFA, transient, brutal_kill, supervisor, dynamic}, Full),
    opens(Zone, Full, Full),
    opens(Zone, #{id => name, start => MFA}, Defaults),
    opens(Zone, #{id => name, start => MFA, type => supervisor}, Boss).

opens(Zone, Spec, #{type := Type, modules := Modules} = Expected) ->
    {ok, Pid} = gen_tracker:find_or_open(Zone, Spec),
    ?assertEqual({started, Pid}, await(started)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
    ?assertEqual([{name, Pid, Type, Modules}], gen_tracker:which_children(Zone)),
    {ok, Actual} = supervisor:get_childspec(Zone, name),
    ?assertEqual(Expected, maps:with(maps:keys(Expected), Actual)),
    ok = supervisor:terminate_child(Zone, name).

%% The tracker is suspended, so it could not answer.
a_running_child_is_returned_without_a_message(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, Pid} = gen_tracker:find_or_open(Zone, spec(name, temporary)),
    MFA = {tracked_child, start_link, [self()]},
    Specs = [
        {name, MFA, temporary},
        {name, MFA, permanent, 200, worker, []},
        #{id => name, start => MFA}
    ],
    ok = sys:suspend(Zone),
    Open = fun() -> [gen_tracker:find_or_open(Zone, Spec) || Spec <- Specs] end,
    ?assertEqual({{answer, [{ok, Pid}, {ok, Pid}, {ok, Pid}]}, []}, callers:sent_by(Open)),
    ok = sys:resume(Zone),
    ?assertEqual([{started, Pid}], taken(started)).

a_malformed_spec_is_answered_as_check_childspecs_does(_) ->
    Zone = zone(?FUNCTION_NAME),
    Tracker = whereis(Zone),
    [
        begin
            {error, Reason} = supervisor:check_childspecs([tracked_child:six_tuple(Spec)]),
            ?assertEqual({Spec, {error, Reason}}, {Spec, gen_tracker:find_or_open(Zone, Spec)})
        end
     || Spec <- malformed({tracked_child, start_link, [self()]})
    ],
    ?assertEqual([], gen_tracker:which_children(Zone)),
    ?assertEqual([], taken(started)),
    ?assertEqual(Tracker, whereis(Zone)).

malformed(MFA) ->
    Short = {name, MFA, permanent},
    Full = {name, MFA, permanent, 200, worker, []},
    Map = #{id => name, start => MFA},
    NoMFA = [
        mfa,
        {tracked_child, start_link},
        {"tracked_child", start_link, []},
        {tracked_child, start_link, no_list}
    ],
    [
        name,
        "name",
        [],
        {},
        {name, MFA},
        {name, MFA, permanent, 200},
        {name, MFA, permanent, 200, worker, [], more}
    ] ++
        [setelement(2, Spec, Wrong) || Spec <- [Short, Full], Wrong <- NoMFA] ++
        [setelement(3, Spec, sometimes) || Spec <- [Short, Full]] ++
        [setelement(4, Full, Wrong) || Wrong <- [-1, 1.5, soon]] ++
        [
            setelement(5, Full, manager),
            setelement(6, Full, static),
            setelement(6, Full, [tracked_child, "child"])
        ] ++
        [#{}, maps:remove(id, Map), maps:remove(start, Map)] ++
        [
            maps:put(Key, wrong, Map)
         || Key <- [start, restart, shutdown, type, modules, significant]
        ] ++
        [Map#{significant => true}].

a_zone_that_does_not_run_is_an_error(_) ->
    MFA = {tracked_child, start_link, [self()]},
    Specs = [
        {name, MFA, temporary},
        {name, MFA, temporary, 200, worker, []},
        #{id => name, start => MFA}
    ],
    NotStarted = fun() ->
        [
            ?assertEqual(
                {error, gen_tracker_not_started}, gen_tracker:find_or_open(?FUNCTION_NAME, Spec)
            )
         || Spec <- Specs
        ]
    end,
    NotStarted(),
    ok = gen_server:stop(zone(?FUNCTION_NAME)),
    NotStarted(),
    ?assertEqual([], taken(started)).

%% Starting

a_child_is_started_in_a_process_of_its_own_linked_to_the_tracker(_) ->
    Zone = zone(?FUNCTION_NAME),
    {First, Starter} = gated(Zone, first),
    {Second, OtherStarter} = gated(Zone, second),
    {links, Links} = process_info(whereis(Zone), links),
    ?assertEqual([], [Starter, OtherStarter] -- Links),
    ?assertNotEqual(Starter, OtherStarter),
    [Process ! go || Process <- [Starter, OtherStarter]],
    [{answer, {ok, _}} = answer(Opening) || Opening <- [First, Second]].

a_thousand_slow_starts_run_at_the_same_time_while_the_tracker_answers(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = lists:seq(1, 1000),
    {Openings, Starters} = lists:unzip([gated(Zone, Name) || Name <- Names]),
    ?assertEqual(
        [{Name, launching, worker, [tracked_child]} || Name <- Names],
        lists:sort(supervisor:which_children(Zone))
    ),
    ?assertEqual(ok, gen_tracker:wait(Zone)),
    {ok, Quick} = gen_tracker:find_or_open(Zone, spec(quick, temporary)),
    ?assertEqual({ok, Quick}, gen_tracker:find(Zone, quick)),
    [Starter ! go || Starter <- Starters],
    Answers = [answer(Opening) || Opening <- Openings],
    ?assertEqual(Answers, [{answer, gen_tracker:find(Zone, Name)} || Name <- Names]),
    ?assertEqual(1000, length(lists:usort(Answers))).

the_start_function_is_called_once_for_many_callers(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Answer = asked_by_many(Zone, Result),
            ?assertEqual({answer, Expected(gen_tracker:find(Zone, name))}, Answer),
            _ = supervisor:terminate_child(Zone, name)
        end
     || {Result, Expected} <- successes() ++ [
            {Fail, fun(undefined) -> Reason end}
         || {Fail, Reason} <- failures()
        ]
    ].

%% Returns the answer that all callers of one start get. The start waits until all of them have
%% made their request.
asked_by_many(Zone, Result) ->
    Test = self(),
    Slow = doing(name, fun() ->
        Test ! {gated, self()},
        receive
            go -> Result()
        end
    end),
    Callers = [ask(fun() -> gen_tracker:find_or_open(Zone, Slow) end) || _ <- lists:seq(1, 50)],
    {gated, Starter} = await(gated),
    waiting(),
    ok = gen_tracker:wait(Zone),
    Starter ! go,
    [Answer] = lists:usort([answer(Caller) || Caller <- Callers]),
    ?assertEqual([], taken(gated)),
    Answer.

%% Returns start functions, each with a fun from the result of `find/2` to the expected answer.
successes() ->
    Test = self(),
    Start = fun() -> tracked_child:start_link(Test) end,
    WithInfo = fun() ->
        {ok, Pid} = Start(),
        {ok, Pid, #{info => 1.0}}
    end,
    [
        {Start, fun({ok, Pid}) -> {ok, Pid} end},
        {WithInfo, fun({ok, Pid}) -> {ok, Pid, #{info => 1.0}} end}
    ].

failures() ->
    Taken = {error, {already_started, self()}},
    Others = [ok, undefined, [], {ok}, {ok, self(), a, b}, self(), {error}],
    NoPids = [{ok, undefined}, {ok, name, info}, {ok, make_ref()}],
    [
        {fun() -> ignore end, ignore},
        {fun() -> {error, {refused, [why]}} end, {error, {refused, [why]}}},
        {fun() -> Taken end, Taken},
        {fun() -> error(crash) end, {error, crash}},
        {fun() -> exit(crash) end, {error, crash}},
        {fun() -> exit(normal) end, {error, normal}},
        {fun() -> exit(self(), kill) end, {error, killed}},
        {fun() -> throw(crash) end, {error, crash}}
    ] ++
        [{fun() -> Other end, Other} || Other <- Others] ++
        [{fun() -> NoPid end, {error, {bad_return_value, NoPid}}} || NoPid <- NoPids].

a_child_that_started_is_registered_and_returned(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Answer = gen_tracker:find_or_open(Zone, doing(name, Start)),
            {ok, Pid} = gen_tracker:find(Zone, name),
            ?assertEqual(Expected({ok, Pid}), Answer),
            ?assertEqual([{name, Pid, worker, []}], gen_tracker:which_children(Zone)),
            ?assertEqual({ok, Pid}, gen_tracker:find_or_open(Zone, doing(name, Start))),
            ok = supervisor:terminate_child(Zone, name)
        end
     || {Start, Expected} <- successes()
    ].

a_start_that_failed_is_answered_with_its_reason(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        ?assertEqual(Reason, gen_tracker:find_or_open(Zone, doing(name, Fail)))
     || {Fail, Reason} <- failures()
    ],
    ?assertEqual([], gen_tracker:which_children(Zone)).

a_crash_is_logged_with_the_stack_trace(_) ->
    Zone = zone(?FUNCTION_NAME),
    log_text:listen(),
    {error, crash} = gen_tracker:find_or_open(
        Zone, {name, {?MODULE, start_crashing, []}, temporary}
    ),
    log_text:logged("deep_in_the_start").

start_crashing() ->
    {ok, deep_in_the_start(crash)}.

deep_in_the_start(Reason) ->
    error(Reason).

%% The start function sets attributes before it fails. The child is permanent, but is not started
%% again.
nothing_is_left_after_a_failed_start(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Set = fun() ->
                ok = gen_tracker:setattr(Zone, name, [{key, value}, {1.0, 1}]),
                Fail()
            end,
            ?assertEqual(Answer, gen_tracker:find_or_open(Zone, doing(name, Set))),
            ?assertEqual(undefined, gen_tracker:getattr(Zone, name, key)),
            ?assertEqual([], gen_tracker:attrs(Zone, name)),
            ?assertEqual([], gen_tracker:which_children(Zone)),
            ?assertError(
                {void_setting, Zone, name, key}, gen_tracker:setattr(Zone, name, key, value)
            ),
            ?assertMatch([{started, _}], taken(started))
        end
     || {Fail, Answer} <- failures()
    ].

a_name_that_failed_to_start_can_be_opened_again(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Answer = gen_tracker:find_or_open(Zone, doing(name, Fail)),
            {ok, Pid} = gen_tracker:find_or_open(Zone, spec(name, temporary)),
            ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
            ?assertEqual([], gen_tracker:attrs(Zone, name)),
            ok = supervisor:terminate_child(Zone, name)
        end
     || {Fail, Answer} <- failures()
    ].

the_name_of_a_terminating_child_is_opened_after_its_cleanup(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    {Old, Cleaner} = terminating(Zone, name),
    Spec = doing(name, fun() ->
        Test ! {attributes, gen_tracker:attrs(Zone, name)},
        tracked_child:start_link(Test)
    end),
    Callers = [ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end) || _ <- lists:seq(1, 50)],
    waiting(),
    ok = gen_tracker:wait(Zone),
    ?assertEqual({[], []}, {taken(started), taken('DOWN')}),
    Cleaner ! done,
    [{answer, {ok, New}}] = lists:usort([answer(Caller) || Caller <- Callers]),
    ?assertNotEqual(Old, New),
    ?assertEqual({ok, New}, gen_tracker:find(Zone, name)),
    ?assertEqual([{attributes, []}], taken(attributes)).

callers_that_wait_for_a_cleanup_get_the_answer_of_one_start(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    {_, Cleaner} = terminating(Zone, name),
    Spec = doing(name, fun() ->
        Test ! {starting, name},
        ignore
    end),
    Callers = [ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end) || _ <- lists:seq(1, 5)],
    waiting(),
    ok = gen_tracker:wait(Zone),
    Cleaner ! done,
    ?assertEqual([{answer, ignore}], lists:usort([answer(Caller) || Caller <- Callers])),
    ?assertEqual([{starting, name}], taken(starting)).

%% The first start may have failed before the tracker handles the second request.
callers_of_find_or_open_get_the_answer_of_the_first_start_after_a_cleanup(_) ->
    Zone = zone(?FUNCTION_NAME),
    {_, Cleaner} = terminating(Zone, name),
    Failing = fun(Number) -> doing(name, fun() -> {error, Number} end) end,
    Asked = fun(Call) ->
        Caller = ask(Call),
        waiting(),
        Caller
    end,
    Starts = [
        Asked(fun() -> supervisor:start_child(Zone, Failing(Number)) end)
     || Number <- lists:seq(1, 50)
    ],
    Opening = Asked(fun() -> gen_tracker:find_or_open(Zone, Failing(last)) end),
    ok = gen_tracker:wait(Zone),
    Cleaner ! done,
    ?assertEqual(
        [{answer, {error, Number}} || Number <- lists:seq(1, 50)],
        [answer(Caller) || Caller <- Starts]
    ),
    ?assertEqual({answer, {error, 1}}, answer(Opening)).

%% The first start fails while the tracker handles the requests that follow the second one.
callers_of_start_child_that_wait_for_a_cleanup_are_served_in_order(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Asked = fun(Name, Start) ->
        ask(fun() -> supervisor:start_child(Zone, doing(Name, Start)) end)
    end,
    Running = fun() -> tracked_child:start_link(Test) end,
    [
        begin
            {_, Cleaner} = terminating(Zone, Name),
            First = Asked(Name, fun() -> ignore end),
            waiting(),
            Second = Asked(Name, Running),
            waiting(),
            Later = [Asked(Name, Running) || _ <- lists:seq(1, 500)],
            waiting(),
            ok = gen_tracker:wait(Zone),
            Cleaner ! done,
            {answer, {ok, undefined}} = answer(First),
            {answer, {ok, Pid}} = answer(Second),
            ?assertEqual(
                [{answer, {error, {already_started, Pid}}}],
                lists:usort([answer(Caller) || Caller <- Later])
            )
        end
     || Name <- lists:seq(1, 20)
    ].

%% Callers during the end of a zone

callers_get_an_error_when_the_tracker_is_stopped(_) ->
    callers_get_an_error(zone(?FUNCTION_NAME), fun gen_server:stop/1).

callers_get_an_error_when_the_tracker_is_called_with_stop(_) ->
    callers_get_an_error(zone(?FUNCTION_NAME), fun(Zone) -> gen_server:call(Zone, stop) end).

callers_get_an_error_when_the_tracker_is_called_with_shutdown(_) ->
    callers_get_an_error(zone(?FUNCTION_NAME), fun(Zone) -> gen_server:call(Zone, shutdown) end).

callers_get_an_error(Zone, Stop) ->
    left_behind(Zone, fun(Answer) -> ?assertEqual({answer, {error, shutdown}}, Answer) end, Stop).

%% Some callers wait for the end of a cleanup.
callers_exit_when_the_tracker_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    {_, Cleaner} = terminating(Zone, ending),
    Opening = ask(fun() -> gen_tracker:find_or_open(Zone, spec(ending, temporary)) end),
    Killed = fun(Answer) -> ?assertMatch({killed, {gen_server, call, [_ | _]}}, Answer) end,
    left_behind(Zone, Killed, fun(_) -> tracked_child:kill(whereis(Zone)) end),
    {killed, {gen_server, call, [_ | _]}} = answer(Opening),
    Cleaner ! done.

left_behind(Zone, Check, Stop) ->
    {First, Starter} = gated(Zone, name),
    Second = ask(fun() -> gen_tracker:find_or_open(Zone, spec(name, temporary)) end),
    waiting(),
    ok = gen_tracker:wait(Zone),
    Stop(Zone),
    [Check(answer(Opening)) || Opening <- [First, Second]],
    tracked_child:down(Starter).

%% init_ack/1

init_ack_returns_once_the_child_is_registered(_) ->
    Zone = zone(?FUNCTION_NAME),
    Own = [{key, value}, {1, 2}],
    Start = {tracked_child, start_acknowledged, [self(), Zone, name, Own]},
    {ok, Pid} = gen_tracker:find_or_open(Zone, {name, Start, temporary}),
    ?assertEqual({acknowledged, Pid, {ok, Pid}}, await(acknowledged)),
    ?assertEqual(lists:sort(Own), lists:sort(gen_tracker:attrs(Zone, name))).

init_ack_acknowledges_as_proc_lib_does(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Start = {?MODULE, start_acknowledging, [self(), Ack]},
            Answer = gen_tracker:find_or_open(Zone, {make_ref(), Start, temporary}),
            {acknowledging, Pid} = await(acknowledging),
            ?assertEqual(Ack(Pid), Answer),
            tracked_child:kill(Pid)
        end
     || Ack <- [
            fun(Pid) -> {ok, Pid, info} end,
            fun(_) -> {error, refused} end,
            fun(_) -> ignore end
        ]
    ].

start_acknowledging(Test, Ack) ->
    Child = fun() ->
        Test ! {acknowledging, self()},
        gen_tracker:init_ack(Ack(self())),
        tracked_child:down(Test)
    end,
    proc_lib:start_link(erlang, apply, [Child, []]).

%% The time limit of callers

callers_time_out_after_a_minute_and_the_start_continues() ->
    [{timetrap, {minutes, 3}}].

callers_time_out_after_a_minute_and_the_start_continues(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter} = gated(Zone, name),
    receive
        {'DOWN', Opening, process, _, Reason} ->
            ?assertMatch({timeout, {gen_server, call, [_ | _]}}, Reason)
    end,
    wait:until(fun() -> tracker_state:waiting(Zone) =:= #{} end),
    Another = ask(fun() -> gen_tracker:find_or_open(Zone, spec(name, temporary)) end),
    Starter ! go,
    {started, Pid} = await(started),
    ?assertEqual({answer, {ok, Pid}}, answer(Another)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
    ?assertEqual([], taken(started)).
