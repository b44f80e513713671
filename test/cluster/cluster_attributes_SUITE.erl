%% Promise: attributes of a child on any member are read and written at the child's member, and
%% `getattr/4` waits for one there, whatever becomes of the child, of that member, and of the
%% connection to it.
-module(cluster_attributes_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(clusters, [on/4, settle/2]).
-import(cluster_child, [spec/1, spec/2]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        the_childs_member_waits,
        a_wait_goes_on_when_the_child_has_moved,
        a_wait_goes_on_when_the_child_was_restarted,
        a_wait_goes_on_when_the_connection_has_broken,
        a_wait_goes_on_when_the_zone_of_the_childs_member_has_ended,
        a_wait_ends_with_its_time,
        a_wait_ends_with_its_caller,
        an_attribute_that_is_copied_is_awaited_here,
        a_connection_that_has_broken_is_an_error_of_erpc
    ].

open(Member, Name) ->
    {ok, Pid} = on(Member, gen_tracker, find_or_open, [z, spec(Name)]),
    Pid.

%% Waits for an attribute on a member, in a process of its own.
await(Member, Name, Key, Timeout) ->
    Test = self(),
    spawn_link(fun() ->
        Test ! {self(), on(Member, gen_tracker_cluster, getattr, [z, Name, Key, Timeout])}
    end).

answer(Call) ->
    receive
        {Call, Answer} -> Answer
    after 30000 -> ct:fail(no_answer)
    end.

%% Waits until so many processes wait for an attribute in the table of a member.
until_waiting(Number, Member) ->
    wait:until(fun() -> on(Member, proctab_nif, waiting, [z]) =:= Number end).

until_owner(Member, Name, Owner) ->
    wait:until(fun() -> on(Member, proctab_nif, claim_owner, [z, Name]) =:= Owner end).

the_childs_member_waits(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        _ = open(Other, a),
        settle(Members, z),
        Test = self(),
        Caller = spawn_link(fun() ->
            Counted = on(One, ?MODULE, requests, [fun() ->
                gen_tracker_cluster:getattr(z, a, key, infinity)
            end]),
            Test ! {self(), Counted}
        end),
        until_waiting(1, Other),
        ok = on(Other, gen_tracker, setattr, [z, a, key, 1]),
        %% A look, and a wait.
        ?assertEqual({{ok, 1}, 2}, answer(Caller)),
        until_waiting(0, Other)
    end).

%% Calls a function, and returns its result and the number of calls to other nodes.
requests(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        receive
            go -> exit({result, Fun()})
        end
    end),
    [1 = erlang:trace_pattern({erpc, call, Arity}, true, []) || Arity <- [4, 5]],
    1 = erlang:trace(Pid, true, [call]),
    Pid ! go,
    receive
        {'DOWN', Monitor, process, Pid, {result, Result}} -> {Result, length(traced(Pid))}
    end.

traced(Pid) ->
    Delivered = erlang:trace_delivered(Pid),
    receive
        {trace_delivered, Pid, Delivered} -> traces(Pid)
    end.

traces(Pid) ->
    receive
        {trace, Pid, call, Call} -> [Call | traces(Pid)]
    after 0 -> []
    end.

a_wait_goes_on_when_the_child_has_moved(_) ->
    clusters:with(3, z, fun([One, Other, Last] = Members) ->
        Pid = open(Other, a),
        settle(Members, z),
        Call = await(One, a, key, infinity),
        until_waiting(1, Other),
        clusters:dies(Other, Pid),
        until_owner(Last, a, undefined),
        _ = open(Last, a),
        until_waiting(1, Last),
        ok = on(Last, gen_tracker, setattr, [z, a, key, 1]),
        ?assertEqual({ok, 1}, answer(Call)),
        [until_waiting(0, Member) || Member <- Members]
    end).

a_wait_goes_on_when_the_child_was_restarted(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        {ok, Pid} = on(Other, gen_tracker, find_or_open, [z, spec(a, permanent)]),
        settle(Members, z),
        Call = await(One, a, key, infinity),
        until_waiting(1, Other),
        clusters:dies(Other, Pid),
        {ok, _} = on(Other, gen_tracker, find, [z, a, infinity]),
        ok = on(Other, gen_tracker, setattr, [z, a, key, 1]),
        ?assertEqual({ok, 1}, answer(Call))
    end).

a_wait_goes_on_when_the_connection_has_broken(_) ->
    clusters:with(2, z, fun([One, {_, Node} = Other] = Members) ->
        _ = open(Other, a),
        settle(Members, z),
        Call = await(One, a, key, infinity),
        until_waiting(1, Other),
        clusters:cut([One], [Other]),
        until_waiting(0, Other),
        %% This side finds its own child.
        until_owner(One, a, undefined),
        _ = open(One, a),
        ok = on(One, gen_tracker, setattr, [z, a, key, 1]),
        ?assertEqual({ok, 1}, answer(Call)),
        ?assertNot(lists:member(Node, on(One, erlang, nodes, [])))
    end).

a_wait_goes_on_when_the_zone_of_the_childs_member_has_ended(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        _ = open(Other, a),
        settle(Members, z),
        Call = await(One, a, key, infinity),
        until_waiting(1, Other),
        ok = on(Other, clusters, stop_zone, [z]),
        until_owner(One, a, undefined),
        ok = on(Other, clusters, start_zone, [z, #{cluster => true}]),
        settle(Members, z),
        _ = open(Other, a),
        until_waiting(1, Other),
        ok = on(Other, gen_tracker, setattr, [z, a, key, 1]),
        ?assertEqual({ok, 1}, answer(Call))
    end).

a_wait_ends_with_its_time(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        _ = open(Other, a),
        settle(Members, z),
        [?assertEqual(undefined, answer(await(One, a, key, Time))) || Time <- [0, 1, 20]],
        until_waiting(0, Other),
        %% Beyond the longest timeout of a call.
        Call = await(One, a, key, 1 bsl 64),
        until_waiting(1, Other),
        ok = on(Other, gen_tracker, setattr, [z, a, key, 1]),
        ?assertEqual({ok, 1}, answer(Call)),
        ?assertEqual({ok, 1}, answer(await(One, a, key, 0)))
    end).

a_wait_ends_with_its_caller(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        _ = open(Other, a),
        settle(Members, z),
        Caller = on(One, erlang, spawn, [gen_tracker_cluster, getattr, [z, a, key, infinity]]),
        until_waiting(1, Other),
        clusters:dies(One, Caller),
        until_waiting(0, Other)
    end).

an_attribute_that_is_copied_is_awaited_here(_) ->
    clusters:with(2, z, #{cluster => #{copied => [key]}}, fun([One, Other] = Members) ->
        _ = open(Other, a),
        settle(Members, z),
        Call = await(One, a, key, infinity),
        ok = on(Other, gen_tracker, setattr, [z, a, key, 1]),
        ?assertEqual({ok, 1}, answer(Call)),
        ?assertEqual(0, on(Other, proctab_nif, waiting, [z]))
    end).

%% As long as this member has not noticed it.
a_connection_that_has_broken_is_an_error_of_erpc(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        _ = open(Other, a),
        settle(Members, z),
        {Process, _, _, _} = on(One, proctab_nif, cluster_shared, [z]),
        ok = on(One, sys, suspend, [Process]),
        clusters:cut([One], [Other]),
        [
            ?assertError(
                {erpc, noconnection}, on(One, gen_tracker_cluster, Function, [z, a | Arguments])
            )
         || {Function, Arguments} <- [
                {getattr, [key]}, {getattr, [key, 1000]}, {info, []}, {setattr, [key, 1]},
                {setattr, [#{key => 1}]}, {increment, [key, 1]}, {increment, [key, 1, 0]},
                {cas, [key, 1, 2]}, {delattr, [key]}
            ]
        ],
        ?assertError(
            {erpc, noconnection}, on(One, gen_tracker_cluster, unregister_name, [{z, a}])
        ),
        ok = on(One, sys, resume, [Process]),
        until_owner(One, a, undefined),
        ?assertEqual(undefined, on(One, gen_tracker_cluster, getattr, [z, a, key]))
    end).
