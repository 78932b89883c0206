//! The loop: gradients in, a better model out, and everything kept that a stopped run needs to go on to the bit.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anser_kernels::optimizer::AdamW;
use anser_nn::gradients::{Gradients, Trainable};
use anser_nn::task::Step;
use anser_nn::threads;

use crate::Error;
use crate::groups::Group;
use crate::metrics::Entry;
use crate::optimizer::{Optimizer, norm, not_finite};
use crate::schedule::Schedule;
use crate::snapshot::{self, Progress};

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Optimiser steps in all.
    pub steps: u64,
    /// The learning rate, by steps.
    pub schedule: Schedule,
    /// AdamW's betas.
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// The largest norm of all gradients together; larger ones are scaled down to it.
    pub clip: Option<f64>,
    /// Steps between evaluations; 0 for none but the last.
    pub eval_every: u64,
    /// Steps between snapshots; 0 for none but the last.
    pub save_every: u64,
    /// Snapshots kept.
    pub keep: usize,
    /// Where snapshots go; none are written without.
    pub snapshots: Option<PathBuf>,
    /// Evaluations in a row without a better loss after which the run ends.
    pub patience: Option<u64>,
}

/// What a caller is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step or an evaluation is done.
    Metric(Entry),
    /// A snapshot is written.
    Saved(PathBuf),
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Finished,
    /// Somebody asked it to stop; it can go on from its last snapshot.
    Stopped,
    /// The held-out loss no longer falls.
    Converged,
}

/// What a model of kind `M` is trained for.
pub trait Objective<M> {
    /// Loss and gradient of optimiser step number `step`, counted from 0: a pure function of model and number.
    ///
    /// # Errors
    /// Whatever the data has to say.
    fn step(&self, model: &M, step: u64) -> Result<Outcome, Error>;

    /// The loss on what is held out and how many targets it is the mean of; none for no evaluation.
    ///
    /// # Errors
    /// Whatever the data has to say.
    fn evaluate(&self, model: &M) -> Result<Option<(f64, u64)>, Error>;

    /// How the optimiser treats the tensor of this name and shape.
    fn group(&self, name: &str, shape: &[usize]) -> Group;
}

/// What an objective says of a step.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The mean loss.
    pub loss: f32,
    /// Its gradient.
    pub gradients: Gradients,
    /// Tokens looked at.
    pub tokens: u64,
}

impl Outcome {
    /// Adds the loss and gradient of a part of the step.
    pub fn add(&mut self, part: Step) {
        self.loss += part.loss;
        self.gradients.add(part.gradients);
    }
}

/// The steps of parts of a batch, each on a thread of its own with its own fork of the model; in order.
pub(crate) fn forked<M: Send, P: Send>(parts: Vec<(M, P)>, gradients: impl Fn(&M, &P) -> Step + Sync) -> Vec<Step> {
    let gradients = &gradients;
    std::thread::scope(|scope| {
        let running: Vec<_> = parts
            .into_iter()
            .map(|(model, part)| scope.spawn(move || threads::inline(|| gradients(&model, &part))))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(step) => step,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().map(join).collect()
    })
}

/// A run: the model, what the optimiser remembers, where it stands.
pub struct Trainer<M> {
    /// Away only while the optimiser changes it: a model whose buffers nobody shares changes in place.
    model: Option<M>,
    /// Moments.
    pub optimizer: Optimizer,
    /// Where it stands.
    pub progress: Progress,
}

impl<M: Trainable> Trainer<M> {
    /// A run at its beginning.
    pub fn new(model: M) -> Trainer<M> {
        Trainer { model: Some(model), optimizer: Optimizer::default(), progress: Progress::default() }
    }

    /// A run where a snapshot left it; `model` has the snapshot's weights.
    pub fn resume(model: M, optimizer: Optimizer, progress: Progress) -> Trainer<M> {
        Trainer { model: Some(model), optimizer, progress }
    }

    /// The model.
    pub fn model(&self) -> &M {
        self.model.as_ref().expect("the model is away only inside a step")
    }

    /// Trains until `recipe.steps` steps are done, or `stop` is set (looked at after every step: the step in progress is
    /// finished and a snapshot written).
    ///
    /// # Errors
    /// [`Error::NotFinite`] at the first loss or gradient norm that is no number, with nothing changed by that step; or
    /// what `objective`, writing a snapshot, or `tell` return.
    pub fn run(
        &mut self,
        recipe: &Recipe,
        objective: &dyn Objective<M>,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&Event) -> Result<(), Error>,
    ) -> Result<End, Error> {
        while self.progress.step < recipe.steps {
            let report = self.step(recipe, objective)?;
            tell(&Event::Metric(report))?;
            let last = self.progress.step == recipe.steps;
            let stopped = stop.load(Ordering::Relaxed);
            let due = |every: u64| every > 0 && self.progress.step.is_multiple_of(every);
            let (eval, save) = (due(recipe.eval_every), due(recipe.save_every));
            // Also when asked to stop: a run that goes on must have measured what an uninterrupted one has.
            if (last || eval)
                && let Some((loss, targets)) = objective.evaluate(self.model())?
            {
                let Progress { step, tokens, seconds, best, .. } = self.progress;
                tell(&Event::Metric(Entry::Eval { step, tokens, loss, targets, seconds }))?;
                let better = best.is_none_or(|best| loss < best);
                if better {
                    self.progress.best = Some(loss);
                }
                self.progress.worse = if better { 0 } else { self.progress.worse + 1 };
            }
            let converged = recipe.patience.is_some_and(|patience| self.progress.worse >= patience);
            if save || last || stopped || converged {
                self.save(recipe, tell)?;
            }
            if !last && (stopped || converged) {
                return Ok(if stopped { End::Stopped } else { End::Converged });
            }
        }
        Ok(End::Finished)
    }

    fn save(&self, recipe: &Recipe, tell: &mut dyn FnMut(&Event) -> Result<(), Error>) -> Result<(), Error> {
        if let Some(folder) = &recipe.snapshots {
            let place = snapshot::save(folder, recipe.keep, self.model(), &self.optimizer, &self.progress)?;
            tell(&Event::Saved(place))?;
        }
        Ok(())
    }

    /// One optimiser step.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn step(&mut self, recipe: &Recipe, objective: &dyn Objective<M>) -> Result<Entry, Error> {
        let began = Instant::now();
        let Outcome { loss, gradients, tokens: rows } = objective.step(self.model(), self.progress.step)?;
        let gradient_norm = norm(&gradients);
        if !loss.is_finite() || !gradient_norm.is_finite() {
            let what = not_finite(self.model(), &gradients).unwrap_or_else(|| format!("the loss is {loss}"));
            return Err(Error::NotFinite { step: self.progress.step + 1, what });
        }
        let scale = recipe.clip.map_or(1.0, |clip| (clip / (gradient_norm + 1e-6)).min(1.0));
        let lr = recipe.schedule.at(self.progress.step);
        let hyper = AdamW {
            beta1: recipe.betas.0,
            beta2: recipe.betas.1,
            eps: recipe.eps,
            weight_decay: recipe.weight_decay,
            lr,
            step: 0,
        };
        let group = |name: &str, shape: &[usize]| objective.group(name, shape);
        if let Some(model) = self.model.take() {
            self.model = Some(self.optimizer.step(model, &gradients, scale as f32, &hyper, group));
        }
        let seconds = began.elapsed().as_secs_f64();
        self.progress.step += 1;
        self.progress.tokens += rows;
        self.progress.seconds += seconds;
        Ok(Entry::Step {
            step: self.progress.step,
            tokens: self.progress.tokens,
            loss: f64::from(loss),
            lr,
            gradient_norm,
            tokens_per_second: rows as f64 / seconds.max(1e-9),
            seconds: self.progress.seconds,
        })
    }
}
