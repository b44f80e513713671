%% The program that `bench/counts` measures: a number of calls of one operation, on a zone with a
%% number of names.
-module(bench_counts).

-export([main/0]).

main() ->
    [Operation, Calls, Count] = init:get_plain_arguments(),
    Names = bench_data:names(list_to_integer(Count)),
    {Side, What} = work(list_to_existing_atom(Operation)),
    Opened = bench_sides:open(Side, counts, [], []),
    Side =:= loop orelse
        lists:member(Side, bench_sides:limits()) orelse
        bench_sides:fill(Opened, length(Names), bench_data:attributes()),
    calls(bench_sides:operation(Opened, What), Names, Names, list_to_integer(Calls)),
    halt(0, [{flush, false}]).

work(loop) -> {loop, find};
work(empty_nif) -> {empty_nif, find};
work(whereis) -> {whereis, find};
work(ets_find) -> {ets_design, find};
work(find) -> {proctab, find};
work(getattr) -> {proctab, {getattr, integer}};
work(increment) -> {proctab, increment};
work(setattr_integer) -> {proctab, {setattr, integer}};
work(setattr_binary) -> {proctab, {setattr, binary}}.

calls(_, _, _, 0) -> ok;
calls(Fun, All, [], Calls) -> calls(Fun, All, All, Calls);
calls(Fun, All, [Name | Names], Calls) ->
    Fun(Name),
    calls(Fun, All, Names, Calls - 1).
