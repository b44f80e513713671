%% A backend of the application metrics that writes books: how often each name was counted up, and
%% how often down.
%%
%% A name may say what else happens. `Step` is 1 on the way up and -1 on the way down:
%%
%% - `{told, Test, _}`: the test receives `{updated, Name, Step, Self}`;
%% - `{gated, Step, Test, _}`: the test receives `{updating, Name, Step, Self}`, and continues the
%%   update with `let_go/1` or `let_raise/3`;
%% - `{raises, Step, Class, Reason}`: the update raises;
%% - `{does, Step, Fun, _}`: the update counts, and calls the fun;
%% - `{answers, Term}`: the update counts, and returns the term.
%%
%% An update that raises does not count.
-module(ledger_backend).

-export([open/0, close/0, moves/1, open_names/0, let_go/1, let_raise/3]).
-export([new/3, update/3, update_or_create/4, delete/2]).

%% Opens empty books, owned by the calling process, and starts the server of metrics with this
%% module as its backend.
open() ->
    ?MODULE = ets:new(?MODULE, [named_table, public, {write_concurrency, true}]),
    _ = application:load(metrics),
    ok = application:set_env(metrics, metrics_mod, ?MODULE),
    {ok, _} = metrics:start_link(),
    ok.

%% Stops the server. The books stay.
close() ->
    application:unset_env(metrics, metrics_mod),
    gen_server:stop(metrics).

%% Returns how often a name was counted up and down.
moves(Name) ->
    case ets:lookup(?MODULE, Name) of
        [{Name, Ups, Downs}] -> {Ups, Downs};
        [] -> {0, 0}
    end.

%% Returns the rows of the names that were not counted down as often as up.
open_names() ->
    ets:select(?MODULE, [{{'$1', '$2', '$3'}, [{'=/=', '$2', '$3'}], ['$_']}]).

%% Continues an update that waits.
let_go(Process) ->
    Process ! {?MODULE, go}.

%% Continues an update that waits with an exception.
let_raise(Process, Class, Reason) ->
    Process ! {?MODULE, Class, Reason}.

%% Called by metrics

new(counter, _Name, _Config) ->
    ok.

update({raises, Step, Class, Reason}, {c, Step}, _Config) ->
    erlang:raise(Class, Reason, []);
update({answers, Term} = Name, {c, Step}, _Config) ->
    count(Name, Step),
    Term;
update({does, Step, Fun, _} = Name, {c, Step}, _Config) ->
    count(Name, Step),
    Fun();
update({told, Test, _} = Name, {c, Step}, _Config) ->
    count(Name, Step),
    Test ! {updated, Name, Step, self()},
    ok;
update({gated, Step, Test, _} = Name, {c, Step}, _Config) ->
    Monitor = monitor(process, Test),
    Test ! {updating, Name, Step, self()},
    receive
        {?MODULE, go} ->
            true = demonitor(Monitor, [flush]),
            count(Name, Step);
        {?MODULE, Class, Reason} ->
            true = demonitor(Monitor, [flush]),
            erlang:raise(Class, Reason, []);
        {'DOWN', Monitor, process, Test, _} ->
            error(test_is_gone)
    end;
update(Name, {c, Step}, _Config) ->
    count(Name, Step).

update_or_create(Name, Probe, counter, Config) ->
    update(Name, Probe, Config).

delete(_Name, _Config) ->
    ok.

count(Name, 1) -> add(Name, 2);
count(Name, -1) -> add(Name, 3).

add(Name, Column) ->
    _ = ets:update_counter(?MODULE, Name, {Column, 1}, {Name, 0, 0}),
    ok.
