//! A forecaster fitted to a series: the closed form first, then the blocks on top of it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use anser_nn::gradients::Trainable;
use anser_nn::model::series::SeriesModel;
use anser_series::linear::Linear;
use anser_series::split::{Split, origins};

use super::choice::Choice;
use super::initial::{Shape, initial};
use super::objective::{Method, NextPatch};
use super::{Error, Scaled};
use crate::schedule::{Curve, Schedule};
use crate::trainer::{End, Event, Recipe, Trainer};

/// The ridge of the closed form: hardly matters (within a per mille on ETT from 1 to 100).
pub const LAMBDA: f64 = 8.0;

/// How a forecaster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its sizes.
    pub shape: Shape,
    /// How it learns.
    pub method: Method,
    /// How far ahead the error is measured that decides which step is kept; what exceeds the output is rolled on.
    pub horizon: usize,
    /// Optimiser steps.
    pub steps: u64,
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Decay of matrices.
    pub weight_decay: f64,
    /// Steps between two held-out measurements.
    pub eval_every: u64,
    /// Measurements in a row without a better one after which it ends.
    pub patience: Option<u64>,
}

impl Plan {
    /// The recipe of the optimiser.
    pub fn recipe(&self) -> Recipe {
        let schedule = Schedule {
            curve: Curve::Cosine,
            lr: self.lr,
            lr_final: self.lr / 20.0,
            warmup: 20.min(self.steps),
            total: self.steps,
            decay_fraction: 0.2,
        };
        Recipe {
            steps: self.steps,
            schedule,
            betas: (0.9, 0.99),
            eps: 1e-8,
            weight_decay: self.weight_decay,
            clip: Some(1.0),
            eval_every: self.eval_every,
            save_every: 0,
            keep: 1,
            snapshots: None,
            patience: self.patience,
        }
    }
}

/// The closed form on the rows to learn from, for this look-back and horizon; told the steps done and all steps.
///
/// # Errors
/// [`anser_series::Error::Singular`], or [`anser_series::Error::TooShort`] where no window fits.
pub fn closed_form(
    data: &Scaled,
    split: &Split,
    look_back: usize,
    horizon: usize,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Linear, Error> {
    let origins = origins(&split.train, look_back, horizon);
    if origins.is_empty() {
        let (needed, found) = (look_back + horizon, split.train.len());
        let what = format!("learning from windows of {look_back} rows what the next {horizon} are");
        return Err(anser_series::Error::TooShort { file: "the rows to learn from".into(), what, needed, found }.into());
    }
    Ok(Linear::fit(&data.values(), data.width(), origins, look_back, horizon, LAMBDA, tell)?)
}

/// A fitted model.
pub struct Fitted {
    /// The one with the smallest held-out error among those that are, in no quarter of the rows to choose by, worse than
    /// the model training began with; outside of any graph.
    pub model: SeriesModel,
    /// That error: mean square in units of the columns' deviations, over the horizon.
    pub held_out: Option<f64>,
    /// Steps done.
    pub steps: u64,
    /// Seconds spent in them.
    pub seconds: f64,
    /// Why it ended.
    pub end: End,
}

/// Fits a model on the rows to learn from; the rows to choose by decide which of its steps is kept, by its error over the
/// plan's horizon. Rows to be tested on are not looked at. `linear` is where its linear path begins, if it has one.
///
/// # Errors
/// [`anser_series::Error::TooShort`] where no window fits; [`Error::NotFinite`]; what `tell` returns.
pub fn fit(
    data: &Scaled,
    split: &Split,
    plan: &Plan,
    linear: Option<&Linear>,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Event) -> Result<(), Error>,
) -> Result<Fitted, Error> {
    let [fitted] = fit_each(data, split, plan, [plan.horizon], linear, stop, tell)?;
    Ok(fitted)
}

/// The same for several horizons: one training, of which every horizon keeps its own step.
///
/// # Errors
/// As [`fit`].
pub fn fit_each<const N: usize>(
    data: &Scaled,
    split: &Split,
    plan: &Plan,
    horizons: [usize; N],
    linear: Option<&Linear>,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Event) -> Result<(), Error>,
) -> Result<[Fitted; N], Error> {
    let model = initial(&plan.shape.sizes()?, linear, plan.method.seed)?;
    let mut kept = BTreeMap::new();
    let mut keep = |horizon: usize, model: &SeriesModel| {
        kept.insert(horizon, model.clone());
        Ok(())
    };
    let choice =
        Choice::new(data, &split.validation, plan.method.look_back, &horizons, plan.method.eval_windows, &mut keep);
    let output = plan.shape.output;
    let objective = NextPatch::new(data, &plan.method, output, &split.train, choice);
    if objective.windows() == 0 {
        let (needed, found) = (plan.method.look_back + output, split.train.len());
        let what = format!("learning from windows of {} rows what the next {output} are", plan.method.look_back);
        return Err(anser_series::Error::TooShort { file: "the rows to learn from".into(), what, needed, found }.into());
    }
    let mut trainer = Trainer::new(model);
    objective.choice().begin(&trainer.model().without_graph(), None)?;
    trainer.progress.best = objective.choice().best();
    let end = trainer.run(&plan.recipe(), &objective, stop, tell)?;
    let held_out = horizons.map(|horizon| objective.choice().best_for(horizon));
    drop(objective);
    Ok(std::array::from_fn(|i| Fitted {
        model: kept.get(&horizons[i]).cloned().unwrap_or_else(|| trainer.model().without_graph()),
        held_out: held_out[i],
        steps: trainer.progress.step,
        seconds: trainer.progress.seconds,
        end,
    }))
}

/// The parameters of a model by name.
pub fn tensors(model: &impl Trainable) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut tensors = Vec::new();
    model.read(|name, shape, values| tensors.push((name.to_string(), shape.to_vec(), values.to_vec())));
    tensors
}
