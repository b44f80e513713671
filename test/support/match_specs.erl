%% Random match specifications, and rows for them as `gen_tracker:select/2` and ETS see them. Names,
%% attributes and constants are chosen from few terms, so that many rows match.
-module(match_specs).

-export([row/2, match_spec/1]).

%% Returns a row for this process. Its name is of this number alone.
row(Number, Pid) ->
    Name = one_of([Number, Number, {one_of(values(Pid)), Number}]),
    {Name, Pid, maps:from_list([{one_of(keys()), one_of(values(Pid))} || _ <- upto(5)])}.

%% Returns a match specification, which may be malformed. Constants are of these processes.
match_spec(Pids) ->
    [clause(one_of(Pids)) || _ <- one_of([[1], [1], [1], [1], [1, 2]])].

keys() ->
    Odd = one_of([1, 1.0, 0.0, <<"key">>, {a, b}, [], 1 bsl 70, '$1', '_']),
    [n, n, n, n, k, Odd].

values(Pid) ->
    [
        0, 1, 2, -1, 1.0, 0.0, -0.0, 0.5, 1 bsl 53, (1 bsl 53) + 1, float(1 bsl 53),
        (1 bsl 59) - 1, 1 bsl 59, -(1 bsl 59) - 1, 1 bsl 62, (1 bsl 63) - 1, 1 bsl 63, -(1 bsl 63),
        1 bsl 64, -(1 bsl 64), a, b, true, false, '', '_', '$1', '$_', '$$', '$x', "a", [], [1 | 2],
        <<>>, <<"a">>, <<1:1>>, binary:copy(<<"x">>, 64), binary:copy(<<"x">>, 65), {}, {1}, {1.0},
        {a, {b, [c]}}, {rec, 1, 2}, #{}, #{n => 1}, #{1 => a, 1.0 => b}, #{k => #{j => 1}}, Pid
    ].

clause(Pid) ->
    Head = head(Pid),
    Variables = lists:usort(variables(Head)),
    Guards = [guard(3, Pid, Head, Variables) || _ <- upto(3)],
    {Head, Guards, [body(3, Pid, Head, Variables) || _ <- one_of([[1], [1], [1, 2]])]}.

head(Pid) ->
    case rand:uniform(20) of
        1 -> '_';
        2 -> '$1';
        3 -> {variable(), '_'};
        _ -> {name(Pid), one_of(['_', '_', variable(), Pid]), attributes(Pid)}
    end.

name(Pid) ->
    one_of(['_', '_', variable(), variable(), {variable(), variable()}, one_of(values(Pid))]).

attributes(Pid) ->
    case rand:uniform(9) of
        1 -> '_';
        2 -> one_of(values(Pid));
        Small when Small < 5 -> variable();
        Small when Small < 8 -> #{one_of(keys()) => variable()};
        _ -> maps:from_list([{one_of(keys()), pattern(2, Pid)} || _ <- upto(3)])
    end.

pattern(Depth, Pid) ->
    case rand:uniform(9) of
        Small when Small < 5 -> variable();
        5 when Depth > 0 -> {pattern(Depth - 1, Pid), pattern(Depth - 1, Pid)};
        6 when Depth > 0 -> [pattern(Depth - 1, Pid) | '_'];
        7 -> '_';
        _ -> one_of(values(Pid))
    end.

variable() ->
    one_of(['$0', '$1', '$2', '$3', '$10']).

variables(Atom) when is_atom(Atom) ->
    case re:run(atom_to_list(Atom), "^\\$[0-9]+$", [{capture, none}]) of
        match -> [Atom];
        nomatch -> []
    end;
variables([Head | Tail]) ->
    variables(Head) ++ variables(Tail);
variables(Tuple) when is_tuple(Tuple) ->
    variables(tuple_to_list(Tuple));
variables(#{} = Map) ->
    variables(maps:values(Map));
variables(_) ->
    [].

guard(0, Pid, Head, Variables) ->
    {operator(), operand(Pid, Head, Variables), operand(Pid, Head, Variables)};
guard(Depth, Pid, Head, Variables) ->
    Guard = fun() -> guard(Depth - 1, Pid, Head, Variables) end,
    Operand = fun() -> operand(Pid, Head, Variables) end,
    case rand:uniform(30) of
        1 -> {one_of(['andalso', 'orelse', 'and', 'or', 'xor']), Guard(), Guard()};
        2 -> {'andalso', Guard(), Guard(), Guard()};
        3 -> {'not', Guard()};
        4 -> {one_of([is_atom, is_integer, is_float, is_list, is_map, is_tuple]), Operand()};
        5 -> {is_record, Operand(), rec, 3};
        6 -> {is_map_key, one_of(keys()), Operand()};
        7 -> Operand();
        8 -> {'>', {one_of(['+', '-', '*', 'div', 'rem', 'band']), Operand(), Operand()}, 0};
        9 -> {'=:=', {one_of([hd, tl, length, abs, size, map_size, 'not']), Operand()}, Operand()};
        10 -> one_of([true, foo, 1, {}, {'andalso'}, {no_function, 1}, {const, true}]);
        11 -> guard(0, Pid, Head, Variables);
        Even when Even rem 2 =:= 0 -> {operator(), attribute(Head), constant(values(Pid))};
        _ -> {operator(), constant(values(Pid)), attribute(Head)}
    end.

operator() ->
    one_of(['<', '=<', '>', '>=', '==', '/=', '=:=', '=/=']).

%% Returns the value of an attribute, in a guard.
attribute({_, _, #{} = Pattern}) ->
    case variables(Pattern) of
        [] -> {map_get, one_of(keys()), {element, 3, '$_'}};
        Variables -> one_of(Variables)
    end;
attribute({_, _, Variable}) when is_atom(Variable) ->
    {map_get, one_of(keys()), Variable};
attribute(_) ->
    {map_get, one_of(keys()), {element, 3, '$_'}}.

%% Without `andalso' and `orelse', and without expressions in maps: there the match specification
%% engine of OTP 25 may end the VM, in plain `ets:select/2' as well.
body(0, Pid, Head, Variables) ->
    operand(Pid, Head, Variables);
body(Depth, Pid, Head, Variables) ->
    Body = fun() -> body(Depth - 1, Pid, Head, Variables) end,
    case rand:uniform(10) of
        1 -> {{Body(), Body()}};
        2 -> [Body(), Body()];
        3 -> '$_';
        4 -> '$$';
        5 -> {one_of(['+', '=:=', '<']), Body(), Body()};
        6 -> one_of(['$7', {no_function, 1}, {message, 1}, {const, {a, '$_'}}, {{}}]);
        _ -> operand(Pid, Head, Variables)
    end.

operand(Pid, Head, Variables) ->
    case rand:uniform(10) of
        Small when Small < 4, Variables =/= [] -> one_of(Variables);
        Small when Small < 6 -> constant(values(Pid));
        7 -> {element, one_of([0, 1, 2, 3, 4, a]), one_of(['$_' | Variables])};
        8 -> one_of(['$_', '$$', {self}]);
        _ -> attribute(Head)
    end.

constant(Values) ->
    case one_of(Values) of
        Value when is_tuple(Value) -> {const, Value};
        Value -> one_of([Value, {const, Value}])
    end.

one_of(List) ->
    lists:nth(rand:uniform(length(List)), List).

%% Returns a list of a random length below this one.
upto(Length) ->
    lists:seq(1, rand:uniform(Length) - 1).
