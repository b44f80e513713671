%% Promise: a member that joins is nobody's home until it has the names of all members that its node
%% is connected to, also if the scope of `pg' has not told it of them yet.
-module(cluster_joining_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(ZONE, cluster_joining).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        a_member_that_joins_starts_no_name_of_the_others
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
