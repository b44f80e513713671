//! A raw term with the lifetime of its call.

use std::marker::PhantomData;
use std::mem::transmute;

use rustler::types::atom::Atom;

use crate::vm::ErlNifTerm;

/// A term of the environment of one call.
///
/// It is as large as the VM's word. The lifetime `'c` is that of the call and of no other one: it
/// can be neither shortened nor extended, and [`Call`](crate::Call) has it as well. So a term is
/// only used with the environment that it belongs to, and only while that lives.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Term<'c> {
    raw: ErlNifTerm,
    /// Makes the lifetime invariant, and the type neither `Send` nor `Sync`.
    brand: PhantomData<*mut &'c ()>,
}

const _: () = assert!(size_of::<Term>() == size_of::<usize>());

impl<'c> Term<'c> {
    /// Wraps a raw term.
    ///
    /// # Safety
    /// The term belongs to the environment of the call whose lifetime is `'c`, or means the same
    /// in every environment.
    #[inline]
    pub unsafe fn from_raw(raw: ErlNifTerm) -> Self {
        Term {
            raw,
            brand: PhantomData,
        }
    }

    /// Returns the raw term, for the VM's functions.
    #[inline]
    pub fn raw(self) -> ErlNifTerm {
        self.raw
    }

    /// Returns the raw terms of a slice.
    #[inline]
    pub fn raw_slice<'s>(terms: &'s [Term<'c>]) -> &'s [ErlNifTerm] {
        // SAFETY: `Term` is a transparent wrapper of `ErlNifTerm`.
        unsafe { transmute::<&[Term<'c>], &[ErlNifTerm]>(terms) }
    }

    /// Wraps a slice of raw terms.
    ///
    /// # Safety
    /// As for [`from_raw`](Self::from_raw), of each term.
    #[inline]
    pub unsafe fn wrap_slice<'s>(terms: &'s [ErlNifTerm]) -> &'s [Term<'c>] {
        // SAFETY: `Term` is a transparent wrapper of `ErlNifTerm`; the caller vouches for the rest.
        unsafe { transmute::<&[ErlNifTerm], &[Term<'c>]>(terms) }
    }

    /// Returns the word of the term.
    #[inline]
    pub fn word(self) -> u64 {
        to_word(self.raw)
    }

    /// Returns the term of an atom.
    #[inline]
    pub fn atom(atom: Atom) -> Self {
        // SAFETY: the word of an atom means the same in every environment.
        unsafe { Term::from_raw(atom.as_c_arg()) }
    }

    /// Whether the term is this atom.
    #[inline]
    pub fn is(self, atom: Atom) -> bool {
        self.raw == atom.as_c_arg()
    }
}

/// Returns the word of a raw term.
#[inline]
pub(crate) fn to_word(term: ErlNifTerm) -> u64 {
    term as u64
}

/// Returns the raw term of a word that [`to_word`] returned.
#[inline]
pub(crate) fn to_raw(word: u64) -> ErlNifTerm {
    word as ErlNifTerm
}
