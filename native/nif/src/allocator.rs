//! The allocator of the library: the VM's, of whose small blocks each thread keeps some that were
//! freed.
//!
//! Most writes allocate one or two small blocks, and free as many of earlier writes. The VM's
//! allocator takes longer for that than all the rest of a write. So a block that is freed is kept
//! by the thread that frees it, for the next one of its size; but no more than [`KEPT`] bytes of
//! each size. The VM counts kept blocks as used.
//!
//! What a thread keeps has no destructor. One would have to be registered at the first allocation.
//! Where libc cannot do that, as in musl, it allocates again, and Rust's library before 1.93 ends
//! the process. So a thread that ends loses its blocks, at most 512 KB. The threads of the VM and
//! that of this library live as long as the VM.
//!
//! Only Linux has this: elsewhere even a thread-local variable without a destructor may allocate. A
//! build for AddressSanitizer (`cfg(sanitized)`) keeps no block either: the sanitizer must see each
//! one that is freed.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;

use rustler::EnifAllocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Sizes of small blocks are multiples of this.
const STEP: usize = 8;
/// Sizes of small blocks.
const SIZES: usize = 32;
/// Alignment of all blocks of the VM.
const ALIGN: usize = 8;
/// Bytes of blocks of one size that a thread keeps at most.
const KEPT: usize = 16_384;
/// Whether blocks are kept.
const KEEPS: bool = cfg!(all(target_os = "linux", not(sanitized)));

struct Allocator;

/// A block that is kept: a pointer to the next one of its size, or null.
type Block = *mut u8;

/// The blocks of one size that a thread keeps.
struct Kept {
    first: Cell<Block>,
    bytes: Cell<usize>,
}

thread_local! {
    /// The blocks that a thread keeps, by their sizes.
    static ALL_KEPT: [Kept; SIZES] = const {
        [const { Kept { first: Cell::new(ptr::null_mut()), bytes: Cell::new(0) } }; SIZES]
    };
}

const _: () = assert!(!std::mem::needs_drop::<[Kept; SIZES]>());

/// Returns the index of the size of a block, if it is small.
#[inline]
fn index_of(layout: Layout) -> Option<usize> {
    let index = layout.size().wrapping_sub(1) / STEP;
    (index < SIZES && layout.align() <= ALIGN && KEEPS).then_some(index)
}

/// Returns the layout of all small blocks of a size.
#[inline]
fn layout_of(index: usize) -> Layout {
    const { assert!(ALIGN.is_power_of_two()) };
    let size = (index + 1) * STEP;
    // SAFETY: the alignment is a power of two, and the size is small.
    unsafe { Layout::from_size_align_unchecked(size, ALIGN) }
}

impl Kept {
    /// Returns a block that was kept, or null.
    #[inline]
    fn take(&self, size: usize) -> Block {
        let block = self.first.get();
        if !block.is_null() {
            // SAFETY: the block is kept, so it is free, and begins with a pointer to the next one.
            self.first.set(unsafe { block.cast::<Block>().read() });
            self.bytes.set(self.bytes.get() - size);
        }
        block
    }

    /// Keeps a block. Returns `false` if there are enough.
    ///
    /// # Safety
    /// The block has this size and is free, and nobody else uses it from then on.
    #[inline]
    unsafe fn keep(&self, block: Block, size: usize) -> bool {
        let bytes = self.bytes.get() + size;
        let keeps = bytes <= KEPT;
        if keeps {
            // SAFETY: the caller vouches for the block, which has room for a pointer.
            unsafe { block.cast::<Block>().write(self.first.get()) };
            self.first.set(block);
            self.bytes.set(bytes);
        }
        keeps
    }
}

// SAFETY: a block is kept when it was freed, by one thread, and is given out once after that. It
// was allocated with the layout of all blocks of its size. Everything else is the VM's allocator.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(index) = index_of(layout) else {
            // SAFETY: the caller vouches for the layout.
            return unsafe { EnifAllocator.alloc(layout) };
        };
        let layout = layout_of(index);
        let block = ALL_KEPT.with(|kept| kept[index].take(layout.size()));
        if !block.is_null() {
            return block;
        }
        // SAFETY: the size is not zero.
        unsafe { EnifAllocator.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(index) = index_of(layout) else {
            // SAFETY: the caller vouches for the block, which `alloc` allocated with this layout.
            return unsafe { EnifAllocator.dealloc(block, layout) };
        };
        let layout = layout_of(index);
        // SAFETY: the caller vouches for the block, which `alloc` allocated with the layout of its
        // size.
        let is_kept = ALL_KEPT.with(|kept| unsafe { kept[index].keep(block, layout.size()) });
        if !is_kept {
            // SAFETY: as above.
            unsafe { EnifAllocator.dealloc(block, layout) };
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let new = Layout::from_size_align(size, layout.align()).map(index_of);
        if matches!((index_of(layout), new), (Some(old), Ok(Some(new))) if old == new) {
            return block;
        }
        // SAFETY: the caller vouches for the size, which is not zero.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            let moved = self.alloc(new);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
