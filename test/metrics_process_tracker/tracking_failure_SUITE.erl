%% Promise: metrics_process_tracker counts each process up and down equally often, and misses none,
%% when a backend raises or does not return, a caller is killed, or code is replaced. Crashes of the
%% tracker are in tracking_crash_SUITE.
-module(tracking_failure_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(metrics_process_tracker, [track/1, track/2, count/1, names/1, counts/0]).
-import(ledger_backend, [moves/1, let_go/1, let_raise/3]).
-import(tracked_process, [tracker/0, kill_tracker/0, idle/0, tracked/1, kill/1, settled/0]).
-import(tracked_process, [settled/1, eventually/1]).
-import(tracked_process, [caller_in_backend/2]).
-import(callers, [ask/1, answer/1, waiting/0]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{counter_hook, tracker}]}].

all() ->
    [
        an_exception_of_the_backend_on_the_way_up_is_returned,
        a_name_that_was_not_tracked_is_not_counted_down,
        after_a_failure_a_pair_is_tracked_as_if_for_the_first_time,
        a_missing_backend_is_returned_as_an_error,
        a_backend_that_raises_on_the_way_down_is_logged,
        a_backend_that_raises_on_the_way_down_affects_no_other_name,
        a_backend_that_never_returns_on_the_way_down_affects_no_other_name,
        reloads_while_a_process_is_counted_down_count_nothing_twice,
        when_the_first_of_two_callers_fails_the_second_one_counts,
        when_the_first_of_two_callers_succeeds_the_second_one_does_not_count,
        a_caller_killed_in_the_backend_leaves_nothing,
        a_process_killed_in_the_backend_leaves_nothing,
        a_caller_that_lives_on_keeps_nothing_of_dead_processes,
        when_the_first_of_two_callers_is_killed_the_second_one_counts,
        a_caller_that_waits_for_another_one_polls_less_and_less_often,
        a_caller_that_waits_for_another_one_leaves_replaced_code
    ].

classes() ->
    [error, exit, throw].

%% A backend that raises on the way up

an_exception_of_the_backend_on_the_way_up_is_returned(_) ->
    tracker(),
    [
        begin
            Name = {raises, 1, Class, Reason},
            {error, Answer} = track(Name),
            %% How a throw differs from the other classes is not specified.
            ?assert(Class =:= throw orelse Answer =:= Reason),
            ?assertEqual({error, Answer}, track(Name)),
            ?assertEqual(0, count(Name))
        end
     || Class <- classes(), Reason <- [no_connection, {error, badarg}, badarg, normal, kill]
    ],
    ?assertEqual({[], []}, {names(self()), counts()}).

a_name_that_was_not_tracked_is_not_counted_down(_) ->
    tracker(),
    Names = [{raises, 1, Class, reason} || Class <- classes()],
    Pid = tracked([before]),
    Untracked = idle(),
    [{error, _} = track(Name, Which) || Name <- Names, Which <- [Pid, Untracked]],
    ok = track('after', Pid),
    ?assertEqual(['after', before], lists:sort(names(Pid))),
    ?assertEqual([], names(Untracked)),
    kill([Pid, Untracked]),
    settled(),
    [?assertEqual({1, 1}, moves(Name)) || Name <- [before, 'after']],
    [?assertEqual({0, 0}, moves(Name)) || Name <- Names].

after_a_failure_a_pair_is_tracked_as_if_for_the_first_time(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    [
        begin
            {Asked, Caller} = caller_in_backend(Name, Pid),
            let_raise(Caller, Class, reason),
            {answer, {error, _}} = answer(Asked),
            ?assertEqual({0, [], {0, 0}}, {count(Name), names(Pid), moves(Name)})
        end
     || Class <- classes()
    ],
    {Last, Caller} = caller_in_backend(Name, Pid),
    let_go(Caller),
    ?assertEqual({answer, ok}, answer(Last)),
    ?assertEqual({1, [Name], {1, 0}}, {count(Name), names(Pid), moves(Name)}),
    kill([Pid]),
    settled(),
    ?assertEqual({1, 1}, moves(Name)).

%% metrics compiles the module metrics_mod from its backend when it starts.
a_missing_backend_is_returned_as_an_error(_) ->
    tracker(),
    _ = code:purge(metrics_mod),
    true = code:delete(metrics_mod),
    ?assertEqual({error, undef}, track(name)),
    ?assertEqual([], counts()).

%% On the way down

a_backend_that_raises_on_the_way_down_is_logged(_) ->
    tracker(),
    log_text:listen(),
    try
        [
            begin
                Reason = list_to_atom(atom_to_list(Class) ++ "_on_the_way_down"),
                kill([tracked([{raises, -1, Class, Reason}])]),
                settled(),
                log_text:logged(Begin ++ atom_to_list(Reason))
            end
         || {Class, Begin} <- lists:zip(classes(), ["reason: {", "reason: ", "reason: {{nocatch,"])
        ]
    after
        logger:remove_handler(log_text)
    end.

a_backend_that_raises_on_the_way_down_affects_no_other_name(_) ->
    Tracker = tracker(),
    Raising = [{raises, -1, Class, Number} || Class <- classes(), Number <- lists:seq(1, 10)],
    Good = lists:seq(1, 30),
    Pids = [
        tracked(lists:append([[Bad, Name] || {Bad, Name} <- lists:zip(Raising, Good)]))
     || _ <- lists:seq(1, 10)
    ],
    kill(Pids),
    settled(),
    [?assertEqual({10, 10}, moves(Name)) || Name <- Good],
    [?assertEqual({10, 0}, moves(Name)) || Name <- Raising],
    [?assertEqual([], names(Pid)) || Pid <- Pids],
    ?assertEqual(Tracker, whereis(metrics_process_tracker)).

%% The cleanup is given up, even if the tracker is started again meanwhile.
a_backend_that_never_returns_on_the_way_down_affects_no_other_name(_) ->
    tracker(),
    log_text:listen(),
    Hanging = {gated, -1, self(), name},
    kill([tracked([Hanging, a])]),
    receive
        {updating, Hanging, -1, Cleaner} -> ok
    end,
    Monitor = monitor(process, Cleaner),
    kill([tracked([a])]),
    killed = kill_tracker(),
    tracker(),
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end,
    log_text:logged("the cleanup after a dead process failed"),
    logger:remove_handler(log_text),
    settled(),
    ?assertEqual([{1, 0}, {2, 2}], [moves(Name) || Name <- [Hanging, a]]).

%% Processes that still run code which is replaced twice are killed.
reloads_while_a_process_is_counted_down_count_nothing_twice(_) ->
    Tracker = tracker(),
    Name = {gated, -1, self(), name},
    kill([tracked([a, Name])]),
    receive
        {updating, Name, -1, Cleaner} -> ok
    end,
    [reloading:load(Module) || Module <- [metrics_process_tracker, proctab_reaper], _ <- [1, 2]],
    let_go(Cleaner),
    settled(),
    ?assertEqual([{1, 1}, {1, 1}], [moves(Which) || Which <- [a, Name]]),
    ?assertEqual(Tracker, whereis(metrics_process_tracker)).

%% Two callers, one pair

%% A second call for the same pair. It cannot return before the outcome of the first one is known.
second_caller(Name, Pid) ->
    Second = ask(fun() -> track(Name, Pid) end),
    waiting(),
    ?assertEqual([], messages:taken('DOWN')),
    Second.

when_the_first_of_two_callers_fails_the_second_one_counts(_) ->
    tracker(),
    [
        begin
            Name = {gated, 1, self(), Class},
            Pid = idle(),
            {First, Caller} = caller_in_backend(Name, Pid),
            Second = second_caller(Name, Pid),
            let_raise(Caller, Class, reason),
            ?assertMatch({answer, {error, _}}, answer(First)),
            let_go(
                receive
                    {updating, Name, 1, Next} -> Next
                end
            ),
            ?assertEqual({answer, ok}, answer(Second)),
            ?assertEqual({1, {1, 0}}, {count(Name), moves(Name)}),
            kill([Pid]),
            settled(),
            ?assertEqual({1, 1}, moves(Name))
        end
     || Class <- classes()
    ].

when_the_first_of_two_callers_succeeds_the_second_one_does_not_count(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    {First, Caller} = caller_in_backend(Name, Pid),
    Second = second_caller(Name, Pid),
    let_go(Caller),
    ?assertEqual([{answer, ok}, {answer, ok}], [answer(First), answer(Second)]),
    ?assertEqual({1, {1, 0}, []}, {count(Name), moves(Name), messages:taken(updating)}).

%% Nobody can know whether the backend had counted before its caller was killed. Here it had not.
a_caller_killed_in_the_backend_leaves_nothing(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = tracked([before]),
    {Asked, Caller} = caller_in_backend(Name, Pid),
    exit(Caller, kill),
    killed = answer(Asked),
    %% The pair may be tracked again, as if for the first time.
    {Again, Next} = caller_in_backend(Name, Pid),
    let_go(Next),
    ?assertEqual({answer, ok}, answer(Again)),
    ?assertEqual({1, 0}, moves(Name)),
    {_, Last} = caller_in_backend(Name, idle()),
    exit(Last, kill),
    kill([Pid]),
    settled(),
    ?assertEqual([{1, 1}, {1, 1}], [moves(Which) || Which <- [before, Name]]).

a_process_killed_in_the_backend_leaves_nothing(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    {Pid, Monitor} = spawn_monitor(fun() -> [ok = track(Which) || Which <- [a, b, Name]] end),
    receive
        {updating, Name, 1, Pid} -> exit(Pid, kill)
    end,
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(killed, Reason)
    end,
    tracked_process:empty(),
    ?assertEqual([{1, 1}, {1, 1}, {0, 0}], [moves(Which) || Which <- [a, b, Name]]),
    %% A later call may track the dead process again.
    {Asked, Caller} = caller_in_backend(Name, Pid),
    let_go(Caller),
    {answer, ok} = answer(Asked),
    settled(),
    ?assertEqual({1, 1}, moves(Name)).

%% The reaper monitors such a caller to learn whether it is killed. This must end when the call has
%% returned.
a_caller_that_lives_on_keeps_nothing_of_dead_processes(_) ->
    tracker(),
    Test = self(),
    Name = {gated, 1, Test, name},
    Pids = [tracked([before]) || _ <- lists:seq(1, 100)],
    Caller = spawn_link(fun() ->
        [ok = track(Name, Pid) || Pid <- Pids],
        Test ! done,
        receive
            stop -> ok
        end
    end),
    lists:foreach(
        fun(Pid) ->
            receive
                {updating, Name, 1, Caller} -> kill([Pid])
            end,
            eventually(fun() -> not lists:member(before, names(Pid)) end),
            let_go(Caller)
        end,
        Pids
    ),
    receive
        done -> tracked_process:empty()
    end,
    ?assertEqual([{100, 100}, {100, 100}], [moves(Which) || Which <- [before, Name]]),
    eventually(fun() -> process_info(Caller, monitored_by) =:= {monitored_by, []} end).

when_the_first_of_two_callers_is_killed_the_second_one_counts(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    {First, Caller} = caller_in_backend(Name, Pid),
    Second = second_caller(Name, Pid),
    exit(Caller, kill),
    killed = answer(First),
    let_go(
        receive
            {updating, Name, 1, Next} -> Next
        end
    ),
    ?assertEqual({answer, ok}, answer(Second)),
    ?assertEqual({1, {1, 0}}, {count(Name), moves(Name)}).

%% Thousands may wait for one slow caller. They poll: one monitor is enough for many polls, and each
%% wait is twice as long as the one before.
a_caller_that_waits_for_another_one_polls_less_and_less_often(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    {First, Caller} = caller_in_backend(Name, Pid),
    Polls = [{proctab_nif, begin_registering, 3}, {erlang, monitor, 2}],
    [1 = erlang:trace_pattern(Poll, true, []) || Poll <- Polls],
    Test = self(),
    Second = ask(fun() ->
        erlang:trace(self(), true, [call, monotonic_timestamp, {tracer, Test}]),
        track(Name, Pid)
    end),
    {Begin, 0} = polls(1, 0),
    {End, 1} = polls(7, 0),
    ?assert(
        End - Begin >= erlang:convert_time_unit(1 + 2 + 4 + 8 + 16 + 32 + 64, millisecond, native)
    ),
    [1 = erlang:trace_pattern(Poll, false, []) || Poll <- Polls],
    let_go(Caller),
    ?assertEqual([{answer, ok}, {answer, ok}], [answer(First), answer(Second)]).

%% Returns the time of the last of so many polls, and the number of monitors by then.
polls(Count, Monitors) ->
    receive
        {trace_ts, _, call, {erlang, monitor, _}, _} when Count > 0 -> polls(Count, Monitors + 1);
        {trace_ts, _, call, {proctab_nif, begin_registering, _}, Time} when Count =:= 1 ->
            {Time, Monitors};
        {trace_ts, _, call, {proctab_nif, begin_registering, _}, _} -> polls(Count - 1, Monitors)
    end.

%% Otherwise it would be killed when the code is replaced again.
a_caller_that_waits_for_another_one_leaves_replaced_code(_) ->
    tracker(),
    Name = {gated, 1, self(), name},
    Pid = idle(),
    {First, Caller} = caller_in_backend(Name, Pid),
    Test = self(),
    Second = ask(fun() ->
        Test ! {second, self()},
        track(Name, Pid)
    end),
    Waiting =
        receive
            {second, Waiter} -> Waiter
        end,
    waiting(),
    reloading:load(metrics_process_tracker),
    eventually(fun() -> not erlang:check_process_code(Waiting, metrics_process_tracker) end),
    let_go(Caller),
    ?assertEqual([{answer, ok}, {answer, ok}], [answer(First), answer(Second)]),
    eventually(fun() -> code:soft_purge(metrics_process_tracker) end).
