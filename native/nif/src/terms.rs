//! Terms to values and back: the only file that knows what terms look like.
//!
//! | term | stored as |
//! | --- | --- |
//! | atom, `[]`, local pid, local port | its own word: the VM never moves or frees these |
//! | integer of 64 bits, float | a word (but a zero in a key may be a copy, see [`SIGNED_ZEROS`]) |
//! | binary up to [`LONGEST_BYTES`] | its bytes |
//! | tuple, list, map of at most 32 keys, made of all these and small | an encoding of our own, below |
//! | anything else | a copy in an environment of its own |
//!
//! Which form a term gets depends on nothing but the term, so that equal terms have equal forms.
//!
//! The encoding is a sequence of items, outer before inner. An item begins with a byte whose upper half is a [`tag`], and whose lower half says how
//! many bytes of a number follow it. Nesting is limited, so that encoding and decoding may recurse.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use rustler::sys::*;
use smallvec::SmallVec;

use proctab_table::attributes::Attribute;
use proctab_table::datum::{Borrowed, Datum, Foreign, Kind, View};
use proctab_table::reclaim;
use proctab_table::value::{Counter, Value};

use crate::call::{Call, Fault};

/// The term itself.
const IMMEDIATE: Kind = Kind::new(0);
/// An integer of 64 bits.
const INTEGER: Kind = Kind::new(1);
/// The bits of a float.
const FLOAT: Kind = Kind::new(2);
/// The bytes of a binary.
const BINARY: Kind = Kind::new(3);
/// Encoded.
const ENCODED: Kind = Kind::new(4);

/// The longest binary that is copied into the table; longer ones are shared.
const LONGEST_BYTES: usize = 4096;
/// The longest encoding, and the deepest.
const LONGEST_ENCODING: usize = 1024;
const DEEPEST: usize = 24;
/// The VM keeps larger maps as trees, in an order that two equal maps need not share.
const LARGEST_MAP: usize = 32;

/// A copied term of so many words, or with so many bytes of binaries, is freed in the background.
const HEAVY: usize = 4096;
/// How many bytes of a binary are hashed or compared in the time that a word of a term takes.
const BYTES_A_WORD: usize = 16;
/// What the copy of a fun may cost, for all that can be seen from outside.
const FUN: usize = 8192;

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
}

/// Whether this VM tells `0.0` from `-0.0` when it compares with `=:=`, as releases from 27 on do.
static SIGNED_ZEROS: AtomicBool = AtomicBool::new(false);

/// Learns what differs between releases of the VM.
pub fn learn(env: *mut ErlNifEnv) {
    // SAFETY: `env` is the environment of the VM's call.
    let signed =
        unsafe { enif_is_identical(enif_make_double(env, 0.0), enif_make_double(env, -0.0)) == 0 };
    SIGNED_ZEROS.store(signed, Ordering::Relaxed);
}

/// A term in an environment of its own.
pub struct Copied {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    weight: Weight,
}

// SAFETY: an environment that belongs to no process may be used and freed by any thread. This one is written before it is
// shared, and only read from then on.
unsafe impl Send for Copied {}
// SAFETY: as above.
unsafe impl Sync for Copied {}

/// A term in somebody's environment.
#[derive(Clone, Copy)]
pub struct Loose<'a>(ErlNifTerm, PhantomData<&'a ()>);

impl Foreign for Copied {
    type Borrowed<'a> = Loose<'a>;

    fn borrow(&self) -> Loose<'_> {
        Loose(self.term, PhantomData)
    }

    fn hash(borrowed: Loose<'_>) -> u64 {
        // SAFETY: the term is alive for as long as `borrowed`.
        unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, borrowed.0, 0) }
    }

    fn same(one: Loose<'_>, other: Loose<'_>) -> bool {
        // SAFETY: the terms are alive for as long as their borrows.
        unsafe { enif_is_identical(one.0, other.0) != 0 }
    }

    fn is_heavy(&self) -> bool {
        self.weight.words.max(self.weight.bytes) > HEAVY
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        struct Environment(*mut ErlNifEnv);

        // SAFETY: nobody else has this environment any more.
        unsafe impl Send for Environment {}

        impl Drop for Environment {
            fn drop(&mut self) {
                // SAFETY: it was allocated by `enif_alloc_env` and is freed once.
                unsafe { enif_free_env(self.0) };
            }
        }

        let environment = Environment(self.env);
        if self.is_heavy() {
            reclaim::later(environment);
        }
    }
}

/// What a term costs.
#[derive(Clone, Copy, Default)]
struct Weight {
    /// Words to copy.
    words: usize,
    /// Bytes of binaries, which are shared.
    bytes: usize,
}

/// Where a term is encoded before anybody knows whether it will be stored.
pub type Scratch = SmallVec<[u8; 128]>;

/// What floats are compared by.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    /// As a name or a key: what `=:=` holds equal has to be equal.
    Key,
    /// As a value: exact.
    Value,
}

impl Call<'_> {
    /// A name or a key, for a look-up.
    #[inline]
    pub fn key<'s>(
        &'s self,
        term: ErlNifTerm,
        scratch: &'s mut Scratch,
    ) -> Result<Borrowed<'s, Copied>, Fault> {
        self.borrow(term, Use::Key, scratch)
    }

    /// A name or a key, to be stored.
    pub fn owned_key(&self, term: ErlNifTerm) -> Result<Datum<Copied>, Fault> {
        self.own(term, Use::Key)
    }

    /// A term, to be stored.
    pub fn datum(&self, term: ErlNifTerm) -> Result<Datum<Copied>, Fault> {
        self.own(term, Use::Value)
    }

    /// The value of an attribute, to be stored.
    pub fn value(&self, term: ErlNifTerm) -> Result<Value<Copied>, Fault> {
        if let Some(counter) = self.get_integer(term).and_then(Counter::new) {
            return Ok(Value::Integer(counter));
        }
        Ok(Value::Fixed(self.datum(term)?))
    }

    /// An attribute, to be stored.
    pub fn attribute(
        &self,
        key: ErlNifTerm,
        value: ErlNifTerm,
    ) -> Result<Attribute<Copied>, Fault> {
        Ok(Attribute {
            key: self.owned_key(key)?,
            value: self.value(value)?,
        })
    }

    /// The integer that a term is, if it has 64 bits at the most.
    #[inline]
    pub fn get_integer(&self, term: ErlNifTerm) -> Option<i64> {
        let mut integer = 0;
        // SAFETY: the term is of the caller's environment.
        (unsafe { enif_get_int64(self.env, term, &mut integer) } != 0).then_some(integer)
    }

    /// Whether a term is an integer, of any size.
    pub fn is_integer(&self, term: ErlNifTerm) -> bool {
        matches!(
            self.kind_of(term),
            ErlNifTermType::ERL_NIF_TERM_TYPE_INTEGER
        )
    }

    /// The word of an atom.
    #[inline]
    pub fn atom(&self, place: usize) -> Result<u64, Fault> {
        let term = self.argument(place)?;
        // SAFETY: the term is of the caller's environment.
        if unsafe { enif_is_atom(self.env, term) } == 0 {
            return Err(Fault::BadArgument);
        }
        Ok(to_word(term))
    }

    /// The word of a local pid.
    pub fn pid(&self, place: usize) -> Result<u64, Fault> {
        let term = self.argument(place)?;
        if self.is_local_pid(term) {
            return Ok(to_word(term));
        }
        Err(Fault::BadArgument)
    }

    /// A pid, of any node.
    pub fn any_pid(&self, place: usize) -> Result<Datum<Copied>, Fault> {
        let term = self.argument(place)?;
        match self.kind_of(term) {
            ErlNifTermType::ERL_NIF_TERM_TYPE_PID => self.owned_key(term),
            _ => Err(Fault::BadArgument),
        }
    }

    /// The two elements of a pair.
    #[inline]
    pub fn pair(&self, term: ErlNifTerm) -> Option<(ErlNifTerm, ErlNifTerm)> {
        match self.elements(term)? {
            [one, other] => Some((*one, *other)),
            _ => None,
        }
    }

    /// Head and tail of a list cell.
    #[inline]
    pub fn cell(&self, list: ErlNifTerm) -> Option<(ErlNifTerm, ErlNifTerm)> {
        let (mut head, mut tail) = (ErlNifTerm::default(), ErlNifTerm::default());
        // SAFETY: the term is of the caller's environment.
        let found = unsafe { enif_get_list_cell(self.env, list, &mut head, &mut tail) };
        (found != 0).then_some((head, tail))
    }

    /// Calls `visit` with the elements of a list, which must be a proper one.
    pub fn for_each_element(
        &self,
        mut list: ErlNifTerm,
        mut visit: impl FnMut(ErlNifTerm) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut words = 0;
        while let Some((element, tail)) = self.cell(list) {
            words += 8;
            self.allow(words)?;
            visit(element)?;
            list = tail;
        }
        if self.is_nil(list) {
            Ok(())
        } else {
            Err(Fault::BadArgument)
        }
    }

    /// Whether a term is `[]`.
    pub fn is_nil(&self, term: ErlNifTerm) -> bool {
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_is_empty_list(self.env, term) != 0 }
    }

    /// The empty list.
    pub fn nil(&self) -> ErlNifTerm {
        // SAFETY: `env` is the caller's environment, and nothing is read from the array.
        unsafe { enif_make_list_from_array(self.env, ptr::NonNull::dangling().as_ptr(), 0) }
    }

    /// A list cell.
    #[inline]
    pub fn cons(&self, head: ErlNifTerm, tail: ErlNifTerm) -> ErlNifTerm {
        // SAFETY: both are terms of the caller's environment.
        unsafe { enif_make_list_cell(self.env, head, tail) }
    }

    /// A stored word as the term that it is: for atoms and local pids that came in by [`Call::atom`] and [`Call::pid`].
    #[inline]
    pub fn word(&self, word: u64) -> ErlNifTerm {
        to_term(word)
    }

    /// The word of the calling process.
    pub fn caller(&self) -> u64 {
        let mut pid = MaybeUninit::uninit();
        // SAFETY: exported functions are called by processes, so there is one to tell.
        to_word(unsafe {
            enif_self(self.env, pid.as_mut_ptr());
            enif_make_pid(self.env, pid.assume_init())
        })
    }

    /// The term of a value, whose counter had the value `counted`.
    #[inline]
    pub fn make_value(
        &self,
        value: &Value<Copied>,
        counted: Option<i64>,
    ) -> Result<ErlNifTerm, Fault> {
        match (value, counted) {
            (Value::Integer(_), Some(integer)) => Ok(self.integer(integer)),
            (Value::Integer(counter), None) => Ok(self.integer(counter.get())),
            (Value::Fixed(datum), _) => self.make(datum),
        }
    }

    /// A stored term.
    pub fn make(&self, datum: &Datum<Copied>) -> Result<ErlNifTerm, Fault> {
        Ok(match datum.view() {
            View::Word(INTEGER, word) => self.integer(word as i64),
            View::Word(FLOAT, word) => self.make_float(word),
            View::Word(_, word) => to_term(word),
            View::Bytes(BINARY, bytes) => self.make_binary(bytes),
            View::Bytes(_, bytes) => self.decode(&mut &*bytes),
            View::Foreign(copied) => {
                self.allow(copied.weight.words)?;
                // SAFETY: the copied term is alive and never changes.
                unsafe { enif_make_copy(self.env, copied.term) }
            }
        })
    }

    /// About how many words [`make`](Call::make) will write.
    pub fn cost(&self, datum: &Datum<Copied>) -> usize {
        match datum.view() {
            View::Word(..) => 1,
            View::Bytes(_, bytes) => 4 + bytes.len() / 8,
            View::Foreign(copied) => 8 + copied.weight.words,
        }
    }

    fn kind_of(&self, term: ErlNifTerm) -> ErlNifTermType {
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_term_type(self.env, term) }
    }

    fn is_local_pid(&self, term: ErlNifTerm) -> bool {
        let mut pid = MaybeUninit::uninit();
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_local_pid(self.env, term, pid.as_mut_ptr()) != 0 }
    }

    fn is_local_port(&self, term: ErlNifTerm) -> bool {
        let mut port = MaybeUninit::uninit();
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_local_port(self.env, term, port.as_mut_ptr()) != 0 }
    }

    /// The bits of a float; none for a zero in a key where the two zeros are the same key, and have to come back each as it is.
    fn float(&self, term: ErlNifTerm, purpose: Use) -> Option<u64> {
        let mut float = 0.0;
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_double(self.env, term, &mut float) };
        let same_zeros = purpose == Use::Key && !SIGNED_ZEROS.load(Ordering::Relaxed);
        (float != 0.0 || !same_zeros).then_some(float.to_bits())
    }

    fn make_float(&self, bits: u64) -> ErlNifTerm {
        // SAFETY: the bits came from a float of the VM, which is finite.
        unsafe { enif_make_double(self.env, f64::from_bits(bits)) }
    }

    /// The bytes of a binary; none of a bitstring that is not whole bytes.
    fn binary(&self, term: ErlNifTerm) -> Option<&[u8]> {
        let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: the term is of the caller's environment, which keeps the bytes until the call returns.
        unsafe {
            if enif_inspect_binary(self.env, term, binary.as_mut_ptr()) == 0 {
                return None;
            }
            let binary = binary.assume_init();
            Some(match binary.size {
                0 => &[],
                size => std::slice::from_raw_parts(binary.data, size),
            })
        }
    }

    fn make_binary(&self, bytes: &[u8]) -> ErlNifTerm {
        let mut term = ErlNifTerm::default();
        // SAFETY: the VM gives room for that many bytes.
        unsafe {
            let room = enif_make_new_binary(self.env, bytes.len(), &mut term);
            ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
        }
        term
    }

    /// The elements of a tuple.
    fn elements(&self, term: ErlNifTerm) -> Option<&[ErlNifTerm]> {
        let (mut count, mut elements) = (0, ptr::null());
        // SAFETY: the term is of the caller's environment, which keeps the elements until the call returns.
        unsafe {
            if enif_get_tuple(self.env, term, &mut count, &mut elements) == 0 {
                return None;
            }
            Some(match count {
                0 => &[],
                count => std::slice::from_raw_parts(elements, count as usize),
            })
        }
    }

    /// Calls `visit` with keys and values of a map, until that is `None`.
    fn for_each_pair(
        &self,
        map: ErlNifTerm,
        mut visit: impl FnMut(ErlNifTerm, ErlNifTerm) -> Option<()>,
    ) -> Option<()> {
        let mut iterator = MaybeUninit::<ErlNifMapIterator>::uninit();
        let iterator = iterator.as_mut_ptr();
        let first = ErlNifMapIteratorEntry::ERL_NIF_MAP_ITERATOR_HEAD;
        // SAFETY: the term is of the caller's environment; the iterator is made before it is used, and destroyed once.
        unsafe {
            if enif_map_iterator_create(self.env, map, iterator, first) == 0 {
                return None;
            }
            let (mut key, mut value) = (ErlNifTerm::default(), ErlNifTerm::default());
            let mut going_on = Some(());
            while going_on.is_some()
                && enif_map_iterator_get_pair(self.env, iterator, &mut key, &mut value) != 0
            {
                going_on = visit(key, value);
                enif_map_iterator_next(self.env, iterator);
            }
            enif_map_iterator_destroy(self.env, iterator);
            going_on
        }
    }

    fn map_size(&self, map: ErlNifTerm) -> usize {
        let mut size = 0;
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_map_size(self.env, map, &mut size) };
        size
    }

    #[inline]
    fn borrow<'s>(
        &'s self,
        term: ErlNifTerm,
        purpose: Use,
        scratch: &'s mut Scratch,
    ) -> Result<Borrowed<'s, Copied>, Fault> {
        use ErlNifTermType::*;
        match self.kind_of(term) {
            ERL_NIF_TERM_TYPE_ATOM => return Ok(Borrowed::Word(IMMEDIATE, to_word(term))),
            ERL_NIF_TERM_TYPE_INTEGER => {
                if let Some(integer) = self.get_integer(term) {
                    return Ok(Borrowed::Word(INTEGER, integer as u64));
                }
            }
            ERL_NIF_TERM_TYPE_FLOAT => {
                if let Some(bits) = self.float(term, purpose) {
                    return Ok(Borrowed::Word(FLOAT, bits));
                }
            }
            ERL_NIF_TERM_TYPE_PID if self.is_local_pid(term) => {
                return Ok(Borrowed::Word(IMMEDIATE, to_word(term)))
            }
            ERL_NIF_TERM_TYPE_PORT if self.is_local_port(term) => {
                return Ok(Borrowed::Word(IMMEDIATE, to_word(term)))
            }
            ERL_NIF_TERM_TYPE_BITSTRING => {
                if let Some(bytes) = self.binary(term).filter(|b| b.len() <= LONGEST_BYTES) {
                    return Ok(Borrowed::Bytes(BINARY, bytes));
                }
            }
            ERL_NIF_TERM_TYPE_LIST if self.is_nil(term) => {
                return Ok(Borrowed::Word(IMMEDIATE, to_word(term)))
            }
            ERL_NIF_TERM_TYPE_TUPLE | ERL_NIF_TERM_TYPE_LIST | ERL_NIF_TERM_TYPE_MAP => {
                scratch.clear();
                if self.encode(term, purpose, DEEPEST, scratch).is_some() {
                    return Ok(Borrowed::Bytes(ENCODED, scratch));
                }
            }
            _ => (),
        }
        if purpose == Use::Key {
            // It is going to be hashed and compared, the bytes of its binaries too.
            let weight = self.weigh(term)?;
            self.allow(weight.words + weight.bytes / BYTES_A_WORD)?;
        }
        Ok(Borrowed::Foreign(Loose(term, PhantomData)))
    }

    fn own(&self, term: ErlNifTerm, purpose: Use) -> Result<Datum<Copied>, Fault> {
        let mut scratch = Scratch::new();
        Ok(match self.borrow(term, purpose, &mut scratch)? {
            Borrowed::Word(kind, word) => Datum::word(kind, word),
            Borrowed::Bytes(kind, bytes) => Datum::bytes(kind, bytes),
            Borrowed::Foreign(_) => {
                let weight = self.weigh(term)?;
                // SAFETY: the environment is new, and belongs to nobody else.
                Datum::foreign(unsafe {
                    let env = enif_alloc_env();
                    Copied {
                        env,
                        term: enif_make_copy(env, term),
                        weight,
                    }
                })
            }
        })
    }

    /// Encodes a term; none when it cannot be encoded.
    fn encode(
        &self,
        term: ErlNifTerm,
        purpose: Use,
        deeper: usize,
        into: &mut Scratch,
    ) -> Option<()> {
        use ErlNifTermType::*;
        if deeper == 0 || into.len() > LONGEST_ENCODING {
            return None;
        }
        let deeper = deeper - 1;
        match self.kind_of(term) {
            ERL_NIF_TERM_TYPE_ATOM => put(into, tag::IMMEDIATE, to_word(term)),
            ERL_NIF_TERM_TYPE_INTEGER => {
                let integer = self.get_integer(term)?;
                put(into, tag::INTEGER, (integer << 1 ^ integer >> 63) as u64);
            }
            ERL_NIF_TERM_TYPE_FLOAT => put(into, tag::FLOAT, self.float(term, purpose)?),
            ERL_NIF_TERM_TYPE_PID if self.is_local_pid(term) => {
                put(into, tag::IMMEDIATE, to_word(term));
            }
            ERL_NIF_TERM_TYPE_PORT if self.is_local_port(term) => {
                put(into, tag::IMMEDIATE, to_word(term));
            }
            ERL_NIF_TERM_TYPE_BITSTRING => {
                let bytes = self.binary(term).filter(|b| b.len() <= LONGEST_ENCODING)?;
                put(into, tag::BINARY, bytes.len() as u64);
                into.extend_from_slice(bytes);
            }
            ERL_NIF_TERM_TYPE_TUPLE => {
                let elements = self.elements(term)?;
                put(into, tag::TUPLE, elements.len() as u64);
                for element in elements {
                    self.encode(*element, purpose, deeper, into)?;
                }
            }
            ERL_NIF_TERM_TYPE_MAP => {
                let size = self.map_size(term);
                if size > LARGEST_MAP {
                    return None;
                }
                put(into, tag::MAP, size as u64);
                self.for_each_pair(term, |key, value| {
                    self.encode(key, purpose, deeper, into)?;
                    self.encode(value, purpose, deeper, into)
                })?;
            }
            ERL_NIF_TERM_TYPE_LIST => {
                put(into, tag::LIST, 0);
                let mut list = term;
                while let Some((head, tail)) = self.cell(list) {
                    self.encode(head, purpose, deeper, into)?;
                    list = tail;
                }
                if self.is_nil(list) {
                    put(into, tag::END, 0);
                } else {
                    put(into, tag::TAIL, 0);
                    self.encode(list, purpose, deeper, into)?;
                }
            }
            _ => return None,
        }
        (into.len() <= LONGEST_ENCODING).then_some(())
    }

    /// The term of the item that `bytes` begin with, which is taken off them.
    fn decode(&self, bytes: &mut &[u8]) -> ErlNifTerm {
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
                while bytes[0] >> 4 < tag::END {
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
            _ => to_term(number),
        }
    }

    /// What a term costs, up to the limit of the call.
    fn weigh(&self, term: ErlNifTerm) -> Result<Weight, Fault> {
        use ErlNifTermType::*;
        let mut weight = Weight::default();
        let mut open: SmallVec<[ErlNifTerm; 64]> = SmallVec::from_iter([term]);
        while let Some(term) = open.pop() {
            match self.kind_of(term) {
                ERL_NIF_TERM_TYPE_LIST => {
                    let mut list = term;
                    while let Some((head, tail)) = self.cell(list) {
                        self.weigh_part(head, 2, &mut weight, &mut open)?;
                        list = tail;
                    }
                    self.weigh_part(list, 0, &mut weight, &mut open)?;
                }
                ERL_NIF_TERM_TYPE_MAP => {
                    self.allow(weight.words + 3 * self.map_size(term))?;
                    self.for_each_pair(term, |key, value| {
                        self.weigh_part(key, 2, &mut weight, &mut open).ok()?;
                        self.weigh_part(value, 2, &mut weight, &mut open).ok()
                    });
                }
                ERL_NIF_TERM_TYPE_TUPLE => {
                    for element in self.elements(term).unwrap_or_default() {
                        self.weigh_part(*element, 1, &mut weight, &mut open)?;
                    }
                }
                _ => self.weigh_part(term, 0, &mut weight, &mut open)?,
            }
        }
        Ok(weight)
    }

    /// Adds the cost of a part and of its place in the whole; a part with parts of its own is left open.
    fn weigh_part(
        &self,
        part: ErlNifTerm,
        place: usize,
        weight: &mut Weight,
        open: &mut SmallVec<[ErlNifTerm; 64]>,
    ) -> Result<(), Fault> {
        use ErlNifTermType::*;
        weight.words += place;
        match self.kind_of(part) {
            ERL_NIF_TERM_TYPE_ATOM => (),
            ERL_NIF_TERM_TYPE_INTEGER if self.get_integer(part).is_some() => (),
            ERL_NIF_TERM_TYPE_LIST if self.is_nil(part) => (),
            ERL_NIF_TERM_TYPE_LIST | ERL_NIF_TERM_TYPE_TUPLE | ERL_NIF_TERM_TYPE_MAP => {
                weight.words += 2;
                open.push(part);
            }
            ERL_NIF_TERM_TYPE_BITSTRING => {
                weight.words += 8;
                weight.bytes += self.binary(part).map_or(0, <[u8]>::len);
            }
            ERL_NIF_TERM_TYPE_FUN => weight.words += FUN,
            _ => weight.words += 4,
        }
        self.allow(weight.words)
    }
}

/// The word of a term.
#[inline]
fn to_word(term: ErlNifTerm) -> u64 {
    // SAFETY: a term is a word, transparently.
    unsafe { std::mem::transmute::<ErlNifTerm, usize>(term) as u64 }
}

/// The term of a word that [`to_word`] gave.
#[inline]
fn to_term(word: u64) -> ErlNifTerm {
    // SAFETY: a term is a word, transparently. The VM reads it again only if it was an atom, `[]`, a local pid or a local port, whose words
    // mean the same in every environment and at any time.
    unsafe { std::mem::transmute::<usize, ErlNifTerm>(word as usize) }
}

/// Writes an item's first byte and its number.
fn put(into: &mut Scratch, tag: u8, number: u64) {
    let length = 8 - number.leading_zeros() as usize / 8;
    into.push(tag << 4 | length as u8);
    into.extend_from_slice(&number.to_le_bytes()[..length]);
}

/// Reads what [`put`] wrote.
fn take(bytes: &mut &[u8]) -> (u8, u64) {
    let length = (bytes[0] & 0xF) as usize;
    let mut number = [0; 8];
    number[..length].copy_from_slice(&bytes[1..=length]);
    let tag = bytes[0] >> 4;
    *bytes = &bytes[1 + length..];
    (tag, u64::from_le_bytes(number))
}
