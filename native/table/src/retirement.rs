//! Freeing maps of attributes and single values: on the thread of a caller within limits, else in
//! the background.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ops::Deref;

use seize::Guard as _;

use crate::attributes::{self, Attributes};
use crate::datum::Foreign;
use crate::reclaim::{self, Guard};
use crate::value::{Value, Word};

/// Attributes of a map that is too large to be freed on the thread of a caller.
pub(crate) const MANY: usize = 64;

/// Attributes that a thread may free in a row, in any number of maps: a few hundred microseconds
/// of work.
pub(crate) const MAX_FREED: usize = 2048;

/// The cost of freeing a value, in attributes.
const VALUE_COST: usize = 1;

thread_local! {
    /// Attributes that this thread may free before it retires more. The last reader to leave its
    /// guard also frees what others have retired.
    static ALLOWANCE: Cell<usize> = const { Cell::new(0) };
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
    ALLOWANCE.set(MAX_FREED.min(ALLOWANCE.get() + cost(&map)));
    // SAFETY: the caller vouches for `raw`, which the collector passes on once.
    unsafe {
        guard.defer_retire(raw, |raw, _| {
            free_retired(Attributes::<F>::from_raw(raw));
        });
    }
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
    ALLOWANCE.set(MAX_FREED.min(ALLOWANCE.get() + VALUE_COST));
    // SAFETY: the caller vouches for the word, which the collector passes on once.
    unsafe {
        guard.defer_retire(word.as_ptr(), |raw, _| {
            free_value(Value::<F>::from_word(Word::from_ptr(raw)));
        });
    }
    if heavy {
        reclaim::flush(guard);
    }
}

/// Frees one of many values that may be freed at the same moment.
fn free_value<F: Foreign>(value: Value<F>) {
    match ALLOWANCE.get().checked_sub(VALUE_COST) {
        Some(rest) => ALLOWANCE.set(rest),
        None if attributes::is_heavy(value.see()) => reclaim::later(value),
        None => reclaim::gather(value, VALUE_COST),
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

/// Frees one of many maps that may be freed at the same moment: in the background, with others,
/// once this thread has freed enough.
fn free_retired<F: Foreign>(attributes: Attributes<F>) {
    let cost = cost(&attributes);
    match ALLOWANCE.get().checked_sub(cost) {
        Some(rest) => {
            ALLOWANCE.set(rest);
            free(attributes);
        }
        None if attributes.is_heavy() => reclaim::later(attributes),
        None => reclaim::gather(attributes, cost),
    }
}

/// Returns the cost of freeing a map, in attributes. Shared ones count in full.
fn cost<F>(attributes: &Attributes<F>) -> usize {
    1 + attributes.count().min(MANY)
}
