%% The backend of the application metrics with the counters `a` and `b`: folsom, or this module
%% where folsom is not installed. Debian has no package of folsom any more.
-module(counter_backend).

-export([name/0, start/0, value/1]).
-export([new/3, update/3, update_or_create/4, delete/2]).

%% Returns the module that metrics is to call.
name() ->
    case is_folsom() of
        true -> metrics_folsom;
        false -> ?MODULE
    end.

is_folsom() ->
    code:which(folsom_metrics) =/= non_existing.

%% Starts the backend, which keeps its counters when metrics stops.
start() ->
    case is_folsom() of
        true ->
            {ok, _} = application:ensure_all_started(folsom),
            ok;
        false ->
            start_table()
    end.

start_table() ->
    Starter = self(),
    {Owner, Monitor} = spawn_monitor(fun() ->
        ?MODULE = ets:new(?MODULE, [named_table, public]),
        Starter ! {?MODULE, self()},
        receive
            never -> ok
        end
    end),
    receive
        {?MODULE, Owner} ->
            true = demonitor(Monitor, [flush]),
            ok;
        {'DOWN', Monitor, process, Owner, {badarg, _}} ->
            %% It was started before.
            true = ets:info(?MODULE, named_table),
            ok
    end.

%% Returns the value of a counter.
value(Name) ->
    case is_folsom() of
        true -> folsom_metrics:get_metric_value(Name);
        false -> ets:lookup_element(?MODULE, Name, 2)
    end.

%% Called by metrics

new(counter, Name, _Config) ->
    _ = ets:insert_new(?MODULE, {Name, 0}),
    ok.

update(Name, {c, Step}, _Config) ->
    try ets:update_counter(?MODULE, Name, Step) of
        _ -> ok
    catch
        error:badarg -> {error, Name, nonexistent_metric}
    end.

update_or_create(Name, Probe, Type, Config) ->
    ok = new(Type, Name, Config),
    update(Name, Probe, Config).

delete(Name, _Config) ->
    true = ets:delete(?MODULE, Name),
    ok.
