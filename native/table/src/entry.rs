//! A row under a guard: reading and changing its attributes, and the steps of its child's life.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use seize::Guard as _;
use smallvec::SmallVec;

use crate::attributes::{Attribute, Attributes, Changes, Making, FEW};
use crate::children::Children;
use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign};
use crate::hashing::Seed;
use crate::reclaim::Guard;
use crate::retirement;
use crate::row::{Cleared, Gone, Pid, Refused, Row, Shared, State, Writing};
use crate::value::{Added, Frozen, InUse, Seen, Value};
use crate::waiters::SoughtAll;

/// Bytes that the indexes of a zone and the reference count take for a row.
const INDEXED: usize = 80;

/// Leaves of a map that are merged at most while the row is locked, but in the last round.
const MERGED: usize = 64;

/// Rounds after which a change of many attributes is completed under the lock.
const ROUNDS: usize = 8;

/// A row of a zone under a guard.
pub struct Entry<'g, F: Foreign> {
    row: &'g Row<F>,
    shared: &'g Shared,
    guard: &'g Guard,
}

impl<F: Foreign> Clone for Entry<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Foreign> Copy for Entry<'_, F> {}

impl<F: Foreign> Deref for Entry<'_, F> {
    type Target = Row<F>;

    #[inline]
    fn deref(&self) -> &Row<F> {
        self.row
    }
}

impl<F: Foreign> Entry<'_, F> {
    /// Returns what the waiters for the attributes of `keys` seek.
    #[inline]
    pub fn sought<'k>(self, keys: impl Iterator<Item = Borrowed<'k, F>>) -> SoughtAll
    where
        F: 'k,
    {
        keys.map(|key| self.shared.attribute(self.row.hash, key))
            .collect()
    }
}

/// No child holds the name, so no attribute can be set.
#[derive(Debug, PartialEq)]
pub struct Void;

/// The row has more attributes than the reader allows.
#[derive(Debug)]
pub struct TooMany;

/// The result of replacing a value.
pub enum Replaced<'g, F: Foreign> {
    /// The value was replaced.
    Done,
    /// The value is this one, not the expected one.
    Not(InUse<'g, F>),
    /// The attribute is missing.
    Missing,
    /// No child holds the name.
    Void,
}

/// The attributes of a row, for as long as its guard is held.
///
/// ```compile_fail
/// # use proctab_table::{datum::Foreign, entry::{Entry, Reading}, reclaim::Guard, zone::Zone};
/// fn outlive<'g, F: Foreign>(zone: Zone<F>, slot: u32, guard: &'g Guard) -> Reading<'g, F> {
///     let (rows, _) = zone.page(slot);
///     zone.entry_of(&rows[0], guard).attributes().unwrap()
/// }
/// ```
pub struct Reading<'g, F: Foreign> {
    /// The row keeps the map, so this must not drop it.
    map: ManuallyDrop<Attributes<F>>,
    seed: &'g Seed,
    guard: &'g Guard,
}

impl<'g, F: Foreign> Reading<'g, F> {
    /// Returns the present value of a key.
    #[inline(always)]
    pub fn get(&self, key: Borrowed<'_, F>) -> Option<InUse<'g, F>> {
        let value = self.value(key)?;
        loop {
            // A value that was discarded has been replaced.
            if let Some(used) = InUse::begin(value.see_under(self.guard)) {
                return Some(used);
            }
        }
    }

    #[inline(always)]
    fn value(&self, key: Borrowed<'_, F>) -> Option<&Value<F>> {
        self.map.get(key, self.seed)
    }

    /// Whether there is an attribute with this key.
    pub fn has(&self, key: Borrowed<'_, F>) -> bool {
        self.value(key).is_some()
    }

    /// Returns the number of attributes.
    pub fn count(&self) -> usize {
        self.map.count()
    }

    /// Reads a word of each slot of the map, and returns something that depends on all of them.
    pub fn touch(&self) -> usize {
        self.map.touch()
    }
}

/// The attributes of a row at one moment.
pub struct Snapshot<'g, F: Foreign> {
    reading: Reading<'g, F>,
    /// `None` if the map is shared, and so does not change.
    values: Option<Values<'g, F>>,
}

/// The values of a map at one moment.
type Values<'g, F> = SmallVec<[InUse<'g, F>; 16]>;

impl<'g, F: Foreign> Snapshot<'g, F> {
    /// Calls `visit` with each key and its value, in an order that does not change.
    pub fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Datum<F>, Seen<'a, F>)) {
        let guard = self.reading.guard;
        let mut values = self.values.iter().flatten();
        self.reading.map.for_each(&mut |Attribute { key, value }| {
            let value = match values.next() {
                Some(value) => value.seen(),
                None => value.see_under(guard),
            };
            visit(key, value);
        });
    }

    /// Returns the number of attributes.
    pub fn count(&self) -> usize {
        self.reading.count()
    }
}

impl<'g, F: Foreign> Entry<'g, F> {
    #[inline]
    pub(crate) fn new(row: &'g Row<F>, shared: &'g Shared, guard: &'g Guard) -> Self {
        Entry { row, shared, guard }
    }

    /// Returns the row.
    #[inline]
    pub fn row(self) -> &'g Row<F> {
        self.row
    }

    /// Returns the guard under which the row was found.
    #[inline]
    pub(crate) fn guard(self) -> &'g Guard {
        self.guard
    }

    /// Returns the attributes as they are now, or `None` if there are none.
    #[inline(always)]
    pub fn attributes(self) -> Option<Reading<'g, F>> {
        let raw = self.guard.protect(&self.row.attributes, Ordering::Acquire);
        (!raw.is_null()).then(|| {
            // SAFETY: `raw` came from `into_raw`, and was read under the guard. `publish` retires a
            // map that it replaces, so this one is there until the guard is left, which `Reading`
            // borrows. The row, which frees its last map when it is dropped, is borrowed for as
            // long. `Reading` does not drop the map.
            let map = unsafe { Attributes::from_raw(raw) };
            Reading {
                map: ManuallyDrop::new(map),
                seed: &self.shared.seed,
                guard: self.guard,
            }
        })
    }

    /// Returns all attributes at one moment, or `None` if there are none. Fails at once if there
    /// are more than `most`.
    pub fn snapshot(self, most: usize) -> Result<Option<Snapshot<'g, F>>, TooMany> {
        let at_most = |attributes: Reading<'g, F>| match attributes.count() <= most {
            true => Ok(attributes),
            false => Err(TooMany),
        };
        if self.attributes().map(at_most).transpose()?.is_none() {
            return Ok(None);
        }
        let mut writing = self.row.writing.lock();
        // There may be more by now.
        let reading = self.attributes().map(at_most).transpose()?;
        Ok(reading.map(|reading| {
            let is_small = reading.map.is_small();
            if !is_small {
                writing.share_attributes();
            }
            // Nothing in the map is discarded while the lock is held.
            let seen = is_small.then(|| reading.map.values(self.guard));
            let values = seen.map(|seen| seen.into_iter().filter_map(InUse::begin).collect());
            Snapshot { reading, values }
        }))
    }

    /// Returns the number of attributes, and the bytes of the row with all that is in it. Shared
    /// values count in full. Fails at once if there are more than `most` attributes.
    pub fn size(self, most: usize) -> Result<(usize, usize), TooMany> {
        let spec = self.row.record.lock().spec.clone();
        let row = size_of::<Row<F>>() + INDEXED + self.row.name.size();
        let listing = self
            .row
            .listing
            .as_ref()
            .map_or(0, |listing| listing.size());
        let row = row + spec.map_or(0, |spec| spec.size()) + listing;
        match self.attributes() {
            Some(map) if map.count() > most => Err(TooMany),
            Some(map) => Ok((map.count(), row + map.map.bytes(self.guard))),
            None => Ok((0, row)),
        }
    }

    /// Sets attributes in one step. Returns what the waiters for these attributes seek, or nothing
    /// if all of them were there.
    ///
    /// More than 64 are prepared without the lock.
    pub fn set(self, mut changes: Changes<F>, committed: &Committed) -> Result<SoughtAll, Void> {
        if changes.len() == 1 {
            if let Some(Attribute { key, value }) = changes.pop() {
                match self.set_present(key.borrow(), value, committed) {
                    Ok(set) => return set.map(|()| SoughtAll::new()),
                    Err(value) => changes.push(Attribute { key, value }),
                }
            }
        }
        // The keys may be terms that take long to hash, so the row is not locked meanwhile.
        let sought = self.sought(changes.iter().map(|change| change.key.borrow()));
        let is_grown = if changes.len() > FEW {
            self.set_many(changes)?
        } else {
            let writing = self.row.writing.lock();
            if !self.row.is_settable() {
                return Err(Void);
            }
            self.set_copied(writing, changes)
        };
        Ok(if is_grown { sought } else { SoughtAll::new() })
    }

    /// Sets an attribute that is there, and for which nobody waits therefore. Returns the value,
    /// and changes nothing, if there is no such attribute or the map has to be copied.
    #[inline]
    pub fn set_present(
        self,
        key: Borrowed<'_, F>,
        value: Value<F>,
        _: &Committed,
    ) -> Result<Result<(), Void>, Value<F>> {
        let writing = self.row.writing.lock();
        if !self.row.is_settable() {
            return Ok(Err(Void));
        }
        match self.replace_in_place(writing, key, value) {
            Ok(()) => Ok(Ok(())),
            Err((_, value)) => Err(value),
        }
    }

    /// Replaces the value of an attribute that is there. Returns lock and value, and changes
    /// nothing, if there is no such attribute or the map has to be copied.
    #[inline]
    fn replace_in_place<'w>(
        self,
        writing: MutexGuard<'w, Writing>,
        key: Borrowed<'_, F>,
        value: Value<F>,
    ) -> Result<(), (MutexGuard<'w, Writing>, Value<F>)> {
        let before = self.attributes();
        let making = self.making(&writing);
        let place = before
            .as_ref()
            .and_then(|map| map.map.replaceable(key, &value, making));
        let Some(place) = place else {
            return Err((writing, value));
        };
        // SAFETY: the value is in the map of this row, whose lock is held. `Reading` and `Snapshot`
        // read it under a guard.
        let old = unsafe { place.replace(value, self.guard) };
        drop(writing);
        // SAFETY: this call alone has replaced the value, and owns the old one. Readers that still
        // have it entered their guards before.
        unsafe { retirement::retire_value::<F>(old, self.guard) };
        Ok(())
    }

    /// Sets an attribute of a row that is locked.
    fn set_locked(self, writing: MutexGuard<'_, Writing>, Attribute { key, value }: Attribute<F>) {
        if let Err((writing, value)) = self.replace_in_place(writing, key.borrow(), value) {
            self.set_copied(writing, Changes::from_iter([Attribute { key, value }]));
        }
    }

    /// Sets a few attributes of a row that is locked, in a new map. Returns whether there are more
    /// than before.
    pub(crate) fn set_copied(self, writing: MutexGuard<'_, Writing>, changes: Changes<F>) -> bool {
        let before = self.attributes();
        let making = self.making(&writing);
        let heavy = before.as_ref().is_some_and(|map| {
            let mut changes = changes.iter();
            changes.any(|Attribute { key, .. }| {
                map.map.is_heavy_at(key.borrow(), making.seed, self.guard)
            })
        });
        let map = before.as_ref().map(|before| &*before.map);
        let after = Attributes::with(map, changes, making);
        let count = |map: Option<&Attributes<F>>| map.map_or(0, Attributes::count);
        let grown = count(after.as_ref()) > count(map);
        self.publish(writing, after, heavy);
        grown
    }

    /// Sets many attributes in one step. Most of the work is done without the lock.
    ///
    /// The changes are made a map of their own first. A small map is merged into it under the lock.
    /// A large one is shared under the lock, and merged without it; then what other threads have
    /// changed meanwhile is merged under the lock if it is little, else once more without it. Each
    /// round takes less time than the one before unless there are ever more changes, so there is a
    /// last round, which merges whatever there is.
    fn set_many(self, changes: Changes<F>) -> Result<bool, Void> {
        let making = self.making(&self.row.writing.lock());
        let changes = Attributes::of(changes, making);
        let changes = changes.map(retirement::Freed::new);
        let changes = changes.as_deref();
        let mut prepared: Option<(Reading<'g, F>, retirement::Freed<F>)> = None;
        let mut rounds = 0;
        loop {
            let mut writing = self.row.writing.lock();
            if !self.row.is_settable() {
                return Err(Void);
            }
            let making = self.making(&writing);
            let current = self.attributes();
            let allowed = match rounds {
                ROUNDS.. => usize::MAX,
                _ => MERGED,
            };
            let after = match (&current, &prepared) {
                (None, _) => Ok(changes.cloned()),
                (Some(small), _) if small.map.is_small() => {
                    Ok(changes.and_then(|changes| changes.over(&small.map, making)))
                }
                (Some(current), Some((before, after))) => {
                    let nodes = [&*before.map, &*current.map, &**after].map(Some);
                    let [before, current, after] = nodes;
                    let nodes = [before, current, after, changes];
                    Attributes::rebase(nodes, making, allowed)
                }
                (Some(current), None) => {
                    Attributes::union(Some(&current.map), changes, making, allowed)
                }
            };
            if let Ok(after) = after {
                let count = |map: Option<&Attributes<F>>| map.map_or(0, Attributes::count);
                let before = current.as_ref().map(|current| &*current.map);
                let grown = count(after.as_ref()) > count(before);
                let heavy = before.is_some_and(Attributes::is_heavy);
                self.publish(writing, after, heavy);
                return Ok(grown);
            }
            let Some(current) = current else { continue };
            writing.share_attributes();
            let making = self.making(&writing);
            drop(writing);
            let after = match &prepared {
                Some((before, after)) => {
                    let nodes = [
                        Some(&*before.map),
                        Some(&*current.map),
                        Some(&**after),
                        changes,
                    ];
                    Attributes::rebase(nodes, making, usize::MAX)
                }
                None => Attributes::union(Some(&current.map), changes, making, usize::MAX),
            };
            if let Ok(Some(after)) = after {
                prepared = Some((current, retirement::Freed::new(after)));
            }
            rounds += 1;
        }
    }

    /// Returns what is needed to make nodes of the map of this row, whose attributes are locked.
    fn making(self, writing: &Writing) -> Making<'g> {
        Making {
            seed: &self.shared.seed,
            generation: writing.generation,
        }
    }

    /// Adds an attribute, whatever the state of the row. Returns `Ok(false)` if there is one of
    /// this key.
    pub(crate) fn set_missing(self, change: &Attribute<F>) -> Result<bool, Gone> {
        let writing = self.row.writing.lock();
        if self.row.state() == State::Removed {
            return Err(Gone);
        }
        let before = self.attributes();
        if before.is_some_and(|map| map.has(change.key.borrow())) {
            return Ok(false);
        }
        // The value is not shared yet, and so not frozen by another thread.
        let change = Attribute {
            key: change.key.clone(),
            value: change.value.carry_over(),
        };
        self.set_locked(writing, change);
        Ok(true)
    }

    /// Removes an attribute, if there is one.
    ///
    /// Returns `true` if the row is then without attributes and without a child: its state is
    /// [`State::Removed`], and the caller has to remove it from its table.
    pub(crate) fn delete(self, key: Borrowed<'_, F>) -> bool {
        let mut writing = self.row.writing.lock();
        let Some(before) = self.attributes().filter(|map| map.has(key)) else {
            return false;
        };
        let making = self.making(&writing);
        let heavy = before.map.is_heavy_at(key, making.seed, self.guard);
        let after = before.map.without(key, making);
        let is_empty = after.is_none() && self.row.state() == State::Vacant;
        if is_empty {
            self.row.set_state(State::Removed, &mut writing);
        }
        self.publish(writing, after, heavy);
        is_empty
    }

    /// Changes the state of a row to [`State::Removed`] if it has neither a child nor attributes.
    /// Returns whether it does; then the caller has to remove it from its table.
    pub(crate) fn discard(self) -> bool {
        let mut writing = self.row.writing.lock();
        let is_empty = self.row.state() == State::Vacant && self.attributes().is_none();
        if is_empty {
            self.row.set_state(State::Removed, &mut writing);
        }
        is_empty
    }

    /// Replaces the value of an attribute, if `is_expected` holds for the current one.
    ///
    /// `of_child`: returns [`Replaced::Void`] if no child holds the name. A value that is compared
    /// with much is compared before the row is locked, and again if another thread has replaced it
    /// meanwhile.
    pub fn replace(
        self,
        change: Attribute<F>,
        is_expected: impl Fn(Seen<'_, F>) -> bool,
        of_child: bool,
        _: &Committed,
    ) -> Replaced<'g, F> {
        let mut expected = None;
        loop {
            let writing = self.row.writing.lock();
            if of_child && !self.row.is_settable() {
                return Replaced::Void;
            }
            let attributes = self.attributes();
            let value = attributes
                .as_ref()
                .map(|map| map.value(change.key.borrow()));
            let Some(value) = value.flatten() else {
                return Replaced::Missing;
            };
            // No addition comes between the comparison and the replacement.
            value.freeze();
            let word = value.load_under(self.guard);
            if expected == Some(word) {
                self.set_locked(writing, change);
                return Replaced::Done;
            }
            // A term may be long: it is compared without the lock.
            let writing = Some(writing).filter(|_| !word.is_pointer());
            // SAFETY: the word was read under the guard, which is held during `'g`, and the thread
            // that replaces the value retires what it points to.
            let Some(current) = InUse::begin(unsafe { word.see() }) else {
                // It was replaced after the row was unlocked.
                continue;
            };
            match (is_expected(current.seen()), writing) {
                (true, None) => expected = Some(word),
                (true, Some(writing)) => {
                    self.set_locked(writing, change);
                    return Replaced::Done;
                }
                (false, None) => return Replaced::Not(current),
                (false, Some(_writing)) => {
                    value.thaw();
                    return Replaced::Not(current);
                }
            }
        }
    }

    /// Adds to a counter in one step.
    #[inline(always)]
    pub fn add(self, key: Borrowed<'_, F>, increment: i64, _: &Committed) -> Added {
        match self.try_add(key, increment) {
            Ok(added) => added,
            Err(Frozen) => self.add_locked(key, increment),
        }
    }

    /// Adds to a counter of a large map, or to one that is frozen. Once this thread has the lock, a
    /// counter of a small map is frozen only if a change of many attributes has left it so. It is
    /// then replaced.
    #[cold]
    fn add_locked(self, key: Borrowed<'_, F>, increment: i64) -> Added {
        let writing = self.row.writing.lock();
        let attributes = self.attributes();
        let attribute = attributes
            .as_ref()
            .and_then(|attributes| attributes.map.attribute(key, attributes.seed));
        let Some(Attribute { key, value }) = attribute else {
            return Added::Missing;
        };
        let Some(present) = value.see_under(self.guard).counted() else {
            return Added::NotCounted;
        };
        let is_small = attributes.as_ref().is_some_and(|map| map.map.is_small());
        if is_small {
            if let Ok(added) = value.add(increment) {
                return added;
            }
        }
        let sum = present.checked_add(increment);
        let Some((sum, value)) = sum.and_then(|sum| Some((sum, Value::counter(sum)?))) else {
            return Added::NotCounted;
        };
        let key = key.clone();
        self.set_locked(writing, Attribute { key, value });
        Added::Changed(sum)
    }

    #[inline(always)]
    fn try_add(self, key: Borrowed<'_, F>, increment: i64) -> Result<Added, Frozen> {
        match self.attributes() {
            Some(attributes) if !attributes.map.is_small() => Err(Frozen),
            Some(attributes) => match attributes.value(key) {
                Some(value) => value.add(increment),
                None => Ok(Added::Missing),
            },
            None => Ok(Added::Missing),
        }
    }

    /// Records that the child of `keeper` runs. Returns whether the tracker waits for that. Changes
    /// nothing if the child is being stopped.
    pub fn run(self, keeper: u64, pid: Pid<F>, _: &Committed) -> Result<bool, Refused> {
        let mut record = self.row.lock_of(keeper).ok_or(Refused::Gone)?;
        if self.row.is_stopping.load(Ordering::Relaxed) {
            return Err(Refused::Stopping);
        }
        if self.shared.stopping.is_set() {
            return Err(Refused::ZoneStopping);
        }
        self.row
            .set_state(State::Running, &mut self.row.writing.lock());
        let is_awaited = self.row.is_awaited.swap(false, Ordering::Relaxed);
        let before = self.row.replace_pid(&mut record, Some(pid));
        drop(record);
        drop(before);
        Ok(is_awaited)
    }

    /// Gives the name of a running child to another process, and the row to another keeper.
    /// Attributes and spec stay. Returns the pid of the child that had the name.
    ///
    /// Returns `None`, and changes nothing, if the row does not belong to `keeper`, or its child
    /// does not run or is being stopped.
    pub(crate) fn hand_over(self, keeper: u64, new: u64, pid: Pid<F>) -> Option<Pid<F>> {
        let mut record = self.row.lock_of(keeper)?;
        let is_stopping =
            self.row.is_stopping.load(Ordering::Relaxed) || self.shared.stopping.is_set();
        if self.row.state() != State::Running || is_stopping {
            return None;
        }
        record.keeper = new;
        self.row.replace_pid(&mut record, Some(pid))
    }

    /// Records that the child of `keeper` is dead. Returns the pid of the child that was running,
    /// and whether it is being stopped.
    pub fn terminate(self, keeper: u64, _: &Committed) -> Result<(Option<Pid<F>>, bool), Gone> {
        let mut record = self.row.lock_of(keeper).ok_or(Gone)?;
        self.row
            .set_state(State::Terminating, &mut self.row.writing.lock());
        let before = self.row.replace_pid(&mut record, None);
        let is_stopping =
            self.row.is_stopping.load(Ordering::Relaxed) || self.shared.stopping.is_set();
        Ok((before, is_stopping))
    }

    /// Records that the child of `keeper` is to be removed, if it runs. Returns its pid: the
    /// process lives on.
    pub fn unregister(self, keeper: u64, _: &Committed) -> Option<Pid<F>> {
        let mut record = self.row.lock_of(keeper)?;
        if self.row.state() != State::Running {
            return None;
        }
        self.row
            .set_state(State::Terminating, &mut self.row.writing.lock());
        self.row.replace_pid(&mut record, None)
    }

    /// Removes all attributes and changes the state, from which the child will be started again,
    /// in one step.
    ///
    /// Returns `false` if the row does not belong to `keeper` or the child is being stopped: then
    /// nothing changes.
    pub fn clear(self, keeper: u64, state: State, _: &Committed) -> bool {
        let stopping = &self.shared.stopping;
        let may_start = || !self.row.is_stopping.load(Ordering::Relaxed) && !stopping.is_set();
        self.clear_if(may_start, keeper, state).is_ok()
    }

    /// Removes all attributes and changes the state to [`State::Removed`] in one step, if
    /// `condition` holds for the state. Returns the pid of the child that was running. The child is
    /// removed from the count of `children` under the row's lock, so that no other thread sees one
    /// without the other.
    pub(crate) fn remove(
        self,
        condition: impl FnOnce(State) -> bool,
        keeper: u64,
        children: &Children,
    ) -> Result<Cleared<F>, Gone> {
        let condition = || {
            let is_removed = condition(self.row.state());
            if is_removed {
                children.remove();
            }
            is_removed
        };
        self.clear_if(condition, keeper, State::Removed)
    }

    fn clear_if(
        self,
        condition: impl FnOnce() -> bool,
        keeper: u64,
        state: State,
    ) -> Result<Cleared<F>, Gone> {
        let record = self.row.lock_of(keeper);
        let mut record = record.filter(|_| condition()).ok_or(Gone)?;
        let is_awaited = self.row.is_awaited.load(Ordering::Relaxed);
        let mut writing = self.row.writing.lock();
        self.row.set_state(state, &mut writing);
        let child = self.row.replace_pid(&mut record, None);
        // The row itself stays in memory until it is freed with others, but its spec must not.
        let spec = (state == State::Removed)
            .then(|| record.spec.take())
            .flatten();
        let heavy = self.attributes().is_some_and(|map| map.map.is_heavy());
        let before = self.swap(None);
        drop(writing);
        drop(record);
        self.retire(before, heavy);
        drop(spec);
        Ok(Cleared { child, is_awaited })
    }

    /// Replaces the attributes, unlocks them, and retires the old ones. They are freed as soon as
    /// nobody reads them if something `heavy` was replaced or removed.
    pub(crate) fn publish(
        self,
        writing: MutexGuard<'_, Writing>,
        after: Option<Attributes<F>>,
        heavy: bool,
    ) {
        let before = self.swap(after);
        drop(writing);
        self.retire(before, heavy);
    }

    /// Replaces the attributes, which are locked. Returns the old ones, to be retired.
    fn swap(self, after: Option<Attributes<F>>) -> Replacement {
        let after = after.map_or(ptr::null_mut(), Attributes::into_raw);
        let attributes = &self.row.attributes;
        Replacement(self.guard.swap(attributes, after, Ordering::AcqRel))
    }

    /// Retires what was replaced in this row.
    fn retire(self, Replacement(before): Replacement, heavy: bool) {
        if !before.is_null() {
            // SAFETY: `before` came from `into_raw`. The call to `swap` that returned it has
            // swapped it out, and readers that still have it entered their guards before.
            unsafe { retirement::retire::<F>(before, heavy, self.guard) };
        }
    }
}

/// The map that [`Entry::swap`] has replaced, or null.
struct Replacement(*mut ());

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use crossbeam_channel::bounded;

    use super::*;
    use crate::datum::Datum;
    use crate::reclaim;
    use crate::retirement::{MANY, MAX_FREED};
    use crate::row::{Child, Claimed};
    use crate::testing::{fixed, held, running, word, Held};

    const COMMITTED: Committed = Committed::new();
    /// Longer than anything takes that terminates.
    const LONG: Duration = Duration::from_secs(60);

    /// A write that adds no key hashes none, and one that adds a key says whom to wake.
    #[test]
    fn a_key_is_hashed_for_its_waiters_only_if_it_was_added() {
        let (row, shared, guard) = (running::<Held>(None), Shared::default(), reclaim::enter());
        let entry = Entry::new(&row, &shared, &guard);
        let set = |keys: &[u64]| {
            let changes = keys.iter().map(|key| fixed(*key, word(*key)));
            let set = entry.set(changes.collect(), &COMMITTED);
            set.map(|sought| sought.to_vec())
        };
        let sought = |key: u64| shared.attribute::<Held>(row.hash, word(key).borrow());
        assert_eq!(set(&[1]), Ok(vec![sought(1)]));
        assert_eq!(set(&[1]), Ok(vec![]));
        assert_eq!(set(&[2, 1]), Ok(vec![sought(2), sought(1)]));
        assert_eq!(set(&[1, 2]), Ok(vec![]));
        assert!(!entry.delete(word(2).borrow()));
        assert_eq!(set(&[2]), Ok(vec![sought(2)]));
    }

    #[test]
    fn a_snapshot_of_too_many_attributes_does_not_take_the_lock() {
        let (row, shared, guard) = (running::<Held>(None), Shared::default(), reclaim::enter());
        let entry = Entry::new(&row, &shared, &guard);
        let counter = |key| Attribute {
            key: word(key),
            value: Value::counter(0).unwrap(),
        };
        assert!(entry
            .set((0..100).map(counter).collect(), &COMMITTED)
            .is_ok());
        let writing = row.writing.lock();
        thread::scope(|scope| {
            let (sender, refused) = bounded(1);
            let (row, shared) = (&row, &shared);
            scope.spawn(move || {
                let guard = reclaim::enter();
                let refused = Entry::new(row, shared, &guard).snapshot(99).is_err();
                sender.send(refused)
            });
            let refused = refused.recv_timeout(LONG);
            drop(writing);
            assert_eq!(refused, Ok(true));
        });
        let snapshot = entry.snapshot(100).unwrap().unwrap();
        assert_eq!(snapshot.count(), 100);
    }

    #[test]
    fn a_counter_that_was_left_frozen_is_added_to() {
        let (row, shared, guard) = (running::<Held>(None), Shared::default(), reclaim::enter());
        let entry = Entry::new(&row, &shared, &guard);
        let counter = Attribute {
            key: word(0),
            value: Value::counter(1).unwrap(),
        };
        assert!(entry.set(Changes::from_iter([counter]), &COMMITTED).is_ok());
        let freeze = || {
            let attributes = entry.attributes().unwrap();
            attributes.value(word(0).borrow()).unwrap().freeze();
        };
        for sum in 2..4 {
            freeze();
            let added = entry.add(word(0).borrow(), 1, &COMMITTED);
            assert_eq!(added, Added::Changed(sum));
        }
        freeze();
        drop(entry.snapshot(1));
        let added = entry.add(word(0).borrow(), 1, &COMMITTED);
        assert_eq!(added, Added::Changed(4));
    }

    /// A change to a light value waits until there is more to free, also if there is a heavy value
    /// beside it. A change to the heavy value does not.
    #[test]
    fn a_heavy_value_is_freed_at_once_and_a_light_one_is_not() {
        type Change<'c> = &'c dyn Fn(u64, Entry<Held>);

        let (light, heavy, shared) = (Arc::new(()), Arc::new(()), Shared::default());
        let changed = |key: u64, change: Change| {
            let (row, guard) = (running::<Held>(None), reclaim::enter());
            let both = [fixed(1, held(&light, false)), fixed(2, held(&heavy, true))];
            let entry = Entry::new(&row, &shared, &guard);
            assert!(entry.set(both.into_iter().collect(), &COMMITTED).is_ok());
            reclaim::flush(&guard);
            change(key, entry);
            drop(guard);
            row
        };
        let set = |key: u64, entry: Entry<Held>| {
            let change = Changes::from_iter([fixed(key, word(0))]);
            assert!(entry.set(change, &COMMITTED).is_ok());
        };
        let replace = |key: u64, entry: Entry<Held>| {
            let replaced = entry.replace(fixed(key, word(0)), |_| true, true, &COMMITTED);
            assert!(matches!(replaced, Replaced::Done));
        };
        let delete = |key: u64, entry: Entry<Held>| {
            assert!(!entry.delete(word(key).borrow()));
        };
        for change in [&set as Change, &replace, &delete] {
            let before = Arc::strong_count(&light);
            let row = changed(1, change);
            assert_eq!(Arc::strong_count(&light), before + 1);
            drop(row);
            let row = changed(2, change);
            // Other tests may be reading just now.
            let begin = Instant::now();
            while Arc::strong_count(&heavy) > 1 {
                assert!(begin.elapsed() < LONG, "the heavy value is not freed");
                thread::yield_now();
            }
            drop(row);
        }
    }

    /// A thread that has retired nothing would gather a small one, and keep it until it has more.
    #[test]
    fn a_large_map_of_light_values_is_freed_although_its_last_reader_frees_nothing_else() {
        let (light, shared, children) = (Arc::new(()), Shared::default(), Children::default());
        thread::scope(|scope| {
            let (entered, has_entered) = bounded(0);
            let (removed, is_removed) = bounded(0);
            let (freed, is_freed) = bounded::<()>(0);
            scope.spawn(move || {
                let guard = reclaim::enter();
                entered.send(()).unwrap();
                is_removed.recv().unwrap();
                drop(guard);
                // A thread that ends frees what it has gathered.
                let _ = is_freed.recv();
            });
            has_entered.recv().unwrap();
            let (row, guard) = (running::<Held>(None), reclaim::enter());
            let entry = Entry::new(&row, &shared, &guard);
            let many = (0..=MANY as u64).map(|key| fixed(key, held(&light, false)));
            assert!(entry.set(many.collect(), &COMMITTED).is_ok());
            assert!(children.add() && entry.remove(|_| true, 1, &children).is_ok());
            reclaim::flush(&guard);
            drop(guard);
            removed.send(()).unwrap();
            let begin = Instant::now();
            while Arc::strong_count(&light) > 1 {
                assert!(begin.elapsed() < LONG, "the map is not freed");
                thread::yield_now();
            }
            drop(freed);
        });
    }

    #[test]
    fn a_row_keeps_its_spec_until_it_is_removed() {
        let (kept, shared, guard) = (Arc::new(()), Shared::default(), reclaim::enter());
        let row = running(Some(held(&kept, false)));
        let entry = Entry::new(&row, &shared, &guard);
        for state in [State::Pending, State::Slowed, State::Restarting] {
            assert!(entry.clear(1, state, &COMMITTED));
            assert_eq!(Arc::strong_count(&kept), 2, "{state:?}");
        }
        assert!(row.respec(1, held(&kept, false), &COMMITTED));
        assert_eq!(Arc::strong_count(&kept), 2);
        let children = Children::default();
        assert!(children.add() && entry.remove(|_| true, 1, &children).is_ok());
        assert_eq!(Arc::strong_count(&kept), 1);
        assert!(!row.respec(1, word(0), &COMMITTED));
    }

    thread_local! {
        /// Values that this thread has dropped.
        static DROPPED: Cell<usize> = const { Cell::new(0) };
    }

    /// A value that the thread that drops it counts. It is not empty, so that the tagged pointer to
    /// it is within its memory, where LeakSanitizer finds it.
    struct Counted(#[allow(dead_code)] u64);

    impl Foreign for Counted {
        type Borrowed<'a> = &'a Counted;

        fn borrow(&self) -> &Counted {
            self
        }

        fn hash(_: &Counted) -> u64 {
            42
        }

        fn same(one: &Counted, other: &Counted) -> bool {
            ptr::eq(one, other)
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.set(DROPPED.get() + 1);
        }
    }

    thread_local! {
        static WATCHED: RefCell<Option<Arc<Row<Watched>>>> = const { RefCell::new(None) };
        /// How often a term was hashed or used while the row was locked.
        static UNDER_LOCK: Cell<usize> = const { Cell::new(0) };
    }

    /// A term that notices whether the row of this thread is locked.
    struct Watched(u64);

    fn watch() {
        WATCHED.with_borrow(|row| {
            let is_locked = row.as_ref().is_some_and(|row| row.writing.is_locked());
            UNDER_LOCK.set(UNDER_LOCK.get() + usize::from(is_locked));
        });
    }

    impl Foreign for Watched {
        type Borrowed<'a> = u64;

        fn borrow(&self) -> u64 {
            self.0
        }

        fn hash(number: u64) -> u64 {
            watch();
            number
        }

        fn same(one: u64, other: u64) -> bool {
            one == other
        }

        fn begin_use(&self) -> bool {
            watch();
            true
        }
    }

    /// What a call does under the lock does not depend on the number of attributes.
    #[test]
    fn many_attributes_are_set_and_read_without_the_lock() {
        const MANY: u64 = 10_000;
        let (row, shared) = (Arc::new(Row::vacant(word(0), 0, 0)), Shared::default());
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(1)),
            keeper: 1,
            spec: None,
        };
        let occupied = row.occupy(&child, &Children::default(), || true);
        assert_eq!(occupied.unwrap(), Claimed::Done);
        WATCHED.set(Some(Arc::clone(&row)));
        let guard = reclaim::enter();
        let entry = Entry::new(&row, &shared, &guard);
        let change = |key| Attribute {
            key: Datum::foreign(Watched(key)),
            value: Value::fixed(Datum::foreign(Watched(key))),
        };
        let set = |from| entry.set((from..from + MANY).map(change).collect(), &COMMITTED);
        let under_lock = |run: &dyn Fn()| {
            UNDER_LOCK.set(0);
            run();
            UNDER_LOCK.get()
        };
        let few = 500;
        // A new map, over a small one, over a large one; and of one attribute, in a shared map.
        let sought = |set: Result<SoughtAll, Void>| set.map(|sought| sought.len());
        let all = Ok(MANY as usize);
        assert!(under_lock(&|| assert_eq!(sought(set(0)), all)) < few);
        assert!(under_lock(&|| assert_eq!(sought(set(MANY / 2)), all)) < few);
        assert!(under_lock(&|| assert_eq!(sought(set(0)), Ok(0))) < few);
        assert!(under_lock(&|| assert!(entry.snapshot(usize::MAX).is_ok())) < few);
        let one = || Changes::from_iter([change(1)]);
        let set_one = || sought(entry.set(one(), &COMMITTED));
        assert!(under_lock(&|| assert_eq!(set_one(), Ok(0))) < few);
        let count = entry.attributes().map(|map| map.count());
        assert_eq!(count, Some(MANY as usize * 3 / 2));
        WATCHED.set(None);
    }

    #[test]
    fn a_thread_frees_a_few_of_many_maps_retired_at_once() {
        let shared = Shared::default();
        let retire = |attributes: usize| {
            let (row, guard) = (Row::vacant(word(0), 0, 0), reclaim::enter());
            let entry = Entry::new(&row, &shared, &guard);
            let counted = |key| fixed(key, Datum::foreign(Counted(key)));
            let changes = (0..attributes as u64).map(counted).collect();
            entry.set_copied(row.writing.lock(), changes);
            entry.publish(row.writing.lock(), None, false);
        };
        let dropped = |run: &dyn Fn()| {
            let before = DROPPED.get();
            run();
            DROPPED.get() - before
        };
        // Nothing is freed while there is a reader, and then everything at once.
        let most = dropped(&|| {
            let reader = reclaim::enter();
            assert_eq!(dropped(&|| (0..1_000).for_each(|_| retire(MANY))), 0);
            drop(reader);
        });
        assert!(most <= MAX_FREED, "{most}");
        // The same holds while the thread goes on retiring.
        let most = (0..1_000).map(|_| dropped(&|| retire(MANY))).max();
        assert!(most <= Some(MAX_FREED), "{most:?}");
    }

    #[test]
    fn a_thread_frees_a_few_of_many_values_retired_at_once() {
        let (row, shared) = (running(None), Shared::default());
        let set = |number: u64| {
            let guard = reclaim::enter();
            let value = fixed(0, Datum::foreign(Counted(number)));
            let entry = Entry::new(&row, &shared, &guard);
            assert!(entry.set(Changes::from_iter([value]), &COMMITTED).is_ok());
        };
        let reader = reclaim::enter();
        let before = DROPPED.get();
        (0..100_000).for_each(set);
        assert_eq!(DROPPED.get(), before);
        drop(reader);
        let dropped = DROPPED.get() - before;
        assert!((1..=512).contains(&dropped), "{dropped}");
    }
}
