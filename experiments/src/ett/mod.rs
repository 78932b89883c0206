//! Forecasting electricity transformers: RWKV-7 beside attention and beside forecasts that need no depth, by the customary
//! protocol of the ETT data.
//!
//! Every window of stride 1, every channel, horizons of 96, 192, 336 and 720 hours; normalised by the rows to learn from
//! alone; parts in the order of time. `ett train` fits models and sees the rows to learn from and to choose by; `ett test`
//! computes the columns of the table, once, and draws.

mod rivals;
mod table;
mod test;
mod train;

use std::path::{Path, PathBuf};

use anser_checkpoint::Version;
use anser_nn::model::series::Backbone;
use anser_series::Series;
use anser_series::split::Split;
use anser_train::series::Scaled;
use anser_train::series::initial::Shape;
use anser_train::series::objective::Method;
use anyhow::{Context, Result, bail};
use clap::Subcommand;

/// Forecasts of electricity transformers
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fit every model on the rows to learn from
    Train(train::Args),
    /// Compute the test columns of every model there is, and the table
    Test(test::Args),
    /// One measurement of time and memory, in a process of its own
    #[command(hide = true)]
    Measure(test::MeasureArgs),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Train(args) => train::run(args),
        Command::Test(args) => test::run(args),
        Command::Measure(args) => test::measure(args),
    }
}

/// Hours of a forecast.
const HORIZONS: [usize; 4] = [96, 192, 336, 720];
const FILES: [&str; 2] = ["ETTh1", "ETTh2"];
/// Hours a token.
const PATCH: usize = 24;
/// Hours said at once. Of 24, 96, 192 and 720 the closed form has the smallest validation error so.
const OUTPUT: usize = 192;

/// A file, as every contender gets it.
struct Task {
    series: Series,
    split: Split,
    data: Scaled,
}

impl Task {
    fn open(folder: &Path, name: &str) -> Result<Task> {
        let path = folder.join(format!("{name}.csv"));
        let table = anser_series::read::read(&path, &Default::default())?;
        let (series, _) = anser_series::prepare(table, &Default::default())?;
        let split = Split::ett_hourly();
        if series.rows() < split.test.end || series.width() != 7 {
            bail!("{}: {} rows of {} columns, expected 17420 of 7", path.display(), series.rows(), series.width());
        }
        let data = Scaled::new(&series, split.train.clone());
        Ok(Task { series, split, data })
    }
}

/// What competes with depth.
#[derive(Clone, Copy, Debug)]
struct Contender {
    /// Its name in tables and files.
    name: &'static str,
    backbone: Backbone,
    look_back: usize,
    width: usize,
    layers: usize,
    ffn: usize,
    /// A linear path beside the blocks, begun at the closed form.
    linear: bool,
    batch: usize,
    steps: u64,
    seeds: u64,
    lr: f64,
}

const RIMER: Contender = Contender {
    name: "rimer-336",
    backbone: Backbone::Rwkv(Version::V7),
    look_back: 336,
    width: 64,
    layers: 2,
    ffn: 256,
    linear: true,
    batch: 256,
    steps: 120,
    seeds: 3,
    lr: 5e-4,
};

/// Everything that is trained. Timer's equal has the parameters of Rimer at 336 hours, the large one 23 times those of its
/// blocks and head, as the models of the published comparison.
const CONTENDERS: [Contender; 6] = [
    Contender { name: "rimer-96", look_back: 96, ..RIMER },
    RIMER,
    Contender { name: "rimer-720", look_back: 720, ..RIMER },
    Contender { name: "timer-336", backbone: Backbone::Timer, layers: 3, ffn: 272, ..RIMER },
    Contender { name: "rimer-336-blocks", linear: false, steps: 600, lr: 1e-3, ..RIMER },
    Contender { name: "timer-336-large", backbone: Backbone::Timer, width: 256, layers: 6, ffn: 1024, ..RIMER },
];

impl Contender {
    fn shape(&self) -> Shape {
        Shape {
            backbone: self.backbone,
            patch: PATCH,
            output: OUTPUT,
            skip: if self.linear { self.look_back / PATCH } else { 0 },
            width: self.width,
            layers: self.layers,
            head_size: 32,
            ffn: self.ffn,
        }
    }

    fn method(&self, seed: u64) -> Method {
        Method { look_back: self.look_back, batch: self.batch, every_patch: false, shards: 1, seed, eval_windows: 4096 }
    }

    fn place(&self, out: &Path, file: &str, horizon: usize, seed: u64) -> PathBuf {
        out.join("models").join(format!("{file}-{}-{horizon}-{seed}.safetensors", self.name))
    }
}

/// Makes a folder.
fn folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| path.display().to_string())
}
