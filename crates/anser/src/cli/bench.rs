//! `anser bench`: tokens a second, memory and time to the first token, on a model or on random weights of a known size;
//! and the speed of training.

#[cfg(feature = "train")]
mod train;

use std::sync::Arc;
use std::time::Instant;

use anser::demo;
use anser_engine::sampling::greatest;
use anser_engine::{
    Batch, Executor, InputBits, LoadOptions, Logits, Model, Placement, Recipe, Source, State, Synthetic, load,
};
use anser_kernels::simd;
use anyhow::Result;
use serde::Serialize;

use super::error::{Interrupted, usage};
use super::model::{ModelArgs, parse_inputs, parse_recipe, pin};
use super::output::{self, Interrupt, Spinner};
use super::since_start_ms;

/// Measure speed and memory
#[derive(clap::Args)]
#[command(after_help = "\
Each round reads a prompt, decodes one sequence, and decodes several side by side; figures are
the median and the maximum of the rounds. Token choice is greedy and part of the measurement.

Examples:
  anser bench --synthetic 0.1b --dtype bf16 --threads 2
  anser bench model.pth --prefill 512 --decode 64 --batch 16 --repeat 5 --json
  anser bench --train --layers 12 --width 256 --repeat 5")]
pub(crate) struct Args {
    /// A checkpoint: .pth, .safetensors, .gguf, .anser, a Hugging Face directory, or hf:owner/repo[/file] [default: demo, the built-in one]
    #[arg(conflicts_with = "synthetic")]
    model: Option<String>,

    /// RWKV-7 of this size with random weights: 0.1b, 0.4b or 1.5b
    #[arg(long, value_name = "SIZE", value_parser = ["0.1b", "0.4b", "1.5b"], hide_possible_values = true)]
    synthetic: Option<String>,

    /// Storage of the matrices: f32, bf16, f16, int8 or int4 [default: as in the checkpoint; bf16 for --synthetic]
    #[arg(long, value_name = "TYPE", value_parser = parse_recipe)]
    dtype: Option<Recipe>,

    /// Bits of what quantised and bf16 matrices are multiplied with [default: the fewest there are, 8 and 16]
    #[arg(long, value_name = "8|16|32", value_parser = parse_inputs)]
    activations: Option<InputBits>,

    /// Copy a packed file into huge pages instead of mapping it
    #[arg(long)]
    copy_weights: bool,

    /// Number of threads [default: one a core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,

    /// Bind every thread to a core of its own (Linux), for machines that nobody else uses
    #[arg(long)]
    pin_threads: bool,

    /// Prompt tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = counted())]
    prefill: u32,

    /// Tokens decoded
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = counted())]
    decode: u32,

    /// Sequences decoded side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = counted())]
    batch: u32,

    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = counted())]
    repeat: u32,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[cfg(feature = "train")]
    #[command(flatten)]
    train: train::TrainArgs,
}

fn counted() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}

#[derive(Serialize)]
struct Report {
    model: String,
    version: String,
    parameters: u64,
    storage: String,
    weight_bytes: usize,
    threads: usize,
    prefill: u32,
    decode: u32,
    batch: u32,
    repeat: u32,
    prefill_tok_s: f64,
    prefill_tok_s_max: f64,
    decode_tok_s: f64,
    decode_tok_s_max: f64,
    batch_tok_s: f64,
    batch_tok_s_max: f64,
    /// Most memory the process ever held; absent where the system does not tell.
    peak_rss_bytes: Option<u64>,
    /// From the program's start to the first token after a prompt of one token.
    start_ms: f64,
    machine: Machine,
    commit: &'static str,
    anser: &'static str,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    simd: String,
    os: &'static str,
}

pub(crate) fn run(args: Args) -> Result<()> {
    #[cfg(feature = "train")]
    if args.train.train {
        return train::run(&args.train, args.threads, args.repeat, args.json);
    }
    let interrupt = Interrupt::listen()?;
    let (name, source, recipe): (String, Arc<dyn Source>, _) = match (&args.model, &args.synthetic) {
        (_, Some(size)) => {
            let synthetic =
                Synthetic::preset(size).ok_or_else(|| usage(format!("no size {size}"), "take 0.1b, 0.4b or 1.5b"))?;
            (format!("synthetic {size}"), Arc::new(synthetic), Some(args.dtype.unwrap_or(Recipe::BF16)))
        }
        (name, None) => {
            let checkpoint = ModelArgs::named(name.clone()).open()?;
            (name.clone().unwrap_or_else(|| demo::NAME.to_string()), checkpoint, args.dtype)
        }
    };
    let spinner = Spinner::new(format!("loading {name}"));
    let mut exec = Executor::new(args.threads);
    let placement = if args.copy_weights { Placement::Copied } else { Placement::Mapped };
    let model = load(
        source,
        &exec,
        &LoadOptions { recipe, placement, inputs: args.activations.unwrap_or(LoadOptions::default().inputs) },
    )?;
    drop(spinner);
    if args.pin_threads {
        pin(&exec)?;
    }
    let mut bench = Bench { model: model.as_ref(), exec: &mut exec, logits: Vec::new() };
    bench.decode(&mut [bench.model.new_state()], 1)?;
    let start_ms = since_start_ms();

    let spinner = Spinner::new(format!("measuring {name}"));
    let (mut prefill, mut decode, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let mut state = bench.model.new_state();
        prefill.push(bench.prefill(&mut state, args.prefill)?);
        let mut states = vec![state.clone(); args.batch as usize];
        decode.push(bench.decode(std::slice::from_mut(&mut state), args.decode)?);
        batch.push(bench.decode(&mut states, args.decode)?);
        if interrupt.requested() {
            return Err(Interrupted.into());
        }
    }
    drop(spinner);

    let config = model.config();
    let report = Report {
        model: name,
        version: config.version.to_string(),
        parameters: config.parameters(),
        storage: model.storage().to_string(),
        weight_bytes: model.weight_bytes(),
        threads: exec.threads(),
        prefill: args.prefill,
        decode: args.decode,
        batch: args.batch,
        repeat: args.repeat,
        prefill_tok_s: median(&mut prefill),
        prefill_tok_s_max: max(&prefill),
        decode_tok_s: median(&mut decode),
        decode_tok_s_max: max(&decode),
        batch_tok_s: median(&mut batch),
        batch_tok_s_max: max(&batch),
        peak_rss_bytes: peak_rss_bytes(),
        start_ms,
        machine: machine(),
        commit: env!("ANSER_COMMIT"),
        anser: env!("CARGO_PKG_VERSION"),
    };
    if args.json { output::json(&report) } else { output::text(&describe(&report)) }
}

struct Bench<'a> {
    model: &'a dyn Model,
    exec: &'a mut Executor,
    logits: Vec<f32>,
}

impl Bench<'_> {
    /// Reads `count` tokens; returns tokens a second.
    fn prefill(&mut self, state: &mut State, count: u32) -> Result<f64> {
        let vocab = self.model.config().vocab as u32;
        let prompt: Vec<u32> = (0..count).map(|i| i.wrapping_mul(7919).wrapping_add(17) % vocab).collect();
        let started = Instant::now();
        anser_engine::prefill(self.model, self.exec, &[&prompt], &mut [state], &mut self.logits, &mut |_| {})?;
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    }

    /// Decodes `count` tokens of every sequence, each the most probable; returns tokens a second over all sequences.
    fn decode(&mut self, states: &mut [State], count: u32) -> Result<f64> {
        let vocab = self.model.config().vocab;
        let mut tokens: Vec<u32> = (0..states.len()).map(|i| (i % vocab) as u32).collect();
        let borders: Vec<usize> = (0..=states.len()).collect();
        let started = Instant::now();
        for _ in 0..count {
            let batch = Batch { tokens: &tokens, cu_seqlens: &borders, logits: Logits::Last };
            let mut states: Vec<&mut State> = states.iter_mut().collect();
            self.model.forward(self.exec, &batch, &mut states, &mut self.logits)?;
            for (token, row) in tokens.iter_mut().zip(self.logits.chunks_exact(vocab)) {
                *token = greatest(row) as u32;
            }
        }
        Ok(f64::from(count) * states.len() as f64 / started.elapsed().as_secs_f64())
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// `VmHWM` of Linux.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn machine() -> Machine {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    Machine {
        cpu: cpu.unwrap_or(std::env::consts::ARCH).to_string(),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
        simd: simd::level().to_string(),
        os: std::env::consts::OS,
    }
}

fn describe(report: &Report) -> String {
    let rate = |name: &str, median: f64, max: f64| format!("{name:<10} {median:>10.1} tok/s  (max {max:.1})\n");
    let memory = report.peak_rss_bytes.map_or("unknown".to_string(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
    format!(
        "{}: RWKV-{}, {:.1} M parameters in {}, {} threads, {} ({})\n",
        report.model,
        report.version,
        report.parameters as f64 / 1e6,
        report.storage,
        report.threads,
        report.machine.cpu,
        report.machine.simd,
    ) + &rate(&format!("prefill {}", report.prefill), report.prefill_tok_s, report.prefill_tok_s_max)
        + &rate(&format!("decode {}", report.decode), report.decode_tok_s, report.decode_tok_s_max)
        + &rate(&format!("batch {}", report.batch), report.batch_tok_s, report.batch_tok_s_max)
        + &format!("peak memory {memory}, first token after {:.0} ms\n", report.start_ms)
}
