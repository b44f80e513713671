%% Terms of every kind, and the properties that they come back exactly as they went in: as value, as key and as name of
%% an attribute, through every function that gives them back. terms_SUITE runs them.
%%
%% The generators are written with PropEr's functions: some of its packages come without its header of macros.
-module(prop_terms).

-export([remote_pid/4, prop_value/1, prop_key/1, prop_pair/1, prop_name/1]).
-export([prop_attributes_are_a_map/1]).
-export([pair_comes_back/4, name_comes_back/2, same/2, sorted/1, readings/3, kinds/0, alike/0]).
-export([any_term/0, sizes/0, part/2]).

-import(proper, [forall/2]).
-import(proper_types, [bind/3, exactly/1, elements/1, frequency/1, integer/0, lazy/1, list/1]).
-import(proper_types, [oneof/1, range/2]).
-import(proper_types, [float/0, resize/2, sized/1, string/0, tuple/1]).

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

%% The attributes of a name are a map, whose keys are compared with `=:=`, as those of Erlang's maps are.
prop_attributes_are_a_map(Zone) ->
    forall(list(change()), fun(Changes) ->
        with_child(Zone, ?NAME, fun(_) ->
            Map = lists:foldl(fun(Change, Map) -> changed(Zone, Change, Map) end, #{}, Changes),
            Keys = maps:keys(Map),
            lists:all(fun(Attrs) -> length(Attrs) =:= map_size(Map) andalso maps:from_list(Attrs) =:= Map end, [
                gen_tracker:info(Zone, ?NAME),
                gen_tracker:info(Zone, ?NAME, [not_there | Keys])
            ]) andalso
                lists:all(
                    fun(Key) ->
                        same({ok, map_get(Key, Map)}, gen_tracker:getattr(Zone, ?NAME, Key))
                    end,
                    Keys
                )
        end)
    end).

change() ->
    Term = resize(3, any_term()),
    Key = oneof([elements(alike()), range(1, 60), Term]),
    oneof([
        tuple([exactly(set), list(tuple([Key, oneof([Term, integer()])]))]),
        tuple([exactly(count), Key, oneof([integer(), bignum()]), bignum()]),
        tuple([exactly(delete), Key])
    ]).

%% Makes a change to the attributes of ?NAME and to the map, which must agree about its answer.
changed(Zone, {set, Pairs}, Map) ->
    ok = gen_tracker:setattr(Zone, ?NAME, Pairs),
    maps:merge(Map, maps:from_list(Pairs));
changed(Zone, {delete, Key}, Map) ->
    ok = gen_tracker:delattr(Zone, ?NAME, Key),
    maps:remove(Key, Map);
changed(Zone, {count, Key, Incr, Default}, Map) ->
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

%% What the properties are made of

%% A process sets an attribute and dies; another one, which never held the terms, then reads them in every way.
pair_comes_back(Zone, Name, Key, Value) ->
    with_child(Zone, Name, fun(Pid) ->
        callers:apart(fun() -> ok = gen_tracker:setattr(Zone, Name, [{Key, Value}]) end),
        lists:all(fun(Read) -> same([{Key, Value}], Read()) end, readings(Zone, Name, Key)) andalso
            same([{Name, [{pid, Pid}, {Key, Value}]}], gen_tracker:list(Zone)) andalso
            gen_tracker:delattr(Zone, Name, anew(Key)) =:= ok andalso
            gen_tracker:info(Zone, Name) =:= []
    end).

%% Every way to read the attribute Key of Name, the only child and the only attribute: each gives `[{Key, Value}]`.
readings(Zone, Name, Key) ->
    [
        fun() ->
            {ok, Value} = gen_tracker:getattr(Zone, Name, Key),
            [{Key, Value}]
        end,
        fun() ->
            {ok, Value} = gen_tracker:getattr(Zone, Name, anew(Key), 1000),
            [{Key, Value}]
        end,
        fun() -> gen_tracker:info(Zone, Name) end,
        fun() -> gen_tracker:attrs(Zone, Name) end,
        fun() -> gen_tracker:info(Zone, anew(Name), [Key]) end,
        fun() ->
            [{_, [{pid, _} | Attrs]}] = gen_tracker:list(Zone),
            Attrs
        end,
        fun() ->
            [{_, [{pid, _} | Attrs]}] = gen_tracker:list(Zone, [anew(Key)]),
            Attrs
        end
    ].

%% A name is found, also by a term that was built anew, and comes back exactly.
name_comes_back(Zone, Name) ->
    Found = with_child(Zone, Name, fun(Pid) ->
        ok = gen_tracker:setattr(Zone, anew(Name), [{a, 1}, {b, b}]),
        {ok, 1} = gen_tracker:getattr(Zone, Name, a),
        2 = gen_tracker:increment(Zone, anew(Name), a, 1),
        ok = gen_tracker:delattr(Zone, Name, b),
        {ok, Pid} = gen_tracker:find(Zone, Name),
        {ok, Pid} = gen_tracker:find(Zone, anew(Name)),
        {ok, Pid} = gen_tracker:find_or_open(Zone, tracked_child:spec(anew(Name), temporary)),
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

%% The same term, bit for bit: `-0.0 =:= 0.0` before OTP 27.
same(Term, Other) ->
    Term =:= Other andalso term_to_binary(Term, [deterministic]) =:= term_to_binary(
        Other, [deterministic]
    ).

%% In an order that equal lists share: `lists:sort/1` leaves `0` and `0.0` as they stand, and the bits of `-0.0` and `0.0` differ, which are equal before OTP 27.
sorted(Terms) ->
    [Term || {_, Term} <- lists:sort([{erlang:phash2(Term, 1 bsl 32), Term} || Term <- Terms])].

%% An equal term that shares no memory with the first.
anew(Term) ->
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

%% Sizes at which something may change: heap binaries, bytes kept in place, bytes shared.
sizes() ->
    lists:seq(0, 66) ++
        [
            Power + Distance
         || Power <- [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536], Distance <- [-1, 0, 1]
        ] ++
        [100000].

%% A sub-binary, of a larger one.
part(Length, Offset) ->
    Pattern = list_to_binary(lists:seq(0, 250)),
    binary:part(binary:copy(Pattern, (Offset + Length) div byte_size(Pattern) + 1), Offset, Length).

%% A bitstring that begins and ends within a byte.
bits({Bytes, Skipped, More}) ->
    Length = Bytes * 8 + More,
    <<_:Skipped, Bits:Length/bits, _/bits>> = part(Bytes + 2, 3),
    Bits.

%% A map of more than 32 keys; the term is in it only once, since a copy of a term shares nothing within itself.
large_map({Term, Count}) ->
    maps:from_list([{Term, key}, {value, [Term]} | [{{key, N}, N} || N <- lists:seq(1, Count)]]).

closure(Captured) ->
    fun(Argument) -> {Argument, Captured} end.

%% At least one term of each kind that there is, and of each size at which its form changes.
kinds() ->
    Limits = [27, 31, 32, 58, 59, 60, 62, 63, 64, 128, 8000],
    [Sign * ((1 bsl Bits) + Low) || Bits <- Limits, Low <- [-1, 0, 1], Sign <- [1, -1]] ++
        [0.0, -0.0, 1.0e-323, 2.2250738585072014e-308, 1.7976931348623157e308, -1.5] ++
        [{-0.0}, [0.0 | -0.0], #{-0.0 => -0.0}] ++
        [
            '',
            'зона',
            undefined,
            true,
            [],
            {},
            #{},
            <<>>,
            <<1:1>>,
            <<0:7>>,
            <<1, 2, 3:4>>,
            [a | b],
            [[[]] | {}]
        ] ++
        [
            self(),
            make_ref(),
            {make_ref(), self()},
            large_map({a, 33}),
            #{#{a => 1} => #{b => #{}}}
        ] ++
        [fun erlang:length/1, fun missing:none/3, fun(A, B) -> A + B end] ++
        [closure(self()), closure({1.0, <<"b">>, make_ref()})] ++
        [remote_pid(Node, 71, 3, 9) || Node <- [<<"far@away">>, atom_to_binary(node())]] ++
        [
            list_to_tuple(lists:seq(1, 300)),
            lists:seq(1, 300),
            lists:duplicate(300, 1000),
            "text",
            [$a | <<"b">>]
        ] ++
        [remote_port(), remote_reference(), remote_fun() | erlang:ports()].

%% Terms that are nearly the same.
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

%% Terms of other nodes, and a fun of a module that is not loaded, in the external term format.
remote_pid(Node, Id, Serial, Creation) ->
    binary_to_term(<<131, 88, (atom_name(Node))/binary, Id:32, Serial:32, Creation:32>>).

remote_reference() ->
    binary_to_term(<<
        131,
        90,
        3:16,
        (atom_name(<<"far@away">>))/binary,
        9:32,
        17:32,
        18:32,
        19:32
    >>).

remote_port() ->
    binary_to_term(<<131, 89, (atom_name(<<"far@away">>))/binary, 71:32, 9:32>>).

remote_fun() ->
    <<131, Pid/binary>> = term_to_binary(remote_pid(<<"far@away">>, 71, 3, 9)),
    <<131, Captured/binary>> = term_to_binary({captured, 1 bsl 70}),
    Module = atom_name(<<"missing">>),
    Fun = <<2:8, 12345:128, 7:32, 1:32, Module/binary, 97, 7, 97, 9, Pid/binary, Captured/binary>>,
    binary_to_term(<<131, 112, (byte_size(Fun) + 4):32, Fun/binary>>).

atom_name(Node) ->
    <<119, (byte_size(Node)), Node/binary>>.
