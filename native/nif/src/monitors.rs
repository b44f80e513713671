//! Monitors of local processes.
//!
//! [`Monitors`] has a resource of the VM, whose `down` callback runs in each monitored process that
//! dies, and passes the death on to an [`Observer`]. The callback cannot be rescheduled, so an
//! observer does a bounded amount of work.
//!
//! The resource outlives its `Monitors`: it is never destroyed, but used again for the next ones.
//! `process_info(Pid, monitored_by)` makes a reference to each resource that monitors a process,
//! also if the resource has no reference left and is being destroyed. The VM then destroys it
//! twice, or under that reference, and ends with a fatal error or a segmentation fault
//! (doc/internals explains how). The reference that is kept here prevents that.
//!
//! So a death may be noticed late, when the resource has another observer. An observer must ignore
//! the deaths of processes that it does not know.

use std::collections::BTreeMap;
use std::mem;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use lazy_static::lazy_static;
use parking_lot::Mutex;
use rustler::{Env, LocalPid, Monitor, Resource, ResourceArc};

use proctab_table::reclaim::Deferred;
use proctab_terms::{call_times, pids};

/// Is told of the deaths of monitored processes.
pub trait Observer: Send + Sync {
    /// Handles the death of a process. Runs in that process, on a normal scheduler.
    fn down(&self, env: Env<'_>, pid: LocalPid, monitor: Monitor);
}

/// Monitors of processes, which are removed when this is dropped.
pub struct Monitors(Deferred<InUse>);

/// A resource that is in use. It is dropped in the background, because its monitors are removed one
/// by one.
struct InUse(ResourceArc<Watch>);

/// The VM's resource of monitors.
#[derive(Default)]
struct Watch {
    observer: Mutex<Option<Arc<dyn Observer>>>,
    /// The monitors, by the words of their processes: in a tree, since a hash table moves all of
    /// them at once when it grows. `down` waits for the lock, which is held while a monitor is
    /// made, so that it finds the monitor.
    monitors: Mutex<BTreeMap<u64, Monitor>>,
}

lazy_static! {
    /// The resources that are not in use.
    static ref UNUSED: Mutex<Vec<ResourceArc<Watch>>> = Mutex::default();
}

#[rustler::resource_impl(name = "proctab_watch")]
impl Resource for Watch {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, env: Env<'a>, pid: LocalPid, monitor: Monitor) {
        // A panic would end the node: rustler does not catch it.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            call_times::measure(c"down", || self.pass_on(env, pid, monitor));
        }));
    }
}

impl Watch {
    fn pass_on(&self, env: Env<'_>, pid: LocalPid, monitor: Monitor) {
        let word = pids::word(env, pid);
        let mut monitors = self.monitors.lock();
        // After a late death, the process may have another monitor, of another observer.
        if monitors.get(&word) == Some(&monitor) {
            monitors.remove(&word);
        }
        drop(monitors);
        let observer = self.observer.lock().clone();
        if let Some(observer) = observer {
            observer.down(env, pid, monitor);
        }
    }
}

impl Monitors {
    /// Returns no monitors yet, whose deaths `observer` will be told of.
    pub fn new(observer: Arc<dyn Observer>) -> Self {
        let unused = UNUSED.lock().pop();
        let watch = unused.unwrap_or_else(|| ResourceArc::new(Watch::default()));
        *watch.observer.lock() = Some(observer);
        Monitors(Deferred::new(InUse(watch)))
    }

    /// Monitors a process that is not monitored. Returns `None` if it is dead.
    pub fn monitor(&self, env: Env<'_>, pid: LocalPid) -> Option<Monitor> {
        let InUse(watch) = &*self.0;
        let mut monitors = watch.monitors.lock();
        let monitor = env.monitor(watch, &pid)?;
        monitors.insert(pids::word(env, pid), monitor);
        Some(monitor)
    }

    /// Removes the monitor of a process, if there is one.
    pub fn demonitor(&self, env: Env<'_>, pid: LocalPid) {
        let InUse(watch) = &*self.0;
        let monitor = watch.monitors.lock().remove(&pids::word(env, pid));
        if let Some(monitor) = monitor {
            // If this fails, the process has died.
            env.demonitor(watch, &monitor);
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let InUse(watch) = self;
        *watch.observer.lock() = None;
        let monitors = mem::take(&mut *watch.monitors.lock());
        for monitor in monitors.values() {
            // If this fails, the process has died.
            watch.demonitor(None, monitor);
        }
        UNUSED.lock().push(watch.clone());
    }
}
