%% Promise: whatever happens to members and connections, the members of a cluster zone come to
%% agree, and no name keeps two children (`model_cluster`).
-module(model_cluster_SUITE).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 10}}].

all() ->
    [members_agree_after_random_histories].

members_agree_after_random_histories(_) ->
    First = erlang:unique_integer([positive]) + erlang:system_time(second),
    model_cluster:with_members(fun(Members) ->
        model_cluster:rounds(lists:seq(First, First + 9), Members),
        ct:pal(
            "~b children were started, and ~b have lost a conflict; "
            "~b processes were registered, and ~b have lost one", [
            model_cluster:met(Met) || Met <- [started, lost, registered, registered_lost]
        ])
    end).
