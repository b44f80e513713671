%% @doc A supervisor-like tracker: registers children by any term, keeps attributes for them, and cleans up when they die.
%%
%% This is a drop-in replacement for the module of the same name that keeps its state in ETS. A tracker, or <em>zone</em>, is a process that
%% is registered locally under an atom. Its children are known by a <em>name</em>, any term, and carry <em>attributes</em>: pairs of any
%% terms. Names and keys are compared with `=:='; values come back exactly as they went in.
%%
%% The processes of a zone, and what each is for:
%%
%% <ul>
%% <li>the tracker decides who gets a name, and answers those who wait for one
%%     (`gen_tracker_requests'). Starts, supervisor calls and the stop of the zone
%%     (`gen_tracker_shutdown') go through it;</li>
%% <li>beside each child its keeper (`gen_tracker_child') starts it, waits for its death, and cleans
%%     up after it;</li>
%% <li>the watchdog (`gen_tracker_shutdown') ends the children of a tracker that was killed;</li>
%% <li>the event process (`gen_tracker_events') tells subscribers of births and deaths, as long as
%%     there are any;</li>
%% <li>everybody else reads and writes the native table directly. Finding, attributes and listing
%%     send no message to anybody.</li>
%% </ul>
%%
%% The invariants that the code relies on: only the tracker adds a name to the table, and only a
%% name's keeper changes its state or takes it out; a keeper writes to the table before it tells the
%% tracker. So the tracker's look into the table, and then its waiting for the keeper that it saw
%% there, miss nothing. What these processes send each other carries a reference that nobody else
%% knows, the tag of the tracker.
%%
%% Every function but {@link start_link/1}, {@link start_link/2} and {@link find_or_open/2} raises `badarg' when the zone does not run, or when an argument
%% has a wrong type.
-module(gen_tracker).
-behaviour(gen_server).

-export([start_link/1, start_link/2, find/2, find_or_open/2, which_children/1, add_existing_child/2, wait/1, init_ack/1]).
-export([setattr/3, setattr/4, getattr/3, getattr/4, delattr/3, increment/4, increment/5]).
-export([info/2, info/3, attrs/2, list/1, list/2]).
-export([count/1, names/1, fold/3, cas/5]).
-export([register_name/2, unregister_name/1, whereis_name/1, send/2]).
-export([subscribe/1, unsubscribe/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3, format_status/2]).
-compile({inline, [add/4, add/5]}).
%% Newer releases of OTP warn of format_status/2. What it is here for is said there.
-compile(nowarn_deprecated_callback).

-export_type([zone/0, name/0, key/0, value/0, attributes/0, operation/0, child_spec/0, options/0, via_name/0, start_result/0, event/0]).
-export_type([mfargs/0, restart/0, shutdown/0, child_type/0, modules/0]).

-include_lib("kernel/include/logger.hrl").
-include("proctab_errors.hrl").

%% EDoc takes the comment behind a type for its description.
-type zone() :: atom().
-type name() :: term().
-type key() :: term().
-type value() :: term().
-type attributes() :: [{key(), value()}].
-type operation() :: (Increment :: integer())
                   | {2, Increment :: integer()}
                   | {2, Increment :: integer(), Threshold :: integer(), SetValue :: integer()}.
%% What {@link increment/4} does to an attribute, as in `ets:update_counter/3'.
-type mfargs() :: {module(), Function :: atom(), Args :: [term()]}.
%% This and the next four are as in child specs of OTP; `supervisor' does not export them.
-type restart() :: permanent | transient | temporary.
-type shutdown() :: brutal_kill | timeout().
-type child_type() :: worker | supervisor.
-type modules() :: [module()] | dynamic.
-type child_spec() :: {name(), mfargs(), restart()}
                    | {name(), mfargs(), restart(), shutdown(), child_type(), modules()}
                    | supervisor:child_spec().
-type options() :: #{restart => boolean(), reports => boolean()}.
-type via_name() :: {zone(), name()}.
%% What stands for a process in `{via, gen_tracker, {Zone, Name}}'.
-type start_result() :: {ok, pid()} | {ok, pid(), Info :: term()} | ignore | {error, term()}.
%% What a start function returns, or why it did not.
-type event() :: {gen_tracker, zone(), {up, name(), pid()} | {down, name(), pid(), Reason :: term()} | unsubscribed}.
%% What a subscriber receives.

%% How long a caller waits for a start; the start itself may take longer.
-define(OPEN_TIMEOUT, 60000).
%% The longest time that a process can wait for a message, in milliseconds.
-define(LONGEST_WAIT, 16#ffffffff).
%% The dictionary of a process with so many words is not copied to look for its ancestors.
-define(LARGE_HEAP, 200000).
%% How long the tracker waits for the end of some process, when there can be no more of them.
-define(LIMIT_INTERVAL, 100).

-record(tracker, {
    zone :: zone(),
    %% What keepers, watchdog and event process prove themselves with.
    tag :: reference(),
    context :: gen_tracker_child:context(),
    handle :: proctab_nif:handle(),
    watchdog :: pid(),
    %% As long as somebody has subscribed.
    events :: pid() | undefined,
    requests :: gen_tracker_requests:requests(),
    %% What start functions have left linked to keepers that are gone.
    inherited = #{} :: #{pid() => Keeper :: pid()}
}).

%%% Starting and finding

%% @doc Starts a zone, registered locally under its name. Fits a child spec of type `supervisor'.
%% `{error, {already_started, Pid}}' when the zone runs.
-spec start_link(zone()) -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link(Zone) ->
    start_link(Zone, #{}).

%% @doc Starts a zone with options. `#{restart => false}' turns automatic restarts off,
%% `#{reports => false}' the reports that OTP's `supervisor' makes in the log. An unknown option is
%% `badarg'.
-spec start_link(zone(), options()) -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link(Zone, Options) when is_atom(Zone), Zone =/= undefined, is_map(Options) ->
    Defaults = #{restart => true, reports => true},
    case maps:merge(Defaults, Options) of
        #{restart := Restart, reports := Reports} = All
                when map_size(All) =:= 2, is_boolean(Restart), is_boolean(Reports) ->
            gen_server:start_link({local, Zone}, ?MODULE, {Zone, All}, []);
        _ ->
            ?BADARG([Zone, Options])
    end;
start_link(Zone, Options) ->
    ?BADARG([Zone, Options]).

%% @doc The child of a name; `undefined' when there is none, or it is still starting or already terminating.
-spec find(zone(), name()) -> {ok, pid()} | undefined.
find(Zone, Name) ->
    ?OR_BADARG(proctab_nif:find(Zone, Name), [Zone, Name]).

%% @doc The child of a name, started if there is none.
%%
%% A process that was dead at the call is not returned: the call waits for its cleanup, and gets the
%% next one. However many callers ask at once, the start function is called once, and all get its
%% answer as it is: `{ok, Pid}', `{ok, Pid, Info}', `ignore', `{error, Reason}', or anything else
%% that it returned; but `{error, {bad_return_value, Result}}' for an `ok' without a pid, and
%% `{error, Reason}' when it raised. For a malformed spec of a child that does not run, the error of
%% `supervisor:check_childspecs/1'.
%%
%% `{error, gen_tracker_not_started}' when the zone does not run, `{error, shutdown}' when it is
%% stopped meanwhile, `{error, killed}' when somebody has the child terminated while it is started.
%% `{error, starting}' and `{error, terminating}' when a start function, or an `after_terminate', of
%% this zone asks for a child that waits for just this start or cleanup. Exits as
%% `gen_server:call/3' does when the start takes over 60 seconds, which goes on, or when the tracker
%% is killed.
-spec find_or_open(zone(), child_spec()) -> start_result() | {error, gen_tracker_not_started}.
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

%% Whatever else is in the spec.
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
    case gen_tracker_child:check(Spec) of
        {ok, Name, ChildSpec} -> open(Zone, {find_or_open, Name, ChildSpec, caller()});
        {error, Reason} -> {opened, {error, Reason}}
    end.

open(Zone, Request) ->
    try
        {opened, gen_server:call(Zone, sendable(Zone, Request), ?OPEN_TIMEOUT)}
    catch
        error:badarg ->
            case not_started(Zone, Request) of
                false -> again;
                true -> {opened, {error, gen_tracker_not_started}};
                refused -> refused
            end;
        exit:{noproc, _} ->
            {opened, {error, gen_tracker_not_started}};
        %% The zone was stopped in order, just now.
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown ->
            {opened, {error, shutdown}}
    end.

%% Why a zone could not be asked: it does not run, which may be otherwise by now, or the request has
%% a term that no table takes. The latter is certain only of a table that was there all the while.
not_started(Zone, Request) ->
    Owner = owner(Zone),
    try sendable(Zone, Request) of
        _ -> false
    catch
        error:badarg ->
            case owner(Zone) of
                none -> true;
                Owner -> refused;
                _ -> false
            end
    end.

owner(Zone) ->
    try
        proctab_nif:owner(Zone)
    catch
        error:badarg -> none
    end.

%% The process that has started the calling one, if it is known and of this node: a keeper, when a
%% start function or an `after_terminate' has started the caller.
caller() ->
    case get('$ancestors') of
        [Parent | _] -> local(Parent);
        _ -> undefined
    end.

local(Pid) when is_pid(Pid), node(Pid) =:= node() -> Pid;
local(Name) when is_atom(Name) -> whereis(Name);
local(_) -> undefined.

%% @doc All children, as `supervisor:which_children/1' gives them; in place of the pid of a child that is not running `launching' or
%% `terminating'.
-spec which_children(zone()) ->
          [{name(), pid() | launching | terminating, child_type(), modules()}].
which_children(Zone) ->
    [{Name, visible(State, Pid), Type, Mods} || {Name, State, Pid, _, {_, _, _, Type, Mods}} <-
        ?OR_BADARG(pages(Zone, children), [Zone])].

visible(running, Pid) -> Pid;
visible(terminating, _) -> terminating;
visible(_, _) -> launching.

%% @doc Adds a process that runs already, of any node. It is monitored, its entry and attributes go
%% when it dies, and it is told to exit when the zone stops. The end of the connection to its node
%% counts as its death, with the reason `noconnection'.
%%
%% With a full child spec, `after_terminate' of its module is called after its death, and it is
%% started again as its restart type says. `{error, {already_started, Pid}}' when a running child
%% holds the name, `{error, already_present}' when one is being started. While the last holder is
%% terminating, the call waits until that is cleaned up. `{error, shutdown}' when the zone is
%% stopped meanwhile. The zone's own tracker is `badarg'.
-spec add_existing_child(zone() | pid() | {zone(), node()}, Child) ->
          {ok, pid()} | {error, {already_started, pid()} | already_present | term()} when
      Child :: {name(), pid(), worker, Modules :: term()}
             | {pid(), {name(), mfargs(), restart(), shutdown(), worker, modules()}}.
add_existing_child(Zone, Child) ->
    case to_add(Child) of
        {Name, Spec, Pid} ->
            Adding =
                case local_zone(Zone) of
                    {ok, Local} -> fun() -> call(Local, {add, Name, Spec, Pid, caller()}) end;
                    %% What the tracker of another node understands, whatever its version.
                    remote -> fun() -> answered(Zone, {add_existing_child, Child}) end
                end,
            case ?OR_BADARG(Adding(), [Zone, Child]) of
                {error, badarg} -> ?BADARG([Zone, Child]);
                Added -> Added
            end;
        malformed ->
            ?BADARG([Zone, Child])
    end.

to_add({Name, Pid, worker, Mods}) when is_pid(Pid) ->
    {Name, {undefined, temporary, 200, worker, Mods}, Pid};
to_add({Pid, {Name, _, _, _, worker, _} = Spec}) when is_pid(Pid) ->
    case gen_tracker_child:check(Spec) of
        {ok, Name, ChildSpec} -> {Name, ChildSpec, Pid};
        {error, _} -> malformed
    end;
to_add(_) ->
    malformed.

%% @doc Returns after the tracker has handled all that was sent to it before; `{error, shutdown}' when
%% the zone is being stopped.
-spec wait(zone() | pid() | {zone(), node()}) -> ok | {error, shutdown}.
wait(Zone) ->
    Wait =
        case local_zone(Zone) of
            {ok, Local} -> fun() -> call(Local, wait) end;
            remote -> fun() -> answered(Zone, wait) end
        end,
    ?OR_BADARG(Wait(), [Zone]).

%% The zone that is meant, if it is of this node.
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

%% @doc For a child that was started through `proc_lib:start_link': acknowledges its start as
%% `proc_lib:init_ack/1' does, and returns once the child is registered in its zone, so that it may
%% set its own attributes at once.
-spec init_ack(Ret :: term()) -> ok.
init_ack(Ret) ->
    proc_lib:init_ack(Ret),
    case {Ret, caller()} of
        {{ok, _}, Parent} when is_pid(Parent) -> await_registered(Parent);
        {{ok, _, _}, Parent} when is_pid(Parent) -> await_registered(Parent);
        _ -> ok
    end.

%% The tracker is the parent of a keeper, unless the start function has erased who that is.
await_registered(Keeper) ->
    Zones =
        case get('$ancestors') of
            [_, Zone | _] -> [Zone];
            _ -> [Zone || {zone, Zone, _} <- proctab_nif:tables()]
        end,
    lists:foreach(fun(Zone) -> await_registered(Zone, Keeper) end, Zones).

%% Asks the tracker: what the keeper is sent the start function may take away.
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

%% @doc Sets attributes in one step: those of a map, or the pairs of a list. Elements of a list that
%% are not pairs are ignored. `error({void_setting, Zone, Name, Keys})' when no child of that name is
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

%% @doc Sets one attribute. `error({void_setting, Zone, Name, Key})' when no child of that name is running or starting.
-spec setattr(zone(), name(), key(), value()) -> ok.
setattr(Zone, Name, Key, Value) ->
    case ?OR_BADARG(proctab_nif:setattr(Zone, Name, Key, Value), [Zone, Name, Key, Value]) of
        ok -> ok;
        void -> error({void_setting, Zone, Name, Key}, [Zone, Name, Key, Value])
    end.

%% @doc The value of an attribute.
-spec getattr(zone(), name(), key()) -> {ok, value()} | undefined.
getattr(Zone, Name, Key) ->
    ?OR_BADARG(proctab_nif:getattr(Zone, Name, Key), [Zone, Name, Key]).

%% @doc The value of an attribute; waits for it to appear, up to so many milliseconds.
-spec getattr(zone(), name(), key(), Timeout :: timeout()) -> {ok, value()} | undefined.
getattr(Zone, Name, Key, Timeout) when Timeout =:= infinity; is_integer(Timeout), Timeout >= 0 ->
    ?OR_BADARG(
        case proctab_nif:getattr(Zone, Name, Key) of
            undefined when Timeout =:= infinity -> await_attribute(Zone, Name, Key, infinity);
            undefined when Timeout > 0 -> await_attribute(Zone, Name, Key, erlang:monotonic_time(millisecond) + Timeout);
            Found -> Found
        end,
        [Zone, Name, Key, Timeout]
    );
getattr(Zone, Name, Key, Timeout) ->
    ?BADARG([Zone, Name, Key, Timeout]).

%% A look that finds nothing is followed by a wait for another attribute of the name, or for the end of the zone.
await_attribute(Zone, Name, Key, Deadline) ->
    %% The owner of the table that is waited in, who may not be the process that has the zone's name by now.
    {Waits, Id, Owner} = proctab_nif:wait_for(Zone, Name),
    Tracker = monitor(process, Owner),
    Asked = may_wait(Zone, Name, Owner),
    Answer =
        try proctab_nif:getattr(Zone, Name, Key) of
            undefined ->
                Woken =
                    receive
                        {'$proctab_woken', Id} -> woken(Waits);
                        {'DOWN', Tracker, process, _, _} -> stop_waiting(Waits, Id), again;
                        {[alias | Asked], refused} -> stop_waiting(Waits, Id), undefined;
                        {[alias | Asked], _} -> stop_waiting(Waits, Id), again
                    after left(Deadline) -> stop_waiting(Waits, Id), again
                    end,
                stop_asking(Asked, Name, Owner),
                Woken;
            Found ->
                stop_waiting(Waits, Id),
                stop_asking(Asked, Name, Owner),
                Found
        catch
            error:badarg ->
                stop_waiting(Waits, Id),
                stop_asking(Asked, Name, Owner),
                error(badarg)
        after
            demonitor(Tracker, [flush])
        end,
    case Answer of
        again ->
            case left(Deadline) of
                0 -> proctab_nif:getattr(Zone, Name, Key);
                _ -> await_attribute(Zone, Name, Key, Deadline)
            end;
        _ ->
            Answer
    end.

%% Whoever has sent the message: the table sends no other one after this.
woken(Waits) ->
    _ = proctab_nif:stop_waiting(Waits),
    again.

%% A start function, or an `after_terminate', of the same zone must not wait for just its own end, in
%% however many steps. The tracker refuses it then, and otherwise knows that it waits.
may_wait(Zone, Name, Owner) ->
    case lists:any(fun(Pid) -> is_in_callback(Zone, Pid) end, [self(), caller()]) of
        true -> ask_to_wait(Name, Owner);
        false -> make_ref()
    end.

is_in_callback(Zone, Pid) when is_pid(Pid) ->
    case proctab_nif:kept(Zone, Pid) of
        {_, State, _, _} -> lists:member(State, [launching, restarting, terminating]);
        undefined -> false
    end;
is_in_callback(_, undefined) ->
    false.

%% The form of an alias in a call, as `gen' has it.
-dialyzer({no_improper_lists, ask_to_wait/2}).
ask_to_wait(Name, Owner) ->
    Alias = alias(),
    Owner ! {'$gen_call', {self(), [alias | Alias]}, {look_up, Name, caller()}},
    Alias.

stop_asking(Asked, Name, Owner) ->
    case unalias(Asked) of
        true ->
            gen_server:cast(Owner, {abandon_look_up, Name, Asked}),
            receive
                {[alias | Asked], _} -> ok
            after 0 -> ok
            end;
        false ->
            ok
    end.

stop_waiting(Waits, Id) ->
    proctab_nif:stop_waiting(Waits) orelse receive {'$proctab_woken', Id} -> true end.

left(infinity) -> ?LONGEST_WAIT;
left(Deadline) -> min(?LONGEST_WAIT, max(0, Deadline - erlang:monotonic_time(millisecond))).

%% @doc Removes an attribute, if it is there.
-spec delattr(zone(), name(), key()) -> ok.
delattr(Zone, Name, Key) ->
    ?OR_BADARG(proctab_nif:delattr(Zone, Name, Key), [Zone, Name, Key]).

%% @doc Adds to an integer attribute in one step, and returns the new value.
%%
%% Takes an increment, or one of the operations of `ets:update_counter/3' on one value:
%% `{2, Increment}', and `{2, Increment, Threshold, SetValue}', which sets the attribute to `SetValue'
%% where the sum would be past the threshold. `badarg' when there is no such attribute, or it is not
%% an integer.
-spec increment(zone(), name(), key(), operation()) -> integer().
increment(Zone, Name, Key, {2, Increment}) ->
    ?OR_BADARG(add(Zone, Name, Key, Increment), [Zone, Name, Key, {2, Increment}]);
increment(Zone, Name, Key, Operation) when is_tuple(Operation) ->
    ?OR_BADARG(update(Zone, Name, Key, Operation, none), [Zone, Name, Key, Operation]);
increment(Zone, Name, Key, Increment) ->
    ?OR_BADARG(add(Zone, Name, Key, Increment), [Zone, Name, Key, Increment]).

%% @doc Like {@link increment/4}, but where the attribute is missing it starts from `Default', which
%% must be an integer then, and is not looked at otherwise.
%%
%% This works also for a name that no child holds: such an attribute goes when a child of that name is
%% next cleaned up, or with the zone.
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

%% What the table cannot add by itself is computed here, and compared and set in the table: integers
%% of more than 63 bits among them.
update(Zone, Name, Key, Operation, Default) ->
    {IsSet, Result} =
        case proctab_nif:getattr(Zone, Name, Key) of
            {ok, Value} when is_integer(Value) ->
                New = updated(Operation, Value),
                {proctab_nif:replace(Zone, Name, Key, Value, New), New};
            undefined when is_integer(Default) ->
                New = updated(Operation, Default),
                {proctab_nif:set_missing(Zone, Name, Key, New), New};
            _ ->
                error(badarg)
        end,
    case IsSet of
        true -> Result;
        false -> update(Zone, Name, Key, Operation, Default)
    end.

updated({2, Increment}, Value) when is_integer(Increment) ->
    Value + Increment;
updated({2, Increment, Threshold, SetValue}, Value)
        when is_integer(Increment), is_integer(Threshold), is_integer(SetValue) ->
    case Value + Increment of
        Sum when Increment < 0, Sum < Threshold -> SetValue;
        Sum when Increment >= 0, Sum > Threshold -> SetValue;
        Sum -> Sum
    end;
updated(_, _) ->
    error(badarg).

%% @doc Compare and set: in one step sets an attribute to `New' where it is `Old' (`=:='). Otherwise `{error, {current, Value}}', or `{error, undefined}' when
%% there is no such attribute. `error({void_setting, Zone, Name, Key})' when no child of that name is running or starting.
-spec cas(zone(), name(), key(), Old :: value(), New :: value()) -> ok | {error, {current, value()} | undefined}.
cas(Zone, Name, Key, Old, New) ->
    case ?OR_BADARG(proctab_nif:cas(Zone, Name, Key, Old, New), [Zone, Name, Key, Old, New]) of
        ok -> ok;
        %% The table compares what it stores, which tells `0.0' from `-0.0'.
        {current, Value} when Value =:= Old -> cas(Zone, Name, Key, Value, New);
        {current, Value} -> {error, {current, Value}};
        undefined -> {error, undefined};
        void -> error({void_setting, Zone, Name, Key}, [Zone, Name, Key, Old, New])
    end.

%% @doc All attributes of a name at one moment, in any order.
-spec info(zone(), name()) -> attributes().
info(Zone, Name) ->
    ?OR_BADARG(proctab_nif:attrs(Zone, Name), [Zone, Name]).

%% @doc Those attributes of a name that have one of the keys. `[]' for no keys, whatever the zone.
-spec info(zone(), name(), [key()]) -> attributes().
info(_Zone, _Name, []) ->
    [];
info(Zone, Name, Keys) ->
    ?OR_BADARG(proctab_nif:attrs(Zone, Name, Keys), [Zone, Name, Keys]).

%% @doc The same as {@link info/2}.
-spec attrs(zone(), name()) -> attributes().
attrs(Zone, Name) ->
    ?OR_BADARG(proctab_nif:attrs(Zone, Name), [Zone, Name]).

%% @doc Every running child with its pid, as the attribute `pid', and its attributes at one moment.
-spec list(zone()) -> [{name(), [{pid, pid()} | {key(), value()}]}].
list(Zone) ->
    ?OR_BADARG(pages(Zone, attributes), [Zone]).

%% @doc Every running child with its pid and those of its attributes that have one of the keys.
-spec list(zone(), [key()]) -> [{name(), [{pid, pid()} | {key(), value()}]}].
list(Zone, Keys) when is_list(Keys) ->
    ?OR_BADARG(pages(Zone, Keys), [Zone, Keys]);
list(Zone, Keys) ->
    ?BADARG([Zone, Keys]).

%% @doc How many children there are, in any state.
-spec count(zone()) -> non_neg_integer().
count(Zone) ->
    ?OR_BADARG(proctab_nif:count(Zone), [Zone]).

%% @doc The names of all children, in any state and any order.
-spec names(zone()) -> [name()].
names(Zone) ->
    ?OR_BADARG(pages(Zone, names), [Zone]).

%% @doc Folds a function over the running children, in any order. The zone may change meanwhile: a child that lives throughout is seen exactly once.
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
    fold(Fun, lists:foldl(fun({Name, Pid}, Before) -> Fun(Name, Pid, Before) end, Acc, Page), Zone, Next).

pages(Zone, What) when is_atom(Zone) ->
    pages(Zone, 0, What, []);
pages(_Zone, _What) ->
    error(badarg).

pages(_, done, _, Items) ->
    Items;
pages(Zone, From, What, Items) ->
    {More, Next} = proctab_nif:page(Zone, From, What, Items),
    pages(Zone, Next, What, More).

%% Raises `badarg' when the zone does not run. The answer is `{error, shutdown}' when it is stopped
%% in order before it has answered.
call(Zone, Request) ->
    answered(Zone, sendable(Zone, Request)).

answered(Server, Request) ->
    try
        gen_server:call(Server, Request, infinity)
    catch
        exit:{noproc, _} -> error(badarg);
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown -> {error, shutdown}
    end.

%% Raises `badarg' when the zone does not run, or when the request is a term that no table takes: its
%% parts may be shared so often that the VM would never come to the end of sending it.
sendable(Zone, Request) ->
    _ = proctab_nif:find(Zone, Request),
    Request.

%%% Names for OTP

%% @doc Registers a process that runs already, as `{via, gen_tracker, {Zone, Name}}' does: it becomes a child as by {@link add_existing_child/2}. `no' when the
%% name is held. While a child of that name is being started, the call waits for it, up to 60 seconds; while the last holder is terminating, until that is cleaned up.
-spec register_name(via_name(), pid()) -> yes | no.
register_name({Zone, Name}, Pid) when is_pid(Pid), is_atom(Zone) ->
    Added = ?OR_BADARG(
        is_being_started(Zone, Name, Pid) orelse register_child(Zone, Name, Pid),
        [{Zone, Name}, Pid]
    ),
    case Added of
        {error, badarg} -> ?BADARG([{Zone, Name}, Pid]);
        {error, _} -> no;
        _ -> yes
    end;
register_name(ViaName, Pid) ->
    ?BADARG([ViaName, Pid]).

%% As adding one, but for what comes while another child of that name is being started: whoever is
%% told `no' asks for the pid of the other.
register_child(Zone, Name, Pid) ->
    {Name, Spec, Pid} = to_add({Name, Pid, worker, []}),
    call(Zone, {register, Name, Spec, Pid, caller()}).

%% A child that the zone itself is starting under that name will have it.
is_being_started(Zone, Name, Pid) when Pid =:= self() ->
    case proctab_nif:child(Zone, Name) of
        {State, _, Keeper, _} when State =:= launching; State =:= restarting -> caller() =:= Keeper;
        _ -> false
    end;
is_being_started(_, _, _) ->
    false.

%% @doc Forgets a process that was registered or added without a start function: its entry and its attributes go, and it lives on. Nothing happens when there is no
%% such process, or when the zone has started it itself: that one goes when it ends.
-spec unregister_name(via_name()) -> ok.
unregister_name({Zone, Name}) when is_atom(Zone) ->
    try proctab_nif:child(Zone, Name) of
        {_, _, _, {undefined, _, _, _, _}} -> unregister_child(Zone, Name);
        _ -> ok
    catch
        error:badarg -> ok
    end;
unregister_name(ViaName) ->
    ?BADARG([ViaName]).

%% By the tracker: it tells subscribers of all who were registered or added, so that they are told in order. Not by the keeper, which may be waiting for the end of just
%% the process that calls.
unregister_child(Zone, Name) ->
    try
        gen_server:call(Zone, {unregister, Name}, infinity)
    catch
        %% The zone is gone, and all its names.
        exit:_ -> ok
    end.

%% @doc The running child of a name; `undefined' when there is none, or no such zone, or it is dead and nobody has noticed yet.
-spec whereis_name(via_name()) -> pid() | undefined.
whereis_name({Zone, Name}) when is_atom(Zone) ->
    %% Who starts a process in the place of another one that has just ended looks whether the name
    %% is free.
    try proctab_nif:find_alive(Zone, Name) of
        {ok, Pid} -> Pid;
        undefined -> undefined
    catch
        error:badarg -> undefined
    end;
whereis_name(ViaName) ->
    ?BADARG([ViaName]).

%% @doc Sends a message to the running child of a name; its pid. Exits with `{badarg, {{Zone, Name}, Message}}' when there is none.
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

%% @doc Subscribes the caller to births and deaths in a zone; the children that run at that moment.
%%
%% From then on it receives `{gen_tracker, Zone, {up, Name, Pid}}' when a child has been started or added, and `{gen_tracker, Zone, {down, Name, Pid, Reason}}' when it has
%% ended (before `after_terminate' is called) or was unregistered (then the reason is `unregistered'): for each name in order, none missing, none
%% twice. Subscribing again changes nothing.
%%
%% A subscription ends with the zone, after the deaths of its last children: then `{gen_tracker, Zone, unsubscribed}' is the last message. Whoever subscribes to a
%% zone of the same name before it has come may receive events of both. Should the process that sends events be killed, it comes as well, at once.
-spec subscribe(zone()) -> {ok, [{name(), pid()}]}.
subscribe(Zone) ->
    case ?OR_BADARG(call(Zone, events), [Zone]) of
        Events when is_pid(Events) ->
            case gen_tracker_events:subscribe(Events) of
                {ok, Children} -> {ok, Children};
                %% That process is gone; there will be another, or no zone.
                ended -> subscribe(Zone)
            end;
        {error, Reason} ->
            exit({Reason, {?MODULE, subscribe, [Zone]}})
    end.

%% @doc Ends the caller's subscription. No event arrives after this has returned, and none that came before is left in the mailbox. (A zone that has ended, and runs
%% again, may still be telling of its last children; see {@link subscribe/1}.)
-spec unsubscribe(zone()) -> ok.
unsubscribe(Zone) ->
    case ?OR_BADARG(call(Zone, current_events), [Zone]) of
        Events when is_pid(Events) ->
            %% Should it be gone, the tracker has told of that when it answers once more.
            _ = gen_tracker_events:unsubscribe(Events) =:= ended andalso ?OR_BADARG(call(Zone, wait), [Zone]),
            ok;
        _NoneOrStopping ->
            ok
    end,
    flush_events(Zone).

flush_events(Zone) ->
    receive
        {gen_tracker, Zone, _} -> flush_events(Zone)
    after 0 -> ok
    end.

%%% The tracker

%% @private
-spec init({zone(), options()}) -> {ok, #tracker{}}.
init({Zone, Options}) ->
    process_flag(trap_exit, true),
    gen_tracker_child:label({?MODULE, Zone}),
    Tag = make_ref(),
    Context = Options#{tracker => self(), tag => Tag, zone => Zone},
    Handle = proctab_nif:zone_open(Zone),
    {ok, #tracker{
        zone = Zone,
        tag = Tag,
        context = Context,
        handle = Handle,
        watchdog = gen_tracker_shutdown:start_watchdog(Handle, Context),
        requests = gen_tracker_requests:new(Context)
    }}.

%% @private
-spec handle_call(term(), From :: term(), #tracker{}) ->
          {reply, term(), #tracker{}} | {noreply, #tracker{}} | {stop, term(), term(), #tracker{}}.
handle_call(Call, {Caller, _} = From, Tracker) when is_pid(Caller) ->
    try
        route(Call, From, Tracker)
    catch
        %% A term so large that the table refuses it is no reason to die.
        error:badarg -> {reply, {error, badarg}, Tracker};
        %% Nor is it when there can be no more processes.
        error:system_limit -> {reply, {error, system_limit}, Tracker}
    end;
%% By answering nobody `gen_server' would crash.
handle_call(_Call, _From, Tracker) ->
    {noreply, Tracker}.

%% This module's own calls come first, then those of `supervisor', and at last those that the
%% original sends: to a tracker of another node, and past this module.
route({find_or_open, Name, Spec, Caller}, From, Tracker) ->
    request(find_or_open, Name, Spec, undefined, From, [Caller], Tracker);
route({Add, Name, Spec, Child, Caller}, From, Tracker) when Add =:= add; Add =:= register ->
    request(Add, Name, Spec, Child, From, [Caller], Tracker);
route({look_up, Name, Caller}, From, Tracker) ->
    handle(look_up, Name, undefined, undefined, From, [Caller], Tracker);
route({await_start, Keeper}, From, Tracker) when is_pid(Keeper), node(Keeper) =:= node() ->
    handle(await_start, undefined, undefined, Keeper, From, [], Tracker);
route({unregister, Name}, _From, Tracker) ->
    {reply, unregister(Name, Tracker), Tracker};
route({start_child, Spec}, From, Tracker) ->
    case gen_tracker_child:check(Spec) of
        {ok, Name, ChildSpec} ->
            request(start_child, Name, ChildSpec, undefined, From, ancestor(From), Tracker);
        {error, Reason} ->
            {reply, {error, Reason}, Tracker}
    end;
route({Forget, Name}, From, Tracker) when Forget =:= terminate_child; Forget =:= delete_child ->
    handle(forget, Name, undefined, undefined, From, ancestor(From), Tracker);
route({restart_child, Name}, _From, Tracker) ->
    {reply, restart_child(Name, Tracker), Tracker};
route({get_childspec, Name}, _From, Tracker) ->
    {reply, childspec(Name, Tracker), Tracker};
route(which_children, _From, #tracker{zone = Zone} = Tracker) ->
    {reply, which_children(Zone), Tracker};
route(count_children, _From, #tracker{zone = Zone} = Tracker) ->
    {reply, count_children(Zone), Tracker};
route(events, _From, #tracker{events = undefined, handle = Handle, zone = Zone, tag = Tag} = Tracker) ->
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
    case {find_named(Zone, Spec), gen_tracker_child:check(Spec)} of
        {{ok, Pid}, _} ->
            {reply, {ok, Pid}, Tracker};
        {undefined, {ok, Name, ChildSpec}} ->
            request(find_or_open, Name, ChildSpec, undefined, From, ancestor(From), Tracker);
        {undefined, {error, Reason}} ->
            {reply, {error, Reason}, Tracker}
    end;
route({add_existing_child, Child}, From, Tracker) ->
    case to_add(Child) of
        {Name, Spec, Pid} -> request(add, Name, Spec, Pid, From, ancestor(From), Tracker);
        malformed -> {reply, {error, badarg}, Tracker}
    end;
route(Call, From, Tracker) ->
    unknown_call(Call, From, Tracker).

unknown_call(Call, From, #tracker{zone = Zone} = Tracker) ->
    ?LOG_ERROR(#{label => {gen_tracker, unknown_call}, zone => Zone, call => Call, from => From}),
    {reply, {error, {unknown_call, Call}}, Tracker}.

%% Anybody may send such a call, with anything in it.
request(Kind, Name, Spec, Child, From, Callers, Tracker) ->
    case gen_tracker_child:is_spec(Spec) andalso is_child(Kind, Spec, Child, Tracker) of
        true -> handle(Kind, Name, Spec, Child, From, Callers, Tracker);
        false -> {reply, {error, badarg}, Tracker}
    end.

is_child(Add, _, Child, Tracker) when Add =:= add; Add =:= register ->
    is_pid(Child) andalso not is_own(Child, Tracker);
is_child(_, {Start, _, _, _, _}, undefined, _) ->
    Start =/= undefined.

%% The zone's own processes cannot be its children.
is_own(Pid, #tracker{watchdog = Watchdog, events = Events, zone = Zone}) ->
    lists:member(Pid, [self(), Watchdog, Events]) orelse is_keeper(Zone, Pid).

is_keeper(Zone, Pid) ->
    try
        proctab_nif:kept(Zone, Pid) =/= undefined
    catch
        %% A process of another node, or of an earlier life of this one.
        error:badarg -> false
    end.

handle(Kind, Name, Spec, Child, {Pid, _} = From, Callers, #tracker{requests = Requests} = Tracker) ->
    Local = [Caller || Caller <- [Pid | Callers], is_pid(Caller), node(Caller) =:= node()],
    Request = gen_tracker_requests:request(Kind, Name, Spec, Child, From, Local),
    {noreply, Tracker#tracker{requests = gen_tracker_requests:handle(Request, Requests)}}.

%% The head of the caller's `$ancestors', of a call that does not tell.
ancestor({Pid, _}) when node(Pid) =:= node() ->
    case process_info(Pid, total_heap_size) of
        {total_heap_size, Words} when Words < ?LARGE_HEAP -> ancestor_of(Pid);
        _ -> []
    end;
ancestor(_) ->
    [].

ancestor_of(Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} ->
            case lists:keyfind('$ancestors', 1, Dictionary) of
                {_, [Parent | _]} -> [local(Parent)];
                _ -> []
            end;
        undefined ->
            []
    end.

unregister(Name, #tracker{zone = Zone}) ->
    case proctab_nif:child(Zone, Name) of
        {running, _, Keeper, {undefined, _, _, _, _}} ->
            _ = proctab_nif:unregister_name(Zone, Name, Keeper, unregistered),
            ok;
        _ ->
            ok
    end.

%% @private
-spec handle_cast(term(), #tracker{}) -> {noreply, #tracker{}}.
handle_cast({abandon_look_up, Name, Alias}, #tracker{requests = Requests} = Tracker)
        when is_reference(Alias) ->
    {noreply, Tracker#tracker{requests = gen_tracker_requests:abandon(Name, Alias, Requests)}};
handle_cast(Cast, #tracker{zone = Zone} = Tracker) ->
    ?LOG_ERROR(#{label => {gen_tracker, unknown_cast}, zone => Zone, cast => Cast}),
    {noreply, Tracker}.

%% @private
-spec handle_info(term(), #tracker{}) -> {noreply, #tracker{}} | {stop, shutdown, #tracker{}}.
handle_info(Message, Tracker) ->
    try
        case gen_tracker_shutdown:is_order(Message) of
            true -> {stop, shutdown, Tracker};
            false -> {noreply, told(Message, Tracker)}
        end
    catch
        error:system_limit ->
            _ = erlang:send_after(?LIMIT_INTERVAL, self(), Message),
            {noreply, Tracker}
    end.

told({Tag, launched, Keeper, Result}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:launched(Keeper, Result, Requests)};
told({Tag, settled, Keeper}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:settled(Keeper, Requests)};
told({{Tag, keeper}, _, process, Keeper, Reason}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:lost(Keeper, Reason, Requests)};
told({{Tag, attached, Keeper}, _, process, Child, Reason}, #tracker{tag = Tag, context = Context} = Tracker) ->
    gen_tracker_child:died(Keeper, Context, Child, Reason),
    Tracker;
told({Tag, inherit, Keeper, Pids}, #tracker{tag = Tag, inherited = Inherited} = Tracker) ->
    Tracker#tracker{inherited = gen_tracker_shutdown:inherit(Keeper, Tag, Pids, Inherited)};
told({Tag, overtime, Keeper, What}, #tracker{tag = Tag, context = Context} = Tracker) ->
    gen_tracker_shutdown:overtime(Keeper, What, Context),
    Tracker;
told({Tag, patience_ended, Keeper, From}, #tracker{tag = Tag, requests = Requests} = Tracker) ->
    Tracker#tracker{requests = gen_tracker_requests:patience_ended(Keeper, From, Requests)};
told({{Tag, watchdog}, _, process, _, _}, #tracker{tag = Tag, handle = Handle, context = Context} = Tracker) ->
    Tracker#tracker{watchdog = gen_tracker_shutdown:start_watchdog(Handle, Context)};
told({{Tag, events}, _, process, Events, _}, #tracker{tag = Tag, events = Events} = Tracker) ->
    Tracker#tracker{events = undefined};
told({'ETS-TRANSFER', Subscribers, _, {Tag, events}}, #tracker{tag = Tag, zone = Zone} = Tracker) ->
    gen_tracker_events:lost(Zone, Subscribers),
    Tracker;
told({'EXIT', Pid, _} = Message, #tracker{inherited = Inherited} = Tracker) when is_pid(Pid) ->
    case is_map_key(Pid, Inherited) orelse not gen_tracker_child:is_alive(Pid) of
        %% Monitors tell of the zone's own processes.
        true -> Tracker#tracker{inherited = maps:remove(Pid, Inherited)};
        false -> unknown(Message, Tracker)
    end;
told(Message, Tracker) ->
    unknown(Message, Tracker).

unknown(Message, #tracker{zone = Zone} = Tracker) ->
    ?LOG_ERROR(#{label => {gen_tracker, unknown_message}, zone => Zone, message => Message}),
    Tracker.

%% @private
-spec terminate(term(), #tracker{}) -> ok.
terminate(_Reason, #tracker{zone = Zone, handle = Handle, context = Context} = Tracker) ->
    ok = proctab_nif:zone_stop(Handle),
    gen_tracker_requests:end_all(Tracker#tracker.requests),
    gen_tracker_shutdown:stop(Handle, Context, Tracker#tracker.inherited),
    %% From here on a caller is told that there is no such process.
    _ = try unregister(Zone) catch error:badarg -> lost end,
    refuse_others().

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

%% @private
%% Shows the zone to `release_handler' and others as the supervisor that it is. The newer callback of this name has no place for that.
-spec format_status(normal | terminate, [term()]) -> term().
format_status(terminate, [_Dictionary, Tracker]) ->
    Tracker;
format_status(_, [_Dictionary, Tracker]) ->
    [{data, [{"State", Tracker}]}, {supervisor, [{"Callback", ?MODULE}]}].

%%% Being a supervisor

%% A child that has stopped for good is forgotten, so there is never one to restart.
restart_child(Name, #tracker{zone = Zone}) ->
    case proctab_nif:child(Zone, Name) of
        undefined -> {error, not_found};
        {running, _, _, _} -> {error, running};
        {_, _, _, _} -> {error, restarting}
    end.

childspec(Name, #tracker{zone = Zone}) ->
    case proctab_nif:child(Zone, Name) of
        undefined -> {error, not_found};
        {_, _, _, Spec} -> {ok, gen_tracker_child:to_map(Name, Spec)}
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
