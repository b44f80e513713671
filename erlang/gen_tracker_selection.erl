%% @private
%% Match specifications and sums over the running children of a zone, page by page.
%%
%% The table makes a row `{Name, Pid, #{Key => Value}}' of each child, and OTP's own engine matches
%% the rows of a page. If the match specification asks for certain keys only, in the map patterns of
%% its heads, the rows have no others: a row costs what the attributes cost that are asked for.
-module(gen_tracker_selection).

-export([select/2, select/3, continue/1, count/2, sum/2]).

-export_type([continuation/0]).

-record(selection, {
    zone :: gen_tracker:zone(),
    match_spec :: ets:match_spec(),
    compiled :: ets:comp_match_spec(),
    items :: rows | {rows, [gen_tracker:key()]},
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
    #selection{
        zone = Zone,
        match_spec = MatchSpec,
        compiled = compile(MatchSpec),
        items = items(MatchSpec),
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
    {Rows, Next} = proctab_nif:page(Zone, From, Items, []),
    {ets:match_spec_run(Rows, Compiled), Next}.

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

%%% Keys

%% Returns what the pages must have: all attributes, or those of the keys that the match
%% specification asks for.
items(Clauses) ->
    try
        {rows, maps:keys(maps:from_keys(lists:flatmap(fun keys/1, Clauses), asked))}
    catch
        throw:all -> rows
    end.

keys({{_, _, Attributes}, Guards, Body}) ->
    _ = has_object([Guards | Body]) andalso throw(all),
    keys_of(Attributes);
keys({'_', Guards, Body}) ->
    _ = has_object([Guards | Body]) andalso throw(all),
    [];
keys(_) ->
    throw(all).

keys_of('_') ->
    [];
keys_of(#{} = Pattern) ->
    Keys = maps:keys(Pattern),
    _ = lists:any(fun is_unclear/1, Keys) andalso throw(all),
    Keys;
keys_of(_) ->
    throw(all).

%% Whether a key may be a variable or have one in it.
is_unclear(Key) -> not (is_number(Key) orelse is_binary(Key) orelse is_plain(Key)).

is_plain(Key) when is_atom(Key) -> Key =/= '_' andalso hd(atom_to_list(Key) ++ "_") =/= $$;
is_plain(_) -> false.

%% Whether a term has `$_', the whole row.
has_object('$_') -> true;
has_object([Head | Tail]) -> has_object(Head) orelse has_object(Tail);
has_object(Tuple) when is_tuple(Tuple) -> has_object(tuple_to_list(Tuple));
has_object(#{} = Map) -> has_object(maps:to_list(Map));
has_object(_) -> false.
