%% Owns the table of the workers, and starts the monitor and the supervisor of the workers.
-module(stats_hero_sup).
-behaviour(supervisor).

-export([start_link/0, start_worker/1, init/1]).

start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, application).

start_worker(RequestId) ->
    supervisor:start_child(stats_hero_worker_sup, [RequestId]).

init(application) ->
    ok = stats_hero:new_table(),
    Workers = {supervisor, start_link, [{local, stats_hero_worker_sup}, ?MODULE, workers]},
    {ok, {#{strategy => one_for_one, intensity => 4, period => 3600}, [
        #{id => stats_hero_monitor, start => {stats_hero_monitor, start_link, []}},
        #{id => stats_hero_worker_sup, start => Workers, type => supervisor}
    ]}};
init(workers) ->
    Worker = #{id => stats_hero, start => {stats_hero, start_link, []}, restart => temporary},
    {ok, {#{strategy => simple_one_for_one}, [Worker]}}.
