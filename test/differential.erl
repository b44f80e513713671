%% The same random histories against gen_tracker and against `reference_tracker`, which is its contract in the form of a program: every answer, error, event and call of
%% `after_terminate` is the same, and so is what can be read after each operation.
%%
%% A history is a list of operations that can be printed: their arguments are expressions (see `value/2`). A player, a process that is registered as `differential`, plays it
%% against one of the two modules; then another one against the other. What they saw is compared with pids replaced by what they stand for.
%%
%% Nothing depends on time: after each operation the player waits until the zone has reacted. What has to last until another operation comes, a start or an `after_terminate`,
%% waits at a gate. A call that may wait for it is made in a process of its own, and its answer is compared whenever it comes.
-module(differential).

-export([round/1, replay/1, history/2, difference/2, shrunk/2]).
-export([start/3, acknowledged/3, registered/3, failing/0, after_terminate/3]).

-import(prop_terms, [sorted/1]).

-define(ZONES, [differential_a, differential_b]).
%% Nothing takes so long, in milliseconds, unless it hangs.
-define(HANGS, 30000).
%% How long a history is made shorter, in milliseconds.
-define(PATIENCE, 120000).

%%% For the suite and the soak

%% So many histories.
round(Seed) ->
    _ = rand:seed(exsss, Seed),
    Histories = [history(rand:uniform(1 bsl 50), 200) || _ <- lists:seq(1, 40)],
    replayed(Histories, #{histories => 0, operations => 0}).

replayed([], Figures) -> {ok, Figures};
replayed([History | Histories], #{histories := Count, operations := Operations} = Figures) ->
    case difference(gen_tracker, History) of
        none -> replayed(Histories, Figures#{histories := Count + 1, operations := Operations + length(History)});
        _ -> {failed, shrunk(gen_tracker, History)}
    end.

replay(History) -> replayed([History], #{histories => 0, operations => 0}).

%% The first difference between a module and the reference.
difference(Module, History) ->
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    try
        Terms = #{alike => list_to_tuple(prop_terms:alike()), kinds => list_to_tuple(prop_terms:kinds())},
        first_difference(played(reference_tracker, History, Terms), played(Module, History, Terms))
    after
        ok = logger:set_primary_config(level, Level)
    end.

first_difference([], []) -> none;
first_difference([{Index, What, Reference} | More], [{Index, What, Library} | Others]) ->
    case prop_terms:same(Reference, Library) of
        true -> first_difference(More, Others);
        false -> #{operation => Index, what => What, reference => Reference, library => Library}
    end;
first_difference(Reference, Library) ->
    #{what => length, reference => lists:sublist(Reference, 1), library => lists:sublist(Library, 1)}.

%% Leaves out what is not needed to fail: halves, quarters and so on, as long as that helps.
shrunk(Module, [Names | Operations]) ->
    Until = erlang:monotonic_time(millisecond) + ?PATIENCE,
    Fails = fun(Fewer) -> erlang:monotonic_time(millisecond) < Until andalso difference(Module, [Names | Fewer]) =/= none end,
    [Names | shrunk(Operations, max(1, length(Operations) div 2), Fails)].

shrunk(Operations, Size, Fails) ->
    case {without(0, Size, Operations, Fails), Size} of
        {Operations, 1} -> Operations;
        {Fewer, _} -> shrunk(Fewer, max(1, Size div 2), Fails)
    end.

without(From, _, Operations, _) when From >= length(Operations) -> Operations;
without(From, Size, Operations, Fails) ->
    {Before, Rest} = lists:split(From, Operations),
    Fewer = Before ++ lists:nthtail(min(Size, length(Rest)), Rest),
    case Fails(Fewer) of
        true -> without(From, Size, Fewer, Fails);
        false -> without(From + Size, Size, Operations, Fails)
    end.

%%% Children

%% What a start does is said by its plan, a list of ways to start, of which each start of that name takes the next.
start(Zone, Name, Plan) ->
    _ = ets:update_counter(?MODULE, calls, 1),
    Nth = ets:update_counter(?MODULE, {Zone, Name}, 1, {{Zone, Name}, 0}),
    started(lists:nth(Nth rem length(Plan) + 1, Plan), Zone, Name, Nth).

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
started(Way, Zone, Name, Nth) when Way =:= plain; Way =:= info; Way =:= trapping; Way =:= stubborn ->
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
running(stubborn) -> tracked_child:start_stubborn(?MODULE);
running(_) -> tracked_child:start_link(?MODULE).

fail(ignore, _) -> ignore;
fail(return, Nth) -> {what, Nth};
fail(error, Nth) when Nth rem 2 =:= 0 -> {error, {no, Nth}};
fail(error, Nth) -> error({crash, Nth});
fail(throw, Nth) -> throw({thrown, Nth});
fail(exit, Nth) -> exit({gone, Nth});
fail(init, _) -> proc_lib:start_link(?MODULE, failing, []).

failing() -> exit(failed).

acknowledged(Zone, Name, Nth) ->
    ok = tracker(init_ack, [{ok, self()}]),
    ok = tracker(setattr, [Zone, Name, mine, Nth]),
    {ok, Found} = tracker(find, [Zone, Name]),
    note({started, Zone, Name, Nth, Found}),
    live().

registered(Zone, Name, Nth) ->
    Answer = tracker(register_name, [{Zone, {alias, Name}}, self()]),
    note({started, Zone, Name, Nth, self()}),
    note({registered, Zone, Name, Answer}),
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
        {last, crash} -> error(crash);
        _ -> ok
    end.

tracker(Function, Arguments) -> apply(ets:lookup_element(?MODULE, module, 2), Function, Arguments).

%% Processes that nobody waits for any more may be left when the player has gone.
note(Note) -> try ?MODULE ! {note, Note} catch error:badarg -> Note end.

wait_at_gate(Kind, Zone, Name) ->
    ?MODULE ! {gated, {Zone, Name}, Kind, self()},
    receive go -> ok end.

%%% The player

%% What was seen: `[{Operation, What, Term}]`.
played(Module, History, Terms) ->
    {Player, Monitor} = spawn_monitor(fun() -> exit({seen, play(Module, History, Terms)}) end),
    receive
        {'DOWN', Monitor, process, Player, {seen, Seen}} -> Seen;
        {'DOWN', Monitor, process, Player, Reason} ->
            lists:foreach(fun tracked_child:kill/1, [Pid || Zone <- ?ZONES, Pid <- [whereis(Zone)], is_pid(Pid)]),
            [{crashed, Module, Reason}]
    end.

play(Module, History, Terms) ->
    true = register(?MODULE, self()),
    process_flag(trap_exit, true),
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    true = ets:insert(?MODULE, [{module, Module}, {calls, 0}]),
    State = #{module => Module, terms => Terms, names => names(History), index => 0, gates => #{}, asks => #{}, noted => 0, notes => [], log => #{},
              processes => #{}, pids => #{}, events => [], subscribed => #{}},
    Started = lists:foldl(fun(Zone, Before) -> step({start, Zone, [{just, Zone}]}, Before) end, State, ?ZONES),
    Last = lists:foldl(fun step/2, Started, History),
    #{log := Log, events := Events, processes := Processes, pids := Pids} = lists:foldl(fun(Zone, Before) -> step({stop, Zone, stop}, Before) end, Last, ?ZONES),
    lists:foreach(fun tracked_child:kill/1, maps:values(Processes)),
    [{Index, What, shown(Function, symbolic(Term, Pids))} || {{Index, What}, {Function, Term}} <- lists:sort(maps:to_list(Log))] ++
        [{events, of_each_name, by_name(symbolic(lists:reverse(Events), Pids))}].

names(History) -> hd([Names || {names, Names} <- History] ++ [[]]).

step(Operation, #{index := Index} = Before) ->
    try
        #{notes := Notes, log := Log} = State = settled(perform(Operation, Before#{index := Index + 1, notes := []})),
        State#{log := Log#{{Index + 1, notes} => {notes, lists:reverse(Notes)}, {Index + 1, state} => {state, everything(State)}}}
    catch
        throw:{hangs, Left} -> exit({hangs, Index + 1, Operation, maps:with([gates, asks, notes, noted, subscribed], Left)})
    end.

logged(Function, Answer, #{index := Index, log := Log} = State) -> State#{log := Log#{{Index, answer} => {Function, Answer}}}.

%% What everybody can read.
everything(#{module := Module, names := Names} = State) ->
    Terms = [value(Name, State) || Name <- Names],
    [{Zone, sorted(Module:which_children(Zone)), [sorted(Module:info(Zone, Name)) || Name <- Terms]} || Zone <- ?ZONES, is_pid(whereis(Zone))].

perform({names, _}, State) ->
    State;
perform({start, Zone, Arguments}, #{pids := Pids, index := Index} = State) ->
    case outcome(State, tracker, start_link, Arguments) of
        {returned, {ok, Pid}} = Started -> logged(start_link, Started, State#{pids := Pids#{Pid => {tracker, Zone, Index}}});
        Refused -> logged(start_link, Refused, State)
    end;
perform({call, Module, Function, Arguments}, State) ->
    Ready = with_processes(Arguments, State),
    logged(Function, outcome(Ready, Module, Function, Arguments), Ready);
perform({ask, Zone, Name, Module, Function, Arguments}, #{index := Index, asks := Asks, gates := Gates} = State) ->
    Subject = {Zone, value(Name, State)},
    AreWaiting = [waiting || {_, _, Of} <- maps:values(Asks), Of =:= Subject] =/= [],
    case Gates of
        #{Subject := {terminate, _}} when Function =:= add_existing_child, AreWaiting ->
            %% When its turn comes, a child that was asked for before it may be starting, or run already.
            State;
        #{Subject := _} ->
            Asked = asked(Subject, Module, Function, [alone(Argument, Index) || Argument <- Arguments], State),
            handled(Zone, Asked),
            Asked;
        #{} ->
            asked(Subject, Module, Function, Arguments, State)
    end;
perform({subscribe, Zone}, #{subscribed := Subscribed} = State) ->
    case outcome(State, tracker, subscribe, [{just, Zone}]) of
        {returned, {ok, Children}} = Answer -> logged(subscribe, Answer, State#{subscribed := maps:merge(#{Zone => maps:from_list(Children)}, Subscribed)});
        Refused -> logged(subscribe, Refused, State)
    end;
perform({unsubscribe, Zone}, State) ->
    %% So that the events until now have come.
    _ = outcome(State, tracker, subscribe, [{just, Zone}]),
    #{subscribed := Subscribed} = Told = taken(State),
    logged(unsubscribe, outcome(State, tracker, unsubscribe, [{just, Zone}]), Told#{subscribed := maps:remove(Zone, Subscribed)});
perform({exit, Zone, Name, Reason}, State) ->
    Found = outcome(State, tracker, find, [{just, Zone}, Name]),
    _ = [stop(Pid, Reason) || {returned, {ok, Pid}} <- [Found]],
    logged(find, Found, State);
perform({open_gate, Zone, Name}, #{gates := Gates} = State) ->
    Subject = {Zone, value(Name, State)},
    _ = [Pid ! go || #{Subject := {_, Pid}} <- [Gates]],
    State#{gates := maps:remove(Subject, Gates)};
perform({await_attribute, Zone, Name, Key, Increment}, State) ->
    Attribute = [{just, Zone}, Name, Key],
    Call = call(State, tracker, getattr, Attribute ++ [{just, ?HANGS}]),
    IsThere = outcome(State, tracker, getattr, Attribute),
    Monitor = tracked_child:ask(fun() -> outcome(Call) end),
    tracked_child:waiting(),
    Incremented = outcome(State, tracker, increment, Attribute ++ [Increment, {just, 0}]),
    Awaited = receive {'DOWN', Monitor, process, _, {answer, Answer}} -> Answer after ?HANGS -> hangs end,
    logged(getattr, {IsThere, Incremented, Awaited}, State);
perform({stop, Zone, How}, State) ->
    case whereis(Zone) of
        undefined -> logged(stop, not_running, State);
        Tracker -> stopped(Zone, Tracker, How, settled(cleaned(Zone, State)))
    end.

asked(Subject, Module, Function, Arguments, State) ->
    #{index := Index, asks := Asks} = Ready = with_processes(Arguments, State),
    Call = call(Ready, Module, Function, Arguments),
    Monitor = tracked_child:ask(fun() -> outcome(Call) end),
    Ready#{asks := Asks#{Monitor => {Index, Function, Subject}}}.

%% The same with a process that nobody else knows: it lives when its turn comes. Of one that is dead by then others may be told, or be not.
alone({process, _}, Index) -> {process, {alone, Index}};
alone({Kind, Parts}, Index) when Kind =:= tuple; Kind =:= list -> {Kind, [alone(Part, Index) || Part <- Parts]};
alone({improper, Part}, Index) -> {improper, alone(Part, Index)};
alone(Expression, _) -> Expression.

%% All that was asked until now has come to the tracker, and has been handled.
handled(Zone, State) ->
    tracked_child:waiting(),
    {returned, ok} = outcome(State, tracker, wait, [{just, Zone}]).

%% A child that ignores the signal is told by the message.
stop(Pid, kill) -> tracked_child:kill(Pid);
stop(Pid, Reason) -> exit(Pid, Reason), tracked_child:stop(Pid, Reason).

cleaned(Zone, #{gates := Gates} = State) ->
    Terminating = maps:filter(fun({Of, _}, {Kind, _}) -> Of =:= Zone andalso Kind =:= terminate end, Gates),
    _ = [Pid ! go || {_, Pid} <- maps:values(Terminating)],
    State#{gates := maps:without(maps:keys(Terminating), Gates)}.

stopped(Zone, Tracker, kill, #{module := Module} = State) ->
    Processes = [Pid || {_, Pid, _, _} <- Module:which_children(Zone), is_pid(Pid)] ++ tracked_child:beside(Zone),
    Monitors = [monitor(process, Pid) || Pid <- [Tracker | Processes]],
    exit(Tracker, kill),
    _ = [receive {'DOWN', Monitor, process, _, _} -> ok after ?HANGS -> throw({hangs, State}) end || Monitor <- Monitors],
    %% What is called back then, and with which attributes, is not said anywhere; nor in which order children end.
    #{log := Log, index := Index} = Left = settled(without_gates(Zone, taken(State))),
    Left#{notes := [], log := Log#{{Index, answer} => {stop, killed}}};
stopped(Zone, Tracker, exit, #{asks := Asks, index := Index} = State) ->
    Monitor = monitor(process, Tracker),
    exit(Tracker, shutdown),
    await_stop(Zone, Monitor, State#{asks := Asks#{Monitor => {Index, stop, {Zone, stop}}}});
stopped(Zone, _, How, #{asks := Asks, index := Index} = State) ->
    Monitor = tracked_child:ask(fun() -> outcome(stop_call(Zone, How)) end),
    %% Before any gate is opened, or those who wait behind it are served.
    tracked_child:waiting(),
    await_stop(Zone, Monitor, State#{asks := Asks#{Monitor => {Index, stop, {Zone, stop}}}}).

stop_call(Zone, gen_server) -> fun() -> gen_server:stop(Zone) end;
stop_call(Zone, How) -> fun() -> gen_server:call(Zone, How) end.

await_stop(Zone, Monitor, #{asks := Asks} = State) when is_map_key(Monitor, Asks) ->
    await_stop(Zone, Monitor, cleaned(Zone, next(State)));
await_stop(Zone, _, State) ->
    %% The answer comes a little earlier than the end.
    _ = [tracked_child:down(Tracker) || Tracker <- [whereis(Zone)], is_pid(Tracker)],
    without_gates(Zone, State).

%% The starts that waited at a gate have ended with their zone.
without_gates(Zone, #{gates := Gates, noted := Noted} = State) ->
    Gone = [Subject || {Of, _} = Subject <- maps:keys(Gates), Of =:= Zone],
    State#{gates := maps:without(Gone, Gates), noted := Noted + length(Gone)}.

%%% Waiting until all have reacted

settled(#{asks := Asks, gates := Gates} = State) ->
    case [Subject || {_, _, Subject} <- maps:values(Asks), not is_map_key(Subject, Gates)] of
        [] ->
            Taken = taken(State),
            case is_steady(Taken) of
                true -> taken(Taken);
                false -> settled(later(Taken))
            end;
        _ -> settled(next(State))
    end.

is_steady(#{module := Module, gates := Gates, noted := Noted, subscribed := Subscribed}) ->
    Starts = length([start || {start, _} <- maps:values(Gates)]),
    lists:all(
        fun
            (Zone) when is_map_key(Zone, Subscribed) -> is_running(Zone) andalso is_steady(Zone, Module, Gates, map_get(Zone, Subscribed));
            (Zone) -> not is_running(Zone) orelse is_steady(Zone, Module, Gates, all)
        end,
        ?ZONES
    ) andalso
        %% Last: a child that runs may still be about to say so.
        ets:lookup_element(?MODULE, calls, 2) =:= Noted + Starts.

is_running(Zone) -> is_pid(whereis(Zone)).

is_steady(Zone, Module, Gates, Known) ->
    Children = Module:which_children(Zone),
    lists:all(
        fun
            ({_, Pid, _, _}) when is_pid(Pid) -> is_process_alive(Pid);
            ({Name, _, _, _}) -> is_map_key({Zone, Name}, Gates)
        end,
        Children
    ) andalso
        (Known =:= all orelse Known =:= maps:from_list([{Name, Pid} || {Name, Pid, _, _} <- Children, is_pid(Pid)])).

%% What comes next, whatever it may be.
next(State) ->
    receive Message -> told(Message, State)
    after ?HANGS -> throw({hangs, State})
    end.

%% What comes next, or nothing that anybody tells of.
later(#{index := Index} = State) ->
    Until = case State of #{until := {Index, Known}} -> Known; _ -> erlang:monotonic_time(millisecond) + ?HANGS end,
    erlang:monotonic_time(millisecond) < Until orelse throw({hangs, State}),
    receive Message -> told(Message, State#{until => {Index, Until}})
    after 1 -> State#{until => {Index, Until}}
    end.

taken(State) ->
    receive Message -> taken(told(Message, State))
    after 0 -> State
    end.

told({note, {started, Zone, Name, Nth, Pid} = Note}, #{notes := Notes, noted := Noted, pids := Pids} = State) when is_pid(Pid) ->
    State#{notes := [Note | Notes], noted := Noted + 1, pids := Pids#{Pid => {child, Zone, Name, Nth}}};
told({note, {started, _, _, _, _} = Note}, #{notes := Notes, noted := Noted} = State) ->
    State#{notes := [Note | Notes], noted := Noted + 1};
told({note, Note}, #{notes := Notes} = State) ->
    State#{notes := [Note | Notes]};
told({gated, Subject, Kind, Pid}, #{gates := Gates} = State) ->
    State#{gates := Gates#{Subject => {Kind, Pid}}};
told({'DOWN', Monitor, process, _, Answer}, #{asks := Asks, log := Log} = State) when is_map_key(Monitor, Asks) ->
    {{Index, Function, _}, Rest} = maps:take(Monitor, Asks),
    State#{asks := Rest, log := Log#{{Index, answer} => {Function, Answer}}};
told({gen_tracker, Zone, Event}, #{events := Events, subscribed := Subscribed} = State) ->
    State#{events := [{Zone, Event} | Events], subscribed := lives(Zone, Event, Subscribed)};
told(_, State) ->
    State.

%% Who lives in the zones that were subscribed to, by what was told.
lives(Zone, {up, Name, Pid}, Subscribed) when is_map_key(Zone, Subscribed) -> maps:update_with(Zone, fun(Lives) -> Lives#{Name => Pid} end, Subscribed);
lives(Zone, {down, Name, _, _}, Subscribed) when is_map_key(Zone, Subscribed) -> maps:update_with(Zone, fun(Lives) -> maps:remove(Name, Lives) end, Subscribed);
lives(Zone, unsubscribed, Subscribed) -> maps:remove(Zone, Subscribed);
lives(_, _, Subscribed) -> Subscribed.

%%% Calls

outcome(State, Module, Function, Arguments) -> outcome(call(State, Module, Function, Arguments)).

call(#{module := Tracker} = State, Module, Function, Arguments) ->
    Values = [value(Argument, State) || Argument <- Arguments],
    fun() -> apply(case Module of tracker -> Tracker; _ -> Module end, Function, Values) end.

%% Without stack traces: `supervisor:check_childspecs/1` gives one for a list of modules that has no end.
outcome(Call) ->
    try Call() of
        {error, {'EXIT', {Reason, _}}} -> {returned, {error, Reason}};
        Answer -> {returned, Answer}
    catch
        exit:{{Reason, [{_, _, _, _} | _]}, {gen_server, _, _}} -> {exit, Reason};
        exit:{Reason, {Module, _, _}} when Module =:= gen_server; Module =:= gen_tracker -> {exit, Reason};
        Class:Reason -> {Class, Reason}
    end.

%% Processes of the player's own, alive: `{process, Number}` stands for one.
with_processes(Arguments, State) -> lists:foldl(fun with_process/2, State, Arguments).

with_process({process, Number}, #{processes := Processes, pids := Pids} = State) ->
    case Processes of
        #{Number := Pid} when Number =/= dead -> alive(is_process_alive(Pid), Number, State);
        #{} ->
            Pid = spawn(fun live/0),
            _ = [tracked_child:kill(Pid) || Number =:= dead],
            State#{processes := Processes#{Number => Pid}, pids := Pids#{Pid => {process, Number, map_size(Pids)}}}
    end;
with_process(Expression, State) when is_tuple(Expression), element(1, Expression) =:= list; element(1, Expression) =:= tuple ->
    with_processes(element(2, Expression), State);
with_process({improper, Part}, State) ->
    with_process(Part, State);
with_process(_, State) ->
    State.

alive(true, _, State) -> State;
alive(false, Number, #{processes := Processes} = State) -> with_process({process, Number}, State#{processes := maps:remove(Number, Processes)}).

%% What an expression stands for.
value({just, Term}, _) -> Term;
value({name, Number}, #{names := Names} = State) -> value(lists:nth(Number, Names), State);
value({alike, Number}, #{terms := #{alike := Alike}}) -> element(Number rem tuple_size(Alike) + 1, Alike);
value({kind, Number}, #{terms := #{kinds := Kinds}}) -> element(Number rem tuple_size(Kinds) + 1, Kinds);
value({list, Parts}, State) -> [value(Part, State) || Part <- Parts];
value({improper, Part}, State) -> [value(Part, State) | improper];
value({tuple, Parts}, State) -> list_to_tuple([value(Part, State) || Part <- Parts]);
value({map, Pairs}, State) -> maps:from_list([{Key, value(Part, State)} || {Key, Part} <- Pairs]);
value({deep, Depth, Part}, State) -> lists:foldl(fun(Level, Inner) -> wrapped(Level rem 3, Inner) end, value(Part, State), lists:seq(1, Depth));
value({wide, Width, Part}, State) -> list_to_tuple(lists:duplicate(Width, value(Part, State)));
value({start, Zone, Name, Plan}, State) -> {?MODULE, start, [Zone, value(Name, State), Plan]};
value({process, Number}, #{processes := Processes}) -> map_get(Number, Processes).

wrapped(0, Inner) -> [Inner];
wrapped(1, Inner) -> {deep, Inner};
wrapped(2, Inner) -> #{Inner => Inner =:= []}.

%%% Comparing

%% With the pids that were seen replaced by what they stand for.
symbolic(Pid, Pids) when is_pid(Pid) -> maps:get(Pid, Pids, Pid);
symbolic([Head | Tail], Pids) -> [symbolic(Head, Pids) | symbolic(Tail, Pids)];
symbolic(Tuple, Pids) when is_tuple(Tuple) -> list_to_tuple(symbolic(tuple_to_list(Tuple), Pids));
symbolic(Map, Pids) when is_map(Map), map_size(Map) < 33 -> maps:from_list(symbolic(maps:to_list(Map), Pids));
symbolic(Term, _) -> Term.

%% What comes in any order, in one order.
shown(_, {answer, Outcome}) -> shown(asked, Outcome);
shown(notes, Notes) -> by_name([sorted_note(Note) || Note <- Notes]);
shown(state, Zones) -> [{Zone, sorted(Children), [sorted(Attributes) || Attributes <- All]} || {Zone, Children, All} <- Zones];
shown(list, {returned, List}) -> sorted([{Name, [Pid | sorted(Attributes)]} || {Name, [Pid | Attributes]} <- List]);
shown(subscribe, {returned, {ok, Children}}) -> {ok, sorted(Children)};
shown(Function, {returned, List}) when is_list(List), Function =/= asked, Function =/= fold -> sorted(List);
shown(_, Outcome) -> Outcome.

sorted_note({ended, Name, Attributes, Reason}) -> {ended, Name, sorted(Attributes), Reason};
sorted_note(Note) -> Note.

%% Only what concerns one name has an order. (Which zone it is whose child has ended, `after_terminate` does not say.)
by_name(Notes) -> lists:sort(fun(One, Other) -> key(One) =< key(Other) end, Notes).

key({Zone, Event}) when is_tuple(Event) -> term_to_binary({Zone, element(2, Event)});
key({Zone, unsubscribed}) -> term_to_binary({Zone});
key({ended, _, _, _} = Note) -> term_to_binary(Note, [deterministic]);
key(Note) -> term_to_binary({element(1, Note), element(2, Note), element(3, Note)}).

%%% Histories

history(Seed, Length) ->
    _ = rand:seed(exsss, Seed),
    Names = some_alike(4),
    Keys = [{just, last}, {just, left} | some_alike(2)],
    [{names, Names} | [operation(Keys) || _ <- lists:seq(1, Length)]].

%% Some of the terms that are alike, no two of them equal. (Whether `0.0` or `-0.0` comes back as the name of a child is nowhere said, as long as they are the same.)
some_alike(Count) ->
    Numbered = lists:enumerate(0, prop_terms:alike()),
    Shuffled = [One || {_, One} <- lists:sort([{rand:uniform(), One} || One <- Numbered])],
    Different = maps:from_list([{Term, Number} || {Number, Term} <- Shuffled]),
    lists:sublist([{alike, Number} || {Number, Term} <- Shuffled, map_get(Term, Different) =:= Number], Count).

operation(Keys) ->
    Zone = zone(),
    Name = {name, rand:uniform(4)},
    Operation = operation(pick([attribute, attribute, attribute, read, read, open, open, open, ending, ending, ending, otp, via, whole, rest]), Zone, Name, Keys),
    case rand:uniform(15) of
        1 -> spoilt(Operation);
        _ -> Operation
    end.

%% Most in one zone, so that operations meet.
zone() -> pick([differential_a, differential_a, differential_a, differential_b]).

operation(attribute, Zone, Name, Keys) ->
    Z = {just, Zone},
    Key = pick(Keys),
    pick([
        {call, tracker, setattr, [Z, Name, {list, pairs(Zone, Keys)}]},
        {call, tracker, setattr, [Z, Name | attribute(Zone, Keys)]},
        {call, tracker, setattr, [Z, Name, Key, number()]},
        {call, tracker, delattr, [Z, Name, Key]},
        {call, tracker, increment, [Z, Name, Key, counting()]},
        {call, tracker, increment, [Z, Name, Key, counting(), number()]},
        {call, tracker, increment, [Z, Name, Key, counting(), some_value(1)]},
        {call, tracker, cas, [Z, Name, Key, pick([number(), some_value(2)]), some_value(2)]},
        {call, tracker, cas, [Z, Name, Key, {just, 1}, {just, 1}]},
        {await_attribute, Zone, Name, Key, number()}
    ]);
operation(read, Zone, Name, Keys) ->
    Z = {just, Zone},
    pick([
        {call, tracker, find, [Z, Name]},
        {call, tracker, getattr, [Z, Name, pick(Keys)]},
        {call, tracker, getattr, [Z, Name, pick(Keys), {just, pick([0, 0, 1])}]},
        {call, tracker, info, [Z, Name]},
        {call, tracker, info, [Z, Name, {list, some(Keys)}]},
        {call, tracker, attrs, [Z, Name]}
    ]);
operation(open, Zone, Name, _) ->
    pick([
        {ask, Zone, Name, tracker, find_or_open, [{just, Zone}, spec(Zone, Name)]},
        {ask, Zone, Name, tracker, find_or_open, [{just, Zone}, spec(Zone, Name)]},
        {ask, Zone, Name, supervisor, start_child, [{just, Zone}, full_spec(Zone, Name)]},
        {ask, Zone, Name, tracker, add_existing_child, [{just, Zone}, existing(Zone, Name)]}
    ]);
operation(ending, Zone, Name, _) ->
    pick([
        {exit, Zone, Name, pick([normal, shutdown, {shutdown, away}, crash, {crash, deep}, kill])},
        {exit, Zone, pick([Name, {tuple, [{just, alias}, Name]}]), kill},
        {open_gate, Zone, Name},
        {open_gate, Zone, Name},
        {ask, Zone, Name, supervisor, pick([terminate_child, delete_child]), [{just, Zone}, Name]}
    ]);
operation(otp, Zone, Name, _) ->
    Z = {just, Zone},
    pick([
        {call, supervisor, which_children, [Z]},
        {call, supervisor, count_children, [Z]},
        {call, supervisor, get_childspec, [Z, Name]},
        {call, supervisor, restart_child, [Z, Name]},
        {call, gen_server, call, [Z, pick([{just, {no, such, call}}, {just, 1}, {tuple, [{just, setattr}, Name]}])]},
        {call, gen_server, cast, [Z, {just, {no, such, cast}}]},
        {call, erlang, send, [Z, {just, {no, such, message}}]}
    ]);
operation(via, Zone, Name, _) ->
    Via = {tuple, [{just, Zone}, pick([Name, Name, {tuple, [{just, alias}, Name]}])]},
    pick([
        {ask, Zone, Name, tracker, register_name, [{tuple, [{just, Zone}, Name]}, process()]},
        {call, tracker, unregister_name, [Via]},
        {call, tracker, whereis_name, [Via]},
        {call, tracker, send, [Via, {just, hello}]}
    ]);
operation(whole, Zone, _, Keys) ->
    Z = {just, Zone},
    pick([
        {call, tracker, list, [Z]},
        {call, tracker, list, [Z, {list, some(Keys)}]},
        {call, tracker, count, [Z]},
        {call, tracker, names, [Z]},
        {call, tracker, which_children, [Z]},
        {call, tracker, wait, [Z]},
        {call, tracker, fold, [{just, fun maps:put/3}, {map, []}, Z]}
    ]);
operation(rest, Zone, _, _) ->
    case rand:uniform(12) of
        1 -> {stop, Zone, pick([stop, shutdown, gen_server, exit, kill])};
        2 -> {unsubscribe, Zone};
        Number when Number =< 5 -> {subscribe, Zone};
        _ -> {start, Zone, [{just, Zone} | pick([[], [{map, []}], [{map, [{restart, {just, pick([true, false])}}]}]])]}
    end.

pairs(Zone, Keys) ->
    [pick([{tuple, attribute(Zone, Keys)}, {tuple, attribute(Zone, Keys)}, {tuple, attribute(Zone, Keys)}, pick([{just, no_pair}, {just, {1}}, {just, {1, 2, 3}}])])
     || _ <- lists:seq(1, rand:uniform(4) - 1)].

%% What comes under the key `last` has a meaning; see `after_terminate/3`.
attribute(Zone, Keys) ->
    case pick(Keys) of
        {just, last} -> [{just, last}, {just, pick([{gate, Zone}, {gate, Zone}, crash, nothing])}];
        Key -> [Key, pick([number(), some_value(3)])]
    end.

number() ->
    {just, pick([0, 1, 1, -1, 7, 1 bsl 58, -(1 bsl 59), 1 bsl 62, -(1 bsl 63), 1 bsl 64, 1 bsl 200, -(1 bsl 200), rand:uniform(1 bsl 64)])}.

%% An increment, or an operation of `ets:update_counter/3'.
counting() ->
    pick([
        number(),
        {tuple, [{just, 2}, number()]},
        {tuple, [{just, 2}, number(), number(), number()]},
        {tuple, [{just, pick([1, 3])}, number()]}
    ]).

some_value(0) -> pick([number(), {alike, rand:uniform(1000)}, {kind, rand:uniform(1000)}]);
some_value(Depth) ->
    case rand:uniform(12) of
        1 -> {list, [some_value(Depth - 1) || _ <- lists:seq(1, rand:uniform(3))]};
        2 -> {tuple, [some_value(Depth - 1) || _ <- lists:seq(1, rand:uniform(3))]};
        3 -> {improper, some_value(Depth - 1)};
        4 -> {map, [{Key, some_value(Depth - 1)} || Key <- some([1, 1.0, a, <<"a">>])]};
        5 -> {deep, rand:uniform(100), some_value(0)};
        6 -> {wide, rand:uniform(300), number()};
        _ -> some_value(0)
    end.

spec(Zone, Name) ->
    case rand:uniform(3) of
        1 ->
            {Plan, _, _} = plan(stubborn),
            {tuple, [Name, {start, Zone, Name, Plan}, {just, restart()}]};
        _ -> full_spec(Zone, Name)
    end.

full_spec(Zone, Name) ->
    {Plan, Restart, Shutdown} = plan(pick([stubborn, registered])),
    Start = {start, Zone, Name, Plan},
    Type = {just, pick([worker, worker, supervisor])},
    Modules = {just, pick([[], [?MODULE], dynamic])},
    case rand:uniform(2) of
        1 -> {tuple, [Name, Start, {just, Restart}, {just, Shutdown}, Type, Modules]};
        2 when Shutdown =:= ?HANGS -> {map, [{id, Name}, {start, Start} | some([{restart, {just, Restart}}, {type, Type}, {modules, Modules}])]};
        2 -> {map, [{id, Name}, {start, Start}, {shutdown, {just, Shutdown}} | some([{restart, {just, Restart}}, {type, Type}, {modules, Modules}])]}
    end.

restart() -> pick([permanent, transient, temporary, temporary]).

%% A stubborn child has to be killed in the end, soon. The others have all the time that they may need. A process under two names is told to end by both, in the same way.
plan(Without) ->
    Ways = [plain, plain, plain, plain, plain, plain, info, early, acknowledged, registered, registered, gated, gated, gated, trapping, stubborn],
    Failures = [ignore, error, throw, exit, return, init],
    Plan = [pick([Way || Way <- Ways ++ Failures, Way =/= Without]) || _ <- lists:seq(1, rand:uniform(3))] ++ [pick([plain, gated])],
    Shutdown =
        case {lists:member(stubborn, Plan), lists:member(registered, Plan)} of
            {true, _} -> pick([brutal_kill, 5]);
            {_, true} -> infinity;
            {_, _} -> pick([brutal_kill, infinity, ?HANGS])
        end,
    {Plan, restart(), Shutdown}.

existing(Zone, Name) ->
    Modules = {just, pick([[], [?MODULE], dynamic])},
    case rand:uniform(2) of
        1 -> {tuple, [Name, process(), {just, worker}, Modules]};
        2 ->
            Start = {start, Zone, Name, [plain]},
            {tuple, [process(), {tuple, [Name, Start, {just, restart()}, {just, infinity}, {just, worker}, Modules]}]}
    end.

process() -> {process, pick([1, 2, 3, 4, 5, dead])}.

%% The same with a wrong term somewhere in its arguments, or one that is good all the same.
spoilt({call, Module, Function, Arguments}) when Module =:= tracker; Module =:= supervisor ->
    {call, Module, Function, spoilt_one(Arguments)};
spoilt({ask, Zone, Name, Module, Function, Arguments}) -> {ask, Zone, Name, Module, Function, spoilt_one(Arguments)};
spoilt({start, Zone, [Argument]}) -> {start, Zone, [Argument, wrong()]};
spoilt({start, Zone, [Argument, Options]}) -> {start, Zone, pick([[no_zone(), Options], [Argument, wrong()]])};
spoilt(Operation) -> Operation.

spoilt_one(Parts) ->
    {Before, [Part | Rest]} = lists:split(rand:uniform(length(Parts)) - 1, Parts),
    Before ++ [spoilt_part(Part) | Rest].

spoilt_part({Kind, [_ | _] = Parts} = Whole) when Kind =:= tuple; Kind =:= list ->
    pick([wrong(), {improper, Whole}, {Kind, spoilt_one(Parts)}, {Kind, spoilt_one(Parts)}, {Kind, tl(Parts)}]);
spoilt_part({map, [_ | _] = Pairs}) ->
    {Before, [{Key, Part} | Rest]} = lists:split(rand:uniform(length(Pairs)) - 1, Pairs),
    {map, Before ++ pick([[{Key, spoilt_part(Part)} | Rest], [More || More <- Rest, Key =/= shutdown]])};
%% A wrong name is another name, whose child nobody would wait for.
spoilt_part({name, _} = Name) -> Name;
spoilt_part(_) -> wrong().

no_zone() -> {just, pick([undefined, "wrong", <<"wrong">>, -1, {wrong}])}.

wrong() ->
    {just, pick([not_running, undefined, "wrong", <<"wrong">>, -1, -1.5, -(1 bsl 70), {wrong}, [wrong | improper], #{wrong => wrong}, fun erlang:abs/1])}.

pick(List) -> lists:nth(rand:uniform(length(List)), List).

some(List) -> [Element || Element <- List, rand:uniform(2) =:= 1].
