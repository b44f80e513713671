//! The number of a zone's children, in any state, and its limit.
//!
//! A row counts its child under its own lock, in the step that gives the child the name. So there
//! are never more children than the limit allows, however many threads add some, and a thread that
//! finds a name free sees that its last child has left the count.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of children, and the most that a zone may have.
pub(crate) struct Children {
    count: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for Children {
    fn default() -> Self {
        Children {
            count: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Children {
    /// Sets the limit. The children that are there stay.
    pub fn limit(&self, most: usize) {
        self.limit.store(most, Ordering::Relaxed);
    }

    /// Returns the number of children.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one more child. Returns `false` if there are as many as the limit allows.
    pub fn add(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == usize::MAX {
            self.count.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let one_more = |count| (count < limit).then_some(count + 1);
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }

    /// Counts one child less.
    pub fn remove(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
