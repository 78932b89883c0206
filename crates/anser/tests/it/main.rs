//! The real program, driven in temporary folders. One binary, one module a theme.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod bench;
mod chat;
mod convert;
mod demo;
mod eval;
mod failures;
mod forecast;
mod generate;
mod help;
mod hub;
mod many;
mod probes;
mod quantize;
mod state;
mod train;
mod util;
