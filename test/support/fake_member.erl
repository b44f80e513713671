%% A process that speaks the protocol of cluster zones with the cluster process of one other member,
%% as a test demands. It runs on a node without that zone.
-module(fake_member).

-export([start/2, start_version/2, send/2, send_only/2, stop/1]).
-export([received/1, session/1, serving/1, pids/1]).

-define(VERSION, 1).

%% Starts one, which opens sessions in both directions.
start(Zone, Process) ->
    started(fun(Caller) -> init(Zone, Process, Caller) end).

%% Starts one of another version, which is in the group of the zone from then on. To the first
%% `hello` it answers `bye`, and says `hello` in its own version.
start_version(Zone, Version) ->
    started(fun(Caller) -> init_version(Zone, Version, Caller) end).

started(Init) ->
    Caller = self(),
    {Fake, Monitor} = spawn_monitor(fun() -> Init(Caller) end),
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

%% Returns the session in which the member receives, or that in which it sends.
session(Fake) ->
    gen_server:call(Fake, session).

serving(Fake) ->
    gen_server:call(Fake, serving).

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
    Serving = make_ref(),
    Process ! {gen_tracker_cluster, hello, ?VERSION, Zone, Serving, self(), undefined},
    receive
        {gen_tracker_cluster, hello, ?VERSION, Zone, Session, Process, _} ->
            Caller ! {self(), open},
            loop(new(Process, Session, Serving))
    end.

init_version(Zone, Version, Caller) ->
    ok = pg:join(gen_tracker_cluster, Zone, self()),
    Caller ! {self(), open},
    receive
        {gen_tracker_cluster, hello, ?VERSION, Zone, Session, Process, _} ->
            Serving = make_ref(),
            Process ! in_session({bye, {version, Version}}, Session),
            Process ! {gen_tracker_cluster, hello, Version, Zone, Serving, self(), undefined},
            loop(new(Process, Session, Serving))
    end.

new(Process, Session, Serving) ->
    #{
        process => Process,
        session => Session,
        serving => Serving,
        pids => [spawn_link(timer, sleep, [infinity]) || _ <- [1, 2, 3]],
        received => []
    }.

loop(#{process := Process, received := Received} = State) ->
    receive
        {'$gen_call', From, {send, Messages}} ->
            send_all(Messages, State),
            %% Later releases of OTP than that of the member do not understand its answer to
            %% `sys:get_state/1`.
            {status, Process, _, _} = sys:get_status(Process),
            gen_server:reply(From, ok),
            loop(State);
        {'$gen_call', From, {send_only, Messages}} ->
            send_all(Messages, State),
            gen_server:reply(From, ok),
            loop(State);
        {'$gen_call', From, received} ->
            gen_server:reply(From, lists:reverse(Received)),
            loop(State);
        {'$gen_call', From, Key} ->
            gen_server:reply(From, map_get(Key, State)),
            loop(State);
        {gen_tracker_cluster, hello, _, _, Session, Process, _} ->
            loop(State#{session := Session});
        {gen_tracker_cluster, _, Message} ->
            loop(State#{received := [Message | Received]})
    end.

send_all(Messages, #{process := Process, session := Session}) ->
    lists:foreach(fun(Message) -> Process ! in_session(Message, Session) end, Messages).

in_session({raw, Message}, _) -> Message;
in_session(Message, Session) -> {gen_tracker_cluster, Session, Message}.
