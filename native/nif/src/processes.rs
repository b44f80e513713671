//! Tables of processes and their registrations.

use proctab_table::datum::Datum;
use proctab_table::processes::{Begun, Next, NotBegun, Processes};
use proctab_table::reclaim;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::atoms::{self, atom, boolean};
use crate::lookup;
use crate::tables::{self, Content, Given, Table};

/// Cost of listing a caller whose registration has not ended, in words.
const CALLER_COST: usize = 2;

/// Opens the table that the first argument names, or gives an open one to a new owner; the caller
/// becomes its server.
pub fn processes_open(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let name = call.atom(0)?;
    let env = call.rustler_env();
    let owner = call.rustler_pid(call.argument(1)?)?;
    loop {
        let tables = Processes::<Copied>::tables();
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
            table.content.serve(call.caller(), &call.commit());
            return Ok(atom!(ok));
        }
    }
}

pub fn processes_close(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    tables::get::<Processes<Copied>>(call.atom(0)?, &guard)?.close();
    Ok(atom!(ok))
}

pub fn hold(call: Call<'_>) -> Answer<'_> {
    with_table(call, |table| {
        table.hold(call.caller(), &call.commit());
        Ok(atom!(ok))
    })
}

pub fn release(call: Call<'_>) -> Answer<'_> {
    with_table(call, |table| {
        table.release(call.caller(), &call.commit());
        Ok(atom!(ok))
    })
}

pub fn claim(call: Call<'_>) -> Answer<'_> {
    let pid = call.any_pid(1)?;
    with_table(call, |table| {
        let changed = table.claim(&pid, call.caller(), &call.commit());
        Ok(boolean(changed))
    })
}

pub fn register(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |table, pid, name| {
        call.deduct_entries(table.moved_by_add(pid))?;
        table.register(pid, name, &call.commit());
        Ok(atom!(ok))
    })
}

pub fn unregister(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |table, pid, name| {
        table.unregister(pid, name, &call.commit());
        Ok(atom!(ok))
    })
}

pub fn begin_registering(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |table, pid, name| {
        call.deduct_entries(table.moved_by_add(pid))?;
        Ok(
            match table.begin(pid, name, call.caller(), &call.commit()) {
                Begun::New(server) => {
                    ask_to_monitor(call, server, call.argument(1)?);
                    atom!(begun)
                }
                Begun::Registered => atom!(registered),
                Begun::Busy(caller) => call.tuple([atom!(busy), call.immediate(caller)]),
            },
        )
    })
}

pub fn end_registering(call: Call<'_>) -> Answer<'_> {
    let announced = call.argument(3)?.is(atoms::true_());
    with_registration(call, |table, pid, name| {
        let server = table.end(pid, name, call.caller(), announced, &call.commit());
        let server = server.map_err(|NotBegun| Fault::BadArgument)?;
        ask_to_monitor(call, server, call.argument(1)?);
        Ok(atom!(ok))
    })
}

pub fn fail_registering(call: Call<'_>) -> Answer<'_> {
    with_registration(call, |table, pid, name| {
        call.deduct_entries(table.registrations(pid))?;
        let server = table.fail(pid, name, call.caller(), &call.commit());
        ask_to_monitor(call, server, call.argument(1)?);
        Ok(atom!(ok))
    })
}

pub fn abandon(call: Call<'_>) -> Answer<'_> {
    let (pid, caller) = (call.any_pid(1)?, call.pid(2)?);
    with_table(call, |table| {
        call.deduct_entries(table.registrations(&pid))?;
        table.abandon(&pid, caller, &call.commit());
        Ok(atom!(ok))
    })
}

pub fn next(call: Call<'_>) -> Answer<'_> {
    let pid = call.any_pid(1)?;
    with_table(call, |table| {
        call.deduct(CALLER_COST * table.begun(&pid))?;
        let committed = call.commit();
        Ok(match table.next(&pid, &committed) {
            Next::Registered(name, announced) => {
                call.take_back(committed);
                call.tuple([atom!(registered), call.make(&name)?, boolean(announced)])
            }
            Next::Busy(callers) => {
                let callers = list(call, &callers, |caller| call.immediate(*caller));
                call.tuple([atom!(busy), callers])
            }
            Next::Done => atom!(done),
        })
    })
}

pub fn registered_names(call: Call<'_>) -> Answer<'_> {
    let pid = call.any_pid(1)?;
    with_table(call, |table| {
        call.deduct_entries(table.registrations(&pid))?;
        let names = table.names(&pid);
        call.deduct(names.iter().map(|name| 2 + call.cost_to_make(name)).sum())?;
        Ok(list(call, &names, |name| call.make_deducted(name)))
    })
}

pub fn registered_count(call: Call<'_>) -> Answer<'_> {
    let name = call.to_key(call.argument(1)?)?;
    with_table(call, |table| Ok(call.integer(table.count(&name))))
}

pub fn processes_page(call: Call<'_>) -> Answer<'_> {
    page(call, Processes::page, |pid| pid, |_, pid| pid)
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
    with_table(call, |table| {
        let (items, next) = read(table, shard.ok_or(Fault::BadArgument)?);
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
fn list<'c, T>(call: Call<'c>, items: &[T], make: impl Fn(&T) -> Term<'c>) -> Term<'c> {
    let items = items.iter().rev();
    items.fold(call.nil(), |list, item| call.cons(make(item), list))
}

fn with_table<'c>(
    call: Call<'c>,
    run: impl FnOnce(&Processes<Copied>) -> Answer<'c>,
) -> Answer<'c> {
    let guard = reclaim::enter();
    run(lookup::processes(call, &guard)?)
}

/// Calls `run` with the table that the first argument names, the process that is the second, and
/// the name that is the third.
fn with_registration<'c>(
    call: Call<'c>,
    run: impl FnOnce(&Processes<Copied>, &Datum<Copied>, &Datum<Copied>) -> Answer<'c>,
) -> Answer<'c> {
    let pid = call.any_pid(1)?;
    let name = call.to_key(call.argument(2)?)?;
    with_table(call, |table| run(table, &pid, &name))
}

/// Asks the server to monitor a process.
///
/// The call itself does it, because its caller may be killed as soon as it is back in Erlang.
fn ask_to_monitor<'c>(call: Call<'c>, server: Option<u64>, pid: Term<'c>) {
    if let Some(server) = server {
        let request = call.tuple([atom!(monitor), pid]);
        // If the server is dead, its successor will find the process in the table.
        call.send(server, call.tuple([atom!(cast), request]));
    }
}
