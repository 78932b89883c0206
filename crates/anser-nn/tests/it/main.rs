//! Differentiable models against golden files, composites and each other.
#![allow(clippy::unwrap_used)]

mod composite;
mod golden;
mod plans;
mod states;
