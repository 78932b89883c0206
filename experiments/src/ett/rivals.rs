//! DLinear, trained as its authors do: one model a horizon, 336 hours of look-back, 32 windows of all channels a step, a
//! rate of 0.005 that is halved every epoch, until the error on the rows to choose by has not fallen three epochs long.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anser_checkpoint::{Dtype, Tensor, TensorFile, write_safetensors};
use anser_nn::model::dlinear::DLinear;
use anser_series::split::origins;
use anser_train::Error;
use anser_train::groups::Group;
use anser_train::random::Random;
use anser_train::schedule::{Curve, Schedule};
use anser_train::series::Scaled;
use anser_train::series::backtest::{Windows, backtest};
use anser_train::series::fit::tensors;
use anser_train::trainer::{Objective, Outcome, Recipe, Trainer};
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{FILES, HORIZONS, Task};
use crate::records::Records;

pub(super) const LOOK_BACK: usize = 336;
const BATCH: usize = 32;
const EPOCHS: u64 = 10;
const PATIENCE: u64 = 3;

/// A fitted DLinear.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) file: String,
    pub(super) horizon: usize,
    pub(super) seed: u64,
    pub(super) parameters: usize,
    pub(super) seconds: f64,
}

/// Where its weights are.
pub(super) fn place(out: &Path, file: &str, horizon: usize, seed: u64) -> PathBuf {
    out.join("models").join(format!("{file}-dlinear-{horizon}-{seed}.safetensors"))
}

/// Reads a fitted DLinear.
pub(super) fn load(path: &Path, horizon: usize) -> Result<DLinear> {
    let file = TensorFile::open(path)?;
    Ok(DLinear::new(LOOK_BACK, horizon, &anser_nn::cpu(), &mut |name, shape| Ok(file.f32(name, shape)?))?)
}

fn save(model: &DLinear, path: &Path) -> Result<()> {
    let tensors = tensors(model);
    let tensors: Vec<Tensor<'_>> =
        tensors.iter().map(|(name, shape, values)| Tensor::from_f32(name, &shape[..], Dtype::F32, values)).collect();
    Ok(write_safetensors(path, &tensors, &[])?)
}

pub(super) fn train(data: &Path, out: &Path, seed: u64, quick: bool) -> Result<()> {
    let mut records = open(out)?;
    for file in FILES {
        for horizon in HORIZONS {
            let done = |r: &Record| (r.file.as_str(), r.horizon, r.seed) == (file, horizon, seed);
            if records.all.iter().any(done) {
                continue;
            }
            let task = Task::open(data, file)?;
            let began = Instant::now();
            let model = fit(&task, horizon, seed, if quick { 1 } else { EPOCHS })?;
            let seconds = began.elapsed().as_secs_f64();
            let parameters = model.parameters();
            save(&model, &place(out, file, horizon, seed))?;
            eprintln!("{file} dlinear {horizon} seed {seed}: {parameters} parameters, {seconds:.0} s");
            records.push(Record { file: file.into(), horizon, seed, parameters, seconds })?;
        }
    }
    Ok(())
}

pub(super) fn open(out: &Path) -> Result<Records<Record>> {
    Records::open(&out.join("dlinear"))
}

struct Direct<'a> {
    data: &'a Scaled,
    learned: std::ops::Range<usize>,
    held_out: Windows,
    seed: u64,
    best: Mutex<Option<(f64, DLinear)>>,
}

impl Objective<DLinear> for Direct<'_> {
    fn step(&self, model: &DLinear, step: u64) -> Result<Outcome, Error> {
        let steps = (self.learned.len() / BATCH) as u64;
        let mut order: Vec<usize> = self.learned.clone().collect();
        Random::new(self.seed, "windows", step / steps).shuffle(&mut order);
        let first = (step % steps) as usize * BATCH;
        let (mut windows, mut targets) = (Vec::new(), Vec::new());
        for &origin in &order[first..first + BATCH] {
            for column in &self.data.columns {
                windows.extend_from_slice(&column[origin - LOOK_BACK..origin]);
                targets.extend_from_slice(&column[origin..origin + self.held_out.horizon]);
            }
        }
        let mut outcome = Outcome { tokens: windows.len() as u64, ..Outcome::default() };
        outcome.add(model.gradients(&windows, &targets));
        Ok(outcome)
    }

    fn evaluate(&self, model: &DLinear) -> Result<Option<(f64, u64)>, Error> {
        let scores = backtest(model, self.data, &self.held_out);
        let mut best = self.best.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if best.as_ref().is_none_or(|(loss, _)| scores.mse < *loss) {
            *best = Some((scores.mse, model.clone()));
        }
        Ok(Some((scores.mse, scores.count)))
    }

    fn group(&self, _: &str, _: &[usize]) -> Group {
        Group { lr_scale: 1.0, weight_decay: false }
    }
}

fn fit(task: &Task, horizon: usize, seed: u64, epochs: u64) -> Result<DLinear> {
    let bound = 1.0 / (LOOK_BACK as f64).sqrt();
    let mut read = |name: &str, shape: &[usize]| {
        let mut random = Random::new(seed, &format!("init {name}"), 0);
        Ok((0..shape.iter().product()).map(|_| (bound * (2.0 * random.uniform() - 1.0)) as f32).collect())
    };
    let model = DLinear::new(LOOK_BACK, horizon, &anser_nn::cpu(), &mut read)?;
    let rows = origins(&task.split.validation, LOOK_BACK, horizon);
    let objective = Direct {
        data: &task.data,
        learned: origins(&task.split.train, LOOK_BACK, horizon),
        held_out: Windows { origins: rows, stride: 4, look_back: LOOK_BACK, horizon },
        seed,
        best: Mutex::new(None),
    };
    let steps = (objective.learned.len() / BATCH) as u64;
    let recipe = |epoch: u64| {
        let lr = 5e-3 * 0.5f64.powi(epoch as i32);
        let schedule = Schedule {
            curve: Curve::Constant,
            lr,
            lr_final: lr,
            warmup: 0,
            total: steps * epochs,
            decay_fraction: 0.2,
        };
        Recipe {
            steps: steps * (epoch + 1),
            schedule,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            clip: None,
            eval_every: 0,
            save_every: 0,
            keep: 1,
            snapshots: None,
            patience: None,
        }
    };
    let mut trainer = Trainer::new(model);
    for epoch in 0..epochs {
        // A run ends with a measurement.
        trainer.run(&recipe(epoch), &objective, &AtomicBool::new(false), &mut |_| Ok(()))?;
        if trainer.progress.worse >= PATIENCE {
            break;
        }
    }
    let best = objective.best.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(best.map_or_else(|| trainer.model().clone(), |(_, model)| model))
}
