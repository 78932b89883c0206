//! A run of `anser train series`: a file in, a folder with the model and its records out, stopped and resumed to the bit.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anser_nn::model::series::SeriesModel;
use anser_series::{Report, Series};

use super::choice::Choice;
use super::fit::closed_form;
use super::initial::initial;
use super::objective::NextPatch;
use super::settings::Settings;
use super::{Error, Forecaster, Planned, Scaled, plan};
use crate::data::Fingerprint;
use crate::files::write_whole;
use crate::metrics::{self, Metrics};
use crate::plot::loss_curve;
use crate::snapshot::{self, Snapshot};
use crate::trainer::{End, Event, Recipe, Trainer};

/// A run that is ready to go.
pub struct Session {
    /// Its settings.
    pub settings: Settings,
    /// The series.
    pub series: Series,
    /// What was done to the file.
    pub report: Report,
    /// Sizes, split and season.
    pub planned: Planned,
    /// The series in units of its deviations.
    pub data: Scaled,
    /// The model and where it stands.
    pub trainer: Trainer<SeriesModel>,
    /// The model training began with.
    begun: SeriesModel,
    recipe: Recipe,
}

impl Session {
    /// Reads the series and makes the model, or reads the last snapshot where a run is to be resumed; told the steps of
    /// the closed form.
    ///
    /// # Errors
    /// For settings, data and files that cannot be used, each named; [`Error::DataChanged`] for a resumed run on other data.
    pub fn prepare(settings: Settings, tell: &mut dyn FnMut(u64, u64)) -> Result<Session, Error> {
        let needs =
            |name, expected: &str| Error::Setting { name, found: "not given".into(), expected: expected.into() };
        let data =
            settings.data.clone().ok_or_else(|| needs("data", "a CSV or Parquet file, such as --data load.csv"))?;
        let out = settings.out.clone().ok_or_else(|| needs("out", "a folder for the model, such as --out run"))?;
        let table = anser_series::read::read(&data, &settings.columns.options())?;
        let fingerprint = Fingerprint::of(&data)?;
        check(&out.join("data.json"), &fingerprint)?;
        let (series, report) = anser_series::prepare(table, &settings.columns.cleaning())?;
        let planned = plan(&series, &settings.model.wishes(settings.horizon.unwrap_or(96))?)?;
        let scaled = Scaled::new(&series, planned.split.train.clone());
        let sizes = planned.plan.shape.sizes()?;
        let checkpoints = out.join("checkpoints");
        let last = if settings.resume { snapshot::list(&checkpoints)?.pop() } else { None };
        let (look_back, output) = (planned.plan.method.look_back, sizes.output);
        let linear = match sizes.skip {
            0 => None,
            _ => Some(closed_form(&scaled, &planned.split, look_back, output, tell)?),
        };
        let begun = initial(&sizes, linear.as_ref(), planned.plan.method.seed)?;
        let trainer = match last {
            Some((_, place)) => {
                let Snapshot { mut weights, optimizer, progress } = snapshot::load(&place)?;
                let mut read = |name: &str, _: &[usize]| Ok(weights.remove(name).unwrap_or_default());
                Trainer::resume(SeriesModel::new(&sizes, &anser_nn::cpu(), &mut read)?, optimizer, progress)
            }
            None => Trainer::new(begun.fork()),
        };
        let recipe = Recipe {
            save_every: settings.save_every.unwrap_or(100),
            keep: settings.keep.unwrap_or(2),
            snapshots: Some(checkpoints),
            ..planned.plan.recipe()
        };
        fs::create_dir_all(&out).map_err(Error::io(&out))?;
        write_whole(&out.join("data.json"), &serde_json::to_vec_pretty(&fingerprint).unwrap_or_default())?;
        let file = out.join("run.toml");
        write_whole(&file, settings.to_toml(&file)?.as_bytes())?;
        Ok(Session { settings, series, report, planned, data: scaled, trainer, begun, recipe })
    }

    /// Optimiser steps in all.
    pub fn steps(&self) -> u64 {
        self.recipe.steps
    }

    /// Trains to the end, or until `stop` is set. The folder has the best model so far at any time.
    ///
    /// # Errors
    /// As [`Trainer::run`], or what `tell` returns.
    pub fn train(
        &mut self,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&Event) -> Result<(), Error>,
    ) -> Result<End, Error> {
        let out = self.settings.out.clone().unwrap_or_default();
        let path = out.join("metrics.jsonl");
        let mut metrics = match self.trainer.progress.step {
            0 => Metrics::create(&path)?,
            step => Metrics::resume(&path, step)?,
        };
        let (look_back, columns) = (self.planned.plan.method.look_back, self.series.columns.clone());
        let (step, place) = (self.report.step.clone(), out.join("model.safetensors"));
        let keep = |model: &SeriesModel| {
            Forecaster { model: model.clone(), look_back, columns: columns.clone(), step: step.clone() }.save(&place)
        };
        let Planned { plan, split, .. } = &self.planned;
        let first = self.trainer.progress.step == 0;
        let best = if first { None } else { Forecaster::open(&place).ok().map(|forecaster| forecaster.model) };
        let mut keep_best = |_: usize, model: &SeriesModel| keep(model);
        let method = &plan.method;
        let choice =
            Choice::new(&self.data, &split.validation, look_back, &[plan.horizon], method.eval_windows, &mut keep_best);
        let objective = NextPatch::new(&self.data, method, plan.shape.output, &split.train, choice);
        objective.choice().begin(&self.begun.without_graph(), best.as_ref())?;
        if first {
            self.trainer.progress.best = objective.choice().best();
        }
        let picture = out.join("loss.svg");
        let title = format!("{} on {}", self.planned.plan.shape.backbone, self.series.name);
        let mut record = |event: &Event| {
            match event {
                Event::Metric(entry) => metrics.append(entry)?,
                Event::Saved(_) => {
                    let chart = loss_curve(&title, "squared error (deviations)", &metrics::read(&path)?);
                    write_whole(&picture, chart.svg().as_bytes())?;
                }
            }
            tell(event)
        };
        let end = self.trainer.run(&self.recipe, &objective, stop, &mut record)?;
        // Nothing was held out: the last model is the one.
        if objective.choice().best().is_none() {
            keep(&self.trainer.model().without_graph())?;
        }
        Ok(end)
    }
}

/// Fails when the run began with other data.
fn check(path: &Path, now: &Fingerprint) -> Result<(), Error> {
    let Ok(text) = fs::read(path) else { return Ok(()) };
    let before: Fingerprint = serde_json::from_slice(&text)
        .map_err(|error| Error::Malformed { file: path.to_path_buf(), what: error.to_string() })?;
    if (before.bytes, &before.sha256) != (now.bytes, &now.sha256) {
        let what = format!("the run began with {}", before.file.display());
        return Err(Error::DataChanged { file: now.file.clone(), what });
    }
    Ok(())
}
