//! Conditions that the attributes of a row must meet to be on a page.
//!
//! They only save work: a row that fails one is not made, and a row that is made may still fail
//! what the caller asks for.

use proctab_table::datum::Datum;
use proctab_table::entry::Entry;
use proctab_terms::comparison::{self, Constant, Operator};
use proctab_terms::{Call, Copied, Fault, Term};

use crate::atoms;

/// Cost of checking a condition besides finding the attribute, in words.
const CONDITION_COST: usize = 4;

/// A condition: there is an attribute of this key, and its value compares so with a constant.
pub struct Condition {
    key: Datum<Copied>,
    test: Option<(Operator, Constant)>,
}

/// Converts a list of conditions, each `{Key, Operator, Constant}`. The operator `'_'` demands only
/// that there is an attribute.
pub fn to_conditions<'c>(call: Call<'c>, list: Term<'c>) -> Result<Vec<Condition>, Fault> {
    let mut conditions = Vec::new();
    call.for_each_element(list, |element| {
        let [key, operator, constant] = *call.get_tuple(element).ok_or(Fault::BadArgument)? else {
            return Err(Fault::BadArgument);
        };
        let key = call.to_key(key)?;
        let test = match operator {
            any if any.is(atoms::any()) => None,
            operator => {
                let operator = to_operator(operator)?;
                let constant = call.to_constant(constant)?;
                constant.map(|constant| (operator, constant))
            }
        };
        conditions.push(Condition { key, test });
        Ok(())
    })?;
    Ok(conditions)
}

fn to_operator(term: Term<'_>) -> Result<Operator, Fault> {
    Ok(match term {
        term if term.is(atoms::less()) => Operator::Less,
        term if term.is(atoms::at_most()) => Operator::AtMost,
        term if term.is(atoms::greater()) => Operator::Greater,
        term if term.is(atoms::at_least()) => Operator::AtLeast,
        term if term.is(atoms::equal()) => Operator::Equal,
        term if term.is(atoms::not_equal()) => Operator::NotEqual,
        _ => return Err(Fault::BadArgument),
    })
}

/// Whether a row may meet all conditions: `false` means that one of them failed at some moment
/// during this call.
pub fn may_hold(
    call: Call<'_>,
    conditions: &[Condition],
    entry: Entry<Copied>,
) -> Result<bool, Fault> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let costs = conditions
        .iter()
        .map(|Condition { key, .. }| call.cost_to_look_up(key));
    call.deduct(CONDITION_COST * conditions.len() + costs.sum::<usize>())?;
    let Some(attributes) = entry.attributes() else {
        return Ok(false);
    };
    Ok(conditions.iter().all(|Condition { key, test }| {
        let Some(value) = attributes.get(key.borrow()) else {
            return false;
        };
        let fails =
            |(operator, constant): &(_, _)| comparison::fails(value.seen(), *operator, constant);
        !test.as_ref().is_some_and(fails)
    }))
}
