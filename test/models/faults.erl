%% Runs rounds of random faults against a running library, and checks that nothing was lost.
%%
%% A round starts a system: zones with children of all kinds (`faults_child`), the servers
%% `metrics_process_tracker` and `stats_hero_monitor`, and callers and subscribers (`faults_load`).
%% It injects faults drawn from its seed: kills, suspensions, floods, stops and reloads. When the
%% faults have ended, `faults_balance` compares what the library returns with what the processes
%% have recorded (`faults_books`), first while the system runs, then after it was stopped.
%%
%% A seed determines the faults, but not how processes are scheduled; so `replay/1` runs a failed
%% round up to twenty times.
-module(faults).
-behaviour(supervisor).

-export([round/1, round/2, replay/1, upgrades/2]).
%% Callbacks of supervisors and applications, and a function that upgrades call
-export([init/1, start/2, stop/1, change_code/1]).

-record(system, {
    size :: small | large,
    %% Processes that are not part of the system.
    others :: #{pid() => other},
    root :: pid(),
    callers :: [pid()],
    subscribers :: [pid()],
    %% Monitors of background processes, which may need others to be resumed before they end.
    tasks = [] :: [reference()],
    %% Processes that each have suspended another one, the latest last.
    suspended = [] :: [pid()],
    started_at :: integer(),
    history = [] :: [{Microseconds :: integer(), Fault :: atom(), What :: term()}]
}).

%% The limit for suspended processes. Most others soon wait for a suspended one.
-define(SUSPENDED, 3).

round(Seed) ->
    round(Seed, large).

%% Runs a round of half a second (`small`) or of some seconds (`large`).
round(Seed, Size) ->
    round(Seed, Size, #{
        supervise => fun(Of) -> supervisor:start_link(?MODULE, Of) end,
        inject => fun(System) -> inject(count(Size, faults), possible_faults(), System) end
    }).

%% Runs a round that upgrades the running application `proctab` to the versions in these folders,
%% one after the other. The supervisors belong to applications, where `release_handler` finds them.
%% The new code stays loaded, so run this in a node of its own.
upgrades(Seed, Folders) ->
    round(Seed, small, #{
        supervise => fun run_application/1,
        inject => fun(System) -> lists:foldl(fun upgrade/2, System, Folders) end
    }).

round(Seed, Size, How) ->
    Config = logger:get_primary_config(),
    %% The faults cause thousands of reports.
    ok = logger:set_primary_config(level, none),
    Dir = filename:join(os:getenv("TMPDIR", "/tmp"), "proctab_faults_" ++ os:getpid()),
    _ = monitored_worker:load_stats_hero([{priv_dir, Dir}]),
    %% A connection to another node starts processes that stay: start them before the snapshot.
    _ = is_alive() andalso inet:gethostbyname(net_adm:localhost()),
    {Peer, Node} = start_peer(Seed),
    try
        Witness = monitored_worker:idle(),
        Before = faults_balance:snapshot(),
        Run = fun() -> exit({outcome, run(Seed, Size, Witness, How#{node => Node})}) end,
        {Pid, Monitor} = spawn_monitor(Run),
        Outcome =
            receive
                {'DOWN', Monitor, process, Pid, Reason} -> Reason
            end,
        Left = faults_balance:left_over(Before, Witness),
        exit(Witness, kill),
        outcome(Seed, Size, Outcome, Left)
    after
        stop_peer(Peer),
        monitored_worker:unload_stats_hero(),
        file:del_dir_r(Dir),
        logger:set_primary_config(Config)
    end.

%% Starts another node in some rounds, if this node is distributed.
start_peer(Seed) ->
    case is_alive() andalso Seed rem 3 =:= 0 of
        true ->
            Arguments = ["-pa" | source_tree:code_paths()],
            Options = #{name => peer:random_name(), args => Arguments},
            {ok, Peer, Node} = peer:start(Options),
            {Peer, Node};
        false ->
            {none, none}
    end.

stop_peer(none) ->
    ok;
stop_peer(Peer) ->
    %% The fault `kill_node` may have stopped it.
    try
        peer:stop(Peer)
    catch
        exit:_ -> ended
    end.

outcome(_Seed, _Size, {outcome, {Figures, _, []}}, []) ->
    {ok, Figures};
outcome(Seed, Size, {outcome, {Figures, History, Wrongs}}, Left) ->
    Failure = #{faults => History, wrong => Wrongs, left_over => Left, figures => Figures},
    {failed, Failure#{seed => Seed, size => Size}};
outcome(Seed, Size, Crash, Left) ->
    {failed, #{seed => Seed, size => Size, crash => Crash, left_over => Left}}.

replay(#{seed := Seed, size := Size}) ->
    replay(Seed, Size, 20).

replay(Seed, Size, Times) ->
    case round(Seed, Size) of
        {ok, _} when Times > 1 -> replay(Seed, Size, Times - 1);
        Outcome -> Outcome
    end.

%% The sizes of a round.
count(small, faults) -> 60;
count(large, faults) -> 500;
count(small, children) -> 40;
count(large, children) -> 150;
count(small, callers) -> 6;
count(large, callers) -> 12;
count(small, flood) -> 300;
count(large, flood) -> 3000.

%% The zones and their options. No fault ends the first one, so its checks are exact.
zones() ->
    Index = #{index => [x, a, count, {each, tags}]},
    [
        {faults_stable, Index},
        {faults_unstable, Index},
        {faults_no_restart, #{restart => false}}
    ].

zone_names() ->
    [Zone || {Zone, _} <- zones()].

modules() ->
    [
        gen_tracker,
        gen_tracker_requests,
        gen_tracker_keeper,
        gen_tracker_registrar,
        gen_tracker_shutdown,
        gen_tracker_reports,
        gen_tracker_events,
        metrics_process_tracker,
        stats_hero_monitor,
        proctab_reaper,
        proctab,
        proctab_view,
        proctab_errors,
        proctab_swap
    ].

%% The system

%% Starts the system, injects the faults, and checks the result. All processes of the system are
%% linked to the calling process.
run(Seed, Size, Witness, #{supervise := Supervise, inject := Inject, node := Node}) ->
    process_flag(trap_exit, true),
    rand:seed(exsss, Seed),
    faults_books:open(Seed, Node),
    ok = ledger_backend:open(),
    ok = stats_hero:new_table(),
    System = build(Size, Supervise),
    Stable = whereis(faults_stable),
    ok = metrics_process_tracker:track(witness, Witness),
    ok = stats_hero_monitor:register(Witness),
    {ok, Witness} = gen_tracker:add_existing_child(
        faults_stable, {{faults_stable, witness}, Witness, worker, []}
    ),
    After = Inject(System),
    Operations = settle(After),
    ok = gen_tracker:unregister_name({faults_stable, {faults_stable, witness}}),
    [
        demo_books:wrong('the tracker of the stable zone was replaced', Stable)
     || whereis(faults_stable) =/= Stable
    ],
    faults_balance:check_running(zone_names(), After#system.subscribers, modules()),
    take_down(After),
    Figures = figures(After, Operations),
    Wrongs = demo_books:wrongs(),
    ledger_backend:close(),
    faults_books:close(),
    {Figures, lists:reverse(After#system.history), Wrongs}.

build(Size, Supervise) ->
    Test = self(),
    Others = maps:from_keys(processes(), other),
    Root = spawn_link(fun() ->
        process_flag(trap_exit, true),
        try
            start_root(Test, Supervise, [servers | zones()])
        catch
            Class:Reason:Stack -> Test ! {root_failed, {Class, Reason, Stack}}
        end
    end),
    receive
        {built, Root} -> ok
    end,
    [
        faults_load:open_in_background(Zone, Number)
     || Zone <- zone_names(), Number <- lists:seq(1, count(Size, children))
    ],
    #system{
        size = Size,
        others = Others,
        root = Root,
        callers = [caller(Size) || _ <- lists:seq(1, count(Size, callers))],
        subscribers = [faults_load:subscriber(Zone) || Zone <- zone_names(), _ <- [1, 2]],
        started_at = erlang:monotonic_time(microsecond)
    }.

caller(Size) ->
    faults_load:caller(zone_names(), count(Size, children), rand:uniform(1 bsl 58)).

%% Starts the supervisors, then restarts each one that was killed. The test receives `{built, Root}`
%% when all run.
start_root(Test, Supervise, All) ->
    Supervisors = [{Of, supervised(Of, Supervise)} || Of <- All],
    Test ! {built, self()},
    root(Test, Supervise, Supervisors).

root(Test, Supervise, Supervisors) ->
    receive
        {'EXIT', Pid, Reason} ->
            case lists:keyfind(Pid, 2, Supervisors) of
                {Of, Pid} ->
                    Next = {Of, supervised(Of, Supervise)},
                    root(Test, Supervise, lists:keyreplace(Pid, 2, Supervisors, Next));
                false when Pid =:= Test ->
                    exit(Reason);
                false ->
                    %% A supervisor that failed to start.
                    root(Test, Supervise, Supervisors)
            end;
        {servers, From} ->
            {servers, Pid} = lists:keyfind(servers, 1, Supervisors),
            From ! {servers, Pid},
            root(Test, Supervise, Supervisors);
        stop_zones ->
            {[Servers], Others} = lists:partition(fun({Of, _}) -> Of =:= servers end, Supervisors),
            lists:foreach(fun stop_supervisor/1, Others),
            Test ! zones_stopped,
            root(Test, Supervise, [Servers]);
        stop ->
            lists:foreach(fun stop_supervisor/1, Supervisors)
    end.

stop_supervisor({_, Pid}) ->
    unlink(Pid),
    gen_server:stop(Pid, shutdown, infinity).

%% Starts a supervisor once the processes of its predecessor have exited.
supervised(Of, Supervise) ->
    [tracked_child:down(Pid) || Name <- registered(Of), Pid <- [whereis(Name)], is_pid(Pid)],
    case Supervise(Of) of
        {ok, Pid} ->
            Pid;
        {error, {shutdown, {failed_to_start_child, _, _}}} ->
            %% The predecessor started another process before it died, or a fault killed the new
            %% one.
            supervised(Of, Supervise);
        {error, killed} ->
            %% The fault `kill_supervisor' or `kill_owner' found the new tracker or server while the
            %% supervisor was still starting.
            supervised(Of, Supervise)
    end.

run_application(Of) ->
    Name = hd(registered(Of)),
    ok = application:load({
        application,
        Name,
        [{vsn, "1"}, {applications, [kernel, stdlib]}, {mod, {?MODULE, {self(), Of}}}]
    }),
    ok = application:start(Name),
    receive
        {top, Pid} -> {ok, Pid}
    end.

start(_Type, {Test, Of}) ->
    {ok, Pid} = supervisor:start_link(?MODULE, Of),
    Test ! {top, Pid},
    {ok, Pid}.

stop(_) ->
    ok.

registered(servers) -> [metrics_process_tracker, stats_hero_monitor];
registered({Zone, _}) -> [Zone].

init(servers) ->
    Servers = [metrics_process_tracker, stats_hero_monitor],
    Children = [#{id => Module, start => {Module, start_link, []}} || Module <- Servers],
    {ok, {#{intensity => 1000000, period => 1}, Children}};
init({Zone, Options}) ->
    Start = {gen_tracker, start_link, [Zone, Options]},
    Child = #{id => Zone, start => Start, type => supervisor},
    {ok, {#{intensity => 1000000, period => 1}, [Child]}}.

%% Stops the zones first, so that the servers clean up after the dead children.
take_down(#system{root = Root, subscribers = Subscribers}) ->
    [faults_load:stop(Subscriber) || Subscriber <- Subscribers],
    Monitor = monitor(process, Root),
    Root ! stop_zones,
    await(fun() ->
        receive
            zones_stopped -> true
        after 1 -> false
        end
    end),
    faults_balance:check_stopped(zone_names()),
    Root ! stop,
    until_down([Monitor]).

until_down(Monitors) ->
    [
        await(fun() ->
            receive
                {'DOWN', Monitor, process, _, _} -> true
            after 1 -> false
            end
        end)
     || Monitor <- Monitors
    ].

await(Condition) ->
    faults_balance:check('a process waits forever', fun() ->
        [Waiting || not Condition(), Waiting <- monitored()]
    end).

monitored() ->
    {monitors, Monitors} = process_info(self(), monitors),
    [process_info(Pid, [current_stacktrace, links]) || {process, Pid} <- Monitors].

settle(#system{callers = Callers, suspended = Suspended, tasks = Tasks}) ->
    faults_books:end_faults(),
    lists:foreach(fun resume/1, Suspended),
    Monitors = [monitor(process, Caller) || Caller <- Callers],
    lists:foreach(fun faults_load:stop/1, Callers),
    until_down(Tasks ++ Monitors),
    operations(0).

operations(Sum) ->
    receive
        {operations, Count} -> operations(Sum + Count);
        progress -> operations(Sum)
    after 0 -> Sum
    end.

figures(#system{history = History}, Operations) ->
    Faults = maps:groups_from_list(fun({_, Fault, _}) -> Fault end, History),
    maps:merge(
        maps:merge(maps:map(fun(_, Times) -> length(Times) end, Faults), faults_books:changes()),
        #{
            operations => Operations,
            starts => faults_books:starts(),
            faults => length(History),
            reloaded => length([Module || {_, reload, {loaded, Module}} <- History])
        }
    ).

%% Faults

inject(0, _, System) ->
    System;
inject(Count, Faults, System) ->
    wait_for_progress(rand:uniform(8)),
    inject(Count - 1, Faults, record(random(Faults), System)).

record(Fault, System) ->
    Time = erlang:monotonic_time(microsecond) - System#system.started_at,
    {What, Next} = fault(Fault, System),
    Next#system{history = [{Time, Fault, What} | Next#system.history]}.

%% Waits until the callers have reported progress so often, or have made none for 10 ms: all of them
%% may wait for a process that is suspended or blocked.
wait_for_progress(0) ->
    ok;
wait_for_progress(Reports) ->
    receive
        progress ->
            wait_for_progress(Reports - 1);
        {Tag, _} when is_reference(Tag) ->
            %% A reply to a request of the fault `flood`.
            wait_for_progress(Reports);
        {'EXIT', _, _} ->
            wait_for_progress(Reports);
        {root_failed, Failure} ->
            %% The whole system has ended with it.
            exit({root_failed, Failure})
    after 10 -> ok
    end.

random(List) ->
    lists:nth(rand:uniform(length(List)), List).

%% Each fault as often as its weight says.
common_faults() ->
    lists:flatmap(fun({Weight, Fault}) -> lists:duplicate(Weight, Fault) end, [
        {2, kill_child},
        {2, end_child},
        {1, kill_all_children},
        {3, kill_keeper},
        {2, kill_tracker},
        {2, stop_zone},
        {3, stop_cleanup},
        {3, forge},
        {1, kill_supervisor},
        {1, kill_watchdog},
        {1, kill_event_process},
        {2, kill_caller},
        {1, kill_subscriber},
        {3, kill_server},
        {2, suspend},
        {2, suspend_server},
        {4, resume},
        {2, flood},
        {1, signal},
        {3, reload},
        {3, release}
    ]).

%% Delayed restarts take long to complete, so few rounds slow down children.
possible_faults() ->
    lists:append([
        common_faults(),
        random([cleanup_faults(), []]),
        random([[kill_owner], []]),
        random([[slow_down, slow_down], [], [], []]),
        random([[kill_node], []])
    ]).

%% Faults after which a cleanup may be missing or repeated. They are in half of the rounds only, and
%% so is `kill_owner`, after which all registrations are lost: the final checks are exact in the
%% others.
cleanup_faults() ->
    [kill_reaper, stop_reaper, kill_cleaner].

fault(kill_child, System) ->
    {with_child(fun(Pid) -> exit(Pid, kill) end), System};
fault(end_child, System) ->
    Reason = random([normal, shutdown, {shutdown, moved}, crash]),
    {with_child(fun(Pid) -> Pid ! {stop, Reason} end), System};
fault(kill_all_children, System) ->
    Zone = random(zone_names()),
    Children = children(Zone),
    [exit(Pid, kill) || {Name, _, Pid, _, _} <- Children, is_pid(Pid), not is_witness(Name)],
    {{Zone, length(Children)}, System};
fault(kill_keeper, System) ->
    Children = children(random(zone_names())),
    Busy = [Child || {_, State, _, _, _} = Child <- Children, State =/= running],
    {kill_keeper_of(random([Children, Busy])), System};
fault(kill_tracker, System) ->
    Zone = random([faults_unstable, faults_no_restart]),
    task(Zone, System, fun() -> end_zone(Zone, fun(Tracker) -> exit(Tracker, kill) end) end);
fault(stop_zone, System) ->
    Zone = random([faults_unstable, faults_no_restart]),
    How = random([shutdown, stop, normal, crash]),
    task({Zone, How}, System, fun() -> end_zone(Zone, fun(Tracker) -> stop(Tracker, How) end) end);
fault(kill_supervisor, System) ->
    Zone = random([faults_unstable, faults_no_restart]),
    task(Zone, System, fun() -> end_zone(Zone, fun kill_parent/1) end);
fault(kill_node, System) ->
    Node = faults_books:node(),
    [erpc:cast(Node, erlang, halt, []) || Node =/= none],
    {Node, System};
fault(stop_cleanup, System) ->
    Zone = random(zone_names()),
    case [Name || {Name, terminating, _, _, _} <- children(Zone)] of
        [] ->
            {none, System};
        Names ->
            Name = random(Names),
            What = random([child, zone]),
            task(Name, System, fun() -> stop_cleanup(Zone, Name, What) end)
    end;
fault(slow_down, System) ->
    case permanent_children(random(zone_names())) of
        [] -> {none, System};
        Children -> slow_down(random(Children), System)
    end;
fault(forge, System) ->
    {To, Pids} = forged_to(random(zone_names())),
    Messages = forged(20, To, Pids),
    [To ! Message || Message <- Messages],
    {{To, Messages}, System};
fault(kill_watchdog, System) ->
    Beside = beside(faults_stable),
    {kill_all([Pid || {Pid, {gen_tracker_shutdown, init_watchdog, _}} <- Beside]), System};
fault(kill_event_process, System) ->
    {kill_all(event_processes(faults_stable)), System};
fault(kill_caller, #system{size = Size, callers = [Caller | Callers]} = System) ->
    exit(Caller, kill),
    {Caller, System#system{callers = Callers ++ [caller(Size)]}};
fault(kill_subscriber, #system{subscribers = Subscribers} = System) ->
    Number = rand:uniform(length(Subscribers)),
    {Before, [Subscriber | After]} = lists:split(Number - 1, Subscribers),
    exit(Subscriber, kill),
    Zone = lists:nth(1 + (Number - 1) div 2, zone_names()),
    {Zone, System#system{subscribers = Before ++ [faults_load:subscriber(Zone) | After]}};
fault(kill_server, System) ->
    {kill_all([whereis(random([metrics_process_tracker, stats_hero_monitor]))]), System};
fault(kill_reaper, System) ->
    _ = faults_books:cleanup_disturbed(),
    {kill_all([whereis(random(reapers()))]), System};
fault(stop_reaper, System) ->
    _ = faults_books:cleanup_disturbed(),
    Name = random(reapers()),
    Reason = random([normal, crash]),
    task(Name, System, fun() -> stop_server(Name, Reason) end);
fault(kill_cleaner, System) ->
    Cleaners = cleaners(whereis(random(reapers()))),
    [faults_books:cleanup_disturbed() || _ <- Cleaners],
    {kill_all(Cleaners), System};
fault(kill_owner, System) ->
    task(servers, System, fun() -> kill_owner(System) end);
fault(suspend, System) ->
    Children = [Pid || {_, _, Pid, _, _} <- children(random(zone_names())), is_pid(Pid)],
    Pid = random(processes_of_library(System) ++ Children),
    %% The end of the suspending process resumes the other one.
    suspend(Pid, fun erlang:suspend_process/1, fun(_) -> ok end, System);
fault(suspend_server, System) ->
    Names = zone_names() ++ reapers() ++ [metrics_process_tracker, stats_hero_monitor],
    Named = [whereis(Name) || Name <- Names],
    Servers = Named ++ lists:flatmap(fun event_processes/1, zone_names()),
    Suspend = fun(Pid) -> sys:suspend(Pid, infinity) end,
    Resume = fun(Pid) -> sys:resume(Pid, infinity) end,
    suspend(random(Servers), Suspend, Resume, System);
fault(resume, #system{suspended = []} = System) ->
    {none, System};
fault(resume, System) ->
    {none, resume_first(System)};
fault(flood, #system{size = Size} = System) ->
    Pid = random(processes_of_library(System)),
    Junk = junk(),
    [Pid ! Message || _ <- lists:seq(1, count(Size, flood) div length(Junk)), Message <- Junk],
    {Pid, System};
fault(signal, System) ->
    %% A process that traps exits receives the signal as an unknown message.
    Pid = random([Pid || Pid <- processes_of_library(System), traps_exits(Pid)]),
    exit(Pid, junk),
    {Pid, System};
fault(reload, System) ->
    Module = random(modules()),
    case code:soft_purge(Module) of
        true ->
            ok = reloading:load(Module),
            {{loaded, Module}, System};
        false ->
            {{in_use, Module}, System}
    end;
fault({upgrade, Folder}, System) ->
    {release_handler:upgrade_app(proctab, Folder), System};
fault(release, System) ->
    {faults_books:release_blocked(), System}.

traps_exits(Pid) ->
    process_info(Pid, trap_exit) =:= {trap_exit, true}.

junk() ->
    [
        junk,
        {junk, make_ref()},
        {'DOWN', make_ref(), process, self(), junk},
        {'EXIT', self(), junk},
        {'$gen_cast', junk},
        {'$gen_call', {self(), make_ref()}, junk},
        retry,
        stop,
        {timeout, make_ref(), cleaner_timeout},
        {registered, make_ref()}
    ].

%% Returns the processes that run the cleanups of a reaper.
cleaners(undefined) ->
    [];
cleaners(Reaper) ->
    [
        Pid
     || {links, Links} <- [process_info(Reaper, links)],
        Pid <- Links,
        initial_call(Pid) =:= none
    ].

reapers() ->
    [metrics_process_tracker_reaper, stats_hero_monitor_reaper].

with_child(Do) ->
    Children = children(random(zone_names())),
    case [Child || {Name, running, _, _, _} = Child <- Children, not is_witness(Name)] of
        [] ->
            none;
        Running ->
            {Name, _, Pid, _, _} = random(Running),
            Do(Pid),
            Name
    end.

permanent_children(Zone) ->
    [
        Child
     || {Name, running, _, _, {_, permanent, _, _, _}} = Child <- children(Zone),
        not is_witness(Name)
    ].

is_witness({_, Name}) -> Name =:= witness.

children(Zone) ->
    try
        faults_balance:children(Zone)
    catch
        error:badarg -> []
    end.

kill_all(Pids) ->
    [
        begin
            exit(Pid, kill),
            Pid
        end
     || Pid <- Pids, is_pid(Pid)
    ].

%% Kills a keeper. It is suspended before its child is read, so that the state cannot change any
%% more. A keeper in the middle of `after_terminate` takes this call with it. A zone that ends
%% before another keeper takes over the child does not call it either.
kill_keeper_of([]) ->
    none;
kill_keeper_of(Children) ->
    {Name, _, _, Keeper, _} = random(Children),
    try erlang:suspend_process(Keeper) of
        true ->
            {Zone, _} = Name,
            State = child(Zone, Name),
            is_call_safe(State, Zone, Keeper) orelse faults_books:allow_missing_call(Name),
            exit(Keeper, kill),
            {Name, State}
    catch
        error:_ -> gone
    end.

child(Zone, Name) ->
    try
        proctab_nif:child(Zone, Name)
    catch
        error:badarg -> ended
    end.

%% Whether `after_terminate` is called as usual after this keeper was killed.
is_call_safe({running, _, Keeper, _}, Zone, Keeper) ->
    Zone =:= faults_stable;
is_call_safe({State, _, Keeper, _}, _, Keeper) ->
    lists:member(State, [launching, restarting, pending]);
is_call_safe(_, _, _) ->
    false.

end_zone(Zone, End) ->
    case whereis(Zone) of
        undefined ->
            ok;
        Tracker ->
            _ = faults_books:zone_ending(Zone),
            Monitor = monitor(process, Tracker),
            _ = End(Tracker),
            receive
                {'DOWN', Monitor, process, _, _} -> faults_books:zone_ended(Zone)
            end
    end.

%% Stops a child that is being cleaned up, or its zone.
stop_cleanup(Zone, _, zone) when Zone =/= faults_stable ->
    end_zone(Zone, fun(Tracker) -> stop(Tracker, shutdown) end);
stop_cleanup(Zone, Name, _) ->
    try
        supervisor:terminate_child(Zone, Name)
    catch
        exit:_ -> ended
    end.

%% Kills a child again and again, until its restarts are delayed.
slow_down({Name, _, Pid, _, {Start, Restart, Shutdown, Type, Modules}}, System) ->
    Open = fun() ->
        gen_tracker:find_or_open(element(1, Name), {Name, Start, Restart, Shutdown, Type, Modules})
    end,
    task(Name, System, fun() ->
        try
            kill_again(12, Pid, Open)
        catch
            _:_ -> ended
        end
    end).

kill_again(0, _, _) ->
    ok;
kill_again(Times, Pid, Open) ->
    tracked_child:kill(Pid),
    {ok, Next} = Open(),
    kill_again(Times - 1, Next, Open).

kill_parent(Tracker) ->
    case process_info(Tracker, parent) of
        {parent, Supervisor} -> exit(Supervisor, kill);
        undefined -> gone
    end.

%% Stops a tracker by a request or with an exit reason.
stop(Tracker, Request) when Request =:= shutdown; Request =:= stop ->
    try
        gen_server:call(Tracker, Request, infinity)
    catch
        exit:_ -> ended
    end;
stop(Tracker, Reason) ->
    stop_server(Tracker, Reason).

stop_server(Server, Reason) ->
    try
        gen_server:stop(Server, Reason, infinity)
    catch
        exit:_ -> ended
    end.

kill_owner(#system{root = Root}) ->
    tracked_process:kill([servers_supervisor(Root)]),
    %% Waits until the next one runs.
    _ = servers_supervisor(Root),
    faults_books:next_epoch().

servers_supervisor(Root) ->
    Root ! {servers, self()},
    receive
        {servers, Pid} -> Pid
    end.

%% Forged messages

%% Returns a process of a zone, and the pids that messages to it may name, by role.
forged_to(Zone) ->
    Children = children(Zone),
    Keepers = [Keeper || {_, _, _, Keeper, _} <- Children],
    Pids = #{
        keeper => Keepers,
        child => [Pid || {_, _, Pid, _, _} <- Children, is_pid(Pid)],
        beside => [Pid || {Pid, _} <- beside(Zone)] -- Keepers,
        tracker => [Pid || Pid <- [whereis(Zone)], is_pid(Pid)]
    },
    To = random(maps:get(random([tracker, keeper, beside]), Pids) ++ [self()]),
    {To, maps:map(fun(_, Some) -> random(Some ++ [self()]) end, Pids)}.

%% Returns messages of the shapes that the processes of a zone receive, but none that a server must
%% obey: the exit of its parent, and requests to stop.
forged(Count, To, Pids) ->
    Makings = prop_strangers:makings([zone], shapes(), maps:keys(Pids)),
    Letters = [
        prop_strangers:letter(Number, Makings)
     || Number <- [rand:uniform(1 bsl 50) || _ <- lists:seq(1, Count)]
    ],
    Messages = [
        prop_strangers:real(Letter, fun(Role) -> map_get(Role, Pids) end)
     || {zone, Letter} <- Letters
    ],
    %% A server that was started without a link is its own parent.
    Parents = [To, map_get(tracker, Pids)],
    [Message || Message <- Messages, not must_be_obeyed(Message, Parents)].

must_be_obeyed({'EXIT', Pid, _}, Parents) ->
    lists:member(Pid, Parents);
must_be_obeyed({'$gen_call', {Pid, _}, Call}, _) when is_pid(Pid) ->
    lists:member(Call, [shutdown, stop]);
must_be_obeyed({'$gen_call', _, _}, _) ->
    %% The caller cannot be answered; see `strangers_SUITE`.
    true;
must_be_obeyed(_, _) ->
    false.

%% Returns the shapes, which are read from the modules once.
shapes() ->
    case get(shapes) of
        undefined ->
            Modules = [
                gen_tracker,
                gen_tracker_keeper,
                gen_tracker_registrar,
                gen_tracker_shutdown,
                gen_tracker_events
            ],
            Shapes = lists:flatmap(fun prop_strangers:shapes/1, Modules),
            put(shapes, Shapes),
            Shapes;
        Shapes ->
            Shapes
    end.

%% Runs a fun in the background. It may need others to be resumed or released.
task(What, #system{tasks = Tasks} = System, Run) ->
    {_, Monitor} = spawn_opt(Run, [link, monitor]),
    {What, System#system{tasks = [Monitor | Tasks]}}.

suspend(undefined, _, _, System) ->
    {none, System};
suspend(Pid, Suspend, Resume, #system{suspended = Suspended, tasks = Tasks} = System) ->
    Suspender = spawn_link(fun() ->
        _ =
            try
                Suspend(Pid)
            catch
                _:_ -> ended
            end,
        receive
            resume ->
                try
                    Resume(Pid)
                catch
                    _:_ -> ended
                end
        end
    end),
    Monitor = monitor(process, Suspender),
    Next = System#system{suspended = Suspended ++ [Suspender], tasks = [Monitor | Tasks]},
    case length(Suspended) of
        ?SUSPENDED -> {Pid, resume_first(Next)};
        _ -> {Pid, Next}
    end.

resume_first(#system{suspended = [First | Rest]} = System) ->
    resume(First),
    System#system{suspended = Rest}.

resume(Suspender) ->
    Suspender ! resume.

%% Upgrades

%% Upgrades to the version in a folder. The faults before and after it end neither zones nor
%% servers, so the upgrade must keep these processes. It fails while a process runs old code.
upgrade(Folder, System) ->
    Faults = [
        kill_child,
        end_child,
        kill_all_children,
        kill_keeper,
        kill_caller,
        flood,
        signal,
        release,
        release
    ],
    Before = inject(20, Faults, System),
    %% The subscriptions may still be starting.
    tracked_process:eventually(fun() ->
        lists:all(fun(Zone) -> event_processes(Zone) =/= [] end, zone_names())
    end),
    leave_old_code(),
    Servers = servers(),
    Upgraded = record({upgrade, Folder}, Before),
    {_, _, Answer} = hd(Upgraded#system.history),
    [demo_books:wrong('an upgrade fails', Answer) || element(1, Answer) =/= ok],
    [
        demo_books:wrong('an upgrade replaced the process of a server', {Servers, servers()})
     || Servers =/= servers()
    ],
    inject(20, Faults, Upgraded).

%% Waits until no process runs old code, and fails with those that do. A keeper does while a
%% callback blocks.
leave_old_code() ->
    try
        tracked_process:eventually(fun() ->
            faults_books:release_blocked(),
            lists:all(fun code:soft_purge/1, modules())
        end)
    catch
        Class:_:_ ->
            In = [
                {Module, Pid, process_info(Pid, [current_stacktrace, status, messages])}
             || Module <- modules(), Pid <- processes(), erlang:check_process_code(Pid, Module)
            ],
            erlang:Class({in_old_code, In})
    end.

servers() ->
    [whereis(Name) || Name <- zone_names() ++ [metrics_process_tracker, stats_hero_monitor]].

%% Called by the upgrade. Changes the code of the processes of these modules, which
%% `release_handler` does not find because they have no supervisor.
change_code(Modules) ->
    [
        begin
            ok = sys:suspend(Pid),
            ok = sys:change_code(Pid, Module, undefined, []),
            ok = sys:resume(Pid)
        end
     || Pid <- processes(), {Module, init, _} <- [initial_call(Pid)], lists:member(Module, Modules)
    ].

%% Processes of the library

beside(Zone) ->
    try zones:beside(Zone) of
        Pids -> [{Pid, initial_call(Pid)} || Pid <- Pids]
    catch
        error:_ -> []
    end.

event_processes(Zone) ->
    [Pid || {Pid, {gen_tracker_events, _, _}} <- beside(Zone)].

processes_of_library(#system{others = Others}) ->
    [
        Pid
     || Pid <- processes(),
        not is_map_key(Pid, Others),
        {Module, _, _} <- [initial_call(Pid)],
        lists:member(Module, modules())
    ].

initial_call(Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} -> proplists:get_value('$initial_call', Dictionary, none);
        undefined -> none
    end.
