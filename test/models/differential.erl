%% Plays random histories against gen_tracker and against `reference_tracker`, and compares them:
%% every answer, error, event and call of `after_terminate` must be equal, and so must everything
%% that can be read after each operation.
%%
%% `differential_history` makes the histories, and lists their operations and expressions. A player,
%% a process registered as `differential`, plays a history against one of the two modules, and then
%% another player against the other. Pids are replaced by what they stand for before the comparison.
%%
%% The comparison must not depend on timing. After each operation the player waits until the zones
%% have settled: nothing happens any more without another operation. A start or a call of
%% `after_terminate`, both called *callbacks* here, can wait at a *gate* until an operation opens
%% it. A call that may have to wait is made in a process of its own, and its answer is compared
%% when it comes.
%%
%% Callbacks call their zone, too, and may wait for a name. Two of them must not compete for a name,
%% so a callback makes its call only if no other one waits. During an operation these are the first
%% callback that reaches its call, and the callbacks for which a calling callback waits.
%%
%% The player waits for short time limits, such as that of a start. If something must happen before
%% a time limit, the player checks afterwards that it was fast enough. If not, it gives up and
%% another player plays the history again. If that fails, too, the history is played up to the slow
%% operation.
-module(differential).

-export([round/1, replay/1, difference/2, shrunk/2]).
-export([start/3, acknowledged/3, registered/3, stubborn/0, failing/0, after_terminate/3]).

-import(prop_terms, [sorted/1]).

-define(ZONES, [differential_a, differential_b]).
%% Timeout in milliseconds of everything that must happen. Reached only if something hangs.
-define(HANG_TIMEOUT, 30000).
%% How long a failing history is made shorter, in milliseconds.
-define(SHRINK_TIMEOUT, 120000).
%% Shutdown time in milliseconds of children that are always killed. The player waits for the kill,
%% also when the zone stops.
-define(SHORT_SHUTDOWN, 5).
%% Shutdown time in milliseconds of a spec that is a triple. The player waits until the start of
%% such a child is killed. When its zone stops, the player lets the start continue instead.
-define(TRIPLE_SHUTDOWN, 200).
%% Time limit in milliseconds for the stop of a zone in which such a start continues, so that the
%% start is not killed.
-define(STOP_LIMIT, 190).
%% Time limit in milliseconds for an operation, and for a callback whose child is to stop: less than
%% the time limits of gen_tracker that the player does not wait for.
-define(OPERATION_LIMIT, 2900).
%% gen_tracker restarts a child at once up to ten times within ten seconds. If a play in which a
%% child was started more often lasts longer than ?PERIOD milliseconds, its player gives up.
-define(INTENSITY, 10).
-define(PERIOD, 9900).
%% Time limit in milliseconds for the operations while a child waits 200 ms for its next start.
-define(DELAY_LIMIT, 190).
%% Time limit in milliseconds for the answers of calls that wait for a permanent child whose start
%% fails. They find that the child waits for its next start, which is made after 50 ms.
-define(RETRY_LIMIT, 45).
%% How often a history is played if the player is too slow.
-define(ATTEMPTS, 10).

%%% For the suite and the soak

%% Plays 40 histories that are made from a seed. Returns `{ok, Figures}`, or `{failed, History}`,
%% where the history was made as short as possible.
round(Seed) ->
    _ = rand:seed(exsss, Seed),
    Seeds = [rand:uniform(1 bsl 50) || _ <- lists:seq(1, 40)],
    Histories = [differential_history:history(Each, 200) || Each <- Seeds],
    play_histories(Histories, #{histories => 0, operations => 0}).

play_histories([], Figures) ->
    {ok, Figures};
play_histories([History | Histories], #{histories := Count, operations := Operations} = Figures) ->
    case compare(gen_tracker, History) of
        {none, Played} ->
            All = Operations + Played,
            play_histories(Histories, Figures#{histories := Count + 1, operations := All});
        {Difference, _} ->
            %% Printed now, because a rare difference may not occur again.
            io:format("~tp~n", [Difference]),
            {failed, shrunk(gen_tracker, History)}
    end.

%% Plays a history that has failed, such as that of `round/1`.
replay(History) ->
    play_histories([History], #{histories => 0, operations => 0}).

%% Returns the first difference between a module and the reference, or `none`.
difference(Module, History) ->
    element(1, compare(Module, History)).

%% Returns the first difference and the number of operations that were played: all, or those before
%% an operation that is too slow in every attempt.
compare(Module, History) ->
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    try
        Terms = #{
            alike => list_to_tuple(prop_terms:alike()),
            kinds => list_to_tuple(prop_terms:kinds())
        },
        Reference = play(reference_tracker, History, Terms, ?ATTEMPTS),
        Library = play(Module, History, Terms, ?ATTEMPTS),
        {explained(first_difference(Reference, Library), Reference), length(History)}
    catch
        %% The operation whose play took too long, or the last one if that was a stop at the end.
        throw:{ends_before, Number} when History =/= [] ->
            compare(Module, lists:sublist(History, min(Number, length(History)) - 1));
        throw:{ends_before, _} ->
            {#{what => nothing_can_be_played_in_time}, 0}
    after
        ok = logger:set_primary_config(level, Level)
    end.

first_difference([], []) ->
    none;
first_difference([{Index, What, Reference} | More], [{Index, What, Library} | Others]) ->
    case prop_terms:same(Reference, Library) of
        true ->
            first_difference(More, Others);
        false ->
            #{operation => Index, what => What, reference => Reference, library => Library}
    end;
first_difference(Reference, Library) ->
    #{
        what => length,
        reference => lists:sublist(Reference, 1),
        library => lists:sublist(Library, 1)
    }.

%% Adds what the history did, and what could be read before that.
explained(#{operation := Index} = Difference, Observed) ->
    Done = [Operation || {Until, operation, Operation} <- Observed, Until >= Index],
    Before = [State || {Until, state, State} <- Observed, Until < Index],
    Last = max(0, length(Before) - 1),
    Difference#{performs => lists:sublist(Done, 1), before => lists:nthtail(Last, Before)};
explained(Difference, _) ->
    Difference.

%% Makes a failing history shorter: leaves out halves, quarters and so on, as long as the rest of it
%% fails.
shrunk(Module, [Names | Operations]) ->
    Until = erlang:monotonic_time(millisecond) + ?SHRINK_TIMEOUT,
    Fails = fun(Fewer) ->
        erlang:monotonic_time(millisecond) < Until andalso
            difference(Module, [Names | Fewer]) =/= none
    end,
    [Names | shrunk(Operations, max(1, length(Operations) div 2), Fails)].

shrunk(Operations, Size, Fails) ->
    case {leave_out(0, Size, Operations, Fails), Size} of
        {Operations, 1} -> Operations;
        {Fewer, _} -> shrunk(Fewer, max(1, Size div 2), Fails)
    end.

leave_out(From, _, Operations, _) when From >= length(Operations) ->
    Operations;
leave_out(From, Size, Operations, Fails) ->
    {Before, Rest} = lists:split(From, Operations),
    Fewer = Before ++ lists:nthtail(min(Size, length(Rest)), Rest),
    case Fails(Fewer) of
        true -> leave_out(From, Size, Fewer, Fails);
        false -> leave_out(From + Size, Size, Operations, Fails)
    end.

%%% Callbacks of children

%% Starts a child. The plan is a list of ways to start. Each start of the name takes the next way,
%% and the first one follows the last. In a plan `{in_turn, Ways}` the last way is repeated.
%%
%%     plain, info         returns `{ok, Pid}` or `{ok, Pid, Info}`
%%     trapping, stubborn  starts a child that traps exits; a stubborn one also ignores them
%%     early               sets attributes before the child runs
%%     acknowledged        starts a child that calls `init_ack/1`
%%     registered          starts a child that registers itself under two names
%%     gated, lasting      waits at a gate in the start function or in `after_terminate`
%%     {starts_with, Call}, {ends_with, Call}
%%                         calls the zone in the start function or in `after_terminate`
%%     untrapping, unlinking, flushing, helped
%%                         misuses the process in which gen_tracker calls the start function
%%     dead                returns the pid of a dead process
%%     ignore, refused, error, throw, exit, init, return
%%                         fails; `return` returns a wrong term
start(Zone, Name, Plan) ->
    _ = ets:update_counter(?MODULE, starts, 1),
    Nth = count({Zone, Name}),
    start_as(next_way(Plan, Zone, Name, Nth), Zone, Name, Nth).

next_way({in_turn, Ways}, Zone, Name, _) ->
    lists:nth(min(count({in_turn, Zone, Name}), length(Ways)), Ways);
next_way(Plan, _, _, Nth) ->
    lists:nth(Nth rem length(Plan) + 1, Plan).

count(What) ->
    ets:update_counter(?MODULE, What, 1, {What, 0}).

start_as(gated, Zone, Name, Nth) ->
    wait_at_gate(start, Zone, Name),
    start_as(plain, Zone, Name, Nth);
start_as(early, Zone, Name, Nth) ->
    ok = call_tracker(setattr, [Zone, Name, [{early, Nth}, {left, self}]]),
    start_as(plain, Zone, Name, Nth);
start_as(acknowledged, Zone, Name, Nth) ->
    proc_lib:start_link(?MODULE, acknowledged, [Zone, Name, Nth]);
start_as(registered, Zone, Name, Nth) ->
    proc_lib:start_link(?MODULE, registered, [Zone, Name, Nth]);
start_as({starts_with, Call}, Zone, Name, Nth) ->
    call_zone(start, Zone, Name, Call),
    start_as(plain, Zone, Name, Nth);
start_as(lasting, Zone, Name, Nth) ->
    ok = call_tracker(setattr, [Zone, Name, last, {gate, Zone}]),
    start_as(plain, Zone, Name, Nth);
start_as({ends_with, Call}, Zone, Name, Nth) ->
    ok = call_tracker(setattr, [Zone, Name, last, {call, Zone, Call}]),
    start_as(plain, Zone, Name, Nth);
start_as(untrapping, Zone, Name, Nth) ->
    process_flag(trap_exit, false),
    start_as(plain, Zone, Name, Nth);
start_as(unlinking, Zone, Name, Nth) ->
    {ok, Pid} = start_as(plain, Zone, Name, Nth),
    {links, Links} = process_info(self(), links),
    [unlink(Link) || Link <- Links],
    {ok, Pid};
start_as(flushing, Zone, Name, Nth) ->
    wait_at_gate(start, Zone, Name),
    messages:flush(),
    start_as(plain, Zone, Name, Nth);
start_as(helped, Zone, Name, Nth) ->
    report({helper, Zone, Name, Nth, spawn_link(fun live/0)}),
    start_as(plain, Zone, Name, Nth);
start_as(dead, Zone, Name, Nth) ->
    {Pid, Monitor} = spawn_monitor(fun() -> ok end),
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok
    end,
    report({started, Zone, Name, Nth, Pid}),
    {ok, Pid};
start_as(Way, Zone, Name, Nth) when
    Way =:= plain; Way =:= info; Way =:= trapping; Way =:= stubborn
->
    {ok, Pid} = start_child(Way),
    report({started, Zone, Name, Nth, Pid}),
    case Way of
        info -> {ok, Pid, {info, Nth}};
        _ -> {ok, Pid}
    end;
start_as(Failure, Zone, Name, Nth) ->
    ok = call_tracker(setattr, [Zone, Name, [{left, Nth}]]),
    send_to_player({failing, {Zone, Name}, erlang:monotonic_time(millisecond)}),
    report({started, Zone, Name, Nth, Failure}),
    fail(Failure, Nth).

start_child(trapping) -> tracked_child:start_link(?MODULE, [trap_exit]);
start_child(stubborn) -> proc_lib:start_link(?MODULE, stubborn, []);
start_child(_) -> tracked_child:start_link(?MODULE).

%% A child that only a kill can end. Traps exits before its start returns.
stubborn() ->
    process_flag(trap_exit, true),
    proc_lib:init_ack({ok, self()}),
    live().

fail(ignore, _) ->
    ignore;
fail(refused, Nth) ->
    {error, {no, Nth}};
fail(error, Nth) when Nth rem 2 =:= 0 ->
    {error, {no, Nth}};
fail(error, Nth) ->
    error({crash, Nth});
fail(throw, Nth) ->
    throw({thrown, Nth});
fail(exit, Nth) ->
    exit({gone, Nth});
fail(init, _) ->
    proc_lib:start_link(?MODULE, failing, []);
fail(return, Nth) ->
    Wrong =
        [{what, Nth}, undefined, {error, 404, Nth}, ok, {ok}, {ok, Nth}, {ok, no_pid, Nth}] ++
            [{ok, {Nth}}, [], {ok, 1, 2, 3}],
    lists:nth(Nth rem length(Wrong) + 1, Wrong).

failing() ->
    exit(failed).

%% A child that reads and writes as soon as `init_ack/1` has returned.
acknowledged(Zone, Name, Nth) ->
    ok = call_tracker(init_ack, [{ok, self()}]),
    ok = call_tracker(setattr, [Zone, Name, mine, Nth]),
    {ok, Found} = call_tracker(find, [Zone, Name]),
    report({started, Zone, Name, Nth, Found}),
    live().

%% Registers itself under the name of the child, and under a second name.
registered(Zone, Name, Nth) ->
    Names = [Name, {alias, Name}],
    Answers = [call_tracker(register_name, [{Zone, Each}, self()]) || Each <- Names],
    report({started, Zone, Name, Nth, self()}),
    report({registered, Zone, Name, Answers}),
    proc_lib:init_ack({ok, self()}),
    live().

live() ->
    receive
        {stop, Reason} -> exit(Reason);
        _ -> live()
    end.

%% The attribute `last` tells this function what to do.
after_terminate(Name, Attributes, Reason) ->
    report({ended, Name, Attributes, Reason}),
    case lists:keyfind(last, 1, Attributes) of
        {last, {gate, Zone}} -> wait_at_gate(terminate, Zone, Name);
        {last, {call, Zone, Call}} -> call_zone(terminate, Zone, Name, Call);
        {last, crash} -> error(crash);
        _ -> ok
    end.

%% Makes the call of a callback, if it is allowed now. The call may wait for another name.
call_zone(Kind, Zone, Name, {Target, Module, Function, Arguments}) ->
    case is_allowed(Kind, {Zone, Name}, {Zone, Target}, Function) of
        true ->
            send_to_player({calling, {Zone, Name}, Kind, self(), {Zone, Target}, Function}),
            Ready = [fresh(Argument, Zone, Name) || Argument <- Arguments],
            Called = under_test(Module),
            Outcome = outcome(fun() -> apply(Called, Function, Ready) end),
            report({called, Zone, Name, Function, Outcome});
        false ->
            report({not_called, Zone, Name})
    end.

%% Whether a callback may make a call. While a zone stops, no calls are allowed whose answers depend
%% on timing.
is_allowed(Kind, ChildId, Target, Function) ->
    try ets:lookup_element(?MODULE, allowed_calls, 2) of
        all -> is_next(Kind, ChildId) andalso allow_target(Target, Function);
        none -> false;
        refused -> Function =/= find_or_open andalso Function =/= unregister_name
    catch
        error:badarg -> false
    end.

%% Whether a callback is the first of this operation to make a call, or one for which a call waits.
is_next(Kind, ChildId) ->
    ets:take(?MODULE, {awaited, Kind, ChildId}) =/= [] orelse
        ets:insert_new(?MODULE, {called, ChildId}).

%% Allows a call to the callback for which this call will wait.
allow_target(Target, Function) ->
    case Function of
        _ when Function =:= find_or_open; Function =:= start_child ->
            ets:insert(?MODULE, {{awaited, start, Target}});
        _ when Function =:= terminate_child; Function =:= delete_child ->
            ets:insert(?MODULE, {{awaited, terminate, Target}});
        _ ->
            true
    end.

%% Replaces `fresh` in an argument by a new process.
fresh(fresh, Zone, Name) ->
    Pid = spawn(fun live/0),
    report({fresh, Zone, Name, count({fresh, Zone, Name}), Pid}),
    Pid;
fresh(Tuple, Zone, Name) when is_tuple(Tuple) ->
    list_to_tuple([fresh(Part, Zone, Name) || Part <- tuple_to_list(Tuple)]);
fresh(Argument, _, _) ->
    Argument.

call_tracker(Function, Arguments) ->
    apply(under_test(tracker), Function, Arguments).

under_test(tracker) -> ets:lookup_element(?MODULE, module, 2);
under_test(Module) -> Module.

report(Report) ->
    send_to_player({report, Report}).

wait_at_gate(Kind, Zone, Name) ->
    case has_gates(Zone) of
        true ->
            send_to_player({gated, {Zone, Name}, Kind, self()}),
            receive
                go -> ok
            end;
        false ->
            ok
    end.

%% The gates of a zone stay open while it is killed, and after the player has exited.
has_gates(Zone) ->
    try
        not ets:member(?MODULE, {open, Zone})
    catch
        error:badarg -> false
    end.

%% Some processes may outlive the player.
send_to_player(Message) ->
    try
        ?MODULE ! Message
    catch
        error:badarg -> Message
    end.

%%% The player

%% Plays a history, again if the player was too slow. Returns what was observed:
%% `[{Operation, What, Term}]`.
play(Module, History, Terms, Attempts) ->
    Play = fun() -> exit({observed, play_once(Module, History, Terms)}) end,
    {Player, Monitor} = spawn_monitor(Play),
    receive
        {'DOWN', Monitor, process, Player, {observed, Observed}} ->
            Observed;
        {'DOWN', Monitor, process, Player, {too_slow, player, _}} when Attempts > 1 ->
            play(Module, History, Terms, Attempts - 1);
        {'DOWN', Monitor, process, Player, {too_slow, _, Number}} ->
            throw({ends_before, max(1, Number - length(?ZONES))});
        {'DOWN', Monitor, process, Player, Reason} ->
            Left = [Pid || Zone <- ?ZONES, Pid <- [whereis(Zone)], is_pid(Pid)],
            lists:foreach(fun tracked_child:kill/1, Left),
            [{crashed, Module, Reason}]
    end.

%% The ETS table `differential` is shared with the callbacks:
%%
%%     {module, Module}                the module under test
%%     {starts, Count}                 calls of start functions
%%     {{Zone, Name}, Count}           calls of the start function of a child
%%     {{in_turn, Zone, Name}, Count}  the same, for a plan `in_turn`
%%     {{fresh, Zone, Name}, Count}    processes made by the callbacks of a child
%%     {allowed_calls, Which}          the calls that callbacks may make: all, none or refused
%%     {called, ChildId}               the first child of this operation that makes a call
%%     {{awaited, Kind, ChildId}}      a call waits for this callback
%%     {{open, Zone}}                  the gates of the zone are open
%%
%% A child id is `{Zone, Name}`. The kind of a callback is `start` or `terminate`.
play_once(Module, History, Terms) ->
    true = register(?MODULE, self()),
    process_flag(trap_exit, true),
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    true = ets:insert(?MODULE, [{module, Module}, {starts, 0}]),
    State = #{
        module => Module,
        terms => Terms,
        names => names(History),
        %% The number of the operation, in the log. Those during a delay count as well.
        index => 0,
        %% How many operations of the history were begun, and starts of zones before it.
        begun => 0,
        began => erlang:monotonic_time(millisecond),
        %% Callbacks that wait at a gate: #{ChildId => {Kind, Pid, Monitor}}.
        gates => #{},
        %% Callbacks that make a call: #{ChildId => {Kind, Pid, Monitor, Target, Function}}. The
        %% target is the child for which the call may wait, or `nobody`.
        calling => #{},
        %% Starts that go on after their gate or call, until they report their end:
        %% #{ChildId => {Kind, Pid, Monitor}}.
        going => #{},
        %% When the end of a callback was requested that waits: #{ChildId => Milliseconds}.
        ending_since => #{},
        %% When starts failed during the operation: #{ChildId => Milliseconds}.
        failing => #{},
        %% Whether the player has waited for a time limit during the operation.
        waited_for_time => false,
        %% Calls in processes of their own: #{Monitor => {Index, Function, ChildId}}.
        pending => #{},
        %% The number of starts that have ended.
        ended_starts => 0,
        %% What callbacks reported during the operation, latest first.
        reports => [],
        %% What was observed: #{{Index, What} => {Function, Term}}.
        log => #{},
        %% Processes that start functions have started, as {Zone, Pid}.
        helpers => [],
        %% The player's own processes: #{Number => Pid}.
        processes => #{},
        %% What known pids stand for: #{Pid => Tuple}.
        pids => #{},
        events => [],
        %% The children of the subscribed zones according to the events: #{Zone => #{Name => Pid}}.
        subscribed => #{}
    },
    Starts = [{start, Zone, [{just, Zone}]} || Zone <- ?ZONES],
    Stops = [{stop, Zone, stop} || Zone <- ?ZONES],
    try lists:foldl(fun step/2, State, Starts ++ History ++ Stops) of
        Last -> observed(Last)
    catch
        throw:{too_slow, Slow, Left} -> give_up(Slow, Left)
    end.

%% Ends all processes, so that none of them sends messages to the next player. They may be too slow
%% as well, and the state may lack the message that was too late.
give_up(Slow, #{begun := Begun} = State) ->
    Running = [{Zone, Tracker} || Zone <- ?ZONES, Tracker <- [whereis(Zone)], is_pid(Tracker)],
    Kill = fun({Zone, Tracker}, Before) ->
        try
            kill_zone(Zone, Tracker, Before)
        catch
            throw:{too_slow, _, Later} -> Later;
            throw:{hangs, Later} -> Later
        end
    end,
    set_allowed_calls(none),
    #{pids := Pids} = lists:foldl(Kill, State, Running),
    [exit(Pid, kill) || Pid <- maps:keys(Pids)],
    exit({too_slow, Slow, Begun}).

observed(#{log := Log, events := Events, pids := Pids}) ->
    [exit(Pid, kill) || Pid <- maps:keys(Pids)],
    Observed = fun({{Index, What}, {Function, Term}}) ->
        {Index, What, normalized(Function, symbolic(Term, Pids))}
    end,
    lists:map(Observed, lists:sort(maps:to_list(Log))) ++
        [{events, of_each_name, by_name(symbolic(lists:reverse(Events), Pids))}].

names(History) ->
    hd([Names || {names, Names} <- History] ++ [[]]).

step(Operation, #{index := Index, begun := Begun} = Before) ->
    Begins = erlang:monotonic_time(millisecond),
    check_time(Begins, Before),
    allow_calls(Operation, Before),
    try
        Ready = Before#{
            index := Index + 1,
            begun := Begun + 1,
            reports := [],
            failing := #{},
            waited_for_time := false
        },
        Settled = settle(perform(Operation, Ready)),
        check_time(Begins, Settled),
        check_retries(Settled),
        State = track_endings(Begins, Settled),
        #{index := Last, reports := Reports, log := Log} = State,
        State#{log := Log#{
            {Last, operation} => {operation, Operation},
            {Last, reports} => {reports, lists:reverse(Reports)},
            {Last, state} => {state, readable(State)}
        }}
    catch
        throw:{hangs, Left} ->
            exit({hangs, Index + 1, Operation, maps:without([log, terms, events, pids], Left)})
    end.

allow_calls({stop, _, kill}, _) -> set_allowed_calls(none);
allow_calls({stop, _, _}, _) -> set_allowed_calls(refused);
allow_calls({while, _, _, _, _}, _) -> set_allowed_calls(none);
allow_calls(_, #{calling := Calling}) when map_size(Calling) =:= 0 -> set_allowed_calls(all);
allow_calls(_, _) -> set_allowed_calls(none).

set_allowed_calls(Which) ->
    true = ets:delete(?MODULE, called),
    true = ets:match_delete(?MODULE, {{awaited, '_', '_'}}),
    true = ets:insert(?MODULE, {allowed_calls, Which}).

%% Keeps the time at which the end of a callback was requested. Such a callback has a time limit.
track_endings(Begins, #{ending_since := EndingSince} = State) ->
    Ending = [
        ChildId
     || ChildId <- ending_children(State),
        blocked_callback(ChildId, State) =/= none,
        shutdown_time(ChildId) < ?HANG_TIMEOUT
    ],
    Known = maps:with(Ending, EndingSince),
    State#{ending_since := maps:merge(maps:from_keys(Ending, Begins), Known)}.

%% Gives up if a time limit may have passed that the player did not wait for. If a child waited long
%% for its next start, the zone was slow and not the player.
check_time(Begins, #{began := Began, ending_since := EndingSince} = State) ->
    #{waited_for_time := Waited} = State,
    Now = erlang:monotonic_time(millisecond),
    Times = [Begins | maps:values(EndingSince)],
    IsLate = lists:any(fun(Since) -> Now - Since > ?OPERATION_LIMIT end, Times),
    if
        IsLate, Waited, Now - Begins > ?OPERATION_LIMIT div 2 -> throw({too_slow, zone, State});
        IsLate -> throw({too_slow, player, State});
        Now - Began > ?PERIOD -> has_many_restarts() andalso throw({too_slow, player, State});
        true -> ok
    end.

%% Gives up if a call may have come too late to find that a child waits for its next start. A
%% `find_or_open` does not depend on that.
check_retries(#{pending := Pending} = State) ->
    lists:foreach(fun(Call) -> check_retry(Call, State) end, maps:values(Pending)).

check_retry({_, find_or_open, _}, _) ->
    ok;
check_retry({_, _, ChildId}, #{failing := Failing} = State) ->
    Now = erlang:monotonic_time(millisecond),
    case Failing of
        #{ChildId := Since} when Now - Since > ?RETRY_LIMIT -> throw({too_slow, player, State});
        _ -> ok
    end.

has_many_restarts() ->
    Starts = [Count || {{Zone, _}, Count} <- ets:tab2list(?MODULE), lists:member(Zone, ?ZONES)],
    lists:any(fun(Count) -> Count > ?INTENSITY end, Starts).

log_answer(Function, Answer, #{index := Index, log := Log} = State) ->
    State#{log := Log#{{Index, answer} => {Function, Answer}}}.

%% Returns everything that can be read, and whether the helpers of start functions are alive.
readable(#{module := Module, names := Names, helpers := Helpers} = State) ->
    Terms = [value(Name, State) || Name <- Names],
    [
        {
            Zone,
            sorted(Module:which_children(Zone)),
            [sorted(Module:info(Zone, Name)) || Name <- Terms],
            [is_process_alive(Pid) || {Owner, Pid} <- Helpers, Owner =:= Zone]
        }
     || Zone <- ?ZONES, is_running(Zone)
    ].

perform({names, _}, State) ->
    State;
perform({start, Zone, Arguments}, #{pids := Pids, index := Index} = State) ->
    case outcome(State, tracker, start_link, Arguments) of
        {returned, {ok, Pid}} = Started ->
            log_answer(start_link, Started, State#{pids := Pids#{Pid => {tracker, Zone, Index}}});
        Refused ->
            log_answer(start_link, Refused, State)
    end;
perform({call, Module, Function, Arguments}, State) ->
    Ready = with_processes(Arguments, State),
    log_answer(Function, outcome(Ready, Module, Function, Arguments), Ready);
perform({ask, Zone, Name, Module, Function, Arguments}, State) ->
    perform_ask({Zone, value(Name, State)}, Module, Function, Arguments, State);
perform({subscribe, Zone}, #{subscribed := Subscribed} = State) ->
    case outcome(State, tracker, subscribe, [{just, Zone}]) of
        {returned, {ok, Children}} = Answer ->
            Known = maps:merge(#{Zone => maps:from_list(Children)}, Subscribed),
            log_answer(subscribe, Answer, State#{subscribed := Known});
        Refused ->
            log_answer(subscribe, Refused, State)
    end;
perform({unsubscribe, Zone}, State) ->
    %% Receives the events until now.
    _ = outcome(State, tracker, subscribe, [{just, Zone}]),
    #{subscribed := Subscribed} = Handled = handle_all(State),
    Answer = outcome(State, tracker, unsubscribe, [{just, Zone}]),
    log_answer(unsubscribe, Answer, Handled#{subscribed := maps:remove(Zone, Subscribed)});
perform({exit, Zone, Name, Reason}, State) ->
    Found = outcome(State, tracker, find, [{just, Zone}, Name]),
    _ = [end_child(Pid, Reason) || {returned, {ok, Pid}} <- [Found]],
    log_answer(find, Found, State);
perform({open_gate, Zone, Name}, State) ->
    open_gates([{Zone, value(Name, State)}], State);
perform({await_attribute, Zone, Name, Key, Increment}, State) ->
    await_attribute([{just, Zone}, Name, Key], Increment, State);
perform({while, Cause, Zone, Name, Operations}, State) ->
    perform_while(Cause, Zone, Name, Operations, State);
perform({stop, Zone, How}, State) ->
    perform_stop(whereis(Zone), Zone, How, State).

await_attribute(Attribute, Increment, State) ->
    Call = callable(State, tracker, getattr, Attribute ++ [{just, ?HANG_TIMEOUT}]),
    IsThere = outcome(State, tracker, getattr, Attribute),
    Monitor = callers:ask(fun() -> outcome(Call) end),
    callers:waiting(),
    Incremented = outcome(State, tracker, increment, Attribute ++ [Increment, {just, 0}]),
    Awaited =
        receive
            {'DOWN', Monitor, process, _, {answer, Answer}} -> Answer
        after ?HANG_TIMEOUT -> hangs
        end,
    log_answer(getattr, {IsThere, Incremented, Awaited}, State).

%%% Calls in processes of their own

perform_ask(ChildId, Module, Function, Arguments, #{index := Index} = State) ->
    IsAdd = is_add(Function, Arguments),
    case blocked_callback(ChildId, State) of
        none ->
            ask(ChildId, Module, Function, Arguments, State);
        {terminate, _} when IsAdd ->
            %% Its answer must not depend on whether another child starts first.
            case is_temporary(ChildId) andalso not has_call_for(ChildId, State) of
                true -> ask_alone(ChildId, Module, Function, Arguments, Index, State);
                false -> State
            end;
        _ ->
            ask_alone(ChildId, Module, Function, Arguments, Index, State)
    end.

ask(ChildId, Module, Function, Arguments, State) ->
    #{index := Index, pending := Pending} = Ready = with_processes(Arguments, State),
    Call = callable(Ready, Module, Function, Arguments),
    Monitor = callers:ask(fun() -> outcome(Call) end),
    Ready#{pending := Pending#{Monitor => {Index, Function, ChildId}}}.

is_add(add_existing_child, _) -> true;
is_add(call, [_, {tuple, [{just, add_existing_child} | _]}, _]) -> true;
is_add(_, _) -> false.

%% Makes a call with processes that only this call uses, which are alive when the tracker handles
%% the call. If such a process died before, the events would depend on timing.
ask_alone({Zone, _} = ChildId, Module, Function, Arguments, Index, State) ->
    Alone = [own_processes(Argument, Index) || Argument <- Arguments],
    Asked = ask(ChildId, Module, Function, Alone, State),
    await_handled(Zone, Asked),
    Asked.

own_processes({process, _}, Index) ->
    {process, {alone, Index}};
own_processes({Kind, Parts}, Index) when Kind =:= tuple; Kind =:= list ->
    {Kind, [own_processes(Part, Index) || Part <- Parts]};
own_processes({improper, Part}, Index) ->
    {improper, own_processes(Part, Index)};
own_processes(Expression, _) ->
    Expression.

%% Waits until the tracker has handled all calls that were made until now.
await_handled(Zone, State) ->
    callers:waiting(),
    {returned, ok} = outcome(State, tracker, wait, [{just, Zone}]).

%%% Children and gates

%% Ends a child. A child that ignores the exit signal obeys the message.
end_child(Pid, kill) ->
    tracked_child:kill(Pid);
end_child(Pid, Reason) ->
    exit(Pid, Reason),
    tracked_child:stop(Pid, Reason).

%% Opens the gates of these children where a callback waits.
open_gates(ChildIds, #{gates := Gates} = State) ->
    Waiting = [ChildId || ChildId <- ChildIds, is_map_key(ChildId, Gates)],
    lists:foldl(fun open_gate/2, State, Waiting).

open_gate(ChildId, #{gates := Gates} = State) ->
    {{Kind, Pid, Monitor}, Rest} = maps:take(ChildId, Gates),
    Pid ! go,
    goes_on(ChildId, {Kind, Pid, Monitor}, State#{gates := Rest}).

%% A start may be killed before it reports its end.
goes_on(ChildId, {start, _, _} = Work, #{going := Going} = State) ->
    State#{going := Going#{ChildId => Work}};
goes_on(_, {_, _, Monitor}, State) ->
    demonitor(Monitor, [flush]),
    State.

%% Counts a start that was killed, as it does not report that it ended.
count_killed(Work, #{ended_starts := Ended} = State) when element(1, Work) =:= start ->
    State#{ended_starts := Ended + 1};
count_killed(_, State) ->
    State.

gated(Kinds, Zone, #{gates := Gates}) ->
    [
        ChildId
     || {ChildId, {Kind, _, _}} <- maps:to_list(Gates),
        is_of(Zone, ChildId),
        lists:member(Kind, Kinds)
    ].

is_of(Zone, {Other, _}) ->
    Zone =:= Other.

%%% Children that wait for their next start

perform_while(Cause, Zone, Name, Operations, State) ->
    case is_free(Zone, Name, State) andalso start_delayed(Cause, Zone, Name, State) of
        false ->
            State;
        Began ->
            Ready = State#{waited_for_time := true},
            Asked = lists:foldl(fun perform_during_delay/2, Ready, Operations),
            erlang:monotonic_time(millisecond) - Began < ?DELAY_LIMIT orelse
                throw({too_slow, player, Asked}),
            Asked
    end.

perform_during_delay({ask, Zone, Name, Module, Function, Arguments}, #{index := Index} = State) ->
    ChildId = {Zone, value(Name, State)},
    ask_alone(ChildId, Module, Function, Arguments, Index, State#{index := Index + 1});
perform_during_delay({call, _, _, _} = Operation, #{index := Index} = State) ->
    perform(Operation, State#{index := Index + 1}).

is_free(Zone, Name, #{module := Module} = State) ->
    is_running(Zone) andalso
        not lists:keymember(value(Name, State), 1, Module:which_children(Zone)).

%% Starts a child, and makes it wait for its next start, because it reaches the restart limit or
%% because a start fails. The child waits for the second time, as the first delay is short. Returns
%% a time before the delay began, or `false` if the zone does not restart children.
start_delayed(Cause, Zone, Name, #{module := Module} = State) ->
    Term = value(Name, State),
    {Ways, Kills, Starts} =
        case Cause of
            slowed -> {[plain], 11, 12};
            failed -> {[plain, refused, refused, plain], 0, 3}
        end,
    true = ets:delete(?MODULE, {in_turn, Zone, Term}),
    Start = {?MODULE, start, [Zone, Term, {in_turn, Ways}]},
    {ok, Pid} = Module:find_or_open(Zone, {Term, Start, permanent, infinity, worker, []}),
    case restart_times(Kills, Pid, Zone, Term, Module) of
        gone ->
            false;
        Last ->
            Now = erlang:monotonic_time(millisecond),
            tracked_child:kill(Last),
            await_delay({Cause, Starts}, Now, Zone, Term, State)
    end.

restart_times(0, Pid, _, _, _) ->
    Pid;
restart_times(Times, Pid, Zone, Name, Module) ->
    tracked_child:kill(Pid),
    case await_restart(Pid, Zone, Name, Module) of
        gone -> gone;
        Next -> restart_times(Times - 1, Next, Zone, Name, Module)
    end.

await_restart(Pid, Zone, Name, Module) ->
    case {Module:find(Zone, Name), lists:keymember(Name, 1, Module:which_children(Zone))} of
        {{ok, Other}, _} when Other =/= Pid ->
            Other;
        {_, false} ->
            gone;
        {_, true} ->
            timer:sleep(1),
            await_restart(Pid, Zone, Name, Module)
    end.

await_delay({_, Last} = Expected, Before, Zone, Name, #{module := Module} = State) ->
    Now = erlang:monotonic_time(millisecond),
    Starts = ets:lookup_element(?MODULE, {in_turn, Zone, Name}, 2),
    case {lists:keymember(Name, 1, Module:which_children(Zone)), delay_cause(Module, Zone, Name)} of
        {true, Cause} when {Cause, Starts} =:= Expected ->
            Before;
        {false, _} ->
            false;
        _ when Starts > Last ->
            throw({too_slow, player, State});
        _ ->
            timer:sleep(1),
            await_delay(Expected, Now, Zone, Name, State)
    end.

%% Returns why a child waits for its next start: `failed`, `slowed`, or another term if it does not
%% wait.
delay_cause(reference_tracker, Zone, Name) ->
    reference_tracker:state(Zone, Name);
delay_cause(_, Zone, Name) ->
    case proctab_nif:child(Zone, Name) of
        {pending, _, _, _} -> failed;
        {slowed, _, _, _} -> slowed;
        _ -> neither
    end.

%%% The end of a zone

perform_stop(undefined, _, _, State) ->
    log_answer(stop, not_running, State);
perform_stop(Tracker, Zone, kill, State) ->
    Settled = settle(open_gates(gated([terminate], Zone, State), State)),
    case has_shared_process(Zone, Settled) of
        true -> stop_zone(Zone, Tracker, shutdown, Settled);
        false -> kill_zone(Zone, Tracker, Settled)
    end;
perform_stop(Tracker, Zone, How, State) ->
    stop_zone(Zone, Tracker, How, State).

%% Whether a process has two names in a zone. When the tracker of such a zone is killed, it depends
%% on timing whether the child of one name is restarted before the process ends under the other.
has_shared_process(Zone, #{module := Module}) ->
    Pids = [Pid || {_, Pid, _, _} <- Module:which_children(Zone), is_pid(Pid)],
    length(lists:usort(Pids)) < length(Pids).

kill_zone(Zone, Tracker, #{module := Module} = State) ->
    Children = [Pid || {_, Pid, _, _} <- Module:which_children(Zone), is_pid(Pid)],
    Monitors = [monitor(process, Pid) || Pid <- Children ++ zones:beside(Zone)],
    true = ets:insert(?MODULE, {{open, Zone}}),
    tracked_child:kill(Tracker),
    Opened = open_gates(gated([start, terminate], Zone, State), State),
    lists:foreach(fun(Monitor) -> await_down(Monitor, Opened) end, Monitors),
    true = ets:delete(?MODULE, {open, Zone}),
    %% The contract leaves open which callbacks are called then, with which attributes, and in which
    %% order children end.
    #{log := Log, index := Index} = Left = settle(forget_zone(Zone, handle_all(Opened))),
    Left#{reports := [], log := Log#{{Index, answer} => {stop, killed}}}.

stop_zone(Zone, Tracker, How, #{pending := Pending, index := Index} = State) ->
    IsShort = fun(ChildId) -> shutdown_time(ChildId) =< ?SHORT_SHUTDOWN end,
    Short = lists:filter(IsShort, gated([start], Zone, State)),
    Continuing = [
        ChildId
     || ChildId <- starting(State) -- Short,
        is_of(Zone, ChildId),
        shutdown_time(ChildId) =< ?TRIPLE_SHUTDOWN
    ],
    Began = erlang:monotonic_time(millisecond),
    Monitor = request_stop(How, Zone, Tracker),
    %% Must come before a gate opens, as the tracker would answer the requests that wait behind it.
    await_stop_began(Zone, State),
    Stopping = State#{pending := Pending#{Monitor => {Index, stop, {Zone, stop}}}},
    Stopped = await_stop(Zone, Tracker, Monitor, Short, Stopping),
    Continuing =:= [] orelse erlang:monotonic_time(millisecond) - Began < ?STOP_LIMIT orelse
        throw({too_slow, player, Stopped}),
    Stopped.

request_stop(exit, _, Tracker) ->
    Monitor = monitor(process, Tracker),
    exit(Tracker, shutdown),
    Monitor;
request_stop(gen_server, Zone, _) ->
    callers:ask(fun() -> outcome(fun() -> gen_server:stop(Zone) end) end);
request_stop(How, Zone, _) ->
    callers:ask(fun() -> outcome(fun() -> gen_server:call(Zone, How, infinity) end) end).

await_stop_began(Zone, State) ->
    case outcome(State, tracker, wait, [{just, Zone}]) of
        {returned, ok} -> await_stop_began(Zone, State);
        _ -> began
    end.

%% Opens the gates of the callbacks in the zone, until the stop was answered. The starts in `Short`
%% stay at their gates until they are killed.
await_stop(Zone, Tracker, Monitor, Short, #{pending := Pending} = State) when
    is_map_key(Monitor, Pending)
->
    Long = gated([start, terminate], Zone, State) -- Short,
    await_stop(Zone, Tracker, Monitor, Short, handle_next(open_gates(Long, State)));
await_stop(Zone, Tracker, _, _, #{helpers := Helpers} = State) ->
    %% The tracker answers shortly before it exits.
    {Own, Others} = lists:partition(fun(Helper) -> is_of(Zone, Helper) end, Helpers),
    Ending = [Tracker | [Pid || {_, Pid} <- Own]],
    lists:foreach(fun(Pid) -> await_down(monitor(process, Pid), State) end, Ending),
    await_callbacks(Zone, State#{helpers := Others}).

await_down(Monitor, State) ->
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after ?HANG_TIMEOUT -> throw({hangs, State})
    end.

%% Waits until all callbacks of a zone have ended.
await_callbacks(Zone, #{gates := Gates, calling := Calling} = State) ->
    Working = maps:keys(Gates) ++ maps:keys(Calling),
    case lists:any(fun(ChildId) -> is_of(Zone, ChildId) end, Working) of
        false -> State;
        true -> await_callbacks(Zone, handle_next(State))
    end.

%% Removes the callbacks of a killed zone from the state. They have ended, some without a report.
forget_zone(Zone, State) ->
    #{gates := Gates, calling := Calling, going := Going, helpers := Helpers} = State,
    IsOther = fun(ChildId, _) -> not is_of(Zone, ChildId) end,
    Left = State#{
        gates := maps:filter(IsOther, Gates),
        calling := maps:filter(IsOther, Calling),
        going := maps:filter(IsOther, Going),
        helpers := [Helper || Helper <- Helpers, not is_of(Zone, Helper)]
    },
    Left#{ended_starts := ets:lookup_element(?MODULE, starts, 2) - count_starting(Left)}.

%%% Waiting until the zones have settled

%% Handles messages until the zones are steady, and no message came while that was checked.
settle(State) ->
    Handled = handle_all(State),
    case are_calls_settled(Handled) andalso is_steady(Handled) of
        true ->
            case handle_all(await_callback_calls(Handled)) of
                Handled -> Handled;
                Other -> settle(Other)
            end;
        false ->
            settle(handle_soon(note_time_limits(Handled)))
    end.

%% Whether each call in a process of its own was answered, or waits for another operation.
are_calls_settled(#{pending := Pending} = State) ->
    lists:all(fun({_, _, ChildId}) -> stays_blocked(ChildId, State) end, maps:values(Pending)).

%% Waits until the trackers have received the calls of callbacks.
await_callback_calls(#{calling := Calling} = State) when map_size(Calling) =:= 0 ->
    State;
await_callback_calls(State) ->
    Running = lists:filter(fun is_running/1, ?ZONES),
    lists:foreach(fun(Zone) -> await_handled(Zone, State) end, Running),
    State.

%% Notes that the player waits for a time limit: a start is going to be killed, or a child waits for
%% its next start.
note_time_limits(#{waited_for_time := true} = State) ->
    State;
note_time_limits(#{module := Module} = State) ->
    Delayed = [
        Name
     || Zone <- ?ZONES,
        is_running(Zone),
        {Name, launching, _, _} <- Module:which_children(Zone),
        lists:member(delay_cause(Module, Zone, Name), [failed, slowed])
    ],
    IsKilled = lists:any(fun(ChildId) -> will_be_killed(ChildId, State) end, starting(State)),
    State#{waited_for_time := Delayed =/= [] orelse IsKilled}.

is_steady(#{ended_starts := Ended, subscribed := Subscribed} = State) ->
    lists:all(
        fun
            (Zone) when is_map_key(Zone, Subscribed) ->
                is_running(Zone) andalso is_steady(Zone, map_get(Zone, Subscribed), State);
            (Zone) ->
                not is_running(Zone) orelse is_steady(Zone, all, State)
        end,
        ?ZONES
    ) andalso
        %% Checked last, as a child that runs may not have reported its start yet.
        ets:lookup_element(?MODULE, starts, 2) =:= Ended + count_starting(State).

is_running(Zone) ->
    is_pid(whereis(Zone)).

is_steady(Zone, Known, #{module := Module} = State) ->
    Children = Module:which_children(Zone),
    lists:all(
        fun
            ({_, Pid, _, _}) when is_pid(Pid) -> is_process_alive(Pid);
            ({Name, _, _, _}) -> stays_blocked({Zone, Name}, State)
        end,
        Children
    ) andalso
        (Known =:= all orelse
            Known =:= maps:from_list([{Name, Pid} || {Name, Pid, _, _} <- Children, is_pid(Pid)])).

%% Returns the number of starts that have not ended.
count_starting(State) ->
    length(starting(State)).

starting(#{gates := Gates, calling := Calling}) ->
    Working = maps:to_list(Gates) ++ maps:to_list(Calling),
    [ChildId || {ChildId, Work} <- Working, element(1, Work) =:= start].

%% Returns the callback of a child if it waits for another operation: at its gate, or for another
%% child whose callback waits.
blocked_callback(ChildId, State) ->
    blocked_callback(ChildId, [], State).

blocked_callback(ChildId, Before, #{gates := Gates, calling := Calling} = State) ->
    case {Gates, Calling} of
        {#{ChildId := {Kind, Pid, _}}, _} ->
            {Kind, Pid};
        {_, #{ChildId := {Kind, Pid, _, Target, _}}} ->
            %% The tracker will break a cycle of waits.
            IsCycle = lists:member(Target, [ChildId | Before]),
            case not IsCycle andalso stays_blocked(Target, [ChildId | Before], State) of
                true -> {Kind, Pid};
                false -> none
            end;
        _ ->
            none
    end.

%% Whether the callback of a child waits for another operation, and is no start that is going to be
%% killed.
stays_blocked(ChildId, State) ->
    stays_blocked(ChildId, [], State).

stays_blocked(ChildId, Before, State) ->
    case blocked_callback(ChildId, Before, State) of
        none -> false;
        {terminate, _} -> true;
        {start, _} -> not will_be_killed(ChildId, State)
    end.

%% Whether a start is going to be killed, because the end of the child was requested and its
%% shutdown time is short.
will_be_killed(ChildId, State) ->
    IsEnding = lists:member(ChildId, ending_children(State)),
    IsEnding andalso shutdown_time(ChildId) =< ?TRIPLE_SHUTDOWN.

%% Returns the children whose end a call waits for.
ending_children(#{pending := Pending, calling := Calling}) ->
    Ends = fun(Function) -> lists:member(Function, [terminate_child, delete_child]) end,
    [ChildId || {_, Function, ChildId} <- maps:values(Pending), Ends(Function)] ++
        [Target || {_, _, _, Target, Function} <- maps:values(Calling), Ends(Function)].

has_call_for(ChildId, #{pending := Pending}) ->
    lists:any(fun({_, _, Asked}) -> Asked =:= ChildId end, maps:values(Pending)).

%% Returns a shutdown time that can be compared: an atom such as `infinity` is more than any number.
shutdown_time(ChildId) ->
    case child_spec(ChildId) of
        #{shutdown := brutal_kill} -> 0;
        #{shutdown := Shutdown} -> Shutdown;
        none -> infinity
    end.

is_temporary(ChildId) ->
    case child_spec(ChildId) of
        #{restart := temporary} -> true;
        _ -> false
    end.

child_spec({Zone, Name}) ->
    case is_running(Zone) andalso supervisor:get_childspec(Zone, Name) of
        {ok, Spec} -> Spec;
        _ -> none
    end.

%% Handles the next message.
handle_next(State) ->
    receive
        Message -> handle_message(Message, State)
    after ?HANG_TIMEOUT -> throw({hangs, State})
    end.

%% Handles the next message, if it comes within a millisecond. Some changes send no message.
handle_soon(#{index := Index} = State) ->
    Until =
        case State of
            #{until := {Index, Known}} -> Known;
            _ -> erlang:monotonic_time(millisecond) + ?HANG_TIMEOUT
        end,
    erlang:monotonic_time(millisecond) < Until orelse throw({hangs, unsettled(State)}),
    receive
        Message -> handle_message(Message, State#{until => {Index, Until}})
    after 1 -> State#{until => {Index, Until}}
    end.

%% Adds what the zones look like, so that a failure says what did not settle.
unsettled(#{module := Module} = State) ->
    Zones = [{Zone, Module:which_children(Zone)} || Zone <- ?ZONES, is_running(Zone)],
    State#{zones => Zones, starts => ets:lookup_element(?MODULE, starts, 2)}.

%% Handles all messages that have come.
handle_all(State) ->
    receive
        Message -> handle_all(handle_message(Message, State))
    after 0 -> State
    end.

handle_message({report, {called, Zone, Name, _, _} = Report}, State) ->
    #{reports := Reports, calling := Calling} = State,
    {{Kind, Pid, Monitor, _, _}, Rest} = maps:take({Zone, Name}, Calling),
    Called = State#{reports := [Report | Reports], calling := Rest},
    goes_on({Zone, Name}, {Kind, Pid, Monitor}, Called);
handle_message({failing, ChildId, Time}, #{failing := Failing} = State) ->
    State#{failing := Failing#{ChildId => Time}};
handle_message({report, Report}, #{reports := Reports} = State) ->
    handle_report(Report, State#{reports := [Report | Reports]});
handle_message({gated, ChildId, Kind, Pid}, #{gates := Gates} = State) ->
    State#{gates := Gates#{ChildId => {Kind, Pid, monitor(process, Pid)}}};
handle_message({calling, ChildId, Kind, Pid, Name, Function}, #{calling := Calling} = State) ->
    Target =
        case may_wait(Function) of
            true -> Name;
            false -> nobody
        end,
    Call = {Kind, Pid, monitor(process, Pid), Target, Function},
    State#{calling := Calling#{ChildId => Call}};
handle_message({'DOWN', Monitor, process, _, Answer}, #{pending := Pending} = State) when
    is_map_key(Monitor, Pending)
->
    #{log := Log} = State,
    {{Index, Function, _} = Call, Rest} = maps:take(Monitor, Pending),
    check_retry(Call, State),
    State#{pending := Rest, log := Log#{{Index, answer} => {Function, Answer}}};
handle_message({'DOWN', Monitor, process, _, _}, State) ->
    lists:foldl(
        fun(Where, Before) -> without_killed(Monitor, Where, Before) end,
        State,
        [gates, calling, going]
    );
handle_message({gen_tracker, Zone, Event}, #{events := Events, subscribed := Subscribed} = State) ->
    Updated = update_children(Zone, Event, Subscribed),
    State#{events := [{Zone, Event} | Events], subscribed := Updated};
handle_message(_, State) ->
    State.

%% Removes the callback that was killed, if it is here.
without_killed(Monitor, Where, State) ->
    Working = map_get(Where, State),
    Killed = maps:filter(fun(_, Work) -> element(3, Work) =:= Monitor end, Working),
    Left = State#{Where := maps:without(maps:keys(Killed), Working)},
    lists:foldl(fun count_killed/2, Left, maps:values(Killed)).

may_wait(Function) ->
    Waiting = [find_or_open, start_child, register_name, terminate_child, delete_child],
    lists:member(Function, Waiting).

handle_report({started, Zone, Name, Nth, Result}, State) ->
    Ended = start_ended({Zone, Name}, State),
    case is_pid(Result) of
        true -> identify(Result, {child, Zone, Name, Nth}, Ended);
        false -> Ended
    end;
handle_report({helper, Zone, Name, Nth, Pid}, #{helpers := Helpers} = State) ->
    identify(Pid, {helper, Zone, Name, Nth}, State#{helpers := [{Zone, Pid} | Helpers]});
handle_report({fresh, Zone, Name, Nth, Pid}, State) ->
    identify(Pid, {fresh, Zone, Name, Nth}, State);
handle_report(_, State) ->
    State.

start_ended(ChildId, #{ended_starts := Ended, going := Going} = State) ->
    case maps:take(ChildId, Going) of
        {{start, _, Monitor}, Rest} ->
            demonitor(Monitor, [flush]),
            State#{ended_starts := Ended + 1, going := Rest};
        error ->
            State#{ended_starts := Ended + 1}
    end.

identify(Pid, As, #{pids := Pids} = State) ->
    State#{pids := Pids#{Pid => As}}.

%% Updates the children of the subscribed zones by an event.
update_children(Zone, {up, Name, Pid}, Subscribed) when is_map_key(Zone, Subscribed) ->
    maps:update_with(Zone, fun(Children) -> Children#{Name => Pid} end, Subscribed);
update_children(Zone, {down, Name, _, _}, Subscribed) when is_map_key(Zone, Subscribed) ->
    maps:update_with(Zone, fun(Children) -> maps:remove(Name, Children) end, Subscribed);
update_children(Zone, unsubscribed, Subscribed) ->
    maps:remove(Zone, Subscribed);
update_children(_, _, Subscribed) ->
    Subscribed.

%%% Calls

outcome(State, Module, Function, Arguments) ->
    outcome(callable(State, Module, Function, Arguments)).

callable(#{module := Tracker} = State, Module, Function, Arguments) ->
    Values = [value(Argument, State) || Argument <- Arguments],
    Called =
        case Module of
            tracker -> Tracker;
            _ -> Module
        end,
    fun() -> apply(Called, Function, Values) end.

%% Returns what a call returns or raises, without stack traces. For an improper list of modules,
%% `supervisor:check_childspecs/1` returns one.
outcome(Call) ->
    try Call() of
        {error, {'EXIT', {Reason, _}}} -> {returned, {error, Reason}};
        Answer -> {returned, Answer}
    catch
        exit:{{Reason, [{_, _, _, _} | _]}, {gen_server, _, _}} -> {exit, Reason};
        exit:{Reason, {gen_server, _, _}} -> {exit, Reason};
        exit:{Reason, {gen_tracker, subscribe, _}} -> {exit, Reason};
        exit:{Reason, {reference_tracker, subscribe, _}} -> {exit, Reason};
        Class:Reason -> {Class, Reason}
    end.

%% Starts the processes for which `{process, Number}` stands in arguments, if they are not alive.
with_processes(Arguments, State) ->
    lists:foldl(fun with_process/2, State, Arguments).

with_process({process, Number}, #{processes := Processes, index := Index} = State) ->
    case Processes of
        #{Number := Pid} when Number =/= dead ->
            replace_if_dead(is_process_alive(Pid), Number, State);
        #{} ->
            Pid = spawn(fun live/0),
            _ = [tracked_child:kill(Pid) || Number =:= dead],
            Known = identify(Pid, {process, Number, Index}, State),
            Known#{processes := Processes#{Number => Pid}}
    end;
with_process({Kind, Parts}, State) when Kind =:= list; Kind =:= tuple ->
    with_processes(Parts, State);
with_process({improper, Part}, State) ->
    with_process(Part, State);
with_process(_, State) ->
    State.

replace_if_dead(true, _, State) ->
    State;
replace_if_dead(false, Number, #{processes := Processes} = State) ->
    with_process({process, Number}, State#{processes := maps:remove(Number, Processes)}).

%% Returns the term that an expression stands for.
value({just, Term}, _) ->
    Term;
value({name, Number}, #{names := Names} = State) ->
    value(lists:nth(Number, Names), State);
value({alike, Number}, #{terms := #{alike := Alike}}) ->
    element(Number rem tuple_size(Alike) + 1, Alike);
value({kind, Number}, #{terms := #{kinds := Kinds}}) ->
    element(Number rem tuple_size(Kinds) + 1, Kinds);
value({list, Parts}, State) ->
    [value(Part, State) || Part <- Parts];
value({improper, Part}, State) ->
    [value(Part, State) | improper];
value({tuple, Parts}, State) ->
    list_to_tuple([value(Part, State) || Part <- Parts]);
value({map, Pairs}, State) ->
    maps:from_list([{Key, value(Part, State)} || {Key, Part} <- Pairs]);
value({map_of, Pairs}, State) ->
    maps:from_list([value(Pair, State) || Pair <- Pairs]);
value({deep, Depth, Part}, State) ->
    Wrap = fun(Level, Inner) -> wrap(Level rem 3, Inner) end,
    lists:foldl(Wrap, value(Part, State), lists:seq(1, Depth));
value({wide, Width, Part}, State) ->
    list_to_tuple(lists:duplicate(Width, value(Part, State)));
value({start, Zone, Name, Plan}, State) ->
    {?MODULE, start, [Zone, value(Name, State), [way_value(Way, State) || Way <- Plan]]};
value({tracker, Zone}, _) ->
    whereis(Zone);
value({on_node, Zone}, _) ->
    {Zone, node()};
value({process, Number}, #{processes := Processes}) ->
    map_get(Number, Processes).

way_value({Begins, {Target, Module, Function, Arguments}}, State) ->
    Values = [value(Argument, State) || Argument <- Arguments],
    {Begins, {value(Target, State), Module, Function, Values}};
way_value(Way, _) ->
    Way.

wrap(0, Inner) -> [Inner];
wrap(1, Inner) -> {deep, Inner};
wrap(2, Inner) -> #{Inner => Inner =:= []}.

%%% Comparing

%% Replaces known pids in a term by what they stand for.
symbolic(Pid, Pids) when is_pid(Pid) ->
    maps:get(Pid, Pids, Pid);
symbolic([Head | Tail], Pids) ->
    [symbolic(Head, Pids) | symbolic(Tail, Pids)];
symbolic(Tuple, Pids) when is_tuple(Tuple) ->
    list_to_tuple(symbolic(tuple_to_list(Tuple), Pids));
symbolic(Map, Pids) when is_map(Map), map_size(Map) < 33 ->
    maps:from_list(symbolic(maps:to_list(Map), Pids));
symbolic(Term, _) ->
    Term.

%% Sorts what may come in any order.
normalized(_, {answer, Outcome}) ->
    normalized(later_answer, Outcome);
normalized(reports, Reports) ->
    by_name([sort_attributes(Report) || Report <- Reports]);
normalized(state, Zones) ->
    [
        {Zone, sorted(Children), [sorted(Attributes) || Attributes <- All], Helpers}
     || {Zone, Children, All, Helpers} <- Zones
    ];
normalized(list, {returned, List}) ->
    sorted([{Name, [Pid | sorted(Attributes)]} || {Name, [Pid | Attributes]} <- List]);
normalized(subscribe, {returned, {ok, Children}}) ->
    {ok, sorted(Children)};
normalized(Function, {returned, List}) when
    is_list(List), Function =/= later_answer, Function =/= fold
->
    sorted(List);
normalized(_, Outcome) ->
    Outcome.

sort_attributes({ended, Name, Attributes, Reason}) -> {ended, Name, sorted(Attributes), Reason};
sort_attributes(Report) -> Report.

%% Sorts reports and events by their names, as only those of one name have an order. Reports of
%% `after_terminate` are sorted by their contents, because it is not told the zone.
by_name(Reports) ->
    lists:sort(fun(One, Other) -> key(One) =< key(Other) end, Reports).

key({Zone, Event}) when is_tuple(Event) -> term_to_binary({Zone, element(2, Event)});
key({Zone, unsubscribed}) -> term_to_binary({Zone});
key({ended, _, _, _} = Report) -> term_to_binary(Report, [deterministic]);
key(Report) -> term_to_binary({element(1, Report), element(2, Report), element(3, Report)}).

