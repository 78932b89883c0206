//! `anser eval`: standard tasks, scored as the reference demos do. `golden/lm/README.md` holds the definitions.
//!
//! All three tasks ask how probable candidate texts are after a context: context and candidate are encoded apart, and
//! token 0 comes first.

mod rows;

use std::path::Path;

use anser_engine::{Score, State, score};
use anser_tokenizer::Tokenizer;
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::error::{Interrupted, usage};
use super::model::{LoadArgs, Loaded, ModelArgs};
use super::output::{self, Interrupt, Progress};
use rows::Row;

/// Score a model on a task
#[derive(clap::Args)]
#[command(
    override_usage = "anser eval [OPTIONS] --task <TASK> [MODEL] <FILE>",
    after_help = "\
Tasks and their files, one JSON object a line:
  lambada   {\"text\": ...}: is the last word the most probable continuation?
  mcq       {\"question\", \"choices\": [...], \"answer\": 0, \"subject\"}, or with \"prompt\" for the
            question: then the choices are the texts that are compared
  classify  {\"text\", \"label\"}; an optional first line {\"labels\": [...], \"prompt\": \"... {text} ...\"};
            also .tsv (label, text) and .csv with a header (text,label)

Examples:
  anser eval model.pth --task lambada lambada_test.jsonl
  anser eval model.pth --task mcq mmlu.jsonl --limit 100 --json"
)]
pub(crate) struct Args {
    /// MODEL: a checkpoint, as everywhere [default: demo, the built-in one]; FILE: the task's rows
    // One list: clap cannot leave the first of two positionals out when a flag stands between them.
    #[arg(value_name = "MODEL> <FILE", required = true)]
    paths: Vec<String>,

    #[command(flatten)]
    how: LoadArgs,

    /// lambada: the last word of a passage; mcq: multiple choice; classify: one label a text
    #[arg(long, hide_possible_values = true)]
    task: Task,

    /// Only the first N rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Texts scored side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    Lambada,
    Mcq,
    Classify,
}

/// A mean over rows and its standard error, none of one row.
#[derive(Clone, Copy)]
struct Mean {
    mean: f64,
    error: Option<f64>,
}

impl Mean {
    fn of(values: &[f64]) -> Mean {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Mean { mean, error: (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()) }
    }
}

#[derive(Serialize)]
struct Report {
    task: Task,
    rows: usize,
    accuracy: f64,
    accuracy_stderr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_norm_stderr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity_stderr: Option<f64>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let (model, file) = match &args.paths[..] {
        [file] => (None, Path::new(file)),
        [model, file] => (Some(model.clone()), Path::new(file)),
        _ => return Err(usage("too many arguments", "the order is: anser eval MODEL --task TASK FILE")),
    };
    let model = ModelArgs { model, how: args.how };
    model.locate()?;
    let mut rows = match args.task {
        Task::Lambada => rows::lambada(file)?,
        Task::Mcq => rows::mcq(file)?,
        Task::Classify => rows::classify(file)?,
    };
    rows.truncate(args.limit.unwrap_or(usize::MAX).max(1));
    let interrupt = Interrupt::listen()?;
    let mut loaded = model.load()?;
    let mut progress = Progress::new("scoring", rows.len() as u64, "rows");
    let mut outcomes = Vec::with_capacity(rows.len());
    for batch in rows.chunks(args.batch.into()) {
        if interrupt.requested() {
            return Err(Interrupted.into());
        }
        outcomes.extend(score_rows(&mut loaded, batch, args.batch.into())?);
        progress.set(outcomes.len() as u64);
    }
    drop(progress);

    let report = match args.task {
        Task::Lambada => last_word(&outcomes),
        task => choice(task, &rows, &outcomes),
    };
    if args.json { output::json(&report) } else { output::text(&describe(&report)) }
}

/// For each row and each of its candidates, the scores of the candidate's tokens.
fn score_rows(loaded: &mut Loaded, rows: &[Row], width: usize) -> Result<Vec<Vec<Vec<Score>>>> {
    let tokenizer = loaded.tokenizer()?;
    let encode = |text: &str, row: &Row| tokenizer.encode(text.as_bytes()).with_context(|| format!("row {}", row.line));
    let contexts = rows.iter().map(|row| context(tokenizer, row)).collect::<Result<Vec<_>>>()?;
    let mut candidates = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        for text in &row.candidates {
            // The context's last token is what the candidate is scored after.
            let last = contexts[at][contexts[at].len() - 1];
            candidates.push((at, [vec![last], encode(text, row)?].concat()));
        }
    }

    // The contexts are read once each; every candidate goes on from a fork.
    let model = loaded.model.as_ref();
    let mut states: Vec<State> = rows.iter().map(|_| model.new_state()).collect();
    let whole: Vec<(&[u32], usize)> = contexts.iter().map(|tokens| (tokens.as_slice(), tokens.len())).collect();
    score(model, &mut loaded.exec, &whole, &mut states.iter_mut().collect::<Vec<_>>())?;
    let mut outcomes: Vec<Vec<Vec<Score>>> = rows.iter().map(|_| Vec::new()).collect();
    for group in candidates.chunks(width) {
        let mut forks: Vec<State> = group.iter().map(|(row, _)| states[*row].clone()).collect();
        let sequences: Vec<(&[u32], usize)> = group.iter().map(|(_, tokens)| (tokens.as_slice(), 1)).collect();
        let scores = score(model, &mut loaded.exec, &sequences, &mut forks.iter_mut().collect::<Vec<_>>())?;
        for ((row, _), scores) in group.iter().zip(scores) {
            outcomes[*row].push(scores);
        }
    }
    Ok(outcomes)
}

/// Token 0, then the context.
fn context(tokenizer: &Tokenizer, row: &Row) -> Result<Vec<u32>> {
    let tokens = tokenizer.encode(row.context.as_bytes()).with_context(|| format!("row {}", row.line))?;
    Ok([vec![0], tokens].concat())
}

fn total(scores: &[Score]) -> f64 {
    scores.iter().map(|s| f64::from(s.logprob)).sum()
}

fn last_word(outcomes: &[Vec<Vec<Score>>]) -> Report {
    let words: Vec<&[Score]> = outcomes.iter().flatten().map(Vec::as_slice).collect();
    let right: Vec<f64> = words.iter().map(|word| f64::from(u8::from(word.iter().all(|s| s.greedy)))).collect();
    let scores: Vec<f64> = words.iter().map(|word| total(word)).collect();
    let (right, score) = (Mean::of(&right), Mean::of(&scores));
    let perplexity = (-score.mean).exp();
    Report {
        task: Task::Lambada,
        rows: words.len(),
        accuracy: right.mean,
        accuracy_stderr: right.error,
        accuracy_norm: None,
        accuracy_norm_stderr: None,
        perplexity: Some(perplexity),
        perplexity_stderr: score.error.map(|error| perplexity * error),
    }
}

fn choice(task: Task, rows: &[Row], outcomes: &[Vec<Vec<Score>>]) -> Report {
    let (mut right, mut right_norm) = (Vec::new(), Vec::new());
    for (row, candidates) in rows.iter().zip(outcomes) {
        let scores: Vec<f64> = candidates.iter().map(|c| total(c)).collect();
        let norm: Vec<f64> = scores.iter().zip(&row.candidates).map(|(s, text)| s / text.len() as f64).collect();
        right.push(f64::from(u8::from(best(&scores) == row.answer)));
        right_norm.push(f64::from(u8::from(best(&norm) == row.answer)));
    }
    let (right, norm) = (Mean::of(&right), Mean::of(&right_norm));
    Report {
        task,
        rows: rows.len(),
        accuracy: right.mean,
        accuracy_stderr: right.error,
        accuracy_norm: Some(norm.mean),
        accuracy_norm_stderr: norm.error,
        perplexity: None,
        perplexity_stderr: None,
    }
}

/// Index of the greatest, the first among equals.
fn best(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

fn describe(report: &Report) -> String {
    let with = |value: f64, error: Option<f64>| match error {
        Some(error) => format!("{value:.4} ± {error:.4}"),
        None => format!("{value:.4}"),
    };
    let mut out = format!("accuracy {}", with(report.accuracy, report.accuracy_stderr));
    if let Some(norm) = report.accuracy_norm {
        out += &format!(", by score a byte {}", with(norm, report.accuracy_norm_stderr));
    }
    if let Some(perplexity) = report.perplexity {
        out += &format!(", perplexity {} a word", with(perplexity, report.perplexity_stderr));
    }
    out + &format!(" ({} rows)\n", report.rows)
}
