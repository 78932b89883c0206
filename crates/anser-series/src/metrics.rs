//! How far forecasts were off. Definitions are scikit-learn's where it has them.

use serde::Serialize;

/// Sums over pairs of truth and forecast, so that no evaluation has to keep them.
#[derive(Clone, Debug)]
pub struct Errors {
    columns: Vec<Column>,
}

/// What is summed for a column.
#[derive(Clone, Copy, Debug, Default)]
struct Column {
    count: f64,
    square: f64,
    absolute: f64,
    percentage: f64,
    zeros: u64,
    symmetric: f64,
    /// Mean of the truth, and the sum of its squared distances from that (Welford's recurrence).
    mean: f64,
    spread: f64,
}

/// The errors of forecasts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Pairs.
    pub count: u64,
    /// Mean squared error.
    pub mse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Mean of |error / truth| where the truth is not 0, as a fraction; NaN where it always is.
    pub mape: f64,
    /// Pairs that [`Scores::mape`] leaves out because the truth is 0.
    pub mape_ignored: u64,
    /// Mean of 2 |error| / (|truth| + |forecast|), from 0 to 2; 0 where both are 0.
    pub smape: f64,
    /// 1 - squared error / variance of the truth, averaged over columns; NaN of less than two rows. A column that never
    /// changes counts 1 if it was met and else 0.
    pub r2: f64,
    /// The same of all values in one pool.
    pub r2_pooled: f64,
}

impl Errors {
    /// Nothing yet, for rows of `width` columns.
    ///
    /// # Panics
    /// When `width` is 0.
    pub fn new(width: usize) -> Errors {
        assert!(width > 0, "errors of no column");
        Errors { columns: vec![Column::default(); width] }
    }

    /// Adds truth and forecast, both [.., M].
    ///
    /// # Panics
    /// When their lengths differ or hold no whole rows.
    pub fn add(&mut self, truth: &[f64], forecast: &[f64]) {
        let width = self.columns.len();
        assert!(
            truth.len() == forecast.len() && truth.len().is_multiple_of(width),
            "truth and forecast of unlike shapes"
        );
        for (truth, forecast) in truth.chunks_exact(width).zip(forecast.chunks_exact(width)) {
            for ((column, &y), &f) in self.columns.iter_mut().zip(truth).zip(forecast) {
                column.add(y, f);
            }
        }
    }

    /// The scores of all that was added; NaN if that is nothing.
    pub fn scores(&self) -> Scores {
        let sum = |of: fn(&Column) -> f64| self.columns.iter().map(of).sum::<f64>();
        let count = sum(|column| column.count);
        let zeros: u64 = self.columns.iter().map(|column| column.zeros).sum();
        let square = sum(|column| column.square);
        let mean = sum(|column| column.count * column.mean) / count;
        let spread = |column: &Column| column.spread + column.count * (column.mean - mean).powi(2);
        let r2 = self.columns.iter().map(|column| explained(column.square, column.spread));
        let defined = |r2: f64| if self.columns[0].count < 2.0 { f64::NAN } else { r2 };
        Scores {
            count: count as u64,
            mse: square / count,
            mae: sum(|column| column.absolute) / count,
            rmse: (square / count).sqrt(),
            mape: sum(|column| column.percentage) / (count - zeros as f64),
            mape_ignored: zeros,
            smape: sum(|column| column.symmetric) / count,
            r2: defined(r2.sum::<f64>() / self.columns.len() as f64),
            r2_pooled: defined(explained(square, self.columns.iter().map(spread).sum())),
        }
    }
}

impl Column {
    fn add(&mut self, y: f64, f: f64) {
        let off = (y - f).abs();
        self.count += 1.0;
        self.square += off * off;
        self.absolute += off;
        match y == 0.0 {
            true => self.zeros += 1,
            false => self.percentage += off / y.abs(),
        }
        let size = y.abs() + f.abs();
        self.symmetric += if size == 0.0 { 0.0 } else { 2.0 * off / size };
        let from_mean = y - self.mean;
        self.mean += from_mean / self.count;
        self.spread += from_mean * (y - self.mean);
    }
}

fn explained(square: f64, spread: f64) -> f64 {
    match (square == 0.0, spread == 0.0) {
        (true, _) => 1.0,
        (false, true) => 0.0,
        (false, false) => 1.0 - square / spread,
    }
}

/// The scores of one forecast: truth and forecast [.., `width`].
///
/// # Panics
/// As [`Errors::new`] and [`Errors::add`].
pub fn score(truth: &[f64], forecast: &[f64], width: usize) -> Scores {
    let mut errors = Errors::new(width);
    errors.add(truth, forecast);
    errors.scores()
}

/// The mean absolute error of the seasonal naive forecast one season ahead over the rows to learn from, `past` `[T]`: what
/// MASE divides a mean absolute error by (Hyndman and Koehler 2006). `None` where it is 0 or there are no two seasons.
pub fn mase_scale(past: &[f64], period: usize) -> Option<f64> {
    let pairs = past.len().checked_sub(period).filter(|&pairs| pairs > 0 && period > 0)?;
    let sum: f64 = past[period..].iter().zip(past).map(|(now, then)| (now - then).abs()).sum();
    Some(sum / pairs as f64).filter(|&scale| scale > 0.0)
}

/// The mean pinball loss of forecasts of the quantile `level`, in (0, 1); NaN of nothing.
///
/// # Panics
/// When the lengths differ.
pub fn pinball(truth: &[f64], quantile: &[f64], level: f64) -> f64 {
    assert_eq!(truth.len(), quantile.len(), "a quantile for every truth");
    let loss = |(y, q): (&f64, &f64)| if y >= q { level * (y - q) } else { (1.0 - level) * (q - y) };
    truth.iter().zip(quantile).map(loss).sum::<f64>() / truth.len() as f64
}

/// The fraction of truths within `low` and `high`, both included; NaN of nothing.
///
/// # Panics
/// When the lengths differ.
pub fn coverage(truth: &[f64], low: &[f64], high: &[f64]) -> f64 {
    assert!(truth.len() == low.len() && truth.len() == high.len(), "a band for every truth");
    let within = truth.iter().zip(low.iter().zip(high)).filter(|(y, (low, high))| (low..=high).contains(&y)).count();
    within as f64 / truth.len() as f64
}
