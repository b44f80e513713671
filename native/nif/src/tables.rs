//! The tables of this VM, and the processes that own them.
//!
//! A table is found by its atom in one lock-free map for each kind of table. It lives in a VM resource that monitors the owner: when the owner dies, for
//! whatever reason, the table leaves the map, and its memory is freed in the background once nobody reads it any more.

use lazy_static::lazy_static;
use papaya::HashMap;
use parking_lot::Mutex;
use rustler::sys::ErlNifTerm;
use rustler::{Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};

use proctab_table::processes::Processes;
use proctab_table::reclaim::{self, Deferred, Guard};
use proctab_table::zone::Zone;
use proctab_table::Seed;

use crate::call::{Answer, Call, Fault};
use crate::call_times;
use crate::copied::Copied;
use crate::handles::Handles;

/// All tables of a kind, by the words of their atoms.
pub type Tables<T> = HashMap<u64, ResourceArc<Table<T>>, Seed>;

/// What a table holds.
pub trait Content: Default + Send + Sync + 'static
where
    Table<Self>: Resource,
{
    /// The tables that hold such.
    fn tables() -> &'static Tables<Self>;
}

/// The handles of zones.
pub static HANDLES: Handles<ResourceArc<Table<Zone<Copied>>>> = Handles::new(c"proctab_handle");

/// What it costs to list a table, in words of terms.
const OWNER_COST: usize = 8;

/// What became of a table that was to be given to an owner.
#[derive(PartialEq)]
enum Given {
    Done,
    /// The owner before is dead, and the table has to go with it, although the VM has not told of that yet.
    Left,
    /// The new owner is dead.
    Dead,
}

/// A table, and whose it is.
pub struct Table<T: Send + 'static> {
    name: u64,
    owner: Mutex<Option<(LocalPid, Monitor)>>,
    /// What it holds.
    pub content: Deferred<T>,
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

/// Each kind of table is another type of resource.
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
            const IMPLEMENTS_DOWN: bool = true;

            fn down<'a>(&'a self, _: Env<'a>, _: LocalPid, monitor: Monitor) {
                call_times::measure(c"down", || self.owner_is_down(monitor));
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
    fn new(name: u64) -> ResourceArc<Self> {
        ResourceArc::new(Table {
            name,
            owner: Mutex::new(None),
            content: Deferred::default(),
        })
    }

    /// Gives a table to another owner.
    fn give(this: &ResourceArc<Self>, new: LocalPid, env: Env) -> Given {
        // The callback waits for the lock, so it finds the monitor that it is called for.
        let mut owner = this.owner.lock();
        if owner.is_some_and(|(old, _)| old != new && !env.is_process_alive(old)) {
            return Given::Left;
        }
        let Some(monitor) = env.monitor(this, &new) else {
            return Given::Dead;
        };
        if let Some((_, old)) = owner.replace((new, monitor)) {
            env.demonitor(this, &old);
        }
        Given::Done
    }

    /// Closes a table whose owner has died, unless it was given to another one meanwhile.
    fn owner_is_down(&self, monitor: Monitor) {
        self.close_if(|owner| owner.is_some_and(|(_, own)| own == monitor));
    }

    /// Whose it is; one that was never given away has none.
    pub fn owner(&self, call: &Call) -> Answer {
        let (owner, _) = (*self.owner.lock()).ok_or(Fault::BadArgument)?;
        call.with_env(|env| Ok(owner.encode(env).as_c_arg()))
    }

    fn owner_is_alive(&self, env: Env) -> bool {
        let owner = *self.owner.lock();
        owner.is_some_and(|(owner, _)| env.is_process_alive(owner))
    }

    /// Takes the table out of the map, if this is said of its owner, and if it is still this one: a new owner may have opened it again. It is
    /// decided and done under the owner's lock, so that nobody is given a table that is about to go.
    fn close_if(&self, is_said: impl FnOnce(Option<(LocalPid, Monitor)>) -> bool) {
        let guard = reclaim::enter();
        let owner = self.owner.lock();
        let closing = is_said(*owner);
        if closing {
            let this = |_: &u64, table: &ResourceArc<Self>| std::ptr::eq(&**table, self);
            // Any other answer says that it was closed before.
            let _ = T::tables().remove_if(&self.name, this, &guard);
        }
        drop(owner);
        if closing {
            reclaim::flush(&guard);
        }
    }

    fn close(&self) {
        self.close_if(|_| true);
    }
}

impl Call<'_> {
    /// The running table that the first argument names.
    #[inline]
    pub fn named<'g, T: Content>(&self, guard: &'g Guard) -> Result<&'g T, Fault>
    where
        Table<T>: Resource,
    {
        let name = self.atom(0)?;
        let table = T::tables().get(&name, guard).ok_or(Fault::BadArgument)?;
        Ok(&table.content)
    }

    /// The zone that the first argument is the handle of, or names.
    pub fn zone_table(&self, guard: &Guard) -> Result<ResourceArc<Table<Zone<Copied>>>, Fault> {
        match self.atom(0) {
            Ok(name) => ZONES.get(&name, guard).cloned().ok_or(Fault::BadArgument),
            Err(_) => HANDLES.get(self, self.argument(0)?).cloned(),
        }
    }

    /// Whose the running zone is that the first argument names.
    pub fn zone_owner(&self) -> Answer {
        let guard = reclaim::enter();
        let zone = ZONES
            .get(&self.atom(0)?, &guard)
            .ok_or(Fault::BadArgument)?;
        zone.owner(self)
    }

    /// The tables of a kind with their owners, put before a list of others.
    pub fn owners<T: Content>(&self, kind: ErlNifTerm, mut others: ErlNifTerm) -> Answer
    where
        Table<T>: Resource,
    {
        let guard = reclaim::enter();
        for (name, table) in T::tables().iter(&guard) {
            self.spend(OWNER_COST)?;
            let Ok(owner) = table.owner(self) else {
                continue;
            };
            others = self.cons(self.tuple([kind, self.word(*name), owner]), others);
        }
        Ok(others)
    }

    /// Opens the zone that the first argument names, for the caller; its handle.
    pub fn open_zone(&self) -> Result<ErlNifTerm, Fault> {
        let name = self.atom(0)?;
        let guard = reclaim::enter();
        self.with_env(|env| {
            let running = ZONES.get(&name, &guard);
            if running.is_some_and(|table| table.owner_is_alive(env)) {
                return Err(Fault::BadArgument);
            }
            let table = Table::new(name);
            if Table::give(&table, env.pid(), env) != Given::Done {
                return Err(Fault::BadArgument);
            }
            let handle = HANDLES.make(self, table.clone());
            ZONES.insert(name, table, &guard);
            Ok(handle)
        })
    }

    /// Closes the zone that the first argument is the handle of.
    pub fn close_zone(&self) -> Result<(), Fault> {
        let guard = reclaim::enter();
        self.zone_table(&guard)?.close();
        Ok(())
    }

    /// The table of processes that the first argument names, which belongs to the second from now on; a new one if there is none.
    pub fn open_processes<'g>(&self, guard: &'g Guard) -> Result<&'g Processes<Copied>, Fault> {
        let name = self.atom(0)?;
        self.with_env(|env| {
            // SAFETY: the argument is a term of the caller's environment.
            let owner = unsafe { Term::new(env, self.argument(1)?) };
            let owner = owner.decode().map_err(|_| Fault::BadArgument)?;
            loop {
                let table = PROCESSES.get_or_insert_with(name, || Table::new(name), guard);
                match Table::give(table, owner, env) {
                    Given::Done => (),
                    Given::Left => {
                        table.close();
                        continue;
                    }
                    Given::Dead => {
                        table.close_if(|owner| owner.is_none());
                        return Err(Fault::BadArgument);
                    }
                }
                // Its last owner may have died just before.
                let current = PROCESSES.get(&name, guard);
                if current.is_some_and(|current| std::ptr::eq(&**current, &**table)) {
                    return Ok(&*table.content);
                }
            }
        })
    }

    /// Closes the table of processes that the first argument names.
    pub fn close_processes(&self) -> Result<(), Fault> {
        let guard = reclaim::enter();
        let table = PROCESSES.get(&self.atom(0)?, &guard);
        table.ok_or(Fault::BadArgument)?.close();
        Ok(())
    }

    /// Does something with the caller's environment.
    pub fn with_env<T>(&self, run: impl FnOnce(Env) -> Result<T, Fault>) -> Result<T, Fault> {
        let lifetime = ();
        // SAFETY: the environment is the caller's and outlives this function, and so the lifetime.
        run(unsafe { Env::new(&lifetime, self.env) })
    }
}
