//! Rows that are not what the rows before them made expect.

use std::ops::Range;

use anser_series::Series;
use serde::Serialize;

use super::backtest::{Windows, each};
use super::{Error, Forecaster, Scaled};

/// How strange every row is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Anomalies {
    /// Rows that have scores: those before them are too few to expect anything.
    pub rows: Range<usize>,
    /// [rows, M]: distance of the value from what was expected, in units of what it usually is for that column and that
    /// many rows ahead; NaN where the value was missing.
    pub scores: Vec<f64>,
    /// [rows, M]: what was expected, in the series' own units.
    pub expected: Vec<f64>,
}

impl Forecaster {
    /// Expects every patch of rows from the window before it, and scores what came. What is usual is the median distance
    /// over the whole series (times 1.4826, which is the deviation of normal errors), so that a few anomalies do not change it.
    ///
    /// # Errors
    /// [`anser_series::Error::TooShort`] for fewer rows than a window and a patch.
    pub fn anomalies(&self, series: &Series) -> Result<Anomalies, Error> {
        let (patch, rows, width) = (self.model.sizes().patch, series.rows(), series.width());
        if rows < self.look_back + patch {
            let what = format!("a window of {} rows and a patch of {patch} to be expected", self.look_back);
            let (file, needed) = (series.name.clone(), self.look_back + patch);
            return Err(anser_series::Error::TooShort { file, what, needed, found: rows }.into());
        }
        let data = Scaled::new(series, 0..rows);
        let scored = self.look_back..rows - (rows - self.look_back) % patch;
        let windows = Windows {
            origins: scored.start..scored.end - patch + 1,
            stride: patch,
            look_back: self.look_back,
            horizon: patch,
        };
        let mut expected = vec![0.0; scored.len() * width];
        let mut off = vec![f64::NAN; scored.len() * width];
        each(&self.model, &data, &windows, &|| false, &mut |m, origin, said| {
            for (t, &said) in (origin..).zip(said) {
                let at = (t - scored.start) * width + m;
                expected[at] = data.undo(m, said);
                if !data.missing[m][t] {
                    off[at] = f64::from(data.columns[m][t] - said).abs();
                }
            }
        });
        let mut scores = off.clone();
        for m in 0..width {
            for ahead in 0..patch {
                let places = || (ahead..scored.len()).step_by(patch).map(|row| row * width + m);
                let mut known: Vec<f64> = places().map(|at| off[at]).filter(|off| !off.is_nan()).collect();
                known.sort_unstable_by(f64::total_cmp);
                // A column that is always met is off by rounding at most: that is no anomaly.
                let usual = known.get(known.len() / 2).map_or(1.0, |median| 1.4826 * median).max(1e-4);
                places().for_each(|at| scores[at] /= usual);
            }
        }
        Ok(Anomalies { rows: scored, scores, expected })
    }
}
