//! The proof that an operation is carried through.
//!
//! An embedder may have to break an operation off and begin it anew elsewhere, because it takes too long where it
//! is. That is harmless for as long as nothing has been changed, and never afterwards: the operation would be done
//! twice, or not find what it has changed itself. So every function of this crate that changes a table takes a
//! [`Committed`], which its embedder makes in one place only: where it decides that an operation will not be broken
//! off any more.

/// The operation is carried through: see the [module](self).
#[derive(Debug)]
pub struct Committed(());

impl Committed {
    /// For the place where that is decided, and for programs that break nothing off.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Committed(())
    }
}
