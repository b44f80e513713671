%% @private
%% Says which argument of a call was a bad one, for the shell and for whoever prints an exception: see `error_info' in
%% <a href="https://www.erlang.org/eeps/eep-0054">EEP 54</a>.
-module(proctab_errors).

-export([info/3, format_error/2]).

-type place() :: pos_integer().
-type faults() :: #{place() | general => unicode:chardata()}.

%% What a function that raises `badarg' gives to `erlang:error/3': the faults of its arguments, by their places; `general' where none of them explains it.
-spec info(module(), Function :: atom(), Arguments :: [term()]) -> [{error_info, #{module := ?MODULE, cause := faults()}}].
info(Module, Function, Arguments) ->
    Faults = maps:from_list([{Place, Text} || {Place, Text} <- faults(Module, Function, Arguments), Text =/= none]),
    Cause =
        case map_size(Faults) of
            0 -> #{general => "a term is too large for the table"};
            _ -> Faults
        end,
    [{error_info, #{module => ?MODULE, cause => Cause}}].

%% For whoever prints the exception.
-spec format_error(Reason :: term(), erlang:stacktrace()) -> faults().
format_error(badarg, [{_, _, _, Info} | _]) ->
    case proplists:get_value(error_info, Info) of
        #{cause := Faults} -> Faults;
        _ -> #{}
    end;
format_error(_Reason, _Stacktrace) ->
    #{}.

faults(gen_tracker, start_link, [Zone | Options]) ->
    [{1, zone_name(Zone)} | [{2, options(Map)} || Map <- Options]];
faults(gen_tracker, add_existing_child, [Zone, Child]) ->
    [{1, server(Zone)}, {2, child(Zone, Child)}];
faults(gen_tracker, wait, [Zone]) ->
    [{1, server(Zone)}];
faults(gen_tracker, setattr, [Zone, _, Attributes]) ->
    [{1, zone(Zone)}, {3, attributes(Attributes)}];
faults(gen_tracker, getattr, [Zone, _, _, Timeout]) ->
    [{1, zone(Zone)}, {4, timeout(Timeout)}];
faults(gen_tracker, increment, [Zone, Name, Key, Operation | Default]) ->
    [
        {1, zone(Zone)},
        counter(Zone, Name, Key, Default),
        {4, operation(Operation)}
        | [{5, default(Zone, Name, Key, Value)} || Value <- Default]
    ];
faults(gen_tracker, info, [Zone, _, Keys]) ->
    [{1, zone(Zone)}, {3, proper_list(Keys)}];
faults(gen_tracker, list, [Zone, Keys]) ->
    [{1, zone(Zone)}, {2, proper_list(Keys)}];
faults(gen_tracker, fold, [Fun, _, Zone]) ->
    [{1, folding(Fun)}, {3, zone(Zone)}];
faults(gen_tracker, register_name, [Name, Pid]) ->
    [{1, registered_name(Name)}, {2, to_register(Name, Pid)}];
faults(gen_tracker, Function, [Name | _]) when Function =:= unregister_name; Function =:= whereis_name; Function =:= send ->
    [{1, via_name(Name)}];
faults(gen_tracker, _, [Zone | _]) ->
    [{1, zone(Zone)}];
faults(proctab, top, [Zone, _, N]) ->
    [{1, zone(Zone)}, {3, number_of_names(N)}];
faults(proctab, _, [Zone | _]) ->
    [{1, zone(Zone)}];
faults(metrics_process_tracker, Function, Arguments) ->
    [tracker() | tracked(Function, Arguments)];
faults(stats_hero_monitor, register, [Pid]) ->
    [{1, pid(Pid)}];
faults(_, _, _) ->
    [].

tracked(track, [_, Pid]) -> [{2, pid(Pid)}];
tracked(names, [Pid]) -> [{1, pid(Pid)}];
tracked(_, _) -> [].

tracker() ->
    try proctab_nif:registered_count(metrics_process_tracker, name) of
        _ -> {general, none}
    catch
        error:badarg -> {general, "metrics_process_tracker has no table: it was not started, or its supervisor is gone"}
    end.

zone(Zone) ->
    case zone_name(Zone) of
        none -> running(Zone);
        Fault -> Fault
    end.

zone_name(Zone) when is_atom(Zone), Zone =/= undefined -> none;
zone_name(_) -> "not an atom that can name a zone".

running(Zone) ->
    try proctab_nif:count(Zone) of
        _ -> none
    catch
        error:badarg -> "no zone of this name is running"
    end.

%% A zone, its tracker, or a zone of a node.
server(Tracker) when is_pid(Tracker), node(Tracker) =:= node() ->
    case [Owner || {zone, _, Owner} <- proctab_nif:tables(), Owner =:= Tracker] of
        [] -> "not the tracker of a running zone";
        _ -> none
    end;
server({Zone, Node}) when Node =:= node() ->
    zone(Zone);
server(Tracker) when is_pid(Tracker) ->
    "not the tracker of a running zone";
server({Zone, Node}) when is_atom(Zone), is_atom(Node) ->
    "no zone of this name is running there";
server(Zone) ->
    zone(Zone).

via_name({Zone, _}) when is_atom(Zone) -> none;
via_name(_) -> "not a pair {Zone, Name}".

registered_name({Zone, _}) -> zone(Zone);
registered_name(Name) -> via_name(Name).

options(Options) when is_map(Options) ->
    case maps:to_list(maps:without([restart, reports], Options)) of
        [{Unknown, _} | _] when is_atom(Unknown) -> io_lib:format("~tp is not an option", [Unknown]);
        [_ | _] -> "an option that is not an atom";
        [] -> switches([restart, reports], Options)
    end;
options(_) ->
    "not a map".

switches([Switch | Switches], Options) ->
    case maps:get(Switch, Options, true) of
        Boolean when is_boolean(Boolean) -> switches(Switches, Options);
        _ -> io_lib:format("the option ~tp is neither true nor false", [Switch])
    end;
switches([], _) ->
    none.

child(_, {_, Pid, worker, _}) when not is_pid(Pid) -> "not a pid";
child(Zone, {_, Pid, worker, _}) -> stranger(Zone, Pid);
child(_, {Pid, {_, _, _, _, worker, _}}) when not is_pid(Pid) -> "not a pid";
child(Zone, {Pid, {_, _, _, _, worker, _} = Spec}) ->
    case spec(Spec) of
        none -> stranger(Zone, Pid);
        Fault -> Fault
    end;
child(_, _) -> "neither {Name, Pid, worker, Modules} nor {Pid, Spec} of a worker".

stranger(Zone, Pid) ->
    try proctab_nif:owner(Zone) of
        Pid -> "the zone's own tracker";
        _ -> none
    catch
        error:badarg -> none
    end.

spec(Spec) ->
    case gen_tracker_spec:check(Spec) of
        {ok, _, _} -> none;
        %% Not the term: a long integer takes a scheduler for seconds to print.
        {error, Reason} when is_tuple(Reason) -> io_lib:format("not a child spec: ~tp", [element(1, Reason)]);
        {error, _} -> "not a child spec"
    end.

proper_list(List) when is_list(List) ->
    try length(List) of
        _ -> none
    catch
        error:badarg -> "not a proper list"
    end;
proper_list(_) ->
    "not a list".

attributes(#{}) -> none;
attributes(List) when is_list(List) -> proper_list(List);
attributes(_) -> "neither a list nor a map".

timeout(infinity) -> none;
timeout(Timeout) when is_integer(Timeout), Timeout >= 0 -> none;
timeout(_) -> "neither a non-negative integer nor infinity".

operation(Increment) when is_integer(Increment) ->
    none;
operation({2, Increment}) when is_integer(Increment) ->
    none;
operation({2, Increment, Threshold, SetValue})
        when is_integer(Increment), is_integer(Threshold), is_integer(SetValue) ->
    none;
operation(Operation) when is_tuple(Operation) ->
    "neither {2, Increment} nor {2, Increment, Threshold, SetValue} of integers";
operation(_) ->
    "not an integer".

%% It matters where the attribute is missing.
default(_, _, _, Default) when is_integer(Default) ->
    none;
default(Zone, Name, Key, _) ->
    try proctab_nif:getattr(Zone, Name, Key) of
        {ok, _} -> none;
        undefined -> "not an integer, and there is no such attribute"
    catch
        error:badarg -> none
    end.

number_of_names(N) when is_integer(N), N >= 0 -> none;
number_of_names(_) -> "not a non-negative integer".

counter(Zone, Name, Key, Default) ->
    try {proctab_nif:getattr(Zone, Name, Key), proctab_nif:child(Zone, Name)} of
        {{ok, Value}, _} when is_integer(Value) -> {3, none};
        {{ok, _}, _} -> {3, "the attribute is not an integer"};
        {undefined, _} when Default =/= [] -> {3, none};
        {undefined, undefined} -> {2, "there is no child of this name, and no such attribute"};
        {undefined, _} -> {3, "there is no such attribute"}
    catch
        error:badarg -> {3, none}
    end.

folding(Fun) when is_function(Fun, 3) -> none;
folding(_) -> "not a fun of three arguments".

pid(Pid) when is_pid(Pid) -> none;
pid(_) -> "not a pid".

to_register({Zone, _}, Pid) when is_pid(Pid) -> stranger(Zone, Pid);
to_register(_, Pid) -> pid(Pid).
