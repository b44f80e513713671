%% Operations on whole zones: `info`, `list`, starts of children, many keys on one name, and
%% thousands of children that die at once.
-module(bench_zones).

-export([rows/0, whole/3, starts/2, many_keys/2, deaths/3, death_time/2]).

-define(ROUNDS, 7).
-define(TRACKERS, [proctab, ets_design]).

rows() ->
    lists:append([
        whole(8000, [proctab, ets_design, ets_ordered, registry], ?ROUNDS),
        starts(2000, ?ROUNDS),
        many_keys(10000, ?ROUNDS),
        deaths(8000, ets_design, 1),
        deaths(8000, proctab, ?ROUNDS),
        registered_deaths(8000, ?ROUNDS)
    ]).

%% The ETS design reads the whole table for each name, so its `list` is measured once.
whole(Count, Sides, Rounds) ->
    Names = bench_data:names(Count),
    Zones = [bench_sides:open(Side, whole, Names, bench_data:attributes()) || Side <- Sides],
    HasAll = fun(Rows) ->
        length(Rows) =:= Count andalso lists:all(fun({_, Row}) -> length(Row) =:= 5 end, Rows)
    end,
    Infos = rounds:alternate(Rounds, [
        {
            Side,
            rounds:timed(bench_sides:operation(Zone, info), bench_sides:right(info), [
                some_names(Side, Names)
            ])
        }
     || #{side := Side} = Zone <- Zones
    ]),
    {Slow, Fast} = lists:partition(fun(#{side := Side}) -> Side =:= ets_design end, Zones),
    List = fun(Zone) -> bench_sides:operation(Zone, list) end,
    Lists = maps:merge(
        rounds:alternate(1, [
            {Side, rounds:once(List(Zone), HasAll)}
         || #{side := Side} = Zone <- Slow
        ]),
        rounds:alternate(Rounds, [
            {Side, rounds:timed(List(Zone), HasAll, [[all]])}
         || #{side := Side} = Zone <- Fast
        ])
    ),
    lists:foreach(fun bench_sides:close/1, Zones),
    of_sides("info of one name", among(Count), Infos) ++ of_sides("list", among(Count), Lists).

some_names(ets_design, Names) -> lists:sublist(Names, 5);
some_names(_, Names) -> Names.

among(Count) ->
    lists:concat([Count, " names"]).

of_sides(Operation, Mode, FiguresOfSides) ->
    [
        bench_data:row(Side, Operation, Mode, "ns", Figures)
     || {Side, Figures} <- maps:to_list(FiguresOfSides)
    ].

%% Each round has a zone of its own.
starts(Count, Rounds) ->
    Names = bench_data:names(Count),
    Time = fun(Side) ->
        {Time, Opened} = bench_data:time(fun() -> bench_sides:open(Side, starts, Names, []) end),
        bench_sides:close(Opened),
        Time / Count
    end,
    of_sides(
        "start of a child, until find_or_open returns",
        "one process",
        alternate(Rounds, ?TRACKERS, Time)
    ).

many_keys(Count, Rounds) ->
    Time = fun(Side) ->
        Opened = bench_sides:open(Side, keys, [<<"name">>], []),
        Set = setter(Opened),
        Time = (rounds:times(Set, lists:seq(1, Count)))(),
        bench_sides:close(Opened),
        Time
    end,
    of_sides(
        "setattr of 10,000 keys, one after the other",
        "one name",
        alternate(Rounds, ?TRACKERS, Time)
    ).

setter(#{side := proctab, zone := Zone}) ->
    fun(Key) -> ok = gen_tracker:setattr(Zone, <<"name">>, Key, running) end;
setter(#{side := ets_design, zone := Zone}) ->
    fun(Key) -> ok = ets_tracker:setattr(Zone, <<"name">>, Key, running) end.

alternate(Rounds, Sides, Time) ->
    rounds:alternate(Rounds, [{Side, fun() -> Time(Side) end} || Side <- Sides]).

%% Returns the time until nothing is left of the children.
deaths(Count, Side, Rounds) ->
    Names = bench_data:names(Count),
    Time = fun(_) ->
        #{pids := Pids} = Opened = bench_sides:open(Side, deaths, Names, bench_data:attributes()),
        Time = death_time(Opened, lists:zip(Names, lists:reverse(Pids))),
        bench_sides:close(Opened),
        Time
    end,
    of_sides("all die at once, until all is clean", among(Count), alternate(Rounds, [Side], Time)).

%% Like `death_time/1`, for some of the children of a zone.
death_time(Opened, Children) ->
    Value = bench_sides:operation(Opened, {getattr, integer}),
    Find = bench_sides:operation(Opened, find),
    IsGone = fun(Name) -> Value(Name) =:= undefined andalso Find(Name) =:= undefined end,
    {Time, ok} = bench_data:time(fun() ->
        kill(Children),
        lists:foreach(fun({Name, _}) -> bench_data:until(fun() -> IsGone(Name) end) end, Children)
    end),
    Time.

%% The other sides have processes that registered themselves: in Registry with the same attributes,
%% in pg without.
registered_deaths(Count, Rounds) ->
    Time = fun(Side) ->
        Opened = bench_sides:open(Side, registered_deaths, [], []),
        Children = [{Name, registered(Opened, Name)} || Name <- bench_data:names(Count)],
        lists:foreach(
            fun({_, Pid}) ->
                receive
                    {registered, Pid} -> ok
                end
            end,
            Children
        ),
        {Time, ok} = bench_data:time(fun() ->
            kill(Children),
            bench_data:until(fun() -> is_empty(Opened) end)
        end),
        bench_sides:close(Opened),
        Time
    end,
    of_sides(
        "all die at once, until all is clean", among(Count), alternate(Rounds, [registry, pg], Time)
    ).

registered(Opened, Name) ->
    Starter = self(),
    spawn(fun() ->
        bench_sides:add(Opened, Name, bench_data:attributes()),
        Starter ! {registered, self()},
        receive
        after infinity -> ok
        end
    end).

is_empty(#{side := registry, registry := Registry}) -> 'Elixir.Registry':count(Registry) =:= 0;
is_empty(#{side := pg, scope := Scope}) -> pg:which_groups(Scope) =:= [].

kill(Children) ->
    lists:foreach(fun({_, Pid}) -> exit(Pid, kill) end, Children).
