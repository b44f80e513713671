%% What runs on each node of the demonstration: the zone, its children, and the books.
%%
%% The books are an ETS table, apart from the library that they check. They count the calls of the
%% start function and of `after_terminate', for each name. A subscriber of the zone counts the
%% events, and follows which children there are by them.
-module(cluster_demo_node).

-export([start/1, open/1, terminate/1, drain/0, overview/1, books/0]).
-export([start_child/1, after_terminate/3]).

-define(ZONE, streams).
-define(BOOKS, ?MODULE).
-define(SUBSCRIBER, ?MODULE).
-define(OPENERS, 8).

%% Starts the zone and a subscriber.
start(Options) ->
    Caller = self(),
    Pid = spawn(fun() ->
        register(?SUBSCRIBER, self()),
        ?BOOKS = ets:new(?BOOKS, [named_table, public]),
        {ok, _} = gen_tracker:start_link(?ZONE, #{cluster => Options}),
        {ok, []} = gen_tracker_cluster:subscribe(?ZONE),
        Caller ! {self(), started},
        follow(#{}, #{})
    end),
    receive
        {Pid, started} -> ok
    end.

%% Counts events by their kind. A node that is too slow for the events of another one gets all of
%% its names anew. A birth that is told again then, and a death whose birth was not told, count as
%% `repeated'.
follow(Children, Events) ->
    receive
        {gen_tracker_cluster, ?ZONE, Event} ->
            Kind = kind(Event, Children),
            follow(changed(Event, Children), Events#{Kind => maps:get(Kind, Events, 0) + 1});
        {Caller, events} ->
            Caller ! {self(), lists:sort(maps:keys(Children)), Events},
            follow(Children, Events)
    end.

kind({up, Name, Pid}, Children) when is_map_key({Name, Pid}, Children) -> repeated;
kind({down, Name, Pid, _}, Children) when not is_map_key({Name, Pid}, Children) -> repeated;
kind({down, _, _, {nodedown, _}}, _) -> nodedown;
kind(Event, _) -> element(1, Event).

changed({up, Name, Pid}, Children) -> Children#{{Name, Pid} => up};
changed({down, Name, Pid, _}, Children) -> maps:remove({Name, Pid}, Children);
changed(_, Children) -> Children.

events() ->
    Subscriber = whereis(?SUBSCRIBER),
    Subscriber ! {self(), events},
    receive
        {Subscriber, Children, Events} -> {Children, Events}
    end.

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
%% the children that run here, those that the subscriber was told of, and the number of events by
%% their kind.
overview(Names) ->
    Collect = fun(Name, Pid, Children) -> [{Name, Pid} | Children] end,
    {Told, Events} = events(),
    #{
        members => gen_tracker_cluster:members(?ZONE),
        names => lists:sort(gen_tracker_cluster:fold(Collect, [], ?ZONE)),
        found => lists:sort([
            {Name, Pid}
         || Name <- Names, {ok, Pid} <- [gen_tracker_cluster:find(?ZONE, Name)]
        ]),
        homes => [gen_tracker_cluster:home(?ZONE, Name) || Name <- Names],
        here => lists:sort(gen_tracker:fold(Collect, [], ?ZONE)),
        told => Told,
        events => Events
    }.

%% Returns the entries `{{Kind, Name}, HowOften}'.
books() ->
    ets:tab2list(?BOOKS).

add(Key) ->
    _ = ets:update_counter(?BOOKS, Key, 1, {Key, 0}),
    ok.
