//! One name: its state, the processes behind it, and its attributes.
//!
//! Readers take no lock: the pid of the child is one atomic word, and the attributes are a pointer
//! to a map that never changes ([`Attributes`]). Writers take the row's lock, make a new map next
//! to the old one, publish it by replacing the pointer, and retire the old one. Nothing is freed
//! and no foreign code runs while the lock is held.
//!
//! This module has the state and the processes. Reading and changing attributes takes an
//! [`Entry`](crate::entry::Entry), which is a row under a guard.

use std::fmt;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::attributes::Attributes;
use crate::children::Children;
use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign};
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

/// The process of a child.
pub enum Pid<F> {
    /// A process that is one word, neither 0 nor `u64::MAX`.
    Local(u64),
    /// Any other process, which is a term of the embedder.
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

/// What changes under the lock of a row.
pub(crate) struct Record<F> {
    pub state: State,
    /// Whether the child is stopped for good; see [`Row::stop`].
    pub is_stopping: bool,
    /// Whether the tracker waits for the end of the child's start; see [`Row::await_start`].
    pub is_awaited: bool,
    pub keeper: u64,
    /// The pid of the child, if its word is [`REMOTE`].
    remote: Option<Datum<F>>,
    pub spec: Option<Datum<F>>,
}

impl<F> Record<F> {
    /// Whether there is a child whose attributes may be set.
    pub fn is_settable(&self) -> bool {
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
    /// The position of the row in the order of [`Zone::page`](crate::zone::Zone::page).
    pub slot: u32,
    /// Whether an indexed attribute, or whether the child runs, is just being changed: see
    /// [`Revision`](crate::index::Revision).
    pub(crate) is_revised: AtomicBool,
    pid: AtomicU64,
    pub(crate) attributes: AtomicPtr<()>,
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
            record: Mutex::new(Record {
                state: State::Vacant,
                is_stopping: false,
                is_awaited: false,
                keeper: NO_KEEPER,
                remote: None,
                spec: None,
            }),
            listing: None,
            owns: PhantomData,
        }
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

    /// Returns the child, in any state, like [`child`](Self::child). If the child is being started,
    /// the keeper that ends this start learns that the tracker waits for that. To call this again
    /// changes nothing, so it needs no commit.
    pub fn await_start(&self) -> Option<Child<F>> {
        let mut record = self.record.lock();
        record.is_awaited = true;
        self.child_in(&record)
    }

    /// Whether there is a child, in any state.
    pub fn has_child(&self) -> bool {
        !matches!(self.record.lock().state, State::Vacant | State::Removed)
    }

    /// Gives the row to a child, if it is vacant and `children` may be one more.
    ///
    /// The child is counted in `children` under the row's lock, so that no other thread sees one
    /// without the other.
    pub(crate) fn occupy(&self, child: &Child<F>, children: &Children) -> Result<Claimed, Gone> {
        let mut record = self.record.lock();
        match record.state {
            State::Removed => Err(Gone),
            State::Vacant if !children.add() => Ok(Claimed::Full),
            State::Vacant => {
                record.state = child.state;
                record.is_stopping = false;
                record.is_awaited = false;
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
        let mut record = self.lock_of(keeper)?;
        record.is_stopping = true;
        Some(record.state)
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

    /// Locks the row, if it belongs to this keeper.
    pub(crate) fn lock_of(&self, keeper: u64) -> Option<MutexGuard<'_, Record<F>>> {
        let record = self.record.lock();
        (record.keeper == keeper && record.state != State::Removed).then_some(record)
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
