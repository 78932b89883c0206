//! Forecasts of series: files read, models fitted and kept, forecasts, streams, holes and anomalies.
//!
//! A series is a table on a regular clock ([`series::Series`]); every column is forecast from its own past. Values go in
//! and come out in the series' own units.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use anser::forecast::{Forecaster, Scaled, Wishes, closed_form, fit, plan, series};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/load.csv");
//! // Header, separator and dates are found; `report` says what was done to the file.
//! let table = series::read::read(path.as_ref(), &series::read::Options::default())?;
//! let (load, report) = series::prepare(table, &series::clean::Options::default())?;
//! assert_eq!(report.step.as_deref(), Some("1 hour"));
//!
//! // Sizes that suit the series; then the closed form, and blocks of RWKV-7 on top of it.
//! let wishes = Wishes { horizon: 24, look_back: Some(168), steps: Some(10), ..Wishes::default() };
//! let planned = plan(&load, &wishes)?;
//! let data = Scaled::new(&load, planned.split.train.clone());
//! let linear = closed_form(&data, &planned.split, 168, planned.plan.shape.output, &mut |_, _| {})?;
//! let stop = AtomicBool::new(false);
//! let fitted = fit(&data, &planned.split, &planned.plan, Some(&linear), &stop, &mut |_| Ok(()))?;
//!
//! let model = Forecaster { model: fitted.model, look_back: 168, columns: load.columns.clone(), step: report.step };
//! let tomorrow = model.forecast(&load, 24)?; // [24, 2], row by row
//! assert_eq!(tomorrow.values.len(), 24 * load.width());
//! assert_eq!(tomorrow.times[0], "2025-05-30 00:00:00");
//! # Ok(())
//! # }
//! ```
//!
//! [`Forecaster::save`] and [`Forecaster::open`] keep models; [`Forecaster::stream`] forecasts after every row at constant
//! cost; [`Forecaster::impute`] and [`Forecaster::anomalies`] fill and find; [`backtest`] measures.

pub use anser_series as series;
pub use anser_train::series::anomaly::Anomalies;
pub use anser_train::series::backtest;
pub use anser_train::series::fit::{Fitted, Plan, closed_form, fit};
pub use anser_train::series::impute::Imputed;
pub use anser_train::series::initial::{Shape, initial};
pub use anser_train::series::{Forecast, Forecaster, Planned, Scaled, Wishes, bands, plan, split};
