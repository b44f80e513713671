%% Loads a module of the library while processes run its code.
%%
%% Every other load takes the same code compiled without line numbers: OTP before 26 may end with a
%% segmentation fault when the loaded code is loaded once more, because funs of processes lead into
%% the new code before it is complete (OTP-18016).
-module(reloading).

-export([load/1, load_softly/1]).

-import(tracked_process, [eventually/1]).

%% Loads a module. Kills the processes that still run its old code.
load(Module) ->
    _ = code:purge(Module),
    {module, Module} = code:load_binary(Module, code:which(Module), other_code(Module)),
    ok.

%% Loads a module once no process runs its old code.
load_softly(Module) ->
    eventually(fun() -> code:soft_purge(Module) end),
    load(Module).

other_code(Module) ->
    {Module, Code, _} = code:get_object_code(Module),
    case {beam_lib:md5(Code), Module:module_info(md5)} of
        {{ok, {Module, Loaded}}, Loaded} -> without_lines(Module, Code);
        _ -> Code
    end.

%% Returns this code, which is compiled once.
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
