%% Measuring in rounds that alternate between the sides, so that a drift of the machine affects all
%% of them. The figures of all rounds are kept in order, so that a ratio can be taken within each
%% round.
-module(rounds).

-export([alternate/2, timed/3, once/2, times/2]).
-export([median/1, spread/1, ratio/2, minus/2]).

%% A round is long compared with the resolution of the clock, and with a time slice.
-define(ROUND, 20000000).
-define(QUICK_ROUND, 4000000).

%% Runs each side `Rounds` times, in turn, and in reverse order every other time. A side is a name
%% and a fun that returns a figure. Returns a map of the figures.
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

%% Returns half the range, as a fraction of the median.
spread(Figures) ->
    (lists:max(Figures) - lists:min(Figures)) / 2 / max(abs(median(Figures)), 1.0e-9).

%% Returns the ratio of the others to these: the median of the ratios of the rounds, if both ran in
%% the same rounds.
ratio(Others, These) when length(Others) =:= length(These) ->
    median(lists:zipwith(fun(Other, This) -> Other / This end, Others, These));
ratio(Others, These) ->
    median(Others) / median(These).

minus(Figures, Loops) ->
    lists:zipwith(fun(Figure, Loop) -> max(Figure - Loop, 0.1) end, Figures, Loops).

%% Returns a fun for `alternate/2`: it returns the nanoseconds for one call of `Fun` with a name. A
%% process for each of `Lists` calls `Fun` for every name of its list, over and over. The time is
%% that from the first start to the last end, divided by the number of all calls. `IsRight` checks
%% the last result of each process.
timed(Fun, IsRight, Lists) ->
    Passes = passes(Fun, IsRight, Lists, 1),
    Calls = Passes * lists:sum([length(List) || List <- Lists]),
    fun() -> run(Fun, IsRight, Lists, Passes) / Calls end.

%% Like `timed/3`, for a call that takes long: one call in each round.
once(Fun, IsRight) ->
    fun() -> run(Fun, IsRight, [[none]], 1) end.

%% Like `timed/3`, for one pass over the lists: each name can be used for one call.
times(Fun, Lists) ->
    Calls = lists:sum([length(List) || List <- Lists]),
    fun() -> run(Fun, fun(_) -> true end, Lists, 1) / Calls end.

passes(Fun, IsRight, Lists, Passes) ->
    Round =
        case bench_data:is_quick() of
            true -> ?QUICK_ROUND;
            false -> ?ROUND
        end,
    case run(Fun, IsRight, Lists, Passes) of
        Time when Time >= Round -> Passes;
        Time ->
            Enough = max(Passes * 5 div 4, Passes * Round div max(Time, 1)) + 1,
            passes(Fun, IsRight, Lists, Enough)
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
    Start = bench_data:clock(),
    Last = calls(Passes, Fun, List, List, none),
    End = bench_data:clock(),
    IsRight(Last) orelse exit({result, Last}),
    exit({took, Start, End}).

calls(1, _Fun, _List, [], Last) ->
    Last;
calls(Passes, Fun, List, [], Last) ->
    calls(Passes - 1, Fun, List, List, Last);
calls(Passes, Fun, List, [Name | Names], _Last) ->
    calls(Passes, Fun, List, Names, Fun(Name)).
