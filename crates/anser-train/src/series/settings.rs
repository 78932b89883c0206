//! The settings of `anser train series`: flags and keys of a TOML file are one and the same struct, as for language
//! models.

use std::path::{Path, PathBuf};

use anser_nn::model::series::Backbone;
use anser_series::read::{Dates, Options};
use serde::{Deserialize, Serialize};

use super::Wishes;
use crate::Error;
use crate::settings::{merge, parse};

/// Which data, and which columns of it.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct DataSettings {
    /// A column to forecast (may be repeated). Default: every column of numbers.
    #[arg(long = "column", value_name = "NAME", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<Vec<String>>,
    /// The column of dates. Default: the first that looks like dates.
    #[arg(long, value_name = "NAME", conflicts_with = "no_date", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Take rows as they come, without dates.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_date: Option<bool>,
    /// Whether the first line of a CSV file holds names. Default: found out.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// Take values like -9999, far outside of all others, for missing ones. Default: true.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinels: Option<bool>,
}

impl DataSettings {
    /// What to read.
    pub fn options(&self) -> Options {
        let dates = match (&self.date, self.no_date.unwrap_or(false)) {
            (Some(name), _) => Dates::In(name.clone()),
            (None, true) => Dates::Ignore,
            (None, false) => Dates::Find,
        };
        Options { columns: self.column.clone(), dates, header: self.header }
    }

    /// How to clean it.
    pub fn cleaning(&self) -> anser_series::clean::Options {
        anser_series::clean::Options { sentinels: self.sentinels.unwrap_or(true) }
    }
}

/// How a forecaster is made. What is not given is chosen to suit the series.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct ModelSettings {
    /// Blocks: v4, v5.2, v6, v7 (Rimer), transformer, timer or rimer-released. Default: v7.
    #[arg(long, value_name = "BLOCKS", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<Backbone>,
    /// Rows a token. Default: a season, or a part of it.
    #[arg(long, value_name = "ROWS", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<usize>,
    /// Rows a forecast sees, a multiple of --patch. Default: about 336, two seasons at least.
    #[arg(long, value_name = "ROWS", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_back: Option<usize>,
    /// Rows said at once, a multiple of --patch; further ones follow from these. Default: the horizon, at most 8 patches.
    #[arg(long, value_name = "ROWS", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<usize>,
    /// A linear path beside the blocks, which begins as the closed form. Default: true.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear: Option<bool>,
    /// Blocks. Default: 2.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Channels of the stream. Default: 64.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Channels a head. Default: 32.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_size: Option<usize>,
    /// Inner width of the channel mix. Default: 4 times the width.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn: Option<usize>,
    /// Windows a step. Default: 256.
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Optimiser steps. Default: three epochs, 100 to 600.
    #[arg(long, value_name = "N", conflicts_with = "epochs", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// How often every window is seen; may be a fraction.
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Learning rate after the warm-up; falls by half a cosine. Default: 1e-3.
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Decay of matrices, times the learning rate, a step. Default: 0.01.
    #[arg(long, value_name = "X", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Learn after every patch of a window, not only after the last. Default: false.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_patch: Option<bool>,
    /// Part of the rows, before those to be tested on, that decide which step is kept. Default: 0.1.
    #[arg(long, value_name = "0..1", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Part of the rows, from the end, that nothing is learned from and errors are measured on. Default: 0.2.
    #[arg(long, value_name = "0..1", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// Steps between two held-out measurements. Default: a twelfth of all.
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Stop when this many measurements in a row brought no better one. Default: never; the best step is kept anyway.
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Seed of everything random. Default: 42.
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Parts of a batch that are differentiated side by side, each on a thread of its own. Default: 1.
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<usize>,
}

impl ModelSettings {
    /// The same as wishes.
    ///
    /// # Errors
    /// [`Error::Setting`] for values that nothing can be done with.
    pub fn wishes(&self, horizon: usize) -> Result<Wishes, Error> {
        let m = self.clone();
        let refuse =
            |name, found: String, expected: &str| Err(Error::Setting { name, found, expected: expected.to_string() });
        for (name, value, least) in [("lr", m.lr, f64::MIN_POSITIVE), ("weight_decay", m.weight_decay, 0.0)] {
            if let Some(value) = value.filter(|value| !(least..=10.0).contains(value)) {
                return refuse(name, value.to_string(), "a number above 0 (weight decay: from 0), at most 10");
            }
        }
        if let Some(epochs) = m.epochs.filter(|&epochs| !(epochs > 0.0 && epochs <= 1e6)) {
            return refuse("epochs", epochs.to_string(), "above 0, at most a million");
        }
        for (name, value) in [("steps", m.steps), ("eval_every", m.eval_every), ("patience", m.patience)] {
            if value == Some(0) {
                return refuse(name, "0".into(), "at least 1");
            }
        }
        for (name, value) in [("batch", m.batch), ("shards", m.shards)] {
            if let Some(value) = value.filter(|value| !(1..=1 << 20).contains(value)) {
                return refuse(name, value.to_string(), "1 to 1048576");
            }
        }
        if let Some(seed) = m.seed.filter(|&seed| i64::try_from(seed).is_err()) {
            return refuse("seed", seed.to_string(), "at most 9223372036854775807");
        }
        Ok(Wishes {
            horizon,
            backbone: m.backbone,
            patch: m.patch,
            look_back: m.look_back,
            output: m.output,
            linear: m.linear,
            width: m.width,
            layers: m.layers,
            head_size: m.head_size,
            ffn: m.ffn,
            batch: m.batch,
            steps: m.steps,
            epochs: m.epochs,
            lr: m.lr,
            weight_decay: m.weight_decay,
            eval_every: m.eval_every,
            patience: m.patience,
            every_patch: m.every_patch,
            shards: m.shards,
            seed: m.seed,
            validation: m.validation,
            test: m.test,
        })
    }
}

/// What a user asked for.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Settings {
    /// Settings from a TOML file, such as the run.toml of another run. Flags given beside it win.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Continue the run in --out from its last checkpoint, to the same bits as if it had never stopped.
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,
    /// The series: a CSV or Parquet file.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Rows to forecast. Default: 96.
    #[arg(long, value_name = "ROWS", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub horizon: Option<usize>,
    /// The data's columns.
    #[command(flatten)]
    #[serde(flatten)]
    pub columns: DataSettings,
    /// The model.
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelSettings,
    /// Steps between two checkpoints; 0 saves at the end only. Default: 100.
    #[arg(long, value_name = "STEPS", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_every: Option<u64>,
    /// Checkpoints to keep, the latest ones. Default: 2.
    #[arg(long, value_name = "N", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// Folder for the model, the metrics and the checkpoints.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
}

impl Settings {
    /// Reads settings from TOML; `file` is for messages.
    ///
    /// # Errors
    /// [`Error::UnknownSetting`] with a suggestion; [`Error::SettingsFile`] for what is no TOML or of the wrong type.
    pub fn parse(text: &str, file: &Path) -> Result<Settings, Error> {
        parse(text, file)
    }

    /// These settings, with those of the file that `config` names for whatever was not given.
    ///
    /// # Errors
    /// [`Error::Io`], and as [`Settings::parse`].
    pub fn with_file(mut self) -> Result<Settings, Error> {
        let Some(file) = self.config.take() else { return Ok(self) };
        let below = Settings::parse(&std::fs::read_to_string(&file).map_err(Error::io(&file))?, &file)?;
        let merged = merge(&self, &below, &[&["steps", "epochs"], &["date", "no_date"]])?;
        Ok(Settings { config: None, resume: self.resume, ..merged })
    }

    /// The settings as a TOML file.
    ///
    /// # Errors
    /// [`Error::SettingsFile`] for a path that is no Unicode.
    pub fn to_toml(&self, file: &Path) -> Result<String, Error> {
        toml::to_string(self).map_err(|e| Error::SettingsFile { file: file.into(), problem: e.to_string() })
    }
}
