//! Freeing maps of attributes: on the thread of a caller within limits, else in the background.

use std::cell::Cell;
use std::mem::ManuallyDrop;

use seize::Guard as _;

use crate::attributes::Attributes;
use crate::datum::Foreign;
use crate::reclaim::{self, Guard};

/// Attributes of a map that is too large to be freed on the thread of a caller.
pub(crate) const MANY: usize = 64;

/// Attributes that a thread may free in a row, in any number of maps: a few hundred microseconds
/// of work.
pub(crate) const MAX_FREED: usize = 2048;

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
