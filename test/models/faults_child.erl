%% Children of a system under faults (`faults`), which enter their starts and ends in the books
%% (`faults_books`).
%%
%% The number of a child determines its name and its spec. What a start does depends on the name
%% and on the number of its starts so far; so a start that fails may succeed later. All starts
%% succeed once the faults have ended.
%%
%% A spec has one of these manners:
%%
%% - `plain`: the child does not trap exits;
%% - `polite`: it traps exits, and exits at an exit signal;
%% - `slow`: it exits 5 ms after an exit signal;
%% - `deaf`: it ignores exit signals.
-module(faults_child).

-export([name/2, spec/2, start_link/3, init/4, die/1, existing/2, after_terminate/3]).
-export([remote/4, remote_loop/0]).

%% Names include pairs such as `1` and `1.0`, which are different.
name(Zone, Number) ->
    {Zone, lists:nth(1 + Number rem 3, [Number, float(Number - 1), <<Number:16>>])}.

spec(Zone, Number) ->
    Name = name(Zone, Number),
    Manner = pick(Name, manner, [plain, plain, polite, slow, deaf]),
    Start = pick(Name, start, [
        {?MODULE, start_link, [Zone, Name, Manner]},
        {?MODULE, start_link, [Zone, Name, Manner]},
        %% The module has no `after_terminate`.
        {proc_lib, start_link, [?MODULE, init, [Zone, Name, Manner, none]]}
    ]),
    Restart = pick(Name, restart, [permanent, transient, temporary]),
    {Name, Start, Restart, shutdown(Manner, Name), worker, [?MODULE]}.

shutdown(deaf, _) -> 20;
shutdown(slow, _) -> infinity;
shutdown(_, Name) -> pick(Name, shutdown, [brutal_kill, 200, 5000]).

pick(Name, What, Choices) ->
    lists:nth(1 + erlang:phash2({Name, What}, length(Choices)), Choices).

%% Starting

%% Starts a child as `faults_books:outcome/1` says. The keeper puts the id of the start into its
%% process dictionary, for `after_terminate/3`.
start_link(Zone, Name, Manner) ->
    Id = faults_books:new_id(),
    put(?MODULE, Id),
    Start = fun() -> proc_lib:start_link(?MODULE, init, [Zone, Name, Manner, Id]) end,
    case {faults_books:outcome(Name), faults_books:node()} of
        {remote, none} -> start(starts, Start);
        {remote, Node} -> {ok, remote(Node, Id, Zone, Name)};
        {Outcome, _} -> start(Outcome, Zone, Start)
    end.

%% Starts a child on another node, linked to the calling process.
remote(Node, Id, Zone, Name) ->
    Pid = spawn_link(Node, ?MODULE, remote_loop, []),
    faults_books:child_started(Id, Zone, Name, Pid),
    Pid.

remote_loop() ->
    loop(plain).

start(untraps, _, Start) ->
    misbehave(untrap, Start);
start(unlinks, _, Start) ->
    misbehave(unlink, Start);
start(flushes, _, Start) ->
    misbehave(flush, Start);
start(erases, _, Start) ->
    Id = get(?MODULE),
    Started = misbehave(erase, fun() ->
        put(?MODULE, Id),
        Start()
    end),
    put(?MODULE, Id),
    Started;
start(helps, Zone, Start) ->
    %% The helper survives the child.
    faults_books:add_helper(spawn_link(fun help/0), Zone),
    Start();
start(asks, Zone, Start) ->
    faults_load:call_from_callback(Zone),
    Start();
start(Outcome, _, Start) ->
    start(Outcome, Start).

%% Does to the keeper what foreign code may do, before and after the child starts.
misbehave(Misdeed, Start) ->
    _ = foreign_code:misbehave(Misdeed),
    Started = Start(),
    _ = foreign_code:misbehave(Misdeed),
    Started.

help() ->
    receive
        never -> ok
    end.

start(raises, _) ->
    error(raised);
start(throws, _) ->
    throw(thrown);
start(garbage, _) ->
    {garbage, self()};
start(no_pid, _) ->
    {ok, no_pid};
start(ignore, _) ->
    ignore;
start(refuses, _) ->
    {error, refused};
start(dies, _) ->
    proc_lib:start_link(?MODULE, die, [died]);
start(blocks, Start) ->
    faults_books:block(),
    Start();
start(dies_at_once, Start) ->
    {ok, Pid} = Start(),
    exit(Pid, kill),
    {ok, Pid};
start(starts, Start) ->
    Start().

die(Reason) ->
    exit(Reason).

%% Running

init(Zone, Name, Manner, none) ->
    faults_books:child_started(faults_books:new_id(), Zone, Name),
    run(Zone, Name, Manner, fun() -> ok end);
init(Zone, Name, Manner, Id) ->
    faults_books:child_started(Id, Zone, Name),
    run(Zone, Name, Manner, fun() -> faults_books:expect_after_terminate(Id, Zone) end).

run(Zone, Name, Manner, WhenFound) ->
    process_flag(trap_exit, Manner =/= plain),
    ok = gen_tracker:init_ack({ok, self()}),
    case is_found(Zone, Name) of
        true ->
            WhenFound(),
            set_attributes(Zone, Name),
            faults_load:track_self(),
            loop(Manner);
        false ->
            %% The keeper was killed or the zone ended before the child was registered.
            exit(shutdown)
    end.

is_found(Zone, Name) ->
    try gen_tracker:find(Zone, Name) of
        Found -> Found =:= {ok, self()}
    catch
        error:badarg -> false
    end.

set_attributes(Zone, Name) ->
    try
        Before = gen_tracker:getattr(Zone, Name, pid),
        %% Another zone may have been restarted since: the attribute is then that of its new child.
        [
            demo_books:wrong('a child has the attributes of the one before', {Name, Before})
         || Before =/= undefined, faults_books:is_stable(Zone)
        ],
        gen_tracker:setattr(Zone, Name, [{pid, self()}, {count, 0}])
    catch
        error:badarg -> ended;
        error:{void_setting, _, _, _} -> ended
    end.

loop(Manner) ->
    receive
        {stop, Reason} ->
            exit(Reason);
        {'EXIT', _, _} when Manner =:= deaf ->
            loop(Manner);
        {'EXIT', _, Reason} when Manner =:= slow ->
            receive
            after 5 -> exit(Reason)
            end;
        {'EXIT', _, Reason} ->
            exit(Reason);
        _ ->
            loop(Manner)
    end.

%% Starts a process that its caller is to add to a zone, under a name of its own. The caller
%% receives `{started, Pid}`. The process ends with its caller, unless it receives `{added, Form}`
%% before.
existing(Zone, Name) ->
    Caller = self(),
    spawn(fun() ->
        Monitor = monitor(process, Caller),
        Id = faults_books:new_id(),
        faults_books:child_started(Id, Zone, Name),
        Caller ! {started, self()},
        receive
            {added, Form} ->
                demonitor(Monitor, [flush]),
                [
                    faults_books:expect_after_terminate(Id, Zone)
                 || Form =:= full, is_found(Zone, Name)
                ],
                loop(plain);
            {'DOWN', Monitor, process, _, _} ->
                ok
        end
    end).

%% Ending

%% Called by the library. The name determines whether this raises, blocks or calls the zone.
after_terminate({Zone, _} = Name, Attributes, _Reason) ->
    faults_books:after_terminate_called(Name, id(Name, Attributes)),
    case erlang:phash2({last, Name}, 6) of
        0 -> error(raised);
        1 -> exit(left);
        2 -> faults_books:block();
        3 -> faults_load:call_from_callback(Zone);
        _ -> ok
    end.

%% A keeper that has taken over a child has no id: it did not call the start function.
id({Zone, _}, Attributes) ->
    case {get(?MODULE), lists:keyfind(pid, 1, Attributes)} of
        {undefined, {pid, Pid}} -> faults_books:id_of(Zone, Pid);
        {undefined, false} -> unknown;
        {Id, _} -> Id
    end.
