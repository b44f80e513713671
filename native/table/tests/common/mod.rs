//! What several tests and benchmarks of the crate use.

use proctab_table::datum::Foreign;

/// For tables without foreign terms.
pub enum Nothing {}

impl Foreign for Nothing {
    type Borrowed<'a> = &'a Nothing;

    fn borrow(&self) -> &Nothing {
        self
    }

    fn hash(borrowed: &Nothing) -> u64 {
        match *borrowed {}
    }

    fn same(one: &Nothing, _: &Nothing) -> bool {
        match *one {}
    }
}
