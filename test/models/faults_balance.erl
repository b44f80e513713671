%% Compares what the library returns about a system under faults (`faults`) with what the processes
%% of the system have recorded (`faults_books`), and its functions with each other.
%%
%% Each check is repeated until it finds no difference, for a minute at most. In the meantime
%% blocked processes are released, and pending children started. Differences that remain are
%% entered by `demo_books:wrong/2`.
-module(faults_balance).

-export([check_running/3, check_stopped/1, check/2, snapshot/0, left_over/2, children/1]).

%% Checks the running system after the faults.
check_running(Zones, Subscribers, Modules) ->
    [
        check({zone, Zone}, fun() ->
            start_pending(Zone),
            zone(Zone)
        end)
     || Zone <- Zones
    ],
    [
        check({events, Zone}, fun() -> events(Zone, Subscriber) end)
     || {Zone, Subscriber} <- with_zones(Zones, Subscribers)
    ],
    check(tracked, fun tracked/0),
    check(workers, fun workers/0),
    check('old code', fun() ->
        [{Module, users_of_old_code(Module)} || Module <- Modules, not code:soft_purge(Module)]
    end),
    lists:foreach(fun check_restarts/1, Zones).

%% Each zone has two subscribers.
with_zones(Zones, Subscribers) ->
    lists:zip(lists:append([[Zone, Zone] || Zone <- Zones]), Subscribers).

users_of_old_code(Module) ->
    [
        {Pid, process_info(Pid, [status, current_stacktrace, dictionary, messages])}
     || Pid <- processes(), erlang:check_process_code(Pid, Module)
    ].

%% Kills all children of a zone at once, and checks that those that are not temporary restart.
check_restarts(Zone) ->
    Children = children(Zone),
    Restarting = [
        Name
     || {Name, _, _, _, {_, Restart, _, _, _}} <- Children,
        Restart =/= temporary,
        Zone =/= faults_no_restart
    ],
    Linked = [whereis(Zone) | [Keeper || {_, _, _, Keeper, _} <- Children]],
    Helpers = [Pid || Pid <- faults_books:helpers(Zone), is_linked(Pid, Linked)],
    [exit(Pid, kill) || {_, _, Pid, _, _} <- Children],
    check({restarted, Zone}, fun() ->
        Killed = [
            Child
         || {Name, _, Pid, _, _} = Child <- Children, gen_tracker:find(Zone, Name) =:= {ok, Pid}
        ],
        differences([
            {names, bag(Restarting), bag(gen_tracker:names(Zone))},
            {helpers, [], Helpers -- faults_books:helpers(Zone)},
            {found_after_kill, [], Killed}
            | zone(Zone)
        ])
    end).

%% Checks what the stopped zones leave.
check_stopped(Zones) ->
    check('after_terminate', fun faults_books:wrong_after_terminate/0),
    check('alive without a zone', fun() ->
        [{alive, Pid} || Zone <- Zones, Pid <- faults_books:alive(Zone)]
    end),
    check('helpers without a zone', fun() -> lists:flatmap(fun faults_books:helpers/1, Zones) end),
    check('dead and tracked', fun() ->
        Counts = metrics_process_tracker:counts(),
        tracked() ++ [Count || {Name, _} = Count <- Counts, Name =/= witness]
    end),
    check('dead and registered', fun workers/0),
    check(ledger, fun ledger/0),
    check(mapping, fun mapping/0).

%% Waits until a fun returns no differences, for a minute. Enters those that remain. After the first
%% such failure, checks wait for 5 seconds only.
check(What, Differences) ->
    Seconds =
        case demo_books:wrongs() of
            [] -> 60;
            _ -> 5
        end,
    Found = fun() ->
        faults_books:release_blocked(),
        try
            Differences()
        catch
            Class:Reason:Stack -> [{Class, Reason, Stack}]
        end
    end,
    case left_of(Found, Seconds) of
        [] -> ok;
        Left -> demo_books:wrong(What, Left)
    end.

left_of(Differences, Seconds) ->
    left_until(Differences, erlang:monotonic_time(second) + Seconds).

left_until(Differences, Until) ->
    case {Differences(), erlang:monotonic_time(second) < Until} of
        {[_ | _], true} ->
            receive
            after 1 -> left_until(Differences, Until)
            end;
        {Left, _} ->
            Left
    end.

%% Returns the checks `{What, Expected, Actual}` that fail.
differences(Checks) ->
    [Check || {_, Expected, Actual} = Check <- Checks, Expected =/= Actual].

%% Zones

%% Starts the children whose next start is pending.
start_pending(Zone) ->
    [
        spawn(fun() -> try_open(Zone, Name, Spec) end)
     || {Name, pending, _, _, Spec} <- children(Zone)
    ].

try_open(Zone, Name, {Start, Restart, Shutdown, Type, Modules}) ->
    try
        gen_tracker:find_or_open(Zone, {Name, Start, Restart, Shutdown, Type, Modules})
    catch
        _:_ -> failed
    end.

%% Returns the differences of a running zone.
zone(Zone) ->
    Children = children(Zone),
    differences(
        child_checks(Zone, Children) ++ list_checks(Zone, Children) ++
            process_checks(Zone, Children) ++ attribute_checks(Zone, Children) ++
            index_checks(Zone)
    ).

child_checks(Zone, Children) ->
    Pids = pids(Children),
    NotFound = [Pair || {Name, Pid} = Pair <- Pids, gen_tracker:find(Zone, Name) =/= {ok, Pid}],
    [
        {states, [], [Child || {_, State, _, _, _} = Child <- Children, State =/= running]},
        {dead_children, [], [Pair || {_, Pid} = Pair <- Pids, not is_alive(Pid)]},
        {find, [], NotFound},
        {living_processes, bag([Pid || {_, Pid} <- Pids]), bag(faults_books:alive(Zone))}
    ].

%% All functions that list or count children.
list_checks(Zone, Children) ->
    Bag = bag(pids(Children)),
    Count = length(Children),
    WhichChildren = gen_tracker:which_children(Zone),
    Supervised = supervisor:which_children(Zone),
    Listed = gen_tracker:list(Zone, []),
    Folded = gen_tracker:fold(fun(Name, Pid, Found) -> [{Name, Pid} | Found] end, [], Zone),
    [
        {count, Count, gen_tracker:count(Zone)},
        {names, bag(names(Children)), bag(gen_tracker:names(Zone))},
        {which_children, Bag, bag([{Name, Pid} || {Name, Pid, _, _} <- WhichChildren])},
        {supervised, Bag, bag([{Name, Pid} || {Name, Pid, _, _} <- Supervised])},
        {count_children, {Count, Count}, specs_and_active(supervisor:count_children(Zone))},
        {list, Bag, bag([{Name, Pid} || {Name, [{pid, Pid} | _]} <- Listed])},
        {fold, Bag, bag(Folded)},
        {info, Count, maps:get(children, proctab:info(Zone))}
    ].

specs_and_active([{specs, Specs}, {active, Active} | _]) ->
    {Specs, Active}.

%% The processes of a zone, and what they monitor and wait for.
process_checks(Zone, Children) ->
    Tracker = whereis(Zone),
    Helpers = faults_books:helpers(Zone),
    Beside = zones:beside(Zone) -- Helpers,
    Registrars = proctab_nif:registrars(Zone),
    Watchdogs = [
        Pid
     || Pid <- Beside -- Registrars, not is_keeper(Pid), not is_event_process(Pid)
    ],
    {Registered, Kept} = lists:partition(
        fun({_, _, _, Keeper, _}) -> lists:member(Keeper, Registrars) end, Children
    ),
    Unmonitored =
        [
            Child
         || {_, _, Pid, Keeper, _} = Child <- Kept,
            process_info(Keeper, monitors) =/= {monitors, [{process, Pid}]}
        ] ++
            [
                Child
             || {_, _, Pid, Keeper, _} = Child <- Registered,
                not lists:member({process, Pid}, monitors(Keeper))
            ],
    Pids = maps:from_keys([Pid || {_, _, Pid, _, _} <- Children], child),
    {monitors, Monitors} = process_info(Tracker, monitors),
    [
        {
            keepers,
            bag([Keeper || {_, _, _, Keeper, _} <- Kept]),
            bag([Pid || Pid <- Beside, is_keeper(Pid)])
        },
        {helpers, [], [Pid || Pid <- Helpers, not is_linked(Pid, [Tracker | Beside])]},
        {watchdogs, 1, length(Watchdogs)},
        {unmonitored_children, [], Unmonitored},
        {processes_that_registrars_monitor_and_should_not, [], [
            Pid
         || Registrar <- Registrars,
            {process, Pid} <- monitors(Registrar),
            not is_map_key(Pid, Pids)
        ]},
        {waiting_for_attributes, 0, proctab_nif:waiting(Zone)},
        {waiting_for_keepers, #{}, tracker_state:waiting(Zone)},
        {other_monitors_of_the_tracker, [], Monitors -- [{process, Pid} || Pid <- Beside]},
        %% The keepers that callers have spawned are only linked.
        {unmonitored_processes, [], [
            Pid
         || Pid <- Beside -- Registrars,
            not is_keeper(Pid),
            not lists:member({process, Pid}, Monitors)
        ]}
    ].

monitors(Pid) ->
    case process_info(Pid, monitors) of
        {monitors, Monitors} -> Monitors;
        undefined -> []
    end.

attribute_checks(Zone, Children) ->
    Names = names(Children),
    WithoutChild = [
        Name
     || {Name, _, _, _} <- pages(Zone, sizes, 0, []),
        not lists:member(Name, Names),
        not is_void(Name)
    ],
    OfOthers = [
        Pair
     || faults_books:is_stable(Zone),
        {Name, Pid} = Pair <- pids(Children),
        is_other(gen_tracker:getattr(Zone, Name, pid), Pid)
    ],
    [
        {attributes_without_a_child, [], WithoutChild},
        {attributes_of_other_children, [], OfOthers}
    ].

%% The indexes have exactly what the attributes have.
index_checks(faults_no_restart) ->
    [];
index_checks(Zone) ->
    lists:append([index_checks(Zone, Key) || Key <- [x, a, count, tags]]).

index_checks(Zone, Key) ->
    All = [
        {Value, {Name, Pid}}
     || {Name, [{pid, Pid} | Attributes]} <- gen_tracker:list(Zone, [Key]),
        {_, Of} <- Attributes,
        Value <- indexed(Key, Of)
    ],
    Values = gen_tracker:values(Zone, Key),
    Found = [
        {Value, Child}
     || {Value, _} <- Values, Child <- gen_tracker:lookup(Zone, Key, Value)
    ],
    [
        {{values, Key}, bag([Value || {Value, _} <- All]), maps:from_list(Values)},
        {{lookup, Key}, bag(All), bag(Found)}
    ].

indexed(tags, Tags) -> Tags;
indexed(_, Value) -> [Value].

names(Children) ->
    [Name || {Name, _, _, _, _} <- Children].

pids(Children) ->
    [{Name, Pid} || {Name, _, Pid, _, _} <- Children].

%% Whether a process is linked to one of others.
is_linked(Pid, Others) ->
    case process_info(Pid, links) of
        {links, Links} -> lists:any(fun(Other) -> lists:member(Other, Others) end, Links);
        undefined -> false
    end.

is_alive(Pid) ->
    is_pid(Pid) andalso faults_books:is_alive(Pid).


%% Returns how often each item is in a list, which does not depend on the order. `1` and `1.0` are
%% different.
bag(Items) ->
    maps:map(fun(_, Same) -> length(Same) end, maps:groups_from_list(fun(Item) -> Item end, Items)).

%% `increment/5` creates attributes of these names, which no child has.
is_void({void, _}) -> true;
is_void(_) -> false.

is_other({ok, Pid}, Pid) -> false;
is_other(undefined, _) -> false;
is_other(_, _) -> true.

is_keeper(Pid) ->
    proc_lib:translate_initial_call(Pid) =:= {gen_tracker_keeper, init, 1}.

is_event_process(Pid) ->
    proc_lib:translate_initial_call(Pid) =:= {gen_tracker_events, init, 1}.

%% Returns all children of a zone, `{Name, State, Pid, Keeper, Spec}`.
children(Zone) ->
    pages(Zone, children, 0, []).

pages(_, _, done, Items) ->
    Items;
pages(Zone, What, From, Items) ->
    {More, Next} = proctab_nif:page(Zone, From, What, Items),
    pages(Zone, What, Next, More).

%% Compares the children with those that a subscriber knows from events.
events(Zone, Subscriber) ->
    Ref = monitor(process, Subscriber),
    Subscriber ! {copy, self(), Ref},
    receive
        {Ref, Copy} ->
            demonitor(Ref, [flush]),
            differences([{copy, maps:from_list(pids(children(Zone))), Copy}]);
        {'DOWN', Ref, process, _, Reason} ->
            [{subscriber, alive, Reason}]
    end.

%% Tracked processes and workers

%% Returns the differences of metrics_process_tracker.
tracked() ->
    Table = in_table(metrics_process_tracker, 0),
    Pairs = lists:usort([{Name, Pid} || Pid <- Table, Name <- metrics_process_tracker:names(Pid)]),
    Counts = maps:to_list(bag([Name || {Name, _} <- Pairs])),
    WrongCount = [
        Name
     || {Name, Count} <- Counts, metrics_process_tracker:count(Name) =/= Count
    ],
    differences([
        {dead_in_table, [], [Pid || Pid <- Table, not is_process_alive(Pid)]},
        {counts, lists:sort(Counts), lists:sort(metrics_process_tracker:counts())},
        {missing, [], faults_books:living_tracked() -- Pairs},
        {unmonitored, [], unmonitored(Table)},
        {count, [], WrongCount}
    ]).

%% Returns the differences of stats_hero_monitor.
workers() ->
    Table = in_table(stats_hero_monitor, 0),
    Missing = [
        Worker
     || {Pid, _} = Worker <- faults_books:living_workers(), not lists:member(Pid, Table)
    ],
    differences([
        {missing, [], Missing},
        {dead_in_table, [], [Pid || Pid <- Table, not is_process_alive(Pid)]},
        {unmonitored, [], unmonitored(Table)}
    ]).

in_table(_, done) ->
    [];
in_table(Table, From) ->
    {Pids, Next} = proctab_nif:processes_page(Table, From),
    Pids ++ in_table(Table, Next).

%% Returns the processes that the table does not monitor. A monitor of the table is a reference.
unmonitored(Pids) ->
    [
        Pid
     || Pid <- Pids,
        {monitored_by, By} <- [process_info(Pid, monitored_by)],
        not lists:any(fun is_reference/1, By)
    ].

%% Returns the names that were not counted down as often as up, if there are more such differences
%% than disturbed cleanups. Names of earlier epochs may lack counts down, but never have too many.
ledger() ->
    Epoch = faults_books:epoch(),
    Open = [
        Row
     || {Name, Ups, Downs} = Row <- ledger_backend:open_names(),
        Downs > Ups orelse is_of(Epoch, Name)
    ],
    Sum = lists:sum([abs(Ups - Downs) || {_, Ups, Downs} <- Open]),
    [Row || Sum > faults_books:disturbed_cleanups(), Row <- Open].

is_of(Epoch, {tracked, Of, _}) -> Of =:= Epoch;
is_of(_, _) -> false.

%% Like `ledger/0` for the cleanups of workers. A worker whose cleanup removes its mapping must have
%% none.
mapping() ->
    Uncleaned = faults_books:uncleaned(fun faults_load:keeps_mapping/1),
    Others = faults_books:uncleaned(fun(Pid) -> not faults_load:keeps_mapping(Pid) end),
    Mapped = [Worker || {Pid, _, _} = Worker <- Others, stats_hero:find_request(Pid) =/= undefined],
    Sum = lists:sum([abs(Times - Cleaned) || {_, Times, Cleaned} <- Uncleaned]) + length(Mapped),
    [Row || Sum > faults_books:disturbed_cleanups(), Row <- Uncleaned ++ Mapped].

%% Leftovers

snapshot() ->
    {processes(), ets:all(), proctab_nif:tables()}.

%% Returns the processes and tables that did not exist at the snapshot, and the links and monitors
%% of the witness that are left, after 30 seconds at most.
left_over(Before, Witness) ->
    left_of(fun() -> more(Before, Witness) end, 30).

more({Processes, Tables, Native}, Witness) ->
    {NowProcesses, NowTables, NowNative} = snapshot(),
    Items = [initial_call, dictionary, current_stacktrace, links],
    lists:append([
        [
            {process, Pid, process_info(Pid, Items)}
         || Pid <- NowProcesses -- Processes, is_process_alive(Pid)
        ],
        [{ets, Table, ets:info(Table)} || Table <- NowTables -- Tables],
        [{table, Table} || Table <- NowNative -- Native],
        [{witness, Tie} || Tie <- ties(process_info(Witness, [monitors, monitored_by, links]))]
    ]).

ties(undefined) -> [dead];
ties(Info) -> [Tie || {_, [_ | _]} = Tie <- Info].
