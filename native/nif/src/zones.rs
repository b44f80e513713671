//! Opening, stopping and closing zones; listing tables.

use proctab_table::processes::Processes;
use proctab_table::reclaim;
use proctab_table::zone::Zone;
use proctab_terms::{Answer, Call, Copied, Fault};

use crate::atoms::atom;
use crate::lookup::{self, ZONE_HANDLES};
use crate::tables::{self, Content, Given, Table};

pub fn zone_open(call: Call<'_>) -> Answer<'_> {
    let name = call.atom(0)?;
    let guard = reclaim::enter();
    let env = call.rustler_env();
    let current = tables::get::<Zone<Copied>>(name, &guard);
    if current.is_ok_and(|table| table.is_owner_alive(env)) {
        return Err(Fault::BadArgument);
    }
    let table = Table::new(name);
    if Table::give(&table, env.pid(), env) != Given::Done {
        return Err(Fault::BadArgument);
    }
    let handle = ZONE_HANDLES.make(call, table.clone());
    Zone::tables().insert(name, table, &guard);
    Ok(handle)
}

pub fn zone_stop(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    zone.content.stop(&call.commit());
    Ok(atom!(ok))
}

pub fn zone_close(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    lookup::zone_by_handle(call, &guard)?.close();
    Ok(atom!(ok))
}

pub fn tables(call: Call<'_>) -> Answer<'_> {
    let zones = tables::list::<Zone<Copied>>(call, atom!(zone), call.nil())?;
    tables::list::<Processes<Copied>>(call, atom!(processes), zones)
}

pub fn owner(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    tables::get::<Zone<Copied>>(call.atom(0)?, &guard)?.owner(call)
}

pub fn count(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    Ok(call.integer(lookup::zone(call, &guard)?.count() as i64))
}
