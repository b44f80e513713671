%% The output of `proctab:i` as lines, tables and cells, and simple children to be printed.
-module(printout).

-include_lib("stdlib/include/assert.hrl").

-export([printed/1, tables/1, cells/1, texts/1, assert_aligned/1, numbers/1, added/2, added/3]).

%% Returns what a fun returns, and the lines that it prints: a process of the test is its group
%% leader.
printed(Fun) ->
    Leader = spawn_link(fun() -> collect([]) end),
    Before = group_leader(),
    group_leader(Leader, self()),
    Answer =
        try
            Fun()
        after
            group_leader(Before, self())
        end,
    Leader ! {printed, self()},
    receive
        {printed, Leader, Text} -> {Answer, string:split(Text, "\n", all)}
    end.

collect(Printed) ->
    receive
        {io_request, From, Id, {put_chars, unicode, Module, Function, Arguments}} ->
            Text = unicode:characters_to_list(apply(Module, Function, Arguments)),
            From ! {io_reply, Id, ok},
            collect(Printed ++ Text);
        {printed, From} ->
            From ! {printed, self(), Printed}
    end.

%% Returns the tables of printed lines. Empty lines separate tables.
tables(Lines) ->
    case lists:splitwith(fun(Line) -> Line =/= "" end, Lines) of
        {[], []} -> [];
        {Table, []} -> [Table];
        {Table, [_ | More]} -> [Table | tables(More)]
    end.

%% Returns the cells of a line, with their first and last columns. Two spaces or more separate
%% cells.
cells(Line) ->
    {Cells, _} = lists:mapfoldl(
        fun(Piece, From) ->
            {{Piece, From + 1, From + string:length(Piece)}, From + string:length(Piece)}
        end,
        0,
        re:split(Line, "( {2,})", [unicode, {return, list}])
    ),
    [Cell || {[Char | _], _, _} = Cell <- Cells, Char =/= $\s].

texts(Line) ->
    [Text || {Text, _, _} <- cells(Line)].

%% Asserts that the cells of a table are aligned with its head: those of the first two columns at
%% the left, the others at the right. The first column is as wide as its widest cell.
assert_aligned([Head | Lines]) ->
    [{_, First, _}, {_, Second, _} | Numbers] = cells(Head),
    Ends = [End || {_, _, End} <- Numbers],
    ?assertEqual(
        Second,
        lists:max([
            End
         || Line <- [Head | Lines], {_, Begin, End} <- cells(Line), Begin =:= First
        ]) + 3
    ),
    [
        begin
            {Left, Right} = lists:split(length(Cells) - length(Ends), Cells),
            ?assertEqual({Line, Ends}, {Line, [End || {_, _, End} <- Right]}),
            ?assert(lists:member([Begin || {_, Begin, _} <- Left], [[First, Second], [First]]))
        end
     || Line <- Lines, Cells <- [cells(Line)]
    ].

numbers(Numbers) ->
    [integer_to_list(Number) || Number <- Numbers].

%% Starts a process that waits for ever, and adds it to a zone.
added(Zone, Name) ->
    added(Zone, Name, fun() -> ok end).

%% Like `added/2`; the process calls a fun first.
added(Zone, Name, Work) ->
    Test = self(),
    Child = spawn(fun() ->
        Work(),
        Test ! {worked, self()},
        receive
            stop -> ok
        end
    end),
    {worked, Child} = messages:await(worked, Child),
    {ok, Child} = gen_tracker:add_existing_child(Zone, {Name, Child, worker, []}),
    Child.
