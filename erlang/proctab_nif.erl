%% @private
%% The functions of the native library, as the modules above use them. Nothing here but stubs: what they do is said beside each, how
%% they do it in `native/'.
%%
%% A zone is named by its atom. `badarg' is raised for a zone that does not run and for arguments of a wrong type. Names and keys are
%% compared with `=:='. A call that has to convert large terms moves itself to a dirty scheduler.
%%
%% A keeper is the process beside a child. What a keeper says of its child (`running/3', `terminating/3',
%% `pending/2', `slowed/2', `restarting/2', `remove/2') is believed only of the calling process itself, so
%% that the keeper of an earlier child, or of an earlier zone, can do no harm to a later one. A child may be
%% of any node; a keeper is always of this one.
%%
%% A child is stopped for good by `stop/3', all children of a zone by `zone_stop/1'. From then on the answers
%% of the functions above say so to the keeper. A keeper's word and a stop are in order: either the keeper is
%% told of the stop, or who stops sees in `stop/3', and in pages that are read after `zone_stop/1', the state
%% that the keeper has set.
%%
%% A table of processes is named by an atom, too. Its server, the process that opened it last, watches the processes that are registered in it; they may be of
%% other nodes. A process is registered in one step, or the caller begins and ends it, and has it announced in between.
-module(proctab_nif).

-export([zone_open/1, zone_stop/1, zone_close/1, tables/0, owner/1, count/1]).
-export([insert/5, child/2, kept/2, running/3, terminating/3, pending/2, slowed/2, restarting/2, respec/3]).
-export([stop/3, remove/2, unregister_name/4, change_keeper/3]).
-export([find/2, find_alive/2, getattr/3, setattr/3, setattr/4, set_missing/4, replace/5, cas/5, delattr/3, increment/4, increment/5]).
-export([attrs/2, attrs/3, page/4]).
-export([listen/1, unlisten/1, wait_for/2, stop_waiting/1, waiting/1]).
-export([processes_open/2, processes_close/1, hold/1, release/1, claim/2]).
-export([register/3, unregister/3, begin_registering/3, end_registering/4, fail_registering/3, abandon/3, next/2]).
-export([registered_names/2, registered_count/2, processes_page/2, counts_page/2]).

-export_type([handle/0, state/0, waits/0, secret/0]).

-on_load(load/0).

-nifs([zone_open/1, zone_stop/1, zone_close/1, tables/0, owner/1, count/1]).
-nifs([insert/5, child/2, kept/2, running/3, terminating/3, pending/2, slowed/2, restarting/2, respec/3]).
-nifs([stop/3, remove/2, unregister_name/4, change_keeper/3]).
-nifs([find/2, find_alive/2, getattr/3, setattr/3, setattr/4, set_missing/4, replace/5, cas/5, delattr/3, increment/4, increment/5]).
-nifs([attrs/2, attrs/3, page/4]).
-nifs([listen/1, unlisten/1, wait_for/2, stop_waiting/1, waiting/1]).
-nifs([processes_open/2, processes_close/1, hold/1, release/1, claim/2]).
-nifs([register/3, unregister/3, begin_registering/3, end_registering/4, fail_registering/3, abandon/3, next/2]).
-nifs([registered_names/2, registered_count/2, processes_page/2, counts_page/2]).

-type handle() :: reference().
%% A place among those who wait; it goes with the last process that has it.
-type waits() :: reference().
-type state() :: launching | running | terminating | pending | slowed | restarting.
%% What the events of a zone begin with; nobody can guess it.
-type secret() :: non_neg_integer().

%% Opens a zone, owned by the calling process. The handle reaches its table for as long as it is kept, also after the zone was closed.
-spec zone_open(Zone :: atom()) -> handle().
zone_open(_Zone) -> erlang:nif_error(not_loaded).

%% From now on no child of the zone begins to run or is started again; see above.
-spec zone_stop(atom() | handle()) -> ok.
zone_stop(_Zone) -> erlang:nif_error(not_loaded).

%% Closes a zone; it is closed by itself when its owner dies.
-spec zone_close(atom() | handle()) -> ok.
zone_close(_Zone) -> erlang:nif_error(not_loaded).

%% All tables: zones, and tables of processes; and whom each belongs to.
-spec tables() -> [{zone | processes, Table :: atom(), Owner :: pid()}].
tables() -> erlang:nif_error(not_loaded).

%% Whom a zone belongs to.
-spec owner(Zone :: atom()) -> pid().
owner(_Zone) -> erlang:nif_error(not_loaded).

%% The number of children, in any state.
-spec count(Zone :: atom()) -> non_neg_integer().
count(_Zone) -> erlang:nif_error(not_loaded).

%% Adds a child, running or about to be started; `false' when the name is held.
-spec insert(Zone :: atom(), Name :: term(), Keeper :: pid(), Spec :: term(), launching | (Child :: pid())) -> boolean().
insert(_Zone, _Name, _Keeper, _Spec, _Child) -> erlang:nif_error(not_loaded).

%% What is known of a child.
-spec child(Zone :: atom(), Name :: term()) -> {state(), pid() | undefined, Keeper :: pid(), Spec :: term()} | undefined.
child(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% The child of this keeper; `undefined' when it has none.
-spec kept(Zone :: atom() | handle(), Keeper :: pid()) -> {Name :: term(), state(), pid() | undefined, Spec :: term()} | undefined.
kept(_Zone, _Keeper) -> erlang:nif_error(not_loaded).

%% The caller's child has been started. `stopping': it is to be stopped, and nothing was changed. `false': the
%% name is not that of the caller's child.
-spec running(Zone :: atom(), Name :: term(), Child :: pid()) -> true | stopping | false.
running(_Zone, _Name, _Child) -> erlang:nif_error(not_loaded).

%% The caller's child is dead, for this reason. `stopping': so it was written down, and the child is to be
%% stopped. `false': the name is not that of the caller's child.
-spec terminating(Zone :: atom(), Name :: term(), Reason :: term()) -> true | stopping | false.
terminating(_Zone, _Name, _Reason) -> erlang:nif_error(not_loaded).

%% The caller's child is cleaned up, and will be started again at some time, as its last start has failed: its
%% attributes go, and its name stays. `false': the name is not that of the caller's child, or that is to be
%% stopped, and nothing was changed.
-spec pending(Zone :: atom(), Name :: term()) -> boolean().
pending(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% The same, and it will be started again later than it would be if it had lived longer.
-spec slowed(Zone :: atom(), Name :: term()) -> boolean().
slowed(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% The same, and it is being started now.
-spec restarting(Zone :: atom(), Name :: term()) -> boolean().
restarting(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% Replaces the spec of the caller's child. `false': the name is not that of the caller's child.
-spec respec(Zone :: atom(), Name :: term(), Spec :: term()) -> boolean().
respec(_Zone, _Name, _Spec) -> erlang:nif_error(not_loaded).

%% The child of this keeper is to be stopped for good; its state at that moment. `false': the name is not that
%% of the keeper's child.
-spec stop(Zone :: atom() | handle(), Name :: term(), Keeper :: pid()) -> state() | false.
stop(_Zone, _Name, _Keeper) -> erlang:nif_error(not_loaded).

%% The caller's child is cleaned up: name and attributes go.
-spec remove(Zone :: atom(), Name :: term()) -> boolean().
remove(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% The running child of this keeper, who was seen there, is forgotten while it lives on, for this reason. The keeper is sent `$proctab_detached'.
-spec unregister_name(Zone :: atom(), Name :: term(), Keeper :: pid(), Reason :: term()) -> boolean().
unregister_name(_Zone, _Name, _Keeper, _Reason) -> erlang:nif_error(not_loaded).

%% Gives a keeper's child to another keeper; the child's name.
-spec change_keeper(Zone :: atom(), Keeper :: pid(), New :: pid()) -> {ok, Name :: term()} | undefined.
change_keeper(_Zone, _Keeper, _New) -> erlang:nif_error(not_loaded).

%% The running child of a name.
-spec find(Zone :: atom(), Name :: term()) -> {ok, pid()} | undefined.
find(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% The same; `undefined' also when the child is dead, and its keeper has not said so yet. A child of another
%% node counts as alive.
-spec find_alive(Zone :: atom(), Name :: term()) -> {ok, pid()} | undefined.
find_alive(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% The value of an attribute.
-spec getattr(Zone :: atom(), Name :: term(), Key :: term()) -> {ok, Value :: term()} | undefined.
getattr(_Zone, _Name, _Key) -> erlang:nif_error(not_loaded).

%% Sets the attributes that a list has as pairs, in one step; `void' when no child of that name is running or starting.
-spec setattr(Zone :: atom(), Name :: term(), [{Key :: term(), Value :: term()} | term()]) -> ok | void.
setattr(_Zone, _Name, _Attributes) -> erlang:nif_error(not_loaded).

%% Sets one attribute.
-spec setattr(Zone :: atom(), Name :: term(), Key :: term(), Value :: term()) -> ok | void.
setattr(_Zone, _Name, _Key, _Value) -> erlang:nif_error(not_loaded).

%% Sets an attribute where it is missing, also for a name that no child holds; whether it did.
-spec set_missing(Zone :: atom(), Name :: term(), Key :: term(), Value :: term()) -> boolean().
set_missing(_Zone, _Name, _Key, _Value) -> erlang:nif_error(not_loaded).

%% Replaces a value where it is the expected one; whether it did.
-spec replace(Zone :: atom(), Name :: term(), Key :: term(), Expected :: term(), Value :: term()) -> boolean().
replace(_Zone, _Name, _Key, _Expected, _Value) -> erlang:nif_error(not_loaded).

%% The same for a name that a child holds; the other value, or why there is none: `void' when no child of that name is running or starting.
-spec cas(Zone :: atom(), Name :: term(), Key :: term(), Expected :: term(), Value :: term()) -> ok | {current, term()} | undefined | void.
cas(_Zone, _Name, _Key, _Expected, _Value) -> erlang:nif_error(not_loaded).

%% Removes an attribute, if it is there.
-spec delattr(Zone :: atom(), Name :: term(), Key :: term()) -> ok.
delattr(_Zone, _Name, _Key) -> erlang:nif_error(not_loaded).

%% Adds to an integer attribute; `large' when the attribute, the sum or the increment is not an integer of 63 bits. `badarg' when it is missing.
-spec increment(Zone :: atom(), Name :: term(), Key :: term(), integer()) -> integer() | large.
increment(_Zone, _Name, _Key, _Increment) -> erlang:nif_error(not_loaded).

%% The same; a missing attribute is set to a value, also for a name that no child holds.
-spec increment(Zone :: atom(), Name :: term(), Key :: term(), integer(), Missing :: integer()) -> integer() | large.
increment(_Zone, _Name, _Key, _Increment, _Missing) -> erlang:nif_error(not_loaded).

%% The attributes of a name at one moment.
-spec attrs(Zone :: atom(), Name :: term()) -> [{Key :: term(), Value :: term()}].
attrs(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% Those with certain keys.
-spec attrs(Zone :: atom(), Name :: term(), Keys :: [term()]) -> [{Key :: term(), Value :: term()}].
attrs(_Zone, _Name, _Keys) -> erlang:nif_error(not_loaded).

%% Some of the names, put before `Acc', and where to go on; a page that begins at 0 is the first. `names': `Name' of each child in any state; `pids':
%% `{Name, Child}' for those that run; `children': `{Name, State, Child, Keeper, Spec}'; `attributes', or a list of keys: `{Name, [{pid, Child} |
%% Attributes]}' for those that run; `sizes': `{Name, Child, Attributes, Bytes}' for all names, those without a child included. A name that stays in the
%% table while it is paged through is seen exactly once.
-spec page(atom() | handle(), From :: non_neg_integer(), names | pids | children | attributes | sizes | [Key :: term()], Acc :: list()) ->
          {list(), Next :: non_neg_integer() | done}.
page(_Zone, _From, _What, _Acc) -> erlang:nif_error(not_loaded).

%% Makes the caller the zone's listener: from now on it is sent `{Secret, {up, Name, Child}}' when a child begins
%% to run, and `{Secret, {down, Name, Child, Reason}}' when it has ended, in the order in which that happens to
%% a name. Pages that it reads afterwards show what it was not told of. A reason that no table would take, for it
%% would unfold to over a gigabyte, is told as the atom `large'.
-spec listen(Zone :: atom() | handle()) -> secret().
listen(_Zone) -> erlang:nif_error(not_loaded).

%% Ends that, if the caller is still the listener.
-spec unlisten(Zone :: atom() | handle()) -> ok.
unlisten(_Zone) -> erlang:nif_error(not_loaded).

%% Has the caller be sent `{'$proctab_woken', Id}' when a name is given one more attribute, once, or never when the table's owner has died. It has to look for the attribute again after this call, and to stop
%% waiting when it has it.
-spec wait_for(Zone :: atom(), Name :: term()) -> {waits(), Id :: non_neg_integer(), Owner :: pid()}.
wait_for(_Zone, _Name) -> erlang:nif_error(not_loaded).

%% Ends that; `false' when the message has been sent, or is just being.
-spec stop_waiting(waits()) -> boolean().
stop_waiting(_Waits) -> erlang:nif_error(not_loaded).

%% How many wait so in a zone.
-spec waiting(Zone :: atom()) -> non_neg_integer().
waiting(_Zone) -> erlang:nif_error(not_loaded).

%% Makes the caller the server of a table of processes, and another process its owner; a new table if there is none. `badarg' when the owner is
%% dead or of another node. The table goes when the owner dies.
-spec processes_open(Table :: atom(), Owner :: pid()) -> ok.
processes_open(_Table, _Owner) -> erlang:nif_error(not_loaded).

%% Closes a table of processes.
-spec processes_close(Table :: atom()) -> ok.
processes_close(_Table) -> erlang:nif_error(not_loaded).

%% From now on only the caller can begin to register, until it releases the table.
-spec hold(Table :: atom()) -> ok.
hold(_Table) -> erlang:nif_error(not_loaded).

%% Lets others begin to register again.
-spec release(Table :: atom()) -> ok.
release(_Table) -> erlang:nif_error(not_loaded).

%% Whether the caller, the server, has to monitor a process: it is registered, and the caller did not claim it before.
-spec claim(Table :: atom(), pid()) -> boolean().
claim(_Table, _Pid) -> erlang:nif_error(not_loaded).

%% Registers a process under a name once more, as one that is announced already.
-spec register(Table :: atom(), pid(), Name :: term()) -> ok.
register(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% Takes back one registration, if there is one.
-spec unregister(Table :: atom(), pid(), Name :: term()) -> ok.
unregister(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% Begins to register a process under a name that it does not have; `busy' names another process that has begun it, or holds the table. Where the
%% server does not know of the process, here and when the registering ends, it is sent `{monitor, Pid}' as a cast before this function returns.
-spec begin_registering(Table :: atom(), pid(), Name :: term()) -> begun | registered | {busy, pid()}.
begin_registering(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% Ends what the caller began.
-spec end_registering(Table :: atom(), pid(), Name :: term(), Announced :: boolean()) -> ok.
end_registering(_Table, _Pid, _Name, _Announced) -> erlang:nif_error(not_loaded).

%% Takes back what the caller began.
-spec fail_registering(Table :: atom(), pid(), Name :: term()) -> ok.
fail_registering(_Table, _Pid, _Name) -> erlang:nif_error(not_loaded).

%% Takes back all that another process, which is dead, began for a process, and its hold of the table.
-spec abandon(Table :: atom(), pid(), Caller :: pid()) -> ok.
abandon(_Table, _Pid, _Caller) -> erlang:nif_error(not_loaded).

%% One registration of a dead process, to be undone and unregistered. `busy': these callers have not ended what they began; if they end it, the
%% server is sent `{monitor, Pid}' again. `done': nothing is left of the process.
-spec next(Table :: atom(), pid()) -> {registered, Name :: term(), Announced :: boolean()} | {busy, [pid()]} | done.
next(_Table, _Pid) -> erlang:nif_error(not_loaded).

%% The names of a process.
-spec registered_names(Table :: atom(), pid()) -> [Name :: term()].
registered_names(_Table, _Pid) -> erlang:nif_error(not_loaded).

%% How many registrations a name has.
-spec registered_count(Table :: atom(), Name :: term()) -> non_neg_integer().
registered_count(_Table, _Name) -> erlang:nif_error(not_loaded).

%% Some of the processes, and where to go on; the first page begins at 0. A process that stays registered while the table is paged through is seen exactly once.
-spec processes_page(Table :: atom(), From :: non_neg_integer()) -> {[pid()], Next :: non_neg_integer() | done}.
processes_page(_Table, _From) -> erlang:nif_error(not_loaded).

%% Some of the names with how many registrations each has, and where to go on.
-spec counts_page(Table :: atom(), From :: non_neg_integer()) -> {[{Name :: term(), pos_integer()}], Next :: non_neg_integer() | done}.
counts_page(_Table, _From) -> erlang:nif_error(not_loaded).

load() ->
    File = filename:join(priv_dir(), "proctab_nif"),
    case erlang:load_nif(File, 0) of
        {error, {load_failed, Text}} ->
            {error, {load_failed, lists:flatten([
                "proctab: there is no usable native library ", File, ".so (", Text, "). "
                "`rebar3 compile` in the project, or in proctab itself, builds it; this takes Rust's cargo (https://rustup.rs)."])}};
        Result ->
            Result
    end.

priv_dir() ->
    case code:priv_dir(proctab) of
        {error, bad_name} ->
            filename:join(filename:dirname(filename:dirname(code:which(?MODULE))), "priv");
        Dir ->
            Dir
    end.
