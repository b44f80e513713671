%% A process that speaks the protocol of cluster zones with the cluster process of one other member,
%% as a test demands. It runs on a node without that zone.
-module(fake_member).

-export([start/2, send/2, send_only/2, received/1, pids/1, stop/1]).

-define(VERSION, 1).

%% Starts one, which opens sessions in both directions.
start(Zone, Process) ->
    Caller = self(),
    {Fake, Monitor} = spawn_monitor(fun() -> init(Zone, Process, Caller) end),
    receive
        {Fake, open} ->
            demonitor(Monitor, [flush]),
            Fake;
        {'DOWN', Monitor, process, _, Reason} ->
            exit(Reason)
    end.

%% Sends messages in the session in which the member receives, and waits until it has handled them.
%% A message `{raw, Message}` is sent as it is.
send(Fake, Messages) ->
    gen_server:call(Fake, {send, Messages}).

%% Like `send/2`, without waiting.
send_only(Fake, Messages) ->
    gen_server:call(Fake, {send_only, Messages}).

%% Returns what the member has sent, in either session and without it.
received(Fake) ->
    gen_server:call(Fake, received).

%% Returns three processes of the node.
pids(Fake) ->
    gen_server:call(Fake, pids).

stop(Fake) ->
    Monitor = monitor(process, Fake),
    exit(Fake, kill),
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end.

init(Zone, Process, Caller) ->
    Process ! {gen_tracker_cluster, hello, ?VERSION, Zone, make_ref(), self(), undefined},
    receive
        {gen_tracker_cluster, hello, ?VERSION, Zone, Session, Process, _} ->
            Pids = [spawn_link(timer, sleep, [infinity]) || _ <- [1, 2, 3]],
            Caller ! {self(), open},
            loop(Process, Session, Pids, [])
    end.

loop(Process, Session, Pids, Received) ->
    receive
        {'$gen_call', From, {send, Messages}} ->
            [Process ! in_session(Message, Session) || Message <- Messages],
            _ = sys:get_state(Process),
            gen_server:reply(From, ok),
            loop(Process, Session, Pids, Received);
        {'$gen_call', From, {send_only, Messages}} ->
            [Process ! in_session(Message, Session) || Message <- Messages],
            gen_server:reply(From, ok),
            loop(Process, Session, Pids, Received);
        {'$gen_call', From, received} ->
            gen_server:reply(From, lists:reverse(Received)),
            loop(Process, Session, Pids, Received);
        {'$gen_call', From, pids} ->
            gen_server:reply(From, Pids),
            loop(Process, Session, Pids, Received);
        {gen_tracker_cluster, _, Message} ->
            loop(Process, Session, Pids, [Message | Received])
    end.

in_session({raw, Message}, _) -> Message;
in_session(Message, Session) -> {gen_tracker_cluster, Session, Message}.
