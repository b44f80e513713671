%% The machine that is the model of a zone (`model_tracker'): what it holds, and the steps that it
%% may make.
%%
%% `step/3' is what a call may do next to what a zone holds: answer, go on in another stage, or,
%% when it gives nothing, wait. `silent/1' is what a zone may do by itself: start a child, notice
%% its death, clean up after it, start it again; and what its start functions and `after_terminate'
%% do meanwhile: they ask the zone.
%%
%% Such a request is made for a keeper, which waits as long as the request does. The model keeps
%% which keeper waits for which, and refuses a request that would close a cycle of these waits.
%%
%% What is known only when it has happened, the model is told by `heard/3': what callbacks were
%% answered, which a step has to agree with; and how long starts have waited, for a child whose
%% restarts are slowed down is not started again before its time.
-module(model_zone).

-export([new/0, without_logs/1, step/3, silent/1, quiet/1, stopping/1, logs/1]).
-export([heard/3, unheard/1, delayed/1, agree/2, own/3, shutdown/1]).

-import(prop_terms, [sorted/1]).

-include("model_zone.hrl").

%% So many restarts of a child are made at once. The first one after that waits for so many
%% milliseconds, and each further one so many longer. No program takes as long as they are counted.
-define(INTENSITY, 10).
-define(FIRST_DELAY, 50).
-define(MORE_DELAY, 150).

-record(model, {
    rows = #{},
    %% How often the start function was called for each name.
    starts = #{},
    %% Processes that live on without a name.
    detached = [],
    %% For each name births and deaths, and what `after_terminate' is told, the latest first.
    events = #{},
    told = #{},
    %% The children whose end somebody has asked for: those who wait for their start may be told so.
    unwanted = [],
    %% Which keeper waits for which.
    waits = #{},
    %% What callbacks were answered, as far as no step has agreed with it yet.
    answers = #{},
    %% For how many milliseconds a child had been dead when this one, the next, was started.
    waited = #{},
    %% The names whose restart has had to wait, and in which state.
    delayed = []
}).
%% The states are those of the library's table.
-record(row, {state = vacant, child, attributes = #{}}).
-record(child, {
    id,
    %% The identity of the first child of the process beside it.
    keeper,
    spec,
    %% Whether the start function was called.
    called = false,
    %% What its start function or its `after_terminate' asks: `{Key, Operation, Stage}'.
    callback = none,
    %% The reason of its exit.
    ended,
    %% It is to be forgotten; `last' when it ended because of that.
    stopping = false,
    %% How often it was restarted at once, and how long its latest restart that was not has waited.
    restarts = 0,
    delay = none
}).

%% A zone that has just been started.
new() ->
    #model{}.

%% What is not told is not kept.
without_logs(Model) ->
    Model#model{events = off, told = off}.

%% What has been told of each name.
logs(#model{events = Events, told = Told}) ->
    {Events, Told}.

%% What has become known.
heard(Answers, Waited, #model{answers = Before} = Model) ->
    Model#model{answers = maps:merge(Before, Answers), waited = Waited, delayed = []}.

%% The answers that no step has agreed with.
unheard(#model{answers = Answers}) ->
    Answers.

%% `[{slowed | pending, Name}]' since the latest `heard/3'.
delayed(#model{delayed = Delayed}) ->
    Delayed.

%% Everything that compares as it has to, and values bit for bit. Which of two equal keys or names
%% is kept, -0.0 or 0.0, is not said.
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
    [
        {{stage, {reading, Names -- [Name], read(What, Name, row(Name, Model), Read)}}, Model}
     || Name <- Names
    ];
step(count, start, #model{rows = Rows} = Model) ->
    answer(length([row || #row{state = State} <- maps:values(Rows), State =/= vacant]), Model);
step(wait, start, Model) ->
    answer(ok, Model);
step({malformed, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, ended = undefined}} ->
            answer({ok, Id}, Model);
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
step({unregister, Name}, start, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{spec = #spec{form = added}} = Child} ->
            answer(ok, detached(Name, Child, Model));
        _ -> answer(ok, Model)
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

read({list, Keys}, Name, #row{attributes = Attributes} = Row, Read) ->
    read(list, Name, Row#row{attributes = maps:with(Keys, Attributes)}, Read);
read(list, Name, #row{state = running, child = #child{id = Id}, attributes = Attributes}, Read) ->
    Read#{Name => {Id, {attributes, Attributes}}};
read(fold, Name, #row{state = running, child = #child{id = Id}}, Read) ->
    Read#{Name => Id};
read(names, Name, #row{state = State}, Read) when State =/= vacant ->
    Read#{Name => name};
read(What, Name, #row{state = State, child = Child}, Read)
        when State =/= vacant, (What =:= which_children orelse What =:= count_children) ->
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

%% find_or_open: the callers who come while a child is being started get its answer, too.
opened(_, _, {opening, Id, Answer}, Model) ->
    once_started(Id, Model, answer(Answer, Model) ++ killed(Id, Model));
opened(Name, Spec, start, Model) ->
    case row(Name, Model) of
        %% Nobody is given a child that is dead.
        #row{state = running, child = #child{id = Id, ended = undefined}} ->
            answer({ok, Id}, Model);
        #row{state = launching, child = Child} -> [{{stage, opening(Child)}, Model}];
        #row{state = restarting, child = #child{id = Id, spec = #spec{again = Again}}} ->
            [{{stage, {opening, Id, {ok, Id}}}, Model} || is_started(Again)];
        #row{state = vacant} -> launched(Name, Spec, fun opening/1, Model);
        _ -> []
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

%% Whether a start function that does this has a child to return.
is_started(How) ->
    Misdeeds = [untrap, unlink, flush, erase, everything],
    lists:member(How, [ok, info, helper | Misdeeds]).

%% Whether a permanent child is tried again when its restart ends so.
is_error(How) ->
    lists:member(How, [refused, crash, throw]).

%% It is told to those who wait for a start that somebody had ended.
killed(Id, #model{unwanted = Unwanted} = Model) ->
    case lists:member(Id, Unwanted) of
        true -> answer({error, killed}, Model);
        false -> []
    end.

%% Only when that child is no longer being started.
once_started({started, Name, _} = Id, Model, Steps) ->
    case row(Name, Model) of
        #row{state = launching, child = #child{id = Id}} -> [];
        #row{state = restarting, child = #child{id = Id}} -> [];
        _ -> Steps
    end.

launched(Name, Spec, Stage, Model) ->
    Id = next_identity(Name, Model),
    Child = #child{id = Id, keeper = Id, spec = Spec},
    Row = (row(Name, Model))#row{state = launching, child = Child},
    [{{stage, Stage(Child)}, put_row(Name, Row, Model)}].

next_identity(Name, #model{starts = Starts}) ->
    {started, Name, maps:get(Name, Starts, 0) + 1}.

%% start_child: the one whose child it is gets the answer of its start.
started(_, _, {opening, Id, Answer}, Model) ->
    once_started(Id, Model, answer(to_supervisor(Answer), Model) ++ killed(Id, Model));
started(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> launched(Name, Spec, fun opening/1, Model);
        #row{state = pending} -> answer({error, already_present}, Model);
        _ -> held(Name, Model)
    end;
started(_, _, Stage, Model) ->
    joined(Stage, Model).

to_supervisor(ignore) -> {ok, undefined};
to_supervisor({error, Reason}) -> {error, Reason};
to_supervisor({ok, _} = Started) -> Started;
to_supervisor({ok, _, _} = Started) -> Started;
to_supervisor(Odd) -> {error, Odd}.

add_stage(Name, Spec, Answer, Model) ->
    Id = {added, Spec#spec.tag},
    Child = #child{id = Id, keeper = Id, spec = Spec, called = true},
    Added = put_row(Name, (row(Name, Model))#row{state = running, child = Child}, Model),
    answer(Answer, event(Name, {up, Id}, Added)).

added(Name, Spec, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> add_stage(Name, Spec, {ok, {added, Spec#spec.tag}}, Model);
        #row{state = State} when State =:= launching; State =:= pending ->
            answer({error, already_present}, Model);
        %% One that waited for the cleanup before it waits on.
        #row{state = slowed} -> answer({error, already_present}, Model);
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
    No = fun
        ({answer, _}) -> {answer, no};
        (Result) -> Result
    end,
    [{No(Result), After} || {Result, After} <- Steps].

%% The name is held: by a child that runs, or that is being started and is waited for. Nothing while
%% a child is dead.
held(Name, Model) ->
    case row(Name, Model) of
        #row{state = running, child = #child{id = Id, ended = undefined}} ->
            answer({error, {already_started, Id}}, Model);
        #row{state = launching, child = #child{id = Id, spec = #spec{how = How}}} ->
            [{{stage, {joining, Id, is_started(How)}}, Model}];
        #row{state = restarting, child = #child{id = Id}} ->
            [{{stage, {joining, Id, true}}, Model}];
        _ -> []
    end.

joined({joining, Id, true}, Model) ->
    Killed = killed(Id, Model),
    Again = [{{stage, start}, Model} || Killed =/= []],
    once_started(Id, Model, answer({error, {already_started, Id}}, Model) ++ Killed ++ Again);
joined({joining, Id, false}, Model) ->
    once_started(Id, Model, [{{stage, start}, Model}] ++ killed(Id, Model)).

%% terminate_child and delete_child.
stopped(Name, start, Model) ->
    case row(Name, Model) of
        #row{state = vacant} -> answer({error, no_child}, Model);
        #row{child = #child{id = Id, keeper = Keeper} = Child} = Row ->
            Unwanted = Model#model{unwanted = [Id | Model#model.unwanted -- [Id]]},
            Marked = Row#row{child = Child#child{stopping = true}},
            [{{stage, {stopping, Keeper}}, put_row(Name, Marked, Unwanted)}]
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
        (_, #row{state = running, child = #child{id = Of, ended = undefined} = Child} = Row)
                when Of =:= Id ->
            Row#row{child = Child#child{ended = Reason}};
        (_, Row) -> Row
    end,
    Model#model{rows = maps:map(Mark, Rows), detached = Detached -- [Id]}.

%% The zone is shut down. What callbacks ask from now on is refused, if it comes to that.
stopping(#model{rows = Rows} = Model) ->
    Stop = fun
        (_, #row{child = undefined} = Row) -> Row;
        (_, #row{child = Child} = Row) -> Row#row{child = Child#child{stopping = true}}
    end,
    Model#model{rows = maps:map(Stop, Rows), answers = off}.

%% What the zone may do next by itself. For those who come alone it is the first.
silent(#model{rows = Rows} = Model) ->
    [After || {Name, Row} <- maps:to_list(Rows), After <- moved(Name, Row, Model)].

%% All that it does by itself.
quiet(Model) ->
    case silent(Model) of
        [] -> Model;
        [After | _] -> quiet(After)
    end.

moved(_, #row{state = vacant}, _) ->
    [];
moved(Name, #row{child = #child{callback = {_, _, _} = Callback}}, Model) ->
    asked(Name, Callback, Model);
moved(Name, #row{state = launching} = Row, Model) ->
    launching(Name, Row, Model);
moved(Name, #row{state = restarting} = Row, Model) ->
    launching(Name, Row, Model);
moved(Name, #row{state = running} = Row, Model) ->
    running(Name, Row, Model);
moved(Name, #row{state = terminating, child = #child{stopping = Stopping} = Child}, Model) ->
    case Stopping =:= false andalso restarts(Child) of
        true -> [restarted(Name, Child, Model)];
        false -> [put_row(Name, #row{}, Model)]
    end;
moved(Name, #row{child = #child{stopping = true}}, Model) ->
    [put_row(Name, #row{}, Model)];
moved(Name, #row{state = pending, child = Child}, Model) ->
    [again(Name, Child, Model)];
moved(Name, #row{state = slowed, child = #child{delay = Delay} = Child}, Model) ->
    Waited = maps:get(next_identity(Name, Model), Model#model.waited, 0),
    [again(Name, Child, Model) || Waited >= Delay].

launching(Name, #row{child = #child{called = false} = Child} = Row, Model) ->
    %% The start function is called.
    {started, Name, Number} = Id = Child#child.id,
    Callback = callback({start, Id}, (Child#child.spec)#spec.asks),
    Called = Row#row{
        child = Child#child{called = true, callback = Callback},
        attributes = (Row#row.attributes)#{?BOOKS => books}
    },
    [put_row(Name, Called, Model#model{starts = (Model#model.starts)#{Name => Number}})];
launching(Name, #row{child = #child{stopping = true}} = Row, Model) ->
    %% What comes of it is not wanted any more. It may have been killed before it had a helper.
    [put_row(Name, #row{}, After) || After <- lists:usort([Model, helped(Row, Model)])];
launching(Name, #row{state = launching, child = #child{spec = #spec{how = How}}} = Row, Model) ->
    case is_started(How) of
        true -> [up(Name, Row, helped(Row, Model))];
        false -> [put_row(Name, #row{}, Model)]
    end;
launching(Name, #row{child = #child{id = Id, spec = Spec, keeper = Keeper} = Child} = Row, Model) ->
    Again =
        case is_second(Id, Keeper) of
            true -> Spec#spec.again;
            false -> ok
        end,
    case {is_started(Again), is_error(Again), Spec#spec.restart} of
        {true, _, _} -> [up(Name, Row, Model)];
        {false, true, permanent} -> [delay(Name, pending, Child, Model)];
        {false, _, _} -> [put_row(Name, #row{}, Model)]
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
    Callback = callback({last, Id}, last_words(Child, Attributes)),
    Dead = Row#row{state = terminating, child = Child#child{callback = Callback}},
    Down = event(Name, {down, Id, Reason}, put_row(Name, Dead, Model)),
    [told(Name, Attributes, Reason, Down)].

last_words(#child{spec = #spec{last = Last}}, #{?BOOKS := _}) -> Last;
last_words(_, _) -> none.

%% It has died, and is to be started again: at once, if that was not done too often.
restarted(Name, #child{delay = none, restarts = Restarts} = Child, Model)
        when Restarts < ?INTENSITY ->
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

told(Name, #{?BOOKS := _} = Attributes, Reason, #model{told = Told} = Model) when Told =/= off ->
    Model#model{told = logged(Name, {{attributes, Attributes}, Reason}, Told)};
told(_, _, _, Model) ->
    Model.

logged(Name, Entry, Log) ->
    maps:update_with(Name, fun(Entries) -> [Entry | Entries] end, [Entry], Log).

%%% Callbacks

%% What the callback that is known by `Key' asks; besides, it may do what concerns nobody.
callback({_, Id} = Key, {_By, Operation}) -> {Key, own(Key, name(Id), Operation), start};
callback(_, _) -> none.

name({started, Name, _}) -> Name.

%% The operation that a callback of a child makes of one in its spec: of its own name, if that says
%% so, and with tags that no other callback uses.
own(Key, Name, Operation) when element(2, Operation) =:= '$own' ->
    own(Key, Name, setelement(2, Operation, Name));
own(Key, _, {Kind, Name, {_, _} = Tag}) when Kind =:= add; Kind =:= register ->
    {Kind, Name, {Tag, Key}};
own(_, _, Operation) ->
    Operation.

%% The next that comes of what a callback asks.
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

result(Name, _, {answer, Answer}, After, _) -> answered(Name, Answer, After);
result(Name, _, {stage, start}, After, _) -> [put_stage(Name, start, without_wait(Name, After))];
result(Name, Operation, {stage, Stage}, After, Before) ->
    waits(Name, Operation, Stage, After, Before).

%% It waits for the keeper of a name, and so does the keeper for which it is asked; unless that one
%% waits for this.
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

reaches(Asker, Asker, _) -> true;
reaches(Keeper, Asker, Waits) ->
    case Waits of
        #{Keeper := Next} -> reaches(Next, Asker, Waits);
        _ -> false
    end.

refusal({register, _, _}, _) -> no;
refusal(_, #row{state = terminating}) -> {error, terminating};
refusal(_, _) -> {error, starting}.

keeper(Name, Model) ->
    ((row(Name, Model))#row.child)#child.keeper.

put_stage(Name, Stage, Model) ->
    #row{child = #child{callback = {Key, Operation, _}} = Child} = Row = row(Name, Model),
    put_row(Name, Row#row{child = Child#child{callback = {Key, Operation, Stage}}}, Model).

without_wait(Name, #model{waits = Waits} = Model) ->
    Model#model{waits = maps:remove(keeper(Name, Model), Waits)}.

%% It must have been just this answer.
answered(Name, Answer, #model{answers = Answers} = Model) ->
    #row{child = #child{callback = {Key, _, _}}} = row(Name, Model),
    case Answers of
        #{Key := Heard} ->
            [done(Name, Model#model{answers = maps:remove(Key, Answers)}) || agree(Answer, Heard)];
        _ ->
            []
    end.

done(Name, Model) ->
    #row{child = Child} = Row = row(Name, Model),
    put_row(Name, Row#row{child = Child#child{callback = none}}, without_wait(Name, Model)).
