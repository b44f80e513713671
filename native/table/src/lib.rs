//! Concurrent tables of names, the processes behind them, and their attributes.
//!
//! This crate has the storage rules of proctab and knows nothing of the BEAM: a term that only the
//! VM can hold is a [`Foreign`](datum::Foreign) term, a type parameter. So `cargo` alone tests and
//! measures all of it.
//!
//! ```
//! use proctab_table::attributes::{Attribute, Changes};
//! use proctab_table::commit::Committed;
//! use proctab_table::datum::{Datum, Foreign, Kind};
//! use proctab_table::reclaim;
//! use proctab_table::row::{Child, Claimed, Pid, State};
//! use proctab_table::value::{Added, Value};
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
//! // This program never starts an operation again, so it may commit to each.
//! const COMMITTED: Committed = Committed::new();
//! let zone: Zone<Nothing> = Zone::default();
//! let name = Datum::bytes(TEXT, b"tv1");
//! let bytes_in = Datum::bytes(TEXT, b"bytes_in");
//!
//! let guard = reclaim::enter();
//! let child = Child { state: State::Running, pid: Some(Pid::Local(42)), keeper: 41, spec: None };
//! assert_eq!(zone.insert(&name, child, &COMMITTED), Claimed::Done);
//!
//! let entry = zone.entry(name.borrow(), &guard).unwrap();
//! assert_eq!(entry.pid(), Some(Pid::Local(42)));
//! let zero = Attribute { key: bytes_in.clone(), value: Value::counter(0).unwrap() };
//! assert!(entry.set(Changes::from_iter([zero]), &COMMITTED).is_ok());
//! assert_eq!(entry.add(bytes_in.borrow(), 1000, &COMMITTED), Added::Changed(1000));
//!
//! assert!(zone.remove(name.borrow(), 41, &guard, &COMMITTED));
//! assert!(zone.entry(name.borrow(), &guard).is_none());
//! ```
//!
//! # Modules
//!
//! Each module imports only from modules further down this list:
//!
//! | module | subject |
//! | --- | --- |
//! | [`zone`] | the table of a zone: rows by name, by keeper, in pages |
//! | [`cleanups`] | cleaning up after the dead of a table of processes |
//! | [`processes`] | a table of processes and the names they are registered under |
//! | `registrations` | the registrations of one process |
//! | [`deaths`] | the dead processes that wait for their cleanup |
//! | [`index`] | the rows that have a value of an indexed attribute |
//! | [`entry`] | a row under a guard: its attributes, and the life of its child |
//! | [`row`] | one name: its state and its processes |
//! | `groups` | the rows that have one value |
//! | `children` | the number of children, and its limit |
//! | [`zone_processes`] | the processes of a zone itself |
//! | [`reservations`] | the names that processes have reserved while they are being started |
//! | `retirement` | freeing maps of attributes and values |
//! | [`attributes`] | a persistent map of attributes |
//! | [`claims`] | the names that the members of a zone on several nodes claim |
//! | `names` | the lock-free table of rows by the hashes of their names |
//! | [`waiters`] | processes that wait for an attribute or for a child |
//! | `specs` | specs that many children have in common |
//! | `sharded_map` | a map in shards, each with a lock |
//! | `shards` | shards that are made when they are needed |
//! | [`value`] | a value: one atomic word, which is replaced or counted in place |
//! | [`datum`] | an immutable term in sixteen bytes |
//! | [`recent`] | the tables that were opened last, by their names |
//! | [`reclaim`] | freeing memory that readers may still use |
//! | [`commit`] | the proof that an operation will not start again |
//! | `hashing` | the keyed hash functions of a table |
//!
//! # What readers see
//!
//! Finding a name, reading an attribute and adding to a counter take no lock (but an addition to
//! one of more than 128 attributes), and write no memory that readers of other names read. Each
//! operation on one name takes effect at one moment between its call and its return, including
//! setting several attributes and removing a name with all of them.
//! [`Entry::snapshot`](entry::Entry::snapshot) reads all attributes of one name at one moment.
//! There is no such guarantee across names, but [`Zone::page`](zone::Zone::page) returns each row
//! exactly once that stays in the table from the first page to the last.
//!
//! # Costs
//!
//! A row takes about 250 bytes with a short name, and each attribute 24, besides the bytes of keys
//! that do not fit in 14, and of values that do not fit in [a word](value). Writers of one name
//! take turns. A write of one attribute that is there replaces its value in place; others copy up
//! to [16 attributes](attributes), or a path in a tree of them. Changes of many attributes, and
//! snapshots of many, do not hold up other writers of the name.
//!
//! # Memory
//!
//! Memory that readers may still use is retired, and freed once they have left their guards
//! ([`reclaim`]). Whatever takes long to free goes to a thread of its own.

#![deny(missing_docs)]

pub mod attributes;
mod children;
mod chunks;
pub mod claims;
pub mod cleanups;
pub mod commit;
pub mod datum;
pub mod deaths;
pub mod entry;
mod groups;
mod hashing;
pub mod index;
mod names;
pub mod processes;
pub mod recent;
pub mod reclaim;
mod registrations;
pub mod reservations;
mod retirement;
pub mod row;
mod sharded_map;
mod shards;
mod specs;
#[cfg(test)]
mod testing;
pub mod value;
pub mod waiters;
pub mod zone;
pub mod zone_processes;

pub use hashing::Seed;

/// The primitives of [`names`], which its model checker replaces.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
    pub(crate) use std::sync::Arc;

    pub(crate) use parking_lot::Mutex;
}
