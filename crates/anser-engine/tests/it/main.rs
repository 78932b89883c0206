//! Tests of the engine: golden files, the equalities every model must keep, refusals, sampling, scheduling.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod allocation;
mod golden;
mod laws;
mod packed;
mod refusals;
mod sampling;
mod scheduler;
mod tuned_state;

use std::sync::Arc;

use anser_checkpoint::Checkpoint;
use anser_engine::{Batch, Executor, LoadOptions, Logits, Model, State, load};

/// The model of a golden file, by the given recipe.
fn golden_model(name: &str, options: impl Into<LoadOptions>, exec: &Executor) -> Box<dyn Model> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    anser_testkit::write_weights(name, &path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    load(Arc::new(checkpoint), exec, &options.into()).unwrap()
}

/// Logits of every token of one sequence.
fn run(model: &dyn Model, exec: &mut Executor, tokens: &[u32], state: &mut State) -> Vec<f32> {
    let mut logits = Vec::new();
    let batch = Batch { tokens, cu_seqlens: &[0, tokens.len()], logits: Logits::All };
    model.forward(exec, &batch, &mut [state], &mut logits).unwrap();
    logits
}
