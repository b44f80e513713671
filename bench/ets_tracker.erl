%% The ETS design of a tracker, as the documentation of the original gen_tracker describes it,
%% written with care for this benchmark.
%%
%% A zone `Zone` is a process of that name and two public named tables with `read_concurrency`:
%%
%% - `Zone` has a row for each child, with its spec. `find` is one `ets:lookup`.
%% - `Zone_attrs` has rows `{{Name, Key}, Value}`. `getattr` is one look-up, `increment` one
%%   `ets:update_counter`, `info` a select with a guard on the name, which reads all rows.
%%
%% A process of its own, the setter, sets attributes, so that a name gets no attributes after the
%% death of its child. A helper process starts a child, and removes its rows after its death.
%%
%% Functions that are not compared are missing (restarts, `after_terminate`, the functions of a
%% supervisor), which favours this side.
-module(ets_tracker).
-behaviour(gen_server).

-export([start_link/1, find/2, find_or_open/2, which_children/1, fill/5]).
-export([setattr/3, setattr/4, getattr/3, increment/4, increment/5, info/2, list/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-record(child, {name, pid, helper, mfa, restart, shutdown, type, modules}).
-record(tracker, {zone, waiting = #{}}).
-record(setter, {zone, attrs}).

start_link(Zone) ->
    gen_server:start_link({local, Zone}, ?MODULE, {tracker, Zone}, []).

find(Zone, Name) ->
    case ets:lookup(Zone, Name) of
        [#child{pid = Pid}] when is_pid(Pid) -> {ok, Pid};
        _ -> undefined
    end.

find_or_open(Zone, {Name, _MFA, _Restart, _Shutdown, _Type, _Modules} = Spec) ->
    case find(Zone, Name) of
        undefined -> gen_server:call(Zone, {open, Spec}, 60000);
        Found -> Found
    end.

%% Adds the rows of a child and its attributes without any process, for a table of a million names.
fill(Zone, {Name, MFA, Restart, Shutdown, Type, Modules}, Pid, Helper, Attributes) ->
    Child = #child{
        name = Name,
        pid = Pid,
        helper = Helper,
        mfa = MFA,
        restart = Restart,
        shutdown = Shutdown,
        type = Type,
        modules = Modules
    },
    true = ets:insert(Zone, Child),
    true = ets:insert(attrs(Zone), [{{Name, Key}, Value} || {Key, Value} <- Attributes]).

which_children(Zone) ->
    ets:select(Zone, [
        {
            #child{name = '$1', pid = '$2', type = '$3', modules = '$4', _ = '_'},
            [],
            [{{'$1', '$2', '$3', '$4'}}]
        }
    ]).

setattr(Zone, Name, Key, Value) ->
    setattr(Zone, Name, [{Key, Value}]).

setattr(Zone, Name, Pairs) ->
    case gen_server:call(setter(Zone), {set, Name, Pairs}) of
        ok -> ok;
        void -> error({void_setting, Zone, Name, [Key || {Key, _} <- Pairs]})
    end.

getattr(Zone, Name, Key) ->
    try ets:lookup_element(attrs(Zone), {Name, Key}, 2) of
        Value -> {ok, Value}
    catch
        error:badarg -> undefined
    end.

increment(Zone, Name, Key, Increment) ->
    ets:update_counter(attrs(Zone), {Name, Key}, Increment).

increment(Zone, Name, Key, Increment, Default) ->
    ets:update_counter(attrs(Zone), {Name, Key}, Increment, {{Name, Key}, Default}).

info(Zone, Name) ->
    ets:select(attrs(Zone), [
        {{{'$1', '$2'}, '$3'}, [{'=:=', '$1', {const, Name}}], [{{'$2', '$3'}}]}
    ]).

list(Zone) ->
    [
        {Name, [{pid, Pid} | info(Zone, Name)]}
     || {Name, Pid, _, _} <- which_children(Zone), is_pid(Pid)
    ].

%% The names of the processes and tables of a zone, made in the fastest way.
attrs(Zone) ->
    binary_to_existing_atom(<<(atom_to_binary(Zone))/binary, "_attrs">>).

setter(Zone) ->
    binary_to_existing_atom(<<(atom_to_binary(Zone))/binary, "_setter">>).

init({tracker, Zone}) ->
    process_flag(trap_exit, true),
    Attrs = list_to_atom(atom_to_list(Zone) ++ "_attrs"),
    Setter = list_to_atom(atom_to_list(Zone) ++ "_setter"),
    Zone = ets:new(Zone, [public, named_table, {keypos, #child.name}, {read_concurrency, true}]),
    Attrs = ets:new(Attrs, [public, named_table, {read_concurrency, true}]),
    {ok, _} = gen_server:start_link({local, Setter}, ?MODULE, {setter, Zone, Attrs}, []),
    {ok, #tracker{zone = Zone}};
init({setter, Zone, Attrs}) ->
    {ok, #setter{zone = Zone, attrs = Attrs}}.

handle_call({set, Name, Pairs}, _From, #setter{zone = Zone, attrs = Attrs} = Setter) ->
    case ets:member(Zone, Name) of
        true ->
            true = ets:insert(Attrs, [{{Name, Key}, Value} || {Key, Value} <- Pairs]),
            {reply, ok, Setter};
        false ->
            {reply, void, Setter}
    end;
handle_call({open, Spec}, From, #tracker{zone = Zone, waiting = Waiting} = Tracker) ->
    {Name, _, _, _, _, _} = Spec,
    case {ets:lookup(Zone, Name), Waiting} of
        {[#child{pid = Pid}], _} when is_pid(Pid) ->
            {reply, {ok, Pid}, Tracker};
        {_, #{Name := Callers}} ->
            {noreply, Tracker#tracker{waiting = Waiting#{Name := [From | Callers]}}};
        {_, #{}} ->
            launch(Zone, Spec),
            {noreply, Tracker#tracker{waiting = Waiting#{Name => [From]}}}
    end.

handle_cast(_, State) ->
    {noreply, State}.

handle_info({launched, Name, Result}, #tracker{waiting = Waiting} = Tracker) ->
    {Callers, Others} = maps:take(Name, Waiting),
    [gen_server:reply(Caller, Result) || Caller <- Callers],
    {noreply, Tracker#tracker{waiting = Others}};
handle_info({'EXIT', _Helper, _Reason}, Tracker) ->
    {noreply, Tracker}.

launch(Zone, {Name, MFA, Restart, Shutdown, Type, Modules}) ->
    Tracker = self(),
    Child = #child{
        name = Name,
        mfa = MFA,
        restart = Restart,
        shutdown = Shutdown,
        type = Type,
        modules = Modules
    },
    spawn_link(fun() -> help(Tracker, Zone, Child) end).

%% The helper starts the child, and removes its rows after its death.
help(Tracker, Zone, #child{name = Name, mfa = {Module, Function, Arguments}} = Child) ->
    process_flag(trap_exit, true),
    case apply(Module, Function, Arguments) of
        {ok, Pid} ->
            true = ets:insert(Zone, Child#child{pid = Pid, helper = self()}),
            Tracker ! {launched, Name, {ok, Pid}},
            receive
                {'EXIT', Pid, _} ->
                    true = ets:update_element(Zone, Name, {#child.pid, terminating}),
                    clean(Zone, Name);
                {'EXIT', Tracker, Reason} -> exit(Reason)
            end;
        Other ->
            Tracker ! {launched, Name, Other}
    end.

clean(Zone, Name) ->
    _ = ets:select_delete(attrs(Zone), [
        {{{'$1', '_'}, '_'}, [{'=:=', '$1', {const, Name}}], [true]}
    ]),
    ets:delete(Zone, Name).
