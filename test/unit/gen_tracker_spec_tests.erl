%% The forms of a child spec, and the defaults of what each leaves out.
-module(gen_tracker_spec_tests).

-include_lib("eunit/include/eunit.hrl").

-define(MFA, {stream, start_link, [<<"tv1">>]}).

the_short_form_is_a_worker_with_200_milliseconds_to_stop_test() ->
    ?assertEqual(
        {ok, <<"tv1">>, {?MFA, temporary, 200, worker, []}},
        gen_tracker_spec:check({<<"tv1">>, ?MFA, temporary})
    ).

the_tuple_of_supervisors_is_taken_as_it_is_test() ->
    ?assertEqual(
        {ok, name, {?MFA, transient, brutal_kill, supervisor, dynamic}},
        gen_tracker_spec:check({name, ?MFA, transient, brutal_kill, supervisor, dynamic})
    ).

the_map_has_the_defaults_of_supervisors_test() ->
    ?assertEqual(
        {ok, name, {?MFA, permanent, 5000, worker, [stream]}},
        gen_tracker_spec:check(#{id => name, start => ?MFA})
    ),
    ?assertEqual(
        {ok, name, {?MFA, permanent, infinity, supervisor, [stream]}},
        gen_tracker_spec:check(#{id => name, start => ?MFA, type => supervisor})
    ),
    ?assertEqual(
        {ok, name, {?MFA, transient, 10, worker, dynamic}},
        gen_tracker_spec:check(#{
            id => name,
            start => ?MFA,
            restart => transient,
            shutdown => 10,
            modules => dynamic
        })
    ).

a_malformed_spec_has_the_reason_that_supervisors_give_test_() ->
    [
        ?_assertEqual(supervisor:check_childspecs([Spec]), gen_tracker_spec:check(Spec))
     || Spec <- [
            nothing,
            {name, ?MFA},
            {name, no_mfa, permanent, 200, worker, []},
            {name, ?MFA, sometimes, 200, worker, []},
            {name, ?MFA, permanent, -1, worker, []},
            {name, ?MFA, permanent, 200, neither, []},
            {name, ?MFA, permanent, 200, worker, [1]},
            #{id => name},
            #{start => ?MFA}
        ]
    ].

a_spec_goes_back_to_a_map_of_the_same_meaning_test() ->
    {ok, name, Spec} = gen_tracker_spec:check(#{id => name, start => ?MFA, restart => transient}),
    Map = gen_tracker_spec:to_map(name, Spec),
    ?assertEqual({ok, name, Spec}, gen_tracker_spec:check(Map)),
    ?assertEqual(ok, supervisor:check_childspecs([Map])).
