//! Which files a list of paths, folders and patterns means.

use std::path::{Path, PathBuf};

use crate::Error;

/// How deep a folder of data may be nested: enough for people, not for a file system that contains itself.
const MAX_DEPTH: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Text(PathBuf),
    JsonLines(PathBuf),
    /// The path without `.idx` and `.bin`.
    Binidx(PathBuf),
}

impl Source {
    /// Every file of it, the one with the tokens first.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Source::Text(file) | Source::JsonLines(file) => vec![file.clone()],
            Source::Binidx(stem) => vec![super::binidx::bin(stem), super::binidx::idx(stem)],
        }
    }

    fn of_file(file: &Path) -> Option<Source> {
        match file.extension()?.to_str()? {
            "txt" => Some(Source::Text(file.to_path_buf())),
            "jsonl" => Some(Source::JsonLines(file.to_path_buf())),
            "idx" | "bin" => Some(Source::Binidx(file.with_extension(""))),
            _ => None,
        }
    }
}

/// The sources that `patterns` name, in that order, each once; a folder's and a pattern's files in the order of their
/// names.
///
/// An existing file or folder is taken as it stands; then `NAME` is looked for as `NAME.idx` + `NAME.bin`, then as a
/// pattern with `*`, `?`, `[..]` or `**`. In folders (with their subfolders, hidden ones left out) files of other kinds
/// are passed over; named themselves, they are an error.
pub(super) fn find(patterns: &[PathBuf]) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    for pattern in patterns {
        if pattern.is_dir() {
            folder(pattern, 0, &mut sources)?;
        } else if pattern.exists() {
            let source = Source::of_file(pattern).ok_or_else(|| Error::UnknownData { file: pattern.clone() })?;
            add(source, &mut sources);
        } else if super::binidx::idx(pattern).exists() {
            add(Source::Binidx(pattern.clone()), &mut sources);
        } else {
            expand(pattern, &mut sources)?;
        }
        // An earlier one may have named the same files.
        if sources.is_empty() {
            return Err(Error::NoFiles { pattern: pattern.display().to_string() });
        }
    }
    if sources.is_empty() {
        return Err(Error::NoFiles { pattern: "(none given)".to_string() });
    }
    Ok(sources)
}

fn add(source: Source, sources: &mut Vec<Source>) {
    if !sources.contains(&source) {
        sources.push(source);
    }
}

fn folder(path: &Path, depth: usize, sources: &mut Vec<Source>) -> Result<(), Error> {
    let mut entries = std::fs::read_dir(path)
        .map_err(Error::io(path))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::io(path))?;
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if entry.is_dir() {
            if depth < MAX_DEPTH {
                folder(&entry, depth + 1, sources)?;
            }
        } else if let Some(source) = Source::of_file(&entry) {
            add(source, sources);
        }
    }
    Ok(())
}

fn expand(pattern: &Path, sources: &mut Vec<Source>) -> Result<(), Error> {
    let none = || Error::NoFiles { pattern: pattern.display().to_string() };
    let text = pattern.to_str().ok_or_else(none)?;
    let not_a_pattern = |problem: glob::PatternError| Error::Setting {
        name: "data",
        found: format!("`{text}`"),
        expected: format!("a file, a folder or a pattern: {problem}"),
    };
    let mut found = false;
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    for path in glob::glob_with(text, options).map_err(not_a_pattern)? {
        let path = path.map_err(|e| {
            let file = e.path().to_path_buf();
            Error::Io { file, source: e.into() }
        })?;
        if path.is_dir() {
            folder(&path, 0, sources)?;
        } else if let Some(source) = Source::of_file(&path) {
            add(source, sources);
        } else {
            continue;
        }
        found = true;
    }
    if found { Ok(()) } else { Err(none()) }
}
