//! Forecasting: models of series fitted, compared, kept and used.
//!
//! A [`Forecaster`] looks at the last L rows of every column by itself, in units of their own mean and deviation, and says
//! the rows that follow; [`Forecaster::stream`] does so after every row at constant cost. [`plan`] finds sizes that suit a
//! series, [`fit`](fit::fit) makes a model of them, [`backtest`](backtest::backtest) says what it would have been worth
//! beside the forecasts that need no training.
//!
//! Everything that is fitted sees the rows to learn from and, to choose a step, those to choose by; never those to be
//! tested on.

pub mod anomaly;
pub mod backtest;
pub mod choice;
mod file;
pub mod fit;
pub mod impute;
pub mod initial;
pub mod objective;
mod plan;
mod scaled;
pub mod session;
pub mod settings;

use anser_nn::model::series::SeriesModel;
use anser_nn::task::forecast::roll;
use anser_nn::task::stream::Stream;
use anser_series::Series;
use anser_series::bands::{Bands, Residuals};
use anser_series::split::{Split, origins};
use serde::Serialize;

pub use crate::Error;
pub use plan::{Planned, Wishes, plan};
pub use scaled::Scaled;

use backtest::{Method, Windows};

/// A model of series, and how far it looks back.
#[derive(Clone, Debug)]
pub struct Forecaster {
    /// The model, outside of any graph.
    pub model: SeriesModel,
    /// Rows of a window, L: a multiple of the patch.
    pub look_back: usize,
    /// The columns that it was fitted on; none where nobody knows. It forecasts others as well.
    pub columns: Vec<String>,
    /// The step between their rows, in words.
    pub step: Option<String>,
}

/// What is to come.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Dates or numbers of the H rows.
    pub times: Vec<String>,
    /// Names of the M columns.
    pub columns: Vec<String>,
    /// [H, M], in the series' own units.
    pub values: Vec<f64>,
}

impl Forecaster {
    /// The `horizon` rows that follow a series.
    ///
    /// # Errors
    /// [`anser_series::Error::TooShort`] for fewer rows than a window; [`anser_series::Error::Calendar`].
    pub fn forecast(&self, series: &Series, horizon: usize) -> Result<Forecast, Error> {
        self.fits(series)?;
        let data = Scaled::new(series, 0..series.rows());
        let windows: Vec<f32> =
            data.columns.iter().flat_map(|column| &column[column.len() - self.look_back..]).copied().collect();
        let said = roll(&self.model, &windows, self.look_back, horizon);
        let value = |h: usize, m: usize| data.undo(m, said[m * horizon + h]);
        let values = (0..horizon).flat_map(|h| (0..data.width()).map(move |m| value(h, m))).collect();
        Ok(Forecast { times: series.future_times(horizon)?, columns: series.columns.clone(), values })
    }

    /// A series of `width` columns as it grows.
    ///
    /// # Errors
    /// [`anser_nn::Error::NoState`] for a model with attention.
    pub fn stream(&self, width: usize) -> Result<Stream, Error> {
        Ok(Stream::new(&self.model, width, self.look_back)?)
    }

    /// Fails for a series shorter than a window.
    fn fits(&self, series: &Series) -> Result<(), Error> {
        if series.rows() >= self.look_back {
            return Ok(());
        }
        let what = format!("a model that looks back {} rows", self.look_back);
        let (file, needed, found) = (series.name.clone(), self.look_back, series.rows());
        Err(anser_series::Error::TooShort { file, what, needed, found }.into())
    }
}

/// What forecasts of `rows` were off by, in scaled units, a column each; at most about `most` windows a column.
pub fn bands(
    method: &dyn Method,
    data: &Scaled,
    rows: &std::ops::Range<usize>,
    look_back: usize,
    horizon: usize,
    most: usize,
) -> Vec<Bands> {
    let origins = origins(rows, look_back, horizon);
    let stride = origins.len().div_ceil(most.max(1)).max(1);
    let windows = Windows { origins, stride, look_back, horizon };
    let mut residuals = vec![Residuals::new(1, horizon); data.width()];
    backtest::each(method, data, &windows, &|| false, &mut |m, origin, said| {
        let truth: Vec<f64> = data.columns[m][origin..origin + horizon].iter().map(|&x| f64::from(x)).collect();
        let said: Vec<f64> = said.iter().map(|&x| f64::from(x)).collect();
        residuals[m].add(&truth, &said);
    });
    residuals.into_iter().map(Residuals::bands).collect()
}

/// A split whose parts to choose by and to be tested on hold at least one window's targets.
///
/// # Errors
/// [`anser_series::Error::TooShort`], [`anser_series::Error::Argument`].
pub fn split(series: &Series, horizon: usize, validation: f64, test: f64) -> Result<Split, Error> {
    let rows = series.rows();
    let split = Split::fractions(rows, validation, test)?;
    let at_least = |part: &std::ops::Range<usize>, fraction: f64| match fraction > 0.0 {
        true => part.len().max(horizon),
        false => 0,
    };
    let (test, validation) = (at_least(&split.test, test), at_least(&split.validation, validation));
    let held_out = test.saturating_add(validation);
    if horizon == 0 {
        let expected = "at least 1 row".into();
        return Err(anser_series::Error::Argument { name: "the horizon", found: "0".into(), expected }.into());
    }
    if held_out >= rows {
        let what = format!(
            "a horizon of {horizon}, of which as many rows are kept to choose by and to be tested on, and some to learn from"
        );
        let needed = held_out.saturating_add(horizon.min(8));
        return Err(anser_series::Error::TooShort { file: series.name.clone(), what, needed, found: rows }.into());
    }
    Ok(Split { train: 0..rows - held_out, validation: rows - held_out..rows - test, test: rows - test..rows })
}
