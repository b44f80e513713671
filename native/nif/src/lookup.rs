//! The tables and entries that the arguments of a call name.

use std::sync::Arc;

use proctab_table::claims::Directory;
use proctab_table::entry::Entry;
use proctab_table::reclaim::{self, Guard};
use proctab_table::zone::Zone;
use proctab_terms::{Call, Copied, Fault, Scratch, Term};

use crate::handles::Handles;
use crate::tables::{self, Table};
use crate::watching::WatchedProcesses;

/// The handles of zones.
pub static ZONE_HANDLES: Handles<Arc<Table<Zone<Copied>>>> = Handles::new(c"proctab_handle");

/// Returns the zone that the first argument names. Fails if it does not run.
///
/// The argument may be any term: no other one has the word of an atom, so none is found for it.
#[inline]
pub fn zone<'g>(call: Call<'_>, guard: &'g Guard) -> Result<&'g Zone<Copied>, Fault> {
    Ok(&tables::find(call.argument(0)?.word(), guard)?.content)
}

/// Returns the zone that the first argument names, or is the handle of.
///
/// A handle reaches the table of a zone that was closed.
pub fn zone_by_handle(call: Call<'_>, guard: &Guard) -> Result<Arc<Table<Zone<Copied>>>, Fault> {
    match call.atom(0) {
        Ok(name) => tables::get(name, guard).cloned(),
        Err(_) => ZONE_HANDLES.get(call, call.argument(0)?).cloned(),
    }
}

/// Returns the table of processes that the first argument names. Fails if there is none.
pub fn processes<'g>(call: Call<'_>, guard: &'g Guard) -> Result<&'g WatchedProcesses, Fault> {
    Ok(&tables::get(call.atom(0)?, guard)?.content)
}

/// Calls `run` with the zone that the first argument names, and with the entry of the name that is
/// the second argument, if there is one.
#[inline(always)]
pub fn with_entry<T>(
    call: Call<'_>,
    run: impl FnOnce(&Zone<Copied>, Option<Entry<Copied>>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let guard = reclaim::enter();
    let zone = zone(call, &guard)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_name(call.argument(1)?, &mut scratch)?;
    run(zone, zone.entry(name, &guard))
}

/// Like [`with_entry`], in a zone on several nodes, if this member has a child of the name: else
/// returns `None`. A zone of this node alone is a bad argument.
#[inline(always)]
pub fn with_own_entry<T>(
    call: Call<'_>,
    run: impl FnOnce(&Zone<Copied>, Option<Entry<Copied>>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    with_entry(call, |zone, entry| {
        directory(zone)?;
        match entry.is_some_and(|entry| entry.has_child()) {
            true => run(zone, entry).map(Some),
            false => Ok(None),
        }
    })
}

/// Returns the directory of a zone. Fails if the zone is one of this node alone.
#[inline]
pub fn directory(zone: &Zone<Copied>) -> Result<&Directory<Copied>, Fault> {
    zone.directory().ok_or(Fault::BadArgument)
}

/// Makes the pid of a row's running child and something that belongs to this child. Returns `None`
/// if the row has no running child.
///
/// What was made while another child got the name may not belong to either, and is made again.
pub fn while_running<'c, T>(
    call: Call<'c>,
    entry: Entry<Copied>,
    mut make: impl FnMut() -> Result<T, Fault>,
) -> Result<Option<(Term<'c>, T)>, Fault> {
    let mut before = entry.pid();
    while let Some(pid) = before {
        let made = make()?;
        before = entry.pid();
        if before.as_ref() == Some(&pid) {
            return Ok(Some((call.make_pid(&pid)?, made)));
        }
    }
    Ok(None)
}
