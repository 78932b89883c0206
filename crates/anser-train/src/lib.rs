//! Trains models of the RWKV family.

pub mod data;
mod error;
pub mod files;
pub mod groups;
pub mod init;
pub mod language;
pub mod metrics;
pub mod optimizer;
pub mod plot;
pub mod random;
pub mod schedule;
pub mod series;
pub mod session;
pub mod settings;
pub mod snapshot;
pub mod tasks;
pub mod trainer;

pub use error::Error;
