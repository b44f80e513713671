%% Loads a module of the library while processes are in its code.
%%
%% Every second time it is the same code compiled without line numbers. For OTP before 26 may die
%% with a segmentation fault when the very code is loaded that is loaded already: the funs that
%% processes have then lead into the new code before it is complete (OTP-18016).
-module(reloading).

-export([load/1, load_softly/1]).

-import(tracked_process, [eventually/1]).

%% Kills the processes that are still in the code before.
load(Module) ->
    _ = code:purge(Module),
    {module, Module} = code:load_binary(Module, code:which(Module), other_code(Module)),
    ok.

%% Waits for them.
load_softly(Module) ->
    eventually(fun() -> code:soft_purge(Module) end),
    load(Module).

other_code(Module) ->
    {Module, Code, _} = code:get_object_code(Module),
    case {beam_lib:md5(Code), Module:module_info(md5)} of
        {{ok, {Module, Loaded}}, Loaded} -> without_lines(Module, Code);
        _ -> Code
    end.

%% Compiled once.
without_lines(Module, Code) ->
    Key = {?MODULE, Module},
    case persistent_term:get(Key, none) of
        none ->
            {
                ok,
                {Module, [{abstract_code, {raw_abstract_v1, Forms}}]}
            } = beam_lib:chunks(Code, [abstract_code]),
            {ok, Module, Other} = compile:forms(Forms, [no_line_info]),
            persistent_term:put(Key, Other),
            Other;
        Other ->
            Other
    end.
