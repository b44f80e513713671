//! Shared by tests and benchmarks of the crate.

use proctab_table::datum::Foreign;

/// The foreign terms of tables that have none.
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
