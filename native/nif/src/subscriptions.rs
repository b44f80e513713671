//! The subscribers of the processes that send events.
//!
//! Such a process, a *sender*, may be killed, and the tracker of its zone before it. Its
//! subscribers learn of that all the same: they are kept here, and a callback that runs in each
//! sender that dies tells them `{Library, Zone, unsubscribed}`. A sender that ends by itself tells
//! them before ([`end_subscriptions`]), so that this comes after all events.

use std::collections::HashMap;
use std::sync::Arc;

use lazy_static::lazy_static;
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, OwnedEnv};

use proctab_table::reclaim;
use proctab_table::Seed;
use proctab_terms::{pids, Answer, Call, Fault};

use crate::atoms::{self, atom, boolean};
use crate::monitors::{Monitors, Observer};
use crate::processes::list;

/// The most subscribers that are told in one go: some hundred microseconds of work.
const TOLD_AT_ONCE: usize = 256;

/// The message that ends a subscription.
type Farewell = (Atom, Atom, Atom);

lazy_static! {
    /// The senders, by their words.
    static ref SENDERS: Mutex<HashMap<u64, Sender, Seed>> = Mutex::default();
    static ref MONITORS: Monitors = Monitors::new(Arc::new(Ends));
}

/// A process that sends events.
struct Sender {
    farewell: Farewell,
    tracker: u64,
    subscribers: HashMap<u64, LocalPid, Seed>,
}

/// Learns of the ends of senders.
struct Ends;

/// A dead sender, whose subscribers are told when this is dropped.
struct Dead(u64);

/// Removes some subscribers of a sender, and calls `send` with each. Returns whether there are
/// more.
///
/// The lock is held meanwhile: when a subscriber has cancelled its subscriptions, the farewell has
/// been sent, or never will be. Sending three atoms takes less than a microsecond.
fn tell_some(sender: u64, mut send: impl FnMut(&LocalPid, Farewell)) -> bool {
    let mut senders = SENDERS.lock();
    let Some(found) = senders.get_mut(&sender) else {
        return false;
    };
    let subscribers = &mut found.subscribers;
    let some: Vec<u64> = subscribers.keys().take(TOLD_AT_ONCE).copied().collect();
    for subscriber in some {
        if let Some(pid) = subscribers.remove(&subscriber) {
            send(&pid, found.farewell);
        }
    }
    let has_more = !subscribers.is_empty();
    let ended = (!has_more).then(|| senders.remove(&sender));
    drop(senders);
    drop(ended);
    has_more
}

/// Sends a farewell from a callback or a call.
fn send(env: Env<'_>) -> impl FnMut(&LocalPid, Farewell) + '_ {
    move |to, farewell| {
        // An error means that the subscriber is dead.
        let _ = env.send(to, farewell);
    }
}

impl Observer for Ends {
    fn down(&self, env: Env<'_>, pid: LocalPid, _: Monitor) {
        let sender = pids::word(env, pid);
        if tell_some(sender, send(env)) {
            reclaim::later(Dead(sender));
        }
    }
}

impl Drop for Dead {
    /// Runs in the background thread.
    fn drop(&mut self) {
        let mut env = OwnedEnv::new();
        while tell_some(self.0, |to, farewell| {
            // An error means that the subscriber is dead.
            let _ = env.send_and_clear(to, |env| farewell.encode(env));
        }) {}
    }
}

pub fn open_subscriptions(call: Call<'_>) -> Answer<'_> {
    let (library, zone) = (call.rustler_atom(0)?, call.rustler_atom(1)?);
    let sender = Sender {
        farewell: (library, zone, atoms::unsubscribed()),
        tracker: call.pid(2)?,
        subscribers: HashMap::default(),
    };
    let _ = call.commit();
    if SENDERS.lock().insert(call.caller(), sender).is_some() {
        return Ok(atom!(ok));
    }
    // The callback finds the sender. A caller that was killed on its way has no callback, and no
    // subscribers.
    let env = call.rustler_env();
    if MONITORS.monitor(env, env.pid()).is_none() {
        let ended = SENDERS.lock().remove(&call.caller());
        drop(ended);
    }
    Ok(atom!(ok))
}

pub fn add_subscriber(call: Call<'_>) -> Answer<'_> {
    let (word, pid) = (call.pid(0)?, call.rustler_pid(call.argument(0)?)?);
    let mut senders = SENDERS.lock();
    let sender = senders.get_mut(&call.caller());
    let subscribers = &mut sender.ok_or(Fault::BadArgument)?.subscribers;
    let _ = call.commit();
    subscribers.insert(word, pid);
    Ok(atom!(ok))
}

pub fn remove_subscriber(call: Call<'_>) -> Answer<'_> {
    let subscriber = call.pid(0)?;
    let _ = call.commit();
    if let Some(sender) = SENDERS.lock().get_mut(&call.caller()) {
        sender.subscribers.remove(&subscriber);
    }
    Ok(atom!(ok))
}

pub fn cancel_subscriptions(call: Call<'_>) -> Answer<'_> {
    let (library, zone) = (call.rustler_atom(0)?, call.rustler_atom(1)?);
    let subscriber = call.caller();
    let _ = call.commit();
    for (sender, found) in SENDERS.lock().iter_mut() {
        let (of_library, of_zone, _) = found.farewell;
        if (of_library, of_zone) == (library, zone) && !call.is_alive(*sender) {
            found.subscribers.remove(&subscriber);
        }
    }
    Ok(atom!(ok))
}

pub fn end_subscriptions(call: Call<'_>) -> Answer<'_> {
    let _ = call.commit();
    Ok(boolean(tell_some(call.caller(), send(call.rustler_env()))))
}

pub fn subscriptions(call: Call<'_>) -> Answer<'_> {
    let senders = SENDERS.lock();
    let subscribers = |sender: &Sender| sender.subscribers.keys().copied().collect();
    let all: Vec<(u64, Vec<u64>)> = senders
        .values()
        .map(|sender| (sender.tracker, subscribers(sender)))
        .collect();
    drop(senders);
    call.deduct(all.iter().map(|(_, one)| 5 + 2 * one.len()).sum())?;
    Ok(list(call, &all, |(tracker, subscribers)| {
        let subscribers = list(call, subscribers, |pid| call.immediate(*pid));
        call.tuple([call.immediate(*tracker), subscribers])
    }))
}
