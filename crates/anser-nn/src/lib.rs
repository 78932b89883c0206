//! Differentiable models of the RWKV family, on Burn.
//!
//! The floors, from the ground up: [`op`] (fused operations with hand-written gradients), [`mixer`] (time mixes, channel
//! mixes), [`model`] (one file a version), [`task`] (what a model is trained for). Recurrences are those of
//! `anser-kernels`, files those of `anser-checkpoint`.
//!
//! Everything is packed: rows [ΣT, C] and `cu_seqlens`, one state a sequence, as everywhere in Anser.

pub mod gradients;
pub mod layer;
pub mod mixer;
pub mod model;
pub mod op;
pub mod task;
pub mod threads;

mod error;

pub use error::Error;

pub use burn::tensor::Device;

/// The CPU, with gradients.
pub fn cpu() -> Device {
    Device::flex().autodiff()
}
