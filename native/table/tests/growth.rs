//! A table of any size grows in small steps: no call takes long because a table happens to be full.
//!
//! The cost of a step is proportional to the memory that it allocates, so the tests count bytes
//! instead of measuring time. A reallocation counts by itself: the library's allocator copies, and
//! a list of what a step frees may grow several times.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::Nothing;
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Kind};
use proctab_table::index::{Indexes, Planned};
use proctab_table::processes::{Notice, Processes};
use proctab_table::reclaim;
use proctab_table::row::{Child, Claimed, Pid, State};
use proctab_table::zone::Zone;

const COMMITTED: Committed = Committed::new();
const KIND: Kind = Kind::new(3);
const NAMES: u64 = 1_000_000;
/// Rows of a zone with indexes.
const INDEXED: u64 = 250_000;
/// The default limit of OTP 25.
const PROCESSES: u64 = 262_144;
/// Bytes of a step at most: moving them takes a few hundred microseconds if the memory is not in
/// a cache.
const MAX_STEP: usize = 1 << 18;

struct Counting;

thread_local! {
    /// Bytes that this thread has allocated since the last reset.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all of the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller fulfils the requirements of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the memory came from the system's allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get().max(size));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns the most bytes that one of the steps has allocated.
fn largest_step(steps: u64, mut step: impl FnMut(u64)) -> usize {
    let allocated = |number| {
        ALLOCATED.set(0);
        step(number);
        ALLOCATED.get()
    };
    (0..steps).map(allocated).max().unwrap()
}

/// An empty zone takes 8 KB at most. The first names add what only they need.
#[test]
fn an_empty_zone_takes_little_memory() {
    ALLOCATED.set(0);
    let zone = Box::new(Zone::default());
    let empty = ALLOCATED.get();
    assert!(empty <= 1 << 13, "{empty}");
    let name = largest_step(10, |number| {
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(2 * number)),
            keeper: 2 * number + 1,
            spec: None,
        };
        assert_eq!(zone.insert(&word(number), child, &COMMITTED), Claimed::Done);
    });
    assert!(name <= 1 << 11, "{name}");
}

fn word(number: u64) -> Datum<Nothing> {
    Datum::word(KIND, number)
}

#[test]
fn a_zone_grows_and_shrinks_in_small_steps() {
    let zone = Zone::default();
    let growing = largest_step(NAMES, |number| {
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(2 * number)),
            keeper: 2 * number + 1,
            spec: None,
        };
        assert_eq!(zone.insert(&word(number), child, &COMMITTED), Claimed::Done);
    });
    let shrinking = largest_step(NAMES, |number| {
        assert!(zone.remove(
            word(number).borrow(),
            2 * number + 1,
            &reclaim::enter(),
            &COMMITTED
        ));
    });
    assert!(
        growing <= MAX_STEP && shrinking <= MAX_STEP,
        "{growing} {shrinking}"
    );
}

/// All rows have one value of the first index, and each its own of the second.
#[test]
fn indexes_grow_and_shrink_in_small_steps() {
    let zone = Zone::default();
    let keys = [(word(0), false), (word(1), false)];
    zone.set_indexes(Indexes::new(keys).unwrap(), &COMMITTED);
    let indexes = zone.indexes().unwrap();
    let set = |name, values: [Option<u64>; 2]| {
        let guard = reclaim::enter();
        let entry = zone.entry(word(name).borrow(), &guard).unwrap();
        let planned = |(position, value): (usize, Option<u64>)| Planned {
            position,
            values: value.map(word).into_iter().collect(),
        };
        let plan = values.into_iter().enumerate().map(planned).collect();
        let revision = indexes.revise(entry, None).unwrap();
        revision.write(plan, |_| ((), true), &COMMITTED);
    };
    for name in 0..INDEXED {
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(2 * name + 2)),
            keeper: 2 * name + 1,
            spec: None,
        };
        assert_eq!(zone.insert(&word(name), child, &COMMITTED), Claimed::Done);
    }
    let growing = largest_step(INDEXED, |name| set(name, [Some(INDEXED), Some(name)]));
    let shrinking = largest_step(INDEXED, |name| set(name, [None, None]));
    assert!(
        growing <= MAX_STEP && shrinking <= MAX_STEP,
        "{growing} {shrinking}"
    );
}

#[test]
fn the_waiters_for_many_names_are_added_in_small_steps() {
    let zone = Zone::default();
    let waiting = largest_step(PROCESSES, |number| {
        let sought = zone.child_of(word(number).borrow());
        zone.waiters().add(sought, number, number, &COMMITTED)
    });
    assert!(waiting <= MAX_STEP, "{waiting}");
}

#[test]
fn a_table_of_processes_grows_in_small_steps() {
    let table = Processes::default();
    let processes = largest_step(NAMES, |number| {
        let registered = table.register(&word(number), &word(number), |_| Ok::<_, ()>(COMMITTED));
        assert_eq!(registered, Ok(Notice::Monitor));
    });
    assert!(processes <= MAX_STEP, "{processes}");
}
