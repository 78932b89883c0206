//! `anser generate --input`: many prompts through one model, resumable.
//!
//! Rows run side by side; each yields what it would alone. They are written in the order of the input, one whole line at
//! a time, so that what a crash leaves is a valid beginning (but for a torn last line, which the next run removes).

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anser_engine::sampling::Sampling;
use anser_engine::{Event, Finish, Request, RequestId, Scheduler, State};
use anser_tokenizer::Tokenizer;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Interrupted, hinted};
use super::generate;
use super::output::{Interrupt, Progress};
use super::prompt::{self, or_start_of_document};
use super::reply::Reply;

/// Flags of the batch mode.
#[derive(clap::Args)]
#[command(next_help_heading = "Many prompts")]
pub(crate) struct BatchArgs {
    /// Prompts, one JSON object a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_source", "raw"])]
    pub(crate) input: Option<PathBuf>,

    /// Where the texts go, one JSON object a line; rows already there are kept [default: stdout]
    #[arg(long, value_name = "FILE", requires = "input")]
    output: Option<PathBuf>,

    /// Prompts that run side by side
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
}

/// One line of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Option<Value>,
    prompt: Option<String>,
    tokens: Option<Vec<u32>>,
    max_tokens: Option<usize>,
    stop: Option<Vec<String>>,
    seed: Option<u64>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical: Option<f32>,
    #[serde(alias = "presence")]
    presence_penalty: Option<f32>,
    #[serde(alias = "frequency")]
    frequency_penalty: Option<f32>,
    #[serde(alias = "repetition")]
    repetition_penalty: Option<f32>,
    penalty_decay: Option<f32>,
}

impl Row {
    fn sampling(&self, base: &Sampling) -> Sampling {
        Sampling {
            seed: self.seed.or(base.seed),
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            typical: self.typical.unwrap_or(base.typical),
            presence: self.presence_penalty.unwrap_or(base.presence),
            frequency: self.frequency_penalty.unwrap_or(base.frequency),
            repetition: self.repetition_penalty.unwrap_or(base.repetition),
            penalty_decay: self.penalty_decay.unwrap_or(base.penalty_decay),
            ..base.clone()
        }
    }
}

/// One line of the output.
#[derive(Serialize)]
struct Line<'a> {
    /// Line of the input, from 0.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    finish: &'static str,
    prompt_tokens: usize,
}

struct Running<'t> {
    index: usize,
    prompt_tokens: usize,
    reply: Reply<'t>,
    text: Vec<u8>,
}

pub(crate) fn run(args: generate::Args) -> Result<()> {
    let input = args.batch.input.clone().unwrap_or_default();
    let rows = read_rows(&input)?;
    let (mut output, kept) = match &args.batch.output {
        Some(path) => open_output(path, &rows)?,
        None => (Output::Stdout, HashSet::new()),
    };
    let interrupt = Interrupt::listen()?;
    let mut loaded = args.model.load()?;
    let state = args.state.state.is_some().then(|| loaded.state(&args.state)).transpose()?;
    let (model, exec, tokenizer) = loaded.parts()?;
    let sampling = args.sampling();
    let job = Job { args: &args, sampling, state, tokenizer, input: &input };

    let width = usize::from(args.batch.batch);
    // A long row must not let the ones behind it pile up in memory.
    let ahead = 8 * width;
    let mut scheduler = Scheduler::new(model, width);
    let mut waiting = rows.iter().enumerate().filter(|(index, _)| !kept.contains(index)).peekable();
    let mut order: std::collections::VecDeque<usize> = Default::default();
    let mut running: BTreeMap<RequestId, Running> = BTreeMap::new();
    let mut done: BTreeMap<usize, String> = BTreeMap::new();
    let (mut written, mut drawn, started) = (0, 0, Instant::now());
    let mut progress = Progress::new("generating", (rows.len() - kept.len()) as u64, "rows");
    loop {
        while running.len() < width
            && order.len() < ahead
            && let Some((index, row)) = waiting.next()
        {
            let request = job.request(index, row)?;
            let prompt_tokens = request.prompt.len();
            let id = scheduler.submit(request).with_context(|| at(&input, index))?;
            let reply = Reply::new(tokenizer, row.stop.as_deref().unwrap_or(&args.stop), false);
            running.insert(id, Running { index, prompt_tokens, reply, text: Vec::new() });
            order.push_back(index);
        }
        if running.is_empty() {
            break;
        }
        if interrupt.requested() {
            return Err(hinted(
                Interrupted,
                format!("{written} rows were written; run the same command again to go on"),
            ));
        }
        let mut events: std::collections::VecDeque<Event> = scheduler.step(exec)?.into();
        while let Some(event) = events.pop_front() {
            match event {
                Event::Token { id, choice } => {
                    let Some(row) = running.get_mut(&id) else { continue };
                    drawn += 1;
                    let new = row.reply.push(choice);
                    row.text.extend(new);
                    if row.reply.stopped() {
                        // If the request ended by itself in this step, its own event says so.
                        events.extend(scheduler.cancel(id));
                    }
                }
                Event::Finished { id, finish, .. } => {
                    let Some(row) = running.remove(&id) else { continue };
                    if let Finish::Failed(error) = finish {
                        return Err(anyhow::Error::new(error).context(at(&input, row.index)));
                    }
                    let index = row.index;
                    done.insert(index, line(row, &rows[index], &finish)?);
                }
            }
        }
        while let Some(line) = order.front().and_then(|first| done.remove(first)) {
            order.pop_front();
            output.write(&line)?;
            written += 1;
            progress.set(written);
        }
    }
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    let rate = f64::from(drawn) / seconds.max(1e-9);
    let before = if kept.is_empty() { String::new() } else { format!(", {} kept from before", kept.len()) };
    eprintln!("{written} rows written{before}; {drawn} tokens in {seconds:.1} s ({rate:.0} a second)");
    Ok(())
}

/// What all rows share.
struct Job<'a> {
    args: &'a generate::Args,
    sampling: Sampling,
    state: Option<State>,
    tokenizer: &'a Tokenizer,
    input: &'a Path,
}

impl Job<'_> {
    fn request(&self, index: usize, row: &Row) -> Result<Request> {
        let prompt = match (&row.prompt, &row.tokens) {
            (Some(text), _) => self.tokenizer.encode(text.as_bytes()).with_context(|| at(self.input, index))?,
            (None, tokens) => tokens.clone().unwrap_or_default(),
        };
        let end = self.tokenizer.end_of_document().filter(|_| !self.args.ignore_end);
        Ok(Request {
            prompt: or_start_of_document(prompt, self.tokenizer, self.state.is_some())
                .with_context(|| at(self.input, index))?,
            state: self.state.clone(),
            sampling: row.sampling(&self.sampling),
            max_tokens: row.max_tokens.unwrap_or(self.args.max_tokens),
            stop_tokens: end.into_iter().collect(),
        })
    }
}

fn at(input: &Path, index: usize) -> String {
    format!("{}: line {}", input.display(), index + 1)
}

/// All rows, so that a bad one is found before the work begins. Blank lines at the end do not count.
fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let text = String::from_utf8(prompt::read(path)?).with_context(|| format!("{}: not UTF-8", path.display()))?;
    let lines = text.trim_end().lines().enumerate();
    let rows = lines.map(|(index, line)| {
        let row: Row = serde_json::from_str(line).with_context(|| at(path, index))?;
        let one = row.prompt.is_some() != row.tokens.is_some();
        if one { Ok(row) } else { Err(anyhow!("{}: expected either a prompt or tokens", at(path, index))) }
    });
    rows.collect()
}

fn line(mut row: Running<'_>, input: &Row, finish: &Finish) -> Result<String> {
    row.text.extend(row.reply.finish());
    let finish = generate::finish_name(finish, row.reply.stopped());
    let line = Line {
        index: row.index,
        id: input.id.as_ref(),
        text: String::from_utf8_lossy(&row.text).into_owned(),
        tokens: row.reply.tokens,
        logprobs: row.reply.logprobs,
        finish,
        prompt_tokens: row.prompt_tokens,
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

enum Output {
    Stdout,
    File(File, PathBuf),
}

impl Output {
    fn write(&mut self, line: &str) -> Result<()> {
        match self {
            Output::Stdout => super::output::text(line),
            Output::File(file, path) => {
                file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }
}

/// Opens the output for appending, removes a torn last line and tells which rows are there.
fn open_output(path: &Path, rows: &[Row]) -> Result<(Output, HashSet<usize>)> {
    #[derive(Deserialize)]
    struct Kept {
        index: usize,
        id: Option<Value>,
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    // A device or a pipe keeps nothing to go on from.
    if !file.metadata()?.is_file() {
        return Ok((Output::File(file, path.to_path_buf()), HashSet::new()));
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let mut kept = HashSet::new();
    for (number, line) in bytes[..whole].split(|&b| b == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let foreign = |what: String| {
            hinted(
                anyhow!("{}: line {}: {what}", path.display(), number + 1),
                "the file is not the output of this input: name another --output, or remove it to begin anew",
            )
        };
        let row: Kept = serde_json::from_slice(line).map_err(|error| foreign(error.to_string()))?;
        match rows.get(row.index) {
            Some(input) if input.id == row.id => kept.insert(row.index),
            Some(_) => return Err(foreign(format!("row {} has another id in the input", row.index))),
            None => return Err(foreign(format!("row {} is beyond the input's {} rows", row.index, rows.len()))),
        };
    }
    if whole < bytes.len() {
        file.set_len(whole as u64)?;
    }
    Ok((Output::File(file, path.to_path_buf()), kept))
}
