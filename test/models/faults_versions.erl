%% Versions of this library for an upgrade under load (`faults:upgrades/2'): its own modules, compiled once more with another `vsn', and a `code_change' that says that it is called. All but
%% `proctab_nif' are upgraded.
-module(faults_versions).

-export([make/3]).

%% A folder `proctab-Version' in `Dir', with an upgrade from any version before. `Ebin' is where the modules are.
make(Ebin, Dir, Version) ->
    Folder = filename:join(Dir, "proctab-" ++ Version),
    New = filename:join(Folder, "ebin"),
    ok = filelib:ensure_path(New),
    [ok = file:make_symlink(filename:absname(filename:join(filename:dirname(Ebin), Link)), filename:join(Folder, Link)) || Link <- ["priv", "erlang"]],
    {ok, [{application, proctab, Keys}]} = file:consult(filename:join(Ebin, "proctab.app")),
    Modules = proplists:get_value(modules, Keys),
    [ok = file:write_file(filename:join(New, atom_to_list(Module) ++ ".beam"), compiled(filename:join(Ebin, Module), Version)) || Module <- Modules],
    ok = write(filename:join(New, "proctab.app"), {application, proctab, lists:keyreplace(vsn, 1, Keys, {vsn, Version})}),
    Instructions = instructions(Modules -- [proctab_nif]),
    ok = write(filename:join(New, "proctab.appup"), {Version, [{<<".*">>, Instructions}], [{<<".*">>, Instructions}]}),
    Folder.

write(File, Term) ->
    file:write_file(File, io_lib:format("~p.~n", [Term])).

compiled(Beam, Version) ->
    {ok, {_, [{abstract_code, {raw_abstract_v1, Forms}}]}} = beam_lib:chunks(Beam, [abstract_code]),
    {Before, [Module | After]} = lists:splitwith(fun(Form) -> element(3, Form) =/= module end, Forms),
    Said = Before ++ [Module, {attribute, 1, vsn, Version} | lists:map(fun(Form) -> says(Form, element(4, Module)) end, After)],
    {ok, _, Binary} = compile:forms(Said, [debug_info]),
    Binary.

says({function, Line, code_change, 3, Clauses}, Module) ->
    Call = {call, Line, {remote, Line, {atom, Line, faults_books}, {atom, Line, changed}}, [{atom, Line, Module}]},
    {function, Line, code_change, 3, [{clause, At, Arguments, Guards, [Call | Body]} || {clause, At, Arguments, Guards, Body} <- Clauses]};
says(Form, _) ->
    Form.

%% The servers stand in a supervision tree, where they are found, suspended and have their state changed. The sender of events and the reapers do not, and are told. All others have no state that
%% they would not begin anew.
instructions(Modules) ->
    Servers = [gen_tracker, metrics_process_tracker, stats_hero_monitor],
    [{load_module, Module, soft_purge, soft_purge, []} || Module <- Modules -- Servers] ++
        [{apply, {faults, change_code, [[gen_tracker_events, proctab_reaper]]}}] ++
        [{update, Server, {advanced, []}, soft_purge, soft_purge, []} || Server <- Servers].
