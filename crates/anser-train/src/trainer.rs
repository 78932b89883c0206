//! The loop: batches in, a better model out, and everything kept that a stopped run needs to go on to the bit.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anser_kernels::optimizer::AdamW;
use anser_nn::gradients::Gradients;
use anser_nn::model::LanguageModel;
use anser_nn::op::cross_entropy::Targets;
use anser_nn::task::language::{self, Packed, Plan};
use anser_nn::threads;

use crate::Error;
use crate::data::Batch;
use crate::groups::{Architecture, group};
use crate::metrics::Entry;
use crate::optimizer::{Optimizer, norm, not_finite};
use crate::schedule::Schedule;
use crate::snapshot::{self, Progress};

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What is trained: decides the parameter groups.
    pub architecture: Architecture,
    /// Decays and bonuses learn faster, as in the official trainers.
    pub layerwise: bool,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Micro-batches a step.
    pub accumulate: u64,
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
    /// Factor of L2Wrap; 0 for none.
    pub l2_wrap: f32,
    /// How gradients are computed.
    pub plan: Plan,
    /// Parts of a batch that run on threads of their own.
    pub shards: usize,
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

/// Where batches come from.
pub trait Data {
    /// Micro-batch number `index`: a pure function of it.
    ///
    /// # Errors
    /// Whatever the source has to say.
    fn batch(&self, index: u64) -> Result<Batch, Error>;

    /// The batches that a held-out loss is the mean of; none for no evaluation.
    ///
    /// # Errors
    /// Whatever the source has to say.
    fn evaluation(&self) -> Result<Vec<Batch>, Error>;
}

/// A run: the model, what the optimiser remembers, where it stands.
pub struct Trainer {
    /// Away only while the optimiser changes it: a model whose buffers nobody shares changes in place.
    model: Option<LanguageModel>,
    /// Moments.
    pub optimizer: Optimizer,
    /// Where it stands.
    pub progress: Progress,
}

/// A batch as the model takes it, its weights part of a mean over `denominator`.
fn packed(batch: Batch, denominator: f64, l2_wrap: f32) -> Packed {
    Packed {
        tokens: batch.tokens.into(),
        cu_seqlens: batch.cu_seqlens.into(),
        targets: Targets {
            tokens: batch.targets.into(),
            weights: batch.weights.into(),
            denominator: denominator as f32,
            l2_wrap,
        },
    }
}

impl Trainer {
    /// A run at its beginning.
    pub fn new(model: LanguageModel) -> Trainer {
        Trainer { model: Some(model), optimizer: Optimizer::default(), progress: Progress::default() }
    }

    /// A run where a snapshot left it; `model` has the snapshot's weights.
    pub fn resume(model: LanguageModel, optimizer: Optimizer, progress: Progress) -> Trainer {
        Trainer { model: Some(model), optimizer, progress }
    }

    /// The model.
    pub fn model(&self) -> &LanguageModel {
        self.model.as_ref().expect("the model is away only inside a step")
    }

    /// Trains until `recipe.steps` steps are done, or `stop` is set (looked at after every step: the step in progress is
    /// finished and a snapshot written).
    ///
    /// # Errors
    /// [`Error::NotFinite`] at the first loss or gradient norm that is no number, with nothing changed by that step; or
    /// what `data`, writing a snapshot, or `tell` return.
    pub fn run(
        &mut self,
        recipe: &Recipe,
        data: &dyn Data,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&Event) -> Result<(), Error>,
    ) -> Result<End, Error> {
        while self.progress.step < recipe.steps {
            let report = self.step(recipe, data)?;
            tell(&Event::Metric(report))?;
            let last = self.progress.step == recipe.steps;
            let stopped = stop.load(Ordering::Relaxed);
            let due = |every: u64| every > 0 && self.progress.step.is_multiple_of(every);
            let (eval, save) = (due(recipe.eval_every), due(recipe.save_every));
            // Also when asked to stop: a run that goes on must have measured what an uninterrupted one has.
            if last || eval {
                let batches = data.evaluation()?;
                if !batches.is_empty() {
                    let (loss, targets) = evaluate(self.model(), batches);
                    let Progress { step, tokens, seconds, best, .. } = self.progress;
                    tell(&Event::Metric(Entry::Eval { step, tokens, loss, targets, seconds }))?;
                    let better = best.is_none_or(|best| loss < best);
                    if better {
                        self.progress.best = Some(loss);
                    }
                    self.progress.worse = if better { 0 } else { self.progress.worse + 1 };
                }
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
    pub fn step(&mut self, recipe: &Recipe, data: &dyn Data) -> Result<Entry, Error> {
        let began = Instant::now();
        let first = self.progress.step * recipe.accumulate;
        let batches = (first..first + recipe.accumulate).map(|i| data.batch(i)).collect::<Result<Vec<_>, _>>()?;
        let denominator = batches.iter().map(Batch::weight).sum::<f64>().max(1.0);
        let rows: u64 = batches.iter().map(|batch| batch.tokens.len() as u64).sum();
        let (mut loss, mut gradients) = (0.0, Gradients::default());
        for batch in batches {
            let batch = packed(batch, denominator, recipe.l2_wrap);
            for step in self.shards(&batch, recipe) {
                loss += step.loss;
                gradients.add(step.gradients);
            }
        }
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
        let group = |name: &str, shape: &[usize]| group(recipe.architecture, name, shape, recipe.layerwise);
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

    /// The gradients of a batch, computed whole or in shards on threads of their own; in order.
    fn shards(&self, batch: &Packed, recipe: &Recipe) -> Vec<language::Step> {
        let sequences = batch.cu_seqlens.len() - 1;
        let shards = recipe.shards.clamp(1, sequences.max(1));
        if shards == 1 {
            return vec![language::gradients(self.model(), batch, &recipe.plan)];
        }
        let mut cuts: Vec<usize> = (0..=shards)
            .map(|i| {
                let row = batch.tokens.len() * i / shards;
                batch.cu_seqlens.partition_point(|&end| end < row).min(sequences)
            })
            .collect();
        cuts.dedup();
        std::thread::scope(|scope| {
            let running: Vec<_> = cuts
                .windows(2)
                .map(|cut| {
                    let (part, model) = (batch.sequences(cut[0]..cut[1]), self.model().fork());
                    scope.spawn(move || threads::inline(|| language::gradients(&model, &part, &recipe.plan)))
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(step) => step,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            running.into_iter().map(join).collect()
        })
    }
}

/// Tokens of a sequence that an evaluation looks at in one go.
const EVAL_PIECE: usize = 1024;

/// Mean cross-entropy in nats over the targets that count, and how many those are.
pub fn evaluate(model: &LanguageModel, batches: Vec<Batch>) -> (f64, u64) {
    let (mut sum, mut targets) = (0.0, 0.0);
    for batch in batches {
        targets += batch.weight();
        sum += language::evaluate(model, &packed(batch, 1.0, 0.0), EVAL_PIECE);
    }
    (sum / f64::max(targets, 1.0), targets as u64)
}
