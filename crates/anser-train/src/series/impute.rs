//! Holes filled by the forecaster that is asked for the future: it says on from the rows before a hole, and what it is off
//! by at the first row known again is taken back along the hole, more and more.
//! ```text
//! filled[a + i] = f[i] + (i + 1) / (n + 1) (x[a + n] - f[n])        hole a .. a + n, forecast f from the rows before a
//! ```

use anser_nn::task::forecast::roll;
use anser_series::Series;
use serde::Serialize;

use super::{Error, Forecaster, Scaled};
use crate::random::Random;

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Imputed {
    /// [T, M], in the series' own units, holes filled.
    #[serde(skip)]
    pub values: Vec<f64>,
    /// Values filled by the model.
    pub by_model: usize,
    /// Values left as straight lines, because too few rows stand before them.
    pub by_line: usize,
    /// Holes that were cut to see how well this works.
    pub trials: usize,
    /// Rows of such a hole: the median of those that are in the series, or 12.
    pub trial_rows: usize,
    /// Mean squared error in these, in units of the columns' deviations, by the model.
    pub model_mse: f64,
    /// And of straight lines.
    pub line_mse: f64,
}

/// The longest hole that is filled by the model, in windows: further on it only repeats itself.
const LONGEST: usize = 4;
/// Holes that are cut to see how well this works.
const TRIALS: u64 = 256;

impl Forecaster {
    /// Fills what is missing in a series, and tries the same on holes cut at random where everything is known.
    ///
    /// # Errors
    /// [`anser_series::Error::TooShort`] for fewer rows than a window.
    pub fn impute(&self, series: &Series) -> Result<Imputed, Error> {
        self.fits(series)?;
        let mut data = Scaled::new(series, 0..series.rows());
        let holes: Vec<Vec<(usize, usize)>> = data.missing.iter().map(|missing| runs(missing)).collect();
        let mut lengths: Vec<usize> = holes.iter().flatten().map(|(a, b)| b - a).collect();
        lengths.sort_unstable();
        let trial_rows = lengths.get(lengths.len() / 2).copied().unwrap_or(12).min(self.look_back);
        let (trials, model_mse, line_mse) = self.trials(&data, trial_rows);
        let (mut by_model, mut by_line) = (0, 0);
        for (column, holes) in data.columns.iter_mut().zip(&holes) {
            for &(a, b) in holes {
                match a >= self.look_back && b - a <= LONGEST * self.look_back {
                    true => {
                        self.bridge(column, a, b);
                        by_model += b - a;
                    }
                    false => by_line += b - a,
                }
            }
        }
        let mut values = series.values.clone();
        for (m, missing) in data.missing.iter().enumerate() {
            for (t, _) in missing.iter().enumerate().filter(|(_, missing)| **missing) {
                values[t * series.width() + m] = data.undo(m, data.columns[m][t]);
            }
        }
        Ok(Imputed { values, by_model, by_line, trials, trial_rows, model_mse, line_mse })
    }

    /// Fills a hole `a..b` of a column.
    fn bridge(&self, column: &mut [f32], a: usize, b: usize) {
        let rows = b - a;
        let said = roll(&self.model, &column[a - self.look_back..a], self.look_back, rows + 1);
        let off = column.get(b).map_or(0.0, |known| known - said[rows]);
        for (i, (x, said)) in column[a..b].iter_mut().zip(&said).enumerate() {
            *x = said + (i + 1) as f32 / (rows + 1) as f32 * off;
        }
    }

    /// Holes cut where everything is known: how many, and the squared errors of model and straight line.
    fn trials(&self, data: &Scaled, rows: usize) -> (usize, f64, f64) {
        let mut random = Random::new(0, "holes", 0);
        let (mut count, mut model, mut line) = (0, 0.0, 0.0);
        let places = data.rows().saturating_sub(self.look_back + rows);
        for _ in 0..TRIALS {
            let m = random.below(data.width() as u64) as usize;
            let a = self.look_back + random.below(places as u64) as usize;
            let b = a + rows;
            if places == 0 || data.missing[m][a - 1..=b].contains(&true) {
                continue;
            }
            let mut column = data.columns[m].clone();
            self.bridge(&mut column, a, b);
            let truth = &data.columns[m];
            for t in a..b {
                let straight = truth[a - 1] + (truth[b] - truth[a - 1]) * (t + 1 - a) as f32 / (rows + 1) as f32;
                model += f64::from(column[t] - truth[t]).powi(2);
                line += f64::from(straight - truth[t]).powi(2);
            }
            count += 1;
        }
        let values = (count * rows) as f64;
        (count, model / values, line / values)
    }
}

/// Where `true` stands, as ranges.
fn runs(flags: &[bool]) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut began = None;
    for (at, &flag) in flags.iter().chain([&false]).enumerate() {
        match (flag, began) {
            (true, None) => began = Some(at),
            (false, Some(start)) => {
                runs.push((start, at));
                began = None;
            }
            _ => {}
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_of_holes() {
        assert_eq!(super::runs(&[true, true, false, true, false, false, true]), [(0, 2), (3, 4), (6, 7)]);
        assert_eq!(super::runs(&[]), []);
    }
}
