%% Promise: whatever is killed, suspended, flooded, stopped or reloaded under load, no child, no
%% call of `after_terminate`, no count and no cleanup is lost or repeated, and no process or table
%% is left over.
%%
%% The faults are random, with new seeds. `faults:replay/1` runs a failed round again.
-module(faults_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 10}}].

all() ->
    [
        nothing_is_lost_or_repeated_under_random_faults,
        nothing_is_lost_or_repeated_by_upgrades_under_load
    ].

nothing_is_lost_or_repeated_under_random_faults(_) ->
    Seeds = [rand:uniform(1 bsl 32) || _ <- lists:seq(1, 8)],
    Rounds = other_node:run(#{name => peer:random_name()}, 540000, fun() -> rounds(Seeds) end),
    Add = fun(_, One, Other) -> One + Other end,
    Sum = fun(Figures, Sums) -> maps:merge_with(Add, Figures, Sums) end,
    ct:pal("~p", [lists:foldl(Sum, #{}, [figures(Round) || Round <- Rounds])]).

%% Runs rounds up to the first that fails, in a node that may start another one.
rounds([]) ->
    [];
rounds([Seed | Seeds]) ->
    case faults:round(Seed, small) of
        {ok, Figures} -> [{ok, Figures} | rounds(Seeds)];
        {failed, History} -> [{failed, History}]
    end.

figures({ok, Figures}) ->
    Figures;
figures({failed, History}) ->
    io:format("~p~n", [History]),
    ct:fail({round_failed, maps:with([seed, size, wrong, crash, left_over], History)}).

%% Upgrades twice, as a release does.
nothing_is_lost_or_repeated_by_upgrades_under_load(Config) ->
    Dir = proplists:get_value(priv_dir, Config),
    Ebin = filename:dirname(code:which(gen_tracker)),
    [First | Next] = [
        faults_versions:make(Ebin, Dir, Version)
     || Version <- ["1.0.0", "1.1.0", "2.0.0"]
    ],
    Seed = rand:uniform(1 bsl 32),
    tracked_process:on_node(#{}, fun() -> upgrade(Seed, First, Next) end).

upgrade(Seed, First, Next) ->
    true = code:add_patha(filename:join(First, "ebin")),
    ok = application:start(proctab),
    {module, proctab_nif} = code:ensure_loaded(proctab_nif),
    Native = code:is_loaded(proctab_nif),
    Figures = figures(faults:upgrades(Seed, Next)),
    %% Three zones, each with an event process, and two servers, each with a reaper.
    Processes = #{
        gen_tracker => 3,
        gen_tracker_events => 3,
        metrics_process_tracker => 1,
        stats_hero_monitor => 1,
        proctab_reaper => 2
    },
    ?assertEqual(
        maps:map(fun(_, Count) -> Count * length(Next) end, Processes),
        maps:from_list([{Module, Times} || {{changed, Module}, Times} <- maps:to_list(Figures)])
    ),
    Modules = [gen_tracker_requests, gen_tracker_keeper | maps:keys(Processes)],
    ?assertEqual(["2.0.0"], lists:usort([version(Module) || Module <- Modules])),
    ?assertEqual(Native, code:is_loaded(proctab_nif)),
    ?assertMatch({_, _, "2.0.0"}, lists:keyfind(proctab, 1, application:which_applications())).

version(Module) ->
    proplists:get_value(vsn, Module:module_info(attributes)).
