//! Differentiable models against golden files, composites and each other.
#![allow(clippy::unwrap_used)]

mod golden;
