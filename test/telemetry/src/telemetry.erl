%% A stand-in for the library `telemetry', with the functions that handlers are attached by. It
%% catches nothing that a handler raises, which the library does.
-module(telemetry).

-export([attach/4, attach_many/4, detach/1, execute/2, execute/3]).

attach(Id, Event, Handler, Config) ->
    attach_many(Id, [Event], Handler, Config).

attach_many(Id, Events, Handler, Config) when is_function(Handler, 4) ->
    Handlers = handlers(),
    case Handlers of
        #{Id := _} -> {error, already_exists};
        _ -> persistent_term:put(?MODULE, Handlers#{Id => {Events, Handler, Config}})
    end.

detach(Id) ->
    case handlers() of
        #{Id := _} = Handlers -> persistent_term:put(?MODULE, maps:remove(Id, Handlers));
        _ -> {error, not_found}
    end.

execute(Event, Measurements) ->
    execute(Event, Measurements, #{}).

execute(Event, Measurements, Metadata) when is_map(Measurements), is_map(Metadata) ->
    [
        Handler(Event, Measurements, Metadata, Config)
     || {Events, Handler, Config} <- maps:values(handlers()), lists:member(Event, Events)
    ],
    ok.

handlers() ->
    persistent_term:get(?MODULE, #{}).
