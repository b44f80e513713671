%% Terms that a tracker answers and that no start function returns.

%% The answer to a request that must not claim the name, which is free.
-define(UNDECIDED, '$gen_tracker_undecided').

%% The result of a start that has only reserved the name while it ran. Only the caller that has
%% started it gets this result. Requests that have waited for it look at the name again.
-define(RESERVED(Result), {error, {'$gen_tracker_reserved', Result}}).
