%% Time in ms for what the contract promises at once.
-define(SOON, 2000).
%% Time in ms for what the contract promises within three seconds.
-define(LIMIT, 12000).
