%% Promise: whatever is tracked and registered, and whoever dies, metrics_process_tracker and stats_hero_monitor answer as their models do, and clean up after each of the dead
%% as often as is due. The models and the random histories are in model_counted.
-module(model_counted_SUITE).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        the_tracker_answers_one_process_as_its_model_does,
        the_tracker_answers_two_processes_at_once_as_its_model_does_in_some_order,
        the_monitor_answers_one_process_as_its_model_does,
        the_monitor_answers_two_processes_at_once_as_its_model_does_in_some_order
    ].

the_tracker_answers_one_process_as_its_model_does(_) ->
    holds(tracker, one).

the_tracker_answers_two_processes_at_once_as_its_model_does_in_some_order(_) ->
    holds(tracker, two).

the_monitor_answers_one_process_as_its_model_does(_) ->
    holds(monitor, one).

the_monitor_answers_two_processes_at_once_as_its_model_does_in_some_order(_) ->
    holds(monitor, two).

holds(Kind, Way) ->
    case model_counted:hold([model_counted:setup(Kind, Way) || _ <- lists:seq(1, 100)]) of
        {ok, Figures} -> ct:pal("~p", [Figures]);
        %% `model_counted:replay/1` runs it again.
        {failed, History} -> ct:fail({failed, History})
    end.
