%% Records in an ETS table, apart from the library, what the processes of a system under faults
%% (`faults`) have done and may expect. `faults_balance` compares these books with the library.
%% `demo_books:wrong/2` enters disagreements.
%%
%% Each start of a child has an id. `after_terminate` must be called for a child once it was found
%% in its zone while no process was about to end the zone: a zone that ends may omit the call, but
%% never calls twice.
-module(faults_books).

-export([open/2, close/0, node/0, end_faults/0, faults_ended/0, is_stable/1]).
%% Starts of children
-export([outcome/1, starts/0, block/0, release_blocked/0, add_helper/2, helpers/1]).
%% Children
-export([new_id/0, child_started/3, child_started/4, id_of/2, alive/1, is_alive/1]).
%% Calls of `after_terminate`
-export([expect_after_terminate/2, after_terminate_called/2, allow_missing_call/1]).
-export([zone_ending/1, zone_ended/1, wrong_after_terminate/0]).
%% Tracked processes and workers
-export([epoch/0, next_epoch/0, add_tracked/1, living_tracked/0]).
-export([add_worker/2, add_cleanup/1, living_workers/0, uncleaned/1]).
-export([cleanup_disturbed/0, disturbed_cleanups/0]).
%% Upgrades
-export([changed/1, changes/0]).

-compile({no_auto_import, [node/0]}).

-define(TABLE, ?MODULE).

%% Opens the books. `Node` is another node on which children may run, or `none`.
open(Seed, Node) ->
    ?TABLE = ets:new(?TABLE, [named_table, public, {write_concurrency, true}]),
    true = ets:insert(?TABLE, [{seed, Seed}, {node, Node}, {faults_ended, false}]),
    demo_books:open().

close() ->
    true = ets:delete(?TABLE),
    true = ets:delete(demo_books),
    ok.

node() ->
    ets:lookup_element(?TABLE, node, 2).

%% From now on every start succeeds, and callbacks do not call the zone.
end_faults() ->
    true = ets:insert(?TABLE, {faults_ended, true}),
    ok.

faults_ended() ->
    ets:lookup_element(?TABLE, faults_ended, 2).

%% Whether no fault ends this zone.
is_stable(Zone) -> Zone =:= faults_stable.

%% Starts of children

%% Returns what the next start of a name does. `faults_child` carries it out.
outcome(Name) ->
    Start = add({starts, Name}),
    case faults_ended() of
        true -> starts;
        false -> outcome_of(erlang:phash2({ets:lookup_element(?TABLE, seed, 2), Name, Start}, 40))
    end.

outcome_of(Draw) ->
    Failures = [raises, throws, garbage, no_pid, ignore, refuses, dies, blocks, dies_at_once],
    Misbehaviours = [untraps, unlinks, flushes, erases],
    Others = [helps, helps, asks, asks, asks, remote, remote, remote],
    Outcomes = Failures ++ Misbehaviours ++ Others,
    case lists:nthtail(min(length(Outcomes), Draw), Outcomes) of
        [Outcome | _] -> Outcome;
        [] -> starts
    end.

starts() ->
    lists:sum([Count || [Count] <- ets:match(?TABLE, {{starts, '_'}, '$1'})]).

%% Blocks the calling process until `release_blocked/0`.
block() ->
    true = ets:insert(?TABLE, {{blocked, self()}}),
    receive
        {?MODULE, go} -> ok
    end,
    true = ets:delete(?TABLE, {blocked, self()}).

release_blocked() ->
    [Pid ! {?MODULE, go} || [Pid] <- ets:match(?TABLE, {{blocked, '$1'}})],
    ok.

%% Enters a process that a start function has linked to the keeper beside its child.
add_helper(Pid, Zone) ->
    true = ets:insert(?TABLE, {{helper, Pid}, Zone}),
    ok.

%% Returns the helpers that are alive.
helpers(Zone) ->
    [Pid || [Pid] <- ets:match(?TABLE, {{helper, '$1'}, Zone}), is_process_alive(Pid)].

%% Children

new_id() ->
    erlang:unique_integer([positive]).

child_started(Id, Zone, Name) ->
    child_started(Id, Zone, Name, self()).

child_started(Id, Zone, Name, Pid) ->
    true = ets:insert(?TABLE, {{child, Id}, Zone, Name, Pid, false}),
    true = ets:insert(?TABLE, {{id, Zone, Pid}, Id}),
    ok.

%% Returns the id of a child of the stable zone, otherwise `unknown`.
id_of(Zone, Pid) ->
    case is_stable(Zone) andalso ets:lookup(?TABLE, {id, Zone, Pid}) of
        [{_, Id}] -> Id;
        _ -> unknown
    end.

%% Returns the children that are alive.
alive(Zone) ->
    [Pid || [Pid] <- ets:match(?TABLE, {{child, '_'}, Zone, '_', '$1', '_'}), is_alive(Pid)].

%% Whether a process of this or another node is alive.
is_alive(Pid) ->
    try
        erpc:call(node(Pid), erlang, is_process_alive, [Pid])
    catch
        error:{erpc, noconnection} -> false
    end.

%% Calls of after_terminate

%% From now on the end of this child requires a call, unless its zone is about to end.
expect_after_terminate(Id, Zone) ->
    true = ets:update_element(?TABLE, {child, Id}, {5, count({ending, Zone}) =:= 0}),
    ok.

%% Enters a call for a child with an id, or with an unknown one.
after_terminate_called(Name, unknown) -> add({unknown_ended, Name});
after_terminate_called(_Name, Id) -> add({ended, Id}).

%% Allows that the call for one child of this name is missing.
allow_missing_call(Name) ->
    add({allowed_missing_calls, Name}).

%% A process is about to end the zone, until it calls `zone_ended/1`.
zone_ending(Zone) ->
    add({ending, Zone}).

zone_ended(Zone) ->
    ets:update_counter(?TABLE, {ending, Zone}, -1).

%% Returns the repeated and the missing calls, when all zones were stopped.
wrong_after_terminate() ->
    Children = ets:match(?TABLE, {{child, '$1'}, '_', '$2', '_', '$3'}),
    Calls = ets:match(?TABLE, {{ended, '$1'}, '$2'}),
    ByName = maps:groups_from_list(
        fun([_, Name, _]) -> Name end, fun([Id, _, Expected]) -> {Id, Expected} end, Children
    ),
    [{called_twice, Id} || [Id, Count] <- Calls, Count > 1] ++
        lists:append([wrong_after_terminate(Name, Ids) || {Name, Ids} <- maps:to_list(ByName)]).

wrong_after_terminate(Name, Ids) ->
    Uncalled = [Child || {Id, _} = Child <- Ids, count({ended, Id}) =:= 0],
    Missing = [Id || {Id, true} <- Uncalled],
    Unknown = count({unknown_ended, Name}),
    Allowed = Unknown + count({allowed_missing_calls, Name}),
    [{never_called, Name, Missing} || length(Missing) > Allowed] ++
        [{called_too_often, Name, Unknown} || Unknown > length(Uncalled)].

%% Tracked processes and workers
%%
%% The end of the process that owns the tables of both servers begins a new epoch: its tables are
%% empty.

epoch() ->
    count(epoch).

next_epoch() ->
    add(epoch).

%% Enters that the calling process is tracked under a name.
add_tracked(Name) ->
    true = ets:insert(?TABLE, {{tracked, self(), Name}}),
    ok.

%% Returns the pairs `{Name, Pid}` of this epoch whose process is alive.
living_tracked() ->
    Epoch = epoch(),
    [
        {Name, Pid}
     || [Pid, {tracked, Of, _} = Name] <- ets:match(?TABLE, {{tracked, '$1', '$2'}}),
        Of =:= Epoch,
        is_process_alive(Pid)
    ].

%% Enters that the calling process was registered so many times, after it had read the epoch.
add_worker(Epoch, Times) ->
    true = ets:insert(?TABLE, {{worker, self()}, Epoch, Times}),
    ok.

%% Enters a cleanup of a worker.
add_cleanup(Pid) ->
    add({cleaned, Pid}).

%% Returns the workers of this epoch that are alive.
living_workers() ->
    Epoch = epoch(),
    [{Pid, Times} || {Pid, Of, Times} <- workers(), Of =:= Epoch, is_process_alive(Pid)].

%% Returns the dead workers that `Filter` selects and that were not cleaned up once for each
%% registration, as `{Pid, Registrations, Cleanups}`. Registrations of earlier epochs may lack a
%% cleanup.
uncleaned(Filter) ->
    Epoch = epoch(),
    [
        {Pid, Times, Cleaned}
     || {Pid, Of, Times} <- workers(),
        Filter(Pid),
        not is_process_alive(Pid),
        Cleaned <- [count({cleaned, Pid})],
        Cleaned > Times orelse Cleaned < Times andalso Of =:= Epoch
    ].

workers() ->
    [{Pid, Of, Times} || [Pid, Of, Times] <- ets:match(?TABLE, {{worker, '$1'}, '$2', '$3'})].

%% Enters the kill of a process that may be in the middle of one cleanup.
cleanup_disturbed() ->
    add(disturbed_cleanups).

disturbed_cleanups() ->
    count(disturbed_cleanups).

%% Upgrades

%% Enters a call of `code_change/3` of a module.
changed(Module) ->
    add({changed, Module}).

changes() ->
    maps:from_list([
        {{changed, Module}, Times}
     || [Module, Times] <- ets:match(?TABLE, {{changed, '$1'}, '$2'})
    ]).

add(Key) ->
    ets:update_counter(?TABLE, Key, 1, {Key, 0}).

count(Key) ->
    case ets:lookup(?TABLE, Key) of
        [{_, Count}] -> Count;
        [] -> 0
    end.
