%% @private
%% Which of the modules run that this library shares with those it replaces, and how ours are brought into a running system: {@link proctab:check/0} and
%% {@link proctab:load/0}.
%%
%% A running server of an original is taken over in place: it is suspended, our code is loaded, and `Module:code_change/3' finds a state that is not ours and takes
%% over what belongs to it. From the moment on when our code is loaded callers reach our table, which has to be there, and must not register what the
%% server is about to take over; so it is held. All of this is done by a process of its own, one at a time in the node: whoever stops the caller in the middle
%% must not leave a server suspended.
%%
%% The server may be killed, or restarted, at any moment of this: then all is looked at again.
-module(proctab_swap).

-export([check/0, load/0]).

-define(MODULES, [gen_tracker, metrics_process_tracker, stats_hero_monitor]).
%% How often a takeover begins whose server goes in the middle.
-define(TRIES, 5).
%% How long somebody else is waited for: a supervisor that restarts a server, and callers that are in the code to be replaced. In milliseconds.
-define(PATIENCE, 1000).

-spec check() -> [proctab:finding()].
check() ->
    [check(Module) || Module <- ?MODULES].

check(Module) ->
    Loaded = loaded(Module),
    Found = found(Module),
    Finding = #{module => Module, loaded => Loaded, found => Found},
    case {is_ours(Loaded), is_ours(Found)} of
        {true, true} ->
            Finding#{ours => true, advice => ""};
        {true, false} ->
            Finding#{ours => true, advice => "another one comes first in the code path and will be loaded when the node starts again: " ++ swap(Module)};
        {false, true} when Loaded =:= not_loaded ->
            Finding#{ours => true, advice => ""};
        {false, true} ->
            Finding#{ours => false, advice => "proctab:load() or a restart of the node loads ours"};
        {false, false} ->
            Finding#{ours => false, advice => "proctab:load() loads ours until the node stops; to have it there from the start: " ++ swap(Module)}
    end.

swap(gen_tracker) ->
    "take the application gen_tracker out of the project's dependencies";
swap(metrics_process_tracker) ->
    exclude("metrics");
swap(stats_hero_monitor) ->
    exclude("stats_hero").

exclude(Application) ->
    "exclude it from the application " ++ Application ++ ", as the README says under \"Swapping\"; one that rebar3 has compiled already needs `rebar3 clean -a' then".

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

%% Where this library's modules are.
our_directory() ->
    filename:absname(filename:dirname(code:which(proctab))).

file_name(Module) ->
    atom_to_list(Module) ++ code:objfile_extension().

-spec load() -> ok | {error, [{module(), proctab:load_error()}, ...]}.
load() ->
    Caller = self(),
    Tag = make_ref(),
    Load = fun() -> Caller ! {Tag, global:trans({?MODULE, self()}, fun load_all/0, [node()])} end,
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
        load(Module, original(Module), ?TRIES)
    after
        release(Module)
    end.

load(Module, Original, Tries) ->
    try
        bring_in(Module, Original)
    catch
        exit:_ServerIsGone when Tries > 1 ->
            await_server(Module, deadline()),
            load(Module, Original, Tries - 1);
        _:Reason ->
            {error, Reason}
    end.

%% What a server is its state says; the code under it may have been loaded meanwhile.
bring_in(Module, Original) ->
    Server = whereis(Module),
    case Server =:= undefined orelse proctab_reaper:is_watched(sys:get_state(Server, infinity)) of
        false -> take_over(Module, Server, Original);
        true -> load_ours(Module)
    end.

await_server(Module, Deadline) ->
    case is_pid(whereis(Module)) orelse is_over(Deadline) of
        true -> ok;
        false -> receive after 1 -> await_server(Module, Deadline) end
    end.

original_zones() ->
    [case process_info(Pid, registered_name) of
         {registered_name, Zone} -> Zone;
         _ -> Pid
     end || Pid <- processes(), proc_lib:translate_initial_call(Pid) =:= {gen_tracker, init, 1}].

original(Module) ->
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
        {status, Server, _, [_Dictionary, _State, Parent | _]} = sys:get_status(Server, infinity),
        ok = proctab_nif:processes_open(Module, Parent),
        ok = proctab_nif:hold(Module),
        case load_ours(Module) of
            ok -> change_code(Module, Server, Original);
            Error -> close(Module, Error)
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
                ok -> close(Module, {error, Reason});
                %% Ours remains, and needs the table.
                {error, Why} -> {error, {Reason, {original_not_put_back, Why}}}
            end
    end.

%% It would kill callers that are still in the original's code.
put_back(_Module, none, _Deadline) ->
    {error, no_file};
put_back(Module, {File, Binary} = Original, Deadline) ->
    case load_binary(Module, File, Binary) of
        {error, old_code_in_use} = Error ->
            case is_over(Deadline) of
                true -> Error;
                false -> receive after 10 -> put_back(Module, Original, Deadline) end
            end;
        Result ->
            Result
    end.

close(Module, Error) ->
    ok = proctab_nif:processes_close(Module),
    Error.

%% There may be no table, and what is held may be released already.
release(Module) ->
    try
        proctab_nif:release(Module)
    catch
        error:badarg -> ok
    end.

deadline() ->
    erlang:monotonic_time(millisecond) + ?PATIENCE.

is_over(Deadline) ->
    erlang:monotonic_time(millisecond) >= Deadline.
