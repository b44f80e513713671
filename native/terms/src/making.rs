//! Making terms in the environment of a call.

use std::ptr;

use crate::call::Call;
use crate::term::{to_raw, Term};
use crate::vm::{
    enif_binary_to_term, enif_make_double, enif_make_int64, enif_make_list_cell,
    enif_make_list_from_array, enif_make_map_from_arrays, enif_make_new_binary,
    enif_make_tuple_from_array, ErlNifEnv, ErlNifTerm,
};

impl<'c> Call<'c> {
    /// Makes an integer.
    #[inline]
    pub fn integer(self, integer: i64) -> Term<'c> {
        // SAFETY: the term is made in this environment.
        unsafe { Term::from_raw(enif_make_int64(self.env(), integer)) }
    }

    /// Makes the float of these bits.
    ///
    /// # Panics
    /// If the float is not finite, which no float of the VM is.
    pub fn float(self, bits: u64) -> Term<'c> {
        let float = f64::from_bits(bits);
        assert!(float.is_finite(), "the bits are those of a float of the VM");
        // SAFETY: the term is made in this environment.
        unsafe { Term::from_raw(enif_make_double(self.env(), float)) }
    }

    /// Makes a binary.
    pub fn binary(self, bytes: &[u8]) -> Term<'c> {
        // SAFETY: `env` is alive, and the term is made in it.
        unsafe { Term::from_raw(make_binary(self.env(), bytes)) }
    }

    /// Makes a tuple.
    #[inline]
    pub fn tuple<const N: usize>(self, elements: [Term<'c>; N]) -> Term<'c> {
        self.tuple_of(&elements)
    }

    /// Makes a tuple of any number of elements.
    #[inline]
    pub fn tuple_of(self, elements: &[Term<'c>]) -> Term<'c> {
        let raw = Term::raw_slice(elements);
        // SAFETY: the elements are terms of this environment.
        unsafe {
            let tuple = enif_make_tuple_from_array(self.env(), raw.as_ptr(), raw.len() as u32);
            Term::from_raw(tuple)
        }
    }

    /// Makes the empty list.
    pub fn nil(self) -> Term<'c> {
        let none = ptr::NonNull::dangling().as_ptr();
        // SAFETY: the VM reads nothing from an array of no elements.
        unsafe { Term::from_raw(enif_make_list_from_array(self.env(), none, 0)) }
    }

    /// Makes a list cell.
    #[inline]
    pub fn cons(self, head: Term<'c>, tail: Term<'c>) -> Term<'c> {
        // SAFETY: both are terms of this environment.
        unsafe { Term::from_raw(enif_make_list_cell(self.env(), head.raw(), tail.raw())) }
    }

    /// Makes a map of these keys with these values, as many of each.
    ///
    /// # Panics
    /// If a key occurs twice, or there are not as many values as keys.
    pub fn map(self, keys: &[Term<'c>], values: &[Term<'c>]) -> Term<'c> {
        assert_eq!(keys.len(), values.len(), "each key has a value");
        let (keys, values) = (Term::raw_slice(keys), Term::raw_slice(values));
        let mut map = ErlNifTerm::default();
        // SAFETY: all are terms of this environment, as many keys as values.
        let made = unsafe {
            let (keys, values, count) = (keys.as_ptr(), values.as_ptr(), keys.len());
            enif_make_map_from_arrays(self.env(), keys, values, count, &mut map)
        };
        assert!(made != 0, "each key occurs once");
        // SAFETY: the VM has made the map in this environment.
        unsafe { Term::from_raw(map) }
    }

    /// Makes the term of an external format that the VM has written.
    pub fn external(self, bytes: &[u8]) -> Term<'c> {
        // SAFETY: `env` is alive, and the term is made in it.
        unsafe { Term::from_raw(make_external(self.env(), bytes)) }
    }

    /// Returns the term of a word that [`Call::atom`], [`Call::pid`] or [`Call::caller`] returned,
    /// in this call or an earlier one.
    ///
    /// Any other word must not be passed: the VM would take it for a pointer. See "What safe
    /// functions rely on" in the [`crate`] documentation.
    #[inline]
    pub fn immediate(self, word: u64) -> Term<'c> {
        // SAFETY: atoms and local pids mean the same in every environment.
        unsafe { Term::from_raw(to_raw(word)) }
    }
}

/// Makes a binary in any environment.
///
/// # Safety
/// `env` is alive, and nobody else uses it meanwhile.
pub(crate) unsafe fn make_binary(env: *mut ErlNifEnv, bytes: &[u8]) -> ErlNifTerm {
    let mut term = ErlNifTerm::default();
    // SAFETY: the caller vouches for `env`. The VM returns room for so many bytes.
    unsafe {
        let room = enif_make_new_binary(env, bytes.len(), &mut term);
        ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
    }
    term
}

/// Makes the term of an external format that the VM has written, in any environment.
///
/// # Safety
/// `env` is alive, and nobody else uses it meanwhile.
pub(crate) unsafe fn make_external(env: *mut ErlNifEnv, bytes: &[u8]) -> ErlNifTerm {
    let mut term = ErlNifTerm::default();
    // SAFETY: the caller vouches for `env`; the bytes are a slice.
    let read = unsafe { enif_binary_to_term(env, bytes.as_ptr(), bytes.len(), &mut term, 0) };
    assert!(read == bytes.len(), "the VM reads what it has written");
    term
}
