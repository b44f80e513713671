%% @doc Watches stats_hero workers, and has their `request_id <=> pid' mapping cleaned up when they exit.
%%
%% This is a drop-in replacement for the module of the same name in the application `stats_hero'. When a registered process dies,
%% `stats_hero:clean_worker_data(Pid)' is called, once for each time that it was registered. When that crashes, it is logged, and no other cleanup suffers.
%%
%% Registrations are kept in a native table that belongs to the process that calls {@link start_link/0}, a supervisor. They survive a crash of the monitor: it
%% monitors all of the processes again when it is restarted. `proctab_reaper' does the cleaning; a monitor that is killed does not interrupt it.
-module(stats_hero_monitor).
-behaviour(gen_server).
-behaviour(proctab_reaper).

-export([start_link/0, register/1, registered_count/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([clean/3]).

-include("proctab_errors.hrl").

-define(REAPER, {?MODULE, stats_hero_monitor_reaper}).
%% The only name that processes are registered under.
-define(NAME, worker).

%% @doc Starts the monitor, registered locally under the name of this module. The registrations belong to the caller; they are the same ones when the monitor is
%% started again, for which a supervisor waits while the VM has no free process. Raises `system_limit'
%% when there is none for the first start.
-spec start_link() -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link() ->
    proctab_reaper:start_link(?MODULE).

%% @doc Registers a worker, and returns once it is monitored. A worker that registers twice counts twice. It may be dead already, or of another
%% node. `badarg' when `Pid' is no pid; exits as {@link gen_server:call/2} does when the monitor does not run.
-spec register(pid()) -> ok.
register(Pid) when is_pid(Pid) ->
    gen_server:call(?MODULE, {register, Pid});
register(Pid) ->
    ?BADARG([Pid]).

%% @doc How many registrations of live workers there are. Each counts until the cleanup that belongs to it has returned: whoever has seen what a cleanup undid reads
%% a number without that registration, and whoever has read the number finds it undone. So a worker that was registered twice counts once more when its mapping
%% is gone, until the second cleanup has returned. Exits as {@link gen_server:call/2} does when the monitor does not run.
-spec registered_count() -> non_neg_integer().
registered_count() ->
    gen_server:call(?MODULE, registered_count).

%% @private
-spec init(Owner :: pid()) -> {ok, proctab_reaper:watched()}.
init(Owner) ->
    {ok, proctab_reaper:open(?REAPER, Owner)}.

%% @private
-spec handle_call(term(), From :: term(), State) -> {reply, ok | unhandled, State} | {noreply, State} when
    State :: proctab_reaper:watched().
handle_call({register, Pid}, {_To, _Tag}, Watched) when is_pid(Pid) ->
    ok = proctab_nif:register(?MODULE, Pid, ?NAME),
    proctab_reaper:watch(Pid, Watched),
    {reply, ok, Watched};
handle_call(registered_count, {_To, _Tag} = From, Watched) ->
    {noreply, proctab_reaper:count(?NAME, From, Watched)};
handle_call(_Request, {_To, _Tag}, Watched) ->
    {reply, unhandled, Watched};
%% By answering nobody `gen_server' would crash.
handle_call(_Request, _From, Watched) ->
    {noreply, Watched}.

%% @private
-spec handle_cast(term(), State) -> {noreply, State} when State :: proctab_reaper:watched().
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
%% From a running original, whose state is anything else, all that it monitors is taken over ({@link proctab:load/0}).
-spec code_change(term(), term(), term()) -> {ok, proctab_reaper:watched()}.
code_change(_OldVersion, State, _Extra) ->
    case proctab_reaper:is_watched(State) of
        true -> {ok, State};
        false -> {ok, take_over()}
    end.

%% @private
-spec clean(pid(), worker, boolean()) -> term().
clean(Pid, ?NAME, _Announced) ->
    (stats_hero()):clean_worker_data(Pid).

%% An application that depends on this one's module, not the other way round, and is unknown to those who check this one's calls.
stats_hero() ->
    stats_hero.

%% The original's monitors are all that it knows, besides the deaths that it has been told of and not
%% handled. Its monitors stay; what they will tell is ignored.
take_over() ->
    Owner = proctab_reaper:parent(),
    ok = proctab_nif:processes_open(?MODULE, Owner),
    [{monitors, Monitors}, {messages, Messages}] = process_info(self(), [monitors, messages]),
    Dead = [Pid || {'DOWN', _, process, Pid, _} <- Messages, is_pid(Pid), may_be_dead(Pid)],
    Monitored = [Pid || {process, Pid} <- Monitors, is_pid(Pid)],
    lists:foreach(fun(Pid) -> ok = proctab_nif:register(?MODULE, Pid, ?NAME) end, Dead ++ Monitored),
    proctab_reaper:open(?REAPER, Owner).

%% Anybody could have sent such a message.
may_be_dead(Pid) ->
    node(Pid) =/= node() orelse not is_process_alive(Pid).
