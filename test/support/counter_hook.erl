%% A Common Test hook for suites about metrics_process_tracker and stats_hero_monitor. Each case
%% begins when the counter and the reaper of the case before have ended. A suite names the hook in
%% `suite/0`, with an option:
%%
%%     suite() -> [{ct_hooks, [{counter_hook, tracker}]}].
%%
%% - `tracker`: each case traps exits, and `ledger_backend` has empty books. The tracker that the
%%   case leaves is killed.
%% - `monitor`: the application stats_hero is loaded, and each case traps exits. The monitor that
%%   the case leaves is stopped.
%% - `both`: stats_hero is loaded, each case traps exits, and the books of `counting` are open. The
%%   groups of the suite are `counting:kinds/0`; `counting:kind/1` returns the group of a case.
%% - `both_on_nodes`: like `both`, for cases that open the books on nodes of their own.
-module(counter_hook).

-export([init/2, pre_init_per_suite/3, post_end_per_suite/4]).
-export([pre_init_per_group/4, pre_init_per_testcase/4, post_end_per_testcase/5]).

init(_Id, Option) ->
    {ok, Option}.

pre_init_per_suite(_Suite, Config, tracker) ->
    {Config, tracker};
pre_init_per_suite(_Suite, Config, Option) ->
    {monitored_worker:load_stats_hero(Config), Option}.

post_end_per_suite(_Suite, _Config, Return, Option) ->
    Option =:= tracker orelse monitored_worker:unload_stats_hero(),
    {Return, Option}.

pre_init_per_group(_Suite, Group, Config, Option) ->
    {counting:of_kind(Group, Config), Option}.

pre_init_per_testcase(_Suite, _Case, Config, Option) ->
    process_flag(trap_exit, true),
    ok = prepare(Option, Config),
    {Config, Option}.

post_end_per_testcase(_Suite, _Case, Config, Return, Option) ->
    clean_up(Option, Config),
    {Return, Option}.

prepare(tracker, _Config) ->
    counting:await_end(tracker),
    ledger_backend:open();
prepare(monitor, _Config) ->
    counting:await_end(monitor);
prepare(both, Config) ->
    Kind = counting:kind(Config),
    counting:await_end(Kind),
    counting:open(Kind);
prepare(both_on_nodes, _Config) ->
    ok.

clean_up(tracker, _Config) ->
    tracked_process:stop_tracker(),
    ledger_backend:close();
clean_up(monitor, _Config) ->
    _ = logger:remove_handler(log_text),
    monitored_worker:close();
clean_up(both, Config) ->
    counting:close(counting:kind(Config));
clean_up(both_on_nodes, _Config) ->
    ok.
