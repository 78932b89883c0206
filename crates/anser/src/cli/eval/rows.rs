//! The files of the tasks, read into one shape: a context, candidates, the right one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::cli::prompt;

/// What every task comes down to.
pub(crate) struct Row {
    /// Line in the file, from 1, for messages.
    pub(crate) line: usize,
    pub(crate) context: String,
    pub(crate) candidates: Vec<String>,
    /// Index of the right candidate.
    pub(crate) answer: usize,
}

const DEFAULT_PROMPT: &str = "Text: {text}\nLabel:";

fn read(path: &Path) -> Result<String> {
    String::from_utf8(prompt::read(path)?).with_context(|| format!("{}: not UTF-8", path.display()))
}

/// Parses every line that is not blank.
fn lines<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<Vec<(usize, T)>> {
    let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(at, line): (usize, &str)| {
        let row = serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), at + 1))?;
        Ok((at + 1, row))
    };
    let rows = rows.map(parse).collect::<Result<Vec<_>>>()?;
    ensure!(!rows.is_empty(), "{}: no rows", path.display());
    Ok(rows)
}

#[derive(Deserialize)]
struct Passage {
    text: String,
}

/// LAMBADA: the last word with the space before it, after everything else.
pub(crate) fn lambada(path: &Path) -> Result<Vec<Row>> {
    let rows = lines::<Passage>(path, &read(path)?)?.into_iter().map(|(line, row)| {
        let Some(at) = row.text.rfind(' ') else {
            bail!("{}: line {line}: expected a passage of several words, found no space", path.display());
        };
        let (context, word) = row.text.split_at(at);
        Ok(Row { line, context: context.to_string(), candidates: vec![word.to_string()], answer: 0 })
    });
    rows.collect()
}

#[derive(Deserialize)]
struct Question {
    question: Option<String>,
    subject: Option<String>,
    prompt: Option<String>,
    choices: Vec<String>,
    answer: usize,
}

/// Multiple choice: a question with lettered choices, or any prompt with any candidates.
pub(crate) fn mcq(path: &Path) -> Result<Vec<Row>> {
    let rows = lines::<Question>(path, &read(path)?)?.into_iter().map(|(line, row)| {
        let at = || format!("{}: line {line}", path.display());
        let count = row.choices.len();
        ensure!((2..=26).contains(&count), "{}: expected 2 to 26 choices, found {count}", at());
        ensure!(row.answer < count, "{}: expected an answer below {count}, found {}", at(), row.answer);
        let (context, candidates) = match (row.question, row.prompt) {
            (Some(question), None) => {
                let letters = (b'A'..).take(count).map(char::from);
                let context = question_prompt(row.subject.as_deref(), &question, &row.choices);
                (context, letters.map(|letter| format!(" {letter}")).collect())
            }
            (None, Some(prompt)) => (prompt, row.choices),
            _ => bail!("{}: expected either a question or a prompt", at()),
        };
        ensure!(candidates.iter().all(|c: &String| !c.is_empty()), "{}: a choice is empty", at());
        Ok(Row { line, context, candidates, answer: row.answer })
    });
    rows.collect()
}

/// The prompt of the reference demo.
fn question_prompt(subject: Option<&str>, question: &str, choices: &[String]) -> String {
    let mut text = match subject {
        Some(subject) => {
            format!("User: You are a very talented expert in {}. Answer this question:\n", subject.replace('_', " "))
        }
        None => "User: Answer this question:\n".to_string(),
    };
    text += &format!("{question}\n");
    for (letter, choice) in (b'A'..).map(char::from).zip(choices) {
        text += &format!("{letter}. {choice}\n");
    }
    text += "\nAssistant: The answer is";
    text.replace("\r\n", "\n").trim().to_string()
}

#[derive(Deserialize)]
struct Labelled {
    text: Option<String>,
    label: Option<Label>,
    labels: Option<Vec<String>>,
    prompt: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Label {
    Index(usize),
    Name(String),
}

/// One label of a fixed set after each text.
pub(crate) fn classify(path: &Path) -> Result<Vec<Row>> {
    let text = read(path)?;
    let mut rows = match path.extension().and_then(|e| e.to_str()) {
        Some("tsv") => table(path, &text, '\t', false)?,
        Some("csv") => table(path, &text, ',', true)?,
        _ => lines::<Labelled>(path, &text)?,
    };
    let header = if rows[0].1.text.is_none() { Some(rows.remove(0).1) } else { None };
    ensure!(!rows.is_empty(), "{}: no rows", path.display());
    let prompt = header.as_ref().and_then(|h| h.prompt.clone()).unwrap_or_else(|| DEFAULT_PROMPT.to_string());
    ensure!(prompt.contains("{text}"), "{}: line 1: expected {{text}} in the prompt, found {prompt:?}", path.display());
    let given = header.and_then(|h| h.labels);
    let indexed = given.is_some();
    let labels = given.unwrap_or_else(|| {
        let names = rows.iter().filter_map(|(_, row)| match &row.label {
            Some(Label::Name(name)) => Some(name.clone()),
            _ => None,
        });
        names.collect::<BTreeSet<_>>().into_iter().collect()
    });
    let candidates: Vec<String> = labels.iter().map(|label| format!(" {label}")).collect();
    let rows = rows.into_iter().map(|(line, row)| {
        let at = || format!("{}: line {line}", path.display());
        let (Some(text), Some(label)) = (row.text, row.label) else { bail!("{}: expected a text and a label", at()) };
        let answer = match label {
            Label::Index(index) => {
                ensure!(indexed, "{}: a label by number needs the labels in the first line", at());
                ensure!(index < labels.len(), "{}: expected a label below {}, found {index}", at(), labels.len());
                index
            }
            Label::Name(name) => match labels.iter().position(|label| *label == name) {
                Some(index) => index,
                None => bail!("{}: label {name:?} is not one of {}", at(), labels.join(", ")),
            },
        };
        Ok(Row { line, context: prompt.replacen("{text}", &text, 1), candidates: candidates.clone(), answer })
    });
    rows.collect()
}

/// The two usual tables: label then text without a header (.tsv), text then label with one (.csv, RFC 4180 quotes).
fn table(path: &Path, text: &str, separator: char, csv: bool) -> Result<Vec<(usize, Labelled)>> {
    let mut rows = Vec::new();
    for (line, fields) in records(text, separator, csv) {
        let two: [String; 2] = fields.try_into().map_err(|fields: Vec<String>| {
            anyhow::anyhow!("{}: line {line}: expected 2 fields, found {}", path.display(), fields.len())
        })?;
        let [text, label] = if csv { two } else { [two[1].clone(), two[0].clone()] };
        rows.push((line, Labelled { text: Some(text), label: Some(Label::Name(label)), labels: None, prompt: None }));
    }
    if csv && !rows.is_empty() {
        rows.remove(0);
    }
    ensure!(!rows.is_empty(), "{}: no rows", path.display());
    Ok(rows)
}

/// Records of a separated table and the lines they begin on; `quoted` fields may hold separators and line breaks.
fn records(text: &str, separator: char, quoted: bool) -> Vec<(usize, Vec<String>)> {
    let (mut records, mut fields, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut start, mut inside) = (1, 1, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        match c {
            '"' if quoted && inside && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted && (inside || field.is_empty()) => inside = !inside,
            '\n' if !inside => {
                if field.ends_with('\r') {
                    field.pop();
                }
                fields.push(std::mem::take(&mut field));
                let record = std::mem::take(&mut fields);
                if record.len() > 1 || !record[0].is_empty() {
                    records.push((start, record));
                }
                start = line;
            }
            c if c == separator && !inside => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if !field.is_empty() || !fields.is_empty() {
        fields.push(field);
        records.push((start, fields));
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_hold_separators_quotes_and_line_breaks() {
        let text = "text,category\nplain,a\n\"one, \"\"two\"\"\nthree\",b\r\nlast,c";
        let records = records(text, ',', true);
        let fields: Vec<Vec<&str>> = records.iter().map(|(_, r)| r.iter().map(String::as_str).collect()).collect();
        let want: [&[&str]; 4] =
            [&["text", "category"], &["plain", "a"], &["one, \"two\"\nthree", "b"], &["last", "c"]];
        assert_eq!(fields, want);
        assert_eq!(records.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 5]);
    }

    #[test]
    fn the_question_prompt_is_the_reference_demos() {
        let choices = ["one".to_string(), "two\r\nlines".to_string()];
        assert_eq!(
            question_prompt(Some("high_school_physics"), "What?\r\n", &choices),
            "User: You are a very talented expert in high school physics. Answer this question:\nWhat?\n\nA. one\n\
             B. two\nlines\n\nAssistant: The answer is"
        );
    }
}
