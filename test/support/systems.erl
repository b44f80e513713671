%% The systems in which nodes of cluster zones run.
%%
%% The environment variable CLUSTER_SYSTEMS has the root folders of systems, separated by colons.
%% The first node of a test is started in the first one, the next node in the next one, and so on in
%% turn. `/`, the default, is this system. Any other one is made by `tools/otp`: it has its own OTP,
%% a library compiled by that OTP, and the folder of the compiled tests of this system.
-module(systems).

-export([all/0, options/1]).

%% Programs of another system are looked up there.
-define(PATH, "/usr/sbin:/usr/bin:/sbin:/bin").

%% The compiled library in another system.
-define(EBIN, "/proctab/_build/test/lib/proctab/ebin").

%% Returns the root folders.
all() ->
    string:lexemes(os:getenv("CLUSTER_SYSTEMS", "/"), ":").

%% Returns the options of `peer:start_link/1` for a node in a system.
options("/") ->
    #{args => ["-pa" | source_tree:code_paths()]};
options(Root) ->
    %% The tests run compiled by the OTP of this system, so that nodes can send each other funs.
    Tests = source_tree:code_paths() -- [filename:join(source_tree:library(), "ebin")],
    #{
        exec => {os:find_executable("chroot", ?PATH), [Root, "/usr/bin/erl"]},
        env => [{"PATH", ?PATH}, {"HOME", "/root"}],
        args => ["-pa", ?EBIN | Tests]
    }.
