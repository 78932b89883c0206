//! An allocator whose large blocks begin on a cache line.
//!
//! The kernels take plain slices, and the system's allocator puts the slice of a `Vec` a few bytes behind the beginning
//! of a line, where every vector of 64 bytes that is read or written touches two lines. The kernels' results are the
//! same wherever a slice begins, but matrix products take 3 to 19 % longer. A program that computes much sets this
//! allocator:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: anser_kernels::alloc::LineAligned = anser_kernels::alloc::LineAligned;
//! ```
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, with blocks of 1 KiB and more moved to the beginning of a cache line.
///
/// Such a block is allocated with a line to spare, and its address is kept before the line where it is handed out. To
/// ask the system for aligned blocks would be simpler, but glibc does not give a freed one out again for a request of
/// the same size, and so the memory of a training run would grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineAligned;

/// A cache line, in bytes.
const LINE: usize = 64;

/// The smallest block worth moving, in bytes.
const LARGE: usize = 1024;

/// What the system's blocks are asked to be aligned to: any allocator does this without further ado on 64 bits.
const BASE: usize = 16;

/// The system's block for one of a layout that is moved, a line larger; none for others, the impossibly large included.
fn spacious(layout: Layout) -> Option<Layout> {
    let moved = layout.size() >= LARGE && layout.align() <= LINE;
    moved.then(|| Layout::from_size_align(layout.size().checked_add(LINE)?, BASE).ok()).flatten()
}

/// The first line behind a block's beginning: at least [`BASE`] bytes, at most a line.
fn line(block: *mut u8) -> *mut u8 {
    block.wrapping_add(LINE - block.addr() % LINE)
}

/// Notes the system's block before its first line, which is handed out.
unsafe fn place(block: *mut u8) -> *mut u8 {
    if block.is_null() {
        return block;
    }
    let line = line(block);
    // SAFETY: the block has a line to spare, and a pointer fits in what lies before its first one.
    unsafe { line.cast::<*mut u8>().sub(1).write(block) };
    line
}

/// The system's block of what [`place`] gave.
unsafe fn block(line: *mut u8) -> *mut u8 {
    // SAFETY: `place` wrote it there.
    unsafe { line.cast::<*mut u8>().sub(1).read() }
}

// SAFETY: blocks are the system's, or lie within one of the system's at an address that is a multiple of 64; which of
// the two depends on the layout alone, which callers give again with the block.
unsafe impl GlobalAlloc for LineAligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is valid and not empty, and so is one with a line more.
        unsafe { spacious(layout).map_or_else(|| System.alloc(layout), |spacious| place(System.alloc(spacious))) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let moved = spacious(layout);
        // SAFETY: as above.
        unsafe { moved.map_or_else(|| System.alloc_zeroed(layout), |spacious| place(System.alloc_zeroed(spacious))) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the block came from `alloc` with this layout.
        unsafe {
            match spacious(layout) {
                Some(spacious) => System.dealloc(block(start), spacious),
                None => System.dealloc(start, layout),
            }
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return std::ptr::null_mut() };
        let kept = layout.size().min(size);
        // SAFETY: the block came from `alloc` with this layout, and `kept` bytes are in the old one and the new one.
        unsafe {
            match (spacious(layout), spacious(wanted)) {
                (None, None) => System.realloc(start, layout, size),
                (Some(old), Some(new)) => {
                    let before = block(start);
                    let skipped = start.offset_from_unsigned(before);
                    let after = System.realloc(before, old, new.size());
                    // The contents are as far from the beginning as they were. They move before the note is written.
                    if !after.is_null() && line(after) != after.add(skipped) {
                        std::ptr::copy(after.add(skipped), line(after), kept);
                    }
                    place(after)
                }
                _ => {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        std::ptr::copy_nonoverlapping(start, new, kept);
                        self.dealloc(start, layout);
                    }
                    new
                }
            }
        }
    }
}
