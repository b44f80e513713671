%% How long a scheduler is held, on a table of a million names with 4 attributes each.
%%
%% Native calls are timed one by one, by the processor time of the scheduler's thread, because the
%% operating system preempts it now and then for longer than any call takes. The same calls are made
%% in several passes. Times that the calls cause, for example by the growth of a table, are in each
%% pass; others are only in some. So the longest call is the smallest of the maxima of the passes;
%% the table also shows the largest one. The times are written into an array, so that no garbage
%% collection is long. A native call that does nothing is measured in the same way, as often as
%% names are inserted.
%%
%% The public functions, deaths and the end of a table run for many time slices. For these, the VM
%% reports slices of 1 ms and more (`long_schedule`), which include the time that the operating
%% system takes away. A process that only computes is measured in the same way: slices that are no
%% longer than its own say nothing about the library.
-module(bench_hold).

-export([groups/0, rows/2]).

-define(NAMES, bench_data:scaled(1000000)).
-define(PASSES, 5).
-define(CALLS, bench_data:scaled(100000)).
-define(DEATHS, bench_data:scaled(10000)).
-define(PAGES, [
    {"names", names},
    {"names and pids", pids},
    {"children", children},
    {"attributes", attributes},
    {"one attribute", [integer]},
    {"sizes", sizes}
]).

groups() ->
    [#{group => hold, sides => [proctab], vms => 1, processor => false, shared => false}].

rows(hold, [proctab]) ->
    Opened = #{zone := Zone, owner := Tracker} = bench_sides:open(proctab, hold, [], []),
    %% Another process ends the tracker.
    true = unlink(Tracker),
    Rows = lists:append([
        fills(),
        filled(Opened),
        [
            passes("a page of " ++ Label, [page_pass(Zone, What) || _ <- lists:seq(1, ?PASSES)])
         || {Label, What} <- ?PAGES
        ],
        single_calls(Zone),
        deaths(Opened),
        whole_calls(Zone),
        slices("the zone ends", fun() -> end_zone(Opened) end)
    ]),
    lists:flatten(Rows).

filled(Opened) ->
    slices("a million names are inserted, 4 attributes each", fun() ->
        bench_sides:fill(Opened, ?NAMES, bench_data:attributes())
    end).

%% In each pass, a table grows from nothing to a million names, and is closed by one call.
fills() ->
    {Inserts, Sets, Ends} = lists:unzip3([
        fill("hold_fill_" ++ integer_to_list(Pass))
     || Pass <- lists:seq(1, ?PASSES)
    ]),
    [
        passes("insert of a name", Inserts),
        passes("setattr of 4 attributes of a new name", Sets),
        passes("end of the table (zone_close)", Ends)
    ].

fill(ZoneName) ->
    Zone = list_to_atom(ZoneName),
    Attributes = bench_data:attributes(),
    Spec = {{bench_data, start_child, []}, temporary, 200, worker, []},
    [Inserts, Sets, End] = All = [times(?NAMES), times(?NAMES), times(1)],
    in_process(fun() ->
        _ = proctab_nif:zone_open(Zone, shared),
        each(?NAMES, fun(N) ->
            Name = bench_data:name(N),
            {Keeper, Child} = {bench_data:keeper_pid(N), bench_data:child_pid(N)},
            true = timed(Inserts, N, fun() ->
                proctab_nif:insert(Zone, Name, Keeper, Spec, Child)
            end),
            ok = timed(Sets, N, fun() -> proctab_nif:setattr(Zone, Name, Attributes) end)
        end),
        ok = timed(End, 1, fun() -> proctab_nif:zone_close(Zone) end)
    end),
    list_to_tuple(All).

single_calls(Zone) ->
    [
        passes(Label, [single_pass(Fun) || _ <- lists:seq(1, ?PASSES)])
     || {Label, Fun} <- [
            {"find", fun(Name) -> {ok, _} = proctab_nif:find(Zone, Name) end},
            {"getattr", fun(Name) -> {ok, _} = proctab_nif:getattr(Zone, Name, integer) end},
            {
                "setattr",
                fun(Name) ->
                    ok = proctab_nif:setattr(Zone, Name, binary, <<"another twenty bytes">>)
                end
            },
            {"increment", fun(Name) -> proctab_nif:increment(Zone, Name, integer, 1) end},
            {"attributes of a name", fun(Name) -> [_ | _] = proctab_nif:attrs(Zone, Name) end},
            {"delattr", fun(Name) -> ok = proctab_nif:delattr(Zone, Name, tuple) end},
            {"count", fun(_) -> proctab_nif:count(Zone) end}
        ]
    ] ++ [empty_calls(Zone)].

empty_calls(Zone) ->
    passes("a native call that does nothing", [empty_pass(Zone) || _ <- lists:seq(1, ?PASSES)]).

empty_pass(Zone) ->
    single_pass(?NAMES, fun(Name) -> empty_nif:call(Zone, Name) end).

single_pass(Fun) ->
    single_pass(?CALLS, Fun).

single_pass(Count, Fun) ->
    Times = times(Count),
    in_process(fun() ->
        each(Count, fun(N) ->
            Name = bench_data:name(N),
            timed(Times, N, fun() -> Fun(Name) end)
        end)
    end),
    Times.

%% Reads all pages of a table, at most as many as names.
page_pass(Zone, What) ->
    Times = times(?NAMES),
    in_process(fun() -> page(Zone, What, Times, 1, 0) end),
    Times.

page(_, _, _, _, done) ->
    ok;
page(Zone, What, Times, Index, From) ->
    {_, Next} = timed(Times, Index, fun() -> proctab_nif:page(Zone, From, What, []) end),
    page(Zone, What, Times, Index + 1, Next).

times(Count) ->
    atomics:new(Count, [{signed, true}]).

timed(Times, Index, Fun) ->
    Start = empty_nif:thread_time(),
    Result = Fun(),
    ok = atomics:put(Times, Index, empty_nif:thread_time() - Start),
    Result.

each(0, _) ->
    ok;
each(N, Fun) ->
    Fun(N),
    each(N - 1, Fun).

in_process(Fun) ->
    ended(spawn_opt(Fun, [monitor, {priority, max}])).

ended({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end.

%% A time of 0 is an unused element of the array.
passes(Label, Passes) ->
    Calls = lists:seq(1, maps:get(size, atomics:info(hd(Passes)))),
    OfPasses = [
        [Time || Call <- Calls, Time <- [atomics:get(Times, Call)], Time > 0]
     || Times <- Passes
    ],
    Longest = [lists:max(Times) || Times <- OfPasses],
    [
        row(Label, "median call", [rounds:median(Times) || Times <- OfPasses]),
        row(Label, "longest call", [lists:min(Longest)]),
        row(Label, "longest seen", [lists:max(Longest)])
    ].

row(Label, Mode, Figures) ->
    bench_data:row(proctab, Label, Mode, "ns", Figures).

whole_calls(Zone) ->
    Seen = fun(_, _, Count) -> Count + 1 end,
    [
        slices(Label, Fun)
     || {Label, Fun} <- [
            {"list/1", fun() -> length(gen_tracker:list(Zone)) end},
            {"list/2 of one key", fun() -> length(gen_tracker:list(Zone, [integer])) end},
            {"which_children/1", fun() -> length(gen_tracker:which_children(Zone)) end},
            {"names/1", fun() -> length(gen_tracker:names(Zone)) end},
            {"fold/3", fun() -> gen_tracker:fold(Seen, 0, Zone) end},
            {"proctab:info/1", fun() -> proctab:info(Zone) end},
            {"proctab:top/2", fun() -> proctab:top(Zone, integer) end},
            {
                "only computing, for 2 s",
                fun() -> bench_data:compute(2000) end
            }
        ]
    ].

deaths(Opened) ->
    slices("10,000 children start and die at once", fun() -> die(Opened) end).

die(Opened) ->
    Names = [{child, N} || N <- lists:seq(1, ?DEATHS)],
    #{pids := Pids} = lists:foldl(
        fun(Name, Into) -> bench_sides:add(Into, Name, bench_data:attributes()) end, Opened, Names
    ),
    bench_zones:death_time(Opened, lists:zip(Names, lists:reverse(Pids))).

%% A background thread, which is no scheduler, frees the memory of the table.
end_zone(Opened) ->
    Before = bench_data:resident(),
    bench_sides:close(Opened),
    End = erlang:monotonic_time(millisecond) + 5000,
    bench_data:until(fun() ->
        bench_data:resident() < Before div 2 orelse erlang:monotonic_time(millisecond) > End
    end).

%% Returns the longest slice of at least 1 ms that the VM reports while a process runs a fun, or 0,
%% and the number of such slices.
slices(Label, Fun) ->
    {_, Times} = bench_data:slices(Fun),
    [
        row(Label, "longest slice", [lists:max([0 | Times])]),
        bench_data:row(proctab, Label, "slices of 1 ms and more", "slices", [length(Times)])
    ].
