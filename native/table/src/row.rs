//! One name: its state, the processes behind it, and its attributes.
//!
//! Readers take no lock: the pid of the child is one atomic word, and the attributes are a pointer
//! to a map ([`Attributes`]) whose values are atomic words. Writers take the lock of the
//! attributes, and replace a value, or make a new map next to the old one and publish it by
//! replacing the pointer. They retire what they replace. No value is freed and no foreign code runs
//! while the lock is held.
//!
//! The child has a lock of its own, so that reading the child does not wait for writers of
//! attributes. Whether attributes may be set depends on the state of the child, which therefore
//! changes under both locks.
//!
//! This module has the state and the processes. Reading and changing attributes takes an
//! [`Entry`](crate::entry::Entry), which is a row under a guard.

use std::fmt;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::attributes::Attributes;
use crate::children::Children;
use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign, View};
use crate::groups::Listing;
use crate::hashing::Seed;
use crate::names::Named;
use crate::retirement;
use crate::waiters::Sought;

/// The word of the pid of a row without a running child. No process has it.
const NO_CHILD: u64 = 0;

/// The word of the pid of a child that is not a word: its pid is in the record. No process has it.
const REMOTE: u64 = u64::MAX;

/// The keeper of a row that has none. No process has it.
const NO_KEEPER: u64 = 0;

/// The state of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// No child: the row only has attributes.
    Vacant,
    /// The child is being started.
    Launching,
    /// The child runs.
    Running,
    /// The child is dead, and its cleanup is in progress.
    Terminating,
    /// Cleaned up. The child will be started again, because its last start failed.
    Pending,
    /// Cleaned up. The child will be started again, later than if it had lived longer.
    Slowed,
    /// The child is being started again.
    Restarting,
    /// The row is no longer in its table.
    Removed,
}

/// The states, each at its number.
const STATES: [State; 8] = [
    State::Vacant,
    State::Launching,
    State::Running,
    State::Terminating,
    State::Pending,
    State::Slowed,
    State::Restarting,
    State::Removed,
];

/// The process of a child.
pub enum Pid<F> {
    /// A process that is one word, neither 0 nor `u64::MAX`.
    Local(u64),
    /// Any other process, which is a term of the embedder. Few are, hence the box.
    Remote(Box<Datum<F>>),
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

/// The child of a row at one moment.
pub struct Child<F> {
    /// The state of the row.
    pub state: State,
    /// The process of the child, if it runs.
    pub pid: Option<Pid<F>>,
    /// The process beside the child.
    pub keeper: u64,
    /// What the embedder stores about the child.
    pub spec: Option<Datum<F>>,
}

/// The row is not what the caller found: it has left the table, or has another keeper.
#[derive(Debug)]
pub struct Gone;

/// The result of claiming a name for a child.
#[derive(Debug, PartialEq)]
pub enum Claimed {
    /// The child has the name.
    Done,
    /// Another child holds the name.
    Held,
    /// The zone has as many children as it may have.
    Full,
    /// The zone is stopping.
    Stopping,
    /// The child was to have the name as at its home, but the zone is drained, or another member
    /// claims the name.
    NotHome,
}

/// Who decides that a child gets a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// A caller on this node.
    Local,
    /// The members of a zone on several nodes: this one is the home of the name.
    Home,
}

/// What a row had when it was cleared.
pub struct Cleared<F> {
    /// The pid of the child that was running.
    pub child: Option<Pid<F>>,
    /// Whether the tracker waits for the end of the child's start.
    pub is_awaited: bool,
}

/// Why a row refuses a keeper.
#[derive(Debug, PartialEq)]
pub enum Refused {
    /// The row does not belong to that keeper.
    Gone,
    /// The child is being stopped.
    Stopping,
    /// The whole zone is being stopped.
    ZoneStopping,
}

/// What all rows of a zone share.
#[derive(Default)]
pub(crate) struct Shared {
    /// The key of the hash functions.
    pub seed: Seed,
    pub stopping: Stopping,
    /// Whether the owner of the zone has stopped it.
    pub was_stopped: AtomicBool,
}

impl Shared {
    /// Returns what a waiter for an attribute of the name with this hash seeks.
    #[inline]
    pub fn attribute<F: Foreign>(&self, name: u64, key: Borrowed<'_, F>) -> Sought {
        Sought(self.seed.hash_one((name, key)))
    }
}

/// Whether a zone is being stopped.
///
/// A row reads this under its lock, when its keeper changes its state. A process that stops the
/// zone sets it first, and then reads the rows under their locks. So either the keeper sees that
/// the zone is stopping, or the reader of the row sees the state that the keeper has set.
#[derive(Default)]
pub(crate) struct Stopping(AtomicBool);

impl Stopping {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What changes under the lock of the child.
pub(crate) struct Record<F> {
    pub keeper: u64,
    /// The pid of the child, if its word is [`REMOTE`].
    remote: Option<Box<Datum<F>>>,
    pub spec: Option<Datum<F>>,
}

/// What changes under the lock of the attributes, beside the map and the state of the row.
pub(crate) struct Writing {
    /// Incremented when the map of attributes is shared, see [`attributes`](crate::attributes).
    pub generation: u32,
}

impl Writing {
    /// Shares the map of attributes: nothing in it changes from here on.
    pub fn share_attributes(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

/// One name of a zone.
pub struct Row<F: Foreign> {
    /// The name.
    pub name: Datum<F>,
    pub(crate) hash: u64,
    /// The position of the row in the order of [`Zone::page`](crate::zone::Zone::page).
    pub slot: u32,
    /// Whether an indexed attribute, or whether the child runs, is just being changed: see
    /// [`Revision`](crate::index::Revision).
    pub(crate) is_revised: AtomicBool,
    pid: AtomicU64,
    pub(crate) attributes: AtomicPtr<()>,
    /// A number of [`STATES`]. It changes under the lock of the attributes, and under that of the
    /// child as well unless a row ends that has none.
    state: AtomicU8,
    /// Whether the child is stopped for good; see [`Row::stop`]. It is read and changed under the
    /// lock of the child, but is beside the state, where it takes no memory.
    pub(crate) is_stopping: AtomicBool,
    /// Whether the tracker waits for the end of the child's start; see [`Row::await_start`]. It is
    /// used like [`is_stopping`](Self::is_stopping).
    pub(crate) is_awaited: AtomicBool,
    /// The lock of the attributes. Taken after that of the child.
    pub(crate) writing: Mutex<Writing>,
    /// The lock of the child.
    pub(crate) record: Mutex<Record<F>>,
    /// The groups of the row, if its zone has indexes.
    pub(crate) listing: Option<Box<Listing<F, Row<F>>>>,
    owns: PhantomData<Attributes<F>>,
}

impl<F: Foreign> Row<F> {
    /// Returns a row without a child.
    pub(crate) fn vacant(name: Datum<F>, hash: u64, slot: u32) -> Self {
        Row {
            name,
            hash,
            slot,
            is_revised: AtomicBool::new(false),
            pid: AtomicU64::new(NO_CHILD),
            attributes: AtomicPtr::new(ptr::null_mut()),
            state: AtomicU8::new(State::Vacant as u8),
            writing: Mutex::new(Writing { generation: 0 }),
            is_stopping: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            record: Mutex::new(Record {
                keeper: NO_KEEPER,
                remote: None,
                spec: None,
            }),
            listing: None,
            owns: PhantomData,
        }
    }

    /// Returns the state of the row. It does not change while the lock of the attributes is held,
    /// nor while that of the child is, unless there is no child.
    pub(crate) fn state(&self) -> State {
        STATES[usize::from(self.state.load(Ordering::Acquire))]
    }

    pub(crate) fn set_state(&self, state: State, _: &mut MutexGuard<'_, Writing>) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Whether there is a child whose attributes may be set.
    pub(crate) fn is_settable(&self) -> bool {
        matches!(
            self.state(),
            State::Launching | State::Restarting | State::Running
        )
    }

    /// Reads the words of a row that pages need, and returns something that depends on all of them.
    pub(crate) fn touch(&self) -> u64 {
        let attributes = self.attributes.load(Ordering::Relaxed);
        let is_word = matches!(self.name.view(), View::Word(..));
        self.pid.load(Ordering::Relaxed) ^ self.hash ^ attributes.addr() as u64 ^ u64::from(is_word)
    }

    /// Returns the pid of the running child.
    #[inline]
    pub fn pid(&self) -> Option<Pid<F>> {
        match self.pid.load(Ordering::Acquire) {
            NO_CHILD => None,
            REMOTE => self.pid_in(&self.record.lock()),
            word => Some(Pid::Local(word)),
        }
    }

    /// Whether the child runs.
    pub fn is_running(&self) -> bool {
        self.pid.load(Ordering::Acquire) != NO_CHILD
    }

    /// Returns the pid of the running child if it is one word. Takes no lock.
    pub fn local_pid(&self) -> Option<u64> {
        let word = self.pid.load(Ordering::Acquire);
        (word != NO_CHILD && word != REMOTE).then_some(word)
    }

    fn pid_in(&self, record: &Record<F>) -> Option<Pid<F>> {
        match self.pid.load(Ordering::Relaxed) {
            NO_CHILD => None,
            REMOTE => record.remote.clone().map(Pid::Remote),
            word => Some(Pid::Local(word)),
        }
    }

    /// Replaces the pid of the child. Returns that of the child that was running.
    pub(crate) fn replace_pid(
        &self,
        record: &mut Record<F>,
        pid: Option<Pid<F>>,
    ) -> Option<Pid<F>> {
        let (word, remote) = match pid {
            None => (NO_CHILD, None),
            Some(Pid::Local(word)) => (word, None),
            Some(Pid::Remote(datum)) => (REMOTE, Some(datum)),
        };
        let remote = mem::replace(&mut record.remote, remote);
        match self.pid.swap(word, Ordering::AcqRel) {
            NO_CHILD => None,
            REMOTE => remote.map(Pid::Remote),
            word => Some(Pid::Local(word)),
        }
    }

    /// Returns the child, in any state.
    pub fn child(&self) -> Option<Child<F>> {
        self.child_in(&self.record.lock())
    }

    /// Returns the child, in any state, if the row belongs to this keeper.
    pub(crate) fn child_of(&self, keeper: u64) -> Option<Child<F>> {
        self.child_in(&*self.lock_of(keeper)?)
    }

    fn child_in(&self, record: &Record<F>) -> Option<Child<F>> {
        match self.state() {
            State::Vacant | State::Removed => None,
            state => Some(Child {
                state,
                pid: self.pid_in(record),
                keeper: record.keeper,
                spec: record.spec.clone(),
            }),
        }
    }

    /// Returns the child, in any state, like [`child`](Self::child). If the child is being started,
    /// the keeper that ends this start learns that the tracker waits for that. To call this again
    /// changes nothing, so it needs no commit.
    pub fn await_start(&self) -> Option<Child<F>> {
        let record = self.record.lock();
        self.is_awaited.store(true, Ordering::Relaxed);
        self.child_in(&record)
    }

    /// Whether there is a child, in any state.
    pub fn has_child(&self) -> bool {
        let _record = self.record.lock();
        !matches!(self.state(), State::Vacant | State::Removed)
    }

    /// Gives the row to a child, if it is vacant, `is_home` agrees, and `children` may be one more.
    ///
    /// The child is counted in `children` under the row's lock, so that no other thread sees one
    /// without the other. `is_home` is asked under it as well, and sees what was done before the
    /// name became free.
    pub(crate) fn occupy(
        &self,
        child: &Child<F>,
        children: &Children,
        is_home: impl FnOnce() -> bool,
    ) -> Result<Claimed, Gone> {
        let mut record = self.record.lock();
        let mut writing = self.writing.lock();
        match self.state() {
            State::Removed => Err(Gone),
            State::Vacant if !is_home() => Ok(Claimed::NotHome),
            State::Vacant if !children.add() => Ok(Claimed::Full),
            State::Vacant => {
                self.set_state(child.state, &mut writing);
                self.is_stopping.store(false, Ordering::Relaxed);
                self.is_awaited.store(false, Ordering::Relaxed);
                record.keeper = child.keeper;
                record.spec = child.spec.clone();
                self.replace_pid(&mut record, child.pid.clone());
                Ok(Claimed::Done)
            }
            _ => Ok(Claimed::Held),
        }
    }

    /// Stops the child of `keeper` for good: from here on it does not begin to run, and is not
    /// started again. Returns its state, or `None` if the row does not belong to that keeper.
    pub fn stop(&self, keeper: u64, _: &Committed) -> Option<State> {
        let _record = self.lock_of(keeper)?;
        self.is_stopping.store(true, Ordering::Relaxed);
        Some(self.state())
    }

    /// Gives the row to another keeper. Returns `false` if it does not belong to `keeper`.
    pub(crate) fn change_keeper(&self, keeper: u64, new: u64) -> bool {
        let record = self.lock_of(keeper);
        record.map(|mut record| record.keeper = new).is_some()
    }

    /// Replaces the spec of the child. Returns `false` if the row does not belong to `keeper`.
    pub fn respec(&self, keeper: u64, spec: Datum<F>, _: &Committed) -> bool {
        // The old spec is dropped after the lock was released.
        let old = self
            .lock_of(keeper)
            .map(|mut record| record.spec.replace(spec));
        old.is_some()
    }

    /// Locks the child, if it belongs to this keeper.
    pub(crate) fn lock_of(&self, keeper: u64) -> Option<MutexGuard<'_, Record<F>>> {
        let record = self.record.lock();
        (record.keeper == keeper && self.state() != State::Removed).then_some(record)
    }
}

impl<F: Foreign> Named for Row<F> {}

impl<F: Foreign> Drop for Row<F> {
    fn drop(&mut self) {
        let raw = *self.attributes.get_mut();
        if !raw.is_null() {
            // SAFETY: `raw` came from `into_raw`, and nobody else can reach it: the row is being
            // dropped.
            retirement::free(unsafe { Attributes::<F>::from_raw(raw) });
        }
    }
}
