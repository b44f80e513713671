%% Look-ups by the value of an attribute, and searches. In Registry the keys are duplicate, in pg
%% they are groups: there the value is the key itself.
-module(bench_indexes).

-export([groups/0, rows/2]).

-define(NAMES, 100000).
-define(SIDES, [proctab, registry, pg]).
-define(SMALL, 1500).
-define(LARGE, 150000).
-define(KEY, room).
-define(VALUE, lobby).
-define(SECONDS, 5).
-define(JOINING, 1000).

groups() ->
    [
        #{group => lookups, sides => ?SIDES, vms => 5},
        #{group => searches, sides => [proctab, ets_row], vms => 5},
        #{group => joins, sides => ?SIDES, vms => 3, processor => false, shared => false}
    ].

rows(lookups, Sides) -> lookups(Sides);
rows(searches, Sides) -> searches(Sides);
rows(joins, Sides) -> lists:append([joins(Side, Size) || Side <- Sides, Size <- [?SMALL, ?LARGE]]).

open(Side, Purpose) ->
    open_named(Side, list_to_atom(lists:concat([Purpose, "_", Side]))).

open_named(proctab, Name) ->
    {ok, Owner} = gen_tracker:start_link(Name, #{index => [?KEY]}),
    #{side => proctab, zone => Name, owner => Owner, pids => []};
open_named(registry, Name) ->
    {ok, Owner} = 'Elixir.Registry':start_link([
        {keys, duplicate},
        {name, Name},
        {partitions, erlang:system_info(schedulers_online)}
    ]),
    #{side => registry, registry => Name, owner => Owner};
open_named(Side, Name) ->
    bench_sides:open(Side, Name, [], []).

%% Each child has a value of its own. `find` is measured in the same rounds.
lookups(Sides) ->
    Count = bench_data:scaled(?NAMES),
    Items = [{rand:uniform(Count)} || _ <- lists:seq(1, 10000)],
    Numbers = [{bench_data:name(N), N} || {N} <- Items],
    Opened = [filled(open(Side, lookups), Count) || Side <- Sides],
    Works = [
        {{Side, Label}, rounds:timed(Fun, fun(Result) -> Result =/= [] end, [Numbers])}
     || #{side := Side} = One <- [#{side => loop} | Opened], {Label, Fun} <- lookup(One)
    ],
    #{{loop, ""} := Loop} = Figures = rounds:alternate(bench_data:rounds(), Works),
    lists:foreach(fun bench_sides:close/1, Opened),
    [
        bench_data:row(Side, Label, "100,000 names", "ns", rounds:minus(Rounds, Loop))
     || {{Side, Label}, Rounds} <- maps:to_list(Figures), Side =/= loop
    ].

filled(Opened, Count) ->
    lists:foreach(fun(N) -> fill(Opened, N) end, lists:seq(1, Count)),
    Opened.

fill(#{side := proctab} = Opened, N) ->
    bench_sides:fill_one(Opened, N, [{?KEY, N}]);
fill(Opened, N) ->
    bench_sides:add(Opened, N, []).

lookup(#{side := loop}) ->
    [{"", fun({_, N}) -> N end}];
lookup(#{side := proctab, zone := Zone}) ->
    [
        {"find", fun({Name, _}) -> {ok, _} = gen_tracker:find(Zone, Name) end},
        {
            "look-up of the one process with a value",
            fun({_, N}) -> [{_, _}] = gen_tracker:lookup(Zone, ?KEY, N) end
        }
    ];
lookup(#{side := registry, registry := Registry}) ->
    [
        {
            "look-up of the one process with a value",
            fun({_, N}) -> [{_, _}] = 'Elixir.Registry':lookup(Registry, N) end
        }
    ];
lookup(#{side := pg, scope := Scope}) ->
    [
        {
            "look-up of the one process with a value",
            fun({_, N}) -> [_] = pg:get_members(Scope, N) end
        }
    ].

%% Rows have 4 attributes. The guards let 100 rows, or half of them, pass.
searches(Sides) ->
    Count = bench_data:scaled(?NAMES),
    Opened = [bench_sides:open(Side, searches, [], []) || Side <- Sides],
    [_ | Others] = bench_data:attributes(),
    _ = [
        bench_sides:fill_one(One, N, [{integer, N} | Others])
     || One <- Opened, N <- lists:seq(1, Count)
    ],
    Rows = [
        search(Opened, Label, Passing)
     || {Label, Passing} <- [{"100 rows", 100}, {"half of the rows", Count div 2}]
    ],
    lists:foreach(fun bench_sides:close/1, Opened),
    lists:append(Rows).

search(Opened, Label, Passing) ->
    IsRight = fun(Count) -> Count =:= Passing end,
    Works = lists:append([
        [
            {
                {Side, "select of names with a guard on an attribute, of "},
                rounds:once(fun(_) -> length(selected(One, Passing)) end, IsRight)
            },
            {
                {Side, "select_count with the same guard, of "},
                rounds:once(fun(_) -> counted(One, Passing) end, IsRight)
            }
        ]
     || #{side := Side} = One <- Opened
    ]),
    Figures = rounds:alternate(bench_data:rounds(), Works),
    [
        bench_data:row(Side, Operation ++ Label, "100,000 names", "ns", Rounds)
     || {{Side, Operation}, Rounds} <- maps:to_list(Figures)
    ].

selected(#{side := proctab, zone := Zone}, Passing) ->
    gen_tracker:select(Zone, spec({'$1', '_', #{integer => '$2'}}, Passing, '$1'));
selected(#{rows := Table}, Passing) ->
    ets:select(Table, spec({'$1', '_', #{integer => '$2'}, '_'}, Passing, '$1')).

counted(#{side := proctab, zone := Zone}, Passing) ->
    gen_tracker:select_count(Zone, spec({'_', '_', #{integer => '$2'}}, Passing, true));
counted(#{rows := Table}, Passing) ->
    ets:select_count(Table, spec({'_', '_', #{integer => '$2'}, '_'}, Passing, true)).

spec(Row, Passing, Result) ->
    [{Row, [{'=<', '$2', Passing}], [Result]}].

%% Many processes have one value. Three others are measured call by call, at the same time: one
%% takes and gives up the value 1,000 times a second, one reads a page 1,000 times a second, or as
%% often as it can, and one sends to all of them every second. Only proctab reads pages, by the call
%% that `publish/4` makes for each page; the others read all members.
joins(Side, Most) ->
    Size = bench_data:scaled(Most),
    Opened = members(open(Side, lists:concat([joins_, Most])), Size),
    Mode = lists:concat([Most, " processes with one value"]),
    All = bench_data:time(fun() -> Size = length(all(Opened)) end),
    Duration = 1000 * bench_data:scaled(10 * ?SECONDS) div 10,
    End = erlang:monotonic_time(millisecond) + Duration,
    {Timed, Slices} = bench_data:slices(fun() ->
        at_once([
            fun() -> paced(End, 1, fun(N) -> join_and_leave(Opened, N) end) end,
            fun() -> paced(End, 1, fun(_) -> [{page, page(Opened)}] end) end,
            fun() -> paced(End, 1000, fun(_) -> [{publish, publish(Opened, Size)}] end) end
        ])
    end),
    Figures = [{all, element(1, All)}, {slice, lists:max([0 | Slices])} | Timed],
    %% Nothing is closed: it takes Registry and pg minutes to clean up after all members.
    [
        bench_data:row(Side, Label, Mode, "ns", [of_calls(Of, Times)])
     || {What, Label, Of} <- [
            {join, "a process takes the value", median},
            {join, "a process takes the value, 99 of 100", most},
            {leave, "a process gives up the value", median},
            {leave, "a process gives up the value, 99 of 100", most},
            {page, "look-up while processes take it: a page (Registry and pg: all)", median},
            {publish, "send to all with a value, while processes take it", median},
            {all, "look-up of all with a value", median},
            {slice, "longest time slice of 1 ms and more meanwhile", median}
        ],
        Times <- [[Time || {W, Time} <- Figures, W =:= What]]
    ] ++
        [
            bench_data:row(Side, Label, Mode, "ns", [Time])
         || {Label, Time} <- own(Side, Duration, Timed)
        ].

%% How often the value was taken, and the control of the slices. They say nothing of other sides.
own(proctab, Duration, Timed) ->
    Joins = length([Time || {join, Time} <- Timed]),
    {ok, Slices} = bench_data:slices(fun() -> bench_data:compute(Duration) end),
    [
        {"interval at which a process takes the value", 1000000 * Duration / Joins},
        {"longest time slice of a process that only computes", lists:max([0 | Slices])}
    ];
own(_, _, _) ->
    [].

of_calls(median, Times) -> rounds:median(Times);
of_calls(most, Times) -> lists:nth(max(1, length(Times) * 99 div 100), lists:sort(Times)).

members(#{side := proctab, zone := Zone} = Opened, Size) ->
    %% The last ones take the value later.
    Filled = lists:foldl(
        fun(N, Into) -> bench_sides:add(Into, N, []) end, Opened, lists:seq(1, Size + ?JOINING)
    ),
    _ = [ok = gen_tracker:setattr(Zone, N, ?KEY, ?VALUE) || N <- lists:seq(1, Size)],
    Filled#{size => Size};
members(#{side := pg, scope := Scope} = Opened, Size) ->
    %% One by one, they would take minutes: pg copies the list of all members for each.
    ok = pg:join(Scope, ?VALUE, [spawn(fun bench_data:idle/0) || _ <- lists:seq(1, Size)]),
    Opened;
members(Opened, Size) ->
    Parent = self(),
    Pids = [
        spawn(fun() ->
            _ = bench_sides:add(Opened, ?VALUE, []),
            Parent ! {joined, self()},
            bench_data:idle()
        end)
     || _ <- lists:seq(1, Size)
    ],
    _ = [
        receive
            {joined, Pid} -> ok
        end
     || Pid <- Pids
    ],
    Opened.

%% Runs all funs at once, each in a process, and returns what they return.
at_once(Funs) ->
    Processes = [spawn_monitor(fun() -> exit({done, Fun()}) end) || Fun <- Funs],
    lists:append([
        receive
            {'DOWN', Monitor, process, Pid, {done, Times}} -> Times;
            {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
        end
     || {Pid, Monitor} <- Processes
    ]).

%% Calls a fun with 0, 1, 2, ... once for every so many milliseconds, and returns what all calls
%% return. Calls that are late are made at once.
paced(End, Interval, Fun) ->
    paced(erlang:monotonic_time(millisecond), End, Interval, Fun, 0).

paced(At, End, Interval, Fun, N) ->
    Times = Fun(N),
    Now = erlang:monotonic_time(millisecond),
    case max(At + Interval, Now) > End of
        true ->
            Times;
        false ->
            timer:sleep(max(0, At + Interval - Now)),
            Times ++ paced(At + Interval, End, Interval, Fun, N + 1)
    end.

join_and_leave(Opened, N) ->
    {Join, _} = bench_data:time(fun() -> join(Opened, N) end),
    {Leave, _} = bench_data:time(fun() -> leave(Opened, N) end),
    [{join, Join}, {leave, Leave}].

join(#{side := proctab, zone := Zone, size := Size}, N) ->
    ok = gen_tracker:setattr(Zone, Size + 1 + N rem ?JOINING, ?KEY, ?VALUE);
join(Opened, _) ->
    bench_sides:add(Opened, ?VALUE, []).

leave(#{side := proctab, zone := Zone, size := Size}, N) ->
    ok = gen_tracker:delattr(Zone, Size + 1 + N rem ?JOINING, ?KEY);
leave(#{side := registry, registry := Registry}, _) ->
    ok = 'Elixir.Registry':unregister(Registry, ?VALUE);
leave(#{side := pg, scope := Scope}, _) ->
    ok = pg:leave(Scope, ?VALUE, self()).

page(Opened) ->
    {Time, _} = bench_data:time(fun() -> one_page(Opened) end),
    Time.

one_page(#{side := proctab, zone := Zone}) ->
    {[_ | _], _} = proctab_nif:lookup(Zone, ?KEY, ?VALUE, 0, children, []);
one_page(Opened) ->
    [_ | _] = all(Opened).

all(#{side := proctab, zone := Zone}) -> gen_tracker:lookup(Zone, ?KEY, ?VALUE);
all(#{side := registry, registry := Registry}) -> 'Elixir.Registry':lookup(Registry, ?VALUE);
all(#{side := pg, scope := Scope}) -> pg:get_members(Scope, ?VALUE).

publish(Opened, Size) ->
    {Time, ok} = bench_data:time(fun() -> send(Opened, Size) end),
    Time.

send(#{side := proctab, zone := Zone}, Size) ->
    true = gen_tracker:publish(Zone, ?KEY, ?VALUE, message) >= Size,
    ok;
send(#{side := registry, registry := Registry}, _) ->
    'Elixir.Registry':dispatch(Registry, ?VALUE, fun(Entries) ->
        lists:foreach(fun({Pid, _}) -> Pid ! message end, Entries)
    end);
send(#{side := pg, scope := Scope}, _) ->
    lists:foreach(fun(Pid) -> Pid ! message end, pg:get_members(Scope, ?VALUE)).
