%% Promise: nodes that run different releases of OTP are members of one cluster zone as nodes of one
%% release are.
%%
%% `make test-otp` runs this suite and all those of test/cluster on nodes of two releases, which are
%% started in turn: see `systems`.
-module(cluster_releases_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(clusters, [on/4, settle/2, subscriber/1, events/2]).
-import(cluster_child, [spec/1, spec/2]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        the_nodes_run_two_releases,
        members_rank_names_alike,
        names_and_attributes_of_all_kinds_reach_the_other_release,
        a_loser_hands_over_to_a_winner_of_the_other_release,
        nodes_are_replaced_by_nodes_of_the_other_release
    ].

init_per_suite(Config) ->
    length(systems:all()) > 1 orelse ct:fail("there is no other release: use `make test-otp`"),
    Config.

end_per_suite(_Config) ->
    ok.

release(Member) ->
    on(Member, erlang, system_info, [otp_release]).

%% Each node has a library that its own release has compiled.
the_nodes_run_two_releases(_) ->
    clusters:with(2, z, fun([One, Other] = Members) ->
        ?assertNotEqual(release(One), release(Other)),
        [?assertEqual(compiler(M), compiler_of_library(M)) || M <- Members],
        ct:pal("OTP ~s and OTP ~s", [release(One), release(Other)])
    end).

compiler(Member) ->
    ok = on(Member, application, load, [compiler]),
    {ok, Version} = on(Member, application, get_key, [compiler, vsn]),
    Version.

compiler_of_library(Member) ->
    Compilation = on(Member, gen_tracker_cluster, module_info, [compile]),
    proplists:get_value(version, Compilation).

%% Terms of all kinds; those that are made by a node come from both.
terms(Members) ->
    [
        a, 'ä', <<"b">>, <<>>, <<5:3>>, binary:copy(<<"c">>, 1000), "d", [], [e | f], {}, {g, 1},
        0, -1, 1 bsl 59, 1 bsl 60, -(1 bsl 63), 1 bsl 64, 1 bsl 2000, 0.0, 1.0, 1.0e300, #{},
        #{h => 1, 1 => 2, 1.0 => 3, <<"i">> => [#{}]}, maps:from_list([{N, N} || N <- range(100)]),
        fun lists:map/2, fun() -> a end, fun(X) -> {X, [Node || {_, Node} <- Members]} end
    ] ++ [
        Term
     || Member <- Members,
        Term <- [
            on(Member, erlang, self, []),
            on(Member, erlang, whereis, [kernel_sup]),
            on(Member, erlang, make_ref, []),
            hd(on(Member, erlang, ports, []))
        ]
    ].

range(Number) ->
    lists:seq(1, Number).

%% The rank decides which member is the home of a name, and who stays after a conflict.
members_rank_names_alike(_) ->
    clusters:with(2, z, fun(Members) ->
        Alike = fun(Module, Function, Arguments) ->
            Values = [on(M, Module, Function, Arguments) || M <- Members],
            ?assertMatch([_], lists:usort(Values), Arguments)
        end,
        [
            begin
                [
                    Alike(gen_tracker_cluster_conflicts, rank, [Name, Node])
                 || {_, Node} <- Members
                ],
                Alike(gen_tracker_cluster, home, [z, Name])
            end
         || Name <- terms(Members)
        ]
    end).

names_and_attributes_of_all_kinds_reach_the_other_release(_) ->
    Options = #{cluster => #{copied => [copied]}, index => [indexed]},
    clusters:with(2, z, Options, fun(Members) ->
        [
            begin
                Pid = open(Opens, Term),
                wait:until(fun() -> found(Opens, Term) =:= {ok, Pid} end),
                Pairs = [{copied, Term}, {indexed, Term}, {Term, Term}],
                ok = on(Opens, gen_tracker_cluster, setattr, [z, Term, Pairs]),
                wait:until(fun() ->
                    lists:all(fun(M) -> is_there(M, Term, Pid, Pairs) end, Members)
                end),
                ok = on(Opens, supervisor, terminate_child, [{z, node(Pid)}, Term]),
                wait:until(fun() ->
                    [] =:= [M || M <- Members, undefined =/= found(M, Term)]
                end)
            end
         || Term <- terms(Members), Opens <- Members
        ],
        settle(Members, z)
    end).

found(Member, Name) ->
    on(Member, gen_tracker_cluster, find, [z, Name]).

is_there(Member, Term, Pid, Pairs) ->
    found(Member, Term) =:= {ok, Pid} andalso
        on(Member, gen_tracker_cluster, lookup, [z, indexed, Term]) =:= [{Term, Pid}] andalso
        on(Member, gen_tracker_cluster, getattr, [z, Term, copied]) =:= {ok, Term} andalso
        lists:sort(on(Member, gen_tracker_cluster, info, [z, Term])) =:= lists:sort(Pairs).

%% Each of the two members has the loser once.
a_loser_hands_over_to_a_winner_of_the_other_release(_) ->
    Options = #{cluster => #{conflict => {cluster_child, hand_over}}},
    clusters:with(2, z, Options, fun([One, Other] = Members) ->
        Subscribers = [{M, element(1, subscriber(M))} || M <- Members],
        clusters:cut([One], [Other]),
        Conflicts = [conflict(Loses, Wins) || [Loses, Wins] <- [Members, [Other, One]]],
        clusters:join(Members),
        settle(Members, z),
        [
            begin
                Books = on(Loses, clusters, books, []),
                ?assertEqual([Winner], [W || {handed_over, N, W, state} <- Books, N =:= Name]),
                ?assertEqual(
                    [{conflict, Winner}], [Reason || {ended, N, Reason} <- Books, N =:= Name]
                ),
                [?assertEqual({ok, Winner}, found(M, Name)) || M <- Members],
                [
                    ?assert(lists:member({conflict, Name, Winner, Loser}, events(M, Subscriber)))
                 || {M, Subscriber} <- Subscribers
                ]
            end
         || {Name, Loses, Loser, Winner} <- Conflicts
        ]
    end).

%% Opens a name on two members that are not connected, which the first one will lose.
conflict({_, LosersNode} = Loses, {_, WinnersNode} = Wins) ->
    Rank = fun(Name, Node) -> gen_tracker_cluster_conflicts:rank(Name, Node) end,
    [Name | _] = [
        N
     || N <- range(100), Rank(N, LosersNode) < Rank(N, WinnersNode)
    ],
    [{ok, Loser}, {ok, Winner}] = [
        on(M, gen_tracker, find_or_open, [z, spec(Name, permanent)])
     || M <- [Loses, Wins]
    ],
    {Name, Loses, Loser, Winner}.

%% As in an upgrade of a cluster: nodes of the other release join, and those of the first one are
%% drained and stopped.
nodes_are_replaced_by_nodes_of_the_other_release(_) ->
    clusters:with(4, z, fun([First, Second, Third, Fourth] = Members) ->
        {Old, New} = {[First, Third], [Second, Fourth]},
        ?assertMatch([_], lists:usort([release(M) || M <- Old])),
        ?assertMatch([_], lists:usort([release(M) || M <- New])),
        [ok = on(M, clusters, stop_zone, [z]) || M <- New],
        settle(Old, z),
        Names = range(1200),
        Before = lists:sort([{N, open(one_of(Old, N), N)} || N <- Names]),
        [
            begin
                ok = on(M, clusters, start_zone, [z, #{cluster => true}]),
                ok = until_member(M, Old)
            end
         || M <- New
        ],
        settle(Members, z),
        [?assertEqual(Before, clusters:directory(M, z)) || M <- Members],
        ?assertEqual(Before, [{N, open(one_of(New, N), N)} || N <- Names]),
        replace(Old, New, Names),
        settle(New, z),
        [?assertEqual(Names, lists:sort(on(M, gen_tracker_cluster, names, [z]))) || M <- New]
    end).

one_of(Members, Number) ->
    lists:nth(1 + Number rem length(Members), Members).

open(Member, Name) ->
    {ok, Pid} = on(Member, gen_tracker_cluster, find_or_open, [z, spec(Name)]),
    Pid.

%% Waits until a node is a member for others.
until_member({_, Node}, Others) ->
    wait:until(fun() ->
        lists:all(
            fun(M) -> lists:member(Node, on(M, gen_tracker_cluster, members, [z])) end, Others
        )
    end).

%% Drains the old members one by one. Opens each name that has ended again, on a new member.
replace([], _New, _Names) ->
    ok;
replace([{Peer, Node} = Old | Rest], New, Names) ->
    Drained = drain(Old),
    wait:until(fun() -> lists:all(fun(M) -> not is_home(M, Node) end, Rest ++ New) end),
    Moved = of_node(Old, Node),
    ?assertNotEqual([], Moved),
    [ok = on(Old, supervisor, terminate_child, [z, N]) || N <- Moved],
    receive
        {Drained, ok} -> ok
    end,
    wait:until(fun() -> lists:all(fun(M) -> of_node(M, Node) =:= [] end, Rest ++ New) end),
    [?assertNotEqual(Node, node(open(one_of(New, N), N))) || N <- Names],
    ok = peer:stop(Peer),
    replace(Rest, New, Names).

%% Returns the names that a member finds on a node.
of_node(Member, Node) ->
    [Name || {Name, Pid} <- clusters:directory(Member, z), node(Pid) =:= Node].

%% Drains a member in a process of its own, which sends the result.
drain(Member) ->
    Test = self(),
    spawn_link(fun() ->
        Test ! {self(), on(Member, gen_tracker_cluster, drain, [z])}
    end).

is_home(Member, Node) ->
    lists:member(Node, clusters:homes(Member, z)).
