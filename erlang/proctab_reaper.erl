%% @private
%% The deaths of the processes in a table of processes: how its server watches for them, and the process that cleans up after them.
%%
%% The server, a `gen_server' whose module names the table, too, monitors each process that is registered. It does nothing else with a death than to hand it to its
%% reaper, so that it answers at once whatever thousands of deaths and slow cleanups cost. The reaper sees to it that the registrations of the dead are undone,
%% one after the other.
%%
%% What a death undoes is done by `Module:clean/3', once for each registration. The registration goes after that, so whoever sees it gone finds all of it
%% done. The cleanups run in a process of their own, the *cleaner*, some at a time. So none of this library's code waits for one to return, and can be replaced
%% twice meanwhile. A cleanup that raises, or is killed because it has not returned for ten seconds, is logged and counts as done.
%%
%% A server that is killed does not interrupt a cleanup: its reaper learns of it by a link, waits for the one that is under way, and stops; the rest stays in
%% the table, where the next server finds it. The next reaper begins when the one before is gone, for which the reapers have a registered name.
%%
%% Monitors, and what the server sends to its reaper, carry a tag that nobody else knows, so no other message is taken for the death of a process.
-module(proctab_reaper).
-behaviour(gen_server).

-export([open/2, watch/2, is_watched/1, handle_down/2, count/3, parent/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([step/1, cleaned/5]).

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

%% What a server knows of its table.
-record(watched, {
    table :: module(),
    tag :: reference(),
    reaper :: pid()
}).

-opaque watched() :: #watched{}.

-record(cleaner, {
    pid :: pid(),
    monitor :: reference(),
    timer :: reference(),
    registrations :: [registration()],
    %% How many of them are undone.
    progress :: counters:counters_ref()
}).

-type registration() :: {pid(), Name :: term(), Announced :: boolean()}.

-record(reaper, {
    table :: module(),
    name :: atom(),
    tag :: reference(),
    server :: pid() | gone,
    owner :: {pid(), Monitor :: reference()},
    %% The monitor of the reaper before, until that is gone.
    predecessor :: reference() | gone,
    cleaner = none :: #cleaner{} | none,
    dead = queue:new() :: queue:queue(pid()),
    %% The dead who are just being announced, and the monitors of those who do it.
    busy = #{} :: #{pid() => [reference()]},
    %% Who waits for a number.
    asking = [] :: [{Name :: term(), gen_server:from()}]
}).

-type next() :: {noreply, #reaper{}} | {stop, normal | shutdown, #reaper{}}.

%% Makes the caller the server of its table, which belongs to `Owner', and watches all processes in it.
-spec open({Table :: module(), Reaper :: atom()}, Owner :: pid()) -> watched().
open({Table, Name}, Owner) ->
    ok = proctab_nif:processes_open(Table, Owner),
    Tag = make_ref(),
    %% Not the reaper's parent but its link: the end of the server is then a message, to which the reaper stops without a report.
    {ok, Reaper} = gen_server:start(?MODULE, {Table, Name, Tag, self(), Owner}, []),
    Watched = #watched{table = Table, tag = Tag, reaper = Reaper},
    watch_page(proctab_nif:processes_page(Table, 0), Watched),
    Watched.

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
-spec handle_down(term(), watched()) -> ok.
handle_down({Tag, _Monitor, process, Pid, _Reason}, #watched{tag = Tag, reaper = Reaper}) ->
    gen_server:cast(Reaper, {Tag, dead, Pid});
handle_down(_Message, _Watched) ->
    ok.

%% Has the reaper tell a caller of the server how many registrations a name has, at a moment when no cleanup is half done.
-spec count(Name :: term(), gen_server:from(), watched()) -> ok.
count(Name, From, #watched{tag = Tag, reaper = Reaper}) ->
    gen_server:cast(Reaper, {Tag, count, Name, From}).

%% The process that has started the calling one.
-spec parent() -> pid().
parent() ->
    case get('$ancestors') of
        [Pid | _] when is_pid(Pid) -> Pid;
        [Name | _] -> whereis(Name)
    end.

-spec init({Table :: module(), Name :: atom(), Tag :: reference(), Server :: pid(), Owner :: pid()}) -> {ok, #reaper{}}.
init({Table, Name, Tag, Server, Owner}) ->
    process_flag(trap_exit, true),
    link(Server),
    {ok, #reaper{table = Table, name = Name, tag = Tag, server = Server, owner = {Owner, monitor(process, Owner)}, predecessor = succeed(Name)}}.

succeed(Name) ->
    try register(Name, self()) of
        true -> gone
    catch
        error:badarg -> monitor(process, Name)
    end.

-spec handle_call(term(), gen_server:from(), #reaper{}) -> {reply, bad_call, #reaper{}}.
handle_call(_Request, _From, Reaper) ->
    {reply, bad_call, Reaper}.

-spec handle_cast(term(), #reaper{}) -> next().
handle_cast({Tag, dead, Pid}, #reaper{tag = Tag} = Reaper) ->
    go_on(add(Pid, Reaper));
handle_cast({Tag, count, Name, From}, #reaper{tag = Tag, asking = Asking} = Reaper) ->
    go_on(Reaper#reaper{asking = [{Name, From} | Asking]});
handle_cast(_Request, Reaper) ->
    {noreply, Reaper}.

-spec handle_info(term(), #reaper{}) -> next().
handle_info({'DOWN', Monitor, process, _, Reason}, #reaper{cleaner = #cleaner{monitor = Monitor} = Cleaner} = Reaper) ->
    with_table(fun() -> go_on(finish(Cleaner, Reason, Reaper#reaper{cleaner = none})) end, Reaper);
handle_info({timeout, Timer, patience}, #reaper{cleaner = #cleaner{timer = Timer, pid = Pid}} = Reaper) ->
    exit(Pid, kill),
    {noreply, Reaper};
handle_info({'EXIT', Server, _Reason}, #reaper{server = Server} = Reaper) ->
    go_on(Reaper#reaper{server = gone});
handle_info({'DOWN', Monitor, process, Owner, _Reason}, #reaper{owner = {Owner, Monitor}} = Reaper) ->
    {stop, shutdown, Reaper};
handle_info({'DOWN', Predecessor, process, _, _Reason}, #reaper{predecessor = Predecessor, name = Name, owner = {Owner, _}} = Reaper) ->
    case is_process_alive(Owner) of
        true -> go_on(Reaper#reaper{predecessor = succeed(Name)});
        %% It ended by that, too, and left a cleanup that was under way: which is not to be begun again, while the table is still there.
        false -> {stop, shutdown, Reaper}
    end;
handle_info({{busy, Pid}, _Monitor, process, Caller, _Reason}, #reaper{table = Table} = Reaper) ->
    with_table(fun() -> ok = proctab_nif:abandon(Table, Pid, Caller), go_on(add(Pid, Reaper)) end, Reaper);
handle_info(_Message, Reaper) ->
    {noreply, Reaper}.

%% A server without its reaper would be of no use, and not every end reaches it by the link.
-spec terminate(term(), #reaper{}) -> true.
terminate(_Reason, #reaper{server = Server}) ->
    Server =:= gone orelse exit(Server, shutdown).

-spec code_change(term(), #reaper{}, term()) -> {ok, #reaper{}}.
code_change(_OldVersion, Reaper, _Extra) ->
    {ok, Reaper}.

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
            lists:foreach(fun({Name, From}) -> gen_server:reply(From, proctab_nif:registered_count(Table, Name)) end, Asking),
            {noreply, clean(take(?PORTION, [], Reaper#reaper{asking = []}))}
        end,
        Reaper
    );
go_on(Reaper) ->
    {noreply, Reaper}.

%% One registration each of some of the dead. What is left of a process when nothing is registered is no work for a cleaner.
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
                {registered, Name, Announced} -> take(Count - 1, [{Pid, Name, Announced} | Taken], Next);
                {busy, Callers} -> take(Count, Taken, wait(Pid, Callers, Next));
                _DoneOrTaken -> take(Count, Taken, Next)
            end
    end.

%% The server is told when a caller is through that was announcing the process when it died. One that is killed in the middle will not tell.
wait(Pid, Callers, #reaper{busy = Busy} = Reaper) ->
    Reaper#reaper{busy = Busy#{Pid => [monitor(process, Caller, [{tag, {busy, Pid}}]) || Caller <- Callers]}}.

clean({[], Reaper}) ->
    Reaper;
clean({Registrations, #reaper{table = Table} = Reaper}) ->
    Progress = counters:new(1, []),
    Until = erlang:monotonic_time(microsecond) + ?TURN,
    Steps = [[{Table, clean, [Pid, Name, Announced]}, {?MODULE, cleaned, [Table, Pid, Name, Progress, Until]}] || {Pid, Name, Announced} <- Registrations],
    {Pid, Monitor} = spawn_opt(lists, foreach, [fun ?MODULE:step/1, lists:append(Steps)], [link, monitor]),
    Timer = erlang:start_timer(?PATIENCE, self(), patience),
    Reaper#reaper{cleaner = #cleaner{pid = Pid, monitor = Monitor, timer = Timer, registrations = Registrations, progress = Progress}}.

%% In the cleaner: a call that leaves no frame of this module behind.
-spec step({module(), atom(), [term()]}) -> term().
step({Module, Function, Arguments}) ->
    apply(Module, Function, Arguments).

%% In the cleaner, after a cleanup.
-spec cleaned(Table :: module(), pid(), Name :: term(), counters:counters_ref(), Until :: integer()) -> true.
cleaned(Table, Pid, Name, Progress, Until) ->
    try
        ok = proctab_nif:unregister(Table, Pid, Name)
    catch
        %% The table is closed, by the end of its owner.
        error:badarg -> exit(Progress)
    end,
    counters:add(Progress, 1, 1),
    erlang:monotonic_time(microsecond) < Until orelse exit(Progress).

%% The cleaner is at its end. Those that it had may have more registrations.
finish(#cleaner{timer = Timer, registrations = Registrations, progress = Progress}, Reason, #reaper{dead = Dead} = Reaper) ->
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    case lists:nthtail(counters:get(Progress, 1), Registrations) of
        [Failed | _] when Reason =/= Progress -> fail(Failed, Reason, Reaper);
        _ -> ok
    end,
    Reaper#reaper{dead = lists:foldl(fun({Pid, _, _}, Queue) -> queue:in_r(Pid, Queue) end, Dead, Registrations)}.

fail({Pid, Name, _Announced}, Reason, #reaper{table = Table}) ->
    ok = proctab_nif:unregister(Table, Pid, Name),
    ?LOG_ERROR(#{label => {Table, clean}, what => "cleaning up after a dead process failed", process => Pid, name => Name, reason => Reason}).

%% The table may be closed at any time, by the end of its owner.
with_table(Run, Reaper) ->
    try
        Run()
    catch
        error:badarg -> {stop, shutdown, Reaper}
    end.
