%% Promise: gen_tracker behaves as its contract says after any history of operations.
%%
%% `differential` plays long random histories against gen_tracker and against `reference_tracker`,
%% with failing starts, crashing children and wrong arguments. Each answer, error, event, readable
%% state and call of `after_terminate` must be equal.
-module(differential_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 10}}].

all() ->
    [
        gen_tracker_behaves_like_the_reference,
        a_module_that_differs_is_found_and_its_history_shortened
    ].

gen_tracker_behaves_like_the_reference(_) ->
    Seed = rand:uniform(1 bsl 32),
    case differential:round(Seed) of
        {ok, Figures} ->
            ct:pal("differential:round(~b): ~0p", [Seed, Figures]);
        {failed, History} ->
            Difference = differential:difference(gen_tracker, History),
            Format = "differential:round(~b)~ndifferential:replay(~p)~n~p",
            ct:fail(Format, [Seed, History, Difference])
    end.

%% Without this case, a comparison that never finds anything would pass the case above.
a_module_that_differs_is_found_and_its_history_shortened(_) ->
    {module, forgetful} = load_forgetful(),
    Histories = [differential_history:history(Seed, 60) || Seed <- lists:seq(1, 200)],
    Agrees = fun(History) -> differential:difference(forgetful, History) =:= none end,
    [Found | _] = lists:dropwhile(Agrees, Histories),
    Short = differential:shrunk(forgetful, Found),
    ?assertNotEqual(none, differential:difference(forgetful, Short)),
    %% The shortest such history gives the names, sets an attribute and deletes it.
    ?assertMatch({call, tracker, delattr, _}, lists:last(Short)),
    ?assert(length(Short) =< 5),
    true = code:delete(forgetful),
    code:purge(forgetful).

%% Loads the module `forgetful`: gen_tracker with a `delattr/3` that deletes nothing.
load_forgetful() ->
    Functions = gen_tracker:module_info(exports) -- [{module_info, 0}, {module_info, 1}],
    Module = [{attribute, 1, module, forgetful}, {attribute, 1, export, Functions}],
    Forms = Module ++ [function(Function, Arity) || {Function, Arity} <- Functions],
    {ok, forgetful, Binary} = compile:forms(Forms, []),
    code:load_binary(forgetful, "forgetful", Binary).

function(Function, Arity) ->
    Names = ["Argument" ++ integer_to_list(Number) || Number <- lists:seq(1, Arity)],
    Arguments = [{var, 1, list_to_atom(Name)} || Name <- Names],
    {function, 1, Function, Arity, [{clause, 1, Arguments, [], body(Function, Arguments)}]}.

body(delattr, Arguments) -> [call(getattr, Arguments), {atom, 1, ok}];
body(Function, Arguments) -> [call(Function, Arguments)].

call(Function, Arguments) ->
    {call, 1, {remote, 1, {atom, 1, gen_tracker}, {atom, 1, Function}}, Arguments}.
