//! The directory of a zone on several nodes. The cluster process of the zone changes it; any
//! process reads it.

use std::sync::Arc;

use proctab_table::claims::{Change, Changed, Claim, Directory, Member};
use proctab_table::datum::Datum;
use proctab_table::reclaim::{self, Guard};
use proctab_terms::{Answer, Call, Copied, Fault, Scratch, Term};

use crate::atoms::{self, atom, boolean};
use crate::attributes;
use crate::copies;
use crate::events::secret;
use crate::lookup::{self, directory};

/// Cost of a change of a claim, or of removing one, besides its terms, in words.
const CHANGE_COST: usize = 24;
/// Cost of a claim of a page, besides its terms, in words.
const ITEM_COST: usize = 8;
/// Budget of a page, in words.
const PAGE_BUDGET: usize = 3_000;
/// Bits of a place in the pages of all members that are the slot. The member is in the bits above.
const SLOT_BITS: u32 = 32;

/// A change that was converted.
struct Converted {
    name: Datum<Copied>,
    rank: u32,
    change: Change<Copied>,
}

pub fn cluster_open(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let table = lookup::zone_by_handle(call, &guard)?;
    let zone = &table.content;
    let shared = call.to_datum(call.argument(1)?)?;
    let mut copied = Vec::new();
    call.for_each_element(call.argument(2)?, |key| {
        copied.push(call.to_key(key)?);
        Ok(())
    })?;
    if !copied.is_empty() {
        copies::begin();
    }
    let committed = call.commit();
    let directory = zone.open_directory(&committed);
    directory.copy(copied, &committed);
    directory.open(call.caller(), shared, &committed);
    Ok(secret(call, zone))
}

pub fn cluster_shared(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let shared = directory(lookup::zone(call, &guard)?)?.shared();
    call.make(&shared.ok_or(Fault::BadArgument)?)
}

pub fn drain(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let table = lookup::zone_by_handle(call, &guard)?;
    let is_quiet = directory(&table.content)?.drain(&call.commit());
    Ok(boolean(is_quiet))
}

pub fn add_member(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let table = lookup::zone_by_handle(call, &guard)?;
    let directory = directory(&table.content)?;
    let node = call.atom(1)?;
    let mut scratch = Scratch::new();
    let order: Box<[u8]> = match call.lookup_key(call.argument(2)?, &mut scratch)? {
        proctab_table::datum::Borrowed::Bytes(_, bytes) => bytes.into(),
        _ => return Err(Fault::BadArgument),
    };
    let process = call.argument(3)?;
    let is_own = process.word() == call.caller();
    let origin = call.pid_origin(process)?;
    let member = directory.add(node, &order, origin, is_own, &call.commit());
    Ok(call.integer(i64::from(member.id)))
}

/// Makes changes of the claims of a member. Returns what readers found before each of them, and the
/// conflicts that they make.
pub fn change_claims(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let table = lookup::zone_by_handle(call, &guard)?;
    let zone = &table.content;
    let directory = directory(zone)?;
    let member = member(call, directory)?;
    let mut changes = Vec::new();
    call.for_each_element(call.argument(2)?, |change| {
        call.deduct(CHANGE_COST)?;
        changes.push(to_change(call, change, &member)?);
        Ok(())
    })?;
    let committed = call.commit();
    let mut conflicts = call.nil();
    let mut results = Vec::with_capacity(changes.len());
    let is_own = Some(call.caller()) == directory.listener() && member.is_own();
    for Converted { name, rank, change } in changes {
        // The name may have a new child, whose own event is still to come.
        let has_child = || {
            let entry = zone.entry(name.borrow(), &guard);
            entry.is_some_and(|entry| entry.has_child())
        };
        if matches!(change, Change::Free) && is_own && has_child() {
            results.push(atom!(skipped));
            continue;
        }
        let changed = directory.change(&member, &name, rank, change, &guard, &committed);
        let Some(changed) = changed else {
            results.push(atom!(same));
            continue;
        };
        results.push(before(call, &changed, &member));
        if changed.is_up {
            directory.others(&member, name.borrow(), &guard, |other| {
                let conflict = conflict(call, &name, other);
                conflicts = call.cons(conflict, conflicts);
            });
        }
    }
    let in_order = results.into_iter().rev();
    let results = in_order.fold(call.nil(), |rest, result| call.cons(result, rest));
    Ok(call.tuple([results, conflicts]))
}

/// Makes the pid that readers found before a change. The call is committed.
fn before<'c>(call: Call<'c>, changed: &Changed<Copied>, member: &Member<Copied>) -> Term<'c> {
    let was = changed.was.as_ref();
    let pid = was.map(|pid| call.make_packed(pid, &member.origin.1));
    pid.and_then(Result::ok).unwrap_or(atom!(undefined))
}

fn to_change<'c>(
    call: Call<'c>,
    change: Term<'c>,
    member: &Member<Copied>,
) -> Result<Converted, Fault> {
    let Some([name, rank, change]) = call.get_tuple(change) else {
        return Err(Fault::BadArgument);
    };
    let rank = call
        .get_integer(*rank)
        .and_then(|rank| u32::try_from(rank).ok());
    let change = match call.get_pair(*change) {
        Some((what, pid)) if what.is(atoms::up()) => {
            Change::Up(call.pack_pid(pid, &member.origin.0)?)
        }
        Some((what, pid)) if what.is(atoms::down()) => {
            Change::Down(call.pack_pid(pid, &member.origin.0)?)
        }
        None if change.is(atoms::held()) => Change::Held,
        None if change.is(atoms::free()) => Change::Free,
        _ => return Err(Fault::BadArgument),
    };
    Ok(Converted {
        name: call.to_key(*name)?,
        rank: rank.ok_or(Fault::BadArgument)?,
        change,
    })
}

/// Makes the name, and node and pid of the other claim. The call is committed.
fn conflict<'c>(call: Call<'c>, name: &Datum<Copied>, other: &Claim<Copied>) -> Term<'c> {
    let pid = match &other.pid {
        Some(pid) => call.make_packed(pid, &other.member.origin.1),
        None => Ok(atom!(held)),
    };
    let node = call.immediate(other.member.node);
    call.tuple([
        call.make_deducted(name),
        node,
        pid.unwrap_or(atom!(undefined)),
    ])
}

pub fn begin_snapshot(call: Call<'_>) -> Answer<'_> {
    with_member(call, |directory, member| {
        directory.begin_snapshot(member, &call.commit());
        Ok(atom!(ok))
    })
}

pub fn end_snapshot(call: Call<'_>) -> Answer<'_> {
    with_member(call, |directory, member| {
        directory.end_snapshot(member, &call.commit());
        Ok(atom!(ok))
    })
}

pub fn end_member(call: Call<'_>) -> Answer<'_> {
    with_member(call, |directory, member| {
        directory.end(member, &call.commit());
        Ok(atom!(ok))
    })
}

/// Removes some invisible claims of a member, or of any that has ended. Returns those of running
/// children, and whether there are more.
pub fn sweep_claims(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let table = lookup::zone_by_handle(call, &guard)?;
    let directory = directory(&table.content)?;
    let member = match call.argument(1)?.is(atoms::ended()) {
        true => directory.ended(),
        false => directory.member(member_id(call)?),
    };
    let Some(member) = member else {
        return Ok(call.tuple([call.nil(), boolean(false)]));
    };
    let mut budget = call.budget();
    let mut is_refused = false;
    let allow = |claim: &Claim<Copied>| {
        let rest = budget.checked_sub(CHANGE_COST + call.cost_to_make(&claim.name));
        budget = rest.unwrap_or(budget);
        is_refused = rest.is_none();
        !is_refused
    };
    let committed = call.commit();
    let (page, more) = directory.sweep(&member, allow, &guard, &committed);
    if page.is_empty() && is_refused {
        call.take_back(committed);
        return Err(Fault::Reschedule);
    }
    call.deduct(CHANGE_COST * page.len())?;
    let more = more || directory.ended().is_some() && call.argument(1)?.is(atoms::ended());
    let mut removed = call.nil();
    for claim in &page {
        if let Some(pid) = &claim.pid {
            let pid = call.make_packed(pid, &member.origin.1)?;
            let item = call.tuple([call.make(&claim.name)?, pid]);
            removed = call.cons(item, removed);
        }
    }
    Ok(call.tuple([removed, boolean(more)]))
}

pub fn find_claim(call: Call<'_>) -> Answer<'_> {
    find(call, false)
}

pub fn find_claim_alive(call: Call<'_>) -> Answer<'_> {
    find(call, true)
}

/// Finds the own child of a name, or that of the best claim of another member. A dead process of
/// this node that another member still claims is not found, and with `is_alive` no dead own child.
#[inline]
fn find(call: Call<'_>, is_alive: bool) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let directory = directory(zone)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let own = zone.entry(name, &guard).and_then(|entry| entry.pid());
    let best = match own {
        Some(_) => None,
        None => directory.best(name, &guard),
    };
    if let Some(pid) = own {
        if is_alive && !call.may_be_alive(&pid)? {
            return Ok(atom!(undefined));
        }
        return Ok(call.tuple([atom!(ok), call.make_pid(&pid)?]));
    }
    let Some((pid, member)) = best.and_then(|best| Some((best.pid.as_ref()?, &best.member))) else {
        return Ok(atom!(undefined));
    };
    let made = call.make_packed_alive(pid, &member.origin.1)?;
    Ok(made.map_or(atom!(undefined), |pid| call.tuple([atom!(ok), pid])))
}

/// Returns node and pid, or `held`, of the best claim of another member.
pub fn best_claim(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let directory = directory(lookup::zone(call, &guard)?)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let Some(best) = directory.best(name, &guard) else {
        return Ok(atom!(undefined));
    };
    let pid = match &best.pid {
        Some(pid) => call.make_packed(pid, &best.member.origin.1)?,
        None => atom!(held),
    };
    Ok(call.tuple([call.immediate(best.member.node), pid]))
}

/// Returns who has a name in any state: `own`, or the node of the best claim of another member.
pub fn claim_owner(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let zone = lookup::zone(call, &guard)?;
    let directory = directory(zone)?;
    let mut scratch = Scratch::new();
    let name = call.lookup_key(call.argument(1)?, &mut scratch)?;
    let entry = zone.entry(name, &guard);
    if entry.is_some_and(|entry| entry.has_child()) {
        return Ok(atom!(own));
    }
    Ok(match directory.best(name, &guard) {
        Some(best) => call.immediate(best.member.node),
        None => atom!(undefined),
    })
}

pub fn cluster_getattr(call: Call<'_>) -> Answer<'_> {
    attributes::getattr_of_cluster(call)
}

pub fn cluster_setattr(call: Call<'_>) -> Answer<'_> {
    copies::setattr_of_cluster(call)
}

/// Finds nothing to change without a child of this member.
pub fn cluster_cas(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    directory(lookup::zone(call, &guard)?)?;
    copies::cas(call)
}

pub fn cluster_increment(call: Call<'_>) -> Answer<'_> {
    copies::increment_of_own(call)
}

pub fn cluster_delattr(call: Call<'_>) -> Answer<'_> {
    copies::delattr_of_own(call)
}

/// Makes a page of the claims of a member, or of all other members.
pub fn claims_page(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let table = lookup::zone_by_handle(call, &guard)?;
    let directory = directory(&table.content)?;
    let from = call.get_integer(call.argument(2)?);
    let from = from.and_then(|from| u64::try_from(from).ok());
    let from = from.ok_or(Fault::BadArgument)?;
    call.allow(PAGE_BUDGET)?;
    let (id, slot) = ((from >> SLOT_BITS) as u32, from as u32);
    let is_one = !call.argument(1)?.is(atoms::others());
    let member = match is_one {
        true => Some(self::member(call, directory)?),
        false => directory.member_from(id),
    };
    let mut items = call.argument(3)?;
    let Some(member) = member else {
        return Ok(call.tuple([items, atom!(done)]));
    };
    let slot = match is_one || member.id == id {
        true => slot,
        false => 0,
    };
    let is_listed = is_one || !member.is_own();
    let (page, next) = match is_listed {
        true => directory.page(&member, slot),
        false => Default::default(),
    };
    for claim in &page {
        call.deduct(ITEM_COST)?;
        let pid = match &claim.pid {
            Some(pid) => call.make_packed(pid, &member.origin.1)?,
            None => atom!(held),
        };
        let name = call.make(&claim.name)?;
        let item = match is_one {
            true => call.tuple([name, pid]),
            false => call.tuple([name, call.immediate(member.node), pid]),
        };
        items = call.cons(item, items);
    }
    let place = |id: u32, slot: u32| (i64::from(id) << SLOT_BITS) | i64::from(slot);
    let next = match next {
        Some(slot) => call.integer(place(if is_one { 0 } else { member.id }, slot)),
        None if is_one => atom!(done),
        None => call.integer(place(member.id + 1, 0)),
    };
    Ok(call.tuple([items, next]))
}

pub fn claims_count(call: Call<'_>) -> Answer<'_> {
    let guard = reclaim::enter();
    let directory = directory(lookup::zone(call, &guard)?)?;
    Ok(call.integer(directory.count() as i64))
}

/// Returns the member that the second argument names.
fn member(call: Call<'_>, directory: &Directory<Copied>) -> Result<Arc<Member<Copied>>, Fault> {
    directory.member(member_id(call)?).ok_or(Fault::BadArgument)
}

fn member_id(call: Call<'_>) -> Result<u32, Fault> {
    let id = call.get_integer(call.argument(1)?);
    id.and_then(|id| u32::try_from(id).ok())
        .ok_or(Fault::BadArgument)
}

fn with_member<'c>(
    call: Call<'c>,
    run: impl FnOnce(&Directory<Copied>, &Member<Copied>) -> Answer<'c>,
) -> Answer<'c> {
    let guard: Guard = reclaim::enter();
    let table = lookup::zone_by_handle(call, &guard)?;
    let directory = directory(&table.content)?;
    run(directory, &*member(call, directory)?)
}
