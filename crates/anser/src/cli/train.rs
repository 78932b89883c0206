//! `anser train`: models from text, and of series.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anser_tokenizer::{Template, Tokenizer, train_bpe};
use anser_train::data::{Corpus, LoadOptions};
use anser_train::files::write_whole;
use anser_train::metrics::{self, Entry};
use anser_train::plot::loss_curve;
use anser_train::series;
use anser_train::session::Session;
use anser_train::settings::Settings;
use anser_train::trainer::{End, Event};
use anyhow::Result;
use clap::Subcommand;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::error::Interrupted;
use super::output::{self, Interrupt, Progress};

/// Train models
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Lm(Box<LmArgs>),
    Series(Box<SeriesArgs>),
    Tokenizer(TokenizerArgs),
}

/// Learn a byte-level BPE vocabulary from text
#[derive(clap::Args)]
#[command(after_help = "\
Any text can be encoded with the result and decodes to itself; token 0 ends a document.

Example:
  anser train tokenizer --data stories.jsonl --vocab 2048 --out tokenizer.json
  anser train lm --data stories.jsonl --tokenizer tokenizer.json --out run")]
struct TokenizerArgs {
    /// Text to learn from: .txt, .jsonl (`text`), folders or patterns of them
    #[arg(long, num_args = 1.., required = true, value_name = "PATH")]
    data: Vec<PathBuf>,

    /// Tokens, at least 257: the bytes and the end of a document
    #[arg(long, value_name = "N", default_value_t = 4096)]
    vocab: usize,

    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "tokenizer.json")]
    out: PathBuf,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn tokenizer(args: &TokenizerArgs) -> Result<()> {
    // Bytes as tokens: whatever a model learns from, a vocabulary can.
    let options = LoadOptions { tokenizer: Tokenizer::byte(), template: Template::World, separator: None, vocab: 256 };
    let mut reading: Option<Progress> = None;
    let corpus = Corpus::load(&args.data, &options, &mut |loading| {
        reading.get_or_insert_with(|| Progress::new("reading", loading.total, "bytes")).set(loading.bytes);
    })?;
    drop(reading);
    let mut texts = Vec::new();
    for document in 0..corpus.documents() {
        let bytes: Vec<u8> = corpus.document(document)?.into_iter().map(|token| token as u8).collect();
        texts.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut progress = Progress::new("learning", bytes as u64, "bytes");
    let file = train_bpe(texts.iter(), args.vocab, |done| progress.set(done))?;
    drop(progress);
    let learned = Tokenizer::from_bytes(&file, None)?;
    let mut tokens = 0;
    for text in &texts {
        tokens += learned.encode(text.as_bytes())?.len();
    }
    write_whole(&args.out, &file)?;
    let (vocab, rate) = (learned.vocab_size(), bytes as f64 / tokens.max(1) as f64);
    if args.json {
        return output::json(&json!({
            "out": args.out, "vocab": vocab, "bytes": bytes, "tokens": tokens, "bytes_per_token": rate,
        }));
    }
    output::text(&format!("{}: {vocab} tokens, {rate:.2} bytes a token on this text\n", args.out.display()))
}

/// Train a language model on text
#[derive(clap::Args)]
#[command(after_help = "\
Every setting is a flag, or a key of a TOML file for --config; flags win. The run's folder holds
run.toml (all settings), metrics.jsonl, loss.svg, checkpoints/ and model.safetensors, which
anser generate DIR runs. Ctrl-C finishes the step, saves and stops; --resume goes on to the same
bits as if nothing had happened.

Examples:
  anser train lm --data book.txt --out run
  anser train lm --data stories.jsonl --model v6 --layers 6 --width 384 --epochs 4 --out run
  anser train lm --out run --resume
  anser train lm --init model.pth --data chats.jsonl --out tuned")]
struct LmArgs {
    #[command(flatten)]
    settings: Settings,

    /// Stream the metrics as lines of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Train a forecaster on the series of a CSV or Parquet file
#[derive(clap::Args)]
#[command(after_help = "\
Every setting is a flag, or a key of a TOML file for --config; flags win. What is not given is chosen to
suit the series. The run's folder holds run.toml, metrics.jsonl, loss.svg, checkpoints/ and
model.safetensors, the step with the smallest held-out error so far. Ctrl-C finishes the step, saves
and stops; --resume goes on to the same bits as if nothing had happened.

Examples:
  anser train series --data load.csv --horizon 96 --out run
  anser train series --data load.csv --backbone timer --layers 4 --epochs 10 --out run
  anser train series --out run --resume
  anser forecast load.csv --model run/model.safetensors")]
struct SeriesArgs {
    #[command(flatten)]
    settings: series::settings::Settings,

    /// Stream the metrics as lines of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

fn series(args: SeriesArgs) -> Result<()> {
    keep_memory();
    let mut settings = args.settings;
    if let (true, None, Some(out)) = (settings.resume, &settings.config, &settings.out) {
        settings.config = Some(out.join("run.toml")).filter(|file| file.exists());
    }
    let interrupt = Interrupt::listen()?;
    let mut bar: Option<Progress> = None;
    let mut session = series::session::Session::prepare(settings.with_file()?, &mut |done, all| {
        bar.get_or_insert_with(|| Progress::new("closed form", all, "steps")).set(done);
    })?;
    drop(bar);
    session.report.sentences().iter().for_each(|sentence| eprintln!("{sentence}"));
    let (steps, done) = (session.steps(), session.trainer.progress.step);
    let (shape, method) = (session.planned.plan.shape, &session.planned.plan.method);
    eprintln!(
        "{} with {} parameters: {} rows seen, {} a token, {} said at once; {steps} steps of {} windows",
        shape.backbone,
        session.trainer.model().parameters(),
        method.look_back,
        shape.patch,
        shape.output,
        method.batch
    );
    if done > 0 {
        eprintln!("going on after step {done}");
    }
    let mut screen = Screen::new(steps, done, args.json, "");
    let end = session.train(interrupt.flag(), &mut |event| {
        screen.show(event, None);
        Ok(())
    })?;
    screen.finish();
    let out = session.settings.out.clone().unwrap_or_default();
    if std::io::stderr().is_terminal() {
        let entries = metrics::read(&out.join("metrics.jsonl"))?;
        eprint!("{}", loss_curve("loss", "squared error (deviations)", &entries).text(80, 16));
    }
    let out = out.display();
    match end {
        End::Stopped => {
            let step = session.trainer.progress.step;
            eprintln!("stopped after step {step}; anser train series --out {out} --resume goes on");
            return Err(Interrupted.into());
        }
        End::Converged => eprintln!("the held-out error no longer falls: stopped"),
        End::Finished => {}
    }
    let data = session.settings.data.clone().unwrap_or_default();
    eprintln!("the model is in {out}: anser forecast {} --model {out}/model.safetensors", data.display());
    Ok(())
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Lm(args) => language_model(*args),
        Command::Series(args) => series(*args),
        Command::Tokenizer(args) => tokenizer(&args),
    }
}

/// Makes the allocator keep what a training step frees for the next one. Its defaults give every large buffer back to
/// the system, which then has to hand out (and zero) the same pages again: a tenth of a step.
///
/// The first gigabytes are to lie in huge pages: rows of an activation are up to a page apart, and every one would be
/// looked up by itself. Only what is used is ever taken.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub(super) fn keep_memory() {
    const ROOM: usize = 3 << 29;
    const PAGE: usize = 1 << 21;
    // SAFETY: mallopt changes thresholds of the allocator and nothing else; the advice concerns whole pages of a block
    // that nobody uses yet, and leaves its contents alone.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        let room = libc::malloc(ROOM);
        if !room.is_null() {
            let skip = room.cast::<u8>().align_offset(PAGE);
            libc::madvise(room.byte_add(skip), ROOM - PAGE, libc::MADV_HUGEPAGE);
            libc::free(room);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn keep_memory() {}

fn language_model(args: LmArgs) -> Result<()> {
    keep_memory();
    let mut settings = args.settings;
    if let (true, None, Some(out)) = (settings.resume, &settings.config, &settings.out) {
        settings.config = Some(out.join("run.toml")).filter(|file| file.exists());
    }
    let run = settings.with_file()?.resolve()?;
    let interrupt = Interrupt::listen()?;

    let mut reading: Option<Progress> = None;
    let mut session = Session::prepare(run, &mut |loading| {
        reading.get_or_insert_with(|| Progress::new("reading", loading.total, "bytes")).set(loading.bytes);
    })?;
    drop(reading);
    let (steps, done) = (session.recipe.steps, session.trainer.progress.step);
    let parameters = session.trainer.model().parameters();
    eprintln!(
        "{} with {parameters} parameters, {} tokens to learn from, {steps} steps of {} tokens",
        session.architecture,
        session.corpus.tokens(),
        session.run.tokens_per_step(),
    );
    if done > 0 {
        eprintln!("going on after step {done}");
    }

    let mut screen = Screen::new(steps, done, args.json, " nats a token");
    let bytes_per_token = session.bytes_per_token;
    let end = session.train(interrupt.flag(), &mut |event| {
        screen.show(event, bytes_per_token);
        Ok(())
    })?;
    screen.finish();
    if std::io::stderr().is_terminal() {
        let entries = metrics::read(&session.run.out.join("metrics.jsonl"))?;
        eprint!("{}", loss_curve("loss", "loss (nats per token)", &entries).text(80, 16));
    }
    let out = session.run.out.display();
    match end {
        End::Stopped => {
            eprintln!(
                "stopped after step {}; anser train lm --out {out} --resume goes on",
                session.trainer.progress.step
            );
            return Err(Interrupted.into());
        }
        End::Converged => eprintln!("the held-out loss no longer falls: stopped"),
        End::Finished => {}
    }
    eprintln!("the model is in {out}: anser generate {out} --prompt \"...\"");
    Ok(())
}

/// The progress bar, or lines of JSON, or lines of text where stderr is no terminal.
struct Screen {
    bar: ProgressBar,
    json: bool,
    /// Of the held-out loss.
    unit: &'static str,
    /// When the last line of text was written.
    line: Instant,
    loss: f64,
}

/// Between two lines where there is no bar.
const BETWEEN: Duration = Duration::from_secs(10);

impl Screen {
    fn new(steps: u64, done: u64, json: bool, unit: &'static str) -> Screen {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let template = "{wide_bar} step {pos}/{len}, {msg}, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(done);
        bar.reset_eta();
        Screen { bar, json, unit, line: Instant::now(), loss: f64::NAN }
    }

    fn show(&mut self, event: &Event, bytes_per_token: Option<f64>) {
        match event {
            Event::Metric(Entry::Step { step, loss, lr, tokens_per_second, .. }) => {
                // A running mean: single steps are noisy.
                self.loss = if self.loss.is_nan() { *loss } else { 0.95 * self.loss + 0.05 * loss };
                let message = format!("loss {:.3}, lr {lr:.2e}, {tokens_per_second:.0} tokens/s", self.loss);
                self.bar.set_position(*step);
                if self.bar.is_hidden() && self.line.elapsed() >= BETWEEN && !self.json {
                    let left = HumanDuration(self.bar.eta());
                    eprintln!("step {step}/{}, {message}, {left} left", self.bar.length().unwrap_or(0));
                    self.line = Instant::now();
                }
                self.bar.set_message(message);
            }
            Event::Metric(Entry::Eval { step, loss, .. }) => {
                let bits = bytes_per_token.map(|bytes| loss / std::f64::consts::LN_2 / bytes);
                let bits = bits.map_or(String::new(), |bits| format!(", {bits:.4} bits a byte"));
                let line = format!("step {step}: held-out loss {loss:.4}{}{bits}", self.unit);
                if self.bar.is_hidden() {
                    eprintln!("{line}");
                } else {
                    self.bar.println(line);
                }
            }
            Event::Saved(_) => {}
        }
        if self.json {
            // Whoever reads the stream may leave; the training goes on.
            let _ = match event {
                Event::Metric(entry) => output::json(entry),
                Event::Saved(place) => output::json(&json!({ "kind": "saved", "path": place })),
            };
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
