%% A handler of the log that sends all events to a process, and what such events say.
-module(kept_log).

-export([keep/0, forget/0, log/2, await/2, taken/1, event/1]).
-export([supervisor/1, crash/1, labelled/2]).

%% From now on, until `forget/0', the caller receives all events, of any level.
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

%% So many events of a kind: for each, what the fun makes of it. It gives `false' for all others.
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

%% Those of a kind that have come.
taken(Kind) ->
    receive
        {event, Event} ->
            case Kind(Event) of
                false -> taken(Kind);
                Found -> [Found | taken(Kind)]
            end
    after 0 -> []
    end.

%% Any event.
event(Event) ->
    Event.

%% A report of a supervisor, whole.
supervisor(#{msg := {report, #{label := {supervisor, _}}}} = Event) -> Event;
supervisor(_) -> false.

%% The properties of a process whose crash is reported.
crash(#{msg := {report, #{label := {proc_lib, crash}, report := [Info | _]}}}) -> Info;
crash(_) -> false.

%% A report with a label of the library; all of them when the second part is `any'.
labelled(Part, #{msg := {report, #{label := {gen_tracker, What}} = Report}}) when
    Part =:= any; Part =:= What
->
    Report;
labelled(_, _) ->
    false.
