%% Models of metrics_process_tracker and of stats_hero_monitor, and the property that random histories of operations, made by one process or by two at once, answer as the
%% models do: every value, and every class of errors. model_counted_SUITE runs it.
%%
%% A model is the contract as a plain map, a *world*, and `answer/2`, which says what an operation answers in it, and the world after it. So each history is a
%% comparison with a second, simple implementation, too.
%%
%% What the library does unasked is to clean up after the dead. In the history of one process, each operation waits until all is done that is due: a cleanup is a message to the
%% test, from the process that does it. In that of two, a registration of a dead process may go at any moment; so the model is in several worlds, all those that explain the
%% answers so far. Some order of the operations has to explain them all.
-module(model_counted).

-export([round/1, replay/1, hold/1, setup/2]).
-export([command/1, initial_state/0, precondition/2, postcondition/3, next_state/3]).
-export([track/2, track_self/2, count/1, names/1, counts/0]).
-export([register/1, registered_count/0, map/2, is_mapped/1]).
-export([die/2, unknown/1, start/0, stop/1, close/0, replace/0]).
-export([new/3, update/3, update_or_create/4, delete/2]).

-import(proper_types, [elements/1, frequency/1, range/2, vector/2]).

%% What belongs to the history that is running: its processes, and what has to be cleaned up one day.
-define(TABLE, ?MODULE).
%% How often the history of two processes is run, which differs each time; and how often when it has failed before.
-define(TIMES, 5).
-define(TIMES_AGAIN, 100).
%% How long a failure is shrunk, in seconds.
-define(SHRINKING, 20).

%% Rounds

-spec round(integer()) -> {ok, #{atom() => non_neg_integer()}} | {failed, term()}.
round(Seed) ->
    rand:seed(exsss, Seed),
    hold([setup(Kind, Way) || _ <- lists:seq(1, 50), Kind <- [tracker, monitor], Way <- [one, two]]).

%% Whether a random history of each of these kinds is as its model says.
hold(Setups) ->
    in_surroundings(fun() -> histories(Setups) end).

histories([]) ->
    {ok, erase(figures)};
histories([#{seed := Seed, size := Size} = Setup | Setups]) ->
    Property = proper:forall(commands(Setup), fun(Commands) -> runs(Setup, Commands, ?TIMES) end),
    Seeded = proper:setup(fun() -> proper_arith:rand_restart(Seed), fun() -> ok end end, Property),
    case proper:quickcheck(Seeded, [quiet, long_result, {numtests, 1}, {start_size, Size}, {max_size, Size}]) of
        true -> histories(Setups);
        [Commands] -> {failed, {Setup, Commands}}
    end.

%% Runs a history that has failed, as it was shrunk, once more.
-spec replay(term()) -> {ok, #{atom() => non_neg_integer()}} | {failed, term()}.
replay({Setup, Commands}) ->
    in_surroundings(fun() ->
        case runs(Setup, Commands, ?TIMES_AGAIN) of
            true -> {ok, erase(figures)};
            false -> {failed, {Setup, Commands}}
        end
    end).

%% A few processes, and a few names, some of which are apt to be taken for each other.
setup(Kind, Way) ->
    Terms = prop_terms:alike() ++ prop_terms:kinds(),
    Failing = [{raises, 1, error, up}, {raises, 1, exit, up}, {raises, 1, throw, up}, {raises, -1, error, down}, {answers, {error, up}}],
    Twins = drawn(twins()),
    %% Two at once meet in a small world, in which an answer has few explanations.
    {Processes, Names, Size} =
        case Way of
            one -> {8, [drawn(Failing), drawn(Terms) | Twins], 60};
            two -> {2, [drawn(Failing ++ Terms) | lists:sublist(Twins, rand:uniform(length(Twins) - 1), 2)], 12}
        end,
    #{
        kind => Kind,
        way => Way,
        processes => Processes,
        names => Names,
        seed => {rand:uniform(1 bsl 27), rand:uniform(1 bsl 27), rand:uniform(1 bsl 27)},
        size => Size
    }.

%% Terms that are nearly the same.
twins() ->
    [
        [1, 1.0, '1', "1", <<"1">>],
        [0, 0.0, -0.0, <<0>>, <<0:1>>],
        [[], {}, <<>>, '', #{}],
        [{1}, {1.0}, [1], [1 | 1], #{1 => 1}],
        [#{1 => 1}, #{1.0 => 1}, #{1 => 1.0}, #{1.0 => 1.0}],
        [1 bsl 70, float(1 bsl 70), 1 bsl 70 + 1, -(1 bsl 70)],
        [deep(1), deep(1.0), deep([]), deep({})]
    ].

deep(Term) ->
    lists:foldl(fun(_, Inner) -> {[Inner]} end, Term, lists:seq(1, 100)).

drawn(List) ->
    lists:nth(rand:uniform(length(List)), List).

commands(#{way := one} = Setup) -> proper_statem:commands(?MODULE, state(Setup));
commands(#{way := two} = Setup) -> proper_statem:parallel_commands(?MODULE, state(Setup)).

runs(#{way := one} = Setup, Commands, _Times) ->
    runs_once(Setup, Commands, fun proper_statem:run_commands/2);
runs(#{way := two} = Setup, Commands, Times) ->
    lists:all(fun(_) -> runs_once(Setup, Commands, fun proper_statem:run_parallel_commands/2) end, lists:seq(1, Times)).

%% Shrinking comes to an end as nothing fails any more.
runs_once(Setup, Commands, Run) ->
    case get(failed) of
        Failed when is_integer(Failed) -> erlang:monotonic_time(second) > Failed + ?SHRINKING orelse is_as_modelled(Setup, Commands, Run);
        undefined -> is_as_modelled(Setup, Commands, Run) orelse fails()
    end.

fails() ->
    put(failed, erlang:monotonic_time(second)),
    false.

is_as_modelled(Setup, Commands, Run) ->
    open(Setup),
    count_up(Commands),
    try
        {_, _, Result} = Run(?MODULE, Commands),
        Result =:= ok andalso leaves_nothing(Setup)
    after
        close_all()
    end.

count_up(Commands) ->
    #{histories := Histories, operations := Operations, deaths := Deaths} = get(figures),
    Calls = calls(Commands),
    Died = lists:usort(lists:append([Processes || {call, _, die, [Processes, _]} <- Calls])),
    put(figures, #{histories => Histories + 1, operations => Operations + length(Calls), deaths => Deaths + length(Died)}).

calls({First, Parallel}) -> lists:flatmap(fun calls/1, [First | Parallel]);
calls(Commands) -> [Call || {set, _, Call} <- Commands].

%% Nothing is logged: processes crash, and cleanups fail, as they are meant to.
in_surroundings(Run) ->
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    ok = ledger_backend:open(),
    ok = metrics:backend(?MODULE),
    Dir = filename:join(code:lib_dir(proctab), "stats_hero-" ++ os:getpid()),
    _ = monitored_worker:load_stats_hero([{priv_dir, Dir}]),
    try
        put(figures, #{histories => 0, operations => 0, deaths => 0}),
        Run()
    after
        _ = [erase(Key) || Key <- [figures, failed]],
        monitored_worker:unload_stats_hero(),
        ok = file:del_dir_r(Dir),
        ledger_backend:close(),
        ets:delete(ledger_backend),
        logger:set_primary_config(level, Level)
    end.

%% What happens in a history

initial_state() ->
    state(setup(tracker, one)).

state(#{way := Way, processes := Processes, names := Names} = Setup) ->
    Mapped = maps:from_keys(lists:seq(1, Processes), mapped),
    World = #{names => Names, is_open => true, is_running => true, dead => #{}, registrations => #{}, mapped => Mapped},
    #{setup => Setup, way => Way, worlds => [World]}.

command(#{setup := #{kind := Kind, way := Way, processes := Processes, names := Names}}) ->
    Operations = common(Way, Processes) ++ operations(Kind, Way, range(1, length(Names)), process(Processes)),
    frequency([{Weight, {call, ?MODULE, Operation, Arguments}} || {Weight, Operation, Arguments} <- Operations]).

%% Some are no processes.
process(Processes) ->
    frequency([{15, range(1, Processes)}, {1, elements([no_pid, <<"<0.1.0>">>, "<0.1.0>", [], 1.0, #{}])}]).

common(one, Processes) ->
    [
        {3, die, [vector(2, range(1, Processes)), way_to_die()]},
        {2, unknown, [elements([call, cast, message, death])]},
        {1, stop, [elements([kill, shutdown, crash])]},
        {2, start, []},
        {1, elements([close, replace]), []}
    ];
common(two, Processes) ->
    [{3, die, [vector(1, range(1, Processes)), way_to_die()]}, {1, unknown, [elements([call, cast, message, death])]}].

way_to_die() ->
    elements([normal, crash, kill]).

operations(tracker, one, Name, Process) ->
    [{6, track_self, [Name, Process]}, {2, counts, []} | operations(tracker, two, Name, Process)];
operations(tracker, two, Name, Process) ->
    [{10, track, [Name, Process]}, {6, count, [Name]}, {4, names, [Process]}];
operations(monitor, one, Name, Process) ->
    [{4, map, [Process, elements([returns, raises, throws, exits, is_killed])]} | operations(monitor, two, Name, Process)];
operations(monitor, two, _Name, Process) ->
    [{10, register, [Process]}, {6, registered_count, []}, {4, is_mapped, [Process]}].

precondition(_State, _Call) ->
    true.

postcondition(State, Call, Answer) ->
    explained(State, Call, Answer) =/= [].

%% Which operations follow does not depend on the answers, that are still unknown when they are chosen.
next_state(State, {var, _}, _Call) ->
    State;
next_state(State, Answer, Call) ->
    State#{worlds := explained(State, Call, Answer)}.

%% The worlds after an operation that gave this answer.
explained(#{way := Way, worlds := Worlds}, {call, ?MODULE, Operation, Arguments}, Answer) ->
    Before = distinct(lists:flatmap(fun(World) -> cleaned(Way, World) end, Worlds)),
    distinct([After || World <- Before, {Expected, After} <- [answer(list_to_tuple([Operation | Arguments]), World)], Expected =:= Answer]).

distinct(Worlds) ->
    maps:keys(maps:from_keys(Worlds, world)).

%% The model

%% What an operation answers, and the world after it.
answer({track, Name, Process}, World) ->
    tracked(Name, Process, World);
answer({track_self, _Name, Process}, World) when not is_integer(Process); is_map_key(Process, map_get(dead, World)) ->
    {dead, World};
answer({track_self, Name, Process}, World) ->
    tracked(Name, Process, World);
answer({Operation, Process}, World) when not is_integer(Process), Operation =:= names orelse Operation =:= register ->
    {badarg, World};
answer({Operation, _}, #{is_open := false} = World) when Operation =:= count; Operation =:= names ->
    {badarg, World};
answer({counts}, #{is_open := false} = World) ->
    {badarg, World};
answer({count, Name}, #{registrations := Registrations} = World) ->
    Term = name(Name, World),
    {map_size(maps:filter(fun({_, Other}, _) -> Other =:= Term end, Registrations)), World};
answer({names, Process}, #{registrations := Registrations} = World) ->
    {as_set([Name || {Other, Name} <- maps:keys(Registrations), Other =:= Process]), World};
answer({counts}, #{registrations := Registrations} = World) ->
    Counts = maps:groups_from_list(fun({_, Name}) -> Name end, maps:keys(Registrations)),
    {as_set([{Name, length(Pairs)} || {Name, Pairs} <- maps:to_list(Counts)]), World};
answer({Operation, _}, #{is_running := false} = World) when Operation =:= register ->
    {{exit, noproc}, World};
answer({registered_count}, #{is_running := false} = World) ->
    {{exit, noproc}, World};
answer({register, Process}, World) ->
    {ok, registered({Process, worker}, World)};
answer({registered_count}, #{registrations := Registrations} = World) ->
    {lists:sum(maps:values(Registrations)), World};
answer({map, Process, _}, #{mapped := Mapped} = World) ->
    {ok, World#{mapped := Mapped#{Process => mapped}}};
answer({is_mapped, Process}, #{mapped := Mapped} = World) ->
    {is_map_key(Process, Mapped), World};
answer({die, Processes, _}, #{dead := Dead} = World) ->
    {ok, World#{dead := maps:merge(Dead, maps:from_keys(Processes, dead))}};
answer({unknown, call}, #{is_running := false} = World) ->
    {{exit, noproc}, World};
answer({unknown, call}, World) ->
    {unknown, World};
answer({unknown, _}, World) ->
    {ok, World};
answer({start}, #{is_running := true} = World) ->
    {already_started, World};
answer({start}, World) ->
    {started, World#{is_open := true, is_running := true}};
answer({stop, _}, World) ->
    {ok, World#{is_running := false}};
answer({close}, World) ->
    {ok, World#{is_open := false, is_running := false, registrations := #{}}};
answer({replace}, World) ->
    {started, World#{is_open := true, is_running := true, registrations := #{}}}.

%% The second part of the answer are the names that the backend was told of, by the caller.
tracked(_Name, Process, #{is_open := IsOpen} = World) when not is_integer(Process); not IsOpen ->
    {{badarg, []}, World};
tracked(Name, Process, #{registrations := Registrations} = World) ->
    case name(Name, World) of
        Term when is_map_key({Process, Term}, Registrations) -> {{ok, []}, World};
        {raises, 1, throw, Reason} = Term -> {{{error, {nocatch, Reason}}, [Term]}, World};
        {raises, 1, _, Reason} = Term -> {{{error, Reason}, [Term]}, World};
        Term -> {{ok, [Term]}, registered({Process, Term}, World)}
    end.

registered(Registration, #{registrations := Registrations} = World) ->
    World#{registrations := maps:update_with(Registration, fun(Times) -> Times + 1 end, 1, Registrations)}.

name(Name, #{names := Names}) ->
    lists:nth(Name, Names).

%% What the world may have become since, as the dead are cleaned up: all of it is done, or any part.
cleaned(_Way, #{is_running := false} = World) ->
    [World];
cleaned(Way, #{registrations := Registrations, dead := Dead} = World) ->
    OfDead = [{Registration, Times} || {{Process, _} = Registration, Times} <- maps:to_list(Registrations), is_map_key(Process, Dead)],
    lists:foldl(
        fun({Registration, Times}, Worlds) ->
            Left = case Way of one -> [0]; two -> lists:seq(0, Times) end,
            [left(Registration, Count, Times, Before) || Before <- Worlds, Count <- Left]
        end,
        [World],
        OfDead
    ).

left(_Registration, Times, Times, World) ->
    World;
left({Process, _} = Registration, Count, _Times, #{registrations := Registrations, mapped := Mapped} = World) ->
    Left = case Count of 0 -> maps:remove(Registration, Registrations); _ -> Registrations#{Registration := Count} end,
    World#{registrations := Left, mapped := maps:remove(Process, Mapped)}.

%% In any order, and none twice.
as_set(List) ->
    {length(List), maps:from_keys(List, in)}.

%% The operations

track(Name, Process) ->
    settled(fun() -> track(name(Name), Process, fun(Term) -> metrics_process_tracker:track(Term, pid(Process)) end) end).

track_self(Name, Process) ->
    Term = name(Name),
    settled(fun() -> ask(pid(Process), fun() -> track(Term, Process, fun metrics_process_tracker:track/1) end) end).

track(Term, Process, Track) ->
    Answer = outcome(fun() -> Track(Term) end),
    Told = case erase(told) of undefined -> []; Terms -> Terms end,
    _ = [owe(Process, Term) || Answer =:= ok, _ <- Told],
    {Answer, Told}.

count(Name) ->
    outcome(fun() -> metrics_process_tracker:count(name(Name)) end).

names(Process) ->
    outcome(fun() -> as_set(metrics_process_tracker:names(pid(Process))) end).

counts() ->
    outcome(fun() -> as_set(metrics_process_tracker:counts()) end).

register(Process) ->
    settled(fun() ->
        Answer = outcome(fun() -> stats_hero_monitor:register(pid(Process)) end),
        _ = [owe(Process, Process) || Answer =:= ok],
        Answer
    end).

registered_count() ->
    outcome(fun stats_hero_monitor:registered_count/0).

map(Process, Ending) ->
    stats_hero:map(Process, pid(Process), cleaning(Process, Ending)).

is_mapped(Process) ->
    stats_hero:find_worker(Process) =/= undefined.

die(Processes, Way) ->
    settled(fun() ->
        Pids = [pid(Process) || Process <- Processes],
        Monitors = [monitor(process, Pid) || Pid <- Pids],
        lists:foreach(fun(Pid) -> end_of(Pid, Way) end, Pids),
        lists:foreach(fun(Monitor) -> receive {'DOWN', Monitor, process, _, _} -> ok end end, Monitors)
    end).

end_of(Pid, kill) -> exit(Pid, kill);
end_of(Pid, Reason) -> Pid ! {exit, Reason}.

unknown(call) ->
    case outcome(fun() -> gen_server:call(server(), {anything, self()}) end) of
        Answer when Answer =:= bad_call; Answer =:= unhandled -> unknown;
        Exit -> Exit
    end;
unknown(cast) ->
    gen_server:cast(server(), {anything, self()});
unknown(message) ->
    send({anything, self()});
unknown(death) ->
    send({'DOWN', make_ref(), process, pid(1), killed}).

send(Message) ->
    _ = [Server ! Message || Server <- [whereis(server())], is_pid(Server)],
    ok.

start() ->
    settled(fun() ->
        is_process_alive(owner()) orelse new_owner(),
        Server = server(),
        case ask(owner(), fun Server:start_link/0) of
            {ok, Pid} when is_pid(Pid) -> started;
            {error, {already_started, Pid}} when is_pid(Pid) -> already_started
        end
    end).

stop(Reason) ->
    _ = [end_by(Server, Reason) || Server <- [whereis(server())], is_pid(Server)],
    ok.

%% That the table is gone nobody tells.
close() ->
    end_owner(),
    server() =:= stats_hero_monitor orelse
        tracked_process:eventually(fun() -> badarg =:= outcome(fun metrics_process_tracker:counts/0) end),
    ok.

replace() ->
    end_owner(),
    start().

end_owner() ->
    Server = whereis(server()),
    end_by(owner(), kill),
    is_pid(Server) andalso await_end(Server),
    ets:match_delete(?TABLE, {owed, '_', '_', '_'}).

end_by(Pid, Reason) ->
    exit(Pid, Reason),
    await_end(Pid).

await_end(Pid) ->
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end.

%% The classes of errors, as the model knows them.
outcome(Operation) ->
    try
        Operation()
    catch
        error:badarg -> badarg;
        exit:{Reason, {gen_server, call, _}} -> {exit, Reason}
    end.

%% The backend of metrics

new(Type, Name, Config) ->
    ledger_backend:new(Type, Name, Config).

update(Name, {c, 1} = Probe, Config) ->
    let_others_in(),
    put(told, [Name | case get(told) of undefined -> []; Told -> Told end]),
    ledger_backend:update(Name, Probe, Config);
update(Name, {c, -1} = Probe, Config) ->
    tell_cleaned(Name),
    ledger_backend:update(Name, Probe, Config).

update_or_create(Name, Probe, _Type, Config) ->
    update(Name, Probe, Config).

delete(Name, Config) ->
    ledger_backend:delete(Name, Config).

%% What a cleanup of stats_hero does. The worker has another mapping then, so that the next one is told of, too.
cleaning(Process, Ending) ->
    fun(Remove) ->
        Remove(),
        ok = stats_hero:map({cleaned, Process}, pid(Process), cleaning(Process, returns)),
        tell_cleaned(Process),
        ending(Ending)
    end.

ending(returns) -> ok;
ending(raises) -> error(cleanup_failed);
ending(throws) -> throw(cleanup_failed);
ending(exits) -> exit(normal);
ending(is_killed) -> exit(self(), kill).

%% The surroundings of a history

open(#{kind := Kind, processes := Processes, names := Names, way := Way}) ->
    Server = case Kind of tracker -> metrics_process_tracker; monitor -> stats_hero_monitor end,
    ?TABLE = ets:new(?TABLE, [named_table, public, duplicate_bag]),
    Pids = [{{process, Process}, spawn(fun process/0)} || Process <- lists:seq(1, Processes)],
    true = ets:insert(?TABLE, [{names, Names}, {way, Way}, {server, Server}, {test, self()} | Pids]),
    ok = stats_hero:new_table(),
    [ok = map(Process, returns) || Process <- lists:seq(1, Processes)],
    new_owner(),
    started = start().

close_all() ->
    end_owner(),
    [exit(Pid, kill) || [Pid] <- ets:match(?TABLE, {{process, '_'}, '$1'})],
    true = ets:delete(stats_hero_workers),
    true = ets:delete(?TABLE),
    _ = more_cleanups(),
    ok.

%% When all of the processes are dead, every cleanup that was due was done, and none besides.
leaves_nothing(#{kind := Kind, processes := Processes}) ->
    _ = start(),
    die(lists:seq(1, Processes), kill) =:= ok andalso is_settled() andalso is_empty(Kind) andalso more_cleanups() =:= [].

is_empty(tracker) -> counts() =:= as_set([]);
is_empty(monitor) -> registered_count() =:= 0.

more_cleanups() ->
    receive
        {cleaned, Key, _} -> [Key | more_cleanups()]
    after 0 -> []
    end.

new_owner() ->
    Test = self(),
    Owner = spawn(fun() -> process_flag(trap_exit, true), Test ! {owner, self()}, process() end),
    receive {owner, Owner} -> ok end,
    ets:delete(?TABLE, owner),
    ets:insert(?TABLE, {owner, Owner}).

process() ->
    receive
        {run, From, Run} -> From ! {ran, self(), Run()}, process();
        {exit, Reason} -> exit(Reason);
        {'EXIT', _, _} -> process()
    end.

ask(Pid, Run) when is_pid(Pid) ->
    Monitor = monitor(process, Pid),
    Pid ! {run, self(), Run},
    receive
        {ran, Pid, Answer} -> demonitor(Monitor, [flush]), Answer;
        {'DOWN', Monitor, process, Pid, _} -> dead
    end;
ask(_NoPid, _Run) ->
    dead.

pid(Process) when is_integer(Process) -> looked_up({process, Process});
pid(NoPid) -> NoPid.

name(Name) -> lists:nth(Name, looked_up(names)).
server() -> looked_up(server).
owner() -> looked_up(owner).

looked_up(Key) ->
    [{Key, Value}] = ets:lookup(?TABLE, Key),
    Value.

%% What is due

owe(Process, Key) ->
    ets:insert(?TABLE, {owed, Process, Key, make_ref()}).

tell_cleaned(Key) ->
    let_others_in(),
    looked_up(test) ! {cleaned, Key, self()}.

%% In the middle of what should be one step to them.
let_others_in() ->
    lists:foreach(fun(_) -> erlang:yield() end, lists:seq(1, rand:uniform(20))).

%% In the history of one process the answer of an operation comes when all is done that is due then.
settled(Operation) ->
    Answer = Operation(),
    case looked_up(way) =:= two orelse is_settled() of
        true -> Answer;
        false -> {not_cleaned_up, Answer}
    end.

is_settled() ->
    Due = [Owed || {owed, Process, _, _} = Owed <- ets:lookup(?TABLE, owed), not is_process_alive(pid(Process))],
    whereis(server()) =:= undefined orelse lists:all(fun settle/1, Due) andalso is_through(server(), Due).

settle({owed, _, Key, _} = Owed) ->
    receive
        {cleaned, Key, Cleaner} -> ets:delete_object(?TABLE, Owed) andalso await_end(Cleaner) =:= ok
    after patience() -> false
    end.

%% A cleaner that fails is followed by the reaper, which then does what is left to do. A monitor answers only after that.
is_through(stats_hero_monitor, _Due) ->
    true;
is_through(metrics_process_tracker, Due) ->
    IsGone = fun({owed, Process, _, _}) -> metrics_process_tracker:names(pid(Process)) =:= [] end,
    Looks = lists:seq(1, patience() div 3),
    lists:any(fun(_) -> lists:all(IsGone, Due) orelse receive after 1 -> false end end, Looks).

%% How long something is waited for that does not come, in milliseconds: less when a history that has failed is shrunk.
patience() ->
    case get(failed) of undefined -> 10000; _ -> 300 end.
