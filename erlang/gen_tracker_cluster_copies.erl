%% @private
%% Copies of the attributes of other members' children: those of the keys that are copied, and of
%% the indexed ones. The cluster process keeps them in two ETS tables; any process reads them.
%%
%% The first table has the values by member, name and key. The second one is ordered by the hashes
%% of indexed keys with their values, so that the cost of a lookup is that of its answer. A value is
%% compared with `=:=', which a hash and a comparison of the values do in a table that is ordered by
%% `=='.
-module(gen_tracker_cluster_copies).

-export([new/2, set/4, remove/3, remove_member/3]).
-export([keys/1, indexed/1, value/4, lookup/3]).

-export_type([copies/0]).

-type copies() :: {Values :: ets:table(), Index :: ets:table(), Keys :: [gen_tracker:key()],
                   Indexed :: [gen_tracker:key() | {each, gen_tracker:key()}]}.

%% @doc Makes empty tables, of keys that are copied and of indexed ones.
-spec new([gen_tracker:key()], [gen_tracker:key() | {each, gen_tracker:key()}]) -> copies().
new(Copied, Indexed) ->
    Options = [protected, {read_concurrency, true}],
    Keys = lists:uniq(Copied ++ [key(Index) || Index <- Indexed]),
    {ets:new(?MODULE, [set | Options]), ets:new(?MODULE, [ordered_set | Options]), Keys, Indexed}.

key({each, Key}) -> Key;
key(Key) -> Key.

%% @doc Returns the keys whose attributes are copied.
-spec keys(copies()) -> [gen_tracker:key()].
keys({_, _, Keys, _}) ->
    Keys.

%% @doc Returns the indexes, by whose values copies are found.
-spec indexed(copies()) -> [gen_tracker:key() | {each, gen_tracker:key()}].
indexed({_, _, _, Indexed}) ->
    Indexed.

%% @doc Replaces the attributes of a name of a member.
-spec set(node(), gen_tracker:name(), gen_tracker:attributes(), copies()) -> ok.
set(_, _, _, {_, _, [], _}) ->
    ok;
set(Node, Name, Attributes, {_, _, Keys, _} = Copies) ->
    New = maps:with(Keys, maps:from_list(Attributes)),
    lists:foreach(fun(Key) -> set_key(Node, Name, Key, New, Copies) end, Keys).

set_key(Node, Name, Key, New, {Values, _, _, _} = Copies) ->
    case {ets:lookup(Values, {Node, Name, Key}), New} of
        {[{_, Value, _}], #{Key := Same}} when Same =:= Value ->
            ok;
        {Before, _} ->
            remove_rows(Before, Copies),
            case New of
                #{Key := Value} -> add(Node, Name, Key, Value, Copies);
                _ -> ok
            end
    end.

add(Node, Name, Key, Value, {Values, Index, _, Indexed}) ->
    Rows = [{{hash(Key, Element), make_ref()}, Key, Element, Name, Node} ||
        Element <- indexed(Key, Value, Indexed)],
    true = ets:insert(Index, Rows),
    true = ets:insert(Values, {{Node, Name, Key}, Value, [element(1, Row) || Row <- Rows]}),
    ok.

hash(Key, Value) ->
    erlang:phash2({Key, Value}, 1 bsl 32).

%% Returns the values under which a row is found.
indexed(Key, Value, Indexed) ->
    case {lists:member(Key, Indexed), lists:member({each, Key}, Indexed)} of
        {true, _} -> [Value];
        {false, true} -> elements(Value);
        {false, false} -> []
    end.

elements(Value) ->
    try length(Value) of
        _ -> lists:uniq(Value)
    catch
        error:badarg -> []
    end.

%% @doc Removes the attributes of a name of a member.
-spec remove(node(), gen_tracker:name(), copies()) -> ok.
remove(Node, Name, {Values, _, Keys, _} = Copies) ->
    lists:foreach(
        fun(Key) -> remove_rows(ets:lookup(Values, {Node, Name, Key}), Copies) end, Keys
    ).

remove_rows([], _) ->
    ok;
remove_rows([{Key, _, Rows}], {Values, Index, _, _}) ->
    true = ets:delete(Values, Key),
    lists:foreach(fun(Row) -> ets:delete(Index, Row) end, Rows).

%% @doc Removes the attributes of a member, except those of some names.
-spec remove_member(node(), Except :: #{gen_tracker:name() => []}, copies()) -> ok.
remove_member(_, _, {_, _, [], _}) ->
    ok;
remove_member(Node, Except, {Values, Index, _, _}) when map_size(Except) =:= 0 ->
    true = ets:match_delete(Values, {{Node, '_', '_'}, '_', '_'}),
    true = ets:match_delete(Index, {'_', '_', '_', '_', Node}),
    ok;
remove_member(Node, Except, {Values, _, _, _} = Copies) ->
    Names = ets:select(Values, [{{{Node, '$1', '_'}, '_', '_'}, [], ['$1']}]),
    Removed = maps:without(maps:keys(Except), maps:from_keys(Names, [])),
    lists:foreach(fun(Name) -> remove(Node, Name, Copies) end, maps:keys(Removed)).

%% @doc Returns the copy of an attribute of a member's name, or `not_copied' if its key is not
%% copied, or there is no cluster process at this moment.
-spec value(node(), gen_tracker:name(), gen_tracker:key(), copies()) ->
          {ok, gen_tracker:value()} | undefined | not_copied.
value(Node, Name, Key, {Values, _, Keys, _}) ->
    try lists:member(Key, Keys) andalso ets:lookup(Values, {Node, Name, Key}) of
        false -> not_copied;
        [{_, Value, _}] -> {ok, Value};
        [] -> undefined
    catch
        error:badarg -> not_copied
    end.

%% @doc Returns the names, with their members, whose attribute has a value. There may be several
%% members with one name.
-spec lookup(gen_tracker:key(), gen_tracker:value(), copies()) -> [{gen_tracker:name(), node()}].
lookup(Key, Value, {_, Index, _, _}) ->
    Pattern = {{hash(Key, Value), '_'}, '$1', '$2', '$3', '$4'},
    Guards = [{'=:=', '$1', {const, Key}}, {'=:=', '$2', {const, Value}}],
    try
        ets:select(Index, [{Pattern, Guards, [{{'$3', '$4'}}]}])
    catch
        %% There is no cluster process at this moment.
        error:badarg -> []
    end.
