//! Freeing maps of attributes and single values: on the thread of a caller within limits, else in
//! the background.
//!
//! The last reader to leave its guard frees what other threads have retired while it was entered,
//! which may be ten thousand objects if the system has preempted it. So what is beyond the limits
//! is handed over unread: its memory is in no cache of this thread. Whether an object is heavy is
//! looked up when it is retired.

use std::mem::ManuallyDrop;
use std::ops::Deref;

use seize::{Collector, Guard as _};

use crate::attributes::{self, Attributes};
use crate::datum::Foreign;
use crate::reclaim::{self, Allowance, Guard};
use crate::value::{Value, Word};

/// Attributes of a map that is too large to be freed on the thread of a caller.
pub(crate) const MANY: usize = 64;

/// Attributes that a thread may free in a row, in any number of maps: a few hundred microseconds
/// of work.
pub(crate) const MAX_FREED: usize = 2048;

/// The cost of freeing a value, in attributes.
const VALUE_COST: usize = 4;

thread_local! {
    /// Attributes that this thread may free before it retires more.
    static ALLOWANCE: Allowance<MAX_FREED> = const { Allowance::empty() };
}

/// Retires a map, to be freed once no reader has it.
///
/// `heavy`: without waiting for more to free.
///
/// # Safety
/// `raw` came from [`Attributes::into_raw`] of the same type. No reader that enters a guard from
/// now on can find it, and nobody else retires or frees it.
pub(crate) unsafe fn retire<F: Foreign>(raw: *mut (), heavy: bool, guard: &Guard) {
    // SAFETY: the caller vouches for `raw`, which is not retired yet. It is read and not dropped.
    let map = ManuallyDrop::new(unsafe { Attributes::<F>::from_raw(raw) });
    ALLOWANCE.with(|allowance| allowance.add(cost(&map)));
    let free = if map.is_heavy() || map.count() > MANY {
        free_map::<F, true>
    } else {
        free_map::<F, false>
    };
    // SAFETY: the caller vouches for `raw`, which the collector passes on once.
    unsafe { guard.defer_retire(raw, free) };
    if heavy {
        reclaim::flush(guard);
    }
}

/// Retires the word of a value that another one has replaced, to be freed once no reader has it.
///
/// # Safety
/// The caller owns the word, which came from [`Value::replace`] of the same type. No reader that
/// enters a guard from now on can find it.
#[inline]
pub(crate) unsafe fn retire_value<F: Foreign>(word: Word, guard: &Guard) {
    if !word.is_pointer() {
        return;
    }
    // SAFETY: the caller vouches for the word, which is not retired yet.
    let heavy = unsafe { !word.discard::<F>() && attributes::is_heavy(word.see::<F>()) };
    ALLOWANCE.with(|allowance| allowance.add(VALUE_COST));
    let free = if heavy {
        free_value::<F, true>
    } else {
        free_value::<F, false>
    };
    // SAFETY: the caller vouches for the word, which the collector passes on once.
    unsafe { guard.defer_retire(word.as_ptr(), free) };
    if heavy {
        reclaim::flush(guard);
    }
}

/// Frees one of many values that may be freed at the same moment.
///
/// # Safety
/// `raw` is the word of a value of the same type, which the caller owns.
unsafe fn free_value<F: Foreign, const HEAVY: bool>(raw: *mut (), _: &Collector) {
    // SAFETY: the caller vouches for it.
    let value = unsafe { Value::<F>::from_word(Word::from_ptr(raw)) };
    if ALLOWANCE.with(|allowance| allowance.take(VALUE_COST)) {
        drop(value);
    } else if HEAVY {
        reclaim::later(value);
    } else {
        reclaim::gather(value, VALUE_COST);
    }
}

/// A map that was not published, or is shared with one that was: frees it when it is dropped.
pub(crate) struct Freed<F: Foreign>(ManuallyDrop<Attributes<F>>);

impl<F: Foreign> Freed<F> {
    pub fn new(attributes: Attributes<F>) -> Self {
        Freed(ManuallyDrop::new(attributes))
    }
}

impl<F: Foreign> Deref for Freed<F> {
    type Target = Attributes<F>;

    fn deref(&self) -> &Attributes<F> {
        &self.0
    }
}

impl<F: Foreign> Drop for Freed<F> {
    fn drop(&mut self) {
        // SAFETY: `drop` is called once, and nothing uses the map afterwards.
        free(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

/// Frees a map: in the background if it is large.
pub(crate) fn free<F: Foreign>(attributes: Attributes<F>) {
    if attributes.count() > MANY {
        reclaim::later(attributes);
    }
}

/// Frees one of many maps that may be freed at the same moment.
///
/// # Safety
/// `raw` came from [`Attributes::into_raw`] of the same type, and the caller owns it.
unsafe fn free_map<F: Foreign, const HEAVY: bool>(raw: *mut (), _: &Collector) {
    // SAFETY: the caller vouches for it.
    let map = unsafe { Attributes::<F>::from_raw(raw) };
    if ALLOWANCE.with(|allowance| !allowance.is_empty() && allowance.take(cost(&map))) {
        free(map);
    } else if HEAVY {
        reclaim::later(map);
    } else {
        reclaim::gather(map, MANY);
    }
}

/// Returns the cost of freeing a map, in attributes. Shared ones count in full.
fn cost<F>(attributes: &Attributes<F>) -> usize {
    1 + attributes.count().min(MANY)
}
