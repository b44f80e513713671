//! Sending messages.

use rustler::env::SavedTerm;
use rustler::thread::is_scheduler_thread;
use rustler::{Atom, Env, LocalPid, OwnedEnv};

use proctab_table::reclaim;

use crate::call::{Call, Fault};
use crate::term::Term;

/// A message that is sent when this is dropped.
struct Undelivered(OwnedEnv, SavedTerm, LocalPid);

impl Drop for Undelivered {
    fn drop(&mut self) {
        let Undelivered(env, message, to) = self;
        // Only a thread that is not the VM's may send in this way. Without the background thread,
        // the message is lost.
        if !is_scheduler_thread() {
            let _ = env.send_and_clear(to, |env| message.load(env));
        }
    }
}

impl<'c> Call<'c> {
    /// Returns rustler's form of the environment of the call.
    pub fn rustler_env(self) -> Env<'c> {
        const LIFETIME: &() = &();
        // SAFETY: the environment lives for `'c`, which belongs to this call alone.
        unsafe { Env::new::<()>(LIFETIME, self.env()) }
    }

    /// Returns rustler's form of a term.
    fn rustler_term(self, term: Term<'c>) -> rustler::Term<'c> {
        // SAFETY: the term is one of this environment.
        unsafe { rustler::Term::new(self.rustler_env(), term.raw()) }
    }

    /// Returns rustler's form of an argument that has to be an atom.
    pub fn rustler_atom(self, position: usize) -> Result<Atom, Fault> {
        let term = self.rustler_term(self.argument(position)?);
        Atom::from_term(term).map_err(|_| Fault::BadArgument)
    }

    /// Sends a message to a local process. Does nothing if that process is dead.
    ///
    /// A caller that was killed while it runs on a dirty scheduler cannot send any more, by the
    /// VM's rule. What the call has done is done, so the background thread sends the message.
    pub fn send(self, to: u64, message: Term<'c>) {
        let Ok(to) = self.rustler_pid(self.immediate(to)) else {
            return;
        };
        let env = self.rustler_env();
        let message = self.rustler_term(message);
        if env.send(&to, message).is_err() && !self.is_caller_alive() {
            let env = OwnedEnv::new();
            let message = env.save(message);
            reclaim::later(Undelivered(env, message, to));
        }
    }
}
