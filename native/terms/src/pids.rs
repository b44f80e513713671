//! Pids as arguments and answers.

use std::mem::MaybeUninit;

use rustler::{Encoder, Env, LocalPid};

use proctab_table::datum::Datum;
use proctab_table::row::Pid;

use crate::call::{Answer, Call, Fault};
use crate::conversion::immediate;
use crate::copied::Copied;
use crate::encoding::Scratch;
use crate::term::{to_word, Term};
use crate::vm::{
    enif_get_local_pid, enif_is_current_process_alive, enif_is_process_alive, enif_make_pid,
    enif_self, term_type, ErlNifPid,
};

/// Converts a local pid to be stored.
pub fn to_datum(env: Env<'_>, pid: LocalPid) -> Datum<Copied> {
    immediate(pid.encode(env).as_c_arg())
}

/// Returns the word of a local pid.
pub fn word(env: Env<'_>, pid: LocalPid) -> u64 {
    to_word(pid.encode(env).as_c_arg())
}

impl<'c> Call<'c> {
    /// Returns the word of an argument that has to be a local pid.
    pub fn pid(self, position: usize) -> Result<u64, Fault> {
        self.to_pid(self.argument(position)?)
    }

    /// Returns the word of a term that has to be a local pid.
    pub fn to_pid(self, term: Term<'c>) -> Result<u64, Fault> {
        match self.is_local_pid(term) {
            true => Ok(term.word()),
            false => Err(Fault::BadArgument),
        }
    }

    /// Converts an argument that has to be a pid, of any node, to be stored.
    pub fn any_pid(self, position: usize) -> Result<Datum<Copied>, Fault> {
        self.to_any_pid(self.argument(position)?)
    }

    fn to_any_pid(self, term: Term<'c>) -> Result<Datum<Copied>, Fault> {
        match self.type_of(term) {
            term_type::PID => self.to_key(term),
            _ => Err(Fault::BadArgument),
        }
    }

    /// Converts an argument that has to be the pid of a child, of any node, to be stored.
    pub fn child_pid(self, position: usize) -> Result<Pid<Copied>, Fault> {
        self.to_child_pid(self.argument(position)?)
    }

    /// Converts a term that has to be the pid of a child, of any node, to be stored.
    pub fn to_child_pid(self, term: Term<'c>) -> Result<Pid<Copied>, Fault> {
        match self.is_local_pid(term) {
            true => Ok(Pid::Local(term.word())),
            false => Ok(Pid::Remote(Box::new(self.to_any_pid(term)?))),
        }
    }

    /// Makes the pid of a child, and deducts the cost.
    #[inline]
    pub fn make_pid(self, pid: &Pid<Copied>) -> Answer<'c> {
        match pid {
            Pid::Local(word) => Ok(self.immediate(*word)),
            Pid::Remote(datum) => self.make(datum),
        }
    }

    /// Makes the pid of a child without deducting the cost, which is small.
    pub fn make_deducted_pid(self, pid: &Pid<Copied>) -> Term<'c> {
        match pid {
            Pid::Local(word) => self.immediate(*word),
            Pid::Remote(datum) => self.make_deducted(datum),
        }
    }

    /// Returns the word of the calling process.
    pub fn caller(self) -> u64 {
        let mut pid = MaybeUninit::uninit();
        // SAFETY: the VM writes the pid, because a process calls.
        let raw = unsafe {
            enif_self(self.env(), pid.as_mut_ptr());
            enif_make_pid(self.env(), pid.assume_init())
        };
        // SAFETY: a local pid means the same in every environment.
        unsafe { Term::from_raw(raw) }.word()
    }

    /// Whether the calling process is alive: it may be killed while it runs on a dirty scheduler.
    pub fn is_caller_alive(self) -> bool {
        // SAFETY: `env` is the environment of the calling process.
        unsafe { enif_is_current_process_alive(self.env()) != 0 }
    }

    /// Whether the local process of this word is alive.
    pub fn is_alive(self, word: u64) -> bool {
        let pid = self.get_local_pid(self.immediate(word));
        // SAFETY: `env` is the environment of the calling process.
        pid.is_some_and(|pid| unsafe { enif_is_process_alive(self.env(), &pid) != 0 })
    }

    /// Whether a child may be alive: a local one that is, or one of another node.
    ///
    /// A pid of an earlier start of this node is not that of another node.
    pub fn may_be_alive(self, pid: &Pid<Copied>) -> Result<bool, Fault> {
        Ok(match pid {
            Pid::Local(word) => self.is_alive(*word),
            Pid::Remote(datum) => !self.is_of_earlier_start(self.make(datum)?),
        })
    }

    /// Like [`may_be_alive`](Self::may_be_alive), for the term of a pid.
    pub fn may_term_be_alive(self, pid: Term<'c>) -> bool {
        match self.is_local_pid(pid) {
            true => self.is_alive(pid.word()),
            false => !self.is_of_earlier_start(pid),
        }
    }

    /// Whether a pid that is not local has the name of this node: it is of an earlier start.
    fn is_of_earlier_start(self, term: Term<'c>) -> bool {
        /// Bytes that follow the node in the external format: number, serial and creation.
        const NUMBERS: usize = 12;
        let node = |term| {
            self.read_external(term, |bytes| {
                let length = bytes.len().saturating_sub(NUMBERS);
                Scratch::from_slice(&bytes[..length])
            })
        };
        node(term) == node(self.immediate(self.caller()))
    }

    fn get_local_pid(self, term: Term<'c>) -> Option<ErlNifPid> {
        let mut pid = MaybeUninit::uninit();
        // SAFETY: the term is of this environment.
        let found = unsafe { enif_get_local_pid(self.env(), term.raw(), pid.as_mut_ptr()) };
        // SAFETY: the VM has written the pid.
        (found != 0).then(|| unsafe { pid.assume_init() })
    }

    /// Returns rustler's form of a local pid.
    pub fn rustler_pid(self, term: Term<'c>) -> Result<LocalPid, Fault> {
        let pid = self.get_local_pid(term).ok_or(Fault::BadArgument)?;
        Ok(LocalPid::from_c_arg(pid))
    }

    /// Makes the term of rustler's form of a local pid.
    pub fn make_rustler_pid(self, pid: &LocalPid) -> Term<'c> {
        // SAFETY: the term is made in this environment.
        unsafe { Term::from_raw(enif_make_pid(self.env(), *pid.as_c_arg())) }
    }
}
