%% Promise: for every history of calls, deaths and restarts, metrics_process_tracker and
%% stats_hero_monitor return what their models return, and run each cleanup that is due once.
%%
%% `model_counted` contains the models and draws the histories. `model_counted:replay/1` runs a
%% failed history again.
-module(model_counted_SUITE).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        the_tracker_answers_one_process_as_its_model_does,
        the_tracker_answers_two_processes_as_its_model_does_in_some_order,
        the_monitor_answers_one_process_as_its_model_does,
        the_monitor_answers_two_processes_as_its_model_does_in_some_order
    ].

the_tracker_answers_one_process_as_its_model_does(_) ->
    check(tracker, sequential).

the_tracker_answers_two_processes_as_its_model_does_in_some_order(_) ->
    check(tracker, concurrent).

the_monitor_answers_one_process_as_its_model_does(_) ->
    check(monitor, sequential).

the_monitor_answers_two_processes_as_its_model_does_in_some_order(_) ->
    check(monitor, concurrent).

check(Kind, Mode) ->
    Setups = [model_counted:setup(Kind, Mode) || _ <- lists:seq(1, 100)],
    case model_counted:check(Setups) of
        {ok, Figures} -> ct:pal("~p", [Figures]);
        {failed, History} -> ct:fail({failed, History})
    end.
