//! `anser convert`: a model in another format, proven to be the same one.

mod beside;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anser_checkpoint::{
    Checkpoint, Config, Dtype, Error, Export, ExportOptions, FolderLayout, Precision, Target, Tensor,
};
use anser_engine::{Batch, Executor, InputBits, LoadOptions, Logits, Recipe, Source, load};
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use super::error::{Interrupted, hinted, usage};
use super::model::ModelArgs;
use super::output::{self, Interrupt, Progress, Spinner};

/// Tokens of the fixed prompt.
const PROMPT: u64 = 24;

/// Write a model in another format, and check that it is the same model
#[derive(clap::Args)]
#[command(after_help = "\
The result is read back: every tensor must have the source's values (rounded, if --dtype asks for
it), and the logits of a fixed prompt must be those of these values to the bit. Only then does it
appear under its name. Writing and comparing hold one tensor at a time, comparing logits one model;
--verify=tensors leaves the logits out.

Examples:
  anser convert RWKV-x070-World-0.1B.pth model.gguf
  anser convert model.pth model-q8_0.gguf --dtype q8_0
  anser convert model.pth model-hf --to hf
  anser convert model.gguf model.pth --dtype bf16")]
pub(crate) struct Args {
    /// A checkpoint: .pth, .safetensors, .gguf, .anser, a Hugging Face directory, hf:owner/repo[/file], or demo
    source: String,

    /// The file or directory to write
    target: PathBuf,

    /// The format [default: told from TARGET's extension]
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<Format>,

    /// Whose names and config a Hugging Face directory has [default: transformers for RWKV-4 and 5, fla for 6 and 7]
    #[arg(long, value_enum, value_name = "LIBRARY")]
    layout: Option<Library>,

    /// f32, bf16, f16, or for GGUF q8_0, q4_0 [default: every value exactly, in the source's type]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Precision>,

    /// What is compared when the result is read back
    #[arg(long, value_enum, value_name = "WHAT", default_value = "logits", default_missing_value = "logits")]
    #[arg(num_args = 0..=1, require_equals = true)]
    verify: Check,

    /// Do not read the result back
    #[arg(long, conflicts_with = "verify")]
    no_verify: bool,

    /// byte, world, or a vocabulary file to go with the model (tokenizer.json, rwkv_vocab*.txt) [default: the source's]
    #[arg(long, value_name = "byte|world|FILE")]
    tokenizer: Option<String>,

    /// Number of threads for the logits [default: one a core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,

    /// Replace TARGET if it exists
    #[arg(long)]
    force: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The official trainer's file
    Pth,
    /// One file with official names
    Safetensors,
    /// A Hugging Face directory
    Hf,
    /// llama.cpp's (RWKV-6 and 7)
    Gguf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Library {
    /// transformers' own class (4), or the code published with the models (5, 6)
    Transformers,
    /// flash-linear-attention (6, 7)
    Fla,
    /// Official names (all versions)
    Native,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Every tensor, then the logits of a fixed prompt
    Logits,
    /// Every tensor
    Tensors,
}

#[derive(Serialize)]
struct Report {
    source: String,
    target: String,
    format: String,
    dtype: String,
    tensors: usize,
    bytes: u64,
    seconds: f64,
    /// Whether every value is the source's, unrounded.
    exact: bool,
    notes: Vec<String>,
    verified: Option<Verified>,
}

#[derive(Serialize)]
struct Verified {
    tensors: usize,
    /// Logits that were compared, all equal; none if only tensors were.
    logits: Option<usize>,
    /// The largest change of a logit, and the mean Kullback-Leibler divergence in nats, by rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    rounding: Option<Rounding>,
}

#[derive(Serialize)]
struct Rounding {
    largest: f32,
    kl: f64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let interrupt = Interrupt::listen()?;
    let format = format_of(&args)?;
    check_place(&args, format)?;
    let from = ModelArgs::named(Some(args.source.clone()));
    let checkpoint = from.open()?;
    let (source, version) = (checkpoint.path().display().to_string(), checkpoint.config().version);
    let target = match (format, args.layout) {
        (Format::Pth, _) => Target::Pth,
        (Format::Safetensors, _) => Target::Safetensors,
        (Format::Gguf, _) => Target::Gguf,
        (Format::Hf, Some(Library::Transformers)) => Target::Folder(FolderLayout::Transformers),
        (Format::Hf, Some(Library::Fla)) => Target::Folder(FolderLayout::Fla),
        (Format::Hf, Some(Library::Native)) => Target::Folder(FolderLayout::Native),
        (Format::Hf, None) => Target::Folder(FolderLayout::usual(version)),
    };
    let beside = beside::gather(&from, &checkpoint, args.tokenizer.as_deref(), target)?;
    let name = args.target.file_stem().map_or_else(|| "rwkv".to_string(), |stem| stem.to_string_lossy().into_owned());
    let options =
        ExportOptions { target, precision: args.dtype, name, vocabulary: beside.vocabulary, files: beside.files };
    let export = Export::plan(checkpoint, options).map_err(explained)?;
    let mut notes = export.notes();
    notes.extend(beside.note);
    notes.iter().for_each(|note| eprintln!("note: {note}"));

    // Everything happens in a folder beside the target; what is left of it after a failure goes with it.
    let (draft, place) = draft(&args.target)?;
    let named = |error: Error| at(error, &place, &args.target);
    let mut progress = Progress::new("writing", export.work(), "bytes");
    let mut tell = |done| follow(&mut progress, &interrupt, done);
    export.write(&place, &mut tell).map_err(named)?;
    drop(progress);
    let written = (!args.no_verify).then(|| -> Result<Checkpoint> {
        let mut progress = Progress::new("comparing", export.work(), "bytes");
        export.verify(&place, &mut |done| follow(&mut progress, &interrupt, done)).map_err(named)
    });
    let exact = export.is_exact()?;
    let (tensors, dtype) = (export.names().len(), args.dtype.unwrap_or(Precision::Plain(export.dtype())));
    let (format, verified) = match written.transpose()? {
        None => (Checkpoint::open(&place).map_err(named)?.format().to_string(), None),
        Some(written) => {
            let format = written.format().to_string();
            let mut verified = Verified { tensors, logits: None, rounding: None };
            if args.verify == Check::Logits {
                compare_logits(export, written, exact, args.threads, &interrupt, &mut verified).map_err(|error| {
                    match error.downcast::<Error>() {
                        Ok(error) => named(error),
                        Err(error) => error,
                    }
                })?;
            }
            (format, Some(verified))
        }
    };
    let bytes = size(&place)?;
    if interrupt.requested() {
        return Err(Interrupted.into());
    }
    install(&draft, &place, &args.target)?;
    let report = Report {
        source,
        target: args.target.display().to_string(),
        format,
        dtype: dtype.to_string(),
        tensors,
        bytes,
        seconds: started.elapsed().as_secs_f64(),
        exact,
        notes,
        verified,
    };
    if args.json { output::json(&report) } else { output::text(&describe(&report)) }
}

fn describe(report: &Report) -> String {
    let Report { source, target, format, dtype, tensors, bytes, seconds, exact, verified, .. } = report;
    let mut out = format!("{source} -> {target}\n");
    out += &format!("{format}, {dtype}, {tensors} tensors, {:.1} MB in {seconds:.1} s\n", *bytes as f64 / 1e6);
    let values = if *exact { "every value is the source's" } else { "every value is the source's, rounded" };
    match verified {
        None => out += "not verified\n",
        Some(Verified { logits: None, .. }) => out += &format!("verified: {values}\n"),
        Some(Verified { logits: Some(logits), rounding, .. }) => {
            out += &format!("verified: {values}; {logits} logits are equal\n");
            if let Some(Rounding { largest, kl }) = rounding {
                out += &format!("rounding moves these logits by at most {largest:.2e}, KL {kl:.2e} nats a token\n");
            }
        }
    }
    out
}

/// What to write, told by the user or by the target's name.
fn format_of(args: &Args) -> Result<Format> {
    let name = args.target.to_string_lossy().to_lowercase();
    let told = match args.target.extension().map(|_| name.rsplit('.').next().unwrap_or_default()) {
        Some("pth" | "pt") => Some(Format::Pth),
        Some("safetensors") => Some(Format::Safetensors),
        Some("gguf") => Some(Format::Gguf),
        _ if name.ends_with(['/', '\\']) || args.layout.is_some() => Some(Format::Hf),
        _ => None,
    };
    let Some(format) = args.to.or(told) else {
        return Err(usage(
            format!("the name {} does not tell a format", args.target.display()),
            "end it in .pth, .safetensors or .gguf, or say --to hf for a Hugging Face directory",
        ));
    };
    if args.layout.is_some() && format != Format::Hf {
        return Err(usage("--layout is of Hugging Face directories", "leave it out, or say --to hf"));
    }
    Ok(format)
}

/// Refuses to write where something is that should stay.
fn check_place(args: &Args, format: Format) -> Result<()> {
    let target = &args.target;
    let Ok(there) = fs::metadata(target) else { return Ok(()) };
    let shown = target.display();
    if !there.is_file() && !there.is_dir() {
        return Err(usage(format!("{shown} exists and is not an ordinary file"), "name another target"));
    }
    if there.is_dir() != (format == Format::Hf) {
        let (is, becomes) = if there.is_dir() { ("directory", "file") } else { ("file", "directory") };
        return Err(usage(format!("{shown} is a {is}, and would become a {becomes}"), "name another target"));
    }
    if !args.force {
        return Err(usage(format!("{shown} exists"), "--force replaces it"));
    }
    // A home directory is replaced too easily.
    if there.is_dir() && !target.join("config.json").is_file() && fs::read_dir(target)?.next().is_some() {
        return Err(usage(
            format!("{shown} is a directory that holds no model (no config.json)"),
            "--force replaces models only; name another target",
        ));
    }
    Ok(())
}

/// A folder beside the target, and the path in it to write to.
fn draft(target: &Path) -> Result<(TempDir, PathBuf)> {
    let cannot = || format!("cannot write {}", target.display());
    // Through a link to what it names: renaming would replace the link.
    let real = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
    let folder = real.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = real.file_name().ok_or_else(|| usage(format!("{} is no name", target.display()), "name a new file"))?;
    if !folder.is_dir() {
        return Err(hinted(anyhow::anyhow!("there is no directory {}", folder.display()), "make it first"));
    }
    let draft = tempfile::Builder::new().prefix(".anser-").suffix(".part").tempdir_in(folder);
    // The reason without the draft's name, which says nothing to the reader.
    let bare = |error: std::io::Error| std::io::Error::from(error.kind());
    let draft = draft.map_err(bare).with_context(cannot)?;
    let place = draft.path().join(name);
    Ok((draft, place))
}

/// Puts the finished draft where it belongs. The old one stays until the new one is there.
fn install(draft: &TempDir, place: &Path, target: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}", target.display());
    let real = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
    let old = draft.path().join(".old");
    let replaces = real.is_dir();
    if replaces {
        fs::rename(&real, &old).with_context(cannot)?;
    }
    if let Err(error) = fs::rename(place, &real) {
        if replaces {
            // Back to what was there; the first failure is the one to tell.
            let _ = fs::rename(&old, &real);
        }
        return Err(error).with_context(cannot);
    }
    #[cfg(unix)]
    if let Some(folder) = real.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // The new name is safe only once the folder is; some file systems cannot.
        let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

/// An error of the draft, told of the target.
fn at(error: Error, place: &Path, target: &Path) -> anyhow::Error {
    let renamed = |file: PathBuf| match file.strip_prefix(place) {
        Ok(rest) if rest.as_os_str().is_empty() => target.to_path_buf(),
        Ok(rest) => target.join(rest),
        Err(_) => file,
    };
    match error {
        Error::Stopped { .. } => Interrupted.into(),
        Error::Io { file, source } if source.kind() == std::io::ErrorKind::StorageFull => {
            let error = Error::Io { file: renamed(file), source };
            hinted(error, "make room, or write to another disk; nothing was left there")
        }
        Error::Io { file, source } => Error::Io { file: renamed(file), source }.into(),
        Error::Differs { file, what, expected, found } => {
            Error::Differs { file: renamed(file), what, expected, found }.into()
        }
        other => explained(other),
    }
}

/// With what to do about it, where the library knows.
fn explained(error: Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => hinted(error, hint),
        None => error.into(),
    }
}

fn follow(progress: &mut Progress, interrupt: &Interrupt, done: u64) -> ControlFlow<()> {
    progress.set(done);
    if interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Bytes of a file, or of all files of a directory.
fn size(place: &Path) -> Result<u64> {
    if !place.is_dir() {
        return Ok(fs::metadata(place)?.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(place)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

/// The values that were to be written, as a model to run.
struct Rounded(Export);

impl Source for Rounded {
    fn path(&self) -> &Path {
        self.0.source().path()
    }
    fn config(&self) -> &Config {
        self.0.source().config()
    }
    fn dtype(&self) -> Dtype {
        self.0.dtype()
    }
    fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }
    fn tensor(&self, name: &str) -> Result<Tensor<'_>, Error> {
        self.0.tensor(name)
    }
}

/// Runs the result and what it should be, one after the other, and, if values were rounded, the source.
fn compare_logits(
    export: Export,
    written: Checkpoint,
    exact: bool,
    threads: usize,
    interrupt: &Interrupt,
    verified: &mut Verified,
) -> Result<()> {
    let mut exec = Executor::new(threads);
    let (place, source) = (written.path().to_path_buf(), export.source().clone());
    // The same storage for all, and no input rounded, so that nothing but the weights can make a difference.
    let recipe = match written.stored_dtype() {
        Dtype::F32 => Recipe::F32,
        Dtype::Bf16 => Recipe::BF16,
        Dtype::F16 => Recipe::F16,
    };
    let mut run = |source: Arc<dyn Source>, recipe: Recipe| -> Result<Vec<f32>> {
        if interrupt.requested() {
            return Err(Interrupted.into());
        }
        let _spinner = Spinner::new(format!("running {}", source.path().display()));
        let model = load(source, &exec, &LoadOptions { inputs: InputBits::ThirtyTwo, ..recipe.into() })?;
        let vocab = model.config().vocab as u64;
        let tokens: Vec<u32> = (0..PROMPT).map(|i| ((7 * i * i + 31 * i + 1) % vocab) as u32).collect();
        let (mut state, mut logits) = (model.new_state(), Vec::new());
        let batch = Batch { tokens: &tokens, cu_seqlens: &[0, tokens.len()], logits: Logits::All };
        model.forward(&mut exec, &batch, &mut [&mut state], &mut logits)?;
        Ok(logits)
    };
    let vocab = source.config().vocab;
    // In this order, so that a source that cannot be run is named, not its copy.
    let expected = run(Arc::new(Rounded(export)), recipe)?;
    let found = run(Arc::new(written), recipe)?;
    let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
    if let Some(at) = expected.iter().zip(&found).position(|pair| !same(pair)) {
        let what = format!("logit {} after token {} of the fixed prompt", at % vocab, at / vocab + 1);
        let (expected, found) = (expected[at].to_string(), found[at].to_string());
        return Err(Error::Differs { file: place, what, expected, found }.into());
    }
    verified.logits = Some(found.len());
    if !exact {
        let unrounded = match source.stored_dtype() {
            Dtype::F32 => Recipe::F32,
            Dtype::Bf16 => Recipe::BF16,
            Dtype::F16 => Recipe::F16,
        };
        verified.rounding = Some(rounding(&run(source, unrounded)?, &found, vocab));
    }
    Ok(())
}

fn rounding(before: &[f32], after: &[f32], vocab: usize) -> Rounding {
    let largest = before.iter().zip(after).fold(0.0f32, |most, (x, y)| most.max((x - y).abs()));
    let log_probabilities = |row: &[f32]| -> Vec<f64> {
        let most = row.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
        let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
        row.iter().map(|&x| f64::from(x - most) - sum.ln()).collect()
    };
    let rows = before.chunks_exact(vocab).zip(after.chunks_exact(vocab));
    let kl: f64 = rows
        .map(|(before, after)| {
            let (p, q) = (log_probabilities(before), log_probabilities(after));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        })
        .sum();
    Rounding { largest, kl: kl.max(0.0) / (before.len() / vocab.max(1)).max(1) as f64 }
}
