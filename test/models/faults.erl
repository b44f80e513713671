%% Rounds of random faults. A round builds a world: zones under supervisors with children of all kinds (`faults_child`), the two trackers of processes, callers and followers
%% (`faults_load`). Then it torments it, as its seed says: kills, suspends, floods and reloads whatever there is. In the end, when there is peace, the books must balance
%% (`faults_balance`): first of the world that lives, then of the one that is gone.
%%
%% A seed decides what is done, not what the scheduler makes of it: `replay/1' runs the round of a failure up to twenty times.
-module(faults).
-behaviour(supervisor).

-export([round/1, round/2, replay/1, upgrades/2]).
%% Called by supervisors, applications, and an upgrade.
-export([init/1, start/2, stop/1, change_code/1]).

-record(world, {
    size :: small | large,
    %% Processes that are none of this world's.
    others :: #{pid() => other},
    roof :: pid(),
    callers :: [pid()],
    followers :: [pid()],
    %% Processes that do something that may take as long as others are suspended.
    errands = [] :: [reference()],
    %% The latest last.
    suspended = [] :: [pid()],
    begun :: integer(),
    history = [] :: [{Microseconds :: integer(), Torment :: atom(), What :: term()}]
}).

%% How many are suspended at a time: most others wait for them soon.
-define(SUSPENDED, 3).

round(Seed) ->
    round(Seed, large).

%% `small' takes about half a second, `large' some seconds.
round(Seed, Size) ->
    round(Seed, Size, #{
        supervise => fun(Of) -> supervisor:start_link(?MODULE, Of) end,
        torment => fun(World) -> torment(count(Size, torments), any_torments(), World) end
    }).

%% Upgrades the application `proctab', which runs, to the version in each of these folders. The supervisors are those of applications, where `release_handler' looks for processes. In a
%% node of its own: what was loaded stays.
upgrades(Seed, Folders) ->
    round(Seed, small, #{supervise => fun run_application/1, torment => fun(World) -> lists:foldl(fun upgrade/2, World, Folders) end}).

round(Seed, Size, How) ->
    Config = logger:get_primary_config(),
    %% Thousands of reports.
    ok = logger:set_primary_config(level, none),
    Dir = filename:join(os:getenv("TMPDIR", "/tmp"), "proctab_faults_" ++ os:getpid()),
    _ = monitored_worker:load_stats_hero([{priv_dir, Dir}]),
    %% Before the snapshot: what a connection to another node starts is none of this world's.
    _ = is_alive() andalso inet:gethostbyname(net_adm:localhost()),
    {Peer, Node} = peer(Seed),
    try
        Witness = monitored_worker:idle(),
        Before = faults_balance:snapshot(),
        Run = fun() -> exit({outcome, run(Seed, Size, Witness, How#{node => Node})}) end,
        {Pid, Monitor} = spawn_monitor(Run),
        Outcome = receive {'DOWN', Monitor, process, Pid, Reason} -> Reason end,
        Left = faults_balance:left_over(Before, Witness),
        exit(Witness, kill),
        outcome(Seed, Size, Outcome, Left)
    after
        stop_peer(Peer),
        monitored_worker:unload_stats_hero(),
        file:del_dir_r(Dir),
        logger:set_primary_config(Config)
    end.

%% In some rounds there is another node, if this one can have one.
peer(Seed) ->
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
    %% It may have ended already.
    try peer:stop(Peer) catch exit:_ -> ended end.

outcome(_Seed, _Size, {outcome, {Figures, _, []}}, []) ->
    {ok, Figures};
outcome(Seed, Size, {outcome, {Figures, History, Wrongs}}, Left) ->
    {failed, #{seed => Seed, size => Size, torments => History, wrong => Wrongs, left_over => Left, figures => Figures}};
outcome(Seed, Size, Crash, Left) ->
    {failed, #{seed => Seed, size => Size, crash => Crash, left_over => Left}}.

replay(#{seed := Seed, size := Size}) ->
    replay(Seed, Size, 20).

replay(Seed, Size, Times) ->
    case round(Seed, Size) of
        {ok, _} when Times > 1 -> replay(Seed, Size, Times - 1);
        Outcome -> Outcome
    end.

%% What a round has of everything.
count(small, torments) -> 60;
count(large, torments) -> 500;
count(small, children) -> 40;
count(large, children) -> 150;
count(small, callers) -> 6;
count(large, callers) -> 12;
count(small, flood) -> 300;
count(large, flood) -> 3000.

zones() ->
    [{faults_calm, #{}}, {faults_wild, #{}}, {faults_bare, #{restart => false}}].

names() ->
    [Zone || {Zone, _} <- zones()].

modules() ->
    [gen_tracker, gen_tracker_requests, gen_tracker_keeper, gen_tracker_shutdown, gen_tracker_reports, gen_tracker_events, metrics_process_tracker, stats_hero_monitor, proctab_reaper, proctab, proctab_view, proctab_errors, proctab_swap].

%% The world

%% What belongs to it is linked to its process, and goes with it.
run(Seed, Size, Witness, #{supervise := Supervise, torment := Torment, node := Node}) ->
    process_flag(trap_exit, true),
    rand:seed(exsss, Seed),
    faults_books:open(Seed, Node),
    ok = ledger_backend:open(),
    ok = stats_hero:new_table(),
    World = build(Size, Supervise),
    Calm = whereis(faults_calm),
    ok = metrics_process_tracker:track(witness, Witness),
    ok = stats_hero_monitor:register(Witness),
    {ok, Witness} = gen_tracker:add_existing_child(faults_calm, {{faults_calm, witness}, Witness, worker, []}),
    Tormented = Torment(World),
    Operations = make_peace(Tormented),
    ok = gen_tracker:unregister_name({faults_calm, {faults_calm, witness}}),
    [demo_books:wrong('the tracker of the calm zone is another one', Calm) || whereis(faults_calm) =/= Calm],
    faults_balance:living(names(), Tormented#world.followers, modules()),
    take_down(Tormented),
    Figures = figures(Tormented, Operations),
    Wrongs = demo_books:wrongs(),
    ledger_backend:close(),
    faults_books:close(),
    {Figures, lists:reverse(Tormented#world.history), Wrongs}.

build(Size, Supervise) ->
    Test = self(),
    Others = maps:from_keys(processes(), other),
    Roof = spawn_link(fun() -> process_flag(trap_exit, true), open_roof(Test, Supervise, [watch | zones()]) end),
    receive {built, Roof} -> ok end,
    [faults_load:opener(Zone, Number) || Zone <- names(), Number <- lists:seq(1, count(Size, children))],
    #world{
        size = Size,
        others = Others,
        roof = Roof,
        callers = [caller(Size) || _ <- lists:seq(1, count(Size, callers))],
        followers = [faults_load:follower(Zone) || Zone <- names(), _ <- [1, 2]],
        begun = erlang:monotonic_time(microsecond)
    }.

caller(Size) ->
    faults_load:caller(names(), count(Size, children), rand:uniform(1 bsl 58)).

%% Starts the supervisors, and starts them again when they were killed. The first message tells that all run.
open_roof(Test, Supervise, All) ->
    Supervisors = [{Of, supervised(Of, Supervise)} || Of <- All],
    Test ! {built, self()},
    roof(Test, Supervise, Supervisors).

roof(Test, Supervise, Supervisors) ->
    receive
        {'EXIT', Pid, Reason} ->
            case lists:keyfind(Pid, 2, Supervisors) of
                {Of, Pid} -> roof(Test, Supervise, lists:keyreplace(Pid, 2, Supervisors, {Of, supervised(Of, Supervise)}));
                false when Pid =:= Test -> exit(Reason);
                %% One that could not start.
                false -> roof(Test, Supervise, Supervisors)
            end;
        {watch, From} ->
            {watch, Pid} = lists:keyfind(watch, 1, Supervisors),
            From ! {watch, Pid},
            roof(Test, Supervise, Supervisors);
        stop_zones ->
            {[Watch], Others} = lists:partition(fun({Of, _}) -> Of =:= watch end, Supervisors),
            lists:foreach(fun stop_supervisor/1, Others),
            Test ! zones_stopped,
            roof(Test, Supervise, [Watch]);
        stop ->
            lists:foreach(fun stop_supervisor/1, Supervisors)
    end.

stop_supervisor({_, Pid}) ->
    unlink(Pid),
    gen_server:stop(Pid, shutdown, infinity).

%% Those that the supervisor before has left may still be ending.
supervised(Of, Supervise) ->
    [tracked_child:down(Pid) || Name <- registered(Of), Pid <- [whereis(Name)], is_pid(Pid)],
    case Supervise(Of) of
        {ok, Pid} -> Pid;
        %% The one before has started one more in its last moment, or what it starts was killed meanwhile.
        {error, {shutdown, {failed_to_start_child, _, _}}} -> supervised(Of, Supervise)
    end.

run_application(Of) ->
    Name = hd(registered(Of)),
    ok = application:load({application, Name, [{vsn, "1"}, {applications, [kernel, stdlib]}, {mod, {?MODULE, {self(), Of}}}]}),
    ok = application:start(Name),
    receive {top, Pid} -> {ok, Pid} end.

start(_Type, {Test, Of}) ->
    {ok, Pid} = supervisor:start_link(?MODULE, Of),
    Test ! {top, Pid},
    {ok, Pid}.

stop(_) ->
    ok.

registered(watch) -> [metrics_process_tracker, stats_hero_monitor];
registered({Zone, _}) -> [Zone].

init(watch) ->
    {ok, {#{intensity => 1000000, period => 1}, [
        #{id => Module, start => {Module, start_link, []}} || Module <- [metrics_process_tracker, stats_hero_monitor]
    ]}};
init({Zone, Options}) ->
    Start = {gen_tracker, start_link, [Zone, Options]},
    {ok, {#{intensity => 1000000, period => 1}, [#{id => Zone, start => Start, type => supervisor}]}}.

%% First the zones: the deaths of their children are counted and cleaned up.
take_down(#world{roof = Roof, followers = Followers}) ->
    [faults_load:stop(Follower) || Follower <- Followers],
    Monitor = monitor(process, Roof),
    Roof ! stop_zones,
    await(fun() -> receive zones_stopped -> true after 1 -> false end end),
    faults_balance:dead(names()),
    Roof ! stop,
    until_down([Monitor]).

until_down(Monitors) ->
    [await(fun() -> receive {'DOWN', Monitor, process, _, _} -> true after 1 -> false end end) || Monitor <- Monitors].

await(Condition) ->
    faults_balance:agree('somebody waits for ever', fun() -> [Waiting || not Condition(), Waiting <- monitored()] end).

monitored() ->
    {monitors, Monitors} = process_info(self(), monitors),
    [process_info(Pid, [current_stacktrace, links]) || {process, Pid} <- Monitors].

make_peace(#world{callers = Callers, suspended = Suspended, errands = Errands}) ->
    faults_books:make_peace(),
    lists:foreach(fun resume/1, Suspended),
    Monitors = [monitor(process, Caller) || Caller <- Callers],
    lists:foreach(fun faults_load:stop/1, Callers),
    until_down(Errands ++ Monitors),
    operations(0).

operations(Sum) ->
    receive
        {operations, Count} -> operations(Sum + Count);
        turn -> operations(Sum)
    after 0 -> Sum
    end.

figures(#world{history = History}, Operations) ->
    Torments = maps:groups_from_list(fun({_, Torment, _}) -> Torment end, History),
    maps:merge(
        maps:merge(maps:map(fun(_, Times) -> length(Times) end, Torments), faults_books:changes()),
        #{operations => Operations, starts => faults_books:starts(), torments => length(History), reloaded => length([Module || {_, reload, {loaded, Module}} <- History])}
    ).

%% Torments

torment(0, _, World) ->
    World;
torment(Count, Torments, World) ->
    wait_for_turns(rand:uniform(8)),
    torment(Count - 1, Torments, note(any(Torments), World)).

note(Torment, World) ->
    Time = erlang:monotonic_time(microsecond) - World#world.begun,
    {What, Next} = do(Torment, World),
    Next#world{history = [{Time, Torment, What} | Next#world.history]}.

%% The callers tell when they get on; all of them may be waiting for something that is suspended or hangs.
wait_for_turns(0) ->
    ok;
wait_for_turns(Turns) ->
    receive
        turn -> wait_for_turns(Turns - 1);
        %% An answer to what a flood has asked.
        {Tag, _} when is_reference(Tag) -> wait_for_turns(Turns);
        {'EXIT', _, _} -> wait_for_turns(Turns)
    after 10 -> ok
    end.

any(List) ->
    lists:nth(rand:uniform(length(List)), List).

torments() ->
    [kill_child, kill_child, end_child, end_child, kill_all_children, kill_keeper, kill_keeper, kill_keeper, kill_tracker, kill_tracker, stop_zone, stop_zone,
     stop_cleanup, stop_cleanup, stop_cleanup, forge, forge, forge,
     kill_supervisor, kill_guard, kill_sender, kill_caller, kill_caller, kill_follower, kill_server, kill_server, kill_server,
     suspend, suspend, suspend_server, suspend_server, resume, resume, resume, resume, flood, flood, signal, reload, reload, reload, let_go, let_go, let_go].

%% Restarts that are slowed down take their time in the end, so few rounds have them.
any_torments() ->
    torments() ++ any([meddling(), []]) ++ any([[kill_owner], []]) ++
        any([[slow_down, slow_down], [], [], []]) ++ any([[kill_node], []]).

%% After these a cleanup may be missing, or be there twice, and after an end of the owner of their tables all that was in them is forgotten. The books cannot be exact then, so half of the
%% rounds do without the ones, and half without the other.
meddling() ->
    [kill_reaper, stop_reaper, kill_cleaner].

do(kill_child, World) ->
    {with_child(fun(Pid) -> exit(Pid, kill) end), World};
do(end_child, World) ->
    Reason = any([normal, shutdown, {shutdown, moved}, crash]),
    {with_child(fun(Pid) -> Pid ! {stop, Reason} end), World};
do(kill_all_children, World) ->
    Zone = any(names()),
    Children = children(Zone),
    [exit(Pid, kill) || {Name, _, Pid, _, _} <- Children, is_pid(Pid), not is_witness(Name)],
    {{Zone, length(Children)}, World};
do(kill_keeper, World) ->
    Children = children(any(names())),
    Busy = [Child || {_, State, _, _, _} = Child <- Children, State =/= running],
    {kill_keeper_of(any([Children, Busy])), World};
do(kill_tracker, World) ->
    Zone = any([faults_wild, faults_bare]),
    errand(Zone, World, fun() -> end_zone(Zone, fun(Tracker) -> exit(Tracker, kill) end) end);
do(stop_zone, World) ->
    Zone = any([faults_wild, faults_bare]),
    How = any([shutdown, stop, normal, crash]),
    errand({Zone, How}, World, fun() -> end_zone(Zone, fun(Tracker) -> stop(Tracker, How) end) end);
do(kill_supervisor, World) ->
    Zone = any([faults_wild, faults_bare]),
    errand(Zone, World, fun() -> end_zone(Zone, fun kill_parent/1) end);
do(kill_node, World) ->
    Node = faults_books:node(),
    [erpc:cast(Node, erlang, halt, []) || Node =/= none],
    {Node, World};
do(stop_cleanup, World) ->
    Zone = any(names()),
    case [Name || {Name, terminating, _, _, _} <- children(Zone)] of
        [] ->
            {none, World};
        Names ->
            Name = any(Names),
            errand(Name, World, fun() -> stop_cleanup(Zone, Name, any([child, zone])) end)
    end;
do(slow_down, World) ->
    Permanent = [
        Child
     || {Name, running, _, _, {_, permanent, _, _, _}} = Child <- children(any(names())),
        not is_witness(Name)
    ],
    case Permanent of
        [] -> {none, World};
        _ -> slow_down(any(Permanent), World)
    end;
do(forge, World) ->
    {To, Pids} = forged_to(any(names())),
    Messages = forged(20, To, Pids),
    [To ! Message || Message <- Messages],
    {{To, Messages}, World};
do(kill_guard, World) ->
    {kill_all([Pid || {Pid, {gen_tracker_shutdown, init_watchdog, _}} <- beside(faults_calm)]), World};
do(kill_sender, World) ->
    {kill_all(senders(faults_calm)), World};
do(kill_caller, #world{size = Size, callers = [Caller | Callers]} = World) ->
    exit(Caller, kill),
    {Caller, World#world{callers = Callers ++ [caller(Size)]}};
do(kill_follower, #world{followers = Followers} = World) ->
    Number = rand:uniform(length(Followers)),
    {Before, [Follower | After]} = lists:split(Number - 1, Followers),
    exit(Follower, kill),
    Zone = lists:nth(1 + (Number - 1) div 2, names()),
    {Zone, World#world{followers = Before ++ [faults_load:follower(Zone) | After]}};
do(kill_server, World) ->
    {kill_all([whereis(any([metrics_process_tracker, stats_hero_monitor]))]), World};
do(kill_reaper, World) ->
    _ = faults_books:meddled(),
    {kill_all([whereis(any(reapers()))]), World};
do(stop_reaper, World) ->
    _ = faults_books:meddled(),
    Name = any(reapers()),
    errand(Name, World, fun() -> try gen_server:stop(Name, any([normal, crash]), infinity) catch exit:_ -> ended end end);
do(kill_cleaner, World) ->
    Reaper = whereis(any(reapers())),
    Cleaners = [Pid || is_pid(Reaper), {links, Links} <- [process_info(Reaper, links)], Pid <- Links, initial_call(Pid) =:= none],
    [faults_books:meddled() || _ <- Cleaners],
    {kill_all(Cleaners), World};
do(kill_owner, World) ->
    errand(watch, World, fun() -> kill_owner(World) end);
do(suspend, World) ->
    Children = [Pid || {_, _, Pid, _, _} <- children(any(names())), is_pid(Pid)],
    %% It goes on with the end of the process that has suspended it.
    suspend(any(processes_of_library(World) ++ Children), fun erlang:suspend_process/1, fun(_) -> ok end, World);
do(suspend_server, World) ->
    Servers = [whereis(Name) || Name <- names() ++ reapers() ++ [metrics_process_tracker, stats_hero_monitor]] ++
        lists:append([senders(Zone) || Zone <- names()]),
    suspend(any(Servers), fun(Pid) -> sys:suspend(Pid, infinity) end, fun(Pid) -> sys:resume(Pid, infinity) end, World);
do(resume, #world{suspended = []} = World) ->
    {none, World};
do(resume, World) ->
    {none, resume_first(World)};
do(flood, #world{size = Size} = World) ->
    Pid = any(processes_of_library(World)),
    Junk = [junk, {junk, make_ref()}, {'DOWN', make_ref(), process, self(), junk}, {'EXIT', self(), junk}, {'$gen_cast', junk},
            {'$gen_call', {self(), make_ref()}, junk}, retry, stop, {timeout, make_ref(), cleaner_timeout}, {registered, make_ref()}],
    [Pid ! Message || _ <- lists:seq(1, count(Size, flood) div length(Junk)), Message <- Junk],
    {Pid, World};
do(signal, World) ->
    %% To those who trap exits it is a stray message.
    Pid = any([Pid || Pid <- processes_of_library(World), process_info(Pid, trap_exit) =:= {trap_exit, true}]),
    exit(Pid, junk),
    {Pid, World};
do(reload, World) ->
    Module = any(modules()),
    case code:soft_purge(Module) of
        true -> ok = reloading:load(Module), {{loaded, Module}, World};
        false -> {{in_use, Module}, World}
    end;
do({upgrade, Folder}, World) ->
    {release_handler:upgrade_app(proctab, Folder), World};
do(let_go, World) ->
    {faults_books:let_go(), World}.

reapers() ->
    [metrics_process_tracker_reaper, stats_hero_monitor_reaper].

with_child(Do) ->
    case [Child || {Name, running, _, _, _} = Child <- children(any(names())), not is_witness(Name)] of
        [] ->
            none;
        Children ->
            {Name, _, Pid, _, _} = any(Children),
            Do(Pid),
            Name
    end.

is_witness({_, Name}) -> Name =:= witness.

children(Zone) ->
    try faults_balance:children(Zone) catch error:badarg -> [] end.

kill_all(Pids) ->
    [begin exit(Pid, kill), Pid end || Pid <- Pids, is_pid(Pid)].

%% Its name is read when it can do no more: in the middle of its last words they are not called again. And should the zone end before somebody else has the child, nobody calls them.
kill_keeper_of([]) ->
    none;
kill_keeper_of(Children) ->
    {Name, _, _, Keeper, _} = any(Children),
    try erlang:suspend_process(Keeper) of
        true ->
            {Zone, _} = Name,
            State = try proctab_nif:child(Zone, Name) catch error:badarg -> ended end,
            case State of
                {running, _, Keeper, _} when Zone =:= faults_calm -> ok;
                {Before, _, Keeper, _} when Before =:= launching; Before =:= restarting; Before =:= pending -> ok;
                _ -> faults_books:excuse(Name)
            end,
            exit(Keeper, kill),
            {Name, State}
    catch
        error:_ -> gone
    end.

end_zone(Zone, End) ->
    case whereis(Zone) of
        undefined ->
            ok;
        Tracker ->
            _ = faults_books:ending(Zone),
            Monitor = monitor(process, Tracker),
            _ = End(Tracker),
            receive {'DOWN', Monitor, process, _, _} -> faults_books:has_ended(Zone) end
    end.

%% A child that is being cleaned up, or its zone with it, is stopped.
stop_cleanup(Zone, _, zone) when Zone =/= faults_calm ->
    end_zone(Zone, fun(Tracker) -> stop(Tracker, shutdown) end);
stop_cleanup(Zone, Name, _) ->
    try
        supervisor:terminate_child(Zone, Name)
    catch
        exit:_ -> ended
    end.

%% Kills a child, and the next one, until it is not restarted at once any more.
slow_down({Name, _, Pid, _, {Start, Restart, Shutdown, Type, Modules}}, World) ->
    Open = fun() ->
        gen_tracker:find_or_open(element(1, Name), {Name, Start, Restart, Shutdown, Type, Modules})
    end,
    errand(Name, World, fun() -> try kill_again(12, Pid, Open) catch _:_ -> ended end end).

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

stop(Tracker, How) ->
    try
        case lists:member(How, [shutdown, stop]) of
            true -> gen_server:call(Tracker, How, infinity);
            false -> gen_server:stop(Tracker, How, infinity)
        end
    catch
        exit:_ -> ended
    end.

kill_owner(#world{roof = Roof}) ->
    tracked_process:kill([watch(Roof)]),
    %% The next one.
    _ = watch(Roof),
    faults_books:next_epoch().

watch(Roof) ->
    Roof ! {watch, self()},
    receive {watch, Pid} -> Pid end.

%% Forged messages

%% A process of a zone, and whom the messages to it name.
forged_to(Zone) ->
    Children = children(Zone),
    Keepers = [Keeper || {_, _, _, Keeper, _} <- Children],
    Pids = #{
        keeper => Keepers,
        child => [Pid || {_, _, Pid, _, _} <- Children, is_pid(Pid)],
        beside => [Pid || {Pid, _} <- beside(Zone)] -- Keepers,
        tracker => [Pid || Pid <- [whereis(Zone)], is_pid(Pid)]
    },
    To = any(maps:get(any([tracker, keeper, beside]), Pids) ++ [self()]),
    {To, maps:map(fun(_, Some) -> any(Some ++ [self()]) end, Pids)}.

%% Of the shapes that the processes of a zone look for. What a server has to believe, the end of its
%% parent and an order to stop, is left out.
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
    [Message || Message <- Messages, not is_believed(Message, [To, map_get(tracker, Pids)])].

%% A server that was started without a link is its own parent.
is_believed({'EXIT', Pid, _}, Parents) -> lists:member(Pid, Parents);
is_believed({'$gen_call', {Pid, _}, Call}, _) when is_pid(Pid) ->
    lists:member(Call, [shutdown, stop]);
%% Nobody can be answered; see `strangers_SUITE'.
is_believed({'$gen_call', _, _}, _) -> true;
is_believed(_, _) -> false.

%% Read once.
shapes() ->
    case get(shapes) of
        undefined ->
            Modules = [gen_tracker, gen_tracker_keeper, gen_tracker_shutdown, gen_tracker_events],
            Shapes = lists:flatmap(fun prop_strangers:shapes/1, Modules),
            put(shapes, Shapes),
            Shapes;
        Shapes ->
            Shapes
    end.

%% Something that may take until others are resumed or let go.
errand(What, #world{errands = Errands} = World, Run) ->
    {_, Monitor} = spawn_opt(Run, [link, monitor]),
    {What, World#world{errands = [Monitor | Errands]}}.

suspend(undefined, _, _, World) ->
    {none, World};
suspend(Pid, Suspend, Resume, #world{suspended = Suspended, errands = Errands} = World) ->
    Suspender = spawn_link(fun() ->
        _ = try Suspend(Pid) catch _:_ -> ended end,
        receive resume -> try Resume(Pid) catch _:_ -> ended end end
    end),
    Monitor = monitor(process, Suspender),
    Next = World#world{suspended = Suspended ++ [Suspender], errands = [Monitor | Errands]},
    case length(Suspended) of
        ?SUSPENDED -> {Pid, resume_first(Next)};
        _ -> {Pid, Next}
    end.

resume_first(#world{suspended = [First | Rest]} = World) ->
    resume(First),
    World#world{suspended = Rest}.

resume(Suspender) ->
    Suspender ! resume.

%% Upgrades

%% Between others that end neither zones nor servers, who stay the same. Refused as long as somebody is in code that was replaced before.
upgrade(Folder, World) ->
    Torments = [kill_child, end_child, kill_all_children, kill_keeper, kill_caller, flood, signal, let_go, let_go],
    Before = torment(20, Torments, World),
    %% The followers may not have come to it yet.
    tracked_process:eventually(fun() -> lists:all(fun(Zone) -> senders(Zone) =/= [] end, names()) end),
    tracked_process:eventually(fun() -> lists:all(fun code:soft_purge/1, modules()) end),
    Servers = servers(),
    Upgraded = note({upgrade, Folder}, Before),
    {_, _, Answer} = hd(Upgraded#world.history),
    [demo_books:wrong('an upgrade fails', Answer) || element(1, Answer) =/= ok],
    [demo_books:wrong('a server is another one after an upgrade', {Servers, servers()}) || Servers =/= servers()],
    torment(20, Torments, Upgraded).

servers() ->
    [whereis(Name) || Name <- names() ++ [metrics_process_tracker, stats_hero_monitor]].

%% Has the processes of modules that `release_handler' does not find change their code.
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
    [{Pid, initial_call(Pid)} || Pid <- (try zones:beside(Zone) catch error:_ -> [] end)].

senders(Zone) ->
    [Pid || {Pid, {gen_tracker_events, _, _}} <- beside(Zone)].

processes_of_library(#world{others = Others}) ->
    [Pid || Pid <- processes(), not is_map_key(Pid, Others), {Module, _, _} <- [initial_call(Pid)], lists:member(Module, modules())].

initial_call(Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} -> proplists:get_value('$initial_call', Dictionary, none);
        undefined -> none
    end.
