%% @private
%% Copies of the attributes of other members' children: those of the keys that are copied, and of
%% the indexed ones.
-module(gen_tracker_cluster_copies).

-export([getattr/3, lookup/3]).

%% @doc Returns the copy of an attribute of another member's child, if its key is copied.
-spec getattr(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key()) ->
          {ok, gen_tracker:value()} | undefined | not_copied.
getattr(_Zone, _Name, _Key) ->
    not_copied.

%% @doc Returns the running children of other members whose attribute has a value.
-spec lookup(gen_tracker:zone(), gen_tracker:key(), gen_tracker:value()) ->
          [{gen_tracker:name(), pid()}].
lookup(Zone, _Key, _Value) ->
    _ = proctab_nif:cluster_shared(Zone),
    [].
