%% Calls made by processes other than that of the test: one or many, at the same time or while the
%% test does something else.
-module(callers).

-export([ask/1, answer/1, waiting/0, apart/1, together/1, while_writing/3, sent_by/1]).

-import(messages, [await/1, await/2, taken/1]).

%% Calls a fun in a process of its own. `answer/1` takes what this function returns.
ask(Fun) ->
    {_, Monitor} = spawn_monitor(fun() -> exit({answer, Fun()}) end),
    Monitor.

%% Returns `{answer, Value}`, or the exit reason of the call.
answer(Monitor) ->
    {'DOWN', Monitor, process, _, Answer} = await('DOWN', Monitor),
    Answer.

%% Waits until each process that the caller monitors, such as one of `ask/1`, waits for a message or
%% has exited. A process that opens a child counts as waiting once it has asked the tracker, too,
%% and one that loads a module once that is done.
waiting() ->
    {monitors, Monitors} = process_info(self(), monitors),
    lists:foreach(fun waiting/1, Monitors).

waiting({process, Pid}) ->
    case process_info(Pid, [status, current_function]) of
        undefined ->
            ok;
        [{status, waiting}, {_, {Module, _, _} = Function}]
                when Function =/= {gen_tracker_opening, await, 3}, Module =/= code_server ->
            ok;
        _ ->
            erlang:yield(),
            waiting({process, Pid})
    end.

%% Returns what a fun returns, called in a process of its own, which has exited by then.
apart(Fun) ->
    [Answer] = together([Fun]),
    Answer.

%% Calls funs at the same time, each in a process of its own, and returns their results in order.
together(Funs) ->
    Workers = [
        spawn_monitor(fun() ->
            receive
                go -> exit({answer, Fun()})
            end
        end)
     || Fun <- Funs
    ],
    [Pid ! go || {Pid, _} <- Workers],
    [returned(Worker) || Worker <- Workers].

returned({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, {answer, Answer}} -> Answer;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end.

%% Calls each reader so many times, each in a process of its own, while another process calls
%% `Step(1)`, `Step(2)` and so on. Returns a list of results for each reader.
while_writing(Step, Times, Readers) ->
    Writer = spawn_link(fun() -> write(Step, 1) end),
    try
        together([fun() -> [Reader() || _ <- lists:seq(1, Times)] end || Reader <- Readers])
    after
        Writer ! enough,
        tracked_child:down(Writer)
    end.

write(Step, Number) ->
    receive
        enough -> ok
    after 0 ->
        Step(Number),
        write(Step, Number + 1)
    end.

%% Returns the answer of a fun, like `answer/1`, and all messages that its process sent in the call.
sent_by(Fun) ->
    Test = self(),
    Answer = answer(
        ask(fun() ->
            erlang:trace(self(), true, [send, {tracer, Test}]),
            Fun()
        end)
    ),
    Delivered = erlang:trace_delivered(all),
    {trace_delivered, all, Delivered} = await(trace_delivered),
    {Answer, taken(trace)}.
