%% Promise: a start function may change the state of the keeper that calls it. It may stop trapping
%% exits, remove links, flush the mailbox, and erase the process dictionary. No request to stop, no
%% cleanup, no name and no `init_ack/1` is lost.
-module(misbehaving_start_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("../support/timed_call.hrl").

-compile([export_all, nowarn_export_all]).

-import(zones, [zone/1, opening/2, stopped/3]).
-import(foreign_code, [misbehave/1]).
-import(messages, [await/1, taken/1]).
-import(tracked_child, [stubborn/1, ignoring/1]).
-import(timed_call, [within/2, answer/2, at_rest/1, calling/1, ended/2]).

suite() ->
    [{timetrap, {minutes, 2}}, {ct_hooks, [{zone_hook, [kill]}]}].

all() ->
    [
        the_child_of_a_misbehaving_start_function_can_be_terminated,
        the_child_of_a_misbehaving_start_function_is_cleaned_up_once,
        the_child_of_a_misbehaving_start_function_ends_with_the_zone,
        the_child_of_a_misbehaving_start_function_ends_with_a_killed_tracker,
        terminate_child_takes_effect_during_a_misbehaving_start_function,
        a_zone_stops_during_a_misbehaving_start_function,
        a_misbehaving_start_function_that_crashes_leaves_nothing,
        init_ack_returns_although_the_start_function_flushes_its_mailbox,
        a_zone_stops_although_the_start_function_flushes_the_request_of_init_ack
    ].

%% Returns what start functions do to the keeper before they start the child, and after that.
misdeeds() ->
    Nothing = fun() -> ok end,
    Does = fun(Misdeed) -> fun() -> misbehave(Misdeed) end end,
    [Untrap, Unlink, Flush, Erase, Everything] = [
        Does(Misdeed)
     || Misdeed <- [untrap, unlink, flush, erase, everything]
    ],
    [
        {trap_exit_before, Untrap, Nothing},
        {trap_exit_after, Nothing, Untrap},
        {unlink_before, Unlink, Nothing},
        {unlink_after, Nothing, Unlink},
        {flush, Flush, Flush},
        {erase, Erase, Erase},
        {
            unlink_and_trap_exit,
            Nothing,
            fun() ->
                Unlink(),
                Untrap()
            end
        },
        {everything, Everything, Everything}
    ].

%% The start function. Between the two misdeeds it continues, waits for `go`, or crashes.
start(Test, Misdeed, Gate) ->
    {_, Before, After} = lists:keyfind(Misdeed, 1, misdeeds()),
    Before(),
    Child = proc_lib:spawn_link(fun() ->
        receive
            {stop, Reason} -> exit(Reason)
        end
    end),
    Test ! {begun, Misdeed, self(), Child},
    case Gate of
        gate ->
            receive
                go -> ok
            end;
        crash ->
            After(),
            error(misbehaved);
        none ->
            ok
    end,
    After(),
    {ok, Child}.

misbehaving(Misdeed, Gate) ->
    Test = self(),
    Start = fun() -> start(Test, Misdeed, Gate) end,
    {{Test, Misdeed}, {reporting_child, start, [Start]}, temporary, 200, worker, []}.

%% Opens a child for each of the misdeeds.
misbehaving(Zone) ->
    [
        begin
            {answer, {ok, Child}} = answer(opening(Zone, misbehaving(Misdeed, none)), ?SOON),
            {begun, Misdeed, _, Child} = await(begun),
            {{self(), Misdeed}, Child}
        end
     || {Misdeed, _, _} <- misdeeds()
    ].

the_child_of_a_misbehaving_start_function_can_be_terminated(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, Name) end),
            ?assertEqual({Name, shutdown}, {Name, shut(Child)}),
            one_cleanup(Zone, Name, shutdown)
        end
     || {Name, Child} <- misbehaving(Zone)
    ].

shut(Child) ->
    case is_process_alive(Child) of
        false -> shutdown;
        true -> still_alive
    end.

the_child_of_a_misbehaving_start_function_is_cleaned_up_once(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            exit(Child, Sent),
            _ = ended(Child, ?SOON),
            ?assertMatch({last, Name, _, Seen}, await(last)),
            one_cleanup(Zone, Name)
        end
     || {Sent, Seen} <- [{kill, killed}, {crash, crash}], {Name, Child} <- misbehaving(Zone)
    ].

one_cleanup(Zone, Name, Reason) ->
    ?assertMatch({last, Name, _, Reason}, await(last)),
    one_cleanup(Zone, Name).

%% After a further start that returns `ignore`, `after_terminate/3` has not been called again.
one_cleanup(Zone, Name) ->
    ignore = within(?SOON, fun() -> gen_tracker:find_or_open(Zone, ignoring(Name)) end),
    [] = taken(last),
    undefined = proctab_nif:child(Zone, Name).

the_child_of_a_misbehaving_start_function_ends_with_the_zone(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            Children = misbehaving(Zone),
            ?assertEqual(Reason, stopped(Zone, Stop, ?LIMIT)),
            [] = [Name || {Name, Child} <- Children, is_process_alive(Child)],
            Said = [Name || {last, Name, _, _} <- taken(last)],
            ?assertEqual(lists:sort([Name || {Name, _} <- Children]), lists:sort(Said))
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

the_child_of_a_misbehaving_start_function_ends_with_a_killed_tracker(_) ->
    Zone = zone(?FUNCTION_NAME),
    Children = misbehaving(Zone),
    _ = tracked_child:kill(whereis(Zone)),
    [{Misdeed, _} = {Misdeed, ended(Child, ?LIMIT)} || {{_, Misdeed}, Child} <- Children].

%% The request arrives while the start function waits. The start function then succeeds.
terminate_child_takes_effect_during_a_misbehaving_start_function(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            Name = {self(), Misdeed},
            Opening = opening(Zone, setelement(4, misbehaving(Misdeed, gate), 5000)),
            {begun, Misdeed, Starter, Child} = await(begun),
            Stopping = calling(fun() -> supervisor:terminate_child(Zone, Name) end),
            ok = gen_tracker:wait(Zone),
            Starter ! go,
            ?assertEqual({Misdeed, {answer, ok}}, {Misdeed, answer(Stopping, ?LIMIT)}),
            ?assertEqual({Misdeed, {answer, {error, killed}}}, {Misdeed, answer(Opening, ?SOON)}),
            _ = ended(Child, ?SOON),
            _ = taken(last),
            one_cleanup(Zone, Name)
        end
     || {Misdeed, _, _} <- misdeeds()
    ].

a_zone_stops_during_a_misbehaving_start_function(_) ->
    [
        begin
            Zone = zone(?FUNCTION_NAME),
            Openings = [
                opening(Zone, setelement(4, misbehaving(Misdeed, gate), 2000))
             || {Misdeed, _, _} <- misdeeds()
            ],
            Begun = [await(begun) || _ <- Openings],
            Stubborn = stubborn(Zone),
            Release = fun(Tracker) ->
                _ = Stop(Tracker),
                {exit_signal, Stubborn, shutdown} = await(exit_signal),
                [Starter ! go || {begun, _, Starter, _} <- Begun],
                Stubborn ! {stop, normal}
            end,
            ?assertEqual(Reason, stopped(Zone, Release, ?LIMIT)),
            [_ = ended(Child, ?SOON) || {begun, _, _, Child} <- Begun],
            [{answer, {error, shutdown}} = answer(Opening, ?SOON) || Opening <- Openings]
        end
     || {Stop, Reason} <- zones:ways_to_stop()
    ].

a_misbehaving_start_function_that_crashes_leaves_nothing(_) ->
    Zone = zone(?FUNCTION_NAME),
    [
        begin
            {answer, Answer} = answer(opening(Zone, misbehaving(Misdeed, crash)), ?SOON),
            ?assertEqual({Misdeed, {error, misbehaved}}, {Misdeed, Answer}),
            undefined = proctab_nif:child(Zone, {self(), Misdeed})
        end
     || {Misdeed, _, _} <- misdeeds()
    ],
    stopped(Zone, fun(Tracker) -> exit(Tracker, shutdown) end, ?SOON).

%% The start function flushes the request that `init_ack/1` has sent to the keeper.
init_ack_returns_although_the_start_function_flushes_its_mailbox(_) ->
    Zone = zone(?FUNCTION_NAME),
    {answer, {ok, Child}} = answer(opening(Zone, flushing(self(), none)), ?SOON),
    ?assertEqual({acknowledged, Child}, await(acknowledged)),
    ?assertEqual({ok, Child}, gen_tracker:find(Zone, flushing)),
    ok = within(?LIMIT, fun() -> supervisor:terminate_child(Zone, flushing) end).

a_zone_stops_although_the_start_function_flushes_the_request_of_init_ack(_) ->
    Zone = zone(?FUNCTION_NAME),
    Opening = opening(Zone, flushing(self(), gate)),
    {begun, Starter, Child} = await(begun),
    ok = gen_tracker:wait(Zone),
    Stubborn = stubborn(Zone),
    Release = fun(Tracker) ->
        exit(Tracker, shutdown),
        {exit_signal, Stubborn, shutdown} = await(exit_signal),
        Starter ! go,
        Stubborn ! {stop, normal}
    end,
    ?assertEqual(shutdown, stopped(Zone, Release, ?LIMIT)),
    _ = ended(Child, ?SOON),
    {answer, {error, shutdown}} = answer(Opening, ?SOON).

flushing(Test, Gate) ->
    {flushing, {?MODULE, start_flushing, [Test, Gate]}, temporary, 2000, worker, []}.

start_flushing(Test, Gate) ->
    {ok, Child} = proc_lib:start_link(?MODULE, acknowledge, [Test]),
    %% The child waits in `init_ack/1`.
    at_rest(Child),
    Test ! {begun, self(), Child},
    Gate =:= gate andalso wait_for_go(),
    misbehave(flush),
    {ok, Child}.

wait_for_go() ->
    receive
        go -> ok
    end.

acknowledge(Test) ->
    ok = gen_tracker:init_ack({ok, self()}),
    Test ! {acknowledged, self()},
    receive
        {stop, Reason} -> exit(Reason)
    end.
