%% Calls every exported function of the library with random terms in every position, and checks that
%% wrong arguments are refused and change nothing. `bad_input_SUITE` and the soak run it.
%%
%% A round makes batches of calls, which depend on nothing but its seed. A batch has one of four
%% modes:
%%
%% - `native`: the functions of `proctab_nif`, on a zone and a table that the caller owns. The
%%   caller is also a keeper in this zone.
%% - `public`: the functions for users, on running servers.
%% - `internal`: callbacks and other functions that are not for users. They may raise any exception,
%%   and are killed when they wait.
%% - `storm`: native and public functions, called by several processes while another process starts
%%   and ends the zones and tables. Some of the callers are killed.
%%
%% In the modes `native` and `public`, zones and tables are compared before and after each call. A
%% call that fails must not change them. After any other change, new ones are set up. In all modes,
%% the bystander must not change: a zone and a table that no call names.
%%
%% A call is represented as `{Module, Function, Recipes}`. A recipe describes how to make a term. It
%% is short however large the term is, so a failed call can be printed and repeated. Most calls have
%% one wrong argument at most: a call with several fails at the first of them.
-module(bad_input).

-export([round/1, replay/1, exported/0, covered/0]).
-export([start_child/1, discard_output/0]).

-compile({no_auto_import, [round/1]}).

-define(NAME, <<"tv1">>).
-define(ZONE, bad_input_zone).
%% Zones on several nodes, of which there is one. The second has no children.
-define(CLUSTER, bad_input_cluster).
-define(DRAINED, bad_input_drained).
-define(RAW, bad_input_raw).
-define(TABLE, bad_input_table).
-define(CLOSED, bad_input_closed).
-define(BYSTANDER, bad_input_bystander).
%% No call waits for a connection to this node: it is impossible with short names, and refused with
%% long ones.
-define(REMOTE_NODE, <<"else@127.0.0.1">>).
-define(MODULES, [
    gen_tracker,
    gen_tracker_cluster,
    gen_tracker_requests,
    gen_tracker_keeper,
    gen_tracker_registrar,
    gen_tracker_events,
    gen_tracker_shutdown,
    gen_tracker_reports,
    metrics_process_tracker,
    stats_hero_monitor,
    proctab,
    proctab_nif,
    proctab_errors,
    proctab_reaper,
    proctab_swap,
    proctab_view
]).
%% Calls of one batch, and the time limit of a batch in milliseconds.
-define(BATCH, 250).
-define(TIMEOUT, 120000).
%% The number of batches in a round, by mode.
-define(BATCHES, [{native, 20}, {public, 10}, {internal, 2}, {storm, 2}]).
%% The number of atoms that a round may make, by loading modules. A function that makes atoms of its
%% arguments makes more.
-define(ATOMS, 100).

%% The indexes of the zones whose functions are called.
-define(INDEX, [n, {each, url}]).

%%% Rounds

%% Makes a round of calls. Returns `{ok, Figures}`, or `{failed, History}` for `replay/1`.
round(Seed) ->
    kept_log:without(fun() ->
        Modes = lists:append([lists:duplicate(Times, Mode) || {Mode, Times} <- ?BATCHES]),
        with_bystander(fun(Snapshot) ->
            %% This fun has a process of its own, which draws the calls.
            _ = rand:seed(exsss, Seed),
            case batches(Seed, [{public, first_calls()}], Snapshot, #{}) of
                {ok, Figures} ->
                    checked_atoms(
                        Seed,
                        erlang:system_info(atom_count),
                        batches(Seed, [{Mode, calls(Mode)} || Mode <- Modes], Snapshot, Figures)
                    );
                Failed ->
                    Failed
            end
        end)
    end).

%% Returns the calls before the count of atoms begins: calls that load modules, and the functions
%% without arguments, which are called only once a round because they may read all zones.
first_calls() ->
    [call(Function) || {_, _, [], _} = Function <- public()] ++
        [{stats_hero_monitor, register, [remote_pid]}, {gen_tracker, wait, [nothing]}].

checked_atoms(Seed, Before, {ok, Figures}) ->
    case erlang:system_info(atom_count) - Before of
        Atoms when Atoms > ?ATOMS ->
            {failed, #{seed => Seed, why => {atoms, Atoms}, mode => round, calls => []}};
        _ ->
            {ok, Figures}
    end;
checked_atoms(_, _, Failed) ->
    Failed.

%% Repeats the calls of a history, or makes a round with its seed if it has no calls.
replay(#{mode := round, seed := Seed}) ->
    round(Seed);
replay(#{mode := Mode, seed := Seed, calls := Calls}) ->
    kept_log:without(fun() ->
        with_bystander(fun(Snapshot) -> batches(Seed, [{Mode, Calls}], Snapshot, #{}) end)
    end).

batches(_, [], _, Figures) ->
    {ok, Figures};
batches(Seed, [{Mode, Calls} | Rest], Snapshot, Figures) ->
    History = #{seed => Seed, mode => Mode},
    Before = Snapshot(),
    Result = batch(Mode, Calls),
    case {Result, Snapshot()} of
        {{ok, Counted}, Before} ->
            Add = fun(_, One, Other) -> One + Other end,
            batches(Seed, Rest, Snapshot, maps:merge_with(Add, Counted, Figures));
        {{ok, _}, After} ->
            Changed = History#{why => {bystander, Before, After}, calls => Calls},
            {failed, bisected(Changed, Snapshot)};
        {{failed, Why, Failed}, _} ->
            {failed, History#{why => Why, calls => Failed}}
    end.

%% Bisects the calls of a batch that changed the bystander, until neither half of them changes it.
bisected(#{calls := [_]} = History, _) ->
    History;
bisected(#{calls := Calls, mode := Mode} = History, Snapshot) ->
    {First, Second} = lists:split(length(Calls) div 2, Calls),
    Failing = [
        Half
     || Half <- [First, Second],
        begin
            Before = Snapshot(),
            _ = batch(Mode, Half),
            Before =/= Snapshot()
        end
    ],
    case Failing of
        [Half | _] -> bisected(History#{calls := Half}, Snapshot);
        [] -> History
    end.

%% Makes calls in a new process. Returns `{ok, Figures}` or `{failed, Why, FailedCalls}`.
batch(storm, Calls) ->
    storm(Calls);
batch(Mode, Calls) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({result, make_calls(Mode, Calls)}) end),
    receive
        {'DOWN', Monitor, process, Pid, {result, Result}} -> Result;
        {'DOWN', Monitor, process, Pid, Reason} -> {failed, {caller, Reason}, Calls}
    after ?TIMEOUT ->
        Why = {hangs, process_info(Pid, current_stacktrace)},
        _ = tracked_child:kill(Pid),
        {failed, Why, Calls}
    end.

%% Sets up the bystander, and calls a fun with a function that returns a snapshot of the bystander.
with_bystander(Fun) ->
    callers:apart(fun() ->
        ok = ledger_backend:open(),
        Zone = zones:zone(?BYSTANDER),
        Child = tracked_child:open(?BYSTANDER, ?NAME),
        ok = gen_tracker:setattr(?BYSTANDER, ?NAME, [
            {n, 1},
            {float, -0.0},
            {list, lists:seq(1, 100)},
            {binary, binary:copy(<<1>>, 10000)}
        ]),
        ok = proctab_nif:processes_open(?BYSTANDER, self()),
        ok = proctab_nif:register(?BYSTANDER, Child, ?NAME),
        try
            Fun(fun() ->
                {
                    whereis(Zone),
                    is_process_alive(Child),
                    zone_contents(?BYSTANDER),
                    table_contents(?BYSTANDER),
                    zone_figures(?BYSTANDER)
                }
            end)
        after
            ok = proctab_nif:processes_close(?BYSTANDER),
            zones:stop_zone(?BYSTANDER),
            ledger_backend:close()
        end
    end).

zone_figures(Zone) ->
    maps:with([children, attributes, memory, states, without_child], proctab:info(Zone)).

zone_contents(Zone) ->
    Sizes = pages(fun(From) -> proctab_nif:page(Zone, From, sizes, []) end, 0),
    Children = pages(fun(From) -> proctab_nif:page(Zone, From, children, []) end, 0),
    {
        lists:sort(Sizes),
        lists:sort(Children),
        [lists:sort(proctab_nif:attrs(Zone, Name)) || {Name, _, _, _} <- lists:sort(Sizes)]
    }.

%% Returns the counts and registrations of a table of processes.
table_contents(Table) ->
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

%%% Calls of one process

make_calls(Mode, Calls) ->
    process_flag(trap_exit, true),
    group_leader(spawn_link(?MODULE, discard_output, []), self()),
    Fixture = set_up(Mode),
    make_calls(Calls, Fixture, snapshot(Fixture), #{}).

make_calls([], Fixture, _, Figures) ->
    tear_down(Fixture),
    {ok, Figures};
make_calls([Call | Calls], Fixture, Before, Figures) ->
    Outcome = outcome(Call, Fixture),
    Messages = received_messages(Fixture),
    After = snapshot(Fixture),
    case judge(Call, Outcome, Messages, Before =:= After) of
        {wrong, Why} ->
            {failed, Why, [Call]};
        Counted ->
            Next = maps:update_with(Counted, fun(N) -> N + 1 end, 1, Figures),
            case Before =:= After of
                true ->
                    make_calls(Calls, Fixture, Before, Next);
                false ->
                    tear_down(Fixture),
                    NewFixture = set_up(maps:get(mode, Fixture)),
                    make_calls(Calls, NewFixture, snapshot(NewFixture), Next)
            end
    end.

%% A group leader that prints nothing.
discard_output() ->
    receive
        {io_request, From, As, _} ->
            From ! {io_reply, As, ok},
            ?MODULE:discard_output();
        _ ->
            ?MODULE:discard_output()
    end.

%% Makes a call. Returns `{IsValid, Fits, Text}`: whether all arguments are valid, whether the
%% result fits the signature of the function, and the beginning of the result as text, since the
%% whole result may be large. Returns `done`, `killed` or `panicked` for an internal function.
outcome({Module, Function, Recipes}, #{mode := internal} = Fixture) ->
    %% An internal function may wait, or end the process that calls it.
    {Pid, Monitor} = spawn_monitor(fun() ->
        exit({done, result(Module, Function, [make(Recipe, Fixture) || Recipe <- Recipes])})
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
outcome({Module, Function, Recipes} = Call, Fixture) ->
    Arguments = [make(Recipe, Fixture) || Recipe <- Recipes],
    {Kinds, Shapes} = signature(Call),
    IsValid = lists:all(
        fun({Kind, Argument}) -> is_valid(Kind, Argument, Fixture) end, lists:zip(Kinds, Arguments)
    ),
    Result = result(Module, Function, Arguments),
    Fits = lists:any(fun(Shape) -> fits(Shape, Result) end, Shapes),
    {IsValid, Fits, brief(Result)}.

result(Module, Function, Arguments) ->
    try
        apply(Module, Function, Arguments)
    catch
        error:badarg -> badarg;
        Class:Reason -> {raised, Class, Reason}
    end.

brief(badarg) -> badarg;
brief(Result) -> lists:flatten(io_lib:format("~0tP", [outline(Result, 4), 8])).

%% Returns the outermost levels of a term, which may be too large to be written as text. Large
%% integers take too long to print.
outline(Integer, _) when is_integer(Integer), abs(Integer) > 1 bsl 64 ->
    large;
outline(Tuple, Levels) when is_tuple(Tuple), tuple_size(Tuple) < 6, Levels > 0 ->
    list_to_tuple([outline(Element, Levels - 1) || Element <- tuple_to_list(Tuple)]);
outline(Other, _) when is_atom(Other); is_pid(Other); is_integer(Other); is_reference(Other) ->
    Other;
outline(_, _) ->
    '_'.

%% Returns the figure that counts a call, or `{wrong, Why}`. The last argument says whether the
%% snapshots before and after the call are equal.
judge(_, panicked, _, _) ->
    {wrong, panicked};
judge(_, Ended, _, _) when is_atom(Ended) ->
    Ended;
judge(Call, {true, Fits, Text}, Messages, _) ->
    case Fits orelse Text =:= badarg andalso has_endless_term(Call) of
        true when Messages =/= [], Text =:= badarg -> {wrong, {messages, Messages}};
        true when Text =:= badarg -> refused;
        true -> checked_messages(Messages);
        false -> {wrong, {answer, Text}}
    end;
judge(_, {false, _, badarg}, [], true) ->
    refused;
%% Without keys, `info/3` returns no attributes for any zone.
judge({gen_tracker, info, [_, _, Keys]}, {false, true, _}, [], true) when
    Keys =:= {list, []}; Keys =:= []
->
    answered;
%% These functions return `false' if there is no such table.
judge({proctab_nif, Function, _}, {false, true, _}, [], true) when
    Function =:= try_register; Function =:= cleaned
->
    refused;
judge(_, {false, _, badarg}, Messages, Unchanged) ->
    {wrong, {refused_but, {messages, Messages}, {unchanged, Unchanged}}};
%% A pid of an unreachable node in place of the zone causes this exit instead of `badarg`.
judge(_, {false, _, "{raised,exit,{{nodedown" ++ _}, [], true) ->
    refused;
judge(_, {false, _, Text}, _, _) ->
    {wrong, {taken, Text}}.

checked_messages(Messages) ->
    case [Message || Message <- Messages, not lists:member(tag(Message), allowed_tags())] of
        [] -> answered;
        Unknown -> {wrong, {messages, Unknown}}
    end.

tag({Secret, Event}) when is_integer(Secret), is_tuple(Event) -> element(1, Event);
tag(Message) when is_tuple(Message) -> element(1, Message);
tag(Message) -> Message.

%% The first elements of the messages that successful calls make the library send to the caller.
allowed_tags() ->
    [up, down, held, free, copied, '$proctab_woken', '$proctab_detached', '$proctab_dead'] ++
        ['$gen_cast', 'EXIT', gen_tracker, gen_tracker_cluster].

%% Takes the messages of the caller, without those that any call may cause.
received_messages(#{mode := Mode}) ->
    receive
        {gen_tracker, ?ZONE, _} -> received_messages(#{mode => Mode});
        {gen_tracker_cluster, _, _} -> received_messages(#{mode => Mode});
        {'EXIT', _, _} when Mode =:= public -> received_messages(#{mode => Mode});
        Message -> [Message | received_messages(#{mode => Mode})]
    after 0 -> []
    end.

%%% Zones and tables to be called

%% Starts what the functions of a mode are called with: zones, tables and processes.
set_up(Mode) ->
    Dead = spawn(fun() -> ok end),
    _ = tracked_child:down(Dead),
    Dummy = dummy(),
    Closed = closed_handle(),
    Common = #{
        mode => Mode,
        dead => Dead,
        dummy => Dummy,
        closed_handle => Closed,
        self => self()
    },
    open(Mode, Common).

dummy() ->
    spawn_link(fun() ->
        receive
            stop -> ok
        end
    end).

%% Returns the handle of a zone that has ended.
closed_handle() ->
    Handle = proctab_nif:zone_open(?CLOSED, shared),
    ok = proctab_nif:zone_close(?CLOSED),
    Handle.

open(public, #{dummy := Dummy} = Fixture) ->
    Test = self(),
    {Host, Monitor} = spawn_opt(
        fun() ->
            start_servers(Dummy),
            Test ! {hosting, self()},
            receive
                stop -> ok
            end
        end,
        [link, monitor]
    ),
    receive
        {hosting, Host} ->
            demonitor(Monitor),
            Fixture#{host => Host, handle => make_ref(), waits => make_ref()};
        {'DOWN', Monitor, process, Host, Reason} ->
            error(Reason)
    end;
open(_, #{dummy := Dummy} = Fixture) ->
    Handle = proctab_nif:zone_open(?RAW, shared, ?INDEX, infinity),
    true = proctab_nif:insert(?RAW, ?NAME, self(), {spec}, Dummy),
    true = proctab_nif:insert(?RAW, other, Dummy, {spec}, Dummy),
    true = proctab_nif:insert(?RAW, starting, self(), {spec}, launching),
    ok = proctab_nif:setattr(?RAW, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    true = proctab_nif:set_missing(?RAW, orphan, n, 1),
    {Waits, _, _} = proctab_nif:wait_for(?RAW, ?NAME, late),
    ok = proctab_nif:processes_open(?TABLE, self()),
    ok = proctab_nif:register(?TABLE, Dummy, ?NAME),
    begun = proctab_nif:begin_registering(?TABLE, Dummy, begun),
    _ = messages:flush(),
    Fixture#{handle => Handle, waits => Waits}.

start_servers(Dummy) ->
    {ok, _} = gen_tracker:start_link(?ZONE, #{index => ?INDEX}),
    {ok, _} = gen_tracker:find_or_open(?ZONE, {?NAME, {?MODULE, start_child, [[]]}, temporary}),
    ok = gen_tracker:setattr(?ZONE, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    {ok, _} = gen_tracker:start_link(?DRAINED, #{cluster => true}),
    {ok, _} = gen_tracker:start_link(?CLUSTER, #{index => ?INDEX, cluster => #{copied => [n]}}),
    wait:until(fun() -> gen_tracker_cluster:home(?CLUSTER, ?NAME) =:= node() end),
    {ok, _} = gen_tracker_cluster:find_or_open(?CLUSTER, {?NAME, {?MODULE, start_child, [[]]},
        temporary}),
    ok = gen_tracker:setattr(?CLUSTER, ?NAME, [{n, 1}, {url, <<"rtmp://a">>}]),
    {ok, _} = metrics_process_tracker:start_link(),
    {ok, _} = stats_hero_monitor:start_link(),
    ok = metrics_process_tracker:track(?NAME, Dummy).

%% Starts a child of the zone.
start_child(_) ->
    {ok, dummy()}.

tear_down(#{mode := public, host := Host, dummy := Dummy} = Fixture) ->
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
     || Pid <- started_zones()
    ],
    _ = tracked_child:kill(Dummy),
    _ = received_messages(Fixture),
    ok;
tear_down(#{dummy := Dummy}) ->
    [
        ok = proctab_nif:zone_close(Zone)
     || {zone, Zone, Owner} <- proctab_nif:tables(), Owner =:= self(), Zone =/= ?BYSTANDER
    ],
    [
        ok = proctab_nif:processes_close(Table)
     || {processes, Table, Owner} <- proctab_nif:tables(), Owner =:= self() orelse Owner =:= Dummy
    ],
    _ = tracked_child:kill(Dummy),
    messages:flush().

%% Returns the trackers of the zones that the calling process has started.
started_zones() ->
    {links, Links} = process_info(self(), links),
    [Owner || {zone, _, Owner} <- proctab_nif:tables(), lists:member(Owner, Links)].

%% Returns everything that a call must not change if it fails.
snapshot(#{mode := internal}) ->
    same;
snapshot(#{mode := public}) ->
    Servers = [whereis(Name) || Name <- servers()] ++ cluster_processes(),
    {
        Servers,
        tables(),
        or_closed(fun() ->
            {
                zone_contents(?ZONE),
                proctab_nif:waiting(?ZONE),
                zone_contents(?CLUSTER),
                proctab_nif:waiting(?CLUSTER),
                table_contents(metrics_process_tracker),
                table_contents(stats_hero_monitor)
            }
        end)
    };
snapshot(#{mode := native}) ->
    {
        tables(),
        or_closed(fun() ->
            {zone_contents(?RAW), proctab_nif:waiting(?RAW), table_contents(?TABLE)}
        end)
    }.

cluster_processes() ->
    or_closed(fun() ->
        [element(1, proctab_nif:cluster_shared(Zone)) || Zone <- [?CLUSTER, ?DRAINED]]
    end).

tables() ->
    lists:sort(proctab_nif:tables()).

%% Returns what a fun reads, or `closed` if a zone or table is closed.
or_closed(Fun) ->
    try
        Fun()
    catch
        error:badarg -> closed
    end.

%%% Signatures

%% Returns the functions that the library exports, without those that the compiler adds.
exported() ->
    [
        {Module, Function, Arity}
     || Module <- ?MODULES,
        {Function, Arity} <- Module:module_info(exports),
        Function =/= module_info
    ].

%% Returns the functions that a round calls, and `load/0`, which only suites call that can undo it.
covered() ->
    Called = [
        {Module, Function, length(Kinds)}
     || {Module, Function, Kinds, _} <- native() ++ public(),
        Module =/= supervisor,
        Module =/= gen_server
    ],
    Called ++ [{proctab, load, 0}, {proctab_swap, load, 0} | internal()].

%% Returns the kinds of the arguments of a function, and the shapes of its results for valid
%% arguments.
signature({Module, Function, Recipes}) ->
    [Signature] = [
        {Kinds, Shapes}
     || {M, F, Kinds, Shapes} <- native() ++ public(),
        M =:= Module,
        F =:= Function,
        length(Kinds) =:= length(Recipes)
    ],
    Signature.

signatures(Module, Functions) ->
    [{Module, Function, Kinds, Shapes} || {Function, Kinds, Shapes} <- Functions].

%% The native functions.
native() ->
    signatures(proctab_nif, zone_functions() ++ table_functions()).

zone_functions() ->
    [
        {zone_open, [new_zone, any], [reference]},
        {zone_open, [new_zone, any, index, most], [reference]},
        {check_keys, [index], [ok]},
        {lookup, [raw, indexed, any, from, looked_up, any], [{any, integer}, {any, done}]},
        {count, [raw, indexed, any], [integer]},
        {values_page, [raw, indexed, part, any], [{any, integer}, {any, done}]},
        {indexes, [raw], [list]},
        {index_page, [raw, indexed, part], [any]},
        {zone_stop, [zone_or_handle], [ok]},
        {zone_close, [zone_or_handle], [ok]},
        {tables, [], [list]},
        {was_stopped, [zone_or_handle], [true, false]},
        {owner, [raw], [pid]},
        {count, [raw], [integer]},
        {insert, [raw, any, pid, any, pid_or_start], [true, false, full, not_home]},
        {opening, [raw, any, any, any], [held, callback, {free, reference, pid}]},
        {launch, [zone_or_handle, any, any, start],
            [{any, any, any}, held, full, stopping, not_home]},
        {child, [raw, any], [undefined, {any, any, pid, any}]},
        {await_start, [raw, any], [undefined, {any, any, pid, any}]},
        {kept, [zone_or_handle, pid], [undefined, {any, any, any, any}]},
        {running, [raw, any, any_pid], [true, awaited, stopping, zone_stopping, false]},
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
        {failed, [raw, any], [true, awaited, false]},
        {unregister_name, [raw, any, pid, any], [true, false]},
        {hand_over, [raw, any, pid, pid, any_pid], [true, false]},
        {change_keeper, [raw, pid, pid], [{ok, any}, undefined]},
        {change_keeper, [raw, any, pid, pid], [true, false]},
        {watchdog, [zone_or_handle, pid], [ok]},
        {appoint, [zone_or_handle, position, pid], [ok]},
        {open_registrar, [zone_or_handle, position], [integer, badarg]},
        {close_registrar, [zone_or_handle, position], [true, false]},
        {registrars, [zone_or_handle], [list]},
        {is_own, [zone_or_handle, any_pid], [true, false]},
        {register_name, [raw, any, any, pid_or_home, any], [
            pid, held, full, stopping, own, not_home, {closed, integer}
        ]},
        {reserve_name, [raw, any, pid], [true, false, undefined]},
        {cancel_name, [raw, pid], [ok]},
        {find, [raw, any], [{ok, pid}, undefined]},
        {find_alive, [raw, any], [{ok, pid}, undefined]},
        {may_be_alive, [any_pid], [true, false]},
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
        {open_subscriptions, [atom, atom, pid], [ok]},
        %% The caller may have no subscribers.
        {add_subscriber, [pid], [ok, badarg]},
        {remove_subscriber, [pid], [ok]},
        {cancel_subscriptions, [atom, atom], [ok]},
        {end_subscriptions, [], [true, false]},
        {subscriptions, [place], [{list, any}]},
        {wait_for, [zone_or_handle, any, any], [{reference, integer, pid}]},
        {wait_for_child, [zone_or_handle, any], [{reference, integer, pid}]},
        {cluster_open, [zone_or_handle, any, proper_list], [integer]},
        %% The zone may be one of this node alone, or have no such member.
        {cluster_shared, [raw], [any, badarg]},
        {drain, [zone_or_handle], [true, false, badarg]},
        {add_member, [zone_or_handle, atom, any, any_pid], [integer, badarg]},
        {change_claims, [zone_or_handle, natural, claims], [{list, list}, badarg]},
        {begin_snapshot, [zone_or_handle, natural], [ok, badarg]},
        {end_snapshot, [zone_or_handle, natural], [ok, badarg]},
        {end_member, [zone_or_handle, natural], [ok, badarg]},
        {sweep_claims, [zone_or_handle, natural], [{list, any}, badarg]},
        {find_claim, [raw, any], [{ok, pid}, undefined, badarg]},
        {find_claim_alive, [raw, any], [{ok, pid}, undefined, badarg]},
        {best_claim, [raw, any], [{any, any}, undefined, badarg]},
        {claim_owner, [raw, any], [own, node(), undefined, badarg]},
        {cluster_getattr, [raw, any, any], [{ok, any}, undefined, badarg]},
        {cluster_setattr, [raw, any, proper_list], [ok, void, badarg]},
        {cluster_setattr, [raw, any, any, any], [ok, void, badarg]},
        {cluster_cas, [raw, any, any, any, any], [ok, {current, any}, undefined, void, badarg]},
        %% The integers are looked at only if the zone has a child of the name.
        {cluster_increment, [raw, any, any, any], [integer, large, undefined, badarg]},
        {cluster_increment, [raw, any, any, any, any], [integer, large, undefined, badarg]},
        {cluster_delattr, [raw, any, any], [ok, undefined, badarg]},
        {claims_page, [zone_or_handle, natural, part, any], [{any, any}, badarg]},
        {claims_count, [raw], [integer, badarg]},
        {stop_waiting, [waits], [true, false]},
        {waiting, [raw], [integer]}
    ].

table_functions() ->
    [
        {processes_open, [new_table, living], [ok]},
        {processes_close, [table], [ok]},
        {hold, [table], [ok]},
        {release, [table], [ok]},
        {claim, [table, any_pid], [true, false]},
        {died, [table, any_pid], [ok]},
        {register, [table, any_pid, any], [ok]},
        {try_register, [table, any_pid, any], [true, false]},
        {unregister, [table, any_pid, any], [ok]},
        {begin_registering, [table, any_pid, any], [begun, registered, {busy, pid}]},
        %% `badarg` if the registration was not begun.
        {end_registering, [table, any_pid, any, any], [ok, badarg]},
        {fail_registering, [table, any_pid, any], [ok]},
        {abandon, [table, any_pid, pid], [ok]},
        {open_cleanups, [table], [ok]},
        {reap, [table], [{integer, list, any}]},
        {take_cleanups, [table, pid], [list]},
        {cleaned, [table], [true, false]},
        {give_up, [table, pid], [{pid, any}, none]},
        {deaths, [table], [integer]},
        {registered_names, [table, any_pid], [list]},
        {registered_count, [table, any], [integer]},
        {processes_page, [table, part], [{list, integer}, {list, done}]},
        {remote_page, [table, part], [{list, integer}, {list, done}]},
        {counts_page, [table, part], [{list, integer}, {list, done}]}
    ].

%% The functions for users, and those of OTP that users call on a zone or a server.
public() ->
    signatures(gen_tracker, tracker_functions()) ++
        signatures(gen_tracker_cluster, cluster_functions()) ++
        signatures(metrics_process_tracker, metrics_functions()) ++
        signatures(stats_hero_monitor, monitor_functions()) ++
        signatures(proctab, console_functions()) ++
        signatures(supervisor, supervisor_functions()) ++
        message_functions().

tracker_functions() ->
    Void = {raised, error, {void_setting, any, any, any}},
    [
        {start_link, [zone_name], started()},
        {start_link, [zone_name, options], started()},
        {child_spec, [zone_or_pair], [any]},
        {find, [zone, any], [{ok, pid}, undefined]},
        {find, [zone, any, timeout], [{ok, pid}, undefined]},
        {find_or_open, [atom, sent], opened()},
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
        {lookup, [zone, indexed, any], [list]},
        {count, [zone, indexed, any], [integer]},
        {values, [zone, indexed], [list]},
        {publish, [zone, indexed, any, sent], [integer]},
        {fold, [folding, any, zone], [any]},
        {cas, [zone, any, any, any, any], [ok, {error, {current, any}}, {error, undefined}, Void]},
        {update, [zone, any, any, updating], [{ok, any}, undefined]},
        {select, [zone, match_spec], [list]},
        {select, [zone, match_spec, positive], [{list, any}, '$end_of_table']},
        {select, [continuation], ['$end_of_table']},
        {select_count, [zone, match_spec], [integer]},
        {sum, [zone, any], [integer]},
        {register_name, [registered_name, any_pid], [yes, no]},
        {re_register_name, [registered_name, any_pid], [yes, no]},
        {unregister_name, [via_name], [ok]},
        {whereis_name, [via_name], [pid, undefined]},
        {send, [via_name, sent], [pid, {raised, exit, {badarg, any}}]},
        {subscribe, [zone], [{ok, list}]},
        {subscribe, [zone, filter], [{ok, list}]},
        {unsubscribe, [zone], [ok]}
    ].

cluster_functions() ->
    Void = {raised, error, {void_setting, any, any, any}},
    [
        {find, [cluster, any], [{ok, pid}, undefined]},
        {find_or_open, [cluster_or_none, sent], opened()},
        %% In a storm, the zone may just have started.
        {home, [cluster, any], [node(), undefined]},
        {members, [cluster], [[node()]]},
        {drain, [drained], [ok]},
        {getattr, [cluster, any, any], [{ok, any}, undefined]},
        {getattr, [cluster, any, any, timeout], [{ok, any}, undefined]},
        {info, [cluster, any], [list]},
        {setattr, [cluster, any, attributes], [ok, Void]},
        {setattr, [cluster, any, any, any], [ok, Void]},
        {increment, [cluster, any, any, operation], [integer, badarg]},
        {increment, [cluster, any, any, operation, any], [integer, badarg]},
        {cas, [cluster, any, any, any, any],
            [ok, {error, {current, any}}, {error, undefined}, Void]},
        {delattr, [cluster, any, any], [ok]},
        {count, [cluster], [integer]},
        {names, [cluster], [list]},
        {fold, [folding, any, cluster], [any]},
        {lookup, [cluster, indexed, any], [list]},
        {publish, [cluster, indexed, any, sent], [integer]},
        {register_name, [cluster_name, pid], [yes, no]},
        {unregister_name, [via_name], [ok]},
        {whereis_name, [via_name], [pid, undefined]},
        {send, [via_name, sent], [pid, {raised, exit, {badarg, any}}]},
        {subscribe, [cluster], [{ok, list}]},
        {unsubscribe, [cluster], [ok]}
    ].

metrics_functions() ->
    [
        {start_link, [], started()},
        {track, [any], [ok, {error, any}]},
        {track, [any, any_pid], [ok, {error, any}]},
        {count, [any], [integer]},
        {names, [any_pid], [list]},
        {counts, [], [list]}
    ].

monitor_functions() ->
    [
        {start_link, [], started()},
        {register, [any_pid], [ok]},
        {registered_count, [], [integer]}
    ].

console_functions() ->
    [
        {i, [], [ok]},
        {i, [zone], [ok]},
        {info, [], [any]},
        {info, [zone], [any]},
        {top, [zone, any], [list]},
        {top, [zone, any, natural], [list]},
        {without_child, [zone], [list]},
        {check, [], [ok]},
        {check, [any], [badarg]}
    ].

supervisor_functions() ->
    [
        {start_child, [right_zone, sent], opened()},
        {terminate_child, [right_zone, sent], [ok, {error, any}]},
        {delete_child, [right_zone, sent], [ok, {error, any}]},
        {restart_child, [right_zone, sent], [{error, any}]},
        {get_childspec, [right_zone, sent], [{ok, any}, {error, any}]},
        {which_children, [right_zone], [list]},
        {count_children, [right_zone], [list]}
    ].

started() ->
    [{ok, pid}, {error, {already_started, pid}}].

opened() ->
    [{ok, pid}, {ok, pid, any}, ignore, {error, any}].

message_functions() ->
    [
        {gen_server, call, [server, sent], [{error, any}, bad_call, unhandled]},
        {gen_server, cast, [server, sent], [ok]},
        {erlang, send, [server, sent], [any]}
    ].

%% Returns the exported functions that are not for users. All their arguments are random terms, but
%% not pids of processes that must live.
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
    Users = [gen_tracker, gen_tracker_cluster, metrics_process_tracker, stats_hero_monitor],
    IsInternal = fun(Module, Function) ->
        case lists:member(Module, Users) of
            true ->
                lists:member(Function, Callbacks) orelse
                    {Module, Function} =:= {gen_tracker, init_ack};
            false ->
                not lists:member(Module, [proctab, proctab_nif])
        end
    end,
    [
        Export
     || {Module, Function, Arity} = Export <- exported(),
        {Function, Arity} =/= {load, 0},
        IsInternal(Module, Function)
    ].

%% Whether an argument is valid. `raw` is the name of the zone that native functions have opened,
%% and `part` and `from` are places in a table, from which the next page is read. An argument that
%% is sent to a server is always valid, because the server returns an error if it is wrong.
is_valid(zone, Zone, _) -> Zone =:= ?ZONE;
is_valid(cluster, Zone, _) -> Zone =:= ?CLUSTER;
is_valid(cluster_or_none, Zone, _) ->
    is_atom(Zone) andalso not lists:member(Zone, [?ZONE, ?RAW]);
is_valid(drained, Zone, _) -> Zone =:= ?DRAINED;
is_valid(raw, Zone, _) -> Zone =:= ?RAW;
is_valid(zone_or_handle, Zone, Fixture) -> lists:member(Zone, zones_and_handles(Fixture));
is_valid(waits, Waits, #{waits := Valid}) -> Waits =:= Valid;
is_valid(table, Table, _) -> Table =:= ?TABLE;
is_valid(new_zone, Zone, _) -> is_atom(Zone) andalso Zone =/= ?RAW;
is_valid(new_table, Table, _) -> is_atom(Table);
is_valid(zone_name, Zone, _) -> is_atom(Zone) andalso Zone =/= undefined;
is_valid(options, Map, _) -> are_options(Map);
is_valid(index, Index, _) -> is_proper_list(Index) andalso are_keys(Index);
is_valid(indexed, Key, _) -> Key =:= n orelse Key =:= url;
is_valid(looked_up, What, _) -> What =:= children orelse What =:= pids;
is_valid(zone_or_pair, {Zone, Map}, _) -> is_valid(zone_name, Zone, #{}) andalso are_options(Map);
is_valid(zone_or_pair, Zone, _) -> is_valid(zone_name, Zone, #{});
is_valid(most, Most, _) -> Most =:= infinity orelse is_valid(part, Most, #{});
is_valid(updating, Fun, _) -> is_function(Fun, 1);
is_valid(match_spec, Term, _) -> is_match_spec(Term);
is_valid(positive, Integer, _) -> is_integer(Integer) andalso Integer > 0;
is_valid(continuation, Term, _) -> Term =:= '$end_of_table';
is_valid(filter, Filter, _) -> is_pair(Filter) andalso element(1, Filter) =:= name;
is_valid(atom, Atom, _) -> is_atom(Atom);
is_valid(pid, Pid, _) -> is_pid(Pid) andalso node(Pid) =:= node();
is_valid(living, Pid, Fixture) -> is_valid(pid, Pid, Fixture) andalso is_process_alive(Pid);
is_valid(any_pid, Pid, _) -> is_pid(Pid);
is_valid(position, Position, _) -> lists:member(Position, lists:seq(0, 7));
is_valid(pid_or_home, {home, Term}, _) -> is_pid(Term);
is_valid(pid_or_home, Term, _) -> is_pid(Term);
is_valid(pid_or_start, Term, Fixture) ->
    is_valid(start, Term, Fixture) orelse is_valid(pid_or_home, Term, Fixture);
is_valid(start, Term, _) -> Term =:= launching orelse Term =:= home;
is_valid(attributes, Term, _) -> is_map(Term) orelse is_proper_list(Term);
is_valid(proper_list, Term, _) -> is_proper_list(Term);
is_valid(integer, Integer, _) -> is_integer(Integer);
is_valid(operation, Operation, _) -> is_operation(Operation);
is_valid(natural, Integer, _) -> is_integer(Integer) andalso Integer >= 0;
is_valid(claims, Claims, _) -> is_proper_list(Claims) andalso lists:all(fun is_claim/1, Claims);
is_valid(place, none, _) -> true;
is_valid(place, {Sender, Subscriber}, Fixture) ->
    is_valid(pid, Sender, Fixture) andalso
        (Subscriber =:= none orelse is_valid(pid, Subscriber, Fixture));
is_valid(place, _, _) -> false;
is_valid(from, From, _) -> is_integer(From) andalso From >= 0 andalso From < 1 bsl 32;
is_valid(part, Part, _) -> is_integer(Part) andalso Part >= 0 andalso Part < 1 bsl 63;
is_valid(page_of, {rows, all, Conditions}, _) -> are_conditions(Conditions);
is_valid(page_of, {Rows, Keys, Conditions}, _) when Rows =:= rows; Rows =:= fields ->
    is_proper_list(Keys) andalso are_conditions(Conditions);
is_valid(page_of, {integers, _}, _) -> true;
is_valid(page_of, What, _) -> lists:member(What, page_contents()) orelse is_proper_list(What);
is_valid(timeout, Time, Fixture) -> Time =:= infinity orelse is_valid(natural, Time, Fixture);
is_valid(folding, Fun, _) -> is_function(Fun, 3);
is_valid(via_name, Name, _) -> is_pair(Name) andalso is_atom(element(1, Name));
is_valid(registered_name, Name, _) ->
    is_pair(Name) andalso lists:member(element(1, Name), [?ZONE, ?CLUSTER, ?DRAINED]);
is_valid(cluster_name, Name, _) -> is_pair(Name) andalso element(1, Name) =:= ?CLUSTER;
is_valid(_, _, _) -> true.

zones_and_handles(#{handle := Handle, closed_handle := Closed}) ->
    [?RAW, Handle, Closed].

is_proper_list(List) when is_list(List) ->
    try length(List) of
        _ -> true
    catch
        error:badarg -> false
    end;
is_proper_list(_) ->
    false.

are_keys(Index) ->
    Key = fun
        ({each, Each}) -> Each;
        (Whole) -> Whole
    end,
    Count = length(Index),
    Count =< 64 andalso map_size(maps:from_keys(lists:map(Key, Index), [])) =:= Count.

are_conditions(Conditions) ->
    IsCondition = fun
        ({_, Operator, _}) -> lists:member(Operator, condition_operators());
        (_) -> false
    end,
    is_proper_list(Conditions) andalso lists:all(IsCondition, Conditions).

condition_operators() ->
    ['_', '<', '=<', '>', '>=', '=:=', '=/='].

is_claim({_, Rank, Change}) when is_integer(Rank), Rank >= 0, Rank < 1 bsl 32 ->
    case Change of
        {What, Pid} -> lists:member(What, [up, down]) andalso is_pid(Pid);
        _ -> lists:member(Change, [held, free])
    end;
is_claim(_) ->
    false.

is_operation({2, Increment}) ->
    is_integer(Increment);
is_operation({2, Increment, Threshold, SetValue}) ->
    lists:all(fun erlang:is_integer/1, [Increment, Threshold, SetValue]);
is_operation(Increment) ->
    is_integer(Increment).

are_options(#{index := Index} = Map) when map_size(Map) =:= 1 ->
    is_proper_list(Index) andalso are_keys(Index);
are_options(Map) ->
    lists:member(Map, [#{}, #{restart => true}, #{restart => false}, #{max_children => 1}]).

is_match_spec([]) ->
    true;
is_match_spec(Term) ->
    try ets:match_spec_compile(Term) of
        _ -> true
    catch
        error:badarg -> false;
        %% Nested too deeply.
        error:system_limit -> false
    end.

is_pair(Term) ->
    is_tuple(Term) andalso tuple_size(Term) =:= 2.

page_contents() ->
    [children, names, pids, sizes, attributes].

%% Whether a result has a shape.
fits(any, _) ->
    true;
fits(integer, Result) ->
    is_integer(Result);
fits(list, Result) ->
    is_list(Result);
fits(pid, Result) ->
    is_pid(Result);
fits(reference, Result) ->
    is_reference(Result);
fits(Shape, Result) when
    is_tuple(Shape), is_tuple(Result), tuple_size(Shape) =:= tuple_size(Result)
->
    lists:all(
        fun({Part, Element}) -> fits(Part, Element) end,
        lists:zip(tuple_to_list(Shape), tuple_to_list(Result))
    );
fits(Shape, Result) ->
    Shape =:= Result.

%%% Random calls

calls(Mode) ->
    Functions = functions(Mode),
    [call(lists:nth(rand:uniform(length(Functions)), Functions)) || _ <- lists:seq(1, ?BATCH)].

functions(native) ->
    native();
functions(public) ->
    [Function || {_, _, [_ | _], _} = Function <- public()];
functions(internal) ->
    internal();
functions(storm) ->
    native() ++ [Function || {Module, _, _, _} = Function <- functions(public), Module =/= proctab].

%% Returns a call with random arguments: of 10 calls, 3 have only valid ones, 6 have one that may be
%% wrong, and one may have several.
call({Module, Function, Arity}) ->
    {Module, Function, [recipe(harmless) || _ <- lists:seq(1, Arity)]};
call({Module, Function, Kinds, _}) ->
    Random =
        case rand:uniform(10) of
            N when N =< 3 -> [];
            10 -> [Place || Place <- lists:seq(1, length(Kinds)), rand:uniform(2) =:= 1];
            _ when Kinds =:= [] -> [];
            _ -> [rand:uniform(length(Kinds))]
        end,
    Arguments = [
        case lists:member(Place, Random) of
            true -> random_argument(Kind);
            false -> valid_argument(Kind)
        end
     || {Place, Kind} <- lists:enumerate(Kinds)
    ],
    {Module, Function, Arguments}.

%% Returns a recipe of any term, valid or not, that is harmless in the place of such an argument.
random_argument(Kind) when Kind =:= right_zone; Kind =:= server; Kind =:= folding ->
    valid_argument(Kind);
random_argument(Kind) when Kind =:= proper_list; Kind =:= attributes ->
    one_of([
        recipe(any),
        {improper, [{tuple, [key(), simple()]} || _ <- lists:seq(1, rand:uniform(3))]},
        {improper_pairs, one_of([2, 1000])}
    ]);
random_argument(timeout) ->
    one_of([-1, {bignum, -1, 1000}, 0.0, 1.5, soon, "1", <<>>, [], {tuple, [0]}, dead]);
random_argument(match_spec) ->
    one_of([recipe(harmless), {list, [mutated(match_clause())]}]);
random_argument(positive) ->
    one_of([0, -1, 1.0, recipe(harmless)]);
random_argument(updating) ->
    one_of([folding, shared_fun, n, 1, dead, {tuple, []}]);
random_argument(most) ->
    one_of([-1, 1 bsl 63, 1 bsl 64, 1.0, recipe(any)]);
random_argument(continuation) ->
    one_of([recipe(harmless), {tuple, [{tuple, [selection, ?ZONE]}, 0, {list, []}]}]);
random_argument(zone_or_pair) ->
    one_of([recipe(harmless), {tuple, [recipe(harmless), random_argument(options)]}]);
random_argument(Kind) when Kind =:= sent; Kind =:= existing ->
    one_of([recipe(harmless), mutated(valid_argument(Kind))]);
random_argument(Kind) when Kind =:= via_name; Kind =:= registered_name; Kind =:= cluster_name ->
    one_of([recipe(any), {tuple, [one_of([?ZONE, ?CLUSTER, recipe(any)]), recipe(any)]}]);
random_argument(Kind) when Kind =:= cluster; Kind =:= cluster_or_none; Kind =:= drained ->
    one_of([?ZONE, ?CLOSED, recipe(any)]);
random_argument(index) ->
    one_of([recipe(any), {list, [n, {tuple, [each, n]}]}, {long_list, 65}, {improper, [n]}]);
random_argument(options) ->
    one_of([
        recipe(harmless),
        {map, [{index, random_argument(index)}]},
        {map, [{restart, one_of([no, 0, []])}]},
        {map, [{max_children, one_of([-1, 1.0, many])}]},
        {map, [{recipe(harmless), true}]}
    ]);
random_argument(operation) ->
    one_of([
        recipe(any),
        {tuple, [one_of([1, 2, 3]), recipe(harmless)]},
        {tuple, [2, 1, recipe(any)]}
    ]);
random_argument(claims) ->
    one_of([
        recipe(any),
        {list, [mutated(claim()), claim()]},
        {list, [{tuple, [recipe(any), 1, {tuple, [up, recipe(any)]}]}]},
        {improper, [claim()]}
    ]);
random_argument(natural) ->
    one_of([-1, 1.0, recipe(harmless)]);
random_argument(Kind) when Kind =:= from; Kind =:= part ->
    one_of([-1, 1 bsl 31, 1 bsl 32, 1 bsl 62, 1 bsl 63, 1 bsl 64, recipe(any)]);
random_argument(_) ->
    recipe(any).

%% Replaces a random part of a term.
mutated({tuple, Elements}) ->
    Place = rand:uniform(length(Elements)),
    {Before, [Element | After]} = lists:split(Place - 1, Elements),
    {tuple, Before ++ [one_of([recipe(harmless), mutated(Element)]) | After]};
mutated(_) ->
    recipe(harmless).

%% Returns a recipe of a valid argument.
valid_argument(zone) -> ?ZONE;
valid_argument(right_zone) -> ?ZONE;
valid_argument(cluster) -> ?CLUSTER;
valid_argument(cluster_or_none) -> one_of([?CLUSTER, ?CLUSTER, ?CLUSTER, ?CLOSED]);
valid_argument(drained) -> ?DRAINED;
valid_argument(raw) -> ?RAW;
valid_argument(zone_or_handle) -> one_of([?RAW, handle, closed_handle]);
valid_argument(waits) -> waits;
valid_argument(table) -> ?TABLE;
valid_argument(new_zone) -> one_of([bad_input_new, bad_input_other, ?CLOSED]);
valid_argument(new_table) -> one_of([bad_input_new, ?TABLE]);
valid_argument(zone_name) -> one_of([bad_input_new, ?ZONE, ?CLOSED]);
valid_argument(options) ->
    Index = {index, valid_argument(index)},
    {map, one_of([[], [{restart, false}], [{max_children, 1}], [Index]])};
valid_argument(index) -> {list, one_of([[], [n], [{tuple, [each, n]}, recipe(harmless)]])};
valid_argument(indexed) -> one_of([n, url]);
valid_argument(looked_up) -> one_of([children, pids]);
valid_argument(zone_or_pair) -> one_of([?ZONE, {tuple, [?ZONE, valid_argument(options)]}]);
valid_argument(most) -> one_of([infinity, 0, 1, 1 bsl 62]);
valid_argument(updating) -> local_fun;
valid_argument(match_spec) -> {list, [match_clause() || _ <- lists:seq(1, rand:uniform(3) - 1)]};
valid_argument(positive) -> one_of([1, 2, 1 bsl 64]);
valid_argument(continuation) -> '$end_of_table';
valid_argument(filter) -> {tuple, [name, name()]};
valid_argument(atom) -> one_of([?ZONE, ?ZONE, ?ZONE, ?CLOSED]);
valid_argument(pid) -> one_of([dummy, dead]);
valid_argument(living) -> one_of([dummy, self]);
valid_argument(any_pid) -> one_of([dummy, dead, remote_pid]);
valid_argument(position) -> one_of(lists:seq(0, 7));
valid_argument(pid_or_home) ->
    one_of([dummy, dead, remote_pid, {tuple, [home, valid_argument(any_pid)]}]);
valid_argument(pid_or_start) -> one_of([launching, home, valid_argument(pid_or_home)]);
valid_argument(start) -> one_of([launching, home]);
valid_argument(proper_list) -> {list, one_of(keys_and_pairs())};
valid_argument(attributes) -> one_of([{list, one_of(keys_and_pairs())}, one_pair()]);
valid_argument(integer) -> one_of([0, 1, -1, 1 bsl 62, -(1 bsl 64), {bignum, 1, 1000}]);
valid_argument(operation) -> one_of([valid_argument(integer), operation(1), operation(3)]);
valid_argument(natural) -> one_of([0, 1, 10, 1 bsl 64]);
valid_argument(claims) -> {list, [claim() || _ <- lists:seq(1, rand:uniform(5) - 1)]};
valid_argument(place) -> one_of([none, {tuple, [dummy, none]}, {tuple, [dead, dummy]}]);
valid_argument(from) -> one_of([0, 0, 1, 5]);
valid_argument(part) -> one_of([0, 0, 1, 5]);
valid_argument(page_of) -> one_of(page_contents() ++ [{list, [n]} | page_pairs()]);
valid_argument(timeout) -> one_of([0, 0, 1]);
valid_argument(folding) -> folding;
valid_argument(via_name) -> {tuple, [one_of([?ZONE, ?CLUSTER, ?CLOSED]), name()]};
valid_argument(cluster_name) -> {tuple, [?CLUSTER, name()]};
valid_argument(registered_name) -> {tuple, [?ZONE, name()]};
valid_argument(existing) -> one_of(existing_children());
valid_argument(sent) -> one_of(specs() ++ [name()]);
valid_argument(server) -> one_of([?ZONE, metrics_process_tracker, stats_hero_monitor]);
valid_argument(any) -> one_of([name(), key(), name(), key(), recipe(any)]).

page_pairs() ->
    Conditions = {list, [{tuple, [n, one_of(condition_operators()), recipe(any)]}]},
    [
        {tuple, [one_of([rows, fields]), {list, [n]}, Conditions]},
        {tuple, [rows, all, {list, []}]},
        {tuple, [integers, key()]}
    ].

match_clause() ->
    Head = one_of(['_', '$1', {tuple, ['$1', '_', {map, [{n, '$2'}]}]}]),
    Guards = one_of([[], [{tuple, [is_tuple, '$1']}]]),
    {tuple, [Head, {list, Guards}, {list, [one_of([true, '$_', '$1'])]}]}.

keys_and_pairs() ->
    [[], [{tuple, [n, 2]}], [n, url], [{tuple, [key(), recipe(any)]}, recipe(any)]].

one_pair() ->
    {map, [{key(), recipe(any)}]}.

claim() ->
    Pid = valid_argument(any_pid),
    Change = one_of([held, free, {tuple, [up, Pid]}, {tuple, [up, Pid]}, {tuple, [down, Pid]}]),
    {tuple, [name(), one_of([0, 1, 16#ffffffff]), Change]}.

operation(Integers) ->
    {tuple, [2 | [valid_argument(integer) || _ <- lists:seq(1, Integers)]]}.

existing_children() ->
    [{tuple, [name(), dummy, worker, {list, []}]}, {tuple, [dummy, full_spec()]}].

specs() ->
    [
        {tuple, [name(), start(), temporary]},
        full_spec(),
        {map, [{id, name()}, {start, start()}]}
    ].

full_spec() ->
    {tuple, [
        name(),
        start(),
        one_of([permanent, transient, temporary]),
        one_of([200, infinity, brutal_kill]),
        worker,
        {list, [?MODULE]}
    ]}.

start() ->
    {tuple, [?MODULE, start_child, {list, [{list, []}]}]}.

name() ->
    one_of([?NAME, ?NAME, other, starting, orphan, nobody, begun, 1, 1.0]).

key() ->
    one_of([n, n, url, none, -0.0, 0.0]).

%%% Random terms

%% Returns a recipe of a random term. Large terms are rare. Only harmless terms may be sent as
%% messages or written as text: others have shared parts, which are copied or written many times.
recipe(harmless) ->
    case rand:uniform(200) of
        1 -> one_of(large_harmless());
        N when N < 40 -> {one_of([list, tuple, improper]), recipes(harmless)};
        _ -> simple()
    end;
recipe(any) ->
    case rand:uniform(1000) of
        1 -> one_of(large());
        2 -> one_of(large_binaries());
        N when N < 5 -> one_of(long(100000, 10000));
        N when N < 20 -> one_of(long(5000, 1000));
        N when N < 40 -> one_of(medium());
        N when N < 45 -> {shared, 12};
        N when N =:= 45 -> {shared, one_of([60 | lists:duplicate(49, 16)])};
        N when N < 200 -> {one_of([list, tuple, improper]), recipes(any)};
        N when N < 250 -> {map, [{recipe(any), recipe(any)} || _ <- lists:seq(1, rand:uniform(3))]};
        _ -> simple()
    end.

recipes(Which) ->
    [recipe(Which) || _ <- lists:seq(1, rand:uniform(4))].

large_harmless() ->
    [
        {nested, list, 100000},
        {nested, tuple, 100000},
        {long_list, 100000},
        {binary, 1000000},
        {bignum, one_of([1, -1]), 10000}
    ].

large() ->
    [
        {long_list, 1000000},
        {wide_tuple, 1000000},
        {wide_map, 100000},
        {nested, map, 100000}
    ].

%% The VM copies an unaligned binary on the scheduler of the call, so its size is limited to what
%% takes less than a millisecond.
large_binaries() ->
    [
        {binary, 10000000},
        {sub_binary, 10000000},
        {unaligned, 100000},
        {bitstring, 10000000},
        {bignum, one_of([1, -1]), 332193}
    ].

long(Length, Pairs) ->
    [
        {nested, list, Length},
        {nested, tail, Length},
        {nested, tuple, Length},
        {improper_pairs, Pairs},
        {long_list, Length}
    ].

medium() ->
    [
        {unaligned, 5000},
        {bitstring, 5000},
        {sub_binary, 5000},
        {wide_map, 40},
        {wide_tuple, 1000},
        {bignum, 1, 10000}
    ].

simple() ->
    one_of(
        [atom, undefined, true, launching, '', n, url, ?NAME, <<>>, <<"nobody">>, "string"] ++
            [<<1:3>>, 0, 1, -1, 1.0, 0.0, -0.0, 1 bsl 59, 1 bsl 63, -(1 bsl 63), 1 bsl 64] ++
            [[], {tuple, []}, {map, []}, {improper, [1, 2]}, {improper_pairs, 2}] ++
            [{list, [{tuple, [n, 2]}]}, {collides, 0}, {collides, 1}] ++
            [dead, dummy, remote_pid, remote_port, remote_reference, reference, port] ++
            [closed_handle, ets, atomics, counters, regex] ++
            [local_fun, external_fun, unloaded_fun, shared_fun]
    ).

one_of(Terms) ->
    lists:nth(rand:uniform(length(Terms)), Terms).

%% Whether a call has an argument that is too large to be copied, which the library may refuse.
has_endless_term({_, _, Recipes}) ->
    lists:any(fun is_endless/1, Recipes).

is_endless({shared, Depth}) -> Depth > 50;
is_endless(Recipe) when is_tuple(Recipe) -> lists:any(fun is_endless/1, tuple_to_list(Recipe));
is_endless(Recipe) when is_list(Recipe) -> lists:any(fun is_endless/1, Recipe);
is_endless(_) -> false.

%% Makes the term of a recipe. The two terms of `collides` have the same hash if only the lowest 27
%% bits of an integer are hashed.
make({list, Recipes}, Fixture) -> [make(Recipe, Fixture) || Recipe <- Recipes];
make({tuple, Recipes}, Fixture) -> list_to_tuple(make({list, Recipes}, Fixture));
make({improper, Recipes}, Fixture) -> make({list, Recipes}, Fixture) ++ improper;
make({map, Pairs}, F) -> maps:from_list([{make(Key, F), make(Value, F)} || {Key, Value} <- Pairs]);
make({improper_pairs, Length}, _) -> [{N, N} || N <- lists:seq(1, Length)] ++ {n, 2};
make({long_list, Length}, _) -> lists:seq(1, Length);
make({wide_tuple, Size}, _) -> erlang:make_tuple(Size, n);
make({wide_map, Size}, _) -> maps:from_keys(lists:seq(1, Size), n);
make({nested, Type, Depth}, _) -> nested(Type, Depth, []);
make({shared, Depth}, _) -> lists:foldl(fun(_, Part) -> {Part, Part} end, [], lists:seq(1, Depth));
make({binary, Size}, _) -> binary:copy(<<7>>, Size);
make({sub_binary, Size}, _) -> binary:part(binary:copy(<<7>>, Size + 2), 1, Size);
make({unaligned, Size}, _) -> unaligned(Size);
make({bitstring, Size}, _) -> bitstring(Size);
make({bignum, Sign, Bits}, _) -> Sign * (1 bsl Bits + 1);
make({collides, N}, _) -> element(N + 1, {{1, 134217728}, {1, 0}});
make(remote_pid, _) -> prop_terms:remote_pid(?REMOTE_NODE, 99, 0, 1);
make(remote_port, _) -> remote(<<89>>, <<99:32, 1:32>>);
make(remote_reference, _) -> remote(<<90, 3:16>>, <<1:32, 1:32, 2:32, 3:32>>);
make(unloaded_fun, _) -> erlang:make_fun(no_module, no_function, 1);
make(external_fun, _) -> fun lists:reverse/1;
make(local_fun, _) -> fun(Argument) -> Argument end;
make(shared_fun, Fixture) -> fun() -> Fixture end;
make(folding, _) -> fun(_, _, Acc) -> Acc end;
make(reference, _) -> make_ref();
make(port, _) -> hd(erlang:ports());
make(ets, _) -> ets:whereis(ac_tab);
make(atomics, _) -> atomics:new(1, []);
make(counters, _) -> counters:new(1, []);
make(regex, _) -> element(2, re:compile("a"));
make(Key, Fixture) when is_map_key(Key, Fixture) -> map_get(Key, Fixture);
make(Term, _) -> Term.

nested(_, 0, Inner) -> Inner;
nested(list, Depth, Inner) -> nested(list, Depth - 1, [Inner]);
nested(tail, Depth, Inner) -> nested(tail, Depth - 1, [a, Inner | b]);
nested(tuple, Depth, Inner) -> nested(tuple, Depth - 1, {a, Inner});
nested(map, Depth, Inner) -> nested(map, Depth - 1, #{Inner => []}).

unaligned(Size) ->
    <<_:3, Unaligned:Size/binary, _:5>> = binary:copy(<<7>>, Size + 1),
    Unaligned.

bitstring(Size) ->
    <<_:3, Bits/bitstring>> = binary:copy(<<7>>, Size),
    Bits.

%% Returns a term of another node, in the external term format.
remote(Header, Rest) ->
    Node = ?REMOTE_NODE,
    binary_to_term(<<131, Header/binary, 119, (byte_size(Node)), Node/binary, Rest/binary>>).

%%% Storms

%% Makes calls in several processes, some of which are killed, while another process starts and ends
%% the zones and tables that they name.
storm(Calls) ->
    {Restarter, RestarterMonitor} = spawn_monitor(fun restart_zones/0),
    Callers = [
        {rand:uniform(3), spawn_monitor(fun() -> call_in_storm(Portion) end)}
     || Portion <- portions(Calls)
    ],
    %% Those to be killed, a third, come first.
    Results = [caller_result(Caller, Third) || {Third, Caller} <- lists:sort(Callers)],
    Restarter ! stop,
    receive
        {'DOWN', RestarterMonitor, process, Restarter, Reason} -> normal = Reason
    end,
    case [Wrong || {wrong, _, _} = Wrong <- Results] of
        [] ->
            Killed = length([killed || killed <- Results]),
            {ok, #{storm_calls => length(Calls), storm_killed => Killed}};
        [{wrong, Why, Call} | _] ->
            {failed, Why, [Call]}
    end.

portions([]) ->
    [];
portions(Calls) ->
    {Some, Rest} = lists:split(min(25, length(Calls)), Calls),
    [Some | portions(Rest)].

%% Exits with `done`, or with `{wrong, Why, Call}`.
call_in_storm(Calls) ->
    Dummy = dummy(),
    Fixture = #{
        mode => storm,
        dead => Dummy,
        dummy => Dummy,
        self => self(),
        closed_handle => closed_handle_or_reference(),
        handle => make_ref(),
        waits => make_ref()
    },
    exit(lists:foldl(fun(Call, Result) -> storm_call(Call, Fixture, Result) end, done, Calls)).

closed_handle_or_reference() ->
    try
        closed_handle()
    catch
        error:badarg -> make_ref()
    end.

%% Every call may fail, because its zone may end at any moment. Otherwise its result fits the
%% signature of the function.
storm_call(_, _, {wrong, _, _} = Wrong) ->
    Wrong;
storm_call({Module, Function, Recipes} = Call, Fixture, done) ->
    Result = result(Module, Function, [make(Recipe, Fixture) || Recipe <- Recipes]),
    {_, Shapes} = signature(Call),
    Failures = [{raised, exit, any}, {raised, error, badarg}, badarg, {error, any}],
    case lists:any(fun(Shape) -> fits(Shape, Result) end, Failures ++ Shapes) of
        true -> done;
        false -> {wrong, {answer, brief(Result)}, Call}
    end.

%% Waits until a caller has exited, and returns its exit reason. Kills a caller of the first third.
caller_result({Pid, _} = Caller, 1) ->
    erlang:yield(),
    exit(Pid, kill),
    caller_result(Caller, killed);
caller_result({Pid, Monitor}, _) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason
    after ?TIMEOUT ->
        Where = process_info(Pid, current_stacktrace),
        _ = tracked_child:kill(Pid),
        {wrong, {hangs, Where}, unknown}
    end.

%% Starts the zones and tables in a process that exits after 3 ms, which ends them, and repeats this
%% until the message `stop`. A start may fail because of a call of the storm.
restart_zones() ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        process_flag(trap_exit, true),
        _ = set_up(native),
        _ = set_up(public),
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
    after 0 -> restart_zones()
    end.

servers() ->
    [
        ?ZONE,
        ?CLUSTER,
        ?DRAINED,
        metrics_process_tracker,
        stats_hero_monitor,
        metrics_process_tracker_reaper,
        stats_hero_monitor_reaper
    ].
