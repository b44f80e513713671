//! The indexes of a zone: the running children by the value of an attribute.
//!
//! An index has a *group* of rows for each value that a running child has. The index of *lists* has
//! one for each element of the value. What the values of an attribute are is up to the embedder,
//! which passes them as terms that it can look up.
//!
//! # What a lookup sees
//!
//! Writers of an indexed attribute, and whoever changes whether a child runs, hold the lock of the
//! row's listing for the whole change, a [`Revision`]. In this order, it
//!
//! 1. marks the row as being revised;
//! 2. adds the row to the groups of its new values;
//! 3. makes the change;
//! 4. removes the row from the groups of its old values;
//! 5. removes the mark.
//!
//! So a row is always in the groups of its present values, and in others only while it is marked.
//! [`Index::page`] reads the marks and the pids of rows while they cannot leave the group: the
//! mark, the pid, and the mark again. A row without a mark has the value from the one to the other.
//! The reader of a marked row reads the attribute itself, and the pid before and after that; if
//! another child has the name by then, it reads both again. It takes no lock of a row.
//!
//! [`Zone::hand_over`](crate::zone::Zone::hand_over) needs no revision: the row has a running child
//! and the same values before, after and in between. If the value has changed before the name gets
//! a new pid, the reader of that pid finds the mark.
//!
//! Locks are taken in this order: a listing, then the row's own locks, which are released again,
//! then that of one group or of one shard of the groups at a time. The lock of the listing alone
//! orders the changes of indexed attributes and those of the child: the row has a lock for each of
//! the two. Other attributes change meanwhile.

use std::hash::BuildHasher;
use std::sync::atomic::{fence, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use indexmap::map::Entry as Slot;
use indexmap::IndexMap;
use papaya::Equivalent;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign};
use crate::entry::Entry;
pub use crate::groups::Values;
use crate::groups::{self, Gone, Group, Groups, Listed, Places};
use crate::hashing::Seed;
use crate::names::{Named, Names, Removed};
use crate::reclaim::{self, Guard};
use crate::row::Row;

/// Shards of the groups of an index. A shard grows at once, so it has to stay small where the whole
/// is large.
const SHARDS: usize = 256;

/// The cost of freeing a group besides its value, see [`reclaim::gather`].
const GROUP_COST: usize = 16;

/// Values that are too many to be freed on the thread of a caller.
const MANY: usize = 64;

/// Bytes that the table of groups and the reference counts take for a group, and what group and row
/// take for each other.
const IN_TABLE: usize = 40;
const PLACE: usize = 32;

type GroupOf<F> = Group<F, Row<F>>;
type GroupsOf<F> = Groups<F, Row<F>>;

impl<F: Foreign> Named for GroupOf<F> {
    fn cost(&self) -> usize {
        GROUP_COST + self.value.size() / size_of::<usize>()
    }
}

/// All indexes of a zone.
pub struct Indexes<F: Foreign> {
    by_key: IndexMap<Datum<F>, Index<F>, Seed>,
}

/// The rows by the values of one attribute.
pub struct Index<F: Foreign> {
    key: Datum<F>,
    is_of_lists: bool,
    position: usize,
    seed: Seed,
    groups: Names<GroupOf<F>, SHARDS>,
}

/// Values of one indexed attribute that a change will set: the index, and what the row will be
/// found under.
pub struct Planned<F> {
    /// [`Index::position`].
    pub position: usize,
    /// The new values. They may be repeated.
    pub values: Values<F>,
}

impl<F> Clone for Planned<F> {
    fn clone(&self) -> Self {
        Planned {
            position: self.position,
            values: self.values.clone(),
        }
    }
}

/// The changes of indexed attributes that a call makes.
pub type Plan<F> = SmallVec<[Planned<F>; 1]>;

/// A row of a group.
pub struct Member<F: Foreign> {
    /// The row.
    pub row: Arc<Row<F>>,
    /// The pid of the child, which had the value when the page was read. `None` if the reader has
    /// to read pid and attribute itself.
    pub pid: Option<u64>,
}

/// Rows of a group, in the order of their slots.
pub type Members<F> = SmallVec<[Member<F>; 32]>;

impl<F: Foreign> Indexes<F> {
    /// Returns indexes of these keys, each with whether its values are lists whose elements are
    /// indexed. Returns `None` if a key is repeated.
    pub fn new(keys: impl IntoIterator<Item = (Datum<F>, bool)>) -> Option<Self> {
        let mut by_key = IndexMap::<_, _, Seed>::default();
        for (key, is_of_lists) in keys {
            let position = by_key.len();
            match by_key.entry(key.clone()) {
                Slot::Occupied(_) => return None,
                Slot::Vacant(free) => free.insert(Index {
                    key,
                    is_of_lists,
                    position,
                    seed: Seed::default(),
                    groups: Names::default(),
                }),
            };
        }
        Some(Indexes { by_key })
    }

    /// Returns the number of indexes.
    pub fn count(&self) -> usize {
        self.by_key.len()
    }

    /// Returns all indexes, in the order of their positions.
    pub fn all(&self) -> impl Iterator<Item = &Index<F>> {
        self.by_key.values()
    }

    /// Returns the index of a key.
    #[inline(never)]
    pub fn get(&self, key: Borrowed<'_, F>) -> Option<&Index<F>> {
        self.by_key.get(&key)
    }

    /// Begins a change of a row. Waits for the end of another one, or returns `None` if that takes
    /// longer than `patience`.
    ///
    /// The caller makes all of its changes to indexed attributes of the row, and those that begin
    /// or end the life of its child, with the functions of [`Revision`].
    pub fn revise<'g>(
        &'g self,
        entry: Entry<'g, F>,
        patience: Option<Duration>,
    ) -> Option<Revision<'g, F>> {
        let listing = entry.row().listing.as_ref()?;
        let listed = match patience {
            Some(patience) => listing.try_lock(patience)?,
            None => listing.lock(),
        };
        Some(Revision {
            indexes: self,
            entry,
            listed,
            left: SmallVec::new(),
            is_heavy: false,
        })
    }

    /// Adds the row to the groups of its values if its child runs, and else removes it from them.
    ///
    /// For a row that was given to a running child just now; until then it had no child, and so few
    /// values.
    pub fn settle(&self, entry: Entry<'_, F>, committed: &Committed) {
        fence(Ordering::SeqCst);
        if entry.attributes().is_none() {
            return;
        }
        if let Some(revision) = self.revise(entry, None) {
            revision.end(|_| (), committed);
        }
    }
}

impl<F: Foreign> Index<F> {
    /// Returns the key of the attribute.
    pub fn key(&self) -> &Datum<F> {
        &self.key
    }

    /// Whether the elements of lists are indexed.
    pub fn is_of_lists(&self) -> bool {
        self.is_of_lists
    }

    /// Returns the number of the index in its zone.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Returns the number of running children that have a value. A child whose value is just being
    /// changed may count for both.
    pub fn count(&self, value: Borrowed<'_, F>, guard: &Guard) -> usize {
        let group = self.group(value, guard);
        group.map_or(0, GroupOf::count)
    }

    /// Appends up to `most` rows that have a value to `page`, from slot `from` on, in the order of
    /// their slots. Returns the slot of the next row.
    ///
    /// A row that has the value from the first page to the last is in exactly one of them. A row
    /// is in at most one.
    pub fn page(
        &self,
        value: Borrowed<'_, F>,
        from: u32,
        most: usize,
        page: &mut Members<F>,
        guard: &Guard,
    ) -> Option<u32> {
        let group = self.group(value, guard)?;
        group.page(from, most, |row| {
            // A row that has no mark before and after its pid is read has the value all the while:
            // it cannot leave the group.
            let is_unmarked = || !row.is_revised.load(Ordering::Acquire);
            let pid = is_unmarked().then(|| row.local_pid()).flatten();
            let pid = pid.filter(|_| is_unmarked());
            let row = Arc::clone(row);
            page.push(Member { row, pid });
        })
    }

    fn group<'g>(&'g self, value: Borrowed<'_, F>, guard: &'g Guard) -> Option<&'g GroupOf<F>> {
        let hash = self.seed.hash_one(value);
        let has_value = |group: &GroupOf<F>| value.equivalent(&group.value);
        let found = self.groups.get(hash, has_value, guard)?;
        Some(found.get())
    }

    /// Calls `visit` with each value of a shard that a running child has, and the number of those
    /// that do, until it fails. Values are in [`shards`](Self::shards) shards.
    pub fn values<E>(
        &self,
        shard: usize,
        guard: &Guard,
        mut visit: impl FnMut(&Datum<F>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        for group in self.groups.rows_of(shard, guard) {
            let count = group.count();
            if count > 0 {
                visit(&group.value, count)?;
            }
        }
        Ok(())
    }

    /// Calls `visit` for each value of a shard that a running child has, with the number of those
    /// that do and the bytes that the index takes for them, until it fails.
    pub fn sizes<E>(
        &self,
        shard: usize,
        guard: &Guard,
        mut visit: impl FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        for group in self.groups.rows_of(shard, guard) {
            let count = group.count();
            if count > 0 {
                let own = size_of::<GroupOf<F>>() + IN_TABLE + group.value.size();
                visit(count, own + count * PLACE)?;
            }
        }
        Ok(())
    }

    /// Returns the bytes that the index takes without any value.
    pub fn own_size(&self) -> usize {
        size_of::<Self>() + self.key.size()
    }

    /// Returns the number of shards of values.
    pub fn shards(&self) -> usize {
        SHARDS
    }

    /// Adds a row to the groups of these values. Returns the groups.
    fn enter(&self, values: &Values<F>, row: &Arc<Row<F>>, guard: &Guard) -> GroupsOf<F> {
        let mut groups: GroupsOf<F> = values
            .iter()
            .map(|value| Arc::downgrade(&self.enter_one(value, row, guard)))
            .collect();
        groups::sort(&mut groups);
        groups
    }

    fn enter_one(&self, value: &Datum<F>, row: &Arc<Row<F>>, guard: &Guard) -> Arc<GroupOf<F>> {
        let hash = self.seed.hash_one(value);
        let has_value = |group: &GroupOf<F>| group.value == *value;
        loop {
            match self.groups.get(hash, has_value, guard) {
                Some(found) => match found.add(row.slot, row) {
                    Ok(()) => return found.share(),
                    // The thread that has removed the last row has not removed the group yet.
                    Err(Gone) => self.groups.remove(hash, &found, guard),
                },
                None => {
                    let group = Group::of(value.clone(), hash, row.slot, Arc::clone(row));
                    let group = Arc::new(group);
                    if self
                        .groups
                        .insert(hash, Arc::clone(&group), has_value, guard)
                    {
                        return group;
                    }
                }
            }
        }
    }

    /// Removes a row from those of `groups` that are not in `kept`. Returns whether a value that
    /// nobody has any more is [heavy](Foreign::is_heavy).
    fn leave(&self, groups: &GroupsOf<F>, kept: &GroupsOf<F>, row: &Row<F>, guard: &Guard) -> bool {
        let mut is_heavy = false;
        let mut removed = Removed::new(guard);
        let left = groups.iter().filter(|group| !groups::is_among(group, kept));
        // A group is there as long as it has a row.
        for group in left.filter_map(Weak::upgrade) {
            if group.remove(row.slot, row) {
                self.groups.remove_into(group.hash, &group, &mut removed);
                is_heavy = is_heavy || group.value.is_heavy();
            }
        }
        is_heavy
    }
}

/// A change of a row of a zone with indexes; see the [module](self). Other changes of the row wait
/// until it is dropped.
pub struct Revision<'g, F: Foreign> {
    indexes: &'g Indexes<F>,
    entry: Entry<'g, F>,
    listed: MutexGuard<'g, Listed<F, Row<F>>>,
    /// What the row had before, to be freed without the lock.
    left: SmallVec<[Places<F, Row<F>>; 1]>,
    /// Whether a value among it is [heavy](Foreign::is_heavy).
    is_heavy: bool,
}

impl<'g, F: Foreign> Revision<'g, F> {
    /// Returns the row.
    pub fn entry(&self) -> Entry<'g, F> {
        self.entry
    }

    /// Returns how many values of an index the row has. To change them costs as much.
    pub fn places(&self, position: usize) -> usize {
        self.listed.get(position).map_or(0, Places::count)
    }

    /// Returns how many values of all indexes the row has.
    pub fn all_places(&self) -> usize {
        self.listed.iter().map(Places::count).sum()
    }

    /// Returns the values that the row will be listed under when its child begins to run. Each is
    /// hashed and compared then.
    pub fn unlisted(&self) -> impl Iterator<Item = &Datum<F>> {
        let places = self.listed.iter().filter_map(|places| match places {
            Places::Unlisted(values) => Some(values),
            Places::Listed(_) => None,
        });
        places.flatten()
    }

    /// Makes a change that sets the attributes of a plan, if `change` returns `true` as well.
    ///
    /// The plan has at most one item for each index.
    pub fn write<T>(
        mut self,
        plan: Plan<F>,
        change: impl FnOnce(Entry<'g, F>) -> (T, bool),
        committed: &Committed,
    ) -> T {
        let row = self.entry.row();
        let Some(shared) = self.running_row() else {
            let (result, is_changed) = change(self.entry);
            if is_changed {
                for Planned { position, values } in plan {
                    let before = self.replace(position, Places::Unlisted(values));
                    self.left.push(before);
                }
            }
            // The row may have been given to a child that runs, in a call that has seen no
            // attributes, and so does not call `settle`.
            fence(Ordering::SeqCst);
            self.end(|_| (), committed);
            return result;
        };
        row.is_revised.store(true, Ordering::Release);
        let entered: SmallVec<[(usize, GroupsOf<F>); 1]> = plan
            .iter()
            .filter_map(|planned| Some((planned, self.index(planned.position)?)))
            .map(|(planned, index)| {
                let groups = index.enter(&planned.values, &shared, self.entry.guard());
                (planned.position, groups)
            })
            .collect();
        let (result, is_changed) = change(self.entry);
        for (position, groups) in entered {
            let groups = match is_changed {
                true => self.replace(position, Places::Listed(groups)),
                false => Places::Listed(groups),
            };
            self.leave(position, groups);
        }
        row.is_revised.store(false, Ordering::Release);
        self.finish();
        result
    }

    /// Makes a change after which the child may run.
    pub fn begin<T>(mut self, change: impl FnOnce(Entry<'g, F>) -> T, committed: &Committed) -> T {
        let row = self.entry.row();
        row.is_revised.store(true, Ordering::Release);
        if let Some(listing) = row
            .listing
            .as_ref()
            .and_then(|listing| listing.row.upgrade())
        {
            self.list(&listing);
        }
        self.end(change, committed)
    }

    /// Makes a change after which the child may have ended, or the attributes may be gone.
    pub fn end<T>(mut self, change: impl FnOnce(Entry<'g, F>) -> T, _: &Committed) -> T {
        let row = self.entry.row();
        row.is_revised.store(true, Ordering::Release);
        let result = change(self.entry);
        match self.running_row() {
            Some(shared) => self.list(&shared),
            None => self.unlist(),
        }
        row.is_revised.store(false, Ordering::Release);
        self.finish();
        result
    }

    fn index(&self, position: usize) -> Option<&'g Index<F>> {
        let (_, index) = self.indexes.by_key.get_index(position)?;
        Some(index)
    }

    /// Returns the row, if its child runs.
    fn running_row(&self) -> Option<Arc<Row<F>>> {
        let row = self.entry.row();
        let listing = row.listing.as_ref().filter(|_| row.is_running())?;
        listing.row.upgrade()
    }

    /// Replaces the places of the row in an index. Returns those before.
    fn replace(&mut self, position: usize, new: Places<F, Row<F>>) -> Places<F, Row<F>> {
        match self.listed.get_mut(position) {
            Some(places) => std::mem::replace(places, new),
            None => new,
        }
    }

    /// Removes the row from groups that it is not listed in.
    fn leave(&mut self, position: usize, places: Places<F, Row<F>>) {
        let none = GroupsOf::new();
        let kept = match self.listed.get(position) {
            Some(Places::Listed(kept)) => kept,
            _ => &none,
        };
        if let (Places::Listed(groups), Some(index)) = (&places, self.index(position)) {
            let is_heavy = index.leave(groups, kept, self.entry.row(), self.entry.guard());
            self.is_heavy = self.is_heavy || is_heavy;
        }
        self.left.push(places);
    }

    /// Adds the row to the groups of its values.
    fn list(&mut self, row: &Arc<Row<F>>) {
        for position in 0..self.listed.len() {
            if let (Places::Unlisted(values), Some(index)) =
                (&self.listed[position], self.index(position))
            {
                let groups = index.enter(values, row, self.entry.guard());
                let before = self.replace(position, Places::Listed(groups));
                self.left.push(before);
            }
        }
    }

    /// Removes the row from all groups, and forgets the values of attributes that are gone.
    ///
    /// No other thread sets an indexed attribute meanwhile, but one may set others.
    fn unlist(&mut self) {
        let attributes = self.entry.attributes();
        for position in 0..self.listed.len() {
            let is_gone = || {
                let present = attributes.as_ref().zip(self.index(position));
                !present.is_some_and(|(map, index)| map.has(index.key.borrow()))
            };
            let values = match &self.listed[position] {
                Places::Unlisted(values) if values.is_empty() => continue,
                Places::Listed(_) | Places::Unlisted(_) if is_gone() => Values::new(),
                Places::Unlisted(_) => continue,
                Places::Listed(groups) => {
                    let groups = groups.iter().filter_map(Weak::upgrade);
                    groups.map(|group| group.value.clone()).collect()
                }
            };
            let before = self.replace(position, Places::Unlisted(values));
            self.leave(position, before);
        }
    }

    /// Unlocks the listing, and then frees what the row had before.
    fn finish(self) {
        let Revision {
            listed,
            left,
            entry,
            ..
        } = self;
        drop(listed);
        if self.is_heavy {
            reclaim::flush(entry.guard());
        }
        if left.iter().map(Places::count).sum::<usize>() > MANY {
            reclaim::later(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::LazyLock;

    use super::*;
    use crate::attributes::{Attribute, Changes};
    use crate::row::{Child, Claimed, Pid, State};
    use crate::testing::{fixed, word, Text};
    use crate::value::Value;
    use crate::zone::Zone;

    const COMMITTED: Committed = Committed::new();
    const KEY: u64 = 1;
    const LISTS: u64 = 2;

    /// A zone with an index of `KEY` and one of the lists of `LISTS`.
    fn zone() -> Zone<Text> {
        let zone = Zone::default();
        let indexes = Indexes::new([(word(KEY), false), (word(LISTS), true)]).unwrap();
        zone.set_indexes(indexes, &COMMITTED);
        zone
    }

    fn launch<F: Foreign>(zone: &Zone<F>, name: u64) {
        let child = Child {
            state: State::Launching,
            pid: None,
            keeper: name,
            spec: None,
        };
        assert_eq!(zone.insert(&word(name), child, &COMMITTED), Claimed::Done);
    }

    fn change<F: Foreign>(zone: &Zone<F>, name: u64, change: impl FnOnce(Revision<F>)) {
        let guard = reclaim::enter();
        let entry = zone.entry(word(name).borrow(), &guard).unwrap();
        change(zone.indexes().unwrap().revise(entry, None).unwrap());
    }

    fn run(zone: &Zone<Text>, name: u64) {
        change(zone, name, |revision| {
            let run = |entry: Entry<Text>| entry.run(name, Pid::Local(name), &COMMITTED);
            assert!(revision.begin(run, &COMMITTED).is_ok());
        });
    }

    fn terminate(zone: &Zone<Text>, name: u64) {
        change(zone, name, |revision| {
            let end = |entry: Entry<Text>| entry.terminate(name, &COMMITTED);
            assert!(revision.end(end, &COMMITTED).is_ok());
        });
    }

    /// Sets an attribute, which is found under these values from then on.
    fn set(zone: &Zone<Text>, name: u64, key: u64, values: &[u64]) {
        change(zone, name, |revision| {
            let plan = plan(key, values);
            let set = |entry: Entry<Text>| {
                let value = Value::fixed(word(values.iter().sum()));
                let key = word(key);
                let set = entry.set(Changes::from_iter([Attribute { key, value }]), &COMMITTED);
                (set, true)
            };
            assert!(revision.write(plan, set, &COMMITTED).is_ok());
        });
    }

    fn plan(key: u64, values: &[u64]) -> Plan<Text> {
        Plan::from_iter([Planned {
            position: key as usize - 1,
            values: values.iter().map(|value| word(*value)).collect(),
        }])
    }

    /// Returns the names that a lookup finds, in pages of so many.
    fn found(zone: &Zone<Text>, key: u64, value: u64, most: usize) -> Vec<u64> {
        let guard = reclaim::enter();
        let index = zone.indexes().unwrap().get(word(key).borrow()).unwrap();
        let (mut names, mut from) = (Vec::new(), Some(0));
        while let Some(slot) = from {
            let mut page = SmallVec::new();
            from = index.page(word(value).borrow(), slot, most, &mut page, &guard);
            assert!(page.len() <= most);
            names.extend(page.iter().map(|member| member.pid.unwrap()));
        }
        assert_eq!(names.len(), index.count(word(value).borrow(), &guard));
        names.sort_unstable();
        names
    }

    fn values(zone: &Zone<Text>, key: u64) -> usize {
        let guard = reclaim::enter();
        let index = zone.indexes().unwrap().get(word(key).borrow()).unwrap();
        let mut values = 0;
        for shard in 0..index.shards() {
            let count = |_: &Datum<Text>, count: usize| {
                assert!(count > 0);
                values += 1;
                Ok::<_, ()>(())
            };
            index.values(shard, &guard, count).unwrap();
        }
        values
    }

    #[test]
    fn a_child_is_found_from_its_start_to_its_death() {
        let zone = zone();
        launch(&zone, 7);
        set(&zone, 7, KEY, &[50]);
        assert_eq!(found(&zone, KEY, 50, 9), []);
        run(&zone, 7);
        assert_eq!(found(&zone, KEY, 50, 9), [7]);
        set(&zone, 7, KEY, &[51]);
        assert_eq!(found(&zone, KEY, 50, 9), []);
        assert_eq!(found(&zone, KEY, 51, 9), [7]);
        assert_eq!(values(&zone, KEY), 1);
        terminate(&zone, 7);
        assert_eq!(found(&zone, KEY, 51, 9), []);
        assert_eq!(values(&zone, KEY), 0);
    }

    #[test]
    fn a_cleared_row_is_not_found_again_under_its_old_values() {
        let zone = zone();
        launch(&zone, 7);
        run(&zone, 7);
        set(&zone, 7, KEY, &[50]);
        terminate(&zone, 7);
        change(&zone, 7, |revision| {
            let clear = |entry: Entry<Text>| entry.clear(7, State::Restarting, &COMMITTED);
            assert!(revision.end(clear, &COMMITTED));
        });
        run(&zone, 7);
        assert_eq!(found(&zone, KEY, 50, 9), []);
        set(&zone, 7, KEY, &[50]);
        assert_eq!(found(&zone, KEY, 50, 9), [7]);
    }

    #[test]
    fn a_cleared_row_is_not_found_by_its_old_values_although_it_has_other_attributes() {
        let zone = zone();
        launch(&zone, 7);
        run(&zone, 7);
        set(&zone, 7, KEY, &[50]);
        set(&zone, 7, LISTS, &[60]);
        terminate(&zone, 7);
        change(&zone, 7, |revision| {
            let clear = |entry: Entry<Text>| {
                assert!(entry.clear(7, State::Restarting, &COMMITTED));
                // By another thread, which does not change what is indexed.
                let other = Changes::from_iter([fixed(9, word(1))]);
                assert!(entry
                    .set(other, &COMMITTED)
                    .is_ok_and(|sought| sought.len() == 1));
            };
            revision.end(clear, &COMMITTED);
        });
        run(&zone, 7);
        assert_eq!(found(&zone, KEY, 50, 9), []);
        assert_eq!(found(&zone, LISTS, 60, 9), []);
    }

    #[test]
    fn pages_have_each_row_of_a_value_once() {
        let zone = zone();
        for name in 1..=1000 {
            launch(&zone, name);
            run(&zone, name);
            set(&zone, name, KEY, &[name % 2]);
        }
        let even: Vec<_> = (1..=1000).filter(|name| name % 2 == 0).collect();
        for most in [1, 7, 10_000] {
            assert_eq!(found(&zone, KEY, 0, most), even);
        }
        (1..=990).for_each(|name| terminate(&zone, name));
        assert_eq!(found(&zone, KEY, 1, 2), [991, 993, 995, 997, 999]);
        assert_eq!(values(&zone, KEY), 2);
        (991..=1000).for_each(|name| terminate(&zone, name));
        assert_eq!(values(&zone, KEY), 0);
    }

    #[test]
    fn each_element_of_a_list_is_a_value_once() {
        let zone = zone();
        launch(&zone, 7);
        run(&zone, 7);
        set(&zone, 7, LISTS, &[1, 2, 3, 2, 1]);
        set(&zone, 7, LISTS, &[3, 4, 4]);
        for (value, expected) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
            assert_eq!(found(&zone, LISTS, value, 9).len(), expected, "{value}");
        }
        assert_eq!(values(&zone, LISTS), 2);
        change(&zone, 7, |revision| assert_eq!(revision.places(1), 2));
        set(&zone, 7, LISTS, &[]);
        assert_eq!(values(&zone, LISTS), 0);
    }

    #[test]
    fn a_change_that_was_refused_changes_no_index() {
        let zone = zone();
        launch(&zone, 7);
        for is_running in [false, true] {
            set(&zone, 7, KEY, &[50]);
            change(&zone, 7, |revision| {
                revision.write(plan(KEY, &[51]), |_| ((), false), &COMMITTED);
            });
            assert_eq!(found(&zone, KEY, 50, 9).len(), usize::from(is_running));
            assert_eq!(found(&zone, KEY, 51, 9), []);
            run(&zone, 7);
        }
    }

    #[test]
    fn a_row_that_is_being_revised_is_marked() {
        let zone = zone();
        launch(&zone, 7);
        run(&zone, 7);
        set(&zone, 7, KEY, &[50]);
        let marks = |value| {
            let guard = reclaim::enter();
            let index = zone.indexes().unwrap().get(word(KEY).borrow()).unwrap();
            let mut page = SmallVec::new();
            index.page(word(value).borrow(), 0, 9, &mut page, &guard);
            page.iter().map(|member| member.pid).collect::<Vec<_>>()
        };
        change(&zone, 7, |revision| {
            let look = |_| {
                assert_eq!((marks(50), marks(51)), (vec![None], vec![None]));
                ((), true)
            };
            revision.write(plan(KEY, &[51]), look, &COMMITTED);
        });
        assert_eq!((marks(50), marks(51)), (vec![], vec![Some(7)]));
    }

    #[test]
    fn a_second_change_of_a_row_waits_for_the_first() {
        let zone = zone();
        launch(&zone, 7);
        change(&zone, 7, |revision| {
            let another = || {
                let guard = reclaim::enter();
                let entry = zone.entry(word(7).borrow(), &guard).unwrap();
                let patience = Some(Duration::from_millis(1));
                let revision = zone.indexes().unwrap().revise(entry, patience);
                revision.is_some()
            };
            std::thread::scope(|scope| assert!(!scope.spawn(another).join().unwrap()));
            drop(revision);
            assert!(another());
        });
    }

    #[test]
    fn a_row_that_was_vacant_is_found_once_its_child_was_settled() {
        let zone = zone();
        let guard = reclaim::enter();
        let entry = zone.entry_or_vacant(&word(7), &guard, &COMMITTED);
        let missing = Attribute {
            key: word(KEY),
            value: Value::fixed(word(50)),
        };
        let revision = zone.indexes().unwrap().revise(entry, None).unwrap();
        let set = |entry| (zone.try_add_or_set(entry, 1, &missing, &COMMITTED), true);
        assert!(revision.write(plan(KEY, &[50]), set, &COMMITTED).is_ok());
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(7)),
            keeper: 7,
            spec: None,
        };
        assert_eq!(zone.insert(&word(7), child, &COMMITTED), Claimed::Done);
        zone.indexes().unwrap().settle(entry, &COMMITTED);
        assert_eq!(found(&zone, KEY, 50, 9), [7]);
    }

    /// Calls a function when it is freed.
    struct Probe(fn());

    impl Drop for Probe {
        fn drop(&mut self) {
            self.0();
        }
    }

    impl Foreign for Probe {
        type Borrowed<'a> = ();

        fn borrow(&self) {}

        fn hash((): ()) -> u64 {
            42
        }

        fn same((): (), (): ()) -> bool {
            true
        }
    }

    #[test]
    fn a_value_that_was_replaced_before_the_start_is_freed_without_the_lock() {
        static ZONE: LazyLock<Zone<Probe>> = LazyLock::new(|| {
            let zone = Zone::default();
            zone.set_indexes(Indexes::new([(word(KEY), false)]).unwrap(), &COMMITTED);
            launch(&zone, 7);
            zone
        });
        static CHANGES: AtomicUsize = AtomicUsize::new(0);
        let set = |value| {
            let values = Values::from_iter([value]);
            let plan = Plan::from_iter([Planned {
                position: 0,
                values,
            }]);
            let replace = |revision: Revision<Probe>| {
                let key = word(KEY);
                let value = Value::fixed(word(0));
                let changes = Changes::from_iter([Attribute { key, value }]);
                let set = |entry: Entry<Probe>| (entry.set(changes, &COMMITTED), true);
                assert!(revision.write(plan, set, &COMMITTED).is_ok());
                CHANGES.fetch_add(1, Ordering::SeqCst);
            };
            change(&ZONE, 7, replace);
        };
        set(Datum::foreign(Probe(|| {
            let guard = reclaim::enter();
            let entry = ZONE.entry(word(7).borrow(), &guard).unwrap();
            let patience = Some(Duration::from_millis(1));
            let revision = ZONE.indexes().unwrap().revise(entry, patience);
            CHANGES.fetch_add(usize::from(revision.is_some()), Ordering::SeqCst);
        })));
        set(word(50));
        assert_eq!(CHANGES.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn keys_are_not_repeated() {
        assert!(Indexes::<Text>::new([(word(1), false), (word(1), true)]).is_none());
    }
}
