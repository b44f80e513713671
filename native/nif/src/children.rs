//! Children: starting, ending, finding.

use proctab_table::reclaim;
use proctab_table::row::{Child, Refused, State};
use proctab_terms::{Answer, Call, Copied, Fault, Scratch, Term};

use crate::atoms::{atom, boolean};
use crate::events::{deduct_death_cost, deduct_event_cost, send_birth, send_death};
use crate::lookup::{self, with_entry};

pub fn insert(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let name = call.to_key(call.argument(1)?)?;
    let is_launching = call.argument(4)?.is(crate::atoms::launching());
    let (state, pid) = match is_launching {
        true => (State::Launching, None),
        false => (State::Running, Some(call.child_pid(4)?)),
    };
    let child = Child {
        state,
        pid,
        keeper: call.pid(2)?,
        spec: Some(call.to_datum(call.argument(3)?)?),
    };
    if !is_launching {
        deduct_event_cost(call, zone)?;
    }
    let inserted = zone.insert(&name, child, &call.commit());
    if inserted && !is_launching {
        send_birth(call, zone, &name, call.argument(4)?);
    }
    Ok(boolean(inserted))
}

pub fn child(call: Call<'_>) -> Answer<'_> {
    with_entry(call, |_, entry| {
        match entry.and_then(|entry| entry.child()) {
            Some(child) => Ok(call.tuple(child_terms(call, &child)?)),
            None => Ok(atom!(undefined)),
        }
    })
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
        match entry.run(keeper, pid, &call.commit()) {
            Ok(()) => {
                send_birth(call, zone, &entry.name, call.argument(2)?);
                Ok(boolean(true))
            }
            Err(Refused::Stopping) => Ok(atom!(stopping)),
            Err(Refused::Gone) => Ok(boolean(false)),
        }
    })
}

pub fn terminating(call: Call<'_>) -> Answer<'_> {
    let keeper = call.caller();
    with_entry(call, |zone, entry| {
        let reason = deduct_death_cost(call, zone, call.argument(2)?)?;
        let changed = entry.map(|entry| entry.terminate(keeper, &call.commit()));
        let Some(Ok((pid, is_stopping))) = changed else {
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
    with_entry(call, |_, entry| {
        let committed = call.commit();
        let cleared = entry.is_some_and(|entry| entry.clear(keeper, state, &committed));
        Ok(boolean(cleared))
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
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let keeper = call.caller();
    Ok(boolean(zone.remove(name, keeper, &guard, &call.commit())))
}

pub fn unregister_name(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let keeper = call.pid(2)?;
    let reason = deduct_death_cost(call, zone, call.argument(3)?)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let child = zone.unregister(name, keeper, &guard, &call.commit());
    if let Some(child) = &child {
        send_death(call, zone, call.make_deducted_pid(child), reason);
        call.send(keeper, atom!(detached));
    }
    Ok(boolean(child.is_some()))
}

pub fn change_keeper(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let (keeper, new) = (call.pid(1)?, call.pid(2)?);
    let Some(row) = zone.row_of(keeper) else {
        return Ok(atom!(undefined));
    };
    let name = call.make(&row.name)?;
    match zone.change_keeper(&row, keeper, new, &call.commit()) {
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
