%% @private
%% The registrars (`gen_tracker_registrar') in the state of a zone's tracker, and the rows that they
%% give to keepers.
%%
%% The tracker replaces a registrar that was killed. The successor adopts the rows, answers the
%% callers, and gets the orders again that the killed one may not have carried out.
%%
%% When a request has to wait for a child of a registrar, the tracker starts a keeper, and tells the
%% registrar to give it the row. All requests for that name wait for this keeper, until it has said
%% that it has the row, or has ended.
-module(gen_tracker_registrars).

-export([new/2, start/3, replace/2, opened/3, is_registrar/2]).
-export([own_keeper/3, took_over/2, leaves_child/2, forget/3, unregister/2]).
-export([end_child/5, ended/2, ending/1]).

-export_type([registrars/0]).

-type position() :: 0..7.
-type child() :: {gen_tracker:name(), pid() | undefined}.

-record(registrars, {
    context :: gen_tracker_keeper:context(),
    handle :: proctab_nif:handle(),
    current = #{} :: #{position() => pid()},
    %% The current ones, and those that were killed, whose rows the current one has not adopted yet.
    positions = #{} :: #{pid() => position()},
    %% The callers that wait for registrars to open.
    waiting = #{} :: #{pid() => [gen_server:from()]},
    %% The keepers that have been started to take over a row, and have not said yet whether they
    %% have it; and the registrars that were told to give it.
    taking = #{} :: #{gen_tracker:name() => Keeper :: pid()},
    taken = #{} :: #{Keeper :: pid() => {child(), Registrar :: pid()}},
    %% The requests for the end of a child that a registrar carries out.
    ending = #{} :: #{gen_server:from() => {child(), Registrar :: pid(), Request :: term()}}
}).

-opaque registrars() :: #registrars{}.

%%% Registrars

%% @doc Returns a set of registrars without any.
-spec new(gen_tracker_keeper:context(), proctab_nif:handle()) -> registrars().
new(Context, Handle) ->
    #registrars{context = Context, handle = Handle}.

%% @doc Starts the registrar at a position, which answers the caller once it is open. If there is
%% one, the caller is answered at once.
-spec start(position(), gen_server:from(), registrars()) -> registrars().
start(Position, From, #registrars{current = Current} = Registrars)
        when is_map_key(Position, Current) ->
    gen_server:reply(From, ok),
    Registrars;
start(Position, From, Registrars) ->
    appoint(Position, [From], Registrars).

%% @doc Replaces a registrar that was killed.
-spec replace(pid(), registrars()) -> registrars().
replace(Registrar, #registrars{positions = Positions, current = Current} = Registrars) ->
    Position = map_get(Registrar, Positions),
    case Current of
        #{Position := Registrar} ->
            #registrars{waiting = Waiting} = Registrars,
            Froms = maps:get(Registrar, Waiting, []),
            Others = maps:remove(Registrar, Waiting),
            Replaced = appoint(Position, Froms, Registrars#registrars{waiting = Others}),
            tell_again(Registrar, map_get(Position, Replaced#registrars.current), Replaced);
        _ ->
            Registrars
    end.

appoint(Position, Froms, #registrars{context = Context, handle = Handle} = Registrars) ->
    #registrars{current = Current, positions = Positions, waiting = Waiting} = Registrars,
    Before = [Pid || {Pid, Its} <- maps:to_list(Positions), Its =:= Position],
    Registrar = gen_tracker_registrar:start_link(Context, Handle, Position, Before, Froms),
    Registrars#registrars{
        current = Current#{Position => Registrar},
        positions = Positions#{Registrar => Position},
        waiting = Waiting#{Registrar => Froms}
    }.

%% Tells the successor of a registrar what that was told to do, and may have done or not. The
%% successor answers all the same.
tell_again(Registrar, Next, #registrars{context = #{tag := Tag}} = Registrars) ->
    #registrars{taken = Taken, ending = Ending} = Registrars,
    Give = fun
        (Keeper, {Child, Its}) when Its =:= Registrar ->
            gen_tracker_registrar:give(Next, Tag, Child, Keeper),
            {Child, Next};
        (_, Other) ->
            Other
    end,
    End = fun
        (From, {Child, Its, Request}) when Its =:= Registrar ->
            gen_tracker_registrar:end_child(Next, Tag, Child, From),
            {Child, Next, Request};
        (_, Other) ->
            Other
    end,
    Registrars#registrars{taken = maps:map(Give, Taken), ending = maps:map(End, Ending)}.

%% @doc Notes that a registrar is open, and has adopted the rows of these.
-spec opened(pid(), Before :: [pid()], registrars()) -> registrars().
opened(Registrar, Before, #registrars{positions = Positions, waiting = Waiting} = Registrars) ->
    Registrars#registrars{
        positions = maps:without(Before, Positions),
        waiting = maps:remove(Registrar, Waiting)
    }.

%% @doc Returns whether a process is a registrar, or was one whose rows have not been adopted yet.
-spec is_registrar(pid(), registrars()) -> boolean().
is_registrar(Pid, #registrars{positions = Positions}) ->
    is_map_key(Pid, Positions).

%% Returns the registrar that has the rows of this one, or is about to adopt them.
current(Registrar, #registrars{current = Current, positions = Positions}) ->
    map_get(map_get(Registrar, Positions), Current).

%%% Keepers that take over

%% @doc Returns the keeper that a request for this child waits for. A child of a registrar gets a
%% keeper of its own.
-spec own_keeper(child(), Keeper :: pid(), registrars()) -> {Own :: pid(), registrars()}.
own_keeper({Name, _} = Child, Keeper, #registrars{taking = Taking} = Registrars) ->
    case {is_registrar(Keeper, Registrars), Taking} of
        {false, _} -> {Keeper, Registrars};
        {true, #{Name := Own}} -> {Own, Registrars};
        {true, _} -> take_over(Child, current(Keeper, Registrars), Registrars)
    end.

take_over({Name, _} = Child, Registrar, #registrars{context = Context} = Registrars) ->
    #registrars{taking = Taking, taken = Taken} = Registrars,
    Keeper = gen_tracker_keeper:start(Context),
    gen_tracker_registrar:give(Registrar, map_get(tag, Context), Child, Keeper),
    {Keeper, Registrars#registrars{
        taking = Taking#{Name => Keeper},
        taken = Taken#{Keeper => {Child, Registrar}}
    }}.

%% @doc Notes that a keeper has taken its row over, or has ended.
-spec took_over(Keeper :: pid(), registrars()) -> registrars().
took_over(Keeper, #registrars{taking = Taking, taken = Taken} = Registrars) ->
    case maps:take(Keeper, Taken) of
        {{{Name, _}, _}, Others} ->
            Registrars#registrars{taking = maps:remove(Name, Taking), taken = Others};
        error ->
            Registrars
    end.

%% @doc Returns whether a keeper was to take over a child that has not ended: it is still in the
%% table, or was unregistered.
-spec leaves_child(Keeper :: pid(), registrars()) -> boolean().
leaves_child(Keeper, #registrars{taken = Taken} = Registrars) ->
    case Taken of
        #{Keeper := {{Name, Pid}, _}} ->
            case proctab_nif:child(zone(Registrars), Name) of
                {_, Pid, _, _} -> true;
                _ -> is_pid(Pid) andalso gen_tracker_keeper:is_alive(Pid)
            end;
        _ ->
            false
    end.

%% @doc Tells the registrars that a keeper, which one of them has given a row to, has lost it.
-spec forget(gen_tracker:name(), pid(), registrars()) -> ok.
forget(Name, Pid, #registrars{context = #{tag := Tag}, current = Current}) ->
    Tell = fun(Registrar) -> gen_tracker_registrar:forget(Registrar, Tag, Name, Pid) end,
    lists:foreach(Tell, maps:values(Current)).

%% @doc Unregisters a child without a start function. Returns the registrar that has to do it, if
%% one has.
-spec unregister(gen_tracker:name(), registrars()) -> ok | {ask, Registrar :: pid()}.
unregister(Name, #registrars{context = Context} = Registrars) ->
    Zone = zone(Registrars),
    case proctab_nif:child(Zone, Name) of
        {running, Pid, Keeper, {undefined, _, _, _, _}} ->
            case is_registrar(Keeper, Registrars) of
                true ->
                    {ask, current(Keeper, Registrars)};
                false ->
                    _ = proctab_nif:unregister_name(Zone, Name, Keeper, unregistered) andalso
                        gen_tracker_telemetry:child(Context, {down, unregistered}, Name, Pid),
                    forget(Name, Pid, Registrars)
            end;
        _ ->
            ok
    end.

%%% Children that a registrar ends

%% @doc Tells the registrar of a child, or its successor, to end it: the VM has no free process for
%% a keeper. The tracker calls {@link ended/2} when the registrar has answered.
-spec end_child(child(), Registrar :: pid(), gen_server:from(), Request, registrars()) ->
          registrars() when Request :: term().
end_child(Child, Registrar, From, Request, #registrars{ending = Ending} = Registrars) ->
    #registrars{context = #{tag := Tag}} = Registrars,
    Current = current(Registrar, Registrars),
    gen_tracker_registrar:end_child(Current, Tag, Child, From),
    Registrars#registrars{ending = Ending#{From => {Child, Current, Request}}}.

%% @doc Returns the request of such a caller, and forgets it.
-spec ended(gen_server:from(), registrars()) -> {Request :: term(), registrars()} | error.
ended(From, #registrars{ending = Ending} = Registrars) ->
    case maps:take(From, Ending) of
        {{_, _, Request}, Others} -> {Request, Registrars#registrars{ending = Others}};
        error -> error
    end.

%% @doc Returns all such requests.
-spec ending(registrars()) -> [Request :: term()].
ending(#registrars{ending = Ending}) ->
    [Request || {_, _, Request} <- maps:values(Ending)].

zone(#registrars{context = #{zone := Zone}}) ->
    Zone.
