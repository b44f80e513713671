%% Children like those of `tracked_child`, in a module that exports `after_terminate/3`: it calls
%% the fun that the child has in its attribute `last`, with what it was called with itself.
-module(tracked_child_reason).

-export([start_link/1, after_terminate/2, after_terminate/3]).
-export([spec/2, open/4, tell/0, gate/0]).

start_link(Test) ->
    tracked_child:start_link(Test).

after_terminate(Name, Attrs, Reason) ->
    case lists:keyfind(last, 1, Attrs) of
        {last, Last} -> Last(Name, lists:sort(Attrs), Reason);
        false -> ok
    end.

%% Must not be called as long as there is `after_terminate/3`; the reason would give it away.
after_terminate(Name, Attrs) ->
    after_terminate(Name, Attrs, no_reason).

spec(Name, Restart) ->
    {Name, {?MODULE, start_link, [self()]}, Restart}.

open(Zone, Name, Restart, Last) ->
    {ok, Child} = gen_tracker:find_or_open(Zone, spec(Name, Restart)),
    {started, Child} = tracked_child:await(started),
    ok = gen_tracker:setattr(Zone, Name, last, Last),
    Child.

%% Last words: telling the test.
tell() ->
    Test = self(),
    fun(Name, Attrs, Reason) -> Test ! {last, Name, Attrs, Reason} end.

%% Last words that take until the process named in `{cleaning, Name, Cleaner}` is sent `go`.
gate() ->
    Test = self(),
    fun(Name, _, _) ->
        Test ! {cleaning, Name, self()},
        receive
            go -> ok
        end
    end.
