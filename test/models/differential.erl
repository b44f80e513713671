%% The same random histories against gen_tracker and against `reference_tracker`, which is its
%% contract in the form of a program: every answer, error, event and call of `after_terminate` is
%% the same, and so is what can be read after each operation.
%%
%% A history is a list of operations that can be printed: their arguments are expressions (see
%% `value/2`). A player, a process that is registered as `differential`, plays it against one of the
%% two modules; then another one against the other. What they saw is compared with pids replaced by
%% what they stand for.
%%
%% Nothing depends on time: after each operation the player waits until the zone has reacted. What
%% has to last until another operation comes, a start or an `after_terminate`, waits at a gate. A
%% call that may wait for it is made in a process of its own, and its answer is compared whenever it
%% comes. `differential_history` makes the histories.
%%
%% Start functions and `after_terminate` call their zone, too, and may wait for a name at a gate. So
%% that no two of them compete for a name, they do so only while no other one waits: during an
%% operation the first one that comes to it, and those for which another one that calls waits.
%%
%% The player waits for short limits of time, such as that of a start. Where something has to happen
%% before a limit, the clock of the player says whether it may have come too late. Then the player
%% gives up, and the history is played again; no difference is looked at before.
-module(differential).

-export([round/1, replay/1, difference/2, shrunk/2]).
-export([start/3, acknowledged/3, registered/3, stubborn/0, failing/0, after_terminate/3]).

-import(prop_terms, [sorted/1]).

-define(ZONES, [differential_a, differential_b]).
%% Nothing takes so long, in milliseconds, unless it hangs.
-define(HANGS, 30000).
%% How long a history is made shorter, in milliseconds.
-define(PATIENCE, 120000).
%% A start that is to stop is ended so soon that it is waited for, even when its zone stops, in
%% milliseconds.
-define(SHORT, 5).
%% The shutdown time of a spec that is a triple, in milliseconds. A start is ended so soon that it
%% is waited for, unless its zone stops.
-define(BRIEF, 200).
%% How long the stop of a zone may last in which such a start goes on, in milliseconds.
-define(PROMPT, 190).
%% How long a start or an `after_terminate` may last that is to stop, and any operation, in
%% milliseconds: less than the limits that are not waited for.
-define(LIMIT, 2900).
%% Ten restarts of one child within ten seconds are made at once: how long a play may last in which
%% one was started more often, in milliseconds.
-define(INTENSITY, 10).
-define(PERIOD, 9900).
%% Within what time the operations come that are made while a child waits for its next start, in
%% milliseconds. It waits for 200.
-define(WINDOW, 190).
%% How often a history is played that was too slow.
-define(TIMES, 10).

%%% For the suite and the soak

%% So many histories.
round(Seed) ->
    _ = rand:seed(exsss, Seed),
    Seeds = [rand:uniform(1 bsl 50) || _ <- lists:seq(1, 40)],
    Histories = [differential_history:history(Each, 200) || Each <- Seeds],
    replayed(Histories, #{histories => 0, operations => 0}).

replayed([], Figures) ->
    {ok, Figures};
replayed([History | Histories], #{histories := Count, operations := Operations} = Figures) ->
    case compared(gen_tracker, History) of
        {none, Played} ->
            All = Operations + Played,
            replayed(Histories, Figures#{histories := Count + 1, operations := All});
        {Difference, _} ->
            %% A rare one may not be seen again.
            io:format("~tp~n", [Difference]),
            {failed, shrunk(gen_tracker, History)}
    end.

replay(History) ->
    replayed([History], #{histories => 0, operations => 0}).

%% The first difference between a module and the reference.
difference(Module, History) ->
    element(1, compared(Module, History)).

%% The same, and how many operations have been played: all, or those before one that nobody can play
%% in time.
compared(Module, History) ->
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    try
        Terms = #{
            alike => list_to_tuple(prop_terms:alike()),
            kinds => list_to_tuple(prop_terms:kinds())
        },
        Reference = played(reference_tracker, History, Terms, ?TIMES),
        Library = played(Module, History, Terms, ?TIMES),
        {first_difference(Reference, Library), length(History)}
    catch
        throw:{ends_before, Index} -> compared(Module, lists:sublist(History, Index - 1))
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

%% Leaves out what is not needed to fail: halves, quarters and so on, as long as that helps.
shrunk(Module, [Names | Operations]) ->
    Until = erlang:monotonic_time(millisecond) + ?PATIENCE,
    Fails = fun(Fewer) ->
        erlang:monotonic_time(millisecond) < Until andalso
            difference(Module, [Names | Fewer]) =/= none
    end,
    [Names | shrunk(Operations, max(1, length(Operations) div 2), Fails)].

shrunk(Operations, Size, Fails) ->
    case {without(0, Size, Operations, Fails), Size} of
        {Operations, 1} -> Operations;
        {Fewer, _} -> shrunk(Fewer, max(1, Size div 2), Fails)
    end.

without(From, _, Operations, _) when From >= length(Operations) ->
    Operations;
without(From, Size, Operations, Fails) ->
    {Before, Rest} = lists:split(From, Operations),
    Fewer = Before ++ lists:nthtail(min(Size, length(Rest)), Rest),
    case Fails(Fewer) of
        true -> without(From, Size, Fewer, Fails);
        false -> without(From + Size, Size, Operations, Fails)
    end.

%%% Children

%% What a start does is said by its plan, a list of ways to start, of which each start of that name
%% takes the next; or `{in_turn, Ways}`, of which the last is taken again and again.
start(Zone, Name, Plan) ->
    _ = ets:update_counter(?MODULE, calls, 1),
    Nth = counted({Zone, Name}),
    started(way(Plan, Zone, Name, Nth), Zone, Name, Nth).

way({in_turn, Ways}, Zone, Name, _) ->
    lists:nth(min(counted({in_turn, Zone, Name}), length(Ways)), Ways);
way(Plan, _, _, Nth) ->
    lists:nth(Nth rem length(Plan) + 1, Plan).

counted(What) ->
    ets:update_counter(?MODULE, What, 1, {What, 0}).

started(gated, Zone, Name, Nth) ->
    wait_at_gate(start, Zone, Name),
    started(plain, Zone, Name, Nth);
started(early, Zone, Name, Nth) ->
    ok = tracker(setattr, [Zone, Name, [{early, Nth}, {left, self}]]),
    started(plain, Zone, Name, Nth);
started(acknowledged, Zone, Name, Nth) ->
    proc_lib:start_link(?MODULE, acknowledged, [Zone, Name, Nth]);
started(registered, Zone, Name, Nth) ->
    proc_lib:start_link(?MODULE, registered, [Zone, Name, Nth]);
started({starts_with, Call}, Zone, Name, Nth) ->
    called(start, Zone, Name, Call),
    started(plain, Zone, Name, Nth);
started(lasting, Zone, Name, Nth) ->
    ok = tracker(setattr, [Zone, Name, last, {gate, Zone}]),
    started(plain, Zone, Name, Nth);
started({ends_with, Call}, Zone, Name, Nth) ->
    ok = tracker(setattr, [Zone, Name, last, {call, Zone, Call}]),
    started(plain, Zone, Name, Nth);
%% What it likes, in the process that the library gives it.
started(untrapping, Zone, Name, Nth) ->
    process_flag(trap_exit, false),
    started(plain, Zone, Name, Nth);
started(unlinking, Zone, Name, Nth) ->
    {ok, Pid} = started(plain, Zone, Name, Nth),
    {links, Links} = process_info(self(), links),
    [unlink(Link) || Link <- Links],
    {ok, Pid};
started(flushing, Zone, Name, Nth) ->
    wait_at_gate(start, Zone, Name),
    flush(),
    started(plain, Zone, Name, Nth);
started(helped, Zone, Name, Nth) ->
    note({helper, Zone, Name, Nth, spawn_link(fun live/0)}),
    started(plain, Zone, Name, Nth);
started(dead, Zone, Name, Nth) ->
    {Pid, Monitor} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', Monitor, process, Pid, normal} -> ok end,
    note({started, Zone, Name, Nth, Pid}),
    {ok, Pid};
started(Way, Zone, Name, Nth)
        when Way =:= plain; Way =:= info; Way =:= trapping; Way =:= stubborn ->
    {ok, Pid} = running(Way),
    note({started, Zone, Name, Nth, Pid}),
    case Way of
        info -> {ok, Pid, {info, Nth}};
        _ -> {ok, Pid}
    end;
started(Failure, Zone, Name, Nth) ->
    ok = tracker(setattr, [Zone, Name, [{left, Nth}]]),
    note({started, Zone, Name, Nth, Failure}),
    fail(Failure, Nth).

running(trapping) -> tracked_child:start_link(?MODULE, [trap_exit]);
running(stubborn) -> proc_lib:start_link(?MODULE, stubborn, []);
running(_) -> tracked_child:start_link(?MODULE).

%% Beyond the reach of any exit signal but `kill` before its start returns.
stubborn() ->
    process_flag(trap_exit, true),
    proc_lib:init_ack({ok, self()}),
    live().

flush() ->
    receive
        _ -> flush()
    after 0 -> ok
    end.

fail(ignore, _) -> ignore;
fail(refused, Nth) -> {error, {no, Nth}};
fail(error, Nth) when Nth rem 2 =:= 0 -> {error, {no, Nth}};
fail(error, Nth) -> error({crash, Nth});
fail(throw, Nth) -> throw({thrown, Nth});
fail(exit, Nth) -> exit({gone, Nth});
fail(init, _) -> proc_lib:start_link(?MODULE, failing, []);
fail(return, Nth) ->
    Odd = [{what, Nth}, undefined, {error, 404, Nth}, ok, {ok}, {ok, Nth}, {ok, no_pid, Nth},
           {ok, {Nth}}, [], {ok, 1, 2, 3}],
    lists:nth(Nth rem length(Odd) + 1, Odd).

failing() ->
    exit(failed).

acknowledged(Zone, Name, Nth) ->
    ok = tracker(init_ack, [{ok, self()}]),
    ok = tracker(setattr, [Zone, Name, mine, Nth]),
    {ok, Found} = tracker(find, [Zone, Name]),
    note({started, Zone, Name, Nth, Found}),
    live().

%% Under its own name, which it will have, and under another one.
registered(Zone, Name, Nth) ->
    Answers = [tracker(register_name, [{Zone, Its}, self()]) || Its <- [Name, {alias, Name}]],
    note({started, Zone, Name, Nth, self()}),
    note({registered, Zone, Name, Answers}),
    proc_lib:init_ack({ok, self()}),
    live().

live() ->
    receive
        {stop, Reason} -> exit(Reason);
        _ -> live()
    end.

%% The attribute `last` says what is to happen here.
after_terminate(Name, Attributes, Reason) ->
    note({ended, Name, Attributes, Reason}),
    case lists:keyfind(last, 1, Attributes) of
        {last, {gate, Zone}} -> wait_at_gate(terminate, Zone, Name);
        {last, {call, Zone, Call}} -> called(terminate, Zone, Name, Call);
        {last, crash} -> error(crash);
        _ -> ok
    end.

%% A call of a start function or of `after_terminate`, which may wait for another name.
called(Kind, Zone, Name, {Target, Module, Function, Arguments}) ->
    case may_call(Kind, {Zone, Name}, {Zone, Target}, Function) of
        true ->
            tell({calling, {Zone, Name}, Kind, self(), {Zone, Target}, Function}),
            Ready = [fresh(Argument, Zone, Name) || Argument <- Arguments],
            Of = case Module of tracker -> ets:lookup_element(?MODULE, module, 2); _ -> Module end,
            note({called, Zone, Name, Function, outcome(fun() -> apply(Of, Function, Ready) end)});
        false ->
            note({not_called, Zone, Name})
    end.

%% While a zone stops, what depends on who comes first is left out.
may_call(Kind, Subject, Target, Function) ->
    try ets:lookup_element(?MODULE, calls_of_callbacks, 2) of
        all -> is_next(Kind, Subject) andalso awaited(Target, Function);
        none -> false;
        refused -> Function =/= find_or_open andalso Function =/= unregister_name
    catch
        error:badarg -> false
    end.

%% The first to call, or called for by the last one.
is_next(Kind, Subject) ->
    ets:take(?MODULE, {awaited, Kind, Subject}) =/= [] orelse
        ets:insert_new(?MODULE, {called, Subject}).

awaited(Target, Function) ->
    case Function of
        _ when Function =:= find_or_open; Function =:= start_child ->
            ets:insert(?MODULE, {{awaited, start, Target}});
        _ when Function =:= terminate_child; Function =:= delete_child ->
            ets:insert(?MODULE, {{awaited, terminate, Target}});
        _ ->
            true
    end.

%% A process that nobody else knows.
fresh(fresh, Zone, Name) ->
    Pid = spawn(fun live/0),
    note({fresh, Zone, Name, counted({fresh, Zone, Name}), Pid}),
    Pid;
fresh(Tuple, Zone, Name) when is_tuple(Tuple) ->
    list_to_tuple([fresh(Part, Zone, Name) || Part <- tuple_to_list(Tuple)]);
fresh(Argument, _, _) ->
    Argument.

tracker(Function, Arguments) ->
    apply(ets:lookup_element(?MODULE, module, 2), Function, Arguments).

note(Note) ->
    tell({note, Note}).

wait_at_gate(Kind, Zone, Name) ->
    case has_gates(Zone) of
        true ->
            tell({gated, {Zone, Name}, Kind, self()}),
            receive go -> ok end;
        false ->
            ok
    end.

%% A zone that is killed has none.
has_gates(Zone) ->
    try not ets:member(?MODULE, {open, Zone}) catch error:badarg -> false end.

%% Processes that nobody waits for any more may be left when the player has gone.
tell(Message) ->
    try ?MODULE ! Message catch error:badarg -> Message end.

%%% The player

%% What was seen: `[{Operation, What, Term}]`.
played(Module, History, Terms, Times) ->
    {Player, Monitor} = spawn_monitor(fun() -> exit({seen, play(Module, History, Terms)}) end),
    receive
        {'DOWN', Monitor, process, Player, {seen, Seen}} ->
            Seen;
        {'DOWN', Monitor, process, Player, {too_slow, player, _}} when Times > 1 ->
            played(Module, History, Terms, Times - 1);
        {'DOWN', Monitor, process, Player, {too_slow, _, Step}} when Step > length(?ZONES) ->
            throw({ends_before, Step - length(?ZONES)});
        {'DOWN', Monitor, process, Player, Reason} ->
            Left = [Pid || Zone <- ?ZONES, Pid <- [whereis(Zone)], is_pid(Pid)],
            lists:foreach(fun tracked_child:kill/1, Left),
            [{crashed, Module, Reason}]
    end.

play(Module, History, Terms) ->
    true = register(?MODULE, self()),
    process_flag(trap_exit, true),
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    true = ets:insert(?MODULE, [{module, Module}, {calls, 0}]),
    State = #{
        module => Module, terms => Terms, names => names(History), index => 0,
        began => erlang:monotonic_time(millisecond),
        %% Starts and calls of after_terminate that wait at a gate, and those that wait for a name.
        gates => #{}, calling => #{},
        %% When somebody first asked for the end of what is still at work.
        limited => #{},
        %% Whether something has waited for a limit of time during the operation.
        waited => false,
        asks => #{}, noted => 0, notes => [], log => #{}, helpers => [],
        processes => #{}, pids => #{}, events => [], subscribed => #{}
    },
    Starts = [{start, Zone, [{just, Zone}]} || Zone <- ?ZONES],
    Stops = [{stop, Zone, stop} || Zone <- ?ZONES],
    try lists:foldl(fun step/2, State, Starts ++ History ++ Stops) of
        Last -> seen(Last)
    catch
        throw:{too_slow, Who, Left} -> given_up(Who, Left)
    end.

%% Nothing is left that could reach the next player.
given_up(Who, #{index := Step} = State) ->
    Running = [{Zone, Tracker} || Zone <- ?ZONES, Tracker <- [whereis(Zone)], is_pid(Tracker)],
    Kill = fun({Zone, Tracker}, Before) -> killed(Zone, Tracker, Before) end,
    allow(none),
    #{pids := Pids} = lists:foldl(Kill, State, Running),
    [exit(Pid, kill) || Pid <- maps:keys(Pids)],
    exit({too_slow, Who, Step}).

seen(#{log := Log, events := Events, pids := Pids}) ->
    [exit(Pid, kill) || Pid <- maps:keys(Pids)],
    Seen = fun({{Index, What}, {Function, Term}}) ->
        {Index, What, shown(Function, symbolic(Term, Pids))}
    end,
    lists:map(Seen, lists:sort(maps:to_list(Log))) ++
        [{events, of_each_name, by_name(symbolic(lists:reverse(Events), Pids))}].

names(History) ->
    hd([Names || {names, Names} <- History] ++ [[]]).

step(Operation, #{index := Index} = Before) ->
    Begins = erlang:monotonic_time(millisecond),
    in_time(Begins, Before),
    allow_calls(Operation, Before),
    try
        Ready = Before#{index := Index + 1, notes := [], waited := false},
        Settled = settled(perform(Operation, Ready)),
        in_time(Begins, Settled),
        State = limited(Begins, Settled),
        #{index := Last, notes := Notes, log := Log} = State,
        State#{log := Log#{
            {Last, notes} => {notes, lists:reverse(Notes)},
            {Last, state} => {state, everything(State)}
        }}
    catch
        throw:{hangs, Left} ->
            exit({hangs, Index + 1, Operation, maps:without([log, terms, events, pids], Left)})
    end.

allow_calls({stop, _, kill}, _) -> allow(none);
allow_calls({stop, _, _}, _) -> allow(refused);
allow_calls({while, _, _, _, _}, _) -> allow(none);
allow_calls(_, #{calling := Calling}) when map_size(Calling) =:= 0 -> allow(all);
allow_calls(_, _) -> allow(none).

allow(Which) ->
    true = ets:delete(?MODULE, called),
    true = ets:match_delete(?MODULE, {{awaited, '_', '_'}}),
    true = ets:insert(?MODULE, {calls_of_callbacks, Which}).

%% What somebody has asked to end has a limit of time.
limited(Begins, #{limited := Limited} = State) ->
    Ending = [
        Subject
     || Subject <- ending(State), blocked(Subject, State) =/= none, shutdown(Subject) < ?HANGS
    ],
    State#{limited := maps:merge(maps:from_keys(Ending, Begins), maps:with(Ending, Limited))}.

%% Nothing has come to its limit that was not waited for. It is not the player who is slow when a
%% child waits long for its next start.
in_time(Begins, #{began := Began, limited := Limited, waited := Waited} = State) ->
    Now = erlang:monotonic_time(millisecond),
    IsLate = lists:any(fun(Since) -> Now - Since > ?LIMIT end, [Begins | maps:values(Limited)]),
    if
        IsLate, Waited, Now - Begins > ?LIMIT div 2 -> throw({too_slow, zone, State});
        IsLate -> throw({too_slow, player, State});
        Now - Began > ?PERIOD -> is_restarted_often() andalso throw({too_slow, player, State});
        true -> ok
    end.

is_restarted_often() ->
    Starts = [Count || {{Zone, _}, Count} <- ets:tab2list(?MODULE), lists:member(Zone, ?ZONES)],
    lists:any(fun(Count) -> Count > ?INTENSITY end, Starts).

logged(Function, Answer, #{index := Index, log := Log} = State) ->
    State#{log := Log#{{Index, answer} => {Function, Answer}}}.

%% What everybody can read, and whether what was started beside children is alive.
everything(#{module := Module, names := Names, helpers := Helpers} = State) ->
    Terms = [value(Name, State) || Name <- Names],
    [
        {
            Zone,
            sorted(Module:which_children(Zone)),
            [sorted(Module:info(Zone, Name)) || Name <- Terms],
            [is_process_alive(Helper) || {Of, Helper} <- Helpers, Of =:= Zone]
        }
     || Zone <- ?ZONES, is_running(Zone)
    ].

perform({names, _}, State) ->
    State;
perform({start, Zone, Arguments}, #{pids := Pids, index := Index} = State) ->
    case outcome(State, tracker, start_link, Arguments) of
        {returned, {ok, Pid}} = Started ->
            logged(start_link, Started, State#{pids := Pids#{Pid => {tracker, Zone, Index}}});
        Refused ->
            logged(start_link, Refused, State)
    end;
perform({call, Module, Function, Arguments}, State) ->
    Ready = with_processes(Arguments, State),
    logged(Function, outcome(Ready, Module, Function, Arguments), Ready);
perform({ask, Zone, Name, Module, Function, Arguments}, State) ->
    #{index := Index} = State,
    Subject = {Zone, value(Name, State)},
    IsAdd = is_add(Function, Arguments),
    case blocked(Subject, State) of
        none ->
            asked(Subject, Module, Function, Arguments, State);
        {terminate, _} when IsAdd ->
            %% When its turn comes, another child may be starting, or run already: then its answer
            %% depends on who was faster.
            case is_last(Subject) andalso not is_asked_for(Subject, State) of
                true -> asked_alone(Subject, Module, Function, Arguments, Index, State);
                false -> State
            end;
        _ ->
            asked_alone(Subject, Module, Function, Arguments, Index, State)
    end;
perform({subscribe, Zone}, #{subscribed := Subscribed} = State) ->
    case outcome(State, tracker, subscribe, [{just, Zone}]) of
        {returned, {ok, Children}} = Answer ->
            Known = maps:merge(#{Zone => maps:from_list(Children)}, Subscribed),
            logged(subscribe, Answer, State#{subscribed := Known});
        Refused ->
            logged(subscribe, Refused, State)
    end;
perform({unsubscribe, Zone}, State) ->
    %% So that the events until now have come.
    _ = outcome(State, tracker, subscribe, [{just, Zone}]),
    #{subscribed := Subscribed} = Told = taken(State),
    Answer = outcome(State, tracker, unsubscribe, [{just, Zone}]),
    logged(unsubscribe, Answer, Told#{subscribed := maps:remove(Zone, Subscribed)});
perform({exit, Zone, Name, Reason}, State) ->
    Found = outcome(State, tracker, find, [{just, Zone}, Name]),
    _ = [stop(Pid, Reason) || {returned, {ok, Pid}} <- [Found]],
    logged(find, Found, State);
perform({open_gate, Zone, Name}, State) ->
    opened([{Zone, value(Name, State)}], State);
perform({await_attribute, Zone, Name, Key, Increment}, State) ->
    Attribute = [{just, Zone}, Name, Key],
    Call = call(State, tracker, getattr, Attribute ++ [{just, ?HANGS}]),
    IsThere = outcome(State, tracker, getattr, Attribute),
    Monitor = callers:ask(fun() -> outcome(Call) end),
    callers:waiting(),
    Incremented = outcome(State, tracker, increment, Attribute ++ [Increment, {just, 0}]),
    Awaited =
        receive
            {'DOWN', Monitor, process, _, {answer, Answer}} -> Answer
        after ?HANGS -> hangs
        end,
    logged(getattr, {IsThere, Incremented, Awaited}, State);
perform({while, Waits, Zone, Name, Operations}, State) ->
    case is_free(Zone, Name, State) andalso begun_to_wait(Waits, Zone, Name, State) of
        false ->
            State;
        Began ->
            Asked = lists:foldl(fun meanwhile/2, State#{waited := true}, Operations),
            erlang:monotonic_time(millisecond) - Began < ?WINDOW orelse
                throw({too_slow, player, Asked}),
            Asked
    end;
perform({stop, Zone, How}, State) ->
    case whereis(Zone) of
        undefined ->
            logged(stop, not_running, State);
        Tracker when How =:= kill ->
            Settled = settled(opened(gates([terminate], Zone, State), State)),
            case has_shared(Zone, Settled) of
                true -> stopped(Zone, Tracker, shutdown, Settled);
                false -> killed(Zone, Tracker, Settled)
            end;
        Tracker ->
            stopped(Zone, Tracker, How, State)
    end.

%% What a player does in several steps

asked(Subject, Module, Function, Arguments, State) ->
    #{index := Index, asks := Asks} = Ready = with_processes(Arguments, State),
    Call = call(Ready, Module, Function, Arguments),
    Monitor = callers:ask(fun() -> outcome(Call) end),
    Ready#{asks := Asks#{Monitor => {Index, Function, Subject}}}.

is_add(add_existing_child, _) -> true;
is_add(call, [_, {tuple, [{just, add_existing_child} | _]}, _]) -> true;
is_add(_, _) -> false.

%% The same with processes that nobody else knows: they live when its turn comes. Of one that is
%% dead by then others may be told, or be not.
asked_alone({Zone, _} = Subject, Module, Function, Arguments, Index, State) ->
    Alone = [alone(Argument, Index) || Argument <- Arguments],
    Asked = asked(Subject, Module, Function, Alone, State),
    handled(Zone, Asked),
    Asked.

alone({process, _}, Index) ->
    {process, {alone, Index}};
alone({Kind, Parts}, Index) when Kind =:= tuple; Kind =:= list ->
    {Kind, [alone(Part, Index) || Part <- Parts]};
alone({improper, Part}, Index) ->
    {improper, alone(Part, Index)};
alone(Expression, _) ->
    Expression.

%% All that was asked until now has come to the tracker, and has been handled.
handled(Zone, State) ->
    callers:waiting(),
    {returned, ok} = outcome(State, tracker, wait, [{just, Zone}]).

%% A child that ignores the signal is told by the message.
stop(Pid, kill) ->
    tracked_child:kill(Pid);
stop(Pid, Reason) ->
    exit(Pid, Reason),
    tracked_child:stop(Pid, Reason).

%% Those of some gates that are there are opened.
opened(Subjects, #{gates := Gates} = State) ->
    lists:foldl(fun open/2, State, [Subject || Subject <- Subjects, is_map_key(Subject, Gates)]).

open(Subject, #{gates := Gates} = State) ->
    {{_, Pid, Monitor} = Gate, Rest} = maps:take(Subject, Gates),
    case demonitor(Monitor, [flush, info]) of
        true -> Pid ! go, State#{gates := Rest};
        false -> gone(Gate, State#{gates := Rest})
    end.

%% A process that was at work has been killed: its start will not be noted.
gone(Work, #{noted := Noted} = State) when element(1, Work) =:= start ->
    State#{noted := Noted + 1};
gone(_, State) ->
    State.

gates(Kinds, Zone, #{gates := Gates}) ->
    [Subject || {{Of, _} = Subject, {Kind, _, _}} <- maps:to_list(Gates), Of =:= Zone,
        lists:member(Kind, Kinds)].

%% A child that waits for its next start

is_free(Zone, Name, #{module := Module} = State) ->
    is_running(Zone) andalso
        not lists:keymember(value(Name, State), 1, Module:which_children(Zone)).

%% Starts a child, and has it wait for its next start: because it was restarted too often, or
%% because its start fails. For the second time, as it does not wait long for the first time. Not
%% where nothing is restarted. Returns a time before that.
begun_to_wait(Waits, Zone, Name, #{module := Module} = State) ->
    Term = value(Name, State),
    {Ways, Kills, Starts} =
        case Waits of
            slowed -> {[plain], 11, 12};
            failed -> {[plain, refused, refused, plain], 0, 3}
        end,
    true = ets:delete(?MODULE, {in_turn, Zone, Term}),
    Start = {?MODULE, start, [Zone, Term, {in_turn, Ways}]},
    {ok, Pid} = Module:find_or_open(Zone, {Term, Start, permanent, infinity, worker, []}),
    case restarted(Kills, Pid, Zone, Term, Module) of
        gone ->
            false;
        Last ->
            Now = erlang:monotonic_time(millisecond),
            tracked_child:kill(Last),
            await_waiting({Waits, Starts}, Now, Zone, Term, State)
    end.

restarted(0, Pid, _, _, _) ->
    Pid;
restarted(Times, Pid, Zone, Name, Module) ->
    tracked_child:kill(Pid),
    case await_other(Pid, Zone, Name, Module) of
        gone -> gone;
        Next -> restarted(Times - 1, Next, Zone, Name, Module)
    end.

await_other(Pid, Zone, Name, Module) ->
    case {Module:find(Zone, Name), lists:keymember(Name, 1, Module:which_children(Zone))} of
        {{ok, Other}, _} when Other =/= Pid -> Other;
        {_, false} -> gone;
        {_, true} -> receive after 1 -> await_other(Pid, Zone, Name, Module) end
    end.

await_waiting({_, Last} = Expected, Before, Zone, Name, #{module := Module} = State) ->
    Now = erlang:monotonic_time(millisecond),
    Starts = ets:lookup_element(?MODULE, {in_turn, Zone, Name}, 2),
    case {lists:keymember(Name, 1, Module:which_children(Zone)), waits(Module, Zone, Name)} of
        {true, Waits} when {Waits, Starts} =:= Expected -> Before;
        {false, _} -> false;
        _ when Starts > Last -> throw({too_slow, player, State});
        _ -> receive after 1 -> await_waiting(Expected, Now, Zone, Name, State) end
    end.

waits(reference_tracker, Zone, Name) ->
    reference_tracker:state(Zone, Name);
waits(_, Zone, Name) ->
    case proctab_nif:child(Zone, Name) of
        {pending, _, _, _} -> failed;
        {slowed, _, _, _} -> slowed;
        _ -> neither
    end.

meanwhile({ask, Zone, Name, Module, Function, Arguments}, #{index := Index} = State) ->
    Subject = {Zone, value(Name, State)},
    asked_alone(Subject, Module, Function, Arguments, Index, State#{index := Index + 1});
meanwhile({call, _, _, _} = Operation, #{index := Index} = State) ->
    perform(Operation, State#{index := Index + 1}).

%% The end of a zone

%% Whether a process has two names in a zone. When the tracker is killed, it depends on who comes
%% first whether one of them is seen to end, and restarted, before the other one.
has_shared(Zone, #{module := Module}) ->
    Pids = [Pid || {_, Pid, _, _} <- Module:which_children(Zone), is_pid(Pid)],
    length(lists:usort(Pids)) < length(Pids).

killed(Zone, Tracker, #{module := Module} = State) ->
    Children = [Pid || {_, Pid, _, _} <- Module:which_children(Zone), is_pid(Pid)],
    Monitors = [monitor(process, Pid) || Pid <- Children ++ zones:beside(Zone)],
    true = ets:insert(?MODULE, {{open, Zone}}),
    tracked_child:kill(Tracker),
    Opened = opened(gates([start, terminate], Zone, State), State),
    lists:foreach(fun(Monitor) -> await_down(Monitor, Opened) end, Monitors),
    true = ets:delete(?MODULE, {open, Zone}),
    %% What is called back then, and with which attributes, is not said anywhere; nor in which order
    %% children end.
    #{log := Log, index := Index} = Left = settled(forgotten(Zone, taken(Opened))),
    Left#{notes := [], log := Log#{{Index, answer} => {stop, killed}}}.

stopped(Zone, Tracker, How, #{asks := Asks, index := Index} = State) ->
    Short = [Subject || Subject <- gates([start], Zone, State), shutdown(Subject) =< ?SHORT],
    Brief = [
        Subject
     || {Of, _} = Subject <- starting(State) -- Short, Of =:= Zone, shutdown(Subject) =< ?BRIEF
    ],
    Began = erlang:monotonic_time(millisecond),
    Monitor = stop_zone(How, Zone, Tracker),
    %% Before any gate is opened, or those who wait behind it are served.
    await_stop_began(Zone, State),
    Stopping = State#{asks := Asks#{Monitor => {Index, stop, {Zone, stop}}}},
    Stopped = await_stop(Zone, Tracker, Monitor, Short, Stopping),
    Brief =:= [] orelse erlang:monotonic_time(millisecond) - Began < ?PROMPT orelse
        throw({too_slow, player, Stopped}),
    Stopped.

stop_zone(exit, _, Tracker) ->
    Monitor = monitor(process, Tracker),
    exit(Tracker, shutdown),
    Monitor;
stop_zone(gen_server, Zone, _) ->
    callers:ask(fun() -> outcome(fun() -> gen_server:stop(Zone) end) end);
stop_zone(How, Zone, _) ->
    callers:ask(fun() -> outcome(fun() -> gen_server:call(Zone, How, infinity) end) end).

await_stop_began(Zone, State) ->
    case outcome(State, tracker, wait, [{just, Zone}]) of
        {returned, ok} -> await_stop_began(Zone, State);
        _ -> began
    end.

%% Starts that have no time are killed; all that has some is let go.
await_stop(Zone, Tracker, Monitor, Short, #{asks := Asks} = State)
        when is_map_key(Monitor, Asks) ->
    Long = gates([start, terminate], Zone, State) -- Short,
    await_stop(Zone, Tracker, Monitor, Short, next(opened(Long, State)));
await_stop(Zone, Tracker, _, _, #{helpers := Helpers} = State) ->
    %% The answer comes a little earlier than the end.
    Ending = [Tracker | [Helper || {Of, Helper} <- Helpers, Of =:= Zone]],
    lists:foreach(fun(Pid) -> await_down(monitor(process, Pid), State) end, Ending),
    without_work(Zone, State#{helpers := [Other || {Of, _} = Other <- Helpers, Of =/= Zone]}).

await_down(Monitor, State) ->
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after ?HANGS -> throw({hangs, State})
    end.

%% Those who were at work in the zone have ended with it.
without_work(Zone, #{gates := Gates, calling := Calling} = State) ->
    case [Subject || {Of, _} = Subject <- maps:keys(Gates) ++ maps:keys(Calling), Of =:= Zone] of
        [] -> State;
        _ -> without_work(Zone, next(State))
    end.

%% All of them are gone, and what they have not said they will not say.
forgotten(Zone, #{gates := Gates, calling := Calling, helpers := Helpers} = State) ->
    IsOther = fun({Of, _}, _) -> Of =/= Zone end,
    Left = State#{
        gates := maps:filter(IsOther, Gates),
        calling := maps:filter(IsOther, Calling),
        helpers := [Other || {Of, _} = Other <- Helpers, Of =/= Zone]
    },
    Left#{noted := ets:lookup_element(?MODULE, calls, 2) - starts(Left)}.

%%% Waiting until all have reacted

%% Whatever comes after the zones were found steady may start something: then they are looked at
%% again.
settled(State) ->
    Taken = taken(State),
    case is_answered(Taken) andalso is_steady(Taken) of
        true ->
            case taken(with_calls(Taken)) of
                Taken -> Taken;
                Other -> settled(Other)
            end;
        false ->
            settled(later(waited(Taken)))
    end.

%% Those who have asked have their answers, or wait until another operation comes.
is_answered(#{asks := Asks} = State) ->
    lists:all(fun({_, _, Subject}) -> stays(Subject, State) end, maps:values(Asks)).

%% What callbacks ask has come to their zones when this returns.
with_calls(#{calling := Calling} = State) when map_size(Calling) =:= 0 ->
    State;
with_calls(State) ->
    lists:foreach(fun(Zone) -> handled(Zone, State) end, lists:filter(fun is_running/1, ?ZONES)),
    State.

%% A start may be waiting to be killed, or a child for its next start.
waited(#{waited := true} = State) ->
    State;
waited(#{module := Module} = State) ->
    Next = [
        Name
     || Zone <- ?ZONES, is_running(Zone), {Name, launching, _, _} <- Module:which_children(Zone),
        lists:member(waits(Module, Zone, Name), [failed, slowed])
    ],
    IsKilled = lists:any(fun(Of) -> is_killed(Of, State) end, starting(State)),
    State#{waited := Next =/= [] orelse IsKilled}.

is_steady(#{noted := Noted, subscribed := Subscribed} = State) ->
    lists:all(
        fun
            (Zone) when is_map_key(Zone, Subscribed) ->
                is_running(Zone) andalso is_steady(Zone, map_get(Zone, Subscribed), State);
            (Zone) ->
                not is_running(Zone) orelse is_steady(Zone, all, State)
        end,
        ?ZONES
    ) andalso
        %% Last: a child that runs may still be about to say so.
        ets:lookup_element(?MODULE, calls, 2) =:= Noted + starts(State).

is_running(Zone) ->
    is_pid(whereis(Zone)).

is_steady(Zone, Known, #{module := Module} = State) ->
    Children = Module:which_children(Zone),
    lists:all(
        fun
            ({_, Pid, _, _}) when is_pid(Pid) -> is_process_alive(Pid);
            ({Name, _, _, _}) -> stays({Zone, Name}, State)
        end,
        Children
    ) andalso
        (Known =:= all orelse
            Known =:= maps:from_list([{Name, Pid} || {Name, Pid, _, _} <- Children, is_pid(Pid)])).

%% Starts that are under way.
starts(State) ->
    length(starting(State)).

starting(#{gates := Gates, calling := Calling}) ->
    Work = maps:to_list(Gates) ++ maps:to_list(Calling),
    [Subject || {Subject, Its} <- Work, element(1, Its) =:= start].

%% Whether the start or the after_terminate of a name waits until another operation comes: at its
%% own gate, or for a name that waits.
blocked(Subject, State) ->
    blocked(Subject, [], State).

blocked(Subject, Before, #{gates := Gates, calling := Calling} = State) ->
    case {Gates, Calling} of
        {#{Subject := {Kind, Pid, _}}, _} ->
            {Kind, Pid};
        {_, #{Subject := {Kind, Pid, _, Target, _}}} ->
            %% A cycle is about to be broken.
            IsCycle = lists:member(Target, [Subject | Before]),
            case not IsCycle andalso stays(Target, [Subject | Before], State) of
                true -> {Kind, Pid};
                false -> none
            end;
        _ ->
            none
    end.

%% That is so, and it is not a start that is just being killed.
stays(Subject, State) ->
    stays(Subject, [], State).

stays(Subject, Before, State) ->
    case blocked(Subject, Before, State) of
        none -> false;
        {terminate, _} -> true;
        {start, _} -> not is_killed(Subject, State)
    end.

%% Whether somebody waits for the end of a start that is not given long.
is_killed(Subject, State) ->
    lists:member(Subject, ending(State)) andalso shutdown(Subject) =< ?BRIEF.

%% The names of which somebody waits for the end.
ending(#{asks := Asks, calling := Calling}) ->
    Ends = fun(Function) -> lists:member(Function, [terminate_child, delete_child]) end,
    [Subject || {_, Function, Subject} <- maps:values(Asks), Ends(Function)] ++
        [Target || {_, _, _, Target, Function} <- maps:values(Calling), Ends(Function)].

is_asked_for(Subject, #{asks := Asks}) ->
    [waiting || {_, _, Of} <- maps:values(Asks), Of =:= Subject] =/= [].

%% `infinity` is more than any number.
shutdown(Subject) ->
    case spec(Subject) of
        #{shutdown := brutal_kill} -> 0;
        #{shutdown := Shutdown} -> Shutdown;
        none -> infinity
    end.

is_last(Subject) ->
    case spec(Subject) of
        #{restart := temporary} -> true;
        _ -> false
    end.

spec({Zone, Name}) ->
    case is_running(Zone) andalso supervisor:get_childspec(Zone, Name) of
        {ok, Spec} -> Spec;
        _ -> none
    end.

%% What comes next, whatever it may be.
next(State) ->
    receive
        Message -> told(Message, State)
    after ?HANGS -> throw({hangs, State})
    end.

%% What comes next, or nothing that anybody tells of.
later(#{index := Index} = State) ->
    Until =
        case State of
            #{until := {Index, Known}} -> Known;
            _ -> erlang:monotonic_time(millisecond) + ?HANGS
        end,
    erlang:monotonic_time(millisecond) < Until orelse throw({hangs, State}),
    receive
        Message -> told(Message, State#{until => {Index, Until}})
    after 1 -> State#{until => {Index, Until}}
    end.

taken(State) ->
    receive
        Message -> taken(told(Message, State))
    after 0 -> State
    end.

told({note, {called, Zone, Name, _, _} = Note}, #{notes := Notes, calling := Calling} = State) ->
    {{_, _, Monitor, _, _}, Rest} = maps:take({Zone, Name}, Calling),
    demonitor(Monitor, [flush]),
    State#{notes := [Note | Notes], calling := Rest};
told({note, Note}, #{notes := Notes} = State) ->
    noted(Note, State#{notes := [Note | Notes]});
told({gated, Subject, Kind, Pid}, #{gates := Gates} = State) ->
    State#{gates := Gates#{Subject => {Kind, Pid, monitor(process, Pid)}}};
told({calling, Subject, Kind, Pid, Name, Function}, #{calling := Calling} = State) ->
    Target =
        case may_wait(Function) of
            true -> Name;
            false -> nobody
        end,
    Call = {Kind, Pid, monitor(process, Pid), Target, Function},
    State#{calling := Calling#{Subject => Call}};
told({'DOWN', Monitor, process, _, Answer}, #{asks := Asks, log := Log} = State)
        when is_map_key(Monitor, Asks) ->
    {{Index, Function, _}, Rest} = maps:take(Monitor, Asks),
    State#{asks := Rest, log := Log#{{Index, answer} => {Function, Answer}}};
told({'DOWN', Monitor, process, _, _}, #{gates := Gates, calling := Calling} = State) ->
    Is = fun(_, Work) -> element(3, Work) =:= Monitor end,
    Killed = maps:values(maps:filter(Is, Gates)) ++ maps:values(maps:filter(Is, Calling)),
    Others = fun(Work) -> maps:filter(fun(Subject, Its) -> not Is(Subject, Its) end, Work) end,
    lists:foldl(fun gone/2, State#{gates := Others(Gates), calling := Others(Calling)}, Killed);
told({gen_tracker, Zone, Event}, #{events := Events, subscribed := Subscribed} = State) ->
    State#{events := [{Zone, Event} | Events], subscribed := lives(Zone, Event, Subscribed)};
told(_, State) ->
    State.

may_wait(Function) ->
    Waiting = [find_or_open, start_child, register_name, terminate_child, delete_child],
    lists:member(Function, Waiting).

noted({started, Zone, Name, Nth, Pid}, #{noted := Noted} = State) when is_pid(Pid) ->
    known(Pid, {child, Zone, Name, Nth}, State#{noted := Noted + 1});
noted({started, _, _, _, _}, #{noted := Noted} = State) ->
    State#{noted := Noted + 1};
noted({helper, Zone, Name, Nth, Pid}, #{helpers := Helpers} = State) ->
    known(Pid, {helper, Zone, Name, Nth}, State#{helpers := [{Zone, Pid} | Helpers]});
noted({fresh, Zone, Name, Nth, Pid}, State) ->
    known(Pid, {fresh, Zone, Name, Nth}, State);
noted(_, State) ->
    State.

known(Pid, As, #{pids := Pids} = State) ->
    State#{pids := Pids#{Pid => As}}.

%% Who lives in the zones that were subscribed to, by what was told.
lives(Zone, {up, Name, Pid}, Subscribed) when is_map_key(Zone, Subscribed) ->
    maps:update_with(Zone, fun(Lives) -> Lives#{Name => Pid} end, Subscribed);
lives(Zone, {down, Name, _, _}, Subscribed) when is_map_key(Zone, Subscribed) ->
    maps:update_with(Zone, fun(Lives) -> maps:remove(Name, Lives) end, Subscribed);
lives(Zone, unsubscribed, Subscribed) ->
    maps:remove(Zone, Subscribed);
lives(_, _, Subscribed) ->
    Subscribed.

%%% Calls

outcome(State, Module, Function, Arguments) ->
    outcome(call(State, Module, Function, Arguments)).

call(#{module := Tracker} = State, Module, Function, Arguments) ->
    Values = [value(Argument, State) || Argument <- Arguments],
    Of =
        case Module of
            tracker -> Tracker;
            _ -> Module
        end,
    fun() -> apply(Of, Function, Values) end.

%% Without stack traces: `supervisor:check_childspecs/1` gives one for a list of modules that has no
%% end.
outcome(Call) ->
    try Call() of
        {error, {'EXIT', {Reason, _}}} -> {returned, {error, Reason}};
        Answer -> {returned, Answer}
    catch
        exit:{{Reason, [{_, _, _, _} | _]}, {gen_server, _, _}} -> {exit, Reason};
        exit:{Reason, {Module, _, _}} when Module =:= gen_server -> {exit, Reason};
        exit:{Reason, {Module, subscribe, _}}
                when Module =:= gen_tracker; Module =:= reference_tracker -> {exit, Reason};
        Class:Reason -> {Class, Reason}
    end.

%% Processes of the player's own, alive: `{process, Number}` stands for one.
with_processes(Arguments, State) ->
    lists:foldl(fun with_process/2, State, Arguments).

with_process({process, Number}, #{processes := Processes, index := Index} = State) ->
    case Processes of
        #{Number := Pid} when Number =/= dead ->
            alive(is_process_alive(Pid), Number, State);
        #{} ->
            Pid = spawn(fun live/0),
            _ = [tracked_child:kill(Pid) || Number =:= dead],
            Known = known(Pid, {process, Number, Index}, State),
            Known#{processes := Processes#{Number => Pid}}
    end;
with_process({Kind, Parts}, State) when Kind =:= list; Kind =:= tuple ->
    with_processes(Parts, State);
with_process({improper, Part}, State) ->
    with_process(Part, State);
with_process(_, State) ->
    State.

alive(true, _, State) ->
    State;
alive(false, Number, #{processes := Processes} = State) ->
    with_process({process, Number}, State#{processes := maps:remove(Number, Processes)}).

%% What an expression stands for.
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
    Wrap = fun(Level, Inner) -> wrapped(Level rem 3, Inner) end,
    lists:foldl(Wrap, value(Part, State), lists:seq(1, Depth));
value({wide, Width, Part}, State) ->
    list_to_tuple(lists:duplicate(Width, value(Part, State)));
value({start, Zone, Name, Plan}, State) ->
    {?MODULE, start, [Zone, value(Name, State), [way(Way, State) || Way <- Plan]]};
value({tracker, Zone}, _) ->
    whereis(Zone);
value({on_node, Zone}, _) ->
    {Zone, node()};
value({process, Number}, #{processes := Processes}) ->
    map_get(Number, Processes).

way({Begins, {Target, Module, Function, Arguments}}, State) ->
    Values = [value(Argument, State) || Argument <- Arguments],
    {Begins, {value(Target, State), Module, Function, Values}};
way(Way, _) ->
    Way.

wrapped(0, Inner) -> [Inner];
wrapped(1, Inner) -> {deep, Inner};
wrapped(2, Inner) -> #{Inner => Inner =:= []}.

%%% Comparing

%% With the pids that were seen replaced by what they stand for.
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

%% What comes in any order, in one order.
shown(_, {answer, Outcome}) ->
    shown(asked, Outcome);
shown(notes, Notes) ->
    by_name([sorted_note(Note) || Note <- Notes]);
shown(state, Zones) ->
    [
        {Zone, sorted(Children), [sorted(Attributes) || Attributes <- All], Helpers}
     || {Zone, Children, All, Helpers} <- Zones
    ];
shown(list, {returned, List}) ->
    sorted([{Name, [Pid | sorted(Attributes)]} || {Name, [Pid | Attributes]} <- List]);
shown(subscribe, {returned, {ok, Children}}) ->
    {ok, sorted(Children)};
shown(Function, {returned, List}) when is_list(List), Function =/= asked, Function =/= fold ->
    sorted(List);
shown(_, Outcome) ->
    Outcome.

sorted_note({ended, Name, Attributes, Reason}) -> {ended, Name, sorted(Attributes), Reason};
sorted_note(Note) -> Note.

%% Only what concerns one name has an order. (Which zone it is whose child has ended,
%% `after_terminate` does not say.)
by_name(Notes) ->
    lists:sort(fun(One, Other) -> key(One) =< key(Other) end, Notes).

key({Zone, Event}) when is_tuple(Event) -> term_to_binary({Zone, element(2, Event)});
key({Zone, unsubscribed}) -> term_to_binary({Zone});
key({ended, _, _, _} = Note) -> term_to_binary(Note, [deterministic]);
key(Note) -> term_to_binary({element(1, Note), element(2, Note), element(3, Note)}).

