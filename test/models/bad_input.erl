%% Random calls of everything that the library exports, with terms of every kind in every position: what `bad_input_SUITE` promises, for inputs that nobody has
%% thought of. A round is drawn from its seed alone.
%%
%% A call is kept as `{Module, Function, Recipes}`: a recipe is a few words that say how a term is made, however large that is, so that a failure can be printed,
%% and called again. Most arguments of a call are right, as what is wrong in one place alone goes deepest.
%%
%% The native functions are called on a zone and a table of their own, which the caller owns and in which it is a keeper; in a storm they belong to another process.
%% The other ones are called on running servers. After each call everything is looked at: what has failed has changed nothing, and what has not is undone. The
%% functions that are not for users may raise what they like, and are killed when they wait. In a storm the zone ends again and again while it is called, and
%% callers are killed. Nobody ever names the witness, a zone and a table that must stay as they are.
-module(bad_input).

-export([round/1, replay/1, exported/0, covered/0]).
-export([start_child/1, silent/0]).

-compile({no_auto_import, [round/1]}).

-define(NAME, <<"tv1">>).
-define(ZONE, bad_input_zone).
-define(RAW, bad_input_raw).
-define(TABLE, bad_input_table).
-define(GONE, bad_input_gone).
-define(WITNESS, bad_input_witness).
-define(MODULES, [gen_tracker, gen_tracker_requests, gen_tracker_keeper, gen_tracker_events, gen_tracker_shutdown, gen_tracker_reports, metrics_process_tracker, stats_hero_monitor, proctab, proctab_nif] ++
    [proctab_errors, proctab_reaper, proctab_swap, proctab_view]).
%% How many calls a process makes, and how long that may take at the most, in milliseconds.
-define(BATCH, 250).
-define(PATIENCE, 120000).
%% A round draws so many batches of each sort.
-define(BATCHES, [{native, 40}, {public, 20}, {internal, 3}, {storm, 4}]).
%% Loading a module makes atoms; a call that makes one makes more than these in a round.
-define(ATOMS, 100).

%%% Rounds

round(Seed) ->
    in_silence(fun() ->
        _ = rand:seed(exsss, Seed),
        Sorts = lists:append([lists:duplicate(Times, Sort) || {Sort, Times} <- ?BATCHES]),
        with_witness(fun(Look) ->
            %% What takes nothing cannot be given anything bad, and may look through all zones: once will do. What is loaded once is loaded here as well.
            Loading = [
                {stats_hero_monitor, register, [remote_pid]},
                {gen_tracker, wait, [nothing]}
            ],
            case batches(Seed, [{public, [call(Function) || {_, _, [], _} = Function <- public()] ++ Loading}], Look, #{}) of
                {ok, Figures} ->
                    counted(
                        Seed,
                        erlang:system_info(atom_count),
                        batches(Seed, [{Sort, calls(Sort)} || Sort <- Sorts], Look, Figures)
                    );
                Failed -> Failed
            end
        end)
    end).

counted(Seed, Before, {ok, Figures}) ->
    case erlang:system_info(atom_count) - Before of
        Atoms when Atoms > ?ATOMS ->
            {failed, #{seed => Seed, why => {atoms, Atoms}, sort => round, calls => []}};
        _ -> {ok, Figures}
    end;
counted(_, _, Failed) ->
    Failed.

%% Makes the calls of a history again, or the whole round when it says no more than the seed.
replay(#{sort := round, seed := Seed}) ->
    round(Seed);
replay(#{sort := Sort, seed := Seed, calls := Calls}) ->
    in_silence(fun() ->
        with_witness(fun(Look) -> batches(Seed, [{Sort, Calls}], Look, #{}) end)
    end).

batches(_, [], _, Figures) ->
    {ok, Figures};
batches(Seed, [{Sort, Calls} | Rest], Look, Figures) ->
    Before = Look(),
    Result = batch(Sort, Calls),
    case {Result, Look()} of
        {{ok, Counted}, Before} ->
            Add = fun(_, One, Other) -> One + Other end,
            batches(Seed, Rest, Look, maps:merge_with(Add, Counted, Figures));
        {{ok, _}, After} ->
            {
                failed,
                culprit(
                    #{seed => Seed, why => {witness, Before, After}, sort => Sort, calls => Calls},
                    Look
                )
            };
        {{failed, Why, Culprits}, _} ->
            {failed, #{seed => Seed, why => Why, sort => Sort, calls => Culprits}}
    end.

%% Bisects: one of the halves does it again, or both are needed.
culprit(#{calls := [_]} = History, _) ->
    History;
culprit(#{calls := Calls, sort := Sort} = History, Look) ->
    {First, Second} = lists:split(length(Calls) div 2, Calls),
    Guilty = [
        Half
     || Half <- [First, Second],
        begin
            Before = Look(),
            _ = batch(Sort, Half),
            Before =/= Look()
        end
    ],
    case Guilty of
        [Half | _] -> culprit(History#{calls := Half}, Look);
        [] -> History
    end.

%% Makes calls in a process of its own; figures, or why it failed and at which calls.
batch(storm, Calls) ->
    storm(Calls);
batch(Sort, Calls) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({result, work(Sort, Calls)}) end),
    receive
        {'DOWN', Monitor, process, Pid, {result, Result}} -> Result;
        {'DOWN', Monitor, process, Pid, Reason} -> {failed, {caller, Reason}, Calls}
    after ?PATIENCE ->
        Why = {hangs, process_info(Pid, current_stacktrace)},
        _ = tracked_child:kill(Pid),
        {failed, Why, Calls}
    end.

%% Nothing is printed of what is called in vain.
in_silence(Fun) ->
    Level = maps:get(level, logger:get_primary_config()),
    ok = logger:set_primary_config(level, none),
    try
        Fun()
    after
        logger:set_primary_config(level, Level)
    end.

%% Calls a fun with one that looks at a zone and a table that nobody names.
with_witness(Fun) ->
    callers:apart(fun() ->
        ok = ledger_backend:open(),
        Zone = zones:zone(?WITNESS),
        Child = tracked_child:open(?WITNESS, ?NAME),
        ok = gen_tracker:setattr(
            ?WITNESS,
            ?NAME,
            [{n, 1}, {float, -0.0}, {list, lists:seq(1, 100)}, {binary, binary:copy(<<1>>, 10000)}]
        ),
        ok = proctab_nif:processes_open(?WITNESS, self()),
        ok = proctab_nif:register(?WITNESS, Child, ?NAME),
        try
            Fun(fun() ->
                {
                    whereis(Zone),
                    is_process_alive(Child),
                    rows(?WITNESS),
                    registrations(?WITNESS),
                    in_table(?WITNESS)
                }
            end)
        after
            ok = proctab_nif:processes_close(?WITNESS),
            zones:stop_zone(?WITNESS),
            ledger_backend:close()
        end
    end).

in_table(Zone) ->
    maps:with([children, attributes, memory, states, without_child], proctab:info(Zone)).

%% Everything in a zone, and in a table of processes.
rows(Zone) ->
    Sizes = pages(fun(From) -> proctab_nif:page(Zone, From, sizes, []) end, 0),
    Children = pages(fun(From) -> proctab_nif:page(Zone, From, children, []) end, 0),
    {
        lists:sort(Sizes),
        lists:sort(Children),
        [lists:sort(proctab_nif:attrs(Zone, Name)) || {Name, _, _, _} <- lists:sort(Sizes)]
    }.

registrations(Table) ->
    Pids = pages(fun(From) -> proctab_nif:processes_page(Table, From) end, 0),
    Counts = pages(fun(From) -> proctab_nif:counts_page(Table, From) end, 0),
    {
        lists:sort(Counts),
        [{Pid, lists:sort(proctab_nif:registered_names(Table, Pid))} || Pid <- lists:sort(Pids)]
    }.

pages(Read, From) ->
    case Read(From) of
        {Page, done} -> Page;
        {Page, Next} -> Page ++ pages(Read, Next)
    end.

%%% One call after the other

work(Sort, Calls) ->
    process_flag(trap_exit, true),
    group_leader(spawn_link(?MODULE, silent, []), self()),
    World = world(Sort),
    work(Calls, World, state(World), #{}).

work([], World, _, Figures) ->
    forget(World),
    {ok, Figures};
work([Call | Calls], World, Before, Figures) ->
    Outcome = outcome(Call, World),
    Messages = messages(World),
    After = state(World),
    case judge(Call, Outcome, Messages, Before =:= After, World) of
        {wrong, Why} ->
            {failed, Why, [Call]};
        Counted ->
            Next = maps:update_with(Counted, fun(N) -> N + 1 end, 1, Figures),
            case Before =:= After of
                true ->
                    work(Calls, World, Before, Next);
                false ->
                    forget(World),
                    NewWorld = world(maps:get(sort, World)),
                    work(Calls, NewWorld, state(NewWorld), Next)
            end
    end.

%% What a call has come to, without the terms that may be large.
outcome({Module, Function, Recipes}, #{sort := internal} = World) ->
    %% It may wait for ever, and it may end itself.
    {Pid, Monitor} = spawn_monitor(fun() ->
        exit({done, outcome(Module, Function, [make(Recipe, World) || Recipe <- Recipes])})
    end),
    receive
        {'DOWN', Monitor, process, Pid, {done, {raised, _, nif_panicked}}} -> panicked;
        {'DOWN', Monitor, process, Pid, _} -> done
    after 2 ->
        exit(Pid, kill),
        receive
            {'DOWN', Monitor, process, Pid, _} -> killed
        end
    end;
outcome({Module, Function, Recipes} = Call, World) ->
    Arguments = [make(Recipe, World) || Recipe <- Recipes],
    {Kinds, Shapes} = expected(Call),
    IsRight = lists:all(
        fun({Kind, Argument}) -> is_right(Kind, Argument, World) end, lists:zip(Kinds, Arguments)
    ),
    Outcome = outcome(Module, Function, Arguments),
    Fits = lists:any(fun(Shape) -> fits(Shape, Outcome) end, Shapes),
    {IsRight, Fits, brief(Outcome)}.

outcome(Module, Function, Arguments) ->
    try
        apply(Module, Function, Arguments)
    catch
        error:badarg -> badarg;
        Class:Reason -> {raised, Class, Reason}
    end.

brief(badarg) -> badarg;
brief(Outcome) -> lists:flatten(io_lib:format("~0tP", [outline(Outcome, 4), 8])).

%% Its outermost levels: it may unfold without end. Long integers take too long to print.
outline(Integer, _) when is_integer(Integer), abs(Integer) > 1 bsl 64 -> large;
outline(Tuple, Levels) when is_tuple(Tuple), tuple_size(Tuple) < 6, Levels > 0 ->
    list_to_tuple([outline(Element, Levels - 1) || Element <- tuple_to_list(Tuple)]);
outline(Other, _) when is_atom(Other); is_pid(Other); is_integer(Other); is_reference(Other) ->
    Other;
outline(_, _) -> '_'.

%% How a call counts, or what is wrong with it.
judge(_, panicked, _, _, _) ->
    {wrong, panicked};
judge(_, Ended, _, _, _) when is_atom(Ended) ->
    Ended;
judge(Call, {true, Fits, Brief}, Messages, _, _) ->
    case Fits orelse Brief =:= badarg andalso is_large(Call) of
        true when Messages =/= [], Brief =:= badarg -> {wrong, {messages, Messages}};
        true when Brief =:= badarg -> refused;
        true -> known_messages(Messages);
        false -> {wrong, {answer, Brief}}
    end;
judge(_, {false, _, badarg}, [], true, _) ->
    refused;
%% No keys are answered with no attributes, whatever the zone.
judge({gen_tracker, info, [_, _, Keys]}, {false, true, _}, [], true, _)
        when Keys =:= {list, []}; Keys =:= [] ->
    answered;
judge(_, {false, _, badarg}, Messages, Same, _) ->
    {wrong, {refused_but, {messages, Messages}, {unchanged, Same}}};
%% A pid of a node that is not there is a wrong zone, and the caller is told which.
judge(_, {false, _, "{raised,exit,{{nodedown" ++ _}, [], true, _) ->
    refused;
judge(_, {false, _, Brief}, _, _, _) ->
    {wrong, {taken, Brief}}.

known_messages(Messages) ->
    case [Message || Message <- Messages, not lists:member(kind(Message), known())] of
        [] -> answered;
        Unknown -> {wrong, {messages, Unknown}}
    end.

kind({Secret, Event}) when is_integer(Secret), is_tuple(Event) -> element(1, Event);
kind(Message) when is_tuple(Message) -> element(1, Message);
kind(Message) -> Message.

%% What the functions that were called without a fault have the caller sent.
known() ->
    [up, down, '$proctab_woken', '$proctab_detached', '$gen_cast', 'EXIT', gen_tracker].

messages(#{sort := Sort}) ->
    receive
        {gen_tracker, ?ZONE, _} -> messages(#{sort => Sort});
        {'EXIT', _, _} when Sort =:= public -> messages(#{sort => Sort});
        Message -> [Message | messages(#{sort => Sort})]
    after 0 -> []
    end.

%%% The world that is called

world(Sort) ->
    Dead = spawn(fun() -> ok end),
    _ = tracked_child:down(Dead),
    Dummy = dummy(),
    Gone = gone(),
    Common = #{sort => Sort, dead => Dead, dummy => Dummy, gone => Gone, self => self()},
    open(Sort, Common).

dummy() ->
    spawn_link(fun() ->
        receive
            stop -> ok
        end
    end).

%% The handle of a zone that has ended.
gone() ->
    Handle = proctab_nif:zone_open(?GONE),
    ok = proctab_nif:zone_close(?GONE),
    Handle.

open(public, #{dummy := Dummy} = World) ->
    Test = self(),
    {Host, Monitor} = spawn_opt(fun() ->
        ?ZONE = zones:zone(?ZONE),
        {ok, _} = gen_tracker:find_or_open(?ZONE, {?NAME, {?MODULE, start_child, [[]]}, temporary}),
        ok = gen_tracker:setattr(?ZONE, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
        {ok, _} = metrics_process_tracker:start_link(),
        {ok, _} = stats_hero_monitor:start_link(),
        ok = metrics_process_tracker:track(?NAME, Dummy),
        Test ! {hosting, self()},
        receive
            stop -> ok
        end
    end, [link, monitor]),
    receive
        {hosting, Host} ->
            demonitor(Monitor),
            World#{host => Host, handle => make_ref(), waits => make_ref()};
        {'DOWN', Monitor, process, Host, Reason} -> error(Reason)
    end;
open(_, #{dummy := Dummy} = World) ->
    Handle = proctab_nif:zone_open(?RAW),
    true = proctab_nif:insert(?RAW, ?NAME, self(), {spec}, Dummy),
    true = proctab_nif:insert(?RAW, other, Dummy, {spec}, Dummy),
    true = proctab_nif:insert(?RAW, starting, self(), {spec}, launching),
    ok = proctab_nif:setattr(?RAW, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    true = proctab_nif:set_missing(?RAW, orphan, n, 1),
    {Waits, _, _} = proctab_nif:wait_for(?RAW, ?NAME),
    ok = proctab_nif:processes_open(?TABLE, self()),
    ok = proctab_nif:register(?TABLE, Dummy, ?NAME),
    begun = proctab_nif:begin_registering(?TABLE, Dummy, begun),
    _ = flush(),
    World#{handle => Handle, waits => Waits}.

flush() ->
    receive
        _ -> flush()
    after 0 -> ok
    end.

forget(#{sort := public, host := Host, dummy := Dummy} = World) ->
    Servers = [Host | [Pid || Name <- servers(), Pid <- [whereis(Name)], is_pid(Pid)]],
    Monitors = [monitor(process, Pid) || Pid <- Servers],
    exit(Host, kill),
    [
        receive
            {'DOWN', Monitor, process, _, _} -> ok
        end
     || Monitor <- Monitors
    ],
    [
        begin
            unlink(Pid),
            ok = gen_server:stop(Pid)
        end
     || Pid <- started()
    ],
    _ = tracked_child:kill(Dummy),
    _ = messages(World),
    ok;
forget(#{dummy := Dummy}) ->
    [
        ok = proctab_nif:zone_close(Zone)
     || {zone, Zone, Owner} <- proctab_nif:tables(), Owner =:= self(), Zone =/= ?WITNESS
    ],
    [
        ok = proctab_nif:processes_close(Table)
     || {processes, Table, Owner} <- proctab_nif:tables(), Owner =:= self() orelse Owner =:= Dummy
    ],
    _ = tracked_child:kill(Dummy),
    flush().

%% The zones that the caller has started.
started() ->
    {links, Links} = process_info(self(), links),
    [Owner || {zone, _, Owner} <- proctab_nif:tables(), lists:member(Owner, Links)].

%% All that a call which fails must leave as it is.
state(#{sort := internal}) ->
    same;
state(#{sort := public}) ->
    Servers = [whereis(Name) || Name <- [?ZONE, metrics_process_tracker, stats_hero_monitor]],
    {
        Servers,
        tables(),
        look(fun() ->
            {
                rows(?ZONE),
                proctab_nif:waiting(?ZONE),
                registrations(metrics_process_tracker),
                registrations(stats_hero_monitor)
            }
        end)
    };
state(#{sort := native}) ->
    {tables(), look(fun() -> {rows(?RAW), proctab_nif:waiting(?RAW), registrations(?TABLE)} end)}.

tables() ->
    lists:sort(proctab_nif:tables()).

look(Fun) ->
    try
        Fun()
    catch
        error:badarg -> closed
    end.

%% A child of the zone.
start_child(_) ->
    {
        ok,
        spawn_link(fun() ->
            receive
                stop -> ok
            end
        end)
    }.

%% A group leader that prints nothing.
silent() ->
    receive
        {io_request, From, As, _} ->
            From ! {io_reply, As, ok},
            ?MODULE:silent();
        _ -> ?MODULE:silent()
    end.

%%% What is expected

%% The exported functions of the library that are neither OTP's nor the compiler's.
exported() ->
    [
        {Module, Function, Arity}
     || Module <- ?MODULES,
        {Function, Arity} <- Module:module_info(exports),
        Function =/= module_info
    ].

%% Those that rounds call. Loading is left to suites that can undo it.
covered() ->
    [
        {Module, Function, length(Kinds)}
     || {Module, Function, Kinds, _} <- native() ++ public(),
        Module =/= supervisor,
        Module =/= gen_server
    ] ++
        [{proctab, load, 0}, {proctab_swap, load, 0} | internal()].

expected({Module, Function, Recipes}) ->
    [{Kinds, Shapes}] =
        [
            {Kinds, Shapes}
         || {M, F, Kinds, Shapes} <- native() ++ public(),
            M =:= Module,
            F =:= Function,
            length(Kinds) =:= length(Recipes)
        ],
    {Kinds, Shapes}.

%% Function, what its arguments are, and what it may answer when all are right.
native() ->
    [{proctab_nif, Function, Kinds, Shapes} || {Function, Kinds, Shapes} <- [
        {zone_open, [new_zone], [reference]},
        {zone_stop, [zone_or_handle], [ok]},
        {zone_close, [zone_or_handle], [ok]},
        {tables, [], [list]},
        {owner, [raw], [pid]},
        {count, [raw], [integer]},
        {insert, [raw, any, pid, any, pid_or_launching], [true, false]},
        {child, [raw, any], [undefined, {any, any, pid, any}]},
        {kept, [zone_or_handle, pid], [undefined, {any, any, any, any}]},
        {running, [raw, any, any_pid], [true, stopping, false]},
        {terminating, [raw, any, any], [true, stopping, false]},
        {pending, [raw, any], [true, false]},
        {slowed, [raw, any], [true, false]},
        {restarting, [raw, any], [true, false]},
        {respec, [raw, any, any], [true, false]},
        {
            stop,
            [zone_or_handle, any, pid],
            [launching, running, terminating, pending, slowed, restarting, false]
        },
        {remove, [raw, any], [true, false]},
        {unregister_name, [raw, any, pid, any], [true, false]},
        {change_keeper, [raw, pid, pid], [{ok, any}, undefined]},
        {find, [raw, any], [{ok, pid}, undefined]},
        {find_alive, [raw, any], [{ok, pid}, undefined]},
        {getattr, [raw, any, any], [{ok, any}, undefined]},
        {setattr, [raw, any, proper_list], [ok, void]},
        {setattr, [raw, any, any, any], [ok, void]},
        {set_missing, [raw, any, any, any], [true, false]},
        {replace, [raw, any, any, any, any], [true, false]},
        {cas, [raw, any, any, any, any], [ok, {current, any}, undefined, void]},
        {delattr, [raw, any, any], [ok]},
        {increment, [raw, any, any, integer], [integer, large, badarg]},
        {increment, [raw, any, any, integer, integer], [integer, large]},
        {attrs, [raw, any], [list]},
        {attrs, [raw, any, proper_list], [list]},
        {page, [zone_or_handle, from, page_of, any], [{any, integer}, {any, done}]},
        {listen, [zone_or_handle], [integer]},
        {unlisten, [zone_or_handle], [ok]},
        {wait_for, [zone_or_handle, any], [{reference, integer, pid}]},
        {stop_waiting, [waits], [true, false]},
        {waiting, [raw], [integer]},
        {processes_open, [new_table, living], [ok]},
        {processes_close, [table], [ok]},
        {hold, [table], [ok]},
        {release, [table], [ok]},
        {claim, [table, any_pid], [true, false]},
        {register, [table, any_pid, any], [ok]},
        {unregister, [table, any_pid, any], [ok]},
        {begin_registering, [table, any_pid, any], [begun, registered, {busy, pid}]},
        %% Of what was not begun.
        {end_registering, [table, any_pid, any, any], [ok, badarg]},
        {fail_registering, [table, any_pid, any], [ok]},
        {abandon, [table, any_pid, pid], [ok]},
        {next, [table, any_pid], [{registered, any, any}, {busy, list}, done]},
        {registered_names, [table, any_pid], [list]},
        {registered_count, [table, any], [integer]},
        {processes_page, [table, part], [{list, integer}, {list, done}]},
        {counts_page, [table, part], [{list, integer}, {list, done}]}
    ]].

public() ->
    Void = {raised, error, {void_setting, any, any, any}},
    Opened = [{ok, pid}, {ok, pid, any}, ignore, {error, any}],
    Started = [{ok, pid}, {error, {already_started, pid}}],
    [{gen_tracker, Function, Kinds, Shapes} || {Function, Kinds, Shapes} <- [
        {start_link, [zone_name], Started},
        {start_link, [zone_name, options], Started},
        {find, [zone, any], [{ok, pid}, undefined]},
        {find_or_open, [atom, sent], Opened},
        {which_children, [zone], [list]},
        {
            add_existing_child,
            [zone, existing],
            [
                {ok, pid},
                {error, {already_started, pid}},
                badarg,
                {raised, exit, {{nodedown, any}, any}}
            ]
        },
        {wait, [zone], [ok, {raised, exit, {{nodedown, any}, any}}]},
        {setattr, [zone, any, attributes], [ok, Void]},
        {setattr, [zone, any, any, any], [ok, Void]},
        {getattr, [zone, any, any], [{ok, any}, undefined]},
        {getattr, [zone, any, any, timeout], [{ok, any}, undefined]},
        {delattr, [zone, any, any], [ok]},
        {increment, [zone, any, any, operation], [integer, badarg]},
        {increment, [zone, any, any, operation, any], [integer, badarg]},
        {info, [zone, any], [list]},
        {info, [zone, any, proper_list], [list]},
        {attrs, [zone, any], [list]},
        {list, [zone], [list]},
        {list, [zone, proper_list], [list]},
        {count, [zone], [integer]},
        {names, [zone], [list]},
        {fold, [folding, any, zone], [any]},
        {cas, [zone, any, any, any, any], [ok, {error, {current, any}}, {error, undefined}, Void]},
        {register_name, [registered_name, any_pid], [yes, no]},
        {unregister_name, [via_name], [ok]},
        {whereis_name, [via_name], [pid, undefined]},
        {send, [via_name, sent], [pid, {raised, exit, {badarg, any}}]},
        {subscribe, [zone], [{ok, list}]},
        {unsubscribe, [zone], [ok]}
    ]] ++
    [{metrics_process_tracker, Function, Kinds, Shapes} || {Function, Kinds, Shapes} <- [
        {start_link, [], Started},
        {track, [any], [ok, {error, any}]},
        {track, [any, any_pid], [ok, {error, any}]},
        {count, [any], [integer]},
        {names, [any_pid], [list]},
        {counts, [], [list]}
    ]] ++
    [{stats_hero_monitor, Function, Kinds, Shapes} || {Function, Kinds, Shapes} <- [
        {start_link, [], Started},
        {register, [any_pid], [ok]},
        {registered_count, [], [integer]}
    ]] ++
    [{proctab, Function, Kinds, Shapes} || {Function, Kinds, Shapes} <- [
        {i, [], [ok]},
        {i, [zone], [ok]},
        {info, [], [any]},
        {info, [zone], [any]},
        {top, [zone, any], [list]},
        {top, [zone, any, natural], [list]},
        {check, [], [list]}
    ]] ++
    [{supervisor, Function, Kinds, Shapes} || {Function, Kinds, Shapes} <- [
        {start_child, [right_zone, sent], Opened},
        {terminate_child, [right_zone, sent], [ok, {error, any}]},
        {delete_child, [right_zone, sent], [ok, {error, any}]},
        {restart_child, [right_zone, sent], [{error, any}]},
        {get_childspec, [right_zone, sent], [{ok, any}, {error, any}]},
        {which_children, [right_zone], [list]},
        {count_children, [right_zone], [list]}
    ]] ++
    [
        {gen_server, call, [server, sent], [{error, any}, bad_call, unhandled]},
        {gen_server, cast, [server, sent], [ok]},
        {erlang, send, [server, sent], [any]}
    ].

%% What is not for users, or for OTP alone. Those that end other processes, or the VM's modules, are not called with a process that matters.
internal() ->
    Callbacks = [
        init,
        handle_call,
        handle_cast,
        handle_info,
        handle_continue,
        terminate,
        code_change,
        format_status,
        clean
    ],
    Users = [gen_tracker, metrics_process_tracker, stats_hero_monitor],
    [Export || {Module, Function, Arity} = Export <- exported(),
        {Function, Arity} =/= {load, 0},
        case lists:member(Module, Users) of
            true ->
                lists:member(Function, Callbacks) orelse {Module, Function} =:= {
                    gen_tracker,
                    init_ack
                };
            false -> not lists:member(Module, [proctab, proctab_nif])
        end].

%% Whether an argument is what its place takes.
is_right(zone, Zone, _) -> Zone =:= ?ZONE;
is_right(raw, Zone, _) -> Zone =:= ?RAW;
is_right(zone_or_handle, Zone, #{handle := Handle, gone := Gone}) ->
    lists:member(Zone, [?RAW, Handle, Gone]);
is_right(waits, Waits, #{waits := Right}) -> Waits =:= Right;
is_right(table, Table, _) -> Table =:= ?TABLE;
is_right(new_zone, Zone, _) -> is_atom(Zone) andalso Zone =/= ?RAW;
is_right(new_table, Table, _) -> is_atom(Table);
is_right(zone_name, Zone, _) -> is_atom(Zone) andalso Zone =/= undefined;
is_right(options, Options, _) ->
    Options =:= #{} orelse Options =:= #{restart => true} orelse Options =:= #{restart => false};
is_right(atom, Atom, _) -> is_atom(Atom);
is_right(pid, Pid, _) -> is_pid(Pid) andalso node(Pid) =:= node();
is_right(living, Pid, World) -> is_right(pid, Pid, World) andalso is_process_alive(Pid);
is_right(any_pid, Pid, _) -> is_pid(Pid);
is_right(pid_or_launching, Term, _) -> Term =:= launching orelse is_pid(Term);
is_right(attributes, Attributes, World) ->
    is_map(Attributes) orelse is_right(proper_list, Attributes, World);
is_right(proper_list, List, _) ->
    is_list(List) andalso try length(List) of
        _ -> true
    catch
        error:badarg -> false
    end;
is_right(integer, Integer, _) -> is_integer(Integer);
is_right(operation, {2, Increment}, _) -> is_integer(Increment);
is_right(operation, {2, Increment, Threshold, SetValue}, _) ->
    lists:all(fun erlang:is_integer/1, [Increment, Threshold, SetValue]);
is_right(operation, Increment, _) -> is_integer(Increment);
is_right(natural, Integer, _) -> is_integer(Integer) andalso Integer >= 0;
is_right(from, From, _) -> is_integer(From) andalso From >= 0 andalso From < 1 bsl 32;
is_right(part, Part, _) -> is_integer(Part) andalso Part >= 0 andalso Part < 1 bsl 63;
is_right(page_of, What, World) ->
    lists:member(
        What, [children, names, pids, sizes, attributes]
    ) orelse is_right(proper_list, What, World);
is_right(timeout, Timeout, _) ->
    Timeout =:= infinity orelse is_integer(Timeout) andalso Timeout >= 0;
is_right(folding, Fun, _) -> is_function(Fun, 3);
is_right(via_name, Name, _) ->
    is_tuple(Name) andalso tuple_size(Name) =:= 2 andalso is_atom(element(1, Name));
is_right(registered_name, Name, _) ->
    is_tuple(Name) andalso tuple_size(Name) =:= 2 andalso element(1, Name) =:= ?ZONE;
is_right(_, _, _) -> true.

fits(any, _) -> true;
fits(integer, Answer) -> is_integer(Answer);
fits(list, Answer) -> is_list(Answer);
fits(pid, Answer) -> is_pid(Answer);
fits(reference, Answer) -> is_reference(Answer);
fits(
    Shape, Answer
) when is_tuple(Shape), is_tuple(Answer), tuple_size(Shape) =:= tuple_size(Answer) ->
    lists:all(
        fun({Part, Element}) -> fits(Part, Element) end,
        lists:zip(tuple_to_list(Shape), tuple_to_list(Answer))
    );
fits(Shape, Answer) -> Shape =:= Answer.

%%% What is called, and with what

calls(Sort) ->
    Functions = functions(Sort),
    [call(lists:nth(rand:uniform(length(Functions)), Functions)) || _ <- lists:seq(1, ?BATCH)].

functions(native) -> native();
functions(public) -> [Function || {_, _, [_ | _], _} = Function <- public()];
functions(internal) -> internal();
functions(storm) ->
    native() ++ [Function || {Module, _, _, _} = Function <- functions(public), Module =/= proctab].

call({Module, Function, Arity}) ->
    {Module, Function, [recipe(harmless) || _ <- lists:seq(1, Arity)]};
call({Module, Function, Kinds, _}) ->
    %% Nothing wrong, one thing, or perhaps all of them.
    Wrong = case rand:uniform(10) of
        N when N =< 3 -> [];
        10 -> [Place || Place <- lists:seq(1, length(Kinds)), rand:uniform(2) =:= 1];
        _ when Kinds =:= [] -> [];
        _ -> [rand:uniform(length(Kinds))]
    end,
    Places = lists:zip(lists:seq(1, length(Kinds)), Kinds),
    {
        Module,
        Function,
        [
            case lists:member(Place, Wrong) of
                true -> strange(Kind);
                false -> good(Kind)
            end
         || {Place, Kind} <- Places
        ]
    }.

%% A term that may be anything, but for what would harm when it is right.
strange(Kind) when Kind =:= right_zone; Kind =:= server; Kind =:= folding -> good(Kind);
strange(proper_list) ->
    one([
        recipe(any),
        {improper, [{tuple, [key(), simple()]} || _ <- lists:seq(1, rand:uniform(3))]},
        {improper_pairs, one([2, 1000])}
    ]);
strange(attributes) -> strange(proper_list);
strange(timeout) ->
    one([-1, {bignum, -1, 1000}, 0.0, 1.5, soon, "1", <<>>, [], {tuple, [0]}, dead]);
strange(sent) -> one([recipe(harmless), changed(good(sent))]);
strange(existing) -> one([recipe(harmless), changed(good(existing))]);
strange(Kind) when Kind =:= via_name; Kind =:= registered_name ->
    one([recipe(any), {tuple, [one([?ZONE, recipe(any)]), recipe(any)]}]);
strange(options) ->
    one([
        recipe(harmless),
        {map, [{restart, one([no, 0, []])}]},
        {map, [{recipe(harmless), true}]}
    ]);
strange(operation) ->
    one([recipe(any), {tuple, [one([1, 2, 3]), recipe(harmless)]}, {tuple, [2, 1, recipe(any)]}]);
strange(natural) -> one([-1, 1.0, recipe(harmless)]);
strange(Kind) when Kind =:= from; Kind =:= part ->
    one([-1, 1 bsl 31, 1 bsl 32, 1 bsl 62, 1 bsl 63, 1 bsl 64, recipe(any)]);
strange(_) -> recipe(any).

changed({tuple, Elements}) ->
    Place = rand:uniform(length(Elements)),
    {Before, [Element | After]} = lists:split(Place - 1, Elements),
    {tuple, Before ++ [one([recipe(harmless), changed(Element)]) | After]};
changed(_) ->
    recipe(harmless).

good(zone) -> ?ZONE;
good(right_zone) -> ?ZONE;
good(raw) -> ?RAW;
good(zone_or_handle) -> one([?RAW, handle, gone]);
good(waits) -> waits;
good(table) -> ?TABLE;
good(new_zone) -> one([bad_input_new, bad_input_other, ?GONE]);
good(new_table) -> one([bad_input_new, ?TABLE]);
good(zone_name) -> one([bad_input_new, ?ZONE, ?GONE]);
good(options) -> one([{map, []}, {map, [{restart, false}]}]);
good(atom) -> one([?ZONE, ?ZONE, ?ZONE, ?GONE]);
good(pid) -> one([dummy, dead]);
good(living) -> one([dummy, self]);
good(any_pid) -> one([dummy, dead, remote_pid]);
good(pid_or_launching) -> one([launching, dummy, dead, remote_pid]);
good(proper_list) ->
    {list, one([[], [{tuple, [n, 2]}], [n, url], [{tuple, [key(), recipe(any)]}, recipe(any)]])};
good(attributes) -> one([good(proper_list), {map, [{key(), recipe(any)}]}]);
good(integer) -> one([0, 1, -1, 1 bsl 62, -(1 bsl 64), {bignum, 1, 1000}]);
good(operation) ->
    Tuple = fun(Size) -> {tuple, [2 | [good(integer) || _ <- lists:seq(1, Size)]]} end,
    one([good(integer), Tuple(1), Tuple(3)]);
good(natural) -> one([0, 1, 10, 1 bsl 64]);
good(Kind) when Kind =:= from; Kind =:= part -> one([0, 0, 1, 5]);
good(page_of) -> one([children, names, pids, sizes, attributes, {list, [n]}]);
good(timeout) -> one([0, 0, 1]);
good(folding) -> folding;
good(via_name) -> {tuple, [one([?ZONE, ?GONE]), name()]};
good(registered_name) -> {tuple, [?ZONE, name()]};
good(existing) ->
    one([{tuple, [name(), dummy, worker, {list, []}]}, {tuple, [dummy, full_spec()]}]);
good(sent) ->
    one([
        {tuple, [name(), start(), temporary]},
        full_spec(),
        {map, [{id, name()}, {start, start()}]},
        name()
    ]);
good(server) -> one([?ZONE, metrics_process_tracker, stats_hero_monitor]);
good(any) -> one([name(), key(), name(), key(), recipe(any)]).

full_spec() ->
    {
        tuple,
        [
            name(),
            start(),
            one([permanent, transient, temporary]),
            one([200, infinity, brutal_kill]),
            worker,
            {list, [?MODULE]}
        ]
    }.

start() ->
    {tuple, [?MODULE, start_child, {list, [{list, []}]}]}.

name() ->
    one([?NAME, ?NAME, other, starting, orphan, nobody, begun, 1, 1.0]).

key() ->
    one([n, n, url, none, -0.0, 0.0]).

%% Costly ones come rarely. What is sent as a message is copied by the VM, however often its parts are shared; and what is written as text is not short.
recipe(harmless) ->
    case rand:uniform(200) of
        1 ->
            one([
                {nested, list, 100000},
                {nested, tuple, 100000},
                {long_list, 100000},
                {binary, 1000000},
                {bignum, one([1, -1]), 10000}
            ]);
        N when N < 40 ->
            {
                one([list, tuple, improper]),
                [recipe(harmless) || _ <- lists:seq(1, rand:uniform(4))]
            };
        _ -> simple()
    end;
recipe(any) ->
    case rand:uniform(1000) of
        1 ->
            one([
                {long_list, 1000000},
                {wide_tuple, 1000000},
                {wide_map, 100000},
                {nested, map, 100000}
            ]);
        %% What does not begin at a byte the VM copies on whatever scheduler that is, so it is not over a millisecond's worth of it.
        2 ->
            one([
                {binary, 10000000},
                {sub_binary, 10000000},
                {unaligned, 100000},
                {bitstring, 10000000},
                {bignum, one([1, -1]), 332193}
            ]);
        N when N < 5 ->
            one([
                {nested, list, 100000},
                {nested, tail, 100000},
                {nested, tuple, 100000},
                {improper_pairs, 10000},
                {long_list, 100000}
            ]);
        N when N < 20 ->
            one([
                {nested, list, 5000},
                {nested, tail, 5000},
                {nested, tuple, 5000},
                {improper_pairs, 1000},
                {long_list, 5000}
            ]);
        N when N < 40 ->
            one([
                {unaligned, 5000},
                {bitstring, 5000},
                {sub_binary, 5000},
                {wide_map, 40},
                {wide_tuple, 1000},
                {bignum, 1, 10000}
            ]);
        N when N < 45 -> {shared, 12};
        N when N =:= 45 -> {shared, one([60 | lists:duplicate(49, 16)])};
        N when N < 200 ->
            {one([list, tuple, improper]), [recipe(any) || _ <- lists:seq(1, rand:uniform(4))]};
        N when N < 250 -> {map, [{recipe(any), recipe(any)} || _ <- lists:seq(1, rand:uniform(3))]};
        _ -> simple()
    end.

simple() ->
    one([
        atom, undefined, true, launching, '', n, url, ?NAME, <<>>, <<
            "nobody"
        >>, "string", <<1:3>>, 0, 1, -1, 1.0, 0.0, -0.0, 1 bsl 59, 1 bsl 63,
        -(1 bsl 63), 1 bsl 64, [], {tuple, []}, {map, []}, {improper, [1, 2]}, {improper_pairs, 2}, {
            list,
            [{tuple, [n, 2]}]
        }, {collides, 0}, {collides, 1}
    ] ++ [dead, dummy, remote_pid, remote_port, remote_reference, reference, port, gone, ets, atomics, counters, regex] ++
        [local_fun, external_fun, unloaded_fun, shared_fun]).

one(Terms) ->
    lists:nth(rand:uniform(length(Terms)), Terms).

is_large({_, _, Recipes}) ->
    lists:any(fun is_shared/1, Recipes).

is_shared({shared, Depth}) -> Depth > 50;
is_shared(Recipe) when is_tuple(Recipe) -> lists:any(fun is_shared/1, tuple_to_list(Recipe));
is_shared(Recipe) when is_list(Recipe) -> lists:any(fun is_shared/1, Recipe);
is_shared(_) -> false.

%% The term that a recipe says.
make({list, Recipes}, World) -> [make(Recipe, World) || Recipe <- Recipes];
make({tuple, Recipes}, World) -> list_to_tuple(make({list, Recipes}, World));
make({improper, Recipes}, World) -> make({list, Recipes}, World) ++ improper;
make({map, Recipes}, World) ->
    maps:from_list([{make(Key, World), make(Value, World)} || {Key, Value} <- Recipes]);
make({improper_pairs, Length}, _) -> [{N, N} || N <- lists:seq(1, Length)] ++ {n, 2};
make({long_list, Length}, _) -> lists:seq(1, Length);
make({wide_tuple, Size}, _) -> erlang:make_tuple(Size, n);
make({wide_map, Size}, _) -> maps:from_keys(lists:seq(1, Size), n);
make({nested, How, Depth}, _) -> nested(How, Depth, []);
make({shared, Depth}, _) -> lists:foldl(fun(_, Part) -> {Part, Part} end, [], lists:seq(1, Depth));
make({binary, Size}, _) -> binary:copy(<<7>>, Size);
make({sub_binary, Size}, _) -> binary:part(binary:copy(<<7>>, Size + 2), 1, Size);
make({unaligned, Size}, _) ->
    <<_:3, Unaligned:Size/binary, _:5>> = binary:copy(<<7>>, Size + 1),
    Unaligned;
make({bitstring, Size}, _) ->
    <<_:3, Bits/bitstring>> = binary:copy(<<7>>, Size),
    Bits;
make({bignum, Sign, Bits}, _) -> Sign * (1 bsl Bits + 1);
%% The same hash for all that look at 27 bits of it.
make({collides, N}, _) -> element(N + 1, {{1, 134217728}, {1, 0}});
%% Nobody waits for a connection to such a node: with short names there is none, with long ones it is refused.
make(remote_pid, _) -> binary_to_term(<<131, 88, 119, 14, "else@127.0.0.1", 99:32, 0:32, 1:32>>);
make(remote_port, _) -> binary_to_term(<<131, 89, 119, 14, "else@127.0.0.1", 99:32, 1:32>>);
make(remote_reference, _) ->
    binary_to_term(<<131, 90, 3:16, 119, 14, "else@127.0.0.1", 1:32, 1:32, 2:32, 3:32>>);
make(unloaded_fun, _) ->
    binary_to_term(<<131, 113, 119, 9, "no_module", 119, 11, "no_function", 97, 1>>);
make(external_fun, _) -> fun lists:reverse/1;
make(local_fun, _) -> fun(Argument) -> Argument end;
make(shared_fun, World) -> fun() -> World end;
make(folding, _) -> fun(_, _, Acc) -> Acc end;
make(reference, _) -> make_ref();
make(port, _) -> hd(erlang:ports());
make(ets, _) -> ets:whereis(ac_tab);
make(atomics, _) -> atomics:new(1, []);
make(counters, _) -> counters:new(1, []);
make(regex, _) -> element(2, re:compile("a"));
make(Key, World) when is_map_key(Key, World) -> map_get(Key, World);
make(Term, _) -> Term.

nested(_, 0, Inner) -> Inner;
nested(list, Depth, Inner) -> nested(list, Depth - 1, [Inner]);
nested(tail, Depth, Inner) -> nested(tail, Depth - 1, [a, Inner | b]);
nested(tuple, Depth, Inner) -> nested(tuple, Depth - 1, {a, Inner});
nested(map, Depth, Inner) -> nested(map, Depth - 1, #{Inner => []}).

%%% Storms

%% The zone ends and starts again while it is called, and so are the callers that are killed. Nothing but the answer's class can be told.
storm(Calls) ->
    {Ender, EnderMonitor} = spawn_monitor(fun end_zones/0),
    Callers = [
        {rand:uniform(3), spawn_monitor(fun() -> stormy(Portion) end)}
     || Portion <- portions(Calls)
    ],
    %% Those that are killed in the middle are the first.
    Results = [caller_ended(Caller, Which) || {Which, Caller} <- lists:sort(Callers)],
    Ender ! stop,
    receive
        {'DOWN', EnderMonitor, process, Ender, Ended} -> normal = Ended
    end,
    case [Wrong || {wrong, _, _} = Wrong <- Results] of
        [] ->
            {
                ok,
                #{
                    storm_calls => length(Calls),
                    storm_killed => length([killed || killed <- Results])
                }
            };
        [{wrong, Why, Call} | _] -> {failed, Why, [Call]}
    end.

portions([]) -> [];
portions(Calls) ->
    {Some, Rest} = lists:split(min(25, length(Calls)), Calls),
    [Some | portions(Rest)].

stormy(Calls) ->
    Dummy = dummy(),
    World = #{
        sort => storm,
        dead => Dummy,
        dummy => Dummy,
        self => self(),
        gone => gone_or_made(),
        handle => make_ref(),
        waits => make_ref()
    },
    exit(lists:foldl(fun(Call, Result) -> stormy_call(Call, World, Result) end, done, Calls)).

gone_or_made() ->
    try
        gone()
    catch
        error:badarg -> make_ref()
    end.

stormy_call(_, _, {wrong, _, _} = Wrong) ->
    Wrong;
stormy_call({Module, Function, Recipes} = Call, World, done) ->
    Answer = outcome(Module, Function, [make(Recipe, World) || Recipe <- Recipes]),
    {_, Shapes} = expected(Call),
    Exits = [{raised, exit, any}, {raised, error, badarg}, badarg, {error, any} | Shapes],
    case lists:any(fun(Shape) -> fits(Shape, Answer) end, Exits) of
        true -> done;
        false -> {wrong, {answer, brief(Answer)}, Call}
    end.

%% Every third is killed in the middle, if it has come to no end by then.
caller_ended({Pid, _} = Caller, 1) ->
    erlang:yield(),
    exit(Pid, kill),
    caller_ended(Caller, killed);
caller_ended({Pid, Monitor}, _) ->
    receive
        {'DOWN', Monitor, process, Pid, {wrong, _, _} = Wrong} -> Wrong;
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    after ?PATIENCE ->
        Where = process_info(Pid, current_stacktrace),
        _ = tracked_child:kill(Pid),
        {wrong, {hangs, Where}, unknown}
    end.

%% What a turn has opened ends with its process. Callers may have opened or changed the same just then, and it comes to nothing.
end_zones() ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        process_flag(trap_exit, true),
        _ = world(native),
        _ = world(public),
        receive
        after 3 -> exit(ended)
        end
    end),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end,
    receive
        stop ->
            tracked_process:eventually(fun() ->
                lists:all(fun(Name) -> whereis(Name) =:= undefined end, servers())
            end)
    after 0 -> end_zones()
    end.

servers() ->
    [
        ?ZONE,
        metrics_process_tracker,
        stats_hero_monitor,
        metrics_process_tracker_reaper,
        stats_hero_monitor_reaper
    ].
