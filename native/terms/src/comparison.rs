//! Comparing stored values with constants, without making terms.

use proctab_table::datum::{Datum, View};
use proctab_table::value::Seen;

use crate::call::{Call, Fault};
use crate::conversion::{BINARY, IMMEDIATE};
use crate::copied::Copied;
use crate::term::Term;

/// What a value is compared with.
pub enum Constant {
    /// An integer of at most 64 bits.
    Integer(i64),
    /// An atom, `[]`, a pid of this node, or a short binary. No other term is equal to it.
    Exact(Datum<Copied>),
}

/// How a value is to compare with a constant.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Operator {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
    NotEqual,
}

impl<'c> Call<'c> {
    /// Converts a constant. Returns `None` if values cannot be compared with it without making a
    /// term.
    pub fn to_constant(self, term: Term<'c>) -> Result<Option<Constant>, Fault> {
        if let Some(integer) = self.get_integer(term) {
            return Ok(Some(Constant::Integer(integer)));
        }
        let datum = self.to_datum(term)?;
        Ok(match datum.view() {
            View::Word(IMMEDIATE, _) | View::Bytes(BINARY, _) => Some(Constant::Exact(datum)),
            _ => None,
        })
    }
}

/// Whether a value is known not to compare with a constant as the operator demands, in the order of
/// terms. `false` also means that this cannot be told without making the term of the value.
pub fn fails(value: Seen<'_, Copied>, operator: Operator, constant: &Constant) -> bool {
    match (value, constant) {
        (Seen::Integer(value), Constant::Integer(integer)) => !match operator {
            Operator::Less => value < *integer,
            Operator::AtMost => value <= *integer,
            Operator::Greater => value > *integer,
            Operator::AtLeast => value >= *integer,
            Operator::Equal => value == *integer,
            Operator::NotEqual => value != *integer,
        },
        // They follow all numbers.
        (Seen::Fixed(View::Word(IMMEDIATE, _) | View::Bytes(BINARY, _)), Constant::Integer(_)) => {
            matches!(
                operator,
                Operator::Less | Operator::AtMost | Operator::Equal
            )
        }
        (Seen::Integer(_), Constant::Exact(_)) => matches!(operator, Operator::Equal),
        // A long binary may be equal to the constant, but has another form.
        (Seen::Fixed(View::Foreign(_)), _) | (Seen::Fixed(_), Constant::Integer(_)) => false,
        (Seen::Fixed(view), Constant::Exact(exact)) => match operator {
            Operator::Equal => !view.borrow().same(exact.borrow()),
            Operator::NotEqual => view.borrow().same(exact.borrow()),
            _ => false,
        },
    }
}
