%% @private
%% A look into the tables, for `proctab': figures, the names that are the first by some measure, and both as text.
%%
%% A table is read page by page, and nothing is kept of a page but sums and the few first names; so a look needs no memory for a million names. A table may end
%% at any moment, and another one take its name: what was seen counts only when the owner is alive afterwards.
-module(proctab_view).

-export([print_all/0, print/2, info/0, info/1, top/3]).

%% About how many characters of a name are printed, and how many at most.
-define(NAME_LENGTH, 40).
-define(LONGEST_NAME, 50).

%% The first of a number of items by their ranks: how many are wanted, how many were offered, and those that are the first so far.
-type first(Item) :: {Wanted :: non_neg_integer(), Offered :: non_neg_integer(), gb_sets:set({Rank :: integer(), Offer :: integer(), Item})}.

%%% Figures

-spec info() -> proctab:info().
info() ->
    Tables = lists:sort(proctab_nif:tables()),
    Zones = [Info || {zone, Zone, Owner} <- Tables, {ok, Info} <- [zone(Zone, Owner)]],
    Processes = [Info || {processes, Table, Owner} <- Tables, {ok, Info} <- [processes(Table, Owner)]],
    #{zones => Zones, processes => Processes, total => total(Zones, Processes)}.

-spec info(gen_tracker:zone()) -> {ok, proctab:zone_info()} | ended.
info(Zone) ->
    with_owner(Zone, fun(Owner) -> zone(Zone, Owner) end).

with_owner(Zone, Fun) ->
    try proctab_nif:owner(Zone) of
        Owner -> Fun(Owner)
    catch
        error:badarg -> ended
    end.

zone(Zone, Owner) ->
    States = #{launching => 0, running => 0, terminating => 0, pending => 0, restarting => 0},
    Nothing = #{name => Zone, owner => Owner, children => 0, states => States, without_child => 0, attributes => 0, memory => 0},
    case seen(Owner, fun() -> fold(fun(Row, Info) -> add_row(Zone, Row, Info) end, Nothing, Zone) end) of
        {ok, Info, Length} -> {ok, Info#{message_queue_len => Length}};
        ended -> ended
    end.

add_row(Zone, {Name, Child, Attributes, Bytes}, #{attributes := AttributesBefore, memory := Before} = Info) ->
    With = Info#{attributes := AttributesBefore + Attributes, memory := Before + Bytes},
    case state(Zone, Name, Child, Attributes) of
        gone -> Info;
        nothing -> With;
        without_child -> With#{without_child := maps:get(without_child, Info) + 1};
        State -> With#{children := maps:get(children, Info) + 1, states := maps:update_with(State, fun(N) -> N + 1 end, maps:get(states, Info))}
    end.

%% A page tells only who runs. The others are few.
state(_, _, Child, _) when is_pid(Child) ->
    running;
state(Zone, Name, undefined, Attributes) ->
    case proctab_nif:child(Zone, Name) of
        %% It waits for its next start, too.
        {slowed, _, _, _} -> pending;
        {State, _, _, _} -> State;
        undefined when Attributes =:= 0 -> nothing;
        undefined ->
            %% Nobody's, or those of a child that was terminating and has gone since.
            case proctab_nif:attrs(Zone, Name) of
                [] -> gone;
                _ -> without_child
            end
    end.

processes(Table, Owner) ->
    Look = fun() ->
        Processes = pages(fun(From) -> proctab_nif:processes_page(Table, From) end, fun(_, N) -> N + 1 end, 0),
        Add = fun({_, Count}, {Names, Registrations}) -> {Names + 1, Registrations + Count} end,
        {Names, Registrations} = pages(fun(From) -> proctab_nif:counts_page(Table, From) end, Add, {0, 0}),
        #{name => Table, owner => Owner, processes => Processes, names => Names, registrations => Registrations}
    end,
    case seen(Owner, Look) of
        {ok, Info, _} -> {ok, Info};
        ended -> ended
    end.

total(Zones, Processes) ->
    #{
        zones => length(Zones),
        children => sum(children, Zones),
        without_child => sum(without_child, Zones),
        attributes => sum(attributes, Zones),
        memory => sum(memory, Zones),
        processes => sum(processes, Processes),
        names => sum(names, Processes),
        registrations => sum(registrations, Processes)
    }.

sum(Key, Infos) ->
    lists:sum([maps:get(Key, Info) || Info <- Infos]).

%% What a fun sees in the table of an owner, and how many messages wait for the owner.
seen(Owner, Look) ->
    try Look() of
        Seen ->
            case process_info(Owner, message_queue_len) of
                {message_queue_len, Length} -> {ok, Seen, Length};
                undefined -> ended
            end
    catch
        error:badarg -> ended
    end.

%% Folds over all names: `{Name, Child | undefined, Attributes, Bytes}'.
fold(Fun, Acc, Zone) ->
    pages(fun(From) -> proctab_nif:page(Zone, From, sizes, []) end, Fun, Acc).

pages(Read, Fun, Acc) ->
    pages(Read, Fun, Acc, 0).

pages(_, _, Acc, done) ->
    Acc;
pages(Read, Fun, Acc, From) ->
    {Page, Next} = Read(From),
    pages(Read, Fun, lists:foldl(Fun, Acc, Page), Next).

%%% The first names

-spec top(gen_tracker:zone(), gen_tracker:key(), non_neg_integer()) -> {ok, [{gen_tracker:name(), integer()}]} | ended.
top(Zone, Key, Wanted) ->
    first_names(Zone, Wanted, fun({Name, _, _, _}, First) ->
        case proctab_nif:getattr(Zone, Name, Key) of
            {ok, Value} when is_integer(Value) -> offer(Value, {Name, Value}, First);
            _ -> First
        end
    end).

%% The running children with the most reductions, as rows of a table.
busiest(Zone, Wanted) ->
    first_names(Zone, Wanted, fun
        ({Name, Child, Attributes, Bytes}, First) when is_pid(Child), node(Child) =:= node() ->
            case process_info(Child, [reductions, message_queue_len, memory]) of
                [{reductions, Reductions}, {message_queue_len, Length}, {memory, Memory}] ->
                    offer(Reductions, [{name, Name}, {pid, Child}, Reductions, Length, Memory, Attributes, Bytes], First);
                undefined ->
                    First
            end;
        (_, First) ->
            First
    end).

first_names(Zone, Wanted, Fun) ->
    with_owner(Zone, fun(Owner) ->
        case seen(Owner, fun() -> fold(Fun, {Wanted, 0, gb_sets:empty()}, Zone) end) of
            {ok, First, _} -> {ok, items(First)};
            ended -> ended
        end
    end).

%% The number of the offer makes each of them another one, and names are not compared: the set would take `1' and `1.0' for one.
-spec offer(integer(), Item, first(Item)) -> first(Item).
offer(Rank, Item, {Wanted, Offered, First}) ->
    More = gb_sets:add({Rank, -Offered, Item}, First),
    case gb_sets:size(More) > Wanted of
        true ->
            {_, Kept} = gb_sets:take_smallest(More),
            {Wanted, Offered + 1, Kept};
        false ->
            {Wanted, Offered + 1, More}
    end.

items({_, _, First}) ->
    [Item || {_, _, Item} <- lists:reverse(gb_sets:to_list(First))].

%%% As text

-spec print_all() -> ok.
print_all() ->
    #{zones := Zones, processes := Processes} = info(),
    OfZones = [
        [{name, Name}, {pid, Owner}, Children, Running, WithoutChild, Attributes, Memory, Length]
     || #{name := Name, owner := Owner, children := Children, states := #{running := Running}, without_child := WithoutChild,
          attributes := Attributes, memory := Memory, message_queue_len := Length} <- Zones
    ],
    OfProcesses = [
        [{name, Name}, {pid, Owner}, Count, Names, Registrations]
     || #{name := Name, owner := Owner, processes := Count, names := Names, registrations := Registrations} <- Processes
    ],
    print([
        with_total(["zone", "owner", "children", "running", "without child", "attributes", "bytes", "queue"], OfZones),
        with_total(["table of processes", "owner", "processes", "names", "registrations"], OfProcesses)
    ]).

-spec print(gen_tracker:zone(), Busiest :: non_neg_integer()) -> ok | ended.
print(Zone, Wanted) ->
    case {info(Zone), busiest(Zone, Wanted)} of
        {{ok, Info}, {ok, Busiest}} ->
            #{name := Name, owner := Owner, children := Children, states := States, without_child := WithoutChild,
              attributes := Attributes, memory := Memory, message_queue_len := Length} = Info,
            Figures =
                [["zone", {name, Name}], ["owner", {pid, Owner}], ["children", Children]] ++
                [["  " ++ atom_to_list(State), Count] || {State, Count} <- lists:sort(maps:to_list(States))] ++
                [["names without child", WithoutChild], ["attributes", Attributes], ["bytes", Memory], ["queue", Length]],
            print([Figures, [["busiest names", "pid", "reductions", "queue", "process bytes", "attributes", "bytes"] | Busiest]]);
        _ ->
            ended
    end.

with_total([_, _ | Header] = Names, Rows) ->
    Total = lists:foldl(fun([_, _ | Row], Sums) -> lists:zipwith(fun erlang:'+'/2, Row, Sums) end, [0 || _ <- Header], Rows),
    [Names | Rows] ++ [["total", "" | Total]].

print(Tables) ->
    io:format("~ts", [lists:join($\n, [table(Rows) || Rows <- Tables])]).

%% Rows of the same number of columns, each as wide as its widest cell: two that begin at the left, then numbers.
table(Rows) ->
    Lines = [[cell(Cell) || Cell <- Row] || Row <- Rows],
    Wider = fun(Cell, Width) -> max(string:length(Cell), Width) end,
    Widths = lists:foldl(fun(Line, Widths) -> lists:zipwith(Wider, Line, Widths) end, [0 || _ <- hd(Lines)], Lines),
    [[string:trim(line(Line, Widths), trailing), $\n] || Line <- Lines].

line([First, Second | Numbers], [FirstWidth, SecondWidth | Widths]) ->
    Padded = [string:pad(First, FirstWidth), string:pad(Second, SecondWidth) | lists:zipwith(fun leading/2, Numbers, Widths)],
    lists:join("  ", Padded).

leading(Number, Width) ->
    string:pad(Number, Width, leading).

cell({name, Name}) -> name(Name);
cell({pid, Pid}) -> pid_to_list(Pid);
cell(Number) when is_integer(Number) -> integer_to_list(Number);
cell(Text) -> Text.

%% A term as the shell would print it, on one line. The limit spares most of the work for a long one, but it does not cut an atom or a number.
name(Name) ->
    Text = io_lib:format("~0tp", [Name], [{chars_limit, ?NAME_LENGTH}]),
    case string:length(Text) > ?LONGEST_NAME of
        true -> [string:slice(Text, 0, ?LONGEST_NAME - 3), "..."];
        false -> Text
    end.
