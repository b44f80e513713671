%% The benchmark. A section is a module with two functions:
%%
%% - `groups/0` returns maps: the group's name (`group`), its sides, the number of VMs that measure
%%   each side (`vms`), whether processor time is measured as well (`processor`), whether all sides
%%   are also measured in one VM (`shared`), and the sides that take so long that one VM measures
%%   them (`once`);
%% - `rows/2` measures some sides of a group in the running VM, and returns rows.
%%
%% Each side of a group is measured in fresh VMs of its own, all with the same flags. The sides take
%% turns. A figure is the median of the rounds in one VM. Processor time, of all threads of the VM,
%% is measured in other VMs, whose schedulers do not spin while they have no work.
%%
%% A whole run writes `bench/results`, a quick one `_build/bench/quick`, and a run of some sections
%% only prints. The sections of a whole run are kept below `_build/bench`, and the next one of the
%% same commit goes on where the last one has failed. A wrong result ends the run; targets are
%% checked by `bench_targets`.
-module(bench).

-export([main/0]).

-define(SECTIONS, [
    {"memory", bench_memory},
    {"operations", bench_operations},
    {"starts", bench_starts},
    {"zones", bench_zones},
    {"indexes", bench_indexes},
    {"processes", bench_processes},
    {"growth", bench_growth},
    {"waits", bench_waits},
    {"hold", bench_hold},
    {"cluster", bench_cluster}
]).
%% Sections that run only when they are named.
-define(OTHERS, [{"scale", bench_scale}]).

-define(FLAGS, ["-noshell", "+Bd", "+P", "1000000"]).
-define(NO_SPINNING, ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]).
%% Processor time varies less.
-define(PROCESSOR_VMS, 3).
%% Rounds in a VM that measures one side, and in one that measures all.
-define(ROUNDS, 3).
-define(SHARED_ROUNDS, 7).

main() ->
    [Results | Arguments] = init:get_plain_arguments(),
    _ = application:ensure_all_started(elixir),
    %% A dead child is a report. Only where they are measured, reports are written.
    ok = logger:set_primary_config(level, none),
    case Arguments of
        ["check"] ->
            halt(bench_check:main(Results));
        ["measure", File | What] ->
            measure(File, What);
        ["quick" | Names] ->
            bench_data:set(elapsed, 1, true),
            report(filename:join(filename:dirname(code:which(?MODULE)), "quick"), Names);
        Names ->
            report(Results, Names)
    end,
    halt(0).

report(Folder, []) ->
    Kept = kept(),
    Sections = [{Name, section(Name, Module, Kept)} || {Name, Module} <- ?SECTIONS],
    bench_report:write(Folder, Sections),
    _ = file:del_dir_r(Kept),
    ok;
report(_, Names) ->
    io:put_chars(bench_report:markdown(sections(Names))).

%% Returns `{Name, Rows}` of each section. A row tells by `vm` where it was measured: `own`,
%% `processor` or `shared`.
sections(Names) ->
    [{Name, section(Name, proplists:get_value(Name, ?SECTIONS ++ ?OTHERS))} || Name <- Names].

%% Returns the folder of the sections that were measured at this commit. A tree with changes has one
%% for each run.
kept() ->
    Commit = os:getenv("COMMIT", "unknown"),
    IsKnown = re:run(Commit, "^[0-9a-f]+$") =/= nomatch andalso not bench_data:is_quick(),
    Name =
        case IsKnown of
            true -> Commit;
            false -> Commit ++ os:getpid()
        end,
    filename:join([filename:dirname(code:which(?MODULE)), "sections", Name]).

section(Name, Module, Kept) ->
    File = filename:join(Kept, Name),
    case file:read_file(File) of
        {ok, Rows} ->
            binary_to_term(Rows);
        {error, enoent} ->
            Rows = section(Name, Module),
            ok = filelib:ensure_dir(File),
            ok = file:write_file(File, term_to_binary(Rows)),
            Rows
    end.

section(Name, undefined) ->
    io:format(standard_error, "bench/run: there is no section ~s; there are ~s~n", [
        Name,
        lists:join(", ", [Known || {Known, _} <- ?SECTIONS ++ ?OTHERS])
    ]),
    halt(2);
section(Name, Module) ->
    Start = erlang:monotonic_time(second),
    Rows = lists:append([group(Module, Group) || Group <- Module:groups()]),
    io:format(standard_error, "~s: ~b s~n", [Name, erlang:monotonic_time(second) - Start]),
    Rows.

group(Module, #{group := Group, sides := All, vms := VMs} = Options) ->
    Sides = [Side || Side <- All, bench_sides:is_available(Side)],
    Once = maps:get(once, Options, []),
    Clocks = [elapsed | [processor || maps:get(processor, Options, true)]],
    Turns = [
        {Turn, Side, Clock}
     || Turn <- lists:seq(1, turns(VMs)),
        Side <- in_turn(Turn, Sides),
        Turn =:= 1 orelse not lists:member(Side, Once),
        Clock <- Clocks,
        Clock =:= elapsed orelse Turn =< ?PROCESSOR_VMS
    ],
    Measured = [{Clock, in_own_vm(Module, Group, [Side], Clock)} || {_, Side, Clock} <- Turns],
    of_vms(own, [Rows || {elapsed, Rows} <- Measured]) ++
        of_vms(processor, [Rows || {processor, Rows} <- Measured]) ++
        [
            Row#{vm => shared}
         || maps:get(shared, Options, true),
            Row <- in_own_vm(Module, Group, Sides, shared)
        ].

turns(VMs) ->
    case bench_data:is_quick() of
        true -> 1;
        false -> VMs
    end.

in_turn(Turn, Sides) when Turn rem 2 =:= 0 -> lists:reverse(Sides);
in_turn(_, Sides) -> Sides.

%% Merges the rows of several VMs. A row that one VM measured keeps the figures of all its rounds.
of_vms(VM, RowsOfVMs) ->
    All = lists:append(RowsOfVMs),
    Key = fun(#{side := Side, operation := Operation, mode := Mode}) -> {Side, Operation, Mode} end,
    [
        Row#{vm => VM, figures := merged([Of || #{figures := Of} = R <- All, Key(R) =:= K])}
     || {K, Row} <- first_of_each([{Key(Row), Row} || Row <- All])
    ].

merged([Figures]) -> Figures;
merged(FiguresOfVMs) -> [rounds:median(Figures) || Figures <- FiguresOfVMs].

first_of_each(Pairs) ->
    Firsts = maps:from_list(lists:reverse([{Key, N} || {N, {Key, _}} <- lists:enumerate(Pairs)])),
    [Pair || {N, {Key, _} = Pair} <- lists:enumerate(Pairs), map_get(Key, Firsts) =:= N].

%% Runs `measure/2` in a fresh VM. What that prints goes to standard error.
in_own_vm(Module, Group, Sides, Kind) ->
    {ok, Here} = file:get_cwd(),
    File = filename:join([Here, filename:dirname(code:which(?MODULE)), "rows"]),
    Speed =
        case bench_data:is_quick() of
            true -> quick;
            false -> whole
        end,
    Arguments =
        ?FLAGS ++
            [Flag || Kind =:= processor, Flag <- ?NO_SPINNING] ++
            ["-pa" | string:lexemes(os:getenv("BENCH_PATHS"), ":")] ++
            ["-s", "bench", "main", "-extra", "none", "measure", File] ++
            [atom_to_list(What) || What <- [Speed, Kind, Module, Group | Sides]],
    Port = open_port({spawn_executable, os:find_executable("erl")}, [
        {args, Arguments},
        exit_status,
        stderr_to_stdout,
        binary
    ]),
    ok = ended(Port, Arguments),
    {ok, Rows} = file:read_file(File),
    binary_to_term(Rows).

ended(Port, Arguments) ->
    receive
        {Port, {data, Text}} ->
            io:put_chars(standard_error, Text),
            ended(Port, Arguments);
        {Port, {exit_status, 0}} ->
            ok;
        {Port, {exit_status, _}} ->
            io:format(standard_error, "bench/run: failed: erl ~s~n", [lists:join(" ", Arguments)]),
            halt(1)
    end.

measure(File, Words) ->
    [Speed, Kind, Module, Group | Sides] = [list_to_atom(Word) || Word <- Words],
    {Clock, Rounds} =
        case Kind of
            shared -> {elapsed, ?SHARED_ROUNDS};
            _ -> {Kind, ?ROUNDS}
        end,
    case Speed of
        quick -> bench_data:set(Clock, 1, true);
        whole -> bench_data:set(Clock, Rounds, false)
    end,
    %% The end of the run that started this VM closes its standard input.
    _ = spawn(fun() ->
        _ = io:get_line(""),
        halt(1)
    end),
    try Module:rows(Group, Sides) of
        Rows -> ok = file:write_file(File, term_to_binary(Rows))
    catch
        Class:Reason:Stack ->
            io:format(standard_error, "~s~n", [
                erl_error:format_exception(Class, Reason, Stack)
            ]),
            halt(1)
    end.
