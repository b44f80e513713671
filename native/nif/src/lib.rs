//! The native half of the OTP application `proctab`: the functions that the Erlang module `proctab_nif` exports.
//!
//! Each function takes its arguments apart, does one thing in a table, and makes its answer. What terms look like is said in [`conversion`], how a
//! call starts and fails in [`call`], and to whom tables belong in [`tables`]; what the functions on
//! tables of processes do stands in [`processes`], who is told of what happens in a zone in [`events`], and what processes hold in [`handles`]. The documentation of the functions is in
//! `proctab_nif.erl`.

#![deny(unsafe_op_in_unsafe_fn)]

#[path = "../../terms/src/binaries.rs"]
mod binaries;
#[path = "../../terms/src/call.rs"]
mod call;
#[path = "../../terms/src/call_times.rs"]
mod call_times;
#[path = "../../terms/src/conversion.rs"]
mod conversion;
#[path = "../../terms/src/copied.rs"]
mod copied;
#[path = "../../terms/src/cost.rs"]
mod cost;
#[path = "../../terms/src/encoding.rs"]
mod encoding;
mod events;
mod handles;
mod processes;
mod tables;

use std::collections::HashSet;

use rustler::sys::ErlNifTerm;

use proctab_table::attributes::{Attribute, Changes};
use proctab_table::datum::Datum;
use proctab_table::processes::Processes;
use proctab_table::reclaim::{self, Guard};
use proctab_table::row::{Child, Refused, Replaced, Row, State, TooMany, Void};
use proctab_table::value::{Added, Value};
use proctab_table::zone::Zone;
use proctab_table::Seed;

use call::{export, Answer, Call, Fault};
use copied::Copied;
use encoding::Scratch;

mod atoms {
    rustler::atoms! {
        attributes, begun, busy, children, current, done, down, large, launching, monitor, names, nif_panicked, ok, pending, pid, pids,
        processes, registered, restarting, running, sizes, slowed, stopping, terminating, undefined, up, void, zone,
        cast = "$gen_cast",
        detached = "$proctab_detached",
        woken = "$proctab_woken",
        yes = "true",
        no = "false",
    }
}

/// The term of an atom.
macro_rules! atom {
    ($name:ident) => {
        $crate::atoms::$name().as_c_arg()
    };
}
use atom;

export! {
    zone_open/1, zone_stop/1, zone_close/1, tables/0, owner/1, count/1,
    insert/5, child/2, kept/2, running/3, terminating/3, pending/2, slowed/2, restarting/2, respec/3, stop/3, remove/2,
    unregister_name/4,
    change_keeper/3, find/2, find_alive/2, getattr/3, setattr/3, setattr/4, set_missing/4, replace/5, cas/5, delattr/3, increment/4, increment/5,
    attrs/2, attrs/3, page/4,
}

fn load(env: rustler::Env, _: rustler::Term) -> bool {
    let env = env.as_c_arg();
    conversion::learn(env);
    // SAFETY: it is the environment of the VM's call.
    unsafe { binaries::learn(env) };
    copied::draw_salt();
    // SAFETY: the module is being loaded, in this environment.
    unsafe { tables::HANDLES.open(env) && events::WAITS.open(env) }
}

rustler::init!("proctab_nif", load = load);

fn zone_open(call: &Call) -> Answer {
    call.open_zone()
}

fn zone_stop(call: &Call) -> Answer {
    let guard = reclaim::enter();
    call.zone_table(&guard)?.content.stop(&call.commit());
    Ok(atom!(ok))
}

fn zone_close(call: &Call) -> Answer {
    call.close_zone()?;
    Ok(atom!(ok))
}

fn tables(call: &Call) -> Answer {
    let zones = call.owners::<Zone<Copied>>(atom!(zone), call.nil())?;
    call.owners::<Processes<Copied>>(atom!(processes), zones)
}

fn owner(call: &Call) -> Answer {
    call.zone_owner()
}

fn count(call: &Call) -> Answer {
    let guard = reclaim::enter();
    Ok(call.integer(call.named::<Zone<Copied>>(&guard)?.count() as i64))
}

fn insert(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let zone = call.named::<Zone<Copied>>(&guard)?;
    let name = call.owned_key(call.argument(1)?)?;
    let launching = call.argument(4)? == atom!(launching);
    let child = Child {
        state: if launching {
            State::Launching
        } else {
            State::Running
        },
        pid: match launching {
            true => None,
            false => Some(call.child_pid(4)?),
        },
        keeper: call.pid(2)?,
        spec: Some(call.datum(call.argument(3)?)?),
    };
    if !launching {
        call.allow_telling(zone)?;
    }
    let inserted = zone.insert(&name, child, &call.commit());
    if inserted && !launching {
        call.tell_up(zone, &name, call.argument(4)?);
    }
    Ok(boolean(inserted))
}

fn child(call: &Call) -> Answer {
    with_row(call, |_, row, _| match row.and_then(Row::child) {
        Some(child) => Ok(call.tuple(child_terms(call, &child)?)),
        None => Ok(atom!(undefined)),
    })
}

/// Name, state, pid and spec of a keeper's child.
fn kept(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let table = call.zone_table(&guard)?;
    let Some((row, child)) = table.content.kept(call.pid(1)?) else {
        return Ok(atom!(undefined));
    };
    let [state, pid, _, spec] = child_terms(call, &child)?;
    Ok(call.tuple([call.make(&row.name)?, state, pid, spec]))
}

/// State, pid, keeper and spec of a child.
fn child_terms(call: &Call, child: &Child<Copied>) -> Result<[ErlNifTerm; 4], Fault> {
    let pid = match &child.pid {
        Some(pid) => call.make_pid(pid)?,
        None => atom!(undefined),
    };
    let spec = match &child.spec {
        Some(spec) => call.make(spec)?,
        None => atom!(undefined),
    };
    Ok([state(child.state), pid, call.word(child.keeper), spec])
}

fn state(state: State) -> ErlNifTerm {
    match state {
        State::Launching => atom!(launching),
        State::Running => atom!(running),
        State::Terminating => atom!(terminating),
        State::Pending => atom!(pending),
        State::Slowed => atom!(slowed),
        State::Restarting => atom!(restarting),
        State::Vacant | State::Removed => atom!(undefined),
    }
}

fn running(call: &Call) -> Answer {
    let (keeper, pid) = (call.caller(), call.child_pid(2)?);
    with_row(call, |zone, row, _| {
        let Some(row) = row else {
            return Ok(boolean(false));
        };
        call.allow_telling(zone)?;
        Ok(
            match row.run(keeper, pid, zone.stopping(), &call.commit()) {
                Ok(()) => {
                    call.tell_up(zone, &row.name, call.argument(2)?);
                    boolean(true)
                }
                Err(Refused::Stopping) => atom!(stopping),
                Err(Refused::Gone) => boolean(false),
            },
        )
    })
}

fn terminating(call: &Call) -> Answer {
    let keeper = call.caller();
    with_row(call, |zone, row, _| {
        let reason = call.allow_telling_reason(zone, call.argument(2)?)?;
        let changed = row.map(|row| row.terminate(keeper, zone.stopping(), &call.commit()));
        let Some(Ok((pid, is_stopping))) = changed else {
            return Ok(boolean(false));
        };
        if let Some(pid) = pid {
            call.tell_down(zone, call.write_pid(&pid), reason);
        }
        Ok(if is_stopping {
            atom!(stopping)
        } else {
            boolean(true)
        })
    })
}

fn pending(call: &Call) -> Answer {
    clear(call, State::Pending)
}

fn slowed(call: &Call) -> Answer {
    clear(call, State::Slowed)
}

fn restarting(call: &Call) -> Answer {
    clear(call, State::Restarting)
}

fn clear(call: &Call, state: State) -> Answer {
    let keeper = call.caller();
    with_row(call, |zone, row, guard| {
        let committed = call.commit();
        let cleared =
            row.is_some_and(|row| row.clear(keeper, state, zone.stopping(), guard, &committed));
        Ok(boolean(cleared))
    })
}

fn respec(call: &Call) -> Answer {
    let keeper = call.caller();
    let spec = call.datum(call.argument(2)?)?;
    with_row(call, |_, row, _| {
        let changed = row.is_some_and(|row| row.respec(keeper, spec, &call.commit()));
        Ok(boolean(changed))
    })
}

fn stop(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let table = call.zone_table(&guard)?;
    let mut scratch = Scratch::new();
    let name = call.key(call.argument(1)?, &mut scratch)?;
    let keeper = call.pid(2)?;
    let row = table.content.row(name, &guard);
    let stopped = row.and_then(|row| row.stop(keeper, &call.commit()));
    Ok(stopped.map_or(boolean(false), state))
}

fn remove(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let zone = call.named::<Zone<Copied>>(&guard)?;
    let mut scratch = Scratch::new();
    let name = call.key(call.argument(1)?, &mut scratch)?;
    let keeper = call.caller();
    Ok(boolean(zone.remove(name, keeper, &guard, &call.commit())))
}

fn unregister_name(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let zone = call.named::<Zone<Copied>>(&guard)?;
    let keeper = call.pid(2)?;
    let reason = call.allow_telling_reason(zone, call.argument(3)?)?;
    let mut scratch = Scratch::new();
    let name = call.key(call.argument(1)?, &mut scratch)?;
    let child = zone.unregister(name, keeper, &guard, &call.commit());
    if let Some(child) = &child {
        call.tell_down(zone, call.write_pid(child), reason);
        call.send(keeper, atom!(detached));
    }
    Ok(boolean(child.is_some()))
}

fn change_keeper(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let zone = call.named::<Zone<Copied>>(&guard)?;
    let (keeper, new) = (call.pid(1)?, call.pid(2)?);
    let Some(row) = zone.row_of(keeper) else {
        return Ok(atom!(undefined));
    };
    let name = call.make(&row.name)?;
    Ok(
        match zone.change_keeper(&row, keeper, new, &call.commit()) {
            true => call.tuple([atom!(ok), name]),
            false => atom!(undefined),
        },
    )
}

fn find(call: &Call) -> Answer {
    with_row(call, |_, row, _| match row.and_then(Row::pid) {
        Some(pid) => Ok(call.tuple([atom!(ok), call.make_pid(&pid)?])),
        None => Ok(atom!(undefined)),
    })
}

fn find_alive(call: &Call) -> Answer {
    with_row(call, |_, row, _| match row.and_then(Row::pid) {
        Some(pid) if call.may_be_alive(&pid)? => Ok(call.tuple([atom!(ok), call.make_pid(&pid)?])),
        _ => Ok(atom!(undefined)),
    })
}

fn getattr(call: &Call) -> Answer {
    with_row(call, |zone, row, guard| {
        let mut scratch = Scratch::new();
        let key = call.key(call.argument(2)?, &mut scratch)?;
        let attributes = row.and_then(|row| row.attributes(guard));
        match attributes
            .as_ref()
            .and_then(|map| map.get(key, zone.seed()))
        {
            Some(value) => Ok(call.tuple([atom!(ok), call.make_value(value)?])),
            None => Ok(atom!(undefined)),
        }
    })
}

fn setattr(call: &Call) -> Answer {
    let changes = match call.argument(3) {
        Ok(value) => Changes::from_iter([call.attribute(call.argument(2)?, value)?]),
        Err(_) => changes(call, call.argument(2)?)?,
    };
    with_row(call, |zone, row, guard| {
        let Some(row) = row else {
            return Ok(atom!(void));
        };
        let adds = || {
            row.attributes(guard).is_none_or(|known| {
                let is_missing =
                    |change: &Attribute<_>| known.get(change.key.borrow(), zone.seed()).is_none();
                changes.iter().any(is_missing)
            })
        };
        call.allow_waking(zone, &row.name, adds)?;
        let committed = call.commit();
        match row.set(changes, zone.seed(), guard, &committed) {
            Ok(grown) => {
                if grown {
                    call.wake(zone, &row.name, &committed);
                }
                Ok(atom!(ok))
            }
            Err(Void) => Ok(atom!(void)),
        }
    })
}

/// The pairs of a list as attributes; its other elements are passed over.
fn changes(call: &Call, list: ErlNifTerm) -> Result<Changes<Copied>, Fault> {
    let mut changes = Changes::new();
    call.for_each_element(list, |element| {
        if let Some((key, value)) = call.pair(element) {
            changes.push(call.attribute(key, value)?);
        }
        Ok(())
    })?;
    Ok(changes)
}

fn set_missing(call: &Call) -> Answer {
    let added = add_or_set(call, 0, call.argument(3)?)?;
    Ok(boolean(added == Added::Missing))
}

fn replace(call: &Call) -> Answer {
    Ok(boolean(matches!(exchange(call, false)?, Replaced::Done)))
}

fn cas(call: &Call) -> Answer {
    Ok(match exchange(call, true)? {
        Replaced::Done => atom!(ok),
        Replaced::Not(value) => call.tuple([atom!(current), call.make_value(&value)?]),
        Replaced::Missing => atom!(undefined),
        Replaced::Void => atom!(void),
    })
}

/// Replaces the value of an attribute where it is the expected one.
fn exchange(call: &Call, of_child: bool) -> Result<Replaced<Copied>, Fault> {
    let change = call.attribute(call.argument(2)?, call.argument(4)?)?;
    let expected = call.value(call.argument(3)?)?;
    let is_expected = |current: &Value<Copied>| match (current, &expected) {
        (Value::Integer(current), Value::Integer(expected)) => current.get() == expected.get(),
        (Value::Fixed(current), Value::Fixed(expected)) => current == expected,
        _ => false,
    };
    with_row(call, |zone, row, guard| {
        let Some(row) = row else {
            return Ok(match of_child {
                true => Replaced::Void,
                false => Replaced::Missing,
            });
        };
        let committed = call.commit();
        let replaced = row.replace(
            change,
            is_expected,
            of_child,
            zone.seed(),
            guard,
            &committed,
        );
        if !matches!(replaced, Replaced::Done) {
            call.take_back(committed);
        }
        Ok(replaced)
    })
}

fn delattr(call: &Call) -> Answer {
    with_row(call, |zone, row, guard| {
        let mut scratch = Scratch::new();
        let key = call.key(call.argument(2)?, &mut scratch)?;
        if let Some(row) = row {
            zone.delete(row, key, guard, &call.commit());
        }
        Ok(atom!(ok))
    })
}

fn increment(call: &Call) -> Answer {
    let term = call.argument(3)?;
    let increment = call.get_integer(term);
    let missing = call.argument(4);
    if !call.is_integer(term) || missing.is_ok_and(|value| !call.is_integer(value)) {
        return Err(Fault::BadArgument);
    }
    let added = with_row(call, |zone, row, guard| {
        let mut scratch = Scratch::new();
        let key = call.key(call.argument(2)?, &mut scratch)?;
        let (Some(row), Some(increment)) = (row, increment) else {
            return Ok(match increment {
                Some(_) => Added::Missing,
                None => Added::NotCounted,
            });
        };
        let committed = call.commit();
        let added = row.add(key, increment, zone.seed(), guard, &committed);
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

/// Adds to an attribute, or sets it to `value` when it is not there.
fn add_or_set(call: &Call, increment: i64, value: ErlNifTerm) -> Result<Added, Fault> {
    let guard = reclaim::enter();
    let zone = call.named::<Zone<Copied>>(&guard)?;
    let name = call.owned_key(call.argument(1)?)?;
    let missing = call.attribute(call.argument(2)?, value)?;
    call.allow_waking(zone, &name, || true)?;
    let committed = call.commit();
    let added = zone.add_or_set(&name, increment, &missing, &guard, &committed);
    if added == Added::Missing {
        call.wake(zone, &name, &committed);
    }
    Ok(added)
}

fn attrs(call: &Call) -> Answer {
    let wanted = match call.argument(2) {
        Ok(keys) => Some(wanted(call, keys)?),
        Err(_) => None,
    };
    with_row(call, |_, row, guard| match row {
        Some(row) => attributes(call, row, wanted.as_ref(), guard),
        None => Ok(call.nil()),
    })
}

/// The rows from a slot on, each put before the accumulator, and the slot to go on from.
fn page(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let table = call.zone_table(&guard)?;
    let from = call.get_integer(call.argument(1)?);
    let from = from.and_then(|from| u32::try_from(from).ok());
    let what = call.argument(2)?;
    let kinds = [
        atom!(children),
        atom!(names),
        atom!(pids),
        atom!(sizes),
        atom!(attributes),
    ];
    let wanted = match kinds.contains(&what) {
        true => None,
        false => Some(wanted(call, what)?),
    };
    // What is wanted is converted for each page, so that it must not leave room for a few rows alone.
    call.allow(PAGE_COST)?;
    let mut items = call.argument(3)?;
    let (rows, next) = table.content.page(from.ok_or(Fault::BadArgument)?);
    let mut next = next.map_or(atom!(done), |next| call.integer(i64::from(next)));
    let full = call.left() - PAGE_COST;
    for (place, row) in rows.iter().enumerate() {
        let item = call.spend(ROW_COST).and_then(|()| match what {
            what if what == atom!(children) => child_item(call, row),
            what if what == atom!(names) => name_item(call, row),
            what if what == atom!(pids) => pid_item(call, row),
            what if what == atom!(sizes) => size_item(call, row, &guard),
            _ => attributes_item(call, row, wanted.as_ref(), &guard),
        });
        match item {
            Ok(Some(item)) => items = call.cons(item, items),
            Ok(None) => (),
            // Too long for this page, but perhaps not for one of its own.
            Err(Fault::Reschedule) if place > 0 => {
                next = call.integer(i64::from(row.slot));
                break;
            }
            Err(fault) => return Err(fault),
        }
        if call.left() < full {
            if let Some(row) = rows.get(place + 1) {
                next = call.integer(i64::from(row.slot));
            }
            break;
        }
    }
    Ok(call.tuple([items, next]))
}

/// What a page may cost, and what a row costs besides its attributes, in words of terms. A full page takes some hundred microseconds.
const PAGE_COST: usize = 3_000;
const ROW_COST: usize = 16;

/// Name, state, pid, keeper and spec of a row's child.
fn child_item(call: &Call, row: &Row<Copied>) -> Result<Option<ErlNifTerm>, Fault> {
    let Some(child) = row.child() else {
        return Ok(None);
    };
    let [state, pid, keeper, spec] = child_terms(call, &child)?;
    let name = call.make(&row.name)?;
    Ok(Some(call.tuple([name, state, pid, keeper, spec])))
}

/// Name of a row's child.
fn name_item(call: &Call, row: &Row<Copied>) -> Result<Option<ErlNifTerm>, Fault> {
    match row.has_child() {
        true => Ok(Some(call.make(&row.name)?)),
        false => Ok(None),
    }
}

/// Name and pid of a row whose child runs.
fn pid_item(call: &Call, row: &Row<Copied>) -> Result<Option<ErlNifTerm>, Fault> {
    let Some(pid) = row.pid() else {
        return Ok(None);
    };
    let name = call.make(&row.name)?;
    Ok(Some(call.tuple([name, call.make_pid(&pid)?])))
}

/// Name of a row, its pid, how many attributes it has, and how many bytes it takes.
fn size_item(call: &Call, row: &Row<Copied>, guard: &Guard) -> Result<Option<ErlNifTerm>, Fault> {
    let size = row.size(call.left() / LOOK_COST, guard);
    let (count, bytes) = size.map_err(|TooMany| Fault::Reschedule)?;
    call.spend(count * LOOK_COST)?;
    let pid = match row.pid() {
        Some(pid) => call.make_pid(&pid)?,
        None => atom!(undefined),
    };
    let [count, bytes] = [count, bytes].map(|number| call.integer(number as i64));
    Ok(Some(call.tuple([call.make(&row.name)?, pid, count, bytes])))
}

/// Name and attributes of a row whose child runs.
fn attributes_item(
    call: &Call,
    row: &Row<Copied>,
    wanted: Option<&Wanted>,
    guard: &Guard,
) -> Result<Option<ErlNifTerm>, Fault> {
    let Some(pid) = row.pid() else {
        return Ok(None);
    };
    let attributes = attributes(call, row, wanted, guard)?;
    let term = call.make_pid(&pid)?;
    if row.pid() != Some(pid) {
        // The child died meanwhile, and these may not be all of its attributes.
        return Ok(None);
    }
    let pid = call.tuple([atom!(pid), term]);
    let attributes = call.cons(pid, attributes);
    let name = call.make(&row.name)?;
    Ok(Some(call.tuple([name, attributes])))
}

/// What an attribute costs: to be looked at, and to be put into a list as a pair.
const LOOK_COST: usize = 1;
const PAIR_COST: usize = 5;

/// The attributes of a row at one moment as a list of pairs: all, or those whose keys are wanted.
fn attributes(call: &Call, row: &Row<Copied>, wanted: Option<&Wanted>, guard: &Guard) -> Answer {
    let least = match wanted {
        Some(_) => LOOK_COST,
        None => LOOK_COST + PAIR_COST,
    };
    let snapshot = row.snapshot(call.left() / least, guard);
    let Some((attributes, integers)) = snapshot.map_err(|TooMany| Fault::Reschedule)? else {
        return Ok(call.nil());
    };
    let is_wanted = |key| wanted.is_none_or(|wanted| wanted.contains(key));
    let mut cost = 0;
    attributes.for_each(&mut |Attribute { key, value }| {
        cost += LOOK_COST;
        if is_wanted(key) {
            cost += PAIR_COST + call.cost(key);
            cost += match value {
                Value::Fixed(datum) => call.cost(datum),
                Value::Integer(_) => 1,
            };
        }
    });
    call.spend(cost)?;
    let mut list = call.nil();
    let mut put = |key, value| list = call.cons(call.tuple([call.write(key), value]), list);
    let mut integers = integers.into_iter();
    attributes.for_each(&mut |Attribute { key, value }| match value {
        Value::Integer(counter) => {
            let integer = integers.next().unwrap_or_else(|| counter.get());
            if is_wanted(key) {
                put(key, call.integer(integer));
            }
        }
        Value::Fixed(datum) if is_wanted(key) => put(key, call.write(datum)),
        Value::Fixed(_) => (),
    });
    Ok(list)
}

/// The keys that a caller wants to see.
type Wanted = HashSet<Datum<Copied>, Seed>;

fn wanted(call: &Call, keys: ErlNifTerm) -> Result<Wanted, Fault> {
    let mut wanted = Wanted::default();
    call.for_each_element(keys, |key| {
        wanted.insert(call.owned_key(key)?);
        Ok(())
    })?;
    Ok(wanted)
}

/// Looks up the row that the first two arguments name, and does something with it.
#[inline(always)]
fn with_row<T>(
    call: &Call,
    run: impl FnOnce(&Zone<Copied>, Option<&Row<Copied>>, &Guard) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let guard = reclaim::enter();
    let zone = call.named::<Zone<Copied>>(&guard)?;
    let mut scratch = Scratch::new();
    let name = call.key(call.argument(1)?, &mut scratch)?;
    run(zone, zone.row(name, &guard), &guard)
}

fn boolean(boolean: bool) -> ErlNifTerm {
    if boolean {
        atom!(yes)
    } else {
        atom!(no)
    }
}
