//! Time series as tables, and the forecasts that need no training.
//!
//! - [`read`]: CSV and Parquet to a [`Table`], everything about the file found by itself.
//! - [`clean`]: a table to a [`Series`] on a regular clock without holes, and a [`Report`] of all that was done.
//! - [`season`]: how long until a series repeats itself.
//! - [`split`]: what to learn from and what to be tested on, the windows of both, and the scale.
//! - [`baseline`], [`linear`]: forecasts by rule, and by one matrix in closed form.
//! - [`bands`], [`metrics`]: how far forecasts will be off, and how far they were.

pub mod bands;
pub mod baseline;
pub mod clean;
mod date;
mod error;
pub mod linear;
pub mod metrics;
pub mod read;
pub mod rows;
pub mod season;
pub mod split;
pub mod table;
pub mod time;

pub use clean::{Report, Series, prepare};
pub use error::Error;
pub use table::Table;
pub use time::{Axis, Step};
