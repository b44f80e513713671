%% The quick benchmark, one screen: proctab beside the ETS design (`ets_tracker`) on the same data in one run, and
%% `erlang:whereis/1` and an empty loop as limits. How it measures is in `rounds`.
%%
%% Times of single operations are without the loop around them, which is measured the same way and subtracted. Nothing
%% here passes or fails, but a wrong answer ends it.
-module(quick).

-export([main/0, start_child/0]).
-export([columns/1, line/2, time/1, until/1]).

-define(ROUNDS, 7).
-define(NAMES, 10000).
-define(MANY, 8000).
-define(MORTALS, 2000).
-define(COUNTED, 100000).

%% What is compared, with the module's name in the call, as programs call it.
-define(OPERATIONS(Module, Zone), #{
    find => fun(Name) -> Module:find(Zone, Name) end,
    integer => fun(Name) -> Module:getattr(Zone, Name, integer) end,
    atom => fun(Name) -> Module:getattr(Zone, Name, atom) end,
    pid => fun(Name) -> Module:getattr(Zone, Name, pid) end,
    binary => fun(Name) -> Module:getattr(Zone, Name, binary) end,
    tuple => fun(Name) -> Module:getattr(Zone, Name, tuple) end,
    increment => fun(Name) -> Module:increment(Zone, Name, integer, 1) end,
    set_integer => fun(Name) -> Module:setattr(Zone, Name, integer, 1000) end,
    set_binary => fun(Name) -> Module:setattr(Zone, Name, binary, <<"another twenty bytes">>) end,
    info => fun(Name) -> Module:info(Zone, Name) end,
    list => fun(_) -> Module:list(Zone) end
}).

main() ->
    head(),
    Counters = both(fun(Module, Side) -> counter_memory(Module, zone(counters, Side)) end),
    foreach_side(fun(_Side, {Zone, _Bytes}) -> stop_zone(Zone) end, Counters),
    Names = shuffled(?NAMES),
    Zones = both(fun(Module, Side) -> open_zone(Module, zone(names, Side), Names) end),
    foreach_side(fun(Side, _) -> set_attributes(module(Side), zone(names, Side), Names, [{pid, self()}]) end, Zones),
    one_process(Names),
    two_processes(Names),
    foreach_side(fun(_Side, Zone) -> stop_zone(Zone) end, Zones),
    columns("whole zones"),
    whole_zones(shuffled(?MANY)),
    starts_and_deaths(shuffled(?MORTALS)),
    Memory = maps:map(fun(_Side, {_Zone, Bytes}) -> Bytes end, Counters),
    line("resident memory of a name with 4 counters, 100,000 names", Memory),
    quick_processes:main(),
    halt(0).

head() ->
    io:format("~ts, ~b schedulers; OTP ~s, erts ~s (~s); commit ~s~n", [
        processor(), erlang:system_info(schedulers_online), erlang:system_info(otp_release),
        erlang:system_info(version), erlang:system_info(emu_flavor), os:getenv("COMMIT", "unknown")
    ]),
    io:format("medians of ~b rounds that alternate between the sides, +- half their range; ~b names with 5 attributes each~n", [
        ?ROUNDS, ?NAMES
    ]).

processor() ->
    {ok, Text} = file:read_file("/proc/cpuinfo"),
    case re:run(Text, "model name\\s*: (.*)", [{capture, [1], binary}]) of
        {match, [Name]} -> Name;
        nomatch -> "unknown processor"
    end.

one_process(Names) ->
    #{loop := {Loop, _}, whereis := {Whereis, _}} = rounds:alternate(?ROUNDS, [
        {loop, rounds:timed(fun itself/1, fun is_binary/1, [Names])},
        {whereis, rounds:timed(fun(_Name) -> erlang:whereis(init) end, fun is_pid/1, [Names])}
    ]),
    io:format("an empty loop: ~.1f ns, subtracted below; erlang:whereis/1 of an atom: ~.1f ns~n", [Loop, Whereis - Loop]),
    columns("one process"),
    lists:foreach(
        fun({What, Label, IsRight}) ->
            Works = both(fun(_Module, Side) -> rounds:timed(operation(What, Side), IsRight, [Names]) end),
            line(Label, maps:map(fun(_Side, Time) -> without(Loop, Time) end, alternate(?ROUNDS, Works)))
        end,
        operations()
    ).

%% Two processes, each with half of the names, and both with one same name: the time over the calls of both, and how much
%% shorter that is than what one process takes with all of them, measured in the same rounds.
two_processes(Names) ->
    io:format("~n~-28s~-42s~s~n", ["two processes (speed-up)", "different names", "one same name"]),
    io:format("~-28s~-21s~-21s~-21s~s~n", ["", "ETS design", "proctab", "ETS design", "proctab"]),
    {Half, Rest} = lists:split(length(Names) div 2, Names),
    Same = lists:duplicate(length(Half), hd(Names)),
    Modes = [
        with_loops(#{one => [Names], two => [Half, Rest]}),
        with_loops(#{one => [Same], two => [Same, Same]})
    ],
    io:format("~-28s~-42s~s~n", ["the empty loop, the limit" | [loop_speed_up(Loops) || {_, Loops} <- Modes]]),
    lists:foreach(
        fun({What, Label, IsRight}) ->
            io:format("~-28s~s~n", [Label, [speed_up(What, IsRight, Mode, Loops) || {Mode, Loops} <- Modes]])
        end,
        [Operation || {What, _, _} = Operation <- operations(), not lists:member(What, [atom, pid, binary, tuple])]
    ).

with_loops(Mode) ->
    Timed = maps:map(fun(_Count, Lists) -> rounds:timed(fun itself/1, fun is_binary/1, Lists) end, Mode),
    {Mode, maps:map(fun(_Count, {Loop, _}) -> Loop end, alternate(?ROUNDS, Timed))}.

%% What this machine gives to two processes just now: less than 2 when it is busy with something else.
loop_speed_up(#{one := One, two := Two}) ->
    io_lib:format("~.1f ns (~.2f)", [Two, One / Two]).

itself(Name) ->
    Name.

speed_up(What, IsRight, Mode, Loops) ->
    Works = maps:from_list([
        {{Side, Count}, rounds:timed(operation(What, Side), IsRight, Lists)}
     || Side <- sides(), {Count, Lists} <- maps:to_list(Mode)
    ]),
    Times = maps:map(fun({_Side, Count}, Time) -> without(maps:get(Count, Loops), Time) end, alternate(?ROUNDS, Works)),
    [
        io_lib:format("~-21s", [io_lib:format("~s (~.2f)", [cell(Two), median(One) / median(Two)])])
     || Side <- sides(), #{{Side, one} := One, {Side, two} := Two} <- [Times]
    ].

operations() ->
    IsPidFound = fun({ok, Value}) -> is_pid(Value) end,
    IsOk = fun(Answer) -> Answer =:= ok end,
    [
        {find, "find", IsPidFound},
        {integer, "getattr of an integer", fun({ok, Value}) -> is_integer(Value) end},
        {atom, "getattr of an atom", fun(Answer) -> Answer =:= {ok, running} end},
        {pid, "getattr of a pid", IsPidFound},
        {binary, "getattr of a 20-byte binary", fun({ok, Value}) -> byte_size(Value) =:= 20 end},
        {tuple, "getattr of a 4-element tuple", fun(Answer) -> Answer =:= {ok, tuple()} end},
        {increment, "increment", fun is_integer/1},
        {set_integer, "setattr of an integer", IsOk},
        {set_binary, "setattr of a 20-byte binary", IsOk}
    ].

operation(What, Side) ->
    maps:get(What, operations(Side, zone(names, Side))).

without(Loop, {Time, Spread}) ->
    {Time - Loop, Spread}.

operations(ets, Zone) -> ?OPERATIONS(ets_tracker, Zone);
operations(proctab, Zone) -> ?OPERATIONS(gen_tracker, Zone).

%% `info` of one name and `list`. The ETS design looks at the whole table for each name, so that its `list` is taken once.
whole_zones(Names) ->
    Zones = both(fun(Module, Side) -> open_zone(Module, zone(many, Side), Names) end),
    foreach_side(fun(Side, _) -> set_attributes(module(Side), zone(many, Side), Names, []) end, Zones),
    Call = fun(Side, What) -> maps:get(What, operations(Side, zone(many, Side))) end,
    HasFour = fun(Attributes) -> length(Attributes) =:= 4 end,
    HasAll = fun(Rows) -> length(Rows) =:= ?MANY andalso lists:all(fun({_, Row}) -> length(Row) =:= 5 end, Rows) end,
    line("info of one name among 8,000", alternate(?ROUNDS, #{
        ets => rounds:timed(Call(ets, info), HasFour, [lists:sublist(Names, 5)]),
        proctab => rounds:timed(Call(proctab, info), HasFour, [Names])
    })),
    #{ets := Ets} = alternate(1, #{ets => rounds:once(Call(ets, list), HasAll)}),
    #{proctab := Proctab} = alternate(?ROUNDS, #{proctab => rounds:timed(Call(proctab, list), HasAll, [[all]])}),
    line("list of 8,000 names (ETS: one round)", #{ets => Ets, proctab => Proctab}),
    foreach_side(fun(_Side, Zone) -> stop_zone(Zone) end, Zones).

%% Each round in a zone of its own.
starts_and_deaths(Names) ->
    line("start of a child, until find_or_open returns", alternate(?ROUNDS, both(fun(Module, Side) ->
        fun() -> start_time(Module, zone(starts, Side), Names) end
    end))),
    line("2,000 children die, until clean (3 rounds)", alternate(3, both(fun(Module, Side) ->
        fun() -> death_time(Module, zone(deaths, Side), Names) end
    end))).

start_time(Module, Zone, Names) ->
    {Time, Opened} = time(fun() -> open_zone(Module, Zone, Names) end),
    stop_zone(Opened),
    Time / length(Names).

death_time(Module, Zone, Names) ->
    {_Tracker, Pids} = Opened = open_zone(Module, Zone, Names),
    set_attributes(Module, Zone, Names, []),
    {Time, ok} = time(fun() ->
        lists:foreach(fun(Pid) -> exit(Pid, kill) end, Pids),
        lists:foreach(fun(Name) -> until(fun() -> Module:getattr(Zone, Name, integer) =:= undefined end) end, Names),
        until(fun() -> Module:which_children(Zone) =:= [] end)
    end),
    stop_zone(Opened),
    Time.

time(Fun) ->
    Start = erlang:monotonic_time(nanosecond),
    Result = Fun(),
    {erlang:monotonic_time(nanosecond) - Start, Result}.

until(Fun) ->
    case Fun() of
        true -> ok;
        false -> timer:sleep(1), until(Fun)
    end.

%% Bytes of resident memory for a name with four counters. `increment/5` makes them for a name that no child holds, so
%% that the table alone grows. (Children have processes, ten times as large as their attributes, and the VM reuses what
%% those leave free: the memory of attributes cannot be told from theirs.) It comes first for the same reason.
counter_memory(Module, Zone) ->
    Opened = open_zone(Module, Zone, []),
    Before = resident(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        lists:foreach(fun(N) -> count(Module, Zone, name(N)) end, lists:seq(1, ?COUNTED))
    end),
    receive
        {'DOWN', Monitor, process, Pid, normal} -> {Opened, {bytes, (resident() - Before) / ?COUNTED}}
    end.

count(Module, Zone, Name) ->
    lists:foreach(fun(Key) -> 0 = Module:increment(Zone, Name, Key, 0, 0) end, [packets, frames, errors, restarts]).

resident() ->
    {ok, Text} = file:read_file("/proc/self/status"),
    {match, [Kilobytes]} = re:run(Text, "VmRSS:\\s*(\\d+) kB", [{capture, [1], binary}]),
    binary_to_integer(Kilobytes) * 1024.

%% Zones, names, children.

open_zone(Module, Zone, Names) ->
    {ok, Tracker} = Module:start_link(Zone),
    {Tracker, [open_child(Module, Zone, Name) || Name <- Names]}.

open_child(Module, Zone, Name) ->
    {ok, Pid} = Module:find_or_open(Zone, {Name, {?MODULE, start_child, []}, temporary, 200, worker, []}),
    Pid.

start_child() ->
    {ok, spawn_link(fun() -> receive after infinity -> ok end end)}.

%% At once, and not as a zone is stopped in real life: that is not compared here.
stop_zone({Tracker, Pids}) ->
    unlink(Tracker),
    exit(Tracker, kill),
    lists:foreach(
        fun(Pid) ->
            Monitor = monitor(process, Pid),
            receive
                {'DOWN', Monitor, process, Pid, _} -> ok
            end
        end,
        [Tracker | Pids]
    ).

set_attributes(Module, Zone, Names, More) ->
    Attributes = [{integer, 1280}, {atom, running}, {binary, <<"twenty bytes of text">>}, {tuple, tuple()} | More],
    lists:foreach(fun(Name) -> ok = Module:setattr(Zone, Name, Attributes) end, Names).

tuple() ->
    {stream, <<"tv1">>, 1280, running}.

shuffled(Count) ->
    [Name || {_, Name} <- lists:sort([{rand:uniform(), name(N)} || N <- lists:seq(1, Count)])].

name(N) ->
    iolist_to_binary(io_lib:format("stream-~6..0b", [N])).

zone(Purpose, Side) ->
    list_to_atom(lists:concat([Purpose, "_", Side])).

%% The two sides.

sides() ->
    [ets, proctab].

module(ets) -> ets_tracker;
module(proctab) -> gen_tracker.

both(Fun) ->
    maps:from_list([{Side, Fun(module(Side), Side)} || Side <- sides()]).

foreach_side(Fun, Map) ->
    lists:foreach(fun(Side) -> Fun(Side, maps:get(Side, Map)) end, sides()).

alternate(Rounds, Works) ->
    rounds:alternate(Rounds, maps:to_list(Works)).

%% Lines of the report.

columns(Subject) ->
    io:format("~n~-60s~-18s~-18s~s~n", [Subject, "ETS design", "proctab", "ETS / proctab"]).

line(Label, #{ets := Ets, proctab := Proctab}) ->
    io:format("~-60s~-18s~-18s~s~n", [Label, cell(Ets), cell(Proctab), times_better(median(Ets) / median(Proctab))]).

times_better(Ratio) when Ratio >= 10 -> io_lib:format("~b x", [round(Ratio)]);
times_better(Ratio) -> io_lib:format("~.1f x", [Ratio]).

cell({bytes, Bytes}) -> io_lib:format("~b bytes", [round(Bytes)]);
cell({Time, Spread}) -> io_lib:format("~s +-~b%", [duration(Time), round(Spread * 100)]).

duration(Time) when Time < 100 -> io_lib:format("~.1f ns", [float(Time)]);
duration(Time) when Time < 1.0e4 -> io_lib:format("~b ns", [round(Time)]);
duration(Time) when Time < 1.0e6 -> io_lib:format("~.1f us", [Time / 1.0e3]);
duration(Time) when Time < 1.0e9 -> io_lib:format("~.1f ms", [Time / 1.0e6]);
duration(Time) -> io_lib:format("~.1f s", [Time / 1.0e9]).

median({bytes, Bytes}) -> Bytes;
median({Time, _Spread}) -> Time.
