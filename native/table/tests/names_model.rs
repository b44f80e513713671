//! Tests the table of names with a model checker, which runs a few operations of a few threads in
//! all orders, with all results that weak memory allows.
//!
//! A stand-in for `reclaim` checks its contract: under a guard, no thread reaches memory that was
//! retired before the guard was entered. It frees nothing before the end, and panics if a thread
//! reads such a pointer.

#[allow(dead_code, unused_imports)]
#[path = "../src/names.rs"]
mod names;
#[allow(dead_code)]
#[path = "../src/shards.rs"]
mod shards;

mod sync {
    pub use loom::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
    pub use std::sync::Arc;

    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

mod reclaim {
    use super::sync::{AtomicPtr, Mutex, Ordering};

    loom::lazy_static! {
        static ref RETIRED: Mutex<Vec<Retired>> = Mutex::new(Vec::new());
    }

    struct Retired {
        address: usize,
        free: Box<dyn FnOnce()>,
    }

    pub struct Guard {
        out_of_reach: Vec<usize>,
    }

    pub fn enter() -> Guard {
        let retired = RETIRED.lock();
        let out_of_reach = retired.iter().map(|retired| retired.address).collect();
        Guard { out_of_reach }
    }

    impl Guard {
        fn check<T>(&self, pointer: *mut T) -> *mut T {
            assert!(
                !self.out_of_reach.contains(&pointer.addr()),
                "the pointer was retired before the guard was entered"
            );
            pointer
        }

        pub fn protect<T>(&self, pointer: &AtomicPtr<T>, order: Ordering) -> *mut T {
            self.check(pointer.load(order))
        }

        pub fn swap<T>(&self, pointer: &AtomicPtr<T>, new: *mut T, order: Ordering) -> *mut T {
            self.check(pointer.swap(new, order))
        }

        pub unsafe fn defer_retire<T: 'static>(
            &self,
            pointer: *mut T,
            free: unsafe fn(*mut T, ()),
        ) {
            let mut retired = RETIRED.lock();
            let address = pointer.addr();
            assert!(
                retired.iter().all(|retired| retired.address != address),
                "the pointer is retired twice"
            );
            // SAFETY: it is called once, after all threads have ended.
            let free = Box::new(move || unsafe { free(pointer, ()) });
            retired.push(Retired { address, free });
        }
    }

    /// Frees everything that was retired.
    pub fn end() {
        let retired = std::mem::take(&mut *RETIRED.lock());
        retired.into_iter().for_each(|retired| (retired.free)());
    }

    pub fn flush(_: &Guard) {}

    pub fn later<T>(_: T) {}

    pub fn gather<T>(_: T, _: usize) {}
}

use loom::cell::UnsafeCell;
use loom::sync::Arc as Shared;
use loom::thread;
use names::Names;
use sync::Arc;

struct Row {
    name: u64,
    /// The checker fails if it is read before it was written.
    version: UnsafeCell<u64>,
}

// SAFETY: only `row` writes the version, before the row is shared.
unsafe impl Sync for Row {}

impl Row {
    fn version(&self) -> u64 {
        // SAFETY: as above.
        self.version.with(|version| unsafe { *version })
    }
}

impl names::Named for Row {}

type Table = Names<Row, 1>;

/// Returns the hash of a name: the same for all names up to 10, so that they are compared.
fn hash(name: u64) -> u64 {
    if name > 10 {
        name
    } else {
        7
    }
}

fn row(name: u64, version: u64) -> Arc<Row> {
    Arc::new(Row {
        name,
        version: UnsafeCell::new(version),
    })
}

fn insert(table: &Table, row: &Arc<Row>) -> bool {
    let matches = |other: &Row| other.name == row.name;
    table.insert(hash(row.name), Arc::clone(row), matches, &reclaim::enter())
}

fn remove(table: &Table, row: &Arc<Row>) {
    table.remove(hash(row.name), row, &reclaim::enter());
}

fn version(table: &Table, name: u64) -> Option<u64> {
    let guard = reclaim::enter();
    let row = table.get(hash(name), |row| row.name == name, &guard)?;
    Some(row.version())
}

/// Runs two threads on a table of these names in all orders, then `after`, and frees everything.
fn check(
    names: &'static [u64],
    first: impl Fn(&Table, &[Arc<Row>]) + Copy + Send + Sync + 'static,
    second: impl Fn(&Table, &[Arc<Row>]) + Copy + Send + Sync + 'static,
    after: impl Fn(&Table) + Copy + Send + Sync + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let table = Shared::new(Table::default());
        let rows: Arc<Vec<_>> = Arc::new(names.iter().map(|name| row(*name, 0)).collect());
        for row in &*rows {
            assert!(insert(&table, row));
        }
        let own = (Shared::clone(&table), Arc::clone(&rows));
        let one = thread::spawn(move || first(&own.0, &own.1));
        let own = (Shared::clone(&table), Arc::clone(&rows));
        let other = thread::spawn(move || second(&own.0, &own.1));
        one.join().unwrap();
        other.join().unwrap();
        after(&table);
        drop(table);
        reclaim::end();
    });
}

#[test]
fn a_row_that_replaces_another_is_found_from_then_on() {
    check(
        &[1],
        |table, rows| {
            remove(table, &rows[0]);
            assert!(insert(table, &row(1, 1)));
        },
        |table, _| match version(table, 1) {
            Some(1) => assert_eq!(version(table, 1), Some(1)),
            None => assert_ne!(version(table, 1), Some(0)),
            _ => (),
        },
        |table| assert_eq!(version(table, 1), Some(1)),
    );
}

#[test]
fn a_row_or_the_one_in_its_place_is_found() {
    check(
        &[1, 2],
        |table, rows| {
            let guard = reclaim::enter();
            table.replace(hash(1), &rows[0], row(1, 1), &guard);
        },
        |table, rows| {
            if version(table, 1).expect("the name is always there") == 1 {
                assert_eq!(version(table, 1), Some(1));
            }
            remove(table, &rows[1]);
        },
        |table| assert_eq!([1, 2].map(|name| version(table, name)), [Some(1), None]),
    );
}

#[test]
fn a_row_that_is_not_there_is_not_replaced() {
    check(
        &[1],
        |table, rows| {
            let guard = reclaim::enter();
            table.replace(hash(1), &rows[0], row(1, 1), &guard);
        },
        |table, rows| remove(table, &rows[0]),
        |table| assert_ne!(version(table, 1), Some(0)),
    );
}

#[test]
fn a_row_that_another_thread_has_found_is_found() {
    loom::model(|| {
        let table = Shared::new(Table::default());
        let before = row(1, 0);
        assert!(insert(&table, &before));
        let told = Shared::new(loom::sync::atomic::AtomicBool::new(false));
        let own = Shared::clone(&table);
        let writer = thread::spawn(move || {
            remove(&own, &before);
            assert!(insert(&own, &row(1, 1)));
        });
        let own = (Shared::clone(&table), Shared::clone(&told));
        let teller = thread::spawn(move || {
            let found = version(&own.0, 1) == Some(1);
            own.1.store(found, sync::Ordering::Release);
        });
        if told.load(sync::Ordering::Acquire) {
            assert_eq!(version(&table, 1), Some(1));
        }
        writer.join().unwrap();
        teller.join().unwrap();
        drop(table);
        reclaim::end();
    });
}

#[test]
fn a_name_is_found_while_its_neighbour_is_removed() {
    check(
        &[1, 2],
        |table, rows| {
            remove(table, &rows[0]);
            assert!(insert(table, &row(3, 1)));
        },
        |table, _| {
            assert_eq!(version(table, 2), Some(0));
            assert_ne!(version(table, 3), Some(0));
            assert_ne!(version(table, 1), Some(1));
        },
        |table| {
            let now = [1, 2, 3].map(|name| version(table, name));
            assert_eq!(now, [None, Some(0), Some(1)]);
        },
    );
}

#[test]
fn a_name_is_found_while_the_table_grows() {
    check(
        &[1, 11, 12],
        |table, rows| {
            assert!(insert(table, &row(13, 1)));
            remove(table, &rows[0]);
        },
        |table, _| {
            assert_eq!(version(table, 11), Some(0));
            if version(table, 1).is_none() {
                assert_eq!(version(table, 13), Some(1));
            }
        },
        |table| {
            let now = [1, 11, 12, 13].map(|name| version(table, name));
            assert_eq!(now, [None, Some(0), Some(0), Some(1)]);
        },
    );
}

#[test]
fn a_name_is_found_while_the_table_shrinks() {
    check(
        &[1, 11, 12, 13],
        |table, rows| rows[..3].iter().for_each(|row| remove(table, row)),
        |table, _| {
            assert_eq!(version(table, 13), Some(0));
            if version(table, 12).is_none() {
                assert_eq!(version(table, 1), None);
            }
        },
        |table| assert_eq!(version(table, 13), Some(0)),
    );
}

#[test]
fn one_of_two_threads_inserts_a_name() {
    let insert = |table: &Table, _: &[Arc<Row>]| {
        let guard = reclaim::enter();
        table.insert(hash(1), row(1, 1), |row| row.name == 1, &guard);
        let found = table.get(hash(1), |row| row.name == 1, &guard);
        assert_eq!(found.map(|row| row.version()), Some(1));
    };
    check(&[], insert, insert, |table| {
        let guard = reclaim::enter();
        let one = table.get(hash(1), |row| row.name == 1, &guard).unwrap();
        table.remove(hash(1), &one, &guard);
        assert_eq!(version(table, 1), None);
    });
}
