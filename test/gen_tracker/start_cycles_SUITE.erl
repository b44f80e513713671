%% Promise: a request of a start function that would close a cycle of waits, among the starts and
%% cleanups of one zone, is refused at once. That breaks the cycle: all other requests are answered.
-module(start_cycles_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, opening/2]).
-import(messages, [await/1, await/2]).
-import(tracked_child, [plain/1, spec/4]).
-import(scripted_child, [run/0, script/1]).
-import(tracked_child_reason, [cleaning/3, told/1]).
-import(timed_call, [at_rest/1, answer/2, within/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        two_start_functions_that_open_each_other_are_answered,
        a_cycle_of_starts_of_any_length_is_broken,
        a_cycle_of_starts_that_are_requested_at_the_same_time_is_broken,
        a_request_of_a_start_function_for_its_own_name_is_refused,
        a_request_of_a_starting_child_for_its_own_name_is_refused,
        starting_children_that_open_each_other_are_answered,
        a_cleanup_that_waits_for_a_start_that_waits_for_it_is_refused,
        a_start_that_waits_for_a_cleanup_that_waits_for_it_is_refused,
        a_restart_that_waits_for_a_cleanup_that_waits_for_it_is_refused,
        a_wait_of_a_dead_process_closes_no_cycle
    ].

%% The second start function gets `{error, starting}`, and then returns a child.
two_start_functions_that_open_each_other_are_answered(_) ->
    Zone = zone(?FUNCTION_NAME),
    start_ring(Zone, [a, b]).

a_cycle_of_starts_of_any_length_is_broken(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        start_ring(Zone, [{Length, Number} || Number <- lists:seq(1, Length)])
     || Length <- [3, 4, 10, 200]
    ].

start_ring(Zone, Names) ->
    {answer, {ok, First}} = answer(opening(Zone, starting(Zone, Names, hd(Names))), ?SOON),
    Refused = lists:last(Names),
    ?assertEqual({error, starting}, told(Refused)),
    [?assertEqual(gen_tracker:find(Zone, Next), told(Name)) || {Name, Next} <- pairs(Names)],
    ?assertEqual({ok, First}, gen_tracker:find(Zone, hd(Names))).

pairs(Names) ->
    lists:zip(lists:droplast(Names), tl(Names)).

%% Returns the spec of a child whose start function opens the next child of the ring.
starting(Zone, Names, Name) ->
    {Name, {?MODULE, start_opening, [self(), Zone, Names, Name]}, temporary, 200, worker, []}.

start_opening(Test, Zone, Names, Name) ->
    Next = next(Name, Names ++ [hd(Names)]),
    Spec = {Next, {?MODULE, start_opening, [Test, Zone, Names, Next]}, temporary, 200, worker, []},
    Test ! {told, Name, gen_tracker:find_or_open(Zone, Spec)},
    tracked_child:start_link(Test).

next(Name, [Name, Next | _]) -> Next;
next(Name, [_ | Names]) -> next(Name, Names).

%% At least one request is refused. The others return the children.
a_cycle_of_starts_that_are_requested_at_the_same_time_is_broken(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Names = [{Round, Number} || Number <- lists:seq(1, 4)],
            Openings = [opening(Zone, starting(Zone, Names, Name)) || Name <- Names],
            [{answer, {ok, _}} = answer(Opening, ?SOON) || Opening <- Openings],
            Answers = [told(Name) || Name <- Names],
            ?assert(lists:member({error, starting}, Answers), Answers),
            [{ok, _} = Answer || Answer <- Answers, Answer =/= {error, starting}]
        end
     || Round <- lists:seq(1, 50)
    ].

a_request_of_a_start_function_for_its_own_name_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Requests = own_while_starting(Zone, child),
    Start = fun() ->
        Test ! {told, child, (name_requests:ask(Requests))()},
        tracked_child:start_link(Test)
    end,
    Opening = opening(Zone, spec(child, temporary, 200, {start_with, [Test, Start]})),
    ?assertEqual(name_requests:answers(Requests), told(child)),
    {answer, {ok, Child}} = answer(Opening, ?SOON),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)).

%% An addition never waits for a start. It gets another error.
own_while_starting(Zone, Name) ->
    [
        {Request, Ask, Answer}
     || {Request, Ask, Refused} <- name_requests:all(Zone, Name, {error, starting}),
        Answer <- [
            case lists:member(Request, [add, add_full]) of
                true -> {error, already_present};
                false -> Refused
            end
        ]
    ].

%% The first of the ancestors of the child is the keeper, which waits for the child.
a_request_of_a_starting_child_for_its_own_name_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Requests = own_while_starting(Zone, child),
    Init = fun() -> Test ! {told, child, (name_requests:ask(Requests))()} end,
    Start = {gen_statem, start_link, [init_server, Init, []]},
    Opening = opening(Zone, {child, Start, temporary}),
    ?assertEqual(name_requests:answers(Requests), told(child)),
    {answer, {ok, Child}} = answer(Opening, ?SOON),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)).

starting_children_that_open_each_other_are_answered(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Server = fun(Name, Init) ->
        {Name, {gen_statem, start_link, [init_server, Init, []]}, temporary}
    end,
    Never = fun() -> ct:fail(started_again) end,
    OpenA = fun() -> Test ! {told, b, gen_tracker:find_or_open(Zone, Server(a, Never))} end,
    OpenB = fun() -> Test ! {told, a, gen_tracker:find_or_open(Zone, Server(b, OpenA))} end,
    {answer, {ok, A}} = answer(opening(Zone, Server(a, OpenB)), ?SOON),
    ?assertEqual({error, starting}, told(b)),
    {ok, B} = told(a),
    ?assertEqual([{ok, A}, {ok, B}], [gen_tracker:find(Zone, Name) || Name <- [a, b]]).

%% The start function of `starting` opens `cleaning`, whose `after_terminate/3` then opens
%% `starting`.
a_cleanup_that_waits_for_a_start_that_waits_for_it_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter, Cleaner} = mixed(Zone),
    Starter ! go,
    at_rest(Starter),
    ok = gen_tracker:wait(Zone),
    Cleaner ! go,
    ?assertEqual({error, terminating}, told(cleaning)),
    {ok, _} = told(starting),
    {answer, {ok, _}} = answer(Opening, ?SOON).

%% As above, but the cleanup waits first.
a_start_that_waits_for_a_cleanup_that_waits_for_it_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter, Cleaner} = mixed(Zone),
    Cleaner ! go,
    at_rest(Cleaner),
    ok = gen_tracker:wait(Zone),
    Starter ! go,
    ?assertEqual({error, starting}, told(starting)),
    {answer, {ok, Child}} = answer(Opening, ?SOON),
    ?assertEqual({ok, Child}, told(cleaning)).

mixed(Zone) ->
    Open = fun() -> gen_tracker:find_or_open(Zone, plain(starting)) end,
    Cleaner = cleaning(Zone, cleaning, Open),
    Opening = opening(Zone, scripted_child:spec(starting, temporary, opening_cleaning(Zone))),
    {gate, starting, Starter} = await(gate),
    {Opening, Starter, Cleaner}.

%% A start function that opens `cleaning` once it receives `go`.
opening_cleaning(Zone) ->
    Test = self(),
    fun() ->
        Test ! {gate, starting, self()},
        receive
            go -> ok
        end,
        Test ! {told, starting, gen_tracker:find_or_open(Zone, plain(cleaning))},
        tracked_child:start_link(Test)
    end.

a_restart_that_waits_for_a_cleanup_that_waits_for_it_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    End = fun() -> supervisor:terminate_child(Zone, starting) end,
    Cleaner = cleaning(Zone, cleaning, End),
    Start = script([run(), opening_cleaning(Zone)]),
    Child = scripted_child:open(Zone, starting, permanent, Start),
    exit(Child, kill),
    {gate, starting, Starter} = await(gate, starting),
    Starter ! go,
    at_rest(Starter),
    ok = gen_tracker:wait(Zone),
    Cleaner ! go,
    ?assertEqual({error, terminating}, told(cleaning)),
    ?assertMatch({ok, _}, told(starting)),
    {ok, _} = within(?SOON, fun() -> gen_tracker:find_or_open(Zone, plain(starting)) end).

%% `a` has waited for `b`, in a process that is killed, and waits for nothing now.
a_wait_of_a_dead_process_closes_no_cycle(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Open = fun(Name) -> gen_tracker:find_or_open(Zone, plain(Name)) end,
    First = fun() ->
        Helper = proc_lib:spawn(fun() -> Open(b) end),
        Test ! {helper, Helper, self()},
        receive
            go -> tracked_child:start_link(Test)
        end
    end,
    Second = fun() ->
        Test ! {second, self()},
        receive
            go -> ok
        end,
        Test ! {opened, Open(a)},
        tracked_child:start_link(Test)
    end,
    Start = fun(Name, Do) -> {Name, {tracked_child, start_with, [Test, Do]}, temporary} end,
    B = opening(Zone, Start(b, Second)),
    {second, Waiting} = await(second),
    A = opening(Zone, Start(a, First)),
    {helper, Helper, Starter} = await(helper),
    timed_call:at_rest(Helper),
    ok = gen_tracker:wait(Zone),
    _ = tracked_child:kill(Helper),
    Waiting ! go,
    timed_call:at_rest(Waiting),
    ok = gen_tracker:wait(Zone),
    Starter ! go,
    {opened, {ok, _}} = await(opened),
    [{answer, {ok, _}} = answer(Asked, ?LIMIT) || Asked <- [A, B]].
