%% Calls that may not return, made by a process of their own: a case that meets one fails by itself
%% within seconds and says where the call waits.
-module(timed_call).

-export([within/2, calling/1, answer/2, elapsed/1, at_rest/1, ended/2]).

%% Returns what `Fun` returns. Fails if that takes longer than so many milliseconds.
within(Milliseconds, Fun) ->
    case answer(run(Fun), Milliseconds) of
        {answer, Answer} -> Answer;
        Reason -> ct:fail({died, Reason})
    end.

%% Calls `Fun`, and returns once that call has ended or waits for a message. `answer/2` takes what
%% this function returns.
calling(Fun) ->
    {Pid, _} = Call = run(Fun),
    at_rest(Pid),
    Call.

run(Fun) ->
    spawn_monitor(fun() -> exit({answer, Fun()}) end).

%% Returns `{answer, Value}`, or the exit reason of the call.
answer({Pid, Monitor}, Milliseconds) ->
    receive
        {'DOWN', Monitor, process, Pid, Answer} -> Answer
    after Milliseconds ->
        Place = process_info(Pid, current_stacktrace),
        exit(Pid, kill),
        ct:fail({no_answer, Milliseconds, Place})
    end.

%% Returns the milliseconds that a fun takes, and its result.
elapsed(Fun) ->
    Before = erlang:monotonic_time(millisecond),
    Answer = Fun(),
    {erlang:monotonic_time(millisecond) - Before, Answer}.

%% Waits until a process waits for a message or has exited.
at_rest(Pid) ->
    wait:until(fun() ->
        lists:member(process_info(Pid, status), [undefined, {status, waiting}])
    end).

%% Waits for the end of a process, and returns its exit reason, or `noproc`.
ended(Pid, Milliseconds) ->
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    after Milliseconds ->
        ct:fail({still_alive, Pid, process_info(Pid, [current_stacktrace, messages])})
    end.
