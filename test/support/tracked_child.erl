%% Children for the suites of zones, and what a case does with them: start them, wait for them, call
%% their zone from other processes.
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
-export([keeper/1, beside/1]).
%% Zones and other processes
-export([zone/1, stop_zone/1, kill/1, down/1]).
%% Callers
-export([ask/1, answer/1, waiting/0, apart/1, together/1, while_writing/3, sent_by/1]).
%% Messages
-export([await/1, await/2, taken/1]).
%% The log
-export([listen/0, logged/1, logged/2, log/2]).

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

%% Returns all processes that the library runs for a zone beside its tracker: the keepers, the
%% watchdog, and the sender of events. They are linked to the tracker.
beside(Zone) ->
    {links, Links} = process_info(whereis(Zone), links),
    {parent, Parent} = process_info(whereis(Zone), parent),
    [Pid || Pid <- Links, is_pid(Pid), Pid =/= Parent].

%%% Zones and other processes

%% Starts a zone, linked to the caller, and returns its name.
zone(Zone) ->
    {ok, _} = gen_tracker:start_link(Zone),
    Zone.

%% Stops a zone in good order, if it runs.
stop_zone(Zone) ->
    try
        gen_server:stop(Zone)
    catch
        exit:_ ->
            undefined = whereis(Zone),
            ok
    end.

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

%%% Callers

%% Calls a fun in a process of its own. `answer/1` takes what this function returns.
ask(Fun) ->
    {_, Monitor} = spawn_monitor(fun() -> exit({answer, Fun()}) end),
    Monitor.

%% Returns `{answer, Value}`, or the exit reason of the call.
answer(Monitor) ->
    {'DOWN', Monitor, process, _, Answer} = await('DOWN', Monitor),
    Answer.

%% Waits until each process that the caller monitors, such as one of `ask/1`, waits for a message or
%% has exited.
waiting() ->
    {monitors, Monitors} = process_info(self(), monitors),
    lists:foreach(fun waiting/1, Monitors).

waiting({process, Pid}) ->
    case process_info(Pid, status) of
        {status, waiting} ->
            ok;
        undefined ->
            ok;
        {status, _} ->
            erlang:yield(),
            waiting({process, Pid})
    end.

%% Returns what a fun returns, called in a process of its own, which has exited by then.
apart(Fun) ->
    [Answer] = together([Fun]),
    Answer.

%% Calls funs at the same time, each in a process of its own, and returns their results in order.
together(Funs) ->
    Workers = [
        spawn_monitor(fun() ->
            receive
                go -> exit({answer, Fun()})
            end
        end)
     || Fun <- Funs
    ],
    [Pid ! go || {Pid, _} <- Workers],
    [returned(Worker) || Worker <- Workers].

returned({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, {answer, Answer}} -> Answer;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end.

%% Calls each reader so many times, each in a process of its own, while another process calls
%% `Step(1)`, `Step(2)` and so on. Returns a list of results for each reader.
while_writing(Step, Times, Readers) ->
    Writer = spawn_link(fun() -> write(Step, 1) end),
    try
        together([fun() -> [Reader() || _ <- lists:seq(1, Times)] end || Reader <- Readers])
    after
        Writer ! enough,
        down(Writer)
    end.

write(Step, Number) ->
    receive
        enough -> ok
    after 0 ->
        Step(Number),
        write(Step, Number + 1)
    end.

%% Returns the answer of a fun, like `answer/1`, and all messages that its process sent in the call.
sent_by(Fun) ->
    Test = self(),
    Answer = answer(
        ask(fun() ->
            erlang:trace(self(), true, [send, {tracer, Test}]),
            Fun()
        end)
    ),
    Delivered = erlang:trace_delivered(all),
    {trace_delivered, all, Delivered} = await(trace_delivered),
    {Answer, taken(trace)}.

%%% Messages

%% Waits for a message with this first element, and returns it. Fails after ten seconds.
await(Tag) ->
    receive
        Message when element(1, Message) =:= Tag -> Message
    after 10000 -> ct:fail({no_message, Tag})
    end.

%% Like `await/1`, for a message with these first two elements.
await(Tag, Second) ->
    receive
        Message when element(1, Message) =:= Tag, element(2, Message) =:= Second -> Message
    after 10000 -> ct:fail({no_message, Tag, Second})
    end.

%% Returns all messages in the mailbox that have this first element, and removes them.
taken(Tag) ->
    receive
        Message when element(1, Message) =:= Tag -> [Message | taken(Tag)]
    after 0 -> []
    end.

%%% The log

%% From now on the caller receives the events of the log, until
%% `logger:remove_handler(tracked_child)`.
listen() ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => self()}).

%% The callback of the handler.
log(Event, #{config := Test}) ->
    Test ! {log, unicode:characters_to_list(logger_formatter:format(Event, #{}))}.

%% Waits for an event with this text, and returns it as printed.
logged(Text) ->
    {log, Line} = await(log),
    case string:find(Line, Text) of
        nomatch -> logged(Text);
        _ -> Line
    end.

%% Waits for an event with all of these texts, at most so many milliseconds, and returns it as
%% printed.
logged(Texts, Milliseconds) ->
    await_log(Texts, erlang:monotonic_time(millisecond) + Milliseconds).

await_log(Texts, Deadline) ->
    receive
        {log, Line} ->
            case [Text || Text <- Texts, string:find(Line, Text) =:= nomatch] of
                [] -> Line;
                _ -> await_log(Texts, Deadline)
            end
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        ct:fail({not_logged, Texts})
    end.
