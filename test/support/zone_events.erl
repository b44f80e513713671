%% The events of a zone, as its subscribers receive them.
-module(zone_events).

-export([next/1, rest/1, sender/1, has_subscribers/1, pages/0]).

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

%% Whether a tracker's zone has subscribers that have not been told of its end.
has_subscribers(Tracker) ->
    lists:keymember(Tracker, 1, lists:append(pages())).

%% Returns the pages of all subscriptions.
pages() ->
    pages(none).

pages(done) ->
    [];
pages(From) ->
    {Page, Next} = proctab_nif:subscriptions(From),
    [Page | pages(Next)].
