%% A cluster zone of four nodes under random histories: names are opened, registered, unregistered,
%% stopped and killed on all of them, while connections break and are made again, members are
%% drained, and trackers, keepers, registrars, cluster processes and scopes are killed.
%%
%% After a history all connections are made, and the zone comes to rest. Then:
%%
%% - the directory of every member equals the union of what runs on all of them;
%% - no name has two children;
%% - each child that has ended was cleaned up at most once, and exactly once if subscribers of its
%%   member were told of a conflict that it has lost. Not so if a keeper, the tracker or the zone of
%%   that member was ended: a cleanup may end with them;
%% - each process that was registered and lives has a name, unless that was taken from it;
%% - no keeper has started a child again after its child has lost a conflict;
%% - a subscriber on each member that has applied all events knows what is found there, and no event
%%   was missing or told twice.
-module(model_cluster).

-export([round/1, rounds/2, with_members/1, met/1]).
%% On the nodes
-export([start/2, after_terminate/3, open_books/0, books/0, clear/1, act/2, view/1]).
-export([start_subscriber/1, found/0, living/0]).

-include_lib("stdlib/include/assert.hrl").

-import(clusters, [on/4, on/5]).

-define(ZONE, model_cluster).
-define(NAMES, 12).
-define(STEPS, 25).
%% Histories of a round of the soak.
-define(HISTORIES, 10).

%% Makes a round of the soak. Fails with the seed of the history that fails.
round(Seed) ->
    Seeds = [?HISTORIES * Seed + N || N <- lists:seq(1, ?HISTORIES)],
    with_members(fun(Members) ->
        rounds(Seeds, Members),
        Counted = [started, registered, lost, registered_lost],
        Figures = maps:from_list([{What, met(What)} || What <- Counted]),
        [erase({met, What}) || What <- Counted],
        {ok, Figures#{histories => ?HISTORIES}}
    end).

%% Makes histories with these seeds. Fails with the seed of the one that fails.
rounds(Seeds, Members) ->
    lists:foreach(fun(Seed) -> history(Seed, Members) end, Seeds).

with_members(Fun) ->
    clusters:with(4, ?ZONE, fun(Members) ->
        [true = on(Member, ?MODULE, open_books, []) || Member <- Members],
        [true = on(Member, ?MODULE, start_subscriber, [?ZONE]) || Member <- Members],
        Fun(Members)
    end).

history(Seed, Members) ->
    _ = rand:seed(exsss, Seed),
    History = [step(Members) || _ <- lists:seq(1, ?STEPS)],
    try
        lists:foreach(fun run/1, History),
        rest(Members),
        check(Members),
        counted(Members),
        [ok = on(Member, ?MODULE, clear, [?ZONE]) || Member <- Members],
        clusters:settle(Members, ?ZONE)
    catch
        Class:Reason:Stack ->
            %% A zone may not run at this moment.
            Found = [tried(fun() -> clusters:directory(M, ?ZONE) end) || M <- Members],
            Views = [tried(fun() -> on(M, ?MODULE, view, [?ZONE]) end) || M <- Members],
            Books = [on(Member, ?MODULE, books, []) || Member <- Members],
            Told = [on(Member, ?MODULE, found, []) || Member <- Members],
            ct:pal("seed ~p~nhistory ~p~nbooks ~p~ndirectories ~p~nsubscribers ~p~nviews ~p~n", [
                Seed, History, Books, Found, Told, Views
            ]),
            erlang:raise(Class, {seed, Seed, Reason}, Stack)
    end.

tried(Fun) ->
    try
        Fun()
    catch
        _:Reason -> {failed, Reason}
    end.

%%% Histories

%% Returns operations that are made at the same time.
step(Members) ->
    [operation(Members) || _ <- lists:seq(1, rand:uniform(4))].

operation(Members) ->
    Member = one_of(Members),
    Name = rand:uniform(?NAMES),
    case rand:uniform(100) of
        N when N =< 28 -> {Member, {open, Name, restart()}};
        N when N =< 32 -> {Member, {open_locally, Name, restart()}};
        N when N =< 43 -> {Member, {register, gen_tracker_cluster, Name}};
        N when N =< 49 -> {Member, {register, gen_tracker, Name}};
        N when N =< 53 -> {Member, {register_again, one_of(modules()), Name, rand:uniform(?NAMES)}};
        N when N =< 55 -> {Member, {add, Name, element(2, one_of(Members))}};
        N when N =< 58 -> {Member, {unregister, one_of(modules()), Name}};
        N when N =< 60 -> {Member, {re_register, Name}};
        N when N =< 66 -> {Member, {stop, Name}};
        N when N =< 75 -> {Member, {kill, Name}};
        N when N =< 77 -> {Member, {kill_keeper, Name}};
        N when N =< 80 -> {Member, {kill_registrar, rand:uniform(8)}};
        N when N =< 86 -> {cut, lists:split(rand:uniform(3), shuffled(Members))};
        N when N =< 93 -> {join, Members};
        N when N =< 95 -> {Member, drain};
        N when N =< 96 -> {Member, restart_zone};
        97 -> {Member, kill_tracker};
        98 -> {Member, kill_scope};
        _ -> {Member, kill_cluster_process}
    end.

restart() ->
    one_of([temporary, transient, permanent]).

modules() ->
    [gen_tracker, gen_tracker_cluster].

one_of(List) ->
    lists:nth(rand:uniform(length(List)), List).

shuffled(List) ->
    [Element || {_, Element} <- lists:sort([{rand:uniform(), Element} || Element <- List])].

run(Operations) ->
    Running = [spawn_monitor(fun() -> run_one(Operation) end) || Operation <- Operations],
    [
        receive
            {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(normal, Reason)
        end
     || {Pid, Monitor} <- Running
    ].

run_one({cut, {Some, Others}}) ->
    [on(One, erlang, disconnect_node, [Node]) || One <- Some, {_, Node} <- Others];
run_one({join, Members}) ->
    [on(One, net_kernel, connect_node, [Node]) || One <- Members, {_, Node} <- Members];
run_one({Member, restart_zone}) ->
    %% It may be between two lives of its tracker.
    case on(Member, ?MODULE, act, [?ZONE, stop_zone]) of
        ok -> on(Member, clusters, start_zone, [?ZONE, #{cluster => true}]);
        _ -> none
    end;
run_one({Member, Operation}) ->
    on(Member, ?MODULE, act, [?ZONE, Operation]).

%% Connects all nodes, and gives each a zone that accepts starts.
rest(Members) ->
    clusters:join(Members),
    lists:foreach(
        fun(Member) ->
            clusters:until_zone_runs(Member, ?ZONE),
            is_drained(Member) andalso run_one({Member, restart_zone})
        end,
        Members
    ),
    clusters:settle(Members, ?ZONE).

%% Returns whether a member was drained. Its cluster process may have been killed: asks until the
%% next one answers.
is_drained(Member) ->
    wait:until(fun() -> lists:member(run_one({Member, drained}), [drained, accepts]) end),
    run_one({Member, drained}) =:= drained.

%% Counts what the rounds have met, so that a run can show that it tests something.
counted(Members) ->
    Books = [Row || Member <- Members, {_, Row} <- on(Member, ?MODULE, books, [])],
    Registered = registered(Books),
    Met = [started || {started, _, _, _} <- Books] ++ [registered || {registered, _, _} <- Books] ++
        [lost || {ended, _, _, {conflict, _}, _} <- Books] ++
        [registered_lost || {lost, _, Pid} <- Books, lists:member(Pid, Registered)],
    [put({met, What}, 1 + met(What)) || What <- Met],
    ok.

met(What) ->
    case get({met, What}) of
        undefined -> 0;
        Number -> Number
    end.

%%% Checks

check(Members) ->
    Live = lists:append([on(Member, clusters, running, [?ZONE]) || Member <- Members]),
    Names = [Name || {Name, _} <- Live],
    ?assertEqual([], Names -- lists:usort(Names)),
    lists:foreach(fun(Member) -> check_events(Member) end, Members),
    lists:foreach(fun(Member) -> check_books(Member, Live) end, Members),
    check_registered(Members, Live).

%% Each process that lives has a name, unless one was taken from it.
check_registered(Members, Live) ->
    Books = [Row || Member <- Members, {_, Row} <- on(Member, ?MODULE, books, [])],
    Taken = [Name || {unregistered, Name} <- Books],
    Named = [Pid || {_, Pid} <- Live] ++
        [Pid || {registered, Name, Pid} <- Books, lists:member(Name, Taken)],
    wait:until(fun() ->
        lists:all(fun(Member) -> on(Member, ?MODULE, living, []) -- Named =:= [] end, Members)
    end).

check_events(Member) ->
    Directory = clusters:directory(Member, ?ZONE),
    wait:until(fun() ->
        case on(Member, ?MODULE, found, []) of
            {_, [_ | _] = Wrong} -> error({wrong_events, Wrong});
            {Found, []} -> Found =:= Directory
        end
    end).

check_books(Member, Live) ->
    Lives = fun(Pid) -> lists:keymember(Pid, 2, Live) end,
    wait:until(fun() ->
        lists:all(Lives, not_cleaned_up(on(Member, ?MODULE, books, [])))
    end),
    Books = on(Member, ?MODULE, books, []),
    Ended = ended(Books),
    ?assertEqual([], Ended -- lists:usort(Ended)),
    Losers = [{At, Keeper} || {At, {ended, _, _, {conflict, _}, Keeper}} <- Books],
    ?assertEqual(
        [],
        [Row || {At, Keeper} <- Losers, {Later, {started, _, _, Starter}} = Row <- Books,
            Starter =:= Keeper, Later > At]
    ).

%% Returns the children that have lost a conflict and were not cleaned up, if their member has been
%% left alone. One may live on because the winner has ended before.
not_cleaned_up(Books) ->
    case [disturbed || {_, disturbed} <- Books] of
        [] ->
            Lost = [Pid || {_, {lost, _, Pid}} <- Books, has_cleanup(Pid, Books)],
            %% It may lose to several children.
            lists:usort(Lost) -- ended(Books);
        _ -> []
    end.

%% Returns whether a child was started: those that were registered or added have no cleanup.
has_cleanup(Pid, Books) ->
    [] =/= [Name || {_, {started, Name, Started, _}} <- Books, Started =:= Pid].

all_registered(Books) ->
    registered([Row || {_, Row} <- Books]).

registered(Rows) ->
    lists:usort([Pid || {registered, _, Pid} <- Rows]).

ended(Books) ->
    [Pid || {_, {ended, _, Pid, _, _}} <- Books, is_pid(Pid)].

%%% On the nodes

open_books() ->
    Caller = self(),
    Pid = spawn(fun() ->
        ?MODULE = ets:new(?MODULE, [named_table, public, ordered_set]),
        Caller ! {self(), open},
        receive
        after infinity -> ok
        end
    end),
    receive
        {Pid, open} -> true
    end.

books() ->
    ets:tab2list(?MODULE).

%% Returns the processes of this node that were registered, and live.
living() ->
    [Pid || Pid <- all_registered(books()), node(Pid) =:= node(), is_process_alive(Pid)].

%% Starts a process that subscribes again whenever its subscription has ended.
start_subscriber(Zone) ->
    Pid = spawn(fun() -> subscribe(Zone, []) end),
    register(model_cluster_subscriber, Pid).

%% Returns the names and children that it believes to be found, and the events that did not fit.
found() ->
    gen_server:call(model_cluster_subscriber, found).

subscribe(Zone, Wrong) ->
    try gen_tracker_cluster:subscribe(Zone) of
        {ok, Children} -> subscriber(Zone, Children, Wrong)
    catch
        %% The zone or its cluster process has ended.
        _:_ ->
            receive
                {'$gen_call', From, found} -> gen_server:reply(From, {not_subscribed, Wrong})
            after 5 -> ok
            end,
            subscribe(Zone, Wrong)
    end.

subscriber(Zone, Children, Wrong) ->
    receive
        {gen_tracker_cluster, Zone, unsubscribed} ->
            subscribe(Zone, Wrong);
        {gen_tracker_cluster, Zone, {up, Name, Pid} = Event} ->
            Twice = [{Event, Children} || lists:member({Name, Pid}, Children)],
            subscriber(Zone, [{Name, Pid} | Children], Twice ++ Wrong);
        {gen_tracker_cluster, Zone, {down, Name, Pid, _} = Event} ->
            Missing = [{Event, Children} || not lists:member({Name, Pid}, Children)],
            subscriber(Zone, lists:delete({Name, Pid}, Children), Missing ++ Wrong);
        {gen_tracker_cluster, Zone, {conflict, Name, _, Lost}} when node(Lost) =:= node() ->
            record({lost, Name, Lost}),
            subscriber(Zone, Children, Wrong);
        {gen_tracker_cluster, Zone, _} ->
            subscriber(Zone, Children, Wrong);
        {'$gen_call', From, found} ->
            gen_server:reply(From, {lists:sort(Children), Wrong}),
            subscriber(Zone, Children, Wrong)
    end.

record(Row) ->
    ets:insert(?MODULE, {erlang:unique_integer([monotonic]), Row}).

%% Starts a child, whose cleanup knows which one it was.
start(Zone, Name) ->
    Pid = spawn_link(timer, sleep, [infinity]),
    ok = gen_tracker:setattr(Zone, Name, child, Pid),
    record({started, Name, Pid, self()}),
    {ok, Pid}.

after_terminate(Name, Attributes, Reason) ->
    record({ended, Name, proplists:get_value(child, Attributes), Reason, self()}).

spec(Zone, Name, Restart) ->
    {Name, {?MODULE, start, [Zone, Name]}, Restart, 500, worker, [?MODULE]}.

%% Makes an operation. Whatever goes on at the same time, none fails in another way than these.
act(Zone, Operation) ->
    try
        act_now(Operation, Zone)
    catch
        error:badarg -> no_zone;
        error:undef -> no_zone;
        error:{erpc, _} -> no_connection;
        exit:_ -> ended
    end.

act_now({open, Name, Restart}, Zone) ->
    case gen_tracker_cluster:find_or_open(Zone, spec(Zone, Name, Restart)) of
        {ok, Pid} when is_pid(Pid) -> ok;
        {error, _} -> error
    end;
act_now({open_locally, Name, Restart}, Zone) ->
    gen_tracker:find_or_open(Zone, spec(Zone, Name, Restart));
act_now({register, Module, Name}, Zone) ->
    Pid = spawn(timer, sleep, [infinity]),
    %% Before it has the name: it may lose that at once.
    record({registered, Name, Pid}),
    try Module:register_name({Zone, Name}, Pid) of
        yes -> yes;
        no -> exit(Pid, kill)
    catch
        Class:Reason:Stack ->
            exit(Pid, kill),
            erlang:raise(Class, Reason, Stack)
    end;
act_now({register_again, Module, Name, Other}, Zone) ->
    case gen_tracker:find(Zone, Other) of
        {ok, Pid} when node(Pid) =:= node() ->
            case lists:member(Pid, living()) of
                true ->
                    record({registered, Name, Pid}),
                    Module:register_name({Zone, Name}, Pid);
                false ->
                    no
            end;
        _ ->
            no
    end;
act_now({add, Name, Node}, Zone) ->
    Pid = spawn(Node, timer, sleep, [infinity]),
    %% It lives on without a name when its node is lost.
    record({added, Name, Pid}),
    case gen_tracker:add_existing_child(Zone, {Name, Pid, worker, []}) of
        {ok, Pid} -> ok;
        {error, _} -> exit(Pid, kill)
    end;
act_now({unregister, Module, Name}, Zone) ->
    record({unregistered, Name}),
    Module:unregister_name({Zone, Name});
act_now({re_register, Name}, Zone) ->
    record({unregistered, Name}),
    Pid = spawn(timer, sleep, [infinity]),
    record({registered, Name, Pid}),
    case gen_tracker:re_register_name({Zone, Name}, Pid) of
        yes -> yes;
        no -> exit(Pid, kill)
    end;
act_now({kill_registrar, Position}, Zone) ->
    case proctab_nif:registrars(Zone) of
        [] -> none;
        Registrars -> exit(lists:nth(1 + Position rem length(Registrars), Registrars), kill)
    end;
act_now({stop, Name}, Zone) ->
    supervisor:terminate_child(Zone, Name);
act_now({kill, Name}, Zone) ->
    case gen_tracker:find(Zone, Name) of
        {ok, Pid} -> exit(Pid, kill);
        undefined -> none
    end;
act_now({kill_keeper, Name}, Zone) ->
    case proctab_nif:child(Zone, Name) of
        {_, _, Keeper, _} ->
            record(disturbed),
            exit(Keeper, kill);
        undefined ->
            none
    end;
act_now(drain, Zone) ->
    %% It returns when the children have gone, which may be never. The member is drained before.
    Pid = spawn(gen_tracker_cluster, drain, [Zone]),
    wait:until(fun() -> not is_process_alive(Pid) orelse act_now(drained, Zone) =:= drained end);
act_now(drained, Zone) ->
    {Process, _, _, _} = proctab_nif:cluster_shared(Zone),
    case [Accepting || {Accepting, _} <- tuple_to_list(sys:get_state(Process)),
            is_boolean(Accepting)] of
        [false] -> drained;
        [true] -> accepts
    end;
act_now(stop_zone, Zone) ->
    record(disturbed),
    clusters:stop_zone(Zone);
act_now(kill_tracker, Zone) ->
    record(disturbed),
    kill(whereis(Zone));
act_now(kill_scope, _) ->
    kill(whereis(gen_tracker_cluster));
act_now(kill_cluster_process, Zone) ->
    {Process, _, _, _} = proctab_nif:cluster_shared(Zone),
    kill(Process).

%% Kills a process, and waits for its end: afterwards nobody takes it for the next one.
kill(Pid) ->
    exit(Pid, kill),
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end.

%% Returns what a member knows of the others, for a report.
view(Zone) ->
    {Process, Table, _, _} = proctab_nif:cluster_shared(Zone),
    #{
        process => Process,
        connected => nodes(),
        group => pg:get_members(gen_tracker_cluster, Zone),
        published => ets:tab2list(Table),
        state => sys:get_state(Process)
    }.

%% Ends all children, and forgets what they have done.
clear(Zone) ->
    [supervisor:terminate_child(Zone, Name) || Name <- gen_tracker:names(Zone)],
    [exit(Pid, kill) || Pid <- living()],
    true = ets:delete_all_objects(?MODULE),
    ok.
