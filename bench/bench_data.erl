%% Names, children and attributes for all sides, and small functions that the sections share.
-module(bench_data).

-export([name/1, names/1, attributes/0, value/1, other_value/1, map/0]).
-export([spec/1, start_child/2, gated_spec/2, start_gated/1, idle/0]).
-export([child_pid/1, keeper_pid/1, remote_pid/2]).
-export([set/3, is_quick/0, rounds/0, scaled/1, clock/0]).
-export([row/5, time/1, slices/1, compute/1, until/1, gone/1, resident/0]).

%% Sets what all measurements in this VM have in common: `elapsed` time or the `processor` time of
%% the VM, how many rounds there are, and whether the run is quick, that is with a tenth of the
%% names.
set(Clock, Rounds, IsQuick) ->
    persistent_term:put({?MODULE, settings}, {Clock, Rounds, IsQuick}).

is_quick() ->
    element(3, settings()).

rounds() ->
    element(2, settings()).

scaled(Count) ->
    case is_quick() of
        true -> max(1, Count div 10);
        false -> Count
    end.

%% Returns nanoseconds of the clock that this VM measures with.
clock() ->
    case element(1, settings()) of
        elapsed -> erlang:monotonic_time(nanosecond);
        processor -> empty_nif:vm_time()
    end.

settings() ->
    persistent_term:get({?MODULE, settings}, {elapsed, 7, false}).

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
value({bytes, Size}) -> persistent({1, Size}, fun() -> binary:copy(<<"k">>, Size) end);
value(tuple) -> {stream, <<"tv1">>, 1280, running};
value(map) -> map().

%% Returns the value that overwrites an attribute.
other_value(integer) -> 1000;
other_value(atom) -> waiting;
other_value(pid) -> whereis(kernel_sup);
other_value(binary) -> <<"another twenty bytes">>;
other_value({bytes, Size}) -> persistent({2, Size}, fun() -> binary:copy(<<"l">>, Size) end);
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
    {ok, spawn_link(fun idle/0)}.

%% Returns the spec of a child whose start sends `{starting, Pid}' to a process, and waits for
%% `continue'.
gated_spec(Name, Gate) ->
    {Name, {?MODULE, start_gated, [Gate]}, temporary, 200, worker, []}.

start_gated(Gate) ->
    Gate ! {starting, self()},
    receive
        continue -> {ok, spawn_link(fun idle/0)}
    end.

%% Takes and forgets messages.
idle() ->
    receive
        _ -> idle()
    end.

%% Pids for tables that are filled without processes. Each is another one, of a process that never
%% existed.
child_pid(N) -> pid(2 * N).

keeper_pid(N) -> pid(2 * N + 1).

pid(N) ->
    list_to_pid(lists:concat(["<0.", N rem 32768, ".", 1000 + N div 32768, ">"])).

%% Returns a pid of another node.
remote_pid(Node, N) ->
    Name = atom_to_binary(Node),
    binary_to_term(<<131, 88, 119, (byte_size(Name)), Name/binary, N:32, 0:32, 1:32>>).

%% Returns a row of the results.
row(Side, Operation, Mode, Unit, Figures) ->
    #{side => Side, operation => Operation, mode => Mode, unit => Unit, figures => Figures}.

time(Fun) ->
    Start = clock(),
    Result = Fun(),
    {clock() - Start, Result}.

%% Returns the result of a fun, and the slices of at least 1 ms that the VM reports while a process
%% runs it, in nanoseconds.
slices(Fun) ->
    _ = erlang:system_monitor(self(), [{long_schedule, 1}]),
    {Pid, Monitor} = spawn_monitor(fun() -> exit({result, Fun()}) end),
    Result =
        receive
            {'DOWN', Monitor, process, Pid, {result, Returned}} -> Returned;
            {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
        end,
    _ = erlang:system_monitor(undefined),
    {Result, reported()}.

reported() ->
    receive
        {monitor, _, long_schedule, Info} ->
            [1000000 * proplists:get_value(timeout, Info) | reported()]
    after 0 -> []
    end.

%% Computes for so many milliseconds.
compute(Milliseconds) ->
    compute_until(erlang:monotonic_time(millisecond) + Milliseconds).

compute_until(End) ->
    case erlang:monotonic_time(millisecond) > End of
        true -> ok;
        false -> compute_until(End)
    end.

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
