//! However large a table gets, it grows in small parts: no call takes long because the table happens to be full.
//!
//! What a part costs is in proportion to the memory that it moves to, and that is counted, not timed. The growth of a vector is left out: the system's allocator moves
//! that by pages.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::Nothing;
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Kind};
use proctab_table::processes::Processes;
use proctab_table::reclaim;
use proctab_table::row::{Child, Pid, State};
use proctab_table::zone::Zone;

const COMMITTED: Committed = Committed::new();
const KIND: Kind = Kind::new(3);
const NAMES: u64 = 1_000_000;
/// As many as OTP 25 allows unless it is told otherwise.
const PROCESSES: u64 = 262_144;
/// In bytes. Moving as much takes some hundred microseconds where the memory is cold.
const LARGEST_PART: usize = 1 << 18;

struct Counting;

thread_local! {
    /// What this thread has allocated since it was last looked at.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller keeps to what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: it came from the system's allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that one of the steps has allocated.
fn largest_part(steps: u64, mut step: impl FnMut(u64)) -> usize {
    let allocated = |number| {
        ALLOCATED.set(0);
        step(number);
        ALLOCATED.get()
    };
    (0..steps).map(allocated).max().unwrap()
}

fn word(number: u64) -> Datum<Nothing> {
    Datum::word(KIND, number)
}

#[test]
fn a_zone_grows_and_shrinks_in_small_parts() {
    let zone = Zone::default();
    let growing = largest_part(NAMES, |number| {
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(2 * number)),
            keeper: 2 * number + 1,
            spec: None,
        };
        assert!(zone.insert(&word(number), child, &COMMITTED));
    });
    let shrinking = largest_part(NAMES, |number| {
        assert!(zone.remove(
            word(number).borrow(),
            2 * number + 1,
            &reclaim::enter(),
            &COMMITTED
        ));
    });
    assert!(
        growing <= LARGEST_PART && shrinking <= LARGEST_PART,
        "{growing} {shrinking}"
    );
}

#[test]
fn those_who_wait_for_many_names_are_put_down_in_small_parts() {
    let zone = Zone::default();
    let waiting = largest_part(PROCESSES, |number| {
        zone.waiters().add(word(number), number, number, &COMMITTED)
    });
    assert!(waiting <= LARGEST_PART, "{waiting}");
}

#[test]
fn a_table_of_processes_grows_in_small_parts() {
    let table = Processes::default();
    let processes = largest_part(NAMES, |number| {
        table.register(&word(number), &word(number), &COMMITTED)
    });
    assert!(processes <= LARGEST_PART, "{processes}");
}
