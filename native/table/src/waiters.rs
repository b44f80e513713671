//! Processes that wait for something of a name: for an attribute, or for a running child.
//!
//! Waiters are listed by name, whether a child holds the name or not. A writer that adds what they
//! wait for takes all waiters of its name at once. Both sides write before they read: a waiter
//! adds itself and then looks again; a writer publishes and then looks for waiters. So one of them
//! sees the other. Without waiters, a writer reads one word.

use std::sync::atomic::{fence, AtomicUsize, Ordering};
use std::sync::OnceLock;

use dashmap::mapref::entry::Entry;
use dashmap::DashMap;
use indexmap::IndexMap;

use crate::commit::Committed;
use crate::datum::{Datum, Foreign};
use crate::hashing::{moved_by_add, Seed};

/// The waiters of one name: their processes, by the numbers that identify the waiters.
pub type Waiting = IndexMap<u64, u64, Seed>;

type ByName<F> = DashMap<Datum<F>, Waiting, Seed>;

/// Shards of the names. A shard grows at once.
const SHARDS: usize = 512;

/// All waiters of a zone for one thing.
pub struct Waiters<F: Foreign> {
    /// Allocated for the first waiter; most zones never have one.
    names: OnceLock<ByName<F>>,
    seed: Seed,
    count: AtomicUsize,
}

impl<F: Foreign> Waiters<F> {
    pub(crate) fn new(seed: Seed) -> Self {
        Waiters {
            names: OnceLock::new(),
            seed,
            count: AtomicUsize::new(0),
        }
    }

    /// Adds a waiter, by a number that no other one has. It has to look again before it waits.
    pub fn add(&self, name: Datum<F>, id: u64, pid: u64, _: &Committed) {
        let names = self
            .names
            .get_or_init(|| DashMap::with_hasher_and_shard_amount(self.seed.clone(), SHARDS));
        names.entry(name).or_default().insert(id, pid);
        self.count.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Returns the number of waiters of all names. It may be outdated.
    #[inline]
    pub fn total(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the number of waiters of a name.
    pub fn count(&self, name: &Datum<F>) -> usize {
        self.of(name, |waiting| waiting.len())
    }

    /// Returns the number of entries that are moved when a waiter is added.
    pub fn moved_by_add(&self, name: &Datum<F>) -> usize {
        self.of(name, moved_by_add)
    }

    fn of(&self, name: &Datum<F>, read: impl FnOnce(&Waiting) -> usize) -> usize {
        let names = self.names.get();
        let waiting = names.and_then(|names| names.get(name));
        waiting.map_or(0, |waiting| read(&waiting))
    }

    /// Removes and returns the waiters of a name, after what they wait for was added. The caller
    /// wakes them.
    pub fn take(&self, name: &Datum<F>, _: &Committed) -> Waiting {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return Waiting::default();
        }
        let taken = self.names.get().and_then(|names| names.remove(name));
        let waiting = taken.map(|(_, waiting)| waiting).unwrap_or_default();
        self.count.fetch_sub(waiting.len(), Ordering::SeqCst);
        waiting
    }

    /// Removes a waiter. Returns `false` if it was taken.
    pub fn remove(&self, name: &Datum<F>, id: u64, _: &Committed) -> bool {
        let entry = self.names.get().map(|names| names.entry(name.clone()));
        let Some(Entry::Occupied(mut entry)) = entry else {
            return false;
        };
        let waiting = entry.get_mut();
        if waiting.swap_remove(&id).is_none() {
            return false;
        }
        let emptied = waiting.is_empty().then(|| entry.remove_entry());
        self.count.fetch_sub(1, Ordering::SeqCst);
        drop(emptied);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Kind;
    use crate::testing::Text;

    const COMMITTED: Committed = Committed::new();

    fn name(number: u64) -> Datum<Text> {
        Datum::word(Kind::new(0), number)
    }

    fn add(waiters: &Waiters<Text>, number: u64, id: u64) {
        waiters.add(name(number), id, 100 + id, &COMMITTED);
    }

    fn taken(waiters: &Waiters<Text>, number: u64) -> Vec<(u64, u64)> {
        waiters
            .take(&name(number), &COMMITTED)
            .into_iter()
            .collect()
    }

    #[test]
    fn the_waiters_of_a_name_are_taken_once_and_all_at_once() {
        let waiters = Waiters::new(Seed::default());
        for id in 0..5 {
            add(&waiters, id % 2, id);
        }
        assert_eq!(waiters.count(&name(0)), 3);
        assert_eq!(taken(&waiters, 0), [(0, 100), (2, 102), (4, 104)]);
        assert_eq!(taken(&waiters, 0), []);
        assert!(!waiters.remove(&name(0), 2, &COMMITTED));
        assert_eq!(taken(&waiters, 1), [(1, 101), (3, 103)]);
        assert_eq!(waiters.count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_removed_waiter_is_not_woken() {
        let waiters = Waiters::new(Seed::default());
        for id in 0..3 {
            add(&waiters, 1, id);
        }
        assert!(waiters.remove(&name(1), 0, &COMMITTED));
        assert!(!waiters.remove(&name(1), 0, &COMMITTED));
        assert!(waiters.remove(&name(1), 1, &COMMITTED));
        assert_eq!(taken(&waiters, 1), [(2, 102)]);
        add(&waiters, 1, 3);
        assert!(waiters.remove(&name(1), 3, &COMMITTED));
        assert!(waiters.names.get().unwrap().is_empty());
        assert_eq!(waiters.count.load(Ordering::SeqCst), 0);
    }
}
