%% Raises `badarg' with `error_info', so that the shell names the bad argument (`proctab_errors').
%% The cause is determined now: the zone may have ended before the error is printed.
-define(BADARG(Arguments),
    error(badarg, Arguments, proctab_errors:info(?MODULE, ?FUNCTION_NAME, Arguments))
).

%% Evaluates a call, and raises its `badarg' as `?BADARG' does.
-define(OR_BADARG(Call, Arguments),
    try
        Call
    catch
        error:badarg -> ?BADARG(Arguments)
    end
).
