//! Taking terms apart.
//!
//! Every function may be called with any term of the call: what the term is not, is answered with
//! `None` or `false`.

use std::mem::MaybeUninit;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::call::{Call, Fault, LongBinary};
use crate::cost::COPIED_PER_WORD;
use crate::term::{to_raw, Term};
use crate::vm::{
    c_int, enif_clear_env, enif_compare, enif_get_double, enif_get_int64, enif_get_list_cell,
    enif_get_local_pid, enif_get_local_port, enif_get_map_size, enif_get_tuple,
    enif_inspect_binary, enif_is_atom, enif_is_empty_list, enif_is_identical, enif_make_double,
    enif_map_iterator_create, enif_map_iterator_destroy, enif_map_iterator_get_pair,
    enif_map_iterator_next, enif_release_binary, enif_term_to_binary, enif_term_type, term_type,
    ErlNifBinary, ErlNifEnv, ErlNifMapIterator, ErlNifMapIteratorEntry, ErlNifTerm,
};

/// A binary of more bytes is long: a call remembers the one that it inspected last.
pub const SHORT_BINARY: usize = 1024;

/// Cost of a list element besides the conversion of its term, in words.
const ELEMENT_COST: usize = 8;

/// The longest integer whose size is measured on a normal scheduler: 997 bits.
const SHORT_INTEGER: f64 = 1e300;
/// Cost of measuring a longer one: more than the budget on a normal scheduler.
const LONG_INTEGER: usize = 1 << 20;

/// Whether this VM distinguishes `0.0` from `-0.0` with `=:=`, as OTP 27 and later do.
static SIGNED_ZEROS: AtomicBool = AtomicBool::new(false);

/// Tests whether this VM distinguishes `0.0` from `-0.0`.
pub fn learn_signed_zeros(env: rustler::Env<'_>) {
    let env = env.as_c_arg();
    // SAFETY: the environment is alive, and the terms are of it.
    let signed =
        unsafe { enif_is_identical(enif_make_double(env, 0.0), enif_make_double(env, -0.0)) == 0 };
    SIGNED_ZEROS.store(signed, Ordering::Relaxed);
}

/// What a term is stored as, which decides how floats compare.
#[derive(Clone, Copy, PartialEq)]
pub enum Purpose {
    /// A name or a key: terms that are equal by `=:=` must be equal.
    Key,
    /// A value: each zero must be read back as it was.
    Value,
}

impl<'c> Call<'c> {
    /// Returns the type of a term, one of [`term_type`].
    #[inline]
    pub fn type_of(self, term: Term<'c>) -> c_int {
        // SAFETY: the term is of this environment.
        unsafe { enif_term_type(self.env(), term.raw()) }
    }

    /// Whether a term is an atom.
    #[inline]
    pub fn is_atom(self, term: Term<'c>) -> bool {
        // SAFETY: the term is of this environment.
        unsafe { enif_is_atom(self.env(), term.raw()) != 0 }
    }

    /// Returns the word of an argument that has to be an atom.
    #[inline]
    pub fn atom(self, position: usize) -> Result<u64, Fault> {
        let term = self.argument(position)?;
        if !self.is_atom(term) {
            return Err(Fault::BadArgument);
        }
        Ok(term.word())
    }

    /// Whether a term is `[]`.
    pub fn is_nil(self, term: Term<'c>) -> bool {
        // SAFETY: the term is of this environment.
        unsafe { enif_is_empty_list(self.env(), term.raw()) != 0 }
    }

    /// Whether a term is a pid of this node.
    #[inline]
    pub fn is_local_pid(self, term: Term<'c>) -> bool {
        let mut pid = MaybeUninit::uninit();
        // SAFETY: the term is of this environment.
        unsafe { enif_get_local_pid(self.env(), term.raw(), pid.as_mut_ptr()) != 0 }
    }

    /// Whether a term is a port of this node.
    #[inline]
    pub fn is_local_port(self, term: Term<'c>) -> bool {
        let mut port = MaybeUninit::uninit();
        // SAFETY: the term is of this environment.
        unsafe { enif_get_local_port(self.env(), term.raw(), port.as_mut_ptr()) != 0 }
    }

    /// Returns an integer of at most 64 bits.
    #[inline]
    pub fn get_integer(self, term: Term<'c>) -> Option<i64> {
        let mut integer = 0;
        // SAFETY: the term is of this environment.
        let found = unsafe { enif_get_int64(self.env(), term.raw(), &mut integer) };
        (found != 0).then_some(integer)
    }

    /// Whether a term is an integer of any size.
    pub fn is_integer(self, term: Term<'c>) -> bool {
        self.type_of(term) == term_type::INTEGER
    }

    /// Returns about how many bytes an integer of more than 64 bits takes.
    ///
    /// The NIF API does not expose the size, so this measures the external format, and that of an
    /// integer which may be very long only on a dirty scheduler.
    pub fn integer_bytes(self, term: Term<'c>) -> Result<usize, Fault> {
        if self.is_long_integer(term) {
            self.allow(LONG_INTEGER)?;
        }
        let written = self.read_external(term, <[u8]>::len);
        Ok(written.unwrap_or(usize::MAX >> 8))
    }

    /// Whether an integer has more than 124 bytes. To compare it with a float, the VM does not read
    /// a longer one.
    fn is_long_integer(self, term: Term<'c>) -> bool {
        let compare = |bound: f64| {
            let bound = self.float(bound.to_bits());
            // SAFETY: both terms are of this environment.
            unsafe { enif_compare(term.raw(), bound.raw()) }
        };
        compare(SHORT_INTEGER) > 0 || compare(-SHORT_INTEGER) < 0
    }

    /// Returns the bits of a float.
    ///
    /// Returns `None` for a zero in a key if the VM takes both zeros for the same key, and each
    /// has to be read back as it was.
    pub fn get_float_bits(self, term: Term<'c>, purpose: Purpose) -> Option<u64> {
        let mut float = 0.0;
        // SAFETY: the term is of this environment.
        unsafe { enif_get_double(self.env(), term.raw(), &mut float) };
        let equal_zeros = purpose == Purpose::Key && !SIGNED_ZEROS.load(Ordering::Relaxed);
        (float != 0.0 || !equal_zeros).then_some(float.to_bits())
    }

    /// Returns the elements of a tuple.
    pub fn get_tuple(self, term: Term<'c>) -> Option<&'c [Term<'c>]> {
        let (mut count, mut elements) = (0, ptr::null());
        // SAFETY: the term is of this environment.
        if unsafe { enif_get_tuple(self.env(), term.raw(), &mut count, &mut elements) } == 0 {
            return None;
        }
        Some(match count {
            0 => &[],
            // SAFETY: the VM has written the address of `count` elements. They are terms of this
            // environment, which keeps them until the call returns.
            count => unsafe { Term::wrap_slice(slice::from_raw_parts(elements, count as usize)) },
        })
    }

    /// Returns both elements of a pair.
    #[inline]
    pub fn get_pair(self, term: Term<'c>) -> Option<(Term<'c>, Term<'c>)> {
        match self.get_tuple(term)? {
            [one, other] => Some((*one, *other)),
            _ => None,
        }
    }

    /// Returns head and tail of a list cell.
    #[inline]
    pub fn get_cell(self, list: Term<'c>) -> Option<(Term<'c>, Term<'c>)> {
        let (mut head, mut tail) = (ErlNifTerm::default(), ErlNifTerm::default());
        // SAFETY: the term is of this environment.
        let found = unsafe { enif_get_list_cell(self.env(), list.raw(), &mut head, &mut tail) };
        // SAFETY: the VM has written two terms of this environment.
        (found != 0).then(|| unsafe { (Term::from_raw(head), Term::from_raw(tail)) })
    }

    /// Calls `visit` with each element of a list, and deducts the cost. Fails if the list is not
    /// proper.
    pub fn for_each_element(
        self,
        mut list: Term<'c>,
        mut visit: impl FnMut(Term<'c>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while let Some((element, tail)) = self.get_cell(list) {
            self.deduct(ELEMENT_COST)?;
            visit(element)?;
            list = tail;
        }
        if self.is_nil(list) {
            Ok(())
        } else {
            Err(Fault::BadArgument)
        }
    }

    /// Returns how many keys a map has.
    pub fn map_size(self, map: Term<'c>) -> usize {
        let mut size = 0;
        // SAFETY: the term is of this environment.
        unsafe { enif_get_map_size(self.env(), map.raw(), &mut size) };
        size
    }

    /// Calls `visit` with each key and value of a map, until it fails.
    ///
    /// # Panics
    /// If the term is not a map.
    pub fn for_each_pair<E>(
        self,
        map: Term<'c>,
        mut visit: impl FnMut(Term<'c>, Term<'c>) -> Result<(), E>,
    ) -> Result<(), E> {
        let env = self.env();
        let mut iterator = MaybeUninit::<ErlNifMapIterator>::uninit();
        let iterator = iterator.as_mut_ptr();
        let first = ErlNifMapIteratorEntry::ERL_NIF_MAP_ITERATOR_HEAD;
        // SAFETY: the term is of this environment.
        let made = unsafe { enif_map_iterator_create(env, map.raw(), iterator, first) };
        assert!(made != 0, "every map has an iterator");
        let next_pair = || {
            let (mut key, mut value) = (ErlNifTerm::default(), ErlNifTerm::default());
            // SAFETY: the VM has made the iterator.
            if unsafe { enif_map_iterator_get_pair(env, iterator, &mut key, &mut value) } == 0 {
                return None;
            }
            // SAFETY: as above.
            unsafe { enif_map_iterator_next(env, iterator) };
            // SAFETY: the VM has written two terms of this environment.
            Some(unsafe { (Term::from_raw(key), Term::from_raw(value)) })
        };
        let mut result = Ok(());
        while let Some((key, value)) = next_pair() {
            result = visit(key, value);
            if result.is_err() {
                break;
            }
        }
        // SAFETY: as above; destroyed once. A `visit` that panics leaves the iterator, which owns
        // nothing.
        unsafe { enif_map_iterator_destroy(env, iterator) };
        result
    }

    /// Reads the external format of a term. Returns `None` if the VM refuses to write it.
    pub fn read_external<T>(self, term: Term<'c>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        /// Released also when `read` panics.
        struct Written(ErlNifBinary);

        impl Drop for Written {
            fn drop(&mut self) {
                // SAFETY: the VM has made the binary, and this releases it once.
                unsafe { enif_release_binary(&mut self.0) };
            }
        }

        let mut written = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: the term is of this environment.
        if unsafe { enif_term_to_binary(self.env(), term.raw(), written.as_mut_ptr()) } == 0 {
            return None;
        }
        // SAFETY: the VM has made the binary.
        let written = Written(unsafe { written.assume_init() });
        // SAFETY: it has at least one byte, so its address is not null, and lives until released.
        Some(read(unsafe {
            slice::from_raw_parts(written.0.data, written.0.size)
        }))
    }

    /// Returns the bytes of a binary, for a lookup. Returns `None` for a bitstring that is not
    /// whole bytes.
    ///
    /// The bytes must be used before the call inspects any other binary: the VM moves the bytes of
    /// a binary that its process appends to, once, when a part of it is inspected.
    #[inline]
    pub(crate) fn get_binary(self, term: Term<'c>) -> Option<&'c [u8]> {
        // SAFETY: this environment is not cleared before the call returns.
        unsafe { self.inspect(self.env(), term) }
    }

    /// Reads the bytes of a binary. Returns `None` for a bitstring that is not whole bytes.
    ///
    /// To inspect a binary that is not aligned to bytes, the VM copies it, however long it is, and
    /// keeps the copy in the environment. So from the second long binary of a call on, this uses
    /// an environment that is cleared after each, and the copies of many do not add up.
    pub fn read_binary<T>(self, term: Term<'c>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if self.last_long_binary().is_none() {
            return self.get_binary(term).map(read);
        }
        let scratch_env = self.scratch_env();
        // SAFETY: the environment is cleared below, after `read` has returned.
        let result = unsafe { self.inspect(scratch_env, term) }.map(read);
        // SAFETY: the call owns the environment, and nothing refers to what is in it.
        unsafe { enif_clear_env(scratch_env) };
        result
    }

    /// Returns the bytes of a binary.
    ///
    /// # Safety
    /// `env` is the environment of the call or its scratch environment, and is not cleared while
    /// the bytes are used.
    #[inline]
    unsafe fn inspect<'b>(self, env: *mut ErlNifEnv, term: Term<'c>) -> Option<&'b [u8]> {
        let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: the term is alive. The VM uses `env` only to keep a copy of an unaligned binary.
        if unsafe { enif_inspect_binary(env, term.raw(), binary.as_mut_ptr()) } == 0 {
            return None;
        }
        // SAFETY: the VM has written it.
        let binary = unsafe { binary.assume_init() };
        if binary.size > SHORT_BINARY {
            self.set_last_long_binary(LongBinary {
                word: term.word(),
                bytes: match env == self.env() {
                    true => binary.data,
                    false => ptr::null(),
                },
                length: binary.size,
                is_deducted: false,
            });
        }
        Some(match binary.size {
            0 => &[],
            // SAFETY: so many bytes are there, in the term or in `env`, for as long as the caller
            // of this function uses them.
            size => unsafe { slice::from_raw_parts(binary.data, size) },
        })
    }

    /// Deducts the cost of the copy that the VM may have made of the long binary that was inspected
    /// last. To be called before others are inspected.
    ///
    /// The NIF API does not expose the length of a binary, nor whether the VM will copy it, before
    /// the VM has. So one copy is made before its cost is deducted, however many binaries follow.
    #[inline]
    pub(crate) fn deduct_copy(self) -> Result<(), Fault> {
        match self.last_long_binary() {
            Some(last) if !last.is_deducted => self.deduct_copy_of(last),
            _ => Ok(()),
        }
    }

    #[cold]
    fn deduct_copy_of(self, last: LongBinary) -> Result<(), Fault> {
        // SAFETY: the word is that of a term of this call.
        let term = unsafe { Term::from_raw(to_raw(last.word)) };
        // SAFETY: a long binary has more bytes than are looked at.
        let is_copied = unsafe { self.is_copied_to_inspect(term) };
        self.set_last_long_binary(LongBinary {
            // The VM moves the bytes of a binary that grows when a part of it is inspected.
            bytes: if is_copied { last.bytes } else { ptr::null() },
            is_deducted: true,
            ..last
        });
        self.deduct(if is_copied {
            last.length / COPIED_PER_WORD
        } else {
            0
        })
    }

    /// Returns the length of a binary, or `None` for a bitstring that is not whole bytes.
    ///
    /// The long binary that was inspected last is not inspected again.
    pub fn binary_length(self, term: Term<'c>) -> Option<usize> {
        match self.last_long_binary() {
            Some(last) if last.word == term.word() => Some(last.length),
            _ => self.read_binary(term, <[u8]>::len),
        }
    }

    /// Reads the bytes of an unaligned binary, from the copy that the VM made last if that is of
    /// this binary.
    pub fn read_binary_again<T>(self, term: Term<'c>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.last_long_binary() {
            Some(last) if last.word == term.word() && !last.bytes.is_null() => {
                // SAFETY: the copy is in this environment, which keeps it until the call returns.
                let bytes = unsafe { slice::from_raw_parts(last.bytes, last.length) };
                Some(read(bytes))
            }
            _ => self.read_binary(term, read),
        }
    }

    /// Returns the address of the first byte of a short binary.
    pub fn address_of_bytes(self, term: Term<'c>) -> Option<usize> {
        let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
        let read = binary.as_mut_ptr();
        // SAFETY: the term is of this environment.
        let found = unsafe { enif_inspect_binary(self.env(), term.raw(), read) };
        // SAFETY: the VM has written it.
        (found != 0).then(|| unsafe { binary.assume_init() }.data.addr())
    }
}
