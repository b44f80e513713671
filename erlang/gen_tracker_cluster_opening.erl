%% @private
%% Starts a name once among the members of a cluster zone, on its home.
%%
%% The caller looks into its own directory: a running child is returned, a name that is held belongs
%% to the member that holds it, and any other name to its home, the member of highest rank among
%% those that accept starts. That member is asked by `erpc', looks into its own directory, and
%% either opens the name, where its native claim makes it one start, or redirects the caller, once.
%% Two members that cannot agree have different views, so the caller looks again a little later.
%%
%% A decision does not outlast a wait. A member that holds a name waits for the holder, but claims
%% nothing when the name becomes free; the home claims a name that is free at that moment, and that
%% no other member claims, or not at all. After a wait in vain, the caller decides again.
%%
%% A process that registers itself does so where it runs. Its name is claimed meanwhile at the home,
%% by a start that calls back and then fails: so a registration and a start exclude each other.
-module(gen_tracker_cluster_opening).

-export([find_or_open/2, home/2, members/1, owner/2, register_name/3]).
-export([serve/4, child_of/2, register_from/4, register_here/3]).

-include("gen_tracker_answers.hrl").

%% How long a caller waits for a start, and for several starts and cleanups, in milliseconds.
-define(TIMEOUT, 60000).
%% How long members may have different views, in milliseconds.
-define(AGREEMENT, 5000).
%% After how long a caller looks again, in milliseconds.
-define(AGAIN, 20).
%% How long a home waits to hear of a registration, in milliseconds.
-define(HEARD, 5000).
%% How often it looks for the claim, once a millisecond, before it asks.
-define(LOOKS, 20).
%% How long a caller waits until this member knows a child that another one has started, in
%% milliseconds.
-define(CLAIMED, 5000).
%% After how long at most a home tries again to get the lock of a name, in milliseconds.
-define(LOCKED, 50).

%% Where a name is, or is to be started.
-type decision() :: {ok, pid()} | {held | home, node()} | nowhere.
%% What a member says that was asked: the result of a start; that the caller has to decide again,
%% after a wait or at once (`undecided'), or a little later (`again'); or that name or spec are too
%% large for its table (`refused').
-type answer() :: {result, term()} | undecided | again | refused.
%% Until when members may disagree, and until when a caller decides again, in milliseconds of
%% monotonic time.
-type deadlines() :: {Agreement :: integer(), Limit :: integer()}.

%% @doc Returns the running child of a name, or starts it on the home of the name. Raises `badarg'
%% if the zone is one of this node alone, or a term is too large for its table.
-spec find_or_open(gen_tracker:zone(), gen_tracker:child_spec()) -> term().
find_or_open(Zone, Spec) ->
    try
        find_or_check(Zone, Spec)
    catch
        error:badarg -> find_or_open(Zone, Spec, tracker(Zone))
    end.

%% Distinguishes "the zone does not run" from the other reasons of `badarg', which are certain only
%% if the zone had the same tracker before and after.
find_or_open(_, Spec, none) ->
    case gen_tracker_spec:check(Spec) of
        {ok, _, _} -> {error, gen_tracker_not_started};
        {error, Reason} -> {error, Reason}
    end;
find_or_open(Zone, Spec, Tracker) ->
    try
        find_or_check(Zone, Spec)
    catch
        error:badarg ->
            case tracker(Zone) of
                Tracker -> error(badarg);
                Other -> find_or_open(Zone, Spec, Other)
            end
    end.

tracker(Zone) ->
    try
        proctab_nif:owner(Zone)
    catch
        error:badarg -> none
    end.

find_or_check(Zone, Spec) ->
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
        {ok, Name, ChildSpec} ->
            %% Refuses a spec that is too large, before another node is sent it.
            _ = proctab_nif:opening(Zone, Name, ChildSpec, undefined),
            open(Zone, Name, Spec, deadlines(now_ms() + ?TIMEOUT));
        {error, Reason} ->
            %% The zone may be one of this node alone.
            _ = proctab_nif:cluster_shared(Zone),
            {error, Reason}
    end.

-spec open(gen_tracker:zone(), gen_tracker:name(), gen_tracker:child_spec(), deadlines()) -> term().
open(Zone, Name, Spec, {_, Limit} = Deadlines) ->
    case decide(Zone, Name) of
        {ok, Pid} ->
            {ok, Pid};
        nowhere ->
            open_again(Zone, Name, Spec, Deadlines);
        {_, Node} = Decision ->
            Dead = dead_claim(Decision, Zone, Name),
            case ask(Node, Decision, Zone, Spec, 1, Limit) of
                {result, {ok, Dead}} -> open_again(Zone, Name, Spec, Deadlines);
                {result, Result} -> known(Result, Zone, Name);
                undecided -> open_undecided(Zone, Name, Spec, deadlines(Limit));
                again -> open_again(Zone, Name, Spec, Deadlines);
                refused -> error(badarg)
            end
    end.

%% Returns a result when this member finds the child: then the caller can, too. The claim of another
%% member may come later than its answer.
known({ok, Pid} = Result, Zone, Name) when node(Pid) =/= node() ->
    ok = await_known(Pid, Zone, Name),
    Result;
known({ok, Pid, _} = Result, Zone, Name) when node(Pid) =/= node() ->
    ok = await_known(Pid, Zone, Name),
    Result;
known(Result, _, _) ->
    Result.

%% A monitor would make a lost connection again.
await_known(Pid, Zone, Name) ->
    case is_found(Zone, Name) orelse not lists:member(node(Pid), nodes(connected)) of
        true ->
            ok;
        false ->
            Monitor = monitor(process, Pid),
            await_known(Monitor, Zone, Name, now_ms() + ?CLAIMED)
    end.

await_known(Monitor, Zone, Name, Deadline) ->
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after 1 ->
        case is_found(Zone, Name) orelse now_ms() > Deadline of
            true ->
                true = demonitor(Monitor, [flush]),
                ok;
            false ->
                await_known(Monitor, Zone, Name, Deadline)
        end
    end.

is_found(Zone, Name) ->
    try
        proctab_nif:find_claim(Zone, Name) =/= undefined
    catch
        %% The zone has ended.
        error:badarg -> true
    end.

deadlines(Limit) ->
    {now_ms() + ?AGREEMENT, Limit}.

open_undecided(Zone, Name, Spec, {_, Limit} = Deadlines) ->
    case now_ms() < Limit of
        true -> open(Zone, Name, Spec, Deadlines);
        false -> timed_out(Zone, Spec)
    end.

open_again(Zone, Name, Spec, {Agreement, _} = Deadlines) ->
    case now_ms() < Agreement of
        true ->
            timer:sleep(?AGAIN),
            open(Zone, Name, Spec, Deadlines);
        false ->
            {error, no_home}
    end.

-spec timed_out(gen_tracker:zone(), gen_tracker:child_spec()) -> no_return().
timed_out(Zone, Spec) ->
    exit({timeout, {gen_tracker_cluster, find_or_open, [Zone, Spec]}}).

%% Decides as far as this member knows.
-spec decide(gen_tracker:zone(), gen_tracker:name()) -> decision().
decide(Zone, Name) ->
    case proctab_nif:find_claim_alive(Zone, Name) of
        {ok, Pid} ->
            {ok, Pid};
        undefined ->
            case owner(Zone, Name) of
                none -> home_of(Zone, Name);
                Node -> {held, Node}
            end
    end.

%% Returns the child that another member has of a name without a living one, as far as this member
%% knows: a process of this node that has died. The other member does not know that yet, and would
%% return it.
dead_claim({held, Node}, Zone, Name) ->
    case proctab_nif:best_claim(Zone, Name) of
        {Node, Pid} when is_pid(Pid) -> Pid;
        _ -> none
    end;
dead_claim({home, _}, _, _) ->
    none.

home_of(Zone, Name) ->
    case home(Zone, Name) of
        undefined -> nowhere;
        Node -> {home, Node}
    end.

%% @doc Returns the member that has a name, in any state.
-spec owner(gen_tracker:zone(), gen_tracker:name()) -> node() | none.
owner(Zone, Name) ->
    case proctab_nif:claim_owner(Zone, Name) of
        own -> node();
        undefined -> none;
        Node -> Node
    end.

%% @doc Returns the member that would start a name.
-spec home(gen_tracker:zone(), gen_tracker:name()) -> node() | undefined.
home(Zone, Name) ->
    case [{gen_tracker_cluster_conflicts:rank(Name, Node), Node} || Node <- homes(Zone)] of
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

-spec ask(node(), decision(), gen_tracker:zone(), gen_tracker:child_spec(),
          Redirects :: non_neg_integer(), Limit :: integer()) -> answer().
ask(Node, Decision, Zone, Spec, _, Limit) when Node =:= node() ->
    open_here(Decision, Zone, Spec, time_until(Limit));
ask(Node, Decision, Zone, Spec, Redirects, Limit) ->
    Timeout = time_until(Limit),
    try erpc:call(Node, ?MODULE, serve, [Zone, Spec, Redirects, Timeout], Timeout) of
        {redirect, Other} when Redirects > 0, Other =/= node() ->
            ask(Other, Decision, Zone, Spec, Redirects - 1, Limit);
        {redirect, _} -> again;
        Answer -> Answer
    catch
        error:{erpc, noconnection} ->
            {result, {error, {nodedown, Node}}};
        error:{erpc, timeout} ->
            timed_out(Zone, Spec);
        error:{exception, Reason, _} ->
            error(Reason);
        exit:{exception, Reason} ->
            exit(Reason)
    end.

%% @doc For a caller on another node: starts a child, if this member agrees that it has to. Exits
%% with `timeout' if that takes longer than `Timeout' milliseconds.
-spec serve(gen_tracker:zone(), gen_tracker:child_spec(), Redirects :: non_neg_integer(),
            Timeout :: non_neg_integer()) ->
          answer() | {redirect, node()}.
serve(Zone, Spec, _Redirects, Timeout) ->
    {ok, Name} = name(Spec),
    try
        Owner = proctab_nif:owner(Zone),
        case decide(Zone, Name) of
            {ok, Pid} ->
                {result, {ok, Pid}};
            {_, Node} = Decision when Node =:= node() ->
                unless_ended(open_here(Decision, Zone, Spec, Timeout), Zone, Owner);
            {_, Node} ->
                {redirect, Node};
            nowhere ->
                again
        end
    catch
        %% The zone does not run here, or not any more.
        error:badarg -> again
    end.

%% A zone that ends answers these two, and a start function may return them as well: that is a
%% result like any other, and must not be asked for again.
unless_ended({result, {error, gen_tracker_not_started}} = Answer, Zone, Owner) ->
    case is_running(Zone, Owner) of
        true -> Answer;
        false -> again
    end;
unless_ended({result, {error, shutdown}} = Answer, Zone, Owner) ->
    case is_running(Zone, Owner) of
        true -> Answer;
        false -> {result, {error, {nodedown, node()}}}
    end;
unless_ended(Answer, _, _) ->
    Answer.

%% Returns whether the zone still has this tracker, which does not stop it.
is_running(Zone, Owner) ->
    try
        tracker(Zone) =:= Owner andalso
            is_process_alive(Owner) andalso
            not proctab_nif:was_stopped(Zone)
    catch
        error:badarg -> false
    end.

%% A name that this member holds needs no lock: it is not claimed.
open_here({held, _}, Zone, Spec, Timeout) ->
    open_with(fun gen_tracker_opening:open_held/4, Zone, Spec, Timeout);
open_here({home, _}, Zone, Spec, Timeout) ->
    {ok, Name} = name(Spec),
    Limit = now_ms() + Timeout,
    OpenHome = fun gen_tracker_opening:open_home/4,
    Open = fun() -> open_with(OpenHome, Zone, Spec, time_until(Limit)) end,
    case at_home(Open, Zone, Name, Limit) of
        timeout -> timed_out(Zone, Spec);
        Answer -> Answer
    end.

open_with(Open, Zone, Spec, Timeout) ->
    {ok, Name, ChildSpec} = gen_tracker_spec:check(Spec),
    case Open(Zone, Name, ChildSpec, Timeout) of
        {opened, Result} -> {result, Result};
        Answer -> Answer
    end.

%% Calls `Open', with the lock of the name if that is how the zone makes names unique.
at_home(Open, Zone, Name, Deadline) ->
    case proctab_nif:cluster_shared(Zone) of
        {_, _, lock, _} -> with_lock(Open, Zone, Name, Deadline);
        _ -> Open()
    end.

%% Tries to get the lock until the deadline. The retries of `global' have no limit in time, and do
%% not see that the name has a child, or another home, by now.
with_lock(Open, Zone, Name, Deadline) ->
    Id = {{gen_tracker_cluster, Zone, Name}, self()},
    case global:trans(Id, fun() -> locked(Open, Zone, Name) end, [node() | nodes()], 0) of
        aborted -> as_home(Zone, Name, fun() -> await_lock(Open, Zone, Name, Deadline) end);
        Answer -> Answer
    end.

await_lock(Open, Zone, Name, Deadline) ->
    case now_ms() < Deadline of
        true ->
            timer:sleep(rand:uniform(?LOCKED)),
            with_lock(Open, Zone, Name, Deadline);
        false ->
            timeout
    end.

%% The claim of a child that was started with the lock may not have arrived yet, so this asks. The
%% lock and the answers have taken time, so this decides again.
locked(Open, Zone, Name) ->
    Others = members(Zone) -- [node()],
    Answers = erpc:multicall(Others, ?MODULE, child_of, [Zone, Name], ?AGREEMENT),
    case {[Pid || {ok, {ok, Pid}} <- Answers], lists:member({ok, held}, Answers)} of
        {[Pid | _], _} ->
            {result, {ok, Pid}};
        {[], true} ->
            again;
        {[], false} ->
            as_home(Zone, Name, Open)
    end.

%% Decides again. Calls `Open' if this member is still the home of the name.
as_home(Zone, Name, Open) ->
    case decide(Zone, Name) of
        {ok, Pid} -> {result, {ok, Pid}};
        {home, Node} when Node =:= node() -> Open();
        {_, _} -> undecided;
        nowhere -> again
    end.

%% @doc For another member: returns the running child of this member, or whether the name is held.
-spec child_of(gen_tracker:zone(), gen_tracker:name()) -> {ok, pid()} | held | undefined.
child_of(Zone, Name) ->
    try {proctab_nif:find_alive(Zone, Name), proctab_nif:claim_owner(Zone, Name)} of
        {{ok, Pid}, _} -> {ok, Pid};
        {undefined, own} -> held;
        {undefined, _} -> undefined
    catch
        error:badarg -> undefined
    end.

%% @doc Registers a process of this node, as `gen_tracker:register_name/2' does.
-spec register_name(gen_tracker:zone(), gen_tracker:name(), pid()) -> yes | no.
register_name(Zone, Name, Pid) ->
    register_name(Zone, Name, Pid, false, deadlines(now_ms() + ?TIMEOUT)).

%% `WasAsked' says whether a home was asked. If that has ended before its answer, the process may be
%% registered, now or a moment later.
register_name(Zone, Name, Pid, WasAsked, {_, Limit} = Deadlines) ->
    Decision = decide(Zone, Name),
    IsAsked = WasAsked orelse is_elsewhere(Decision),
    case registration(Decision, Zone, Name, Pid, Limit) of
        yes -> yes;
        no -> answer(IsAsked andalso is_registered(Zone, Name, Pid));
        again -> register_again(Zone, Name, Pid, IsAsked, Deadlines);
        undecided -> register_undecided(Zone, Name, Pid, IsAsked, deadlines(Limit));
        refused -> error(badarg)
    end.

is_elsewhere({ok, _}) -> false;
is_elsewhere(nowhere) -> false;
is_elsewhere({_, Node}) -> Node =/= node().

registration({ok, _}, _, _, _, _) ->
    no;
registration(nowhere, _, _, _, _) ->
    again;
registration({held, Node}, Zone, Name, Pid, Limit) when Node =:= node() ->
    register_here(add_held, Zone, Name, Pid, Limit);
registration({home, Node}, Zone, Name, Pid, Limit) when Node =:= node() ->
    Register = fun() -> register_here(add_home, Zone, Name, Pid, Limit) end,
    case at_home(Register, Zone, Name, Limit) of
        {result, {ok, _}} -> no;
        timeout -> no;
        Answer -> Answer
    end;
registration({_, Node} = Decision, Zone, Name, Pid, Limit) ->
    Start = {?MODULE, register_from, [node(), Zone, Name, Pid]},
    Dead = dead_claim(Decision, Zone, Name),
    try ask(Node, Decision, Zone, {Name, Start, temporary}, 0, Limit) of
        {result, {ok, Dead}} -> again;
        {result, ?RESERVED(Answer)} -> Answer;
        {result, {error, {nodedown, _}}} -> again;
        %% The member was to stop what it was starting, or had no connection for a moment.
        {result, {error, killed}} -> again;
        {result, {error, {erpc, _}}} -> again;
        {result, _} -> no;
        Undecided -> Undecided
    catch
        exit:{timeout, {gen_tracker_cluster, find_or_open, _}} -> no
    end.

answer(true) -> yes;
answer(false) -> no.

is_registered(Zone, Name, Pid) ->
    try
        proctab_nif:find(Zone, Name) =:= {ok, Pid}
    catch
        error:badarg -> false
    end.

register_again(Zone, Name, Pid, IsAsked, {Agreement, _} = Deadlines) ->
    case now_ms() < Agreement of
        true ->
            timer:sleep(?AGAIN),
            register_name(Zone, Name, Pid, IsAsked, Deadlines);
        false ->
            answer(IsAsked andalso is_registered(Zone, Name, Pid))
    end.

register_undecided(Zone, Name, Pid, IsAsked, {_, Limit} = Deadlines) ->
    case now_ms() < Limit of
        true -> register_name(Zone, Name, Pid, IsAsked, Deadlines);
        false -> answer(IsAsked andalso is_registered(Zone, Name, Pid))
    end.

%% @private For the home of the name, which holds it: registers a process of this node, if the name
%% is free here.
-spec register_here(gen_tracker:zone(), gen_tracker:name(), pid()) ->
          yes | no | again | undecided | refused.
register_here(Zone, Name, Pid) ->
    register_here(add_free, Zone, Name, Pid, now_ms() + ?TIMEOUT).

%% Does not wait for a start, which may be the registration of another process.
register_here(Add, Zone, Name, Pid, Limit) ->
    try gen_tracker_registrar:reserve(Zone, Name, Pid) of
        true -> yes;
        false -> no;
        undefined -> add_here(Add, Zone, Name, Pid, Limit)
    catch
        error:badarg -> refused
    end.

%% The tracker has to be asked if the name is not free, or the zone has ended.
add_here(Add, Zone, Name, Pid, Limit) ->
    Spec = {undefined, temporary, 200, worker, []},
    case register_free(Add, Zone, Name, Spec, Pid) of
        registered -> yes;
        {error, _} -> no;
        ask -> ask_tracker(Add, Zone, Name, Spec, Pid, time_until(Limit))
    end.

register_free(add_held, _, _, _, _) ->
    ask;
register_free(add_home, Zone, Name, Spec, Pid) ->
    register_free(add_free, Zone, Name, Spec, {home, Pid});
register_free(add_free, Zone, Name, Spec, Process) ->
    try
        gen_tracker_registrar:register(Zone, Name, Spec, Process)
    catch
        error:badarg -> ask
    end.

ask_tracker(Add, Zone, Name, Spec, Pid, Timeout) ->
    Request = {Add, Name, Spec, Pid, gen_tracker_waits:parent()},
    try gen_server:call(Zone, Request, Timeout) of
        {ok, Pid} -> yes;
        ?UNDECIDED -> undecided;
        {error, already_present} -> again;
        {error, badarg} -> refused;
        {error, _} -> no
    catch
        %% The zone ends, or a cleanup takes too long.
        exit:_ -> no
    end.

%% @private A start function that starts nothing: while it runs, this member holds the name.
-spec register_from(node(), gen_tracker:zone(), gen_tracker:name(), pid()) ->
          ?RESERVED(yes | no | again | undecided | refused).
register_from(Node, Zone, Name, Pid) ->
    Answer = erpc:call(Node, ?MODULE, register_here, [Zone, Name, Pid], ?TIMEOUT),
    _ = Answer =:= yes andalso await_claim(Node, Zone, Name, Pid, now_ms() + ?HEARD),
    ?RESERVED(Answer).

%% Otherwise this member could start the name before it has heard of the registration. It may hear
%% of that and of its end at once, so it also asks whether the process still has the name.
await_claim(Node, Zone, Name, Pid, Deadline) ->
    IsOver =
        is_claimed(Node, Zone, Name, ?LOOKS) orelse
            now_ms() > Deadline orelse
            not has_name(Node, Zone, Name, Pid, time_until(Deadline)),
    IsOver orelse await_claim(Node, Zone, Name, Pid, Deadline).

is_claimed(_, _, _, 0) ->
    false;
is_claimed(Node, Zone, Name, Looks) ->
    case proctab_nif:best_claim(Zone, Name) of
        {Node, _} ->
            true;
        _ ->
            timer:sleep(1),
            is_claimed(Node, Zone, Name, Looks - 1)
    end.

%% The claims of a node without a connection have ended, or are about to.
has_name(Node, Zone, Name, Pid, Timeout) ->
    try
        erpc:call(Node, ?MODULE, child_of, [Zone, Name], Timeout) =:= {ok, Pid}
    catch
        error:{erpc, _} -> false
    end.

now_ms() ->
    erlang:monotonic_time(millisecond).

time_until(Limit) ->
    max(0, Limit - now_ms()).
