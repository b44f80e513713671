//! Tables of processes and their registrations.

use proctab_table::datum::Datum;
use proctab_table::processes::{Begun, NotBegun, Processes};
use proctab_table::reclaim;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::atoms::{self, atom, boolean};
use crate::lookup;
use crate::tables::{self, Content, Given, Table};
use crate::watching::WatchedProcesses;

/// Opens the table that the first argument names, or gives an open one to a new owner; the caller
/// becomes its server.
pub fn processes_open(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let name = call.atom(0)?;
    let env = call.rustler_env();
    let owner = call.rustler_pid(call.argument(1)?)?;
    loop {
        let tables = WatchedProcesses::tables();
        let table = tables.get_or_insert_with(name, || Table::new(name), &guard);
        match table.give(owner, env) {
            Given::Done => (),
            Given::Abandoned => {
                table.close();
                continue;
            }
            Given::Dead => {
                table.close_unowned();
                return Err(Fault::BadArgument);
            }
        }
        // The previous owner may have died, and its table been closed, right before.
        let current = tables.get(&name, &guard);
        if current.is_some_and(|current| std::ptr::eq(&**current, &**table)) {
            let table = &table.content.table;
            table.serve(call.caller(), &call.commit());
            return Ok(atom!(ok));
        }
    }
}

pub fn processes_close(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    tables::get::<WatchedProcesses>(call.atom(0)?, &guard)?.close();
    Ok(atom!(ok))
}

pub fn hold(call: Call<'_>) -> Answer<'_> {
    with_table(call, |processes| {
        processes.table.hold(call.caller(), &call.commit());
        Ok(atom!(ok))
    })
}

pub fn release(call: Call<'_>) -> Answer<'_> {
    with_table(call, |processes| {
        processes.table.release(call.caller(), &call.commit());
        Ok(atom!(ok))
    })
}

pub fn claim(call: Call<'_>) -> Answer<'_> {
    let pid = call.any_pid(1)?;
    with_table(call, |processes| {
        let changed = processes.table.claim(&pid, call.caller(), &call.commit());
        Ok(boolean(changed))
    })
}

pub fn died(call: Call<'_>) -> Answer<'_> {
    let pid = call.any_pid(1)?;
    with_table(call, |processes| {
        processes.add_death(call, pid, &call.commit());
        Ok(atom!(ok))
    })
}

pub fn register(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |processes, pid, name| {
        register_and_heed(call, processes, pid, name)?;
        Ok(atom!(ok))
    })
}

pub fn try_register(call: Call<'_>) -> Answer<'_> {
    if call.pid(1).is_err() {
        return Ok(atom!(false_));
    }
    let (pid, name) = (call.any_pid(1)?, call.to_key(call.argument(2)?)?);
    let guard = reclaim::enter();
    let Ok(processes) = lookup::processes(call, &guard) else {
        return Ok(atom!(false_));
    };
    let table = &processes.table;
    let is_served = table.holder(call.caller()).is_none()
        && table.server().is_some_and(|server| call.is_alive(server));
    if is_served {
        register_and_heed(call, processes, &pid, &name)?;
    }
    Ok(boolean(is_served))
}

fn register_and_heed(
    call: Call<'_>,
    processes: &WatchedProcesses,
    pid: &Datum<Copied>,
    name: &Datum<Copied>,
) -> Result<(), Fault> {
    let permit = |moved| call.deduct_entries(moved).map(|()| call.commit());
    let notice = processes.table.register(pid, name, permit)?;
    processes.heed(call, notice, call.argument(1)?);
    Ok(())
}

pub fn unregister(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |processes, pid, name| {
        processes.table.unregister(pid, name, &call.commit());
        Ok(atom!(ok))
    })
}

pub fn begin_registering(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |processes, pid, name| {
        let permit = |moved| call.deduct_entries(moved).map(|()| call.commit());
        let begun = processes.table.begin(pid, name, call.caller(), permit)?;
        Ok(match begun {
            Begun::New(notice) => {
                processes.heed(call, notice, call.argument(1)?);
                atom!(begun)
            }
            Begun::Registered => atom!(registered),
            Begun::Busy(caller) => call.tuple([atom!(busy), call.immediate(caller)]),
        })
    })
}

pub fn end_registering(call: Call<'_>) -> Answer<'_> {
    let announced = call.argument(3)?.is(atoms::true_());
    with_registration(call, |processes, pid, name| {
        let table = &processes.table;
        let notice = table.end(pid, name, call.caller(), announced, &call.commit());
        let notice = notice.map_err(|NotBegun| Fault::BadArgument)?;
        processes.heed(call, notice, call.argument(1)?);
        Ok(atom!(ok))
    })
}

pub fn fail_registering(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |processes, pid, name| {
        let table = &processes.table;
        call.deduct_entries(table.registrations(pid))?;
        let notice = table.fail(pid, name, call.caller(), &call.commit());
        processes.heed(call, notice, call.argument(1)?);
        Ok(atom!(ok))
    })
}

pub fn abandon(call: Call<'_>) -> Answer<'_> {
    let (pid, caller) = (call.any_pid(1)?, call.pid(2)?);
    with_table(call, |processes| {
        let table = &processes.table;
        call.deduct_entries(table.registrations(&pid))?;
        let notice = table.abandon(&pid, caller, &call.commit());
        processes.heed(call, notice, call.argument(1)?);
        Ok(atom!(ok))
    })
}

pub fn registered_names(call: Call<'_>) -> Answer<'_> {
    let pid = call.any_pid(1)?;
    with_table(call, |processes| {
        let table = &processes.table;
        call.deduct_entries(table.registrations(&pid))?;
        let names = table.names(&pid);
        call.deduct(names.iter().map(|name| 2 + call.cost_to_make(name)).sum())?;
        Ok(list(call, &names, |name| call.make_deducted(name)))
    })
}

pub fn registered_count(call: Call<'_>) -> Answer<'_> {
    let name = call.to_key(call.argument(1)?)?;
    with_table(call, |processes| {
        Ok(call.integer(processes.table.count(&name)))
    })
}

pub fn processes_page(call: Call<'_>) -> Answer<'_> {
    page(call, Processes::page, |pid| pid, |_, pid| pid)
}

pub fn remote_page(call: Call<'_>) -> Answer<'_> {
    page(call, Processes::remote_page, |pid| pid, |_, pid| pid)
}

pub fn counts_page(call: Call<'_>) -> Answer<'_> {
    let pair = |(_, count): &(Datum<Copied>, i64), name| call.tuple([name, call.integer(*count)]);
    page(call, Processes::counts, |(name, _)| name, pair)
}

/// Makes a list of the items of at least one shard of a table, and the shard to go on from.
fn page<'c, T>(
    call: Call<'c>,
    read: impl FnOnce(&Processes<Copied>, usize) -> (Vec<T>, Option<usize>),
    datum: impl Fn(&T) -> &Datum<Copied>,
    make: impl Fn(&T, Term<'c>) -> Term<'c>,
) -> Answer<'c> {
    let shard = call.get_integer(call.argument(1)?);
    let shard = shard.and_then(|shard| usize::try_from(shard).ok());
    with_table(call, |processes| {
        let (items, next) = read(&processes.table, shard.ok_or(Fault::BadArgument)?);
        call.deduct(
            items
                .iter()
                .map(|item| 8 + call.cost_to_make(datum(item)))
                .sum(),
        )?;
        let items = list(call, &items, |item| {
            make(item, call.make_deducted(datum(item)))
        });
        let next = next.map_or(atom!(done), |next| call.integer(next as i64));
        Ok(call.tuple([items, next]))
    })
}

/// Makes a list of the terms that `make` makes of each item.
pub fn list<'c, T>(call: Call<'c>, items: &[T], make: impl Fn(&T) -> Term<'c>) -> Term<'c> {
    let items = items.iter().rev();
    items.fold(call.nil(), |list, item| call.cons(make(item), list))
}

/// Calls `run` with the table that the first argument names.
pub fn with_table<'c>(
    call: Call<'c>,
    run: impl FnOnce(&WatchedProcesses) -> Answer<'c>,
) -> Answer<'c> {
    let guard = reclaim::enter();
    run(lookup::processes(call, &guard)?)
}

/// Calls `run` with the table that the first argument names, the process that is the second, and
/// the name that is the third.
fn with_registration<'c>(
    call: Call<'c>,
    run: impl FnOnce(&WatchedProcesses, &Datum<Copied>, &Datum<Copied>) -> Answer<'c>,
) -> Answer<'c> {
    let pid = call.any_pid(1)?;
    let name = call.to_key(call.argument(2)?)?;
    with_table(call, |processes| run(processes, &pid, &name))
}
