-define(ZONE, model_tracker).
%% The attribute that start functions set.
-define(BOOKS, model_tracker).

%% How a child is started: by which form of a child spec, what its start function does the first
%% time (`how') and the second time (`again') that a keeper calls it, what that asks the zone before
%% (`asks'), and what `after_terminate' asks (`last'). The `tag' tells specs apart.
%% A child of the form `added' has no start function.
-record(spec, {form, restart, how = ok, again = ok, asks = none, last = none, tag}).
