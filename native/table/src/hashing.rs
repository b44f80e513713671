//! The keyed hash functions of a table.

/// The hash functions of a table. Each key is random, because users choose names.
pub type Seed = foldhash::fast::RandomState;

/// Returns the number of entries that a map moves when one more is added.
pub(crate) fn moved_by_add<K, V>(map: &indexmap::IndexMap<K, V, Seed>) -> usize {
    if map.len() < map.capacity() {
        0
    } else {
        map.len()
    }
}
