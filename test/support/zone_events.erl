%% The events of a zone, as its subscribers receive them.
-module(zone_events).

-export([next/1, rest/1, sender/1]).

%% Returns the next event of a zone. Fails after ten seconds.
next(Zone) ->
    receive
        {gen_tracker, Zone, Event} -> Event
    after 10000 -> ct:fail(no_event)
    end.

%% Returns all events until the end of the subscription.
rest(Zone) ->
    case next(Zone) of
        unsubscribed -> [];
        Event -> [Event | rest(Zone)]
    end.

%% Returns the process that sends the events. It is the only process that monitors `Subscriber`.
sender(Subscriber) ->
    {monitored_by, [Sender]} = process_info(Subscriber, monitored_by),
    Sender.
