//! A table of processes and the names that they are registered under.
//!
//! Each process is a key of its own, written more often than read, so sharded locks are the right
//! structure. A shard is locked for one process or one name at a time, and never while a message is
//! sent. A name is counted while the process is locked, never the other way round: a reader of a
//! process and then its name, or of a name and then its process, sees both before a registration or
//! both after it.
//!
//! A registration is made in one step ([`Processes::register`]), or begun and ended by a *caller*
//! that does something in between which may fail ([`Processes::begin`]). Until it ends, only
//! [`Processes::next`] sees it. The table does not notice if the caller dies meanwhile: a thread
//! that finds such a registration learns who began it, and calls [`Processes::abandon`] if that
//! process is dead.
//!
//! The server must monitor every registered process. The caller that adds the first registration
//! may be killed at any time, so `begin` and `end` return the server to notify, and the embedder
//! notifies it before the caller can be killed. A new server pages through all processes and claims
//! each. It finds a process that was added before its page was read; a process that was added later
//! was added by a caller that already saw the new server.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::mapref::entry::Entry;
use dashmap::DashMap;
use indexmap::map::Entry as Slot;
use indexmap::IndexMap;

use crate::commit::Committed;
use crate::datum::{Datum, Foreign};
use crate::hashing::{moved_by_add, Seed};

/// Shards of the processes, and of the names. A shard grows at once and is listed at once, so it
/// has to stay small where the whole is large.
const SHARDS: usize = 1024;

/// The word of no process.
const NOBODY: u64 = 0;

/// The watcher of a dead process with registrations that have not ended. Their end must be told to
/// the server.
const WAITING: u64 = u64::MAX;

/// A table of processes and the names they are registered under.
pub struct Processes<F: Foreign> {
    processes: DashMap<Datum<F>, Process<F>, Seed>,
    /// The number of registrations of each name.
    names: DashMap<Datum<F>, i64, Seed>,
    server: AtomicU64,
    holder: AtomicU64,
}

struct Process<F: Foreign> {
    /// The server that monitors the process.
    watcher: u64,
    registrations: IndexMap<Datum<F>, Registration, Seed>,
}

enum Registration {
    Begun { caller: u64 },
    Made { times: u64, announced: bool },
}

/// The result of [`Processes::begin`].
#[derive(Debug, PartialEq)]
pub enum Begun {
    /// The caller has to end it. The server, if it has to be told of the process.
    New(Option<u64>),
    /// There is one, or the caller began it before.
    Registered,
    /// This other caller has begun one and not ended it, or holds the table.
    Busy(u64),
}

/// The caller has not begun the registration, and there is none.
#[derive(Debug, PartialEq)]
pub struct NotBegun;

/// The next step of the cleanup of a dead process.
#[derive(Debug, PartialEq)]
pub enum Next<F: Foreign> {
    /// To undo its registration under this name, which was announced or not.
    Registered(Datum<F>, bool),
    /// To wait for these callers, whose registrations have not ended. When one ends, the server is
    /// told, and has to monitor the process again.
    Busy(Vec<u64>),
    /// Nothing is left to do.
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
    /// Makes this process the server. It has to claim the processes that are in the table.
    pub fn serve(&self, server: u64, _: &Committed) {
        self.server.store(server, Ordering::SeqCst);
    }

    /// Lets only `holder` begin registrations, until the table is released.
    pub fn hold(&self, holder: u64, _: &Committed) {
        self.holder.store(holder, Ordering::SeqCst);
    }

    /// Lets every caller begin registrations again, if `holder` holds the table.
    pub fn release(&self, holder: u64, _: &Committed) {
        // An error means that it does not.
        let _ = self
            .holder
            .compare_exchange(holder, NOBODY, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Records that the server `watcher` monitors a process. Returns whether it did not before.
    pub fn claim(&self, pid: &Datum<F>, watcher: u64, _: &Committed) -> bool {
        let Some(mut process) = self.processes.get_mut(pid) else {
            return false;
        };
        let changed = process.watcher != watcher;
        process.watcher = watcher;
        changed
    }

    /// Registers a process under a name, once more if it is registered.
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

    /// Begins to register a process under a name.
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
                Begun::New(self.server_to_tell(&process))
            }
        }
    }

    /// Ends a registration that the caller began: the process is registered, and was announced or
    /// not. Returns the server, if it has to be told of the process.
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
        Ok(self.server_to_tell(&process))
    }

    /// Removes a registration that the caller began. Returns the server, if it waits for that.
    pub fn fail(&self, pid: &Datum<F>, name: &Datum<F>, caller: u64, _: &Committed) -> Option<u64> {
        self.remove_begun(pid, |begun, registration| {
            begun == name && registration.is_begun_by(caller)
        })
    }

    /// Removes all registrations of a process that a dead caller began, and releases the table if
    /// it holds it. A server that waits for the caller has to monitor it.
    pub fn abandon(&self, pid: &Datum<F>, caller: u64, committed: &Committed) {
        self.release(caller, committed);
        self.remove_begun(pid, |_, registration| registration.is_begun_by(caller));
    }

    fn remove_begun(
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
        let awaited = (process.watcher == WAITING).then(|| self.server_to_tell(process));
        // A process that is monitored is removed when it dies.
        let removed = (process.registrations.is_empty() && process.watcher == NOBODY)
            .then(|| entry.remove_entry());
        drop((taken, removed));
        awaited.flatten()
    }

    /// Returns the next step of the cleanup of a dead process, and removes the process if nothing
    /// is left to do.
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

    /// Removes one registration of a process under a name, if there is one.
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

    /// Returns the names that a process is registered under.
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

    /// Returns the number of names of a process, including registrations that have not ended.
    pub fn registrations(&self, pid: &Datum<F>) -> usize {
        let process = self.processes.get(pid);
        process.map_or(0, |process| process.registrations.len())
    }

    /// Returns the number of callers that [`next`](Self::next) would return for a dead process, or
    /// visit before it finds a registration.
    pub fn begun(&self, pid: &Datum<F>) -> usize {
        let process = self.processes.get(pid);
        process.map_or(0, |process| {
            let registrations = process.registrations.values().rev();
            registrations.take_while(|made| !made.is_made()).count()
        })
    }

    /// Returns the number of entries that are moved when a registration is added.
    pub fn moved_by_add(&self, pid: &Datum<F>) -> usize {
        let process = self.processes.get(pid);
        process.map_or(0, |process| moved_by_add(&process.registrations))
    }

    /// Returns the number of registrations of a name.
    pub fn count(&self, name: &Datum<F>) -> i64 {
        self.names.get(name).map_or(0, |count| *count)
    }

    /// Returns the processes of at least one shard, and the shard to go on from.
    pub fn page(&self, shard: usize) -> (Vec<Datum<F>>, Option<usize>) {
        page(&self.processes, shard, |_| (), |pid, ()| pid)
    }

    /// Returns the names of at least one shard with the number of their registrations, and the
    /// shard to go on from.
    pub fn counts(&self, shard: usize) -> (Vec<(Datum<F>, i64)>, Option<usize>) {
        page(
            &self.names,
            shard,
            |count| *count,
            |name, count| (name, count),
        )
    }

    fn server_to_tell(&self, process: &Process<F>) -> Option<u64> {
        let server = self.server.load(Ordering::SeqCst);
        (server != NOBODY && server != process.watcher).then_some(server)
    }

    /// Changes the number of registrations of a name. Returns the name if that is 0 now: to be
    /// dropped after the process was unlocked.
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

/// Returns the entries of at least one shard of a map, and the shard to go on from.
fn page<K, V, T, P>(
    map: &DashMap<K, V, Seed>,
    shard: usize,
    pick: impl Fn(&V) -> P,
    make: impl Fn(K, P) -> T,
) -> (Vec<T>, Option<usize>)
where
    K: Clone + Eq + std::hash::Hash,
{
    const ENOUGH: usize = 128;
    let mut items = Vec::new();
    for (index, shard) in map.shards().iter().enumerate().skip(shard) {
        if items.len() >= ENOUGH {
            return (items, Some(index));
        }
        let shard = shard.read();
        // SAFETY: the shard is locked for reading, and the lock outlives the buckets. `pick` and
        // the clones do not use the map.
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

    /// Returns the items of all pages.
    fn all<T>(page: impl Fn(usize) -> (Vec<T>, Option<usize>)) -> Vec<T> {
        let mut all = Vec::new();
        let mut next = Some(0);
        while let Some(shard) = next {
            let (items, after) = page(shard);
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
    fn no_caller_ends_or_removes_the_registration_of_another() {
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
    fn a_failed_registration_leaves_only_a_monitored_process() {
        let table = served();
        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        table.fail(&pid(1), &name("a"), CALLER, &COMMITTED);
        assert!(all(|shard| table.page(shard)).is_empty());
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
    fn a_made_registration_needs_no_end_and_a_missing_one_has_none() {
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
    fn the_registrations_of_a_dead_process_are_undone_one_by_one() {
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
        assert_eq!(all(|shard| table.page(shard)), [pid(2)]);
        assert_eq!(all(|shard| table.counts(shard)), [(name("a"), 1)]);
    }

    #[test]
    fn the_cleanup_of_a_dead_process_waits_for_its_callers() {
        let table = served();
        table.begin(&pid(1), &name("a"), CALLER, &COMMITTED);
        table.begin(&pid(1), &name("b"), OTHER, &COMMITTED);
        assert!(table.claim(&pid(1), SERVER, &COMMITTED));
        assert_eq!(
            table.next(&pid(1), &COMMITTED),
            Next::Busy(vec![OTHER, CALLER])
        );
        table.abandon(&pid(1), OTHER, &COMMITTED);
        // It ends after all: the server has to look again, and has no monitor any more.
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
        assert!(all(|shard| table.page(shard)).is_empty());
    }

    #[test]
    fn the_server_is_told_when_a_caller_fails_after_the_process_died() {
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
    fn only_the_holder_of_a_table_begins_registrations() {
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
    fn the_pages_list_each_process_and_name_once() {
        let table = served();
        for number in 0..5_000 {
            table.register(&pid(number), &name(&number.to_string()), &COMMITTED);
        }
        let mut pids: Vec<_> = all(|shard| table.page(shard))
            .iter()
            .map(|pid| format!("{pid:?}"))
            .collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 5_000);
        let counts = all(|shard| table.counts(shard));
        assert_eq!(counts.len(), 5_000);
        assert!(counts.iter().all(|(_, count)| *count == 1));
    }
}
