//! `anser perplexity`: how well a model predicts a text, in one pass with the state carried.

use std::path::PathBuf;

use anser_engine::score;
use anyhow::{Result, anyhow};
use serde::Serialize;

use super::error::{Interrupted, hinted};
use super::model::ModelArgs;
use super::output::{self, Interrupt, Progress};
use super::prompt;

/// Tokens scored between two looks at the progress bar.
const SLICE: usize = 256;

/// Measure how well a model predicts a text
#[derive(clap::Args)]
#[command(after_help = "\
The text is read once from start to end with the state carried. Nothing is prepended unless --bos
is given, nothing is stripped, and the first token is not scored (with --bos every token is).

Examples:
  anser perplexity model.pth --file book.txt
  anser perplexity model.pth --file book.txt --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The text; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// Begin with token 0, so that the first token is scored too
    #[arg(long)]
    bos: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Perplexity {
    /// Scored tokens.
    tokens: usize,
    nats_per_token: f64,
    perplexity: f64,
    bits_per_byte: f64,
    /// Bytes of the scored tokens.
    bytes: usize,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let text = prompt::read(&args.file)?;
    let interrupt = Interrupt::listen()?;
    let mut loaded = args.model.load()?;
    let tokenizer = loaded.tokenizer()?;
    let mut tokens = tokenizer.encode(&text)?;
    let mut bytes = text.len();
    if args.bos {
        tokens.insert(0, 0);
    } else if let Some(&first) = tokens.first() {
        bytes -= tokenizer.token_bytes(first).map_or(0, |b| b.len()).min(bytes);
    }
    if tokens.len() < 2 {
        let found = anyhow!("{}: nothing to score: the text is {} tokens long", args.file.display(), tokens.len());
        return Err(hinted(
            found,
            "the first token is never scored, so give at least two; --bos scores the first as well",
        ));
    }

    let mut state = loaded.model.new_state();
    let scored = tokens.len() - 1;
    let mut progress = Progress::new("scoring", scored as u64, "tokens");
    let mut total = 0.0;
    for start in (0..scored).step_by(SLICE) {
        if interrupt.requested() {
            return Err(Interrupted.into());
        }
        // Slices share a border token: the last of one is the first, not scored again, of the next.
        let end = (start + SLICE).min(scored);
        let slice = (&tokens[start..=end], 1);
        let scores = score(loaded.model.as_ref(), &mut loaded.exec, &[slice], &mut [&mut state])?;
        total += scores.iter().flatten().map(|s| f64::from(s.logprob)).sum::<f64>();
        progress.set(end as u64);
    }
    drop(progress);

    let nats = -total / scored as f64;
    let bits_per_byte = -total / std::f64::consts::LN_2 / bytes as f64;
    let result = Perplexity { tokens: scored, nats_per_token: nats, perplexity: nats.exp(), bits_per_byte, bytes };
    if args.json {
        return output::json(&result);
    }
    output::text(&format!(
        "perplexity {:.4} a token, {:.5} nats a token, {:.5} bits a byte ({} tokens, {} bytes)\n",
        result.perplexity, result.nats_per_token, result.bits_per_byte, result.tokens, result.bytes
    ))
}
