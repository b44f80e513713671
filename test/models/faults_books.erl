%% The books of a world that is tormented: what each of its processes has done and been promised, kept apart from the library, in an ETS table. What must not be at all is told to
%% `demo_books:wrong/2'.
%%
%% An incarnation of a child, from one start to its end, has an id. Its last words are promised once it has been found in its zone, at a moment when nobody was about to end that zone: a
%% zone that ends calls `after_terminate' at most once.
-module(faults_books).

-export([open/2, close/0, node/0, make_peace/0, is_peace/0, is_calm/1, calm_zone/0]).
-export([new_id/0, born/3, born/4, promised/2, outcome/1, hang/0, let_go/0, ended/2, id_of/2]).
-export([is_alive/1]).
-export([helper/2, helpers/1]).
-export([ending/1, has_ended/1, excuse/1, alive/1, unkept/0, starts/0]).
-export([epoch/0, next_epoch/0, tracked/1, living_tracked/0, worker/2, cleaned/1, living_workers/0, uncleaned/1, changed/1, changes/0, meddled/0, meddlings/0]).

-compile({no_auto_import, [node/0]}).

-define(BOOKS, ?MODULE).

open(Seed, Node) ->
    ?BOOKS = ets:new(?BOOKS, [named_table, public, {write_concurrency, true}]),
    true = ets:insert(?BOOKS, [{seed, Seed}, {node, Node}, {peace, false}]),
    demo_books:open().

%% Another node, where children may run, or `none'.
node() ->
    ets:lookup_element(?BOOKS, node, 2).

close() ->
    true = ets:delete(?BOOKS),
    true = ets:delete(demo_books),
    ok.

%% From now on every start succeeds, and callbacks ask nothing.
make_peace() ->
    true = ets:insert(?BOOKS, {peace, true}),
    ok.

is_peace() ->
    ets:lookup_element(?BOOKS, peace, 2).

%% The zone that nobody ends.
calm_zone() -> faults_calm.
is_calm(Zone) -> Zone =:= calm_zone().

%% Children

new_id() ->
    erlang:unique_integer([positive]).

born(Id, Zone, Name) ->
    born(Id, Zone, Name, self()).

born(Id, Zone, Name, Pid) ->
    true = ets:insert(?BOOKS, {{child, Id}, Zone, Name, Pid, false}),
    true = ets:insert(?BOOKS, {{id, Zone, Pid}, Id}),
    ok.

promised(Id, Zone) ->
    true = ets:update_element(?BOOKS, {child, Id}, {5, count({ending, Zone}) =:= 0}),
    ok.

id_of(Zone, Pid) ->
    case is_calm(Zone) andalso ets:lookup(?BOOKS, {id, Zone, Pid}) of
        [{_, Id}] -> Id;
        _ -> unknown
    end.

%% How the next start of a name goes.
outcome(Name) ->
    Start = add({starts, Name}),
    case is_peace() of
        true -> starts;
        false -> outcome_of(erlang:phash2({ets:lookup_element(?BOOKS, seed, 2), Name, Start}, 40))
    end.

outcome_of(Draw) ->
    Failures = [raises, throws, garbage, no_pid, ignore, refuses, dies, hangs, dies_at_once],
    Misdeeds = [untraps, unlinks, flushes, erases],
    Outcomes = Failures ++ Misdeeds ++ [helps, helps, asks, asks, asks, far, far, far],
    case lists:nthtail(min(length(Outcomes), Draw), Outcomes) of
        [Outcome | _] -> Outcome;
        [] -> starts
    end.

starts() ->
    lists:sum([Count || [Count] <- ets:match(?BOOKS, {{starts, '_'}, '$1'})]).

%% A process that a start function has linked beside its child.
helper(Pid, Zone) ->
    true = ets:insert(?BOOKS, {{helper, Pid}, Zone}),
    ok.

helpers(Zone) ->
    [Pid || [Pid] <- ets:match(?BOOKS, {{helper, '$1'}, Zone}), is_process_alive(Pid)].

%% The caller waits until it is let go.
hang() ->
    true = ets:insert(?BOOKS, {{hanging, self()}}),
    receive {?MODULE, go} -> ok end,
    true = ets:delete(?BOOKS, {hanging, self()}).

let_go() ->
    [Pid ! {?MODULE, go} || [Pid] <- ets:match(?BOOKS, {{hanging, '$1'}})],
    ok.

%% The last words of an incarnation were called, or those of an unknown one.
ended(Name, unknown) -> add({unknown_ended, Name});
ended(_Name, Id) -> add({ended, Id}).

%% Somebody is about to end a zone; he has done so.
ending(Zone) ->
    _ = add({ended_by_force, Zone}),
    add({ending, Zone}).

has_ended(Zone) ->
    ets:update_counter(?BOOKS, {ending, Zone}, -1).

%% One promise to a child of this name need not be kept.
excuse(Name) ->
    add({excused, Name}).

alive(Zone) ->
    [Pid || [Pid] <- ets:match(?BOOKS, {{child, '_'}, Zone, '_', '$1', '_'}), is_alive(Pid)].

%% Of any node.
is_alive(Pid) ->
    try
        erpc:call(node(Pid), erlang, is_process_alive, [Pid])
    catch
        error:{erpc, noconnection} -> false
    end.

%% When all is over: last words that were called twice, and those that were promised and never called.
unkept() ->
    Children = ets:match(?BOOKS, {{child, '$1'}, '_', '$2', '_', '$3'}),
    Twice = [{called_twice, Id} || [Id, Count] <- ets:match(?BOOKS, {{ended, '$1'}, '$2'}), Count > 1],
    ByName = maps:groups_from_list(fun([_, Name, _]) -> Name end, fun([Id, _, Promised]) -> {Id, Promised} end, Children),
    Twice ++ lists:append([unkept(Name, Ids) || {Name, Ids} <- maps:to_list(ByName)]).

unkept(Name, Ids) ->
    Silent = [Child || {Id, _} = Child <- Ids, count({ended, Id}) =:= 0],
    Promised = [Id || {Id, true} <- Silent],
    Unknown = count({unknown_ended, Name}),
    [{never_called, Name, Promised} || length(Promised) > Unknown + count({excused, Name})] ++
        [{called_too_often, Name, Unknown} || Unknown > length(Silent)].

%% Tracked processes and workers. An epoch ends with the owner of the tables of processes; a new one begins when there are new tables.

epoch() ->
    count(epoch).

next_epoch() ->
    add(epoch).

tracked(Name) ->
    true = ets:insert(?BOOKS, {{tracked, self(), Name}}),
    ok.

%% `[{Name, Pid}]' of this epoch.
living_tracked() ->
    Epoch = epoch(),
    [{Name, Pid} || [Pid, {tracked, Of, _} = Name] <- ets:match(?BOOKS, {{tracked, '$1', '$2'}}), Of =:= Epoch, is_process_alive(Pid)].

%% A worker was registered so many times, since its epoch began.
worker(Epoch, Times) ->
    true = ets:insert(?BOOKS, {{worker, self()}, Epoch, Times}),
    ok.

cleaned(Pid) ->
    add({cleaned, Pid}).

living_workers() ->
    Epoch = epoch(),
    [{Pid, Times} || {Pid, Of, Times} <- workers(), Of =:= Epoch, is_process_alive(Pid)].

%% Dead workers that were not cleaned up as often as they were registered, of those for which each cleanup counts. Those of an epoch before may have been forgotten.
uncleaned(Counts) ->
    Epoch = epoch(),
    [
        {Pid, Times, Cleaned}
     || {Pid, Of, Times} <- workers(), Counts(Pid), not is_process_alive(Pid), Cleaned <- [count({cleaned, Pid})],
        Cleaned > Times orelse Cleaned < Times andalso Of =:= Epoch
    ].

workers() ->
    [{Pid, Of, Times} || [Pid, Of, Times] <- ets:match(?BOOKS, {{worker, '$1'}, '$2', '$3'})].

%% The code_change of a module was called.
changed(Module) -> add({changed, Module}).
changes() -> maps:from_list([{{changed, Module}, Times} || [Module, Times] <- ets:match(?BOOKS, {{changed, '$1'}, '$2'})]).

%% A process was killed that was in the middle of one cleanup.
meddled() -> add(meddled).
meddlings() -> count(meddled).

add(Key) ->
    ets:update_counter(?BOOKS, Key, 1, {Key, 0}).

count(Key) ->
    case ets:lookup(?BOOKS, Key) of
        [{_, Count}] -> Count;
        [] -> 0
    end.
