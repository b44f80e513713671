//! Terms to stored values and back.
//!
//! | term | stored as |
//! | --- | --- |
//! | atom, `[]`, local pid, local port | its word, which the VM never moves or frees |
//! | integer of at most 64 bits, float | a word; a zero in a key may be a copy, see [`Purpose`] |
//! | binary of at most 4096 bytes, as a value of at most 512 | its bytes |
//! | remote pid; small tuple, list or map of all these | an [encoding](crate::encoding) |
//! | longer binary that is the value of an attribute | [shared](crate::shared) |
//! | anything else | a copy in an environment of its own, [`Copied`] |
//!
//! Large binaries in a copy are [shared](crate::binaries), too. The form of a term depends only on
//! the term, so that equal terms have equal forms. A call [deducts](Call::deduct) the cost of a
//! conversion before it converts.

use std::time::Instant;

use proctab_table::attributes::Attribute;
use proctab_table::datum::{Borrowed, Datum, Foreign, Kind, View};
use proctab_table::value::{Seen, Value};

use crate::call::{Answer, Call, Fault};
use crate::copied::{Copied, Live, ENVIRONMENT};
use crate::cost::{COPIED_PER_WORD, HASHED_PER_WORD};
use crate::encoding::Scratch;
use crate::reading::Purpose;
use crate::term::{to_word, Term};
use crate::vm::{term_type, ErlNifTerm};

/// The word of a term that means the same in every environment.
pub(crate) const IMMEDIATE: Kind = Kind::new(0);
/// An integer of at most 64 bits.
const INTEGER: Kind = Kind::new(1);
/// The bits of a float.
const FLOAT: Kind = Kind::new(2);
/// The bytes of a binary.
pub(crate) const BINARY: Kind = Kind::new(3);
/// The encoding of a term.
const ENCODED: Kind = Kind::new(4);

/// Bytes of the longest binary that is copied into the table.
const MAX_BINARY: usize = 4096;
/// Bytes of the longest binary that is copied into the table as the value of an attribute. A longer
/// one is shared, which takes about 300 bytes more, and no more time than to copy this many.
const MAX_VALUE: usize = 512;
/// Nanoseconds of a copy that count as one word.
const WORD_NANOSECONDS: usize = 50;
/// How many times as much it costs to copy a term piece by piece.
const DEEP_COPY: usize = 2;

/// Converts a term that means the same in every environment to be stored.
pub(crate) fn immediate(term: ErlNifTerm) -> Datum<Copied> {
    Datum::word(IMMEDIATE, to_word(term))
}

impl<'c> Call<'c> {
    /// Converts a name or a key for a lookup.
    ///
    /// The result may refer to the bytes of a binary, so it must be used before the call reads
    /// another term. See "What safe functions rely on" in the [`crate`] documentation.
    #[inline(always)]
    pub fn lookup_key<'s>(
        self,
        term: Term<'c>,
        scratch: &'s mut Scratch,
    ) -> Result<Borrowed<'s, Copied>, Fault>
    where
        'c: 's,
    {
        match self.atom_or_binary(term)? {
            Some(borrowed) => Ok(borrowed),
            None => self.lookup_other(term, scratch),
        }
    }

    /// Like [`lookup_key`](Self::lookup_key), faster for a binary and slower for an atom.
    #[inline(always)]
    pub fn lookup_name<'s>(
        self,
        term: Term<'c>,
        scratch: &'s mut Scratch,
    ) -> Result<Borrowed<'s, Copied>, Fault>
    where
        'c: 's,
    {
        match self.short_binary(term)? {
            Some(borrowed) => Ok(borrowed),
            None if self.is_atom(term) => Ok(Borrowed::Word(IMMEDIATE, term.word())),
            None => self.lookup_other(term, scratch),
        }
    }

    /// Converts a name or a key that is neither an atom nor a binary of at most [`MAX_BINARY`]
    /// bytes.
    #[inline(never)]
    fn lookup_other<'s>(
        self,
        term: Term<'c>,
        scratch: &'s mut Scratch,
    ) -> Result<Borrowed<'s, Copied>, Fault>
    where
        'c: 's,
    {
        if let Some(compact) = self.compact_other(term, Purpose::Key, scratch)? {
            return Ok(compact);
        }
        self.deduct_cost(term, Purpose::Key)?;
        Ok(Borrowed::Foreign(Live::from(term)))
    }

    /// Converts a name or a key to be stored.
    pub fn to_key(self, term: Term<'c>) -> Result<Datum<Copied>, Fault> {
        self.store(term, Purpose::Key)
    }

    /// Returns an integer as a name or a key.
    pub fn integer_key(self, integer: i64) -> Datum<Copied> {
        Datum::word(INTEGER, integer as u64)
    }

    /// Whether the value of an attribute is equal to `term`, whose form as a key is `key`.
    ///
    /// May be called although it makes terms: it does not read the bytes of binaries.
    pub fn is_value(
        self,
        value: Seen<'_, Copied>,
        key: Borrowed<'_, Copied>,
        term: Term<'c>,
    ) -> Result<bool, Fault> {
        let stored = match (value, key) {
            (Seen::Integer(integer), Borrowed::Word(INTEGER, word)) => {
                return Ok(integer == word as i64)
            }
            (Seen::Integer(_), _) => return Ok(false),
            (Seen::Fixed(stored), _) => stored,
        };
        let needs_term = match (stored, key) {
            // A key with a zero in it may be a copy where the value is not.
            (View::Word(FLOAT, _) | View::Bytes(ENCODED, _), Borrowed::Foreign(_)) => true,
            // A long binary is shared as a value, and copied as a key.
            (View::Foreign(copied), Borrowed::Foreign(_) | Borrowed::Bytes(BINARY, _)) => {
                copied.is_shared_binary()
            }
            _ => false,
        };
        if !needs_term {
            return Ok(key.same(stored.borrow()));
        }
        self.deduct(self.cost_to_compare(value))?;
        let made = self.make_value(value)?;
        Ok(Copied::same(Live::from(made), Live::from(term)))
    }

    /// Whether the value of an attribute is a proper list with an element equal to `term`.
    pub fn is_list_with(self, value: Seen<'_, Copied>, term: Term<'c>) -> Result<bool, Fault> {
        self.deduct(self.cost_to_compare(value))?;
        let mut is_found = false;
        let mut list = self.make_value(value)?;
        while let Some((element, tail)) = self.get_cell(list) {
            is_found = is_found || Copied::same(Live::from(element), Live::from(term));
            list = tail;
        }
        Ok(is_found && self.is_nil(list))
    }

    /// Converts a term to be stored.
    pub fn to_datum(self, term: Term<'c>) -> Result<Datum<Copied>, Fault> {
        self.store(term, Purpose::Value)
    }

    /// Converts the value of an attribute to be stored.
    pub fn to_value(self, term: Term<'c>) -> Result<Value<Copied>, Fault> {
        if let Some(counter) = self.get_integer(term).and_then(Value::counter) {
            return Ok(counter);
        }
        Ok(Value::fixed(self.store_as(term, Purpose::Value, true)?))
    }

    /// Converts key and value of an attribute to be stored.
    pub fn to_attribute(self, key: Term<'c>, value: Term<'c>) -> Result<Attribute<Copied>, Fault> {
        Ok(Attribute {
            key: self.to_key(key)?,
            value: self.to_value(value)?,
        })
    }

    /// Makes the term of a stored one, and deducts the cost.
    #[inline]
    pub fn make(self, datum: &Datum<Copied>) -> Answer<'c> {
        self.deduct(self.cost_to_make(datum))?;
        Ok(self.make_deducted(datum))
    }

    /// Makes the term of a value, and deducts the cost.
    #[inline]
    pub fn make_value(self, value: Seen<'_, Copied>) -> Answer<'c> {
        self.deduct(self.cost_to_make_value(value))?;
        Ok(self.make_deducted_value(value))
    }

    /// Makes the term of a value whose cost was deducted before.
    #[inline]
    pub fn make_deducted_value(self, value: Seen<'_, Copied>) -> Term<'c> {
        match value {
            Seen::Integer(integer) => self.integer(integer),
            Seen::Fixed(view) => self.make_view(view),
        }
    }

    /// Returns about how many words [`make_value`](Self::make_value) costs.
    #[inline]
    pub fn cost_to_make_value(self, value: Seen<'_, Copied>) -> usize {
        match value {
            Seen::Integer(_) => 1,
            Seen::Fixed(view) => cost_of_view(view),
        }
    }

    /// Returns about how many words it costs to compare a value with an equal one, besides what it
    /// cost to convert the value.
    pub fn cost_to_compare(self, value: Seen<'_, Copied>) -> usize {
        match value {
            Seen::Fixed(View::Foreign(copied)) => copied.shared_bytes() / HASHED_PER_WORD,
            _ => 0,
        }
    }

    /// Makes the term of a value that is an integer of any size, and deducts the cost. Returns
    /// `None` for any other value.
    pub fn make_integer(self, value: Seen<'_, Copied>) -> Result<Option<Term<'c>>, Fault> {
        match value {
            Seen::Integer(_) | Seen::Fixed(View::Word(INTEGER, _) | View::Foreign(_)) => {
                let term = self.make_value(value)?;
                Ok(self.is_integer(term).then_some(term))
            }
            Seen::Fixed(View::Word(..) | View::Bytes(..)) => Ok(None),
        }
    }

    /// Makes the term of a stored one whose cost was deducted before.
    #[inline]
    pub fn make_deducted(self, datum: &Datum<Copied>) -> Term<'c> {
        self.make_view(datum.view())
    }

    #[inline]
    fn make_view(self, view: View<'_, Copied>) -> Term<'c> {
        match view {
            View::Word(INTEGER, word) => self.integer(word as i64),
            View::Word(FLOAT, word) => self.float(word),
            View::Word(_, word) => self.immediate(word),
            View::Bytes(BINARY, bytes) => self.binary(bytes),
            View::Bytes(_, bytes) => self.decode(&mut &*bytes),
            View::Foreign(copied) => copied.copy_to(self),
        }
    }

    /// Returns about how many words [`make`](Self::make) costs.
    #[inline]
    pub fn cost_to_make(self, datum: &Datum<Copied>) -> usize {
        cost_of_view(datum.view())
    }

    /// Returns about how many words it costs to hash a stored term and to compare it with another.
    #[inline]
    pub fn cost_to_look_up(self, datum: &Datum<Copied>) -> usize {
        match datum.view() {
            View::Word(..) => 1,
            View::Bytes(_, bytes) => 1 + bytes.len() / HASHED_PER_WORD,
            View::Foreign(copied) => copied.words() + copied.shared_bytes() / HASHED_PER_WORD,
        }
    }

    /// Converts an atom, or a binary of at most [`MAX_BINARY`] bytes.
    ///
    /// Most keys are atoms and most names binaries, and it is faster to ask for these than for the
    /// type.
    #[inline(always)]
    fn atom_or_binary<'s>(self, term: Term<'c>) -> Result<Option<Borrowed<'s, Copied>>, Fault>
    where
        'c: 's,
    {
        if self.is_atom(term) {
            return Ok(Some(Borrowed::Word(IMMEDIATE, term.word())));
        }
        self.short_binary(term)
    }

    /// Converts a binary of at most [`MAX_BINARY`] bytes.
    #[inline(always)]
    fn short_binary<'s>(self, term: Term<'c>) -> Result<Option<Borrowed<'s, Copied>>, Fault>
    where
        'c: 's,
    {
        match self.get_binary(term) {
            Some(bytes) if bytes.len() <= MAX_BINARY => {
                self.deduct(bytes.len() / COPIED_PER_WORD)?;
                Ok(Some(Borrowed::Bytes(BINARY, bytes)))
            }
            _ => Ok(None),
        }
    }

    /// Converts a term to a form without an environment, or returns `None` if it needs one. The
    /// term is none that [`atom_or_binary`](Self::atom_or_binary) converts.
    fn compact_other<'s>(
        self,
        term: Term<'c>,
        purpose: Purpose,
        scratch: &'s mut Scratch,
    ) -> Result<Option<Borrowed<'s, Copied>>, Fault>
    where
        'c: 's,
    {
        let immediate = Ok(Some(Borrowed::Word(IMMEDIATE, term.word())));
        match self.type_of(term) {
            term_type::INTEGER => {
                if let Some(integer) = self.get_integer(term) {
                    return Ok(Some(Borrowed::Word(INTEGER, integer as u64)));
                }
            }
            term_type::FLOAT => {
                if let Some(bits) = self.get_float_bits(term, purpose) {
                    return Ok(Some(Borrowed::Word(FLOAT, bits)));
                }
            }
            term_type::PID if self.is_local_pid(term) => return immediate,
            term_type::PORT if self.is_local_port(term) => return immediate,
            term_type::LIST if self.is_nil(term) => return immediate,
            term_type::PID | term_type::TUPLE | term_type::LIST | term_type::MAP
                if self.encode(term, purpose, scratch)? =>
            {
                return Ok(Some(Borrowed::Bytes(ENCODED, scratch)));
            }
            _ => (),
        }
        Ok(None)
    }

    fn store(self, term: Term<'c>, purpose: Purpose) -> Result<Datum<Copied>, Fault> {
        self.store_as(term, purpose, false)
    }

    /// Converts a term to be stored. `share`: as the value of an attribute, for which a long binary
    /// is [shared](crate::shared) without an environment.
    fn store_as(
        self,
        term: Term<'c>,
        purpose: Purpose,
        share: bool,
    ) -> Result<Datum<Copied>, Fault> {
        let longest = if share { MAX_VALUE } else { MAX_BINARY };
        // After a long binary, `atom_or_binary` would keep a copy of each unaligned one.
        if self.last_long_binary().is_some() {
            self.deduct_copy()?;
            let datum = self.read_binary(term, |bytes| {
                let is_short = bytes.len() <= longest;
                is_short.then(|| Datum::bytes(BINARY, bytes))
            });
            match datum {
                Some(Some(datum)) => {
                    self.deduct(datum.size() / COPIED_PER_WORD)?;
                    return Ok(datum);
                }
                Some(None) => return self.store_large(term, purpose, share),
                None => (),
            }
        }
        let mut scratch = Scratch::new();
        let compact = match self.atom_or_binary(term)? {
            Some(compact) => Some(compact),
            None => self.compact_other(term, purpose, &mut scratch)?,
        };
        Ok(match compact {
            Some(Borrowed::Word(kind, word)) => Datum::word(kind, word),
            Some(Borrowed::Bytes(BINARY, bytes)) if bytes.len() > longest => {
                return self.store_large(term, purpose, share);
            }
            Some(Borrowed::Bytes(kind, bytes)) => Datum::bytes(kind, bytes),
            Some(Borrowed::Foreign(_)) | None => return self.store_large(term, purpose, share),
        })
    }

    fn store_large(
        self,
        term: Term<'c>,
        purpose: Purpose,
        share: bool,
    ) -> Result<Datum<Copied>, Fault> {
        if let Some(length) = share.then(|| self.binary_length(term)).flatten() {
            if let Some(binary) = self.share_binary(term, length)? {
                return Ok(Datum::foreign(binary.into()));
            }
        }
        self.store_copy(term, purpose)
    }

    fn store_copy(self, term: Term<'c>, purpose: Purpose) -> Result<Datum<Copied>, Fault> {
        let survey = self.deduct_cost_to_store(term, purpose)?;
        let cost = survey.cost;
        self.deduct(ENVIRONMENT)?;
        let begin = survey.has_funs.then(Instant::now);
        let mut copied = if survey.has_parts {
            self.deduct(DEEP_COPY * cost.words + cost.bytes / COPIED_PER_WORD)?;
            // SAFETY: the environment is a new one, which nobody else uses; the copy is made in it.
            unsafe { Copied::with(|env| self.deep_copy(env, term), cost) }
        } else {
            Copied::new(term, cost)
        };
        if let Some(begin) = begin {
            // Whoever reads the copy need not move to a dirty scheduler because of a guess.
            copied.set_words(begin.elapsed().as_nanos() as usize / WORD_NANOSECONDS);
        }
        if purpose == Purpose::Key {
            copied.hash_once();
        }
        Ok(Datum::foreign(copied))
    }
}

/// Returns about how many words it costs to make a term.
#[inline]
fn cost_of_view(view: View<'_, Copied>) -> usize {
    match view {
        View::Word(..) => 1,
        View::Bytes(BINARY, bytes) => 4 + bytes.len() / COPIED_PER_WORD,
        View::Bytes(_, bytes) => 4 + bytes.len() / 4,
        View::Foreign(copied) => 8 + copied.words(),
    }
}
