//! Lines from the user: edited, with history, on a terminal; as they come from a pipe.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

pub(super) enum Input {
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Pipe,
}

pub(super) enum Line {
    Text(String),
    /// Ctrl-C on the line.
    Cancelled,
    End,
}

impl Input {
    pub(super) fn open(history: Option<PathBuf>) -> Result<Input> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Pipe);
        }
        let mut editor = DefaultEditor::new()?;
        let history = history.or_else(default_history);
        if let Some(path) = &history {
            // None yet is no failure.
            let _ = editor.load_history(path);
        }
        Ok(Input::Terminal { editor: Box::new(editor), history })
    }

    pub(super) fn line(&mut self) -> Result<Line> {
        match self {
            Input::Terminal { editor, history } => match editor.readline("> ") {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        editor.add_history_entry(&line)?;
                        if let Some(path) = history {
                            save_history(editor, path);
                        }
                    }
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Cancelled),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error.into()),
            },
            Input::Pipe => {
                let mut line = Vec::new();
                let read =
                    std::io::stdin().lock().read_until(b'\n', &mut line).context("cannot read standard input")?;
                if read == 0 {
                    return Ok(Line::End);
                }
                let text = String::from_utf8_lossy(&line);
                Ok(Line::Text(text.trim_end_matches(['\n', '\r']).to_string()))
            }
        }
    }
}

fn default_history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")));
    Some(state?.join("anser/chat_history"))
}

/// A history that cannot be written must not end the conversation.
fn save_history(editor: &mut DefaultEditor, path: &PathBuf) {
    if let Some(folder) = path.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let _ = editor.save_history(path);
}
