//! Tests the indexes of a zone with many threads: what a lookup may return whatever they do.

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Barrier;
use std::thread;

use common::Nothing;
use proctab_table::attributes::{Attribute, Changes};
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Kind, View};
use proctab_table::entry::{Entry, Replaced};
use proctab_table::index::{Indexes, Plan, Planned, Revision};
use proctab_table::reclaim::{self, Guard};
use proctab_table::row::{Child, Claimed, Pid, State};
use proctab_table::value::{Added, Seen, Value};
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

/// Attributes that are set beside the indexed one, and where their keys begin. So many are set
/// without the lock of the row, and twice as many are a large map.
const BESIDE: u64 = 100;
const OTHERS: u64 = 1_000;

fn attribute(key: u64, value: u64) -> Attribute<Nothing> {
    Attribute {
        key: word(key),
        // A counter, or a word.
        value: match value % 2 {
            0 => Value::counter(value as i64).unwrap(),
            _ => Value::fixed(word(value)),
        },
    }
}

fn others(from: u64) -> impl Iterator<Item = Attribute<Nothing>> {
    let keys = OTHERS + from % (2 * BESIDE)..;
    keys.take(BESIDE as usize)
        .map(move |key| attribute(key, from))
}

/// Plans to set the indexed attribute.
fn plan(values: impl IntoIterator<Item = u64>) -> Plan<Nothing> {
    Plan::from_iter([Planned {
        position: 0,
        values: values.into_iter().map(word).collect(),
    }])
}

/// Sets the indexed attribute, and others.
fn set_with(
    zone: &Table,
    name: u64,
    value: u64,
    others: impl Iterator<Item = Attribute<Nothing>>,
) -> bool {
    let changes: Changes<_> = others.chain([attribute(KEY, value)]).collect();
    let set = |entry: Entry<Nothing>| {
        let set = entry.set(changes, &COMMITTED).is_ok();
        (set, set)
    };
    let set = revise(zone, name, |revision| {
        revision.write(plan([value]), set, &COMMITTED)
    });
    set == Some(true)
}

fn set(zone: &Table, name: u64, value: u64) -> bool {
    set_with(zone, name, value, std::iter::empty())
}

/// Replaces a value of the indexed attribute, if it is the present one.
fn cas(zone: &Table, name: u64, old: u64, new: u64) -> bool {
    let is_old = |seen: Seen<'_, Nothing>| number_of(seen) == old;
    let replaced = revise(zone, name, |revision| {
        let planned = (present(revision.entry()) == Some(old)).then(|| plan([new]));
        let replace = |entry: Entry<Nothing>| {
            let replaced = entry.replace(attribute(KEY, new), is_old, true, &COMMITTED);
            let is_done = matches!(replaced, Replaced::Done);
            (is_done, is_done)
        };
        revision.write(planned.unwrap_or_default(), replace, &COMMITTED)
    });
    replaced == Some(true)
}

/// Removes the indexed attribute.
fn delete(zone: &Table, name: u64) {
    let key = word(KEY);
    revise(zone, name, |revision| {
        let delete = |entry| (zone.delete(entry, key.borrow(), &COMMITTED), true);
        revision.write(plan([]), delete, &COMMITTED);
    });
}

/// Adds one to the indexed attribute, or sets it if it is missing, also if there is no child.
fn increment(zone: &Table, name: u64, missing: u64) {
    let guard = reclaim::enter();
    let (name, missing) = (word(name), attribute(KEY, missing));
    loop {
        let entry = zone.entry_or_vacant(&name, &guard, &COMMITTED);
        let revision = zone.indexes().unwrap().revise(entry, None).unwrap();
        let sum = match entry.attributes().map(|map| map.get(word(KEY).borrow())) {
            None | Some(None) => Some(number_of(missing.value.see())),
            Some(Some(value)) => value.seen().counted().map(|integer| integer as u64 + 1),
        };
        let add = |entry| {
            let added = zone.try_add_or_set(entry, 1, &missing, &COMMITTED);
            let is_changed = !matches!(added, Ok(Added::NotCounted) | Err(_));
            (added.is_ok(), is_changed)
        };
        let plan = sum.map(|sum| plan([sum]));
        if revision.write(plan.unwrap_or_default(), add, &COMMITTED) {
            return;
        }
    }
}

/// Changes attributes that are not indexed, of which indexes know nothing, or reads all.
fn disturb(zone: &Table, name: u64, step: u64) {
    let guard = reclaim::enter();
    let Some(entry) = zone.entry(word(name).borrow(), &guard) else {
        return;
    };
    match step % 4 {
        0 => drop(entry.set(others(step).collect(), &COMMITTED)),
        1 => drop(entry.snapshot(usize::MAX)),
        2 => zone.delete(entry, word(OTHERS + step % BESIDE).borrow(), &COMMITTED),
        _ => drop(entry.set(others(step).take(1).collect(), &COMMITTED)),
    }
}

fn number_of(value: Seen<'_, Nothing>) -> u64 {
    match value {
        Seen::Integer(integer) => integer as u64,
        Seen::Fixed(View::Word(_, word)) => word,
        Seen::Fixed(_) => panic!("not a word"),
    }
}

fn present(entry: Entry<Nothing>) -> Option<u64> {
    let value = entry.attributes()?.get(word(KEY).borrow())?;
    Some(number_of(value.seen()))
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

/// Ends the child of a name and starts it again, without its attributes.
fn restart(zone: &Table, name: u64, pid: u64) {
    let terminate = |entry: Entry<Nothing>| entry.terminate(name, &COMMITTED).is_ok();
    let clear = |entry: Entry<Nothing>| entry.clear(name, State::Restarting, &COMMITTED);
    let run = |entry: Entry<Nothing>| entry.run(name, Pid::Local(pid), &COMMITTED).is_ok();
    let steps = [
        revise(zone, name, |revision| revision.end(terminate, &COMMITTED)),
        revise(zone, name, |revision| revision.end(clear, &COMMITTED)),
        revise(zone, name, |revision| revision.begin(run, &COMMITTED)),
    ];
    assert_eq!(steps, [Some(true); 3]);
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
/// `VALUES` while there is no child or the attribute is missing, the pid is 0 while there is no
/// child.
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

/// Each name belongs to one writer, besides attributes that are not indexed, which another thread
/// changes. Readers compare lookups with what writers say of names that are not changed meanwhile.
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
                    let (new, other) = (step % VALUES, 1 + round * WRITERS + writer);
                    said.change(|| match (pid, step % 11) {
                        (0, _) => {
                            start(zone, name, other);
                            assert!(set(zone, name, new));
                            (new, other)
                        }
                        (_, 0) => {
                            end(zone, name, step % 2 == 0);
                            (VALUES, 0)
                        }
                        (_, 1) => {
                            restart(zone, name, other);
                            (VALUES, other)
                        }
                        (_, 2) => {
                            delete(zone, name);
                            (VALUES, pid)
                        }
                        (_, 3 | 4) => {
                            assert!(set_with(zone, name, new, others(step)));
                            (new, pid)
                        }
                        (_, 5 | 6) if value != VALUES => {
                            assert!(!cas(zone, name, VALUES, new));
                            assert!(cas(zone, name, value, new));
                            (new, pid)
                        }
                        (_, 7) if value == 0 => {
                            increment(zone, name, new);
                            (1, pid)
                        }
                        (_, 7) if value == VALUES => {
                            increment(zone, name, new);
                            (new, pid)
                        }
                        _ => {
                            assert!(set(zone, name, new));
                            (new, pid)
                        }
                    });
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
        scope.spawn(move || {
            let mut step = 0_u64;
            while running.load(Ordering::SeqCst) > 0 {
                step = step.wrapping_add(0x9E37_79B9_7F4A_7C15);
                disturb(zone, (step >> 40) % NAMES, step >> 20);
            }
        });
        for reader in 0..2 {
            scope.spawn(move || {
                let mut value = reader;
                while running.load(Ordering::SeqCst) > 0 {
                    value = (value + 1) % VALUES;
                    let guard = reclaim::enter();
                    let before: Vec<_> = said.iter().map(Said::get).collect();
                    let found = lookup(zone, value, 7, &guard);
                    let after: Vec<_> = said.iter().map(Said::get).collect();
                    // A name may be there twice, with two children one after the other.
                    let children: HashSet<_> = found.iter().collect();
                    assert_eq!(children.len(), found.len(), "a child is given twice");
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

/// A process that gets the name has no value that the name had before.
#[test]
fn a_name_that_changes_hands_is_not_found_by_a_value_before() {
    const HANDS: u64 = 20_000;
    let zone = zone();
    // The value that the name had at least when the process got it.
    let least: Vec<_> = (0..=HANDS).map(|_| AtomicU64::new(0)).collect();
    start(&zone, 1, 1);
    assert!(set(&zone, 1, 0));
    let (done, lookups) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (zone, done, least, lookups) = (&zone, &done, &least, &lookups);
        scope.spawn(move || {
            let name = word(1);
            for keeper in 1..HANDS {
                let guard = reclaim::enter();
                let (new, pid) = (keeper + 1, Pid::Local(keeper + 1));
                let value = present(zone.entry(name.borrow(), &guard).unwrap()).unwrap();
                least[new as usize].store(value, Ordering::SeqCst);
                let before = zone.hand_over(name.borrow(), keeper, new, pid, &guard, &COMMITTED);
                assert!(before.is_some());
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(move || {
            for value in 1.. {
                assert!(set(zone, 1, value));
                // The value changes while the next lookup finds it.
                let before = lookups.load(Ordering::SeqCst);
                while lookups.load(Ordering::SeqCst) == before {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    std::hint::spin_loop();
                }
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let guard = reclaim::enter();
                let value = present(zone.entry(word(1).borrow(), &guard).unwrap()).unwrap();
                for (_, pid) in lookup(zone, value, 9, &guard) {
                    let least = least[pid as usize].load(Ordering::SeqCst);
                    assert!(value >= least, "{value} {least}");
                }
                lookups.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
}

/// What has become of the processes of a zone whose names belong to no thread.
struct Deaths {
    clock: AtomicU64,
    /// When the zone had noticed the death of each process, or 0.
    died: Vec<AtomicU64>,
}

impl Deaths {
    /// Returns the next process.
    fn next(&self, pids: &AtomicU64) -> u64 {
        pids.fetch_add(1, Ordering::SeqCst)
    }

    fn has_died(&self, pid: Option<Pid<Nothing>>) {
        if let Some(Pid::Local(pid)) = pid {
            let now = self.clock.fetch_add(1, Ordering::SeqCst);
            self.died[pid as usize].store(now, Ordering::SeqCst);
        }
    }

    fn is_dead(&self, pid: u64, by: u64) -> bool {
        let died = self.died[pid as usize].load(Ordering::SeqCst);
        died != 0 && died <= by
    }
}

/// Changes a name in one of all ways, whatever other threads do to it.
fn change(zone: &Table, name: u64, step: u64, pids: &AtomicU64, deaths: &Deaths) {
    let guard = reclaim::enter();
    let row = word(name);
    let child = |state, pid| Child {
        state,
        pid,
        keeper: deaths.next(pids),
        spec: None,
    };
    let kept = || zone.entry(row.borrow(), &guard)?.child();
    let keeper = || kept().map_or(0, |child| child.keeper);
    let value = step >> 8 & 3;
    match step % 16 {
        0 => {
            let child = child(State::Launching, None);
            let keeper = child.keeper;
            if zone.insert(&row, child, &COMMITTED) == Claimed::Done {
                set(zone, name, value);
                let run = |entry: Entry<Nothing>| entry.run(keeper, Pid::Local(keeper), &COMMITTED);
                revise(zone, name, |revision| revision.begin(run, &COMMITTED));
            }
        }
        1 => {
            let pid = deaths.next(pids);
            let child = child(State::Running, Some(Pid::Local(pid)));
            if zone.insert(&row, child, &COMMITTED) == Claimed::Done {
                if let Some(entry) = zone.entry(row.borrow(), &guard) {
                    zone.indexes().unwrap().settle(entry, &COMMITTED);
                }
            }
        }
        2 => {
            let keeper = keeper();
            let terminate = |entry: Entry<Nothing>| entry.terminate(keeper, &COMMITTED);
            let ended = revise(zone, name, |revision| revision.end(terminate, &COMMITTED));
            if let Some(Ok((pid, _))) = ended {
                deaths.has_died(pid);
                match step >> 12 & 1 {
                    0 => {
                        let remove = |_: Entry<Nothing>| {
                            zone.remove(row.borrow(), keeper, &guard, &COMMITTED)
                        };
                        revise(zone, name, |revision| revision.end(remove, &COMMITTED));
                    }
                    _ => {
                        let restarting = State::Restarting;
                        let clear =
                            |entry: Entry<Nothing>| entry.clear(keeper, restarting, &COMMITTED);
                        revise(zone, name, |revision| revision.end(clear, &COMMITTED));
                        disturb(zone, name, step >> 16);
                        let pid = Pid::Local(deaths.next(pids));
                        let run = |entry: Entry<Nothing>| entry.run(keeper, pid, &COMMITTED);
                        revise(zone, name, |revision| revision.begin(run, &COMMITTED));
                    }
                }
            }
        }
        3 => {
            let keeper = keeper();
            let unregister = |entry: Entry<Nothing>| entry.unregister(keeper, &COMMITTED);
            let pid = revise(zone, name, |revision| revision.end(unregister, &COMMITTED)).flatten();
            if pid.is_some() {
                zone.remove(row.borrow(), keeper, &guard, &COMMITTED);
            }
            deaths.has_died(pid);
        }
        4 => {
            let (keeper, new) = (keeper(), deaths.next(pids));
            let pid = Pid::Local(new);
            let before = zone.hand_over(row.borrow(), keeper, new, pid, &guard, &COMMITTED);
            deaths.has_died(before);
        }
        5 => {
            set_with(zone, name, value, others(step >> 8));
        }
        6 => delete(zone, name),
        7 => {
            let entry = zone.entry(row.borrow(), &guard);
            let current = entry.and_then(present);
            if let Some(current) = current {
                cas(zone, name, current, value);
            }
        }
        8 | 9 => increment(zone, name, value),
        10..=12 => disturb(zone, name, step >> 16),
        _ => {
            set(zone, name, value);
        }
    }
}

/// All threads change the same few names. Whenever they rest, the index has exactly the running
/// children, by their values.
#[test]
fn indexes_agree_with_attributes_whatever_threads_do() {
    const SHARED: u64 = 3;
    const THREADS: usize = 4;
    const RESTS: usize = 600;
    const STEPS: usize = 20;
    const PIDS: usize = RESTS * THREADS * STEPS * 2;
    let zone = zone();
    let (pids, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let deaths = Deaths {
        clock: AtomicU64::new(1),
        died: (0..PIDS).map(|_| AtomicU64::new(0)).collect(),
    };
    let rest = Barrier::new(THREADS);
    let agrees = || {
        let guard = reclaim::enter();
        let mut expected = HashMap::<u64, Vec<(u64, u64)>>::new();
        for name in 0..SHARED {
            let entry = zone.entry(word(name).borrow(), &guard);
            let found = entry.and_then(|entry| Some((present(entry)?, entry.local_pid()?)));
            if let Some((value, pid)) = found {
                expected.entry(value).or_default().push((name, pid));
            }
        }
        let index = zone.indexes().unwrap().get(word(KEY).borrow()).unwrap();
        let mut found = HashMap::new();
        for shard in 0..index.shards() {
            let add = |value: &Datum<Nothing>, count: usize| {
                let value = number(value);
                let mut rows = lookup(&zone, value, 9, &guard);
                assert_eq!(rows.len(), count);
                rows.sort_unstable();
                found.insert(value, rows);
                Ok::<_, ()>(())
            };
            index.values(shard, &guard, add).unwrap();
        }
        assert_eq!(found, expected);
    };
    thread::scope(|scope| {
        let (zone, pids, deaths, done) = (&zone, &pids, &deaths, &done);
        let (rest, agrees) = (&rest, &agrees);
        for thread in 0..THREADS as u64 {
            scope.spawn(move || {
                let mut step = thread;
                for _ in 0..RESTS {
                    for _ in 0..STEPS {
                        step = step
                            .wrapping_mul(0x5851_F42D_4C95_7F2D)
                            .wrapping_add(thread * 2 + 1);
                        change(zone, (step >> 60) % SHARED, step >> 32, pids, deaths);
                    }
                    if rest.wait().is_leader() {
                        agrees();
                    }
                    rest.wait();
                }
                done.store(true, Ordering::SeqCst);
            });
        }
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                for value in 0..4 {
                    let by = deaths.clock.load(Ordering::SeqCst) - 1;
                    let found = lookup(zone, value, 2, &reclaim::enter());
                    let children: HashSet<_> = found.iter().map(|(_, pid)| *pid).collect();
                    assert_eq!(children.len(), found.len(), "a child is given twice");
                    let dead = children.into_iter().find(|pid| deaths.is_dead(*pid, by));
                    assert_eq!(dead, None, "a child is given after its death");
                }
            }
        });
    });
}
