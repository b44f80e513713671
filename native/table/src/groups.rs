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
use std::time::Duration;
use std::{mem, ptr};

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

    /// Adds a row, unless it is in the group already. A row that had the slot before and is just
    /// leaving the table gives way.
    pub fn add(&self, slot: u32, row: &Arc<R>) -> Result<(), Gone> {
        let mut rows = self.rows.lock();
        let before = match &mut *rows {
            Rows::Removed => return Err(Gone),
            Rows::Many(rows) => rows.insert(slot, Arc::clone(row)),
            Rows::Few(few) => match few.binary_search_by_key(&slot, |(slot, _)| *slot) {
                Ok(index) => Some(mem::replace(&mut few[index].1, Arc::clone(row))),
                Err(index) => {
                    few.insert(index, (slot, Arc::clone(row)));
                    if few.len() > FEW {
                        *rows = Rows::Many(few.drain(..).collect());
                    }
                    None
                }
            },
        };
        drop(rows);
        // Unlocked: this may be the last share of the row.
        drop(before);
        Ok(())
    }

    /// Removes a row, if it is in the group. Returns `true` if it was the last one: the caller then
    /// has to remove the group from its index.
    pub fn remove(&self, slot: u32, row: &R) -> bool {
        let is_row = |other: &Arc<R>| ptr::eq(&**other, row);
        let mut rows = self.rows.lock();
        let (removed, is_empty) = match &mut *rows {
            Rows::Removed => (None, false),
            Rows::Many(rows) => {
                let is_there = rows.get(&slot).is_some_and(is_row);
                let removed = is_there.then(|| rows.remove(&slot)).flatten();
                (removed, rows.is_empty())
            }
            Rows::Few(rows) => {
                let index = rows.iter().position(|(_, other)| is_row(other));
                let removed = index.map(|index| rows.remove(index).1);
                (removed, rows.is_empty())
            }
        };
        if is_empty {
            *rows = Rows::Removed;
        }
        drop(rows);
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

    /// Returns the bytes that the listing takes besides its places in groups.
    pub fn size(&self) -> usize {
        let places = match self.listed.try_lock() {
            Some(listed) if listed.spilled() => size_of_val(listed.as_slice()),
            _ => 0,
        };
        size_of::<Self>() + places
    }

    /// Returns the lock of the listing.
    pub fn lock(&self) -> MutexGuard<'_, Listed<F, R>> {
        self.listed.lock()
    }

    /// Like [`lock`](Self::lock). Returns `None` if the lock is not free within `patience`.
    pub fn try_lock(&self, patience: Duration) -> Option<MutexGuard<'_, Listed<F, R>>> {
        self.listed.try_lock_for(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{word, Text};

    type Numbers = Group<Text, u32>;

    fn rows(group: &Numbers, from: u32, most: usize) -> (Vec<u32>, Option<u32>) {
        let mut rows = Vec::new();
        let next = group.page(from, most, |row| rows.push(**row));
        (rows, next)
    }

    #[test]
    fn a_group_has_its_rows_in_the_order_of_their_slots() {
        let group = Numbers::of(word(0), 0, 50, Arc::new(50));
        let added: Vec<_> = (0..100).rev().map(Arc::new).collect();
        for count in [1, FEW, 100] {
            for row in &added[..count] {
                assert_eq!(group.add(**row, row), Ok(()));
                assert_eq!(group.add(**row, row), Ok(()));
            }
        }
        assert_eq!(group.count(), 100);
        assert_eq!(rows(&group, 0, 200), ((0..100).collect(), None));
        assert_eq!(rows(&group, 98, 1), (vec![98], Some(99)));
        for row in &added[1..] {
            assert!(!group.remove(**row, row));
        }
        assert!(group.remove(99, &added[0]));
        assert_eq!(group.add(99, &added[0]), Err(Gone));
        assert_eq!((group.count(), rows(&group, 0, 9)), (0, (vec![], None)));
    }

    /// A row is removed from the table, and another one gets its slot, before it has left its
    /// groups.
    #[test]
    fn a_row_takes_the_place_of_one_that_had_its_slot() {
        for others in [0, 100] {
            let (old, new) = (Arc::new(1), Arc::new(2));
            let group = Numbers::of(word(0), 0, 7, Arc::clone(&old));
            for slot in 10..10 + others {
                assert_eq!(group.add(slot, &Arc::new(3)), Ok(()));
            }
            assert_eq!(group.add(7, &new), Ok(()));
            assert!(!group.remove(7, &old));
            assert_eq!(rows(&group, 0, 1).0, [2]);
            assert_eq!(group.remove(7, &new), others == 0);
        }
    }
}
