%% The workers, one for each request, and the public table that maps a request id to its worker
%% and back.
%%
%% What happens when a worker is cleaned up can be said when it is mapped: a function that is
%% given the one which removes the mapping.
-module(stats_hero).
-behaviour(gen_server).

-export([start_worker/1, stop_worker/1, find_worker/1, find_request/1, clean_worker_data/1]).
-export([new_table/0, map/2, map/3, mapped/0]).
-export([start_link/1, init/1, handle_call/3, handle_cast/2]).

-define(TABLE, stats_hero_workers).

%% Starts the worker of a request, supervised; returns once it is monitored and can be found.
start_worker(RequestId) ->
    stats_hero_sup:start_worker(RequestId).

stop_worker(Pid) ->
    gen_server:stop(Pid).

find_worker(RequestId) ->
    case ets:lookup(?TABLE, {request, RequestId}) of
        [{_, Pid}] -> {ok, Pid};
        [] -> undefined
    end.

find_request(Pid) ->
    case ets:lookup(?TABLE, Pid) of
        [{Pid, RequestId, _}] -> {ok, RequestId};
        [] -> undefined
    end.

%% Called by stats_hero_monitor after the death of a process that was registered, once for each
%% time.
clean_worker_data(Pid) ->
    case ets:lookup(?TABLE, Pid) of
        [{Pid, RequestId, Cleaning}] ->
            Cleaning(fun() ->
                true = ets:delete(?TABLE, {request, RequestId}),
                true = ets:delete(?TABLE, Pid),
                ok
            end);
        [] ->
            ok
    end.

%% The table, owned by the calling process.
new_table() ->
    ?TABLE = ets:new(?TABLE, [
        named_table,
        public,
        {read_concurrency, true},
        {write_concurrency, true}
    ]),
    ok.

map(RequestId, Pid) ->
    map(RequestId, Pid, fun(Remove) -> Remove() end).

map(RequestId, Pid, Cleaning) ->
    true = ets:insert(?TABLE, [{{request, RequestId}, Pid}, {Pid, RequestId, Cleaning}]),
    ok.

%% How many workers have a mapping.
mapped() ->
    ets:select_count(?TABLE, [{{'_', '_', '_'}, [], [true]}]).

%% A worker

start_link(RequestId) ->
    gen_server:start_link(?MODULE, RequestId, []).

%% Monitored first: a worker that is killed in between leaves nothing behind.
init(RequestId) ->
    ok = stats_hero_monitor:register(self()),
    ok = map(RequestId, self()),
    {ok, RequestId}.

handle_call(request, _From, RequestId) ->
    {reply, RequestId, RequestId}.

handle_cast({crash, Reason}, _RequestId) ->
    exit(Reason).
