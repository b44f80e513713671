%% @private
%% What is asked of a tracker about a name: who may have it, and who waits for what.
%%
%% A request is answered at once, or it waits for the keeper of the name's present holder: for the end of a start, or for the keeper's own end. Those who have waited for
%% the same keeper have the name one after the other, in the order in which they asked.
-module(gen_tracker_requests).

-export([new/2, handle/2, forget/3, launched/3, ended/2, lost/3, patience_ended/3]).

-export_type([requests/0, request/0]).

%% How long who registers a process waits for the start of another; the longest time that a caller waits for a start.
-define(PATIENCE, 60000).

-record(requests, {
    zone :: gen_tracker:zone(),
    restarts :: boolean(),
    %% The latest first.
    waiting = #{} :: #{Keeper :: pid() => [waiting()]}
}).

-opaque requests() :: #requests{}.
-type request() :: {find_or_open | start_child, gen_tracker:name(), gen_tracker_child:spec(), gen_server:from()}
                 | {add | register, gen_tracker:name(), gen_tracker_child:spec(), Child :: pid(), gen_server:from()}.
-type waiting() :: request()
                 %% The start_child whose child it is; the others find it started.
                 | {starting, gen_tracker:name(), gen_tracker_child:spec(), gen_server:from()}
                 %% An add or register, while the keeper is getting to know its child; till then the tracker has a monitor.
                 | {adding, gen_tracker:name(), Child :: pid(), reference(), gen_server:from()}
                 %% One that found this child dead, of which its keeper does not know yet.
                 | {after_death, pid(), request()}
                 | {forget, gen_server:from()}.

%% @doc No requests yet.
-spec new(gen_tracker:zone(), Restarts :: boolean()) -> requests().
new(Zone, Restarts) ->
    #requests{zone = Zone, restarts = Restarts}.

%% @doc Does what a request asks for, or lets it wait.
-spec handle(request(), requests()) -> requests().
handle(Request, Requests) ->
    {_, Handled} = handle(Request, nobody, Requests),
    Handled.

%% As soon as one of those who have waited for the same keeper waits again, the others wait with it, behind it. A start that fails at once may be over before the next
%% one is looked at, which would be served before its turn, and the start made again for it.
handle(Request, Before, Requests) when Before =/= nobody, element(1, Request) =/= add ->
    wait(Before, Request, Requests);
handle(Request, Before, #requests{zone = Zone} = Requests) ->
    case proctab_nif:child(Zone, element(2, Request)) of
        {State, _, _, _} when element(1, Request) =:= add, State =/= running, State =/= terminating ->
            reply(Request, {error, already_present}),
            {Before, Requests};
        _ when Before =/= nobody ->
            wait(Before, Request, Requests);
        undefined ->
            try
                take(Request, Requests)
            catch
                %% A spec may be so large that the table refuses it, and there may be no more processes.
                error:Reason when Reason =:= badarg; Reason =:= system_limit ->
                    reply(Request, {error, Reason}),
                    {nobody, Requests}
            end;
        {running, Pid, Keeper, _} ->
            case is_process_alive(Pid) of
                true ->
                    reply(Request, running(Request, Pid)),
                    {nobody, Requests};
                false ->
                    %% The keeper does not know yet. Who restarts a process that had a name comes just then.
                    wait(Keeper, {after_death, Pid, Request}, Requests)
            end;
        {pending, _, _, _} when element(1, Request) =:= start_child; element(1, Request) =:= register ->
            %% As a supervisor says of a child that it has not managed to restart.
            reply(Request, {error, already_present}),
            {nobody, Requests};
        {pending, _, Keeper, _} ->
            gen_tracker_child:retry(Keeper),
            wait(Keeper, Request, Requests);
        {_, _, Keeper, _} ->
            wait(Keeper, Request, Requests)
    end.

running({find_or_open, _, _, _}, Pid) -> {ok, Pid};
running(_, Pid) -> {error, {already_started, Pid}}.

%% Takes a free name.
take({Add, Name, Spec, Child, From}, #requests{restarts = Restarts} = Requests) when Add =:= add; Add =:= register ->
    Keeper = gen_tracker_child:start(Requests#requests.zone),
    %% Before it is in the table, where others find it and may end it.
    Monitor = gen_tracker_child:attach(Keeper, Name, Spec, Restarts, Child),
    try
        insert(Keeper, Name, Spec, Child, Requests)
    catch
        error:badarg:Stacktrace ->
            true = demonitor(Monitor, [flush]),
            erlang:raise(error, badarg, Stacktrace)
    end,
    gen_tracker_child:attached(Keeper),
    wait(Keeper, {adding, Name, Child, Monitor, From}, Requests);
take({start_child, Name, Spec, From}, Requests) ->
    take({starting, Name, Spec, From}, Requests);
take({_, Name, Spec, _} = Request, #requests{restarts = Restarts} = Requests) ->
    Keeper = gen_tracker_child:start(Requests#requests.zone),
    insert(Keeper, Name, Spec, launching, Requests),
    gen_tracker_child:launch(Keeper, Name, Spec, Restarts),
    wait(Keeper, Request, Requests).

insert(Keeper, Name, Spec, Child, #requests{zone = Zone}) ->
    try
        true = proctab_nif:insert(Zone, Name, Keeper, Spec, Child),
        ok
    catch
        error:badarg:Stacktrace ->
            gen_tracker_child:discard(Keeper),
            erlang:raise(error, badarg, Stacktrace)
    end.

%% @doc Has a child stopped and forgotten; answers when that is done.
-spec forget(gen_tracker:name(), gen_server:from(), requests()) -> requests().
forget(Name, From, #requests{zone = Zone} = Requests) ->
    case proctab_nif:child(Zone, Name) of
        undefined ->
            gen_server:reply(From, {error, no_child}),
            Requests;
        {_, _, Keeper, _} ->
            gen_tracker_child:stop(Keeper),
            {_, Waiting} = wait(Keeper, {forget, From}, Requests),
            Waiting
    end.

%%% Those who wait

wait(Keeper, Request, #requests{waiting = Waiting} = Requests) ->
    be_patient(Keeper, Request),
    Same = maps:get(Keeper, Waiting, []),
    {Keeper, Requests#requests{waiting = Waiting#{Keeper => [Request | Same]}}}.

%% The start may be waiting for just the process that is to be registered, or for the one that starts it.
be_patient(Keeper, {register, _, _, _, From}) ->
    _ = erlang:send_after(?PATIENCE, self(), {patience_ended, Keeper, From}),
    ok;
be_patient(Keeper, {after_death, _, Request}) ->
    be_patient(Keeper, Request);
be_patient(_, _) ->
    ok.

%% @doc Tells who still waits for this keeper's start that it has been too long. A cleanup waits for nobody, and who is gone is about to be heard of.
-spec patience_ended(Keeper :: pid(), gen_server:from(), requests()) -> requests().
patience_ended(Keeper, From, #requests{zone = Zone, waiting = Waiting} = Requests) ->
    {Its, Others} = lists:partition(fun(Request) -> from(Request) =:= From end, maps:get(Keeper, Waiting, [])),
    case Its of
        [] ->
            Requests;
        [Request | _] ->
            case proctab_nif:child(Zone, name(Request)) of
                {terminating, _, Keeper, _} ->
                    be_patient(Keeper, Request),
                    Requests;
                {_, _, Keeper, _} ->
                    reply(Request, {error, already_present}),
                    Requests#requests{waiting = Waiting#{Keeper := Others}};
                _ ->
                    Requests
            end
    end.

%% @doc A keeper has come to the end of a start.
-spec launched(Keeper :: pid(), gen_tracker_child:result(), requests()) -> requests().
launched(Keeper, Result, Requests) ->
    serve(Keeper, Result, Requests).

%% @doc A keeper is gone, and its child with it.
-spec ended(Keeper :: pid(), requests()) -> requests().
ended(Keeper, Requests) ->
    serve(Keeper, ended, Requests).

serve(Keeper, Outcome, Requests) ->
    {Waited, Others} = take_waiting(Keeper, Requests),
    {_, Served} = lists:foldl(fun(Request, Next) -> serve(Request, Keeper, Outcome, Next) end, {nobody, Others}, Waited),
    Served.

serve(Request, Keeper, Outcome, {Before, Requests}) ->
    case answer(Request, Outcome) of
        {reply, Reply} ->
            reply(Request, Reply),
            {Before, Requests};
        {again, Again} ->
            handle(Again, Before, Requests);
        wait ->
            wait(Keeper, Request, Requests)
    end.

answer({after_death, Pid, _}, Result) when element(1, Result) =:= ok, element(2, Result) =:= Pid ->
    %% So late that the child is dead already. It is the next one that is waited for.
    wait;
answer({after_death, _, Request}, Outcome) ->
    answer(Request, Outcome);
answer({adding, _, Child, Monitor, _}, _) ->
    true = demonitor(Monitor, [flush]),
    {reply, {ok, Child}};
answer({forget, _}, ended) ->
    {reply, ok};
answer({forget, _}, _) ->
    wait;
answer(Request, ended) ->
    {again, Request};
answer({find_or_open, _, _, _}, Result) ->
    {reply, Result};
answer({starting, _, _, _}, ignore) ->
    {reply, {ok, undefined}};
answer({starting, _, _, _}, Result) ->
    {reply, Result};
answer(Request, Result) when element(1, Result) =:= ok ->
    %% Even if it is dead by now: a child that dies as soon as it is started would never be found running.
    {reply, running(Request, element(2, Result))};
answer(Request, _) ->
    {again, Request}.

%% @doc A keeper was killed, and has left its child to us.
-spec lost(Keeper :: pid(), Reason :: term(), requests()) -> requests().
lost(Keeper, Reason, #requests{zone = Zone, restarts = Restarts} = Requests) ->
    New = gen_tracker_child:start(Zone),
    case proctab_nif:change_keeper(Zone, Keeper, New) of
        {ok, Name} ->
            gen_tracker_child:adopt(New, Name, Restarts, Reason),
            {Waited, Others} = take_waiting(Keeper, Requests),
            _ = [gen_tracker_child:stop(New) || {forget, _} <- Waited],
            lists:foldl(fun(Request, Before) -> element(2, wait(New, Request, Before)) end, Others, Waited);
        undefined ->
            %% It was no keeper, or it had cleaned up already.
            gen_tracker_child:discard(New),
            ended(Keeper, Requests)
    end.

take_waiting(Keeper, #requests{waiting = Waiting} = Requests) ->
    case maps:take(Keeper, Waiting) of
        {Waited, Others} -> {lists:reverse(Waited), Requests#requests{waiting = Others}};
        error -> {[], Requests}
    end.

reply(Request, Reply) ->
    gen_server:reply(from(Request), Reply).

name({after_death, _, Request}) -> name(Request);
name(Request) -> element(2, Request).

from({after_death, _, Request}) -> from(Request);
from(Request) -> element(tuple_size(Request), Request).
