//! Tables, and the processes that own them.
//!
//! A table is found by the word of its atom, in one lock-free map for each kind of table. It is in
//! a VM resource that monitors the owner: when the owner dies, the table is removed from the map,
//! and its memory is freed in the background once nobody reads it any more.

use std::panic::{catch_unwind, AssertUnwindSafe};

use lazy_static::lazy_static;
use papaya::HashMap;
use parking_lot::Mutex;
use rustler::{Env, LocalPid, Monitor, Resource, ResourceArc};

use proctab_table::processes::Processes;
use proctab_table::reclaim::{self, Deferred, Guard};
use proctab_table::zone::Zone;
use proctab_table::Seed;
use proctab_terms::call_times;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

/// Cost of listing a table, in words.
const LISTED_COST: usize = 8;

/// All tables of a kind, by the words of their atoms.
pub type Tables<T> = HashMap<u64, ResourceArc<Table<T>>, Seed>;

/// A kind of table.
pub trait Content: Default + Send + Sync + 'static
where
    Table<Self>: Resource,
{
    /// All tables of this kind.
    fn tables() -> &'static Tables<Self>;
}

/// A table and its owner.
pub struct Table<T: Send + 'static> {
    name: u64,
    owner: Mutex<Option<(LocalPid, Monitor)>>,
    /// The content.
    pub content: Deferred<T>,
}

/// The result of giving a table to an owner.
#[derive(PartialEq)]
pub enum Given {
    /// The table has the new owner.
    Done,
    /// The previous owner is dead: the table must be closed, although the VM has not told yet.
    Abandoned,
    /// The new owner is dead.
    Dead,
}

fn no_tables<T: Content>() -> Tables<T>
where
    Table<T>: Resource,
{
    HashMap::builder()
        .hasher(Seed::default())
        .shared_collector(reclaim::collector())
        .build()
}

/// Runs a callback of the VM. A panic in it would end the node: rustler does not catch it.
fn contain(callback: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(callback));
}

/// Defines the kinds of tables, each of which is a resource type of its own.
macro_rules! kinds {
    ($($content:ty: $name:literal, $tables:ident);* $(;)?) => {$(
        lazy_static! {
            static ref $tables: Tables<$content> = no_tables();
        }

        impl Content for $content {
            fn tables() -> &'static Tables<Self> {
                &$tables
            }
        }

        #[rustler::resource_impl(name = $name)]
        impl Resource for Table<$content> {
            const IMPLEMENTS_DESTRUCTOR: bool = true;
            const IMPLEMENTS_DOWN: bool = true;

            fn destructor(self, _: Env<'_>) {
                contain(|| drop(self));
            }

            fn down<'a>(&'a self, _: Env<'a>, _: LocalPid, monitor: Monitor) {
                contain(|| call_times::measure(c"down", || self.owner_is_down(monitor)));
            }
        }
    )*};
}

kinds! {
    Zone<Copied>: "proctab_zone", ZONES;
    Processes<Copied>: "proctab_processes", PROCESSES;
}

impl<T: Content> Table<T>
where
    Table<T>: Resource,
{
    /// Returns an empty table without an owner.
    pub fn new(name: u64) -> ResourceArc<Self> {
        ResourceArc::new(Table {
            name,
            owner: Mutex::new(None),
            content: Deferred::default(),
        })
    }

    /// Gives a table to an owner, which replaces the previous one.
    pub fn give(this: &ResourceArc<Self>, new: LocalPid, env: Env) -> Given {
        // `down` waits for the lock, so it finds the monitor that it is called for.
        let mut owner = this.owner.lock();
        if owner.is_some_and(|(old, _)| old != new && !env.is_process_alive(old)) {
            return Given::Abandoned;
        }
        let Some(monitor) = env.monitor(this, &new) else {
            return Given::Dead;
        };
        if let Some((_, old)) = owner.replace((new, monitor)) {
            env.demonitor(this, &old);
        }
        Given::Done
    }

    /// Returns the owner. Fails if the table was never given to one.
    pub fn owner<'c>(&self, call: Call<'c>) -> Answer<'c> {
        let (owner, _) = (*self.owner.lock()).ok_or(Fault::BadArgument)?;
        Ok(call.make_rustler_pid(&owner))
    }

    /// Whether the table has an owner that is alive.
    pub fn is_owner_alive(&self, env: Env) -> bool {
        let owner = *self.owner.lock();
        owner.is_some_and(|(owner, _)| env.is_process_alive(owner))
    }

    /// Closes the table: removes it from the map, unless a new owner has opened another one of
    /// its name.
    pub fn close(&self) {
        self.close_if(|_| true);
    }

    /// Closes the table if it was never given to an owner.
    pub fn close_unowned(&self) {
        self.close_if(|owner| owner.is_none());
    }

    /// Closes the table of an owner that has died, unless it was given to another one meanwhile.
    fn owner_is_down(&self, monitor: Monitor) {
        self.close_if(|owner| owner.is_some_and(|(_, current)| current == monitor));
    }

    /// Closes the table if `condition` holds for its owner.
    ///
    /// This holds the owner's lock, so that nobody is given a table that is about to be closed.
    fn close_if(&self, condition: impl FnOnce(Option<(LocalPid, Monitor)>) -> bool) {
        let guard = reclaim::enter();
        let owner = self.owner.lock();
        let closing = condition(*owner);
        if closing {
            let is_this = |_: &u64, table: &ResourceArc<Self>| std::ptr::eq(&**table, self);
            // An error means that the table was closed before.
            let _ = T::tables().remove_if(&self.name, is_this, &guard);
        }
        drop(owner);
        if closing {
            reclaim::flush(&guard);
        }
    }
}

/// Returns the table of this name. Fails if there is none.
#[inline]
pub fn get<T: Content>(name: u64, guard: &Guard) -> Result<&ResourceArc<Table<T>>, Fault>
where
    Table<T>: Resource,
{
    T::tables().get(&name, guard).ok_or(Fault::BadArgument)
}

/// Prepends `{kind, Name, Owner}` of each table of a kind to a list.
pub fn list<'c, T: Content>(call: Call<'c>, kind: Term<'c>, mut list: Term<'c>) -> Answer<'c>
where
    Table<T>: Resource,
{
    let guard = reclaim::enter();
    for (name, table) in T::tables().iter(&guard) {
        call.deduct(LISTED_COST)?;
        // A table without an owner is just being opened.
        if let Ok(owner) = table.owner(call) {
            list = call.cons(call.tuple([kind, call.immediate(*name), owner]), list);
        }
    }
    Ok(list)
}
