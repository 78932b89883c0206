//! Files to tables. CSV and Parquet are told apart by their content.

use std::io::Read;
use std::path::Path;

use crate::Error;
use crate::date;
use crate::table::{Column, Reading, SetAside, Table, Times};

mod csv;
#[cfg(feature = "parquet")]
mod footer;
#[cfg(feature = "parquet")]
mod parquet;
mod text;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 30;

/// What to read. The default finds everything by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The columns wanted, in this order; `None` for every column of numbers.
    pub columns: Option<Vec<String>>,
    /// Where the dates are.
    pub dates: Dates,
    /// Whether the first line of a CSV file holds names; `None` to find out.
    pub header: Option<bool>,
}

/// Where the dates are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dates {
    /// In the first column that looks like dates, if one does.
    #[default]
    Find,
    /// In this column.
    In(String),
    /// Nowhere: rows are numbered.
    Ignore,
}

/// Reads a file, or standard input where the path is `-`.
///
/// # Errors
/// [`Error::Io`], [`Error::TooLarge`], and as [`from_bytes`].
pub fn read(path: &Path, options: &Options) -> Result<Table, Error> {
    let stdin = path.as_os_str() == "-";
    let name = if stdin { "stdin".to_string() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    // One byte more than allowed tells that there is more.
    let done = match stdin {
        true => std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes),
        false => std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)),
    };
    done.map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge { file: name, what: "bytes", found: MAX_BYTES + 1, limit: MAX_BYTES });
    }
    from_bytes(&name, bytes, options)
}

/// Reads the bytes of a file; `name` is for messages.
///
/// # Errors
/// [`Error::Kind`], [`Error::Empty`], [`Error::Ragged`], [`Error::NoColumn`], [`Error::NotNumeric`],
/// [`Error::NothingNumeric`], [`Error::NoDate`], [`Error::MixedDates`], [`Error::Format`], [`Error::TooLarge`].
pub fn from_bytes(name: &str, bytes: Vec<u8>, options: &Options) -> Result<Table, Error> {
    if !bytes.starts_with(b"PAR1") {
        return csv::read(name, &bytes, options);
    }
    #[cfg(feature = "parquet")]
    return parquet::read(name, bytes, options);
    #[cfg(not(feature = "parquet"))]
    Err(Error::Kind {
        file: name.into(),
        found: "a Parquet file, which this build does not read".into(),
        advice: "save it as CSV, or build with the feature `parquet`",
    })
}

/// Whether a cell says that there is no value.
pub(crate) fn is_missing(text: &str) -> bool {
    const WORDS: [&str; 10] = ["", "na", "n/a", "nan", "null", "none", "nil", "-", "--", "?"];
    let text = text.trim();
    text.len() <= 4 && WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A column as a reader found it.
struct Raw {
    name: String,
    cells: Cells,
}

/// What a column holds.
enum Cells {
    /// Numbers, NaN where missing.
    Numbers(Vec<f64>),
    /// Text that may be dates.
    Texts(Vec<String>),
    /// Times that the file itself declares.
    #[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "CSV declares nothing"))]
    Times { micros: Vec<Option<i64>>, utc: bool },
    /// Something else: a first example and its row, from 1.
    Other { row: usize, found: String },
}

impl Cells {
    /// Why this is no column of numbers: a row, from 1, and what stands there.
    fn example(&self) -> (usize, String) {
        match self {
            Cells::Numbers(_) => (0, String::new()),
            Cells::Times { .. } => (1, "a time".into()),
            Cells::Other { row, found } => (*row, date::shorten(found)),
            Cells::Texts(texts) => {
                let first =
                    texts.iter().enumerate().find(|(_, text)| !is_missing(text) && text.parse::<f64>().is_err());
                first.map_or((1, String::new()), |(row, text)| (row + 1, date::shorten(text)))
            }
        }
    }
}

/// Gives empty and repeated names a number; returns the new ones.
fn unique(names: &mut [String]) -> Vec<String> {
    let mut taken = std::collections::HashSet::new();
    let mut renamed = Vec::new();
    names.iter_mut().for_each(|name| *name = name.trim().to_string());
    let all: std::collections::HashSet<String> = names.iter().cloned().collect();
    for (at, name) in names.iter_mut().enumerate() {
        if name.is_empty() || taken.contains(name) {
            let stem = if name.is_empty() { "column" } else { name.as_str() };
            let mut number = at + 1;
            while taken.contains(&format!("{stem}_{number}")) || all.contains(&format!("{stem}_{number}")) {
                number += 1;
            }
            *name = format!("{stem}_{number}");
            renamed.push(name.clone());
        }
        taken.insert(name.clone());
    }
    renamed
}

/// The place of a column by its name.
fn find(file: &str, names: &[String], name: &str) -> Result<usize, Error> {
    let at = names.iter().position(|there| there == name);
    at.ok_or_else(|| Error::NoColumn { file: file.into(), name: name.into(), there: names.to_vec() })
}

/// The date column that the options ask for, or the first for which `looks` holds and that nobody wants as numbers.
fn date_column(
    file: &str,
    names: &[String],
    options: &Options,
    looks: impl Fn(usize) -> bool,
) -> Result<Option<usize>, Error> {
    let wanted = |name: &String| options.columns.as_ref().is_some_and(|columns| columns.contains(name));
    match &options.dates {
        Dates::Ignore => Ok(None),
        Dates::In(name) => find(file, names, name).map(Some),
        Dates::Find => Ok((0..names.len()).find(|&at| !wanted(&names[at]) && looks(at))),
    }
}

/// Chooses columns of what a reader found, with the dates in column `date_at`.
fn assemble(
    file: &str,
    raws: Vec<Raw>,
    date_at: Option<usize>,
    options: &Options,
    mut reading: Reading,
) -> Result<Table, Error> {
    let names: Vec<String> = raws.iter().map(|raw| raw.name.clone()).collect();
    let numeric: Vec<String> = raws
        .iter()
        .enumerate()
        .filter(|(at, raw)| Some(*at) != date_at && matches!(raw.cells, Cells::Numbers(_)))
        .map(|(_, raw)| raw.name.clone())
        .collect();
    let wanted: Option<Vec<usize>> = match &options.columns {
        None => None,
        Some(columns) => Some(columns.iter().map(|name| find(file, &names, name)).collect::<Result<_, _>>()?),
    };
    if let Some(at) = date_at.filter(|at| wanted.iter().flatten().any(|wanted| wanted == at)) {
        let (found, expected) = (format!("`{}`", names[at]), "a column that is not asked for as numbers".to_string());
        return Err(Error::Argument { name: "the column of dates", found, expected });
    }
    let is_numbers = |at: &usize| matches!(raws[*at].cells, Cells::Numbers(_));
    if let Some(&at) = wanted.iter().flatten().find(|at| !is_numbers(at)) {
        let (row, found) = raws[at].cells.example();
        return Err(Error::NotNumeric { file: file.into(), name: names[at].clone(), row, found, numeric });
    }
    // A lone column that counts is the series.
    let with_values = |raw: &Raw| matches!(&raw.cells, Cells::Numbers(values) if values.iter().any(|x| !x.is_nan()));
    let lone = raws.iter().enumerate().filter(|(at, raw)| Some(*at) != date_at && with_values(raw)).count() == 1;
    let mut times = None;
    let mut columns: Vec<(usize, Column)> = Vec::new();
    for (at, raw) in raws.into_iter().enumerate() {
        if Some(at) == date_at {
            times = Some(read_dates(file, raw, &mut reading)?);
            continue;
        }
        let place = match &wanted {
            None => Some(at),
            Some(wanted) => wanted.iter().position(|&wanted| wanted == at),
        };
        let why = match (raw.cells, place) {
            (_, None) => continue,
            (Cells::Numbers(values), Some(place)) => match reason(&raw.name, &values, lone) {
                Some(why) if wanted.is_none() => why.to_string(),
                _ => {
                    columns.push((place, Column { name: raw.name, values, asked: wanted.is_some() }));
                    continue;
                }
            },
            (cells, Some(_)) => {
                let (row, found) = cells.example();
                format!("`{found}` in row {row} is no number")
            }
        };
        reading.set_aside.push(SetAside { column: raw.name, why });
    }
    if columns.is_empty() {
        return Err(Error::NothingNumeric { file: file.into(), there: names });
    }
    columns.sort_by_key(|(place, _)| *place);
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Ok(Table { name: file.into(), times, columns, reading })
}

/// Why a column of numbers that nobody asked for is no series; `lone` if it is the only one.
fn reason(name: &str, values: &[f64], lone: bool) -> Option<&'static str> {
    if values.iter().all(|value| value.is_nan()) {
        return Some("it has no value at all");
    }
    let index = ["Unnamed: 0", "__index_level_0__", "column_1", "index"].contains(&name);
    let counts = || values.len() > 1 && values.windows(2).all(|pair| pair[1] == pair[0] + 1.0);
    (index && !lone && counts()).then_some("it numbers the rows")
}

fn read_dates(file: &str, raw: Raw, reading: &mut Reading) -> Result<Times, Error> {
    let of_texts = |texts: &[String], reading: &mut Reading| {
        let dates = date::read(file, &raw.name, texts.iter().map(String::as_str))?;
        reading.date_format = Some(dates.format);
        reading.date_doubt = dates.doubt;
        Ok::<Times, Error>(dates.times)
    };
    reading.date_column = Some(raw.name.clone());
    match raw.cells {
        Cells::Times { micros, utc } => {
            reading.date_format = Some("times of the file format".into());
            Ok(Times { column: raw.name, micros, utc })
        }
        Cells::Texts(texts) => of_texts(&texts, reading),
        Cells::Numbers(values) => of_texts(&values.iter().map(f64::to_string).collect::<Vec<_>>(), reading),
        Cells::Other { row, found } => Err(Error::NoDate {
            file: file.into(),
            column: raw.name,
            row,
            found: date::shorten(&found),
            expected: "2016-07-01 13:00:00".into(),
            outside: false,
        }),
    }
}
