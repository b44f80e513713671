%% Promise: `h/1,2` and `ht/1` of the shell show the documentation of the public modules, and say of
%% internal modules and callbacks that they are hidden.
-module(documentation_SUITE).

-include_lib("kernel/include/eep48.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(PUBLIC, [
    gen_tracker, gen_tracker_cluster, metrics_process_tracker, proctab, stats_hero_monitor
]).

all() ->
    [
        every_public_module_function_and_type_is_documented,
        internal_modules_and_callbacks_are_hidden,
        the_shell_prints_the_documentation,
        a_missing_edoc_leaves_the_documentation_that_was_shipped,
        the_overview_names_each_public_module
    ].

every_public_module_function_and_type_is_documented(_) ->
    [
        ?assertMatch({Module, #{}}, {Module, (documentation(Module))#docs_v1.module_doc})
     || Module <- ?PUBLIC
    ],
    Undocumented = [
        {Module, Kind, Name, Arity}
     || Module <- ?PUBLIC,
        {{function = Kind, Name, Arity}, _, _, none, _} <- (documentation(Module))#docs_v1.docs
    ],
    ?assertEqual([], Undocumented),
    Types = [Name || {{type, Name, _}, _, _, _, _} <- (documentation(gen_tracker))#docs_v1.docs],
    ?assert(lists:member(child_spec, Types)).

internal_modules_and_callbacks_are_hidden(_) ->
    Sources = filelib:wildcard(filename:join(source_tree:root(), "erlang/*.erl")),
    Modules = [list_to_atom(filename:basename(Source, ".erl")) || Source <- Sources],
    ?assertEqual([], ?PUBLIC -- Modules),
    Shown = [Module || Module <- Modules -- ?PUBLIC, not is_hidden(Module)],
    ?assertEqual([], Shown),
    Callbacks = [{init, 1}, {handle_call, 3}, {handle_cast, 2}, {handle_info, 2}, {terminate, 2}],
    [
        ?assertMatch(
            {Module, Callback, [hidden]},
            {Module, Callback, [
                Doc
             || {{function, Name, Arity}, _, _, Doc, _} <- (documentation(Module))#docs_v1.docs,
                {Name, Arity} =:= Callback
            ]}
        )
     || Module <- [gen_tracker, metrics_process_tracker, stats_hero_monitor],
        Callback <- Callbacks
    ].

is_hidden(Module) ->
    (documentation(Module))#docs_v1.module_doc =:= hidden.

documentation(Module) ->
    {ok, Documentation} = code:get_doc(Module),
    Documentation.

the_shell_prints_the_documentation(_) ->
    [
        ?assertMatch({_, true}, {Call, string:find(printed(Call), Text) =/= nomatch})
     || {Call, Text} <- [
            {"h(gen_tracker)", "supervisors whose children have names and attributes"},
            {"h(gen_tracker, find_or_open)", "Returns the running child of a name"},
            {"ht(gen_tracker)", "child_spec()"}
        ]
    ].

printed(Call) ->
    Path = filename:dirname(code:which(gen_tracker)),
    Eval = ["erl -noshell -pa '", Path, "' -eval 'c:", Call, ", halt().'"],
    documents:run(source_tree:root(), [], Eval).

%% A copy of the project without compiled documentation, in a folder with a long path. Another file
%% takes the place of EDoc.
a_missing_edoc_leaves_the_documentation_that_was_shipped(Config) ->
    Long = lists:duplicate(200, $x),
    Root = filename:join([proplists:get_value(priv_dir, Config), Long, "shipped"]),
    Ebin = filename:join(Root, "lib/proctab/ebin"),
    ok = filelib:ensure_path(Ebin),
    _ = documents:run(source_tree:root(), [], ["cp -R erlang tools '", Root, "'"]),
    {ok, gen_tracker} =
        compile:file(filename:join(Root, "erlang/gen_tracker.erl"), [{outdir, Ebin}]),
    Env = [{"REBAR_DEPS_DIR", filename:join(Root, "lib")}],
    WithoutEdoc = [{"ERL_FLAGS", "-pa other"} | Env],
    ok = filelib:ensure_path(filename:join(Root, "other")),
    ok = file:write_file(filename:join(Root, "other/edoc.beam"), "not a module"),
    _ = documents:run(Root, WithoutEdoc, "tools/chunks"),
    ?assertMatch({error, beam_lib, {missing_chunk, _, _}}, docs(Ebin)),
    _ = documents:run(Root, Env, "tools/chunks write"),
    _ = documents:run(Root, WithoutEdoc, "tools/chunks"),
    {ok, {gen_tracker, [{"Docs", Chunk}]}} = docs(Ebin),
    ?assertEqual(documentation(gen_tracker), binary_to_term(Chunk)).

docs(Ebin) ->
    {ok, Compiled} = file:read_file(filename:join(Ebin, "gen_tracker.beam")),
    beam_lib:chunks(Compiled, ["Docs"]).

the_overview_names_each_public_module(_) ->
    {ok, Overview} = file:read_file(filename:join(source_tree:root(), "doc/overview.edoc")),
    [
        ?assertMatch(
            {Module, {match, _}},
            {Module, re:run(Overview, ["{@link ", atom_to_list(Module), "[}. ]"])}
        )
     || Module <- ?PUBLIC
    ].
