%% @private
%% What a cluster process sends to one peer: the claims of its member, no faster than the peer
%% handles them, and the messages that wait for a busy connection.
%%
%% The document `doc/internals/cluster.md' describes the protocol. In short: {@link open/4} begins a
%% session, with a first message and a snapshot, page by page. {@link events/2} sends changes. Each
%% message `page' or `events' is outstanding until the peer has given credit for it, which
%% {@link credit/3} notes. While many messages are outstanding, events wait. If too many of them
%% wait, or the connection has refused some, the peer is lagging: it is sent no claims, and then
%% another snapshot.
%%
%% A busy connection refuses messages. {@link say/2} keeps the ones that the peer cannot do without.
%% After a tenth of a second, the calling process gets the message `{resume, Peer}', and has to call
%% {@link resume/2}.
%%
%% The claims are read by a function of the cluster process, when a page is made. So a page contains
%% exactly the changes that were sent before it, if a change is applied and sent in one step.
-module(gen_tracker_cluster_sending).

-export([new/1, session/1, open/4, events/2, status/2, credit/3, say/2, resume/2]).
-export([send/3]).

-export_type([sending/0, read/0, claim/0]).

%% Claims of a page, and events that wait at most; bytes of the names and attributes of a page: one
%% native page may exceed both. All pages that are sent without credit stay far below the megabyte
%% from which on the VM takes a connection for busy.
-define(PAGE, 1000).
-define(PAGE_BYTES, 65536).
%% Messages without credit: pages at most; in all, from which on events wait for a credit; and in
%% all at most.
-define(PAGES, 4).
-define(IN_FLIGHT, 16).
-define(OUTSTANDING, 64).
%% How long a peer whose connection is busy is left alone, in milliseconds.
-define(BUSY, 100).

%% A session in which claims are sent.
-record(session, {
    reference :: reference(),
    %% The messages without credit, oldest first, their number, and that of the pages among them.
    unacknowledged = queue:new() :: queue:queue(page | events),
    outstanding = 0 :: non_neg_integer(),
    pages = 0 :: non_neg_integer(),
    %% The events that wait for a credit, latest list first, and their number.
    waiting = [] :: [[tuple()]],
    waiting_count = 0 :: non_neg_integer(),
    %% Where the next page begins.
    next = 0 :: non_neg_integer() | done,
    epoch = 0 :: non_neg_integer(),
    %% Whether the peer is sent no claims, and why: its connection was busy when it was to get a
    %% page (`busy'), or events, which it has missed (`missed'); or it has not given credit for many
    %% messages (`full').
    lagging = no :: no | busy | missed | full
}).

-record(sending, {
    peer :: pid(),
    %% `undefined' until the peer has opened one.
    session :: #session{} | undefined,
    %% The messages that a busy connection has refused, latest first, and whether the time runs
    %% after which it is tried again. Claims are not kept: the peer gets another snapshot.
    unsent = [] :: [tuple()],
    is_left_alone = false :: boolean()
}).

-opaque sending() :: #sending{}.
-type claim() ::
    {gen_tracker:name(), held}
    | {gen_tracker:name(), pid(), [{gen_tracker:key(), Value :: term()}]}.
%% Reads some of the claims. Returns them, and where the next ones begin.
-type read() :: fun((From :: non_neg_integer()) -> {[claim()], non_neg_integer() | done}).

%% @doc Returns what is sent to a peer, without a session.
-spec new(Peer :: pid()) -> sending().
new(Peer) ->
    #sending{peer = Peer}.

%% @doc Returns the session, or `undefined' if the peer has not opened one.
-spec session(sending()) -> reference() | undefined.
session(#sending{session = #session{reference = Reference}}) -> Reference;
session(#sending{session = undefined}) -> undefined.

%% @doc Begins a session that the peer has opened, in place of the last one: sends its first
%% message, and the first pages of a snapshot.
-spec open(reference(), First :: tuple(), read(), sending()) -> sending().
open(Reference, First, Read, Sending) ->
    Opened = Sending#sending{session = #session{reference = Reference}},
    snapshot(Read, say_in_session(First, Opened)).

%% @doc Sends events, in one message with those that wait, unless the peer has not given credit for
%% many messages, or is lagging. Does nothing if there is no session.
-spec events([tuple(), ...], sending()) -> sending().
events(Events, #sending{session = #session{lagging = no} = Session} = Sending) ->
    #session{outstanding = Outstanding, waiting = Waiting, waiting_count = Before} = Session,
    Count = Before + length(Events),
    Next = Session#session{waiting = [Events | Waiting], waiting_count = Count},
    if
        Outstanding < ?IN_FLIGHT -> send_waiting(Sending#sending{session = Next});
        Count =< ?PAGE -> Sending#sending{session = Next};
        true -> Sending#sending{session = without_waiting(Session#session{lagging = full})}
    end;
events(_, #sending{session = #session{lagging = busy} = Session} = Sending) ->
    Sending#sending{session = Session#session{lagging = missed}};
events(_, Sending) ->
    Sending.

%% @doc Sends a status of this member. Does nothing if there is no session.
-spec status(Status :: {Accepting :: boolean(), Synced :: boolean()}, sending()) -> sending().
status(_, #sending{session = undefined} = Sending) ->
    Sending;
status(Status, Sending) ->
    %% Starts that were decided by the status before are known before the next one.
    say_in_session({status, Status}, send_waiting(Sending)).

%% @doc Notes that the peer has handled this many messages, and sends what has waited for that.
%% Returns `excess' if the peer had fewer messages to handle.
-spec credit(pos_integer(), read(), sending()) -> {ok, sending()} | excess.
credit(Number, Read, #sending{session = #session{outstanding = Outstanding} = Session} = Sending)
        when Number =< Outstanding ->
    {ok, credited(Read, Sending#sending{session = acknowledged(Number, Session)})};
credit(_, _, _) ->
    excess.

%% @doc Sends a message that the peer cannot do without. While its connection is busy, the message
%% waits, and the calling process does not: it has other peers.
-spec say(Message :: tuple(), sending()) -> sending().
say(Message, #sending{peer = Peer, unsent = []} = Sending) ->
    case send(Peer, Message) of
        busy -> leave_alone(Sending#sending{unsent = [Message]});
        sent -> Sending
    end;
say(Message, #sending{unsent = Unsent} = Sending) ->
    Sending#sending{unsent = added(Message, Unsent)}.

%% @doc Tries the connection again: sends what has waited, and goes on with the snapshot; begins
%% another one if events were missed.
-spec resume(read(), sending()) -> sending().
resume(Read, #sending{unsent = Unsent} = Before) ->
    Tried = Before#sending{is_left_alone = false},
    case say_unsent(lists:reverse(Unsent), Tried) of
        #sending{unsent = [], session = #session{lagging = busy} = Session} = Sending ->
            pages(Read, Sending#sending{session = Session#session{lagging = no}});
        #sending{unsent = [], session = #session{lagging = missed}} = Sending ->
            snapshot(Read, Sending);
        Sending ->
            Sending
    end.

%% @doc Sends a message to a process that is no peer. If its connection is busy, the calling process
%% gets the message `Again' after a tenth of a second, and may try again.
-spec send(pid(), Message :: tuple(), Again :: term()) -> ok.
send(Pid, Message, Again) ->
    _ = send(Pid, Message) =:= busy andalso erlang:send_after(?BUSY, self(), Again),
    ok.

%%% The connection

%% Does not make a lost connection again, and does not wait while it is busy.
send(Pid, Message) ->
    case erlang:send(Pid, Message, [noconnect, nosuspend]) of
        nosuspend -> busy;
        _ -> sent
    end.

leave_alone(#sending{is_left_alone = true} = Sending) ->
    Sending;
leave_alone(#sending{peer = Peer} = Sending) ->
    _ = erlang:send_after(?BUSY, self(), {resume, Peer}),
    Sending#sending{is_left_alone = true}.

%% Credits are as many as the messages of the peer, so they are added up.
added({_, Session, {credit, Number}}, [{Tag, Session, {credit, Before}} | Unsent]) ->
    [{Tag, Session, {credit, Before + Number}} | Unsent];
added(Message, Unsent) ->
    [Message | Unsent].

say_unsent([], Sending) ->
    Sending#sending{unsent = []};
say_unsent([Message | Rest] = Messages, #sending{peer = Peer} = Sending) ->
    case send(Peer, Message) of
        busy -> leave_alone(Sending#sending{unsent = lists:reverse(Messages)});
        sent -> say_unsent(Rest, Sending)
    end.

say_in_session(Message, Sending) ->
    say(in_session(Message, Sending), Sending).

in_session(Message, #sending{session = #session{reference = Reference}}) ->
    {gen_tracker_cluster, Reference, Message}.

%%% Snapshots

%% Begins a snapshot.
snapshot(Read, #sending{session = #session{epoch = Before} = Session} = Sending) ->
    Epoch = Before + 1,
    Begun = without_waiting(Session#session{next = 0, epoch = Epoch, lagging = no}),
    pages(Read, say_in_session({snapshot, Epoch}, Sending#sending{session = Begun})).

%% Sends pages. The events of before come before them.
pages(Read, #sending{session = #session{next = Next, pages = Pages}} = Sending)
        when Next =/= done, Pages < ?PAGES ->
    case send_waiting(Sending) of
        #sending{session = #session{lagging = no}} = Told -> send_page(Next, Read, Told);
        Lagging -> Lagging
    end;
pages(_, Sending) ->
    Sending.

send_page(From, Read, Sending) ->
    {Page, After} = page(From, 0, [], Read),
    case {send_counted({page, Page}, busy, Sending), After} of
        %% Refused: the snapshot goes on with this page.
        {#sending{session = #session{lagging = busy}} = Refused, _} -> Refused;
        {Sent, done} -> say_in_session(complete, next(done, Sent));
        {Sent, _} -> pages(Read, next(After, Sent))
    end.

next(Next, #sending{session = Session} = Sending) ->
    Sending#sending{session = Session#session{next = Next}}.

page(done, _, Page, _) ->
    {Page, done};
page(From, Bytes, Page, _) when Bytes >= ?PAGE_BYTES; length(Page) >= ?PAGE ->
    {Page, From};
page(From, Bytes, Before, Read) ->
    {Some, Next} = Read(From),
    page(Next, Bytes + erlang:external_size(Some), Some ++ Before, Read).

%%% Events and credits

send_waiting(#sending{session = #session{waiting = []}} = Sending) ->
    Sending;
send_waiting(#sending{session = #session{waiting = Waiting} = Session} = Sending) ->
    Events = lists:append(lists:reverse(Waiting)),
    send_counted({events, Events}, missed, Sending#sending{session = without_waiting(Session)}).

without_waiting(Session) ->
    Session#session{waiting = [], waiting_count = 0}.

%% Sends claims, unless the connection is busy, or messages that come before these wait for it: then
%% the peer lags as `Refused' says.
send_counted(Message, Refused, Sending) ->
    #sending{peer = Peer, session = Session, unsent = Unsent} = Sending,
    case Unsent =/= [] orelse send(Peer, in_session(Message, Sending)) of
        sent -> Sending#sending{session = counted(element(1, Message), Session)};
        _ -> leave_alone(Sending#sending{session = Session#session{lagging = Refused}})
    end.

counted(Kind, #session{unacknowledged = Unacknowledged, outstanding = Before} = Session) ->
    Counted = Session#session{
        unacknowledged = queue:in(Kind, Unacknowledged),
        outstanding = Before + 1
    },
    case Kind of
        page -> Counted#session{pages = Counted#session.pages + 1};
        events when Before + 1 < ?OUTSTANDING -> Counted;
        events -> Counted#session{lagging = full}
    end.

acknowledged(0, Session) ->
    Session;
acknowledged(Number, #session{unacknowledged = Queue, outstanding = Before} = Session) ->
    {{value, Kind}, Rest} = queue:out(Queue),
    Pages = Session#session.pages - length([page || Kind =:= page]),
    acknowledged(Number - 1, Session#session{
        unacknowledged = Rest,
        outstanding = Before - 1,
        pages = Pages
    }).

credited(Read, #sending{session = #session{lagging = full, outstanding = 0}} = Sending) ->
    snapshot(Read, Sending);
credited(Read, #sending{session = #session{lagging = no}} = Sending) ->
    pages(Read, send_waiting(Sending));
credited(_, Sending) ->
    Sending.
