-define(ZONE, model_tracker).
%% The attribute in which start functions store the table of the program.
-define(TABLE_KEY, model_tracker).

%% How a child starts and ends:
%%
%% - `form`: the form of the child spec; `added` for a process without a start function;
%% - `how`, `again`: what the start function does when a keeper calls it for the first and the
%%   second time;
%% - `asks`: a call of the zone that the start function makes before that;
%% - `last`: what `after_terminate` does, or the call that it makes;
%% - `tag`: distinguishes specs.
-record(spec, {form, restart, how = ok, again = ok, asks = none, last = none, tag}).
