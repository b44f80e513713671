//! The value of an attribute, in one atomic word.
//!
//! A word is an integer, a word of the embedder, or a pointer to a term that never changes. So one
//! store replaces a value, whatever it is. The two lowest bits say what the word is:
//!
//! | bits | the word is |
//! | --- | --- |
//! | 00 | a pointer: to shared bytes, or if the third bit is set, to a foreign term |
//! | 01 | a counter: an integer in the other bits |
//! | 10 | a frozen counter |
//! | 11 | a word of the embedder, of kind 0 |
//!
//! # Counters
//!
//! Many threads add to a counter at the same time, and a writer can freeze it: while it is copied,
//! or while several values are read at one moment. No thread adds to a frozen counter. Only the
//! holder of the row's lock freezes it, and before it unlocks, it thaws the counter or publishes
//! the copy. So a thread that finds a counter frozen takes the lock, and then finds it thawed or
//! replaced.
//!
//! The counters of a large map are added to under the lock alone, so they may be frozen without it,
//! and stay so. See [`attributes`](crate::attributes).
//!
//! # Orderings
//!
//! A word is stored with `Release` and loaded with `Acquire`, so that a thread that finds a pointer
//! finds the term behind it. For counters the orderings carry no more than the value: users rely on
//! the total order of the changes of one counter.

use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ptr;
use std::slice;
use std::sync::atomic::{fence, AtomicPtr, Ordering};

use seize::Guard as _;
use triomphe::ThinArc;

use crate::datum::View;
use crate::datum::{long, long_word, Aligned, Datum, Foreign, Header, Kind, Long, Shape, Shared};
use crate::reclaim::Guard;

/// The bits that say what a word is.
const TAG: usize = 0b11;
const POINTER: usize = 0b00;
const COUNTER: usize = 0b01;
const FROZEN: usize = 0b10;
const IMMEDIATE: usize = 0b11;
const TAG_BITS: u32 = 2;
/// The bit of a pointer to a foreign term.
const FOREIGN: usize = 0b100;
/// The kind of the embedder's words that are values themselves.
const IMMEDIATE_KIND: Kind = Kind::new(0);

/// The value of an attribute.
pub struct Value<F> {
    word: AtomicPtr<()>,
    owns: PhantomData<Datum<F>>,
}

const _: () = assert!(size_of::<Value<String>>() == size_of::<usize>());

/// What a value is at one moment.
pub enum Seen<'a, F> {
    /// An integer that is counted in place.
    Integer(i64),
    /// Any other term.
    Fixed(View<'a, F>),
}

impl<F> Clone for Seen<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Seen<'_, F> {}

impl<F: Foreign> Seen<'_, F> {
    /// Whether two values are equal.
    pub fn same(&self, other: &Seen<'_, F>) -> bool {
        match (self, other) {
            (Seen::Integer(one), Seen::Integer(other)) => one == other,
            (Seen::Fixed(one), Seen::Fixed(other)) => one.borrow().same(other.borrow()),
            _ => false,
        }
    }
}

impl<F> Seen<'_, F> {
    /// Returns the integer, if the value is a counter.
    pub fn counted(&self) -> Option<i64> {
        match self {
            Seen::Integer(integer) => Some(*integer),
            Seen::Fixed(_) => None,
        }
    }
}

/// A value that a reader uses: it is not [discarded](Foreign::discard) meanwhile.
pub struct InUse<'g, F: Foreign>(Seen<'g, F>);

impl<'g, F: Foreign> InUse<'g, F> {
    /// Begins to use a value. Returns `None` if it was discarded.
    #[inline]
    pub(crate) fn begin(seen: Seen<'g, F>) -> Option<Self> {
        match seen {
            Seen::Fixed(View::Foreign(foreign)) if !foreign.begin_use() => None,
            seen => Some(InUse(seen)),
        }
    }

    /// Returns the value.
    #[inline]
    pub fn seen(&self) -> Seen<'_, F> {
        self.0
    }
}

impl<F: Foreign> Drop for InUse<'_, F> {
    #[inline]
    fn drop(&mut self) {
        if let Seen::Fixed(View::Foreign(foreign)) = self.0 {
            foreign.end_use();
        }
    }
}

/// The counter is frozen; see the [module](self).
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

/// The word of a value, which owns nothing: valid while the value is, or under a guard that was
/// entered before the value was replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(*mut ());

impl Word {
    #[inline]
    fn tag(self) -> usize {
        self.0.addr() & TAG
    }

    #[inline]
    fn integer(self) -> i64 {
        (self.0.addr() as isize >> TAG_BITS) as i64
    }

    #[inline]
    pub fn is_counter(self) -> bool {
        matches!(self.tag(), COUNTER | FROZEN)
    }

    /// Returns the counter of an integer, if it fits.
    #[inline]
    fn counter(integer: i64) -> Option<Word> {
        let integer = isize::try_from(integer).ok()?;
        let bits = integer << TAG_BITS;
        (bits >> TAG_BITS == integer)
            .then(|| Word(ptr::without_provenance_mut(bits as usize | COUNTER)))
    }

    #[inline]
    fn with_tag(self, tag: usize) -> *mut () {
        self.0.map_addr(|bits| (bits & !TAG) | tag)
    }

    /// Returns what the word is.
    ///
    /// # Safety
    /// What the word points to is not freed during `'a`.
    #[inline]
    pub unsafe fn see<'a, F>(self) -> Seen<'a, F> {
        let bits = self.0.addr();
        match self.tag() {
            IMMEDIATE => Seen::Fixed(View::Word(IMMEDIATE_KIND, bits as u64)),
            POINTER if bits & FOREIGN != 0 => {
                // SAFETY: the bit says that the pointer is that of a shared foreign term; the
                // caller vouches for its life.
                let shared = unsafe { &*self.foreign::<F>() };
                Seen::Fixed(View::Foreign(&shared.0))
            }
            POINTER => {
                // SAFETY: the other pointers are those of shared bytes. They are read and not
                // dropped.
                let long = ManuallyDrop::new(unsafe { Long::from_raw(self.0.cast()) });
                let Header { kind, is_word } = long.header.header;
                let bytes = &long.slice;
                if let (true, Ok(word)) = (is_word, bytes.try_into()) {
                    return Seen::Fixed(View::Word(kind, u64::from_ne_bytes(word)));
                }
                // SAFETY: the bytes live as long as what the word points to: the caller vouches
                // for it.
                let bytes = unsafe { slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
                Seen::Fixed(View::Bytes(kind, bytes))
            }
            _ => Seen::Integer(self.integer()),
        }
    }

    /// Frees what a foreign term can free early, if no other value has the term. See
    /// [`Foreign::discard`].
    ///
    /// # Safety
    /// The caller owns the word of a value of the same type, which it has replaced, and calls this
    /// once.
    pub unsafe fn discard<F: Foreign>(self) -> bool {
        if !self.is_pointer() || self.0.addr() & FOREIGN == 0 {
            return false;
        }
        // SAFETY: the caller owns a share of the foreign term, which is not dropped here.
        let shared = ManuallyDrop::new(unsafe { Shared::from_raw(self.foreign::<F>()) });
        if Shared::strong_count(&shared) > 1 {
            return false;
        }
        // The thread that had another share has released it, after its last use.
        fence(Ordering::Acquire);
        shared.0.discard()
    }

    fn foreign<F>(self) -> *const Aligned<F> {
        self.0.map_addr(|bits| bits & !FOREIGN).cast_const().cast()
    }

    /// Whether the word is a pointer, so that what it points to has to be freed.
    #[inline]
    pub fn is_pointer(self) -> bool {
        self.tag() == POINTER
    }

    pub fn as_ptr(self) -> *mut () {
        self.0
    }

    /// Converts the result of [`as_ptr`](Self::as_ptr) back.
    pub fn from_ptr(pointer: *mut ()) -> Word {
        Word(pointer)
    }
}

impl<F> Value<F> {
    fn new(Word(word): Word) -> Self {
        Value {
            word: AtomicPtr::new(word),
            owns: PhantomData,
        }
    }

    /// Returns the value of a term.
    pub fn fixed(Datum(shape): Datum<F>) -> Self {
        let of_long = |long| ThinArc::into_raw(long).cast_mut().cast();
        Value::new(Word(match shape {
            Shape::Word(IMMEDIATE_KIND, word) if is_immediate(word) => {
                ptr::without_provenance_mut(word as usize)
            }
            Shape::Word(kind, word) => of_long(long_word(kind, word)),
            Shape::Short(short) => of_long(long(short.kind(), short.as_slice())),
            Shape::Long(long) => of_long(long),
            Shape::Foreign(shared) => {
                let pointer: *mut Aligned<F> = Shared::into_raw(shared).cast_mut();
                pointer.map_addr(|bits| bits | FOREIGN).cast()
            }
        }))
    }

    /// Returns a counter, if the integer fits in one. On 64-bit systems 62 bits fit.
    #[inline]
    pub fn counter(integer: i64) -> Option<Self> {
        Word::counter(integer).map(Value::new)
    }

    /// Returns a counter if the integer fits in one, else the term that `large` makes.
    pub fn integer(integer: i64, large: impl FnOnce() -> Datum<F>) -> Self {
        Value::counter(integer).unwrap_or_else(|| Value::fixed(large()))
    }

    /// Returns what the value is.
    ///
    /// For values that are not in the map of a row yet: others may be replaced meanwhile.
    pub fn see(&self) -> Seen<'_, F> {
        // SAFETY: the value owns what its word points to. It is not replaced while it is borrowed:
        // the callers of `replace` vouch for that.
        unsafe { self.load().see() }
    }

    /// Returns what a value in the map of a row is.
    #[inline]
    pub(crate) fn see_under<'g>(&self, guard: &'g Guard) -> Seen<'g, F> {
        // SAFETY: the word was read under the guard, and the thread that replaces it retires what
        // it points to.
        unsafe { self.load_under(guard).see() }
    }

    #[inline]
    pub(crate) fn load_under(&self, guard: &Guard) -> Word {
        Word(guard.protect(&self.word, Ordering::Acquire))
    }

    fn load(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Returns the word, which the caller owns from then on.
    pub(crate) fn into_word(self) -> Word {
        let mut value = ManuallyDrop::new(self);
        Word(*value.word.get_mut())
    }

    /// Returns the value of a word that the caller owns.
    ///
    /// # Safety
    /// The word came from [`into_word`](Self::into_word) or [`replace`](Self::replace) of the same
    /// type, and is converted at most once.
    pub(crate) unsafe fn from_word(word: Word) -> Self {
        Value::new(word)
    }

    /// Replaces the value, whatever other threads add to it meanwhile. Returns the word of the old
    /// one, which the caller owns, and which readers may still use.
    ///
    /// # Safety
    /// The value is in the map of a row, where it is read only under a guard. The caller holds the
    /// row's lock.
    #[inline]
    pub(crate) unsafe fn replace(&self, new: Self, guard: &Guard) -> Word {
        Word(guard.swap(&self.word, new.into_word().0, Ordering::AcqRel))
    }

    /// Adds to a counter in one step.
    #[inline]
    pub fn add(&self, increment: i64) -> Result<Added, Frozen> {
        let mut word = Word(self.word.load(Ordering::Relaxed));
        loop {
            match word.tag() {
                COUNTER => (),
                FROZEN => return Err(Frozen),
                _ => return Ok(Added::NotCounted),
            }
            let sum = word.integer().checked_add(increment);
            let Some((sum, new)) = sum.and_then(|sum| Some((sum, Word::counter(sum)?))) else {
                return Ok(Added::NotCounted);
            };
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            let changed = self
                .word
                .compare_exchange_weak(word.0, new.0, success, failure);
            match changed {
                Ok(_) => return Ok(Added::Changed(sum)),
                Err(found) => word = Word(found),
            }
        }
    }

    /// Stops all additions, if the value is a counter. The caller holds the row's lock.
    pub(crate) fn freeze(&self) {
        self.change_tag(FROZEN);
    }

    /// Allows additions again. The caller holds the row's lock.
    pub(crate) fn thaw(&self) {
        self.change_tag(COUNTER);
    }

    fn change_tag(&self, tag: usize) {
        let mut word = self.load();
        while word.is_counter() {
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match self
                .word
                .compare_exchange_weak(word.0, word.with_tag(tag), success, failure)
            {
                Ok(_) => return,
                Err(found) => word = Word(found),
            }
        }
    }

    /// Returns the value for a copy of its attribute. A counter is frozen and stays so, because the
    /// copy replaces it.
    ///
    /// The caller holds the row's lock, so that no other value is replaced meanwhile.
    pub(crate) fn carry_over(&self) -> Self {
        self.freeze();
        let word = self.load();
        if word.is_counter() {
            return Value::new(Word(word.with_tag(COUNTER)));
        }
        // SAFETY: the value owns what the word points to. It is cloned and not dropped.
        let value = ManuallyDrop::new(unsafe { Value::<F>::from_word(word) });
        value.share();
        Value::new(word)
    }

    /// Adds an owner of what the value points to.
    fn share(&self) {
        let word = self.load();
        if !word.is_pointer() {
            return;
        }
        if word.0.addr() & FOREIGN != 0 {
            // SAFETY: the value owns a share of the foreign term.
            unsafe { Shared::increment_strong_count(word.foreign::<F>()) };
        } else {
            // SAFETY: the value owns a share of the bytes, which is not dropped here.
            let long = ManuallyDrop::new(unsafe { Long::from_raw(word.0.cast()) });
            mem::forget(Long::clone(&long));
        }
    }
}

impl<F> Drop for Value<F> {
    #[inline]
    fn drop(&mut self) {
        let word = Word(*self.word.get_mut());
        if !word.is_pointer() {
            return;
        }
        if word.0.addr() & FOREIGN != 0 {
            // SAFETY: the value owns a share of the foreign term, and is dropped once.
            drop(unsafe { Shared::from_raw(word.foreign::<F>()) });
        } else {
            // SAFETY: the value owns a share of the bytes, and is dropped once.
            drop(unsafe { Long::from_raw(word.0.cast()) });
        }
    }
}

/// Whether a word of kind 0 is a value itself: its lowest bits are those of such a value, and it
/// fits.
fn is_immediate(word: u64) -> bool {
    word as usize & TAG == IMMEDIATE && word as usize as u64 == word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Text;
    use proptest::prelude::*;

    type Counted = Value<Text>;

    #[test]
    fn a_counter_holds_62_bits() {
        for integer in [0, 1, -1, i64::MAX >> 2, i64::MIN >> 2] {
            let counter = Counted::counter(integer).unwrap();
            assert_eq!(counter.see().counted(), Some(integer));
        }
        assert!(Counted::counter((i64::MAX >> 2) + 1).is_none());
        assert!(Counted::counter((i64::MIN >> 2) - 1).is_none());
    }

    #[test]
    fn an_addition_that_does_not_fit_changes_nothing() {
        let counter = Counted::counter(i64::MAX >> 2).unwrap();
        assert_eq!(counter.add(1), Ok(Added::NotCounted));
        assert_eq!(counter.add(i64::MAX), Ok(Added::NotCounted));
        assert_eq!(counter.add(-1), Ok(Added::Changed((i64::MAX >> 2) - 1)));
    }

    #[test]
    fn a_frozen_counter_is_read_and_not_changed() {
        let counter = Counted::counter(7).unwrap();
        counter.freeze();
        assert_eq!(counter.add(1), Err(Frozen));
        assert_eq!(counter.see().counted(), Some(7));
        counter.thaw();
        assert_eq!(counter.add(-8), Ok(Added::Changed(-1)));
    }

    #[test]
    fn what_is_no_counter_is_neither_frozen_nor_added_to() {
        for word in [0, 3, 7, u64::MAX] {
            let value = Counted::fixed(Datum::word(IMMEDIATE_KIND, word));
            value.freeze();
            assert_eq!(value.add(1), Ok(Added::NotCounted));
            let Seen::Fixed(View::Word(IMMEDIATE_KIND, seen)) = value.see() else {
                panic!("not a word")
            };
            assert_eq!(seen, word);
        }
    }

    proptest! {
        #[test]
        fn any_term_comes_back(kind in 0u8..16, word: u64, bytes: Vec<u8>) {
            let kind = Kind::new(kind);
            let datums = [
                Datum::word(kind, word),
                Datum::bytes(kind, &bytes),
                Datum::foreign(Text(bytes)),
            ];
            for datum in datums {
                let value = Counted::fixed(datum.clone());
                for value in [value.carry_over(), value] {
                    let Seen::Fixed(view) = value.see() else { panic!("a counter") };
                    prop_assert!(view.borrow().same(datum.borrow()));
                }
            }
        }
    }
}
