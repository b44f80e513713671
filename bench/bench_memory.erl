%% Memory of a name and of an attribute, by the resident size of the VM and by the table's own
%% figure, and of an empty zone. Tables are filled without processes, so that nothing else grows. No
%% table is closed before the last one is filled, so that no memory is reused.
-module(bench_memory).

-export([groups/0, rows/2, names/2]).

-define(NAMES, 100000).
%% So many that their memory is much more than what the VM's allocators reserve.
-define(ZONES, 1000).

groups() ->
    [
        #{
            group => names,
            sides => [proctab, ets_design, ets_set, ets_row],
            vms => 3,
            processor => false,
            shared => false
        },
        #{
            group => zones,
            sides => [proctab, ets_design, ets_set, registry],
            vms => 3,
            processor => false,
            shared => false
        }
    ].

rows(names, Sides) -> names(bench_data:scaled(?NAMES), Sides);
rows(zones, Sides) -> [empty(Side) || Side <- Sides].

%% An empty zone, table or registry, with its processes.
empty(Side) ->
    %% The first one loads code.
    First = bench_sides:open(Side, empty_0, [], []),
    Before = bench_data:resident(),
    Opened = [
        bench_sides:open(Side, list_to_atom(lists:concat([empty_, N])), [], [])
     || N <- lists:seq(1, ?ZONES)
    ],
    Resident = bench_data:resident() - Before,
    lists:foreach(fun bench_sides:close/1, [First | Opened]),
    bench_data:row(Side, "an empty zone", "resident", "bytes", [Resident / ?ZONES]).

names(Count, Sides) ->
    %% The number is part of the zone's name.
    Fillings = [
        {1, "a name without attributes", []},
        {
            2,
            "a name with 4 attributes: integer, atom, 20-byte binary, 4-element tuple",
            bench_data:attributes()
        },
        {3, "a name with 4 counters", [{Key, 0} || Key <- [packets, frames, errors, restarts]]},
        {
            4,
            "a name with 8 attributes, each kind of value twice",
            bench_data:attributes() ++
                [{{Key, 2}, Value} || {Key, Value} <- bench_data:attributes()]
        }
    ],
    {Rows, Opened} = lists:unzip([
        filled(Side, Number, Label, Attributes, Count)
     || {Number, Label, Attributes} <- Fillings, Side <- Sides
    ]),
    lists:foreach(fun bench_sides:close/1, Opened),
    lists:append(Rows).

filled(Side, Number, Label, Attributes, Count) ->
    Opened = bench_sides:open(Side, list_to_atom(lists:concat([memory_, Number])), [], []),
    Before = bench_data:resident(),
    {Pid, Monitor} = spawn_monitor(fun() -> bench_sides:fill(Opened, Count, Attributes) end),
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok
    end,
    Resident = bench_data:resident() - Before,
    Rows = [
        bench_data:row(Side, Label, "resident", "bytes", [Resident / Count]),
        bench_data:row(Side, Label, "as the table says", "bytes", [
            bench_sides:bytes(Opened) / Count
        ])
    ],
    {Rows, Opened}.
