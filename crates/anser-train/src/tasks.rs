//! Generated tasks, each asking for one ability of a model's state.
//!
//! Every example is a sequence of [`Task::length`] tokens, a pure function of (seed, split, number of the example): a
//! resumed run sees the same ones, and more rows a batch only mean more of them at once.

mod copy;
mod flag;
mod mqar;
mod parity;
mod words;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::data::Batch;
use crate::random::Random;
pub use words::Group;

/// A task and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Task {
    /// Is the number of ones so far odd? Tokens 0 and 1, uniform; the target at every position is the parity of all
    /// tokens up to and including it.
    Parity {
        /// Bits a sequence.
        length: usize,
    },
    /// The word problem of a group of permutations: tokens are elements, drawn uniformly; the target at every position
    /// is the product of all elements up to and including it.
    ///
    /// Permutations act one after the other: the product p is p₀ = identity, pₜ(x) = gₜ(pₜ₋₁(x)). Elements are numbered
    /// in lexicographic order of (g(0), ..., g(4)), the identity is 0.
    Words {
        /// Which group.
        group: Group,
        /// Elements a sequence.
        length: usize,
    },
    /// Multi-query associative recall: pairs of a key and a value, then, among random tokens, each key once more; the
    /// target at that place is its value, and nothing else counts.
    ///
    /// Keys are below half the vocabulary, values in the upper half, both different from each other within a sequence.
    /// Queries stand in every second place at most; the distance g (in such places) of each from the pairs is drawn with
    /// probability ∝ (g+1)^(power-1), all different.
    Mqar {
        /// Tokens there are: even and more than `length`.
        vocab: usize,
        /// Tokens a sequence: even, at least `2 · pairs · (passes + 1)`.
        length: usize,
        /// Pairs of a key and a value.
        pairs: usize,
        /// How near the queries are: small values crowd them after the pairs, 1 spreads them evenly. Usually 0.01.
        #[serde(default = "usual_power")]
        power: f64,
        /// How often the pairs are shown. Usually once.
        #[serde(default = "once")]
        passes: usize,
    },
    /// Say it again: `count` random symbols, a mark, and from there on the same symbols are the targets, each being read
    /// once it has been asked for. Symbols are 0 to `symbols - 1`, the mark is `symbols`.
    Copy {
        /// Different symbols.
        symbols: usize,
        /// Symbols to keep.
        count: usize,
    },
    /// Keep one value while nothing happens: a flag, `distance` tokens of noise, a question, whose target is the flag.
    /// Flags are 0 to `values - 1`, noise is the next `noise` tokens, the question is the last one.
    Flag {
        /// Different flags.
        values: usize,
        /// Different tokens of noise.
        noise: usize,
        /// Tokens between the flag and the question.
        distance: usize,
    },
}

fn usual_power() -> f64 {
    0.01
}

fn once() -> usize {
    1
}

/// Which examples: the two have none in common but by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To be asked.
    Test,
}

/// Longest sequence and largest vocabulary.
const MAX: usize = 1 << 24;

impl Task {
    /// `parity`, `words`, `mqar`, `copy` or `flag`.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Parity { .. } => "parity",
            Task::Words { .. } => "words",
            Task::Mqar { .. } => "mqar",
            Task::Copy { .. } => "copy",
            Task::Flag { .. } => "flag",
        }
    }

    /// Tokens and targets are below this.
    pub fn vocab(&self) -> usize {
        match *self {
            Task::Parity { .. } => 2,
            Task::Words { group, .. } => group.order(),
            Task::Mqar { vocab, .. } => vocab,
            Task::Copy { symbols, .. } => symbols.saturating_add(1),
            Task::Flag { values, noise, .. } => values.saturating_add(noise).saturating_add(1),
        }
    }

    /// Tokens a sequence.
    pub fn length(&self) -> usize {
        match *self {
            Task::Parity { length } | Task::Words { length, .. } | Task::Mqar { length, .. } => length,
            Task::Copy { count, .. } => count.saturating_mul(2),
            Task::Flag { distance, .. } => distance.saturating_add(2),
        }
    }

    /// Fails if the sizes do not make a task.
    pub fn check(&self) -> Result<(), Error> {
        at_least("length", self.length(), 1)?;
        at_most("length", self.length(), MAX)?;
        at_most("vocab", self.vocab(), MAX)?;
        match *self {
            Task::Parity { .. } | Task::Words { .. } => Ok(()),
            Task::Mqar { vocab, length, pairs, power, passes } => mqar::check(vocab, length, pairs, power, passes),
            Task::Copy { symbols, .. } => at_least("symbols", symbols, 1),
            Task::Flag { values, noise, .. } => at_least("values", values, 1).and(at_least("noise", noise, 1)),
        }
    }

    /// The batch of step `step`, counted from 0: examples `step·rows` to `step·rows + rows - 1`, a sequence each.
    ///
    /// # Errors
    /// Those of [`check`](Task::check).
    pub fn batch(&self, seed: u64, split: Split, step: u64, rows: usize) -> Result<Batch, Error> {
        self.check()?;
        let purpose = match split {
            Split::Train => format!("task {}: train", self.name()),
            Split::Test => format!("task {}: test", self.name()),
        };
        let mut batch = Batch::new();
        for row in 0..rows as u64 {
            let random = &mut Random::new(seed, &purpose, step.wrapping_mul(rows as u64).wrapping_add(row));
            match *self {
                Task::Parity { length } => parity::example(length, random, &mut batch),
                Task::Words { group, length } => words::example(group, length, random, &mut batch),
                Task::Mqar { vocab, length, pairs, power, passes } => {
                    mqar::example(vocab, length, pairs, power, passes, random, &mut batch);
                }
                Task::Copy { symbols, count } => copy::example(symbols, count, random, &mut batch),
                Task::Flag { values, noise, distance } => flag::example(values, noise, distance, random, &mut batch),
            }
            batch.end_sequence();
        }
        Ok(batch)
    }
}

/// Appends a token and what it is to be answered with, if anything.
fn push(batch: &mut Batch, token: u64, target: Option<u64>) {
    batch.tokens.push(token as u32);
    batch.targets.push(target.unwrap_or(0) as u32);
    batch.weights.push(if target.is_some() { 1.0 } else { 0.0 });
}

fn at_least(name: &'static str, value: usize, least: usize) -> Result<(), Error> {
    match value {
        _ if value >= least => Ok(()),
        _ => Err(Error::Setting { name, found: value.to_string(), expected: format!("{least} or more") }),
    }
}

fn at_most(name: &'static str, value: usize, most: usize) -> Result<(), Error> {
    match value {
        _ if value <= most => Ok(()),
        _ => Err(Error::Setting { name, found: value.to_string(), expected: format!("at most {most}") }),
    }
}
