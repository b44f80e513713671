%% For hours: the parts of the tests that draw their rounds from a seed, round after round, beside a table of a million names that is read and written all the
%% while. tools/soak starts it.
%%
%% A part is a module with `round(Seed)' and `replay(History)'; both answer `{ok, Figures}' or `{failed, History}', and leave nothing behind.
-module(soak).

-export([main/0]).

-import(tracked_process, [eventually/1]).

%% bad_input makes some two million calls in half an hour.
-define(
    PARTS,
    [model_tracker, bad_input, model_counted, bad_input, differential, bad_input, faults, bad_input]
).
-define(NAMES, 1000000).
-define(ZONE, soak_million).
-define(CROWD, 60000).
-define(CROWDS, soak_crowds).
%% A failure that depends on what was scheduled when takes some rounds to come again.
-define(REPLAYS, 5).

main() ->
    %% Processes that die as they should are not worth a report each.
    ok = logger:remove_handler(default),
    Passed = case init:get_plain_arguments() of
        ["hours", Hours, Folder] -> soak(seconds(Hours), Folder);
        ["replay", File, _Folder] -> replay(File)
    end,
    halt(
        case Passed of
            true -> 0;
            false -> 1
        end
    ).

seconds(Hours) ->
    case string:to_float(Hours ++ ".0") of
        {Number, _} when is_float(Number), Number > 0 -> round(Number * 3600);
        _ ->
            io:format("soak: HOURS is a number such as 0.5 or 8, not ~ts~n", [Hours]),
            halt(2)
    end.

%% Hours

soak(Seconds, Folder) ->
    First = rand:uniform(1 bsl 58),
    io:format("~ts; the first seed is ~b~n", [machine(), First]),
    {Loads, Counted} = million(),
    Begin = now_in_seconds(),
    Ended = rounds(
        ?PARTS, First, #{folder => Folder, ends => Begin + Seconds, left => #{}, figures => #{}}
    ),
    Hours = (now_in_seconds() - Begin) / 3600,
    Operations = stop(Loads, Counted),
    report(Ended, Hours, Operations),
    case Ended of
        {passed, _} -> longest();
        {failed, _} -> false
    end.

%% Each part in turn, with the next seed.
rounds([], Seed, #{ends := Ends} = Soak) ->
    case now_in_seconds() < Ends of
        true -> rounds(?PARTS, Seed, Soak);
        false -> {passed, Soak}
    end;
rounds([Part | Parts], Seed, #{folder := Folder, left := Left} = Soak) ->
    %% Should the VM die, this is what it died of.
    _ = keep(Folder, "running", Part, Seed, seed),
    {Time, Round} = timer:tc(fun run/1, [fun() ->
        Ended = Part:round(Seed),
        eventually(fun() -> length(processes()) =< maps:get(Part, Left, infinity) end),
        Ended
    end]),
    case Round of
        {ok, Figures} ->
            %% What the first round of a part started for good is no leak.
            Known = maps:merge(#{Part => length(processes()) + 5}, Left),
            rounds(
                Parts,
                Seed + 1,
                add(Part, Figures#{milliseconds => Time div 1000}, Soak#{left := Known})
            );
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
    io:format(
        "~s failed with the seed ~b. To read: ~ts.txt. To run it again:~n    make soak REPLAY=~ts~n",
        [Part, Seed, File, File]
    ).

keep(Folder, Name, Part, Seed, History) ->
    File = filename:join(Folder, Name),
    ok = file:write_file(File, term_to_binary({Part, Seed, History})),
    File.

%% Again

replay(File) ->
    {ok, Kept} = file:read_file(File),
    {Part, Seed, History} = binary_to_term(Kept),
    io:format("~s, seed ~b~n", [Part, Seed]),
    Again = case History of
        seed -> fun() -> Part:round(Seed) end;
        {Class, _, _} when Class =:= error; Class =:= exit; Class =:= throw ->
            fun() -> Part:round(Seed) end;
        _ -> fun() -> Part:replay(History) end
    end,
    again(Again, 1).

again(_, Time) when Time > ?REPLAYS ->
    io:format("passed ~b times~n", [?REPLAYS]),
    true;
again(Again, Time) ->
    case run(Again) of
        {ok, _} -> again(Again, Time + 1);
        {failed, History} ->
            io:format("failed in run ~b:~n~p~n", [Time, History]),
            false
    end.

%% The million names

%% Those who read and write, and how often they did.
million() ->
    Soak = self(),
    Owner = spawn_link(fun() ->
        _ = proctab_nif:zone_open(?ZONE),
        [insert(name(Number), pid(Number)) || Number <- lists:seq(1, ?NAMES)],
        Soak ! filled,
        receive
            stop -> proctab_nif:zone_close(?ZONE)
        end
    end),
    receive
        filled -> ok
    end,
    Counted = counters:new(1, []),
    Loads = [
        spawn_link(fun() -> use(Counted, Load, 1) end)
     || Load <- [fun read/1, fun write/1, fun come_and_go/1]
    ],
    Pages = spawn_link(fun() -> pages(Counted, 0) end),
    Crowds = spawn_link(fun() ->
        ok = proctab_nif:processes_open(?CROWDS, self()),
        Soak ! opened,
        crowds(Counted)
    end),
    receive
        opened -> {[Owner, Pages, Crowds | Loads], Counted}
    end.

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

%% Of no process.
pid(Number) ->
    list_to_pid(lists:concat(["<0.", Number rem 32768, ".", 1000 + Number div 32768, ">"])).

%% Some hundred uses a second by each: the parts need the processors as well.
use(Counted, Load, Number) ->
    [Load((Number * 7919 + Time) rem ?NAMES + 1) || Time <- lists:seq(1, 50)],
    counters:add(Counted, 1, 50),
    receive
        stop -> ok
    after 100 -> use(Counted, Load, Number + 1)
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

come_and_go(Number) ->
    {_, Monitor} = spawn_monitor(fun() ->
        insert({new, Number}, self()),
        true = proctab_nif:remove(?ZONE, {new, Number})
    end),
    receive
        {'DOWN', Monitor, process, _, normal} -> ok
    end.

%% All of the table in some five hours. A page costs as much as a thousand reads.
pages(Counted, From) ->
    {_, Next} = proctab_nif:page(?ZONE, From, attributes, []),
    counters:add(Counted, 1, 1),
    receive
        stop -> ok
    after 100 ->
        pages(
            Counted,
            case Next of
                done -> 0;
                _ -> Next
            end
        )
    end.

%% Very many who wait for one name, and very many names of one process, come and go.
crowds(Counted) ->
    Waiting = [proctab_nif:wait_for(?ZONE, crowd) || _ <- lists:seq(1, ?CROWD)],
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
    counters:add(Counted, 1, 4 * ?CROWD),
    receive
        stop -> proctab_nif:processes_close(?CROWDS)
    after 60000 -> crowds(Counted)
    end.

stop(Loads, Counted) ->
    [unlink(Load) || Load <- Loads],
    [Load ! stop || Load <- lists:reverse(Loads)],
    counters:get(Counted, 1).

%% Figures

report({Outcome, #{figures := Sums}}, Hours, Operations) ->
    io:format("~nafter ~.2f hours: ~s~n", [Hours, Outcome]),
    [
        io:format(
            "~-16s ~ts~n",
            [
                Part,
                lists:join(
                    ", ",
                    [
                        io_lib:format("~b ~ts", [Count, words(What)])
                     || {What, Count} <- lists:sort(maps:to_list(Sum))
                    ]
                )
            ]
        )
     || {Part, Sum} <- lists:sort(maps:to_list(Sums))
    ],
    io:format(
        "~-16s ~b operations~n~-16s ~b MB at the end~n",
        [a_million_names, Operations, memory, erlang:memory(total) div 1000000]
    ).

words(What) ->
    string:replace(atom_to_list(What), "_", " ", all).

%% Whether our calls had a processor for over a millisecond no more often than a thread that only computes and takes memory, in as much processor time. Its host may stop
%% a virtual machine, which none of its clocks knows.
longest() ->
    %% The file is written every second.
    receive
    after 2000 -> ok
    end,
    {ok, Text} = file:read_file(os:getenv("PROCTAB_CALL_TIMES")),
    Functions = [
        {Name, [list_to_integer(Number) || Number <- Numbers]}
     || [Name | Numbers] <- [
            string:lexemes(Line, " ")
         || Line <- string:lexemes(binary_to_list(Text), "\n")
        ]
    ],
    {
        value,
        {"control", [_, ControlTime, ControlOver, ControlLongest, _]},
        Ours
    } = lists:keytake("control", 1, Functions),
    [Calls, Time, Over] = [
        lists:sum([lists:nth(Place, Times) || {_, Times} <- Ours])
     || Place <- [1, 2, 3]
    ],
    io:format(
        "~b native calls on normal schedulers, ~.1f s of processor time, ~b of them over 1 ms~n",
        [Calls, Time / 1.0e6, Over]
    ),
    io:format(
        "to compare, ~.1f s of computing and taking memory, ~b times over 1 ms, the longest ~b us~n",
        [ControlTime / 1.0e6, ControlOver, ControlLongest]
    ),
    io:format("function, times over 1 ms, longest in us (on the clock):~n"),
    [
        io:format("    ~s ~b ~b (~b)~n", [Name, FunctionOver, Longest, OnClock])
     || {Name, [_, _, FunctionOver, Longest, OnClock]} <- lists:sort(fun({_, One}, {_, Other}) -> tl(tl(One)) >= tl(tl(Other)) end, Ours), Longest > 500
    ],
    %% Three times as often may be chance, and so may five.
    Over =< 5 + 3 * (ControlOver + 1) * Time / ControlTime.

machine() ->
    io_lib:format(
        "OTP ~s, ~b schedulers",
        [erlang:system_info(otp_release), erlang:system_info(schedulers_online)]
    ).

now_in_seconds() ->
    erlang:monotonic_time(second).
