%% How long small calls wait, on the clock, beside bulk calls on the same name. The control is the
%% same call beside a process that builds the same pairs and calls nothing. The calls are native
%% ones, so that the VM does not preempt the process within the measured time; the operating system
%% may. So the longest wait is the smallest of the maxima of several passes, and the table also
%% shows the largest one.
-module(bench_waits).

-export([groups/0, rows/2]).

-define(PAIRS, 300000).
-define(PASSES, 7).
-define(PASS, 500000000).
-define(NAME, <<"name">>).
-define(CONTROL, "a process that only computes").

groups() ->
    [#{group => waits, sides => [proctab], vms => 1, processor => false, shared => false}].

rows(waits, [proctab]) ->
    #{zone := Zone} = Opened = bench_sides:open(proctab, waits, [?NAME], []),
    ok = gen_tracker:setattr(Zone, ?NAME, pairs()),
    Rows = [
        row(Call, Beside, [pass(Small, Bulk) || _ <- lists:seq(1, ?PASSES)])
     || {Beside, Bulk} <- bulk(Zone), {Call, Small} <- small(Zone)
    ],
    bench_sides:close(Opened),
    lists:append(Rows).

pairs() ->
    [{N, N} || N <- lists:seq(1, bench_data:scaled(?PAIRS))].

bulk(Zone) ->
    [
        {"setattr of 300,000 pairs", fun() -> ok = gen_tracker:setattr(Zone, ?NAME, pairs()) end},
        {"info of 300,000 counters", fun() -> [_ | _] = gen_tracker:info(Zone, ?NAME) end},
        {?CONTROL, fun() -> [_ | _] = pairs() end}
    ].

small(Zone) ->
    [
        {"find", fun() -> {ok, _} = proctab_nif:find(Zone, ?NAME) end},
        {"getattr", fun() -> {ok, _} = proctab_nif:getattr(Zone, ?NAME, 1) end},
        {"increment", fun() -> proctab_nif:increment(Zone, ?NAME, 1, 1) end},
        {"setattr of an integer", fun() -> ok = proctab_nif:setattr(Zone, ?NAME, 1, 1) end},
        {"setattr of a binary", fun() -> ok = proctab_nif:setattr(Zone, ?NAME, 2, <<"text">>) end}
    ].

%% Returns the longest of the calls that a process makes in 500 ms beside the bulk calls of another
%% one.
pass(Small, Bulk) ->
    {Other, Monitor} = spawn_monitor(fun() -> forever(Bulk) end),
    End = erlang:monotonic_time(nanosecond) + bench_data:scaled(?PASS),
    Caller = self(),
    _ = spawn_opt(fun() -> Caller ! {longest, longest(Small, End, 0)} end, [
        link,
        {priority, high}
    ]),
    Longest =
        receive
            {longest, Time} -> Time
        end,
    exit(Other, kill),
    receive
        {'DOWN', Monitor, process, Other, killed} -> Longest
    end.

forever(Fun) ->
    Fun(),
    forever(Fun).

longest(Fun, End, Longest) ->
    Before = erlang:monotonic_time(nanosecond),
    Fun(),
    case erlang:monotonic_time(nanosecond) of
        Now when Now > End -> max(Longest, Now - Before);
        Now -> longest(Fun, End, max(Longest, Now - Before))
    end.

row(Call, Beside, Longest) ->
    [
        bench_data:row(proctab, Call ++ ", beside " ++ Beside, Mode, "ns", [Figure])
     || {Mode, Figure} <- [
            {"longest wait", lists:min(Longest)},
            {"longest seen", lists:max(Longest)}
        ]
    ].
