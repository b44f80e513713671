%% @doc Monitors stats_hero workers, and removes their `request_id <=> pid' mappings when they exit.
%%
%% This module is a drop-in replacement for the module of the same name in the application
%% `stats_hero'. When a registered process dies, `stats_hero:clean_worker_data(Pid)' is called, once
%% for each of its registrations. A call that fails is logged and affects no other cleanup.
%%
%% Registrations are stored in a native table that belongs to the process that calls
%% {@link start_link/0}, a supervisor, so they survive a crash of the monitor. The table monitors
%% the processes, and {@link register/1} sends no message; the monitor itself monitors only
%% processes of other nodes. `proctab_reaper' runs the cleanups, which continue while a killed
%% monitor is restarted.
-module(stats_hero_monitor).
-behaviour(gen_server).
-behaviour(proctab_reaper).

-export([start_link/0, register/1, registered_count/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).
-export([clean/3]).

-include("proctab_errors.hrl").

-define(REAPER, {?MODULE, stats_hero_monitor_reaper}).
%% All processes are registered under this name.
-define(NAME, worker).

%% @doc Starts the monitor, registered locally under the name of this module. The registrations
%% belong to the caller. If the caller starts the monitor again, the new monitor continues with the
%% same registrations.
%%
%% If the VM has no free process, the first start raises `system_limit'. A later start waits for
%% one.
-spec start_link() -> {ok, pid()} | {error, {already_started, pid()} | term()}.
start_link() ->
    proctab_reaper:start_link(?MODULE).

%% @doc Registers a worker, and returns once it is monitored. A worker that registers twice counts
%% twice. It may be dead already, or of another node.
%%
%% Raises `badarg' if `Pid' is not a pid. Exits as {@link gen_server:call/2} does if the monitor
%% does not run.
-spec register(pid()) -> ok.
register(Pid) when is_pid(Pid) ->
    case proctab_nif:try_register(?MODULE, Pid, ?NAME) of
        true -> ok;
        %% A process of another node, or there is no monitor, or `proctab:load/0' holds the table.
        false -> gen_server:call(?MODULE, {register, Pid})
    end;
register(Pid) ->
    ?BADARG([Pid]).

%% @doc Returns the number of registrations.
%%
%% A registration of a dead worker counts until its cleanup has returned, and the number is read
%% between cleanups: a result without the registration means that the cleanup is done, and once the
%% effect of a cleanup is visible the result is without the registration. A worker that was
%% registered twice is cleaned up twice, so its mapping is gone while the second registration still
%% counts.
%%
%% Exits as {@link gen_server:call/2} does if the monitor does not run.
-spec registered_count() -> non_neg_integer().
registered_count() ->
    gen_server:call(?MODULE, registered_count).

%% @private
-spec init(Owner :: pid()) -> {ok, proctab_reaper:server_state()}.
init(Owner) ->
    {ok, proctab_reaper:open(?REAPER, Owner)}.

%% @private
-spec handle_call(term(), From :: term(), State) ->
          {reply, ok | unhandled, State} | {noreply, State} when
      State :: proctab_reaper:server_state().
handle_call({register, Pid}, {_To, _Tag}, State) when is_pid(Pid) ->
    ok = proctab_nif:register(?MODULE, Pid, ?NAME),
    proctab_reaper:watch(Pid, State),
    {reply, ok, State};
handle_call(registered_count, {_To, _Tag} = From, State) ->
    {noreply, proctab_reaper:count(?NAME, From, State)};
handle_call(_Request, {_To, _Tag}, State) ->
    {reply, unhandled, State};
%% A forged `From': `gen_server' would crash on a reply to it.
handle_call(_Request, _From, State) ->
    {noreply, State}.

%% @private
-spec handle_cast(term(), State) -> {noreply, State} when State :: proctab_reaper:server_state().
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
%% Takes over all processes that the original monitors, if the state is not one of this library:
%% {@link proctab:load/0} has replaced the code of a running original.
-spec code_change(term(), term(), term()) -> {ok, proctab_reaper:server_state()}.
code_change(_OldVersion, State, _Extra) ->
    case proctab_reaper:is_server_state(State) of
        true -> {ok, State};
        false -> {ok, take_over()}
    end.

%% @private
-spec clean(pid(), worker, boolean()) -> term().
clean(Pid, ?NAME, _Announced) ->
    (stats_hero()):clean_worker_data(Pid).

%% Hides the optional application, which depends on this module, from xref and dialyzer.
stats_hero() ->
    stats_hero.

%% Registers what the original knows: the processes that it monitors, and those whose DOWN messages
%% it has not handled. The original's monitors stay; their messages are ignored.
take_over() ->
    Owner = proctab_reaper:parent(),
    ok = proctab_nif:processes_open(?MODULE, Owner),
    [{monitors, Monitors}, {messages, Messages}] = process_info(self(), [monitors, messages]),
    Dead = [Pid || {'DOWN', _, process, Pid, _} <- Messages, is_pid(Pid), may_be_dead(Pid)],
    Monitored = [Pid || {process, Pid} <- Monitors, is_pid(Pid)],
    Register = fun(Pid) -> ok = proctab_nif:register(?MODULE, Pid, ?NAME) end,
    lists:foreach(Register, Dead ++ Monitored),
    proctab_reaper:open(?REAPER, Owner).

%% A DOWN message may be forged.
may_be_dead(Pid) ->
    node(Pid) =/= node() orelse not is_process_alive(Pid).
