%% The requests for a name that wait while the child of that name is starting or terminating.
-module(name_requests).

-export([all/3, ask/1, answers/1]).

-import(tracked_child, [loose/1, plain/1, full/1]).

%% Returns a list of `{Request, Ask, Answer}`: the answer is the one to a refused request. Refused
%% requests return `Refused`, except `register_name/2`, which returns `no`.
all(Zone, Name, Refused) ->
    Other = loose(start_link),
    Add = fun(Child) -> gen_tracker:add_existing_child(Zone, Child) end,
    [
        {find_or_open, fun() -> gen_tracker:find_or_open(Zone, plain(Name)) end, Refused},
        {start_child, fun() -> supervisor:start_child(Zone, full(Name)) end, Refused},
        {terminate_child, fun() -> supervisor:terminate_child(Zone, Name) end, Refused},
        {delete_child, fun() -> supervisor:delete_child(Zone, Name) end, Refused},
        {register_name, fun() -> gen_tracker:register_name({Zone, Name}, Other) end, no},
        {add, fun() -> Add({Name, Other, worker, []}) end, Refused},
        {add_full, fun() -> Add({Other, full(Name)}) end, Refused}
    ].

%% Returns a fun that makes these requests, one after the other, and returns the answers.
ask(Requests) ->
    fun() -> [{Request, Ask()} || {Request, Ask, _} <- Requests] end.

%% Returns the answers in the list, as the fun of `ask/1` does.
answers(Requests) ->
    [{Request, Answer} || {Request, _, Answer} <- Requests].
