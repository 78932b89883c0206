//! What a forecast would have been worth: every window of a part of a series is forecast and compared with what came.

use std::ops::Range;

use anser_nn::model::dlinear::DLinear;
use anser_nn::model::series::SeriesModel;
use anser_nn::task::forecast::roll;
use anser_series::baseline::seasonal_naive;
use anser_series::linear::Linear;
use anser_series::metrics::{Errors, Scores};

use super::Scaled;

/// A way to forecast one column from its own past.
pub trait Method {
    /// The `horizon` values after each of S windows [S, `look_back`]: [S, `horizon`].
    fn forecast(&self, windows: &[f32], look_back: usize, horizon: usize) -> Vec<f32>;
}

impl Method for SeriesModel {
    fn forecast(&self, windows: &[f32], look_back: usize, horizon: usize) -> Vec<f32> {
        roll(self, windows, look_back, horizon)
    }
}

impl Method for DLinear {
    fn forecast(&self, windows: &[f32], _: usize, _: usize) -> Vec<f32> {
        self.predict(windows)
    }
}

/// Fitted for this look-back and a horizon of at least the one asked for.
impl Method for Linear {
    fn forecast(&self, windows: &[f32], look_back: usize, horizon: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(windows.len() / look_back * horizon);
        let (mut window, mut said) = (vec![0.0; look_back], vec![0.0; self.horizon]);
        for x in windows.chunks_exact(look_back) {
            window.iter_mut().zip(x).for_each(|(window, &x)| *window = f64::from(x));
            self.predict(&window, &mut said);
            out.extend(said[..horizon].iter().map(|&y| y as f32));
        }
        out
    }
}

/// What was this many rows ago, again and again; 1 for the last value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naive {
    /// Rows of a season.
    pub period: usize,
}

impl Method for Naive {
    fn forecast(&self, windows: &[f32], look_back: usize, horizon: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(windows.len() / look_back * horizon);
        for window in windows.chunks_exact(look_back) {
            let window: Vec<f64> = window.iter().map(|&x| f64::from(x)).collect();
            out.extend(seasonal_naive(&window, 1, self.period, horizon).iter().map(|&x| x as f32));
        }
        out
    }
}

/// Windows that are forecast in one go.
const GROUP: usize = 1024;

/// Which windows are forecast, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Rows at which forecasts begin.
    pub origins: Range<usize>,
    /// Every so manieth of them.
    pub stride: usize,
    /// Rows a forecast sees.
    pub look_back: usize,
    /// Rows it says.
    pub horizon: usize,
}

/// Forecasts every window of every column and hands out column, origin, and what was said, `[H]`, all in scaled units.
/// `stop` may end it after any group.
///
/// # Panics
/// When windows exceed the data.
pub fn each(
    method: &dyn Method,
    data: &Scaled,
    windows: &Windows,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(usize, usize, &[f32]),
) {
    let &Windows { ref origins, stride, look_back, horizon } = windows;
    for (m, column) in data.columns.iter().enumerate() {
        let origins: Vec<usize> = origins.clone().step_by(stride.max(1)).collect();
        for group in origins.chunks(GROUP) {
            if stop() {
                return;
            }
            let seen: Vec<f32> = group.iter().flat_map(|&o| &column[o - look_back..o]).copied().collect();
            let said = method.forecast(&seen, look_back, horizon);
            for (&origin, said) in group.iter().zip(said.chunks_exact(horizon)) {
                tell(m, origin, said);
            }
        }
    }
}

/// The errors over every window, column and step, in units of the columns' deviations. Values that were missing in the
/// file are left out.
pub fn backtest(method: &dyn Method, data: &Scaled, windows: &Windows) -> Scores {
    let mut errors = Errors::new(1);
    each(method, data, windows, &|| false, &mut |m, origin, said| {
        for (t, &said) in (origin..).zip(said) {
            if !data.missing[m][t] {
                errors.add(&[f64::from(data.columns[m][t])], &[f64::from(said)]);
            }
        }
    });
    errors.scores()
}
