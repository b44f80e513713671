//! The proof that an operation will not start again.
//!
//! An embedder may have to abort an operation and start it again elsewhere, because it takes too
//! long. That is harmless before the operation has changed anything, and never afterwards: it would
//! be done twice, or find its own changes. So every function of this crate that changes a table
//! takes a [`Committed`], and an embedder makes one in a single place: where it decides not to
//! abort the operation any more.

/// The proof that an operation will not start again; see the [module](self).
#[derive(Debug)]
pub struct Committed(());

impl Committed {
    /// For the place where an operation is committed, and for programs that never abort one.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Committed(())
    }
}
