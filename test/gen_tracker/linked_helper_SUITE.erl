%% Promise: a process that a start function links, beside the child that it returns, lives on when
%% the child exits, is terminated or is restarted. It receives `shutdown` when the zone stops.
%% Programs written for the original start shared processes with their first child.
-module(linked_helper_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(messages, [await/1, await/2, taken/1]).
-import(zones, [zone/1]).
-import(scripted_child, [run/0, dead/1]).
-import(timed_call, [ended/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        a_helper_of_a_start_function_lives_on_when_the_child_is_killed,
        a_helper_of_a_start_function_lives_on_when_the_child_is_terminated,
        a_helper_of_a_start_function_lives_on_when_the_child_exits_during_its_start,
        a_helper_of_a_start_function_lives_on_when_the_child_is_restarted,
        a_helper_of_a_start_function_ends_with_shutdown_when_the_zone_stops,
        a_helper_that_has_outlived_its_child_ends_with_shutdown_when_the_zone_stops
    ].

end_per_testcase(_Case, _Config) ->
    [exit(Helper, kill) || Helper <- [get_helper(Name) || Name <- helpers()], is_pid(Helper)].

helpers() ->
    [linked, registered, trapping].

start_with_helper(Test, Helper, Then) ->
    case get_helper(Helper) of
        undefined -> Test ! {helper, Helper, start_helper(Helper), self()};
        _ -> ok
    end,
    Then().

get_helper(Helper) ->
    whereis(list_to_atom("helper_" ++ atom_to_list(Helper))).

start_helper(linked) ->
    Helper = spawn_link(fun() ->
        receive
            never -> ok
        end
    end),
    true = register(helper_linked, Helper),
    Helper;
start_helper(Kind) ->
    Name = {local, list_to_atom("helper_" ++ atom_to_list(Kind))},
    {ok, Helper} = gen_server:start_link(Name, ?MODULE, Kind, []),
    Helper.

init(Kind) ->
    process_flag(trap_exit, Kind =:= trapping),
    {ok, Kind}.

%% An exit signal stops the server whether it traps exits or not.
handle_info({'EXIT', _, Reason}, Kind) ->
    {stop, Reason, Kind}.

handle_call(Call, _, Kind) ->
    {reply, Call, Kind}.

handle_cast(_, Kind) ->
    {noreply, Kind}.

%% Opens a child for each kind of helper. Its first start also starts the helper.
with_helpers(Zone, Restart, Then) ->
    Test = self(),
    [
        begin
            Start = {?MODULE, start_with_helper, [Test, Helper, Then]},
            {ok, Child} = gen_tracker:find_or_open(Zone, {Helper, Start, Restart}),
            {helper, Helper, Pid, Keeper} = await(helper, Helper),
            {Helper, Child, Pid, Keeper}
        end
     || Helper <- helpers()
    ].

%% Waits until all keepers have exited. Then no child is left.
without_children(Zone, Opened) ->
    [ended(Keeper, ?LIMIT) || {_, _, _, Keeper} <- Opened],
    [] = gen_tracker:names(Zone).

alive(Opened) ->
    [?assertEqual({Name, Pid}, {Name, get_helper(Name)}) || {Name, _, Pid, _} <- Opened],
    [
        ?assertEqual(hello, gen_server:call(Pid, hello))
     || {Name, _, Pid, _} <- Opened, Name =/= linked
    ].

kill_helpers(Opened) ->
    lists:foreach(fun({_, _, Pid, _}) -> tracked_child:kill(Pid) end, Opened).

a_helper_of_a_start_function_lives_on_when_the_child_is_killed(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Opened = with_helpers(Zone, temporary, run()),
            [exit(Child, Reason) || {_, Child, _, _} <- Opened],
            without_children(Zone, Opened),
            alive(Opened),
            kill_helpers(Opened)
        end
     || Reason <- [kill, shutdown, crash]
    ].

a_helper_of_a_start_function_lives_on_when_the_child_is_terminated(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opened = with_helpers(Zone, permanent, run()),
    [ok = supervisor:terminate_child(Zone, Name) || {Name, _, _, _} <- Opened],
    without_children(Zone, Opened),
    alive(Opened).

a_helper_of_a_start_function_lives_on_when_the_child_exits_during_its_start(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opened = with_helpers(Zone, temporary, fun() -> dead(crash) end),
    without_children(Zone, Opened),
    alive(Opened).

a_helper_of_a_start_function_lives_on_when_the_child_is_restarted(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opened = with_helpers(Zone, permanent, run()),
    _ = taken(started),
    [
        begin
            exit(Child, kill),
            {started, Next} = await(started),
            zones:until_found(Zone, Name, Next)
        end
     || {Name, Child, _, _} <- Opened
    ],
    [] = taken(helper),
    alive(Opened).

a_helper_of_a_start_function_ends_with_shutdown_when_the_zone_stops(_) ->
    helpers_end_with_the_zone(fun(Zone) -> with_helpers(Zone, permanent, run()) end).

a_helper_that_has_outlived_its_child_ends_with_shutdown_when_the_zone_stops(_) ->
    helpers_end_with_the_zone(fun(Zone) ->
        Opened = with_helpers(Zone, temporary, run()),
        [exit(Child, kill) || {_, Child, _, _} <- Opened],
        without_children(Zone, Opened),
        alive(Opened),
        Opened
    end).

helpers_end_with_the_zone(Open) ->
    [
        begin
            Zone = zone(a_zone_with_helpers),
            Opened = Open(Zone),
            Monitors = [{Name, monitor(process, Pid)} || {Name, _, Pid, _} <- Opened],
            ?assertEqual(Reason, zones:stopped(Zone, Stop, ?LIMIT)),
            [
                begin
                    {'DOWN', Monitor, process, _, End} = await('DOWN', Monitor),
                    ?assertEqual({Name, shutdown}, {Name, End})
                end
             || {Name, Monitor} <- Monitors
            ]
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].
