//! Changes of attributes of which the other members of a zone on several nodes have copies.
//!
//! Each function makes the change, and then tells the cluster process of the zone that it has taken
//! place. The message has the name alone: the cluster process reads the attributes that the name
//! has then. A node without such zones pays for one load.

use std::sync::atomic::{AtomicBool, Ordering};

use proctab_table::reclaim;
use proctab_terms::{Answer, Call, Fault, Scratch, Term};

use crate::atoms;
use crate::attributes;
use crate::events::send_copied;
use crate::lookup;

/// Whether there is, or was, a zone with copied attributes.
static ARE_COPIED: AtomicBool = AtomicBool::new(false);

/// Records that a zone has copied attributes. Attributes that are set before this call has returned
/// may not be told of.
pub fn begin() {
    ARE_COPIED.store(true, Ordering::SeqCst);
}

macro_rules! tell_of {
    ($($function:ident),*) => {$(
        #[inline]
        pub fn $function(call: Call<'_>) -> Answer<'_> {
            let answer = attributes::$function(call)?;
            if ARE_COPIED.load(Ordering::Acquire) {
                tell(call, answer)?;
            }
            Ok(answer)
        }
    )*};
}

tell_of!(setattr, setattr_of_cluster, set_missing, replace, cas);
tell_of!(delattr, delattr_of_own, increment, increment_of_own);

/// Tells the cluster process of a change, unless the answer says that there was none or no other
/// member has a copy of the attribute. The call may be committed, so nothing may be refused here.
#[cold]
fn tell<'c>(call: Call<'c>, answer: Term<'c>) -> Result<(), Fault> {
    let none = [
        atoms::void(),
        atoms::undefined(),
        atoms::false_(),
        atoms::large(),
    ];
    if none.into_iter().any(|none| answer.is(none)) || call.get_tuple(answer).is_some() {
        return Ok(());
    }
    let guard = reclaim::enter();
    let Ok(zone) = lookup::zone(call, &guard) else {
        // It has ended meanwhile.
        return Ok(());
    };
    let Some(directory) = zone.directory() else {
        return Ok(());
    };
    let mut scratch = Scratch::new();
    let is_copied = match call.argument(3) {
        // The second form of `setattr` has a list of attributes.
        Err(_) if answer.is(atoms::ok()) => directory.has_copies(),
        _ => match call.lookup_key(call.argument(2)?, &mut scratch) {
            Ok(key) => directory.is_copied(key),
            Err(_) => directory.has_copies(),
        },
    };
    if is_copied {
        send_copied(call, zone);
    }
    Ok(())
}
