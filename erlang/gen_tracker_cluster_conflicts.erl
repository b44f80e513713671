%% @private
%% The conflicts of a member of a cluster zone: which of two children with one name wins, and how
%% the child of this member gives way if it loses.
%%
%% The functions are called by the cluster process. A callback for conflicts runs in a process of
%% its own. The messages of these processes, of the timers and of the monitors of keepers are
%% handled by {@link handle/2}.
-module(gen_tracker_cluster_conflicts).

-export([new/4, rank/2, between/3, lose/4, handle/2, ended/3]).
-export([ask/2]).

-export_type([conflicts/0, callback/0]).

-include_lib("kernel/include/logger.hrl").

%% How long a callback may take, in milliseconds.
-define(DECISION, 5000).
%% After how long a conflict is looked at again whose keeper was killed, or whose loser is to get a
%% keeper, in milliseconds.
-define(AGAIN, 50).

-type callback() :: {module(), Function :: atom()}.
-type decision() :: stop | {hand_over, term()}.

-record(conflict, {
    loser :: pid(),
    winner :: pid(),
    %% What the callback says, or the monitor of the process that runs it; without a free process,
    %% a reference until there is one.
    decision :: decision() | {asking, reference()},
    %% The keeper that was told.
    keeper :: {pid(), Monitor :: reference()} | undefined
}).

-record(conflicts, {
    zone :: gen_tracker:zone(),
    tracker :: pid(),
    %% Known to the processes of the zone alone: a message of a stranger must not kill a process.
    tag :: reference(),
    callback :: callback() | undefined,
    %% Those in which the child of this member loses.
    lost = #{} :: #{gen_tracker:name() => #conflict{}}
}).

-opaque conflicts() :: #conflicts{}.

%% @doc Returns the conflicts of a member without any.
-spec new(gen_tracker:zone(), Tracker :: pid(), Tag :: reference(), callback() | undefined) ->
          conflicts().
new(Zone, Tracker, Tag, Callback) ->
    #conflicts{zone = Zone, tracker = Tracker, tag = Tag, callback = Callback}.

%% @doc Returns the rank of a member for a name, the same on all nodes.
-spec rank(gen_tracker:name(), node()) -> 0..16#ffffffff.
rank(Name, Node) ->
    erlang:phash2({Name, Node}, 1 bsl 32).

%% @doc Returns the winner and the loser of each conflict, each with its node. `Found' has the
%% claims that were there, each with its name, node and pid. The other claim is one of those that
%% `Events' of `Node' have just made.
-spec between([{gen_tracker:name(), node(), pid()}], node(), Events :: [tuple()]) ->
          [{gen_tracker:name(), Winner :: {node(), pid()}, Loser :: {node(), pid()}}].
between([], _, _) ->
    [];
between(Found, Node, Events) ->
    Pids = lists:foldl(fun running/2, #{}, Events),
    [
        ranked(Name, {Node, map_get(Name, Pids)}, {OtherNode, Other})
     || {Name, OtherNode, Other} <- best_first(Found),
        %% Otherwise the child has ended, or two members have added the same process, or the zone
        %% of one node was started again, and its last cluster process has not ended yet.
        Node =/= OtherNode,
        is_map_key(Name, Pids),
        map_get(Name, Pids) =/= Other
    ].

running({up, Name, Pid, _}, Pids) -> Pids#{Name => Pid};
running({copied, _, _}, Pids) -> Pids;
running(Event, Pids) -> maps:remove(element(2, Event), Pids).

%% A loser is told of one winner alone: of several claims, of that with the highest rank.
best_first(Found) ->
    Ranked = [{{rank(Name, Node), Node}, Claim} || {Name, Node, _} = Claim <- Found],
    [Claim || {_, Claim} <- lists:reverse(lists:usort(Ranked))].

ranked(Name, {Node, _} = New, {OtherNode, _} = Old) ->
    case is_above(Name, Node, OtherNode) of
        true -> {Name, New, Old};
        false -> {Name, Old, New}
    end.

is_above(Name, Node, Other) ->
    {rank(Name, Node), Node} > {rank(Name, Other), Other}.

%% @doc Makes the child of this member give way to the winner, unless it does that already.
-spec lose(gen_tracker:name(), Loser :: pid(), Winner :: pid(), conflicts()) -> conflicts().
lose(Name, Loser, Winner, #conflicts{lost = Lost} = Conflicts) ->
    case Lost of
        #{Name := #conflict{loser = Loser}} ->
            Conflicts;
        _ ->
            Decision = decide(Name, Loser, Winner, Conflicts),
            Conflict = #conflict{loser = Loser, winner = Winner, decision = Decision},
            case Decision of
                {asking, _} -> Conflicts#conflicts{lost = Lost#{Name => Conflict}};
                stop -> give_way(Name, Conflict, Conflicts)
            end
    end.

decide(_, _, _, #conflicts{callback = undefined}) ->
    stop;
decide(Name, Loser, Winner, #conflicts{zone = Zone, tag = Tag, callback = Callback}) ->
    Options = [{monitor, [{tag, {decision, Name}}]}],
    try spawn_opt(?MODULE, ask, [Callback, [Zone, Name, Loser, Winner]], Options) of
        {Process, Monitor} ->
            _ = erlang:send_after(?DECISION, self(), {Tag, {late_decision, Process}}),
            {asking, Monitor}
    catch
        error:system_limit ->
            Later = make_ref(),
            _ = erlang:send_after(?AGAIN, self(), {Tag, {ask_later, Name, Later}}),
            {asking, Later}
    end.

%% @private
-spec ask(callback(), [term()]) -> no_return().
ask({Module, Function}, Arguments) ->
    exit({decided, apply(Module, Function, Arguments)}).

%% @doc Handles a message. Ignores unknown ones.
-spec handle(term(), conflicts()) -> conflicts().
handle({{decision, Name}, Monitor, process, _, Reason}, Conflicts) ->
    decided(Name, Monitor, Reason, Conflicts);
handle({Tag, {ask_later, Name, Later}}, #conflicts{tag = Tag, lost = Lost} = Conflicts) ->
    case Lost of
        #{Name := #conflict{decision = {asking, Later}} = Conflict} ->
            #conflict{loser = Loser, winner = Winner} = Conflict,
            Asked = Conflict#conflict{decision = decide(Name, Loser, Winner, Conflicts)},
            Conflicts#conflicts{lost = Lost#{Name := Asked}};
        _ ->
            Conflicts
    end;
handle({Tag, {late_decision, Process}}, #conflicts{tag = Tag} = Conflicts) ->
    exit(Process, kill),
    Conflicts;
handle({{conflict, Name}, Monitor, process, _, _}, #conflicts{lost = Lost} = Conflicts) ->
    case Lost of
        #{Name := #conflict{keeper = {_, Monitor}}} ->
            %% If the tracker has to find another keeper, that takes a moment.
            again(Name, Conflicts);
        _ ->
            Conflicts
    end;
handle({Tag, {conflict_again, Name}}, #conflicts{tag = Tag, lost = Lost} = Conflicts) ->
    case Lost of
        #{Name := #conflict{decision = {asking, _}}} -> Conflicts;
        #{Name := #conflict{keeper = undefined} = Conflict} -> give_way(Name, Conflict, Conflicts);
        _ -> tell_keeper(Name, Conflicts)
    end;
handle(_, Conflicts) ->
    Conflicts.

decided(Name, Monitor, Reason, #conflicts{lost = Lost} = Conflicts) ->
    case Lost of
        #{Name := #conflict{decision = {asking, Monitor}} = Conflict} ->
            Decision = decision(Reason, Name, Conflicts),
            give_way(Name, Conflict#conflict{decision = Decision}, Conflicts);
        _ ->
            Conflicts
    end.

%% Another child may be the better one by now: the winner was not the best, or has ended since the
%% callback or the tracker was asked. That is another conflict. If there is none, the child goes on.
%% If it is the same process, which several members have added, that child may end, and leave
%% another better one.
give_way(Name, Conflict, #conflicts{lost = Lost} = Conflicts) ->
    #conflict{loser = Loser, winner = Winner, decision = Decision} = Conflict,
    Others = Conflicts#conflicts{lost = maps:remove(Name, Lost)},
    case better_child(Name, Conflicts) of
        Winner when Decision =/= keep ->
            tell_keeper(Name, Conflicts#conflicts{lost = Lost#{Name => Conflict}});
        Loser when Decision =/= keep ->
            again(Name, Conflicts#conflicts{lost = Lost#{Name => Conflict}});
        Next when is_pid(Next), Next =/= Winner, Next =/= Loser ->
            lose(Name, Loser, Next, Others);
        _ ->
            Others
    end.

%% Returns what a callback has decided that ended with this reason.
decision({decided, keep}, _, _) ->
    keep;
decision({decided, {hand_over, _} = HandOver}, _, _) ->
    HandOver;
decision({decided, stop}, _, _) ->
    stop;
decision(Reason, Name, #conflicts{zone = Zone}) ->
    ?LOG_ERROR(#{label => {gen_tracker_cluster, conflict_callback}, zone => Zone, name => Name,
                 reason => Reason}),
    stop.

%% Returns the child of another member that the own child of a name has to give way to.
better_child(Name, #conflicts{zone = Zone}) ->
    try proctab_nif:best_claim(Zone, Name) of
        {Node, Pid} when is_pid(Pid) ->
            case is_above(Name, Node, node()) of
                true -> Pid;
                false -> none
            end;
        _ ->
            none
    catch
        %% The tracker has ended, and this process is about to.
        error:badarg -> none
    end.

%% Tells the keeper of the loser, and the next one if that is killed before it has acted. A
%% registered process gets a keeper of its own first.
tell_keeper(Name, #conflicts{lost = Lost} = Conflicts) ->
    case Lost of
        #{Name := #conflict{loser = Loser} = Conflict} ->
            case keeper(Name, Loser, Conflicts) of
                none ->
                    Conflicts#conflicts{lost = maps:remove(Name, Lost)};
                registrar ->
                    #conflicts{tracker = Tracker, tag = Tag} = Conflicts,
                    Tracker ! {Tag, needs_keeper, Name, Loser},
                    %% A keeper that was told before was a registrar, which has been replaced.
                    Untold = Conflict#conflict{keeper = undefined},
                    again(Name, Conflicts#conflicts{lost = Lost#{Name := Untold}});
                Keeper ->
                    Told = Conflict#conflict{keeper = tell(Keeper, Name, Conflict, Conflicts)},
                    Conflicts#conflicts{lost = Lost#{Name := Told}}
            end;
        _ ->
            Conflicts
    end.

again(Name, #conflicts{tag = Tag} = Conflicts) ->
    _ = erlang:send_after(?AGAIN, self(), {Tag, {conflict_again, Name}}),
    Conflicts.

%% Returns the keeper of a running child, or `none'.
keeper(Name, Pid, #conflicts{zone = Zone}) ->
    try {proctab_nif:child(Zone, Name), proctab_nif:registrars(Zone)} of
        {{running, Pid, Keeper, _}, Registrars} ->
            case lists:member(Keeper, Registrars) of
                true -> registrar;
                false -> Keeper
            end;
        _ ->
            none
    catch
        error:badarg -> none
    end.

tell(Keeper, Name, Conflict, #conflicts{tag = Tag}) ->
    #conflict{loser = Loser, winner = Winner, decision = Decision} = Conflict,
    Monitor = monitor(process, Keeper, [{tag, {conflict, Name}}]),
    ok = gen_tracker_keeper:lose(Keeper, Tag, Loser, Winner, Decision),
    {Keeper, Monitor}.

%% @doc Notes that a child of this member has ended.
-spec ended(gen_tracker:name(), pid(), conflicts()) -> conflicts().
ended(Name, Pid, #conflicts{lost = Lost} = Conflicts) ->
    case Lost of
        #{Name := #conflict{loser = Pid} = Conflict} ->
            _ = [demonitor(Monitor, [flush]) || {_, Monitor} <- [Conflict#conflict.keeper]],
            Conflicts#conflicts{lost = maps:remove(Name, Lost)};
        _ ->
            Conflicts
    end.
