%% A Common Test hook for suites that start zones. A suite names it in `suite/0`:
%%
%%     suite() -> [{ct_hooks, [{zone_hook, [kill]}]}].
%%
%% Without options, each case traps exits, and the zone with the name of the case is stopped when
%% the case has ended. The case fails if that takes over half a minute. Options:
%%
%% - `kill`: all zones of the node are killed instead, together with the processes beside them;
%% - `start`: the zone is started before the case. `zone/1` reads its name from the config;
%% - `{open, Name}`: like `start`, and a temporary child with this name runs in the zone. `child/1`
%%   returns its pid. The case does not trap exits: it fails if the zone crashes;
%% - `log`: the case receives the events of the log, see `kept_log`.
-module(zone_hook).

-export([init/2, pre_init_per_testcase/4, post_end_per_testcase/5]).
-export([zone/1, child/1]).

%% Returns the name of the zone that was started for the case.
zone(Config) ->
    proplists:get_value(zone, Config).

%% Returns the pid of the child that was opened for the case.
child(Config) ->
    proplists:get_value(child, Config).

%% Called by Common Test

init(_Id, Options) ->
    {ok, Options}.

pre_init_per_testcase(_Suite, Case, Config, Options) ->
    proplists:get_bool(log, Options) andalso kept_log:keep(),
    {prepare(Case, Options) ++ Config, Options}.

post_end_per_testcase(_Suite, Case, _Config, Return, Options) ->
    _ = logger:remove_handler(log_text),
    ok = kept_log:forget(),
    Stopped = proplists:get_bool(kill, Options) orelse stop(Case),
    ok = zones:clean_up(),
    case Stopped of
        true -> {Return, Options};
        false -> {{fail, {zone_does_not_stop, Case}}, Options}
    end.

stop(Zone) ->
    {Pid, Monitor} = spawn_monitor(fun() -> zones:stop_zone(Zone) end),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason =:= normal
    after 30000 ->
        exit(Pid, kill),
        false
    end.

prepare(Case, Options) ->
    case proplists:get_value(open, Options) of
        undefined ->
            process_flag(trap_exit, true),
            [{zone, zones:zone(Case)} || proplists:get_bool(start, Options)];
        Name ->
            Zone = zones:zone(Case),
            [{zone, Zone}, {child, tracked_child:open(Zone, Name)}]
    end.
