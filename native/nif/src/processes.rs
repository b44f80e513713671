//! The exported functions on tables of processes.

use rustler::sys::ErlNifTerm;

use proctab_table::datum::Datum;
use proctab_table::processes::{Begun, Next, NotBegun, Processes};
use proctab_table::reclaim;

use crate::call::{export, Answer, Call, Fault};
use crate::copied::Copied;
use crate::{atom, boolean};

export! {
    processes_open/2, processes_close/1, hold/1, release/1, claim/2,
    register/3, unregister/3, begin_registering/3, end_registering/4, fail_registering/3, abandon/3, next/2,
    registered_names/2, registered_count/2, processes_page/2, counts_page/2,
}

/// What it costs to name one of those who have not ended what they began, in words of terms.
const CALLER_COST: usize = 2;

fn processes_open(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let table = call.open_processes(&guard)?;
    table.serve(call.caller(), &call.commit());
    Ok(atom!(ok))
}

fn processes_close(call: &Call) -> Answer {
    call.close_processes()?;
    Ok(atom!(ok))
}

fn hold(call: &Call) -> Answer {
    with_table(call, |table| {
        table.hold(call.caller(), &call.commit());
        Ok(atom!(ok))
    })
}

fn release(call: &Call) -> Answer {
    with_table(call, |table| {
        table.release(call.caller(), &call.commit());
        Ok(atom!(ok))
    })
}

fn claim(call: &Call) -> Answer {
    let pid = call.any_pid(1)?;
    with_table(call, |table| {
        let changed = table.claim(&pid, call.caller(), &call.commit());
        Ok(boolean(changed))
    })
}

fn register(call: &Call) -> Answer {
    with_registration(call, |table, pid, name| {
        call.spend_entries(table.growth(pid))?;
        table.register(pid, name, &call.commit());
        Ok(atom!(ok))
    })
}

fn unregister(call: &Call) -> Answer {
    with_registration(call, |table, pid, name| {
        table.unregister(pid, name, &call.commit());
        Ok(atom!(ok))
    })
}

fn begin_registering(call: &Call) -> Answer {
    with_registration(call, |table, pid, name| {
        call.spend_entries(table.growth(pid))?;
        Ok(
            match table.begin(pid, name, call.caller(), &call.commit()) {
                Begun::New(server) => {
                    tell(call, server, call.argument(1)?);
                    atom!(begun)
                }
                Begun::Registered => atom!(registered),
                Begun::Busy(caller) => call.tuple([atom!(busy), call.word(caller)]),
            },
        )
    })
}

fn end_registering(call: &Call) -> Answer {
    let announced = call.argument(3)? == atom!(yes);
    with_registration(call, |table, pid, name| {
        let server = table.end(pid, name, call.caller(), announced, &call.commit());
        let server = server.map_err(|NotBegun| Fault::BadArgument)?;
        tell(call, server, call.argument(1)?);
        Ok(atom!(ok))
    })
}

fn fail_registering(call: &Call) -> Answer {
    with_registration(call, |table, pid, name| {
        call.spend_entries(table.registrations(pid))?;
        let server = table.fail(pid, name, call.caller(), &call.commit());
        tell(call, server, call.argument(1)?);
        Ok(atom!(ok))
    })
}

fn abandon(call: &Call) -> Answer {
    let (pid, caller) = (call.any_pid(1)?, call.pid(2)?);
    with_table(call, |table| {
        call.spend_entries(table.registrations(&pid))?;
        table.abandon(&pid, caller, &call.commit());
        Ok(atom!(ok))
    })
}

fn next(call: &Call) -> Answer {
    let pid = call.any_pid(1)?;
    with_table(call, |table| {
        call.spend(CALLER_COST * table.begun(&pid))?;
        let committed = call.commit();
        Ok(match table.next(&pid, &committed) {
            Next::Registered(name, announced) => {
                call.take_back(committed);
                call.tuple([atom!(registered), call.make(&name)?, boolean(announced)])
            }
            Next::Busy(callers) => {
                let callers = list(call, &callers, |caller| call.word(*caller));
                call.tuple([atom!(busy), callers])
            }
            Next::Done => atom!(done),
        })
    })
}

fn registered_names(call: &Call) -> Answer {
    let pid = call.any_pid(1)?;
    with_table(call, |table| {
        call.spend_entries(table.registrations(&pid))?;
        let names = table.names(&pid);
        call.spend(names.iter().map(|name| 2 + call.cost(name)).sum())?;
        Ok(list(call, &names, |name| call.write(name)))
    })
}

fn registered_count(call: &Call) -> Answer {
    let name = call.owned_key(call.argument(1)?)?;
    with_table(call, |table| Ok(call.integer(table.count(&name))))
}

fn processes_page(call: &Call) -> Answer {
    page(call, Processes::page, |pid| pid, |_, pid| pid)
}

fn counts_page(call: &Call) -> Answer {
    let pair = |(_, count): &(Datum<Copied>, i64), name| call.tuple([name, call.integer(*count)]);
    page(call, Processes::counts, |(name, _)| name, pair)
}

/// The items of a part of a table, and the part to go on with.
fn page<T>(
    call: &Call,
    read: impl FnOnce(&Processes<Copied>, usize) -> (Vec<T>, Option<usize>),
    datum: impl Fn(&T) -> &Datum<Copied>,
    make: impl Fn(&T, ErlNifTerm) -> ErlNifTerm,
) -> Answer {
    let part = call.get_integer(call.argument(1)?);
    let part = part.and_then(|part| usize::try_from(part).ok());
    with_table(call, |table| {
        let (items, next) = read(table, part.ok_or(Fault::BadArgument)?);
        call.spend(items.iter().map(|item| 8 + call.cost(datum(item))).sum())?;
        let items = list(call, &items, |item| make(item, call.write(datum(item))));
        let next = next.map_or(atom!(done), |next| call.integer(next as i64));
        Ok(call.tuple([items, next]))
    })
}

/// A list of what is made of each item.
fn list<T>(call: &Call, items: &[T], make: impl Fn(&T) -> ErlNifTerm) -> ErlNifTerm {
    let items = items.iter().rev();
    items.fold(call.nil(), |list, item| call.cons(make(item), list))
}

fn with_table(call: &Call, run: impl FnOnce(&Processes<Copied>) -> Answer) -> Answer {
    let guard = reclaim::enter();
    run(call.named(&guard)?)
}

/// Does something with the table that the first argument names, and the process and the name that are the next.
fn with_registration(
    call: &Call,
    run: impl FnOnce(&Processes<Copied>, &Datum<Copied>, &Datum<Copied>) -> Answer,
) -> Answer {
    let pid = call.any_pid(1)?;
    let name = call.owned_key(call.argument(2)?)?;
    with_table(call, |table| run(table, &pid, &name))
}

/// Has the server watch a process. This is done here, because the caller may be killed as soon as it is back in Erlang.
fn tell(call: &Call, server: Option<u64>, pid: ErlNifTerm) {
    if let Some(server) = server {
        let request = call.tuple([atom!(monitor), pid]);
        // A server that is dead has nobody to tell: its successor will see the process in the table.
        call.send(server, call.tuple([atom!(cast), request]));
    }
}
