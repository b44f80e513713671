//! One name: its state, the processes behind it, and its attributes.
//!
//! Readers take no lock: the child's pid is one atomic word, and the attributes are one pointer to a map that never
//! changes ([`Attributes`]). Writers take the row's lock, make the new map beside the old one, and publish it by replacing the
//! pointer; the old one is retired. Nothing is freed and no foreign code runs while the lock is held.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use seize::Guard as _;

use crate::attributes::{Attribute, Attributes, Changes, Integers};
use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign};
use crate::reclaim::{self, Guard};
use crate::value::{Added, Frozen, Value};
use crate::Seed;

/// How many attributes are too many to free on the thread of a caller.
const MANY: usize = 64;

/// How many attributes a thread may free in a row, in however many maps: some hundred microseconds of work at the most.
const MOST_IN_A_ROW: usize = 2048;

thread_local! {
    /// How many attributes this thread may free before it retires more. Whoever leaves its guard last frees what others have retired, too.
    static ALLOWANCE: Cell<usize> = const { Cell::new(0) };
}

/// What the indexes of a zone take for a row, and the count of those that share it, in bytes.
const INDEXED: usize = 80;

/// The pid of a row without a running child. No process has it.
const NOBODY: u64 = 0;

/// The pid of a row whose child no word stands for: the child is in the record. No process has it.
const REMOTE: u64 = u64::MAX;

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No child: the row only keeps attributes.
    Vacant,
    /// The child is being started.
    Launching,
    /// The child runs.
    Running,
    /// The child is dead, and what it leaves behind is being cleaned up.
    Terminating,
    /// All is cleaned up, and the child is going to be started again, because its last start failed.
    Pending,
    /// All is cleaned up, and the child is going to be started again, later than it would be if it had lived longer.
    Slowed,
    /// The child is being started again.
    Restarting,
    /// The row has left its table.
    Removed,
}

/// A child's process.
pub enum Pid<F> {
    /// A process that a word stands for. The word is neither 0 nor `u64::MAX`.
    Local(u64),
    /// Any other process, which is a term to its embedder.
    Remote(Datum<F>),
}

impl<F> Clone for Pid<F> {
    fn clone(&self) -> Self {
        match self {
            Pid::Local(word) => Pid::Local(*word),
            Pid::Remote(datum) => Pid::Remote(datum.clone()),
        }
    }
}

impl<F: Foreign> PartialEq for Pid<F> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Pid::Local(one), Pid::Local(other)) => one == other,
            (Pid::Remote(one), Pid::Remote(other)) => one == other,
            _ => false,
        }
    }
}

impl<F> fmt::Debug for Pid<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pid::Local(word) => write!(formatter, "Local({word})"),
            Pid::Remote(datum) => write!(formatter, "Remote({datum:?})"),
        }
    }
}

/// Whether a zone is being stopped.
///
/// A row reads this under its lock, when its keeper says something of the child. Whoever stops the zone sets it, and then reads the rows under their locks. So either
/// the keeper sees that the zone is stopping, or the reader of the row sees what the keeper said before.
#[derive(Default)]
pub struct Stopping(AtomicBool);

impl Stopping {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why the row does not do what a keeper says.
#[derive(Debug, PartialEq)]
pub enum Refused {
    /// The row is not that keeper's.
    Gone,
    /// The child, or the whole zone, is being stopped.
    Stopping,
}

/// What changes together under the row's lock.
struct Record<F> {
    state: State,
    /// Whether the child is to be stopped for good; see [`Row::stop`].
    is_stopping: bool,
    keeper: u64,
    /// The child, when its pid is [`REMOTE`].
    remote: Option<Datum<F>>,
    spec: Option<Datum<F>>,
}

impl<F> Record<F> {
    /// Whether there is a child that may have attributes set.
    fn is_settable(&self) -> bool {
        matches!(
            self.state,
            State::Launching | State::Restarting | State::Running
        )
    }
}

/// One name of a zone.
pub struct Row<F: Foreign> {
    /// The name.
    pub name: Datum<F>,
    pub(crate) hash: u64,
    /// Where the row is listed; see [`Zone::page`](crate::zone::Zone::page).
    pub slot: u32,
    pid: AtomicU64,
    attributes: AtomicPtr<()>,
    record: Mutex<Record<F>>,
    owns: PhantomData<Attributes<F>>,
}

/// A row's child at one moment.
pub struct Child<F> {
    /// Its state.
    pub state: State,
    /// The child, when it runs.
    pub pid: Option<Pid<F>>,
    /// The process beside it.
    pub keeper: u64,
    /// What the embedder wants to know of it.
    pub spec: Option<Datum<F>>,
}

/// The row is no longer what the caller found; it should look again.
#[derive(Debug)]
pub struct Gone;

/// No child holds the name, so that no attribute can be set.
#[derive(Debug, PartialEq)]
pub struct Void;

/// What became of a value that was to be replaced.
pub enum Replaced<F> {
    /// It was.
    Done,
    /// It is another one than expected.
    Not(Value<F>),
    /// There is no such attribute.
    Missing,
    /// No child holds the name.
    Void,
}

/// The row has more attributes than its reader has time for.
#[derive(Debug)]
pub struct TooMany;

/// The attributes of a row, as they are while a guard is held and the row is there.
///
/// ```compile_fail
/// # use proctab_table::{datum::Foreign, reclaim::Guard, row::{Reading, Row}};
/// fn outlive<'g, F: Foreign>(row: Row<F>, guard: &'g Guard) -> Option<Reading<'g, F>> {
///     row.attributes(guard)
/// }
/// ```
pub struct Reading<'g, F: Foreign>(ManuallyDrop<Attributes<F>>, PhantomData<&'g Guard>);

impl<F: Foreign> Deref for Reading<'_, F> {
    type Target = Attributes<F>;

    #[inline]
    fn deref(&self) -> &Attributes<F> {
        &self.0
    }
}

impl<F: Foreign> Row<F> {
    pub(crate) fn vacant(name: Datum<F>, hash: u64, slot: u32) -> Self {
        Row {
            name,
            hash,
            slot,
            pid: AtomicU64::new(NOBODY),
            attributes: AtomicPtr::new(ptr::null_mut()),
            record: Mutex::new(Record {
                state: State::Vacant,
                is_stopping: false,
                keeper: NOBODY,
                remote: None,
                spec: None,
            }),
            owns: PhantomData,
        }
    }

    /// The child, when it runs.
    #[inline]
    pub fn pid(&self) -> Option<Pid<F>> {
        match self.pid.load(Ordering::Acquire) {
            NOBODY => None,
            REMOTE => self.pid_in(&self.record.lock()),
            word => Some(Pid::Local(word)),
        }
    }

    /// The child, when it runs, for the holder of the lock.
    fn pid_in(&self, record: &Record<F>) -> Option<Pid<F>> {
        match self.pid.load(Ordering::Relaxed) {
            NOBODY => None,
            REMOTE => record.remote.clone().map(Pid::Remote),
            word => Some(Pid::Local(word)),
        }
    }

    /// Replaces the child, for the holder of the lock; the child that ran till now.
    fn replace_pid(&self, record: &mut Record<F>, pid: Option<Pid<F>>) -> Option<Pid<F>> {
        let (word, remote) = match pid {
            None => (NOBODY, None),
            Some(Pid::Local(word)) => (word, None),
            Some(Pid::Remote(datum)) => (REMOTE, Some(datum)),
        };
        let remote = mem::replace(&mut record.remote, remote);
        match self.pid.swap(word, Ordering::AcqRel) {
            NOBODY => None,
            REMOTE => remote.map(Pid::Remote),
            word => Some(Pid::Local(word)),
        }
    }

    /// The child in whatever state it is; none in a vacant row.
    pub fn child(&self) -> Option<Child<F>> {
        self.child_in(&self.record.lock())
    }

    /// The same, when the row is that keeper's.
    pub(crate) fn child_of(&self, keeper: u64) -> Option<Child<F>> {
        self.child_in(&*self.lock_own(keeper)?)
    }

    fn child_in(&self, record: &Record<F>) -> Option<Child<F>> {
        match record.state {
            State::Vacant | State::Removed => None,
            state => Some(Child {
                state,
                pid: self.pid_in(record),
                keeper: record.keeper,
                spec: record.spec.clone(),
            }),
        }
    }

    /// Whether there is a child, in any state.
    pub fn has_child(&self) -> bool {
        !matches!(self.record.lock().state, State::Vacant | State::Removed)
    }

    /// How many attributes there are, and how many bytes the row takes with all that is in it. What it shares counts in full. Nothing is done with more
    /// than `most` attributes.
    pub fn size(&self, most: usize, guard: &Guard) -> Result<(usize, usize), TooMany> {
        let spec = self.record.lock().spec.clone();
        let besides = size_of::<Self>() + INDEXED + self.name.size();
        let besides = besides + spec.map_or(0, |spec| spec.size());
        match self.attributes(guard) {
            Some(map) if map.count() > most => Err(TooMany),
            Some(map) => Ok((map.count(), besides + map.bytes())),
            None => Ok((0, besides)),
        }
    }

    /// The attributes as they are now; an empty map is none.
    #[inline]
    pub fn attributes<'g>(&'g self, guard: &'g Guard) -> Option<Reading<'g, F>> {
        let raw = guard.protect(&self.attributes, Ordering::Acquire);
        (!raw.is_null()).then(|| {
            // SAFETY: `raw` came from `into_raw`. Its memory is given up by `publish`, which retires it, so that it stays until the guard is
            // left, or when the row is dropped. `Reading` outlives neither, and never drops what it holds.
            let attributes = unsafe { Attributes::from_raw(raw) };
            Reading(ManuallyDrop::new(attributes), PhantomData)
        })
    }

    /// All attributes with the counters as they were at one moment, in the order of [`Attributes::for_each`]. Nothing is done with more
    /// than `most` of them.
    pub fn snapshot<'g>(
        &'g self,
        most: usize,
        guard: &'g Guard,
    ) -> Result<Option<(Reading<'g, F>, Integers)>, TooMany> {
        let at_most = |attributes: Reading<'g, F>| match attributes.count() <= most {
            true => Ok(attributes),
            false => Err(TooMany),
        };
        let Some(attributes) = self.attributes(guard).map(at_most).transpose()? else {
            return Ok(None);
        };
        if attributes.counters() < 2 {
            // One counter is a moment of its own.
            let mut integers = Integers::new();
            attributes.for_each(&mut |attribute| integers.extend(attribute.value.counted()));
            return Ok(Some((attributes, integers)));
        }
        let _record = self.record.lock();
        // There may be more by now.
        let Some(attributes) = self.attributes(guard).map(at_most).transpose()? else {
            return Ok(None);
        };
        let integers = attributes.freeze_and_thaw();
        Ok(Some((attributes, integers)))
    }

    /// Sets attributes in one step; whether there are more of them than before.
    pub fn set(
        &self,
        changes: Changes<F>,
        seed: &Seed,
        guard: &Guard,
        _: &Committed,
    ) -> Result<bool, Void> {
        let record = self.record.lock();
        if !record.is_settable() {
            return Err(Void);
        }
        Ok(self.set_locked(record, changes, seed, guard))
    }

    fn set_locked(
        &self,
        record: MutexGuard<'_, Record<F>>,
        changes: Changes<F>,
        seed: &Seed,
        guard: &Guard,
    ) -> bool {
        let before = self.attributes(guard);
        if let ([Attribute { key, value }], Some(before)) = (changes.as_slice(), &before) {
            // One integer in the place of another is stored there.
            if let (Value::Integer(new), Some(Value::Integer(old))) =
                (value, before.get(key.borrow(), seed))
            {
                old.set(new.get());
                drop(record);
                return false;
            }
        }
        let heavy = before.as_ref().is_some_and(|map| {
            let mut changes = changes.iter();
            map.is_heavy() && changes.any(|change| map.is_heavy_at(change.key.borrow(), seed))
        });
        let after = Attributes::with(before.as_deref(), changes, seed);
        let count = |map: Option<&Attributes<F>>| map.map_or(0, Attributes::count);
        let grown = count(after.as_ref()) > count(before.as_deref());
        self.publish(record, after, heavy, guard);
        grown
    }

    /// Removes an attribute, where there is one. A row that keeps nothing then, and is no child's, goes out of use: `true`, for the caller who has to take
    /// it out of its table.
    pub(crate) fn delete(&self, key: Borrowed<'_, F>, seed: &Seed, guard: &Guard) -> bool {
        let mut record = self.record.lock();
        let Some(before) = self.attributes(guard) else {
            return false;
        };
        if before.get(key, seed).is_none() {
            return false;
        }
        let heavy = before.is_heavy_at(key, seed);
        let after = before.without(key, seed);
        let emptied = after.is_none() && record.state == State::Vacant;
        if emptied {
            record.state = State::Removed;
        }
        self.publish(record, after, heavy, guard);
        emptied
    }

    /// Replaces a value when it is the expected one. Where the name has to be a child's, it is as if there were nothing when it is not.
    pub fn replace(
        &self,
        change: Attribute<F>,
        is_expected: impl FnOnce(&Value<F>) -> bool,
        of_child: bool,
        seed: &Seed,
        guard: &Guard,
        _: &Committed,
    ) -> Replaced<F> {
        let record = self.record.lock();
        if of_child && !record.is_settable() {
            return Replaced::Void;
        }
        let attributes = self.attributes(guard);
        let key = change.key.borrow();
        let Some((map, value)) = attributes
            .as_ref()
            .and_then(|map| Some((map, map.get(key, seed)?)))
        else {
            return Replaced::Missing;
        };
        // This freezes a counter, so that no addition comes between comparing and replacing.
        let current = value.carry_over();
        if !is_expected(&current) {
            value.thaw();
            return Replaced::Not(current);
        }
        let heavy = map.is_heavy_at(key, seed);
        let after = Attributes::with(Some(map), Changes::from_iter([change]), seed);
        self.publish(record, after, heavy, guard);
        Replaced::Done
    }

    /// Adds to a counter in one step.
    #[inline]
    pub fn add(
        &self,
        key: Borrowed<'_, F>,
        increment: i64,
        seed: &Seed,
        guard: &Guard,
        _: &Committed,
    ) -> Added {
        let add = || match self.attributes(guard) {
            Some(attributes) => match attributes.get(key, seed) {
                Some(Value::Integer(counter)) => counter.add(increment),
                Some(Value::Fixed(_)) => Ok(Added::NotCounted),
                None => Ok(Added::Missing),
            },
            None => Ok(Added::Missing),
        };
        add().unwrap_or_else(|Frozen| {
            // Its writer is at work. With the lock in our hands nothing is frozen.
            let _record = self.record.lock();
            add().unwrap_or(Added::NotCounted)
        })
    }

    /// Adds an attribute that is not there, in any state; `Ok(false)` when it is there by now.
    pub(crate) fn set_missing(
        &self,
        change: &Attribute<F>,
        seed: &Seed,
        guard: &Guard,
    ) -> Result<bool, Gone> {
        let record = self.record.lock();
        if record.state == State::Removed {
            return Err(Gone);
        }
        let before = self.attributes(guard);
        if before.is_some_and(|map| map.get(change.key.borrow(), seed).is_some()) {
            return Ok(false);
        }
        let change = Attribute {
            key: change.key.clone(),
            value: change.value.carry_over(),
        };
        self.set_locked(record, Changes::from_iter([change]), seed, guard);
        Ok(true)
    }

    /// Makes a vacant row a child's.
    /// `children` counts it: whoever sees the child under the lock sees it counted.
    pub(crate) fn occupy(&self, child: &Child<F>, children: &AtomicUsize) -> Result<bool, Gone> {
        let mut record = self.record.lock();
        match record.state {
            State::Removed => Err(Gone),
            State::Vacant => {
                record.state = child.state;
                record.is_stopping = false;
                record.keeper = child.keeper;
                record.spec = child.spec.clone();
                children.fetch_add(1, Ordering::Relaxed);
                self.replace_pid(&mut record, child.pid.clone());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The child of `keeper` runs. Nothing changes when it is being stopped.
    pub fn run(
        &self,
        keeper: u64,
        pid: Pid<F>,
        zone: &Stopping,
        _: &Committed,
    ) -> Result<(), Refused> {
        let mut record = self.lock_own(keeper).ok_or(Refused::Gone)?;
        if record.is_stopping || zone.is_set() {
            return Err(Refused::Stopping);
        }
        record.state = State::Running;
        let before = self.replace_pid(&mut record, Some(pid));
        drop(record);
        drop(before);
        Ok(())
    }

    /// The child of `keeper` is dead: the child that ran till now, and whether it is being stopped.
    pub fn terminate(
        &self,
        keeper: u64,
        zone: &Stopping,
        _: &Committed,
    ) -> Result<(Option<Pid<F>>, bool), Gone> {
        let mut record = self.lock_own(keeper).ok_or(Gone)?;
        record.state = State::Terminating;
        let before = self.replace_pid(&mut record, None);
        Ok((before, record.is_stopping || zone.is_set()))
    }

    /// The child of `keeper` is to be stopped for good: from now on it does not begin to run, and is not started again. Its state at that moment.
    pub fn stop(&self, keeper: u64, _: &Committed) -> Option<State> {
        let mut record = self.lock_own(keeper)?;
        record.is_stopping = true;
        Some(record.state)
    }

    /// Gives the row to another keeper; `false` when it is not `keeper`'s.
    pub(crate) fn change_keeper(&self, keeper: u64, new: u64) -> bool {
        let record = self.lock_own(keeper);
        record.map(|mut record| record.keeper = new).is_some()
    }

    /// Takes away all attributes and goes to `state`, from which the child will be started again, in one step. `false` when the row is not that keeper's, or the
    /// child is being stopped: then nothing changes.
    pub fn clear(
        &self,
        keeper: u64,
        state: State,
        zone: &Stopping,
        guard: &Guard,
        _: &Committed,
    ) -> bool {
        let may = |record: &Record<F>| !record.is_stopping && !zone.is_set();
        self.clear_if(may, keeper, state, guard).is_ok()
    }

    /// Takes away all attributes, and the row out of use, in one step, if this is said of its state now; the child that ran till now.
    /// `children` does not count it any more: whoever finds it gone under the lock finds it not counted.
    pub(crate) fn retire(
        &self,
        is_said: impl FnOnce(State) -> bool,
        keeper: u64,
        children: &AtomicUsize,
        guard: &Guard,
    ) -> Result<Option<Pid<F>>, Gone> {
        let is_counted = |record: &Record<F>| {
            let is_said = is_said(record.state);
            children.fetch_sub(usize::from(is_said), Ordering::Relaxed);
            is_said
        };
        self.clear_if(is_counted, keeper, State::Removed, guard)
    }

    /// Replaces what the embedder knows of the child; `false` if the row is not that keeper's.
    pub fn respec(&self, keeper: u64, spec: Datum<F>, _: &Committed) -> bool {
        let before = self
            .lock_own(keeper)
            .map(|mut record| record.spec.replace(spec));
        before.is_some()
    }

    fn clear_if(
        &self,
        is_said: impl FnOnce(&Record<F>) -> bool,
        keeper: u64,
        state: State,
        guard: &Guard,
    ) -> Result<Option<Pid<F>>, Gone> {
        let record = self.lock_own(keeper);
        let mut record = record.filter(|record| is_said(record)).ok_or(Gone)?;
        record.state = state;
        let child = self.replace_pid(&mut record, None);
        // The row itself stays in memory for a while, until it is freed with others.
        let spec = (state == State::Removed)
            .then(|| record.spec.take())
            .flatten();
        let heavy = self.attributes(guard).is_some_and(|map| map.is_heavy());
        self.publish(record, None, heavy, guard);
        drop(spec);
        Ok(child)
    }

    /// The lock, when the row is that keeper's.
    fn lock_own(&self, keeper: u64) -> Option<MutexGuard<'_, Record<F>>> {
        let record = self.record.lock();
        (record.keeper == keeper && record.state != State::Removed).then_some(record)
    }

    /// Replaces the attributes, unlocks, and retires the old ones; at once, when something heavy is not among the new ones any more.
    fn publish(
        &self,
        record: MutexGuard<'_, Record<F>>,
        after: Option<Attributes<F>>,
        heavy: bool,
        guard: &Guard,
    ) {
        let after = after.map_or(ptr::null_mut(), Attributes::into_raw);
        let before = guard.swap(&self.attributes, after, Ordering::AcqRel);
        drop(record);
        if before.is_null() {
            return;
        }
        // SAFETY: `before` came from `into_raw`, was replaced and is retired by nobody else; whoever still reads it
        // entered its guard before. It is looked at before it is retired, and not dropped then.
        unsafe {
            let retired = Reading(
                ManuallyDrop::new(Attributes::<F>::from_raw(before)),
                PhantomData,
            );
            let allowance = ALLOWANCE.get() + cost(&retired);
            ALLOWANCE.set(allowance.min(MOST_IN_A_ROW));
            guard.defer_retire(before, |raw, _| {
                drop_retired(Attributes::<F>::from_raw(raw))
            });
        }
        if heavy {
            reclaim::flush(guard);
        }
    }
}

impl<F: Foreign> Drop for Row<F> {
    fn drop(&mut self) {
        let raw = *self.attributes.get_mut();
        if !raw.is_null() {
            // SAFETY: `raw` came from `into_raw`, and nobody else can reach it: the row is being dropped.
            drop_large(unsafe { Attributes::<F>::from_raw(raw) });
        }
    }
}

/// Drops a map that may go as a whole: in the background when it is large.
fn drop_large<F: Foreign>(attributes: Attributes<F>) {
    if attributes.count() > MANY {
        reclaim::later(attributes);
    }
}

/// Drops one of the many maps that may be freed at the same moment: in the background, with others, when this thread has freed enough.
fn drop_retired<F: Foreign>(attributes: Attributes<F>) {
    let cost = cost(&attributes);
    match ALLOWANCE.get().checked_sub(cost) {
        Some(rest) => {
            ALLOWANCE.set(rest);
            drop_large(attributes);
        }
        None if attributes.is_heavy() => reclaim::later(attributes),
        None => reclaim::gather(attributes, cost),
    }
}

/// What it costs to free a map, in attributes. What it shares with others counts in full.
fn cost<F>(attributes: &Attributes<F>) -> usize {
    1 + attributes.count().min(MANY)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use crossbeam_channel::bounded;

    use super::*;
    use crate::datum::Kind;
    use crate::testing::Held;
    use crate::value::Counter;

    const COMMITTED: Committed = Committed::new();
    /// Longer than anything takes that does not wait for ever.
    const LONG: Duration = Duration::from_secs(60);

    fn word<F>(word: u64) -> Datum<F> {
        Datum::word(Kind::new(0), word)
    }

    fn held(by: &Arc<()>, heavy: bool) -> Datum<Held> {
        let _by = Arc::clone(by);
        Datum::foreign(Held { _by, heavy })
    }

    fn running(spec: Option<Datum<Held>>) -> Row<Held> {
        let row = Row::vacant(word(0), 0, 0);
        let child = Child {
            state: State::Running,
            pid: Some(Pid::Local(1)),
            keeper: 1,
            spec,
        };
        assert!(row.occupy(&child, &AtomicUsize::new(0)).unwrap());
        row
    }

    fn fixed<F>(key: u64, datum: Datum<F>) -> Attribute<F> {
        Attribute {
            key: word(key),
            value: Value::Fixed(datum),
        }
    }

    #[test]
    fn a_snapshot_of_too_many_attributes_does_not_even_take_the_lock() {
        let (row, seed, guard) = (running(None), Seed::default(), reclaim::enter());
        let counter = |key| Attribute {
            key: word(key),
            value: Value::Integer(Counter::new(0).unwrap()),
        };
        assert!(row
            .set((0..100).map(counter).collect(), &seed, &guard, &COMMITTED)
            .is_ok());
        let record = row.record.lock();
        thread::scope(|scope| {
            let (sender, refused) = bounded(1);
            let row = &row;
            scope.spawn(move || sender.send(row.snapshot(99, &reclaim::enter()).is_err()));
            let refused = refused.recv_timeout(LONG);
            drop(record);
            assert_eq!(refused, Ok(true));
        });
        let (attributes, integers) = row.snapshot(100, &guard).unwrap().unwrap();
        assert_eq!((attributes.count(), integers.len()), (100, 100));
    }

    #[test]
    fn a_row_keeps_its_spec_until_it_is_removed_and_no_longer() {
        let (kept, guard) = (Arc::new(()), reclaim::enter());
        let row = running(Some(held(&kept, false)));
        for state in [State::Pending, State::Slowed, State::Restarting] {
            assert!(row.clear(1, state, &Stopping::default(), &guard, &COMMITTED));
            assert_eq!(Arc::strong_count(&kept), 2, "{state:?}");
        }
        assert!(row
            .retire(|_| true, 1, &AtomicUsize::new(1), &guard)
            .is_ok());
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    thread_local! {
        /// How many values this thread has dropped.
        static DROPPED: Cell<usize> = const { Cell::new(0) };
    }

    /// A value that is counted by the thread that drops it.
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
    fn of_many_maps_that_go_at_once_a_thread_frees_a_few_itself() {
        let seed = Seed::default();
        let retire = |attributes: usize| {
            let (row, guard) = (Row::vacant(word(0), 0, 0), reclaim::enter());
            let counted = |key| fixed(key, Datum::foreign(Counted));
            let changes = (0..attributes as u64).map(counted).collect();
            row.set_locked(row.record.lock(), changes, &seed, &guard);
            row.publish(row.record.lock(), None, false, &guard);
        };
        let dropped = |run: &dyn Fn()| {
            let before = DROPPED.get();
            run();
            DROPPED.get() - before
        };
        // Nothing is freed while somebody reads, and then all at once.
        let most = dropped(&|| {
            let reader = reclaim::enter();
            assert_eq!(dropped(&|| (0..1_000).for_each(|_| retire(MANY))), 0);
            drop(reader);
        });
        assert!(most <= MOST_IN_A_ROW, "{most}");
        // Nor when it goes on retiring.
        let most = (0..1_000).map(|_| dropped(&|| retire(MANY))).max();
        assert!(most <= Some(MOST_IN_A_ROW), "{most:?}");
    }

    /// A change to what is light waits until there is more to free, also in the company of what is heavy; a change to that does not.
    #[test]
    fn what_is_heavy_is_freed_at_once_when_it_goes_and_not_before() {
        let (light, heavy, seed) = (Arc::new(()), Arc::new(()), Seed::default());
        let goes = |change: &dyn Fn(&Row<Held>, &Guard)| {
            let (row, guard) = (running(None), reclaim::enter());
            let both = [fixed(1, held(&light, false)), fixed(2, held(&heavy, true))];
            assert!(row
                .set(both.into_iter().collect(), &seed, &guard, &COMMITTED)
                .is_ok());
            reclaim::flush(&guard);
            change(&row, &guard);
            row
        };
        let set = |key: u64, row: &Row<Held>, guard: &Guard| {
            let change = Changes::from_iter([fixed(key, word(0))]);
            assert!(row.set(change, &seed, guard, &COMMITTED).is_ok());
        };
        let replace = |key: u64, row: &Row<Held>, guard: &Guard| {
            let replaced = row.replace(
                fixed(key, word(0)),
                |_| true,
                true,
                &seed,
                guard,
                &COMMITTED,
            );
            assert!(matches!(replaced, Replaced::Done));
        };
        let delete = |key: u64, row: &Row<Held>, guard: &Guard| {
            assert!(!row.delete(word(key).borrow(), &seed, guard));
        };
        for change in [&set as &dyn Fn(u64, &Row<Held>, &Guard), &replace, &delete] {
            let before = Arc::strong_count(&light);
            let row = goes(&|row, guard| change(1, row, guard));
            assert_eq!(Arc::strong_count(&light), before + 1);
            drop(row);
            let row = goes(&|row, guard| change(2, row, guard));
            // Other tests may be reading just now.
            let begin = Instant::now();
            while Arc::strong_count(&heavy) > 1 {
                assert!(begin.elapsed() < LONG, "it waits for more");
                thread::yield_now();
            }
            drop(row);
        }
    }
}
