//! Registered processes, and the registrars that watch them.

use proctab_table::claims::Directory;
use proctab_table::reclaim;
use proctab_table::row::{Child, Claimed, Pid, Start, State};
use proctab_table::zone::Zone;
use proctab_table::zone_processes::{ZoneProcesses, REGISTRARS};
use proctab_terms::reading::Purpose;
use proctab_terms::{Answer, Call, Copied, Fault, Scratch};

use crate::atoms::{self, atom, boolean};
use crate::events::{deduct_event_cost, secret, send_birth};
use crate::index;
use crate::lookup::{self, with_entry};
use crate::waiting::{deduct_birth_cost, wake_for_child};

/// The position of the registrar for all processes of other nodes.
const OF_OTHER_NODES: usize = 0;

pub fn watchdog(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let pid = call.pid(1)?;
    zone.content.processes().set_watchdog(pid, &call.commit());
    Ok(atom!(ok))
}

/// Returns the argument that is the position of a registrar.
fn position(call: Call<'_>) -> Result<usize, Fault> {
    let position = call.get_integer(call.argument(1)?);
    let position = position.and_then(|position| usize::try_from(position).ok());
    let position = position.filter(|position| *position < REGISTRARS);
    position.ok_or(Fault::BadArgument)
}

pub fn appoint(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let (position, pid) = (position(call)?, call.pid(2)?);
    let processes = zone.content.processes();
    match processes.appoint(position, pid, &call.commit()) {
        true => Ok(atom!(ok)),
        false => Err(Fault::BadArgument),
    }
}

pub fn open_registrar(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let position = position(call)?;
    let processes = zone.content.processes();
    match processes.open(position, call.caller(), &call.commit()) {
        true => Ok(secret(call, &zone.content)),
        false => Err(Fault::BadArgument),
    }
}

pub fn close_registrar(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let position = position(call)?;
    let is_quiet = zone.content.processes().close(position, &call.commit());
    Ok(boolean(is_quiet))
}

pub fn registrars(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let registrars = zone.content.processes().registrars();
    Ok(registrars.fold(call.nil(), |list, pid| call.cons(call.immediate(pid), list)))
}

pub fn is_own(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    Ok(boolean(is_process_of(&zone.content, &call.child_pid(1)?)))
}

/// Returns whether a process is one of the zone itself.
fn is_process_of(zone: &Zone<Copied>, pid: &Pid<Copied>) -> bool {
    match pid {
        Pid::Local(word) => {
            zone.processes().contain(*word)
                || zone.subscriber() == Some(*word)
                || zone.directory().and_then(Directory::listener) == Some(*word)
                || zone.row_of(*word).is_some()
        }
        Pid::Remote(_) => false,
    }
}

/// Gives a free name to a running process, and tells a registrar, which will watch that process.
pub fn register_name(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let (start, process) = match call.get_pair(call.argument(3)?) {
        Some((at, process)) if at.is(atoms::home()) => (Start::Home, process),
        _ => (Start::Local, call.argument(3)?),
    };
    let (pid, alias) = (call.to_child_pid(process)?, call.argument(4)?);
    if is_process_of(zone, &pid) {
        return Ok(atom!(own));
    }
    if zone.is_stopping() {
        return Ok(atom!(stopping));
    }
    let position = match &pid {
        Pid::Local(word) => ZoneProcesses::position(*word),
        Pid::Remote(_) => OF_OTHER_NODES,
    };
    let name = call.to_key(call.argument(1)?)?;
    let spec = call.to_datum(call.argument(2)?)?;
    // For the message to the registrar.
    call.deduct_cost(call.argument(1)?, Purpose::Value)?;
    deduct_event_cost(call, zone)?;
    deduct_birth_cost(call, zone, name.borrow())?;
    call.deduct(zone.indexes().map_or(0, index::cost_to_settle))?;
    // A registrar waits for the end of all claims, so nothing that takes long comes after this.
    let Some(claim) = zone.processes().claim(position) else {
        return Ok(call.tuple([atom!(closed), call.integer(position as i64)]));
    };
    let registrar = claim.registrar();
    let child = Child {
        state: State::Running,
        pid: Some(pid),
        keeper: registrar,
        spec: Some(spec),
    };
    let committed = call.commit();
    let claimed = zone.register(&name, child, start, &committed);
    if claimed == Claimed::Done {
        if let Some((indexes, entry)) = zone.indexes().zip(zone.entry(name.borrow(), &guard)) {
            indexes.settle(entry, &committed);
        }
        send_birth(call, zone, &name, process);
        wake_for_child(call, zone, name.borrow(), &committed);
        let event = [atom!(registered), call.make_deducted(&name), process, alias];
        call.send(
            registrar,
            call.tuple([secret(call, zone), call.tuple(event)]),
        );
    }
    drop(claim);
    Ok(match claimed {
        Claimed::Done => call.immediate(registrar),
        Claimed::Full => atom!(full),
        Claimed::Held => atom!(held),
        Claimed::NotHome => atom!(not_home),
        Claimed::Stopping => atom!(stopping),
    })
}

pub fn change_keeper(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let (keeper, new) = (call.pid(2)?, call.pid(3)?);
    let is_listed = !zone.processes().contain(new);
    let is_given = zone.give(name, keeper, new, is_listed, &guard, &call.commit());
    Ok(boolean(is_given))
}

/// Reserves the name of a child that its keeper is starting for the calling process.
pub fn reserve_name(call: Call<'_>) -> Answer<'_> {
    let keeper = call.pid(2)?;
    with_entry(call, |zone, entry| {
        let is_starting = || {
            let child = entry.and_then(|entry| entry.child());
            child.is_some_and(|child| {
                let state = child.state;
                child.keeper == keeper && matches!(state, State::Launching | State::Restarting)
            })
        };
        if !is_starting() {
            return Ok(atom!(undefined));
        }
        let reservations = zone.processes().reservations();
        let committed = call.commit();
        let is_alive = |process| call.is_alive(process);
        let is_reserved = reservations.reserve(keeper, call.caller(), is_alive, &committed);
        if !is_starting() {
            reservations.cancel(keeper, call.caller(), &committed);
            return Ok(atom!(undefined));
        }
        Ok(boolean(is_reserved))
    })
}

/// Gives up the calling process's reservation of the name of a keeper's child.
pub fn cancel_name(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let keeper = call.pid(1)?;
    let reservations = zone.processes().reservations();
    reservations.cancel(keeper, call.caller(), &call.commit());
    Ok(atom!(ok))
}
