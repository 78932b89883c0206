//! Shell completions and man pages, made from the same definitions as the help texts.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;

use super::{Cli, output};

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = "Example: anser completions bash > ~/.local/share/bash-completion/completions/anser")]
pub(crate) struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub(crate) fn completions(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "anser", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}

/// Print the manual page, or write one a command
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  anser man | man -l -\n  anser man --dir ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write anser.1, anser-generate.1, ... into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn man(args: ManArgs) -> Result<()> {
    let command = Cli::command();
    if let Some(dir) = args.dir {
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        return clap_mangen::generate_to(command, &dir)
            .with_context(|| format!("cannot write the manual pages into {}", dir.display()));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    output::text(&String::from_utf8_lossy(&page))
}
