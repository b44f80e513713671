%% @private
%% Starts a name once among the members of a cluster zone, on its home.
%%
%% The caller looks into its own directory: a running child is returned, a name that is held belongs
%% to the member that holds it, and any other name to its home, the member of highest rank among
%% those that accept starts. That member is asked by `erpc', looks into its own directory, and
%% either opens the name, where its native claim makes it one start, or redirects the caller, once.
%% Two members that cannot agree have different views, so the caller looks again a little later.
%%
%% A process that registers itself does so where it runs. Its name is claimed meanwhile at the home,
%% by a start that calls back and then fails: so a registration and a start exclude each other.
-module(gen_tracker_cluster_opening).

-export([find_or_open/2, home/2, members/1, owner/2, register_name/3]).
-export([serve/3, child_of/2, register_from/4, register_here/3]).

%% How long a caller waits for a start, in milliseconds.
-define(TIMEOUT, 60000).
%% How long members may have different views, in milliseconds.
-define(AGREEMENT, 5000).
%% After how long a caller looks again, in milliseconds.
-define(AGAIN, 20).
%% How long a home waits to hear of a registration, in milliseconds.
-define(HEARD, 5000).

%% @doc Returns the running child of a name, or starts it on the home of the name.
-spec find_or_open(gen_tracker:zone(), gen_tracker:child_spec()) -> term().
find_or_open(Zone, Spec) ->
    case name(Spec) of
        {ok, Name} ->
            case proctab_nif:find_claim_alive(Zone, Name) of
                {ok, Pid} -> {ok, Pid};
                undefined -> check_and_open(Zone, Spec)
            end;
        error ->
            check_and_open(Zone, Spec)
    end.

name({Name, _, _}) -> {ok, Name};
name({Name, _, _, _, _, _}) -> {ok, Name};
name(#{id := Name}) -> {ok, Name};
name(_) -> error.

check_and_open(Zone, Spec) ->
    case gen_tracker_spec:check(Spec) of
        {ok, Name, _} -> open(Zone, Name, Spec, now_ms() + ?AGREEMENT);
        {error, Reason} -> {error, Reason}
    end.

open(Zone, Name, Spec, Deadline) ->
    case decide(Zone, Name) of
        {ok, Pid} ->
            {ok, Pid};
        {at, Node} ->
            case ask(Node, Zone, Spec, 1) of
                %% This has waited for a registration.
                {result, {error, {registering, _, _}}} -> open_again(Zone, Name, Spec, Deadline);
                {result, Result} -> Result;
                again -> open_again(Zone, Name, Spec, Deadline)
            end;
        nowhere ->
            open_again(Zone, Name, Spec, Deadline)
    end.

open_again(Zone, Name, Spec, Deadline) ->
    case now_ms() < Deadline of
        true ->
            timer:sleep(?AGAIN),
            open(Zone, Name, Spec, Deadline);
        false ->
            {error, no_home}
    end.

%% Where a name is, or is to be started, as far as this member knows.
decide(Zone, Name) ->
    case proctab_nif:find_claim_alive(Zone, Name) of
        {ok, Pid} ->
            {ok, Pid};
        undefined ->
            case owner(Zone, Name) of
                none -> home_of(Zone, Name);
                Node -> {at, Node}
            end
    end.

home_of(Zone, Name) ->
    case home(Zone, Name) of
        undefined -> nowhere;
        Node -> {at, Node}
    end.

%% @doc Returns the member that has a name, in any state.
-spec owner(gen_tracker:zone(), gen_tracker:name()) -> node() | none.
owner(Zone, Name) ->
    case proctab_nif:opening(Zone, Name, [], undefined) of
        held ->
            node();
        {free, _, _} ->
            case proctab_nif:best_claim(Zone, Name) of
                {Node, _} -> Node;
                undefined -> none
            end
    end.

%% @doc Returns the member that would start a name.
-spec home(gen_tracker:zone(), gen_tracker:name()) -> node() | undefined.
home(Zone, Name) ->
    case [{gen_tracker_cluster_member:rank(Name, Node), Node} || Node <- homes(Zone)] of
        [] -> undefined;
        Ranked -> element(2, lists:max(Ranked))
    end.

homes(Zone) ->
    published(homes, Zone, []).

%% @doc Returns the nodes of all members.
-spec members(gen_tracker:zone()) -> [node()].
members(Zone) ->
    published(members, Zone, [node()]).

published(Key, Zone, Default) ->
    {_, Table, _, _} = proctab_nif:cluster_shared(Zone),
    try
        ets:lookup_element(Table, Key, 2)
    catch
        %% There is no cluster process at this moment.
        error:badarg -> Default
    end.

ask(Node, Zone, Spec, _) when Node =:= node() ->
    {result, open_here(Zone, Spec)};
ask(Node, Zone, Spec, Redirects) ->
    try erpc:call(Node, ?MODULE, serve, [Zone, Spec, Redirects], ?TIMEOUT) of
        {redirect, Other} when Redirects > 0 -> ask(Other, Zone, Spec, Redirects - 1);
        {redirect, _} -> again;
        again -> again;
        {result, {error, gen_tracker_not_started}} -> again;
        {result, {error, shutdown}} -> {result, {error, {nodedown, Node}}};
        {result, Result} -> {result, Result}
    catch
        error:{erpc, noconnection} ->
            {result, {error, {nodedown, Node}}};
        error:{erpc, timeout} ->
            exit({timeout, {gen_tracker_cluster, find_or_open, [Zone, Spec]}});
        error:{exception, Reason, _} ->
            error(Reason);
        exit:{exception, Reason} ->
            exit(Reason)
    end.

%% @doc For a caller on another node: starts a child, if this member agrees that it has to.
-spec serve(gen_tracker:zone(), gen_tracker:child_spec(), Redirects :: non_neg_integer()) ->
          {result, term()} | {redirect, node()} | again.
serve(Zone, Spec, _Redirects) ->
    {ok, Name} = name(Spec),
    try decide(Zone, Name) of
        {ok, Pid} -> {result, {ok, Pid}};
        {at, Node} when Node =:= node() -> {result, open_here(Zone, Spec)};
        {at, Node} -> {redirect, Node};
        nowhere -> again
    catch
        %% The zone does not run here, or not any more.
        error:badarg -> again
    end.

open_here(Zone, Spec) ->
    case proctab_nif:cluster_shared(Zone) of
        {_, _, lock, _} ->
            {ok, Name} = name(Spec),
            Open = fun() -> open_locked(Zone, Name, Spec) end,
            global:trans({{gen_tracker_cluster, Zone, Name}, self()}, Open);
        _ ->
            gen_tracker:find_or_open(Zone, Spec)
    end.

%% The claim of a child that was started with the lock may not have arrived yet, so this asks.
open_locked(Zone, Name, Spec) ->
    Others = members(Zone) -- [node()],
    Answers = erpc:multicall(Others, ?MODULE, child_of, [Zone, Name], ?AGREEMENT),
    case [Pid || {ok, {ok, Pid}} <- Answers] of
        [Pid | _] -> {ok, Pid};
        [] -> gen_tracker:find_or_open(Zone, Spec)
    end.

%% @doc For another member: returns the running child of this member.
-spec child_of(gen_tracker:zone(), gen_tracker:name()) -> {ok, pid()} | undefined.
child_of(Zone, Name) ->
    try
        proctab_nif:find_alive(Zone, Name)
    catch
        error:badarg -> undefined
    end.

%% @doc Registers a process of this node, as `gen_tracker:register_name/2' does.
-spec register_name(gen_tracker:zone(), gen_tracker:name(), pid()) -> yes | no.
register_name(Zone, Name, Pid) ->
    register_name(Zone, Name, Pid, now_ms() + ?AGREEMENT).

register_name(Zone, Name, Pid, Deadline) ->
    case decide(Zone, Name) of
        {ok, _} ->
            no;
        {at, Node} when Node =:= node() ->
            case register_here(Zone, Name, Pid) of
                again -> register_again(Zone, Name, Pid, Deadline);
                Answer -> Answer
            end;
        {at, Node} ->
            Start = {?MODULE, register_from, [node(), Zone, Name, Pid]},
            case ask(Node, Zone, {Name, Start, temporary}, 0) of
                {result, {error, {registering, Pid, Answer}}} when Answer =/= again -> Answer;
                %% This has waited for the registration of another process.
                {result, {error, {registering, _, _}}} -> register_again(Zone, Name, Pid, Deadline);
                {result, _} -> no;
                again -> register_again(Zone, Name, Pid, Deadline)
            end;
        nowhere ->
            register_again(Zone, Name, Pid, Deadline)
    end.

%% @private Registers a process of this node. Does not wait for a start, which may be the
%% registration of another process.
-spec register_here(gen_tracker:zone(), gen_tracker:name(), pid()) -> yes | no | again.
register_here(Zone, Name, Pid) ->
    case is_starting(Zone, Name, Pid) orelse
            gen_tracker:add_existing_child(Zone, {Name, Pid, worker, []}) of
        true -> yes;
        {ok, Pid} -> yes;
        {error, already_present} -> again;
        {error, _} -> no
    end.

%% Returns whether the zone starts the caller under this name: then it gets the name when its start
%% function has returned.
is_starting(Zone, Name, Pid) when Pid =:= self() ->
    case proctab_nif:child(Zone, Name) of
        {State, _, Keeper, _} when State =:= launching; State =:= restarting ->
            gen_tracker_requests:parent() =:= Keeper;
        _ ->
            false
    end;
is_starting(_, _, _) ->
    false.

register_again(Zone, Name, Pid, Deadline) ->
    case now_ms() < Deadline of
        true ->
            timer:sleep(?AGAIN),
            register_name(Zone, Name, Pid, Deadline);
        false ->
            no
    end.

%% @private A start function that starts nothing: while it runs, this member holds the name.
-spec register_from(node(), gen_tracker:zone(), gen_tracker:name(), pid()) ->
          {error, {registering, pid(), yes | no | again}}.
register_from(Node, Zone, Name, Pid) ->
    Answer = erpc:call(Node, ?MODULE, register_here, [Zone, Name, Pid], ?TIMEOUT),
    _ = Answer =:= yes andalso await_claim(Node, Zone, Name, now_ms() + ?HEARD),
    {error, {registering, Pid, Answer}}.

%% Otherwise this member could start the name before it has heard of the registration.
await_claim(Node, Zone, Name, Deadline) ->
    case proctab_nif:best_claim(Zone, Name) of
        {Node, _} ->
            ok;
        _ ->
            now_ms() < Deadline andalso
                begin
                    timer:sleep(1),
                    await_claim(Node, Zone, Name, Deadline)
                end
    end.

now_ms() ->
    erlang:monotonic_time(millisecond).
