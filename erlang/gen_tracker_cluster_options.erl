%% @private
%% Compares the options of two members of a cluster zone, which should be the same, and logs it if
%% they are not.
%%
%% The messages of the protocol do not contain options. What the cluster process of the other member
%% shares with its readers does, so a process of its own asks for that, once in each session.
-module(gen_tracker_cluster_options).

-export([compare/3]).
-export([init_compare/3]).

-include_lib("kernel/include/logger.hrl").

%% How long the other member may take to answer, in milliseconds.
-define(PATIENCE, 5000).

%% @doc Compares what the calling cluster process shares with what that of another node does. Does
%% not wait for the result. If the other member does not answer, nothing is logged.
-spec compare(gen_tracker:zone(), node(), gen_tracker_cluster_member:shared()) -> ok.
compare(Zone, Node, Shared) ->
    try spawn(?MODULE, init_compare, [Zone, Node, Shared]) of
        _ -> ok
    catch
        error:system_limit -> ok
    end.

%% @private
-spec init_compare(gen_tracker:zone(), node(), gen_tracker_cluster_member:shared()) -> ok.
init_compare(Zone, Node, Shared) ->
    %% A call would make a lost connection again.
    case lists:member(Node, nodes(connected)) andalso ask(Zone, Node) of
        {ok, Other} -> log(options(Shared), options(Other), Zone, Node);
        _ -> ok
    end.

ask(Zone, Node) ->
    try
        {ok, erpc:call(Node, proctab_nif, cluster_shared, [Zone], ?PATIENCE)}
    catch
        %% The connection has broken, or the zone has ended there.
        _:_ -> unknown
    end.

options({_, _, Unique, Copies}) ->
    #{
        unique => Unique,
        copied => lists:sort(gen_tracker_cluster_copies:keys(Copies)),
        index => lists:sort(gen_tracker_cluster_copies:indexed(Copies))
    }.

log(Same, Same, _, _) ->
    ok;
log(Own, Other, Zone, Node) ->
    ?LOG_WARNING(#{label => {gen_tracker_cluster, different_options}, zone => Zone, node => Node,
                   own => Own, other => Other}).
