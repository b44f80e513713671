//! Freeing memory away from the threads that serve calls.
//!
//! Two stages. What readers may still be looking at is *retired*: it waits until every [`Guard`] that was entered before has
//! been left. What takes long to free is then handed to one background thread ([`later`], [`Deferred`]), so that
//! no caller pays for it; and so is what is many ([`gather`]), for whoever leaves its guard last frees what hundreds of calls have retired.

use std::cell::{Cell, RefCell};
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{unbounded, Sender};
use lazy_static::lazy_static;
use seize::{Collector, Guard as _};

/// How many retired objects a thread gathers before it tries to free them.
const BATCH: usize = 256;

/// What is gathered weighs at most so much: see [`gather`].
pub const ENOUGH: usize = 4096;

thread_local! {
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
    static GATHERED: RefCell<Gathered> = const { RefCell::new(Gathered { objects: Vec::new(), weight: 0 }) };
}

/// What a thread has gathered.
struct Gathered {
    objects: Vec<Box<dyn Send>>,
    weight: usize,
}

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

/// Drops `object` in the background, together with others: as soon as what this thread has gathered weighs more than [`ENOUGH`]. Costs much
/// less than to drop each of them, or to hand each over.
pub fn gather(object: impl Send + 'static, weight: usize) {
    if IS_BACKGROUND.get() {
        return;
    }
    // A thread that ends has nothing to gather in, and drops the object here.
    let enough = GATHERED.try_with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        gathered.objects.push(Box::new(object));
        gathered.weight += weight;
        (gathered.weight > ENOUGH).then(|| {
            gathered.weight = 0;
            mem::take(&mut gathered.objects)
        })
    });
    if let Ok(Some(objects)) = enough {
        later(objects);
    }
}

/// Drops `object` in the background.
pub fn later(object: impl Send + 'static) {
    if IS_BACKGROUND.get() {
        return;
    }
    // Without a background thread the object comes back in the error, and is dropped here.
    let _ = BACKGROUND.send(Box::new(object));
}

fn start_background() -> Sender<Box<dyn Send>> {
    let (sender, receiver) = unbounded();
    let _ = thread::Builder::new()
        .name("proctab_reclaim".into())
        .spawn(move || {
            IS_BACKGROUND.set(true);
            receiver.into_iter().for_each(drop);
        });
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

    /// Tells who drops it.
    struct Tells(Sender<thread::ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            // A test that is over does not listen.
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn a_deferred_value_is_dropped_once_and_by_another_thread() {
        let (sender, receiver) = bounded(2);
        // A box that is freed twice ends the test.
        drop(Deferred::new((Box::new(0), Tells(sender))));
        assert_ne!(receiver.recv().unwrap(), thread::current().id());
        assert!(receiver.recv().is_err());
    }

    /// What drops `count` objects that each weigh so much; none for those that have not been dropped after all.
    fn gathered(count: usize, weight: usize) -> Vec<thread::ThreadId> {
        let (sender, receiver) = bounded(count);
        for _ in 0..count {
            gather(Tells(sender.clone()), weight);
        }
        let (last, end) = bounded(1);
        later(Tells(last));
        end.recv().unwrap();
        receiver.try_iter().collect()
    }

    #[test]
    fn what_is_gathered_is_dropped_by_another_thread_once_it_weighs_enough() {
        // In a thread of its own, where nobody else gathers.
        let test = || {
            assert!(gathered(10, ENOUGH / 10).is_empty());
            let droppers = [gathered(10, ENOUGH / 10), gathered(1, ENOUGH + 1)];
            let background = droppers[0][0];
            assert_ne!(background, thread::current().id());
            assert_eq!(droppers, [[background], [background]]);
        };
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn what_the_background_drops_is_dropped_there_with_all_that_is_in_it() {
        struct Outer(Sender<thread::ThreadId>, Option<Tells>);

        impl Drop for Outer {
            fn drop(&mut self) {
                gather(Tells(self.0.clone()), 1);
                later(Tells(self.0.clone()));
                drop(self.1.take());
            }
        }

        let (sender, receiver) = bounded(2);
        let (last, end) = bounded(1);
        later(Outer(sender, Some(Tells(last))));
        let background = end.recv().unwrap();
        let droppers: Vec<_> = receiver.try_iter().collect();
        assert_eq!(droppers, [background, background]);
    }
}
