//! Trains models of the RWKV family.

pub mod data;
mod error;
pub mod random;

pub use error::Error;
