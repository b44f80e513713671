//! The queue of dead processes that wait for their cleanup.
//!
//! Any thread adds the dead, in constant time and without a lock. One process, the *reaper*, takes
//! them. It sleeps when there are none, and must be woken by the thread that adds the first one.
//! Both sides write before they read: a thread adds a process and then looks whether the reaper is
//! awake; the reaper marks itself as asleep and then looks into the queue again. So one of them
//! sees the other, and the reaper is woken once, however many processes die meanwhile.

use std::collections::VecDeque;
use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{unbounded, Receiver, Sender};

use crate::commit::Committed;
use crate::datum::Datum;

/// The dead processes of a table that wait for their cleanup.
pub struct Deaths<F> {
    sender: Sender<Datum<F>>,
    receiver: Receiver<Datum<F>>,
    /// Whether the reaper looks into the queue before it sleeps, or will be woken.
    is_awake: AtomicBool,
}

/// One registration of a dead process, to be undone.
pub struct Cleanup<F> {
    /// The dead process.
    pub pid: Datum<F>,
    /// The name that it is registered under.
    pub name: Datum<F>,
    /// Whether the registration was announced.
    pub announced: bool,
    /// Whether the hand has no other cleanup after this process.
    pub(crate) is_last: bool,
}

/// The cleanups that are being made. They outlive the reaper and the cleaner.
pub(crate) struct Hand<F> {
    /// The cleanups that are left. The first one is being made, if a cleaner has taken them.
    pub cleanups: VecDeque<Cleanup<F>>,
    /// The latest reaper, whose cleaners may take them.
    pub reaper: u64,
    /// The process that makes them, and when it has to stop.
    pub cleaner: Option<(u64, Instant)>,
    /// A process that was taken from the deaths and not looked at yet.
    pub next: Option<Datum<F>>,
}

impl<F> Clone for Cleanup<F> {
    fn clone(&self) -> Self {
        Cleanup {
            pid: self.pid.clone(),
            name: self.name.clone(),
            ..*self
        }
    }
}

impl<F> Default for Hand<F> {
    fn default() -> Self {
        Hand {
            cleanups: VecDeque::new(),
            reaper: 0,
            cleaner: None,
            next: None,
        }
    }
}

impl<F> Default for Deaths<F> {
    fn default() -> Self {
        let (sender, receiver) = unbounded();
        Deaths {
            sender,
            receiver,
            is_awake: AtomicBool::new(true),
        }
    }
}

impl<F> Deaths<F> {
    /// Adds a dead process. Returns whether the caller has to wake the reaper.
    #[must_use]
    pub fn add(&self, pid: Datum<F>, _: &Committed) -> bool {
        self.put(pid)
    }

    /// Like [`add`](Self::add), as a part of a change that is committed.
    #[must_use]
    pub(crate) fn put(&self, pid: Datum<F>) -> bool {
        // An error would mean that there is no receiver.
        let _ = self.sender.send(pid);
        fence(Ordering::SeqCst);
        !self.is_awake.load(Ordering::Relaxed) && !self.is_awake.swap(true, Ordering::SeqCst)
    }

    /// Takes the process that was added first. If there is none, the reaper has to be woken when
    /// the next one is added.
    pub(crate) fn take(&self) -> Option<Datum<F>> {
        self.receiver.try_recv().ok().or_else(|| {
            self.is_awake.store(false, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let pid = self.receiver.try_recv().ok()?;
            self.is_awake.store(true, Ordering::SeqCst);
            Some(pid)
        })
    }

    /// Marks the reaper as awake: it is about to look into the queue.
    pub(crate) fn awake(&self) {
        self.is_awake.store(true, Ordering::SeqCst);
    }

    /// Returns how many processes wait.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether no process waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Kind;
    use crate::testing::Text;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    const COMMITTED: Committed = Committed::new();

    fn pid(number: u64) -> Datum<Text> {
        Datum::word(Kind::new(1), number)
    }

    #[test]
    fn the_dead_are_taken_in_order_and_the_reaper_is_woken_once() {
        let deaths = Deaths::default();
        // A new reaper looks into the queue first.
        assert!(!deaths.add(pid(1), &COMMITTED));
        assert_eq!((deaths.len(), deaths.is_empty()), (1, false));
        assert_eq!([deaths.take(), deaths.take()], [Some(pid(1)), None]);
        let woken = [2, 3, 4].map(|number| deaths.add(pid(number), &COMMITTED));
        assert_eq!(woken, [true, false, false]);
        let taken = [(); 4].map(|_| deaths.take());
        assert_eq!(taken, [Some(pid(2)), Some(pid(3)), Some(pid(4)), None]);
        assert!(deaths.add(pid(5), &COMMITTED));
        deaths.awake();
        assert!(!deaths.add(pid(6), &COMMITTED));
    }

    /// The reaper sleeps until it is woken. If a wake-up were lost, it would sleep for ever.
    #[test]
    fn no_death_is_missed_by_a_reaper_that_falls_asleep() {
        const THREADS: usize = 3;
        const DEATHS: usize = 200_000;
        let deaths = Deaths::default();
        let taken = AtomicUsize::new(0);
        let (wake, woken) = unbounded();
        thread::scope(|scope| {
            scope.spawn(|| {
                while taken.load(Ordering::Relaxed) < THREADS * DEATHS {
                    match deaths.take() {
                        Some(_) => {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                        None => woken.recv().unwrap(),
                    }
                }
            });
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for number in 0..DEATHS as u64 {
                        if deaths.add(pid(number), &COMMITTED) {
                            wake.send(()).unwrap();
                        }
                        if number % 16 == 0 {
                            thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(taken.load(Ordering::Relaxed), THREADS * DEATHS);
        assert!(deaths.is_empty());
    }
}
