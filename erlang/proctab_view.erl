%% @private
%% Reads the tables for `proctab': their figures, and the names with the largest values of an
%% attribute or the most reductions; and formats both as text.
%%
%% A table is read page by page. Only totals and the largest items are kept of a page, so memory use
%% does not depend on the number of names. A table may end at any moment and another one take its
%% name, so a result is used only if the owner is still alive afterwards.
-module(proctab_view).

-export([print_all/0, print/2, info/0, info/1, top/3, without_child/1]).

%% About how many characters of a name are formatted, and the most that are printed.
-define(NAME_LENGTH, 40).
-define(LONGEST_NAME, 50).
%% How many values of each index, and how many subscribers, are printed.
-define(VALUES, 5).
-define(SUBSCRIBERS, 10).

%% The items with the largest ranks so far: how many are wanted, how many were offered, and those.
-type largest(Item) ::
    {Wanted :: non_neg_integer(), Offered :: non_neg_integer(),
        gb_sets:set({Rank :: integer(), Order :: integer(), Item})}.

%%% Figures

%% @doc Returns the figures of all tables, and the totals.
-spec info() -> proctab:info().
info() ->
    Tables = lists:sort(proctab_nif:tables()),
    Subscribers = all_subscribers(),
    Zones = [
        Info
     || {zone, Zone, Owner} <- Tables,
        {ok, Info} <- [zone_info(Zone, Owner, Subscribers)]
    ],
    Processes = [
        Info
     || {processes, Table, Owner} <- Tables,
        {ok, Info} <- [table_info(Table, Owner)]
    ],
    #{zones => Zones, processes => Processes, total => total(Zones, Processes)}.

%% @doc Returns the figures of a zone.
-spec info(gen_tracker:zone()) -> {ok, proctab:zone_info()} | ended.
info(Zone) ->
    Subscribers = all_subscribers(),
    with_owner(Zone, fun(Owner) -> zone_info(Zone, Owner, Subscribers) end).

with_owner(Zone, Fun) ->
    try proctab_nif:owner(Zone) of
        Owner -> Fun(Owner)
    catch
        error:badarg -> ended
    end.

zone_info(Zone, Owner, Subscribers) ->
    Queues = queues(Owner, Subscribers),
    Empty = #{
        name => Zone,
        owner => Owner,
        children => 0,
        states => #{launching => 0, running => 0, terminating => 0, pending => 0, restarting => 0},
        without_child => 0,
        attributes => 0,
        memory => 0,
        indexes => [],
        subscribers => length(Queues),
        subscriber_queue_len => lists:max([0 | [Length || {Length, _} <- Queues]])
    },
    Read = fun() ->
        with_indexes(Zone, fold(fun(Row, Info) -> add_row(Zone, Row, Info) end, Empty, Zone))
    end,
    case read_table(Owner, Read) of
        {ok, Info, QueueLength} -> {ok, Info#{message_queue_len => QueueLength}};
        ended -> ended
    end.

add_row(Zone, {Name, Child, Attributes, Bytes}, Info) ->
    #{attributes := AttributesBefore, memory := MemoryBefore} = Info,
    WithSize = Info#{
        attributes := AttributesBefore + Attributes,
        memory := MemoryBefore + Bytes
    },
    case row_state(Zone, Name, Child, Attributes) of
        gone ->
            Info;
        empty ->
            WithSize;
        without_child ->
            increment(without_child, WithSize);
        State ->
            #{states := States} = WithSize,
            increment(children, WithSize#{states := increment(State, States)})
    end.

with_indexes(Zone, #{memory := Memory} = Info) ->
    Indexes = [index_info(Zone, Index) || Index <- lists:reverse(proctab_nif:indexes(Zone))],
    Info#{indexes := Indexes, memory := Memory + sum(memory, Indexes)}.

index_info(Zone, Index) ->
    {Values, Places, Bytes} = index_sizes(Zone, key_of(Index), 0, {0, 0, 0}),
    #{index => Index, values => Values, places => Places, memory => Bytes}.

index_sizes(_, _, done, Sizes) ->
    Sizes;
index_sizes(Zone, Key, From, {Values, Places, Bytes}) ->
    {MoreValues, MorePlaces, MoreBytes, Next} = proctab_nif:index_page(Zone, Key, From),
    More = {Values + MoreValues, Places + MorePlaces, Bytes + MoreBytes},
    index_sizes(Zone, Key, Next, More).

key_of({each, Key}) -> Key;
key_of(Key) -> Key.

%% The subscribers of all zones by their trackers, those of `gen_tracker' and of
%% `gen_tracker_cluster'. A process that has subscribed by both is there once.
all_subscribers() ->
    all_subscribers(none, #{}).

all_subscribers(done, All) ->
    maps:map(fun(_, Some) -> lists:usort(Some) end, All);
all_subscribers(From, All) ->
    {Page, Next} = proctab_nif:subscriptions(From),
    Add = fun({Tracker, Subscriber}, Map) ->
        maps:update_with(Tracker, fun(Others) -> [Subscriber | Others] end, [Subscriber], Map)
    end,
    all_subscribers(Next, lists:foldl(Add, All, Page)).

%% The subscribers of a zone on this node, with the lengths of their message queues.
queues(Tracker, Subscribers) ->
    [
        {Length, Subscriber}
     || Subscriber <- maps:get(Tracker, Subscribers, []),
        {message_queue_len, Length} <- [process_info(Subscriber, message_queue_len)]
    ].

increment(Key, Figures) ->
    maps:update_with(Key, fun(Count) -> Count + 1 end, Figures).

%% Returns the state of a row. A page contains only the pids of running children; the other rows are
%% few, and are looked up one by one.
row_state(_, _, Child, _) when is_pid(Child) ->
    running;
row_state(Zone, Name, undefined, Attributes) ->
    case proctab_nif:child(Zone, Name) of
        %% It waits for its next start as well.
        {slowed, _, _, _} ->
            pending;
        {State, _, _, _} ->
            State;
        undefined when Attributes =:= 0 ->
            empty;
        undefined ->
            %% The attributes are without a child, or their child has been removed since the page
            %% was read.
            case proctab_nif:attrs(Zone, Name) of
                [] -> gone;
                _ -> without_child
            end
    end.

table_info(Table, Owner) ->
    Read = fun() ->
        Processes = count_processes(Table),
        {Names, Registrations} = count_registrations(Table),
        #{
            name => Table,
            owner => Owner,
            processes => Processes,
            names => Names,
            registrations => Registrations,
            deaths => proctab_nif:deaths(Table)
        }
    end,
    case read_table(Owner, Read) of
        {ok, Info, _} -> {ok, Info};
        ended -> ended
    end.

count_processes(Table) ->
    pages(fun(From) -> proctab_nif:processes_page(Table, From) end, fun(_, N) -> N + 1 end, 0).

count_registrations(Table) ->
    Add = fun({_, Count}, {Names, Registrations}) -> {Names + 1, Registrations + Count} end,
    pages(fun(From) -> proctab_nif:counts_page(Table, From) end, Add, {0, 0}).

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

%% Returns the result of a fun that reads a table, and the length of its owner's message queue; or
%% `ended' if the owner has died.
read_table(Owner, Read) ->
    try Read() of
        Result ->
            case process_info(Owner, message_queue_len) of
                {message_queue_len, Length} -> {ok, Result, Length};
                undefined -> ended
            end
    catch
        error:badarg -> ended
    end.

%% Folds over the names of a zone: `{Name, Child | undefined, Attributes, Bytes}'.
fold(Fun, Acc, Zone) ->
    pages(fun(From) -> proctab_nif:page(Zone, From, sizes, []) end, Fun, Acc).

pages(ReadPage, Fun, Acc) ->
    pages(ReadPage, Fun, Acc, 0).

pages(_, _, Acc, done) ->
    Acc;
pages(ReadPage, Fun, Acc, From) ->
    {Page, Next} = ReadPage(From),
    pages(ReadPage, Fun, lists:foldl(Fun, Acc, Page), Next).

%%% The largest

%% @doc Returns the names with the largest values of an attribute, largest first.
-spec top(gen_tracker:zone(), gen_tracker:key(), non_neg_integer()) ->
          {ok, [{gen_tracker:name(), integer()}]} | ended.
top(Zone, Key, Wanted) ->
    largest(Zone, Wanted, fun({Name, _, _, _}, Largest) ->
        case proctab_nif:getattr(Zone, Name, Key) of
            {ok, Value} when is_integer(Value) -> offer(Value, {Name, Value}, Largest);
            _ -> Largest
        end
    end).

%% Returns the running children of this node with the most reductions, as rows to be printed.
busiest(Zone, Wanted) ->
    largest(Zone, Wanted, fun
        ({Name, Child, Attributes, Bytes}, Largest) when is_pid(Child), node(Child) =:= node() ->
            case process_info(Child, [reductions, message_queue_len, memory]) of
                [{reductions, Reductions}, {message_queue_len, Length}, {memory, Memory}] ->
                    Numbers = [Reductions, Length, Memory, Attributes, Bytes],
                    offer(Reductions, [{name, Name}, {pid, Child} | Numbers], Largest);
                undefined ->
                    Largest
            end;
        (_, Largest) ->
            Largest
    end).

%% @doc Returns the names that have attributes and no child, with the number of the attributes and
%% the bytes of the name.
-spec without_child(gen_tracker:zone()) ->
          {ok, [{gen_tracker:name(), pos_integer(), pos_integer()}]} | ended.
without_child(Zone) ->
    Add = fun({Name, Child, Attributes, Bytes}, Names) ->
        case row_state(Zone, Name, Child, Attributes) of
            without_child -> [{Name, Attributes, Bytes} | Names];
            _ -> Names
        end
    end,
    with_owner(Zone, fun(Owner) ->
        case read_table(Owner, fun() -> fold(Add, [], Zone) end) of
            {ok, Names, _} -> {ok, Names};
            ended -> ended
        end
    end).

%% The values of an index that most children have, as rows to be printed.
most_common(Zone, Index) ->
    Key = key_of(Index),
    ReadPage = fun(From) -> proctab_nif:values_page(Zone, Key, From, []) end,
    Offer = fun({Value, Count}, Largest) ->
        offer(Count, [{name, Index}, {name, Value}, Count], Largest)
    end,
    items(pages(ReadPage, Offer, {?VALUES, 0, gb_sets:empty()})).

largest(Zone, Wanted, Fun) ->
    with_owner(Zone, fun(Owner) ->
        case read_table(Owner, fun() -> fold(Fun, {Wanted, 0, gb_sets:empty()}, Zone) end) of
            {ok, Largest, _} -> {ok, items(Largest)};
            ended -> ended
        end
    end).

%% Adds an item if its rank is large enough. The running number of the offer keeps items apart that
%% the set would take for one, as it compares with `==': `1' and `1.0'.
-spec offer(integer(), Item, largest(Item)) -> largest(Item).
offer(Rank, Item, {Wanted, Offered, Largest}) ->
    More = gb_sets:add({Rank, -Offered, Item}, Largest),
    case gb_sets:size(More) > Wanted of
        true ->
            {_, Kept} = gb_sets:take_smallest(More),
            {Wanted, Offered + 1, Kept};
        false ->
            {Wanted, Offered + 1, More}
    end.

items({_, _, Largest}) ->
    [Item || {_, _, Item} <- lists:reverse(gb_sets:to_list(Largest))].

%%% Text

%% @doc Prints the figures of all tables.
-spec print_all() -> ok.
print_all() ->
    #{zones := Zones, processes := Processes} = info(),
    print([
        with_total(
            ["zone", "owner", "children", "running", "without child", "attributes", "bytes",
                "queue"],
            [zone_row(Zone) || Zone <- Zones]
        ),
        with_total(
            ["table of processes", "owner", "processes", "names", "registrations"],
            [table_row(Table) || Table <- Processes]
        )
    ]).

zone_row(#{name := Name, owner := Owner, states := #{running := Running}} = Info) ->
    #{children := Children, without_child := WithoutChild} = Info,
    #{attributes := Attributes, memory := Memory, message_queue_len := QueueLength} = Info,
    Numbers = [Children, Running, WithoutChild, Attributes, Memory, QueueLength],
    [{name, Name}, {pid, Owner} | Numbers].

table_row(#{name := Name, owner := Owner} = Info) ->
    #{processes := Processes, names := Names, registrations := Registrations} = Info,
    [{name, Name}, {pid, Owner}, Processes, Names, Registrations].

%% @doc Prints the figures of a zone, and its busiest children.
-spec print(gen_tracker:zone(), Wanted :: non_neg_integer()) -> ok | ended.
print(Zone, Wanted) ->
    try {info(Zone), busiest(Zone, Wanted)} of
        {{ok, Info}, {ok, Busiest}} ->
            Header =
                ["busiest names", "pid", "reductions", "queue", "process bytes", "attributes",
                    "bytes"],
            print([
                figures(Info) | indexes(Zone, Info) ++ subscribers(Info) ++ [[Header | Busiest]]
            ]);
        _ ->
            ended
    catch
        error:badarg -> ended
    end.

%% One table for the indexes, and one for their values; none without indexes.
indexes(_, #{indexes := []}) ->
    [];
indexes(Zone, #{indexes := Indexes}) ->
    Rows = [
        [{name, Index}, "", Values, Places, Memory]
     || #{index := Index, values := Values, places := Places, memory := Memory} <- Indexes
    ],
    Common = lists:append([most_common(Zone, Index) || #{index := Index} <- Indexes]),
    [
        [["index", "", "values", "places", "bytes"] | Rows],
        [["index", "most common values", "children"] | Common]
    ].

%% The subscribers with the longest message queues.
subscribers(#{owner := Owner}) ->
    case queues(Owner, all_subscribers()) of
        [] ->
            [];
        Queues ->
            Longest = lists:sublist(lists:reverse(lists:sort(Queues)), ?SUBSCRIBERS),
            [[["subscriber", "", "queue"] | [[{pid, Pid}, "", Length] || {Length, Pid} <- Longest]]]
    end.

figures(#{name := Name, owner := Owner, children := Children, states := States} = Info) ->
    #{without_child := WithoutChild, attributes := Attributes} = Info,
    #{memory := Memory, message_queue_len := QueueLength, subscribers := Subscribers} = Info,
    Counts = lists:sort(maps:to_list(States)),
    [["zone", {name, Name}], ["owner", {pid, Owner}], ["children", Children]] ++
        [["  " ++ atom_to_list(State), Count] || {State, Count} <- Counts] ++
        [
            ["names without child", WithoutChild],
            ["attributes", Attributes],
            ["bytes", Memory],
            ["queue", QueueLength],
            ["subscribers", Subscribers]
        ].

with_total([_, _ | Headers] = Header, Rows) ->
    Add = fun([_, _ | Numbers], Sums) -> lists:zipwith(fun erlang:'+'/2, Numbers, Sums) end,
    Total = lists:foldl(Add, [0 || _ <- Headers], Rows),
    [Header | Rows] ++ [["total", "" | Total]].

print(Tables) ->
    io:format("~ts", [lists:join($\n, [table(Rows) || Rows <- Tables])]).

%% Formats rows of equal length. Each column is as wide as its widest cell; the first two are
%% aligned to the left, the numbers after them to the right.
table(Rows) ->
    Lines = [[cell(Cell) || Cell <- Row] || Row <- Rows],
    Wider = fun(Cell, Width) -> max(string:length(Cell), Width) end,
    Widen = fun(Line, Widths) -> lists:zipwith(Wider, Line, Widths) end,
    Widths = lists:foldl(Widen, [0 || _ <- hd(Lines)], Lines),
    [[string:trim(line(Line, Widths), trailing), $\n] || Line <- Lines].

line([First, Second | Numbers], [FirstWidth, SecondWidth | Widths]) ->
    Left = [string:pad(First, FirstWidth), string:pad(Second, SecondWidth)],
    Right = [string:pad(Number, Width, leading) || {Number, Width} <- lists:zip(Numbers, Widths)],
    lists:join("  ", Left ++ Right).

cell({name, Name}) -> name(Name);
cell({pid, Pid}) -> pid_to_list(Pid);
cell(Number) when is_integer(Number) -> integer_to_list(Number);
cell(Text) -> Text.

%% Formats a name as the shell does, on one line. `chars_limit' avoids most of the work for a long
%% name, but does not cut an atom or a number.
name(Name) ->
    Text = io_lib:format("~0tp", [Name], [{chars_limit, ?NAME_LENGTH}]),
    case string:length(Text) > ?LONGEST_NAME of
        true -> [string:slice(Text, 0, ?LONGEST_NAME - 3), "..."];
        false -> Text
    end.
