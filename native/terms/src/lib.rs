//! Native calls of the BEAM, and Erlang terms as the values that `proctab_table` stores.
//!
//! A [`Call`] is one call of an exported function. It carries a budget, so that no call holds a
//! normal scheduler for long, and it takes [terms](Term) apart, makes new ones, and converts them
//! to stored values and back. `proctab_nif` exports its functions with [`export!`]:
//!
//! ```ignore
//! proctab_terms::export! { names { size/1 } }
//!
//! // In the module `names`:
//! pub fn size(call: Call<'_>) -> Answer<'_> {
//!     let stored = call.to_datum(call.argument(0)?)?;
//!     Ok(call.integer(stored.size() as i64))
//! }
//! ```
//!
//! # Modules
//!
//! Each module imports only from modules further down this list:
//!
//! | module | subject |
//! | --- | --- |
//! | [`messages`] | sending messages |
//! | [`pids`] | pids as arguments and answers |
//! | [`comparison`] | comparing stored values with constants |
//! | [`conversion`] | terms to stored values and back |
//! | [`encoding`] | the encoding of small tuples, lists and maps |
//! | [`copied`] | terms that only the VM can hold |
//! | [`shared`] | large binaries that are shared with the VM |
//! | [`deep_copy`] | copies of terms without references to larger binaries |
//! | [`cost`] | the cost of a term, computed before it is converted |
//! | [`binaries`] | where the VM keeps the bytes of a binary |
//! | [`making`] | making terms |
//! | [`reading`] | taking terms apart |
//! | [`call`] | entry and exit of an exported function; its budget |
//! | [`call_times`] | measuring how long calls hold their scheduler |
//! | [`term`] | a raw term with the lifetime of its call |
//! | [`vm`] | the VM's C functions, and the parts of rustler that are not public API |
//!
//! # What safe functions rely on
//!
//! 1. An environment and its terms live until the exported function returns, and the VM collects
//!    no garbage meanwhile, also on a dirty scheduler and when the process is killed there. A
//!    [`Term`] has the lifetime of its call, which no function can leave.
//! 2. The words of atoms, `[]`, local pids and local ports mean the same in every environment and
//!    for as long as the VM runs. The tables store only such words as terms: those that
//!    [`Call::atom`], [`Call::pid`] and [`Call::caller`] return, and those of kind *immediate* in
//!    a stored term, which only [`conversion`] makes.
//! 3. The result of [`Call::lookup_key`] is used before the call reads another term. It may refer
//!    to the bytes of a binary that its process appends to, and the VM moves these once, when a
//!    part of that binary is inspected.

#![deny(missing_docs)]

pub mod binaries;
pub mod call;
pub mod call_times;
pub mod comparison;
pub mod conversion;
pub mod copied;
pub mod cost;
pub mod deep_copy;
pub mod encoding;
pub mod making;
pub mod messages;
pub mod pids;
pub mod reading;
pub mod shared;
pub mod term;
pub mod vm;

pub use call::{Answer, Call, Fault};
pub use copied::Copied;
pub use encoding::Scratch;
pub use term::Term;

/// Reads from the VM what differs between its releases, and draws the key of all hashes.
///
/// Must be called when the library is loaded, before any other function of this crate.
pub fn load(env: rustler::Env<'_>) {
    reading::learn_signed_zeros(env);
    binaries::learn_layout(env);
    copied::draw_salt();
}
