//! Language models with a state of constant size, at full speed on the CPU.
//!
//! Three things are kept apart: a [`Model`] is configuration and weights, immutable and shared; a [`State`] is what one
//! sequence remembers, cheap to clone (a fork) and to keep as a file; an [`Executor`] owns threads and scratch memory.
//! The only batch is ragged ([`Batch`]): packed tokens and the borders of the sequences, one state a sequence, so that
//! prompts of different lengths and single decode steps share one call.
//!
//! Every result is a function of the sequence alone: the rows that happen to share a call, the chunking of a prompt and
//! the number of threads never change a bit of it (see `docs/numerics.md`).
//!
//! ```
//! use std::sync::Arc;
//!
//! use anser_engine::{Batch, Executor, LoadOptions, Logits, Synthetic, Version, load};
//!
//! # fn main() -> Result<(), anser_engine::Error> {
//! let mut exec = Executor::new(2);
//! let model = load(Arc::new(Synthetic::tiny(Version::V7, 1)), &exec, &LoadOptions::default())?;
//! let mut state = model.new_state();
//! let mut logits = Vec::new();
//! let batch = Batch { tokens: &[3, 1, 4], cu_seqlens: &[0, 3], logits: Logits::Last };
//! model.forward(&mut exec, &batch, &mut [&mut state], &mut logits)?;
//! assert_eq!(logits.len(), model.config().vocab);
//! assert_eq!(state.tokens(), 3);
//! # Ok(())
//! # }
//! ```

mod divergence;
mod error;
mod executor;
mod model;
mod recipe;
pub mod sampling;
mod scheduler;
mod score;
mod state;
mod synthetic;

pub use anser_checkpoint::{Config, Version};
pub use anser_kernels::linear::{InputBits, Storage};
pub use divergence::{Divergence, divergence};
pub use error::Error;
pub use executor::{Executor, Observer, Tap};
pub use model::{Batch, LoadOptions, Logits, Model, Placement, Source, load, pack, prefill};
pub use recipe::{Recipe, UnknownRecipe};
pub use scheduler::{Event, Finish, Request, RequestId, Scheduler};
pub use score::{Score, score};
pub use state::State;
pub use synthetic::Synthetic;
