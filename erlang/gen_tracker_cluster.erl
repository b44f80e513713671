%% @doc Zones on several nodes.
%%
%% Zones of one name that are started with the option `cluster' of {@link gen_tracker:start_link/2}
%% on connected nodes are one <em>cluster zone</em>, and each of them is a <em>member</em>. The
%% functions of {@link gen_tracker} concern the member of this node alone. Those of this module
%% concern all members.
%%
%% Options, in the map of the option `cluster':
%% <ul>
%% <li>`copied => Keys': all members have copies of the attributes of these keys, as they have of
%%     indexed ones;</li>
%% <li>`conflict => {Module, Function}': what happens to a child that has to give way to one of the
%%     same name on another node, see below;</li>
%% <li>`unique => lock': a start or a registration also takes the lock of `global:trans/2' on the
%%     name. The default is `home'.</li>
%% </ul>
%%
%% Reads are local: every member has a native table of the names of the others, which follows their
%% births and deaths. A name may be found a moment after its death. No name of a member is found any
%% more once the end of that member, or of the connection, has been noticed.
%%
%% While all members have the same view of each other, a name has at most one child. On the two
%% sides of a broken connection, or while members come and go, there can be two. As soon as they are
%% noticed, one of them <em>loses</em>: all members choose the same. The loser's member stops it,
%% never restarts it, and its `after_terminate/3' is called with the reason `{conflict, Winner}'.
%% The option `conflict' names a function that decides otherwise. It is called as
%% `Module:Function(Zone, Name, Loser, Winner)', on the loser's node, and returns
%% <ul>
%% <li>`stop';</li>
%% <li>`{hand_over, Term}': the loser is sent `{gen_tracker_cluster, hand_over, Winner, Term}', and
%%     has its shutdown time before it is stopped;</li>
%% <li>`keep': both go on.</li>
%% </ul>
%%
%% All functions raise `badarg' if the zone does not run on this node, or was started without the
%% option `cluster', unless they say otherwise. All members should have the same options: a member
%% has no copies of keys that the child's member does not copy. Differences are logged.
-module(gen_tracker_cluster).

-export([find/2, find_or_open/2, home/2, members/1, drain/1]).
-export([getattr/3, getattr/4, info/2, setattr/3, setattr/4, increment/4, increment/5, cas/5]).
-export([delattr/3]).
-export([count/1, names/1, fold/3, lookup/3, publish/4]).
-export([register_name/2, unregister_name/1, whereis_name/1, send/2]).
-export([subscribe/1, unsubscribe/1]).

-export_type([event/0]).

-include("proctab_errors.hrl").

-type event() :: {gen_tracker_cluster, gen_tracker:zone(),
                  {up, gen_tracker:name(), pid()}
                  | {down, gen_tracker:name(), pid(), Reason :: term()}
                  | {members, [node()]}
                  | {conflict, gen_tracker:name(), Kept :: pid(), Lost :: pid()}
                  | unsubscribed}.
%% A message to a subscriber.

%%% Finding and starting

%% @doc Returns the running child of a name on any member, in one native call. If several members
%% have one, this is the one of this node, or else the one that wins the conflict. A process of this
%% node that is the child of another member is not returned after its death.
-spec find(gen_tracker:zone(), gen_tracker:name()) -> {ok, pid()} | undefined.
find(Zone, Name) ->
    ?OR_BADARG(proctab_nif:find_claim(Zone, Name), [Zone, Name]).

%% @doc Returns the running child of a name on any member, or starts it on the {@link home/2} of the
%% name. The start function is called once, however many callers there are on however many nodes.
%%
%% Results and errors are those of {@link gen_tracker:find_or_open/2}: also this function returns
%% `{error, gen_tracker_not_started}' if the zone does not run on this node. Other errors are
%% <ul>
%% <li>`{error, {nodedown, Node}}', if the member that was to start the child has gone meanwhile;
%%     it may have started the child;</li>
%% <li>`{error, no_home}', if for five seconds no member accepts starts, or two of them cannot agree
%%     which one starts the child.</li>
%% </ul>
-spec find_or_open(gen_tracker:zone(), gen_tracker:child_spec()) -> term().
find_or_open(Zone, Spec) when is_atom(Zone) ->
    ?OR_BADARG(gen_tracker_cluster_opening:find_or_open(Zone, Spec), [Zone, Spec]);
find_or_open(Zone, Spec) ->
    ?BADARG([Zone, Spec]).

%% @doc Returns the member that would start a name, or `undefined' if no member accepts starts. It
%% is the same on all members that know the same members. A member accepts starts when it knows the
%% names of all others, and until it is drained.
-spec home(gen_tracker:zone(), gen_tracker:name()) -> node() | undefined.
home(Zone, Name) ->
    %% Refuses a name that is too large for the table, and perhaps for a hash.
    _ = ?OR_BADARG(proctab_nif:find_claim(Zone, Name), [Zone, Name]),
    ?OR_BADARG(gen_tracker_cluster_opening:home(Zone, Name), [Zone, Name]).

%% @doc Returns the nodes of all members, also of those that are drained.
-spec members(gen_tracker:zone()) -> [node()].
members(Zone) ->
    ?OR_BADARG(gen_tracker_cluster_opening:members(Zone), [Zone]).

%% @doc Makes this member accept no more starts, until its zone is started again: it is the home of
%% no name any more. Returns when it has no children. Stops none of them. After that, no call of
%% {@link find_or_open/2} calls a start function here, also none that had chosen this member before.
%%
%% Exits if the zone or its cluster process ends meanwhile.
-spec drain(gen_tracker:zone()) -> ok.
drain(Zone) ->
    {Process, _, _, _} = ?OR_BADARG(proctab_nif:cluster_shared(Zone), [Zone]),
    gen_tracker_cluster_member:drain(Process).

%%% Attributes

%% @doc Returns the value of an attribute: from this node for a child of this node, and for keys
%% that are copied; otherwise from the child's node, with the errors of `erpc:call/4'.
-spec getattr(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key()) ->
          {ok, gen_tracker:value()} | undefined.
getattr(Zone, Name, Key) ->
    ?OR_BADARG(gen_tracker_cluster_attributes:get(Zone, Name, Key), [Zone, Name, Key]).

%% @doc Like {@link getattr/3}, after waiting for the attribute to appear for at most `Timeout'
%% milliseconds. The member that has the child waits, in one call, unless the key is copied. If the
%% child ends meanwhile, or its member or the connection to that does, the call waits for the
%% attribute of the next child of that name, on any member.
-spec getattr(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(), timeout()) ->
          {ok, gen_tracker:value()} | undefined.
getattr(Zone, Name, Key, Timeout) when Timeout =:= infinity; is_integer(Timeout), Timeout >= 0 ->
    ?OR_BADARG(
        gen_tracker_cluster_attributes:await(Zone, Name, Key, Timeout),
        [Zone, Name, Key, Timeout]
    );
getattr(Zone, Name, Key, Timeout) ->
    ?BADARG([Zone, Name, Key, Timeout]).

%% @doc Returns all attributes of a name, from the child's node.
-spec info(gen_tracker:zone(), gen_tracker:name()) -> gen_tracker:attributes().
info(Zone, Name) ->
    case ?OR_BADARG(gen_tracker_cluster_attributes:other_owner(Zone, Name), [Zone, Name]) of
        none -> gen_tracker:info(Zone, Name);
        Node -> erpc:call(Node, gen_tracker, info, [Zone, Name])
    end.

%% @doc As {@link gen_tracker:setattr/3}, on the child's node. Raises the errors of `erpc:call/4' if
%% that is another one.
-spec setattr(gen_tracker:zone(), gen_tracker:name(),
              gen_tracker:attributes() | [term()] | #{gen_tracker:key() => gen_tracker:value()}) ->
          ok.
setattr(Zone, Name, Attributes) ->
    Pairs =
        case Attributes of
            #{} -> maps:to_list(Attributes);
            _ -> Attributes
        end,
    Arguments = [Zone, Name, Attributes],
    case ?OR_BADARG(proctab_nif:cluster_setattr(Zone, Name, Pairs), Arguments) of
        ok -> ok;
        void -> at_owner(setattr, Arguments)
    end.

%% @doc As {@link gen_tracker:setattr/4}, on the child's node. Raises the errors of `erpc:call/4' if
%% that is another one.
-spec setattr(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(), gen_tracker:value()) ->
          ok.
setattr(Zone, Name, Key, Value) ->
    Arguments = [Zone, Name, Key, Value],
    case ?OR_BADARG(proctab_nif:cluster_setattr(Zone, Name, Key, Value), Arguments) of
        ok -> ok;
        void -> at_owner(setattr, Arguments)
    end.

%% @doc As {@link gen_tracker:increment/4}, on the child's node. Raises the errors of `erpc:call/4'
%% if that is another one.
-spec increment(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(),
                gen_tracker:operation()) -> integer().
increment(Zone, Name, Key, Increment) when is_integer(Increment) ->
    Arguments = [Zone, Name, Key, Increment],
    case ?OR_BADARG(proctab_nif:cluster_increment(Zone, Name, Key, Increment), Arguments) of
        Sum when is_integer(Sum) -> Sum;
        _ -> at_owner(increment, Arguments)
    end;
increment(Zone, Name, Key, Operation) ->
    at_owner(increment, [Zone, Name, Key, Operation]).

%% @doc As {@link gen_tracker:increment/5}, on the child's node, or on this one if no member has the
%% name. Raises the errors of `erpc:call/4' if that is another one.
-spec increment(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(),
                gen_tracker:operation(), Default :: integer() | term()) -> integer().
increment(Zone, Name, Key, Increment, Default) when is_integer(Increment), is_integer(Default) ->
    Arguments = [Zone, Name, Key, Increment, Default],
    First = Default + Increment,
    case ?OR_BADARG(proctab_nif:cluster_increment(Zone, Name, Key, Increment, First), Arguments) of
        Sum when is_integer(Sum) -> Sum;
        _ -> at_owner(increment, Arguments)
    end;
increment(Zone, Name, Key, Operation, Default) ->
    at_owner(increment, [Zone, Name, Key, Operation, Default]).

%% @doc As {@link gen_tracker:cas/5}, on the child's node. Raises the errors of `erpc:call/4' if
%% that is another one.
-spec cas(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(), Old :: gen_tracker:value(),
          New :: gen_tracker:value()) ->
          ok | {error, {current, gen_tracker:value()} | undefined}.
cas(Zone, Name, Key, Old, New) ->
    Arguments = [Zone, Name, Key, Old, New],
    case ?OR_BADARG(proctab_nif:cluster_cas(Zone, Name, Key, Old, New), Arguments) of
        ok -> ok;
        {current, Value} when Value =/= Old -> {error, {current, Value}};
        undefined -> {error, undefined};
        _ -> at_owner(cas, Arguments)
    end.

%% @doc As {@link gen_tracker:delattr/3}, on the child's node. Raises the errors of `erpc:call/4' if
%% that is another one.
-spec delattr(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key()) -> ok.
delattr(Zone, Name, Key) ->
    case ?OR_BADARG(proctab_nif:cluster_delattr(Zone, Name, Key), [Zone, Name, Key]) of
        ok -> ok;
        undefined -> at_owner(delattr, [Zone, Name, Key])
    end.

%% Calls a function of `gen_tracker' at the member that has a name, or at this one. The functions
%% above do so only for what the native call has not done at once: it changes the attributes of a
%% child of this member.
at_owner(Function, [Zone, Name | _] = Arguments) ->
    try gen_tracker_cluster_attributes:other_owner(Zone, Name) of
        none -> apply(gen_tracker, Function, Arguments);
        Node -> erpc:call(Node, gen_tracker, Function, Arguments)
    catch
        error:badarg ->
            error(badarg, Arguments, proctab_errors:info(?MODULE, Function, Arguments))
    end.

%%% All members

%% @doc Returns the number of children: those of this member in any state, and the running ones of
%% the others. A name with a child on two members counts twice until their conflict is resolved.
-spec count(gen_tracker:zone()) -> non_neg_integer().
count(Zone) ->
    Others = ?OR_BADARG(proctab_nif:claims_count(Zone), [Zone]),
    gen_tracker:count(Zone) + Others.

%% @doc Returns the names of all children, in any state and any order.
-spec names(gen_tracker:zone()) -> [gen_tracker:name()].
names(Zone) ->
    Others = ?OR_BADARG(others(Zone, 0, #{}), [Zone]),
    Own = maps:from_keys(gen_tracker:names(Zone), []),
    maps:keys(maps:merge(Others, Own)).

others(_, done, Names) ->
    Names;
others(Zone, From, Before) ->
    {Claims, Next} = proctab_nif:claims_page(Zone, others, From, []),
    Add = fun({Name, _, _}, Names) -> Names#{Name => []} end,
    others(Zone, Next, lists:foldl(Add, Before, Claims)).

%% @doc Folds a function over the running children of all members, in any order, page by page. Of
%% several children of one name, it sees the one that {@link find/2} returns.
-spec fold(fun((gen_tracker:name(), pid(), Acc) -> Acc), Acc, gen_tracker:zone()) -> Acc.
fold(Fun, Acc, Zone) when is_function(Fun, 3), is_atom(Zone) ->
    _ = ?OR_BADARG(proctab_nif:claims_count(Zone), [Fun, Acc, Zone]),
    fold_others(Fun, gen_tracker:fold(Fun, Acc, Zone), Zone, 0);
fold(Fun, Acc, Zone) ->
    ?BADARG([Fun, Acc, Zone]).

fold_others(_, Acc, _, done) ->
    Acc;
fold_others(Fun, Acc, Zone, From) ->
    {Claims, Next} = proctab_nif:claims_page(Zone, others, From, []),
    Visit = fun({Name, _, Pid}, Before) ->
        case is_pid(Pid) andalso proctab_nif:find_claim(Zone, Name) of
            {ok, Pid} -> Fun(Name, Pid, Before);
            _ -> Before
        end
    end,
    fold_others(Fun, lists:foldl(Visit, Acc, Claims), Zone, Next).

%% @doc Returns the running children of all members whose attribute has a value, as {@link
%% gen_tracker:lookup/3} does for one member. Attributes of other members are those of the local
%% copy.
-spec lookup(gen_tracker:zone(), gen_tracker:key(), gen_tracker:value()) ->
          [{gen_tracker:name(), pid()}].
lookup(Zone, Key, Value) ->
    Others = ?OR_BADARG(copies(Zone, Key, Value), [Zone, Key, Value]),
    Own = ?OR_BADARG(gen_tracker:lookup(Zone, Key, Value), [Zone, Key, Value]),
    Own ++ Others.

%% Of several children of one name, the one that find/2 returns.
copies(Zone, Key, Value) ->
    {_, _, _, Copies} = proctab_nif:cluster_shared(Zone),
    %% Refuses a key that is not indexed, and a value that would take too long to be hashed.
    _ = proctab_nif:count(Zone, Key, Value),
    [
        {Name, Pid}
     || {Name, Node} <- gen_tracker_cluster_copies:lookup(Key, Value, Copies),
        Pid <- child_of(Zone, Name, Node)
    ].

child_of(Zone, Name, Node) ->
    case {proctab_nif:find(Zone, Name), proctab_nif:best_claim(Zone, Name)} of
        {undefined, {Node, Pid}} when is_pid(Pid) -> [Pid];
        _ -> []
    end.

%% @doc Sends a message to all children that {@link lookup/3} returns, and returns their number.
-spec publish(gen_tracker:zone(), gen_tracker:key(), gen_tracker:value(), Message :: term()) ->
          non_neg_integer().
publish(Zone, Key, Value, Message) ->
    Others = ?OR_BADARG(copies(Zone, Key, Value), [Zone, Key, Value, Message]),
    Own = ?OR_BADARG(gen_tracker:publish(Zone, Key, Value, Message), [Zone, Key, Value, Message]),
    lists:foreach(fun({_, Pid}) -> Pid ! Message end, Others),
    Own + length(Others).

%%% Names for OTP

%% @doc Registers a process of this node, for `{via, gen_tracker_cluster, {Zone, Name}}'. Returns
%% `no' if a child of any member has the name, if no member accepts starts, and for any other error
%% of {@link gen_tracker:register_name/2}. Raises `badarg' for a process of another node. The name
%% is held on its home meanwhile.
-spec register_name(gen_tracker:via_name(), pid()) -> yes | no.
register_name({Zone, Name}, Pid) when is_atom(Zone), is_pid(Pid), node(Pid) =:= node() ->
    ?OR_BADARG(
        gen_tracker_cluster_opening:register_name(Zone, Name, Pid), [{Zone, Name}, Pid]
    );
register_name(ViaName, Pid) ->
    ?BADARG([ViaName, Pid]).

%% @doc Unregisters a name on the member that has it, as {@link gen_tracker:unregister_name/1}. Does
%% nothing if the zone does not run on this node. Raises the errors of `erpc:call/4' if another node
%% has the name.
-spec unregister_name(gen_tracker:via_name()) -> ok.
unregister_name({Zone, Name}) when is_atom(Zone) ->
    try gen_tracker_cluster_attributes:other_owner(Zone, Name) of
        none -> gen_tracker:unregister_name({Zone, Name});
        Node -> erpc:call(Node, gen_tracker, unregister_name, [{Zone, Name}])
    catch
        error:badarg -> ok
    end;
unregister_name(ViaName) ->
    ?BADARG([ViaName]).

%% @doc Returns the running child of a name on any member. Returns `undefined' if there is none, if
%% the zone does not run, or if the child is a process of this node that has died.
-spec whereis_name(gen_tracker:via_name()) -> pid() | undefined.
whereis_name({Zone, Name}) when is_atom(Zone) ->
    try proctab_nif:find_claim_alive(Zone, Name) of
        {ok, Pid} -> Pid;
        undefined -> undefined
    catch
        error:badarg -> undefined
    end;
whereis_name(ViaName) ->
    ?BADARG([ViaName]).

%% @doc Sends a message to the running child of a name on any member, and returns its pid. Exits
%% with `{badarg, {{Zone, Name}, Message}}' if there is none.
-spec send(gen_tracker:via_name(), Message :: term()) -> pid().
send(ViaName, Message) ->
    case ?OR_BADARG(whereis_name(ViaName), [ViaName, Message]) of
        undefined ->
            exit({badarg, {ViaName, Message}});
        Pid ->
            Pid ! Message,
            Pid
    end.

%%% Events

%% @doc Subscribes the caller to births and deaths on all members. Returns the running children.
%%
%% From then on the caller receives `{gen_tracker_cluster, Zone, Event}'. The events are
%% <ul>
%% <li>`{up, Name, Pid}' and `{down, Name, Pid, Reason}' as those of {@link
%%     gen_tracker:subscribe/1}: for each name of each member in turn, none missing, none twice. The
%%     reason is `lost' if this member was too slow for the events of the other one, and has missed
%%     the death;</li>
%% <li>`{down, Name, Pid, {nodedown, Node}}' for each child of a member that has gone, or whose
%%     connection has;</li>
%% <li>`{members, Nodes}' when members have come or gone;</li>
%% <li>`{conflict, Name, Kept, Lost}' when a name has two children;</li>
%% <li>`unsubscribed', the last one, when the zone or its cluster process ends.</li>
%% </ul>
%%
%% Exits if the zone or its cluster process ends meanwhile.
-spec subscribe(gen_tracker:zone()) -> {ok, [{gen_tracker:name(), pid()}]}.
subscribe(Zone) ->
    {Process, _, _, _} = ?OR_BADARG(proctab_nif:cluster_shared(Zone), [Zone]),
    try
        gen_tracker_cluster_member:subscribe(Process)
    catch
        exit:Reason ->
            ok = gen_tracker_events:forget_end(?MODULE, Zone),
            exit(Reason)
    end.

%% @doc Ends the caller's subscription. No event arrives after this has returned, and none is left
%% in the mailbox.
-spec unsubscribe(gen_tracker:zone()) -> ok.
unsubscribe(Zone) ->
    {Process, _, _, _} = ?OR_BADARG(proctab_nif:cluster_shared(Zone), [Zone]),
    _ = try gen_tracker_cluster_member:unsubscribe(Process) catch exit:_ -> ended end,
    gen_tracker_events:forget(?MODULE, Zone).
