%% The interface of the application stats_hero: a public table of request ids and workers.
-module(stats_hero).

-export([open/0, map/2, clean_worker_data/1]).

open() ->
    ets:new(?MODULE, [named_table, public, {write_concurrency, true}]).

map(Id, Pid) ->
    ets:insert(?MODULE, [{Id, Pid}, {Pid, Id}]).

clean_worker_data(Pid) ->
    [{Pid, Id}] = ets:lookup(?MODULE, Pid),
    true = ets:delete(?MODULE, Id),
    true = ets:delete(?MODULE, Pid).
