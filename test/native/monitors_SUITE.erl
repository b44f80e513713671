%% Promise: a table monitors its owner, until it is closed. `process_info(Owner, monitored_by)' may
%% be called at any time. The death of an owner closes no table of another one.
%%
%% Each case runs in a node of its own: the VM would end if it destroyed a resource that a monitor
%% refers to.
-module(monitors_SUITE).

-compile([export_all, nowarn_export_all]).

-import(tracked_process, [kill/1, eventually/1]).
-import(monitored_worker, [idle/0]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        an_owner_lists_the_monitor_of_a_table_that_it_has_closed,
        monitors_are_listed_while_their_tables_close,
        a_closed_table_monitors_nobody,
        the_death_of_an_earlier_owner_closes_no_table
    ].

an_owner_lists_the_monitor_of_a_table_that_it_has_closed(_) ->
    ok = tracked_process:on_node(#{}, fun own_monitors/0).

monitors_are_listed_while_their_tables_close(_) ->
    ok = tracked_process:on_node(#{}, fun listing/0).

a_closed_table_monitors_nobody(_) ->
    ok = tracked_process:on_node(#{}, fun closed/0).

the_death_of_an_earlier_owner_closes_no_table(_) ->
    ok = tracked_process:on_node(#{}, fun owners/0).

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

%% Another process lists the monitors of owners of tables that close.
listing() ->
    Owners = [idle() || _ <- lists:seq(1, 50)],
    Lister = spawn_link(fun() -> list(Owners) end),
    [
        begin
            ok = proctab_nif:processes_open(table, Owner),
            ok = proctab_nif:processes_close(table)
        end
     || _ <- lists:seq(1, 500),
        Owner <- Owners
    ],
    unlink(Lister),
    kill([Lister | Owners]),
    ok.

list(Pids) ->
    [{monitored_by, _} = process_info(Pid, monitored_by) || Pid <- Pids],
    erlang:garbage_collect(),
    list(Pids).

%% The background thread removes the monitor, once no handle of the table is left.
closed() ->
    [
        begin
            Open(),
            eventually(fun() -> is_monitored(self()) end),
            Close(),
            erlang:garbage_collect(),
            eventually(fun() -> not is_monitored(self()) end)
        end
     || {Open, Close} <- [zone(), table()]
    ],
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

is_monitored(Pid) ->
    {monitored_by, By} = process_info(Pid, monitored_by),
    lists:any(fun is_reference/1, By).
