%% Promise: the native functions of keepers and tracker keep a child's row consistent: only its
%% keeper changes it, and no stop is missed. Children may be processes of any node.
%%
%% Each case opens a zone with the name of the case. The process of the case is its owner, and the
%% keeper of its children.
-module(native_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        find_alive_gives_no_child_that_is_dead,
        a_child_of_another_node_is_taken_as_alive_and_one_of_an_earlier_run_as_dead,
        a_dead_process_of_this_node_that_another_member_claims_is_not_found,
        kept_returns_the_row_of_a_keeper,
        a_slowed_child_is_counted_as_pending,
        stop_marks_only_the_row_of_the_given_keeper,
        a_stopped_child_does_not_become_running,
        a_stopped_child_does_not_become_pending,
        the_next_child_of_the_name_is_not_stopped,
        the_next_keeper_of_a_stopped_child_learns_of_the_stop,
        no_child_of_a_stopping_zone_becomes_running,
        either_a_keeper_sees_the_stop_or_the_stop_sees_the_new_state,
        events_begin_with_the_secret_of_the_zone,
        every_function_returns_the_pid_of_a_child_of_another_node,
        a_child_of_another_node_can_be_started,
        pids_of_other_nodes_take_little_memory,
        pids_of_other_nodes_are_the_same_only_if_they_are_equal,
        a_table_of_processes_takes_pids_of_other_nodes,
        a_name_without_child_and_attributes_has_no_row
    ].

init_per_testcase(Case, Config) ->
    _ = proctab_nif:zone_open(Case, shared),
    Config.

end_per_testcase(_Case, _Config) ->
    ok.

%% Finding

find_alive_gives_no_child_that_is_dead(_) ->
    Zone = ?FUNCTION_NAME,
    {Child, Monitor} = spawn_monitor(fun() ->
        receive
            stop -> ok
        end
    end),
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, Child),
    {ok, Child} = proctab_nif:find_alive(Zone, ?NAME),
    undefined = proctab_nif:find_alive(Zone, other),
    Child ! stop,
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end,
    undefined = proctab_nif:find_alive(Zone, ?NAME),
    {ok, Child} = proctab_nif:find(Zone, ?NAME),
    true = proctab_nif:terminating(Zone, ?NAME, normal),
    undefined = proctab_nif:find_alive(Zone, ?NAME),
    {messages, []} = process_info(self(), messages).

a_child_of_another_node_is_taken_as_alive_and_one_of_an_earlier_run_as_dead(_) ->
    Zone = ?FUNCTION_NAME,
    {Far, Earlier} = {far(), earlier()},
    true = proctab_nif:insert(Zone, far, self(), spec, Far),
    true = proctab_nif:insert(Zone, earlier, self(), spec, Earlier),
    {ok, Far} = proctab_nif:find_alive(Zone, far),
    undefined = proctab_nif:find_alive(Zone, earlier),
    {ok, Earlier} = proctab_nif:find(Zone, earlier).

a_dead_process_of_this_node_that_another_member_claims_is_not_found(_) ->
    Zone = ?FUNCTION_NAME,
    {Far, Farther, Earlier} = {far(), prop_terms:remote_pid(<<"else@where">>, 71, 3, 9), earlier()},
    {Local, Monitor} = spawn_monitor(fun() ->
        receive
            stop -> ok
        end
    end),
    _ = proctab_nif:cluster_open(Zone, shared, []),
    Member = proctab_nif:add_member(Zone, node(Far), <<"far@away">>, Far),
    Claims = [{far, Far}, {farther, Farther}, {earlier, Earlier}, {local, Local}],
    {_, []} = proctab_nif:change_claims(Zone, Member, [{N, 1, {up, Pid}} || {N, Pid} <- Claims]),
    Found = fun(Find) -> [Name || {Name, Pid} <- Claims, Find(Zone, Name) =:= {ok, Pid}] end,
    Finds = [fun proctab_nif:find_claim/2, fun proctab_nif:find_claim_alive/2],
    [?assertEqual([far, farther, local], Found(Find)) || Find <- Finds],
    Local ! stop,
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end,
    [?assertEqual([far, farther], Found(Find)) || Find <- Finds],
    ?assertEqual({node(Far), Local}, proctab_nif:best_claim(Zone, local)).

kept_returns_the_row_of_a_keeper(_) ->
    Zone = ?FUNCTION_NAME,
    Other = keeper(),
    undefined = proctab_nif:kept(Zone, self()),
    true = proctab_nif:insert(Zone, ?NAME, self(), {spec, 1}, launching),
    {?NAME, launching, undefined, {spec, 1}} = proctab_nif:kept(Zone, self()),
    true = proctab_nif:running(Zone, ?NAME, Other),
    {?NAME, running, Other, {spec, 1}} = proctab_nif:kept(Zone, self()),
    undefined = proctab_nif:kept(Zone, Other),
    %% A refused insertion changes nothing for either keeper.
    false = proctab_nif:insert(Zone, ?NAME, Other, spec, launching),
    undefined = proctab_nif:kept(Zone, Other),
    true = proctab_nif:insert(Zone, other, Other, spec, launching),
    false = proctab_nif:insert(Zone, other, self(), spec, launching),
    {?NAME, running, Other, _} = proctab_nif:kept(Zone, self()),
    true = proctab_nif:terminating(Zone, ?NAME, normal),
    {?NAME, terminating, undefined, _} = proctab_nif:kept(Zone, self()),
    New = keeper(),
    {ok, ?NAME} = proctab_nif:change_keeper(Zone, self(), New),
    undefined = proctab_nif:kept(Zone, self()),
    {?NAME, terminating, undefined, _} = proctab_nif:kept(Zone, New),
    %% A process that keeps no child.
    undefined = proctab_nif:change_keeper(Zone, self(), Other),
    {other, launching, undefined, spec} = proctab_nif:kept(Zone, Other),
    true = said(New, fun() -> proctab_nif:remove(Zone, ?NAME) end),
    undefined = proctab_nif:kept(Zone, New),
    ?assertError(badarg, proctab_nif:kept(Zone, far())),
    ?assertError(badarg, proctab_nif:kept(no_zone, New)).

%% States

a_slowed_child_is_counted_as_pending(_) ->
    Zone = ?FUNCTION_NAME,
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, self()),
    ok = proctab_nif:setattr(Zone, ?NAME, key, value),
    true = proctab_nif:terminating(Zone, ?NAME, normal),
    false = said(keeper(), fun() -> proctab_nif:slowed(Zone, ?NAME) end),
    true = proctab_nif:slowed(Zone, ?NAME),
    [] = proctab_nif:attrs(Zone, ?NAME),
    {slowed, undefined, _, spec} = proctab_nif:child(Zone, ?NAME),
    {?NAME, slowed, undefined, spec} = proctab_nif:kept(Zone, self()),
    [{?NAME, slowed, undefined, _, spec}] = children(Zone),
    void = proctab_nif:setattr(Zone, ?NAME, key, value),
    {ok, #{children := 1, states := States}} = proctab_view:info(Zone),
    #{
        launching => 0,
        running => 0,
        terminating => 0,
        pending => 1,
        restarting => 0
    } =:= States orelse
        ct:fail(States),
    true = proctab_nif:restarting(Zone, ?NAME),
    {restarting, undefined, _, spec} = proctab_nif:child(Zone, ?NAME).

%% Stops

stop_marks_only_the_row_of_the_given_keeper(_) ->
    Zone = ?FUNCTION_NAME,
    Other = keeper(),
    false = proctab_nif:stop(Zone, ?NAME, self()),
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, launching),
    false = proctab_nif:stop(Zone, ?NAME, Other),
    false = proctab_nif:stop(Zone, other, self()),
    true = proctab_nif:running(Zone, ?NAME, Other),
    running = proctab_nif:stop(Zone, ?NAME, self()),
    running = proctab_nif:stop(Zone, ?NAME, self()),
    %% The row stays `running` until the child has exited.
    {ok, Other} = proctab_nif:find(Zone, ?NAME),
    ok = proctab_nif:setattr(Zone, ?NAME, key, value),
    stopping = proctab_nif:terminating(Zone, ?NAME, normal),
    terminating = proctab_nif:stop(Zone, ?NAME, self()),
    true = proctab_nif:remove(Zone, ?NAME),
    false = proctab_nif:stop(Zone, ?NAME, self()).

a_stopped_child_does_not_become_running(_) ->
    Zone = ?FUNCTION_NAME,
    _ = proctab_nif:listen(Zone),
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, launching),
    launching = proctab_nif:stop(Zone, ?NAME, self()),
    stopping = proctab_nif:running(Zone, ?NAME, self()),
    {launching, undefined, _, spec} = proctab_nif:child(Zone, ?NAME),
    false = said(keeper(), fun() -> proctab_nif:running(Zone, ?NAME, self()) end),
    false = said(keeper(), fun() -> proctab_nif:terminating(Zone, ?NAME, normal) end),
    stopping = proctab_nif:terminating(Zone, ?NAME, normal),
    {messages, []} = process_info(self(), messages).

a_stopped_child_does_not_become_pending(_) ->
    Zone = ?FUNCTION_NAME,
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, self()),
    ok = proctab_nif:setattr(Zone, ?NAME, key, value),
    running = proctab_nif:stop(Zone, ?NAME, self()),
    stopping = proctab_nif:terminating(Zone, ?NAME, normal),
    [false = proctab_nif:Again(Zone, ?NAME) || Again <- [pending, slowed, restarting]],
    {terminating, undefined, _, spec} = proctab_nif:child(Zone, ?NAME),
    {ok, value} = proctab_nif:getattr(Zone, ?NAME, key).

the_next_child_of_the_name_is_not_stopped(_) ->
    Zone = ?FUNCTION_NAME,
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, launching),
    launching = proctab_nif:stop(Zone, ?NAME, self()),
    true = proctab_nif:remove(Zone, ?NAME),
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, launching),
    true = proctab_nif:running(Zone, ?NAME, self()).

the_next_keeper_of_a_stopped_child_learns_of_the_stop(_) ->
    Zone = ?FUNCTION_NAME,
    New = keeper(),
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, self()),
    running = proctab_nif:stop(Zone, ?NAME, self()),
    {ok, ?NAME} = proctab_nif:change_keeper(Zone, self(), New),
    stopping = said(New, fun() -> proctab_nif:terminating(Zone, ?NAME, normal) end).

no_child_of_a_stopping_zone_becomes_running(_) ->
    Zone = ?FUNCTION_NAME,
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, launching),
    ok = proctab_nif:zone_stop(Zone),
    zone_stopping = proctab_nif:running(Zone, ?NAME, self()),
    stopping = proctab_nif:terminating(Zone, ?NAME, normal),
    [false = proctab_nif:Again(Zone, ?NAME) || Again <- [pending, slowed, restarting]],
    {terminating, undefined, _, spec} = proctab_nif:child(Zone, ?NAME),
    true = proctab_nif:remove(Zone, ?NAME).

%% In each round, a keeper reports that its child runs while the zone, or the child, is stopped.
either_a_keeper_sees_the_stop_or_the_stop_sees_the_new_state(_) ->
    [meets_a_stop(Stop) || _ <- lists:seq(1, 2000), Stop <- [child, zone]].

meets_a_stop(Stop) ->
    Zone = either_a_keeper_sees_the_stop_or_the_stop_sees_the_new_state,
    ok = proctab_nif:zone_close(Zone),
    Handle = proctab_nif:zone_open(Zone, shared),
    Test = self(),
    Ready = counters:new(1, []),
    Keeper = spawn_link(fun() ->
        counters:add(Ready, 1, 1),
        await(Ready),
        Test ! {self(), proctab_nif:running(Zone, ?NAME, Test)}
    end),
    true = proctab_nif:insert(Zone, ?NAME, Keeper, spec, launching),
    counters:add(Ready, 1, 1),
    await(Ready),
    Seen =
        case Stop of
            child ->
                proctab_nif:stop(Zone, ?NAME, Keeper);
            zone ->
                ok = proctab_nif:zone_stop(Handle),
                [{?NAME, State, _, _, _}] = children(Handle),
                State
        end,
    Told =
        receive
            {Keeper, Answer} -> Answer
        end,
    Stopping =
        case Stop of
            child -> stopping;
            zone -> zone_stopping
        end,
    ?assert(lists:member({Seen, Told}, [{running, true}, {launching, Stopping}])).

await(Ready) ->
    counters:get(Ready, 1) =:= 2 orelse await(Ready).

%% Events

events_begin_with_the_secret_of_the_zone(_) ->
    Zone = ?FUNCTION_NAME,
    {Far, Earlier} = {far(), earlier()},
    Secret = proctab_nif:listen(Zone),
    Secret = proctab_nif:listen(Zone),
    true = is_integer(Secret),
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, Far),
    true = proctab_nif:terminating(Zone, ?NAME, crash),
    true = proctab_nif:restarting(Zone, ?NAME),
    true = proctab_nif:running(Zone, ?NAME, Earlier),
    true = proctab_nif:unregister_name(Zone, ?NAME, self(), forgotten),
    Expected = [
        {Secret, {up, ?NAME, Far}},
        {Secret, {down, ?NAME, Far, crash}},
        {Secret, {up, ?NAME, Earlier}},
        {Secret, {down, ?NAME, Earlier, forgotten}},
        '$proctab_detached'
    ],
    {messages, Expected} = process_info(self(), messages),
    ok = proctab_nif:zone_close(Zone),
    _ = proctab_nif:zone_open(Zone, shared),
    ?assertNotEqual(Secret, proctab_nif:listen(Zone)).

%% Children of other nodes

every_function_returns_the_pid_of_a_child_of_another_node(_) ->
    Zone = ?FUNCTION_NAME,
    [
        begin
            true = proctab_nif:insert(Zone, ?NAME, self(), spec, Child),
            {ok, Child} = proctab_nif:find(Zone, ?NAME),
            {running, Child, _, spec} = proctab_nif:child(Zone, ?NAME),
            {?NAME, running, Child, spec} = proctab_nif:kept(Zone, self()),
            ok = proctab_nif:setattr(Zone, ?NAME, key, value),
            {[{?NAME, Child}], done} = page(Zone, pids),
            [{?NAME, running, Child, _, spec}] = children(Zone),
            {[{?NAME, [{pid, Child}, {key, value}]}], done} = page(Zone, attributes),
            {[{?NAME, [{pid, Child}]}], done} = page(Zone, []),
            {[{?NAME, Child, 1, _}], done} = page(Zone, sizes),
            true = proctab_nif:remove(Zone, ?NAME),
            undefined = proctab_nif:find(Zone, ?NAME)
        end
     || Child <- strangers()
    ].

a_child_of_another_node_can_be_started(_) ->
    Zone = ?FUNCTION_NAME,
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, launching),
    [
        begin
            true = proctab_nif:running(Zone, ?NAME, Child),
            {ok, Child} = proctab_nif:find(Zone, ?NAME),
            true = proctab_nif:terminating(Zone, ?NAME, noconnection),
            undefined = proctab_nif:find(Zone, ?NAME),
            {terminating, undefined, _, spec} = proctab_nif:child(Zone, ?NAME),
            true = proctab_nif:restarting(Zone, ?NAME)
        end
     || Child <- strangers()
    ],
    [
        ?assertError(badarg, proctab_nif:running(Zone, ?NAME, NoPid))
     || NoPid <- [make_ref(), launching, hd(erlang:ports())]
    ].

%% With an environment for each, a pid would take 2,930 bytes.
pids_of_other_nodes_take_little_memory(_) ->
    Zone = ?FUNCTION_NAME,
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, self()),
    Size = fun() ->
        {[{_, _, _, Bytes}], done} = page(Zone, sizes),
        Bytes
    end,
    [
        begin
            ok = proctab_nif:setattr(Zone, ?NAME, key, 0),
            Before = Size(),
            ok = proctab_nif:setattr(Zone, ?NAME, key, Value),
            ?assert(Size() - Before < 1000, Value),
            ?assertEqual({ok, Value}, proctab_nif:getattr(Zone, ?NAME, key))
        end
     || Pid <- strangers(), Value <- [Pid, {Pid, key}, [self(), Pid, self() | Pid], #{Pid => [Pid]}]
    ].

pids_of_other_nodes_are_the_same_only_if_they_are_equal(_) ->
    Zone = ?FUNCTION_NAME,
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, self()),
    Pids = [self() | strangers()],
    Keys = Pids ++ [{Pid} || Pid <- Pids] ++ [[Pid | end_of_list] || Pid <- Pids],
    Pairs = lists:zip(Keys, lists:seq(1, length(Keys))),
    ok = proctab_nif:setattr(Zone, ?NAME, Pairs),
    ?assertEqual(lists:sort(Pairs), lists:sort(proctab_nif:attrs(Zone, ?NAME))),
    %% Made again, like a pid that comes in a message.
    [
        {ok, N} = proctab_nif:getattr(Zone, ?NAME, binary_to_term(term_to_binary(Key)))
     || {Key, N} <- Pairs
    ],
    [true = proctab_nif:insert(Zone, Key, self(), N, self()) || {Key, N} <- Pairs],
    [
        {running, _, _, N} = proctab_nif:child(Zone, binary_to_term(term_to_binary(Key)))
     || {Key, N} <- Pairs
    ].

a_table_of_processes_takes_pids_of_other_nodes(_) ->
    Table = ?FUNCTION_NAME,
    ok = proctab_nif:processes_open(Table, self()),
    [ok = proctab_nif:register(Table, Pid, {name, Pid}) || Pid <- strangers()],
    [[{name, Pid}] = proctab_nif:registered_names(Table, Pid) || Pid <- strangers()],
    ?assertEqual(lists:sort(strangers()), lists:sort(processes(Table, 0))),
    ?assertEqual(lists:sort(strangers()), lists:sort(remote_processes(Table, 0))),
    [true = proctab_nif:claim(Table, Pid) || Pid <- strangers()],
    [ok = proctab_nif:died(Table, Pid) || Pid <- strangers()],
    ok = proctab_nif:open_cleanups(Table),
    ?assertEqual({length(strangers()), [], false}, proctab_nif:reap(Table)),
    ?assertEqual([], proctab_nif:take_cleanups(Table, whereis(init))),
    ?assertEqual(
        [{Pid, {name, Pid}, true} || Pid <- strangers()], proctab_nif:take_cleanups(Table, self())
    ),
    [proctab_nif:cleaned(Table) || _ <- strangers()],
    ?assertEqual([], processes(Table, 0)),
    ok = proctab_nif:processes_close(Table).

processes(Table, From) ->
    case proctab_nif:processes_page(Table, From) of
        {Pids, done} -> Pids;
        {Pids, Next} -> Pids ++ processes(Table, Next)
    end.

remote_processes(Table, From) ->
    case proctab_nif:remote_page(Table, From) of
        {Pids, done} -> Pids;
        {Pids, Next} -> Pids ++ remote_processes(Table, Next)
    end.

%% Names without a child

a_name_without_child_and_attributes_has_no_row(_) ->
    Zone = ?FUNCTION_NAME,
    Names = lists:seq(1, 1000),
    [
        begin
            {[], done} = page(Zone, sizes),
            [1 = proctab_nif:increment(Zone, Name, Key, 1, 1) || Name <- Names, Key <- [a, b]],
            [ok = proctab_nif:delattr(Zone, Name, a) || Name <- Names],
            {Rows, done} = page(Zone, sizes),
            ?assertEqual(Names, lists:sort([Name || {Name, undefined, 1, _} <- Rows])),
            [ok = proctab_nif:delattr(Zone, Name, Key) || Name <- Names, Key <- [b, none, b]]
        end
     || _ <- [first, second]
    ],
    {[], done} = page(Zone, sizes),
    %% The row of a child stays without attributes.
    true = proctab_nif:insert(Zone, ?NAME, self(), spec, launching),
    ok = proctab_nif:setattr(Zone, ?NAME, key, 1),
    ok = proctab_nif:delattr(Zone, ?NAME, key),
    {[{?NAME, undefined, 0, _}], done} = page(Zone, sizes),
    true = proctab_nif:running(Zone, ?NAME, self()).

%% Pids that differ little, of nodes that do not run.
strangers() ->
    Long = binary:copy(<<"n">>, 255),
    [
        prop_terms:remote_pid(Node, Id, Serial, Creation)
     || Node <- [<<"a@b">>, <<"a@c">>, Long, atom_to_binary(node())],
        Id <- [1, 2],
        Serial <- [0, 1],
        Creation <- [1, 16#ffffffff]
    ].

far() ->
    prop_terms:remote_pid(<<"far@away">>, 71, 3, 9).

%% A pid of an earlier run of this node.
earlier() ->
    Pid = prop_terms:remote_pid(atom_to_binary(node()), 71, 3, 1),
    true = node(Pid) =:= node(),
    Pid.

%% Pages

children(Zone) ->
    {Children, done} = page(Zone, children),
    Children.

page(Zone, What) ->
    page(Zone, 0, What, []).

page(Zone, From, What, Acc) ->
    case proctab_nif:page(Zone, From, What, Acc) of
        {_, done} = Last -> Last;
        {More, Next} -> page(Zone, Next, What, More)
    end.

%% Starts a process that calls the funs it is sent.
keeper() ->
    spawn_link(fun Keeper() ->
        receive
            {say, From, Say} ->
                From ! {self(), Say()},
                Keeper()
        end
    end).

said(Keeper, Say) ->
    Keeper ! {say, self(), Say},
    receive
        {Keeper, Answer} -> Answer
    end.
