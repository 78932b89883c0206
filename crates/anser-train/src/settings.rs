//! The settings of a run: the flags of `anser train lm` and the keys of a TOML file are one and the same struct.
//!
//! [`Settings`] is what a user gave, every field optional. [`Settings::resolve`] fills in the defaults and refuses what
//! cannot be; the [`Run`] it returns is what the trainer works by, and what is saved with every run as `run.toml`,
//! which is again a valid settings file.

mod keys;
mod resolve;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::groups::Architecture;
use crate::schedule::{Curve, Schedule};

/// Which tokenizer a run uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum TokenizerChoice {
    /// The World tokenizer, 65536 tokens.
    World,
    /// One token a byte, 256 tokens.
    Byte,
    /// A `tokenizer.json` or a vocabulary file.
    File(PathBuf),
}

impl From<String> for TokenizerChoice {
    fn from(text: String) -> TokenizerChoice {
        match text.as_str() {
            "world" => TokenizerChoice::World,
            "byte" => TokenizerChoice::Byte,
            _ => TokenizerChoice::File(PathBuf::from(text)),
        }
    }
}

impl From<TokenizerChoice> for String {
    fn from(choice: TokenizerChoice) -> String {
        choice.to_string()
    }
}

impl FromStr for TokenizerChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<TokenizerChoice, Self::Err> {
        Ok(TokenizerChoice::from(text.to_string()))
    }
}

impl fmt::Display for TokenizerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenizerChoice::World => f.pad("world"),
            TokenizerChoice::Byte => f.pad("byte"),
            TokenizerChoice::File(path) => path.display().fmt(f),
        }
    }
}

/// What a user asked for: flags, a settings file, or both. A key of the file is the flag's name with `_` for `-`.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Settings from a TOML file, such as the run.toml of another run. Flags given beside it win.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Continue the run in --out from its last checkpoint, to the same bits as if it had never stopped.
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,

    /// Text to learn from: .txt, .jsonl (`text` or `messages`), .bin + .idx, folders or patterns of them.
    #[arg(long, num_args = 1.., value_name = "PATH", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<PathBuf>>,
    /// Held-out text to measure the loss on. Default: the tail of --data.
    #[arg(long, value_name = "PATH", conflicts_with = "valid_fraction", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<PathBuf>,
    /// Part of --data, from its end, to hold out; 0 holds out nothing. Default: 0.1, or 0 with --valid.
    #[arg(long, value_name = "0..1", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_fraction: Option<f64>,
    /// What separates the documents of a .txt, such as "<|endoftext|>". Default: a .txt is one document.
    #[arg(long, value_name = "TEXT", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// world, byte, or a tokenizer.json. Default: byte, or with --init the checkpoint's own.
    #[arg(long, value_name = "world|byte|FILE", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerChoice>,
    /// Visit .bin + .idx data in the official trainer's order (needs one such file and no document borders).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub magic_prime: Option<bool>,

    /// v4, v5.2, v6, v7 or transformer. Default: v7.
    #[arg(long, value_name = "VERSION", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Architecture>,
    /// Blocks. Default: 4.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Channels of the residual stream. Default: 256.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Channels a head (v4 has no heads). Default: 64.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_size: Option<usize>,
    /// Inner width of the channel mix. Default: 4 times the width, 3.5 times in v5.2 and v6.
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn: Option<usize>,
    /// Continue from the weights of a published checkpoint; it also gives the sizes.
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,

    /// Tokens of a training window. Default: 256.
    #[arg(long, value_name = "TOKENS", help_heading = "Length")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Windows of a micro-batch. Default: 8.
    #[arg(long, value_name = "N", help_heading = "Length")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Micro-batches a step: as --batch times as large, in the memory of one. Default: 1.
    #[arg(long, value_name = "N", help_heading = "Length")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<usize>,
    /// Stop after this many steps.
    #[arg(long, value_name = "N", conflicts_with_all = ["epochs", "tokens"], help_heading = "Length")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Stop when every token was seen this many times; may be a fraction. Default: 1.
    #[arg(long, value_name = "N", conflicts_with = "tokens", help_heading = "Length")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Stop after this many tokens.
    #[arg(long, value_name = "N", help_heading = "Length")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Stop when this many evaluations in a row brought no better loss. Default: never.
    #[arg(long, value_name = "N", help_heading = "Length")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,

    /// Learning rate after the warm-up. Default: 1e-3, or 1e-5 with --init.
    #[arg(long, value_name = "RATE", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate at the end. Default: a tenth of --lr.
    #[arg(long, value_name = "RATE", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_final: Option<f64>,
    /// Steps over which the learning rate rises. Default: 10.
    #[arg(long, value_name = "STEPS", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// constant, cosine, wsd, wsd-sqrt or exponential. Default: cosine.
    #[arg(long, value_name = "CURVE", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Curve>,
    /// Last part of the run in which the wsd schedules fall. Default: 0.2.
    #[arg(long, value_name = "0..1", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_fraction: Option<f64>,
    /// Decay of matrices, times the learning rate, a step. Default: 0.1.
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Decays of AdamW's two moments. Default: 0.9,0.99.
    #[arg(long, num_args = 1, value_delimiter = ',', value_name = "B1,B2", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<Vec<f64>>,
    /// AdamW's epsilon. Default: 1e-18, or 1e-8 for v4 and transformer.
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Largest norm of the whole gradient; 0 switches clipping off. Default: 1.
    #[arg(long, value_name = "NORM", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Pull on the largest logit, which keeps logits small; 0 switches it off. Default: 1e-4, or 0 for transformer.
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l2wrap: Option<f64>,
    /// Let decays learn faster than the rest, as the official trainers do. Default: true.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Optimiser")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layerwise_lr: Option<bool>,

    /// Seed of everything random. Default: 42.
    #[arg(long, value_name = "N", help_heading = "Execution")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Threads. Default: one a core. The same number gives the same bits.
    #[arg(long, value_name = "N", help_heading = "Execution")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Parts of a batch that are differentiated side by side, each on threads of its own. Default: 1.
    #[arg(long, value_name = "N", help_heading = "Execution")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<usize>,
    /// Differentiate this many tokens at a time, so that memory does not grow with --context.
    #[arg(long, value_name = "TOKENS", help_heading = "Execution")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bptt: Option<usize>,
    /// With --bptt: hand the state from each part of a window to the next.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Execution")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carry_state: Option<bool>,
    /// With --carry-state: hand the state's gradient back as well, so that nothing is truncated.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Execution")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_grad: Option<bool>,
    /// Keep each block's input only and compute the rest again on the way back: less memory, a third more time.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Execution")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_activations: Option<bool>,

    /// Steps between two measurements of the held-out loss; 0 measures at the end only. Default: 100.
    #[arg(long, value_name = "STEPS", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Most held-out tokens of a measurement; 0 takes all. Default: 65536.
    #[arg(long, value_name = "TOKENS", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_tokens: Option<u64>,
    /// Steps between two checkpoints; 0 saves at the end only. Default: 500.
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

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// After this many optimiser steps.
    Steps(u64),
    /// When every token was seen this many times.
    Epochs(f64),
    /// After this many tokens.
    Tokens(u64),
}

/// Settings with nothing left open. The fields mean what the [`Settings`] of the same name mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each field is documented in Settings")]
pub struct Run {
    pub data: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<PathBuf>,
    /// 0 where [`Run::valid`] names a file.
    #[serde(skip_serializing_if = "is_zero")]
    pub valid_fraction: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// `None` only with [`Run::init`]: the checkpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerChoice>,
    pub magic_prime: bool,
    /// The sizes: `None` only with [`Run::init`], whose checkpoint has them. `head_size` is also `None` for v4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Architecture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    pub context: usize,
    pub batch: usize,
    pub accumulate: usize,
    #[serde(flatten)]
    pub length: Length,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    pub lr: f64,
    pub lr_final: f64,
    pub warmup: u64,
    pub schedule: Curve,
    pub decay_fraction: f64,
    pub weight_decay: f64,
    pub betas: [f64; 2],
    /// `None` only with [`Run::init`]: see [`Run::eps`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    pub clip: f64,
    pub l2wrap: f64,
    pub layerwise_lr: bool,
    pub seed: u64,
    pub threads: usize,
    pub shards: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bptt: Option<usize>,
    pub carry_state: bool,
    pub state_grad: bool,
    pub checkpoint_activations: bool,
    pub eval_every: u64,
    pub eval_tokens: u64,
    pub save_every: u64,
    pub keep: usize,
    pub out: PathBuf,
    /// Whether to continue the run in [`Run::out`]. Not saved.
    #[serde(skip)]
    pub resume: bool,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl Settings {
    /// Reads a settings file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::UnknownSetting`] with a suggestion; [`Error::SettingsFile`] for what is no TOML or of
    /// the wrong type.
    pub fn load(file: &Path) -> Result<Settings, Error> {
        Settings::parse(&std::fs::read_to_string(file).map_err(Error::io(file))?, file)
    }

    /// Reads settings from TOML; `file` is for messages.
    ///
    /// # Errors
    /// As [`Settings::load`], but for [`Error::Io`].
    pub fn parse(text: &str, file: &Path) -> Result<Settings, Error> {
        parse(text, file)
    }

    /// These settings, with those of the file that `config` names for whatever was not given.
    ///
    /// Of settings that exclude each other (`steps`, `epochs`, `tokens`; `valid`, `valid_fraction`) one given here
    /// replaces the file's, whichever that was.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn with_file(mut self) -> Result<Settings, Error> {
        let Some(file) = self.config.take() else { return Ok(self) };
        let below = Settings::load(&file)?;
        self.over(below)
    }

    /// These settings, with those of `below` for whatever was not given here. See [`Settings::with_file`].
    ///
    /// # Errors
    /// [`Error::Setting`] for a number that no TOML file can hold.
    pub fn over(&self, below: Settings) -> Result<Settings, Error> {
        let settings = merge(self, &below, &[&["steps", "epochs", "tokens"], &["valid", "valid_fraction"]])?;
        Ok(Settings { config: None, resume: self.resume, ..settings })
    }
}

/// Reads settings from TOML; `file` is for messages.
///
/// # Errors
/// [`Error::UnknownSetting`] with a suggestion; [`Error::SettingsFile`] for what is no TOML or of the wrong type.
pub(crate) fn parse<S: clap::Args + DeserializeOwned>(text: &str, file: &Path) -> Result<S, Error> {
    let problem = |e: toml::de::Error| Error::SettingsFile { file: file.into(), problem: e.to_string() };
    let table: toml::Table = toml::from_str(text).map_err(problem)?;
    for key in table.keys() {
        keys::check::<S>(key, text, file)?;
    }
    toml::from_str(text).map_err(problem)
}

/// The settings `above`, with those of `below` for whatever was not given there. Of each group of `exclusive` ones, one
/// given above replaces all below.
///
/// # Errors
/// [`Error::Setting`] for a number that no TOML file can hold.
pub(crate) fn merge<S: Serialize + DeserializeOwned>(above: &S, below: &S, exclusive: &[&[&str]]) -> Result<S, Error> {
    let table = |settings: &S| {
        toml::Table::try_from(settings).map_err(|e| Error::Setting {
            name: "a number",
            found: e.to_string(),
            expected: format!("at most {}", i64::MAX),
        })
    };
    let (above, mut merged) = (table(above)?, table(below)?);
    for group in exclusive.iter().filter(|group| group.iter().any(|key| above.contains_key(*key))) {
        group.iter().for_each(|key| drop(merged.remove(*key)));
    }
    merged.extend(above);
    merged.try_into().map_err(|e: toml::de::Error| Error::Setting {
        name: "settings",
        found: e.to_string(),
        expected: "settings that can be written and read back".into(),
    })
}

impl Run {
    /// The settings as a TOML file: what `run.toml` holds, and what [`Settings::load`] reads.
    ///
    /// # Errors
    /// [`Error::SettingsFile`] for a path that is no Unicode.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self)
            .map_err(|e| Error::SettingsFile { file: self.out.join("run.toml"), problem: e.to_string() })
    }

    /// AdamW's epsilon for this architecture, unless one was given: 1e-18 for v5.2 to v7, 1e-8 for v4 and transformer.
    pub fn eps(&self, architecture: Architecture) -> f64 {
        self.eps.unwrap_or_else(|| resolve::default_eps(architecture))
    }

    /// Tokens that one optimiser step sees.
    pub fn tokens_per_step(&self) -> u64 {
        (self.context * self.batch * self.accumulate) as u64
    }

    /// Optimiser steps of the whole run over a corpus of `targets` tokens to predict; at least one.
    pub fn total_steps(&self, targets: u64) -> u64 {
        let per_step = self.tokens_per_step().max(1);
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => (targets as f64 * epochs / per_step as f64).ceil() as u64,
            Length::Tokens(tokens) => tokens.div_ceil(per_step),
        }
        .max(1)
    }

    /// The learning rate's schedule, in steps, of a run this long.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        Schedule {
            curve: self.schedule,
            lr: self.lr,
            lr_final: self.lr_final,
            warmup: self.warmup.min(total_steps),
            total: total_steps,
            decay_fraction: self.decay_fraction,
        }
    }
}
