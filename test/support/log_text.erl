%% A log handler that sends each event to the test as the text that would be printed.
-module(log_text).

-export([listen/0, logged/1, logged/2, log/2]).

%% From now on the caller receives the events of the log, until
%% `logger:remove_handler(log_text)`.
listen() ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => self()}).

%% The callback of the handler.
log(Event, #{config := Test}) ->
    Test ! {log, unicode:characters_to_list(logger_formatter:format(Event, #{}))}.

%% Waits for an event with this text, and returns it as printed.
logged(Text) ->
    {log, Line} = messages:await(log),
    case string:find(Line, Text) of
        nomatch -> logged(Text);
        _ -> Line
    end.

%% Waits for an event with all of these texts, at most so many milliseconds, and returns it as
%% printed.
logged(Texts, Milliseconds) ->
    await_log(Texts, erlang:monotonic_time(millisecond) + Milliseconds).

await_log(Texts, Deadline) ->
    receive
        {log, Line} ->
            case [Text || Text <- Texts, string:find(Line, Text) =:= nomatch] of
                [] -> Line;
                _ -> await_log(Texts, Deadline)
            end
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        ct:fail({not_logged, Texts})
    end.
