%% @private
%% Opens a child for the calling process, without the tracker if the name is free.
%%
%% The caller spawns the keeper, which claims the name in the table, runs the start function and
%% answers the caller. Two callers that open different names do not meet.
%%
%%   caller                                 keeper                              tracker
%%      | spawn, monitor ------------------> |                                     |
%%      |                                    | link ------------------------------> |
%%      |                                    | launch/4 in the table                |
%%      |                                    | start function, running/3            |
%%      | <- {Alias, {result, Result}} ----- |                                     |
%%      | <- {Alias, held} ----------------- |  another keeper was faster           |
%%      | <- {Alias, Monitor, process, ...}  |  it was killed, or the zone stops    |
%%
%% The tracker answers all others: callers that find the name held, and callbacks of the zone, whose
%% waits it checks for cycles. It queues them until the start of a name, or the cleanup after its
%% last child, has ended (`gen_tracker_requests'). A caller whose keeper takes longer than
%% ?PATIENCE, or is gone, joins them: only the tracker knows whether its start is being ended, or
%% the zone stops.
%%
%% Whether the tracker was asked is in the row. The keeper reads it in the step that ends its start,
%% so it knows whether to tell the tracker as well.
-module(gen_tracker_opening).

-export([open/3, open_home/4, open_held/4]).

-include("gen_tracker_answers.hrl").

%% How long a caller waits for a start, in milliseconds.
-define(TIMEOUT, 60000).
%% After how long it asks the tracker as well, in milliseconds.
-define(PATIENCE, 50).

-record(opening, {
    zone :: gen_tracker:zone(),
    handle :: proctab_nif:handle(),
    tracker :: pid(),
    name :: gen_tracker:name(),
    %% What the tracker is asked if another keeper was faster; `none' if it is not asked.
    request = find_or_open :: find_or_open | none,
    spec :: gen_tracker_spec:spec(),
    keeper :: pid(),
    monitor :: reference(),
    %% How long the caller waits, in milliseconds.
    timeout = ?TIMEOUT :: timeout()
}).

%% @doc Starts a child, or waits for the start of another caller. Returns `refused' if name or spec
%% are too large for a table, and `again' if the zone was started meanwhile.
-spec open(gen_tracker:zone(), gen_tracker:name(), gen_tracker_spec:spec()) ->
          {opened, gen_tracker:start_result() | {error, gen_tracker_not_started}} | refused | again.
open(Zone, Name, Spec) ->
    try proctab_nif:opening(Zone, Name, Spec, gen_tracker_waits:parent()) of
        {free, Handle, Tracker} ->
            start(find_or_open, Zone, Name, Spec, ?TIMEOUT, Handle, Tracker);
        %% The name is held; or a start function or an `after_terminate' of the zone runs in this
        %% process, or has started it.
        _ ->
            ask(find_or_open, Zone, Name, Spec, ?TIMEOUT)
    catch
        error:badarg -> not_opened(Zone, Name, Spec)
    end.

%% @doc Starts a child as the home of its name, if that is free, as {@link open/3} does, and waits
%% for at most `Timeout' milliseconds. Returns `undecided' if the name is held, or this member is
%% not its home; only a callback of the zone waits for the holder of the name.
-spec open_home(gen_tracker:zone(), gen_tracker:name(), gen_tracker_spec:spec(), timeout()) ->
          {opened, gen_tracker:start_result() | {error, gen_tracker_not_started}} | refused | again
          | undecided.
open_home(Zone, Name, Spec, Timeout) ->
    try proctab_nif:opening(Zone, Name, Spec, gen_tracker_waits:parent()) of
        held ->
            undecided;
        {free, Handle, Tracker} ->
            start(none, Zone, Name, Spec, Timeout, Handle, Tracker);
        _ ->
            ask(open_home, Zone, Name, Spec, Timeout)
    catch
        error:badarg -> not_opened(Zone, Name, Spec)
    end.

%% @doc Waits for a start of a name that is held, as {@link open/3} does, for at most `Timeout'
%% milliseconds. Returns `undecided' if the name becomes free, or is free.
-spec open_held(gen_tracker:zone(), gen_tracker:name(), gen_tracker_spec:spec(), timeout()) ->
          {opened, gen_tracker:start_result() | {error, gen_tracker_not_started}} | undecided.
open_held(Zone, Name, Spec, Timeout) ->
    ask(open_held, Zone, Name, Spec, Timeout).

%% Distinguishes "the zone does not run" from "a term is too large for a table". The second is
%% certain only if the zone had the same owner before and after.
not_opened(Zone, Name, Spec) ->
    Owner = owner(Zone),
    try proctab_nif:opening(Zone, Name, Spec, undefined) of
        _ -> again
    catch
        error:badarg ->
            case owner(Zone) of
                none -> {opened, {error, gen_tracker_not_started}};
                Owner -> refused;
                _ -> again
            end
    end.

owner(Zone) ->
    try
        proctab_nif:owner(Zone)
    catch
        error:badarg -> none
    end.

ask(Kind, Zone, Name, Spec, Timeout) ->
    Request = {Kind, Name, Spec, gen_tracker_waits:parent()},
    try gen_server:call(Zone, Request, Timeout) of
        ?UNDECIDED -> undecided;
        Result -> {opened, Result}
    catch
        exit:{noproc, _} ->
            {opened, {error, gen_tracker_not_started}};
        %% The zone has just been stopped in order.
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown ->
            {opened, {error, shutdown}}
    end.

start(Request, Zone, Name, Spec, Timeout, Handle, Tracker) ->
    Alias = alias([reply]),
    try gen_tracker_keeper:open(Handle, Tracker, Name, Spec, keeper_start(Request), Alias) of
        {Keeper, Monitor} ->
            Opening = #opening{
                zone = Zone,
                handle = Handle,
                tracker = Tracker,
                name = Name,
                request = Request,
                spec = Spec,
                keeper = Keeper,
                monitor = Monitor,
                timeout = Timeout
            },
            await(Alias, Opening, ?PATIENCE)
    catch
        error:system_limit ->
            unalias(Alias),
            {opened, {error, system_limit}}
    end.

keeper_start(find_or_open) -> launching;
keeper_start(none) -> home.

%% Both messages begin with the alias, which is an argument of these functions: so the VM passes
%% over all messages that the caller had before, however many there are.
await(Alias, #opening{monitor = Monitor} = Opening, Patience) ->
    receive
        {Alias, Outcome} ->
            true = demonitor(Monitor, [flush]),
            finish(Outcome, Opening);
        {Alias, Monitor, process, _, Reason} ->
            true = unalias(Alias),
            join(Reason, Alias, Opening)
    after Patience ->
        join(alive, Alias, Opening)
    end.

finish({result, Result}, _) ->
    {opened, Result};
finish(not_home, _) ->
    undecided;
finish(held, #opening{request = none}) ->
    undecided;
finish(held, #opening{request = Request, zone = Zone, name = Name, spec = Spec} = Opening) ->
    ask(Request, Zone, Name, Spec, Opening#opening.timeout).

%% Waits with the tracker as well.
join(State, Alias, #opening{monitor = Monitor} = Opening) ->
    case try_join(State, Opening) of
        gone when State =:= alive ->
            %% The start has ended, and its keeper is about to answer; or the keeper, which has had
            %% no processor yet, has not claimed the name.
            await(Alias, Opening, ?PATIENCE);
        Answer ->
            _ = unalias(Alias),
            true = demonitor(Monitor, [flush]),
            receive
                {Alias, _} -> ok
            after 0 -> ok
            end,
            joined(Answer, State)
    end.

joined(gone, Reason) -> {opened, {error, Reason}};
joined({answer, Result}, _) -> {opened, Result};
joined({exit, Reason}, _) -> exit(Reason).

try_join(State, #opening{zone = Zone, tracker = Tracker, handle = Handle} = Opening) ->
    #opening{name = Name, keeper = Keeper, timeout = Timeout} = Opening,
    Alive =
        case State of
            alive -> Keeper;
            _ -> undefined
        end,
    Request = {join, Name, Alive, gen_tracker_waits:parent()},
    try gen_server:call(Tracker, Request, Timeout) of
        gone -> gone;
        Result -> {answer, Result}
    catch
        exit:{Reason, _} when Reason =:= normal; Reason =:= shutdown ->
            {answer, {error, shutdown}};
        exit:{Reason, _} ->
            case Reason =/= timeout andalso proctab_nif:was_stopped(Handle) of
                true -> {answer, {error, shutdown}};
                false -> {exit, {killed(Reason), {gen_server, call, [Zone, Request, Timeout]}}}
            end
    end.

%% A tracker that is gone, and has not stopped its zone, was killed.
killed(noproc) -> killed;
killed(Reason) -> Reason.
