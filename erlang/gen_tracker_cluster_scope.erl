%% @private
%% The scope of `pg' in which the members of cluster zones find each other: one group for each zone.
-module(gen_tracker_cluster_scope).

-export([join/1, watch/2, members/1]).
-export([init_watcher/3]).

-define(SCOPE, gen_tracker_cluster).
%% How long a connected node may take to say which processes of a group it has, in milliseconds.
-define(PATIENCE, 5000).

%% @doc Adds the caller to the group of a zone, and returns a monitor of the scope. Starts the scope
%% if it does not run; returns `full' if the VM has no free process for it.
-spec join(gen_tracker:zone()) -> Monitor :: reference() | full.
join(Zone) ->
    %% Not linked: it belongs to no zone.
    try pg:start(?SCOPE) of
        _ -> join_running(Zone)
    catch
        error:system_limit -> full
    end.

join_running(Zone) ->
    Monitor = monitor(process, ?SCOPE),
    try
        ok = pg:join(?SCOPE, Zone, self()),
        Monitor
    catch
        exit:_ ->
            %% It has just ended.
            true = demonitor(Monitor, [flush]),
            join(Zone)
    end.

%% @doc Returns the processes in the group of a zone.
-spec members(gen_tracker:zone()) -> [pid()].
members(Zone) ->
    pg:get_members(?SCOPE, Zone).

%% @doc Starts a process, linked to the caller, that sends it `{Tag, {watched, Watcher, Pids}}' with
%% the group of a zone on all connected nodes, and then `{Tag, {joined, Watcher, Pids}}' when
%% processes join it. It ends with the scope. Returns `full' if the VM has no free process.
%%
%% The caller is in the group, and the scope of OTP 25 ends if a process that monitors a group is in
%% it.
-spec watch(gen_tracker:zone(), Tag :: reference()) -> Watcher :: pid() | full.
watch(Zone, Tag) ->
    try
        spawn_link(?MODULE, init_watcher, [Zone, Tag, self()])
    catch
        error:system_limit -> full
    end.

%% @private
-spec init_watcher(gen_tracker:zone(), Tag :: reference(), Caller :: pid()) -> no_return().
init_watcher(Zone, Tag, Caller) ->
    Scope = monitor(process, ?SCOPE),
    {Group, Pids} = pg:monitor(?SCOPE, Zone),
    Caller ! {Tag, {watched, self(), lists:usort(Pids ++ elsewhere(Zone))}},
    watcher(Scope, Group, {Tag, Caller}).

%% A scope that has just started does not know those of other nodes yet. So each node is asked; one
%% that does not answer, or has no scope, counts as one without members.
elsewhere(Zone) ->
    Answers = erpc:multicall(nodes(), pg, get_local_members, [?SCOPE, Zone], ?PATIENCE),
    [Pid || {ok, Pids} <- Answers, Pid <- Pids].

watcher(Scope, Group, {Tag, Caller} = To) ->
    receive
        {Group, join, _, Pids} ->
            Caller ! {Tag, {joined, self(), Pids}},
            watcher(Scope, Group, To);
        {'DOWN', Scope, process, _, _} ->
            exit(normal);
        _ ->
            watcher(Scope, Group, To)
    end.
