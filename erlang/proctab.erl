%% @doc Looking after the library in a running system: what is in its tables, whether its modules are the ones that run, and how they get there.
%%
%% {@link i/0} prints all zones and tables of processes to the shell, {@link i/1} one zone and its busiest names; {@link info/0} and {@link info/1} give the same
%% figures as maps, for a metrics exporter; {@link top/2} gives the names with the largest value of an attribute. They read the tables page by page, and send no zone
%% a message. What changes meanwhile is counted before or after its change, each name for itself. A million names take about a second.
%%
%% `gen_tracker', `metrics_process_tracker' and `stats_hero_monitor' have the names of the modules that they replace. Which of the two is loaded is decided by
%% the code path. {@link check/0} says what is, {@link load/0} changes it.
-module(proctab).

-export([i/0, i/1, info/0, info/1, top/2, top/3]).
-export([check/0, load/0]).

-export_type([info/0, zone_info/0, table_info/0, total/0, finding/0, load_error/0]).

-include("proctab_errors.hrl").

-define(TEN, 10).

-type info() :: #{zones := [zone_info()],
                  processes := [table_info()],
                  total := total()}.
%% All zones, all tables of processes, both sorted by their names, and the sums.

-type zone_info() :: #{name := gen_tracker:zone(),
                       owner := pid(),
                       children := non_neg_integer(),
                       states := #{launching := non_neg_integer(),
                                   running := non_neg_integer(),
                                   terminating := non_neg_integer(),
                                   pending := non_neg_integer(),
                                   restarting := non_neg_integer()},
                       without_child := non_neg_integer(),
                       attributes := non_neg_integer(),
                       memory := non_neg_integer(),
                       message_queue_len := non_neg_integer()}.
%% A zone. `owner' is its tracker, and `message_queue_len' counts what waits for it. `children' counts those in any state; a `pending' one waits for the next try to
%% start it again, a `restarting' one is being started again. `without_child' counts the names that have attributes and no child, `attributes' those of all
%% names. `memory' is in bytes: what the table holds for all names, with child specs and attributes, not what their processes take. What several of
%% them share, as a large binary, counts in full for each.

-type table_info() :: #{name := atom(),
                        owner := pid(),
                        processes := non_neg_integer(),
                        names := non_neg_integer(),
                        registrations := non_neg_integer()}.
%% A table of processes, that of `metrics_process_tracker' or `stats_hero_monitor'. `owner' is the process that the table goes with, their supervisor;
%% `processes' counts those that are monitored, `registrations' what they have registered: with the tracker one for each pair of a process and a name.

-type total() :: #{zones := non_neg_integer(),
                   children := non_neg_integer(),
                   without_child := non_neg_integer(),
                   attributes := non_neg_integer(),
                   memory := non_neg_integer(),
                   processes := non_neg_integer(),
                   names := non_neg_integer(),
                   registrations := non_neg_integer()}.
%% The first five are those of the zones, the others those of the tables of processes.

-type finding() :: #{module := module(),
                     %% The file that the module was loaded from.
                     loaded := file:filename() | not_loaded,
                     %% The file that loading it by name would take.
                     found := file:filename() | not_found,
                     %% Whether it is this library's that runs or, when none is loaded, would be loaded.
                     ours := boolean(),
                     %% What to do; empty where all is well.
                     advice := string()}.

-type load_error() :: {running_zones, [Zone :: atom() | pid()]}
                    | old_code_in_use
                    | {Reason :: term(), {original_not_put_back, Why :: term()}}
                    | term().

%% @doc Prints all zones and all tables of processes, to the caller's group leader: the figures of {@link info/0}, memory in bytes.
-spec i() -> ok.
i() ->
    proctab_view:print_all().

%% @doc Prints a zone: the figures of {@link info/1}, and the ten running children whose processes have done the most reductions. Of each: reductions, message
%% queue and memory in bytes of the process, attributes and bytes of the name. All children are asked, by `process_info/2'. `badarg' when the zone does not run.
-spec i(gen_tracker:zone()) -> ok.
i(Zone) ->
    case proctab_view:print(Zone, ?TEN) of
        ok -> ok;
        ended -> ?BADARG([Zone])
    end.

%% @doc The figures of all zones and all tables of processes. One that ends meanwhile is left out.
-spec info() -> info().
info() ->
    proctab_view:info().

%% @doc The figures of a zone. `badarg' when it does not run.
-spec info(gen_tracker:zone()) -> zone_info().
info(Zone) ->
    case proctab_view:info(Zone) of
        {ok, Info} -> Info;
        ended -> ?BADARG([Zone])
    end.

%% @doc The same as {@link top/3} with ten names.
-spec top(gen_tracker:zone(), gen_tracker:key()) -> [{gen_tracker:name(), integer()}].
top(Zone, Key) ->
    case proctab_view:top(Zone, Key, ?TEN) of
        {ok, Top} -> Top;
        ended -> ?BADARG([Zone, Key])
    end.

%% @doc The `N' names with the largest values of an attribute, and the values; the largest first. Names that no child holds are among them; those where
%% the attribute is missing, or no integer, are not. `badarg' when the zone does not run, or `N' is no non-negative integer.
-spec top(gen_tracker:zone(), gen_tracker:key(), N :: non_neg_integer()) -> [{gen_tracker:name(), integer()}].
top(Zone, Key, N) when is_integer(N), N >= 0 ->
    case proctab_view:top(Zone, Key, N) of
        {ok, Top} -> Top;
        ended -> ?BADARG([Zone, Key, N])
    end;
top(Zone, Key, N) ->
    ?BADARG([Zone, Key, N]).

%% @doc For each of the three modules: which file is loaded, whether it is ours, and what to do if it is not.
-spec check() -> [finding()].
check() ->
    proctab_swap:check().

%% @doc Loads the three modules over whatever is loaded, and puts this library first in the code path.
%%
%% A running `metrics_process_tracker' or `stats_hero_monitor' of the original is taken over: it goes on with our code, and with every process that it tracks or
%% monitors. It is suspended meanwhile; callers wait. A running zone of the original gen_tracker cannot be taken over: then that module is left alone, and the error
%% names the zones. Modules that have no error are loaded. When two processes call this at once, one waits for the other.
%%
%% `old_code_in_use': processes are still running the code of an earlier load of the module, and loading would kill them. `{Reason, {original_not_put_back, Why}}': the
%% takeover failed when our code was loaded already, and it stays, because callers are still in the original's code or its file is gone; call it again.
%%
%% Raises `system_limit', and changes nothing, when the VM has no free process.
-spec load() -> ok | {error, [{module(), load_error()}, ...]}.
load() ->
    proctab_swap:load().
