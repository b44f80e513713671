%% @private
%% Waiting for the running child of a name, or for an attribute.
-module(gen_tracker_waiting).

-export([await/4]).

%% The longest timeout of a `receive', in milliseconds.
-define(LONGEST_TIMEOUT, 16#ffffffff).

-type what() :: child | {attribute, gen_tracker:key()}.

%% @doc Returns the running child of a name or the value of an attribute, after waiting for it to
%% appear for at most `Timeout' milliseconds.
%%
%% The caller is a waiter of the table, which wakes it with one message when the name gets a running
%% child, or the attribute. Then it looks again. The look between `wait_for/3' and the `receive'
%% finds what appeared before the caller was a waiter.
-spec await(gen_tracker:zone(), gen_tracker:name(), what(), timeout()) ->
          {ok, pid() | gen_tracker:value()} | undefined.
await(Zone, Name, What, Timeout) ->
    case look(Zone, Name, What) of
        undefined when Timeout =/= 0 -> wait(Zone, Name, What, deadline(Timeout));
        Found -> Found
    end.

look(Zone, Name, child) -> proctab_nif:find(Zone, Name);
look(Zone, Name, {attribute, Key}) -> proctab_nif:getattr(Zone, Name, Key).

wait_for(Zone, Name, child) -> proctab_nif:wait_for_child(Zone, Name);
wait_for(Zone, Name, {attribute, Key}) -> proctab_nif:wait_for(Zone, Name, Key).

wait(Zone, Name, What, Deadline) ->
    %% The zone may be replaced by one of the same name at any moment. Waiter and monitor belong to
    %% the same tracker.
    {Waiter, Id, Tracker} = wait_for(Zone, Name, What),
    Monitor = monitor(process, Tracker),
    Alias = may_wait(Zone, Name, What, Tracker),
    Answer =
        try look(Zone, Name, What) of
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
                0 -> look(Zone, Name, What);
                _ -> wait(Zone, Name, What, Deadline)
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
%% `refused', or nothing until the name's child has ended. A start function may wait for an
%% attribute that its own child sets, but not for that child. Returns the alias of the request.
may_wait(Zone, Name, What, Tracker) ->
    Parent = gen_tracker_waits:parent(),
    case lists:any(fun(Pid) -> is_in_callback(Zone, Pid) end, [self(), Parent]) of
        true -> ask({request(What), Name, Parent}, Tracker);
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
ask(Request, Tracker) ->
    Alias = alias(),
    Tracker ! {'$gen_call', from(Alias), Request},
    Alias.

request(child) -> await_child;
request({attribute, _}) -> look_up.

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
