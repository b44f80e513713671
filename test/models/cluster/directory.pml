/* The protocol of a cluster zone (doc/internals/cluster.md), for Spin. test/models/cluster/check
 * runs it.
 *
 * What the model takes from Erlang:
 * - Signals from one process to another arrive in order. A broken connection loses the last ones,
 *   and sends DOWN to each side, which handles it at its own time: after the signals that were not
 *   lost, but possibly after the first signals of the next connection, too. (OTP 25 makes no new
 *   connection before all DOWNs of the last one have been sent: `pending_nodedown` in
 *   erts/emulator/beam/dist.c. The protocol does not rely on it.)
 * - Requests of find_or_open come from processes of their own. So they arrive in no order with the
 *   signals of the cluster processes.
 *
 * Each name is a page of a snapshot. The first page stands for `welcome` and `snapshot` as well,
 * the last one for `complete`. An asked node decides and claims the name in one step.
 *
 * What the model leaves out: attributes, the contents of specs, answers to callers, the decisions
 * of a callback, versions, and time.
 *
 * The first part of the file are its settings. FAULT plants a fault that a check must find.
 */

#ifndef N
#define N 2             /* nodes, two or three */
#endif
#ifndef M
#define M 1             /* names; each is a page of a snapshot */
#endif
#ifndef OPENS
#define OPENS 0         /* calls of find_or_open */
#endif
#ifndef LOCALS
#define LOCALS 0        /* starts that do not ask the home: by gen_tracker's own functions */
#endif
#ifndef DEATHS
#define DEATHS 0        /* deaths of children, with a restart or without, and starts that fail */
#endif
#ifndef BREAKS
#define BREAKS 0        /* broken connections */
#endif
#ifndef CRASHES
#define CRASHES 0       /* ends of a cluster process, together with its zone or alone */
#endif
#ifndef DRAINS
#define DRAINS 0        /* nodes that are drained */
#endif
#ifndef LAGS
#define LAGS 0          /* times that a receiver is too slow and gets a new snapshot */
#endif
#ifndef JOINED
#define JOINED 0        /* the nodes begin as members that know each other */
#endif
#ifndef LATE_DOWN
#define LATE_DOWN 1     /* DOWN may come after the first signals of the next connection */
#endif
#ifndef FAULT
#define FAULT none
#endif

#define ROOM 12         /* signals in one direction; an assertion fails if there are more */

/* The faults that can be planted. */
#define none 0
#define old_session 1        /* accepts events of a session that has ended */
#define keep_claims 2       /* keeps the claims of a session that has ended */
#define both_act 3          /* both sides of a conflict act */
#define act_twice 4         /* a loser that is ending acts again */
#define restart_loser 5     /* a loser is restarted */
#define starts_unseen 6     /* a start that is being made is no claim */
#define restarts_unseen 7   /* a child that waits for its restart is no claim */
#define start_after_wait 8  /* who has waited for a cleanup starts, whatever the home is by then */
#define skip_events 9       /* changes during a snapshot are not sent */
#define blind_home 10       /* a node that is asked for a start does not check its own view */
#define own_unchecked 11    /* a new claim is not compared with claims that were there before */
#define view_winner 12      /* the home wins a conflict, in each node's own view of the members */
#define early_ready 13      /* a node accepts starts before it has all snapshots */
#define lost_credit 14      /* a page is not answered by a credit */
#define one_epoch 15        /* a new snapshot does not remove what it does not contain */
#define no_serving 16       /* a hello that tells of a forgotten session opens no other one */

/* The states of a name at its own node. HELD: its child is being started or restarted. ENDING: it
 * is being cleaned up. Others see HELD for both. */
#define FREE 0
#define HELD 1
#define RUNS 2
#define ENDING 3

/* The statuses of a node. */
#define JOINING 0
#define ACCEPTS 1
#define DRAINING 2

/* P is the place of what the first node has of the second one. */
#define P(I, J) ((I) * N + (J))
#define OWN(I, Name) own[(I) * M + (Name)]
#define TOLD(I, Name) told[(I) * M + (Name)]
#define CLAIM(I, J, Name) claim[P(I, J) * M + (Name)]
#define THERE(I, J, Name) there[P(I, J) * M + (Name)]
#define LOST(I, Name) lost[(I) * M + (Name)]
#define WAITS(I, Name) waits[(I) * M + (Name)]
#define STALE(I, J, Name) stale[P(I, J) * M + (Name)]
#define REQUEST(I, Name, Hops) request[((I) * M + (Name)) * 2 + (Hops)]

/* Whether the hash of the name and node J is higher than that of the name and node I. */
#define BEATS(J, I, Name) (((J) + (Name)) % N > ((I) + (Name)) % N)

mtype = { hello, page, credit, event, status };

/* The signals to I from J are link[P(I, J)]: kind, session, name, claim or status of the node. A
 * hello has two sessions: the one that it opens, and that in which its sender sends. */
chan link[N * N] = [ROOM] of { mtype, byte, byte, byte };
bool cut[N * N];            /* there is no connection */
byte old[N * N];            /* how many of the signals are of a connection that has ended */

byte own[N * M];
bool told[N * M];           /* the keeper has been told that its child has lost */
bool lost[N * M];           /* the child that is cleaned up has lost */
bool waits[N * M];          /* somebody waits until the name is free */
byte accepts[N];
byte claim[N * N * M];
bool stale[N * N * M];      /* the claim is of an earlier snapshot */

/* What I has about J: the session in which it receives, or 0 for no entry; whether a DOWN is on its
 * way; whether the first snapshot is complete; the status of J. */
byte tag[N * N];
byte tags[N * N];           /* the last session */
bool down[N * N];
bool welcome[N * N];        /* a page has arrived in the session */
bool complete[N * N];
byte view[N * N];

/* And the session in which it sends, or 0; the next page; whether J is lagging. */
byte to[N * N];
byte next[N * N];
bool lag[N * N];

/* Requests on their way to a node, by how often they may still be sent on. */
byte request[N * M * 2];

/* For the properties alone. */
bool stable;                /* no fault since all had the same view and nothing was on its way */
bool disturbed[M];          /* a child of that name has died, or a zone has ended */
byte conflicts[M];          /* children and starts that have lost */
bool there[N * N * M];      /* the second node has had this claim since the first one began, and no
                             * session between them has ended */
byte starts;
byte losers;
byte cleanups;

/* What else may happen. */
byte opens = OPENS;
byte locals = LOCALS;
byte deaths = DEATHS;
byte breaks = BREAKS;
byte crashes = CRASHES;
byte drains = DRAINS;
byte lags = LAGS;

hidden byte x, y, z, home, count;

inline send(To, From, Kind, Tag, What, Value) {
    if
    :: cut[P(To, From)]
    :: else ->
        assert(nfull(link[P(To, From)]));
        link[P(To, From)] ! Kind(Tag, What, Value)
    fi
}

/* The claim that other nodes see. */
#define SHOWN(S) (S == ENDING -> HELD : (S == HELD && FAULT == starts_unseen -> FREE : S))

/* Sends a claim of node Teller to the others. */
inline tell(Teller, Changed) {
    for (x : 0 .. N - 1) {
        if
        :: x == Teller || to[P(Teller, x)] == 0 || lag[P(Teller, x)]
        :: FAULT == skip_events && x != Teller && next[P(Teller, x)] < M
        :: else ->
            send(x, Teller, event, to[P(Teller, x)], Changed, SHOWN(OWN(Teller, Changed)))
        fi
    }
}

inline tell_status(Stating) {
    for (x : 0 .. N - 1) {
        if
        :: x == Stating || to[P(Stating, x)] == 0
        :: else -> send(x, Stating, status, to[P(Stating, x)], 0, accepts[Stating])
        fi
    }
}

/* Sets `home` to the home of a name in the view of node Finder, or to N if there is none. */
#define SEEN(I, X) \
    (X == I -> accepts[X] == ACCEPTS : view[P(I, X)] == ACCEPTS)

inline find_home(Finder, Homeless) {
    home = N;
    for (x : 0 .. N - 1) {
        if
        :: SEEN(Finder, x) && (home == N || BEATS(x, home, Homeless)) -> home = x
        :: else
        fi
    }
}

/* Tells the keeper of node Judge's child if a child of another node wins. */
inline resolve(Judge, Fought) {
    find_home(Judge, Fought);
    for (x : 0 .. N - 1) {
        if
        :: OWN(Judge, Fought) != RUNS && !(OWN(Judge, Fought) == ENDING && FAULT == act_twice)
        :: x == Judge || CLAIM(Judge, x, Fought) != RUNS
        :: else ->
            if
            :: FAULT == both_act -> TOLD(Judge, Fought) = true
            :: FAULT == view_winner && home != Judge -> TOLD(Judge, Fought) = true
            :: FAULT != view_winner && BEATS(x, Judge, Fought) -> TOLD(Judge, Fought) = true
            :: else
            fi
        fi
    }
}

/* A new claim of node Claiming: others are told, and it is compared with theirs. */
inline claim_name(Claiming, Claimed, State) {
    OWN(Claiming, Claimed) = State;
    tell(Claiming, Claimed);
    if
    :: FAULT == own_unchecked
    :: else -> resolve(Claiming, Claimed)
    fi
}

inline free_name(Freeing, Freed) {
    for (x : 0 .. N - 1) {
        THERE(x, Freeing, Freed) = false
    }
    LOST(Freeing, Freed) = false;
    TOLD(Freeing, Freed) = false;
    OWN(Freeing, Freed) = FREE;
    tell(Freeing, Freed)
}

/* find_or_open at node Opener. Hops is how often the request may still be sent on. Sets `home` to
 * the node that is asked: one with a claim, or else the home. */
inline open(Opener, Opened, Hops) {
    find_home(Opener, Opened);
    home = (FAULT == blind_home && Hops < 2 -> Opener : home);
    for (x : 0 .. N - 1) {
        home = (x != Opener && CLAIM(Opener, x, Opened) != FREE -> x : home)
    }
    home = (OWN(Opener, Opened) != FREE -> Opener : home);
    if
    :: home == N
    :: home == Opener && OWN(Opener, Opened) != FREE ->
        WAITS(Opener, Opened) = WAITS(Opener, Opened) || OWN(Opener, Opened) == ENDING
    :: home == Opener && OWN(Opener, Opened) == FREE -> start(Opener, Opened)
    :: else ->
        if
        :: Hops == 0 || cut[P(home, Opener)] || CLAIM(Opener, home, Opened) == RUNS
        :: else -> REQUEST(home, Opened, Hops - 1)++
        fi
    fi
}

inline start(Starter, Started) {
    for (x : 0 .. N - 1) {
        assert(!stable || x == Starter || OWN(x, Started) == FREE || OWN(x, Started) == ENDING);
        assert(!THERE(Starter, x, Started))
    }
    starts++;
    claim_name(Starter, Started, HELD)
}

/* Drops what node Reader has about node Writer. */
inline end_sessions(Reader, Writer) {
    close(Reader, Writer);
    tag[P(Reader, Writer)] = 0;
    down[P(Reader, Writer)] = false;
    to[P(Reader, Writer)] = 0;
    next[P(Reader, Writer)] = 0;
    lag[P(Reader, Writer)] = false
}

/* Ends the session in which node Closer receives. */
inline close(Closer, Closed) {
    welcome[P(Closer, Closed)] = false;
    complete[P(Closer, Closed)] = false;
    view[P(Closer, Closed)] = JOINING;
    for (x : 0 .. M - 1) {
        CLAIM(Closer, Closed, x) = (FAULT == keep_claims -> CLAIM(Closer, Closed, x) : FREE);
        THERE(Closer, Closed, x) = false;
        STALE(Closer, Closed, x) = false
    }
}

/* Monitors a node and sends it a new session. Without a connection the DOWN comes at once. */
inline greet(Greeter, Greeted) {
    down[P(Greeter, Greeted)] = cut[P(Greeter, Greeted)];
    say_hello(Greeter, Greeted)
}

/* Opens a session, and says in which one the node sends. */
inline say_hello(Speaking, Hearing) {
    tags[P(Speaking, Hearing)]++;
    tag[P(Speaking, Hearing)] = tags[P(Speaking, Hearing)];
    send(Hearing, Speaking, hello, tag[P(Speaking, Hearing)], to[P(Speaking, Hearing)], 0)
}

/* Sends the next page of a snapshot, with the status of the node. */
inline send_page(Pager, Paged) {
    send(Paged, Pager, page, to[P(Pager, Paged)], next[P(Pager, Paged)],
        accepts[Pager] * 4 + SHOWN(OWN(Pager, next[P(Pager, Paged)])));
    next[P(Pager, Paged)]++
}

/* The last page of a snapshot has come: claims of earlier ones end. */
inline complete_snapshot(Done, From) {
    complete[P(Done, From)] = true;
    for (x : 0 .. M - 1) {
        CLAIM(Done, From, x) =
            (STALE(Done, From, x) && FAULT != one_epoch -> FREE : CLAIM(Done, From, x));
        STALE(Done, From, x) = false
    }
}

/* A page has only claims: it says nothing of a name that is free. */
inline take_page(Taker, Source, Page, State) {
    for (x : 0 .. M - 1) {
        STALE(Taker, Source, x) = STALE(Taker, Source, x) ||
            (Page == 0 && CLAIM(Taker, Source, x) != FREE)
    }
    STALE(Taker, Source, Page) = STALE(Taker, Source, Page) && State == FREE;
    CLAIM(Taker, Source, Page) = (State == FREE -> CLAIM(Taker, Source, Page) : State);
    resolve(Taker, Page);
    if
    :: Page + 1 == M -> complete_snapshot(Taker, Source)
    :: else
    fi
}

/* What the cluster process of node I does with the signals of node J, and with the end of J's
 * cluster process or of the connection. */
proctype session(byte i, j) {
    mtype kind;
    byte t, what, value;
    do
    /* The watcher has reported J, and I has no entry for it. */
    :: d_step { tag[P(i, j)] == 0 && !cut[P(i, j)] ->
        greet(i, j);
        x = 0 }
    :: d_step { len(link[P(i, j)]) > 0 && (LATE_DOWN || old[P(i, j)] > 0 || !down[P(i, j)]) ->
        link[P(i, j)] ? kind(t, what, value);
        old[P(i, j)] = (old[P(i, j)] > 0 -> old[P(i, j)] - 1 : 0);
        if
        :: kind == hello ->
            if
            :: tag[P(i, j)] != 0
            :: else -> greet(i, j)
            fi;
            to[P(i, j)] = t;
            next[P(i, j)] = 0;
            lag[P(i, j)] = false;
            send_page(i, j);
            if
            :: welcome[P(i, j)] && what != tag[P(i, j)] && FAULT != no_serving ->
                close(i, j);
                say_hello(i, j)
            :: else
            fi
        :: kind == credit && t == to[P(i, j)] && next[P(i, j)] < M && !lag[P(i, j)] ->
            send_page(i, j)
        :: kind == page && t == tag[P(i, j)] ->
            welcome[P(i, j)] = true;
            view[P(i, j)] = value / 4;
            take_page(i, j, what, value % 4);
            if
            :: what + 1 == M || FAULT == lost_credit
            :: else -> send(j, i, credit, t, 0, 0)
            fi
        :: kind == event && (t == tag[P(i, j)] || FAULT == old_session) ->
            CLAIM(i, j, what) = value;
            STALE(i, j, what) = false;
            assert(value == FREE || tag[P(i, j)] != 0);
            resolve(i, what)
        :: kind == status && t == tag[P(i, j)] ->
            view[P(i, j)] = value
        :: else
        fi;
        kind = 0; t = 0; what = 0; value = 0 }
    :: d_step { down[P(i, j)] && old[P(i, j)] == 0 ->
        end_sessions(i, j);
        x = 0 }
    /* J is slow: it is sent no claims, and later a new snapshot. */
    :: d_step { lags > 0 && to[P(i, j)] != 0 && !lag[P(i, j)] ->
        lags--;
        lag[P(i, j)] = true }
    :: d_step { lag[P(i, j)] ->
        lag[P(i, j)] = false;
        next[P(i, j)] = 0;
        send_page(i, j);
        x = 0 }
    od
}

/* Node Watcher is going to get the DOWN of node Watched's cluster process. */
inline lose(Watcher, Watched) {
    old[P(Watcher, Watched)] = len(link[P(Watcher, Watched)]);
    down[P(Watcher, Watched)] = tag[P(Watcher, Watched)] != 0;
    for (z : 0 .. M - 1) {
        THERE(Watcher, Watched, z) = false
    }
}

/* The connection breaks. Of the signals to node Hearer, the first ones arrive. */
inline break_off(Hearer, Speaker, Kept) {
    cut[P(Hearer, Speaker)] = true;
    count = len(link[P(Hearer, Speaker)]);
    for (x : 1 .. count) {
        link[P(Hearer, Speaker)] ? kind(t, what, value);
        if
        :: x > Kept
        :: else -> link[P(Hearer, Speaker)] ! kind(t, what, value)
        fi
    }
    lose(Hearer, Speaker)
}

/* The cluster process of a node ends, and a new one starts. Signals to it are lost. */
inline crash(Ended, WithZone) {
    for (y : 0 .. N - 1) {
        if
        :: y == Ended
        :: else ->
            lose(y, Ended);
            count = len(link[P(Ended, y)]);
            for (x : 1 .. count) {
                link[P(Ended, y)] ? kind(t, what, value)
            }
            old[P(Ended, y)] = 0;
            end_sessions(Ended, y);
            for (x : 0 .. M - 1) {
                CLAIM(Ended, y, x) = FREE;
                THERE(Ended, y, x) = !cut[P(Ended, y)] && OWN(y, x) != FREE
            }
        fi
    }
    accepts[Ended] = JOINING;
    for (x : 0 .. M - 1) {
        if
        :: !WithZone
        :: else ->
            disturbed[x] = true;
            cleanups = cleanups + LOST(Ended, x);
            LOST(Ended, x) = false;
            WAITS(Ended, x) = false;
            OWN(Ended, x) = FREE;
            TOLD(Ended, x) = false;
            REQUEST(Ended, x, 0) = 0;
            REQUEST(Ended, x, 1) = 0
        fi
    }
}

/* A node is synced when it has the snapshots of all nodes that it is connected to. */
#define KNOWN(I, X) (X == I || cut[P(I, X)] || complete[P(I, X)] || FAULT == early_ready)

proctype node(byte i) {
    mtype kind;
    byte t, what, value;
    do
    :: d_step { accepts[i] == JOINING && KNOWN(i, 0) && KNOWN(i, 1) && KNOWN(i, N - 1) ->
        accepts[i] = ACCEPTS;
        tell_status(i);
        x = 0 }
    :: d_step { drains > 0 && accepts[i] == ACCEPTS ->
        drains--;
        accepts[i] = DRAINING;
        tell_status(i);
        x = 0 }
    :: d_step { crashes > 0 ->
        crashes--;
        stable = false;
        crash(i, false);
        kind = 0; t = 0; what = 0; value = 0 }
    :: d_step { crashes > 0 ->
        crashes--;
        stable = false;
        crash(i, true);
        kind = 0; t = 0; what = 0; value = 0 }
    od
}

/* A name at a node: its keeper, callers, and deaths. */
proctype keeper(byte i, name) {
    do
    /* The start function returns. */
    :: d_step { OWN(i, name) == HELD ->
        claim_name(i, name, RUNS);
        x = 0 }
    /* A child that loses is stopped. */
    :: d_step { OWN(i, name) == RUNS && TOLD(i, name) ->
        TOLD(i, name) = false;
        LOST(i, name) = true;
        OWN(i, name) = ENDING;
        conflicts[name]++;
        losers++;
        assert(losers <= starts);
        tell(i, name);
        x = 0 }
    /* The cleanup is done. */
    :: d_step { OWN(i, name) == ENDING && (!LOST(i, name) || FAULT != restart_loser) ->
        cleanups = cleanups + LOST(i, name);
        free_name(i, name);
        if
        :: WAITS(i, name) && FAULT == start_after_wait -> start(i, name)
        :: WAITS(i, name) && FAULT != start_after_wait -> open(i, name, 2)
        :: else
        fi;
        WAITS(i, name) = false;
        x = 0 }
    /* The child is restarted. */
    :: d_step { OWN(i, name) == ENDING && (!LOST(i, name) || FAULT == restart_loser) ->
        cleanups = cleanups + LOST(i, name);
        LOST(i, name) = false;
        TOLD(i, name) = false;
        OWN(i, name) = (FAULT == restarts_unseen -> FREE : HELD);
        tell(i, name);
        OWN(i, name) = HELD }
    /* Only with a fault. */
    :: d_step { OWN(i, name) == ENDING && TOLD(i, name) ->
        TOLD(i, name) = false;
        cleanups++ }
    /* Requests of other nodes arrive. */
    :: d_step { REQUEST(i, name, 1) > 0 ->
        REQUEST(i, name, 1)--;
        open(i, name, 1);
        x = 0 }
    :: d_step { REQUEST(i, name, 0) > 0 ->
        REQUEST(i, name, 0)--;
        open(i, name, 0);
        x = 0 }
    :: d_step { opens > 0 ->
        opens--;
        open(i, name, 2);
        x = 0 }
    :: d_step { locals > 0 && OWN(i, name) == FREE ->
        locals--;
        stable = false;
        starts++;
        claim_name(i, name, HELD);
        x = 0 }
    :: d_step { deaths > 0 && OWN(i, name) == RUNS ->
        deaths--;
        disturbed[name] = true;
        TOLD(i, name) = false;
        OWN(i, name) = ENDING;
        tell(i, name);
        x = 0 }
    /* A start fails. */
    :: d_step { deaths > 0 && OWN(i, name) == HELD ->
        deaths--;
        disturbed[name] = true;
        free_name(i, name);
        x = 0 }
    od
}

/* What holds when nothing more happens by itself. Between nodes that are connected: each has
 * exactly the other's claims, and no name runs on both. Of the others a node has none. */
inline check() {
    stable = true;
    for (x : 0 .. N - 1) {
        for (y : 0 .. N - 1) {
            for (z : 0 .. M - 1) {
                if
                :: x == y
                :: x != y && cut[P(x, y)] ->
                    stable = false;
                    assert(CLAIM(x, y, z) == FREE)
                :: else ->
                    assert(CLAIM(x, y, z) == OWN(y, z));
                    assert(OWN(x, z) == FREE || OWN(y, z) == FREE);
                    assert(complete[P(x, y)] && view[P(x, y)] == accepts[y])
                fi
            }
        }
    }
    assert(losers == cleanups);
    for (z : 0 .. M - 1) {
        count = 0;
        for (x : 0 .. N - 1) {
            count = count + (OWN(x, z) != FREE)
        }
        assert(!stable || disturbed[z] || conflicts[z] == 0 || count == 1)
    }
}

/* A connection, which breaks and comes back. */
proctype connection(byte i, j) {
    mtype kind;
    byte t, what, value, kept, returned;
    do
    :: atomic { breaks > 0 && !cut[P(i, j)] ->
        select(kept : 0 .. len(link[P(i, j)]));
        select(returned : 0 .. len(link[P(j, i)]));
        d_step {
            break_off(i, j, kept);
            break_off(j, i, returned);
            breaks--;
            stable = false;
            kept = 0; returned = 0; kind = 0; t = 0; what = 0; value = 0
        } }
    :: d_step { cut[P(i, j)] ->
        cut[P(i, j)] = false;
        cut[P(j, i)] = false }
    od
}

/* Nothing more happens by itself. */
#define IDLE(I, J) (I == J || (len(link[P(I, J)]) == 0 && !down[P(I, J)] && !lag[P(I, J)] && \
    (cut[P(I, J)] || tag[P(I, J)] != 0)))
#define RESTS(I, Name) ((OWN(I, Name) == FREE || OWN(I, Name) == RUNS) && !TOLD(I, Name) && \
    REQUEST(I, Name, 0) == 0 && REQUEST(I, Name, 1) == 0)
#define NODE_RESTS(I) (accepts[I] != JOINING && RESTS(I, 0) && RESTS(I, M - 1) && \
    IDLE(I, 0) && IDLE(I, 1) && IDLE(I, N - 1))
#define QUIET (NODE_RESTS(0) && NODE_RESTS(1) && NODE_RESTS(N - 1))

/* A state in which nothing can happen, and that is not quiet, is an invalid end state for Spin. */
proctype observer() {
    do
    :: d_step { QUIET -> check(); x = 0 }
    od
}

init {
    byte a, b;
    atomic {
        for (a : 0 .. N * N - 1) {
            tags[a] = JOINED;
            tag[a] = JOINED;
            to[a] = JOINED;
            welcome[a] = JOINED;
            complete[a] = JOINED;
            view[a] = JOINED * ACCEPTS;
            next[a] = JOINED * M;
            accepts[a / N] = JOINED * ACCEPTS
        }
        stable = JOINED;
        for (a : 0 .. N - 1) {
            for (b : 0 .. N - 1) {
                if
                :: a == b -> run node(a)
                :: else -> run session(a, b)
                fi;
                if
                :: a < b && BREAKS > 0 -> run connection(a, b)
                :: else
                fi
            }
            for (b : 0 .. M - 1) {
                run keeper(a, b)
            }
        }
        run observer()
    }
}
