//! A table of processes and the names that they are registered under.
//!
//! Each process is a key of its own, written more often than read, so sharded locks are the right
//! structure. A shard is locked for one process or one name at a time, and never while a message is
//! sent. A name is counted while the process is locked, never the other way round: a reader of a
//! process and then its name, or of a name and then its process, sees both before a registration or
//! both after it.
//!
//! A registration is made in one step ([`Processes::register`]), or begun and ended by a *caller*
//! that does something in between which may fail ([`Processes::begin`]). Until it ends, only the
//! [`cleanups`](crate::cleanups) see it. The table does not notice if the caller dies meanwhile: a
//! thread that finds such a registration learns who began it, and calls [`Processes::abandon`] if
//! that process is dead.
//!
//! # Noticing deaths
//!
//! Every registered process is watched. A process of this node is a word, and the embedder monitors
//! it; a process of another node is any other term, and the server monitors it. The call that adds
//! a process does not watch it itself: it inserts the process, returns a [`Notice`], and the
//! embedder acts on that before the caller can be killed. Whoever learns of a death adds the
//! process to the [`Deaths`]. A process of this node that is dead already when the embedder wants
//! to monitor it is added by that call. So a process in the table is alive, or about to be added to
//! the deaths, or in them, or being cleaned up.
//!
//! A new server pages through the processes of other nodes ([`Processes::remote_page`]) and claims
//! each. It finds a process that was added before its page was read; a process that was added later
//! was added by a caller that already saw the new server.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use dashmap::mapref::entry::Entry;
use dashmap::mapref::one::RefMut;
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::commit::Committed;
use crate::datum::{Datum, Foreign, View};
use crate::deaths::{Deaths, Hand};
use crate::hashing::Seed;
use crate::registrations::{Registration, Registrations};

/// Shards of the processes, and of the names. A shard grows at once and is listed at once, so it
/// has to stay small where the whole is large.
const SHARDS: usize = 1024;

/// The word of no process.
const NOBODY: u64 = 0;

/// The watcher of processes that the embedder monitors.
const EMBEDDER: u64 = u64::MAX;

/// A table of processes and the names they are registered under.
pub struct Processes<F: Foreign> {
    pub(crate) processes: DashMap<Datum<F>, Process<F>, Seed>,
    /// The number of registrations of each name.
    names: DashMap<Datum<F>, i64, Seed>,
    server: AtomicU64,
    holder: AtomicU64,
    pub(crate) deaths: Arc<Deaths<F>>,
    /// The dead processes whose cleanup waits for callers.
    pub(crate) waiting: Mutex<HashSet<Datum<F>, Seed>>,
    pub(crate) hand: Mutex<Hand<F>>,
}

pub(crate) struct Process<F: Foreign> {
    /// The process that notices its death: nobody yet, the embedder, or a server.
    watcher: u64,
    pub(crate) state: State,
    pub(crate) registrations: Registrations<F>,
}

/// How far the cleanup after a process is.
#[derive(PartialEq)]
pub(crate) enum State {
    /// It has not begun, or has to be looked at again: the process is alive or in the deaths.
    Due,
    /// The registrations that are left are in the [`Hand`], or some of them.
    InHand,
    /// It waits for callers that have begun registrations.
    Waiting,
    /// It has waited, and the process is in the deaths again.
    Resumed,
}

/// What the embedder has to do after a change, before the calling process can be killed.
#[derive(Debug, PartialEq)]
#[must_use]
pub enum Notice {
    /// Nothing.
    Nothing,
    /// To monitor the process, or to add it to the deaths if it is dead.
    Monitor,
    /// To tell this server to monitor the process.
    Tell(u64),
    /// To wake the reaper.
    Wake,
}

/// The result of [`Processes::begin`].
#[derive(Debug, PartialEq)]
pub enum Begun {
    /// The caller has to end it.
    New(Notice),
    /// There is one, or the caller began it before.
    Registered,
    /// This other caller has begun one and not ended it, or holds the table.
    Busy(u64),
}

/// The caller has not begun the registration, and there is none.
#[derive(Debug, PartialEq)]
pub struct NotBegun;

impl<F: Foreign> Default for Processes<F> {
    fn default() -> Self {
        let seed = Seed::default();
        Processes {
            processes: DashMap::with_hasher_and_shard_amount(seed.clone(), SHARDS),
            names: DashMap::with_hasher_and_shard_amount(seed.clone(), SHARDS),
            server: AtomicU64::new(NOBODY),
            holder: AtomicU64::new(NOBODY),
            deaths: Arc::default(),
            waiting: Mutex::new(HashSet::with_hasher(seed)),
            hand: Mutex::default(),
        }
    }
}

impl<F: Foreign> Processes<F> {
    /// Makes this process the server. It has to claim the processes of other nodes that are in the
    /// table.
    pub fn serve(&self, server: u64, _: &Committed) {
        self.server.store(server, Ordering::SeqCst);
    }

    /// Returns the server, unless there never was one.
    pub fn server(&self) -> Option<u64> {
        Some(self.server.load(Ordering::SeqCst)).filter(|server| *server != NOBODY)
    }

    /// Returns the dead processes that wait for their cleanup.
    pub fn deaths(&self) -> &Arc<Deaths<F>> {
        &self.deaths
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

    /// Returns the process other than `caller` that holds the table.
    pub fn holder(&self, caller: u64) -> Option<u64> {
        let holder = self.holder.load(Ordering::SeqCst);
        (holder != NOBODY && holder != caller).then_some(holder)
    }

    /// Records that `server` monitors a process of another node. Returns whether it did not before.
    pub fn claim(&self, pid: &Datum<F>, server: u64, _: &Committed) -> bool {
        let Some(mut process) = self.processes.get_mut(pid) else {
            return false;
        };
        if is_local(pid) {
            return false;
        }
        let changed = process.watcher != server;
        process.watcher = server;
        changed
    }

    /// Registers a process under a name, once more if it is registered.
    ///
    /// `permit` gets the number of entries that are moved, and returns the proof that the change
    /// may be made. If it fails, nothing changes.
    pub fn register<E>(
        &self,
        pid: &Datum<F>,
        name: &Datum<F>,
        permit: impl FnOnce(usize) -> Result<Committed, E>,
    ) -> Result<Notice, E> {
        let mut process = self.enter(pid, permit)?;
        match process.registrations.get_mut(name) {
            Some(Registration::Made { times, .. }) => *times += 1,
            Some(begun) => *begun = Registration::made(true),
            None => {
                let made = Registration::made(true);
                process.registrations.insert(name.clone(), made);
            }
        }
        self.add(name, 1);
        Ok(self.notice(pid, &mut process))
    }

    /// Begins to register a process under a name. `permit` is that of [`register`](Self::register).
    pub fn begin<E>(
        &self,
        pid: &Datum<F>,
        name: &Datum<F>,
        caller: u64,
        permit: impl FnOnce(usize) -> Result<Committed, E>,
    ) -> Result<Begun, E> {
        if let Some(holder) = self.holder(caller) {
            return Ok(Begun::Busy(holder));
        }
        let mut process = self.enter(pid, permit)?;
        Ok(match process.registrations.get_mut(name) {
            Some(Registration::Begun { caller: other }) if *other != caller => Begun::Busy(*other),
            Some(_) => Begun::Registered,
            None => {
                let begun = Registration::Begun { caller };
                process.registrations.insert(name.clone(), begun);
                Begun::New(self.watch(pid, &mut process))
            }
        })
    }

    /// Ends a registration that the caller began: the process is registered, and was announced or
    /// not.
    pub fn end(
        &self,
        pid: &Datum<F>,
        name: &Datum<F>,
        caller: u64,
        announced: bool,
        _: &Committed,
    ) -> Result<Notice, NotBegun> {
        let mut process = self.processes.get_mut(pid).ok_or(NotBegun)?;
        match process.registrations.get_mut(name) {
            Some(begun) if begun.is_begun_by(caller) => *begun = Registration::made(announced),
            Some(Registration::Made { .. }) => return Ok(Notice::Nothing),
            _ => return Err(NotBegun),
        }
        self.add(name, 1);
        Ok(self.notice(pid, &mut process))
    }

    /// Removes a registration that the caller began.
    pub fn fail(&self, pid: &Datum<F>, name: &Datum<F>, caller: u64, _: &Committed) -> Notice {
        self.remove_begun(pid, |begun, registration| {
            begun == name && registration.is_begun_by(caller)
        })
    }

    /// Removes all registrations of a process that a dead caller began, and releases the table if
    /// it holds it.
    pub fn abandon(&self, pid: &Datum<F>, caller: u64, committed: &Committed) -> Notice {
        self.release(caller, committed);
        self.remove_begun(pid, |_, registration| registration.is_begun_by(caller))
    }

    fn remove_begun(
        &self,
        pid: &Datum<F>,
        is_taken: impl Fn(&Datum<F>, &Registration) -> bool,
    ) -> Notice {
        let Entry::Occupied(mut entry) = self.processes.entry(pid.clone()) else {
            return Notice::Nothing;
        };
        let process = entry.get_mut();
        let taken = process.registrations.extract(is_taken);
        let notice = self.resume(pid, process);
        // A process that is watched is removed when it dies.
        let removed = (process.registrations.is_empty() && process.watcher == NOBODY)
            .then(|| entry.remove_entry());
        drop((taken, removed));
        notice
    }

    /// Removes one registration of a process under a name, if there is one.
    pub fn unregister(&self, pid: &Datum<F>, name: &Datum<F>, _: &Committed) {
        if let Some(mut process) = self.processes.get_mut(pid) {
            let removed = self.remove_made(&mut process, name);
            drop(process);
            drop(removed);
        }
    }

    /// Removes one registration of a process under a name. What this returns is to be dropped after
    /// the process was unlocked.
    pub(crate) fn remove_made(
        &self,
        process: &mut Process<F>,
        name: &Datum<F>,
    ) -> Option<[Option<Datum<F>>; 2]> {
        let removed = match process.registrations.get_mut(name)? {
            Registration::Made { times: 1, .. } => process.registrations.remove(name),
            Registration::Made { times, .. } => {
                *times -= 1;
                None
            }
            Registration::Begun { .. } => return None,
        };
        Some([removed, self.add(name, -1)])
    }

    /// Returns the names that a process is registered under.
    pub fn names(&self, pid: &Datum<F>) -> Vec<Datum<F>> {
        let Some(process) = self.processes.get(pid) else {
            return Vec::new();
        };
        let registrations = process.registrations.iter_reversed();
        let made = registrations.filter(|(_, registration)| registration.is_made());
        made.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the number of names of a process, including registrations that have not ended.
    pub fn registrations(&self, pid: &Datum<F>) -> usize {
        let process = self.processes.get(pid);
        process.map_or(0, |process| process.registrations.len())
    }

    /// Returns the number of registrations of a name.
    pub fn count(&self, name: &Datum<F>) -> i64 {
        self.names.get(name).map_or(0, |count| *count)
    }

    /// Returns the processes of at least one shard, and the shard to go on from.
    pub fn page(&self, shard: usize) -> (Vec<Datum<F>>, Option<usize>) {
        page(&self.processes, shard, |pid, _| Some(pid.clone()))
    }

    /// Like [`page`](Self::page), for the processes of other nodes.
    pub fn remote_page(&self, shard: usize) -> (Vec<Datum<F>>, Option<usize>) {
        page(&self.processes, shard, |pid, _| {
            (!is_local(pid)).then(|| pid.clone())
        })
    }

    /// Returns the names of at least one shard with the number of their registrations, and the
    /// shard to go on from.
    pub fn counts(&self, shard: usize) -> (Vec<(Datum<F>, i64)>, Option<usize>) {
        page(&self.names, shard, |name, count| {
            Some((name.clone(), *count))
        })
    }

    /// Locks a process, and adds it if it is not in the table.
    fn enter<E>(
        &self,
        pid: &Datum<F>,
        permit: impl FnOnce(usize) -> Result<Committed, E>,
    ) -> Result<RefMut<'_, Datum<F>, Process<F>>, E> {
        match self.processes.entry(pid.clone()) {
            Entry::Occupied(entry) => {
                permit(entry.get().registrations.moved_by_add())?;
                Ok(entry.into_ref())
            }
            Entry::Vacant(entry) => {
                permit(0)?;
                Ok(entry.insert(Process::default()))
            }
        }
    }

    /// Returns what has to be done after a registration was made: if the process is dead, it is
    /// cleaned up.
    fn notice(&self, pid: &Datum<F>, process: &mut Process<F>) -> Notice {
        match self.resume(pid, process) {
            Notice::Nothing => self.watch(pid, process),
            notice => notice,
        }
    }

    fn watch(&self, pid: &Datum<F>, process: &mut Process<F>) -> Notice {
        if !is_local(pid) {
            return match self.server() {
                Some(server) if process.watcher != server => Notice::Tell(server),
                _ => Notice::Nothing,
            };
        }
        if process.watcher == EMBEDDER {
            return Notice::Nothing;
        }
        process.watcher = EMBEDDER;
        Notice::Monitor
    }

    /// Adds a process to the deaths again if its cleanup waits for callers.
    pub(crate) fn resume(&self, pid: &Datum<F>, process: &mut Process<F>) -> Notice {
        if process.state != State::Waiting {
            return Notice::Nothing;
        }
        process.state = State::Resumed;
        self.waiting.lock().remove(pid);
        match self.deaths.put(pid.clone()) {
            true => Notice::Wake,
            false => Notice::Nothing,
        }
    }

    /// Changes the number of registrations of a name. Returns the name if that is 0 now: to be
    /// dropped after the process was unlocked.
    fn add(&self, name: &Datum<F>, change: i64) -> Option<Datum<F>> {
        if let Some(mut count) = self.names.get_mut(name) {
            if *count + change != 0 {
                *count += change;
                return None;
            }
        }
        match self.names.entry(name.clone()) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += change;
                (*entry.get() == 0).then(|| entry.remove_entry().0)
            }
            Entry::Vacant(entry) => {
                entry.insert(change);
                None
            }
        }
    }
}

/// Whether a process is one of this node.
fn is_local<F>(pid: &Datum<F>) -> bool {
    matches!(pid.view(), View::Word(..))
}

/// Returns the items that `pick` takes of the entries of at least one shard of a map, and the shard
/// to go on from.
fn page<K, V, T>(
    map: &DashMap<K, V, Seed>,
    shard: usize,
    pick: impl Fn(&K, &V) -> Option<T>,
) -> (Vec<T>, Option<usize>)
where
    K: Eq + std::hash::Hash,
{
    /// Items of a page, and entries that are visited for it.
    const ENOUGH: usize = 128;
    const VISITED: usize = 4096;
    let (mut items, mut visited) = (Vec::new(), 0);
    for (index, shard) in map.shards().iter().enumerate().skip(shard) {
        if items.len() >= ENOUGH || visited >= VISITED {
            return (items, Some(index));
        }
        let shard = shard.read();
        visited += shard.len();
        // SAFETY: the shard is locked for reading, and the lock outlives the buckets. `pick` does
        // not use the map.
        for bucket in unsafe { shard.iter() } {
            // SAFETY: as above.
            let (key, value) = unsafe { bucket.as_ref() };
            items.extend(pick(key, value.get()));
        }
    }
    (items, None)
}

impl<F: Foreign> Default for Process<F> {
    fn default() -> Self {
        Process {
            watcher: NOBODY,
            state: State::Due,
            registrations: Registrations::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Kind;
    use crate::testing::Text;
    use std::time::Duration;

    const COMMITTED: Committed = Committed::new();
    const KIND: Kind = Kind::new(1);
    const SERVER: u64 = 100;
    const CALLER: u64 = 200;
    const OTHER: u64 = 201;
    const REAPER: u64 = 200;
    const CLEANER: u64 = 300;
    const HOUR: Duration = Duration::from_secs(3600);

    fn pid(number: u64) -> Datum<Text> {
        Datum::word(KIND, number)
    }

    /// Returns a process of another node.
    fn remote(number: u8) -> Datum<Text> {
        Datum::bytes(KIND, &[number])
    }

    fn name(name: &str) -> Datum<Text> {
        Datum::bytes(KIND, name.as_bytes())
    }

    fn permit(_moved: usize) -> Result<Committed, NotBegun> {
        Ok(COMMITTED)
    }

    /// A table with a server, and a reaper that sleeps.
    fn served() -> Processes<Text> {
        let processes = Processes::default();
        processes.serve(SERVER, &COMMITTED);
        processes.open_cleanups(REAPER, &COMMITTED);
        assert_eq!(reap(&processes), (0, vec![]));
        processes
    }

    fn register(table: &Processes<Text>, pid: &Datum<Text>, name: &Datum<Text>) -> Notice {
        table.register(pid, name, permit).unwrap()
    }

    fn begin(table: &Processes<Text>, pid: &Datum<Text>, name: &Datum<Text>, by: u64) -> Begun {
        table.begin(pid, name, by, permit).unwrap()
    }

    type Reaped = (usize, Vec<(Datum<Text>, Vec<u64>)>);

    fn reap(table: &Processes<Text>) -> Reaped {
        let reaped = table.reap(10, |_| true, &COMMITTED).unwrap();
        (reaped.cleanups, reaped.waiting)
    }

    fn die(table: &Processes<Text>, pid: &Datum<Text>) -> bool {
        table.deaths().add(pid.clone(), &COMMITTED)
    }

    /// Makes all cleanups that are due, and returns their processes and names.
    fn clean(table: &Processes<Text>) -> Vec<(Datum<Text>, Datum<Text>, bool)> {
        let mut made = Vec::new();
        while reap(table).0 > 0 {
            table.take_cleanups(REAPER, CLEANER, HOUR, &COMMITTED);
            for cleanup in table.cleanups(usize::MAX) {
                assert!(table.cleaned(CLEANER, &COMMITTED));
                made.push((cleanup.pid, cleanup.name, cleanup.announced));
            }
        }
        made
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
        let (pid, name) = (pid(1), name("a"));
        assert_eq!(
            begin(&table, &pid, &name, CALLER),
            Begun::New(Notice::Monitor)
        );
        assert_eq!((table.count(&name), table.names(&pid)), (0, vec![]));
        assert_eq!(
            table.end(&pid, &name, CALLER, true, &COMMITTED),
            Ok(Notice::Nothing)
        );
        assert_eq!(
            (table.count(&name), table.names(&pid)),
            (1, vec![name.clone()])
        );
        for caller in [CALLER, OTHER] {
            assert_eq!(begin(&table, &pid, &name, caller), Begun::Registered);
        }
    }

    #[test]
    fn nothing_changes_without_a_permit() {
        let table = served();
        let refuse = |_| Err(NotBegun);
        let (pid, name) = (pid(1), name("a"));
        assert_eq!(table.register(&pid, &name, refuse), Err(NotBegun));
        assert_eq!(table.begin(&pid, &name, CALLER, refuse), Err(NotBegun));
        assert!(all(|shard| table.page(shard)).is_empty());
        assert_eq!(register(&table, &pid, &name), Notice::Monitor);
        assert_eq!(table.register(&pid, &name, refuse), Err(NotBegun));
        assert_eq!(table.count(&name), 1);
    }

    #[test]
    fn no_caller_ends_or_removes_the_registration_of_another() {
        let table = served();
        let (pid, a) = (pid(1), name("a"));
        assert_eq!(begin(&table, &pid, &a, CALLER), Begun::New(Notice::Monitor));
        assert_eq!(begin(&table, &pid, &a, CALLER), Begun::Registered);
        assert_eq!(begin(&table, &pid, &a, OTHER), Begun::Busy(CALLER));
        assert_eq!(table.end(&pid, &a, OTHER, true, &COMMITTED), Err(NotBegun));
        let others = [
            table.fail(&pid, &a, OTHER, &COMMITTED),
            table.abandon(&pid, OTHER, &COMMITTED),
            table.fail(&pid, &name("b"), CALLER, &COMMITTED),
        ];
        assert_eq!(others, [const { Notice::Nothing }; 3]);
        assert_eq!(begin(&table, &pid, &a, OTHER), Begun::Busy(CALLER));
        assert_eq!(table.abandon(&pid, CALLER, &COMMITTED), Notice::Nothing);
        assert_eq!(begin(&table, &pid, &a, OTHER), Begun::New(Notice::Nothing));
    }

    #[test]
    fn a_process_is_monitored_once_until_it_is_removed() {
        let table = served();
        let (pid, a) = (pid(1), name("a"));
        assert_eq!(begin(&table, &pid, &a, CALLER), Begun::New(Notice::Monitor));
        assert_eq!(table.fail(&pid, &a, CALLER, &COMMITTED), Notice::Nothing);
        assert_eq!(begin(&table, &pid, &a, CALLER), Begun::New(Notice::Nothing));
        assert_eq!(register(&table, &pid, &name("b")), Notice::Nothing);
        assert_eq!(
            table.end(&pid, &a, CALLER, true, &COMMITTED),
            Ok(Notice::Nothing)
        );
        // A new server monitors no process of this node.
        table.serve(SERVER + 1, &COMMITTED);
        assert!(!table.claim(&pid, SERVER + 1, &COMMITTED));
        assert_eq!(register(&table, &pid, &name("c")), Notice::Nothing);
        assert!(die(&table, &pid));
        assert_eq!(clean(&table).len(), 3);
        assert_eq!(register(&table, &pid, &a), Notice::Monitor);
    }

    #[test]
    fn a_process_of_another_node_is_claimed_once_by_each_server() {
        let table = served();
        let pid = remote(1);
        assert!(!table.claim(&pid, SERVER, &COMMITTED));
        assert_eq!(register(&table, &pid, &name("a")), Notice::Tell(SERVER));
        assert!(table.claim(&pid, SERVER, &COMMITTED));
        assert!(!table.claim(&pid, SERVER, &COMMITTED));
        assert_eq!(
            begin(&table, &pid, &name("b"), CALLER),
            Begun::New(Notice::Nothing)
        );
        table.serve(SERVER + 1, &COMMITTED);
        assert_eq!(
            table.end(&pid, &name("b"), CALLER, true, &COMMITTED),
            Ok(Notice::Tell(SERVER + 1))
        );
        assert!(table.claim(&pid, SERVER + 1, &COMMITTED));
        // One that nobody monitors yet leaves with its last registration.
        let other = remote(2);
        begin(&table, &other, &name("a"), CALLER);
        assert_eq!(all(|shard| table.remote_page(shard)).len(), 2);
        assert_eq!(
            table.fail(&other, &name("a"), CALLER, &COMMITTED),
            Notice::Nothing
        );
        assert_eq!(all(|shard| table.page(shard)), [pid]);
    }

    #[test]
    fn a_made_registration_needs_no_end_and_a_missing_one_has_none() {
        let table = served();
        let (a, b) = (name("a"), name("b"));
        begin(&table, &pid(1), &a, CALLER);
        assert_eq!(register(&table, &pid(1), &a), Notice::Nothing);
        assert_eq!(
            table.end(&pid(1), &a, CALLER, true, &COMMITTED),
            Ok(Notice::Nothing)
        );
        assert_eq!(table.count(&a), 1);
        for (pid, name) in [(pid(1), b), (pid(2), a)] {
            assert_eq!(
                table.end(&pid, &name, CALLER, true, &COMMITTED),
                Err(NotBegun)
            );
        }
    }

    #[test]
    fn the_registrations_of_a_dead_process_are_undone_one_by_one() {
        let table = served();
        let (a, b) = (name("a"), name("b"));
        for number in [1, 1, 2] {
            let _: Notice = register(&table, &pid(number), &a);
        }
        begin(&table, &pid(1), &b, CALLER);
        assert!(table.end(&pid(1), &b, CALLER, false, &COMMITTED).is_ok());
        assert_eq!(table.count(&a), 3);

        assert!(die(&table, &pid(1)));
        assert_eq!(reap(&table), (3, vec![]));
        table.take_cleanups(REAPER, CLEANER, HOUR, &COMMITTED);
        let names: Vec<_> = table
            .cleanups(usize::MAX)
            .into_iter()
            .map(|made| made.name)
            .collect();
        assert_eq!(names, [b.clone(), a.clone(), a.clone()]);
        for (left_of_a, left_of_b) in [(3, 0), (2, 0), (1, 0)] {
            assert_eq!(table.count(&b), i64::from(left_of_a == 3));
            assert!(table.cleaned(CLEANER, &COMMITTED));
            assert_eq!((table.count(&a), table.count(&b)), (left_of_a, left_of_b));
        }
        assert!(!table.cleaned(CLEANER, &COMMITTED));
        assert_eq!(reap(&table), (0, vec![]));
        assert_eq!(all(|shard| table.page(shard)), [pid(2)]);
        assert_eq!(all(|shard| table.counts(shard)), [(a, 1)]);
    }

    #[test]
    fn a_registration_that_is_made_during_a_cleanup_is_cleaned_up_too() {
        let table = served();
        let (a, b) = (name("a"), name("b"));
        let _: Notice = register(&table, &pid(1), &a);
        for _ in [1, 2] {
            // A process may be in the deaths twice.
            let _: bool = die(&table, &pid(1));
        }
        assert_eq!(reap(&table), (1, vec![]));
        table.take_cleanups(REAPER, CLEANER, HOUR, &COMMITTED);
        assert_eq!(register(&table, &pid(1), &b), Notice::Nothing);
        assert_eq!(register(&table, &pid(1), &a), Notice::Nothing);
        assert!(table.cleaned(CLEANER, &COMMITTED));
        assert_eq!(table.count(&a), 1);
        let again = [(pid(1), b, true), (pid(1), a, true)];
        assert_eq!(clean(&table), again);
        assert!(all(|shard| table.page(shard)).is_empty());
    }

    #[test]
    fn the_hand_is_bounded_and_outlives_reaper_and_cleaner() {
        let table = served();
        for number in 0..100 {
            let _: Notice = register(&table, &pid(1), &name(&number.to_string()));
        }
        let _: Notice = register(&table, &pid(2), &name("a"));
        let _: bool = die(&table, &pid(1));
        let _: bool = die(&table, &pid(2));
        assert_eq!(reap(&table), (10, vec![]));
        table.take_cleanups(REAPER, CLEANER, HOUR, &COMMITTED);
        assert!(table.cleaned(CLEANER, &COMMITTED));
        assert!(!table.cleaned(CLEANER + 1, &COMMITTED));
        let current = table.current_cleanup(CLEANER).unwrap();
        assert_eq!((current.pid, current.name), (pid(1), name("98")));
        assert!(table.current_cleanup(CLEANER + 1).is_none());
        // The next reaper, and its cleaner.
        let next = REAPER + 1;
        table.open_cleanups(next, &COMMITTED);
        assert_eq!(reap(&table), (9, vec![]));
        assert!(table.current_cleanup(CLEANER).is_none());
        assert!(!table.cleaned(CLEANER, &COMMITTED));
        assert!(table.take_cleanups(next, CLEANER + 1, HOUR, &COMMITTED));
        assert!(!table.take_cleanups(REAPER, CLEANER, HOUR, &COMMITTED));
        assert!(table.current_cleanup(CLEANER + 1).is_some());
        table.open_cleanups(REAPER, &COMMITTED);
        assert_eq!(table.count(&name("98")), 1);
        assert_eq!(clean(&table).len(), 100);
        assert!(all(|shard| table.page(shard)).is_empty());
    }

    #[test]
    fn a_cleaner_whose_time_is_over_stops_after_its_cleanup() {
        let table = served();
        for number in 1..=3 {
            let _: Notice = register(&table, &pid(number), &name("a"));
            let _: bool = die(&table, &pid(number));
        }
        assert_eq!(reap(&table).0, 3);
        table.take_cleanups(REAPER, CLEANER, HOUR, &COMMITTED);
        // It has the time that it was given first.
        table.take_cleanups(REAPER, CLEANER, Duration::ZERO, &COMMITTED);
        assert!(table.cleaned(CLEANER, &COMMITTED));
        let next = CLEANER + 1;
        table.take_cleanups(REAPER, next, Duration::ZERO, &COMMITTED);
        table.take_cleanups(REAPER, next, HOUR, &COMMITTED);
        assert!(!table.cleaned(next, &COMMITTED));
        assert_eq!(table.count(&name("a")), 1);
    }

    #[test]
    fn a_process_for_which_there_is_no_time_is_kept_for_the_next_call() {
        let table = served();
        for number in 1..=2 {
            let _: Notice = register(&table, &pid(number), &name("a"));
            let _: bool = die(&table, &pid(number));
        }
        assert_eq!(table.reap(10, |_| false, &COMMITTED), None);
        let mut calls = 0;
        let once = |_| {
            calls += 1;
            calls == 1
        };
        let reaped = table.reap(10, once, &COMMITTED).unwrap();
        assert_eq!((reaped.cleanups, reaped.more), (1, true));
        assert_eq!(clean(&table).len(), 2);
    }

    #[test]
    fn the_cleanup_of_a_dead_process_waits_for_its_callers() {
        let table = served();
        let (a, b) = (name("a"), name("b"));
        begin(&table, &pid(1), &a, CALLER);
        begin(&table, &pid(1), &b, OTHER);
        assert!(die(&table, &pid(1)));
        let waits = (0, vec![(pid(1), vec![OTHER, CALLER])]);
        assert_eq!((reap(&table), table.waiting()), (waits.clone(), 1));
        // The next reaper is told again.
        table.open_cleanups(REAPER, &COMMITTED);
        assert_eq!((reap(&table), table.waiting()), (waits, 1));
        assert_eq!(table.abandon(&pid(1), OTHER, &COMMITTED), Notice::Wake);
        assert_eq!(reap(&table), (0, vec![(pid(1), vec![CALLER])]));
        assert_eq!(
            table.end(&pid(1), &a, CALLER, true, &COMMITTED),
            Ok(Notice::Wake)
        );
        assert_eq!(table.waiting(), 0);
        assert_eq!(reap(&table), (1, vec![(pid(1), vec![])]));
        assert_eq!(clean(&table), [(pid(1), a, true)]);
        assert!(all(|shard| table.page(shard)).is_empty());
    }

    #[test]
    fn a_dead_process_leaves_when_its_last_caller_fails() {
        let table = served();
        begin(&table, &pid(1), &name("a"), CALLER);
        let _: bool = die(&table, &pid(1));
        assert_eq!(reap(&table), (0, vec![(pid(1), vec![CALLER])]));
        assert_eq!(
            table.fail(&pid(1), &name("a"), CALLER, &COMMITTED),
            Notice::Wake
        );
        assert_eq!(reap(&table), (0, vec![(pid(1), vec![])]));
        assert!(all(|shard| table.page(shard)).is_empty());
        assert_eq!(reap(&table), (0, vec![]));
    }

    #[test]
    fn only_the_holder_of_a_table_begins_registrations() {
        let table = served();
        let (pid, a) = (pid(1), name("a"));
        table.hold(OTHER, &COMMITTED);
        assert_eq!(
            (table.holder(CALLER), table.holder(OTHER)),
            (Some(OTHER), None)
        );
        assert_eq!(begin(&table, &pid, &a, CALLER), Begun::Busy(OTHER));
        table.release(CALLER, &COMMITTED);
        assert_eq!(begin(&table, &pid, &a, CALLER), Begun::Busy(OTHER));
        table.release(OTHER, &COMMITTED);
        assert_eq!(begin(&table, &pid, &a, CALLER), Begun::New(Notice::Monitor));

        table.hold(OTHER, &COMMITTED);
        assert_eq!(table.abandon(&pid, OTHER, &COMMITTED), Notice::Nothing);
        assert_eq!(
            begin(&table, &pid, &name("b"), CALLER),
            Begun::New(Notice::Nothing)
        );
    }

    #[test]
    fn the_pages_list_each_process_and_name_once() {
        let table = served();
        for number in 0..5_000 {
            let _: Notice = register(&table, &pid(number), &name(&number.to_string()));
        }
        for number in 0..100 {
            let _: Notice = register(&table, &remote(number), &name("remote"));
        }
        let mut pids: Vec<_> = all(|shard| table.page(shard))
            .iter()
            .map(|pid| format!("{pid:?}"))
            .collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 5_100);
        let remote = all(|shard| table.remote_page(shard));
        assert_eq!(remote.len(), 100);
        assert!(!remote.iter().any(is_local));
        let counts = all(|shard| table.counts(shard));
        assert_eq!(counts.len(), 5_001);
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<i64>(), 5_100);
    }
}
