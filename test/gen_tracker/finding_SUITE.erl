%% Promise: only one zone runs under a name. Its children are found by any term as a name, compared
%% by `=:=`, whether the zone has started them or they were added. `find` never sends a message.
-module(finding_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1]).
-import(tracked_child, [spec/2, spec/4, gated/2, terminating/2, forgotten/2, stop/2]).
-import(callers, [ask/1, answer/1, waiting/0]).
-import(messages, [await/1, await/2, taken/1]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [zone_hook]}].

all() ->
    [
        start_link_registers_the_zone_under_its_name,
        start_link_of_a_running_zone_returns_its_pid,
        an_unknown_option_is_badarg,
        restart_false_turns_restarts_off,
        restart_true_is_the_default,
        a_zone_that_was_stopped_starts_again,
        find_returns_the_pid_of_a_running_child,
        find_returns_undefined_for_a_name_without_a_child,
        find_returns_undefined_for_a_starting_child,
        find_returns_undefined_for_a_terminating_child,
        find_never_sends_a_message,
        find_is_badarg_when_the_zone_does_not_run,
        which_children_returns_the_pid_or_state_of_every_child,
        an_existing_process_is_added,
        adding_a_name_with_a_running_child_returns_that_child,
        adding_a_name_with_a_starting_child_returns_already_present,
        adding_waits_for_the_cleanup_of_the_last_child,
        an_added_child_that_dies_is_removed_with_its_attributes,
        an_added_child_is_told_to_exit_when_the_zone_stops,
        after_terminate_is_called_for_a_child_added_with_a_full_spec,
        wait_returns_after_all_requests_sent_before_have_been_handled,
        two_names_are_the_same_when_they_are_identical,
        every_kind_of_term_is_a_name,
        find_or_open_never_returns_a_child_whose_death_the_caller_has_seen,
        none_of_many_callers_gets_a_child_whose_death_it_has_seen,
        an_added_child_whose_death_the_caller_has_seen_is_not_returned,
        the_arguments_of_a_temporary_child_are_not_kept
    ].

%% Starting a zone

start_link_registers_the_zone_under_its_name(_) ->
    {ok, Pid} = gen_tracker:start_link(?FUNCTION_NAME),
    ?assertEqual(Pid, whereis(?FUNCTION_NAME)),
    {links, Links} = process_info(self(), links),
    ?assert(lists:member(Pid, Links)).

start_link_of_a_running_zone_returns_its_pid(_) ->
    Pid = whereis(zone(?FUNCTION_NAME)),
    Running = {error, {already_started, Pid}},
    ?assertEqual(Running, gen_tracker:start_link(?FUNCTION_NAME)),
    ?assertEqual(Running, gen_tracker:start_link(?FUNCTION_NAME, #{})),
    ?assertEqual(Running, gen_tracker:start_link(?FUNCTION_NAME, #{restart => false})),
    ?assertEqual(Pid, whereis(?FUNCTION_NAME)).

an_unknown_option_is_badarg(_) ->
    [
        ?assertError(badarg, gen_tracker:start_link(?FUNCTION_NAME, Options))
     || Options <- [
            #{restarts => false},
            #{restart => false, strategy => one_for_one},
            #{restart => never},
            [],
            none
        ]
    ],
    ?assertEqual(undefined, whereis(?FUNCTION_NAME)).

restart_false_turns_restarts_off(_) ->
    {ok, _} = gen_tracker:start_link(?FUNCTION_NAME, #{restart => false}),
    die(?FUNCTION_NAME, permanent),
    die(?FUNCTION_NAME, transient),
    ?assertEqual([], taken(started)).

%% Crashes a child, and waits until its entry is removed. After a restart the zone would keep a
%% child.
die(Zone, Restart) ->
    {ok, Pid} = gen_tracker:find_or_open(Zone, spec(Restart, Restart)),
    {started, Pid} = await(started, Pid),
    ok = gen_tracker:setattr(Zone, Restart, test, self()),
    crash = stop(Pid, crash),
    {after_terminate, Restart, _, Cleaner} = await(after_terminate, Restart),
    tracked_child:down(Cleaner),
    wait:until(fun() -> gen_tracker:which_children(Zone) =:= [] end).

restart_true_is_the_default(_) ->
    [
        begin
            {ok, _} = gen_tracker:start_link(?FUNCTION_NAME, Options),
            {ok, First} = gen_tracker:find_or_open(?FUNCTION_NAME, spec(name, permanent)),
            {started, First} = await(started, First),
            crash = stop(First, crash),
            {started, Second} = await(started),
            ?assertNotEqual(First, Second),
            zones:stop_zone(?FUNCTION_NAME)
        end
     || Options <- [#{}, #{restart => true}]
    ].

a_zone_that_was_stopped_starts_again(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, _} = gen_tracker:find_or_open(Zone, spec(name, temporary)),
    ok = gen_tracker:setattr(Zone, name, key, value),
    ok = gen_server:stop(Zone),
    Zone = zone(Zone),
    ?assertEqual([], gen_tracker:which_children(Zone)),
    ?assertEqual(undefined, gen_tracker:find(Zone, name)),
    ?assertEqual([], gen_tracker:attrs(Zone, name)).

%% Finding

find_returns_the_pid_of_a_running_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, Pid} = gen_tracker:find_or_open(Zone, spec(name, temporary)),
    {ok, Other} = gen_tracker:find_or_open(Zone, spec(other, temporary)),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
    ?assertEqual({ok, Other}, gen_tracker:find(Zone, other)),
    ?assertEqual([{started, Pid}, {started, Other}], taken(started)).

find_returns_undefined_for_a_name_without_a_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    ?assertEqual(undefined, gen_tracker:find(Zone, name)),
    {ok, _} = gen_tracker:find_or_open(Zone, spec(name, temporary)),
    ?assertEqual(undefined, gen_tracker:find(Zone, other)),
    ok = supervisor:terminate_child(Zone, name),
    ?assertEqual(undefined, gen_tracker:find(Zone, name)).

find_returns_undefined_for_a_starting_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    {Opening, Starter} = gated(Zone, name),
    ?assertEqual(undefined, gen_tracker:find(Zone, name)),
    Starter ! go,
    {answer, {ok, Pid}} = answer(Opening),
    ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)).

find_returns_undefined_for_a_terminating_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    {_, Cleaner} = terminating(Zone, name),
    ?assertEqual(undefined, gen_tracker:find(Zone, name)),
    Cleaner ! done,
    forgotten(Zone, name),
    ?assertEqual(undefined, gen_tracker:find(Zone, name)).

%% The tracker is suspended, so it could not answer.
find_never_sends_a_message(_) ->
    Zone = zone(?FUNCTION_NAME),
    {ok, Pid} = gen_tracker:find_or_open(Zone, spec(running, temporary)),
    {Opening, Starter} = gated(Zone, starting),
    {_, Cleaner} = terminating(Zone, ending),
    ok = sys:suspend(Zone),
    Find = fun() ->
        [gen_tracker:find(Zone, Name) || Name <- [running, missing, starting, ending]]
    end,
    ?assertEqual(
        {{answer, [{ok, Pid}, undefined, undefined, undefined]}, []}, callers:sent_by(Find)
    ),
    ok = sys:resume(Zone),
    [Process ! Message || {Process, Message} <- [{Starter, go}, {Cleaner, done}]],
    {answer, {ok, _}} = answer(Opening).

find_is_badarg_when_the_zone_does_not_run(_) ->
    ?assertError(badarg, gen_tracker:find(?FUNCTION_NAME, name)),
    Zone = zone(?FUNCTION_NAME),
    {ok, _} = gen_tracker:find_or_open(Zone, spec(name, temporary)),
    ok = gen_server:stop(Zone),
    ?assertError(badarg, gen_tracker:find(Zone, name)),
    [
        ?assertError(badarg, gen_tracker:find(None, name))
     || None <- [kernel_sup, "zone", <<"zone">>, self(), 1]
    ].

which_children_returns_the_pid_or_state_of_every_child(_) ->
    Zone = zone(?FUNCTION_NAME),
    ?assertEqual([], gen_tracker:which_children(Zone)),
    {ok, Running} = gen_tracker:find_or_open(Zone, spec(a, temporary)),
    {Opening, Starter} = gated(Zone, b),
    {_, Cleaner} = terminating(Zone, c),
    MFA = {tracked_child, start_link, [self()]},
    {ok, Boss} = gen_tracker:find_or_open(
        Zone, #{id => d, start => MFA, type => supervisor, modules => dynamic}
    ),
    Others = [{a, Running, worker, []}, {d, Boss, supervisor, dynamic}],
    ?assertEqual(
        lists:sort([
            {b, launching, worker, [tracked_child]},
            {c, terminating, worker, []}
            | Others
        ]),
        lists:sort(gen_tracker:which_children(Zone))
    ),
    Starter ! go,
    {answer, {ok, Started}} = answer(Opening),
    Cleaner ! done,
    forgotten(Zone, c),
    ?assertEqual(
        lists:sort([{b, Started, worker, [tracked_child]} | Others]),
        lists:sort(gen_tracker:which_children(Zone))
    ).

%% Adding existing processes. The cases use both forms of the argument.

forms() ->
    [
        fun(Name, Pid) -> {Name, Pid, worker, [?MODULE]} end,
        fun(Name, Pid) ->
            {Pid, {Name, {tracked_child, start_link, [self()]}, temporary, 200, worker, [?MODULE]}}
        end
    ].

%% Starts a process outside of the zone.
stranger() ->
    {ok, Pid} = tracked_child:start_link(self()),
    {started, Pid} = await(started, Pid),
    Pid.

in_both_forms(Zone, Check) ->
    lists:foreach(
        fun(Form) ->
            Check(zone(Zone), Form),
            ok = gen_server:stop(Zone)
        end,
        forms()
    ).

an_existing_process_is_added(_) ->
    in_both_forms(?FUNCTION_NAME, fun(Zone, Form) ->
        Pid = stranger(),
        ?assertEqual({ok, Pid}, gen_tracker:add_existing_child(Zone, Form(name, Pid))),
        ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
        ?assertEqual([{name, Pid, worker, [?MODULE]}], gen_tracker:which_children(Zone)),
        ?assertEqual({ok, Pid}, gen_tracker:find_or_open(Zone, spec(name, temporary))),
        ok = gen_tracker:setattr(Zone, name, key, value),
        ?assertEqual({ok, value}, gen_tracker:getattr(Zone, name, key))
    end).

adding_a_name_with_a_running_child_returns_that_child(_) ->
    in_both_forms(?FUNCTION_NAME, fun(Zone, Form) ->
        {ok, Started} = gen_tracker:find_or_open(Zone, spec(started, temporary)),
        Added = stranger(),
        {ok, Added} = gen_tracker:add_existing_child(Zone, Form(added, Added)),
        [
            ?assertEqual(
                {
                    error,
                    {already_started, Holder}
                }, gen_tracker:add_existing_child(Zone, Form(Name, Pid))
            )
         || {Name, Holder} <- [{started, Started}, {added, Added}], Pid <- [stranger(), Holder]
        ],
        ?assertEqual({ok, Started}, gen_tracker:find(Zone, started)),
        ?assertEqual({ok, Added}, gen_tracker:find(Zone, added))
    end).

adding_a_name_with_a_starting_child_returns_already_present(_) ->
    in_both_forms(?FUNCTION_NAME, fun(Zone, Form) ->
        {Opening, Starter} = gated(Zone, name),
        ?assertEqual(
            {error, already_present}, gen_tracker:add_existing_child(Zone, Form(name, stranger()))
        ),
        Starter ! go,
        {answer, {ok, Pid}} = answer(Opening),
        ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name))
    end).

adding_waits_for_the_cleanup_of_the_last_child(_) ->
    in_both_forms(?FUNCTION_NAME, fun(Zone, Form) ->
        Pid = stranger(),
        {_, Cleaner} = terminating(Zone, name),
        Adding = ask(fun() -> gen_tracker:add_existing_child(Zone, Form(name, Pid)) end),
        waiting(),
        ok = gen_tracker:wait(Zone),
        ?assertEqual(undefined, gen_tracker:find(Zone, name)),
        ?assertEqual([], taken('DOWN')),
        Cleaner ! done,
        ?assertEqual({answer, {ok, Pid}}, answer(Adding)),
        ?assertEqual({ok, Pid}, gen_tracker:find(Zone, name)),
        ?assertEqual([], gen_tracker:attrs(Zone, name))
    end).

an_added_child_that_dies_is_removed_with_its_attributes(_) ->
    in_both_forms(?FUNCTION_NAME, fun(Zone, Form) ->
        Pid = stranger(),
        {ok, Pid} = gen_tracker:add_existing_child(Zone, Form(name, Pid)),
        ok = gen_tracker:setattr(Zone, name, key, value),
        finished = stop(Pid, finished),
        wait:until(fun() -> gen_tracker:find(Zone, name) =:= undefined end),
        forgotten(Zone, name),
        ?assertEqual([], gen_tracker:which_children(Zone)),
        ?assertEqual(undefined, gen_tracker:getattr(Zone, name, key))
    end).

an_added_child_is_told_to_exit_when_the_zone_stops(_) ->
    lists:foreach(
        fun(Form) ->
            Zone = zone(?FUNCTION_NAME),
            {ok, Pid} = tracked_child:start_stubborn(self()),
            {started, Pid} = await(started, Pid),
            {ok, Pid} = gen_tracker:add_existing_child(Zone, Form(name, Pid)),
            Stopping = ask(fun() -> gen_server:stop(Zone) end),
            ?assertEqual({exit_signal, Pid, shutdown}, await(exit_signal)),
            stop(Pid, done),
            ?assertEqual({answer, ok}, answer(Stopping))
        end,
        forms()
    ).

after_terminate_is_called_for_a_child_added_with_a_full_spec(_) ->
    Zone = zone(?FUNCTION_NAME),
    [_, Full] = forms(),
    Pid = stranger(),
    {ok, Pid} = gen_tracker:add_existing_child(Zone, Full(name, Pid)),
    ok = gen_tracker:setattr(Zone, name, [{test, self()}, {key, value}]),
    finished = stop(Pid, finished),
    {after_terminate, name, Attrs, _} = await(after_terminate),
    ?assertEqual([{key, value}, {test, self()}], Attrs),
    forgotten(Zone, name),
    ?assertEqual([], taken(after_terminate)).

%% wait/1

%% The first request has been handled if an attribute of the starting child can be set.
wait_returns_after_all_requests_sent_before_have_been_handled(_) ->
    Zone = zone(?FUNCTION_NAME),
    ok = sys:suspend(Zone),
    Gated = spec(name, temporary, 200, {start_gated, [self(), go]}),
    Opening = ask(fun() -> supervisor:start_child(Zone, Gated) end),
    waiting(),
    Waiting = ask(fun() ->
        {gen_tracker:wait(Zone), gen_tracker:setattr(Zone, name, key, value)}
    end),
    waiting(),
    ?assertError({void_setting, Zone, name, key}, gen_tracker:setattr(Zone, name, key, value)),
    ok = sys:resume(Zone),
    ?assertEqual({answer, {ok, ok}}, answer(Waiting)),
    {gated, Starter} = await(gated),
    Starter ! go,
    {answer, {ok, _}} = answer(Opening).

%% Names

two_names_are_the_same_when_they_are_identical(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            {ok, First} = gen_tracker:find_or_open(Zone, spec(One, temporary)),
            ?assertEqual({ok, First}, gen_tracker:find(Zone, One)),
            {ok, Second} = gen_tracker:find_or_open(Zone, spec(Other, temporary)),
            ?assertEqual({ok, Second}, gen_tracker:find(Zone, Other)),
            ?assertEqual({One, Other, One =:= Other}, {One, Other, First =:= Second}),
            [supervisor:terminate_child(Zone, Name) || Name <- [One, Other]],
            ?assertEqual([], gen_tracker:which_children(Zone))
        end
     || {One, Other} <- different() ++ identical()
    ].

different() ->
    Big = 1 bsl 80,
    [
        {1, 1.0},
        {0.0, -0.0},
        {Big, float(Big)},
        {Big, Big + 1},
        {[1], [1.0]},
        {[a | 1], [a | 1.0]},
        {{1}, {1.0}},
        {#{1 => a}, #{1.0 => a}},
        {#{a => 1}, #{a => 1.0}},
        {{[#{a => {1}}]}, {[#{a => {1.0}}]}},
        {tv1, "tv1"},
        {tv1, <<"tv1">>},
        {"tv1", <<"tv1">>},
        {<<1:1>>, <<1:2>>},
        {<<0>>, <<0:7>>},
        {[], <<>>},
        {{}, #{}},
        {make_ref(), make_ref()}
    ].

%% Each pair holds the same term, made in two ways.
identical() ->
    Large = binary:copy(<<"name">>, 1000),
    <<_:3, Bits/bitstring>> = <<0:3, 300:9>>,
    Pairs = [{Number, -Number} || Number <- lists:seq(1, 100)],
    Fun = fun(Added) -> Added + length(Pairs) end,
    Terms = [{0.1 + 0.2, fun erlang:self/0, Fun, self(), make_ref()}, Large, 1 bsl 200],
    [
        {Large, binary:copy(Large)},
        {<<"name">>, binary:part(Large, 4, 4)},
        {Bits, <<300:9>>},
        {maps:from_list(Pairs), maps:from_list(lists:reverse(Pairs))}
        | [{Term, binary_to_term(term_to_binary(Term))} || Term <- Terms]
    ].

every_kind_of_term_is_a_name(_) ->
    Zone = zone(?FUNCTION_NAME),
    Names = names(),
    Opened = [gen_tracker:find_or_open(Zone, spec(Name, temporary)) || Name <- Names],
    ?assertEqual(Opened, [gen_tracker:find(Zone, Name) || Name <- Names]),
    ?assertEqual(length(Names), length(lists:usort(Opened))),
    Listed = [Name || {Name, _, _, _} <- gen_tracker:which_children(Zone)],
    ?assertEqual({[], []}, {Names -- Listed, Listed -- Names}).

names() ->
    Environment = {self(), make_ref()},
    Remote = binary_to_term(<<131, 88, 119, 9, "else@here", 1:32, 0:32, 1:32>>),
    [Port | _] = erlang:ports(),
    [atom, '', undefined, 0, -1, 1 bsl 59, -(1 bsl 63), 1 bsl 64, -(1 bsl 200), 1.5, -1.0e300] ++
        [<<>>, <<"tv1">>, binary:copy(<<"tv1">>, 500000), <<5:3>>, <<"tv1", 1:7>>] ++
        [[], "tv1", [a | b], [[[]], {}], lists:seq(1, 100000)] ++
        [{}, {stream, <<"tv1">>}, erlang:make_tuple(1000, 1.0)] ++
        [#{}, #{a => #{b => []}}, maps:from_list([{{N}, [N]} || N <- lists:seq(1, 1000)])] ++
        [self(), Remote, Port, make_ref(), atomics:new(1, []), counters:new(1, [])] ++
        [fun erlang:self/0, fun() -> Environment end] ++
        [lists:foldl(fun(_, Deep) -> {Deep} end, deep, lists:seq(1, 10000))].

%% Dead children

find_or_open_never_returns_a_child_whose_death_the_caller_has_seen(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = {name, {?MODULE, start_plain, []}, temporary},
    Find = fun(_, Dead) ->
        {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
        ?assertNotEqual(Dead, Child),
        Monitor = monitor(process, Child),
        exit(Child, kill),
        receive
            {'DOWN', Monitor, process, Child, killed} -> Child
        end
    end,
    lists:foldl(Find, none, lists:seq(1, 3000)).

start_plain() ->
    {
        ok,
        spawn_link(fun() ->
            receive
                never -> ok
            end
        end)
    }.

%% Other callers may kill the same child.
none_of_many_callers_gets_a_child_whose_death_it_has_seen(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = {name, {?MODULE, start_plain, []}, temporary},
    Find = fun(_, Dead) ->
        {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
        false = is_map_key(Child, Dead),
        Monitor = monitor(process, Child),
        exit(Child, kill),
        receive
            {'DOWN', Monitor, process, Child, _} -> Dead#{Child => dead}
        end
    end,
    Caller = fun() -> map_size(lists:foldl(Find, #{}, lists:seq(1, 1000))) end,
    ?assertEqual([1000, 1000, 1000, 1000], callers:together(lists:duplicate(4, Caller))).

an_added_child_whose_death_the_caller_has_seen_is_not_returned(_) ->
    Zone = zone(?FUNCTION_NAME),
    Spec = {name, {?MODULE, start_plain, []}, temporary},
    [
        begin
            {Child, Monitor} = spawn_monitor(fun() ->
                receive
                    never -> ok
                end
            end),
            {ok, Child} = gen_tracker:add_existing_child(Zone, Form(name, Child)),
            exit(Child, kill),
            receive
                {'DOWN', Monitor, process, Child, killed} -> ok
            end,
            {ok, Next} = gen_tracker:find_or_open(Zone, Spec),
            ?assertNotEqual(Child, Next),
            ok = supervisor:terminate_child(Zone, name)
        end
     || Form <- forms(), _ <- lists:seq(1, 300)
    ].

%% `get_childspec/2` shows `undefined` for the arguments, as OTP does.
the_arguments_of_a_temporary_child_are_not_kept(_) ->
    Zone = zone(?FUNCTION_NAME),
    MFA = {tracked_child, start_link, [self()]},
    [
        begin
            {ok, Child} = Open(Zone, {name, MFA, Restart, 200, worker, []}),
            Expected =
                case Restart of
                    temporary -> {tracked_child, start_link, undefined};
                    _ -> MFA
                end,
            {ok, #{start := Start, restart := Restart}} = supervisor:get_childspec(Zone, name),
            ?assertEqual({Restart, Expected}, {Restart, Start}),
            ?assertEqual({ok, Child}, gen_tracker:find(Zone, name)),
            ok = supervisor:terminate_child(Zone, name)
        end
     || Restart <- [temporary, transient, permanent],
        Open <- [
            fun gen_tracker:find_or_open/2,
            fun supervisor:start_child/2,
            fun(Added, Spec) -> gen_tracker:add_existing_child(Added, {stranger(), Spec}) end
        ]
    ].
