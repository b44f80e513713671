//! What terms cost, known before anything is done with them.

use rustler::sys::ErlNifTerm;
use smallvec::SmallVec;

use crate::call::{Call, Fault};
use crate::conversion::{term_type, Use};

/// The largest term that is taken: a gigabyte of words. One whose parts are shared so often that it would unfold to more is refused, too.
const LARGEST: usize = 1 << 27;
/// How many bytes of a binary are hashed or compared in the time that a word of a term takes.
const BYTES_A_WORD: usize = 16;
/// What the copy of a fun may cost, for all that can be seen from outside.
const FUN: usize = 8192;
/// What it may cost to hash a bitstring that is not whole bytes: the VM tells nobody how long it is. More than a normal scheduler has.
const ODD_BITS: usize = 1 << 20;

/// What a term costs.
#[derive(Clone, Copy, Default)]
pub struct Weight {
    /// Words to copy.
    pub words: usize,
    /// Bytes of binaries, which are shared.
    pub bytes: usize,
}

/// The parts of a term that have parts of their own, and have not been looked into.
type Open = SmallVec<[ErlNifTerm; 64]>;

impl Weight {
    /// The greater of the two: the term keeps at least so many words, or bytes.
    pub fn heaviest(&self) -> usize {
        self.words.max(self.bytes)
    }
}

impl Call<'_> {
    /// What a term costs that is about to be copied, or hashed and compared; the call pays for it.
    pub fn weigh(&self, term: ErlNifTerm, purpose: Use) -> Result<Weight, Fault> {
        self.weigh_and_look(term, purpose, &mut None)
    }

    /// The same of a term that is about to be stored, and whether it has binaries that would [keep more](Call::keeps_more) than they show.
    pub fn weigh_to_store(&self, term: ErlNifTerm, purpose: Use) -> Result<(Weight, bool), Fault> {
        let mut has_parts = Some(false);
        let weight = self.weigh_and_look(term, purpose, &mut has_parts)?;
        Ok((weight, has_parts == Some(true)))
    }

    fn weigh_and_look(
        &self,
        term: ErlNifTerm,
        purpose: Use,
        has_parts: &mut Option<bool>,
    ) -> Result<Weight, Fault> {
        let mut weight = Weight::default();
        let mut open = Open::from_iter([term]);
        let mut add = |part, place, weight: &mut Weight, open: &mut Open| {
            self.weigh_part(part, place, purpose, has_parts, weight, open)
        };
        while let Some(term) = open.pop() {
            match self.type_of(term) {
                term_type::LIST => {
                    let mut list = term;
                    while let Some((head, tail)) = self.cell(list) {
                        add(head, 2, &mut weight, &mut open)?;
                        list = tail;
                    }
                    add(list, 0, &mut weight, &mut open)?;
                }
                term_type::MAP => {
                    self.allow(weight.words + 3 * self.map_size(term))?;
                    self.for_each_pair(term, |key, value| {
                        add(key, 2, &mut weight, &mut open)?;
                        add(value, 2, &mut weight, &mut open)
                    })?;
                }
                term_type::TUPLE => {
                    for element in self.elements(term).unwrap_or_default() {
                        add(*element, 1, &mut weight, &mut open)?;
                    }
                }
                _ => add(term, 0, &mut weight, &mut open)?,
            }
        }
        let read = match purpose {
            Use::Key => weight.bytes / BYTES_A_WORD,
            Use::Value => 0,
        };
        self.spend(weight.words + read)?;
        Ok(weight)
    }

    /// Adds the cost of a part and of its place in the whole; a part with parts of its own is left open.
    fn weigh_part(
        &self,
        part: ErlNifTerm,
        place: usize,
        purpose: Use,
        has_parts: &mut Option<bool>,
        weight: &mut Weight,
        open: &mut Open,
    ) -> Result<(), Fault> {
        weight.words += place;
        match self.type_of(part) {
            term_type::ATOM => (),
            term_type::INTEGER if self.get_integer(part).is_some() => (),
            term_type::LIST if self.is_nil(part) => (),
            term_type::LIST | term_type::TUPLE | term_type::MAP => {
                weight.words += 2;
                open.push(part);
            }
            term_type::BITSTRING => {
                weight.words += 8;
                let length = self.binary_length(part);
                match length {
                    Some(length) => weight.bytes += length,
                    None if purpose == Use::Key || has_parts.is_some() => self.allow(ODD_BITS)?,
                    None => (),
                }
                if *has_parts == Some(false) {
                    *has_parts = Some(length.is_none_or(|length| self.keeps_more(part, length)));
                }
            }
            term_type::FUN => weight.words += FUN,
            term_type::INTEGER => {
                weight.words += 4 + self.bytes_of_integer(part) / size_of::<u64>()
            }
            _ => weight.words += 4,
        }
        if weight.words > LARGEST {
            return Err(Fault::BadArgument);
        }
        self.allow(weight.words)
    }
}
