%% Children of cluster zones, which record their starts and ends in a table of their node.
-module(cluster_child).

-export([open_books/0, spec/1, spec/2, slow/2, start_link/1, start_slowly/2, after_terminate/3]).
-export([return/2]).
-export([handing_over/3, start_handing_over/2, init_handing_over/2]).
-export([await_cleanup/1, let_cleanup_go/1]).
-export([stop/4, hand_over/4, timed_hand_over/4, keep/4, crash/4, slow_stop/4, asked_stop/4]).
-export([await_question/3, let_decision_go/3]).

%% Makes the table, which outlives the caller.
open_books() ->
    Caller = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        cluster_child = ets:new(cluster_child, [named_table, public]),
        Caller ! {self(), open},
        receive
        after infinity -> ok
        end
    end),
    receive
        {Pid, open} -> demonitor(Monitor, [flush])
    end.

record(Row) ->
    ets:insert(cluster_child, {make_ref(), Row}).

spec(Name) ->
    spec(Name, temporary).

spec(Name, Restart) ->
    {Name, {?MODULE, start_link, [Name]}, Restart, 1000, worker, [?MODULE]}.

%% A child whose start takes so many milliseconds.
slow(Name, Milliseconds) ->
    {Name, {?MODULE, start_slowly, [Name, Milliseconds]}, temporary}.

start_slowly(Name, Milliseconds) ->
    receive
    after Milliseconds -> start_link(Name)
    end.

start_link(Name) ->
    Pid = spawn_link(fun() -> loop(Name) end),
    record({started, Name, Pid}),
    {ok, Pid}.

%% A child that takes so long to hand over, in milliseconds or `infinity`, and ends then. Until then
%% it ends only if it is told to stop. It records which of the two has happened.
handing_over(Name, Shutdown, Duration) ->
    Start = {?MODULE, start_handing_over, [Name, Duration]},
    {Name, Start, permanent, Shutdown, worker, [?MODULE]}.

start_handing_over(Name, Duration) ->
    proc_lib:start_link(?MODULE, init_handing_over, [Name, Duration]).

%% The term that it is handed over is the time of the decision.
init_handing_over(Name, Duration) ->
    process_flag(trap_exit, true),
    record({started, Name, self()}),
    proc_lib:init_ack({ok, self()}),
    receive
        {gen_tracker_cluster, hand_over, Winner, Decided} ->
            receive
                {'EXIT', _, Reason} ->
                    Elapsed = erlang:monotonic_time(millisecond) - Decided,
                    record({told_to_stop, Name, Winner, Reason, Elapsed})
            after Duration ->
                record({handed_over, Name, Winner})
            end
    end.

%% A start function that starts nothing.
return(Name, Result) ->
    record({called, Name}),
    Result.

%% Records what it is handed over, and ends then.
loop(Name) ->
    receive
        {gen_tracker_cluster, hand_over, Winner, Term} -> record({handed_over, Name, Winner, Term});
        {echo, From} -> From ! {echo, self()}, loop(Name);
        stop -> ok
    end.

after_terminate(Name, _Attributes, Reason) ->
    _ = is_held(Name) andalso hold(Name),
    record({ended, Name, Reason}).

%% The cleanup of a name `{held, _}` waits until a test lets it go.
is_held({held, _}) -> true;
is_held(_) -> false.

hold(Name) ->
    true = ets:insert(cluster_child, {{cleanup, Name}, self()}),
    receive
        {?MODULE, go_on} -> true = ets:delete(cluster_child, {cleanup, Name})
    end.

%% Waits until the cleanup of a name has begun.
await_cleanup(Name) ->
    wait:until(fun() -> ets:member(cluster_child, {cleanup, Name}) end).

let_cleanup_go(Name) ->
    [{_, Keeper}] = ets:lookup(cluster_child, {cleanup, Name}),
    Keeper ! {?MODULE, go_on},
    ok.

%% Callbacks for conflicts

stop(_Zone, Name, Loser, Winner) ->
    record({asked, Name, Loser, Winner}),
    stop.

hand_over(_Zone, _Name, _Loser, _Winner) ->
    {hand_over, state}.

timed_hand_over(_Zone, _Name, _Loser, _Winner) ->
    {hand_over, erlang:monotonic_time(millisecond)}.

keep(_Zone, _Name, _Loser, _Winner) ->
    keep.

crash(_Zone, _Name, _Loser, _Winner) ->
    error(crash).

slow_stop(_Zone, _Name, _Loser, _Winner) ->
    receive
    after infinity -> stop
    end.

%% Decides when the test says so.
asked_stop(_Zone, Name, Loser, Winner) ->
    Question = {question, Name, Loser, Winner},
    true = ets:insert(cluster_child, {Question, self()}),
    receive
        {?MODULE, go_on} -> stop
    end.

%% Waits until the callback has been asked.
await_question(Name, Loser, Winner) ->
    wait:until(fun() -> ets:member(cluster_child, {question, Name, Loser, Winner}) end).

%% Lets the callback decide, and waits for its end.
let_decision_go(Name, Loser, Winner) ->
    [{_, Asked}] = ets:take(cluster_child, {question, Name, Loser, Winner}),
    Monitor = monitor(process, Asked),
    Asked ! {?MODULE, go_on},
    receive
        {'DOWN', Monitor, process, Asked, _} -> ok
    end.
