%% Compares gen_tracker with a model, `model_zone`, in random programs: successive calls, and calls
%% of several processes at the same time.
%%
%% The model makes small steps. Successive calls determine the order of these steps. For concurrent
%% calls, `explained/2` searches for an order of all steps that gives every answer.
%%
%% A program is a list of operations, then lists of operations for processes that begin at the same
%% moment. An operation names a term by `{var, Token}`, so that a program can be printed and run
%% again. proper_statem is not used: no operation needs the answer of another one, and its parallel
%% runner starts the first process before it creates the second, which then finds all calls done.
%%
%% A child has an identity in the model: its name and the number of the call of a start function for
%% that name; or the tag of its operation, if the process was added. The *table* of a program maps
%% pids to identities. Start functions set an attribute by which `after_terminate/3` finds this
%% table.
%%
%% Start functions and `after_terminate/3` call the zone if their spec says so, and write the
%% answers to the table. The model must explain these answers, too.
-module(model_tracker).

-export([round/1, replay/1, run/3]).
-export([start/4, after_terminate/3]).

-import(proper_types, [bind/3, elements/1, exactly/1, frequency/1, integer/2, lazy/1, list/1]).
-import(proper_types, [noshrink/1, oneof/1, resize/2, tuple/1, vector/2]).
-import(prop_terms, [sorted/1]).
-import(model_zone, [agree/2]).

-include("model_zone.hrl").

%% The numbers of programs in a round: with successive calls, and with concurrent ones.
-define(ALONE, 150).
-define(TOGETHER, 40).
%% How often a concurrent program is run: at first, when it is made smaller, and in a replay.
-define(TIMES, 3).
-define(TIMES_SMALLER, 10).
-define(TIMES_AGAIN, 100).
%% How often the processes of a concurrent program begin together, and how many there are.
-define(PASSES, 6).
-define(BRANCHES, 3).
%% A program that takes longer hangs, in ms.
-define(HANGING, 20000).
%% A failure of a program that takes longer is ignored, in ms: the library no longer counts its
%% first restarts then, but the model does.
-define(COUNTING, 9000).
%% The search for an order gives up after so many positions.
-define(POSITIONS, 100000).
%% The time limit for shrinking a failure, in seconds.
-define(SHRINKING, 30).

%% What a program runs with: its table, its terms by token, the keys that the zone has indexes of,
%% and the number of the pass.
-record(run, {table, terms, indexes = #{}, pass = 0}).

%%% Rounds

round(Seed) ->
    run(Seed, ?ALONE, ?TOGETHER).

%% Runs so many programs of each kind.
run(Seed, Alone, Together) ->
    without_logging(fun() ->
        Terms = terms(Seed),
        case checked(alone, Alone, Seed, Terms) of
            ok ->
                case checked(together, Together, Seed, Terms) of
                    ok -> {ok, get(figures)};
                    Failed -> Failed
                end;
            Failed ->
                Failed
        end
    end).

checked(_, 0, _, _) ->
    ok;
checked(Mode, Times, Seed, Terms) ->
    Holds = fun(Program) -> holds(Mode, Program, Terms, ?TIMES) end,
    Property = for_all(program(Mode, Terms), Seed, Holds),
    Options = [quiet, long_result, {numtests, Times}, {start_size, 10}, {max_size, 40}],
    case proper:quickcheck(Property, Options) of
        true -> ok;
        [Program] -> {failed, {Mode, Seed, shrunk(Mode, Program, Terms), get(wrong)}}
    end.

%% Removes operations as long as the program fails without them. PropEr leaves some.
shrunk(Mode, Program, Terms) ->
    Holds = fun(Smaller) -> holds(Mode, Smaller, Terms, ?TIMES_SMALLER) end,
    case lists:dropwhile(Holds, smaller(Program)) of
        [] -> Program;
        [Smaller | _] -> shrunk(Mode, Smaller, Terms)
    end.

smaller({First, Branches}) ->
    [{Less, Branches} || Less <- less(First)] ++
        [
            {First, replace(Number, Less, Branches)}
         || {Number, Branch} <- lists:enumerate(Branches), Less <- less(Branch)
        ].

less(Operations) ->
    [
        lists:sublist(Operations, Number - 1) ++ lists:nthtail(Number, Operations)
     || Number <- lists:seq(1, length(Operations))
    ].

replace(Number, Element, List) ->
    lists:sublist(List, Number - 1) ++ [Element | lists:nthtail(Number, List)].

%% Makes the same instances for the same seed. PropEr seeds its generator by the time; the first
%% instance is made after that in the same process.
for_all(Type, Seed, Holds) ->
    put(seed, Seed),
    Seeded = fun() ->
        [rand:seed(exsss, First) || First <- [erase(seed)], First =/= undefined],
        Type
    end,
    proper:forall(lazy(Seeded), Holds).

%% Runs a failed program again. The seed determines the terms that it names.
replay({Mode, Seed, Program, _}) ->
    without_logging(fun() ->
        case holds(Mode, Program, terms(Seed), ?TIMES_AGAIN) of
            true -> {ok, get(figures)};
            false -> {failed, {Mode, Seed, Program, get(wrong)}}
        end
    end).

%% Runs a fun while crashes of start functions are not logged.
without_logging(Fun) ->
    Modules = [gen_tracker_keeper, gen_tracker_registrar, gen_tracker_reports],
    Levels = logger:get_module_level(Modules),
    ok = logger:set_module_level(Modules, none),
    put(figures, #{}),
    try
        Fun()
    after
        ok = logger:unset_module_level(Modules),
        [ok = logger:set_module_level(Module, Level) || {Module, Level} <- Levels],
        [erase(Key) || Key <- [figures, wrong, seed, failed]]
    end.

holds(Mode, Program, Terms, Times) ->
    counted(#{Mode => 1}),
    Runs =
        case Mode of
            alone -> 1;
            together -> Times
        end,
    lists:all(fun(_) -> holds(Mode, Program, Terms) end, lists:seq(1, Runs)).

%% Runs a program in a process of its own, which takes its messages with it. After the time for
%% shrinking, every program passes, which ends it.
holds(Mode, Program, Terms) ->
    Failed = get(failed),
    case is_integer(Failed) andalso erlang:monotonic_time(second) > Failed + ?SHRINKING of
        true -> true;
        false -> judged(outcome_in_time(Mode, Program, Terms))
    end.

judged({ok, Figures}) ->
    counted(Figures),
    true;
judged(Wrong) ->
    _ = get(failed) =:= undefined andalso put(failed, erlang:monotonic_time(second)),
    put(wrong, Wrong),
    false.

outcome_in_time(Mode, Program, Terms) ->
    Begin = erlang:monotonic_time(millisecond),
    Test = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        put(test, Test),
        exit({outcome, outcome(Mode, Program, Terms)})
    end),
    receive
        {performed, Pid} ->
            %% The search for an order has no time limit here.
            receive
                {'DOWN', Monitor, process, Pid, {outcome, Searched}} -> Searched
            end;
        {'DOWN', Monitor, process, Pid, {outcome, {ok, Figures}}} ->
            {ok, Figures};
        {'DOWN', Monitor, process, Pid, Wrong} ->
            case erlang:monotonic_time(millisecond) - Begin < ?COUNTING of
                true -> Wrong;
                false -> {ok, #{}}
            end
    after ?HANGING ->
        Alive = [Each || Each <- [Pid, whereis(?ZONE)], is_pid(Each)],
        Hangs = {hangs, process_info(Pid, current_stacktrace), [moving() || [_, _] <- [Alive]]},
        lists:foreach(fun tracked_child:kill/1, Alive),
        Hangs
    end.

counted(Figures) ->
    put(figures, maps:merge_with(fun(_, Before, More) -> Before + More end, get(figures), Figures)).

outcome(Mode, {First, Branches}, Terms) ->
    Run = open_run(First, Branches, Terms),
    try
        case Mode of
            alone -> alone(Run, First ++ [alive]);
            together -> together(Run, First, Branches)
        end
    catch
        Class:Reason:Stacktrace -> {Class, Reason, Stacktrace}
    after
        close(Run)
    end.

figures(#run{table = Table}, Performed) ->
    #{
        operations => length(Performed),
        deaths => length([died || {_, {died, _}} <- Performed]),
        asked => lists:sum([Count || {asked, Count} <- ets:lookup(Table, asked)])
    }.

open_run(First, Branches, Terms) ->
    Indexes = indexes(lists:append([First | Branches]), Terms),
    Keys = [
        case Kind of
            whole -> Key;
            each -> {each, Key}
        end
     || {Key, Kind} <- maps:to_list(Indexes)
    ],
    Options =
        case First of
            [{limit, Most} | _] -> #{max_children => Most};
            _ -> #{}
        end,
    {ok, Zone} = gen_tracker:start_link(?ZONE, Options#{index => Keys}),
    unlink(Zone),
    #run{table = ets:new(?MODULE, [public]), terms = maps:from_list(Terms), indexes = Indexes}.

%% Two thirds of the keys that a program looks up have an index: of whole values, or of the elements
%% of lists.
indexes(Operations, Terms) ->
    Tokens = lists:usort([
        Token
     || {read, Look} <- Operations, is_tuple(Look), {'$index', {var, Token}} <- [pair(Look)]
    ]),
    Keys = [Term || Token <- Tokens, {Of, Term} <- Terms, Of =:= Token, not is_each(Term)],
    Kinds = fun(Number) -> lists:nth(Number rem 3 + 1, [each, whole, none]) end,
    All = [{Key, Kinds(Number)} || {Number, Key} <- lists:enumerate(Keys)],
    maps:from_list([Index || {_, Kind} = Index <- All, Kind =/= none]).

%% Returns the second and the third element of a tuple.
pair(Look) when tuple_size(Look) > 2 -> {element(2, Look), element(3, Look)};
pair(_) -> none.

%% Such a term is not a key of an index.
is_each({each, _}) -> true;
is_each(_) -> false.

close(#run{table = Table}) ->
    zones:stop_zone(?ZONE),
    [
        tracked_child:kill(Pid)
     || {Pid, _} <- ets:tab2list(Table), is_pid(Pid), is_process_alive(Pid)
    ],
    true = ets:delete(Table).

%%% Programs

program(Mode, Terms) ->
    bind(pool(Mode, Terms), fun(Pool) -> program_of(Mode, Pool) end, false).

program_of(alone, {[Name | _], _, _} = Pool) ->
    Some = resize(100, list(frequency(operations(alone, Pool)))),
    Indexed = attribute_operations(Pool) ++ index_operations(alone, Pool),
    Attributes = resize(80, list(frequency(Indexed))),
    frequency([
        {20, tuple([limited(Some), exactly([])])},
        {20, tuple([after_those(opened(Name), Attributes), exactly([])])},
        {1, tuple([after_those(slowed(Name, 12), resize(15, Some)), exactly([])])}
    ]);
program_of(together, {[Name | _], _, _} = Pool) ->
    Attributes = {15, frequency(attribute_operations(Pool))},
    Looks = look_operations(Pool) ++ index_operations(together, Pool),
    Children = child_operations(together, Pool) ++ [Attributes | Looks],
    Indexed = attribute_operations(Pool) ++ index_operations(together, Pool),
    frequency([
        {5, tuple([exactly(opened(Name)), branches(7, Indexed)])},
        {5, tuple([exactly(opened(Name)), branches(5, Children)])},
        {5, tuple([
            limited(resize(6, list(frequency(operations(together, Pool))))),
            branches(5, operations(together, Pool))
        ])},
        {1, tuple([exactly(slowed(Name, 11)), branches(4, Children)])}
    ]).

after_those(First, Operations) ->
    bind(Operations, fun(Some) -> First ++ Some end, false).

%% In some programs the zone may have few children. The first operation says so.
limited(Operations) ->
    Limit = fun
        ({Some, none}) -> Some;
        ({Some, Most}) -> [{limit, Most} | Some]
    end,
    bind(tuple([Operations, elements([none, none, none, 1, 2])]), Limit, false).

%% Kills a child so often that its restart is delayed.
slowed(Name, Deaths) ->
    Spec = #spec{form = short, restart = permanent, tag = {tag, 0}},
    lists:append(lists:duplicate(Deaths, [{open, Name, Spec}, {die, Name, killed}])).

opened(Name) ->
    [{open, Name, #spec{form = short, restart = temporary, tag = {tag, 0}}}].

branches(Length, Operations) ->
    vector(?BRANCHES, resize(Length, list(frequency(Operations)))).

%% Returns terms with their tokens.
terms(Seed) ->
    Keep = fun(Terms) ->
        put(random, Terms),
        true
    end,
    Property = for_all(vector(40, prop_terms:any_term()), Seed, Keep),
    true = proper:quickcheck(Property, [quiet, {numtests, 1}, {start_size, 20}]),
    named(random, erase(random)) ++
        named(alike, prop_terms:alike()) ++
        named(kind, [nested(10000), pid | prop_terms:kinds()]).

named(Kind, Terms) ->
    [{list_to_atom(lists:concat([Kind, '_', N])), Term} || {N, Term} <- lists:enumerate(Terms)].

nested(Depth) ->
    Wrap = fun(N, Term) -> element(N rem 3 + 1, {{Term}, [Term], #{a => Term}}) end,
    lists:foldl(Wrap, [], lists:seq(1, Depth)).

%% Draws the names, keys and values of a program: few, so that operations interfere. The search for
%% an order compares them often, so they are small in concurrent programs.
pool(Mode, Terms) ->
    Used = [
        {Token, Term}
     || {Token, Term} <- Terms, Mode =:= alone orelse erlang:external_size(Term) < 300
    ],
    Alike = [{Token, Term} || {Token, Term} <- Used, lists:prefix("alike", atom_to_list(Token))],
    Twins = [
        [{var, Token}, {var, Other}]
     || {Token, Term} <- Used,
        {Other, Twin} <- Alike,
        Term =:= Twin,
        not prop_terms:same(Term, Twin)
    ],
    Term = noshrink(
        oneof([elements([{var, Token} || {Token, _} <- Of]) || Of <- [Used, Alike]])
    ),
    Counts =
        case Mode of
            alone -> [3, 5, 6];
            together -> [oneof([1, 3]), oneof([2, 4]), 5]
        end,
    Pair = noshrink(elements([[] | Twins])),
    Draw = fun({Number, Drawn}) -> with_twins(vector(Number, Term), Drawn) end,
    tuple([bind(tuple([Count, Pair]), Draw, false) || Count <- Counts]).

%% Adds two terms that can be confused where -0.0 equals 0.0.
with_twins(Terms, Pair) ->
    bind(Terms, fun(Some) -> Pair ++ Some end, false).

operations(Mode, Pool) ->
    attribute_operations(Pool) ++ child_operations(Mode, Pool) ++ look_operations(Pool) ++
        index_operations(Mode, Pool).

attribute_operations({Names, Keys, Values}) ->
    [Name, Key, Some] = [elements(Terms) || Terms <- [Names, Keys, Values]],
    Integer = oneof([integer(-3, 3), elements([1 bsl 62, -(1 bsl 62), 1 bsl 70])]),
    Value = frequency([{6, Some}, {4, Integer}, {1, resize(4, list(Some))}]),
    Pair = tuple([Key, Value]),
    [
        {6, operation(setattr, [Name, resize(6, list(oneof([Pair, exactly(odd)])))])},
        {6, operation(setattr, [Name, Key, Value])},
        {1, operation(setattr_improper, [Name, Key, Value])},
        {3, operation(delattr, [Name, Key])},
        {4, operation(increment, [Name, Key, Integer])},
        {8, operation(increment, [Name, Key, Integer, Integer])},
        {6, operation(cas, [Name, Key, Value, Value])},
        {3, operation(update, [Name, Key, Value])},
        {6, operation(getattr, [Name, Key])},
        {1, operation(getattr, [Name, Key, elements([0, 1])])},
        {4, operation(info, [Name])},
        {1, operation(attrs, [Name])},
        {2, operation(info, [Name, resize(4, list(Key))])}
    ].

child_operations(Mode, {Names, Keys, _}) ->
    Name = elements(Names),
    Tag = tag(),
    Spec = spec(Mode, Names, Keys, 2),
    Open = operation(open, [Name, Spec]),
    OpenTogether =
        case Mode of
            alone -> operation(open_together, [Name, plain_spec(running), integer(2, 5)]);
            together -> Open
        end,
    [
        {12, Open},
        {3, operation(start_child, [Name, Spec])},
        {2, operation(add, [Name, Tag])},
        {2, operation(add, [Name, plain_spec(added)])},
        {2, operation(register, [Name, Tag])},
        {3, operation(re_register, [Name, Tag])},
        {3, operation(unregister, [Name])},
        {8, operation(die, [Name, elements([normal, shutdown, {shutdown, done}, boom, killed])])},
        {3, operation(terminate_child, [Name])},
        {1, operation(delete_child, [Name])},
        {2, OpenTogether}
    ].

tag() ->
    lazy(fun() -> {tag, rand:uniform(1 bsl 59)} end).

look_operations({Names, Keys, _}) ->
    Name = elements(Names),
    List = {list, resize(4, list(elements(Keys)))},
    Sum = {sum, elements(Keys)},
    Reads = [list, which_children, names, fold, count_children, select, Sum, List],
    [
        {3, operation(find, [Name])},
        {1, operation(find, [Name, elements([0, 1])])},
        {1, operation(whereis, [Name])},
        {1, operation(send, [Name])},
        {1, operation(restart_child, [Name])},
        {1, operation(childspec, [Name])},
        {1, operation(malformed, [Name])},
        {1, elements([count, wait])},
        {5, operation(read, [oneof(Reads)])}
    ].

%% A child whose value is just being changed may count for both values. So counts are not compared
%% while other processes change values.
index_operations(Mode, {_, Keys, Values}) ->
    Key = elements(Keys),
    Value = frequency([{6, elements(Values)}, {1, integer(-3, 3)}]),
    Look = fun(Kind, Arguments) -> operation(Kind, [exactly('$index'), Key | Arguments]) end,
    Counts = [Look(count, [Value]), Look(values, [])],
    Lookups = [Look(lookup, [Value]), Look(publish, [Value])],
    [
        {4, operation(read, [oneof(Lookups)])}
        | [{3, operation(read, [oneof(Counts)])} || Mode =:= alone]
    ].

operation(Kind, Arguments) ->
    tuple([exactly(Kind) | Arguments]).

%% A spec may have calls, whose specs have calls in turn, up to a depth.
spec(Mode, _, _, 0) ->
    plain_spec(Mode);
spec(Mode, Names, Keys, Depth) ->
    %% The search for an order can explain few callbacks.
    Plain =
        case Mode of
            alone -> 1;
            together -> 3
        end,
    frequency([{Plain, plain_spec(Mode)}, {1, asking_spec(Mode, Names, Keys, Depth - 1)}]).

plain_spec(added) ->
    spec_of([full], [ok], [ok], exactly(none), exactly(none));
plain_spec(running) ->
    spec_of([short, full, map], [ok], [ok], exactly(none), exactly(none));
plain_spec(Mode) ->
    spec_of([short, full, map], hows(), agains(Mode), exactly(none), last_misbehaviour()).

%% A start that calls the zone must not end by its shutdown timeout: the call may wait for others.
%% So concurrent programs use the form with the longest timeout.
asking_spec(Mode, Names, Keys, Depth) ->
    Forms =
        case Mode of
            alone -> [short, full, map];
            together -> [map]
        end,
    Asks = oneof([exactly(none), asks(Mode, Names, Keys, Depth)]),
    Own = operation(getattr, [exactly('$own'), exactly('$missing'), exactly(infinity)]),
    Last = frequency([
        {2, last_misbehaviour()},
        {6, asks(Mode, Names, Keys, Depth)},
        {1, by(Own)}
    ]),
    spec_of(Forms, hows(), agains(Mode), Asks, Last).

spec_of(Forms, Hows, Agains, Asks, Last) ->
    Restart = elements([temporary, transient, permanent]),
    [Form, How, Again] = [elements(Choices) || Choices <- [Forms, Hows, Agains]],
    tuple([exactly(spec), Form, Restart, How, Again, Asks, Last, tag()]).

hows() ->
    [ok || _ <- lists:seq(1, 8)] ++ misbehaviours() ++
        [info, helper, refused, ignore, crash, throw, odd, {error, 404, no}] ++
        [{ok, no_pid}, {ok, no_pid, info}].

%% A failed restart is repeated after a delay, during which concurrent calls see the name.
agains(together) ->
    [ok, ok, ok | misbehaviours()];
agains(alone) ->
    agains(together) ++ [refused, crash, throw, refused, crash, throw, ignore, odd, {ok, no_pid}].

misbehaviours() ->
    [untrap, unlink, flush, erase, everything].

last_misbehaviour() ->
    elements([none, none, none, crash | misbehaviours()]).

asks(Mode, Names, Keys, Depth) ->
    Name = oneof([elements(Names), elements(Names), exactly('$own')]),
    Spec = spec(Mode, Names, Keys, Depth),
    Opens = [operation(Open, [Name, Spec]) || Open <- [open, open, start_child]],
    Time = elements([0, 1]),
    Looks = [operation(getattr, [Name, elements(Keys), Time]), operation(find, [Name, Time])],
    Others = [
        operation(terminate_child, [Name]),
        operation(delete_child, [Name]),
        operation(register, [Name, tag()]),
        operation(re_register, [Name, tag()]),
        operation(add, [Name, tag()]),
        operation(find, [Name]),
        operation(setattr, [exactly('$own'), elements(Keys), integer(1, 9)])
    ],
    by(oneof(Opens ++ [oneof(Looks) || Mode =:= alone] ++ Others)).

%% The callback makes the call itself, or starts a process that does.
by(Operation) ->
    tuple([elements([self, helper]), Operation]).

%% Replaces tokens by terms. Tags are different in each pass.
resolved({var, Token}, #run{terms = Terms}) -> map_get(Token, Terms);
resolved({tag, _} = Tag, #run{pass = Pass}) -> {Tag, Pass};
resolved(Parts, Run) when is_list(Parts) -> [resolved(Part, Run) || Part <- Parts];
resolved(Parts, Run) when is_tuple(Parts) -> list_to_tuple(resolved(tuple_to_list(Parts), Run));
resolved(Part, _) -> Part.

%%% Successive calls

alone(Run, Operations) ->
    {ok, []} = gen_tracker:subscribe(?ZONE),
    performed_alone(Run, Operations, [], model_zone:new()).

performed_alone(Run, [], Performed, Model) ->
    ended_alone(Run, Model, figures(Run, Performed));
performed_alone(#run{table = Table} = Run, [Operation | Operations], Performed, Model) ->
    {Resolved, Answer} = Done = performed(Run, Operation),
    Delayed = until_rest(),
    {Expected, After} = alone(Resolved, start, observe(Table, Model)),
    Unexpected = {model_zone:unmatched(After), Delayed -- model_zone:delayed(After)},
    case agree(Expected, Answer) andalso Unexpected =:= {#{}, []} of
        true ->
            performed_alone(Run, Operations, [Done | Performed], After);
        false ->
            {Operation, {expected, Expected}, {answer, Answer}, {unexpected, Unexpected}}
    end.

%% Returns the answer to an operation that nothing disturbs, and the next model.
alone(Operation, Stage, Model) ->
    case {model_zone:step(Operation, Stage, Model), model_zone:internal(Model)} of
        {[{{answer, Answer}, After} | _], _} -> {Answer, model_zone:settle(After)};
        {[{{stage, Next}, After} | _], _} -> alone(Operation, Next, After);
        {[], [After | _]} -> alone(Operation, Stage, After);
        {[], []} -> {never, Model}
    end.

%% Adds the answers and times that callbacks have written to the table.
observe(Table, Model) ->
    Observed = model_zone:observe(recorded(answer, Table), recorded(waited, Table), Model),
    true = ets:match_delete(Table, {{answer, '_'}, '_'}),
    Observed.

recorded(What, Table) ->
    maps:from_list([{Key, Value} || [Key, Value] <- ets:match(Table, {{What, '$1'}, '$2'})]).

%% Waits until no child is dead, starting or terminating: without calls, the zone then changes no
%% more. Returns the restarts that were delayed.
until_rest() ->
    lists:usort(until_rest(moving())).

until_rest([]) ->
    %% A child may have left this state while others were read.
    case moving() of
        [] -> [];
        Moving -> until_rest(Moving)
    end;
until_rest(Moving) ->
    erlang:yield(),
    Waiting = [Each || {State, _} = Each <- Moving, lists:member(State, [slowed, pending])],
    Waiting ++ until_rest(moving()).

moving() ->
    [
        {State, Name}
     || {Name, State, Pid, _, _} <- faults_balance:children(?ZONE),
        State =/= running orelse not is_process_alive(Pid)
    ].

%% Stops the zone, and compares all events and all calls of `after_terminate` with the model. The
%% helpers end with the zone.
ended_alone(#run{table = Table}, Model, Figures) ->
    {Events, Terminated} = model_zone:logs(model_zone:settle(model_zone:stopping(Model))),
    ok = gen_server:call(?ZONE, shutdown),
    [tracked_child:down(Pid) || {Pid, {helper, _}} <- ets:tab2list(Table)],
    Received = events(Table, #{}),
    Last = fun([_, Name, Attributes, Reason], Log) ->
        logged(Name, {attributes(Attributes, Table), Reason}, Log)
    end,
    Calls = lists:sort(ets:match(Table, {{terminated, '$1'}, '$2', '$3', '$4'})),
    Called = lists:foldl(Last, #{}, Calls),
    case {agree(Events, Received), agree(Terminated, Called)} of
        {true, true} -> {ok, Figures};
        {false, _} -> {events, {expected, Events}, {answer, Received}};
        {true, false} -> {after_terminate, {expected, Terminated}, {answer, Called}}
    end.

events(Table, Events) ->
    receive
        {gen_tracker, ?ZONE, unsubscribed} ->
            Events;
        {gen_tracker, ?ZONE, {up, Name, Pid}} ->
            events(Table, logged(Name, {up, identity(Pid, Table)}, Events));
        {gen_tracker, ?ZONE, {down, Name, Pid, Reason}} ->
            events(Table, logged(Name, {down, identity(Pid, Table), Reason}, Events))
    end.

logged(Name, Entry, Log) ->
    maps:update_with(Name, fun(Entries) -> [Entry | Entries] end, [Entry], Log).

%%% Concurrent calls

together(#run{table = Table} = Run, First, Branches) ->
    All = lists:append([First | Branches]),
    Names = lists:usort([
        element(2, Operation)
     || Operation <- All,
        is_tuple(Operation),
        not lists:member(element(1, Operation), [read, limit])
    ]),
    Infos = [{info, Name} || Name <- Names],
    Last = [rest | Infos] ++ [{read, list}, {read, which_children}, count, alive],
    Before = [performed(Run, Operation) || Operation <- First],
    Meanwhile = [run_at_once(Run#run{pass = Pass}, Branches) || Pass <- lists:seq(1, ?PASSES)],
    After = [performed(Run, Operation) || Operation <- Last],
    Phases = [[Before] | Meanwhile] ++ [[After]],
    Figures = figures(Run, lists:append(lists:append(Phases))),
    Model = observe(Table, model_zone:without_logs(model_zone:new())),
    get(test) ! {performed, self()},
    case explained(Model, Phases) of
        true -> {ok, Figures};
        given_up -> {ok, #{given_up => 1}};
        false -> {unexplained, answers(Phases), model_zone:unmatched(Model)}
    end.

answers(Phases) ->
    [[[Answer || {_, Answer} <- Branch] || Branch <- Phase] || Phase <- Phases].

%% Runs the branches at the same time. Each process waits until all have started.
run_at_once(Run, Branches) ->
    Present = counters:new(1, [atomics]),
    callers:together([
        fun() ->
            counters:add(Present, 1, 1),
            await_all(Present, length(Branches)),
            [
                begin
                    erlang:yield(),
                    performed(Run, Operation)
                end
             || Operation <- Branch
            ]
        end
     || Branch <- Branches
    ]).

await_all(Present, Count) ->
    case counters:get(Present, 1) of
        Count ->
            ok;
        _ ->
            erlang:yield(),
            await_all(Present, Count)
    end.

%% Whether some order of steps gives all answers. The branches of a phase run at the same time, one
%% phase after the other.
explained(Model, [Phase | Phases]) ->
    search([{Model, [{start, Branch} || Branch <- Phase], Phases}], #{}).

search([], _) ->
    false;
search(_, Seen) when map_size(Seen) > ?POSITIONS ->
    given_up;
search([{Model, Branches, Phases} | Positions], Seen) ->
    %% The length of the rest identifies the progress of a branch. Positions are compared as
    %% binaries: before OTP 27, models with 0.0 and -0.0 are equal, but explain different answers.
    Position = term_to_binary(
        {Model, [{Stage, length(Rest)} || {Stage, Rest} <- Branches], length(Phases)},
        [deterministic]
    ),
    IsPhaseDone = lists:all(fun({_, Rest}) -> Rest =:= [] end, Branches),
    case {is_map_key(Position, Seen), IsPhaseDone, Phases} of
        {true, _, _} ->
            search(Positions, Seen);
        {false, true, []} ->
            true;
        {false, true, [Phase | Later]} ->
            Next = {Model, [{start, Branch} || Branch <- Phase], Later},
            search([Next | Positions], Seen#{Position => true});
        {false, false, _} ->
            search(successors(Model, Branches, Phases) ++ Positions, Seen#{Position => true})
    end.

successors(Model, Branches, Phases) ->
    Steps = [
        {After, replace(Number, Next, Branches), Phases}
     || {Number, {Stage, [{Operation, Answer} | Rest] = All}} <- lists:enumerate(Branches),
        {Result, After} <- model_zone:step(Operation, Stage, Model),
        Next <- next(Result, Answer, Rest, All)
    ],
    Steps ++ [{After, Branches, Phases} || After <- model_zone:internal(Model)].

next({stage, Stage}, _, _, All) -> [{Stage, All}];
next({answer, Expected}, Answer, Rest, _) -> [{start, Rest} || agree(Expected, Answer)].

%%% Operations on the library

%% Returns an operation with its terms, and its answer in the terms of the model.
performed(Run, Operation) ->
    Resolved = with_index(resolved(Operation, Run), Run),
    {Resolved, answer(Resolved, Run)}.

%% Tells the model whether a key is indexed, and how.
with_index({read, Look}, #run{indexes = Indexes}) when element(2, Look) =:= '$index' ->
    {read, setelement(2, Look, maps:get(element(3, Look), Indexes, none))};
with_index(Operation, _) ->
    Operation.

answer(Resolved, Run) ->
    try
        perform(Resolved, Run)
    catch
        Class:Reason -> {Class, Reason}
    end.

perform({find, Name}, Run) ->
    identified(gen_tracker:find(?ZONE, Name), Run);
perform({find, Name, Timeout}, Run) ->
    identified(gen_tracker:find(?ZONE, Name, Timeout), Run);
perform({whereis, Name}, Run) ->
    identified(gen_tracker:whereis_name({?ZONE, Name}), Run);
perform({send, Name}, Run) ->
    identified(gen_tracker:send({?ZONE, Name}, ping), Run);
perform({getattr, Name, Key}, _) ->
    gen_tracker:getattr(?ZONE, Name, Key);
perform({getattr, Name, Key, Timeout}, _) ->
    gen_tracker:getattr(?ZONE, Name, Key, Timeout);
perform({info, Name}, #run{table = Table}) ->
    attributes(gen_tracker:info(?ZONE, Name), Table);
perform({attrs, Name}, #run{table = Table}) ->
    attributes(gen_tracker:attrs(?ZONE, Name), Table);
perform({info, Name, Keys}, #run{table = Table}) ->
    attributes(gen_tracker:info(?ZONE, Name, Keys), Table);
perform({setattr, Name, Pairs}, _) ->
    gen_tracker:setattr(?ZONE, Name, Pairs);
perform({setattr_improper, Name, Key, Value}, _) ->
    gen_tracker:setattr(?ZONE, Name, [{Key, Value} | odd]);
perform({setattr, Name, Key, Value}, _) ->
    gen_tracker:setattr(?ZONE, Name, Key, Value);
perform({delattr, Name, Key}, _) ->
    gen_tracker:delattr(?ZONE, Name, Key);
perform({increment, Name, Key, Increment}, _) ->
    gen_tracker:increment(?ZONE, Name, Key, Increment);
perform({increment, Name, Key, Increment, Default}, _) ->
    gen_tracker:increment(?ZONE, Name, Key, Increment, Default);
perform({cas, Name, Key, Old, New}, _) ->
    gen_tracker:cas(?ZONE, Name, Key, Old, New);
perform({update, Name, Key, Value}, _) ->
    gen_tracker:update(?ZONE, Name, Key, fun(_) -> Value end);
perform({limit, _}, _) ->
    ok;
perform({read, What}, Run) ->
    {read, reading(What, Run)};
perform(count, _) ->
    gen_tracker:count(?ZONE);
perform(wait, _) ->
    gen_tracker:wait(?ZONE);
perform({malformed, Name}, Run) ->
    identified(gen_tracker:find_or_open(?ZONE, {Name, nothing, temporary}), Run);
perform({childspec, Name}, _) ->
    case supervisor:get_childspec(?ZONE, Name) of
        {ok, #{id := Name} = Spec} -> {ok, maps:with([restart, shutdown, type, modules], Spec)};
        Error -> Error
    end;
perform({restart_child, Name}, _) ->
    supervisor:restart_child(?ZONE, Name);
perform({terminate_child, Name}, _) ->
    supervisor:terminate_child(?ZONE, Name);
perform({delete_child, Name}, _) ->
    supervisor:delete_child(?ZONE, Name);
perform(alive, #run{table = Table}) ->
    sorted([Id || {Pid, Id} <- ets:tab2list(Table), is_pid(Pid), is_process_alive(Pid)]);
perform({open, Name, Spec}, Run) ->
    identified(gen_tracker:find_or_open(?ZONE, child_spec(Name, Spec, Run)), Run);
perform({open_together, Name, Spec, Count}, Run) ->
    callers:together([fun() -> perform({open, Name, Spec}, Run) end || _ <- lists:seq(1, Count)]);
perform({start_child, Name, Spec}, Run) ->
    identified(supervisor:start_child(?ZONE, child_spec(Name, Spec, Run)), Run);
perform({add, Name, #spec{tag = Tag} = Spec}, Run) ->
    Full = child_spec(Name, Spec, Run),
    with_process(Tag, fun(Pid) -> gen_tracker:add_existing_child(?ZONE, {Pid, Full}) end, Run);
perform({add, Name, Tag}, Run) ->
    Add = fun(Pid) -> gen_tracker:add_existing_child(?ZONE, {Name, Pid, worker, []}) end,
    with_process(Tag, Add, Run);
perform({register, Name, Tag}, Run) ->
    with_process(Tag, fun(Pid) -> gen_tracker:register_name({?ZONE, Name}, Pid) end, Run);
perform({re_register, Name, Tag}, Run) ->
    with_process(Tag, fun(Pid) -> gen_tracker:re_register_name({?ZONE, Name}, Pid) end, Run);
perform({unregister, Name}, _) ->
    gen_tracker:unregister_name({?ZONE, Name});
perform({die, Name, Reason}, #run{table = Table} = Run) ->
    case gen_tracker:find(?ZONE, Name) of
        {ok, Pid} ->
            Id = identified(Pid, Run),
            _ = ets:insert_new(Table, {{dying, Id}, erlang:monotonic_time(millisecond)}),
            ended(Pid, Reason),
            {died, Id};
        undefined ->
            undefined
    end;
perform(rest, _) ->
    _ = until_rest(),
    ok.

ended(Pid, killed) -> tracked_child:kill(Pid);
ended(Pid, Reason) -> tracked_child:stop(Pid, Reason).

%% Starts a process and adds it to the zone.
with_process(Tag, Add, #run{table = Table} = Run) ->
    Pid = spawn(fun child/0),
    true = ets:insert(Table, {Pid, {added, Tag}}),
    Answer = Add(Pid),
    [tracked_child:kill(Pid) || Answer =/= yes, Answer =/= {ok, Pid}],
    identified(Answer, Run).

reading(count_children, _) ->
    maps:from_list(supervisor:count_children(?ZONE));
reading(names, _) ->
    distinct([{Name, name} || Name <- gen_tracker:names(?ZONE)]);
reading(fold, #run{table = Table}) ->
    Add = fun(Name, Pid, Names) -> [{Name, identity(Pid, Table)} | Names] end,
    distinct(gen_tracker:fold(Add, [], ?ZONE));
reading(which_children, #run{table = Table}) ->
    distinct([
        {Name, {identity(Pid, Table), Modules}}
     || {Name, Pid, worker, Modules} <- supervisor:which_children(?ZONE)
    ]);
reading(select, Run) ->
    Rows = gen_tracker:select(?ZONE, [{'_', [], ['$_']}]),
    listed([{Name, [{pid, Pid} | maps:to_list(Map)]} || {Name, Pid, Map} <- Rows], Run);
reading({sum, Key}, _) ->
    gen_tracker:sum(?ZONE, Key);
reading(list, Run) ->
    listed(gen_tracker:list(?ZONE), Run);
reading({lookup, _, Key, Value}, #run{table = Table}) ->
    Found = gen_tracker:lookup(?ZONE, Key, Value),
    distinct([{Name, identity(Pid, Table)} || {Name, Pid} <- Found]);
reading({publish, _, Key, Value}, _) ->
    is_integer(gen_tracker:publish(?ZONE, Key, Value, ping));
reading({count, _, Key, Value}, _) ->
    gen_tracker:count(?ZONE, Key, Value);
reading({values, _, Key}, _) ->
    distinct(gen_tracker:values(?ZONE, Key));
reading({list, Keys}, Run) ->
    listed(gen_tracker:list(?ZONE, Keys), Run).

listed(Children, #run{table = Table}) ->
    distinct([
        {Name, {identity(Pid, Table), attributes(Attributes, Table)}}
     || {Name, [{pid, Pid} | Attributes]} <- Children
    ]).

%% Returns a map, unless a key occurs twice.
distinct(Pairs) ->
    Map = maps:from_list(Pairs),
    case length(Pairs) =:= map_size(Map) of
        true -> Map;
        false -> {twice, Pairs}
    end.

attributes(Attributes, Table) ->
    Known = fun
        ({Key, {Of, _, _}}) when Of =:= Table -> {Key, table};
        (Attribute) -> Attribute
    end,
    {attributes, distinct(lists:map(Known, Attributes))}.

%% Replaces the pid in an answer by the identity.
identified(Pid, #run{table = Table}) when is_pid(Pid) ->
    identity(Pid, Table);
identified({ok, Pid}, Run) when is_pid(Pid) ->
    {ok, identified(Pid, Run)};
identified({ok, Pid, Info}, Run) when is_pid(Pid) ->
    {ok, identified(Pid, Run), Info};
identified({error, {already_started, Pid}}, Run) ->
    {error, {already_started, identified(Pid, Run)}};
identified(Answer, _) ->
    Answer.

identity(State, _) when is_atom(State) -> State;
identity(Pid, Table) -> ets:lookup_element(Table, Pid, 2).

%%% Children

child_spec(Name, #spec{form = Form, restart = Restart} = Spec, #run{table = Table}) ->
    Start = {?MODULE, start, [Table, ?ZONE, Name, Spec]},
    case Form of
        short -> {Name, Start, Restart};
        full -> {Name, Start, Restart, model_zone:shutdown(Form), worker, [?MODULE]};
        map -> #{id => Name, start => Start, restart => Restart}
    end.

start(Table, Zone, Name, #spec{how = How, again = Again, asks = Asks, last = Last}) ->
    Number = ets:update_counter(Table, {starts, Name}, 1, {starts, 0}),
    Call = ets:update_counter(Table, {calls, self()}, 1, {calls, 0}),
    Id = {started, Name, Number},
    ok = gen_tracker:setattr(Zone, Name, ?TABLE_KEY, {Table, Id, last(How, Last)}),
    [
        ets:insert(Table, {{waited, Id}, erlang:monotonic_time(millisecond) - Died})
     || {_, Died} <- ets:lookup(Table, {dying, {started, Name, Number - 1}})
    ],
    ask({start, Id}, Name, Asks, Table),
    case Call of
        1 -> start(How, Table, Id);
        2 -> start(Again, Table, Id);
        _ -> start(ok, Table, Id)
    end.

%% A helper that the start function has linked must not be unlinked by `after_terminate`.
last(helper, Misbehaviour) when is_atom(Misbehaviour) -> none;
last(_, Last) -> Last.

start(ok, Table, Id) ->
    Pid = spawn_link(fun child/0),
    true = ets:insert(Table, {Pid, Id}),
    {ok, Pid};
start(info, Table, Id) ->
    {ok, Pid} = start(ok, Table, Id),
    {ok, Pid, info};
start(helper, Table, Id) ->
    {ok, _} = start(ok, Table, {helper, Id}),
    start(ok, Table, Id);
start(refused, _, _) ->
    {error, refused};
start(crash, _, _) ->
    error(crashed);
start(throw, _, _) ->
    throw(thrown);
start(How, Table, Id) ->
    case lists:member(How, misbehaviours()) of
        true ->
            misbehave(How),
            Started = start(ok, Table, Id),
            misbehave(How),
            Started;
        false ->
            How
    end.

misbehave(crash) -> error(crashed);
misbehave(Misdeed) -> foreign_code:misbehave(Misdeed).

%% Makes the call of a callback, and writes its answer to the table.
ask(Key, Name, {By, Operation}, Table) ->
    Own = model_zone:own(Key, Name, Operation),
    Answer = asked(By, fun() -> answer(Own, #run{table = Table}) end),
    _ = ets:update_counter(Table, asked, 1, {asked, 0}),
    ets:insert(Table, {{answer, Key}, Answer});
ask(_, _, none, _) ->
    none;
ask(_, _, Misbehaviour, _) ->
    misbehave(Misbehaviour).

asked(self, Ask) ->
    Ask();
asked(helper, Ask) ->
    Callback = self(),
    Helper = proc_lib:spawn(fun() -> Callback ! {asked, self(), Ask()} end),
    receive
        {asked, Helper, Answer} -> Answer
    end.

child() ->
    receive
        {stop, Reason} -> exit(Reason);
        ping -> child()
    end.

%% Called by the library. The attribute is missing if the process was added.
after_terminate(Name, Attributes, Reason) ->
    case lists:keyfind(?TABLE_KEY, 1, Attributes) of
        {_, {Table, Id, Last}} ->
            Number = erlang:unique_integer([monotonic]),
            ets:insert(Table, {{terminated, Number}, Name, Attributes, Reason}),
            ask({last, Id}, Name, Last, Table);
        false ->
            true
    end.
