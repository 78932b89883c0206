//! One way for every failure to reach the user: the chain of causes, a hint, an exit code.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Exit code of wrong usage, as clap's own.
pub(crate) const USAGE: u8 = 2;
const FAILED: u8 = 1;
const INTERRUPTED: u8 = 130;

/// The user pressed Ctrl-C; what was written so far is whole.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Whoever read our output has had enough: no failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct ClosedPipe;

/// The command line asks for something that makes no sense.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// What to do about an error, printed on a line of its own.
#[derive(Debug)]
struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Attaches a hint to an error.
pub(crate) fn hinted(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> anyhow::Error {
    Hinted { error: error.into(), hint: hint.into() }.into()
}

/// An error of usage with a hint.
pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    hinted(Usage(message.into()), hint)
}

fn hint(error: &anyhow::Error) -> Option<&Hinted> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// Looks for a cause of the given type, through hints too.
fn find<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref()).or_else(|| hint(error).and_then(|h| find(&h.error)))
}

/// Prints an error and says which exit code it deserves.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if find::<ClosedPipe>(error).is_some() {
        return ExitCode::SUCCESS;
    }
    let mut stderr = std::io::stderr().lock();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (red, plain) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    // A stderr that cannot be written to leaves nobody to tell.
    let _ = writeln!(stderr, "{red}error{plain}: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Libraries often repeat their cause inside their own message.
        if !said.contains(&text) {
            let _ = writeln!(stderr, "  cause: {text}");
            said = text;
        }
    }
    if let Some(hinted) = hint(error) {
        let _ = writeln!(stderr, "\nhint: {}", hinted.hint);
    }
    let code = if find::<Interrupted>(error).is_some() {
        INTERRUPTED
    } else if find::<Usage>(error).is_some() {
        USAGE
    } else {
        FAILED
    };
    ExitCode::from(code)
}
