//! Cleaning up after dead processes.
//!
//! The *reaper* of a table moves cleanups from the [`Deaths`](crate::deaths::Deaths) to the hand
//! ([`Processes::reap`]), a bounded number at a time. A *cleaner* takes them
//! ([`Processes::take_cleanups`]), undoes each outside of the table, and removes its registration
//! right after that ([`Processes::cleaned`]). So a registration that is gone was cleaned up
//! completely.
//!
//! The deaths and the hand are parts of the table. If reaper and cleaner end, the next reaper finds
//! in them what is left to do, and begins with the cleanup that the cleaner was making. Only the
//! process that has taken the cleanups removes any, and a cleaner of an earlier reaper takes none.
//!
//! A dead process may be in the deaths more than once, but its registrations are in the hand once.
//! Registrations that are added meanwhile are found when its last cleanup is done. Without
//! registrations, the process is removed; if some have only been begun, its cleanup waits for the
//! callers, until one of them ends its registration.

use std::time::{Duration, Instant};
use std::{iter, mem};

use dashmap::mapref::entry::Entry;

use crate::commit::Committed;
use crate::datum::{Datum, Foreign};
use crate::deaths::{Cleanup, Hand};
use crate::processes::{Notice, Process, Processes, State};
use crate::registrations::Registration;

/// Cost of looking at a process or at a registration, in words.
const VISIT: usize = 2;
/// Cost of one caller that a cleanup waits for, in words.
const CALLER: usize = 4;

/// The result of [`Processes::reap`].
#[derive(Debug, PartialEq)]
pub struct Reaped<F: Foreign> {
    /// How many cleanups are in the hand.
    pub cleanups: usize,
    /// Dead processes, each with the callers that its cleanup waits for from now on. There are none
    /// if it has waited before, and does not wait any more.
    pub waiting: Vec<(Datum<F>, Vec<u64>)>,
    /// Whether dead processes are left to look at.
    pub more: bool,
}

impl<F> Hand<F> {
    fn is_cleaned_by(&self, process: u64) -> bool {
        self.cleaner.is_some_and(|(cleaner, _)| cleaner == process)
    }
}

impl<F: Foreign> Processes<F> {
    /// Begins the work of a new reaper. It is not told which cleanups wait for callers, so all of
    /// these are looked at again.
    pub fn open_cleanups(&self, reaper: u64, _: &Committed) {
        self.hand.lock().reaper = reaper;
        self.deaths.awake();
        // Not while `waiting` is locked: a process is locked before it.
        let waiting = mem::take(&mut *self.waiting.lock());
        for pid in waiting {
            if let Some(mut process) = self.processes.get_mut(&pid) {
                // The reaper is awake.
                let _: Notice = self.resume(&pid, &mut process);
            }
        }
    }

    /// Returns how many cleanups wait for callers.
    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Fills the hand with at most `max` cleanups after dead processes, unless it has some.
    ///
    /// `allow` gets the cost of a process in words and returns whether there is time for it.
    /// Returns `None` if there is none for the first one, and nothing has changed.
    pub fn reap(
        &self,
        max: usize,
        mut allow: impl FnMut(usize) -> bool,
        _: &Committed,
    ) -> Option<Reaped<F>> {
        // Freed after the hand is unlocked.
        let mut freed = Vec::new();
        let mut hand = self.hand.lock();
        let mut waiting = Vec::new();
        let mut more = true;
        let mut is_first = true;
        hand.cleaner = None;
        while hand.cleanups.is_empty() || (!is_first && hand.cleanups.len() < max) {
            let Some(pid) = hand.next.take().or_else(|| self.deaths.take()) else {
                more = false;
                break;
            };
            let Some(removed) = self.look_at(&pid, max, &mut hand, &mut waiting, &mut allow) else {
                hand.next = Some(pid);
                if is_first {
                    return None;
                }
                break;
            };
            freed.push((pid, removed));
            is_first = false;
        }
        Some(Reaped {
            cleanups: hand.cleanups.len(),
            waiting,
            more,
        })
    }

    /// Moves cleanups after a dead process to the hand, or finds that they wait for callers, or
    /// removes the process. Returns what was removed, to be dropped later, or `None` if there is no
    /// time and nothing has changed.
    fn look_at(
        &self,
        pid: &Datum<F>,
        max: usize,
        hand: &mut Hand<F>,
        waiting: &mut Vec<(Datum<F>, Vec<u64>)>,
        allow: &mut impl FnMut(usize) -> bool,
    ) -> Option<Option<(Datum<F>, Process<F>)>> {
        let Entry::Occupied(mut entry) = self.processes.entry(pid.clone()) else {
            return allow(VISIT).then_some(None);
        };
        let process = entry.get_mut();
        if process.state == State::InHand {
            return allow(VISIT).then_some(None);
        }
        let before = hand.cleanups.len();
        let mut callers = Vec::new();
        for (name, registration) in process.registrations.iter_reversed() {
            match registration {
                Registration::Made { times, announced } => {
                    let cleanup = Cleanup {
                        pid: pid.clone(),
                        name: name.clone(),
                        announced: *announced,
                        is_last: false,
                    };
                    let times = usize::try_from(*times).unwrap_or(usize::MAX);
                    let times = times.min(max - hand.cleanups.len());
                    hand.cleanups.extend(iter::repeat_n(cleanup, times));
                }
                Registration::Begun { caller } => callers.push(*caller),
            }
            if hand.cleanups.len() == max {
                break;
            }
        }
        let made = hand.cleanups.len() - before;
        if !allow(VISIT * (1 + made) + CALLER * callers.len()) {
            hand.cleanups.truncate(before);
            return None;
        }
        let mut removed = None;
        let has_waited = matches!(process.state, State::Waiting | State::Resumed);
        if let (Some(last), 1..) = (hand.cleanups.back_mut(), made) {
            last.is_last = true;
            process.state = State::InHand;
            callers.clear();
        } else if callers.is_empty() {
            removed = Some(entry.remove_entry());
        } else {
            process.state = State::Waiting;
            self.waiting.lock().insert(pid.clone());
        }
        if has_waited || !callers.is_empty() {
            waiting.push((pid.clone(), callers));
        }
        Some(removed)
    }

    /// Returns the first cleanups in the hand, at most so many.
    pub fn cleanups(&self, most: usize) -> Vec<Cleanup<F>> {
        self.hand
            .lock()
            .cleanups
            .iter()
            .take(most)
            .cloned()
            .collect()
    }

    /// Makes this process the cleaner for so long, unless it is. It makes the cleanups in the hand,
    /// in order. Returns `false` and changes nothing if there is a later reaper than its own.
    pub fn take_cleanups(&self, reaper: u64, cleaner: u64, time: Duration, _: &Committed) -> bool {
        let mut hand = self.hand.lock();
        if hand.reaper != reaper {
            return false;
        }
        if !hand.is_cleaned_by(cleaner) {
            hand.cleaner = Some((cleaner, Instant::now() + time));
        }
        true
    }

    /// Returns the cleanup that this cleaner makes now.
    pub fn current_cleanup(&self, cleaner: u64) -> Option<Cleanup<F>> {
        let hand = self.hand.lock();
        hand.is_cleaned_by(cleaner)
            .then(|| hand.cleanups.front().cloned())
            .flatten()
    }

    /// Ends the cleanup that this cleaner makes now, and removes its registration. Returns whether
    /// the cleaner may make another one: `false` if its time is over. If this process is not the
    /// cleaner, or no cleanup is left, returns `false` and changes nothing.
    pub fn cleaned(&self, cleaner: u64, _: &Committed) -> bool {
        let mut hand = self.hand.lock();
        if !hand.is_cleaned_by(cleaner) {
            return false;
        }
        let Some(cleanup) = hand.cleanups.pop_front() else {
            return false;
        };
        let until = hand.cleaner.map(|(_, until)| until);
        drop(hand);
        self.finish(&cleanup);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn finish(&self, cleanup: &Cleanup<F>) {
        let Entry::Occupied(mut entry) = self.processes.entry(cleanup.pid.clone()) else {
            return;
        };
        let process = entry.get_mut();
        let mut removed = (self.remove_made(process, &cleanup.name), None);
        let mut is_due = false;
        if cleanup.is_last {
            if process.registrations.is_empty() {
                removed.1 = Some(entry.remove_entry());
            } else {
                process.state = State::Due;
                is_due = true;
                drop(entry);
            }
        } else {
            drop(entry);
        }
        drop(removed);
        if is_due {
            // The reaper looks into the deaths when its cleaner has ended.
            let _: bool = self.deaths.put(cleanup.pid.clone());
        }
    }
}
