%% @private
%% The functions of the native library. This module contains only stubs and their documentation; the
%% implementation is in `native/'.
%%
%% All functions raise `badarg' if the zone or table does not exist, an argument has the wrong type,
%% or a term is too large for a table. Names and keys are compared with `=:='. A call that has to
%% convert large terms moves to a dirty scheduler.
%%
%% <em>Zones.</em> A zone has an atom as its name and belongs to the process that has opened it, the
%% tracker. A handle refers to the same zone, also after it was closed. Children may be processes of
%% any node; keepers are processes of this node.
%%
%% Only the keeper of a child may change its row: `running/3', `terminating/3', `pending/2',
%% `slowed/2', `restarting/2', `respec/3' and `remove/2' identify the keeper by the calling process,
%% and return `false' if the name is not held by a child of the caller. So the keeper of an earlier
%% child, or of an earlier zone, cannot change a later one.
%%
%% `stop/3' marks one child as stopping, and `zone_stop/1' all children of the zone: a marked child
%% does not run or restart any more, and the functions above tell its keeper. Marks and changes are
%% ordered: either the keeper is told of the mark, or the state that it has written is visible in
%% the result of `stop/3', and in pages that are read after `zone_stop/1'.
%%
%% <em>Tables of processes.</em> Such a table has an atom as its name and belongs to a process of
%% this node, its owner; it is deleted when the owner dies. The processes that are registered in it
%% may be of any node. A process is registered under a name in one step with `register/3', or in two
%% with `begin_registering/3' and `end_registering/4', so that the caller can announce it in
%% between.
%%
%% The table monitors the processes of this node itself, without a message. Its server, the process
%% that opened it last, monitors those of other nodes: a call that registers one sends the server
%% the cast `{monitor, Pid}', the server claims the process with `claim/2', and reports its death
%% with `died/2'.
%%
%% The dead are queued in the table. Its reaper, the process that has called `open_cleanups/1' last,
%% receives the message `$proctab_dead' when the first one is queued, and then calls `reap/1' until
%% no more are left. A cleaner makes the cleanups: it takes them with `take_cleanups/2', and calls
%% `cleaned/1' after each. Deaths and cleanups that are left outlive both processes.
-module(proctab_nif).

-export([zone_open/2, zone_open/4, zone_stop/1, was_stopped/1, zone_close/1]).
-export([tables/0, owner/1, count/1]).
-export([opening/4, launch/4, await_start/2, failed/2]).
-export([insert/5, child/2, kept/2, running/3, terminating/3, pending/2, slowed/2, restarting/2]).
-export([respec/3, stop/3, remove/2, unregister_name/4, hand_over/5, change_keeper/3]).
-export([watchdog/2, appoint/3, open_registrar/2, close_registrar/2, registrars/1, is_own/2]).
-export([register_name/5, change_keeper/4, reserve_name/3, cancel_name/2]).
-export([find/2, find_alive/2, may_be_alive/1]).
-export([getattr/3, setattr/3, setattr/4, set_missing/4, replace/5, cas/5]).
-export([delattr/3, increment/4, increment/5]).
-export([attrs/2, attrs/3, page/4]).
-export([check_keys/1, lookup/6, count/3, values_page/4, indexes/1, index_page/3]).
-export([cluster_open/3, cluster_shared/1, drain/1, add_member/4, change_claims/3]).
-export([begin_snapshot/2, end_snapshot/2, end_member/2, sweep_claims/2]).
-export([find_claim/2, find_claim_alive/2, best_claim/2, claim_owner/2, cluster_getattr/3]).
-export([cluster_setattr/3, cluster_setattr/4, cluster_cas/5]).
-export([cluster_increment/4, cluster_increment/5, cluster_delattr/3]).
-export([claims_page/4, claims_count/1]).
-export([open_subscriptions/3, add_subscriber/1, remove_subscriber/1, cancel_subscriptions/2]).
-export([end_subscriptions/0, subscriptions/1]).
-export([listen/1, unlisten/1, wait_for/3, wait_for_child/2, stop_waiting/1, waiting/1]).
-export([processes_open/2, processes_close/1, hold/1, release/1, claim/2, died/2]).
-export([register/3, try_register/3, unregister/3]).
-export([begin_registering/3, end_registering/4, fail_registering/3, abandon/3]).
-export([registered_names/2, registered_count/2, processes_page/2, remote_page/2, counts_page/2]).
-export([open_cleanups/1, reap/1, take_cleanups/2, cleaned/1, give_up/2, deaths/1]).

-export_type([handle/0, state/0, items/0, waits/0, secret/0, member/0, change/0]).
-export_type([place/0]).

-on_load(load/0).

-nifs([zone_open/2, zone_open/4, zone_stop/1, was_stopped/1, zone_close/1]).
-nifs([tables/0, owner/1, count/1]).
-nifs([opening/4, launch/4, await_start/2, failed/2]).
-nifs([insert/5, child/2, kept/2, running/3, terminating/3, pending/2, slowed/2, restarting/2]).
-nifs([respec/3, stop/3, remove/2, unregister_name/4, hand_over/5, change_keeper/3]).
-nifs([watchdog/2, appoint/3, open_registrar/2, close_registrar/2, registrars/1, is_own/2]).
-nifs([register_name/5, change_keeper/4, reserve_name/3, cancel_name/2]).
-nifs([find/2, find_alive/2, may_be_alive/1]).
-nifs([getattr/3, setattr/3, setattr/4, set_missing/4, replace/5, cas/5]).
-nifs([delattr/3, increment/4, increment/5]).
-nifs([attrs/2, attrs/3, page/4]).
-nifs([check_keys/1, lookup/6, count/3, values_page/4, indexes/1, index_page/3]).
-nifs([cluster_open/3, cluster_shared/1, drain/1, add_member/4, change_claims/3]).
-nifs([begin_snapshot/2, end_snapshot/2, end_member/2, sweep_claims/2]).
-nifs([find_claim/2, find_claim_alive/2, best_claim/2, claim_owner/2, cluster_getattr/3]).
-nifs([cluster_setattr/3, cluster_setattr/4, cluster_cas/5]).
-nifs([cluster_increment/4, cluster_increment/5, cluster_delattr/3]).
-nifs([claims_page/4, claims_count/1]).
-nifs([open_subscriptions/3, add_subscriber/1, remove_subscriber/1, cancel_subscriptions/2]).
-nifs([end_subscriptions/0, subscriptions/1]).
-nifs([listen/1, unlisten/1, wait_for/3, wait_for_child/2, stop_waiting/1, waiting/1]).
-nifs([processes_open/2, processes_close/1, hold/1, release/1, claim/2, died/2]).
-nifs([register/3, try_register/3, unregister/3]).
-nifs([begin_registering/3, end_registering/4, fail_registering/3, abandon/3]).
-nifs([registered_names/2, registered_count/2, processes_page/2, remote_page/2, counts_page/2]).
-nifs([open_cleanups/1, reap/1, take_cleanups/2, cleaned/1, give_up/2, deaths/1]).

-type handle() :: reference().
%% What a page has of each row, see {@link page/4}.
-type items() :: names | pids | children | attributes | sizes | [Key :: term()]
               | {rows, all | [Key :: term()], [condition()]}
               | {fields, [Key :: term()], [condition()]}
               | {integers, Key :: term()}.
%% What the attribute of a key is: not missing, or such that it compares so with a constant.
-type condition() :: {Key :: term(), '<' | '=<' | '>' | '>=' | '=:=' | '=/=', Constant :: term()}
                   | {Key :: term(), '_', term()}.
%% A waiter. It is removed when no process has a reference to it any more.
-type waits() :: reference().
-type state() :: launching | running | terminating | pending | slowed | restarting.
%% The first element of a zone's messages to its listener. It cannot be guessed.
-type secret() :: non_neg_integer().
%% A place among all subscriptions; `none' is the first.
-type place() :: none | {Sender :: pid(), Subscriber :: pid() | none}.
%% One session of one node, in the directory of a zone on several nodes.
-type member() :: non_neg_integer().
%% A change of a claim, see {@link change_claims/3}.
-type change() :: held | free | {up | down, pid()}.

%%% Zones

%% @doc Opens a zone that belongs to the caller. Returns a handle, which keeps the memory of the
%% zone as long as it is referenced. `opening/4' returns the context. Raises `badarg' if a zone of
%% that name runs.
-spec zone_open(Zone :: atom(), Context :: term()) -> handle().
zone_open(_Zone, _Context) -> erlang:nif_error(not_loaded).

%% @doc Like {@link zone_open/2}, with indexes of the attributes of these keys, and for at most so
%% many children. An index is of the values of a key, or with `{each, Key}' of the elements of its
%% values. Raises `badarg' if a key is repeated, and for more than 64 keys.
-spec zone_open(Zone :: atom(), Context :: term(), Keys, Most) -> handle() when
      Keys :: [Key :: term() | {each, Key :: term()}],
      Most :: non_neg_integer() | infinity.
zone_open(_Zone, _Context, _Keys, _Most) -> erlang:nif_error(not_loaded).

%% @doc Returns whether the owner of a zone has called {@link zone_stop/1}.
-spec was_stopped(atom() | handle()) -> boolean().
was_stopped(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Marks all children of a zone as stopping, present and future.
-spec zone_stop(atom() | handle()) -> ok.
zone_stop(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Closes a zone. The death of its owner closes it as well.
-spec zone_close(atom() | handle()) -> ok.
zone_close(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Returns all zones and all tables of processes, with their owners.
-spec tables() -> [{zone | processes, Table :: atom(), Owner :: pid()}].
tables() -> erlang:nif_error(not_loaded).

%% @doc Returns the owner of a zone.
-spec owner(Zone :: atom()) -> pid().
owner(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Returns the number of children, in all states.
-spec count(Zone :: atom()) -> non_neg_integer().
count(_Zone) -> erlang:nif_error(not_loaded).

%%% Children

%% @doc Returns whether a name is held by a child in any state. If it is free, returns what its new
%% keeper needs: a handle of the zone, and its tracker; or `callback' if the caller or its parent is
%% a keeper of the zone. Raises `badarg' if the spec is too large.
-spec opening(Zone :: atom(), Name :: term(), Spec :: term(), Parent :: pid() | undefined) ->
          held | callback | {free, handle(), Tracker :: pid()}.
opening(_Zone, _Name, _Spec, _Parent) -> erlang:nif_error(not_loaded).

%% @doc Inserts a child that is about to be started, whose keeper is the caller. Returns name and
%% spec as the table keeps them, whose copies keep no larger binary alive, and what the tracker
%% shares with keepers. Returns `full' if the zone has as many children as it may have, in any
%% state, and the name is free; and `stopping' if the zone stops: the child is not in any page that
%% is read after `zone_stop/1', or it is removed again.
%%
%% `home' is for a start that a member of a zone on several nodes makes as the home of the name.
%% Returns `not_home' for it if another member claims the name, or {@link drain/1} was called: such
%% a child is counted by each `count/1' that begins after `drain/1', or it is removed again.
-spec launch(handle(), Name, Spec, launching | home) ->
          {Name, Spec, Shared} | held | full | stopping | not_home when
      Name :: term(), Spec :: term(), Shared :: term().
launch(_Zone, _Name, _Spec, _Start) -> erlang:nif_error(not_loaded).

%% @doc Returns the same as {@link child/2}. If the child is being started, its keeper learns that
%% its start is awaited: `running/3' or `failed/2' returns `awaited'.
-spec await_start(Zone :: atom(), Name :: term()) ->
          {state(), pid() | undefined, Keeper :: pid(), Spec :: term()} | undefined.
await_start(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Removes the caller's child after a start that has failed, like {@link remove/2}. Returns
%% `awaited' if the start is awaited.
-spec failed(Zone :: atom(), Name :: term()) -> true | awaited | false.
failed(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Inserts a child that runs, or one that is about to be started. Returns `false' if the name
%% is taken, and `full' if it is free and the zone has as many children as it may have. `home' and
%% `not_home' are those of {@link launch/4}.
-spec insert(Zone :: atom(), Name :: term(), Keeper :: pid(), Spec :: term(),
             launching | home | (Child :: pid()) | {home, Child :: pid()}) ->
          true | false | full | not_home.
insert(_Zone, _Name, _Keeper, _Spec, _Child) -> erlang:nif_error(not_loaded).

%% @doc Returns the child of a name: its state, pid, keeper and spec. Returns `undefined' if there
%% is none.
-spec child(Zone :: atom(), Name :: term()) ->
          {state(), pid() | undefined, Keeper :: pid(), Spec :: term()} | undefined.
child(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Returns the child of a keeper: its name, state, pid and spec. Returns `undefined' if there
%% is none.
-spec kept(Zone :: atom() | handle(), Keeper :: pid()) ->
          {Name :: term(), state(), pid() | undefined, Spec :: term()} | undefined.
kept(_Zone, _Keeper) -> erlang:nif_error(not_loaded).

%% @doc Sets the state of the caller's child to `running', with its pid. Returns `awaited' if the
%% start is awaited, see {@link await_start/2}. Returns `stopping' if the child is marked as
%% stopping, or `zone_stopping' if the zone is; then nothing has changed.
-spec running(Zone :: atom(), Name :: term(), Child :: pid()) ->
          true | awaited | stopping | zone_stopping | false.
running(_Zone, _Name, _Child) -> erlang:nif_error(not_loaded).

%% @doc Sets the state of the caller's child to `terminating': it has died, with this exit reason.
%% Returns `stopping' if the child is marked as stopping; the state has changed all the same.
-spec terminating(Zone :: atom(), Name :: term(), Reason :: term()) -> true | stopping | false.
terminating(_Zone, _Name, _Reason) -> erlang:nif_error(not_loaded).

%% @doc Sets the state of the caller's child to `pending': it has been cleaned up, its last start
%% has failed, and another attempt will follow. Removes the attributes; the name stays taken.
%% Returns `false', and changes nothing, if the child is marked as stopping or not the caller's.
-spec pending(Zone :: atom(), Name :: term()) -> boolean().
pending(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Like {@link pending/2}, for a child whose restart is delayed because it was restarted too
%% often.
-spec slowed(Zone :: atom(), Name :: term()) -> boolean().
slowed(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Like {@link pending/2}, for a child that is being restarted now.
-spec restarting(Zone :: atom(), Name :: term()) -> boolean().
restarting(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Replaces the spec of the caller's child.
-spec respec(Zone :: atom(), Name :: term(), Spec :: term()) -> boolean().
respec(_Zone, _Name, _Spec) -> erlang:nif_error(not_loaded).

%% @doc Marks the child of a keeper as stopping, and returns its state at that moment. Returns
%% `false' if the name is not held by a child of this keeper.
-spec stop(Zone :: atom() | handle(), Name :: term(), Keeper :: pid()) -> state() | false.
stop(_Zone, _Name, _Keeper) -> erlang:nif_error(not_loaded).

%% @doc Removes the caller's child, its name and its attributes.
-spec remove(Zone :: atom(), Name :: term()) -> boolean().
remove(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Removes a running child of this keeper, its name and its attributes, while its process lives
%% on. `Reason' is the reason of the `down' event. Sends the keeper `$proctab_detached'. Returns
%% `false' if the name is not held by a running child of this keeper.
-spec unregister_name(Zone :: atom(), Name :: term(), Keeper :: pid(), Reason :: term()) ->
          boolean().
unregister_name(_Zone, _Name, _Keeper, _Reason) -> erlang:nif_error(not_loaded).

%% @doc Sets the watchdog of a zone. The owner is its tracker.
-spec watchdog(handle(), pid()) -> ok.
watchdog(_Zone, _Watchdog) -> erlang:nif_error(not_loaded).

%% @doc Replaces the registrar at a position, 0 to 7. The new one is closed.
-spec appoint(handle(), Position :: 0..7, pid()) -> ok.
appoint(_Zone, _Position, _Registrar) -> erlang:nif_error(not_loaded).

%% @doc Opens a registrar, which is the caller. From now on it may receive
%% `{Secret, {registered, Name, Pid, Alias}}'. Raises `badarg' if it has been replaced.
-spec open_registrar(handle(), Position :: 0..7) -> secret().
open_registrar(_Zone, _Position) -> erlang:nif_error(not_loaded).

%% @doc Closes the registrar at a position. Returns `false' if registrations are being made just
%% now. After it has returned `true', all of them are in the table, and their messages have been
%% sent.
-spec close_registrar(handle(), Position :: 0..7) -> boolean().
close_registrar(_Zone, _Position) -> erlang:nif_error(not_loaded).

%% @doc Returns the registrars of a zone.
-spec registrars(Zone :: atom() | handle()) -> [pid()].
registrars(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Returns whether a process is one of the zone itself: its tracker, its watchdog, its events
%% process, a registrar or a keeper.
-spec is_own(Zone :: atom() | handle(), pid()) -> boolean().
is_own(_Zone, _Pid) -> erlang:nif_error(not_loaded).

%% @doc Gives a free name to a running process, and tells a registrar, which answers `{Alias, ok}'.
%% Returns the registrar. Changes nothing and returns `held' if a child has the name, `full' if
%% the zone is full, `stopping' if it is stopping, `own' for a process of the zone itself, and
%% `{closed, Position}' if no registrar is open at that position. `{home, Pid}' in place of the
%% process: this member of a zone on several nodes registers it as the home of the name. Then
%% returns `not_home' if the member accepts no starts, or another one claims the name.
-spec register_name(Zone :: atom(), Name :: term(), Spec :: term(), pid() | {home, pid()},
                    Alias :: reference()) ->
          Registrar :: pid() | held | full | stopping | own | not_home | {closed, Position :: 0..7}.
register_name(_Zone, _Name, _Spec, _Pid, _Alias) -> erlang:nif_error(not_loaded).

%% @doc Reserves a name for the calling process until the keeper's start of its child has ended.
%% Returns `false' if another process has reserved the name and is alive, and `undefined' if this
%% keeper is not starting a child of that name.
-spec reserve_name(Zone :: atom(), Name :: term(), Keeper :: pid()) -> boolean() | undefined.
reserve_name(_Zone, _Name, _Keeper) -> erlang:nif_error(not_loaded).

%% @doc Gives up what {@link reserve_name/3} has reserved for the calling process.
-spec cancel_name(Zone :: atom(), Keeper :: pid()) -> ok.
cancel_name(_Zone, _Keeper) -> erlang:nif_error(not_loaded).

%% @doc Gives the row of a name to another keeper. Returns `false' if it does not belong to this
%% one, which must be a registrar, or have been one.
-spec change_keeper(Zone :: atom(), Name :: term(), Keeper :: pid(), New :: pid()) -> boolean().
change_keeper(_Zone, _Name, _Keeper, _New) -> erlang:nif_error(not_loaded).

%% @doc Gives the name of this keeper's running child to the process `Child', whose keeper is `New'.
%% Attributes and spec stay. The listener is told that the one child has ended with the reason
%% `re_registered', and that the other one runs. Sends the keeper `$proctab_detached'. Returns
%% `false', and changes nothing, if the name is not held by a running child of this keeper, or that
%% is marked as stopping.
-spec hand_over(Zone :: atom(), Name :: term(), Keeper :: pid(), New :: pid(), Child :: pid()) ->
          boolean().
hand_over(_Zone, _Name, _Keeper, _New, _Child) -> erlang:nif_error(not_loaded).

%% @doc Gives the child of a keeper to another keeper, and returns the name of the child.
-spec change_keeper(Zone :: atom(), Keeper :: pid(), New :: pid()) ->
          {ok, Name :: term()} | undefined.
change_keeper(_Zone, _Keeper, _New) -> erlang:nif_error(not_loaded).

%% @doc Returns the running child of a name.
-spec find(Zone :: atom(), Name :: term()) -> {ok, pid()} | undefined.
find(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Like {@link find/2}, but returns `undefined' if the process is dead and its keeper has not
%% recorded that yet. A child of another node counts as alive.
-spec find_alive(Zone :: atom(), Name :: term()) -> {ok, pid()} | undefined.
find_alive(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Returns whether a process is alive. A process of another node counts as alive.
%%
%% Unlike `erlang:is_process_alive/1', returns at once for a process that is exiting, and does not
%% deliver the caller's signals to the process first.
-spec may_be_alive(pid()) -> boolean().
may_be_alive(_Pid) -> erlang:nif_error(not_loaded).

%%% Attributes

%% @doc Returns the value of an attribute.
-spec getattr(Zone :: atom(), Name :: term(), Key :: term()) -> {ok, Value :: term()} | undefined.
getattr(_Zone, _Name, _Key) -> erlang:nif_error(not_loaded).

%% @doc Sets attributes in one step, from the pairs of a list; other elements are ignored. Returns
%% `void' if no child of that name runs or is being started.
-spec setattr(Zone :: atom(), Name :: term(), [{Key :: term(), Value :: term()} | term()]) ->
          ok | void.
setattr(_Zone, _Name, _Attributes) -> erlang:nif_error(not_loaded).

%% @doc Sets one attribute. Returns `void' as {@link setattr/3} does.
-spec setattr(Zone :: atom(), Name :: term(), Key :: term(), Value :: term()) -> ok | void.
setattr(_Zone, _Name, _Key, _Value) -> erlang:nif_error(not_loaded).

%% @doc Sets an attribute if it is missing, and returns whether it was. The name need not have a
%% child.
-spec set_missing(Zone :: atom(), Name :: term(), Key :: term(), Value :: term()) -> boolean().
set_missing(_Zone, _Name, _Key, _Value) -> erlang:nif_error(not_loaded).

%% @doc Replaces the value of an attribute if it is `Expected', and returns whether it was. The name
%% need not have a child.
-spec replace(Zone :: atom(), Name :: term(), Key :: term(), Expected :: term(),
              Value :: term()) -> boolean().
replace(_Zone, _Name, _Key, _Expected, _Value) -> erlang:nif_error(not_loaded).

%% @doc Replaces the value of an attribute if it is `Expected'. Otherwise returns the current value,
%% `undefined' if the attribute is missing, or `void' if no child of that name runs or is being
%% started.
-spec cas(Zone :: atom(), Name :: term(), Key :: term(), Expected :: term(), Value :: term()) ->
          ok | {current, term()} | undefined | void.
cas(_Zone, _Name, _Key, _Expected, _Value) -> erlang:nif_error(not_loaded).

%% @doc Deletes an attribute, if it exists.
-spec delattr(Zone :: atom(), Name :: term(), Key :: term()) -> ok.
delattr(_Zone, _Name, _Key) -> erlang:nif_error(not_loaded).

%% @doc Adds to an integer attribute, and returns the sum. Returns `large', and changes nothing, if
%% the value, the increment or the sum is not an integer of 62 bits. Raises `badarg' if the
%% attribute is missing.
-spec increment(Zone :: atom(), Name :: term(), Key :: term(), integer()) -> integer() | large.
increment(_Zone, _Name, _Key, _Increment) -> erlang:nif_error(not_loaded).

%% @doc Like {@link increment/4}, but sets a missing attribute to `Missing' and returns that. The
%% name need not have a child.
-spec increment(Zone :: atom(), Name :: term(), Key :: term(), integer(), Missing :: integer()) ->
          integer() | large.
increment(_Zone, _Name, _Key, _Increment, _Missing) -> erlang:nif_error(not_loaded).

%% @doc Returns a snapshot of the attributes of a name.
-spec attrs(Zone :: atom(), Name :: term()) -> [{Key :: term(), Value :: term()}].
attrs(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Like {@link attrs/2}, for the attributes with these keys.
-spec attrs(Zone :: atom(), Name :: term(), Keys :: [term()]) -> [{Key :: term(), Value :: term()}].
attrs(_Zone, _Name, _Keys) -> erlang:nif_error(not_loaded).

%% @doc Returns a page of the rows of a zone, prepended to `Acc', and where the next page begins.
%% The first page begins at 0. A name that stays in the table meanwhile is returned exactly once.
%%
%% The items of the page:
%% <ul>
%% <li>`names': `Name', of children in all states;</li>
%% <li>`pids': `{Name, Child}', of running children;</li>
%% <li>`children': `{Name, State, Child, Keeper, Spec}', of children in all states;</li>
%% <li>`attributes', or a list of keys: `{Name, [{pid, Child} | Attributes]}', of running
%%     children;</li>
%% <li>`sizes': `{Name, Child, Attributes, Bytes}', with the number of attributes and the memory, of
%%     all names, also those without a child;</li>
%% <li>`{rows, Keys, Conditions}': `{Name, Child, #{Key => Value}}', with only these keys or `all',
%%     of running children that may meet all conditions; the others are left out as far as that can
%%     be told without making the values;</li>
%% <li>`{fields, Keys, Conditions}': `{Name, Child, Value, ...}', likewise, of children that have
%%     all of these attributes;</li>
%% <li>`{integers, Key}': the attributes of this key that are integers, of running children.</li>
%% </ul>
-spec page(atom() | handle(), From :: non_neg_integer(), items(), Acc :: list()) ->
          {list(), Next :: non_neg_integer() | done}.
page(_Zone, _From, _What, _Acc) -> erlang:nif_error(not_loaded).

%%% Indexes

%% @doc Raises `badarg' if {@link zone_open/4} would, because of these keys.
-spec check_keys([Key :: term() | {each, Key :: term()}] | term()) -> ok.
check_keys(_Keys) -> erlang:nif_error(not_loaded).

%% @doc Returns a page of the running children that have a value of an indexed attribute, prepended
%% to `Acc', and where the next page begins. The first page begins at 0. A child that has the value
%% throughout is returned exactly once, and no child more than once. Raises `badarg' if the key is
%% not indexed.
%%
%% The items of the page are `{Name, Child}', or with `pids' the pids alone.
-spec lookup(Zone :: atom(), Key :: term(), Value :: term(), From :: non_neg_integer(),
             children | pids, Acc :: list()) ->
          {list(), Next :: non_neg_integer() | done}.
lookup(_Zone, _Key, _Value, _From, _What, _Acc) -> erlang:nif_error(not_loaded).

%% @doc Returns the number of running children that have a value of an indexed attribute. A child
%% whose value is just being changed may count for both values. Raises `badarg' if the key is not
%% indexed.
-spec count(Zone :: atom(), Key :: term(), Value :: term()) -> non_neg_integer().
count(_Zone, _Key, _Value) -> erlang:nif_error(not_loaded).

%% @doc Returns a page of the values of an indexed attribute, each with the number of running
%% children that have it, prepended to `Acc', and where the next page begins. The first page begins
%% at 0. Raises `badarg' if the key is not indexed.
-spec values_page(Zone :: atom(), Key :: term(), From :: non_neg_integer(), Acc :: list()) ->
          {list(), Next :: non_neg_integer() | done}.
values_page(_Zone, _Key, _From, _Acc) -> erlang:nif_error(not_loaded).

%% @doc Returns the keys of all indexes of a zone, as {@link zone_open/4} takes them, last first.
-spec indexes(Zone :: atom()) -> [Key :: term() | {each, Key :: term()}].
indexes(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Returns figures of a part of an indexed attribute: how many values running children have,
%% how many places those have under them, and the bytes of both; and where the next part begins. The
%% first part begins at 0.
-spec index_page(Zone :: atom(), Key :: term(), From :: non_neg_integer()) ->
          {Values, Places, Bytes, Next :: non_neg_integer() | done} when
      Values :: non_neg_integer(),
      Places :: non_neg_integer(),
      Bytes :: non_neg_integer().
index_page(_Zone, _Key, _From) -> erlang:nif_error(not_loaded).

%%% The directory of a zone on several nodes

%% @doc Makes a zone one of several nodes, and the caller its cluster process. Ends all members of
%% the directory. Returns the secret of its messages: those of {@link listen/1}, and
%% `{Secret, {held, Name}}' when a name gets a child that does not run yet, and
%% `{Secret, {free, Name}}' when it has lost its child, and may have another one.
%% `cluster_shared/1' returns the term `Shared'.
%%
%% `{Secret, {copied, Name}}' says that an attribute of one of the keys `Copied' may have changed.
%% The keys are those of the first call for a zone.
-spec cluster_open(atom() | handle(), Shared :: term(), Copied :: [Key :: term()]) -> secret().
cluster_open(_Zone, _Shared, _Copied) -> erlang:nif_error(not_loaded).

%% @doc Returns what the cluster process shares with other processes. This and all functions below
%% raise `badarg' if the zone is one of this node alone.
-spec cluster_shared(Zone :: atom()) -> Shared :: term().
cluster_shared(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Drains a zone, for good: it starts and registers no child any more as the home of its name,
%% see {@link launch/4}. Returns `false' while one is being registered.
-spec drain(atom() | handle()) -> boolean().
drain(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Adds a member without claims: the cluster process `Process' of a node. `NodeName' is the
%% name of the node. The member of the caller is the zone itself.
-spec add_member(atom() | handle(), node(), NodeName :: binary(), Process :: pid()) -> member().
add_member(_Zone, _Node, _NodeName, _Process) -> erlang:nif_error(not_loaded).

%% @doc Makes changes of the claims of a member, in order. Returns for each of them the pid that
%% readers of the claim found before, or `undefined' if they found none; or `same' if it has changed
%% nothing for readers. Also returns the conflicts: for each claim that has got another pid, the
%% nodes and pids of other claims of that name.
%%
%% `down' changes nothing if the claim has another pid. `free' is `skipped' if the name has a child
%% in the table of the zone itself, whose claim this is. Does nothing if the member has ended.
-spec change_claims(atom() | handle(), member(), [{Name :: term(), Rank, change()}]) ->
          {[pid() | undefined | same | skipped], Conflicts} when
      Rank :: 0..16#ffffffff,
      Conflicts :: [{Name :: term(), node(), pid()}].
change_claims(_Zone, _Member, _Changes) -> erlang:nif_error(not_loaded).

%% @doc Begins a snapshot of the claims of a member.
-spec begin_snapshot(atom() | handle(), member()) -> ok.
begin_snapshot(_Zone, _Member) -> erlang:nif_error(not_loaded).

%% @doc Ends a snapshot: no reader finds the claims that were not in it any more.
-spec end_snapshot(atom() | handle(), member()) -> ok.
end_snapshot(_Zone, _Member) -> erlang:nif_error(not_loaded).

%% @doc Ends a member: no reader finds its claims any more.
-spec end_member(atom() | handle(), member()) -> ok.
end_member(_Zone, _Member) -> erlang:nif_error(not_loaded).

%% @doc Removes some of the claims that no reader finds any more, of a member or of one that has
%% ended. Returns those of running children, and whether there are more.
-spec sweep_claims(atom() | handle(), member() | ended) ->
          {[{Name :: term(), pid()}], More :: boolean()}.
sweep_claims(_Zone, _Member) -> erlang:nif_error(not_loaded).

%% @doc Returns the running child of a name, or else that of the claim of highest rank. Returns
%% `undefined' if that claim has a process of this node that is dead.
-spec find_claim(Zone :: atom(), Name :: term()) -> {ok, pid()} | undefined.
find_claim(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Like {@link find_claim/2}, but returns `undefined' for a child of this zone that is dead.
-spec find_claim_alive(Zone :: atom(), Name :: term()) -> {ok, pid()} | undefined.
find_claim_alive(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Returns the claim of highest rank of another member, one with a running child if there is
%% one.
-spec best_claim(Zone :: atom(), Name :: term()) -> {node(), pid() | held} | undefined.
best_claim(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Returns the member that has a name, in any state: `own' is this zone, and a node another
%% member. Returns `undefined' if none has it.
-spec claim_owner(Zone :: atom(), Name :: term()) -> own | node() | undefined.
claim_owner(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Like {@link getattr/3}, of a child of this zone.
-spec cluster_getattr(Zone :: atom(), Name :: term(), Key :: term()) -> {ok, term()} | undefined.
cluster_getattr(_Zone, _Name, _Key) -> erlang:nif_error(not_loaded).

%% @doc Like {@link setattr/3}, of a zone that has a directory.
-spec cluster_setattr(Zone :: atom(), Name :: term(), [{Key :: term(), Value :: term()}]) ->
          ok | void.
cluster_setattr(_Zone, _Name, _Pairs) -> erlang:nif_error(not_loaded).

%% @doc Like {@link setattr/4}, of a zone that has a directory.
-spec cluster_setattr(Zone :: atom(), Name :: term(), Key :: term(), Value :: term()) -> ok | void.
cluster_setattr(_Zone, _Name, _Key, _Value) -> erlang:nif_error(not_loaded).

%% @doc Like {@link cas/5}, of a zone that has a directory.
-spec cluster_cas(Zone :: atom(), Name :: term(), Key :: term(), Old :: term(), New :: term()) ->
          ok | {current, term()} | undefined | void.
cluster_cas(_Zone, _Name, _Key, _Old, _New) -> erlang:nif_error(not_loaded).

%% @doc Like {@link increment/4}, of a zone that has a directory. Returns `undefined' if this member
%% has no child of that name.
-spec cluster_increment(Zone :: atom(), Name :: term(), Key :: term(), Increment :: integer()) ->
          integer() | large | undefined.
cluster_increment(_Zone, _Name, _Key, _Increment) -> erlang:nif_error(not_loaded).

%% @doc Like {@link increment/5}, of a zone that has a directory. Returns `undefined' if this member
%% has no child of that name.
-spec cluster_increment(Zone :: atom(), Name :: term(), Key :: term(), Increment :: integer(),
                        Value :: integer()) -> integer() | large | undefined.
cluster_increment(_Zone, _Name, _Key, _Increment, _Value) -> erlang:nif_error(not_loaded).

%% @doc Like {@link delattr/3}, of a zone that has a directory. Returns `undefined' if this member
%% has no child of that name.
-spec cluster_delattr(Zone :: atom(), Name :: term(), Key :: term()) -> ok | undefined.
cluster_delattr(_Zone, _Name, _Key) -> erlang:nif_error(not_loaded).

%% @doc Returns a page of the claims of a member, or of all other members, prepended to `Acc', and
%% where the next page begins. The first page begins at 0.
%%
%% The items of the page are `{Name, Child}', or with `others' `{Name, Node, Child}', where `Child'
%% is a pid or `held'. A claim that stays meanwhile is returned exactly once.
-spec claims_page(atom() | handle(), member() | others, From :: non_neg_integer(), Acc :: list()) ->
          {list(), Next :: non_neg_integer() | done}.
claims_page(_Zone, _Member, _From, _Acc) -> erlang:nif_error(not_loaded).

%% @doc Returns the number of claims with a running child, of other members.
-spec claims_count(Zone :: atom()) -> non_neg_integer().
claims_count(_Zone) -> erlang:nif_error(not_loaded).

%%% Events and waiters

%% @doc Makes the caller the listener of a zone, and returns the secret of its messages.
%%
%% From now on the caller receives `{Secret, {up, Name, Child}}' when a child begins to run, and
%% `{Secret, {down, Name, Child, Reason}}' when it has ended, in order for each name. Pages that are
%% read afterwards show all earlier changes; a change at that moment may be both in a page and in a
%% message. A reason that is too large for any table, over a gigabyte without sharing, is replaced
%% with the atom `large'.
-spec listen(Zone :: atom() | handle()) -> secret().
listen(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Ends {@link listen/1}, if the caller is still the listener.
-spec unlisten(Zone :: atom() | handle()) -> ok.
unlisten(_Zone) -> erlang:nif_error(not_loaded).

%% @doc Lets the caller, which sends events of the zone of this tracker, have subscribers. When it
%% dies, whatever the reason, its subscribers receive `{Library, Zone, unsubscribed}'.
-spec open_subscriptions(Library :: module(), Zone :: atom(), Tracker :: pid()) -> ok.
open_subscriptions(_Library, _Zone, _Tracker) -> erlang:nif_error(not_loaded).

%% @doc Adds a local process to the subscribers of the caller.
-spec add_subscriber(pid()) -> ok.
add_subscriber(_Pid) -> erlang:nif_error(not_loaded).

%% @doc Removes a process from the subscribers of the caller.
-spec remove_subscriber(pid()) -> ok.
remove_subscriber(_Pid) -> erlang:nif_error(not_loaded).

%% @doc Removes the caller from the subscribers of dead processes of a zone. The message that ends
%% the subscription is in the mailbox when this returns, or never arrives.
-spec cancel_subscriptions(Library :: module(), Zone :: atom()) -> ok.
cancel_subscriptions(_Library, _Zone) -> erlang:nif_error(not_loaded).

%% @doc Tells subscribers of the caller what they are told when it dies, and removes them. Returns
%% whether there are more.
-spec end_subscriptions() -> boolean().
end_subscriptions() -> erlang:nif_error(not_loaded).

%% @doc Returns some of the subscribers of the processes that have called {@link
%% open_subscriptions/3}, each with the tracker that its process named, and the place to go on from.
-spec subscriptions(place()) -> {[{Tracker :: pid(), Subscriber :: pid()}], place() | done}.
subscriptions(_From) -> erlang:nif_error(not_loaded).

%% @doc Adds the caller to the waiters for an attribute. Returns the waiter, its id, and the owner
%% of the zone.
%%
%% The caller receives `{'$proctab_woken', Id}' when the attribute is added, or another one whose
%% name and key have the same hash; at most once, and not if the zone ends. It must read the
%% attribute after this call, which may have come too late, and call {@link stop_waiting/1} if it
%% has a value.
-spec wait_for(Zone :: atom(), Name :: term(), Key :: term()) ->
          {waits(), Id :: non_neg_integer(), Owner :: pid()}.
wait_for(_Zone, _Name, _Key) -> erlang:nif_error(not_loaded).

%% @doc Like {@link wait_for/3}, for the running child of a name: the caller receives the message
%% when a child of that name begins to run.
-spec wait_for_child(Zone :: atom(), Name :: term()) ->
          {waits(), Id :: non_neg_integer(), Owner :: pid()}.
wait_for_child(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% @doc Removes a waiter. Returns `false' if its message has been sent, or is being sent.
-spec stop_waiting(waits()) -> boolean().
stop_waiting(_Waits) -> erlang:nif_error(not_loaded).

%% @doc Returns the number of waiters of a zone.
-spec waiting(Zone :: atom()) -> non_neg_integer().
waiting(_Zone) -> erlang:nif_error(not_loaded).

%%% Tables of processes

%% @doc Makes the caller the server of a table of processes, and `Owner' its owner. Creates the
%% table if it does not exist. Raises `badarg' if the owner is dead or of another node.
-spec processes_open(Table :: atom(), Owner :: pid()) -> ok.
processes_open(_Table, _Owner) -> erlang:nif_error(not_loaded).

%% @doc Deletes a table of processes.
-spec processes_close(Table :: atom()) -> ok.
processes_close(_Table) -> erlang:nif_error(not_loaded).

%% @doc Holds a table: until {@link release/1}, `begin_registering/3' returns `busy' to all other
%% processes.
-spec hold(Table :: atom()) -> ok.
hold(_Table) -> erlang:nif_error(not_loaded).

%% @doc Ends {@link hold/1}, if the caller holds the table.
-spec release(Table :: atom()) -> ok.
release(_Table) -> erlang:nif_error(not_loaded).

%% @doc Claims a process of another node for the calling server. Returns whether the caller must
%% monitor it: the process is registered, and the caller has not claimed it before. Returns `false'
%% for a process of this node.
-spec claim(Table :: atom(), pid()) -> boolean().
claim(_Table, _Pid) -> erlang:nif_error(not_loaded).

%% @doc Queues a process that has died.
-spec died(Table :: atom(), pid()) -> ok.
died(_Table, _Pid) -> erlang:nif_error(not_loaded).

%% @doc Adds a registration of a process under a name, as one that has been announced.
-spec register(Table :: atom(), pid(), Name :: term()) -> ok.
register(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% @doc Like {@link register/3}, and returns `true', if the process is one of this node, the server
%% of the table is alive, and no other process holds the table. Otherwise returns `false'. Sends no
%% message.
-spec try_register(Table :: atom(), pid(), Name :: term()) -> boolean().
try_register(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% @doc Removes one registration of a process under a name, if there is one.
-spec unregister(Table :: atom(), pid(), Name :: term()) -> ok.
unregister(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% @doc Begins a registration, which the caller must end with `end_registering/4' or
%% `fail_registering/3'. It is not visible until then.
%%
%% Returns `registered' if the process is registered under that name, or the caller has begun this
%% registration before, and `{busy, Other}' if another process has begun it or holds the table.
-spec begin_registering(Table :: atom(), pid(), Name :: term()) ->
          begun | registered | {busy, pid()}.
begin_registering(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% @doc Ends a registration that the caller has begun: the process is registered. Raises `badarg' if
%% it is not registered, and the caller has not begun it.
-spec end_registering(Table :: atom(), pid(), Name :: term(), Announced :: boolean()) -> ok.
end_registering(_Table, _Pid, _Name, _Announced) -> erlang:nif_error(not_loaded).

%% @doc Withdraws a registration that the caller has begun.
-spec fail_registering(Table :: atom(), pid(), Name :: term()) -> ok.
fail_registering(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% @doc Withdraws all registrations that a dead caller had begun for a process, and its hold of the
%% table.
-spec abandon(Table :: atom(), pid(), Caller :: pid()) -> ok.
abandon(_Table, _Pid, _Caller) -> erlang:nif_error(not_loaded).

%% @doc Returns the names under which a process is registered.
-spec registered_names(Table :: atom(), pid()) -> [Name :: term()].
registered_names(_Table, _Pid) -> erlang:nif_error(not_loaded).

%% @doc Returns the number of registrations of a name.
-spec registered_count(Table :: atom(), Name :: term()) -> non_neg_integer().
registered_count(_Table, _Name) -> erlang:nif_error(not_loaded).

%% @doc Returns a page of the processes, and where the next page begins. The first page begins at 0.
%% A process that stays registered meanwhile is returned exactly once.
-spec processes_page(Table :: atom(), From :: non_neg_integer()) ->
          {[pid()], Next :: non_neg_integer() | done}.
processes_page(_Table, _From) -> erlang:nif_error(not_loaded).

%% @doc Like {@link processes_page/2}, for the processes of other nodes.
-spec remote_page(Table :: atom(), From :: non_neg_integer()) ->
          {[pid()], Next :: non_neg_integer() | done}.
remote_page(_Table, _From) -> erlang:nif_error(not_loaded).

%% @doc Like {@link processes_page/2}, for the names, each with the number of its registrations.
-spec counts_page(Table :: atom(), From :: non_neg_integer()) ->
          {[{Name :: term(), pos_integer()}], Next :: non_neg_integer() | done}.
counts_page(_Table, _From) -> erlang:nif_error(not_loaded).

%%% Cleaning up after the dead

%% @doc Makes the caller the reaper of a table. It must call {@link reap/1}, and again whenever it
%% receives `$proctab_dead'. Any process may send that message: it only says to look.
-spec open_cleanups(Table :: atom()) -> ok.
open_cleanups(_Table) -> erlang:nif_error(not_loaded).

%% @doc Prepares cleanups after processes that have died, if none are prepared, and returns how many
%% there are. They must be made before this function is called again.
%%
%% `Waiting' names dead processes whose cleanup begins to wait for callers that have begun
%% registrations and not ended them: the reaper must monitor the callers, and call
%% {@link abandon/3} when one dies. Without callers, such a process does not wait any more. `More'
%% says whether dead processes are left to look at.
-spec reap(Table :: atom()) ->
          {Cleanups :: non_neg_integer(), Waiting :: [{pid(), Callers :: [pid()]}],
              More :: boolean()}.
reap(_Table) -> erlang:nif_error(not_loaded).

%% @doc Returns the next cleanups that {@link reap/1} has prepared, one for each registration of a
%% dead process: at most 32, and none if none is left, or if `Reaper' is not the reaper any more.
%% Otherwise the caller becomes the cleaner, and must make them in order, and call {@link cleaned/1}
%% after each.
-spec take_cleanups(Table :: atom(), Reaper :: pid()) ->
          [{pid(), Name :: term(), Announced :: boolean()}].
take_cleanups(_Table, _Reaper) -> erlang:nif_error(not_loaded).

%% @doc Ends the current cleanup of the caller, and removes the registration. Returns whether the
%% caller may begin another one: `false' half a millisecond after it became the cleaner. Returns
%% `false' and changes nothing if the caller is not the cleaner any more, or has no cleanup left, or
%% the table is gone.
-spec cleaned(Table :: atom()) -> boolean().
cleaned(_Table) -> erlang:nif_error(not_loaded).

%% @doc Ends the current cleanup of a cleaner as {@link cleaned/1} does, and returns the process and
%% the name; `none' if it has none.
-spec give_up(Table :: atom(), Cleaner :: pid()) -> {pid(), Name :: term()} | none.
give_up(_Table, _Cleaner) -> erlang:nif_error(not_loaded).

%% @doc Returns how many dead processes are queued.
-spec deaths(Table :: atom()) -> non_neg_integer().
deaths(_Table) -> erlang:nif_error(not_loaded).

%%% Loading

%% The native library compares the version with its own.
load() ->
    File = proctab_library:file(),
    Version = list_to_binary(proctab_library:version()),
    proctab_library:loaded(erlang:load_nif(File, Version), File).
