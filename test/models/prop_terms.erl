%% Properties: gen_tracker stores any term as a name, key or value, and every function that returns
%% it returns exactly the same term. `terms_SUITE` checks them. Other tests use the terms and the
%% generators.
%%
%% The generators call PropEr's functions instead of its macros, because some packages of PropEr do
%% not contain the header file with the macros.
-module(prop_terms).

%% Properties and their parts
-export([prop_value/1, prop_key/1, prop_pair/1, prop_name/1, prop_attributes_are_a_map/1]).
-export([pair_comes_back/4, name_comes_back/2, readings/3]).
%% Terms
-export([any_term/0, kinds/0, alike/0, sizes/0, part/2, remote_pid/4, same/2, sorted/1]).

-import(proper, [forall/2]).
-import(proper_types, [bind/3, exactly/1, elements/1, float/0, frequency/1, integer/0, lazy/1]).
-import(proper_types, [list/1, oneof/1, range/2, resize/2, sized/1, string/0, tuple/1]).

-define(NAME, <<"tv1">>).

%% Properties

prop_value(Zone) ->
    forall(any_term(), fun(Value) -> pair_comes_back(Zone, ?NAME, key, Value) end).

prop_key(Zone) ->
    forall(any_term(), fun(Key) -> pair_comes_back(Zone, ?NAME, Key, value) end).

prop_pair(Zone) ->
    forall(tuple([any_term(), any_term(), any_term()]), fun({Name, Key, Value}) ->
        pair_comes_back(Zone, Name, Key, Value)
    end).

prop_name(Zone) ->
    forall(any_term(), fun(Name) -> name_comes_back(Zone, Name) end).

%% The attributes of a name behave like an Erlang map: keys are compared with `=:=`.
prop_attributes_are_a_map(Zone) ->
    forall(list(change()), fun(Changes) ->
        with_child(Zone, ?NAME, fun(_) ->
            Apply = fun(Change, Map) -> apply_change(Zone, Change, Map) end,
            reads_as(Zone, lists:foldl(Apply, #{}, Changes))
        end)
    end).

%% Whether all attributes, and each attribute by its key, are those of a map.
reads_as(Zone, Map) ->
    Keys = maps:keys(Map),
    All = gen_tracker:info(Zone, ?NAME),
    Selected = gen_tracker:info(Zone, ?NAME, [not_there | Keys]),
    IsMap = fun(Attrs) ->
        length(Attrs) =:= map_size(Map) andalso maps:from_list(Attrs) =:= Map
    end,
    IsRead = fun(Key) ->
        same({ok, map_get(Key, Map)}, gen_tracker:getattr(Zone, ?NAME, Key))
    end,
    lists:all(IsMap, [All, Selected]) andalso lists:all(IsRead, Keys).

change() ->
    Term = resize(3, any_term()),
    Key = oneof([elements(alike()), range(1, 60), Term]),
    oneof([
        tuple([exactly(set), list(tuple([Key, oneof([Term, integer()])]))]),
        tuple([exactly(count), Key, oneof([integer(), bignum()]), bignum()]),
        tuple([exactly(delete), Key])
    ]).

%% Applies a change to the attributes of ?NAME and to a map, asserts that both give the same result,
%% and returns the new map.
apply_change(Zone, {set, Pairs}, Map) ->
    ok = gen_tracker:setattr(Zone, ?NAME, Pairs),
    maps:merge(Map, maps:from_list(Pairs));
apply_change(Zone, {delete, Key}, Map) ->
    ok = gen_tracker:delattr(Zone, ?NAME, Key),
    maps:remove(Key, Map);
apply_change(Zone, {count, Key, Incr, Default}, Map) ->
    case maps:get(Key, Map, Default) of
        Before when is_integer(Before) ->
            After = Before + Incr,
            After = gen_tracker:increment(Zone, ?NAME, Key, Incr, Default),
            Map#{Key => After};
        _ ->
            badarg =
                try
                    gen_tracker:increment(Zone, ?NAME, Key, Incr, Default)
                catch
                    error:badarg -> badarg
                end,
            Map
    end.

%% Parts of properties

%% Sets an attribute in another process, which exits, and returns whether the calling process reads
%% it in every way. The zone must have no children.
pair_comes_back(Zone, Name, Key, Value) ->
    with_child(Zone, Name, fun(Pid) ->
        callers:apart(fun() -> ok = gen_tracker:setattr(Zone, Name, [{Key, Value}]) end),
        lists:all(fun(Read) -> same([{Key, Value}], Read()) end, readings(Zone, Name, Key)) andalso
            same([{Name, [{pid, Pid}, {Key, Value}]}], gen_tracker:list(Zone)) andalso
            gen_tracker:delattr(Zone, Name, copy(Key)) =:= ok andalso
            gen_tracker:info(Zone, Name) =:= []
    end).

%% Returns a fun for each way to read the only attribute of the only child. Each fun returns
%% `[{Key, Value}]`.
readings(Zone, Name, Key) ->
    [
        fun() ->
            {ok, Value} = gen_tracker:getattr(Zone, Name, Key),
            [{Key, Value}]
        end,
        fun() ->
            {ok, Value} = gen_tracker:getattr(Zone, Name, copy(Key), 1000),
            [{Key, Value}]
        end,
        fun() -> gen_tracker:info(Zone, Name) end,
        fun() -> gen_tracker:attrs(Zone, Name) end,
        fun() -> gen_tracker:info(Zone, copy(Name), [Key]) end,
        fun() ->
            [{_, [{pid, _} | Attrs]}] = gen_tracker:list(Zone),
            Attrs
        end,
        fun() ->
            [{_, [{pid, _} | Attrs]}] = gen_tracker:list(Zone, [copy(Key)]),
            Attrs
        end
    ].

%% Starts a child with a name, and reads the name in every way. The child must be found both by this
%% term and by copies of it.
name_comes_back(Zone, Name) ->
    Found = with_child(Zone, Name, fun(Pid) ->
        ok = gen_tracker:setattr(Zone, copy(Name), [{a, 1}, {b, b}]),
        {ok, 1} = gen_tracker:getattr(Zone, Name, a),
        2 = gen_tracker:increment(Zone, copy(Name), a, 1),
        ok = gen_tracker:delattr(Zone, Name, b),
        {ok, Pid} = gen_tracker:find(Zone, Name),
        {ok, Pid} = gen_tracker:find(Zone, copy(Name)),
        {ok, Pid} = gen_tracker:find_or_open(Zone, tracked_child:spec(copy(Name), temporary)),
        same([{Name, Pid, worker, []}], gen_tracker:which_children(Zone)) andalso
            same([{Name, [{pid, Pid}, {a, 2}]}], gen_tracker:list(Zone)) andalso
            same([{Name, [{pid, Pid}]}], gen_tracker:list(Zone, []))
    end),
    undefined = gen_tracker:find(Zone, Name),
    [] = gen_tracker:which_children(Zone),
    Found.

with_child(Zone, Name, Fun) ->
    Pid = tracked_child:open(Zone, Name),
    try
        Fun(Pid)
    after
        ok = supervisor:terminate_child(Zone, Name)
    end.

%% Whether two terms are equal bit for bit. Before OTP 27, `-0.0 =:= 0.0`, but their bits differ.
same(Term, Other) ->
    Term =:= Other andalso external(Term) =:= external(Other).

external(Term) ->
    term_to_binary(Term, [deterministic]).

%% Returns terms in an order that depends on nothing but the terms: `lists:sort/1` leaves `0` and
%% `0.0` in the order in which it finds them. They are sorted by hash. `-0.0` and `0.0` have one
%% hash, and are equal before OTP 27: only since then are they sorted by external format.
sorted(Terms) ->
    Format =
        case list_to_float("-0.0") =:= list_to_float("0.0") of
            true -> fun(_) -> none end;
            false -> fun(Term) -> term_to_binary(Term, [deterministic]) end
        end,
    Keyed = [{erlang:phash2(Term, 1 bsl 32), Format(Term), Term} || Term <- Terms],
    [Term || {_, _, Term} <- lists:sort(Keyed)].

%% Returns an equal term that shares no memory with the first.
copy(Term) ->
    binary_to_term(term_to_binary(Term)).

%% Generators

any_term() ->
    Simple = simple(),
    sized(fun(Size) -> any_term(Size, Simple) end).

any_term(0, Simple) ->
    Simple;
any_term(Size, Simple) ->
    Smaller = Size div 3,
    Part = resize(Smaller, lazy(fun() -> any_term(Smaller, Simple) end)),
    frequency([
        {8, Simple},
        {1, list(Part)},
        {1, mapped(fun({Elements, Tail}) -> Elements ++ Tail end, tuple([list(Part), Simple]))},
        {1, mapped(fun list_to_tuple/1, list(Part))},
        {1, mapped(fun maps:from_list/1, list(tuple([Part, Part])))},
        {1, mapped(fun large_map/1, tuple([Part, range(33, 200)]))},
        {1, mapped(fun closure/1, Part)}
    ]).

simple() ->
    oneof([
        elements(kinds()),
        elements(alike()),
        integer(),
        bignum(),
        float(),
        mapped(fun(Seed) -> {Seed, make_ref()} end, integer()),
        mapped(
            fun binary_to_atom/1,
            elements([<<>>, <<"a">>, <<"зона"/utf8>>, binary:copy(<<"ż"/utf8>>, 255)])
        ),
        string(),
        sub_binary(),
        mapped(fun binary:copy/1, sub_binary()),
        mapped(fun bits/1, tuple([size_in_bytes(), range(0, 7), range(0, 7)]))
    ]).

sub_binary() ->
    mapped(
        fun({Length, Offset}) -> part(Length, Offset) end, tuple([size_in_bytes(), range(0, 70)])
    ).

bignum() ->
    Parts = tuple([range(55, 2000), integer(), elements([1, -1])]),
    mapped(fun({Bits, Low, Sign}) -> Sign * ((1 bsl Bits) + Low) end, Parts).

size_in_bytes() ->
    frequency([
        {4, range(0, 70)},
        {2, elements(sizes())},
        {2, range(0, 5000)},
        {1, range(0, 100000)}
    ]).

mapped(Fun, Type) ->
    bind(Type, fun(Instance) -> exactly(Fun(Instance)) end, false).

%% Sizes of binaries at which their representation may change, in the VM (heap binaries, shared
%% binaries) and in the table, and sizes beside these.
sizes() ->
    Powers = [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536],
    lists:seq(0, 66) ++
        [Power + Distance || Power <- Powers, Distance <- [-1, 0, 1]] ++
        [100000].

%% Returns a sub-binary of a larger binary.
part(Length, Offset) ->
    Pattern = list_to_binary(lists:seq(0, 250)),
    binary:part(binary:copy(Pattern, (Offset + Length) div byte_size(Pattern) + 1), Offset, Length).

%% Returns a bitstring that begins and ends within a byte.
bits({Bytes, Skipped, More}) ->
    Length = Bytes * 8 + More,
    <<_:Skipped, Bits:Length/bits, _/bits>> = part(Bytes + 2, 3),
    Bits.

%% Returns a map of more than 32 keys. Only two of its pairs contain the term, since a copy of the
%% map contains a copy of the term for each of them.
large_map({Term, Count}) ->
    maps:from_list([{Term, key}, {value, [Term]} | [{{key, N}, N} || N <- lists:seq(1, Count)]]).

closure(Captured) ->
    fun(Argument) -> {Argument, Captured} end.

%% Returns terms of every type, and of every size at which the representation of a type changes.
kinds() ->
    Limits = [27, 31, 32, 58, 59, 60, 62, 63, 64, 128, 8000],
    [Sign * ((1 bsl Bits) + Low) || Bits <- Limits, Low <- [-1, 0, 1], Sign <- [1, -1]] ++
        [0.0, -0.0, 1.0e-323, 2.2250738585072014e-308, 1.7976931348623157e308, -1.5] ++
        [{-0.0}, [0.0 | -0.0], #{-0.0 => -0.0}] ++
        ['', 'зона', undefined, true, [], {}, #{}, <<>>, <<1:1>>, <<0:7>>, <<1, 2, 3:4>>] ++
        [[a | b], [[[]] | {}]] ++
        [self(), make_ref(), {make_ref(), self()}, large_map({a, 33})] ++
        [#{#{a => 1} => #{b => #{}}}] ++
        [fun erlang:length/1, fun missing:none/3, fun(A, B) -> A + B end] ++
        [closure(self()), closure({1.0, <<"b">>, make_ref()})] ++
        [remote_pid(Node, 71, 3, 9) || Node <- [<<"far@away">>, atom_to_binary(node())]] ++
        [list_to_tuple(lists:seq(1, 300)), lists:seq(1, 300), lists:duplicate(300, 1000)] ++
        ["text", [$a | <<"b">>]] ++
        [remote_port(), remote_reference(), remote_fun() | erlang:ports()].

%% Returns different terms that are similar, such as `1`, `1.0` and `"1"`.
alike() ->
    Local = self(),
    [0, 0.0, -0.0, 1, 1.0, '1', "1", <<"1">>, <<1>>, <<1:1>>, <<0:1>>, <<0:2>>, <<0>>, <<0, 0>>] ++
        ['', [], {}, #{}, <<>>, true, <<"true">>, "true", undefined, false, nil] ++
        [{1}, {1.0}, [1], [1.0], [1 | 1], [1, 1], {1, 1}, {{1}}, [[1]], {0.0}, {-0.0}] ++
        [#{1 => 1}, #{1.0 => 1}, #{1 => 1.0}, #{0.0 => 1}, #{-0.0 => 1}] ++
        [1 bsl 53, float(1 bsl 53), 1 bsl 53 + 1, 1 bsl 60, 1 bsl 64] ++
        [1 bsl 70, float(1 bsl 70), 1 bsl 70 + 1, -(1 bsl 70)] ++
        [part(200, 0), part(200, 1), part(201, 0), binary_to_list(part(200, 0))] ++
        [fun erlang:length/1, fun erlang:size/1, fun erlang:abs/1, closure(1), closure(1.0)] ++
        [Local, {Local}, closure(Local), pid_to_list(Local)] ++
        [
            remote_pid(<<"a@b">>, Id, Serial, Creation)
         || Id <- [1, 2], Serial <- [0, 1], Creation <- [1, 2]
        ] ++
        [remote_pid(<<"a@c">>, 1, 0, 1)] ++
        [Map#{Key => V} || Map <- [#{}, large_map({a, 40})], Key <- [0, 0.5], V <- [1, 1.0]].

%% Terms of other nodes, and a fun of a module that is not loaded, from the external term format

remote_pid(Node, Id, Serial, Creation) ->
    binary_to_term(<<131, 88, (atom_name(Node))/binary, Id:32, Serial:32, Creation:32>>).

remote_reference() ->
    Node = atom_name(<<"far@away">>),
    binary_to_term(<<131, 90, 3:16, Node/binary, 9:32, 17:32, 18:32, 19:32>>).

remote_port() ->
    binary_to_term(<<131, 89, (atom_name(<<"far@away">>))/binary, 71:32, 9:32>>).

remote_fun() ->
    <<131, Pid/binary>> = term_to_binary(remote_pid(<<"far@away">>, 71, 3, 9)),
    <<131, Captured/binary>> = term_to_binary({captured, 1 bsl 70}),
    Module = atom_name(<<"missing">>),
    Fun = <<2:8, 12345:128, 7:32, 1:32, Module/binary, 97, 7, 97, 9, Pid/binary, Captured/binary>>,
    binary_to_term(<<131, 112, (byte_size(Fun) + 4):32, Fun/binary>>).

atom_name(Name) ->
    <<119, (byte_size(Name)), Name/binary>>.
