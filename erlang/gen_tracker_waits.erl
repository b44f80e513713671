%% @private
%% The graph of waits of a zone, in its tracker: which keepers wait for which.
%%
%% A keeper waits while its start function or its `after_terminate', or a process that has the
%% keeper at the head of its `$ancestors', waits for the answer to a request. That keeper is the
%% asker of the request. A request that would close a cycle of such waits must be refused.
-module(gen_tracker_waits).

-export([parent/0, parent/1]).
-export([new/0, asker/2, closes_cycle/4, add/4, remove/3]).

-export_type([waits/0, asker/0]).

%% The dictionary of a process with a larger heap is not copied to find its ancestors, in words.
-define(LARGE_HEAP, 200000).

-record(waits, {
    %% What the requests of each asker wait for, with the processes that have sent them.
    by_asker = #{} :: #{Asker :: pid() =>
                            #{Number :: pos_integer() => {waited(), Caller :: pid()}}}
}).

-opaque waits() :: #waits{}.
%% A callback that looks up a name without a child waits for the next keeper of that name.
-type waited() :: Keeper :: pid() | {name, gen_tracker:name()}.
-type asker() :: {Keeper :: pid(), starting | terminating | waiting} | none.

%% @doc Returns the head of the calling process's `$ancestors', if that is a process of this node,
%% or else `undefined'. If a start function or an `after_terminate' has started the calling
%% process, that is its keeper.
-spec parent() -> pid() | undefined.
parent() ->
    case get('$ancestors') of
        [Parent | _] -> local(Parent);
        _ -> undefined
    end.

%% @doc Like {@link parent/0}, for the caller of a request that does not contain its parent. Returns
%% a list, which is empty if the caller's dictionary has no parent or is too large to be read.
-spec parent(gen_server:from()) -> [pid() | undefined].
parent({Pid, _}) when node(Pid) =:= node() ->
    case process_info(Pid, total_heap_size) of
        {total_heap_size, Words} when Words < ?LARGE_HEAP -> parent_of(Pid);
        _ -> []
    end;
parent(_) ->
    [].

parent_of(Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} ->
            case lists:keyfind('$ancestors', 1, Dictionary) of
                {_, [Parent | _]} -> [local(Parent)];
                _ -> []
            end;
        undefined ->
            []
    end.

local(Pid) when is_pid(Pid), node(Pid) =:= node() -> Pid;
local(Name) when is_atom(Name) -> whereis(Name);
local(_) -> undefined.

%% @doc Returns a graph without waits.
-spec new() -> waits().
new() ->
    #waits{}.

%% @doc Returns the first of these processes that is a keeper with a callback, and what it is doing.
-spec asker([pid()], gen_tracker:zone()) -> asker().
asker([Caller | Callers], Zone) ->
    case proctab_nif:kept(Zone, Caller) of
        {_, State, _, _} when State =:= launching; State =:= restarting -> {Caller, starting};
        {_, terminating, _, _} -> {Caller, terminating};
        _ -> asker(Callers, Zone)
    end;
asker([], _) ->
    none.

%% @doc Returns whether there is a cycle of waits if the asker waits for this keeper.
-spec closes_cycle(asker(), Keeper :: pid(), gen_tracker:zone(), waits()) -> boolean().
closes_cycle(none, _, _, _) ->
    false;
closes_cycle({Asker, _}, Keeper, Zone, Waits) ->
    reaches(Asker, [Keeper], Zone, Waits, #{}).

reaches(_, [], _, _, _) ->
    false;
reaches(Asker, [Asker | _], _, _, _) ->
    true;
reaches(Asker, [Keeper | Keepers], Zone, Waits, Seen) when is_map_key(Keeper, Seen) ->
    reaches(Asker, Keepers, Zone, Waits, Seen);
reaches(Asker, [Keeper | Keepers], Zone, #waits{by_asker = ByAsker} = Waits, Seen) ->
    %% A dead process no longer waits.
    More = [
        Other
     || {Waited, Caller} <- maps:values(maps:get(Keeper, ByAsker, #{})),
        gen_tracker_keeper:is_alive(Caller),
        Other <- keepers(Waited, Zone)
    ],
    reaches(Asker, More ++ Keepers, Zone, Waits, Seen#{Keeper => seen}).

keepers({name, Name}, Zone) ->
    case proctab_nif:child(Zone, Name) of
        {_, _, Keeper, _} -> [Keeper];
        undefined -> []
    end;
keepers(Keeper, _) ->
    [Keeper].

%% @doc Adds a wait, by a number that no other one has.
-spec add(Asker :: pid() | none, Number :: pos_integer(), {waited(), Caller :: pid()}, waits()) ->
          waits().
add(none, _, _, Waits) ->
    Waits;
add(Asker, Number, Wait, #waits{by_asker = ByAsker}) ->
    Others = maps:get(Asker, ByAsker, #{}),
    #waits{by_asker = ByAsker#{Asker => Others#{Number => Wait}}}.

%% @doc Removes a wait.
-spec remove(Asker :: pid() | none, Number :: pos_integer(), waits()) -> waits().
remove(none, _, Waits) ->
    Waits;
remove(Asker, Number, #waits{by_asker = ByAsker}) ->
    case maps:remove(Number, map_get(Asker, ByAsker)) of
        Left when map_size(Left) =:= 0 -> #waits{by_asker = maps:remove(Asker, ByAsker)};
        Left -> #waits{by_asker = ByAsker#{Asker := Left}}
    end.
