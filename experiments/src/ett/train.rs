//! Models fitted on the rows to learn from; the rows to choose by decide which step is kept.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anser_nn::model::series::SeriesModel;
use anser_series::split::origins;
use anser_train::series::Forecaster;
use anser_train::series::backtest::{Windows, backtest};
use anser_train::series::fit::{Plan, closed_form, fit_each};
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{CONTENDERS, Contender, FILES, HORIZONS, OUTPUT, Task, folder, rivals};
use crate::records::Records;

/// What is fitted.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of ETTh1.csv and ETTh2.csv
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Where models and results go
    #[arg(long, value_name = "DIR", default_value = "experiments/ett")]
    out: PathBuf,

    /// At most five minutes: one seed, a quarter of the steps, without the large model; results go to a folder `quick`
    #[arg(long)]
    quick: bool,

    /// Only these contenders (may be repeated)
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
}

/// A fitted model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) file: String,
    pub(super) contender: String,
    pub(super) seed: u64,
    pub(super) parameters: usize,
    pub(super) steps: u64,
    /// Of training, closed form included.
    pub(super) seconds: f64,
    /// Validation MSE by horizon; every eighth window.
    pub(super) validation: Vec<f64>,
    /// The same of the linear path alone, before training.
    pub(super) linear: Vec<f64>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let out = if args.quick { args.out.join("quick") } else { args.out.clone() };
    folder(&out.join("models"))?;
    let mut records = Records::<Record>::open(&out)?;
    let wanted = |name: &str| args.models.is_empty() || args.models.iter().any(|model| model == name);
    for seed in 0..3 {
        for contender in CONTENDERS.iter().filter(|contender| wanted(contender.name)) {
            let mut contender = *contender;
            if args.quick {
                (contender.steps, contender.seeds) = (contender.steps / 4, 1);
            }
            if seed >= contender.seeds || (args.quick && contender.name == "timer-336-large") {
                continue;
            }
            for file in FILES {
                let done = |r: &Record| (r.file.as_str(), r.contender.as_str(), r.seed) == (file, contender.name, seed);
                if records.all.iter().any(done) {
                    continue;
                }
                let task = Task::open(&args.data, file)?;
                let (record, models) = train(&contender, &task, file, seed)?;
                for (horizon, model) in HORIZONS.into_iter().zip(models) {
                    let forecaster = Forecaster {
                        model,
                        look_back: contender.look_back,
                        columns: task.series.columns.clone(),
                        step: Some("1 hour".into()),
                    };
                    forecaster.save(&contender.place(&out, file, horizon, seed))?;
                }
                eprintln!(
                    "{file} {} seed {seed}: validation {} (linear {}), {} parameters, {:.0} s",
                    record.contender,
                    shown(&record.validation),
                    shown(&record.linear),
                    record.parameters,
                    record.seconds
                );
                records.push(record)?;
            }
        }
        if wanted("dlinear") && (seed == 0 || !args.quick) {
            rivals::train(&args.data, &out, seed, args.quick)?;
        }
    }
    Ok(())
}

fn shown(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(" ")
}

fn train(contender: &Contender, task: &Task, file: &str, seed: u64) -> Result<(Record, [SeriesModel; 4])> {
    let began = Instant::now();
    let plan = Plan {
        shape: contender.shape(),
        method: contender.method(seed),
        horizon: OUTPUT,
        steps: contender.steps,
        lr: contender.lr,
        weight_decay: 0.05,
        eval_every: (contender.steps / 12).max(1),
        patience: None,
    };
    let linear = match contender.linear {
        true => Some(closed_form(&task.data, &task.split, contender.look_back, OUTPUT, &mut |_, _| {})?),
        false => None,
    };
    let stop = AtomicBool::new(false);
    let fitted = fit_each(&task.data, &task.split, &plan, HORIZONS, linear.as_ref(), &stop, &mut |_| Ok(()))?;
    let seconds = began.elapsed().as_secs_f64();
    let begun = anser_train::series::initial::initial(&plan.shape.sizes()?, linear.as_ref(), seed)?.without_graph();
    let models = fitted.each_ref().map(|fitted| &fitted.model);
    let record = Record {
        file: file.into(),
        contender: contender.name.into(),
        seed,
        parameters: models[0].parameters(),
        steps: fitted[0].steps,
        seconds,
        validation: validation(models, contender.look_back, task),
        linear: if contender.linear { validation([&begun; 4], contender.look_back, task) } else { Vec::new() },
    };
    Ok((record, fitted.map(|fitted| fitted.model)))
}

/// The error on the rows to choose by, by horizon, of a model each.
fn validation(models: [&SeriesModel; 4], look_back: usize, task: &Task) -> Vec<f64> {
    let one = |(horizon, model): (usize, &SeriesModel)| {
        let origins = origins(&task.split.validation, look_back, horizon);
        backtest(model, &task.data, &Windows { origins, stride: 8, look_back, horizon }).mse
    };
    HORIZONS.into_iter().zip(models).map(one).collect()
}
