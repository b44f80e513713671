//! The table of one zone: its rows by name, by keeper, and in the order in which they are listed.
//!
//! Three indexes, and who uses them:
//! - *names*, which readers search without a lock, for everything that is said of one name;
//! - *keepers*, sharded by locks, to find the row of a keeper that died without a word; only starting and ending a child touch it;
//! - *slots*: a row keeps its slot for life, so that whoever pages through the slots sees each row that lives all the while exactly once,
//!   whatever comes and goes meanwhile.
//!
//! A row leaves with its child, or with its last attribute when it is no child's, in this order: its state becomes [`State::Removed`] under its lock; then it leaves the indexes. Whoever still finds it in
//! *names* helps to take it out and looks again, so that nobody waits for anybody.

use std::hash::{BuildHasher, RandomState};
use std::ptr;
use std::sync::atomic::{fence, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use dashmap::DashMap;
use papaya::Equivalent;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::attributes::Attribute;
use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign};
use crate::names::{Found, Names};
use crate::reclaim::{self, Guard};
use crate::row::{Child, Gone, Pid, Row, State, Stopping};
use crate::value::Added;
use crate::waiters::Waiters;
use crate::Seed;

/// How many parts the slots have, and how many the keepers have. Each part grows at once, so it has to stay small where the
/// whole is large.
const SHARDS: usize = 16;
const KEEPER_SHARDS: usize = 512;

/// A slot's number: its shard in the upper bits, its place there in the lower.
const PLACE_BITS: u32 = 28;

/// How many rows, and how many slots, one page covers at the most.
const PAGE_ROWS: usize = 128;
const PAGE_SLOTS: usize = 4096;

/// The table of a zone.
pub struct Zone<F: Foreign> {
    seed: Seed,
    names: Names<Row<F>>,
    keepers: DashMap<u64, Arc<Row<F>>, Seed>,
    slots: [Mutex<Slots<F>>; SHARDS],
    children: AtomicUsize,
    /// The process that is told of births and deaths.
    listener: AtomicU64,
    stopping: Stopping,
    secret: u64,
    waiters: Waiters<F>,
}

/// No process at all.
const NOBODY: u64 = 0;

struct Slots<F: Foreign> {
    rows: Vec<Option<Arc<Row<F>>>>,
    free: Vec<u32>,
}

/// Rows in the order of their slots.
pub type Page<F> = SmallVec<[Arc<Row<F>>; PAGE_ROWS]>;

impl<F: Foreign> Default for Zone<F> {
    fn default() -> Self {
        let seed = Seed::default();
        Zone {
            names: Names::default(),
            keepers: DashMap::with_hasher_and_shard_amount(seed.clone(), KEEPER_SHARDS),
            slots: std::array::from_fn(|_| {
                Mutex::new(Slots {
                    rows: Vec::new(),
                    free: Vec::new(),
                })
            }),
            children: AtomicUsize::new(0),
            listener: AtomicU64::new(NOBODY),
            stopping: Stopping::default(),
            // The keys of this state are the system's random numbers.
            secret: RandomState::new().hash_one(()),
            waiters: Waiters::new(seed.clone()),
            seed,
        }
    }
}

impl<F: Foreign> Zone<F> {
    /// The key of the zone's hash functions.
    #[inline]
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// The row of a name.
    #[inline]
    pub fn row<'g>(&'g self, name: Borrowed<'_, F>, guard: &'g Guard) -> Option<&'g Row<F>> {
        self.named(name, guard).map(Found::get)
    }

    #[inline]
    fn named<'g>(&'g self, name: Borrowed<'_, F>, guard: &'g Guard) -> Option<Found<'g, Row<F>>> {
        let is_it = |row: &Row<F>| name.equivalent(&row.name);
        self.names.get(self.seed.hash_one(name), is_it, guard)
    }

    /// How many children there are, in any state.
    pub fn count(&self) -> usize {
        self.children.load(Ordering::Relaxed)
    }

    /// Who waits for an attribute.
    pub fn waiters(&self) -> &Waiters<F> {
        &self.waiters
    }

    /// From now on this process is told of every birth and every death. It finds in the pages that it reads next what it was not told of; what happens
    /// meanwhile it may both read and be told.
    pub fn listen(&self, listener: u64, _: &Committed) {
        self.listener.store(listener, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Ends what [`listen`](Self::listen) began, if it is still this process that listens.
    pub fn unlisten(&self, listener: u64, _: &Committed) {
        // Any other answer says that somebody else does.
        let _ =
            self.listener
                .compare_exchange(listener, NOBODY, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Who is to be told of a birth or a death that has taken place.
    #[inline]
    pub fn listener(&self) -> Option<u64> {
        fence(Ordering::SeqCst);
        Some(self.listener.load(Ordering::SeqCst)).filter(|listener| *listener != NOBODY)
    }

    /// A number that nobody can guess, another one for each zone.
    pub fn secret(&self) -> u64 {
        self.secret
    }

    /// From now on no child of the zone begins to run. Whoever reads the rows after this sees what their keepers have said before they could know.
    pub fn stop(&self, _: &Committed) {
        self.stopping.set();
    }

    /// Whether [`stop`](Self::stop) was called, for the rows.
    pub fn stopping(&self) -> &Stopping {
        &self.stopping
    }

    /// The row of this keeper's child, and the child.
    pub fn kept(&self, keeper: u64) -> Option<(Arc<Row<F>>, Child<F>)> {
        let row = self.row_of(keeper)?;
        let child = row.child_of(keeper)?;
        Some((row, child))
    }

    /// The row that was this keeper's when it was found.
    pub fn row_of(&self, keeper: u64) -> Option<Arc<Row<F>>> {
        self.keepers.get(&keeper).map(|row| Arc::clone(&row))
    }

    /// Adds a child; `false` when the name is held.
    pub fn insert(&self, name: &Datum<F>, child: Child<F>, _: &Committed) -> bool {
        let guard = reclaim::enter();
        loop {
            let row = self.row_or_vacant(name, &guard);
            // Before: as soon as it is there, somebody may remove it.
            let listed = self.keepers.insert(child.keeper, row.share());
            let occupied = row.occupy(&child, &self.children);
            if let Ok(true) = occupied {
                return true;
            }
            self.unkeep(child.keeper, &row, listed);
            match occupied {
                Err(Gone) => self.unname(&row, &guard),
                Ok(_) => return false,
            }
        }
    }

    /// Removes the child of `keeper` with its attributes, in one step; `false` when the name is not that keeper's.
    pub fn remove(&self, name: Borrowed<'_, F>, keeper: u64, guard: &Guard, _: &Committed) -> bool {
        self.remove_if(|_| true, name, keeper, guard).is_ok()
    }

    /// The same while it runs, for whoever saw that keeper; the child, who lives on.
    pub fn unregister(
        &self,
        name: Borrowed<'_, F>,
        keeper: u64,
        guard: &Guard,
        _: &Committed,
    ) -> Option<Pid<F>> {
        let is_running = |state| state == State::Running;
        self.remove_if(is_running, name, keeper, guard)
            .ok()
            .flatten()
    }

    fn remove_if(
        &self,
        is_said: impl FnOnce(State) -> bool,
        name: Borrowed<'_, F>,
        keeper: u64,
        guard: &Guard,
    ) -> Result<Option<Pid<F>>, Gone> {
        let row = self.row(name, guard).ok_or(Gone)?;
        let child = row.retire(is_said, keeper, &self.children, guard)?;
        self.unname(row, guard);
        self.unlist(row);
        self.unkeep(keeper, row, None);
        Ok(child)
    }

    /// Gives a row from one keeper to another; `false` when it is not that keeper's.
    pub fn change_keeper(&self, row: &Arc<Row<F>>, keeper: u64, new: u64, _: &Committed) -> bool {
        // Before: as soon as it is the new keeper's, somebody may remove it.
        let listed = self.keepers.insert(new, Arc::clone(row));
        let changed = row.change_keeper(keeper, new);
        match changed {
            true if keeper == new => (),
            true => self.unkeep(keeper, row, None),
            false => self.unkeep(new, row, listed),
        }
        changed
    }

    /// Takes a row out of the keepers, if it is this keeper's there, and puts back the one that was there before.
    fn unkeep(&self, keeper: u64, row: &Row<F>, before: Option<Arc<Row<F>>>) {
        let is_it = |_: &u64, listed: &Arc<Row<F>>| ptr::eq(&**listed, row);
        // The guard of the keepers is gone before the row it gives is dropped.
        drop(self.keepers.remove_if(&keeper, is_it));
        if let Some(before) = before {
            self.keepers.insert(keeper, before);
        }
    }

    /// Adds to an attribute, and where it is missing sets it as `missing` says, also when no child holds the name; the answer is then
    /// [`Added::Missing`].
    pub fn add_or_set(
        &self,
        name: &Datum<F>,
        increment: i64,
        missing: &Attribute<F>,
        guard: &Guard,
        committed: &Committed,
    ) -> Added {
        loop {
            let row = self.row_or_vacant(name, guard);
            match row.add(
                missing.key.borrow(),
                increment,
                &self.seed,
                guard,
                committed,
            ) {
                Added::Missing => match row.set_missing(missing, &self.seed, guard) {
                    Ok(true) => return Added::Missing,
                    Ok(false) => (),
                    Err(Gone) => self.unname(&row, guard),
                },
                added => return added,
            }
        }
    }

    /// Removes an attribute of a row, where there is one. A row that keeps nothing then, and is no child's, leaves the table.
    pub fn delete(&self, row: &Row<F>, key: Borrowed<'_, F>, guard: &Guard, _: &Committed) {
        if row.delete(key, &self.seed, guard) {
            self.unname(row, guard);
            self.unlist(row);
        }
    }

    /// The row of a name, a new one if there was none.
    fn row_or_vacant<'g>(&'g self, name: &Datum<F>, guard: &'g Guard) -> Found<'g, Row<F>> {
        loop {
            if let Some(row) = self.named(name.borrow(), guard) {
                return row;
            }
            let row = self.list(name.clone());
            let is_it = |other: &Row<F>| other.name == *name;
            if !self.names.insert(row.hash, Arc::clone(&row), is_it, guard) {
                // Somebody else was faster; nobody has seen this row.
                self.unlist(&row);
            }
        }
    }

    /// The rows from slot `from` on, and the slot to go on from; none when that was the end. A page may be empty.
    pub fn page(&self, from: u32) -> (Page<F>, Option<u32>) {
        let mut page = Page::new();
        let shard = from >> PLACE_BITS;
        let Some(slots) = self.slots.get(shard as usize) else {
            return (page, None);
        };
        let first = (from & ((1 << PLACE_BITS) - 1)) as usize;
        let slots = slots.lock();
        let end = slots.rows.len().min(first + PAGE_SLOTS);
        for place in first..end {
            if page.len() == PAGE_ROWS {
                return (page, Some(shard << PLACE_BITS | place as u32));
            }
            page.extend(slots.rows[place].clone());
        }
        let next = if end < slots.rows.len() {
            Some(shard << PLACE_BITS | end as u32)
        } else if shard as usize + 1 < SHARDS {
            Some((shard + 1) << PLACE_BITS)
        } else {
            None
        };
        (page, next)
    }

    /// A new vacant row in a slot of its own.
    fn list(&self, name: Datum<F>) -> Arc<Row<F>> {
        let hash = self.seed.hash_one(&name);
        let shard = shard(hash);
        let mut slots = self.slots[shard].lock();
        let place = slots.free.pop().unwrap_or(slots.rows.len() as u32);
        let slot = (shard as u32) << PLACE_BITS | place;
        let row = Arc::new(Row::vacant(name, hash, slot));
        let listed = Some(Arc::clone(&row));
        match slots.rows.get_mut(place as usize) {
            Some(free) => *free = listed,
            None => slots.rows.push(listed),
        }
        row
    }

    fn unlist(&self, row: &Row<F>) {
        let place = row.slot & ((1 << PLACE_BITS) - 1);
        let mut slots = self.slots[(row.slot >> PLACE_BITS) as usize].lock();
        let listed = slots.rows[place as usize].take();
        slots.free.push(place);
        drop(slots);
        drop(listed);
    }

    /// Takes a removed row out of the names, if it is still there.
    fn unname(&self, row: &Row<F>, guard: &Guard) {
        self.names.remove(row.hash, row, guard);
    }
}

#[inline]
fn shard(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}
