//! The names that processes have reserved while their start is in progress.
//!
//! A start function may start several processes, each of which asks for the name of the child that
//! is being started. One of them reserves the name, until the keeper's start has ended. Both sides
//! write before they read: a process reserves the name and then looks whether the start is still
//! in progress; the keeper ends the start and then looks for a reservation. So none is left over.

use std::sync::atomic::{fence, AtomicUsize, Ordering};
use std::sync::OnceLock;

use dashmap::mapref::entry::Entry;
use dashmap::DashMap;

use crate::commit::Committed;
use crate::hashing::Seed;

/// Shards of the reservations.
const SHARDS: usize = 8;

/// The reservations of a zone.
#[derive(Default)]
pub struct Reservations {
    /// The process for each keeper. Allocated for the first reservation; most zones have none.
    by_keeper: OnceLock<DashMap<u64, u64, Seed>>,
    count: AtomicUsize,
}

impl Reservations {
    /// Reserves the name of a keeper's child for a process. Returns `false` if another process has
    /// reserved it and is alive. The process then has to look whether the start has ended.
    pub fn reserve(
        &self,
        keeper: u64,
        process: u64,
        is_alive: impl FnOnce(u64) -> bool,
        _: &Committed,
    ) -> bool {
        let by_keeper = self
            .by_keeper
            .get_or_init(|| DashMap::with_hasher_and_shard_amount(Seed::default(), SHARDS));
        // Before the entry: a keeper that counts none has ended its start before.
        self.count.fetch_add(1, Ordering::SeqCst);
        let is_new = match by_keeper.entry(keeper) {
            Entry::Vacant(entry) => {
                entry.insert(process);
                true
            }
            Entry::Occupied(mut entry) => {
                let before = *entry.get();
                if before != process && is_alive(before) {
                    self.count.fetch_sub(1, Ordering::SeqCst);
                    return false;
                }
                entry.insert(process);
                false
            }
        };
        if !is_new {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        true
    }

    /// Removes the reservation for a keeper, if it is that of this process.
    pub fn cancel(&self, keeper: u64, process: u64, _: &Committed) {
        self.remove_if(keeper, |reserving| reserving == process);
    }

    /// Removes the reservation for a keeper whose start has ended.
    pub fn end(&self, keeper: u64, _: &Committed) {
        fence(Ordering::SeqCst);
        self.remove_if(keeper, |_| true);
    }

    fn remove_if(&self, keeper: u64, condition: impl FnOnce(u64) -> bool) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let by_keeper = self.by_keeper.get();
        let removed =
            by_keeper.and_then(|all| all.remove_if(&keeper, |_, process| condition(*process)));
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: Committed = Committed::new();

    #[test]
    fn one_living_process_reserves_a_name() {
        let reservations = Reservations::default();
        let reserve = |keeper, process, is_alive| {
            reservations.reserve(keeper, process, |_| is_alive, &COMMITTED)
        };
        assert!(reserve(1, 10, true) && reserve(1, 10, true) && reserve(2, 20, true));
        assert!(!reserve(1, 11, true));
        assert!(reserve(1, 11, false));
        reservations.cancel(1, 10, &COMMITTED);
        assert!(!reserve(1, 12, true));
        reservations.cancel(1, 11, &COMMITTED);
        assert!(reserve(1, 12, true));
        reservations.end(1, &COMMITTED);
        reservations.end(1, &COMMITTED);
        assert_eq!(reservations.count.load(Ordering::SeqCst), 1);
        reservations.end(2, &COMMITTED);
        assert_eq!(reservations.count.load(Ordering::SeqCst), 0);
        assert!(reservations.by_keeper.get().unwrap().is_empty());
    }
}
