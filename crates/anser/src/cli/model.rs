//! From the MODEL on the command line to a model that runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anser::demo;
use anser_checkpoint::state::{Accept, StateFile};
use anser_checkpoint::{Checkpoint, OpenOptions, TokenizerHint};
use anser_engine::{Executor, InputBits, LoadOptions, Model, Placement, Recipe, State, load};
use anser_tokenizer::Tokenizer;
use anyhow::{Context, Result};

use super::error::{hinted, usage};
use super::hub;
use super::output::Spinner;

/// Which model, and how to run it.
#[derive(clap::Args, Default)]
pub(crate) struct ModelArgs {
    /// A checkpoint: .pth, .safetensors, .gguf, .anser, a Hugging Face directory, or hf:owner/repo[/file] [default: demo, the built-in one]
    pub(crate) model: Option<String>,

    #[command(flatten)]
    pub(crate) how: LoadArgs,
}

/// How to run a model.
#[derive(clap::Args, Default)]
pub(crate) struct LoadArgs {
    /// byte, world, or a vocabulary file (tokenizer.json, rwkv_vocab*.txt) [default: told from the checkpoint]
    #[arg(long, value_name = "byte|world|FILE", help_heading = "Model")]
    pub(crate) tokenizer: Option<String>,

    /// Storage of the matrices: f32, bf16, f16, int8 or int4 [default: as in the checkpoint]
    #[arg(long, value_name = "TYPE", value_parser = parse_recipe, help_heading = "Model")]
    pub(crate) dtype: Option<Recipe>,

    /// Bits of what matrices are multiplied with: integers of 8 or 16 beside quantised ones, 16 (bf16) or 32 (f32) beside bf16; more are more precise, fewer faster on long prompts [default: the fewest there are]
    #[arg(long, value_name = "8|16|32", value_parser = parse_inputs, help_heading = "Model")]
    pub(crate) activations: Option<InputBits>,

    /// Copy a packed file into huge pages instead of mapping it: a slower start, faster decoding
    #[arg(long, help_heading = "Model")]
    pub(crate) copy_weights: bool,

    /// Number of threads [default: one a core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = "Model")]
    pub(crate) threads: usize,

    /// Bind every thread to a core of its own (Linux), for machines that nobody else uses
    #[arg(long, help_heading = "Model")]
    pub(crate) pin_threads: bool,

    /// Epsilon of the norm over each head, for models trained with another than the official 64e-5
    #[arg(long, value_name = "X", help_heading = "Model")]
    pub(crate) group_norm_eps: Option<f32>,

    /// Fail at the first layer whose values turn NaN or infinite, and name it
    #[arg(long, help_heading = "Model")]
    pub(crate) check_numerics: bool,
}

/// Where to go on from.
#[derive(clap::Args)]
#[command(next_help_heading = "State")]
pub(crate) struct StateArgs {
    /// Go on from this state instead of the model's initial one
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,

    /// Accept states of other models of the same shapes, such as fine-tunes of one base
    #[arg(long)]
    pub(crate) allow_foreign_state: bool,
}

/// Where a model is.
pub(crate) enum Place {
    /// In the program.
    BuiltIn,
    File(PathBuf),
}

/// A model ready to run.
pub(crate) struct Loaded {
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) model: Box<dyn Model>,
    pub(crate) exec: Executor,
    pub(crate) load_ms: f64,
    /// Whether it is the one in the program.
    pub(crate) built_in: bool,
    tokenizer: Result<Tokenizer, String>,
}

impl LoadArgs {
    /// What the engine is told.
    pub(crate) fn options(&self) -> LoadOptions {
        let placement = if self.copy_weights { Placement::Copied } else { Placement::Mapped };
        LoadOptions { recipe: self.dtype, placement, inputs: self.activations.unwrap_or(LoadOptions::default().inputs) }
    }
}

impl ModelArgs {
    /// The model of that name, everything else at its default.
    pub(crate) fn named(model: Option<String>) -> ModelArgs {
        ModelArgs { model, ..ModelArgs::default() }
    }

    /// Opens the checkpoint without loading its weights, and says so when nobody named it.
    pub(crate) fn open(&self) -> Result<Arc<Checkpoint>> {
        let options = OpenOptions { group_norm_eps: self.how.group_norm_eps, ..OpenOptions::default() };
        Ok(Arc::new(match self.locate()? {
            Place::File(path) => Checkpoint::open_with(&path, &options)?,
            Place::BuiltIn => {
                if self.model.is_none() {
                    eprintln!("no model named: taking {}, the small one that is built in", demo::NAME);
                }
                demo::checkpoint(&options)?
            }
        }))
    }

    /// Whether it is the model in the program: asked for by its name, or because none was.
    pub(crate) fn built_in(&self) -> bool {
        self.model.as_ref().is_none_or(|name| name == demo::NAME)
    }

    /// Where the checkpoint is; fetched first if it is of the hub.
    pub(crate) fn locate(&self) -> Result<Place> {
        let Some(name) = self.model.as_ref().filter(|_| !self.built_in()) else {
            return Ok(Place::BuiltIn);
        };
        if let Some(address) = name.strip_prefix("hf:") {
            return hub::fetch(address).map(Place::File);
        }
        let path = PathBuf::from(name);
        if path.exists() {
            return Ok(Place::File(path));
        }
        let looks_like_path = !name.contains(char::is_whitespace)
            && (name.contains(['/', '\\'])
                || [".pth", ".pt", ".safetensors", ".gguf", ".anser", ".json"].iter().any(|e| name.ends_with(e)));
        let message = format!("there is no model at {name:?}");
        Err(if looks_like_path {
            let hint = match name.matches('/').count() {
                1 if !name.starts_with(['/', '.']) => {
                    format!("check the path; for a model of the Hugging Face hub write hf:{name}")
                }
                _ => "check the path: a relative one starts at the current directory".to_string(),
            };
            hinted(anyhow::anyhow!(message), hint)
        } else {
            usage(message, format!("MODEL is a path, hf:owner/repo or demo; did you mean --prompt {name:?}?"))
        })
    }

    /// The checkpoint's own tokenizer, or why it cannot be told.
    pub(crate) fn tokenizer_of(&self, checkpoint: &Checkpoint) -> Result<Result<Tokenizer, String>> {
        if self.built_in() { Ok(Ok(demo::tokenizer()?)) } else { guess_tokenizer(checkpoint) }
    }

    /// Opens and loads the model.
    pub(crate) fn load(&self) -> Result<Loaded> {
        let started = Instant::now();
        let checkpoint = self.open()?;
        let spinner = Spinner::new(format!("loading {}", checkpoint.path().display()));
        let mut exec = Executor::new(self.how.threads);
        exec.check_numerics = self.how.check_numerics;
        let model = load(checkpoint.clone(), &exec, &self.how.options())?;
        drop(spinner);
        let tokenizer = match &self.how.tokenizer {
            Some(name) => Ok(named_tokenizer(name)?),
            None => self.tokenizer_of(&checkpoint)?,
        };
        if self.how.pin_threads {
            pin(&exec)?;
        }
        let load_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(Loaded { checkpoint, model, exec, load_ms, built_in: self.built_in(), tokenizer })
    }
}

/// Binds the threads to cores.
pub(crate) fn pin(exec: &Executor) -> Result<()> {
    let threads = exec.threads();
    let hint = "this needs Linux and a core for each thread; ask for fewer, or leave --pin-threads out";
    if exec.pin_threads() { Ok(()) } else { Err(usage(format!("cannot bind {threads} threads to cores"), hint)) }
}

impl Loaded {
    /// The model's tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().map_err(|message| {
            usage(
                message.clone(),
                "say which: --tokenizer world, --tokenizer byte or --tokenizer FILE; or pass --tokens",
            )
        })
    }

    /// What a forward pass and its text need, borrowed side by side.
    pub(crate) fn parts(&mut self) -> Result<(&dyn Model, &mut Executor, &Tokenizer)> {
        // Ask first: the error path needs all of self.
        self.tokenizer()?;
        let Loaded { model, exec, tokenizer, .. } = self;
        let tokenizer = tokenizer.as_ref().map_err(|message| anyhow::anyhow!(message.clone()))?;
        Ok((&**model, exec, tokenizer))
    }

    /// The state of a file, if it is this model's.
    pub(crate) fn load_state(&self, path: &Path, allow_foreign: bool) -> Result<State> {
        let file = StateFile::load(path)?;
        let (config, fingerprint) = (self.model.config(), self.checkpoint.fingerprint());
        let accept = if allow_foreign { Accept::SameShapes } else { Accept::SameModel };
        file.check(path, config, &fingerprint, accept).map_err(|error| {
            match file.check(path, config, &fingerprint, Accept::SameShapes) {
                Ok(()) => hinted(error, "--allow-foreign-state accepts it"),
                Err(_) => error.into(),
            }
        })?;
        let mut state = self.model.new_state();
        state.restore(&file)?;
        Ok(state)
    }

    /// The state to start from: the given file's, or the model's own.
    pub(crate) fn state(&self, from: &StateArgs) -> Result<State> {
        match &from.state {
            Some(path) => self.load_state(path, from.allow_foreign_state),
            None => Ok(self.model.new_state()),
        }
    }

    /// Writes a state, whole or not at all.
    pub(crate) fn save_state(&self, state: &State, path: &Path) -> Result<()> {
        let file = state.to_file(&self.checkpoint.fingerprint());
        file.save(path).with_context(|| format!("the state was not saved to {}", path.display()))
    }
}

pub(crate) fn parse_recipe(text: &str) -> Result<Recipe, String> {
    text.parse().map_err(|_| format!("expected one of {}", Recipe::ALL.map(|recipe| recipe.name).join(", ")))
}

pub(crate) fn parse_inputs(text: &str) -> Result<InputBits, String> {
    match text {
        "8" => Ok(InputBits::Eight),
        "16" => Ok(InputBits::Sixteen),
        "32" => Ok(InputBits::ThirtyTwo),
        _ => Err("expected 8, 16 or 32".to_string()),
    }
}

pub(crate) fn named_tokenizer(name: &str) -> Result<Tokenizer> {
    Ok(match name {
        "world" => Tokenizer::world(),
        "byte" => Tokenizer::byte(),
        file if Path::new(file).exists() => Tokenizer::from_file(Path::new(file))?,
        other => {
            return Err(usage(
                format!("there is no tokenizer {other:?}"),
                "--tokenizer takes world, byte, or the path of a tokenizer.json or rwkv_vocab*.txt",
            ));
        }
    })
}

/// The checkpoint's own tokenizer, or why it cannot be told.
fn guess_tokenizer(checkpoint: &Checkpoint) -> Result<Result<Tokenizer, String>> {
    Ok(match checkpoint.tokenizer() {
        TokenizerHint::World => Ok(Tokenizer::world()),
        TokenizerHint::Byte => Ok(Tokenizer::byte()),
        TokenizerHint::File(path) => Ok(Tokenizer::from_file(&path)?),
        TokenizerHint::Json(text) => Ok(Tokenizer::from_bytes(text.as_bytes(), None)?),
        TokenizerHint::Unknown => Err(format!(
            "the checkpoint does not say which tokenizer goes with its vocabulary of {}",
            checkpoint.config().vocab
        )),
    })
}
