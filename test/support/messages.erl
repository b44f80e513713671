%% Messages to the test, found by their first elements, and monitors that send them.
-module(messages).

-export([await/1, await/2, taken/1, flush/0, monitor_now/1]).

%% Waits for a message with this first element, and returns it. Fails after ten seconds.
await(Tag) ->
    receive
        Message when element(1, Message) =:= Tag -> Message
    after 10000 -> ct:fail({no_message, Tag})
    end.

%% Like `await/1`, for a message with these first two elements.
await(Tag, Second) ->
    receive
        Message when element(1, Message) =:= Tag, element(2, Message) =:= Second -> Message
    after 10000 -> ct:fail({no_message, Tag, Second})
    end.

%% Returns all messages in the mailbox that have this first element, and removes them.
taken(Tag) ->
    receive
        Message when element(1, Message) =:= Tag -> [Message | taken(Tag)]
    after 0 -> []
    end.

%% Removes all messages from the mailbox.
flush() ->
    receive
        _ -> flush()
    after 0 -> ok
    end.

%% Monitors a process, and returns when the process knows it. The VM may delay the signal of
%% `monitor/2`: if the test killed another process meanwhile, and this one died of that, its exit
%% reason would be `noproc`.
monitor_now(Pid) ->
    Monitor = monitor(process, Pid),
    true = demonitor(monitor(process, Pid), [flush]),
    Monitor.
