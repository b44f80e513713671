%% Makes random histories for `differential`. The same seed gives the same history.
%%
%% A history is a list of operations:
%%
%%     {names, Names}                          gives the names of the children; comes first
%%     {call, Module, Function, Arguments}     calls a function
%%     {ask, Zone, Name, Module, Function, Arguments}
%%                                             calls a function in a process of its own, as the call
%%                                             may wait for the child `Name`
%%     {await_attribute, Zone, Name, Key, Number}
%%                                             waits for an attribute, and increments it
%%     {exit, Zone, Name, Reason}              makes a child exit
%%     {open_gate, Zone, Name}                 lets a callback of a child continue at its gate
%%     {subscribe, Zone}, {unsubscribe, Zone}  for the events of a zone
%%     {start, Zone, Arguments}                calls `start_link`
%%     {stop, Zone, How}                       stops or kills a zone
%%     {while, Cause, Zone, Name, Operations}  performs operations while a child waits for its next
%%                                             start: the cause is a start that has `failed`, or the
%%                                             restart limit (`slowed`)
%%
%% `Module` is `tracker` for the module under test. Arguments and names are expressions, so that a
%% history can be printed, read back and played against two modules. `differential:value/2`
%% evaluates them:
%%
%%     {just, Term}                      the term
%%     {name, N}                         the Nth name of the history
%%     {alike, N}, {kind, N}             a term of `prop_terms:alike/0` or `prop_terms:kinds/0`
%%     {list, Parts}, {improper, Part}   a list, or one that ends in an atom
%%     {tuple, Parts}                    a tuple
%%     {map, Pairs}                      a map; `Pairs` are of keys and expressions
%%     {map_of, Pairs}                   a map; `Pairs` are expressions
%%     {deep, Depth, Part}               the part within so many lists, tuples and maps
%%     {wide, Width, Part}               a tuple that contains the part so many times
%%     {start, Zone, Name, Plan}         a start function; see `differential:start/3`
%%     {tracker, Zone}, {on_node, Zone}  the pid of a tracker, and `{Zone, node()}`
%%     {process, Number}                 a process that is alive, or dead if `Number` is `dead`
-module(differential_history).

-export([history/2]).

%% Shutdown time of a child that is never killed, in milliseconds: ?HANG_TIMEOUT of `differential`.
-define(LONG_SHUTDOWN, 30000).
%% Shutdown time of a child that is always killed, in milliseconds, as in `differential`.
-define(SHORT_SHUTDOWN, 5).

%% Returns a history of so many operations. A few of them are groups of operations that belong
%% together.

history(Seed, Length) ->
    _ = rand:seed(exsss, Seed),
    Names = similar_terms(4),
    Keys = [{just, last}, {just, left} | similar_terms(2)],
    [{names, Names} | lists:append([operations(Keys) || _ <- lists:seq(1, Length)])].

%% Returns terms of `prop_terms:alike/0`, no two of them equal. `0.0` and `-0.0` are equal before
%% OTP 27, and the contract does not say which of two equal names a function returns.
similar_terms(Count) ->
    Numbered = lists:enumerate(0, prop_terms:alike()),
    Shuffled = shuffled(Numbered),
    Different = maps:from_list([{Term, Number} || {Number, Term} <- Shuffled]),
    Chosen = [{alike, N} || {N, Term} <- Shuffled, map_get(Term, Different) =:= N],
    lists:sublist(Chosen, Count).

shuffled(List) ->
    [Element || {_, Element} <- lists:sort([{rand:uniform(), Element} || Element <- List])].

operations(Keys) ->
    case rand:uniform(2500) of
        1 -> delayed_start(zone(), {just, waiting});
        Number when Number =< 50 -> ring(zone());
        _ -> [operation(Keys)]
    end.

%% Starts children whose callbacks make calls for each other, and ends one of them.
ring(Zone) ->
    Shuffled = shuffled([{name, Number} || Number <- lists:seq(1, 4)]),
    [First | Others] = Names = lists:sublist(Shuffled, 1 + rand:uniform(3)),
    [
        {ask, Zone, Name, tracker, find_or_open, [{just, Zone}, ring_spec(Zone, Name, Next)]}
     || {Name, Next} <- lists:zip(Names, Others ++ [First])
    ] ++ [{exit, Zone, pick(Names), pick([normal, crash, kill])}].

ring_spec(Zone, Name, Next) ->
    Way = at_start_or_end(callback_call(Zone, Name, Next, 2)),
    spec_tuple(Name, {start, Zone, Name, [Way]}, restart(), infinity, worker, []).

spec_tuple(Name, Start, Restart, Shutdown, Type, Modules) ->
    Rest = [{just, Term} || Term <- [Restart, Shutdown, Type, Modules]],
    {tuple, [Name, Start | Rest]}.

operation(Keys) ->
    Kinds =
        [attribute, attribute, attribute, read, read, open, open, open, ending, ending, ending] ++
            [otp, via, zone, lifecycle],
    Operation = operation(pick(Kinds), zone(), {name, rand:uniform(4)}, Keys),
    case rand:uniform(15) of
        1 -> corrupted(Operation);
        _ -> Operation
    end.

%% Most operations are on one zone, so that they affect each other.
zone() ->
    pick([differential_a, differential_a, differential_a, differential_b]).

operation(attribute, Zone, Name, Keys) ->
    Z = {just, Zone},
    Key = pick(Keys),
    pick([
        {call, tracker, setattr, [Z, Name, {list, pairs(Zone, Keys)}]},
        {call, tracker, setattr, [Z, Name, {map_of, [{tuple, attribute(Zone, Keys)}]}]},
        {call, tracker, setattr, [Z, Name | attribute(Zone, Keys)]},
        {call, tracker, setattr, [Z, Name, Key, number()]},
        {call, tracker, delattr, [Z, Name, Key]},
        {call, tracker, increment, [Z, Name, Key, number()]},
        {call, tracker, increment, [Z, Name, Key, number(), number()]},
        {call, tracker, cas, [Z, Name, Key, pick([number(), some_value(2)]), some_value(2)]},
        {call, tracker, cas, [Z, Name, Key, {just, 1}, {just, 1}]},
        {await_attribute, Zone, Name, Key, number()}
    ]);
operation(read, Zone, Name, Keys) ->
    Z = {just, Zone},
    pick([
        {call, tracker, find, [Z, Name]},
        {call, tracker, getattr, [Z, Name, pick(Keys)]},
        {call, tracker, getattr, [Z, Name, pick(Keys), {just, pick([0, 0, 1])}]},
        {call, tracker, info, [Z, Name]},
        {call, tracker, info, [Z, Name, {list, subset(Keys)}]},
        {call, tracker, attrs, [Z, Name]},
        {call, tracker, lookup, [Z, pick(Keys), pick([number(), some_value(1)])]},
        {call, tracker, count, [Z, pick(Keys), pick([number(), some_value(1)])]},
        {call, tracker, publish, [Z, pick(Keys), number(), {just, hello}]},
        {call, tracker, values, [Z, pick(Keys)]}
    ]);
operation(open, Zone, Name, _) ->
    Z = {just, Zone},
    Ask = fun(Module, Function, Arguments) ->
        {ask, Zone, Name, Module, Function, Arguments}
    end,
    Message = fun(Kind, Part) -> [Z, {tuple, [{just, Kind}, Part]}, {just, infinity}] end,
    pick([
        Ask(tracker, find_or_open, [Z, spec(Zone, Name)]),
        Ask(tracker, find_or_open, [Z, spec(Zone, Name)]),
        Ask(tracker, find_or_open, [Z, spec(Zone, Name)]),
        Ask(tracker, find_or_open, [Z, spec(Zone, Name)]),
        Ask(supervisor, start_child, [Z, full_spec(Zone, Name, 2)]),
        Ask(supervisor, start_child, [Z, full_spec(Zone, Name, 2)]),
        Ask(tracker, add_existing_child, [Z, existing(Zone, Name)]),
        Ask(tracker, add_existing_child, [tracker_of(Zone), existing(Zone, Name)]),
        %% The messages of the original gen_tracker.
        Ask(gen_server, call, Message(find_or_open, spec(Zone, Name))),
        Ask(gen_server, call, Message(add_existing_child, existing(Zone, Name)))
    ]);
operation(ending, Zone, Name, _) ->
    End = pick([terminate_child, delete_child]),
    pick([
        {exit, Zone, Name, pick([normal, shutdown, {shutdown, away}, crash, {crash, deep}, kill])},
        {exit, Zone, pick([Name, {tuple, [{just, alias}, Name]}]), kill},
        {open_gate, Zone, Name},
        {open_gate, Zone, Name},
        {ask, Zone, Name, supervisor, End, [{just, Zone}, Name]}
    ]);
operation(otp, Zone, Name, _) ->
    Z = {just, Zone},
    Unknown = pick([{just, {no, such, call}}, {just, 1}, {tuple, [{just, setattr}, Name]}]),
    pick([
        {call, supervisor, which_children, [Z]},
        {call, supervisor, count_children, [Z]},
        {call, supervisor, get_childspec, [Z, Name]},
        {call, supervisor, restart_child, [Z, Name]},
        {call, gen_server, call, [Z, Unknown]},
        {call, gen_server, cast, [Z, {just, {no, such, cast}}]},
        {call, erlang, send, [Z, {just, {no, such, message}}]}
    ]);
operation(via, Zone, Name, _) ->
    Via = {tuple, [{just, Zone}, pick([Name, Name, {tuple, [{just, alias}, Name]}])]},
    Itself = {tuple, [{just, Zone}, Name]},
    pick([
        {ask, Zone, Name, tracker, register_name, [Itself, process()]},
        {call, tracker, unregister_name, [Via]},
        {call, tracker, whereis_name, [Via]},
        {call, tracker, send, [Via, {just, hello}]}
    ]);
operation(zone, Zone, _, Keys) ->
    Z = {just, Zone},
    pick([
        {call, tracker, list, [Z]},
        {call, tracker, list, [Z, {list, subset(Keys)}]},
        {call, tracker, count, [Z]},
        {call, tracker, names, [Z]},
        {call, tracker, which_children, [Z]},
        {call, tracker, wait, [pick([Z, tracker_of(Zone)])]},
        {call, tracker, fold, [{just, fun maps:put/3}, {map, []}, Z]}
    ]);
operation(lifecycle, Zone, _, Keys) ->
    case rand:uniform(12) of
        1 -> {stop, Zone, pick([stop, shutdown, gen_server, exit, kill])};
        2 -> {unsubscribe, Zone};
        Number when Number =< 5 -> {subscribe, Zone};
        _ -> {start, Zone, [{just, Zone} | options(Keys)]}
    end.

tracker_of(Zone) ->
    pick([{tracker, Zone}, {on_node, Zone}]).

options(Keys) ->
    Index = {list, [pick([Key, {tuple, [{just, each}, Key]}]) || Key <- subset(Keys)]},
    pick([
        [{map, [{index, Index}]}],
        [{map, [{index, Index}]}],
        [{map, [{index, Index}]}],
        [],
        [{map, []}],
        [{map, [{restart, {just, pick([true, false])}}]}],
        [{map, [{reports, {just, pick([true, false])}}]}]
    ]).

%% Makes calls for the name of a child that waits for its next start, and terminates the child.
delayed_start(Zone, Name) ->
    Z = {just, Zone},
    Ask = fun(Module, Function, Arguments) ->
        {ask, Zone, Name, Module, Function, Arguments}
    end,
    Calls = [
        fun() -> Ask(supervisor, start_child, [Z, full_spec(Zone, Name, 0)]) end,
        fun() -> Ask(tracker, add_existing_child, [Z, existing(Zone, Name)]) end,
        fun() -> Ask(tracker, register_name, [{tuple, [Z, Name]}, process()]) end,
        fun() -> {call, supervisor, restart_child, [Z, Name]} end,
        fun() -> {call, supervisor, get_childspec, [Z, Name]} end,
        fun() -> {call, supervisor, count_children, [Z]} end,
        fun() -> {call, tracker, setattr, [Z, Name, {just, key}, {just, value}]} end
    ],
    %% After one of these calls the child may have stopped waiting.
    LastCalls = [
        Ask(tracker, find_or_open, [Z, full_spec(Zone, Name, 0)]),
        Ask(supervisor, terminate_child, [Z, Name]),
        {call, tracker, find, [Z, Name]}
    ],
    Chosen = [(pick(Calls))() || _ <- lists:seq(1, rand:uniform(3))] ++ [pick(LastCalls)],
    [
        {while, pick([slowed, failed]), Zone, Name, Chosen},
        Ask(supervisor, terminate_child, [Z, Name]),
        {open_gate, Zone, Name}
    ].

pairs(Zone, Keys) ->
    NoPair = {just, pick([no_pair, {1}, {1, 2, 3}])},
    Pair = fun() -> {tuple, attribute(Zone, Keys)} end,
    [pick([Pair(), Pair(), Pair(), NoPair]) || _ <- lists:seq(1, rand:uniform(4) - 1)].

%% Returns a key and a value. The value of `last` tells `differential:after_terminate/3` what to do.
attribute(Zone, Keys) ->
    case pick(Keys) of
        {just, last} ->
            [{just, last}, {just, pick([{gate, Zone}, {gate, Zone}, crash, nothing])}];
        Key ->
            [Key, pick([number(), some_value(3)])]
    end.

number() ->
    Small = [0, 1, 1, -1, 7],
    Large = [1 bsl 58, -(1 bsl 59), 1 bsl 62, -(1 bsl 63), 1 bsl 64, 1 bsl 200, -(1 bsl 200)],
    {just, pick(Small ++ Large ++ [rand:uniform(1 bsl 64)])}.

some_value(0) ->
    pick([number(), {alike, rand:uniform(1000)}, {kind, rand:uniform(1000)}]);
some_value(Depth) ->
    Inner = fun() -> some_value(Depth - 1) end,
    case rand:uniform(12) of
        1 -> {list, [Inner() || _ <- lists:seq(1, rand:uniform(3))]};
        2 -> {tuple, [Inner() || _ <- lists:seq(1, rand:uniform(3))]};
        3 -> {improper, Inner()};
        4 -> {map, [{Key, Inner()} || Key <- subset([1, 1.0, a, <<"a">>])]};
        5 -> {deep, rand:uniform(100), some_value(0)};
        6 -> {wide, rand:uniform(300), number()};
        _ -> some_value(0)
    end.

spec(Zone, Name) ->
    case rand:uniform(3) of
        1 ->
            %% If one of these starts is terminated, it takes the whole shutdown time of a triple.
            Slow = pick([[], [gated, flushing, call], [gated, flushing, call]]),
            {Plan, _, _} = plan([stubborn, trapping | Slow], Zone, Name, 2),
            {tuple, [Name, {start, Zone, Name, Plan}, {just, restart()}]};
        _ ->
            full_spec(Zone, Name, 2)
    end.

full_spec(Zone, Name, Depth) ->
    {Plan, Restart, Shutdown} = plan([pick([stubborn, registered])], Zone, Name, Depth),
    Start = {start, Zone, Name, Plan},
    Type = pick([worker, worker, supervisor]),
    Modules = pick([[], [differential], dynamic]),
    Rest = [{restart, {just, Restart}}, {type, {just, Type}}, {modules, {just, Modules}}],
    case rand:uniform(2) of
        1 ->
            spec_tuple(Name, Start, Restart, Shutdown, Type, Modules);
        2 when Shutdown =:= ?LONG_SHUTDOWN ->
            {map, [{id, Name}, {start, Start} | subset(Rest)]};
        2 ->
            {map, [{id, Name}, {start, Start}, {shutdown, {just, Shutdown}} | subset(Rest)]}
    end.

restart() ->
    pick([permanent, transient, temporary, temporary]).

%% Returns ways to start, for the plan of a start function, and a restart type and a shutdown time
%% that suit them. The answers and exit reasons must not depend on who is faster:
%%
%% - A stubborn child must be killed, so its shutdown time is short or `brutal_kill`.
%% - A child that traps exits needs time to handle the exit signal, so it is never killed.
%% - A process with two names gets an exit signal for each of them, and both must be the same, so
%%   its shutdown time is `infinity`.
%% - A start that calls its zone needs time for the call after its child was terminated.
plan(Excluded, Zone, Name, Depth) ->
    Ways =
        [plain, plain, plain, plain, plain, plain, info, early, acknowledged] ++
            [registered, registered, gated, gated, gated, trapping, stubborn] ++
            [untrapping, unlinking, flushing, helped, dead, lasting, lasting],
    Failures = [ignore, error, throw, exit, return, return, init],
    Calls = [call || Depth > 0, _ <- lists:seq(1, 8)],
    Allowed = [Way || Way <- Ways ++ Failures ++ Calls, not lists:member(Way, Excluded)],
    Last = pick([plain, gated] -- Excluded),
    Chosen = [pick(Allowed) || _ <- lists:seq(1, rand:uniform(3))] ++ [Last],
    Has = fun(Way) -> lists:member(Way, Chosen) end,
    Plan = [with_call(Way, Has(dead), Zone, Name, Depth) || Way <- Chosen],
    Shutdown =
        case {Has(stubborn), Has(registered), Has(call)} of
            {true, _, false} -> pick([brutal_kill, ?SHORT_SHUTDOWN]);
            {_, true, _} -> infinity;
            {_, _, true} -> pick([infinity, ?LONG_SHUTDOWN]);
            {_, _, _} -> pick([brutal_kill, infinity, ?LONG_SHUTDOWN])
        end,
    {[suitable(Way, Shutdown) || Way <- Plan], restart(), Shutdown}.

suitable(trapping, ?SHORT_SHUTDOWN) -> stubborn;
suitable(stubborn, Shutdown) when Shutdown =/= brutal_kill, Shutdown =/= ?SHORT_SHUTDOWN -> plain;
suitable(Way, _) -> Way.

%% Replaces `call` by a call of a callback. If a start of the plan returns a dead process, the child
%% is restarted while the caller of the first start continues. A call in the restart would race with
%% the caller, so such children make calls only when they end.
with_call(call, true, Zone, Name, Depth) ->
    {ends_with, callback_call(Zone, Name, Depth - 1)};
with_call(call, false, Zone, Name, Depth) ->
    at_start_or_end(callback_call(Zone, Name, Depth - 1));
with_call(Way, _, _, _, _) ->
    Way.

%% A start function that waits for an attribute might never return.
at_start_or_end({_, tracker, getattr, _} = Call) -> {ends_with, Call};
at_start_or_end(Call) -> {pick([starts_with, ends_with, ends_with]), Call}.

%% Returns a call for a callback: `{Target, Module, Function, Arguments}`. The target is the name of
%% the child itself, or another name.
callback_call(Zone, Own, Depth) ->
    Name = pick([Own, {name, rand:uniform(4)}, {name, rand:uniform(4)}, {name, rand:uniform(4)}]),
    callback_call(Zone, Own, Name, Depth).

callback_call(Zone, Own, Name, Depth) ->
    Z = {just, Zone},
    Via = {tuple, [Z, Name]},
    pick([
        {Name, tracker, find_or_open, [Z, full_spec(Zone, Name, Depth)]},
        {Name, tracker, find_or_open, [Z, full_spec(Zone, Name, Depth)]},
        {Name, supervisor, start_child, [Z, full_spec(Zone, Name, Depth)]},
        {Name, supervisor, terminate_child, [Z, Name]},
        {Name, supervisor, terminate_child, [Z, Name]},
        {Name, supervisor, delete_child, [Z, Name]},
        {Name, tracker, register_name, [Via, {just, fresh}]},
        {Name, tracker, unregister_name, [Via]},
        {Own, tracker, setattr, [Z, Own, {just, left}, {just, over}]},
        {Own, tracker, increment, [Z, Own, {just, left}, {just, 1}, {just, 0}]},
        {Own, tracker, getattr, [Z, Own, {just, missing}, {just, infinity}]}
    ]).

existing(Zone, Name) ->
    Modules = pick([[], [differential], dynamic]),
    case rand:uniform(2) of
        1 ->
            Any = pick([[], [differential], dynamic, any, <<"any">>, [wrong | improper]]),
            {tuple, [Name, process(Zone), {just, worker}, {just, Any}]};
        2 ->
            Start = {start, Zone, Name, [plain]},
            Spec = spec_tuple(Name, Start, restart(), infinity, worker, Modules),
            {tuple, [process(Zone), Spec]}
    end.

process() ->
    {process, pick([1, 2, 3, 4, 5, dead])}.

process(Zone) ->
    pick([process(), process(), process(), process(), process(), {tracker, Zone}]).

%% Replaces or removes a term in the arguments of an operation. They may still be correct.
corrupted({call, Module, Function, Arguments}) when Module =:= tracker; Module =:= supervisor ->
    {call, Module, Function, corrupted_one(Arguments)};
corrupted({ask, Zone, Name, Module, Function, Arguments}) when Module =/= gen_server ->
    {ask, Zone, Name, Module, Function, corrupted_one(Arguments)};
corrupted({start, Zone, [Argument]}) ->
    {start, Zone, [Argument, wrong()]};
corrupted({start, Zone, [Argument, Options]}) ->
    {start, Zone, pick([[no_zone(), Options], [Argument, wrong()]])};
corrupted(Operation) ->
    Operation.

corrupted_one(Parts) ->
    {Before, [Part | Rest]} = lists:split(rand:uniform(length(Parts)) - 1, Parts),
    Before ++ [corrupted_part(Part) | Rest].

corrupted_part({Kind, [_ | _] = Parts} = Whole) when Kind =:= tuple; Kind =:= list ->
    Corrupted = {Kind, corrupted_one(Parts)},
    pick([wrong(), {improper, Whole}, Corrupted, Corrupted, {Kind, tl(Parts)}]);
corrupted_part({map, [_ | _] = Pairs}) ->
    {Before, [{Key, Part} | Rest]} = lists:split(rand:uniform(length(Pairs)) - 1, Pairs),
    Less =
        case {Key, Part} of
            %% Without it, a stubborn child would be killed after the default of five seconds.
            {shutdown, {just, Time}} when Time =/= infinity -> [{Key, Part} | Rest];
            _ -> Rest
        end,
    {map, Before ++ pick([[{Key, corrupted_part(Part)} | Rest], Less])};
%% A wrong name would be the name of another child, for which the player does not wait.
corrupted_part({name, _} = Name) ->
    Name;
corrupted_part(_) ->
    wrong().

no_zone() ->
    {just, pick([undefined, "wrong", <<"wrong">>, -1, {wrong}])}.

wrong() ->
    Simple = [not_running, undefined, "wrong", <<"wrong">>, -1, -1.5, -(1 bsl 70)],
    Compound = [{wrong}, [wrong | improper], #{wrong => wrong}, fun erlang:abs/1],
    {just, pick(Simple ++ Compound)}.

pick(List) ->
    lists:nth(rand:uniform(length(List)), List).

subset(List) ->
    [Element || Element <- List, rand:uniform(2) =:= 1].
