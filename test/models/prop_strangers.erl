%% Random messages that any process may send to the processes of the library: messages of every
%% shape that a receiver handles, messages with an error in such a shape, and arbitrary terms. They
%% contain the pids of real processes, but no reference that the library has made. A suite sends
%% them, and checks that they change nothing.
%%
%% The shapes are read from the code of a module, so that new clauses are covered automatically: the
%% messages of `handle_info/2', `handle_cast/2' and `handle_call/3', and of each `receive'. A shape
%% is the pattern of a clause as a term, with `'_'' for each variable.
%%
%% A letter is a receiver and a message, and is generated from a number. It names processes by their
%% roles, so that a counterexample can be read and repeated. `real/2' replaces the roles by pids.
%% PropEr generates the numbers, and removes those that a failure does not need.
-module(prop_strangers).

-export([shapes/1, shapes/2, makings/3, numbers/0, letter/2, real/2]).

-type shape() :: term().
-type role() :: atom().
-opaque makings() :: #{atom() => [term()]}.
-export_type([shape/0, role/0, makings/0]).

%% Shapes

%% Returns the shapes of the messages that a module handles.
-spec shapes(module()) -> [shape()].
shapes(Module) ->
    shapes(Module, []).

%% Like `shapes/1', with the messages that further functions of the module have as their first
%% argument.
-spec shapes(module(), [{Function :: atom(), arity()}]) -> [shape()].
shapes(Module, Functions) ->
    {ok, {_, [{abstract_code, {raw_abstract_v1, Forms}}]}} =
        beam_lib:chunks(code:which(Module), [abstract_code]),
    Handlers =
        [{Function, fun(Shape) -> Shape end} || Function <- [{handle_info, 2} | Functions]] ++
            [{{handle_cast, 2}, fun(Shape) -> {'$gen_cast', Shape} end}] ++
            [{{handle_call, 3}, fun(Shape) -> {'$gen_call', '_', Shape} end}],
    Handled = [
        Wrap(shape(First))
     || {function, _, Name, Arity, Clauses} <- Forms,
        {Function, Wrap} <- Handlers,
        Function =:= {Name, Arity},
        {clause, _, [First | _], _, _} <- Clauses
    ],
    Received = [shape(Pattern) || {clause, _, [Pattern], _, _} <- received(Forms)],
    lists:usort(Handled ++ Received).

%% Returns the clauses of each `receive' in some code.
received({'receive', _, Clauses}) -> Clauses ++ received(Clauses);
received({'receive', _, Clauses, Time, After}) -> Clauses ++ received([Clauses, Time, After]);
received(Code) when is_tuple(Code) -> received(tuple_to_list(Code));
received([First | Rest]) -> received(First) ++ received(Rest);
received(_Code) -> [].

shape({tuple, _, Elements}) -> list_to_tuple([shape(Element) || Element <- Elements]);
shape({cons, _, Head, Tail}) -> [shape(Head) | shape(Tail)];
shape({nil, _}) -> [];
shape({match, _, {var, _, _}, Pattern}) -> shape(Pattern);
shape({match, _, Pattern, _}) -> shape(Pattern);
shape({Type, _, Value}) when Type =:= atom; Type =:= integer -> Value;
shape(_Pattern) -> '_'.

%% Letters

%% Returns what letters are made of. The letters are for the receivers, and contain the pids of all
%% roles.
-spec makings(Receivers :: [role()], [shape()], [role()]) -> makings().
makings(Receivers, Shapes, Roles) ->
    Pids = [{'$pid', Role} || Role <- Roles],
    References = [{'$reference', Kind} || Kind <- [made, alias, timer, foreign]],
    Reasons = [normal, shutdown, kill, killed, noproc, noconnection],
    #{
        receivers => Receivers,
        shapes => otp_shapes() ++ Shapes,
        parts => Pids ++ Pids ++ References ++ References,
        words => Reasons ++ Roles ++ [undefined, none, process, true, 0, 1],
        terms => prop_terms:kinds() ++ prop_terms:alike()
    }.

%% Returns the shapes of messages that OTP sends.
otp_shapes() ->
    [
        timeout,
        {'EXIT', '_', '_'},
        {'DOWN', '_', process, '_', '_'},
        {timeout, '_', '_'},
        {'_', '_'},
        {'$gen_cast', '_'},
        {'$gen_call', '_', '_'},
        {'$gen_call', {'_', '_'}, '_'},
        {'$gen_call', {'_', [alias | '_']}, '_'},
        {'ETS-TRANSFER', '_', '_', '_'},
        {nodedown, '_'}
    ].

%% Generates a list of numbers for `letter/2'. PropEr's own generators begin with small numbers.
-spec numbers() -> proper_types:type().
numbers() ->
    Number = fun() -> proper_types:exactly(rand:uniform(1 bsl 50)) end,
    proper_types:list(proper_types:noshrink(proper_types:lazy(Number))).

%% Generates a letter. A number always gives the same letter.
-spec letter(Number :: pos_integer(), makings()) -> {role(), Message :: term()}.
letter(Number, #{receivers := Receivers, shapes := Shapes} = Makings) ->
    _ = rand:seed(exsss, Number),
    Receiver = one_of(Receivers),
    Shape = one_of(Shapes),
    case rand:uniform(12) of
        1 -> {Receiver, part(Makings)};
        2 -> {Receiver, filled(inner(Shape), Makings)};
        N when N < 6 -> {Receiver, filled(distorted(Shape), Makings)};
        _ -> {Receiver, filled(Shape, Makings)}
    end.

%% Replaces each variable of a shape.
filled('_', Makings) ->
    part(Makings);
filled(Shape, Makings) when is_tuple(Shape) ->
    list_to_tuple([filled(Element, Makings) || Element <- tuple_to_list(Shape)]);
filled([Head | Tail], Makings) ->
    [filled(Head, Makings) | filled(Tail, Makings)];
filled(Shape, _Makings) ->
    Shape.

part(#{parts := Parts, words := Words, terms := Terms}) ->
    case rand:uniform(16) of
        1 -> one_of(Terms);
        2 -> one_of(Words);
        3 -> one_of(Words);
        _ -> one_of(Parts)
    end.

one_of(List) ->
    lists:nth(rand:uniform(length(List)), List).

%% Returns an element of a shape, such as the request of a call without the `$gen_call' around it.
inner(Shape) when tuple_size(Shape) > 0 -> element(rand:uniform(tuple_size(Shape)), Shape);
inner(Shape) -> Shape.

%% Replaces an element of a shape by a variable, removes an element, or inserts one.
distorted(Shape) when tuple_size(Shape) > 0 ->
    Place = rand:uniform(tuple_size(Shape)),
    case rand:uniform(3) of
        1 -> setelement(Place, Shape, '_');
        2 -> erlang:delete_element(Place, Shape);
        3 -> erlang:insert_element(Place, Shape, '_')
    end;
distorted(_Shape) ->
    '_'.

%% Replaces roles by the pids of their processes, and kinds of references by new references.
-spec real(term(), fun((role()) -> pid())) -> term().
real({'$pid', Role}, PidOf) ->
    PidOf(Role);
real({'$reference', Kind}, _PidOf) ->
    reference(Kind);
real(Message, PidOf) when is_tuple(Message) ->
    list_to_tuple([real(Element, PidOf) || Element <- tuple_to_list(Message)]);
real([First | Rest], PidOf) ->
    [real(First, PidOf) | real(Rest, PidOf)];
real(Message, _PidOf) ->
    Message.

reference(made) ->
    make_ref();
reference(alias) ->
    Alias = alias(),
    unalias(Alias),
    Alias;
reference(timer) ->
    Timer = erlang:start_timer(1 bsl 31, self(), none),
    _ = erlang:cancel_timer(Timer),
    Timer;
reference(foreign) ->
    Node = <<"else@here">>,
    Header = <<131, 90, 3:16, 119, (byte_size(Node)), Node/binary, 1:32>>,
    binary_to_term(<<Header/binary, 1:32, 2:32, 3:32>>).
