%% Parts of the state of a tracker that its functions do not return.
-module(tracker_state).

-export([tag/1, context/1, waiting/1]).

%% Returns the tag that the processes of a zone put into their messages to the tracker.
tag(Zone) ->
    element(3, sys:get_state(Zone)).

%% Returns what the processes of a zone share.
context(Zone) ->
    element(4, sys:get_state(Zone)).

%% Returns the requests that wait: a map from each keeper to a list of `{Request, From}`.
waiting(Zone) ->
    State = tuple_to_list(sys:get_state(Zone)),
    [Requests] = [Part || Part <- State, is_tuple(Part), element(1, Part) =:= requests],
    Describe = fun(_, Queue) ->
        [{element(2, Request), element(6, Request)} || {_, {_, Request}} <- maps:values(Queue)]
    end,
    Queues = element(3, Requests),
    maps:map(Describe, element(3, Queues)).
