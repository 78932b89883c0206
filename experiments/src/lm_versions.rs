//! Every version and a transformer of equal size on the same text: loss at equal tokens, and what context costs.
//!
//! Claims tested: each generation learns more from the same text (the papers of RWKV-4, Eagle, Finch and Goose), and
//! speed and memory of RWKV do not depend on the context while attention's do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anser_train::groups::Architecture;
use anser_train::language::{Data, Method};
use anser_train::metrics::Entry;
use anser_train::plot::{Axis, Chart, Mark, Series};
use anser_train::session::{Session, initial, sizes};
use anser_train::settings::{Settings, TokenizerChoice};
use anser_train::trainer::{Event, Trainer};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::records::{Records, peak_bytes, recipe, spread, wanted, write};

/// Versions and a transformer of equal size on one text
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to learn from (.txt or .jsonl)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,

    /// Held-out text
    #[arg(long, value_name = "FILE")]
    valid: PathBuf,

    /// At most five minutes: one seed, small models, little text
    #[arg(long)]
    quick: bool,

    /// Only these models (may be repeated); tables show what has been run so far
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<Architecture>,

    /// Where results go
    #[arg(long, default_value = "experiments/lm-versions")]
    out: PathBuf,
}

/// One measurement of speed and memory, in a process of its own
#[derive(clap::Args)]
pub(crate) struct MeasureArgs {
    #[arg(long)]
    architecture: Architecture,
    #[arg(long)]
    layers: usize,
    #[arg(long)]
    width: usize,
    #[arg(long)]
    ffn: usize,
    #[arg(long)]
    context: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Record {
    Loss { architecture: Architecture, seed: u64, parameters: usize, curve: Vec<(u64, f64)> },
    Cost { architecture: Architecture, context: usize, tokens_per_second: f64, peak_bytes: u64 },
}

struct Scale {
    layers: usize,
    width: usize,
    seeds: u64,
    steps: u64,
    batch: usize,
    context: usize,
    contexts: &'static [usize],
}

const VOCAB: usize = 256;

/// The inner width of the channel mix that gives a model as many parameters as RWKV-7's default.
fn equal_ffn(architecture: Architecture, scale: &Scale) -> Result<usize> {
    let count = |architecture, ffn| -> Result<usize> {
        Ok(initial(&sizes(architecture, VOCAB, scale.layers, scale.width, None, ffn)?, 0)?.parameters())
    };
    let target = count(Architecture::V7, None)?;
    let step = 32;
    let (least, next) = (count(architecture, Some(step))?, count(architecture, Some(2 * step))?);
    let per_step = next.saturating_sub(least).max(1);
    Ok(step + target.saturating_sub(least).div_euclid(per_step) * step)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let scale = match args.quick {
        true => {
            Scale { layers: 2, width: 128, seeds: 1, steps: 120, batch: 8, context: 128, contexts: &[128, 512, 2048] }
        }
        false => Scale {
            layers: 2,
            width: 128,
            seeds: 3,
            steps: 800,
            batch: 8,
            context: 256,
            contexts: &[128, 512, 2048, 8192],
        },
    };
    let folder = if args.quick { args.out.join("quick") } else { args.out.clone() };
    let mut records = Records::<Record>::open(&folder)?;
    for seed in 0..scale.seeds {
        for architecture in Architecture::ALL {
            let done = |r: &Record| matches!(r, Record::Loss { architecture: a, seed: s, .. } if (*a, *s) == (architecture, seed));
            if records.all.iter().any(done) || !wanted(&args.models, architecture) {
                continue;
            }
            let record = learn(args, architecture, seed, &scale)?;
            if let Record::Loss { curve, .. } = &record {
                eprintln!("{architecture} seed {seed}: {:.4} nats a byte", curve.last().map_or(f64::NAN, |p| p.1));
            }
            records.push(record)?;
        }
    }
    for &context in scale.contexts {
        for architecture in Architecture::ALL {
            let done = |r: &Record| matches!(r, Record::Cost { architecture: a, context: c, .. } if (*a, *c) == (architecture, context));
            if !records.all.iter().any(done) && wanted(&args.models, architecture) {
                records.push(cost(architecture, context, &scale)?)?;
            }
        }
    }
    report(&records.all, &scale, &folder)
}

/// Trains one model and follows its held-out loss.
fn learn(args: &Args, architecture: Architecture, seed: u64, scale: &Scale) -> Result<Record> {
    let out = tempfile::tempdir()?;
    let settings = Settings {
        data: Some(vec![args.data.clone()]),
        valid: Some(args.valid.clone()),
        tokenizer: Some(TokenizerChoice::Byte),
        model: Some(architecture),
        layers: Some(scale.layers),
        width: Some(scale.width),
        ffn: Some(equal_ffn(architecture, scale)?),
        context: Some(scale.context),
        batch: Some(scale.batch),
        steps: Some(scale.steps),
        lr: Some(1e-3),
        seed: Some(seed),
        eval_every: Some((scale.steps / 10).max(1)),
        save_every: Some(0),
        out: Some(out.path().join("run")),
        ..Settings::default()
    };
    let mut session = Session::prepare(settings.resolve()?, &mut |_| {})?;
    let mut curve = Vec::new();
    session.train(&AtomicBool::new(false), &mut |event| {
        if let Event::Metric(Entry::Eval { tokens, loss, .. }) = event {
            curve.push((*tokens, *loss));
        }
        Ok(())
    })?;
    let parameters = session.trainer.model().parameters();
    Ok(Record::Loss { architecture, seed, parameters, curve })
}

/// Runs [`measure`] in a process of its own, whose peak memory is that of one training step.
fn cost(architecture: Architecture, context: usize, scale: &Scale) -> Result<Record> {
    let number = |n: usize| n.to_string();
    let output = Command::new(std::env::current_exe()?)
        .args(["measure", "--architecture", &architecture.to_string(), "--layers", &number(scale.layers)])
        .args(["--width", &number(scale.width), "--ffn", &number(equal_ffn(architecture, scale)?)])
        .args(["--context", &number(context)])
        .output()?;
    if !output.status.success() {
        bail!("measuring {architecture} at {context}: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("what a measurement prints")
}

struct One(anser_train::data::Batch);

impl Data for One {
    fn batch(&self, _: u64) -> Result<anser_train::data::Batch, anser_train::Error> {
        Ok(self.0.clone())
    }
}

pub(crate) fn measure(args: &MeasureArgs) -> Result<()> {
    let sizes = sizes(args.architecture, VOCAB, args.layers, args.width, None, Some(args.ffn))?;
    let mut trainer = Trainer::new(initial(&sizes, 0)?);
    let tokens: Vec<u32> = (0..args.context as u32).map(|i| i.wrapping_mul(7919) % VOCAB as u32).collect();
    let batch = anser_train::data::Batch {
        targets: tokens.clone(),
        weights: vec![1.0; tokens.len()],
        cu_seqlens: vec![0, tokens.len()],
        tokens,
    };
    let (recipe, data) = (recipe(4, 1e-4), One(batch));
    let objective = Method::new(args.architecture).on(&data);
    trainer.step(&recipe, &objective)?;
    let mut rates = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        trainer.step(&recipe, &objective)?;
        rates.push(args.context as f64 / began.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let record = Record::Cost {
        architecture: args.architecture,
        context: args.context,
        tokens_per_second: rates[1],
        peak_bytes: peak_bytes(),
    };
    println!("{}", serde_json::to_string(&record)?);
    Ok(())
}

fn report(records: &[Record], scale: &Scale, folder: &Path) -> Result<()> {
    let mut table = format!(
        "# Versions at equal size\n\n{} layers of {} channels, bytes as tokens, {} steps of {} x {}, {} seeds; the channel \
         mix is as wide as makes the parameters equal. Held-out loss in bits a byte: mean (least to most).\n\n\
         | model | parameters | bits a byte |\n|---|---|---|\n",
        scale.layers, scale.width, scale.steps, scale.batch, scale.context, scale.seeds
    );
    let (mut losses, mut speeds, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let mut costs = format!(
        "\nOne training step of one sequence: tokens a second and peak memory, by context.\n\n| model | {} |\n|---|{}\n",
        scale.contexts.iter().map(usize::to_string).collect::<Vec<_>>().join(" | "),
        "---|".repeat(scale.contexts.len())
    );
    for architecture in Architecture::ALL {
        let curves: Vec<(&usize, &Vec<(u64, f64)>)> = records
            .iter()
            .filter_map(|r| match r {
                Record::Loss { architecture: a, parameters, curve, .. } if *a == architecture => {
                    Some((parameters, curve))
                }
                _ => None,
            })
            .collect();
        let Some((parameters, first)) = curves.first() else { continue };
        let at = |i: usize| {
            let bits: Vec<f64> = curves.iter().map(|(_, curve)| curve[i].1 / std::f64::consts::LN_2).collect();
            spread(&bits)
        };
        let (mean, low, high) = at(first.len() - 1);
        table += &format!("| {architecture} | {parameters} | {mean:.3} ({low:.3} to {high:.3}) |\n");
        let series =
            |points: Vec<(f64, f64)>, band| Series { name: architecture.to_string(), points, band, mark: Mark::Dots };
        let x = |i: usize| first[i].0 as f64;
        losses.push(series(
            (0..first.len()).map(|i| (x(i), at(i).0)).collect(),
            (0..first.len()).map(|i| (x(i), at(i).1, at(i).2)).collect(),
        ));
        let measured: Vec<(f64, f64, f64)> = records
            .iter()
            .filter_map(|r| match r {
                Record::Cost { architecture: a, context, tokens_per_second, peak_bytes } if *a == architecture => {
                    Some((*context as f64, *tokens_per_second, *peak_bytes as f64 / (1 << 20) as f64))
                }
                _ => None,
            })
            .collect();
        let cells: Vec<String> =
            measured.iter().map(|(_, speed, mib)| format!("{speed:.0} tok/s, {mib:.0} MiB")).collect();
        costs += &format!("| {architecture} | {} |\n", cells.join(" | "));
        speeds.push(series(measured.iter().map(|m| (m.0, m.1)).collect(), Vec::new()));
        memory.push(series(measured.iter().map(|m| (m.0, m.2)).collect(), Vec::new()));
    }
    let axis = |label: &str, log| Axis { label: label.into(), log };
    let chart = |title: &str, x: Axis, y: Axis, series| Chart { title: title.into(), x, y, series }.svg();
    let context = || axis("context (tokens)", true);
    write(
        &folder.join("loss.svg"),
        &chart("Held-out loss", axis("tokens seen", false), axis("loss (bits a byte)", false), losses),
    )?;
    write(&folder.join("speed.svg"), &chart("Training speed", context(), axis("tokens a second", true), speeds))?;
    write(&folder.join("memory.svg"), &chart("Peak memory of a step", context(), axis("memory (MiB)", true), memory))?;
    table += &costs;
    write(&folder.join("results.md"), &table)?;
    print!("{table}");
    Ok(())
}
