%% @doc Counts the live processes behind a metric name.
%%
%% This is a drop-in replacement for the module of the same name in the application `metrics', which keeps its state in ETS. A process is tracked under any
%% number of names, any terms; each name is announced to the metrics backend with `metrics:update(Name)' when it is tracked, and with
%% `metrics:update(Name, {c, -1})' when the process has died. Without an application `metrics' nothing is announced, and {@link count/1}, {@link names/1} and
%% {@link counts/0} see the numbers all the same.
%%
%% What is tracked is kept in a native table that belongs to the process that calls {@link start_link/0}, a supervisor: it outlives the tracker, not the
%% supervisor. The tracker itself monitors the processes; everybody else reads and writes the table directly, and `proctab_reaper' counts the dead down.
%%
%% A caller that is killed while `metrics:update(Name)' waits for another process is taken for one whose update has not counted. Who tracks a pair of process and
%% name that another caller is just announcing waits for that one's outcome; so a backend must not track crosswise: two callers whose updates each track
%% the pair that the other one is announcing wait for each other for ever.
%%
%% Every function but {@link start_link/0} raises `badarg' when that table does not exist.
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
%% How long the last wait is, in milliseconds, of a caller that looks whether another one has announced the same pair, each time after twice as long; then it begins anew.
-define(LONGEST_WAIT, 128).
%% How long a takeover waits for callers who are inside of the original's code, in milliseconds.
-define(PATIENCE, 1000).

%% @doc Starts the tracker, registered locally under the name of this module. The table belongs to the caller; it is the same one when the tracker is
%% started again, for which a supervisor waits while the VM has no free process. Raises `system_limit'
%% when there is none for the first start.
-spec start_link() -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link() ->
    proctab_reaper:start_link(?MODULE).

%% @doc The same as `track(Name, self())'.
-spec track(name()) -> ok | {error, Reason :: term()}.
track(Name) ->
    track(Name, self()).

%% @doc Tracks a process under a name. The first time `metrics:update(Name)' is called in the caller; what it returns is ignored. When it raises, the answer is
%% `{error, Reason}', and the process is not tracked under that name. The process may be dead already: it is counted up and then down; and it
%% may be of another node: the end of the connection counts as its death. `badarg' when `Pid' is no pid, or when the table goes before the update returns.
-spec track(name(), pid()) -> ok | {error, Reason :: term()}.
track(Name, Pid) ->
    case ?OR_BADARG(proctab_nif:begin_registering(?MODULE, Pid, Name), [Name, Pid]) of
        {busy, Caller} -> await(Name, Pid, Caller, monitor(process, Caller), 1);
        Begun -> go_on(Begun, Name, Pid)
    end.

%% @doc How many live processes are tracked under a name now.
-spec count(name()) -> non_neg_integer().
count(Name) ->
    ?OR_BADARG(proctab_nif:registered_count(?MODULE, Name), [Name]).

%% @doc The names that a process is tracked under, in any order. `badarg' when `Pid' is no pid.
-spec names(pid()) -> [name()].
names(Pid) ->
    ?OR_BADARG(proctab_nif:registered_names(?MODULE, Pid), [Pid]).

%% @doc All names that have a live process, and how many each has, in any order.
-spec counts() -> [{name(), pos_integer()}].
counts() ->
    ?OR_BADARG(counts(proctab_nif:counts_page(?MODULE, 0), []), []).

counts({Counts, done}, Pages) -> lists:append([Counts | Pages]);
counts({Counts, Next}, Pages) -> counts(proctab_nif:counts_page(?MODULE, Next), [Counts | Pages]).

go_on(registered, _Name, _Pid) ->
    ok;
go_on(begun, Name, Pid) ->
    %% An exit signal ends a process where it is scheduled out, and nowhere in between: with a time slice of its own, an update that waits for nobody and its
    %% record are one step. Of 10,000 callers that were killed while they tracked on and on, 19 had counted and not recorded it before this was here.
    erlang:yield(),
    try update(Name) of
        Announced -> ?OR_BADARG(proctab_nif:end_registering(?MODULE, Pid, Name, Announced), [Name, Pid])
    catch
        Class:Reason ->
            ok = ?OR_BADARG(proctab_nif:fail_registering(?MODULE, Pid, Name), [Name, Pid]),
            {error, reason(Class, Reason)}
    end;
%% Not by a local call: who waits for long is not for ever in code that has been replaced, nor in ours when the original has been put back.
go_on(_BusyOrGone, Name, Pid) ->
    ?MODULE:track(Name, Pid).

%% Whether there is somebody to announce to. The tracker has loaded `metrics', if it is there.
update(Name) ->
    Metrics = metrics(),
    case erlang:function_exported(Metrics, update, 1) of
        true -> _ = Metrics:update(Name), true;
        false -> false
    end.

%% An application that may be there or not, and is unknown to those who check this one's calls.
metrics() ->
    metrics.

reason(throw, Reason) -> {nocatch, Reason};
reason(_ErrorOrExit, Reason) -> Reason.

%% Another caller is announcing the same pair, or takes over from another tracker. Its outcome decides; it comes without a message.
await(Name, Pid, Caller, Monitor, Wait) ->
    case look(Name, Pid, Caller, Monitor, Wait) of
        {busy, Caller} when Wait < ?LONGEST_WAIT ->
            await(Name, Pid, Caller, Monitor, 2 * Wait);
        Outcome ->
            demonitor(Monitor, [flush]),
            go_on(Outcome, Name, Pid)
    end.

look(Name, Pid, Caller, Monitor, Wait) ->
    try
        receive
            {'DOWN', Monitor, process, _, _} -> proctab_nif:abandon(?MODULE, Pid, Caller)
        after Wait -> proctab_nif:begin_registering(?MODULE, Pid, Name)
        end
    catch
        error:badarg -> gone
    end.

%% @private
-spec init(Owner :: pid()) -> {ok, proctab_reaper:watched()}.
init(Owner) ->
    _ = code:ensure_loaded(metrics()),
    case is_left_by_original(Owner) of
        true -> {ok, take_over(Owner)};
        false -> {ok, proctab_reaper:open(?REAPER, Owner)}
    end.

%% @private
-spec handle_call(term(), From :: term(), State) -> {reply, bad_call, State} | {noreply, State} when
    State :: proctab_reaper:watched().
handle_call(_Request, {_To, _Tag}, Watched) ->
    {reply, bad_call, Watched};
%% By answering nobody `gen_server' would crash.
handle_call(_Request, _From, Watched) ->
    {noreply, Watched}.

%% @private
-spec handle_cast(term(), State) -> {noreply, State} when State :: proctab_reaper:watched().
handle_cast({monitor, Pid}, Watched) when is_pid(Pid) ->
    proctab_reaper:watch(Pid, Watched),
    {noreply, Watched};
handle_cast(_Request, Watched) ->
    {noreply, Watched}.

%% @private
-spec handle_info(term(), State) -> {noreply, State} when State :: proctab_reaper:watched().
handle_info(Message, Watched) ->
    {noreply, proctab_reaper:handle_message(Message, Watched)}.

%% @private
-spec terminate(term(), proctab_reaper:watched()) -> ok.
terminate(_Reason, _Watched) ->
    ok.

%% @private
%% From a running original, whose state is anything else, all that its ETS table holds is taken over ({@link proctab:load/0}).
-spec code_change(term(), term(), term()) -> {ok, proctab_reaper:watched()}.
code_change(_OldVersion, State, _Extra) ->
    case proctab_reaper:is_watched(State) of
        true -> {ok, State};
        false -> {ok, take_over(proctab_reaper:parent())}
    end.

%% @private
-spec clean(pid(), name(), boolean()) -> term().
clean(_Pid, Name, true) -> (metrics()):update(Name, {c, -1});
clean(_Pid, _Name, false) -> ok.

%% Whether the original was killed, or stopped, in the middle of a takeover. Its table belongs to the process that started it.
is_left_by_original(Owner) ->
    {ets:info(metrics, owner), ets:info(metrics, type)} =:= {Owner, ordered_set} andalso original_pairs() =/= [].

%% The original's table has a row `{{Pid, Name}, Name}' for each pair, which is counted up or is just being so by a caller.
original_pairs() ->
    ets:select(metrics, [{{{'$1', '$2'}, '$2'}, [{is_pid, '$1'}], [{{'$1', '$2'}}]}]).

take_over(Owner) ->
    ok = proctab_nif:processes_open(?MODULE, Owner),
    Left = await_old_callers(3, erlang:monotonic_time(millisecond) + ?PATIENCE),
    maps:foreach(fun take_over/2, maps:groups_from_list(fun({Pid, _}) -> Pid end, fun({_, Name}) -> Name end, original_pairs())),
    _ = ets:select_delete(metrics, [{{'$1', m}, [{is_pid, '$1'}], [true]}]),
    Watched = proctab_reaper:open(?REAPER, Owner),
    %% A caller that is still at its update will look for the table once more.
    Left orelse ets:delete(metrics),
    Watched.

%% A row goes when it is registered here; whoever was killed in between has left one that is.
take_over(Pid, Names) ->
    Known = maps:from_keys(names(Pid), known),
    lists:foreach(
        fun(Name) ->
            is_map_key(Name, Known) orelse proctab_nif:register(?MODULE, Pid, Name),
            true = ets:delete(metrics, {Pid, Name})
        end,
        Names
    ).

%% Callers that are inside of the original's code may be about to write to its table; those that stay there are waiting for their backend, and have written.
%% Each look is at all processes.
await_old_callers(Looks, Until) ->
    case code:soft_purge(?MODULE) of
        true ->
            false;
        false ->
            Looks =< 1 andalso erlang:monotonic_time(millisecond) >= Until
                orelse receive after 1 -> await_old_callers(Looks - 1, Until) end
    end.
