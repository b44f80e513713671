//! Who is told of what happens in a zone: its listener of births and deaths, and those who wait for an attribute.
//!
//! They are told here, from within the call that has changed the table, because its caller may be killed as soon as it is back in Erlang. No lock is held then.

use std::sync::atomic::{AtomicU64, Ordering};

use rustler::env::SavedTerm;
use rustler::sys::{enif_is_current_process_alive, ErlNifTerm};
use rustler::thread::is_scheduler_thread;
use rustler::{LocalPid, OwnedEnv, ResourceArc, Term};

use proctab_table::commit::Committed;
use proctab_table::datum::Datum;
use proctab_table::reclaim;
use proctab_table::zone::Zone;

use crate::call::{export, Answer, Call, Fault};
use crate::call_times;
use crate::conversion::Use;
use crate::copied::Copied;
use crate::handles::Handles;
use crate::tables::Table;
use crate::{atom, boolean};

export! { listen/1, unlisten/1, wait_for/2, stop_waiting/1, waiting/1 }

/// What it costs to wake one who waits, in words of terms.
const WAKE_COST: usize = 16;

/// The last waiter's number.
static LAST_WAITER: AtomicU64 = AtomicU64::new(0);

/// One who waits. When it dies, its memory goes, this with it, and so its place among the waiters.
pub struct Waits(Option<Place>);

/// The handles of those who wait.
pub static WAITS: Handles<Waits> = Handles::new(c"proctab_waits");

/// A place among the waiters, until it is dropped.
struct Place {
    zone: ResourceArc<Table<Zone<Copied>>>,
    name: Datum<Copied>,
    id: u64,
    /// Whether it takes long to find the name.
    long: bool,
}

impl Place {
    fn leave(&self, committed: &Committed) -> bool {
        let waiters = self.zone.content.waiters();
        waiters.forget(&self.name, self.id, committed)
    }
}

impl Drop for Place {
    /// Not for a call: the VM, or the background, ends what it has begun.
    #[allow(clippy::disallowed_methods)]
    fn drop(&mut self) {
        self.leave(&Committed::new());
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let place = self.0.take();
        call_times::measure(c"end_of_waiting", || match place {
            Some(place) if place.long => reclaim::later(place),
            short => drop(short),
        });
    }
}

/// What the events of a zone begin with: a small integer that nobody else knows.
fn secret(call: &Call, zone: &Zone<Copied>) -> ErlNifTerm {
    const SMALL: u64 = (1 << 59) - 1;
    call.integer((zone.secret() & SMALL) as i64)
}

/// A message that is sent when this is dropped.
struct Undelivered(OwnedEnv, SavedTerm, LocalPid);

impl Drop for Undelivered {
    fn drop(&mut self) {
        let Undelivered(environment, message, to) = self;
        // Only the background thread may send in this way; when there is none, nothing is sent.
        if !is_scheduler_thread() {
            let _ = environment.send_and_clear(to, |env| message.load(env));
        }
    }
}

fn listen(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let table = call.zone_table(&guard)?;
    table.content.listen(call.caller(), &call.commit());
    Ok(secret(call, &table.content))
}

fn unlisten(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let table = call.zone_table(&guard)?;
    table.content.unlisten(call.caller(), &call.commit());
    Ok(atom!(ok))
}

fn wait_for(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let zone = call.zone_table(&guard)?;
    let owner = zone.owner(call)?;
    let place = Place {
        zone,
        name: call.owned_key(call.argument(1)?)?,
        id: LAST_WAITER.fetch_add(1, Ordering::Relaxed),
        long: call.is_dirty(),
    };
    let waiters = place.zone.content.waiters();
    call.spend_entries(waiters.growth(&place.name))?;
    let name = place.name.clone();
    waiters.add(name, place.id, call.caller(), &call.commit());
    let id = call.integer(place.id as i64);
    let waits = WAITS.make(call, Waits(Some(place)));
    Ok(call.tuple([waits, id, owner]))
}

fn stop_waiting(call: &Call) -> Answer {
    let waits = WAITS.get(call, call.argument(0)?)?;
    let place = waits.0.as_ref().ok_or(Fault::BadArgument)?;
    if place.long && !call.is_dirty() {
        return Err(Fault::Reschedule);
    }
    Ok(boolean(place.leave(&call.commit())))
}

fn waiting(call: &Call) -> Answer {
    let guard = reclaim::enter();
    let zone = call.named::<Zone<Copied>>(&guard)?;
    Ok(call.integer(zone.waiters().total() as i64))
}

impl Call<'_> {
    /// Pays for telling the zone's listener of the name that is the second argument, before anything is changed. One that begins to listen after that is
    /// told all the same.
    pub fn allow_telling(&self, zone: &Zone<Copied>) -> Result<(), Fault> {
        match zone.listener() {
            Some(_) => self.weigh(self.argument(1)?, Use::Value).map(|_| ()),
            None => Ok(()),
        }
    }

    /// The same of the reason of a child's end, as it will be told. What is too large for any table is told by an atom: the end of a child is never refused.
    pub fn allow_telling_reason(&self, zone: &Zone<Copied>, reason: ErlNifTerm) -> Answer {
        self.allow_telling(zone)?;
        match zone.listener().map(|_| self.weigh(reason, Use::Value)) {
            Some(Err(Fault::BadArgument)) => Ok(atom!(large)),
            Some(Err(Fault::Reschedule)) => Err(Fault::Reschedule),
            Some(Ok(_)) | None => Ok(reason),
        }
    }

    /// Tells the zone's listener that a name has a running child now. The listener keeps the name, so
    /// it is made of what the table keeps, which keeps no larger binary alive.
    #[inline]
    pub fn tell_up(&self, zone: &Zone<Copied>, name: &Datum<Copied>, child: ErlNifTerm) {
        if let Some(listener) = zone.listener() {
            let event = self.tuple([atom!(up), self.write(name), child]);
            self.send(listener, self.tuple([secret(self, zone), event]));
        }
    }

    /// Tells it that the child is dead.
    #[inline]
    pub fn tell_down(&self, zone: &Zone<Copied>, child: ErlNifTerm, reason: ErlNifTerm) {
        if let (Some(listener), Ok(name)) = (zone.listener(), self.argument(1)) {
            let event = self.tuple([atom!(down), name, child, reason]);
            self.send(listener, self.tuple([secret(self, zone), event]));
        }
    }

    /// Pays for waking those who wait for an attribute of a name, before anything is changed; unless the change adds none.
    pub fn allow_waking(
        &self,
        zone: &Zone<Copied>,
        name: &Datum<Copied>,
        adds: impl FnOnce() -> bool,
    ) -> Result<(), Fault> {
        match zone.waiters().total() {
            0 => Ok(()),
            _ if adds() => self.spend(WAKE_COST * zone.waiters().count(name)),
            _ => Ok(()),
        }
    }

    /// Wakes them: an attribute was added.
    pub fn wake(&self, zone: &Zone<Copied>, name: &Datum<Copied>, committed: &Committed) {
        for (id, pid) in zone.waiters().take(name, committed) {
            let message = self.tuple([atom!(woken), self.integer(id as i64)]);
            self.send(pid, message);
        }
    }

    /// Sends a message to a local process; nothing happens when that one is dead.
    ///
    /// A caller that was killed while it ran on a dirty scheduler cannot send any more, by the VM's rule. What it has done is done, and told by the background
    /// thread, later.
    pub fn send(&self, to: u64, message: ErlNifTerm) {
        // What fails says that there is nobody to tell.
        let _ = self.with_env(|env| {
            // SAFETY: both are terms of the caller's environment.
            let (to, message) = unsafe { (Term::new(env, self.word(to)), Term::new(env, message)) };
            let to: LocalPid = to.decode().map_err(|_| Fault::BadArgument)?;
            // SAFETY: `env` is the caller's environment.
            let is_killed = || unsafe { enif_is_current_process_alive(self.env) == 0 };
            if env.send(&to, message).is_err() && is_killed() {
                let environment = OwnedEnv::new();
                let message = environment.save(message);
                reclaim::later(Undelivered(environment, message, to));
            }
            Ok(())
        });
    }
}
