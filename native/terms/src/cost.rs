//! The cost of a term, computed before the term is converted.

use smallvec::SmallVec;

use crate::call::{Call, Fault};
use crate::reading::Purpose;
use crate::term::Term;
use crate::vm::term_type;

/// Words of the largest term that is accepted: a gigabyte. A term with shared parts counts as if
/// each occurrence were a copy.
const MAX_WORDS: usize = 1 << 27;
/// Bytes that are copied in the time that one word of a term takes.
pub(crate) const COPIED_PER_WORD: usize = 64;
/// Bytes of a binary that are hashed or compared in the time that one word of a term takes.
pub(crate) const HASHED_PER_WORD: usize = 16;
/// Cost of copying a fun, whose size the NIF API does not expose: more than the budget on a normal
/// scheduler.
const FUN: usize = 8192;
/// Cost of hashing a bitstring that is not whole bytes, whose length the NIF API does not expose:
/// more than the budget on a normal scheduler.
const UNALIGNED_BITS: usize = 1 << 20;

/// What a term costs.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Words to copy.
    pub words: usize,
    /// Bytes of binaries, which a copy shares.
    pub bytes: usize,
}

impl Cost {
    /// Returns the greater of words and bytes.
    pub fn max(&self) -> usize {
        self.words.max(self.bytes)
    }
}

/// What is known of a term before it is stored.
pub struct Survey {
    /// What a copy costs.
    pub cost: Cost,
    /// Whether the term refers to [parts of larger binaries](crate::binaries).
    pub has_parts: bool,
    /// Whether there are funs in the term, so that its cost is only a guess.
    pub has_funs: bool,
}

/// The computation of the cost of one term.
///
/// It does not recurse, because terms may be nested as deep as memory allows.
struct Computation<'c> {
    call: Call<'c>,
    purpose: Purpose,
    /// Whether to look for parts of larger binaries.
    find_parts: bool,
    /// Whether a part of a larger binary was found.
    has_parts: bool,
    /// Words that a fun counts for.
    words_of_fun: usize,
    has_funs: bool,
    cost: Cost,
    /// Compound terms that are still to be visited.
    open: SmallVec<[Term<'c>; 64]>,
}

impl<'c> Call<'c> {
    /// Returns the cost of a term that will be copied, or hashed and compared, and deducts it.
    pub fn deduct_cost(self, term: Term<'c>, purpose: Purpose) -> Result<Cost, Fault> {
        let computation = Computation::new(self, term, purpose);
        Ok(self.compute_and_deduct(computation)?.cost)
    }

    /// Deducts the cost of looking at a term that the caller will send: the VM copies it then.
    pub fn deduct_cost_to_send(self, term: Term<'c>) -> Result<(), Fault> {
        let mut computation = Computation::new(self, term, Purpose::Value);
        computation.words_of_fun = 4;
        self.compute_and_deduct(computation).map(drop)
    }

    /// Surveys a term that will be stored, and deducts its cost.
    pub fn deduct_cost_to_store(self, term: Term<'c>, purpose: Purpose) -> Result<Survey, Fault> {
        let mut computation = Computation::new(self, term, purpose);
        computation.find_parts = true;
        let computation = self.compute_and_deduct(computation)?;
        Ok(Survey {
            cost: computation.cost,
            has_parts: computation.has_parts,
            has_funs: computation.has_funs,
        })
    }

    fn compute_and_deduct(
        self,
        mut computation: Computation<'c>,
    ) -> Result<Computation<'c>, Fault> {
        while let Some(term) = computation.open.pop() {
            computation.visit(term)?;
        }
        let cost = computation.cost;
        let hashed = match computation.purpose {
            Purpose::Key => cost.bytes / HASHED_PER_WORD,
            Purpose::Value => 0,
        };
        self.deduct(cost.words + hashed)?;
        Ok(computation)
    }
}

impl<'c> Computation<'c> {
    fn new(call: Call<'c>, term: Term<'c>, purpose: Purpose) -> Self {
        Computation {
            call,
            purpose,
            find_parts: false,
            has_parts: false,
            words_of_fun: FUN,
            has_funs: false,
            cost: Cost::default(),
            open: SmallVec::from_iter([term]),
        }
    }

    /// Adds what is in a term, or the term itself if nothing is in it.
    fn visit(&mut self, term: Term<'c>) -> Result<(), Fault> {
        let call = self.call;
        match call.type_of(term) {
            term_type::LIST => {
                let mut list = term;
                while let Some((head, tail)) = call.get_cell(list) {
                    self.add(head, 2)?;
                    list = tail;
                }
                self.add(list, 0)
            }
            term_type::MAP => {
                call.allow(self.cost.words + 3 * call.map_size(term))?;
                call.for_each_pair(term, |key, value| {
                    self.add(key, 2)?;
                    self.add(value, 2)
                })
            }
            term_type::TUPLE => {
                let mut elements = call.get_tuple(term).unwrap_or_default().iter();
                elements.try_for_each(|element| self.add(*element, 1))
            }
            _ => self.add(term, 0),
        }
    }

    /// Adds a term, and the words that the enclosing term has for it. A compound term is left to
    /// be visited.
    fn add(&mut self, term: Term<'c>, enclosing: usize) -> Result<(), Fault> {
        let call = self.call;
        self.cost.words += enclosing;
        match call.type_of(term) {
            term_type::ATOM => (),
            term_type::INTEGER if call.get_integer(term).is_some() => (),
            term_type::LIST if call.is_nil(term) => (),
            term_type::LIST | term_type::TUPLE | term_type::MAP => {
                self.cost.words += 2;
                self.open.push(term);
            }
            term_type::BITSTRING => self.add_bitstring(term)?,
            term_type::FUN => {
                self.has_funs = true;
                self.cost.words += self.words_of_fun;
            }
            term_type::INTEGER => {
                self.cost.words += 4 + call.integer_bytes(term)? / size_of::<u64>()
            }
            _ => self.cost.words += 4,
        }
        if self.cost.words > MAX_WORDS {
            return Err(Fault::BadArgument);
        }
        call.allow(self.cost.words)
    }

    fn add_bitstring(&mut self, term: Term<'c>) -> Result<(), Fault> {
        let call = self.call;
        self.cost.words += 8;
        call.deduct_copy()?;
        let length = call.binary_length(term);
        match length {
            Some(length) => self.cost.bytes += length,
            None if self.purpose == Purpose::Key || self.find_parts => {
                call.allow(UNALIGNED_BITS)?
            }
            None => (),
        }
        if self.find_parts && !self.has_parts {
            // SAFETY: `binary_length` has returned the length of this binary.
            self.has_parts = length.is_none_or(|length| unsafe { call.is_part(term, length) });
        }
        Ok(())
    }
}
