%% The children that the suites start under a zone: a process that does what its `start` argument
%% says, and an `after_terminate/2` that tells the test about itself.
%%
%% A start function is any of the exported `start_*` functions; all take the process that the test
%% watches with (`Test`), which receives `{started, Child}` once the start function runs, and
%% `{after_terminate, Name, Attrs, Self}` after the child's death when the child's attribute
%% `test` holds its pid.
-module(tracked_child).

-export([start_link/1, start_link/2, start_with/2, start_gated/2, start_deaf/1]).
-export([start_acknowledged/4]).
-export([start_stubborn/1, start_halfway/1, await/1, await/2, taken/1, ask/1, answer/1]).
-export([loose/1, keeper/1, beside/1, forgotten/2, stop_zone/1, listen/0, logged/1, log/2]).
-export([zone/1, kill/1, gated/2, waiting/0, sent_by/1, terminating/2]).
-export([after_terminate/2]).
-export([spec/2, spec/3, spec/4, stop/2, down/1]).
-export([open/2, apart/1, together/1, while_writing/3]).

%% A plain child that stops with the reason it is sent as `{stop, Reason}`.
start_link(Test) ->
    start_link(Test, []).

%% The same, with process flags set first: `[trap_exit]`.
start_link(Test, Flags) ->
    Pid = proc_lib:spawn_link(fun() ->
        [process_flag(Flag, true) || Flag <- Flags],
        loop()
    end),
    Test ! {started, Pid},
    {ok, Pid}.

%% A start function that returns, or raises, whatever the fun says.
start_with(Test, Fun) ->
    Test ! {started, self()},
    Fun().

%% A start that takes until the test sends `Gate` to the process named in `{gated, Starter}`.
start_gated(Test, Gate) ->
    Test ! {gated, self()},
    receive
        Gate -> start_link(Test)
    end.

%% A child that traps exits and ignores every exit signal: only `kill` ends it.
start_deaf(Test) ->
    Pid = proc_lib:spawn_link(fun() ->
        process_flag(trap_exit, true),
        Test ! {deaf, self()},
        deaf()
    end),
    Test ! {started, Pid},
    {ok, Pid}.

%% A child started through `proc_lib:start_link` that acknowledges with `gen_tracker:init_ack/1`,
%% and then at once sets an attribute of its own.
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

%% Called by the library, in a process of its own, after the death of a child.
after_terminate(Name, Attrs) ->
    case lists:keyfind(test, 1, Attrs) of
        {test, Test} -> Test ! {after_terminate, Name, lists:sort(Attrs), self()};
        false -> ok
    end.

%% Child specs in the tuple forms.
spec(Name, Restart) ->
    spec(Name, Restart, [self()]).

spec(Name, Restart, Args) when is_list(Args) ->
    {Name, {?MODULE, start_link, Args}, Restart}.

spec(Name, Restart, Shutdown, {Function, Args}) ->
    {Name, {?MODULE, Function, Args}, Restart, Shutdown, worker, [?MODULE]}.

%% Has a child of `start_link` stop with a reason, and waits until it has.
stop(Pid, Reason) ->
    Monitor = monitor(process, Pid),
    Pid ! {stop, Reason},
    receive
        {'DOWN', Monitor, process, Pid, Actual} -> Actual
    end.

%% Waits until a process is gone.
down(Pid) ->
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    end.

%% Opens a plain temporary child and answers its pid.
open(Zone, Name) ->
    {ok, Pid} = gen_tracker:find_or_open(Zone, spec(Name, temporary)),
    receive
        {started, Pid} -> Pid
    end.

%% Calls a fun in a process of its own, and answers what it returned once that process is gone.
apart(Fun) ->
    [Answer] = together([Fun]),
    Answer.

%% Calls funs in processes of their own, all let go at the same moment, and answers what they
%% returned, in order.
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

%% One process calls `Step(1)`, `Step(2)`... until each of the readers, in a process of its own,
%% has been called `Times` times. Answers the lists of what the readers returned.
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

loop() ->
    receive
        {stop, Reason} -> exit(Reason);
        {run, From, Fun} ->
            From ! {ran, self(), Fun()},
            loop();
        {'EXIT', _, Reason} -> exit(Reason)
    end.

deaf() ->
    receive
        {run, From, Fun} ->
            From ! {ran, self(), Fun()},
            deaf();
        _ -> deaf()
    end.

%% A child that traps exits, tells the test of each exit signal as `{exit_signal, Child, Reason}`,
%% and stops only when it is sent `{stop, Reason}`. It is beyond the reach of `shutdown` once the
%% test has its `{started, Child}`.
start_stubborn(Test) ->
    Pid = proc_lib:spawn_link(fun() ->
        process_flag(trap_exit, true),
        Test ! {started, self()},
        stubborn(Test)
    end),
    {ok, Pid}.

stubborn(Test) ->
    receive
        {stop, Reason} -> exit(Reason);
        {'EXIT', _, Reason} ->
            Test ! {exit_signal, self(), Reason},
            stubborn(Test)
    end.

%% A start that hangs for ever, waiting for a process (named in `{halfway, Pid}`) that ignores
%% exit signals.
start_halfway(Test) ->
    proc_lib:start_link(erlang, apply, [
        fun() ->
            process_flag(trap_exit, true),
            Test ! {halfway, self()},
            deaf()
        end,
        []
    ]).

%% Waits for a message whose first element is Tag (and whose second is Second).
await(Tag) ->
    receive
        Message when element(1, Message) =:= Tag -> Message
    after 10000 -> ct:fail({no_message, Tag})
    end.

await(Tag, Second) ->
    receive
        Message when element(1, Message) =:= Tag, element(2, Message) =:= Second -> Message
    after 10000 -> ct:fail({no_message, Tag, Second})
    end.

%% Takes all messages that are there and whose first element is Tag.
taken(Tag) ->
    receive
        Message when element(1, Message) =:= Tag -> [Message | taken(Tag)]
    after 0 -> []
    end.

%% Runs a fun in a process of its own. `answer/1` of what it returns is `{answer, Value}`, or the
%% exit that the fun met.
ask(Fun) ->
    {_, Monitor} = spawn_monitor(fun() -> exit({answer, Fun()}) end),
    Monitor.

answer(Monitor) ->
    {'DOWN', Monitor, process, _, Answer} = await('DOWN', Monitor),
    Answer.

%% A process that a start function has made outside of any zone, and that is linked to nobody.
loose(Start) ->
    {ok, Child} = ?MODULE:Start(self()),
    unlink(Child),
    {started, Child} = await(started),
    Child.

%% The process of the library that is beside a child: its parent.
keeper(Child) ->
    {parent, Keeper} = process_info(Child, parent),
    Keeper.

%% All processes that the library has beside the children of a zone: they are linked to the tracker.
beside(Zone) ->
    {links, Links} = process_info(whereis(Zone), links),
    {parent, Parent} = process_info(whereis(Zone), parent),
    [Pid || Pid <- Links, is_pid(Pid), Pid =/= Parent].

%% Waits until a name that is known to be terminating is free, and nothing is left of it or about
%% to start.
forgotten(Zone, Name) ->
    ignore = gen_tracker:find_or_open(
        Zone, spec(Name, temporary, 200, {start_with, [self(), fun() -> ignore end]})
    ),
    {started, _} = await(started),
    [] = gen_tracker:attrs(Zone, Name),
    ok.

%% Stops a zone in good order, if it still runs.
stop_zone(Zone) ->
    try
        gen_server:stop(Zone)
    catch
        exit:_ ->
            undefined = whereis(Zone),
            ok
    end.

%% From now on, `logged/1` waits for an event of the log whose text contains Text. Lasts until
%% `logger:remove_handler(tracked_child)`.
listen() ->
    ok = logger:add_handler(tracked_child, tracked_child, #{config => self()}).

log(Event, #{config := Test}) ->
    Test ! {log, unicode:characters_to_list(logger_formatter:format(Event, #{}))}.

logged(Text) ->
    {log, Line} = await(log),
    case string:find(Line, Text) of
        nomatch -> logged(Text);
        _ -> Line
    end.

%% Starts a zone, linked to the test.
zone(Zone) ->
    {ok, _} = gen_tracker:start_link(Zone),
    Zone.

%% Kills a process that the test may be linked to, and waits until it is gone.
kill(Pid) ->
    unlink(Pid),
    exit(Pid, kill),
    down(Pid).

%% Asks for a child whose start waits for `go`: what `answer/1` takes, and the process in which it
%% starts.
gated(Zone, Name) ->
    Spec = spec(Name, temporary, 200, {start_gated, [self(), go]}),
    Asked = ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
    {gated, Starter} = await(gated),
    {Asked, Starter}.

%% Waits until every process made by `ask/1` that has not answered yet waits in its call: it waits
%% for nothing else.
waiting() ->
    {monitors, Monitors} = process_info(self(), monitors),
    lists:foreach(fun waiting/1, Monitors).

waiting({process, Pid}) ->
    case process_info(Pid, status) of
        {status, waiting} -> ok;
        undefined -> ok;
        {status, _} ->
            erlang:yield(),
            waiting({process, Pid})
    end.

%% The answer of a fun, as `answer/1` gives it, and all messages that its process sent meanwhile.
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

%% Makes Name a child that is terminating: its `after_terminate`, in the second process, lasts
%% until it is sent `done`.
terminating(Zone, Name) ->
    Test = self(),
    {ok, Pid} = gen_tracker:find_or_open(
        Zone, {Name, {tracked_child_reason, start_link, [Test]}, temporary}
    ),
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
