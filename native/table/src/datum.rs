//! Immutable terms in sixteen bytes.
//!
//! A term is a word, a string of bytes, or a term that only the embedder can hold ([`Foreign`]).
//! The table does not know what they mean. Each word and each string has a [`Kind`], by which the
//! embedder distinguishes its types. Terms of different kinds are never equal.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use papaya::Equivalent;
use triomphe::ThinArc;

/// What a word or a string of bytes means to the embedder, in four bits.
///
/// Words of kind 0 whose two lowest bits are set take the least memory as values of attributes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Kind(u8);

impl Kind {
    /// Returns the kind of this number.
    ///
    /// # Panics
    /// If `number` is greater than 15.
    pub const fn new(number: u8) -> Kind {
        assert!(number < 16);
        Kind(number)
    }
}

/// A term that only the embedder can hold. The table shares it, compares it and drops it.
pub trait Foreign: Send + Sync + 'static {
    /// A term that is not stored, for a lookup.
    type Borrowed<'a>: Copy;

    /// Returns the stored term as one for a lookup.
    fn borrow(&self) -> Self::Borrowed<'_>;

    /// Returns the hash of a term. Equal terms have equal hashes.
    fn hash(borrowed: Self::Borrowed<'_>) -> u64;

    /// Whether two terms are equal.
    fn same(one: Self::Borrowed<'_>, other: Self::Borrowed<'_>) -> bool;

    /// Whether the term takes so much memory that it must be freed as soon as nobody reads it.
    fn is_heavy(&self) -> bool {
        false
    }

    /// Returns the bytes of memory that the term takes besides `Self`.
    fn bytes(&self) -> usize {
        0
    }

    /// Begins to use a term that other threads may [discard](Self::discard). Returns `false` if it
    /// was discarded.
    #[inline]
    fn begin_use(&self) -> bool {
        true
    }

    /// Ends a use that [`begin_use`](Self::begin_use) has begun.
    #[inline]
    fn end_use(&self) {}

    /// Frees what takes much memory, as soon as nobody uses it. Returns `false` if there is nothing
    /// to be freed before the term itself is dropped.
    ///
    /// Called at most once: when the term has been replaced, and nobody stores it any more. Readers
    /// may still find it.
    fn discard(&self) -> bool {
        false
    }
}

/// A stored term. A clone shares everything that is longer than a few words.
pub struct Datum<F>(pub(crate) Shape<F>);

pub(crate) enum Shape<F> {
    Word(Kind, u64),
    Short(Short),
    Long(Long),
    Foreign(Shared<F>),
}

/// Bytes that are shared, and the header of their kind.
pub(crate) type Long = ThinArc<Header, u8>;

/// A foreign term that is shared.
pub(crate) type Shared<F> = Arc<Aligned<F>>;

/// What the bytes mean. Aligned, so that the lowest three bits of a pointer to it are zero.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub(crate) struct Header {
    pub kind: Kind,
    /// Whether the bytes are those of a word.
    pub is_word: bool,
}

/// A foreign term, so aligned that the lowest three bits of a pointer to it are zero.
#[repr(align(8))]
pub(crate) struct Aligned<F>(pub F);

/// At most [`Short::CAPACITY`] bytes. The first byte has the kind in its upper half, and the length
/// in its lower half.
#[derive(Clone, Copy)]
pub(crate) struct Short {
    kind_and_length: u8,
    bytes: [u8; Short::CAPACITY],
}

impl Short {
    const CAPACITY: usize = 14;

    fn new(kind: Kind, bytes: &[u8]) -> Option<Short> {
        let mut short = Short {
            kind_and_length: (kind.0 << 4) | bytes.len() as u8,
            bytes: [0; Short::CAPACITY],
        };
        short.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(short)
    }

    #[inline]
    pub fn kind(&self) -> Kind {
        Kind(self.kind_and_length >> 4)
    }

    /// Whether these are bytes of this kind. For so few bytes, this is faster than the comparison
    /// of slices, which is a call.
    #[inline]
    fn is(&self, kind: Kind, bytes: &[u8]) -> bool {
        let length = bytes.len();
        if length > Short::CAPACITY || self.kind_and_length != (kind.0 << 4) | length as u8 {
            return false;
        }
        let own = &self.bytes[..length];
        match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            // The two chunks overlap.
            (Some(first), Some(last)) => {
                own.first_chunk() == Some(first) && own.last_chunk() == Some(last)
            }
            _ => own.iter().eq(bytes),
        }
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..(self.kind_and_length & 0xF) as usize]
    }
}

impl<F> Datum<F> {
    /// Returns a term of one word.
    #[inline]
    pub fn word(kind: Kind, word: u64) -> Self {
        Datum(Shape::Word(kind, word))
    }

    /// Returns a term of bytes.
    pub fn bytes(kind: Kind, bytes: &[u8]) -> Self {
        Datum(match Short::new(kind, bytes) {
            Some(short) => Shape::Short(short),
            None => Shape::Long(long(kind, bytes)),
        })
    }

    /// Returns a term that only the embedder can hold.
    pub fn foreign(foreign: F) -> Self {
        Datum(Shape::Foreign(Arc::new(Aligned(foreign))))
    }

    /// Returns what the term holds.
    #[inline]
    pub fn view(&self) -> View<'_, F> {
        match &self.0 {
            Shape::Word(kind, word) => View::Word(*kind, *word),
            Shape::Short(short) => View::Bytes(short.kind(), short.as_slice()),
            Shape::Long(long) => View::Bytes(long.header.header.kind, &long.slice),
            Shape::Foreign(foreign) => View::Foreign(&foreign.0),
        }
    }

    /// See [`Foreign::is_heavy`].
    pub(crate) fn is_heavy(&self) -> bool
    where
        F: Foreign,
    {
        matches!(&self.0, Shape::Foreign(foreign) if foreign.0.is_heavy())
    }

    /// Returns the bytes of memory that the term takes besides the sixteen.
    pub fn size(&self) -> usize
    where
        F: Foreign,
    {
        match &self.0 {
            Shape::Word(..) | Shape::Short(_) => 0,
            Shape::Long(long) => LONG + long.slice.len(),
            Shape::Foreign(foreign) => SHARED + size_of::<F>() + foreign.0.bytes(),
        }
    }

    /// Returns the term as one for a lookup.
    #[inline]
    pub fn borrow(&self) -> Borrowed<'_, F>
    where
        F: Foreign,
    {
        self.view().borrow()
    }
}

/// Returns shared bytes of this kind.
pub(crate) fn long(kind: Kind, bytes: &[u8]) -> Long {
    let is_word = false;
    ThinArc::from_header_and_slice(Header { kind, is_word }, bytes)
}

/// Returns the shared bytes of a word.
pub(crate) fn long_word(kind: Kind, word: u64) -> Long {
    let is_word = true;
    ThinArc::from_header_and_slice(Header { kind, is_word }, &word.to_ne_bytes())
}

/// Bytes of [`Long`] besides its content, and of [`Shared`].
const LONG: usize = 24;
const SHARED: usize = 16;

impl<F> Clone for Datum<F> {
    fn clone(&self) -> Self {
        Datum(match &self.0 {
            Shape::Word(kind, word) => Shape::Word(*kind, *word),
            Shape::Short(short) => Shape::Short(*short),
            Shape::Long(long) => Shape::Long(ThinArc::clone(long)),
            Shape::Foreign(foreign) => Shape::Foreign(Arc::clone(foreign)),
        })
    }
}

/// What a [`Datum`] holds.
pub enum View<'a, F> {
    /// A word.
    Word(Kind, u64),
    /// Bytes.
    Bytes(Kind, &'a [u8]),
    /// A term that only the embedder can hold.
    Foreign(&'a F),
}

impl<F> Clone for View<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for View<'_, F> {}

impl<'a, F> View<'a, F> {
    /// Returns the term as one for a lookup.
    #[inline]
    pub fn borrow(self) -> Borrowed<'a, F>
    where
        F: Foreign,
    {
        match self {
            View::Word(kind, word) => Borrowed::Word(kind, word),
            View::Bytes(kind, bytes) => Borrowed::Bytes(kind, bytes),
            View::Foreign(foreign) => Borrowed::Foreign(foreign.borrow()),
        }
    }

    /// Returns the bytes of memory that the term takes where it is not stored in a [`Datum`].
    pub(crate) fn size(self) -> usize
    where
        F: Foreign,
    {
        match self {
            View::Word(..) => 0,
            View::Bytes(_, bytes) => LONG + bytes.len(),
            View::Foreign(foreign) => SHARED + size_of::<F>() + foreign.bytes(),
        }
    }
}

/// A term that is not stored, for a lookup.
pub enum Borrowed<'a, F: Foreign> {
    /// A word.
    Word(Kind, u64),
    /// Bytes.
    Bytes(Kind, &'a [u8]),
    /// A term that only the embedder can hold.
    Foreign(F::Borrowed<'a>),
}

impl<F: Foreign> Clone for Borrowed<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Foreign> Copy for Borrowed<'_, F> {}

impl<F: Foreign> Hash for Borrowed<'_, F> {
    // Inlined, so that the state of the hasher is in registers.
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Without the kind: terms that differ only in their kinds are rare, and are compared.
        match self {
            Borrowed::Word(_, word) => state.write_u64(*word),
            Borrowed::Bytes(_, bytes) => state.write(bytes),
            Borrowed::Foreign(foreign) => state.write_u64(F::hash(*foreign)),
        }
    }
}

impl<F: Foreign> Borrowed<'_, F> {
    /// Whether a stored term is equal.
    #[inline(never)]
    fn is_other(&self, datum: &Datum<F>) -> bool {
        self.same(datum.borrow())
    }

    /// Whether two terms are equal.
    #[inline]
    pub fn same(self, other: Borrowed<'_, F>) -> bool {
        match (self, other) {
            (Borrowed::Word(kind, word), Borrowed::Word(kind2, word2)) => {
                word == word2 && kind == kind2
            }
            (Borrowed::Bytes(kind, bytes), Borrowed::Bytes(kind2, bytes2)) => {
                bytes == bytes2 && kind == kind2
            }
            (Borrowed::Foreign(one), Borrowed::Foreign(other)) => F::same(one, other),
            _ => false,
        }
    }
}

impl<F: Foreign> Hash for Datum<F> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}

impl<F: Foreign> Equivalent<Datum<F>> for Borrowed<'_, F> {
    /// Most names are bytes, and most keys words, so these are compared first.
    #[inline(always)]
    fn equivalent(&self, datum: &Datum<F>) -> bool {
        match (self, &datum.0) {
            (Borrowed::Bytes(kind, bytes), Shape::Short(short)) => short.is(*kind, bytes),
            (Borrowed::Word(kind, word), Shape::Word(kind2, word2)) => {
                word == word2 && kind == kind2
            }
            _ => self.is_other(datum),
        }
    }
}

impl<F: Foreign> PartialEq for Datum<F> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.borrow().same(other.borrow())
    }
}

impl<F: Foreign> Eq for Datum<F> {}

impl<F> fmt::Debug for Datum<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.view() {
            View::Word(kind, word) => write!(formatter, "Word({}, {word})", kind.0),
            View::Bytes(kind, bytes) => write!(formatter, "Bytes({}, {bytes:?})", kind.0),
            View::Foreign(_) => formatter.write_str("Foreign"),
        }
    }
}

const _: () = assert!(size_of::<Datum<String>>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Text;
    use proptest::prelude::*;
    use std::hash::BuildHasher;

    const A: Kind = Kind::new(1);
    const B: Kind = Kind::new(15);

    #[test]
    fn words_and_bytes_of_different_kinds_differ() {
        assert_ne!(Datum::<Text>::word(A, 1), Datum::word(B, 1));
        assert_ne!(Datum::<Text>::bytes(A, b"x"), Datum::bytes(B, b"x"));
        assert_ne!(Datum::<Text>::bytes(A, b""), Datum::word(A, 0));
    }

    /// Short bytes are compared in chunks that overlap.
    #[test]
    fn bytes_that_differ_in_one_byte_differ() {
        for length in 0..=20 {
            let bytes: Vec<u8> = (1..=length).collect();
            let datum = Datum::<Text>::bytes(A, &bytes);
            let is_found = |kind, bytes: &[u8]| {
                let bytes: Borrowed<Text> = Borrowed::Bytes(kind, bytes);
                bytes.equivalent(&datum)
            };
            assert!(is_found(A, &bytes) && !is_found(B, &bytes));
            for index in 0..bytes.len() {
                let mut other = bytes.clone();
                other[index] ^= 0x80;
                assert!(!is_found(A, &other), "{index} of {length}");
                assert!(!is_found(A, &bytes[..index]));
            }
            assert!(!is_found(A, &[&bytes[..], &[0]].concat()));
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_length_come_back(bytes: Vec<u8>, kind in 0u8..16) {
            let datum = Datum::<Text>::bytes(Kind::new(kind), &bytes);
            let View::Bytes(kind2, bytes2) = datum.view() else { panic!("not bytes") };
            prop_assert_eq!((Kind::new(kind), bytes.as_slice()), (kind2, bytes2));
        }

        #[test]
        fn a_lookup_finds_only_the_equal_datum(one: Vec<u8>, other: Vec<u8>) {
            let seed = foldhash::fast::RandomState::default();
            let datums = [Datum::bytes(A, &one), Datum::foreign(Text(one.clone()))];
            for datum in &datums {
                prop_assert!(datum.borrow().equivalent(datum));
                prop_assert_eq!(seed.hash_one(datum.borrow()), seed.hash_one(datum));
            }
            let bytes: Borrowed<Text> = Borrowed::Bytes(A, &other);
            prop_assert_eq!(bytes.equivalent(&datums[0]), one == other);
            prop_assert!(!bytes.equivalent(&datums[1]));
        }
    }
}
