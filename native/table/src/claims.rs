//! The directory of a zone on several nodes: which member claims which name.
//!
//! A *member* is one session of one node. It has *claims*: names, each with the pid of its running
//! child or *held*, without one. Several members may claim a name; the claim with the highest
//! *rank* is the one that readers find. Claims are found by name without a lock, and each is listed
//! in a slot of its member, for pages and for the end of the member.
//!
//! # What readers see
//!
//! A claim has an *epoch*, and its member the lowest epoch whose claims are visible. So all claims
//! of a member that has ended, or those that a new snapshot does not repeat, become invisible in
//! one step, and [`Directory::sweep`] removes them later, a few at a time.
//!
//! A claim never changes, but for its epoch. A change of the pid puts another claim in its place:
//! a reader finds one or the other.

use std::cmp::Ordering as Order;
use std::hash::BuildHasher;
use std::ptr;
use std::sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use papaya::Equivalent;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use std::collections::BTreeMap;

use crate::commit::Committed;
use crate::datum::{Borrowed, Datum, Foreign};
use crate::hashing::Seed;
use crate::names::{Found, Named, Names};
use crate::reclaim::{self, Guard};

/// Slots of a chunk. Chunks never move, so that no call copies a large list.
const CHUNK: usize = 1024;

/// The end of a list of free slots.
const NO_SLOT: u32 = u32::MAX;

/// The lowest visible epoch of a member that has ended. No claim has it.
const ENDED: u32 = u32::MAX;

/// The listener of a directory that has none. No process has this word.
const NO_LISTENER: u64 = 0;

/// The claims of all members of a zone.
pub struct Directory<F: Foreign> {
    names: Names<Claim<F>>,
    seed: Seed,
    members: RwLock<BTreeMap<u32, Arc<Member<F>>>>,
    next: AtomicU32,
    /// The process that is told of each change of a row.
    listener: AtomicU64,
    /// What the listener shares with readers.
    shared: Mutex<Option<Datum<F>>>,
    /// The keys of the attributes that members have copies of.
    copied: OnceLock<Box<[Datum<F>]>>,
    /// Whether the zone starts no child any more as the home of its name.
    is_drained: AtomicBool,
    /// The running children that are being added as the home of their names.
    additions: AtomicUsize,
}

/// The right to add a running child as the home of its name.
///
/// An addition counts itself, and then reads whether the zone is drained. Draining is a write, and
/// then a read of that count. All of these are sequentially consistent, so an addition finds the
/// zone drained, or is counted.
pub struct Addition<'d>(&'d AtomicUsize);

impl Drop for Addition<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One session of one node.
pub struct Member<F: Foreign> {
    /// The number of the session. Later ones are higher.
    pub id: u32,
    /// The word of the node.
    pub node: u64,
    /// What decides between claims of equal rank: the greater one wins.
    order: Box<[u8]>,
    /// What the embedder needs to store the pids of this member, and to make them.
    pub origin: (Box<[u8]>, Datum<F>),
    /// Whether its names are those of the zone itself, which readers find in the rows.
    is_own: bool,
    lowest: AtomicU32,
    running: AtomicUsize,
    claims: Mutex<Claims<F>>,
    is_swept: AtomicBool,
}

/// The claims of a member by their slots.
struct Claims<F: Foreign> {
    epoch: u32,
    chunks: Vec<Vec<Slot<F>>>,
    free: u32,
    /// Where [`Directory::sweep`] goes on.
    swept: u32,
}

enum Slot<F: Foreign> {
    Used(Arc<Claim<F>>),
    /// The next free slot.
    Free(u32),
}

/// What a member says of one name.
pub struct Claim<F: Foreign> {
    /// The name.
    pub name: Datum<F>,
    /// The pid of the running child, if there is one.
    pub pid: Option<Datum<F>>,
    /// The member.
    pub member: Arc<Member<F>>,
    hash: u64,
    rank: u32,
    epoch: AtomicU32,
    slot: u32,
}

impl<F: Foreign> Named for Claim<F> {}

/// A change of a claim.
pub enum Change<F> {
    /// The name has a child that does not run.
    Held,
    /// The child runs.
    Up(Datum<F>),
    /// The child of this pid has ended, and the name is still held. Changes nothing if the claim
    /// has another pid.
    Down(Datum<F>),
    /// The name has no child.
    Free,
}

/// What a change has changed for readers.
pub struct Changed<F: Foreign> {
    /// The pid that the claim had before, if it was visible.
    pub was: Option<Datum<F>>,
    /// Whether the claim has a pid now.
    pub is_up: bool,
}

/// Claims of a page at most.
pub const PAGE: usize = 64;

/// Shares of claims.
pub type Page<F> = SmallVec<[Arc<Claim<F>>; PAGE]>;

impl<F: Foreign> Claim<F> {
    fn is_visible(&self) -> bool {
        self.epoch.load(Ordering::Acquire) >= self.member.lowest.load(Ordering::Acquire)
    }

    /// Compares two claims of one name: the greater one wins.
    fn compare(&self, other: &Claim<F>) -> Order {
        let order = || self.member.order.cmp(&other.member.order);
        let same = || self.member.id.cmp(&other.member.id);
        self.rank.cmp(&other.rank).then_with(order).then_with(same)
    }
}

impl<F: Foreign> Member<F> {
    /// Whether its names are those of the zone itself.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Whether its claims may be visible.
    pub fn is_live(&self) -> bool {
        self.lowest.load(Ordering::Acquire) != ENDED
    }
}

impl<F: Foreign> Default for Directory<F> {
    fn default() -> Self {
        Directory {
            names: Names::default(),
            seed: Seed::default(),
            members: RwLock::new(BTreeMap::new()),
            next: AtomicU32::new(0),
            listener: AtomicU64::new(NO_LISTENER),
            shared: Mutex::new(None),
            copied: OnceLock::new(),
            is_drained: AtomicBool::new(false),
            additions: AtomicUsize::new(0),
        }
    }
}

impl<F: Foreign> Drop for Directory<F> {
    /// Breaks the circles of members and their claims.
    fn drop(&mut self) {
        for member in self.members.get_mut().values() {
            drop(std::mem::take(&mut member.claims.lock().chunks));
        }
    }
}

impl<F: Foreign> Directory<F> {
    /// Makes a process the listener, and ends all members that there were. `shared` is what it
    /// shares with readers.
    pub fn open(&self, listener: u64, shared: Datum<F>, committed: &Committed) {
        // The one before is dropped after the lock was released.
        let before = self.shared.lock().replace(shared);
        drop(before);
        for member in self.members.read().values() {
            self.end(member, committed);
        }
        self.listener.store(listener, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Returns the process to tell of a change of a row that has taken place.
    #[inline]
    pub fn listener(&self) -> Option<u64> {
        fence(Ordering::SeqCst);
        let listener = self.listener.load(Ordering::SeqCst);
        (listener != NO_LISTENER).then_some(listener)
    }

    /// Drains the zone: from here on it starts and adds no child as the home of its name. Returns
    /// `false` while a child is being added. A thread that counts the children after this has
    /// returned `true` counts every child that was not refused.
    pub fn drain(&self, _: &Committed) -> bool {
        self.is_drained.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.additions.load(Ordering::SeqCst) == 0
    }

    /// Begins to add a running child as the home of its name. Returns `None` in a drained zone.
    pub fn begin_addition(&self) -> Option<Addition<'_>> {
        self.additions.fetch_add(1, Ordering::SeqCst);
        let addition = Addition(&self.additions);
        (!self.is_drained()).then_some(addition)
    }

    /// Whether the zone is drained.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::SeqCst)
    }

    /// Sets the keys of the attributes that members have copies of. Does nothing if they are set.
    pub fn copy(&self, keys: Vec<Datum<F>>, _: &Committed) {
        // An error means that they are.
        let _ = self.copied.set(keys.into());
    }

    /// Whether members have copies of any attributes.
    pub fn has_copies(&self) -> bool {
        self.copied.get().is_some_and(|keys| !keys.is_empty())
    }

    /// Whether members have copies of the attributes of this key.
    pub fn is_copied(&self, key: Borrowed<'_, F>) -> bool {
        let mut keys = self.copied.get().into_iter().flatten();
        keys.any(|copied| key.equivalent(copied))
    }

    /// Returns what the listener shares with readers.
    pub fn shared(&self) -> Option<Datum<F>> {
        self.shared.lock().clone()
    }

    /// Adds a member without claims. `order` decides between claims of equal rank.
    pub fn add(
        &self,
        node: u64,
        order: &[u8],
        origin: (Box<[u8]>, Datum<F>),
        is_own: bool,
        _: &Committed,
    ) -> Arc<Member<F>> {
        let member = Arc::new(Member {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            node,
            order: order.into(),
            origin,
            is_own,
            lowest: AtomicU32::new(0),
            running: AtomicUsize::new(0),
            claims: Mutex::new(Claims {
                epoch: 0,
                chunks: Vec::new(),
                free: NO_SLOT,
                swept: 0,
            }),
            is_swept: AtomicBool::new(true),
        });
        self.members.write().insert(member.id, member.clone());
        member
    }

    /// Returns a member, also one that has ended and has claims left.
    pub fn member(&self, id: u32) -> Option<Arc<Member<F>>> {
        self.members.read().get(&id).cloned()
    }

    /// Returns a member that has ended and has claims left, if there is one.
    pub fn ended(&self) -> Option<Arc<Member<F>>> {
        let members = self.members.read();
        let mut ended = members.values().filter(|member| !member.is_live());
        ended.next().cloned()
    }

    /// Returns the first member from this id on.
    pub fn member_from(&self, id: u32) -> Option<Arc<Member<F>>> {
        let members = self.members.read();
        members.range(id..).next().map(|(_, member)| member.clone())
    }

    /// Makes a change of a member's claim of a name. Does nothing if the member has ended. Returns
    /// `None` if readers find the pid that they found before, or none as before.
    pub fn change(
        &self,
        member: &Arc<Member<F>>,
        name: &Datum<F>,
        rank: u32,
        change: Change<F>,
        guard: &Guard,
        _: &Committed,
    ) -> Option<Changed<F>> {
        let hash = self.seed.hash_one(name);
        let mut claims = member.claims.lock();
        if !member.is_live() {
            return None;
        }
        let current = self.of(member, hash, name, guard);
        let visible = current.filter(|current| current.is_visible());
        let was = visible.and_then(|current| current.pid.clone());
        let pid = match change {
            Change::Free => {
                if let Some(current) = current {
                    self.remove(member, &mut claims, current.get(), guard);
                }
                return was.map(|pid| Changed {
                    was: Some(pid),
                    is_up: false,
                });
            }
            Change::Down(pid) if current.is_none_or(|claim| claim.pid.as_ref() != Some(&pid)) => {
                return None;
            }
            Change::Held | Change::Down(_) => None,
            Change::Up(pid) => Some(pid),
        };
        let is_up = pid.is_some();
        let changed = (was != pid).then_some(Changed { was, is_up });
        if let Some(current) = current.filter(|current| current.pid == pid) {
            current.epoch.store(claims.epoch, Ordering::Release);
            return changed;
        }
        let slot = match current {
            Some(current) => current.slot,
            None => claims.take(),
        };
        let claim = Arc::new(Claim {
            name: name.clone(),
            pid,
            member: member.clone(),
            hash,
            rank,
            epoch: AtomicU32::new(claims.epoch),
            slot,
        });
        *claims.slot(slot) = Slot::Used(claim.clone());
        match current {
            Some(current) => self.names.replace(hash, current.get(), claim, guard),
            None => {
                self.names.insert(hash, claim, |_| false, guard);
            }
        }
        let was_up = current.is_some_and(|current| current.pid.is_some());
        match (was_up, is_up) {
            (false, true) => member.running.fetch_add(1, Ordering::Relaxed),
            (true, false) => member.running.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        changed
    }

    /// Begins a snapshot of a member: what is changed from here on is part of it.
    pub fn begin_snapshot(&self, member: &Member<F>, _: &Committed) {
        member.claims.lock().epoch += 1;
    }

    /// Ends a snapshot: claims from before it that were not repeated become invisible.
    pub fn end_snapshot(&self, member: &Member<F>, _: &Committed) {
        let mut claims = member.claims.lock();
        if member.is_live() {
            member.lowest.store(claims.epoch, Ordering::Release);
            claims.swept = 0;
            member.is_swept.store(false, Ordering::Release);
        }
    }

    /// Ends a member: its claims become invisible.
    pub fn end(&self, member: &Member<F>, _: &Committed) {
        let mut claims = member.claims.lock();
        member.lowest.store(ENDED, Ordering::Release);
        claims.swept = 0;
        member.is_swept.store(false, Ordering::Release);
    }

    /// Removes invisible claims of a member, until `allow` refuses one. Returns those that it has
    /// removed, and whether there may be more. A member that has ended leaves the directory with
    /// its last claim.
    pub fn sweep(
        &self,
        member: &Member<F>,
        mut allow: impl FnMut(&Claim<F>) -> bool,
        guard: &Guard,
        _: &Committed,
    ) -> (Page<F>, bool) {
        let mut page = Page::new();
        let mut claims = member.claims.lock();
        if member.is_swept.load(Ordering::Acquire) {
            return (page, false);
        }
        let end = claims.len();
        let from = claims.swept;
        for slot in from..end {
            // Visible ones take less time.
            if page.len() == PAGE || slot - from == 16 * PAGE as u32 {
                claims.swept = slot;
                return (page, true);
            }
            let Slot::Used(claim) = claims.slot(slot) else {
                continue;
            };
            if !claim.is_visible() {
                let claim = claim.clone();
                if !allow(&claim) {
                    claims.swept = slot;
                    return (page, true);
                }
                self.remove(member, &mut claims, &claim, guard);
                page.push(claim);
            }
        }
        member.is_swept.store(true, Ordering::Release);
        if member.is_live() {
            return (page, false);
        }
        let chunks = std::mem::take(&mut claims.chunks);
        drop(claims);
        self.members.write().remove(&member.id);
        // A thousand of them, if the member had a million claims.
        reclaim::later(chunks);
        (page, false)
    }

    fn remove(&self, member: &Member<F>, claims: &mut Claims<F>, claim: &Claim<F>, guard: &Guard) {
        if claim.pid.is_some() {
            member.running.fetch_sub(1, Ordering::Relaxed);
        }
        self.names.remove(claim.hash, claim, guard);
        let free = claims.free;
        *claims.slot(claim.slot) = Slot::Free(free);
        claims.free = claim.slot;
    }

    fn of<'g>(
        &'g self,
        member: &Member<F>,
        hash: u64,
        name: &Datum<F>,
        guard: &'g Guard,
    ) -> Option<Found<'g, Claim<F>>> {
        let is_this = |claim: &Claim<F>| ptr::eq(&*claim.member, member) && claim.name == *name;
        self.names.get(hash, is_this, guard)
    }

    /// Returns the visible claim of highest rank, of a member that is not the zone itself; with a
    /// running child, if there is one.
    #[inline]
    pub fn best<'g>(&'g self, name: Borrowed<'_, F>, guard: &'g Guard) -> Option<&'g Claim<F>> {
        let mut best: Option<&Claim<F>> = None;
        self.each(name, guard, |claim| {
            let is_better = |best: &Claim<F>| {
                let is_running = claim.pid.is_some().cmp(&best.pid.is_some());
                is_running.then_with(|| claim.compare(best)) == Order::Greater
            };
            if !claim.member.is_own && best.is_none_or(is_better) {
                best = Some(claim);
            }
        });
        best
    }

    /// Visits the visible claims of a name with a running child, of all members but this one.
    pub fn others<'g>(
        &'g self,
        member: &Member<F>,
        name: Borrowed<'_, F>,
        guard: &'g Guard,
        mut visit: impl FnMut(&'g Claim<F>),
    ) {
        self.each(name, guard, |claim| {
            if !ptr::eq(&*claim.member, member) && claim.pid.is_some() {
                visit(claim);
            }
        });
    }

    #[inline]
    fn each<'g>(
        &'g self,
        name: Borrowed<'_, F>,
        guard: &'g Guard,
        mut visit: impl FnMut(&'g Claim<F>),
    ) {
        let hash = self.seed.hash_one(name);
        let _: Option<()> = self.names.find_map(hash, guard, |claim| {
            let claim = claim.get();
            if name.equivalent(&claim.name) && claim.is_visible() {
                visit(claim);
            }
            None
        });
    }

    /// Returns the visible claims of a member from slot `from` on, and the slot to go on from, or
    /// `None` at the end. A page may be empty.
    pub fn page(&self, member: &Member<F>, from: u32) -> (Page<F>, Option<u32>) {
        let mut page = Page::new();
        let mut claims = member.claims.lock();
        let end = claims.len();
        for slot in from..end {
            if page.len() == PAGE || slot - from == 16 * PAGE as u32 {
                return (page, Some(slot));
            }
            match claims.slot(slot) {
                Slot::Used(claim) if claim.is_visible() => page.push(claim.clone()),
                _ => (),
            }
        }
        (page, None)
    }

    /// Returns the number of claims with a running child, of the members that have not ended and
    /// are not the zone itself.
    pub fn count(&self) -> usize {
        let members = self.members.read();
        let others = members
            .values()
            .filter(|member| member.is_live() && !member.is_own);
        others
            .map(|member| member.running.load(Ordering::Relaxed))
            .sum()
    }
}

impl<F: Foreign> Claims<F> {
    fn len(&self) -> u32 {
        let last = self.chunks.last().map_or(0, Vec::len);
        (self.chunks.len().saturating_sub(1) * CHUNK + last) as u32
    }

    fn slot(&mut self, slot: u32) -> &mut Slot<F> {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// Takes a free slot, or a new one.
    fn take(&mut self) -> u32 {
        if self.free != NO_SLOT {
            let slot = self.free;
            self.free = match self.slot(slot) {
                Slot::Free(next) => *next,
                Slot::Used(_) => NO_SLOT,
            };
            return slot;
        }
        let slot = self.len();
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(Slot::Free(NO_SLOT));
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{word, Text};
    use proptest::prelude::*;
    use std::collections::HashMap;

    const COMMITTED: Committed = Committed::new();

    fn origin() -> (Box<[u8]>, Datum<Text>) {
        (Box::default(), word(0))
    }

    fn add(directory: &Directory<Text>, node: u64) -> Arc<Member<Text>> {
        directory.add(node, &node.to_be_bytes(), origin(), false, &COMMITTED)
    }

    fn set(
        directory: &Directory<Text>,
        member: &Arc<Member<Text>>,
        name: u64,
        change: Change<Text>,
    ) -> Option<(Option<Datum<Text>>, bool)> {
        let rank = (name * 31 + member.node * 17) as u32 % 3;
        let guard = reclaim::enter();
        let changed = directory.change(member, &word(name), rank, change, &guard, &COMMITTED);
        changed.map(|changed| (changed.was, changed.is_up))
    }

    fn found(directory: &Directory<Text>, name: u64) -> Option<(u64, Option<Datum<Text>>)> {
        let guard = reclaim::enter();
        let name = word(name);
        let best = directory.best(name.borrow(), &guard);
        best.map(|claim| (claim.member.node, claim.pid.clone()))
    }

    fn sweep(directory: &Directory<Text>, member: &Member<Text>) -> usize {
        let mut removed = 0;
        loop {
            let guard = reclaim::enter();
            let (page, more) = directory.sweep(member, |_| true, &guard, &COMMITTED);
            removed += page.len();
            if !more {
                return removed;
            }
        }
    }

    #[test]
    fn claims_of_a_member_that_has_ended_are_invisible_at_once_and_then_removed() {
        let directory = Directory::default();
        let (one, other) = (add(&directory, 1), add(&directory, 2));
        for name in 0..3000 {
            set(&directory, &one, name, Change::Up(word(name + 1)));
        }
        set(&directory, &other, 5, Change::Held);
        assert_eq!(directory.count(), 3000);
        directory.end(&one, &COMMITTED);
        assert_eq!(found(&directory, 7), None);
        assert_eq!(found(&directory, 5), Some((2, None)));
        assert_eq!(directory.count(), 0);
        set(&directory, &one, 7, Change::Up(word(9)));
        assert_eq!(found(&directory, 7), None);
        assert_eq!(one.claims.lock().chunks.len(), 3);
        assert_eq!(sweep(&directory, &one), 3000);
        assert!(directory.member(one.id).is_none());
        // Nothing large is left to be freed by the last one that knows the member.
        assert_eq!(one.claims.lock().chunks.capacity(), 0);
        assert!(directory.member(other.id).is_some());
    }

    #[test]
    fn a_snapshot_replaces_the_claims_of_the_one_before() {
        let directory = Directory::default();
        let member = add(&directory, 1);
        for name in 0..10 {
            set(&directory, &member, name, Change::Up(word(name + 1)));
        }
        directory.begin_snapshot(&member, &COMMITTED);
        set(&directory, &member, 3, Change::Up(word(4)));
        assert_eq!(found(&directory, 2), Some((1, Some(word(3)))));
        directory.end_snapshot(&member, &COMMITTED);
        assert_eq!(found(&directory, 2), None);
        assert_eq!(found(&directory, 3), Some((1, Some(word(4)))));
        assert_eq!(sweep(&directory, &member), 9);
        assert_eq!(directory.count(), 1);
        assert!(directory.member(member.id).is_some());
    }

    #[test]
    fn a_sweep_ends_where_it_is_refused_a_claim() {
        let directory = Directory::default();
        let member = add(&directory, 1);
        for name in 0..10 {
            set(&directory, &member, name, Change::Up(word(name + 1)));
        }
        directory.end(&member, &COMMITTED);
        let sweep_up_to = |most: usize| {
            let mut allowed = 0;
            let allow = |_: &Claim<Text>| {
                allowed += 1;
                allowed <= most
            };
            let (page, more) = directory.sweep(&member, allow, &reclaim::enter(), &COMMITTED);
            (page.len(), more)
        };
        assert_eq!(sweep_up_to(3), (3, true));
        assert_eq!(sweep_up_to(0), (0, true));
        assert!(directory.member(member.id).is_some());
        assert_eq!(sweep_up_to(8), (7, false));
        assert!(directory.member(member.id).is_none());
    }

    #[test]
    fn a_change_says_what_readers_found_before() {
        let directory = Directory::default();
        let member = add(&directory, 1);
        let change = |change| set(&directory, &member, 1, change);
        assert_eq!(change(Change::Held), None);
        assert_eq!(change(Change::Up(word(2))), Some((None, true)));
        assert_eq!(change(Change::Up(word(2))), None);
        assert_eq!(change(Change::Up(word(3))), Some((Some(word(2)), true)));
        assert_eq!(change(Change::Down(word(2))), None);
        assert_eq!(change(Change::Down(word(3))), Some((Some(word(3)), false)));
        assert_eq!(change(Change::Down(word(3))), None);
        assert_eq!(change(Change::Up(word(4))), Some((None, true)));
        assert_eq!(change(Change::Free), Some((Some(word(4)), false)));
        assert_eq!(change(Change::Free), None);
    }

    #[test]
    fn a_change_of_an_invisible_claim_makes_it_visible() {
        let directory = Directory::default();
        let member = add(&directory, 1);
        let invisible = || {
            set(&directory, &member, 1, Change::Up(word(2)));
            directory.begin_snapshot(&member, &COMMITTED);
            directory.end_snapshot(&member, &COMMITTED);
            assert_eq!(found(&directory, 1), None);
        };
        for (change, changed) in [
            (Change::Up(word(2)), Some((None, true))),
            (Change::Up(word(3)), Some((None, true))),
            (Change::Down(word(2)), None),
            (Change::Held, None),
            (Change::Free, None),
        ] {
            invisible();
            assert_eq!(set(&directory, &member, 1, change), changed);
        }
        assert_eq!(found(&directory, 1), None);
        assert_eq!(directory.count(), 0);
    }

    #[test]
    fn a_death_of_another_pid_changes_nothing() {
        let directory = Directory::default();
        let member = add(&directory, 1);
        set(&directory, &member, 1, Change::Up(word(2)));
        set(&directory, &member, 1, Change::Down(word(3)));
        assert_eq!(found(&directory, 1), Some((1, Some(word(2)))));
        set(&directory, &member, 1, Change::Down(word(2)));
        assert_eq!(found(&directory, 1), Some((1, None)));
    }

    #[test]
    fn the_claims_of_the_zone_itself_are_not_found() {
        let directory = Directory::<Text>::default();
        let own = directory.add(1, &[1], origin(), true, &COMMITTED);
        set(&directory, &own, 1, Change::Up(word(2)));
        assert_eq!(found(&directory, 1), None);
        let (page, next) = directory.page(&own, 0);
        assert_eq!((page.len(), next), (1, None));
    }

    #[test]
    fn readers_find_a_name_while_others_come_and_go() {
        let directory = Arc::new(Directory::default());
        let steady = add(&directory, 1);
        for name in 0..100 {
            set(&directory, &steady, name, Change::Up(word(name + 1)));
        }
        let writer = {
            let directory = Arc::clone(&directory);
            std::thread::spawn(move || {
                for round in 0..50 {
                    let member = add(&directory, 2 + round);
                    for name in 0..200 {
                        set(&directory, &member, name, Change::Up(word(1_000 + name)));
                    }
                    directory.end(&member, &COMMITTED);
                    sweep(&directory, &member);
                }
            })
        };
        while !writer.is_finished() {
            for name in 0..100 {
                let (_, pid) = found(&directory, name).expect("the steady member claims the name");
                assert!(pid == Some(word(name + 1)) || pid == Some(word(1_000 + name)));
            }
        }
        writer.join().unwrap();
    }

    #[test]
    fn readers_find_a_claim_while_it_changes() {
        let directory = Arc::new(Directory::default());
        let member = add(&directory, 1);
        // So that the places of two claims of a name are far apart.
        for name in 0..2_000 {
            set(&directory, &member, name, Change::Held);
        }
        let writer = {
            let directory = Arc::clone(&directory);
            std::thread::spawn(move || {
                for round in 0..50_000 {
                    set(&directory, &member, 1, Change::Up(word(round % 2)));
                    set(&directory, &member, 1, Change::Held);
                }
            })
        };
        while !writer.is_finished() {
            assert!(found(&directory, 1).is_some());
        }
        writer.join().unwrap();
    }

    proptest! {
        #[test]
        fn a_directory_is_a_map_of_members_and_names(
            steps in prop::collection::vec((0u64..4, 0u64..8, 0u8..6, 1u64..4), 1..200)
        ) {
            let directory = Directory::default();
            let mut members: Vec<_> = (0..4).map(|node| add(&directory, node)).collect();
            let mut model: HashMap<(u64, u64), Option<u64>> = HashMap::new();
            for (node, name, what, pid) in steps {
                let member = &members[node as usize];
                let key = (node, name);
                let was = model.get(&key).copied().flatten();
                let changed = match what {
                    0 => {
                        model.insert(key, None);
                        set(&directory, member, name, Change::Held)
                    }
                    1 | 2 => {
                        model.insert(key, Some(pid));
                        set(&directory, member, name, Change::Up(word(pid)))
                    }
                    3 => {
                        if model.get(&key) == Some(&Some(pid)) {
                            model.insert(key, None);
                        }
                        set(&directory, member, name, Change::Down(word(pid)))
                    }
                    4 => {
                        model.remove(&key);
                        set(&directory, member, name, Change::Free)
                    }
                    _ => {
                        directory.end(member, &COMMITTED);
                        model.retain(|(of, _), _| *of != node);
                        sweep(&directory, member);
                        members[node as usize] = add(&directory, node);
                        None
                    }
                };
                let is = model.get(&key).copied().flatten();
                let expected = (what < 5 && was != is).then_some((was.map(word), is.is_some()));
                prop_assert_eq!(changed, expected);
                for name in 0..8 {
                    let claims = model.iter().filter(|((_, of), _)| *of == name);
                    let best = claims.max_by_key(|((node, name), pid)| {
                        (pid.is_some(), (name * 31 + node * 17) % 3, *node)
                    });
                    let best = best.map(|((node, _), pid)| (*node, pid.map(word)));
                    prop_assert_eq!(found(&directory, name), best);
                }
                let running = model.values().filter(|pid| pid.is_some()).count();
                prop_assert_eq!(directory.count(), running);
            }
        }
    }
}
