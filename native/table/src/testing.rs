//! Foreign terms for this crate's own tests.

use std::sync::Arc;

use crate::datum::Foreign;

/// Bytes that the table cannot look into. All have the same hash.
#[derive(Debug, PartialEq)]
pub struct Text(pub Vec<u8>);

impl Foreign for Text {
    type Borrowed<'a> = &'a [u8];

    fn borrow(&self) -> &[u8] {
        &self.0
    }

    fn hash(_: &[u8]) -> u64 {
        42
    }

    fn same(one: &[u8], other: &[u8]) -> bool {
        one == other
    }
}

/// A foreign term by whose reference count a test sees whether it has been freed.
pub struct Held {
    pub _by: Arc<()>,
    pub heavy: bool,
}

impl Foreign for Held {
    type Borrowed<'a> = &'a Held;

    fn borrow(&self) -> &Held {
        self
    }

    fn hash(_: &Held) -> u64 {
        42
    }

    fn same(one: &Held, other: &Held) -> bool {
        std::ptr::eq(one, other)
    }

    fn is_heavy(&self) -> bool {
        self.heavy
    }
}
