//! The next values after a window as an objective.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anser_nn::model::series::{Patches, SeriesModel};
use anser_nn::task::forecast::{self, Norm};
use anser_series::split::origins;

use super::Scaled;
use super::choice::Choice;
use crate::Error;
use crate::groups::{Architecture, Group, group};
use crate::random::Random;
use crate::trainer::{Objective, Outcome, forked};

/// How a forecaster learns.
#[derive(Clone, Debug)]
pub struct Method {
    /// Rows a forecast sees.
    pub look_back: usize,
    /// Windows a step.
    pub batch: usize,
    /// Learn after every patch of a window, not only after the last. What early patches are to say lies within the window
    /// whose mean and deviation they are given: more to learn from, but some of it is known.
    pub every_patch: bool,
    /// Parts of a batch that run on threads of their own.
    pub shards: usize,
    /// Decides the order of the windows.
    pub seed: u64,
    /// Windows of a held-out measurement, at most.
    pub eval_windows: usize,
}

/// The squared error of what follows a window, in units of the columns' deviations.
pub struct NextPatch<'a> {
    data: &'a Scaled,
    method: &'a Method,
    output: usize,
    learned: Range<usize>,
    choice: Mutex<Choice<'a>>,
}

impl<'a> NextPatch<'a> {
    /// Windows whose targets, `output` rows of them, lie in `learned` are learned; `choice` is offered every model that is
    /// measured.
    pub fn new(
        data: &'a Scaled,
        method: &'a Method,
        output: usize,
        learned: &Range<usize>,
        choice: Choice<'a>,
    ) -> NextPatch<'a> {
        let learned = origins(learned, method.look_back, output);
        NextPatch { data, method, output, learned, choice: Mutex::new(choice) }
    }

    /// Windows to learn from.
    pub fn windows(&self) -> usize {
        self.learned.len() * self.data.width()
    }

    /// Which models are kept.
    pub fn choice(&self) -> MutexGuard<'_, Choice<'a>> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The windows of a step: all of them in one order, and again in another.
    fn picks(&self, step: u64) -> Vec<(usize, usize)> {
        let all = self.windows();
        let batch = self.method.batch.min(all) as u64;
        let steps = (all as u64 / batch).max(1);
        let mut order: Vec<u32> = (0..all as u32).collect();
        Random::new(self.method.seed, "windows", step / steps).shuffle(&mut order);
        let first = (step % steps * batch) as usize;
        let place = |&at: &u32| (at as usize % self.data.width(), self.learned.start + at as usize / self.data.width());
        order[first..first + batch as usize].iter().map(place).collect()
    }

    /// Windows (column, origin) as the model takes them; the loss is a mean over `count` values.
    fn prepare(&self, picks: &[(usize, usize)], patch: usize, count: f32) -> forecast::Windows {
        let look_back = self.method.look_back;
        let patches = look_back / patch;
        let asked = if self.method.every_patch { 1..patches + 1 } else { patches..patches + 1 };
        let (mut values, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for &(m, origin) in picks {
            let (column, missing) = (&self.data.columns[m], &self.data.missing[m]);
            let window = &column[origin - look_back..origin];
            let norm = Norm::of(window);
            values.extend(window.iter().map(|&x| norm.apply(x)));
            for said in asked.clone() {
                let first = origin - look_back + said * patch;
                targets.extend(column[first..first + self.output].iter().map(|&x| norm.apply(x)));
                let weight = norm.deviation.powi(2) / count / asked.len() as f32;
                weights.extend(missing[first..first + self.output].iter().map(|&no| if no { 0.0 } else { weight }));
            }
        }
        let cu_seqlens: Vec<usize> = (0..=picks.len()).map(|row| row * patches).collect();
        let asked = (!self.method.every_patch).then(|| Patches::last(&cu_seqlens));
        forecast::Windows { patches: Patches { values, cu_seqlens: cu_seqlens.into(), asked }, targets, weights }
    }
}

impl Objective<SeriesModel> for NextPatch<'_> {
    fn step(&self, model: &SeriesModel, step: u64) -> Result<Outcome, Error> {
        let picks = self.picks(step);
        let patch = model.sizes().patch;
        let count = (picks.len() * self.output) as f32;
        let tokens = (picks.len() * (self.method.look_back / patch)) as u64;
        let mut outcome = Outcome { tokens, ..Outcome::default() };
        let shards = self.method.shards.clamp(1, picks.len().max(1));
        if shards == 1 {
            outcome.add(forecast::gradients(model, &self.prepare(&picks, patch, count)));
            return Ok(outcome);
        }
        let size = picks.len().div_ceil(shards);
        let parts = picks.chunks(size).map(|picks| (model.fork(), self.prepare(picks, patch, count))).collect();
        forked(parts, forecast::gradients).into_iter().for_each(|part| outcome.add(part));
        Ok(outcome)
    }

    fn evaluate(&self, model: &SeriesModel) -> Result<Option<(f64, u64)>, Error> {
        self.choice().offer(&model.without_graph())
    }

    fn group(&self, name: &str, shape: &[usize]) -> Group {
        groups(name, shape)
    }
}

/// How the optimiser treats a tensor of a forecaster: as the official trainers of RWKV-7 do. The linear path begins where
/// the closed form ends, and only has to follow the rest.
fn groups(name: &str, shape: &[usize]) -> Group {
    match name {
        "skip.weight" => Group { lr_scale: 0.05, weight_decay: false },
        _ => group(Architecture::V7, name, shape, true),
    }
}
