//! The VM's C functions, and the parts of rustler that are not public API.
//!
//! rustler's own interface converts every argument and every answer, and cannot move a call to a
//! dirty scheduler after looking at its arguments. So this library calls the VM's functions
//! itself, and builds on three parts that rustler documents as internal:
//!
//! - `rustler::sys`, the declarations of the C functions;
//! - `rustler::codegen_runtime::inventory` and `rustler::Nif`, by which `rustler::init!` collects
//!   the exported functions;
//! - `Env::new`, which makes rustler's environment from the VM's, for monitors and messages.
//!
//! A new release of rustler may change them. This module is the only one that names the first
//! two, so that a change shows here.

pub use rustler::codegen_runtime::inventory;
pub use rustler::sys::ERL_NIF_TERM as ErlNifTerm;
pub use rustler::sys::*;
pub use rustler::{Nif, SchedulerFlags};

extern "C" {
    /// Returns the type of a term, one of [`term_type`].
    ///
    /// rustler declares it with an enum as its result, which would be undefined behaviour for a
    /// type that a later release of the VM adds.
    ///
    /// # Safety
    /// The term is alive.
    #[allow(clashing_extern_declarations)]
    pub fn enif_term_type(env: *mut ErlNifEnv, term: ErlNifTerm) -> c_int;

    /// Writes where the bytes of a list of binaries are to `*vector`, and the rest of the list to
    /// `tail`. Returns 0 if the term is not such a list. rustler does not declare this function.
    ///
    /// # Safety
    /// The term is of this environment, and the result is used only while the call runs.
    pub fn enif_inspect_iovec(
        env: *mut ErlNifEnv,
        max_elements: size_t,
        list: ErlNifTerm,
        tail: *mut ErlNifTerm,
        vector: *mut *mut ErlNifIOVec,
    ) -> c_int;

    /// Makes an empty I/O queue.
    ///
    /// rustler does not declare the functions of queues.
    pub fn enif_ioq_create(options: c_int) -> *mut IoQueue;

    /// Releases what is in a queue, and the queue.
    ///
    /// # Safety
    /// [`enif_ioq_create`] made the queue, which is not used afterwards.
    pub fn enif_ioq_destroy(queue: *mut IoQueue);

    /// Adds a binary to a queue, which owns it from then on. Returns 0 if it is refused.
    ///
    /// # Safety
    /// Nobody else uses the queue. The binary is the caller's.
    pub fn enif_ioq_enq_binary(
        queue: *mut IoQueue,
        binary: *mut ErlNifBinary,
        skip: usize,
    ) -> c_int;

    /// Adds a reference to each binary of a vector to a queue. Returns 0 if it is refused.
    ///
    /// # Safety
    /// Nobody else uses the queue. The VM made the vector.
    pub fn enif_ioq_enqv(queue: *mut IoQueue, vector: *mut ErlNifIOVec, skip: usize) -> c_int;

    /// Removes so many bytes from a queue, and releases what they were in.
    ///
    /// # Safety
    /// Nobody else uses the queue. `rest` may be null.
    pub fn enif_ioq_deq(queue: *mut IoQueue, count: usize, rest: *mut usize) -> c_int;

    /// Makes a term of the first binary of a queue, without copying it if it is off-heap. Returns 0
    /// if there is none.
    ///
    /// # Safety
    /// `env` is alive, and nobody changes the queue meanwhile. `size` may be null.
    pub fn enif_ioq_peek_head(
        env: *mut ErlNifEnv,
        queue: *mut IoQueue,
        size: *mut usize,
        term: *mut ErlNifTerm,
    ) -> c_int;
}

/// Where the bytes of a list of binaries are.
#[repr(C)]
#[allow(missing_docs)]
pub struct ErlNifIOVec {
    pub count: c_int,
    pub size: size_t,
    pub elements: *mut SysIOVec,
    /// The off-heap binary of each element, or null.
    pub off_heap: *const *const c_void,
    flags: c_int,
    small_elements: [SysIOVec; SMALL],
    small_off_heap: [*const c_void; SMALL],
}

/// An element of an [`ErlNifIOVec`], as the system defines it.
#[repr(C)]
#[allow(missing_docs)]
pub struct SysIOVec {
    pub base: *const u8,
    pub length: size_t,
}

/// How many elements an [`ErlNifIOVec`] has room for.
const SMALL: usize = 16;

/// An I/O queue of the VM.
#[repr(C)]
pub struct IoQueue {
    opaque: [u8; 0],
}

/// The only option of [`enif_ioq_create`].
pub const ERL_NIF_IOQ_NORMAL: c_int = 1;

/// The results of [`enif_term_type`].
#[allow(missing_docs)]
pub mod term_type {
    use rustler::sys::{c_int, ErlNifTermType::*};

    pub const ATOM: c_int = ERL_NIF_TERM_TYPE_ATOM as c_int;
    pub const BITSTRING: c_int = ERL_NIF_TERM_TYPE_BITSTRING as c_int;
    pub const FLOAT: c_int = ERL_NIF_TERM_TYPE_FLOAT as c_int;
    pub const FUN: c_int = ERL_NIF_TERM_TYPE_FUN as c_int;
    pub const INTEGER: c_int = ERL_NIF_TERM_TYPE_INTEGER as c_int;
    pub const LIST: c_int = ERL_NIF_TERM_TYPE_LIST as c_int;
    pub const MAP: c_int = ERL_NIF_TERM_TYPE_MAP as c_int;
    pub const PID: c_int = ERL_NIF_TERM_TYPE_PID as c_int;
    pub const PORT: c_int = ERL_NIF_TERM_TYPE_PORT as c_int;
    pub const TUPLE: c_int = ERL_NIF_TERM_TYPE_TUPLE as c_int;
}
