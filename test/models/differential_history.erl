%% Random histories for `differential`: lists of operations whose arguments are expressions, so that
%% they can be printed. The same seed gives the same history.
-module(differential_history).

-export([history/2]).

%% As in `differential`: nothing takes so long unless it hangs; and what is killed very soon.
-define(HANGS, 30000).
-define(SHORT, 5).

history(Seed, Length) ->
    _ = rand:seed(exsss, Seed),
    Names = some_alike(4),
    Keys = [{just, last}, {just, left} | some_alike(2)],
    [{names, Names} | lists:append([operations(Keys) || _ <- lists:seq(1, Length)])].

%% Some of the terms that are alike, no two of them equal. (Whether `0.0` or `-0.0` comes back as
%% the name of a child is nowhere said, as long as they are the same.)
some_alike(Count) ->
    Numbered = lists:enumerate(0, prop_terms:alike()),
    Shuffled = [One || {_, One} <- lists:sort([{rand:uniform(), One} || One <- Numbered])],
    Different = maps:from_list([{Term, Number} || {Number, Term} <- Shuffled]),
    Chosen = [{alike, N} || {N, Term} <- Shuffled, map_get(Term, Different) =:= N],
    lists:sublist(Chosen, Count).

operations(Keys) ->
    case rand:uniform(2500) of
        1 -> waiting(zone(), {just, waiting});
        Number when Number =< 50 -> ring(zone());
        _ -> [operation(Keys)]
    end.

%% Children whose callbacks ask for each other, and the end of one of them.
ring(Zone) ->
    Shuffled = lists:sort([{rand:uniform(), {name, Number}} || Number <- lists:seq(1, 4)]),
    [First | Others] = Names = lists:sublist([Name || {_, Name} <- Shuffled], 1 + rand:uniform(3)),
    [
        {ask, Zone, Name, tracker, find_or_open, [{just, Zone}, link(Zone, Name, Next)]}
     || {Name, Next} <- lists:zip(Names, Others ++ [First])
    ] ++ [{exit, Zone, pick(Names), pick([normal, crash, kill])}].

link(Zone, Name, Next) ->
    Way = begun_or_ended(request(Zone, Name, Next, 2)),
    Restart = {just, restart()},
    {tuple, [Name, {start, Zone, Name, [Way]}, Restart, {just, infinity}, {just, worker},
             {just, []}]}.

operation(Keys) ->
    Kind = pick([attribute, attribute, attribute, read, read, open, open, open, ending, ending,
                 ending, otp, via, whole, rest]),
    Operation = operation(Kind, zone(), {name, rand:uniform(4)}, Keys),
    case rand:uniform(15) of
        1 -> spoilt(Operation);
        _ -> Operation
    end.

%% Most in one zone, so that operations meet.
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
        {call, tracker, info, [Z, Name, {list, some(Keys)}]},
        {call, tracker, attrs, [Z, Name]}
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
        %% What the original sends.
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
operation(whole, Zone, _, Keys) ->
    Z = {just, Zone},
    pick([
        {call, tracker, list, [Z]},
        {call, tracker, list, [Z, {list, some(Keys)}]},
        {call, tracker, count, [Z]},
        {call, tracker, names, [Z]},
        {call, tracker, which_children, [Z]},
        {call, tracker, wait, [pick([Z, tracker_of(Zone)])]},
        {call, tracker, fold, [{just, fun maps:put/3}, {map, []}, Z]}
    ]);
operation(rest, Zone, _, _) ->
    case rand:uniform(12) of
        1 -> {stop, Zone, pick([stop, shutdown, gen_server, exit, kill])};
        2 -> {unsubscribe, Zone};
        Number when Number =< 5 -> {subscribe, Zone};
        _ -> {start, Zone, [{just, Zone} | options()]}
    end.

tracker_of(Zone) ->
    pick([{tracker, Zone}, {on_node, Zone}]).

options() ->
    pick([[], [{map, []}], [{map, [{restart, {just, pick([true, false])}}]}],
          [{map, [{reports, {just, pick([true, false])}}]}]]).

%% What is asked for the name of a child that waits for its next start; then its end.
waiting(Zone, Name) ->
    Z = {just, Zone},
    Ask = fun(Module, Function, Arguments) ->
        {ask, Zone, Name, Module, Function, Arguments}
    end,
    Few = [
        fun() -> Ask(supervisor, start_child, [Z, full_spec(Zone, Name, 0)]) end,
        fun() -> Ask(tracker, add_existing_child, [Z, existing(Zone, Name)]) end,
        fun() -> Ask(tracker, register_name, [{tuple, [Z, Name]}, process()]) end,
        fun() -> {call, supervisor, restart_child, [Z, Name]} end,
        fun() -> {call, supervisor, get_childspec, [Z, Name]} end,
        fun() -> {call, supervisor, count_children, [Z]} end,
        fun() -> {call, tracker, setattr, [Z, Name, {just, key}, {just, value}]} end
    ],
    %% After one of these the child may not wait any more.
    Last = [
        Ask(tracker, find_or_open, [Z, full_spec(Zone, Name, 0)]),
        Ask(supervisor, terminate_child, [Z, Name]),
        {call, tracker, find, [Z, Name]}
    ],
    Some = [(pick(Few))() || _ <- lists:seq(1, rand:uniform(3))] ++ [pick(Last)],
    [
        {while, pick([slowed, failed]), Zone, Name, Some},
        Ask(supervisor, terminate_child, [Z, Name]),
        {open_gate, Zone, Name}
    ].

pairs(Zone, Keys) ->
    NoPair = {just, pick([no_pair, {1}, {1, 2, 3}])},
    Pair = fun() -> {tuple, attribute(Zone, Keys)} end,
    [pick([Pair(), Pair(), Pair(), NoPair]) || _ <- lists:seq(1, rand:uniform(4) - 1)].

%% What comes under the key `last` has a meaning; see `after_terminate/3`.
attribute(Zone, Keys) ->
    case pick(Keys) of
        {just, last} ->
            [{just, last}, {just, pick([{gate, Zone}, {gate, Zone}, crash, nothing])}];
        Key ->
            [Key, pick([number(), some_value(3)])]
    end.

number() ->
    Numbers = [0, 1, 1, -1, 7, 1 bsl 58, -(1 bsl 59), 1 bsl 62, -(1 bsl 63), 1 bsl 64, 1 bsl 200,
               -(1 bsl 200), rand:uniform(1 bsl 64)],
    {just, pick(Numbers)}.

some_value(0) ->
    pick([number(), {alike, rand:uniform(1000)}, {kind, rand:uniform(1000)}]);
some_value(Depth) ->
    Inner = fun() -> some_value(Depth - 1) end,
    case rand:uniform(12) of
        1 -> {list, [Inner() || _ <- lists:seq(1, rand:uniform(3))]};
        2 -> {tuple, [Inner() || _ <- lists:seq(1, rand:uniform(3))]};
        3 -> {improper, Inner()};
        4 -> {map, [{Key, Inner()} || Key <- some([1, 1.0, a, <<"a">>])]};
        5 -> {deep, rand:uniform(100), some_value(0)};
        6 -> {wide, rand:uniform(300), number()};
        _ -> some_value(0)
    end.

spec(Zone, Name) ->
    case rand:uniform(3) of
        1 ->
            %% What lasts while it is to end takes until the shutdown time of a triple is over.
            Lasting = pick([[], [gated, flushing, call], [gated, flushing, call]]),
            {Plan, _, _} = plan([stubborn, trapping | Lasting], Zone, Name, 2),
            {tuple, [Name, {start, Zone, Name, Plan}, {just, restart()}]};
        _ ->
            full_spec(Zone, Name, 2)
    end.

full_spec(Zone, Name, Depth) ->
    {Plan, Restart, Shutdown} = plan([pick([stubborn, registered])], Zone, Name, Depth),
    Start = {start, Zone, Name, Plan},
    Type = {just, pick([worker, worker, supervisor])},
    Modules = {just, pick([[], [differential], dynamic])},
    Rest = [{restart, {just, Restart}}, {type, Type}, {modules, Modules}],
    case rand:uniform(2) of
        1 -> {tuple, [Name, Start, {just, Restart}, {just, Shutdown}, Type, Modules]};
        2 when Shutdown =:= ?HANGS -> {map, [{id, Name}, {start, Start} | some(Rest)]};
        2 -> {map, [{id, Name}, {start, Start}, {shutdown, {just, Shutdown}} | some(Rest)]}
    end.

restart() ->
    pick([permanent, transient, temporary, temporary]).

%% A stubborn child has to be killed in the end, soon. The others have all the time that they may
%% need: one that traps exits might be killed before it has read anything. A process under two names
%% is told to end by both, in the same way. A start that calls its zone has the time to do so while
%% it is to stop.
plan(Without, Zone, Name, Depth) ->
    Ways = [plain, plain, plain, plain, plain, plain, info, early, acknowledged, registered,
            registered, gated, gated, gated, trapping, stubborn,
            untrapping, unlinking, flushing, helped, dead, lasting, lasting],
    Failures = [ignore, error, throw, exit, return, return, init],
    Calls = [call || Depth > 0, _ <- lists:seq(1, 8)],
    Allowed = [Way || Way <- Ways ++ Failures ++ Calls, not lists:member(Way, Without)],
    Last = pick([plain, gated] -- Without),
    Chosen = [pick(Allowed) || _ <- lists:seq(1, rand:uniform(3))] ++ [Last],
    Has = fun(Way) -> lists:member(Way, Chosen) end,
    Plan = [with_call(Way, Has(dead), Zone, Name, Depth) || Way <- Chosen],
    Shutdown =
        case {Has(stubborn), Has(registered), Has(call)} of
            {true, _, false} -> pick([brutal_kill, ?SHORT]);
            {_, true, _} -> infinity;
            {_, _, true} -> pick([infinity, ?HANGS]);
            {_, _, _} -> pick([brutal_kill, infinity, ?HANGS])
        end,
    {[fitting(Way, Shutdown) || Way <- Plan], restart(), Shutdown}.

fitting(trapping, ?SHORT) -> stubborn;
fitting(stubborn, Shutdown) when Shutdown =/= brutal_kill, Shutdown =/= ?SHORT -> plain;
fitting(Way, _) -> Way.

%% A child that is started again at once calls nobody in that start: whoever has started it goes on
%% at the same time.
with_call(call, true, Zone, Name, Depth) ->
    {ends_with, request(Zone, Name, Depth - 1)};
with_call(call, false, Zone, Name, Depth) ->
    begun_or_ended(request(Zone, Name, Depth - 1));
with_call(Way, _, _, _, _) ->
    Way.

%% A start may wait for an attribute for ever.
begun_or_ended({_, tracker, getattr, _} = Call) -> {ends_with, Call};
begun_or_ended(Call) -> {pick([starts_with, ends_with, ends_with]), Call}.

%% What a callback asks its zone: for its own name, or for another one.
request(Zone, Own, Depth) ->
    Name = pick([Own, {name, rand:uniform(4)}, {name, rand:uniform(4)}, {name, rand:uniform(4)}]),
    request(Zone, Own, Name, Depth).

request(Zone, Own, Name, Depth) ->
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
    Modules = {just, pick([[], [differential], dynamic])},
    case rand:uniform(2) of
        1 ->
            Any = {just, pick([[], [differential], dynamic, any, <<"any">>, [wrong | improper]])},
            {tuple, [Name, process(Zone), {just, worker}, Any]};
        2 ->
            Start = {start, Zone, Name, [plain]},
            Spec = [Name, Start, {just, restart()}, {just, infinity}, {just, worker}, Modules],
            {tuple, [process(Zone), {tuple, Spec}]}
    end.

process() ->
    {process, pick([1, 2, 3, 4, 5, dead])}.

process(Zone) ->
    pick([process(), process(), process(), process(), process(), {tracker, Zone}]).

%% The same with a wrong term somewhere in its arguments, or one that is good all the same.
spoilt({call, Module, Function, Arguments}) when Module =:= tracker; Module =:= supervisor ->
    {call, Module, Function, spoilt_one(Arguments)};
spoilt({ask, Zone, Name, Module, Function, Arguments}) when Module =/= gen_server ->
    {ask, Zone, Name, Module, Function, spoilt_one(Arguments)};
spoilt({start, Zone, [Argument]}) ->
    {start, Zone, [Argument, wrong()]};
spoilt({start, Zone, [Argument, Options]}) ->
    {start, Zone, pick([[no_zone(), Options], [Argument, wrong()]])};
spoilt(Operation) ->
    Operation.

spoilt_one(Parts) ->
    {Before, [Part | Rest]} = lists:split(rand:uniform(length(Parts)) - 1, Parts),
    Before ++ [spoilt_part(Part) | Rest].

spoilt_part({Kind, [_ | _] = Parts} = Whole) when Kind =:= tuple; Kind =:= list ->
    Spoilt = {Kind, spoilt_one(Parts)},
    pick([wrong(), {improper, Whole}, Spoilt, Spoilt, {Kind, tl(Parts)}]);
spoilt_part({map, [_ | _] = Pairs}) ->
    {Before, [{Key, Part} | Rest]} = lists:split(rand:uniform(length(Pairs)) - 1, Pairs),
    Less =
        case {Key, Part} of
            %% A stubborn child would be given five seconds.
            {shutdown, {just, Short}} when Short =/= infinity -> [{Key, Part} | Rest];
            _ -> Rest
        end,
    {map, Before ++ pick([[{Key, spoilt_part(Part)} | Rest], Less])};
%% A wrong name is another name, whose child nobody would wait for.
spoilt_part({name, _} = Name) ->
    Name;
spoilt_part(_) ->
    wrong().

no_zone() ->
    {just, pick([undefined, "wrong", <<"wrong">>, -1, {wrong}])}.

wrong() ->
    Terms = [not_running, undefined, "wrong", <<"wrong">>, -1, -1.5, -(1 bsl 70), {wrong},
             [wrong | improper], #{wrong => wrong}, fun erlang:abs/1],
    {just, pick(Terms)}.

pick(List) ->
    lists:nth(rand:uniform(length(List)), List).

some(List) ->
    [Element || Element <- List, rand:uniform(2) =:= 1].
