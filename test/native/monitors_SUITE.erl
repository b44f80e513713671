%% Promise: a table monitors its owner, and a table of processes monitors the registered processes
%% of this node, until they are closed. `process_info(Pid, monitored_by)' may be called at any time.
%% Every death is queued, if need be for the next reaper, and changes no other table.
%%
%% Each case runs in a node of its own: the VM would end if it destroyed a resource that a monitor
%% refers to.
-module(monitors_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_process, [kill/1, eventually/1]).
-import(monitored_worker, [idle/0, is_monitored/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        an_owner_lists_the_monitor_of_a_table_that_it_has_closed,
        a_process_lists_the_monitor_of_a_table_that_was_closed,
        monitors_are_listed_while_their_tables_close,
        a_closed_table_monitors_nobody,
        the_death_of_an_earlier_owner_closes_no_table,
        a_table_closes_while_thousands_of_its_processes_die,
        processes_that_die_while_they_are_registered_are_queued,
        a_new_reaper_begins_with_what_is_queued,
        many_deaths_wake_the_reaper_once
    ].

an_owner_lists_the_monitor_of_a_table_that_it_has_closed(_) ->
    ok = tracked_process:on_node(#{}, fun own_monitors/0).

a_process_lists_the_monitor_of_a_table_that_was_closed(_) ->
    ok = tracked_process:on_node(#{}, fun closed_monitors/0).

monitors_are_listed_while_their_tables_close(_) ->
    ok = tracked_process:on_node(#{}, fun listing/0).

a_closed_table_monitors_nobody(_) ->
    ok = tracked_process:on_node(#{}, fun closed/0).

the_death_of_an_earlier_owner_closes_no_table(_) ->
    ok = tracked_process:on_node(#{}, fun owners/0).

a_table_closes_while_thousands_of_its_processes_die(_) ->
    ok = tracked_process:on_node(#{}, fun closing/0).

processes_that_die_while_they_are_registered_are_queued(_) ->
    ok = tracked_process:on_node(#{}, fun dying/0).

a_new_reaper_begins_with_what_is_queued(_) ->
    ok = tracked_process:on_node(#{}, fun reapers/0).

many_deaths_wake_the_reaper_once(_) ->
    ok = tracked_process:on_node(#{}, fun wake_ups/0).

%% In the other node

own_monitors() ->
    [
        begin
            Open(),
            Close(),
            %% A term that refers to what monitors this process, copied and collected later.
            printed(process_info(self(), monitored_by))
        end
     || {Open, Close} <- [zone(), table()],
        _ <- lists:seq(1, 500)
    ],
    ok.

closed_monitors() ->
    {Open, Close} = table(),
    [
        begin
            Open(),
            ok = proctab_nif:register(table, self(), name),
            Close(),
            printed(process_info(self(), monitored_by))
        end
     || _ <- lists:seq(1, 500)
    ],
    ok.

zone() ->
    {fun() -> proctab_nif:zone_open(zone, shared) end, fun() -> proctab_nif:zone_close(zone) end}.

table() ->
    {
        fun() -> proctab_nif:processes_open(table, self()) end,
        fun() -> proctab_nif:processes_close(table) end
    }.

printed(Term) ->
    erlang:yield(),
    erlang:yield(),
    true = is_list(io_lib:format("~p", [Term])),
    erlang:garbage_collect().

%% Another process lists the monitors of tables that close.
listing() ->
    Pids = [idle() || _ <- lists:seq(1, 50)],
    Lister = spawn_link(fun() -> list([self() | Pids]) end),
    {Open, Close} = table(),
    [
        begin
            Open(),
            [ok = proctab_nif:register(table, Pid, name) || Pid <- Pids],
            Close()
        end
     || _ <- lists:seq(1, 3000)
    ],
    unlink(Lister),
    kill([Lister | Pids]),
    ok.

list(Pids) ->
    [{monitored_by, _} = process_info(Pid, monitored_by) || Pid <- Pids],
    erlang:garbage_collect(),
    list(Pids).

%% The background thread removes the monitors, once no handle of the table is left.
closed() ->
    {OpenZone, CloseZone} = zone(),
    OpenZone(),
    eventually(fun() -> is_monitored(self()) end),
    CloseZone(),
    erlang:garbage_collect(),
    eventually(fun() -> not is_monitored(self()) end),
    {Open, Close} = table(),
    Open(),
    Pids = [idle() || _ <- lists:seq(1, 1000)],
    [ok = proctab_nif:register(table, Pid, name) || Pid <- Pids],
    eventually(fun() -> lists:all(fun monitored_worker:is_monitored/1, [self() | Pids]) end),
    Close(),
    eventually(fun() -> not lists:any(fun monitored_worker:is_monitored/1, [self() | Pids]) end),
    kill(Pids),
    ok.

%% The next table gets the resource that has monitored the earlier owner.
owners() ->
    [
        begin
            Owner = idle(),
            ok = proctab_nif:processes_open(first, Owner),
            ok = proctab_nif:processes_close(first),
            eventually(fun() -> not is_monitored(Owner) end),
            ok = proctab_nif:processes_open(second, self()),
            ok = proctab_nif:processes_open(first, self()),
            kill([Owner]),
            Tables = lists:sort(proctab_nif:tables()),
            [{processes, first, Self}, {processes, second, Self}] = Tables,
            Self = self(),
            [ok = proctab_nif:processes_close(Table) || Table <- [first, second]]
        end
     || _ <- lists:seq(1, 100)
    ],
    ok.

%% Deaths that are noticed late are those of processes that the next table does not know.
closing() ->
    {Open, Close} = table(),
    [
        begin
            Open(),
            ok = proctab_nif:open_cleanups(table),
            Pids = [idle() || _ <- lists:seq(1, 2000)],
            [ok = proctab_nif:register(table, Pid, name) || Pid <- Pids],
            [exit(Pid, kill) || Pid <- Pids],
            Close(),
            Open(),
            ok = proctab_nif:open_cleanups(table),
            Next = [idle() || _ <- lists:seq(1, 100)],
            [ok = proctab_nif:register(table, Pid, name) || Pid <- Next],
            kill(Pids),
            0 = length(cleaned_up(table)),
            kill(Next),
            eventually(fun() -> proctab_nif:deaths(table) >= 100 end),
            ?assertEqual(lists:sort(Next), lists:sort(cleaned_up(table))),
            Close()
        end
     || _ <- lists:seq(1, 10)
    ],
    ok.

%% Registered by one process, while another one lets them die.
dying() ->
    ok = proctab_nif:processes_open(table, self()),
    ok = proctab_nif:open_cleanups(table),
    Pids = [idle() || _ <- lists:seq(1, 20000)],
    spawn_link(fun() -> [exit(Pid, kill) || Pid <- Pids] end),
    [ok = proctab_nif:register(table, Pid, name) || Pid <- Pids],
    kill(Pids),
    cleaned_up(table, Pids),
    ?assertEqual(0, proctab_nif:registered_count(table, name)),
    ?assertEqual([], processes(table, 0)),
    ok.

cleaned_up(Table, Left) ->
    case cleaned_up(Table) of
        [] when Left =/= [] ->
            receive
                '$proctab_dead' -> ok
            after 5000 -> error({never_queued, length(Left)})
            end,
            cleaned_up(Table, Left);
        [] ->
            ok;
        Pids ->
            Rest = sets:subtract(sets:from_list(Left), sets:from_list(Pids)),
            %% None twice.
            ?assertEqual(length(Left), sets:size(Rest) + length(Pids)),
            cleaned_up(Table, sets:to_list(Rest))
    end.

processes(_, done) ->
    [];
processes(Table, From) ->
    {Pids, Next} = proctab_nif:processes_page(Table, From),
    Pids ++ processes(Table, Next).

reapers() ->
    ok = proctab_nif:processes_open(table, self()),
    Pids = [idle() || _ <- lists:seq(1, 100)],
    [ok = proctab_nif:register(table, Pid, name) || Pid <- Pids],
    {Before, After} = lists:split(50, Pids),
    %% A reaper dies with cleanups that it has begun.
    Reaper = reaper(fun() ->
        ok = proctab_nif:open_cleanups(table),
        kill(lists:sublist(Before, 10)),
        eventually(fun() -> proctab_nif:deaths(table) =:= 10 end),
        {10, [], false} = proctab_nif:reap(table),
        [_ | _] = proctab_nif:take_cleanups(table, self()),
        _ = proctab_nif:cleaned(table)
    end),
    kill([Reaper]),
    %% Nobody is woken.
    kill(Before),
    eventually(fun() -> proctab_nif:deaths(table) =:= 40 end),
    ok = proctab_nif:open_cleanups(table),
    ?assertEqual(49, length(cleaned_up(table))),
    kill(After),
    receive
        '$proctab_dead' -> ok
    after 5000 -> error(not_woken)
    end,
    eventually(fun() -> proctab_nif:deaths(table) =:= 50 end),
    ?assertEqual(lists:sort(After), lists:sort(cleaned_up(table))),
    ?assertEqual(0, proctab_nif:registered_count(table, name)),
    ok.

%% Starts a process, waits until it has run a fun, and returns its pid.
reaper(Fun) ->
    Test = self(),
    Pid = spawn_link(fun() ->
        Fun(),
        Test ! {self(), ready},
        receive
        after infinity -> ok
        end
    end),
    receive
        {Pid, ready} -> unlink(Pid)
    end,
    Pid.

wake_ups() ->
    ok = proctab_nif:processes_open(table, self()),
    ok = proctab_nif:open_cleanups(table),
    {0, [], false} = proctab_nif:reap(table),
    Pids = [idle() || _ <- lists:seq(1, 20000)],
    [ok = proctab_nif:register(table, Pid, name) || Pid <- Pids],
    kill(Pids),
    eventually(fun() -> proctab_nif:deaths(table) =:= 20000 end),
    ?assertEqual({message_queue_len, 1}, process_info(self(), message_queue_len)),
    receive
        '$proctab_dead' -> ok
    end,
    ?assertEqual(20000, length(cleaned_up(table))),
    ?assertEqual(0, proctab_nif:registered_count(table, name)),
    ok.

%% Makes the cleanups that are due, and returns their processes.
cleaned_up(Table) ->
    case proctab_nif:reap(Table) of
        {0, [], false} ->
            [];
        {0, [], true} ->
            cleaned_up(Table);
        {_, [], _} ->
            Pids = [Pid || {Pid, name, true} <- proctab_nif:take_cleanups(Table, self())],
            [proctab_nif:cleaned(Table) || _ <- Pids],
            Pids ++ cleaned_up(Table)
    end.
