//! Reading and changing attributes.

use std::collections::HashMap;

use proctab_table::attributes::{Attribute, Changes};
use proctab_table::datum::Datum;
use proctab_table::entry::{Entry, Replaced, TooMany, Void};
use proctab_table::index::{Index, Indexes, Plan, Planned};
use proctab_table::reclaim;
use proctab_table::value::{Added, Seen, Value};
use proctab_table::waiters::SoughtAll;
use proctab_table::zone::Zone;
use proctab_table::Seed;
use proctab_terms::{Answer, Call, Copied, Fault, Scratch, Term};
use smallvec::SmallVec;

use crate::atoms::{atom, boolean};
use crate::index;
use crate::lookup::{self, directory, with_entry, with_own_entry};
use crate::waiting::{deduct_wake_cost, wake};

/// Cost of visiting an attribute, in words.
pub const VISIT_COST: usize = 1;
/// Cost of adding an attribute to a list, besides its key and its value, in words.
const PAIR_COST: usize = 5;

/// The keys of the attributes that a caller asks for, each with its position among them.
pub type Keys = HashMap<Datum<Copied>, usize, Seed>;
/// Elements of a tuple that is being made.
pub type Fields<'c> = SmallVec<[Term<'c>; 8]>;

pub fn getattr(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |_, entry| get(call, entry))
}

/// Like [`getattr`], in a zone on several nodes.
pub fn getattr_of_cluster(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |zone, entry| {
        directory(zone)?;
        get(call, entry)
    })
}

#[inline(always)]
fn get<'c>(call: Call<'c>, entry: Option<Entry<Copied>>) -> Answer<'c> {
    let mut scratch = Scratch::new();
    let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
    let attributes = entry.and_then(|entry| entry.attributes());
    match attributes.as_ref().and_then(|map| map.get(key)) {
        Some(value) => Ok(call.tuple([atom!(ok), call.make_value(value.seen())?])),
        None => Ok(atom!(undefined)),
    }
}

pub fn setattr(call: Call<'_>) -> Answer<'_> {
    match call.argument(3) {
        Ok(value) => set_one(call, value, |_| Ok(())),
        Err(_) => set_all(call, changes(call, call.argument(2)?)?),
    }
}

/// Like [`setattr`], in a zone on several nodes.
pub fn setattr_of_cluster(call: Call<'_>) -> Answer<'_> {
    match call.argument(3) {
        Ok(value) => set_one(call, value, |zone| directory(zone).map(drop)),
        Err(_) => {
            directory(lookup::zone(call, &reclaim::enter())?)?;
            setattr(call)
        }
    }
}

/// Sets one attribute. Most are there already, and their keys need not be stored again.
#[inline(always)]
fn set_one<'c>(
    call: Call<'c>,
    value: Term<'c>,
    check: impl Fn(&Zone<Copied>) -> Result<(), Fault>,
) -> Answer<'c> {
    // First, because nothing may be read while a lookup refers to the bytes of a binary.
    let value = call.to_value(value)?;
    let rest = with_entry(call, |zone, entry| {
        check(zone)?;
        let Some(entry) = entry.filter(|_| zone.indexes().is_none()) else {
            return Ok(Err(value));
        };
        let mut scratch = Scratch::new();
        let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
        let committed = call.commit();
        let set = entry.set_present(key, value, &committed);
        if set.is_err() {
            call.take_back(committed);
        }
        Ok(set)
    })?;
    match rest {
        Ok(Ok(())) => Ok(atom!(ok)),
        Ok(Err(Void)) => Ok(atom!(void)),
        Err(value) => {
            let key = call.to_key(call.argument(2)?)?;
            set_all(call, Changes::from_iter([Attribute { key, value }]))
        }
    }
}

/// Sets attributes.
#[inline(never)]
fn set_all(call: Call<'_>, changes: Changes<Copied>) -> Answer<'_> {
    with_entry(call, |zone, entry| {
        let Some(entry) = entry else {
            return Ok(atom!(void));
        };
        deduct_wake_cost(call, zone, || {
            let current = entry.attributes();
            let keys = changes.iter().map(|change| change.key.borrow());
            let is_new = |key: &_| current.as_ref().is_none_or(|current| !current.has(*key));
            entry.sought(keys.filter(is_new))
        })?;
        match set(call, zone, entry, changes)? {
            Ok(sought) => {
                if !sought.is_empty() {
                    wake(call, zone, || sought, &call.commit());
                }
                Ok(atom!(ok))
            }
            Err(Void) => Ok(atom!(void)),
        }
    })
}

/// Sets attributes that were converted from the arguments.
fn set(
    call: Call<'_>,
    zone: &Zone<Copied>,
    entry: Entry<Copied>,
    changes: Changes<Copied>,
) -> Result<Result<SoughtAll, Void>, Fault> {
    let plan = match zone.indexes() {
        Some(indexes) => Some((indexes, plan(call, indexes, &changes)?)),
        None => None,
    };
    match plan {
        Some((indexes, plan)) if !plan.is_empty() => index::write(
            call,
            indexes,
            entry,
            |_| plan,
            |entry, committed| {
                let set = entry.set(changes, committed);
                let is_set = set.is_ok();
                (set, is_set)
            },
        ),
        _ => Ok(entry.set(changes, &call.commit())),
    }
}

/// Returns the plan for changes of indexed attributes, which were converted from the arguments.
fn plan(
    call: Call<'_>,
    indexes: &Indexes<Copied>,
    changes: &Changes<Copied>,
) -> Result<Plan<Copied>, Fault> {
    let indexed = |key: &Datum<Copied>| indexes.get(key.borrow());
    let mut plan = Plan::new();
    if changes.iter().all(|change| indexed(&change.key).is_none()) {
        return Ok(plan);
    }
    let mut add = |key, value| {
        if let Some(index) = indexed(key) {
            plan.retain(|planned: &mut Planned<_>| planned.position != index.position());
            plan.push(index::planned(call, index, value)?);
        }
        Ok(())
    };
    let mut keys = changes.iter().map(|change| &change.key);
    match call.argument(3) {
        Ok(value) => keys.try_for_each(|key| add(key, value))?,
        Err(_) => call.for_each_element(call.argument(2)?, |element| {
            let value = call.get_pair(element).map(|(_, value)| value);
            match value.and_then(|value| Some((keys.next()?, value))) {
                Some((key, value)) => add(key, value),
                None => Ok(()),
            }
        })?,
    }
    Ok(plan)
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
    with_entry(call, |zone, entry| {
        let Some(entry) = entry else {
            return answer(match of_child {
                true => Replaced::Void,
                false => Replaced::Missing,
            });
        };
        let replaced = match index::of(zone, change.key.borrow()) {
            None => entry.replace(change, is_expected, of_child, &call.commit()),
            Some((indexes, index)) => {
                // Compared once more, for the plan.
                call.deduct(call.cost_to_compare(expected.see()))?;
                let planned = index::planned(call, index, call.argument(4)?)?;
                let is_expected_now = |entry: Entry<Copied>| {
                    let attributes = entry.attributes();
                    let current = attributes.as_ref()?.get(index.key().borrow())?;
                    is_expected(current.seen()).then_some(planned)
                };
                let plan = |entry| Plan::from_iter(is_expected_now(entry));
                index::write(call, indexes, entry, plan, |entry, committed| {
                    let replaced = entry.replace(change, is_expected, of_child, committed);
                    let is_replaced = matches!(replaced, Replaced::Done);
                    (replaced, is_replaced)
                })?
            }
        };
        if !matches!(replaced, Replaced::Done) {
            call.take_back(call.commit());
        }
        answer(replaced)
    })
}

pub fn delattr(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |zone, entry| delete(call, zone, entry))
}

/// Like [`delattr`], if this member of a zone on several nodes has a child of the name.
pub fn delattr_of_own(call: Call<'_>) -> Answer<'_> {
    let deleted = with_own_entry(call, |zone, entry| delete(call, zone, entry))?;
    Ok(deleted.unwrap_or(atom!(undefined)))
}

#[inline(always)]
fn delete<'c>(call: Call<'c>, zone: &Zone<Copied>, entry: Option<Entry<Copied>>) -> Answer<'c> {
    let mut scratch = Scratch::new();
    let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
    let Some(entry) = entry else {
        return Ok(atom!(ok));
    };
    match index::of(zone, key) {
        None => zone.delete(entry, key, &call.commit()),
        Some((indexes, index)) => {
            let plan = |_| Plan::from_iter([index::planned_none(index)]);
            index::write(call, indexes, entry, plan, |entry, committed| {
                (zone.delete(entry, key, committed), true)
            })?
        }
    }
    Ok(atom!(ok))
}

pub fn increment(call: Call<'_>) -> Answer<'_> {
    let increment = to_increment(call)?;
    let added = with_entry(call, |zone, entry| add(call, zone, entry, increment))?;
    sum(call, increment, added)
}

/// Like [`increment`], if this member of a zone on several nodes has a child of the name.
pub fn increment_of_own(call: Call<'_>) -> Answer<'_> {
    let increment = to_increment(call)?;
    match with_own_entry(call, |zone, entry| add(call, zone, entry, increment))? {
        Some(added) => sum(call, increment, added),
        None => Ok(atom!(undefined)),
    }
}

/// Returns the increment that the arguments name, or `None` if it is a large integer.
#[inline(always)]
fn to_increment(call: Call<'_>) -> Result<Option<i64>, Fault> {
    let increment = call.argument(3)?;
    let missing = call.argument(4);
    if !call.is_integer(increment) || missing.is_ok_and(|value| !call.is_integer(value)) {
        return Err(Fault::BadArgument);
    }
    Ok(call.get_integer(increment))
}

/// Adds to an attribute if it is there.
#[inline(always)]
fn add(
    call: Call<'_>,
    zone: &Zone<Copied>,
    entry: Option<Entry<Copied>>,
    increment: Option<i64>,
) -> Result<Added, Fault> {
    if zone.indexes().is_some() {
        return add_in_zone_with_indexes(call, zone, entry, increment);
    }
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
}

/// Makes the answer of an increment. A missing attribute is set first, if the arguments say so.
#[inline(always)]
fn sum<'c>(call: Call<'c>, increment: Option<i64>, added: Added) -> Answer<'c> {
    let missing = call.argument(4);
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

/// Adds to an attribute that may be indexed. Not inlined, so that it does not slow down additions
/// in other zones.
#[cold]
#[inline(never)]
fn add_in_zone_with_indexes(
    call: Call<'_>,
    zone: &Zone<Copied>,
    entry: Option<Entry<Copied>>,
    increment: Option<i64>,
) -> Result<Added, Fault> {
    let mut scratch = Scratch::new();
    let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
    let (entry, increment) = match (entry, increment) {
        (Some(entry), Some(increment)) => (entry, increment),
        (None, Some(_)) => return Ok(Added::Missing),
        (_, None) => return Ok(Added::NotCounted),
    };
    let added = match index::of(zone, key) {
        None => entry.add(key, increment, &call.commit()),
        Some((indexes, index)) => {
            let plan = |entry| plan_sum(call, index, entry, increment, None);
            index::write(call, indexes, entry, plan, |entry, committed| {
                let added = entry.add(key, increment, committed);
                let is_changed = matches!(added, Added::Changed(_));
                (added, is_changed)
            })?
        }
    };
    if added == Added::Missing {
        call.take_back(call.commit());
    }
    Ok(added)
}

/// Returns the plan for adding to an indexed attribute, or for setting it if it is missing.
fn plan_sum(
    call: Call<'_>,
    index: &Index<Copied>,
    entry: Entry<Copied>,
    increment: i64,
    missing: Option<Planned<Copied>>,
) -> Plan<Copied> {
    let attributes = entry.attributes();
    let current = attributes
        .as_ref()
        .and_then(|map| map.get(index.key().borrow()));
    Plan::from_iter(match current {
        None => missing,
        Some(value) => {
            let sum = value
                .seen()
                .counted()
                .and_then(|current| current.checked_add(increment));
            let sum = sum.filter(|sum| Value::<Copied>::counter(*sum).is_some());
            sum.map(|sum| index::planned_integer(call, index, sum))
        }
    })
}

/// Adds to an attribute, or sets it to `value` if it is missing.
fn add_or_set<'c>(call: Call<'c>, increment: i64, value: Term<'c>) -> Result<Added, Fault> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let name = call.to_key(call.argument(1)?)?;
    let missing = call.to_attribute(call.argument(2)?, value)?;
    let sought = || SoughtAll::from_iter([zone.attribute_of(name.borrow(), missing.key.borrow())]);
    deduct_wake_cost(call, zone, sought)?;
    let added = match index::of(zone, missing.key.borrow()) {
        None => zone.add_or_set(&name, increment, &missing, &guard, &call.commit()),
        Some((indexes, index)) => {
            let planned = index::planned(call, index, value)?;
            loop {
                let entry = match zone.entry(name.borrow(), &guard) {
                    Some(entry) => entry,
                    None => zone.entry_or_vacant(&name, &guard, &call.commit()),
                };
                let planned = planned.clone();
                let plan = |entry| plan_sum(call, index, entry, increment, Some(planned));
                let added = index::write(call, indexes, entry, plan, |entry, committed| {
                    let added = zone.try_add_or_set(entry, increment, &missing, committed);
                    let is_changed = !matches!(added, Ok(Added::NotCounted) | Err(_));
                    (added, is_changed)
                })?;
                if let Ok(added) = added {
                    break added;
                }
            }
        }
    };
    let committed = call.commit();
    if added == Added::Missing {
        wake(call, zone, sought, &committed);
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
        let position = keys.len();
        keys.entry(call.to_key(key)?).or_insert(position);
        Ok(())
    })?;
    Ok(keys)
}

/// Makes a list of the attributes of a row at one moment, as pairs: those of `keys`, or all.
pub fn list<'c>(call: Call<'c>, entry: Entry<Copied>, keys: Option<&Keys>) -> Answer<'c> {
    let mut list = call.nil();
    for_each_pair(call, entry, keys, |key, value| {
        list = call.cons(call.tuple([key, value]), list);
    })?;
    Ok(list)
}

/// Makes a map of the attributes of a row at one moment: those of `keys`, or all.
pub fn map<'c>(call: Call<'c>, entry: Entry<Copied>, keys: Option<&Keys>) -> Answer<'c> {
    let (mut of_map, mut values) = (Vec::new(), Vec::new());
    for_each_pair(call, entry, keys, |key, value| {
        of_map.push(key);
        values.push(value);
    })?;
    Ok(call.map(&of_map, &values))
}

/// Appends the values of the attributes of these keys, at one moment, in the order of the keys.
/// Returns `false` if one is missing.
pub fn values<'c>(
    call: Call<'c>,
    entry: Entry<Copied>,
    keys: &Keys,
    fields: &mut Fields<'c>,
) -> Result<bool, Fault> {
    let first = fields.len();
    fields.resize(first + keys.len(), call.nil());
    let mut found = 0;
    for_each_wanted(call, entry, keys, |position, _, value| {
        fields[first + position] = call.make_value(value)?;
        found += 1;
        Ok(())
    })?;
    Ok(found == keys.len())
}

/// Makes the attributes of a row at one moment, those of `keys` or all.
fn for_each_pair<'c>(
    call: Call<'c>,
    entry: Entry<Copied>,
    keys: Option<&Keys>,
    mut put: impl FnMut(Term<'c>, Term<'c>),
) -> Result<(), Fault> {
    if let Some(keys) = keys {
        return for_each_wanted(call, entry, keys, |_, key, value| {
            call.deduct(PAIR_COST + call.cost_to_make(key))?;
            put(call.make_deducted(key), call.make_value(value)?);
            Ok(())
        });
    }
    let snapshot = entry.snapshot(call.budget() / (VISIT_COST + PAIR_COST));
    let Some(attributes) = snapshot.map_err(|TooMany| Fault::Reschedule)? else {
        return Ok(());
    };
    let mut cost = 0;
    attributes.for_each(&mut |key, value| {
        cost += VISIT_COST + PAIR_COST + call.cost_to_make(key) + call.cost_to_make_value(value);
    });
    call.deduct(cost)?;
    attributes.for_each(&mut |key, value| {
        put(call.make_deducted(key), call.make_deducted_value(value));
    });
    Ok(())
}

/// Calls `visit` with the attributes of these keys at one moment, each with the position of its
/// key. Deducts the cost of finding them.
fn for_each_wanted(
    call: Call<'_>,
    entry: Entry<Copied>,
    keys: &Keys,
    mut visit: impl FnMut(usize, &Datum<Copied>, Seen<'_, Copied>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if keys.is_empty() {
        return Ok(());
    }
    if keys.len() == 1 {
        // One attribute is read at one moment in any case.
        return keys.keys().try_for_each(|key| {
            call.deduct(call.cost_to_look_up(key))?;
            let attributes = entry.attributes();
            match attributes.as_ref().and_then(|map| map.get(key.borrow())) {
                Some(value) => visit(0, key, value.seen()),
                None => Ok(()),
            }
        });
    }
    let snapshot = entry.snapshot(call.budget() / VISIT_COST);
    let Some(attributes) = snapshot.map_err(|TooMany| Fault::Reschedule)? else {
        return Ok(());
    };
    let mut result = Ok(());
    attributes.for_each(&mut |key, value| {
        if result.is_ok() {
            result = call.deduct(call.cost_to_look_up(key));
        }
        if let (Ok(()), Some(position)) = (result, keys.get(key)) {
            result = visit(*position, key, value);
        }
    });
    result
}
