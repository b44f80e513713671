//! The subscriber to the births and deaths in a zone, and the listener of a zone on several nodes,
//! which is also told when a name is held and when it is free.
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

/// Returns whom to tell of births and deaths.
#[inline]
fn told(zone: &Zone<Copied>) -> impl Iterator<Item = u64> {
    zone.subscriber().into_iter().chain(listener(zone))
}

/// Returns whom to tell of names that are held or free.
#[inline]
fn listener(zone: &Zone<Copied>) -> Option<u64> {
    zone.directory().and_then(|directory| directory.listener())
}

/// Deducts the cost of an event of the name that is the second argument, before anything is
/// changed.
///
/// A process that subscribes after this is told all the same.
pub fn deduct_event_cost(call: Call<'_>, zone: &Zone<Copied>) -> Result<(), Fault> {
    for _ in told(zone) {
        call.deduct_cost(call.argument(1)?, Purpose::Value)?;
    }
    Ok(())
}

/// Like [`deduct_event_cost`], for an event that only a listener is told of.
pub fn deduct_claim_cost(call: Call<'_>, zone: &Zone<Copied>) -> Result<(), Fault> {
    if listener(zone).is_some() {
        call.deduct_cost(call.argument(1)?, Purpose::Value)?;
    }
    Ok(())
}

/// Like [`deduct_event_cost`], for the death of a child; returns the reason to send.
///
/// A reason that is too large for any table is replaced by an atom, because the end of a child
/// must never be refused.
pub fn deduct_death_cost<'c>(call: Call<'c>, zone: &Zone<Copied>, reason: Term<'c>) -> Answer<'c> {
    deduct_event_cost(call, zone)?;
    let mut sent = reason;
    for _ in told(zone) {
        match call.deduct_cost(reason, Purpose::Value) {
            Ok(_) => (),
            Err(Fault::BadArgument) => sent = atom!(large),
            Err(Fault::Reschedule) => return Err(Fault::Reschedule),
        }
    }
    Ok(sent)
}

/// Tells that a name has a running child.
///
/// The subscriber keeps the name, so this makes it of the stored one, which refers to no larger
/// binary.
#[inline]
pub fn send_birth<'c>(call: Call<'c>, zone: &Zone<Copied>, name: &Datum<Copied>, child: Term<'c>) {
    for to in told(zone) {
        let event = call.tuple([atom!(up), call.make_deducted(name), child]);
        call.send(to, call.tuple([secret(call, zone), event]));
    }
}

/// Tells that the child of the name that is the second argument is dead.
#[inline]
pub fn send_death<'c>(call: Call<'c>, zone: &Zone<Copied>, child: Term<'c>, reason: Term<'c>) {
    for to in told(zone) {
        if let Ok(name) = call.argument(1) {
            let event = call.tuple([atom!(down), name, child, reason]);
            call.send(to, call.tuple([secret(call, zone), event]));
        }
    }
}

/// Tells a listener that the name that is the second argument is held by a child that does not run.
#[inline]
pub fn send_held(call: Call<'_>, zone: &Zone<Copied>) {
    send_claim(call, zone, atom!(held));
}

/// Tells a listener that the name that is the second argument has no child any more. It may have
/// another one by now.
#[inline]
pub fn send_free(call: Call<'_>, zone: &Zone<Copied>) {
    send_claim(call, zone, atom!(free));
}

/// Tells a listener that attributes of the name that is the second argument have changed.
#[inline]
pub fn send_copied(call: Call<'_>, zone: &Zone<Copied>) {
    send_claim(call, zone, atom!(copied));
}

fn send_claim<'c>(call: Call<'c>, zone: &Zone<Copied>, what: Term<'c>) {
    if let (Some(to), Ok(name)) = (listener(zone), call.argument(1)) {
        let event = call.tuple([what, name]);
        call.send(to, call.tuple([secret(call, zone), event]));
    }
}
