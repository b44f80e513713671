%% @private
%% Match specifications and sums over the running children of a zone, page by page.
%%
%% The table makes a row `{Name, Pid, #{Key => Value}}' of each child, and OTP's own engine matches
%% the rows of a page. If the match specification asks for certain keys only, in the map patterns of
%% its heads, the rows have no others: a row costs what the attributes cost that are asked for.
%% Rows that a condition of the match specification rules out, in its head or its guards, are not
%% made at all, if the table can tell.
-module(gen_tracker_selection).

-export([select/2, select/3, continue/1, count/2, sum/2]).

-export_type([continuation/0]).

-record(selection, {
    zone :: gen_tracker:zone(),
    match_spec :: ets:match_spec(),
    compiled :: ets:comp_match_spec(),
    items :: proctab_nif:items(),
    limit :: pos_integer() | undefined
}).

-opaque continuation() ::
    {#selection{}, From :: non_neg_integer() | done, Matches :: [term()]} | '$end_of_table'.

%% @doc Returns all matches.
-spec select(gen_tracker:zone(), ets:match_spec()) -> [term()].
select(Zone, MatchSpec) ->
    Add = fun(Matches, All) -> lists:reverse(Matches, All) end,
    fold(Add, [], selection(Zone, MatchSpec, undefined), 0).

%% @doc Returns for how many rows the match specification returns `true'.
-spec count(gen_tracker:zone(), ets:match_spec()) -> non_neg_integer().
count(Zone, MatchSpec) ->
    Add = fun(Matches, Count) -> Count + length([true || true <- Matches]) end,
    fold(Add, 0, selection(Zone, MatchSpec, undefined), 0).

%% @doc Returns at most `Limit' matches, and how to go on.
-spec select(gen_tracker:zone(), ets:match_spec(), Limit :: pos_integer()) ->
          {[term()], continuation()} | '$end_of_table'.
select(Zone, MatchSpec, Limit) ->
    portion([], 0, selection(Zone, MatchSpec, Limit), 0).

%% @doc Returns the next matches. Raises `badarg' if the zone does not run, or the term is no
%% continuation.
-spec continue(continuation()) -> {[term()], continuation()} | '$end_of_table'.
continue('$end_of_table') ->
    '$end_of_table';
continue({#selection{zone = Zone, limit = Limit} = Selection, From, Matches})
        when is_atom(Zone), is_integer(Limit), Limit > 0 ->
    portion(Matches, length(Matches), compiled(Selection), From);
continue(_) ->
    error(badarg).

%% @doc Returns the sum of an attribute.
-spec sum(gen_tracker:zone(), gen_tracker:key()) -> integer().
sum(Zone, Key) ->
    sum(Zone, {integers, Key}, 0, 0).

sum(_, _, done, Sum) ->
    Sum;
sum(Zone, Items, From, Sum) ->
    {Integers, Next} = proctab_nif:page(Zone, From, Items, []),
    sum(Zone, Items, Next, lists:foldl(fun erlang:'+'/2, Sum, Integers)).

%%% Pages

%% Raises `badarg' for a match specification that is too large for a table, before it is compiled:
%% its parts may be shared so often that it could not be read.
selection(Zone, MatchSpec, Limit) ->
    _ = proctab_nif:find(Zone, MatchSpec),
    _ = compile(MatchSpec),
    {Items, OfItems} = items(MatchSpec),
    #selection{
        zone = Zone,
        match_spec = MatchSpec,
        compiled = compile(OfItems),
        items = Items,
        limit = Limit
    }.

%% `ets:select/2' takes a match specification without clauses, which matches nothing. One that is
%% nested too deeply is malformed.
compile([]) ->
    compile([{'_', [false], [true]}]);
compile(MatchSpec) ->
    try
        ets:match_spec_compile(MatchSpec)
    catch
        error:system_limit -> error(badarg)
    end.

%% A continuation that was sent to another node or stored outside of the VM has lost its compiled
%% form.
compiled(#selection{match_spec = MatchSpec, compiled = Compiled} = Selection) ->
    case ets:is_compiled_ms(Compiled) of
        true -> Selection;
        false -> selection(Selection#selection.zone, MatchSpec, Selection#selection.limit)
    end.

fold(_, Acc, _, done) ->
    Acc;
fold(Add, Acc, Selection, From) ->
    {Matches, Next} = page(Selection, From),
    fold(Add, Add(Matches, Acc), Selection, Next).

page(#selection{zone = Zone, items = Items, compiled = Compiled}, From) ->
    case proctab_nif:page(Zone, From, Items, []) of
        {[], Next} -> {[], Next};
        {Rows, Next} -> {ets:match_spec_run(Rows, Compiled), Next}
    end.

%% Returns `Limit' matches, fewer at the end of the zone. Those of the last page that are more are
%% kept in the continuation.
portion(Matches, Count, #selection{limit = Limit} = Selection, From) when Count >= Limit ->
    {Portion, Others} = lists:split(Limit, Matches),
    {Portion, continuation(Selection, From, Others)};
portion([], 0, _, done) ->
    '$end_of_table';
portion(Matches, _, _, done) ->
    {Matches, '$end_of_table'};
portion(Matches, Count, Selection, From) ->
    {More, Next} = page(Selection, From),
    portion(More ++ Matches, Count + length(More), Selection, Next).

continuation(_, done, []) -> '$end_of_table';
continuation(Selection, From, Matches) -> {Selection, From, Matches}.

%%% What the pages have to have

%% Returns what the pages must have: all attributes, or those of the keys that the match
%% specification asks for, and of which rows; and the match specification for these pages. A row for
%% a single clause with a map pattern has the values themselves instead of a map.
%%
%% The conditions are necessary, not sufficient. They come from a single clause: of several, each
%% may fail at another moment although one of them matches at all times.
items([{{Name, Pid, #{} = Pattern}, Guards, Body} = Clause]) ->
    Conditions = conditions(Pattern, Guards),
    case asked_keys([Clause]) of
        all ->
            {{rows, all, Conditions}, [Clause]};
        Keys ->
            Values = [maps:get(Key, Pattern) || Key <- Keys],
            Head = list_to_tuple([Name, Pid | Values]),
            {{fields, Keys, Conditions}, [{Head, Guards, Body}]}
    end;
items([{{Name, Pid, '_'}, Guards, Body}] = Clauses) ->
    case asked_keys(Clauses) of
        all -> {{rows, all, []}, Clauses};
        [] -> {{fields, [], []}, [{{Name, Pid}, Guards, Body}]}
    end;
items([{{_, _, Attributes}, Guards, _}] = Clauses) ->
    {{rows, asked_keys(Clauses), conditions(Attributes, Guards)}, Clauses};
items(Clauses) ->
    {{rows, asked_keys(Clauses), []}, Clauses}.

asked_keys(Clauses) ->
    try
        maps:keys(maps:from_keys(lists:flatmap(fun keys/1, Clauses), asked))
    catch
        throw:all -> all
    end.

keys({{Name, Pid, Attributes}, Guards, Body}) ->
    _ = has('$_', [Guards | Body]) andalso throw(all),
    case Attributes of
        '_' -> [];
        #{} -> keys_of_pattern(Attributes);
        _ -> keys_of_variable(Attributes, [Name, Pid], [Guards | Body])
    end;
keys({'_', Guards, Body}) ->
    _ = has('$_', [Guards | Body]) andalso throw(all),
    [];
keys(_) ->
    throw(all).

keys_of_pattern(Pattern) ->
    Keys = maps:keys(Pattern),
    _ = lists:all(fun is_plain/1, Keys) orelse throw(all),
    Keys.

%% If the map is a variable, and used for nothing but its values.
keys_of_variable(Variable, Others, Terms) ->
    _ = is_variable(Variable) andalso not has(Variable, Others) andalso not has('$$', Terms)
        orelse throw(all),
    keys_used(Variable, Terms).

keys_used(Variable, {Function, Key, Variable}) when Function =:= map_get; Function =:= is_map_key ->
    _ = is_plain(Key) orelse throw(all),
    [Key];
keys_used(Variable, Variable) ->
    throw(all);
keys_used(Variable, [Head | Tail]) ->
    keys_used(Variable, Head) ++ keys_used(Variable, Tail);
keys_used(Variable, Tuple) when is_tuple(Tuple) ->
    keys_used(Variable, tuple_to_list(Tuple));
keys_used(Variable, #{} = Map) ->
    keys_used(Variable, maps:to_list(Map));
keys_used(_, _) ->
    [].

%% Whether a term has this atom in it: `$_' is the whole row.
has(Atom, Atom) -> true;
has(Atom, [Head | Tail]) -> has(Atom, Head) orelse has(Atom, Tail);
has(Atom, Tuple) when is_tuple(Tuple) -> has(Atom, tuple_to_list(Tuple));
has(Atom, #{} = Map) -> has(Atom, maps:to_list(Map));
has(_, _) -> false.

%% Whether a term in a pattern or a guard is a constant: no variable, and nothing with one in it.
is_plain(Term) when is_atom(Term) -> Term =/= '_' andalso hd(atom_to_list(Term) ++ "_") =/= $$;
is_plain(Term) -> is_number(Term) orelse is_binary(Term) orelse is_pid(Term) orelse Term =:= [].

is_variable(Term) ->
    is_atom(Term) andalso re:run(atom_to_list(Term), "^\\$[0-9]+$", [{capture, none}]) =:= match.

%%% Conditions

conditions(#{} = Pattern, Guards) ->
    Values = [{Key, Value} || {Key, Value} <- maps:to_list(Pattern), is_plain(Key)],
    Keys = maps:from_list([{Value, Key} || {Key, Value} <- Values, is_variable(Value)]),
    KeyOf = fun(Operand) -> maps:find(Operand, Keys) end,
    lists:map(fun of_value/1, Values) ++ of_guards(KeyOf, Guards);
conditions(Variable, Guards) ->
    KeyOf = fun
        ({map_get, Key, Map}) when Map =:= Variable ->
            case is_variable(Variable) andalso is_plain(Key) of
                true -> {ok, Key};
                false -> error
            end;
        (_) ->
            error
    end,
    of_guards(KeyOf, Guards).

of_value({Key, Value}) ->
    case is_plain(Value) andalso is_comparable(Value) of
        true -> {Key, '=:=', Value};
        false -> {Key, '_', []}
    end.

%% All guards must be true, so each guard that compares an attribute with a constant is a condition.
of_guards(KeyOf, Guards) ->
    lists:flatmap(fun(Guard) -> of_guard(KeyOf, Guard) end, Guards).

of_guard(KeyOf, Guard) when tuple_size(Guard) > 1, element(1, Guard) =:= 'andalso' ->
    of_guards(KeyOf, tl(tuple_to_list(Guard)));
of_guard(KeyOf, {Operator, One, Other}) ->
    case {KeyOf(One), constant(Other), constant(One), KeyOf(Other)} of
        {{ok, Key}, {ok, Constant}, _, _} -> condition(Key, Operator, Constant);
        {_, _, {ok, Constant}, {ok, Key}} -> condition(Key, turned(Operator), Constant);
        _ -> []
    end;
of_guard(_, _) ->
    [].

condition(Key, Operator, Constant) ->
    case operator(Operator) of
        none -> [];
        Comparing -> [{Key, Comparing, Constant}]
    end.

%% An integer or an exact term is equal to the same values by both operators, but for floats, which
%% the table does not compare.
operator('==') -> '=:=';
operator('/=') -> '=/=';
operator(Operator) when Operator =:= '=:='; Operator =:= '=/=' -> Operator;
operator(Operator) when Operator =:= '<'; Operator =:= '=<' -> Operator;
operator(Operator) when Operator =:= '>'; Operator =:= '>=' -> Operator;
operator(_) -> none.

turned('<') -> '>';
turned('=<') -> '>=';
turned('>') -> '<';
turned('>=') -> '=<';
turned(Operator) -> Operator.

constant({const, Constant}) ->
    comparable(Constant);
constant(Term) ->
    case is_plain(Term) of
        true -> comparable(Term);
        false -> error
    end.

comparable(Term) ->
    case is_comparable(Term) of
        true -> {ok, Term};
        false -> error
    end.

%% Whether the table can compare values with a term without making terms.
is_comparable(Term) ->
    is_integer(Term) andalso abs(Term) < 1 bsl 62
        orelse is_atom(Term)
        orelse is_binary(Term) andalso byte_size(Term) =< 64
        orelse is_pid(Term) andalso node(Term) =:= node()
        orelse Term =:= [].
