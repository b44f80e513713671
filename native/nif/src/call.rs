//! The edge between the VM and Rust: how an exported function is called, and how it fails.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use rustler::sys::{
    self, c_int, enif_consume_timeslice, enif_make_badarg, enif_make_int64,
    enif_make_tuple_from_array, enif_raise_exception, enif_schedule_nif, ErlNifEnv, ErlNifTerm,
};

/// How much a call may convert on a normal scheduler, in words of terms: some hundred microseconds of work at the most.
const NORMAL_LIMIT: usize = 4_000;

/// How much a call may convert at all: a gigabyte of terms. A larger term is refused; one whose parts are shared so often that
/// it would unfold to more is, too.
const DIRTY_LIMIT: usize = 1 << 27;

/// Why a call gives no answer.
#[derive(Clone, Copy)]
pub enum Fault {
    /// `error(badarg)` in the caller.
    BadArgument,
    /// Too much work for the limit of the call.
    Long,
}

/// The answer of an exported function.
pub type Answer = Result<ErlNifTerm, Fault>;

/// One call of an exported function.
pub struct Call<'a> {
    /// The caller's environment.
    pub env: *mut ErlNifEnv,
    /// How many words of terms the call may convert.
    pub limit: usize,
    /// Whether it runs on a normal scheduler.
    pub normal: bool,
    arguments: &'a [ErlNifTerm],
    not_send: PhantomData<*mut ()>,
}

impl Call<'_> {
    /// The argument at this place.
    #[inline]
    pub fn argument(&self, place: usize) -> Result<ErlNifTerm, Fault> {
        self.arguments.get(place).copied().ok_or(Fault::BadArgument)
    }

    /// Says that this much work is too long for a normal scheduler.
    #[inline]
    pub fn allow(&self, words: usize) -> Result<(), Fault> {
        if words <= self.limit {
            Ok(())
        } else {
            Err(Fault::Long)
        }
    }

    /// Tells the scheduler that so much of a whole time slice is used up.
    pub fn consume(&self, part: usize, whole: usize) {
        if self.normal {
            let percent = (100 * part / whole).clamp(1, 100) as c_int;
            // SAFETY: `env` is the caller's environment.
            unsafe { enif_consume_timeslice(self.env, percent) };
        }
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
        limit: if NORMAL { NORMAL_LIMIT } else { DIRTY_LIMIT },
        normal: NORMAL,
        // SAFETY: the VM passes that many arguments, which live as long as the call.
        arguments: unsafe { slice::from_raw_parts(arguments, count as usize) },
        not_send: PhantomData,
    };
    let answer = catch_unwind(AssertUnwindSafe(|| T::run(&call)));
    // SAFETY: all calls are of the environment and the arguments that the VM passed in.
    unsafe {
        match answer {
            Ok(Ok(term)) => term,
            Ok(Err(Fault::Long)) if NORMAL => enif_schedule_nif(
                env,
                T::NAME.as_ptr(),
                sys::ERL_NIF_DIRTY_JOB_CPU_BOUND as c_int,
                enter::<T, false>,
                count,
                arguments,
            ),
            Ok(Err(Fault::BadArgument | Fault::Long)) => enif_make_badarg(env),
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
