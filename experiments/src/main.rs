//! Experiments that compare models. Each writes `results.jsonl` (one line a finished run: a stopped experiment goes on
//! where it was), a table in Markdown and plots into its folder.

mod ett;
mod lm_versions;
mod records;
mod state_tracking;
mod tokenizer;

use anyhow::Result;
use clap::Parser;

/// Experiments that compare models
#[derive(Parser)]
#[command(name = "anser-experiments", max_term_width = 100)]
enum Command {
    StateTracking(state_tracking::Args),
    LmVersions(lm_versions::Args),
    Tokenizer(tokenizer::Args),
    Ett(ett::Args),
    #[command(hide = true)]
    Measure(lm_versions::MeasureArgs),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::StateTracking(args) => state_tracking::run(&args),
        Command::LmVersions(args) => lm_versions::run(&args),
        Command::Tokenizer(args) => tokenizer::run(&args),
        Command::Ett(args) => ett::run(&args),
        Command::Measure(args) => lm_versions::measure(&args),
    }
}
