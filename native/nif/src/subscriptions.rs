//! The subscribers of the processes that send events.
//!
//! Such a process, a *sender*, may be killed, and the tracker of its zone before it. Its
//! subscribers learn of that all the same: they are kept here, and a callback that runs in each
//! sender that dies tells them `{Library, Zone, unsubscribed}`. A sender that ends by itself tells
//! them before ([`end_subscriptions`]), so that this comes after all events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lazy_static::lazy_static;
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, OwnedEnv};

use proctab_table::reclaim;
use proctab_table::Seed;
use proctab_terms::{pids, Answer, Call, Fault};
use smallvec::SmallVec;

use crate::atoms::{self, atom, boolean};
use crate::monitors::{Monitors, Observer};

/// The most subscribers that are told in one go: some hundred microseconds of work.
const TOLD_AT_ONCE: usize = 256;

/// The message that ends a subscription.
type Farewell = (Atom, Atom, Atom);

/// The most senders and subscribers that a page visits.
const PAGE: usize = 256;
/// Cost of a subscriber on a page, in words.
const SUBSCRIBER_COST: usize = 8;

lazy_static! {
    static ref SENDERS: Mutex<Senders> = Mutex::default();
    static ref MONITORS: Monitors = Monitors::new(Arc::new(Ends));
}

/// All senders.
#[derive(Default)]
struct Senders {
    /// The senders by their words.
    all: BTreeMap<u64, Sender>,
    /// The words of the senders of each library and zone: the present one, and dead ones whose
    /// subscribers have not all been told.
    of_zones: HashMap<(usize, usize), SmallVec<[u64; 2]>, Seed>,
}

/// A process that sends events.
struct Sender {
    farewell: Farewell,
    tracker: u64,
    /// The subscribers by their words.
    subscribers: BTreeMap<u64, LocalPid>,
}

impl Senders {
    /// Adds a sender. Returns whether it is new.
    fn add(&mut self, word: u64, sender: Sender) -> bool {
        let key = key_of(sender.farewell);
        let is_new = self.all.insert(word, sender).is_none();
        if is_new {
            self.of_zones.entry(key).or_default().push(word);
        }
        is_new
    }

    fn remove(&mut self, word: u64) -> Option<Sender> {
        let removed = self.all.remove(&word)?;
        let key = key_of(removed.farewell);
        if let Some(words) = self.of_zones.get_mut(&key) {
            words.retain(|other| *other != word);
            if words.is_empty() {
                self.of_zones.remove(&key);
            }
        }
        Some(removed)
    }
}

/// Returns the key of the library and the zone whose end a farewell tells.
fn key_of((library, zone, _): Farewell) -> (usize, usize) {
    (library.as_c_arg(), zone.as_c_arg())
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
    let Some(found) = senders.all.get_mut(&sender) else {
        return false;
    };
    for _ in 0..TOLD_AT_ONCE {
        match found.subscribers.pop_first() {
            Some((_, pid)) => send(&pid, found.farewell),
            None => break,
        }
    }
    let has_more = !found.subscribers.is_empty();
    let ended = (!has_more).then(|| senders.remove(sender));
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
        subscribers: BTreeMap::new(),
    };
    let _ = call.commit();
    let is_new = SENDERS.lock().add(call.caller(), sender);
    if !is_new {
        return Ok(atom!(ok));
    }
    // The callback finds the sender. A caller that was killed on its way has no callback, and no
    // subscribers.
    let env = call.rustler_env();
    if MONITORS.monitor(env, env.pid()).is_none() {
        let ended = SENDERS.lock().remove(call.caller());
        drop(ended);
    }
    Ok(atom!(ok))
}

pub fn add_subscriber(call: Call<'_>) -> Answer<'_> {
    let (word, pid) = (call.pid(0)?, call.rustler_pid(call.argument(0)?)?);
    let mut senders = SENDERS.lock();
    let sender = senders.all.get_mut(&call.caller());
    let subscribers = &mut sender.ok_or(Fault::BadArgument)?.subscribers;
    let _ = call.commit();
    subscribers.insert(word, pid);
    Ok(atom!(ok))
}

pub fn remove_subscriber(call: Call<'_>) -> Answer<'_> {
    let subscriber = call.pid(0)?;
    let _ = call.commit();
    if let Some(sender) = SENDERS.lock().all.get_mut(&call.caller()) {
        sender.subscribers.remove(&subscriber);
    }
    Ok(atom!(ok))
}

pub fn cancel_subscriptions(call: Call<'_>) -> Answer<'_> {
    let (library, zone) = (call.rustler_atom(0)?, call.rustler_atom(1)?);
    let subscriber = call.caller();
    let _ = call.commit();
    let mut senders = SENDERS.lock();
    let Senders { all, of_zones } = &mut *senders;
    let words = of_zones.get(&key_of((library, zone, atoms::unsubscribed())));
    for word in words.into_iter().flatten() {
        if let Some(sender) = all.get_mut(word).filter(|_| !call.is_alive(*word)) {
            sender.subscribers.remove(&subscriber);
        }
    }
    Ok(atom!(ok))
}

pub fn end_subscriptions(call: Call<'_>) -> Answer<'_> {
    let _ = call.commit();
    Ok(boolean(tell_some(call.caller(), send(call.rustler_env()))))
}

/// A place among all subscriptions: a sender, and its first subscriber that is not passed, or 0.
type Place = (u64, u64);

/// Makes a page of the subscriptions from a place on, and the place to go on from.
pub fn subscriptions(call: Call<'_>) -> Answer<'_> {
    let from = place(call)?;
    call.allow(PAGE * SUBSCRIBER_COST)?;
    let (subscriptions, next) = page(from);
    call.deduct(subscriptions.len() * SUBSCRIBER_COST)?;
    let pair = |(one, other)| call.tuple([call.immediate(one), call.immediate(other)]);
    let list = subscriptions
        .into_iter()
        .fold(call.nil(), |list, subscription| {
            call.cons(pair(subscription), list)
        });
    let next = match next {
        None => atom!(done),
        Some((sender, 0)) => call.tuple([call.immediate(sender), atom!(none)]),
        Some(place) => pair(place),
    };
    Ok(call.tuple([list, next]))
}

/// Converts the argument that is a place.
fn place(call: Call<'_>) -> Result<Place, Fault> {
    let from = call.argument(0)?;
    if from.is(atoms::none()) {
        return Ok((0, 0));
    }
    match call.get_tuple(from) {
        Some([sender, none]) if none.is(atoms::none()) => Ok((call.to_pid(*sender)?, 0)),
        Some([sender, subscriber]) => Ok((call.to_pid(*sender)?, call.to_pid(*subscriber)?)),
        _ => Err(Fault::BadArgument),
    }
}

/// Returns trackers and their subscribers from a place on, and the place to go on from.
fn page((first, subscriber): Place) -> (Vec<(u64, u64)>, Option<Place>) {
    let mut page = Vec::with_capacity(PAGE);
    let senders = SENDERS.lock();
    for (visited, (word, sender)) in senders.all.range(first..).enumerate() {
        if visited == PAGE {
            return (page, Some((*word, 0)));
        }
        let from = if *word == first { subscriber } else { 0 };
        for (subscriber, _) in sender.subscribers.range(from..) {
            if page.len() == PAGE {
                return (page, Some((*word, *subscriber)));
            }
            page.push((sender.tracker, *subscriber));
        }
    }
    (page, None)
}
