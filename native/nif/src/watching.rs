//! A table of processes whose processes of this node are monitored.
//!
//! A table has many [`Monitors`], and each process is in one of them: all monitors of a resource
//! share a lock and a tree of the VM. When a process dies, the callback in that process adds it to
//! the deaths of the table, and wakes the reaper if that sleeps.
//!
//! The monitors stay when the server or the reaper is replaced. A death that is noticed after the
//! table was closed may be reported to a later table. There the process is not registered, or is
//! dead as well, and neither does harm.

use std::sync::Arc;

use parking_lot::Mutex;
use rustler::{Env, LocalPid, Monitor};

use proctab_table::commit::Committed;
use proctab_table::datum::Datum;
use proctab_table::deaths::Deaths;
use proctab_table::processes::{Notice, Processes};
use proctab_table::reclaim::Deferred;
use proctab_terms::{pids, Call, Copied, Fault, Term};

use crate::atoms::{self, atom};
use crate::monitors::{Monitors, Observer};

/// Resources of a table.
const WATCHES: usize = 64;

/// A table of processes whose processes of this node are monitored.
pub struct WatchedProcesses {
    /// The registrations.
    pub table: Processes<Copied>,
    reaper: Arc<Reaper>,
    monitors: Vec<Monitors>,
}

/// The reaper of a table, and what it waits for.
struct Reaper {
    /// Freed in the background: a callback may be the last one that keeps them.
    deaths: Deferred<Arc<Deaths<Copied>>>,
    pid: Mutex<Option<LocalPid>>,
}

impl Observer for Reaper {
    /// Adds the process to the deaths.
    #[allow(clippy::disallowed_methods)]
    fn down(&self, env: Env<'_>, pid: LocalPid, _: Monitor) {
        // A callback is not rescheduled.
        let wakes = self.deaths.add(pids::to_datum(env, pid), &Committed::new());
        if let (true, Some(reaper)) = (wakes, self.pid()) {
            // An error means that the reaper is dead. The next one looks at the deaths first.
            let _ = env.send(&reaper, atoms::dead());
        }
    }
}

impl Reaper {
    fn pid(&self) -> Option<LocalPid> {
        *self.pid.lock()
    }
}

impl Default for WatchedProcesses {
    fn default() -> Self {
        let table = Processes::default();
        let reaper = Arc::new(Reaper {
            deaths: Deferred::new(Arc::clone(table.deaths())),
            pid: Mutex::new(None),
        });
        let monitors = |_| Monitors::new(reaper.clone());
        WatchedProcesses {
            table,
            monitors: (0..WATCHES).map(monitors).collect(),
            reaper,
        }
    }
}

impl WatchedProcesses {
    /// Makes the calling process the reaper, which is woken when a process has died.
    pub fn set_reaper(&self, call: Call<'_>) -> Result<(), Fault> {
        let reaper = call.rustler_pid(call.immediate(call.caller()))?;
        *self.reaper.pid.lock() = Some(reaper);
        Ok(())
    }

    /// Does what a change of the registrations of `pid` demands. The call itself does it, because
    /// its caller may be killed as soon as it is back in Erlang.
    #[inline]
    pub fn heed<'c>(&self, call: Call<'c>, notice: Notice, pid: Term<'c>) {
        match notice {
            Notice::Nothing => (),
            Notice::Monitor => self.monitor(call, pid),
            Notice::Tell(server) => {
                let request = call.tuple([atom!(monitor), pid]);
                // If the server is dead, its successor will find the process in the table.
                call.send(server, call.tuple([atom!(cast), request]));
            }
            Notice::Wake => self.wake(call),
        }
    }

    /// Monitors a process of this node.
    fn monitor<'c>(&self, call: Call<'c>, term: Term<'c>) {
        let Ok(pid) = call.rustler_pid(term) else {
            return;
        };
        // All pids have the same lowest bits.
        let monitors = &self.monitors[(term.word() >> 4) as usize % WATCHES];
        let env = call.rustler_env();
        if monitors.monitor(env, pid).is_none() {
            self.add_death(call, pids::to_datum(env, pid), &call.commit());
        }
    }

    /// Adds a process that is dead.
    pub fn add_death(&self, call: Call<'_>, pid: Datum<Copied>, committed: &Committed) {
        if self.reaper.deaths.add(pid, committed) {
            self.wake(call);
        }
    }

    fn wake(&self, call: Call<'_>) {
        if let Some(reaper) = self.reaper.pid() {
            call.send(call.make_rustler_pid(&reaper).word(), atom!(dead));
        }
    }
}
