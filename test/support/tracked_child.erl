%% Children for the suites of zones, and functions that start and stop them.
%%
%% The `start_*` functions are start functions for child specs. Their first argument is the
%% process of the test, which receives `{started, Pid}` from most of them. If a child has its
%% test's pid in the attribute `test`, then `after_terminate/2` sends `{after_terminate, Name,
%% Attributes, Keeper}` to the test.
-module(tracked_child).

%% Start functions and callbacks
-export([start_link/1, start_link/2, start_with/2, start_gated/2, start_deaf/1]).
-export([start_acknowledged/4, start_stubborn/1, start_halfway/1]).
-export([after_terminate/2]).
%% Specs
-export([spec/2, spec/3, spec/4, plain/1, full/1, ignoring/1, six_tuple/1]).
%% Children
-export([open/2, stubborn/1, loose/1, gated/2, terminating/2, forgotten/2, stop/2]).
-export([keeper/1]).
%% Any processes
-export([kill/1, down/1]).

-import(callers, [ask/1]).
-import(messages, [await/1, await/2]).

%%% Start functions

%% Starts a child that stops when it receives `{stop, Reason}`, and runs the fun of
%% `{run, From, Fun}`.
start_link(Test) ->
    start_link(Test, []).

%% Like `start_link/1`, with process flags to set, such as `[trap_exit]`.
start_link(Test, Flags) ->
    Pid = proc_lib:spawn_link(fun() ->
        [process_flag(Flag, true) || Flag <- Flags],
        loop()
    end),
    Test ! {started, Pid},
    {ok, Pid}.

loop() ->
    receive
        {stop, Reason} ->
            exit(Reason);
        {run, From, Fun} ->
            From ! {ran, self(), Fun()},
            loop();
        {'EXIT', _, Reason} ->
            exit(Reason)
    end.

%% Returns or raises what the fun does. The test receives `{started, Keeper}` first.
start_with(Test, Fun) ->
    Test ! {started, self()},
    Fun().

%% Starts a child once the keeper, of which the test is told in `{gated, Keeper}`, receives `Gate`.
start_gated(Test, Gate) ->
    Test ! {gated, self()},
    receive
        Gate -> start_link(Test)
    end.

%% Starts a child that only the exit signal `kill` ends.
start_deaf(Test) ->
    Pid = proc_lib:spawn_link(fun() ->
        process_flag(trap_exit, true),
        Test ! {deaf, self()},
        deaf()
    end),
    Test ! {started, Pid},
    {ok, Pid}.

deaf() ->
    receive
        {run, From, Fun} ->
            From ! {ran, self(), Fun()},
            deaf();
        _ ->
            deaf()
    end.

%% Starts a child that acknowledges its start with `gen_tracker:init_ack/1`, then looks itself up
%% and sets its attributes. The test receives `{acknowledged, Child, Found}`.
start_acknowledged(Test, Zone, Name, Attrs) ->
    proc_lib:start_link(erlang, apply, [
        fun() ->
            ok = gen_tracker:init_ack({ok, self()}),
            Found = gen_tracker:find(Zone, Name),
            ok = gen_tracker:setattr(Zone, Name, Attrs),
            Test ! {acknowledged, self(), Found},
            loop()
        end,
        []
    ]).

%% Starts a child that sends `{exit_signal, Child, Reason}` to the test for each exit signal, and
%% stops only when it receives `{stop, Reason}`. It traps exits before it sends `{started, Child}`.
start_stubborn(Test) ->
    Pid = proc_lib:spawn_link(fun() ->
        process_flag(trap_exit, true),
        Test ! {started, self()},
        stubborn_loop(Test)
    end),
    {ok, Pid}.

stubborn_loop(Test) ->
    receive
        {stop, Reason} ->
            exit(Reason);
        {'EXIT', _, Reason} ->
            Test ! {exit_signal, self(), Reason},
            stubborn_loop(Test)
    end.

%% Hangs: it waits for a child that never acknowledges its start and ignores exit signals. The test
%% receives `{halfway, Child}`.
start_halfway(Test) ->
    proc_lib:start_link(erlang, apply, [
        fun() ->
            process_flag(trap_exit, true),
            Test ! {halfway, self()},
            deaf()
        end,
        []
    ]).

after_terminate(Name, Attrs) ->
    case lists:keyfind(test, 1, Attrs) of
        {test, Test} -> Test ! {after_terminate, Name, lists:sort(Attrs), self()};
        false -> ok
    end.

%%% Specs

%% Returns a spec of three elements for `start_link/1`.
spec(Name, Restart) ->
    spec(Name, Restart, [self()]).

%% Returns a spec of three elements for `start_link` with these arguments.
spec(Name, Restart, Args) when is_list(Args) ->
    {Name, {?MODULE, start_link, Args}, Restart}.

%% Returns a spec of six elements for one of the start functions.
spec(Name, Restart, Shutdown, {Function, Args}) ->
    {Name, {?MODULE, Function, Args}, Restart, Shutdown, worker, [?MODULE]}.

%% Returns a spec of three elements for a temporary child.
plain(Name) ->
    spec(Name, temporary).

%% Returns a spec of six elements for a temporary child.
full(Name) ->
    spec(Name, temporary, 200, {start_link, [self()]}).

%% Returns the spec of a temporary child whose start function returns `ignore`, and does nothing
%% else.
ignoring(Name) ->
    {Name, {erlang, hd, [[ignore]]}, temporary}.

%% Turns a spec of three elements into one of six, which `supervisor:check_childspecs/1` takes.
six_tuple({Name, MFA, Restart}) -> {Name, MFA, Restart, 200, worker, []};
six_tuple(Spec) -> Spec.

%%% Children

%% Opens a temporary child and returns its pid.
open(Zone, Name) ->
    {ok, Pid} = gen_tracker:find_or_open(Zone, plain(Name)),
    receive
        {started, Pid} -> Pid
    end.

%% Opens a child `stubborn` of `start_stubborn/1` with a shutdown time of ten seconds, and returns
%% its pid.
stubborn(Zone) ->
    Spec = spec(stubborn, temporary, 10000, {start_stubborn, [self()]}),
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started, Child),
    Child.

%% Starts a process outside of any zone with one of the start functions, and returns its pid. It is
%% not linked to the caller.
loose(Start) ->
    {ok, Child} = ?MODULE:Start(self()),
    unlink(Child),
    {started, Child} = await(started),
    Child.

%% Opens a child whose start waits until the keeper receives `go`. Returns the call, for
%% `answer/1`, and the keeper.
gated(Zone, Name) ->
    Spec = spec(Name, temporary, 200, {start_gated, [self(), go]}),
    Asked = ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
    {gated, Starter} = await(gated),
    {Asked, Starter}.

%% Makes `Name` a terminating child. Returns the pid of the dead child, and the keeper, which stays
%% in `after_terminate/3` until it receives `done`.
terminating(Zone, Name) ->
    Test = self(),
    Spec = {Name, {tracked_child_reason, start_link, [Test]}, temporary},
    {ok, Pid} = gen_tracker:find_or_open(Zone, Spec),
    {started, Pid} = await(started, Pid),
    Last = fun(_, _, _) ->
        Test ! {terminating, self()},
        receive
            done -> ok
        end
    end,
    ok = gen_tracker:setattr(Zone, Name, last, Last),
    normal = stop(Pid, normal),
    {terminating, Cleaner} = await(terminating),
    {Pid, Cleaner}.

%% Waits until the name of a dead child is free, and fails if attributes of that child are left.
forgotten(Zone, Name) ->
    Ignore = spec(Name, temporary, 200, {start_with, [self(), fun() -> ignore end]}),
    ignore = gen_tracker:find_or_open(Zone, Ignore),
    {started, _} = await(started),
    [] = gen_tracker:attrs(Zone, Name),
    ok.

%% Stops a child with this reason, and returns its exit reason once it has exited.
stop(Pid, Reason) ->
    Monitor = monitor(process, Pid),
    Pid ! {stop, Reason},
    receive
        {'DOWN', Monitor, process, Pid, Actual} -> Actual
    end.

%% Returns the keeper that has started a child: its parent.
keeper(Child) ->
    {parent, Keeper} = process_info(Child, parent),
    Keeper.

%%% Any processes

%% Kills a process that may be linked to the caller, and waits until it has exited.
kill(Pid) ->
    unlink(Pid),
    exit(Pid, kill),
    down(Pid).

%% Waits until a process has exited, and returns its exit reason, or `noproc`.
down(Pid) ->
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    end.
