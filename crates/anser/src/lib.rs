//! Anser runs RWKV language models, versions 4 to 7, from the files they are published in.
//!
//! This crate re-exports the libraries of which the `anser` program is made:
//!
//! | module | what |
//! |---|---|
//! | [`checkpoint`] | reads `.pth`, safetensors, Hugging Face directories and GGUF; keeps states as files |
//! | [`tokenizer`] | World, byte and Hugging Face vocabularies; chat templates; streaming decoder |
//! | [`engine`] | runs a model on the CPU: ragged batches, states, sampling |
//! | `forecast` | fits and runs forecasters of time series (feature `forecast`) |
//! | [`demo`] | a small model that is part of the program |
//! | [`kernels`] | the mathematics on plain slices: recurrences, matrix products, norms |
//!
//! The three steps of every use: open a checkpoint, load it into the engine, feed tokens to a state.
//!
//! ```
//! use std::sync::Arc;
//!
//! use anser::checkpoint::Checkpoint;
//! use anser::engine::{Batch, Executor, LoadOptions, Logits, load};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/hf/native_v7_sharded");
//! let checkpoint = Checkpoint::open(path.as_ref())?;
//! let mut exec = Executor::new(2);
//! let model = load(Arc::new(checkpoint), &exec, &LoadOptions::default())?;
//!
//! let mut state = model.new_state();
//! let prompt = [71, 111, 111, 115, 101]; // "Goose": this model's tokens are bytes
//! let mut logits = Vec::new();
//! let batch = Batch { tokens: &prompt, cu_seqlens: &[0, prompt.len()], logits: Logits::Last };
//! model.forward(&mut exec, &batch, &mut [&mut state], &mut logits)?;
//!
//! assert_eq!(logits.len(), model.config().vocab);
//! assert_eq!(state.tokens(), 5);
//! # Ok(())
//! # }
//! ```

pub mod demo;
#[cfg(feature = "forecast")]
pub mod forecast;

pub use anser_checkpoint as checkpoint;
pub use anser_engine as engine;
pub use anser_kernels as kernels;
#[cfg(feature = "train")]
pub use anser_nn as nn;
pub use anser_tokenizer as tokenizer;
#[cfg(feature = "train")]
pub use anser_train as train;
