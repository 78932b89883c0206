//! The allocator: large blocks lie on lines, and keep what is in them however they grow and shrink.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};

use anser_kernels::alloc::LineAligned;
use proptest::prelude::*;

/// Fills `from..to` of a block with a pattern.
unsafe fn fill(block: *mut u8, from: usize, to: usize) {
    for i in from..to {
        // SAFETY: within the block.
        unsafe { block.add(i).write((i * 31 % 251) as u8) };
    }
}

/// The first byte below `to` that is not the pattern's.
unsafe fn wrong(block: *mut u8, to: usize) -> Option<usize> {
    // SAFETY: within the block.
    (0..to).find(|&i| unsafe { block.add(i).read() } != (i * 31 % 251) as u8)
}

proptest! {
    #[test]
    fn blocks_keep_their_contents(
        sizes in prop::collection::vec(prop_oneof![1usize..3000, Just(1023), Just(1024), 1usize..300_000], 1..12),
        align in prop::sample::select(vec![1usize, 4, 8, 16, 32, 64, 128, 4096]),
        others in prop::collection::vec(1usize..5000, 0..8),
    ) {
        let allocator = LineAligned;
        let layout = |size| Layout::from_size_align(size, align).unwrap();
        // SAFETY: every block is used within its size and freed with its layout.
        unsafe {
            // Blocks around it, so that it begins at differing places of a line and has to move.
            let others: Vec<_> = others.iter().map(|&size| (allocator.alloc(layout(size)), layout(size))).collect();
            let mut size = sizes[0];
            let mut block = allocator.alloc(layout(size));
            prop_assert!(!block.is_null());
            fill(block, 0, size);
            for &next in &sizes[1..] {
                block = allocator.realloc(block, layout(size), next);
                prop_assert!(!block.is_null());
                let aligned = if next >= 1024 { align.max(64) } else { align };
                prop_assert_eq!(block.addr() % aligned, 0, "{} bytes aligned to {}", next, align);
                prop_assert_eq!(wrong(block, size.min(next)), None, "from {} to {} bytes", size, next);
                fill(block, size.min(next), next);
                size = next;
            }
            allocator.dealloc(block, layout(size));
            let zeros = allocator.alloc_zeroed(layout(size));
            prop_assert!(!zeros.is_null());
            let nonzero = (0..size).find(|&i| zeros.add(i).read() != 0);
            prop_assert_eq!(nonzero, None, "of {} bytes", size);
            allocator.dealloc(zeros, layout(size));
            for (block, layout) in others {
                allocator.dealloc(block, layout);
            }
        }
    }
}

#[test]
fn what_no_machine_has_is_refused() {
    let huge = Layout::from_size_align(isize::MAX as usize - 15, 16).unwrap();
    let small = Layout::from_size_align(2048, 16).unwrap();
    // SAFETY: nothing is used but the small block, which is freed with its layout.
    unsafe {
        assert!(LineAligned.alloc(huge).is_null());
        assert!(LineAligned.alloc_zeroed(huge).is_null());
        let block = LineAligned.alloc(small);
        fill(block, 0, 2048);
        assert!(LineAligned.realloc(block, small, huge.size()).is_null());
        assert_eq!(wrong(block, 2048), None, "a refused growth leaves the block as it was");
        LineAligned.dealloc(block, small);
    }
}
