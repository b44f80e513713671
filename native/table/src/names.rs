//! The table of names: rows by the hashes of their names, by open addressing, without locks for
//! readers.
//!
//! The rows are spread over shards. A shard points to a *table* of lines, each line has a few
//! *slots*, and a slot has the *tag* of a hash next to a pointer to a row. A lookup reads the line
//! that the hash determines, and then the row. Writers of a shard take turns. They retire the rows
//! that they remove and the tables that they replace.
//!
//! # Why readers need no lock
//!
//! 1. *The pointer decides, the tag is a hint.* A slot is occupied while its pointer is non-null.
//!    A writer stores the tag before the pointer, and changes it after it has stored null, so the
//!    tag is right while the slot is occupied. Otherwise it may be wrong: a reader that finds null
//!    goes on, and one that finds another row than the tag promised notices when it compares the
//!    row, which it does in any case. So a slot whose row was removed may be used again at once.
//!    Another row of the same hash may take the place of a row: a search finds one of the two.
//! 2. *A search ends at the first empty slot, and no slot becomes empty.* A row is put into the
//!    first slot of its search that has no row, which comes before the first empty slot or is it,
//!    and never moves within a table. So a search finds a row that is there from its beginning to
//!    its end. A row that it misses was absent at some moment in between, and a row that it finds
//!    was there.
//! 3. *A table that was replaced does not change any more.* A search in it began before it was
//!    replaced, and finds what was there at that moment.
//! 4. *A quarter of the slots is always empty*, so every search ends.
//!
//! # Why the memory that readers use is not freed
//!
//! A table is retired after another one has replaced it, and a row after null has replaced its
//! pointer. A replaced table still points to rows that are retired later. But a reader that enters
//! its guard after that finds the newer table, because it was stored before, under the same lock.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::{mem, slice};

use seize::Guard as _;
use smallvec::SmallVec;

use crate::reclaim::{self, Guard};
use crate::shards::Shards;
use crate::sync::{Arc, AtomicPtr, AtomicU32, Mutex, Ordering};

/// The tag of a slot that no row has had yet, and of one whose row was removed. Tags of rows are
/// greater.
const EMPTY: u32 = 0;
const REMOVED: u32 = 1;

/// Slots of a line, which fills a line of the cache.
const SLOTS: usize = 5;

/// Lines of a table that is too large to be freed on the thread of a caller, or to wait in a batch.
const LARGE: usize = 256;

/// Removed rows that are too many to be retired one by one.
const MANY: usize = 64;

/// The cost of freeing a row.
const FREE_COST: usize = 16;

/// What a table of names has.
pub(crate) trait Named: Send + Sync + 'static {
    /// Returns the cost of freeing it, see [`reclaim::gather`].
    fn cost(&self) -> usize {
        FREE_COST
    }
}

/// Rows by the hashes of their names. A shard is replaced at once, so it has to stay small where
/// the whole is large.
pub(crate) struct Names<T, const SHARDS: usize = 512> {
    /// [Packed](pack) tables, or null. Not next to the locks, so that writers of one shard do not
    /// slow down readers of another.
    tables: [AtomicPtr<Line<T>>; SHARDS],
    writers: Shards<Mutex<Fill>>,
    owns: PhantomData<Arc<T>>,
}

/// How many slots of a table are occupied, and how many are not empty.
#[derive(Default)]
struct Fill {
    rows: u32,
    used: u32,
}

#[repr(align(64))]
struct Line<T> {
    tags: [AtomicU32; SLOTS],
    rows: [AtomicPtr<T>; SLOTS],
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Line {
            tags: [(); SLOTS].map(|()| AtomicU32::new(EMPTY)),
            rows: [(); SLOTS].map(|()| AtomicPtr::new(ptr::null_mut())),
        }
    }
}

/// A row that was found, for as long as it cannot be freed.
pub(crate) struct Found<'g, T>(NonNull<T>, PhantomData<&'g T>);

impl<T> Clone for Found<'_, T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Found<'_, T> {}

impl<T> Deref for Found<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.get()
    }
}

impl<'g, T> Found<'g, T> {
    /// Returns the row.
    #[inline]
    pub fn get(self) -> &'g T {
        // SAFETY: only `find_map` and `rows_of` of `Names` make a `Found`, of a row whose share the
        // table had when the pointer was read under the guard. That share is retired when the row
        // is removed, and dropped with the names; the lifetime `'g` borrows guard and names.
        unsafe { self.0.as_ref() }
    }

    /// Returns another share of the row.
    pub fn share(self) -> Arc<T> {
        // SAFETY: the pointer came from `Arc::into_raw`, and the table's share is not freed, as for
        // `get`.
        unsafe {
            Arc::increment_strong_count(self.0.as_ptr());
            Arc::from_raw(self.0.as_ptr())
        }
    }
}

/// Rows that were removed from a table. They are retired when this is dropped.
///
/// The last reader frees what hundreds of calls have retired meanwhile. One call may remove very
/// many rows: that reader only passes these on to the background thread, in one step.
pub(crate) struct Removed<'g, T: Named> {
    /// The shares that the table had. Readers may still use the rows.
    rows: SmallVec<[Arc<T>; 1]>,
    guard: &'g Guard,
}

impl<'g, T: Named> Removed<'g, T> {
    /// Returns no rows, to be retired under this guard.
    pub fn new(guard: &'g Guard) -> Self {
        Removed {
            rows: SmallVec::new(),
            guard,
        }
    }
}

impl<T: Named> Drop for Removed<'_, T> {
    fn drop(&mut self) {
        let rows = mem::take(&mut self.rows);
        if rows.len() > MANY {
            let rows = Box::into_raw(Box::new(rows));
            // SAFETY: the rows were removed before, so that no reader that enters a guard from now
            // on can find one. They are retired once.
            unsafe {
                self.guard
                    .defer_retire(rows, |rows, _| reclaim::later(Box::from_raw(rows)));
            }
            return;
        }
        for row in rows {
            // SAFETY: as above.
            unsafe {
                self.guard
                    .defer_retire(Arc::into_raw(row).cast_mut(), |row, _| {
                        let row = Arc::from_raw(row.cast_const());
                        let cost = row.cost();
                        reclaim::gather(row, cost)
                    });
            }
        }
    }
}

impl<T, const SHARDS: usize> Default for Names<T, SHARDS> {
    fn default() -> Self {
        Names {
            tables: [(); SHARDS].map(|()| AtomicPtr::new(ptr::null_mut())),
            writers: Shards::new(SHARDS),
            owns: PhantomData,
        }
    }
}

impl<T: Named, const SHARDS: usize> Names<T, SHARDS> {
    /// Returns the row with this hash that satisfies `matches`.
    #[inline]
    pub fn get<'g>(
        &'g self,
        hash: u64,
        matches: impl Fn(&T) -> bool,
        guard: &'g Guard,
    ) -> Option<Found<'g, T>> {
        self.find_map(hash, guard, |row| matches(row.get()).then_some(row))
    }

    /// Visits the rows with this hash, and maybe others, until `visit` returns `Some`.
    #[inline(always)]
    pub fn find_map<'g, R>(
        &'g self,
        hash: u64,
        guard: &'g Guard,
        mut visit: impl FnMut(Found<'g, T>) -> Option<R>,
    ) -> Option<R> {
        let table = guard.protect(&self.tables[shard::<SHARDS>(hash)], Ordering::Acquire);
        // SAFETY: it was read under the guard, and a table that is replaced is retired.
        let lines = unsafe { lines(table)? };
        let tag = tag(hash);
        search(lines, tag, |slot_tag, slot_row| {
            match slot_tag.load(Ordering::Acquire) {
                EMPTY => Some(None),
                found if found == tag => {
                    let row = guard.protect(slot_row, Ordering::Acquire);
                    let row = Found(NonNull::new(row)?, PhantomData);
                    visit(row).map(Some)
                }
                _ => None,
            }
        })
    }

    /// Adds a row, unless one with this hash satisfies `matches`. Returns whether it was added.
    pub fn insert(
        &self,
        hash: u64,
        row: Arc<T>,
        matches: impl Fn(&T) -> bool,
        guard: &Guard,
    ) -> bool {
        let shard = shard::<SHARDS>(hash);
        let mut fill = self.writer(shard).lock();
        if self.get(hash, matches, guard).is_some() {
            return false;
        }
        let is_full = |lines: &[Line<T>]| (fill.used as usize + 1) * 4 > lines.len() * SLOTS * 3;
        let replaced = if self.table(shard).is_none_or(is_full) {
            self.rebuild(shard, &mut fill, guard)
        } else {
            ptr::null_mut()
        };
        if let Some(lines) = self.table(shard) {
            fill.used += u32::from(put(lines, tag(hash), Arc::into_raw(row).cast_mut()));
            fill.rows += 1;
        }
        drop(fill);
        retire_table(replaced, guard);
        true
    }

    /// Removes a row with this hash, if it is there.
    pub fn remove(&self, hash: u64, row: &T, guard: &Guard) {
        self.remove_into(hash, row, &mut Removed::new(guard));
    }

    /// Like [`remove`](Self::remove), for one of several rows that are retired together.
    pub fn remove_into(&self, hash: u64, row: &T, removed: &mut Removed<'_, T>) {
        let guard = removed.guard;
        let shard = shard::<SHARDS>(hash);
        let mut fill = self.writer(shard).lock();
        let Some(lines) = self.table(shard) else {
            return;
        };
        let Some((slot_tag, slot_row)) = slot_of(lines, tag(hash), row) else {
            return;
        };
        let found = guard.swap(slot_row, ptr::null_mut(), Ordering::AcqRel);
        slot_tag.store(REMOVED, Ordering::Release);
        fill.rows -= 1;
        let is_sparse = lines.len() > 1 && (fill.rows as usize) * 8 < lines.len() * SLOTS;
        let replaced = if is_sparse {
            self.rebuild(shard, &mut fill, guard)
        } else {
            ptr::null_mut()
        };
        drop(fill);
        // SAFETY: the pointer came from `Arc::into_raw`, and this call alone has removed it from
        // the table, under the lock of the shard. So this is the table's share.
        removed
            .rows
            .push(unsafe { Arc::from_raw(found.cast_const()) });
        retire_table(replaced, guard);
    }

    /// Replaces a row with this hash, if it is there, by another one of the same hash. Every reader
    /// finds one of the two.
    pub fn replace(&self, hash: u64, row: &T, new: Arc<T>, guard: &Guard) {
        let mut removed = Removed::new(guard);
        let fill = self.writer(shard::<SHARDS>(hash)).lock();
        let lines = self.table(shard::<SHARDS>(hash));
        if let Some((_, slot)) = lines.and_then(|lines| slot_of(lines, tag(hash), row)) {
            let found = guard.swap(slot, Arc::into_raw(new).cast_mut(), Ordering::AcqRel);
            // SAFETY: as in `remove_into`.
            removed
                .rows
                .push(unsafe { Arc::from_raw(found.cast_const()) });
        }
        drop(fill);
    }

    /// Returns the rows of a shard at one moment. There are `SHARDS` of them.
    pub fn rows_of<'g>(&'g self, shard: usize, guard: &'g Guard) -> Vec<Found<'g, T>> {
        let mut rows = Vec::new();
        let Some(writer) = self.writers.get(shard) else {
            // No row was ever added.
            return rows;
        };
        let fill = writer.lock();
        rows.reserve(fill.rows as usize);
        let table = guard.protect(&self.tables[shard], Ordering::Acquire);
        // SAFETY: it was read under the guard, and a table that is replaced is retired.
        let lines = unsafe { lines(table) };
        for row in lines.unwrap_or_default().iter().flat_map(|line| &line.rows) {
            let row = NonNull::new(guard.protect(row, Ordering::Acquire));
            rows.extend(row.map(|row| Found(row, PhantomData)));
        }
        rows
    }

    /// Returns the lock of a shard.
    fn writer(&self, shard: usize) -> &Mutex<Fill> {
        self.writers
            .get_or_make(shard, || Mutex::new(Fill::default()))
    }

    /// Returns the table of a shard. The caller holds the lock of the shard.
    fn table(&self, shard: usize) -> Option<&[Line<T>]> {
        // SAFETY: only the holder of the lock replaces the table, which is then retired under the
        // guard of the caller of `insert` or `remove`. That guard outlives the use of the lines.
        unsafe { lines(self.tables[shard].load(Ordering::Relaxed)) }
    }

    /// Moves the rows of a shard to a table that is at most half full with one more row. Returns
    /// the replaced table, to be retired. The caller holds the lock of the shard.
    fn rebuild(&self, shard: usize, fill: &mut Fill, guard: &Guard) -> *mut Line<T> {
        let rows = fill.rows as usize + 1;
        let count = (rows * 2).div_ceil(SLOTS).next_power_of_two();
        let new: Box<[Line<T>]> = (0..count).map(|_| Line::default()).collect();
        for line in self.table(shard).unwrap_or_default() {
            for (tag, row) in line.tags.iter().zip(&line.rows) {
                let row = row.load(Ordering::Relaxed);
                if !row.is_null() {
                    put(&new, tag.load(Ordering::Relaxed), row);
                }
            }
        }
        fill.used = fill.rows;
        guard.swap(&self.tables[shard], pack(new), Ordering::AcqRel)
    }
}

impl<T, const SHARDS: usize> Drop for Names<T, SHARDS> {
    fn drop(&mut self) {
        for table in &self.tables {
            let table = table.load(Ordering::Relaxed);
            if table.is_null() {
                continue;
            }
            // SAFETY: the table came from `pack`, and `&mut self` is the only access to it.
            let lines = unsafe { Box::from_raw(unpack(table)) };
            for row in lines.iter().flat_map(|line| &line.rows) {
                let row = row.load(Ordering::Relaxed);
                if !row.is_null() {
                    // SAFETY: the pointer came from `Arc::into_raw`, and the table has its share: a
                    // row that was removed is not in the current table.
                    drop(unsafe { Arc::from_raw(row.cast_const()) });
                }
            }
        }
    }
}

#[inline]
fn shard<const SHARDS: usize>(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

/// Returns the tag of a hash, which is stored next to the pointer. Other bits choose the shard.
#[inline]
fn tag(hash: u64) -> u32 {
    (hash as u32).max(REMOVED + 1)
}

/// Returns the slot of a row. The caller holds the lock of the shard.
fn slot_of<'t, T>(
    lines: &'t [Line<T>],
    tag: u32,
    row: &T,
) -> Option<(&'t AtomicU32, &'t AtomicPtr<T>)> {
    search(lines, tag, |slot_tag, slot_row| {
        match slot_tag.load(Ordering::Relaxed) {
            EMPTY => Some(None),
            found if found == tag && ptr::eq(slot_row.load(Ordering::Relaxed), row) => {
                Some(Some((slot_tag, slot_row)))
            }
            _ => None,
        }
    })
}

/// Visits the slots of the search for a tag, one after the other, until `visit` returns `Some`.
#[inline(always)]
fn search<'t, T, R>(
    lines: &'t [Line<T>],
    tag: u32,
    mut visit: impl FnMut(&'t AtomicU32, &'t AtomicPtr<T>) -> Option<R>,
) -> R {
    let mut number = tag as usize;
    loop {
        let line = &lines[number & (lines.len() - 1)];
        for (tag, row) in line.tags.iter().zip(&line.rows) {
            if let Some(result) = visit(tag, row) {
                return result;
            }
        }
        number = number.wrapping_add(1);
    }
}

/// Puts a row into the first slot that has none. Returns whether that was empty. The caller is the
/// only writer of the table.
fn put<T>(lines: &[Line<T>], tag: u32, row: *mut T) -> bool {
    search(lines, tag, |slot_tag, slot_row| {
        let before = slot_tag.load(Ordering::Relaxed);
        if before > REMOVED {
            return None;
        }
        // The tag first: a thread that has read the pointer, or learns of it from another one,
        // finds the row again by its tag.
        slot_tag.store(tag, Ordering::Release);
        slot_row.store(row, Ordering::Release);
        Some(before == EMPTY)
    })
}

/// Returns a table as one word: the logarithm of its length is in the bits that are zero in the
/// address of a line.
fn pack<T>(lines: Box<[Line<T>]>) -> *mut Line<T> {
    let logarithm = lines.len().trailing_zeros() as usize;
    Box::into_raw(lines)
        .cast::<Line<T>>()
        .map_addr(|address| address | logarithm)
}

#[inline]
fn unpack<T>(table: *mut Line<T>) -> *mut [Line<T>] {
    let logarithm = table.addr() % align_of::<Line<T>>();
    ptr::slice_from_raw_parts_mut(
        table.map_addr(|address| address - logarithm),
        1 << logarithm,
    )
}

/// Returns the lines of a table, or `None` for null.
///
/// # Safety
/// The table came from [`pack`], and is not freed while they are used.
#[inline]
unsafe fn lines<'t, T>(table: *mut Line<T>) -> Option<&'t [Line<T>]> {
    if table.is_null() {
        return None;
    }
    let lines = unpack(table);
    // SAFETY: `unpack` reverts `pack`, and the caller vouches for the rest.
    Some(unsafe { slice::from_raw_parts(lines.cast(), lines.len()) })
}

/// Retires a table that the caller has replaced, if there was one.
fn retire_table<T: Send + Sync + 'static>(table: *mut Line<T>, guard: &Guard) {
    // SAFETY: the table came from `pack`, and the caller alone has replaced it, under the lock of
    // the shard. It is not retired yet.
    let Some(lines) = (unsafe { lines(table) }) else {
        return;
    };
    let is_large = lines.len() >= LARGE;
    // SAFETY: as above. It is retired once, and its rows belong to the new table.
    unsafe {
        guard.defer_retire(table, |table, _| {
            let lines = Box::from_raw(unpack(table));
            if lines.len() >= LARGE {
                reclaim::later(lines);
            }
        });
    }
    if is_large {
        reclaim::flush(guard);
    }
}
