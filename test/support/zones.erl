%% Zones that may not stop, and calls that may not return: a case that meets one fails by itself,
%% within seconds, and leaves no zone behind.
-module(zones).

-include_lib("stdlib/include/assert.hrl").

-export([within/2, answer/2, elapsed/1, at_rest/1, asked/1, soon/1]).
-export([ways_to_stop/0, stop/2, stopped/3, ended/2, clean_up/0]).
-export([keeper/2, logged/2, fill/0, hog/0, let_go/1]).
-export([on_node/2, on_node/3, with_node/1]).

%% Returns what a fun returns, called in a process of its own; fails when that takes longer than the
%% given milliseconds, and says where it waits.
within(Milliseconds, Fun) ->
    case answer(ask_linked(Fun), Milliseconds) of
        {answer, Answer} -> Answer;
        Reason -> ct:fail({died, Reason})
    end.

ask_linked(Fun) ->
    spawn_monitor(fun() -> exit({answer, Fun()}) end).

%% Calls a fun in a process of its own, and waits until that has answered or waits in its call.
asked(Fun) ->
    {Pid, _} = Asked = ask_linked(Fun),
    at_rest(Pid),
    Asked.

%% Waits until a process waits for a message or is gone.
at_rest(Pid) ->
    soon(fun() ->
        lists:member(process_info(Pid, status), [undefined, {status, waiting}])
    end).

%% Waits until a condition holds that nobody tells of; fails when it does not within ten seconds.
soon(Condition) ->
    soon(Condition, erlang:monotonic_time(second) + 10).

soon(Condition, Deadline) ->
    case Condition() of
        true ->
            ok;
        false ->
            erlang:monotonic_time(second) < Deadline orelse ct:fail(never_came_true),
            receive
            after 1 -> soon(Condition, Deadline)
            end
    end.

%% Returns `{answer, Value}', or the exit that the fun of `asked/1' met.
answer({Pid, Monitor}, Milliseconds) ->
    receive
        {'DOWN', Monitor, process, Pid, Answer} -> Answer
    after Milliseconds ->
        Place = process_info(Pid, current_stacktrace),
        exit(Pid, kill),
        ct:fail({no_answer, Milliseconds, Place})
    end.

%% The milliseconds that a fun takes, and what it returns.
elapsed(Fun) ->
    Before = erlang:monotonic_time(millisecond),
    Answer = Fun(),
    {erlang:monotonic_time(millisecond) - Before, Answer}.

%% Stopping

%% The ways to stop a zone in order, with the reason of its end. The last one is for its parent.
ways_to_stop() ->
    [
        {fun(Tracker) -> call(Tracker, shutdown) end, shutdown},
        {fun(Tracker) -> call(Tracker, stop) end, normal},
        {fun(Tracker) -> exit(Tracker, shutdown) end, shutdown}
    ].

call(Tracker, Request) ->
    asked(fun() -> gen_server:call(Tracker, Request, infinity) end).

%% Stops a zone in order.
stop(Zone, Milliseconds) ->
    [{Stop, shutdown} | _] = ways_to_stop(),
    ?assertEqual(shutdown, stopped(Zone, Stop, Milliseconds)).

%% Stops a zone, and waits for its end and for that of the processes beside it. The reason.
stopped(Zone, Stop, Milliseconds) ->
    Tracker = whereis(Zone),
    Deadline = erlang:monotonic_time(millisecond) + Milliseconds,
    Monitors = [{Pid, monitor(process, Pid)} || Pid <- tracked_child:beside(Zone)],
    Monitor = monitor(process, Tracker),
    %% The VM may keep the latest monitor back. Another one pushes it out, and its own end that one.
    true = demonitor(monitor(process, Tracker), [flush]),
    _ = Stop(Tracker),
    Reason = down(Tracker, Monitor, Deadline),
    [down(Pid, Beside, Deadline) || {Pid, Beside} <- Monitors],
    ?assertEqual(undefined, whereis(Zone)),
    Reason.

%% Waits for the end of a process; its reason.
ended(Pid, Milliseconds) ->
    down(Pid, monitor(process, Pid), erlang:monotonic_time(millisecond) + Milliseconds).

down(Pid, Monitor, Deadline) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        ct:fail({still_alive, Pid, process_info(Pid, [current_stacktrace, messages])})
    end.

%% For the end of a case: kills all zones, and what would not end with them.
clean_up() ->
    lists:foreach(fun kill/1, [Owner || {zone, _, Owner} <- proctab_nif:tables()]).

kill(Tracker) ->
    Beside = links(Tracker),
    _ = tracked_child:kill(Tracker),
    Monitors = [monitor(process, Pid) || Pid <- Beside],
    Timer = erlang:start_timer(1000, self(), kill),
    wait_or_kill(Monitors, Timer, Beside).

wait_or_kill([], Timer, _) ->
    _ = erlang:cancel_timer(Timer),
    ok;
wait_or_kill([Monitor | Monitors], Timer, Beside) ->
    receive
        {'DOWN', Monitor, process, _, _} ->
            wait_or_kill(Monitors, Timer, Beside);
        {timeout, Timer, kill} ->
            [exit(Pid, kill) || Pid <- Beside],
            wait_or_kill([Monitor | Monitors], Timer, Beside)
    end.

links(Tracker) ->
    case process_info(Tracker, [links, parent]) of
        [{links, Links}, {parent, Parent}] ->
            Others = [Pid || Pid <- Links, is_pid(Pid), node(Pid) =:= node()],
            Others -- [Parent, self()];
        undefined ->
            []
    end.

%% Processes

%% The process beside a child, whatever its state.
keeper(Zone, Name) ->
    element(3, proctab_nif:child(Zone, Name)).

%% Waits until one event of the log contains all of the texts. After `tracked_child:listen/0'.
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

%% Starts processes until there can be no more.
fill() ->
    try spawn(fun() ->
        receive
            never -> ok
        end
    end) of
        Pid -> [Pid | fill()]
    catch
        error:system_limit -> []
    end.

%% Takes the place of each process that ends, until `let_go/1': there can be no more.
hog() ->
    Test = self(),
    Hog = spawn(fun() ->
        process_flag(priority, high),
        Filled = fill(),
        Test ! {full, self()},
        hog(Filled)
    end),
    receive
        {full, Hog} -> Hog
    end.

hog(Filled) ->
    receive
        {let_go, Test} ->
            _ = [exit(Pid, kill) || Pid <- Filled],
            Test ! {let_go, self()}
    after 1 ->
        hog(fill() ++ Filled)
    end.

let_go(Hog) ->
    Hog ! {let_go, self()},
    receive
        {let_go, Hog} -> ok
    end.

%% Other nodes

%% Runs a fun in another node, that has this library first in its code path, within half a minute.
on_node(Options, Fun) ->
    on_node(Options, 30000, Fun).

on_node(Options, Milliseconds, Fun) ->
    Arguments = ["-pa" | source_tree:code_paths()],
    Defaults = #{connection => standard_io, args => Arguments},
    {ok, Peer, _} = peer:start_link(maps:merge(Defaults, Options)),
    try
        peer:call(Peer, erlang, apply, [Fun, []], Milliseconds)
    after
        peer:stop(Peer)
    end.

%% Runs a fun in another node, and calls it with the peer and the name of a third one.
with_node(Fun) ->
    on_node(#{name => peer:random_name()}, fun() ->
        process_flag(trap_exit, true),
        Arguments = ["-pa" | source_tree:code_paths()],
        {ok, Peer, Node} = peer:start(#{name => peer:random_name(), args => Arguments}),
        try
            Fun(Peer, Node)
        after
            %% The fun may have ended it already.
            try
                peer:stop(Peer)
            catch
                exit:_ -> ended
            end
        end
    end).
