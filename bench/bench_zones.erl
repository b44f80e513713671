%% Operations on whole zones: `info`, `list`, many keys on one name, and thousands of children that
%% die at once, without and with reports in the log.
-module(bench_zones).

-export([groups/0, rows/2, whole/3, many_keys/3, deaths/3, death_time/2]).

-define(NAMES, 8000).
-define(DEATHS, "processes die at once, until all is clean").

%% The ETS design takes up to a minute.
groups() ->
    [
        #{
            group => whole,
            sides => [proctab, ets_design, ets_ordered, ets_row, registry],
            vms => 5,
            once => [ets_design]
        },
        #{group => keys, sides => [proctab, ets_design], vms => 3},
        #{
            group => deaths,
            sides => [proctab, ets_design, supervisor, registry, pg],
            vms => 5,
            once => [ets_design]
        },
        #{group => reported_deaths, sides => [proctab, supervisor, dynamic], vms => 5}
    ].

rows(whole, Sides) ->
    whole(?NAMES, Sides, bench_data:rounds());
rows(keys, Sides) ->
    many_keys(10000, Sides, bench_data:rounds());
rows(deaths, Sides) ->
    lists:append([deaths(?NAMES, Side, death_rounds(Side)) || Side <- Sides]);
rows(reported_deaths, Sides) ->
    lists:append([reported_deaths(Side) || Side <- Sides]).

death_rounds(ets_design) -> 1;
death_rounds(_) -> bench_data:rounds().

%% The ETS design reads the whole table for each name, so its `list` is measured once.
whole(Most, Sides, Rounds) ->
    Count = bench_data:scaled(Most),
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
    of_sides("info of one name", among(Most), Infos) ++ of_sides("list", among(Most), Lists).

some_names(ets_design, Names) -> lists:sublist(Names, 5);
some_names(_, Names) -> Names.

among(Count) ->
    lists:concat([Count, " names"]).

of_sides(Operation, Mode, FiguresOfSides) ->
    [
        bench_data:row(Side, Operation, Mode, "ns", Figures)
     || {Side, Figures} <- maps:to_list(FiguresOfSides)
    ].

many_keys(Count, Sides, Rounds) ->
    Time = fun(Side) ->
        Opened = bench_sides:open(Side, keys, [<<"name">>], []),
        Set = setter(Opened),
        Time = (rounds:times(Set, [lists:seq(1, bench_data:scaled(Count))]))(),
        bench_sides:close(Opened),
        Time
    end,
    of_sides(
        "setattr of 10,000 keys, one after the other",
        "one name",
        alternate(Rounds, Sides, Time)
    ).

setter(#{side := proctab, zone := Zone}) ->
    fun(Key) -> ok = gen_tracker:setattr(Zone, <<"name">>, Key, running) end;
setter(#{side := ets_design, zone := Zone}) ->
    fun(Key) -> ok = ets_tracker:setattr(Zone, <<"name">>, Key, running) end.

alternate(Rounds, Sides, Time) ->
    rounds:alternate(Rounds, [{Side, fun() -> Time(Side) end} || Side <- Sides]).

%% Returns the time until nothing is left of the children. Those of Registry and pg are processes
%% that registered themselves, in Registry with the same attributes, in pg without.
deaths(Most, Side, Rounds) ->
    Names = bench_data:names(bench_data:scaled(Most)),
    Time = fun(_) ->
        Opened = bench_sides:open(Side, deaths, [], []),
        {Filled, Pids} = filled(Opened, Names),
        Time = death_time(Filled, lists:zip(Names, Pids)),
        bench_sides:close(Filled),
        Time
    end,
    of_sides(?DEATHS, among(Most), alternate(Rounds, [Side], Time)).

filled(#{pids := _} = Opened, Names) ->
    Add = fun(Name, Into) -> bench_sides:add(Into, Name, bench_data:attributes()) end,
    #{pids := Pids} = Filled = lists:foldl(Add, Opened, Names),
    {Filled, lists:reverse(Pids)};
filled(Opened, Names) ->
    Pids = [registered(Opened, Name) || Name <- Names],
    _ = [
        receive
            {registered, Pid} -> ok
        end
     || Pid <- Pids
    ],
    {Opened, Pids}.

registered(Opened, Name) ->
    Starter = self(),
    spawn(fun() ->
        bench_sides:add(Opened, Name, bench_data:attributes()),
        Starter ! {registered, self()},
        bench_data:idle()
    end).

%% The log is a file. Its handler drops reports when there are too many, so the number of those
%% that are written is not compared; each side makes a report for each death.
reported_deaths(Side) ->
    File = filename:join(filename:dirname(code:which(?MODULE)), "deaths.log"),
    _ = logger:remove_handler(default),
    ok = logger:add_handler(default, logger_std_h, #{config => #{file => File}}),
    ok = logger:set_primary_config(level, notice),
    Rows = [
        Row#{operation := ?DEATHS ++ ", with reports in the log"}
     || Row <- deaths(?NAMES, Side, bench_data:rounds())
    ],
    ok = logger:set_primary_config(level, none),
    ok = logger_std_h:filesync(default),
    true = filelib:file_size(File) > 0,
    ok = logger:remove_handler(default),
    ok = file:delete(File),
    Rows.

%% Kills children. Where they have attributes, a child is clean when its name and an attribute are
%% gone.
death_time(#{side := Side} = Opened, Children) when Side =/= proctab, Side =/= ets_design ->
    {Time, ok} = bench_data:time(fun() ->
        kill(Children),
        bench_data:until(fun() -> bench_sides:is_empty(Opened) end)
    end),
    Time;
death_time(Opened, Children) ->
    Value = bench_sides:operation(Opened, {getattr, integer}),
    Find = bench_sides:operation(Opened, find),
    IsGone = fun(Name) -> Value(Name) =:= undefined andalso Find(Name) =:= undefined end,
    {Time, ok} = bench_data:time(fun() ->
        kill(Children),
        lists:foreach(fun({Name, _}) -> bench_data:until(fun() -> IsGone(Name) end) end, Children)
    end),
    Time.

kill(Children) ->
    lists:foreach(fun({_, Pid}) -> exit(Pid, kill) end, Children).
