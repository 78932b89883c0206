//! `anser logits`: the raw scores, for whoever wants to compare them with another runtime's.

use std::fmt::Write;

use anser_engine::sampling::top_log_probabilities;
use anser_engine::{Batch, Logits, prefill};
use anyhow::Result;
use serde::Serialize;

use super::model::{ModelArgs, StateArgs};
use super::output::{self, Progress};
use super::prompt::{PromptArgs, or_start_of_document};

/// Tokens per pass when every position is asked for: bounds the memory of their logits.
const CHUNK: usize = 128;
/// Most probable tokens shown without --json.
const SHOWN: usize = 10;

/// Print the logits of the next token
#[derive(clap::Args)]
#[command(after_help = "\
With --json: {\"logits\": [...]}, the model's raw scores of the last position in f32; with --all
one array a position. Without it: the most probable next tokens.

Examples:
  anser logits model.pth --tokens 34,105,110 --json
  anser logits model.pth --prompt \"The capital of France is\"")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    state: StateArgs,

    /// Every position, not only the last
    #[arg(long, requires = "json")]
    all: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// `[V]`, or `[tokens, V]` with --all.
#[derive(Serialize)]
struct Report<T> {
    logits: T,
}

pub(crate) fn run(args: Args) -> Result<()> {
    args.model.locate()?;
    args.prompt.require()?;
    let mut loaded = args.model.load()?;
    let mut tokens = args.prompt.encode(|| loaded.tokenizer())?;
    if tokens.is_empty() {
        tokens = or_start_of_document(tokens, loaded.tokenizer()?, args.state.state.is_some())?;
    }
    let mut state = loaded.state(&args.state)?;
    let mut progress = Progress::new("reading", tokens.len() as u64, "tokens");
    let (model, exec) = (loaded.model.as_ref(), &mut loaded.exec);
    let mut logits = Vec::new();
    if args.all {
        let vocab = model.config().vocab;
        let mut rows: Vec<Vec<f32>> = Vec::with_capacity(tokens.len());
        for chunk in tokens.chunks(CHUNK) {
            let batch = Batch { tokens: chunk, cu_seqlens: &[0, chunk.len()], logits: Logits::All };
            model.forward(exec, &batch, &mut [&mut state], &mut logits)?;
            rows.extend(logits.chunks_exact(vocab).map(<[f32]>::to_vec));
            progress.set(rows.len() as u64);
        }
        return output::json(&Report { logits: rows });
    }
    prefill(model, exec, &[&tokens], &mut [&mut state], &mut logits, &mut |read| progress.set(read as u64))?;
    drop(progress);
    if args.json {
        return output::json(&Report { logits });
    }
    let mut table = format!("{:>8} {:>10} {:>9}  text\n", "token", "logit", "p");
    for (token, logprob) in top_log_probabilities(&logits, SHOWN)? {
        let bytes = loaded.tokenizer().ok().and_then(|t| t.token_bytes(token));
        let text = bytes.map_or(String::new(), |bytes| format!("{:?}", String::from_utf8_lossy(&bytes)));
        writeln!(table, "{token:>8} {:>10.4} {:>9.5}  {text}", logits[token as usize], logprob.exp())?;
    }
    output::text(&table)
}
