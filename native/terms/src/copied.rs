//! Terms that only the VM can hold: copies in process-independent environments, and large binaries.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Once;

use proctab_table::datum::Foreign;
use proctab_table::reclaim::{self, Allowance};

use crate::call::Call;
use crate::cost::Cost;
use crate::shared::SharedBinary;
use crate::term::Term;
use crate::vm::{
    enif_alloc_env, enif_free_env, enif_hash, enif_is_identical, enif_make_copy, ErlNifEnv,
    ErlNifHash, ErlNifTerm,
};

/// Cost of making an environment, in words of a term to be copied.
pub const ENVIRONMENT: usize = 32;
/// Size of an environment besides the term in it, in bytes: measured on OTP 25 and 64-bit systems.
const ENVIRONMENT_BYTES: usize = 2600;
/// Cost of freeing an environment, in words that are freed in the same time: a microsecond.
const FREED_ENVIRONMENT: usize = 1024;
/// Words that a thread may free in a row, which are 256 small environments, as many as are freed
/// together if no other thread reads: a few hundred microseconds of work.
const MAX_FREED: usize = 256 * (FREED_ENVIRONMENT + 16);

thread_local! {
    /// Words that this thread may free itself before it makes new copies.
    static ALLOWANCE: Allowance<MAX_FREED> = const { Allowance::empty() };
}

/// The key of all hashes of copies: users choose names, and must not know which names collide.
static SALT: AtomicU64 = AtomicU64::new(0);

/// Draws the key of all hashes, before anything is hashed.
///
/// Only the first call does: tables outlive the Erlang module, which may be loaded again.
pub(crate) fn draw_salt() {
    static DRAWN: Once = Once::new();
    DRAWN.call_once(|| SALT.store(RandomState::new().hash_one(()), Ordering::Relaxed));
}

/// A term that only the VM can hold.
pub struct Copied(Form);

enum Form {
    Copy(Environment),
    Binary(SharedBinary),
}

/// A term in an environment of its own.
struct Environment {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    cost: Cost,
    /// The hash of a name or a key, which is hashed here for the last time.
    hash: Option<u32>,
}

const _: () = assert!(size_of::<Copied>() <= 48);

impl Environment {
    /// Whether the hashes are known, and show that two terms are not equal.
    fn differs_from(&self, other: &Environment) -> bool {
        self.hash.is_some() && other.hash.is_some() && self.hash != other.hash
    }
}

// SAFETY: any thread may use and free an environment that belongs to no process. This one is
// written before it is shared, and only read from then on: to copy from it changes nothing but
// atomic counters of shared binaries, and the VM made writable binaries read-only when it copied
// them in.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

impl Copied {
    /// Copies a term of this cost.
    pub fn new(term: Term<'_>, cost: Cost) -> Copied {
        // SAFETY: the term is alive, and `env` is the new environment, which nobody else uses.
        unsafe { Copied::with(|env| enif_make_copy(env, term.raw()), cost) }
    }

    /// Makes a term of this cost in a new environment.
    ///
    /// # Safety
    /// `make` returns a term of the environment that it is given.
    pub(crate) unsafe fn with(
        make: impl FnOnce(*mut ErlNifEnv) -> ErlNifTerm,
        cost: Cost,
    ) -> Copied {
        ALLOWANCE.with(|allowance| allowance.add(FREED_ENVIRONMENT + cost.max()));
        // SAFETY: no requirements. `Environment` owns the environment, also if `make` panics.
        let env = unsafe { enif_alloc_env() };
        let mut copy = Environment {
            env,
            term: ErlNifTerm::default(),
            cost,
            hash: None,
        };
        copy.term = make(env);
        Copied(Form::Copy(copy))
    }

    /// Hashes a name or a key, so that its hash is known from then on. A table that grows hashes
    /// the terms that it has, under a lock, in calls that were charged for others.
    pub(crate) fn hash_once(&mut self) {
        let hash = Copied::hash(self.borrow());
        if let Form::Copy(copy) = &mut self.0 {
            copy.hash = u32::try_from(hash).ok();
        }
    }

    /// Makes the term in the environment of a call. The caller uses the term, see
    /// [`Foreign::begin_use`].
    pub fn copy_to<'c>(&self, call: Call<'c>) -> Term<'c> {
        match &self.0 {
            // SAFETY: the stored term is alive and never changes; the copy is made in this
            // environment.
            Form::Copy(copy) => unsafe { Term::from_raw(enif_make_copy(call.env(), copy.term)) },
            Form::Binary(binary) => binary.make(call),
        }
    }

    /// Whether this is a long binary that is a value by itself.
    pub fn is_shared_binary(&self) -> bool {
        matches!(self.0, Form::Binary(_))
    }

    /// Returns the bytes of the binaries in the term, which a copy shares.
    pub fn shared_bytes(&self) -> usize {
        match &self.0 {
            Form::Copy(copy) => copy.cost.bytes,
            Form::Binary(binary) => binary.length(),
        }
    }

    /// Replaces the cost of copying the term, in words.
    pub(crate) fn set_words(&mut self, words: usize) {
        if let Form::Copy(copy) = &mut self.0 {
            copy.cost.words = words;
        }
    }

    /// Returns the cost of copying the term, in words.
    pub fn words(&self) -> usize {
        match &self.0 {
            Form::Copy(copy) => copy.cost.words,
            Form::Binary(_) => 0,
        }
    }
}

impl From<SharedBinary> for Copied {
    fn from(binary: SharedBinary) -> Copied {
        Copied(Form::Binary(binary))
    }
}

/// A term that is alive for `'a`, in any environment: it can be hashed and compared.
#[derive(Clone, Copy)]
pub struct Live<'a>(Borrowed<'a>);

#[derive(Clone, Copy)]
enum Borrowed<'a> {
    Term(ErlNifTerm),
    /// A stored term, whose hash may be known.
    Copy(&'a Environment),
    /// A value, which is never equal to a term of the other form.
    Binary(&'a SharedBinary),
}

impl Borrowed<'_> {
    /// Returns the term, unless this is a value of the other form.
    fn term(self) -> Option<ErlNifTerm> {
        match self {
            Borrowed::Term(term) => Some(term),
            Borrowed::Copy(copy) => Some(copy.term),
            Borrowed::Binary(_) => None,
        }
    }
}

impl<'c> From<Term<'c>> for Live<'c> {
    #[inline]
    fn from(term: Term<'c>) -> Self {
        Live(Borrowed::Term(term.raw()))
    }
}

impl Foreign for Copied {
    type Borrowed<'a> = Live<'a>;

    fn borrow(&self) -> Live<'_> {
        Live(match &self.0 {
            Form::Copy(copy) => Borrowed::Copy(copy),
            Form::Binary(binary) => Borrowed::Binary(binary),
        })
    }

    fn hash(borrowed: Live<'_>) -> u64 {
        let salt = SALT.load(Ordering::Relaxed);
        match borrowed.0 {
            Borrowed::Copy(Environment {
                hash: Some(hash), ..
            }) => u64::from(*hash),
            Borrowed::Copy(&Environment { term, .. }) | Borrowed::Term(term) => {
                // SAFETY: the term is alive for as long as `borrowed`.
                let hash = unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, term, salt) };
                // The VM's hashes have 32 bits.
                u64::from(hash as u32)
            }
            Borrowed::Binary(binary) => salt ^ binary.length() as u64,
        }
    }

    fn same(one: Live<'_>, other: Live<'_>) -> bool {
        match (one.0, other.0) {
            (Borrowed::Binary(one), Borrowed::Binary(other)) => one.has_bytes_of(other),
            (Borrowed::Copy(one), Borrowed::Copy(other)) if one.differs_from(other) => false,
            (one, other) => one.term().zip(other.term()).is_some_and(|(one, other)| {
                // SAFETY: both terms are alive for as long as their `Live`.
                unsafe { enif_is_identical(one, other) != 0 }
            }),
        }
    }

    fn is_heavy(&self) -> bool {
        match &self.0 {
            Form::Copy(copy) => copy.cost.max() > reclaim::ENOUGH,
            Form::Binary(binary) => binary.length() > reclaim::ENOUGH,
        }
    }

    fn bytes(&self) -> usize {
        match &self.0 {
            Form::Copy(Environment { cost, .. }) => {
                ENVIRONMENT_BYTES + cost.words * size_of::<ErlNifTerm>() + cost.bytes
            }
            Form::Binary(binary) => binary.size(),
        }
    }

    #[inline]
    fn begin_use(&self) -> bool {
        match &self.0 {
            Form::Copy(_) => true,
            Form::Binary(binary) => binary.begin_use(),
        }
    }

    #[inline]
    fn end_use(&self) {
        if let Form::Binary(binary) = &self.0 {
            binary.end_use();
        }
    }

    fn discard(&self) -> bool {
        match &self.0 {
            Form::Copy(_) => false,
            Form::Binary(binary) => {
                binary.discard();
                true
            }
        }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        struct Garbage(*mut ErlNifEnv);

        // SAFETY: any thread may free an environment that belongs to no process, and only this
        // value has the pointer.
        unsafe impl Send for Garbage {}

        impl Drop for Garbage {
            fn drop(&mut self) {
                // SAFETY: `Copied::with` allocated it, and `Environment::drop` makes one `Garbage`.
                unsafe { enif_free_env(self.0) };
            }
        }

        let environment = Garbage(self.env);
        let cost = self.cost.max();
        if !ALLOWANCE.with(|allowance| allowance.take(FREED_ENVIRONMENT + cost)) {
            reclaim::gather(environment, ENVIRONMENT + cost);
        }
    }
}
