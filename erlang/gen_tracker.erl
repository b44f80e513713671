%% The processes of a zone:
%%
%% - the tracker, the `gen_server` of this module, queues requests for names that are held
%%   (gen_tracker_requests), is the supervisor that OTP talks to, and stops the zone
%%   (gen_tracker_shutdown);
%% - a keeper beside each child (gen_tracker_keeper) starts it, waits for its death, and cleans up
%%   after it. The caller of find_or_open spawns it (gen_tracker_opening);
%% - up to eight registrars (gen_tracker_registrar) are the keepers of registered processes;
%% - the watchdog (gen_tracker_shutdown) stops the children when the tracker was killed;
%% - the events process (gen_tracker_events) sends births and deaths to subscribers, as long as
%%   there are any;
%% - the cluster process (gen_tracker_cluster_member) of a zone on several nodes exchanges names
%%   with the other nodes;
%% - the emitter (gen_tracker_telemetry) passes events to the library telemetry, if it is there.
%%
%% The code relies on these invariants: a keeper claims the name of its child, a caller claims it
%% for a registrar, or the tracker inserts it with a keeper; only that keeper changes the state of
%% the child from then on, and removes it, unless the tracker unregisters the child or gives it
%% another keeper. A keeper writes to the table before it sends to the tracker, so a tracker that
%% reads a row and then waits for the keeper in it misses nothing. Messages between these processes
%% contain the tag of the tracker, a reference that only they know.

%% @doc Zones: supervisors whose children have names and attributes in a native table.
%%
%% This module is a drop-in replacement for the module of the same name that keeps its state in
%% ETS. A <em>zone</em> is a supervisor that is registered locally under an atom. Its children
%% have a <em>name</em>, any term, and <em>attributes</em>, pairs of any terms. Names and keys are
%% compared with `=:='. Values are returned exactly as they were set.
%%
%% Finding, attributes and listing send no message; any process may do them.
%%
%% All functions raise `badarg' if an argument has the wrong type or a term is too large for the
%% table. Those that take a zone raise `badarg' if it does not run, unless they say otherwise. Those
%% that call the tracker exit as `gen_server:call/3' does if it is killed meanwhile.
-module(gen_tracker).
-behaviour(gen_server).

-export([start_link/1, start_link/2, child_spec/1]).
-export([find/2, find/3, find_or_open/2, which_children/1]).
-export([add_existing_child/2, wait/1, init_ack/1]).
-export([setattr/3, setattr/4, getattr/3, getattr/4, delattr/3, increment/4, increment/5]).
-export([info/2, info/3, attrs/2, list/1, list/2]).
-export([count/1, names/1, fold/3, cas/5, update/4]).
-export([lookup/3, count/3, values/2, publish/4]).
-export([select/1, select/2, select/3, select_count/2, sum/2]).
-export([register_name/2, re_register_name/2, unregister_name/1, whereis_name/1, send/2]).
-export([subscribe/1, subscribe/2, unsubscribe/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([format_status/2]).
-compile({inline, [add/4, add/5]}).
%% Later releases of OTP deprecate format_status/2. The function says why it is used.
-compile(nowarn_deprecated_callback).

-export_type([zone/0, name/0, key/0, value/0, attributes/0, operation/0, child_spec/0, options/0]).
-export_type([cluster_options/0, via_name/0, start_result/0, event/0, continuation/0]).
-export_type([mfargs/0, restart/0, shutdown/0, child_type/0, modules/0]).

-include_lib("kernel/include/logger.hrl").
-include("proctab_errors.hrl").

%% EDoc takes the comment after a type for its description.
-type zone() :: atom().
-type name() :: term().
-type key() :: term().
-type value() :: term().
-type attributes() :: [{key(), value()}].
-type operation() :: (Increment :: integer())
                   | {2, Increment :: integer()}
                   | {2, Increment :: integer(), Threshold :: integer(), SetValue :: integer()}.
%% An operation of {@link increment/4}, as in `ets:update_counter/3'.
-type mfargs() :: {module(), Function :: atom(), Args :: [term()]}.
%% This and the next four types are those of OTP's child specs, which `supervisor' does not export.
-type restart() :: permanent | transient | temporary.
-type shutdown() :: brutal_kill | timeout().
-type child_type() :: worker | supervisor.
-type modules() :: [module()] | dynamic.
-type child_spec() :: {name(), mfargs(), restart()}
                    | {name(), mfargs(), restart(), shutdown(), child_type(), modules()}
                    | supervisor:child_spec().
-type options() :: #{restart => boolean(),
                     reports => boolean(),
                     max_children => non_neg_integer() | infinity,
                     index => [key() | {each, key()}],
                     cluster => boolean() | cluster_options()}.
-type cluster_options() :: #{copied => [key()],
                             conflict => {module(), Function :: atom()},
                             unique => home | lock}.
%% See {@link gen_tracker_cluster}.
-type via_name() :: {zone(), name()}.
%% The name of a process in `{via, gen_tracker, {Zone, Name}}'.
-type start_result() :: {ok, pid()} | {ok, pid(), Info :: term()} | ignore | {error, term()}.
%% The result of a start function, or the error of a start.
-type event() :: {gen_tracker, zone(), {up, name(), pid()}
                                     | {down, name(), pid(), Reason :: term()}
                                     | unsubscribed}.
%% A message to a subscriber.
-opaque continuation() :: gen_tracker_selection:continuation().
%% Where {@link select/1} goes on.

%% After how long the tracker retries what failed because the VM had no free process, in
%% milliseconds.
-define(LIMIT_INTERVAL, 100).
%% How long another node may take to say whether a process is alive, in milliseconds.
-define(ANSWER_TIMEOUT, 5000).
%% The requests that give a name to a process that runs already.
-define(IS_ADD(Kind), (Kind =:= add orelse Kind =:= add_home orelse Kind =:= add_free
                       orelse Kind =:= add_held orelse Kind =:= register
                       orelse Kind =:= re_register)).

-record(tracker, {
    zone :: zone(),
    %% The first element of messages from keepers, watchdog and events process.
    tag :: reference(),
    context :: gen_tracker_keeper:context(),
    handle :: proctab_nif:handle(),
    watchdog :: pid(),
    %% As long as there are subscribers.
    events :: pid() | undefined,
    %% If the zone is one of several nodes: its cluster process, and the options of that.
    cluster :: {pid(), map()} | undefined,
    requests :: gen_tracker_requests:requests(),
    %% Processes that start functions left linked to their keepers, which have ended.
    inherited = #{} :: #{pid() => Keeper :: pid()}
}).

%%% Starting and finding

%% @doc Starts a zone, registered locally under its name. Use it in a child spec of type
%% `supervisor'. Returns `{error, {already_started, Pid}}' if the zone runs.
-spec start_link(zone()) -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link(Zone) ->
    start_link(Zone, #{}).

%% @doc Starts a zone with options. An unknown option is `badarg'.
%%
%% <ul>
%% <li>`restart => false' turns automatic restarts off;</li>
%% <li>`reports => false' turns off the log reports that OTP's `supervisor' also makes;</li>
%% <li>`max_children => N' limits the number of children, in any state: one more is
%%     `{error, max_children}', or `no' from {@link register_name/2}. Restarts never fail by
%%     it;</li>
%% <li>`index => Keys' makes indexes of the attributes of these keys, at most 64, see {@link
%%     lookup/3}. A key that is repeated is `badarg';</li>
%% <li>`cluster => true', or a map of options, makes zones of this name on several nodes one zone,
%%     see {@link gen_tracker_cluster}.</li>
%% </ul>
-spec start_link(zone(), options()) -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link(Zone, Options) when is_atom(Zone), Zone =/= undefined, is_map(Options) ->
    case are_options(Options) of
        true ->
            Defaults = #{restart => true, reports => true, max_children => infinity, index => [],
                         cluster => false},
            All = maps:merge(Defaults, Options),
            gen_server:start_link({local, Zone}, ?MODULE, {Zone, All}, []);
        false ->
            ?BADARG([Zone, Options])
    end;
start_link(Zone, Options) ->
    ?BADARG([Zone, Options]).

are_options(Options) ->
    lists:all(fun is_option/1, maps:to_list(Options)).

is_option({restart, Restart}) -> is_boolean(Restart);
is_option({reports, Reports}) -> is_boolean(Reports);
is_option({max_children, Most}) -> Most =:= infinity orelse is_integer(Most) andalso Most >= 0;
is_option({index, Keys}) -> are_keys(Keys);
is_option({cluster, Cluster}) -> is_boolean(Cluster) orelse is_cluster(Cluster);
is_option(_) -> false.

is_cluster(Options) when is_map(Options) ->
    lists:all(fun is_cluster_option/1, maps:to_list(Options));
is_cluster(_) ->
    false.

is_cluster_option({copied, Keys}) -> are_keys(Keys);
is_cluster_option({conflict, {Module, Function}}) -> is_atom(Module) andalso is_atom(Function);
is_cluster_option({unique, Unique}) -> Unique =:= home orelse Unique =:= lock;
is_cluster_option(_) -> false.

are_keys(Keys) ->
    try proctab_nif:check_keys(Keys) of
        ok -> true
    catch
        error:badarg -> false
    end.

%% @doc Returns the child spec of a zone, for a supervisor: `{gen_tracker, Zone}' is a child of an
%% Elixir supervisor. With `{Zone, Options}' the zone starts with these options.
-spec child_spec(zone() | {zone(), options()}) -> supervisor:child_spec().
child_spec({Zone, Options} = ZoneOptions)
        when is_atom(Zone), Zone =/= undefined, is_map(Options) ->
    case are_options(Options) of
        true -> child_spec(Zone, [Zone, Options]);
        false -> ?BADARG([ZoneOptions])
    end;
child_spec(Zone) when is_atom(Zone), Zone =/= undefined ->
    child_spec(Zone, [Zone]);
child_spec(Zone) ->
    ?BADARG([Zone]).

child_spec(Zone, Arguments) ->
    #{id => Zone, start => {?MODULE, start_link, Arguments}, type => supervisor}.

%% @doc Returns the running child of a name. Returns `undefined' if there is none, or the child is
%% still starting or already terminating. A child that has just died may be returned until its
%% keeper has noticed.
-spec find(zone(), name()) -> {ok, pid()} | undefined.
find(Zone, Name) ->
    ?OR_BADARG(proctab_nif:find(Zone, Name), [Zone, Name]).

%% @doc Returns the running child of a name, after waiting for it for at most `Timeout'
%% milliseconds. Returns `undefined' after that time, and at once if the caller is a start function
%% or an `after_terminate' and would wait for its own end. Raises `badarg' if the zone ends
%% meanwhile and no other zone of its name runs.
-spec find(zone(), name(), Timeout :: timeout()) -> {ok, pid()} | undefined.
find(Zone, Name, Timeout) when Timeout =:= infinity; is_integer(Timeout), Timeout >= 0 ->
    ?OR_BADARG(gen_tracker_waiting:await(Zone, Name, child, Timeout), [Zone, Name, Timeout]);
find(Zone, Name, Timeout) ->
    ?BADARG([Zone, Name, Timeout]).

%% @doc Returns the running child of a name, or starts it.
%%
%% A child of this node that was dead at the call is never returned: the call waits for its cleanup,
%% and then for the next child. The start function is called once, however many callers there are,
%% and all of them get its result as it is: `{ok, Pid}', `{ok, Pid, Info}', `ignore',
%% `{error, Reason}', or any other term. There are two exceptions: `{error, Reason}' if the function
%% raised an exception, and `{error, {bad_return_value, Result}}' for `{ok, X}' or `{ok, X, Info}'
%% if `X' is not a pid, or a process of the zone itself.
%%
%% Other errors:
%% <ul>
%% <li>that of `supervisor:check_childspecs/1', for a malformed spec of a child that does not
%%     run;</li>
%% <li>`{error, gen_tracker_not_started}', if the zone does not run;</li>
%% <li>`{error, shutdown}', if the zone is stopping, or is stopped meanwhile;</li>
%% <li>`{error, killed}', if the child is terminated while it is being started;</li>
%% <li>`{error, starting}' or `{error, terminating}', if the caller is a start function or an
%%     `after_terminate' of this zone, or a process that one of these has started, and the child
%%     waits, directly or not, for just that start or cleanup;</li>
%% <li>`{error, max_children}', if the zone has as many children as its option `max_children'
%%     allows;</li>
%% <li>`{error, system_limit}', if the VM has no free process.</li>
%% </ul>
%%
%% Exits as `gen_server:call/3' does if the start takes over 60 seconds (the start goes on), or if
%% the tracker is killed.
-spec find_or_open(zone(), child_spec()) -> start_result() | (Other :: term()).
find_or_open(Zone, Spec) when is_atom(Zone) ->
    case find_named(Zone, Spec) of
        {ok, Pid} ->
            {ok, Pid};
        undefined ->
            case check_and_open(Zone, Spec) of
                again -> find_or_open(Zone, Spec);
                refused -> ?BADARG([Zone, Spec]);
                {opened, Result} -> Result
            end
    end;
find_or_open(Zone, Spec) ->
    ?BADARG([Zone, Spec]).

%% The rest of the spec is not checked here.
find_named(Zone, {Name, _, _}) -> find_alive(Zone, Name);
find_named(Zone, {Name, _, _, _, _, _}) -> find_alive(Zone, Name);
find_named(Zone, #{id := Name}) -> find_alive(Zone, Name);
find_named(_, _) -> undefined.

find_alive(Zone, Name) ->
    try
        proctab_nif:find_alive(Zone, Name)
    catch
        error:badarg -> undefined
    end.

check_and_open(Zone, Spec) ->
    case gen_tracker_spec:check(Spec) of
        {ok, Name, ChildSpec} -> gen_tracker_opening:open(Zone, Name, ChildSpec);
        {error, Reason} -> {opened, {error, Reason}}
    end.

%% @doc Returns all children, as `supervisor:which_children/1' does. A child that is not running has
%% `launching' or `terminating' in place of its pid; one that waits for its restart has `launching'.
-spec which_children(zone()) ->
          [{name(), pid() | launching | terminating, child_type(), modules()}].
which_children(Zone) ->
    [{Name, visible(State, Pid), Type, Mods} || {Name, State, Pid, _, {_, _, _, Type, Mods}} <-
        ?OR_BADARG(pages(Zone, children), [Zone])].

visible(running, Pid) -> Pid;
visible(terminating, _) -> terminating;
visible(_, _) -> launching.

%% @doc Adds a running process, of any node, as a child. The zone monitors it, removes its entry
%% and attributes when it dies, and tells it to exit when the zone stops. The end of the
%% connection to its node counts as its death, with the reason `noconnection'.
%%
%% With a full child spec, `after_terminate' of its module is called after its death, and it is
%% restarted as its restart type demands. While the last child of that name is terminating, the call
%% waits for its cleanup.
%%
%% Errors: `{error, {already_started, Pid}}' if a running child has the name, `{error,
%% already_present}' if one is being started or waits for its restart, `{error, shutdown}' if the
%% zone is stopping or is stopped meanwhile, `{error, max_children}' if the zone is full, `{error,
%% system_limit}' if the VM has no free process, `{error, starting}' or `{error, terminating}' as of
%% {@link find_or_open/2}. Raises `badarg' for a process of the zone itself, such as its tracker.
-spec add_existing_child(zone() | pid() | {zone(), node()}, Child) ->
          {ok, pid()} | {error, {already_started, pid()} | already_present | term()} when
      Child :: {name(), pid(), worker, Modules :: term()}
             | {pid(), {name(), mfargs(), restart(), shutdown(), worker, modules()}}.
add_existing_child(Zone, Child) ->
    case to_add(Child) of
        {Name, Spec, Pid} ->
            Parent = gen_tracker_waits:parent(),
            Adding =
                case local_zone(Zone) of
                    {ok, Local} -> fun() -> add(Local, {add, Name, Spec, Pid, Parent}) end;
                    %% Trackers of all versions understand this call.
                    remote -> fun() -> answered(Zone, {add_existing_child, Child}) end
                end,
            case ?OR_BADARG(Adding(), [Zone, Child]) of
                {error, badarg} -> ?BADARG([Zone, Child]);
                Added -> Added
            end;
        malformed ->
            ?BADARG([Zone, Child])
    end.

%% A process without a start function needs no keeper, and so no tracker if the name is free. For a
%% `re_register' the tracker monitors the process before it claims the name, so that a process that
%% has died does not get it.
add(Zone, {Kind, Name, {undefined, _, _, _, _} = Spec, Pid, _} = Request)
        when is_atom(Zone), Kind =/= re_register ->
    case gen_tracker_registrar:register(Zone, Name, Spec, Pid) of
        registered -> {ok, Pid};
        ask -> call(Zone, Request);
        {error, Reason} -> {error, Reason}
    end;
add(Zone, Request) ->
    call(Zone, Request).

to_add({Name, Pid, worker, Mods}) when is_pid(Pid) ->
    {Name, {undefined, temporary, 200, worker, Mods}, Pid};
to_add({Pid, {Name, _, _, _, worker, _} = Spec}) when is_pid(Pid) ->
    case gen_tracker_spec:check(Spec) of
        {ok, Name, ChildSpec} -> {Name, ChildSpec, Pid};
        {error, _} -> malformed
    end;
to_add(_) ->
    malformed.

%% @doc Returns after the tracker has handled all messages that were sent to it before. Returns
%% `{error, shutdown}' if the zone is being stopped.
-spec wait(zone() | pid() | {zone(), node()}) -> ok | {error, shutdown}.
wait(Zone) ->
    Wait =
        case local_zone(Zone) of
            {ok, Local} -> fun() -> call(Local, wait) end;
            remote -> fun() -> answered(Zone, wait) end
        end,
    ?OR_BADARG(Wait(), [Zone]).

%% Returns the zone, or `remote' if it is of another node.
local_zone(Tracker) when is_pid(Tracker), node(Tracker) =:= node() ->
    Zones = [Zone || {zone, Zone, Owner} <- proctab_nif:tables(), Owner =:= Tracker],
    {ok, hd(Zones ++ [undefined])};
local_zone({Zone, Node}) when Node =:= node() ->
    {ok, Zone};
local_zone({Zone, Node}) when is_atom(Zone), is_atom(Node) ->
    remote;
local_zone(Tracker) when is_pid(Tracker) ->
    remote;
local_zone(Zone) ->
    {ok, Zone}.

%% @doc Acknowledges the start of a child that was started with `proc_lib:start_link', as
%% `proc_lib:init_ack/1' does, and returns once the child is registered in its zone. From then on
%% {@link find/2} returns the child. Returns at once if no zone is starting the caller.
-spec init_ack(Ret :: term()) -> ok.
init_ack(Ret) ->
    proc_lib:init_ack(Ret),
    case {Ret, gen_tracker_waits:parent()} of
        {{ok, _}, Parent} when is_pid(Parent) -> await_registered(Parent);
        {{ok, _, _}, Parent} when is_pid(Parent) -> await_registered(Parent);
        _ -> ok
    end.

%% The zone is the second ancestor, unless the start function has changed the dictionary.
await_registered(Keeper) ->
    Zones =
        case get('$ancestors') of
            [_, Zone | _] -> [Zone];
            _ -> [Zone || {zone, Zone, _} <- proctab_nif:tables()]
        end,
    lists:foreach(fun(Zone) -> await_registered(Zone, Keeper) end, Zones).

%% Asks the tracker: the start function may flush messages to the keeper.
await_registered(Zone, Keeper) ->
    try proctab_nif:kept(Zone, Keeper) of
        {_, State, _, _} when State =:= launching; State =:= restarting ->
            _ = gen_server:call(Zone, {await_start, Keeper}, infinity),
            ok;
        _ ->
            ok
    catch
        error:badarg -> ok;
        exit:_ -> ok
    end.

%%% Attributes

%% @doc Sets the attributes of a map, or the pairs of a list, in one step. Ignores elements of a
%% list that are not pairs. Raises `{void_setting, Zone, Name, Keys}' if no child of that name is
%% running or starting.
-spec setattr(zone(), name(), attributes() | [term()] | #{key() => value()}) -> ok.
setattr(Zone, Name, Attributes) ->
    Pairs =
        case Attributes of
            #{} -> maps:to_list(Attributes);
            _ -> Attributes
        end,
    Arguments = [Zone, Name, Attributes],
    case ?OR_BADARG(proctab_nif:setattr(Zone, Name, Pairs), Arguments) of
        ok -> ok;
        void -> error({void_setting, Zone, Name, [Key || {Key, _} <- Pairs]}, Arguments)
    end.

%% @doc Sets one attribute. Raises `{void_setting, Zone, Name, Key}' if no child of that name is
%% running or starting.
-spec setattr(zone(), name(), key(), value()) -> ok.
setattr(Zone, Name, Key, Value) ->
    case ?OR_BADARG(proctab_nif:setattr(Zone, Name, Key, Value), [Zone, Name, Key, Value]) of
        ok -> ok;
        void -> error({void_setting, Zone, Name, Key}, [Zone, Name, Key, Value])
    end.

%% @doc Returns the value of an attribute.
-spec getattr(zone(), name(), key()) -> {ok, value()} | undefined.
getattr(Zone, Name, Key) ->
    ?OR_BADARG(proctab_nif:getattr(Zone, Name, Key), [Zone, Name, Key]).

%% @doc Returns the value of an attribute, after waiting for the attribute to appear for at most
%% `Timeout' milliseconds. Returns `undefined' after that time, and at once if the caller is a start
%% function or an `after_terminate' and would wait for its own end. Raises `badarg' if the zone ends
%% meanwhile and no other zone of its name runs.
-spec getattr(zone(), name(), key(), Timeout :: timeout()) -> {ok, value()} | undefined.
getattr(Zone, Name, Key, Timeout) when Timeout =:= infinity; is_integer(Timeout), Timeout >= 0 ->
    ?OR_BADARG(
        gen_tracker_waiting:await(Zone, Name, {attribute, Key}, Timeout),
        [Zone, Name, Key, Timeout]
    );
getattr(Zone, Name, Key, Timeout) ->
    ?BADARG([Zone, Name, Key, Timeout]).

%% @doc Removes an attribute, if there is one.
-spec delattr(zone(), name(), key()) -> ok.
delattr(Zone, Name, Key) ->
    ?OR_BADARG(proctab_nif:delattr(Zone, Name, Key), [Zone, Name, Key]).

%% @doc Adds to an integer attribute in one step, and returns the new value.
%%
%% The operation is an increment, or one of the operations of `ets:update_counter/3' on one value:
%% `{2, Increment}', or `{2, Increment, Threshold, SetValue}', which sets the attribute to
%% `SetValue' if the sum is beyond the threshold. Raises `badarg' if there is no such attribute,
%% or it is not an integer.
-spec increment(zone(), name(), key(), operation()) -> integer().
increment(Zone, Name, Key, {2, Increment}) ->
    ?OR_BADARG(add(Zone, Name, Key, Increment), [Zone, Name, Key, {2, Increment}]);
increment(Zone, Name, Key, Operation) when is_tuple(Operation) ->
    ?OR_BADARG(update(Zone, Name, Key, Operation, none), [Zone, Name, Key, Operation]);
increment(Zone, Name, Key, Increment) ->
    ?OR_BADARG(add(Zone, Name, Key, Increment), [Zone, Name, Key, Increment]).

%% @doc Like {@link increment/4}, but starts from `Default' if the attribute is missing. `Default'
%% must be an integer only in that case.
%%
%% The name need not have a child. Such an attribute is removed when a child of that name is next
%% cleaned up, or with the zone.
-spec increment(zone(), name(), key(), operation(), Default :: integer() | term()) -> integer().
increment(Zone, Name, Key, Increment, Default) when is_integer(Increment), is_integer(Default) ->
    ?OR_BADARG(
        add(Zone, Name, Key, Increment, Default), [Zone, Name, Key, Increment, Default]
    );
increment(Zone, Name, Key, {2, Increment}, Default)
        when is_integer(Increment), is_integer(Default) ->
    ?OR_BADARG(
        add(Zone, Name, Key, Increment, Default), [Zone, Name, Key, {2, Increment}, Default]
    );
increment(Zone, Name, Key, Operation, Default) when is_tuple(Operation) ->
    ?OR_BADARG(
        update(Zone, Name, Key, Operation, Default), [Zone, Name, Key, Operation, Default]
    );
increment(Zone, Name, Key, Increment, Default) ->
    ?OR_BADARG(
        update(Zone, Name, Key, {2, Increment}, Default), [Zone, Name, Key, Increment, Default]
    ).

add(Zone, Name, Key, Increment) ->
    case proctab_nif:increment(Zone, Name, Key, Increment) of
        large -> update(Zone, Name, Key, {2, Increment}, none);
        Sum -> Sum
    end.

add(Zone, Name, Key, Increment, Default) ->
    case proctab_nif:increment(Zone, Name, Key, Increment, Default + Increment) of
        large -> update(Zone, Name, Key, {2, Increment}, Default);
        Sum -> Sum
    end.

update(Zone, Name, Key, Operation, Default) ->
    gen_tracker_attributes:update(Zone, Name, Key, Operation, Default).

%% @doc Compares and sets: sets an attribute to `New' if its value is `Old' (`=:='), in one step.
%% Otherwise returns `{error, {current, Value}}', or `{error, undefined}' if there is no such
%% attribute. Raises `{void_setting, Zone, Name, Key}' if no child of that name is running or
%% starting.
-spec cas(zone(), name(), key(), Old :: value(), New :: value()) ->
          ok | {error, {current, value()} | undefined}.
cas(Zone, Name, Key, Old, New) ->
    case ?OR_BADARG(proctab_nif:cas(Zone, Name, Key, Old, New), [Zone, Name, Key, Old, New]) of
        ok -> ok;
        %% The table compares stored forms, which differ for `0.0' and `-0.0'.
        {current, Value} when Value =:= Old -> cas(Zone, Name, Key, Value, New);
        {current, Value} -> {error, {current, Value}};
        undefined -> {error, undefined};
        void -> error({void_setting, Zone, Name, Key}, [Zone, Name, Key, Old, New])
    end.

%% @doc Replaces the value of an attribute by `Fun(Value)', and returns the new value. The function
%% runs in the caller, and again if another process has changed the attribute meanwhile. If it
%% raises an exception, nothing changes. Returns `undefined' if there is no such attribute, or no
%% child of that name is running or starting.
-spec update(zone(), name(), key(), fun((value()) -> value())) -> {ok, value()} | undefined.
update(Zone, Name, Key, Fun) when is_function(Fun, 1) ->
    case ?OR_BADARG(proctab_nif:getattr(Zone, Name, Key), [Zone, Name, Key, Fun]) of
        {ok, Value} -> update(Zone, Name, Key, Fun, Value, Fun(Value));
        undefined -> undefined
    end;
update(Zone, Name, Key, Fun) ->
    ?BADARG([Zone, Name, Key, Fun]).

update(Zone, Name, Key, Fun, Old, New) ->
    case ?OR_BADARG(proctab_nif:cas(Zone, Name, Key, Old, New), [Zone, Name, Key, Fun]) of
        ok -> {ok, New};
        %% As in `cas/5'.
        {current, Value} when Value =:= Old -> update(Zone, Name, Key, Fun, Value, New);
        {current, Value} -> update(Zone, Name, Key, Fun, Value, Fun(Value));
        _ -> undefined
    end.

%% @doc Returns all attributes of a name at one moment, in any order.
-spec info(zone(), name()) -> attributes().
info(Zone, Name) ->
    ?OR_BADARG(proctab_nif:attrs(Zone, Name), [Zone, Name]).

%% @doc Returns those attributes of a name that have one of the keys, at one moment. Returns `[]'
%% for no keys, even if the zone does not run.
-spec info(zone(), name(), [key()]) -> attributes().
info(_Zone, _Name, []) ->
    [];
info(Zone, Name, Keys) ->
    ?OR_BADARG(proctab_nif:attrs(Zone, Name, Keys), [Zone, Name, Keys]).

%% @doc Returns the same as {@link info/2}.
-spec attrs(zone(), name()) -> attributes().
attrs(Zone, Name) ->
    ?OR_BADARG(proctab_nif:attrs(Zone, Name), [Zone, Name]).

%% @doc Returns all running children with their pids, as the attribute `pid', and their
%% attributes. The attributes of one child are those at one moment.
-spec list(zone()) -> [{name(), [{pid, pid()} | {key(), value()}]}].
list(Zone) ->
    ?OR_BADARG(pages(Zone, attributes), [Zone]).

%% @doc Like {@link list/1}, with only those attributes that have one of the keys.
-spec list(zone(), [key()]) -> [{name(), [{pid, pid()} | {key(), value()}]}].
list(Zone, Keys) when is_list(Keys) ->
    ?OR_BADARG(pages(Zone, Keys), [Zone, Keys]);
list(Zone, Keys) ->
    ?BADARG([Zone, Keys]).

%% @doc Returns the number of children, in any state.
-spec count(zone()) -> non_neg_integer().
count(Zone) ->
    ?OR_BADARG(proctab_nif:count(Zone), [Zone]).

%% @doc Returns the names of all children, in any state and any order.
-spec names(zone()) -> [name()].
names(Zone) ->
    ?OR_BADARG(pages(Zone, names), [Zone]).

%% @doc Folds a function over the running children, in any order. The zone may change meanwhile: a
%% child that lives throughout is seen exactly once.
-spec fold(fun((name(), pid(), Acc) -> Acc), Acc, zone()) -> Acc.
fold(Fun, Acc, Zone) when is_function(Fun, 3), is_atom(Zone) ->
    _ = ?OR_BADARG(proctab_nif:count(Zone), [Fun, Acc, Zone]),
    fold(Fun, Acc, Zone, 0);
fold(Fun, Acc, Zone) ->
    ?BADARG([Fun, Acc, Zone]).

fold(_, Acc, _, done) ->
    Acc;
fold(Fun, Acc, Zone, From) ->
    {Page, Next} = proctab_nif:page(Zone, From, pids, []),
    Fold = fun({Name, Pid}, Before) -> Fun(Name, Pid, Before) end,
    fold(Fun, lists:foldl(Fold, Acc, Page), Zone, Next).

%% @doc Returns the sum of an attribute over all running children. Passes over values that are not
%% integers.
-spec sum(zone(), key()) -> integer().
sum(Zone, Key) when is_atom(Zone) ->
    ?OR_BADARG(gen_tracker_selection:sum(Zone, Key), [Zone, Key]);
sum(Zone, Key) ->
    ?BADARG([Zone, Key]).

%% @doc Returns the matches of a match specification, as `ets:select/2' does for a table with the
%% row `{Name, Pid, #{Key => Value}}' for each running child, in any order.
%%
%% Reads the zone page by page: it may change meanwhile, and a child that lives throughout is seen
%% exactly once. Raises `badarg' if the match specification is malformed.
-spec select(zone(), ets:match_spec()) -> [Match :: term()].
select(Zone, MatchSpec) when is_atom(Zone) ->
    ?OR_BADARG(gen_tracker_selection:select(Zone, MatchSpec), [Zone, MatchSpec]);
select(Zone, MatchSpec) ->
    ?BADARG([Zone, MatchSpec]).

%% @doc Like {@link select/2}, but returns at most `Limit' matches, and a continuation for {@link
%% select/1}, as `ets:select/3' does. Returns `$end_of_table' if there are no more matches. A call
%% reads no further than it has to.
-spec select(zone(), ets:match_spec(), Limit :: pos_integer()) ->
          {[Match :: term()], continuation()} | '$end_of_table'.
select(Zone, MatchSpec, Limit) when is_atom(Zone), is_integer(Limit), Limit > 0 ->
    ?OR_BADARG(gen_tracker_selection:select(Zone, MatchSpec, Limit), [Zone, MatchSpec, Limit]);
select(Zone, MatchSpec, Limit) ->
    ?BADARG([Zone, MatchSpec, Limit]).

%% @doc Continues {@link select/3}. Raises `badarg' if the zone does not run any more.
-spec select(continuation()) -> {[Match :: term()], continuation()} | '$end_of_table'.
select(Continuation) ->
    ?OR_BADARG(gen_tracker_selection:continue(Continuation), [Continuation]).

%% @doc Returns for how many running children a match specification returns `true', as
%% `ets:select_count/2' does.
-spec select_count(zone(), ets:match_spec()) -> non_neg_integer().
select_count(Zone, MatchSpec) when is_atom(Zone) ->
    ?OR_BADARG(gen_tracker_selection:count(Zone, MatchSpec), [Zone, MatchSpec]);
select_count(Zone, MatchSpec) ->
    ?BADARG([Zone, MatchSpec]).

%%% Indexes

%% @doc Returns the running children whose attribute has a value now, in any order. The attribute
%% must be indexed, as an option of {@link start_link/2} says; otherwise the call raises `badarg'.
%%
%% An index of `Key' compares the whole value, with `=:='. An index of `{each, Key}' has each
%% element of the value, if that is a proper list. A child is in the indexes from its start to its
%% death; the attributes that it still has while it is terminating do not count.
%%
%% The cost depends on the number of children that are returned alone. Once {@link setattr/4} has
%% returned, every process finds the child under the new value, and no longer under the old one. A
%% child is returned at most once, even if its value changes meanwhile.
-spec lookup(zone(), key(), value()) -> [{name(), pid()}].
lookup(Zone, Key, Value) ->
    ?OR_BADARG(lookup(Zone, Key, Value, 0, []), [Zone, Key, Value]).

lookup(Zone, Key, Value, From, Before) ->
    case proctab_nif:lookup(Zone, Key, Value, From, children, Before) of
        {Children, done} -> Children;
        {Children, Next} -> lookup(Zone, Key, Value, Next, Children)
    end.

%% @doc Returns the number of running children whose attribute has a value, at a cost that does not
%% depend on the number. A child whose value is just being changed may count for both values. Raises
%% `badarg' if the attribute is not indexed.
-spec count(zone(), key(), value()) -> non_neg_integer().
count(Zone, Key, Value) ->
    ?OR_BADARG(proctab_nif:count(Zone, Key, Value), [Zone, Key, Value]).

%% @doc Returns all values of an indexed attribute that running children have, each once, with the
%% number of these children, in any order. A child whose value is just being changed may count for
%% both values. Raises `badarg' if the attribute is not indexed.
-spec values(zone(), key()) -> [{value(), pos_integer()}].
values(Zone, Key) ->
    ?OR_BADARG(values(Zone, Key, 0, []), [Zone, Key]).

values(_, _, done, Values) ->
    Values;
values(Zone, Key, From, Before) ->
    {Values, Next} = proctab_nif:values_page(Zone, Key, From, Before),
    values(Zone, Key, Next, Values).

%% @doc Sends a message to all running children whose attribute has a value, as the caller would
%% with `!', and returns their number. This counts a child that has just died, as `!' to a dead
%% process does nothing. Children of other nodes are among them. Reads the index page by page and
%% sends in between: if the zone ends meanwhile, returns how many children were sent the message.
%% Raises `badarg' as {@link lookup/3} does.
-spec publish(zone(), key(), value(), Message :: term()) -> non_neg_integer().
publish(Zone, Key, Value, Message) ->
    First = ?OR_BADARG(
        proctab_nif:lookup(Zone, Key, Value, 0, pids, []), [Zone, Key, Value, Message]
    ),
    publish(First, Zone, Key, Value, Message, 0).

publish({Pids, Next}, Zone, Key, Value, Message, Before) ->
    Sent = send_to(Pids, Message, Before),
    case Next of
        done ->
            Sent;
        _ ->
            Page =
                try
                    proctab_nif:lookup(Zone, Key, Value, Next, pids, [])
                catch
                    %% The zone has ended, and with it all its children.
                    error:badarg -> {[], done}
                end,
            publish(Page, Zone, Key, Value, Message, Sent)
    end.

send_to([Pid | Pids], Message, Sent) ->
    Pid ! Message,
    send_to(Pids, Message, Sent + 1);
send_to([], _, Sent) ->
    Sent.

%%% Pages

pages(Zone, What) when is_atom(Zone) ->
    pages(Zone, 0, What, []);
pages(_Zone, _What) ->
    error(badarg).

pages(_, done, _, Items) ->
    Items;
pages(Zone, From, What, Items) ->
    {More, Next} = proctab_nif:page(Zone, From, What, Items),
    pages(Zone, Next, What, More).

%% Calls the tracker. Raises `badarg' if the zone does not run. Returns `{error, shutdown}' if the
%% zone is stopped in order before the tracker has answered.
call(Zone, Request) ->
    answered(Zone, sendable(Zone, Request)).

answered(Server, Request) ->
    try
        gen_server:call(Server, Request, infinity)
    catch
        exit:{noproc, _} -> error(badarg);
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown -> {error, shutdown}
    end.

%% Raises `badarg' if the zone does not run, or the request is too large for a table. The parts of a
%% term may be shared so often that the VM could not even send it.
sendable(Zone, Request) ->
    _ = proctab_nif:find(Zone, Request),
    Request.

%%% Names for OTP

%% @doc Registers a running process, for `{via, gen_tracker, {Zone, Name}}'. It becomes a child as
%% with {@link add_existing_child/2}. Returns `no' if a running child has the name, or for any other
%% error of that function. While a child of that name is being started, the call waits for it, up to
%% 60 seconds; while the last child is terminating, it waits for the cleanup. Returns `yes' at once
%% if the zone is starting the caller under this name; the name is registered when its start
%% function has returned. If a start function starts several such processes, the first one gets
%% `yes', and the others `no' as long as that one lives and has not unregistered the name.
-spec register_name(via_name(), pid()) -> yes | no.
register_name({Zone, Name}, Pid) when is_pid(Pid), is_atom(Zone) ->
    case ?OR_BADARG(register_child(register, Zone, Name, Pid), [{Zone, Name}, Pid]) of
        badarg -> ?BADARG([{Zone, Name}, Pid]);
        Answer -> Answer
    end;
register_name(ViaName, Pid) ->
    ?BADARG([ViaName, Pid]).

%% @doc Gives a registered name to another process, with its attributes, as
%% `global:re_register_name/2' does. Subscribers are told that the first process is `down', with the
%% reason `re_registered', and then that the other one is `up'; it is the child of that name from
%% now on. The first process lives on. Registers a free name. Returns `yes' and changes nothing if
%% the process has the name.
%%
%% Returns `no' for a dead process, if the child of that name has a start function, and for the
%% errors of {@link register_name/2}, as which this waits for starts and cleanups. Asks the other
%% node whether a process of another node is alive, and returns `no' if that does not answer within
%% five seconds.
-spec re_register_name(via_name(), pid()) -> yes | no.
re_register_name({Zone, Name}, Pid) when is_pid(Pid), is_atom(Zone) ->
    _ = ?OR_BADARG(proctab_nif:count(Zone), [{Zone, Name}, Pid]),
    IsAlive = is_alive(Pid),
    Register = fun() -> register_child(re_register, Zone, Name, Pid) end,
    case ?OR_BADARG(IsAlive andalso Register(), [{Zone, Name}, Pid]) of
        false -> no;
        badarg -> ?BADARG([{Zone, Name}, Pid]);
        Answer -> Answer
    end;
re_register_name(ViaName, Pid) ->
    ?BADARG([ViaName, Pid]).

is_alive(Pid) when node(Pid) =:= node() ->
    gen_tracker_keeper:is_alive(Pid);
is_alive(Pid) ->
    try
        erpc:call(node(Pid), erlang, is_process_alive, [Pid], ?ANSWER_TIMEOUT)
    catch
        error:{erpc, _} -> false
    end.

%% Unlike an addition, this waits while another child of that name is being started: OTP asks for
%% the pid of the other process after a `no'.
register_child(Kind, Zone, Name, Pid) ->
    {Name, Spec, Pid} = to_add({Name, Pid, worker, []}),
    Request = {Kind, Name, Spec, Pid, gen_tracker_waits:parent()},
    case gen_tracker_registrar:reserve(Zone, Name, Pid) of
        true ->
            yes;
        false ->
            no;
        undefined ->
            case add(Zone, Request) of
                {error, badarg} -> badarg;
                {error, _} -> no;
                _ -> yes
            end
    end.

%% @doc Removes the entry and the attributes of a process that was registered or added without a
%% start function. The process lives on. Does nothing if there is no such process, if the zone does
%% not run, or if the child has a start function: its entry is removed when it ends.
-spec unregister_name(via_name()) -> ok.
unregister_name({Zone, Name} = ViaName) when is_atom(Zone) ->
    try proctab_nif:child(Zone, Name) of
        {_, Pid, Keeper, {undefined, _, _, _, _}} ->
            case unregister_child(Zone, Name, Pid, Keeper) of
                ok -> ok;
                again -> unregister_name(ViaName)
            end;
        {State, _, Keeper, _} when State =:= launching; State =:= restarting ->
            proctab_nif:cancel_name(Zone, Keeper);
        _ ->
            ok
    catch
        error:badarg -> ok
    end;
unregister_name(ViaName) ->
    ?BADARG([ViaName]).

%% A registrar does this, or else the tracker, as it does other additions, so that subscribers
%% receive the events in order. A keeper cannot do it: it may be waiting for the end of the calling
%% process.
unregister_child(Zone, Name, Pid, Keeper) ->
    try
        case lists:member(Keeper, proctab_nif:registrars(Zone)) andalso
             gen_tracker_registrar:unregister(Keeper, Name, Pid)
        of
            ok ->
                ok;
            _ ->
                case gen_server:call(Zone, {unregister, Name}, infinity) of
                    {ask, Other} -> gen_tracker_registrar:unregister(Other, Name, Pid);
                    ok -> ok
                end
        end
    catch
        error:badarg -> ok;
        %% The zone has ended, and with it all its names.
        exit:_ -> ok
    end.

%% @doc Returns the running child of a name. Returns `undefined' if there is none, if the zone
%% does not run, or if the child is a process of this node that has died.
-spec whereis_name(via_name()) -> pid() | undefined.
whereis_name({Zone, Name}) when is_atom(Zone) ->
    %% OTP calls this before it starts a process. The name of a dead process must count as free.
    try proctab_nif:find_alive(Zone, Name) of
        {ok, Pid} -> Pid;
        undefined -> undefined
    catch
        error:badarg -> undefined
    end;
whereis_name(ViaName) ->
    ?BADARG([ViaName]).

%% @doc Sends a message to the running child of a name, and returns its pid. Exits with
%% `{badarg, {{Zone, Name}, Message}}' if there is none.
-spec send(via_name(), Message :: term()) -> pid().
send(ViaName, Message) ->
    case ?OR_BADARG(whereis_name(ViaName), [ViaName, Message]) of
        undefined ->
            exit({badarg, {ViaName, Message}});
        Pid ->
            Pid ! Message,
            Pid
    end.

%%% Events

%% @doc Subscribes the caller to births and deaths in a zone. Returns the children that run at that
%% moment.
%%
%% From then on the caller receives `{gen_tracker, Zone, {up, Name, Pid}}' when a child was started
%% or added, and `{gen_tracker, Zone, {down, Name, Pid, Reason}}' when it has ended (before
%% `after_terminate' is called), was unregistered (with the reason `unregistered'), has lost its
%% name to another process (with the reason `re_registered'), or has given way to the child of
%% another node (with the reason `{conflict, Winner}'). The events of each name arrive in order,
%% none missing, none twice. Subscribing again changes nothing.
%%
%% A subscription ends with the zone, after the deaths of the last children. The last message is
%% `{gen_tracker, Zone, unsubscribed}'. A caller that subscribes to a new zone of the same name
%% before this message may receive events of both zones. The same message arrives at once if the
%% process that sends the events is killed.
%%
%% Exits with `{shutdown, _}' if the zone is stopping, and with `{system_limit, _}' if the VM has no
%% free process.
-spec subscribe(zone()) -> {ok, [{name(), pid()}]}.
subscribe(Zone) ->
    ?OR_BADARG(subscribe_to(all, Zone, [Zone]), [Zone]).

%% @doc Like {@link subscribe/1}, but subscribes the caller to one name alone, which need not have a
%% child. A process may subscribe to several names. It receives each event once, even if it is also
%% subscribed to the whole zone. {@link unsubscribe/1} ends all subscriptions of the caller.
-spec subscribe(zone(), {name, name()}) -> {ok, [{name(), pid()}]}.
subscribe(Zone, {name, Name} = Filter) ->
    ?OR_BADARG(subscribe_to({name, sendable(Zone, Name)}, Zone, [Zone, Filter]), [Zone, Filter]);
subscribe(Zone, Filter) ->
    ?BADARG([Zone, Filter]).

subscribe_to(What, Zone, Arguments) ->
    case call(Zone, events) of
        Events when is_pid(Events) ->
            case gen_tracker_events:subscribe(Events, What) of
                {ok, Children} -> {ok, Children};
                ended ->
                    %% There will be another events process, or no zone.
                    ok = gen_tracker_events:forget_end(?MODULE, Zone),
                    subscribe_to(What, Zone, Arguments)
            end;
        {error, Reason} ->
            exit({Reason, {?MODULE, subscribe, Arguments}})
    end.

%% @doc Ends the caller's subscription. When this has returned, no event arrives any more, and
%% none is left in the mailbox. (The events process of an earlier zone of that name may still send
%% the deaths of its last children; see {@link subscribe/1}.)
-spec unsubscribe(zone()) -> ok.
unsubscribe(Zone) ->
    _ = case ?OR_BADARG(call(Zone, current_events), [Zone]) of
        Events when is_pid(Events) -> gen_tracker_events:unsubscribe(Events);
        _NoneOrStopping -> ok
    end,
    gen_tracker_events:forget(?MODULE, Zone).

%%% The tracker

%% @private
-spec init({zone(), options()}) -> {ok, #tracker{}}.
init({Zone, Options}) ->
    process_flag(trap_exit, true),
    gen_tracker_reports:set_label({?MODULE, Zone}),
    Tag = make_ref(),
    Own = maps:with([restart, reports], Options),
    Emitter = gen_tracker_telemetry:start(Zone),
    Context = Own#{tracker => self(), tag => Tag, zone => Zone, telemetry => Emitter},
    #{index := Keys} = Options,
    Shared = gen_tracker_keeper:shared(Context),
    Handle = proctab_nif:zone_open(Zone, Shared, Keys, limit(Options)),
    ok = gen_tracker_telemetry:opened(Emitter, Handle),
    {ok, #tracker{
        zone = Zone,
        tag = Tag,
        context = Context,
        handle = Handle,
        cluster = start_cluster(Zone, Handle, Tag, cluster_options(Options, Emitter)),
        watchdog = gen_tracker_shutdown:start_watchdog(Handle, Context),
        requests = gen_tracker_requests:new(Context, Handle)
    }}.

cluster_options(#{cluster := false}, _) ->
    none;
cluster_options(#{cluster := true} = Options, Emitter) ->
    cluster_options(Options#{cluster := #{}}, Emitter);
cluster_options(#{cluster := Cluster, index := Index}, Emitter) ->
    Cluster#{index => Index, telemetry => Emitter}.

start_cluster(_, _, _, none) -> undefined;
start_cluster(Zone, Handle, Tag, Cluster) ->
    {gen_tracker_cluster_member:start_link(Zone, Handle, Tag, Cluster), Cluster}.

%% A number that is too large for the table limits nothing.
limit(#{max_children := Most}) when is_integer(Most), Most < 1 bsl 63 -> Most;
limit(_) -> infinity.

%% @private
-spec handle_call(term(), From :: term(), #tracker{}) ->
          {reply, term(), #tracker{}} | {noreply, #tracker{}} | {stop, term(), term(), #tracker{}}.
handle_call(Call, {Caller, _} = From, Tracker) when is_pid(Caller) ->
    try
        route(Call, From, Tracker)
    catch
        %% A term is too large for the table.
        error:badarg -> {reply, {error, badarg}, Tracker};
        error:system_limit -> {reply, {error, system_limit}, Tracker}
    end;
%% A sender that is no process cannot be answered: `gen_server' would crash.
handle_call(_Call, _From, Tracker) ->
    {noreply, Tracker}.

%% First the calls that this module sends, then those of `supervisor', then those of the original
%% module, which programs also send without that module, from other nodes.
route({find_or_open, Name, Spec, Caller}, From, Tracker) ->
    request(open, Name, Spec, undefined, From, [Caller], Tracker);
route({Open, Name, Spec, Caller}, From, Tracker) when Open =:= open_home; Open =:= open_held ->
    request(Open, Name, Spec, undefined, From, [Caller], Tracker);
route({join, Name, Keeper, Caller}, From, Tracker)
        when is_pid(Keeper), node(Keeper) =:= node(); Keeper =:= undefined ->
    handle(join, Name, undefined, Keeper, From, [Caller], Tracker);
route({Add, Name, Spec, Child, Caller}, From, Tracker) when ?IS_ADD(Add) ->
    request(Add, Name, Spec, Child, From, [Caller], Tracker);
route({LookUp, Name, Caller}, From, Tracker) when LookUp =:= look_up; LookUp =:= await_child ->
    handle(LookUp, Name, undefined, undefined, From, [Caller], Tracker);
route({await_start, Keeper}, From, Tracker) when is_pid(Keeper), node(Keeper) =:= node() ->
    handle(await_start, undefined, undefined, Keeper, From, [], Tracker);
route({unregister, Name}, _From, #tracker{requests = Requests} = Tracker) ->
    {reply, gen_tracker_requests:unregister(Name, Requests), Tracker};
route({registrar, Position}, From, #tracker{requests = Requests} = Tracker)
        when is_integer(Position), Position >= 0, Position < 8 ->
    Started = gen_tracker_requests:start_registrar(Position, From, Requests),
    {noreply, Tracker#tracker{requests = Started}};
route({start_child, Spec}, From, Tracker) ->
    case gen_tracker_spec:check(Spec) of
        {ok, Name, ChildSpec} ->
            Callers = gen_tracker_waits:parent(From),
            request(start_child, Name, ChildSpec, undefined, From, Callers, Tracker);
        {error, Reason} ->
            {reply, {error, Reason}, Tracker}
    end;
route({Forget, Name}, From, Tracker) when Forget =:= terminate_child; Forget =:= delete_child ->
    Callers = gen_tracker_waits:parent(From),
    handle(forget, Name, undefined, undefined, From, Callers, Tracker);
route({restart_child, Name}, _From, Tracker) ->
    {reply, restart_child(Name, Tracker), Tracker};
route({get_childspec, Name}, _From, Tracker) ->
    {reply, childspec(Name, Tracker), Tracker};
route(which_children, _From, #tracker{zone = Zone} = Tracker) ->
    {reply, which_children(Zone), Tracker};
route(count_children, _From, #tracker{zone = Zone} = Tracker) ->
    {reply, count_children(Zone), Tracker};
route(events, _From, #tracker{events = undefined, handle = Handle} = Tracker) ->
    #tracker{zone = Zone, tag = Tag} = Tracker,
    Events = gen_tracker_events:start(Zone, Handle, Tag),
    {reply, Events, Tracker#tracker{events = Events}};
route(events, _From, #tracker{events = Events} = Tracker) ->
    {reply, Events, Tracker};
route(current_events, _From, #tracker{events = Events} = Tracker) ->
    {reply, Events, Tracker};
route(wait, _From, Tracker) ->
    {reply, ok, Tracker};
route(shutdown, _From, Tracker) ->
    {stop, shutdown, ok, Tracker};
route(stop, _From, Tracker) ->
    {stop, normal, ok, Tracker};
route({find_or_open, Spec}, From, #tracker{zone = Zone} = Tracker) ->
    case {find_named(Zone, Spec), gen_tracker_spec:check(Spec)} of
        {{ok, Pid}, _} ->
            {reply, {ok, Pid}, Tracker};
        {undefined, {ok, Name, ChildSpec}} ->
            Callers = gen_tracker_waits:parent(From),
            request(find_or_open, Name, ChildSpec, undefined, From, Callers, Tracker);
        {undefined, {error, Reason}} ->
            {reply, {error, Reason}, Tracker}
    end;
route({add_existing_child, Child}, From, Tracker) ->
    case to_add(Child) of
        {Name, Spec, Pid} ->
            Callers = gen_tracker_waits:parent(From),
            request(add, Name, Spec, Pid, From, Callers, Tracker);
        malformed ->
            {reply, {error, badarg}, Tracker}
    end;
route(Call, From, Tracker) ->
    unknown_call(Call, From, Tracker).

unknown_call(Call, From, #tracker{zone = Zone} = Tracker) ->
    ?LOG_ERROR(#{label => {gen_tracker, unknown_call}, zone => Zone, call => Call, from => From}),
    {reply, {error, {unknown_call, Call}}, Tracker}.

%% Any process may send such a call, with any terms in it.
request(Kind, Name, Spec, Child, From, Callers, Tracker) ->
    case gen_tracker_spec:is_spec(Spec) andalso is_child(Kind, Spec, Child, Tracker) of
        true -> handle(Kind, Name, Spec, Child, From, Callers, Tracker);
        false -> {reply, {error, badarg}, Tracker}
    end.

is_child(Add, _, Child, Tracker) when ?IS_ADD(Add) ->
    is_pid(Child) andalso not is_own(Child, Tracker);
is_child(_, {Start, _, _, _, _}, undefined, _) ->
    Start =/= undefined.

%% The zone's own processes cannot be its children.
is_own(Pid, #tracker{watchdog = Watchdog, events = Events, cluster = Cluster} = Tracker) ->
    #tracker{zone = Zone, context = Context} = Tracker,
    Emitter = maps:get(telemetry, Context, none),
    Member = [Process || {Process, _} <- [Cluster]],
    lists:member(Pid, [self(), Watchdog, Events, Emitter | Member])
        orelse proctab_nif:is_own(Zone, Pid).

handle(Kind, Name, Spec, Child, {Pid, _} = From, Callers, Tracker) ->
    #tracker{requests = Requests} = Tracker,
    Local = [Caller || Caller <- [Pid | Callers], is_pid(Caller), node(Caller) =:= node()],
    Request = gen_tracker_requests:request(Kind, Name, Spec, Child, From, Local),
    {noreply, Tracker#tracker{requests = gen_tracker_requests:handle(Request, Requests)}}.

%% @private
-spec handle_cast(term(), #tracker{}) -> {noreply, #tracker{}}.
handle_cast({abandon_look_up, From}, #tracker{requests = Requests} = Tracker) ->
    {noreply, Tracker#tracker{requests = gen_tracker_requests:abandon(From, Requests)}};
handle_cast(Cast, #tracker{zone = Zone} = Tracker) ->
    ?LOG_ERROR(#{label => {gen_tracker, unknown_cast}, zone => Zone, cast => Cast}),
    {noreply, Tracker}.

%% @private
-spec handle_info(term(), #tracker{}) -> {noreply, #tracker{}} | {stop, shutdown, #tracker{}}.
handle_info(Message, Tracker) ->
    try
        case gen_tracker_shutdown:is_order(Message) of
            true -> {stop, shutdown, Tracker};
            false -> {noreply, received(Message, Tracker)}
        end
    catch
        error:system_limit ->
            _ = erlang:send_after(?LIMIT_INTERVAL, self(), Message),
            {noreply, Tracker}
    end.

received({Tag, launched, Keeper, Result}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:launched(Keeper, Result, Requests)};
received({Tag, mark, Mark}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:mark(Mark, Requests)};
received({Tag, pending, Keeper, Timer}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:pending(Keeper, Timer, Requests)};
received({Tag, settled, Keeper}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:settled(Keeper, Requests)};
received({Tag, opened, Registrar, Before}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Opened = gen_tracker_requests:registrar_opened(Registrar, Before, Requests),
    Tracker#tracker{requests = Opened};
received({Tag, child_ended, From, Result}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:registered_ended(From, Result, Requests)};
received({Tag, inherit, Keeper, Pids}, #tracker{tag = Tag, inherited = Inherited} = Tracker) ->
    Tracker#tracker{inherited = gen_tracker_shutdown:inherit(Keeper, Tag, Pids, Inherited)};
received({Tag, overtime, Keeper, What}, #tracker{tag = Tag, context = Context} = Tracker) ->
    gen_tracker_shutdown:overtime(Keeper, What, Context),
    Tracker;
received({Tag, register_timeout, Keeper, From}, #tracker{tag = Tag} = Tracker) ->
    #tracker{requests = Requests} = Tracker,
    Tracker#tracker{requests = gen_tracker_requests:register_timeout(Keeper, From, Requests)};
received({Tag, expire}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:expire(Requests)};
received({{Tag, keeper}, _, process, Keeper, Reason}, #tracker{tag = Tag} = Tracker) ->
    #tracker{requests = Requests} = Tracker,
    Tracker#tracker{requests = gen_tracker_requests:lost(Keeper, Reason, Requests)};
received({{Tag, attached, Keeper}, _, process, Child, Reason}, #tracker{tag = Tag} = Tracker) ->
    gen_tracker_keeper:died(Keeper, Tracker#tracker.context, Child, Reason),
    Tracker;
received({{Tag, looking, From}, _, process, _, _}, #tracker{tag = Tag} = Tracker) ->
    #tracker{requests = Requests} = Tracker,
    Tracker#tracker{requests = gen_tracker_requests:abandon(From, Requests)};
received({{Tag, watchdog}, _, process, _, _}, #tracker{tag = Tag} = Tracker) ->
    #tracker{handle = Handle, context = Context} = Tracker,
    Tracker#tracker{watchdog = gen_tracker_shutdown:start_watchdog(Handle, Context)};
received({{Tag, cluster}, _, process, _, _}, #tracker{tag = Tag, zone = Zone} = Tracker) ->
    #tracker{handle = Handle, cluster = {_, Cluster}} = Tracker,
    Tracker#tracker{cluster = start_cluster(Zone, Handle, Tag, Cluster)};
received({Tag, drained}, #tracker{tag = Tag, cluster = {Process, Cluster}} = Tracker) ->
    Tracker#tracker{cluster = {Process, Cluster#{drained => true}}};
received({Tag, needs_keeper, Name, Child}, #tracker{tag = Tag} = Tracker) ->
    #tracker{requests = Requests} = Tracker,
    Tracker#tracker{requests = gen_tracker_requests:give_keeper(Name, Child, Requests)};
received({{Tag, events}, _, process, Events, _}, #tracker{tag = Tag, events = Events} = Tracker) ->
    Tracker#tracker{events = undefined};
received({'EXIT', Pid, Reason} = Message, #tracker{inherited = Inherited} = Tracker)
        when is_pid(Pid) ->
    case {is_map_key(Pid, Inherited), gen_tracker_keeper:is_alive(Pid)} of
        {true, _} ->
            Tracker#tracker{inherited = maps:remove(Pid, Inherited)};
        {false, false} ->
            %% Most of those that are not monitored are keepers.
            #tracker{requests = Requests} = Tracker,
            Tracker#tracker{requests = gen_tracker_requests:lost(Pid, Reason, Requests)};
        {false, true} ->
            unknown(Message, Tracker)
    end;
received(Message, Tracker) ->
    unknown(Message, Tracker).

unknown(Message, #tracker{zone = Zone} = Tracker) ->
    ?LOG_ERROR(#{label => {gen_tracker, unknown_message}, zone => Zone, message => Message}),
    Tracker.

%% @private
-spec terminate(term(), #tracker{}) -> ok.
terminate(_Reason, #tracker{zone = Zone, handle = Handle, context = Context} = Tracker) ->
    ok = proctab_nif:zone_stop(Handle),
    ok = leave_cluster(Tracker),
    gen_tracker_requests:end_all(Tracker#tracker.requests),
    gen_tracker_shutdown:stop(Handle, Context, Tracker#tracker.inherited),
    %% From now on calls fail with `noproc'.
    _ = try unregister(Zone) catch error:badarg -> lost end,
    refuse_others().

%% The children may take long to stop. Meanwhile names are started on other members.
leave_cluster(#tracker{cluster = {Process, _}, tag = Tag}) ->
    gen_tracker_cluster_member:stopping(Process, Tag);
leave_cluster(#tracker{cluster = undefined}) ->
    ok.

refuse_others() ->
    receive
        {'$gen_call', {Caller, _} = From, Request} when is_pid(Caller) ->
            gen_server:reply(From, gen_tracker_shutdown:refusal(Request)),
            refuse_others()
    after 0 -> ok
    end.

%% @private
-spec code_change(term(), #tracker{}, term()) -> {ok, #tracker{}}.
code_change(_OldVsn, Tracker, _Extra) ->
    {ok, Tracker}.

%% @private Makes `sys:get_status/1' show the zone as a supervisor, for `release_handler' and
%% others. The newer callback `format_status/1' cannot.
-spec format_status(normal | terminate, [term()]) -> term().
format_status(terminate, [_Dictionary, Tracker]) ->
    Tracker;
format_status(_, [_Dictionary, Tracker]) ->
    [{data, [{"State", Tracker}]}, {supervisor, [{"Callback", ?MODULE}]}].

%%% Being a supervisor

%% A zone keeps no stopped children, so there is never one to restart.
restart_child(Name, #tracker{zone = Zone}) ->
    case proctab_nif:child(Zone, Name) of
        undefined -> {error, not_found};
        {running, _, _, _} -> {error, running};
        {_, _, _, _} -> {error, restarting}
    end.

childspec(Name, #tracker{zone = Zone}) ->
    case proctab_nif:child(Zone, Name) of
        undefined -> {error, not_found};
        {_, _, _, Spec} -> {ok, gen_tracker_spec:to_map(Name, Spec)}
    end.

count_children(Zone) ->
    Children = which_children(Zone),
    Supervisors = length([Name || {Name, _, supervisor, _} <- Children]),
    [
        {specs, length(Children)},
        {active, length([Pid || {_, Pid, _, _} <- Children, is_pid(Pid)])},
        {supervisors, Supervisors},
        {workers, length(Children) - Supervisors}
    ].
