//! The tests of this crate, one binary.

mod allocation;
mod config;
mod files;
mod formats;
mod gguf;
mod hostile;
mod refused;
mod state;
