%% A log handler that sends all events to a process, and functions that look for certain events, or
%% keep the log empty.
-module(kept_log).

-export([without/1, keep/0, forget/0, log/2, await/2, taken/1, event/1]).
-export([supervisor/1, crash/1, labelled/2]).

%% Calls a fun while nothing is logged.
without(Fun) ->
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    try
        Fun()
    after
        ok = logger:set_primary_config(level, Level)
    end.

%% From now on the caller receives the events of all levels, until `forget/0`.
keep() ->
    #{level := Level} = logger:get_primary_config(),
    Silent = [
        {Handler, Its}
     || #{id := Handler, level := Its} <- logger:get_handler_config(), Its =:= all
    ],
    persistent_term:put(?MODULE, {Level, Silent}),
    [ok = logger:set_handler_config(Handler, level, Level) || {Handler, _} <- Silent],
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => self()}),
    ok = logger:set_primary_config(level, debug).

forget() ->
    case persistent_term:get(?MODULE, none) of
        none ->
            ok;
        {Level, Silent} ->
            ok = logger:set_primary_config(level, Level),
            ok = logger:remove_handler(?MODULE),
            [ok = logger:set_handler_config(Handler, level, Its) || {Handler, Its} <- Silent],
            _ = persistent_term:erase(?MODULE),
            ok
    end.

log(Event, #{config := Pid}) ->
    Pid ! {event, Event}.

%% Waits for so many events of a kind, and returns what `Kind` makes of them. `Kind` returns
%% `false` for all other events, which are dropped.
await(0, _) ->
    [];
await(Number, Kind) ->
    receive
        {event, Event} ->
            case Kind(Event) of
                false -> await(Number, Kind);
                Found -> [Found | await(Number - 1, Kind)]
            end
    after 5000 -> ct:fail({so_many_not_logged, Number})
    end.

%% Returns the events of a kind that have arrived, and drops all others.
taken(Kind) ->
    receive
        {event, Event} ->
            case Kind(Event) of
                false -> taken(Kind);
                Found -> [Found | taken(Kind)]
            end
    after 0 -> []
    end.

%% The kind of all events.
event(Event) ->
    Event.

%% The kind of the reports of supervisors. Returns the event.
supervisor(#{msg := {report, #{label := {supervisor, _}}}} = Event) -> Event;
supervisor(_) -> false.

%% The kind of crash reports. Returns the properties of the crashed process.
crash(#{msg := {report, #{label := {proc_lib, crash}, report := [Info | _]}}}) -> Info;
crash(_) -> false.

%% The kind of reports with this label of the library, or with any label of it. Returns the report.
labelled(Part, #{msg := {report, #{label := {gen_tracker, What}} = Report}}) when
    Part =:= any; Part =:= What
->
    Report;
labelled(_, _) ->
    false.
