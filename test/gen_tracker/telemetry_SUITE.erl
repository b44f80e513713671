%% Promise: a zone emits its events through `telemetry' if that is there when it starts, and no
%% handler can hurt the zone.
-module(telemetry_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_child, [kill/1, loose/1, open/2, stop/2]).
-import(zone_hook, [zone/1]).

-define(NAME, <<"tv1">>).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [start, log]}]}].

all() ->
    [
        births_and_deaths_are_emitted,
        registered_processes_are_emitted_too,
        a_name_that_is_handed_over_goes_down_and_up,
        a_start_is_emitted_with_its_duration,
        a_start_that_raises_is_an_exception,
        a_restart_is_emitted_like_a_start,
        a_cleanup_is_emitted_with_its_duration,
        a_cleanup_that_raises_is_an_exception,
        attributes_and_reads_emit_nothing,
        a_handler_that_raises_costs_nobody_anything,
        a_handler_that_never_returns_delays_nothing,
        a_handler_that_ends_its_process_is_followed_by_another,
        events_that_handlers_cannot_keep_up_with_are_dropped,
        the_deaths_of_a_zone_that_stops_are_emitted,
        the_deaths_of_a_zone_whose_tracker_is_killed_are_emitted,
        a_killed_emitter_costs_nothing_but_events,
        a_zone_looks_for_telemetry_when_it_starts
    ].

init_per_suite(Config) ->
    ok = telemetry_stand_in:load(),
    Config.

end_per_suite(_) ->
    ok = telemetry_stand_in:unload().

init_per_testcase(_, Config) ->
    ok = telemetry_stand_in:watch(),
    Config.

end_per_testcase(_, _) ->
    telemetry_stand_in:forget().

births_and_deaths_are_emitted(Config) ->
    Zone = zone(Config),
    Child = open(Zone, ?NAME),
    {_, Up, MetadataUp} = next([child, up]),
    ?assertEqual(#{zone => Zone, name => ?NAME, pid => Child}, MetadataUp),
    ?assertEqual([system_time], maps:keys(Up)),
    _ = kill(Child),
    {_, Down, MetadataDown} = next([child, down]),
    ?assertEqual(MetadataUp#{reason => killed}, MetadataDown),
    ?assert(map_get(system_time, Down) >= map_get(system_time, Up)),
    _ = open(Zone, other),
    ok = gen_server:call(Zone, {terminate_child, other}),
    ?assertMatch({_, _, #{name := other, reason := shutdown}}, next([child, down])).

registered_processes_are_emitted_too(Config) ->
    Zone = zone(Config),
    Pid = loose(start_link),
    yes = gen_tracker:register_name({Zone, ?NAME}, Pid),
    ?assertEqual({up, ?NAME, Pid}, change()),
    ok = gen_tracker:unregister_name({Zone, ?NAME}),
    ?assertEqual({down, ?NAME, Pid, unregistered}, change()),
    {ok, Pid} = gen_tracker:add_existing_child(Zone, {other, Pid, worker, []}),
    ?assertEqual({up, other, Pid}, change()),
    done = stop(Pid, done),
    ?assertEqual({down, other, Pid, done}, change()),
    ?assertEqual([], messages:taken([start, stop])).

a_name_that_is_handed_over_goes_down_and_up(Config) ->
    Zone = zone(Config),
    [One, Other] = [loose(start_link) || _ <- [1, 2]],
    yes = gen_tracker:register_name({Zone, ?NAME}, One),
    yes = gen_tracker:re_register_name({Zone, ?NAME}, Other),
    ?assertEqual({up, ?NAME, One}, change()),
    ?assertEqual({down, ?NAME, One, re_registered}, change()),
    ?assertEqual({up, ?NAME, Other}, change()).

a_start_is_emitted_with_its_duration(Config) ->
    Zone = zone(Config),
    Before = erlang:monotonic_time(),
    [One, Other] = [loose(start_link) || _ <- [1, 2]],
    Results = [{ok, One}, {ok, Other, info}, ignore, {error, none}, {error, 404, no}],
    [
        begin
            Spec = {Name, {erlang, hd, [[Result]]}, temporary},
            Result = gen_tracker:find_or_open(Zone, Spec),
            {_, #{duration := Duration, monotonic_time := End} = Measurements, Metadata} =
                next([start, stop]),
            ?assertEqual(2, map_size(Measurements)),
            ?assertEqual(
                #{zone => Zone, name => Name, start => {erlang, hd, 1}, result => Result}, Metadata
            ),
            ?assert(Duration >= 0 andalso End - Duration >= Before)
        end
     || {Name, Result} <- lists:enumerate(Results)
    ].

a_start_that_raises_is_an_exception(Config) ->
    Zone = zone(Config),
    Raise = fun() -> exit(no_camera) end,
    Spec = {?NAME, {erlang, apply, [Raise, []]}, temporary},
    {error, no_camera} = gen_tracker:find_or_open(Zone, Spec),
    {_, #{duration := _, monotonic_time := _}, Metadata} = next([start, exception]),
    ?assertMatch(
        #{zone := Zone, name := ?NAME, start := {erlang, apply, 2}, kind := exit,
          reason := no_camera, stacktrace := [_ | _]},
        Metadata
    ),
    ?assertEqual([], messages:taken([start, stop])).

a_restart_is_emitted_like_a_start(Config) ->
    Zone = zone(Config),
    Spec = tracked_child:spec(?NAME, permanent),
    {ok, First} = gen_tracker:find_or_open(Zone, Spec),
    _ = kill(First),
    {ok, Second} = gen_tracker:find(Zone, ?NAME, 10000),
    [?assertMatch({_, _, #{result := {ok, Pid}}}, next([start, stop])) || Pid <- [First, Second]],
    ?assertEqual(
        [{up, ?NAME, First}, {down, ?NAME, First, killed}, {up, ?NAME, Second}],
        [change() || _ <- [1, 2, 3]]
    ).

a_cleanup_is_emitted_with_its_duration(Config) ->
    Zone = zone(Config),
    {Child, Cleaner} = tracked_child:terminating(Zone, ?NAME),
    {down, ?NAME, Child, normal} = down(),
    ?assertEqual([], messages:taken([after_terminate, stop])),
    Cleaner ! done,
    {_, #{duration := Duration, monotonic_time := _}, Metadata} = next([after_terminate, stop]),
    ?assertEqual(
        #{zone => Zone, name => ?NAME, module => tracked_child_reason, exit_reason => normal},
        Metadata
    ),
    ?assert(Duration >= 0).

a_cleanup_that_raises_is_an_exception(Config) ->
    Zone = zone(Config),
    Spec = {?NAME, {tracked_child_reason, start_link, [self()]}, temporary},
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    ok = gen_tracker:setattr(Zone, ?NAME, last, fun(_, _, _) -> error(full_disk) end),
    finished = stop(Child, finished),
    ?assertMatch(
        {_, #{duration := _}, #{kind := error, reason := full_disk, exit_reason := finished,
                                stacktrace := [_ | _], name := ?NAME, zone := Zone}},
        next([after_terminate, exception])
    ),
    tracked_child:forgotten(Zone, ?NAME).

attributes_and_reads_emit_nothing(Config) ->
    Zone = zone(Config),
    {_, Sent} = callers:sent_by(fun() ->
        Child = whereis(Zone),
        [] = gen_tracker:list(Zone),
        1 = gen_tracker:increment(Zone, ?NAME, n, 1, 0),
        ok = gen_tracker:delattr(Zone, ?NAME, n),
        undefined = gen_tracker:find(Zone, ?NAME),
        {Child, gen_tracker:names(Zone)}
    end),
    ?assertEqual([], Sent),
    _ = open(Zone, ?NAME),
    _ = next([child, up]),
    _ = next([start, stop]),
    ok = gen_tracker:setattr(Zone, ?NAME, state, live),
    {ok, live} = gen_tracker:getattr(Zone, ?NAME, state),
    ok = gen_tracker:cas(Zone, ?NAME, state, live, idle),
    [?NAME] = gen_tracker:names(Zone),
    handled(Zone),
    ?assertEqual([], events()).

a_handler_that_raises_costs_nobody_anything(Config) ->
    Zone = zone(Config),
    telemetry_stand_in:forget(),
    ok = telemetry_stand_in:watch(fun(_) -> error(bad_handler) end),
    Children = [open(Zone, Name) || Name <- lists:seq(1, 10)],
    [_ = kill(Child) || Child <- Children],
    [tracked_child:forgotten(Zone, Name) || Name <- lists:seq(1, 10)],
    handled(Zone),
    ?assertMatch([_], logged(telemetry_error)),
    telemetry_stand_in:forget(),
    ok = telemetry_stand_in:watch(),
    Child = open(Zone, ?NAME),
    ?assertEqual({up, ?NAME, Child}, change()).

%% The zone even stops in order.
a_handler_that_never_returns_delays_nothing(Config) ->
    Zone = zone(Config),
    telemetry_stand_in:forget(),
    Test = self(),
    ok = telemetry_stand_in:watch(fun(_) -> Test ! {stuck, self()}, timer:sleep(infinity) end),
    [_ = kill(open(Zone, Name)) || Name <- lists:seq(1, 10)],
    {stuck, Worker} = messages:await(stuck),
    Child = open(Zone, ?NAME),
    ok = gen_server:call(Zone, {terminate_child, ?NAME}),
    false = is_process_alive(Child),
    _ = open(Zone, ?NAME),
    Emitter = emitter(Zone),
    ok = gen_server:stop(Zone),
    %% Its patience ends.
    normal = tracked_child:down(Emitter),
    _ = tracked_child:down(Worker).

a_handler_that_ends_its_process_is_followed_by_another(Config) ->
    Zone = zone(Config),
    telemetry_stand_in:forget(),
    Test = self(),
    Handler = fun({Event, _, #{name := Name}}) ->
        Test ! {Event, Name, self()},
        _ = Event =:= [child, up] andalso Name =:= first andalso exit(self(), kill),
        ok
    end,
    ok = telemetry_stand_in:watch(Handler),
    _ = open(Zone, first),
    {_, _, One} = messages:await([child, up], first),
    _ = tracked_child:down(One),
    _ = open(Zone, second),
    {_, _, Other} = messages:await([child, up], second),
    ?assertNotEqual(One, Other).

events_that_handlers_cannot_keep_up_with_are_dropped(Config) ->
    Zone = zone(Config),
    telemetry_stand_in:forget(),
    Test = self(),
    Handler = fun({_, _, #{name := Name}}) ->
        Test ! {handled, Name, self()},
        _ = Name =:= 1 andalso messages:await(continue)
    end,
    ok = telemetry_stand_in:watch(Handler),
    Emitter = emitter(Zone),
    Emit = fun(Name) -> gen_tracker_telemetry:emit(Emitter, [child, up], #{}, #{name => Name}) end,
    Emit(1),
    {handled, 1, Worker} = messages:await(handled),
    lists:foreach(Emit, lists:seq(2, 20001)),
    _ = sys:get_state(Emitter),
    ?assertMatch([_], logged(telemetry_overload)),
    Worker ! {continue},
    handled(Zone),
    ?assertEqual(lists:seq(2, 10001), [Name || {handled, Name, _} <- messages:taken(handled)]),
    _ = open(Zone, ?NAME),
    {handled, ?NAME, _} = messages:await(handled).

the_deaths_of_a_zone_that_stops_are_emitted(Config) ->
    Zone = zone(Config),
    Children = [{down, Name, open(Zone, Name), shutdown} || Name <- lists:seq(1, 200)],
    Emitter = emitter(Zone),
    ok = gen_server:stop(Zone),
    ?assertEqual(Children, lists:sort([down() || _ <- Children])),
    normal = tracked_child:down(Emitter).

the_deaths_of_a_zone_whose_tracker_is_killed_are_emitted(Config) ->
    Zone = zone(Config),
    Stubborn = tracked_child:stubborn(Zone),
    Other = open(Zone, ?NAME),
    Emitter = emitter(Zone),
    _ = kill(whereis(Zone)),
    ?assertEqual({down, ?NAME, Other, shutdown}, down()),
    Stubborn ! {stop, at_last},
    ?assertEqual({down, stubborn, Stubborn, at_last}, down()),
    normal = tracked_child:down(Emitter).

a_killed_emitter_costs_nothing_but_events(Config) ->
    Zone = zone(Config),
    _ = kill(emitter(Zone)),
    Child = open(Zone, ?NAME),
    _ = kill(Child),
    tracked_child:forgotten(Zone, ?NAME),
    ?assertEqual([], events()).

a_zone_looks_for_telemetry_when_it_starts(_) ->
    ok = telemetry_stand_in:unload(),
    Zone = zones:zone(without_telemetry),
    ok = telemetry_stand_in:load(),
    ok = telemetry_stand_in:watch(),
    none = emitter(Zone),
    Child = open(Zone, ?NAME),
    _ = kill(Child),
    tracked_child:forgotten(Zone, ?NAME),
    ?assertEqual([], events()).

%%% Events

next(Event) ->
    messages:await(Event).

down() ->
    {_, _, #{name := Name, pid := Pid, reason := Reason}} = next([child, down]),
    {down, Name, Pid, Reason}.

%% The next birth or death.
change() ->
    receive
        {[child, up], _, #{name := Name, pid := Pid}} -> {up, Name, Pid};
        {[child, down], _, #{name := Name, pid := Pid, reason := Reason}} ->
            {down, Name, Pid, Reason}
    after 10000 -> ct:fail(no_change)
    end.

logged(Label) ->
    kept_log:taken(fun(Event) -> kept_log:labelled(Label, Event) end).

%% All events in the mailbox.
events() ->
    lists:append([messages:taken(Event) || [gen_tracker | Event] <- telemetry_stand_in:events()]).

%% The process that passes on the events of a zone.
emitter(Zone) ->
    #{telemetry := Emitter} = tracker_state:context(Zone),
    Emitter.

%% Waits until all events that the emitter has received were handled.
handled(Zone) ->
    case element(6, sys:get_state(emitter(Zone))) of
        undefined ->
            ok;
        _IsBusy ->
            erlang:yield(),
            handled(Zone)
    end.
