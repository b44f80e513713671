%% @doc Counts the live processes behind each metric name.
%%
%% This module is a drop-in replacement for the module of the same name in the application
%% `metrics', which keeps its state in ETS. A process can be tracked under any number of names,
%% which are any terms. The metrics backend is called once when a pair of process and name is
%% first tracked, `metrics:update(Name)', and once when the process has died,
%% `metrics:update(Name, {c, -1})'. Without an application `metrics' no backend is called, and
%% {@link count/1}, {@link names/1} and {@link counts/0} return the same numbers.
%%
%% The pairs are stored in a native table that belongs to the process that calls
%% {@link start_link/0}, a supervisor. The table survives the tracker, but not the supervisor. It
%% monitors the processes, except for those of other nodes, which the tracker monitors.
%% `proctab_reaper' counts the dead down. All processes read and write the table directly.
%%
%% Two rules for backends:
%% <ul>
%% <li>If a caller of {@link track/2} is killed while `metrics:update(Name)' waits for another
%%     process, the pair is not tracked, and its update is taken for one that did not count.</li>
%% <li>A caller that tracks a pair whose first update is still running in another process waits for
%%     its result. So two updates must not each track the pair of the other: they would wait for
%%     each other forever.</li>
%% </ul>
%%
%% All functions but {@link start_link/0} raise `badarg' if the table does not exist.
-module(metrics_process_tracker).
-behaviour(gen_server).
-behaviour(proctab_reaper).

-export([start_link/0, track/1, track/2]).
-export([count/1, names/1, counts/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([clean/3]).

-export_type([name/0]).

-type name() :: term().

-include("proctab_errors.hrl").

-define(REAPER, {?MODULE, metrics_process_tracker_reaper}).
%% A caller that waits for another caller polls the table. The interval starts at one millisecond
%% and doubles up to this one, then starts again.
-define(LONGEST_POLL_INTERVAL, 128).
%% How long a takeover waits for callers that still run the code of the original, in milliseconds.
-define(OLD_CALLERS_TIMEOUT, 1000).

%% @doc Starts the tracker, registered locally under the name of this module. The table belongs to
%% the caller. If the caller starts the tracker again, the new tracker continues with the same
%% table.
%%
%% If the VM has no free process, the first start raises `system_limit'. A later start waits for
%% one.
-spec start_link() -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link() ->
    proctab_reaper:start_link(?MODULE).

%% @doc Tracks the caller under a name, as `track(Name, self())' does.
-spec track(name()) -> ok | {error, Reason :: term()}.
track(Name) ->
    track(Name, self()).

%% @doc Tracks a process under a name. Does nothing if it is already tracked under that name.
%%
%% Calls `metrics:update(Name)' in the calling process, and ignores its result. If the update raises
%% an exception, returns `{error, Reason}', with `{nocatch, Term}' as the reason of a throw, and the
%% process is not tracked under that name.
%%
%% A process that is already dead is counted up and then down. A process of another node also counts
%% as dead when the connection to its node ends.
%%
%% Raises `badarg' if `Pid' is not a pid, or if the table is deleted before the update returns.
-spec track(name(), pid()) -> ok | {error, Reason :: term()}.
track(Name, Pid) ->
    case ?OR_BADARG(proctab_nif:begin_registering(?MODULE, Pid, Name), [Name, Pid]) of
        {busy, Caller} -> await_caller(Name, Pid, Caller, monitor(process, Caller), 1);
        Outcome -> continue(Outcome, Name, Pid)
    end.

%% @doc Returns how many processes are tracked under a name. A dead one counts until it has been
%% counted down.
-spec count(name()) -> non_neg_integer().
count(Name) ->
    ?OR_BADARG(proctab_nif:registered_count(?MODULE, Name), [Name]).

%% @doc Returns the names under which a process is tracked, in any order. Raises `badarg' if `Pid'
%% is not a pid.
-spec names(pid()) -> [name()].
names(Pid) ->
    ?OR_BADARG(proctab_nif:registered_names(?MODULE, Pid), [Pid]).

%% @doc Returns all names under which processes are tracked, each with the number that {@link
%% count/1} returns, in any order.
-spec counts() -> [{name(), pos_integer()}].
counts() ->
    ?OR_BADARG(counts(proctab_nif:counts_page(?MODULE, 0), []), []).

counts({Counts, done}, Pages) -> lists:append([Counts | Pages]);
counts({Counts, Next}, Pages) -> counts(proctab_nif:counts_page(?MODULE, Next), [Counts | Pages]).

%% Continues `track/2' after an attempt to begin the registration.
continue(registered, _Name, _Pid) ->
    ok;
continue(begun, Name, Pid) ->
    %% An exit signal takes effect only when the process is scheduled out. With a fresh time slice,
    %% an update that does not wait and the record of it in the table are one step. A caller that
    %% was killed between the two would have counted in the backend, but not in the table.
    erlang:yield(),
    try update(Name) of
        Announced ->
            ?OR_BADARG(
                proctab_nif:end_registering(?MODULE, Pid, Name, Announced), [Name, Pid]
            )
    catch
        Class:Reason ->
            ok = ?OR_BADARG(proctab_nif:fail_registering(?MODULE, Pid, Name), [Name, Pid]),
            {error, error_reason(Class, Reason)}
    end;
%% A remote call: a process that waits for long must move to new code, which may be that of the
%% original.
continue(_BusyOrGone, Name, Pid) ->
    ?MODULE:track(Name, Pid).

%% Calls the backend, and returns whether there is one. The tracker has loaded `metrics' if it is
%% installed.
update(Name) ->
    Metrics = metrics(),
    case erlang:function_exported(Metrics, update, 1) of
        true ->
            _ = Metrics:update(Name),
            true;
        false ->
            false
    end.

%% Hides the optional application from xref and dialyzer.
metrics() ->
    metrics.

error_reason(throw, Reason) -> {nocatch, Reason};
error_reason(_ErrorOrExit, Reason) -> Reason.

%% Waits until the process that is registering the same pair, or holds the table during a takeover,
%% has finished or died. It sends no message when it has finished.
await_caller(Name, Pid, Caller, Monitor, Interval) ->
    case poll(Name, Pid, Caller, Monitor, Interval) of
        {busy, Caller} when Interval < ?LONGEST_POLL_INTERVAL ->
            await_caller(Name, Pid, Caller, Monitor, 2 * Interval);
        Outcome ->
            demonitor(Monitor, [flush]),
            continue(Outcome, Name, Pid)
    end.

poll(Name, Pid, Caller, Monitor, Interval) ->
    try
        receive
            {'DOWN', Monitor, process, _, _} -> proctab_nif:abandon(?MODULE, Pid, Caller)
        after Interval ->
            proctab_nif:begin_registering(?MODULE, Pid, Name)
        end
    catch
        error:badarg -> gone
    end.

%% @private
-spec init(Owner :: pid()) -> {ok, proctab_reaper:server_state()}.
init(Owner) ->
    _ = code:ensure_loaded(metrics()),
    case is_takeover_unfinished(Owner) of
        true -> {ok, take_over(Owner)};
        false -> {ok, proctab_reaper:open(?REAPER, Owner)}
    end.

%% @private
-spec handle_call(term(), From :: term(), State) ->
          {reply, bad_call, State} | {noreply, State} when
      State :: proctab_reaper:server_state().
handle_call(_Request, {_To, _Tag}, State) ->
    {reply, bad_call, State};
%% A forged `From': `gen_server' would crash on a reply to it.
handle_call(_Request, _From, State) ->
    {noreply, State}.

%% @private
-spec handle_cast(term(), State) -> {noreply, State} when State :: proctab_reaper:server_state().
handle_cast({monitor, Pid}, State) when is_pid(Pid) ->
    proctab_reaper:watch(Pid, State),
    {noreply, State};
handle_cast(_Request, State) ->
    {noreply, State}.

%% @private
-spec handle_info(term(), State) -> {noreply, State} when State :: proctab_reaper:server_state().
handle_info(Message, State) ->
    {noreply, proctab_reaper:handle_message(Message, State)}.

%% @private
-spec terminate(term(), proctab_reaper:server_state()) -> ok.
terminate(_Reason, _State) ->
    ok.

%% @private
%% Takes over everything in the ETS table of the original, if the state is not one of this library:
%% {@link proctab:load/0} has replaced the code of a running original.
-spec code_change(term(), term(), term()) -> {ok, proctab_reaper:server_state()}.
code_change(_OldVersion, State, _Extra) ->
    case proctab_reaper:is_server_state(State) of
        true -> {ok, State};
        false -> {ok, take_over(proctab_reaper:parent())}
    end.

%% @private
-spec clean(pid(), name(), boolean()) -> term().
clean(_Pid, Name, true) -> (metrics()):update(Name, {c, -1});
clean(_Pid, _Name, false) -> ok.

%%% Takeover from the original

%% Returns whether a tracker ended in the middle of a takeover and left the original's table, which
%% belongs to the supervisor.
is_takeover_unfinished(Owner) ->
    {ets:info(metrics, owner), ets:info(metrics, type)} =:= {Owner, ordered_set} andalso
        original_pairs() =/= [].

%% The original's table has a row `{{Pid, Name}, Name}' for each pair, which is counted up, or about
%% to be by a running caller.
original_pairs() ->
    ets:select(metrics, [{{{'$1', '$2'}, '$2'}, [{is_pid, '$1'}], [{{'$1', '$2'}}]}]).

take_over(Owner) ->
    ok = proctab_nif:processes_open(?MODULE, Owner),
    Deadline = erlang:monotonic_time(millisecond) + ?OLD_CALLERS_TIMEOUT,
    IsInUse = await_old_callers(3, Deadline),
    Key = fun({Pid, _}) -> Pid end,
    Value = fun({_, Name}) -> Name end,
    maps:foreach(fun take_over_process/2, maps:groups_from_list(Key, Value, original_pairs())),
    _ = ets:select_delete(metrics, [{{'$1', m}, [{is_pid, '$1'}], [true]}]),
    State = proctab_reaper:open(?REAPER, Owner),
    %% A caller that is still in its update reads the table once more after that.
    IsInUse orelse ets:delete(metrics),
    State.

%% Registers a process, and deletes its rows from the original's table. A takeover that was
%% interrupted may have registered a name and left its row.
take_over_process(Pid, Names) ->
    Known = maps:from_keys(names(Pid), known),
    lists:foreach(
        fun(Name) ->
            is_map_key(Name, Known) orelse proctab_nif:register(?MODULE, Pid, Name),
            true = ets:delete(metrics, {Pid, Name})
        end,
        Names
    ).

%% Waits for callers in the original's code, which may be about to write to its table. Returns
%% whether some remain at the deadline: they wait for their backend, and have written. Checks
%% `Checks' times at least; each check visits all processes of the node.
await_old_callers(Checks, Deadline) ->
    case code:soft_purge(?MODULE) of
        true ->
            false;
        false ->
            Checks =< 1 andalso erlang:monotonic_time(millisecond) >= Deadline orelse
                receive
                after 1 ->
                    await_old_callers(Checks - 1, Deadline)
                end
    end.
