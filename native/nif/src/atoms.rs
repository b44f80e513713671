//! The atoms of the library.

use proctab_terms::Term;

rustler::atoms! {
    all, attributes, awaited, begun, busy, callback, children, closed, copied, current, done, down,
    each, ended, fields, free, full, held, home, infinity, integers, large, launching,
    monitor, names, none, not_home, ok, others, own, pending, pid, pids, processes, re_registered,
    registered, restarting, rows, running, same, sizes, skipped, slowed, stopping, terminating,
    undefined, unsubscribed, up, void, zone, zone_stopping,
    any = "_",
    at_least = ">=",
    at_most = "=<",
    cast = "$gen_cast",
    dead = "$proctab_dead",
    detached = "$proctab_detached",
    equal = "=:=",
    greater = ">",
    less = "<",
    not_equal = "=/=",
    woken = "$proctab_woken",
    true_ = "true",
    false_ = "false",
}

/// Makes the term of an atom.
macro_rules! atom {
    ($name:ident) => {
        proctab_terms::Term::atom($crate::atoms::$name())
    };
}
pub(crate) use atom;

/// Makes `true` or `false`.
pub fn boolean<'c>(boolean: bool) -> Term<'c> {
    if boolean {
        atom!(true_)
    } else {
        atom!(false_)
    }
}
