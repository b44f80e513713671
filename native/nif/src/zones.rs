//! Opening, stopping and closing zones; listing tables.

use proctab_table::reclaim;
use proctab_table::zone::Zone;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::atoms::{self, atom, boolean};
use crate::index;
use crate::lookup::{self, ZONE_HANDLES};
use crate::tables::{self, Given, Table};
use crate::watching::WatchedProcesses;

pub fn zone_open(call: Call<'_>) -> Answer<'_> {
    let name = call.atom(0)?;
    let guard = reclaim::enter();
    let env = call.rustler_env();
    let current = tables::get::<Zone<Copied>>(name, &guard);
    if current.is_ok_and(|table| table.is_owner_alive(env)) {
        return Err(Fault::BadArgument);
    }
    let context = call.to_datum(call.argument(1)?)?;
    let indexes = match call.argument(2) {
        Ok(keys) => index::to_indexes(call, keys)?,
        Err(_) => None,
    };
    let most = match call.argument(3) {
        Ok(most) => children_limit(call, most)?,
        Err(_) => None,
    };
    let table = Table::<Zone<Copied>>::new(name);
    if table.give(env.pid(), env) != Given::Done {
        return Err(Fault::BadArgument);
    }
    let committed = call.commit();
    table.content.share(context, &committed);
    let processes = table.content.processes();
    processes.set_tracker(call.caller(), &committed);
    if let Some(indexes) = indexes {
        table.content.set_indexes(indexes, &committed);
    }
    if let Some(most) = most {
        table.content.limit_children(most, &committed);
    }
    let handle = ZONE_HANDLES.make(call, table.clone());
    tables::open(&table, &guard);
    Ok(handle)
}

/// Returns the most children that a zone may have, or `None` for any number.
fn children_limit<'c>(call: Call<'c>, most: Term<'c>) -> Result<Option<usize>, Fault> {
    if most.is(atoms::infinity()) {
        return Ok(None);
    }
    let most = call.get_integer(most);
    let most = most.and_then(|most| usize::try_from(most).ok());
    most.map(Some).ok_or(Fault::BadArgument)
}

pub fn zone_stop(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let is_owner = zone.owner(call)?.word() == call.caller();
    let committed = call.commit();
    if is_owner {
        zone.content.stopped_by_owner(&committed);
    }
    zone.content.stop(&committed);
    Ok(atom!(ok))
}

pub fn was_stopped(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    Ok(boolean(zone.content.was_stopped_by_owner()))
}

pub fn zone_close(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    lookup::zone_by_handle(call, &guard)?.close();
    Ok(atom!(ok))
}

pub fn tables(call: Call<'_>) -> Answer<'_> {
    let zones = tables::list::<Zone<Copied>>(call, atom!(zone), call.nil())?;
    tables::list::<WatchedProcesses>(call, atom!(processes), zones)
}

pub fn owner(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    tables::get::<Zone<Copied>>(call.atom(0)?, &guard)?.owner(call)
}

pub fn count(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    Ok(call.integer(lookup::zone(call, &guard)?.count() as i64))
}
