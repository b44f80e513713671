//! The tables that were opened last, each at a place that its name selects.
//!
//! The embedder has a map of all its tables by their names, which are words. A look-up first reads
//! a place here, which is one pointer. Only if two tables share a place, the one that was opened
//! first has to be looked up in the map.
//!
//! A place points to a table that the map has. The table is put there after it was added to the
//! map, and taken away before it is removed from the map, which retires it. Both are done under one
//! lock, so no table is put there that another thread has just removed.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use seize::Guard as _;

use crate::reclaim::Guard;

/// Places. A small number of zones rarely share one.
const PLACES: usize = 64;

/// What is found by a word.
pub trait Named {
    /// Returns the word.
    fn name(&self) -> u64;
}

/// The tables that were opened last.
pub struct Recent<T> {
    places: [AtomicPtr<T>; PLACES],
    lock: Mutex<()>,
}

/// The right to change the map of tables, and with it the places.
pub struct Changing<'r, T> {
    recent: &'r Recent<T>,
    _lock: MutexGuard<'r, ()>,
}

impl<T: Named> Default for Recent<T> {
    fn default() -> Self {
        Recent::new()
    }
}

impl<T: Named> Recent<T> {
    /// Returns places without tables.
    pub const fn new() -> Self {
        Recent {
            places: [const { AtomicPtr::new(ptr::null_mut()) }; PLACES],
            lock: Mutex::new(()),
        }
    }

    /// Returns the table of this name, if it is at its place.
    #[inline]
    pub fn get<'g>(&'g self, name: u64, guard: &'g Guard) -> Option<&'g T> {
        let table = guard.protect(self.place(name), Ordering::Acquire);
        // SAFETY: the pointer was read under the guard. `Changing::add` has put it there, of a
        // table that the map had and keeps until `Changing::remove` has taken it away. From then
        // on the map retires the table, which is not freed before the guard is left.
        let table = unsafe { table.as_ref() };
        table.filter(|table| table.name() == name)
    }

    /// Waits until no other thread changes the map.
    pub fn change(&self) -> Changing<'_, T> {
        Changing {
            recent: self,
            _lock: self.lock.lock(),
        }
    }

    #[inline]
    fn place(&self, name: u64) -> &AtomicPtr<T> {
        // The words of all atoms have the same lowest six bits.
        &self.places[(name >> 6) as usize % PLACES]
    }
}

impl<T: Named> Changing<'_, T> {
    /// Adds a table to the map by `add`, which may replace and retire another one of its name.
    pub fn add(&self, table: &Arc<T>, add: impl FnOnce()) {
        let place = self.recent.place(table.name());
        place.store(ptr::null_mut(), Ordering::SeqCst);
        add();
        place.store(Arc::as_ptr(table).cast_mut(), Ordering::SeqCst);
    }

    /// Removes a table from the map by `remove`, which retires it if it is still there.
    pub fn remove(&self, table: &T, remove: impl FnOnce()) {
        let place = self.recent.place(table.name());
        if ptr::eq(place.load(Ordering::Relaxed), table) {
            place.store(ptr::null_mut(), Ordering::SeqCst);
        }
        remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashing::Seed;
    use crate::reclaim;
    use lazy_static::lazy_static;
    use papaya::HashMap;
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::thread;

    /// A freed table has no life.
    struct Table {
        name: u64,
        life: AtomicU64,
    }

    impl Table {
        fn new(name: u64, life: u64) -> Arc<Self> {
            Arc::new(Table {
                name,
                life: AtomicU64::new(life),
            })
        }
    }

    impl Named for Table {
        fn name(&self) -> u64 {
            self.name
        }
    }

    impl Drop for Table {
        fn drop(&mut self) {
            self.life.store(0, Ordering::Relaxed);
        }
    }

    /// Never dropped, see [`reclaim::collector`].
    struct Tables {
        map: HashMap<u64, Arc<Table>, Seed>,
        recent: Recent<Table>,
    }

    impl Tables {
        fn new() -> Self {
            let map = HashMap::builder().hasher(Seed::default());
            Tables {
                map: map.shared_collector(reclaim::collector()).build(),
                recent: Recent::new(),
            }
        }

        fn open(&self, table: &Arc<Table>, guard: &Guard) {
            self.recent.change().add(table, || {
                self.map.insert(table.name(), Arc::clone(table), guard);
            });
        }

        fn close(&self, table: &Table, guard: &Guard) {
            self.recent.change().remove(table, || {
                let is_this = |_: &u64, other: &Arc<Table>| ptr::eq(&**other, table);
                let _ = self.map.remove_if(&table.name(), is_this, guard);
            });
        }
    }

    const FIRST: u64 = 64;
    const SECOND: u64 = FIRST + 64 * PLACES as u64;

    #[test]
    fn a_table_is_found_until_it_is_closed_or_its_place_is_taken() {
        lazy_static! {
            static ref TABLES: Tables = Tables::new();
        }
        let (tables, guard) = (&*TABLES, reclaim::enter());
        let life = |name| {
            let table = tables.recent.get(name, &guard);
            table.map(|table| table.life.load(Ordering::Relaxed))
        };
        let [first, newer] = [1, 2].map(|life| Table::new(FIRST, life));
        let second = Table::new(SECOND, 3);
        assert_eq!(life(FIRST), None);
        tables.open(&first, &guard);
        assert_eq!((life(FIRST), life(SECOND)), (Some(1), None));
        tables.open(&newer, &guard);
        assert_eq!(life(FIRST), Some(2));
        // One that is not there any more.
        tables.close(&first, &guard);
        assert_eq!(life(FIRST), Some(2));
        tables.open(&second, &guard);
        assert_eq!((life(FIRST), life(SECOND)), (None, Some(3)));
        tables.close(&newer, &guard);
        assert_eq!(life(SECOND), Some(3));
        tables.close(&second, &guard);
        assert_eq!((life(FIRST), life(SECOND)), (None, None));
    }

    /// One thread opens tables and closes them, and waits until each is freed.
    #[test]
    fn no_thread_finds_a_freed_table() {
        const ROUNDS: u64 = 300;
        lazy_static! {
            static ref TABLES: Tables = Tables::new();
        }
        let is_running = AtomicBool::new(true);
        thread::scope(|scope| {
            let (tables, is_running) = (&*TABLES, &is_running);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    let guard = reclaim::enter();
                    let table = Table::new([FIRST, SECOND][(round % 3 / 2) as usize], round);
                    tables.open(&table, &guard);
                    tables.close(&table, &guard);
                    let freed = Arc::downgrade(&table);
                    drop((table, guard));
                    while freed.strong_count() > 0 {
                        reclaim::flush(&reclaim::enter());
                        thread::yield_now();
                    }
                    // The memory is there as long as `freed` is.
                    let guard = reclaim::enter();
                    for name in [FIRST, SECOND] {
                        assert!(tables.recent.get(name, &guard).is_none());
                    }
                }
                is_running.store(false, Ordering::SeqCst);
            });
            scope.spawn(move || {
                while is_running.load(Ordering::SeqCst) {
                    let guard = reclaim::enter();
                    for name in [FIRST, SECOND] {
                        if let Some(table) = tables.recent.get(name, &guard) {
                            assert_eq!(table.name, name);
                            assert_ne!(table.life.load(Ordering::Relaxed), 0);
                        }
                    }
                }
            });
        });
    }
}
