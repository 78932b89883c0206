//! Keys of a settings file, and what a wrong one was probably meant to be.

use std::path::Path;

use clap::Args;

use crate::error::Error;

/// Refuses a key that is no setting of `S`.
pub(super) fn check<S: Args>(key: &str, text: &str, file: &Path) -> Result<(), Error> {
    let known = known::<S>();
    if known.iter().any(|setting| setting == key) {
        return Ok(());
    }
    let wanted = key.trim_start_matches('-').replace('-', "_").to_lowercase();
    let nearest = known.iter().min_by_key(|setting| distance(&wanted, setting));
    let hint = match nearest {
        Some(setting) if distance(&wanted, setting) <= 1 + wanted.len() / 4 => format!(": did you mean `{setting}`?"),
        _ => format!(": the settings are {}", known.join(", ")),
    };
    Err(Error::UnknownSetting { file: file.into(), line: line_of(key, text), key: key.into(), hint })
}

/// The settings that a file may hold: every flag but those that say what to do now.
fn known<S: Args>() -> Vec<String> {
    S::augment_args(clap::Command::new("train"))
        .get_arguments()
        .map(|argument| argument.get_id().to_string())
        .filter(|id| id != "config" && id != "resume")
        .collect()
}

/// The line, from 1, that sets `key`.
fn line_of(key: &str, text: &str) -> usize {
    let sets = |line: &str| {
        let line = line.trim_start().trim_start_matches(['"', '\'', '[']);
        line.strip_prefix(key).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    text.lines().position(sets).map_or(1, |line| line + 1)
}

/// Insertions, deletions and replacements that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
