%% The children of a world that is tormented (`faults`), each with its entry in the books (`faults_books`).
%%
%% All that a child is follows from its number: its name, how it is restarted, stopped and started, and how it takes the end. How a start goes depends on how often that name has been
%% started before, too; so a start that fails may succeed later. As soon as there is peace, all starts succeed.
-module(faults_child).

-export([name/2, spec/2, start_link/3, init/4, die/1, loose/2, after_terminate/3]).
-export([far/4, live_far/0]).

%% `1' and `1.0' are two names.
name(Zone, Number) ->
    {Zone, lists:nth(1 + Number rem 3, [Number, float(Number - 1), <<Number:16>>])}.

spec(Zone, Number) ->
    Name = name(Zone, Number),
    Manner = pick(Name, manner, [plain, plain, polite, slow, deaf]),
    Start = pick(Name, start, [
        {?MODULE, start_link, [Zone, Name, Manner]},
        {?MODULE, start_link, [Zone, Name, Manner]},
        %% No module with an after_terminate.
        {proc_lib, start_link, [?MODULE, init, [Zone, Name, Manner, none]]}
    ]),
    Restart = pick(Name, restart, [permanent, transient, temporary]),
    {Name, Start, Restart, shutdown(Manner, Name), worker, [?MODULE]}.

shutdown(deaf, _) -> 20;
shutdown(slow, _) -> infinity;
shutdown(_, Name) -> pick(Name, shutdown, [brutal_kill, 200, 5000]).

pick(Name, What, Choices) ->
    lists:nth(1 + erlang:phash2({Name, What}, length(Choices)), Choices).

%% In the keeper, which knows from now on whose last words it calls.
start_link(Zone, Name, Manner) ->
    Id = faults_books:new_id(),
    put(?MODULE, Id),
    Start = fun() -> proc_lib:start_link(?MODULE, init, [Zone, Name, Manner, Id]) end,
    case {faults_books:outcome(Name), faults_books:node()} of
        {far, none} -> start(starts, Start);
        {far, Node} -> {ok, far(Node, Id, Zone, Name)};
        {Outcome, _} -> start(Outcome, Zone, Start)
    end.

%% A child on another node, linked to the caller.
far(Node, Id, Zone, Name) ->
    Pid = spawn_link(Node, ?MODULE, live_far, []),
    faults_books:born(Id, Zone, Name, Pid),
    Pid.

live_far() ->
    loop(none, plain).

%% What foreign code may do to the keeper, before and after.
start(untraps, _, Start) ->
    misbehave(fun() -> process_flag(trap_exit, false) end, Start);
start(unlinks, _, Start) ->
    misbehave(fun unlink_all/0, Start);
start(flushes, _, Start) ->
    misbehave(fun flush/0, Start);
start(erases, _, Start) ->
    Id = get(?MODULE),
    misbehave(fun() -> erase(), put(?MODULE, Id) end, Start);
%% Another process beside the child lives on when that ends.
start(helps, Zone, Start) ->
    faults_books:helper(spawn_link(fun help/0), Zone),
    Start();
start(asks, Zone, Start) ->
    faults_load:ask(Zone),
    Start();
start(Outcome, _, Start) ->
    start(Outcome, Start).

misbehave(Misdeed, Start) ->
    _ = Misdeed(),
    Started = Start(),
    _ = Misdeed(),
    Started.

unlink_all() ->
    {links, Links} = process_info(self(), links),
    lists:foreach(fun unlink/1, Links).

flush() ->
    receive
        _ -> flush()
    after 0 -> ok
    end.

help() ->
    receive
        never -> ok
    end.

start(raises, _) -> error(raised);
start(throws, _) -> throw(thrown);
start(garbage, _) -> {garbage, self()};
start(no_pid, _) -> {ok, no_pid};
start(ignore, _) -> ignore;
start(refuses, _) -> {error, refused};
start(dies, _) -> proc_lib:start_link(?MODULE, die, [died]);
start(hangs, Start) -> faults_books:hang(), Start();
start(dies_at_once, Start) -> {ok, Pid} = Start(), exit(Pid, kill), {ok, Pid};
start(starts, Start) -> Start().

die(Reason) ->
    exit(Reason).

init(Zone, Name, Manner, none) ->
    faults_books:born(faults_books:new_id(), Zone, Name),
    live(Zone, Name, Manner, fun() -> ok end);
init(Zone, Name, Manner, Id) ->
    faults_books:born(Id, Zone, Name),
    live(Zone, Name, Manner, fun() -> faults_books:promised(Id, Zone) end).

live(Zone, Name, Manner, Found) ->
    process_flag(trap_exit, Manner =/= plain),
    [Parent | _] = get('$ancestors'),
    ok = gen_tracker:init_ack({ok, self()}),
    case is_found(Zone, Name) of
        true -> Found(), introduce(Zone, Name), loop(Parent, Manner);
        %% Its keeper was killed, or its zone has gone, before it was registered.
        false -> exit(shutdown)
    end.

is_found(Zone, Name) ->
    try gen_tracker:find(Zone, Name) of
        Found -> Found =:= {ok, self()}
    catch
        error:badarg -> false
    end.

introduce(Zone, Name) ->
    try
        Before = gen_tracker:getattr(Zone, Name, pid),
        %% A zone that ends has another one's attributes when it runs again.
        [demo_books:wrong('a child has the attributes of the one before', {Name, Before}) || Before =/= undefined, faults_books:is_calm(Zone)],
        gen_tracker:setattr(Zone, Name, [{pid, self()}, {count, 0}])
    catch
        error:badarg -> ended;
        error:{void_setting, _, _, _} -> ended
    end,
    faults_load:track_self().

loop(Parent, Manner) ->
    receive
        {stop, Reason} -> exit(Reason);
        {'EXIT', _, _} when Manner =:= deaf -> loop(Parent, Manner);
        {'EXIT', _, Reason} when Manner =:= slow -> receive after 5 -> exit(Reason) end;
        {'EXIT', _, Reason} -> exit(Reason);
        _ -> loop(Parent, Manner)
    end.

%% A process that is to be added to a zone by its caller, under a name of its own. It lives on when the caller says that it has been added, and ends with him otherwise.
loose(Zone, Name) ->
    Caller = self(),
    spawn(fun() ->
        Monitor = monitor(process, Caller),
        Id = faults_books:new_id(),
        faults_books:born(Id, Zone, Name),
        Caller ! {born, self()},
        receive
            {added, Spec} ->
                demonitor(Monitor, [flush]),
                Spec =:= full andalso is_found(Zone, Name) andalso faults_books:promised(Id, Zone),
                loop(none, plain);
            {'DOWN', Monitor, process, _, _} ->
                ok
        end
    end).

%% Called by the library. One that waits is let go by `faults_books:let_go/0'. Others ask the zone.
after_terminate({Zone, _} = Name, Attributes, _Reason) ->
    faults_books:ended(Name, id(Name, Attributes)),
    case erlang:phash2({last, Name}, 6) of
        0 -> error(raised);
        1 -> exit(left);
        2 -> faults_books:hang();
        3 -> faults_load:ask(Zone);
        _ -> ok
    end.

%% A keeper that has taken a child over did not start it.
id({Zone, _}, Attributes) ->
    case {get(?MODULE), lists:keyfind(pid, 1, Attributes)} of
        {undefined, {pid, Pid}} -> faults_books:id_of(Zone, Pid);
        {undefined, false} -> unknown;
        {Id, _} -> Id
    end.
