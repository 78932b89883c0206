//! The command line: what all commands share stands in `error`, `output`, `model`, `hub`, `prompt` and `sampling`.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

mod batch;
mod bench;
mod chat;
mod convert;
mod error;
mod eval;
#[cfg(feature = "forecast")]
mod forecast;
mod generate;
mod hub;
mod info;
mod logits;
mod model;
mod output;
mod perplexity;
mod prompt;
mod quantize;
mod reply;
mod sampling;
mod shell;
mod state;
#[cfg(feature = "train")]
mod train;
mod zoo;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

/// The program's start, for `anser bench`.
static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
MODEL is a path (.pth, .safetensors, .gguf, .anser or a Hugging Face directory), hf:owner/repo[/file], or
demo: the small model that is built in, taken when none is named.";

/// Run RWKV language models, versions 4 to 7, from the files they are published in
#[derive(Parser)]
#[command(name = "anser", version, after_help = EXIT_CODES, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Logits(logits::Args),
    Perplexity(perplexity::Args),
    Eval(eval::Args),
    Info(info::Args),
    Quantize(quantize::Args),
    Convert(convert::Args),
    State(state::Args),
    Bench(bench::Args),
    Zoo(zoo::Args),
    #[cfg(feature = "train")]
    Train(train::Args),
    #[cfg(feature = "forecast")]
    Forecast(Box<forecast::Args>),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

pub(crate) fn main() -> ExitCode {
    START.get_or_init(Instant::now);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help that nobody reads is no failure.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { error::USAGE } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Info(args) => info::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Convert(args) => convert::run(args),
        Command::State(args) => state::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Zoo(args) => zoo::run(args),
        #[cfg(feature = "train")]
        Command::Train(args) => train::run(args),
        #[cfg(feature = "forecast")]
        Command::Forecast(args) => forecast::run(*args),
        Command::Completions(args) => shell::completions(args),
        Command::Man(args) => shell::man(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure),
    }
}

/// Milliseconds since the program started.
fn since_start_ms() -> f64 {
    START.get_or_init(Instant::now).elapsed().as_secs_f64() * 1e3
}
