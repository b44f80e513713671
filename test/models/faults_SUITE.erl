%% Promise: whatever is killed, suspended, flooded, stopped or reloaded under load, in the end the books balance: no child, no last words, no count and no cleanup is lost, none comes twice, and
%% nothing is left over. Rounds of faults at random; the seeds are fresh, and a failure prints its own.
-module(faults_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 10}}].

all() ->
    [
        the_books_balance_after_rounds_of_random_faults,
        upgrades_under_load_lose_nothing
    ].

%% `faults:replay/1' runs a round that has failed again.
the_books_balance_after_rounds_of_random_faults(_) ->
    Seeds = [rand:uniform(1 bsl 32) || _ <- lists:seq(1, 24)],
    Figures = other_node:run(#{name => peer:random_name()}, 540000, fun() -> rounds(Seeds) end),
    _ = [balanced(Failed) || {failed, _} = Failed <- [Figures]],
    ct:pal("~p", [lists:foldl(fun(More, Sum) -> maps:merge_with(fun(_, One, Other) -> One + Other end, More, Sum) end, #{}, Figures)]).

%% In a node of its own, that may be connected with another one. Up to the first that fails.
rounds([]) ->
    [];
rounds([Seed | Seeds]) ->
    case faults:round(Seed, small) of
        {ok, Figures} -> more(Figures, rounds(Seeds));
        Failed -> Failed
    end.

more(_, {failed, History}) -> {failed, History};
more(Figures, More) -> [Figures | More].

balanced({ok, Figures}) ->
    Figures;
balanced({failed, History}) ->
    ct:pal("~p", [History]),
    ct:fail({the_books_do_not_balance, maps:with([seed, size, wrong, crash, left_over], History)}).

%% From version to version, as a release does it.
upgrades_under_load_lose_nothing(Config) ->
    Dir = proplists:get_value(priv_dir, Config),
    Ebin = filename:dirname(code:which(gen_tracker)),
    [First | Next] = [faults_versions:make(Ebin, Dir, Version) || Version <- ["1.0.0", "1.1.0", "2.0.0"]],
    Seed = rand:uniform(1 bsl 32),
    tracked_process:on_node(#{}, fun() -> upgraded(Seed, First, Next) end).

upgraded(Seed, First, Next) ->
    true = code:add_patha(filename:join(First, "ebin")),
    ok = application:start(proctab),
    {module, proctab_nif} = code:ensure_loaded(proctab_nif),
    Native = code:is_loaded(proctab_nif),
    Figures = balanced(faults:upgrades(Seed, Next)),
    %% Three zones, each with somebody who follows its events, and two tables of processes.
    Expected = #{gen_tracker => 3, gen_tracker_events => 3, metrics_process_tracker => 1, stats_hero_monitor => 1, proctab_reaper => 2},
    ?assertEqual(maps:map(fun(_, Each) -> Each * length(Next) end, Expected), maps:from_list([{Module, Times} || {{changed, Module}, Times} <- maps:to_list(Figures)])),
    ?assertEqual(["2.0.0"], lists:usort([vsn(Module) || Module <- [gen_tracker, gen_tracker_requests, gen_tracker_keeper, gen_tracker_events, metrics_process_tracker, proctab_reaper, stats_hero_monitor]])),
    ?assertEqual(Native, code:is_loaded(proctab_nif)),
    ?assertMatch({_, _, "2.0.0"}, lists:keyfind(proctab, 1, application:which_applications())).

vsn(Module) ->
    proplists:get_value(vsn, Module:module_info(attributes)).
