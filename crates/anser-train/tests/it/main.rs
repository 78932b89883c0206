//! Tests of the training crate.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod data;
mod data_binidx;
mod data_packed;
mod data_text;
mod plot;
mod recipe;
mod series;
mod settings;
mod tasks;
mod trainer;
