//! A foreign term for this crate's own tests.

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
