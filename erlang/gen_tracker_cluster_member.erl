%% @private
%% The cluster process of a zone: sends the names of this member to the members on other nodes, and
%% keeps the names that they send in the native directory.
%%
%% The document `doc/internals/cluster.md' describes the protocol: processes, state, messages,
%% invariants. In short: each two members have two sessions, one in each direction. In a session,
%% the receiver says `hello', the sender sends a snapshot of its claims, page by page, and every
%% change, in order. The receiver gives credit for what it has handled. The monitor of the sender
%% ends the session, and with it all claims of the sender at once. This module decides what is sent,
%% and to which peer; `gen_tracker_cluster_sending' when.
%%
%% The native table sends this process each change of a row. This process applies the change to
%% its own claims in the directory and sends it to all peers in one step, and it makes snapshots
%% from its own claims. So a page contains exactly the changes that were sent before it.
-module(gen_tracker_cluster_member).
-behaviour(gen_server).

-export([start_link/4, subscribe/1, unsubscribe/1, drain/1, stopping/2]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).
-export([terminate/2, code_change/3]).

-export_type([shared/0, options/0]).

-include_lib("kernel/include/logger.hrl").

-import(gen_tracker_cluster_conflicts, [rank/2]).

-define(VERSION, 1).
%% Changes of the native table that are handled, and sent to the peers, together.
-define(EVENTS, 1000).
%% Claims that one native call changes.
-define(CHUNK, 100).
%% After how long is retried what failed because the VM had no free process, in milliseconds.
-define(LIMIT_INTERVAL, 100).

-type options() :: #{copied := [gen_tracker:key()],
                     index := [gen_tracker:key() | {each, gen_tracker:key()}],
                     conflict := gen_tracker_cluster_conflicts:callback() | undefined,
                     unique := home | lock,
                     %% Whether an earlier cluster process of this zone was drained.
                     drained := boolean(),
                     telemetry := gen_tracker_telemetry:emitter(),
                     tag := reference()}.
%% What the cluster process shares with all processes: itself, a table with the rows `{members,
%% [Node]}' and `{homes, [Node]}' (members that accept starts), whether a start takes a lock, and
%% the copies of attributes.
-type shared() :: {pid(), ets:table(), home | lock, gen_tracker_cluster_copies:copies()}.

-record(peer, {
    node :: node(),
    monitor :: reference(),
    %% The session in which this process receives.
    session :: reference(),
    %% The peer in the directory.
    id :: proctab_nif:member(),
    %% Whether `welcome' has arrived.
    is_member = false :: boolean(),
    %% The epoch of the latest snapshot, and whether the rest of it is still to come.
    epoch = 0 :: non_neg_integer(),
    is_in_snapshot = false :: boolean(),
    %% Whether a whole snapshot has arrived.
    is_complete = false :: boolean(),
    accepting = false :: boolean(),
    synced = false :: boolean(),
    %% What is sent to it, with the session in which this process sends.
    sending :: gen_tracker_cluster_sending:sending(),
    %% Whether it was reported again, perhaps because it has joined the group again before its end
    %% was noticed.
    has_rejoined = false :: boolean()
}).

-record(member, {
    zone :: gen_tracker:zone(),
    %% The name of this node, which can change.
    node = node() :: node(),
    %% The zone of this process: the next one of its name has other claims.
    handle :: proctab_nif:handle(),
    tracker :: pid(),
    options :: options(),
    secret :: proctab_nif:secret(),
    table :: ets:table(),
    copies :: gen_tracker_cluster_copies:copies(),
    %% This member in the directory.
    own :: proctab_nif:member(),
    scope :: reference() | undefined,
    watcher :: pid() | undefined,
    accepting = true :: boolean(),
    %% The status that the peers were told of.
    told = {true, false} :: {Accepting :: boolean(), Synced :: boolean()},
    %% The peers whose first snapshots are missing; `unknown' until the watcher has reported. This
    %% member is synced when there are none.
    missing = unknown :: unknown | [pid()],
    peers = #{} :: #{pid() => #peer{}},
    %% The peers of receiving and sending sessions.
    sessions = #{} :: #{reference() => {receiving | sending, pid()}},
    subscribers = #{} :: #{pid() => Monitor :: reference()},
    conflicts :: gen_tracker_cluster_conflicts:conflicts(),
    drains = [] :: [gen_server:from()]
}).

%% @doc Starts the cluster process of a zone, linked to the calling tracker, and monitored with the
%% tag `{Tag, cluster}'.
-spec start_link(gen_tracker:zone(), proctab_nif:handle(), Tag :: reference(), map()) -> pid().
start_link(Zone, Handle, Tag, Options) ->
    Defaults = #{
        copied => [], index => [], conflict => undefined, unique => home, drained => false,
        telemetry => none
    },
    All = maps:put(tag, Tag, maps:merge(Defaults, Options)),
    Process = start_link({Zone, Handle, self(), All}),
    _ = monitor(process, Process, [{tag, {Tag, cluster}}]),
    Process.

start_link(Arguments) ->
    case gen_server:start_link(?MODULE, Arguments, []) of
        {ok, Process} -> Process;
        %% It was killed while it started, which must not end the tracker.
        {error, killed} -> start_link(Arguments)
    end.

%% @doc Subscribes the caller to births and deaths on all members. Returns the running children.
-spec subscribe(pid()) -> {ok, [{gen_tracker:name(), pid()}]}.
subscribe(Process) ->
    gen_server:call(Process, subscribe, infinity).

%% @doc Ends the caller's subscription.
-spec unsubscribe(pid()) -> ok.
unsubscribe(Process) ->
    gen_server:call(Process, unsubscribe, infinity).

%% @doc Makes the member accept no more starts, and returns when it has no children.
-spec drain(pid()) -> ok.
drain(Process) ->
    gen_server:call(Process, drain, infinity).

%% @doc Tells the cluster process that its tracker stops the zone, which may take long: the member
%% accepts no more starts.
-spec stopping(pid(), Tag :: reference()) -> ok.
stopping(Process, Tag) ->
    Process ! {Tag, stopping},
    ok.

%% @private
-spec init({gen_tracker:zone(), proctab_nif:handle(), Tracker :: pid(), options()}) ->
          {ok, #member{}, {continue, join}}.
init({Zone, Handle, Tracker, #{unique := Unique, copied := Copied, index := Indexed} = Options}) ->
    process_flag(trap_exit, true),
    gen_tracker_reports:set_label({?MODULE, Zone}),
    ok = net_kernel:monitor_nodes(true),
    #{tag := Tag} = Options,
    ok = proctab_nif:open_subscriptions(gen_tracker_cluster, Zone, Tracker),
    Table = ets:new(?MODULE, [protected, {read_concurrency, true}]),
    true = ets:insert(Table, [{members, [node()]}, {homes, []}]),
    Copies = gen_tracker_cluster_copies:new(Copied, Indexed),
    Keys = gen_tracker_cluster_copies:keys(Copies),
    Secret = proctab_nif:cluster_open(Handle, {self(), Table, Unique, Copies}, Keys),
    %% Those of an earlier cluster process.
    self() ! {Tag, {sweep, ended, lost}},
    Own = proctab_nif:add_member(Handle, node(), atom_to_binary(node()), self()),
    #{drained := IsDrained, conflict := Callback} = Options,
    _ = IsDrained andalso proctab_nif:drain(Handle),
    Member = #member{
        zone = Zone,
        handle = Handle,
        tracker = Tracker,
        options = Options,
        secret = Secret,
        table = Table,
        copies = Copies,
        own = Own,
        accepting = not IsDrained,
        conflicts = gen_tracker_cluster_conflicts:new(Zone, Tracker, Tag, Callback)
    },
    {ok, Member, {continue, join}}.

%% @private
-spec handle_continue(join, #member{}) -> {noreply, #member{}}.
handle_continue(join, Member) ->
    {noreply, attached(read_rows(0, Member))}.

%% Rows that are older than this process.
read_rows(done, Member) ->
    Member;
read_rows(From, #member{handle = Handle} = Member) ->
    {Rows, Next} = proctab_nif:page(Handle, From, children, []),
    Events = [row_event(Name, State, Pid) || {Name, State, Pid, _, _} <- Rows],
    read_rows(Next, own_events(Events, Member)).

row_event(Name, running, Pid) -> {up, Name, Pid};
row_event(Name, _, _) -> {held, Name}.

tag(#member{options = #{tag := Tag}}) ->
    Tag.

%% Joins the group of the zone and watches it, each unless that was done. If the VM has no free
%% process, tries again later.
attached(#member{zone = Zone, scope = undefined} = Member) ->
    case gen_tracker_cluster_scope:join(Zone) of
        full -> attached_later(Member);
        Scope -> attached(Member#member{scope = Scope})
    end;
attached(#member{zone = Zone, watcher = undefined} = Member) ->
    case gen_tracker_cluster_scope:watch(Zone, tag(Member)) of
        full -> attached_later(Member);
        Watcher -> Member#member{watcher = Watcher}
    end;
attached(Member) ->
    Member.

attached_later(Member) ->
    _ = erlang:send_after(?LIMIT_INTERVAL, self(), {tag(Member), attach}),
    Member.

%% @private
-spec handle_call(term(), gen_server:from(), #member{}) ->
          {reply, term(), #member{}} | {noreply, #member{}}.
handle_call(subscribe, {Pid, _}, Before) when is_pid(Pid), node(Pid) =:= node() ->
    #member{subscribers = Subscribers} = Member = settled(Before),
    Monitor =
        case Subscribers of
            #{Pid := Known} -> Known;
            _ -> monitor(process, Pid)
        end,
    ok = proctab_nif:add_subscriber(Pid),
    {reply, {ok, running(Member)}, Member#member{subscribers = Subscribers#{Pid => Monitor}}};
handle_call(unsubscribe, {Pid, _}, Member) when is_pid(Pid) ->
    {reply, ok, without_subscriber(Pid, Member)};
handle_call(drain, {Pid, _} = From, #member{drains = Drains} = Member) when is_pid(Pid) ->
    #member{tracker = Tracker, handle = Handle, options = #{tag := Tag}} = Member,
    %% For the case that this process is killed.
    Tracker ! {Tag, drained},
    Draining = Member#member{accepting = false, drains = [From | Drains]},
    Changed = status_changed(Draining),
    %% From here on, starts that were decided before are refused, or counted.
    ok = refuse_starts(Handle),
    {noreply, drained(Changed)};
handle_call(_Request, {Pid, _}, Member) when is_pid(Pid) ->
    {reply, {error, unknown_call}, Member};
%% A sender that is no process cannot be answered: `gen_server' would crash.
handle_call(_Request, _From, Member) ->
    {noreply, Member}.

%% @private
-spec handle_cast(term(), #member{}) -> {noreply, #member{}}.
handle_cast(_Request, Member) ->
    {noreply, Member}.

%% @private
-spec handle_info(term(), #member{}) ->
          {noreply, #member{}} | {stop, {shutdown, renamed}, #member{}}.
handle_info(Message, #member{node = Node} = Member) when Node =:= node() ->
    {noreply, received(Message, Member)};
%% Distribution was started or stopped, which `nodeup' or `nodedown' tells. The tracker starts
%% another cluster process, which makes its claims in the name that the node has now.
handle_info(_, Member) ->
    {stop, {shutdown, renamed}, Member}.

received({Secret, Event}, #member{secret = Secret} = Member) ->
    own_events(last_copies(more_events(Secret, ?EVENTS, [Event])), Member);
received({gen_tracker_cluster, Session, Message}, #member{sessions = Sessions} = Member) ->
    case Sessions of
        #{Session := {receiving, Peer}} -> from_sender(Message, Peer, Member);
        #{Session := {sending, Peer}} -> from_receiver(Message, Peer, Member);
        %% The session has ended.
        _ -> Member
    end;
received({gen_tracker_cluster, hello, Version, Zone, Session, From, Serving} = Hello, Member) ->
    case is_reference(Session) andalso is_pid(From) andalso node(From) =/= node() of
        true -> hello(Version, Zone, Session, From, Serving, Member);
        false -> malformed(Hello, unknown, Member)
    end;
%% Messages with the tag are those of the tracker, the watcher, and this process itself.
received({Tag, stopping}, #member{options = #{tag := Tag}} = Member) ->
    status_changed(Member#member{accepting = false});
received({Tag, {watched, Watcher, Pids}}, #member{options = #{tag := Tag}} = Member)
        when Watcher =:= Member#member.watcher ->
    watched(Pids, Member);
received({Tag, {joined, Watcher, Pids}}, #member{options = #{tag := Tag}} = Member)
        when Watcher =:= Member#member.watcher ->
    lists:foldl(fun peer_joined/2, Member, Pids);
received({Tag, {refuse, Pid, Message}}, #member{options = #{tag := Tag}} = Member) ->
    refuse(Pid, Message, Member);
received({Tag, {sweep, Id, Reason}}, #member{options = #{tag := Tag}} = Member) ->
    %% Those who have subscribed meanwhile have not seen these names.
    untold(fun(Untold) -> sweep(Id, Reason, Untold) end, Member);
received({Tag, attach}, #member{options = #{tag := Tag}} = Member) ->
    attached(Member);
received({'DOWN', Scope, process, _, _}, #member{scope = Scope, watcher = Watcher} = Member) ->
    _ = [unlink(Pid) andalso exit(Pid, kill) || Pid <- [Watcher], is_pid(Pid)],
    attached(Member#member{scope = undefined, watcher = undefined});
received({'DOWN', Monitor, process, Pid, _}, #member{peers = Peers} = Member) ->
    case {Peers, Member} of
        {#{Pid := #peer{monitor = Monitor}}, _} -> peer_ended(Pid, Member);
        {_, #member{subscribers = #{Pid := Monitor}}} -> without_subscriber(Pid, Member);
        _ -> Member
    end;
received({'EXIT', Watcher, _}, #member{watcher = Watcher} = Member) when is_pid(Watcher) ->
    case is_process_alive(Watcher) of
        %% A stranger has sent this.
        true -> Member;
        %% If the scope has ended, the next watcher ends as well, and the scope's monitor restarts
        %% both.
        false -> attached(Member#member{watcher = undefined})
    end;
received({resume, Pid}, Member) ->
    resume(Pid, Member);
received(Message, Member) when element(1, Message) =:= gen_tracker_cluster ->
    malformed(Message, unknown, Member);
received(Message, #member{conflicts = Conflicts} = Member) ->
    Member#member{conflicts = gen_tracker_cluster_conflicts:handle(Message, Conflicts)}.

more_events(_, 0, Events) ->
    lists:reverse(Events);
more_events(Secret, Most, Events) ->
    receive
        {Secret, Event} -> more_events(Secret, Most - 1, [Event | Events])
    after 0 -> lists:reverse(Events)
    end.

%% Keeps the last of the events `copied' of each name: the attributes are read when an event is
%% handled, so the earlier ones would only repeat what it says.
last_copies(Events) ->
    {Kept, _} = lists:foldr(fun last_copy/2, {[], #{}}, Events),
    Kept.

last_copy({copied, Name}, {Later, Names}) when is_map_key(Name, Names) -> {Later, Names};
last_copy({copied, Name} = Event, {Later, Names}) -> {[Event | Later], Names#{Name => []}};
last_copy(Event, {Later, Names}) -> {[Event | Later], Names}.

%% @private
-spec terminate(term(), #member{}) -> ok.
terminate(_Reason, #member{}) ->
    gen_tracker_events:end_subscriptions().

%% @private
-spec code_change(term(), #member{}, term()) -> {ok, #member{}}.
code_change(_OldVsn, Member, _Extra) ->
    {ok, Member}.

%%% The own claims

%% Applies what the native table says to the own claims, and sends it to all peers.
own_events(Events, #member{own = Own} = Member) ->
    Complete = lists:append([with_attributes(Event, Member) || Event <- Events]),
    {Results, Conflicts} = change(Own, node(), Complete, Member),
    Sent = without_skipped(Complete, Results),
    Told = tell_changes(Complete, Results, broadcast(Sent, Member)),
    conflicts(Conflicts, node(), Sent, lists:foldl(fun own_event/2, Told, Sent)).

%% The peers have to skip what this member does: the name has a new child by now.
without_skipped(Events, Results) ->
    case lists:member(skipped, Results) of
        true -> [Event || {Event, Result} <- lists:zip(Events, Results), Result =/= skipped];
        false -> Events
    end.

%% A name without a running child has no copies.
with_attributes({up, Name, Pid}, Member) ->
    [{up, Name, Pid, attributes(Name, Member)}];
with_attributes({copied, Name}, #member{zone = Zone} = Member) ->
    case unless_gone(fun proctab_nif:find/2, [Zone, Name], undefined) of
        {ok, _} -> [{copied, Name, attributes(Name, Member)}];
        undefined -> []
    end;
with_attributes(Event, _) ->
    [Event].

attributes(Name, #member{zone = Zone, copies = Copies}) ->
    case gen_tracker_cluster_copies:keys(Copies) of
        [] -> [];
        Keys -> unless_gone(fun proctab_nif:attrs/3, [Zone, Name, Keys], [])
    end.

%% The tracker may have ended, and this process is about to.
unless_gone(Function, Arguments, Default) ->
    try
        apply(Function, Arguments)
    catch
        error:badarg -> Default
    end.

own_event({down, Name, Pid, _}, #member{conflicts = Conflicts} = Member) ->
    Member#member{conflicts = gen_tracker_cluster_conflicts:ended(Name, Pid, Conflicts)};
own_event({free, _}, #member{drains = [_ | _]} = Member) ->
    drained(Member);
own_event(_, Member) ->
    Member.

%% Waits for the registrations that are just being made, which were not refused.
refuse_starts(Handle) ->
    case proctab_nif:drain(Handle) of
        true ->
            ok;
        false ->
            erlang:yield(),
            refuse_starts(Handle)
    end.

drained(#member{zone = Zone, drains = Drains} = Member) ->
    case unless_gone(fun proctab_nif:count/1, [Zone], 0) of
        0 ->
            lists:foreach(fun(From) -> gen_server:reply(From, ok) end, Drains),
            Member#member{drains = []};
        _ ->
            Member
    end.

to_change({up, Name, Pid, _}, Node) -> [{Name, rank(Name, Node), {up, Pid}}];
to_change({down, Name, Pid, _}, Node) -> [{Name, rank(Name, Node), {down, Pid}}];
to_change({held, Name}, Node) -> [{Name, rank(Name, Node), held}];
to_change({free, Name}, Node) -> [{Name, rank(Name, Node), free}];
to_change({copied, _, _}, _) -> [].

%% Changes claims in the directory, a few in each native call. Returns for each event the pid that
%% readers found before, `undefined' if they found none, or `same' or `skipped' if it has changed
%% nothing; and the conflicts.
change(Id, Node, Events, #member{handle = Handle}) ->
    change(Id, Node, Events, Handle, [], []).

change(_, _, [], _, Results, Conflicts) ->
    {lists:append(lists:reverse(Results)), lists:append(lists:reverse(Conflicts))};
change(Id, Node, Events, Handle, Results, Conflicts) ->
    {First, Rest} = split(?CHUNK, Events),
    Changes = lists:append([to_change(Event, Node) || Event <- First]),
    {Changed, More} = proctab_nif:change_claims(Handle, Id, Changes),
    %% Several calls in one time slice would hold the scheduler for over a millisecond.
    erlang:yield(),
    change(Id, Node, Rest, Handle, [aligned(First, Changed) | Results], [More | Conflicts]).

%% An event `copied' changes no claim.
aligned(Events, Results) when length(Events) =:= length(Results) -> Results;
aligned([{copied, _, _} | Events], Results) -> [same | aligned(Events, Results)];
aligned([_ | Events], [Result | Results]) -> [Result | aligned(Events, Results)].

split(Most, List) ->
    try
        lists:split(Most, List)
    catch
        error:badarg -> {List, []}
    end.

%%% Peers

watched(Pids, #member{missing = Missing} = Member) ->
    Others = [Pid || Pid <- Pids, node(Pid) =/= node()],
    First =
        case Missing of
            unknown -> Member#member{missing = [Pid || Pid <- Others, is_missing(Pid, Member)]};
            _ -> Member
        end,
    status_changed(lists:foldl(fun peer_joined/2, First, Others)).

is_missing(Pid, #member{peers = Peers}) ->
    case Peers of
        #{Pid := #peer{is_complete = true}} -> false;
        _ -> true
    end.

peer_joined(Pid, Member) when node(Pid) =:= node() ->
    Member;
peer_joined(Pid, #member{peers = Peers} = Member) ->
    case Peers of
        #{Pid := Peer} -> set_peer(Pid, Peer#peer{has_rejoined = true}, Member);
        _ -> add_peer(Pid, Member)
    end.

%% The monitor comes first: whatever ends the session is noticed.
add_peer(Pid, #member{handle = Handle} = Member) ->
    Node = node(Pid),
    Peer = #peer{
        node = Node,
        monitor = monitor_busy(Pid),
        session = make_ref(),
        id = proctab_nif:add_member(Handle, Node, atom_to_binary(Node), Pid),
        sending = gen_tracker_cluster_sending:new(Pid)
    },
    open_session(Pid, Peer, Member).

%% Monitors a process of a node whose connection may be busy. OTP 25.2 and earlier releases, which
%% do not have the flag, wait for the connection then.
-dialyzer({nowarn_function, monitor_busy/1}).
monitor_busy(Pid) ->
    try process_flag(async_dist, true) of
        Before ->
            Monitor = monitor(process, Pid),
            _ = process_flag(async_dist, Before),
            Monitor
    catch
        error:badarg -> monitor(process, Pid)
    end.

%% Begins to receive from a peer.
open_session(Pid, #peer{session = Session, sending = Sending} = Peer, Member) ->
    #member{zone = Zone, sessions = Sessions} = Member,
    Serving = gen_tracker_cluster_sending:session(Sending),
    Hello = {gen_tracker_cluster, hello, ?VERSION, Zone, Session, self(), Serving},
    Greeted = say(Hello, Peer),
    set_peer(Pid, Greeted, Member#member{sessions = Sessions#{Session => {receiving, Pid}}}).

set_peer(Pid, Peer, #member{peers = Peers} = Member) ->
    Member#member{peers = Peers#{Pid => Peer}}.

peer_ended(Pid, #member{peers = Peers, sessions = Sessions} = Member) ->
    {Peer, Left} = maps:take(Pid, Peers),
    Ended = close_session(Peer, Member#member{sessions = without_sending(Peer, Sessions)}),
    Changed = status_changed(without_missing(Pid, Ended#member{peers = Left})),
    %% A monitor would make a lost connection again. The next connection brings another report.
    case Peer#peer.has_rejoined andalso lists:member(Peer#peer.node, nodes(connected)) of
        true -> add_peer(Pid, Changed);
        false -> Changed
    end.

%% Ends the session in which this process receives from a peer.
close_session(#peer{node = Node, id = Id, session = Session}, Member) ->
    #member{handle = Handle, copies = Copies, sessions = Sessions} = Member,
    ok = proctab_nif:end_member(Handle, Id),
    ok = gen_tracker_cluster_copies:remove_member(Node, later_names(Node, Id, Member), Copies),
    sweep(Id, {nodedown, Node}, Member#member{sessions = maps:remove(Session, Sessions)}).

%% The names in other sessions with a node, whose copies are those of that node as well: its next
%% cluster process may have begun before the end of the last one was noticed.
later_names(Node, Id, #member{handle = Handle, peers = Peers}) ->
    maps:from_list([
        {Name, []}
     || #peer{node = Same, id = Other} <- maps:values(Peers), Same =:= Node, Other =/= Id,
        {Name, Pid} <- all(Handle, Other, 0, []), is_pid(Pid)
    ]).

%% Without a session in which this process sends, its reference is `undefined', and no key.
without_sending(#peer{sending = Sending}, Sessions) ->
    maps:remove(gen_tracker_cluster_sending:session(Sending), Sessions).

without_missing(Pid, #member{missing = [_ | _] = Missing} = Member) ->
    Member#member{missing = lists:delete(Pid, Missing)};
without_missing(_, Member) ->
    Member.

%% Calls a function that changes the state, without telling the subscribers of anything.
untold(Fun, #member{subscribers = Subscribers} = Member) ->
    Changed = Fun(Member#member{subscribers = #{}}),
    Changed#member{subscribers = Subscribers}.

%% Removes claims that are invisible already. Subscribers are told at once: the member may come back
%% with other claims.
sweep(Id, Reason, #member{subscribers = Subscribers} = Member) ->
    case sweep_some(Id, Reason, Member) of
        {true, Swept} when map_size(Subscribers) > 0 -> sweep(Id, Reason, Swept);
        {true, Swept} -> self() ! {tag(Swept), {sweep, Id, Reason}}, Swept;
        {false, Swept} -> Swept
    end.

sweep_some(Id, Reason, #member{handle = Handle} = Member) ->
    {Removed, More} = proctab_nif:sweep_claims(Handle, Id),
    Tell = fun({Name, Pid}, Before) -> tell({down, Name, Pid, reason(Reason)}, Before) end,
    Told = lists:foldl(Tell, Member, Removed),
    lists:foreach(fun({Name, _}) -> forget_copies(Name, Reason, Member) end, Removed),
    {More, Told}.

reason({lost, _}) -> lost;
reason(Reason) -> Reason.

%% The member lives on, so that the copies of all of its names were not removed.
forget_copies(Name, {lost, Node}, #member{copies = Copies}) ->
    gen_tracker_cluster_copies:remove(Node, Name, Copies);
forget_copies(_, _, _) ->
    ok.

%% Publishes members and homes, and tells the peers of the own status if that has changed.
status_changed(#member{table = Table, peers = Peers} = Member) ->
    Known = [Peer || #peer{is_member = true} = Peer <- maps:values(Peers)],
    Members = lists:usort([node() | [Peer#peer.node || Peer <- Known]]),
    OwnHome = [node() || status(Member) =:= {true, true}],
    Homes = [Node || #peer{node = Node, accepting = true, synced = true} <- Known],
    Changed = members_changed(ets:lookup_element(Table, members, 2), Members, Member),
    true = ets:insert(Table, [{members, Members}, {homes, OwnHome ++ Homes}]),
    case status(Member) of
        Same when Same =:= Member#member.told ->
            Changed;
        Status ->
            Send = fun(Sending) -> gen_tracker_cluster_sending:status(Status, Sending) end,
            Changed#member{told = Status, peers = send_each(Send, Peers)}
    end.

members_changed(Members, Members, Member) ->
    Member;
members_changed(Before, Members, Member) ->
    lists:foreach(fun(Node) -> emit(nodedown, #{node => Node}, Member) end, Before -- Members),
    lists:foreach(fun(Node) -> emit(nodeup, #{node => Node}, Member) end, Members -- Before),
    tell({members, Members}, Member).

status(#member{accepting = Accepting, missing = Missing}) ->
    {Accepting, Missing =:= []}.

%% Sends something to each peer.
send_each(Send, Peers) ->
    maps:map(
        fun(_, #peer{sending = Sending} = Peer) -> Peer#peer{sending = Send(Sending)} end,
        Peers
    ).

%% Sends a message that the peer cannot do without.
say(Message, #peer{sending = Sending} = Peer) ->
    Peer#peer{sending = gen_tracker_cluster_sending:say(Message, Sending)}.

%% The time has passed after which a busy connection is tried again.
resume(Pid, #member{peers = Peers} = Member) ->
    case Peers of
        #{Pid := #peer{sending = Sending} = Peer} ->
            Resumed = gen_tracker_cluster_sending:resume(read_claims(Member), Sending),
            set_peer(Pid, Peer#peer{sending = Resumed}, Member);
        _ ->
            Member
    end.

%%% As a sender

%% Opens the session in which a peer receives.
hello(?VERSION, Zone, Session, From, Serving, #member{zone = Zone} = Member) ->
    Known =
        case Member of
            #member{peers = #{From := _}} -> Member;
            _ -> add_peer(From, Member)
        end,
    #member{peers = #{From := #peer{sending = Sending} = Peer}, sessions = Sessions} = Known,
    Opened = maps:put(Session, {sending, From}, without_sending(Peer, Sessions)),
    Welcome = {welcome, ?VERSION, status(Member)},
    Begun = gen_tracker_cluster_sending:open(Session, Welcome, read_claims(Known), Sending),
    Served = Peer#peer{sending = Begun},
    case Peer of
        #peer{is_member = true, session = Own} when Own =/= Serving ->
            %% The peer has forgotten the session in which it was sending.
            reopen(From, Served, Known#member{sessions = Opened});
        _ ->
            set_peer(From, Served, Known#member{sessions = Opened})
    end;
hello(Version, Zone, Session, From, _Serving, #member{zone = Own} = Member) ->
    ?LOG_ERROR(#{label => {gen_tracker_cluster, refused}, zone => Own, from => From,
                 version => Version, its_zone => Zone}),
    refuse(From, {gen_tracker_cluster, Session, {bye, {version, ?VERSION}}}, Member).

%% The peer does not become one.
refuse(Pid, Message, Member) ->
    ok = gen_tracker_cluster_sending:send(Pid, Message, {tag(Member), {refuse, Pid, Message}}),
    Member.

reopen(Pid, #peer{node = Node} = Peer, Member) ->
    #member{handle = Handle} = Closed = close_session(Peer, Member),
    Next = Peer#peer{
        session = make_ref(),
        id = proctab_nif:add_member(Handle, Node, atom_to_binary(Node), Pid),
        is_member = false,
        epoch = 0,
        is_in_snapshot = false,
        is_complete = false,
        accepting = false,
        synced = false
    },
    status_changed(open_session(Pid, Next, Closed)).

%% Returns the function that reads the own claims for the pages of a snapshot.
read_claims(#member{handle = Handle, own = Own} = Member) ->
    fun(From) ->
        {Page, Next} = proctab_nif:claims_page(Handle, Own, From, []),
        {[attributed(Claim, Member) || Claim <- Page], Next}
    end.

attributed({_, held} = Claim, _) ->
    Claim;
attributed({Name, Pid}, Member) ->
    {Name, Pid, attributes(Name, Member)}.

broadcast([], Member) ->
    Member;
broadcast(Events, #member{peers = Peers} = Member) ->
    Send = fun(Sending) -> gen_tracker_cluster_sending:events(Events, Sending) end,
    Member#member{peers = send_each(Send, Peers)}.

from_receiver({credit, Number} = Credit, Pid, #member{peers = Peers} = Member)
        when is_integer(Number), Number > 0 ->
    #{Pid := #peer{sending = Sending} = Peer} = Peers,
    case gen_tracker_cluster_sending:credit(Number, read_claims(Member), Sending) of
        {ok, Credited} -> set_peer(Pid, Peer#peer{sending = Credited}, Member);
        excess -> malformed(Credit, Pid, Member)
    end;
from_receiver(Message, Pid, Member) ->
    malformed(Message, Pid, Member).

%%% As a receiver

from_sender(Message, Pid, #member{peers = Peers} = Member) ->
    #{Pid := Peer} = Peers,
    try
        heard(Message, Pid, Peer, Member)
    catch
        throw:malformed -> refused(Message, Pid, Member);
        %% A name is too large for the table.
        error:badarg -> refused(Message, Pid, Member)
    end.

%% The sender waits for the credit of a message with claims, whatever is wrong with it.
refused({Claims, _} = Message, Pid, #member{peers = Peers} = Member)
        when Claims =:= page; Claims =:= events ->
    #{Pid := #peer{session = Session} = Peer} = Peers,
    Credited = say({gen_tracker_cluster, Session, {credit, 1}}, Peer),
    malformed(Message, Pid, set_peer(Pid, Credited, Member));
refused(Message, Pid, Member) ->
    malformed(Message, Pid, Member).

%% A session begins with `welcome'. Claims come after the beginning of a snapshot, pages only
%% before its end.
heard({welcome, ?VERSION, {Accepting, Synced}}, Pid, #peer{is_member = false} = Peer, Member)
        when is_boolean(Accepting), is_boolean(Synced) ->
    Welcomed = Peer#peer{is_member = true, accepting = Accepting, synced = Synced},
    #member{zone = Zone, table = Table, copies = Copies, options = #{unique := Unique}} = Member,
    Shared = {self(), Table, Unique, Copies},
    ok = gen_tracker_cluster_options:compare(Zone, Peer#peer.node, Shared),
    status_changed(set_peer(Pid, Welcomed, Member));
heard({bye, _} = Message, Pid, #peer{is_member = false, node = Node}, Member) ->
    ?LOG_ERROR(#{label => {gen_tracker_cluster, refused}, zone => Member#member.zone, node => Node,
                 message => Message}),
    status_changed(without_missing(Pid, Member));
heard({status, {Accepting, Synced}}, Pid, #peer{is_member = true} = Peer, Member)
        when is_boolean(Accepting), is_boolean(Synced) ->
    Changed = Peer#peer{accepting = Accepting, synced = Synced},
    status_changed(set_peer(Pid, Changed, Member));
heard({snapshot, Epoch}, Pid, #peer{is_member = true, id = Id, epoch = Before} = Peer, Member)
        when is_integer(Epoch), Epoch > Before ->
    ok = proctab_nif:begin_snapshot(Member#member.handle, Id),
    set_peer(Pid, Peer#peer{epoch = Epoch, is_in_snapshot = true}, Member);
heard({page, Claims}, Pid, #peer{is_in_snapshot = true} = Peer, Member) ->
    Checked = checked(Claims, fun is_claim/1),
    claimed([claim_event(Claim) || Claim <- Checked], Pid, Peer, Member);
heard({events, Events}, Pid, #peer{epoch = Epoch} = Peer, Member) when Epoch > 0 ->
    claimed(checked(Events, fun is_event/1), Pid, Peer, Member);
heard(complete, Pid, #peer{is_in_snapshot = true, id = Id, node = Node} = Peer, Member) ->
    ok = proctab_nif:end_snapshot(Member#member.handle, Id),
    Complete = Peer#peer{is_in_snapshot = false, is_complete = true},
    Swept = sweep(Id, {lost, Node}, set_peer(Pid, Complete, Member)),
    status_changed(without_missing(Pid, Swept));
heard(_, _, _, _) ->
    throw(malformed).

%% Returns a list whose elements are all good.
checked(List, IsGood) ->
    case is_list(List) andalso is_proper(List) andalso lists:all(IsGood, List) of
        true -> List;
        false -> throw(malformed)
    end.

is_proper([_ | Rest]) -> is_proper(Rest);
is_proper(Rest) -> Rest =:= [].

is_claim({_, held}) -> true;
is_claim({_, Pid, Attributes}) -> is_pid(Pid) andalso are_attributes(Attributes);
is_claim(_) -> false.

claim_event({Name, held}) -> {held, Name};
claim_event({Name, Pid, Attributes}) -> {up, Name, Pid, Attributes}.

is_event({held, _}) -> true;
is_event({free, _}) -> true;
is_event({up, _, Pid, Attributes}) -> is_pid(Pid) andalso are_attributes(Attributes);
is_event({down, _, Pid, _}) -> is_pid(Pid);
is_event({copied, _, Attributes}) -> are_attributes(Attributes);
is_event(_) -> false.

are_attributes([{_, _} | Rest]) -> are_attributes(Rest);
are_attributes(Rest) -> Rest =:= [].

claimed(Events, Pid, #peer{id = Id, node = Node, session = Session} = Peer, Member) ->
    {Results, Conflicts} = change(Id, Node, Events, Member),
    lists:foreach(fun(Event) -> copy(Event, Node, Member#member.copies) end, Events),
    Credited = say({gen_tracker_cluster, Session, {credit, 1}}, Peer),
    Told = tell_changes(Events, Results, set_peer(Pid, Credited, Member)),
    conflicts(Conflicts, Node, Events, Told).

copy(_, _, {_, _, [], _}) -> ok;
copy({up, Name, _, Attributes}, Node, Copies) ->
    gen_tracker_cluster_copies:set(Node, Name, Attributes, Copies);
copy({copied, Name, Attributes}, Node, Copies) ->
    gen_tracker_cluster_copies:set(Node, Name, Attributes, Copies);
copy(Event, Node, Copies) ->
    gen_tracker_cluster_copies:remove(Node, element(2, Event), Copies).

malformed(Message, From, #member{zone = Zone} = Member) ->
    ?LOG_ERROR(#{label => {gen_tracker_cluster, malformed_message}, zone => Zone, from => From,
                 message => Message}),
    Member.

%%% Conflicts

conflicts(Found, Node, Events, Member) ->
    lists:foldl(fun conflict/2, Member, gen_tracker_cluster_conflicts:between(Found, Node, Events)).

conflict({Name, {_, Winner}, {Node, Loser}}, Member) ->
    #member{conflicts = Conflicts} = Told = tell({conflict, Name, Winner, Loser}, Member),
    emit(conflict, #{name => Name, kept => Winner, lost => Loser}, Member),
    case Node =:= node() of
        true ->
            Lost = gen_tracker_cluster_conflicts:lose(Name, Loser, Winner, Conflicts),
            Told#member{conflicts = Lost};
        false ->
            Told
    end.

%%% Subscribers and telemetry

running(#member{handle = Handle, own = Own}) ->
    Others = [{Name, Pid} || {Name, _, Pid} <- all(Handle, others, 0, []), is_pid(Pid)],
    [{Name, Pid} || {Name, Pid} <- all(Handle, Own, 0, []), is_pid(Pid)] ++ Others.

all(_, _, done, Claims) ->
    Claims;
all(Handle, Whose, From, Before) ->
    {Claims, Next} = proctab_nif:claims_page(Handle, Whose, From, Before),
    all(Handle, Whose, Next, Claims).

%% Tells the subscribers what has changed in the directory. So what they have been told is at any
%% moment what readers find, whatever a peer repeats or leaves out.
tell_changes(_, _, #member{subscribers = Subscribers} = Member)
        when map_size(Subscribers) =:= 0 ->
    Member;
tell_changes(Events, Results, Member) ->
    Tell = fun({Event, Was}, Before) ->
        lists:foldl(fun tell/2, Before, changed(Event, Was))
    end,
    lists:foldl(Tell, Member, lists:zip(Events, Results)).

%% `Was' is the pid that readers found before the event.
changed(_, Same) when Same =:= same; Same =:= skipped -> [];
changed({down, Name, Was, Reason}, Was) -> [{down, Name, Was, Reason}];
changed({up, Name, Pid, _}, undefined) -> [{up, Name, Pid}];
changed({up, Name, Pid, _}, Was) -> [{down, Name, Was, lost}, {up, Name, Pid}];
changed({_, Name}, Was) -> [{down, Name, Was, lost}].

%% Brings the directory to a state from which it goes on by births and deaths alone: applies what
%% the table has said already, which may be older than the rows that this process has read at its
%% start, and removes invisible claims, whose end no subscriber is told of later.
settled(#member{secret = Secret} = Member) ->
    {message_queue_len, Most} = process_info(self(), message_queue_len),
    Applied = own_events(more_events(Secret, Most, []), Member),
    maps:fold(
        fun(_, #peer{id = Id, node = Node}, Before) ->
            untold(fun(Untold) -> sweep_all(Id, {lost, Node}, Untold) end, Before)
        end,
        Applied,
        Applied#member.peers
    ).

sweep_all(Id, Reason, Member) ->
    case sweep_some(Id, Reason, Member) of
        {true, Swept} -> sweep_all(Id, Reason, Swept);
        {false, Swept} -> Swept
    end.

tell(Event, #member{zone = Zone, subscribers = Subscribers} = Member) ->
    maps:foreach(fun(Pid, _) -> Pid ! {gen_tracker_cluster, Zone, Event} end, Subscribers),
    Member.

emit(Event, Metadata, #member{zone = Zone, options = Options}) ->
    Measurements = #{system_time => erlang:system_time()},
    gen_tracker_telemetry:emit(Options, [cluster, Event], Measurements, Metadata#{zone => Zone}).

without_subscriber(Pid, #member{subscribers = Subscribers} = Member) ->
    case maps:take(Pid, Subscribers) of
        {Monitor, Left} ->
            true = demonitor(Monitor, [flush]),
            ok = proctab_nif:remove_subscriber(Pid),
            Member#member{subscribers = Left};
        error ->
            Member
    end.
