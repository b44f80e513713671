//! The edge between the VM and Rust: how an exported function is called, and how it fails.
//!
//! A call that has too much to do for a normal scheduler fails with [`Fault::Reschedule`], and the VM begins it anew on a dirty one. So nothing that can be
//! rescheduled may come after a change. This is kept here: whatever changes a table takes a [`Committed`], which [`Call::commit`] alone makes, and from there on
//! the call cannot be rescheduled any more, whatever it costs.

use std::cell::Cell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::slice;

use rustler::sys::{
    self, c_int, enif_alloc_env, enif_consume_timeslice, enif_free_env, enif_make_badarg,
    enif_make_int64, enif_make_tuple_from_array, enif_raise_exception, enif_schedule_nif,
    ErlNifEnv, ErlNifTerm,
};

use proctab_table::commit::Committed;

use crate::call_times;

/// How much a call may convert on a normal scheduler, in words of terms: some hundred microseconds of work at the most. On a dirty one it may
/// convert all it wants.
const NORMAL_LIMIT: usize = 4_000;

/// How many entries of a map may be moved to a larger one, or looked at, for a word.
const ENTRIES_A_WORD: usize = 2;

/// How many words are converted in a hundredth of a time slice. A call that converts less counts as any other function of Erlang.
const WORDS_A_PERCENT: usize = 100;

/// Why a call gives no answer.
#[derive(Clone, Copy)]
pub enum Fault {
    /// `error(badarg)` in the caller.
    BadArgument,
    /// Too much work for the limit of the call.
    Reschedule,
}

/// The answer of an exported function.
pub type Answer = Result<ErlNifTerm, Fault>;

/// A binary that was looked at.
#[derive(Clone, Copy)]
pub struct Inspected {
    /// The word of its term.
    pub word: u64,
    /// Where its bytes were, for as long as the call lasts; null when they are there no more.
    pub bytes: *const u8,
    /// How many they are.
    pub length: usize,
}

/// One call of an exported function.
pub struct Call<'a> {
    /// The caller's environment.
    pub env: *mut ErlNifEnv,
    /// How many words of terms the call may still convert.
    left: Cell<usize>,
    /// Whether the call may have changed something.
    is_committed: Cell<bool>,
    /// The long binary that was looked at last.
    pub inspected: Cell<Option<Inspected>>,
    /// An environment of nobody's, once one was needed; see [`Call::scratch_environment`].
    scratch: Cell<*mut ErlNifEnv>,
    arguments: &'a [ErlNifTerm],
    not_send: PhantomData<*mut ()>,
}

impl Call<'_> {
    /// The argument at this place.
    #[inline]
    pub fn argument(&self, place: usize) -> Result<ErlNifTerm, Fault> {
        self.arguments.get(place).copied().ok_or(Fault::BadArgument)
    }

    /// How many words of terms the call may still convert.
    #[inline]
    pub fn left(&self) -> usize {
        self.left.get()
    }

    /// Whether the call has left its normal scheduler.
    pub fn is_dirty(&self) -> bool {
        self.left() > NORMAL_LIMIT
    }

    /// Says that this much work is too long for a normal scheduler, after all that was done before.
    #[inline]
    pub fn allow(&self, words: usize) -> Result<(), Fault> {
        if words <= self.left() || self.is_committed.get() {
            Ok(())
        } else {
            Err(Fault::Reschedule)
        }
    }

    /// From now on the call is carried through where it is, and no cost is refused. For the moment before a change, when all has been paid for that the
    /// call still has to do.
    #[inline]
    #[allow(clippy::disallowed_methods)]
    pub fn commit(&self) -> Committed {
        self.is_committed.set(true);
        Committed::new()
    }

    /// Takes that back: it turned out that there was nothing to change.
    #[inline]
    pub fn take_back(&self, _: Committed) {
        self.is_committed.set(false);
    }

    /// The same of work that is going to be done.
    #[inline]
    pub fn spend(&self, words: usize) -> Result<(), Fault> {
        self.allow(words)?;
        self.left.set(self.left().saturating_sub(words));
        Ok(())
    }

    /// The same of entries of a map that are going to be moved to a larger one, or looked at.
    #[inline]
    pub fn spend_entries(&self, entries: usize) -> Result<(), Fault> {
        self.spend(entries / ENTRIES_A_WORD)
    }

    /// Tells the normal scheduler that it has run for as long as the call took.
    #[inline]
    fn consume(&self) {
        let percent = (NORMAL_LIMIT - self.left()) / WORDS_A_PERCENT;
        if percent > 0 {
            // SAFETY: `env` is the caller's environment.
            unsafe { enif_consume_timeslice(self.env, percent as c_int) };
        }
    }

    /// An environment for what has to go before the call ends.
    pub fn scratch_environment(&self) -> *mut ErlNifEnv {
        if self.scratch.get().is_null() {
            // SAFETY: the new environment is this call's alone, and freed with it.
            self.scratch.set(unsafe { enif_alloc_env() });
        }
        self.scratch.get()
    }

    /// A tuple.
    #[inline]
    pub fn tuple<const N: usize>(&self, elements: [ErlNifTerm; N]) -> ErlNifTerm {
        // SAFETY: the elements are terms of the caller's environment.
        unsafe { enif_make_tuple_from_array(self.env, elements.as_ptr(), N as u32) }
    }

    /// An integer.
    #[inline]
    pub fn integer(&self, integer: i64) -> ErlNifTerm {
        // SAFETY: `env` is the caller's environment.
        unsafe { enif_make_int64(self.env, integer) }
    }
}

impl Drop for Call<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.scratch.get().is_null() {
            // SAFETY: it was allocated for this call, and is freed once.
            unsafe { enif_free_env(self.scratch.get()) };
        }
    }
}

/// An exported function.
pub trait Function {
    /// Its name in Erlang.
    const NAME: &'static CStr;

    /// What it does.
    fn run(call: &Call) -> Answer;
}

/// The entry of an exported function. What takes too long for a normal scheduler starts over on a dirty one, with the same arguments.
///
/// # Safety
/// Only for the VM to call.
pub unsafe extern "C" fn enter<T: Function, const NORMAL: bool>(
    env: *mut ErlNifEnv,
    count: c_int,
    arguments: *const ErlNifTerm,
) -> ErlNifTerm {
    let call = Call {
        env,
        left: Cell::new(if NORMAL { NORMAL_LIMIT } else { usize::MAX }),
        is_committed: Cell::new(false),
        inspected: Cell::new(None),
        scratch: Cell::new(ptr::null_mut()),
        // SAFETY: the VM passes that many arguments, which live as long as the call.
        arguments: unsafe { slice::from_raw_parts(arguments, count as usize) },
        not_send: PhantomData,
    };
    let run = || catch_unwind(AssertUnwindSafe(|| T::run(&call)));
    let answer = if NORMAL {
        let answer = call_times::measure(T::NAME, run);
        call.consume();
        answer
    } else {
        run()
    };
    // SAFETY: all calls are of the environment and the arguments that the VM passed in.
    unsafe {
        match answer {
            Ok(Ok(term)) => term,
            Ok(Err(Fault::Reschedule)) if NORMAL && !call.is_committed.get() => enif_schedule_nif(
                env,
                T::NAME.as_ptr(),
                sys::ERL_NIF_DIRTY_JOB_CPU_BOUND as c_int,
                enter::<T, false>,
                count,
                arguments,
            ),
            Ok(Err(Fault::BadArgument | Fault::Reschedule)) => enif_make_badarg(env),
            Err(_panic) => enif_raise_exception(env, super::atoms::nif_panicked().as_c_arg()),
        }
    }
}

/// Exports functions to Erlang: `name/arity = function`.
macro_rules! export {
    ($($name:ident / $arity:literal),* $(,)?) => {$(
        const _: () = {
            struct Exported;

            impl $crate::call::Function for Exported {
                const NAME: &'static std::ffi::CStr =
                    match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a name holds no zero"),
                    };

                #[inline(always)]
                fn run(call: &$crate::call::Call) -> $crate::call::Answer {
                    $name(call)
                }
            }

            rustler::codegen_runtime::inventory::submit!(rustler::Nif {
                name: <Exported as $crate::call::Function>::NAME.as_ptr(),
                arity: $arity,
                flags: rustler::SchedulerFlags::Normal as u32,
                raw_func: $crate::call::enter::<Exported, true>,
            });
        };
    )*};
}

pub(crate) use export;
