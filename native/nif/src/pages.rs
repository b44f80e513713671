//! Paging through the rows of a zone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use proctab_table::datum::Datum;
use proctab_table::entry::{Entry, TooMany};
use proctab_table::reclaim;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::atoms::{self, atom};
use crate::attributes::{self, Keys, VISIT_COST};
use crate::children::child_terms;
use crate::lookup::{self, while_running};

/// Budget of a page, in words: a few hundred microseconds of work.
const PAGE_BUDGET: usize = 3_000;
/// Cost of a row besides its attributes, in words.
const ROW_COST: usize = 16;
/// After this time a page ends, whatever its budget: the rows of a large table are often in no
/// cache, and on some virtual machines in no memory, so that one takes tens of microseconds.
const PAGE_TIME: Duration = Duration::from_micros(250);
/// The time is read after so many rows: reading it takes as long as making a name.
const TIMED: usize = 8;

/// What a page has of each row.
enum Item {
    Child,
    Name,
    Pid,
    Size,
    /// The attributes of these keys, or all, as a list.
    Attributes(Option<Keys>),
    /// The attributes of these keys, or all, as a map.
    Row(Option<Keys>),
    /// The attribute of this key, if it is an integer.
    Integer(Datum<Copied>),
}

/// Makes the rows from a slot on, each prepended to the accumulator, and the slot to go on from.
///
/// A page ends early when its budget is used up, or its time on a normal scheduler. A row that
/// costs more than what is left of the budget of the call starts the next page, which may then be
/// rescheduled.
pub fn page(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let from = call.get_integer(call.argument(1)?);
    let from = from.and_then(|from| u32::try_from(from).ok());
    let what = item(call, call.argument(2)?)?;
    // The keys are converted for each page, and must leave enough for more than a few rows.
    call.allow(PAGE_BUDGET)?;
    let mut items = call.argument(3)?;
    let begin = Instant::now();
    let (rows, next) = zone.content.page(from.ok_or(Fault::BadArgument)?);
    let mut next = next.map_or(atom!(done), |next| call.integer(i64::from(next)));
    let end = call.budget() - PAGE_BUDGET;
    if let Item::Attributes(_) | Item::Row(_) | Item::Integer(_) = what {
        load_together(rows.iter().map(|row| zone.content.entry_of(row, &guard)));
    }
    for (index, row) in rows.iter().enumerate() {
        let entry = zone.content.entry_of(row, &guard);
        let item = call.deduct(ROW_COST).and_then(|()| match &what {
            Item::Child => child_item(call, entry),
            Item::Name => name_item(call, entry),
            Item::Pid => pid_item(call, entry),
            Item::Size => size_item(call, entry),
            Item::Attributes(keys) => attributes_item(call, entry, keys.as_ref()),
            Item::Row(keys) => row_item(call, entry, keys.as_ref()),
            Item::Integer(key) => integer_item(call, entry, key),
        });
        match item {
            Ok(Some(item)) => items = call.cons(item, items),
            Ok(None) => (),
            Err(Fault::Reschedule) if index > 0 => {
                next = call.integer(i64::from(row.slot));
                break;
            }
            Err(fault) => return Err(fault),
        }
        let is_late = index % TIMED == TIMED - 1 && begin.elapsed() > PAGE_TIME && !call.is_dirty();
        if call.budget() < end || is_late {
            if let Some(row) = rows.get(index + 1) {
                next = call.integer(i64::from(row.slot));
            }
            break;
        }
    }
    Ok(call.tuple([items, next]))
}

/// Reads a word of the attributes of each row, as pages of the table do of the rows: the processor
/// waits for all of them at the same time.
fn load_together<'g>(rows: impl Iterator<Item = Entry<'g, Copied>>) {
    black_box(rows.fold(0, |sum, entry| {
        sum ^ entry
            .attributes()
            .map_or(0, |attributes| attributes.count())
    }));
}

fn item<'c>(call: Call<'c>, what: Term<'c>) -> Result<Item, Fault> {
    Ok(match what {
        what if what.is(atoms::children()) => Item::Child,
        what if what.is(atoms::names()) => Item::Name,
        what if what.is(atoms::pids()) => Item::Pid,
        what if what.is(atoms::sizes()) => Item::Size,
        what if what.is(atoms::attributes()) => Item::Attributes(None),
        what if what.is(atoms::rows()) => Item::Row(None),
        what if call.get_pair(what).is_some() => pair_item(call, what)?,
        keys => Item::Attributes(Some(attributes::to_keys(call, keys)?)),
    })
}

fn pair_item<'c>(call: Call<'c>, what: Term<'c>) -> Result<Item, Fault> {
    match call.get_pair(what) {
        Some((what, keys)) if what.is(atoms::rows()) => {
            Ok(Item::Row(Some(attributes::to_keys(call, keys)?)))
        }
        Some((what, key)) if what.is(atoms::integers()) => Ok(Item::Integer(call.to_key(key)?)),
        _ => Err(Fault::BadArgument),
    }
}

/// Makes name, state, pid, keeper and spec of the child of a row.
fn child_item<'c>(call: Call<'c>, entry: Entry<Copied>) -> Result<Option<Term<'c>>, Fault> {
    let Some(child) = entry.child() else {
        return Ok(None);
    };
    let [state, pid, keeper, spec] = child_terms(call, &child)?;
    let name = call.make(&entry.name)?;
    Ok(Some(call.tuple([name, state, pid, keeper, spec])))
}

/// Makes the name of a row that has a child.
fn name_item<'c>(call: Call<'c>, entry: Entry<Copied>) -> Result<Option<Term<'c>>, Fault> {
    match entry.has_child() {
        true => Ok(Some(call.make(&entry.name)?)),
        false => Ok(None),
    }
}

/// Makes name and pid of a row that has a running child.
fn pid_item<'c>(call: Call<'c>, entry: Entry<Copied>) -> Result<Option<Term<'c>>, Fault> {
    let Some(pid) = entry.pid() else {
        return Ok(None);
    };
    let name = call.make(&entry.name)?;
    Ok(Some(call.tuple([name, call.make_pid(&pid)?])))
}

/// Makes name and pid of a row, the number of its attributes, and its size in bytes.
fn size_item<'c>(call: Call<'c>, entry: Entry<Copied>) -> Result<Option<Term<'c>>, Fault> {
    let size = entry.size(call.budget() / VISIT_COST);
    let (count, bytes) = size.map_err(|TooMany| Fault::Reschedule)?;
    call.deduct(count * VISIT_COST)?;
    let pid = match entry.pid() {
        Some(pid) => call.make_pid(&pid)?,
        None => atom!(undefined),
    };
    let [count, bytes] = [count, bytes].map(|number| call.integer(number as i64));
    Ok(Some(call.tuple([
        call.make(&entry.name)?,
        pid,
        count,
        bytes,
    ])))
}

/// Makes name and attributes of a row that has a running child.
fn attributes_item<'c>(
    call: Call<'c>,
    entry: Entry<Copied>,
    keys: Option<&Keys>,
) -> Result<Option<Term<'c>>, Fault> {
    let made = while_running(call, entry, || attributes::list(call, entry, keys))?;
    let Some((pid, attributes)) = made else {
        return Ok(None);
    };
    let pid = call.tuple([atom!(pid), pid]);
    let attributes = call.cons(pid, attributes);
    let name = call.make(&entry.name)?;
    Ok(Some(call.tuple([name, attributes])))
}

/// Makes name, pid and attributes of a row that has a running child.
fn row_item<'c>(
    call: Call<'c>,
    entry: Entry<Copied>,
    keys: Option<&Keys>,
) -> Result<Option<Term<'c>>, Fault> {
    let made = while_running(call, entry, || attributes::map(call, entry, keys))?;
    let Some((pid, attributes)) = made else {
        return Ok(None);
    };
    let name = call.make(&entry.name)?;
    Ok(Some(call.tuple([name, pid, attributes])))
}

/// Makes an attribute of a row that has a running child, if it is an integer.
fn integer_item<'c>(
    call: Call<'c>,
    entry: Entry<Copied>,
    key: &Datum<Copied>,
) -> Result<Option<Term<'c>>, Fault> {
    let made = while_running(call, entry, || {
        call.deduct(ROW_COST)?;
        let attributes = entry.attributes();
        let value = attributes.as_ref().and_then(|map| map.get(key.borrow()));
        value.map_or(Ok(None), |value| call.make_integer(value.seen()))
    })?;
    Ok(made.and_then(|(_, integer)| integer))
}
