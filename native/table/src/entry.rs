//! A row under a guard: reading and changing its attributes, and the steps of its child's life.

use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use seize::Guard as _;

use crate::attributes::{Attribute, Attributes, Changes, Integers};
use crate::children::Children;
use crate::commit::Committed;
use crate::datum::{Borrowed, Foreign};
use crate::hashing::Seed;
use crate::reclaim::Guard;
use crate::retirement;
use crate::row::{Cleared, Gone, Pid, Record, Refused, Row, Shared, State};
use crate::value::{Added, Frozen, Value};
use crate::waiters::SoughtAll;

/// Bytes that the indexes of a zone and the reference count take for a row.
const INDEXED: usize = 80;

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
pub enum Replaced<F> {
    /// The value was replaced.
    Done,
    /// The value is this one, not the expected one.
    Not(Value<F>),
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
    guard: PhantomData<&'g Guard>,
}

impl<F: Foreign> Deref for Reading<'_, F> {
    type Target = Attributes<F>;

    #[inline]
    fn deref(&self) -> &Attributes<F> {
        &self.map
    }
}

impl<F: Foreign> Reading<'_, F> {
    /// Returns the value of a key.
    #[inline(always)]
    pub fn get(&self, key: Borrowed<'_, F>) -> Option<&Value<F>> {
        self.map.get(key, self.seed)
    }

    /// Whether there is an attribute with this key.
    pub fn has(&self, key: Borrowed<'_, F>) -> bool {
        self.get(key).is_some()
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
                guard: PhantomData,
            }
        })
    }

    /// Returns all attributes, and the values of the counters at one moment, in the order of
    /// [`Attributes::for_each`]. Fails at once if there are more than `most` attributes.
    pub fn snapshot(self, most: usize) -> Result<Option<(Reading<'g, F>, Integers)>, TooMany> {
        let at_most = |attributes: Reading<'g, F>| match attributes.count() <= most {
            true => Ok(attributes),
            false => Err(TooMany),
        };
        let Some(attributes) = self.attributes().map(at_most).transpose()? else {
            return Ok(None);
        };
        if attributes.counters() < 2 {
            // One counter is read at one moment in any case.
            let mut integers = Integers::new();
            attributes.for_each(&mut |attribute| integers.extend(attribute.value.counted()));
            return Ok(Some((attributes, integers)));
        }
        let _record = self.row.record.lock();
        // There may be more by now.
        let Some(attributes) = self.attributes().map(at_most).transpose()? else {
            return Ok(None);
        };
        let integers = attributes.freeze_and_thaw();
        Ok(Some((attributes, integers)))
    }

    /// Returns the number of attributes, and the bytes of the row with all that is in it. Shared
    /// values count in full. Fails at once if there are more than `most` attributes.
    pub fn size(self, most: usize) -> Result<(usize, usize), TooMany> {
        let spec = self.row.record.lock().spec.clone();
        let row = size_of::<Row<F>>() + INDEXED + self.row.name.size();
        let row = row + spec.map_or(0, |spec| spec.size());
        match self.attributes() {
            Some(map) if map.count() > most => Err(TooMany),
            Some(map) => Ok((map.count(), row + map.bytes())),
            None => Ok((0, row)),
        }
    }

    /// Sets attributes in one step. Returns whether there are more of them than before.
    pub fn set(self, changes: Changes<F>, _: &Committed) -> Result<bool, Void> {
        let record = self.row.record.lock();
        if !record.is_settable() {
            return Err(Void);
        }
        Ok(self.set_locked(record, changes))
    }

    pub(crate) fn set_locked(self, record: MutexGuard<'_, Record<F>>, changes: Changes<F>) -> bool {
        let before = self.attributes();
        if let ([Attribute { key, value }], Some(before)) = (changes.as_slice(), &before) {
            // An integer replaces another one in place.
            if let (Value::Integer(new), Some(Value::Integer(old))) =
                (value, before.get(key.borrow()))
            {
                old.set(new.get());
                drop(record);
                return false;
            }
        }
        let seed = &self.shared.seed;
        let heavy = before.as_ref().is_some_and(|map| {
            let mut changes = changes.iter();
            map.is_heavy() && changes.any(|change| map.is_heavy_at(change.key.borrow(), seed))
        });
        let after = Attributes::with(before.as_deref(), changes, seed);
        let count = |map: Option<&Attributes<F>>| map.map_or(0, Attributes::count);
        let grown = count(after.as_ref()) > count(before.as_deref());
        self.publish(record, after, heavy);
        grown
    }

    /// Adds an attribute, whatever the state of the row. Returns `Ok(false)` if there is one of
    /// this key.
    pub(crate) fn set_missing(self, change: &Attribute<F>) -> Result<bool, Gone> {
        let record = self.row.record.lock();
        if record.state == State::Removed {
            return Err(Gone);
        }
        let before = self.attributes();
        if before.is_some_and(|map| map.has(change.key.borrow())) {
            return Ok(false);
        }
        let change = Attribute {
            key: change.key.clone(),
            value: change.value.carry_over(),
        };
        self.set_locked(record, Changes::from_iter([change]));
        Ok(true)
    }

    /// Removes an attribute, if there is one.
    ///
    /// Returns `true` if the row is then without attributes and without a child: its state is
    /// [`State::Removed`], and the caller has to remove it from its table.
    pub(crate) fn delete(self, key: Borrowed<'_, F>) -> bool {
        let mut record = self.row.record.lock();
        let Some(before) = self.attributes().filter(|map| map.has(key)) else {
            return false;
        };
        let seed = &self.shared.seed;
        let heavy = before.is_heavy_at(key, seed);
        let after = before.without(key, seed);
        let is_empty = after.is_none() && record.state == State::Vacant;
        if is_empty {
            record.state = State::Removed;
        }
        self.publish(record, after, heavy);
        is_empty
    }

    /// Changes the state of a row to [`State::Removed`] if it has neither a child nor attributes.
    /// Returns whether it does; then the caller has to remove it from its table.
    pub(crate) fn discard(self) -> bool {
        let mut record = self.row.record.lock();
        let is_empty = record.state == State::Vacant && self.attributes().is_none();
        if is_empty {
            record.state = State::Removed;
        }
        is_empty
    }

    /// Replaces the value of an attribute, if `is_expected` holds for the current one.
    ///
    /// `of_child`: returns [`Replaced::Void`] if no child holds the name.
    pub fn replace(
        self,
        change: Attribute<F>,
        is_expected: impl FnOnce(&Value<F>) -> bool,
        of_child: bool,
        _: &Committed,
    ) -> Replaced<F> {
        let record = self.row.record.lock();
        if of_child && !record.is_settable() {
            return Replaced::Void;
        }
        let attributes = self.attributes();
        let key = change.key.borrow();
        let Some((map, value)) = attributes
            .as_ref()
            .and_then(|map| Some((map, map.get(key)?)))
        else {
            return Replaced::Missing;
        };
        // This freezes a counter: no addition comes between the comparison and the replacement.
        let current = value.carry_over();
        if !is_expected(&current) {
            value.thaw();
            return Replaced::Not(current);
        }
        let seed = &self.shared.seed;
        let heavy = map.is_heavy_at(key, seed);
        let after = Attributes::with(Some(map), Changes::from_iter([change]), seed);
        self.publish(record, after, heavy);
        Replaced::Done
    }

    /// Adds to a counter in one step.
    #[inline(always)]
    pub fn add(self, key: Borrowed<'_, F>, increment: i64, _: &Committed) -> Added {
        match self.try_add(key, increment) {
            Ok(added) => added,
            Err(Frozen) => self.add_locked(key, increment),
        }
    }

    /// Adds to a counter that a writer has frozen, which holds the lock. Once this thread has the
    /// lock, nothing is frozen.
    #[cold]
    fn add_locked(self, key: Borrowed<'_, F>, increment: i64) -> Added {
        let _record = self.row.record.lock();
        let added = self.try_add(key, increment);
        added.unwrap_or(Added::NotCounted)
    }

    #[inline(always)]
    fn try_add(self, key: Borrowed<'_, F>, increment: i64) -> Result<Added, Frozen> {
        match self.attributes() {
            Some(attributes) => match attributes.get(key) {
                Some(Value::Integer(counter)) => counter.add(increment),
                Some(Value::Fixed(_)) => Ok(Added::NotCounted),
                None => Ok(Added::Missing),
            },
            None => Ok(Added::Missing),
        }
    }

    /// Records that the child of `keeper` runs. Returns whether the tracker waits for that. Changes
    /// nothing if the child is being stopped.
    pub fn run(self, keeper: u64, pid: Pid<F>, _: &Committed) -> Result<bool, Refused> {
        let mut record = self.row.lock_of(keeper).ok_or(Refused::Gone)?;
        if record.is_stopping {
            return Err(Refused::Stopping);
        }
        if self.shared.stopping.is_set() {
            return Err(Refused::ZoneStopping);
        }
        record.state = State::Running;
        let is_awaited = mem::take(&mut record.is_awaited);
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
        let is_stopping = record.is_stopping || self.shared.stopping.is_set();
        if record.state != State::Running || is_stopping {
            return None;
        }
        record.keeper = new;
        self.row.replace_pid(&mut record, Some(pid))
    }

    /// Records that the child of `keeper` is dead. Returns the pid of the child that was running,
    /// and whether it is being stopped.
    pub fn terminate(self, keeper: u64, _: &Committed) -> Result<(Option<Pid<F>>, bool), Gone> {
        let mut record = self.row.lock_of(keeper).ok_or(Gone)?;
        record.state = State::Terminating;
        let before = self.row.replace_pid(&mut record, None);
        let is_stopping = record.is_stopping || self.shared.stopping.is_set();
        Ok((before, is_stopping))
    }

    /// Records that the child of `keeper` is to be removed, if it runs. Returns its pid: the
    /// process lives on.
    pub fn unregister(self, keeper: u64, _: &Committed) -> Option<Pid<F>> {
        let mut record = self.row.lock_of(keeper)?;
        if record.state != State::Running {
            return None;
        }
        record.state = State::Terminating;
        self.row.replace_pid(&mut record, None)
    }

    /// Removes all attributes and changes the state, from which the child will be started again,
    /// in one step.
    ///
    /// Returns `false` if the row does not belong to `keeper` or the child is being stopped: then
    /// nothing changes.
    pub fn clear(self, keeper: u64, state: State, _: &Committed) -> bool {
        let stopping = &self.shared.stopping;
        let may_start = |record: &Record<F>| !record.is_stopping && !stopping.is_set();
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
        let condition = |record: &Record<F>| {
            let is_removed = condition(record.state);
            if is_removed {
                children.remove();
            }
            is_removed
        };
        self.clear_if(condition, keeper, State::Removed)
    }

    fn clear_if(
        self,
        condition: impl FnOnce(&Record<F>) -> bool,
        keeper: u64,
        state: State,
    ) -> Result<Cleared<F>, Gone> {
        let record = self.row.lock_of(keeper);
        let mut record = record.filter(|record| condition(record)).ok_or(Gone)?;
        record.state = state;
        let is_awaited = record.is_awaited;
        let child = self.row.replace_pid(&mut record, None);
        // The row itself stays in memory until it is freed with others, but its spec must not.
        let spec = (state == State::Removed)
            .then(|| record.spec.take())
            .flatten();
        let heavy = self.attributes().is_some_and(|map| map.is_heavy());
        self.publish(record, None, heavy);
        drop(spec);
        Ok(Cleared { child, is_awaited })
    }

    /// Replaces the attributes, unlocks, and retires the old ones. They are freed as soon as
    /// nobody reads them if something `heavy` was replaced or removed.
    pub(crate) fn publish(
        self,
        record: MutexGuard<'_, Record<F>>,
        after: Option<Attributes<F>>,
        heavy: bool,
    ) {
        let after = after.map_or(ptr::null_mut(), Attributes::into_raw);
        let before = self
            .guard
            .swap(&self.row.attributes, after, Ordering::AcqRel);
        drop(record);
        if !before.is_null() {
            // SAFETY: `before` came from `into_raw`. This call alone has swapped it out, and
            // readers that still have it entered their guards before.
            unsafe { retirement::retire::<F>(before, heavy, self.guard) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use crossbeam_channel::bounded;

    use super::*;
    use crate::datum::Datum;
    use crate::reclaim;
    use crate::retirement::{MANY, MAX_FREED};
    use crate::testing::{fixed, held, running, word, Held};
    use crate::value::Counter;

    const COMMITTED: Committed = Committed::new();
    /// Longer than anything takes that terminates.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_snapshot_of_too_many_attributes_does_not_take_the_lock() {
        let (row, shared, guard) = (running(None), Shared::default(), reclaim::enter());
        let entry = Entry::new(&row, &shared, &guard);
        let counter = |key| Attribute {
            key: word(key),
            value: Value::Integer(Counter::new(0).unwrap()),
        };
        assert!(entry
            .set((0..100).map(counter).collect(), &COMMITTED)
            .is_ok());
        let record = row.record.lock();
        thread::scope(|scope| {
            let (sender, refused) = bounded(1);
            let (row, shared) = (&row, &shared);
            scope.spawn(move || {
                let guard = reclaim::enter();
                sender.send(Entry::new(row, shared, &guard).snapshot(99).is_err())
            });
            let refused = refused.recv_timeout(LONG);
            drop(record);
            assert_eq!(refused, Ok(true));
        });
        let (attributes, integers) = entry.snapshot(100).unwrap().unwrap();
        assert_eq!((attributes.count(), integers.len()), (100, 100));
    }

    /// A change to a light value waits until there is more to free, also if there is a heavy value
    /// beside it. A change to the heavy value does not.
    #[test]
    fn a_heavy_value_is_freed_at_once_and_a_light_one_is_not() {
        type Change<'c> = &'c dyn Fn(u64, Entry<Held>);

        let (light, heavy, shared) = (Arc::new(()), Arc::new(()), Shared::default());
        let changed = |key: u64, change: Change| {
            let (row, guard) = (running(None), reclaim::enter());
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

    /// A value that the thread that drops it counts.
    struct Counted;

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

    #[test]
    fn a_thread_frees_a_few_of_many_maps_retired_at_once() {
        let shared = Shared::default();
        let retire = |attributes: usize| {
            let (row, guard) = (Row::vacant(word(0), 0, 0), reclaim::enter());
            let entry = Entry::new(&row, &shared, &guard);
            let counted = |key| fixed(key, Datum::foreign(Counted));
            let changes = (0..attributes as u64).map(counted).collect();
            entry.set_locked(row.record.lock(), changes);
            entry.publish(row.record.lock(), None, false);
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
}
