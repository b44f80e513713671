%% Promise: after the death of a child its zone takes these steps in order. The child is
%% terminating; `after_terminate` of its module is called; its entry and its attributes are removed
%% in one step; the child is restarted if its restart type says so, until a start succeeds. No
%% other child waits for any of this.
-module(restart_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(messages, [await/1, await/2, taken/1]).
-import(callers, [ask/1, answer/1]).
-import(tracked_child, [loose/1, forgotten/2, spec/2]).
-import(scripted_child, [run/0, script/1]).
-import(tracked_child_reason, [open/4, tell/0, gate/0]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        a_terminating_child_is_not_found_takes_no_attribute_and_is_still_read,
        after_terminate_3_gets_name_attributes_and_reason,
        after_terminate_3_is_called_instead_of_after_terminate_2,
        after_terminate_2_is_called_when_there_is_no_after_terminate_3,
        a_child_whose_module_has_no_after_terminate_is_removed_with_its_attributes,
        after_terminate_of_a_child_added_with_its_spec_is_called,
        after_terminate_is_called_in_a_module_that_is_not_loaded_yet,
        a_crash_in_after_terminate_is_logged_and_harms_nothing_else,
        a_slow_after_terminate_delays_no_other_child,
        entry_and_attributes_are_removed_in_one_step,
        a_child_is_restarted_after_the_attributes_of_the_last_one_are_removed,
        a_permanent_child_is_restarted_after_any_exit_reason,
        a_transient_child_is_restarted_after_a_crash,
        a_transient_child_is_not_restarted_after_normal_or_shutdown,
        a_temporary_child_is_never_restarted,
        a_child_of_a_map_spec_is_permanent,
        start_child_during_a_restart_returns_the_next_child,
        no_request_after_the_death_of_a_child_gets_that_child,
        a_failed_restart_of_a_permanent_child_is_repeated_until_it_succeeds,
        a_failed_restart_leaves_no_attribute,
        find_or_open_during_a_restart_gets_the_restarted_child,
        find_or_open_while_restarts_fail_gets_the_child_that_runs_at_last,
        a_caller_that_gets_the_error_of_a_restart_starts_nothing,
        terminate_child_ends_a_pending_restart,
        a_failed_restart_of_a_transient_child_is_logged_and_not_repeated
    ].

%% The cleanup

a_terminating_child_is_not_found_takes_no_attribute_and_is_still_read(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, temporary, gate()),
    ok = gen_tracker:setattr(Zone, child, color, red),
    crash = tracked_child:stop(Child, crash),
    {cleaning, child, Cleaner} = await(cleaning),
    false = lists:member(Cleaner, [whereis(Zone), Child]),
    undefined = gen_tracker:find(Zone, child),
    ?assertError({void_setting, Zone, child, color}, gen_tracker:setattr(Zone, child, color, blue)),
    ?assertError(
        {void_setting, Zone, child, [color]}, gen_tracker:setattr(Zone, child, [{color, blue}])
    ),
    {ok, red} = gen_tracker:getattr(Zone, child, color),
    [{color, red}] = gen_tracker:info(Zone, child, [color]),
    [{child, terminating, worker, _}] = supervisor:which_children(Zone),
    Cleaner ! go,
    forgotten(Zone, child),
    undefined = gen_tracker:getattr(Zone, child, color),
    [] = supervisor:which_children(Zone).

after_terminate_3_gets_name_attributes_and_reason(_) ->
    Zone = zone(?FUNCTION_NAME),
    Reasons = [normal, shutdown, {shutdown, moved}, crash, {error, #{code => 7}}, kill],
    [told_of(Zone, {child, Reason}, Reason) || Reason <- Reasons].

told_of(Zone, Name, Reason) ->
    Last = tell(),
    Child = open(Zone, Name, temporary, Last),
    ok = gen_tracker:setattr(Zone, Name, color, red),
    Actual = die(Child, Reason),
    {last, Name, [{color, red}, {last, Last}], Actual} = await(last),
    forgotten(Zone, Name).

after_terminate_3_is_called_instead_of_after_terminate_2(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open(Zone, child, temporary, tell()),
    crash = tracked_child:stop(Child, crash),
    {last, child, _, crash} = await(last),
    forgotten(Zone, child),
    [] = taken(last).

after_terminate_2_is_called_when_there_is_no_after_terminate_3(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = open_plain(Zone, spec(child, temporary)),
    ok = gen_tracker:setattr(Zone, child, [{test, self()}, {color, red}]),
    crash = tracked_child:stop(Child, crash),
    Attrs = [{color, red}, {test, self()}],
    {after_terminate, child, Attrs, _} = await(after_terminate),
    forgotten(Zone, child),
    [] = taken(after_terminate).

%% The exit of the keeper shows that the cleanup is over.
a_child_whose_module_has_no_after_terminate_is_removed_with_its_attributes(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, Child} = gen_tracker:find_or_open(Zone, {child, {gen_event, start_link, []}, temporary}),
    ok = gen_tracker:setattr(Zone, child, color, red),
    Keeper = monitor(process, tracked_child:keeper(Child)),
    exit(Child, kill),
    _ = answer(Keeper),
    ok = gen_tracker:wait(Zone),
    [] = supervisor:which_children(Zone),
    [] = gen_tracker:attrs(Zone, child).

after_terminate_of_a_child_added_with_its_spec_is_called(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = add(Zone, child),
    crash = tracked_child:stop(Child, crash),
    {last, child, _, crash} = await(last),
    forgotten(Zone, child),
    [] = taken(last).

after_terminate_is_called_in_a_module_that_is_not_loaded_yet(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = add(Zone, child),
    true = code:soft_purge(tracked_child_reason),
    true = code:delete(tracked_child_reason),
    true = code:soft_purge(tracked_child_reason),
    crash = tracked_child:stop(Child, crash),
    {last, child, _, crash} = await(last),
    forgotten(Zone, child).

%% The restart of the permanent child shows that all steps of the cleanup have been taken.
a_crash_in_after_terminate_is_logged_and_harms_nothing_else(_) ->
    Zone = zone(?FUNCTION_NAME),
    Tracker = whereis(Zone),
    Neighbour = open(Zone, neighbour, temporary, tell()),
    Child = open(Zone, child, permanent, fun(_, _, _) -> error(crash_in_after_terminate) end),
    ok = log_text:listen(),
    crash = tracked_child:stop(Child, crash),
    _ = log_text:logged("crash_in_after_terminate"),
    {started, Again} = await(started),
    {ok, Again} = gen_tracker:find_or_open(Zone, tracked_child_reason:spec(child, permanent)),
    [] = gen_tracker:attrs(Zone, child),
    {ok, Neighbour} = gen_tracker:find(Zone, neighbour),
    Tracker = whereis(Zone).

%% Fifty callbacks run at the same time, while other children start, exit, are cleaned up and are
%% restarted.
a_slow_after_terminate_delays_no_other_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Children = [{Name, open(Zone, Name, temporary, gate())} || Name <- lists:seq(1, 50)],
    Quick = open(Zone, quick, temporary, tell()),
    Permanent = open(Zone, permanent, permanent, tell()),
    [exit(Child, kill) || {_, Child} <- Children],
    Cleaners = [element(3, await(cleaning, Name)) || {Name, _} <- Children],
    crash = tracked_child:stop(Quick, crash),
    {last, quick, _, crash} = await(last),
    forgotten(Zone, quick),
    crash = tracked_child:stop(Permanent, crash),
    {started, _} = await(started),
    _ = open(Zone, new, temporary, tell()),
    ok = gen_tracker:wait(Zone),
    50 = length([Name || {Name, terminating, _, _} <- supervisor:which_children(Zone)]),
    [Cleaner ! go || Cleaner <- Cleaners],
    [forgotten(Zone, Name) || {Name, _} <- Children].

%% No reader sees an entry without its attributes, or attributes without their entry.
entry_and_attributes_are_removed_in_one_step(_) ->
    Zone = zone(?FUNCTION_NAME),
    Attrs = [{a, 1}, {b, 2}, {c, 3}, {d, 4}],
    Children = [{Name, open_plain(Zone, spec(Name, temporary))} || Name <- lists:seq(1, 20)],
    [ok = gen_tracker:setattr(Zone, Name, Attrs) || {Name, _} <- Children],
    Watchers = [ask(fun() -> watch(Zone, Name) end) || {Name, _} <- Children],
    [exit(Child, kill) || {_, Child} <- Children],
    [{answer, one_step} = answer(Watcher) || Watcher <- Watchers].

watch(Zone, Name) ->
    Before = length(gen_tracker:attrs(Zone, Name)),
    Entry = lists:keymember(Name, 1, gen_tracker:which_children(Zone)),
    case {Before, Entry, length(gen_tracker:attrs(Zone, Name))} of
        {_, false, 0} -> one_step;
        {4, true, _} -> watch(Zone, Name);
        Seen -> {contradiction, Seen}
    end.

a_child_is_restarted_after_the_attributes_of_the_last_one_are_removed(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Start = fun() ->
        Test ! {seen, gen_tracker:attrs(Zone, child)},
        tracked_child:start_link(Test)
    end,
    Child = scripted_child:open(Zone, child, permanent, Start),
    {seen, []} = await(seen),
    ok = gen_tracker:setattr(Zone, child, [{test, Test}, {color, red}]),
    crash = tracked_child:stop(Child, crash),
    {seen, []} = await(seen),
    [{after_terminate, child, [{color, red}, {test, Test}], _}] = taken(after_terminate).

%% Restart types

a_permanent_child_is_restarted_after_any_exit_reason(_) ->
    restarted(zone(?FUNCTION_NAME), permanent, [normal, shutdown, {shutdown, moved}, crash, kill]).

a_transient_child_is_restarted_after_a_crash(_) ->
    Reasons = [crash, {error, #{code => 7}}, {shutdown, moved, twice}, {normal, not_quite}, kill],
    restarted(zone(?FUNCTION_NAME), transient, Reasons).

a_transient_child_is_not_restarted_after_normal_or_shutdown(_) ->
    not_restarted(zone(?FUNCTION_NAME), transient, [normal, shutdown, {shutdown, moved}]).

a_temporary_child_is_never_restarted(_) ->
    not_restarted(
        zone(?FUNCTION_NAME), temporary, [normal, shutdown, {shutdown, moved}, crash, kill]
    ).

a_child_of_a_map_spec_is_permanent(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = #{id => child, start => {tracked_child, start_link, [self()]}},
    Child = open_plain(Zone, Spec),
    _ = restarted_after(Zone, Spec, Child, normal).

start_child_during_a_restart_returns_the_next_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = {child, {?MODULE, start_plain, []}, permanent},
    Next = fun(Child) ->
        _ = tracked_child:kill(Child),
        {error, {already_started, Again}} = supervisor:start_child(Zone, Spec),
        ?assertNotEqual(Child, Again),
        Again
    end,
    %% Ten restarts are made at once, the next one waits.
    Restarts = fun(_) ->
        {ok, First} = gen_tracker:find_or_open(Zone, Spec),
        Last = lists:foldl(fun(_, Child) -> Next(Child) end, First, lists:seq(1, 11)),
        ok = supervisor:terminate_child(Zone, child),
        Last
    end,
    ?assertEqual(200, length(lists:usort(lists:map(Restarts, lists:seq(1, 200))))).

%% The tracker learns of the start when the child has already exited.
no_request_after_the_death_of_a_child_gets_that_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = {child, {?MODULE, start_plain, []}, permanent},
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {running, Child, Keeper, _} = proctab_nif:child(Zone, child),
    true = erlang:suspend_process(Keeper),
    _ = tracked_child:kill(Child),
    Start = ask(fun() -> supervisor:start_child(Zone, Spec) end),
    Test = self(),
    Register = ask(fun() -> gen_tracker:register_name({Zone, child}, Test) end),
    Tag = tracker_state:tag(Zone),
    callers:waiting(),
    Zone ! {Tag, launched, Keeper, {ok, Child}},
    ok = gen_tracker:wait(Zone),
    true = erlang:resume_process(Keeper),
    {answer, {error, {already_started, Next}}} = answer(Start),
    ?assertNotEqual(Child, Next),
    ?assertEqual({ok, Next}, gen_tracker:find(Zone, child)),
    {answer, no} = answer(Register).

start_plain() ->
    {
        ok,
        spawn_link(fun() ->
            receive
            after infinity -> never
            end
        end)
    }.

%% Restarts that fail

a_failed_restart_of_a_permanent_child_is_repeated_until_it_succeeds(_) ->
    Zone = zone(?FUNCTION_NAME),
    Failures = [fun() -> {error, later} end, fun() -> exit(crash) end, fun() -> throw(later) end],
    Child = scripted_child:open(Zone, child, permanent, script([run() | Failures] ++ [run()])),
    crash = tracked_child:stop(Child, crash),
    [{started, _} = await(started) || _ <- Failures],
    {started, _} = await(started),
    {started, Again} = await(started),
    {ok, Again} = gen_tracker:find_or_open(Zone, spec(child, permanent)),
    {ok, Again} = gen_tracker:find(Zone, child).

a_failed_restart_leaves_no_attribute(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Fail = fun() ->
        Test ! {seen, gen_tracker:attrs(Zone, child)},
        ok = gen_tracker:setattr(Zone, child, color, red),
        {error, later}
    end,
    Child = scripted_child:open(Zone, child, permanent, script([run(), Fail, Fail, run()])),
    crash = tracked_child:stop(Child, crash),
    [{seen, []}, {seen, []}] = [await(seen), await(seen)],
    [{started, _} = await(started) || _ <- [failed, failed, starter]],
    {started, Again} = await(started),
    {ok, Again} = gen_tracker:find_or_open(Zone, spec(child, permanent)),
    [] = gen_tracker:attrs(Zone, child).

find_or_open_during_a_restart_gets_the_restarted_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Gated = fun() -> tracked_child:start_gated(Test, go) end,
    Child = scripted_child:open(Zone, child, permanent, script([run(), Gated])),
    crash = tracked_child:stop(Child, crash),
    {gated, Starter} = await(gated),
    undefined = gen_tracker:find(Zone, child),
    [{child, launching, worker, _}] = supervisor:which_children(Zone),
    Spec = spec(child, permanent),
    Callers = [ask(fun() -> gen_tracker:find_or_open(Zone, Spec) end) || _ <- lists:seq(1, 20)],
    callers:waiting(),
    [] = taken('DOWN'),
    Starter ! go,
    {started, _} = await(started),
    {started, Again} = await(started),
    [{answer, {ok, Again}} = answer(Caller) || Caller <- Callers],
    [] = taken(started).

%% The first caller may still get the answer of an attempt that had failed before starts were
%% allowed again.
find_or_open_while_restarts_fail_gets_the_child_that_runs_at_last(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Allowed = atomics:new(1, []),
    atomics:put(Allowed, 1, 1),
    Start = fun() ->
        case atomics:get(Allowed, 1) of
            0 -> {error, not_allowed};
            1 -> tracked_child:start_link(Test)
        end
    end,
    Child = scripted_child:open(Zone, child, permanent, Start),
    atomics:put(Allowed, 1, 0),
    crash = tracked_child:stop(Child, crash),
    [{started, _}, {started, _}] = [await(started), await(started)],
    undefined = gen_tracker:find(Zone, child),
    atomics:put(Allowed, 1, 1),
    Spec = scripted_child:spec(child, permanent, Start),
    {ok, Again} =
        case gen_tracker:find_or_open(Zone, Spec) of
            {error, not_allowed} -> gen_tracker:find_or_open(Zone, Spec);
            Answer -> Answer
        end,
    {ok, Again} = gen_tracker:find(Zone, child),
    [{child, Again, worker, _}] = supervisor:which_children(Zone).

%% The tracker reads the caller's request when the restart has failed already, and then what the
%% keeper told of that.
a_caller_that_gets_the_error_of_a_restart_starts_nothing(_) ->
    Zone = zone(?FUNCTION_NAME),
    Test = self(),
    Fail = fun() ->
        Test ! {restarting, self()},
        receive
            fail -> {error, failed}
        end
    end,
    Child = scripted_child:open(Zone, child, permanent, script([run(), Fail, run()])),
    crash = tracked_child:stop(Child, crash),
    {started, Keeper} = await(started),
    {restarting, Keeper} = await(restarting),
    ok = sys:suspend(Zone),
    Other = scripted_child:spec(child, permanent, fun() -> Test ! other, {error, other} end),
    Asked = ask(fun() -> gen_tracker:find_or_open(Zone, Other) end),
    Tracker = whereis(Zone),
    wait:until(fun() ->
        process_info(Tracker, message_queue_len) =:= {message_queue_len, 1}
    end),
    Keeper ! fail,
    wait:until(fun() -> element(1, proctab_nif:child(Zone, child)) =:= pending end),
    ok = sys:resume(Zone),
    ?assertEqual({answer, {error, failed}}, answer(Asked)),
    {started, Keeper} = await(started),
    {started, Next} = await(started),
    ?assertEqual({ok, Next}, gen_tracker:find_or_open(Zone, Other)),
    receive
        other -> ct:fail(started_for_nobody)
    after 0 -> ok
    end.

terminate_child_ends_a_pending_restart(_) ->
    Zone = zone(?FUNCTION_NAME),
    Child = scripted_child:open(
        Zone, child, permanent, script([run(), fun() -> {error, later} end])
    ),
    crash = tracked_child:stop(Child, crash),
    [{started, _}, {started, _}] = [await(started), await(started)],
    ok = supervisor:terminate_child(Zone, child),
    _ = taken(started),
    forgotten(Zone, child),
    [] = taken(started).

%% The keeper exits once the child is given up.
a_failed_restart_of_a_transient_child_is_logged_and_not_repeated(_) ->
    Zone = zone(?FUNCTION_NAME),
    Refuse = fun() ->
        receive
            go -> {error, restart_refused}
        end
    end,
    Child = scripted_child:open(Zone, child, transient, script([run(), Refuse])),
    ok = log_text:listen(),
    crash = tracked_child:stop(Child, crash),
    {started, Starter} = await(started),
    Monitor = monitor(process, Starter),
    Starter ! go,
    _ = log_text:logged("restart_refused"),
    _ = answer(Monitor),
    ok = gen_tracker:wait(Zone),
    [] = supervisor:which_children(Zone),
    forgotten(Zone, child),
    [] = taken(started),
    {ok, _} = gen_tracker:find_or_open(Zone, spec(child, transient)).

open_plain(Zone, Spec) ->
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started),
    Child.

add(Zone, Name) ->
    Child = loose(start_link),
    Spec = {Name, {tracked_child_reason, start_link, [self()]}, temporary, 200, worker, []},
    {ok, Child} = gen_tracker:add_existing_child(Zone, {Child, Spec}),
    ok = gen_tracker:setattr(Zone, Name, last, tell()),
    Child.

die(Child, kill) ->
    Monitor = monitor(process, Child),
    exit(Child, kill),
    answer(Monitor);
die(Child, Reason) ->
    tracked_child:stop(Child, Reason).

%% Checks that the child is restarted after each of the exit reasons.
restarted(Zone, Restart, Reasons) ->
    Spec = spec(child, Restart),
    Die = fun(Reason, Child) -> restarted_after(Zone, Spec, Child, Reason) end,
    Last = lists:foldl(Die, open_plain(Zone, Spec), Reasons),
    {ok, Last} = gen_tracker:find(Zone, child).

restarted_after(Zone, Spec, Child, Reason) ->
    _ = die(Child, Reason),
    {started, Again} = await(started),
    {ok, Again} = gen_tracker:find_or_open(Zone, Spec),
    [] = taken(started),
    Again.

%% Checks that no child is restarted after any of the exit reasons.
not_restarted(Zone, Restart, Reasons) ->
    [not_restarted_after(Zone, spec({Restart, Reason}, Restart), Reason) || Reason <- Reasons].

not_restarted_after(Zone, {Name, _, _} = Spec, Reason) ->
    Child = open_plain(Zone, Spec),
    ok = gen_tracker:setattr(Zone, Name, test, self()),
    _ = die(Child, Reason),
    {after_terminate, Name, _, _} = await(after_terminate),
    forgotten(Zone, Name),
    [] = taken(started).
