//! Reading and changing attributes.

use std::collections::HashSet;

use proctab_table::attributes::Changes;
use proctab_table::datum::Datum;
use proctab_table::entry::{Entry, Replaced, TooMany, Void};
use proctab_table::reclaim;
use proctab_table::value::{Added, Seen};
use proctab_table::Seed;
use proctab_terms::{Answer, Call, Copied, Fault, Scratch, Term};

use crate::atoms::{atom, boolean};
use crate::lookup::{self, with_entry};
use crate::waiting::{deduct_wake_cost, wake};

/// Cost of visiting an attribute, in words.
pub const VISIT_COST: usize = 1;
/// Cost of adding an attribute to a list, besides its key and its value, in words.
const PAIR_COST: usize = 5;

/// The keys of the attributes that a caller asks for.
pub type Keys = HashSet<Datum<Copied>, Seed>;

pub fn getattr(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |_, entry| {
        let mut scratch = Scratch::new();
        let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
        let attributes = entry.and_then(|entry| entry.attributes());
        match attributes.as_ref().and_then(|map| map.get(key)) {
            Some(value) => Ok(call.tuple([atom!(ok), call.make_value(value.seen())?])),
            None => Ok(atom!(undefined)),
        }
    })
}

pub fn setattr(call: Call<'_>) -> Answer<'_> {
    let changes = match call.argument(3) {
        Ok(value) => Changes::from_iter([call.to_attribute(call.argument(2)?, value)?]),
        Err(_) => changes(call, call.argument(2)?)?,
    };
    with_entry(call, |zone, entry| {
        let Some(entry) = entry else {
            return Ok(atom!(void));
        };
        let adds = || {
            entry.attributes().is_none_or(|current| {
                changes
                    .iter()
                    .any(|change| !current.has(change.key.borrow()))
            })
        };
        deduct_wake_cost(call, zone, &entry.name, adds)?;
        let committed = call.commit();
        match entry.set(changes, &committed) {
            Ok(grown) => {
                if grown {
                    wake(call, zone, &entry.name, &committed);
                }
                Ok(atom!(ok))
            }
            Err(Void) => Ok(atom!(void)),
        }
    })
}

/// Converts the pairs of a list to attributes, and ignores its other elements.
fn changes<'c>(call: Call<'c>, list: Term<'c>) -> Result<Changes<Copied>, Fault> {
    let mut changes = Changes::new();
    call.for_each_element(list, |element| {
        if let Some((key, value)) = call.get_pair(element) {
            changes.push(call.to_attribute(key, value)?);
        }
        Ok(())
    })?;
    Ok(changes)
}

pub fn set_missing(call: Call<'_>) -> Answer<'_> {
    let added = add_or_set(call, 0, call.argument(3)?)?;
    Ok(boolean(added == Added::Missing))
}

pub fn replace(call: Call<'_>) -> Answer<'_> {
    exchange(call, false, |replaced| {
        Ok(boolean(matches!(replaced, Replaced::Done)))
    })
}

pub fn cas(call: Call<'_>) -> Answer<'_> {
    exchange(call, true, |replaced| {
        Ok(match replaced {
            Replaced::Done => atom!(ok),
            Replaced::Not(value) => call.tuple([atom!(current), call.make_value(value.seen())?]),
            Replaced::Missing => atom!(undefined),
            Replaced::Void => atom!(void),
        })
    })
}

/// Replaces the value of an attribute if it is the expected one, and returns what `answer` makes of
/// the result. `of_child`: and if a child holds the name.
fn exchange<'c>(
    call: Call<'c>,
    of_child: bool,
    answer: impl FnOnce(Replaced<'_, Copied>) -> Answer<'c>,
) -> Answer<'c> {
    let change = call.to_attribute(call.argument(2)?, call.argument(4)?)?;
    let expected = call.to_value(call.argument(3)?)?;
    call.deduct(call.cost_to_compare(expected.see()))?;
    let is_expected = |current: Seen<'_, Copied>| current.same(&expected.see());
    with_entry(call, |_, entry| {
        let Some(entry) = entry else {
            return answer(match of_child {
                true => Replaced::Void,
                false => Replaced::Missing,
            });
        };
        let committed = call.commit();
        let replaced = entry.replace(change, is_expected, of_child, &committed);
        if !matches!(replaced, Replaced::Done) {
            call.take_back(committed);
        }
        answer(replaced)
    })
}

pub fn delattr(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |zone, entry| {
        let mut scratch = Scratch::new();
        let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
        if let Some(entry) = entry {
            zone.delete(entry, key, &call.commit());
        }
        Ok(atom!(ok))
    })
}

pub fn increment(call: Call<'_>) -> Answer<'_> {
    let term = call.argument(3)?;
    let increment = call.get_integer(term);
    let missing = call.argument(4);
    if !call.is_integer(term) || missing.is_ok_and(|value| !call.is_integer(value)) {
        return Err(Fault::BadArgument);
    }
    let added = with_entry(call, |_, entry| {
        let mut scratch = Scratch::new();
        let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
        let (Some(entry), Some(increment)) = (entry, increment) else {
            return Ok(match increment {
                Some(_) => Added::Missing,
                None => Added::NotCounted,
            });
        };
        let committed = call.commit();
        let added = entry.add(key, increment, &committed);
        if added == Added::Missing {
            call.take_back(committed);
        }
        Ok(added)
    })?;
    let added = match (added, increment, missing) {
        (Added::Missing, Some(increment), Ok(value)) => add_or_set(call, increment, value)?,
        (added, _, _) => added,
    };
    match added {
        Added::Changed(sum) => Ok(call.integer(sum)),
        Added::NotCounted => Ok(atom!(large)),
        Added::Missing => missing,
    }
}

/// Adds to an attribute, or sets it to `value` if it is missing.
fn add_or_set<'c>(call: Call<'c>, increment: i64, value: Term<'c>) -> Result<Added, Fault> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let name = call.to_key(call.argument(1)?)?;
    let missing = call.to_attribute(call.argument(2)?, value)?;
    deduct_wake_cost(call, zone, &name, || true)?;
    let committed = call.commit();
    let added = zone.add_or_set(&name, increment, &missing, &guard, &committed);
    if added == Added::Missing {
        wake(call, zone, &name, &committed);
    }
    Ok(added)
}

pub fn attrs(call: Call<'_>) -> Answer<'_> {
    let keys = match call.argument(2) {
        Ok(list) => Some(to_keys(call, list)?),
        Err(_) => None,
    };
    with_entry(call, |_, entry| match entry {
        Some(entry) => list(call, entry, keys.as_ref()),
        None => Ok(call.nil()),
    })
}

/// Converts a list of keys.
pub fn to_keys<'c>(call: Call<'c>, list: Term<'c>) -> Result<Keys, Fault> {
    let mut keys = Keys::default();
    call.for_each_element(list, |key| {
        keys.insert(call.to_key(key)?);
        Ok(())
    })?;
    Ok(keys)
}

/// Makes a list of the attributes of a row at one moment, as pairs: those of `keys`, or all.
pub fn list<'c>(call: Call<'c>, entry: Entry<Copied>, keys: Option<&Keys>) -> Answer<'c> {
    let least = match keys {
        Some(_) => VISIT_COST,
        None => VISIT_COST + PAIR_COST,
    };
    let snapshot = entry.snapshot(call.budget() / least);
    let snapshot = snapshot.map_err(|TooMany| Fault::Reschedule)?;
    let Some(attributes) = snapshot else {
        return Ok(call.nil());
    };
    let is_wanted = |key| keys.is_none_or(|keys| keys.contains(key));
    let mut cost = 0;
    attributes.for_each(&mut |key, value| {
        cost += VISIT_COST;
        if is_wanted(key) {
            cost += PAIR_COST + call.cost_to_make(key) + call.cost_to_make_value(value);
        }
    });
    call.deduct(cost)?;
    let mut list = call.nil();
    attributes.for_each(&mut |key, value| {
        if is_wanted(key) {
            let (key, value) = (call.make_deducted(key), call.make_deducted_value(value));
            list = call.cons(call.tuple([key, value]), list);
        }
    });
    Ok(list)
}
