%% Makes versions of the library for upgrades under load (`faults:upgrades/2`). A version consists
%% of the modules of the library, compiled with another `vsn`. Each `code_change/3` also records
%% that it was called. An upgrade replaces all modules but `proctab_nif`.
-module(faults_versions).

-export([make/3]).

%% Creates the folder `proctab-Version` in `Dir` from the modules in `Ebin`, with an upgrade from
%% any version. Returns its path.
make(Ebin, Dir, Version) ->
    Folder = filename:join(Dir, "proctab-" ++ Version),
    New = filename:join(Folder, "ebin"),
    ok = filelib:ensure_path(New),
    Library = filename:absname(filename:dirname(Ebin)),
    [
        ok = file:make_symlink(filename:join(Library, Link), filename:join(Folder, Link))
     || Link <- ["priv", "erlang"]
    ],
    {ok, [{application, proctab, Keys}]} = file:consult(filename:join(Ebin, "proctab.app")),
    Modules = proplists:get_value(modules, Keys),
    [
        ok = file:write_file(
            filename:join(New, atom_to_list(Module) ++ ".beam"),
            compiled(filename:join(Ebin, Module), Version)
        )
     || Module <- Modules
    ],
    ok = write(
        filename:join(New, "proctab.app"),
        {application, proctab, lists:keyreplace(vsn, 1, Keys, {vsn, Version})}
    ),
    Instructions = instructions(Modules -- [proctab_nif]),
    ok = write(
        filename:join(New, "proctab.appup"),
        {Version, [{<<".*">>, Instructions}], [{<<".*">>, Instructions}]}
    ),
    Folder.

write(File, Term) ->
    file:write_file(File, io_lib:format("~p.~n", [Term])).

compiled(Beam, Version) ->
    {ok, {_, [{abstract_code, {raw_abstract_v1, Forms}}]}} = beam_lib:chunks(Beam, [abstract_code]),
    {Before, [Module | After]} = lists:splitwith(
        fun(Form) -> element(3, Form) =/= module end, Forms
    ),
    Vsn = {attribute, 1, vsn, Version},
    Recording = [recording(Form, element(4, Module)) || Form <- After],
    {ok, _, Binary} = compile:forms(Before ++ [Module, Vsn | Recording], [debug_info]),
    Binary.

%% Begins each clause of `code_change/3` with a call of `faults_books:changed/1`.
recording({function, Line, code_change, 3, Clauses}, Module) ->
    Changed = {remote, Line, {atom, Line, faults_books}, {atom, Line, changed}},
    Call = {call, Line, Changed, [{atom, Line, Module}]},
    {function, Line, code_change, 3, [
        {clause, At, Arguments, Guards, [Call | Body]}
     || {clause, At, Arguments, Guards, Body} <- Clauses
    ]};
recording(Form, _) ->
    Form.

%% `release_handler` finds the servers in their supervision trees, suspends them and changes their
%% state. It does not find event processes and reapers, so a function does the same for them. The
%% processes of all other modules have no state to change.
instructions(Modules) ->
    Servers = [gen_tracker, metrics_process_tracker, stats_hero_monitor],
    [{load_module, Module, soft_purge, soft_purge, []} || Module <- Modules -- Servers] ++
        [{apply, {faults, change_code, [[gen_tracker_events, proctab_reaper]]}}] ++
        [{update, Server, {advanced, []}, soft_purge, soft_purge, []} || Server <- Servers].
