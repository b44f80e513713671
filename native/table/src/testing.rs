//! Terms, attributes and rows for the tests of this crate.

use std::sync::Arc;

use crate::attributes::Attribute;
use crate::children::Children;
use crate::datum::{Datum, Foreign, Kind};
use crate::row::{Child, Claimed, Pid, Row, State};
use crate::value::Value;

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

/// A term whose reference count tells a test whether it was freed.
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

/// Returns a term that holds `by`.
pub fn held(by: &Arc<()>, heavy: bool) -> Datum<Held> {
    let _by = Arc::clone(by);
    Datum::foreign(Held { _by, heavy })
}

/// Returns a term of one word.
pub fn word<F>(word: u64) -> Datum<F> {
    Datum::word(Kind::new(0), word)
}

/// Returns an attribute that is no counter.
pub fn fixed<F>(key: u64, datum: Datum<F>) -> Attribute<F> {
    Attribute {
        key: word(key),
        value: Value::fixed(datum),
    }
}

/// Returns a row of a running child of keeper 1.
pub fn running<F: Foreign>(spec: Option<Datum<F>>) -> Row<F> {
    let row = Row::vacant(word(0), 0, 0);
    let child = Child {
        state: State::Running,
        pid: Some(Pid::Local(1)),
        keeper: 1,
        spec,
    };
    let occupied = row.occupy(&child, &Children::default(), || true);
    assert_eq!(occupied.unwrap(), Claimed::Done);
    row
}
