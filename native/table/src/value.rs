//! The value of an attribute: a term that never changes, or an integer that is counted in place.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::datum::Datum;

/// The value of an attribute.
pub enum Value<F> {
    /// Anything but an integer that fits a [`Counter`].
    Fixed(Datum<F>),
    /// An integer.
    Integer(Counter),
}

/// An integer of 63 bits that many threads change at the same time, and that a writer can freeze.
///
/// The lowest bit says *frozen*: the counter is being copied, or several counters are being read at one moment. No thread
/// changes a frozen counter. Only the holder of the name's write lock freezes, and it ends the frozen time before it
/// unlocks: by thawing, or by publishing the copy. Whoever finds a counter frozen therefore takes that lock, and then
/// finds it thawed or replaced.
///
/// All orderings are relaxed or carry the value alone: the counter's own total order of changes is all that its users
/// rely on, and the copy's memory is published by the pointer to it.
pub struct Counter(AtomicI64);

/// The counter was found frozen; see [`Counter`].
#[derive(Debug, PartialEq, Eq)]
pub struct Frozen;

/// What came of an addition.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// The new value.
    Changed(i64),
    /// The value, or the sum, is nothing that a counter can hold; nothing was changed.
    NotCounted,
    /// There is no such attribute.
    Missing,
}

impl Counter {
    const FROZEN: i64 = 1;

    /// A counter, if `integer` fits in 63 bits.
    #[inline]
    pub fn new(integer: i64) -> Option<Counter> {
        let word = integer << 1;
        (word >> 1 == integer).then(|| Counter(AtomicI64::new(word)))
    }

    /// The value; readers do not mind whether it is frozen.
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

    /// Replaces the value by that of another counter. For the holder of the write lock, who finds nothing frozen.
    #[inline]
    pub(crate) fn set(&self, integer: i64) {
        self.0.store(integer << 1, Ordering::Release);
    }

    /// Stops all changes and gives the last value. For the holder of the write lock.
    #[inline]
    pub(crate) fn freeze(&self) -> i64 {
        self.0.fetch_or(Self::FROZEN, Ordering::AcqRel) >> 1
    }

    /// Allows changes again. For the holder of the write lock.
    #[inline]
    pub(crate) fn thaw(&self) {
        self.0.fetch_and(!Self::FROZEN, Ordering::AcqRel);
    }
}

impl<F> Value<F> {
    /// An integer in place where it fits, else the term that `large` makes of it.
    pub fn integer(integer: i64, large: impl FnOnce() -> Datum<F>) -> Self {
        match Counter::new(integer) {
            Some(counter) => Value::Integer(counter),
            None => Value::Fixed(large()),
        }
    }

    /// The term, if it is not an integer that is counted in place.
    pub fn datum(&self) -> Option<&Datum<F>> {
        match self {
            Value::Fixed(datum) => Some(datum),
            Value::Integer(_) => None,
        }
    }

    /// The integer, if it is counted in place.
    pub fn counted(&self) -> Option<i64> {
        match self {
            Value::Integer(counter) => Some(counter.get()),
            Value::Fixed(_) => None,
        }
    }

    /// Takes back what [`carry_over`](Self::carry_over) froze: the copy was not used.
    pub(crate) fn thaw(&self) {
        if let Value::Integer(counter) = self {
            counter.thaw();
        }
    }

    /// The value for a copy of its attribute. An integer is frozen by this and stays so: the copy takes its place.
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
