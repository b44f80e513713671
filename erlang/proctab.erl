%% @doc Looking after the library in a running system: whether its modules are the ones that run, and how they get there.
%%
%% `gen_tracker', `metrics_process_tracker' and `stats_hero_monitor' have the names of the modules that they replace. Which of the two is loaded is decided by
%% the code path. {@link check/0} says what is, {@link load/0} changes it.
-module(proctab).

-export([check/0, load/0]).

-export_type([finding/0, load_error/0]).

-define(MODULES, [gen_tracker, metrics_process_tracker, stats_hero_monitor]).

-type finding() :: #{module := module(),
                     %% The file that the module was loaded from.
                     loaded := file:filename() | not_loaded,
                     %% The file that loading it by name would take.
                     found := file:filename() | not_found,
                     %% Whether it is this library's that runs or, when none is loaded, would be loaded.
                     ours := boolean(),
                     %% What to do; empty where all is well.
                     advice := string()}.

-type load_error() :: {running_zones, [Zone :: atom() | pid()]}
                    | old_code_in_use
                    | term().

%% @doc For each of the three modules: which file is loaded, whether it is ours, and what to do if it is not.
-spec check() -> [finding()].
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
    "exclude it from the application metrics, as the README says under \"Swapping\"";
swap(stats_hero_monitor) ->
    "exclude it from the application stats_hero, as the README says under \"Swapping\"".

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
    filename:absname(filename:dirname(code:which(?MODULE))).

file_name(Module) ->
    atom_to_list(Module) ++ code:objfile_extension().

%% @doc Loads the three modules over whatever is loaded, and puts this library first in the code path.
%%
%% A running `metrics_process_tracker' or `stats_hero_monitor' of the original is taken over: it goes on with our code, and with every process that it tracks or
%% monitors. It is suspended meanwhile; callers wait. A running zone of the original gen_tracker cannot be taken over: then that module is left alone, and the error
%% names the zones. Modules that have no error are loaded.
%%
%% `old_code_in_use': processes are still running the code of an earlier load of the module, and loading would kill them.
-spec load() -> ok | {error, [{module(), load_error()}]}.
load() ->
    %% Whoever stops the caller in the middle must not leave a server suspended.
    Caller = self(),
    {Loader, Monitor} = spawn_monitor(fun() -> Caller ! {self(), [{Module, load(Module)} || Module <- ?MODULES]} end),
    receive
        {Loader, Results} ->
            demonitor(Monitor, [flush]),
            true = code:add_patha(our_directory()),
            case [{Module, Reason} || {Module, {error, Reason}} <- Results] of
                [] -> ok;
                Failed -> {error, Failed}
            end;
        {'DOWN', Monitor, process, Loader, Reason} ->
            exit(Reason)
    end.

load(gen_tracker = Module) ->
    case is_ours(loaded(Module)) orelse original_zones() of
        true -> ok;
        [] -> load_ours(Module);
        Zones -> {error, {running_zones, Zones}}
    end;
load(Module) ->
    case whereis(Module) of
        undefined ->
            case is_ours(loaded(Module)) of
                true -> ok;
                false -> load_ours(Module)
            end;
        Server ->
            case is_ours(loaded(Module)) andalso proctab_reaper:is_watched(sys:get_state(Server, infinity)) of
                true -> ok;
                false -> take_over(Module, Server)
            end
    end.

original_zones() ->
    [case process_info(Pid, registered_name) of
         {registered_name, Zone} -> Zone;
         _ -> Pid
     end || Pid <- processes(), proc_lib:translate_initial_call(Pid) =:= {gen_tracker, init, 1}].

load_ours(Module) ->
    load_file(Module, filename:join(our_directory(), file_name(Module))).

load_file(Module, File) ->
    {ok, Binary, _} = erl_prim_loader:get_file(File),
    case code:soft_purge(Module) andalso code:load_binary(Module, File, Binary) of
        {module, Module} -> ok;
        false -> {error, old_code_in_use};
        {error, Reason} -> {error, Reason}
    end.

%% The server goes on with our code: `Module:code_change/3' finds a state that is not ours and takes over what belongs to it. From the moment on when our
%% code is loaded callers reach our table, which has to be there, and must not register what the server is about to take over; so it is held.
take_over(Module, Server) ->
    Original = loaded(Module),
    ok = sys:suspend(Server, infinity),
    try
        {status, Server, _, [_Dictionary, _State, Parent | _]} = sys:get_status(Server, infinity),
        ok = proctab_nif:processes_open(Module, Parent),
        ok = proctab_nif:hold(Module),
        case load_ours(Module) of
            ok -> change_code(Module, Server, Original);
            Error -> give_up(Module, Error)
        end
    after
        sys:resume(Server, infinity)
    end.

change_code(Module, Server, Original) ->
    case sys:change_code(Server, Module, undefined, [], infinity) of
        ok ->
            proctab_nif:release(Module);
        {error, _} = Error ->
            _ = load_file(Module, Original),
            give_up(Module, Error)
    end.

give_up(Module, Error) ->
    ok = proctab_nif:processes_close(Module),
    Error.
