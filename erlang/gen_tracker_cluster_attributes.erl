%% @private
%% Reads attributes of the children of all members: from the table of this node for its own
%% children, from the local copies for keys that are copied, and otherwise at the child's member.
%%
%% A caller that waits for an attribute which only another member knows lets that member wait, with
%% one request. The request ends without a value if the member has the name no more, or the zone has
%% ended there. The caller then looks again which member has the name, and so does it if the
%% connection has broken. If no other member has the name, it looks into its own tables every 10 ms.
-module(gen_tracker_cluster_attributes).

-export([get/3, await/4, other_owner/2]).
-export([wait_here/5]).

%% How often a process that waits looks whether a name has moved, in milliseconds.
-define(AGAIN, 10).
%% The longest timeout of a call, in milliseconds.
-define(LONGEST_TIMEOUT, 16#ffffffff).

-type value() :: {ok, gen_tracker:value()} | undefined.
-type deadline() :: integer() | infinity.

%% @doc Returns the value of an attribute. Raises the errors of `erpc:call/4' if another member has
%% to be asked.
-spec get(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key()) -> value().
get(Zone, Name, Key) ->
    case look(Zone, Name, Key) of
        {at, Node} -> erpc:call(Node, gen_tracker, getattr, [Zone, Name, Key]);
        Value -> Value
    end.

%% @doc Returns the value of an attribute, after waiting for it to appear for at most `Timeout'
%% milliseconds. Raises errors like {@link get/3} if the first look fails. From then on, the end of
%% the member that has the name, or of the connection to it, is the end of its child.
-spec await(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(), timeout()) -> value().
await(Zone, Name, Key, Timeout) ->
    Deadline = deadline(Timeout),
    case get(Zone, Name, Key) of
        {ok, Value} -> {ok, Value};
        undefined -> wait(Zone, Name, Key, Deadline)
    end.

-spec wait(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(), deadline()) -> value().
wait(Zone, Name, Key, Deadline) ->
    case {look(Zone, Name, Key), left(Deadline)} of
        {{ok, Value}, _} ->
            {ok, Value};
        {_, 0} ->
            undefined;
        {undefined, _} ->
            wait_again(Zone, Name, Key, Deadline);
        {{at, Node}, Left} ->
            case let_wait(Node, Zone, Name, Key, Left) of
                {ok, Value} -> {ok, Value};
                undefined -> wait_again(Zone, Name, Key, Deadline)
            end
    end.

wait_again(Zone, Name, Key, Deadline) ->
    timer:sleep(min(?AGAIN, left(Deadline))),
    wait(Zone, Name, Key, Deadline).

let_wait(Node, Zone, Name, Key, Timeout) ->
    try
        erpc:call(Node, ?MODULE, wait_here, [Zone, Name, Key, Timeout, self()], Timeout)
    catch
        error:{erpc, Reason} when Reason =:= noconnection; Reason =:= timeout -> undefined
    end.

%% @doc For a caller on another member: waits for an attribute of a name of this member. Returns
%% `undefined' after `Timeout' milliseconds, when this member does not have the name, or when the
%% caller has ended.
-spec wait_here(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(),
                Timeout :: non_neg_integer(), Caller :: pid()) -> value().
wait_here(Zone, Name, Key, Timeout, Caller) ->
    Monitor = monitor(process, Caller),
    try
        wait_while_own(Zone, Name, Key, deadline(Timeout), Monitor)
    catch
        %% The zone has ended.
        error:badarg -> undefined
    end.

wait_while_own(Zone, Name, Key, Deadline, Monitor) ->
    Left = left(Deadline),
    case gen_tracker:getattr(Zone, Name, Key, min(?AGAIN, Left)) of
        {ok, Value} ->
            {ok, Value};
        undefined ->
            IsAwaited =
                Left > 0 andalso proctab_nif:claim_owner(Zone, Name) =:= own andalso
                    is_alive(Monitor),
            case IsAwaited of
                true -> wait_while_own(Zone, Name, Key, Deadline, Monitor);
                false -> undefined
            end
    end.

is_alive(Monitor) ->
    receive
        {'DOWN', Monitor, process, _, _} -> false
    after 0 -> true
    end.

%% Returns the value of an attribute as far as this node knows, or the member to ask.
-spec look(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key()) -> value() | {at, node()}.
look(Zone, Name, Key) ->
    case proctab_nif:cluster_getattr(Zone, Name, Key) of
        {ok, Value} ->
            {ok, Value};
        undefined ->
            case other_owner(Zone, Name) of
                none -> undefined;
                Node -> copy(Node, Zone, Name, Key)
            end
    end.

%% Only running children have copies.
copy(Node, Zone, Name, Key) ->
    {_, _, _, Copies} = proctab_nif:cluster_shared(Zone),
    Copy =
        case proctab_nif:find_claim(Zone, Name) of
            {ok, _} -> gen_tracker_cluster_copies:value(Node, Name, Key, Copies);
            undefined -> not_copied
        end,
    case Copy of
        not_copied -> {at, Node};
        _ -> Copy
    end.

%% @doc Returns the other member that has a name, in one native call.
-spec other_owner(gen_tracker:zone(), gen_tracker:name()) -> node() | none.
other_owner(Zone, Name) ->
    case proctab_nif:claim_owner(Zone, Name) of
        own -> none;
        undefined -> none;
        Node -> Node
    end.

deadline(infinity) -> infinity;
deadline(Timeout) -> erlang:monotonic_time(millisecond) + Timeout.

left(infinity) -> ?LONGEST_TIMEOUT;
left(Deadline) -> min(?LONGEST_TIMEOUT, max(0, Deadline - erlang:monotonic_time(millisecond))).
