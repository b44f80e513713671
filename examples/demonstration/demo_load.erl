%% The load of the demonstration: processes that open the children, kill some, read their
%% attributes, and end them. Each process ends when its work is done. The lookers and the lister run
%% until `stop/1`.
-module(demo_load).

-export([openers/5, killer/4, lookers/4, lister/3, enders/3]).
-export([busy/1, await/2, stop/1, until/2]).

%% Starts processes that each open their share of the children.
openers(Count, Zone, Gate, Dir, Specs) ->
    shared(Count, Specs, fun({Name, _} = Spec) ->
        case gen_tracker:find_or_open(Zone, demo_child:spec(Zone, Gate, Dir, Spec)) of
            {ok, Pid} when is_pid(Pid) -> ok;
            Other -> demo_books:wrong('find_or_open does not open', {Name, Other})
        end
    end).

%% Starts processes that each end their share of the children, by one of two functions.
enders(Count, Zone, Names) ->
    shared(Count, Names, fun(Name) ->
        End = lists:nth(1 + erlang:phash2(Name, 2), [delete_child, terminate_child]),
        case supervisor:End(Zone, Name) of
            ok -> ok;
            Other -> demo_books:wrong('a child cannot be ended', {End, Name, Other})
        end
    end).

shared(Count, Items, Fun) ->
    Numbered = lists:zip(lists:seq(1, length(Items)), Items),
    [
        worker(fun() ->
            lists:foreach(Fun, [Item || {N, Item} <- Numbered, N rem Count =:= Share])
        end)
     || Share <- lists:seq(0, Count - 1)
    ].

%% Starts a process that kills random children, evenly over a time, every other one while it reads,
%% if possible.
killer(Zone, Names, Kills, Milliseconds) ->
    Start = erlang:monotonic_time(millisecond),
    worker(fun() -> kill(Zone, Names, 0, Kills, Start, Milliseconds) end).

kill(Zone, Names, Done, Kills, Start, Milliseconds) ->
    Elapsed = erlang:monotonic_time(millisecond) - Start,
    if
        Done =:= Kills; Elapsed > 2 * Milliseconds ->
            ok;
        Done * Milliseconds > Elapsed * Kills ->
            timer:sleep(5),
            kill(Zone, Names, Done, Kills, Start, Milliseconds);
        true ->
            Name = victim(Zone, Names, (Done rem 2) * 500),
            case gen_tracker:find(Zone, Name) of
                {ok, Pid} ->
                    kill(Zone, Names, Done + kill_one(Name, Pid), Kills, Start, Milliseconds);
                undefined ->
                    timer:sleep(1),
                    kill(Zone, Names, Done, Kills, Start, Milliseconds)
            end
    end.

victim(Zone, Names, Tries) ->
    Name = any(Names),
    case Tries =:= 0 orelse gen_tracker:getattr(Zone, Name, state) =:= {ok, reading} of
        true -> Name;
        false -> victim(Zone, Names, Tries - 1)
    end.

%% Returns the number of kills: none if the child was already dead.
kill_one(Name, Pid) ->
    Monitor = monitor(process, Pid),
    exit(Pid, kill),
    receive
        {'DOWN', Monitor, process, Pid, killed} ->
            demo_books:killed(Name),
            1;
        {'DOWN', Monitor, process, Pid, _Other} ->
            0
    end.

%% Starts processes that look up random children and read their attributes. Returns them with the
%% counter of their calls.
lookers(Count, Zone, Dir, Names) ->
    Looked = counters:new(1, [write_concurrency]),
    {[worker(fun() -> look(Zone, Dir, Names, Looked) end) || _ <- lists:seq(1, Count)], Looked}.

look(Zone, Dir, Names, Looked) ->
    Name = any(Names),
    Path = demo_child:path(Dir, Name),
    find(Zone, Name),
    read(Zone, Name, path, fun(Value) -> Value =:= Path end),
    read(Zone, Name, size, fun(Value) -> is_integer(Value) orelse Value =:= unknown end),
    read(Zone, Name, bytes, fun is_integer/1),
    snapshot(Path, Name, gen_tracker:info(Zone, Name)),
    counters:add(Looked, 1, 5),
    true = erlang:yield(),
    case stopped() of
        true -> ok;
        false -> look(Zone, Dir, Names, Looked)
    end.

find(Zone, Name) ->
    case gen_tracker:find(Zone, Name) of
        {ok, Pid} when is_pid(Pid) -> ok;
        undefined -> ok;
        Other -> demo_books:wrong('find returns something else', {Name, Other})
    end.

read(Zone, Name, Key, IsRight) ->
    case gen_tracker:getattr(Zone, Name, Key) of
        undefined -> ok;
        {ok, Value} ->
            IsRight(Value) orelse
                demo_books:wrong('getattr returns something else', {Name, Key, Value})
    end.

snapshot(Path, Name, Attributes) ->
    demo_child:whole(Path, lists:sort(Attributes)) orelse
        demo_books:wrong('a snapshot shows half a step', {Name, Attributes}).

%% Starts a process that lists the whole zone again and again.
lister(Zone, Dir, Pause) ->
    [worker(fun() -> list(Zone, Dir, Pause) end)].

list(Zone, Dir, Pause) ->
    lists:foreach(
        fun({Name, [{pid, Pid} | Attributes]}) when is_pid(Pid) ->
            snapshot(demo_child:path(Dir, Name), Name, Attributes)
        end,
        gen_tracker:list(Zone)
    ),
    timer:sleep(Pause),
    case stopped() of
        true -> ok;
        false -> list(Zone, Dir, Pause)
    end.

any(Names) ->
    element(rand:uniform(tuple_size(Names)), Names).

worker(Fun) ->
    spawn_monitor(Fun).

busy(Workers) ->
    lists:any(fun({Pid, _Monitor}) -> is_process_alive(Pid) end, Workers).

stop(Workers) ->
    [Pid ! stop || {Pid, _Monitor} <- Workers],
    await(Workers, 60000).

stopped() ->
    receive
        stop -> true
    after 0 -> false
    end.

%% Waits for workers to end. A worker that crashes, or does not end, is a disagreement.
await(Workers, Milliseconds) ->
    lists:foreach(
        fun({Pid, Monitor}) ->
            receive
                {'DOWN', Monitor, process, Pid, normal} -> ok;
                {'DOWN', Monitor, process, Pid, Reason} ->
                    demo_books:wrong('a process of the load crashed', Reason)
            after Milliseconds ->
                demo_books:wrong(
                    'a process of the load hangs', process_info(Pid, current_stacktrace)
                ),
                exit(Pid, kill)
            end
        end,
        Workers
    ).

%% Calls a fun until it returns `true`, or for ten seconds. Returns the last result.
until(Fun, Pause) ->
    until(Fun, Pause, erlang:monotonic_time(millisecond) + 10000).

until(Fun, Pause, End) ->
    case Fun() orelse erlang:monotonic_time(millisecond) > End of
        true -> Fun();
        false ->
            timer:sleep(Pause),
            until(Fun, Pause, End)
    end.
