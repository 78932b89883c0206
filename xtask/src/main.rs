//! Developer tasks: `cargo xtask --help`.

mod world_vocab;

use clap::{Parser, Subcommand};

/// Developer tasks.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make crates/anser-tokenizer/src/world.bin from the World vocabulary file
    WorldVocab(world_vocab::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::WorldVocab(arguments) => world_vocab::run(&arguments),
    }
}
