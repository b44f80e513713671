%% @private
%% What is asked of a tracker about a name: who may have it, and who waits for what.
%%
%% A request is answered at once, or it waits for the keeper of the name's present holder: for the
%% end of a start, or for the keeper's own end. Requests that have waited for the same keeper get
%% the name one after the other, in the order in which they came.
%%
%% A request may come from a start function or an `after_terminate' of the same zone, that is from
%% a keeper, or from a process that has a keeper at the head of its `$ancestors'. While it waits,
%% its keeper waits, too. A request that would close a cycle of such waits is refused.
-module(gen_tracker_requests).

-export([new/1, request/6, handle/2, end_all/1]).
-export([launched/3, settled/2, lost/3, patience_ended/3, abandon/3]).

-export_type([requests/0, request/0, kind/0]).

%% How long a process that registers waits for the start of another, in milliseconds.
-define(PATIENCE, 60000).
%% For how long the end of a keeper counts as a restart of its child, in milliseconds.
-define(LATELY, 10000).

-record(request, {
    kind :: kind(),
    name :: gen_tracker:name() | undefined,
    spec :: gen_tracker_child:spec() | undefined,
    %% The process to be added, or the keeper whose start is waited for.
    child :: pid() | undefined,
    from :: gen_server:from(),
    %% The calling process and the head of its `$ancestors', if they are of this node.
    callers :: [pid()],
    %% The keeper on whose behalf it waits.
    asker = none :: pid() | none
}).

-record(requests, {
    context :: gen_tracker_child:context(),
    %% What waits for each keeper, the latest first.
    waiting = #{} :: #{Keeper :: pid() => [{role(), #request{}}]},
    %% The keepers that a keeper's callback waits for, and the processes that have asked for that.
    waits_for = #{} :: #{Keeper :: pid() => [{Keeper :: pid(), Caller :: pid()}, ...]},
    %% The keepers that were asked to stop their child.
    ending = #{} :: #{Keeper :: pid() => asked},
    %% When the keepers before this one of the same row have ended lately, the latest first.
    adopted = #{} :: #{Keeper :: pid() => [Milliseconds :: integer()]},
    %% The keepers whose transient child has ended for good.
    settled = #{} :: #{Keeper :: pid() => settled}
}).

-opaque requests() :: #requests{}.
-opaque request() :: #request{}.
-type kind() :: find_or_open | start_child | add | register | forget | look_up | await_start.

-type role() ::
        %% It is answered, or handled again, when something comes of the keeper.
        waits
        %% The `start_child' whose child it is; all others find it started.
      | starts
        %% An `add' or `register' whose keeper is getting to know its child; meanwhile the tracker
        %% has this monitor.
      | {adds, reference()}
        %% It found this child dead, of which the keeper does not know yet.
      | {after_death, pid()}
        %% It came after somebody had asked for the end of the child.
      | after_end.

%% @doc No requests yet.
-spec new(gen_tracker_child:context()) -> requests().
new(Context) ->
    #requests{context = Context}.

%% @doc A request. `Callers' are the calling process and the head of its `$ancestors', as far as
%% they are processes of this node.
-spec request(kind(), gen_tracker:name(), gen_tracker_child:spec() | undefined,
              Child :: pid() | undefined, gen_server:from(), Callers :: [pid()]) -> request().
request(Kind, Name, Spec, Child, From, Callers) ->
    #request{kind = Kind, name = Name, spec = Spec, child = Child, from = From, callers = Callers}.

%% @doc Does what a request asks for, or lets it wait.
-spec handle(request(), requests()) -> requests().
handle(#request{kind = forget} = Request, Requests) ->
    forget(Request, Requests);
handle(#request{kind = look_up} = Request, Requests) ->
    look_up(Request, Requests);
handle(#request{kind = await_start} = Request, Requests) ->
    await_start(Request, Requests);
handle(Request, Requests) ->
    {_, Handled} = handle(Request, nobody, Requests),
    Handled.

%% As soon as one of those who have waited for the same keeper waits again, the others wait with
%% it, behind it. A start that fails at once may be over before the next one is looked at, which
%% would be served before its turn, and the start made again for it.
handle(#request{kind = Kind} = Request, Before, Requests) when Before =/= nobody, Kind =/= add ->
    wait(Before, waits, Request, Requests);
handle(#request{kind = Kind, name = Name} = Request, Before, Requests) ->
    case proctab_nif:child(zone(Requests), Name) of
        {State, _, _, _} when Kind =:= add, State =/= running, State =/= terminating ->
            reply(Request, {error, already_present}),
            {Before, Requests};
        _ when Before =/= nobody ->
            wait(Before, waits, Request, Requests);
        undefined ->
            try_take(Request, Requests);
        {running, Pid, Keeper, _} ->
            case gen_tracker_child:is_alive(Pid) of
                true ->
                    reply(Request, running(Kind, Pid)),
                    {nobody, Requests};
                false ->
                    %% The keeper does not know yet. Who restarts a process that had a name
                    %% comes just then.
                    wait(Keeper, {after_death, Pid}, Request, Requests)
            end;
        {pending, _, _, _} when Kind =/= find_or_open ->
            %% As a supervisor says of a child that it has not managed to restart.
            reply(Request, {error, already_present}),
            {nobody, Requests};
        {pending, _, Keeper, _} ->
            retry(Keeper, Request, Requests);
        {_, _, Keeper, _} ->
            wait(Keeper, waits, Request, Requests)
    end.

running(find_or_open, Pid) -> {ok, Pid};
running(_, Pid) -> {error, {already_started, Pid}}.

retry(Keeper, #request{spec = Spec} = Request, #requests{ending = Ending} = Requests) ->
    case wait(Keeper, waits, Request, Requests) of
        {Keeper, Waiting} when not is_map_key(Keeper, Ending) ->
            gen_tracker_child:retry(Keeper, Requests#requests.context, Spec),
            {Keeper, Waiting};
        Other ->
            Other
    end.

try_take(Request, Requests) ->
    try
        take(Request, Requests)
    catch
        %% A spec may be so large that the table refuses it, and there may be no more processes.
        error:Reason when Reason =:= badarg; Reason =:= system_limit ->
            reply(Request, {error, Reason}),
            {nobody, Requests}
    end.

%% Takes a free name.
take(#request{kind = Kind, child = Child} = Request, #requests{context = Context} = Requests)
        when Kind =:= add; Kind =:= register ->
    Keeper = gen_tracker_child:start(Context),
    %% Before it is in the table, where others find it and may end it.
    Monitor = gen_tracker_child:attach(Keeper, Context, Child),
    try
        insert(Keeper, Request, Child, Requests)
    catch
        error:badarg:Stacktrace ->
            true = demonitor(Monitor, [flush]),
            erlang:raise(error, badarg, Stacktrace)
    end,
    gen_tracker_child:attached(Keeper, Context),
    wait(Keeper, {adds, Monitor}, Request, Requests);
take(#request{kind = Kind, spec = Spec} = Request, #requests{context = Context} = Requests) ->
    Keeper = gen_tracker_child:start(Context),
    insert(Keeper, Request, launching, Requests),
    gen_tracker_child:launch(Keeper, Context, Spec),
    Role =
        case Kind of
            start_child -> starts;
            find_or_open -> waits
        end,
    wait(Keeper, Role, Request, Requests).

insert(Keeper, #request{name = Name, spec = Spec}, Child, Requests) ->
    try
        Stored = gen_tracker_child:stored(Spec),
        %% What is not stored is refused all the same, if it is too large.
        _ = Stored =:= Spec orelse proctab_nif:find(zone(Requests), Spec),
        true = proctab_nif:insert(zone(Requests), Name, Keeper, Stored, Child),
        ok
    catch
        error:badarg:Stacktrace ->
            gen_tracker_child:discard(Keeper),
            erlang:raise(error, badarg, Stacktrace)
    end.

%% Has a child stopped and forgotten; it is answered when that is done.
forget(#request{name = Name} = Request, Requests) ->
    case proctab_nif:child(zone(Requests), Name) of
        undefined ->
            reply(Request, {error, no_child}),
            Requests;
        {_, _, Keeper, {_, _, Shutdown, _, _}} ->
            case wait(Keeper, waits, Request, Requests) of
                {nobody, Refused} -> Refused;
                {Keeper, Waiting} -> stop(Keeper, Name, Shutdown, Waiting)
            end
    end.

%% The mark in the table is what counts: what runs in the keeper may lose its messages.
stop(Keeper, Name, Shutdown, #requests{context = Context, ending = Ending} = Requests) ->
    case proctab_nif:stop(zone(Requests), Name, Keeper) of
        State when State =:= launching; State =:= restarting ->
            limit(start, Keeper, gen_tracker_shutdown:start_patience(Shutdown), Requests);
        terminating ->
            limit(cleanup, Keeper, gen_tracker_child:patience(Shutdown), Requests);
        _ -> ok
    end,
    gen_tracker_child:stop(Keeper, Context),
    Requests#requests{ending = Ending#{Keeper => asked}}.

limit(What, Keeper, Time, Requests) ->
    after_time(Time, {overtime, Keeper, What}, Requests).

after_time(Time, Message, #requests{context = #{tag := Tag}}) ->
    _ = erlang:send_after(Time, self(), erlang:insert_element(1, Message, Tag)),
    ok.

%% A start function or an `after_terminate' that waits for an attribute of a name. The table wakes
%% it; what is decided here is whether it may wait. A start function may wait for what its own child
%% sets.
look_up(#request{name = Name} = Request, Requests) ->
    case {proctab_nif:child(zone(Requests), Name), asker(Request, Requests)} of
        {{_, _, Keeper, _}, {Keeper, starting}} ->
            Requests;
        {{_, _, Keeper, _}, {_, _}} ->
            {_, Waiting} = wait(Keeper, waits, Request, Requests),
            Waiting;
        _ ->
            Requests
    end.

-dialyzer({no_improper_lists, abandon/3}).
%% @doc The caller of such a request has stopped waiting. Nobody else knows its alias.
-spec abandon(gen_tracker:name(), Alias :: reference(), requests()) -> requests().
abandon(Name, Alias, Requests) ->
    case proctab_nif:child(zone(Requests), Name) of
        {_, _, Keeper, _} ->
            Is = fun({_, #request{kind = Kind, from = {_, Tag}}}) ->
                Kind =:= look_up andalso Tag =:= [alias | Alias]
            end,
            {_, Left} = take_waiting(Is, Keeper, Requests),
            Left;
        undefined ->
            Requests
    end.

%% A child that has acknowledged its start, and waits until it is registered.
await_start(#request{child = Keeper} = Request, Requests) ->
    case proctab_nif:kept(zone(Requests), Keeper) of
        {_, State, _, _} when State =:= launching; State =:= restarting ->
            {_, Waiting} = wait(Keeper, waits, Request, Requests),
            Waiting;
        _ ->
            reply(Request, ok),
            Requests
    end.

%%% Those who wait

%% `nobody' when the request was refused.
wait(Keeper, Role, Request, Requests) ->
    Asker = asker(Request, Requests),
    case closes_cycle(Asker, Keeper, Requests) of
        true ->
            {_, Doing} = Asker,
            reply(Request, refusal(Request, Doing)),
            {nobody, Requests};
        false ->
            be_patient(Keeper, Request, Requests),
            {Keeper, add(Keeper, role(Keeper, Role, Requests), by(Asker, Request), Requests)}
    end.

refusal(#request{kind = look_up}, _) -> refused;
refusal(_, Doing) -> {error, Doing}.

role(Keeper, waits, #requests{ending = Ending}) when is_map_key(Keeper, Ending) -> after_end;
role(_, Role, _) -> Role.

add(Keeper, Role, Request, #requests{waiting = Waiting} = Requests) ->
    Same = maps:get(Keeper, Waiting, []),
    More = Waiting#{Keeper => [{Role, Request} | Same]},
    note(Request, Keeper, Requests#requests{waiting = More}).

by(none, Request) -> Request#request{asker = none};
by({Asker, _}, Request) -> Request#request{asker = Asker}.

%% The keeper on whose behalf a request is made, and what it is doing.
asker(#request{kind = await_start}, _) ->
    none;
asker(#request{callers = Callers}, Requests) ->
    asker(Callers, zone(Requests));
asker([Caller | Callers], Zone) ->
    case proctab_nif:kept(Zone, Caller) of
        {_, State, _, _} when State =:= launching; State =:= restarting -> {Caller, starting};
        {_, terminating, _, _} -> {Caller, terminating};
        _ -> asker(Callers, Zone)
    end;
asker([], _) ->
    none.

closes_cycle(none, _, _) ->
    false;
closes_cycle({Asker, _}, Keeper, #requests{waits_for = WaitsFor}) ->
    reaches(Asker, [Keeper], WaitsFor, #{}).

reaches(_, [], _, _) ->
    false;
reaches(Asker, [Asker | _], _, _) ->
    true;
reaches(Asker, [Keeper | Keepers], WaitsFor, Seen) when is_map_key(Keeper, Seen) ->
    reaches(Asker, Keepers, WaitsFor, Seen);
reaches(Asker, [Keeper | Keepers], WaitsFor, Seen) ->
    %% A process that is dead waits no longer.
    More = [Other || {Other, Caller} <- maps:get(Keeper, WaitsFor, []),
        gen_tracker_child:is_alive(Caller)],
    reaches(Asker, More ++ Keepers, WaitsFor, Seen#{Keeper => seen}).

note(#request{asker = none}, _, Requests) ->
    Requests;
note(#request{asker = Asker, from = {Caller, _}}, Keeper, #requests{waits_for = WaitsFor} = Requests) ->
    Waits = [{Keeper, Caller} | maps:get(Asker, WaitsFor, [])],
    Requests#requests{waits_for = WaitsFor#{Asker => Waits}}.

forget_note(#request{asker = none}, _, Requests) ->
    Requests;
forget_note(#request{asker = Asker, from = {Caller, _}}, Keeper, Requests) ->
    #requests{waits_for = WaitsFor} = Requests,
    case lists:delete({Keeper, Caller}, maps:get(Asker, WaitsFor, [])) of
        [] -> Requests#requests{waits_for = maps:remove(Asker, WaitsFor)};
        Waits -> Requests#requests{waits_for = WaitsFor#{Asker => Waits}}
    end.

%% The start may be waiting for just the process that is to be registered, or for the one that
%% starts it.
be_patient(Keeper, #request{kind = register, from = From}, Requests) ->
    after_time(?PATIENCE, {patience_ended, Keeper, From}, Requests);
be_patient(_, _, _) ->
    ok.

%% @doc Tells a caller who still waits for this keeper's start that it has been too long. A cleanup
%% has no limit. A keeper that is gone is about to be told.
-spec patience_ended(Keeper :: pid(), gen_server:from(), requests()) -> requests().
patience_ended(Keeper, From, Requests) ->
    case take_waiting(fun({_, #request{from = Its}}) -> Its =:= From end, Keeper, Requests) of
        {[], _} ->
            Requests;
        {[{_, #request{name = Name} = Request}], Left} ->
            case proctab_nif:child(zone(Requests), Name) of
                {terminating, _, Keeper, _} ->
                    be_patient(Keeper, Request, Requests),
                    Requests;
                {_, _, Keeper, _} ->
                    reply(Request, {error, already_present}),
                    Left;
                _ ->
                    Requests
            end
    end.

%% @doc A keeper has come to the end of a start. Whatever that was, it is `killed' for those who
%% waited for it, when somebody has asked for the end of the child meanwhile.
-spec launched(Keeper :: pid(), gen_tracker_child:result(), requests()) -> requests().
launched(Keeper, Result, #requests{ending = Ending} = Requests) ->
    Outcome =
        case is_map_key(Keeper, Ending) of
            true -> {killed, Result};
            false -> {launched, Result}
        end,
    serve_until_end(Keeper, Outcome, Requests).

%% After a failed start the keeper may live on for a while, but the name is free.
serve_until_end(Keeper, {_, Result} = Outcome, Requests) ->
    Served = serve(Keeper, Outcome, Requests),
    case started(Result) =:= none andalso proctab_nif:kept(zone(Requests), Keeper) of
        undefined -> ended(Keeper, Served);
        _ -> Served
    end.

%% The child of a start that succeeded. A start function may return anything.
started({ok, Pid}) when is_pid(Pid) -> Pid;
started({ok, Pid, _}) when is_pid(Pid) -> Pid;
started(_) -> none.

%% @doc The child of a keeper has ended, and is not to be started again.
-spec settled(Keeper :: pid(), requests()) -> requests().
settled(Keeper, #requests{settled = Settled} = Requests) ->
    Requests#requests{settled = Settled#{Keeper => settled}}.

%% A keeper has removed its row.
ended(Keeper, #requests{ending = Ending, adopted = Adopted, settled = Settled} = Requests) ->
    Left = Requests#requests{
        ending = maps:remove(Keeper, Ending),
        settled = maps:remove(Keeper, Settled),
        adopted = maps:remove(Keeper, Adopted)
    },
    serve(Keeper, ended, Left).

serve(Keeper, _, #requests{waiting = Waiting} = Requests) when not is_map_key(Keeper, Waiting) ->
    Requests;
serve(Keeper, Outcome, Requests) ->
    {Waited, Others} = take_waiting(fun(_) -> true end, Keeper, Requests),
    Serve = fun(Waiting, Next) -> serve(Waiting, Keeper, Outcome, Next) end,
    {_, Served} = lists:foldl(Serve, {nobody, Others}, Waited),
    Served.

serve({Role, Request}, Keeper, Outcome, {Before, Requests}) ->
    case answer(Role, Request, Outcome) of
        {reply, Reply} -> reply(Request, Reply), {Before, Requests};
        again -> handle(Request, Before, Requests);
        wait -> {Keeper, add(Keeper, Role, Request, Requests)}
    end.

answer({after_death, Pid}, Request, {_, Result} = Outcome) ->
    case started(Result) of
        %% So late that the child is dead already. The next one is waited for.
        Pid -> wait;
        _ -> answer(waits, Request, Outcome)
    end;
answer({adds, Monitor}, #request{child = Child}, _) ->
    true = demonitor(Monitor, [flush]),
    {reply, {ok, Child}};
answer(_, #request{kind = forget}, ended) ->
    {reply, ok};
answer(_, #request{kind = look_up}, ended) ->
    {reply, ended};
answer(_, #request{kind = await_start}, _) ->
    {reply, ok};
answer(_, _, ended) ->
    again;
answer(after_end, _, _) ->
    wait;
answer(_, #request{kind = Kind}, _) when Kind =:= forget; Kind =:= look_up ->
    wait;
answer(_, #request{kind = Kind}, {killed, _}) when Kind =:= find_or_open; Kind =:= start_child ->
    {reply, {error, killed}};
answer(_, _, {killed, _}) ->
    again;
answer(_, #request{kind = find_or_open}, {launched, Result}) ->
    {reply, Result};
answer(starts, _, {launched, Result}) ->
    {reply, to_supervisor(Result)};
answer(_, #request{kind = Kind}, {launched, Result}) ->
    case started(Result) of
        none -> again;
        %% Even if it is dead by now: a child that dies as soon as it is started would never be
        %% found running.
        Pid -> {reply, running(Kind, Pid)}
    end.

%% As `supervisor:start_child/2' says it.
to_supervisor(ignore) ->
    {ok, undefined};
to_supervisor({error, Reason}) ->
    {error, Reason};
to_supervisor(Result) ->
    case started(Result) of
        none -> {error, Result};
        _ -> Result
    end.

%% @doc A keeper has ended for `Reason'. Its row, if it has left one, goes to another keeper.
-spec lost(Keeper :: pid(), Reason :: term(), requests()) -> requests().
lost(Keeper, Reason, #requests{context = Context, ending = Ending} = Requests) ->
    case proctab_nif:kept(zone(Requests), Keeper) of
        undefined ->
            ended(Keeper, Requests);
        _ ->
            New = gen_tracker_child:start(Context),
            case proctab_nif:change_keeper(zone(Requests), Keeper, New) of
                {ok, _} ->
                    Times = lately(Keeper, Requests),
                    #requests{adopted = Adopted, settled = Settled} = Requests,
                    IsSettled = is_map_key(Keeper, Settled),
                    gen_tracker_child:adopt(New, Context, Reason, Times, IsSettled),
                    Counted = Requests#requests{
                        adopted = (maps:remove(Keeper, Adopted))#{New => Times},
                        settled = maps:remove(Keeper, Settled)
                    },
                    Moved = move_waiting(Keeper, New, Counted),
                    case maps:take(Keeper, Ending) of
                        {asked, Others} ->
                            gen_tracker_child:stop(New, Context),
                            Moved#requests{ending = Others#{New => asked}};
                        error ->
                            Moved
                    end;
                undefined ->
                    gen_tracker_child:discard(New),
                    ended(Keeper, Requests)
            end
    end.

lately(Keeper, #requests{adopted = Adopted}) ->
    Now = erlang:monotonic_time(millisecond),
    [Now | [Time || Time <- maps:get(Keeper, Adopted, []), Now - Time < ?LATELY]].

move_waiting(Keeper, New, Requests) ->
    {Waited, Others} = take_waiting(fun(_) -> true end, Keeper, Requests),
    Move = fun({Role, Request}, Next) -> add(New, Role, Request, Next) end,
    lists:foldl(Move, Others, Waited).

%% Takes those of the requests that wait for a keeper that a fun selects, the earliest first.
take_waiting(Select, Keeper, #requests{waiting = Waiting} = Requests) ->
    {Taken, Left} = lists:partition(Select, maps:get(Keeper, Waiting, [])),
    Rest =
        case Left of
            [] -> maps:remove(Keeper, Waiting);
            _ -> Waiting#{Keeper => Left}
        end,
    Forget = fun({_, Request}, Next) -> forget_note(Request, Keeper, Next) end,
    {lists:reverse(Taken), lists:foldl(Forget, Requests#requests{waiting = Rest}, Taken)}.

%% @doc Answers all that wait, because the zone stops.
-spec end_all(requests()) -> ok.
end_all(#requests{waiting = Waiting}) ->
    All = [Request || {_, Request} <- lists:append(maps:values(Waiting))],
    lists:foreach(fun(Request) -> reply(Request, at_stop(Request)) end, All).

at_stop(#request{kind = await_start}) -> ok;
at_stop(#request{kind = look_up}) -> refused;
at_stop(_) -> {error, shutdown}.

reply(#request{from = From}, Reply) ->
    gen_server:reply(From, Reply).

zone(#requests{context = #{zone := Zone}}) ->
    Zone.
