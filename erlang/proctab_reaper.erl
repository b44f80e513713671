%% @private
%% The deaths of the processes in a table of processes: how its server watches for them, and the
%% process that cleans up after them.
%%
%% The server, a `gen_server' whose module names the table, too, monitors each process that is
%% registered. It does nothing else with a death than to hand it to its reaper, so that it answers
%% at once whatever thousands of deaths and slow cleanups cost. The reaper sees to it that the
%% registrations of the dead are undone, one after the other.
%%
%% What a death undoes is done by `Module:clean/3', once for each registration. The registration
%% goes after that, so whoever sees it gone finds all of it done. The cleanups run in a process of
%% their own, the *cleaner*, some at a time. So none of this library's code waits for one to return,
%% and can be replaced twice meanwhile. A cleanup that raises, or is killed because it has not
%% returned for ten seconds, is logged and counts as done.
%%
%% A server that is killed does not interrupt a cleanup: its reaper learns of it by a monitor, waits
%% for the one that is under way, and stops; the rest stays in the table, where the next server
%% finds it. The next reaper begins when the one before is gone, for which the reapers have a
%% registered name.
%%
%% No message of a stranger changes anything. The death of a process has a tag that only the server
%% and its reaper know, as has what the server sends to its reaper; timers and all other monitors
%% are known to nobody but the process that has made them. The native functions tell the server of a
%% process by a message that anybody could send: it is checked against the table.
%%
%% When the VM has no free process, whatever takes one is tried again after a short while. A server
%% without a reaper keeps what it has to tell it; a reaper without a cleaner keeps the dead; and the
%% owner of the table, a supervisor, waits in `start_link/1', since each try that fails would count
%% as a restart and end it, and the table with it.
-module(proctab_reaper).
-behaviour(gen_server).

-export([start_link/1, open/2, watch/2, is_watched/1, handle_message/2, count/3, parent/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([reap/1, step/1, cleaned/3]).

-export_type([watched/0]).

-include_lib("kernel/include/logger.hrl").

%% Undoes a registration of a dead process, that was announced or not.
-callback clean(pid(), Name :: term(), Announced :: boolean()) -> term().

%% How many registrations a cleaner is given at most, each of another process.
-define(PORTION, 32).
%% How long it begins another cleanup, in microseconds: whoever asks for a number waits that long.
-define(TURN, 500).
%% How long it may take in all, in milliseconds.
-define(PATIENCE, 10000).
%% How long a reaper that ends waits for its cleaner, which it has killed, to end, in milliseconds.
-define(LAST_PATIENCE, 1000).
%% How long to wait for a free process before the next try, in milliseconds.
-define(PAUSE, 50).

%% The reaper that a server has to start when there is a free process.
-record(awaited, {
    name :: atom(),
    owner :: pid(),
    timer :: reference() | undefined,
    %% What it will be sent, the latest first.
    messages = [] :: [message()]
}).

%% What a server knows of its table.
-record(watched, {
    table :: module(),
    tag :: reference(),
    reaper :: pid() | #awaited{}
}).

-type message() ::
    {Tag :: reference(), dead, pid()}
    | {Tag :: reference(), count, Name :: term(), gen_server:from()}.

-opaque watched() :: #watched{}.

-record(cleaner, {
    pid :: pid(),
    monitor :: reference(),
    timer :: reference(),
    registrations :: [registration()],
    %% How many of them are undone.
    progress :: counters:counters_ref()
}).

%% What a cleaner has to know after each cleanup.
-record(turn, {
    table :: module(),
    %% How many registrations are undone.
    progress :: counters:counters_ref(),
    %% When it does not begin another cleanup any more, in microseconds.
    until :: integer(),
    %% Its state before the first cleanup.
    fresh :: [{atom(), term()}]
}).

%% No cleaner could be started, and none is before this timer is up.
-record(pause, {
    timer :: reference()
}).

-type registration() :: {pid(), Name :: term(), Announced :: boolean()}.

-record(reaper, {
    table :: module(),
    name :: atom(),
    tag :: reference(),
    server :: {pid(), Monitor :: reference()} | gone,
    owner :: {pid(), Monitor :: reference()},
    %% The monitor of the reaper before, until that is gone.
    predecessor :: reference() | gone,
    cleaner = none :: #cleaner{} | #pause{} | none,
    %% There was no free process for the last cleaner, which is in the log.
    is_full = false :: boolean(),
    dead = queue:new() :: queue:queue(pid()),
    %% The dead who are just being announced, and the monitors of those who do it.
    busy = #{} :: #{pid() => [reference()]},
    %% Who waits for a number.
    asking = [] :: [{Name :: term(), gen_server:from()}]
}).

-type arguments() ::
    {Table :: module(), Name :: atom(), Tag :: reference(), Server :: pid(), Owner :: pid()}.

-type next() :: {noreply, #reaper{}} | {stop, normal | shutdown, #reaper{}}.

%% Starts the server of a table, registered under the table's name. Raises `system_limit' when there
%% is no free process, as `gen_server:start_link/4' does, unless the caller owns the table: then it
%% waits for one, or for its parent to tell it to end.
-spec start_link(Table :: module()) -> {ok, pid()} | {error, term()}.
start_link(Table) ->
    case try_server(Table) of
        full ->
            is_owned(Table) orelse error(system_limit),
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
    after ?PAUSE ->
        case try_server(Table) of
            full -> await_server(Table, Parent);
            Result -> Result
        end
    end.

try_server(Table) ->
    if_room(fun() -> gen_server:start_link({local, Table}, Table, self(), []) end).

is_owned(Table) ->
    lists:member({processes, Table, self()}, proctab_nif:tables()).

%% Calls what starts a process, if there is room for one. The VM writes to the log for each that it
%% refuses, so it is not asked in vain.
if_room(Start) ->
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
        what => "there is no free process: waiting for one, nothing is lost",
        limit => erlang:system_info(process_limit)
    }).

%% A handler of the log that crashes is removed by a new process; without one this would raise.
log(Report) ->
    try
        ?LOG_ERROR(Report)
    catch
        error:system_limit -> ok
    end.

%% Makes the caller the server of its table, which belongs to `Owner', and watches all processes in
%% it.
-spec open({Table :: module(), Reaper :: atom()}, Owner :: pid()) -> watched().
open({Table, Name}, Owner) ->
    ok = proctab_nif:processes_open(Table, Owner),
    Awaited = #awaited{name = Name, owner = Owner},
    Watched = start_reaper(#watched{table = Table, tag = make_ref(), reaper = Awaited}),
    watch_page(proctab_nif:processes_page(Table, 0), Watched),
    Watched.

%% It is told what has happened meanwhile.
start_reaper(#watched{table = Table, tag = Tag, reaper = #awaited{} = Awaited} = Watched) ->
    #awaited{name = Name, owner = Owner, messages = Messages} = Awaited,
    Arguments = {Table, Name, Tag, self(), Owner},
    case if_room(fun() -> proc_lib:start(?MODULE, reap, [Arguments]) end) of
        {ok, Reaper} ->
            [ok = gen_server:cast(Reaper, Message) || Message <- lists:reverse(Messages)],
            Watched#watched{reaper = Reaper};
        _FullOrKilled ->
            %% Nobody else would notice.
            is_process_alive(Owner) orelse exit(shutdown),
            Watched#watched{reaper = await_reaper(Table, Awaited)}
    end.

await_reaper(Table, #awaited{name = Name, timer = Before} = Awaited) ->
    Before =:= undefined andalso log_limit(Table),
    Timer = erlang:start_timer(?PAUSE, self(), start_reaper),
    Waiting = Awaited#awaited{timer = Timer},
    case whereis(Name) of
        undefined -> answer(Table, Waiting);
        %% The reaper before may be in the middle of a cleanup.
        _Predecessor -> Waiting
    end.

%% Answers those who ask for a number, while nobody cleans up.
answer(Table, #awaited{messages = Messages} = Awaited) ->
    {Counts, Dead} = lists:partition(fun(Message) -> element(2, Message) =:= count end, Messages),
    lists:foreach(fun({_Tag, count, Name, From}) -> reply_count(Table, Name, From) end, Counts),
    Awaited#awaited{messages = Dead}.

reply_count(Table, Name, From) ->
    gen_server:reply(From, proctab_nif:registered_count(Table, Name)).

watch_page({Pids, Next}, #watched{table = Table} = Watched) ->
    lists:foreach(fun(Pid) -> watch(Pid, Watched) end, Pids),
    Next =:= done orelse watch_page(proctab_nif:processes_page(Table, Next), Watched),
    ok.

%% Watches a process that is registered, if the server does not do so already.
-spec watch(pid(), watched()) -> ok.
watch(Pid, #watched{table = Table, tag = Tag}) ->
    _ = proctab_nif:claim(Table, Pid) andalso monitor(process, Pid, [{tag, Tag}]),
    ok.

-spec is_watched(term()) -> boolean().
is_watched(State) ->
    is_record(State, watched).

%% Hands the death of a process to the reaper; other messages are ignored.
-spec handle_message(term(), watched()) -> watched().
handle_message({Tag, _Monitor, process, Pid, _Reason}, #watched{tag = Tag} = Watched) ->
    tell({Tag, dead, Pid}, Watched);
handle_message({timeout, Timer, _}, #watched{reaper = #awaited{timer = Timer}} = Watched) ->
    start_reaper(Watched);
handle_message(_Message, Watched) ->
    Watched.

%% Has the reaper tell a caller of the server how many registrations a name has, at a moment when no
%% cleanup is half done.
-spec count(Name :: term(), gen_server:from(), watched()) -> watched().
count(Name, From, #watched{tag = Tag} = Watched) ->
    tell({Tag, count, Name, From}, Watched).

tell(Message, #watched{reaper = #awaited{messages = Messages} = Awaited} = Watched) ->
    Watched#watched{reaper = Awaited#awaited{messages = [Message | Messages]}};
tell(Message, #watched{reaper = Reaper} = Watched) ->
    gen_server:cast(Reaper, Message),
    Watched.

%% The process that has started the calling one, if that is known.
-spec parent() -> pid() | undefined.
parent() ->
    case get('$ancestors') of
        [Pid | _] when is_pid(Pid) -> Pid;
        [Name | _] -> whereis(Name);
        undefined -> undefined
    end.

%% A reaper. Any `gen_server' ends by a message that its parent has ended, whoever has sent that; so
%% this one has a parent that nobody knows.
-spec reap(arguments()) -> no_return().
reap({_Table, _Name, _Tag, Server, _Owner} = Arguments) ->
    {ok, Reaper} = init(Arguments),
    _ = put('$ancestors', [nobody() | get('$ancestors')]),
    _ = put('$initial_call', {?MODULE, init, 1}),
    proc_lib:init_ack(Server, {ok, self()}),
    gen_server:enter_loop(?MODULE, [], Reaper).

%% The pid of no process, that cannot be guessed: one of another life of this node.
nobody() ->
    Node = atom_to_binary(node()),
    {Secret, _} = rand:uniform_s(1 bsl 58, rand:seed_s(exsss)),
    OtherLife = 1 + erlang:system_info(creation) rem 16#FFFFFFFE,
    binary_to_term(<<131, 88, 118, (byte_size(Node)):16, Node/binary, Secret:64, OtherLife:32>>).

%% The link is for the server, which must not outlive its reaper.
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
        predecessor = succeed(Name)
    }}.

succeed(Name) ->
    try register(Name, self()) of
        true -> gone
    catch
        error:badarg -> monitor(process, Name)
    end.

-spec handle_call(term(), From :: term(), #reaper{}) -> {reply, bad_call, #reaper{}} | next().
handle_call(_Request, {_To, _Tag}, Reaper) ->
    {reply, bad_call, Reaper};
%% By answering nobody `gen_server' would crash.
handle_call(_Request, _From, Reaper) ->
    {noreply, Reaper}.

-spec handle_cast(term(), #reaper{}) -> next().
handle_cast({Tag, dead, Pid}, #reaper{tag = Tag} = Reaper) ->
    go_on(add(Pid, Reaper));
handle_cast({Tag, count, Name, From}, #reaper{tag = Tag, asking = Asking} = Reaper) ->
    go_on(Reaper#reaper{asking = [{Name, From} | Asking]});
handle_cast(_Request, Reaper) ->
    {noreply, Reaper}.

-spec handle_info(term(), #reaper{}) -> next().
handle_info(
    {'DOWN', Monitor, process, _, Reason}, #reaper{cleaner = #cleaner{monitor = Monitor}} = Reaper
) ->
    with_table(fun() -> go_on(finish(Reason, Reaper)) end, Reaper);
handle_info({timeout, Timer, patience}, #reaper{cleaner = #cleaner{timer = Timer}} = Reaper) ->
    exit(Reaper#reaper.cleaner#cleaner.pid, kill),
    {noreply, Reaper};
handle_info({timeout, Timer, pause}, #reaper{cleaner = #pause{timer = Timer}} = Reaper) ->
    go_on(Reaper#reaper{cleaner = none});
handle_info({'DOWN', Monitor, process, _, _Reason}, #reaper{server = {_, Monitor}} = Reaper) ->
    go_on(Reaper#reaper{server = gone});
handle_info({'DOWN', Monitor, process, _, _Reason}, #reaper{owner = {_, Monitor}} = Reaper) ->
    {stop, shutdown, Reaper};
handle_info({'DOWN', Monitor, process, _, _Reason}, #reaper{predecessor = Monitor} = Reaper) ->
    #reaper{name = Name, owner = {Owner, _}} = Reaper,
    case is_process_alive(Owner) of
        true -> go_on(Reaper#reaper{predecessor = succeed(Name)});
        %% It ended by that, too, and left a cleanup that was under way: which is not to be begun
        %% again, while the table is still there.
        false -> {stop, shutdown, Reaper}
    end;
handle_info({{busy, Pid}, Monitor, process, Caller, _Reason}, #reaper{busy = Busy} = Reaper) ->
    case lists:member(Monitor, maps:get(Pid, Busy, [])) of
        true -> abandon(Pid, Caller, Reaper);
        false -> {noreply, Reaper}
    end;
handle_info(_Message, Reaper) ->
    {noreply, Reaper}.

%% A server without its reaper would be of no use, and not every end reaches it by the link. Nor
%% does one reach a cleaner in which a cleanup has ended the link, or traps exits; it is dead when
%% the name of the reaper is free for the next one.
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
    after ?LAST_PATIENCE -> true
    end;
stop_cleaner(_NoCleaner) ->
    true.

-spec code_change(term(), #reaper{}, term()) -> {ok, #reaper{}}.
code_change(_OldVersion, Reaper, _Extra) ->
    {ok, Reaper}.

%% The caller was killed in the middle of registering the dead process.
abandon(Pid, Caller, #reaper{table = Table} = Reaper) ->
    with_table(
        fun() ->
            ok = proctab_nif:abandon(Table, Pid, Caller),
            go_on(add(Pid, Reaper))
        end,
        Reaper
    ).

add(Pid, #reaper{dead = Dead} = Reaper) ->
    Reaper#reaper{dead = queue:in(Pid, Dead)}.

%% Whatever there is to do, when no cleanup is under way.
go_on(#reaper{cleaner = #cleaner{}} = Reaper) ->
    {noreply, Reaper};
go_on(#reaper{server = gone} = Reaper) ->
    {stop, normal, Reaper};
go_on(#reaper{predecessor = gone, table = Table, asking = Asking} = Reaper) ->
    with_table(
        fun() ->
            lists:foreach(fun({Name, From}) -> reply_count(Table, Name, From) end, Asking),
            {noreply, clean(Reaper#reaper{asking = []})}
        end,
        Reaper
    );
go_on(Reaper) ->
    {noreply, Reaper}.

%% One registration each of some of the dead. What is left of a process when nothing is registered
%% is no work for a cleaner.
take(0, Taken, Reaper) ->
    {Taken, Reaper};
take(Count, Taken, #reaper{table = Table, dead = Dead, busy = Busy} = Reaper) ->
    case queue:out(Dead) of
        {empty, _} ->
            {Taken, Reaper};
        {{value, Pid}, Rest} ->
            lists:foreach(fun(Monitor) -> demonitor(Monitor) end, maps:get(Pid, Busy, [])),
            Next = Reaper#reaper{dead = Rest, busy = maps:remove(Pid, Busy)},
            %% The server may have been told twice of the same death.
            case lists:keymember(Pid, 1, Taken) orelse proctab_nif:next(Table, Pid) of
                {registered, Name, Announced} ->
                    take(Count - 1, [{Pid, Name, Announced} | Taken], Next);
                {busy, Callers} ->
                    take(Count, Taken, wait(Pid, Callers, Next));
                _DoneOrTaken ->
                    take(Count, Taken, Next)
            end
    end.

%% The server is told when a caller is through that was announcing the process when it died. One
%% that is killed in the middle will not tell.
wait(Pid, Callers, #reaper{busy = Busy} = Reaper) ->
    Monitors = [monitor(process, Caller, [{tag, {busy, Pid}}]) || Caller <- Callers],
    Reaper#reaper{busy = Busy#{Pid => Monitors}}.

clean(#reaper{cleaner = #pause{}} = Reaper) ->
    Reaper;
clean(Reaper) ->
    case take(?PORTION, [], Reaper) of
        {[], Next} -> Next;
        {Registrations, Next} -> start_cleaner(Registrations, Next)
    end.

start_cleaner(Registrations, #reaper{table = Table} = Reaper) ->
    Progress = counters:new(1, []),
    Until = erlang:monotonic_time(microsecond) + ?TURN,
    Turn = #turn{table = Table, progress = Progress, until = Until, fresh = fresh(self())},
    Steps = lists:append([steps(Registration, Turn) || Registration <- Registrations]),
    Start = fun() -> spawn_opt(lists, foreach, [fun ?MODULE:step/1, Steps], [link, monitor]) end,
    case if_room(Start) of
        {Pid, Monitor} ->
            Cleaner = #cleaner{
                pid = Pid,
                monitor = Monitor,
                timer = erlang:start_timer(?PATIENCE, self(), patience),
                registrations = Registrations,
                progress = Progress
            },
            Reaper#reaper{cleaner = Cleaner, is_full = false};
        full ->
            pause(put_back(Registrations, Reaper))
    end.

steps({Pid, Name, Announced}, #turn{table = Table} = Turn) ->
    [{Table, clean, [Pid, Name, Announced]}, {?MODULE, cleaned, [Pid, Name, Turn]}].

pause(#reaper{table = Table, is_full = IsFull} = Reaper) ->
    IsFull orelse log_limit(Table),
    Timer = erlang:start_timer(?PAUSE, self(), pause),
    Reaper#reaper{cleaner = #pause{timer = Timer}, is_full = true}.

%% In the cleaner: a call that leaves no frame of this module behind.
-spec step({module(), atom(), [term()]}) -> term().
step({Module, Function, Arguments}) ->
    apply(Module, Function, Arguments).

%% In the cleaner, after a cleanup.
-spec cleaned(pid(), Name :: term(), #turn{}) -> true.
cleaned(Pid, Name, #turn{table = Table, progress = Progress} = Turn) ->
    try
        ok = proctab_nif:unregister(Table, Pid, Name)
    catch
        %% The table is closed, by the end of its owner.
        error:badarg -> exit(Progress)
    end,
    counters:add(Progress, 1, 1),
    may_go_on(Turn) orelse exit(Progress).

%% Whether there is time for another cleanup, and this one has left nothing in the process that
%% could do harm to the next: a link, for example, to a process that crashes.
may_go_on(#turn{until = Until, fresh = Fresh}) ->
    erlang:monotonic_time(microsecond) < Until andalso process_info(self(), items()) =:= Fresh.

items() ->
    [links, monitors, trap_exit, message_queue_len, priority, group_leader].

%% The items of a cleaner of this reaper that has done nothing yet.
fresh(Reaper) ->
    Values = [[Reaper], [], false, 0, normal, group_leader()],
    lists:zip(items(), Values).

%% The cleaner is at its end. Those that it had may have more registrations.
finish(Reason, #reaper{cleaner = Cleaner} = Reaper) ->
    #cleaner{timer = Timer, registrations = Registrations, progress = Progress} = Cleaner,
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    case lists:nthtail(counters:get(Progress, 1), Registrations) of
        [Failed | _] when Reason =/= Progress -> fail(Failed, Reason, Reaper);
        _ -> ok
    end,
    put_back(Registrations, Reaper#reaper{cleaner = none}).

put_back(Registrations, #reaper{dead = Dead} = Reaper) ->
    First = fun({Pid, _Name, _Announced}, Queue) -> queue:in_r(Pid, Queue) end,
    Reaper#reaper{dead = lists:foldl(First, Dead, Registrations)}.

fail({Pid, Name, _Announced}, Reason, #reaper{table = Table}) ->
    ok = proctab_nif:unregister(Table, Pid, Name),
    log(#{
        label => {Table, clean},
        what => "cleaning up after a dead process failed",
        process => Pid,
        name => Name,
        reason => Reason
    }).

%% The table may be closed at any time, by the end of its owner.
with_table(Run, Reaper) ->
    try
        Run()
    catch
        error:badarg -> {stop, shutdown, Reaper}
    end.
