//! The rows that have one value of an indexed attribute, and the values that one row has.
//!
//! A [`Group`] has the rows of one value in the order of their slots. A [`Listing`] is its
//! counterpart in a row: the groups that the row is in, for each index of the zone. The groups own
//! the rows, and a row refers to its groups weakly, so that a zone that is dropped frees both.
//!
//! Adding and removing a row takes time logarithmic in the number of rows of the group, and never
//! moves many of them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::datum::Datum;

/// Rows of a group that are not in a tree.
const FEW: usize = 8;

/// The rows that have one value, in the order of their slots.
pub(crate) struct Group<F, R> {
    pub value: Datum<F>,
    pub hash: u64,
    rows: Mutex<Rows<R>>,
}

enum Rows<R> {
    Few(SmallVec<[(u32, Arc<R>); 1]>),
    Many(BTreeMap<u32, Arc<R>>),
    /// The last row was removed. The group is no longer in its index, or is just being removed.
    Removed,
}

/// A group has lost its last row: it has to be found or made again.
#[derive(Debug, PartialEq)]
pub(crate) struct Gone;

impl<F, R> Group<F, R> {
    /// Returns a group of one row.
    pub fn of(value: Datum<F>, hash: u64, slot: u32, row: Arc<R>) -> Self {
        let rows = SmallVec::from_buf([(slot, row)]);
        Group {
            value,
            hash,
            rows: Mutex::new(Rows::Few(rows)),
        }
    }

    /// Returns the number of rows.
    pub fn count(&self) -> usize {
        match &*self.rows.lock() {
            Rows::Few(rows) => rows.len(),
            Rows::Many(rows) => rows.len(),
            Rows::Removed => 0,
        }
    }

    /// Adds a row, unless it is in the group already.
    pub fn add(&self, slot: u32, row: &Arc<R>) -> Result<(), Gone> {
        let mut rows = self.rows.lock();
        match &mut *rows {
            Rows::Removed => return Err(Gone),
            Rows::Many(rows) => {
                rows.entry(slot).or_insert_with(|| Arc::clone(row));
            }
            Rows::Few(few) => {
                let Err(index) = few.binary_search_by_key(&slot, |(slot, _)| *slot) else {
                    return Ok(());
                };
                few.insert(index, (slot, Arc::clone(row)));
                if few.len() > FEW {
                    *rows = Rows::Many(few.drain(..).collect());
                }
            }
        }
        Ok(())
    }

    /// Removes a row, if it is in the group. Returns `true` if it was the last one: the caller then
    /// has to remove the group from its index.
    pub fn remove(&self, slot: u32) -> bool {
        let mut rows = self.rows.lock();
        let (removed, is_empty) = match &mut *rows {
            Rows::Removed => (None, false),
            Rows::Many(rows) => (rows.remove(&slot), rows.is_empty()),
            Rows::Few(rows) => {
                let index = rows.binary_search_by_key(&slot, |(slot, _)| *slot);
                let removed = index.ok().map(|index| rows.remove(index).1);
                (removed, rows.is_empty())
            }
        };
        if is_empty {
            *rows = Rows::Removed;
        }
        drop(rows);
        // Unlocked: this may be the last share of the row.
        drop(removed);
        is_empty
    }

    /// Calls `visit` with each row from slot `from` on, up to `most` of them, while no row enters
    /// or leaves the group. Returns the slot of the next row.
    pub fn page(&self, from: u32, most: usize, mut visit: impl FnMut(&Arc<R>)) -> Option<u32> {
        match &*self.rows.lock() {
            Rows::Few(rows) => {
                let rows = rows.iter().filter(|(slot, _)| *slot >= from);
                let mut rows = rows.map(|(slot, row)| (*slot, row));
                rows.by_ref().take(most).for_each(|(_, row)| visit(row));
                rows.next().map(|(slot, _)| slot)
            }
            Rows::Many(rows) => {
                let mut rows = rows.range(from..);
                rows.by_ref().take(most).for_each(|(_, row)| visit(row));
                rows.next().map(|(slot, _)| *slot)
            }
            Rows::Removed => None,
        }
    }
}

/// The values of a row in one index. A value may be there several times.
pub type Values<F> = SmallVec<[Datum<F>; 1]>;

/// The groups of a row in one index, each once, in the order of their addresses.
pub(crate) type Groups<F, R> = SmallVec<[Weak<Group<F, R>>; 1]>;

/// Returns whether a group is one of these.
pub(crate) fn is_among<F, R>(group: &Weak<Group<F, R>>, groups: &Groups<F, R>) -> bool {
    let by_address = |other: &Weak<Group<F, R>>| compare(other, group);
    groups.binary_search_by(by_address).is_ok()
}

/// Sorts groups by their addresses, and removes those that are repeated.
pub(crate) fn sort<F, R>(groups: &mut Groups<F, R>) {
    if groups.len() > 1 {
        groups.sort_unstable_by(compare);
        groups.dedup_by(|one, other| Weak::ptr_eq(one, other));
    }
}

fn compare<F, R>(one: &Weak<Group<F, R>>, other: &Weak<Group<F, R>>) -> Ordering {
    one.as_ptr().addr().cmp(&other.as_ptr().addr())
}

/// What a row has in one index.
pub(crate) enum Places<F, R> {
    /// The child does not run: the values under which the row will be found.
    Unlisted(Values<F>),
    /// The child runs: the groups that the row is in.
    Listed(Groups<F, R>),
}

impl<F, R> Default for Places<F, R> {
    fn default() -> Self {
        Places::Unlisted(Values::new())
    }
}

impl<F, R> Places<F, R> {
    /// Returns the number of values.
    pub fn count(&self) -> usize {
        match self {
            Places::Unlisted(values) => values.len(),
            Places::Listed(groups) => groups.len(),
        }
    }
}

/// What a row has in each index of its zone.
pub(crate) type Listed<F, R> = SmallVec<[Places<F, R>; 1]>;

/// The listing of a row, and the lock that its writers hold while they change an indexed attribute
/// or whether the child runs.
pub(crate) struct Listing<F, R> {
    /// The row.
    pub row: Weak<R>,
    listed: Mutex<Listed<F, R>>,
}

impl<F, R> Listing<F, R> {
    /// Returns the listing of a row without attributes in a zone of so many indexes.
    pub fn new(row: Weak<R>, indexes: usize) -> Self {
        let listed = (0..indexes).map(|_| Places::default()).collect();
        Listing {
            row,
            listed: Mutex::new(listed),
        }
    }

    /// Returns the lock of the listing.
    pub fn lock(&self) -> MutexGuard<'_, Listed<F, R>> {
        self.listed.lock()
    }

    /// Like [`lock`](Self::lock). Returns `None` if the lock is not free within `patience`.
    pub fn try_lock(&self, patience: std::time::Duration) -> Option<MutexGuard<'_, Listed<F, R>>> {
        self.listed.try_lock_for(patience)
    }
}
