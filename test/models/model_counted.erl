%% Compares metrics_process_tracker and stats_hero_monitor with models, by random histories of
%% operations. One process, or two at once, make the operations. Each result must be that of the
%% model: every value, and every class of errors.
%%
%% A model is the contract as a plain map. `answer/2` returns the result of an operation and the
%% next model. It is a second, simple implementation.
%%
%% The library cleans up after dead processes on its own, and each cleanup sends the test a message.
%% In a sequential history, each operation waits until all cleanups that are due are done. In a
%% concurrent one, a registration of a dead process may disappear at any moment; so the state holds
%% all models that explain the results so far. Some order of the concurrent operations must explain
%% all results.
-module(model_counted).

-export([round/1, replay/1, check/1, setup/2]).
-export([command/1, initial_state/0, precondition/2, postcondition/3, next_state/3]).
-export([track/2, track_self/2, count/1, names/1, counts/0]).
-export([register/1, registered_count/0, map/2, is_mapped/1]).
-export([die/2, unknown/1, start/0, stop/1, close/0, replace/0]).
-export([new/3, update/3, update_or_create/4, delete/2]).

-import(proper_types, [elements/1, frequency/1, range/2, vector/2]).

%% Holds the processes of the running history, and the cleanups that its registrations require.
-define(TABLE, ?MODULE).
%% How often a concurrent history is run, and how often it is run again after it has failed.
-define(TIMES, 5).
-define(TIMES_AGAIN, 100).
%% The time limit for shrinking a failure, in seconds.
-define(SHRINKING, 20).

%% Rounds

-spec round(integer()) -> {ok, #{atom() => non_neg_integer()}} | {failed, term()}.
round(Seed) ->
    rand:seed(exsss, Seed),
    check([
        setup(Kind, Mode)
     || _ <- lists:seq(1, 50), Kind <- [tracker, monitor], Mode <- [sequential, concurrent]
    ]).

%% Checks a random history for each setup.
check(Setups) ->
    with_services(fun() -> check_all(Setups) end).

check_all([]) ->
    {ok, erase(figures)};
check_all([#{seed := Seed, size := Size} = Setup | Setups]) ->
    Property = proper:forall(commands(Setup), fun(Commands) -> passes(Setup, Commands, ?TIMES) end),
    Seeded = proper:setup(
        fun() ->
            proper_arith:rand_restart(Seed),
            fun() -> ok end
        end,
        Property
    ),
    Options = [quiet, long_result, {numtests, 1}, {start_size, Size}, {max_size, Size}],
    case proper:quickcheck(Seeded, Options) of
        true -> check_all(Setups);
        [Commands] -> {failed, {Setup, Commands}}
    end.

%% Runs a failed history again, in its shrunk form.
-spec replay(term()) -> {ok, #{atom() => non_neg_integer()}} | {failed, term()}.
replay({Setup, Commands}) ->
    with_services(fun() ->
        case passes(Setup, Commands, ?TIMES_AGAIN) of
            true -> {ok, erase(figures)};
            false -> {failed, {Setup, Commands}}
        end
    end).

%% Draws a few processes and names, some of which are easily confused.
setup(Kind, Mode) ->
    Terms = prop_terms:alike() ++ prop_terms:kinds(),
    Failing = [
        {raises, 1, error, up},
        {raises, 1, exit, up},
        {raises, 1, throw, up},
        {raises, -1, error, down},
        {answers, {error, up}}
    ],
    Twins = random(twins()),
    %% Two processes at once need few processes and names to interfere, and few models to explain
    %% the results.
    {Processes, Names, Size} =
        case Mode of
            sequential ->
                {8, [random(Failing), random(Terms) | Twins], 60};
            concurrent ->
                Pair = lists:sublist(Twins, rand:uniform(length(Twins) - 1), 2),
                {2, [random(Failing ++ Terms) | Pair], 12}
        end,
    #{
        kind => Kind,
        mode => Mode,
        processes => Processes,
        names => Names,
        seed => {rand:uniform(1 bsl 27), rand:uniform(1 bsl 27), rand:uniform(1 bsl 27)},
        size => Size
    }.

%% Returns lists of terms that are nearly equal.
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

random(List) ->
    lists:nth(rand:uniform(length(List)), List).

commands(#{mode := sequential} = Setup) -> proper_statem:commands(?MODULE, state(Setup));
commands(#{mode := concurrent} = Setup) -> proper_statem:parallel_commands(?MODULE, state(Setup)).

passes(#{mode := sequential} = Setup, Commands, _Times) ->
    run_once(Setup, Commands, fun proper_statem:run_commands/2);
passes(#{mode := concurrent} = Setup, Commands, Times) ->
    lists:all(
        fun(_) -> run_once(Setup, Commands, fun proper_statem:run_parallel_commands/2) end,
        lists:seq(1, Times)
    ).

%% After the time for shrinking, every history passes, which ends it.
run_once(Setup, Commands, Run) ->
    case get(failed) of
        Failed when is_integer(Failed) ->
            erlang:monotonic_time(second) > Failed + ?SHRINKING orelse
                is_as_modelled(Setup, Commands, Run);
        undefined ->
            is_as_modelled(Setup, Commands, Run) orelse note_failure()
    end.

note_failure() ->
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
    put(figures, #{
        histories => Histories + 1,
        operations => Operations + length(Calls),
        deaths => Deaths + length(Died)
    }).

calls({First, Parallel}) -> lists:flatmap(fun calls/1, [First | Parallel]);
calls(Commands) -> [Call || {set, _, Call} <- Commands].

%% Runs a fun with the services that histories use. Logs nothing, as many processes crash and
%% cleanups fail on purpose.
with_services(Run) ->
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

%% Callbacks of proper_statem

initial_state() ->
    state(setup(tracker, sequential)).

state(#{mode := Mode, processes := Processes, names := Names} = Setup) ->
    Mapped = maps:from_keys(lists:seq(1, Processes), mapped),
    Model = #{
        names => Names,
        is_open => true,
        is_running => true,
        dead => #{},
        registrations => #{},
        mapped => Mapped
    },
    #{setup => Setup, mode => Mode, models => [Model]}.

command(#{setup := #{kind := Kind, mode := Mode, processes := Processes, names := Names}}) ->
    Own = operations(Kind, Mode, range(1, length(Names)), process(Processes)),
    frequency([
        {Weight, {call, ?MODULE, Operation, Arguments}}
     || {Weight, Operation, Arguments} <- common(Mode, Processes) ++ Own
    ]).

%% Some arguments are not processes.
process(Processes) ->
    frequency([
        {15, range(1, Processes)},
        {1, elements([no_pid, <<"<0.1.0>">>, "<0.1.0>", [], 1.0, #{}])}
    ]).

common(sequential, Processes) ->
    [
        {3, die, [vector(2, range(1, Processes)), death()]},
        {2, unknown, [elements([call, cast, message, death])]},
        {1, stop, [elements([kill, shutdown, crash])]},
        {2, start, []},
        {1, elements([close, replace]), []}
    ];
common(concurrent, Processes) ->
    [
        {3, die, [vector(1, range(1, Processes)), death()]},
        {1, unknown, [elements([call, cast, message, death])]}
    ].

death() ->
    elements([normal, crash, kill]).

operations(tracker, sequential, Name, Process) ->
    [
        {6, track_self, [Name, Process]},
        {2, counts, []}
        | operations(tracker, concurrent, Name, Process)
    ];
operations(tracker, concurrent, Name, Process) ->
    [{10, track, [Name, Process]}, {6, count, [Name]}, {4, names, [Process]}];
operations(monitor, sequential, Name, Process) ->
    [
        {4, map, [Process, elements([returns, raises, throws, exits, is_killed])]}
        | operations(monitor, concurrent, Name, Process)
    ];
operations(monitor, concurrent, _Name, Process) ->
    [{10, register, [Process]}, {6, registered_count, []}, {4, is_mapped, [Process]}].

precondition(_State, _Call) ->
    true.

postcondition(State, Call, Answer) ->
    explained(State, Call, Answer) =/= [].

%% The generator does not depend on results, which are unknown when it runs.
next_state(State, {var, _}, _Call) ->
    State;
next_state(State, Answer, Call) ->
    State#{models := explained(State, Call, Answer)}.

%% Returns the models after an operation that returned this result.
explained(#{mode := Mode, models := Models}, {call, ?MODULE, Operation, Arguments}, Answer) ->
    Before = distinct(lists:flatmap(fun(Model) -> after_cleanups(Mode, Model) end, Models)),
    distinct([
        After
     || Model <- Before,
        {Expected, After} <- [answer(list_to_tuple([Operation | Arguments]), Model)],
        Expected =:= Answer
    ]).

distinct(Models) ->
    maps:keys(maps:from_keys(Models, model)).

%% The model

%% Returns the result of an operation, and the next model.
answer({track, Name, Process}, Model) ->
    tracked(Name, Process, Model);
answer({track_self, _Name, Process}, #{dead := Dead} = Model) when
    not is_integer(Process); is_map_key(Process, Dead)
->
    {dead, Model};
answer({track_self, Name, Process}, Model) ->
    tracked(Name, Process, Model);
answer({Operation, Process}, Model) when
    not is_integer(Process), Operation =:= names orelse Operation =:= register
->
    {badarg, Model};
answer({Operation, _}, #{is_open := false} = Model) when Operation =:= count; Operation =:= names ->
    {badarg, Model};
answer({counts}, #{is_open := false} = Model) ->
    {badarg, Model};
answer({count, Name}, #{registrations := Registrations} = Model) ->
    Term = name(Name, Model),
    {map_size(maps:filter(fun({_, Other}, _) -> Other =:= Term end, Registrations)), Model};
answer({names, Process}, #{registrations := Registrations} = Model) ->
    {as_set([Name || {Other, Name} <- maps:keys(Registrations), Other =:= Process]), Model};
answer({counts}, #{registrations := Registrations} = Model) ->
    Counts = maps:groups_from_list(fun({_, Name}) -> Name end, maps:keys(Registrations)),
    {as_set([{Name, length(Pairs)} || {Name, Pairs} <- maps:to_list(Counts)]), Model};
answer({register, _}, #{is_running := false} = Model) ->
    {{exit, noproc}, Model};
answer({registered_count}, #{is_running := false} = Model) ->
    {{exit, noproc}, Model};
answer({register, Process}, Model) ->
    {ok, registered({Process, worker}, Model)};
answer({registered_count}, #{registrations := Registrations} = Model) ->
    {lists:sum(maps:values(Registrations)), Model};
answer({map, Process, _}, #{mapped := Mapped} = Model) ->
    {ok, Model#{mapped := Mapped#{Process => mapped}}};
answer({is_mapped, Process}, #{mapped := Mapped} = Model) ->
    {is_map_key(Process, Mapped), Model};
answer({die, Processes, _}, #{dead := Dead} = Model) ->
    {ok, Model#{dead := maps:merge(Dead, maps:from_keys(Processes, dead))}};
answer({unknown, call}, #{is_running := false} = Model) ->
    {{exit, noproc}, Model};
answer({unknown, call}, Model) ->
    {unknown, Model};
answer({unknown, _}, Model) ->
    {ok, Model};
answer({start}, #{is_running := true} = Model) ->
    {already_started, Model};
answer({start}, Model) ->
    {started, Model#{is_open := true, is_running := true}};
answer({stop, _}, Model) ->
    {ok, Model#{is_running := false}};
answer({close}, Model) ->
    {ok, Model#{is_open := false, is_running := false, registrations := #{}}};
answer({replace}, Model) ->
    {started, Model#{is_open := true, is_running := true, registrations := #{}}}.

%% The result of the function, and the names that the calling process has counted up in the backend.
tracked(_Name, Process, #{is_open := IsOpen} = Model) when not is_integer(Process); not IsOpen ->
    {{badarg, []}, Model};
tracked(Name, Process, #{registrations := Registrations} = Model) ->
    case name(Name, Model) of
        Term when is_map_key({Process, Term}, Registrations) -> {{ok, []}, Model};
        {raises, 1, throw, Reason} = Term -> {{{error, {nocatch, Reason}}, [Term]}, Model};
        {raises, 1, _, Reason} = Term -> {{{error, Reason}, [Term]}, Model};
        Term -> {{ok, [Term]}, registered({Process, Term}, Model)}
    end.

registered(Registration, #{registrations := Registrations} = Model) ->
    More = maps:update_with(Registration, fun(Times) -> Times + 1 end, 1, Registrations),
    Model#{registrations := More}.

name(Name, #{names := Names}) ->
    lists:nth(Name, Names).

%% Returns the models that cleanups may lead to: after all of them, or after any of them in a
%% concurrent history.
after_cleanups(_Mode, #{is_running := false} = Model) ->
    [Model];
after_cleanups(Mode, #{registrations := Registrations, dead := Dead} = Model) ->
    OfDead = [
        {Registration, Times}
     || {{Process, _} = Registration, Times} <- maps:to_list(Registrations),
        is_map_key(Process, Dead)
    ],
    CleanUp = fun({Registration, Times}, Models) ->
        [
            with_count(Registration, Count, Times, Before)
         || Before <- Models, Count <- possible_counts(Mode, Times)
        ]
    end,
    lists:foldl(CleanUp, [Model], OfDead).

possible_counts(sequential, _) -> [0];
possible_counts(concurrent, Times) -> lists:seq(0, Times).

%% A registration counts less after each of its cleanups, which remove the mapping, too.
with_count(_Registration, Times, Times, Model) ->
    Model;
with_count({Process, _} = Registration, Count, _Times, Model) ->
    #{registrations := Registrations, mapped := Mapped} = Model,
    Left =
        case Count of
            0 -> maps:remove(Registration, Registrations);
            _ -> Registrations#{Registration := Count}
        end,
    Model#{registrations := Left, mapped := maps:remove(Process, Mapped)}.

%% Represents a list without its order, so that a repeated element shows.
as_set(List) ->
    {length(List), maps:from_keys(List, in)}.

%% Operations

track(Name, Process) ->
    settled(fun() ->
        track(name(Name), Process, fun(Term) ->
            metrics_process_tracker:track(Term, pid(Process))
        end)
    end).

track_self(Name, Process) ->
    Term = name(Name),
    settled(fun() ->
        ask(pid(Process), fun() -> track(Term, Process, fun metrics_process_tracker:track/1) end)
    end).

track(Term, Process, Track) ->
    Answer = outcome(fun() -> Track(Term) end),
    CountedUp = counted_up(erase(counted_up)),
    _ = [expect_cleanup(Process, Term) || Answer =:= ok, _ <- CountedUp],
    {Answer, CountedUp}.

count(Name) ->
    outcome(fun() -> metrics_process_tracker:count(name(Name)) end).

names(Process) ->
    outcome(fun() -> as_set(metrics_process_tracker:names(pid(Process))) end).

counts() ->
    outcome(fun() -> as_set(metrics_process_tracker:counts()) end).

register(Process) ->
    settled(fun() ->
        Answer = outcome(fun() -> stats_hero_monitor:register(pid(Process)) end),
        _ = [expect_cleanup(Process, Process) || Answer =:= ok],
        Answer
    end).

registered_count() ->
    outcome(fun stats_hero_monitor:registered_count/0).

map(Process, Ending) ->
    stats_hero:map(Process, pid(Process), cleanup(Process, Ending)).

is_mapped(Process) ->
    stats_hero:find_worker(Process) =/= undefined.

die(Processes, Death) ->
    settled(fun() ->
        Pids = [pid(Process) || Process <- Processes],
        Monitors = [monitor(process, Pid) || Pid <- Pids],
        lists:foreach(fun(Pid) -> end_process(Pid, Death) end, Pids),
        lists:foreach(fun await_down/1, Monitors)
    end).

await_down(Monitor) ->
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end.

end_process(Pid, kill) -> exit(Pid, kill);
end_process(Pid, Reason) -> Pid ! {exit, Reason}.

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
    until_settled(fun() ->
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

%% Removing the table sends no message.
close() ->
    end_owner(),
    server() =:= stats_hero_monitor orelse
        tracked_process:eventually(fun() ->
            badarg =:= outcome(fun metrics_process_tracker:counts/0)
        end),
    ok.

replace() ->
    end_owner(),
    start().

end_owner() ->
    Server = whereis(server()),
    end_by(owner(), kill),
    is_pid(Server) andalso await_end(Server),
    ets:match_delete(?TABLE, {cleanup_due, '_', '_', '_'}).

end_by(Pid, Reason) ->
    exit(Pid, Reason),
    await_end(Pid).

await_end(Pid) ->
    await_down(monitor(process, Pid)).

%% Returns the result of a call, or its error in the form of the model.
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
    yield_randomly(),
    put(counted_up, [Name | counted_up(get(counted_up))]),
    ledger_backend:update(Name, Probe, Config);
update(Name, {c, -1} = Probe, Config) ->
    report_cleanup(Name),
    ledger_backend:update(Name, Probe, Config).

counted_up(undefined) -> [];
counted_up(Names) -> Names.

update_or_create(Name, Probe, _Type, Config) ->
    update(Name, Probe, Config).

delete(Name, Config) ->
    ledger_backend:delete(Name, Config).

%% Returns a cleanup for stats_hero. It maps the worker again, so that a second cleanup is reported,
%% too.
cleanup(Process, Ending) ->
    fun(Remove) ->
        Remove(),
        ok = stats_hero:map({cleaned, Process}, pid(Process), cleanup(Process, returns)),
        report_cleanup(Process),
        ending(Ending)
    end.

ending(returns) -> ok;
ending(raises) -> error(cleanup_failed);
ending(throws) -> throw(cleanup_failed);
ending(exits) -> exit(normal);
ending(is_killed) -> exit(self(), kill).

%% Services of a history

open(#{kind := Kind, processes := Processes, names := Names, mode := Mode}) ->
    ?TABLE = ets:new(?TABLE, [named_table, public, duplicate_bag]),
    Pids = [{{process, Process}, spawn(fun process/0)} || Process <- lists:seq(1, Processes)],
    true = ets:insert(?TABLE, [
        {names, Names},
        {mode, Mode},
        {server, counting:server(Kind)},
        {reaper, counting:reaper(Kind)},
        {test, self()}
        | Pids
    ]),
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

%% Whether each cleanup that was due was done, and no other, after all processes have died.
leaves_nothing(#{kind := Kind, processes := Processes}) ->
    _ = start(),
    die(lists:seq(1, Processes), kill) =:= ok andalso
        is_settled() andalso
        is_empty(Kind) andalso
        more_cleanups() =:= [].

is_empty(tracker) -> counts() =:= as_set([]);
is_empty(monitor) -> registered_count() =:= 0.

more_cleanups() ->
    receive
        {cleaned, Key, _} -> [Key | more_cleanups()]
    after 0 -> []
    end.

new_owner() ->
    Test = self(),
    Owner = spawn(fun() ->
        process_flag(trap_exit, true),
        Test ! {owner, self()},
        process()
    end),
    receive
        {owner, Owner} -> ok
    end,
    ets:delete(?TABLE, owner),
    ets:insert(?TABLE, {owner, Owner}).

process() ->
    receive
        {run, From, Run} ->
            From ! {ran, self(), Run()},
            process();
        {exit, Reason} ->
            exit(Reason);
        {'EXIT', _, _} ->
            process()
    end.

ask(Pid, Run) when is_pid(Pid) ->
    Monitor = monitor(process, Pid),
    Pid ! {run, self(), Run},
    receive
        {ran, Pid, Answer} ->
            demonitor(Monitor, [flush]),
            Answer;
        {'DOWN', Monitor, process, Pid, _} ->
            dead
    end;
ask(_NoPid, _Run) ->
    dead.

pid(Process) when is_integer(Process) -> lookup({process, Process});
pid(NoPid) -> NoPid.

name(Name) -> lists:nth(Name, lookup(names)).
server() -> lookup(server).
reaper() -> lookup(reaper).
owner() -> lookup(owner).

lookup(Key) ->
    [{Key, Value}] = ets:lookup(?TABLE, Key),
    Value.

%% Cleanups

expect_cleanup(Process, Key) ->
    ets:insert(?TABLE, {cleanup_due, Process, Key, make_ref()}).

report_cleanup(Key) ->
    yield_randomly(),
    lookup(test) ! {cleaned, Key, self()}.

%% Lets other processes run in the middle of an operation that should be atomic for them.
yield_randomly() ->
    lists:foreach(fun(_) -> erlang:yield() end, lists:seq(1, rand:uniform(20))).

%% Like `until_settled/1', for an operation that makes cleanups due: without a server, the earlier
%% reaper would make them if it has not ended yet.
settled(Operation) ->
    whereis(server()) =/= undefined orelse await_end(reaper()),
    until_settled(Operation).

%% Returns the result of an operation; in a sequential history once all cleanups that are due are
%% done.
until_settled(Operation) ->
    Answer = Operation(),
    case lookup(mode) =:= concurrent orelse is_settled() of
        true -> Answer;
        false -> {not_cleaned_up, Answer}
    end.

is_settled() ->
    Due = [
        Cleanup
     || {cleanup_due, Process, _, _} = Cleanup <- ets:lookup(?TABLE, cleanup_due),
        not is_process_alive(pid(Process))
    ],
    whereis(server()) =:= undefined orelse
        (lists:all(fun await_cleanup/1, Due) andalso is_forgotten(server(), Due)).

await_cleanup({cleanup_due, _, Key, _} = Cleanup) ->
    receive
        {cleaned, Key, Cleaner} ->
            ets:delete_object(?TABLE, Cleanup) andalso await_end(Cleaner) =:= ok
    after time_limit() -> false
    end.

%% When a cleaner fails, the reaper completes its work. A monitor answers only after that.
is_forgotten(stats_hero_monitor, _Due) ->
    true;
is_forgotten(metrics_process_tracker, Due) ->
    IsGone = fun({cleanup_due, Process, _, _}) ->
        metrics_process_tracker:names(pid(Process)) =:= []
    end,
    IsDone = fun(_) -> lists:all(IsGone, Due) orelse wait_a_millisecond() end,
    lists:any(IsDone, lists:seq(1, time_limit() div 3)).

wait_a_millisecond() ->
    receive
    after 1 -> false
    end.

%% The time limit for cleanups in ms. It is shorter while a failure is shrunk.
time_limit() ->
    case get(failed) of
        undefined -> 10000;
        _ -> 300
    end.
