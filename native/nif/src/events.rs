//! The subscriber to the births and deaths in a zone.
//!
//! Events are sent from within the call that has changed the table, because its caller may be
//! killed as soon as it is back in Erlang. No lock is held meanwhile.

use proctab_table::datum::Datum;
use proctab_table::reclaim;
use proctab_table::zone::Zone;
use proctab_terms::reading::Purpose;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::atoms::atom;
use crate::lookup;

pub fn listen(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    zone.content.subscribe(call.caller(), &call.commit());
    Ok(secret(call, &zone.content))
}

pub fn unlisten(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    zone.content.unsubscribe(call.caller(), &call.commit());
    Ok(atom!(ok))
}

/// Returns the first element of all events of a zone: a small integer that nobody can guess.
pub fn secret<'c>(call: Call<'c>, zone: &Zone<Copied>) -> Term<'c> {
    const SMALL: u64 = (1 << 59) - 1;
    call.integer((zone.secret() & SMALL) as i64)
}

/// Deducts the cost of an event of the name that is the second argument, before anything is
/// changed.
///
/// A process that subscribes after this is told all the same.
pub fn deduct_event_cost(call: Call<'_>, zone: &Zone<Copied>) -> Result<(), Fault> {
    match zone.subscriber() {
        Some(_) => call
            .deduct_cost(call.argument(1)?, Purpose::Value)
            .map(|_| ()),
        None => Ok(()),
    }
}

/// Like [`deduct_event_cost`], for the death of a child; returns the reason to send.
///
/// A reason that is too large for any table is replaced by an atom, because the end of a child
/// must never be refused.
pub fn deduct_death_cost<'c>(call: Call<'c>, zone: &Zone<Copied>, reason: Term<'c>) -> Answer<'c> {
    deduct_event_cost(call, zone)?;
    if zone.subscriber().is_none() {
        return Ok(reason);
    }
    match call.deduct_cost(reason, Purpose::Value) {
        Ok(_) => Ok(reason),
        Err(Fault::BadArgument) => Ok(atom!(large)),
        Err(Fault::Reschedule) => Err(Fault::Reschedule),
    }
}

/// Tells the subscriber that a name has a running child.
///
/// The subscriber keeps the name, so this makes it of the stored one, which refers to no larger
/// binary.
#[inline]
pub fn send_birth<'c>(call: Call<'c>, zone: &Zone<Copied>, name: &Datum<Copied>, child: Term<'c>) {
    if let Some(subscriber) = zone.subscriber() {
        let event = call.tuple([atom!(up), call.make_deducted(name), child]);
        call.send(subscriber, call.tuple([secret(call, zone), event]));
    }
}

/// Tells the subscriber that the child of the name that is the second argument is dead.
#[inline]
pub fn send_death<'c>(call: Call<'c>, zone: &Zone<Copied>, child: Term<'c>, reason: Term<'c>) {
    if let (Some(subscriber), Ok(name)) = (zone.subscriber(), call.argument(1)) {
        let event = call.tuple([atom!(down), name, child, reason]);
        call.send(subscriber, call.tuple([secret(call, zone), event]));
    }
}
