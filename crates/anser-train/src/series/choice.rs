//! Which step of training is kept: held-out rows decide, for every horizon by itself.

use std::ops::Range;

use anser_nn::model::series::SeriesModel;
use anser_series::metrics::{Errors, Scores};
use anser_series::split::origins;

use super::Scaled;
use super::backtest::{Windows, each};
use crate::Error;

/// Stretches of the rows to choose by, each of which has a say.
const STRETCHES: usize = 4;

/// Called with a horizon and a model that is the best for it so far.
pub type Keep<'a> = dyn FnMut(usize, &SeriesModel) -> Result<(), Error> + Send + 'a;

/// The best model so far for each horizon: the one of the smallest held-out error that is in no stretch worse than the one
/// training began with. Better on the whole may be much better in one stretch and worse in the others, and what comes next
/// is none of them.
pub struct Choice<'a> {
    data: &'a Scaled,
    look_back: usize,
    rows: Range<usize>,
    most: usize,
    bests: Vec<Best>,
    keep: &'a mut Keep<'a>,
}

struct Best {
    horizon: usize,
    loss: f64,
    /// The errors of the model training began with.
    begun: Vec<f64>,
}

impl<'a> Choice<'a> {
    /// Windows of `look_back` rows whose targets lie in `rows` are forecast as far as each of `horizons`, about `most` of
    /// them at most; `keep` is told of every best.
    pub fn new(
        data: &'a Scaled,
        rows: &Range<usize>,
        look_back: usize,
        horizons: &[usize],
        most: usize,
        keep: &'a mut Keep<'a>,
    ) -> Choice<'a> {
        let mut horizons = horizons.to_vec();
        horizons.sort_unstable();
        let best = |horizon| Best { horizon, loss: f64::INFINITY, begun: Vec::new() };
        let bests = horizons.into_iter().map(best).collect();
        Choice { data, look_back, rows: rows.clone(), most, bests, keep }
    }

    /// Takes this as the model that training began with, the first candidate. Where a run of one horizon goes on, `best`
    /// is what it had kept.
    ///
    /// # Errors
    /// What `keep` returns.
    pub fn begin(&mut self, model: &SeriesModel, best: Option<&SeriesModel>) -> Result<(), Error> {
        let begun = self.measure(model);
        let kept = best.map_or_else(|| begun.clone(), |best| self.measure(best));
        for ((own, begun), kept) in self.bests.iter_mut().zip(&begun).zip(&kept) {
            own.begun = begun.iter().map(|scores| scores.mse).collect();
            let Some((loss, _)) = mean(kept) else { continue };
            own.loss = loss;
            if best.is_none() {
                (self.keep)(own.horizon, model)?;
            }
        }
        Ok(())
    }

    /// Keeps a model for every horizon it is the best for. Returns its error, a mean over horizons, and of how many
    /// values it is; `None` where nothing is held out.
    ///
    /// # Errors
    /// What `keep` returns.
    pub fn offer(&mut self, model: &SeriesModel) -> Result<Option<(f64, u64)>, Error> {
        let (mut losses, mut values) = (Vec::new(), 0);
        let measured = self.measure(model);
        for (best, stretches) in self.bests.iter_mut().zip(&measured) {
            let Some((loss, count)) = mean(stretches) else { continue };
            losses.push(loss);
            values += count;
            let nowhere_worse =
                stretches.iter().zip(&best.begun).all(|(now, &begun)| now.count == 0 || now.mse <= begun);
            if loss < best.loss && nowhere_worse {
                best.loss = loss;
                (self.keep)(best.horizon, model)?;
            }
        }
        Ok((!losses.is_empty()).then(|| (losses.iter().sum::<f64>() / losses.len() as f64, values)))
    }

    /// The held-out error of the best models, a mean over horizons.
    pub fn best(&self) -> Option<f64> {
        let measured: Vec<f64> = self.bests.iter().map(|best| best.loss).filter(|loss| loss.is_finite()).collect();
        (!measured.is_empty()).then(|| measured.iter().sum::<f64>() / measured.len() as f64)
    }

    /// The held-out error of the best model for a horizon; `None` where nothing is held out.
    pub fn best_for(&self, horizon: usize) -> Option<f64> {
        self.bests.iter().find(|best| best.horizon == horizon).map(|best| best.loss).filter(|loss| loss.is_finite())
    }

    /// The errors by horizon in every stretch of the rows. A window is forecast once, as far as the longest horizon it has
    /// targets for.
    fn measure(&self, model: &SeriesModel) -> Vec<Vec<Scores>> {
        let ranges: Vec<Range<usize>> =
            self.bests.iter().map(|best| origins(&self.rows, self.look_back, best.horizon)).collect();
        let mut errors = vec![vec![Errors::new(1); STRETCHES]; ranges.len()];
        let windows = ranges.first().map_or(0, ExactSizeIterator::len) * self.data.width();
        let stride = windows.div_ceil(self.most.max(1));
        let mut first = 0;
        for (longest, range) in ranges.iter().enumerate().rev() {
            let (origins, horizon) = (range.start.max(first)..range.end, self.bests[longest].horizon);
            first = first.max(range.end);
            let windows = Windows { origins, stride, look_back: self.look_back, horizon };
            each(model, self.data, &windows, &|| false, &mut |m, origin, said| {
                for ((errors, range), best) in errors.iter_mut().zip(&ranges).zip(&self.bests[..=longest]) {
                    let stretch = (origin - range.start) * STRETCHES / range.len();
                    for (t, &said) in (origin..).zip(&said[..best.horizon]) {
                        if !self.data.missing[m][t] {
                            errors[stretch].add(&[f64::from(self.data.columns[m][t])], &[f64::from(said)]);
                        }
                    }
                }
            });
        }
        errors.iter().map(|stretches| stretches.iter().map(Errors::scores).collect()).collect()
    }
}

/// The squared error over all stretches, and of how many values it is; `None` of none.
fn mean(stretches: &[Scores]) -> Option<(f64, u64)> {
    let count: u64 = stretches.iter().map(|scores| scores.count).sum();
    let square: f64 = stretches.iter().filter(|s| s.count > 0).map(|scores| scores.mse * scores.count as f64).sum();
    (count > 0).then(|| (square / count as f64, count))
}
