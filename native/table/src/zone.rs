//! The table of a zone: its rows by name, by keeper, and in the order in which they are listed.
//!
//! There are three indexes:
//!
//! - *names*, which readers search without a lock, for all operations on one name;
//! - *keepers*, sharded by locks, to find the row of a keeper that died; only the start and the end
//!   of a child change it;
//! - *slots*: a row keeps its slot until it is removed, so that pages see each row exactly once
//!   that stays in the table meanwhile.
//!
//! A row is removed with its child, or with its last attribute if it has no child: first its state
//! becomes [`State::Removed`] under its lock, then it is removed from the indexes. A thread that
//! still finds it in *names* removes it there and looks again, so that no thread waits for another.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use papaya::Equivalent;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::attributes::Attribute;
use crate::children::Children;
use crate::chunks::Chunks;
use crate::claims::Directory;
use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign};
use crate::entry::Entry;
use crate::groups::Listing;
use crate::index::Indexes;
use crate::names::{Found, Names};
use crate::reclaim::{self, Guard};
use crate::row::{Child, Claimed, Cleared, Gone, Pid, Row, Shared, Start, State};
use crate::sharded_map::ShardedMap;
use crate::specs::Specs;
use crate::value::Added;
use crate::waiters::{Sought, Waiters};
use crate::zone_processes::ZoneProcesses;

/// Shards of the slots.
const SLOT_SHARDS: usize = 16;

/// Bits of a slot's number that are its index in its shard. The shard is in the bits above.
const INDEX_BITS: u32 = 28;

/// Rows of a page at most, and slots that it covers at most.
const PAGE_ROWS: usize = 32;
const PAGE_SLOTS: usize = 4096;

/// The subscriber of a zone that has none. No process has this word.
const NO_SUBSCRIBER: u64 = 0;

/// The table of a zone.
pub struct Zone<F: Foreign> {
    shared: Shared,
    names: Names<Row<F>>,
    keepers: ShardedMap<u64, Arc<Row<F>>>,
    slots: [Mutex<Slots<F>>; SLOT_SHARDS],
    children: Children,
    specs: Specs<F>,
    processes: ZoneProcesses,
    /// The process that is told of births and deaths.
    subscriber: AtomicU64,
    secret: u64,
    /// Those who wait for an attribute.
    waiters: Waiters,
    /// Those who wait for a running child.
    child_waiters: Waiters,
    /// What the owner of the zone shares with those who start children.
    context: OnceLock<Datum<F>>,
    /// Set before the first row, if at all.
    indexes: OnceLock<Indexes<F>>,
    /// Set if the zone is one of several nodes.
    directory: OnceLock<Box<Directory<F>>>,
}

/// A shard of the slots.
struct Slots<F: Foreign> {
    rows: Chunks<Option<Arc<Row<F>>>>,
    /// Indexes of the slots without a row.
    free: Chunks<u32>,
}

/// Rows in the order of their slots.
pub type Page<F> = SmallVec<[Arc<Row<F>>; PAGE_ROWS]>;

impl<F: Foreign> Default for Zone<F> {
    fn default() -> Self {
        let shared = Shared::default();
        let seed = &shared.seed;
        Zone {
            names: Names::default(),
            keepers: ShardedMap::new(seed.clone()),
            slots: std::array::from_fn(|_| {
                Mutex::new(Slots {
                    rows: Chunks::default(),
                    free: Chunks::default(),
                })
            }),
            children: Children::default(),
            specs: Specs::default(),
            processes: ZoneProcesses::default(),
            subscriber: AtomicU64::new(NO_SUBSCRIBER),
            // The keys of this state are random numbers of the system.
            secret: RandomState::new().hash_one(()),
            waiters: Waiters::new(seed.clone()),
            child_waiters: Waiters::new(seed.clone()),
            context: OnceLock::new(),
            indexes: OnceLock::new(),
            directory: OnceLock::new(),
            shared,
        }
    }
}

impl<F: Foreign> Zone<F> {
    /// Returns the entry of a name.
    #[inline]
    pub fn entry<'g>(&'g self, name: Borrowed<'_, F>, guard: &'g Guard) -> Option<Entry<'g, F>> {
        let found = self.find(name, guard)?;
        Some(Entry::new(found.get(), &self.shared, guard))
    }

    /// Returns the entry of a row of this zone.
    pub fn entry_of<'g>(&'g self, row: &'g Row<F>, guard: &'g Guard) -> Entry<'g, F> {
        Entry::new(row, &self.shared, guard)
    }

    #[inline]
    fn find<'g>(&'g self, name: Borrowed<'_, F>, guard: &'g Guard) -> Option<Found<'g, Row<F>>> {
        let hash = self.shared.seed.hash_one(name);
        self.names.get(hash, |row| has_name(row, &name), guard)
    }

    /// Returns the number of children, in any state.
    pub fn count(&self) -> usize {
        self.children.count()
    }

    /// Sets the most children that the zone may have. A child that is started again counts as the
    /// same one.
    pub fn limit_children(&self, most: usize, _: &Committed) {
        self.children.limit(most);
    }

    /// Returns the processes of the zone itself.
    pub fn processes(&self) -> &ZoneProcesses {
        &self.processes
    }

    /// Returns the waiters for attributes.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Returns what a waiter for the running child of a name seeks.
    pub fn child_of(&self, name: Borrowed<'_, F>) -> Sought {
        Sought(self.shared.seed.hash_one(name))
    }

    /// Returns what a waiter for an attribute seeks.
    pub fn attribute_of(&self, name: Borrowed<'_, F>, key: Borrowed<'_, F>) -> Sought {
        self.shared.attribute(self.shared.seed.hash_one(name), key)
    }

    /// Returns the waiters for running children.
    pub fn child_waiters(&self) -> &Waiters {
        &self.child_waiters
    }

    /// Makes a process the subscriber, which is told of every birth and every death from here on.
    ///
    /// What it was not told of, it finds in the pages that it reads next. What happens meanwhile,
    /// it may both read and be told.
    pub fn subscribe(&self, subscriber: u64, _: &Committed) {
        self.subscriber.store(subscriber, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Ends the subscription of a process, if it is still the subscriber.
    pub fn unsubscribe(&self, subscriber: u64, _: &Committed) {
        // An error means that another process is.
        let _ = self.subscriber.compare_exchange(
            subscriber,
            NO_SUBSCRIBER,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }

    /// Returns the process to tell of a birth or a death that has taken place.
    #[inline]
    pub fn subscriber(&self) -> Option<u64> {
        fence(Ordering::SeqCst);
        let subscriber = self.subscriber.load(Ordering::SeqCst);
        (subscriber != NO_SUBSCRIBER).then_some(subscriber)
    }

    /// Returns a number that nobody can guess, a different one for each zone.
    pub fn secret(&self) -> u64 {
        self.secret
    }

    /// Stops the zone: from here on no child is launched, and none begins to run.
    ///
    /// A thread that reads the rows after this sees every state that a keeper set before it could
    /// know, and every child that was launched.
    pub fn stop(&self, _: &Committed) {
        self.shared.stopping.set();
        fence(Ordering::SeqCst);
    }

    /// Records that the owner of the zone stops it.
    pub fn stopped_by_owner(&self, _: &Committed) {
        self.shared.was_stopped.store(true, Ordering::Release);
    }

    /// Whether the owner of the zone stops it, or has stopped it.
    pub fn was_stopped_by_owner(&self) -> bool {
        self.shared.was_stopped.load(Ordering::Acquire)
    }

    /// Sets what the owner shares with those who start children. Does nothing if it is set.
    pub fn share(&self, context: Datum<F>, _: &Committed) {
        // An error means that it is set.
        let _ = self.context.set(context);
    }

    /// Returns what the owner shares with those who start children.
    pub fn context(&self) -> Option<&Datum<F>> {
        self.context.get()
    }

    /// Sets the indexes. Must be called before the first row is added, and does nothing if there
    /// are indexes.
    pub fn set_indexes(&self, indexes: Indexes<F>, _: &Committed) {
        // An error means that there are.
        let _ = self.indexes.set(indexes);
    }

    /// Returns the indexes, if the zone has any.
    #[inline]
    pub fn indexes(&self) -> Option<&Indexes<F>> {
        self.indexes.get()
    }

    /// Returns the directory of a zone on several nodes.
    #[inline]
    pub fn directory(&self) -> Option<&Directory<F>> {
        self.directory.get().map(|directory| &**directory)
    }

    /// Returns the directory, which is made if there is none.
    pub fn open_directory(&self, _: &Committed) -> &Directory<F> {
        self.directory.get_or_init(Box::default)
    }

    /// Whether the zone is being stopped, or has been.
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.is_set()
    }

    /// Adds a child that is being started, unless a child holds the name, or the zone is full or
    /// stopping, or is not the home of the name in the case of a start at home.
    ///
    /// A thread that stops the zone finds the child in the pages that it reads then, or this
    /// finds the zone stopping and removes the child again. Likewise a thread that drains the zone
    /// counts the child, or this finds the zone drained.
    pub fn launch(
        &self,
        name: &Datum<F>,
        child: Child<F>,
        start: Start,
        committed: &Committed,
    ) -> Claimed {
        let keeper = child.keeper;
        if let Some(refused) = self.refuses(start) {
            return refused;
        }
        match self.insert_if_free(name, child, start, true, committed) {
            Claimed::Done => (),
            refused => return refused,
        }
        fence(Ordering::SeqCst);
        if let Some(refused) = self.refuses(start) {
            self.remove(name.borrow(), keeper, &reclaim::enter(), committed);
            return refused;
        }
        Claimed::Done
    }

    fn refuses(&self, start: Start) -> Option<Claimed> {
        if self.is_stopping() {
            return Some(Claimed::Stopping);
        }
        (start == Start::Home && self.is_drained()).then_some(Claimed::NotHome)
    }

    fn is_drained(&self) -> bool {
        self.directory().is_some_and(Directory::is_drained)
    }

    /// Whether another member of a zone on several nodes claims a name.
    fn is_elsewhere(&self, name: Borrowed<'_, F>, guard: &Guard) -> bool {
        self.directory()
            .is_some_and(|directory| directory.best(name, guard).is_some())
    }

    /// Returns the row of a keeper, and its child.
    pub fn kept(&self, keeper: u64) -> Option<(Arc<Row<F>>, Child<F>)> {
        let row = self.row_of(keeper)?;
        let child = row.child_of(keeper)?;
        Some((row, child))
    }

    /// Returns the row of a keeper. It may have another one by now.
    pub fn row_of(&self, keeper: u64) -> Option<Arc<Row<F>>> {
        let keepers = self.keepers.lock_if_made(&keeper)?;
        keepers.get(&keeper).map(Arc::clone)
    }

    /// Adds a child, unless a child holds the name or the zone is full.
    pub fn insert(&self, name: &Datum<F>, child: Child<F>, committed: &Committed) -> Claimed {
        self.insert_if_free(name, child, Start::Local, true, committed)
    }

    /// Like [`insert`](Self::insert), for a child that runs and that this member of a zone on
    /// several nodes adds as the home of the name.
    pub fn insert_at_home(
        &self,
        name: &Datum<F>,
        child: Child<F>,
        committed: &Committed,
    ) -> Claimed {
        self.add(name, child, Start::Home, true, committed)
    }

    /// Like [`insert`](Self::insert), or for `Start::Home` like
    /// [`insert_at_home`](Self::insert_at_home), for a keeper of many rows.
    /// [`row_of`](Self::row_of) does not find them.
    pub fn register(
        &self,
        name: &Datum<F>,
        child: Child<F>,
        start: Start,
        committed: &Committed,
    ) -> Claimed {
        self.add(name, child, start, false, committed)
    }

    fn add(
        &self,
        name: &Datum<F>,
        child: Child<F>,
        start: Start,
        is_listed: bool,
        committed: &Committed,
    ) -> Claimed {
        let directory = self.directory().filter(|_| start == Start::Home);
        let addition = directory.map(Directory::begin_addition);
        match addition {
            Some(None) => Claimed::NotHome,
            _ => self.insert_if_free(name, child, start, is_listed, committed),
        }
    }

    /// `is_listed`: the row is the only one of its keeper.
    ///
    /// While another member makes a claim of a name by way of its home, the home holds the name
    /// until it knows the claim. So a start at home that finds the name free finds the claim.
    fn insert_if_free(
        &self,
        name: &Datum<F>,
        mut child: Child<F>,
        start: Start,
        is_listed: bool,
        _: &Committed,
    ) -> Claimed {
        let guard = reclaim::enter();
        let mut row = self.row_or_vacant(name, &guard);
        child.spec = child.spec.map(|spec| self.specs.share(&spec, row.hash));
        loop {
            // Listed first: as soon as the row has the child, another thread may remove it.
            let listed = match is_listed {
                true => self.list_keeper(child.keeper, row.share()),
                false => None,
            };
            let is_home = || start == Start::Local || !self.is_elsewhere(name.borrow(), &guard);
            let occupied = row.occupy(&child, &self.children, is_home);
            if let Ok(Claimed::Done) = occupied {
                return Claimed::Done;
            }
            if is_listed {
                self.remove_keeper(child.keeper, &row, listed);
            }
            match occupied {
                Err(Gone) => {
                    self.remove_name(&row, &guard);
                    row = self.row_or_vacant(name, &guard);
                }
                Ok(refused) => {
                    self.remove_unused(Entry::new(row.get(), &self.shared, &guard));
                    return refused;
                }
            }
        }
    }

    /// Removes a row that was made for a child that the zone refused, if nothing else has used it
    /// meanwhile.
    fn remove_unused(&self, entry: Entry<'_, F>) {
        if entry.discard() {
            self.remove_name(&entry, entry.guard());
            self.free_slot(&entry);
        }
    }

    /// Removes the child of `keeper` with its attributes, in one step. Returns `false` if the name
    /// does not belong to that keeper.
    pub fn remove(&self, name: Borrowed<'_, F>, keeper: u64, guard: &Guard, _: &Committed) -> bool {
        self.remove_if(|_| true, name, keeper, guard).is_ok()
    }

    /// Like [`remove`](Self::remove), for a start that failed. Returns whether the tracker waits
    /// for its end.
    pub fn fail(
        &self,
        name: Borrowed<'_, F>,
        keeper: u64,
        guard: &Guard,
        _: &Committed,
    ) -> Result<bool, Gone> {
        let cleared = self.remove_if(|_| true, name, keeper, guard)?;
        Ok(cleared.is_awaited)
    }

    fn remove_if(
        &self,
        condition: impl FnOnce(State) -> bool,
        name: Borrowed<'_, F>,
        keeper: u64,
        guard: &Guard,
    ) -> Result<Cleared<F>, Gone> {
        let entry = self.entry(name, guard).ok_or(Gone)?;
        let cleared = entry.remove(condition, keeper, &self.children)?;
        self.remove_name(&entry, guard);
        self.free_slot(&entry);
        self.remove_keeper(keeper, &entry, None);
        Ok(cleared)
    }

    /// Gives a row to another keeper. Returns `false` if it does not belong to `keeper`.
    pub fn change_keeper(&self, row: &Arc<Row<F>>, keeper: u64, new: u64, _: &Committed) -> bool {
        // Listed first: as soon as the row has the new keeper, another thread may remove it.
        let listed = self.list_keeper(new, Arc::clone(row));
        let changed = row.change_keeper(keeper, new);
        match changed {
            true if keeper == new => (),
            true => self.remove_keeper(keeper, row, None),
            false => self.remove_keeper(new, row, listed),
        }
        changed
    }

    /// Gives the row of a name to another keeper. `is_listed`: it is to be the only one of that
    /// keeper. Returns `false` if the row does not belong to `keeper`, which must be one of many
    /// rows.
    pub fn give(
        &self,
        name: Borrowed<'_, F>,
        keeper: u64,
        new: u64,
        is_listed: bool,
        guard: &Guard,
        committed: &Committed,
    ) -> bool {
        let Some(row) = self.find(name, guard) else {
            return false;
        };
        match is_listed {
            true => self.change_keeper(&row.share(), keeper, new, committed),
            false => row.get().change_keeper(keeper, new),
        }
    }

    /// Gives the name of a running child to another process, which has another keeper. Attributes
    /// and spec stay. Returns the pid of the child that had the name, which lives on.
    ///
    /// Returns `None`, and changes nothing, if the name does not belong to `keeper`, or its child
    /// does not run or is being stopped. A keeper must not get a name back: this removes it from
    /// the keepers a moment after the row has the new one.
    pub fn hand_over(
        &self,
        name: Borrowed<'_, F>,
        keeper: u64,
        new: u64,
        pid: Pid<F>,
        guard: &Guard,
        _: &Committed,
    ) -> Option<Pid<F>> {
        let row = self.find(name, guard)?;
        let entry = Entry::new(row.get(), &self.shared, guard);
        // Listed first, as in `change_keeper`.
        let listed = self.list_keeper(new, row.share());
        let before = entry.hand_over(keeper, new, pid);
        match before {
            Some(_) if keeper == new => (),
            Some(_) => self.remove_keeper(keeper, &entry, None),
            None => self.remove_keeper(new, &entry, listed),
        }
        before
    }

    /// Lists a row for a keeper. Returns the row that was listed for it before.
    fn list_keeper(&self, keeper: u64, row: Arc<Row<F>>) -> Option<Arc<Row<F>>> {
        self.keepers.lock(&keeper).insert(keeper, row)
    }

    /// Removes a row from the keepers, if it is listed for this one, and puts back the row that was
    /// listed before.
    fn remove_keeper(&self, keeper: u64, row: &Row<F>, before: Option<Arc<Row<F>>>) {
        let mut keepers = self.keepers.lock(&keeper);
        let is_this = |listed: &Arc<Row<F>>| ptr::eq(&**listed, row);
        let removed = match keepers.get(&keeper).is_some_and(is_this) {
            true => keepers.remove(&keeper),
            false => None,
        };
        // Unlocks the shard before rows are dropped.
        drop(keepers);
        drop(removed);
        if let Some(before) = before {
            self.list_keeper(keeper, before);
        }
    }

    /// Adds to an attribute, or adds the attribute `missing` if there is none of its key, also if
    /// no child holds the name. Returns [`Added::Missing`] if it was added.
    pub fn add_or_set(
        &self,
        name: &Datum<F>,
        increment: i64,
        missing: &Attribute<F>,
        guard: &Guard,
        committed: &Committed,
    ) -> Added {
        loop {
            let entry = self.entry_or_vacant(name, guard, committed);
            if let Ok(added) = self.try_add_or_set(entry, increment, missing, committed) {
                return added;
            }
        }
    }

    /// Returns the entry of a name, of a vacant row if there was none.
    pub fn entry_or_vacant<'g>(
        &'g self,
        name: &Datum<F>,
        guard: &'g Guard,
        _: &Committed,
    ) -> Entry<'g, F> {
        Entry::new(self.row_or_vacant(name, guard).get(), &self.shared, guard)
    }

    /// Like [`add_or_set`](Self::add_or_set), for a row. Fails if the row has left the table: then
    /// its name has to be looked up again.
    pub fn try_add_or_set(
        &self,
        entry: Entry<'_, F>,
        increment: i64,
        missing: &Attribute<F>,
        committed: &Committed,
    ) -> Result<Added, Gone> {
        loop {
            match entry.add(missing.key.borrow(), increment, committed) {
                Added::Missing => match entry.set_missing(missing) {
                    Ok(true) => return Ok(Added::Missing),
                    Ok(false) => (),
                    Err(Gone) => {
                        self.remove_name(&entry, entry.guard());
                        return Err(Gone);
                    }
                },
                added => return Ok(added),
            }
        }
    }

    /// Removes an attribute, if there is one; and the row, if it is then without attributes and
    /// without a child.
    pub fn delete(&self, entry: Entry<'_, F>, key: Borrowed<'_, F>, _: &Committed) {
        if entry.delete(key) {
            self.remove_name(&entry, entry.guard());
            self.free_slot(&entry);
        }
    }

    /// Returns the row of a name, a new one if there was none.
    fn row_or_vacant<'g>(&'g self, name: &Datum<F>, guard: &'g Guard) -> Found<'g, Row<F>> {
        loop {
            if let Some(row) = self.find(name.borrow(), guard) {
                return row;
            }
            let row = self.take_slot(name.clone());
            let has_name = |other: &Row<F>| other.name == *name;
            if !self
                .names
                .insert(row.hash, Arc::clone(&row), has_name, guard)
            {
                // Another thread was faster, and no thread has seen this row.
                self.free_slot(&row);
            }
        }
    }

    /// Returns the rows from slot `from` on, and the slot to go on from, or `None` at the end. A
    /// page may be empty.
    pub fn page(&self, from: u32) -> (Page<F>, Option<u32>) {
        let mut page = Page::new();
        let shard = from >> INDEX_BITS;
        let Some(slots) = self.slots.get(shard as usize) else {
            return (page, None);
        };
        let first = (from & ((1 << INDEX_BITS) - 1)) as usize;
        let slots = slots.lock();
        let end = slots.rows.len().min(first + PAGE_SLOTS);
        load_together(slots.rows.iter_from(first).take(PAGE_ROWS));
        for (index, row) in (first..end).zip(slots.rows.iter_from(first)) {
            if page.len() == PAGE_ROWS {
                return (page, Some((shard << INDEX_BITS) | index as u32));
            }
            page.extend(row.clone());
        }
        let next = if end < slots.rows.len() {
            Some((shard << INDEX_BITS) | end as u32)
        } else if shard as usize + 1 < SLOT_SHARDS {
            Some((shard + 1) << INDEX_BITS)
        } else {
            None
        };
        (page, next)
    }

    /// Returns a new vacant row, in a slot of its own.
    fn take_slot(&self, name: Datum<F>) -> Arc<Row<F>> {
        let hash = self.shared.seed.hash_one(&name);
        let shard = slot_shard(hash);
        let mut slots = self.slots[shard].lock();
        let index = slots.free.pop().unwrap_or(slots.rows.len() as u32);
        let slot = ((shard as u32) << INDEX_BITS) | index;
        let mut row = Row::vacant(name, hash, slot);
        let row = match self.indexes() {
            None => Arc::new(row),
            Some(indexes) => Arc::new_cyclic(|this| {
                row.listing = Some(Box::new(Listing::new(this.clone(), indexes.count())));
                row
            }),
        };
        let listed = Some(Arc::clone(&row));
        match slots.rows.get_mut(index as usize) {
            Some(free) => *free = listed,
            None => slots.rows.push(listed),
        }
        row
    }

    /// Removes a row from its slot.
    fn free_slot(&self, row: &Row<F>) {
        let index = row.slot & ((1 << INDEX_BITS) - 1);
        let mut slots = self.slots[(row.slot >> INDEX_BITS) as usize].lock();
        let listed = slots.rows.get_mut(index as usize).and_then(Option::take);
        slots.free.push(index);
        drop(slots);
        drop(listed);
    }

    /// Removes a row from the names, if it is still there.
    fn remove_name(&self, row: &Row<F>, guard: &Guard) {
        self.names.remove(row.hash, row, guard);
    }
}

/// Reads words of each row, none of which depends on another row. So the processor waits for the
/// memory of all of them at the same time; to share the rows one by one, it would wait for each.
fn load_together<'r, F: Foreign>(rows: impl Iterator<Item = &'r Option<Arc<Row<F>>>>) {
    black_box(rows.flatten().fold(0, |sum, row| {
        sum ^ Arc::strong_count(row) as u64 ^ row.touch()
    }));
}

/// Whether a row has this name. Not inlined: a search compares about one row, and needs few
/// registers otherwise.
#[inline(never)]
fn has_name<F: Foreign>(row: &Row<F>, name: &Borrowed<'_, F>) -> bool {
    name.equivalent(&row.name)
}

#[inline]
fn slot_shard(hash: u64) -> usize {
    (hash >> 32) as usize % SLOT_SHARDS
}
