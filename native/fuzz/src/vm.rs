//! The VM's functions that the conversion of terms calls, over terms in memory of this program.
//!
//! A term is the address of a [`Node`] that its environment owns, or a number with its lowest bit
//! set for terms that the VM never frees. So a sanitizer sees each use of a term after its
//! environment was freed, and each byte that is read beside a binary.
//!
//! The functions trust their arguments, as the VM's do: their callers are what is tested. So they
//! have no `SAFETY` comments of their own.

#![allow(clippy::undocumented_unsafe_blocks)]

use std::collections::hash_map::DefaultHasher;
use std::ffi::c_void;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustler::sys::ErlNifTermType::{self, *};
use rustler::sys::{
    c_char, c_double, c_int, c_long, c_uchar, c_uint, size_t, ErlNifBinary, ErlNifEnv, ErlNifHash,
    ErlNifMapIterator, ErlNifMapIteratorEntry, ErlNifPid, ErlNifPort, ERL_NIF_TERM as ErlNifTerm,
};

/// A term that is not a number.
#[derive(Clone)]
enum Node {
    Integer(i64),
    /// An integer of more than 64 bits, or a term of another type that cannot be taken apart.
    Opaque(ErlNifTermType, Vec<u8>),
    Float(f64),
    Binary(Box<[u8]>),
    Tuple(Box<[ErlNifTerm]>),
    Cell(ErlNifTerm, ErlNifTerm),
    /// Keys and values, sorted if there are at most [`FLAT`].
    Map(Box<[ErlNifTerm]>, Box<[ErlNifTerm]>),
}
use Node::*;

/// Keys of the largest map that the VM keeps sorted. The order of a larger one depends here on the
/// order in which it was made.
const FLAT: usize = 32;

/// The types of [`Opaque`] terms.
const OPAQUE: [ErlNifTermType; 6] = [
    ERL_NIF_TERM_TYPE_INTEGER,
    ERL_NIF_TERM_TYPE_FUN,
    ERL_NIF_TERM_TYPE_REFERENCE,
    ERL_NIF_TERM_TYPE_PID,
    ERL_NIF_TERM_TYPE_PORT,
    ERL_NIF_TERM_TYPE_BITSTRING,
];

/// The lowest bits of a word that is not an address.
const ATOM: usize = 1;
const PID: usize = 3;
const PORT: usize = 5;
const NIL: usize = 7;

/// Whether `0.0` and `-0.0` are different terms.
static SIGNED_ZEROS: AtomicBool = AtomicBool::new(false);

pub fn tell_signed_zeros(told: bool) {
    SIGNED_ZEROS.store(told, Ordering::Relaxed);
}

/// The owner of terms.
#[derive(Default)]
pub struct Environment(Vec<*mut Node>);

impl Drop for Environment {
    fn drop(&mut self) {
        for node in &self.0 {
            // SAFETY: `add` made it with `Box::into_raw`, and it is freed once.
            drop(unsafe { Box::from_raw(*node) });
        }
    }
}

impl Environment {
    pub fn as_raw(&mut self) -> *mut ErlNifEnv {
        ptr::from_mut(self).cast()
    }

    fn add(&mut self, node: Node) -> ErlNifTerm {
        let node = Box::into_raw(Box::new(node));
        self.0.push(node);
        node as usize
    }

    fn add_map(&mut self, mut pairs: Vec<(ErlNifTerm, ErlNifTerm)>) -> Option<ErlNifTerm> {
        if pairs.len() <= FLAT {
            pairs.sort_by_cached_key(|(key, _)| show(*key));
        }
        let is_twice = |(place, (key, _)): (usize, &(ErlNifTerm, _))| {
            pairs[..place]
                .iter()
                .any(|(other, _)| is_identical(*key, *other))
        };
        if pairs.iter().enumerate().any(is_twice) {
            return None;
        }
        let (keys, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        Some(self.add(Map(keys.into(), values.into())))
    }

    pub fn copy(&mut self, term: ErlNifTerm) -> ErlNifTerm {
        let copy = match node(term) {
            None => return term,
            Some(Cell(..)) => {
                let (heads, tail) = unfold(term);
                let tail = self.copy(tail);
                return heads.into_iter().rev().fold(tail, |tail, head| {
                    let head = self.copy(head);
                    self.add(Cell(head, tail))
                });
            }
            Some(Tuple(elements)) => Tuple(self.copy_all(elements)),
            Some(Map(keys, values)) => Map(self.copy_all(keys), self.copy_all(values)),
            Some(node) => node.clone(),
        };
        self.add(copy)
    }

    fn copy_all(&mut self, terms: &[ErlNifTerm]) -> Box<[ErlNifTerm]> {
        terms.iter().map(|term| self.copy(*term)).collect()
    }
}

/// Builds terms from the bytes of an input.
pub struct Builder<'i>(std::slice::Iter<'i, u8>);

/// The deepest nesting of a term.
const MAX_DEPTH: usize = 40;

impl<'i> Builder<'i> {
    pub fn new(program: &'i [u8]) -> Self {
        Builder(program.iter())
    }

    pub fn build(&mut self, environment: &mut Environment) -> ErlNifTerm {
        self.build_below(environment, MAX_DEPTH)
    }

    fn byte(&mut self) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte))
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte() as u8).collect()
    }

    fn word(&mut self) -> u64 {
        let length = self.byte() % 9;
        self.bytes(length)
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    }

    /// Returns a count: mostly small, at most 255 times `largest`.
    fn count(&mut self, largest: usize) -> usize {
        match self.byte() {
            255 => self.byte() * largest,
            count => count % 48,
        }
    }

    fn build_below(&mut self, environment: &mut Environment, depth: usize) -> ErlNifTerm {
        // At the end of the program, nothing but leaves is built.
        let parts = if depth > 0 && self.0.len() > 0 {
            14
        } else {
            10
        };
        let number = |tag: usize, number: usize| number << 3 | tag;
        let node = match self.byte() % parts {
            0 => return number(ATOM, self.word() as usize >> 8),
            1 => return number(PID, self.word() as usize >> 8),
            2 => return number(PORT, self.word() as usize >> 8),
            3 => return NIL,
            4 => Integer(self.word() as i64),
            5 => Float([0.0, -0.0, 1.0][self.byte() % 3]),
            6 => Float(match f64::from_bits(self.word()) {
                float if float.is_finite() => float,
                _ => -0.0,
            }),
            7 | 8 => {
                let count = self.count(20);
                Binary(self.bytes(count).into())
            }
            9 => Opaque(OPAQUE[self.byte() % OPAQUE.len()], self.bytes(3)),
            10 => {
                let count = self.count(4);
                Tuple(
                    (0..count)
                        .map(|_| self.build_below(environment, depth - 1))
                        .collect(),
                )
            }
            11 | 12 => {
                let count = self.count(4);
                let tail = match self.byte() % 4 {
                    0 => self.build_below(environment, depth - 1),
                    _ => NIL,
                };
                return (0..count).fold(tail, |tail, _| {
                    let head = self.build_below(environment, depth - 1);
                    environment.add(Cell(head, tail))
                });
            }
            _ => {
                let mut pairs: Vec<(ErlNifTerm, ErlNifTerm)> = Vec::new();
                for _ in 0..self.count(1) {
                    let mut part = || self.build_below(environment, depth - 1);
                    let (key, value) = (part(), part());
                    if pairs.iter().all(|(other, _)| !is_identical(key, *other)) {
                        pairs.push((key, value));
                    }
                }
                return environment.add_map(pairs).expect("each key occurs once");
            }
        };
        environment.add(node)
    }
}

/// Returns the node of a term that is not a number. A sanitizer reports a node that was freed.
fn node<'t>(term: ErlNifTerm) -> Option<&'t Node> {
    assert_ne!(term, 0, "not a term");
    // SAFETY: `Environment::add` returned the address.
    (term & 1 == 0).then(|| unsafe { &*ptr::with_exposed_provenance(term) })
}

/// Returns the elements of a list, and its end.
fn unfold(mut list: ErlNifTerm) -> (Vec<ErlNifTerm>, ErlNifTerm) {
    let mut heads = Vec::new();
    while let Some(Cell(head, tail)) = node(list) {
        heads.push(*head);
        list = *tail;
    }
    (heads, list)
}

/// Whether two terms are equal by `=:=`.
pub fn is_identical(one: ErlNifTerm, other: ErlNifTerm) -> bool {
    is_same(one, other, SIGNED_ZEROS.load(Ordering::Relaxed))
}

/// Whether two terms are equal bit by bit.
pub fn is_exactly(one: ErlNifTerm, other: ErlNifTerm) -> bool {
    is_same(one, other, true)
}

fn is_same(one: ErlNifTerm, other: ErlNifTerm, signed: bool) -> bool {
    let all_same = |ones: &[ErlNifTerm], others: &[ErlNifTerm]| {
        let mut pairs = ones.iter().zip(others);
        ones.len() == others.len() && pairs.all(|(one, other)| is_same(*one, *other, signed))
    };
    match (node(one), node(other)) {
        (None, None) => one == other,
        (Some(Integer(one)), Some(Integer(other))) => one == other,
        (Some(Float(one)), Some(Float(other))) if signed => one.to_bits() == other.to_bits(),
        (Some(Float(one)), Some(Float(other))) => one == other,
        (Some(Binary(one)), Some(Binary(other))) => one == other,
        (Some(Opaque(kind, one)), Some(Opaque(other_kind, other))) => {
            *kind as c_int == *other_kind as c_int && one == other
        }
        (Some(Tuple(ones)), Some(Tuple(others))) => all_same(ones, others),
        (Some(Cell(..)), Some(Cell(..))) => {
            let ((ones, tail), (others, other_tail)) = (unfold(one), unfold(other));
            all_same(&ones, &others) && is_same(tail, other_tail, signed)
        }
        (Some(Map(keys, values)), Some(Map(other_keys, other_values))) => {
            let has_it = |(key, value): (&ErlNifTerm, &ErlNifTerm)| {
                let mut others = other_keys.iter().zip(other_values);
                others.any(|(other_key, other)| {
                    is_same(*key, *other_key, signed) && is_same(*value, *other, signed)
                })
            };
            keys.len() == other_keys.len() && keys.iter().zip(values).all(has_it)
        }
        _ => false,
    }
}

pub fn is_binary(term: ErlNifTerm) -> bool {
    matches!(node(term), Some(Binary(_)))
}

/// Returns a term as text, for messages.
pub fn show(term: ErlNifTerm) -> String {
    node(term).map_or_else(|| format!("<{:x}>", term), show_node)
}

fn show_node(node: &Node) -> String {
    let show_all = |terms: &[ErlNifTerm]| {
        terms
            .iter()
            .map(|term| show(*term))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match node {
        Integer(integer) => integer.to_string(),
        Float(float) => format!("{float:?}"),
        Binary(bytes) => format!("<<{bytes:?}>>"),
        Opaque(kind, bytes) => format!("#{}{bytes:?}", *kind as c_int),
        Tuple(elements) => format!("{{{}}}", show_all(elements)),
        Cell(head, tail) => {
            let (heads, end) = unfold(*tail);
            format!("[{}, {} | {}]", show(*head), show_all(&heads), show(end))
        }
        Map(keys, values) => format!("#{{{} => {}}}", show_all(keys), show_all(values)),
    }
}

/// How many terms the functions below have hashed.
static HASHED: AtomicUsize = AtomicUsize::new(0);

/// Returns how many terms the VM has hashed.
pub fn hashed() -> usize {
    HASHED.load(Ordering::Relaxed)
}

/// Returns a hash that is the same for identical terms.
fn hash(term: ErlNifTerm) -> u64 {
    let hash_all = |terms: &[ErlNifTerm]| terms.iter().map(|term| hash(*term)).collect::<Vec<_>>();
    let mut hasher = DefaultHasher::new();
    match node(term) {
        None => term.hash(&mut hasher),
        Some(Integer(integer)) => integer.hash(&mut hasher),
        Some(Float(float)) => (float + 0.0).to_bits().hash(&mut hasher),
        Some(Binary(bytes)) => bytes.hash(&mut hasher),
        Some(Opaque(_, bytes)) => bytes.hash(&mut hasher),
        Some(Tuple(elements)) => hash_all(elements).hash(&mut hasher),
        Some(Cell(..)) => {
            let (heads, tail) = unfold(term);
            (hash_all(&heads), hash(tail)).hash(&mut hasher);
        }
        Some(Map(keys, _)) => keys
            .iter()
            .fold(0, |sum: u64, key| sum.wrapping_add(hash(*key)))
            .hash(&mut hasher),
    }
    hasher.finish()
}

// The functions of the VM.

unsafe fn environment<'e>(raw: *mut ErlNifEnv) -> &'e mut Environment {
    unsafe { &mut *raw.cast() }
}

unsafe fn words<'w>(terms: *const ErlNifTerm, count: usize) -> &'w [ErlNifTerm] {
    match count {
        0 => &[],
        count => unsafe { std::slice::from_raw_parts(terms, count) },
    }
}

#[no_mangle]
unsafe extern "C" fn enif_term_type(_: *mut ErlNifEnv, term: ErlNifTerm) -> c_int {
    let kind = match node(term) {
        Some(Integer(_)) => ERL_NIF_TERM_TYPE_INTEGER,
        Some(Opaque(kind, _)) => *kind,
        Some(Float(_)) => ERL_NIF_TERM_TYPE_FLOAT,
        Some(Binary(_)) => ERL_NIF_TERM_TYPE_BITSTRING,
        Some(Tuple(_)) => ERL_NIF_TERM_TYPE_TUPLE,
        Some(Cell(..)) => ERL_NIF_TERM_TYPE_LIST,
        Some(Map(..)) => ERL_NIF_TERM_TYPE_MAP,
        None => match term & 7 {
            ATOM => ERL_NIF_TERM_TYPE_ATOM,
            PID => ERL_NIF_TERM_TYPE_PID,
            PORT => ERL_NIF_TERM_TYPE_PORT,
            _ => ERL_NIF_TERM_TYPE_LIST,
        },
    };
    kind as c_int
}

#[no_mangle]
unsafe extern "C" fn enif_is_identical(one: ErlNifTerm, other: ErlNifTerm) -> c_int {
    c_int::from(is_identical(one, other))
}

#[no_mangle]
unsafe extern "C" fn enif_hash(_: ErlNifHash, term: ErlNifTerm, salt: u64) -> u64 {
    HASHED.fetch_add(1, Ordering::Relaxed);
    hash(term) ^ salt
}

/// Compares an integer of more than 64 bits, taken as positive, with a float of 997 bits.
#[no_mangle]
unsafe extern "C" fn enif_compare(term: ErlNifTerm, float: ErlNifTerm) -> c_int {
    let is_long = matches!(node(term), Some(Opaque(_, bytes)) if bytes.len() > 124);
    let is_positive = matches!(node(float), Some(Float(float)) if *float > 0.0);
    match is_positive {
        true => c_int::from(is_long),
        false => 1,
    }
}

#[no_mangle]
unsafe extern "C" fn enif_is_atom(_: *mut ErlNifEnv, term: ErlNifTerm) -> c_int {
    c_int::from(term & 7 == ATOM)
}

#[no_mangle]
unsafe extern "C" fn enif_is_empty_list(_: *mut ErlNifEnv, term: ErlNifTerm) -> c_int {
    c_int::from(term == NIL)
}

#[no_mangle]
unsafe extern "C" fn enif_get_local_pid(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    pid: *mut ErlNifPid,
) -> c_int {
    unsafe { pid.cast::<ErlNifTerm>().write(term) };
    c_int::from(term & 7 == PID)
}

#[no_mangle]
unsafe extern "C" fn enif_get_local_port(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    port: *mut ErlNifPort,
) -> c_int {
    unsafe { port.cast::<ErlNifTerm>().write(term) };
    c_int::from(term & 7 == PORT)
}

#[no_mangle]
unsafe extern "C" fn enif_get_long(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    integer: *mut c_long,
) -> c_int {
    let Some(Integer(found)) = node(term) else {
        return 0;
    };
    unsafe { integer.write(*found) };
    1
}

#[no_mangle]
unsafe extern "C" fn enif_make_long(env: *mut ErlNifEnv, integer: c_long) -> ErlNifTerm {
    unsafe { environment(env) }.add(Integer(integer))
}

#[no_mangle]
unsafe extern "C" fn enif_get_double(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    double: *mut c_double,
) -> c_int {
    let Some(Float(found)) = node(term) else {
        return 0;
    };
    unsafe { double.write(*found) };
    1
}

#[no_mangle]
unsafe extern "C" fn enif_make_double(env: *mut ErlNifEnv, double: c_double) -> ErlNifTerm {
    assert!(double.is_finite());
    unsafe { environment(env) }.add(Float(double))
}

/// A binary whose first byte is odd stands for an unaligned one: the environment keeps a copy.
#[no_mangle]
unsafe extern "C" fn enif_inspect_binary(
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    binary: *mut ErlNifBinary,
) -> c_int {
    let Some(Binary(bytes)) = node(term) else {
        return 0;
    };
    let mut bytes = bytes;
    if bytes.first().is_some_and(|first| first % 2 == 1) {
        let copy = unsafe { environment(env) }.add(Binary(bytes.clone()));
        let Some(Binary(copied)) = node(copy) else {
            unreachable!("it was made as a binary")
        };
        bytes = copied;
    }
    unsafe {
        binary.write_bytes(0, 1);
        (*binary).size = bytes.len();
        (*binary).data = bytes.as_ptr().cast_mut();
    }
    1
}

#[no_mangle]
unsafe extern "C" fn enif_make_new_binary(
    env: *mut ErlNifEnv,
    size: size_t,
    term: *mut ErlNifTerm,
) -> *mut c_uchar {
    let mut bytes = ManuallyDrop::new(vec![0; size].into_boxed_slice());
    let room = bytes.as_mut_ptr();
    // The caller writes to it after it belongs to a term.
    let bytes = unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(room, size)) };
    unsafe { term.write(environment(env).add(Binary(bytes))) };
    room
}

#[no_mangle]
unsafe extern "C" fn enif_get_tuple(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    count: *mut c_int,
    elements: *mut *const ErlNifTerm,
) -> c_int {
    let Some(Tuple(found)) = node(term) else {
        return 0;
    };
    unsafe {
        count.write(found.len() as c_int);
        elements.write(found.as_ptr());
    }
    1
}

#[no_mangle]
unsafe extern "C" fn enif_make_tuple_from_array(
    env: *mut ErlNifEnv,
    elements: *const ErlNifTerm,
    count: c_uint,
) -> ErlNifTerm {
    let elements = unsafe { words(elements, count as usize) };
    unsafe { environment(env) }.add(Tuple(elements.into()))
}

#[no_mangle]
unsafe extern "C" fn enif_get_list_cell(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    head: *mut ErlNifTerm,
    tail: *mut ErlNifTerm,
) -> c_int {
    let Some(Cell(found_head, found_tail)) = node(term) else {
        return 0;
    };
    unsafe {
        head.write(*found_head);
        tail.write(*found_tail);
    }
    1
}

#[no_mangle]
unsafe extern "C" fn enif_make_list_cell(
    env: *mut ErlNifEnv,
    head: ErlNifTerm,
    tail: ErlNifTerm,
) -> ErlNifTerm {
    unsafe { environment(env) }.add(Cell(head, tail))
}

#[no_mangle]
unsafe extern "C" fn enif_make_list_from_array(
    env: *mut ErlNifEnv,
    elements: *const ErlNifTerm,
    count: c_uint,
) -> ErlNifTerm {
    let elements = unsafe { words(elements, count as usize) };
    let environment = unsafe { environment(env) };
    elements
        .iter()
        .rfold(NIL, |tail, head| environment.add(Cell(*head, tail)))
}

#[no_mangle]
unsafe extern "C" fn enif_get_map_size(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    size: *mut size_t,
) -> c_int {
    let Some(Map(keys, _)) = node(term) else {
        return 0;
    };
    unsafe { size.write(keys.len()) };
    1
}

#[no_mangle]
unsafe extern "C" fn enif_make_map_from_arrays(
    env: *mut ErlNifEnv,
    keys: *const ErlNifTerm,
    values: *const ErlNifTerm,
    count: size_t,
    map: *mut ErlNifTerm,
) -> c_int {
    let (keys, values) = unsafe { (words(keys, count), words(values, count)) };
    let pairs = keys.iter().copied().zip(values.iter().copied()).collect();
    let Some(made) = (unsafe { environment(env) }).add_map(pairs) else {
        return 0;
    };
    unsafe { map.write(made) };
    1
}

/// The content of an iterator: the map, and the index of the next pair.
type Iterator = (ErlNifTerm, usize);

#[no_mangle]
unsafe extern "C" fn enif_map_iterator_create(
    _: *mut ErlNifEnv,
    map: ErlNifTerm,
    iterator: *mut ErlNifMapIterator,
    _: ErlNifMapIteratorEntry,
) -> c_int {
    unsafe { iterator.cast::<Iterator>().write((map, 0)) };
    c_int::from(matches!(node(map), Some(Map(..))))
}

#[no_mangle]
unsafe extern "C" fn enif_map_iterator_get_pair(
    _: *mut ErlNifEnv,
    iterator: *mut ErlNifMapIterator,
    key: *mut ErlNifTerm,
    value: *mut ErlNifTerm,
) -> c_int {
    let (map, place) = unsafe { *iterator.cast::<Iterator>() };
    match node(map) {
        Some(Map(keys, values)) if place < keys.len() => unsafe {
            key.write(keys[place]);
            value.write(values[place]);
            1
        },
        _ => 0,
    }
}

#[no_mangle]
unsafe extern "C" fn enif_map_iterator_next(
    _: *mut ErlNifEnv,
    iterator: *mut ErlNifMapIterator,
) -> c_int {
    unsafe { (*iterator.cast::<Iterator>()).1 += 1 };
    1
}

#[no_mangle]
unsafe extern "C" fn enif_map_iterator_destroy(_: *mut ErlNifEnv, _: *mut ErlNifMapIterator) {}

#[no_mangle]
unsafe extern "C" fn enif_alloc_env() -> *mut ErlNifEnv {
    Box::into_raw(Box::<Environment>::default()).cast()
}

#[no_mangle]
unsafe extern "C" fn enif_free_env(env: *mut ErlNifEnv) {
    drop(unsafe { Box::from_raw(env.cast::<Environment>()) });
}

#[no_mangle]
unsafe extern "C" fn enif_clear_env(env: *mut ErlNifEnv) {
    drop(std::mem::take(unsafe { environment(env) }));
}

#[no_mangle]
unsafe extern "C" fn enif_term_to_binary(
    _: *mut ErlNifEnv,
    term: ErlNifTerm,
    binary: *mut ErlNifBinary,
) -> c_int {
    let written = match node(term) {
        Some(Opaque(kind, bytes)) => [&[*kind as u8], &bytes[..]].concat(),
        _ => show(term).into_bytes(),
    };
    let written = Box::leak(written.into_boxed_slice());
    unsafe {
        binary.write_bytes(0, 1);
        (*binary).size = written.len();
        (*binary).data = written.as_mut_ptr();
    }
    1
}

/// Reads what `enif_term_to_binary` writes of an [`Opaque`] term.
#[no_mangle]
unsafe extern "C" fn enif_binary_to_term(
    env: *mut ErlNifEnv,
    data: *const c_uchar,
    size: size_t,
    term: *mut ErlNifTerm,
    _: c_uint,
) -> size_t {
    let [kind, bytes @ ..] = (unsafe { std::slice::from_raw_parts(data, size) }) else {
        return 0;
    };
    let Some(kind) = OPAQUE.into_iter().find(|known| *known as u8 == *kind) else {
        return 0;
    };
    unsafe { term.write(environment(env).add(Opaque(kind, bytes.to_vec()))) };
    size
}

#[no_mangle]
unsafe extern "C" fn enif_is_process_alive(_: *mut ErlNifEnv, _: *const ErlNifPid) -> c_int {
    unreachable!("the conversion of terms does not call it")
}

/// Makes a separate binary.
#[no_mangle]
unsafe extern "C" fn enif_make_sub_binary(
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    begin: size_t,
    size: size_t,
) -> ErlNifTerm {
    let Some(Binary(bytes)) = node(term) else {
        unreachable!("only of binaries")
    };
    unsafe { environment(env) }.add(Binary(bytes[begin..][..size].into()))
}

/// Refuses, so that every binary counts as a part of a larger one.
#[no_mangle]
unsafe extern "C" fn enif_inspect_iovec(
    _: *mut ErlNifEnv,
    _: size_t,
    _: ErlNifTerm,
    _: *mut ErlNifTerm,
    _: *mut *mut c_void,
) -> c_int {
    0
}

#[no_mangle]
unsafe extern "C" fn enif_alloc_binary(size: size_t, binary: *mut ErlNifBinary) -> c_int {
    let bytes = Box::leak(vec![0; size].into_boxed_slice());
    unsafe {
        binary.write_bytes(0, 1);
        (*binary).size = size;
        (*binary).data = bytes.as_mut_ptr();
    }
    1
}

/// The content of a queue: at most one binary.
type Queue = Option<Box<[u8]>>;

#[no_mangle]
unsafe extern "C" fn enif_ioq_create(_: c_int) -> *mut Queue {
    Box::into_raw(Box::default())
}

#[no_mangle]
unsafe extern "C" fn enif_ioq_destroy(queue: *mut Queue) {
    drop(unsafe { Box::from_raw(queue) });
}

#[no_mangle]
unsafe extern "C" fn enif_ioq_enq_binary(
    queue: *mut Queue,
    binary: *mut ErlNifBinary,
    _: size_t,
) -> c_int {
    unsafe {
        let bytes = ptr::slice_from_raw_parts_mut((*binary).data, (*binary).size);
        *queue = Some(Box::from_raw(bytes));
    }
    1
}

#[no_mangle]
unsafe extern "C" fn enif_ioq_deq(queue: *mut Queue, count: size_t, _: *mut size_t) -> c_int {
    let released = unsafe { (*queue).take() };
    assert_eq!(released.map(|bytes| bytes.len()), Some(count));
    1
}

/// Only vectors of [`enif_inspect_iovec`] are added.
#[no_mangle]
unsafe extern "C" fn enif_ioq_enqv(_: *mut Queue, _: *mut c_void, _: size_t) -> c_int {
    unreachable!("there is no vector")
}

#[no_mangle]
unsafe extern "C" fn enif_ioq_peek_head(
    env: *mut ErlNifEnv,
    queue: *mut Queue,
    _: *mut size_t,
    term: *mut ErlNifTerm,
) -> c_int {
    let Some(bytes) = (unsafe { &*queue }) else {
        return 0;
    };
    unsafe { term.write(environment(env).add(Binary(bytes.clone()))) };
    1
}

#[no_mangle]
unsafe extern "C" fn enif_release_binary(binary: *mut ErlNifBinary) {
    let written = unsafe { ptr::slice_from_raw_parts_mut((*binary).data, (*binary).size) };
    drop(unsafe { Box::from_raw(written) });
}

#[no_mangle]
unsafe extern "C" fn enif_make_copy(env: *mut ErlNifEnv, term: ErlNifTerm) -> ErlNifTerm {
    unsafe { environment(env) }.copy(term)
}

#[no_mangle]
unsafe extern "C" fn enif_consume_timeslice(_: *mut ErlNifEnv, percent: c_int) -> c_int {
    assert!((1..=100).contains(&percent));
    0
}

/// Calls the function that the VM would call later, on a dirty scheduler.
#[no_mangle]
unsafe extern "C" fn enif_schedule_nif(
    env: *mut ErlNifEnv,
    _: *const c_char,
    _: c_int,
    function: unsafe extern "C" fn(*mut ErlNifEnv, c_int, *const ErlNifTerm) -> ErlNifTerm,
    count: c_int,
    arguments: *const ErlNifTerm,
) -> ErlNifTerm {
    unsafe { function(env, count, arguments) }
}

#[no_mangle]
unsafe extern "C" fn enif_make_badarg(_: *mut ErlNifEnv) -> ErlNifTerm {
    unreachable!("every term can be stored")
}

#[no_mangle]
unsafe extern "C" fn enif_make_atom(_: *mut ErlNifEnv, _: *const c_char) -> ErlNifTerm {
    unreachable!("a panic ends the program")
}

#[no_mangle]
unsafe extern "C" fn enif_raise_exception(_: *mut ErlNifEnv, _: ErlNifTerm) -> ErlNifTerm {
    unreachable!("a panic ends the program")
}

/// Defines functions that `rustler` looks for as well, although nothing calls them here.
macro_rules! uncalled {
    ($($name:ident)*) => {$(
        #[no_mangle]
        extern "C" fn $name() {
            unreachable!(concat!("nothing calls ", stringify!($name)))
        }
    )*};
}

uncalled! {
    enif_alloc enif_alloc_resource enif_compare_monitors enif_convert_time_unit
    enif_cpu_time enif_demonitor_process enif_dlopen enif_dlsym enif_fprintf enif_free
    enif_get_atom enif_get_atom_length enif_get_int enif_get_list_length enif_get_map_value
    enif_get_resource enif_get_string enif_get_uint enif_get_ulong enif_getenv
    enif_has_pending_exception enif_inspect_iolist_as_binary enif_is_binary
    enif_is_current_process_alive enif_is_exception enif_is_fun enif_is_list enif_is_map
    enif_is_number enif_is_pid enif_is_pid_undefined enif_is_port enif_is_port_alive enif_is_ref
    enif_is_tuple enif_keep_resource enif_make_atom_len enif_make_binary enif_make_existing_atom
    enif_make_existing_atom_len enif_make_int enif_make_list enif_make_map_put
    enif_make_map_remove enif_make_map_update enif_make_monitor_term enif_make_new_map
    enif_make_ref enif_make_resource enif_make_resource_binary enif_make_reverse_list
    enif_make_string enif_make_string_len enif_make_tuple enif_make_uint enif_make_ulong
    enif_make_unique_integer enif_map_iterator_is_head enif_map_iterator_is_tail
    enif_map_iterator_prev enif_monitor_process enif_monotonic_time enif_now_time
    enif_open_resource_type enif_open_resource_type_x enif_port_command enif_priv_data
    enif_realloc enif_realloc_binary enif_release_resource enif_select enif_self enif_send
    enif_set_pid_undefined enif_sizeof_resource enif_snprintf enif_system_info enif_thread_type
    enif_time_offset enif_whereis_pid enif_whereis_port
}
