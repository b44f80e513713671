%% Promise: a child is stopped as its shutdown time says, and many children are stopped at the same
%% time. When a tracker has exited, for any reason, no process of its zone is left: no child, no
%% keeper, no start in progress.
-module(shutdown_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, beside/1]).
-import(messages, [await/1, await/2, monitor_now/1, taken/1]).
-import(callers, [ask/1, answer/1]).
-import(tracked_child, [loose/1, spec/4]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        a_shutdown_in_milliseconds_sends_shutdown,
        a_child_that_ignores_shutdown_is_killed_after_its_milliseconds,
        a_brutal_kill_kills_at_once,
        infinity_sends_shutdown_and_waits,
        a_spec_of_three_elements_means_200_milliseconds,
        a_map_spec_means_its_own_shutdown,
        an_added_child_is_stopped_as_its_spec_says,
        a_terminated_child_is_removed_after_one_after_terminate,
        a_terminated_permanent_child_is_not_restarted,
        terminate_child_stops_many_children_at_the_same_time,
        a_stopping_tracker_stops_all_children_at_the_same_time,
        a_stopping_tracker_restarts_no_child,
        a_thousand_children_that_ignore_exit_signals_are_killed_at_the_same_time,
        nothing_is_left_when_the_supervisor_stops_the_tracker,
        nothing_is_left_when_the_parent_of_the_tracker_is_killed,
        nothing_is_left_after_the_call_shutdown,
        nothing_is_left_after_the_call_stop,
        nothing_is_left_when_the_tracker_is_killed,
        a_linked_helper_of_a_dead_child_exits_when_the_tracker_is_killed,
        a_pending_restart_ends_with_the_tracker,
        after_terminate_is_called_at_most_once_for_each_child
    ].

%% One child

a_shutdown_in_milliseconds_sends_shutdown(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, start_link, 10000),
    shutdown = stopped(Zone, child, Child).

a_child_that_ignores_shutdown_is_killed_after_its_milliseconds(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, start_stubborn, 50),
    killed = stopped(Zone, child, Child),
    [{exit_signal, Child, shutdown}] = taken(exit_signal).

a_brutal_kill_kills_at_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, start_stubborn, brutal_kill),
    killed = stopped(Zone, child, Child),
    [] = taken(exit_signal).

%% A child with 300 ms, which is stopped at the same time, is killed while the child with
%% `infinity` still has time.
infinity_sends_shutdown_and_waits(_) ->
    Zone = zone(?FUNCTION_NAME),
    Patient = open(Zone, patient, start_stubborn, infinity),
    Hasty = open(Zone, hasty, start_stubborn, 300),
    Stopping = ask(fun() -> supervisor:terminate_child(Zone, patient) end),
    {exit_signal, Patient, shutdown} = await(exit_signal),
    killed = stopped(Zone, hasty, Hasty),
    true = is_process_alive(Patient),
    [] = taken('DOWN'),
    done = tracked_child:stop(Patient, done),
    {answer, ok} = answer(Stopping),
    [] = supervisor:which_children(Zone).

a_spec_of_three_elements_means_200_milliseconds(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = {child, {tracked_child, start_stubborn, [self()]}, temporary},
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started),
    killed = stopped(Zone, child, Child),
    [{exit_signal, Child, shutdown}] = taken(exit_signal).

a_map_spec_means_its_own_shutdown(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = #{
        id => child,
        start => {tracked_child, start_stubborn, [self()]},
        shutdown => brutal_kill
    },
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started),
    killed = stopped(Zone, child, Child),
    [] = taken(exit_signal).

an_added_child_is_stopped_as_its_spec_says(_) ->
    Zone = zone(?FUNCTION_NAME),
    Plain = add(Zone, plain, start_link, 10000),
    Stubborn = add(Zone, stubborn, start_stubborn, 50),
    Brutal = add(Zone, brutal, start_stubborn, brutal_kill),
    shutdown = stopped(Zone, plain, Plain),
    killed = stopped(Zone, stubborn, Stubborn),
    killed = stopped(Zone, brutal, Brutal),
    [{exit_signal, Stubborn, shutdown}] = taken(exit_signal).

%% When `terminate_child` returns, entry and attributes are removed, and `after_terminate` has been
%% called.
a_terminated_child_is_removed_after_one_after_terminate(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, start_link, 10000),
    ok = gen_tracker:setattr(Zone, child, [{test, self()}, {color, red}]),
    shutdown = stopped(Zone, child, Child),
    Attrs = [{color, red}, {test, self()}],
    [{after_terminate, child, Attrs, _}] = taken(after_terminate),
    undefined = gen_tracker:find(Zone, child),
    [] = gen_tracker:attrs(Zone, child),
    [] = supervisor:which_children(Zone).

a_terminated_permanent_child_is_not_restarted(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, Child} = gen_tracker:find_or_open(
        Zone, spec(child, permanent, 10000, {start_link, [self()]})
    ),
    {started, Child} = await(started),
    shutdown = stopped(Zone, child, Child),
    tracked_child:forgotten(Zone, child),
    [] = taken(started).

%% Many children

%% Every child receives its exit signal before one of them has stopped.
terminate_child_stops_many_children_at_the_same_time(_) ->
    Zone = zone(?FUNCTION_NAME),
    Children = [{Name, open(Zone, Name, start_stubborn, infinity)} || Name <- lists:seq(1, 100)],
    Stopping = [ask(fun() -> supervisor:terminate_child(Zone, Name) end) || {Name, _} <- Children],
    release_once_all_are_told([Child || {_, Child} <- Children]),
    [{answer, ok} = answer(Caller) || Caller <- Stopping],
    [] = supervisor:which_children(Zone).

a_stopping_tracker_stops_all_children_at_the_same_time(_) ->
    Zone = zone(?FUNCTION_NAME),
    Children = [open(Zone, Name, start_stubborn, infinity) || Name <- lists:seq(1, 100)],
    Stopping = ask(fun() -> gen_server:stop(Zone, normal, infinity) end),
    release_once_all_are_told(Children),
    {answer, ok} = answer(Stopping).

%% The first child that exits ends all other children, before most of the keepers have been told to
%% stop.
a_stopping_tracker_restarts_no_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Starts = counters:new(1, []),
    Middle = spawn(fun() ->
        receive
        after infinity -> never
        end
    end),
    [
        {ok, _} = gen_tracker:find_or_open(
            Zone, {Name, {?MODULE, start_tied, [Middle, Starts]}, permanent}
        )
     || Name <- lists:seq(1, 2000)
    ],
    ok = gen_server:call(Zone, shutdown),
    ?assertEqual(2000, counters:get(Starts, 1)).

start_tied(Middle, Starts) ->
    counters:add(Starts, 1, 1),
    {
        ok,
        spawn_link(fun() ->
            link(Middle),
            receive
            after infinity -> never
            end
        end)
    }.

a_thousand_children_that_ignore_exit_signals_are_killed_at_the_same_time(_) ->
    Zone = zone(?FUNCTION_NAME),
    Children = [open(Zone, Name, start_stubborn, 1000) || Name <- lists:seq(1, 1000)],
    ok = gen_server:stop(Zone, normal, infinity),
    [] = alive(Children),
    Told = lists:sort([Child || {exit_signal, Child, shutdown} <- taken(exit_signal)]),
    Told = lists:sort(Children).

%% Nothing is left

nothing_is_left_when_the_supervisor_stops_the_tracker(_) ->
    Zone = ?FUNCTION_NAME,
    {ok, Supervisor} = supervisor:start_link(?MODULE, Zone),
    Population = populate(Zone),
    shutdown = ended(Zone, fun(_) -> ok = supervisor:terminate_child(Supervisor, Zone) end),
    nothing_is_left_at_once(Zone, Population),
    ok = gen_server:stop(Supervisor).

nothing_is_left_when_the_parent_of_the_tracker_is_killed(_) ->
    Zone = ?FUNCTION_NAME,
    Test = self(),
    Parent = spawn(fun() ->
        {ok, _} = gen_tracker:start_link(Zone),
        Test ! {parent, self()},
        receive
            never -> ok
        end
    end),
    {parent, Parent} = await(parent),
    Population = populate(Zone),
    killed = ended(Zone, fun(_) -> exit(Parent, kill) end),
    nothing_is_left_at_once(Zone, Population).

nothing_is_left_after_the_call_shutdown(_) ->
    nothing_is_left_after(zone(?FUNCTION_NAME), shutdown, shutdown).

nothing_is_left_after_the_call_stop(_) ->
    nothing_is_left_after(zone(?FUNCTION_NAME), stop, normal).

nothing_is_left_after(Zone, Call, Reason) ->
    Population = populate(Zone),
    Reason = ended(Zone, fun(Tracker) ->
        ask(fun() -> gen_server:call(Tracker, Call, infinity) end)
    end),
    nothing_is_left_at_once(Zone, Population).

%% A killed tracker cannot stop its children. The keepers do, and then exit.
nothing_is_left_when_the_tracker_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Population = populate(Zone),
    killed = ended(Zone, fun(Tracker) -> exit(Tracker, kill) end),
    nothing_is_left(Zone, Population, fun(Answer) ->
        ?assertMatch({killed, {gen_server, call, _}}, Answer)
    end).

%% The restarts of the child fail.
a_pending_restart_ends_with_the_tracker(_) ->
    Zone = zone(?FUNCTION_NAME),
    Starts = counters:new(1, []),
    Test = self(),
    StartOnce = fun() ->
        counters:add(Starts, 1, 1),
        case counters:get(Starts, 1) of
            1 -> tracked_child:start_link(Test);
            _ -> {error, never_again}
        end
    end,
    {ok, Child} = gen_tracker:find_or_open(
        Zone, spec(child, permanent, 200, {start_with, [Test, StartOnce]})
    ),
    [{started, _}, {started, Child}] = [await(started), await(started)],
    crash = tracked_child:stop(Child, crash),
    [{started, _}, {started, _}] = [await(started), await(started)],
    Beside = beside(Zone),
    ok = gen_server:stop(Zone),
    lists:foreach(fun tracked_child:down/1, Beside).

%% Half of the children are killed by the test while the tracker stops.
after_terminate_is_called_at_most_once_for_each_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Children = [{Name, open(Zone, Name, start_link, 10000)} || Name <- lists:seq(1, 400)],
    [ok = gen_tracker:setattr(Zone, Name, test, self()) || {Name, _} <- Children],
    Beside = beside(Zone),
    [exit(Child, kill) || {Name, Child} <- Children, Name rem 2 =:= 0],
    ok = gen_server:stop(Zone),
    lists:foreach(fun tracked_child:down/1, Beside),
    Names = lists:sort([Name || {after_terminate, Name, _, _} <- taken(after_terminate)]),
    Names = lists:usort(Names).

%% The callback of a supervisor with one zone.
init(Zone) ->
    {ok, {#{}, [{Zone, {gen_tracker, start_link, [Zone]}, temporary, infinity, supervisor, []}]}}.

open(Zone, Name, Start, Shutdown) ->
    {ok, Child} = gen_tracker:find_or_open(
        Zone, spec(Name, temporary, Shutdown, {Start, [self()]})
    ),
    {started, Child} = await(started),
    Child.

add(Zone, Name, Start, Shutdown) ->
    Child = loose(Start),
    {ok, Child} = gen_tracker:add_existing_child(
        Zone, {Child, spec(Name, temporary, Shutdown, {Start, [self()]})}
    ),
    Child.

%% Terminates a child, and returns its exit reason.
stopped(Zone, Name, Child) ->
    Monitor = monitor(process, Child),
    ok = supervisor:terminate_child(Zone, Name),
    {'DOWN', Monitor, process, Child, Reason} = await('DOWN', Monitor),
    Reason.

release_once_all_are_told(Children) ->
    [{exit_signal, Child, shutdown} = await(exit_signal, Child) || Child <- Children],
    Children = alive(Children),
    [Child ! {stop, normal} || Child <- Children].

%% Opens children of every kind that a tracker has to stop: children that obey or ignore
%% `shutdown`, started or added, and starts that hang, together with their callers.
populate(Zone) ->
    Kinds = [
        {Start, Shutdown}
     || Start <- [start_link, start_stubborn], Shutdown <- [50, brutal_kill]
    ],
    Started = [
        start_kind(Zone, Kind, Restart)
     || Kind <- Kinds, Restart <- [permanent, transient, temporary]
    ],
    Added = [add(Zone, {added, Start, Shutdown}, Start, Shutdown) || {Start, Shutdown} <- Kinds],
    Short = loose(start_link),
    {ok, Short} = gen_tracker:add_existing_child(Zone, {short, Short, worker, []}),
    [
        ok = gen_tracker:setattr(Zone, Name, test, self())
     || {Name, _, _, _} <- supervisor:which_children(Zone)
    ],
    Starts = [{start_gated, [self(), go]}, {start_halfway, [self()]}],
    Callers = [
        ask(fun() ->
            gen_tracker:find_or_open(Zone, spec({Start, Number}, permanent, 50, Start))
        end)
     || Start <- Starts, Number <- lists:seq(1, 20)
    ],
    Starters = [element(2, await(gated)) || _ <- lists:seq(1, 20)],
    Halfway = [element(2, await(halfway)) || _ <- lists:seq(1, 20)],
    Children = Started ++ Added ++ [Short | Halfway],
    #{children => Children, beside => Starters ++ beside(Zone), callers => Callers}.

start_kind(Zone, {Start, Shutdown}, Restart) ->
    Name = {Restart, Start, Shutdown},
    {ok, Child} = gen_tracker:find_or_open(Zone, spec(Name, Restart, Shutdown, {Start, [self()]})),
    {started, Child} = await(started),
    Child.

%% Stops a zone, and returns the exit reason of its tracker.
ended(Zone, Stop) ->
    Tracker = whereis(Zone),
    Monitor = monitor(process, Tracker),
    Stop(Tracker),
    {'DOWN', Monitor, process, Tracker, Reason} = await('DOWN', Monitor),
    Reason.

%% A tracker that stops in good order has ended its children before it exits.
nothing_is_left_at_once(Zone, #{children := Children} = Population) ->
    [] = alive(Children),
    Refused = fun(Answer) -> ?assertEqual({answer, {error, shutdown}}, Answer) end,
    nothing_is_left(Zone, Population, Refused).

%% `Check` gets the answers of the callers that waited for a start.
nothing_is_left(Zone, #{children := Children, beside := Beside, callers := Callers}, Check) ->
    lists:foreach(fun tracked_child:down/1, Children ++ Beside),
    undefined = whereis(Zone),
    ?assertError(badarg, gen_tracker:find(Zone, short)),
    [Check(answer(Caller)) || Caller <- Callers],
    [] = taken(started),
    Names = lists:sort([Name || {after_terminate, Name, _, _} <- taken(after_terminate)]),
    Names = lists:usort(Names).

%% The tracker is killed before it has handled the message by which it takes over the helper.
a_linked_helper_of_a_dead_child_exits_when_the_tracker_is_killed(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            {Child, Helper} = with_helper(Zone, Restart),
            Tracker = whereis(Zone),
            true = erlang:suspend_process(Tracker),
            tracked_child:kill(Child),
            wait:until(fun() ->
                process_info(Tracker, message_queue_len) =/= {message_queue_len, 0}
            end),
            Monitor = monitor_now(Helper),
            tracked_child:kill(Tracker),
            {'DOWN', Monitor, process, Helper, shutdown} = await('DOWN', Monitor)
        end
     || Restart <- [temporary, permanent]
    ].

%% Opens a child whose start function links another process, which traps exits, to the keeper.
%% Returns the child and that process.
with_helper(Zone, Restart) ->
    Test = self(),
    Start = fun() ->
        Helper = spawn_link(fun() ->
            process_flag(trap_exit, true),
            Test ! {helper, self()},
            receive
                {'EXIT', _, Reason} -> exit(Reason)
            end
        end),
        {ok, Child} = tracked_child:start_link(Test),
        Test ! {with, Child, Helper},
        {ok, Child}
    end,
    Spec = spec(child, Restart, 200, {start_with, [Test, Start]}),
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {with, Child, Helper} = await(with, Child),
    {helper, Helper} = await(helper, Helper),
    {Child, Helper}.

alive(Pids) ->
    [Pid || Pid <- Pids, is_process_alive(Pid)].
