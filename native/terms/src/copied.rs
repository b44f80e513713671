//! Terms that only the VM can hold: copies in environments of their own, and how these are freed.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Once;

use rustler::sys::{
    enif_alloc_env, enif_free_env, enif_hash, enif_is_identical, enif_make_copy, ErlNifEnv,
    ErlNifHash, ErlNifTerm,
};

use proctab_table::datum::Foreign;
use proctab_table::reclaim;

use crate::cost::Weight;

/// What an environment takes besides the term in it, in words, and what it costs.
pub const ENVIRONMENT: usize = 32;
/// How many words a thread may free in a row: some hundred microseconds of work at the most.
const MOST_IN_A_ROW: usize = 1 << 16;

thread_local! {
    /// How many words this thread may free by itself before it makes new ones, which is faster than to hand them over. But whoever leaves its
    /// guard last drops what hundreds of calls have replaced.
    static ALLOWANCE: Cell<usize> = const { Cell::new(0) };
}

/// What the hashes of this VM begin with: the names come from users, who must not know which of them will collide.
static SALT: AtomicU64 = AtomicU64::new(0);

/// Draws the salt of all hashes, before anything is hashed. Once: the tables outlive the Erlang module, which may be loaded again.
pub fn draw_salt() {
    static DRAWN: Once = Once::new();
    DRAWN.call_once(|| SALT.store(RandomState::new().hash_one(()), Ordering::Relaxed));
}

/// A term in an environment of its own.
pub struct Copied {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    weight: Weight,
}

// SAFETY: an environment that belongs to no process may be used and freed by any thread. This one is written before it is
// shared, and only read from then on.
unsafe impl Send for Copied {}
// SAFETY: as above.
unsafe impl Sync for Copied {}

impl Copied {
    /// A copy of a term that weighs so much.
    ///
    /// # Safety
    /// The term is alive.
    pub unsafe fn new(term: ErlNifTerm, weight: Weight) -> Copied {
        // SAFETY: the environment is new, and belongs to nobody else; the term is alive.
        Copied::with(|env| unsafe { enif_make_copy(env, term) }, weight)
    }

    /// A term that is made in the environment that it will have, and weighs so much.
    pub fn with(make: impl FnOnce(*mut ErlNifEnv) -> ErlNifTerm, weight: Weight) -> Copied {
        ALLOWANCE.set(MOST_IN_A_ROW.min(ALLOWANCE.get() + ENVIRONMENT + weight.heaviest()));
        // SAFETY: the new environment is this one's alone, which frees it also when `make` panics.
        let env = unsafe { enif_alloc_env() };
        let mut copied = Copied {
            env,
            term: ErlNifTerm::default(),
            weight,
        };
        copied.term = make(env);
        copied
    }

    /// Copies the term into another environment.
    ///
    /// # Safety
    /// `env` is the environment of a process that is calling, or nobody else's.
    pub unsafe fn copy_to(&self, env: *mut ErlNifEnv) -> ErlNifTerm {
        // SAFETY: the copied term is alive and never changes.
        unsafe { enif_make_copy(env, self.term) }
    }

    /// What it costs to copy.
    pub fn words(&self) -> usize {
        self.weight.words
    }
}

/// A term in somebody's environment.
#[derive(Clone, Copy)]
pub struct Loose<'a>(ErlNifTerm, PhantomData<&'a ()>);

impl Loose<'_> {
    /// A term to be looked up.
    ///
    /// # Safety
    /// The term is alive for as long as this is.
    pub unsafe fn new(term: ErlNifTerm) -> Self {
        Loose(term, PhantomData)
    }
}

impl Foreign for Copied {
    type Borrowed<'a> = Loose<'a>;

    fn borrow(&self) -> Loose<'_> {
        Loose(self.term, PhantomData)
    }

    fn hash(borrowed: Loose<'_>) -> u64 {
        let salt = SALT.load(Ordering::Relaxed);
        // SAFETY: the term is alive for as long as `borrowed`.
        unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, borrowed.0, salt) }
    }

    fn same(one: Loose<'_>, other: Loose<'_>) -> bool {
        // SAFETY: the terms are alive for as long as their borrows.
        unsafe { enif_is_identical(one.0, other.0) != 0 }
    }

    fn is_heavy(&self) -> bool {
        self.weight.heaviest() > reclaim::ENOUGH
    }

    fn bytes(&self) -> usize {
        (ENVIRONMENT + self.weight.words) * size_of::<ErlNifTerm>() + self.weight.bytes
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        struct Environment(*mut ErlNifEnv);

        // SAFETY: nobody else has this environment any more.
        unsafe impl Send for Environment {}

        impl Drop for Environment {
            fn drop(&mut self) {
                // SAFETY: it was allocated by `enif_alloc_env` and is freed once.
                unsafe { enif_free_env(self.0) };
            }
        }

        let environment = Environment(self.env);
        let weight = ENVIRONMENT + self.weight.heaviest();
        match ALLOWANCE.get().checked_sub(weight) {
            Some(rest) => ALLOWANCE.set(rest),
            None => reclaim::gather(environment, weight),
        }
    }
}
