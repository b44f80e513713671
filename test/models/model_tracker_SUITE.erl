%% Promise: whatever is called, in whatever order and by however many processes at the same time, a zone answers as the contract says. The model that says so is
%% model_tracker; it is run with fresh seeds.
-module(model_tracker_SUITE).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        calls_one_after_the_other_are_answered_as_the_model_answers_them,
        calls_at_the_same_time_are_answered_as_in_some_order
    ].

calls_one_after_the_other_are_answered_as_the_model_answers_them(_) ->
    holds(300, 0).

calls_at_the_same_time_are_answered_as_in_some_order(_) ->
    holds(0, 120).

holds(Alone, Together) ->
    Seed = erlang:unique_integer([positive]) + erlang:system_time(),
    case model_tracker:run(Seed, Alone, Together) of
        {ok, Figures} ->
            ct:pal("seed ~p: ~p", [Seed, Figures]);
        {failed, History} ->
            ct:pal("seed ~p, history ~tp", [Seed, History]),
            ct:fail({failed, {seed, Seed}})
    end.
