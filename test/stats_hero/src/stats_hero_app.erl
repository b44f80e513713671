-module(stats_hero_app).
-behaviour(application).

-export([start/2, stop/1]).

start(_Type, _Arguments) ->
    stats_hero_sup:start_link().

stop(_State) ->
    ok.
