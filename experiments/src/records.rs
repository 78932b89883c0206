//! Results as they come in, the recipe all models share, and means over seeds.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anser_train::groups::Architecture;
use anser_train::schedule::{Curve, Schedule};
use anser_train::trainer::Recipe;
use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file of finished runs, one JSON object a line.
pub(crate) struct Records<T> {
    path: PathBuf,
    /// What is in it.
    pub(crate) all: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> Records<T> {
    /// Opens `folder/results.jsonl`; a last line that was cut off is dropped.
    pub(crate) fn open(folder: &Path) -> Result<Records<T>> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join("results.jsonl");
        let text = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let all = whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display())))
            .collect::<Result<_>>()?;
        if whole.len() < text.len() {
            fs::write(&path, whole)?;
        }
        Ok(Records { path, all })
    }

    /// Adds a finished run.
    pub(crate) fn push(&mut self, record: T) -> Result<()> {
        let line = serde_json::to_string(&record)? + "\n";
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(line.as_bytes())?;
        self.all.push(record);
        Ok(())
    }
}

/// Whether a model is among those asked for, which are all where none is named.
pub(crate) fn wanted(models: &[Architecture], architecture: Architecture) -> bool {
    models.is_empty() || models.contains(&architecture)
}

/// Mean, smallest and largest.
pub(crate) fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
    (mean, low, high)
}

/// The recipe of every model of an experiment.
pub(crate) fn recipe(steps: u64, lr: f64) -> Recipe {
    let schedule = Schedule {
        curve: Curve::Cosine,
        lr,
        lr_final: lr / 10.0,
        warmup: 20.min(steps),
        total: steps,
        decay_fraction: 0.2,
    };
    Recipe {
        steps,
        schedule,
        betas: (0.9, 0.99),
        eps: 1e-8,
        weight_decay: 0.1,
        clip: Some(1.0),
        eval_every: 0,
        save_every: 0,
        keep: 1,
        snapshots: None,
        patience: None,
    }
}

/// Writes a result of an experiment and says so.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// Peak memory of this process; 0 where the system does not say.
pub(crate) fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
    line.and_then(|kib| kib.trim().parse().ok()).map_or(0, |kib: u64| kib * 1024)
}
