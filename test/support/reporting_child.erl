%% Children that report their end: `after_terminate/3` sends `{last, Name, Attributes, Reason}` to
%% the first element of the child's name, if the name is a pair with the pid of the test.
-module(reporting_child).

-export([start/1, after_terminate/3]).

%% A start function that returns what `Start` returns.
start(Start) ->
    Start().

after_terminate({Test, _} = Name, Attributes, Reason) when is_pid(Test) ->
    Test ! {last, Name, Attributes, Reason};
after_terminate(_, _, _) ->
    ok.
