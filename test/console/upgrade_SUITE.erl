%% Promise: `release_handler` upgrades a running node from the version before with the same native
%% library, and downgrades it, by the instructions in `erlang/proctab.appup`: zones, children,
%% attributes, waiters, subscriptions and tracked processes stay, and no write is lost. To a version
%% with another native library the node restarts.
%%
%% The version before consists of the same sources, compiled with another `vsn`.
-module(upgrade_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(tracked_process, [eventually/1]).

-define(CHILDREN, lists:seq(1, 20)).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        the_instructions_name_all_modules_but_the_native_one,
        nothing_is_lost_by_an_upgrade_and_a_downgrade,
        the_node_restarts_for_another_native_library
    ].

the_instructions_name_all_modules_but_the_native_one(_Config) ->
    {ok, [{application, proctab, Keys}]} = file:consult(compiled("proctab.app")),
    {ok, [{Version, Ups, Downs}]} = file:consult(compiled("proctab.appup")),
    ?assertEqual(proplists:get_value(vsn, Keys), Version),
    Modules = lists:sort(proplists:get_value(modules, Keys)) -- [proctab_nif],
    [
        ?assertEqual(Modules, lists:sort([element(2, Instruction) || Instruction <- Instructions]))
     || [{_, Instructions} | _] <- [Ups, Downs]
    ].

nothing_is_lost_by_an_upgrade_and_a_downgrade(Config) ->
    Releases = releases(version() ++ "-before", Config),
    Peer = start(Releases),
    try
        ok = peer:call(Peer, ?MODULE, change_versions, [], infinity)
    after
        peer:stop(Peer)
    end.

the_node_restarts_for_another_native_library(Config) ->
    Releases = releases("0.1.0", Config),
    {ok, [{_, [{_, _, Ups}], [{_, _, Downs}]}]} =
        file:consult(filename:join(Releases, "after/relup")),
    Applied = fun(Instructions) ->
        [Arguments || {apply, {logger, warning, [_] = Arguments}} <- Instructions]
    end,
    ?assertMatch([["proctab: the node restarts" ++ _]], Applied(Ups)),
    ?assertEqual(Applied(Ups), Applied(Downs)),
    Peer = start(Releases),
    Monitor = monitor(process, Peer),
    {ok, "before", []} = peer:call(Peer, ?MODULE, restart, []),
    receive
        {'DOWN', Monitor, process, Peer, _} -> ok
    end.

%% In the other node

change_versions() ->
    Before = version() ++ "-before",
    Native = code:is_loaded(proctab_nif),
    {ok, Tracker} = gen_tracker:start_link(zone),
    Children = [{Name, tracked_child:open(zone, Name)} || Name <- ?CHILDREN],
    [ok = gen_tracker:setattr(zone, Name, [{key, {Name}}, {calls, 0}]) || Name <- ?CHILDREN],
    ok = ledger_backend:open(),
    {ok, Counter} = metrics_process_tracker:start_link(),
    [ok = metrics_process_tracker:track(Name, Pid) || {Name, Pid} <- Children],
    {ok, _} = gen_tracker:subscribe(zone),
    {_, Waiter} = spawn_monitor(fun() -> exit(gen_tracker:getattr(zone, 1, late, 60000)) end),
    Caller = spawn_link(fun() -> call(0) end),
    Same = fun(Version) ->
        ?assertEqual([Version], versions()),
        ?assertMatch({_, _, Version}, lists:keyfind(proctab, 1, application:which_applications())),
        ?assertEqual({Tracker, Counter}, {whereis(zone), whereis(metrics_process_tracker)}),
        [?assertEqual({ok, Pid}, gen_tracker:find(zone, Name)) || {Name, Pid} <- Children],
        [?assertEqual({ok, {Name}}, gen_tracker:getattr(zone, Name, key)) || Name <- ?CHILDREN],
        [?assertEqual({1, 0}, ledger_backend:moves(Name)) || Name <- ?CHILDREN],
        ?assertEqual(Native, code:is_loaded(proctab_nif))
    end,
    Same(Before),
    install("after"),
    ok = release_handler:make_permanent("after"),
    Same(version()),
    %% It still waits in the version before, which can be loaded once it has returned.
    ok = gen_tracker:setattr(zone, 1, [{late, now}]),
    receive
        {'DOWN', Waiter, process, _, Answer} -> ?assertEqual({ok, now}, Answer)
    end,
    install("before"),
    Same(Before),
    Caller ! {stop, self()},
    receive
        {calls, Calls} -> ?assertEqual({ok, Calls}, gen_tracker:getattr(zone, 1, calls))
    end,
    [exit(Pid, kill) || {_, Pid} <- Children],
    [
        receive
            {gen_tracker, zone, {down, Name, Pid, _}} -> ok
        end
     || {Name, Pid} <- Children
    ],
    eventually(fun() ->
        lists:all(fun(Name) -> ledger_backend:moves(Name) =:= {1, 1} end, ?CHILDREN)
    end),
    [?assertEqual(undefined, gen_tracker:find(zone, Name)) || Name <- ?CHILDREN],
    unlink(Tracker),
    ok.

%% In place of the program `heart`, which would start the node again, a process takes its command.
restart() ->
    Heart = spawn(fun() ->
        receive
            {From, set_cmd, _} -> From ! {heart, ok}
        end,
        receive
            never -> ok
        end
    end),
    true = register(heart, Heart),
    release_handler:install_release("after").

%% Writes, and starts and ends children, until it is told to stop.
call(Calls) ->
    receive
        {stop, From} -> From ! {calls, Calls}
    after 0 ->
        exit(tracked_child:open(zone, {Calls}), kill),
        ?assertEqual(Calls + 1, gen_tracker:increment(zone, 1, calls, 1)),
        call(Calls + 1)
    end.

%% An upgrade is refused as long as a process runs the code of an earlier version.
install(Release) ->
    case release_handler:install_release(Release) of
        {ok, "before", []} ->
            ok;
        {error, {old_processes, _Module}} ->
            receive
            after 100 -> install(Release)
            end
    end.

%% Returns the versions of the loaded modules.
versions() ->
    {ok, Modules} = application:get_key(proctab, modules),
    lists:usort([vsn(Module) || Module <- Modules -- [proctab_nif]]).

vsn(Module) ->
    case proplists:get_value(vsn, Module:module_info(attributes)) of
        [Digest] when is_integer(Digest) -> version();
        Version -> Version
    end.

version() -> proctab_library:version().

%% Releases

compiled(File) ->
    filename:join([source_tree:library(), "ebin", File]).

%% Makes the releases `before`, with this version of proctab, and `after`, with that of this tree.
%% Returns the folder.
releases(Before, Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "releases_" ++ Before),
    ok = filelib:ensure_path(Dir),
    _ = faults_versions:make(filename:dirname(compiled("proctab.app")), Dir, Before),
    ok = file:make_symlink(source_tree:library(), filename:join(Dir, "proctab-" ++ version())),
    Path = {path, filelib:wildcard(filename:join(Dir, "proctab-*/ebin"))},
    Old = release("before", Before, Path, Dir),
    New = release("after", version(), Path, Dir),
    ok = systools:make_relup(New, [Old], [Old], [Path, {outdir, filename:dirname(New)}]),
    Applications = [{proctab, Version, Dir} || Version <- [Before, version()]],
    ok = release_handler:create_RELEASES(Dir, Dir, Old ++ ".rel", Applications),
    Dir.

%% Returns the file of the release, without an extension.
release(Name, Version, Path, Dir) ->
    File = filename:join([Dir, Name, "start"]),
    ok = filelib:ensure_dir(File),
    Applications = [{Other, vsn_of(Other)} || Other <- [kernel, stdlib, sasl]],
    Release =
        {release, {"upgraded", Name}, {erts, erlang:system_info(version)}, [
            {proctab, Version} | Applications
        ]},
    ok = file:write_file(File ++ ".rel", io_lib:format("~p.~n", [Release])),
    ok = file:write_file(filename:join(filename:dirname(File), "sys.config"), "[]."),
    ok = systools:make_script(File, [Path, local, {outdir, filename:dirname(File)}]),
    File.

vsn_of(Application) ->
    _ = application:load(Application),
    {ok, Version} = application:get_key(Application, vsn),
    Version.

%% Starts a node with the release `before`, which has the release `after` beside it.
start(Releases) ->
    Tests = filename:dirname(code:which(?MODULE)),
    Support = filename:dirname(code:which(tracked_child)),
    {ok, Peer, _} = peer:start(#{
        connection => standard_io,
        args => [
            "-boot", filename:join(Releases, "before/start"),
            "-sasl", "releases_dir", lists:flatten(io_lib:format("~p", [Releases])),
            "-kernel", "logger_level", "error",
            "-pz", Tests, Support, filename:dirname(code:which(metrics))
        ]
    }),
    ok = peer:call(Peer, ?MODULE, unpacked, [Releases]),
    Peer.

unpacked(Releases) ->
    Proctab = [{proctab, version(), Releases}],
    File = filename:join(Releases, "after/start.rel"),
    {ok, "after"} = release_handler:set_unpacked(File, Proctab),
    ok.
