%% @private
%% Counter operations that the table cannot do in one step.
-module(gen_tracker_attributes).

-export([update/5]).

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
