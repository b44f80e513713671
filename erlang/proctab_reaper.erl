%% @private
%% Cleans up after the deaths of the processes that are registered in a table of processes. Shared
%% by `metrics_process_tracker' and `stats_hero_monitor'.
%%
%% Three processes work together:
%% <ul>
%% <li>The server, a `gen_server' whose module also names the table, monitors the registered
%%     processes of other nodes. Those of this node are monitored by the table, which queues the
%%     dead and wakes the reaper.</li>
%% <li>The reaper, this module's `gen_server', starts cleaners, one at a time.</li>
%% <li>A cleaner takes a batch of registrations of the dead from the table. For each it calls
%%     `Module:clean/3', and then has the registration removed. So a registration that is gone has
%%     been cleaned up completely. Cleanups are foreign code: in a process of their own they cannot
%%     block this library, nor keep it in old code. A cleanup that fails, or is killed after ten
%%     seconds, is logged and counts as done.</li>
%% </ul>
%%
%% If the server is killed, its reaper lets the running cleaner finish and then stops. The dead and
%% the other registrations stay in the table, where the next reaper finds them. It waits until the
%% earlier one has ended: reapers take a registered name.
%%
%% Messages from other processes change nothing. The messages of monitors of the server, and those
%% from the server to its reaper, contain a tag, a reference that only these two know. Timers and
%% all other monitors are known only to the process that has created them. The native functions
%% report a new process of another node to the server, and a death to the reaper, with messages that
%% any process could send. They only say to look: server and reaper check them against the table.
%%
%% If the VM has no free process, whatever needs one is retried later. A server without a reaper
%% keeps the messages for it; the dead wait in the table. The owner of the table, a supervisor,
%% waits in {@link start_link/1}: each failed start would count as a restart and in the end stop the
%% supervisor, and the table with it.
-module(proctab_reaper).
-behaviour(gen_server).

-export([start_link/1, open/2, watch/2, is_server_state/1, handle_message/2, count/3, parent/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([reap/1, clean/1, step/1]).

-export_type([server_state/0]).

-include_lib("kernel/include/logger.hrl").

%% Cleans up one registration of a dead process. `Announced' is the value that was given to
%% `proctab_nif:end_registering/4', or `true'.
-callback clean(pid(), Name :: term(), Announced :: boolean()) -> term().

%% Words of a cleaner's first heap: enough for a batch of ordinary cleanups without a garbage
%% collection.
-define(CLEANER_HEAP, 8192).
%% After how long a cleaner is killed, in milliseconds.
-define(CLEANER_TIMEOUT, 10000).
%% How long a reaper that ends waits for the death of its cleaner, in milliseconds.
-define(CLEANER_EXIT_TIMEOUT, 1000).
%% How long to wait before the next attempt to start a process, in milliseconds.
-define(RETRY_INTERVAL, 50).

%% A reaper that could not be started yet.
-record(pending_reaper, {
    name :: atom(),
    owner :: pid(),
    timer :: reference() | undefined,
    %% Calls of count/3 that it has to answer, latest first.
    counts = [] :: [count()]
}).

-record(server_state, {
    table :: module(),
    tag :: reference(),
    reaper :: pid() | #pending_reaper{}
}).

%% A call of count/3.
-type count() :: {Name :: term(), gen_server:from()}.

-opaque server_state() :: #server_state{}.

%% A running cleaner.
-record(cleaner, {
    pid :: pid(),
    monitor :: reference(),
    timer :: reference(),
    %% Its exit reason if it ends between two cleanups; `{Stopped, made}' if the registration of the
    %% last one is still to be removed.
    stopped :: reference()
}).

%% What a cleaner needs after each cleanup.
-record(batch, {
    table :: module(),
    %% See #cleaner{}.
    stopped :: reference(),
    %% The only process that it is linked to.
    reaper :: pid(),
    group_leader :: pid()
}).

-type cleanup() :: {pid(), Name :: term(), Announced :: boolean()}.

%% No cleaner could be started. The next attempt is made when the timer expires.
-record(retry, {
    timer :: reference()
}).

-record(reaper, {
    table :: module(),
    name :: atom(),
    tag :: reference(),
    server :: {pid(), Monitor :: reference()} | gone,
    owner :: {pid(), Monitor :: reference()},
    %% The monitor of the earlier reaper, while that is alive.
    predecessor :: reference() | gone,
    %% Whether it has told the table that it is the reaper.
    is_open = false :: boolean(),
    cleaner = none :: #cleaner{} | #retry{} | none,
    %% Whether it is logged that there is no free process for a cleaner.
    is_limit_logged = false :: boolean(),
    %% The dead processes that callers are still registering, with the monitors of these callers.
    registering = #{} :: #{pid() => [reference()]},
    %% Calls of count/3 that are not answered yet.
    counts = [] :: [count()]
}).

-type arguments() ::
    {Table :: module(), Name :: atom(), Tag :: reference(), Server :: pid(), Owner :: pid()}.

-type result() :: {noreply, #reaper{}} | {stop, normal | shutdown, #reaper{}}.

%%% The server

%% @doc Starts the server of a table, registered locally under the name of the table.
%%
%% If the VM has no free process, raises `system_limit' as `gen_server:start_link/4' does; but if
%% the caller owns the table, waits for a free process, or until the parent of the caller tells it
%% to exit.
-spec start_link(Table :: module()) -> {ok, pid()} | {error, term()}.
start_link(Table) ->
    case try_start_server(Table) of
        full ->
            is_owner(Table) orelse error(system_limit),
            log_limit(Table),
            await_server(Table, parent());
        Result ->
            Result
    end.

await_server(Table, Parent) ->
    receive
        {'EXIT', Parent, _Reason} = Exit ->
            self() ! Exit,
            {error, system_limit}
    after ?RETRY_INTERVAL ->
        case try_start_server(Table) of
            full -> await_server(Table, Parent);
            Result -> Result
        end
    end.

try_start_server(Table) ->
    unless_full(fun() -> gen_server:start_link({local, Table}, Table, self(), []) end).

is_owner(Table) ->
    lists:member({processes, Table, self()}, proctab_nif:tables()).

%% Calls a fun that starts a process, or returns `full' if the VM has no free process. The VM logs
%% each spawn that it refuses, so the number of processes is checked first.
unless_full(Start) ->
    Limit = erlang:system_info(process_limit),
    try erlang:system_info(process_count) < Limit andalso Start() of
        false -> full;
        Started -> Started
    catch
        error:system_limit -> full
    end.

log_limit(Table) ->
    log(#{
        label => {Table, system_limit},
        what => "the VM has no free process; nothing is lost, and the start is retried",
        limit => erlang:system_info(process_limit)
    }).

%% `logger' removes a handler that has crashed in a new process, and so raises an exception if there
%% is none.
log(Report) ->
    try
        ?LOG_ERROR(Report)
    catch
        error:system_limit -> ok
    end.

%% @doc Makes the caller the server of its table, which belongs to `Owner', starts a reaper under
%% the name `Name', and monitors the processes of other nodes in the table.
-spec open({Table :: module(), Name :: atom()}, Owner :: pid()) -> server_state().
open({Table, Name}, Owner) ->
    ok = proctab_nif:processes_open(Table, Owner),
    Pending = #pending_reaper{name = Name, owner = Owner},
    State = start_reaper(#server_state{table = Table, tag = make_ref(), reaper = Pending}),
    watch_page(proctab_nif:remote_page(Table, 0), State),
    State.

%% Starts the reaper and sends it the calls that were kept for it, or retries later.
start_reaper(#server_state{reaper = #pending_reaper{} = Pending} = State) ->
    #server_state{table = Table, tag = Tag} = State,
    #pending_reaper{name = Name, owner = Owner, counts = Counts} = Pending,
    Arguments = {Table, Name, Tag, self(), Owner},
    case unless_full(fun() -> proc_lib:start(?MODULE, reap, [Arguments]) end) of
        {ok, Reaper} ->
            lists:foreach(
                fun(Count) -> send_count(Count, Tag, Reaper) end, lists:reverse(Counts)
            ),
            State#server_state{reaper = Reaper};
        _FullOrKilled ->
            %% Without a reaper, no other process would notice the death of the owner.
            is_process_alive(Owner) orelse exit(shutdown),
            State#server_state{reaper = retry_reaper(Table, Pending)}
    end.

retry_reaper(Table, #pending_reaper{name = Name, timer = Before} = Pending) ->
    Before =:= undefined andalso log_limit(Table),
    Timer = erlang:start_timer(?RETRY_INTERVAL, self(), start_reaper),
    Waiting = Pending#pending_reaper{timer = Timer},
    case whereis(Name) of
        undefined -> reply_counts(Table, Waiting);
        %% The earlier reaper may be in the middle of a cleanup.
        _Predecessor -> Waiting
    end.

%% Answers the calls of count/3 that were kept for the reaper. No cleanup runs.
reply_counts(Table, #pending_reaper{counts = Counts} = Pending) ->
    lists:foreach(fun({Name, From}) -> reply_count(Table, Name, From) end, Counts),
    Pending#pending_reaper{counts = []}.

reply_count(Table, Name, From) ->
    gen_server:reply(From, proctab_nif:registered_count(Table, Name)).

watch_page({Pids, Next}, #server_state{table = Table} = State) ->
    lists:foreach(fun(Pid) -> watch(Pid, State) end, Pids),
    Next =:= done orelse watch_page(proctab_nif:remote_page(Table, Next), State),
    ok.

%% @doc Monitors a process of another node for the server, if it is registered and not yet
%% monitored.
-spec watch(pid(), server_state()) -> ok.
watch(Pid, #server_state{table = Table, tag = Tag}) ->
    _ = proctab_nif:claim(Table, Pid) andalso monitor(process, Pid, [{tag, Tag}]),
    ok.

%% @doc Returns whether a term is the state of a server of this library.
-spec is_server_state(term()) -> boolean().
is_server_state(State) ->
    is_record(State, server_state).

%% @doc Handles a message to the server: queues a process of another node that has died, and ignores
%% unknown messages.
-spec handle_message(term(), server_state()) -> server_state().
handle_message({Tag, _Monitor, process, Pid, _Reason}, #server_state{tag = Tag} = State) ->
    try
        ok = proctab_nif:died(State#server_state.table, Pid)
    catch
        %% The owner of the table has died. The reaper will end the server.
        error:badarg -> ok
    end,
    State;
handle_message(
    {timeout, Timer, _}, #server_state{reaper = #pending_reaper{timer = Timer}} = State
) ->
    start_reaper(State);
handle_message(_Message, State) ->
    State.

%% @doc Makes the reaper reply to `From' with the number of registrations of a name. It replies
%% between cleanups.
-spec count(Name :: term(), gen_server:from(), server_state()) -> server_state().
count(Name, From, #server_state{reaper = #pending_reaper{} = Pending} = State) ->
    Counts = [{Name, From} | Pending#pending_reaper.counts],
    State#server_state{reaper = Pending#pending_reaper{counts = Counts}};
count(Name, From, #server_state{reaper = Reaper, tag = Tag} = State) ->
    send_count({Name, From}, Tag, Reaper),
    State.

send_count({Name, From}, Tag, Reaper) ->
    ok = gen_server:cast(Reaper, {Tag, count, Name, From}).

%% @doc Returns the process that has started the calling one, if that is known.
-spec parent() -> pid() | undefined.
parent() ->
    case get('$ancestors') of
        [Pid | _] when is_pid(Pid) -> Pid;
        [Name | _] -> whereis(Name);
        undefined -> undefined
    end.

%%% The reaper

%% The start function of a reaper. A `gen_server' ends when it receives an EXIT message of its
%% parent, which any process could forge, so its parent is set to a pid that nobody knows.
-spec reap(arguments()) -> no_return().
reap({_Table, _Name, _Tag, Server, _Owner} = Arguments) ->
    {ok, Reaper} = init(Arguments),
    _ = put('$ancestors', [unguessable_pid() | get('$ancestors')]),
    _ = put('$initial_call', {?MODULE, init, 1}),
    proc_lib:init_ack(Server, {ok, self()}),
    gen_server:enter_loop(?MODULE, [], Reaper).

%% Returns a random pid of an earlier or later run of this node, which no process has.
unguessable_pid() ->
    Node = atom_to_binary(node()),
    {Secret, _} = rand:uniform_s(1 bsl 58, rand:seed_s(exsss)),
    OtherCreation = 1 + erlang:system_info(creation) rem 16#FFFFFFFE,
    Atom = <<118, (byte_size(Node)):16, Node/binary>>,
    binary_to_term(<<131, 88, Atom/binary, Secret:64, OtherCreation:32>>).

%% The link ends the server with its reaper.
-spec init(arguments()) -> {ok, #reaper{}}.
init({Table, Name, Tag, Server, Owner}) ->
    process_flag(trap_exit, true),
    link(Server),
    %% To look into the table.
    self() ! '$proctab_dead',
    {ok, #reaper{
        table = Table,
        name = Name,
        tag = Tag,
        server = {Server, monitor(process, Server)},
        owner = {Owner, monitor(process, Owner)},
        predecessor = take_name(Name)
    }}.

%% Registers the calling reaper, or monitors the one that has the name.
take_name(Name) ->
    try register(Name, self()) of
        true -> gone
    catch
        error:badarg -> monitor(process, Name)
    end.

-spec handle_call(term(), From :: term(), #reaper{}) -> {reply, bad_call, #reaper{}} | result().
handle_call(_Request, {_To, _Tag}, Reaper) ->
    {reply, bad_call, Reaper};
%% A forged `From': `gen_server' would crash on a reply to it.
handle_call(_Request, _From, Reaper) ->
    {noreply, Reaper}.

-spec handle_cast(term(), #reaper{}) -> result().
handle_cast({Tag, count, Name, From}, #reaper{tag = Tag, counts = Counts} = Reaper) ->
    continue(Reaper#reaper{counts = [{Name, From} | Counts]});
handle_cast(_Request, Reaper) ->
    {noreply, Reaper}.

-spec handle_info(term(), #reaper{}) -> result().
handle_info('$proctab_dead', Reaper) ->
    continue(Reaper);
handle_info(
    {'DOWN', Monitor, process, _, Reason}, #reaper{cleaner = #cleaner{monitor = Monitor}} = Reaper
) ->
    with_table(fun() -> continue(cleaner_ended(Reason, Reaper)) end, Reaper);
handle_info(
    {timeout, Timer, cleaner_timeout}, #reaper{cleaner = #cleaner{timer = Timer}} = Reaper
) ->
    exit(Reaper#reaper.cleaner#cleaner.pid, kill),
    {noreply, Reaper};
handle_info({timeout, Timer, retry}, #reaper{cleaner = #retry{timer = Timer}} = Reaper) ->
    continue(Reaper#reaper{cleaner = none});
handle_info({'DOWN', Monitor, process, _, _Reason}, #reaper{server = {_, Monitor}} = Reaper) ->
    continue(Reaper#reaper{server = gone});
handle_info({'DOWN', Monitor, process, _, _Reason}, #reaper{owner = {_, Monitor}} = Reaper) ->
    {stop, shutdown, Reaper};
handle_info({'DOWN', Monitor, process, _, _Reason}, #reaper{predecessor = Monitor} = Reaper) ->
    #reaper{name = Name, owner = {Owner, _}} = Reaper,
    case is_process_alive(Owner) of
        true ->
            continue(Reaper#reaper{predecessor = take_name(Name)});
        false ->
            %% The earlier reaper has ended with the owner as well, perhaps in the middle of a
            %% cleanup, which must not be repeated while the table still exists.
            {stop, shutdown, Reaper}
    end;
handle_info({{busy, Pid}, Monitor, process, Caller, _Reason}, #reaper{} = Reaper) ->
    case lists:member(Monitor, maps:get(Pid, Reaper#reaper.registering, [])) of
        true -> abandon(Pid, Caller, Reaper);
        false -> {noreply, Reaper}
    end;
handle_info(_Message, Reaper) ->
    {noreply, Reaper}.

%% Ends the server, which the link does not do if the reaper ends normally, and the cleaner, which
%% may have removed its link or trap exits. The cleaner is dead before the next reaper gets the
%% name.
-spec terminate(term(), #reaper{}) -> true.
terminate(_Reason, #reaper{server = Server, cleaner = Cleaner}) ->
    stop_server(Server),
    stop_cleaner(Cleaner).

stop_server({Server, _Monitor}) -> exit(Server, shutdown);
stop_server(gone) -> true.

stop_cleaner(#cleaner{pid = Pid, monitor = Monitor}) ->
    exit(Pid, shutdown),
    exit(Pid, kill),
    receive
        {'DOWN', Monitor, process, Pid, _Reason} -> true
    after ?CLEANER_EXIT_TIMEOUT ->
        true
    end;
stop_cleaner(_NoCleaner) ->
    true.

-spec code_change(term(), #reaper{}, term()) -> {ok, #reaper{}}.
code_change(_OldVersion, Reaper, _Extra) ->
    {ok, Reaper}.

%% Takes back what a caller had begun to register for a dead process when it was killed. Its cleanup
%% need not wait for the caller any more.
abandon(Pid, Caller, #reaper{table = Table} = Reaper) ->
    with_table(
        fun() ->
            ok = proctab_nif:abandon(Table, Pid, Caller),
            continue(Reaper)
        end,
        Reaper
    ).

%% Decides what to do next: nothing while a cleaner runs, or while the earlier reaper is alive.
continue(#reaper{cleaner = #cleaner{}} = Reaper) ->
    {noreply, Reaper};
continue(#reaper{server = gone} = Reaper) ->
    {stop, normal, Reaper};
continue(#reaper{predecessor = gone, table = Table, counts = Counts} = Reaper) ->
    with_table(
        fun() ->
            Reaper#reaper.is_open orelse proctab_nif:open_cleanups(Table),
            lists:foreach(fun({Name, From}) -> reply_count(Table, Name, From) end, Counts),
            {noreply, clean_up(Reaper#reaper{is_open = true, counts = []})}
        end,
        Reaper
    );
continue(Reaper) ->
    {noreply, Reaper}.

%% Starts a cleaner for the next batch, if there is one.
clean_up(#reaper{cleaner = #retry{}} = Reaper) ->
    Reaper;
clean_up(#reaper{table = Table} = Reaper) ->
    {Cleanups, Waiting, More} = proctab_nif:reap(Table),
    Next = lists:foldl(fun await_callers/2, Reaper, Waiting),
    if
        Cleanups > 0 -> start_cleaner(Next);
        More -> clean_up(Next);
        true -> Next
    end.

%% Monitors the callers that are still registering a dead process, and no longer those for which its
%% cleanup has waited before. A caller that finishes makes the native function queue the process
%% again; a caller that is killed does not.
await_callers({Pid, Callers}, #reaper{registering = Registering} = Reaper) ->
    lists:foreach(fun(Monitor) -> demonitor(Monitor) end, maps:get(Pid, Registering, [])),
    case [monitor(process, Caller, [{tag, {busy, Pid}}]) || Caller <- Callers] of
        [] -> Reaper#reaper{registering = maps:remove(Pid, Registering)};
        Monitors -> Reaper#reaper{registering = Registering#{Pid => Monitors}}
    end.

start_cleaner(#reaper{table = Table} = Reaper) ->
    Stopped = make_ref(),
    Batch = #batch{
        table = Table, stopped = Stopped, reaper = self(), group_leader = group_leader()
    },
    Options = [link, monitor, {min_heap_size, ?CLEANER_HEAP}],
    case unless_full(fun() -> spawn_opt(?MODULE, clean, [Batch], Options) end) of
        {Pid, Monitor} ->
            Cleaner = #cleaner{
                pid = Pid,
                monitor = Monitor,
                timer = erlang:start_timer(?CLEANER_TIMEOUT, self(), cleaner_timeout),
                stopped = Stopped
            },
            Reaper#reaper{cleaner = Cleaner, is_limit_logged = false};
        full ->
            retry_cleaner(Reaper)
    end.

retry_cleaner(#reaper{table = Table, is_limit_logged = IsLogged} = Reaper) ->
    IsLogged orelse log_limit(Table),
    Timer = erlang:start_timer(?RETRY_INTERVAL, self(), retry),
    Reaper#reaper{cleaner = #retry{timer = Timer}, is_limit_logged = true}.

%% A cleaner has ended. If it has done so in the middle of a cleanup, or after that and before the
%% registration was removed, this counts as done.
cleaner_ended(Reason, #reaper{table = Table, cleaner = Cleaner} = Reaper) ->
    #cleaner{pid = Pid, timer = Timer, stopped = Stopped} = Cleaner,
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    Reason =:= Stopped orelse
        case proctab_nif:give_up(Table, Pid) of
            {_, _} when Reason =:= {Stopped, made} -> ok;
            {Process, Name} -> log_failure(Process, Name, Reason, Table);
            none -> ok
        end,
    Reaper#reaper{cleaner = none}.

log_failure(Process, Name, Reason, Table) ->
    log(#{
        label => {Table, clean},
        what => "the cleanup after a dead process failed",
        process => Process,
        name => Name,
        reason => Reason
    }).

%% Runs a fun that reads the table. Stops the reaper if the table is gone, because its owner has
%% died.
with_table(Run, Reaper) ->
    try
        Run()
    catch
        error:badarg -> {stop, shutdown, Reaper}
    end.

%%% The cleaner

%% Makes some cleanups of a batch, as a tail call: while a cleanup runs, the cleaner has no frame of
%% this module on its stack, which may then be replaced.
-spec clean(#batch{}) -> ok.
clean(#batch{table = Table, stopped = Stopped, reaper = Reaper} = Batch) ->
    try proctab_nif:take_cleanups(Table, Reaper) of
        [] -> exit(Stopped);
        Cleanups -> lists:foreach(fun ?MODULE:step/1, steps(Cleanups, first, Batch))
    catch
        %% The owner of the table has died.
        error:badarg -> exit(Stopped)
    end.

%% Returns the steps of a cleaner. Each ends the cleanup before it, if there is one, and makes the
%% next. The last one goes on with the cleanups that are left.
steps([Cleanup | Cleanups], Before, Batch) ->
    [{Before, Cleanup, Batch} | steps(Cleanups, next, Batch)];
steps([], _Before, Batch) ->
    [{last, none, Batch}].

%% Runs one step of a cleaner. The cleanup is a tail call as well.
-spec step({first | next, cleanup(), #batch{}} | {last, none, #batch{}}) -> term().
step({first, {Pid, Name, Announced}, #batch{table = Table}}) ->
    Table:clean(Pid, Name, Announced);
step({next, {Pid, Name, Announced}, #batch{table = Table} = Batch}) ->
    cleaned(Batch),
    Table:clean(Pid, Name, Announced);
step({last, none, Batch}) ->
    cleaned(Batch),
    clean(Batch).

%% Ends a cleanup: has its registration removed. Exits if the cleaner must not make another one: its
%% time is over, or the cleanup has left something behind that could harm the next one, such as a
%% link to a process that crashes, or the table is gone. It looks first: as long as such a process
%% may end the cleaner, the cleanup that counts as done then must be this one.
cleaned(#batch{table = Table, stopped = Stopped, reaper = Reaper, group_leader = Leader}) ->
    process_flag(trap_exit, false) =:= false andalso
        process_flag(priority, normal) =:= normal andalso
        group_leader() =:= Leader andalso
        %% By far the fastest way to look. It handles the signals that have come before.
        process_info(self(), [message_queue_len, monitors, links]) =:=
            [{message_queue_len, 0}, {monitors, []}, {links, [Reaper]}] orelse
        exit({Stopped, made}),
    proctab_nif:cleaned(Table) orelse exit(Stopped).
