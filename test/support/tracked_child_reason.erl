%% Children like those of `tracked_child`, with an `after_terminate/3` that calls the fun in the
%% child's attribute `last` with its own arguments.
-module(tracked_child_reason).

-export([start_link/1, after_terminate/2, after_terminate/3]).
-export([spec/2, open/3, open/4, open/5, cleaning/2, cleaning/3]).
-export([tell/0, gate/0, telling/1, told/1]).

-import(messages, [await/2]).

start_link(Test) ->
    tracked_child:start_link(Test).

after_terminate(Name, Attrs, Reason) ->
    case lists:keyfind(last, 1, Attrs) of
        {last, Last} -> Last(Name, lists:sort(Attrs), Reason);
        false -> ok
    end.

%% The library must not call this function, because there is `after_terminate/3`. A case would see
%% the reason `no_reason`.
after_terminate(Name, Attrs) ->
    after_terminate(Name, Attrs, no_reason).

spec(Name, Restart) ->
    {Name, {?MODULE, start_link, [self()]}, Restart}.

%% Opens a temporary child with the fun `Last`, and returns its pid.
open(Zone, Name, Last) ->
    open(Zone, Name, temporary, Last).

open(Zone, Name, Restart, Last) ->
    open(Zone, Name, Restart, 200, Last).

open(Zone, Name, Restart, Shutdown, Last) ->
    Spec = {Name, {?MODULE, start_link, [self()]}, Restart, Shutdown, worker, []},
    {ok, Child} = gen_tracker:find_or_open(Zone, Spec),
    {started, Child} = await(started, Child),
    ok = gen_tracker:setattr(Zone, Name, last, Last),
    Child.

%% Makes `Name` a terminating child, and returns its keeper, which stays in `after_terminate/3`
%% until it receives `go`.
cleaning(Zone, Name) ->
    Child = open(Zone, Name, gate()),
    exit(Child, kill),
    {cleaning, Name, Cleaner} = await(cleaning, Name),
    Cleaner.

%% Like `cleaning/2`. After `go` the keeper calls `Ask`, and sends `{told, Name, Result}` to the
%% test.
cleaning(Zone, Name, Ask) ->
    Last = telling(fun() ->
        receive
            go -> Ask()
        end
    end),
    Child = open(Zone, Name, Last),
    exit(Child, kill),
    {asking, Name, Cleaner} = await(asking, Name),
    Cleaner.

%%% Funs for `last`

%% Sends `{last, Name, Attributes, Reason}` to the test.
tell() ->
    Test = self(),
    fun(Name, Attrs, Reason) -> Test ! {last, Name, Attrs, Reason} end.

%% Sends `{cleaning, Name, Keeper}` to the test, and returns when the keeper receives `go`.
gate() ->
    Test = self(),
    fun(Name, _, _) ->
        Test ! {cleaning, Name, self()},
        receive
            go -> ok
        end
    end.

%% Sends `{asking, Name, Keeper}` to the test, calls `Ask`, and sends `{told, Name, Result}`.
telling(Ask) ->
    Test = self(),
    fun(Name, _, _) ->
        Test ! {asking, Name, self()},
        Test ! {told, Name, Ask()}
    end.

%% Returns the result in `told`, or after two seconds `no_answer`.
told(Name) ->
    receive
        {told, Name, Answer} -> Answer
    after 2000 -> no_answer
    end.
