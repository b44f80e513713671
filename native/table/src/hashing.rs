//! The keyed hash functions of a table.

/// The hash functions of a table. Each key is random, because users choose names.
///
/// The tables take the lowest bits of a hash, and names are often numbers or pids that follow each
/// other. With one in a hundred keys of `foldhash::fast`, which are those of a whole VM, the
/// lowest bits of such hashes are far from random.
pub type Seed = foldhash::quality::RandomState;

/// Returns the number of entries that a map moves when one more is added.
pub(crate) fn moved_by_add<K, V>(map: &indexmap::IndexMap<K, V, Seed>) -> usize {
    if map.len() < map.capacity() {
        0
    } else {
        map.len()
    }
}
