%% @private
%% The deaths of the processes in a table of processes: how its server watches for them, and the process that cleans up after them.
%%
%% The server, a `gen_server' whose module names the table, too, monitors each process that is registered. It does nothing else with a death than to hand it to its
%% reaper, so that it answers at once whatever thousands of deaths and slow cleanups cost. The reaper undoes the registrations of the dead, one by
%% one, and answers between two of them.
%%
%% What a death undoes is done by `Module:clean/3', once for each registration. The registration goes after that, so whoever sees it gone finds all of it
%% done. A server that is killed cannot interrupt the two: its reaper learns of it by a link, finishes the one that it is at, and stops; the rest stays in
%% the table, where the next server finds it. The next reaper begins when the one before is gone, for which the reapers have a registered name.
%%
%% Monitors carry a tag that nobody else knows, so no other message is taken for the death of a process.
-module(proctab_reaper).
-behaviour(gen_server).

-export([open/2, watch/2, is_watched/1, handle_down/2, count/3, parent/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).

-export_type([watched/0]).

-include_lib("kernel/include/logger.hrl").

%% Undoes a registration of a dead process, that was announced or not.
-callback clean(pid(), Name :: term(), Announced :: boolean()) -> term().

%% How long the reaper goes on without looking for messages, in microseconds; one cleanup may take longer.
-define(TURN, 500).

%% What a server knows of its table.
-record(watched, {
    table :: module(),
    tag :: reference(),
    reaper :: pid()
}).

-opaque watched() :: #watched{}.

-record(reaper, {
    table :: module(),
    name :: atom(),
    server :: pid(),
    owner :: reference(),
    dead = queue:new() :: queue:queue(pid()),
    %% The dead who are just being announced, and the monitors of those who do it.
    busy = #{} :: #{pid() => [reference()]}
}).

-type next() :: {noreply, #reaper{}} | {noreply, #reaper{}, 0} | {stop, normal | shutdown, #reaper{}}.

%% Makes the caller the server of its table, which belongs to `Owner', and watches all processes in it.
-spec open({Table :: module(), Reaper :: atom()}, Owner :: pid()) -> watched().
open({Table, Name}, Owner) ->
    ok = proctab_nif:processes_open(Table, Owner),
    %% Not the reaper's parent but its link: the end of the server is then a message, to which the reaper stops without a report.
    {ok, Reaper} = gen_server:start(?MODULE, {Table, Name, self(), Owner}, []),
    Watched = #watched{table = Table, tag = make_ref(), reaper = Reaper},
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
    gen_server:cast(Reaper, {dead, Pid});
handle_down(_Message, _Watched) ->
    ok.

%% Has the reaper tell a caller of the server how many registrations a name has, at a moment when no cleanup is half done.
-spec count(Name :: term(), gen_server:from(), watched()) -> ok.
count(Name, From, #watched{reaper = Reaper}) ->
    gen_server:cast(Reaper, {count, Name, From}).

%% The process that has started the calling one.
-spec parent() -> pid().
parent() ->
    case get('$ancestors') of
        [Pid | _] when is_pid(Pid) -> Pid;
        [Name | _] -> whereis(Name)
    end.

-spec init({Table :: module(), Name :: atom(), Server :: pid(), Owner :: pid()}) -> {ok, #reaper{}, {continue, succeed}}.
init({Table, Name, Server, Owner}) ->
    process_flag(trap_exit, true),
    link(Server),
    {ok, #reaper{table = Table, name = Name, server = Server, owner = monitor(process, Owner)}, {continue, succeed}}.

-spec handle_continue(succeed, #reaper{}) -> next().
handle_continue(succeed, #reaper{name = Name, server = Server} = Reaper) ->
    try register(Name, self()) of
        true -> {noreply, Reaper}
    catch
        error:badarg ->
            Predecessor = monitor(process, Name),
            receive
                {'DOWN', Predecessor, process, _, _} -> handle_continue(succeed, Reaper);
                {'EXIT', Server, _} -> {stop, normal, Reaper}
            end
    end.

-spec handle_call(term(), gen_server:from(), #reaper{}) -> {reply, bad_call, #reaper{}, 0}.
handle_call(_Request, _From, Reaper) ->
    {reply, bad_call, Reaper, 0}.

-spec handle_cast(term(), #reaper{}) -> next().
handle_cast({dead, Pid}, Reaper) ->
    %% All that waits comes in before anything is cleaned up, so that no question waits behind it.
    {noreply, add(Pid, Reaper), 0};
handle_cast({count, Name, From}, #reaper{table = Table} = Reaper) ->
    with_table(fun() -> gen_server:reply(From, proctab_nif:registered_count(Table, Name)), reap(Reaper) end, Reaper);
handle_cast(_Request, Reaper) ->
    reap(Reaper).

-spec handle_info(term(), #reaper{}) -> next().
handle_info({'EXIT', Server, _Reason}, #reaper{server = Server} = Reaper) ->
    {stop, normal, Reaper};
handle_info({'DOWN', Owner, process, _, _Reason}, #reaper{owner = Owner} = Reaper) ->
    stop_server(Reaper);
handle_info({{busy, Pid}, _Monitor, process, Caller, _Reason}, #reaper{table = Table} = Reaper) ->
    with_table(fun() -> ok = proctab_nif:abandon(Table, Pid, Caller), reap(add(Pid, Reaper)) end, Reaper);
handle_info(_TimeoutOrOther, Reaper) ->
    reap(Reaper).

add(Pid, #reaper{dead = Dead} = Reaper) ->
    Reaper#reaper{dead = queue:in(Pid, Dead)}.

%% Undoes registrations for a while, and comes back for the next when there is no message to be handled before.
reap(Reaper) ->
    with_table(fun() -> reap(Reaper, erlang:monotonic_time(microsecond) + ?TURN) end, Reaper).

reap(#reaper{dead = Dead} = Reaper, Until) ->
    case queue:peek(Dead) of
        empty ->
            {noreply, Reaper};
        {value, Pid} ->
            Rest = reap_next(Pid, Reaper),
            case erlang:monotonic_time(microsecond) < Until of
                true -> reap(Rest, Until);
                false -> {noreply, Rest, 0}
            end
    end.

reap_next(Pid, #reaper{table = Table, dead = Dead, busy = Busy} = Reaper) ->
    case proctab_nif:next(Table, Pid) of
        {registered, Name, Announced} ->
            clean(Table, Pid, Name, Announced),
            ok = proctab_nif:unregister(Table, Pid, Name),
            Reaper;
        Other ->
            lists:foreach(fun(Monitor) -> demonitor(Monitor) end, maps:get(Pid, Busy, [])),
            Reaper#reaper{dead = queue:drop(Dead), busy = wait(Other, Pid, maps:remove(Pid, Busy))}
    end.

%% The server is told when a caller is through that was announcing the process when it died. One that is killed in the middle will not tell.
wait({busy, Callers}, Pid, Busy) ->
    Busy#{Pid => [monitor(process, Caller, [{tag, {busy, Pid}}]) || Caller <- Callers]};
wait(done, _Pid, Busy) ->
    Busy.

clean(Table, Pid, Name, Announced) ->
    try
        Table:clean(Pid, Name, Announced)
    catch
        Class:Reason:Stack ->
            ?LOG_ERROR(#{label => {Table, clean}, what => "cleaning up after a dead process failed", process => Pid, name => Name,
                         class => Class, reason => Reason, stacktrace => Stack})
    end.

%% The table may be closed at any time, by the end of its owner.
with_table(Run, Reaper) ->
    try
        Run()
    catch
        error:badarg -> stop_server(Reaper)
    end.

%% A server without a table would be of no use; not every end of an owner reaches it by itself.
stop_server(Reaper) ->
    {stop, shutdown, Reaper}.
