//! Shards that are made when they are needed, so that a table that holds little takes little.
//!
//! Shards are made in groups, by the first thread that needs one of the group.

use std::array;
use std::sync::OnceLock;

/// Shards of a group.
const GROUP: usize = 16;

type Group<S> = Box<[S; GROUP]>;

/// A number of shards.
pub(crate) struct Shards<S> {
    groups: Box<[OnceLock<Group<S>>]>,
}

impl<S> Shards<S> {
    /// Returns at least `count` shards, none of which is made yet.
    pub fn new(count: usize) -> Self {
        let groups = (0..count.div_ceil(GROUP)).map(|_| OnceLock::new());
        Shards {
            groups: groups.collect(),
        }
    }

    /// Returns a shard, or `None` if it was not needed yet.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&S> {
        let group = self.groups[number / GROUP].get()?;
        Some(&group[number % GROUP])
    }

    /// Returns a shard, which is made if it was not needed before.
    #[inline]
    pub fn get_or_make(&self, number: usize, make: impl Fn() -> S) -> &S {
        let group = &self.groups[number / GROUP];
        let group = group.get_or_init(|| Box::new(array::from_fn(|_| make())));
        &group[number % GROUP]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn only_needed_shards_are_made_and_each_once() {
        let made = AtomicUsize::new(0);
        let make = || {
            made.fetch_add(1, Ordering::SeqCst);
            AtomicUsize::new(0)
        };
        let shards = Shards::new(64);
        assert!((0..64).all(|number| shards.get(number).is_none()));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in (0..64).filter(|number| number / GROUP != 1) {
                        let shard = shards.get_or_make(number, make);
                        shard.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        for number in 0..64 {
            let count = shards.get(number).map(|shard| shard.load(Ordering::SeqCst));
            assert_eq!(count, (number / GROUP != 1).then_some(4));
        }
        assert_eq!(made.into_inner(), 3 * GROUP);
    }
}
