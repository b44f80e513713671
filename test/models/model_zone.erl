%% The model of a zone (`model_tracker`): its state, and the steps that it may make.
%%
%% `step/3` returns the next steps of a call: an answer, or another stage of the call. Without a
%% step the call waits. `internal/1` returns the steps that a zone makes on its own: it starts a
%% child, notices its death, cleans up after it, and restarts it. Meanwhile start functions and
%% `after_terminate` may call the zone.
%%
%% A call of a callback makes its keeper wait. The model stores which keeper waits for which, and
%% refuses a call that would close a cycle.
%%
%% `observe/3` tells the model what only a run can decide: the answers to callbacks, which a step
%% must give; and how long restarts have waited, as a delayed restart must not come too early.
-module(model_zone).

-export([new/0, without_logs/1, step/3, internal/1, settle/1, stopping/1, logs/1]).
-export([observe/3, unmatched/1, delayed/1, agree/2, own/3, shutdown/1]).

-import(prop_terms, [sorted/1]).

-include("model_zone.hrl").

%% The library makes `?INTENSITY` restarts of a child at once. It delays the next one by
%% `?FIRST_DELAY` ms, and each further one by `?MORE_DELAY` ms more. No program takes as long as the
%% period in which restarts are counted.
-define(INTENSITY, 10).
-define(FIRST_DELAY, 50).
-define(MORE_DELAY, 150).

-record(model, {
    rows = #{},
    %% The number of calls of the start function, by name.
    starts = #{},
    %% The processes that have lost their name and live on.
    detached = [],
    %% The events and the calls of `after_terminate`, by name, the latest first.
    events = #{},
    terminated = #{},
    %% The children that were to be stopped. The waiters for their start may get `{error, killed}`.
    stop_requested = [],
    %% The keeper that each keeper waits for.
    waits = #{},
    %% The answers to callbacks that no step has given yet.
    answers = #{},
    %% For each restarted child, the time since the death of the one before, in ms.
    waited = #{},
    %% The delayed restarts, `{slowed | pending, Name}`.
    delayed = [],
    %% The most children that the zone may have.
    limit = infinity
}).
%% The states are those of the table of the library.
-record(row, {state = vacant, child, attributes = #{}}).
-record(child, {
    id,
    %% The identity of the keeper: that of its first child.
    keeper,
    spec,
    %% Whether the start function was called.
    called = false,
    %% The call of its start function or of `after_terminate`: `{Key, Operation, Stage}`.
    callback = none,
    %% Its exit reason.
    ended,
    %% Whether it must not restart; `last` if that has ended it.
    stopping = false,
    %% The number of immediate restarts, and the delay of the latest delayed one.
    restarts = 0,
    delay = none
}).

%% Returns a zone that was just started.
new() ->
    #model{}.

%% Stores no events and no calls of `after_terminate`.
without_logs(Model) ->
    Model#model{events = off, terminated = off}.

%% Returns the events and the calls of `after_terminate`.
logs(#model{events = Events, terminated = Terminated}) ->
    {Events, Terminated}.

%% Adds answers and times that were observed.
observe(Answers, Waited, #model{answers = Before} = Model) ->
    Model#model{answers = maps:merge(Before, Answers), waited = Waited, delayed = []}.

%% Returns the answers that no step has given.
unmatched(#model{answers = Answers}) ->
    Answers.

%% Returns the restarts that were delayed since the latest `observe/3`.
delayed(#model{delayed = Delayed}) ->
    Delayed.

%% Compares an answer with the expected one, and the bits of its values. Names and keys may be equal
%% only: the contract does not say whether 0.0 or -0.0 is kept.
agree(Expected, Answer) ->
    Expected =:= Answer andalso prop_terms:same(values(Expected), values(Answer)).

values({attributes, Map}) -> maps:values(Map);
values({read, Map}) when is_map(Map) -> [values(Value) || Value <- maps:values(Map)];
values({_Identity, {attributes, _} = Attributes}) -> values(Attributes);
values({ok, {started, _, _}}) -> [];
values({ok, {added, _}}) -> [];
values({ok, Value}) -> Value;
values({error, {current, Value}}) -> Value;
values(_) -> [].

%%% Operations

%% Returns the next steps of an operation: `{{answer, Answer} | {stage, Stage}, NextModel}`.
step({find, Name}, start, Model) ->
    answer(found(row(Name, Model), fun(Child) -> {ok, Child#child.id} end), Model);
step({find, Name, _Timeout}, start, Model) ->
    step({find, Name}, start, Model);
step({limit, Most}, start, Model) ->
    answer(ok, Model#model{limit = Most});
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
step({update, Name, Key, Value}, start, Model) ->
    Row = row(Name, Model),
    case is_settable(Row) andalso is_map_key(Key, Row#row.attributes) of
        true ->
            [{{answer, ok}, After}] = set(Name, #{Key => Value}, Key, Model),
            answer({ok, Value}, After);
        false ->
            answer(undefined, Model)
    end;
step({read, What}, start, Model) when tuple_size(What) > 2, element(2, What) =:= none ->
    %% The key has no index.
    answer({error, badarg}, Model);
step({read, _}, start, Model) ->
    [{{stage, {reading, maps:keys(Model#model.rows), #{}, #{}}}, Model}];
step({read, What}, {reading, Left, Done, Read}, #model{rows = Rows} = Model) ->
    %% Each name is read at a moment of its own. A name that is new may be seen or not.
    [{{answer, {read, summary(What, Read)}}, Model} || Left =:= []] ++
        [
            {{stage, {reading, Left -- [Name], Done#{Name => done}, Next}}, Model}
         || {Name, Row} <- maps:to_list(maps:without(maps:keys(Done), Rows)),
            Next <- [read(What, Name, Row, Read)]
        ];
step(count, start, #model{rows = Rows} = Model) ->
    answer(length([row || #row{state = State} <- maps:values(Rows), State =/= vacant]), Model);
step(wait, start, Model) ->
    answer(ok, Model);
step({malformed, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, ended = undefined}} ->
            answer({ok, Id}, Model);
        _ ->
            answer({error, {invalid_mfa, nothing}}, Model)
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
    Running = [
        Id
     || #row{state = running, child = #child{id = Id, ended = undefined}} <- maps:values(Rows)
    ],
    answer(sorted(Detached ++ Running), Model);
step({open, Name, Spec}, Stage, Model) ->
    opened(Name, Spec, Stage, Model);
step({open_together, Name, Spec, Count}, Stage, Model) ->
    All = fun
        ({answer, Answer}) -> {answer, lists:duplicate(Count, Answer)};
        (Result) -> Result
    end,
    [{All(Result), After} || {Result, After} <- opened(Name, Spec, Stage, Model)];
step({start_child, Name, Spec}, Stage, Model) ->
    started(Name, Spec, Stage, Model);
step({add, Name, #spec{} = Spec}, Stage, Model) ->
    added(Name, Spec, Stage, Model);
step({add, Name, Tag}, Stage, Model) ->
    added(Name, #spec{form = added, restart = temporary, tag = Tag}, Stage, Model);
step({register, Name, Tag}, Stage, Model) ->
    registered(Name, #spec{form = added, restart = temporary, tag = Tag}, Stage, Model);
step({re_register, Name, Tag}, Stage, Model) ->
    re_registered(Name, #spec{form = added, restart = temporary, tag = Tag}, Stage, Model);
step({unregister, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{spec = #spec{form = added}} = Child} ->
            answer(ok, detached(Name, Child, Model));
        _ ->
            answer(ok, Model)
    end;
step({die, Name, _}, start, Model) ->
    Dies = fun(#child{id = Id}) -> [{{stage, {die, Id}}, Model}] end,
    found(row(Name, Model), Dies, answer(undefined, Model));
step({die, _, Reason}, {die, Id}, Model) ->
    answer({died, Id}, died(Id, Reason, Model));
step({Stop, Name}, Stage, Model) when Stop =:= terminate_child; Stop =:= delete_child ->
    stopped(Name, Stage, Model);
step(rest, start, #model{rows = Rows} = Model) ->
    case lists:all(fun is_at_rest/1, maps:values(Rows)) of
        true -> answer(ok, Model);
        false -> []
    end.

is_at_rest(#row{state = running, child = #child{ended = Ended}}) -> Ended =:= undefined;
is_at_rest(#row{state = State}) -> State =:= vacant.

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

read(select, Name, Row, Read) ->
    read(list, Name, Row, Read);
read({sum, Key}, Name, #row{state = running, attributes = Attributes}, Read) ->
    case Attributes of
        #{Key := Value} when is_integer(Value) -> Read#{Name => Value};
        _ -> Read
    end;
read({values, Kind, Key}, _, #row{state = running, attributes = Attributes}, Read) ->
    Add = fun(Value, Counts) -> maps:update_with(Value, fun(Count) -> Count + 1 end, 1, Counts) end,
    lists:foldl(Add, Read, indexed(Kind, Key, Attributes));
read({_, Kind, Key, Value}, Name, #row{state = running} = Row, Read) ->
    #row{child = #child{id = Id}, attributes = Attributes} = Row,
    case is_member(Value, indexed(Kind, Key, Attributes)) of
        true -> Read#{Name => Id};
        false -> Read
    end;
read({list, Keys}, Name, #row{attributes = Attributes} = Row, Read) ->
    read(list, Name, Row#row{attributes = maps:with(Keys, Attributes)}, Read);
read(list, Name, #row{state = running, child = #child{id = Id}, attributes = Attributes}, Read) ->
    Read#{Name => {Id, {attributes, Attributes}}};
read(fold, Name, #row{state = running, child = #child{id = Id}}, Read) ->
    Read#{Name => Id};
read(names, Name, #row{state = State}, Read) when State =/= vacant ->
    Read#{Name => name};
read(What, Name, #row{state = State, child = Child}, Read) when
    State =/= vacant, (What =:= which_children orelse What =:= count_children)
->
    #child{id = Id, spec = Spec} = Child,
    Visible =
        case State of
            running -> Id;
            terminating -> terminating;
            _ -> launching
        end,
    Read#{Name => {Visible, modules(Spec)}};
read(_, _, _, Read) ->
    Read.

%% Returns the values under which an index finds a child, each once.
indexed(Kind, Key, Attributes) ->
    case {Kind, Attributes} of
        {whole, #{Key := Value}} -> [Value];
        {each, #{Key := [_ | _] = List}} -> elements(List, #{});
        _ -> []
    end.

elements([Element | List], Seen) -> elements(List, Seen#{Element => true});
elements([], Seen) -> maps:keys(Seen);
elements(_, _) -> [].

is_member(Value, Values) ->
    lists:any(fun(Other) -> Other =:= Value end, Values).

summary({count, _, _, _}, Read) ->
    map_size(Read);
summary({publish, _, _, _}, _) ->
    true;
summary(count_children, Read) ->
    Active = length([Id || {Id, _} <- maps:values(Read), not is_atom(Id)]),
    #{specs => map_size(Read), active => Active, supervisors => 0, workers => map_size(Read)};
summary({sum, _}, Read) ->
    lists:sum(maps:values(Read));
summary(_, Read) ->
    Read.

%% Whether the zone has as many children as it may have.
is_full(#model{limit = Limit, rows = Rows}) ->
    length([row || #row{state = State} <- maps:values(Rows), State =/= vacant]) >= Limit.

modules(#spec{form = Form}) when Form =:= added; Form =:= short -> [];
modules(_) -> [model_tracker].

childspec(#row{state = vacant}) ->
    {error, not_found};
childspec(#row{child = #child{spec = #spec{form = Form, restart = Restart} = Spec}}) ->
    Modules = modules(Spec),
    {ok, #{restart => Restart, shutdown => shutdown(Form), type => worker, modules => Modules}}.

shutdown(full) -> brutal_kill;
shutdown(map) -> 5000;
shutdown(_) -> 200.

%%% Children

%% find_or_open: the calls during the start of a child get its answer, too.
opened(_, _, {opening, Id, Answer}, Model) ->
    once_started(Id, Model, answer(Answer, Model) ++ killed(Id, Model));
opened(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, ended = undefined}} ->
            %% A dead child is never returned.
            answer({ok, Id}, Model);
        #row{state = launching, child = Child} ->
            [{{stage, opening(Child)}, Model}];
        #row{state = restarting, child = #child{id = Id, spec = #spec{again = Again}}} ->
            [{{stage, {opening, Id, {ok, Id}}}, Model} || is_started(Again)];
        #row{state = vacant} ->
            launched(Name, Spec, fun opening/1, Model);
        _ ->
            []
    end.

opening(#child{id = Id, spec = #spec{how = How}}) ->
    {opening, Id, start_answer(How, Id)}.

start_answer(info, Id) -> {ok, Id, info};
start_answer(refused, _) -> {error, refused};
start_answer(crash, _) -> {error, crashed};
start_answer(throw, _) -> {error, thrown};
start_answer({ok, _} = NoPid, _) -> {error, {bad_return_value, NoPid}};
start_answer({ok, _, _} = NoPid, _) -> {error, {bad_return_value, NoPid}};
start_answer(How, Id) ->
    case is_started(How) of
        true -> {ok, Id};
        false -> How
    end.

%% Whether this start returns a child.
is_started(How) ->
    Misbehaviours = [untrap, unlink, flush, erase, everything],
    lists:member(How, [ok, info, helper | Misbehaviours]).

%% Whether a permanent child starts again after this failure of a restart.
is_error(How) ->
    lists:member(How, [refused, crash, throw]).

%% The answer to the waiters for a start that was stopped.
killed(Id, #model{stop_requested = Requested} = Model) ->
    case lists:member(Id, Requested) of
        true -> answer({error, killed}, Model);
        false -> []
    end.

%% Waits until this child is no longer starting.
once_started({started, Name, _} = Id, Model, Steps) ->
    case row(Name, Model) of
        #row{state = launching, child = #child{id = Id}} -> [];
        #row{state = restarting, child = #child{id = Id}} -> [];
        _ -> Steps
    end.

launched(Name, Spec, Stage, Model) ->
    case is_full(Model) of
        true -> answer({error, max_children}, Model);
        false -> claimed(Name, Spec, Stage, Model)
    end.

claimed(Name, Spec, Stage, Model) ->
    Id = next_identity(Name, Model),
    Child = #child{id = Id, keeper = Id, spec = Spec},
    Row = (row(Name, Model))#row{state = launching, child = Child},
    [{{stage, Stage(Child)}, put_row(Name, Row, Model)}].

next_identity(Name, #model{starts = Starts}) ->
    {started, Name, maps:get(Name, Starts, 0) + 1}.

%% start_child: only the call that starts the child gets the answer of its start.
started(_, _, {opening, Id, Answer}, Model) ->
    once_started(Id, Model, answer(to_supervisor(Answer), Model) ++ killed(Id, Model));
started(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> launched(Name, Spec, fun opening/1, Model);
        #row{state = pending} -> answer({error, already_present}, Model);
        _ -> name_taken(Name, Model)
    end;
started(_, _, Stage, Model) ->
    joined(Stage, Model).

to_supervisor(ignore) -> {ok, undefined};
to_supervisor({error, Reason}) -> {error, Reason};
to_supervisor({ok, _} = Started) -> Started;
to_supervisor({ok, _, _} = Started) -> Started;
to_supervisor(Odd) -> {error, Odd}.

add_stage(Name, Spec, Answer, Model) ->
    case is_full(Model) of
        true -> answer({error, max_children}, Model);
        false -> add(Name, Spec, Answer, Model)
    end.

add(Name, Spec, Answer, Model) ->
    Id = {added, Spec#spec.tag},
    Child = #child{id = Id, keeper = Id, spec = Spec, called = true},
    Added = put_row(Name, (row(Name, Model))#row{state = running, child = Child}, Model),
    answer(Answer, event(Name, {up, Id}, Added)).

added(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} ->
            add_stage(Name, Spec, {ok, {added, Spec#spec.tag}}, Model);
        #row{state = State} when State =:= launching; State =:= pending ->
            answer({error, already_present}, Model);
        #row{state = slowed} ->
            %% A call that waited for the cleanup before the delay waits on.
            answer({error, already_present}, Model);
        #row{state = restarting} ->
            answer({error, already_present}, Model) ++ name_taken(Name, Model);
        _ ->
            name_taken(Name, Model)
    end;
added(_, _, Stage, Model) ->
    joined(Stage, Model).

registered(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> as_registered(add_stage(Name, Spec, yes, Model));
        #row{state = pending} -> answer(no, Model);
        _ -> as_registered(name_taken(Name, Model))
    end;
registered(_, _, Stage, Model) ->
    as_registered(joined(Stage, Model)).

as_registered(Steps) ->
    No = fun
        ({answer, Answer}) when Answer =/= yes -> {answer, no};
        (Result) -> Result
    end,
    [{No(Result), After} || {Result, After} <- Steps].

%% A child without a start function gives its name away, also if it has died since the call found it
%% alive, and nobody has noticed that yet. A call that has waited for a start begins anew.
re_registered(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, spec = #spec{form = added}} = Child}
                when Child#child.ended =:= undefined ->
            [{{stage, {taking_from, Id}}, Model} || not Child#child.stopping];
        #row{state = State, child = #child{id = Id}} when
            State =:= launching; State =:= restarting
        ->
            [{{stage, {joining, Id}}, Model}];
        _ ->
            registered(Name, Spec, start, Model)
    end;
re_registered(Name, Spec, {taking_from, Id}, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, stopping = false} = Child} ->
            handed_over(Name, Spec, Child, Model);
        _ ->
            [{{stage, start}, Model}]
    end;
re_registered(_, _, {joining, Id}, Model) ->
    once_started(Id, Model, [{{stage, start}, Model}]).

handed_over(Name, Spec, Child, #model{detached = Detached} = Model) ->
    #child{id = Id, ended = Ended} = Child,
    Next = {added, Spec#spec.tag},
    Row = (row(Name, Model))#row{child = Child#child{id = Next, keeper = Next, ended = undefined}},
    Left = [Id || Ended =:= undefined] ++ Detached,
    Given = put_row(Name, Row, Model#model{detached = Left}),
    answer(yes, event(Name, {up, Next}, event(Name, {down, Id, re_registered}, Given))).

%% The name is taken: by a running child, or by a starting one, for which the call waits. A call for
%% a dead child waits, too.
name_taken(Name, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, ended = undefined}} ->
            answer({error, {already_started, Id}}, Model);
        #row{state = launching, child = #child{id = Id, spec = #spec{how = How}}} ->
            [{{stage, {joining, Id, is_started(How)}}, Model}];
        #row{state = restarting, child = #child{id = Id}} ->
            [{{stage, {joining, Id, true}}, Model}];
        _ ->
            []
    end.

joined({joining, Id, true}, Model) ->
    Killed = killed(Id, Model),
    Again = [{{stage, start}, Model} || Killed =/= []],
    once_started(Id, Model, answer({error, {already_started, Id}}, Model) ++ Killed ++ Again);
joined({joining, Id, false}, Model) ->
    once_started(Id, Model, [{{stage, start}, Model}] ++ killed(Id, Model)).

%% terminate_child and delete_child
stopped(Name, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} ->
            answer({error, no_child}, Model);
        #row{child = #child{id = Id, keeper = Keeper} = Child} = Row ->
            Requested = [Id | Model#model.stop_requested -- [Id]],
            Marked = Row#row{child = Child#child{stopping = true}},
            Next = put_row(Name, Marked, Model#model{stop_requested = Requested}),
            [{{stage, {stopping, Keeper}}, Next}]
    end;
stopped(Name, {stopping, Keeper}, Model) ->
    case row(Name, Model) of
        #row{child = #child{keeper = Keeper}} -> [];
        _ -> answer(ok, Model)
    end.

detached(Name, Child, #model{detached = Detached} = Model) ->
    #child{id = Id, ended = Ended, stopping = Stopping} = Child,
    Left = event(Name, {down, Id, unregistered}, put_row(Name, #row{}, Model)),
    Left#model{detached = [Id || Ended =:= undefined, not Stopping] ++ Detached}.

died(Id, Reason, #model{rows = Rows, detached = Detached} = Model) ->
    Mark = fun
        (_, #row{state = running, child = #child{id = Of, ended = undefined} = Child} = Row) when
            Of =:= Id
        ->
            Row#row{child = Child#child{ended = Reason}};
        (_, Row) ->
            Row
    end,
    Model#model{rows = maps:map(Mark, Rows), detached = Detached -- [Id]}.

%% Stops the zone. From now on all calls of callbacks are refused.
stopping(#model{rows = Rows} = Model) ->
    Stop = fun
        (_, #row{child = undefined} = Row) -> Row;
        (_, #row{child = Child} = Row) -> Row#row{child = Child#child{stopping = true}}
    end,
    Model#model{rows = maps:map(Stop, Rows), answers = off}.

%% Returns the steps that the zone may make on its own. Between successive
%% calls the model makes the first one.
internal(#model{rows = Rows} = Model) ->
    [After || {Name, Row} <- maps:to_list(Rows), After <- internal(Name, Row, Model)].

%% Makes all steps that the zone makes on its own.
settle(Model) ->
    case internal(Model) of
        [] -> Model;
        [After | _] -> settle(After)
    end.

internal(_, #row{state = vacant}, _) ->
    [];
internal(Name, #row{child = #child{callback = {_, _, _} = Callback}}, Model) ->
    asked(Name, Callback, Model);
internal(Name, #row{state = launching} = Row, Model) ->
    launching(Name, Row, Model);
internal(Name, #row{state = restarting} = Row, Model) ->
    launching(Name, Row, Model);
internal(Name, #row{state = running} = Row, Model) ->
    running(Name, Row, Model);
internal(Name, #row{state = terminating, child = #child{stopping = Stopping} = Child}, Model) ->
    case Stopping =:= false andalso restarts(Child) of
        true -> [restarted(Name, Child, Model)];
        false -> [put_row(Name, #row{}, Model)]
    end;
internal(Name, #row{child = #child{stopping = true}}, Model) ->
    [put_row(Name, #row{}, Model)];
internal(Name, #row{state = pending, child = Child}, Model) ->
    [again(Name, Child, Model)];
internal(Name, #row{state = slowed, child = #child{delay = Delay} = Child}, Model) ->
    Waited = maps:get(next_identity(Name, Model), Model#model.waited, 0),
    [again(Name, Child, Model) || Waited >= Delay].

launching(Name, #row{child = #child{called = false} = Child} = Row, Model) ->
    %% The start function is called.
    {started, Name, Number} = Id = Child#child.id,
    Callback = callback({start, Id}, (Child#child.spec)#spec.asks),
    Called = Row#row{
        child = Child#child{called = true, callback = Callback},
        attributes = (Row#row.attributes)#{?TABLE_KEY => table}
    },
    Calls = put_row(Name, Called, Model#model{starts = (Model#model.starts)#{Name => Number}}),
    [Calls | [put_row(Name, #row{}, Model) || is_killed_at_once(Child)]];
launching(Name, #row{child = #child{stopping = true} = Child} = Row, Model) ->
    %% The result is dropped. A child that was started is ended after the waiting calls were
    %% answered. The keeper may have been killed before the helper was linked.
    Next =
        case is_started(how(Row)) of
            true -> Row#row{state = terminating, child = Child#child{ended = killed}};
            false -> #row{}
        end,
    [put_row(Name, Next, After) || After <- lists:usort([Model, helped(Row, Model)])] ++
        orphaned(Name, Row, Model);
launching(Name, #row{state = launching} = Row, Model) ->
    case is_started(how(Row)) of
        true -> [up(Name, Row, helped(Row, Model))];
        false -> [put_row(Name, #row{}, Model)]
    end;
launching(Name, #row{child = #child{spec = Spec} = Child} = Row, Model) ->
    How = how(Row),
    case {is_started(How), is_error(How), Spec#spec.restart} of
        {true, _, _} -> [up(Name, Row, Model)];
        {false, true, permanent} -> [delay(Name, pending, Child, Model)];
        {false, _, _} -> [put_row(Name, #row{}, Model)]
    end.

%% A keeper that is killed in a start function that unlinks everything leaves a child behind.
orphaned(Name, #row{child = #child{id = Id} = Child} = Row, Model) ->
    Left = Model#model{detached = [Id | Model#model.detached]},
    [
        put_row(Name, #row{}, Left)
     || is_killed_at_once(Child), lists:member(how(Row), [unlink, everything])
    ].

%% A stop without a shutdown time may kill the keeper before it has called the start function.
is_killed_at_once(#child{stopping = Stopping, spec = #spec{form = Form}}) ->
    Stopping =:= true andalso shutdown(Form) =:= brutal_kill.

%% How this call of the start function ends: the first two of a keeper have their own result.
how(#row{state = launching, child = #child{spec = Spec}}) ->
    Spec#spec.how;
how(#row{child = #child{id = Id, keeper = Keeper, spec = Spec}}) ->
    case is_second(Id, Keeper) of
        true -> Spec#spec.again;
        false -> ok
    end.

is_second({started, _, Number}, {started, _, First}) -> Number =:= First + 1;
is_second(_, {added, _}) -> false.

%% A helper that the first start links to its keeper lives on.
has_helper(#row{state = launching, child = #child{spec = #spec{how = How}}}) -> How =:= helper;
has_helper(_) -> false.

helped(#row{child = #child{id = Id}} = Row, #model{detached = Detached} = Model) ->
    Model#model{detached = [{helper, Id} || has_helper(Row)] ++ Detached}.

running(_, #row{child = #child{ended = undefined, stopping = false}}, _) ->
    [];
running(Name, #row{child = #child{ended = undefined, spec = Spec} = Child} = Row, Model) ->
    Reason =
        case shutdown(Spec#spec.form) of
            brutal_kill -> killed;
            _ -> shutdown
        end,
    [put_row(Name, Row#row{child = Child#child{ended = Reason, stopping = last}}, Model)];
running(Name, #row{child = #child{id = Id, ended = Reason} = Child} = Row, Model) ->
    #row{attributes = Attributes} = Row,
    Callback = callback({last, Id}, last(Child, Attributes)),
    Dead = Row#row{state = terminating, child = Child#child{callback = Callback}},
    Down = event(Name, {down, Id, Reason}, put_row(Name, Dead, Model)),
    [terminated(Name, Attributes, Reason, Down)].

%% A child that was added and has no table does nothing in `after_terminate`.
last(#child{spec = #spec{last = Last}}, #{?TABLE_KEY := _}) -> Last;
last(_, _) -> none.

%% Restarts a dead child: at once, until the intensity is reached.
restarted(Name, #child{delay = none, restarts = Restarts} = Child, Model) when
    Restarts < ?INTENSITY
->
    again(Name, Child#child{restarts = Restarts + 1}, Model);
restarted(Name, #child{delay = none} = Child, Model) ->
    delay(Name, slowed, Child#child{delay = ?FIRST_DELAY}, Model);
restarted(Name, #child{delay = Delay} = Child, Model) ->
    delay(Name, slowed, Child#child{delay = Delay + ?MORE_DELAY}, Model).

delay(Name, State, Child, #model{events = off} = Model) ->
    put_row(Name, #row{state = State, child = Child}, Model);
delay(Name, State, Child, #model{delayed = Delayed} = Model) ->
    Noted = Model#model{delayed = [{State, Name} | Delayed]},
    put_row(Name, #row{state = State, child = Child}, Noted).

again(Name, Child, Model) ->
    Next = Child#child{id = next_identity(Name, Model), called = false, ended = undefined},
    put_row(Name, #row{state = restarting, child = Next}, Model).

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

terminated(_, _, _, #model{terminated = off} = Model) ->
    Model;
terminated(Name, #{?TABLE_KEY := _} = Attributes, Reason, Model) ->
    Call = {{attributes, Attributes}, Reason},
    Model#model{terminated = logged(Name, Call, Model#model.terminated)};
terminated(_, _, _, Model) ->
    Model.

logged(Name, Entry, Log) ->
    maps:update_with(Name, fun(Entries) -> [Entry | Entries] end, [Entry], Log).

%%% Callbacks

%% Returns the call of the callback with this key, if it makes one. Other behaviour has no effect on
%% the zone.
callback({_, Id} = Key, {_By, Operation}) -> {Key, own(Key, name(Id), Operation), start};
callback(_, _) -> none.

name({started, Name, _}) -> Name.

%% Returns the operation that a callback makes of one in a spec: `$own` is replaced by the name of
%% its child, and tags become different from those of other callbacks.
own(Key, Name, Operation) when element(2, Operation) =:= '$own' ->
    own(Key, Name, setelement(2, Operation, Name));
own(Key, _, {Kind, Name, {_, _} = Tag})
        when Kind =:= add; Kind =:= register; Kind =:= re_register ->
    {Kind, Name, {Tag, Key}};
own(_, _, Operation) ->
    Operation.

%% Returns the steps of a call of a callback.
asked(Name, _, #model{answers = off} = Model) ->
    [done(Name, Model)];
asked(Name, {_, Operation, Stage}, Model) ->
    case step(Operation, Stage, Model) of
        [] when Stage =:= start ->
            waits(Name, Operation, start, Model, Model);
        Steps ->
            Results = [result(Name, Operation, Result, After, Model) || {Result, After} <- Steps],
            lists:append(Results)
    end.

result(Name, _, {answer, Answer}, After, _) ->
    answered(Name, Answer, After);
result(Name, _, {stage, start}, After, _) ->
    [put_stage(Name, start, without_wait(Name, After))];
result(Name, Operation, {stage, Stage}, After, Before) ->
    waits(Name, Operation, Stage, After, Before).

%% The keeper of the callback waits for the keeper of another name, unless that one waits for it
%% already: then the call is refused.
waits(Name, Operation, Stage, After, #model{waits = Waits} = Before) ->
    Asker = keeper(Name, Before),
    Holder = keeper(element(2, Operation), After),
    case {Waits, (row(Name, Before))#row.child} of
        {#{Asker := Holder}, #child{callback = {_, _, Stage}}} ->
            [];
        {#{Asker := Holder}, _} ->
            [put_stage(Name, Stage, After)];
        _ ->
            case reaches(Holder, Asker, Waits) of
                true -> answered(Name, refusal(Operation, row(Name, Before)), Before);
                false -> [put_stage(Name, Stage, After#model{waits = Waits#{Asker => Holder}})]
            end
    end.

reaches(Asker, Asker, _) ->
    true;
reaches(Keeper, Asker, Waits) ->
    case Waits of
        #{Keeper := Next} -> reaches(Next, Asker, Waits);
        _ -> false
    end.

refusal({Kind, _, _}, _) when Kind =:= register; Kind =:= re_register -> no;
refusal(_, #row{state = terminating}) -> {error, terminating};
refusal(_, _) -> {error, starting}.

keeper(Name, Model) ->
    ((row(Name, Model))#row.child)#child.keeper.

put_stage(Name, Stage, Model) ->
    #row{child = #child{callback = {Key, Operation, _}} = Child} = Row = row(Name, Model),
    put_row(Name, Row#row{child = Child#child{callback = {Key, Operation, Stage}}}, Model).

without_wait(Name, #model{waits = Waits} = Model) ->
    Model#model{waits = maps:remove(keeper(Name, Model), Waits)}.

%% This must be the observed answer.
answered(Name, Answer, #model{answers = Answers} = Model) ->
    #row{child = #child{callback = {Key, _, _}}} = row(Name, Model),
    case Answers of
        #{Key := Observed} ->
            Others = maps:remove(Key, Answers),
            [done(Name, Model#model{answers = Others}) || agree(Answer, Observed)];
        _ ->
            []
    end.

done(Name, Model) ->
    #row{child = Child} = Row = row(Name, Model),
    put_row(Name, Row#row{child = Child#child{callback = none}}, without_wait(Name, Model)).
