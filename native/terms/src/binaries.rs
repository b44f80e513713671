//! Where the VM keeps the bytes of a binary.
//!
//! The VM keeps the bytes of a large binary outside of all heaps, and counts the terms that refer
//! to them. A term may refer to a *part* of them, and keeps all of them alive; so does a copy of
//! it. A stored term must not keep more bytes than it shows, so a part is copied byte by byte into
//! a binary of its own, while a *whole* binary is shared, however large.
//!
//! # How a part is distinguished from a whole binary
//!
//! The NIF API does not expose this. But the vector that the VM makes for the system's `writev`
//! names the off-heap binary of each element, and one of its first words is its length.
//! [`learn_layout`] finds out which one with binaries of known lengths. If it fails, every binary
//! counts as a part.
//!
//! Nothing before the bytes themselves is read unless the VM has named an off-heap binary: the
//! memory there may be anybody's, in a binary that another library made of memory of its own. Such
//! a binary counts as a part.
//!
//! To make the vector, the VM moves the bytes of a binary that is not aligned to bytes, as for
//! every inspection. So only the first bytes of a binary are asked for.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use crate::call::Call;
use crate::term::{to_word, Term};
use crate::vm::{
    c_void, enif_inspect_iovec, enif_make_list_cell, enif_make_list_from_array,
    enif_make_new_binary, enif_make_sub_binary, ErlNifEnv, ErlNifIOVec, ErlNifTerm,
};

/// Bytes that are asked for. The VM would copy a shorter part instead of referring to it.
const FIRST: usize = 128;

/// The longest binary that the VM keeps on a heap.
const ON_HEAP: usize = 64;

/// How many of the first words of an off-heap binary may be its length. At most as many precede
/// its bytes.
const WORDS: usize = 4;

/// The layout of binaries in this VM.
static LAYOUT: OnceLock<Layout> = OnceLock::new();

/// The layout of binaries; `None` for what could not be learned.
#[derive(Clone, Copy, Default, PartialEq)]
struct Layout {
    /// Distance of the bytes of a binary on a heap from its address.
    on_heap: Option<usize>,
    off_heap: Option<OffHeap>,
}

/// The layout of off-heap binaries.
#[derive(Clone, Copy, PartialEq)]
struct OffHeap {
    /// The index of the word that is the length.
    length: usize,
    /// Distance of the bytes from the address of the binary.
    bytes: usize,
}

/// The element of a vector: bytes, and the off-heap binary that they are in.
struct Element {
    bytes: *const u8,
    length: usize,
    off_heap: *const c_void,
}

/// Where the bytes of a binary are.
pub(crate) enum Bytes {
    /// In the term itself.
    OnHeap,
    /// Off-heap, and the binary shows all of them.
    Whole,
    /// Off-heap at this address, and the binary shows a part of them.
    Part(*const u8),
    /// Not aligned to bytes, or part of another term.
    Elsewhere,
    /// The VM does not tell.
    Unknown,
}

/// Finds out the layout of binaries in this VM.
pub fn learn_layout(env: rustler::Env<'_>) {
    let env = env.as_c_arg();
    // SAFETY: the environment is alive.
    LAYOUT.get_or_init(|| unsafe {
        Layout {
            on_heap: agreed([ON_HEAP / 4, ON_HEAP / 2].map(|length| on_heap(env, length))),
            off_heap: agreed([4_567, 8_901, 77_777].map(|length| off_heap(env, length))),
        }
    });
}

/// Returns the result that all trials agree on.
fn agreed<T: PartialEq, const N: usize>(trials: [Option<T>; N]) -> Option<T> {
    let agree = trials.iter().all(|each| *each == trials[0]);
    trials.into_iter().next().filter(|_| agree).flatten()
}

/// Makes a binary of this length on the heap, and returns the distance of its bytes.
///
/// # Safety
/// `env` is the environment of a running call.
unsafe fn on_heap(env: *mut ErlNifEnv, length: usize) -> Option<usize> {
    let mut term = ErlNifTerm::default();
    // SAFETY: the caller vouches for `env`.
    let bytes = unsafe { enif_make_new_binary(env, length, &mut term) };
    let distance = bytes.addr().checked_sub(address(term))?;
    (distance <= ON_HEAP).then_some(distance)
}

/// Makes an off-heap binary of this length, and returns its layout.
///
/// # Safety
/// `env` is the environment of a running call.
unsafe fn off_heap(env: *mut ErlNifEnv, length: usize) -> Option<OffHeap> {
    let mut term = ErlNifTerm::default();
    // SAFETY: the caller vouches for `env`, and the term is made in it.
    let (bytes, element) = unsafe {
        let bytes = enif_make_new_binary(env, length, &mut term);
        (bytes.cast_const(), element(env, term)?)
    };
    if element.bytes != bytes || element.length != length {
        return None;
    }
    let distance = bytes.addr().checked_sub(element.off_heap.addr())?;
    let words = WORDS.min(distance / size_of::<usize>());
    // SAFETY: the off-heap binary begins with these words, because its bytes follow them.
    let is_length = |index: &usize| unsafe { read_word(element.off_heap, *index) } == length;
    let mut found = (0..words).filter(is_length);
    match (found.next(), found.next()) {
        (Some(index), None) => Some(OffHeap {
            length: index,
            bytes: distance,
        }),
        _ => None,
    }
}

/// Reads a word, by its index from an address.
///
/// # Safety
/// The word is in memory that may be read.
unsafe fn read_word(address: *const c_void, index: usize) -> usize {
    // SAFETY: the caller vouches for it.
    unsafe { address.cast::<usize>().add(index).read() }
}

/// Returns the address of a term on a heap, without the tag in its lowest bits.
fn address(term: ErlNifTerm) -> usize {
    to_word(term) as usize & !(size_of::<usize>() - 1)
}

/// Makes the only element of a vector refer to more of the bytes of its off-heap binary.
///
/// # Safety
/// The VM has written the vector, which nobody else uses, and the binary has so many bytes from the
/// address of the element on.
unsafe fn extend(vector: *mut ErlNifIOVec, length: usize) {
    // SAFETY: the caller vouches for it.
    unsafe {
        let vector = &mut *vector;
        vector.size = length;
        (*vector.elements).length = length;
    }
}

/// Returns what the VM would pass to `writev` for a binary, or `None` if that is not one piece of
/// an off-heap binary.
///
/// # Safety
/// The term is of `env`, which is the environment of a running call.
unsafe fn element(env: *mut ErlNifEnv, term: ErlNifTerm) -> Option<Element> {
    // SAFETY: the caller vouches for the term.
    unsafe { with_vector(env, term, |_, element| element) }
}

/// Calls `run` with the vector that the VM would pass to `writev` for a binary, and with its only
/// element. Returns `None` if that is not one piece of an off-heap binary.
///
/// # Safety
/// The term is of `env`, which is the environment of a running call.
unsafe fn with_vector<T>(
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    run: impl FnOnce(*mut ErlNifIOVec, Element) -> T,
) -> Option<T> {
    let mut vector = MaybeUninit::<ErlNifIOVec>::uninit();
    let (mut pointer, mut tail) = (vector.as_mut_ptr(), ErlNifTerm::default());
    // SAFETY: the list is made of terms of `env`. The VM writes to the vector that it is given,
    // which has room for one element, and keeps what that refers to until the call returns. The
    // vector is read only if the VM has written it.
    unsafe {
        let nil = enif_make_list_from_array(env, ptr::NonNull::dangling().as_ptr(), 0);
        let list = enif_make_list_cell(env, term, nil);
        if enif_inspect_iovec(env, 1, list, &mut tail, &mut pointer) == 0 {
            return None;
        }
        let vector = &*pointer;
        if vector.count != 1 {
            return None;
        }
        let (element, off_heap) = (&*vector.elements, *vector.off_heap);
        let is_one = element.length == vector.size && !off_heap.is_null();
        let element = Element {
            bytes: element.base,
            length: element.length,
            off_heap,
        };
        is_one.then(|| run(pointer, element))
    }
}

impl<'c> Call<'c> {
    /// Whether a binary is a part of a larger one, or may be: a copy of its term would keep more
    /// bytes than it shows.
    ///
    /// # Safety
    /// The term is a binary of this length.
    pub(crate) unsafe fn is_part(self, term: Term<'c>, length: usize) -> bool {
        // SAFETY: the caller vouches for it.
        let bytes = unsafe { self.locate_bytes(term, length) };
        !matches!(bytes, Bytes::OnHeap | Bytes::Whole)
    }

    /// Whether the VM copies a binary each time that it is inspected, since that does not begin at
    /// a byte. Looks at no more than its first bytes.
    ///
    /// # Safety
    /// The term is a binary of at least [`FIRST`] bytes.
    pub(crate) unsafe fn is_copied_to_inspect(self, term: Term<'c>) -> bool {
        // SAFETY: the caller vouches for the term.
        let first =
            unsafe { Term::from_raw(enif_make_sub_binary(self.env(), term.raw(), 0, FIRST)) };
        self.address_of_bytes(first) != self.address_of_bytes(first)
    }

    /// Returns where the bytes of a binary are.
    ///
    /// # Safety
    /// The term is a binary of this length.
    pub(crate) unsafe fn locate_bytes(self, term: Term<'c>, length: usize) -> Bytes {
        // SAFETY: the caller vouches for the term.
        unsafe { self.locate_and_refer(term, length, |_, _| ()) }
    }

    /// Returns where the bytes of a binary are. If it is [whole](Bytes::Whole), calls `refer` with
    /// a vector of one element that refers to all of its bytes, and with their address.
    ///
    /// # Safety
    /// The term is a binary of this length.
    pub(crate) unsafe fn locate_and_refer(
        self,
        term: Term<'c>,
        length: usize,
        refer: impl FnOnce(*mut ErlNifIOVec, *const u8),
    ) -> Bytes {
        let layout = LAYOUT.get().copied().unwrap_or_default();
        if length <= ON_HEAP {
            let begin = layout
                .on_heap
                .map(|distance| address(term.raw()) + distance);
            return match begin.is_some() && self.address_of_bytes(term) == begin {
                true => Bytes::OnHeap,
                false => Bytes::Unknown,
            };
        }
        let env = self.env();
        // SAFETY: the term is a binary of this environment, of at least so many bytes: the caller
        // vouches for it.
        let first = unsafe {
            let first = enif_make_sub_binary(env, term.raw(), 0, length.min(FIRST));
            Term::from_raw(first)
        };
        let locate = |vector: *mut ErlNifIOVec, element: Element| {
            if self.address_of_bytes(first) != Some(element.bytes.addr()) {
                return Bytes::Elsewhere;
            }
            let is_whole = |known: OffHeap| {
                // SAFETY: the VM has named an off-heap binary, and all of them begin with these
                // words.
                let whole_length = unsafe { read_word(element.off_heap, known.length) };
                let begin = element.off_heap.addr() + known.bytes;
                element.bytes.addr() == begin && whole_length == length
            };
            if !layout.off_heap.is_some_and(is_whole) {
                return Bytes::Part(element.bytes);
            }
            // SAFETY: the VM has written the vector, which is ours until it is dropped. The
            // off-heap binary has `length` bytes at this address.
            unsafe { extend(vector, length) };
            refer(vector, element.bytes);
            Bytes::Whole
        };
        // SAFETY: the term is of this environment.
        // The vector may refer to bytes that were moved just now: the VM ends the growth of a
        // binary when it is inspected in this way.
        let located = unsafe { with_vector(env, first.raw(), locate) };
        located.unwrap_or(Bytes::Unknown)
    }
}
