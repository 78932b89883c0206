//! `anser quantize`: integer weights in a file that starts at once, and what they cost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anser_checkpoint::{Checkpoint, PackedHeader, PackedTokenizer, TokenizerHint};
use anser_engine::{Divergence, Executor, InputBits, LoadOptions, Model, Recipe, divergence, load, pack};
use anyhow::{Context, Result};
use serde::Serialize;

use super::error::{Interrupted, hinted, usage};
use super::model::{ModelArgs, named_tokenizer, parse_inputs};
use super::output::{self, Interrupt, Progress, Spinner};
use super::prompt;

/// Text to measure on when none is given: two tales of the brothers Grimm, Project Gutenberg 2591, public domain.
const SAMPLE: &str = include_str!("../../assets/sample.txt");

/// Round a model's weights to 8 or 4 bits, and measure what that costs
#[derive(clap::Args)]
#[command(after_help = "\
Writes a packed file: the weights as the engine holds them, mapped when the model is run, so that it
starts at once. What the rounding costs is always measured on a text: perplexity, and the mean
Kullback-Leibler divergence (KL) of the predictions from those of the unrounded model.
Without OUT nothing is written and every recipe is measured.

Examples:
  anser quantize model.pth                           compare the recipes
  anser quantize model.pth model-int8.anser
  anser quantize model.pth model-int4.anser --recipe int4 --text book.txt
  anser generate model-int4.anser --prompt \"Once upon a time\"")]
pub(crate) struct Args {
    /// A checkpoint: .pth, .safetensors, a Hugging Face directory, or hf:owner/repo[/file]
    model: String,

    /// The file to write, .anser by custom
    out: Option<PathBuf>,

    /// int8 or int4 [default: int8; every one without OUT]
    #[arg(short, long, value_name = "NAME", value_parser = parse)]
    recipe: Option<Recipe>,

    /// The text to measure on; - is standard input [default: two public-domain tales, in English]
    #[arg(short, long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Measure on this many tokens at most
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..))]
    tokens: u32,

    /// byte, world, or a vocabulary file (tokenizer.json, rwkv_vocab*.txt) [default: told from the checkpoint]
    #[arg(long, value_name = "byte|world|FILE")]
    tokenizer: Option<String>,

    /// Number of threads [default: one a core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,

    /// Bits of what rounded matrices are multiplied with, in the measurement [default: 8]
    #[arg(long, value_name = "8|16|32", value_parser = parse_inputs)]
    activations: Option<InputBits>,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn parse(text: &str) -> Result<Recipe, String> {
    let recipe = text.parse().ok().filter(Recipe::quantises);
    recipe.ok_or_else(|| format!("expected one of {}", names().join(", ")))
}

fn names() -> Vec<&'static str> {
    Recipe::ALL.iter().filter(|recipe| recipe.quantises()).map(|recipe| recipe.name).collect()
}

#[derive(Serialize)]
struct Report {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
    /// Tokens predicted.
    tokens: usize,
    recipes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    recipe: String,
    bits_per_weight: f64,
    bytes: u64,
    perplexity: f64,
    /// Relative to the unrounded model's.
    perplexity_change: f64,
    /// Mean, in nats a token.
    kl: f64,
    same_top: f64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    if let Some(out) = args.out.as_ref().filter(|out| out.exists() && !args.force) {
        return Err(usage(format!("{} exists", out.display()), "--force replaces it"));
    }
    let from = ModelArgs::named(Some(args.model.clone()));
    let checkpoint = from.open()?;
    if let Some(header) = checkpoint.packed_header() {
        let message = format!("{} is packed already, as {}", checkpoint.path().display(), header.recipe);
        return Err(usage(message, "quantize the model it was made from"));
    }
    let tokens = text_tokens(&args, &from, &checkpoint)?;

    let spinner = Spinner::new(format!("loading {}", checkpoint.path().display()));
    let mut exec = Executor::new(args.threads);
    // Nothing is rounded on this side, the inputs of bf16 matrices neither.
    let reference =
        load(checkpoint.clone(), &exec, &LoadOptions { inputs: InputBits::ThirtyTwo, ..LoadOptions::default() })?;
    drop(spinner);
    let inputs = args.activations.unwrap_or(LoadOptions::default().inputs);
    let mut rows = vec![];
    let recipes: Vec<Recipe> = match (args.recipe, &args.out) {
        (Some(recipe), _) => vec![recipe],
        (None, Some(_)) => vec![Recipe::INT8],
        (None, None) => Recipe::ALL.into_iter().filter(Recipe::quantises).collect(),
    };
    for recipe in recipes {
        let spinner = Spinner::new(format!("rounding to {recipe}"));
        let (model, bytes) = match &args.out {
            None => {
                let model = load(checkpoint.clone(), &exec, &LoadOptions { inputs, ..recipe.into() })?;
                let bytes = model.weight_bytes() as u64;
                (model, bytes)
            }
            Some(out) => {
                let header = describe(&from, &checkpoint, recipe)?;
                pack(checkpoint.clone(), &exec, &LoadOptions { inputs, ..recipe.into() }, out, header)?
            }
        };
        drop(spinner);
        let measured = measure(reference.as_ref(), model.as_ref(), &mut exec, &tokens, recipe, &interrupt)?;
        if rows.is_empty() {
            let bytes = stored_bytes(&checkpoint);
            rows.push(row(&checkpoint, reference.storage(), bytes, measured.reference_nats, None, 0.0, 1.0));
        }
        let before = Some(measured.reference_nats);
        rows.push(row(&checkpoint, recipe.name, bytes, measured.nats, before, measured.kl, measured.same_top));
    }
    let out = args.out.as_ref().map(|out| out.display().to_string());
    let report = Report { model: args.model, out, tokens: tokens.len() - 1, recipes: rows };
    if args.json { output::json(&report) } else { output::text(&table(&report)) }
}

/// The text, as tokens.
fn text_tokens(args: &Args, from: &ModelArgs, checkpoint: &Checkpoint) -> Result<Vec<u32>> {
    let text = match &args.text {
        Some(path) => prompt::read(path)?,
        None => SAMPLE.as_bytes().to_vec(),
    };
    let tokenizer = match &args.tokenizer {
        Some(name) => named_tokenizer(name)?,
        None => from
            .tokenizer_of(checkpoint)?
            .map_err(|message| usage(message, "say which: --tokenizer world, --tokenizer byte or --tokenizer FILE"))?,
    };
    let mut tokens = tokenizer.encode(&text)?;
    tokens.truncate(args.tokens as usize);
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= checkpoint.config().vocab) {
        let found = format!("the tokenizer makes token {token}, the vocabulary has {}", checkpoint.config().vocab);
        return Err(usage(found, "--tokenizer names another one"));
    }
    if tokens.len() < 2 {
        let name = args.text.as_deref().unwrap_or(Path::new("the sample")).display();
        return Err(hinted(
            anyhow::anyhow!("{name}: nothing to predict in {} tokens", tokens.len()),
            "give a longer text",
        ));
    }
    Ok(tokens)
}

fn measure(
    reference: &dyn Model,
    model: &dyn Model,
    exec: &mut Executor,
    tokens: &[u32],
    recipe: Recipe,
    interrupt: &Interrupt,
) -> Result<Divergence> {
    let mut progress = Progress::new(&format!("measuring {recipe}"), tokens.len() as u64, "tokens");
    let measured = divergence(reference, model, exec, tokens, &mut |done| {
        progress.set(done as u64);
        !interrupt.requested()
    })?;
    measured.ok_or_else(|| Interrupted.into())
}

/// What the file says about itself.
fn describe(from: &ModelArgs, checkpoint: &Arc<Checkpoint>, recipe: Recipe) -> Result<PackedHeader> {
    let config = checkpoint.config().clone();
    let mut header =
        PackedHeader::new(config, recipe.name.to_string(), checkpoint.fingerprint(), checkpoint.stored_dtype());
    header.chat_template = checkpoint.chat_template().map(str::to_string);
    header.tokenizer = match checkpoint.tokenizer() {
        _ if from.built_in() => PackedTokenizer::Json(anser::demo::tokenizer_json().to_string()),
        TokenizerHint::World => PackedTokenizer::World,
        TokenizerHint::Byte => PackedTokenizer::Byte,
        TokenizerHint::Json(text) => PackedTokenizer::Json(text),
        TokenizerHint::File(path) => PackedTokenizer::Json(
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?,
        ),
        TokenizerHint::Unknown => PackedTokenizer::Unknown,
    };
    Ok(header)
}

/// Bytes of the weights as the checkpoint has them.
fn stored_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.config().parameters() * checkpoint.stored_dtype().bytes() as u64
}

fn row(checkpoint: &Checkpoint, name: &str, bytes: u64, nats: f64, before: Option<f64>, kl: f64, same_top: f64) -> Row {
    Row {
        recipe: name.to_string(),
        bits_per_weight: bytes as f64 * 8.0 / checkpoint.config().parameters() as f64,
        bytes,
        perplexity: nats.exp(),
        perplexity_change: before.map_or(0.0, |before| (nats - before).exp_m1()),
        kl,
        same_top,
    }
}

fn table(report: &Report) -> String {
    let mut out = format!(
        "{:<8} {:>11} {:>10} {:>12} {:>9} {:>10} {:>9}\n",
        "recipe", "bits/weight", "MB", "perplexity", "change", "KL (nats)", "same top"
    );
    for row in &report.recipes {
        out += &format!(
            "{:<8} {:>11.2} {:>10.1} {:>12.4} {:>+8.3}% {:>10.6} {:>8.2}%\n",
            row.recipe,
            row.bits_per_weight,
            row.bytes as f64 / 1e6,
            row.perplexity,
            100.0 * row.perplexity_change,
            row.kl,
            100.0 * row.same_top
        );
    }
    out += &format!("measured on {} tokens\n", report.tokens);
    if let Some(path) = &report.out {
        out += &format!("wrote {path}\n");
    }
    out
}
