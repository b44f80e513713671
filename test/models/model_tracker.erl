%% A model of gen_tracker, and the properties that the library answers as it does: one call after
%% the other, and several processes at the same time.
%%
%% The model is a machine that makes small steps, `model_zone'. Calls that come one after the other
%% leave it no choice. When they come at the same time, some order of all its steps has to explain
%% every answer; `explained/2' looks for one.
%%
%% A program is a list of operations, then lists of operations for processes of their own that begin
%% at the same moment. Operations name their terms `{var, Token}', so that they may be printed and
%% run again. (Not made by proper_statem: no operation needs the answer of another one, and its
%% parallel runner lets the first process go before it makes the second, which then finds all done.)
%%
%% A child is known by its identity: the name and the number of the call of a start function for
%% that name; or, for a process that was added, the tag in the operation. The start function sets an
%% attribute, by which `after_terminate/3' finds the books that it writes to.
%%
%% Start functions and `after_terminate' ask the zone something, if their spec says so, and write
%% the answers to the books. The model is told these answers, as it is told those of the operations.
-module(model_tracker).

-export([round/1, replay/1, run/3]).
-export([start/4, after_terminate/3]).

-import(proper_types, [bind/3, elements/1, exactly/1, frequency/1, integer/2, lazy/1, list/1, noshrink/1, oneof/1, resize/2, tuple/1]).
-import(proper_types, [vector/2]).
-import(prop_terms, [sorted/1]).
-import(model_zone, [agree/2]).

-include("model_zone.hrl").

%% How many programs of each kind a round runs, and how often it runs one whose processes work at the same time, also when it makes
%% it smaller, and when it is run again; how often these meet then.
-define(ALONE, 150).
-define(TOGETHER, 40).
-define(TIMES, 3).
-define(TIMES_SMALLER, 10).
-define(TIMES_AGAIN, 100).
-define(PASSES, 6).
-define(BRANCHES, 3).
%% After so many milliseconds a program hangs; one that has taken longer than restarts are counted
%% is not judged.
-define(HANGING, 20000).
-define(COUNTING, 9000).
%% In so many places a search for an order gives up.
-define(PLACES, 100000).
%% How long a failure is shrunk, in seconds.
-define(SHRINKING, 30).

%% Where a program runs.
-record(world, {books, terms, pass = 0}).

%%% Rounds

round(Seed) ->
    run(Seed, ?ALONE, ?TOGETHER).

%% So many programs of each kind.
run(Seed, Alone, Together) ->
    quietly(fun() ->
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
    case proper:quickcheck(for_all(program(Mode, Terms), Seed, Holds), [quiet, long_result, {numtests, Times}, {start_size, 10}, {max_size, 40}]) of
        true -> ok;
        [Program] -> {failed, {Mode, Seed, shrunk(Mode, Program, Terms), get(wrong)}}
    end.

%% Without the operations that it fails without; PropEr leaves some.
shrunk(Mode, Program, Terms) ->
    case lists:dropwhile(fun(Smaller) -> holds(Mode, Smaller, Terms, ?TIMES_SMALLER) end, smaller(Program)) of
        [] -> Program;
        [Smaller | _] -> shrunk(Mode, Smaller, Terms)
    end.

smaller({First, Branches}) ->
    [{Less, Branches} || Less <- less(First)] ++
        [{First, lists:sublist(Branches, Number - 1) ++ [Less | lists:nthtail(Number, Branches)]} || {Number, Branch} <- lists:enumerate(Branches), Less <- less(Branch)].

less(Operations) ->
    [lists:sublist(Operations, Number - 1) ++ lists:nthtail(Number, Operations) || Number <- lists:seq(1, length(Operations))].

%% The same instances for the same seed. PropEr takes the time for its own; the first instance is made after that, in the same process.
for_all(Type, Seed, Holds) ->
    put(seed, Seed),
    Seeded = fun() ->
        [rand:seed(exsss, First) || First <- [erase(seed)], First =/= undefined],
        Type
    end,
    proper:forall(lazy(Seeded), Holds).

%% A program that has failed, once more. Seed gives the terms that it names.
replay({Mode, Seed, Program, _}) ->
    quietly(fun() ->
        case holds(Mode, Program, terms(Seed), ?TIMES_AGAIN) of
            true -> {ok, get(figures)};
            false -> {failed, {Mode, Seed, Program, get(wrong)}}
        end
    end).

%% The library logs start functions that crash.
quietly(Fun) ->
    Modules = [gen_tracker_keeper, gen_tracker_reports],
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
    lists:all(fun(_) -> holds(Mode, Program, Terms) end, lists:seq(1, case Mode of alone -> 1; together -> Times end)).

%% In a process of its own, whose messages go with it. Shrinking comes to an end as nothing fails
%% any more.
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
            %% The search for an order takes its time.
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
    World = world(Terms),
    try
        case Mode of
            alone -> alone(World, First ++ [alive]);
            together -> together(World, First, Branches)
        end
    catch
        Class:Reason:Stacktrace -> {Class, Reason, Stacktrace}
    after
        close(World)
    end.

figures(#world{books = Books}, Performed) ->
    #{
        operations => length(Performed),
        deaths => length([died || {_, {died, _}} <- Performed]),
        asked => lists:sum([Count || {asked, Count} <- ets:lookup(Books, asked)])
    }.

world(Terms) ->
    {ok, Zone} = gen_tracker:start_link(?ZONE),
    unlink(Zone),
    #world{books = ets:new(?MODULE, [public]), terms = maps:from_list(Terms)}.

close(#world{books = Books}) ->
    zones:stop_zone(?ZONE),
    [tracked_child:kill(Pid) || {Pid, _} <- ets:tab2list(Books), is_pid(Pid), is_process_alive(Pid)],
    true = ets:delete(Books).

%%% Programs

program(Mode, Terms) ->
    bind(pool(Mode, Terms), fun(Pool) -> program_of(Mode, Pool) end, false).

program_of(alone, {[Name | _], _, _} = Pool) ->
    Some = resize(100, list(frequency(operations(alone, Pool)))),
    Attributes = resize(80, list(frequency(attribute_operations(Pool)))),
    frequency([
        {20, tuple([Some, exactly([])])},
        {20, tuple([after_those(opened(Name), Attributes), exactly([])])},
        {1, tuple([after_those(slowed(Name, 12), resize(15, Some)), exactly([])])}
    ]);
program_of(together, {[Name | _], _, _} = Pool) ->
    Children = child_operations(together, Pool) ++
        [{15, frequency(attribute_operations(Pool))} | look_operations(Pool)],
    frequency([
        {5, tuple([exactly(opened(Name)), branches(7, attribute_operations(Pool))])},
        {5, tuple([exactly(opened(Name)), branches(5, Children)])},
        {5, tuple([
            resize(6, list(frequency(operations(together, Pool)))),
            branches(5, operations(together, Pool))
        ])},
        {1, tuple([exactly(slowed(Name, 11)), branches(4, Children)])}
    ]).

after_those(First, Operations) ->
    bind(Operations, fun(Some) -> First ++ Some end, false).

%% A child that dies so often that its restart waits.
slowed(Name, Deaths) ->
    Spec = #spec{form = short, restart = permanent, tag = {tag, 0}},
    lists:append(lists:duplicate(Deaths, [{open, Name, Spec}, {die, Name, killed}])).

opened(Name) ->
    [{open, Name, #spec{form = short, restart = temporary, tag = {tag, 0}}}].

branches(Length, Operations) ->
    vector(?BRANCHES, resize(Length, list(frequency(Operations)))).

%% Terms by their tokens.
terms(Seed) ->
    Keep = fun(Terms) -> put(random, Terms), true end,
    true = proper:quickcheck(for_all(vector(40, prop_terms:any_term()), Seed, Keep), [quiet, {numtests, 1}, {start_size, 20}]),
    named(random, erase(random)) ++ named(alike, prop_terms:alike()) ++ named(kind, [nested(10000), pid | prop_terms:kinds()]).

named(Kind, Terms) ->
    [{list_to_atom(lists:concat([Kind, '_', N])), Term} || {N, Term} <- lists:enumerate(Terms)].

nested(Depth) ->
    lists:foldl(fun(N, Term) -> element(N rem 3 + 1, {{Term}, [Term], #{a => Term}}) end, [], lists:seq(1, Depth)).

%% The names, keys and values of a program: few, so that its operations meet. Whoever looks for an order compares them often; there they are small.
pool(Mode, Terms) ->
    Used = [{Token, Term} || {Token, Term} <- Terms, Mode =:= alone orelse erlang:external_size(Term) < 300],
    Alike = [{Token, Term} || {Token, Term} <- Used, lists:prefix("alike", atom_to_list(Token))],
    Twins = [[{var, Token}, {var, Other}] || {Token, Term} <- Used, {Other, Twin} <- Alike, Term =:= Twin, not prop_terms:same(Term, Twin)],
    Term = noshrink(oneof([elements([{var, Token} || {Token, _} <- Some]) || Some <- [Used, Alike]])),
    Counts = case Mode of alone -> [3, 5, 6]; together -> [oneof([1, 3]), oneof([2, 4]), 5] end,
    tuple([bind(tuple([Count, noshrink(elements([[] | Twins]))]), fun({Number, Pair}) -> with_twins(vector(Number, Term), Pair) end, false) || Count <- Counts]).

%% Where -0.0 and 0.0 are equal, two terms of which one may stand for the other.
with_twins(Terms, Pair) ->
    bind(Terms, fun(Some) -> Pair ++ Some end, false).

operations(Mode, Pool) ->
    attribute_operations(Pool) ++ child_operations(Mode, Pool) ++ look_operations(Pool).

attribute_operations({Names, Keys, Values}) ->
    [Name, Key, Some] = [elements(Terms) || Terms <- [Names, Keys, Values]],
    Integer = oneof([integer(-3, 3), elements([1 bsl 62, -(1 bsl 62), 1 bsl 70])]),
    Value = frequency([{3, Some}, {2, Integer}]),
    [
        {6, operation(setattr, [Name, resize(6, list(oneof([tuple([Key, Value]), exactly(odd)])))])},
        {6, operation(setattr, [Name, Key, Value])},
        {1, operation(setattr_improper, [Name, Key, Value])},
        {3, operation(delattr, [Name, Key])},
        {4, operation(increment, [Name, Key, Integer])},
        {8, operation(increment, [Name, Key, Integer, Integer])},
        {6, operation(cas, [Name, Key, Value, Value])},
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
    [
        {12, Open},
        {3, operation(start_child, [Name, Spec])},
        {2, operation(add, [Name, Tag])},
        {2, operation(add, [Name, plain_spec(added)])},
        {2, operation(register, [Name, Tag])},
        {3, operation(unregister, [Name])},
        {8, operation(die, [Name, elements([normal, shutdown, {shutdown, done}, boom, killed])])},
        {3, operation(terminate_child, [Name])},
        {1, operation(delete_child, [Name])},
        {2, case Mode of
            alone -> operation(open_together, [Name, plain_spec(running), integer(2, 5)]);
            together -> Open
        end}
    ].

tag() ->
    lazy(fun() -> {tag, rand:uniform(1 bsl 59)} end).

look_operations({Names, Keys, _}) ->
    Name = elements(Names),
    Reads = [list, which_children, names, fold, count_children, {list, resize(4, list(elements(Keys)))}],
    [
        {3, operation(find, [Name])},
        {1, operation(whereis, [Name])},
        {1, operation(send, [Name])},
        {1, operation(restart_child, [Name])},
        {1, operation(childspec, [Name])},
        {1, operation(malformed, [Name])},
        {1, elements([count, wait])},
        {5, operation(read, [oneof(Reads)])}
    ].

operation(Kind, Arguments) ->
    tuple([exactly(Kind) | Arguments]).

%% Some ask the zone something: not too deep, for what they ask may be to start another one.
spec(Mode, _, _, 0) ->
    plain_spec(Mode);
spec(Mode, Names, Keys, Depth) ->
    %% A search finds its way through few callbacks.
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
    spec_of([short, full, map], hows(), agains(Mode), exactly(none), last_misdeed()).

%% The time that a start has when it is to stop must not end it while it asks: what is asked may
%% take some time, if there are others who ask.
asking_spec(Mode, Names, Keys, Depth) ->
    Forms =
        case Mode of
            alone -> [short, full, map];
            together -> [map]
        end,
    Asks = oneof([exactly(none), asks(Mode, Names, Keys, Depth)]),
    Own = operation(getattr, [exactly('$own'), exactly('$missing'), exactly(infinity)]),
    Last = frequency([
        {2, last_misdeed()},
        {6, asks(Mode, Names, Keys, Depth)},
        {1, by(Own)}
    ]),
    spec_of(Forms, hows(), agains(Mode), Asks, Last).

spec_of(Forms, Hows, Agains, Asks, Last) ->
    Restart = elements([temporary, transient, permanent]),
    tuple([
        exactly(spec), elements(Forms), Restart, elements(Hows), elements(Agains), Asks, Last, tag()
    ]).

hows() ->
    [ok || _ <- lists:seq(1, 8)] ++ misdeeds() ++
        [info, helper, refused, ignore, crash, throw, odd, {error, 404, no}] ++
        [{ok, no_pid}, {ok, no_pid, info}].

%% What makes start functions fail that restart a child needs times that only those who come alone
%% do not see.
agains(together) ->
    [ok, ok, ok | misdeeds()];
agains(alone) ->
    agains(together) ++ [refused, crash, throw, refused, crash, throw, ignore, odd, {ok, no_pid}].

misdeeds() ->
    [untrap, unlink, flush, erase, everything].

last_misdeed() ->
    elements([none, none, none, crash | misdeeds()]).

asks(Mode, Names, Keys, Depth) ->
    Name = oneof([elements(Names), elements(Names), exactly('$own')]),
    Spec = spec(Mode, Names, Keys, Depth),
    Opens = [operation(Open, [Name, Spec]) || Open <- [open, open, start_child]],
    Look = operation(getattr, [Name, elements(Keys), elements([0, 1])]),
    by(oneof(Opens ++ [Look || Mode =:= alone] ++ [
        operation(terminate_child, [Name]),
        operation(delete_child, [Name]),
        operation(register, [Name, tag()]),
        operation(add, [Name, tag()]),
        operation(find, [Name]),
        operation(setattr, [exactly('$own'), elements(Keys), integer(1, 9)])
    ])).

%% The callback itself, or a process that it starts.
by(Operation) ->
    tuple([elements([self, helper]), Operation]).

%% An operation with its terms. Tags are others in each pass.
resolved({var, Token}, #world{terms = Terms}) -> map_get(Token, Terms);
resolved({tag, _} = Tag, #world{pass = Pass}) -> {Tag, Pass};
resolved(Parts, World) when is_list(Parts) -> [resolved(Part, World) || Part <- Parts];
resolved(Parts, World) when is_tuple(Parts) -> list_to_tuple(resolved(tuple_to_list(Parts), World));
resolved(Part, _) -> Part.

%%% One after the other

alone(World, Operations) ->
    {ok, []} = gen_tracker:subscribe(?ZONE),
    performed_alone(World, Operations, [], model_zone:new()).

performed_alone(World, [], Performed, Model) ->
    ended_alone(World, Model, figures(World, Performed));
performed_alone(#world{books = Books} = World, [Operation | Operations], Performed, Model) ->
    {Resolved, Answer} = Done = performed(World, Operation),
    Delayed = at_rest(),
    {Expected, After} = alone(Resolved, start, heard(Books, Model)),
    Unheard = {model_zone:unheard(After), Delayed -- model_zone:delayed(After)},
    case agree(Expected, Answer) andalso Unheard =:= {#{}, []} of
        true -> performed_alone(World, Operations, [Done | Performed], After);
        false -> {Operation, {expected, Expected}, {answer, Answer}, {unexpected, Unheard}}
    end.

%% The answer of an operation that nothing else disturbs, and what is then.
alone(Operation, Stage, Model) ->
    case {model_zone:step(Operation, Stage, Model), model_zone:silent(Model)} of
        {[{{answer, Answer}, After} | _], _} -> {Answer, model_zone:quiet(After)};
        {[{{stage, Next}, After} | _], _} -> alone(Operation, Next, After);
        {[], [After | _]} -> alone(Operation, Stage, After);
        {[], []} -> {never, Model}
    end.

%% The model, with what callbacks have noted.
heard(Books, Model) ->
    Heard = model_zone:heard(noted(answer, Books), noted(waited, Books), Model),
    true = ets:match_delete(Books, {{answer, '_'}, '_'}),
    Heard.

noted(What, Books) ->
    maps:from_list([{Key, Value} || [Key, Value] <- ets:match(Books, {{What, '$1'}, '$2'})]).

%% Waits until no child dies, starts, or is cleaned up: nothing goes on in a zone then that nobody
%% asks anything. Which restarts had to wait.
at_rest() ->
    lists:usort(at_rest(moving())).

at_rest([]) ->
    %% What has begun in one name while another one was read is seen now.
    case moving() of
        [] -> [];
        Moving -> at_rest(Moving)
    end;
at_rest(Moving) ->
    erlang:yield(),
    Waiting = [Each || {State, _} = Each <- Moving, lists:member(State, [slowed, pending])],
    Waiting ++ at_rest(moving()).

moving() ->
    [
        {State, Name}
     || {Name, State, Pid, _, _} <- faults_balance:children(?ZONE),
        State =/= running orelse not is_process_alive(Pid)
    ].

%% The zone ends, and all has been told. The helpers end with it.
ended_alone(#world{books = Books}, Model, Figures) ->
    {Events, Told} = model_zone:logs(model_zone:quiet(model_zone:stopping(Model))),
    ok = gen_server:call(?ZONE, shutdown),
    [tracked_child:down(Pid) || {Pid, {helper, _}} <- ets:tab2list(Books)],
    Heard = events(Books, #{}),
    Last = fun([_, Name, Attributes, Reason], Log) ->
        logged(Name, {attributes(Attributes, Books), Reason}, Log)
    end,
    Said = lists:foldl(Last, #{}, lists:sort(ets:match(Books, {{told, '$1'}, '$2', '$3', '$4'}))),
    case {agree(Events, Heard), agree(Told, Said)} of
        {true, true} -> {ok, Figures};
        {false, _} -> {events, {expected, Events}, {answer, Heard}};
        {true, false} -> {after_terminate, {expected, Told}, {answer, Said}}
    end.

events(Books, Events) ->
    receive
        {gen_tracker, ?ZONE, unsubscribed} ->
            Events;
        {gen_tracker, ?ZONE, {up, Name, Pid}} ->
            events(Books, logged(Name, {up, identity(Pid, Books)}, Events));
        {gen_tracker, ?ZONE, {down, Name, Pid, Reason}} ->
            events(Books, logged(Name, {down, identity(Pid, Books), Reason}, Events))
    end.

logged(Name, Entry, Log) ->
    maps:update_with(Name, fun(Entries) -> [Entry | Entries] end, [Entry], Log).

%%% At the same time

together(#world{books = Books} = World, First, Branches) ->
    All = lists:append([First | Branches]),
    Names = lists:usort([
        element(2, Operation)
     || Operation <- All, is_tuple(Operation), element(1, Operation) =/= read
    ]),
    Last = [rest | [{info, Name} || Name <- Names]] ++
        [{read, list}, {read, which_children}, count, alive],
    Before = [performed(World, Operation) || Operation <- First],
    Meanwhile = [meet(World#world{pass = Pass}, Branches) || Pass <- lists:seq(1, ?PASSES)],
    After = [performed(World, Operation) || Operation <- Last],
    Phases = [[Before] | Meanwhile] ++ [[After]],
    Figures = figures(World, lists:append(lists:append(Phases))),
    Model = heard(Books, model_zone:without_logs(model_zone:new())),
    get(test) ! {performed, self()},
    case explained(Model, Phases) of
        true -> {ok, Figures};
        given_up -> {ok, #{given_up => 1}};
        false -> {unexplained, answers(Phases), model_zone:unheard(Model)}
    end.

answers(Phases) ->
    [[[Answer || {_, Answer} <- Branch] || Branch <- Phase] || Phase <- Phases].

%% Processes that begin at the same moment: each waits, at work, until all have come.
meet(World, Branches) ->
    Present = counters:new(1, [atomics]),
    callers:together([
        fun() ->
            counters:add(Present, 1, 1),
            await_all(Present, length(Branches)),
            [begin erlang:yield(), performed(World, Operation) end || Operation <- Branch]
        end
     || Branch <- Branches
    ]).

await_all(Present, Count) ->
    case counters:get(Present, 1) of
        Count -> ok;
        _ -> erlang:yield(), await_all(Present, Count)
    end.

%% Whether some order of steps gives all the answers: of the branches of the first phase, which are at work at the same time, then of the next phase's...
explained(Model, [Phase | Phases]) ->
    search([{Model, [{start, Branch} || Branch <- Phase], Phases}], #{}).

search([], _) ->
    false;
search(_, Seen) when map_size(Seen) > ?PLACES ->
    given_up;
search([{Model, Branches, Phases} | Places], Seen) ->
    %% A branch is known by how much of it is left. Bit for bit: models with 0.0 and with -0.0 are equal before OTP 27, but explain different answers.
    Place = term_to_binary({Model, [{Stage, length(Rest)} || {Stage, Rest} <- Branches], length(Phases)}, [deterministic]),
    case {is_map_key(Place, Seen), lists:all(fun({_, Rest}) -> Rest =:= [] end, Branches), Phases} of
        {true, _, _} -> search(Places, Seen);
        {false, true, []} -> true;
        {false, true, [Phase | Later]} -> search([{Model, [{start, Branch} || Branch <- Phase], Later} | Places], Seen#{Place => true});
        {false, false, _} -> search(places(Model, Branches, Phases) ++ Places, Seen#{Place => true})
    end.

places(Model, Branches, Phases) ->
    [
        {After, lists:sublist(Branches, Number - 1) ++ [Next | lists:nthtail(Number, Branches)], Phases}
     || {Number, {Stage, [{Operation, Answer} | Rest] = All}} <- lists:enumerate(Branches),
        {Result, After} <- model_zone:step(Operation, Stage, Model),
        Next <- next(Result, Answer, Rest, All)
    ] ++ [{After, Branches, Phases} || After <- model_zone:silent(Model)].

next({stage, Stage}, _, _, All) -> [{Stage, All}];
next({answer, Expected}, Answer, Rest, _) -> [{start, Rest} || agree(Expected, Answer)].

%%% What operations do to the library

%% An operation with its terms and its answer, in the terms of the model.
performed(World, Operation) ->
    Resolved = resolved(Operation, World),
    {Resolved, answer(Resolved, World)}.

answer(Resolved, World) ->
    try
        perform(Resolved, World)
    catch
        Class:Reason -> {Class, Reason}
    end.

perform({find, Name}, World) ->
    known(gen_tracker:find(?ZONE, Name), World);
perform({whereis, Name}, World) ->
    known(gen_tracker:whereis_name({?ZONE, Name}), World);
perform({send, Name}, World) ->
    known(gen_tracker:send({?ZONE, Name}, ping), World);
perform({getattr, Name, Key}, _) ->
    gen_tracker:getattr(?ZONE, Name, Key);
perform({getattr, Name, Key, Timeout}, _) ->
    gen_tracker:getattr(?ZONE, Name, Key, Timeout);
perform({info, Name}, #world{books = Books}) ->
    attributes(gen_tracker:info(?ZONE, Name), Books);
perform({attrs, Name}, #world{books = Books}) ->
    attributes(gen_tracker:attrs(?ZONE, Name), Books);
perform({info, Name, Keys}, #world{books = Books}) ->
    attributes(gen_tracker:info(?ZONE, Name, Keys), Books);
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
perform({read, What}, World) ->
    {read, reading(What, World)};
perform(count, _) ->
    gen_tracker:count(?ZONE);
perform(wait, _) ->
    gen_tracker:wait(?ZONE);
perform({malformed, Name}, World) ->
    known(gen_tracker:find_or_open(?ZONE, {Name, nothing, temporary}), World);
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
perform(alive, #world{books = Books}) ->
    sorted([Id || {Pid, Id} <- ets:tab2list(Books), is_pid(Pid), is_process_alive(Pid)]);
perform({open, Name, Spec}, World) ->
    known(gen_tracker:find_or_open(?ZONE, child_spec(Name, Spec, World)), World);
perform({open_together, Name, Spec, Count}, World) ->
    callers:together([fun() -> perform({open, Name, Spec}, World) end || _ <- lists:seq(1, Count)]);
perform({start_child, Name, Spec}, World) ->
    known(supervisor:start_child(?ZONE, child_spec(Name, Spec, World)), World);
perform({add, Name, #spec{tag = Tag} = Spec}, World) ->
    with_process(Tag, fun(Pid) -> gen_tracker:add_existing_child(?ZONE, {Pid, child_spec(Name, Spec, World)}) end, World);
perform({add, Name, Tag}, World) ->
    with_process(Tag, fun(Pid) -> gen_tracker:add_existing_child(?ZONE, {Name, Pid, worker, []}) end, World);
perform({register, Name, Tag}, World) ->
    with_process(Tag, fun(Pid) -> gen_tracker:register_name({?ZONE, Name}, Pid) end, World);
perform({unregister, Name}, _) ->
    gen_tracker:unregister_name({?ZONE, Name});
perform({die, Name, Reason}, #world{books = Books} = World) ->
    case gen_tracker:find(?ZONE, Name) of
        {ok, Pid} ->
            Id = known(Pid, World),
            _ = ets:insert_new(Books, {{dying, Id}, erlang:monotonic_time(millisecond)}),
            ended(Pid, Reason),
            {died, Id};
        undefined ->
            undefined
    end;
perform(rest, _) ->
    _ = at_rest(),
    ok.

ended(Pid, killed) -> tracked_child:kill(Pid);
ended(Pid, Reason) -> tracked_child:stop(Pid, Reason).

%% A process that is to be added.
with_process(Tag, Add, #world{books = Books} = World) ->
    Pid = spawn(fun child/0),
    true = ets:insert(Books, {Pid, {added, Tag}}),
    Answer = Add(Pid),
    [tracked_child:kill(Pid) || Answer =/= yes, Answer =/= {ok, Pid}],
    known(Answer, World).

reading(count_children, _) ->
    maps:from_list(supervisor:count_children(?ZONE));
reading(names, _) ->
    distinct([{Name, name} || Name <- gen_tracker:names(?ZONE)]);
reading(fold, #world{books = Books}) ->
    distinct(gen_tracker:fold(fun(Name, Pid, Names) -> [{Name, identity(Pid, Books)} | Names] end, [], ?ZONE));
reading(which_children, #world{books = Books}) ->
    distinct([{Name, {identity(Pid, Books), Modules}} || {Name, Pid, worker, Modules} <- supervisor:which_children(?ZONE)]);
reading(list, World) ->
    listed(gen_tracker:list(?ZONE), World);
reading({list, Keys}, World) ->
    listed(gen_tracker:list(?ZONE, Keys), World).

listed(Children, #world{books = Books}) ->
    distinct([{Name, {identity(Pid, Books), attributes(Attributes, Books)}} || {Name, [{pid, Pid} | Attributes]} <- Children]).

%% A map, if no key comes twice.
distinct(Pairs) ->
    Map = maps:from_list(Pairs),
    case length(Pairs) =:= map_size(Map) of
        true -> Map;
        false -> {twice, Pairs}
    end.

attributes(Attributes, Books) ->
    Known = fun
        ({Key, {Of, _, _}}) when Of =:= Books -> {Key, books};
        (Attribute) -> Attribute
    end,
    {attributes, distinct(lists:map(Known, Attributes))}.

%% An answer with the identity in the place of a pid.
known(Pid, #world{books = Books}) when is_pid(Pid) -> identity(Pid, Books);
known({ok, Pid}, World) when is_pid(Pid) -> {ok, known(Pid, World)};
known({ok, Pid, Info}, World) when is_pid(Pid) -> {ok, known(Pid, World), Info};
known({error, {already_started, Pid}}, World) -> {error, {already_started, known(Pid, World)}};
known(Answer, _) -> Answer.

identity(State, _) when is_atom(State) -> State;
identity(Pid, Books) -> ets:lookup_element(Books, Pid, 2).

%%% Children

child_spec(Name, #spec{form = Form, restart = Restart} = Spec, #world{books = Books}) ->
    Start = {?MODULE, start, [Books, ?ZONE, Name, Spec]},
    case Form of
        short -> {Name, Start, Restart};
        full -> {Name, Start, Restart, model_zone:shutdown(Form), worker, [?MODULE]};
        map -> #{id => Name, start => Start, restart => Restart}
    end.

start(Books, Zone, Name, #spec{how = How, again = Again, asks = Asks, last = Last}) ->
    Number = ets:update_counter(Books, {starts, Name}, 1, {starts, 0}),
    Call = ets:update_counter(Books, {calls, self()}, 1, {calls, 0}),
    Id = {started, Name, Number},
    ok = gen_tracker:setattr(Zone, Name, ?BOOKS, {Books, Id, last(How, Last)}),
    [
        ets:insert(Books, {{waited, Id}, erlang:monotonic_time(millisecond) - Died})
     || {_, Died} <- ets:lookup(Books, {dying, {started, Name, Number - 1}})
    ],
    ask({start, Id}, Name, Asks, Books),
    case Call of
        1 -> start(How, Books, Id);
        2 -> start(Again, Books, Id);
        _ -> start(ok, Books, Id)
    end.

%% No `after_terminate' unlinks a helper that the start function has linked.
last(helper, Misdeed) when is_atom(Misdeed) -> none;
last(_, Last) -> Last.

start(ok, Books, Id) ->
    Pid = spawn_link(fun child/0),
    true = ets:insert(Books, {Pid, Id}),
    {ok, Pid};
start(info, Books, Id) ->
    {ok, Pid} = start(ok, Books, Id),
    {ok, Pid, info};
start(helper, Books, Id) ->
    {ok, _} = start(ok, Books, {helper, Id}),
    start(ok, Books, Id);
start(refused, _, _) ->
    {error, refused};
start(crash, _, _) ->
    error(crashed);
start(throw, _, _) ->
    throw(thrown);
start(How, Books, Id) ->
    case lists:member(How, misdeeds()) of
        true ->
            misdeed(How),
            Started = start(ok, Books, Id),
            misdeed(How),
            Started;
        false ->
            How
    end.

%% What foreign code may do to the process that calls it.
misdeed(untrap) ->
    process_flag(trap_exit, false);
misdeed(unlink) ->
    {links, Links} = process_info(self(), links),
    lists:foreach(fun unlink/1, Links);
misdeed(flush) ->
    receive
        _ -> misdeed(flush)
    after 0 -> ok
    end;
misdeed(erase) ->
    erase();
misdeed(crash) ->
    error(crashed);
misdeed(everything) ->
    lists:foreach(fun misdeed/1, [untrap, unlink, flush, erase]).

%% What a callback asks, and its answer in the books.
ask(Key, Name, {By, Operation}, Books) ->
    Own = model_zone:own(Key, Name, Operation),
    Answer = asked(By, fun() -> answer(Own, #world{books = Books}) end),
    _ = ets:update_counter(Books, asked, 1, {asked, 0}),
    ets:insert(Books, {{answer, Key}, Answer});
ask(_, _, none, _) ->
    none;
ask(_, _, Misdeed, _) ->
    misdeed(Misdeed).

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

%% Called by the library. Who is added has no books.
after_terminate(Name, Attributes, Reason) ->
    case lists:keyfind(?BOOKS, 1, Attributes) of
        {_, {Books, Id, Last}} ->
            Number = erlang:unique_integer([monotonic]),
            ets:insert(Books, {{told, Number}, Name, Attributes, Reason}),
            ask({last, Id}, Name, Last, Books);
        false ->
            true
    end.
