%% What start functions and `after_terminate/3` may do to the process that calls them.
-module(foreign_code).

-export([misbehave/1]).

%% Does one misdeed, or all of them, in the calling process.
misbehave(untrap) ->
    process_flag(trap_exit, false);
misbehave(unlink) ->
    {links, Links} = process_info(self(), links),
    lists:foreach(fun unlink/1, Links);
misbehave(flush) ->
    messages:flush();
misbehave(erase) ->
    erase();
misbehave(everything) ->
    lists:foreach(fun misbehave/1, [untrap, unlink, flush, erase]).
