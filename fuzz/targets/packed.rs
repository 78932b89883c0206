//! The header of a packed file, followed by as many zeros as it asks for: read, loaded and run.
#![no_main]

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use anser_checkpoint::Checkpoint;
use anser_engine::{Batch, Executor, InputBits, LoadOptions, Logits, Placement, load};

thread_local! {
    static EXECUTOR: RefCell<Executor> = RefCell::new(Executor::new(1));
}

/// What loads runs, and runs the same from a copy of the weights.
fn load_and_run(path: &Path) {
    let run = |exec: &mut Executor, placement, inputs| {
        let checkpoint = Arc::new(Checkpoint::open(path).ok()?);
        let model = load(checkpoint, exec, &LoadOptions { placement, inputs, ..LoadOptions::default() }).ok()?;
        let (mut state, mut logits) = (model.new_state(), Vec::new());
        let batch = Batch { tokens: &[0, 0], cu_seqlens: &[0, 2], logits: Logits::All };
        model.forward(exec, &batch, &mut [&mut state], &mut logits).ok()?;
        assert_eq!(logits.len(), 2 * model.config().vocab);
        Some(logits.into_iter().map(f32::to_bits).collect::<Vec<u32>>())
    };
    EXECUTOR.with_borrow_mut(|exec| {
        for inputs in [InputBits::ThirtyTwo, InputBits::Sixteen, InputBits::Eight] {
            assert_eq!(run(exec, Placement::Mapped, inputs), run(exec, Placement::Copied, inputs));
        }
    });
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = anser_fuzz::file("model.anser", data, anser_fuzz::described(data).unwrap_or(0));
    anser_fuzz::open_and_read(&path);
    load_and_run(&path);
});
