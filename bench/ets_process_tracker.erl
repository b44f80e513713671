%% The storage design of the original metrics_process_tracker: one public ordered table with a row
%% for each process, and one for each pair of process and name. A server monitors the processes, and
%% selects the names of a dead one with a guard.
-module(ets_process_tracker).
-behaviour(gen_server).

-export([start_link/0, track/2, count/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(TABLE, bench_process_tracker).

start_link() ->
    ?TABLE = ets:new(?TABLE, [
        named_table,
        ordered_set,
        public,
        {read_concurrency, true},
        {write_concurrency, true}
    ]),
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

track(Name, Pid) ->
    ets:insert_new(?TABLE, {{Pid, Name}, Name}) andalso metrics:update(Name),
    ets:insert_new(?TABLE, {Pid, monitored}) andalso gen_server:cast(?MODULE, {monitor, Pid}),
    ok.

%% Not in the original, which leaves counts to the backend.
count(Name) ->
    metrics:value(Name).

init([]) ->
    {ok, none}.

handle_call(_Request, _From, State) ->
    {reply, bad_call, State}.

handle_cast({monitor, Pid}, State) ->
    _ = monitor(process, Pid),
    {noreply, State}.

handle_info({'DOWN', _, process, Pid, _}, State) ->
    true = ets:delete(?TABLE, Pid),
    Names = ets:select(?TABLE, [{{{'$1', '$2'}, '_'}, [{'=:=', '$1', {const, Pid}}], ['$2']}]),
    lists:foreach(
        fun(Name) ->
            metrics:update(Name, {c, -1}),
            ets:delete(?TABLE, {Pid, Name})
        end,
        Names
    ),
    {noreply, State}.
