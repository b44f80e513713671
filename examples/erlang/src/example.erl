%% A zone of streams. Each stream is tracked under a metric, and has a worker of stats_hero.
-module(example).
-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1, run/0]).
-export([start_stream/1, init_stream/1]).

start(_Type, _Args) ->
    ok = metrics:new(counter, streams),
    supervisor:start_link({local, example_sup}, ?MODULE, []).

stop(_State) ->
    ok.

init([]) ->
    Streams = #{id => streams, start => {gen_tracker, start_link, [streams]}, type => supervisor},
    {ok, {#{}, [Streams]}}.

%% Returns what the application sees while a stream runs, and after its end, and which files were
%% loaded.
run() ->
    {ok, Pid} = gen_tracker:find_or_open(streams, {
        <<"tv1">>,
        {?MODULE, start_stream, [<<"tv1">>]},
        temporary
    }),
    {ok, Worker} = gen_tracker:getattr(streams, <<"tv1">>, worker, 5000),
    Running = {
        gen_tracker:find(streams, <<"tv1">>) =:= {ok, Pid},
        metrics_process_tracker:count(streams),
        stats_hero:find_worker(<<"tv1">>) =:= {ok, Worker}
    },
    ok = supervisor:delete_child(streams, <<"tv1">>),
    exit(Worker, kill),
    until(fun() -> metrics_process_tracker:counts() =:= [] end),
    until(fun() -> stats_hero_monitor:registered_count() =:= 0 end),
    Ended = {
        gen_tracker:find(streams, <<"tv1">>),
        metrics_process_tracker:count(streams),
        stats_hero:find_worker(<<"tv1">>)
    },
    #{modules := Modules} = proctab:check(map),
    #{
        running => Running,
        ended => Ended,
        ours => [Ours || #{ours := Ours} <- Modules],
        loaded => [Loaded || #{loaded := Loaded} <- Modules],
        priv => code:priv_dir(proctab)
    }.

until(Condition) ->
    case Condition() of
        true -> ok;
        false ->
            receive
            after 1 -> until(Condition)
            end
    end.

%% A stream

start_stream(Name) ->
    proc_lib:start_link(?MODULE, init_stream, [Name]).

init_stream(Name) ->
    gen_tracker:init_ack({ok, self()}),
    ok = metrics_process_tracker:track(streams),
    {ok, Worker} = stats_hero:start_worker(Name),
    ok = gen_tracker:setattr(streams, Name, worker, Worker),
    receive
        stop -> ok
    end.
