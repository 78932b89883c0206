//! Tests of anser-series.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod bands;
mod baseline;
mod cleaning;
mod clock;
mod dates;
mod hostile;
mod linear;
mod metrics;
#[cfg(feature = "parquet")]
mod parquet;
mod reading;
mod season;
mod split;
mod util;
