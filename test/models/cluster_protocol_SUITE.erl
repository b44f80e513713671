%% Promise: the protocol of a cluster zone (doc/internals/cluster.md) keeps its invariants in every
%% order of signals, broken connections, ends of cluster processes, deaths and starts.
%%
%% Spin checks a model of the protocol, `test/models/cluster/directory.pml'. Each fault that the
%% model can contain must be found: otherwise the check of the protocol would prove nothing.
-module(cluster_protocol_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        no_order_of_events_breaks_the_protocol,
        every_planted_fault_is_found
    ].

init_per_suite(Config) ->
    case os:find_executable("spin") of
        false -> {skip, "spin is not installed"};
        _ -> Config
    end.

end_per_suite(_Config) ->
    ok.

no_order_of_events_breaks_the_protocol(_Config) ->
    Lines = check("gate"),
    ?assertEqual(8, length([Line || <<"sound: ", _/binary>> = Line <- Lines]), Lines).

%% The model declares its faults in lines `#define old_stream 1'.
every_planted_fault_is_found(_Config) ->
    Model = documents:text("test/models/cluster/directory.pml"),
    Options = [global, {capture, [1], binary}],
    {match, Declared} = re:run(Model, "(?m)^#define ([a-z_]+) [1-9]\\d* +/\\*", Options),
    Lines = check("faults"),
    Found = [
        Fault
     || Line <- Lines, {match, [Fault]} <- [re:run(Line, "^found: FAULT=(\\w+)", tl(Options))]
    ],
    ?assertEqual(lists:sort(lists:append(Declared)), lists:sort(Found)).

check(What) ->
    Output = documents:run(source_tree:root(), [], ["test/models/cluster/check ", What]),
    ct:pal("~ts", [Output]),
    binary:split(Output, <<"\n">>, [global]).
