//! Waiters for the next attribute of a name.
//!
//! Waiters are woken from within the call that has added an attribute, because its caller may be
//! killed as soon as it is back in Erlang. No lock is held meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proctab_table::commit::Committed;
use proctab_table::datum::Datum;
use proctab_table::reclaim;
use proctab_table::zone::Zone;
use proctab_terms::call_times;
use proctab_terms::{Answer, Call, Copied, Fault};

use crate::atoms::{atom, boolean};
use crate::handles::Handles;
use crate::lookup;
use crate::tables::Table;

/// Cost of waking a waiter, in words.
const WAKE_COST: usize = 16;

/// The number of the next waiter.
static NEXT_WAITER: AtomicU64 = AtomicU64::new(0);

/// The handles of waiters.
pub static WAIT_HANDLES: Handles<Wait> = Handles::new(c"proctab_waits");

/// The entry of a waiting process in the wait list. Dropped with the process, which removes it
/// from the list.
pub struct Wait(Option<Waiter>);

/// A waiter in the wait list, until it is dropped.
struct Waiter {
    zone: Arc<Table<Zone<Copied>>>,
    name: Datum<Copied>,
    id: u64,
    /// Whether the name is too long to be looked up on a normal scheduler.
    is_long: bool,
}

impl Waiter {
    /// Removes it from the wait list. Returns `false` if it was woken before.
    fn remove(&self, committed: &Committed) -> bool {
        let waiters = self.zone.content.waiters();
        waiters.remove(&self.name, self.id, committed)
    }
}

impl Drop for Waiter {
    /// Runs in the VM's destructor or in the background thread: no call is rescheduled.
    #[allow(clippy::disallowed_methods)]
    fn drop(&mut self) {
        self.remove(&Committed::new());
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let waiter = self.0.take();
        call_times::measure(c"end_of_waiting", || match waiter {
            Some(waiter) if waiter.is_long => reclaim::later(waiter),
            waiter => drop(waiter),
        });
    }
}

pub fn wait_for(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let owner = zone.owner(call)?;
    let waiter = Waiter {
        zone,
        name: call.to_key(call.argument(1)?)?,
        id: NEXT_WAITER.fetch_add(1, Ordering::Relaxed),
        is_long: call.is_dirty(),
    };
    let waiters = waiter.zone.content.waiters();
    call.deduct_entries(waiters.moved_by_add(&waiter.name))?;
    let name = waiter.name.clone();
    waiters.add(name, waiter.id, call.caller(), &call.commit());
    let id = call.integer(waiter.id as i64);
    let handle = WAIT_HANDLES.make(call, Wait(Some(waiter)));
    Ok(call.tuple([handle, id, owner]))
}

pub fn stop_waiting(call: Call<'_>) -> Answer<'_> {
    let wait = WAIT_HANDLES.get(call, call.argument(0)?)?;
    let waiter = wait.0.as_ref().ok_or(Fault::BadArgument)?;
    if waiter.is_long && !call.is_dirty() {
        return Err(Fault::Reschedule);
    }
    Ok(boolean(waiter.remove(&call.commit())))
}

pub fn waiting(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    Ok(call.integer(zone.waiters().total() as i64))
}

/// Deducts the cost of waking the waiters of a name, before anything is changed, if the change
/// `adds` an attribute.
pub fn deduct_wake_cost(
    call: Call<'_>,
    zone: &Zone<Copied>,
    name: &Datum<Copied>,
    adds: impl FnOnce() -> bool,
) -> Result<(), Fault> {
    match zone.waiters().total() {
        0 => Ok(()),
        _ if adds() => call.deduct(WAKE_COST * zone.waiters().count(name)),
        _ => Ok(()),
    }
}

/// Wakes the waiters of a name, after an attribute was added.
pub fn wake(call: Call<'_>, zone: &Zone<Copied>, name: &Datum<Copied>, committed: &Committed) {
    for (id, pid) in zone.waiters().take(name, committed) {
        let message = call.tuple([atom!(woken), call.integer(id as i64)]);
        call.send(pid, message);
    }
}
