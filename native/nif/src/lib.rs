//! The functions that the Erlang module `proctab_nif` exports, which documents them.
//!
//! Each takes its arguments apart, does one thing to a table, and makes its answer. Calls, budgets
//! and terms are `proctab_terms`; the tables are `proctab_table`.
//!
//! Each module imports only from modules further down this list:
//!
//! | module | subject |
//! | --- | --- |
//! | [`zones`] | opening, stopping and closing zones; listing tables |
//! | [`pages`] | paging through the rows of a zone |
//! | [`conditions`] | conditions that rows of a page must meet |
//! | [`children`] | children: starting, ending, finding |
//! | [`registrars`] | registered processes, and the registrars that watch them |
//! | [`copies`] | changes of attributes that other nodes have copies of |
//! | [`attributes`] | reading and changing attributes |
//! | [`claims`] | the directory of a zone on several nodes |
//! | [`index`] | changes of indexed attributes, and lookups |
//! | [`cleanups`] | cleaning up after the dead of a table of processes |
//! | [`subscriptions`] | the subscribers of the processes that send events |
//! | [`processes`] | tables of processes and their registrations |
//! | [`waiting`] | waiters for an attribute of a name, or for its child |
//! | [`events`] | the subscriber to births and deaths |
//! | [`lookup`] | the tables and entries that arguments name |
//! | [`tables`] | tables, and the processes that own them |
//! | [`watching`] | tables of processes, and the deaths of their processes |
//! | [`monitors`] | monitors of local processes |
//! | [`handles`] | references to Rust values |
//! | [`atoms`] | atoms |
//! | [`allocator`] | the allocator of the library |

mod allocator;
mod atoms;
mod attributes;
mod children;
mod claims;
mod cleanups;
mod conditions;
mod copies;
mod events;
mod handles;
mod index;
mod lookup;
mod monitors;
mod pages;
mod processes;
mod registrars;
mod subscriptions;
mod tables;
mod waiting;
mod watching;
mod zones;

proctab_terms::export! {
    zones {
        zone_open/2, zone_open/4, zone_stop/1, was_stopped/1, zone_close/1, tables/0, owner/1,
        count/1,
    }
    children {
        opening/4, launch/4, insert/5, child/2, await_start/2, kept/2, running/3, failed/2,
        terminating/3, pending/2, slowed/2, restarting/2,
        respec/3, stop/3, remove/2, unregister_name/4, hand_over/5, change_keeper/3, find/2,
        find_alive/2, may_be_alive/1,
    }
    registrars {
        watchdog/2, appoint/3, open_registrar/2, close_registrar/2, registrars/1, is_own/2,
        register_name/5, change_keeper/4, reserve_name/3, cancel_name/2,
    }
    attributes {
        getattr/3, attrs/2, attrs/3,
    }
    copies {
        setattr/3, setattr/4, set_missing/4, replace/5, cas/5, delattr/3, increment/4, increment/5,
    }
    index {
        check_keys/1, lookup/6, count/3, values_page/4, indexes/1, index_page/3,
    }
    claims {
        cluster_open/3, cluster_shared/1, drain/1, add_member/4, change_claims/3, begin_snapshot/2,
        end_snapshot/2, end_member/2, sweep_claims/2, find_claim/2, find_claim_alive/2,
        best_claim/2, claim_owner/2, claims_page/4, claims_count/1, cluster_getattr/3,
        cluster_setattr/3, cluster_setattr/4, cluster_cas/5, cluster_increment/4,
        cluster_increment/5, cluster_delattr/3,
    }
    pages {
        page/4,
    }
    events {
        listen/1, unlisten/1,
    }
    subscriptions {
        open_subscriptions/3, add_subscriber/1, remove_subscriber/1, cancel_subscriptions/2,
        end_subscriptions/0, subscriptions/1,
    }
    waiting {
        wait_for/3, wait_for_child/2, stop_waiting/1, waiting/1,
    }
    processes {
        processes_open/2, processes_close/1, hold/1, release/1, claim/2, died/2, register/3,
        try_register/3, unregister/3, begin_registering/3, end_registering/4, fail_registering/3,
        abandon/3, registered_names/2, registered_count/2, processes_page/2, remote_page/2,
        counts_page/2,
    }
    cleanups {
        open_cleanups/1, reap/1, take_cleanups/2, cleaned/1, give_up/2, deaths/1,
    }
}

/// The version that the Erlang code must have.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Tells the version to `native/build`, which looks for this text in the file.
#[no_mangle]
pub static PROCTAB_NIF_VERSION: &str =
    concat!("proctab_nif version ", env!("CARGO_PKG_VERSION"), ";");

/// Prepares the library. Returns `false`, which refuses to load it, if the Erlang code that passes
/// its version is not of this one, or if the VM refuses.
fn load(env: rustler::Env, version: rustler::Term) -> bool {
    if !version
        .decode::<&str>()
        .is_ok_and(|theirs| theirs == VERSION)
    {
        return false;
    }
    proctab_terms::load(env);
    // SAFETY: the VM is loading the module, in this environment.
    unsafe { lookup::ZONE_HANDLES.open(env) && waiting::WAIT_HANDLES.open(env) }
}

rustler::init!("proctab_nif", load = load);
