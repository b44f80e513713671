//! Cleaning up after the dead of a table of processes.

use std::sync::Arc;
use std::time::Duration;

use proctab_table::cleanups::Reaped;
use proctab_table::datum::Datum;
use proctab_table::reclaim;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::atoms::{atom, boolean};
use crate::processes::{list, with_table};
use crate::tables::{self, Table};
use crate::watching::WatchedProcesses;

/// The most cleanups for one cleaner.
const MAX_CLEANUPS: usize = 256;
/// The most cleanups that a cleaner takes at once: it may not have the time for all.
const TAKEN: usize = 32;
/// How long a cleaner begins cleanups: callers of `registered_count` wait for it.
const CLEANER_TIME: Duration = Duration::from_micros(500);
/// Cost of making the term of a cleanup, besides those of its process and its name, in words.
const CLEANUP_COST: usize = 2;

pub fn open_cleanups(call: Call<'_>) -> Answer<'_> {
    with_table(call, |processes| {
        call.deduct_entries(processes.table.waiting())?;
        processes.set_reaper(call)?;
        processes.table.open_cleanups(call.caller(), &call.commit());
        Ok(atom!(ok))
    })
}

pub fn reap(call: Call<'_>) -> Answer<'_> {
    with_table(call, |processes| {
        let mut budget = call.budget();
        let allow = |cost| {
            let rest = budget.checked_sub(cost);
            budget = rest.unwrap_or(budget);
            rest.is_some()
        };
        let committed = call.commit();
        let Some(reaped) = processes.table.reap(MAX_CLEANUPS, allow, &committed) else {
            call.take_back(committed);
            return Err(Fault::Reschedule);
        };
        call.deduct(call.budget().saturating_sub(budget))?;
        let Reaped {
            cleanups,
            waiting,
            more,
        } = reaped;
        let waiting = list(call, &waiting, |(pid, callers)| {
            let callers = list(call, callers, |caller| call.immediate(*caller));
            call.tuple([call.make_deducted(pid), callers])
        });
        let cleanups = call.integer(cleanups as i64);
        Ok(call.tuple([cleanups, waiting, boolean(more)]))
    })
}

pub fn take_cleanups(call: Call<'_>) -> Answer<'_> {
    let reaper = call.pid(1)?;
    with_table(call, |processes| {
        let cleanups = processes.table.cleanups(TAKEN);
        let cost = |pid, name| CLEANUP_COST + call.cost_to_make(pid) + call.cost_to_make(name);
        call.deduct(cleanups.iter().map(|one| cost(&one.pid, &one.name)).sum())?;
        let taken =
            processes
                .table
                .take_cleanups(reaper, call.caller(), CLEANER_TIME, &call.commit());
        Ok(list(call, if taken { &cleanups } else { &[] }, |one| {
            let [pid, name] = make(call, &one.pid, &one.name);
            call.tuple([pid, name, boolean(one.announced)])
        }))
    })
}

pub fn cleaned(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let Ok(processes): Result<&Arc<Table<WatchedProcesses>>, _> =
        tables::get(call.atom(0)?, &guard)
    else {
        return Ok(boolean(false));
    };
    let table = &processes.content.table;
    let Some(current) = table.current_cleanup(call.caller()) else {
        return Ok(boolean(false));
    };
    call.deduct(cost_to_end(call, &current.name))?;
    Ok(boolean(table.cleaned(call.caller(), &call.commit())))
}

pub fn give_up(call: Call<'_>) -> Answer<'_> {
    let cleaner = call.pid(1)?;
    with_table(call, |processes| {
        let Some(current) = processes.table.current_cleanup(cleaner) else {
            return Ok(atom!(none));
        };
        let cost = call.cost_to_make(&current.pid) + call.cost_to_make(&current.name);
        call.deduct(cost + cost_to_end(call, &current.name))?;
        processes.table.cleaned(cleaner, &call.commit());
        Ok(call.tuple(make(call, &current.pid, &current.name)))
    })
}

pub fn deaths(call: Call<'_>) -> Answer<'_> {
    with_table(call, |processes| {
        Ok(call.integer(processes.table.deaths().len() as i64))
    })
}

/// Returns the cost of removing the registration under a name. The name is looked up among those of
/// its process, removed there, and looked up among all names.
fn cost_to_end(call: Call<'_>, name: &Datum<Copied>) -> usize {
    3 * call.cost_to_look_up(name)
}

fn make<'c>(call: Call<'c>, pid: &Datum<Copied>, name: &Datum<Copied>) -> [Term<'c>; 2] {
    [call.make_deducted(pid), call.make_deducted(name)]
}
