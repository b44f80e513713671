//! Tests the table of names alone: threads change it and make it grow, and readers compare it with
//! what the writers record.

#[path = "../src/names.rs"]
mod names;
#[allow(dead_code)]
#[path = "../src/shards.rs"]
mod shards;

mod sync {
    pub use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
    pub use std::sync::Arc;

    pub use parking_lot::Mutex;
}

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::thread;

use names::{Names, Removed};
use proctab_table::reclaim;
use sync::{Arc, Mutex, Ordering};

/// So few that a shard grows and shrinks all the time.
const SHARDS: usize = 2;

struct Row {
    name: u64,
    version: u64,
    live: &'static AtomicUsize,
}

impl Row {
    fn new(name: u64, version: u64, live: &'static AtomicUsize) -> Arc<Row> {
        live.fetch_add(1, Ordering::SeqCst);
        Arc::new(Row {
            name,
            version,
            live,
        })
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        // A reader of a freed row finds a name that no row has.
        self.name = u64::MAX;
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl names::Named for Row {}

type Table = Names<Row, SHARDS>;

/// Returns a hash. Every third name has that of another one.
fn hash(name: u64) -> u64 {
    let name = if name % 3 == 0 { name + 1 } else { name };
    name.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(20)
}

fn insert(table: &Table, row: &Arc<Row>) -> bool {
    let matches = |other: &Row| other.name == row.name;
    table.insert(hash(row.name), Arc::clone(row), matches, &reclaim::enter())
}

fn version(table: &Table, name: u64) -> Option<u64> {
    let guard = reclaim::enter();
    let row = table.get(hash(name), |row| row.name == name, &guard)?;
    assert_eq!(row.name, name);
    Some(row.version)
}

/// Returns the names from `first` on that pages of the table have, in order.
fn kept(table: &Table, first: u64) -> Vec<u64> {
    let guard = reclaim::enter();
    let rows = (0..SHARDS).flat_map(|shard| table.rows_of(shard, &guard));
    let mut names: Vec<_> = rows.map(|row| row.name).collect();
    names.retain(|name| *name >= first);
    names.sort_unstable();
    names
}

fn wait_for(live: &AtomicUsize, count: usize) {
    while live.load(Ordering::SeqCst) != count {
        thread::yield_now();
    }
}

/// The changes of each name are numbered: at 4 n it is absent, at 4 n + 1 it is being inserted, at
/// 4 n + 2 it is present in version n, and at 4 n + 3 it is being removed.
#[test]
fn readers_agree_with_writers_while_the_table_grows_and_shrinks() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    const NAMES: u64 = 900;
    const WRITERS: u64 = 3;
    const ROUNDS: u64 = 60;
    let table = Table::default();
    let changes: Vec<_> = (0..NAMES).map(|_| AtomicU64::new(0)).collect();
    let running = AtomicUsize::new(WRITERS as usize);
    // These names are never removed.
    for name in NAMES..NAMES + 20 {
        assert!(insert(&table, &Row::new(name, 0, &LIVE)));
    }
    thread::scope(|scope| {
        let (table, changes, running) = (&table, &changes, &running);
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Inserts a different share of the names in each round, and removes them again.
                    let own = (writer..NAMES).step_by(WRITERS as usize);
                    let own: Vec<_> = own.filter(|name| name % (1 + round % 7) == 0).collect();
                    let rows: Vec<_> = own
                        .iter()
                        .map(|name| Row::new(*name, round, &LIVE))
                        .collect();
                    for row in &rows {
                        let change = &changes[row.name as usize];
                        change.store(4 * round + 1, Ordering::SeqCst);
                        assert!(insert(table, row));
                        change.store(4 * round + 2, Ordering::SeqCst);
                        assert!(!insert(table, row));
                    }
                    for row in &rows {
                        let change = &changes[row.name as usize];
                        assert_eq!(version(table, row.name), Some(round));
                        change.store(4 * round + 3, Ordering::SeqCst);
                        table.remove(hash(row.name), row, &reclaim::enter());
                        change.store(4 * round + 4, Ordering::SeqCst);
                        assert_eq!(version(table, row.name), None);
                    }
                }
                reclaim::flush(&reclaim::enter());
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for reader in 0..2 {
            scope.spawn(move || {
                let mut name = reader;
                while running.load(Ordering::SeqCst) > 0 {
                    name = (name + 7) % NAMES;
                    let before = changes[name as usize].load(Ordering::SeqCst);
                    let found = version(table, name);
                    let after = changes[name as usize].load(Ordering::SeqCst);
                    match before % 4 {
                        0 if before == after => assert_eq!(found, None, "{name}"),
                        2 if before == after => assert_eq!(found, Some(before / 4), "{name}"),
                        _ => assert!(found.is_none_or(|version| version <= after / 4)),
                    }
                    assert_eq!(version(table, NAMES + name % 20), Some(0));
                    if name % 50 == 0 {
                        assert_eq!(kept(table, NAMES), (NAMES..NAMES + 20).collect::<Vec<_>>());
                    }
                }
            });
        }
    });
    drop(table);
    wait_for(&LIVE, 0);
}

/// Every thread changes every name.
#[test]
fn writers_agree_with_a_plain_map_behind_a_lock() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    let table = Table::default();
    let models: Vec<Mutex<HashMap<u64, Arc<Row>>>> = (0..64).map(|_| Mutex::default()).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (table, models, done) = (&table, &models, &done);
        let writers: Vec<_> = (0..3_u64)
            .map(|writer| {
                scope.spawn(move || {
                    for round in 0..60_000_u64 {
                        let name = (round * (7 + writer * 2)) % 640;
                        let mut model = models[name as usize % 64].lock();
                        let found = version(table, name);
                        assert_eq!(found, model.get(&name).map(|row| row.version));
                        let row = Row::new(name, round, &LIVE);
                        match model.remove(&name) {
                            Some(before) if round % 3 == 0 => {
                                let guard = reclaim::enter();
                                table.replace(hash(name), &before, Arc::clone(&row), &guard);
                                model.insert(name, row);
                            }
                            Some(before) => {
                                table.remove(hash(name), &before, &reclaim::enter());
                                // Nothing takes the place of a row that is not there.
                                let guard = reclaim::enter();
                                table.replace(hash(name), &before, row, &guard);
                            }
                            None => {
                                assert!(insert(table, &row));
                                model.insert(name, row);
                            }
                        }
                    }
                    reclaim::flush(&reclaim::enter());
                })
            })
            .collect();
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                (0..640).filter_map(|name| version(table, name)).count();
            }
        });
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::SeqCst);
    });
    drop((table, models));
    wait_for(&LIVE, 0);
}

/// Few enough that a thread would gather them and keep them, if each were retired by itself.
#[test]
fn rows_that_are_removed_together_are_freed_in_the_background() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    let table = Table::default();
    let rows: Vec<_> = (0..100).map(|name| Row::new(name, 0, &LIVE)).collect();
    assert!(rows.iter().all(|row| insert(&table, row)));
    let guard = reclaim::enter();
    let found = table.get(hash(7), |row| row.name == 7, &guard).unwrap();
    let mut removed = Removed::new(&guard);
    for row in rows {
        table.remove_into(hash(row.name), &row, &mut removed);
        assert_eq!(version(&table, row.name), None);
    }
    drop(removed);
    reclaim::flush(&guard);
    // A reader may use a row until it leaves its guard.
    assert_eq!(found.name, 7);
    drop(guard);
    wait_for(&LIVE, 0);
}

#[test]
fn a_shared_row_outlives_its_slot_and_the_table() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    let table = Table::default();
    let kept: Vec<_> = (0..200)
        .map(|name| {
            assert!(insert(&table, &Row::new(name, name, &LIVE)));
            let guard = reclaim::enter();
            let row = table.get(hash(name), |row| row.name == name, &guard);
            row.unwrap().share()
        })
        .collect();
    for row in kept.iter().take(190) {
        table.remove(hash(row.name), row, &reclaim::enter());
        assert_eq!(version(&table, row.name), None);
        // Removing it again does nothing.
        table.remove(hash(row.name), row, &reclaim::enter());
    }
    drop(table);
    assert!(kept
        .iter()
        .enumerate()
        .all(|(name, row)| row.name == name as u64));
    assert_eq!(LIVE.load(Ordering::SeqCst), 200);
}
