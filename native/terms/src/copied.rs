//! Terms that only the VM can hold: copies in process-independent environments.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Once;

use proctab_table::datum::Foreign;
use proctab_table::reclaim;

use crate::call::Call;
use crate::cost::Cost;
use crate::term::Term;
use crate::vm::{
    enif_alloc_env, enif_free_env, enif_hash, enif_is_identical, enif_make_copy, ErlNifEnv,
    ErlNifHash, ErlNifTerm,
};

/// Cost of making an environment, in words of a term to be copied.
pub const ENVIRONMENT: usize = 32;
/// Size of an environment besides the term in it, in bytes: measured on OTP 25 and 64-bit systems.
const ENVIRONMENT_BYTES: usize = 2600;
/// Words that a thread may free in a row: a few hundred microseconds of work.
const MAX_FREED: usize = 1 << 16;

thread_local! {
    /// Words that this thread may free itself before it makes new copies.
    ///
    /// To free a copy is faster than to hand it to the background thread. But the last reader to
    /// leave its guard drops what hundreds of calls have replaced.
    static ALLOWANCE: Cell<usize> = const { Cell::new(0) };
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

/// A term in an environment of its own.
pub struct Copied {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    cost: Cost,
}

// SAFETY: any thread may use and free an environment that belongs to no process. This one is
// written before it is shared, and only read from then on: to copy from it changes nothing but
// atomic counters of shared binaries, and the VM made writable binaries read-only when it copied
// them in.
unsafe impl Send for Copied {}
// SAFETY: as above.
unsafe impl Sync for Copied {}

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
        ALLOWANCE.set(MAX_FREED.min(ALLOWANCE.get() + ENVIRONMENT + cost.max()));
        // SAFETY: no requirements. `Copied` owns the environment, also if `make` panics.
        let env = unsafe { enif_alloc_env() };
        let mut copied = Copied {
            env,
            term: ErlNifTerm::default(),
            cost,
        };
        copied.term = make(env);
        copied
    }

    /// Copies the term into the environment of a call.
    pub fn copy_to<'c>(&self, call: Call<'c>) -> Term<'c> {
        // SAFETY: the stored term is alive and never changes; the copy is made in this environment.
        unsafe { Term::from_raw(enif_make_copy(call.env(), self.term)) }
    }

    /// Replaces the cost of copying the term, in words.
    pub(crate) fn set_words(&mut self, words: usize) {
        self.cost.words = words;
    }

    /// Returns what the term costs.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Returns the cost of copying the term, in words.
    pub fn words(&self) -> usize {
        self.cost.words
    }
}

/// A term that is alive for `'a`, in any environment: it can be hashed and compared.
#[derive(Clone, Copy)]
pub struct Live<'a>(ErlNifTerm, PhantomData<&'a ()>);

impl<'c> From<Term<'c>> for Live<'c> {
    #[inline]
    fn from(term: Term<'c>) -> Self {
        Live(term.raw(), PhantomData)
    }
}

impl Foreign for Copied {
    type Borrowed<'a> = Live<'a>;

    fn borrow(&self) -> Live<'_> {
        Live(self.term, PhantomData)
    }

    fn hash(borrowed: Live<'_>) -> u64 {
        let salt = SALT.load(Ordering::Relaxed);
        // SAFETY: the term is alive for as long as `borrowed`.
        unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, borrowed.0, salt) }
    }

    fn same(one: Live<'_>, other: Live<'_>) -> bool {
        // SAFETY: both terms are alive for as long as their `Live`.
        unsafe { enif_is_identical(one.0, other.0) != 0 }
    }

    fn is_heavy(&self) -> bool {
        self.cost.max() > reclaim::ENOUGH
    }

    fn bytes(&self) -> usize {
        ENVIRONMENT_BYTES + self.cost.words * size_of::<ErlNifTerm>() + self.cost.bytes
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        struct Environment(*mut ErlNifEnv);

        // SAFETY: any thread may free an environment that belongs to no process, and only this
        // value has the pointer.
        unsafe impl Send for Environment {}

        impl Drop for Environment {
            fn drop(&mut self) {
                // SAFETY: `Copied::with` allocated it, and `Copied::drop` makes one `Environment`.
                unsafe { enif_free_env(self.0) };
            }
        }

        let environment = Environment(self.env);
        let cost = ENVIRONMENT + self.cost.max();
        match ALLOWANCE.get().checked_sub(cost) {
            Some(rest) => ALLOWANCE.set(rest),
            None => reclaim::gather(environment, cost),
        }
    }
}
