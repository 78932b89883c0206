//! Where a prompt comes from: the command line, a file or token ids. Text is bytes: invalid UTF-8 and NUL are welcome.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anser_tokenizer::Tokenizer;
use anyhow::{Context, Result};

use super::error::{hinted, usage};

/// One of `--prompt`, `--prompt-file`, `--tokens`.
#[derive(clap::Args)]
#[group(id = "prompt_source", multiple = false)]
pub(crate) struct PromptArgs {
    /// The prompt itself
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Prompt")]
    pub(crate) prompt: Option<OsString>,

    /// Read the prompt from a file, byte for byte; - is standard input
    #[arg(short = 'f', long, value_name = "FILE", help_heading = "Prompt")]
    pub(crate) prompt_file: Option<PathBuf>,

    /// The prompt as token ids, separated by commas
    #[arg(long, value_name = "ID,...", value_delimiter = ',', num_args = 1, help_heading = "Prompt")]
    pub(crate) tokens: Option<Vec<u32>>,
}

impl PromptArgs {
    /// An error of usage when no prompt was given.
    pub(crate) fn require(&self) -> Result<()> {
        if self.prompt.is_some() || self.prompt_file.is_some() || self.tokens.is_some() {
            Ok(())
        } else {
            Err(missing())
        }
    }

    /// The prompt as token ids. `tokenizer` is asked for only when there is text to encode.
    pub(crate) fn encode<'t>(&self, tokenizer: impl FnOnce() -> Result<&'t Tokenizer>) -> Result<Vec<u32>> {
        if let Some(tokens) = &self.tokens {
            return Ok(tokens.clone());
        }
        let bytes = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => text.as_encoded_bytes().to_vec(),
            (None, Some(path)) => read(path)?,
            (None, None) => return Err(missing()),
        };
        Ok(tokenizer()?.encode(&bytes)?)
    }
}

fn missing() -> anyhow::Error {
    usage("no prompt given", "pass --prompt TEXT, --prompt-file FILE (- is standard input) or --tokens 1,2,3")
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What to feed when the prompt is empty: a World model starts a new document by token 0; a byte model has no such token.
pub(crate) fn or_start_of_document(tokens: Vec<u32>, tokenizer: &Tokenizer, resumed: bool) -> Result<Vec<u32>> {
    if !tokens.is_empty() {
        return Ok(tokens);
    }
    if resumed {
        return Err(hinted(
            anyhow::anyhow!("the prompt is empty, and a state alone does not say which token comes next"),
            "give at least one byte of text to go on from, e.g. --prompt $'\\n'",
        ));
    }
    match tokenizer.end_of_document() {
        Some(token) => Ok(vec![token]),
        None => Err(hinted(
            anyhow::anyhow!(
                "the prompt is empty, and the {} tokenizer has no token that starts a document",
                tokenizer.name()
            ),
            "give at least one byte of text, e.g. --prompt $'\\n', or --tokens 0",
        )),
    }
}
