%% @doc Inspects the library in a running system, and puts its modules in place of those that they
%% replace.
%%
%% {@link i/0} prints all zones and tables of processes to the shell, and {@link i/1} one zone with
%% its busiest names. {@link info/0} and {@link info/1} return the same figures as maps, for a
%% metrics exporter. {@link top/2} returns the names with the largest values of an attribute. These
%% functions read the tables page by page and send no message to a zone. The result is not a
%% snapshot: each name that changes meanwhile is counted either before or after its change. They
%% take one to three seconds for a million names.
%%
%% `gen_tracker', `metrics_process_tracker' and `stats_hero_monitor' have the names of the modules
%% that they replace. The code path decides which of the two is loaded. {@link check/0} prints which
%% one it is, and {@link load/0} loads those of this library.
-module(proctab).

-export([i/0, i/1, info/0, info/1, top/2, top/3, without_child/1]).
-export([check/0, check/1, load/0]).

-export_type([info/0, zone_info/0, index_info/0, table_info/0, total/0]).
-export_type([check/0, finding/0, load_error/0]).

-include("proctab_errors.hrl").

%% How many names i/1 and top/2 show.
-define(TOP_COUNT, 10).

-type info() :: #{
    zones := [zone_info()],
    processes := [table_info()],
    total := total()
}.
%% All zones and all tables of processes, sorted by name, and the totals.

-type zone_info() :: #{
    name := gen_tracker:zone(),
    owner := pid(),
    children := non_neg_integer(),
    states := #{
        launching := non_neg_integer(),
        running := non_neg_integer(),
        terminating := non_neg_integer(),
        pending := non_neg_integer(),
        restarting := non_neg_integer()
    },
    without_child := non_neg_integer(),
    attributes := non_neg_integer(),
    memory := non_neg_integer(),
    indexes := [index_info()],
    subscribers := non_neg_integer(),
    subscriber_queue_len := non_neg_integer(),
    message_queue_len := non_neg_integer()
}.
%% A zone. `owner' is its tracker, and `message_queue_len' the length of the tracker's message
%% queue. `children' counts the children in all states: a `pending' child waits for the next attempt
%% to restart it, a `restarting' one is being restarted. `without_child' counts the names that have
%% attributes but no child, and `attributes' the attributes of all names. `subscribers' counts the
%% processes of this node that have subscribed to events, by `gen_tracker' or by
%% `gen_tracker_cluster', and `subscriber_queue_len' is the length of the longest message queue of
%% one.
%%
%% `memory' is in bytes: an estimate of what the table holds for the names, with child specs,
%% attributes and indexes, but not of the memory of the processes. Memory that several names share,
%% such as a large binary, counts in full for each. A term that is stored as a copy takes about
%% 2.6 KB besides itself (OTP 25), which are counted.

-type index_info() :: #{
    index := gen_tracker:key() | {each, gen_tracker:key()},
    values := non_neg_integer(),
    places := non_neg_integer(),
    memory := non_neg_integer()
}.
%% An index of a zone, as its option names it: the number of values that running children have, and
%% how many children have each of them, added up. A child is under one value, or with `each' under
%% every element of its list. `memory' is part of that of the zone.

-type table_info() :: #{
    name := atom(),
    owner := pid(),
    processes := non_neg_integer(),
    names := non_neg_integer(),
    registrations := non_neg_integer(),
    deaths := non_neg_integer()
}.
%% A table of processes: that of `metrics_process_tracker' or `stats_hero_monitor'. `owner' is the
%% supervisor that the table belongs to, `processes' counts the registered processes, and
%% `registrations' their registrations; both include dead processes that are not yet cleaned up. In
%% the table of `metrics_process_tracker', each pair of a process and a name is one registration.
%% `deaths' counts the processes that have died and wait for their cleanup.

-type total() :: #{
    zones := non_neg_integer(),
    children := non_neg_integer(),
    without_child := non_neg_integer(),
    attributes := non_neg_integer(),
    memory := non_neg_integer(),
    processes := non_neg_integer(),
    names := non_neg_integer(),
    registrations := non_neg_integer()
}.
%% The totals: the first five of the zones, the others of the tables of processes.

-type check() :: #{
    %% The three modules.
    modules := [finding()],
    %% The version of this library.
    version := string(),
    %% The file of the native library.
    native := file:filename(),
    %% Whether the native library can be used, and what to do if not.
    usable := true | {false, Advice :: string()}
}.

-type finding() :: #{
    module := module(),
    %% The file from which the module was loaded.
    loaded := file:filename() | not_loaded,
    %% The file that the code path provides for the module.
    found := file:filename() | not_found,
    %% Whether the loaded module, or else the one in the code path, is that of this library.
    ours := boolean(),
    %% What to do; empty if nothing.
    advice := string()
}.

-type load_error() ::
    {running_zones, [Zone :: atom() | pid()]}
    | old_code_in_use
    | {Reason :: term(), {original_not_put_back, Why :: term()}}
    | term().

%% @doc Prints all zones and all tables of processes, each with the most important figures of {@link
%% info/0}, to the group leader of the caller. Memory is in bytes.
-spec i() -> ok.
i() ->
    proctab_view:print_all().

%% @doc Prints a zone: the figures of {@link info/1}; its indexes, each with the five values that
%% most children have; the ten subscribers of this node with the longest message queues; and the ten
%% running children whose processes have executed the most reductions. The columns for each of these
%% are the reductions, message queue length and memory in bytes of the process, and the number of
%% attributes and the bytes of the name. Calls `process_info/2' for each child of this node.
%%
%% Raises `badarg' if the zone does not run.
-spec i(gen_tracker:zone()) -> ok.
i(Zone) ->
    case proctab_view:print(Zone, ?TOP_COUNT) of
        ok -> ok;
        ended -> ?BADARG([Zone])
    end.

%% @doc Returns the figures of all zones and all tables of processes. A zone that ends meanwhile is
%% left out.
-spec info() -> info().
info() ->
    proctab_view:info().

%% @doc Returns the figures of a zone. Raises `badarg' if the zone does not run.
-spec info(gen_tracker:zone()) -> zone_info().
info(Zone) ->
    case proctab_view:info(Zone) of
        {ok, Info} -> Info;
        ended -> ?BADARG([Zone])
    end.

%% @doc Returns the ten names with the largest values of an attribute, as {@link top/3} does.
-spec top(gen_tracker:zone(), gen_tracker:key()) -> [{gen_tracker:name(), integer()}].
top(Zone, Key) ->
    case proctab_view:top(Zone, Key, ?TOP_COUNT) of
        {ok, Top} -> Top;
        ended -> ?BADARG([Zone, Key])
    end.

%% @doc Returns the `N' names with the largest values of an attribute, and the values, largest
%% first. Names without a child are included; names whose value is missing or not an integer are
%% not.
%%
%% Raises `badarg' if the zone does not run, or `N' is not a non-negative integer.
-spec top(gen_tracker:zone(), gen_tracker:key(), N :: non_neg_integer()) ->
          [{gen_tracker:name(), integer()}].
top(Zone, Key, N) when is_integer(N), N >= 0 ->
    case proctab_view:top(Zone, Key, N) of
        {ok, Top} -> Top;
        ended -> ?BADARG([Zone, Key, N])
    end;
top(Zone, Key, N) ->
    ?BADARG([Zone, Key, N]).

%% @doc Returns the names that have attributes but no child, in no particular order, each with the
%% number of its attributes and the bytes that they take with the name. `gen_tracker:increment/5'
%% makes such attributes; they go when a child of that name is next cleaned up, or with the zone.
%%
%% Raises `badarg' if the zone does not run.
-spec without_child(gen_tracker:zone()) ->
          [{gen_tracker:name(), Attributes :: pos_integer(), Bytes :: pos_integer()}].
without_child(Zone) ->
    case proctab_view:without_child(Zone) of
        {ok, Names} -> Names;
        ended -> ?BADARG([Zone])
    end.

%% @doc Prints for each of the three modules whether it is that of this library, and what to do if
%% not; and the version and the file of the native library. Prints to the group leader of the
%% caller.
-spec check() -> ok.
check() ->
    proctab_swap:print().

%% @doc Returns what {@link check/0} prints, for programs. Raises `badarg' for another argument.
-spec check(map) -> check().
check(map) ->
    proctab_swap:overview();
check(Other) ->
    ?BADARG([Other]).

%% @doc Loads the three modules of this library in place of those that are loaded, and puts its
%% directory first in the code path.
%%
%% A running `metrics_process_tracker' or `stats_hero_monitor' of the original is taken over: the
%% process continues with the code of this library and with all processes that it tracks or
%% monitors. It is suspended meanwhile, and its callers wait. Concurrent calls of this function wait
%% for each other.
%%
%% Returns the errors of the modules that could not be loaded; the others are loaded:
%% <ul>
%% <li>`{running_zones, Zones}', if zones of the original gen_tracker run. They cannot be taken
%%     over;</li>
%% <li>`old_code_in_use', if processes still run an earlier version of the module. Loading would
%%     kill them;</li>
%% <li>`{Reason, {original_not_put_back, Why}}', if a takeover failed after the code was loaded, and
%%     the original could not be loaded again because callers are still in its code or its file is
%%     gone. The code of this library stays; call this function again;</li>
%% <li>any other term, if loading or the takeover failed. The original continues.</li>
%% </ul>
%%
%% Raises `system_limit', and changes nothing, if the VM has no free process.
-spec load() -> ok | {error, [{module(), load_error()}, ...]}.
load() ->
    proctab_swap:load().
