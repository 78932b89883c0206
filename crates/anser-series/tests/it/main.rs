//! Tests of anser-series.

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
