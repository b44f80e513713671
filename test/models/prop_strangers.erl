%% What a stranger may send to the processes of this library: messages of every shape that one of
%% them looks for, made of pids that are real and of references that are not; such messages with
%% something out of place; and any terms. A suite that promises that none of them does harm sends
%% them, and then looks whether the books of what it has built balance.
%%
%% The shapes are read from the code of a module, so a new clause is tried as soon as it is there:
%% what `handle_info/2', `handle_cast/2' and `handle_call/3' take, and each `receive'. A shape is
%% the term that the clause has as a pattern, with `'_'' for each variable.
%%
%% A letter is a receiver and a message to it. It is drawn from a number, with the *roles* of
%% processes in it, and `real/2' puts their pids in their places, so that a counterexample can be
%% read and tried again. PropEr makes the numbers, and leaves out those that a failure does not
%% need.
-module(prop_strangers).

-export([shapes/1, shapes/2, makings/3, numbers/0, letter/2, real/2]).

-type shape() :: term().
-type role() :: atom().
-opaque makings() :: #{atom() => [term()]}.
-export_type([shape/0, role/0, makings/0]).

%% Shapes

%% What a module takes as a message.
-spec shapes(module()) -> [shape()].
shapes(Module) ->
    shapes(Module, []).

%% The same where some more of its functions have a message as their first argument.
-spec shapes(module(), [{Function :: atom(), arity()}]) -> [shape()].
shapes(Module, Functions) ->
    {ok, {_, [{abstract_code, {raw_abstract_v1, Forms}}]}} =
        beam_lib:chunks(code:which(Module), [abstract_code]),
    Takes = [{Function, fun(Shape) -> Shape end} || Function <- [{handle_info, 2} | Functions]] ++ [
        {{handle_cast, 2}, fun(Shape) -> {'$gen_cast', Shape} end},
        {{handle_call, 3}, fun(Shape) -> {'$gen_call', '_', Shape} end}
    ],
    Taken = [
        Take(shape(First))
     || {function, _, Name, Arity, Clauses} <- Forms,
        {Function, Take} <- Takes,
        Function =:= {Name, Arity},
        {clause, _, [First | _], _, _} <- Clauses
    ],
    Received = [shape(Pattern) || {clause, _, [Pattern], _, _} <- received(Forms)],
    lists:usort(Taken ++ Received).

%% The clauses of each `receive' in some code.
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

%% What letters are made of. Some of the roles receive them, all are named in them.
-spec makings(Receivers :: [role()], [shape()], [role()]) -> makings().
makings(Receivers, Shapes, Roles) ->
    Pids = [{'$pid', Role} || Role <- Roles],
    References = [{'$reference', Kind} || Kind <- [made, alias, timer, foreign]],
    Reasons = [normal, shutdown, kill, killed, noproc, noconnection],
    #{
        receivers => Receivers,
        shapes => usual() ++ Shapes,
        parts => Pids ++ Pids ++ References ++ References,
        words => Reasons ++ Roles ++ [undefined, none, process, true, 0, 1],
        terms => prop_terms:kinds() ++ prop_terms:alike()
    }.

%% Shapes that any process of OTP may be sent.
usual() ->
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

%% The numbers of some letters. PropEr's own are small ones at first.
-spec numbers() -> proper_types:type().
numbers() ->
    Number = fun() -> proper_types:exactly(rand:uniform(1 bsl 50)) end,
    proper_types:list(proper_types:noshrink(proper_types:lazy(Number))).

-spec letter(Number :: pos_integer(), makings()) -> {role(), Message :: term()}.
letter(Number, #{receivers := Receivers, shapes := Shapes} = Makings) ->
    _ = rand:seed(exsss, Number),
    Receiver = drawn(Receivers),
    Shape = drawn(Shapes),
    case rand:uniform(12) of
        1 -> {Receiver, something(Makings)};
        2 -> {Receiver, filled(inner(Shape), Makings)};
        Odd when Odd < 6 -> {Receiver, filled(distorted(Shape), Makings)};
        _ -> {Receiver, filled(Shape, Makings)}
    end.

filled('_', Makings) -> something(Makings);
filled(Shape, Makings) when is_tuple(Shape) ->
    list_to_tuple([filled(Element, Makings) || Element <- tuple_to_list(Shape)]);
filled([Head | Tail], Makings) -> [filled(Head, Makings) | filled(Tail, Makings)];
filled(Shape, _Makings) -> Shape.

something(#{parts := Parts, words := Words, terms := Terms}) ->
    case rand:uniform(16) of
        1 -> drawn(Terms);
        2 -> drawn(Words);
        3 -> drawn(Words);
        _ -> drawn(Parts)
    end.

drawn(List) ->
    lists:nth(rand:uniform(length(List)), List).

%% What is inside of a message, without what should be around it.
inner(Shape) when tuple_size(Shape) > 0 -> element(rand:uniform(tuple_size(Shape)), Shape);
inner(Shape) -> Shape.

%% One element may be any term, or is missing, or one too many.
distorted(Shape) when tuple_size(Shape) > 0 ->
    Place = rand:uniform(tuple_size(Shape)),
    case rand:uniform(3) of
        1 -> setelement(Place, Shape, '_');
        2 -> erlang:delete_element(Place, Shape);
        3 -> erlang:insert_element(Place, Shape, '_')
    end;
distorted(_Shape) ->
    '_'.

%% A message with real pids, and references that are none of the library's.
-spec real(term(), fun((role()) -> pid())) -> term().
real({'$pid', Role}, Pid) -> Pid(Role);
real({'$reference', Kind}, _Pid) -> reference(Kind);
real(Message, Pid) when is_tuple(Message) ->
    list_to_tuple([real(Element, Pid) || Element <- tuple_to_list(Message)]);
real([First | Rest], Pid) ->
    [real(First, Pid) | real(Rest, Pid)];
real(Message, _Pid) -> Message.

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
