%% Calls of gen_tracker with terms that are wrong in one place, for suites that promise what comes
%% of them.
-module(wrong_calls).

-export([calls/2, with/3, no_zones/0, no_lists/1, no_integers/0, wrong_spec_fields/0]).
-export([without_end/0]).

-define(NAME, <<"tv1">>).
-define(VOID, <<"nobody">>).

%% Calls of gen_tracker on a zone with the name `Zone`, in which the child `<<"tv1">>`, the
%% process `Pid`, has the integer attribute `n` and another one, `url`, and there is no child
%% `<<"nobody">>`. Returns `{Function, Arguments, [{Place, WrongTerms}]}`: the arguments are
%% right, and each wrong term is wrong in the place of this argument. Names, keys and values may
%% be any terms.
calls(Zone, Pid) ->
    [
        {find, [Zone, ?NAME], []},
        {find, [Zone, ?NAME, 0], [{3, no_timeouts()}]},
        {which_children, [Zone], []},
        {add_existing_child, [Zone, {added, Pid, worker, []}], [{2, no_children(Pid)}]},
        {wait, [Zone], []},
        {setattr, [Zone, ?NAME, [{n, 2}]], [{3, neither_lists_nor_maps([{n, 2}])}]},
        {setattr, [Zone, ?NAME, n, 2], []},
        {getattr, [Zone, ?NAME, n], []},
        {getattr, [Zone, ?NAME, n, 0], [{4, no_timeouts()}]},
        {delattr, [Zone, ?NAME, url], []},
        {increment, [Zone, ?NAME, n, 1], [{3, [none, url]}, {2, [?VOID]}, {4, no_integers()}]},
        {increment, [Zone, ?NAME, n, 1, 0], [{3, [url]}, {4, no_integers()}]},
        {increment, [Zone, ?NAME, n, {2, 1}], [{4, [{2, 1.0}, {1, 1}, {2, 1, a, 0}, {2, 1, 0}]}]},
        {increment, [Zone, ?VOID, n, 1, 0], [{4, no_integers()}, {5, no_integers()}]},
        {info, [Zone, ?NAME], []},
        {info, [Zone, ?NAME, [n]], [{3, no_lists([n])}]},
        {info, [Zone, ?VOID, [n]], [{3, no_lists([n])}]},
        {attrs, [Zone, ?NAME], []},
        {list, [Zone], []},
        {list, [Zone, [n]], [{2, no_lists([n])}]},
        {count, [Zone], []},
        {names, [Zone], []},
        {cas, [Zone, ?NAME, n, 1, 2], []},
        {update, [Zone, ?NAME, n, fun(N) -> N end], [{4, [fun() -> 1 end, n, 1, [], {}]}]},
        {sum, [Zone, n], []},
        {select, [Zone, [{'_', [], [true]}]], [{2, no_match_specs()}]},
        {select, [Zone, [{'_', [], [true]}], 1], [{2, no_match_specs()}, {3, no_limits()}]},
        {select_count, [Zone, [{'_', [], [true]}]], [{2, no_match_specs()}]},
        {subscribe, [Zone], []},
        {subscribe, [Zone, {name, ?NAME}], [{2, [all, {name}, {key, n}, [], #{name => n}]}]},
        {unsubscribe, [Zone], []}
    ].

%% Terms that are no name of a running zone.
no_zones() ->
    [
        not_running,
        kernel_sup,
        undefined,
        "zone",
        <<"zone">>,
        1,
        1.0,
        [],
        {},
        #{},
        self(),
        make_ref(),
        fun() -> ok end
    ].

%% Terms that are no proper list; one of them is `List` with an improper tail.
no_lists(List) ->
    [
        atom,
        1,
        1.0,
        <<"[]">>,
        {},
        hd(List),
        #{n => 2},
        self(),
        make_ref(),
        List ++ improper,
        [improper | 1]
    ].

no_timeouts() ->
    [-1, -1 bsl 80, 0.0, 1.5, soon, "1", <<>>, [], {0}].

no_limits() ->
    [0, -1, 1.0, infinity, [], {1}].

no_match_specs() ->
    [all, {}, #{}, 1, self(), [all], [{}], [{'_', [], []}, x], [{'_', [], [{no_action}]}]].

neither_lists_nor_maps(List) ->
    [Term || Term <- no_lists(List), not is_map(Term)].

%% Terms that are no integer.
no_integers() ->
    [1.0, one, "1", <<"1">>, [], {}, {1}, [1], #{}, self(), <<1:3>>].

no_children(Pid) ->
    Spec = {added, {tracked_child, start_link, [Pid]}, temporary, 200, worker, []},
    Short = {added, Pid, worker, []},
    [
        atom,
        [],
        {},
        #{},
        Pid,
        {added, Pid},
        {added, Pid, worker},
        {Pid, Spec, more},
        {Pid, {added, start, temporary}}
    ] ++
        [setelement(2, Short, Wrong) || Wrong <- [atom, "pid", make_ref()]] ++
        [setelement(3, Short, Wrong) || Wrong <- [supervisor, 1, "worker"]] ++
        [{Wrong, Spec} || Wrong <- [atom, "pid", make_ref()]] ++
        [
            {Pid, setelement(Place, Spec, Wrong)}
         || {Place, AllWrong} <- wrong_spec_fields(), Wrong <- AllWrong
        ].

%% Returns the arguments with a term in the place of one of them.
with(Place, Arguments, Term) ->
    tuple_to_list(setelement(Place, list_to_tuple(Arguments), Term)).

%% Wrong terms for each place of a child spec, a tuple of six.
wrong_spec_fields() ->
    [
        {
            2,
            [
                start,
                {},
                [],
                {tracked_child, start_link},
                {"m", start_link, []},
                {m, "f", []},
                {m, f, 0},
                {m, f, [], []}
            ]
        },
        {3, [sometimes, "permanent", 1, [], {}]},
        {4, [-1, 1.5, soon, [], {200}]},
        {5, [manager, "worker", 1, []]},
        {6, [static, 1, {}, ["module"], [tracked_child, 1]]}
    ].

%% A term of a few words whose parts are shared. A copy without sharing has 2^60 parts.
without_end() ->
    lists:foldl(fun(_, Part) -> {Part, Part} end, [], lists:seq(1, 60)).
