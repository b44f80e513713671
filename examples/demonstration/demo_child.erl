%% A child of the demonstration. It reads its file in blocks, counts the bytes in an attribute, and
%% then waits.
%%
%% Its attributes are `path`, `size` (`unknown` until the file is open), `bytes` (counted by
%% `increment`), `state` (`waiting`, `reading`, `done`, or `{unreadable, Reason}`), and, when it is
%% done, `read`: the sum of bytes, counted without the library. It sets them in steps that a reader
%% sees in full or not at all (`whole/2`).
%%
%% A gate lets few children read at a time, because there may be more children than the system can
%% have open files.
-module(demo_child).

-include_lib("kernel/include/file.hrl").

-export([spec/4, path/2, whole/2]).
-export([start_gate/1]).
-export([start_link/4, init/4, idle/0, after_terminate/3]).

-define(SMALL_BLOCK, 4096).
-define(LARGE_BLOCK, 1048576).

spec(Zone, Gate, Dir, {Name, Restart}) ->
    {Name, {?MODULE, start_link, [Zone, Gate, Dir, Name]}, Restart, 5000, worker, [?MODULE]}.

%% Returns the path of a child's file. Its name is the path below the folder, in the encoding of the
%% file system.
path(Dir, Name) ->
    <<Dir/binary, "/", Name/binary>>.

start_link(Zone, Gate, Dir, Name) ->
    demo_books:started(Name),
    proc_lib:start_link(?MODULE, init, [Zone, Gate, Dir, Name]).

init(Zone, Gate, Dir, Name) ->
    ok = gen_tracker:init_ack({ok, self()}),
    case gen_tracker:attrs(Zone, Name) of
        [] -> ok;
        Attributes -> demo_books:wrong('a child starts with attributes', {Name, Attributes})
    end,
    Path = path(Dir, Name),
    ok = gen_tracker:setattr(Zone, Name, [
        {path, Path},
        {size, unknown},
        {bytes, 0},
        {state, waiting}
    ]),
    enter(Gate),
    Outcome = read_file(Zone, Name, Path),
    leave(Gate),
    ok = gen_tracker:setattr(Zone, Name, Outcome),
    proc_lib:hibernate(?MODULE, idle, []).

idle() ->
    receive
        _ -> proc_lib:hibernate(?MODULE, idle, [])
    end.

after_terminate(Name, Attributes, Reason) ->
    demo_books:ended(Name, Attributes, Reason).

read_file(Zone, Name, Path) ->
    case file:open(Path, [read, raw, binary]) of
        {ok, File} ->
            Outcome = read_open_file(Zone, Name, File),
            _ = file:close(File),
            Outcome;
        {error, Reason} ->
            [{state, {unreadable, Reason}}]
    end.

read_open_file(Zone, Name, File) ->
    case file:read_file_info(File) of
        {ok, #file_info{size = Size}} ->
            ok = gen_tracker:setattr(Zone, Name, [{size, Size}, {state, reading}]),
            read_blocks(Zone, Name, File, block(Size), 0);
        {error, Reason} ->
            [{state, {unreadable, Reason}}]
    end.

%% Returns the size of blocks, so that small files have many, and large files not too many.
block(Size) ->
    max(?SMALL_BLOCK, min(Size div 64, ?LARGE_BLOCK)).

read_blocks(Zone, Name, File, Length, Before) ->
    case file:read(File, Length) of
        {ok, Block} ->
            Read = Before + byte_size(Block),
            case gen_tracker:increment(Zone, Name, bytes, byte_size(Block)) of
                Read -> ok;
                Counted ->
                    demo_books:wrong('increment returns another sum', {
                        Name,
                        {expected, Read},
                        {actual, Counted}
                    })
            end,
            read_blocks(Zone, Name, File, Length, Read);
        eof ->
            [{state, done}, {read, Before}];
        {error, Reason} ->
            [{state, {unreadable, Reason}}]
    end.

%% Whether a snapshot of attributes is one that a child made: without half of a step, and without
%% attributes of an earlier child of the name.
whole(_Path, []) ->
    true;
whole(Path, [{bytes, 0}, {path, Path}, {size, unknown}, {state, waiting}]) ->
    true;
whole(Path, [{bytes, Bytes}, {path, Path}, {size, Size}, {state, reading}]) ->
    is_integer(Bytes) andalso is_integer(Size);
whole(Path, [{bytes, Read}, {path, Path}, {read, Read}, {size, Size}, {state, done}]) ->
    is_integer(Read) andalso is_integer(Size);
whole(Path, [{bytes, Bytes}, {path, Path}, {size, Size}, {state, {unreadable, _}}]) ->
    is_integer(Bytes) andalso (is_integer(Size) orelse Size =:= unknown);
whole(_Path, _Attributes) ->
    false.

%% Starts a gate with at most `Width` children inside. A child that dies inside has left.
start_gate(Width) ->
    spawn_link(fun() -> gate(Width, queue:new(), #{}) end).

enter(Gate) ->
    Gate ! {enter, self()},
    receive
        {enter, Gate} -> ok
    end.

leave(Gate) ->
    Gate ! {leave, self()},
    ok.

gate(Free, Waiting, Inside) ->
    receive
        {enter, Child} when Free =:= 0 ->
            gate(0, queue:in(Child, Waiting), Inside);
        {enter, Child} ->
            gate(Free - 1, Waiting, admit(Child, Inside));
        {leave, Child} ->
            {Monitor, Others} = maps:take(Child, Inside),
            true = demonitor(Monitor, [flush]),
            admit_next(Free, Waiting, Others);
        {'DOWN', _Monitor, process, Child, _Reason} ->
            admit_next(Free, Waiting, maps:remove(Child, Inside))
    end.

admit(Child, Inside) ->
    Child ! {enter, self()},
    Inside#{Child => monitor(process, Child)}.

admit_next(Free, Waiting, Inside) ->
    case queue:out(Waiting) of
        {{value, Child}, Others} -> gate(Free, Others, admit(Child, Inside));
        {empty, Empty} -> gate(Free + 1, Empty, Inside)
    end.
