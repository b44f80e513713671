//! stub
pub mod attributes;
pub mod datum;
pub mod reclaim;
pub mod row;
#[cfg(test)]
mod testing;
pub mod value;
pub mod zone;
/// The keyed hasher
pub type Seed = foldhash::fast::RandomState;
