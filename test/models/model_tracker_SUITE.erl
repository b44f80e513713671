%% Promise: every call of a zone returns what the contract says, in any order of calls by any number
%% of processes.
%%
%% `model_tracker` compares the library with a model in random programs, with new seeds.
-module(model_tracker_SUITE).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        successive_calls_are_answered_as_the_model_answers_them,
        concurrent_calls_are_answered_as_the_model_answers_them_in_some_order
    ].

successive_calls_are_answered_as_the_model_answers_them(_) ->
    check(100, 0).

concurrent_calls_are_answered_as_the_model_answers_them_in_some_order(_) ->
    check(0, 40).

check(Alone, Together) ->
    Seed = erlang:unique_integer([positive]) + erlang:system_time(),
    case model_tracker:run(Seed, Alone, Together) of
        {ok, Figures} ->
            ct:pal("seed ~p: ~p", [Seed, Figures]);
        {failed, History} ->
            ct:pal("seed ~p, history ~tp", [Seed, History]),
            ct:fail({failed, {seed, Seed}})
    end.
