%% Figures for doc/internals/scaling.md, besides those of a whole run: ten million names, and the
%% work of the background thread for writers. This section takes a minute and 4 GB, so it runs only
%% when it is named: `bench/run scale`.
-module(bench_scale).

-export([groups/0, rows/2]).

-define(NAMES, 10000000).
-define(CALLS, 200000).
-define(WRITES, 5000).
-define(WRITERS, [1, 2]).

groups() ->
    [#{group => scale, sides => [proctab], vms => 1, processor => false, shared => false}].

rows(scale, [proctab]) ->
    many_names() ++ writing().

many_names() ->
    Before = bench_data:resident(),
    #{zone := Zone, owner := Tracker} = bench_sides:open(proctab, scale, [], []),
    Mode = "10,000,000 names, 2 attributes each",
    {Fill, ok} = bench_data:time(fun() -> fill(Zone, ?NAMES) end),
    Resident = bench_data:resident() - Before,
    Names = [bench_data:name(rand:uniform(?NAMES)) || _ <- lists:seq(1, ?CALLS)],
    Calls = [
        {Label, rounds:once(fun(_) -> lists:foreach(Call, Names) end, fun(ok) -> true end)}
     || {Label, Call} <- [
            {"find", fun(Name) -> {ok, _} = gen_tracker:find(Zone, Name) end},
            {"increment", fun(Name) -> gen_tracker:increment(Zone, Name, integer, 1) end}
        ]
    ],
    {Fold, ?NAMES} = bench_data:time(fun() ->
        gen_tracker:fold(fun(_, _, Count) -> Count + 1 end, 0, Zone)
    end),
    Figures = [row(Label, Mode, "ns", Run() / ?CALLS) || {Label, Run} <- Calls],
    true = unlink(Tracker),
    {Kill, ok} = bench_data:time(fun() ->
        exit(Tracker, kill),
        bench_data:gone([Tracker])
    end),
    {Free, ok} = bench_data:time(fun() ->
        bench_data:until(fun() -> bench_data:resident() - Before < Resident div 20 end)
    end),
    Figures ++ [
        row("insert of a name and its attributes", Mode, "ns", Fill / ?NAMES),
        row("resident memory of a name", Mode, "bytes", Resident / ?NAMES),
        row("fold/3, for each name", Mode, "ns", Fold / ?NAMES),
        row("the tracker is killed, until it is gone", Mode, "ns", Kill),
        row("until 95 % of the memory is back", Mode, "ns", Free)
    ].

fill(_, 0) ->
    ok;
fill(Zone, N) ->
    true = proctab_nif:insert(
        Zone, bench_data:name(N), bench_data:keeper_pid(N), undefined, bench_data:child_pid(N)
    ),
    ok = gen_tracker:setattr(Zone, bench_data:name(N), [{integer, 1}, {atom, running}]),
    fill(Zone, N - 1).

%% The processor time of the background thread for each write that is not in place.
writing() ->
    Names = bench_data:names(10000),
    Opened = #{zone := Zone} = bench_sides:open(proctab, writing, [], []),
    bench_sides:fill(Opened, 10000, bench_data:attributes()),
    Rows = [
        written(Zone, Key, Writers, Names)
     || Key <- [binary, tuple, {bytes, 1024}], Writers <- ?WRITERS
    ],
    bench_sides:close(Opened),
    lists:append(Rows).

written(Zone, Key, Writers, Names) ->
    Value = bench_data:other_value(Key),
    {Worked, Before} = {background(), bench_data:resident()},
    End = erlang:monotonic_time(millisecond) + ?WRITES,
    {Half, Rest} = lists:split(length(Names) div 2, Names),
    Monitors = [
        spawn_monitor(fun() -> exit({written, write(Zone, Key, Value, List, List, End, 0)}) end)
     || List <- lists:sublist([Half, Rest], Writers)
    ],
    Count = lists:sum([
        receive
            {'DOWN', Monitor, process, Pid, {written, Written}} -> Written
        end
     || {Pid, Monitor} <- Monitors
    ]),
    Mode = io_lib:format("setattr of ~w, ~b writers", [Key, Writers]),
    [
        row("a write", Mode, "ns", 1.0e6 * ?WRITES / Count),
        row(
            "the background thread's work for a write", Mode, "ns", (background() - Worked) / Count
        ),
        row("how much larger the VM is after 5 s", Mode, "bytes", bench_data:resident() - Before)
    ].

write(Zone, Key, Value, [], All, End, Count) ->
    case erlang:monotonic_time(millisecond) > End of
        true -> Count;
        false -> write(Zone, Key, Value, All, All, End, Count)
    end;
write(Zone, Key, Value, [Name | Names], All, End, Count) ->
    ok = gen_tracker:setattr(Zone, Name, Key, Value),
    write(Zone, Key, Value, Names, All, End, Count + 1).

%% Returns the processor time of the thread in nanoseconds. The system counts hundredths of a
%% second.
background() ->
    Threads = [
        filename:dirname(File)
     || File <- filelib:wildcard("/proc/self/task/*/comm"),
        file:read_file(File) =:= {ok, <<"proctab_reclaim\n">>}
    ],
    lists:sum([ticks(Thread) || Thread <- Threads]) * 10000000.

ticks(Thread) ->
    {ok, Text} = file:read_file(filename:join(Thread, "stat")),
    [_, Rest] = binary:split(Text, <<") ">>),
    [User, System] = lists:sublist(binary:split(Rest, <<" ">>, [global]), 12, 2),
    binary_to_integer(User) + binary_to_integer(System).

row(Label, Mode, Unit, Figure) ->
    bench_data:row(proctab, Label, lists:flatten(Mode), Unit, [Figure]).
