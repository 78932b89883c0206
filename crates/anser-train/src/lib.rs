//! Trains models of the RWKV family.

pub mod data;
mod error;
pub mod groups;
pub mod init;
pub mod random;
pub mod schedule;
pub mod tasks;

pub use error::Error;
