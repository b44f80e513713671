%% Starts of children, callers that wait for one, and processes that register themselves and die.
-module(bench_starts).

-export([groups/0, rows/2]).

-define(SIDES, [proctab, ets_design, supervisor, dynamic, partition]).
-define(STARTS, 4000).
-define(CALLERS, 8000).
-define(REGISTRATIONS, 8000).
-define(PROCESSES, [{"one process", 1}, {"two processes", 2}, {"eight processes", 8}]).

groups() ->
    [
        #{group => starts, sides => ?SIDES, vms => 7},
        #{group => idle, sides => ?SIDES, vms => 5, processor => false, shared => false},
        #{group => waiting, sides => [proctab, ets_design, supervisor], vms => 5},
        #{
            group => registrations,
            sides => [proctab, registry, pg, global],
            vms => 5,
            once => [global]
        }
    ].

rows(starts, Sides) ->
    lists:append([starts(Sides, Mode, Count) || {Mode, Count} <- ?PROCESSES]);
rows(idle, Sides) ->
    idle(Sides);
rows(waiting, Sides) ->
    waiting(Sides);
rows(registrations, Sides) ->
    registrations(Sides).

%% Each round has a zone or supervisor of its own.
starts(Sides, Mode, Count) ->
    Names = bench_data:names(bench_data:scaled(?STARTS)),
    Length = length(Names) div Count,
    Lists = [lists:sublist(Names, 1 + N * Length, Length) || N <- lists:seq(0, Count - 1)],
    Time = fun(Side) ->
        opened(Side, fun(Opened) ->
            (rounds:times(fun(Name) -> bench_sides:start(Opened, Name) end, Lists))()
        end)
    end,
    of_sides("start of a child", Mode, Sides, Time).

idle(Sides) ->
    Time = fun(Side) ->
        opened(Side, fun(Opened) ->
            _ = [bench_sides:start(Opened, Name) || Name <- bench_data:names(100)],
            %% The time is part of what is measured.
            timer:sleep(2000),
            {Time, _} = bench_data:time(fun() -> bench_sides:start(Opened, <<"first">>) end),
            Time
        end)
    end,
    of_sides("first start of a child after 2 s without one", "one process", Sides, Time).

%% Callers ask for a name while its child is being started. The time runs from the end of the start
%% until all callers have the answer. OTP's supervisor lets them wait in its mailbox.
waiting(Sides) ->
    Count = bench_data:scaled(?CALLERS),
    Time = fun(Side) -> opened(Side, fun(Opened) -> waited(Opened, Count) / Count end) end,
    of_sides(
        "callers wait for one start, until all have its answer",
        lists:concat([Count, " callers"]),
        Sides,
        Time
    ).

waited(Opened, Count) ->
    Spec = bench_data:gated_spec(<<"name">>, self()),
    Ask = fun() -> exit(bench_sides:ask(Opened, Spec)) end,
    Callers = [spawn_monitor(Ask) || _ <- lists:seq(1, Count)],
    Starter =
        receive
            {starting, Pid} -> Pid
        end,
    IsWaiting = fun({Caller, _}) -> process_info(Caller, status) =:= {status, waiting} end,
    bench_data:until(fun() -> lists:all(IsWaiting, Callers) end),
    {Time, Answers} = bench_data:time(fun() ->
        Starter ! continue,
        [
            receive
                {'DOWN', _, process, _, Answer} -> Answer
            end
         || _ <- Callers
        ]
    end),
    [Child] = lists:usort(Answers),
    true = is_process_alive(Child),
    Time.

%% Processes are told to register themselves, all at once, and are killed, all at once. Sending the
%% messages and the answers is part of the time, for each side the same.
registrations(Sides) ->
    Names = bench_data:names(bench_data:scaled(?REGISTRATIONS)),
    Time = fun(Side) -> opened(Side, fun(Opened) -> registration(Opened, Names) end) end,
    Rounds = rounds:alternate(bench_data:rounds(), [
        {Side, fun() -> Time(Side) end}
     || Side <- Sides
    ]),
    [
        bench_data:row(Side, Operation, "all processes", "ns", [element(N, Pair) || Pair <- Pairs])
     || {N, Operation} <- [
            {1, "a process registers itself"},
            {2, "a registered process dies, until its name is free"}
        ],
        {Side, Pairs} <- maps:to_list(Rounds)
    ].

registration(Opened, Names) ->
    Parent = self(),
    Pids = [spawn(fun() -> registrant(Parent, Opened, Name) end) || Name <- Names],
    {Registering, _} = bench_data:time(fun() ->
        _ = [Pid ! register || Pid <- Pids],
        [
            receive
                {registered, Pid} -> ok
            end
         || Pid <- Pids
        ]
    end),
    {Dying, ok} = bench_data:time(fun() ->
        _ = [exit(Pid, kill) || Pid <- Pids],
        bench_data:until(fun() -> bench_sides:is_empty(Opened) end)
    end),
    {Registering / length(Names), Dying / length(Names)}.

registrant(Parent, Opened, Name) ->
    receive
        register -> ok
    end,
    bench_sides:register(Opened, Name),
    Parent ! {registered, self()},
    bench_data:idle().

of_sides(Operation, Mode, Sides, Time) ->
    Figures = rounds:alternate(bench_data:rounds(), [
        {Side, fun() -> Time(Side) end}
     || Side <- Sides
    ]),
    [bench_data:row(Side, Operation, Mode, "ns", maps:get(Side, Figures)) || Side <- Sides].

%% The next round begins when all processes of this one have ended.
opened(Side, Fun) ->
    Before = erlang:system_info(process_count),
    Opened = bench_sides:open(Side, starts, [], []),
    Result = Fun(Opened),
    bench_sides:close(Opened),
    bench_data:until(fun() -> erlang:system_info(process_count) =< Before end),
    Result.
