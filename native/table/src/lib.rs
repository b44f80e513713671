//! Concurrent tables of names, the processes behind them, and their attributes.
//!
//! This crate holds the storage rules of proctab and knows nothing of the BEAM: what only the VM can hold is a [`Foreign`](datum::Foreign) term,
//! a type parameter. So all of it is tested and measured under plain `cargo`.
//!
//! ```
//! use proctab_table::attributes::{Attribute, Changes};
//! use proctab_table::commit::Committed;
//! use proctab_table::datum::{Datum, Foreign, Kind};
//! use proctab_table::reclaim;
//! use proctab_table::row::{Child, Pid, State};
//! use proctab_table::value::{Added, Counter, Value};
//! use proctab_table::zone::Zone;
//!
//! // An embedder without terms of its own.
//! enum Nothing {}
//! impl Foreign for Nothing {
//!     type Borrowed<'a> = &'a Nothing;
//!     fn borrow(&self) -> &Nothing { self }
//!     fn hash(borrowed: &Nothing) -> u64 { match *borrowed {} }
//!     fn same(one: &Nothing, _: &Nothing) -> bool { match *one {} }
//! }
//!
//! const TEXT: Kind = Kind::new(0);
//! // Whoever changes a table says that it carries that through.
//! const COMMITTED: Committed = Committed::new();
//! let zone: Zone<Nothing> = Zone::default();
//! let name = Datum::bytes(TEXT, b"tv1");
//! let bytes_in = Datum::bytes(TEXT, b"bytes_in");
//!
//! let guard = reclaim::enter();
//! let child = Child { state: State::Running, pid: Some(Pid::Local(42)), keeper: 41, spec: None };
//! assert!(zone.insert(&name, child, &COMMITTED));
//!
//! let row = zone.row(name.borrow(), &guard).unwrap();
//! assert_eq!(row.pid(), Some(Pid::Local(42)));
//! let zero = Attribute { key: bytes_in.clone(), value: Value::Integer(Counter::new(0).unwrap()) };
//! assert!(row.set(Changes::from_iter([zero]), zone.seed(), &guard, &COMMITTED).is_ok());
//! assert_eq!(row.add(bytes_in.borrow(), 1000, zone.seed(), &guard, &COMMITTED), Added::Changed(1000));
//!
//! assert!(zone.remove(name.borrow(), 41, &guard, &COMMITTED));
//! assert!(zone.row(name.borrow(), &guard).is_none());
//! ```
//!
//! # What readers see
//!
//! Finding a name, reading an attribute and adding to a counter take no lock, and write no memory that another name's readers read.
//! Each operation on one name takes effect at one moment between its call and its return: setting several attributes, and removing a name
//! with all it has, included. [`Row::snapshot`](row::Row::snapshot) reads all attributes of one name at one moment. Nothing is promised across names, but that
//! [`Zone::page`](zone::Zone::page) sees each row exactly once that stays in the table from the first page to the last.
//!
//! # What it costs
//!
//! A row is about 250 bytes with a short name, and each attribute 32, besides the bytes of what does not fit 14. Writers of one name
//! take turns, and copy up to [16 attributes](attributes) or a path in a tree of them; an integer is replaced in place.
//!
//! # Memory
//!
//! What readers may still see is retired and freed once they are gone ([`reclaim`]); whatever takes long to free goes to a thread of its own.

#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod attributes;
pub mod commit;
pub mod datum;
mod names;
pub mod processes;
pub mod reclaim;
pub mod row;
#[cfg(test)]
mod testing;
pub mod value;
pub mod waiters;
pub mod zone;

/// What [`names`] is built on. Its model checker puts others in their place.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
    pub(crate) use std::sync::Arc;

    pub(crate) use parking_lot::Mutex;
}

/// The keyed hash functions of a table. The key is drawn at random, because names come from users.
pub type Seed = foldhash::fast::RandomState;

/// How many entries a map moves at once when one more is added.
pub(crate) fn growth<K, V>(map: &indexmap::IndexMap<K, V, Seed>) -> usize {
    if map.len() < map.capacity() {
        0
    } else {
        map.len()
    }
}
