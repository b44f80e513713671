%% Promise: gen_tracker answers as its contract says, whatever came before. In long random
%% histories, with starts that fail, children that crash and wrong arguments among them, each
%% answer, error, event and call of `after_terminate` is that of `reference_tracker`, and so is all
%% that can be read in between.
-module(differential_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 10}}].

all() ->
    [gen_tracker_answers_as_its_contract, a_module_that_differs_is_found_by_a_short_history].

gen_tracker_answers_as_its_contract(_) ->
    lists:foreach(
        fun(Seed) ->
            case differential:round(Seed) of
                {ok, Figures} -> ct:pal("differential:round(~b): ~0p", [Seed, Figures]);
                {failed, History} ->
                    Difference = differential:difference(gen_tracker, History),
                    Format = "differential:round(~b)~ndifferential:replay(~p)~n~p",
                    ct:fail(Format, [Seed, History, Difference])
            end
        end,
        [rand:uniform(1 bsl 32) || _ <- lists:seq(1, 3)]
    ).

%% Or agreement would say nothing.
a_module_that_differs_is_found_by_a_short_history(_) ->
    {module, forgetful} = forgetful(),
    Histories = [differential_history:history(Seed, 60) || Seed <- lists:seq(1, 200)],
    Agrees = fun(History) -> differential:difference(forgetful, History) =:= none end,
    [Found | _] = lists:dropwhile(Agrees, Histories),
    Short = differential:shrunk(forgetful, Found),
    ?assertNotEqual(none, differential:difference(forgetful, Short)),
    %% The names, what sets an attribute, and what deletes it.
    ?assertMatch({call, tracker, delattr, _}, lists:last(Short)),
    ?assert(length(Short) =< 5),
    true = code:delete(forgetful).

%% A gen_tracker whose delattr deletes nothing.
forgetful() ->
    Functions = gen_tracker:module_info(exports) -- [{module_info, 0}, {module_info, 1}],
    Module = [{attribute, 1, module, forgetful}, {attribute, 1, export, Functions}],
    Forms = Module ++ [forgetful(Function, Arity) || {Function, Arity} <- Functions],
    {ok, forgetful, Binary} = compile:forms(Forms, []),
    code:load_binary(forgetful, "forgetful", Binary).

forgetful(Function, Arity) ->
    Names = ["Argument" ++ integer_to_list(Number) || Number <- lists:seq(1, Arity)],
    Arguments = [{var, 1, list_to_atom(Name)} || Name <- Names],
    {function, 1, Function, Arity, [{clause, 1, Arguments, [], body(Function, Arguments)}]}.

body(delattr, Arguments) -> [call(getattr, Arguments), {atom, 1, ok}];
body(Function, Arguments) -> [call(Function, Arguments)].

call(Function, Arguments) ->
    {call, 1, {remote, 1, {atom, 1, gen_tracker}, {atom, 1, Function}}, Arguments}.
