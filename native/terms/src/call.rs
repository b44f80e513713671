//! Entry and exit of an exported function, and the budget of a call.
//!
//! A call that needs more work than its budget on a normal scheduler fails with
//! [`Fault::Reschedule`], and the VM starts it again on a dirty scheduler, with the same
//! arguments. A call that has changed a table must not start again, so nothing that can be
//! rescheduled may follow a change. The types enforce this: every function that changes a table
//! takes a [`Committed`], only [`Call::commit`] makes one, and from then on the budget refuses
//! nothing.

use std::cell::Cell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::slice;

use proctab_table::commit::Committed;

use crate::call_times;
use crate::term::Term;
use crate::vm::{
    c_int, enif_alloc_env, enif_consume_timeslice, enif_free_env, enif_make_atom, enif_make_badarg,
    enif_raise_exception, enif_schedule_nif, ErlNifEnv, ErlNifTerm, ERL_NIF_DIRTY_JOB_CPU_BOUND,
};

/// Budget of a call on a normal scheduler, in words of terms: a few hundred microseconds of work.
/// A call on a dirty scheduler has no limit.
const NORMAL_BUDGET: usize = 4_000;

/// Map entries that cost as much to move or to visit as one word of term conversion.
const ENTRIES_PER_WORD: usize = 2;

/// Words that cost one percent of a time slice.
const WORDS_PER_PERCENT: usize = 100;

/// Why a call has no answer.
#[derive(Clone, Copy)]
pub enum Fault {
    /// Raises `badarg` in the caller.
    BadArgument,
    /// The budget is too small: the call has to move to a dirty scheduler.
    Reschedule,
}

/// The result of an exported function.
pub type Answer<'c> = Result<Term<'c>, Fault>;

/// One call of an exported function.
///
/// A copy refers to the same call. The lifetime `'c` belongs to this call alone, and its
/// [terms](Term) have it as well.
#[derive(Clone, Copy)]
pub struct Call<'c> {
    frame: &'c Frame<'c>,
    /// Makes the lifetime invariant, and the type neither `Send` nor `Sync`.
    brand: PhantomData<*mut &'c ()>,
}

/// The state of a call.
struct Frame<'c> {
    env: *mut ErlNifEnv,
    arguments: &'c [ErlNifTerm],
    /// Words that remain in the budget.
    budget: Cell<usize>,
    is_committed: Cell<bool>,
    last_long_binary: Cell<Option<LongBinary>>,
    /// Process-independent environment, allocated on first use; null before.
    scratch_env: Cell<*mut ErlNifEnv>,
}

/// The long binary that a call inspected last.
#[derive(Clone, Copy)]
pub(crate) struct LongBinary {
    /// The word of its term.
    pub word: u64,
    /// Its bytes, valid for as long as the call lasts; null if the VM has dropped them.
    pub bytes: *const u8,
    pub length: usize,
    /// Whether the cost of the copy that the VM may have made was deducted.
    pub is_deducted: bool,
}

impl<'c> Call<'c> {
    /// Returns the environment of the call, for the VM's functions.
    #[inline]
    pub fn env(self) -> *mut ErlNifEnv {
        self.frame.env
    }

    /// Returns an argument, counted from 0. Fails if there is none at this position.
    #[inline]
    pub fn argument(self, position: usize) -> Answer<'c> {
        let raw = self.frame.arguments.get(position);
        // SAFETY: the VM passes terms of the caller's environment, which is that of the call.
        raw.map(|raw| unsafe { Term::from_raw(*raw) })
            .ok_or(Fault::BadArgument)
    }

    /// Returns how many words remain in the budget.
    #[inline]
    pub fn budget(self) -> usize {
        self.frame.budget.get()
    }

    /// Whether the call runs on a dirty scheduler.
    pub fn is_dirty(self) -> bool {
        self.budget() > NORMAL_BUDGET
    }

    /// Fails with [`Fault::Reschedule`] if fewer than `words` remain in the budget.
    #[inline]
    pub fn allow(self, words: usize) -> Result<(), Fault> {
        if words <= self.budget() || self.frame.is_committed.get() {
            Ok(())
        } else {
            Err(Fault::Reschedule)
        }
    }

    /// Like [`allow`](Self::allow), and deducts the words.
    #[inline]
    pub fn deduct(self, words: usize) -> Result<(), Fault> {
        self.allow(words)?;
        self.frame.budget.set(self.budget().saturating_sub(words));
        Ok(())
    }

    /// Like [`deduct`](Self::deduct), for map entries that will be moved or visited.
    #[inline]
    pub fn deduct_entries(self, entries: usize) -> Result<(), Fault> {
        self.deduct(entries / ENTRIES_PER_WORD)
    }

    /// Commits the call: it stays on its scheduler, and no cost is refused from here on.
    ///
    /// To be called right before a change, after the cost of everything that the call has left to
    /// do was deducted.
    #[inline]
    #[allow(clippy::disallowed_methods)]
    pub fn commit(self) -> Committed {
        self.frame.is_committed.set(true);
        Committed::new()
    }

    /// Reverts [`commit`](Self::commit), after an operation that turned out to change nothing.
    #[inline]
    pub fn take_back(self, _: Committed) {
        self.frame.is_committed.set(false);
    }

    /// Returns the long binary that the call inspected last.
    #[inline]
    pub(crate) fn last_long_binary(self) -> Option<LongBinary> {
        self.frame.last_long_binary.get()
    }

    #[inline]
    pub(crate) fn set_last_long_binary(self, binary: LongBinary) {
        self.frame.last_long_binary.set(Some(binary));
    }

    /// Returns a process-independent environment that lives as long as the call.
    pub(crate) fn scratch_env(self) -> *mut ErlNifEnv {
        let scratch_env = &self.frame.scratch_env;
        if scratch_env.get().is_null() {
            // SAFETY: no requirements; the call owns the environment and frees it at its end.
            scratch_env.set(unsafe { enif_alloc_env() });
        }
        scratch_env.get()
    }
}

impl Frame<'_> {
    /// Charges the time slice of the calling process for the words that were deducted.
    #[inline]
    fn consume_timeslice(&self) {
        let percent = (NORMAL_BUDGET - self.budget.get()) / WORDS_PER_PERCENT;
        if percent > 0 {
            // SAFETY: `env` is the environment of the calling process.
            unsafe { enif_consume_timeslice(self.env, percent as c_int) };
        }
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.scratch_env.get().is_null() {
            // SAFETY: this call allocated it, and nothing made in it outlives the call.
            unsafe { enif_free_env(self.scratch_env.get()) };
        }
    }
}

/// An exported function.
pub trait Function {
    /// Its name in Erlang.
    const NAME: &'static CStr;

    /// Runs a call of it.
    fn run(call: Call<'_>) -> Answer<'_>;
}

/// The entry point of an exported function, `NORMAL` on a normal scheduler.
///
/// # Safety
/// `env` is the environment of a process that calls, `arguments` are `count` terms of it, and both
/// live until this function returns. The VM calls it so.
pub unsafe extern "C" fn enter<T: Function, const NORMAL: bool>(
    env: *mut ErlNifEnv,
    count: c_int,
    arguments: *const ErlNifTerm,
) -> ErlNifTerm {
    let frame = Frame {
        env,
        // SAFETY: the VM passes `count` arguments, which live as long as the call.
        arguments: unsafe { slice::from_raw_parts(arguments, count as usize) },
        budget: Cell::new(if NORMAL { NORMAL_BUDGET } else { usize::MAX }),
        is_committed: Cell::new(false),
        last_long_binary: Cell::new(None),
        scratch_env: Cell::new(ptr::null_mut()),
    };
    let call = Call {
        frame: &frame,
        brand: PhantomData,
    };
    let run = || catch_unwind(AssertUnwindSafe(|| T::run(call)));
    let answer = if NORMAL {
        let answer = call_times::measure(T::NAME, run);
        frame.consume_timeslice();
        answer
    } else {
        run()
    };
    match answer {
        Ok(Ok(term)) => term.raw(),
        Ok(Err(Fault::Reschedule)) if NORMAL && !frame.is_committed.get() => {
            // SAFETY: environment and arguments are those that the VM passed to this call.
            unsafe {
                enif_schedule_nif(
                    env,
                    T::NAME.as_ptr(),
                    ERL_NIF_DIRTY_JOB_CPU_BOUND as c_int,
                    enter::<T, false>,
                    count,
                    arguments,
                )
            }
        }
        // SAFETY: `env` is the environment of the calling process.
        Ok(Err(Fault::BadArgument | Fault::Reschedule)) => unsafe { enif_make_badarg(env) },
        // SAFETY: as above. The panic was caught, so that it does not unwind into the VM's C code.
        Err(_panic) => unsafe {
            enif_raise_exception(env, enif_make_atom(env, c"nif_panicked".as_ptr().cast()))
        },
    }
}

/// Exports functions to Erlang: `export! { module { name/arity, ... } ... }`.
///
/// Each `module::name` is a function from [`Call`] to [`Answer`], and is exported as `name`. The
/// macro belongs in the crate that has `rustler::init!`.
#[macro_export]
macro_rules! export {
    ($($module:ident { $($name:ident / $arity:literal),* $(,)? })*) => {$($(
        const _: () = {
            struct Exported;

            impl $crate::call::Function for Exported {
                const NAME: &'static std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
                    concat!(stringify!($name), "\0").as_bytes(),
                ) {
                    Ok(name) => name,
                    Err(_) => panic!("an identifier contains no zero byte"),
                };

                #[inline(always)]
                fn run(call: $crate::Call<'_>) -> $crate::Answer<'_> {
                    $module::$name(call)
                }
            }

            $crate::vm::inventory::submit!($crate::vm::Nif {
                name: <Exported as $crate::call::Function>::NAME.as_ptr(),
                arity: $arity,
                flags: $crate::vm::SchedulerFlags::Normal as u32,
                raw_func: $crate::call::enter::<Exported, true>,
            });
        };
    )*)*};
}
