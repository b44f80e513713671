%% @private
%% Monitors the processes that are registered in a table of processes, and cleans up after their
%% deaths. Shared by `metrics_process_tracker' and `stats_hero_monitor'.
%%
%% Three processes work together:
%% <ul>
%% <li>The server, a `gen_server' whose module also names the table, monitors each registered
%%     process and forwards its death to the reaper. It does nothing else with a death, so it
%%     answers at once, however many deaths there are and however slow the cleanups.</li>
%% <li>The reaper, this module's `gen_server', queues the dead and starts cleaners, one at a
%%     time.</li>
%% <li>A cleaner calls `Module:clean/3' for a batch of registrations of the dead, and removes each
%%     registration after its cleanup. So a registration that is gone has been cleaned up
%%     completely. Cleanups are foreign code: in a process of their own they cannot block this
%%     library, nor keep it in old code. A cleanup that fails, or is killed after ten seconds, is
%%     logged and counts as done.</li>
%% </ul>
%%
%% If the server is killed, its reaper lets the running cleaner finish and then stops. The other
%% registrations stay in the table, where the next server finds them. The next reaper waits until
%% the earlier one has ended: reapers take a registered name.
%%
%% Messages from other processes change nothing. Deaths, and messages from the server to its reaper,
%% contain a tag, a reference that only these two know. Timers and all other monitors are known only
%% to the process that has created them. The native functions report a new process to the server
%% with a message that any process could send, so the server checks it against the table.
%%
%% If the VM has no free process, whatever needs one is retried later. A server without a reaper
%% keeps the messages for it; a reaper without a cleaner keeps the dead. The owner of the table, a
%% supervisor, waits in {@link start_link/1}: each failed start would count as a restart and in the
%% end stop the supervisor, and the table with it.
-module(proctab_reaper).
-behaviour(gen_server).

-export([start_link/1, open/2, watch/2, is_server_state/1, handle_message/2, count/3, parent/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([reap/1, step/1, cleaned/3]).

-export_type([server_state/0]).

-include_lib("kernel/include/logger.hrl").

%% Cleans up one registration of a dead process. `Announced' is the value that was given to
%% `proctab_nif:end_registering/4', or `true'.
-callback clean(pid(), Name :: term(), Announced :: boolean()) -> term().

%% The most registrations that a cleaner gets, each of another process.
-define(BATCH_SIZE, 32).
%% A cleaner starts no other cleanup after this time, in microseconds. Callers of count/3 wait for
%% it.
-define(BATCH_TIME, 500).
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
    %% To be sent to it, latest first.
    messages = [] :: [message()]
}).

-record(server_state, {
    table :: module(),
    tag :: reference(),
    reaper :: pid() | #pending_reaper{}
}).

-type message() ::
    {Tag :: reference(), dead, pid()}
    | {Tag :: reference(), count, Name :: term(), gen_server:from()}.

-opaque server_state() :: #server_state{}.

%% A running cleaner.
-record(cleaner, {
    pid :: pid(),
    monitor :: reference(),
    timer :: reference(),
    registrations :: [registration()],
    %% Counts the registrations that are cleaned up.
    progress :: counters:counters_ref()
}).

%% What a cleaner needs after each cleanup.
-record(batch, {
    table :: module(),
    %% Counts the registrations that are cleaned up.
    progress :: counters:counters_ref(),
    %% When to stop, in microseconds of monotonic time.
    deadline :: integer(),
    %% The state of the cleaner before its first cleanup.
    initial_state :: [{atom(), term()}]
}).

%% No cleaner could be started. The next attempt is made when the timer expires.
-record(retry, {
    timer :: reference()
}).

-type registration() :: {pid(), Name :: term(), Announced :: boolean()}.

-record(reaper, {
    table :: module(),
    name :: atom(),
    tag :: reference(),
    server :: {pid(), Monitor :: reference()} | gone,
    owner :: {pid(), Monitor :: reference()},
    %% The monitor of the earlier reaper, while that is alive.
    predecessor :: reference() | gone,
    cleaner = none :: #cleaner{} | #retry{} | none,
    %% Whether it is logged that there is no free process for a cleaner.
    is_limit_logged = false :: boolean(),
    dead = queue:new() :: queue:queue(pid()),
    %% The dead processes that callers are still registering, with the monitors of these callers.
    registering = #{} :: #{pid() => [reference()]},
    %% Calls of count/3 that are not answered yet.
    counts = [] :: [{Name :: term(), gen_server:from()}]
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
%% the name `Name', and monitors all processes in the table.
-spec open({Table :: module(), Name :: atom()}, Owner :: pid()) -> server_state().
open({Table, Name}, Owner) ->
    ok = proctab_nif:processes_open(Table, Owner),
    Pending = #pending_reaper{name = Name, owner = Owner},
    State = start_reaper(#server_state{table = Table, tag = make_ref(), reaper = Pending}),
    watch_page(proctab_nif:processes_page(Table, 0), State),
    State.

%% Starts the reaper and sends it the messages that were kept for it, or retries later.
start_reaper(#server_state{reaper = #pending_reaper{} = Pending} = State) ->
    #server_state{table = Table, tag = Tag} = State,
    #pending_reaper{name = Name, owner = Owner, messages = Messages} = Pending,
    Arguments = {Table, Name, Tag, self(), Owner},
    case unless_full(fun() -> proc_lib:start(?MODULE, reap, [Arguments]) end) of
        {ok, Reaper} ->
            [ok = gen_server:cast(Reaper, Message) || Message <- lists:reverse(Messages)],
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
reply_counts(Table, #pending_reaper{messages = Messages} = Pending) ->
    {Counts, Dead} = lists:partition(fun(Message) -> element(2, Message) =:= count end, Messages),
    lists:foreach(fun({_Tag, count, Name, From}) -> reply_count(Table, Name, From) end, Counts),
    Pending#pending_reaper{messages = Dead}.

reply_count(Table, Name, From) ->
    gen_server:reply(From, proctab_nif:registered_count(Table, Name)).

watch_page({Pids, Next}, #server_state{table = Table} = State) ->
    lists:foreach(fun(Pid) -> watch(Pid, State) end, Pids),
    Next =:= done orelse watch_page(proctab_nif:processes_page(Table, Next), State),
    ok.

%% @doc Monitors a process for the server, if it is registered and not yet monitored.
-spec watch(pid(), server_state()) -> ok.
watch(Pid, #server_state{table = Table, tag = Tag}) ->
    _ = proctab_nif:claim(Table, Pid) andalso monitor(process, Pid, [{tag, Tag}]),
    ok.

%% @doc Returns whether a term is the state of a server of this library.
-spec is_server_state(term()) -> boolean().
is_server_state(State) ->
    is_record(State, server_state).

%% @doc Handles a message to the server: forwards the death of a process to the reaper, and ignores
%% unknown messages.
-spec handle_message(term(), server_state()) -> server_state().
handle_message({Tag, _Monitor, process, Pid, _Reason}, #server_state{tag = Tag} = State) ->
    send_to_reaper({Tag, dead, Pid}, State);
handle_message(
    {timeout, Timer, _}, #server_state{reaper = #pending_reaper{timer = Timer}} = State
) ->
    start_reaper(State);
handle_message(_Message, State) ->
    State.

%% @doc Makes the reaper reply to `From' with the number of registrations of a name. It replies
%% between cleanups.
-spec count(Name :: term(), gen_server:from(), server_state()) -> server_state().
count(Name, From, #server_state{tag = Tag} = State) ->
    send_to_reaper({Tag, count, Name, From}, State).

send_to_reaper(Message, #server_state{reaper = #pending_reaper{} = Pending} = State) ->
    Messages = [Message | Pending#pending_reaper.messages],
    State#server_state{reaper = Pending#pending_reaper{messages = Messages}};
send_to_reaper(Message, #server_state{reaper = Reaper} = State) ->
    gen_server:cast(Reaper, Message),
    State.

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
handle_cast({Tag, dead, Pid}, #reaper{tag = Tag} = Reaper) ->
    continue(enqueue(Pid, Reaper));
handle_cast({Tag, count, Name, From}, #reaper{tag = Tag, counts = Counts} = Reaper) ->
    continue(Reaper#reaper{counts = [{Name, From} | Counts]});
handle_cast(_Request, Reaper) ->
    {noreply, Reaper}.

-spec handle_info(term(), #reaper{}) -> result().
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

%% Takes back what a caller had begun to register for a dead process when it was killed.
abandon(Pid, Caller, #reaper{table = Table} = Reaper) ->
    with_table(
        fun() ->
            ok = proctab_nif:abandon(Table, Pid, Caller),
            continue(enqueue(Pid, Reaper))
        end,
        Reaper
    ).

enqueue(Pid, #reaper{dead = Dead} = Reaper) ->
    Reaper#reaper{dead = queue:in(Pid, Dead)}.

%% Decides what to do next: nothing while a cleaner runs, or while the earlier reaper is alive.
continue(#reaper{cleaner = #cleaner{}} = Reaper) ->
    {noreply, Reaper};
continue(#reaper{server = gone} = Reaper) ->
    {stop, normal, Reaper};
continue(#reaper{predecessor = gone, table = Table, counts = Counts} = Reaper) ->
    with_table(
        fun() ->
            lists:foreach(fun({Name, From}) -> reply_count(Table, Name, From) end, Counts),
            {noreply, clean_up(Reaper#reaper{counts = []})}
        end,
        Reaper
    );
continue(Reaper) ->
    {noreply, Reaper}.

%% Starts a cleaner for the next batch, if there is one.
clean_up(#reaper{cleaner = #retry{}} = Reaper) ->
    Reaper;
clean_up(Reaper) ->
    case next_batch(?BATCH_SIZE, [], Reaper) of
        {[], Next} -> Next;
        {Registrations, Next} -> start_cleaner(Registrations, Next)
    end.

%% Takes dead processes from the queue, and returns at most `Count' registrations, one of each
%% process. A process without registrations leaves the table and the queue.
next_batch(0, Batch, Reaper) ->
    {Batch, Reaper};
next_batch(Count, Batch, #reaper{table = Table, dead = Dead} = Reaper) ->
    case queue:out(Dead) of
        {empty, _} ->
            {Batch, Reaper};
        {{value, Pid}, Rest} ->
            Next = forget_callers(Pid, Reaper#reaper{dead = Rest}),
            %% A process may be in the queue twice.
            case lists:keymember(Pid, 1, Batch) orelse proctab_nif:next(Table, Pid) of
                {registered, Name, Announced} ->
                    next_batch(Count - 1, [{Pid, Name, Announced} | Batch], Next);
                {busy, Callers} ->
                    next_batch(Count, Batch, await_callers(Pid, Callers, Next));
                _DoneOrInBatch ->
                    next_batch(Count, Batch, Next)
            end
    end.

%% Monitors the callers that are still registering a dead process. A caller that finishes makes the
%% native function tell the server; a caller that is killed does not.
await_callers(Pid, Callers, #reaper{registering = Registering} = Reaper) ->
    Monitors = [monitor(process, Caller, [{tag, {busy, Pid}}]) || Caller <- Callers],
    Reaper#reaper{registering = Registering#{Pid => Monitors}}.

forget_callers(Pid, #reaper{registering = Registering} = Reaper) ->
    lists:foreach(fun(Monitor) -> demonitor(Monitor) end, maps:get(Pid, Registering, [])),
    Reaper#reaper{registering = maps:remove(Pid, Registering)}.

start_cleaner(Registrations, #reaper{table = Table} = Reaper) ->
    Progress = counters:new(1, []),
    Batch = #batch{
        table = Table,
        progress = Progress,
        deadline = erlang:monotonic_time(microsecond) + ?BATCH_TIME,
        initial_state = initial_state(self())
    },
    Steps = lists:append([steps(Registration, Batch) || Registration <- Registrations]),
    Start = fun() -> spawn_opt(lists, foreach, [fun ?MODULE:step/1, Steps], [link, monitor]) end,
    case unless_full(Start) of
        {Pid, Monitor} ->
            Cleaner = #cleaner{
                pid = Pid,
                monitor = Monitor,
                timer = erlang:start_timer(?CLEANER_TIMEOUT, self(), cleaner_timeout),
                registrations = Registrations,
                progress = Progress
            },
            Reaper#reaper{cleaner = Cleaner, is_limit_logged = false};
        full ->
            retry_cleaner(requeue(Registrations, Reaper))
    end.

steps({Pid, Name, Announced}, #batch{table = Table} = Batch) ->
    [{Table, clean, [Pid, Name, Announced]}, {?MODULE, cleaned, [Pid, Name, Batch]}].

retry_cleaner(#reaper{table = Table, is_limit_logged = IsLogged} = Reaper) ->
    IsLogged orelse log_limit(Table),
    Timer = erlang:start_timer(?RETRY_INTERVAL, self(), retry),
    Reaper#reaper{cleaner = #retry{timer = Timer}, is_limit_logged = true}.

%% A cleaner has ended. The processes in its batch may have more registrations.
cleaner_ended(Reason, #reaper{cleaner = Cleaner} = Reaper) ->
    #cleaner{timer = Timer, registrations = Registrations, progress = Progress} = Cleaner,
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    case lists:nthtail(counters:get(Progress, 1), Registrations) of
        [Failed | _] when Reason =/= Progress -> cleanup_failed(Failed, Reason, Reaper);
        _ -> ok
    end,
    requeue(Registrations, Reaper#reaper{cleaner = none}).

requeue(Registrations, #reaper{dead = Dead} = Reaper) ->
    First = fun({Pid, _Name, _Announced}, Queue) -> queue:in_r(Pid, Queue) end,
    Reaper#reaper{dead = lists:foldl(First, Dead, Registrations)}.

cleanup_failed({Pid, Name, _Announced}, Reason, #reaper{table = Table}) ->
    ok = proctab_nif:unregister(Table, Pid, Name),
    log(#{
        label => {Table, clean},
        what => "the cleanup after a dead process failed",
        process => Pid,
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

%% Runs one step of a cleaner, as a tail call: while a cleanup runs, the cleaner has no frame of
%% this module on its stack, which may then be replaced.
-spec step({module(), atom(), [term()]}) -> term().
step({Module, Function, Arguments}) ->
    apply(Module, Function, Arguments).

%% Ends a cleanup: removes its registration and counts it. Exits with `Progress' if the cleaner must
%% not start another cleanup.
-spec cleaned(pid(), Name :: term(), #batch{}) -> true.
cleaned(Pid, Name, #batch{table = Table, progress = Progress} = Batch) ->
    try
        ok = proctab_nif:unregister(Table, Pid, Name)
    catch
        %% The owner of the table has died.
        error:badarg -> exit(Progress)
    end,
    counters:add(Progress, 1, 1),
    may_continue(Batch) orelse exit(Progress).

%% Returns whether there is time for another cleanup, and the last one has left nothing behind that
%% could harm the next, such as a link to a process that crashes.
may_continue(#batch{deadline = Deadline, initial_state = InitialState}) ->
    erlang:monotonic_time(microsecond) < Deadline andalso
        process_info(self(), state_items()) =:= InitialState.

state_items() ->
    [links, monitors, trap_exit, message_queue_len, priority, group_leader].

%% Returns what `process_info/2' returns in a cleaner that has not run a cleanup yet.
initial_state(Reaper) ->
    Values = [[Reaper], [], false, 0, normal, group_leader()],
    lists:zip(state_items(), Values).
