//! Tests the indexes of a zone with many threads: what a lookup may return whatever they do.

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::Nothing;
use proctab_table::attributes::{Attribute, Changes};
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Kind, View};
use proctab_table::entry::Entry;
use proctab_table::index::{Indexes, Plan, Planned, Revision};
use proctab_table::reclaim::{self, Guard};
use proctab_table::row::{Child, Claimed, Pid, State};
use proctab_table::value::{Counter, Value};
use proctab_table::zone::Zone;

type Table = Zone<Nothing>;

const COMMITTED: Committed = Committed::new();
const KIND: Kind = Kind::new(3);
const KEY: u64 = 1;
const NAMES: u64 = 96;
const VALUES: u64 = 3;
/// A name of each writer keeps this value.
const KEPT: u64 = 77;
const WRITERS: u64 = 3;
const ROUNDS: u64 = 4_000;

fn word(word: u64) -> Datum<Nothing> {
    Datum::word(KIND, word)
}

fn number(datum: &Datum<Nothing>) -> u64 {
    match datum.view() {
        View::Word(_, word) => word,
        _ => panic!("not a word"),
    }
}

fn zone() -> Table {
    let zone = Table::default();
    zone.set_indexes(Indexes::new([(word(KEY), false)]).unwrap(), &COMMITTED);
    zone
}

fn revise<T>(zone: &Table, name: u64, run: impl FnOnce(Revision<Nothing>) -> T) -> Option<T> {
    let guard = reclaim::enter();
    let entry = zone.entry(word(name).borrow(), &guard)?;
    let result = run(zone.indexes()?.revise(entry, None)?);
    Some(result)
}

fn set(zone: &Table, name: u64, value: u64) -> bool {
    let plan = Plan::from_iter([Planned {
        position: 0,
        values: [word(value)].into_iter().collect(),
    }]);
    let set = |entry: Entry<Nothing>| {
        // Counters are replaced in place, other values with their map.
        let value = match value % 2 {
            0 => Value::Integer(Counter::new(value as i64).unwrap()),
            _ => Value::Fixed(word(value)),
        };
        let change = Changes::from_iter([Attribute {
            key: word(KEY),
            value,
        }]);
        let set = entry.set(change, &COMMITTED).is_ok();
        (set, set)
    };
    revise(zone, name, |revision| revision.write(plan, set, &COMMITTED)) == Some(true)
}

fn present(entry: Entry<Nothing>) -> Option<u64> {
    Some(match entry.attributes()?.get(word(KEY).borrow())? {
        Value::Integer(counter) => counter.get() as u64,
        Value::Fixed(datum) => number(datum),
    })
}

/// Starts the child of a name, with another pid each time.
fn start(zone: &Table, name: u64, pid: u64) {
    let child = Child {
        state: State::Launching,
        pid: None,
        keeper: name,
        spec: None,
    };
    assert_eq!(zone.insert(&word(name), child, &COMMITTED), Claimed::Done);
    let run = |entry: Entry<Nothing>| entry.run(name, Pid::Local(pid), &COMMITTED).is_ok();
    let has_run = revise(zone, name, |revision| revision.begin(run, &COMMITTED));
    assert_eq!(has_run, Some(true));
}

/// Ends the child of a name: as after a death, or as when it is unregistered, where the row is
/// removed without a revision of its own.
fn end(zone: &Table, name: u64, is_dead: bool) {
    let guard = reclaim::enter();
    let row = word(name);
    if !is_dead {
        let unregister = |entry: Entry<Nothing>| entry.unregister(name, &COMMITTED);
        let pid = revise(zone, name, |revision| revision.end(unregister, &COMMITTED));
        assert!(pid.flatten().is_some());
        assert!(zone.remove(row.borrow(), name, &guard, &COMMITTED));
        return;
    }
    let terminate = |entry: Entry<Nothing>| entry.terminate(name, &COMMITTED).is_ok();
    let has_ended = revise(zone, name, |revision| revision.end(terminate, &COMMITTED));
    assert_eq!(has_ended, Some(true));
    let remove = |_: Entry<Nothing>| zone.remove(row.borrow(), name, &guard, &COMMITTED);
    let removed = revise(zone, name, |revision| revision.end(remove, &COMMITTED));
    assert_eq!(removed, Some(true));
}

/// Returns the pid of the child if it has a value, read without a lock.
fn pid_with(entry: Entry<Nothing>, value: u64) -> Option<u64> {
    loop {
        let pid = entry.local_pid()?;
        let has_value = present(entry) == Some(value);
        if entry.local_pid() == Some(pid) {
            return has_value.then_some(pid);
        }
    }
}

/// Returns names and pids as a lookup does, in pages of so many rows.
fn lookup(zone: &Table, value: u64, most: usize, guard: &Guard) -> Vec<(u64, u64)> {
    let index = zone.indexes().unwrap().get(word(KEY).borrow()).unwrap();
    let (mut found, mut from) = (Vec::new(), Some(0));
    while let Some(slot) = from {
        let mut page = Default::default();
        from = index.page(word(value).borrow(), slot, most, &mut page, guard);
        for member in &page {
            let entry = zone.entry_of(&member.row, guard);
            let pid = member.pid.or_else(|| pid_with(entry, value));
            found.extend(pid.map(|pid| (number(&member.row.name), pid)));
        }
    }
    found
}

/// What a writer says of a name: an odd number while it changes the name; the value is
/// `VALUES` while there is no child.
#[derive(Default)]
struct Said {
    version: AtomicU64,
    value: AtomicU64,
    pid: AtomicU64,
}

impl Said {
    fn change(&self, change: impl FnOnce() -> (u64, u64)) {
        self.version.fetch_add(1, Ordering::SeqCst);
        let (value, pid) = change();
        self.value.store(value, Ordering::SeqCst);
        self.pid.store(pid, Ordering::SeqCst);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    fn get(&self) -> (u64, u64, u64) {
        let get = |word: &AtomicU64| word.load(Ordering::SeqCst);
        (get(&self.version), get(&self.value), get(&self.pid))
    }
}

/// Each name belongs to one writer. Readers compare lookups with what writers say of names that are
/// not changed meanwhile.
#[test]
fn lookups_find_exactly_the_children_that_have_the_value() {
    let zone = zone();
    let said: Vec<Said> = (0..NAMES).map(|_| Said::default()).collect();
    said.iter().for_each(|said| said.change(|| (VALUES, 0)));
    for name in NAMES..NAMES + WRITERS {
        start(&zone, name, name + 1);
        assert!(set(&zone, name, KEPT));
    }
    let running = AtomicU64::new(WRITERS);
    thread::scope(|scope| {
        let (zone, said, running) = (&zone, &said, &running);
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let step = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
                    let name = (step * WRITERS + writer) % NAMES;
                    let said = &said[name as usize];
                    let (_, value, pid) = said.get();
                    match (value, step % 7) {
                        (VALUES, _) => {
                            let pid = 1 + round * WRITERS + writer;
                            said.change(|| {
                                start(zone, name, pid);
                                assert!(set(zone, name, step % VALUES));
                                (step % VALUES, pid)
                            });
                        }
                        (_, 0) => said.change(|| {
                            end(zone, name, step % 2 == 0);
                            (VALUES, 0)
                        }),
                        _ => said.change(|| {
                            assert!(set(zone, name, step % VALUES));
                            (step % VALUES, pid)
                        }),
                    }
                    // It keeps its value although it is set again.
                    assert!(set(zone, NAMES + writer, KEPT));
                    let (_, value, pid) = said.get();
                    for other in 0..VALUES {
                        let found = lookup(zone, other, 5, &reclaim::enter());
                        let is_found = found.contains(&(name, pid));
                        assert_eq!(is_found, value == other, "{name} {value} {other}");
                    }
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for reader in 0..2 {
            scope.spawn(move || {
                let mut value = reader;
                while running.load(Ordering::SeqCst) > 0 {
                    value = (value + 1) % VALUES;
                    let guard = reclaim::enter();
                    let before: Vec<_> = said.iter().map(Said::get).collect();
                    let found = lookup(zone, value, 7, &guard);
                    let after: Vec<_> = said.iter().map(Said::get).collect();
                    let names: HashSet<_> = found.iter().map(|(name, _)| *name).collect();
                    assert_eq!(names.len(), found.len(), "a child is given twice");
                    for (name, before) in (0..).zip(before) {
                        if before != after[name as usize] || before.0 % 2 == 1 {
                            continue;
                        }
                        let expected = (before.1 == value).then_some((name, before.2));
                        let given = found.iter().find(|(other, _)| *other == name).copied();
                        assert_eq!(given, expected);
                    }
                    let kept = lookup(zone, KEPT, 1, &guard);
                    assert_eq!(kept.len(), WRITERS as usize);
                }
            });
        }
    });
    // All rows are listed where they belong, and nowhere else.
    let guard = reclaim::enter();
    let total: usize = (0..VALUES)
        .map(|value| lookup(&zone, value, 9, &guard).len())
        .sum();
    let index = zone.indexes().unwrap().get(word(KEY).borrow()).unwrap();
    let counts = (0..VALUES).map(|value| index.count(word(value).borrow(), &guard));
    assert_eq!(total, counts.sum::<usize>());
    let living = said.iter().filter(|said| said.get().1 != VALUES).count();
    assert_eq!(total, living);
}

/// What a reader has read of an attribute, a lookup after that does not contradict.
#[test]
fn lookups_agree_with_attributes_that_were_read_before() {
    let zone = zone();
    start(&zone, 1, 2);
    assert!(set(&zone, 1, 0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, done) = (&zone, &done);
        scope.spawn(move || {
            // Each value once.
            (1..60_000).for_each(|value| assert!(set(zone, 1, value)));
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let guard = reclaim::enter();
                let entry = zone.entry(word(1).borrow(), &guard).unwrap();
                let value = present(entry).unwrap();
                let found = lookup(zone, value, 9, &guard);
                if found.is_empty() {
                    assert_ne!(present(entry), Some(value));
                }
                if value > 0 {
                    assert_eq!(lookup(zone, value - 1, 9, &guard), []);
                }
            }
        });
    });
}

/// The name goes from process to process while its value is set again all the time. It is found
/// once, and with the last process when the hand-over has returned.
#[test]
fn a_name_that_changes_hands_is_always_found() {
    let zone = zone();
    start(&zone, 1, 1);
    assert!(set(&zone, 1, KEPT));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, done) = (&zone, &done);
        scope.spawn(move || {
            let name = word(1);
            for keeper in 1..40_000 {
                let guard = reclaim::enter();
                let (new, pid) = (keeper + 1, Pid::Local(keeper + 1));
                let before = zone.hand_over(name.borrow(), keeper, new, pid, &guard, &COMMITTED);
                assert_eq!(before, Some(Pid::Local(keeper)));
                assert_eq!(lookup(zone, KEPT, 9, &guard), [(1, new)]);
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                assert!(set(zone, 1, KEPT));
            }
        });
        scope.spawn(move || {
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let found = lookup(zone, KEPT, 9, &reclaim::enter());
                assert_eq!(found.len(), 1);
                assert!(found[0].1 >= last);
                last = found[0].1;
            }
        });
    });
}
