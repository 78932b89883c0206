//! A run from its settings: reads the data, makes or loads the model, and keeps the run's folder.
//!
//! The folder holds `run.toml` (the settings), `data.json` (what the data files were), `metrics.jsonl`, `loss.svg`,
//! `tokenizer.json` where the tokenizer is a file, `model.safetensors` (bf16, official names: what `anser generate`
//! opens) and `checkpoints/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anser_checkpoint::{Checkpoint, Dtype, Tensor, TokenizerHint, Version, write_safetensors};
use anser_nn::gradients::Trainable;
use anser_nn::model::{LanguageModel, Sizes};
use anser_nn::task::language::Plan;
use anser_tokenizer::{Template, Tokenizer};

use crate::Error;
use crate::data::{Batch, Corpus, Fingerprint, LoadOptions, MagicPrime, Packed, Progress as Loading};
use crate::files::write_whole;
use crate::groups::Architecture;
use crate::init;
use crate::language::{Data, Method};
use crate::metrics::{self, Metrics};
use crate::plot::loss_curve;
use crate::settings::{Run, TokenizerChoice};
use crate::snapshot::{self, Snapshot};
use crate::trainer::{End, Event, Recipe, Trainer};

/// Held-out tokens that one forward pass takes.
const EVAL_ROWS: usize = 4096;

/// A run that is ready to go.
pub struct Session {
    /// Its settings.
    pub run: Run,
    /// What it trains.
    pub architecture: Architecture,
    /// The model and where it stands.
    pub trainer: Trainer<LanguageModel>,
    /// How it goes.
    pub recipe: Recipe,
    /// How its gradients are computed.
    pub method: Method,
    /// What it learns from.
    pub corpus: Corpus,
    /// What its loss is measured on.
    pub valid: Option<Corpus>,
    /// Bytes of text a held-out target stands for, on average; for bits a byte.
    pub bytes_per_token: Option<f64>,
    stream: Stream,
}

/// Where training batches come from.
enum Stream {
    Packed(Packed),
    MagicPrime(MagicPrime),
}

/// The run's data, as the trainer asks for it.
struct Source<'a> {
    stream: &'a Stream,
    corpus: &'a Corpus,
    valid: Option<&'a Corpus>,
    run: &'a Run,
}

impl Data for Source<'_> {
    fn batch(&self, index: u64) -> Result<Batch, Error> {
        match self.stream {
            Stream::Packed(stream) => stream.batch(index),
            Stream::MagicPrime(stream) => stream.batch(index),
        }
    }

    fn evaluation(&self) -> Result<Vec<Batch>, Error> {
        self.corpus.verify_unchanged()?;
        held_out(self.valid, self.run)
    }
}

/// The batches of an evaluation, at most `run.eval_tokens` targets.
fn held_out(valid: Option<&Corpus>, run: &Run) -> Result<Vec<Batch>, Error> {
    let Some(valid) = valid else { return Ok(Vec::new()) };
    let mut batches = Vec::new();
    let mut tokens = 0;
    for batch in valid.evaluation(run.context, EVAL_ROWS.max(run.context))? {
        let batch = batch?;
        tokens += batch.tokens.len() as u64;
        batches.push(batch);
        if run.eval_tokens > 0 && tokens >= run.eval_tokens {
            break;
        }
    }
    Ok(batches)
}

impl Session {
    /// Reads the data and makes, loads or resumes the model; begins the run's folder.
    ///
    /// # Errors
    /// [`Error`] of every kind: files, data, settings that do not fit the checkpoint.
    pub fn prepare(run: Run, progress: &mut dyn FnMut(Loading<'_>)) -> Result<Session, Error> {
        anser_nn::threads::set_threads(run.threads);
        let began = run.out.join("run.toml").exists();
        if began && !run.resume {
            return Err(Error::Setting {
                name: "--out",
                found: format!("{}, which holds a run", run.out.display()),
                expected: "another folder, or --resume to go on with that run".into(),
            });
        }
        let init = run.init.as_deref().map(Checkpoint::open).transpose()?;
        let tokenizer = tokenizer(&run, init.as_ref())?;
        let vocab = init.as_ref().map_or_else(|| rows(&tokenizer), |init| init.config().vocab);
        let options = LoadOptions {
            tokenizer: tokenizer.clone(),
            template: Template::World,
            separator: run.separator.clone(),
            vocab,
        };
        let whole = Corpus::load(&run.data, &options, progress)?;
        check_data(&run.out.join("data.json"), &whole)?;
        let (corpus, valid) = match &run.valid {
            Some(path) => (whole, Some(Corpus::load(std::slice::from_ref(path), &options, progress)?)),
            None if run.valid_fraction > 0.0 => {
                let (corpus, valid) = whole.hold_out(run.valid_fraction)?;
                (corpus, Some(valid))
            }
            None => (whole, None),
        };
        let stream = match run.magic_prime {
            true => Stream::MagicPrime(MagicPrime::new(&corpus, run.context, run.batch)?),
            false => Stream::Packed(Packed::new(&corpus, run.context, run.batch, run.seed)?),
        };
        let (architecture, sizes) = sizes_of(&run, init.as_ref(), vocab)?;
        let trainer = trainer(&run, &sizes, init.as_ref())?;
        let steps = run.total_steps(corpus.targets());
        let recipe = Recipe {
            steps,
            schedule: run.schedule(steps),
            betas: (run.betas[0], run.betas[1]),
            eps: run.eps(architecture),
            weight_decay: run.weight_decay,
            clip: (run.clip > 0.0).then_some(run.clip),
            eval_every: run.eval_every,
            save_every: run.save_every,
            keep: run.keep,
            snapshots: Some(run.out.join("checkpoints")),
            patience: run.patience,
        };
        let method = Method {
            architecture,
            layerwise: run.layerwise_lr,
            accumulate: run.accumulate as u64,
            l2_wrap: run.l2wrap as f32,
            plan: Plan {
                checkpoint: run.checkpoint_activations,
                chunk: run.bptt,
                forget: !run.carry_state,
                state_gradient: run.state_grad,
            },
            shards: run.shards,
        };
        fs::create_dir_all(&run.out).map_err(Error::io(&run.out))?;
        let fingerprints = serde_json::to_vec_pretty(corpus.fingerprints()).unwrap_or_default();
        write_whole(&run.out.join("data.json"), &fingerprints)?;
        write_whole(&run.out.join("run.toml"), run.to_toml()?.as_bytes())?;
        if let Some(file) = tokenizer_file(&run, init.as_ref()) {
            let to = run.out.join("tokenizer.json");
            if file != to {
                write_whole(&to, &fs::read(&file).map_err(Error::io(&file))?)?;
            }
        }
        let bytes_per_token = bytes_per_token(&tokenizer, &held_out(valid.as_ref(), &run)?);
        Ok(Session { run, architecture, trainer, recipe, method, corpus, valid, bytes_per_token, stream })
    }

    /// Trains to the end, or until `stop` is set; the model and the run's records are in its folder then.
    ///
    /// # Errors
    /// As [`Trainer::run`], or what `tell` returns.
    pub fn train(
        &mut self,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&Event) -> Result<(), Error>,
    ) -> Result<End, Error> {
        let data = Source { stream: &self.stream, corpus: &self.corpus, valid: self.valid.as_ref(), run: &self.run };
        let path = self.run.out.join("metrics.jsonl");
        let mut metrics = match self.trainer.progress.step {
            0 => Metrics::create(&path)?,
            step => Metrics::resume(&path, step)?,
        };
        let picture = self.run.out.join("loss.svg");
        let names = self.run.data.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
        let title = format!("{} on {}", self.architecture, names.collect::<Vec<_>>().join(", "));
        let mut keep = |event: &Event| {
            match event {
                Event::Metric(entry) => metrics.append(entry)?,
                Event::Saved(_) => write_whole(
                    &picture,
                    loss_curve(&title, "loss (nats per token)", &metrics::read(&path)?).svg().as_bytes(),
                )?,
            }
            tell(event)
        };
        let end = self.trainer.run(&self.recipe, &self.method.on(&data), stop, &mut keep)?;
        self.export(&self.run.out.join("model.safetensors"))?;
        Ok(end)
    }

    /// Writes the model in bf16 under official names.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub fn export(&self, path: &Path) -> Result<(), Error> {
        let mut tensors = Vec::new();
        self.trainer.model().read(|name, shape, values| {
            tensors.push(Tensor::from_f32(name, shape, Dtype::Bf16, values));
        });
        let metadata = [
            ("format".to_string(), "pt".to_string()),
            ("architecture".to_string(), self.architecture.to_string()),
            ("steps".to_string(), self.trainer.progress.step.to_string()),
            ("tokens".to_string(), self.trainer.progress.tokens.to_string()),
        ];
        Ok(write_safetensors(path, &tensors, &metadata)?)
    }
}

/// Rows of an embedding for this tokenizer.
fn rows(tokenizer: &Tokenizer) -> usize {
    match tokenizer {
        Tokenizer::World(_) => 65536,
        other => other.vocab_size(),
    }
}

/// Fails when the run began with other data.
fn check_data(path: &Path, corpus: &Corpus) -> Result<(), Error> {
    let Ok(text) = fs::read(path) else { return Ok(()) };
    let before: Vec<Fingerprint> = serde_json::from_slice(&text)
        .map_err(|error| Error::Malformed { file: path.to_path_buf(), what: error.to_string() })?;
    let (began, now) = (before.len(), corpus.fingerprints().len());
    if began != now {
        let what = format!("the run began with {began} data files, now there are {now}");
        return Err(Error::DataChanged { file: path.to_path_buf(), what });
    }
    for (before, now) in before.iter().zip(corpus.fingerprints()) {
        if (before.bytes, &before.sha256) != (now.bytes, &now.sha256) {
            let what = format!("the run began with {}", before.file.display());
            return Err(Error::DataChanged { file: now.file.clone(), what });
        }
    }
    Ok(())
}

/// The file of the run's tokenizer, if it is one.
fn tokenizer_file(run: &Run, init: Option<&Checkpoint>) -> Option<PathBuf> {
    match (&run.tokenizer, init.map(Checkpoint::tokenizer)) {
        (Some(TokenizerChoice::File(file)), _) => Some(file.clone()),
        (None, Some(TokenizerHint::File(file))) => Some(file),
        _ => None,
    }
}

fn tokenizer(run: &Run, init: Option<&Checkpoint>) -> Result<Tokenizer, Error> {
    if let Some(file) = tokenizer_file(run, init) {
        return Ok(Tokenizer::from_file(&file)?);
    }
    Ok(match (&run.tokenizer, init.map(Checkpoint::tokenizer)) {
        (Some(TokenizerChoice::World), _) | (None, Some(TokenizerHint::World)) => Tokenizer::world(),
        (None, Some(TokenizerHint::Unknown)) => {
            return Err(Error::Setting {
                name: "--tokenizer",
                found: "not given".into(),
                expected: "world, byte or a tokenizer.json: the checkpoint of --init does not say which".into(),
            });
        }
        _ => Tokenizer::byte(),
    })
}

fn sizes_of(run: &Run, init: Option<&Checkpoint>, vocab: usize) -> Result<(Architecture, Sizes), Error> {
    if let Some(init) = init {
        let config = init.config();
        return match Architecture::of(config.version) {
            Some(architecture) => Ok((architecture, config.into())),
            None => Err(anser_nn::Error::Version { version: config.version.to_string() }.into()),
        };
    }
    let architecture = run.model.unwrap_or(Architecture::V7);
    let (layers, width) = (run.layers.unwrap_or(4), run.width.unwrap_or(256));
    Ok((architecture, sizes(architecture, vocab, layers, width, run.head_size, run.ffn)?))
}

/// The official sizes of a model, a transformer included.
///
/// # Errors
/// As [`init::sizes`].
pub fn sizes(
    architecture: Architecture,
    vocab: usize,
    layers: usize,
    width: usize,
    head_size: Option<usize>,
    ffn: Option<usize>,
) -> Result<Sizes, Error> {
    // The transformer has the sizes of a version with heads and a channel mix four times as wide.
    let config = init::sizes(architecture.version().unwrap_or(Version::V7), vocab, layers, width, head_size, ffn)?;
    Ok(match architecture.version() {
        Some(_) => (&config).into(),
        None => Sizes::transformer(vocab, layers, width, config.head_size, config.ffn),
    })
}

/// The model and its state: from the last snapshot, a checkpoint, or the initial values.
fn trainer(run: &Run, sizes: &Sizes, init: Option<&Checkpoint>) -> Result<Trainer<LanguageModel>, Error> {
    let device = anser_nn::cpu();
    let last = if run.resume { snapshot::list(&run.out.join("checkpoints"))?.pop() } else { None };
    if let Some((_, place)) = last {
        let Snapshot { mut weights, optimizer, progress } = snapshot::load(&place)?;
        let names: Vec<String> = weights.keys().cloned().collect();
        let has = |name: &str| names.iter().any(|own| own == name);
        let mut read = |name: &str, _: &[usize]| Ok(weights.remove(name).unwrap_or_default());
        let model = LanguageModel::new(sizes, &device, &has, &mut read)?;
        return Ok(Trainer::resume(model, optimizer, progress));
    }
    let model = match init {
        Some(checkpoint) => LanguageModel::load(checkpoint, &device)?,
        None => initial(sizes, run.seed)?,
    };
    Ok(Trainer::new(model))
}

/// A model of the official initial values.
///
/// # Errors
/// [`Error::NoInitialValue`] for sizes that no official model has.
pub fn initial(sizes: &Sizes, seed: u64) -> Result<LanguageModel, Error> {
    let mut failed = None;
    // The official trainers write block 0's v0, v1, v2, which nothing reads; released models lack them, and so do ours.
    let has = |_: &str| false;
    let mut read = |name: &str, shape: &[usize]| {
        let drawn = match sizes.config() {
            Some(config) => init::initial(&config, name, shape, seed),
            None => init::initial_transformer(sizes.layers, name, shape, seed),
        };
        Ok(drawn.unwrap_or_else(|error| {
            failed.get_or_insert(error);
            vec![0.0; shape.iter().product()]
        }))
    };
    let model = LanguageModel::new(sizes, &anser_nn::cpu(), &has, &mut read)?;
    match failed {
        Some(error) => Err(error),
        None => Ok(model),
    }
}

/// Bytes that a held-out target stands for, on average.
fn bytes_per_token(tokenizer: &Tokenizer, batches: &[Batch]) -> Option<f64> {
    let targets = batches.iter().flat_map(|batch| batch.targets.iter().zip(&batch.weights));
    let (mut bytes, mut count) = (0, 0);
    for (&target, _) in targets.filter(|(_, weight)| **weight != 0.0) {
        bytes += tokenizer.token_bytes(target).map_or(0, |bytes| bytes.len());
        count += 1;
    }
    (count > 0 && bytes > 0).then(|| bytes as f64 / f64::from(count))
}
