%% How the library's functions raise `badarg': `proctab_errors' has the shell name the argument that was bad. It looks when that happens: by the time the error is
%% printed, the zone may have ended.
-define(BADARG(Arguments), error(badarg, Arguments, proctab_errors:info(?MODULE, ?FUNCTION_NAME, Arguments))).

%% The same for a call of another function.
-define(OR_BADARG(Call, Arguments), try Call catch error:badarg -> ?BADARG(Arguments) end).
