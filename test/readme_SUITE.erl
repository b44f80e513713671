%% Promise: what the README shows runs as printed. Its worked example is taken from its text: the module is compiled, and each line that is
%% typed into the shell is evaluated and compared with the answer printed under it.
-module(readme_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

all() ->
    [the_worked_example_runs_as_printed].

the_worked_example_runs_as_printed(Config) ->
    Readme = readme(),
    [Module] = blocks(Readme, "-module\\("),
    compile_module(Module, proplists:get_value(priv_dir, Config)),
    [Session] = blocks(Readme, "1> "),
    Steps = steps(Session),
    ?assert(length(Steps) > 10),
    %% What the example's processes print goes to their group leader, which they have from us.
    {ok, Output} = file:open(filename:join(proplists:get_value(priv_dir, Config), "output"), [read, write, binary]),
    Leader = group_leader(),
    true = group_leader(Output, self()),
    try
        lists:foldl(fun(Step, Bindings) -> run(Step, Output, Bindings) end, erl_eval:new_bindings(), Steps)
    after
        group_leader(Leader, self())
    end.

readme() ->
    {ok, Readme} = file:read_file(filename:join(source_tree:root(), "README.md")),
    Readme.

%% The blocks of Erlang code that begin with a pattern.
blocks(Readme, Pattern) ->
    {match, Blocks} = re:run(Readme, "```erlang\n(" ++ Pattern ++ ".*?)```", [global, dotall, {capture, [1], list}]),
    lists:append(Blocks).

compile_module(Text, Dir) ->
    {match, [Name]} = re:run(Text, "-module\\((\\w+)\\)", [{capture, [1], list}]),
    File = filename:join(Dir, Name ++ ".erl"),
    ok = file:write_file(File, Text),
    {ok, Module, Code} = compile:file(File, [binary, return_errors]),
    {module, Module} = code:load_binary(Module, File, Code).

%% What is typed, and what is printed for it.
steps(Session) ->
    {match, Steps} = re:run(Session, "^\\d+> (.*?)\\.\n(.*?)(?=^\\d+> |\\z)", [
        global, multiline, dotall, {capture, [1, 2], list}
    ]),
    Steps.

run([Typed, Printed], Output, Bindings) ->
    {ok, Tokens, _} = erl_scan:string(Typed ++ "."),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    {ok, Before} = file:position(Output, eof),
    {value, Value, Next} = erl_eval:exprs(Expressions, Bindings),
    io:format("~p~n", [Value]),
    {ok, After} = file:position(Output, eof),
    {ok, Shown} = file:pread(Output, Before, After - Before),
    ?assertMatch({match, _}, re:run(Shown, ["\\A", pattern(Printed), "\\z"]), {Typed, Shown}),
    Next.

%% The answer that is printed, with any pid in the place of a pid and anything in the place of `_`.
pattern(Printed) ->
    Escaped = re:replace(Printed, "[][{}()|.*+?^$\\\\]", "\\\\&", [global, {return, list}]),
    Pids = re:replace(Escaped, "<0\\\\\\.\\d+\\\\\\.0>", "<0\\\\.\\\\d+\\\\.\\\\d+>", [global, {return, list}]),
    re:replace(Pids, ",_\\\\}", ",(?s:.*)", [global, {return, list}]).
