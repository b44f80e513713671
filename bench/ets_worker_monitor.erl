%% The design of the original stats_hero_monitor, as its documentation shows it: a server that
%% stores only its monitors.
-module(ets_worker_monitor).
-behaviour(gen_server).

-export([start_link/0, register/1, registered_count/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

register(Pid) ->
    gen_server:call(?MODULE, {register, Pid}, infinity).

registered_count() ->
    gen_server:call(?MODULE, registered_count, infinity).

init([]) ->
    {ok, none}.

handle_call({register, Pid}, _From, State) ->
    _ = monitor(process, Pid),
    {reply, ok, State};
handle_call(registered_count, _From, State) ->
    {monitors, Monitors} = process_info(self(), monitors),
    {reply, length(Monitors), State}.

handle_cast(_Request, State) ->
    {noreply, State}.

handle_info({'DOWN', _, process, Pid, _}, State) ->
    stats_hero:clean_worker_data(Pid),
    {noreply, State}.
