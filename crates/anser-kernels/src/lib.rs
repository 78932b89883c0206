//! The mathematics of the RWKV family on plain slices: recurrences, matrix products, norms and activations.
//!
//! No tensor library, no files, no models. Callers own every buffer; shapes are checked once at each public entry
//! and a wrong one panics, because it is the caller's bug.

pub mod activation;
pub mod alloc;
pub mod linear;
pub mod norm;
pub mod optimizer;
pub mod pool;
pub mod recurrence;
pub mod rows;
pub mod simd;
mod transpose;
