%% A backend of the application metrics that is `counter_backend`, but waits on the way up for names
%% of the form `{slow, Pid}`: the process `Pid` receives `{updating, Caller}`, and the caller waits
%% until it is sent `go`.
-module(slow_backend).

-export([caller/0]).
-export([new/3, update/3, update_or_create/4, delete/2]).

%% Returns a slow name and a process that is tracking itself under this name and waits in the
%% backend. When tracked, the process lives until it is sent `stop`.
caller() ->
    ok = metrics:backend(?MODULE),
    Name = {slow, self()},
    metrics:new(counter, Name),
    Caller = spawn(fun() ->
        ok = metrics_process_tracker:track(Name),
        receive
            stop -> ok
        end
    end),
    receive
        {updating, Caller} -> {Name, Caller}
    end.

%% Called by metrics

new(Type, Name, Config) ->
    (counter_backend:name()):new(Type, Name, Config).

update({slow, Pid} = Name, {c, 1} = Probe, Config) ->
    Pid ! {updating, self()},
    receive
        go -> ok
    end,
    (counter_backend:name()):update(Name, Probe, Config);
update(Name, Probe, Config) ->
    (counter_backend:name()):update(Name, Probe, Config).

update_or_create(Name, Probe, Type, Config) ->
    (counter_backend:name()):update_or_create(Name, Probe, Type, Config).

delete(Name, Config) ->
    (counter_backend:name()):delete(Name, Config).
