//! Pids of another node that take one word each.
//!
//! Number and serial tell the processes of one node apart. They are eight bytes of the external
//! format of a pid, and one word of the term. So many pids of one node are stored as one whole pid,
//! their *origin*, and a word for each: to make one, its origin is copied, and the word replaced in
//! the copy.
//!
//! The NIF API does not say which word that is. [`learn_layout`] finds out with pids of known
//! numbers. If it fails, a pid is made from its external format, which takes several times as long.

use std::sync::OnceLock;

use proctab_table::datum::{Datum, Kind, View};

use crate::call::{Answer, Call, Fault};
use crate::copied::Copied;
use crate::cost::Cost;
use crate::making::make_external;
use crate::term::Term;
use crate::vm::{enif_is_identical, enif_make_copy, term_type, ErlNifEnv, ErlNifTerm};

/// A pid without its node.
const PACKED: Kind = Kind::new(5);
/// Bytes of number and serial in the external format, before those of the creation.
const PACKED_BYTES: usize = 8;
const CREATION_BYTES: usize = 4;
/// Words of a pid of another node.
const WORDS: usize = 8;
/// Cost of making a packed pid, in words.
const COST: usize = 8;
/// The tag of a term that is the address of its words, and the bits of tags.
const BOXED: usize = 2;
const TAG: usize = 3;
/// The bits below the number of words that follow the first one, in the first one.
const ARITY_SHIFT: usize = 6;

/// The layout of pids of other nodes, or `None` if it could not be learned.
static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();

/// Where number and serial are.
#[derive(Clone, Copy, PartialEq)]
struct Layout {
    /// The index of their word.
    index: usize,
    /// Whether the serial is in its upper half.
    is_serial_first: bool,
}

impl Layout {
    fn word(self, packed: u64) -> usize {
        match self.is_serial_first {
            true => packed.rotate_left(32) as usize,
            false => packed as usize,
        }
    }
}

/// Finds out the layout of pids of other nodes in this VM.
pub fn learn_layout(env: rustler::Env<'_>) {
    let env = env.as_c_arg();
    // SAFETY: the environment is that of the call that loads the library.
    LAYOUT.get_or_init(|| unsafe { learned(env) });
}

/// # Safety
/// `env` is the environment of a running call.
unsafe fn learned(env: *mut ErlNifEnv) -> Option<Layout> {
    const ONE: u64 = 0x0123_4567_0000_89AB;
    const OTHER: u64 = 0x0765_4321_0000_1ABC;
    // SAFETY: the caller vouches for `env`; the bytes are the external format of a pid.
    let pid = |packed: u64| unsafe {
        let mut bytes = vec![131, 88, 119, 9];
        bytes.extend_from_slice(b"proctab@h");
        bytes.extend_from_slice(&packed.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 7]);
        make_external(env, &bytes)
    };
    let (one, other) = (pid(ONE), pid(OTHER));
    let agrees = |layout: Layout| {
        let is_word = |pid, packed| {
            // SAFETY: the term was made in this environment.
            let found = unsafe { word(pid, layout.index) };
            found.is_some_and(|(at, _)| at == layout.word(packed))
        };
        is_word(one, ONE) && is_word(other, OTHER)
    };
    let layouts = (1..WORDS).flat_map(|index| {
        [true, false].map(|is_serial_first| Layout {
            index,
            is_serial_first,
        })
    });
    let mut found = layouts.filter(|layout| agrees(*layout));
    let layout = found.next().filter(|_| found.next().is_none())?;
    // SAFETY: the copy is made in this environment, and nobody else has it.
    let is_other = unsafe {
        let copy = enif_make_copy(env, one);
        replace(copy, layout, OTHER) && enif_is_identical(copy, other) != 0
    };
    is_other.then_some(layout)
}

/// Returns a word of a term that is an address of words, and the address of that word.
///
/// # Safety
/// The term is alive.
unsafe fn word(term: ErlNifTerm, index: usize) -> Option<(usize, *mut usize)> {
    if term & TAG != BOXED {
        return None;
    }
    let words = std::ptr::with_exposed_provenance_mut::<usize>(term - BOXED);
    // SAFETY: a term with this tag is the address of its words. The first one says how many follow.
    unsafe {
        let count = words.read() >> ARITY_SHIFT;
        (index <= count).then(|| (words.add(index).read(), words.add(index)))
    }
}

/// Replaces number and serial. Returns `false` if the term is no pid of another node.
///
/// # Safety
/// The term is a pid that was just copied, and nobody else has the copy.
unsafe fn replace(pid: ErlNifTerm, layout: Layout, packed: u64) -> bool {
    // SAFETY: the term is alive.
    match unsafe { word(pid, layout.index) } {
        Some((_, at)) => {
            // SAFETY: the word belongs to the copy, which only the caller has.
            unsafe { at.write(layout.word(packed)) };
            true
        }
        None => false,
    }
}

/// Returns the node, number and serial, and the creation, in the external format of a pid.
fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (rest, creation) = bytes.split_at(bytes.len().checked_sub(CREATION_BYTES)?);
    let (node, packed) = rest.split_at(rest.len().checked_sub(PACKED_BYTES)?);
    Some((node, packed, creation))
}

impl<'c> Call<'c> {
    /// Returns what pids of the node of this pid are packed and made with: its external format, and
    /// a copy of it. Fails if the term is no pid.
    pub fn pid_origin(self, pid: Term<'c>) -> Result<(Box<[u8]>, Datum<Copied>), Fault> {
        if self.type_of(pid) != term_type::PID {
            return Err(Fault::BadArgument);
        }
        let bytes = self.read_external(pid, |bytes| bytes.into());
        let cost = Cost {
            words: COST,
            ..Cost::default()
        };
        let copy = Datum::foreign(Copied::new(pid, cost));
        Ok((bytes.ok_or(Fault::BadArgument)?, copy))
    }

    /// Converts a pid, of any node, to be stored with other pids of the node of `origin`: a pid of
    /// that node takes one word. Only [`make_packed`](Self::make_packed) makes the pid again. Fails
    /// if the term is no pid.
    pub fn pack_pid(self, pid: Term<'c>, origin: &[u8]) -> Result<Datum<Copied>, Fault> {
        if self.type_of(pid) != term_type::PID {
            return Err(Fault::BadArgument);
        }
        let pack = |bytes: &[u8]| {
            let (node, packed, creation) = parts(bytes)?;
            let (its_node, _, its_creation) = parts(origin)?;
            let packed = packed.try_into().ok().map(u64::from_be_bytes)?;
            (node == its_node && creation == its_creation).then_some(packed)
        };
        if !self.is_local_pid(pid) {
            if let Some(Some(packed)) = self.read_external(pid, pack) {
                return Ok(Datum::word(PACKED, packed));
            }
        }
        self.to_key(pid)
    }

    /// Makes a pid that [`pack_pid`](Self::pack_pid) has converted, with the copy of its origin,
    /// and deducts the cost.
    #[inline]
    pub fn make_packed(self, pid: &Datum<Copied>, origin: &Datum<Copied>) -> Answer<'c> {
        let (View::Word(PACKED, packed), View::Foreign(origin)) = (pid.view(), origin.view())
        else {
            return self.make(pid);
        };
        self.deduct(COST)?;
        let copy = origin.copy_to(self);
        if let Some(Some(layout)) = LAYOUT.get() {
            // SAFETY: `copy_to` has just made the copy of a pid.
            if unsafe { replace(copy.raw(), *layout, packed) } {
                return Ok(copy);
            }
        }
        self.make_external_packed(copy, packed)
    }

    /// Like [`make_packed`](Self::make_packed), but returns `None` for a process of this node that
    /// is dead. A packed pid is of another node, so only other pids are looked at.
    #[inline]
    pub fn make_packed_alive(
        self,
        pid: &Datum<Copied>,
        origin: &Datum<Copied>,
    ) -> Result<Option<Term<'c>>, Fault> {
        if let View::Word(PACKED, _) = pid.view() {
            return self.make_packed(pid, origin).map(Some);
        }
        let made = self.make(pid)?;
        Ok(self.may_term_be_alive(made).then_some(made))
    }

    /// Makes a pid from the external format of another one of its node.
    #[cold]
    fn make_external_packed(self, origin: Term<'c>, packed: u64) -> Answer<'c> {
        let made = self.read_external(origin, |bytes| {
            let mut bytes = bytes.to_vec();
            let from = bytes.len().checked_sub(CREATION_BYTES + PACKED_BYTES)?;
            bytes[from..from + PACKED_BYTES].copy_from_slice(&packed.to_be_bytes());
            Some(self.external(&bytes))
        });
        made.flatten().ok_or(Fault::BadArgument)
    }
}
