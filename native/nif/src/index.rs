//! Indexes: changes of indexed attributes, and lookups.

use std::time::{Duration, Instant};

use proctab_table::commit::Committed;
use proctab_table::datum::Borrowed;
use proctab_table::entry::Entry;
use proctab_table::index::{Index, Indexes, Member, Members, Plan, Planned, Revision, Values};
use proctab_table::reclaim::{self, Guard};
use proctab_table::zone::Zone;
use proctab_terms::{Answer, Call, Copied, Fault, Scratch, Term};

use crate::atoms::{self, atom};
use crate::lookup::{self, while_running};

/// Cost of adding a row to the rows that have a value, or of removing it, in words.
const PLACE_COST: usize = 16;
/// Indexes of a zone at most: each takes 8 KB, and a few words of each row.
const MAX_INDEXES: usize = 64;
/// Cost of making an index, in words.
const INDEX_COST: usize = 100;
/// Budget of a page, in words: a few hundred microseconds of work.
const PAGE_BUDGET: usize = 3_000;
/// Cost of a row or a value of a page, besides its terms, in words.
const ITEM_COST: usize = 8;
/// Rows that are read at once.
const ROWS: usize = 32;
/// After this time a page ends, whatever its budget.
const PAGE_TIME: Duration = Duration::from_micros(250);
/// How long a call waits on a normal scheduler for another change of the same row: longer than most
/// changes take. Then it moves to a dirty scheduler, where it waits for as long as it takes.
const PATIENCE: Duration = Duration::from_micros(100);

/// Converts the keys of indexes, each a key or `{each, Key}`. Returns `None` for no keys.
pub fn to_indexes<'c>(call: Call<'c>, list: Term<'c>) -> Result<Option<Indexes<Copied>>, Fault> {
    let mut keys = Vec::new();
    call.for_each_element(list, |element| {
        call.deduct(INDEX_COST)?;
        if keys.len() == MAX_INDEXES {
            return Err(Fault::BadArgument);
        }
        let (key, is_of_lists) = match call.get_pair(element) {
            Some((each, key)) if each.is(atoms::each()) => (key, true),
            _ => (element, false),
        };
        keys.push((call.to_key(key)?, is_of_lists));
        Ok(())
    })?;
    if keys.is_empty() {
        return Ok(None);
    }
    Indexes::new(keys).map(Some).ok_or(Fault::BadArgument)
}

pub fn check_keys(call: Call<'_>) -> Answer<'_> {
    to_indexes(call, call.argument(0)?)?;
    Ok(atom!(ok))
}

/// Returns the indexes of a zone, and that of this key, if it is indexed.
#[inline]
pub fn of<'z>(
    zone: &'z Zone<Copied>,
    key: Borrowed<'_, Copied>,
) -> Option<(&'z Indexes<Copied>, &'z Index<Copied>)> {
    let indexes = zone.indexes()?;
    Some((indexes, indexes.get(key)?))
}

/// Returns what a row will be found under in an index once the attribute has this value, and
/// deducts the cost of adding the row.
pub fn planned<'c>(
    call: Call<'c>,
    index: &Index<Copied>,
    value: Term<'c>,
) -> Result<Planned<Copied>, Fault> {
    let mut planned = planned_none(index);
    let mut add = |value| {
        call.deduct(PLACE_COST)?;
        planned.values.push(call.to_key(value)?);
        Ok(())
    };
    if !index.is_of_lists() {
        add(value)?;
        return Ok(planned);
    }
    match call.for_each_element(value, add) {
        Ok(()) => Ok(planned),
        // It is not a proper list.
        Err(Fault::BadArgument) => Ok(planned_none(index)),
        Err(fault) => Err(fault),
    }
}

/// Like [`planned`], for an integer.
pub fn planned_integer(call: Call<'_>, index: &Index<Copied>, value: i64) -> Planned<Copied> {
    let mut planned = planned_none(index);
    if !index.is_of_lists() {
        planned.values.push(call.integer_key(value));
    }
    planned
}

/// Like [`planned`], for an attribute that is deleted.
pub fn planned_none(index: &Index<Copied>) -> Planned<Copied> {
    Planned {
        position: index.position(),
        values: Values::new(),
    }
}

/// Begins a change of a row. Moves the call to a dirty scheduler if another change of that row is
/// in progress and takes long.
pub fn revise<'g>(
    call: Call<'_>,
    indexes: &'g Indexes<Copied>,
    entry: Entry<'g, Copied>,
) -> Result<Revision<'g, Copied>, Fault> {
    let may_wait = call.is_dirty() || call.allow(usize::MAX).is_ok();
    let patience = (!may_wait).then_some(PATIENCE);
    indexes.revise(entry, patience).ok_or(Fault::Reschedule)
}

/// Makes a change of indexed attributes, which sets them to what is planned. `plan` is called when
/// no other change of the row is in progress. `change` returns whether it has changed anything.
pub fn write<'g, T>(
    call: Call<'_>,
    indexes: &'g Indexes<Copied>,
    entry: Entry<'g, Copied>,
    plan: impl FnOnce(Entry<'g, Copied>) -> Plan<Copied>,
    change: impl FnOnce(Entry<'g, Copied>, &Committed) -> (T, bool),
) -> Result<T, Fault> {
    let revision = revise(call, indexes, entry)?;
    let plan = plan(entry);
    let places = plan.iter().map(|planned| revision.places(planned.position));
    call.deduct(PLACE_COST * places.sum::<usize>())?;
    let committed = call.commit();
    Ok(revision.write(plan, |entry| change(entry, &committed), &committed))
}

/// Makes a change after which a child may run.
pub fn begin<'g, T>(
    call: Call<'_>,
    zone: &'g Zone<Copied>,
    entry: Entry<'g, Copied>,
    change: impl FnOnce(Entry<'g, Copied>, &Committed) -> T,
) -> Result<T, Fault> {
    let Some(revision) = revise_all(call, zone, entry)? else {
        return Ok(change(entry, &call.commit()));
    };
    let cost = |value| call.cost_to_look_up(value);
    call.deduct(revision.unlisted().map(cost).sum())?;
    let committed = call.commit();
    Ok(revision.begin(|entry| change(entry, &committed), &committed))
}

/// Makes a change after which a child may have ended, or its attributes may be gone.
pub fn end<'g, T>(
    call: Call<'_>,
    zone: &'g Zone<Copied>,
    entry: Entry<'g, Copied>,
    change: impl FnOnce(Entry<'g, Copied>, &Committed) -> T,
) -> Result<T, Fault> {
    let Some(revision) = revise_all(call, zone, entry)? else {
        return Ok(change(entry, &call.commit()));
    };
    let committed = call.commit();
    Ok(revision.end(|entry| change(entry, &committed), &committed))
}

/// Returns the cost of listing a row that had no child and has one that runs, in words.
pub fn cost_to_settle(indexes: &Indexes<Copied>) -> usize {
    PLACE_COST * indexes.count()
}

/// Begins a change of all that is indexed of a row, and deducts its cost. Returns `None` if the
/// zone has no indexes.
fn revise_all<'g>(
    call: Call<'_>,
    zone: &'g Zone<Copied>,
    entry: Entry<'g, Copied>,
) -> Result<Option<Revision<'g, Copied>>, Fault> {
    let Some(indexes) = zone.indexes() else {
        return Ok(None);
    };
    let revision = revise(call, indexes, entry)?;
    call.deduct(PLACE_COST * revision.all_places() + indexes.count())?;
    Ok(Some(revision))
}

/// Returns the zone and its index of the key that is the second argument. Fails if the key is not
/// indexed.
fn index<'g>(
    call: Call<'_>,
    guard: &'g Guard,
) -> Result<(&'g Zone<Copied>, &'g Index<Copied>), Fault> {
    let zone = lookup::zone(call, guard)?;
    let mut scratch = Scratch::new();
    let key = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let index = zone.indexes().and_then(|indexes| indexes.get(key));
    Ok((zone, index.ok_or(Fault::BadArgument)?))
}

/// The value of a lookup: the term, and its form as a key.
#[derive(Clone, Copy)]
struct Wanted<'c, 's> {
    term: Term<'c>,
    key: Borrowed<'s, Copied>,
}

/// Makes the running children that have a value, from a slot on, each prepended to the accumulator,
/// and the slot to go on from.
///
/// A page ends when its budget is used up, or its time on a normal scheduler.
pub fn lookup(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let (zone, index) = index(call, &guard)?;
    let from = call.get_integer(call.argument(3)?);
    let from = from.and_then(|from| u32::try_from(from).ok());
    let mut from = from.ok_or(Fault::BadArgument)?;
    let what = call.argument(4)?;
    let with_names = what.is(atoms::children());
    if !with_names && !what.is(atoms::pids()) {
        return Err(Fault::BadArgument);
    }
    let mut items = call.argument(5)?;
    let term = call.argument(2)?;
    let mut scratch = Scratch::new();
    let key = call.lookup_key(term, &mut scratch)?;
    let wanted = Wanted { term, key };
    // The value is converted for each page, and must leave enough for more than a few rows.
    call.allow(PAGE_BUDGET)?;
    let end = call.budget() - PAGE_BUDGET;
    let (mut begin, mut is_first) = (None, true);
    loop {
        let mut rows = Members::new();
        let next = index.page(key, from, ROWS, &mut rows, &guard);
        for Member { row, pid } in &rows {
            let made = call.deduct(ITEM_COST).and_then(|()| {
                let entry = zone.entry_of(row, &guard);
                let pid = match pid {
                    Some(pid) => Some(call.immediate(*pid)),
                    None => pid_with(call, index, entry, wanted)?,
                };
                let with_name = |pid| Ok(call.tuple([call.make(&row.name)?, pid]));
                pid.map(|pid| if with_names { with_name(pid) } else { Ok(pid) })
                    .transpose()
            });
            match made {
                Ok(made) => items = made.map_or(items, |made| call.cons(made, items)),
                Err(Fault::Reschedule) if !is_first => {
                    return Ok(call.tuple([items, call.integer(i64::from(row.slot))]));
                }
                Err(fault) => return Err(fault),
            }
            is_first = false;
        }
        let Some(next) = next else {
            return Ok(call.tuple([items, atom!(done)]));
        };
        let is_late = begin.get_or_insert_with(Instant::now).elapsed() > PAGE_TIME;
        if call.budget() < end || is_late && !call.is_dirty() {
            return Ok(call.tuple([items, call.integer(i64::from(next))]));
        }
        from = next;
    }
}

/// Makes the pid of the running child of a row if the attribute has the value now.
fn pid_with<'c>(
    call: Call<'c>,
    index: &Index<Copied>,
    entry: Entry<Copied>,
    wanted: Wanted<'c, '_>,
) -> Result<Option<Term<'c>>, Fault> {
    let made = while_running(call, entry, || {
        call.deduct(ITEM_COST)?;
        let attributes = entry.attributes();
        let value = attributes
            .as_ref()
            .and_then(|map| map.get(index.key().borrow()));
        match value {
            Some(value) if index.is_of_lists() => call.is_list_with(value.seen(), wanted.term),
            Some(value) => call.is_value(value.seen(), wanted.key, wanted.term),
            None => Ok(false),
        }
    })?;
    Ok(made.and_then(|(pid, has_value)| has_value.then_some(pid)))
}

pub fn count(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let (_, index) = index(call, &guard)?;
    let mut scratch = Scratch::new();
    let value = call.lookup_key(call.argument(2)?, &mut scratch)?;
    Ok(call.integer(index.count(value, &guard) as i64))
}

/// Makes a list of the keys of all indexes, each `{each, Key}` if its values are lists.
pub fn indexes(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let mut list = call.nil();
    for index in zone.indexes().into_iter().flat_map(Indexes::all) {
        let key = call.make(index.key())?;
        let key = match index.is_of_lists() {
            true => call.tuple([atom!(each), key]),
            false => key,
        };
        list = call.cons(key, list);
    }
    Ok(list)
}

/// Counts the values of an index, the places of children under them, and the bytes of both, from a
/// shard on. Makes the three figures and the shard to go on from.
pub fn index_page(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let (_, index) = index(call, &guard)?;
    let from = call.get_integer(call.argument(2)?);
    let from = from.and_then(|from| usize::try_from(from).ok());
    let from = from.ok_or(Fault::BadArgument)?;
    call.allow(PAGE_BUDGET)?;
    let end = call.budget() - PAGE_BUDGET;
    let begin = Instant::now();
    let own = if from == 0 { index.own_size() } else { 0 };
    let mut figures = [0, 0, own];
    let mut next = atom!(done);
    for shard in from..index.shards() {
        let mut more = figures;
        let counted = index.sizes(shard, &guard, |count, bytes| {
            call.deduct(ITEM_COST)?;
            more = [more[0] + 1, more[1] + count, more[2] + bytes];
            Ok(())
        });
        match counted {
            Ok(()) => figures = more,
            // The shard is read at once, in a call of its own.
            Err(Fault::Reschedule) if shard > from => {
                next = call.integer(shard as i64);
                break;
            }
            Err(fault) => return Err(fault),
        }
        let is_late = begin.elapsed() > PAGE_TIME && !call.is_dirty();
        if (call.budget() < end || is_late) && shard + 1 < index.shards() {
            next = call.integer(shard as i64 + 1);
            break;
        }
    }
    let [values, places, bytes] = figures.map(|figure| call.integer(figure as i64));
    Ok(call.tuple([values, places, bytes, next]))
}

/// Makes the values of an index with the numbers of children that have them, from a shard on, each
/// prepended to the accumulator, and the shard to go on from.
pub fn values_page(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let (_, index) = index(call, &guard)?;
    let from = call.get_integer(call.argument(2)?);
    let from = from.and_then(|from| usize::try_from(from).ok());
    let from = from.ok_or(Fault::BadArgument)?;
    let mut items = call.argument(3)?;
    call.allow(PAGE_BUDGET)?;
    let end = call.budget() - PAGE_BUDGET;
    let begin = Instant::now();
    for shard in from..index.shards() {
        let before = items;
        let made = call.deduct(1).and_then(|()| {
            index.values(shard, &guard, |value, count| {
                call.deduct(ITEM_COST)?;
                let item = call.tuple([call.make(value)?, call.integer(count as i64)]);
                items = call.cons(item, items);
                Ok(())
            })
        });
        match made {
            Ok(()) => (),
            // The shard is read at once, in a call of its own.
            Err(Fault::Reschedule) if shard > from => {
                return Ok(call.tuple([before, call.integer(shard as i64)]));
            }
            Err(fault) => return Err(fault),
        }
        let is_late = begin.elapsed() > PAGE_TIME && !call.is_dirty();
        if (call.budget() < end || is_late) && shard + 1 < index.shards() {
            return Ok(call.tuple([items, call.integer(shard as i64 + 1)]));
        }
    }
    Ok(call.tuple([items, atom!(done)]))
}
