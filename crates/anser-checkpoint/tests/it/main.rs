//! The tests of this crate, one binary.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod allocation;
mod config;
mod export;
mod files;
mod formats;
mod gguf;
mod hostile;
mod packed;
mod plain;
mod refused;
mod state;
mod write;
