//! A map in many shards, each of which has a lock, and grows at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use parking_lot::{Mutex, MutexGuard};

use crate::hashing::Seed;
use crate::shards::Shards;

/// Shards of a map. A shard grows at once, so it has to stay small where the whole is large.
const SHARDS: usize = 512;

type Shard<K, V> = HashMap<K, V, Seed>;

/// A map whose shards are made when they are needed.
pub(crate) struct ShardedMap<K, V> {
    shards: Shards<Mutex<Shard<K, V>>>,
    seed: Seed,
}

impl<K: Eq + Hash, V> ShardedMap<K, V> {
    /// Returns an empty map.
    pub fn new(seed: Seed) -> Self {
        ShardedMap {
            shards: Shards::new(SHARDS),
            seed,
        }
    }

    /// Locks the shard of a key.
    pub fn lock(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let make = || Mutex::new(HashMap::with_hasher(self.seed.clone()));
        self.shards.get_or_make(self.shard(key), make).lock()
    }

    /// Locks the shard of a key, or returns `None` if no key of that shard was ever added.
    pub fn lock_if_made(&self, key: &K) -> Option<MutexGuard<'_, Shard<K, V>>> {
        Some(self.shards.get(self.shard(key))?.lock())
    }

    fn shard(&self, key: &K) -> usize {
        // The shards look at the other bits.
        (self.seed.hash_one(key) >> 32) as usize % SHARDS
    }
}
