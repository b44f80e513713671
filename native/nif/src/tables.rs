//! Tables, and the processes that own them.
//!
//! A table is found by the word of its atom, in one lock-free map for each kind of table. It
//! monitors its owner: when the owner dies, the table is removed from the map, and its memory is
//! freed in the background once nobody reads it any more.

use std::marker::PhantomData;
use std::sync::Arc;

use lazy_static::lazy_static;
use papaya::HashMap;
use parking_lot::Mutex;
use rustler::{Env, LocalPid, Monitor};

use proctab_table::recent::{Named, Recent};
use proctab_table::reclaim::{self, Deferred, Guard};
use proctab_table::zone::Zone;
use proctab_table::Seed;
use proctab_terms::{Answer, Call, Copied, Fault, Term};

use crate::monitors::{Monitors, Observer};
use crate::watching::WatchedProcesses;

/// Cost of listing a table, in words.
const LISTED_COST: usize = 8;

/// All tables of a kind, by the words of their atoms.
pub type Tables<T> = HashMap<u64, Arc<Table<T>>, Seed>;

/// A kind of table.
pub trait Content: Default + Send + Sync + 'static {
    /// All tables of this kind.
    fn tables() -> &'static Tables<Self>;

    /// Those that were opened last.
    fn recent() -> &'static Recent<Table<Self>>;
}

/// A table and its owner.
pub struct Table<T: Send + 'static> {
    name: u64,
    owner: Mutex<Option<(LocalPid, Monitor)>>,
    monitors: Monitors,
    /// The content.
    pub content: Deferred<T>,
}

/// Closes the table of this name if its owner dies.
struct OwnerObserver<T> {
    name: u64,
    content: PhantomData<fn() -> T>,
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

fn no_tables<T: Content>() -> Tables<T> {
    HashMap::builder()
        .hasher(Seed::default())
        .shared_collector(reclaim::collector())
        .build()
}

/// Defines the kinds of tables.
macro_rules! kinds {
    ($($content:ty: $tables:ident, $recent:ident);* $(;)?) => {$(
        lazy_static! {
            static ref $tables: Tables<$content> = no_tables();
        }

        static $recent: Recent<Table<$content>> = Recent::new();

        impl Content for $content {
            fn tables() -> &'static Tables<Self> {
                &$tables
            }

            #[inline]
            fn recent() -> &'static Recent<Table<Self>> {
                &$recent
            }
        }
    )*};
}

kinds! {
    Zone<Copied>: ZONES, RECENT_ZONES;
    WatchedProcesses: PROCESSES, RECENT_PROCESSES;
}

impl<T: Content> Observer for OwnerObserver<T> {
    fn down(&self, _: Env<'_>, _: LocalPid, monitor: Monitor) {
        let guard = reclaim::enter();
        // An error means that the table was closed before.
        if let Ok(table) = get::<T>(self.name, &guard) {
            table.owner_is_down(monitor);
        }
    }
}

impl<T: Content> Named for Table<T> {
    #[inline]
    fn name(&self) -> u64 {
        self.name
    }
}

impl<T: Content> Table<T> {
    /// Returns an empty table without an owner.
    pub fn new(name: u64) -> Arc<Self> {
        let observer = OwnerObserver {
            name,
            content: PhantomData::<fn() -> T>,
        };
        Arc::new(Table {
            name,
            owner: Mutex::new(None),
            monitors: Monitors::new(Arc::new(observer)),
            content: Deferred::default(),
        })
    }

    /// Gives the table to an owner, which replaces the previous one.
    pub fn give(&self, new: LocalPid, env: Env) -> Given {
        // `down` waits for the lock, so it finds the monitor that it is called for.
        let mut owner = self.owner.lock();
        if let Some((old, _)) = *owner {
            match (old == new, env.is_process_alive(old)) {
                (true, true) => return Given::Done,
                (true, false) => return Given::Dead,
                (false, false) => return Given::Abandoned,
                (false, true) => (),
            }
        }
        let Some(monitor) = self.monitors.monitor(env, new) else {
            return Given::Dead;
        };
        if let Some((old, _)) = owner.replace((new, monitor)) {
            self.monitors.demonitor(env, old);
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
            let is_this = |_: &u64, table: &Arc<Self>| std::ptr::eq(&**table, self);
            T::recent().change().remove(self, || {
                // An error means that the table was closed before.
                let _ = T::tables().remove_if(&self.name, is_this, &guard);
            });
        }
        drop(owner);
        if closing {
            reclaim::flush(&guard);
        }
    }
}

/// Returns the table of this name. Fails if there is none.
#[inline]
pub fn get<T: Content>(name: u64, guard: &Guard) -> Result<&Arc<Table<T>>, Fault> {
    T::tables().get(&name, guard).ok_or(Fault::BadArgument)
}

/// Returns the table of this name, faster than [`get`] if it was opened by [`open`].
#[inline]
pub fn find<T: Content>(name: u64, guard: &Guard) -> Result<&Table<T>, Fault> {
    match T::recent().get(name, guard) {
        Some(table) => Ok(table),
        None => find_in_map(name, guard),
    }
}

#[cold]
#[inline(never)]
fn find_in_map<T: Content>(name: u64, guard: &Guard) -> Result<&Table<T>, Fault> {
    get(name, guard).map(|table| &**table)
}

/// Makes a table known by its name, in the place of one whose owner is dead.
pub fn open<T: Content>(table: &Arc<Table<T>>, guard: &Guard) {
    T::recent().change().add(table, || {
        T::tables().insert(table.name, Arc::clone(table), guard);
    });
}

/// Prepends `{kind, Name, Owner}` of each table of a kind to a list.
pub fn list<'c, T: Content>(call: Call<'c>, kind: Term<'c>, mut list: Term<'c>) -> Answer<'c> {
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
