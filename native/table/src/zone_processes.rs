//! The processes of a zone itself: its tracker, its watchdog and its registrars.
//!
//! A registrar is the keeper of many rows: of processes that have registered a name, and need
//! nothing but to be watched. A thread that gives a name to such a process does so in a [`Claim`],
//! and tells the registrar before the claim ends. So once a registrar is closed and no claim is
//! left ([`ZoneProcesses::close`]), every row of the registrar is in the table, and the registrar
//! has been told of all of them.
//!
//! A claim counts itself, and then reads whether the registrar is open. Closing is a write, and
//! then a read of that count. All of these are sequentially consistent, so a claim finds the
//! registrar closed, or is counted.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::commit::Committed;
use crate::reservations::Reservations;

/// Registrars of a zone at most.
pub const REGISTRARS: usize = 8;

/// The word of a process that does not exist. No process has it.
const NONE: u64 = 0;

/// The processes of a zone itself.
#[derive(Default)]
pub struct ZoneProcesses {
    tracker: AtomicU64,
    watchdog: AtomicU64,
    registrars: [Registrar; REGISTRARS],
    reservations: Reservations,
}

/// A registrar. Each has cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Registrar {
    pid: AtomicU64,
    is_open: AtomicBool,
    /// The claims that are being made.
    claims: AtomicUsize,
}

/// The right to give a name to a process that a registrar will watch.
pub struct Claim<'z> {
    registrar: &'z Registrar,
    pid: u64,
}

impl Claim<'_> {
    /// Returns the registrar.
    pub fn registrar(&self) -> u64 {
        self.pid
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.registrar.claims.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ZoneProcesses {
    /// Sets the tracker.
    pub fn set_tracker(&self, pid: u64, _: &Committed) {
        self.tracker.store(pid, Ordering::Release);
    }

    /// Returns the tracker, if it was set.
    pub fn tracker(&self) -> Option<u64> {
        let tracker = self.tracker.load(Ordering::Acquire);
        (tracker != NONE).then_some(tracker)
    }

    /// Sets the watchdog.
    pub fn set_watchdog(&self, pid: u64, _: &Committed) {
        self.watchdog.store(pid, Ordering::Release);
    }

    /// Returns whether a process is one of them.
    pub fn contain(&self, pid: u64) -> bool {
        let others = [&self.tracker, &self.watchdog];
        let registrars = self.registrars.iter().map(|registrar| &registrar.pid);
        others
            .into_iter()
            .chain(registrars)
            .any(|process| process.load(Ordering::Acquire) == pid)
    }

    /// Returns the names that processes have reserved while they are being started.
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    /// Returns the registrars, open or not.
    pub fn registrars(&self) -> impl Iterator<Item = u64> + '_ {
        let pids = self.registrars.iter().map(|registrar| &registrar.pid);
        pids.map(|pid| pid.load(Ordering::Acquire))
            .filter(|pid| *pid != NONE)
    }

    /// Returns the position of the registrar for a process.
    pub fn position(process: u64) -> usize {
        // All pids have the same lowest bits.
        (process >> 4) as usize % REGISTRARS
    }

    /// Begins a claim for the registrar at a position. Returns `None` if that is not open.
    pub fn claim(&self, position: usize) -> Option<Claim<'_>> {
        let registrar = &self.registrars[position];
        registrar.claims.fetch_add(1, Ordering::SeqCst);
        let is_open = registrar.is_open.load(Ordering::SeqCst);
        let claim = Claim {
            registrar,
            pid: registrar.pid.load(Ordering::SeqCst),
        };
        is_open.then_some(claim)
    }

    /// Replaces the registrar at a position. The new one is closed. Returns `false` if there is no
    /// such position.
    pub fn appoint(&self, position: usize, pid: u64, _: &Committed) -> bool {
        let registrar = self.registrars.get(position);
        let appoint = |registrar: &Registrar| {
            registrar.is_open.store(false, Ordering::SeqCst);
            registrar.pid.store(pid, Ordering::SeqCst);
        };
        registrar.map(appoint).is_some()
    }

    /// Opens a registrar. Returns `false` if it is not the one at that position.
    pub fn open(&self, position: usize, pid: u64, _: &Committed) -> bool {
        let registrar = self.registrars.get(position);
        let is_this = |registrar: &&Registrar| registrar.pid.load(Ordering::SeqCst) == pid;
        let open = |registrar: &Registrar| registrar.is_open.store(true, Ordering::SeqCst);
        registrar.filter(is_this).map(open).is_some()
    }

    /// Closes the registrar at a position. Returns `false` while claims are being made.
    pub fn close(&self, position: usize, _: &Committed) -> bool {
        self.registrars.get(position).is_none_or(|registrar| {
            registrar.is_open.store(false, Ordering::SeqCst);
            registrar.claims.load(Ordering::SeqCst) == 0
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    const COMMITTED: Committed = Committed::new();

    #[test]
    fn a_registrar_is_claimed_while_it_is_open() {
        let processes = ZoneProcesses::default();
        assert!(processes.claim(3).is_none());
        assert!(processes.appoint(3, 16, &COMMITTED));
        assert!(processes.claim(3).is_none());
        assert!(!processes.open(3, 32, &COMMITTED) && !processes.open(4, 16, &COMMITTED));
        assert!(processes.open(3, 16, &COMMITTED));
        let claim = processes.claim(3).unwrap();
        assert_eq!(claim.registrar(), 16);
        assert!(!processes.close(3, &COMMITTED) && processes.claim(3).is_none());
        drop(claim);
        assert!(processes.close(3, &COMMITTED));
        assert!(!processes.appoint(REGISTRARS, 16, &COMMITTED));
        assert!(processes.contain(16) && !processes.contain(32));
        assert_eq!(processes.registrars().collect::<Vec<_>>(), [16]);
    }

    /// Once a closed registrar has no claim, no thread uses one.
    #[test]
    fn no_claim_outlives_the_closing() {
        for _ in 0..200 {
            let processes = ZoneProcesses::default();
            assert!(processes.appoint(0, 16, &COMMITTED) && processes.open(0, 16, &COMMITTED));
            let closed = AtomicBool::new(false);
            let (begun, begin) = channel();
            thread::scope(|scope| {
                let (processes, closed) = (&processes, &closed);
                for _ in 0..2 {
                    let begun = begun.clone();
                    scope.spawn(move || {
                        begun.send(()).unwrap();
                        while let Some(claim) = processes.claim(0) {
                            assert!(!closed.load(Ordering::SeqCst));
                            drop(claim);
                        }
                    });
                }
                assert!(begin.recv().is_ok());
                while !processes.close(0, &COMMITTED) {
                    thread::yield_now();
                }
                closed.store(true, Ordering::SeqCst);
            });
        }
    }
}
