%% Promise: a child may be a process of another node, or of an earlier node of this name. It is
%% found, monitored, cleaned up and stopped like any other child. The end of the connection is its
%% death.
%%
%% Each case runs in a node with a name, most of them beside another node.
-module(remote_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [spec/2]).
-import(messages, [await/1, await/2, taken/1]).
-import(scripted_child, [run/0, script/1]).
-import(timed_call, [ended/2, calling/1, answer/2]).
-import(other_node, [with_peer/1]).

%% Time in ms for what the contract promises at once.
-define(SOON, 5000).
%% Time in ms for what the contract promises within three seconds.
-define(LIMIT, 12000).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        a_remote_process_is_added_and_found,
        a_remote_process_is_registered_and_reached_by_its_name,
        a_remote_process_is_found_by_a_value_and_receives_what_is_published,
        a_name_is_handed_over_to_a_remote_process_and_back,
        a_remote_process_that_is_dead_gets_no_name_of_another_one,
        a_start_function_may_start_its_child_on_another_node,
        after_terminate_gets_the_reason_of_a_remote_child,
        a_permanent_remote_child_is_restarted,
        subscribers_receive_the_events_of_remote_children,
        the_end_of_the_other_node_is_the_death_of_its_children,
        the_end_of_the_connection_is_the_death_of_its_children,
        a_remote_process_that_is_dead_already_is_cleaned_up,
        a_remote_child_is_stopped_as_its_spec_says,
        remote_children_are_stopped_with_the_zone,
        remote_children_end_with_a_killed_tracker,
        a_remote_child_survives_its_keeper,
        a_process_of_an_earlier_node_of_this_name_is_dead_at_once,
        a_start_function_may_return_a_process_of_an_earlier_node,
        a_permanent_child_of_an_earlier_node_is_restarted
    ].

%% Starts a process on another node, which ends when it is told to.
on(Node) ->
    erpc:call(Node, tracked_child, loose, [start_link]).

stubborn_on(Node) ->
    erpc:call(Node, tracked_child, loose, [start_stubborn]).

short(Name, Pid) ->
    {Name, Pid, worker, [?MODULE]}.

%% Returns the spec and the pid of a child whose `after_terminate/3` sends a message to the test.
full(Name, Pid) ->
    full(Name, Pid, temporary, 200).

full(Name, Pid, Restart, Shutdown) ->
    {Pid, {Name, {?MODULE, start_on, [self(), Pid]}, Restart, Shutdown, worker, [?MODULE]}}.

after_terminate(Name, Attributes, Reason) ->
    case lists:keyfind(test, 1, Attributes) of
        {test, Test} -> Test ! {last, Name, Reason};
        false -> ok
    end.

%% A start function. Starts a child on the node of `Pid`, or on this node if that one has stopped.
start_on(Test, Pid) ->
    Child =
        try
            on(node(Pid))
        catch
            error:{erpc, _} -> tracked_child:loose(start_link)
        end,
    Test ! {started, Child},
    {ok, Child}.

free(Zone, Name) ->
    wait:until(fun() -> not lists:member(Name, gen_tracker:names(Zone)) end),
    ?assertEqual(undefined, gen_tracker:find(Zone, Name)),
    ?assertEqual([], gen_tracker:info(Zone, Name)).

%% Finding

a_remote_process_is_added_and_found(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        [
            begin
                Pid = on(Node),
                ?assertEqual({ok, Pid}, gen_tracker:add_existing_child(Zone, Form(name, Pid))),
                ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
                ?assertEqual({ok, Pid}, gen_tracker:find_or_open(Zone, spec(name, temporary))),
                ?assertEqual(
                    {error, {already_started, Pid}},
                    gen_tracker:add_existing_child(Zone, Form(name, self()))
                ),
                ?assertEqual([{name, Pid, worker, [?MODULE]}], gen_tracker:which_children(Zone)),
                ok = gen_tracker:setattr(Zone, name, [{key, value}, {pid, Pid}]),
                ?assertEqual({ok, Pid}, gen_tracker:getattr(Zone, name, pid)),
                [{name, [{pid, Pid} | Attributes]}] = gen_tracker:list(Zone),
                ?assertEqual([{key, value}, {pid, Pid}], lists:sort(Attributes)),
                ?assertEqual([{name, Pid}], gen_tracker:fold(fun add/3, [], Zone)),
                normal = tracked_child:stop(Pid, normal),
                free(Zone, name)
            end
         || Form <- [fun short/2, fun full/2]
        ]
    end).

add(Name, Pid, Before) ->
    [{Name, Pid} | Before].

a_remote_process_is_registered_and_reached_by_its_name(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        Pid = on(Node),
        ?assertEqual(yes, gen_tracker:register_name({Zone, name}, Pid)),
        ?assertEqual(no, gen_tracker:register_name({Zone, name}, self())),
        ?assertEqual(Pid, gen_tracker:whereis_name({Zone, name})),
        ?assertEqual(Pid, gen_tracker:send({Zone, name}, {run, self(), fun erlang:node/0})),
        ?assertEqual({ran, Pid, Node}, await(ran)),
        ok = gen_tracker:unregister_name({Zone, name}),
        ?assertEqual(undefined, gen_tracker:whereis_name({Zone, name})),
        ?assertEqual(yes, gen_tracker:register_name({Zone, name}, Pid)),
        crash = tracked_child:stop(Pid, crash),
        free(Zone, name)
    end).

a_remote_process_is_found_by_a_value_and_receives_what_is_published(_) ->
    with_peer(fun(Peer, Node) ->
        {ok, _} = gen_tracker:start_link(a_zone, #{index => [room, {each, tags}]}),
        Remote = on(Node),
        Local = tracked_child:loose(start_link),
        [
            begin
                yes = gen_tracker:register_name({a_zone, Pid}, Pid),
                ok = gen_tracker:setattr(a_zone, Pid, #{room => 1, tags => [a, "b", a]})
            end
         || Pid <- [Remote, Local]
        ],
        Both = lists:sort([{Remote, Remote}, {Local, Local}]),
        Message = {run, self(), fun erlang:node/0},
        [
            begin
                ?assertEqual(Both, lists:sort(gen_tracker:lookup(a_zone, Key, Value))),
                ?assertEqual(2, gen_tracker:publish(a_zone, Key, Value, Message)),
                ?assertEqual({ran, Remote, Node}, await(ran, Remote)),
                ?assertEqual({ran, Local, node()}, await(ran, Local))
            end
         || {Key, Value} <- [{room, 1}, {tags, "b"}]
        ],
        ok = peer:stop(Peer),
        free(a_zone, Remote),
        ?assertEqual(1, gen_tracker:publish(a_zone, room, 1, Message)),
        ?assertEqual([{1, 1}], gen_tracker:values(a_zone, room))
    end).

a_name_is_handed_over_to_a_remote_process_and_back(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        [Remote, Local] = [on(Node), tracked_child:loose(start_link)],
        yes = gen_tracker:register_name({Zone, name}, Local),
        ok = gen_tracker:setattr(Zone, name, key, value),
        {ok, [{name, Local}]} = gen_tracker:subscribe(Zone),
        [
            begin
                yes = gen_tracker:re_register_name({Zone, name}, Next),
                ?assertEqual({ok, Next}, gen_tracker:find(Zone, name)),
                ?assertEqual({down, name, Before, re_registered}, zone_events:next(Zone)),
                ?assertEqual({up, name, Next}, zone_events:next(Zone)),
                ?assertEqual([{key, value}], gen_tracker:info(Zone, name))
            end
         || {Before, Next} <- [{Local, Remote}, {Remote, Local}, {Local, Remote}]
        ],
        crash = tracked_child:stop(Remote, crash),
        ?assertEqual({down, name, Remote, crash}, zone_events:next(Zone)),
        free(Zone, name),
        ?assert(is_process_alive(Local))
    end).

%% Nor does one whose node cannot be asked.
a_remote_process_that_is_dead_gets_no_name_of_another_one(_) ->
    with_peer(fun(Peer, Node) ->
        Zone = zone(a_zone),
        [Dead, Lost] = [on(Node), on(Node)],
        normal = tracked_child:stop(Dead, normal),
        yes = gen_tracker:register_name({Zone, name}, self()),
        ok = gen_tracker:setattr(Zone, name, key, value),
        ?assertEqual(no, gen_tracker:re_register_name({Zone, name}, Dead)),
        ?assertEqual(no, gen_tracker:re_register_name({Zone, free}, Dead)),
        ok = peer:stop(Peer),
        ?assertEqual(no, gen_tracker:re_register_name({Zone, name}, Lost)),
        ?assertEqual({ok, self()}, gen_tracker:find(Zone, name)),
        ?assertEqual([{key, value}], gen_tracker:info(Zone, name)),
        ?assertEqual(1, gen_tracker:count(Zone)),
        ok = gen_tracker:unregister_name({Zone, name})
    end).

a_start_function_may_start_its_child_on_another_node(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        Start = {?MODULE, start_on, [self(), on(Node)]},
        {ok, Child} = gen_tracker:find_or_open(Zone, {name, Start, temporary}),
        ?assertEqual(Node, node(Child)),
        ?assertEqual({ok, Child}, gen_tracker:find(Zone, name)),
        ?assertEqual({ok, Child}, gen_tracker:find_or_open(Zone, {name, Start, temporary})),
        ?assertEqual({started, Child}, await(started)),
        ?assertEqual([], taken(started)),
        {ok, Other} = supervisor:start_child(Zone, {other, Start, temporary, 200, worker, []}),
        ?assertEqual(Node, node(Other)),
        crash = tracked_child:stop(Child, crash),
        free(Zone, name)
    end).

%% Death

after_terminate_gets_the_reason_of_a_remote_child(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        [
            begin
                Pid = on(Node),
                {ok, Pid} = gen_tracker:add_existing_child(Zone, full(name, Pid)),
                ok = gen_tracker:setattr(Zone, name, test, self()),
                Reason = tracked_child:stop(Pid, Reason),
                ?assertEqual({last, name, Reason}, await(last)),
                free(Zone, name)
            end
         || Reason <- [normal, shutdown, crash, {error, #{code => 7}}]
        ]
    end).

a_permanent_remote_child_is_restarted(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        Start = {?MODULE, start_on, [self(), on(Node)]},
        {ok, Child} = gen_tracker:find_or_open(Zone, {name, Start, permanent}),
        {started, Child} = await(started),
        exit(Child, kill),
        {started, Next} = await(started),
        ?assertEqual(Node, node(Next)),
        zones:until_found(Zone, name, Next)
    end).

subscribers_receive_the_events_of_remote_children(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        [First, Second] = [on(Node), on(Node)],
        {ok, First} = gen_tracker:add_existing_child(Zone, short(first, First)),
        {ok, [{first, First}]} = gen_tracker:subscribe(Zone),
        {ok, Second} = gen_tracker:add_existing_child(Zone, full(second, Second)),
        crash = tracked_child:stop(First, crash),
        exit(Second, kill),
        Events = [
            receive
                {gen_tracker, Zone, {_, Name, _} = Event} -> Event;
                {gen_tracker, Zone, {_, Name, _, _} = Event} -> Event
            after ?SOON -> no_event
            end
         || Name <- [second, first, second]
        ],
        Deaths = [{down, first, First, crash}, {down, second, Second, killed}],
        ?assertEqual([{up, second, Second} | Deaths], Events)
    end).

the_end_of_the_other_node_is_the_death_of_its_children(_) ->
    disconnected(fun(Peer, _) -> peer:stop(Peer) end).

%% The processes survive.
the_end_of_the_connection_is_the_death_of_its_children(_) ->
    disconnected(fun(_, Node) -> true = erlang:disconnect_node(Node) end).

disconnected(Disconnect) ->
    with_peer(fun(Peer, Node) ->
        Zone = zone(a_zone),
        Pids = [{Number, on(Node)} || Number <- lists:seq(1, 50)],
        [{ok, Pid} = gen_tracker:add_existing_child(Zone, full(Name, Pid)) || {Name, Pid} <- Pids],
        Start = {?MODULE, start_on, [self(), on(Node)]},
        {ok, Opened} = gen_tracker:find_or_open(Zone, {opened, Start, temporary}),
        {started, Opened} = await(started),
        Registered = on(Node),
        yes = gen_tracker:register_name({Zone, registered}, Registered),
        All = [{opened, Opened}, {registered, Registered} | Pids],
        [ok = gen_tracker:setattr(Zone, Name, test, self()) || {Name, _} <- All],
        {ok, Here} = gen_tracker:find_or_open(Zone, spec(here, temporary)),
        {ok, _} = gen_tracker:subscribe(Zone),
        Disconnect(Peer, Node),
        [
            receive
                {gen_tracker, Zone, {down, Name, Pid, Reason}} ->
                    ?assertEqual({Name, noconnection}, {Name, Reason})
            after ?SOON -> ct:fail({not_told, Name})
            end
         || {Name, Pid} <- All
        ],
        [{last, Name, noconnection} = await(last, Name) || {Name, _} <- [{opened, Opened} | Pids]],
        wait:until(fun() -> gen_tracker:names(Zone) =:= [here] end),
        ?assertEqual({ok, Here}, gen_tracker:find(Zone, here))
    end).

a_remote_process_that_is_dead_already_is_cleaned_up(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        Dead = on(Node),
        normal = tracked_child:stop(Dead, normal),
        [
            begin
                added_dead(Zone, Form(name, Dead), Dead)
            end
         || Form <- [fun short/2, fun full/2]
        ],
        registered_dead(Zone, Dead)
    end).

added_dead(Zone, Child, Pid) ->
    Adding = calling(fun() -> gen_tracker:add_existing_child(Zone, Child) end),
    ?assertEqual({answer, {ok, Pid}}, answer(Adding, ?SOON)),
    free(Zone, name).

registered_dead(Zone, Pid) ->
    Registering = calling(fun() -> gen_tracker:register_name({Zone, name}, Pid) end),
    ?assertEqual({answer, yes}, answer(Registering, ?SOON)),
    free(Zone, name).

%% Stopping

a_remote_child_is_stopped_as_its_spec_says(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        [
            begin
                Pid = Start(Node),
                Monitor = monitor(process, Pid),
                {ok, Pid} = gen_tracker:add_existing_child(
                    Zone, full(name, Pid, permanent, Shutdown)
                ),
                Ending = calling(fun() -> supervisor:terminate_child(Zone, name) end),
                ?assertEqual({answer, ok}, answer(Ending, ?LIMIT)),
                {'DOWN', Monitor, process, Pid, Seen} = await('DOWN', Monitor),
                ?assertEqual({Shutdown, Reason}, {Shutdown, Seen}),
                free(Zone, name)
            end
         || {Start, Shutdown, Reason} <- [
                {fun on/1, 5000, shutdown},
                {fun on/1, infinity, shutdown},
                {fun on/1, brutal_kill, killed},
                {fun stubborn_on/1, 100, killed}
            ]
        ]
    end).

remote_children_are_stopped_with_the_zone(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        Pids = remote_children(Zone, Node),
        zones:stop(Zone, ?LIMIT),
        [_ = ended(Pid, ?SOON) || Pid <- Pids]
    end).

remote_children_end_with_a_killed_tracker(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        Pids = remote_children(Zone, Node),
        _ = tracked_child:kill(whereis(Zone)),
        [_ = ended(Pid, ?LIMIT) || Pid <- Pids]
    end).

remote_children(Zone, Node) ->
    [Short, Full, Stubborn, Registered] = [on(Node), on(Node), stubborn_on(Node), on(Node)],
    {ok, Short} = gen_tracker:add_existing_child(Zone, short(short, Short)),
    {ok, Full} = gen_tracker:add_existing_child(Zone, full(full, Full)),
    {ok, Stubborn} = gen_tracker:add_existing_child(Zone, full(stubborn, Stubborn)),
    yes = gen_tracker:register_name({Zone, registered}, Registered),
    Start = {?MODULE, start_on, [self(), Short]},
    {ok, Opened} = gen_tracker:find_or_open(Zone, {opened, Start, permanent}),
    [Short, Full, Stubborn, Registered, Opened].

a_remote_child_survives_its_keeper(_) ->
    with_peer(fun(_, Node) ->
        Zone = zone(a_zone),
        Pid = on(Node),
        {ok, Pid} = gen_tracker:add_existing_child(Zone, full(name, Pid)),
        ok = gen_tracker:setattr(Zone, name, test, self()),
        _ = tracked_child:kill(zones:keeper(Zone, name)),
        ok = gen_tracker:wait(Zone),
        ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
        crash = tracked_child:stop(Pid, crash),
        ?assertEqual({last, name, crash}, await(last)),
        free(Zone, name)
    end).

%% Processes of an earlier node

%% Runs a fun in a node that has been started a second time under its name. The fun gets the pid of
%% a process of the first node.
in_a_second_node(Fun) ->
    Name = peer:random_name(),
    Keep = fun() ->
        term_to_binary(
            spawn(fun() ->
                receive
                    never -> ok
                end
            end)
        )
    end,
    Kept = other_node:run(#{name => Name}, Keep),
    other_node:run(#{name => Name}, fun() ->
        process_flag(trap_exit, true),
        Pid = binary_to_term(Kept),
        ?assertEqual(node(), node(Pid)),
        Fun(Pid)
    end).

a_process_of_an_earlier_node_of_this_name_is_dead_at_once(_) ->
    in_a_second_node(fun(Pid) ->
        Zone = zone(a_zone),
        {ok, []} = gen_tracker:subscribe(Zone),
        [
            begin
                added_dead(Zone, Form(name, Pid), Pid),
                told_of_death(Zone, Pid)
            end
         || Form <- [fun short/2, fun full/2]
        ],
        registered_dead(Zone, Pid),
        ?assertEqual(undefined, gen_tracker:whereis_name({Zone, name})),
        zones:stop(Zone, ?LIMIT)
    end).

told_of_death(Zone, Pid) ->
    [
        receive
            {gen_tracker, Zone, Event} -> ?assertEqual([What, name, Pid], first_three(Event))
        after ?SOON -> ct:fail({not_told, What})
        end
     || What <- [up, down]
    ].

first_three(Event) ->
    lists:sublist(tuple_to_list(Event), 3).

a_start_function_may_return_a_process_of_an_earlier_node(_) ->
    in_a_second_node(fun(Pid) ->
        Zone = zone(a_zone),
        Spec = {name, {erlang, hd, [[{ok, Pid}]]}, temporary},
        Opening = calling(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
        ?assertEqual({answer, {ok, Pid}}, answer(Opening, ?SOON)),
        free(Zone, name),
        {ok, Child} = gen_tracker:find_or_open(Zone, spec(name, temporary)),
        ?assertEqual({ok, Child}, gen_tracker:find(Zone, name)),
        zones:stop(Zone, ?LIMIT)
    end).

a_permanent_child_of_an_earlier_node_is_restarted(_) ->
    in_a_second_node(fun(Pid) ->
        Zone = zone(a_zone),
        Dead = fun() -> {ok, Pid} end,
        Script = script([Dead, Dead, run()]),
        Spec = scripted_child:spec(name, permanent, Script),
        Opening = calling(fun() -> gen_tracker:find_or_open(Zone, Spec) end),
        ?assertMatch({answer, {ok, _}}, answer(Opening, ?SOON)),
        wait:until(fun() ->
            case gen_tracker:find(Zone, name) of
                {ok, Child} -> Child =/= Pid;
                undefined -> false
            end
        end),
        Ending = calling(fun() -> supervisor:terminate_child(Zone, name) end),
        ?assertEqual({answer, ok}, answer(Ending, ?LIMIT)),
        zones:stop(Zone, ?LIMIT)
    end).
