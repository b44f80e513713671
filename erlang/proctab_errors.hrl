%% How the library's functions raise `badarg': `proctab_errors' has the shell name the argument that was bad.
-define(BADARG(Arguments), error(badarg, Arguments, [{error_info, #{module => proctab_errors}}])).

%% The same for a call of another function.
-define(OR_BADARG(Call, Arguments), try Call catch error:badarg -> ?BADARG(Arguments) end).
