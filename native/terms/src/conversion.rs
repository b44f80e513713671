//! Terms to stored values and back.
//!
//! | term | stored as |
//! | --- | --- |
//! | atom, `[]`, local pid, local port | its word, which the VM never moves or frees |
//! | integer of at most 64 bits, float | a word; a zero in a key may be a copy, see [`Purpose`] |
//! | binary of at most 4096 bytes | its bytes |
//! | remote pid; small tuple, list or map of all these | an [encoding](crate::encoding) |
//! | anything else | a copy in an environment of its own, [`Copied`] |
//!
//! Large binaries in a copy are [shared](crate::binaries). The form of a term depends only on the
//! term, so that equal terms have equal forms. A call [deducts](Call::deduct) the cost of a
//! conversion before it converts.

use std::time::Instant;

use proctab_table::attributes::Attribute;
use proctab_table::datum::{Borrowed, Datum, Foreign, Kind, View};
use proctab_table::value::{Counter, Value};

use crate::call::{Answer, Call, Fault};
use crate::copied::{Copied, Live, ENVIRONMENT};
use crate::encoding::{Scratch, COPIED_PER_WORD};
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

/// Bytes of the longest binary that is copied into the table. Longer ones are shared.
const MAX_BINARY: usize = 4096;
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
        value: &Value<Copied>,
        key: Borrowed<'_, Copied>,
        term: Term<'c>,
    ) -> Result<bool, Fault> {
        let stored = match (value, key) {
            (Value::Integer(counter), Borrowed::Word(INTEGER, word)) => {
                return Ok(counter.get() == word as i64)
            }
            (Value::Integer(_), _) => return Ok(false),
            (Value::Fixed(stored), _) => stored,
        };
        match (stored.view(), key) {
            // A key with a zero in it may be a copy where the value is not.
            (View::Word(FLOAT, _) | View::Bytes(ENCODED, _), Borrowed::Foreign(_)) => {
                let made = self.make(stored)?;
                Ok(Copied::same(Live::from(made), Live::from(term)))
            }
            _ => Ok(key.same(stored.borrow())),
        }
    }

    /// Whether the value of an attribute is a proper list with an element equal to `term`.
    pub fn is_list_with(self, value: &Value<Copied>, term: Term<'c>) -> Result<bool, Fault> {
        let Some(stored) = value.datum() else {
            return Ok(false);
        };
        let mut is_found = false;
        let mut list = self.make(stored)?;
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
        if let Some(counter) = self.get_integer(term).and_then(Counter::new) {
            return Ok(Value::Integer(counter));
        }
        Ok(Value::Fixed(self.to_datum(term)?))
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
    pub fn make_value(self, value: &Value<Copied>) -> Answer<'c> {
        match value {
            Value::Integer(counter) => Ok(self.integer(counter.get())),
            Value::Fixed(datum) => self.make(datum),
        }
    }

    /// Makes the term of a value that is an integer of any size, and deducts the cost. Returns
    /// `None` for any other value.
    pub fn make_integer(self, value: &Value<Copied>) -> Result<Option<Term<'c>>, Fault> {
        let Value::Fixed(datum) = value else {
            return self.make_value(value).map(Some);
        };
        match datum.view() {
            View::Word(INTEGER, _) | View::Foreign(_) => {
                let term = self.make(datum)?;
                Ok(self.is_integer(term).then_some(term))
            }
            View::Word(..) | View::Bytes(..) => Ok(None),
        }
    }

    /// Makes the term of a stored one whose cost was deducted before.
    #[inline]
    pub fn make_deducted(self, datum: &Datum<Copied>) -> Term<'c> {
        match datum.view() {
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
        match datum.view() {
            View::Word(..) => 1,
            View::Bytes(BINARY, bytes) => 4 + bytes.len() / COPIED_PER_WORD,
            View::Bytes(_, bytes) => 4 + bytes.len() / 4,
            View::Foreign(copied) => 8 + copied.words(),
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
        // After a long binary, `atom_or_binary` would keep a copy of each unaligned one.
        if self.last_long_binary().is_some() {
            let datum = self.read_binary(term, |bytes| {
                let is_short = bytes.len() <= MAX_BINARY;
                is_short.then(|| Datum::bytes(BINARY, bytes))
            });
            match datum {
                Some(Some(datum)) => {
                    self.deduct(datum.size() / COPIED_PER_WORD)?;
                    return Ok(datum);
                }
                Some(None) => return self.store_copy(term, purpose),
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
            Some(Borrowed::Bytes(kind, bytes)) => Datum::bytes(kind, bytes),
            Some(Borrowed::Foreign(_)) | None => return self.store_copy(term, purpose),
        })
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
        Ok(Datum::foreign(copied))
    }
}
