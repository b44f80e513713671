%% The balance of a world that was tormented (`faults`): whether all that can be asked agrees with all else and with the books (`faults_books`). What does not, and does not come to agree when
%% whoever hangs is let go again and again and what waits for its next start is tried at once, is told to `demo_books:wrong/2'.
-module(faults_balance).

-export([living/3, dead/1, agree/2, snapshot/0, left_over/2, children/1, waiting/1, tag/1]).

%% While the world lives, and nobody torments it any more.
living(Zones, Followers, Modules) ->
    lists:foreach(fun(Zone) -> agree({zone, Zone}, fun() -> revive(Zone), zone(Zone) end) end, Zones),
    lists:foreach(fun({Zone, Follower}) -> agree({events, Zone}, fun() -> followed(Zone, Follower) end) end, with_zones(Zones, Followers)),
    agree(tracked, fun tracked/0),
    agree(workers, fun workers/0),
    agree('old code', fun() -> [{Module, holders(Module)} || Module <- Modules, not code:soft_purge(Module)] end),
    lists:foreach(fun restarted/1, Zones).

%% Who keeps the old code of a module.
holders(Module) ->
    [{Pid, process_info(Pid, [status, current_stacktrace, dictionary, messages])} || Pid <- processes(), erlang:check_process_code(Pid, Module)].

%% All die at once, and those that are to be started again, are.
restarted(Zone) ->
    Children = children(Zone),
    Again = [Name || {Name, _, _, _, {_, Restart, _, _, _}} <- Children, Restart =/= temporary, Zone =/= faults_bare],
    Linked = [whereis(Zone) | [Keeper || {_, _, _, Keeper, _} <- Children]],
    Helpers = [Pid || Pid <- faults_books:helpers(Zone), is_linked(Pid, Linked)],
    [exit(Pid, kill) || {_, _, Pid, _, _} <- Children],
    agree({restarted, Zone}, fun() ->
        differences([
            {names, bag(Again), bag(gen_tracker:names(Zone))},
            {helpers, [], Helpers -- faults_books:helpers(Zone)},
            {again, [], [Child || {Name, _, Pid, _, _} = Child <- Children, gen_tracker:find(Zone, Name) =:= {ok, Pid}]}
            | zone(Zone)
        ])
    end).

with_zones(Zones, Followers) ->
    lists:zip(lists:append([[Zone, Zone] || Zone <- Zones]), Followers).

%% When the zones have been stopped.
dead(Zones) ->
    agree('after_terminate', fun faults_books:unkept/0),
    agree('alive without a zone', fun() -> [{alive, Pid} || Zone <- Zones, Pid <- faults_books:alive(Zone)] end),
    agree('helpers without a zone', fun() -> lists:flatmap(fun faults_books:helpers/1, Zones) end),
    agree('dead and tracked', fun() -> tracked() ++ [Count || {Name, _} = Count <- metrics_process_tracker:counts(), Name =/= witness] end),
    agree('dead and registered', fun workers/0),
    agree(ledger, fun ledger/0),
    agree(mapping, fun mapping/0).

%% Asks until there is no difference; what is left after a minute is wrong. What comes after that need not be waited for so long.
agree(What, Differences) ->
    Seconds =
        case demo_books:wrongs() of
            [] -> 60;
            _ -> 5
        end,
    Found = fun() -> faults_books:let_go(), try Differences() catch Class:Reason:Stack -> [{Class, Reason, Stack}] end end,
    case left_of(Found, Seconds) of
        [] -> ok;
        Left -> demo_books:wrong(What, Left)
    end.

left_of(Differences, Seconds) ->
    left_until(Differences, erlang:monotonic_time(second) + Seconds).

left_until(Differences, Until) ->
    case {Differences(), erlang:monotonic_time(second) < Until} of
        {[_ | _], true} -> receive after 1 -> left_until(Differences, Until) end;
        {Left, _} -> Left
    end.

%% `[{What, Expected, Found}]' for what is not as expected.
differences(Checks) ->
    [Check || {_, Expected, Found} = Check <- Checks, Expected =/= Found].

%% Zones

%% What waits for its next start, is started now.
revive(Zone) ->
    [spawn(fun() -> try gen_tracker:find_or_open(Zone, {Name, Start, Restart, Shutdown, Type, Modules}) catch _:_ -> failed end end)
     || {Name, pending, _, _, {Start, Restart, Shutdown, Type, Modules}} <- children(Zone)].

zone(Zone) ->
    Tracker = whereis(Zone),
    Children = children(Zone),
    Names = [Name || {Name, _, _, _, _} <- Children],
    Pids = [{Name, Pid} || {Name, _, Pid, _, _} <- Children],
    Bag = bag(Pids),
    Keepers = [Keeper || {_, _, _, Keeper, _} <- Children],
    Helpers = faults_books:helpers(Zone),
    Beside = zones:beside(Zone) -- Helpers,
    Count = length(Children),
    differences([
        {states, [], [Child || {_, State, _, _, _} = Child <- Children, State =/= running]},
        {dead_children, [], [Child || {_, Pid} = Child <- Pids, not is_alive(Pid)]},
        {count, Count, gen_tracker:count(Zone)},
        {names, bag(Names), bag(gen_tracker:names(Zone))},
        {which_children, Bag, bag([{Name, Pid} || {Name, Pid, _, _} <- gen_tracker:which_children(Zone)])},
        {supervised, Bag, bag([{Name, Pid} || {Name, Pid, _, _} <- supervisor:which_children(Zone)])},
        {count_children, {Count, Count}, supervised(supervisor:count_children(Zone))},
        {list, Bag, bag([{Name, Pid} || {Name, [{pid, Pid} | _]} <- gen_tracker:list(Zone, [])])},
        {fold, Bag, bag(gen_tracker:fold(fun(Name, Pid, Found) -> [{Name, Pid} | Found] end, [], Zone))},
        {find, [], [Child || {Name, Pid} = Child <- Pids, gen_tracker:find(Zone, Name) =/= {ok, Pid}]},
        {living_processes, bag([Pid || {_, Pid} <- Pids]), bag(faults_books:alive(Zone))},
        {without_child, [], [Name || {Name, _, _, _} <- pages(Zone, sizes, 0, []), not lists:member(Name, Names), not is_void(Name)]},
        {info, Count, maps:get(children, proctab:info(Zone))},
        {keepers, bag(Keepers), bag([Pid || Pid <- Beside, is_keeper(Pid)])},
        {helpers, [], [Pid || Pid <- Helpers, not is_linked(Pid, [Tracker | Beside])]},
        {guards, 1, length([Pid || Pid <- Beside, not is_keeper(Pid), not is_sender(Pid)])},
        {monitored_children, [], [Child || {_, _, Pid, Keeper, _} = Child <- Children, process_info(Keeper, monitors) =/= {monitors, [{process, Pid}]}]},
        {waiting_for_attributes, 0, proctab_nif:waiting(Zone)},
        {waiting_for_keepers, #{}, waiting(sys:get_state(Zone))},
        {monitors_of_the_tracker, bag([{process, Pid} || Pid <- Beside]), bag(element(2, process_info(Tracker, monitors)))},
        {own_attributes, [], [Child || faults_books:is_calm(Zone), {Name, Pid} = Child <- Pids, is_other(gen_tracker:getattr(Zone, Name, pid), Pid)]}
    ]).

%% Whether a process is linked to one of others.
is_linked(Pid, Others) ->
    case process_info(Pid, links) of
        {links, Links} -> lists:any(fun(Other) -> lists:member(Other, Others) end, Links);
        undefined -> false
    end.

is_alive(Pid) ->
    is_pid(Pid) andalso faults_books:is_alive(Pid).

%% What waits for which keeper, in the state of a tracker: the kinds of the requests, and who asked.
waiting(State) ->
    [Requests] = [Part || Part <- tuple_to_list(State), is_tuple(Part), element(1, Part) =:= requests],
    Described = fun(_, Waiting) -> [{element(2, Request), element(6, Request)} || {_, Request} <- Waiting] end,
    maps:map(Described, element(3, Requests)).

%% What the processes of a zone prove themselves with.
tag(Zone) ->
    element(3, sys:get_state(Zone)).

%% `1' and `1.0' are two names.
bag(Items) ->
    maps:map(fun(_, Same) -> length(Same) end, maps:groups_from_list(fun(Item) -> Item end, Items)).

supervised([{specs, Specs}, {active, Active} | _]) -> {Specs, Active}.

%% Increments with a default make attributes for a name that no child holds.
is_void({void, _}) -> true;
is_void(_) -> false.

is_other({ok, Pid}, Pid) -> false;
is_other(undefined, _) -> false;
is_other(_, _) -> true.

is_keeper(Pid) -> proc_lib:translate_initial_call(Pid) =:= {gen_tracker_keeper, init, 1}.
is_sender(Pid) -> proc_lib:translate_initial_call(Pid) =:= {gen_tracker_events, init, 1}.

children(Zone) ->
    pages(Zone, children, 0, []).

pages(_, _, done, Items) ->
    Items;
pages(Zone, What, From, Items) ->
    {More, Next} = proctab_nif:page(Zone, From, What, Items),
    pages(Zone, What, Next, More).

%% A follower that was killed has been followed by another one.
followed(Zone, Follower) ->
    Ref = monitor(process, Follower),
    Follower ! {copy, self(), Ref},
    receive
        {Ref, Copy} ->
            demonitor(Ref, [flush]),
            differences([{copy, maps:from_list([{Name, Pid} || {Name, _, Pid, _, _} <- children(Zone)]), Copy}]);
        {'DOWN', Ref, process, _, Reason} ->
            [{follower, alive, Reason}]
    end.

%% Tracked processes and workers

tracked() ->
    Table = pids(metrics_process_tracker, 0),
    Pairs = lists:usort([{Name, Pid} || Pid <- Table, Name <- metrics_process_tracker:names(Pid)]),
    Histogram = maps:to_list(maps:map(fun(_, Pids) -> length(Pids) end, maps:groups_from_list(fun({Name, _}) -> Name end, Pairs))),
    differences([
        {dead_in_table, [], [Pid || Pid <- Table, not is_process_alive(Pid)]},
        {counts, lists:sort(Histogram), lists:sort(metrics_process_tracker:counts())},
        {missing, [], faults_books:living_tracked() -- Pairs},
        {monitors, lists:sort(Table), monitored(metrics_process_tracker)},
        {count, [], [Name || {Name, Count} <- Histogram, metrics_process_tracker:count(Name) =/= Count]}
    ]).

workers() ->
    Table = pids(stats_hero_monitor, 0),
    differences([
        {living_workers, [], [Worker || {Pid, _} = Worker <- faults_books:living_workers(), not lists:member(Pid, Table)]},
        {dead_in_table, [], [Pid || Pid <- Table, not is_process_alive(Pid)]},
        {monitors, lists:sort(Table), monitored(stats_hero_monitor)}
    ]).

pids(_, done) ->
    [];
pids(Table, From) ->
    {Pids, Next} = proctab_nif:processes_page(Table, From),
    Pids ++ pids(Table, Next).

monitored(Server) ->
    {monitors, Monitors} = process_info(whereis(Server), monitors),
    lists:sort([Pid || {process, Pid} <- Monitors]).

%% Names of this epoch were counted down as often as up, but for processes that were killed in the middle of that. No name was counted down more often than up.
ledger() ->
    Epoch = faults_books:epoch(),
    Open = [Row || {Name, Ups, Downs} = Row <- ledger_backend:open_names(), Downs > Ups orelse is_of(Epoch, Name)],
    [Row || lists:sum([abs(Ups - Downs) || {_, Ups, Downs} <- Open]) > faults_books:meddlings(), Row <- Open].

is_of(Epoch, {tracked, Of, _}) -> Of =:= Epoch;
is_of(_, _) -> false.

%% The same for cleanups, and for the mapping of those that have theirs removed.
mapping() ->
    Uncleaned = faults_books:uncleaned(fun faults_load:counts_each/1),
    Mapped = [Dead || {Pid, _, _} = Dead <- faults_books:uncleaned(fun(Pid) -> not faults_load:counts_each(Pid) end), stats_hero:find_request(Pid) =/= undefined],
    Sum = lists:sum([abs(Times - Cleaned) || {_, Times, Cleaned} <- Uncleaned]) + length(Mapped),
    [Row || Sum > faults_books:meddlings(), Row <- Uncleaned ++ Mapped].

%% What a round leaves

snapshot() ->
    {processes(), ets:all(), proctab_nif:tables()}.

%% Nothing but what was there before, and nobody monitors the witness.
left_over(Before, Witness) ->
    left_of(fun() -> more(Before, Witness) end, 30).

more({Processes, Tables, Native}, Witness) ->
    {NowProcesses, NowTables, NowNative} = snapshot(),
    [{process, Pid, process_info(Pid, [initial_call, dictionary, current_stacktrace, links])} || Pid <- NowProcesses -- Processes, is_process_alive(Pid)] ++
        [{ets, Table, ets:info(Table)} || Table <- NowTables -- Tables] ++
        [{table, Table} || Table <- NowNative -- Native] ++
        [{witness, Info} || Info <- witnessed(process_info(Witness, [monitors, monitored_by, links])), Info =/= {monitors, []}, Info =/= {monitored_by, []}, Info =/= {links, []}].

witnessed(undefined) -> [dead];
witnessed(Info) -> Info.
