//! Language modelling as an objective: batches of tokens, their gradients, the held-out loss.

use anser_nn::model::LanguageModel;
use anser_nn::op::cross_entropy::Targets;
use anser_nn::task::Step;
use anser_nn::task::language::{self, Packed, Plan};

use crate::Error;
use crate::data::Batch;
use crate::groups::{Architecture, Group, group};
use crate::trainer::{Objective, Outcome, forked};

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
    fn evaluation(&self) -> Result<Vec<Batch>, Error> {
        Ok(Vec::new())
    }
}

/// How the next token is learned.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// What is trained: decides the parameter groups.
    pub architecture: Architecture,
    /// Decays and bonuses learn faster, as in the official trainers.
    pub layerwise: bool,
    /// Micro-batches a step.
    pub accumulate: u64,
    /// Factor of L2Wrap; 0 for none.
    pub l2_wrap: f32,
    /// How gradients are computed.
    pub plan: Plan,
    /// Parts of a batch that run on threads of their own.
    pub shards: usize,
}

impl Method {
    /// Whole batches, one a step, layer-wise rates, no L2Wrap.
    pub fn new(architecture: Architecture) -> Method {
        Method { architecture, layerwise: true, accumulate: 1, l2_wrap: 0.0, plan: Plan::default(), shards: 1 }
    }

    /// The objective on this data.
    pub fn on<'a>(&self, data: &'a dyn Data) -> NextToken<'a> {
        NextToken { method: *self, data }
    }
}

/// The next token's cross-entropy.
pub struct NextToken<'a> {
    method: Method,
    data: &'a dyn Data,
}

impl Objective<LanguageModel> for NextToken<'_> {
    fn step(&self, model: &LanguageModel, step: u64) -> Result<Outcome, Error> {
        let Method { accumulate, l2_wrap, .. } = self.method;
        let first = step * accumulate;
        let batches = (first..first + accumulate).map(|i| self.data.batch(i)).collect::<Result<Vec<_>, _>>()?;
        let denominator = batches.iter().map(Batch::weight).sum::<f64>().max(1.0);
        let mut outcome =
            Outcome { tokens: batches.iter().map(|batch| batch.tokens.len() as u64).sum(), ..Outcome::default() };
        for batch in batches {
            let batch = packed(batch, denominator, l2_wrap);
            shards(model, &batch, &self.method).into_iter().for_each(|part| outcome.add(part));
        }
        Ok(outcome)
    }

    fn evaluate(&self, model: &LanguageModel) -> Result<Option<(f64, u64)>, Error> {
        let batches = self.data.evaluation()?;
        Ok((!batches.is_empty()).then(|| evaluate(model, batches)))
    }

    fn group(&self, name: &str, shape: &[usize]) -> Group {
        group(self.method.architecture, name, shape, self.method.layerwise)
    }
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

/// The gradients of a batch, computed whole or in shards on threads of their own; in order.
fn shards(model: &LanguageModel, batch: &Packed, method: &Method) -> Vec<Step> {
    let sequences = batch.cu_seqlens.len() - 1;
    let shards = method.shards.clamp(1, sequences.max(1));
    if shards == 1 {
        return vec![language::gradients(model, batch, &method.plan)];
    }
    let mut cuts: Vec<usize> = (0..=shards)
        .map(|i| {
            let row = batch.tokens.len() * i / shards;
            batch.cu_seqlens.partition_point(|&end| end < row).min(sequences)
        })
        .collect();
    cuts.dedup();
    let parts = cuts.windows(2).map(|cut| (model.fork(), batch.sequences(cut[0]..cut[1]))).collect();
    forked(parts, |model, part| language::gradients(model, part, &method.plan))
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
