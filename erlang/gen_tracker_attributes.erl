%% @private
%% Operations on attributes that need more than one native call: waiting for an attribute, and
%% counter operations that the table cannot do in one step.
-module(gen_tracker_attributes).

-export([await/4, update/5]).

%% The longest timeout of a `receive', in milliseconds.
-define(LONGEST_TIMEOUT, 16#ffffffff).

%%% Waiting

%% @doc Returns the value of an attribute, after waiting for the attribute to appear for at most
%% `Timeout' milliseconds.
%%
%% The caller is a waiter of the table, which wakes it with one message when the name gets another
%% attribute. Then it looks again. The look between `wait_for/2' and the `receive' finds an
%% attribute that was set before the caller was a waiter.
-spec await(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(), timeout()) ->
          {ok, gen_tracker:value()} | undefined.
await(Zone, Name, Key, Timeout) ->
    case proctab_nif:getattr(Zone, Name, Key) of
        undefined when Timeout =/= 0 -> wait(Zone, Name, Key, deadline(Timeout));
        Found -> Found
    end.

wait(Zone, Name, Key, Deadline) ->
    %% The zone may be replaced by one of the same name at any moment. Waiter and monitor belong to
    %% the same tracker.
    {Waiter, Id, Tracker} = proctab_nif:wait_for(Zone, Name),
    Monitor = monitor(process, Tracker),
    Alias = may_wait(Zone, Name, Tracker),
    Answer =
        try proctab_nif:getattr(Zone, Name, Key) of
            undefined ->
                receive
                    {'$proctab_woken', Id} ->
                        %% If another process has sent this message, the table still has the waiter.
                        _ = proctab_nif:stop_waiting(Waiter),
                        again;
                    {'DOWN', Monitor, process, _, _} ->
                        stop_waiting(Waiter, Id),
                        again;
                    {[alias | Alias], refused} ->
                        stop_waiting(Waiter, Id),
                        undefined;
                    {[alias | Alias], _} ->
                        stop_waiting(Waiter, Id),
                        again
                after left(Deadline) ->
                    stop_waiting(Waiter, Id),
                    again
                end;
            Found ->
                stop_waiting(Waiter, Id),
                Found
        catch
            error:badarg ->
                stop_waiting(Waiter, Id),
                error(badarg)
        after
            stop_asking(Alias, Tracker),
            demonitor(Monitor, [flush])
        end,
    case Answer of
        again ->
            case left(Deadline) of
                0 -> proctab_nif:getattr(Zone, Name, Key);
                _ -> wait(Zone, Name, Key, Deadline)
            end;
        _ ->
            Answer
    end.

%% Removes the waiter, or takes the message that the table has sent it.
stop_waiting(Waiter, Id) ->
    proctab_nif:stop_waiting(Waiter) orelse
        receive
            {'$proctab_woken', Id} -> true
        end.

deadline(infinity) -> infinity;
deadline(Timeout) -> erlang:monotonic_time(millisecond) + Timeout.

left(infinity) -> ?LONGEST_TIMEOUT;
left(Deadline) -> min(?LONGEST_TIMEOUT, max(0, Deadline - erlang:monotonic_time(millisecond))).

%% A start function or `after_terminate' of the same zone must not wait, directly or not, for its
%% own end. So it asks the tracker, which knows all waits of the zone. The tracker answers
%% `refused', or nothing until the name's child has ended. Returns the alias of the request.
may_wait(Zone, Name, Tracker) ->
    Parent = gen_tracker_requests:parent(),
    case lists:any(fun(Pid) -> is_in_callback(Zone, Pid) end, [self(), Parent]) of
        true -> ask(Name, Tracker, Parent);
        false -> make_ref()
    end.

%% If the zone has just ended, there is no callback to refuse.
is_in_callback(Zone, Pid) when is_pid(Pid) ->
    try proctab_nif:kept(Zone, Pid) of
        {_, State, _, _} -> lists:member(State, [launching, restarting, terminating]);
        undefined -> false
    catch
        error:badarg -> false
    end;
is_in_callback(_, undefined) ->
    false.

%% A call as `gen_server' sends it, without waiting for the answer.
ask(Name, Tracker, Parent) ->
    Alias = alias(),
    Tracker ! {'$gen_call', from(Alias), {look_up, Name, Parent}},
    Alias.

-dialyzer({no_improper_lists, from/1}).
from(Alias) ->
    {self(), [alias | Alias]}.

stop_asking(Alias, Tracker) ->
    case unalias(Alias) of
        true ->
            gen_server:cast(Tracker, {abandon_look_up, from(Alias)}),
            receive
                {[alias | Alias], _} -> ok
            after 0 -> ok
            end;
        false ->
            ok
    end.

%%% Counters

%% @doc Applies a counter operation of `ets:update_counter/3' to an attribute, and returns the new
%% value. Reads the value, computes the new one here, and sets it if the attribute has not changed
%% meanwhile; otherwise tries again. `Default' takes the place of a missing attribute, if it is an
%% integer. Raises `badarg' if there is no integer to operate on, or the operation is malformed.
%%
%% The table itself adds integers of up to 62 bits.
-spec update(gen_tracker:zone(), gen_tracker:name(), gen_tracker:key(), Operation,
             Default :: term()) -> integer() when
      Operation :: {2, Increment :: integer()}
                 | {2, Increment :: integer(), Threshold :: integer(), SetValue :: integer()}.
update(Zone, Name, Key, Operation, Default) ->
    {IsSet, Result} =
        case proctab_nif:getattr(Zone, Name, Key) of
            {ok, Value} when is_integer(Value) ->
                New = updated(Operation, Value),
                {proctab_nif:replace(Zone, Name, Key, Value, New), New};
            undefined when is_integer(Default) ->
                New = updated(Operation, Default),
                {proctab_nif:set_missing(Zone, Name, Key, New), New};
            _ ->
                error(badarg)
        end,
    case IsSet of
        true -> Result;
        false -> update(Zone, Name, Key, Operation, Default)
    end.

updated({2, Increment}, Value) when is_integer(Increment) ->
    Value + Increment;
updated({2, Increment, Threshold, SetValue}, Value)
        when is_integer(Increment), is_integer(Threshold), is_integer(SetValue) ->
    case Value + Increment of
        Sum when Increment < 0, Sum < Threshold -> SetValue;
        Sum when Increment >= 0, Sum > Threshold -> SetValue;
        Sum -> Sum
    end;
updated(_, _) ->
    error(badarg).
