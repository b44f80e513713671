//! Binaries that are a part of a larger one, and copies of terms without these.
//!
//! The VM keeps the bytes of a binary outside of all heaps, and counts the terms that show them. A term may show a part: as long as it is there, so are all the
//! bytes, and a copy of such a term shows the part again. What is stored has to keep no more than it shows; so a binary that is a *part* is copied, byte by byte, into one
//! of its own. One that is *whole* is shared, however large it is.
//!
//! # How a part is told from a whole
//!
//! The VM tells nobody. But the vector that it makes for the system's `writev` names the off-heap binary of each element, and one of that binary's first words is
//! its length. Which one is [learned](learn) from binaries of known lengths; where that fails, every binary counts as a part. Nothing before the bytes themselves is
//! read: these may be anybody's, in a binary that another library has made of memory of its own. Such a one is a part.
//!
//! The bytes of a binary that does not begin at a byte are moved for the vector, as for every look at them. So only its first bytes are asked for.

use std::mem::MaybeUninit;
use std::ptr;
use std::slice;
use std::sync::OnceLock;

use rustler::sys::{
    c_int, c_void, enif_inspect_iovec, enif_make_copy, enif_make_list_cell,
    enif_make_list_from_array, enif_make_map_from_arrays, enif_make_new_binary,
    enif_make_sub_binary, enif_make_tuple_from_array, ErlNifEnv, ErlNifIOVec, ErlNifTerm,
};
use smallvec::SmallVec;

use crate::call::Call;
use crate::conversion::{make_external, term_type, to_word};

/// How much of a binary is asked for. The VM copies shorter ones than this when it takes a part of them.
const FIRST: usize = 128;

/// The longest binary that the VM keeps on a heap.
const ON_HEAP: usize = 64;

/// How many of the first words of an off-heap binary are looked at. It has that many before its bytes, or fewer.
const WORDS: usize = 4;

/// What there is to know of this VM.
static LAYOUT: OnceLock<Layout> = OnceLock::new();

/// Where the VM has what; none of what could not be learned.
#[derive(Clone, Copy, Default, PartialEq)]
struct Layout {
    /// How far the bytes of a binary on a heap are from its address.
    on_heap: Option<usize>,
    off_heap: Option<OffHeap>,
}

/// Of an off-heap binary.
#[derive(Clone, Copy, PartialEq)]
struct OffHeap {
    /// The word that is its length.
    length: usize,
    /// How far its bytes are from its address.
    bytes: usize,
}

/// What a binary shows, or begins with.
struct Shown {
    bytes: *const u8,
    length: usize,
    off_heap: *const c_void,
}

/// How an [`ErlNifIOVec`] begins, in every release that has one.
#[repr(C)]
struct Vector {
    count: c_int,
    size: usize,
    elements: *const Element,
    off_heap: *const *const c_void,
}

/// An element, as the system defines it.
#[repr(C)]
struct Element {
    base: *const u8,
    length: usize,
}

const _: () = assert!(size_of::<Vector>() < size_of::<ErlNifIOVec>());

/// Learns where the VM has what.
///
/// # Safety
/// `env` is the environment of the VM's call.
pub unsafe fn learn(env: *mut ErlNifEnv) {
    // SAFETY: by this function's own condition.
    let layout = || unsafe {
        Layout {
            on_heap: same([ON_HEAP / 4, ON_HEAP / 2].map(|length| learn_on_heap(env, length))),
            off_heap: same([4_567, 8_901, 77_777].map(|length| learn_off_heap(env, length))),
        }
    };
    LAYOUT.get_or_init(layout);
}

/// What all of them say.
fn same<T: PartialEq, const N: usize>(learned: [Option<T>; N]) -> Option<T> {
    let first = learned.first()?.is_some() && learned.iter().all(|each| *each == learned[0]);
    learned.into_iter().next().filter(|_| first).flatten()
}

/// # Safety
/// As for [`learn`].
unsafe fn learn_on_heap(env: *mut ErlNifEnv, length: usize) -> Option<usize> {
    let mut term = ErlNifTerm::default();
    // SAFETY: by this function's own condition.
    let bytes = unsafe { enif_make_new_binary(env, length, &mut term) };
    let distance = bytes.addr().checked_sub(address(term))?;
    (distance <= ON_HEAP).then_some(distance)
}

/// # Safety
/// As for [`learn`].
unsafe fn learn_off_heap(env: *mut ErlNifEnv, length: usize) -> Option<OffHeap> {
    let mut term = ErlNifTerm::default();
    // SAFETY: by this function's own condition.
    let (bytes, shown) = unsafe {
        let bytes = enif_make_new_binary(env, length, &mut term);
        (bytes.cast_const(), show(env, term)?)
    };
    if shown.bytes != bytes || shown.length != length {
        return None;
    }
    let distance = bytes.addr().checked_sub(shown.off_heap.addr())?;
    let words = WORDS.min(distance / size_of::<usize>());
    // SAFETY: the off-heap binary begins with these words, for its bytes come after them.
    let is_length = |word: &usize| unsafe { word_of(shown.off_heap, *word) } == length;
    let mut found = (0..words).filter(is_length);
    match (found.next(), found.next()) {
        (Some(word), None) => Some(OffHeap {
            length: word,
            bytes: distance,
        }),
        _ => None,
    }
}

/// The word with this number, from an address on.
///
/// # Safety
/// It is there.
unsafe fn word_of(address: *const c_void, number: usize) -> usize {
    // SAFETY: by this function's own condition.
    unsafe { address.cast::<usize>().add(number).read() }
}

/// The address of a term that is on a heap: the lowest bits of the word say what it is.
fn address(term: ErlNifTerm) -> usize {
    to_word(term) as usize & !(size_of::<usize>() - 1)
}

/// What the VM would write of a binary; none when it would not write it in one piece.
///
/// # Safety
/// The term is of this environment, which is the caller's.
unsafe fn show(env: *mut ErlNifEnv, term: ErlNifTerm) -> Option<Shown> {
    let mut vector = MaybeUninit::<ErlNifIOVec>::uninit();
    let (mut pointer, mut tail) = (vector.as_mut_ptr(), ErlNifTerm::default());
    // SAFETY: the list is made of terms of this environment. The VM writes to the vector that it is given, which is long enough for one element, and
    // keeps what that points to until the call returns.
    unsafe {
        let nil = enif_make_list_from_array(env, ptr::NonNull::dangling().as_ptr(), 0);
        let list = enif_make_list_cell(env, term, nil);
        if enif_inspect_iovec(env, 1, list, &mut tail, &mut pointer) == 0 {
            return None;
        }
        let vector = &*pointer.cast::<Vector>();
        if vector.count != 1 {
            return None;
        }
        let (element, off_heap) = (&*vector.elements, *vector.off_heap);
        let one = element.length == vector.size && !off_heap.is_null();
        one.then_some(Shown {
            bytes: element.base,
            length: element.length,
            off_heap,
        })
    }
}

/// Where the bytes of a binary are.
enum Bytes {
    /// In the term itself.
    Within,
    /// Off the heaps, and the binary shows all of them.
    Whole,
    /// Off the heaps, here, and the binary shows a part of them.
    Part(*const u8),
    /// They do not begin at a byte, or are in another term.
    Elsewhere,
    /// The VM does not say.
    Unknown,
}

impl Call<'_> {
    /// Whether a stored copy of this binary would keep more than it shows.
    pub fn keeps_more(&self, term: ErlNifTerm, length: usize) -> bool {
        !matches!(self.bytes_of(term, length), Bytes::Within | Bytes::Whole)
    }

    fn bytes_of(&self, term: ErlNifTerm, length: usize) -> Bytes {
        let layout = LAYOUT.get().copied().unwrap_or_default();
        if length <= ON_HEAP {
            let begin = layout.on_heap.map(|distance| address(term) + distance);
            return match begin.is_some() && self.begin_of(term) == begin {
                true => Bytes::Within,
                false => Bytes::Unknown,
            };
        }
        // SAFETY: the term is a binary of the caller's environment, and so long.
        let (first, shown) = unsafe {
            let first = enif_make_sub_binary(self.env, term, 0, length.min(FIRST));
            (first, show(self.env, first))
        };
        // What is shown may have been moved just now: the VM ends the growth of a binary when somebody looks at it so.
        let Some(shown) = shown else {
            return Bytes::Unknown;
        };
        if self.begin_of(first) != Some(shown.bytes.addr()) {
            return Bytes::Elsewhere;
        }
        let is_whole = |known: OffHeap| {
            let begin = shown.off_heap.addr() + known.bytes;
            // SAFETY: it is an off-heap binary of the VM, which begins with these words.
            shown.bytes.addr() == begin
                && unsafe { word_of(shown.off_heap, known.length) } == length
        };
        match layout.off_heap.is_some_and(is_whole) {
            true => Bytes::Whole,
            false => Bytes::Part(shown.bytes),
        }
    }

    /// Copies a term into another environment. Of what it has binaries that keep more than they show, the copy has others.
    ///
    /// # Safety
    /// The environment is nobody else's.
    pub unsafe fn copy_without_parts(&self, env: *mut ErlNifEnv, term: ErlNifTerm) -> ErlNifTerm {
        let mut copy = Copy {
            call: self,
            env,
            open: Open::from_iter([Step::Copy(term)]),
            made: SmallVec::new(),
        };
        while let Some(step) = copy.open.pop() {
            let made = copy.step(step);
            copy.made.extend(made);
        }
        copy.made[0]
    }
}

/// What is still to be done of a copy.
enum Step {
    Copy(ErlNifTerm),
    /// So many elements have been made, and a tail.
    List(usize),
    Tuple(usize),
    /// So many keys have been made, each before its value.
    Map(usize),
}

type Open = SmallVec<[Step; 64]>;

/// A copy that is being made: from inner to outer, without recursion, for terms may be as deep as memory is large.
struct Copy<'c, 'a> {
    call: &'c Call<'a>,
    env: *mut ErlNifEnv,
    open: Open,
    /// The terms that have been made, the next outer one's from the end.
    made: SmallVec<[ErlNifTerm; 64]>,
}

impl Copy<'_, '_> {
    /// Does a step; the term that it has made.
    fn step(&mut self, step: Step) -> Option<ErlNifTerm> {
        match step {
            Step::Copy(term) => self.copy(term),
            Step::List(count) => {
                let tail = self.made.pop()?;
                let first = self.made.len() - count;
                let heads = self.made.drain(first..).rev();
                // SAFETY: all are terms of that environment.
                let cons = |tail, head| unsafe { enif_make_list_cell(self.env, head, tail) };
                Some(heads.fold(tail, cons))
            }
            Step::Tuple(count) => {
                let first = self.made.len() - count;
                let elements = &self.made[first..];
                // SAFETY: as above, and so many.
                let tuple = unsafe {
                    enif_make_tuple_from_array(self.env, elements.as_ptr(), count as u32)
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
                // SAFETY: as above, as many keys as values. No key is there twice, for each is equal to one of a map.
                unsafe {
                    enif_make_map_from_arrays(
                        self.env,
                        keys.as_ptr(),
                        values.as_ptr(),
                        count,
                        &mut map,
                    );
                }
                Some(map)
            }
        }
    }

    /// Copies a term at once, or leaves open what is in it: the last that is to be made first.
    fn copy(&mut self, term: ErlNifTerm) -> Option<ErlNifTerm> {
        let call = self.call;
        match call.type_of(term) {
            term_type::LIST if !call.is_nil(term) => {
                let place = self.open.len();
                self.open.push(Step::List(0));
                let mut list = term;
                while let Some((head, tail)) = call.cell(list) {
                    self.open.push(Step::Copy(head));
                    list = tail;
                }
                let parts = &mut self.open[place..];
                parts[0] = Step::List(parts.len() - 1);
                parts[1..].reverse();
                self.open.insert(place + 1, Step::Copy(list));
                None
            }
            term_type::TUPLE => {
                let elements = call.elements(term)?;
                self.open.push(Step::Tuple(elements.len()));
                let elements = elements.iter().rev();
                self.open
                    .extend(elements.map(|element| Step::Copy(*element)));
                None
            }
            term_type::MAP => {
                self.open.push(Step::Map(call.map_size(term)));
                let pairs = call.for_each_pair(term, |key, value| {
                    self.open.extend([Step::Copy(value), Step::Copy(key)]);
                    Ok::<(), ()>(())
                });
                pairs.ok()?;
                None
            }
            kind => {
                let copy = match kind {
                    term_type::BITSTRING => self.copy_binary(term),
                    _ => None,
                };
                // SAFETY: the term is of the caller's environment.
                Some(copy.unwrap_or_else(|| unsafe { enif_make_copy(self.env, term) }))
            }
        }
    }

    /// Copies a binary; none that may be shared as it is, and none if the VM does not give its bytes.
    fn copy_binary(&self, term: ErlNifTerm) -> Option<ErlNifTerm> {
        let call = self.call;
        let Some(length) = call.binary_length(term) else {
            // Not whole bytes. The VM tells nobody where they are, but writes them out.
            return call.read_external(term, |bytes| make_external(self.env, bytes));
        };
        match call.bytes_of(term, length) {
            Bytes::Within | Bytes::Whole => None,
            // SAFETY: the binary shows so many bytes from there on.
            Bytes::Part(bytes) => {
                Some(self.binary(unsafe { slice::from_raw_parts(bytes, length) }))
            }
            Bytes::Elsewhere => call.read_binary_again(term, |bytes| self.binary(bytes)),
            Bytes::Unknown => call.read_binary(term, |bytes| self.binary(bytes)),
        }
    }

    fn binary(&self, bytes: &[u8]) -> ErlNifTerm {
        let mut term = ErlNifTerm::default();
        // SAFETY: the VM gives room for that many bytes, or the environment takes no more.
        unsafe {
            let room = enif_make_new_binary(self.env, bytes.len(), &mut term);
            ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
        }
        term
    }
}
