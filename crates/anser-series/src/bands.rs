//! Bands around a forecast, from how far it was off before.

/// Residuals that are kept of a column and step.
const KEPT: usize = 4096;
/// Residuals that are kept in all, 128 MB of them; wide tables keep fewer of each.
const KEPT_IN_ALL: usize = 1 << 24;
/// Fewer than these say nothing about the outer quantiles, however wide the table is.
const KEPT_AT_LEAST: usize = 64;

/// What forecasts of windows that nothing was learnt from were off by, `truth - forecast`, apart for every column and every
/// step of the horizon.
///
/// Of more windows than are kept, a random sample stays, every window as likely as any other, and all its steps and columns
/// together. The sample is a function of the number of windows alone.
#[derive(Clone, Debug)]
pub struct Residuals {
    width: usize,
    horizon: usize,
    limit: usize,
    windows: u64,
    /// [H, M], each a residual a window kept.
    kept: Vec<Vec<f64>>,
}

impl Residuals {
    /// Nothing yet, for forecasts [`horizon`, `width`].
    ///
    /// # Panics
    /// When `width` or `horizon` is 0.
    pub fn new(width: usize, horizon: usize) -> Residuals {
        assert!(width > 0 && horizon > 0, "residuals of {width} columns and {horizon} steps");
        let limit = (KEPT_IN_ALL / width.saturating_mul(horizon)).clamp(KEPT_AT_LEAST, KEPT);
        Residuals { width, horizon, limit, windows: 0, kept: vec![Vec::new(); width * horizon] }
    }

    /// Adds truth and forecast of a window, both [H, M], row by row.
    ///
    /// # Panics
    /// When their lengths are others.
    pub fn add(&mut self, truth: &[f64], forecast: &[f64]) {
        assert!(
            truth.len() == self.kept.len() && forecast.len() == self.kept.len(),
            "truth and forecast of unlike shapes"
        );
        let place = match usize::try_from(self.windows) {
            Ok(place) if place < self.limit => place,
            // Reservoir sampling: window k stays with probability limit / (k + 1), in the place of any other.
            _ => (scramble(self.windows) % (self.windows + 1)) as usize,
        };
        self.windows += 1;
        if place >= self.limit {
            return;
        }
        for ((kept, truth), forecast) in self.kept.iter_mut().zip(truth).zip(forecast) {
            match kept.get_mut(place) {
                Some(kept) => *kept = truth - forecast,
                None => kept.push(truth - forecast),
            }
        }
    }

    /// Windows that were added.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Windows that are kept.
    pub fn kept(&self) -> usize {
        self.kept[0].len()
    }

    /// The bands of all that was added.
    pub fn bands(mut self) -> Bands {
        self.kept.iter_mut().for_each(|kept| kept.sort_unstable_by(f64::total_cmp));
        Bands { width: self.width, horizon: self.horizon, sorted: self.kept }
    }
}

/// Quantiles of [`Residuals`].
///
/// A forecast plus the quantiles of levels 0.1 and 0.9 is a band of 80 %: of the windows it was made from, the truth at that
/// step of that column lay within it in 80 of 100. It holds for the future as far as the future resembles these windows,
/// for each step and column by itself: a whole forecast leaves its bands somewhere far more often. A band is as wide in
/// quiet times as in wild ones, and where the forecast was off to one side, the band makes up for that and need not contain
/// the forecast.
#[derive(Clone, Debug, PartialEq)]
pub struct Bands {
    width: usize,
    horizon: usize,
    /// [H, M], each ascending.
    sorted: Vec<Vec<f64>>,
}

impl Bands {
    /// What to add to the forecast of column `column` at step `step`, from 0, so that the truth lies below it with
    /// probability `level`: the residuals' quantile, between two of them on a straight line (numpy's default). It never
    /// falls as the level rises. NaN where no window was added, or where a residual is no number.
    ///
    /// # Panics
    /// When `level` is not from 0 to 1, or there is no such column or step.
    pub fn quantile(&self, level: f64, column: usize, step: usize) -> f64 {
        assert!((0.0..=1.0).contains(&level), "a quantile of level {level}");
        assert!(column < self.width && step < self.horizon, "column {column} and step {step}");
        let sorted = &self.sorted[step * self.width + column];
        // NaN is sorted to the ends.
        let (Some(lowest), Some(highest)) = (sorted.first(), sorted.last()) else { return f64::NAN };
        if lowest.is_nan() || highest.is_nan() {
            return f64::NAN;
        }
        let place = level * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        // Rounding must not lead beyond the next residual.
        (below + (above - below) * place.fract()).min(above)
    }

    /// Columns, M.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Steps, H.
    pub fn horizon(&self) -> usize {
        self.horizon
    }
}

/// A number that looks random, of a number that counts (splitmix64).
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
