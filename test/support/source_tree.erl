%% The folder of the project, wherever rebar3 has put what it compiled.
-module(source_tree).

-export([root/0]).

root() ->
    {ok, Erlang} = file:read_link_all(filename:join(code:lib_dir(proctab), "erlang")),
    filename:dirname(filename:absname(Erlang, code:lib_dir(proctab))).
