//! Children: starting, ending, finding.

use proctab_table::entry::Entry;
use proctab_table::reclaim;
use proctab_table::row::{Child, Claimed, Refused, Start, State};
use proctab_table::zone::Zone;
use proctab_terms::{Answer, Call, Copied, Fault, Scratch, Term};

use crate::atoms::{atom, boolean};
use crate::events::{
    deduct_claim_cost, deduct_death_cost, deduct_event_cost, send_birth, send_death, send_free,
    send_held,
};
use crate::index;
use crate::lookup::{self, with_entry, ZONE_HANDLES};
use crate::tables;
use crate::waiting::{deduct_birth_cost, wake_for_child};

pub fn insert(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let name = call.to_key(call.argument(1)?)?;
    let argument = call.argument(4)?;
    let (start, process) = match (start(argument), call.get_pair(argument)) {
        (Some(start), _) => (start, None),
        (None, Some((at, process))) if at.is(crate::atoms::home()) => (Start::Home, Some(process)),
        _ => (Start::Local, Some(argument)),
    };
    let is_launching = process.is_none();
    let (state, pid) = match process {
        None => (State::Launching, None),
        Some(process) => (State::Running, Some(call.to_child_pid(process)?)),
    };
    let child = Child {
        state,
        pid,
        keeper: call.pid(2)?,
        spec: Some(call.to_datum(call.argument(3)?)?),
    };
    if is_launching {
        deduct_claim_cost(call, zone)?;
    } else {
        deduct_event_cost(call, zone)?;
        deduct_birth_cost(call, zone, name.borrow())?;
    }
    let indexes = zone.indexes().filter(|_| !is_launching);
    call.deduct(indexes.map_or(0, index::cost_to_settle))?;
    let committed = call.commit();
    let inserted = match (start, is_launching) {
        (Start::Local, _) => zone.insert(&name, child, &committed),
        (Start::Home, true) => zone.launch(&name, child, start, &committed),
        (Start::Home, false) => zone.insert_at_home(&name, child, &committed),
    };
    match (&inserted, process) {
        (Claimed::Done, Some(process)) => {
            if let Some((indexes, entry)) = indexes.zip(zone.entry(name.borrow(), &guard)) {
                indexes.settle(entry, &committed);
            }
            send_birth(call, zone, &name, process);
            wake_for_child(call, zone, name.borrow(), &committed);
        }
        (Claimed::Done, None) => send_held(call, zone),
        (Claimed::NotHome, _) => send_free(call, zone),
        _ => (),
    }
    Ok(match inserted {
        Claimed::Done => boolean(true),
        Claimed::Full => atom!(full),
        Claimed::NotHome => atom!(not_home),
        Claimed::Held | Claimed::Stopping => boolean(false),
    })
}

/// Returns what start an atom stands for, if it does.
fn start(term: Term<'_>) -> Option<Start> {
    if term.is(crate::atoms::launching()) {
        return Some(Start::Local);
    }
    term.is(crate::atoms::home()).then_some(Start::Home)
}

/// Returns whether a name is free. If it is, makes what its keeper needs, unless the caller or its
/// parent is a keeper.
pub fn opening(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let table = tables::get::<Zone<Copied>>(call.atom(0)?, &guard)?;
    let zone = &table.content;
    // The spec must not be too large to be sent to the keeper.
    call.deduct_cost_to_send(call.argument(2)?)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    match zone.entry(name, &guard) {
        Some(entry) if entry.has_child() => Ok(atom!(held)),
        _ if is_keeper(zone, call.caller()) => Ok(atom!(callback)),
        _ if call.pid(3).is_ok_and(|parent| is_keeper(zone, parent)) => Ok(atom!(callback)),
        _ => {
            let tracker = zone.processes().tracker().ok_or(Fault::BadArgument)?;
            let handle = ZONE_HANDLES.make(call, table.clone());
            Ok(call.tuple([atom!(free), handle, call.immediate(tracker)]))
        }
    }
}

fn is_keeper(zone: &Zone<Copied>, process: u64) -> bool {
    zone.kept(process).is_some()
}

/// Inserts a child that the caller is about to start. Returns name and spec as they are stored, and
/// the context.
pub fn launch(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let name = call.to_key(call.argument(1)?)?;
    let spec = call.to_datum(call.argument(2)?)?;
    let start = start(call.argument(3)?).ok_or(Fault::BadArgument)?;
    let context = zone.content.context().ok_or(Fault::BadArgument)?;
    let made = [call.make(&name)?, call.make(&spec)?, call.make(context)?];
    let child = Child {
        state: State::Launching,
        pid: None,
        keeper: call.caller(),
        spec: Some(spec),
    };
    deduct_claim_cost(call, &zone.content)?;
    let launched = zone.content.launch(&name, child, start, &call.commit());
    Ok(match launched {
        Claimed::Done => {
            send_held(call, &zone.content);
            call.tuple(made)
        }
        Claimed::Held => atom!(held),
        Claimed::Full => atom!(full),
        Claimed::Stopping => atom!(stopping),
        Claimed::NotHome => {
            // The listener may have counted the child, which was there for a moment.
            send_free(call, &zone.content);
            atom!(not_home)
        }
    })
}

pub fn child(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |_, entry| {
        child_or_undefined(call, entry.and_then(|entry| entry.child()))
    })
}

pub fn await_start(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |_, entry| {
        child_or_undefined(call, entry.and_then(|entry| entry.await_start()))
    })
}

fn child_or_undefined(call: Call<'_>, child: Option<Child<Copied>>) -> Answer<'_> {
    match child {
        Some(child) => Ok(call.tuple(child_terms(call, &child)?)),
        None => Ok(atom!(undefined)),
    }
}

/// Returns name, state, pid and spec of the child of a keeper.
pub fn kept(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let Some((row, child)) = zone.content.kept(call.pid(1)?) else {
        return Ok(atom!(undefined));
    };
    let [state, pid, _, spec] = child_terms(call, &child)?;
    Ok(call.tuple([call.make(&row.name)?, state, pid, spec]))
}

/// Makes state, pid, keeper and spec of a child.
pub fn child_terms<'c>(call: Call<'c>, child: &Child<Copied>) -> Result<[Term<'c>; 4], Fault> {
    let pid = match &child.pid {
        Some(pid) => call.make_pid(pid)?,
        None => atom!(undefined),
    };
    let spec = match &child.spec {
        Some(spec) => call.make(spec)?,
        None => atom!(undefined),
    };
    let keeper = call.immediate(child.keeper);
    Ok([state(child.state), pid, keeper, spec])
}

fn state<'c>(state: State) -> Term<'c> {
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

pub fn running(call: Call<'_>) -> Answer<'_> {
    let (keeper, pid) = (call.caller(), call.child_pid(2)?);
    with_entry(call, |zone, entry| {
        let Some(entry) = entry else {
            return Ok(boolean(false));
        };
        deduct_event_cost(call, zone)?;
        deduct_birth_cost(call, zone, entry.name.borrow())?;
        let run = |entry: Entry<Copied>, committed: &_| entry.run(keeper, pid, committed);
        match index::begin(call, zone, entry, run)? {
            Ok(is_awaited) => {
                end_start(call, zone, keeper);
                send_birth(call, zone, &entry.name, call.argument(2)?);
                wake_for_child(call, zone, entry.name.borrow(), &call.commit());
                Ok(true_or_awaited(is_awaited))
            }
            Err(Refused::Stopping) => Ok(atom!(stopping)),
            Err(Refused::ZoneStopping) => Ok(atom!(zone_stopping)),
            Err(Refused::Gone) => Ok(boolean(false)),
        }
    })
}

/// Ends the reservation of the name that a keeper has started a child for.
fn end_start(call: Call<'_>, zone: &Zone<Copied>, keeper: u64) {
    zone.processes().reservations().end(keeper, &call.commit());
}

fn true_or_awaited<'c>(is_awaited: bool) -> Term<'c> {
    match is_awaited {
        true => atom!(awaited),
        false => boolean(true),
    }
}

pub fn terminating(call: Call<'_>) -> Answer<'_> {
    let keeper = call.caller();
    with_entry(call, |zone, entry| {
        let reason = deduct_death_cost(call, zone, call.argument(2)?)?;
        let Some(entry) = entry else {
            return Ok(boolean(false));
        };
        let terminate = |entry: Entry<Copied>, committed: &_| entry.terminate(keeper, committed);
        let Ok((pid, is_stopping)) = index::end(call, zone, entry, terminate)? else {
            return Ok(boolean(false));
        };
        if let Some(pid) = pid {
            send_death(call, zone, call.make_deducted_pid(&pid), reason);
        }
        Ok(if is_stopping {
            atom!(stopping)
        } else {
            boolean(true)
        })
    })
}

pub fn pending(call: Call<'_>) -> Answer<'_> {
    clear(call, State::Pending)
}

pub fn slowed(call: Call<'_>) -> Answer<'_> {
    clear(call, State::Slowed)
}

pub fn restarting(call: Call<'_>) -> Answer<'_> {
    clear(call, State::Restarting)
}

fn clear(call: Call<'_>, state: State) -> Answer<'_> {
    let keeper = call.caller();
    with_entry(call, |zone, entry| {
        let Some(entry) = entry else {
            return Ok(boolean(false));
        };
        let clear = |entry: Entry<Copied>, committed: &_| entry.clear(keeper, state, committed);
        let is_cleared = index::end(call, zone, entry, clear)?;
        end_start(call, zone, keeper);
        Ok(boolean(is_cleared))
    })
}

pub fn respec(call: Call<'_>) -> Answer<'_> {
    let keeper = call.caller();
    let spec = call.to_datum(call.argument(2)?)?;
    with_entry(call, |_, entry| {
        let changed = entry.is_some_and(|entry| entry.respec(keeper, spec, &call.commit()));
        Ok(boolean(changed))
    })
}

pub fn stop(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let keeper = call.pid(2)?;
    let entry = zone.content.entry(name, &guard);
    let stopped = entry.and_then(|entry| entry.stop(keeper, &call.commit()));
    Ok(stopped.map_or(boolean(false), state))
}

pub fn remove(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    deduct_claim_cost(call, zone)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let keeper = call.caller();
    let Some(entry) = zone.entry(name, &guard) else {
        return Ok(boolean(false));
    };
    let remove = |_, committed: &_| zone.remove(name, keeper, &guard, committed);
    let removed = index::end(call, zone, entry, remove)?;
    end_start(call, zone, keeper);
    if removed {
        send_free(call, zone);
    }
    Ok(boolean(removed))
}

pub fn failed(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    deduct_claim_cost(call, zone)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let Some(entry) = zone.entry(name, &guard) else {
        return Ok(boolean(false));
    };
    let fail = |_, committed: &_| zone.fail(name, call.caller(), &guard, committed);
    let removed = index::end(call, zone, entry, fail)?;
    end_start(call, zone, call.caller());
    if removed.is_ok() {
        send_free(call, zone);
    }
    Ok(removed.map_or(boolean(false), true_or_awaited))
}

pub fn unregister_name(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let keeper = call.pid(2)?;
    let reason = deduct_death_cost(call, zone, call.argument(3)?)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let Some(entry) = zone.entry(name, &guard) else {
        return Ok(boolean(false));
    };
    let unregister = |entry: Entry<Copied>, committed: &_| entry.unregister(keeper, committed);
    let child = index::end(call, zone, entry, unregister)?;
    if let Some(child) = &child {
        send_death(call, zone, call.make_deducted_pid(child), reason);
        // Only now is the name free, so that the next birth comes after this death. The row, which
        // is freed together with others, must not keep the values that it was found under.
        let remove = |_, committed: &_| zone.remove(name, keeper, &guard, committed);
        index::end(call, zone, entry, remove)?;
        send_free(call, zone);
        call.send(keeper, atom!(detached));
    }
    Ok(boolean(child.is_some()))
}

/// Gives the name of a running child to another process, and tells of the two as of the end of one
/// child and the beginning of another.
pub fn hand_over(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let (keeper, new, pid) = (call.pid(2)?, call.pid(3)?, call.child_pid(4)?);
    // One for each event.
    deduct_event_cost(call, zone)?;
    deduct_event_cost(call, zone)?;
    let name = call.to_key(call.argument(1)?)?;
    let committed = call.commit();
    let Some(before) = zone.hand_over(name.borrow(), keeper, new, pid, &guard, &committed) else {
        return Ok(boolean(false));
    };
    let before = call.make_deducted_pid(&before);
    send_death(call, zone, before, atom!(re_registered));
    send_birth(call, zone, &name, call.argument(4)?);
    call.send(keeper, atom!(detached));
    Ok(boolean(true))
}

pub fn change_keeper(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let (keeper, new) = (call.pid(1)?, call.pid(2)?);
    let Some(row) = zone.row_of(keeper) else {
        return Ok(atom!(undefined));
    };
    let name = call.make(&row.name)?;
    let is_changed = zone.change_keeper(&row, keeper, new, &call.commit());
    end_start(call, zone, keeper);
    match is_changed {
        true => Ok(call.tuple([atom!(ok), name])),
        false => Ok(atom!(undefined)),
    }
}

pub fn find(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |_, entry| match entry.and_then(|entry| entry.pid()) {
        Some(pid) => Ok(call.tuple([atom!(ok), call.make_pid(&pid)?])),
        None => Ok(atom!(undefined)),
    })
}

pub fn find_alive(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |_, entry| match entry.and_then(|entry| entry.pid()) {
        Some(pid) if call.may_be_alive(&pid)? => Ok(call.tuple([atom!(ok), call.make_pid(&pid)?])),
        _ => Ok(atom!(undefined)),
    })
}

pub fn may_be_alive(call: Call<'_>) -> Answer<'_> {
    Ok(boolean(call.may_be_alive(&call.child_pid(0)?)?))
}
