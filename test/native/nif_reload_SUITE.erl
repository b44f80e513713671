%% Promise: the module of the native functions may be deleted, purged and loaded again in a running
%% system. Tables, names and keys are still there, handles and waiters are still valid, and tables
%% are removed with their owners.
%%
%% Each case runs in a node of its own.
-module(nif_reload_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        names_and_keys_are_found_after_a_reload,
        handles_are_valid_after_a_reload,
        waiters_are_woken_after_a_reload,
        tables_are_removed_with_their_owners_after_a_reload,
        deaths_are_noticed_after_a_reload,
        a_zone_goes_on_and_stops_in_order,
        the_library_stays_in_memory
    ].

names_and_keys_are_found_after_a_reload(_) ->
    ok = tracked_process:on_node(#{}, fun names_and_keys/0).

handles_are_valid_after_a_reload(_) ->
    ok = tracked_process:on_node(#{}, fun handles/0).

waiters_are_woken_after_a_reload(_) ->
    ok = tracked_process:on_node(#{}, fun waiters/0).

tables_are_removed_with_their_owners_after_a_reload(_) ->
    ok = tracked_process:on_node(#{}, fun owners/0).

deaths_are_noticed_after_a_reload(_) ->
    ok = tracked_process:on_node(#{}, fun deaths/0).

a_zone_goes_on_and_stops_in_order(_) ->
    ok = tracked_process:on_node(#{}, fun children/0).

the_library_stays_in_memory(_) ->
    case os:type() of
        {unix, linux} -> ok = tracked_process:on_node(#{}, fun library/0);
        _ -> {skip, "no /proc"}
    end.

%% In the other node

reload() ->
    true = code:delete(proctab_nif),
    false = code:purge(proctab_nif),
    {module, proctab_nif} = code:load_file(proctab_nif),
    ok.

names_and_keys() ->
    _ = proctab_nif:zone_open(zone, shared),
    ok = proctab_nif:processes_open(table, self()),
    %% Short terms, encoded terms, and copies.
    Names = [
        a,
        1.5,
        <<"b">>,
        {c, [d]},
        lists:seq(1, 2000),
        {make_ref()},
        binary:copy(<<"name">>, 2000),
        #{make_ref() => 1},
        <<1:3>>,
        {0.0}
    ],
    [true = proctab_nif:insert(zone, Name, self(), {spec, Name}, self()) || Name <- Names],
    [ok = proctab_nif:setattr(zone, a, Key, Key) || Key <- Names],
    [ok = proctab_nif:register(table, self(), Name) || Name <- Names],
    [
        begin
            reload(),
            [{ok, _} = proctab_nif:find(zone, Name) || Name <- Names],
            [false = proctab_nif:insert(zone, Name, self(), spec, self()) || Name <- Names],
            [{running, _, _, {spec, Name}} = proctab_nif:child(zone, Name) || Name <- Names],
            [{ok, Key} = proctab_nif:getattr(zone, a, Key) || Key <- Names],
            [1 = proctab_nif:registered_count(table, Name) || Name <- Names]
        end
     || _ <- [first, second]
    ],
    [true = proctab_nif:remove(zone, Name) || Name <- Names],
    [ok = proctab_nif:unregister(table, self(), Name) || Name <- Names],
    0 = proctab_nif:count(zone),
    ok.

handles() ->
    Handles = [
        begin
            Handle = proctab_nif:zone_open(Zone, shared),
            true = proctab_nif:insert(Zone, name, self(), Zone, self()),
            reload(),
            {Zone, Handle}
        end
     || Zone <- [first, second, third]
    ],
    [
        begin
            {[{name, Self}], _} = page(Handle, 0, []),
            Self = self(),
            {name, running, Self, Zone} = proctab_nif:kept(Handle, Self),
            Secret = proctab_nif:listen(Zone),
            Secret = proctab_nif:listen(Handle),
            ok = proctab_nif:unlisten(Handle),
            ok = proctab_nif:zone_stop(Handle),
            stopping = proctab_nif:terminating(Zone, name, normal),
            ok = proctab_nif:zone_close(Handle),
            badarg =
                try
                    proctab_nif:find(Zone, name)
                catch
                    error:badarg -> badarg
                end,
            {name, terminating, undefined, Zone} = proctab_nif:kept(Handle, Self)
        end
     || {Zone, Handle} <- Handles
    ],
    %% A reference that is no handle of a zone is none after a reload either.
    NoHandles = [
        make_ref(),
        atomics:new(1, []),
        element(
            1,
            begin
                _ = proctab_nif:zone_open(first, shared),
                proctab_nif:wait_for(first, name, key)
            end
        )
    ],
    [
        badarg =
            try
                proctab_nif:zone_stop(NoHandle)
            catch
                error:badarg -> badarg
            end
     || NoHandle <- NoHandles
    ],
    ok.

page(Handle, From, Acc) ->
    case proctab_nif:page(Handle, From, pids, Acc) of
        {Page, done} -> {Page, done};
        {Page, Next} -> page(Handle, Next, Page)
    end.

waiters() ->
    _ = proctab_nif:zone_open(zone, shared),
    Waits = [
        begin
            Wait = proctab_nif:wait_for(zone, [make_ref_of(N), name], key),
            reload(),
            {N, Wait}
        end
     || N <- [1, 2, 3]
    ],
    3 = proctab_nif:waiting(zone),
    [{1, {_, Id, _}}, {2, {Second, _, _}}, {3, {Third, _, _}}] = Waits,
    1 = proctab_nif:increment(zone, [make_ref_of(1), name], key, 1, 1),
    receive
        {'$proctab_woken', Id} -> ok
    after 0 -> error(not_woken)
    end,
    true = proctab_nif:stop_waiting(Second),
    false = proctab_nif:stop_waiting(Second),
    1 = proctab_nif:waiting(zone),
    %% The waiter is removed with its process, which has the last handle.
    {Pid, Monitor} = spawn_monitor(fun() ->
        _ = proctab_nif:wait_for(zone, other, key),
        2 = proctab_nif:waiting(zone),
        reload()
    end),
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok
    end,
    tracked_process:eventually(fun() -> proctab_nif:waiting(zone) =:= 1 end),
    %% Until here this process has a handle of the third one, so that it is not removed.
    true = proctab_nif:stop_waiting(Third),
    ok.

%% A term that is stored as a copy.
make_ref_of(N) ->
    persistent_term:get({?MODULE, N}, undefined) =/= undefined orelse
        persistent_term:put({?MODULE, N}, make_ref()),
    persistent_term:get({?MODULE, N}).

owners() ->
    Test = self(),
    {Owner, Monitor} = spawn_monitor(fun() ->
        _ = proctab_nif:zone_open(zone, shared),
        ok = proctab_nif:processes_open(table, self()),
        Test ! opened,
        receive
            stop -> ok
        end
    end),
    receive
        opened -> ok
    end,
    reload(),
    [{processes, table, Owner}, {zone, zone, Owner}] = lists:sort(proctab_nif:tables()),
    Owner ! stop,
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end,
    tracked_process:eventually(fun() -> proctab_nif:tables() =:= [] end),
    _ = proctab_nif:zone_open(zone, shared),
    ok = proctab_nif:processes_open(table, self()),
    ok.

%% Those that were monitored before, and those that the same and a new table monitor after it.
deaths() ->
    ok = proctab_nif:processes_open(table, self()),
    ok = proctab_nif:open_cleanups(table),
    Before = registered(table),
    reload(),
    died(table, Before),
    died(table, registered(table)),
    %% The resources of the closed table belong to the module before.
    Left = registered(table),
    ok = proctab_nif:processes_close(table),
    ok = proctab_nif:processes_open(table, self()),
    ok = proctab_nif:open_cleanups(table),
    New = registered(table),
    tracked_process:kill(Left),
    died(table, New),
    ok.

registered(Table) ->
    Pids = [monitored_worker:idle() || _ <- lists:seq(1, 100)],
    [ok = proctab_nif:register(Table, Pid, name) || Pid <- Pids],
    Pids.

%% Kills the processes, and asserts that the table notices.
died(Table, Pids) ->
    {0, [], false} = proctab_nif:reap(Table),
    tracked_process:kill(Pids),
    receive
        '$proctab_dead' -> ok
    after 5000 -> error(not_woken)
    end,
    tracked_process:eventually(fun() -> proctab_nif:deaths(Table) =:= length(Pids) end),
    Before = proctab_nif:registered_count(Table, name),
    {100, [], _} = proctab_nif:reap(Table),
    Cleaned = clean(Table, proctab_nif:take_cleanups(Table, self())),
    true = lists:sort(Cleaned) =:= lists:sort(Pids),
    100 = Before - proctab_nif:registered_count(Table, name),
    {0, [], false} = proctab_nif:reap(Table).

%% Makes all cleanups in the hand. Returns their processes.
clean(_, []) ->
    [];
clean(Table, Cleanups) ->
    Pids = [Pid || {Pid, name, true} <- Cleanups],
    [proctab_nif:cleaned(Table) || _ <- Cleanups],
    Pids ++ clean(Table, proctab_nif:take_cleanups(Table, self())).

%% The collector's thread still runs.
library() ->
    _ = proctab_nif:tables(),
    true = is_mapped(),
    true = code:delete(proctab_nif),
    false = code:purge(proctab_nif),
    true = is_mapped(),
    ok.

is_mapped() ->
    {ok, Maps} = file:read_file("/proc/self/maps"),
    binary:match(Maps, <<"proctab_nif.so">>) =/= nomatch.

children() ->
    {ok, Tracker} = gen_tracker:start_link(zone),
    Name = [make_ref(), name],
    Before = tracked_child:open(zone, Name),
    {ok, [{Name, Before}]} = gen_tracker:subscribe(zone),
    reload(),
    {ok, Before} = gen_tracker:find(zone, Name),
    After = tracked_child:open(zone, {Name}),
    {ok, After} = gen_tracker:find(zone, {Name}),
    ok = gen_tracker:setattr(zone, Name, [{key, 1}]),
    receive
        {gen_tracker, zone, {up, {Name}, After}} -> ok
    after 5000 -> error(not_told)
    end,
    Monitors = [monitor(process, Pid) || Pid <- [Before, After]],
    unlink(Tracker),
    ok = gen_server:call(zone, stop),
    [
        receive
            {'DOWN', Monitor, process, _, shutdown} -> ok
        after 5000 -> error(not_stopped)
        end
     || Monitor <- Monitors
    ],
    undefined = whereis(zone),
    ok.
