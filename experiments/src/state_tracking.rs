//! Which models can follow a state that a fixed number of parallel steps cannot: word problems of S5 and A5.
//!
//! Every token is a permutation, the answer at every position the product of all so far. Both groups are not solvable,
//! so that the problem is complete for NC1, beyond softmax attention of fixed depth. Claim tested: RWKV-7's transition,
//! which can swap directions of its state, follows such words where diagonal transitions and attention do not (Peng et
//! al. 2025). Models of equal width and depth learn words of one length and are asked at every position of longer ones.

use std::path::PathBuf;
use std::sync::Arc;

use anser_nn::gradients::values;
use anser_nn::model::LanguageModel;
use anser_train::Error;
use anser_train::data::Batch;
use anser_train::groups::Architecture;
use anser_train::language::{Data, Method};
use anser_train::plot::{Axis, Chart, Mark, Series};
use anser_train::session::{initial, sizes};
use anser_train::tasks::{Group, Split, Task};
use anser_train::trainer::{Recipe, Trainer};
use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::records::{Records, recipe, spread, wanted, write};

/// Word problems of S5 and A5 on every version and a transformer
#[derive(clap::Args)]
pub(crate) struct Args {
    /// At most five minutes: A5 only, one seed, short training
    #[arg(long)]
    quick: bool,

    /// Only these models (may be repeated); tables show what has been run so far
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<Architecture>,

    /// Where results go
    #[arg(long, default_value = "experiments/state-tracking")]
    out: PathBuf,
}

/// Sizes of a run of the experiment.
struct Scale {
    groups: &'static [Group],
    seeds: u64,
    steps: u64,
    width: usize,
    /// Length of the words that are learned.
    learned: usize,
    /// Length of the words that are asked.
    asked: usize,
}

#[derive(Serialize, Deserialize)]
struct Record {
    group: String,
    architecture: Architecture,
    seed: u64,
    parameters: usize,
    /// Part of right answers at every position.
    accuracy: Vec<f64>,
}

const LAYERS: usize = 4;
const ROWS: usize = 64;

struct Words {
    task: Task,
    seed: u64,
}

impl Data for Words {
    fn batch(&self, index: u64) -> Result<Batch, Error> {
        self.task.batch(self.seed, Split::Train, index, ROWS)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let scale = match args.quick {
        true => Scale { groups: &[Group::A5], seeds: 1, steps: 1200, width: 64, learned: 6, asked: 16 },
        false => Scale { groups: &[Group::A5, Group::S5], seeds: 3, steps: 8000, width: 64, learned: 12, asked: 24 },
    };
    let folder = if args.quick { args.out.join("quick") } else { args.out.clone() };
    let mut records = Records::<Record>::open(&folder)?;
    for &group in scale.groups {
        let name = format!("{group:?}");
        for seed in 0..scale.seeds {
            for architecture in Architecture::ALL {
                let done = |r: &Record| (&r.group, r.architecture, r.seed) == (&name, architecture, seed);
                if records.all.iter().any(done) || !wanted(&args.models, architecture) {
                    continue;
                }
                let (accuracy, parameters) = train(group, architecture, seed, &scale)?;
                let mean = spread(&accuracy).0;
                eprintln!("{name} {architecture} seed {seed}: {:.1} % of all positions", 100.0 * mean);
                records.push(Record { group: name.clone(), architecture, seed, parameters, accuracy })?;
            }
        }
        report(&records.all, &name, &scale, &folder)?;
    }
    Ok(())
}

fn train(group: Group, architecture: Architecture, seed: u64, scale: &Scale) -> Result<(Vec<f64>, usize)> {
    let task = |length| Task::Words { group, length };
    let vocab = task(scale.asked).vocab();
    let sizes = sizes(architecture, vocab, LAYERS, scale.width, None, None)?;
    let mut trainer = Trainer::new(initial(&sizes, seed)?);
    // Without decay: with 0.01 and 1e-3 RWKV-7 had learned nothing in twice the steps.
    let recipe = Recipe { weight_decay: 0.0, ..recipe(scale.steps, 3e-3) };
    let data = Words { task: task(scale.learned), seed };
    let objective = Method::new(architecture).on(&data);
    for _ in 0..scale.steps {
        trainer.step(&recipe, &objective)?;
    }
    let test = task(scale.asked).batch(seed, Split::Test, 0, 256)?;
    Ok((accuracy(trainer.model(), test, scale.asked), trainer.model().parameters()))
}

/// Part of right answers at every position of words of one length.
fn accuracy(model: &LanguageModel, batch: Batch, length: usize) -> Vec<f64> {
    let model = model.without_graph();
    let mut states = model.initial_states(batch.sequences());
    let (tokens, borders): (Arc<[u32]>, Arc<[usize]>) = (batch.tokens.into(), batch.cu_seqlens.into());
    let logits = values(model.logits(&model.forward(&tokens, &borders, &mut states)));
    let vocab = model.sizes().vocab;
    let mut right = vec![0.0; length];
    for (row, (logits, target)) in logits.chunks_exact(vocab).zip(&batch.targets).enumerate() {
        let best = (0..vocab).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        right[row % length] += f64::from(best == Some(*target as usize));
    }
    let words = (batch.targets.len() / length) as f64;
    right.iter().map(|right| right / words).collect()
}

fn report(records: &[Record], group: &str, scale: &Scale, folder: &std::path::Path) -> Result<()> {
    let mut series = Vec::new();
    let mut table = format!(
        "# {group}: words of {} learned, {} asked\n\n{LAYERS} layers of {} channels, {} steps of {ROWS} words, {} seeds.\n\
         *Followed to*: the last position up to which at least 95 % of the answers are right, mean over seeds.\n\n\
         | model | parameters | followed to | right at {} | right at {} |\n|---|---|---|---|---|\n",
        scale.learned, scale.asked, scale.width, scale.steps, scale.seeds, scale.learned, scale.asked
    );
    for architecture in Architecture::ALL {
        let runs: Vec<&Record> =
            records.iter().filter(|r| r.group == group && r.architecture == architecture).collect();
        let Some(first) = runs.first() else { continue };
        let at = |t: usize| spread(&runs.iter().map(|r| r.accuracy[t]).collect::<Vec<_>>());
        let followed = |r: &&Record| r.accuracy.iter().position(|&x| x < 0.95).unwrap_or(r.accuracy.len()) as f64;
        let followed = spread(&runs.iter().map(followed).collect::<Vec<_>>()).0;
        table += &format!(
            "| {architecture} | {} | {followed:.1} | {:.1} % | {:.1} % |\n",
            first.parameters,
            100.0 * at(scale.learned - 1).0,
            100.0 * at(scale.asked - 1).0
        );
        let positions = 0..scale.asked;
        series.push(Series {
            name: architecture.to_string(),
            points: positions.clone().map(|t| (t as f64 + 1.0, at(t).0)).collect(),
            band: positions.map(|t| (t as f64 + 1.0, at(t).1, at(t).2)).collect(),
            mark: Mark::Line,
        });
    }
    let chart = Chart {
        title: format!("Products in {group}, words of {} learned", scale.learned),
        x: Axis { label: "position (permutations)".into(), log: false },
        y: Axis { label: "right answers (fraction)".into(), log: false },
        series,
    };
    let name = group.to_lowercase();
    write(&folder.join(format!("{name}.svg")), &chart.svg())?;
    write(&folder.join(format!("{name}.md")), &table)?;
    print!("{table}");
    Ok(())
}
