//! `anser bench --train`: a whole training step, optimiser included, on random weights and tokens.

use std::time::Instant;

use anser_train::Error;
use anser_train::data::Batch;
use anser_train::groups::Architecture;
use anser_train::language::{Data, Method};
use anser_train::metrics::Entry;
use anser_train::random::Random;
use anser_train::schedule::{Curve, Schedule};
use anser_train::session::{initial, sizes};
use anser_train::trainer::{Recipe, Trainer};
use anyhow::Result;
use serde::Serialize;

use super::{Machine, machine, median, peak_rss_bytes};
use crate::cli::output::{self, Spinner};

/// What is trained.
#[derive(clap::Args)]
pub(super) struct TrainArgs {
    /// Measure training steps of a new model instead: forward, backward, AdamW
    #[arg(long, conflicts_with_all = ["model", "synthetic", "dtype", "prefill", "decode"], help_heading = "Training")]
    pub(super) train: bool,

    /// v4, v5.2, v6, v7 or transformer
    #[arg(long, value_name = "VERSION", default_value = "v7", requires = "train", help_heading = "Training")]
    architecture: Architecture,

    /// Blocks
    #[arg(long, value_name = "N", default_value_t = 12, requires = "train", help_heading = "Training")]
    layers: usize,

    /// Channels
    #[arg(long, value_name = "N", default_value_t = 256, requires = "train", help_heading = "Training")]
    width: usize,

    /// Tokens of the vocabulary
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "train", help_heading = "Training")]
    vocab: usize,

    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 512, requires = "train", help_heading = "Training")]
    context: usize,

    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 4, requires = "train", help_heading = "Training")]
    rows: usize,
}

#[derive(Serialize)]
struct Report {
    architecture: String,
    layers: usize,
    width: usize,
    vocab: usize,
    context: usize,
    rows: usize,
    parameters: usize,
    threads: usize,
    steps: u32,
    train_tok_s: f64,
    train_tok_s_max: f64,
    peak_rss_bytes: Option<u64>,
    machine: Machine,
    commit: &'static str,
    anser: &'static str,
}

struct Noise<'a>(&'a TrainArgs);

impl Data for Noise<'_> {
    fn batch(&self, index: u64) -> Result<Batch, Error> {
        let (context, rows) = (self.0.context, self.0.rows);
        let mut random = Random::new(1, "bench", index);
        let mut draw = || (0..context * rows).map(|_| random.below(self.0.vocab as u64) as u32).collect();
        Ok(Batch {
            tokens: draw(),
            targets: draw(),
            weights: vec![1.0; context * rows],
            cu_seqlens: (0..=rows).map(|row| row * context).collect(),
        })
    }
}

/// `steps` steps after one to warm up.
pub(super) fn run(args: &TrainArgs, threads: usize, steps: u32, json: bool) -> Result<()> {
    crate::cli::train::keep_memory();
    let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { threads };
    anser_nn::threads::set_threads(threads);
    let spinner = Spinner::new("training on noise".into());
    let sizes = sizes(args.architecture, args.vocab, args.layers, args.width, None, None)?;
    let mut trainer = Trainer::new(initial(&sizes, 1)?);
    let lr = 1e-4;
    let recipe = Recipe {
        steps: 0,
        schedule: Schedule { curve: Curve::Constant, lr, lr_final: lr, warmup: 0, total: 1, decay_fraction: 0.5 },
        betas: (0.9, 0.99),
        eps: 1e-8,
        weight_decay: 0.1,
        clip: Some(1.0),
        eval_every: 0,
        save_every: 0,
        keep: 1,
        snapshots: None,
        patience: None,
    };
    let data = Noise(args);
    let objective = Method { l2_wrap: 1e-4, ..Method::new(args.architecture) }.on(&data);
    trainer.step(&recipe, &objective)?;
    let mut rates = Vec::new();
    for _ in 0..steps {
        let began = Instant::now();
        if let Entry::Step { .. } = trainer.step(&recipe, &objective)? {
            rates.push((args.context * args.rows) as f64 / began.elapsed().as_secs_f64());
        }
    }
    drop(spinner);
    let report = Report {
        architecture: args.architecture.to_string(),
        layers: args.layers,
        width: args.width,
        vocab: args.vocab,
        context: args.context,
        rows: args.rows,
        parameters: trainer.model().parameters(),
        threads,
        steps,
        train_tok_s_max: super::max(&rates),
        train_tok_s: median(&mut rates),
        peak_rss_bytes: peak_rss_bytes(),
        machine: machine(),
        commit: env!("ANSER_COMMIT"),
        anser: env!("CARGO_PKG_VERSION"),
    };
    if json {
        return output::json(&report);
    }
    let memory = report.peak_rss_bytes.map_or("unknown".to_string(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
    output::text(&format!(
        "{}: {} x {}, vocabulary {}, {:.1} M parameters, {} threads, {} ({})\n\
         train {} x {} {:>10.1} tok/s  (max {:.1})\npeak memory {memory}\n",
        report.architecture,
        report.layers,
        report.width,
        report.vocab,
        report.parameters as f64 / 1e6,
        report.threads,
        report.machine.cpu,
        report.machine.simd,
        report.rows,
        report.context,
        report.train_tok_s,
        report.train_tok_s_max,
    ))
}
