//! Tests a table of processes with many callers and a server that is replaced: no registration is
//! counted twice, and none is left.

mod common;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;

use common::Nothing;
use crossbeam_channel::{unbounded, Sender};
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Kind};
use proctab_table::processes::{Begun, Next, Processes};

const COMMITTED: Committed = Committed::new();
const KIND: Kind = Kind::new(2);
const PIDS: u64 = 50;
const NAMES: u64 = 3;
const CALLERS: u64 = 4;
const ROUNDS: u64 = 100_000;
/// Processes that die under one server.
const TURNS: u64 = 2_000;

struct World {
    table: Processes<Nothing>,
    ledger: [AtomicI64; NAMES as usize],
    server: AtomicU64,
    told: Sender<(u64, u64)>,
}

fn pid(number: u64) -> Datum<Nothing> {
    Datum::word(KIND, number)
}

fn name(number: u64) -> Datum<Nothing> {
    Datum::word(KIND, number)
}

impl World {
    /// Registers a process as a caller does. Every eighth call fails between begin and end, and
    /// every ninth is killed there.
    fn call(&self, caller: u64, round: u64) {
        let random = (round * CALLERS + caller).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let (process, named) = (random % PIDS, random / PIDS % NAMES);
        let (pid, name) = (pid(process), name(named));
        match self.table.begin(&pid, &name, caller, &COMMITTED) {
            Begun::New(server) => {
                self.tell(server, process);
                thread::yield_now();
                if round % 8 == 0 {
                    let server = self.table.fail(&pid, &name, caller, &COMMITTED);
                    self.tell(server, process);
                } else if round % 9 == 0 {
                    self.table.abandon(&pid, caller, &COMMITTED);
                    // A server that waits for this caller monitors it.
                    self.tell(Some(self.server.load(Ordering::SeqCst)), process);
                } else {
                    self.ledger[named as usize].fetch_add(1, Ordering::SeqCst);
                    let server = self
                        .table
                        .end(&pid, &name, caller, true, &COMMITTED)
                        .unwrap();
                    self.tell(server, process);
                }
            }
            Begun::Registered => (),
            Begun::Busy(other) => assert_ne!(other, caller),
        }
    }

    fn tell(&self, server: Option<u64>, process: u64) {
        if let Some(server) = server {
            self.told.send((server, process)).unwrap();
        }
    }

    /// Starts a server, which claims all processes.
    fn begin_to_serve(&self, server: u64) {
        self.table.serve(server, &COMMITTED);
        self.server.store(server, Ordering::SeqCst);
        let mut next = Some(0);
        while let Some(shard) = next {
            let (pids, after) = self.table.page(shard);
            for pid in pids {
                self.table.claim(&pid, server, &COMMITTED);
            }
            next = after;
        }
    }

    /// Cleans up after a dead process.
    fn bury(&self, process: u64) {
        let pid = pid(process);
        while let Next::Registered(name, true) = self.table.next(&pid, &COMMITTED) {
            let named = (0..NAMES).find(|&number| self::name(number) == name);
            self.ledger[named.unwrap() as usize].fetch_sub(1, Ordering::SeqCst);
            self.table.unregister(&pid, &name, &COMMITTED);
        }
    }
}

#[test]
fn registrations_are_counted_once_whatever_callers_and_servers_do() {
    let (told, heard) = unbounded();
    let world = World {
        table: Processes::default(),
        ledger: Default::default(),
        server: AtomicU64::new(0),
        told,
    };
    world.begin_to_serve(1);
    let calling = AtomicBool::new(true);
    thread::scope(|scope| {
        // Starts one server after the other. Messages to a server that was replaced are lost.
        scope.spawn(|| {
            for server in 1.. {
                world.begin_to_serve(server);
                for turn in 0..TURNS {
                    if !calling.load(Ordering::SeqCst) {
                        return;
                    }
                    for (to, process) in heard.try_iter().take(10) {
                        if to == server && world.table.claim(&pid(process), server, &COMMITTED) {
                            world.bury(process);
                        }
                    }
                    world.bury((server + turn) % PIDS);
                    thread::yield_now();
                }
            }
        });
        let callers: Vec<_> = (1..=CALLERS)
            .map(|caller| {
                let world = &world;
                scope.spawn(move || (0..ROUNDS).for_each(|round| world.call(caller, round)))
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        calling.store(false, Ordering::SeqCst);
    });

    // The last server knows each registered process, or was told.
    let last = world.server.load(Ordering::SeqCst);
    let told: Vec<_> = heard.try_iter().filter(|(to, _)| *to == last).collect();
    for process in 0..PIDS {
        let known = !world.table.claim(&pid(process), last, &COMMITTED);
        assert!(known || told.contains(&(last, process)));
    }
    for named in 0..NAMES {
        let balance = world.ledger[named as usize].load(Ordering::SeqCst);
        assert_eq!(world.table.count(&name(named)), balance);
    }
    (0..PIDS).for_each(|process| world.bury(process));
    assert_eq!(world.table.page(0), (vec![], None));
    assert_eq!(world.table.counts(0), (vec![], None));
    assert!(world
        .ledger
        .iter()
        .all(|count| count.load(Ordering::SeqCst) == 0));
}

/// One thread registers and unregisters a process, the other reads the process and then the name.
/// If nothing has changed meanwhile, both agree.
#[test]
fn a_reader_that_finds_a_registration_finds_it_counted() {
    let table = Processes::<Nothing>::default();
    let (pid, name) = (pid(1), name(1));
    let change = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS * 5 {
                change.fetch_add(1, Ordering::SeqCst);
                table.register(&pid, &name, &COMMITTED);
                change.fetch_add(1, Ordering::SeqCst);
                table.unregister(&pid, &name, &COMMITTED);
            }
        });
        loop {
            let before = change.load(Ordering::SeqCst);
            let (names, count) = (table.names(&pid).len(), table.count(&name));
            let registered = before % 2;
            if change.load(Ordering::SeqCst) == before && names as u64 == registered {
                assert_eq!(count as u64, registered);
            }
            if before == ROUNDS * 10 {
                break;
            }
        }
    });
}

/// Returns a term on the heap, so that a sanitizer reports a read after it was freed.
fn long(number: u64) -> Datum<Nothing> {
    Datum::bytes(KIND, format!("a long name of process {number}").as_bytes())
}

#[test]
fn a_process_that_stays_is_on_exactly_one_page() {
    const CHURN: u64 = 2_000;
    let table = Processes::<Nothing>::default();
    let (staying, name) = (long(0), name(1));
    table.register(&staying, &name, &COMMITTED);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                let pids: Vec<_> = (1..CHURN).map(long).collect();
                for pid in &pids {
                    table.register(pid, &name, &COMMITTED);
                }
                for pid in &pids {
                    table.unregister(pid, &name, &COMMITTED);
                    assert!(matches!(table.next(pid, &COMMITTED), Next::Done));
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            let (mut seen, mut next) = (0, Some(0));
            while let Some(shard) = next {
                let (pids, after) = table.page(shard);
                seen += pids.iter().filter(|pid| **pid == staying).count();
                next = after;
            }
            assert_eq!(seen, 1);
        }
    });
    assert_eq!(table.count(&name), 1);
}
