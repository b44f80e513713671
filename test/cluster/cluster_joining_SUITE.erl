%% Promise: a member that joins is nobody's home until it has the names of all members that its node
%% is connected to, also if the scope of `pg' has not told it of them yet. A member whose node gets
%% a name, or loses it, joins again under the name that the node has now.
-module(cluster_joining_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(ZONE, cluster_joining).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        a_member_that_joins_starts_no_name_of_the_others,
        a_node_may_get_its_name_after_the_zone_was_started
    ].

a_member_that_joins_starts_no_name_of_the_others(_Config) ->
    clusters:with(2, ?ZONE, fun([First, Second]) ->
        ok = clusters:on(Second, clusters, stop_zone, [?ZONE]),
        Names = lists:seq(1, 20),
        Children = [{Name, open(First, Name)} || Name <- Names],
        %% A new scope on the second node, which the first one's does not answer.
        ok = clusters:on(First, sys, suspend, [gen_tracker_cluster]),
        ok = clusters:on(Second, ?MODULE, end_scope, []),
        ok = clusters:on(Second, clusters, start_zone, [?ZONE, #{cluster => true}]),
        ?assertEqual(Children, [{Name, open(Second, Name)} || Name <- Names]),
        ok = clusters:on(First, sys, resume, [gen_tracker_cluster]),
        clusters:settle([First, Second], ?ZONE),
        ?assertEqual(Children, clusters:directory(First, ?ZONE))
    end).

a_node_may_get_its_name_after_the_zone_was_started(_Config) ->
    %% Something has to start the daemon that knows the names of nodes.
    {ok, Peer, _} = peer:start(#{name => peer:random_name(), connection => standard_io}),
    ok = peer:stop(Peer),
    other_node:run(#{}, fun() ->
        process_flag(trap_exit, true),
        {ok, _} = gen_tracker:start_link(?ZONE, #{cluster => true}),
        is_home(nonode@nohost),
        {ok, Before} = gen_tracker_cluster:find_or_open(?ZONE, plain(before)),
        {ok, _} = net_kernel:start([list_to_atom(peer:random_name()), shortnames]),
        is_home(node()),
        {ok, Named} = gen_tracker_cluster:find_or_open(?ZONE, plain(named)),
        ok = net_kernel:stop(),
        is_home(nonode@nohost),
        {ok, _} = gen_tracker_cluster:find_or_open(?ZONE, plain(later)),
        ?assertEqual({ok, Before}, gen_tracker_cluster:find(?ZONE, before)),
        ?assertEqual({ok, Named}, gen_tracker_cluster:find(?ZONE, named))
    end).

is_home(Node) ->
    wait:until(fun() ->
        try
            gen_tracker_cluster:home(?ZONE, name) =:= Node
        catch
            error:_ -> false
        end
    end),
    ?assertEqual([Node], gen_tracker_cluster:members(?ZONE)).

plain(Name) ->
    {Name, {gen_event, start_link, []}, temporary}.

open(Member, Name) ->
    Spec = cluster_child:spec(Name),
    {ok, Pid} = clusters:on(Member, gen_tracker_cluster, find_or_open, [?ZONE, Spec]),
    Pid.

end_scope() ->
    Monitor = monitor(process, gen_tracker_cluster),
    exit(whereis(gen_tracker_cluster), kill),
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end.
