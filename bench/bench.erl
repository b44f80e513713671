%% The benchmark: runs all sections, or the named ones, and prints the time of each to standard
%% error. A whole run writes `bench/results`, a part of one only prints. A wrong result ends the
%% run; targets are checked by `bench_check`.
-module(bench).

-export([main/0]).

%% Sections that run only when they are named.
-define(OTHERS, [{"scale", bench_scale}]).
%% The section about memory comes first, see `bench_memory`.
-define(SECTIONS, [
    {"memory", bench_memory},
    {"operations", bench_operations},
    {"zones", bench_zones},
    {"processes", bench_processes},
    {"growth", bench_growth},
    {"hold", bench_hold}
]).

main() ->
    [Results | Arguments] = init:get_plain_arguments(),
    {ok, _} = application:ensure_all_started(elixir),
    case Arguments of
        ["check"] -> halt(bench_check:main());
        [] -> bench_report:write(Results, sections([Name || {Name, _} <- ?SECTIONS]));
        Names -> io:put_chars(bench_report:markdown(sections(Names)))
    end,
    halt(0).

sections(Names) ->
    [{Name, section(Name, proplists:get_value(Name, ?SECTIONS ++ ?OTHERS))} || Name <- Names].

section(Name, undefined) ->
    io:format(standard_error, "bench/run: there is no section ~s; there are ~s~n", [
        Name,
        lists:join(", ", [Known || {Known, _} <- ?SECTIONS ++ ?OTHERS])
    ]),
    halt(2);
section(Name, Module) ->
    {Time, Rows} = bench_data:time(fun Module:rows/0),
    io:format(standard_error, "~s: ~b s~n", [Name, round(Time / 1.0e9)]),
    Rows.
