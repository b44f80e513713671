%% @private
%% Child specs: the forms that callers may use, the form that a zone stores, and the time limits
%% that follow from a spec's shutdown.
-module(gen_tracker_spec).

-export([check/1, is_spec/1, stored/1, to_map/2]).
-export([start_timeout/1, cleanup_timeout/1]).

-export_type([spec/0]).

-type spec() :: {MFA :: gen_tracker:mfargs() | undefined, gen_tracker:restart(),
                 gen_tracker:shutdown(), gen_tracker:child_type(), Modules :: term()}.

%% The shutdown of the three-element form, in milliseconds.
-define(DEFAULT_SHUTDOWN, 200).
%% The longest timeout of a `receive', in milliseconds.
-define(LONGEST_TIMEOUT, 16#ffffffff).
%% The time limit of a start with the shutdown `infinity' that is to stop, in milliseconds.
-define(INFINITE_START, 60000).
%% The shortest time limit of `after_terminate', and that for the shutdown `infinity', in
%% milliseconds.
-define(LEAST_CLEANUP, 3000).
-define(INFINITE_CLEANUP, 60000).

%% @doc Returns the name and the stored form of a child spec in any of its forms. The error is that
%% of `supervisor:check_childspecs/1'.
-spec check(term()) -> {ok, gen_tracker:name(), spec()} | {error, term()}.
check({Name, MFA, Restart}) ->
    check({Name, MFA, Restart, ?DEFAULT_SHUTDOWN, worker, []});
check(Spec) ->
    try supervisor:check_childspecs([Spec]) of
        ok -> normalize(Spec);
        {error, Reason} -> {error, Reason}
    catch
        %% OTP 29 raises an error for an improper list of modules. Other releases return one.
        error:Reason:Stack -> {error, {'EXIT', {Reason, Stack}}}
    end.

normalize({Name, MFA, Restart, Shutdown, Type, Modules})
        when is_integer(Shutdown), Shutdown > ?LONGEST_TIMEOUT ->
    normalize({Name, MFA, Restart, ?LONGEST_TIMEOUT, Type, Modules});
normalize({Name, MFA, Restart, Shutdown, Type, Modules}) ->
    {ok, Name, {MFA, Restart, Shutdown, Type, Modules}};
normalize(#{id := Name, start := {Module, _, _} = MFA} = Spec) ->
    Type = maps:get(type, Spec, worker),
    Shutdown =
        case Type of
            worker -> 5000;
            supervisor -> infinity
        end,
    normalize({Name, MFA, maps:get(restart, Spec, permanent), maps:get(shutdown, Spec, Shutdown),
               Type, maps:get(modules, Spec, [Module])}).

%% @doc Returns whether a term has the form that {@link check/1} returns. The modules may be any
%% term, and a process that was added need not have a start function.
-spec is_spec(term()) -> boolean().
is_spec({MFA, Restart, Shutdown, Type, _Modules}) ->
    is_start(MFA) andalso
        lists:member(Restart, [permanent, transient, temporary]) andalso
        lists:member(Type, [worker, supervisor]) andalso
        (Shutdown =:= brutal_kill orelse Shutdown =:= infinity orelse
            is_integer(Shutdown) andalso Shutdown >= 0 andalso Shutdown =< ?LONGEST_TIMEOUT);
is_spec(_) ->
    false.

is_start(undefined) -> true;
is_start({M, F, Args}) -> is_atom(M) andalso is_atom(F) andalso is_list(Args);
is_start(_) -> false.

%% @doc Returns the spec that the table stores: without the start arguments of a temporary child,
%% which is never started again.
-spec stored(spec()) -> spec().
stored({{Module, Function, _}, temporary, Shutdown, Type, Modules}) ->
    {{Module, Function, undefined}, temporary, Shutdown, Type, Modules};
stored(Spec) ->
    Spec.

%% @doc Returns a child spec as `supervisor:get_childspec/2' does.
-spec to_map(gen_tracker:name(), spec()) -> map().
to_map(Name, {MFA, Restart, Shutdown, Type, Modules}) ->
    #{id => Name, start => MFA, restart => Restart, significant => false, shutdown => Shutdown,
      type => Type, modules => Modules}.

%% @doc Returns how long a start may go on once its child is to stop, in milliseconds.
-spec start_timeout(gen_tracker:shutdown()) -> non_neg_integer().
start_timeout(brutal_kill) -> 0;
start_timeout(infinity) -> ?INFINITE_START;
start_timeout(Shutdown) -> Shutdown.

%% @doc Returns how long `after_terminate' may delay a stop, in milliseconds.
-spec cleanup_timeout(gen_tracker:shutdown()) -> pos_integer().
cleanup_timeout(brutal_kill) -> ?LEAST_CLEANUP;
cleanup_timeout(infinity) -> ?INFINITE_CLEANUP;
cleanup_timeout(Shutdown) -> max(Shutdown, ?LEAST_CLEANUP).
