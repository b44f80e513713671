//! Tests a table of processes with many callers, and with reapers and cleaners that end at any
//! moment: no registration is counted twice, no cleanup is lost or repeated, and nothing is left.

mod common;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::Nothing;
use crossbeam_channel::{unbounded, Receiver, Sender};
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Kind};
use proctab_table::processes::{Begun, Notice, Processes};

const COMMITTED: Committed = Committed::new();
const KIND: Kind = Kind::new(2);
const PIDS: u64 = 50;
const NAMES: u64 = 3;
const CALLERS: u64 = 4;
const ROUNDS: u64 = 50_000;
const HOUR: Duration = Duration::from_secs(3600);
/// Cleanups in one hand.
const HAND: usize = 8;

struct World {
    table: Processes<Nothing>,
    ledger: [AtomicI64; NAMES as usize],
    /// The lives of each process: how often it was monitored, and how often it died.
    monitored: [AtomicU64; PIDS as usize],
    died: [AtomicU64; PIDS as usize],
    wake: Sender<()>,
    woken: Receiver<()>,
}

fn pid(number: u64) -> Datum<Nothing> {
    Datum::word(KIND, number)
}

fn name(number: u64) -> Datum<Nothing> {
    Datum::word(KIND, number)
}

fn permit(_moved: usize) -> Result<Committed, ()> {
    Ok(COMMITTED)
}

impl World {
    /// Registers a process as a caller does. Every eighth call fails between begin and end, and
    /// every ninth is killed there.
    fn call(&self, caller: u64, round: u64) {
        let random = (round * CALLERS + caller).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let (process, named) = (random % PIDS, random / PIDS % NAMES);
        let (pid, name) = (pid(process), name(named));
        match self.table.begin(&pid, &name, caller, permit).unwrap() {
            Begun::New(notice) => {
                self.heed(notice, process);
                thread::yield_now();
                if round % 8 == 0 {
                    let notice = self.table.fail(&pid, &name, caller, &COMMITTED);
                    self.heed(notice, process);
                } else if round % 9 == 0 {
                    let notice = self.table.abandon(&pid, caller, &COMMITTED);
                    self.heed(notice, process);
                } else {
                    self.ledger[named as usize].fetch_add(1, Ordering::SeqCst);
                    let notice = self.table.end(&pid, &name, caller, true, &COMMITTED);
                    self.heed(notice.unwrap(), process);
                }
            }
            Begun::Registered => (),
            Begun::Busy(other) => assert_ne!(other, caller),
        }
        if round % 3 == 0 {
            self.die(random / NAMES % PIDS);
        }
    }

    fn heed(&self, notice: Notice, process: u64) {
        match notice {
            Notice::Nothing => (),
            Notice::Monitor => {
                self.monitored[process as usize].fetch_add(1, Ordering::SeqCst);
            }
            Notice::Wake => self.wake.send(()).unwrap(),
            Notice::Tell(_) => unreachable!("there is no server"),
        }
    }

    /// Ends a process if it is monitored. Each monitor fires once.
    fn die(&self, process: u64) {
        let died = &self.died[process as usize];
        let before = died.load(Ordering::SeqCst);
        let is_monitored = before < self.monitored[process as usize].load(Ordering::SeqCst);
        let dies = || died.compare_exchange(before, before + 1, Ordering::SeqCst, Ordering::SeqCst);
        if is_monitored && dies().is_ok() && self.table.deaths().add(pid(process), &COMMITTED) {
            self.wake.send(()).unwrap();
        }
    }

    /// Makes cleanups as reaper and cleaner until the table is empty. Both are replaced again and
    /// again. Sleeps until it is woken whenever there is nothing to do.
    fn clean(&self, calling: &AtomicBool) {
        for cleaner in 1.. {
            let reaper = cleaner / 5;
            if cleaner % 5 == 0 {
                self.table.open_cleanups(reaper, &COMMITTED);
            }
            let reaped = self.table.reap(HAND, |_| true, &COMMITTED).unwrap();
            if reaped.cleanups > 0 {
                let take = |reaper| self.table.take_cleanups(reaper, cleaner, HOUR, &COMMITTED);
                assert!(take(reaper) && !take(reaper + 1));
                // Some cleaners end early.
                let limit = cleaner as usize % (HAND + 1);
                for cleanup in self.table.cleanups(usize::MAX).iter().take(limit) {
                    let named = (0..NAMES).find(|&number| name(number) == cleanup.name);
                    self.ledger[named.unwrap() as usize].fetch_sub(1, Ordering::SeqCst);
                    assert!(self.table.cleaned(cleaner, &COMMITTED));
                    assert!(!self.table.cleaned(cleaner + 1, &COMMITTED));
                }
            } else if !reaped.more {
                if calling.load(Ordering::SeqCst) {
                    // Perhaps no process dies any more.
                    let _ = self.woken.recv_timeout(Duration::from_millis(100));
                } else if self.table.page(0) == (vec![], None) {
                    return;
                } else {
                    (0..PIDS).for_each(|process| self.die(process));
                    self.woken.recv_timeout(Duration::from_secs(10)).unwrap();
                }
            }
        }
    }
}

#[test]
fn registrations_are_counted_and_cleaned_up_once_whoever_ends() {
    let (wake, woken) = unbounded();
    let world = World {
        table: Processes::default(),
        ledger: Default::default(),
        monitored: std::array::from_fn(|_| AtomicU64::new(0)),
        died: std::array::from_fn(|_| AtomicU64::new(0)),
        wake,
        woken,
    };
    let calling = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| world.clean(&calling));
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

    assert_eq!(world.table.page(0), (vec![], None));
    assert_eq!(world.table.counts(0), (vec![], None));
    assert_eq!(world.table.waiting(), 0);
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
                assert!(table.register(&pid, &name, permit).is_ok());
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
    assert!(table.register(&staying, &name, permit).is_ok());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                let pids: Vec<_> = (1..CHURN).map(long).collect();
                for pid in &pids {
                    assert!(table.begin(pid, &name, 1, permit).is_ok());
                }
                for pid in &pids {
                    assert_eq!(table.fail(pid, &name, 1, &COMMITTED), Notice::Nothing);
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
