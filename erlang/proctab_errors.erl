%% @private Explains a `badarg' to the shell and other printers of exceptions: which argument was
%% bad and why. This is the `error_info' of <a href="https://www.erlang.org/eeps/eep-0054">EEP
%% 54</a>.
-module(proctab_errors).

-export([info/3, format_error/2]).

%% The number of indexes of a zone at most, as in `native/nif/src/index.rs'.
-define(MAX_INDEXES, 64).
%% A place in the pages of values that is after all of them.
-define(AFTER_ALL_VALUES, 1 bsl 30).

-type position() :: pos_integer().
%% The explanations of bad arguments, by position. `general' if no single argument is bad.
-type explanations() :: #{position() | general => unicode:chardata()}.

%% @doc Returns the options of `erlang:error/3' for a `badarg' of an exported function. Checks the
%% arguments again to find the bad ones.
-spec info(module(), Function :: atom(), Arguments :: [term()]) ->
          [{error_info, #{module := ?MODULE, cause := explanations()}}].
info(Module, Function, Arguments) ->
    Checked = check(Module, Function, Arguments),
    Bad = maps:from_list([{Position, Text} || {Position, Text} <- Checked, Text =/= none]),
    Cause =
        case map_size(Bad) of
            0 -> #{general => "a term is too large for the table"};
            _ -> Bad
        end,
    [{error_info, #{module => ?MODULE, cause => Cause}}].

%% @doc Returns the explanations of an exception, as EEP 54 defines it.
-spec format_error(Reason :: term(), erlang:stacktrace()) -> explanations().
format_error(badarg, [{_, _, _, Info} | _]) ->
    case proplists:get_value(error_info, Info) of
        #{cause := Explanations} -> Explanations;
        _ -> #{}
    end;
format_error(_Reason, _Stacktrace) ->
    #{}.

%% Returns what is wrong with each argument, by position; `none' for a good one. So do all functions
%% below that are named after an argument.
check(gen_tracker, child_spec, [{Zone, Options}]) ->
    [{1, hd([Text || Text <- [zone_name(Zone), options(Options)], Text =/= none] ++ [none])}];
check(gen_tracker, child_spec, [Zone]) ->
    [{1, zone_name(Zone)}];
check(gen_tracker, find, [Zone, _, Timeout]) ->
    [{1, zone(Zone)}, {3, timeout(Timeout)}];
check(gen_tracker, update, [Zone, _, _, Fun]) ->
    [{1, zone(Zone)}, {4, update_fun(Fun)}];
check(gen_tracker, select, [_]) ->
    [{1, "not a continuation of select/1,3, or its zone does not run"}];
check(gen_tracker, Select, [Zone, MatchSpec | Limit])
        when Select =:= select; Select =:= select_count ->
    [{1, zone(Zone)}, {2, match_spec(Zone, MatchSpec)} | [{3, limit(Most)} || Most <- Limit]];
check(gen_tracker, subscribe, [Zone, Filter]) ->
    [{1, zone(Zone)}, {2, filter(Filter)}];
check(gen_tracker, start_link, [Zone | Options]) ->
    [{1, zone_name(Zone)} | [{2, options(Map)} || Map <- Options]];
check(gen_tracker, add_existing_child, [Zone, Child]) ->
    [{1, server(Zone)}, {2, child(Zone, Child)}];
check(gen_tracker, wait, [Zone]) ->
    [{1, server(Zone)}];
check(gen_tracker, setattr, [Zone, _, Attributes]) ->
    [{1, zone(Zone)}, {3, attributes(Attributes)}];
check(gen_tracker, getattr, [Zone, _, _, Timeout]) ->
    [{1, zone(Zone)}, {4, timeout(Timeout)}];
check(gen_tracker, increment, [Zone, Name, Key, Operation | Default]) ->
    [
        {1, zone(Zone)},
        counter(Zone, Name, Key, Default),
        {4, operation(Operation)}
        | [{5, default(Zone, Name, Key, Value)} || Value <- Default]
    ];
check(gen_tracker, info, [Zone, _, Keys]) ->
    [{1, zone(Zone)}, {3, proper_list(Keys)}];
check(gen_tracker, list, [Zone, Keys]) ->
    [{1, zone(Zone)}, {2, proper_list(Keys)}];
check(gen_tracker, fold, [Fun, _, Zone]) ->
    [{1, fold_fun(Fun)}, {3, zone(Zone)}];
check(gen_tracker, Function, [Zone, Key | _])
        when Function =:= lookup; Function =:= count; Function =:= values; Function =:= publish ->
    [{1, zone(Zone)}, {2, indexed_key(Zone, Key)}];
check(gen_tracker, Register, [Name, Pid])
        when Register =:= register_name; Register =:= re_register_name ->
    [{1, name_to_register(Name)}, {2, pid_to_register(Name, Pid)}];
check(gen_tracker, Function, [Name | _])
        when Function =:= unregister_name; Function =:= whereis_name; Function =:= send ->
    [{1, via_name(Name)}];
check(gen_tracker_cluster, fold, [Fun, _, Zone]) ->
    [{1, fold_fun(Fun)}, {3, cluster_zone(Zone)}];
check(gen_tracker_cluster, Function, [Zone, Key | _])
        when Function =:= lookup; Function =:= publish ->
    [{1, cluster_zone(Zone)}, {2, indexed_key(Zone, Key)}];
check(gen_tracker_cluster, register_name, [Name, Pid]) ->
    [{1, cluster_name_to_register(Name)}, {2, pid(Pid)}];
check(gen_tracker_cluster, Function, [Name | _])
        when Function =:= unregister_name; Function =:= whereis_name; Function =:= send ->
    [{1, via_name(Name)}];
check(gen_tracker_cluster, Function, [Zone, Name | Arguments]) ->
    %% The rest is that of the function of `gen_tracker'.
    case cluster_zone(Zone) of
        none -> check(gen_tracker, Function, [Zone, Name | Arguments]);
        Text -> [{1, Text}]
    end;
check(gen_tracker_cluster, _, [Zone | _]) ->
    [{1, cluster_zone(Zone)}];
check(gen_tracker, _, [Zone | _]) ->
    [{1, zone(Zone)}];
check(proctab, top, [Zone, _, N]) ->
    [{1, zone(Zone)}, {3, number_of_names(N)}];
check(proctab, _, [Zone | _]) ->
    [{1, zone(Zone)}];
check(metrics_process_tracker, track, [_, Pid]) ->
    [{general, metrics_table()}, {2, pid(Pid)}];
check(metrics_process_tracker, names, [Pid]) ->
    [{general, metrics_table()}, {1, pid(Pid)}];
check(metrics_process_tracker, _, _) ->
    [{general, metrics_table()}];
check(stats_hero_monitor, register, [Pid]) ->
    [{1, pid(Pid)}];
check(_, _, _) ->
    [].

metrics_table() ->
    try proctab_nif:registered_count(metrics_process_tracker, name) of
        _ -> none
    catch
        error:badarg ->
            "metrics_process_tracker has no table: it was not started, or its supervisor has ended"
    end.

zone(Zone) ->
    case zone_name(Zone) of
        none -> running_zone(Zone);
        Text -> Text
    end.

zone_name(Zone) when is_atom(Zone), Zone =/= undefined -> none;
zone_name(_) -> "not a zone name, which is an atom other than undefined".

running_zone(Zone) ->
    try proctab_nif:count(Zone) of
        _ -> none
    catch
        error:badarg -> "no zone of this name is running"
    end.

cluster_zone(Zone) ->
    case zone(Zone) of
        none -> directory(Zone);
        Text -> Text
    end.

directory(Zone) ->
    try proctab_nif:claims_count(Zone) of
        _ -> none
    catch
        error:badarg -> "the zone was started without the option cluster"
    end.

cluster_name_to_register({Zone, _}) -> cluster_zone(Zone);
cluster_name_to_register(Name) -> via_name(Name).

%% The server of a zone: its name, its tracker, or its name and node.
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
    "no zone of this name is running on that node";
server(Zone) ->
    zone(Zone).

via_name({Zone, _}) when is_atom(Zone) -> none;
via_name(_) -> "not a pair {Zone, Name}".

name_to_register({Zone, _}) -> zone(Zone);
name_to_register(Name) -> via_name(Name).

options(Options) when is_map(Options) ->
    case maps:to_list(maps:without([restart, reports, max_children, index, cluster], Options)) of
        [{Unknown, _} | _] when is_atom(Unknown) -> io_lib:format("unknown option ~tp", [Unknown]);
        [_ | _] -> "an option name that is not an atom";
        [] -> options([restart, reports], Options)
    end;
options(_) ->
    "not a map".

options(Boolean, Options) ->
    Texts = [
        boolean_options(Boolean, Options), max_children(Options), index(Options), cluster(Options)
    ],
    hd([Text || Text <- Texts, Text =/= none] ++ [none]).

boolean_options([Option | Rest], Options) ->
    case maps:get(Option, Options, true) of
        Boolean when is_boolean(Boolean) -> boolean_options(Rest, Options);
        _ -> io_lib:format("the option ~tp is not a boolean", [Option])
    end;
boolean_options([], _) ->
    none.

max_children(#{max_children := Most}) when Most =/= infinity, not is_integer(Most); Most < 0 ->
    "the option max_children is neither a non-negative integer nor infinity";
max_children(_) ->
    none.

index(#{index := Keys}) -> keys(index, Keys);
index(_) -> none.

cluster(#{cluster := Cluster}) when is_map(Cluster) ->
    case maps:to_list(maps:without([copied, conflict, unique], Cluster)) of
        [{Unknown, _} | _] when is_atom(Unknown) ->
            io_lib:format("unknown option ~tp in the option cluster", [Unknown]);
        [_ | _] ->
            "an option name in the option cluster that is not an atom";
        [] ->
            cluster_option(Cluster)
    end;
cluster(#{cluster := Cluster}) when not is_boolean(Cluster) ->
    "the option cluster is neither a boolean nor a map";
cluster(_) ->
    none.

cluster_option(#{conflict := Conflict})
        when not is_tuple(Conflict); tuple_size(Conflict) =/= 2;
             not is_atom(element(1, Conflict)); not is_atom(element(2, Conflict)) ->
    "the option conflict is not {Module, Function}";
cluster_option(#{unique := Unique}) when Unique =/= home, Unique =/= lock ->
    "the option unique is neither home nor lock";
cluster_option(#{copied := Keys}) ->
    keys(copied, Keys);
cluster_option(_) ->
    none.

%% The keys in an option, as `proctab_nif:check_keys/1' wants them.
keys(Option, Keys) ->
    case proper_list(Keys) of
        none ->
            Indexed = [indexed(Key) || Key <- Keys],
            case {length(Keys) > ?MAX_INDEXES, map_size(maps:from_keys(Indexed, []))} of
                {true, _} ->
                    io_lib:format("the option ~s has more than ~b keys", [Option, ?MAX_INDEXES]);
                {false, Different} when Different < length(Keys) ->
                    io_lib:format("the option ~s has the same key twice", [Option]);
                _ ->
                    none
            end;
        _ ->
            io_lib:format("the option ~s is not a proper list", [Option])
    end.

indexed({each, Key}) -> Key;
indexed(Key) -> Key.

child(_, {_, Pid, worker, _}) when not is_pid(Pid) -> "not a pid";
child(Server, {_, Pid, worker, _}) -> not_own(local_zone(Server), Pid);
child(_, {Pid, {_, _, _, _, worker, _}}) when not is_pid(Pid) -> "not a pid";
child(Server, {Pid, {_, _, _, _, worker, _} = Spec}) ->
    case spec(Spec) of
        none -> not_own(local_zone(Server), Pid);
        Text -> Text
    end;
child(_, _) -> "neither {Name, Pid, worker, Modules} nor {Pid, Spec} of a worker".

local_zone(Tracker) when is_pid(Tracker) ->
    hd([Zone || {zone, Zone, Owner} <- proctab_nif:tables(), Owner =:= Tracker] ++ [undefined]);
local_zone({Zone, Node}) when Node =:= node() ->
    Zone;
local_zone(Zone) ->
    Zone.

not_own(Zone, Pid) ->
    try {proctab_nif:owner(Zone), proctab_nif:is_own(Zone, Pid) orelse is_cluster(Zone, Pid)} of
        {Pid, _} -> "the tracker of the zone itself";
        {_, true} -> "a process of the zone itself";
        {_, false} -> none
    catch
        error:badarg -> none
    end.

is_cluster(Zone, Pid) ->
    try proctab_nif:cluster_shared(Zone) of
        {Process, _, _, _} -> Process =:= Pid
    catch
        error:badarg -> false
    end.

spec(Spec) ->
    case gen_tracker_spec:check(Spec) of
        {ok, _, _} ->
            none;
        {error, Reason} when is_tuple(Reason) ->
            %% The rest of the reason contains the bad term. Formatting a huge integer would block a
            %% scheduler for seconds.
            io_lib:format("not a child spec: ~tp", [element(1, Reason)]);
        {error, _} ->
            "not a child spec"
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

%% A default is used only if the attribute is missing.
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

%% Returns whether the name or the key is wrong, with the position.
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

%% If the zone does not run, that is the error.
indexed_key(Zone, Key) ->
    case zone(Zone) of
        none -> index_of(Zone, Key);
        _ -> none
    end.

index_of(Zone, Key) ->
    try proctab_nif:values_page(Zone, Key, ?AFTER_ALL_VALUES, []) of
        {[], done} -> none
    catch
        error:badarg -> "the zone has no index of this key"
    end.

fold_fun(Fun) when is_function(Fun, 3) -> none;
fold_fun(_) -> "not a fun with three arguments".

update_fun(Fun) when is_function(Fun, 1) -> none;
update_fun(_) -> "not a fun with one argument".

%% A match specification that is too large for a table is not compiled here, either.
match_spec(Zone, MatchSpec) ->
    try proctab_nif:find(Zone, MatchSpec) of
        _ when MatchSpec =:= [] -> none;
        _ -> compiled(MatchSpec)
    catch
        error:badarg -> none
    end.

compiled(MatchSpec) ->
    try ets:match_spec_compile(MatchSpec) of
        _ -> none
    catch
        error:badarg -> "not a match specification";
        error:system_limit -> "a match specification that is nested too deeply"
    end.

limit(Most) when is_integer(Most), Most > 0 -> none;
limit(_) -> "not a positive integer".

filter({name, _}) -> none;
filter(_) -> "not {name, Name}".

pid(Pid) when is_pid(Pid) -> none;
pid(_) -> "not a pid".

pid_to_register({Zone, _}, Pid) when is_pid(Pid) -> not_own(Zone, Pid);
pid_to_register(_, Pid) -> pid(Pid).
