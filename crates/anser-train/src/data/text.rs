//! .txt and .jsonl files to documents.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use super::corpus::Builder;
use super::fingerprint::{Fingerprint, Hashing};
use super::{LoadOptions, conversation};
use crate::Error;

/// Bytes that are tokenised at once, about; also the steps of progress.
const PIECE: u64 = 1 << 20;

/// Longest line of JSON.
const MAX_LINE: u64 = 256 << 20;

/// Is told how many bytes of the file have been read.
pub(super) type Report<'a> = &'a mut dyn FnMut(&Builder, u64);

/// Reads lines and knows where it is.
struct Lines<'a> {
    file: &'a Path,
    reader: BufReader<Hashing>,
    begun: Fingerprint,
    /// The line last read, its line end with it.
    line: Vec<u8>,
    /// Its number, from 1.
    number: u64,
    /// Bytes read.
    bytes: u64,
    reported: u64,
}

impl<'a> Lines<'a> {
    fn open(file: &'a Path) -> Result<Lines<'a>, Error> {
        let begun = Fingerprint::stat(file)?;
        let reader = BufReader::with_capacity(1 << 16, Hashing::open(file)?);
        Ok(Lines { file, reader, begun, line: Vec::new(), number: 0, bytes: 0, reported: 0 })
    }

    /// Reads the next line, or `limit` bytes of it; false at the end of the file.
    fn next(&mut self, limit: u64) -> Result<bool, Error> {
        if self.line.is_empty() || self.line.ends_with(b"\n") {
            self.number += 1;
        }
        self.line.clear();
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.line).map_err(Error::io(self.file))?;
        self.bytes += read as u64;
        Ok(read > 0)
    }

    fn report(&mut self, builder: &Builder, report: Report<'_>) {
        if self.bytes - self.reported >= PIECE {
            self.reported = self.bytes;
            report(builder, self.bytes);
        }
    }

    fn finish(self, builder: &Builder, report: Report<'_>) -> Result<Fingerprint, Error> {
        report(builder, self.bytes);
        self.begun.with_content(self.reader.into_inner())
    }
}

/// Appends the documents of a .txt.
pub(super) fn read_text(
    file: &Path,
    options: &LoadOptions,
    builder: &mut Builder,
    report: Report<'_>,
) -> Result<Fingerprint, Error> {
    let mut lines = Lines::open(file)?;
    let encode = |text: &mut Vec<u8>, line: u64, keep: usize, builder: &mut Builder| {
        let ready = text.len() - keep;
        let ids = options.tokenizer.encode(&text[..ready]);
        builder.push(&ids.map_err(|source| Error::Tokenizer { file: file.into(), line, source })?, true, file)?;
        text.drain(..ready);
        Ok::<(), Error>(())
    };
    // Text that is not tokenised yet, and the line it begins on.
    let (mut text, mut begins) = (Vec::new(), 1);
    let mut line_start = true;
    while lines.next(PIECE)? {
        let whole = line_start;
        line_start = lines.line.ends_with(b"\n");
        let separates = |separator: &String| lines.line.trim_ascii() == separator.trim().as_bytes();
        if whole && options.separator.as_ref().is_some_and(separates) {
            if text.ends_with(b"\n") {
                text.pop();
                text.pop_if(|byte| *byte == b'\r');
            }
            encode(&mut text, begins, 0, builder)?;
            builder.end_document(true, file)?;
            continue;
        }
        if text.len() as u64 >= PIECE && whole && !lines.line[0].is_ascii_whitespace() {
            encode(&mut text, begins, 0, builder)?;
        } else if text.len() as u64 >= 4 * PIECE {
            // No good place in a long while: between two characters, at least.
            let last = text.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80).map_or(0, |i| i + 1);
            encode(&mut text, begins, last, builder)?;
        }
        if text.is_empty() {
            begins = lines.number;
        }
        text.extend_from_slice(&lines.line);
        lines.report(builder, report);
    }
    encode(&mut text, begins, 0, builder)?;
    builder.end_document(true, file)?;
    lines.finish(builder, report)
}

/// Appends the documents of a .jsonl.
pub(super) fn read_json_lines(
    file: &Path,
    options: &LoadOptions,
    builder: &mut Builder,
    report: Report<'_>,
) -> Result<Fingerprint, Error> {
    let mut lines = Lines::open(file)?;
    while lines.next(MAX_LINE)? {
        if lines.line.len() as u64 == MAX_LINE && !lines.line.ends_with(b"\n") {
            return Err(Error::LineTooLong { file: file.into(), line: lines.number, limit: MAX_LINE });
        }
        let content = match lines.number {
            1 => lines.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&lines.line),
            _ => &lines.line,
        };
        if !content.trim_ascii().is_empty() {
            read_line(content, &Place { file, line: lines.number }, options, builder)?;
        }
        lines.report(builder, report);
    }
    lines.finish(builder, report)
}

/// Where a line stands, for errors.
pub(super) struct Place<'a> {
    pub(super) file: &'a Path,
    pub(super) line: u64,
}

impl Place<'_> {
    pub(super) fn missing(&self, expected: &str, object: &serde_json::Map<String, Value>) -> Error {
        let names = object.keys().map(|key| format!("`{}`", key.escape_debug())).collect::<Vec<_>>();
        let found = match names.len() {
            0 => "none".to_string(),
            1..=20 => names.join(", "),
            n => format!("{} and {} more", names[..20].join(", "), n - 20),
        };
        Error::MissingField { file: self.file.into(), line: self.line, expected: expected.to_string(), found }
    }

    pub(super) fn wrong_type(&self, field: impl Into<String>, expected: &'static str, found: &Value) -> Error {
        let found = match found {
            Value::Null => "null".to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) => {
                format!("the string \"{}\"", text.chars().take(40).collect::<String>().escape_debug())
            }
            Value::Array(list) => format!("a list of {}", list.len()),
            Value::Object(_) => "an object".to_string(),
        };
        Error::FieldType { file: self.file.into(), line: self.line, field: field.into(), expected, found }
    }

    pub(super) fn tokenizer(&self) -> impl Fn(anser_tokenizer::Error) -> Error {
        |source| Error::Tokenizer { file: self.file.into(), line: self.line, source }
    }
}

fn read_line(line: &[u8], place: &Place<'_>, options: &LoadOptions, builder: &mut Builder) -> Result<(), Error> {
    let text = std::str::from_utf8(line).map_err(|e| Error::InvalidUtf8 {
        file: place.file.into(),
        line: place.line,
        column: e.valid_up_to() + 1,
    })?;
    let value: Value = serde_json::from_str(text.trim_end()).map_err(|e| {
        let problem = e.to_string();
        // The position is the error's own, in this file, not in this line's text.
        let problem = problem.rsplit_once(" at line ").map_or(&problem[..], |(problem, _)| problem).to_string();
        Error::Json { file: place.file.into(), line: place.line, column: e.column(), problem }
    })?;
    let Value::Object(object) = value else { return Err(place.wrong_type("the line", "an object", &value)) };
    match (object.get("text"), object.get("messages")) {
        (Some(Value::String(text)), _) => {
            let ids = options.tokenizer.encode(text.as_bytes()).map_err(place.tokenizer())?;
            builder.push(&ids, true, place.file)?;
            builder.end_document(true, place.file)
        }
        (Some(other), _) => Err(place.wrong_type("`text`", "a string", other)),
        (None, Some(Value::Array(messages))) => conversation::read(messages, place, options, builder),
        (None, Some(other)) => Err(place.wrong_type("`messages`", "a list of messages", other)),
        (None, None) => Err(place.missing("`text` or `messages`", &object)),
    }
}
