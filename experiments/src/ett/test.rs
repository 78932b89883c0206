//! The test columns: every window of every model there is, once; and what a forecast costs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anser_nn::model::series::Backbone;
use anser_series::metrics::Errors;
use anser_series::split::origins;
use anser_train::series::backtest::{Method, Naive, Windows, each};
use anser_train::series::fit::closed_form;
use anser_train::series::initial::initial;
use anser_train::series::{Forecaster, Scaled};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{CONTENDERS, Contender, FILES, HORIZONS, RIMER, Task, rivals, table, train};
use crate::records::{Records, peak_bytes};

/// What is measured.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of ETTh1.csv and ETTh2.csv
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Where models are and results go
    #[arg(long, value_name = "DIR", default_value = "experiments/ett")]
    out: PathBuf,
}

/// One measurement of time and memory, in a process of its own
#[derive(clap::Args)]
pub(super) struct MeasureArgs {
    #[arg(long)]
    backbone: Backbone,
    #[arg(long)]
    layers: usize,
    #[arg(long)]
    ffn: usize,
    #[arg(long)]
    look_back: usize,
    /// Rows to stream before the measurement, instead of windows
    #[arg(long)]
    streamed: Option<usize>,
}

/// Errors of one contender and seed on one file and horizon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Score {
    pub(super) file: String,
    pub(super) contender: String,
    pub(super) seed: u64,
    pub(super) horizon: usize,
    pub(super) mse: f64,
    pub(super) mae: f64,
    pub(super) windows: u64,
}

/// What one forecast costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cost {
    pub(super) backbone: String,
    /// Rows of a window, or rows streamed before.
    pub(super) rows: usize,
    pub(super) streamed: bool,
    /// Of seven windows and 192 rows, or of one row pushed and 192 said.
    pub(super) milliseconds: f64,
    pub(super) peak_bytes: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let trained = Records::<train::Record>::open(&args.out)?;
    let linears = rivals::open(&args.out)?;
    let mut scores = Records::<Score>::open(&args.out.join("test"))?;
    for file in FILES {
        let task = Task::open(&args.data, file)?;
        for look_back in [96, 336, 720] {
            let name = format!("linear-{look_back}");
            let fitted = |horizon| closed_form(&task.data, &task.split, look_back, horizon, &mut |_, _| {});
            for horizon in HORIZONS {
                if !done(&scores, file, &name, 0, horizon) {
                    let linear = fitted(horizon)?;
                    score(&mut scores, &task, file, &name, 0, look_back, &[horizon], &linear)?;
                }
            }
        }
        for (name, period) in [("seasonal-naive", 24), ("last-value", 1)] {
            if !done(&scores, file, name, 0, HORIZONS[0]) {
                score(&mut scores, &task, file, name, 0, 336, &HORIZONS, &Naive { period })?;
            }
        }
        for r in linears.all.iter().filter(|r| r.file == file) {
            if !done(&scores, file, "dlinear", r.seed, r.horizon) {
                let model = rivals::load(&rivals::place(&args.out, file, r.horizon, r.seed), r.horizon)?;
                score(&mut scores, &task, file, "dlinear", r.seed, rivals::LOOK_BACK, &[r.horizon], &model)?;
            }
        }
        for r in trained.all.iter().filter(|r| r.file == file) {
            let Some(contender) = CONTENDERS.iter().find(|c| c.name == r.contender) else { continue };
            for horizon in HORIZONS {
                let open = || Forecaster::open(&contender.place(&args.out, file, horizon, r.seed));
                if !done(&scores, file, &r.contender, r.seed, horizon) {
                    let (model, look_back) = (open()?.model, contender.look_back);
                    score(&mut scores, &task, file, &r.contender, r.seed, look_back, &[horizon], &model)?;
                }
                let streamed = format!("{}-streamed", RIMER.name);
                if contender.name == RIMER.name && r.seed == 0 && !done(&scores, file, &streamed, 0, horizon) {
                    stream(&mut scores, &task, file, &streamed, horizon, &open()?)?;
                }
            }
        }
    }
    let mut costs = Records::<Cost>::open(&args.out.join("cost"))?;
    for contender in CONTENDERS.iter().filter(|c| ["rimer-336", "timer-336"].contains(&c.name)) {
        for look_back in [96, 336, 720, 1440, 2880, 5760, 11520] {
            cost(&mut costs, contender, look_back, None)?;
        }
    }
    for rows in [336, 672, 1344, 2688, 5376, 10752] {
        cost(&mut costs, &RIMER, RIMER.look_back, Some(rows))?;
    }
    table::write(&args.out, &trained.all, &linears.all, &scores.all, &costs.all)
}

fn done(scores: &Records<Score>, file: &str, contender: &str, seed: u64, horizon: usize) -> bool {
    let wanted = (file, contender, seed, horizon);
    scores.all.iter().any(|s| (s.file.as_str(), s.contender.as_str(), s.seed, s.horizon) == wanted)
}

/// Forecasts every test window as far as the longest horizon it has targets for, and scores all horizons on the way.
fn score(
    scores: &mut Records<Score>,
    task: &Task,
    file: &str,
    contender: &str,
    seed: u64,
    look_back: usize,
    horizons: &[usize],
    method: &dyn Method,
) -> Result<()> {
    let mut errors: BTreeMap<usize, Errors> = horizons.iter().map(|&horizon| (horizon, Errors::new(1))).collect();
    let mut begun = task.split.test.start;
    for &longest in horizons.iter().rev() {
        let origins = begun..origins(&task.split.test, look_back, longest).end;
        begun = origins.end;
        let windows = Windows { origins, stride: 1, look_back, horizon: longest };
        each(method, &task.data, &windows, &|| false, &mut |m, origin, said| {
            for (&horizon, errors) in errors.range_mut(..=longest) {
                add(errors, &task.data, m, origin, &said[..horizon]);
            }
        });
    }
    push(scores, file, contender, seed, errors)
}

fn add(errors: &mut Errors, data: &Scaled, m: usize, origin: usize, said: &[f32]) {
    for (truth, said) in data.columns[m][origin..].iter().zip(said) {
        errors.add(&[f64::from(*truth)], &[f64::from(*said)]);
    }
}

fn push(
    scores: &mut Records<Score>,
    file: &str,
    contender: &str,
    seed: u64,
    errors: BTreeMap<usize, Errors>,
) -> Result<()> {
    for (horizon, errors) in errors {
        let s = errors.scores();
        let windows = s.count / (7 * horizon as u64);
        eprintln!("{file} {contender} seed {seed}, {horizon}: {:.4} / {:.4} ({windows} windows)", s.mse, s.mae);
        let (file, contender) = (file.into(), contender.into());
        scores.push(Score { file, contender, seed, horizon, mse: s.mse, mae: s.mae, windows })?;
    }
    Ok(())
}

/// The same windows with states carried from row to row.
fn stream(
    scores: &mut Records<Score>,
    task: &Task,
    file: &str,
    name: &str,
    horizon: usize,
    forecaster: &Forecaster,
) -> Result<()> {
    let (data, test) = (&task.data, &task.split.test);
    let mut errors = Errors::new(1);
    let mut stream = forecaster.stream(data.width())?;
    // A long run-up: states that are as old as they get.
    for t in test.start - 4 * forecaster.look_back..test.end - horizon {
        let row: Vec<f32> = data.columns.iter().map(|column| column[t]).collect();
        stream.push(&row);
        let origin = t + 1;
        if origin < test.start {
            continue;
        }
        let said = stream.forecast(horizon).context("a stream that has seen enough")?;
        for m in 0..data.width() {
            let column: Vec<f32> = said.iter().skip(m).step_by(data.width()).copied().collect();
            add(&mut errors, data, m, origin, &column);
        }
    }
    push(scores, file, name, 0, [(horizon, errors)].into())
}

/// Runs [`measure`] in a process of its own, whose peak memory is that of the forecast.
fn cost(costs: &mut Records<Cost>, contender: &Contender, look_back: usize, streamed: Option<usize>) -> Result<()> {
    let (backbone, rows) = (contender.backbone.to_string(), streamed.unwrap_or(look_back));
    let wanted = (backbone.as_str(), rows, streamed.is_some());
    if costs.all.iter().any(|c| (c.backbone.as_str(), c.rows, c.streamed) == wanted) {
        return Ok(());
    }
    let number = |n: usize| n.to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["ett", "measure", "--backbone", &backbone, "--layers", &number(contender.layers)]);
    command.args(["--ffn", &number(contender.ffn), "--look-back", &number(look_back)]);
    if let Some(rows) = streamed {
        command.args(["--streamed", &number(rows)]);
    }
    let output = command.output()?;
    if !output.status.success() {
        bail!("measuring {backbone} at {rows}: {}", String::from_utf8_lossy(&output.stderr));
    }
    costs.push(serde_json::from_slice(&output.stdout).context("what a measurement prints")?)
}

pub(super) fn measure(args: &MeasureArgs) -> Result<()> {
    const SAID: usize = 192;
    let contender = Contender {
        backbone: args.backbone,
        layers: args.layers,
        ffn: args.ffn,
        look_back: args.look_back,
        // The linear path grows with the window, and would be all there is to see.
        linear: false,
        ..RIMER
    };
    let model = initial(&contender.shape().sizes()?, None, 0)?.without_graph();
    let value = |i: usize| (i as f32 * 0.7).sin();
    let mut times = Vec::new();
    match args.streamed {
        None => {
            let windows: Vec<f32> = (0..7 * args.look_back).map(value).collect();
            for _ in 0..6 {
                let began = Instant::now();
                model.forecast(&windows, args.look_back, SAID);
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
            times.remove(0);
        }
        Some(rows) => {
            let forecaster = Forecaster { model, look_back: args.look_back, columns: Vec::new(), step: None };
            let mut stream = forecaster.stream(7)?;
            for row in 0..rows + 200 {
                let began = Instant::now();
                stream.push(&(0..7).map(|m| value(7 * row + m)).collect::<Vec<f32>>());
                if row >= rows {
                    stream.forecast(SAID).context("a stream that has seen enough")?;
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
    }
    times.sort_by(f64::total_cmp);
    let cost = Cost {
        backbone: args.backbone.to_string(),
        rows: args.streamed.unwrap_or(args.look_back),
        streamed: args.streamed.is_some(),
        milliseconds: times[times.len() / 2],
        peak_bytes: peak_bytes(),
    };
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}
