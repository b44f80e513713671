//! Copies of terms without references to larger binaries.

use std::slice;

use smallvec::SmallVec;

use crate::binaries::Bytes;
use crate::call::Call;
use crate::making::{make_binary, make_external};
use crate::term::Term;
use crate::vm::{
    enif_make_copy, enif_make_list_cell, enif_make_map_from_arrays, enif_make_tuple_from_array,
    term_type, ErlNifEnv, ErlNifTerm,
};

/// A step of a copy.
enum Step<'c> {
    /// Copies a term.
    Copy(Term<'c>),
    /// Makes a list of the last elements that were made, this many, and a tail.
    List(usize),
    /// Makes a tuple of the last elements that were made, this many.
    Tuple(usize),
    /// Makes a map of the last pairs that were made, this many, each a key and its value.
    Map(usize),
}

/// A copy in progress, made from the inner terms to the outer ones.
///
/// It does not recurse, because terms may be nested as deep as memory allows.
struct DeepCopy<'c> {
    call: Call<'c>,
    env: *mut ErlNifEnv,
    /// Steps that are still to be done, the next one last.
    steps: SmallVec<[Step<'c>; 64]>,
    /// Terms of `env` that were made and are not yet part of another.
    made: SmallVec<[ErlNifTerm; 64]>,
}

impl<'c> Call<'c> {
    /// Copies a term into another environment. Binaries that are
    /// [parts of larger ones](crate::binaries) are copied byte by byte.
    ///
    /// # Safety
    /// `env` is alive, and nobody else uses it meanwhile.
    pub(crate) unsafe fn deep_copy(self, env: *mut ErlNifEnv, term: Term<'c>) -> ErlNifTerm {
        let mut copy = DeepCopy {
            call: self,
            env,
            steps: SmallVec::from_iter([Step::Copy(term)]),
            made: SmallVec::new(),
        };
        while let Some(step) = copy.steps.pop() {
            let made = copy.step(step);
            copy.made.extend(made);
        }
        copy.made[0]
    }
}

impl<'c> DeepCopy<'c> {
    /// Does a step, and returns the term that it has made, if any.
    fn step(&mut self, step: Step<'c>) -> Option<ErlNifTerm> {
        match step {
            Step::Copy(term) => self.copy(term),
            Step::List(count) => {
                let tail = self.made.pop()?;
                let first = self.made.len() - count;
                let heads = self.made.drain(first..).rev();
                // SAFETY: all are terms of `env`.
                let cons = |tail, head| unsafe { enif_make_list_cell(self.env, head, tail) };
                Some(heads.fold(tail, cons))
            }
            Step::Tuple(count) => {
                let first = self.made.len() - count;
                let elements = &self.made[first..];
                // SAFETY: the elements are terms of `env`, as many as their slice is long.
                let tuple = unsafe {
                    enif_make_tuple_from_array(self.env, elements.as_ptr(), elements.len() as u32)
                };
                self.made.truncate(first);
                Some(tuple)
            }
            Step::Map(count) => {
                let first = self.made.len() - 2 * count;
                let (keys, values): (Vec<_>, Vec<_>) = self.made[first..]
                    .chunks_exact(2)
                    .map(|pair| (pair[0], pair[1]))
                    .unzip();
                self.made.truncate(first);
                let mut map = ErlNifTerm::default();
                // SAFETY: keys and values are terms of `env`, as many of each. No key occurs
                // twice, because each is equal to one of a map.
                unsafe {
                    enif_make_map_from_arrays(
                        self.env,
                        keys.as_ptr(),
                        values.as_ptr(),
                        keys.len(),
                        &mut map,
                    );
                }
                Some(map)
            }
        }
    }

    /// Copies a term, or adds the steps that copy what is in it.
    fn copy(&mut self, term: Term<'c>) -> Option<ErlNifTerm> {
        let call = self.call;
        match call.type_of(term) {
            term_type::LIST if !call.is_nil(term) => {
                let index = self.steps.len();
                self.steps.push(Step::List(0));
                let mut list = term;
                while let Some((head, tail)) = call.get_cell(list) {
                    self.steps.push(Step::Copy(head));
                    list = tail;
                }
                // The steps are taken from the end: the first element first, the tail last.
                let steps = &mut self.steps[index..];
                steps[0] = Step::List(steps.len() - 1);
                steps[1..].reverse();
                self.steps.insert(index + 1, Step::Copy(list));
                None
            }
            term_type::TUPLE => {
                let elements = call.get_tuple(term)?;
                self.steps.push(Step::Tuple(elements.len()));
                let elements = elements.iter().rev();
                self.steps
                    .extend(elements.map(|element| Step::Copy(*element)));
                None
            }
            term_type::MAP => {
                self.steps.push(Step::Map(call.map_size(term)));
                let pairs = call.for_each_pair(term, |key, value| {
                    self.steps.extend([Step::Copy(value), Step::Copy(key)]);
                    Ok::<(), ()>(())
                });
                pairs.ok()?;
                None
            }
            kind => {
                let copy = match kind {
                    term_type::BITSTRING => self.copy_bitstring(term),
                    _ => None,
                };
                // SAFETY: the term is alive, and nobody else uses `env`.
                Some(copy.unwrap_or_else(|| unsafe { enif_make_copy(self.env, term.raw()) }))
            }
        }
    }

    /// Copies the bytes of a bitstring. Returns `None` if it may be shared, or if the VM does not
    /// give its bytes.
    fn copy_bitstring(&self, term: Term<'c>) -> Option<ErlNifTerm> {
        let call = self.call;
        // SAFETY: nobody else uses `env`.
        let copy = |bytes: &[u8]| unsafe { make_binary(self.env, bytes) };
        let Some(length) = call.binary_length(term) else {
            // Not whole bytes: the NIF API gives them only in the external format.
            // SAFETY: nobody else uses `env`.
            return call.read_external(term, |bytes| unsafe { make_external(self.env, bytes) });
        };
        // SAFETY: `binary_length` has returned the length of this binary.
        match unsafe { call.locate_bytes(term, length) } {
            Bytes::OnHeap | Bytes::Whole => None,
            // SAFETY: the VM has just named the address of the first byte, no binary was inspected
            // since, and the binary shows `length` bytes in one piece.
            Bytes::Part(bytes) => Some(copy(unsafe { slice::from_raw_parts(bytes, length) })),
            Bytes::Elsewhere => call.read_binary_again(term, copy),
            Bytes::Unknown => call.read_binary(term, copy),
        }
    }
}
