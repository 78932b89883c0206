//! The past to learn from and the future to be tested on, in the order of time.

use std::ops::Range;

use serde::Serialize;

use crate::Error;

/// Rows to learn from, to choose by and to be tested on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Split {
    /// To learn from.
    pub train: Range<usize>,
    /// To choose by.
    pub validation: Range<usize>,
    /// To be tested on.
    pub test: Range<usize>,
}

impl Split {
    /// The customary split of the hourly ETT files: 8640, 2880 and 2880 rows (12, 4 and 4 months of 30 days); the rest of
    /// their 17,420 rows is not used (Zhou et al. 2021, Informer).
    pub fn ett_hourly() -> Split {
        Split::at([8640, 11_520, 14_400])
    }

    /// The customary split of the ETT files with a row every 15 minutes: four times [`Split::ett_hourly`].
    pub fn ett_quarter_hourly() -> Split {
        Split::at([34_560, 46_080, 57_600])
    }

    fn at(ends: [usize; 3]) -> Split {
        Split { train: 0..ends[0], validation: ends[0]..ends[1], test: ends[1]..ends[2] }
    }

    /// The last `test` and, before them, `validation` of all rows, as fractions; the rest to learn from.
    ///
    /// # Errors
    /// [`Error::Argument`] for fractions that are negative, no numbers, or leave nothing to learn from.
    pub fn fractions(rows: usize, validation: f64, test: f64) -> Result<Split, Error> {
        if !(validation >= 0.0 && test >= 0.0 && validation + test < 1.0) {
            return Err(Error::Argument {
                name: "the fractions for validation and test",
                found: format!("{validation} and {test}"),
                expected: "two numbers from 0, together less than 1".into(),
            });
        }
        let part = |fraction: f64| (rows as f64 * fraction).round() as usize;
        let ends = [rows.saturating_sub(part(validation) + part(test)), rows.saturating_sub(part(test)), rows];
        if ends[0] == 0 {
            return Err(Error::Argument {
                name: "the fractions for validation and test",
                found: format!("{validation} and {test} of {rows} rows"),
                expected: "fractions that leave a row to learn from".into(),
            });
        }
        Ok(Split::at(ends))
    }
}

/// The rows at which a forecast begins such that its `horizon` targets lie in `rows`. Its look-back may reach back over the
/// beginning of `rows`, but not of the file.
pub fn origins(rows: &Range<usize>, look_back: usize, horizon: usize) -> Range<usize> {
    let first = rows.start.max(look_back);
    let end = (rows.end + 1).saturating_sub(horizon);
    first..end.max(first)
}

/// Mean and deviation of every column, over the rows to learn from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaler {
    /// `[M]`.
    pub mean: Vec<f64>,
    /// `[M]`: population deviations; 1 for a column that never changes.
    pub deviation: Vec<f64>,
}

impl Scaler {
    /// The scaler of `rows` of values [T, `width`].
    ///
    /// # Panics
    /// When `rows` are none, or exceed the values.
    pub fn fit(values: &[f64], width: usize, rows: Range<usize>) -> Scaler {
        assert!(!rows.is_empty(), "a scaler needs rows");
        let values = &values[rows.start * width..rows.end * width];
        let n = rows.len() as f64;
        let (mut mean, mut deviation) = (vec![0.0; width], vec![0.0; width]);
        for row in values.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / n);
        }
        for row in values.chunks_exact(width) {
            for column in 0..width {
                deviation[column] += (row[column] - mean[column]).powi(2) / n;
            }
        }
        for (deviation, mean) in deviation.iter_mut().zip(&mean) {
            *deviation = deviation.sqrt();
            // What rounding leaves of a constant is no deviation.
            if *deviation <= 10.0 * f64::EPSILON * mean.abs() {
                *deviation = 1.0;
            }
        }
        Scaler { mean, deviation }
    }

    /// Brings values [.., M] to mean 0 and deviation 1.
    pub fn transform(&self, values: &mut [f64]) {
        for row in values.chunks_mut(self.mean.len()) {
            for ((x, mean), deviation) in row.iter_mut().zip(&self.mean).zip(&self.deviation) {
                *x = (*x - mean) / deviation;
            }
        }
    }

    /// Brings values [.., M] back.
    pub fn inverse(&self, values: &mut [f64]) {
        for row in values.chunks_mut(self.mean.len()) {
            for ((x, mean), deviation) in row.iter_mut().zip(&self.mean).zip(&self.deviation) {
                *x = *x * deviation + mean;
            }
        }
    }
}
