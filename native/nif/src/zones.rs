//! Opening, stopping and closing zones; listing tables.

use proctab_table::reclaim;
use proctab_table::zone::Zone;
use proctab_terms::{Answer, Call, Copied, Fault};

use crate::atoms::{atom, boolean};
use crate::lookup::{self, ZONE_HANDLES};
use crate::tables::{self, Content, Given, Table};
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
    let table = Table::<Zone<Copied>>::new(name);
    if table.give(env.pid(), env) != Given::Done {
        return Err(Fault::BadArgument);
    }
    table.content.share(context, &call.commit());
    let handle = ZONE_HANDLES.make(call, table.clone());
    Zone::tables().insert(name, table, &guard);
    Ok(handle)
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
