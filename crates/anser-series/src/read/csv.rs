//! CSV: separator, decimal sign, encoding and header are found in the text.

use csv::{ReaderBuilder, StringRecord};

use super::{Cells, Options, Raw, assemble, date_column, is_missing, text, unique};
use crate::Error;
use crate::date;
use crate::table::{Reading, Table};

/// Records that separator, header and date column are told by.
const SAMPLE: usize = 64;

/// The separators, the surest sign first.
const DELIMITERS: [(u8, &str); 3] = [(b';', "semicolons"), (b'\t', "tabs"), (b',', "commas")];

/// Reads the bytes of a CSV file.
pub(super) fn read(file: &str, bytes: &[u8], options: &Options) -> Result<Table, Error> {
    let (text, encoding) = text::decode(file, bytes)?;
    let (delimiter, delimiter_name) = delimiter(&text);
    let sample = sample(&text, delimiter);
    let Some(first) = sample.first() else {
        return Err(Error::Empty { file: file.into(), found: "the file is empty" });
    };
    let comma = delimiter != b',';
    let header = options.header.unwrap_or_else(|| has_header(&sample, comma));
    let width = first.len();
    let mut names: Vec<String> = match header {
        true => first.iter().map(String::from).collect(),
        false => (1..=width).map(|at| format!("column_{at}")).collect(),
    };
    let renamed = unique(&mut names);
    let skipped = usize::from(header);
    let texts = |at: usize| sample.iter().skip(skipped).filter_map(move |record| record.get(at));
    let date_at = date_column(file, &names, options, |at| date::is_date_column(&names[at], texts(at)))?;

    let commas = if comma { decimal_commas(&text, delimiter, width) } else { vec![false; width] };
    let mut builders: Vec<Builder> = commas.iter().map(|&comma| Builder::new(comma)).collect();
    let mut dates = Vec::new();
    let mut rows = 0;
    for (at, record) in reader(&text, delimiter).records().enumerate() {
        let record = record.map_err(|e| Error::Format { file: file.into(), problem: e.to_string() })?;
        if record.len() != width {
            let line = line(&text, record.position().map_or(0, |position| position.byte() as usize));
            let (found, expected, delimiter) = (record.len(), width, delimiter_name);
            return Err(Error::Ragged { file: file.into(), line, found, expected, delimiter });
        }
        if at < skipped {
            continue;
        }
        rows += 1;
        for ((column, builder), field) in builders.iter_mut().enumerate().zip(record.iter()) {
            match Some(column) == date_at {
                true => dates.push(field.to_string()),
                false => builder.push(rows, field),
            }
        }
    }
    if rows == 0 {
        return Err(Error::Empty { file: file.into(), found: "the file has a header and no row" });
    }
    let decimal_comma = names.iter().zip(&commas).filter(|(_, comma)| **comma).map(|(name, _)| name.clone()).collect();
    let reading = Reading {
        format: "CSV",
        encoding,
        delimiter: if width > 1 { delimiter_name } else { "nothing" },
        header,
        decimal_comma,
        renamed: if header { renamed } else { Vec::new() },
        ..Reading::default()
    };
    let raws = names.into_iter().zip(builders).enumerate().map(|(column, (name, builder))| Raw {
        name,
        cells: if Some(column) == date_at { Cells::Texts(std::mem::take(&mut dates)) } else { builder.finish() },
    });
    assemble(file, raws.collect(), date_at, options, reading)
}

/// A column of numbers, until something else turns up.
struct Builder {
    comma: bool,
    values: Vec<f64>,
    other: Option<(usize, String)>,
}

impl Builder {
    fn new(comma: bool) -> Builder {
        Builder { comma, values: Vec::new(), other: None }
    }

    fn push(&mut self, row: usize, field: &str) {
        if self.other.is_some() {
            return;
        }
        match number(field, self.comma) {
            Some(value) => self.values.push(value),
            None => {
                self.values = Vec::new();
                self.other = Some((row, field.to_string()));
            }
        }
    }

    fn finish(self) -> Cells {
        match self.other {
            None => Cells::Numbers(self.values),
            Some((row, found)) => Cells::Other { row, found },
        }
    }
}

fn reader(text: &str, delimiter: u8) -> csv::Reader<&[u8]> {
    ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text.as_bytes())
}

/// The line, from 1, of the first character from `byte` on that ends none.
fn line(text: &str, byte: usize) -> u64 {
    let ends = text.bytes().skip(byte).take_while(|byte| b"\r\n".contains(byte)).count();
    1 + text.bytes().take(byte + ends).filter(|&byte| byte == b'\n').count() as u64
}

fn sample(text: &str, delimiter: u8) -> Vec<StringRecord> {
    reader(text, delimiter).records().take(SAMPLE).filter_map(Result::ok).collect()
}

/// The separator by which most rows have the same number of fields and most fields are numbers, dates or missing.
fn delimiter(text: &str) -> (u8, &'static str) {
    let mut best = ((b',', "commas"), -1.0);
    for (delimiter, name) in DELIMITERS {
        let sample = sample(text, delimiter);
        let mut widths: Vec<usize> = sample.iter().map(StringRecord::len).collect();
        widths.sort_unstable();
        // The commonest width: a line of another length is told as such, not taken for another separator.
        let commonest = widths.chunk_by(|a, b| a == b).max_by_key(|group| group.len());
        let Some(same) = commonest.filter(|group| group[0] > 1) else { continue };
        let agree = same.len() as f64 / sample.len() as f64;
        let fields = || sample.iter().skip(1).flatten();
        let plain = fields().filter(|field| is_plain(field, delimiter != b',')).count() as f64;
        let score = agree + plain / fields().count().max(1) as f64;
        if score > best.1 + 1e-9 {
            best = ((delimiter, name), score);
        }
    }
    best.0
}

/// Whether the first record holds names: some field of it is neither number nor date, above numbers or dates, or none is.
fn has_header(sample: &[StringRecord], comma: bool) -> bool {
    let Some((first, rest)) = sample.split_first() else { return false };
    let named = |field: &str| !is_plain(field, comma);
    if first.iter().all(|field| named(field) || field.trim().is_empty()) {
        return first.iter().any(named);
    }
    (0..first.len()).filter(|&at| named(&first[at])).any(|at| {
        let below: Vec<&str> = rest.iter().filter_map(|record| record.get(at)).collect();
        below.iter().filter(|field| !named(field)).count() * 2 > below.len()
    })
}

fn is_plain(field: &str, comma: bool) -> bool {
    number(field, comma).is_some() || date::is_date(field)
}

/// The columns in which a comma divides whole from part.
fn decimal_commas(text: &str, delimiter: u8, width: usize) -> Vec<bool> {
    let mut found = vec![false; width];
    for record in reader(text, delimiter).records().filter_map(Result::ok) {
        for (found, field) in found.iter_mut().zip(record.iter()) {
            *found |= field.contains(',') && number(field, true).is_some();
        }
    }
    found
}

/// A number, NaN for a missing one. With `comma`, the comma is the decimal sign and points may group thousands.
fn number(field: &str, comma: bool) -> Option<f64> {
    let field = field.trim();
    if is_missing(field) {
        return Some(f64::NAN);
    }
    if !comma {
        return field.parse().ok();
    }
    let (whole, part) = field.split_once(',').unwrap_or((field, ""));
    let three = |group: &str| group.len() == 3 && group.bytes().all(|byte| byte.is_ascii_digit());
    let grouped = whole.split('.').skip(1).all(three);
    match (field.contains(','), grouped) {
        (_, true) if !part.contains([',', '.']) => format!("{}.{part}", whole.replace('.', "")).parse().ok(),
        (false, false) => field.parse().ok(),
        _ => None,
    }
}
