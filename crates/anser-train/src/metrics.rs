//! The numbers of a run, one JSON object a line (`metrics.jsonl`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Error;
use crate::files::write_whole;

/// One line. Losses are in nats a token; a number that is not finite is written as `null` and read as NaN.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// An optimiser step.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Tokens seen so far.
        tokens: u64,
        /// Mean cross-entropy of its batch.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// Learning rate.
        #[serde(deserialize_with = "number")]
        lr: f64,
        /// Norm of the whole gradient before clipping.
        #[serde(deserialize_with = "number")]
        gradient_norm: f64,
        /// Speed.
        #[serde(deserialize_with = "number")]
        tokens_per_second: f64,
        /// Seconds spent training so far.
        #[serde(deserialize_with = "number")]
        seconds: f64,
    },
    /// A measurement on held-out text.
    Eval {
        /// Steps done.
        step: u64,
        /// Tokens seen so far.
        tokens: u64,
        /// Mean cross-entropy of the held-out tokens.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// Held-out tokens.
        targets: u64,
        /// Seconds spent training so far.
        #[serde(deserialize_with = "number")]
        seconds: f64,
    },
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Entry {
    /// The step it belongs to.
    pub fn step(&self) -> u64 {
        match *self {
            Entry::Step { step, .. } | Entry::Eval { step, .. } => step,
        }
    }

    /// The line, without its end.
    ///
    /// # Errors
    /// [`Error::Malformed`] never happens for these numbers; `file` is for its message.
    fn line(&self, file: &Path) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|e| Error::Malformed { file: file.into(), what: e.to_string() })
    }
}

/// A metrics file that grows.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Begins a new file, in place of one that may be there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Metrics, Error> {
        let file = File::create(path).map_err(Error::io(path))?;
        Ok(Metrics { path: path.into(), file })
    }

    /// Continues the file of a run that goes on after `step`: lines of later steps, and a last line that was cut off, are
    /// taken out first (the file is replaced as a whole, never half). A missing file is begun.
    ///
    /// # Errors
    /// As [`read`], and [`Error::Io`].
    pub fn resume(path: &Path, step: u64) -> Result<Metrics, Error> {
        if path.exists() {
            let mut lines = String::new();
            for entry in read(path)?.iter().filter(|entry| entry.step() <= step) {
                lines += &entry.line(path)?;
                lines.push('\n');
            }
            write_whole(path, lines.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(Metrics { path: path.into(), file })
    }

    /// Adds a line, in one write.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, entry: &Entry) -> Result<(), Error> {
        let mut line = entry.line(&self.path)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }
}

/// Every line of a metrics file. A last line without an end, as a killed run leaves it, is left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::Json`] for a whole line that is none of ours.
pub fn read(path: &Path) -> Result<Vec<Entry>, Error> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let lines = bytes[..whole].split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(at, line)| {
            serde_json::from_slice(line).map_err(|e| Error::Json {
                file: path.into(),
                line: at as u64 + 1,
                column: e.column(),
                problem: e.to_string(),
            })
        })
        .collect()
}
