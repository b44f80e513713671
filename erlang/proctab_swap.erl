%% @private
%% Checks which of the modules that this library shares with the originals are loaded, and loads
%% those of this library into a running system: {@link proctab:check/0} and {@link proctab:load/0}.
%%
%% A running server of an original is taken over in place:
%% <ol>
%% <li>The server is suspended.</li>
%% <li>Its table of processes is opened and held, so that callers wait. From the next step on
%%     callers reach the table, and must not register what the server is about to take over.</li>
%% <li>The code of this library is loaded.</li>
%% <li>`Module:code_change/3' receives a state that is not of this library, and registers all that
%%     the original knew.</li>
%% <li>The table is released, and the server resumed.</li>
%% </ol>
%%
%% A separate process does this, one at a time in the node: if the caller is killed, the server must
%% not stay suspended. If the server is killed or restarted meanwhile, the takeover starts again.
-module(proctab_swap).

-export([check/0, overview/0, print/0, load/0]).

-define(MODULES, [gen_tracker, metrics_process_tracker, stats_hero_monitor]).
%% How often a takeover is attempted if the server ends in the middle.
-define(MAX_ATTEMPTS, 5).
%% How long to wait for a supervisor to restart a server, or for callers to leave the code that is
%% to be replaced, in milliseconds.
-define(WAIT_TIMEOUT, 1000).

%%% Checking

%% @doc See {@link proctab:check/0}.
-spec print() -> ok.
print() ->
    #{modules := Findings, version := Version, native := Native, usable := Usable} = overview(),
    lists:foreach(fun print/1, Findings),
    Advice =
        case Usable of
            true -> "";
            {false, Text} -> "\n    " ++ Text
        end,
    io:format("proctab: version ~s, native library ~ts~ts~n", [Version, Native, Advice]).

print(#{module := Module, loaded := Loaded, found := Found, ours := IsOurs, advice := Advice}) ->
    Whose = maps:get(IsOurs, #{true => "of proctab", false => "NOT of proctab"}),
    Where =
        case {Loaded, Found} of
            {not_loaded, not_found} -> "not found";
            {not_loaded, _} -> ["not loaded yet, ", Found];
            _ -> Loaded
        end,
    io:format("~s: ~s, ~ts~n", [Module, Whose, Where]),
    [io:format("    ~ts~n", [Advice]) || Advice =/= ""],
    ok.

%% @doc See {@link proctab:check/1}.
-spec overview() -> proctab:check().
overview() ->
    Usable =
        case proctab_library:check() of
            ok -> true;
            {error, Advice} -> {false, Advice}
        end,
    #{
        modules => check(),
        version => proctab_library:version(),
        native => proctab_library:file() ++ ".so",
        usable => Usable
    }.

%% @doc Returns for each of the three modules which file is loaded, and advice.
-spec check() -> [proctab:finding()].
check() ->
    [check(Module) || Module <- ?MODULES].

check(Module) ->
    Loaded = loaded(Module),
    Found = found(Module),
    {IsOurs, Advice} = judge(Module, Loaded, is_ours(Loaded), is_ours(Found)),
    #{module => Module, loaded => Loaded, found => Found, ours => IsOurs, advice => Advice}.

judge(_Module, _Loaded, true, true) ->
    {true, ""};
judge(Module, _Loaded, true, false) ->
    {true,
        "another module of this name is first in the code path, and will be loaded when the node"
        " restarts; to prevent that, " ++ removal(Module)};
judge(_Module, not_loaded, false, true) ->
    {true, ""};
judge(_Module, _Loaded, false, true) ->
    {false, "to load the module of proctab, call proctab:load() or restart the node"};
judge(Module, _Loaded, false, false) ->
    {false,
        "proctab:load() loads the module of proctab until the node stops; to load it at each"
        " start, " ++ removal(Module)}.

removal(gen_tracker) ->
    "take the application gen_tracker from the folder swap/gen_tracker of proctab, see"
    " doc/swapping.md there";
removal(metrics_process_tracker) ->
    removal_from("metrics");
removal(stats_hero_monitor) ->
    removal_from("stats_hero").

removal_from(Application) ->
    "exclude it from the application " ++ Application ++
        ", see doc/swapping.md of proctab; if rebar3 has compiled that application already, run"
        " `rebar3 clean -a' once".

loaded(Module) ->
    case code:is_loaded(Module) of
        {file, File} when is_list(File) -> File;
        {file, cover_compiled} -> found(Module);
        false -> not_loaded
    end.

found(Module) ->
    case code:where_is_file(file_name(Module)) of
        non_existing -> not_found;
        File -> File
    end.

is_ours(File) when is_list(File) ->
    filename:absname(filename:dirname(File)) =:= our_directory();
is_ours(_NoFile) ->
    false.

%% Returns the directory of the modules of this library.
our_directory() ->
    filename:absname(filename:dirname(code:which(proctab))).

file_name(Module) ->
    atom_to_list(Module) ++ code:objfile_extension().

%%% Loading

%% @doc See {@link proctab:load/0}.
-spec load() -> ok | {error, [{module(), proctab:load_error()}, ...]}.
load() ->
    Caller = self(),
    Tag = make_ref(),
    Load = fun() ->
        Caller ! {Tag, global:trans({?MODULE, self()}, fun load_all/0, [node()])}
    end,
    {Loader, Monitor} = spawn_monitor(Load),
    receive
        {Tag, Results} ->
            demonitor(Monitor, [flush]),
            case [{Module, Reason} || {Module, {error, Reason}} <- Results] of
                [] -> ok;
                Failed -> {error, Failed}
            end;
        {'DOWN', Monitor, process, Loader, Reason} ->
            exit(Reason)
    end.

load_all() ->
    Results = [{Module, load(Module)} || Module <- ?MODULES],
    true = code:add_patha(our_directory()),
    Results.

load(gen_tracker = Module) ->
    case is_ours(loaded(Module)) orelse original_zones() of
        true -> ok;
        [] -> load_ours(Module);
        Zones -> {error, {running_zones, Zones}}
    end;
load(Module) ->
    try
        load(Module, original_code(Module), ?MAX_ATTEMPTS)
    after
        release(Module)
    end.

load(Module, Original, Attempts) ->
    try
        load_or_take_over(Module, Original)
    catch
        exit:_ServerIsGone when Attempts > 1 ->
            await_server(Module, deadline()),
            load(Module, Original, Attempts - 1);
        _:Reason ->
            {error, Reason}
    end.

%% Whether a server is an original shows in its state: its code may have been replaced already.
load_or_take_over(Module, Original) ->
    Server = whereis(Module),
    case
        Server =:= undefined orelse
            proctab_reaper:is_server_state(sys:get_state(Server, infinity))
    of
        false -> end_if_stranded(Server, take_over(Module, Server, Original));
        true -> load_ours(Module)
    end.

%% Ends a server that is left with the state of the original and the code of this library. Its
%% supervisor starts one of this library.
end_if_stranded(Server, {error, {_Reason, {original_not_put_back, _Why}}} = Error) ->
    exit(Server, kill),
    Error;
end_if_stranded(_Server, Result) ->
    Result.

await_server(Module, Deadline) ->
    case is_pid(whereis(Module)) orelse is_over(Deadline) of
        true ->
            ok;
        false ->
            receive
            after 1 ->
                await_server(Module, Deadline)
            end
    end.

%% Returns the running zones of the original gen_tracker.
original_zones() ->
    [
        registered_name(Pid)
     || Pid <- processes(),
        proc_lib:translate_initial_call(Pid) =:= {gen_tracker, init, 1}
    ].

registered_name(Pid) ->
    case process_info(Pid, registered_name) of
        {registered_name, Name} -> Name;
        _ -> Pid
    end.

%% Returns the code of a loaded original, to be loaded again if the takeover fails.
original_code(Module) ->
    File = loaded(Module),
    case is_list(File) andalso not is_ours(File) andalso erl_prim_loader:get_file(File) of
        {ok, Binary, _} -> {File, Binary};
        _NoFile -> none
    end.

load_ours(Module) ->
    case is_ours(loaded(Module)) of
        true ->
            ok;
        false ->
            File = filename:join(our_directory(), file_name(Module)),
            {ok, Binary, _} = erl_prim_loader:get_file(File),
            load_binary(Module, File, Binary)
    end.

load_binary(Module, File, Binary) ->
    case code:soft_purge(Module) andalso code:load_binary(Module, File, Binary) of
        {module, Module} -> ok;
        false -> {error, old_code_in_use};
        {error, Reason} -> {error, Reason}
    end.

take_over(Module, Server, Original) ->
    ok = sys:suspend(Server, infinity),
    try
        Status = sys:get_status(Server, infinity),
        {status, Server, _, [_Dictionary, _State, Parent | _]} = Status,
        ok = proctab_nif:processes_open(Module, Parent),
        ok = proctab_nif:hold(Module),
        case load_ours(Module) of
            ok -> change_code(Module, Server, Original);
            Error -> close_table(Module, Error)
        end
    after
        sys:resume(Server, infinity)
    end.

change_code(Module, Server, Original) ->
    case sys:change_code(Server, Module, undefined, [], infinity) of
        ok ->
            ok;
        {error, Reason} ->
            case put_back(Module, Original, deadline()) of
                ok -> close_table(Module, {error, Reason});
                %% The code of this library stays, and needs the table.
                {error, Why} -> {error, {Reason, {original_not_put_back, Why}}}
            end
    end.

%% Loads the original again. Waits for callers that are still in the code of the original from
%% before the takeover: loading would kill them.
put_back(_Module, none, _Deadline) ->
    {error, no_file};
put_back(Module, {File, Binary} = Original, Deadline) ->
    case load_binary(Module, File, Binary) of
        {error, old_code_in_use} = Error ->
            case is_over(Deadline) of
                true ->
                    Error;
                false ->
                    receive
                    after 10 ->
                        put_back(Module, Original, Deadline)
                    end
            end;
        Result ->
            Result
    end.

close_table(Module, Error) ->
    ok = proctab_nif:processes_close(Module),
    Error.

%% Releases the table, if there is one. It may have been released already.
release(Module) ->
    try
        proctab_nif:release(Module)
    catch
        error:badarg -> ok
    end.

deadline() ->
    erlang:monotonic_time(millisecond) + ?WAIT_TIMEOUT.

is_over(Deadline) ->
    erlang:monotonic_time(millisecond) >= Deadline.
