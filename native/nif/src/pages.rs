//! Paging through the rows of a zone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use proctab_table::datum::Datum;
use proctab_table::entry::{Entry, TooMany};
use proctab_table::reclaim::{self, Guard};
use proctab_table::zone::Zone;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::atoms::{self, atom};
use crate::attributes::{self, Fields, Keys, VISIT_COST};
use crate::children::child_terms;
use crate::conditions::{self, to_conditions, Condition};
use crate::lookup::{self, while_running};

/// Budget of a page, in words: a few hundred microseconds of work.
const PAGE_BUDGET: usize = 3_000;
/// Cost of a row besides its attributes, in words, and of looking at one that is not made.
const ROW_COST: usize = 16;
const VISIT: usize = 4;
/// A page that has so many rows ends, so that nobody reads much more than is needed.
const ENOUGH: usize = 32;
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
    /// The attributes of these keys, or all, as a map, if they may meet these conditions.
    Row(Option<Keys>, Vec<Condition>),
    /// The values of these keys, if there are all of them, and they may meet these conditions.
    Fields(Keys, Vec<Condition>),
    /// The attribute of this key, if it is an integer.
    Integer(Datum<Copied>),
}

/// Makes the rows from a slot on, each prepended to the accumulator, and the slot to go on from.
///
/// A page ends when it has enough rows, its budget is used up, or its time on a normal scheduler.
/// A row that costs more than what is left of the budget of the call starts the next page, which
/// may then be rescheduled.
pub fn page(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let from = call.get_integer(call.argument(1)?);
    let from = from.and_then(|from| u32::try_from(from).ok());
    let what = item(call, call.argument(2)?)?;
    // The keys are converted for each page, and must leave enough for more than a few rows.
    call.allow(PAGE_BUDGET)?;
    let mut page = Page {
        call,
        what,
        items: call.argument(3)?,
        made: 0,
        visited: 0,
        is_over: false,
        begin: Instant::now(),
        end: call.budget() - PAGE_BUDGET,
    };
    let mut from = Some(from.ok_or(Fault::BadArgument)?);
    while let Some(slot) = from {
        from = page.add(&zone.content, slot, &guard)?;
        if page.is_full() {
            break;
        }
    }
    let next = from.map_or(atom!(done), |next| call.integer(i64::from(next)));
    Ok(call.tuple([page.items, next]))
}

/// A page that is being made.
struct Page<'c> {
    call: Call<'c>,
    what: Item,
    /// What was made, prepended to the accumulator.
    items: Term<'c>,
    /// How many were made.
    made: usize,
    /// How many rows were looked at.
    visited: usize,
    /// Whether the next row belongs to the next page.
    is_over: bool,
    begin: Instant,
    /// The budget of the call that the page leaves.
    end: usize,
}

impl<'c> Page<'c> {
    fn is_full(&self) -> bool {
        self.is_over || self.made >= ENOUGH || self.is_used_up() || self.is_late()
    }

    fn is_used_up(&self) -> bool {
        self.call.budget() < self.end
    }

    fn is_late(&self) -> bool {
        self.begin.elapsed() > PAGE_TIME && !self.call.is_dirty()
    }

    /// Makes rows from a slot on, as many as the table lists at once. Returns the slot to go on
    /// from.
    fn add(&mut self, zone: &Zone<Copied>, from: u32, guard: &Guard) -> Result<Option<u32>, Fault> {
        let (rows, next) = zone.page(from);
        let entries = rows.iter().map(|row| zone.entry_of(row, guard));
        if let Item::Attributes(_) | Item::Row(..) | Item::Fields(..) | Item::Integer(_) = self.what
        {
            load_together(entries.clone());
        }
        for (index, entry) in entries.enumerate() {
            match self.make(entry) {
                Ok(None) => (),
                Ok(Some(item)) => {
                    self.items = self.call.cons(item, self.items);
                    self.made += 1;
                }
                Err(Fault::Reschedule) if self.visited > 0 => {
                    self.is_over = true;
                    return Ok(Some(entry.slot));
                }
                Err(fault) => return Err(fault),
            }
            self.visited += 1;
            let is_late = self.visited % TIMED == 0 && self.is_late();
            if is_late || self.is_used_up() {
                self.is_over = true;
                return Ok(rows.get(index + 1).map(|row| row.slot).or(next));
            }
        }
        // Slots without rows cost something as well.
        self.call.deduct(ROW_COST.min(self.call.budget()))?;
        Ok(next)
    }

    fn make(&self, entry: Entry<Copied>) -> Result<Option<Term<'c>>, Fault> {
        let call = self.call;
        call.deduct(VISIT)?;
        if let Item::Row(_, conditions) | Item::Fields(_, conditions) = &self.what {
            if !conditions::may_hold(call, conditions, entry)? {
                return Ok(None);
            }
        }
        call.deduct(ROW_COST - VISIT)?;
        match &self.what {
            Item::Child => child_item(call, entry),
            Item::Name => name_item(call, entry),
            Item::Pid => pid_item(call, entry),
            Item::Size => size_item(call, entry),
            Item::Attributes(keys) => attributes_item(call, entry, keys.as_ref()),
            Item::Row(keys, _) => row_item(call, entry, keys.as_ref()),
            Item::Fields(keys, _) => fields_item(call, entry, keys),
            Item::Integer(key) => integer_item(call, entry, key),
        }
    }
}

/// Reads the attributes of each row, as pages of the table do with the rows: the processor waits
/// for all of them at the same time.
fn load_together<'g>(rows: impl Iterator<Item = Entry<'g, Copied>>) {
    black_box(rows.fold(0, |sum, entry| {
        sum ^ entry
            .attributes()
            .map_or(0, |attributes| attributes.touch())
    }));
}

fn item<'c>(call: Call<'c>, what: Term<'c>) -> Result<Item, Fault> {
    Ok(match what {
        what if what.is(atoms::children()) => Item::Child,
        what if what.is(atoms::names()) => Item::Name,
        what if what.is(atoms::pids()) => Item::Pid,
        what if what.is(atoms::sizes()) => Item::Size,
        what if what.is(atoms::attributes()) => Item::Attributes(None),
        what if call.get_tuple(what).is_some() => tuple_item(call, what)?,
        keys => Item::Attributes(Some(attributes::to_keys(call, keys)?)),
    })
}

fn tuple_item<'c>(call: Call<'c>, what: Term<'c>) -> Result<Item, Fault> {
    match call.get_tuple(what) {
        Some([what, keys, conditions]) if what.is(atoms::rows()) => {
            let keys = match keys.is(atoms::all()) {
                true => None,
                false => Some(attributes::to_keys(call, *keys)?),
            };
            Ok(Item::Row(keys, to_conditions(call, *conditions)?))
        }
        Some([what, keys, conditions]) if what.is(atoms::fields()) => {
            let keys = attributes::to_keys(call, *keys)?;
            Ok(Item::Fields(keys, to_conditions(call, *conditions)?))
        }
        Some([what, key]) if what.is(atoms::integers()) => Ok(Item::Integer(call.to_key(*key)?)),
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

/// Makes name, pid and the values of some attributes of a row that has a running child and all of
/// these attributes.
fn fields_item<'c>(
    call: Call<'c>,
    entry: Entry<Copied>,
    keys: &Keys,
) -> Result<Option<Term<'c>>, Fault> {
    let mut fields = Fields::new();
    let made = while_running(call, entry, || {
        fields.clear();
        fields.extend([atom!(none), atom!(none)]);
        attributes::values(call, entry, keys, &mut fields)
    })?;
    let Some((pid, true)) = made else {
        return Ok(None);
    };
    fields[0] = call.make(&entry.name)?;
    fields[1] = pid;
    Ok(Some(call.tuple_of(&fields)))
}

/// Makes an attribute of a row that has a running child, if it is an integer.
fn integer_item<'c>(
    call: Call<'c>,
    entry: Entry<Copied>,
    key: &Datum<Copied>,
) -> Result<Option<Term<'c>>, Fault> {
    let made = while_running(call, entry, || {
        call.deduct(ROW_COST + call.cost_to_look_up(key))?;
        let attributes = entry.attributes();
        let value = attributes.as_ref().and_then(|map| map.get(key.borrow()));
        value.map_or(Ok(None), |value| call.make_integer(value.seen()))
    })?;
    Ok(made.and_then(|(_, integer)| integer))
}
