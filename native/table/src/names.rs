//! Shared rows by the hashes of their names: open addressing, without locks for readers.
//!
//! The rows are spread over shards. A shard points to a *table*, lines of a few *places* each, and a place is a part of a hash beside a
//! pointer to a row: a look-up reads the line that the hash says, and then the row. Writers of a shard take turns. What they
//! take out, rows and tables, is retired.
//!
//! # Why readers need no lock
//!
//! 1. *The pointer is the truth, the hash a hint.* A row is in its place from the store of the pointer until the store of null. The part of
//!    its hash is stored before the former and changed after the latter, so it stands there as long as the row does. In between it
//!    may be wrong: a reader that finds null looks on, and one that finds another row than the hash said sees that by the row itself, which
//!    it compares in any case. So a place whose row was taken out may get another one at any time.
//! 2. *A search ends at the first empty place, and none becomes empty.* A row is put before the first empty place of its search or there, and a row never moves
//!    within a table. So a row that is there from the beginning of a search to its end is found; one that is
//!    missed was not there at some moment in between, and one that is found was there.
//! 3. *A table that was replaced does not change any more.* Who searches in it began before it was replaced, and finds what was there at that
//!    moment.
//! 4. *There is always an empty place*, a quarter of all: no search goes round for ever.
//!
//! # Why what they read is there
//!
//! A table is retired after another has taken its place, a row after null has. An old table still points to rows that are retired later, but
//! who enters a guard by then sees the newer table: it was stored before, under the same lock or an earlier holding of it.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::slice;

use seize::Guard as _;

use crate::reclaim::{self, Guard};
use crate::sync::{Arc, AtomicPtr, AtomicU32, Mutex, Ordering};

/// The hash of a place that no row has had yet, and of one whose row was taken out. Parts of hashes are greater.
const EMPTY: u32 = 0;
const REMOVED: u32 = 1;

/// How many places are on a line, which is as long as one of the cache.
const PLACES: usize = 5;

/// A table of so many lines is too large to be freed on the thread of a caller, or to wait in a half-filled batch.
const LARGE: usize = 256;

/// How much a row weighs among what is [gathered](reclaim::gather).
const WEIGHT: usize = 16;

/// The rows by hash. Each shard is replaced at once, so it has to stay small where the whole is large.
pub(crate) struct Names<T, const SHARDS: usize = 512> {
    /// Packed, or null. Apart from the locks: readers of one shard do not feel the writers of another.
    tables: [AtomicPtr<Line<T>>; SHARDS],
    writers: [Mutex<Fill>; SHARDS],
    owns: PhantomData<Arc<T>>,
}

/// How many places of a table have a row, and how many are not empty.
#[derive(Default)]
struct Fill {
    rows: usize,
    used: usize,
}

#[repr(align(64))]
struct Line<T> {
    hashes: [AtomicU32; PLACES],
    rows: [AtomicPtr<T>; PLACES],
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Line {
            hashes: [(); PLACES].map(|()| AtomicU32::new(EMPTY)),
            rows: [(); PLACES].map(|()| AtomicPtr::new(ptr::null_mut())),
        }
    }
}

/// A row that was found, while it cannot be freed.
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
    /// The row for as long as it cannot be freed.
    #[inline]
    pub fn get(self) -> &'g T {
        // SAFETY: it is only made by `Names::get`, of a row that the table shared when its guard read the pointer. The share is retired
        // when the row is taken out, and dropped with the names; the lifetime ends before either.
        unsafe { self.0.as_ref() }
    }

    /// One more share of the row.
    pub fn share(self) -> Arc<T> {
        // SAFETY: the pointer came from `Arc::into_raw`, and the share that it stood for is there, as above.
        unsafe {
            Arc::increment_strong_count(self.0.as_ptr());
            Arc::from_raw(self.0.as_ptr())
        }
    }
}

impl<T, const SHARDS: usize> Default for Names<T, SHARDS> {
    fn default() -> Self {
        Names {
            tables: [(); SHARDS].map(|()| AtomicPtr::new(ptr::null_mut())),
            writers: [(); SHARDS].map(|()| Mutex::new(Fill::default())),
            owns: PhantomData,
        }
    }
}

impl<T: Send + Sync + 'static, const SHARDS: usize> Names<T, SHARDS> {
    /// The row of this hash that is it.
    #[inline]
    pub fn get<'g>(
        &'g self,
        hash: u64,
        is_it: impl Fn(&T) -> bool,
        guard: &'g Guard,
    ) -> Option<Found<'g, T>> {
        let table = guard.protect(&self.tables[shard::<SHARDS>(hash)], Ordering::Acquire);
        // SAFETY: whoever replaces a table retires it, so that this one stays until the guard is left.
        let lines = unsafe { lines(table)? };
        let part = part(hash);
        search(lines, part, |place_hash, place_row| {
            match place_hash.load(Ordering::Acquire) {
                EMPTY => Some(None),
                found if found == part => {
                    let row = guard.protect(place_row, Ordering::Acquire);
                    let row = Found(NonNull::new(row)?, PhantomData);
                    is_it(row.get()).then_some(Some(row))
                }
                _ => None,
            }
        })
    }

    /// Adds a row, unless there is one that is it; whether it was added.
    pub fn insert(
        &self,
        hash: u64,
        row: Arc<T>,
        is_it: impl Fn(&T) -> bool,
        guard: &Guard,
    ) -> bool {
        let shard = shard::<SHARDS>(hash);
        let mut fill = self.writers[shard].lock();
        if self.get(hash, is_it, guard).is_some() {
            return false;
        }
        let is_full = |lines: &[Line<T>]| (fill.used + 1) * 4 > lines.len() * PLACES * 3;
        let replaced = if self.table(shard).is_none_or(is_full) {
            self.rebuild(shard, &mut fill, guard)
        } else {
            ptr::null_mut()
        };
        if let Some(lines) = self.table(shard) {
            fill.used += usize::from(put(lines, part(hash), Arc::into_raw(row).cast_mut()));
            fill.rows += 1;
        }
        drop(fill);
        retire_table(replaced, guard);
        true
    }

    /// Takes a row of this hash out, if it is there.
    pub fn remove(&self, hash: u64, row: &T, guard: &Guard) {
        let shard = shard::<SHARDS>(hash);
        let mut fill = self.writers[shard].lock();
        let Some(lines) = self.table(shard) else {
            return;
        };
        let part = part(hash);
        let taken = search(lines, part, |place_hash, place_row| {
            match place_hash.load(Ordering::Relaxed) {
                EMPTY => Some(None),
                found if found == part && ptr::eq(place_row.load(Ordering::Relaxed), row) => {
                    let taken = guard.swap(place_row, ptr::null_mut(), Ordering::AcqRel);
                    place_hash.store(REMOVED, Ordering::Release);
                    Some(Some(taken))
                }
                _ => None,
            }
        });
        let Some(taken) = taken else {
            return;
        };
        fill.rows -= 1;
        let is_sparse = lines.len() > 1 && fill.rows * 8 < lines.len() * PLACES;
        let replaced = if is_sparse {
            self.rebuild(shard, &mut fill, guard)
        } else {
            ptr::null_mut()
        };
        drop(fill);
        // SAFETY: it came from `Arc::into_raw` and has left the table, by this call alone.
        unsafe {
            guard.defer_retire(taken, |taken, _| {
                reclaim::gather(Arc::from_raw(taken.cast_const()), WEIGHT)
            });
        }
        retire_table(replaced, guard);
    }

    /// The table of a shard, for the holder of its lock.
    fn table(&self, shard: usize) -> Option<&[Line<T>]> {
        // SAFETY: only the holder of the lock replaces it, and it is retired under the guard of the caller of `insert` or `remove`, who does not
        // use it any more when that is left.
        unsafe { lines(self.tables[shard].load(Ordering::Relaxed)) }
    }

    /// Moves the rows of a shard into a table that is less than half full with one more, for the holder of its lock; the table before, to
    /// be retired.
    fn rebuild(&self, shard: usize, fill: &mut Fill, guard: &Guard) -> *mut Line<T> {
        let count = ((fill.rows + 1) * 2).div_ceil(PLACES).next_power_of_two();
        let new: Box<[Line<T>]> = (0..count).map(|_| Line::default()).collect();
        for line in self.table(shard).unwrap_or_default() {
            for (hash, row) in line.hashes.iter().zip(&line.rows) {
                let row = row.load(Ordering::Relaxed);
                if !row.is_null() {
                    put(&new, hash.load(Ordering::Relaxed), row);
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
            // SAFETY: it came from `pack`, and nobody else can reach it.
            let lines = unsafe { Box::from_raw(unpack(table)) };
            for row in lines.iter().flat_map(|line| &line.rows) {
                let row = row.load(Ordering::Relaxed);
                if !row.is_null() {
                    // SAFETY: it came from `Arc::into_raw`, and the table had that share.
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

/// What of a hash is beside a row. The shard was chosen by other bits.
#[inline]
fn part(hash: u64) -> u32 {
    (hash as u32).max(REMOVED + 1)
}

/// Visits the places of this hash one after the other, until something comes of it.
#[inline(always)]
fn search<'t, T, R>(
    lines: &'t [Line<T>],
    part: u32,
    mut visit: impl FnMut(&'t AtomicU32, &'t AtomicPtr<T>) -> Option<R>,
) -> R {
    let mut number = part as usize;
    loop {
        let line = &lines[number & (lines.len() - 1)];
        for (hash, row) in line.hashes.iter().zip(&line.rows) {
            if let Some(result) = visit(hash, row) {
                return result;
            }
        }
        number = number.wrapping_add(1);
    }
}

/// Puts a row into the first place that has none; whether that was empty. For the only writer of the table.
fn put<T>(lines: &[Line<T>], part: u32, row: *mut T) -> bool {
    search(lines, part, |place_hash, place_row| {
        let before = place_hash.load(Ordering::Relaxed);
        if before > REMOVED {
            return None;
        }
        // First the hint, then the truth: whoever has read the pointer, and whoever hears of that, finds it again by the hash.
        place_hash.store(part, Ordering::Release);
        place_row.store(row, Ordering::Release);
        Some(before == EMPTY)
    })
}

/// A table as one word: its address with the logarithm of its length in the bits that are zero in the address of a line.
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

/// The lines of a table, none for null.
///
/// # Safety
/// The table came from [`pack`], and is not freed while they are used.
#[inline]
unsafe fn lines<'t, T>(table: *mut Line<T>) -> Option<&'t [Line<T>]> {
    if table.is_null() {
        return None;
    }
    let lines = unpack(table);
    // SAFETY: by this function's own condition.
    Some(unsafe { slice::from_raw_parts(lines.cast(), lines.len()) })
}

/// Retires a table that was replaced, if there was one.
fn retire_table<T: Send + Sync + 'static>(table: *mut Line<T>, guard: &Guard) {
    // SAFETY: the caller replaced it a moment ago, and lets go of it. It came from `pack`; its rows are the other table's.
    let Some(lines) = (unsafe { lines(table) }) else {
        return;
    };
    let is_large = lines.len() >= LARGE;
    // SAFETY: as above. The collector only passes the pointer on.
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
