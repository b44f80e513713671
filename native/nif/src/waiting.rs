//! Waiters for an attribute of a name, and for the running child of a name.
//!
//! Waiters are woken from within the call that has added an attribute or a running child, because
//! its caller may be killed as soon as it is back in Erlang. No lock is held meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proctab_table::commit::Committed;
use proctab_table::datum::Borrowed;
use proctab_table::reclaim;
use proctab_table::waiters::{Sought, SoughtAll, Waiters};
use proctab_table::zone::Zone;
use proctab_terms::call_times;
use proctab_terms::{Answer, Call, Copied, Fault, Scratch};

use crate::atoms::{atom, boolean};
use crate::handles::Handles;
use crate::lookup;
use crate::tables::Table;

/// Cost of waking a waiter, in words.
const WAKE_COST: usize = 16;
/// Cost of looking for the waiters for one thing, in words.
const LOOK_COST: usize = 4;

/// The number of the next waiter.
static NEXT_WAITER: AtomicU64 = AtomicU64::new(0);

/// The handles of waiters.
pub static WAIT_HANDLES: Handles<Wait> = Handles::new(c"proctab_waits");

/// The entry of a waiting process in the wait list. Dropped with the process, which removes it
/// from the list.
pub struct Wait(Option<Waiter>);

/// Returns one of the wait lists of a zone.
type List = fn(&Zone<Copied>) -> &Waiters;

/// A waiter in a wait list, until it is dropped.
struct Waiter {
    zone: Arc<Table<Zone<Copied>>>,
    list: List,
    sought: Sought,
    id: u64,
}

impl Waiter {
    /// Removes it from the wait list. Returns `false` if it was woken before.
    fn remove(&self, committed: &Committed) -> bool {
        (self.list)(&self.zone.content).remove(self.sought, self.id, committed)
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
        call_times::measure(c"end_of_waiting", || drop(waiter));
    }
}

pub fn wait_for(call: Call<'_>) -> Answer<'_> {
    let mut scratch = Scratch::new();
    let key = call.lookup_key(call.argument(2)?, &mut scratch)?;
    wait_in(call, Zone::waiters, |zone, name| {
        zone.attribute_of(name, key)
    })
}

pub fn wait_for_child(call: Call<'_>) -> Answer<'_> {
    wait_in(call, Zone::child_waiters, Zone::child_of)
}

fn wait_in<'c>(
    call: Call<'c>,
    list: List,
    seek: impl FnOnce(&Zone<Copied>, Borrowed<'_, Copied>) -> Sought,
) -> Answer<'c> {
    let guard = reclaim::enter();
    let zone = lookup::zone_by_handle(call, &guard)?;
    let owner = zone.owner(call)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let sought = seek(&zone.content, name);
    let waiter = Waiter {
        zone,
        list,
        sought,
        id: NEXT_WAITER.fetch_add(1, Ordering::Relaxed),
    };
    let waiters = list(&waiter.zone.content);
    call.deduct_entries(waiters.moved_by_add(sought))?;
    waiters.add(sought, waiter.id, call.caller(), &call.commit());
    let id = call.integer(waiter.id as i64);
    let handle = WAIT_HANDLES.make(call, Wait(Some(waiter)));
    Ok(call.tuple([handle, id, owner]))
}

pub fn stop_waiting(call: Call<'_>) -> Answer<'_> {
    let wait = WAIT_HANDLES.get(call, call.argument(0)?)?;
    let waiter = wait.0.as_ref().ok_or(Fault::BadArgument)?;
    Ok(boolean(waiter.remove(&call.commit())))
}

pub fn waiting(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let total = zone.waiters().total() + zone.child_waiters().total();
    Ok(call.integer(total as i64))
}

/// Deducts the cost of waking the waiters for attributes, before anything is changed, if the change
/// `adds` attributes, whose waiters seek what it returns then. It is called only if there are
/// waiters.
#[inline]
pub fn deduct_wake_cost(
    call: Call<'_>,
    zone: &Zone<Copied>,
    adds: impl FnOnce() -> SoughtAll,
) -> Result<(), Fault> {
    let waiters = zone.waiters();
    if waiters.total() == 0 {
        return Ok(());
    }
    adds().iter().try_for_each(|sought| {
        call.deduct(LOOK_COST)?;
        call.deduct(WAKE_COST * waiters.count(*sought))
    })
}

/// Wakes the waiters for attributes that were added. `sought` is called only if there are waiters.
#[inline]
pub fn wake(
    call: Call<'_>,
    zone: &Zone<Copied>,
    sought: impl FnOnce() -> SoughtAll,
    committed: &Committed,
) {
    let waiters = zone.waiters();
    if waiters.are_there() {
        for sought in sought() {
            wake_in(call, waiters, sought, committed);
        }
    }
}

/// Deducts the cost of waking the waiters for the child of a name, before it begins to run.
pub fn deduct_birth_cost(
    call: Call<'_>,
    zone: &Zone<Copied>,
    name: Borrowed<'_, Copied>,
) -> Result<(), Fault> {
    let waiters = zone.child_waiters();
    match waiters.total() {
        0 => Ok(()),
        _ => call.deduct(WAKE_COST * waiters.count(zone.child_of(name))),
    }
}

/// Wakes the waiters for the child of a name, after it has begun to run.
pub fn wake_for_child(
    call: Call<'_>,
    zone: &Zone<Copied>,
    name: Borrowed<'_, Copied>,
    committed: &Committed,
) {
    let waiters = zone.child_waiters();
    if waiters.are_there() {
        wake_in(call, waiters, zone.child_of(name), committed);
    }
}

fn wake_in(call: Call<'_>, waiters: &Waiters, sought: Sought, committed: &Committed) {
    for (id, pid) in waiters.take(sought, committed) {
        let message = call.tuple([atom!(woken), call.integer(id as i64)]);
        call.send(pid, message);
    }
}
