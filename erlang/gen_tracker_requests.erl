%% @private
%% The requests of a tracker's callers for names that are held: which request waits for what. A
%% caller that finds a name free opens the child without the tracker, see `gen_tracker_opening'.
%%
%% A request is answered at once, or it waits for the keeper that holds the name: for the end of a
%% start, or for the end of the keeper. Requests that waited for the same keeper get the name in the
%% order in which they came.
%%
%% A request may come from a start function or an `after_terminate' of the same zone. A request that
%% would close a cycle of waits is refused (`gen_tracker_waits').
%%
%% In a zone on several nodes, the decision that this member may start a name is not valid any more
%% after a wait. The requests `open_home', `add_home' and `add_free' claim no name after they have
%% waited, the requests `open_held' and `add_held' none at all. They are answered
%% `$gen_tracker_undecided' instead.
-module(gen_tracker_requests).

-export([new/2, request/6, handle/2, end_all/1]).
-export([mark/2, launched/3, pending/3, settled/2, lost/3, register_timeout/3, abandon/2]).
-export([expire/1]).
-export([start_registrar/3, registrar_opened/3, unregister/2, registered_ended/3]).
-export([give_keeper/3]).

-export_type([requests/0, request/0, kind/0]).

-include("gen_tracker_answers.hrl").

%% Timeout of `register_name/2' while another child of that name starts, in milliseconds.
-define(REGISTER_TIMEOUT, 60000).
%% After how long the caller of a `find_or_open' or `join' has given up, and how often such requests
%% are removed, in milliseconds.
-define(OPEN_TIMEOUT, 61000).
-define(EXPIRY_INTERVAL, 1000).
%% How long the end of a keeper counts as a restart of its child, in milliseconds.
-define(PERIOD, 10000).
%% The kinds that give a name to a process that runs already, and of these the ones of names for
%% OTP; those of callbacks that wait for an attribute or for a child.
-define(IS_ADD(Kind), (Kind =:= add orelse ?IS_REGISTER(Kind))).
-define(IS_REGISTER(Kind), (Kind =:= register orelse Kind =:= re_register)).
-define(IS_LOOK_UP(Kind), (Kind =:= look_up orelse Kind =:= await_child)).

-record(request, {
    kind :: kind(),
    name :: gen_tracker:name() | undefined,
    spec :: gen_tracker_spec:spec() | undefined,
    %% The process to be added, or the keeper whose start the caller of a `join' or an
    %% `await_start' waits for.
    child :: pid() | undefined,
    from :: gen_server:from(),
    %% The calling process and the head of its `$ancestors', if they are of this node.
    callers :: [pid()],
    %% The keeper that waits while this request waits.
    asker = none :: pid() | none,
    %% Whether the request may claim a free name: also after a wait; only before it; only before it,
    %% and if this member is the home of the name; or not at all.
    claims = always :: always | first | home | never,
    %% Whether the caller gives up after ?OPEN_TIMEOUT, and when it has, once the request waits.
    expires = no :: no | yes | (Milliseconds :: integer()),
    %% Of a `look_up' or `await_child': nothing else ends its wait if its caller is killed.
    caller_monitor :: reference() | undefined
}).

-record(requests, {
    context :: gen_tracker_keeper:context(),
    %% The requests that wait for keepers, each with its role.
    queues :: gen_tracker_queues:queues(),
    %% The last marks that the tracker has sent to itself, and received.
    sent = 0 :: non_neg_integer(),
    received = 0 :: non_neg_integer(),
    %% Whether the tracker will be told to remove the requests that have expired.
    is_expiring = false :: boolean(),
    waits = gen_tracker_waits:new() :: gen_tracker_waits:waits(),
    %% The requests of callbacks that look up a name without a child.
    looking = #{} :: #{gen_server:from() => {Number :: pos_integer(), #request{}}},
    %% The keepers that were told to stop their child.
    stopping = #{} :: #{Keeper :: pid() => told},
    %% When earlier keepers of the same row ended within the last ?PERIOD, latest first.
    adopted = #{} :: #{Keeper :: pid() => [Milliseconds :: integer()]},
    %% The keepers whose transient child ended normally.
    settled = #{} :: #{Keeper :: pid() => settled},
    %% The timers of the keepers that wait to retry a restart.
    pending = #{} :: #{Keeper :: pid() => Timer :: reference()},
    registrars :: gen_tracker_registrars:registrars()
}).

-opaque requests() :: #requests{}.
-opaque request() :: #request{}.
-type kind() ::
    find_or_open | join | start_child | add | register | re_register | forget | look_up
    | await_child | await_start.

-type role() ::
        %% Waits for the keeper's next answer, and is answered or handled again then.
        waits
        %% The `start_child' that started the child. All other requests find it already started.
      | starts
        %% The `find_or_open' that started the child, of a caller that waits for the keeper as well.
      | joins
        %% An `add', `register' or `re_register' whose keeper attaches its child. The tracker has
        %% this monitor meanwhile.
      | {adds, reference()}
        %% Found this child dead before the keeper did.
      | {after_death, pid()}
        %% Found that the child has ended, and sent this mark to the tracker itself. Until that has
        %% received it, it may still receive what the keeper told of that child's start.
      | {late, Mark :: pos_integer()}
        %% Came after another request had asked for the end of the child.
      | after_end.

%% @doc Returns a set of requests without any.
-spec new(gen_tracker_keeper:context(), proctab_nif:handle()) -> requests().
new(Context, Handle) ->
    #requests{
        context = Context,
        queues = gen_tracker_queues:new(Context),
        registrars = gen_tracker_registrars:new(Context, Handle)
    }.

%% @doc Returns a request. `Callers' are the calling process and the head of its `$ancestors', those
%% of them that are processes of this node.
%%
%% An `open' is a `find_or_open' whose caller gives up. An `open_home' is an `open', and an
%% `add_home' an `add', that claims the name only if that is free now, and this member is its home;
%% an `add_free' is an `add' that claims the name if that is free now; an `open_held' and an
%% `add_held' claim no name.
-spec request(kind() | open | open_home | open_held | add_home | add_free | add_held,
              gen_tracker:name(), gen_tracker_spec:spec() | undefined, Child :: pid() | undefined,
              gen_server:from(), Callers :: [pid()]) -> request().
request(open, Name, Spec, Child, From, Callers) ->
    Request = request(find_or_open, Name, Spec, Child, From, Callers),
    Request#request{expires = yes};
request(open_home, Name, Spec, Child, From, Callers) ->
    (request(open, Name, Spec, Child, From, Callers))#request{claims = home};
request(open_held, Name, Spec, Child, From, Callers) ->
    (request(open, Name, Spec, Child, From, Callers))#request{claims = never};
request(add_home, Name, Spec, Child, From, Callers) ->
    (request(add, Name, Spec, Child, From, Callers))#request{claims = home};
request(add_free, Name, Spec, Child, From, Callers) ->
    (request(add, Name, Spec, Child, From, Callers))#request{claims = first};
request(add_held, Name, Spec, Child, From, Callers) ->
    (request(add, Name, Spec, Child, From, Callers))#request{claims = never};
request(Kind, Name, Spec, Child, From, Callers) ->
    #request{
        kind = Kind,
        name = Name,
        spec = Spec,
        child = Child,
        from = From,
        callers = Callers,
        expires = expires(Kind)
    }.

expires(join) -> yes;
expires(_) -> no.

%% @doc Carries out a request, or queues it.
-spec handle(request(), requests()) -> requests().
handle(#request{kind = forget} = Request, Requests) ->
    forget(Request, Requests);
handle(#request{kind = Kind} = Request, Requests) when ?IS_LOOK_UP(Kind) ->
    look_up(Request, Requests);
handle(#request{kind = await_start} = Request, Requests) ->
    await_start(Request, Requests);
handle(#request{kind = join} = Request, Requests) ->
    join(Request, Requests);
handle(Request, Requests) ->
    {_, Handled} = handle(Request, nobody, Requests),
    Handled.

%% `Before' is the keeper that an earlier request of the same queue waits for again, or `nobody'.
%% Later requests of that queue wait behind it: otherwise, if the start of the earlier one failed
%% at once, a later one could be served before its turn, and the start would be made twice.
handle(#request{kind = Kind} = Request, Before, Requests) when Before =/= nobody, Kind =/= add ->
    wait(Before, waits, Request, Requests);
handle(#request{kind = Kind, name = Name} = Request, Before, Requests) ->
    case proctab_nif:await_start(zone(Requests), Name) of
        {State, _, _, _} when Kind =:= add, State =/= running, State =/= terminating ->
            reply(Request, {error, already_present}),
            {Before, Requests};
        _ when Before =/= nobody ->
            wait(Before, waits, Request, Requests);
        undefined when Request#request.claims =:= never ->
            reply(Request, ?UNDECIDED),
            {nobody, Requests};
        undefined ->
            try_claim(fun take/2, Request, Requests);
        {running, Pid, Keeper, Spec} ->
            case gen_tracker_keeper:is_alive(Pid) of
                true when Kind =:= re_register ->
                    re_register(Pid, Keeper, Spec, Request, Requests);
                true ->
                    reply(Request, running(Kind, Pid)),
                    {nobody, Requests};
                false ->
                    %% The keeper has not received the DOWN message yet. A caller that replaces a
                    %% process as soon as it dies comes at just this moment.
                    {Own, Taking} = own_keeper(Name, Pid, Keeper, Requests),
                    wait(Own, {after_death, Pid}, Request, Taking)
            end;
        {pending, _, _, _} when Kind =/= find_or_open ->
            %% OTP's answer for a child that could not be restarted.
            reply(Request, {error, already_present}),
            {nobody, Requests};
        {pending, _, Keeper, _} when is_map_key(Keeper, Requests#requests.pending) ->
            retry(Keeper, Request, Requests);
        {pending, _, Keeper, _} ->
            %% The keeper's next message is the result of the last attempt, or that it waits.
            wait(Keeper, waits, Request, Requests);
        {launching, Pid, Keeper, _} ->
            {Own, Taking} = own_keeper(Name, Pid, Keeper, Requests),
            wait(Own, waits, Request, Taking);
        {_, Pid, Keeper, _} ->
            {Own, Taking} = own_keeper(Name, Pid, Keeper, Requests),
            {Mark, Marked} = send_mark(Taking),
            wait(Own, {late, Mark}, Request, Marked)
    end.

send_mark(#requests{context = #{tag := Tag}, sent = Sent} = Requests) ->
    Mark = Sent + 1,
    self() ! {Tag, mark, Mark},
    {Mark, Requests#requests{sent = Mark}}.

%% @doc Notes that the tracker has received all messages that it had when it sent itself this mark.
-spec mark(Mark :: pos_integer(), requests()) -> requests().
mark(Mark, Requests) ->
    Requests#requests{received = Mark}.

running(find_or_open, Pid) -> {ok, Pid};
running(_, Pid) -> {error, {already_started, Pid}}.

retry(Keeper, #request{spec = Spec} = Request, #requests{stopping = Stopping} = Requests) ->
    #requests{context = Context, pending = #{Keeper := Timer}} = Requests,
    case wait(Keeper, waits, Request, Requests) of
        {Keeper, Waiting} when not is_map_key(Keeper, Stopping) ->
            gen_tracker_keeper:retry(Keeper, Context, Timer, Spec),
            {Keeper, Waiting};
        Other ->
            Other
    end.

try_claim(Claim, Request, Requests) ->
    try
        Claim(Request, Requests)
    catch
        %% The spec is too large for the table, or the VM has no free process.
        error:Reason when Reason =:= badarg; Reason =:= system_limit ->
            reply(Request, {error, Reason}),
            {nobody, Requests}
    end.

%% Inserts a child under a name that was free. A keeper that a caller has spawned may have claimed
%% the name meanwhile.
take(#request{kind = Kind} = Request, Requests) when ?IS_ADD(Kind) ->
    attach(fun(Keeper) -> insert(Keeper, Request, Requests) end, Request, Requests);
take(#request{kind = Kind, spec = Spec} = Request, #requests{context = Context} = Requests) ->
    Keeper = gen_tracker_keeper:start(Context),
    case insert(Keeper, Request, Requests) of
        true ->
            gen_tracker_keeper:launch(Keeper, Context, Spec),
            Role =
                case Kind of
                    start_child -> starts;
                    find_or_open -> waits
                end,
            wait(Keeper, Role, Request, Requests);
        Refused ->
            refused(Refused, Request, Requests)
    end.

%% Starts a keeper for a process that runs already, and claims the name for it.
attach(Claim, #request{child = Child} = Request, #requests{context = Context} = Requests) ->
    Keeper = gen_tracker_keeper:start(Context),
    %% Before the claim: from then on, others find the child and may end it.
    Monitor = gen_tracker_keeper:attach(Keeper, Context, Child),
    try claim(Claim, Keeper, Request) of
        true ->
            gen_tracker_keeper:attached(Keeper, Context),
            wait(Keeper, {adds, Monitor}, Request, Requests);
        Refused ->
            true = demonitor(Monitor, [flush]),
            refused(Refused, Request, Requests)
    catch
        error:badarg:Stacktrace ->
            true = demonitor(Monitor, [flush]),
            erlang:raise(error, badarg, Stacktrace)
    end.

%% The name is not handed over to a dead process. The tracker monitors the process by now, so that
%% the exit reason of one that is alive will be known.
claim(Claim, Keeper, #request{kind = re_register, child = Child}) ->
    case gen_tracker_keeper:is_alive(Child) of
        true ->
            Claim(Keeper);
        false ->
            gen_tracker_keeper:discard(Keeper),
            dead
    end;
claim(Claim, Keeper, _) ->
    Claim(Keeper).

refused(false, Request, Requests) ->
    handle(Request, nobody, Requests);
refused(dead, Request, Requests) ->
    reply(Request, {error, noproc}),
    {nobody, Requests};
refused(full, Request, Requests) ->
    reply(Request, {error, max_children}),
    {nobody, Requests};
refused(stopping, Request, Requests) ->
    reply(Request, {error, shutdown}),
    {nobody, Requests};
refused(not_home, Request, Requests) ->
    reply(Request, ?UNDECIDED),
    {nobody, Requests}.

%% Gives the name of a running child to another process, unless the child has a start function. The
%% keeper of the first child is told by the table that it has lost the name, and ends.
re_register(Pid, _, _, #request{child = Pid} = Request, Requests) ->
    reply(Request, {ok, Pid}),
    {nobody, Requests};
re_register(_, Keeper, {undefined, _, _, _, _}, Request, #requests{stopping = Stopping} = Requests)
        when is_map_key(Keeper, Stopping) ->
    wait(Keeper, waits, Request, Requests);
re_register(Pid, Keeper, {undefined, _, _, _, _}, Request, Requests) ->
    case own_keeper(Request#request.name, Pid, Keeper, Requests) of
        {Keeper, _} -> take_name(Pid, Keeper, Request, Requests);
        {Own, Taking} -> wait(Own, waits, Request, Taking)
    end;
re_register(Pid, _, _, Request, Requests) ->
    reply(Request, {error, {already_started, Pid}}),
    {nobody, Requests}.

take_name(Pid, Keeper, Request, Requests) ->
    HandOver = fun(New) -> hand_over(Pid, Keeper, New, Request, Requests) end,
    try_claim(fun(Taken, Others) -> attach(HandOver, Taken, Others) end, Request, Requests).

%% Ends the new keeper if it does not get the name: the other one was faster to notice the death of
%% the child, or the zone is marked as stopping.
hand_over(Pid, Keeper, New, #request{name = Name, child = Child}, Requests) ->
    Zone = zone(Requests),
    case proctab_nif:hand_over(Zone, Name, Keeper, New, Child) of
        true ->
            gen_tracker_registrars:forget(Name, Pid, Requests#requests.registrars),
            Context = Requests#requests.context,
            gen_tracker_telemetry:child(Context, {down, re_registered}, Name, Pid),
            gen_tracker_telemetry:child(Context, up, Name, Child),
            true;
        false ->
            gen_tracker_keeper:discard(New),
            case proctab_nif:child(Zone, Name) of
                {running, Pid, Keeper, _} -> stopping;
                _ -> false
            end
    end.

%% Ends the keeper if it does not get the name.
insert(Keeper, #request{name = Name, spec = Spec, child = Child} = Request, Requests) ->
    try
        Stored = gen_tracker_spec:stored(Spec),
        %% Refuses start arguments that are too large, although they are not stored.
        _ = Stored =:= Spec orelse proctab_nif:find(zone(Requests), Spec),
        Inserted = proctab_nif:insert(zone(Requests), Name, Keeper, Stored, inserted(Request)),
        _ = Inserted =:= true orelse gen_tracker_keeper:discard(Keeper),
        _ = Inserted =:= true andalso is_pid(Child) andalso
            gen_tracker_telemetry:child(Requests#requests.context, up, Name, Child),
        Inserted
    catch
        error:badarg:Stacktrace ->
            gen_tracker_keeper:discard(Keeper),
            erlang:raise(error, badarg, Stacktrace)
    end.

%% Returns what the table is told of the child: that it is to be started, or its pid.
inserted(#request{claims = home, child = undefined}) -> home;
inserted(#request{claims = home, child = Child}) -> {home, Child};
inserted(#request{child = undefined}) -> launching;
inserted(#request{child = Child}) -> Child.

%% Stops a child and removes its row. The caller is answered after that.
forget(#request{name = Name} = Request, Requests) ->
    case proctab_nif:child(zone(Requests), Name) of
        undefined ->
            reply(Request, {error, no_child}),
            Requests;
        {_, Pid, Kept, Spec} ->
            try own_keeper(Name, Pid, Kept, Requests) of
                {Keeper, Taking} -> forget(Keeper, Spec, Request, Taking)
            catch
                error:system_limit -> end_registered(Pid, Kept, Request, Requests)
            end
    end.

forget(Keeper, {_, _, Shutdown, _, _}, #request{name = Name} = Request, Requests) ->
    case wait(Keeper, waits, Request, Requests) of
        {nobody, Refused} -> Refused;
        {Keeper, Waiting} -> stop(Keeper, Name, Shutdown, Waiting)
    end.

%% The mark in the table counts: a start function may flush the keeper's messages.
stop(Keeper, Name, Shutdown, #requests{context = Context, stopping = Stopping} = Requests) ->
    case proctab_nif:stop(zone(Requests), Name, Keeper) of
        State when State =:= launching; State =:= restarting ->
            limit(start, Keeper, gen_tracker_spec:start_timeout(Shutdown), Requests);
        terminating ->
            limit(cleanup, Keeper, gen_tracker_spec:cleanup_timeout(Shutdown), Requests);
        _ -> ok
    end,
    gen_tracker_keeper:stop(Keeper, Context),
    Requests#requests{stopping = Stopping#{Keeper => told}}.

limit(What, Keeper, Time, Requests) ->
    _ = after_time(Time, {overtime, Keeper, What}, Requests),
    ok.

after_time(Time, Message, #requests{context = #{tag := Tag}}) ->
    erlang:send_after(Time, self(), erlang:insert_element(1, Message, Tag)).

%% A start function or an `after_terminate' waits for an attribute of a name, or for its child. The
%% table wakes it; the tracker decides whether it may wait. A start function may wait for an
%% attribute that its own child sets.
look_up(#request{kind = Kind, name = Name} = Request, Requests) ->
    case {proctab_nif:child(zone(Requests), Name), asker(Request, Requests)} of
        {{_, _, Keeper, _}, {Keeper, starting}} when Kind =:= look_up ->
            Requests;
        {{_, Pid, Kept, _}, {_, _}} ->
            try own_keeper(Name, Pid, Kept, Requests) of
                {Keeper, Taking} ->
                    {_, Waiting} = wait(Keeper, waits, monitored(Request, Taking), Taking),
                    Waiting
            catch
                %% An answer would make the caller ask again at once.
                error:system_limit -> Requests
            end;
        {undefined, {Asker, _}} ->
            look_up_free(by({Asker, waiting}, monitored(Request, Requests)), Requests);
        {_, none} ->
            Requests
    end.

%% Nobody is to be waited for yet. A later request of the next keeper of that name, which would wait
%% for this one, closes a cycle.
look_up_free(#request{name = Name, from = From} = Request, Requests) ->
    #requests{looking = Looking, queues = Queues} = Requests,
    {Number, Numbered} = gen_tracker_queues:number(Queues),
    Added = Requests#requests{looking = Looking#{From => {Number, Request}}, queues = Numbered},
    add_wait(Request, {{name, Name}, Number}, Added).

%% The `DOWN' message is `{{Tag, looking, From}, Monitor, process, Caller, Reason}'.
monitored(#request{from = From} = Request, #requests{context = #{tag := Tag}}) ->
    Monitor = monitor(process, element(1, From), [{tag, {Tag, looking, From}}]),
    Request#request{caller_monitor = Monitor}.

%% @doc Removes such a request, whose caller has stopped waiting or was killed. Only the caller and
%% the tracker know `From'.
-spec abandon(gen_server:from(), requests()) -> requests().
abandon(From, #requests{looking = Looking} = Requests) when is_map_key(From, Looking) ->
    {{Number, Request}, Others} = maps:take(From, Looking),
    demonitor_caller(Request),
    remove_wait(Request, Number, Requests#requests{looking = Others});
abandon(From, Requests) ->
    case find_waiting(From, Requests) of
        {_, Number, #request{kind = Kind} = Request} when ?IS_LOOK_UP(Kind) ->
            demonitor_caller(Request),
            remove_waiting(Number, Request, Requests);
        _ ->
            Requests
    end.

%% A child has acknowledged its start and waits until it is registered.
await_start(#request{child = Keeper} = Request, Requests) ->
    case is_starting(Keeper, Requests) of
        true ->
            {_, Waiting} = wait(Keeper, waits, Request, Requests),
            Waiting;
        false ->
            reply(Request, ok),
            Requests
    end.

%% The caller has spawned the keeper itself, and waits for its start. If that keeper is dead, which
%% is `undefined' here, another one adopts the row: with the child, or to give the start up.
join(#request{child = Keeper, name = Name} = Request, Requests) ->
    case proctab_nif:await_start(zone(Requests), Name) of
        {launching, _, Holder, _} when Holder =:= Keeper; Keeper =:= undefined ->
            {_, Waiting} = wait(Holder, joins, Request, Requests),
            Waiting;
        {running, Pid, _, _} when Keeper =:= undefined ->
            reply(Request, {ok, Pid}),
            Requests;
        _ ->
            reply(Request, gone),
            Requests
    end.

%% From here on the keeper tells the tracker of the end of its start.
is_starting(Keeper, Requests) ->
    case proctab_nif:kept(zone(Requests), Keeper) of
        {Name, _, _, _} ->
            case proctab_nif:await_start(zone(Requests), Name) of
                {State, _, Keeper, _} -> State =:= launching orelse State =:= restarting;
                _ -> false
            end;
        undefined ->
            false
    end.

%%% Registered processes

%% Returns the keeper that a request for this child waits for. A child of a registrar gets a keeper
%% of its own.
own_keeper(Name, Pid, Keeper, #requests{registrars = Registrars} = Requests) ->
    {Own, Taking} = gen_tracker_registrars:own_keeper({Name, Pid}, Keeper, Registrars),
    {Own, Requests#requests{registrars = Taking}}.

%% @doc Gives a registered process a keeper of its own, which acts when the process has lost a
%% conflict. Does nothing if it has one, or the VM has no free process: the cluster process asks
%% again.
-spec give_keeper(gen_tracker:name(), pid(), requests()) -> requests().
give_keeper(Name, Pid, Requests) ->
    case proctab_nif:child(zone(Requests), Name) of
        {running, Pid, Keeper, _} ->
            try
                element(2, own_keeper(Name, Pid, Keeper, Requests))
            catch
                error:system_limit -> Requests
            end;
        _ ->
            Requests
    end.

%% The VM has no free process for a keeper.
end_registered(Pid, Registrar, #request{name = Name, from = From} = Request, Requests) ->
    #requests{registrars = Registrars} = Requests,
    Ending = gen_tracker_registrars:end_child({Name, Pid}, Registrar, From, Request, Registrars),
    Requests#requests{registrars = Ending}.

%% @doc Notes that a registrar has ended a child, or that the request has to be handled again.
-spec registered_ended(gen_server:from(), ok | again, requests()) -> requests().
registered_ended(From, Result, #requests{registrars = Registrars} = Requests) ->
    case gen_tracker_registrars:ended(From, Registrars) of
        {Request, Others} when Result =:= ok ->
            reply(Request, ok),
            Requests#requests{registrars = Others};
        {Request, Others} ->
            handle(Request, Requests#requests{registrars = Others});
        error ->
            Requests
    end.

%% A keeper has taken its row over, or has ended.
took_over(Keeper, #requests{registrars = Registrars} = Requests) ->
    Requests#requests{registrars = gen_tracker_registrars:took_over(Keeper, Registrars)}.

%% @doc Starts the registrar at a position, if there is none. It answers the caller.
-spec start_registrar(0..7, gen_server:from(), requests()) -> requests().
start_registrar(Position, From, #requests{registrars = Registrars} = Requests) ->
    Requests#requests{registrars = gen_tracker_registrars:start(Position, From, Registrars)}.

%% @doc Notes that a registrar is open, and has adopted the rows of these, which were killed.
-spec registrar_opened(pid(), Before :: [pid()], requests()) -> requests().
registrar_opened(Registrar, Before, #requests{registrars = Registrars} = Requests) ->
    Requests#requests{registrars = gen_tracker_registrars:opened(Registrar, Before, Registrars)}.

%% @doc Unregisters a child without a start function. Returns the registrar that has to do it, if
%% one has.
-spec unregister(gen_tracker:name(), requests()) -> ok | {ask, Registrar :: pid()}.
unregister(Name, #requests{registrars = Registrars}) ->
    gen_tracker_registrars:unregister(Name, Registrars).

%%% The queues

%% Queues a request. Returns the keeper that it waits for, or `nobody' when it was refused.
wait(Keeper, Role, Request, Requests) ->
    Asker = asker(Request, Requests),
    case gen_tracker_waits:closes_cycle(Asker, Keeper, zone(Requests), Requests#requests.waits) of
        true ->
            {_, Doing} = Asker,
            reply(Request, refusal(Request, Doing)),
            {nobody, Requests};
        false ->
            Limited = limited(Keeper, claiming_no_more(Request), Requests),
            Expiring = expiring(Limited, Requests),
            {Keeper, add(Keeper, role(Keeper, Role, Requests), by(Asker, Limited), Expiring)}
    end.

claiming_no_more(#request{claims = Claims} = Request) when Claims =:= first; Claims =:= home ->
    Request#request{claims = never};
claiming_no_more(Request) -> Request.

refusal(#request{kind = Kind}, _) when ?IS_LOOK_UP(Kind) -> refused;
refusal(_, Doing) -> {error, Doing}.

-spec role(Keeper :: pid(), role(), requests()) -> role().
role(Keeper, waits, #requests{stopping = Stopping}) when is_map_key(Keeper, Stopping) -> after_end;
role(Keeper, {late, _}, #requests{stopping = Stopping}) when is_map_key(Keeper, Stopping) ->
    after_end;
role(_, Role, _) -> Role.

add(Keeper, Role, Request, #requests{queues = Queues} = Requests) ->
    {Number, Added} = gen_tracker_queues:add(Keeper, key(Request), {Role, Request}, Queues),
    add_wait(Request, {Keeper, Number}, Requests#requests{queues = Added}).

%% Returns the key of a request that may end its wait by itself.
key(#request{kind = Kind, from = From}) when ?IS_REGISTER(Kind); ?IS_LOOK_UP(Kind) ->
    From;
key(_) ->
    none.

by(none, Request) -> Request#request{asker = none};
by({Asker, _}, Request) -> Request#request{asker = Asker}.

%% The keeper whose callback made a request, and what that keeper is doing.
asker(#request{kind = await_start}, _) -> none;
asker(#request{callers = Callers}, Requests) -> gen_tracker_waits:asker(Callers, zone(Requests)).

add_wait(#request{asker = Asker, from = {Caller, _}}, {Waited, Number}, Requests) ->
    #requests{waits = Waits} = Requests,
    Requests#requests{waits = gen_tracker_waits:add(Asker, Number, {Waited, Caller}, Waits)}.

remove_wait(#request{asker = Asker}, Number, #requests{waits = Waits} = Requests) ->
    Requests#requests{waits = gen_tracker_waits:remove(Asker, Number, Waits)}.

%% Limits a wait. That of a `register' or `re_register' has a timer, since its caller is answered:
%% the start that it waits for may itself be waiting for the process to be registered, or for the
%% process that starts that one.
limited(Keeper, #request{kind = Kind} = Request, Requests) when ?IS_REGISTER(Kind) ->
    start_timer(Keeper, Request, Requests),
    Request;
limited(_, #request{expires = yes} = Request, _) ->
    Request#request{expires = erlang:monotonic_time(millisecond) + ?OPEN_TIMEOUT};
limited(_, Request, _) ->
    Request.

start_timer(Keeper, #request{from = From}, Requests) ->
    _ = after_time(?REGISTER_TIMEOUT, {register_timeout, Keeper, From}, Requests),
    ok.

expiring(#request{expires = Time}, #requests{is_expiring = false} = Requests)
        when is_integer(Time) ->
    _ = after_time(?EXPIRY_INTERVAL, {expire}, Requests),
    Requests#requests{is_expiring = true};
expiring(_, Requests) ->
    Requests.

%% @doc Removes the waiting requests whose callers have given up: a start may hang for ever, and
%% callers try again.
-spec expire(requests()) -> requests().
expire(#requests{queues = Queues} = Before) ->
    Now = erlang:monotonic_time(millisecond),
    HasExpired = fun({_, #request{expires = Time}}) -> is_integer(Time) andalso Time =< Now end,
    {Expired, Left} = gen_tracker_queues:remove_all(HasExpired, Queues),
    Requests = remove_waits(Expired, Before#requests{queues = Left, is_expiring = false}),
    Waiting = [Request || {_, Request} <- gen_tracker_queues:elements(Left)],
    lists:foldl(fun expiring/2, Requests, Waiting).

%% @doc Ends the wait of a `register' or `re_register' for the start of this keeper's child, if it
%% still waits. Waiting for a cleanup has no limit. If the keeper is gone, its `DOWN' message will
%% answer the caller.
-spec register_timeout(Keeper :: pid(), gen_server:from(), requests()) -> requests().
register_timeout(Keeper, From, Requests) ->
    case find_waiting(From, Requests) of
        {Keeper, Number, #request{name = Name} = Request} ->
            case proctab_nif:child(zone(Requests), Name) of
                {terminating, _, Keeper, _} ->
                    start_timer(Keeper, Request, Requests),
                    Requests;
                {_, _, Keeper, _} ->
                    reply(Request, {error, already_present}),
                    remove_waiting(Number, Request, Requests);
                _ ->
                    Requests
            end;
        _ ->
            Requests
    end.

%% @doc Handles the result of a keeper's start. If a request has asked for the end of the child
%% meanwhile, the answer is `killed' whatever the result is.
-spec launched(Keeper :: pid(), gen_tracker_keeper:result(), requests()) -> requests().
launched(Keeper, Result, #requests{stopping = Stopping, pending = Pending} = Before) ->
    Requests = took_over(Keeper, Before#requests{pending = maps:remove(Keeper, Pending)}),
    Outcome =
        case is_map_key(Keeper, Stopping) of
            true -> {killed, Result};
            false -> {launched, Result}
        end,
    serve_until_end(Keeper, Outcome, Requests).

%% After a failed start the keeper may live on for some time, but the name is free.
serve_until_end(Keeper, {_, Result} = Outcome, Requests) ->
    Served = serve(Keeper, Outcome, Requests),
    case started(Result) =:= none andalso proctab_nif:kept(zone(Requests), Keeper) of
        undefined -> ended(Keeper, Served);
        _ -> Served
    end.

%% The child of a successful start, or `none'. A start function may return any term.
started({ok, Pid}) when is_pid(Pid) -> Pid;
started({ok, Pid, _}) when is_pid(Pid) -> Pid;
started(_) -> none.

%% @doc Notes that a keeper waits until this timer expires to retry a failed restart, and has it
%% retry at once if a `find_or_open' has come since that restart failed.
-spec pending(Keeper :: pid(), Timer :: reference(), requests()) -> requests().
pending(Keeper, Timer, #requests{pending = Pending} = Requests) ->
    Again = fun
        ({waits, #request{kind = find_or_open} = Request}, {Before, Next}) ->
            handle(Request, Before, Next);
        ({Role, Request}, {Before, Next}) ->
            {Before, add(Keeper, Role, Request, Next)}
    end,
    visit_waiting(Again, Keeper, Requests#requests{pending = Pending#{Keeper => Timer}}).

%% @doc Notes that the child of a keeper has ended normally and will not be restarted.
-spec settled(Keeper :: pid(), requests()) -> requests().
settled(Keeper, #requests{settled = Settled} = Requests) ->
    Requests#requests{settled = Settled#{Keeper => settled}}.

%% Handles the end of a keeper that has removed its row, or has never got the row of a registrar.
ended(Keeper, #requests{registrars = Registrars} = Before) ->
    Outcome =
        case gen_tracker_registrars:leaves_child(Keeper, Registrars) of
            true -> not_taken;
            false -> ended
        end,
    Requests = took_over(Keeper, Before),
    #requests{stopping = Stopping, adopted = Adopted, settled = Settled} = Requests,
    Left = Requests#requests{
        pending = maps:remove(Keeper, Requests#requests.pending),
        stopping = maps:remove(Keeper, Stopping),
        settled = maps:remove(Keeper, Settled),
        adopted = maps:remove(Keeper, Adopted)
    },
    serve(Keeper, Outcome, Left).

serve(Keeper, Outcome, Requests) ->
    Serve = fun(Waiting, Before) -> serve(Waiting, Keeper, Outcome, Before) end,
    visit_waiting(Serve, Keeper, Requests).

serve({{late, Mark}, Request}, Keeper, {launched, Result} = Outcome, {_, Requests} = Before) ->
    Child = started(Result),
    %% A living child is the next one, which has come between the look at the row and the mark.
    IsLast =
        Requests#requests.received < Mark andalso Child =/= none andalso
            not gen_tracker_keeper:is_alive(Child),
    case IsLast of
        true -> {Keeper, add(Keeper, waits, Request, Requests)};
        false -> serve({waits, Request}, Keeper, Outcome, Before)
    end;
serve({Role, Request}, Keeper, Outcome, {Before, Requests}) ->
    case answer(Role, Request, Outcome) of
        {reply, Reply} -> reply(Request, Reply), {Before, Requests};
        again when Request#request.kind =:= forget -> {Before, forget(Request, Requests)};
        again -> handle(Request, Before, Requests);
        wait -> {Keeper, add(Keeper, Role, Request, Requests)}
    end.

answer({after_death, Pid}, Request, {_, Result} = Outcome) ->
    case started(Result) of
        %% The result of a start whose child is dead by now. The request waits for the next child.
        Pid -> wait;
        _ -> answer(waits, Request, Outcome)
    end;
answer({adds, Monitor}, #request{child = Child}, _) ->
    true = demonitor(Monitor, [flush]),
    {reply, {ok, Child}};
answer(_, #request{kind = Kind}, Outcome)
        when ?IS_LOOK_UP(Kind), (Outcome =:= ended orelse Outcome =:= not_taken) ->
    {reply, ended};
answer(_, _, not_taken) ->
    again;
answer(_, #request{kind = forget}, ended) ->
    {reply, ok};
answer(_, #request{kind = await_start}, _) ->
    {reply, ok};
answer(joins, _, {launched, Result}) ->
    {reply, Result};
answer(joins, _, {killed, _}) ->
    {reply, {error, killed}};
answer(joins, _, ended) ->
    {reply, gone};
answer(_, _, ended) ->
    again;
answer(after_end, _, _) ->
    wait;
answer(_, #request{kind = Kind}, _) when Kind =:= forget; ?IS_LOOK_UP(Kind) ->
    wait;
answer(_, #request{kind = re_register}, _) ->
    again;
answer(_, #request{kind = Kind}, {killed, _}) when Kind =:= find_or_open; Kind =:= start_child ->
    {reply, {error, killed}};
answer(_, _, {killed, _}) ->
    again;
answer(_, _, {launched, ?RESERVED(_)}) ->
    again;
answer(_, #request{kind = find_or_open}, {launched, Result}) ->
    {reply, Result};
answer(starts, _, {launched, Result}) ->
    {reply, to_supervisor(Result)};
answer(_, #request{kind = Kind}, {launched, Result}) ->
    case started(Result) of
        none -> again;
        %% Even if it is dead by now: a child that always dies at once would otherwise never be
        %% returned.
        Pid -> {reply, running(Kind, Pid)}
    end.

%% The result of a start as `supervisor:start_child/2' returns it.
to_supervisor(ignore) ->
    {ok, undefined};
to_supervisor({error, Reason}) ->
    {error, Reason};
to_supervisor(Result) ->
    case started(Result) of
        none -> {error, Result};
        _ -> Result
    end.

%% @doc Handles the end of a keeper or registrar. If a keeper left a row, a new keeper adopts that.
-spec lost(Keeper :: pid(), Reason :: term(), requests()) -> requests().
lost(Keeper, Reason, #requests{registrars = Registrars} = Requests) ->
    case gen_tracker_registrars:is_registrar(Keeper, Registrars) of
        true ->
            Requests#requests{registrars = gen_tracker_registrars:replace(Keeper, Registrars)};
        false ->
            keeper_lost(Keeper, Reason, Requests)
    end.

keeper_lost(Keeper, Reason, #requests{context = Context, stopping = Stopping} = Requests) ->
    case proctab_nif:kept(zone(Requests), Keeper) of
        undefined ->
            ended(Keeper, Requests);
        _ ->
            New = gen_tracker_keeper:start(Context),
            case proctab_nif:change_keeper(zone(Requests), Keeper, New) of
                {ok, _} ->
                    Times = lately(Keeper, Requests),
                    #requests{adopted = Adopted, settled = Settled} = Requests,
                    IsSettled = is_map_key(Keeper, Settled),
                    gen_tracker_keeper:adopt(New, Context, Reason, Times, IsSettled),
                    Counted = Requests#requests{
                        adopted = (maps:remove(Keeper, Adopted))#{New => Times},
                        settled = maps:remove(Keeper, Settled),
                        pending = maps:remove(Keeper, Requests#requests.pending)
                    },
                    Moved = move_waiting(Keeper, New, took_over(Keeper, Counted)),
                    case maps:take(Keeper, Stopping) of
                        {told, Others} ->
                            gen_tracker_keeper:stop(New, Context),
                            Moved#requests{stopping = Others#{New => told}};
                        error ->
                            Moved
                    end;
                undefined ->
                    gen_tracker_keeper:discard(New),
                    ended(Keeper, Requests)
            end
    end.

lately(Keeper, #requests{adopted = Adopted}) ->
    Now = erlang:monotonic_time(millisecond),
    [Now | [Time || Time <- maps:get(Keeper, Adopted, []), Now - Time < ?PERIOD]].

move_waiting(Keeper, New, Requests) ->
    {Waited, Others} = take_waiting(Keeper, Requests),
    lists:foldl(fun(Waiting, Next) -> move(Waiting, New, Next) end, Others, Waited).

%% The timer of a `register' names the keeper.
move({Role, #request{kind = Kind} = Request}, New, Requests) ->
    _ = ?IS_REGISTER(Kind) andalso start_timer(New, Request, Requests),
    add(New, Role, Request, Requests).

%% Returns the request of a caller that may end its wait by itself, its number, and the keeper that
%% it waits for.
find_waiting(From, #requests{queues = Queues}) ->
    case gen_tracker_queues:find(From, Queues) of
        {Keeper, Number, {_, Request}} -> {Keeper, Number, Request};
        none -> none
    end.

remove_waiting(Number, #request{from = From} = Request, #requests{queues = Queues} = Requests) ->
    Left = Requests#requests{queues = gen_tracker_queues:remove(From, Queues)},
    remove_wait(Request, Number, Left).

%% Takes all requests that wait for a keeper, and calls `Visit' with each, earliest first. Its other
%% argument is the keeper that an earlier request waits for again, or `nobody', with the state, and
%% so is its result. `Visit' may queue the request again.
visit_waiting(Visit, Keeper, Requests) ->
    {Waited, Others} = take_waiting(Keeper, Requests),
    {_, Visited} = lists:foldl(Visit, {nobody, Others}, Waited),
    Visited.

%% Removes all requests that wait for a keeper. Returns them, earliest first.
take_waiting(Keeper, #requests{queues = Queues} = Requests) ->
    {Taken, Others} = gen_tracker_queues:take(Keeper, Queues),
    Left = remove_waits(Taken, Requests#requests{queues = Others}),
    {[Waited || {_, Waited} <- Taken], Left}.

%% Removes the waits of requests that were taken from the queues.
remove_waits(Taken, Requests) ->
    Remove = fun({Number, {_, Request}}, Left) -> remove_wait(Request, Number, Left) end,
    lists:foldl(Remove, Requests, Taken).

%% @doc Answers all waiting requests, because the zone stops.
-spec end_all(requests()) -> ok.
end_all(#requests{queues = Queues, looking = Looking, registrars = Registrars}) ->
    Requests =
        [Request || {_, Request} <- maps:values(Looking) ++ gen_tracker_queues:elements(Queues)] ++
            gen_tracker_registrars:ending(Registrars),
    lists:foreach(fun(Request) -> reply(Request, at_stop(Request)) end, Requests).

at_stop(#request{kind = await_start}) -> ok;
at_stop(#request{kind = Kind}) when ?IS_LOOK_UP(Kind) -> refused;
at_stop(_) -> {error, shutdown}.

reply(#request{from = From} = Request, Reply) ->
    demonitor_caller(Request),
    gen_server:reply(From, Reply).

demonitor_caller(#request{caller_monitor = undefined}) ->
    true;
demonitor_caller(#request{caller_monitor = Monitor}) ->
    demonitor(Monitor, [flush]).

zone(#requests{context = #{zone := Zone}}) ->
    Zone.
