%% What runs on each node of the demonstration: the zone, its children, and the books.
%%
%% The books are an ETS table, apart from the library that they check. They count the calls of the
%% start function and of `after_terminate', for each name, and the events that a subscriber of the
%% zone has received.
-module(cluster_demo_node).

-export([start/1, open/1, terminate/1, drain/0, overview/1, books/0]).
-export([start_child/1, after_terminate/3]).

-define(ZONE, streams).
-define(BOOKS, ?MODULE).
-define(OPENERS, 8).

%% Starts the zone and a subscriber.
start(Options) ->
    Caller = self(),
    Pid = spawn(fun() ->
        ?BOOKS = ets:new(?BOOKS, [named_table, public]),
        {ok, _} = gen_tracker:start_link(?ZONE, #{cluster => Options}),
        {ok, []} = gen_tracker_cluster:subscribe(?ZONE),
        Caller ! {self(), started},
        count_events()
    end),
    receive
        {Pid, started} -> ok
    end.

count_events() ->
    receive
        {gen_tracker_cluster, ?ZONE, Event} -> add({event, kind(Event)})
    end,
    count_events().

kind({down, _Name, _Pid, {nodedown, _Node}}) -> nodedown;
kind(Event) -> element(1, Event).

%% Opens all names from this node, by several processes, each in an order of its own. Returns the
%% answers.
open(Names) ->
    Caller = self(),
    Open = fun() ->
        Shuffled = [Name || {_, Name} <- lists:sort([{rand:uniform(), Name} || Name <- Names])],
        Caller ! {self(), [{Name, open_one(Name)} || Name <- Shuffled]}
    end,
    Openers = [spawn_link(Open) || _ <- lists:seq(1, ?OPENERS)],
    lists:append([receive {Opener, Answers} -> Answers end || Opener <- Openers]).

open_one(Name) ->
    Start = {?MODULE, start_child, [Name]},
    gen_tracker_cluster:find_or_open(?ZONE, {Name, Start, temporary, 5000, worker, [?MODULE]}).

start_child(Name) ->
    add({started, Name}),
    {ok, spawn_link(fun idle/0)}.

idle() ->
    receive
        _ -> idle()
    end.

after_terminate(Name, _Attributes, {conflict, Winner}) when is_pid(Winner) ->
    add({conflict, Name});
after_terminate(Name, _Attributes, shutdown) ->
    add({stopped, Name});
after_terminate(Name, _Attributes, _Reason) ->
    add({otherwise, Name}).

%% Stops a child of this node.
terminate(Name) ->
    supervisor:terminate_child(?ZONE, Name).

drain() ->
    gen_tracker_cluster:drain(?ZONE).

%% Returns what this node sees: the members, the names with their children, the home of each name,
%% the children that run here, and the number of events by their kind.
overview(Names) ->
    Collect = fun(Name, Pid, Children) -> [{Name, Pid} | Children] end,
    #{
        members => gen_tracker_cluster:members(?ZONE),
        names => lists:sort(gen_tracker_cluster:fold(Collect, [], ?ZONE)),
        found => lists:sort([
            {Name, Pid}
         || Name <- Names, {ok, Pid} <- [gen_tracker_cluster:find(?ZONE, Name)]
        ]),
        homes => [gen_tracker_cluster:home(?ZONE, Name) || Name <- Names],
        here => lists:sort(gen_tracker:fold(Collect, [], ?ZONE)),
        events => maps:from_list([{Kind, N} || {{event, Kind}, N} <- ets:tab2list(?BOOKS)])
    }.

%% Returns the entries `{{Kind, Name}, HowOften}'.
books() ->
    [Entry || {{Kind, _}, _} = Entry <- ets:tab2list(?BOOKS), Kind =/= event].

add(Key) ->
    _ = ets:update_counter(?BOOKS, Key, 1, {Key, 0}),
    ok.
