//! Processes that wait for something of a name: for an attribute, or for a running child.
//!
//! Waiters are listed by a hash of what they wait for: of a name, or of a name and a key, see
//! [`Sought`]. Two of these may have one hash, because a waiter that was woken looks again. A
//! writer that adds what they wait for takes all waiters of its hash at once. Both sides write
//! before they read: a waiter adds itself and then looks again; a writer publishes and then looks
//! for waiters. So one of them sees the other. Without waiters, a writer reads one word.

use std::collections::hash_map::Entry;
use std::sync::atomic::{fence, AtomicUsize, Ordering};
use std::sync::OnceLock;

use indexmap::IndexMap;
use smallvec::SmallVec;

use crate::commit::Committed;
use crate::hashing::{moved_by_add, Seed};
use crate::sharded_map::ShardedMap;

/// The hash of what a waiter waits for. It has the zone's random key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sought(pub(crate) u64);

/// What the waiters for several things seek.
pub type SoughtAll = SmallVec<[Sought; 4]>;

/// The waiters for one thing: their processes, by the numbers that identify the waiters.
pub type Waiting = IndexMap<u64, u64, Seed>;

type BySought = ShardedMap<Sought, Waiting>;

/// All waiters of a zone for attributes, or for running children.
pub struct Waiters {
    /// Allocated for the first waiter; most zones never have one.
    sought: OnceLock<BySought>,
    seed: Seed,
    count: AtomicUsize,
}

impl Waiters {
    pub(crate) fn new(seed: Seed) -> Self {
        Waiters {
            sought: OnceLock::new(),
            seed,
            count: AtomicUsize::new(0),
        }
    }

    /// Adds a waiter, by a number that no other one has. It has to look again before it waits.
    ///
    /// It counts before it is listed, so that the count is never below the number of those listed:
    /// if this one were taken before it counts, a writer would see no waiters where others wait.
    pub fn add(&self, sought: Sought, id: u64, pid: u64, _: &Committed) {
        let all = self
            .sought
            .get_or_init(|| ShardedMap::new(self.seed.clone()));
        self.count.fetch_add(1, Ordering::SeqCst);
        all.lock(&sought).entry(sought).or_default().insert(id, pid);
        fence(Ordering::SeqCst);
    }

    /// Returns the number of waiters for all things. It may be outdated.
    #[inline]
    pub fn total(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the number of waiters for one thing.
    pub fn count(&self, sought: Sought) -> usize {
        self.of(sought, |waiting| waiting.len())
    }

    /// Returns the number of entries that are moved when a waiter is added.
    pub fn moved_by_add(&self, sought: Sought) -> usize {
        self.of(sought, moved_by_add)
    }

    fn of(&self, sought: Sought, read: impl FnOnce(&Waiting) -> usize) -> usize {
        let shard = self.sought.get().and_then(|all| all.lock_if_made(&sought));
        shard.map_or(0, |shard| shard.get(&sought).map_or(0, read))
    }

    /// Whether there are waiters, after what some may wait for was added. If there are none, any
    /// that come later find it.
    #[inline]
    pub fn are_there(&self) -> bool {
        fence(Ordering::SeqCst);
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Removes and returns the waiters for one thing, after what they wait for was added, and after
    /// [`are_there`](Self::are_there) was asked. The caller wakes them.
    pub fn take(&self, sought: Sought, _: &Committed) -> Waiting {
        let shard = self.sought.get().and_then(|all| all.lock_if_made(&sought));
        let taken = shard.and_then(|mut shard| shard.remove(&sought));
        let waiting = taken.unwrap_or_default();
        self.count.fetch_sub(waiting.len(), Ordering::SeqCst);
        waiting
    }

    /// Removes a waiter. Returns `false` if it was taken.
    pub fn remove(&self, sought: Sought, id: u64, _: &Committed) -> bool {
        let Some(all) = self.sought.get() else {
            return false;
        };
        let mut shard = all.lock(&sought);
        let Entry::Occupied(mut entry) = shard.entry(sought) else {
            return false;
        };
        let waiting = entry.get_mut();
        if waiting.swap_remove(&id).is_none() {
            return false;
        }
        let emptied = waiting.is_empty().then(|| entry.remove_entry());
        self.count.fetch_sub(1, Ordering::SeqCst);
        drop(shard);
        drop(emptied);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    const COMMITTED: Committed = Committed::new();

    fn add(waiters: &Waiters, number: u64, id: u64) {
        waiters.add(Sought(number), id, 100 + id, &COMMITTED);
    }

    fn taken(waiters: &Waiters, number: u64) -> Vec<(u64, u64)> {
        waiters
            .take(Sought(number), &COMMITTED)
            .into_iter()
            .collect()
    }

    #[test]
    fn the_waiters_for_one_thing_are_taken_once_and_all_at_once() {
        let waiters = Waiters::new(Seed::default());
        for id in 0..5 {
            add(&waiters, id % 2, id);
        }
        assert_eq!(waiters.count(Sought(0)), 3);
        assert_eq!(taken(&waiters, 0), [(0, 100), (2, 102), (4, 104)]);
        assert_eq!(taken(&waiters, 0), []);
        assert!(!waiters.remove(Sought(0), 2, &COMMITTED));
        assert_eq!(taken(&waiters, 1), [(1, 101), (3, 103)]);
        assert_eq!(waiters.count.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_listed_waiter_is_never_overlooked_while_others_come_and_go() {
        let waiters = Waiters::new(Seed::default());
        add(&waiters, 0, 0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for id in 1..200_000 {
                    add(&waiters, 1, id);
                }
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                taken(&waiters, 1);
                assert!(waiters.are_there());
            }
        });
    }

    #[test]
    fn a_removed_waiter_is_not_woken() {
        let waiters = Waiters::new(Seed::default());
        for id in 0..3 {
            add(&waiters, 1, id);
        }
        assert!(waiters.remove(Sought(1), 0, &COMMITTED));
        assert!(!waiters.remove(Sought(1), 0, &COMMITTED));
        assert!(waiters.remove(Sought(1), 1, &COMMITTED));
        assert_eq!(taken(&waiters, 1), [(2, 102)]);
        add(&waiters, 1, 3);
        assert!(waiters.remove(Sought(1), 3, &COMMITTED));
        let sought = waiters.sought.get().unwrap();
        assert!(sought.lock(&Sought(1)).is_empty());
        assert_eq!(waiters.count.load(Ordering::SeqCst), 0);
    }
}
