%% Runs rounds of random tests for hours, while other processes read and write a zone of a million
%% names. tools/soak starts it.
%%
%% The rounds are those of some parts of the tests. A part is a module with `round(Seed)' and
%% `replay(History)', which return `{ok, Figures}' or `{failed, History}' and leave nothing behind.
%%
%% A failed round is written to a file, and `make soak REPLAY=FILE' repeats it. At the end, the soak
%% prints figures, and fails if native calls held normal schedulers for over 1 ms too often.
-module(soak).

-export([main/0]).

-import(tracked_process, [eventually/1]).

%% A round of bad_input is short, so it is run more often.
-define(PARTS, [
    model_tracker,
    bad_input,
    model_counted,
    bad_input,
    differential,
    bad_input,
    model_cluster,
    faults,
    bad_input
]).
-define(NAMES, 1000000).
-define(ZONE, soak_million).
%% The number of waiters on one name, and of names of one process.
-define(CROWD, 60000).
-define(CROWDS, soak_crowds).
%% How often a failed round is repeated. A failure may depend on scheduling.
-define(REPLAYS, 5).

main() ->
    %% Many processes exit with an error on purpose. Reports of these are not printed.
    ok = logger:remove_handler(default),
    Passed =
        case init:get_plain_arguments() of
            ["hours", Hours, Folder] -> soak(seconds(Hours), Folder);
            ["replay", File, _Folder] -> replay(File)
        end,
    halt(status(Passed)).

status(true) -> 0;
status(false) -> 1.

seconds(Hours) ->
    case string:to_float(Hours ++ ".0") of
        {Number, _} when is_float(Number), Number > 0 ->
            round(Number * 3600);
        _ ->
            io:format("soak: HOURS is a number such as 0.5 or 8, not ~ts~n", [Hours]),
            halt(2)
    end.

%% Rounds

soak(Seconds, Folder) ->
    First = rand:uniform(1 bsl 58),
    io:format("~ts; the first seed is ~b~n", [machine(), First]),
    CallTimes = os:getenv("PROCTAB_CALL_TIMES"),
    %% The other nodes that a part starts measure nothing.
    true = os:unsetenv("PROCTAB_CALL_TIMES"),
    {Loads, Operations} = start_loads(),
    Begin = now_in_seconds(),
    Soak = #{folder => Folder, ends => Begin + Seconds, processes => #{}, figures => #{}},
    Ended = rounds(?PARTS, First, Soak),
    Hours = (now_in_seconds() - Begin) / 3600,
    stop_loads(Loads),
    report(Ended, Hours, counters:get(Operations, 1)),
    case Ended of
        {passed, _} -> check_call_times(CallTimes);
        {failed, _} -> false
    end.

%% Runs a round of each part in turn, with consecutive seeds.
rounds([], Seed, #{ends := Ends} = Soak) ->
    case now_in_seconds() < Ends of
        true -> rounds(?PARTS, Seed, Soak);
        false -> {passed, Soak}
    end;
rounds([Part | Parts], Seed, #{folder := Folder, processes := Limits} = Soak) ->
    %% If the VM exits during the round, this file repeats the round.
    _ = keep(Folder, "running", Part, Seed, seed),
    {Time, Round} = timer:tc(fun run/1, [
        fun() ->
            Ended = Part:round(Seed),
            Most = maps:get(Part, Limits, infinity),
            %% A failure may leave processes behind.
            _ = element(1, Ended) =:= ok andalso
                eventually(fun() -> length(processes()) =< Most end),
            Ended
        end
    ]),
    case Round of
        {ok, Figures} ->
            %% The first round of a part may start processes that remain.
            Limited = maps:merge(#{Part => length(processes()) + 5}, Limits),
            Sums = Figures#{milliseconds => Time div 1000},
            rounds(Parts, Seed + 1, add(Part, Sums, Soak#{processes := Limited}));
        {failed, History} ->
            failed(Part, Seed, History, Soak),
            {failed, Soak}
    end.

run(Round) ->
    try
        Round()
    catch
        Class:Reason:Stack -> {failed, {Class, Reason, Stack}}
    end.

add(Part, Figures, #{figures := Sums} = Soak) ->
    Sum = maps:get(Part, Sums, #{rounds => 0}),
    Added = maps:merge_with(fun(_, One, Other) -> One + Other end, Sum, Figures#{rounds => 1}),
    Soak#{figures := Sums#{Part => Added}}.

failed(Part, Seed, History, #{folder := Folder}) ->
    File = keep(Folder, io_lib:format("~s-~b", [Part, Seed]), Part, Seed, History),
    ok = file:write_file(File ++ ".txt", io_lib:format("~p~n", [{Part, Seed, History}])),
    io:format("~s failed with the seed ~b. The failure is in ~ts.txt.~n", [Part, Seed, File]),
    io:format("To repeat the round:~n    make soak REPLAY=~ts~n", [File]).

keep(Folder, Name, Part, Seed, History) ->
    File = filename:join(Folder, Name),
    ok = file:write_file(File, term_to_binary({Part, Seed, History})),
    File.

%% Repeating a failed round

replay(File) ->
    {ok, Kept} = file:read_file(File),
    {Part, Seed, History} = binary_to_term(Kept),
    io:format("~s, seed ~b~n", [Part, Seed]),
    Round =
        case History of
            seed ->
                fun() -> Part:round(Seed) end;
            {Class, _, _} when Class =:= error; Class =:= exit; Class =:= throw ->
                fun() -> Part:round(Seed) end;
            _ ->
                fun() -> Part:replay(History) end
        end,
    replay(Round, 1).

replay(_, Time) when Time > ?REPLAYS ->
    io:format("passed ~b times~n", [?REPLAYS]),
    true;
replay(Round, Time) ->
    case run(Round) of
        {ok, _} ->
            replay(Round, Time + 1);
        {failed, History} ->
            io:format("failed in run ~b:~n~p~n", [Time, History]),
            false
    end.

%% Loads

%% Makes a zone of a million names, and starts processes that use it and a table of processes.
%% Returns these processes, and a counter of their operations.
start_loads() ->
    Soak = self(),
    Owner = spawn_link(fun() ->
        _ = proctab_nif:zone_open(?ZONE, shared),
        [insert(name(Number), pid(Number)) || Number <- lists:seq(1, ?NAMES)],
        Soak ! filled,
        receive
            stop -> proctab_nif:zone_close(?ZONE)
        end
    end),
    receive
        filled -> ok
    end,
    Operations = counters:new(1, []),
    Loads = [
        spawn_link(fun() -> repeat(Operations, Load, 1) end)
     || Load <- [fun read/1, fun write/1, fun insert_and_remove/1]
    ],
    Pages = spawn_link(fun() -> pages(Operations, 0) end),
    Crowds = spawn_link(fun() ->
        ok = proctab_nif:processes_open(?CROWDS, self()),
        Soak ! opened,
        crowds(Operations)
    end),
    receive
        opened -> {[Owner, Pages, Crowds | Loads], Operations}
    end.

stop_loads(Loads) ->
    [unlink(Load) || Load <- Loads],
    [Load ! stop || Load <- lists:reverse(Loads)].

insert(Name, Keeper) ->
    Spec = {{?MODULE, start_link, [Name]}, permanent, 200, worker, []},
    true = proctab_nif:insert(?ZONE, Name, Keeper, Spec, Keeper),
    ok = proctab_nif:setattr(?ZONE, Name, attributes()).

attributes() ->
    [
        {number, 1},
        {state, running},
        {text, <<"twenty bytes of text">>},
        {tuple, {stream, <<"tv1">>, 1280, running}}
    ].

name(Number) ->
    <<"name ", (integer_to_binary(Number))/binary>>.

%% Returns a pid that belongs to no process.
pid(Number) ->
    list_to_pid(lists:concat(["<0.", Number rem 32768, ".", 1000 + Number div 32768, ">"])).

%% Makes some hundred operations a second, so that the rounds are not slowed down much.
repeat(Operations, Load, Number) ->
    [Load((Number * 7919 + Time) rem ?NAMES + 1) || Time <- lists:seq(1, 50)],
    counters:add(Operations, 1, 50),
    receive
        stop -> ok
    after 100 -> repeat(Operations, Load, Number + 1)
    end.

read(Number) ->
    Name = name(Number),
    {ok, _} = proctab_nif:find(?ZONE, Name),
    {ok, running} = proctab_nif:getattr(?ZONE, Name, state),
    [_ | _] = proctab_nif:attrs(?ZONE, Name).

write(Number) ->
    Name = name(Number),
    ok = proctab_nif:setattr(?ZONE, Name, text, <<"other twenty bytes!!">>),
    ok = proctab_nif:setattr(?ZONE, Name, [{extra, {Number}}, {text, <<"twenty bytes of text">>}]),
    ok = proctab_nif:delattr(?ZONE, Name, extra),
    _ = proctab_nif:increment(?ZONE, Name, number, 1).

insert_and_remove(Number) ->
    {_, Monitor} = spawn_monitor(fun() ->
        insert({new, Number}, self()),
        true = proctab_nif:remove(?ZONE, {new, Number})
    end),
    receive
        {'DOWN', Monitor, process, _, normal} -> ok
    end.

%% Reads the zone page by page, which takes some five hours. A page costs as much as 1000 reads.
pages(Operations, From) ->
    Next =
        case proctab_nif:page(?ZONE, From, attributes, []) of
            {_, done} -> 0;
            {_, Place} -> Place
        end,
    counters:add(Operations, 1, 1),
    receive
        stop -> ok
    after 100 -> pages(Operations, Next)
    end.

%% Once a minute, adds and removes many waiters on one name, and many names of one process.
crowds(Operations) ->
    Waiting = [proctab_nif:wait_for(?ZONE, crowd, key) || _ <- lists:seq(1, ?CROWD)],
    1 = proctab_nif:increment(?ZONE, crowd, key, 1, 1),
    [
        receive
            {'$proctab_woken', Id} -> false = proctab_nif:stop_waiting(Waits)
        end
     || {Waits, Id, _} <- Waiting
    ],
    ok = proctab_nif:delattr(?ZONE, crowd, key),
    [ok = proctab_nif:register(?CROWDS, self(), Number) || Number <- lists:seq(1, ?CROWD)],
    ok = proctab_nif:abandon(?CROWDS, self(), self()),
    ?CROWD = length(proctab_nif:registered_names(?CROWDS, self())),
    [ok = proctab_nif:unregister(?CROWDS, self(), Number) || Number <- lists:seq(1, ?CROWD)],
    counters:add(Operations, 1, 4 * ?CROWD),
    receive
        stop -> proctab_nif:processes_close(?CROWDS)
    after 60000 -> crowds(Operations)
    end.

%% Figures

report({Outcome, #{figures := Sums}}, Hours, Operations) ->
    io:format("~nafter ~.2f hours: ~s~n", [Hours, Outcome]),
    [print(Part, figures(Sum)) || {Part, Sum} <- lists:sort(maps:to_list(Sums))],
    print(a_million_names, io_lib:format("~b operations", [Operations])),
    print(memory, io_lib:format("~b MB at the end", [erlang:memory(total) div 1000000])).

print(Label, Text) ->
    io:format("~-16s ~ts~n", [Label, Text]).

figures(Sum) ->
    Sorted = lists:sort(maps:to_list(Sum)),
    lists:join(", ", [io_lib:format("~b ~ts", [Count, words(What)]) || {What, Count} <- Sorted]).

words(What) ->
    string:replace(atom_to_list(What), "_", " ", all).

%% Prints the longest native calls. Returns whether they held a processor for over 1 ms no more
%% often than the control thread, which only computes and allocates memory: a virtual machine may be
%% stopped by its host, and no clock of the machine shows that.
check_call_times(File) ->
    {{"control", [_, ControlTime, ControlOver, ControlLongest, _]}, Functions} = call_times(File),
    [Calls, Time, Over] = [
        lists:sum([lists:nth(Place, Times) || {_, Times} <- Functions])
     || Place <- [1, 2, 3]
    ],
    io:format(
        "~b native calls on normal schedulers, ~.1f s of processor time, ~b of them over 1 ms~n",
        [Calls, Time / 1.0e6, Over]
    ),
    io:format(
        "control thread: ~.1f s of processor time, over 1 ms ~b times, the longest ~b us~n",
        [ControlTime / 1.0e6, ControlOver, ControlLongest]
    ),
    io:format("function, times over 1 ms, longest in us (on the clock):~n"),
    [
        io:format("    ~s ~b ~b (~b)~n", [Name, FunctionOver, Longest, OnClock])
     || {Name, [_, _, FunctionOver, Longest, OnClock]} <- longest_first(Functions),
        Longest > 500
    ],
    %% Up to three times as often, and five more, may be chance.
    Over =< 5 + 3 * (ControlOver + 1) * Time / ControlTime.

%% Reads the file that the library has written. A line has the name of a function, the number of its
%% calls, their processor time in microseconds, how many took over 1 ms, and the longest one by
%% processor time and by the clock. Returns the line of the control thread, and the other lines.
call_times(File) ->
    %% The library writes the file every second.
    timer:sleep(2000),
    {ok, Text} = file:read_file(File),
    Lines = [string:lexemes(Line, " ") || Line <- string:lexemes(binary_to_list(Text), "\n")],
    All = [{Name, [list_to_integer(Number) || Number <- Numbers]} || [Name | Numbers] <- Lines],
    {value, Control, Functions} = lists:keytake("control", 1, All),
    {Control, Functions}.

longest_first(Functions) ->
    lists:sort(
        fun({_, [_, _ | One]}, {_, [_, _ | Other]}) -> One >= Other end, Functions
    ).

machine() ->
    Schedulers = erlang:system_info(schedulers_online),
    io_lib:format("OTP ~s, ~b schedulers", [erlang:system_info(otp_release), Schedulers]).

now_in_seconds() ->
    erlang:monotonic_time(second).
