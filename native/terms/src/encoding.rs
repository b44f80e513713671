//! The encoding of small tuples, lists and maps, and of what is in them.
//!
//! It is a sequence of items, outer before inner. An item begins with a byte whose upper half is a [`tag`], and whose lower half says how
//! many bytes of a number follow it. Nesting is limited, so that encoding and decoding may recurse.

use rustler::sys::{enif_make_map_from_arrays, enif_make_tuple_from_array, ErlNifTerm};
use smallvec::SmallVec;

use crate::call::{Call, Fault};
use crate::conversion::{term_type, to_term, to_word, Use, BYTES_A_WORD};

/// The longest encoding, and the deepest.
pub const LONGEST_ENCODING: usize = 1024;
const DEEPEST: usize = 24;
/// The VM keeps larger maps as trees, in an order that two equal maps need not share.
const LARGEST_MAP: usize = 32;

/// How many items a pid of another node costs, which the VM writes.
const EXTERNAL_ITEMS: usize = 16;

/// Where a term is encoded before anybody knows whether it will be stored.
pub type Scratch = SmallVec<[u8; 128]>;

/// An encoding that is being written.
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
    /// Ends an improper list; its tail follows.
    pub const TAIL: u8 = 8;
    /// A pid of another node, in the VM's external format.
    pub const EXTERNAL: u8 = 9;
}

impl Encoding<'_> {
    /// Writes an item's first byte and its number.
    fn put(&mut self, tag: u8, number: u64) {
        let length = 8 - number.leading_zeros() as usize / 8;
        self.items += 1;
        self.bytes.push(tag << 4 | length as u8);
        self.bytes
            .extend_from_slice(&number.to_le_bytes()[..length]);
    }
}

impl Call<'_> {
    /// Encodes a term; `false` when it cannot be encoded. The call pays for the attempt.
    pub fn encode(
        &self,
        term: ErlNifTerm,
        purpose: Use,
        scratch: &mut Scratch,
    ) -> Result<bool, Fault> {
        scratch.clear();
        let mut encoding = Encoding {
            bytes: scratch,
            items: 0,
        };
        let encoded = self.encode_item(term, purpose, DEEPEST, &mut encoding);
        self.spend(encoding.items + encoding.bytes.len() / BYTES_A_WORD)?;
        Ok(encoded.is_some())
    }

    /// Encodes a term and what is in it; none when it cannot be encoded.
    fn encode_item(
        &self,
        term: ErlNifTerm,
        purpose: Use,
        deeper: usize,
        into: &mut Encoding,
    ) -> Option<()> {
        if deeper == 0 || into.bytes.len() > LONGEST_ENCODING {
            return None;
        }
        let deeper = deeper - 1;
        match self.type_of(term) {
            term_type::ATOM => into.put(tag::IMMEDIATE, to_word(term)),
            term_type::INTEGER => {
                let integer = self.get_integer(term)?;
                into.put(tag::INTEGER, (integer << 1 ^ integer >> 63) as u64);
            }
            term_type::FLOAT => into.put(tag::FLOAT, self.float(term, purpose)?),
            term_type::PID if self.is_local_pid(term) => {
                into.put(tag::IMMEDIATE, to_word(term));
            }
            term_type::PID => self.read_external(term, |bytes| {
                into.put(tag::EXTERNAL, bytes.len() as u64);
                into.bytes.extend_from_slice(bytes);
                into.items += EXTERNAL_ITEMS;
            })?,
            term_type::PORT if self.is_local_port(term) => {
                into.put(tag::IMMEDIATE, to_word(term));
            }
            term_type::BITSTRING => {
                self.read_binary(term, |bytes| {
                    let short = bytes.len() <= LONGEST_ENCODING;
                    short.then(|| {
                        into.put(tag::BINARY, bytes.len() as u64);
                        into.bytes.extend_from_slice(bytes);
                    })
                })??;
            }
            term_type::TUPLE => {
                let elements = self.elements(term)?;
                into.put(tag::TUPLE, elements.len() as u64);
                for element in elements {
                    self.encode_item(*element, purpose, deeper, into)?;
                }
            }
            term_type::MAP => {
                let size = self.map_size(term);
                if size > LARGEST_MAP {
                    return None;
                }
                into.put(tag::MAP, size as u64);
                let pairs = self.for_each_pair(term, |key, value| {
                    let key = self.encode_item(key, purpose, deeper, into);
                    let value = key.and_then(|()| self.encode_item(value, purpose, deeper, into));
                    value.ok_or(())
                });
                pairs.ok()?;
            }
            term_type::LIST => {
                into.put(tag::LIST, 0);
                let mut list = term;
                while let Some((head, tail)) = self.cell(list) {
                    self.encode_item(head, purpose, deeper, into)?;
                    list = tail;
                }
                if self.is_nil(list) {
                    into.put(tag::END, 0);
                } else {
                    into.put(tag::TAIL, 0);
                    self.encode_item(list, purpose, deeper, into)?;
                }
            }
            _ => return None,
        }
        (into.bytes.len() <= LONGEST_ENCODING).then_some(())
    }

    /// The term of the item that `bytes` begin with, which is taken off them.
    pub fn decode(&self, bytes: &mut &[u8]) -> ErlNifTerm {
        let (tag, number) = take(bytes);
        match tag {
            tag::INTEGER => self.integer((number >> 1) as i64 ^ -((number & 1) as i64)),
            tag::FLOAT => self.make_float(number),
            tag::BINARY => {
                let (binary, rest) = bytes.split_at(number as usize);
                *bytes = rest;
                self.make_binary(binary)
            }
            tag::TUPLE => {
                let elements: SmallVec<[ErlNifTerm; 8]> =
                    (0..number).map(|_| self.decode(bytes)).collect();
                // SAFETY: the elements are terms of the caller's environment.
                unsafe {
                    enif_make_tuple_from_array(self.env, elements.as_ptr(), elements.len() as u32)
                }
            }
            tag::MAP => {
                let (keys, values): (SmallVec<[ErlNifTerm; 8]>, SmallVec<[ErlNifTerm; 8]>) = (0
                    ..number)
                    .map(|_| (self.decode(bytes), self.decode(bytes)))
                    .unzip();
                let mut map = ErlNifTerm::default();
                // SAFETY: keys and values are terms of the caller's environment, as many of the one as of the other.
                unsafe {
                    enif_make_map_from_arrays(
                        self.env,
                        keys.as_ptr(),
                        values.as_ptr(),
                        keys.len(),
                        &mut map,
                    );
                }
                map
            }
            tag::LIST => {
                let mut elements: SmallVec<[ErlNifTerm; 16]> = SmallVec::new();
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
            tag::EXTERNAL => {
                let (external, rest) = bytes.split_at(number as usize);
                *bytes = rest;
                self.make_external(external)
            }
            _ => to_term(number),
        }
    }
}

/// Reads what [`Encoding::put`] wrote.
fn take(bytes: &mut &[u8]) -> (u8, u64) {
    let length = (bytes[0] & 0xF) as usize;
    let mut number = [0; 8];
    number[..length].copy_from_slice(&bytes[1..=length]);
    let tag = bytes[0] >> 4;
    *bytes = &bytes[1 + length..];
    (tag, u64::from_le_bytes(number))
}
