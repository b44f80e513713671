%% The books of the demonstration: an ETS table, apart from the library that they check. It counts
%% what the demonstration does and what the library reports, each kind of entry from a source of its
%% own.
%%
%% Entries count calls of the start function, kills, and calls of `after_terminate`. `balance/2`
%% compares them for each name. `wrong/2` counts disagreements, and keeps the first example of each
%% kind.
-module(demo_books).

-export([open/0, started/1, killed/1, ended/3, wrong/2]).
-export([kills/1, total/1, names/1, last_attributes/1, balance/2, wrongs/0]).

-define(BOOKS, ?MODULE).

open() ->
    ?BOOKS = ets:new(?BOOKS, [named_table, public, {write_concurrency, true}]),
    ok.

%% Enters a call of the start function.
started(Name) ->
    add({started, Name}).

%% Enters a kill that ended the child.
killed(Name) ->
    add({killed, Name}).

%% Enters a call of `after_terminate`.
ended(Name, Attributes, Reason) ->
    true = ets:insert(?BOOKS, {{attributes, Name}, lists:sort(Attributes)}),
    [add({reading, Name}) || Reason =:= killed, lists:member({state, reading}, Attributes)],
    add({ended, Reason, Name}).

%% Enters a disagreement.
wrong(What, Example) ->
    _ = ets:insert_new(?BOOKS, {{example, What}, Example}),
    add({wrong, What}).

kills(Name) ->
    count({killed, Name}).

%% Returns the sum over all names: of `started`, of `killed`, of `ended` for one reason, or of
%% `reading`, the kills of children that were reading.
total({ended, Reason}) ->
    sum({ended, Reason, '_'});
total(What) ->
    sum({What, '_'}).

%% Returns how many names have an entry `started`, or `killed`.
names(What) ->
    length(ets:match(?BOOKS, {{What, '$1'}, '_'})).

%% Returns the attributes of the last call of `after_terminate` for a name.
last_attributes(Name) ->
    case ets:lookup(?BOOKS, {attributes, Name}) of
        [{_, Attributes}] -> Attributes;
        [] -> []
    end.

%% Checks the books of one name at the end: `after_terminate` was called for each kill, a permanent
%% child started again after each kill, a temporary one never, and the last child was shut down
%% once.
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

%% Returns the disagreements, `[{What, HowOften, Example}]`.
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
