%% A model of gen_tracker, and the properties that the library answers as it does: one call after the other, and several processes at the same time.
%%
%% The model is a machine that makes small steps. `step/3` is what a call may do next to what a zone holds: answer, go on in another stage, or, when it gives nothing, wait.
%% `silent/1` is what a zone may do by itself: start a child, notice its death, clean up after it, start it again. Calls that come one after the other leave the machine no
%% choice. When they come at the same time, some order of all these steps has to explain every answer; `explained/2` looks for one.
%%
%% A program is a list of operations, then lists of operations for processes of their own that begin at the same moment. Operations name their terms `{var, Token}`, so that they
%% may be printed and run again. (Not made by proper_statem: no operation needs the answer of another one, and its parallel runner lets the first process go before it makes the
%% second, which then finds all done.)
%%
%% A child is known by its identity: the name and the number of the call of a start function for that name; or, for a process that was added, the tag in the operation. The
%% start function sets an attribute, by which `after_terminate/3` finds the books that it writes to.
-module(model_tracker).

-export([round/1, replay/1, run/3]).
-export([start/4, ignore/0, after_terminate/3]).

-import(proper_types, [bind/3, elements/1, exactly/1, frequency/1, integer/2, lazy/1, list/1, noshrink/1, oneof/1, resize/2, tuple/1]).
-import(proper_types, [vector/2]).
-import(prop_terms, [sorted/1]).

-define(ZONE, ?MODULE).
%% The attribute that start functions set.
-define(BOOKS, ?MODULE).
%% How many programs of each kind a round runs, and how often it runs one whose processes work at the same time, also when it makes
%% it smaller, and when it is run again; how often these meet then.
-define(ALONE, 150).
-define(TOGETHER, 40).
-define(TIMES, 3).
-define(TIMES_SMALLER, 10).
-define(TIMES_AGAIN, 100).
-define(PASSES, 6).
-define(BRANCHES, 3).

%% Where a program runs.
-record(world, {books, terms, pass = 0}).

%% What a zone holds: its rows by name; how often start functions were called for each name; and processes that live on without a name. For each name births and deaths, and
%% what `after_terminate` is told, the latest first.
%% `unwanted` are the children whose end somebody has asked for: those who wait for their start may be told so.
-record(model, {rows = #{}, starts = #{}, detached = [], events = #{}, told = #{}, unwanted = []}).
%% The states are those of the library's table.
-record(row, {state = vacant, child, attributes = #{}}).
%% `keeper` is the identity of the first child of the process beside it; `called`: the start function was; `ended`: the reason of its exit; `stopping`: it is to be forgotten, and
%% `last` when it ended because of that.
-record(child, {id, keeper, spec, called = false, ended, stopping = false}).
%% How a child is started, the first time (`how`) and the second time (`again`); the `tag` tells specs apart. A child of the form `added` has no start function.
-record(spec, {form, restart, how = ok, again = ok, tag}).

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
    Modules = [gen_tracker_child, gen_tracker_reports],
    Levels = logger:get_module_level(Modules),
    ok = logger:set_module_level(Modules, none),
    put(figures, #{}),
    try
        Fun()
    after
        ok = logger:unset_module_level(Modules),
        [ok = logger:set_module_level(Module, Level) || {Module, Level} <- Levels],
        [erase(Key) || Key <- [figures, wrong, seed]]
    end.

holds(Mode, Program, Terms, Times) ->
    counted(#{Mode => 1}),
    lists:all(fun(_) -> holds(Mode, Program, Terms) end, lists:seq(1, case Mode of alone -> 1; together -> Times end)).

%% In a process of its own, whose messages go with it.
holds(Mode, Program, Terms) ->
    case tracked_child:apart(fun() -> outcome(Mode, Program, Terms) end) of
        {ok, Figures} ->
            counted(Figures),
            true;
        Wrong ->
            put(wrong, Wrong),
            false
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

figures(Performed) ->
    #{operations => length(Performed), deaths => length([died || {_, {died, _}} <- Performed])}.

world(Terms) ->
    {ok, Zone} = gen_tracker:start_link(?ZONE),
    unlink(Zone),
    #world{books = ets:new(?MODULE, [public]), terms = maps:from_list(Terms)}.

close(#world{books = Books}) ->
    tracked_child:stop_zone(?ZONE),
    [tracked_child:kill(Pid) || {Pid, _} <- ets:tab2list(Books), is_pid(Pid), is_process_alive(Pid)],
    true = ets:delete(Books).

%%% Programs

program(Mode, Terms) ->
    bind(pool(Mode, Terms), fun(Pool) -> program_of(Mode, Pool) end, false).

program_of(alone, {[Name | _], _, _} = Pool) ->
    oneof([
        tuple([resize(100, list(frequency(operations(alone, Pool)))), exactly([])]),
        tuple([bind(resize(80, list(frequency(attribute_operations(Pool)))), fun(Operations) -> opened(Name) ++ Operations end, false), exactly([])])
    ]);
program_of(together, {[Name | _], _, _} = Pool) ->
    Children = child_operations(together, Pool) ++ [{15, frequency(attribute_operations(Pool))} | look_operations(Pool)],
    oneof([
        tuple([exactly(opened(Name)), branches(7, attribute_operations(Pool))]),
        tuple([exactly(opened(Name)), branches(5, Children)]),
        tuple([resize(6, list(frequency(operations(together, Pool)))), branches(5, operations(together, Pool))])
    ]).

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

child_operations(Mode, {Names, _, _}) ->
    Name = elements(Names),
    Tag = lazy(fun() -> {tag, rand:uniform(1 bsl 59)} end),
    Open = operation(open, [Name, spec(Mode, Tag)]),
    [
        {12, Open},
        {3, operation(start_child, [Name, spec(Mode, Tag)])},
        {2, operation(add, [Name, Tag])},
        {2, operation(add, [Name, spec(added, Tag)])},
        {2, operation(register, [Name, Tag])},
        {3, operation(unregister, [Name])},
        {8, operation(die, [Name, elements([normal, shutdown, {shutdown, done}, boom, killed])])},
        {3, operation(terminate_child, [Name])},
        {1, operation(delete_child, [Name])},
        {2, case Mode of alone -> operation(open_together, [Name, spec(running, Tag), integer(2, 5)]); together -> Open end}
    ].

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

%% What makes start functions fail that restart a child needs times that only those who come alone do not see.
spec(Mode, Tag) ->
    {Forms, Hows, Agains} =
        case Mode of
            added -> {[full], [ok], [ok]};
            running -> {[short, full, map], [ok], [ok]};
            together -> {[short, full, map], [ok, ok, ok, ok, info, refused, ignore, odd, crash], [ok]};
            alone -> {[short, full, map], [ok, ok, ok, ok, info, refused, ignore, odd, crash], [ok, ok, refused, crash]}
        end,
    Restart = elements([temporary, transient, permanent]),
    tuple([exactly(spec), elements(Forms), Restart, elements(Hows), elements(Agains), Tag]).

%% An operation with its terms. Tags are others in each pass.
resolved({var, Token}, #world{terms = Terms}) -> map_get(Token, Terms);
resolved({tag, _} = Tag, #world{pass = Pass}) -> {Tag, Pass};
resolved(Parts, World) when is_list(Parts) -> [resolved(Part, World) || Part <- Parts];
resolved(Parts, World) when is_tuple(Parts) -> list_to_tuple(resolved(tuple_to_list(Parts), World));
resolved(Part, _) -> Part.

%%% One after the other

alone(World, Operations) ->
    {ok, []} = gen_tracker:subscribe(?ZONE),
    performed_alone(World, Operations, [], #model{}).

performed_alone(World, [], Performed, Model) ->
    ended_alone(World, Model, figures(Performed));
performed_alone(World, [Operation | Operations], Performed, Model) ->
    {Resolved, Answer} = Done = performed(World, Operation),
    %% Seen only by a name without a child, and after a death that has no attributes.
    [settled(element(2, Resolved)) || {died, _} <- [Answer]],
    {Expected, After} = alone(Resolved, start, Model),
    case agree(Expected, Answer) of
        true -> performed_alone(World, Operations, [Done | Performed], After);
        false -> {Operation, {expected, Expected}, {answer, Answer}}
    end.

%% The answer of an operation that nothing else disturbs, and what is then.
alone(Operation, Stage, Model) ->
    case step(Operation, Stage, Model) of
        [{{answer, Answer}, After} | _] -> {Answer, quiet(After)};
        [{{stage, Next}, After} | _] -> alone(Operation, Next, After);
        [] -> alone(Operation, Stage, hd(silent(Model)))
    end.

quiet(Model) ->
    case silent(Model) of
        [] -> Model;
        [After | _] -> quiet(After)
    end.

%% The zone ends, and all has been told.
ended_alone(#world{books = Books}, Model, Figures) ->
    #model{events = Events, told = Told} = quiet(stopping(Model)),
    ok = gen_server:call(?ZONE, shutdown),
    Heard = heard(Books, #{}),
    Last = fun([_, Name, Attributes, Reason], Log) -> logged(Name, {attributes(Attributes, Books), Reason}, Log) end,
    Said = lists:foldl(Last, #{}, lists:sort(ets:match(Books, {{told, '$1'}, '$2', '$3', '$4'}))),
    case {agree(Events, Heard), agree(Told, Said)} of
        {true, true} -> {ok, Figures};
        {false, _} -> {events, {expected, Events}, {answer, Heard}};
        {true, false} -> {after_terminate, {expected, Told}, {answer, Said}}
    end.

heard(Books, Events) ->
    receive
        {gen_tracker, ?ZONE, unsubscribed} -> Events;
        {gen_tracker, ?ZONE, {up, Name, Pid}} -> heard(Books, logged(Name, {up, identity(Pid, Books)}, Events));
        {gen_tracker, ?ZONE, {down, Name, Pid, Reason}} -> heard(Books, logged(Name, {down, identity(Pid, Books), Reason}, Events))
    end.

logged(Name, Entry, Log) ->
    maps:update_with(Name, fun(Entries) -> [Entry | Entries] end, [Entry], Log).

%% Everything that compares as it has to, and values bit for bit. Which of two equal keys is kept, -0.0 or 0.0, is not said.
agree(Expected, Answer) ->
    Expected =:= Answer andalso prop_terms:same(values(Expected), values(Answer)).

values({attributes, Map}) -> maps:values(Map);
values({read, Map}) when is_map(Map) -> [values(Value) || Value <- maps:values(Map)];
values({_Identity, {attributes, _} = Attributes}) -> values(Attributes);
values({ok, {started, _, _}}) -> [];
values({ok, Value}) -> Value;
values({error, {current, Value}}) -> Value;
values(_) -> [].

%%% At the same time

together(World, First, Branches) ->
    Names = lists:usort([element(2, Operation) || Operation <- lists:append([First | Branches]), is_tuple(Operation), element(1, Operation) =/= read]),
    Last = [{settle, Name} || Name <- Names] ++ [{info, Name} || Name <- Names] ++ [{read, list}, {read, which_children}, count, alive],
    Before = [performed(World, Operation) || Operation <- First],
    Meanwhile = [meet(World#world{pass = Pass}, Branches) || Pass <- lists:seq(1, ?PASSES)],
    After = [performed(World, Operation) || Operation <- Last],
    Phases = [[Before] | Meanwhile] ++ [[After]],
    case explained(#model{events = off, told = off}, Phases) of
        true -> {ok, figures(lists:append(lists:append(Phases)))};
        false -> {unexplained, [[[Answer || {_, Answer} <- Branch] || Branch <- Phase] || Phase <- Phases]}
    end.

%% Processes that begin at the same moment: each waits, at work, until all have come.
meet(World, Branches) ->
    Present = counters:new(1, [atomics]),
    tracked_child:together([
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
        {Result, After} <- step(Operation, Stage, Model),
        Next <- next(Result, Answer, Rest, All)
    ] ++ [{After, Branches, Phases} || After <- silent(Model)].

next({stage, Stage}, _, _, All) -> [{Stage, All}];
next({answer, Expected}, Answer, Rest, _) -> [{start, Rest} || agree(Expected, Answer)].

%%% What operations do in the model

%% The answer, or the next stage, and what is then.
step({find, Name}, start, Model) ->
    answer(found(row(Name, Model), fun(Child) -> {ok, Child#child.id} end), Model);
step({whereis, Name}, start, Model) ->
    answer(alive(row(Name, Model), undefined), Model);
step({send, Name}, start, Model) ->
    answer(alive(row(Name, Model), {exit, {badarg, {{?ZONE, Name}, ping}}}), Model);
step({getattr, Name, Key}, start, Model) ->
    answer(attribute(Name, Key, Model), Model);
step({getattr, Name, Key, _Timeout}, start, Model) ->
    answer(attribute(Name, Key, Model), Model);
step({Info, Name}, start, Model) when Info =:= info; Info =:= attrs ->
    answer({attributes, (row(Name, Model))#row.attributes}, Model);
step({info, Name, Keys}, start, Model) ->
    answer({attributes, maps:with(Keys, (row(Name, Model))#row.attributes)}, Model);
step({setattr_improper, _, _, _}, start, Model) ->
    answer({error, badarg}, Model);
step({setattr, Name, Pairs}, start, Model) ->
    All = [Pair || {_, _} = Pair <- Pairs],
    set(Name, maps:from_list(All), [Key || {Key, _} <- All], Model);
step({setattr, Name, Key, Value}, start, Model) ->
    set(Name, #{Key => Value}, Key, Model);
step({delattr, Name, Key}, start, Model) ->
    #row{attributes = Attributes} = Row = row(Name, Model),
    answer(ok, put_row(Name, Row#row{attributes = maps:remove(Key, Attributes)}, Model));
step({increment, Name, Key, Increment}, start, Model) ->
    incremented(Name, Key, Increment, undefined, Model);
step({increment, Name, Key, Increment, Default}, start, Model) ->
    incremented(Name, Key, Increment, Default, Model);
step({cas, Name, Key, Old, New}, start, Model) ->
    Row = row(Name, Model),
    case {is_settable(Row), Row#row.attributes} of
        {false, _} -> answer({error, {void_setting, ?ZONE, Name, Key}}, Model);
        {true, #{Key := Old}} -> set(Name, #{Key => New}, Key, Model);
        {true, #{Key := Current}} -> answer({error, {current, Current}}, Model);
        {true, _} -> answer({error, undefined}, Model)
    end;
step({read, What}, start, Model) ->
    step({read, What}, {reading, maps:keys(Model#model.rows), #{}}, Model);
step({read, What}, {reading, [], Read}, Model) ->
    answer({read, summary(What, Read)}, Model);
step({read, What}, {reading, Names, Read}, Model) ->
    %% Each name at some moment of its own.
    [{{stage, {reading, Names -- [Name], read(What, Name, row(Name, Model), Read)}}, Model} || Name <- Names];
step(count, start, #model{rows = Rows} = Model) ->
    answer(length([row || #row{state = State} <- maps:values(Rows), State =/= vacant]), Model);
step(wait, start, Model) ->
    answer(ok, Model);
step({malformed, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, ended = undefined}} -> answer({ok, Id}, Model);
        _ -> answer({error, {invalid_mfa, nothing}}, Model)
    end;
step({childspec, Name}, start, Model) ->
    answer(childspec(row(Name, Model)), Model);
step({restart_child, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> answer({error, not_found}, Model);
        #row{state = running} -> answer({error, running}, Model);
        _ -> answer({error, restarting}, Model)
    end;
step(alive, start, #model{rows = Rows, detached = Detached} = Model) ->
    answer(sorted(Detached ++ [Id || #row{state = running, child = #child{id = Id, ended = undefined}} <- maps:values(Rows)]), Model);
step({open, Name, Spec}, Stage, Model) ->
    opened(Name, Spec, Stage, Model);
step({open_together, Name, Spec, Count}, Stage, Model) ->
    [{case Result of {answer, Answer} -> {answer, lists:duplicate(Count, Answer)}; _ -> Result end, After} || {Result, After} <- opened(Name, Spec, Stage, Model)];
step({start_child, Name, Spec}, Stage, Model) ->
    started(Name, Spec, Stage, Model);
step({add, Name, #spec{} = Spec}, Stage, Model) ->
    added(Name, Spec, Stage, Model);
step({add, Name, Tag}, Stage, Model) ->
    added(Name, #spec{form = added, restart = temporary, tag = Tag}, Stage, Model);
step({register, Name, Tag}, Stage, Model) ->
    registered(Name, #spec{form = added, restart = temporary, tag = Tag}, Stage, Model);
step({unregister, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{spec = #spec{form = added}} = Child} -> answer(ok, detached(Name, Child, Model));
        _ -> answer(ok, Model)
    end;
step({die, Name, _}, start, Model) ->
    found(row(Name, Model), fun(#child{id = Id}) -> [{{stage, {die, Id}}, Model}] end, [{{answer, undefined}, Model}]);
step({die, _, Reason}, {die, Id}, Model) ->
    answer({died, Id}, died(Id, Reason, Model));
step({Stop, Name}, Stage, Model) when Stop =:= terminate_child; Stop =:= delete_child ->
    stopped(Name, Stage, Model);
step({settle, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> answer(ok, put_row(Name, #row{}, Model));
        #row{state = running, child = #child{ended = undefined}} -> answer(ok, Model);
        _ -> []
    end.

answer(Answer, Model) ->
    [{{answer, Answer}, Model}].

row(Name, #model{rows = Rows}) ->
    maps:get(Name, Rows, #row{}).

put_row(Name, Row, #model{rows = Rows} = Model) ->
    Model#model{rows = Rows#{Name => Row}}.

found(Row, Fun) ->
    found(Row, Fun, undefined).

found(#row{state = running, child = Child}, Fun, _) -> Fun(Child);
found(_, _, Else) -> Else.

alive(#row{state = running, child = #child{id = Id, ended = undefined}}, _) -> Id;
alive(_, Else) -> Else.

attribute(Name, Key, Model) ->
    case row(Name, Model) of
        #row{attributes = #{Key := Value}} -> {ok, Value};
        _ -> undefined
    end.

is_settable(#row{state = State}) ->
    lists:member(State, [launching, restarting, running]).

set(Name, New, Keys, Model) ->
    #row{attributes = Attributes} = Row = row(Name, Model),
    case is_settable(Row) of
        true -> answer(ok, put_row(Name, Row#row{attributes = maps:merge(Attributes, New)}, Model));
        false -> answer({error, {void_setting, ?ZONE, Name, Keys}}, Model)
    end.

incremented(Name, Key, Increment, Default, Model) ->
    #row{attributes = Attributes} = Row = row(Name, Model),
    case maps:get(Key, Attributes, Default) of
        Before when is_integer(Before) ->
            After = Before + Increment,
            answer(After, put_row(Name, Row#row{attributes = Attributes#{Key => After}}, Model));
        _ ->
            answer({error, badarg}, Model)
    end.

read({list, Keys}, Name, #row{attributes = Attributes} = Row, Read) ->
    read(list, Name, Row#row{attributes = maps:with(Keys, Attributes)}, Read);
read(list, Name, #row{state = running, child = #child{id = Id}, attributes = Attributes}, Read) ->
    Read#{Name => {Id, {attributes, Attributes}}};
read(fold, Name, #row{state = running, child = #child{id = Id}}, Read) ->
    Read#{Name => Id};
read(names, Name, #row{state = State}, Read) when State =/= vacant ->
    Read#{Name => name};
read(What, Name, #row{state = State, child = Child}, Read) when What =:= which_children, State =/= vacant; What =:= count_children, State =/= vacant ->
    #child{id = Id, spec = Spec} = Child,
    Visible = case State of running -> Id; terminating -> terminating; _ -> launching end,
    Read#{Name => {Visible, modules(Spec)}};
read(_, _, _, Read) ->
    Read.

summary(count_children, Read) ->
    Active = length([Id || {Id, _} <- maps:values(Read), not is_atom(Id)]),
    #{specs => map_size(Read), active => Active, supervisors => 0, workers => map_size(Read)};
summary(_, Read) ->
    Read.

modules(#spec{form = Form}) when Form =:= added; Form =:= short -> [];
modules(_) -> [?MODULE].

childspec(#row{state = vacant}) ->
    {error, not_found};
childspec(#row{child = #child{spec = #spec{form = Form, restart = Restart} = Spec}}) ->
    {ok, #{restart => Restart, shutdown => shutdown(Form), type => worker, modules => modules(Spec)}}.

shutdown(full) -> brutal_kill;
shutdown(map) -> 5000;
shutdown(_) -> 200.

%%% Children in the model

%% find_or_open: the callers who come while a child is being started get its answer, too.
opened(_, _, {opening, Id, Answer}, Model) ->
    once_started(Id, Model, answer(Answer, Model) ++ killed(Id, Model));
opened(Name, Spec, start, Model) ->
    case row(Name, Model) of
        %% Nobody is given a child that is dead.
        #row{state = running, child = #child{id = Id, ended = undefined}} -> answer({ok, Id}, Model);
        #row{state = launching, child = Child} -> [{{stage, opening(Child)}, Model}];
        #row{state = restarting, child = #child{id = Id, spec = #spec{again = ok}}} -> [{{stage, {opening, Id, {ok, Id}}}, Model}];
        #row{state = vacant} -> launched(Name, Spec, fun opening/1, Model);
        _ -> []
    end.

opening(#child{id = Id, spec = #spec{how = How}}) ->
    {opening, Id, start_answer(How, Id)}.

start_answer(ok, Id) -> {ok, Id};
start_answer(info, Id) -> {ok, Id, info};
start_answer(refused, _) -> {error, refused};
start_answer(ignore, _) -> ignore;
start_answer(odd, _) -> odd;
start_answer(crash, _) -> {error, crashed}.

%% It is told to those who wait for a start that somebody had ended.
killed(Id, #model{unwanted = Unwanted} = Model) ->
    case lists:member(Id, Unwanted) of
        true -> answer({error, killed}, Model);
        false -> []
    end.

%% Only when that child is no longer being started.
once_started({started, Name, _} = Id, Model, Steps) ->
    case row(Name, Model) of
        #row{state = State, child = #child{id = Id}} when State =:= launching; State =:= restarting -> [];
        _ -> Steps
    end.

launched(Name, Spec, Stage, Model) ->
    Id = next_identity(Name, Model),
    Child = #child{id = Id, keeper = Id, spec = Spec},
    [{{stage, Stage(Child)}, put_row(Name, (row(Name, Model))#row{state = launching, child = Child}, Model)}].

next_identity(Name, #model{starts = Starts}) ->
    {started, Name, maps:get(Name, Starts, 0) + 1}.

%% start_child: the one whose child it is gets the answer of its start.
started(_, _, {opening, Id, ignore}, Model) ->
    once_started(Id, Model, answer({ok, undefined}, Model) ++ killed(Id, Model));
started(_, _, {opening, Id, odd}, Model) ->
    once_started(Id, Model, answer({error, odd}, Model) ++ killed(Id, Model));
started(_, _, {opening, Id, Answer}, Model) ->
    once_started(Id, Model, answer(Answer, Model) ++ killed(Id, Model));
started(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> launched(Name, Spec, fun opening/1, Model);
        #row{state = pending} -> answer({error, already_present}, Model);
        _ -> held(Name, Model)
    end;
started(_, _, Stage, Model) ->
    joined(Stage, Model).

add_stage(Name, Spec, Answer, Model) ->
    Id = {added, Spec#spec.tag},
    Child = #child{id = Id, keeper = Id, spec = Spec, called = true},
    Added = put_row(Name, (row(Name, Model))#row{state = running, child = Child}, Model),
    answer(Answer, event(Name, {up, Id}, Added)).

added(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> add_stage(Name, Spec, {ok, {added, Spec#spec.tag}}, Model);
        #row{state = State} when State =:= launching; State =:= pending -> answer({error, already_present}, Model);
        #row{state = restarting} -> answer({error, already_present}, Model) ++ held(Name, Model);
        _ -> held(Name, Model)
    end;
added(_, _, Stage, Model) ->
    joined(Stage, Model).

registered(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> add_stage(Name, Spec, yes, Model);
        #row{state = pending} -> answer(no, Model);
        _ -> as_registered(held(Name, Model))
    end;
registered(_, _, Stage, Model) ->
    as_registered(joined(Stage, Model)).

as_registered(Steps) ->
    [{case Result of {answer, _} -> {answer, no}; _ -> Result end, After} || {Result, After} <- Steps].

%% The name is held: by a child that runs, or that is being started and is waited for. Nothing while a child is dead.
held(Name, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, ended = undefined}} -> answer({error, {already_started, Id}}, Model);
        #row{state = launching, child = #child{id = Id, spec = #spec{how = How}}} -> [{{stage, {joining, Id, is_started(How)}}, Model}];
        #row{state = restarting, child = #child{id = Id}} -> [{{stage, {joining, Id, true}}, Model}];
        _ -> []
    end.

joined({joining, Id, true}, Model) ->
    Killed = killed(Id, Model),
    Again = [{{stage, start}, Model} || Killed =/= []],
    once_started(Id, Model, answer({error, {already_started, Id}}, Model) ++ Killed ++ Again);
joined({joining, Id, false}, Model) ->
    once_started(Id, Model, [{{stage, start}, Model}] ++ killed(Id, Model)).

is_started(How) ->
    How =:= ok orelse How =:= info.

%% terminate_child and delete_child.
stopped(Name, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> answer({error, no_child}, Model);
        #row{child = #child{id = Id, keeper = Keeper} = Child} = Row ->
            Unwanted = Model#model{unwanted = [Id | Model#model.unwanted -- [Id]]},
            [{{stage, {stopping, Keeper}}, put_row(Name, Row#row{child = Child#child{stopping = true}}, Unwanted)}]
    end;
stopped(Name, {stopping, Keeper}, Model) ->
    case row(Name, Model) of
        #row{child = #child{keeper = Keeper}} -> [];
        _ -> answer(ok, Model)
    end.

detached(Name, #child{id = Id, ended = Ended, stopping = Stopping}, #model{detached = Detached} = Model) ->
    Left = event(Name, {down, Id, unregistered}, put_row(Name, #row{}, Model)),
    Left#model{detached = [Id || Ended =:= undefined, not Stopping] ++ Detached}.

died(Id, Reason, #model{rows = Rows, detached = Detached} = Model) ->
    Mark = fun
        (_, #row{state = running, child = #child{id = Of, ended = undefined} = Child} = Row) when Of =:= Id -> Row#row{child = Child#child{ended = Reason}};
        (_, Row) -> Row
    end,
    Model#model{rows = maps:map(Mark, Rows), detached = Detached -- [Id]}.

%% The zone is shut down.
stopping(#model{rows = Rows} = Model) ->
    Stop = fun
        (_, #row{child = undefined} = Row) -> Row;
        (_, #row{child = Child} = Row) -> Row#row{child = Child#child{stopping = true}}
    end,
    Model#model{rows = maps:map(Stop, Rows)}.

%% What the zone may do next by itself. For those who come alone it is the first.
silent(#model{rows = Rows} = Model) ->
    [After || {Name, Row} <- maps:to_list(Rows), After <- moved(Name, Row, Model)].

moved(_, #row{state = vacant}, _) ->
    [];
moved(Name, #row{state = State, child = #child{called = false} = Child} = Row, Model) when State =:= launching; State =:= restarting ->
    %% The start function is called.
    {started, Name, Number} = Child#child.id,
    Called = Row#row{child = Child#child{called = true}, attributes = (Row#row.attributes)#{?BOOKS => books}},
    [put_row(Name, Called, Model#model{starts = (Model#model.starts)#{Name => Number}})];
moved(Name, #row{state = State, child = #child{stopping = true}}, Model) when State =:= launching; State =:= restarting ->
    %% What comes of it is not wanted any more.
    [put_row(Name, #row{}, Model)];
moved(Name, #row{state = launching, child = #child{spec = #spec{how = How}}} = Row, Model) ->
    [case is_started(How) of true -> up(Name, Row, Model); false -> put_row(Name, #row{}, Model) end];
moved(Name, #row{state = restarting, child = #child{id = {_, _, Number}, spec = #spec{again = Again} = Spec, keeper = Keeper} = Child} = Row, Model) ->
    Second = case Keeper of {started, _, First} -> Number =:= First + 1; {added, _} -> false end,
    case {Second andalso Again =/= ok, Spec#spec.restart} of
        {false, _} -> [up(Name, Row, Model)];
        {true, transient} -> [put_row(Name, #row{}, Model)];
        {true, permanent} -> [put_row(Name, #row{state = pending, child = Child}, Model)]
    end;
moved(Name, #row{state = running, child = #child{ended = undefined, stopping = true, spec = #spec{form = Form}} = Child} = Row, Model) ->
    Reason = case shutdown(Form) of brutal_kill -> killed; _ -> shutdown end,
    [put_row(Name, Row#row{child = Child#child{ended = Reason, stopping = last}}, Model)];
moved(_, #row{state = running, child = #child{ended = undefined}}, _) ->
    [];
moved(Name, #row{state = running, child = #child{id = Id, ended = Reason}, attributes = Attributes} = Row, Model) ->
    Down = event(Name, {down, Id, Reason}, put_row(Name, Row#row{state = terminating}, Model)),
    [told(Name, Attributes, Reason, Down)];
moved(Name, #row{state = terminating, child = #child{stopping = Stopping} = Child}, Model) ->
    Pending = put_row(Name, #row{state = pending, child = Child}, Model),
    Removed = put_row(Name, #row{}, Model),
    case {restarts(Child), Stopping} of
        {true, false} -> [Pending];
        {true, true} -> [Removed, Pending];
        _ -> [Removed]
    end;
moved(Name, #row{state = pending, child = #child{stopping = Stopping} = Child}, Model) ->
    Next = Child#child{id = next_identity(Name, Model), called = false, ended = undefined},
    [put_row(Name, #row{}, Model) || Stopping] ++ [put_row(Name, #row{state = restarting, child = Next}, Model)].

up(Name, #row{child = #child{id = Id}} = Row, Model) ->
    event(Name, {up, Id}, put_row(Name, Row#row{state = running}, Model)).

restarts(#child{spec = #spec{restart = permanent}}) -> true;
restarts(#child{spec = #spec{restart = temporary}}) -> false;
restarts(#child{ended = normal}) -> false;
restarts(#child{ended = shutdown}) -> false;
restarts(#child{ended = {shutdown, _}}) -> false;
restarts(_) -> true.

event(_, _, #model{events = off} = Model) ->
    Model;
event(Name, Event, #model{events = Events} = Model) ->
    Model#model{events = logged(Name, Event, Events)}.

told(Name, #{?BOOKS := _} = Attributes, Reason, #model{told = Told} = Model) when Told =/= off ->
    Model#model{told = logged(Name, {{attributes, Attributes}, Reason}, Told)};
told(_, _, _, Model) ->
    Model.

%%% What operations do to the library

%% An operation with its terms and its answer, in the terms of the model.
performed(World, Operation) ->
    Resolved = resolved(Operation, World),
    try
        {Resolved, perform(Resolved, World)}
    catch
        Class:Reason -> {Resolved, {Class, Reason}}
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
    tracked_child:together([fun() -> perform({open, Name, Spec}, World) end || _ <- lists:seq(1, Count)]);
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
perform({die, Name, Reason}, World) ->
    case gen_tracker:find(?ZONE, Name) of
        {ok, Pid} ->
            ended(Pid, Reason),
            {died, known(Pid, World)};
        undefined ->
            undefined
    end;
perform({settle, Name}, _) ->
    settled(Name).

ended(Pid, killed) -> tracked_child:kill(Pid);
ended(Pid, Reason) -> tracked_child:stop(Pid, Reason).

%% Waits until a name whose child is dead is free, or has its next child. What is started for this changes nothing but the attributes of a name without a child.
settled(Name) ->
    Spec = {Name, {?MODULE, ignore, []}, temporary, 200, worker, []},
    case supervisor:start_child(?ZONE, Spec) of
        {error, already_present} ->
            %% Its next start, which will not fail, is not long away.
            receive after 1 -> settled(Name) end;
        _ ->
            ok
    end.

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
    {attributes, distinct([{Key, case Value of Books -> books; _ -> Value end} || {Key, Value} <- Attributes])}.

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
        full -> {Name, Start, Restart, shutdown(Form), worker, [?MODULE]};
        map -> #{id => Name, start => Start, restart => Restart}
    end.

start(Books, Zone, Name, #spec{how = How, again = Again, tag = Tag}) ->
    Number = ets:update_counter(Books, {starts, Name}, 1, {starts, 0}),
    Call = ets:update_counter(Books, {calls, Tag}, 1, {calls, 0}),
    ok = gen_tracker:setattr(Zone, Name, ?BOOKS, Books),
    case Call of
        1 -> start(How, Books, {started, Name, Number});
        2 -> start(Again, Books, {started, Name, Number});
        _ -> start(ok, Books, {started, Name, Number})
    end.

start(ok, Books, Id) ->
    Pid = spawn_link(fun child/0),
    true = ets:insert(Books, {Pid, Id}),
    {ok, Pid};
start(info, Books, Id) ->
    {ok, Pid} = start(ok, Books, Id),
    {ok, Pid, info};
start(refused, _, _) ->
    {error, refused};
start(crash, _, _) ->
    error(crashed);
start(Other, _, _) ->
    Other.

child() ->
    receive
        {stop, Reason} -> exit(Reason);
        ping -> child()
    end.

ignore() ->
    ignore.

%% Called by the library. Who is added has no books.
after_terminate(Name, Attributes, Reason) ->
    case lists:keyfind(?BOOKS, 1, Attributes) of
        {_, Books} -> ets:insert(Books, {{told, erlang:unique_integer([monotonic])}, Name, Attributes, Reason});
        false -> true
    end.
