//! The encoding of small tuples, lists and maps, and of the terms in them.
//!
//! An encoding is a sequence of items, outer before inner. The first byte of an item has a tag
//! in its upper half, and in its lower half the number of bytes of the little-endian number that
//! follows. Nesting is limited, so that encoding and decoding may recurse.
//!
//! Decoding trusts its input: it reads what encoding wrote, from a stored term that never changes.
//! A wrong tag would give a wrong term and a wrong length a panic; neither reads memory outside of
//! the encoding. But a wrong word of an immediate would be a wild pointer to the VM.

use smallvec::SmallVec;

use crate::call::{Call, Fault};
use crate::cost::COPIED_PER_WORD;
use crate::reading::{Purpose, SHORT_BINARY};
use crate::term::Term;
use crate::vm::term_type;

/// Bytes of the longest encoding. Any binary in it is short.
const MAX_BYTES: usize = SHORT_BINARY;
/// The deepest nesting of an encoding.
const MAX_DEPTH: usize = 24;
/// Keys of the largest map. The VM keeps larger maps as trees, in an order that may differ between
/// equal maps.
const MAX_MAP: usize = 32;

/// Items that cost as much as a pid of another node, which the VM encodes.
const EXTERNAL_ITEMS: usize = 16;

/// A buffer for the encoding of a term that is looked up, or not stored yet.
pub type Scratch = SmallVec<[u8; 128]>;

/// An encoding in progress.
struct Encoding<'s> {
    bytes: &'s mut Scratch,
    items: usize,
}

mod tag {
    pub const IMMEDIATE: u8 = 0;
    pub const INTEGER: u8 = 1;
    pub const FLOAT: u8 = 2;
    pub const BINARY: u8 = 3;
    pub const TUPLE: u8 = 4;
    pub const MAP: u8 = 5;
    pub const LIST: u8 = 6;
    /// Ends a proper list.
    pub const END: u8 = 7;
    /// Ends an improper list. Its tail follows.
    pub const TAIL: u8 = 8;
    /// A pid of another node, in the VM's external format.
    pub const EXTERNAL: u8 = 9;
}

impl Encoding<'_> {
    /// Writes the first byte of an item, and its number.
    #[inline]
    fn put(&mut self, tag: u8, number: u64) {
        let length = 8 - number.leading_zeros() as usize / 8;
        self.items += 1;
        self.bytes.push((tag << 4) | length as u8);
        // For so few bytes this is faster than to extend by a slice.
        for byte in 0..length {
            self.bytes.push((number >> (8 * byte)) as u8);
        }
    }

    /// Writes an item whose number is the length of the bytes that follow.
    fn put_bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.put(tag, bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }
}

impl<'c> Call<'c> {
    /// Encodes a term, and deducts the cost. Returns `false` if the term cannot be encoded.
    pub fn encode(
        self,
        term: Term<'c>,
        purpose: Purpose,
        scratch: &mut Scratch,
    ) -> Result<bool, Fault> {
        scratch.clear();
        let mut encoding = Encoding {
            bytes: scratch,
            items: 0,
        };
        let encoded = self.encode_item(term, purpose, MAX_DEPTH, &mut encoding);
        self.deduct(encoding.items + encoding.bytes.len() / COPIED_PER_WORD)?;
        Ok(encoded.is_some())
    }

    /// Writes a term and the terms in it. Returns `None` if it cannot be encoded.
    fn encode_item(
        self,
        term: Term<'c>,
        purpose: Purpose,
        depth: usize,
        into: &mut Encoding,
    ) -> Option<()> {
        if depth == 0 || into.bytes.len() > MAX_BYTES {
            return None;
        }
        let depth = depth - 1;
        match self.type_of(term) {
            term_type::ATOM => into.put(tag::IMMEDIATE, term.word()),
            term_type::INTEGER => {
                let integer = self.get_integer(term)?;
                into.put(tag::INTEGER, ((integer << 1) ^ (integer >> 63)) as u64);
            }
            term_type::FLOAT => into.put(tag::FLOAT, self.get_float_bits(term, purpose)?),
            term_type::PID if self.is_local_pid(term) => into.put(tag::IMMEDIATE, term.word()),
            term_type::PID => self.read_external(term, |bytes| {
                into.put_bytes(tag::EXTERNAL, bytes);
                into.items += EXTERNAL_ITEMS;
            })?,
            term_type::PORT if self.is_local_port(term) => into.put(tag::IMMEDIATE, term.word()),
            term_type::BITSTRING => {
                self.read_binary(term, |bytes| {
                    let is_short = bytes.len() <= MAX_BYTES;
                    is_short.then(|| into.put_bytes(tag::BINARY, bytes))
                })??;
            }
            term_type::TUPLE => {
                let elements = self.get_tuple(term)?;
                into.put(tag::TUPLE, elements.len() as u64);
                for element in elements {
                    self.encode_item(*element, purpose, depth, into)?;
                }
            }
            term_type::MAP => {
                let size = self.map_size(term);
                if size > MAX_MAP {
                    return None;
                }
                into.put(tag::MAP, size as u64);
                let pairs = self.for_each_pair(term, |key, value| {
                    let key = self.encode_item(key, purpose, depth, into);
                    let value = key.and_then(|()| self.encode_item(value, purpose, depth, into));
                    value.ok_or(())
                });
                pairs.ok()?;
            }
            term_type::LIST => {
                into.put(tag::LIST, 0);
                let mut list = term;
                while let Some((head, tail)) = self.get_cell(list) {
                    self.encode_item(head, purpose, depth, into)?;
                    list = tail;
                }
                if self.is_nil(list) {
                    into.put(tag::END, 0);
                } else {
                    into.put(tag::TAIL, 0);
                    self.encode_item(list, purpose, depth, into)?;
                }
            }
            _ => return None,
        }
        (into.bytes.len() <= MAX_BYTES).then_some(())
    }

    /// Makes the term of the first item of `bytes`, and advances `bytes` past it.
    pub fn decode(self, bytes: &mut &[u8]) -> Term<'c> {
        let (tag, number) = take(bytes);
        match tag {
            tag::INTEGER => self.integer((number >> 1) as i64 ^ -((number & 1) as i64)),
            tag::FLOAT => self.float(number),
            tag::BINARY => self.binary(take_bytes(bytes, number)),
            tag::TUPLE => {
                let elements: SmallVec<[Term<'c>; 8]> =
                    (0..number).map(|_| self.decode(bytes)).collect();
                self.tuple_of(&elements)
            }
            tag::MAP => {
                let (keys, values): (SmallVec<[Term<'c>; 8]>, SmallVec<[Term<'c>; 8]>) = (0
                    ..number)
                    .map(|_| (self.decode(bytes), self.decode(bytes)))
                    .unzip();
                self.map(&keys, &values)
            }
            tag::LIST => {
                let mut elements: SmallVec<[Term<'c>; 16]> = SmallVec::new();
                while !matches!(bytes[0] >> 4, tag::END | tag::TAIL) {
                    elements.push(self.decode(bytes));
                }
                let (end, _) = take(bytes);
                let tail = match end {
                    tag::END => self.nil(),
                    _ => self.decode(bytes),
                };
                elements
                    .iter()
                    .rfold(tail, |tail, head| self.cons(*head, tail))
            }
            tag::EXTERNAL => self.external(take_bytes(bytes, number)),
            _ => self.immediate(number),
        }
    }
}

/// Reads what [`Encoding::put`] wrote, and advances `bytes` past it.
fn take(bytes: &mut &[u8]) -> (u8, u64) {
    let (tag, length) = (bytes[0] >> 4, (bytes[0] & 0xF) as usize);
    let (number, rest) = bytes[1..].split_at(length);
    *bytes = rest;
    let number = number.iter().rev();
    (
        tag,
        number.fold(0, |number, byte| (number << 8) | u64::from(*byte)),
    )
}

/// Returns the first `count` bytes, and advances `bytes` past them.
fn take_bytes<'b>(bytes: &mut &'b [u8], count: u64) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(count as usize);
    *bytes = rest;
    taken
}
