%% A native function that does nothing, with as many arguments as `find/2`, and two that return the
%% processor time of the calling thread, and of the whole VM, in nanoseconds.
-module(empty_nif).

-export([call/2, thread_time/0, vm_time/0]).

-on_load(load/0).
-nifs([call/2, thread_time/0, vm_time/0]).

load() ->
    erlang:load_nif(filename:rootname(code:which(?MODULE)), 0).

call(_Zone, _Name) ->
    erlang:nif_error(not_loaded).

thread_time() ->
    erlang:nif_error(not_loaded).

vm_time() ->
    erlang:nif_error(not_loaded).
