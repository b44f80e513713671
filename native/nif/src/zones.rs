//! The zones of this VM, and the processes that own them.
//!
//! A zone is found by its atom in one lock-free map. Its table lives in a VM resource that monitors the owner: when the owner dies, for
//! whatever reason, the zone leaves the map, and its memory is freed in the background once nobody reads it any more.

use lazy_static::lazy_static;
use papaya::HashMap;
use rustler::sys::ErlNifTerm;
use rustler::{Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};

use proctab_table::reclaim::{self, Deferred, Guard};
use proctab_table::zone::Zone;
use proctab_table::Seed;

use crate::call::{Call, Fault};
use crate::terms::Copied;

lazy_static! {
    static ref ZONES: HashMap<u64, ResourceArc<Table>, Seed> = HashMap::builder()
        .hasher(Seed::default())
        .shared_collector(reclaim::collector())
        .build();
}

/// The table of a zone, and whose it is.
pub struct Table {
    name: u64,
    owner: LocalPid,
    /// What it holds.
    pub zone: Deferred<Zone<Copied>>,
}

#[rustler::resource_impl(name = "proctab_zone")]
impl Resource for Table {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _: Env<'a>, _: LocalPid, _: Monitor) {
        self.close();
    }
}

impl Table {
    /// Takes the zone out of the map, if it is still this one: a new owner may have opened it again.
    fn close(&self) {
        let guard = reclaim::enter();
        let this = |_: &u64, table: &ResourceArc<Table>| std::ptr::eq(&**table, self);
        // Any other answer says that it was closed before.
        let _ = ZONES.remove_if(&self.name, this, &guard);
        reclaim::flush(&guard);
    }
}

impl Call<'_> {
    /// The running zone that the first argument names.
    #[inline]
    pub fn zone<'g>(&self, guard: &'g Guard) -> Result<&'g Zone<Copied>, Fault> {
        let name = self.atom(0)?;
        let table = ZONES.get(&name, guard).ok_or(Fault::BadArgument)?;
        Ok(&table.zone)
    }

    /// The zone that the first argument is the handle of, or names.
    pub fn table(&self, guard: &Guard) -> Result<ResourceArc<Table>, Fault> {
        match self.atom(0) {
            Ok(name) => ZONES.get(&name, guard).cloned().ok_or(Fault::BadArgument),
            Err(_) => self.with_env(|env| {
                // SAFETY: the argument is a term of the caller's environment.
                let term = unsafe { Term::new(env, self.argument(0)?) };
                term.decode().map_err(|_| Fault::BadArgument)
            }),
        }
    }

    /// Opens the zone that the first argument names, for the caller; its handle.
    pub fn open_zone(&self) -> Result<ErlNifTerm, Fault> {
        let name = self.atom(0)?;
        let guard = reclaim::enter();
        self.with_env(|env| {
            if ZONES
                .get(&name, &guard)
                .is_some_and(|table| env.is_process_alive(table.owner))
            {
                return Err(Fault::BadArgument);
            }
            let table = ResourceArc::new(Table {
                name,
                owner: env.pid(),
                zone: Deferred::new(Zone::default()),
            });
            env.monitor(&table, &table.owner)
                .ok_or(Fault::BadArgument)?;
            let handle = table.encode(env).as_c_arg();
            ZONES.insert(name, table, &guard);
            Ok(handle)
        })
    }

    /// Closes the zone that the first argument is the handle of.
    pub fn close_zone(&self) -> Result<(), Fault> {
        let guard = reclaim::enter();
        self.table(&guard)?.close();
        Ok(())
    }

    fn with_env<T>(&self, run: impl FnOnce(Env) -> Result<T, Fault>) -> Result<T, Fault> {
        let lifetime = ();
        // SAFETY: the environment is the caller's and outlives this function, and so the lifetime.
        run(unsafe { Env::new(&lifetime, self.env) })
    }
}
