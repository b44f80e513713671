//! Terms to values and back.
//!
//! | term | stored as |
//! | --- | --- |
//! | atom, `[]`, local pid, local port | its own word: the VM never moves or frees these |
//! | integer of 64 bits, float | a word (but a zero in a key may be a copy, see [`SIGNED_ZEROS`]) |
//! | binary up to [`LONGEST_BYTES`] | its bytes |
//! | remote pid; tuple, list, map of at most 32 keys, made of all these and small | an encoding of our own, [`encoding`](crate::encoding) |
//! | anything else | a copy in an environment of its own, [`Copied`]; large binaries in it are [shared](crate::binaries) |
//!
//! Which form a term gets depends on nothing but the term, so that equal terms have equal forms. What it costs to make one, a call [pays](Call::spend)
//! before it does, so that none holds its scheduler for long; see [`weight`](crate::cost).

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use rustler::sys::*;

use proctab_table::attributes::Attribute;
use proctab_table::datum::{Borrowed, Datum, Kind, View};
use proctab_table::row::Pid;
use proctab_table::value::{Counter, Value};

use crate::call::{Answer, Call, Fault, Inspected};
use crate::copied::{Copied, Loose, ENVIRONMENT};
use crate::encoding::{Scratch, LONGEST_ENCODING};

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
/// What an element of a list costs besides what it is made of, in words of terms.
const ELEMENT: usize = 8;
/// How much more it costs to copy a term piece by piece.
const COPIED_BY_HAND: usize = 2;
/// How many bytes are copied in the time that a word of a term takes.
pub const BYTES_A_WORD: usize = 64;

/// What `enif_term_type` answers. An integer, for later releases of the VM may know more types.
pub mod term_type {
    use rustler::sys::{c_int, ErlNifTermType::*};

    pub const ATOM: c_int = ERL_NIF_TERM_TYPE_ATOM as c_int;
    pub const BITSTRING: c_int = ERL_NIF_TERM_TYPE_BITSTRING as c_int;
    pub const FLOAT: c_int = ERL_NIF_TERM_TYPE_FLOAT as c_int;
    pub const FUN: c_int = ERL_NIF_TERM_TYPE_FUN as c_int;
    pub const INTEGER: c_int = ERL_NIF_TERM_TYPE_INTEGER as c_int;
    pub const LIST: c_int = ERL_NIF_TERM_TYPE_LIST as c_int;
    pub const MAP: c_int = ERL_NIF_TERM_TYPE_MAP as c_int;
    pub const PID: c_int = ERL_NIF_TERM_TYPE_PID as c_int;
    pub const PORT: c_int = ERL_NIF_TERM_TYPE_PORT as c_int;
    pub const TUPLE: c_int = ERL_NIF_TERM_TYPE_TUPLE as c_int;
}

extern "C" {
    fn enif_term_type(env: *mut ErlNifEnv, term: ErlNifTerm) -> c_int;
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

/// What floats are compared by.
#[derive(Clone, Copy, PartialEq)]
pub enum Use {
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
        if let Some(compact) = self.compact(term, Use::Key, scratch)? {
            return Ok(compact);
        }
        self.weigh(term, Use::Key)?;
        // SAFETY: the term is of the caller's environment, and nothing that is borrowed from the call outlives it.
        Ok(Borrowed::Foreign(unsafe { Loose::new(term) }))
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
        matches!(self.type_of(term), term_type::INTEGER)
    }

    /// How many bytes an integer of more than 64 bits takes. The VM tells nobody, but writes it out in about as many.
    pub fn bytes_of_integer(&self, term: ErlNifTerm) -> usize {
        let written = self.read_external(term, <[u8]>::len);
        written.unwrap_or(usize::MAX >> 8)
    }

    /// Reads the external format of a term; none when the VM refuses.
    pub fn read_external<T>(&self, term: ErlNifTerm, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        /// Released also when `read` panics.
        struct Written(ErlNifBinary);

        impl Drop for Written {
            fn drop(&mut self) {
                // SAFETY: the VM made it, and it is released once.
                unsafe { enif_release_binary(&mut self.0) };
            }
        }

        let mut written = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: the term is of the caller's environment; the binary is made before it is read, has at least a byte, and is there until it is released.
        unsafe {
            if enif_term_to_binary(self.env, term, written.as_mut_ptr()) == 0 {
                return None;
            }
            let written = Written(written.assume_init());
            let bytes = std::slice::from_raw_parts(written.0.data, written.0.size);
            Some(read(bytes))
        }
    }

    /// The term of an external format that the VM wrote.
    pub fn make_external(&self, bytes: &[u8]) -> ErlNifTerm {
        make_external(self.env, bytes)
    }

    /// The word of an atom.
    #[inline]
    pub fn atom(&self, place: usize) -> Result<u64, Fault> {
        let term = self.argument(place)?;
        if !self.is_atom(term) {
            return Err(Fault::BadArgument);
        }
        Ok(to_word(term))
    }

    #[inline]
    fn is_atom(&self, term: ErlNifTerm) -> bool {
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_is_atom(self.env, term) != 0 }
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
        match self.type_of(term) {
            term_type::PID => self.owned_key(term),
            _ => Err(Fault::BadArgument),
        }
    }

    /// The pid of a child, of any node.
    pub fn child_pid(&self, place: usize) -> Result<Pid<Copied>, Fault> {
        match self.pid(place) {
            Ok(word) => Ok(Pid::Local(word)),
            Err(_) => Ok(Pid::Remote(self.any_pid(place)?)),
        }
    }

    /// The term of a child's pid, for which the call pays.
    #[inline]
    pub fn make_pid(&self, pid: &Pid<Copied>) -> Answer {
        match pid {
            Pid::Local(word) => Ok(self.word(*word)),
            Pid::Remote(datum) => self.make(datum),
        }
    }

    /// The term of a child's pid. It costs little, also when nobody pays for it.
    pub fn write_pid(&self, pid: &Pid<Copied>) -> ErlNifTerm {
        match pid {
            Pid::Local(word) => self.word(*word),
            Pid::Remote(datum) => self.write(datum),
        }
    }

    /// Whether a child may be alive: it is, or it is of another node.
    pub fn may_be_alive(&self, pid: &Pid<Copied>) -> Result<bool, Fault> {
        Ok(match pid {
            Pid::Local(word) => self.is_alive(*word),
            Pid::Remote(datum) => !self.is_of_earlier_life(self.make(datum)?),
        })
    }

    /// Whether the process of a local pid is alive.
    fn is_alive(&self, word: u64) -> bool {
        let mut pid = MaybeUninit::uninit();
        // SAFETY: the word is that of a local pid, and the environment that of the calling process.
        unsafe {
            enif_get_local_pid(self.env, to_term(word), pid.as_mut_ptr()) != 0
                && enif_is_process_alive(self.env, pid.as_ptr()) != 0
        }
    }

    /// Whether a pid that is not local is of a node of this one's name, which is this node before it was started.
    fn is_of_earlier_life(&self, term: ErlNifTerm) -> bool {
        /// What follows the node in the external format: number, serial and creation.
        const NUMBERS: usize = 12;
        let node = |term| {
            self.read_external(term, |bytes| {
                let length = bytes.len().saturating_sub(NUMBERS);
                Scratch::from_slice(&bytes[..length])
            })
        };
        node(term) == node(to_term(self.caller()))
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
        while let Some((element, tail)) = self.cell(list) {
            self.spend(ELEMENT)?;
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

    /// The term of a value.
    #[inline]
    pub fn make_value(&self, value: &Value<Copied>) -> Answer {
        match value {
            Value::Integer(counter) => Ok(self.integer(counter.get())),
            Value::Fixed(datum) => self.make(datum),
        }
    }

    /// A stored term, for which the call pays.
    #[inline]
    pub fn make(&self, datum: &Datum<Copied>) -> Answer {
        self.spend(self.cost(datum))?;
        Ok(self.write(datum))
    }

    /// A stored term, for which the call has paid.
    #[inline]
    pub fn write(&self, datum: &Datum<Copied>) -> ErlNifTerm {
        match datum.view() {
            View::Word(INTEGER, word) => self.integer(word as i64),
            View::Word(FLOAT, word) => self.make_float(word),
            View::Word(_, word) => to_term(word),
            View::Bytes(BINARY, bytes) => self.make_binary(bytes),
            View::Bytes(_, bytes) => self.decode(&mut &*bytes),
            // SAFETY: `env` is the caller's environment.
            View::Foreign(copied) => unsafe { copied.copy_to(self.env) },
        }
    }

    /// About how many words [`write`](Call::write) will write.
    #[inline]
    pub fn cost(&self, datum: &Datum<Copied>) -> usize {
        match datum.view() {
            View::Word(..) => 1,
            View::Bytes(BINARY, bytes) => 4 + bytes.len() / BYTES_A_WORD,
            View::Bytes(_, bytes) => 4 + bytes.len() / 4,
            View::Foreign(copied) => 8 + copied.words(),
        }
    }

    /// The type of a term, a [`term_type`].
    #[inline]
    pub fn type_of(&self, term: ErlNifTerm) -> c_int {
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_term_type(self.env, term) }
    }

    #[inline]
    pub fn is_local_pid(&self, term: ErlNifTerm) -> bool {
        let mut pid = MaybeUninit::uninit();
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_local_pid(self.env, term, pid.as_mut_ptr()) != 0 }
    }

    #[inline]
    pub fn is_local_port(&self, term: ErlNifTerm) -> bool {
        let mut port = MaybeUninit::uninit();
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_local_port(self.env, term, port.as_mut_ptr()) != 0 }
    }

    /// The bits of a float; none for a zero in a key where the two zeros are the same key, and have to come back each as it is.
    pub fn float(&self, term: ErlNifTerm, purpose: Use) -> Option<u64> {
        let mut float = 0.0;
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_double(self.env, term, &mut float) };
        let same_zeros = purpose == Use::Key && !SIGNED_ZEROS.load(Ordering::Relaxed);
        (float != 0.0 || !same_zeros).then_some(float.to_bits())
    }

    /// The float of these bits.
    pub fn make_float(&self, bits: u64) -> ErlNifTerm {
        // SAFETY: the bits came from a float of the VM, which is finite.
        unsafe { enif_make_double(self.env, f64::from_bits(bits)) }
    }

    /// The bytes of a binary, for a look-up; none of a bitstring that is not whole bytes.
    #[inline]
    fn binary(&self, term: ErlNifTerm) -> Option<&[u8]> {
        // SAFETY: the caller's environment keeps the bytes until the call returns.
        unsafe { self.inspect(self.env, term) }
    }

    /// Reads the bytes of a binary; none of a bitstring that is not whole bytes.
    ///
    /// The VM copies one that does not begin at a byte to have it inspected, however long, and keeps the copy with the environment. So
    /// from the second long one on they are inspected in an environment that is cleared after each, or a list of them would take more memory than there is.
    pub fn read_binary<T>(&self, term: ErlNifTerm, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if self.inspected.get().is_none() {
            return self.binary(term).map(read);
        }
        let scratch = self.scratch_environment();
        // SAFETY: the bytes are there until that environment is cleared.
        let result = unsafe { self.inspect(scratch, term) }.map(read);
        // SAFETY: nothing that was in it is used any more.
        unsafe { enif_clear_env(scratch) };
        result
    }

    /// The bytes of a binary.
    ///
    /// # Safety
    /// The environment is not cleared while they are used. It is the caller's, or one of nobody's: the VM only keeps its copy there.
    #[inline]
    unsafe fn inspect<'b>(&self, env: *mut ErlNifEnv, term: ErlNifTerm) -> Option<&'b [u8]> {
        let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: the term is of the caller's environment; the bytes live as long as this function's caller says.
        unsafe {
            if enif_inspect_binary(env, term, binary.as_mut_ptr()) == 0 {
                return None;
            }
            let binary = binary.assume_init();
            if binary.size > LONGEST_ENCODING {
                self.inspected.set(Some(Inspected {
                    word: to_word(term),
                    bytes: match env == self.env {
                        true => binary.data,
                        false => ptr::null(),
                    },
                    length: binary.size,
                }));
            }
            Some(match binary.size {
                0 => &[],
                size => std::slice::from_raw_parts(binary.data, size),
            })
        }
    }

    /// How long a binary is; none of a bitstring that is not whole bytes. The one that was inspected last is not inspected again.
    pub fn binary_length(&self, term: ErlNifTerm) -> Option<usize> {
        match self.inspected.get() {
            Some(last) if last.word == to_word(term) => Some(last.length),
            _ => self.read_binary(term, <[u8]>::len),
        }
    }

    /// Reads the bytes of a binary that the VM copies to have it inspected, from the copy that was made last if it is this one's.
    pub fn read_binary_again<T>(
        &self,
        term: ErlNifTerm,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        match self.inspected.get() {
            Some(last) if last.word == to_word(term) && !last.bytes.is_null() => {
                // SAFETY: the copy is the caller's environment's, which keeps it until the call returns.
                let bytes = unsafe { std::slice::from_raw_parts(last.bytes, last.length) };
                Some(read(bytes))
            }
            _ => self.read_binary(term, read),
        }
    }

    /// The address of the first byte of a short binary, or of the byte after none.
    pub fn begin_of(&self, term: ErlNifTerm) -> Option<usize> {
        let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: the term is of the caller's environment. What the VM has written is read where it has.
        unsafe {
            let found = enif_inspect_binary(self.env, term, binary.as_mut_ptr()) != 0;
            found.then(|| binary.assume_init().data.addr())
        }
    }

    /// A binary of these bytes.
    pub fn make_binary(&self, bytes: &[u8]) -> ErlNifTerm {
        let mut term = ErlNifTerm::default();
        // SAFETY: the VM gives room for that many bytes.
        unsafe {
            let room = enif_make_new_binary(self.env, bytes.len(), &mut term);
            ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
        }
        term
    }

    /// The elements of a tuple.
    pub fn elements(&self, term: ErlNifTerm) -> Option<&[ErlNifTerm]> {
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

    /// Calls `visit` with keys and values of a map, until that fails.
    pub fn for_each_pair<E>(
        &self,
        map: ErlNifTerm,
        mut visit: impl FnMut(ErlNifTerm, ErlNifTerm) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut iterator = MaybeUninit::<ErlNifMapIterator>::uninit();
        let iterator = iterator.as_mut_ptr();
        let first = ErlNifMapIteratorEntry::ERL_NIF_MAP_ITERATOR_HEAD;
        // SAFETY: the term is of the caller's environment; the iterator is made before it is used, and destroyed once.
        unsafe {
            let made = enif_map_iterator_create(self.env, map, iterator, first);
            assert!(made != 0, "only of what is no map there is no iterator");
            let (mut key, mut value) = (ErlNifTerm::default(), ErlNifTerm::default());
            let mut going_on = Ok(());
            while going_on.is_ok()
                && enif_map_iterator_get_pair(self.env, iterator, &mut key, &mut value) != 0
            {
                going_on = visit(key, value);
                enif_map_iterator_next(self.env, iterator);
            }
            enif_map_iterator_destroy(self.env, iterator);
            going_on
        }
    }

    /// How many keys a map has.
    pub fn map_size(&self, map: ErlNifTerm) -> usize {
        let mut size = 0;
        // SAFETY: the term is of the caller's environment.
        unsafe { enif_get_map_size(self.env, map, &mut size) };
        size
    }

    /// The form of a term that needs no environment; none when it needs one.
    #[inline]
    fn compact<'s>(
        &'s self,
        term: ErlNifTerm,
        purpose: Use,
        scratch: &'s mut Scratch,
    ) -> Result<Option<Borrowed<'s, Copied>>, Fault> {
        let word = |kind, word| Ok(Some(Borrowed::Word(kind, word)));
        // Most names are binaries and most keys atoms, and both are asked for faster than a type.
        if self.is_atom(term) {
            return word(IMMEDIATE, to_word(term));
        }
        if let Some(bytes) = self.binary(term).filter(|b| b.len() <= LONGEST_BYTES) {
            self.spend(bytes.len() / BYTES_A_WORD)?;
            return Ok(Some(Borrowed::Bytes(BINARY, bytes)));
        }
        match self.type_of(term) {
            term_type::INTEGER => {
                if let Some(integer) = self.get_integer(term) {
                    return word(INTEGER, integer as u64);
                }
            }
            term_type::FLOAT => {
                if let Some(bits) = self.float(term, purpose) {
                    return word(FLOAT, bits);
                }
            }
            term_type::PID if self.is_local_pid(term) => return word(IMMEDIATE, to_word(term)),
            term_type::PID if self.encode(term, purpose, scratch)? => {
                return Ok(Some(Borrowed::Bytes(ENCODED, scratch)));
            }
            term_type::PORT if self.is_local_port(term) => return word(IMMEDIATE, to_word(term)),
            term_type::LIST if self.is_nil(term) => return word(IMMEDIATE, to_word(term)),
            term_type::TUPLE | term_type::LIST | term_type::MAP
                if self.encode(term, purpose, scratch)? =>
            {
                return Ok(Some(Borrowed::Bytes(ENCODED, scratch)));
            }
            _ => (),
        }
        Ok(None)
    }

    fn own(&self, term: ErlNifTerm, purpose: Use) -> Result<Datum<Copied>, Fault> {
        let mut scratch = Scratch::new();
        if self.inspected.get().is_some() {
            let datum = self.read_binary(term, |bytes| {
                let short = bytes.len() <= LONGEST_BYTES;
                short.then(|| Datum::bytes(BINARY, bytes))
            });
            match datum {
                Some(Some(datum)) => {
                    self.spend(datum.size() / BYTES_A_WORD)?;
                    return Ok(datum);
                }
                Some(None) => return self.own_copy(term, purpose),
                None => (),
            }
        }
        Ok(match self.compact(term, purpose, &mut scratch)? {
            Some(Borrowed::Word(kind, word)) => Datum::word(kind, word),
            Some(Borrowed::Bytes(kind, bytes)) => Datum::bytes(kind, bytes),
            Some(Borrowed::Foreign(_)) | None => return self.own_copy(term, purpose),
        })
    }

    fn own_copy(&self, term: ErlNifTerm, purpose: Use) -> Result<Datum<Copied>, Fault> {
        let (weight, has_parts) = self.weigh_to_store(term, purpose)?;
        self.spend(ENVIRONMENT)?;
        if !has_parts {
            // SAFETY: the term is of the caller's environment.
            return Ok(Datum::foreign(unsafe { Copied::new(term, weight) }));
        }
        self.spend(COPIED_BY_HAND * weight.words + weight.bytes / BYTES_A_WORD)?;
        // SAFETY: the environment is the new one, which nobody else has yet.
        let copy = |env| unsafe { self.copy_without_parts(env, term) };
        Ok(Datum::foreign(Copied::with(copy, weight)))
    }
}

/// The term of an external format that the VM wrote, in an environment that is the caller's or nobody else's.
pub fn make_external(env: *mut ErlNifEnv, bytes: &[u8]) -> ErlNifTerm {
    let mut term = ErlNifTerm::default();
    // SAFETY: the bytes are there, and so many.
    let read = unsafe { enif_binary_to_term(env, bytes.as_ptr(), bytes.len(), &mut term, 0) };
    assert!(read == bytes.len(), "the VM reads what it wrote");
    term
}

/// The word of a term.
#[inline]
pub fn to_word(term: ErlNifTerm) -> u64 {
    // SAFETY: a term is a word, transparently.
    unsafe { std::mem::transmute::<ErlNifTerm, usize>(term) as u64 }
}

/// The term of a word that [`to_word`] gave.
#[inline]
pub fn to_term(word: u64) -> ErlNifTerm {
    // SAFETY: a term is a word, transparently. The VM reads it again only if it was an atom, `[]`, a local pid or a local port, whose words
    // mean the same in every environment and at any time.
    unsafe { std::mem::transmute::<usize, ErlNifTerm>(word as usize) }
}
