%% Promise: a request that would close a cycle of waits among the starts and cleanups of one zone is
%% refused at once, and breaks the cycle: the others get their answers. All other requests of start
%% functions and of `after_terminate' are served as those of anybody.
-module(cycles_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [zone/1, spec/2, spec/4, await/1, await/2, taken/1, loose/1]).
-import(zones, [within/2, asked/1, answer/2, at_rest/1, ended/2]).
-import(stopping_SUITE, [open/3, plain/1, full/1, telling/1, told/1, opening/2, cleaning/2]).

%% How long something may take that is to come at once: less than any limit of the contract.
-define(SOON, 2000).
-define(LIMIT, 12000).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        a_request_of_after_terminate_for_its_own_name_is_refused,
        a_request_of_after_terminate_for_a_permanent_child_of_its_own_name_is_refused,
        a_waiting_look_up_of_after_terminate_for_its_own_name_gives_undefined,
        what_after_terminate_reads_of_its_own_name_is_given,
        a_server_that_after_terminate_starts_under_its_own_name_does_not_run,
        a_request_of_a_process_that_after_terminate_starts_is_refused,
        a_request_of_a_server_that_after_terminate_starts_is_refused,
        two_children_that_end_each_other_both_end,
        two_children_that_end_each_other_at_the_same_time_both_end,
        two_children_that_open_each_other_both_end,
        two_cleanups_that_wait_for_attributes_of_each_other_both_end,
        a_cleanup_that_waits_for_an_attribute_counts_among_the_waits,
        a_cleanup_that_waits_for_an_attribute_counts_whatever_a_stranger_says,
        a_cycle_of_cleanups_of_any_length_is_broken,
        two_start_functions_that_open_each_other_are_answered,
        a_cycle_of_starts_of_any_length_is_broken,
        a_cycle_of_starts_that_are_made_at_the_same_time_is_broken,
        a_request_of_a_start_function_for_its_own_name_is_refused,
        a_request_of_a_child_that_is_being_started_for_its_own_name_is_refused,
        children_that_open_each_other_while_they_are_started_are_answered,
        a_cleanup_that_waits_for_a_start_that_waits_for_it_is_refused,
        a_start_that_waits_for_a_cleanup_that_waits_for_it_is_refused,
        a_restart_that_waits_for_a_cleanup_that_waits_for_it_is_refused,
        requests_that_close_no_cycle_are_served,
        cleanups_that_wait_for_another_in_a_row_are_served,
        many_that_wait_for_the_same_cleanup_are_served,
        a_wait_that_has_ended_closes_no_cycle,
        a_wait_of_a_process_that_is_dead_closes_no_cycle,
        a_process_that_outlives_its_after_terminate_is_served,
        a_running_child_is_served,
        a_cycle_through_two_zones_ends_by_the_limits_of_time
    ].

init_per_testcase(_Case, Config) ->
    process_flag(trap_exit, true),
    Config.

end_per_testcase(_Case, _Config) ->
    zones:clean_up().

%% The shortest cycle: its own name

%% All requests for a name that wait for its cleanup, with what each is answered when it is refused.
requests(Zone, Name, Refused) ->
    Other = loose(start_link),
    Add = fun(Child) -> gen_tracker:add_existing_child(Zone, Child) end,
    [
        {find_or_open, fun() -> gen_tracker:find_or_open(Zone, plain(Name)) end, Refused},
        {start_child, fun() -> supervisor:start_child(Zone, full(Name)) end, Refused},
        {terminate_child, fun() -> supervisor:terminate_child(Zone, Name) end, Refused},
        {delete_child, fun() -> supervisor:delete_child(Zone, Name) end, Refused},
        {register_name, fun() -> gen_tracker:register_name({Zone, Name}, Other) end, no},
        {add, fun() -> Add({Name, Other, worker, []}) end, Refused},
        {add_full, fun() -> Add({Other, full(Name)}) end, Refused}
    ].

%% Each of them, by a child of that name, in turn: all in one callback.
refused(Zone, Name, Requests, Open) ->
    Answers = [{Request, Answer} || {Request, _, Answer} <- Requests],
    Child = Open(Zone, Name, telling(asking(Requests))),
    exit(Child, kill),
    ?assertEqual(Answers, told(Name)),
    forgotten(Zone, Name).

asking(Requests) ->
    fun() -> [{Request, Ask()} || {Request, Ask, _} <- Requests] end.

%% The name is free, and can be taken.
forgotten(Zone, Name) ->
    {answer, {ok, Child}} = answer(opening(Zone, plain(Name)), ?SOON),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, Name)),
    within(?SOON, fun() -> ok = supervisor:terminate_child(Zone, Name) end).

a_request_of_after_terminate_for_its_own_name_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    refused(Zone, child, requests(Zone, child, {error, terminating}), fun stopping_SUITE:open/3),
    %% Also when the child is being stopped.
    Last = telling(fun() -> supervisor:terminate_child(Zone, child) end),
    _ = open(Zone, child, Last),
    within(?SOON, fun() -> ok = supervisor:terminate_child(Zone, child) end),
    ?assertEqual({error, terminating}, told(child)),
    [] = supervisor:which_children(Zone).

a_request_of_after_terminate_for_a_permanent_child_of_its_own_name_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Requests = requests(Zone, child, {error, terminating}),
    Last = telling(asking(Requests)),
    Child = tracked_child_reason:open(Zone, child, permanent, Last),
    exit(Child, kill),
    ?assertEqual([{Request, Answer} || {Request, _, Answer} <- Requests], told(child)),
    {started, Next} = await(started),
    ?assertEqual({answer, {ok, Next}}, answer(opening(Zone, plain(child)), ?SOON)).

a_waiting_look_up_of_after_terminate_for_its_own_name_gives_undefined(_) ->
    Zone = zone(?FUNCTION_NAME),
    Look = fun(Timeout) -> gen_tracker:getattr(Zone, child, missing, Timeout) end,
    Requests = [{Time, fun() -> Look(Time) end, undefined} || Time <- [infinity, 3600000, 0]],
    refused(Zone, child, Requests, fun stopping_SUITE:open/3).

what_after_terminate_reads_of_its_own_name_is_given(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, telling(fun() ->
        {
            gen_tracker:getattr(Zone, child, key, infinity),
            gen_tracker:getattr(Zone, child, key),
            gen_tracker:find(Zone, child),
            gen_tracker:info(Zone, child, [key]),
            gen_tracker:count(Zone)
        }
    end)),
    ok = gen_tracker:setattr(Zone, child, key, value),
    exit(Child, kill),
    ?assertEqual({{ok, value}, {ok, value}, undefined, [{key, value}], 1}, told(child)).

%% The answer of `gen_server:start' is an error, and nothing runs that nobody finds.
a_server_that_after_terminate_starts_under_its_own_name_does_not_run(_) ->
    Zone = zone(?FUNCTION_NAME),
    Via = {via, gen_tracker, {Zone, child}},
    Child = open(Zone, child, telling(fun() ->
        [
            gen_server:start(Via, ?MODULE, fun() -> ok end, []),
            gen_statem:start(Via, ?MODULE, fun() -> ok end, []),
            supervisor:start_child(Zone, #{id => child, start => {?MODULE, start_server, [Via]}})
        ]
    end)),
    exit(Child, kill),
    Taken = {error, {already_started, undefined}},
    ?assertMatch([Taken, Taken, {error, _}], told(child)),
    forgotten(Zone, child),
    ?assertEqual(undefined, gen_tracker:whereis_name({Zone, child})),
    ?assertEqual(0, gen_tracker:count(Zone)).

start_server(Name) ->
    gen_server:start_link(Name, ?MODULE, fun() -> ok end, []).

%% Both kinds of server call the fun when they start.
init(Fun) ->
    _ = Fun(),
    {ok, state, infinity}.

callback_mode() ->
    handle_event_function.

%% Processes of a callback

%% "Who asks is the process that runs the callback, or one that has it at the head of its
%% `$ancestors`."
a_request_of_a_process_that_after_terminate_starts_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Requests = [
        {Request, fun() -> by_process(Ask) end, Answer}
     || {Request, Ask, Answer} <- requests(Zone, child, {error, terminating})
    ],
    refused(Zone, child, Requests, fun stopping_SUITE:open/3).

by_process(Ask) ->
    Callback = self(),
    Pid = proc_lib:spawn(fun() -> Callback ! {asked, self(), Ask()} end),
    receive
        {asked, Pid, Answer} -> Answer
    end.

a_request_of_a_server_that_after_terminate_starts_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Requests = [
        {Request, fun() -> by_server(Ask) end, Answer}
     || {Request, Ask, Answer} <- requests(Zone, child, {error, terminating})
    ],
    refused(Zone, child, Requests, fun stopping_SUITE:open/3).

by_server(Ask) ->
    Callback = self(),
    {ok, Pid} = gen_statem:start(?MODULE, fun() -> Callback ! {asked, self(), Ask()} end, []),
    receive
        {asked, Pid, Answer} -> Answer
    end.

%% Cycles of cleanups

two_children_that_end_each_other_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    [A, _B] = ring(Zone, [a, b], fun supervisor:terminate_child/2),
    exit(A, kill),
    ?assertEqual([{a, ok}, {b, {error, terminating}}], [{Name, told(Name)} || Name <- [a, b]]),
    [forgotten(Zone, Name) || Name <- [a, b]].

%% Either of them may be the one that closes the cycle.
two_children_that_end_each_other_at_the_same_time_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Children = ring(Zone, [{a, Round}, {b, Round}], End),
            [exit(Child, kill) || Child <- Children],
            Answers = [told({Name, Round}) || Name <- [a, b]],
            ?assert(lists:member({error, terminating}, Answers), Answers),
            [] = Answers -- [{error, terminating}, ok, {error, no_child}],
            [forgotten(Zone, {Name, Round}) || Name <- [a, b]]
        end
     || End <- [fun supervisor:terminate_child/2, fun supervisor:delete_child/2],
        Round <- lists:seq(1, 50)
    ].

%% The second one closes the cycle. The first one looks again when the other's cleanup is over.
two_cleanups_that_wait_for_attributes_of_each_other_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = looking_up(Zone, fun() -> gen_tracker:getattr(Zone, a, missing, infinity) end),
    Other ! go,
    ?assertEqual(undefined, told(b)),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(b)),
    ok = gen_tracker:setattr(Zone, b, missing, found),
    ?assertEqual({ok, found}, told(a)),
    forgotten(Zone, a).

a_cleanup_that_waits_for_an_attribute_counts_whatever_a_stranger_says(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = looking_up(Zone, fun() -> gen_tracker:find_or_open(Zone, plain(a)) end),
    [
        gen_server:cast(Zone, {abandon_look_up, b, Who})
     || Who <- [zones:keeper(Zone, a), make_ref()]
    ],
    Other ! go,
    ?assertEqual({error, terminating}, told(b)).

a_cleanup_that_waits_for_an_attribute_counts_among_the_waits(_) ->
    Zone = zone(?FUNCTION_NAME),
    Other = looking_up(Zone, fun() -> gen_tracker:find_or_open(Zone, plain(a)) end),
    Other ! go,
    ?assertEqual({error, terminating}, told(b)),
    {ok, _} = gen_tracker:find_or_open(Zone, plain(b)),
    ok = gen_tracker:setattr(Zone, b, missing, found),
    ?assertEqual({ok, found}, told(a)),
    forgotten(Zone, a).

%% The cleanup of `a' waits for an attribute of `b', whose cleanup, the process that is returned,
%% asks for something when it is sent `go'.
looking_up(Zone, Ask) ->
    B = open(
        Zone,
        b,
        telling(fun() ->
            receive
                go -> Ask()
            end
        end)
    ),
    exit(B, kill),
    {asking, b, Cleaner} = await(asking, b),
    A = open(Zone, a, telling(fun() -> gen_tracker:getattr(Zone, b, missing, infinity) end)),
    exit(A, kill),
    {asking, a, Looking} = await(asking, a),
    zones:at_rest(Looking),
    ok = gen_tracker:wait(Zone),
    Cleaner.

%% Each opens the name of the other, whose cleanup it waits for.
two_children_that_open_each_other_both_end(_) ->
    Zone = zone(?FUNCTION_NAME),
    Open = fun(_, Name) -> gen_tracker:find_or_open(Zone, plain(Name)) end,
    Children = gated_ring(Zone, [a, b], Open),
    [exit(Child, kill) || Child <- Children],
    [A, B] = [element(3, await(gate, Name)) || Name <- [a, b]],
    A ! go,
    at_rest(A),
    B ! go,
    ?assertEqual({error, terminating}, told(b)),
    ?assertMatch({ok, _}, told(a)),
    forgotten(Zone, a).

a_cycle_of_cleanups_of_any_length_is_broken(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Names = [{Length, Number} || Number <- lists:seq(1, Length)],
            [First | _] = ring(Zone, Names, fun supervisor:terminate_child/2),
            exit(First, kill),
            Answers = [told(Name) || Name <- Names],
            Expected = lists:duplicate(Length - 1, ok) ++ [{error, terminating}],
            ?assertEqual(Expected, Answers),
            [forgotten(Zone, Name) || Name <- Names]
        end
     || Length <- [3, 4, 10, 200]
    ].

%% Children each of which does something to the next one in its last words, and the last one to
%% the first.
ring(Zone, Names, Do) ->
    [
        open(Zone, Name, telling(fun() -> Do(Zone, Next) end))
     || {Name, Next} <- lists:zip(Names, tl(Names) ++ [hd(Names)])
    ].

%% The same, when it is told to.
gated_ring(Zone, Names, Do) ->
    Test = self(),
    [
        open(Zone, Name, fun(_, _, _) ->
            Test ! {gate, Name, self()},
            receive
                go -> Test ! {told, Name, Do(Zone, Next)}
            end
        end)
     || {Name, Next} <- lists:zip(Names, tl(Names) ++ [hd(Names)])
    ].

%% Cycles of starts

%% "Refused at once with `{error, starting}`": the second one, which then has a child to return.
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

%% The spec of a child of a ring whose start function opens the next one.
starting(Zone, Names, Name) ->
    {Name, {?MODULE, start_opening, [self(), Zone, Names, Name]}, temporary, 200, worker, []}.

start_opening(Test, Zone, Names, Name) ->
    Next = next(Name, Names ++ [hd(Names)]),
    Spec = {Next, {?MODULE, start_opening, [Test, Zone, Names, Next]}, temporary, 200, worker, []},
    Test ! {told, Name, gen_tracker:find_or_open(Zone, Spec)},
    tracked_child:start_link(Test).

next(Name, [Name, Next | _]) -> Next;
next(Name, [_ | Names]) -> next(Name, Names).

%% All that wait get the children of the others; at least one is refused.
a_cycle_of_starts_that_are_made_at_the_same_time_is_broken(_) ->
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
        Test ! {told, child, (asking(Requests))()},
        tracked_child:start_link(Test)
    end,
    Opening = opening(Zone, spec(child, temporary, 200, {start_with, [Test, Start]})),
    ?assertEqual([{Request, Answer} || {Request, _, Answer} <- Requests], told(child)),
    {answer, {ok, Child}} = answer(Opening, ?SOON),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)).

%% An addition never waits for a start.
own_while_starting(Zone, Name) ->
    [
        {Request, Ask, Answer}
     || {Request, Ask, Refused} <- requests(Zone, Name, {error, starting}),
        Answer <- [
            case lists:member(Request, [add, add_full]) of
                true -> {error, already_present};
                false -> Refused
            end
        ]
    ].

%% The child has the keeper at the head of its ancestors, and the keeper waits for it.
a_request_of_a_child_that_is_being_started_for_its_own_name_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Requests = own_while_starting(Zone, child),
    Init = fun() -> Test ! {told, child, (asking(Requests))()} end,
    Start = {gen_statem, start_link, [?MODULE, Init, []]},
    Opening = opening(Zone, {child, Start, temporary}),
    ?assertEqual([{Request, Answer} || {Request, _, Answer} <- Requests], told(child)),
    {answer, {ok, Child}} = answer(Opening, ?SOON),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, child)).

children_that_open_each_other_while_they_are_started_are_answered(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Server = fun(Name, Init) ->
        {Name, {gen_statem, start_link, [?MODULE, Init, []]}, temporary}
    end,
    Never = fun() -> ct:fail(started_again) end,
    OpenA = fun() -> Test ! {told, b, gen_tracker:find_or_open(Zone, Server(a, Never))} end,
    OpenB = fun() -> Test ! {told, a, gen_tracker:find_or_open(Zone, Server(b, OpenA))} end,
    {answer, {ok, A}} = answer(opening(Zone, Server(a, OpenB)), ?SOON),
    ?assertEqual({error, starting}, told(b)),
    {ok, B} = told(a),
    ?assertEqual([{ok, A}, {ok, B}], [gen_tracker:find(Zone, Name) || Name <- [a, b]]).

%% Cycles of both

%% The start of `starting' opens `cleaning', whose last words then open `starting'.
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

%% The other way round.
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
    Test = self(),
    Open = fun() -> gen_tracker:find_or_open(Zone, plain(starting)) end,
    Cleaner = gated_cleanup(Zone, cleaning, Open),
    Start = fun() ->
        Test ! {gate, starting, self()},
        receive
            go -> ok
        end,
        Test ! {told, starting, gen_tracker:find_or_open(Zone, plain(cleaning))},
        tracked_child:start_link(Test)
    end,
    Opening = opening(Zone, spec(starting, temporary, 200, {start_with, [Test, Start]})),
    {gate, starting, Starter} = await(gate),
    {Opening, Starter, Cleaner}.

gated_cleanup(Zone, Name, Ask) ->
    Test = self(),
    Child = open(Zone, Name, fun(_, _, _) ->
        Test ! {gate, Name, self()},
        receive
            go -> Test ! {told, Name, Ask()}
        end
    end),
    exit(Child, kill),
    {gate, Name, Cleaner} = await(gate, Name),
    Cleaner.

%% A restart is a start as well.
a_restart_that_waits_for_a_cleanup_that_waits_for_it_is_refused(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    End = fun() -> supervisor:terminate_child(Zone, starting) end,
    Cleaner = gated_cleanup(Zone, cleaning, End),
    Again = fun() ->
        Test ! {gate, starting, self()},
        receive
            go -> ok
        end,
        Test ! {told, starting, gen_tracker:find_or_open(Zone, plain(cleaning))},
        tracked_child:start_link(Test)
    end,
    Start = restart_SUITE:scripted([restart_SUITE:run(), Again]),
    Child = restart_SUITE:open_with(Zone, starting, permanent, Start),
    exit(Child, kill),
    {gate, starting, Starter} = await(gate, starting),
    Starter ! go,
    at_rest(Starter),
    ok = gen_tracker:wait(Zone),
    Cleaner ! go,
    ?assertEqual({error, terminating}, told(cleaning)),
    ?assertMatch({ok, _}, told(starting)),
    {ok, _} = within(?SOON, fun() -> gen_tracker:find_or_open(Zone, plain(starting)) end).

%% No cycles

requests_that_close_no_cycle_are_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Added = loose(start_link),
    Registered = loose(start_link),
    [open(Zone, Name, fun(_, _, _) -> ok end) || Name <- [first, second]],
    Quick = cleaning(Zone, quick),
    Last = fun() ->
        Quick ! go,
        {
            gen_tracker:find_or_open(Zone, plain(opened)),
            supervisor:start_child(Zone, full(started)),
            gen_tracker:add_existing_child(Zone, {added, Added, worker, []}),
            gen_tracker:register_name({Zone, registered}, Registered),
            supervisor:terminate_child(Zone, first),
            supervisor:delete_child(Zone, second),
            gen_tracker:find_or_open(Zone, plain(quick)),
            gen_tracker:wait(Zone),
            length(supervisor:which_children(Zone))
        }
    end,
    Child = open(Zone, child, telling(Last)),
    exit(Child, kill),
    Answers = told(child),
    ?assertMatch({{ok, _}, {ok, _}, {ok, Added}, yes, ok, ok, {ok, _}, ok, 6}, Answers),
    {{ok, Opened}, {ok, Started}, _, _, _, _, {ok, Again}, _, _} = Answers,
    Names = [opened, started, added, registered, quick],
    Running = [Opened, Started, Added, Registered, Again],
    ?assertEqual([{ok, Pid} || Pid <- Running], [gen_tracker:find(Zone, Name) || Name <- Names]).

%% Each waits for the next, and the last for nobody.
cleanups_that_wait_for_another_in_a_row_are_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = lists:seq(1, 50),
    [
        open(Zone, Name, telling(fun() -> supervisor:terminate_child(Zone, Name + 1) end))
     || Name <- lists:droplast(Names)
    ],
    _ = open(Zone, 50, telling(fun() -> last end)),
    {ok, First} = gen_tracker:find(Zone, 1),
    exit(First, kill),
    ?assertEqual(lists:duplicate(49, ok) ++ [last], [told(Name) || Name <- Names]).

many_that_wait_for_the_same_cleanup_are_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = lists:seq(1, 50),
    Cleaner = cleaning(Zone, cleaning),
    Children = [
        open(Zone, Name, telling(fun() -> gen_tracker:find_or_open(Zone, plain(cleaning)) end))
     || Name <- Names
    ],
    [exit(Child, kill) || Child <- Children],
    [at_rest(element(3, await(asking, Name))) || Name <- Names],
    ok = gen_tracker:wait(Zone),
    Cleaner ! go,
    ?assertMatch([{ok, _}], lists:usort([told(Name) || Name <- Names])).

%% `a' has waited for `b', and waits for nothing now.
a_wait_of_a_process_that_is_dead_closes_no_cycle(_) ->
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
    zones:at_rest(Helper),
    ok = gen_tracker:wait(Zone),
    _ = tracked_child:kill(Helper),
    Waiting ! go,
    zones:at_rest(Waiting),
    ok = gen_tracker:wait(Zone),
    Starter ! go,
    {opened, {ok, _}} = await(opened),
    [{answer, {ok, _}} = answer(Asked, ?LIMIT) || Asked <- [A, B]].

a_wait_that_has_ended_closes_no_cycle(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Cleaner = gated_cleanup(Zone, a, fun() ->
        Test ! {told, first, supervisor:terminate_child(Zone, b)},
        Test ! {gate, again, self()},
        receive
            go -> done
        end
    end),
    _ = open(Zone, b, fun(_, _, _) -> ok end),
    Cleaner ! go,
    ?assertEqual(ok, told(first)),
    {gate, again, Cleaner} = await(gate),
    Child = open(Zone, b, telling(fun() -> gen_tracker:find_or_open(Zone, plain(a)) end)),
    exit(Child, kill),
    {asking, b, Asking} = await(asking),
    at_rest(Asking),
    ok = gen_tracker:wait(Zone),
    [] = taken(told),
    Cleaner ! go,
    ?assertEqual(done, told(a)),
    ?assertMatch({ok, _}, told(b)).

%% It asks when the next child of that name runs, beside the same keeper.
a_process_that_outlives_its_after_terminate_is_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Helper = fun() ->
        receive
            go -> Test ! {told, helper, gen_tracker:find_or_open(Zone, plain(child))}
        end
    end,
    Last = telling(fun() -> proc_lib:spawn(Helper) end),
    Child = tracked_child_reason:open(Zone, child, permanent, Last),
    exit(Child, kill),
    Pid = told(child),
    {started, Next} = await(started),
    zones:soon(fun() -> gen_tracker:find(Zone, child) =:= {ok, Next} end),
    Pid ! go,
    ?assertEqual({ok, Next}, told(helper)).

%% It has its keeper at the head of its ancestors, too.
a_running_child_is_served(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    {ok, Child} = gen_tracker:find_or_open(Zone, plain(child)),
    Cleaner = cleaning(Zone, cleaning),
    Run = fun(Ask) ->
        Child ! {run, Test, Ask},
        receive
            {ran, Child, Answer} -> Answer
        after ?SOON -> no_answer
        end
    end,
    ?assertEqual({ok, Child}, Run(fun() -> gen_tracker:find_or_open(Zone, plain(child)) end)),
    ?assertEqual(
        {error, {already_started, Child}},
        Run(fun() -> supervisor:start_child(Zone, full(child)) end)
    ),
    ?assertEqual(undefined, Run(fun() -> gen_tracker:getattr(Zone, child, missing, 1) end)),
    Cleaner ! go,
    ?assertMatch({ok, _}, Run(fun() -> gen_tracker:find_or_open(Zone, plain(cleaning)) end)),
    _ = Run(fun() -> spawn(fun() -> supervisor:terminate_child(Zone, child) end) end),
    ?assertEqual(shutdown, ended(Child, ?SOON)).

%% "Cycles through other processes or zones are not seen, and end by the time limits."
a_cycle_through_two_zones_ends_by_the_limits_of_time(_) ->
    First = zone(?FUNCTION_NAME),
    Second = zone(a_cycle_through_two_zones_second),
    A = open(First, a, telling(fun() -> supervisor:terminate_child(Second, b) end)),
    _ = open(Second, b, telling(fun() -> supervisor:terminate_child(First, a) end)),
    exit(A, kill),
    {asking, b, _} = await(asking, b),
    {answer, {ok, _}} = answer(opening(First, plain(a)), ?LIMIT),
    {answer, {ok, _}} = answer(opening(Second, plain(b)), ?LIMIT),
    [zones:stop(Zone, ?LIMIT) || Zone <- [First, Second]].
