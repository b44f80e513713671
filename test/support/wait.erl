%% Waiting for a condition that sends no message when it comes true.
-module(wait).

-export([until/1, until/2]).

%% Returns once the condition holds. Fails after ten seconds.
until(Condition) ->
    until(Condition, 10).

%% Like `until/1`, with another limit in seconds.
until(Condition, Seconds) ->
    check(Condition, erlang:monotonic_time(millisecond) + 1000 * Seconds).

check(Condition, Deadline) ->
    case Condition() of
        true ->
            ok;
        false ->
            erlang:monotonic_time(millisecond) < Deadline orelse error(never_came_true),
            receive
            after 1 -> check(Condition, Deadline)
            end
    end.
