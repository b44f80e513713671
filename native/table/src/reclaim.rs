//! Freeing memory that readers may still use, away from the threads that serve calls.
//!
//! There are two stages. Memory that readers may still use is *retired*: it is freed after every
//! [`Guard`] that was entered before was left. Memory that takes long to free then goes to one
//! background thread ([`later`], [`Deferred`]), so that no caller pays for it. Small objects are
//! batched for that thread ([`gather`]), because the last reader frees what hundreds of calls have
//! retired meanwhile.

use std::cell::{Cell, RefCell};
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{unbounded, Sender};
use lazy_static::lazy_static;
use seize::{Collector, Guard as _};

/// Objects that a thread retires before it tries to free them.
const BATCH: usize = 256;

/// The cost of a batch, see [`gather`].
pub const ENOUGH: usize = 4096;

thread_local! {
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
    static GATHERED: RefCell<Gathered> = const {
        RefCell::new(Gathered {
            objects: Vec::new(),
            cost: 0,
        })
    };
}

/// The objects that a thread has gathered.
struct Gathered {
    objects: Vec<Garbage>,
    cost: usize,
}

/// The memory of an object that was gathered, without an allocation of its own.
type Room = MaybeUninit<[*mut (); 2]>;

/// An object that was gathered, of any type.
struct Garbage {
    object: Room,
    /// Drops the object.
    drop: unsafe fn(&mut Room),
}

// SAFETY: `Garbage::new` takes objects that are `Send`, and only drops them.
unsafe impl Send for Garbage {}

impl Garbage {
    fn new<T: Send + 'static>(object: T) -> Self {
        const {
            assert!(size_of::<T>() <= size_of::<Room>());
            assert!(align_of::<T>() <= align_of::<Room>());
        }
        let mut room = Room::uninit();
        // SAFETY: the room is large enough for the object, and aligned.
        unsafe { room.as_mut_ptr().cast::<T>().write(object) };
        Garbage {
            object: room,
            // SAFETY: only `Garbage::drop` calls it, with the object of this type.
            drop: |room| unsafe { ptr::drop_in_place(room.as_mut_ptr().cast::<T>()) },
        }
    }
}

impl Drop for Garbage {
    fn drop(&mut self) {
        // SAFETY: `new` made both, and nothing uses the object afterwards.
        unsafe { (self.drop)(&mut self.object) };
    }
}

/// What a thread may free itself before it makes more to be freed, `MOST` in a row, in any unit.
///
/// To free an object is faster than to hand it to the background thread. But the last reader to
/// leave its guard frees what thousands of calls have retired.
pub struct Allowance<const MOST: usize>(Cell<usize>);

impl<const MOST: usize> Allowance<MOST> {
    /// Returns an allowance of nothing.
    pub const fn empty() -> Self {
        Allowance(Cell::new(0))
    }

    /// Adds the cost of an object that was made or retired.
    #[inline]
    pub fn add(&self, cost: usize) {
        self.0.set(MOST.min(self.0.get() + cost));
    }

    /// Takes the cost of an object that will be freed. Returns `false` if there is not enough; then
    /// nothing is left.
    #[inline]
    pub fn take(&self, cost: usize) -> bool {
        let rest = self.0.get().checked_sub(cost);
        self.0.set(rest.unwrap_or(0));
        rest.is_some()
    }

    /// Whether nothing is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.get() == 0
    }
}

lazy_static! {
    static ref COLLECTOR: Arc<Collector> = Arc::new(Collector::new().batch_size(BATCH));
    static ref BACKGROUND: Sender<Box<dyn Send>> = start_background();
}

/// The guard of a read: nothing that its thread can find is freed before it is dropped.
pub type Guard = seize::LocalGuard<'static>;

/// Begins a read. Guards nest, and entering one writes no memory that other readers read.
#[inline]
pub fn enter() -> Guard {
    COLLECTOR.enter()
}

/// Returns the collector of [`enter`], for maps that are never dropped.
///
/// A papaya map that is dropped frees everything that was retired with its collector, although
/// others may be reading it.
pub fn collector() -> Arc<Collector> {
    Arc::clone(&COLLECTOR)
}

/// Frees what this thread has retired without waiting for more: for an object so large that it must
/// not wait in a batch.
pub fn flush(guard: &Guard) {
    // A batch is freed only if it has an entry for every thread that is reading. So this fills it,
    // and the collector frees it then. `flush` of the guard would free what is left over, which is
    // null, and interrupt all other processors once more (`membarrier`): the thread waits for them,
    // also for those that the host of a virtual machine has stopped.
    for _ in 0..BATCH {
        // SAFETY: null may be retired, because this reclaimer ignores its pointer.
        unsafe { guard.defer_retire(std::ptr::null_mut::<u8>(), |_, _| ()) };
    }
}

/// Drops `object` in the background, together with others, as soon as the objects that this thread
/// has gathered cost more than [`ENOUGH`].
///
/// That is much faster than to drop each, or to pass each to the background thread: it allocates no
/// memory for an object, and does not read what the object points to. `cost` is in any unit that
/// callers agree on. An object has two words at most.
pub fn gather(object: impl Send + 'static, cost: usize) {
    if IS_BACKGROUND.get() {
        return;
    }
    // A thread that is ending cannot gather, and drops the object here.
    let enough = GATHERED.try_with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        gathered.objects.push(Garbage::new(object));
        gathered.cost += cost;
        (gathered.cost > ENOUGH).then(|| {
            gathered.cost = 0;
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
    // Without a background thread, the error returns the object, which is dropped here.
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

/// A value that is dropped in the background.
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
        // SAFETY: `drop` is called once, and nothing uses the value afterwards.
        later(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    /// Tells which thread drops it.
    struct Tells(Sender<thread::ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            // A test that has ended does not receive.
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn a_deferred_value_is_dropped_once_and_by_another_thread() {
        let (sender, receiver) = bounded(2);
        // The box aborts the test if it is freed twice.
        drop(Deferred::new((Box::new(0), Tells(sender))));
        assert_ne!(receiver.recv().unwrap(), thread::current().id());
        assert!(receiver.recv().is_err());
    }

    /// Gathers `count` objects of this cost, and returns the threads that have dropped some.
    fn gathered(count: usize, cost: usize) -> Vec<thread::ThreadId> {
        let (sender, receiver) = bounded(count);
        for _ in 0..count {
            gather(Tells(sender.clone()), cost);
        }
        let (last, end) = bounded(1);
        later(Tells(last));
        end.recv().unwrap();
        receiver.try_iter().collect()
    }

    #[test]
    fn an_allowance_that_does_not_suffice_is_empty_until_more_is_added() {
        let allowance = Allowance::<10>::empty();
        assert!(allowance.is_empty() && !allowance.take(1));
        allowance.add(7);
        allowance.add(7);
        assert!(allowance.take(6) && !allowance.take(5) && !allowance.take(4));
        allowance.add(3);
        assert!(allowance.take(3) && allowance.is_empty());
    }

    #[test]
    fn gathered_objects_are_dropped_by_another_thread_once_they_cost_enough() {
        // In a thread that has gathered nothing else.
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
    fn an_object_dropped_in_the_background_is_dropped_there_with_its_parts() {
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
