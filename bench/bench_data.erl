%% Names, children and attributes for all sides, and small functions that the sections share.
-module(bench_data).

-export([name/1, names/1, attributes/0, value/1, other_value/1, map/0]).
-export([spec/1, start_child/2, child_pid/1, keeper_pid/1]).
-export([row/5, time/1, until/1, gone/1, resident/0]).

name(N) ->
    <<"stream-", (integer_to_binary(N))/binary>>.

%% Returns names in an order that no table has.
names(Count) ->
    [Name || {_, Name} <- lists:sort([{rand:uniform(), name(N)} || N <- lists:seq(1, Count)])].

%% Returns the four attributes of a name, unless a section says otherwise.
attributes() ->
    [{Key, value(Key)} || Key <- [integer, atom, binary, tuple]].

value(integer) -> 1280;
value(atom) -> running;
value(pid) -> whereis(init);
value(binary) -> <<"twenty bytes of text">>;
value(kilobyte) -> binary:copy(<<"k">>, 1024);
value(megabyte) -> persistent(megabyte, fun() -> binary:copy(<<"m">>, 1048576) end);
value(tuple) -> {stream, <<"tv1">>, 1280, running};
value(map) -> map().

%% Returns the value that overwrites an attribute.
other_value(integer) -> 1000;
other_value(atom) -> waiting;
other_value(pid) -> whereis(kernel_sup);
other_value(binary) -> <<"another twenty bytes">>;
other_value(kilobyte) -> binary:copy(<<"l">>, 1024);
other_value(megabyte) -> persistent(other_megabyte, fun() -> binary:copy(<<"n">>, 1048576) end);
other_value(tuple) -> {stream, <<"tv2">>, 1281, waiting};
other_value(map) -> (map())#{width := 1280}.

map() ->
    #{codec => h264, width => 1920, height => 1080, language => <<"en">>}.

persistent(Key, Make) ->
    case persistent_term:get({?MODULE, Key}, none) of
        none ->
            persistent_term:put({?MODULE, Key}, Make()),
            persistent_term:get({?MODULE, Key});
        Value -> Value
    end.

%% Returns the child spec of the original's documentation. The start function takes the name and
%% options.
spec(Name) ->
    {
        Name,
        {?MODULE, start_child, [Name, [{url, <<"udp://239.0.0.1:5000">>}, {retry, 5}]]},
        temporary,
        200,
        worker,
        []
    }.

start_child(_Name, _Options) ->
    {
        ok,
        spawn_link(fun() ->
            receive
            after infinity -> ok
            end
        end)
    }.

%% Pids for tables that are filled without processes. Each is another one, of a process that never
%% existed.
child_pid(N) -> pid(2 * N).

keeper_pid(N) -> pid(2 * N + 1).

pid(N) ->
    list_to_pid(lists:concat(["<0.", N rem 32768, ".", 1000 + N div 32768, ">"])).

%% Returns a row of the results.
row(Side, Operation, Mode, Unit, Figures) ->
    #{side => Side, operation => Operation, mode => Mode, unit => Unit, figures => Figures}.

time(Fun) ->
    Start = erlang:monotonic_time(nanosecond),
    Result = Fun(),
    {erlang:monotonic_time(nanosecond) - Start, Result}.

until(Fun) ->
    case Fun() of
        true -> ok;
        false ->
            timer:sleep(1),
            until(Fun)
    end.

%% Waits for the end of processes.
gone(Pids) ->
    lists:foreach(
        fun(Pid) ->
            Monitor = monitor(process, Pid),
            receive
                {'DOWN', Monitor, process, Pid, _} -> ok
            end
        end,
        Pids
    ).

resident() ->
    {ok, Text} = file:read_file("/proc/self/status"),
    {match, [Kilobytes]} = re:run(Text, "VmRSS:\\s*(\\d+) kB", [{capture, [1], binary}]),
    binary_to_integer(Kilobytes) * 1024.
