//! Time series as tables, and the forecasts that need no training.
//!
//! - [`read`]: CSV and Parquet to a [`Table`], everything about the file found by itself.
//! - [`clean`]: a table to a [`Series`] on a regular clock without holes, and a [`Report`] of all that was done.

pub mod clean;
mod date;
mod error;
pub mod read;
pub mod table;
pub mod time;

pub use clean::{Report, Series, prepare};
pub use error::Error;
pub use table::Table;
pub use time::{Axis, Step};
