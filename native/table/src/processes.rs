//! The processes that a server watches, and the names that each is registered under.
//!
//! Each process is another key, and each is written more often than read: sharded locks are right here. A shard is locked for one
//! process or one name at a time, and never while anything is told to anybody. A name is counted while the process is locked, never the other way
//! round: who reads a process after a name, or a name after a process, sees both before a registration or both after it.
//!
//! A registration is made in one step ([`Processes::register`]), or begun and ended by a *caller*, who does something in between that may
//! fail ([`Processes::begin`]); until it ends, nobody but [`Processes::next`] sees it. What happens when the caller dies in
//! between is not for the table to know: whoever meets such a registration learns who began it, and says so
//! ([`Processes::abandon`]) when that one is dead.
//!
//! Of a process that is registered the server has to know, so that it watches for its death. Who adds the first registration may be killed at
//! any time and cannot be trusted to tell; so `begin` and `end` answer whom to tell, and the embedder does it before its caller can be
//! stopped. A server that is replaced by another pages through all processes and claims each: one that was added before its page was read
//! is seen there, and one that was added later was added by somebody who knew the new server.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::mapref::entry::Entry;
use dashmap::DashMap;
use indexmap::map::Entry as Slot;
use indexmap::IndexMap;

use crate::commit::Committed;
use crate::datum::{Datum, Foreign};
use crate::{moved_by_add, Seed};

/// How many parts the processes and the names have. A part grows at once and is listed at once, so it has to stay small where
/// the whole is large.
const SHARDS: usize = 1024;

/// No process at all.
const NOBODY: u64 = 0;

/// The watcher of a process that is dead and waits for those who have not ended what they began. Whoever ends it has to tell the server.
const WAITING: u64 = u64::MAX;

/// A table of processes and the names they are registered under.
pub struct Processes<F: Foreign> {
    processes: DashMap<Datum<F>, Process<F>, Seed>,
    /// How many registrations each name has.
    names: DashMap<Datum<F>, i64, Seed>,
    server: AtomicU64,
    holder: AtomicU64,
}

struct Process<F: Foreign> {
    /// The server that watches it.
    watcher: u64,
    registrations: IndexMap<Datum<F>, Registration, Seed>,
}

enum Registration {
    Begun { caller: u64 },
    Made { times: u64, announced: bool },
}

/// What became of a registration that somebody wanted to begin.
#[derive(Debug, PartialEq)]
pub enum Begun {
    /// It is the caller's to end. The server is named when it has to be told of the process.
    New(Option<u64>),
    /// It was there, or the caller began it before.
    Registered,
    /// This other caller has begun it and not ended it, or holds the table.
    Busy(u64),
}

/// The caller has begun no such registration, and nobody else has made it.
#[derive(Debug, PartialEq)]
pub struct NotBegun;

/// What to do next for a dead process.
#[derive(Debug, PartialEq)]
pub enum Next<F: Foreign> {
    /// It is registered under this name, and was announced or not.
    Registered(Datum<F>, bool),
    /// These callers have not ended what they began. When one does, the server is told, and has to watch the process anew.
    Busy(Vec<u64>),
    /// Nothing is left.
    Done,
}

impl<F: Foreign> Default for Processes<F> {
    fn default() -> Self {
        let seed = Seed::default();
        Processes {
            processes: DashMap::with_hasher_and_shard_amount(seed.clone(), SHARDS),
            names: DashMap::with_hasher_and_shard_amount(seed, SHARDS),
            server: AtomicU64::new(NOBODY),
            holder: AtomicU64::new(NOBODY),
        }
    }
}

impl<F: Foreign> Processes<F> {
    /// From now on this server watches the processes; it claims those that there are.
    pub fn serve(&self, server: u64, _: &Committed) {
        self.server.store(server, Ordering::SeqCst);
    }

    /// Until it is released, only `holder` can begin registrations.
    pub fn hold(&self, holder: u64, _: &Committed) {
        self.holder.store(holder, Ordering::SeqCst);
    }

    /// Lets everybody begin registrations, if it is this one who holds them off.
    pub fn release(&self, holder: u64, _: &Committed) {
        // Any other answer says that it holds nothing.
        let _ = self
            .holder
            .compare_exchange(holder, NOBODY, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether the server `watcher` has to watch a process that it did not watch before.
    pub fn claim(&self, pid: &Datum<F>, watcher: u64, _: &Committed) -> bool {
        let Some(mut process) = self.processes.get_mut(pid) else {
            return false;
        };
        let changed = process.watcher != watcher;
        process.watcher = watcher;
        changed
    }

    /// Registers a process under a name once more.
    pub fn register(&self, pid: &Datum<F>, name: &Datum<F>, _: &Committed) {
        let mut process = self.processes.entry(pid.clone()).or_default();
        match process.registrations.entry(name.clone()) {
            Slot::Occupied(mut slot) => match slot.get_mut() {
                Registration::Made { times, .. } => *times += 1,
                begun => *begun = Registration::made(true),
            },
            Slot::Vacant(slot) => {
                slot.insert(Registration::made(true));
            }
        }
        self.add(name, 1);
    }

    /// Begins to register a process under a name that it does not have.
    pub fn begin(&self, pid: &Datum<F>, name: &Datum<F>, caller: u64, _: &Committed) -> Begun {
        let holder = self.holder.load(Ordering::SeqCst);
        if holder != NOBODY && holder != caller {
            return Begun::Busy(holder);
        }
        let mut process = self.processes.entry(pid.clone()).or_default();
        match process.registrations.get(name) {
            Some(Registration::Begun { caller: other }) if *other != caller => Begun::Busy(*other),
            Some(_) => Begun::Registered,
            None => {
                let begun = Registration::Begun { caller };
                process.registrations.insert(name.clone(), begun);
                Begun::New(self.to_be_told(&process))
            }
        }
    }

    /// Ends what the caller began: the process is registered, and was announced or not. The server is named when it has to be told of the
    /// process.
    pub fn end(
        &self,
        pid: &Datum<F>,
        name: &Datum<F>,
        caller: u64,
        announced: bool,
        _: &Committed,
    ) -> Result<Option<u64>, NotBegun> {
        let mut process = self.processes.get_mut(pid).ok_or(NotBegun)?;
        match process.registrations.get_mut(name) {
            Some(begun) if begun.is_begun_by(caller) => *begun = Registration::made(announced),
            Some(Registration::Made { .. }) => return Ok(None),
            _ => return Err(NotBegun),
        }
        self.add(name, 1);
        Ok(self.to_be_told(&process))
    }

    /// Takes back what the caller began. The server is named when it waits for that.
    pub fn fail(&self, pid: &Datum<F>, name: &Datum<F>, caller: u64, _: &Committed) -> Option<u64> {
        self.take_back(pid, |begun, registration| {
            begun == name && registration.is_begun_by(caller)
        })
    }

    /// Takes back all that a caller, who is dead, began for a process, and its hold of the table. A server that waits for the caller has to
    /// learn of its death by itself.
    pub fn abandon(&self, pid: &Datum<F>, caller: u64, committed: &Committed) {
        self.release(caller, committed);
        self.take_back(pid, |_, registration| registration.is_begun_by(caller));
    }

    fn take_back(
        &self,
        pid: &Datum<F>,
        is_taken: impl Fn(&Datum<F>, &Registration) -> bool,
    ) -> Option<u64> {
        let Entry::Occupied(mut entry) = self.processes.entry(pid.clone()) else {
            return None;
        };
        let process = entry.get_mut();
        let taken: Vec<_> = process
            .registrations
            .extract_if(.., |name, registration| is_taken(name, registration))
            .collect();
        let awaited = (process.watcher == WAITING).then(|| self.to_be_told(process));
        // One that is watched goes when it dies.
        let removed = (process.registrations.is_empty() && process.watcher == NOBODY)
            .then(|| entry.remove_entry());
        drop((taken, removed));
        awaited.flatten()
    }

    /// What is left to do for a dead process. Its row goes when that is nothing.
    pub fn next(&self, pid: &Datum<F>, _: &Committed) -> Next<F> {
        let Entry::Occupied(mut entry) = self.processes.entry(pid.clone()) else {
            return Next::Done;
        };
        let process = entry.get_mut();
        let mut callers = Vec::new();
        for (name, registration) in process.registrations.iter().rev() {
            match registration {
                Registration::Made { announced, .. } => {
                    return Next::Registered(name.clone(), *announced)
                }
                Registration::Begun { caller } => callers.push(*caller),
            }
        }
        if callers.is_empty() {
            drop(entry.remove_entry());
            return Next::Done;
        }
        process.watcher = WAITING;
        Next::Busy(callers)
    }

    /// Takes back one registration of a process under a name, if there is one.
    pub fn unregister(&self, pid: &Datum<F>, name: &Datum<F>, _: &Committed) {
        let Some(mut process) = self.processes.get_mut(pid) else {
            return;
        };
        let removed = match process.registrations.get_mut(name) {
            Some(Registration::Made { times: 1, .. }) => {
                process.registrations.swap_remove_entry(name)
            }
            Some(Registration::Made { times, .. }) => {
                *times -= 1;
                None
            }
            _ => return,
        };
        let uncounted = self.add(name, -1);
        drop(process);
        drop((removed, uncounted));
    }

    /// The names that a process is registered under.
    pub fn names(&self, pid: &Datum<F>) -> Vec<Datum<F>> {
        let Some(process) = self.processes.get(pid) else {
            return Vec::new();
        };
        let made = process
            .registrations
            .iter()
            .filter(|(_, made)| made.is_made());
        made.map(|(name, _)| name.clone()).collect()
    }

    /// How many names a process is registered under, or somebody has begun to register it under.
    pub fn registrations(&self, pid: &Datum<F>) -> usize {
        let process = self.processes.get(pid);
        process.map_or(0, |process| process.registrations.len())
    }

    /// How many callers have to end what they began before more can be said of a dead process by [`next`](Self::next).
    pub fn begun(&self, pid: &Datum<F>) -> usize {
        let process = self.processes.get(pid);
        process.map_or(0, |process| {
            let registrations = process.registrations.values().rev();
            registrations.take_while(|made| !made.is_made()).count()
        })
    }

    /// How many of them are moved when one more is added.
    pub fn moved_by_add(&self, pid: &Datum<F>) -> usize {
        let process = self.processes.get(pid);
        process.map_or(0, |process| moved_by_add(&process.registrations))
    }

    /// How many registrations a name has.
    pub fn count(&self, name: &Datum<F>) -> i64 {
        self.names.get(name).map_or(0, |count| *count)
    }

    /// The processes of a part of the table, and the part to go on with.
    pub fn page(&self, part: usize) -> (Vec<Datum<F>>, Option<usize>) {
        page(&self.processes, part, |_| (), |pid, ()| pid)
    }

    /// The names of a part of the table, and how many registrations each has; and the part to go on with.
    pub fn counts(&self, part: usize) -> (Vec<(Datum<F>, i64)>, Option<usize>) {
        page(
            &self.names,
            part,
            |count| *count,
            |name, count| (name, count),
        )
    }

    fn to_be_told(&self, process: &Process<F>) -> Option<u64> {
        let server = self.server.load(Ordering::SeqCst);
        (server != NOBODY && server != process.watcher).then_some(server)
    }

    /// The name, when nothing is registered under it any more: to be dropped when the process is unlocked.
    fn add(&self, name: &Datum<F>, change: i64) -> Option<(Datum<F>, i64)> {
        match self.names.entry(name.clone()) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += change;
                (*entry.get() == 0).then(|| entry.remove_entry())
            }
            Entry::Vacant(entry) => {
                entry.insert(change);
                None
            }
        }
    }
}

/// Some of a map's entries, at least one part of it.
fn page<K, V, T, P>(
    map: &DashMap<K, V, Seed>,
    part: usize,
    pick: impl Fn(&V) -> P,
    make: impl Fn(K, P) -> T,
) -> (Vec<T>, Option<usize>)
where
    K: Clone + Eq + std::hash::Hash,
{
    const ENOUGH: usize = 128;
    let mut items = Vec::new();
    for (part, shard) in map.shards().iter().enumerate().skip(part) {
        if items.len() >= ENOUGH {
            return (items, Some(part));
        }
        let shard = shard.read();
        // SAFETY: the guard keeps the shard from being changed while its buckets are read, and it outlives them.
        for bucket in unsafe { shard.iter() } {
            // SAFETY: as above.
            let (key, value) = unsafe { bucket.as_ref() };
            items.push(make(key.clone(), pick(value.get())));
        }
    }
    (items, None)
}

impl<F: Foreign> Default for Process<F> {
    fn default() -> Self {
        Process {
            watcher: NOBODY,
            registrations: IndexMap::default(),
        }
    }
}

impl Registration {
    fn made(announced: bool) -> Self {
        Registration::Made {
            times: 1,
            announced,
        }
    }

    fn is_made(&self) -> bool {
        matches!(self, Registration::Made { .. })
    }

    fn is_begun_by(&self, caller: u64) -> bool {
        matches!(self, Registration::Begun { caller: by } if *by == caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Kind;
    use crate::testing::Text;

    const COMMITTED: Committed = Committed::new();
    const KIND: Kind = Kind::new(1);
    const SERVER: u64 = 100;
    const CALLER: u64 = 200;
    const OTHER: u64 = 201;

    fn pid(number: u64) -> Datum<Text> {
        Datum::word(KIND, number)
    }

    fn name(name: &str) -> Datum<Text> {
        Datum::bytes(KIND, name.as_bytes())
    }

    fn served() -> Processes<Text> {
        let processes = Processes::default();
        processes.serve(SERVER, &COMMITTED);
        processes
    }

    /// All parts, one after the other.
    fn all<T>(page: impl Fn(usize) -> (Vec<T>, Option<usize>)) -> Vec<T> {
        let mut all = Vec::new();
        let mut next = Some(0);
        while let Some(part) = next {
            let (items, after) = page(part);
            all.extend(items);
            next = after;
        }
        all
    }

    #[test]
    fn a_registration_counts_once_it_has_ended() {
        let table = served();
        assert_eq!(
            table.begin(&pid(1), &name("a"), CALLER, &COMMITTED),
            Begun::New(Some(SERVER))
        );
        assert_eq!((table.count(&name("a")), table.names(&pid(1))), (0, vec![]));
        assert_eq!(
            table.end(&pid(1), &name("a"), CALLER, true, &COMMITTED),
            Ok(Some(SERVER))
        );
        assert_eq!(
            (table.count(&name("a")), table.names(&pid(1))),
            (1, vec![name("a")])
        );
        assert_eq!(
            table.begin(&pid(1), &name("a"), CALLER, &COMMITTED),
            Begun::Registered
        );
        assert_eq!(
            table.begin(&pid(1), &name("a"), OTHER, &COMMITTED),
            Begun::Registered
        );
    }

    #[test]
    fn nobody_ends_or_takes_back_what_another_began() {
        let table = served();
        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        assert_eq!(
            table.begin(&pid(1), &name("a"), CALLER, &COMMITTED),
            Begun::Registered
        );
        assert_eq!(
            table.begin(&pid(1), &name("a"), OTHER, &COMMITTED),
            Begun::Busy(CALLER)
        );
        assert_eq!(
            table.end(&pid(1), &name("a"), OTHER, true, &COMMITTED),
            Err(NotBegun)
        );
        table.fail(&pid(1), &name("a"), OTHER, &COMMITTED);
        table.abandon(&pid(1), OTHER, &COMMITTED);
        table.fail(&pid(1), &name("b"), CALLER, &COMMITTED);
        assert_eq!(
            table.begin(&pid(1), &name("a"), OTHER, &COMMITTED),
            Begun::Busy(CALLER)
        );
        table.abandon(&pid(1), CALLER, &COMMITTED);
        assert_eq!(
            table.begin(&pid(1), &name("a"), OTHER, &COMMITTED),
            Begun::New(Some(SERVER))
        );
    }

    #[test]
    fn what_failed_leaves_nothing_but_what_is_watched() {
        let table = served();
        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        table.fail(&pid(1), &name("a"), CALLER, &COMMITTED);
        assert!(all(|part| table.page(part)).is_empty());
        assert!(!table.claim(&pid(1), SERVER, &COMMITTED));

        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        assert!(table.claim(&pid(1), SERVER, &COMMITTED));
        table.fail(&pid(1), &name("a"), CALLER, &COMMITTED);
        // Still watched: no second monitor.
        assert_eq!(
            table.begin(&pid(1), &name("a"), CALLER, &COMMITTED),
            Begun::New(None)
        );
    }

    #[test]
    fn a_process_is_claimed_once_by_each_server() {
        let table = served();
        assert!(!table.claim(&pid(1), SERVER, &COMMITTED));
        table.register(&pid(1), &name("a"), &COMMITTED);
        assert!(table.claim(&pid(1), SERVER, &COMMITTED));
        assert!(!table.claim(&pid(1), SERVER, &COMMITTED));
        assert_eq!(
            table.begin(&pid(1), &name("b"), CALLER, &COMMITTED),
            Begun::New(None)
        );
        table.serve(SERVER + 1, &COMMITTED);
        assert_eq!(
            table.end(&pid(1), &name("b"), CALLER, true, &COMMITTED),
            Ok(Some(SERVER + 1))
        );
        assert!(table.claim(&pid(1), SERVER + 1, &COMMITTED));
    }

    #[test]
    fn what_is_registered_already_needs_no_end_and_what_is_gone_has_none() {
        let table = served();
        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        table.register(&pid(1), &name("a"), &COMMITTED);
        assert_eq!(
            table.end(&pid(1), &name("a"), CALLER, true, &COMMITTED),
            Ok(None)
        );
        assert_eq!(table.count(&name("a")), 1);
        assert_eq!(
            table.end(&pid(1), &name("b"), CALLER, true, &COMMITTED),
            Err(NotBegun)
        );
        assert_eq!(
            table.end(&pid(2), &name("a"), CALLER, true, &COMMITTED),
            Err(NotBegun)
        );
    }

    #[test]
    fn a_dead_process_is_undone_name_by_name_and_time_by_time() {
        let table = served();
        table.register(&pid(1), &name("a"), &COMMITTED);
        table.register(&pid(1), &name("a"), &COMMITTED);
        table.begin(&pid(1), &name("b"), CALLER, &COMMITTED);
        assert!(table
            .end(&pid(1), &name("b"), CALLER, false, &COMMITTED)
            .is_ok());
        table.register(&pid(2), &name("a"), &COMMITTED);
        assert_eq!(table.count(&name("a")), 3);

        assert_eq!(
            table.next(&pid(1), &COMMITTED),
            Next::Registered(name("b"), false)
        );
        table.unregister(&pid(1), &name("b"), &COMMITTED);
        for left in [2, 1] {
            assert_eq!(
                table.next(&pid(1), &COMMITTED),
                Next::Registered(name("a"), true)
            );
            table.unregister(&pid(1), &name("a"), &COMMITTED);
            assert_eq!(table.count(&name("a")), left);
        }
        assert_eq!(table.next(&pid(1), &COMMITTED), Next::Done);
        table.unregister(&pid(1), &name("a"), &COMMITTED);
        assert_eq!(all(|part| table.page(part)), [pid(2)]);
        assert_eq!(all(|part| table.counts(part)), [(name("a"), 1)]);
    }

    #[test]
    fn the_caller_of_a_dead_process_is_waited_for() {
        let table = served();
        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        table.begin(&pid(1), &name("b"), OTHER, &COMMITTED);
        assert!(table.claim(&pid(1), SERVER, &COMMITTED));
        assert_eq!(
            table.next(&pid(1), &COMMITTED),
            Next::Busy(vec![OTHER, CALLER])
        );
        table.abandon(&pid(1), OTHER, &COMMITTED);
        // Ended after all: the server has to look again, and its monitor is gone.
        assert_eq!(
            table.end(&pid(1), &name("a"), CALLER, true, &COMMITTED),
            Ok(Some(SERVER))
        );
        assert!(table.claim(&pid(1), SERVER, &COMMITTED));
        assert_eq!(
            table.next(&pid(1), &COMMITTED),
            Next::Registered(name("a"), true)
        );
        table.unregister(&pid(1), &name("a"), &COMMITTED);
        assert_eq!(table.next(&pid(1), &COMMITTED), Next::Done);
        assert!(all(|part| table.page(part)).is_empty());
    }

    #[test]
    fn the_failure_of_the_caller_of_a_dead_process_is_told() {
        let table = served();
        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        assert!(table.claim(&pid(1), SERVER, &COMMITTED));
        assert_eq!(table.next(&pid(1), &COMMITTED), Next::Busy(vec![CALLER]));
        assert_eq!(
            table.fail(&pid(1), &name("a"), CALLER, &COMMITTED),
            Some(SERVER)
        );
        assert!(table.claim(&pid(1), SERVER, &COMMITTED));
        assert_eq!(table.next(&pid(1), &COMMITTED), Next::Done);
    }

    #[test]
    fn who_holds_the_table_holds_off_the_others() {
        let table = served();
        table.hold(OTHER, &COMMITTED);
        assert_eq!(
            table.begin(&pid(1), &name("a"), CALLER, &COMMITTED),
            Begun::Busy(OTHER)
        );
        table.release(CALLER, &COMMITTED);
        assert_eq!(
            table.begin(&pid(1), &name("a"), CALLER, &COMMITTED),
            Begun::Busy(OTHER)
        );
        table.release(OTHER, &COMMITTED);
        assert_eq!(
            table.begin(&pid(1), &name("a"), CALLER, &COMMITTED),
            Begun::New(Some(SERVER))
        );

        table.hold(OTHER, &COMMITTED);
        table.abandon(&pid(1), OTHER, &COMMITTED);
        assert_eq!(
            table.begin(&pid(1), &name("b"), CALLER, &COMMITTED),
            Begun::New(Some(SERVER))
        );
    }

    #[test]
    fn all_is_listed_once() {
        let table = served();
        for number in 0..5_000 {
            table.register(&pid(number), &name(&number.to_string()), &COMMITTED);
        }
        let mut pids: Vec<_> = all(|part| table.page(part))
            .iter()
            .map(|pid| format!("{pid:?}"))
            .collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 5_000);
        let counts = all(|part| table.counts(part));
        assert_eq!(counts.len(), 5_000);
        assert!(counts.iter().all(|(_, count)| *count == 1));
    }
}
