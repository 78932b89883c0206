//! A decode step allocates nothing once scratch memory has grown.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use anser_engine::{Batch, Executor, LoadOptions, Logits, State, Synthetic, Version, load};

thread_local! {
    /// Allocations of this thread.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator; counting touches a thread-local that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decoding_allocates_nothing() {
    for version in Version::ALL {
        let mut exec = Executor::new(1);
        let model = load(Arc::new(Synthetic::tiny(version, 1)), &exec, &LoadOptions::default()).unwrap();
        let mut states: Vec<State> = (0..16).map(|_| model.new_state()).collect();
        let mut states: Vec<&mut State> = states.iter_mut().collect();
        let mut logits = Vec::new();
        for size in [16, 1] {
            let (tokens, borders): (Vec<u32>, Vec<usize>) = ((0..size).collect(), (0..=size as usize).collect());
            let batch = Batch { tokens: &tokens, cu_seqlens: &borders, logits: Logits::Last };
            model.forward(&mut exec, &batch, &mut states[..size as usize], &mut logits).unwrap();
            let before = COUNT.get();
            for _ in 0..3 {
                model.forward(&mut exec, &batch, &mut states[..size as usize], &mut logits).unwrap();
            }
            assert_eq!(COUNT.get() - before, 0, "RWKV-{version}, {size} sequences");
        }
    }
}
