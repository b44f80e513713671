%% The monitor that the application brings with it: a server without a table, whose monitors are
%% all that it knows.
-module(stats_hero_monitor).
-behaviour(gen_server).

-export([start_link/0, register/1, registered_count/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

register(Pid) ->
    gen_server:call(?MODULE, {register, Pid}).

registered_count() ->
    gen_server:call(?MODULE, registered_count).

init([]) ->
    {ok, no_state}.

handle_call({register, Pid}, _From, State) ->
    _ = monitor(process, Pid),
    {reply, ok, State};
handle_call(registered_count, _From, State) ->
    {monitors, Monitors} = process_info(self(), monitors),
    {reply, length(Monitors), State};
handle_call(_Request, _From, State) ->
    {reply, unhandled, State}.

handle_cast(_Request, State) ->
    {noreply, State}.

handle_info({'DOWN', _Monitor, process, Pid, _Reason}, State) ->
    stats_hero:clean_worker_data(Pid),
    {noreply, State};
handle_info(_Message, State) ->
    {noreply, State}.

terminate(_Reason, _State) ->
    ok.

code_change(_OldVersion, State, _Extra) ->
    {ok, State}.
