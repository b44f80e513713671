//! The value of an attribute: an immutable term, or an integer that is counted in place.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::datum::Datum;

/// The value of an attribute.
pub enum Value<F> {
    /// Any term but an integer that fits in a [`Counter`].
    Fixed(Datum<F>),
    /// An integer.
    Integer(Counter),
}

/// An integer of 63 bits that many threads change at the same time, and that a writer can freeze.
///
/// The lowest bit means *frozen*: the counter is being copied, or several counters are being read
/// at one moment. No thread changes a frozen counter. Only the holder of the row's lock freezes it,
/// and before it unlocks, it thaws the counter or publishes the copy. So a thread that finds a
/// counter frozen takes the lock, and then finds it thawed or replaced.
///
/// The orderings carry no more than the value: users rely on the total order of the changes of one
/// counter, and the pointer to a copy publishes its memory.
pub struct Counter(AtomicI64);

/// The counter is frozen; see [`Counter`].
#[derive(Debug, PartialEq, Eq)]
pub struct Frozen;

/// The result of an addition.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// The new value.
    Changed(i64),
    /// The value or the sum does not fit in a counter. Nothing was changed.
    NotCounted,
    /// There is no attribute of this key.
    Missing,
}

impl Counter {
    const FROZEN: i64 = 1;

    /// Returns a counter, if `integer` fits in 63 bits.
    #[inline]
    pub fn new(integer: i64) -> Option<Counter> {
        let word = integer << 1;
        (word >> 1 == integer).then(|| Counter(AtomicI64::new(word)))
    }

    /// Returns the value, frozen or not.
    #[inline]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Acquire) >> 1
    }

    /// Adds in one step.
    #[inline]
    pub fn add(&self, increment: i64) -> Result<Added, Frozen> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & Self::FROZEN != 0 {
                return Err(Frozen);
            }
            let Some(sum) = (word >> 1)
                .checked_add(increment)
                .filter(|sum| sum << 1 >> 1 == *sum)
            else {
                return Ok(Added::NotCounted);
            };
            match self
                .0
                .compare_exchange_weak(word, sum << 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Ok(Added::Changed(sum)),
                Err(found) => word = found,
            }
        }
    }

    /// Replaces the value. The caller holds the row's lock, so that the counter is not frozen.
    #[inline]
    pub(crate) fn set(&self, integer: i64) {
        self.0.store(integer << 1, Ordering::Release);
    }

    /// Stops all changes, and returns the value. The caller holds the row's lock.
    #[inline]
    pub(crate) fn freeze(&self) -> i64 {
        self.0.fetch_or(Self::FROZEN, Ordering::AcqRel) >> 1
    }

    /// Allows changes again. The caller holds the row's lock.
    #[inline]
    pub(crate) fn thaw(&self) {
        self.0.fetch_and(!Self::FROZEN, Ordering::AcqRel);
    }
}

impl<F> Value<F> {
    /// Returns a counter if `integer` fits in one, else the term that `large` makes.
    pub fn integer(integer: i64, large: impl FnOnce() -> Datum<F>) -> Self {
        match Counter::new(integer) {
            Some(counter) => Value::Integer(counter),
            None => Value::Fixed(large()),
        }
    }

    /// Returns the term, unless the value is a counter.
    pub fn datum(&self) -> Option<&Datum<F>> {
        match self {
            Value::Fixed(datum) => Some(datum),
            Value::Integer(_) => None,
        }
    }

    /// Returns the integer, if the value is a counter.
    pub fn counted(&self) -> Option<i64> {
        match self {
            Value::Integer(counter) => Some(counter.get()),
            Value::Fixed(_) => None,
        }
    }

    /// Reverts [`carry_over`](Self::carry_over): the copy is not used.
    pub(crate) fn thaw(&self) {
        if let Value::Integer(counter) = self {
            counter.thaw();
        }
    }

    /// Returns the value for a copy of its attribute. A counter is frozen and stays so, because the
    /// copy replaces it.
    pub(crate) fn carry_over(&self) -> Self {
        match self {
            Value::Fixed(datum) => Value::Fixed(datum.clone()),
            Value::Integer(counter) => {
                Value::Integer(Counter(AtomicI64::new(counter.freeze() << 1)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_holds_63_bits() {
        for integer in [0, 1, -1, i64::MAX >> 1, i64::MIN >> 1] {
            assert_eq!(Counter::new(integer).unwrap().get(), integer);
        }
        assert!(Counter::new((i64::MAX >> 1) + 1).is_none());
        assert!(Counter::new((i64::MIN >> 1) - 1).is_none());
    }

    #[test]
    fn an_addition_that_does_not_fit_changes_nothing() {
        let counter = Counter::new(i64::MAX >> 1).unwrap();
        assert_eq!(counter.add(1), Ok(Added::NotCounted));
        assert_eq!(counter.add(i64::MAX), Ok(Added::NotCounted));
        assert_eq!(counter.add(-1), Ok(Added::Changed((i64::MAX >> 1) - 1)));
    }

    #[test]
    fn a_frozen_counter_is_read_and_not_changed() {
        let counter = Counter::new(7).unwrap();
        assert_eq!(counter.freeze(), 7);
        assert_eq!(counter.add(1), Err(Frozen));
        assert_eq!(counter.get(), 7);
        counter.thaw();
        assert_eq!(counter.add(-8), Ok(Added::Changed(-1)));
    }
}
