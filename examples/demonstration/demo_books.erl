%% The books of the demonstration: what was done and what was told, each entry from a source of
%% its own, and kept apart from the library that they check, in an ETS table.
%%
%% An entry is a count: the start function was called, a child was killed, `after_terminate` was
%% called. `balance/2` compares them for each name. What anybody sees that must not be is counted
%% by `wrong/2` with the first example.
-module(demo_books).

-export([open/0, started/1, killed/1, ended/3, wrong/2]).
-export([kills/1, total/1, names/1, last_attributes/1, balance/2, wrongs/0]).

-define(BOOKS, ?MODULE).

open() ->
    ?BOOKS = ets:new(?BOOKS, [named_table, public, {write_concurrency, true}]),
    ok.

%% The start function was called.
started(Name) ->
    add({started, Name}).

%% A kill was sent, and the child died of it.
killed(Name) ->
    add({killed, Name}).

%% `after_terminate` was called.
ended(Name, Attributes, Reason) ->
    true = ets:insert(?BOOKS, {{attributes, Name}, lists:sort(Attributes)}),
    [add({reading, Name}) || Reason =:= killed, lists:member({state, reading}, Attributes)],
    add({ended, Reason, Name}).

%% Something disagrees.
wrong(What, Example) ->
    _ = ets:insert_new(?BOOKS, {{example, What}, Example}),
    add({wrong, What}).

kills(Name) ->
    count({killed, Name}).

%% The sum over all names: of `started`, of `killed`, of `ended` for one reason, or of `reading`:
%% killed while it read.
total({ended, Reason}) ->
    sum({ended, Reason, '_'});
total(What) ->
    sum({What, '_'}).

%% How many names have an entry `started`, or `killed`.
names(What) ->
    length(ets:match(?BOOKS, {{What, '$1'}, '_'})).

%% The attributes that the last `after_terminate` of a name was given.
last_attributes(Name) ->
    case ets:lookup(?BOOKS, {attributes, Name}) of
        [{_, Attributes}] -> Attributes;
        [] -> []
    end.

%% The books of one name, after all is over: each kill is told by `after_terminate`, a permanent
%% child starts again after each, a temporary one never, and the child that was there at the end
%% was told to shut down, once.
balance(Name, Restart) ->
    Kills = kills(Name),
    {Starts, Shutdowns} =
        case Restart of
            permanent -> {1 + Kills, 1};
            temporary when Kills =:= 0 -> {1, 1};
            temporary -> {1, 0}
        end,
    Told = count({ended, killed, Name}),
    agree('start function calls of a child', Name, Starts, count({started, Name})),
    agree('after_terminate calls for kills of a child', Name, Kills, Told),
    agree(
        'after_terminate calls for the shutdown of a child',
        Name,
        Shutdowns,
        count({ended, shutdown, Name})
    ).

%% `[{What, HowOften, Example}]`
wrongs() ->
    [
        {What, Count, ets:lookup_element(?BOOKS, {example, What}, 2)}
     || [What, Count] <- ets:match(?BOOKS, {{wrong, '$1'}, '$2'})
    ].

agree(_What, _Name, Count, Count) ->
    ok;
agree(What, Name, Expected, Actual) ->
    wrong(What, {Name, {expected, Expected}, {actual, Actual}}).

add(Key) ->
    _ = ets:update_counter(?BOOKS, Key, 1, {Key, 0}),
    ok.

count(Key) ->
    case ets:lookup(?BOOKS, Key) of
        [{_, Count}] -> Count;
        [] -> 0
    end.

sum(KeyPattern) ->
    lists:sum([Count || [Count] <- ets:match(?BOOKS, {KeyPattern, '$1'})]).
