//! Large binaries that are values of attributes: shared with the VM, and not copied.
//!
//! The VM counts the terms that refer to an off-heap binary. A value refers to it by an I/O queue
//! of the VM with that one binary, which is never sent: the queue holds a reference, and the VM
//! makes terms of its head that hold one more. Unlike a copied term it needs no environment.
//!
//! # When a binary is released
//!
//! A value that is replaced is freed after all readers have left their guards, together with
//! hundreds of others. That is too late for a large binary. So readers count themselves while they
//! use it, and the writer that replaces the value discards the binary: the last user releases it,
//! and from then on no reader begins to use it. See
//! [`Foreign::discard`](proctab_table::datum::Foreign::discard).

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

use proctab_table::reclaim::{self, Allowance};

use crate::binaries::Bytes;
use crate::call::{Call, Fault};
use crate::cost::COPIED_PER_WORD;
use crate::term::Term;
use crate::vm::{
    enif_alloc_binary, enif_ioq_create, enif_ioq_deq, enif_ioq_destroy, enif_ioq_enq_binary,
    enif_ioq_enqv, enif_ioq_peek_head, ErlNifTerm, IoQueue, ERL_NIF_IOQ_NORMAL,
};

/// Cost of sharing a binary, in words.
const SHARE_COST: usize = 16;
/// Bytes that a queue takes.
const QUEUE: usize = 256;
/// Cost of releasing a binary, in bytes that are freed in the same time.
const RELEASE_COST: usize = 4096;
/// Bytes that a thread may free in a row, in any number of binaries: some hundred microseconds of
/// work.
const MAX_FREED: usize = 1 << 22;
/// The bit of the users of a binary that was discarded.
const DISCARDED: usize = 1;
/// One user.
const USER: usize = 2;

/// A large binary that is shared with the VM.
pub struct SharedBinary {
    queue: Queue,
    /// The bytes, valid while the binary is used.
    bytes: *const [u8],
    users: AtomicUsize,
}

// SAFETY: the bytes never change, and are read only while the binary is used.
unsafe impl Send for SharedBinary {}
// SAFETY: as above.
unsafe impl Sync for SharedBinary {}

/// A queue with one binary.
struct Queue(*mut IoQueue);

/// Empty queues that a thread keeps at most: to make one takes as long as all the rest of sharing a
/// binary.
const EMPTY_QUEUES: usize = 32;

thread_local! {
    /// Bytes that this thread may free itself before it shares more.
    static ALLOWANCE: Allowance<MAX_FREED> = const { Allowance::empty() };
    static EMPTY: EmptyQueues = const { EmptyQueues(RefCell::new(Vec::new())) };
}

struct EmptyQueues(RefCell<Vec<*mut IoQueue>>);

impl Drop for EmptyQueues {
    fn drop(&mut self) {
        for queue in self.0.take() {
            // SAFETY: `Queue::new` made the queue, which is empty, and only this thread has it.
            unsafe { enif_ioq_destroy(queue) };
        }
    }
}

// SAFETY: the queue is written before it is shared, and then only read, or destroyed by the last
// user: any thread may do either. The VM counts the references to the binary atomically.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Makes a queue, and has `fill` add a binary and return the address of its bytes. Returns
    /// `None` if the VM refuses.
    fn new(fill: impl FnOnce(*mut IoQueue) -> Option<*const u8>) -> Option<(Queue, *const u8)> {
        // A thread that is ending keeps nothing.
        let empty = EMPTY.try_with(|empty| empty.0.borrow_mut().pop());
        let queue = empty.ok().flatten().unwrap_or_else(|| {
            // SAFETY: no requirements.
            unsafe { enif_ioq_create(ERL_NIF_IOQ_NORMAL) }
        });
        if queue.is_null() {
            return None;
        }
        let filled = fill(queue);
        if filled.is_none() {
            // SAFETY: nobody else has the queue.
            unsafe { enif_ioq_destroy(queue) };
        }
        filled.map(|bytes| (Queue(queue), bytes))
    }

    /// Releases the binary, and keeps or destroys the queue.
    ///
    /// # Safety
    /// The binary has so many bytes. Called once, and nobody uses the queue from then on.
    unsafe fn destroy(&self, length: usize) {
        let keep = |empty: &EmptyQueues| {
            let has_room = empty.0.borrow().len() < EMPTY_QUEUES;
            // SAFETY: the caller vouches for the queue, which is empty then.
            let keeps = has_room && unsafe { enif_ioq_deq(self.0, length, ptr::null_mut()) } != 0;
            if keeps {
                empty.0.borrow_mut().push(self.0);
            }
            keeps
        };
        if EMPTY.try_with(keep) != Ok(true) {
            // SAFETY: `new` made the queue, and the caller vouches that it is not used again.
            unsafe { enif_ioq_destroy(self.0) };
        }
    }
}

/// The queue of a binary that nobody uses any more. Destroyed when it is dropped.
struct Garbage(Queue, usize);

impl Drop for Garbage {
    fn drop(&mut self) {
        // SAFETY: `SharedBinary::release` makes one of each queue.
        unsafe { self.0.destroy(self.1) };
    }
}

impl<'c> Call<'c> {
    /// Shares a binary of this length, more than those that the VM keeps on a heap, and deducts the
    /// cost. A part of a larger binary is copied. Returns `None` if the VM refuses.
    pub(crate) fn share_binary(
        self,
        term: Term<'c>,
        length: usize,
    ) -> Result<Option<SharedBinary>, Fault> {
        self.deduct(SHARE_COST)?;
        ALLOWANCE.with(|allowance| allowance.add(RELEASE_COST + length));
        let copy = |bytes: &[u8]| Queue::new(|queue| enqueue_copy(queue, bytes));
        let mut shared = None;
        let refer = |vector, bytes: *const u8| {
            // SAFETY: nobody else has the queue, and the VM made the vector.
            let enqueue = |queue| unsafe { enif_ioq_enqv(queue, vector, 0) != 0 };
            shared = Queue::new(|queue| enqueue(queue).then_some(bytes));
        };
        // SAFETY: the caller has the length from this binary.
        let queue = match unsafe { self.locate_and_refer(term, length, refer) } {
            Bytes::Whole => shared,
            Bytes::Part(bytes) => {
                self.deduct(length / COPIED_PER_WORD)?;
                // SAFETY: the VM has just named the address of the first byte, no binary was
                // inspected since, and the binary shows `length` bytes in one piece.
                copy(unsafe { slice::from_raw_parts(bytes, length) })
            }
            Bytes::OnHeap | Bytes::Elsewhere | Bytes::Unknown => {
                self.deduct(length / COPIED_PER_WORD)?;
                self.read_binary_again(term, copy).flatten()
            }
        };
        Ok(queue.map(|(queue, bytes)| SharedBinary {
            queue,
            bytes: ptr::slice_from_raw_parts(bytes, length),
            users: AtomicUsize::new(0),
        }))
    }
}

/// Adds a copy of the bytes to a queue that nobody else has, and returns its address. Returns
/// `None` if the VM refuses.
fn enqueue_copy(queue: *mut IoQueue, bytes: &[u8]) -> Option<*const u8> {
    let mut binary = MaybeUninit::uninit();
    // SAFETY: the VM makes room for so many bytes, which nobody else has. The queue owns the binary
    // from then on.
    unsafe {
        if enif_alloc_binary(bytes.len(), binary.as_mut_ptr()) == 0 {
            return None;
        }
        let mut binary = binary.assume_init();
        let copy = binary.data;
        ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        (enif_ioq_enq_binary(queue, &mut binary, 0) != 0).then_some(copy.cast_const())
    }
}

impl SharedBinary {
    /// Makes a term that shares the binary. The caller uses it, see
    /// [`begin_use`](Self::begin_use).
    pub fn make<'c>(&self, call: Call<'c>) -> Term<'c> {
        let mut term = ErlNifTerm::default();
        // SAFETY: the queue has a binary, and is not destroyed while it is used.
        unsafe {
            enif_ioq_peek_head(call.env(), self.queue.0, ptr::null_mut(), &mut term);
            Term::from_raw(term)
        }
    }

    /// Returns the number of bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Whether another binary has the same bytes; `false` if one of them was discarded.
    pub fn has_bytes_of(&self, other: &SharedBinary) -> bool {
        if !self.begin_use() {
            return false;
        }
        let is_used = other.begin_use();
        // SAFETY: the bytes are read only if both are used.
        let equal = is_used && unsafe { *self.bytes == *other.bytes };
        if is_used {
            other.end_use();
        }
        self.end_use();
        equal
    }

    /// Returns the bytes of memory that the binary takes.
    pub fn size(&self) -> usize {
        QUEUE + self.length()
    }

    /// Begins a use, during which the binary is not released. Returns `false` if it was discarded.
    pub fn begin_use(&self) -> bool {
        let begin = |users| (users & DISCARDED == 0).then_some(users + USER);
        let users = &self.users;
        users
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, begin)
            .is_ok()
    }

    /// Ends a use.
    pub fn end_use(&self) {
        if self.users.fetch_sub(USER, Ordering::AcqRel) == USER | DISCARDED {
            self.release();
        }
    }

    /// Releases the binary as soon as nobody uses it. Called at most once.
    pub fn discard(&self) {
        if self.users.fetch_or(DISCARDED, Ordering::AcqRel) == 0 {
            self.release();
        }
    }

    /// Releases the binary. Called once, when nobody uses it any more.
    fn release(&self) {
        let garbage = Garbage(Queue(self.queue.0), self.length());
        if !ALLOWANCE.with(|allowance| allowance.take(RELEASE_COST + self.length())) {
            reclaim::gather(garbage, self.size() / size_of::<usize>());
        }
    }
}

impl Drop for SharedBinary {
    fn drop(&mut self) {
        if *self.users.get_mut() & DISCARDED == 0 {
            self.release();
        }
    }
}
