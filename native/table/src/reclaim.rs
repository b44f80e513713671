//! Freeing memory away from the threads that serve calls.
//!
//! Two stages. What readers may still be looking at is *retired*: it waits until every [`Guard`] that was entered before has
//! been left. What takes long to free is then handed to one background thread ([`later`], [`Deferred`]), so that
//! no caller pays for it.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{unbounded, Sender};
use lazy_static::lazy_static;
use seize::{Collector, Guard as _};

/// How many retired objects a thread gathers before it tries to free them.
const BATCH: usize = 256;

lazy_static! {
    static ref COLLECTOR: Arc<Collector> = Arc::new(Collector::new().batch_size(BATCH));
    static ref BACKGROUND: Sender<Box<dyn Send>> = start_background();
}

/// Proof that its thread is reading: nothing that it can reach is freed until it is dropped.
pub type Guard = seize::LocalGuard<'static>;

/// Begins to read. Guards nest; entering one writes nothing that other threads read on their own paths.
#[inline]
pub fn enter() -> Guard {
    COLLECTOR.enter()
}

/// The collector behind [`enter`], for maps that are never dropped: a papaya map that is dropped frees what anybody has retired with
/// its collector, although others may be reading it.
pub fn collector() -> Arc<Collector> {
    Arc::clone(&COLLECTOR)
}

/// Frees what this thread has retired without waiting for more to come: for an object so large that it must not wait in
/// a half-filled batch.
pub fn flush(guard: &Guard) {
    // A batch is freed only when it holds an entry for every thread that is reading just now, so it is filled first.
    for _ in 0..BATCH {
        // SAFETY: the reclaimer ignores its pointer.
        unsafe { guard.defer_retire(std::ptr::null_mut::<u8>(), |_, _| ()) };
    }
    guard.flush();
}

/// Drops `object` in the background.
pub fn later(object: impl Send + 'static) {
    // Without a background thread the object comes back in the error, and is dropped here.
    let _ = BACKGROUND.send(Box::new(object));
}

fn start_background() -> Sender<Box<dyn Send>> {
    let (sender, receiver) = unbounded();
    let _ = thread::Builder::new()
        .name("proctab_reclaim".into())
        .spawn(move || receiver.into_iter().for_each(drop));
    sender
}

/// A value that is always dropped in the background.
pub struct Deferred<T: Send + 'static>(ManuallyDrop<T>);

impl<T: Send + 'static> Deferred<T> {
    /// Wraps a value that takes long to drop.
    pub fn new(value: T) -> Self {
        Deferred(ManuallyDrop::new(value))
    }
}

impl<T: Default + Send + 'static> Default for Deferred<T> {
    fn default() -> Self {
        Deferred::new(T::default())
    }
}

impl<T: Send + 'static> Deref for Deferred<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + 'static> Drop for Deferred<T> {
    fn drop(&mut self) {
        // SAFETY: the value is taken once, by the only call of `drop`, and not touched afterwards.
        later(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    struct Tells(Sender<thread::ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[test]
    fn a_deferred_value_is_dropped_once_and_by_another_thread() {
        let (sender, receiver) = bounded(2);
        drop(Deferred::new(Tells(sender)));
        assert_ne!(receiver.recv().unwrap(), thread::current().id());
        assert!(receiver.recv().is_err());
    }
}
