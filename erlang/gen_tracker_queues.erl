%% @private
%% The queues of a tracker: what waits for each keeper, in the order in which it came.
%%
%% An element that may leave before its turn has a key, the caller's `From'. The keeper of each
%% queue is monitored: one that a caller has spawned is only linked to the tracker, and its start
%% function may unlink it.
-module(gen_tracker_queues).

-export([new/1, number/1, add/4, take/2, find/2, remove/2, remove_all/2, elements/1]).

-export_type([queues/0]).

-type key() :: gen_server:from().

-record(queues, {
    context :: gen_tracker_keeper:context(),
    elements = #{} :: #{Keeper :: pid() => #{pos_integer() => {key() | none, term()}}},
    monitors = #{} :: #{Keeper :: pid() => reference()},
    places = #{} :: #{key() => {Keeper :: pid(), Number :: pos_integer()}},
    %% Numbers grow in the order in which elements come.
    next = 1 :: pos_integer()
}).

-opaque queues() :: #queues{}.

%% @doc Returns empty queues.
-spec new(gen_tracker_keeper:context()) -> queues().
new(Context) ->
    #queues{context = Context}.

%% @doc Returns a number that no element has or gets.
-spec number(queues()) -> {pos_integer(), queues()}.
number(#queues{next = Number} = Queues) ->
    {Number, Queues#queues{next = Number + 1}}.

%% @doc Adds an element to the queue of a keeper, with a key if it may leave before its turn.
%% Returns its number.
-spec add(Keeper :: pid(), key() | none, Element :: term(), queues()) -> {pos_integer(), queues()}.
add(Keeper, Key, Element, Queues) ->
    {Number, #queues{elements = Elements, places = Places} = Numbered} = number(Queues),
    Queue = maps:get(Keeper, Elements, #{}),
    Added = Numbered#queues{
        elements = Elements#{Keeper => Queue#{Number => {Key, Element}}},
        places = add_place(Key, {Keeper, Number}, Places)
    },
    {Number, monitored(Keeper, Added)}.

add_place(none, _, Places) -> Places;
add_place(Key, Place, Places) -> Places#{Key => Place}.

monitored(Keeper, #queues{monitors = Monitors} = Queues) when is_map_key(Keeper, Monitors) ->
    Queues;
monitored(Keeper, #queues{context = Context, monitors = Monitors} = Queues) ->
    Monitor = gen_tracker_keeper:monitor_keeper(Keeper, Context),
    Queues#queues{monitors = Monitors#{Keeper => Monitor}}.

%% @doc Removes the queue of a keeper. Returns its elements with their numbers, earliest first.
-spec take(Keeper :: pid(), queues()) -> {[{pos_integer(), Element :: term()}], queues()}.
take(Keeper, #queues{elements = Elements, places = Places} = Queues) ->
    case maps:take(Keeper, Elements) of
        {Queue, Others} ->
            Taken = lists:sort(maps:to_list(Queue)),
            Remove = fun({Number, {Key, _}}, Left) ->
                remove_place(Key, {Keeper, Number}, Left)
            end,
            Left = Queues#queues{
                elements = Others,
                places = lists:foldl(Remove, Places, Taken)
            },
            {[{Number, Element} || {Number, {_, Element}} <- Taken], demonitored(Keeper, Left)};
        error ->
            {[], Queues}
    end.

remove_place(Key, Place, Places) ->
    case Places of
        #{Key := Place} -> maps:remove(Key, Places);
        _ -> Places
    end.

demonitored(Keeper, #queues{monitors = Monitors} = Queues) ->
    {Monitor, Others} = maps:take(Keeper, Monitors),
    true = demonitor(Monitor, [flush]),
    Queues#queues{monitors = Others}.

%% @doc Returns the element that has a key, its number, and the keeper that it waits for.
-spec find(key(), queues()) -> {Keeper :: pid(), pos_integer(), Element :: term()} | none.
find(Key, #queues{elements = Elements, places = Places}) ->
    case Places of
        #{Key := {Keeper, Number}} ->
            #{Keeper := #{Number := {_, Element}}} = Elements,
            {Keeper, Number, Element};
        _ ->
            none
    end.

%% @doc Removes the element that has a key.
-spec remove(key(), queues()) -> queues().
remove(Key, #queues{elements = Elements, places = Places} = Queues) ->
    {{Keeper, Number}, Others} = maps:take(Key, Places),
    Left = Queues#queues{places = Others},
    case maps:remove(Number, map_get(Keeper, Elements)) of
        Queue when map_size(Queue) =:= 0 ->
            demonitored(Keeper, Left#queues{elements = maps:remove(Keeper, Elements)});
        Queue ->
            Left#queues{elements = Elements#{Keeper := Queue}}
    end.

%% @doc Removes the elements for which a function returns `true', none of which has a key. Returns
%% them with their numbers.
-spec remove_all(fun((Element :: term()) -> boolean()), queues()) ->
          {[{pos_integer(), Element :: term()}], queues()}.
remove_all(Is, #queues{elements = Elements} = Queues) ->
    Remove = fun(Keeper, Queue, {Removed, Before}) ->
        Found = [
            {Number, Element}
         || {Number, {none, Element}} <- maps:to_list(Queue), Is(Element)
        ],
        case maps:without([Number || {Number, _} <- Found], Queue) of
            Queue ->
                {Removed, Before};
            Left when map_size(Left) =:= 0 ->
                Others = maps:remove(Keeper, Before#queues.elements),
                {Found ++ Removed, demonitored(Keeper, Before#queues{elements = Others})};
            Left ->
                Others = Before#queues.elements,
                {Found ++ Removed, Before#queues{elements = Others#{Keeper := Left}}}
        end
    end,
    maps:fold(Remove, {[], Queues}, Elements).

%% @doc Returns all elements.
-spec elements(queues()) -> [Element :: term()].
elements(#queues{elements = Elements}) ->
    [Element || Queue <- maps:values(Elements), {_, Element} <- maps:values(Queue)].
