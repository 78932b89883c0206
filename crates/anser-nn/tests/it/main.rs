//! Differentiable models against golden files, composites and each other.
#![allow(clippy::unwrap_used)]

mod composite;
mod golden;
mod lora;
mod plans;
mod series;
mod states;
