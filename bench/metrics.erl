%% The interface of the application metrics, with the cheapest backend that counts, for both sides.
-module(metrics).

-export([open/0, update/1, update/2, value/1]).

open() ->
    ets:new(?MODULE, [named_table, public, {write_concurrency, true}]).

update(Name) ->
    update(Name, {c, 1}).

update(Name, {c, Change}) ->
    ets:update_counter(?MODULE, Name, Change, {Name, 0}).

value(Name) ->
    ets:lookup_element(?MODULE, Name, 2).
