%% The demonstration: a zone with a child for each regular file below a folder.
%%
%% Each child reads its file and counts the bytes (`demo_child`), while other processes read the
%% children's attributes and kill some children (`demo_load`). A killed permanent child starts and
%% reads again, a temporary one does not. When all files are read, the demonstration compares the
%% bytes with the sizes of the files, ends all children, and balances the books (`demo_books`): what
%% was done, what the library reported, and what is left must agree.
%%
%% A file that cannot be read, or that changes meanwhile, is reported, and is no disagreement.
-module(demo_files).

-include_lib("kernel/include/file.hrl").

-export([main/0]).

-define(ZONE, files).
-define(READING_AT_ONCE, 32).
-define(LOAD_TIME, 5000).
-define(STALLED, 20000).

main() ->
    _ = [io:setopts([{encoding, unicode}]) || file:native_name_encoding() =:= utf8],
    Code =
        try
            run(folder(init:get_plain_arguments()))
        catch
            throw:{unusable, Line} ->
                io:format(standard_error, "demo: ~ts~n", [Line]),
                2;
            Class:Reason:Stack ->
                io:format("the demonstration crashed: ~tp~n", [{Class, Reason, Stack}]),
                1
        end,
    halt(Code).

run(Dir) ->
    {Files, Unreadable, Others} = walk(Dir),
    io:format("~ts: ~b regular files of ~ts; ~b other entries left out~n", [
        shown(Dir), length(Files), megabytes(lists:sum([Size || {_, Size, _} <- Files])), Others
    ]),
    process_flag(trap_exit, true),
    demo_books:open(),
    Before = processes(),
    Gate = demo_child:start_gate(?READING_AT_ONCE),
    {ok, Tracker} = gen_tracker:start_link(?ZONE),
    Specs = specs(Files),
    Load = load(Dir, Gate, Specs),
    Compared = compare(Dir, Files, Specs),
    {NamesLeft, AttributesLeft} = end_children(Specs),
    stop(Tracker, Gate),
    ProcessesLeft = processes_left(Before),
    [demo_books:balance(Name, Restart) || {Name, Restart} <- Specs],
    report(Specs, Load, Compared#{
        unreadable => Unreadable ++ maps:get(unreadable, Compared),
        left => [NamesLeft, AttributesLeft, ProcessesLeft]
    }).

%% Two children of three are permanent, the third is temporary.
specs(Files) ->
    [{Name, kind(N)} || {N, {Name, _Size, _Time}} <- lists:zip(lists:seq(1, length(Files)), Files)].

kind(N) when N rem 3 =:= 0 -> temporary;
kind(_N) -> permanent.

%% Runs the load: children are opened, read and killed at the same time, until every child that is
%% to stay has read its file.
load(Dir, Gate, Specs) ->
    Start = erlang:monotonic_time(millisecond),
    Names = list_to_tuple([Name || {Name, _} <- Specs]),
    Kills = max(1, tuple_size(Names) div 10),
    {Lookers, Looked} = demo_load:lookers(2, ?ZONE, Dir, Names),
    Lister = demo_load:lister(?ZONE, Dir, 100),
    Finite = [
        demo_load:killer(?ZONE, Names, Kills, ?LOAD_TIME)
        | demo_load:openers(8, ?ZONE, Gate, Dir, Specs)
    ],
    settle(Specs, Finite, Looked, Start, #{line => 0, seen => none, changed => Start}),
    demo_load:await(Finite, 5000),
    demo_load:stop(Lookers ++ Lister),
    Elapsed = max(1, erlang:monotonic_time(millisecond) - Start),
    #{look_ups => counters:get(Looked, 1), milliseconds => Elapsed}.

%% Checks the progress ten times a second, and prints a line each second. Gives up when nothing
%% changes for long. The killer is checked before the list is read, and dead children are not
%% counted: the zone may still list one that was just killed.
settle(Specs, Finite, Looked, Start, Last) ->
    timer:sleep(100),
    Now = erlang:monotonic_time(millisecond),
    Busy = demo_load:busy(Finite),
    Rows = gen_tracker:list(?ZONE),
    Ended = length([
        Name
     || {Name, [{pid, Pid} | Attributes]} <- Rows, ended(Attributes), is_process_alive(Pid)
    ]),
    Bytes = lists:sum([bytes(Attributes) || {_, Attributes} <- Rows]),
    Seen = {length(Rows), Ended, Bytes, demo_books:total(killed)},
    This = progress(Seen, Looked, Now, Start, Last),
    case Busy orelse {Ended, Ended} =/= {length(Rows), length(staying(Specs))} of
        true when Now - map_get(changed, This) < ?STALLED ->
            settle(Specs, Finite, Looked, Start, This);
        true -> demo_books:wrong('the children make no progress', Seen);
        false -> ok
    end.

progress(Seen, Looked, Now, Start, #{line := Line, seen := SeenBefore} = Last) ->
    {Children, Ended, Bytes, Kills} = Seen,
    Second = (Now - Start) div 1000,
    Second > Line andalso
        io:format("~3b s: ~b children, ~b have read, ~b killed, ~ts counted, ~b look-ups~n", [
            Second, Children, Ended, Kills, megabytes(Bytes), counters:get(Looked, 1)
        ]),
    case Seen of
        SeenBefore -> Last#{line := Second};
        _ -> Last#{line := Second, seen := Seen, changed := Now}
    end.

ended(Attributes) ->
    case proplists:get_value(state, Attributes) of
        done -> true;
        {unreadable, _} -> true;
        _ -> false
    end.

bytes(Attributes) ->
    proplists:get_value(bytes, Attributes, 0).

%% Returns the names that must have a child after the kills.
staying(Specs) ->
    [Name || {Name, Restart} <- Specs, Restart =:= permanent orelse demo_books:kills(Name) =:= 0].

%% Compares the attributes of the children with their files.
compare(Dir, Files, Specs) ->
    Rows = maps:from_list(gen_tracker:list(?ZONE)),
    lists:foreach(fun(Name) -> is_there(Name, maps:get(Name, Rows, [])) end, staying(Specs)),
    lists:foreach(fun(Name) -> is_gone(Name, maps:get(Name, Rows, [])) end, gone(Specs)),
    Empty = #{finished => 0, counted => 0, on_disk => 0, changed => [], unreadable => []},
    lists:foldl(
        fun({Name, _, _} = File, Sums) ->
            [_Pid | Attributes] = maps:get(Name, Rows, [{pid, none}]),
            compare_file(proplists:get_value(state, Attributes), Attributes, Dir, File, Sums)
        end,
        Empty,
        Files
    ).

compare_file(done, Attributes, Dir, {Name, Size, Time}, Sums) ->
    Counted = bytes(Attributes),
    case file:read_link_info(demo_child:path(Dir, Name), [raw, {time, posix}]) of
        {ok, #file_info{type = regular, size = Size, mtime = Time}} ->
            {Name, Counted, proplists:get_value(size, Attributes)} =:= {Name, Size, Size} orelse
                demo_books:wrong('bytes counted and bytes on disk', {
                    Name,
                    {on_disk, Size},
                    {attributes, Attributes}
                }),
            #{finished := Finished, counted := AllCounted, on_disk := OnDisk} = Sums,
            Sums#{
                finished := Finished + 1,
                counted := AllCounted + Counted,
                on_disk := OnDisk + Size
            };
        _Changed ->
            Sums#{changed := [{Name, {listed, Size, read, Counted}} | maps:get(changed, Sums)]}
    end;
compare_file({unreadable, Reason}, _Attributes, _Dir, {Name, _, _}, Sums) ->
    Sums#{unreadable := [{Name, Reason} | maps:get(unreadable, Sums)]};
compare_file(_, _Attributes, _Dir, _File, Sums) ->
    Sums.

is_there(Name, Row) ->
    Found = gen_tracker:find(?ZONE, Name),
    case Row of
        [{pid, Pid} | Attributes] when Found =:= {ok, Pid} ->
            {is_process_alive(Pid), ended(Attributes)} =:= {true, true} orelse
                demo_books:wrong('a child that has not finished', {Name, Row});
        _ ->
            demo_books:wrong('a child that find and list disagree about', {Name, Found, Row})
    end.

is_gone(Name, Row) ->
    case {gen_tracker:find(?ZONE, Name), Row} of
        {undefined, []} -> ok;
        Other -> demo_books:wrong('a temporary child is there after its death', {Name, Other})
    end.

gone(Specs) ->
    [Name || {Name, _} <- Specs] -- staying(Specs).

%% Ends all children, and waits until the zone has none. Returns how many names and attributes are
%% left.
end_children(Specs) ->
    Last = maps:from_list(gen_tracker:list(?ZONE)),
    demo_load:await(demo_load:enders(8, ?ZONE, staying(Specs)), 60000 + length(Specs)),
    true = is_boolean(demo_load:until(fun() -> gen_tracker:which_children(?ZONE) =:= [] end, 20)),
    maps:foreach(
        fun(Name, [_Pid | Attributes]) ->
            lists:sort(Attributes) =:= demo_books:last_attributes(Name) orelse
                demo_books:wrong('after_terminate got other attributes', {
                    Name,
                    demo_books:last_attributes(Name)
                })
        end,
        Last
    ),
    Names = length(gen_tracker:which_children(?ZONE)),
    Attributes = lists:sum([length(gen_tracker:attrs(?ZONE, Name)) || {Name, _} <- Specs]),
    Names =:= 0 orelse demo_books:wrong('names left', Names),
    Attributes =:= 0 orelse demo_books:wrong('attributes left', Attributes),
    {Names, Attributes}.

stop(Tracker, Gate) ->
    _ = gen_server:call(?ZONE, shutdown),
    receive
        {'EXIT', Tracker, shutdown} -> ok;
        {'EXIT', Tracker, Reason} -> demo_books:wrong('the zone ended with another reason', Reason)
    after 10000 -> demo_books:wrong('the zone does not stop', Tracker)
    end,
    exit(Gate, kill).

%% Returns how many processes are left that were not there before.
processes_left(Before) ->
    _ = demo_load:until(fun() -> processes() -- Before =:= [] end, 20),
    Left = processes() -- Before,
    Left =:= [] orelse
        demo_books:wrong('processes left', [
            {Pid, erlang:process_info(Pid, initial_call)}
         || Pid <- Left
        ]),
    length(Left).

report(Specs, Load, Compared) ->
    #{look_ups := LookUps, milliseconds := Milliseconds} = Load,
    #{finished := Finished, counted := Counted, on_disk := OnDisk} = Compared,
    #{changed := Changed, unreadable := Unreadable} = Compared,
    Started = demo_books:names(started),
    Killed = demo_books:total(killed),
    Killed > 0 orelse demo_books:wrong('no child could be killed', Specs),
    line("children started", "~b", [Started]),
    line("killed", "~b; after_terminate was called for ~b, ~b of them while they read", [
        Killed, demo_books:total({ended, killed}), demo_books:total(reading)
    ]),
    line("restarted", "~b; the other ~b killed were temporary", [
        demo_books:total(started) - Started, length(gone(Specs))
    ]),
    line("shut down", "~b", [demo_books:total({ended, shutdown})]),
    line("bytes", "~b counted, ~b on disk, in ~b files read to the end", [
        Counted,
        OnDisk,
        Finished
    ]),
    files("not readable", Unreadable),
    files("changed meanwhile", Changed),
    line("look-ups", "~b in ~.1f s, ~b a second", [
        LookUps,
        Milliseconds / 1000,
        LookUps * 1000 div Milliseconds
    ]),
    line("left", "~b names, ~b attributes, ~b processes", maps:get(left, Compared)),
    case demo_books:wrongs() of
        [] ->
            io:format("everything agrees~n"),
            0;
        Wrongs ->
            [
                io:format("DISAGREES: ~ts, ~b times, for example ~0tP~n", [
                    What, Count, Example, 60
                ])
             || {What, Count, Example} <- Wrongs
            ],
            1
    end.

line(What, Format, Values) ->
    io:format("  ~-20s" ++ Format ++ "~n", [What | Values]).

%% Prints the number of files, and the first of them.
files(What, Files) ->
    line(What, "~b", [length(Files)]),
    [
        io:format("    ~ts: ~tp~n", [shown(Name), Reason])
     || {Name, Reason} <- lists:sublist(lists:sort(Files), 5)
    ].

%% Returns the folder as bytes in the encoding of the file system.
folder(Arguments) ->
    Dir =
        case Arguments of
            [Given] when Given =/= "" -> raw(Given);
            _ -> raw(code:lib_dir())
        end,
    case file:list_dir_all(Dir) of
        {ok, _} -> Dir;
        {error, Reason} -> throw({unusable, [shown(Dir), ": ", file:format_error(Reason)]})
    end.

raw({error, Start, Rest}) ->
    <<(raw(Start))/binary, Rest/binary>>;
raw(Name) when is_binary(Name) ->
    Name;
raw(Name) ->
    unicode:characters_to_binary(Name, unicode, file:native_name_encoding()).

%% Returns `{[{Name, Size, Time}], [{Name, Reason}], Others}`: the regular files, the entries that
%% cannot be read, and the number of entries that are neither file nor folder. It does not follow
%% symbolic links.
walk(Dir) ->
    {Files, Unreadable, Others} = walk_folder(Dir, <<>>, {[], [], 0}),
    Files =:= [] andalso
        throw({unusable, [shown(Dir), ": no readable regular file below it"]}),
    {lists:reverse(Files), Unreadable, Others}.

walk_folder(Dir, Folder, {Files, Unreadable, Others} = Found) ->
    case file:list_dir_all(demo_child:path(Dir, Folder)) of
        {ok, Entries} ->
            lists:foldl(
                fun(Entry, Sums) -> walk_entry(Dir, below(Folder, raw(Entry)), Sums) end,
                Found,
                lists:sort(Entries)
            );
        {error, Reason} ->
            {Files, [{Folder, Reason} | Unreadable], Others}
    end.

walk_entry(Dir, Name, {Files, Unreadable, Others} = Found) ->
    case file:read_link_info(demo_child:path(Dir, Name), [raw, {time, posix}]) of
        {ok, #file_info{type = regular, size = Size, mtime = Time}} ->
            {[{Name, Size, Time} | Files], Unreadable, Others};
        {ok, #file_info{type = directory}} -> walk_folder(Dir, Name, Found);
        {ok, _} -> {Files, Unreadable, Others + 1};
        {error, Reason} -> {Files, [{Name, Reason} | Unreadable], Others}
    end.

below(<<>>, Entry) ->
    Entry;
below(Folder, Entry) ->
    <<Folder/binary, "/", Entry/binary>>.

%% Returns a path as text, even if its bytes are no text in the encoding.
shown(Path) ->
    case unicode:characters_to_list(Path) of
        Text when is_list(Text) -> Text;
        _ -> binary_to_list(Path)
    end.

megabytes(Bytes) ->
    io_lib:format("~.1f MB", [Bytes / 1.0e6]).
