%% How the benchmarks measure: rounds that alternate between the sides, so that a drift of the
%% machine hits all of them. The figures of all rounds are kept, in their order, so that a ratio
%% can be taken within each round.
-module(rounds).

-export([alternate/2, timed/3, once/2, times/2]).
-export([median/1, spread/1, ratio/2, minus/2]).

%% A round is long enough for a clock, and for many turns of the scheduler.
-define(ROUND, 25000000).

%% Runs each side `Rounds` times, in turn, and the other way round every second time. A side is a
%% name and a function that gives one figure. Gives a map of the figures.
alternate(Rounds, Sides) ->
    Orders = [order(Round, Sides) || Round <- lists:seq(1, Rounds)],
    Figures = [{Side, Run()} || Order <- Orders, {Side, Run} <- Order],
    maps:from_list([{Side, [Figure || {S, Figure} <- Figures, S =:= Side]} || {Side, _} <- Sides]).

order(Round, Sides) when Round rem 2 =:= 0 ->
    lists:reverse(Sides);
order(_Round, Sides) ->
    Sides.

median(Figures) ->
    lists:nth((length(Figures) + 1) div 2, lists:sort(Figures)).

%% Half the range, as a part of the median.
spread(Figures) ->
    (lists:max(Figures) - lists:min(Figures)) / 2 / max(abs(median(Figures)), 1.0e-9).

%% How many times the others are of these: the median of the rounds' ratios, where both ran in the
%% same rounds.
ratio(Others, These) when length(Others) =:= length(These) ->
    median(lists:zipwith(fun(Other, This) -> Other / This end, Others, These));
ratio(Others, These) ->
    median(Others) / median(These).

minus(Figures, Loops) ->
    lists:zipwith(fun(Figure, Loop) -> max(Figure - Loop, 0.1) end, Figures, Loops).

%% A function for `alternate/2`: nanoseconds for one call of `Fun` with a name, one process for
%% each of `Lists` calling it for every name of its list, over and over. The time is from the
%% first start to the last end, divided by all calls. The last result of each process must be what
%% `IsRight` says.
timed(Fun, IsRight, Lists) ->
    Passes = passes(Fun, IsRight, Lists, 1),
    Calls = Passes * lists:sum([length(List) || List <- Lists]),
    fun() -> run(Fun, IsRight, Lists, Passes) / Calls end.

%% The same for a call that takes long: one call a round.
once(Fun, IsRight) ->
    fun() -> run(Fun, IsRight, [[none]], 1) end.

%% The same for one pass over a list of names, each of which is good for one call.
times(Fun, Names) ->
    fun() -> run(Fun, fun(_) -> true end, [Names], 1) / length(Names) end.

passes(Fun, IsRight, Lists, Passes) ->
    case run(Fun, IsRight, Lists, Passes) of
        Time when Time >= ?ROUND -> Passes;
        Time ->
            passes(Fun, IsRight, Lists, max(Passes * 5 div 4, Passes * ?ROUND div max(Time, 1)) + 1)
    end.

run(Fun, IsRight, Lists, Passes) ->
    Starter = self(),
    Processes = [
        spawn_monitor(fun() -> call_all(Starter, Fun, IsRight, List, Passes) end)
     || List <- Lists
    ],
    [
        receive
            {ready, Pid} -> ok
        end
     || {Pid, _} <- Processes
    ],
    [Pid ! go || {Pid, _} <- Processes],
    {Starts, Ends} = lists:unzip([ended(Process) || Process <- Processes]),
    lists:max(Ends) - lists:min(Starts).

ended({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, {took, Start, End}} -> {Start, End};
        {'DOWN', Monitor, process, Pid, Reason} -> error({wrong, Reason})
    end.

call_all(Starter, Fun, IsRight, List, Passes) ->
    garbage_collect(),
    Starter ! {ready, self()},
    receive
        go -> ok
    end,
    Start = erlang:monotonic_time(nanosecond),
    Last = calls(Passes, Fun, List, List, none),
    End = erlang:monotonic_time(nanosecond),
    IsRight(Last) orelse exit({result, Last}),
    exit({took, Start, End}).

calls(1, _Fun, _List, [], Last) ->
    Last;
calls(Passes, Fun, List, [], Last) ->
    calls(Passes - 1, Fun, List, List, Last);
calls(Passes, Fun, List, [Name | Names], _Last) ->
    calls(Passes, Fun, List, Names, Fun(Name)).
