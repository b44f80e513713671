//! Tests a zone with many threads: what must hold whatever they do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread;

use proctab_table::attributes::{Attribute, Changes};
use proctab_table::claims::Change;
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Foreign, Kind, View};
use proctab_table::reclaim;
use proctab_table::row::{Child, Claimed, Pid, Start, State};
use proctab_table::value::{Added, InUse, Seen, Value};
use proctab_table::zone::Zone;

const COMMITTED: Committed = Committed::new();
const KIND: Kind = Kind::new(3);
const KEEPER: u64 = 7;

/// A foreign term that counts the live terms of its test, and marks its memory when it is dropped.
struct Counted {
    live: &'static AtomicUsize,
    number: u64,
    alive: u64,
}

const HEAVY: u64 = u64::MAX;
const ALIVE: u64 = 0x5EED_5EED_5EED_5EED;

impl Counted {
    fn new(live: &'static AtomicUsize, number: u64) -> Self {
        live.fetch_add(1, Ordering::SeqCst);
        Counted {
            live,
            number,
            alive: ALIVE,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        assert_eq!(self.alive, ALIVE);
        self.alive = 0;
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Foreign for Counted {
    type Borrowed<'a> = &'a Counted;

    fn borrow(&self) -> &Counted {
        self
    }

    fn hash(borrowed: &Counted) -> u64 {
        borrowed.number
    }

    fn same(one: &Counted, other: &Counted) -> bool {
        one.number == other.number
    }

    fn is_heavy(&self) -> bool {
        self.number == HEAVY
    }
}

type Table = Zone<Counted>;

fn word(word: u64) -> Datum<Counted> {
    Datum::word(KIND, word)
}

fn counter(key: u64, integer: i64) -> Attribute<Counted> {
    Attribute {
        key: word(key),
        value: Value::counter(integer).unwrap(),
    }
}

fn fixed(key: u64, value: Datum<Counted>) -> Attribute<Counted> {
    Attribute {
        key: word(key),
        value: Value::fixed(value),
    }
}

fn open(zone: &Table, name: u64, keeper: u64) -> bool {
    let child = Child {
        state: State::Running,
        pid: Some(Pid::Local(1000 + name)),
        keeper,
        spec: None,
    };
    zone.insert(&word(name), child, &COMMITTED) == Claimed::Done
}

fn set(zone: &Table, name: u64, changes: impl IntoIterator<Item = Attribute<Counted>>) -> bool {
    let guard = reclaim::enter();
    let changes = Changes::from_iter(changes);
    let row = zone.entry(word(name).borrow(), &guard);
    row.is_some_and(|row| row.set(changes, &COMMITTED).is_ok())
}

fn add(zone: &Table, name: u64, key: u64, increment: i64) -> Added {
    let guard = reclaim::enter();
    let row = zone.entry(word(name).borrow(), &guard);
    row.map_or(Added::Missing, |row| {
        row.add(word(key).borrow(), increment, &COMMITTED)
    })
}

/// Returns the counters of a name at one moment, by key.
fn integers(zone: &Table, name: u64) -> HashMap<u64, i64> {
    let guard = reclaim::enter();
    let mut found = HashMap::new();
    let row = zone.entry(word(name).borrow(), &guard);
    if let Some(snapshot) = row.and_then(|row| row.snapshot(usize::MAX).unwrap()) {
        snapshot.for_each(&mut |key, value| {
            if let (View::Word(_, key), Seen::Integer(integer)) = (key.view(), value) {
                assert!(found.insert(key, integer).is_none());
            }
        });
    }
    found
}

#[test]
fn no_addition_is_lost_while_other_threads_copy_the_attributes() {
    const ROUNDS: i64 = 50_000;
    let zone = Table::default();
    assert!(open(&zone, 1, KEEPER));
    assert!(set(&zone, 1, [counter(0, 0), counter(1, 0)]));
    let adding = AtomicUsize::new(3);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    assert!(matches!(add(&zone, 1, 0, 1), Added::Changed(_)));
                    assert!(matches!(add(&zone, 1, 1, -2), Added::Changed(_)));
                }
                adding.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // Other keys are added and removed, so that the leaf is copied, split and joined.
        scope.spawn(|| {
            let mut round = 0;
            while adding.load(Ordering::SeqCst) > 0 {
                round += 1;
                let changes = (2..40).map(|key| fixed(key, word(round)));
                assert!(set(&zone, 1, changes));
                let guard = reclaim::enter();
                let row = zone.entry(word(1).borrow(), &guard).unwrap();
                for key in 2..40 {
                    zone.delete(row, word(key).borrow(), &COMMITTED);
                }
            }
        });
        // Snapshots freeze the counters.
        scope.spawn(|| {
            while adding.load(Ordering::SeqCst) > 0 {
                integers(&zone, 1);
            }
        });
    });
    assert_eq!(
        integers(&zone, 1),
        HashMap::from([(0, 3 * ROUNDS), (1, -6 * ROUNDS)])
    );
}

#[test]
fn a_snapshot_is_of_one_moment() {
    let zone = Table::default();
    assert!(open(&zone, 1, KEEPER));
    assert!(set(&zone, 1, [counter(0, 0), counter(1, 0), counter(2, 0)]));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100_000 {
                // In this order, so at any moment 0 is at most one ahead of 1, and 1 of 2.
                for key in 0..3 {
                    add(&zone, 1, key, 1);
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let now = integers(&zone, 1);
                    let order = [now[&0], now[&1], now[&2]];
                    assert!(order.is_sorted_by(|one, next| one == next || *one == next + 1));
                    assert!(order[0] <= order[2] + 1, "{order:?}");
                }
            });
        }
    });
}

#[test]
fn several_attributes_are_set_in_one_step() {
    let zone = Table::default();
    assert!(open(&zone, 1, KEEPER));
    assert!(set(&zone, 1, (0..20).map(|key| counter(key, 0))));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..20_000 {
                assert!(set(&zone, 1, (0..20).map(|key| counter(key, round))));
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let now = integers(&zone, 1);
                assert_eq!(now.len(), 20);
                assert!(now.values().all(|value| *value == now[&0]), "{now:?}");
                assert!(now[&0] >= last, "went back from {last} to {now:?}");
                last = now[&0];
            }
        });
    });
}

/// One thread replaces three values in place, one after the other. Others change the map of the
/// same name: they copy its leaf, split it, and set the three values in one step. No write is lost,
/// every value that is read is alive, and a snapshot is of one moment.
#[test]
fn values_are_replaced_in_place_beside_snapshots_and_new_maps() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    const ROUNDS: u64 = 30_000;
    let zone = Table::default();
    let value = |key, round| fixed(key, Datum::foreign(Counted::new(&LIVE, round)));
    let number = |value: Seen<Counted>| match value {
        Seen::Fixed(View::Foreign(foreign)) => {
            assert_eq!(foreign.alive, ALIVE);
            foreign.number
        }
        _ => panic!("not a foreign term"),
    };
    assert!(open(&zone, 1, KEEPER));
    assert!(set(&zone, 1, (0..3).map(|key| value(key, 0))));
    assert!(set(&zone, 1, (3..6).map(|key| value(key, 0))));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, done) = (&zone, &done);
        scope.spawn(move || {
            for round in 1..=ROUNDS {
                for key in 0..3 {
                    assert!(set(zone, 1, [value(key, round)]));
                }
            }
            reclaim::flush(&reclaim::enter());
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(move || {
            for round in 1.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                assert!(set(zone, 1, (3..6).map(|key| value(key, round))));
                assert!(set(zone, 1, (6..40).map(|key| value(key, round))));
                let guard = reclaim::enter();
                let row = zone.entry(word(1).borrow(), &guard).unwrap();
                for key in 6..40 {
                    zone.delete(row, word(key).borrow(), &COMMITTED);
                }
            }
            reclaim::flush(&reclaim::enter());
        });
        for _ in 0..2 {
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::SeqCst) {
                    let guard = reclaim::enter();
                    let row = zone.entry(word(1).borrow(), &guard).unwrap();
                    let mut now = HashMap::new();
                    let snapshot = row.snapshot(usize::MAX).unwrap().unwrap();
                    snapshot.for_each(&mut |key, value| {
                        if let View::Word(_, key) = key.view() {
                            now.insert(key, number(value));
                        }
                    });
                    let order = [now[&0], now[&1], now[&2]];
                    assert!(order.is_sorted_by(|one, next| one == next || *one == next + 1));
                    assert!(order[0] <= order[2] + 1, "{order:?}");
                    assert!((3..6).all(|key| now[&key] == now[&3]), "{now:?}");
                    let first = row.attributes().unwrap();
                    let first = number(first.get(word(0).borrow()).unwrap().seen());
                    assert!(
                        last <= order[0] && order[0] <= first,
                        "{last} {order:?} {first}"
                    );
                    last = first;
                }
            });
        }
    });
    let guard = reclaim::enter();
    let row = zone.entry(word(1).borrow(), &guard).unwrap();
    let attributes = row.attributes().unwrap();
    for key in 0..3 {
        let value = attributes.get(word(key).borrow()).unwrap();
        assert_eq!(number(value.seen()), ROUNDS);
    }
    drop(guard);
    drop(zone);
    reclaim::flush(&reclaim::enter());
    wait_for(&LIVE, 0);
}

/// Two threads set 300 attributes at once, which is prepared without the lock. Others replace and
/// add to single values of the same name, and add and remove keys, so that the map is small now and
/// large then. A snapshot is of one moment: no reader sees half of such a change. No write is lost.
#[test]
fn changes_of_many_attributes_lose_no_other_write_and_are_seen_whole() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    const ROUNDS: u64 = 3_000;
    const MANY: u64 = 300;
    let zone = Table::default();
    let value = |key, round| fixed(key, Datum::foreign(Counted::new(&LIVE, round)));
    let number = |value: Seen<Counted>| match value {
        Seen::Integer(integer) => integer as u64,
        Seen::Fixed(View::Foreign(foreign)) => {
            assert_eq!(foreign.alive, ALIVE);
            foreign.number
        }
        _ => panic!("neither a counter nor a foreign term"),
    };
    assert!(open(&zone, 1, KEEPER));
    assert!(set(&zone, 1, (1000..1003).map(|key| counter(key, 0))));
    assert!(set(&zone, 1, (2000..2003).map(|key| value(key, 0))));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, done) = (&zone, &done);
        scope.spawn(move || {
            for round in 1..=ROUNDS {
                for key in 0..3 {
                    assert_eq!(add(zone, 1, 1000 + key, 1), Added::Changed(round as i64));
                    assert!(set(zone, 1, [value(2000 + key, round)]));
                }
            }
            reclaim::flush(&reclaim::enter());
            done.store(true, Ordering::SeqCst);
        });
        for thread in 0..2 {
            scope.spawn(move || {
                for round in 0.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let round = 2 * round + thread;
                    assert!(set(
                        zone,
                        1,
                        (0..MANY).map(|key| match key % 2 {
                            0 => value(key, round),
                            _ => counter(key, round as i64),
                        })
                    ));
                }
                reclaim::flush(&reclaim::enter());
            });
        }
        scope.spawn(move || {
            for round in 0.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                // The first 300 keys are removed in some rounds: the others are a small map then.
                let guard = reclaim::enter();
                let row = zone.entry(word(1).borrow(), &guard).unwrap();
                assert!(set(zone, 1, [value(3000 + round % 90, round)]));
                zone.delete(row, word(3000 + (round + 45) % 90).borrow(), &COMMITTED);
                if round % 100 == 0 {
                    for key in 0..MANY {
                        zone.delete(row, word(key).borrow(), &COMMITTED);
                    }
                }
            }
            reclaim::flush(&reclaim::enter());
        });
        scope.spawn(move || {
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let guard = reclaim::enter();
                let row = zone.entry(word(1).borrow(), &guard).unwrap();
                let mut now = HashMap::new();
                let snapshot = row.snapshot(usize::MAX).unwrap().unwrap();
                snapshot.for_each(&mut |key, value| {
                    if let View::Word(_, key) = key.view() {
                        assert!(now.insert(key, number(value)).is_none());
                    }
                });
                assert_eq!(now.len(), snapshot.count());
                let of_many = (0..MANY).filter_map(|key| now.get(&key));
                let distinct: std::collections::HashSet<_> = of_many.collect();
                assert!(distinct.len() <= 1, "{distinct:?}");
                let order = [1000, 2000, 1001, 2001, 1002, 2002].map(|key| now[&key]);
                assert!(order.is_sorted_by(|one, next| one == next || *one == next + 1));
                assert!(order[0] <= order[5] + 1, "{order:?}");
                assert!(last <= order[0], "{last} {order:?}");
                last = order[0];
            }
        });
    });
    let guard = reclaim::enter();
    let row = zone.entry(word(1).borrow(), &guard).unwrap();
    let attributes = row.attributes().unwrap();
    for key in [1000, 1001, 1002, 2000, 2001, 2002] {
        let value = attributes.get(word(key).borrow()).unwrap();
        assert_eq!(number(value.seen()), ROUNDS);
    }
    drop(guard);
    drop(zone);
    reclaim::flush(&reclaim::enter());
    wait_for(&LIVE, 0);
}

/// A term whose memory is freed as soon as nobody uses it.
struct Discarded {
    users: AtomicUsize,
    freed: &'static AtomicUsize,
    is_freed: AtomicBool,
}

const DISCARDED: usize = 1 << 32;

impl Discarded {
    fn new(freed: &'static AtomicUsize) -> Datum<Discarded> {
        Datum::foreign(Discarded {
            users: AtomicUsize::new(0),
            freed,
            is_freed: AtomicBool::new(false),
        })
    }

    fn free(&self) {
        assert!(!self.is_freed.swap(true, Ordering::SeqCst));
        self.freed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Foreign for Discarded {
    type Borrowed<'a> = &'a Discarded;

    fn borrow(&self) -> &Discarded {
        self
    }

    fn hash(_: &Discarded) -> u64 {
        42
    }

    fn same(one: &Discarded, other: &Discarded) -> bool {
        std::ptr::eq(one, other)
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn begin_use(&self) -> bool {
        let begin = |users| (users & DISCARDED == 0).then_some(users + 1);
        let users = &self.users;
        users
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, begin)
            .is_ok()
    }

    fn end_use(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) == DISCARDED | 1 {
            self.free();
        }
    }

    fn discard(&self) -> bool {
        if self.users.fetch_or(DISCARDED, Ordering::AcqRel) == 0 {
            self.free();
        }
        true
    }
}

impl Drop for Discarded {
    fn drop(&mut self) {
        if *self.users.get_mut() & DISCARDED == 0 {
            self.free();
        }
    }
}

/// No reader uses the memory of a value that was discarded, and all of it is freed once. What was
/// replaced in place is freed while there are guards.
#[test]
fn a_discarded_value_is_freed_once_and_not_while_it_is_used() {
    static FREED: AtomicUsize = AtomicUsize::new(0);
    const ROUNDS: usize = 20_000;
    let zone: Zone<Discarded> = Zone::default();
    let name = Datum::word(KIND, 1);
    let change = |key| Attribute {
        key: Datum::word(KIND, key),
        value: Value::fixed(Discarded::new(&FREED)),
    };
    let set = |changes: Changes<Discarded>| {
        let guard = reclaim::enter();
        let entry = zone.entry(name.borrow(), &guard).unwrap();
        assert!(entry.set(changes, &COMMITTED).is_ok());
    };
    let child = Child {
        state: State::Running,
        pid: None,
        keeper: KEEPER,
        spec: None,
    };
    assert_eq!(zone.insert(&name, child, &COMMITTED), Claimed::Done);
    set(Changes::from_iter([change(0)]));
    let before = reclaim::enter();
    set(Changes::from_iter([change(0)]));
    assert_eq!(FREED.load(Ordering::SeqCst), 1);
    drop(before);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, name, done) = (&zone, &name, &done);
        for _ in 0..2 {
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let guard = reclaim::enter();
                    let entry = zone.entry(name.borrow(), &guard).unwrap();
                    let value = entry.attributes().unwrap();
                    let value = value.get(Datum::word(KIND, 0).borrow()).unwrap();
                    let snapshot = entry.snapshot(usize::MAX).unwrap().unwrap();
                    let check = |seen: Seen<Discarded>| match seen {
                        Seen::Fixed(View::Foreign(used)) => {
                            assert!(!used.is_freed.load(Ordering::SeqCst))
                        }
                        _ => panic!("not a foreign term"),
                    };
                    check(value.seen());
                    snapshot.for_each(&mut |_, value| check(value));
                }
            });
        }
        for round in 0..ROUNDS {
            match round % 8 {
                0 => set(Changes::from_iter([change(0), change(1)])),
                key => set(Changes::from_iter([change(key as u64 % 2)])),
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    drop(zone);
    reclaim::flush(&reclaim::enter());
    wait_for(&FREED, 2 + ROUNDS + ROUNDS / 8);
}

/// Snapshots and changes of many attributes share a large map, and read its values without
/// beginning to use them. No value is freed meanwhile.
#[test]
fn a_discarded_value_is_not_freed_while_its_map_is_shared() {
    static FREED: AtomicUsize = AtomicUsize::new(0);
    static MADE: AtomicUsize = AtomicUsize::new(0);
    const ROUNDS: u64 = 20_000;
    const MANY: u64 = 200;
    let zone: Zone<Discarded> = Zone::default();
    let name = Datum::word(KIND, 1);
    let change = |key| {
        MADE.fetch_add(1, Ordering::SeqCst);
        Attribute {
            key: Datum::word(KIND, key),
            value: Value::fixed(Discarded::new(&FREED)),
        }
    };
    let set = |changes: Changes<Discarded>| {
        let guard = reclaim::enter();
        let entry = zone.entry(name.borrow(), &guard).unwrap();
        assert!(entry.set(changes, &COMMITTED).is_ok());
    };
    let check = |seen: Seen<Discarded>| match seen {
        Seen::Fixed(View::Foreign(used)) => assert!(!used.is_freed.load(Ordering::SeqCst)),
        _ => panic!("not a foreign term"),
    };
    let child = Child {
        state: State::Running,
        pid: None,
        keeper: KEEPER,
        spec: None,
    };
    assert_eq!(zone.insert(&name, child, &COMMITTED), Claimed::Done);
    set((0..MANY).map(change).collect());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, name, done, set) = (&zone, &name, &done, &set);
        scope.spawn(move || {
            for round in 0..ROUNDS {
                set(Changes::from_iter([change(round % MANY)]));
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                set((0..MANY).step_by(2).map(change).collect());
                thread::yield_now();
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let guard = reclaim::enter();
                let entry = zone.entry(name.borrow(), &guard).unwrap();
                let snapshot = entry.snapshot(usize::MAX).unwrap().unwrap();
                // The writers replace values between the visits.
                snapshot.for_each(&mut |_, value| {
                    thread::yield_now();
                    check(value);
                });
            }
        });
        scope.spawn(move || {
            for key in (0..MANY).cycle() {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                let guard = reclaim::enter();
                let entry = zone.entry(name.borrow(), &guard).unwrap();
                let attributes = entry.attributes().unwrap();
                check(
                    attributes
                        .get(Datum::word(KIND, key).borrow())
                        .unwrap()
                        .seen(),
                );
            }
        });
    });
    drop(zone);
    reclaim::flush(&reclaim::enter());
    wait_for(&FREED, MADE.load(Ordering::SeqCst));
}

#[test]
fn no_row_and_no_value_is_left_after_a_storm_of_names() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    const NAMES: u64 = 64;
    let zone = Table::default();
    let opened = AtomicI64::new(0);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (zone, opened) = (&zone, &opened);
            scope.spawn(move || {
                for round in 0..30_000 {
                    let name = (round * 7 + thread * 13) % NAMES;
                    let keeper = ((1 + thread) << 32) | round;
                    if open(zone, name, keeper) {
                        opened.fetch_add(1, Ordering::SeqCst);
                        let foreign = Datum::foreign(Counted::new(&LIVE, round));
                        assert!(set(zone, name, [fixed(0, foreign), counter(1, 5)]));
                        assert_eq!(add(zone, name, 1, 1), Added::Changed(6));
                        let guard = reclaim::enter();
                        assert!(zone.remove(word(name).borrow(), keeper, &guard, &COMMITTED));
                        assert!(!zone.remove(word(name).borrow(), keeper, &guard, &COMMITTED));
                        opened.fetch_sub(1, Ordering::SeqCst);
                    } else {
                        // Sets an attribute of a name that no child may hold.
                        let guard = reclaim::enter();
                        zone.add_or_set(&word(NAMES + name), 1, &counter(2, 1), &guard, &COMMITTED);
                    }
                }
                reclaim::flush(&reclaim::enter());
            });
        }
        // Another thread reads all pages meanwhile.
        let zone = &zone;
        scope.spawn(move || {
            for _ in 0..2_000 {
                let mut from = Some(0);
                while let Some(slot) = from {
                    let (rows, next) = zone.page(slot);
                    for row in &rows {
                        if let Some(child) = row.child() {
                            assert_ne!(child.keeper, 0);
                        }
                    }
                    from = next;
                }
            }
        });
    });
    assert_eq!(opened.load(Ordering::SeqCst), 0);
    assert_eq!(zone.count(), 0);
    let mut children = 0;
    let mut from = Some(0);
    while let Some(slot) = from {
        let (rows, next) = zone.page(slot);
        children += rows.iter().filter(|row| row.child().is_some()).count();
        from = next;
    }
    assert_eq!(children, 0);
    wait_for(&LIVE, 0);
}

/// Attributes of names that no child holds are added and removed, and so are children. No row is
/// left without attributes and child, no attribute is lost, and no child is put into a removed row.
#[test]
fn a_removed_child_is_not_counted() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    let zone = Table::default();
    let (turn, rounds) = (AtomicUsize::new(0), 2_000);
    let await_turn = |number| {
        while turn.load(Ordering::Acquire) != number {
            thread::yield_now();
        }
    };
    let mut counted = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                await_turn(2 * round);
                assert!(open(&zone, 1, KEEPER));
                // Retiring this takes so long that the other thread looks meanwhile.
                let heavy = Datum::foreign(Counted::new(&LIVE, HEAVY));
                assert!(set(&zone, 1, [fixed(1, heavy)]));
                turn.store(2 * round + 1, Ordering::Release);
                let guard = reclaim::enter();
                assert!(zone.remove(word(1).borrow(), KEEPER, &guard, &COMMITTED));
            }
        });
        for round in 0..rounds {
            await_turn(2 * round + 1);
            let guard = reclaim::enter();
            let has_child = || {
                let entry = zone.entry(word(1).borrow(), &guard);
                entry.is_some_and(|entry| entry.has_child())
            };
            while has_child() {}
            counted += zone.count();
            turn.store(2 * round + 2, Ordering::Release);
        }
    });
    assert_eq!(counted, 0);
}

#[test]
fn a_name_without_child_and_attributes_takes_no_row() {
    const NAMES: u64 = 4;
    let zone = Table::default();
    let counted = AtomicI64::new(0);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (zone, counted) = (&zone, &counted);
            scope.spawn(move || {
                for round in 0..50_000 {
                    let (name, keeper) = (round % NAMES, ((1 + thread) << 32) | round);
                    let (text, guard) = (word(name), reclaim::enter());
                    // Each thread has an attribute that it alone removes.
                    zone.add_or_set(&text, 1, &counter(thread, 1), &guard, &COMMITTED);
                    if round % 7 == thread && open(zone, name, keeper) {
                        let row = zone.entry(text.borrow(), &guard);
                        let child = row.and_then(|row| row.child());
                        assert_eq!(child.map(|child| child.keeper), Some(keeper));
                        assert!(zone.remove(text.borrow(), keeper, &guard, &COMMITTED));
                    } else if let Some(row) = zone.entry(text.borrow(), &guard) {
                        zone.delete(row, word(thread).borrow(), &COMMITTED);
                    }
                }
                for name in NAMES..2 * NAMES {
                    let guard = reclaim::enter();
                    for _ in 0..10_000 {
                        let (text, own) = (word(name), counter(thread, 1));
                        let added = zone.add_or_set(&text, 1, &own, &guard, &COMMITTED);
                        assert_eq!(added, Added::Missing);
                        let shared = counter(9, 1);
                        zone.add_or_set(&text, 1, &shared, &guard, &COMMITTED);
                        counted.fetch_add(1, Ordering::SeqCst);
                        let row = zone.entry(text.borrow(), &guard).unwrap();
                        zone.delete(row, word(thread).borrow(), &COMMITTED);
                    }
                }
            });
        }
    });
    let kept = (NAMES..2 * NAMES).map(|name| integers(&zone, name)[&9]);
    assert_eq!(kept.sum::<i64>(), counted.load(Ordering::SeqCst));
    for name in 0..2 * NAMES {
        let guard = reclaim::enter();
        for key in 0..10 {
            if let Some(row) = zone.entry(word(name).borrow(), &guard) {
                zone.delete(row, word(key).borrow(), &COMMITTED);
            }
        }
        assert!(zone.entry(word(name).borrow(), &guard).is_none());
    }
    assert_eq!(rows(&zone), 0);
}

/// Returns the number of rows in all pages.
fn rows(zone: &Table) -> usize {
    let (mut count, mut from) = (0, Some(0));
    while let Some(slot) = from {
        let (rows, next) = zone.page(slot);
        count += rows.len();
        from = next;
    }
    count
}

/// Waits until this many values are left. Values that threads of other tests may be reading are
/// freed when those leave their guards.
fn wait_for(live: &AtomicUsize, count: usize) {
    while live.load(Ordering::SeqCst) != count {
        // This thread may have gathered some, as the last reader that could have had them.
        reclaim::gather((), reclaim::ENOUGH + 1);
        thread::yield_now();
    }
}

#[test]
fn a_row_that_stays_is_on_exactly_one_page() {
    let zone = Table::default();
    for name in 0..5_000 {
        assert!(open(&zone, name, 10_000 + name));
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, done) = (&zone, &done);
        scope.spawn(move || {
            // The odd names are removed and added.
            for round in 0..40_000_u64 {
                let name = (round * 2 + 1) % 5_000;
                let guard = reclaim::enter();
                if !zone.remove(word(name).borrow(), 10_000 + name, &guard, &COMMITTED) {
                    assert!(open(zone, name, 10_000 + name));
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            let mut seen = vec![0; 5_000];
            let mut from = Some(0);
            while let Some(slot) = from {
                let (rows, next) = zone.page(slot);
                for row in &rows {
                    // Running children have the pids 1000 and up.
                    if let Some(Pid::Local(pid)) = row.pid() {
                        seen[(pid - 1000) as usize] += 1;
                    }
                }
                from = next;
            }
            assert!(seen.iter().step_by(2).all(|times| *times == 1));
        }
    });
}

#[test]
fn only_the_current_keeper_passes_on_or_removes_its_row() {
    let zone = Table::default();
    assert!(open(&zone, 1, 10));
    let change = |keeper, new| {
        let row = zone.row_of(keeper);
        row.is_some_and(|row| zone.change_keeper(&row, keeper, new, &COMMITTED))
    };
    assert!(!change(11, 12));
    assert!(change(10, 12));
    assert!(!change(10, 13));
    let guard = reclaim::enter();
    assert!(!zone.remove(word(1).borrow(), 10, &guard, &COMMITTED));
    assert!(zone.remove(word(1).borrow(), 12, &guard, &COMMITTED));
}

#[test]
fn dropping_a_zone_frees_nothing_that_readers_of_another_use() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    let zone = Table::default();
    for name in 0..64 {
        assert!(open(&zone, name, 1 + name));
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (zone, done) = (&zone, &done);
        scope.spawn(move || {
            // Names and attributes are retired, ...
            for round in 0..60_000_u64 {
                let name = round % 64;
                let foreign = Datum::foreign(Counted::new(&LIVE, round));
                assert!(set(zone, name, [fixed(0, foreign)]));
                if round % 3 == 0 {
                    let guard = reclaim::enter();
                    assert!(zone.remove(word(name).borrow(), 1 + name, &guard, &COMMITTED));
                    assert!(open(zone, name, 1 + name));
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(move || {
            // ... another thread reads them, ...
            while !done.load(Ordering::SeqCst) {
                for name in 0..64 {
                    let guard = reclaim::enter();
                    let row = zone.entry(word(name).borrow(), &guard);
                    let map = row.and_then(|row| row.attributes());
                    let value = map.and_then(|map| map.get(word(0).borrow()));
                    if let Some(Seen::Fixed(View::Foreign(foreign))) =
                        value.as_ref().map(InUse::seen)
                    {
                        assert_eq!(foreign.alive, ALIVE);
                    }
                }
            }
        });
        while !done.load(Ordering::SeqCst) {
            // ... and zones are made and dropped.
            let other = Table::default();
            for name in 0..100 {
                assert!(open(&other, name, 1 + name));
            }
        }
    });
}

#[test]
fn a_heavy_value_is_freed_as_soon_as_nobody_reads_it() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    let heavy = || Datum::foreign(Counted::new(&LIVE, HEAVY));
    let zone = Table::default();
    assert!(open(&zone, 1, KEEPER));
    for count in [1, 15, 100] {
        assert!(set(&zone, 1, (0..count).map(|key| fixed(key, heavy()))));
        wait_for(&LIVE, count as usize);
        assert!(set(&zone, 1, [fixed(0, word(0))]));
        wait_for(&LIVE, count as usize - 1);
        let guard = reclaim::enter();
        assert!(zone.remove(word(1).borrow(), KEEPER, &guard, &COMMITTED));
        drop(guard);
        wait_for(&LIVE, 0);
        assert!(open(&zone, 1, KEEPER));
    }
}

/// Threads claim names of their own while others remove theirs. Refused claims leave no row.
#[test]
fn no_thread_exceeds_the_limit_of_children() {
    const LIMIT: usize = 3;
    const ROUNDS: u64 = 20_000;

    let zone = Table::default();
    zone.limit_children(LIMIT, &COMMITTED);
    // With this child, three threads are one too many.
    assert!(open(&zone, 0, KEEPER));
    let running = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 1..4 {
            let (zone, running) = (&zone, &running);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let name = word(thread * ROUNDS + round % 7);
                    if open(zone, thread * ROUNDS + round % 7, thread) {
                        assert!(running.fetch_add(1, Ordering::SeqCst) < LIMIT - 1);
                        running.fetch_sub(1, Ordering::SeqCst);
                        let guard = reclaim::enter();
                        assert!(zone.remove(name.borrow(), thread, &guard, &COMMITTED));
                    }
                }
            });
        }
    });
    assert_eq!((zone.count(), rows(&zone)), (1, 1));
    let guard = reclaim::enter();
    assert!((1..LIMIT as u64).all(|name| open(&zone, name, name)));
    assert!(!open(&zone, 9, 9));
    assert!(set(&zone, 1, [counter(0, 0)]));
    assert_eq!(rows(&zone), LIMIT);
    // A row with attributes stays, and a name that is held is not refused as one too many.
    let missing = counter(0, 0);
    zone.add_or_set(&word(9), 0, &missing, &guard, &COMMITTED);
    assert!(!open(&zone, 9, 9));
    assert_eq!(rows(&zone), LIMIT + 1);
    let child = |keeper| Child {
        state: State::Running,
        pid: Some(Pid::Local(keeper)),
        keeper,
        spec: None,
    };
    assert_eq!(zone.insert(&word(1), child(9), &COMMITTED), Claimed::Held);
    assert_eq!(zone.insert(&word(9), child(9), &COMMITTED), Claimed::Full);
}

/// Two threads hand the same name to and fro, each time to a new keeper. There is always a child,
/// and the attributes stay.
#[test]
fn a_name_is_handed_over_with_its_attributes() {
    const ROUNDS: u64 = 4_000;

    let zone = Table::default();
    let pid = |keeper: u64| Pid::Local(1001 + keeper % 2);
    assert!(open(&zone, 1, 1));
    assert!(set(&zone, 1, [counter(0, 42)]));
    let give = |keeper, new| {
        let guard = reclaim::enter();
        let name = word(1);
        zone.hand_over(name.borrow(), keeper, new, pid(new), &guard, &COMMITTED)
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for first in 1..3 {
            let (give, done, pid) = (&give, &done, &pid);
            scope.spawn(move || {
                for keeper in (first..=ROUNDS).step_by(2) {
                    let before = loop {
                        if let Some(before) = give(keeper, keeper + 1) {
                            break before;
                        }
                        thread::yield_now();
                    };
                    assert!(before == pid(keeper) || keeper == 1);
                }
                done.store(true, Ordering::SeqCst);
            });
        }
        let (zone, done) = (&zone, &done);
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                let guard = reclaim::enter();
                let entry = zone.entry(word(1).borrow(), &guard).unwrap();
                let pid = entry.pid();
                assert!(pid == Some(Pid::Local(1001)) || pid == Some(Pid::Local(1002)));
                assert_eq!(integers(zone, 1), HashMap::from([(0, 42)]));
                assert_eq!(zone.count(), 1);
            }
        });
    });
    let last = ROUNDS + 1;
    assert!((1..last).all(|keeper| zone.kept(keeper).is_none()));
    assert!(zone.kept(last).is_some());
    // Of a keeper that does not have it, to the same one, and of a child that is being stopped.
    assert!(give(last + 1, last + 2).is_none());
    assert!(give(last, last).is_some());
    let guard = reclaim::enter();
    let entry = zone.entry(word(1).borrow(), &guard).unwrap();
    assert!(entry.stop(last, &COMMITTED).is_some());
    assert!(give(last, last + 1).is_none());
    assert!(zone.kept(last + 1).is_none() && zone.kept(last).is_some());
}

/// Starts a child whose keeper is `keeper`.
fn launch_by(keeper: u64, zone: &Table, name: u64, start: Start) -> Claimed {
    let child = Child {
        state: State::Launching,
        pid: None,
        keeper,
        spec: None,
    };
    zone.launch(&word(name), child, start, &COMMITTED)
}

fn launch(zone: &Table, name: u64, start: Start) -> Claimed {
    launch_by(name, zone, name, start)
}

/// The home holds a name until it knows the claim of another member. Meanwhile another thread
/// starts the name at home again and again: it never finds the name without holder and claim.
#[test]
fn a_start_at_home_is_refused_a_name_that_another_member_claims() {
    for round in 0..2_000 {
        let zone = Table::default();
        let directory = zone.open_directory(&COMMITTED);
        let origin = (Box::default(), word(0));
        let member = directory.add(2, &[2], origin, false, &COMMITTED);
        assert_eq!(launch_by(1, &zone, 7, Start::Home), Claimed::Done);
        thread::scope(|scope| {
            let starting = scope.spawn(|| loop {
                match launch_by(2, &zone, 7, Start::Home) {
                    Claimed::Held => thread::yield_now(),
                    claimed => break claimed,
                }
            });
            let guard = reclaim::enter();
            let up = Change::Up(word(round));
            directory.change(&member, &word(7), 1, Change::Held, &guard, &COMMITTED);
            directory.change(&member, &word(7), 1, up, &guard, &COMMITTED);
            assert!(zone.remove(word(7).borrow(), 1, &guard, &COMMITTED));
            assert_eq!(starting.join().unwrap(), Claimed::NotHome);
        });
        assert_eq!(zone.count(), 0);
        // A process that runs is refused as well.
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(3)),
            keeper: 3,
            spec: None,
        };
        let inserted = zone.insert_at_home(&word(7), child, &COMMITTED);
        assert_eq!(inserted, Claimed::NotHome);
        directory.end(&member, &COMMITTED);
        assert_eq!(launch_by(3, &zone, 7, Start::Home), Claimed::Done);
    }
}

/// A thread that drains a zone, and then counts the children, counts each child that was started or
/// registered at home and not refused. Others are not refused.
#[test]
fn a_child_at_home_is_counted_or_refused() {
    let register = |zone: &Zone<_>, start| {
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(3)),
            keeper: 1,
            spec: None,
        };
        zone.register(&word(1), child, start, &COMMITTED)
    };
    for round in 0..1_000 {
        let claim = |zone: &Zone<_>, start| match round % 2 {
            0 => launch(zone, 1, start),
            _ => register(zone, start),
        };
        let zone = Table::default();
        let directory = zone.open_directory(&COMMITTED);
        let ready = AtomicUsize::new(0);
        let meet = || {
            ready.fetch_add(1, Ordering::SeqCst);
            while ready.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
        };
        let (launched, counted) = thread::scope(|scope| {
            let launching = scope.spawn(|| {
                meet();
                claim(&zone, Start::Home)
            });
            meet();
            while !directory.drain(&COMMITTED) {
                thread::yield_now();
            }
            let counted = zone.count();
            (launching.join().unwrap(), counted)
        });
        match launched {
            Claimed::Done => {
                assert_eq!(counted, 1);
                assert!(zone.remove(word(1).borrow(), 1, &reclaim::enter(), &COMMITTED));
            }
            refused => {
                assert_eq!(refused, Claimed::NotHome);
                assert_eq!(zone.count(), 0);
            }
        }
        assert_eq!(claim(&zone, Start::Home), Claimed::NotHome);
        assert_eq!(claim(&zone, Start::Local), Claimed::Done);
    }
}
