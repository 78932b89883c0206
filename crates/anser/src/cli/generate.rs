//! `anser generate`: continue a prompt, or many.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use anser_engine::sampling::Sampling;
use anser_engine::{Batch, Event, Finish, Logits, Request, Scheduler};
use anyhow::Result;
use serde::Serialize;

use super::batch;
use super::error::Interrupted;
use super::model::{ModelArgs, StateArgs};
use super::output::{self, Interrupt, Progress};
use super::prompt::{PromptArgs, or_start_of_document};
use super::reply::Reply;
use super::sampling::SamplingArgs;

/// Prompt tokens that the scheduler reads in a step.
const PASS: u64 = 256;

/// Continue a prompt
#[derive(clap::Args)]
#[command(after_help = "\
The continuation goes to stdout, everything else to stderr. Text ends at --max-tokens, at a stop
string or at the end-of-document token. The saved state has read the prompt and all tokens drawn.
Sampling defaults: temperature 1, top-p 0.85, no penalties.

Many prompts: --input holds one JSON object a line, {\"prompt\": ...} or {\"tokens\": [...]}, with
an optional \"id\" and overrides (\"max_tokens\", \"stop\", \"seed\", \"temperature\", ...). Every row
yields the text that its prompt alone would. Rows already in --output are kept: run the same
command again to go on after a crash or Ctrl-C.

Examples:
  anser generate --prompt \"Once upon a time\"
  anser generate model.pth --prompt \"Once upon a time\" --max-tokens 100
  anser generate model.gguf --prompt-file notes.txt --temperature 0 --raw > continuation.bin
  anser generate model.pth --prompt \"A long preface\" --max-tokens 0 --save-state preface.state
  anser generate model.pth --state preface.state --prompt \" and then\"
  anser generate model.pth --input prompts.jsonl --output texts.jsonl --batch 16")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    pub(crate) batch: batch::BatchArgs,

    #[command(flatten)]
    pub(crate) state: StateArgs,

    /// Keep the state for later
    #[arg(long, value_name = "FILE", help_heading = "State", conflicts_with = "input")]
    save_state: Option<PathBuf>,

    /// Most tokens to produce
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256, help_heading = "Output")]
    pub(crate) max_tokens: usize,

    /// End the text before this string; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Output")]
    pub(crate) stop: Vec<String>,

    /// Go on after the end-of-document token
    #[arg(long, help_heading = "Output")]
    pub(crate) ignore_end: bool,

    /// Write the bytes as they are, also those that are no text
    #[arg(long, conflicts_with = "json", help_heading = "Output")]
    raw: bool,

    /// Print one JSON object: model, text, tokens, logprobs, finish, prompt_tokens, timings
    #[arg(long, conflicts_with = "input", help_heading = "Output")]
    json: bool,

    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Why a text ended, as scripts see it.
pub(crate) fn finish_name(finish: &Finish, stopped: bool) -> &'static str {
    match finish {
        _ if stopped => "stop",
        Finish::Stop => "end",
        Finish::Length => "length",
        Finish::Cancelled => "interrupted",
        Finish::Failed(_) => "failed",
    }
}

/// How text is drawn when nothing else is asked for.
pub(crate) fn defaults() -> Sampling {
    Sampling { top_p: 0.85, ..Sampling::default() }
}

impl Args {
    /// The sampling options.
    pub(crate) fn sampling(&self) -> Sampling {
        self.sampling.resolve(&defaults())
    }
}

#[derive(Serialize)]
struct Report {
    model: String,
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    finish: &'static str,
    prompt_tokens: usize,
    timings: Timings,
}

#[derive(Serialize)]
struct Timings {
    load_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    prefill_tok_s: f64,
    decode_tok_s: f64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    if args.batch.input.is_some() {
        return batch::run(args);
    }
    // A MODEL that is none explains itself first: it may be the prompt.
    args.model.locate()?;
    args.prompt.require()?;
    let interrupt = Interrupt::listen()?;
    let mut loaded = args.model.load()?;
    let state = loaded.state(&args.state)?;
    let (load_ms, name) = (loaded.load_ms, loaded.checkpoint.path().display().to_string());
    let (model, exec, tokenizer) = loaded.parts()?;
    let prompt = args.prompt.encode(|| Ok(tokenizer))?;
    let prompt = or_start_of_document(prompt, tokenizer, args.state.state.is_some())?;
    let end = tokenizer.end_of_document().filter(|_| !args.ignore_end);

    let mut scheduler = Scheduler::new(model, 1);
    let prompt_tokens = prompt.len();
    let id = scheduler.submit(Request {
        prompt,
        state: Some(state),
        sampling: args.sampling(),
        max_tokens: args.max_tokens,
        stop_tokens: end.into_iter().collect(),
    })?;

    let mut reply = Reply::new(tokenizer, &args.stop, args.raw);
    let mut text = Vec::new();
    let started = Instant::now();
    let mut first_token = None;
    let mut progress = Some(Progress::new("reading the prompt", prompt_tokens as u64, "tokens"));
    let mut read = 0;
    let (finish, mut state) = 'run: loop {
        if interrupt.requested()
            && let Some(Event::Finished { finish, state, .. }) = scheduler.cancel(id)
        {
            break (finish, state);
        }
        for event in scheduler.step(exec)? {
            match event {
                Event::Token { choice, .. } => {
                    progress = None;
                    first_token.get_or_insert_with(Instant::now);
                    let new = reply.push(choice);
                    if !args.json && !new.is_empty() {
                        output::write(&new)?;
                    }
                    text.extend(new);
                    if reply.stopped()
                        && let Some(Event::Finished { finish, state, .. }) = scheduler.cancel(id)
                    {
                        break 'run (finish, state);
                    }
                }
                Event::Finished { finish, state, .. } => break 'run (finish, state),
            }
        }
        if let Some(progress) = &mut progress {
            read = (read + PASS).min(prompt_tokens as u64);
            progress.set(read);
        }
    };
    drop(progress);
    let ended = Instant::now();
    let first_token = first_token.unwrap_or(ended);
    if let Finish::Failed(error) = finish {
        return Err(error.into());
    }
    let rest = reply.finish();
    text.extend(&rest);
    let finish = finish_name(&finish, reply.stopped());
    if args.json {
        let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
        let (prefill, decode) = (seconds(started, first_token), seconds(first_token, ended));
        let later = reply.tokens.len().saturating_sub(1);
        output::json(&Report {
            model: name,
            text: String::from_utf8_lossy(&text).into_owned(),
            finish,
            prompt_tokens,
            timings: Timings {
                load_ms,
                prefill_ms: prefill * 1e3,
                decode_ms: decode * 1e3,
                prefill_tok_s: prompt_tokens as f64 / prefill.max(1e-9),
                decode_tok_s: later as f64 / decode.max(1e-9),
            },
            tokens: reply.tokens.clone(),
            logprobs: reply.logprobs.clone(),
        })?;
    } else {
        output::write(&rest)?;
        if !args.raw && std::io::stdout().is_terminal() && !text.ends_with(b"\n") {
            output::write(b"\n")?;
        }
    }

    if let Some(path) = &args.save_state {
        // Nothing was drawn after the last token, so the state has not read it yet.
        if let Some(last) = reply.tokens.last().filter(|last| Some(**last) != end) {
            let batch = Batch { tokens: &[*last], cu_seqlens: &[0, 1], logits: Logits::None };
            model.forward(exec, &batch, &mut [&mut state], &mut Vec::new())?;
        }
        loaded.save_state(&state, path)?;
    }
    if finish == "interrupted" { Err(Interrupted.into()) } else { Ok(()) }
}
