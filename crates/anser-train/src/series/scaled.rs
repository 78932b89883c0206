//! A series as models take it: columns apart, each in units of its own deviation.

use std::ops::Range;

use anser_series::Series;
use anser_series::split::Scaler;

/// Columns of mean 0 and deviation 1 over the rows that the scaler has seen.
#[derive(Clone, Debug)]
pub struct Scaled {
    /// M columns of T values.
    pub columns: Vec<Vec<f32>>,
    /// Where a value was missing and is filled in: nothing is learned from it and nothing measured on it.
    pub missing: Vec<Vec<bool>>,
    /// The way back.
    pub scaler: Scaler,
}

impl Scaled {
    /// A series, its scaler fitted on `rows`: those to learn from, so that nothing of the others is known.
    ///
    /// # Panics
    /// When `rows` are none, or exceed the series.
    pub fn new(series: &Series, rows: Range<usize>) -> Scaled {
        let scaler = Scaler::fit(&series.values, series.width(), rows);
        let mut values = series.values.clone();
        scaler.transform(&mut values);
        let width = series.width();
        let columns = (0..width).map(|m| values.iter().skip(m).step_by(width).map(|&x| x as f32).collect());
        let missing = (0..width).map(|m| series.missing.iter().skip(m).step_by(width).copied().collect());
        Scaled { columns: columns.collect(), missing: missing.collect(), scaler }
    }

    /// Rows, T.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// Columns, M.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// All values row by row, [T, M].
    pub fn values(&self) -> Vec<f64> {
        let row = |t: usize| self.columns.iter().map(move |column| f64::from(column[t]));
        (0..self.rows()).flat_map(row).collect()
    }

    /// A value of column `m` in the series' own units.
    pub fn undo(&self, m: usize, z: f32) -> f64 {
        f64::from(z) * self.scaler.deviation[m] + self.scaler.mean[m]
    }
}
